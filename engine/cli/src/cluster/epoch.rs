//! `actorflow cluster epoch`: fences off everything that began before.

use std::io::Write;

use actorflow::Error;
use serde_json::{Value, json};

use super::look::{Target, ask_all, print_json, table};
use crate::failure::Failure;

/// Show the epoch of a running cluster, or raise it: what began before is over
///
/// Every message carries its sender's epoch, and what comes of an earlier one is dropped. When an operator raises it, steps in
/// progress end with ABORTED, and sessions that clients have made before do nothing any more: whoever was cut off, paused or
/// forgotten cannot change anything when it comes back. Sessions in tasks that were told go on; variables stay. Tasks keep the
/// epoch across restarts. One that was not reached stays outside until it is told (--at-least, or `actorflow daemon
/// --epoch`); the exit code is 1 as long as there is one.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    /// Go to the epoch after the latest that any task is in
    #[arg(long, conflicts_with = "at_least")]
    raise: bool,
    /// Tell every task that is in an earlier epoch to go to this one
    #[arg(long, value_name = "EPOCH")]
    at_least: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows or raises the epoch.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.at_least == Some(0) {
        return Err(Failure::Usage("--at-least: the first epoch is 1".into()));
    }
    let info = args.target.connect()?;
    let mut answers = ask_all(&info, |t| Ok(info.task(t)?.epoch));
    let latest = answers.iter().filter_map(|(_, _, a)| a.as_ref().ok()).max().copied();
    let latest = latest.unwrap_or(0);
    let wanted = match (args.raise, args.at_least) {
        (true, _) => {
            let next = latest.checked_add(1);
            Some(next.ok_or_else(|| Failure::Failed(format!("there is no epoch after {latest}")))?)
        }
        (false, Some(epoch)) if epoch < latest => {
            return Err(Failure::Failed(format!(
                "the cluster is in epoch {latest} already, which nothing lowers; give --at-least {latest} for tasks that are behind, \
                 or --raise"
            )));
        }
        (false, wanted) => wanted,
    };
    if let Some(epoch) = wanted {
        answers = ask_all(&info, |t| info.raise_epoch(t, epoch));
    }
    let epoch = wanted.unwrap_or(latest);
    let inside = |a: &Result<u64, Error>| a.as_ref().is_ok_and(|e| *e >= epoch);
    if args.json {
        let tasks = answers.iter().map(|(task, _, a)| match a {
            Ok(e) => json!({ "task": task.to_string(), "epoch": e, "behind": *e < epoch }),
            Err(e) => json!({ "task": task.to_string(), "epoch": null, "error": e.to_string() }),
        });
        let tasks: Vec<Value> = tasks.collect();
        print_json(&json!({ "epoch": epoch, "tasks": tasks }))?;
    } else {
        let rows: Vec<Vec<String>> = answers
            .iter()
            .map(|(task, _, a)| match a {
                Ok(e) if *e < epoch => vec![task.to_string(), e.to_string(), "behind".to_owned()],
                Ok(e) => vec![task.to_string(), e.to_string(), String::new()],
                Err(_) => vec![task.to_string(), "?".to_owned(), "not reached".to_owned()],
            })
            .collect();
        table(&["TASK", "EPOCH", "STATE"], &rows)?;
    }
    for (task, _, answer) in &answers {
        if let Err(e) = answer {
            eprintln!("{task}: {}", e.message());
        }
    }
    let outside: Vec<String> = answers
        .iter()
        .filter(|(_, _, a)| !inside(a))
        .map(|(t, _, _)| t.to_string())
        .collect();
    if outside.is_empty() {
        return Ok(());
    }
    std::io::stdout().flush()?;
    Err(Failure::Failed(format!(
        "not in epoch {epoch}, and so outside of the cluster: {}; when they can be reached: actorflow cluster epoch {} \
         --at-least {epoch}",
        outside.join(", "),
        args.target.addr()
    )))
}
