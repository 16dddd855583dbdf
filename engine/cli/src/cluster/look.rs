//! The commands that look at a running cluster, by the address of any of its tasks.

use std::io::Write;
use std::path::PathBuf;

use actorflow::Error;
use actorflow::cluster::{ClusterInfo, ConnectOptions, StepStatus, TaskName, TaskStatus};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::{home, units};

/// The cluster to look at.
#[derive(clap::Args)]
pub(super) struct Target {
    /// The address of any task: host:port
    #[arg(value_name = "TARGET")]
    target: String,
    /// The folder with a client's or chief's identity [default: the only one in ~/.actorflow]
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// How long a task may take to answer
    #[arg(long, value_name = "TIME", default_value = "5s")]
    timeout: String,
}

impl Target {
    /// As it was given.
    pub(super) fn addr(&self) -> &str {
        &self.target
    }

    pub(super) fn connect(&self) -> Result<ClusterInfo, Failure> {
        let timeout = units::time(&self.timeout).map_err(|e| Failure::Usage(format!("--timeout: {e}")))?;
        let mut options = ConnectOptions::new(home::caller(self.identity.as_deref())?);
        options.connect_timeout = timeout;
        Ok(ClusterInfo::connect(&self.target, &options)?)
    }
}

/// Asks every task at the same time.
pub(super) fn ask_all<T: Send>(
    info: &ClusterInfo,
    ask: impl Fn(&TaskName) -> Result<T, Error> + Sync,
) -> Vec<(TaskName, String, Result<T, Error>)> {
    let tasks: Vec<(TaskName, String)> = info.spec().tasks().map(|(t, a)| (t, a.to_owned())).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = tasks
            .into_iter()
            .map(|(task, addr)| {
                let (ask, of) = (&ask, task.clone());
                (task, addr, scope.spawn(move || ask(&of)))
            })
            .collect();
        asked
            .into_iter()
            .map(|(task, addr, answer)| {
                let answer = answer
                    .join()
                    .unwrap_or_else(|_| Err(Error::internal("the question panicked")));
                (task, addr, answer)
            })
            .collect()
    })
}

/// Prints rows under a heading, each column as wide as its widest cell.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.len()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", line(heading.to_vec()))?;
    for row in rows {
        writeln!(out, "{}", line(row.iter().map(String::as_str).collect()))?;
    }
    Ok(())
}

pub(super) fn print_json(value: &Value) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{value}")?;
    Ok(())
}

/// A budget of all that can be counted is none.
fn budget(memory: u64) -> Option<u64> {
    usize::try_from(memory).is_ok_and(|m| m < usize::MAX).then_some(memory)
}

/// Show the tasks of a running cluster
#[derive(clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the tasks.
pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let info = args.target.connect()?;
    let answers = ask_all(&info, |t| {
        let status = info.task(t)?;
        // Who may not submit graphs may not see the steps either.
        Ok((status, info.steps_of_all(t).ok().map(|(_, count)| count)))
    });
    let down = answers.iter().any(|(_, _, a)| a.is_err());
    if args.json {
        let tasks: Vec<Value> = answers.iter().map(|(t, addr, a)| status_json(t, addr, a)).collect();
        print_json(&json!({ "tasks": tasks }))?;
    } else {
        let rows: Vec<Vec<String>> = answers.iter().map(|(t, addr, a)| status_row(t, addr, a)).collect();
        table(
            &[
                "TASK",
                "ADDRESS",
                "STATE",
                "UPTIME",
                "STEPS",
                "DEVICES",
                "MEMORY",
                "VERSION",
                "EPOCH",
                "INCARNATION",
            ],
            &rows,
        )?;
        for (task, _, answer) in &answers {
            if let Err(e) = answer {
                eprintln!("{task}: {}", e.message());
            }
        }
    }
    if down { Err(Failure::Reported) } else { Ok(()) }
}

type Answered = Result<(TaskStatus, Option<u64>), Error>;

fn status_row(task: &TaskName, addr: &str, answer: &Answered) -> Vec<String> {
    let (name, addr) = (task.to_string(), addr.to_owned());
    match answer {
        Ok((s, steps)) => vec![
            name,
            addr,
            "up".to_owned(),
            units::human_time(s.uptime),
            steps.map_or_else(|| "?".to_owned(), |n| n.to_string()),
            s.devices.len().to_string(),
            units::human(s.devices.iter().map(|d| d.used).sum()),
            s.version.clone(),
            s.epoch.to_string(),
            s.incarnation.to_string(),
        ],
        Err(_) => vec![name, addr, "down".to_owned()],
    }
}

fn status_json(task: &TaskName, addr: &str, answer: &Answered) -> Value {
    match answer {
        Ok((s, steps)) => json!({
            "task": task.to_string(),
            "address": addr,
            "up": true,
            "uptime_seconds": s.uptime.as_secs(),
            "steps": steps,
            "version": s.version,
            "epoch": s.epoch,
            "incarnation": s.incarnation,
            "devices": s.devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
        }),
        Err(e) => json!({ "task": task.to_string(), "address": addr, "up": false, "error": e.to_string() }),
    }
}

/// Show the devices of a running cluster
#[derive(clap::Args)]
pub(super) struct DevicesArgs {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the devices.
pub(super) fn devices(args: &DevicesArgs) -> Result<(), Failure> {
    let info = args.target.connect()?;
    let answers = ask_all(&info, |t| info.task(t));
    let known = || {
        answers
            .iter()
            .filter_map(|(_, _, a)| a.as_ref().ok())
            .flat_map(|s| &s.devices)
    };
    if args.json {
        let devices: Vec<Value> = known()
            .map(|d| json!({ "name": d.name, "used": d.used, "budget": budget(d.memory), "threads": d.threads }))
            .collect();
        return print_json(&json!({ "devices": devices }));
    }
    let rows: Vec<Vec<String>> = known()
        .map(|d| {
            let budget = budget(d.memory).map_or_else(|| "no limit".to_owned(), units::human);
            vec![d.name.clone(), units::human(d.used), budget, d.threads.to_string()]
        })
        .collect();
    table(&["DEVICE", "USED", "BUDGET", "THREADS"], &rows)?;
    for (task, _, answer) in &answers {
        if let Err(e) = answer {
            eprintln!("{task}: {}", e.message());
        }
    }
    Ok(())
}

/// Show the steps in progress in a running cluster
#[derive(clap::Args)]
pub(super) struct StepsArgs {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the steps.
pub(super) fn steps(args: &StepsArgs) -> Result<(), Failure> {
    let info = args.target.connect()?;
    let answers = ask_all(&info, |t| info.steps_of_all(t));
    let mut found: Vec<(&TaskName, &StepStatus)> = Vec::new();
    for (task, _, answer) in &answers {
        match answer {
            Ok((steps, count)) => {
                found.extend(steps.iter().map(|s| (task, s)));
                let listed = steps.len() as u64;
                if *count > listed {
                    eprintln!("{task}: {count} steps are in progress, the oldest {listed} of them are listed");
                }
            }
            Err(e) => eprintln!("{task}: {}", e.message()),
        }
    }
    if args.json {
        let steps: Vec<Value> = found
            .iter()
            .map(|(t, s)| {
                json!({
                    "task": t.to_string(), "step": s.step, "age_seconds": s.age.as_secs_f64(),
                    "waiting": s.waiting, "waits_for": s.waits_for,
                })
            })
            .collect();
        return print_json(&json!({ "steps": steps }));
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(t, s)| {
            let state = if s.waiting { "waits" } else { "runs" };
            vec![
                s.step.to_string(),
                t.to_string(),
                units::human_time(s.age),
                state.to_owned(),
                s.waits_for.clone(),
            ]
        })
        .collect();
    table(&["STEP", "TASK", "AGE", "STATE", "WAITS FOR"], &rows)
}

/// End a step that is in progress
#[derive(clap::Args)]
pub(super) struct CancelArgs {
    #[command(flatten)]
    target: Target,
    /// The step's number, as `actorflow cluster steps` shows it
    step: u64,
    /// What the step's owner is told
    #[arg(long, value_name = "TEXT", default_value = "an operator cancelled it")]
    why: String,
}

/// Ends a step.
pub(super) fn cancel(args: &CancelArgs) -> Result<(), Failure> {
    let info = args.target.connect()?;
    let answers = ask_all(&info, |t| info.cancel(t, args.step, &args.why));
    if answers.iter().any(|(_, _, a)| a.is_ok()) {
        writeln!(std::io::stdout().lock(), "step {} is cancelled", args.step)?;
        return Ok(());
    }
    let reasons: Vec<String> = answers
        .iter()
        .filter_map(|(t, _, a)| Some(format!("{t}: {}", a.as_ref().err()?.message())))
        .collect();
    Err(Failure::Failed(format!(
        "step {} was not cancelled: {}",
        args.step,
        reasons.join("; ")
    )))
}

/// Forget the variables, queues and the like of a running cluster
#[derive(clap::Args)]
pub(super) struct ResetArgs {
    #[command(flatten)]
    target: Target,
    /// The containers to forget; all, if none is named
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Forgets.
pub(super) fn reset(args: &ResetArgs) -> Result<(), Failure> {
    let info = args.target.connect()?;
    let names: Vec<&str> = args.containers.iter().map(String::as_str).collect();
    info.reset(&names)?;
    let what = if names.is_empty() {
        "all containers".to_owned()
    } else {
        names.join(", ")
    };
    writeln!(
        std::io::stdout().lock(),
        "{what}: forgotten by {} tasks",
        info.spec().tasks().count()
    )?;
    Ok(())
}
