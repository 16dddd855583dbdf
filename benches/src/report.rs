//! Rows, as JSON lines or as a table.

use actorflow::{Error, Result};
use serde::Serialize;

use crate::tell;

/// One figure.
#[derive(Serialize)]
struct Row<'a> {
    bench: &'a str,
    peer: &'static str,
    version: &'static str,
    threads: usize,
    value: f64,
    unit: &'a str,
    min: f64,
    max: f64,
    note: &'a str,
}

/// Where rows go.
pub(crate) struct Report {
    json: bool,
    nodes: usize,
    only: String,
    started: bool,
}

impl Report {
    /// Prints rows of benchmarks whose name contains `only`.
    pub(crate) fn new(json: bool, nodes: usize, only: String) -> Self {
        Report {
            json,
            nodes,
            only,
            started: false,
        }
    }

    /// Whether a benchmark is asked for.
    pub(crate) fn wants(&self, bench: &str) -> bool {
        bench.contains(&self.only)
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
        let round = |x: f64| format!("{x:.5e}").parse::<f64>().unwrap_or(x);
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
        if self.json {
            let line = serde_json::to_string(&row).map_err(|e| Error::internal(e.to_string()))?;
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
