//! From what is known of a run to what is said about it.

use actorflow::train::parallel::Strategy;
use serde::Serialize;

use super::args::Case;
use super::inject::Injection;
use super::repeats::Repeats;
use super::setup::{Death, Mark, Point, Raw, Setup, pushes_per_update};

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// It was run.
    Measured,
    /// It was computed by a model of a run.
    Simulated,
}

/// A step in a picture of workers over time; seconds from the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Bar {
    /// When it began to compute.
    pub(super) begin: f64,
    /// When its gradients were there.
    pub(super) ready: f64,
    /// When it had new values.
    pub(super) end: f64,
    /// Whether its gradients counted.
    pub(super) applied: bool,
}

/// A part of a run, as each worker spent it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Timeline {
    /// Where it begins, in seconds from the start.
    pub(super) from: f64,
    /// Where it ends.
    pub(super) to: f64,
    /// The steps of each worker that lie in it.
    pub(super) workers: Vec<Vec<Bar>>,
}

/// What a worker did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct WorkerRow {
    /// Whether something went wrong with it on purpose.
    pub(super) injected: bool,
    /// Steps that it made.
    pub(super) steps: usize,
    /// Those whose gradients counted.
    pub(super) applied: usize,
    /// Steps a second.
    pub(super) steps_per_second: f64,
    /// Seconds that it computed, sleep in place of computing included.
    pub(super) computing_seconds: f64,
    /// Seconds from its gradients to new values: network, servers, other workers.
    pub(super) waiting_seconds: f64,
    /// Half of its steps took less than so many seconds.
    pub(super) median_step_seconds: f64,
    /// The longest time from one of its updates to the next, in seconds.
    pub(super) longest_gap_seconds: f64,
}

/// What is said about a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    /// How workers agreed.
    pub(super) strategy: String,
    /// How many workers.
    pub(super) workers: usize,
    /// How many parameter servers.
    pub(super) ps: usize,
    /// Whether it was run.
    pub(super) source: Source,
    /// What went wrong on purpose; empty if nothing did.
    pub(super) injected: String,
    /// Why workers ended before their time.
    pub(super) errors: Vec<String>,
    /// Seconds until the budget was spent.
    pub(super) seconds: f64,
    /// Updates of the model (global steps).
    pub(super) updates: u64,
    /// Steps of workers.
    pub(super) pushes: u64,
    /// Steps of workers whose gradients came too late to count.
    pub(super) late: u64,
    /// Updates a second.
    pub(super) updates_per_second: f64,
    /// Examples a second, of those that count.
    pub(super) examples_per_second: f64,
    /// Seconds until the target was reached.
    pub(super) seconds_to_target: Option<f64>,
    /// Examples until then.
    pub(super) examples_to_target: Option<u64>,
    /// Accuracy on the test rows, at the end.
    pub(super) test_accuracy: Option<f64>,
    /// Mean cross-entropy on the test rows, at the end.
    pub(super) test_loss: Option<f64>,
    /// Mean cross-entropy on the training rows, at the end.
    pub(super) train_loss: Option<f64>,
    /// Pushes that were applied when they were 0, 1, 2 … updates old.
    pub(super) staleness: Vec<u64>,
    /// Their mean age.
    pub(super) mean_staleness: f64,
    /// Bytes that all processes sent.
    pub(super) bytes: Option<u64>,
    /// The same for each update.
    pub(super) bytes_per_update: Option<f64>,
    /// The share of their time that workers waited, on average.
    pub(super) waiting: f64,
    /// Half of the steps computed for less than so many seconds.
    pub(super) median_compute_seconds: f64,
    /// Half of the steps waited for less than so many seconds.
    pub(super) median_wait_seconds: Option<f64>,
    /// Processor time of a parameter server for each push, in seconds.
    pub(super) server_seconds_per_push: Option<f64>,
    /// Steps a second of all workers with which nothing goes wrong when something does.
    pub(super) others_steps_per_second: f64,
    /// The same, as a share of what those workers do in the clean run.
    pub(super) others_of_clean: Option<f64>,
    /// The longest gap of those workers, in seconds.
    pub(super) others_longest_gap_seconds: Option<f64>,
    /// Half of the steps of those workers took less than so many seconds.
    pub(super) others_median_step_seconds: Option<f64>,
    /// What each worker did.
    pub(super) per_worker: Vec<WorkerRow>,
    /// The model over time.
    pub(super) curve: Vec<Point>,
    /// A part of the run.
    pub(super) timeline: Timeline,
    /// Who was killed.
    pub(super) deaths: Vec<Death>,
    /// What several runs of the case made of it.
    pub(super) repeats: Repeats,
}

/// The middle of numbers; 0 if there are none.
pub(super) fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x.get(x.len() / 2).copied().unwrap_or(0.0)
}

fn seconds(us: u64) -> f64 {
    us as f64 * 1e-6
}

/// The mean age of a histogram of ages.
pub(super) fn mean_age(counts: &[u64]) -> f64 {
    let all: u64 = counts.iter().sum();
    let sum: f64 = counts.iter().enumerate().map(|(age, n)| age as f64 * *n as f64).sum();
    sum / all.max(1) as f64
}

fn worker(marks: &[Mark], injected: bool, until: u64, finished: bool) -> WorkerRow {
    let marks: Vec<&Mark> = marks.iter().filter(|m| m.end <= until).collect();
    // Whoever waited in vain waited until the end.
    let last = (!finished).then(|| seconds(until - marks.last().map_or(0, |m| m.end)));
    let gaps = marks.windows(2).map(|w| seconds(w[1].end - w[0].end)).chain(last);
    WorkerRow {
        injected,
        steps: marks.len(),
        applied: marks.iter().filter(|m| m.applied).count(),
        steps_per_second: marks.len() as f64 / seconds(until).max(1e-9),
        computing_seconds: marks.iter().map(|m| seconds(m.ready - m.begin)).sum(),
        waiting_seconds: marks.iter().map(|m| seconds(m.end - m.ready)).sum(),
        median_step_seconds: median(marks.iter().map(|m| seconds(m.end - m.begin)).collect()),
        longest_gap_seconds: gaps.fold(0.0, f64::max),
    }
}

/// Steps of all workers in a picture, at most.
const BARS: usize = 1500;

/// Some steps around what went wrong, or of the middle.
fn timeline(raw: &Raw, until: f64) -> Timeline {
    let of = |marks: &Vec<Mark>| median(marks.iter().map(|m| seconds(m.end - m.begin)).collect());
    let each: Vec<f64> = raw.marks.iter().filter(|m| !m.is_empty()).map(of).collect();
    let slowest = each.iter().copied().fold(0.0, f64::max);
    let usual = median(each);
    let mut length = (14.0 * usual).max(2.2 * slowest);
    let mut middle = until / 2.0;
    if let Some(d) = raw.deaths.first() {
        let back = d.back.unwrap_or(d.at);
        middle = (d.at + back) / 2.0;
        length = length.max((back - d.at) * 1.2 + 8.0 * usual);
    }
    let from = (middle - length / 2.0).clamp(0.0, (until - length).max(0.0));
    let mut to = (from + length).min(until);
    let bars = |to: f64| -> Vec<Vec<Bar>> {
        let bar = |m: &Mark| Bar {
            begin: seconds(m.begin),
            ready: seconds(m.ready),
            end: seconds(m.end),
            applied: m.applied,
        };
        let all = raw.marks.iter().map(|marks| {
            let bars = marks.iter().map(bar).filter(|b| b.end >= from && b.begin <= to);
            bars.collect()
        });
        all.collect()
    };
    let mut workers = bars(to);
    while workers.iter().map(Vec::len).sum::<usize>() > BARS {
        to = from + (to - from) * 0.8;
        workers = bars(to);
    }
    Timeline { from, to, workers }
}

/// Who of a case's workers something goes wrong with when it does; of a clean run, in its counterpart.
fn named(injection: &Injection, workers: usize) -> Vec<bool> {
    let named = injection.workers();
    (0..workers).map(|w| named.contains(&w)).collect()
}

impl Row {
    /// What is said about a run; `injection` is what goes wrong in it or, if it is clean, in its counterpart.
    pub(super) fn measured(case: &Case, setup: &Setup, injection: &Injection, raw: Raw, target: f64) -> Row {
        let per_update = (pushes_per_update(case.strategy, case.workers) * setup.batch) as u64;
        let reached = |m: &&Mark| m.update >= setup.updates;
        let firsts = raw
            .marks
            .iter()
            .filter_map(|marks| marks.iter().find(reached))
            .map(|m| m.end);
        let last = raw.marks.iter().flatten().map(|m| m.end).max().unwrap_or(0);
        let first = firsts.min();
        let until = first.unwrap_or(last.max((raw.ended * 1e6) as u64));
        let updates = raw
            .marks
            .iter()
            .flatten()
            .map(|m| m.update)
            .max()
            .unwrap_or(0)
            .min(setup.updates);
        let mut errors = raw.errors.clone();
        if first.is_none() && errors.is_empty() {
            errors.push(format!(
                "the training ended after {updates} of {} updates, as no worker was left",
                setup.updates
            ));
        }
        let wrong = named(injection, case.workers);
        let per_worker: Vec<WorkerRow> = raw
            .marks
            .iter()
            .zip(&wrong)
            .map(|(m, w)| worker(m, *w, until, first.is_some()))
            .collect();
        let others: Vec<&WorkerRow> = per_worker.iter().filter(|w| !w.injected).collect();
        let marks = || raw.marks.iter().flatten().filter(|m| m.end <= until);
        let pushes = marks().count() as u64;
        let mut curve = raw.seen.points.clone();
        for p in &mut curve {
            p.examples = p.update * per_update;
        }
        let hit = curve.iter().find(|p| p.accuracy >= target);
        let (computing, waiting) = per_worker.iter().fold((0.0, 0.0), |(c, w), row| {
            (c + row.computing_seconds, w + row.waiting_seconds)
        });
        let servers = raw.server_cpu.len();
        let elapsed = seconds(until).max(1e-9);
        Row {
            strategy: case.strategy.to_string(),
            workers: case.workers,
            ps: case.ps,
            source: Source::Measured,
            injected: if case.injected {
                injection.to_string()
            } else {
                String::new()
            },
            errors,
            seconds: elapsed,
            updates,
            pushes,
            late: marks().filter(|m| !m.applied).count() as u64,
            updates_per_second: updates as f64 / elapsed,
            examples_per_second: (updates * per_update) as f64 / elapsed,
            seconds_to_target: hit.map(|p| p.seconds),
            examples_to_target: hit.map(|p| p.examples),
            test_accuracy: curve.last().map(|p| p.accuracy),
            test_loss: curve.last().map(|p| p.loss),
            train_loss: curve.last().map(|_| raw.seen.train_loss),
            mean_staleness: mean_age(&raw.seen.staleness),
            staleness: trimmed(&raw.seen.staleness),
            bytes: raw.bytes,
            bytes_per_update: raw.bytes.map(|b| b as f64 / updates.max(1) as f64),
            waiting: waiting / (computing + waiting).max(1e-9),
            median_compute_seconds: median(marks().map(|m| seconds(m.ready - m.begin)).collect()),
            median_wait_seconds: Some(median(marks().map(|m| seconds(m.end - m.ready)).collect())),
            server_seconds_per_push: (servers > 0 && pushes > 0)
                .then(|| raw.server_cpu.iter().sum::<f64>() / servers as f64 / pushes as f64),
            others_steps_per_second: others.iter().map(|w| w.steps_per_second).sum(),
            others_of_clean: None,
            others_longest_gap_seconds: others.iter().map(|w| w.longest_gap_seconds).reduce(f64::max),
            others_median_step_seconds: (!others.is_empty())
                .then(|| median(others.iter().map(|w| w.median_step_seconds).collect())),
            timeline: timeline(&raw, seconds(until)),
            per_worker,
            curve,
            deaths: raw.deaths,
            repeats: Repeats::default(),
        }
    }

    /// How workers agreed.
    pub(super) fn strategy(&self) -> Option<Strategy> {
        self.strategy.parse().ok()
    }

    /// Whether something went wrong in it on purpose.
    pub(super) fn is_clean(&self) -> bool {
        self.injected.is_empty()
    }

    /// Whether it was run.
    pub(super) fn is_measured(&self) -> bool {
        self.source == Source::Measured
    }

    /// The longest gap that the others may have when a worker is killed and one is in reserve: 2 median steps and a second.
    pub(super) fn gap_limit(&self) -> Option<f64> {
        self.others_median_step_seconds.map(|step| 2.0 * step + 1.0)
    }
}

/// Without the zeros at the end.
pub(super) fn trimmed(counts: &[u64]) -> Vec<u64> {
    let n = counts.iter().rposition(|n| *n > 0).map_or(0, |i| i + 1);
    counts[..n].to_vec()
}

/// Says of each run with something wrong what the others do compared with the clean run.
pub(super) fn compare_with_clean(rows: &mut [Row]) {
    for i in 0..rows.len() {
        if rows[i].is_clean() {
            continue;
        }
        let same = |r: &&Row| {
            r.is_clean()
                && r.source == rows[i].source
                && (&r.strategy, r.workers, r.ps) == (&rows[i].strategy, rows[i].workers, rows[i].ps)
        };
        let clean = rows.iter().find(same).map(|r| r.others_steps_per_second);
        rows[i].others_of_clean = clean.filter(|c| *c > 0.0).map(|c| rows[i].others_steps_per_second / c);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sync_vs_async::data::Dataset;
    use crate::sync_vs_async::network::{ModelName, Shape};
    use crate::sync_vs_async::setup::Schedule;

    /// Two synchronous workers with batches of 10, whose budget is 4 updates.
    fn row(injected: bool, marks: [&[(u64, u64, u64, u64)]; 2], ended: f64) -> Row {
        let case = Case {
            strategy: "sync".parse().unwrap(),
            workers: 2,
            ps: 1,
            injected,
        };
        let setup = Setup {
            strategy: "sync".to_owned(),
            workers: 2,
            ps: 1,
            dataset: Dataset::Synthetic,
            shape: Shape {
                model: ModelName::Softmax,
                width: 2,
                hidden: 1,
                classes: 2,
                seed: 1,
            },
            batch: 10,
            noise: 0.0,
            rate: 0.1,
            schedule: Schedule::Constant,
            momentum: 0.0,
            seed: 1,
            updates: 4,
            snapshots: 4,
            compute: 0.0,
            factors: vec![1.0; 2],
            observer: 0,
            threads: 1,
            deadline: 1.0,
        };
        let injection = Injection {
            stragglers: vec!["1@2x".parse().unwrap()],
            ..Injection::default()
        };
        let mark = |&(begin, ready, end, update): &(u64, u64, u64, u64)| Mark {
            begin: begin * 1000,
            ready: ready * 1000,
            end: end * 1000,
            update,
            applied: true,
            loss: 0.0,
        };
        let mut raw = Raw {
            marks: marks.iter().map(|m| m.iter().map(mark).collect()).collect(),
            bytes: Some(4000),
            ended,
            ..Raw::default()
        };
        raw.seen.staleness = vec![6, 2, 0];
        raw.seen.points = [0.2, 0.8, 0.95, 0.9]
            .iter()
            .zip(0..)
            .map(|(accuracy, i)| Point {
                seconds: i as f64 * 0.02,
                update: i,
                examples: 0,
                loss: 1.0,
                accuracy: *accuracy,
            })
            .collect();
        Row::measured(&case, &setup, &injection, raw, 0.9)
    }

    /// A run in which nothing goes wrong.
    pub(in super::super) fn steady() -> Row {
        row(false, [STEADY, STEADY], 0.1)
    }

    const STEADY: &[(u64, u64, u64, u64)] = &[(0, 15, 20, 1), (20, 35, 40, 2), (40, 55, 60, 3), (60, 75, 80, 4)];

    #[test]
    fn a_run_is_measured_until_its_budget_is_spent() {
        let r = row(false, [STEADY, &STEADY[..3]], 0.2);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b, "{a} is not {b}");
        assert_eq!((r.updates, r.pushes, r.late), (4, 7, 0));
        assert!(r.errors.is_empty());
        near(r.seconds, 0.08);
        near(r.updates_per_second, 50.0);
        near(r.examples_per_second, 1000.0);
        assert_eq!((r.seconds_to_target, r.examples_to_target), (Some(0.04), Some(40)));
        assert_eq!((r.test_accuracy, r.bytes_per_update), (Some(0.9), Some(1000.0)));
        assert_eq!((r.staleness.as_slice(), r.mean_staleness), (&[6, 2][..], 0.25));
        assert!((r.waiting - 0.25).abs() < 1e-9);
        // The other is named by what could go wrong.
        assert!(!r.per_worker[0].injected && r.per_worker[1].injected);
        near(r.others_steps_per_second, 50.0);
        assert!((r.others_longest_gap_seconds.unwrap() - 0.02).abs() < 1e-9);
    }

    #[test]
    fn whoever_waits_in_vain_waits_until_the_end() {
        let r = row(true, [&STEADY[..2], &STEADY[..2]], 1.04);
        assert_eq!(r.updates, 2);
        assert!(r.errors[0].contains("after 2 of 4 updates"), "{:?}", r.errors);
        assert!((r.seconds - 1.04).abs() < 1e-9);
        assert!((r.others_longest_gap_seconds.unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_others_keep_is_a_share_of_the_clean_run() {
        let slow: Vec<(u64, u64, u64, u64)> = STEADY.iter().map(|m| (4 * m.0, 4 * m.1, 4 * m.2, m.3)).collect();
        let mut rows = [row(true, [&slow, &slow], 0.4), row(false, [STEADY, STEADY], 0.1)];
        compare_with_clean(&mut rows);
        assert!((rows[0].others_of_clean.unwrap() - 0.25).abs() < 1e-9);
        assert_eq!(rows[1].others_of_clean, None);
    }
}
