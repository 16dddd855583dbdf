//! All that is known at the end, and the machine that it was measured on.

use std::collections::BTreeSet;

use actorflow::train::parallel::Strategy;
use serde::Serialize;

use super::args::Skipped;
use super::chart::Styles;
use super::measures::Row;
use super::simulate::Times;

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    /// The processor's name.
    pub(super) processor: String,
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// GiB of memory.
    pub(super) memory: f64,
    /// The system.
    pub(super) system: String,
    /// The engine's version.
    pub(super) version: &'static str,
    /// When, in UTC.
    pub(super) date: String,
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Machine {
        let kib = field("/proc/meminfo", "MemTotal").and_then(|t| t.split(' ').next()?.parse::<f64>().ok());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = time::OffsetDateTime::now_utc();
        Machine {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kib.unwrap_or(0.0) / f64::from(1 << 20),
            system: format!("{} {}", std::env::consts::OS, kernel.trim()).trim().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            date: format!("{} {:02}:{:02} UTC", now.date(), now.hour(), now.minute()),
        }
    }
}

/// The whole comparison.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    /// How to do it again.
    pub(super) command: String,
    /// processes or threads.
    pub(super) mode: &'static str,
    /// Where it was measured.
    pub(super) machine: Machine,
    /// What was the same for all, by name.
    pub(super) settings: Vec<(String, String)>,
    /// The accuracy to which the time is measured.
    pub(super) target: f64,
    /// Seconds that each step slept, in place of a device that computes.
    pub(super) compute: f64,
    /// What went wrong on purpose.
    pub(super) injection: String,
    /// Every run.
    pub(super) rows: Vec<Row>,
    /// What could not be run.
    pub(super) skipped: Vec<Skipped>,
    /// The times that simulations are made from, for each number of servers.
    pub(super) times: Vec<Times>,
    /// How strategies look in pictures.
    #[serde(skip)]
    pub(super) styles: Styles,
}

impl Results {
    /// Numbers of parameter servers; 0 alone if no strategy has any.
    pub(super) fn server_counts(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = self.rows.iter().map(|r| r.ps).filter(|ps| *ps > 0).collect();
        match all.is_empty() {
            true => vec![0],
            false => all.into_iter().collect(),
        }
    }

    /// The most workers of a measured run, and the most parameter servers.
    pub(super) fn largest(&self) -> Option<(usize, usize)> {
        let measured = self.rows.iter().filter(|row| row.is_measured());
        let workers = measured.map(|row| row.workers).max()?;
        Some((workers, self.server_counts().into_iter().max().unwrap_or(0)))
    }

    /// Whether something went wrong on purpose in some runs.
    pub(super) fn is_injected(&self) -> bool {
        !self.injection.is_empty()
    }

    /// What tasks are.
    pub(super) fn tasks_word(&self) -> &'static str {
        match self.mode {
            "threads" => "workers (threads of one process)",
            _ => "workers and parameter servers (a process each)",
        }
    }

    /// Whether more tasks ran at once than there are cores, and they computed.
    pub(super) fn is_crowded(&self) -> bool {
        let tasks = self
            .rows
            .iter()
            .filter(|r| r.is_measured())
            .map(|r| r.workers + r.ps)
            .max();
        self.compute == 0.0 && tasks.unwrap_or(0) > self.machine.cores
    }

    /// The runs that are no simulation, without anything going wrong.
    pub(super) fn clean(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|r| r.is_measured() && r.is_clean())
    }

    /// Whether a strategy's text is that of one that waits for all.
    pub(super) fn waits_for_all(row: &Row) -> bool {
        matches!(row.strategy(), Some(Strategy::Sync { backup: 0 } | Strategy::AllReduce))
    }
}
