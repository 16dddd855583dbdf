//! What is drawn of the results: rates by the number of workers, and the model over time.

use std::collections::BTreeSet;

use super::super::measures::Row;
use super::super::repeats::range;
use super::super::results::Results;
use super::canvas::Dash;
use super::figure::{Legend, Sample, grid};
use super::panel::{Axis, Panel, Series};
use super::style::short;
use super::{bars, workers};

/// A picture with what is to be known about it.
#[derive(Debug, Clone)]
pub(in super::super) struct Picture {
    /// The name of its file, without what comes after the dot.
    pub(in super::super) name: &'static str,
    /// What it shows, and where the numbers come from.
    pub(in super::super) caption: String,
    /// The picture.
    pub(in super::super) svg: String,
}

/// Every picture that there is something to draw in.
pub(in super::super) fn all(r: &Results) -> Vec<Picture> {
    let mut all = Vec::new();
    all.extend(throughput(r));
    for (name, what, over) in [
        ("accuracy-time", What::Accuracy, Over::Time),
        ("accuracy-examples", What::Accuracy, Over::Examples),
        ("loss-time", What::Loss, Over::Time),
        ("loss-examples", What::Loss, Over::Examples),
    ] {
        all.extend(learning(r, name, what, over));
    }
    all.extend(bars::others(r));
    all.extend(bars::staleness(r));
    all.extend(bars::waiting(r));
    all.extend(workers::timeline(r));
    all
}

/// A comparison of the same tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) ps: usize,
    pub(super) injected: bool,
    pub(super) workers: usize,
}

impl Place {
    /// Whether a row belongs there; allreduce, which has no parameter servers, belongs to any number of them.
    pub(super) fn has(&self, row: &Row) -> bool {
        row.is_measured()
            && row.workers == self.workers
            && (row.ps == self.ps || row.ps == 0)
            && row.is_clean() != self.injected
    }

    pub(super) fn title(&self, r: &Results) -> String {
        let workers = count(self.workers, "worker");
        let mut parts = vec![workers];
        if r.server_counts().len() > 1 {
            parts.push(format!("{} ps", self.ps));
        }
        if r.is_injected() {
            parts.push(if self.injected { "with what goes wrong" } else { "clean" }.to_owned());
        }
        parts.join(", ")
    }
}

/// "1 worker", "2 workers".
pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Every comparison of measured runs.
pub(super) fn places(r: &Results) -> Vec<Place> {
    let mut all = BTreeSet::new();
    for ps in r.server_counts() {
        for row in r
            .rows
            .iter()
            .filter(|row| row.is_measured() && (row.ps == ps || row.ps == 0))
        {
            all.insert(Place {
                ps,
                injected: !row.is_clean(),
                workers: row.workers,
            });
        }
    }
    all.into_iter().collect()
}

/// Entries of all strategies, as lines; `both` tells measured from simulated ones.
pub(super) fn legend(r: &Results, marks: bool, both: bool) -> Legend {
    let mut legend: Legend = Vec::new();
    for name in r.styles.names() {
        let sample = Sample::Line(r.styles.get(name), Dash::Solid, marks);
        legend.push((sample, name.to_owned()));
    }
    if both {
        legend.push((Sample::Plain(Dash::Solid), "measured".to_owned()));
        legend.push((Sample::Plain(Dash::Dashed), "simulated".to_owned()));
    }
    legend
}

fn throughput(r: &Results) -> Option<Picture> {
    let simulated = r.rows.iter().any(|row| !row.is_measured());
    // Alone, an all-reduce exchanges nothing, and is off the scale.
    let off = |row: &Row| row.ps == 0 && row.workers == 1 && r.rows.iter().any(|other| other.workers > 1);
    let (alone, clean): (Vec<&Row>, Vec<&Row>) = r.rows.iter().filter(|row| row.is_clean()).partition(|row| off(row));
    let counts: BTreeSet<usize> = clean.iter().map(|row| row.workers).collect();
    let counts: Vec<usize> = counts.into_iter().collect();
    let rates: Vec<f64> = clean
        .iter()
        .map(|row| row.examples_per_second)
        .filter(|x| *x > 0.0)
        .collect();
    let (low, high) = rates.iter().fold((f64::MAX, 0f64), |(a, b), x| (a.min(*x), b.max(*x)));
    if rates.is_empty() {
        return None;
    }
    let mut panels = Vec::new();
    for ps in r.server_counts() {
        let mut series = Vec::new();
        for name in r.styles.names() {
            for measured in [false, true] {
                let mut points: Vec<(f64, f64)> = clean
                    .iter()
                    .filter(|row| row.strategy == name && (row.ps == ps || row.ps == 0))
                    .filter(|row| row.is_measured() == measured)
                    .map(|row| (row.workers as f64, row.examples_per_second))
                    .collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                let ranges = clean
                    .iter()
                    .filter(|row| row.strategy == name && (row.ps == ps || row.ps == 0))
                    .filter(|row| row.is_measured() == measured)
                    .filter_map(|row| {
                        let (low, high) = range(&row.repeats.examples_per_second)?;
                        Some((row.workers as f64, low, high))
                    });
                let ranges = ranges.collect();
                if !points.is_empty() {
                    series.push(Series {
                        style: r.styles.get(name),
                        dash: if measured { Dash::Solid } else { Dash::Dashed },
                        points,
                        ranges,
                        marks: true,
                        width: 2.0,
                    });
                }
            }
        }
        let one = clean
            .iter()
            .filter(|row| row.is_measured() && row.workers == 1 && (row.ps == ps || row.ps == 0))
            .map(|row| row.examples_per_second)
            .fold(0.0, f64::max);
        let most = counts.last().copied().unwrap_or(1) as f64;
        let mut guides = Vec::new();
        if one > 0.0 && most > 1.0 {
            let places = [1.0, 2.0, 4.0, 16.0, 64.0, most].into_iter().filter(|n| *n <= most);
            guides.push(places.map(|n| (n, one * n)).collect());
        }
        panels.push(Panel {
            title: if r.server_counts().len() > 1 {
                format!("{ps} ps")
            } else {
                String::new()
            },
            x: Axis::counts("workers", &counts, simulated),
            y: match simulated {
                true => Axis::log("examples a second", (low, high * 1.1)),
                false => Axis::linear("examples a second", (0.0, high * 1.12), 5),
            },
            series,
            levels: Vec::new(),
            guides,
        });
    }
    let size = if panels.len() == 1 {
        (760.0, 400.0)
    } else {
        (440.0, 340.0)
    };
    let mut legend = legend(r, true, simulated);
    if panels.iter().any(|p: &Panel| !p.guides.is_empty()) {
        legend.push((Sample::Plain(Dash::Dotted), "proportional".to_owned()));
    }
    let mut caption = format!(
        "Examples whose gradients count, a second, without anything going wrong. Measured on this machine, where all {} share {} cores.",
        r.tasks_word(),
        r.machine.cores
    );
    let svg = match counts.as_slice() {
        // Lines need more than one point.
        [_] => bars::rates(r, &clean, "Examples a second"),
        _ => {
            caption += " The dotted line is the fastest single worker times the number of workers.";
            let title = "Examples a second by the number of workers";
            grid("throughput", title, &legend, &panels, 2, size)
        }
    };
    if let Some(row) = alone.iter().find(|row| row.is_measured()) {
        caption += &format!(
            " Not shown: allreduce with 1 worker, which exchanges nothing, has {}.",
            short(row.examples_per_second)
        );
    }
    if clean.iter().any(|row| row.repeats.runs > 1) {
        caption += " Points are medians; thin upright lines reach from the least run to the most.";
    }
    if simulated {
        caption += " Solid lines with filled points are measured. Dashed lines with hollow points are simulated: every worker and server has a machine of its own, and takes the times \
                    measured here with one worker.";
    }
    Some(Picture {
        name: "throughput",
        caption,
        svg,
    })
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Accuracy,
    Loss,
}

#[derive(Clone, Copy, PartialEq)]
enum Over {
    Time,
    Examples,
}

/// A number below which this share of the others are.
fn quantile(mut x: Vec<f64>, share: f64) -> f64 {
    x.sort_by(f64::total_cmp);
    let at = (x.len().saturating_sub(1) as f64 * share) as usize;
    x.get(at).copied().unwrap_or(0.0)
}

fn learning(r: &Results, name: &'static str, what: What, over: Over) -> Option<Picture> {
    let places = places(r);
    let rows = |p: &Place| -> Vec<&Row> { r.rows.iter().filter(|row| p.has(row) && row.curve.len() > 1).collect() };
    let value = |p: &super::super::setup::Point| match what {
        What::Accuracy => p.accuracy,
        What::Loss => p.loss,
    };
    let at = |p: &super::super::setup::Point| match over {
        Over::Time => p.seconds,
        Over::Examples => p.examples as f64,
    };
    let values: Vec<f64> = places
        .iter()
        .flat_map(&rows)
        .flat_map(|row| row.curve[1..].iter().map(value))
        .collect();
    if values.is_empty() {
        return None;
    }
    let label = match what {
        What::Accuracy => "test accuracy",
        What::Loss => "test loss",
    };
    let y = match what {
        // The interesting part is at the top.
        What::Accuracy => {
            let low = (quantile(values, 0.05).min(r.target - 0.02) * 20.0).floor() / 20.0;
            Axis::linear(label, (low.max(0.0), 1.0), 5)
        }
        What::Loss => {
            let low = values.iter().copied().fold(f64::MAX, f64::min);
            Axis::log(label, (low.max(1e-6), quantile(values, 0.98).max(low * 1.5)))
        }
    };
    let mut panels = Vec::new();
    for place in &places {
        let rows = rows(place);
        let ends = rows.iter().filter_map(|row| row.curve.last()).map(at);
        let end = ends.fold(0.0, f64::max);
        let series = rows.iter().map(|row| Series {
            style: r.styles.get(&row.strategy),
            dash: Dash::Solid,
            points: row.curve.iter().map(|p| (at(p), value(p))).collect(),
            ranges: Vec::new(),
            marks: false,
            width: 1.5,
        });
        panels.push(Panel {
            title: place.title(r),
            x: match over {
                Over::Time => Axis::linear("seconds", (0.0, end), 5),
                Over::Examples => Axis::linear("examples", (0.0, end), 4),
            },
            y: y.clone(),
            series: series.collect(),
            levels: match what {
                What::Accuracy => vec![r.target],
                What::Loss => Vec::new(),
            },
            guides: Vec::new(),
        });
    }
    let by = match over {
        Over::Time => "time",
        Over::Examples => "examples",
    };
    let columns = if panels.len() == 4 { 2 } else { 3 };
    let size = match panels.len() {
        1 => (760.0, 380.0),
        2 => (430.0, 310.0),
        _ => (330.0, 270.0),
    };
    let title = match what {
        What::Accuracy => format!("Accuracy on rows that nobody trained on, against {by}"),
        What::Loss => format!("Cross-entropy on rows that nobody trained on, against {by}"),
    };
    let mut caption = "Measured: values of the model kept during training and judged afterwards, so that judging takes no time from training."
        .to_owned();
    if over == Over::Examples {
        caption += " Against examples, only how workers agree makes a difference, and not how fast they are.";
        if ["sync", "allreduce"].iter().all(|s| r.styles.names().any(|n| n == *s)) {
            caption += " The lines of sync and allreduce lie on each other: they compute the same.";
        }
    }
    let mut legend = legend(r, false, false);
    if what == What::Accuracy {
        legend.push((Sample::Plain(Dash::Dotted), format!("target {}", r.target)));
    }
    Some(Picture {
        name,
        caption,
        svg: grid(name, &title, &legend, &panels, columns, size),
    })
}
