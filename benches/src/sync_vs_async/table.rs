//! The results as tables: Markdown that is aligned, and comma-separated values.

use actorflow::{Error, Result};

use super::advice::bytes;
use super::chart::{percent, short, time};
use super::measures::Row;
use super::repeats::range;
use super::results::Results;

/// A table: what is in its head, and its rows.
pub(super) struct Table {
    /// Names of columns, with whether they are numbers.
    pub(super) head: Vec<(String, bool)>,
    /// Their cells.
    pub(super) rows: Vec<Vec<String>>,
}

/// The middle of several runs, with the least and the most where they are not the same.
fn with_range(middle: String, runs: &[f64], text: impl Fn(f64) -> String) -> String {
    match range(runs).map(|(low, high)| (text(low), text(high))) {
        Some((low, high)) if low != high => format!("{middle} ({low}–{high})"),
        _ => middle,
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

/// What was measured, a run a row.
pub(super) fn measured(r: &Results) -> Table {
    let several = r.server_counts().len() > 1;
    let mut head: Vec<(&str, bool)> = vec![("workers", true)];
    if several {
        head.push(("ps", true));
    }
    head.push(("strategy", false));
    if r.is_injected() {
        head.push(("goes wrong", false));
    }
    head.extend([
        ("examples/s", true),
        ("updates/s", true),
        ("time to target", true),
        ("accuracy", true),
        ("train loss", true),
        ("staleness", true),
        ("waiting", true),
        ("late", true),
        ("sent/update", true),
    ]);
    if r.is_injected() {
        head.extend([("others vs clean", true), ("longest gap", true)]);
    }
    let row = |row: &Row| {
        let mut cells = vec![row.workers.to_string()];
        if several {
            cells.push(if row.ps == 0 {
                "–".to_owned()
            } else {
                row.ps.to_string()
            });
        }
        cells.push(row.strategy.clone());
        if r.is_injected() {
            cells.push(if row.is_clean() {
                "–".to_owned()
            } else {
                row.injected.clone()
            });
        }
        let repeats = &row.repeats;
        let mut target = match row.seconds_to_target {
            Some(t) => with_range(time(t), &repeats.seconds_to_target, time),
            None => or_dash(None),
        };
        if repeats.reached > 0 && repeats.reached < repeats.runs {
            target += &format!(", {} of {}", repeats.reached, repeats.runs);
        }
        if !row.errors.is_empty() {
            target = "failed".to_owned();
        }
        let accuracy = |a: f64| format!("{a:.4}");
        cells.extend([
            with_range(short(row.examples_per_second), &repeats.examples_per_second, short),
            short(row.updates_per_second),
            target,
            or_dash(
                row.test_accuracy
                    .map(|a| with_range(accuracy(a), &repeats.test_accuracy, accuracy)),
            ),
            or_dash(row.train_loss.map(|l| format!("{l:.4}"))),
            format!("{:.1}", row.mean_staleness),
            percent(row.waiting),
            percent(row.late as f64 / row.pushes.max(1) as f64),
            or_dash(row.bytes_per_update.map(bytes)),
        ]);
        if r.is_injected() {
            cells.push(or_dash(row.others_of_clean.map(percent)));
            cells.push(or_dash(row.others_longest_gap_seconds.map(time)));
        }
        cells
    };
    Table {
        head: head
            .into_iter()
            .map(|(name, number)| (name.to_owned(), number))
            .collect(),
        rows: r.rows.iter().filter(|x| x.is_measured()).map(row).collect(),
    }
}

/// What was simulated: examples a second, a number of workers a row.
pub(super) fn simulated(r: &Results, ps: usize) -> Option<Table> {
    let rows: Vec<&Row> = r
        .rows
        .iter()
        .filter(|x| !x.is_measured() && x.is_clean() && (x.ps == ps || x.ps == 0))
        .collect();
    let mut counts: Vec<usize> = rows.iter().map(|x| x.workers).collect();
    counts.sort_unstable();
    counts.dedup();
    if counts.is_empty() {
        return None;
    }
    let names: Vec<&str> = r.styles.names().collect();
    let cell = |n: usize, name: &str| {
        let found = rows.iter().find(|x| x.workers == n && x.strategy == name);
        or_dash(found.map(|x| short(x.examples_per_second)))
    };
    let mut table = Table {
        head: vec![("workers".to_owned(), true)],
        rows: Vec::new(),
    };
    table.head.extend(names.iter().map(|n| ((*n).to_owned(), true)));
    for n in counts {
        let mut cells = vec![n.to_string()];
        cells.extend(names.iter().map(|name| cell(n, name)));
        table.rows.push(cells);
    }
    Some(table)
}

impl Table {
    /// As Markdown whose columns are aligned.
    pub(super) fn markdown(&self) -> String {
        let mut all = vec![self.head.iter().map(|h| h.0.clone()).collect::<Vec<_>>()];
        all.extend(self.rows.iter().cloned());
        let columns = all.iter().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| {
            all.iter()
                .filter_map(|r| r.get(i))
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let number = |i: usize| self.head.get(i).is_none_or(|h| h.1);
        let mut text = String::new();
        for (k, row) in all.iter().enumerate() {
            for (i, w) in widths.iter().enumerate() {
                let cell = row.get(i).map_or("", String::as_str);
                text += &match number(i) {
                    true => format!("| {cell:>w$} "),
                    false => format!("| {cell:<w$} "),
                };
            }
            text += "|\n";
            if k == 0 {
                for (i, w) in widths.iter().enumerate() {
                    let dashes = "-".repeat(w + 1);
                    text += &match number(i) {
                        true => format!("|{dashes}:"),
                        false => format!("|:{dashes}"),
                    };
                }
                text += "|\n";
            }
        }
        text
    }
}

/// The columns of comma-separated values; times are seconds.
const COLUMNS: [(&str, fn(&Row) -> String); 36] = [
    ("strategy", |r| r.strategy.clone()),
    ("workers", |r| r.workers.to_string()),
    ("ps", |r| r.ps.to_string()),
    ("source", |r| {
        if r.is_measured() { "measured" } else { "simulated" }.to_owned()
    }),
    ("injected", |r| r.injected.clone()),
    ("errors", |r| r.errors.join("; ")),
    ("seconds", |r| r.seconds.to_string()),
    ("updates", |r| r.updates.to_string()),
    ("pushes", |r| r.pushes.to_string()),
    ("late", |r| r.late.to_string()),
    ("updates_per_second", |r| r.updates_per_second.to_string()),
    ("examples_per_second", |r| r.examples_per_second.to_string()),
    ("seconds_to_target", |r| or_empty(r.seconds_to_target)),
    ("examples_to_target", |r| or_empty(r.examples_to_target)),
    ("test_accuracy", |r| or_empty(r.test_accuracy)),
    ("test_loss", |r| or_empty(r.test_loss)),
    ("train_loss", |r| or_empty(r.train_loss)),
    ("mean_staleness", |r| r.mean_staleness.to_string()),
    ("bytes", |r| or_empty(r.bytes)),
    ("bytes_per_update", |r| or_empty(r.bytes_per_update)),
    ("waiting", |r| r.waiting.to_string()),
    ("median_compute_seconds", |r| r.median_compute_seconds.to_string()),
    ("median_wait_seconds", |r| or_empty(r.median_wait_seconds)),
    ("server_seconds_per_push", |r| or_empty(r.server_seconds_per_push)),
    ("others_steps_per_second", |r| r.others_steps_per_second.to_string()),
    ("others_of_clean", |r| or_empty(r.others_of_clean)),
    ("others_longest_gap_seconds", |r| or_empty(r.others_longest_gap_seconds)),
    ("others_median_step_seconds", |r| or_empty(r.others_median_step_seconds)),
    ("runs", |r| r.repeats.runs.to_string()),
    ("runs_at_target", |r| r.repeats.reached.to_string()),
    ("examples_per_second_least", |r| {
        end(&r.repeats.examples_per_second, false)
    }),
    ("examples_per_second_most", |r| {
        end(&r.repeats.examples_per_second, true)
    }),
    ("seconds_to_target_least", |r| end(&r.repeats.seconds_to_target, false)),
    ("seconds_to_target_most", |r| end(&r.repeats.seconds_to_target, true)),
    ("test_accuracy_least", |r| end(&r.repeats.test_accuracy, false)),
    ("test_accuracy_most", |r| end(&r.repeats.test_accuracy, true)),
];

/// The most of several runs, or the least; nothing of one run.
fn end(runs: &[f64], most: bool) -> String {
    or_empty(range(runs).map(|(low, high)| if most { high } else { low }))
}

fn or_empty<T: ToString>(x: Option<T>) -> String {
    x.map_or(String::new(), |x| x.to_string())
}

/// Every row as comma-separated values.
///
/// # Errors
/// None that memory does not cause.
pub(super) fn csv(r: &Results) -> Result<String> {
    let bad = |e: &dyn std::fmt::Display| Error::internal(format!("results.csv: {e}"));
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(COLUMNS.iter().map(|c| c.0)).map_err(|e| bad(&e))?;
    for row in &r.rows {
        out.write_record(COLUMNS.iter().map(|c| c.1(row)))
            .map_err(|e| bad(&e))?;
    }
    let bytes = out.into_inner().map_err(|e| bad(&e))?;
    String::from_utf8(bytes).map_err(|e| bad(&e))
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_aligned_and_numbers_are_to_the_right() {
        let t = Table {
            head: vec![("n".into(), true), ("name".into(), false)],
            rows: vec![vec!["10".into(), "a".into()], vec!["2".into(), "ssp3 µ".into()]],
        };
        let text = t.markdown();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "|   n | name   |");
        assert_eq!(lines[1], "|----:|:-------|");
        assert_eq!(lines[3], "|   2 | ssp3 µ |");
    }
}
