//! Rows, as JSON lines or as a table.

use std::cell::RefCell;
use std::collections::BTreeSet;

use actorflow::{Error, Result};
use serde::Serialize;

use crate::tell;

/// One figure.
#[derive(Serialize)]
struct Row<'a> {
    bench: &'a str,
    peer: &'a str,
    version: &'a str,
    threads: usize,
    value: f64,
    unit: &'a str,
    min: f64,
    max: f64,
    note: &'a str,
}

/// A row that was measured, here or by a peer.
pub(crate) struct Measured {
    pub(crate) bench: String,
    pub(crate) unit: String,
    pub(crate) note: String,
    pub(crate) threads: usize,
    pub(crate) value: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Where rows go.
pub(crate) struct Report {
    json: bool,
    nodes: usize,
    only: String,
    started: bool,
    /// The benchmarks that there were, and whether one of them was asked for.
    asked: RefCell<(BTreeSet<String>, bool)>,
    /// Rows since they were last taken.
    rows: Vec<Measured>,
}

impl Report {
    /// Prints rows of benchmarks whose name contains `only`.
    pub(crate) fn new(json: bool, nodes: usize, only: String) -> Self {
        Report {
            json,
            nodes,
            only,
            started: false,
            asked: RefCell::default(),
            rows: Vec::new(),
        }
    }

    /// Whether a benchmark is asked for.
    pub(crate) fn wants(&self, bench: &str) -> bool {
        let wanted = bench.contains(&self.only);
        let mut asked = self.asked.borrow_mut();
        asked.1 |= wanted;
        if !self.only.is_empty() && !asked.0.contains(bench) {
            asked.0.insert(bench.to_owned());
        }
        wanted
    }

    /// A sentence about the text that benchmarks' names were to contain, if none of those that there were does.
    pub(crate) fn only_nothing(&self) -> Option<String> {
        let asked = self.asked.borrow();
        if asked.1 || self.only.is_empty() {
            return None;
        }
        let names: Vec<&str> = asked.0.iter().map(String::as_str).collect();
        Some(format!(
            "no benchmark's name contains {:?} (--only); there are {}",
            self.only,
            names.join(", ")
        ))
    }

    /// Prints the median of the samples and their extremes.
    ///
    /// # Errors
    /// As [`tell::line`].
    pub(crate) fn row(&mut self, bench: &str, threads: usize, samples: &[f64], unit: &str, note: &str) -> Result<()> {
        let mut s = samples.to_vec();
        s.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (s.first(), s.last()) else {
            return Ok(());
        };
        let row = Row {
            bench,
            peer: "actorflow",
            version: env!("CARGO_PKG_VERSION"),
            threads,
            value: round(s[s.len() / 2]),
            unit,
            min: round(*min),
            max: round(*max),
            note,
        };
        self.rows.push(Measured {
            bench: bench.to_owned(),
            unit: unit.to_owned(),
            note: note.to_owned(),
            threads,
            value: row.value,
            min: row.min,
            max: row.max,
        });
        self.print(&row)
    }

    /// The rows that were measured here since the last call.
    pub(crate) fn take(&mut self) -> Vec<Measured> {
        std::mem::take(&mut self.rows)
    }

    /// Prints what a peer has measured.
    ///
    /// # Errors
    /// As [`tell::line`].
    pub(crate) fn peer(&mut self, peer: &str, version: &str, theirs: &Measured) -> Result<()> {
        let note = match self.json {
            true => theirs.note.clone(),
            false => format!("{peer} {version}; {}", theirs.note),
        };
        self.print(&Row {
            bench: &theirs.bench,
            peer,
            version,
            threads: theirs.threads,
            value: theirs.value,
            unit: &theirs.unit,
            min: theirs.min,
            max: theirs.max,
            note: &note,
        })
    }

    /// Prints how many times as fast as a peer this is; its extremes are those of the worst and of the best window against the
    /// peer's best and worst.
    ///
    /// # Errors
    /// As [`tell::line`].
    pub(crate) fn ratio(&mut self, peer: &str, version: &str, ours: &Measured, theirs: &Measured) -> Result<()> {
        // The less time, the faster.
        let [value, min, max] = match ours.unit.starts_with("us/") {
            true => [theirs.value / ours.value, theirs.min / ours.max, theirs.max / ours.min],
            false => [ours.value / theirs.value, ours.min / theirs.max, ours.max / theirs.min],
        };
        let note = format!("as fast as {peer} {version} in {}; {}", ours.unit, ours.note);
        self.print(&Row {
            bench: &ours.bench,
            peer: &format!("actorflow/{peer}"),
            version: env!("CARGO_PKG_VERSION"),
            threads: ours.threads,
            value: round(value),
            unit: "times",
            min: round(min),
            max: round(max),
            note: &note,
        })
    }

    fn print(&mut self, row: &Row<'_>) -> Result<()> {
        if self.json {
            let line = serde_json::to_string(row).map_err(|e| Error::internal(e.to_string()))?;
            return tell::line(line);
        }
        if !std::mem::replace(&mut self.started, true) {
            tell::line(format_args!(
                "{:<28} {:>7} {:>12} {:>12} {:>12}  {:<9} note",
                "bench", "threads", "median", "min", "max", "unit"
            ))?;
        }
        tell::line(format_args!(
            "{:<28} {:>7} {:>12.5} {:>12.5} {:>12.5}  {:<9} {}",
            row.bench, row.threads, row.value, row.min, row.max, row.unit, row.note
        ))
    }

    /// Prints the most expensive nodes of a plan, if that was asked for.
    pub(crate) fn nodes(&self, costs: &[(std::sync::Arc<str>, u32)]) {
        let mut by_cost: Vec<_> = costs.iter().collect();
        by_cost.sort_by_key(|c| std::cmp::Reverse(c.1));
        let all: u64 = costs.iter().map(|c| u64::from(c.1)).sum();
        for (name, ns) in by_cost.into_iter().take(self.nodes) {
            eprintln!(
                "    {:>9.1} us {:>5.1} %  {name}",
                f64::from(*ns) / 1e3,
                100.0 * f64::from(*ns) / all.max(1) as f64
            );
        }
    }
}

/// Six digits: more are not measured.
fn round(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}
