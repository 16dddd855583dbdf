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

/// What is known of tasks, and why not of the others.
type Answers<T> = [(TaskName, String, Result<T, Error>)];

fn errors<T>(answers: &Answers<T>) -> impl Iterator<Item = (&TaskName, &Error)> {
    answers.iter().filter_map(|(t, _, a)| Some((t, a.as_ref().err()?)))
}

/// The tasks that have not answered, for programs.
fn unreachable<T>(answers: &Answers<T>) -> Vec<Value> {
    errors(answers)
        .map(|(t, e)| json!({ "task": t.to_string(), "error": e.to_string() }))
        .collect()
}

/// Tells people which tasks have not answered; the exit code says so, too.
fn complain<T>(answers: &Answers<T>) -> Result<(), Failure> {
    for (task, e) in errors(answers) {
        eprintln!("{task}: {}", e.message());
    }
    if errors(answers).next().is_some() {
        return Err(Failure::Reported);
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
    }
    complain(&answers)
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
            units::human(memory_used(s)),
            s.version.clone(),
            s.epoch.to_string(),
            s.incarnation.to_string(),
        ],
        Err(_) => vec![name, addr, "down".to_owned()],
    }
}

fn memory_used(s: &TaskStatus) -> u64 {
    s.devices.iter().map(|d| d.used).sum()
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
            "incarnation": s.incarnation.to_string(),
            "memory_used": memory_used(s),
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
        print_json(&json!({ "devices": devices, "unreachable": unreachable(&answers) }))?;
        return complain(&answers);
    }
    let rows: Vec<Vec<String>> = known()
        .map(|d| {
            let budget = budget(d.memory).map_or_else(|| "no limit".to_owned(), units::human);
            vec![d.name.clone(), units::human(d.used), budget, d.threads.to_string()]
        })
        .collect();
    table(&["DEVICE", "USED", "BUDGET", "THREADS"], &rows)?;
    complain(&answers)
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
        let Ok((steps, count)) = answer else { continue };
        found.extend(steps.iter().map(|s| (task, s)));
        let listed = steps.len() as u64;
        if *count > listed {
            eprintln!("{task}: {count} steps are in progress, the oldest {listed} of them are listed");
        }
    }
    if args.json {
        let steps: Vec<Value> = found
            .iter()
            .map(|(t, s)| {
                json!({
                    "task": t.to_string(), "step": s.step.to_string(), "age_seconds": s.age.as_secs_f64(),
                    "waiting": s.waiting, "waits_for": s.waits_for,
                })
            })
            .collect();
        print_json(&json!({ "steps": steps, "unreachable": unreachable(&answers) }))?;
        return complain(&answers);
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
    table(&["STEP", "TASK", "AGE", "STATE", "WAITS FOR"], &rows)?;
    complain(&answers)
}

/// End a step that is in progress
#[derive(clap::Args)]
pub(super) struct CancelArgs {
    #[command(flatten)]
    target: Target,
    /// The step's number, as `actorflow cluster steps` shows it
    #[arg(value_parser = step_number)]
    step: u64,
    /// What the step's owner is told
    #[arg(long, value_name = "TEXT", default_value = "an operator cancelled it")]
    why: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A step's number, bare or as the text that it is in JSON.
fn step_number(text: &str) -> Result<u64, String> {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner
        .unwrap_or(text)
        .parse()
        .map_err(|_| "write a step's number, as `actorflow cluster steps` shows it".to_owned())
}

/// Ends a step.
pub(super) fn cancel(args: &CancelArgs) -> Result<(), Failure> {
    let info = args.target.connect()?;
    let answers = ask_all(&info, |t| info.cancel(t, args.step, &args.why));
    let cancelled = answers.iter().any(|(_, _, a)| a.is_ok());
    if args.json {
        let by = answers.iter().filter(|(_, _, a)| a.is_ok());
        print_json(&json!({
            "step": args.step.to_string(),
            "cancelled": cancelled,
            "tasks": by.map(|(t, ..)| t.to_string()).collect::<Vec<_>>(),
            "errors": unreachable(&answers),
        }))?;
        return if cancelled { Ok(()) } else { Err(Failure::Reported) };
    }
    if cancelled {
        writeln!(std::io::stdout().lock(), "step {} is cancelled", args.step)?;
        return Ok(());
    }
    let reasons: Vec<String> = errors(&answers).map(|(t, e)| format!("{t}: {}", e.message())).collect();
    Err(Failure::Failed(format!(
        "step {} was not cancelled: {}",
        args.step,
        reasons.join("; ")
    )))
}

/// Forget the variables, queues and the like of a running cluster
///
/// Every task is asked, whatever another one says; the exit code is 1 if one does not answer, or if none has a container
/// that is named.
#[derive(clap::Args)]
pub(super) struct ResetArgs {
    #[command(flatten)]
    target: Target,
    /// The containers to forget ("" is the one without a name); all, if none is named
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Forgets.
pub(super) fn reset(args: &ResetArgs) -> Result<(), Failure> {
    let info = args.target.connect()?;
    let names: Vec<&str> = args.containers.iter().map(String::as_str).collect();
    let answers = ask_all(&info, |t| info.reset_task(t, &names));
    let done = || answers.iter().filter_map(|(t, _, a)| Some((t, a.as_ref().ok()?)));
    let has = |name: &str| done().any(|(_, forgotten)| forgotten.iter().any(|f| f == name));
    let unknown: Vec<&str> = names.iter().copied().filter(|n| !has(n)).collect();
    if args.json {
        let tasks: Vec<Value> = done()
            .map(|(t, forgotten)| json!({ "task": t.to_string(), "forgotten": forgotten }))
            .collect();
        print_json(&json!({ "tasks": tasks, "unknown": unknown, "unreachable": unreachable(&answers) }))?;
    } else {
        let rows: Vec<Vec<String>> = done()
            .map(|(t, forgotten)| {
                let quoted: Vec<String> = forgotten.iter().map(|f| format!("{f:?}")).collect();
                let quoted = if quoted.is_empty() {
                    "nothing".to_owned()
                } else {
                    quoted.join(", ")
                };
                vec![t.to_string(), quoted]
            })
            .collect();
        table(&["TASK", "FORGOTTEN"], &rows)?;
    }
    for name in &unknown {
        eprintln!("no task that answers has a container {name:?}");
    }
    complain(&answers)?;
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_named_by_its_number_or_by_its_text_in_json() {
        assert_eq!(step_number("3602649706397696002"), Ok(3_602_649_706_397_696_002));
        assert_eq!(step_number("\"3602649706397696002\""), Ok(3_602_649_706_397_696_002));
        for wrong in ["", "\"", "\"7", "-1", "3.6e18"] {
            assert!(step_number(wrong).is_err(), "{wrong}");
        }
    }
}
