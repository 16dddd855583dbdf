//! Bars: what the others keep of their rate, how stale updates are, and who waits.

use super::super::measures::Row;
use super::super::results::Results;
use super::canvas::{Anchor, Canvas, Dash, FAINT, Font, GRID, INK};
use super::figure::{Legend, Sample, begin};
use super::panel::Axis;
use super::pictures::{Picture, count};
use super::style::{percent, short};

const MARGIN: f64 = 14.0;
const WIDTH: f64 = 788.0;
/// What a letter of a label takes, on average.
const EACH: f64 = 6.4;

/// Horizontal bars with a text before and after each, on a scale from 0 to `most`.
struct Strip<'a> {
    label: &'a str,
    colour: &'static str,
    value: f64,
    text: String,
}

impl<'a> Strip<'a> {
    /// The strip of a run, in its strategy's colour.
    fn of(r: &Results, row: &Row, label: &'a str, value: f64, text: fn(f64) -> String) -> Strip<'a> {
        Strip {
            label,
            colour: r.styles.get(&row.strategy).colour,
            value,
            text: text(value),
        }
    }
}

fn strips(c: &mut Canvas, top: f64, strips: &[Strip<'_>], axis: &Axis) {
    let longest = strips.iter().map(|s| s.label.chars().count()).max().unwrap_or(0);
    let (left, right, row) = (
        MARGIN + (14.0 + EACH * longest as f64).max(190.0),
        WIDTH - MARGIN - 60.0,
        24.0,
    );
    let x = |v: f64| left + (right - left) * (v / axis.range.1).clamp(0.0, 1.0);
    let bottom = top + row * strips.len() as f64;
    for (v, text) in &axis.ticks {
        c.line((x(*v), top - 2.0), (x(*v), bottom + 4.0), GRID, 1.0, Dash::Solid);
        c.text((x(*v), bottom + 18.0), text, Font::new(11.0), Anchor::Middle);
    }
    for (i, s) in strips.iter().enumerate() {
        let y = top + row * i as f64;
        c.text((left - 10.0, y + 15.0), s.label, Font::new(12.0), Anchor::End);
        c.rect((left, y + 4.0, (x(s.value) - left).max(1.0), row - 8.0), s.colour, None);
        c.text((x(s.value) + 6.0, y + 15.5), &s.text, Font::new(11.5), Anchor::Start);
    }
    c.line((left, top - 2.0), (left, bottom + 4.0), INK, 1.0, Dash::Solid);
    c.text(
        ((left + right) / 2.0, bottom + 36.0),
        &axis.label,
        Font::new(11.0).faint(),
        Anchor::Middle,
    );
}

/// Shares from 0 to `most`, by quarters.
fn shares_axis(label: &str, most: f64) -> Axis {
    let mut axis = Axis::linear(label, (0.0, most), 4);
    axis.ticks = (0..=(most * 4.0).round() as usize)
        .map(|i| (i as f64 / 4.0, percent(i as f64 / 4.0)))
        .collect();
    axis
}

fn height(strips: &[Strip<'_>]) -> f64 {
    24.0 * strips.len() as f64 + 44.0
}

fn label(r: &Results, row: &Row) -> String {
    let mut text = format!("{}, {}", row.strategy, count(row.workers, "worker"));
    if r.server_counts().len() > 1 && row.ps > 0 {
        text += &format!(", {} ps", row.ps);
    }
    text
}

/// What the workers keep of their rate with which nothing goes wrong.
pub(super) fn others(r: &Results) -> Option<Picture> {
    let rows: Vec<(&Row, f64)> = r
        .rows
        .iter()
        .filter_map(|row| Some((row, row.others_of_clean?)))
        .collect();
    if rows.is_empty() {
        return None;
    }
    let labels: Vec<String> = rows
        .iter()
        .map(|(row, _)| label(r, row) + if row.is_measured() { "" } else { ", simulated" })
        .collect();
    let all: Vec<Strip<'_>> = rows
        .iter()
        .zip(&labels)
        .map(|((row, share), label)| Strip::of(r, row, label, *share, percent))
        .collect();
    let title = format!("What the other workers keep of their rate: {}", r.injection);
    let (mut c, top) = begin("others", WIDTH, height(&all), &title, &Vec::new());
    let most = if all.iter().any(|s| s.value > 1.02) { 1.25 } else { 1.0 };
    let what = "steps a second of the workers with which nothing goes wrong, as a share of the clean run";
    strips(&mut c, top, &all, &shares_axis(what, most));
    Some(Picture {
        name: "others",
        caption: "Measured, clean and with what goes wrong, one after the other. 100 % means that the other workers do not notice.".to_owned(),
        svg: c.finish(),
    })
}

/// How much of their time workers wait.
pub(super) fn waiting(r: &Results) -> Option<Picture> {
    let rows: Vec<&Row> = r
        .rows
        .iter()
        .filter(|row| row.is_measured() && row.is_clean())
        .collect();
    let labels: Vec<String> = rows.iter().map(|row| label(r, row)).collect();
    let all: Vec<Strip<'_>> = rows
        .iter()
        .zip(&labels)
        .map(|(row, label)| Strip::of(r, row, label, row.waiting, percent))
        .collect();
    if all.is_empty() {
        return None;
    }
    let title = "How much of their time workers wait";
    let (mut c, top) = begin("waiting", WIDTH, height(&all), title, &Vec::new());
    let what = "time from a worker's gradients to its new values, as a share of all";
    strips(&mut c, top, &all, &shares_axis(what, 1.0));
    Some(Picture {
        name: "waiting",
        caption: format!(
            "Measured in clean runs. Waiting is for the network, servers and other workers; {} share {} cores here, and whoever has none waits, too.",
            r.tasks_word(),
            r.machine.cores
        ),
        svg: c.finish(),
    })
}

/// Examples a second of these runs, which all have the same number of workers.
pub(super) fn rates(r: &Results, rows: &[&Row], title: &str) -> String {
    let labels: Vec<String> = rows.iter().map(|row| label(r, row)).collect();
    let all: Vec<Strip<'_>> = rows
        .iter()
        .zip(&labels)
        .map(|(row, label)| Strip::of(r, row, label, row.examples_per_second, short))
        .collect();
    let most = all.iter().map(|s| s.value).fold(0.0, f64::max);
    let (mut c, top) = begin("throughput", WIDTH, height(&all), title, &Vec::new());
    strips(&mut c, top, &all, &Axis::linear("examples a second", (0.0, most), 5));
    c.finish()
}

/// Ages in a picture, at most.
const BINS: usize = 16;

/// Shares of pushes by age, so many ages together; what is older than the last bin is in it.
fn shares(counts: &[u64], each: usize, bins: usize) -> Vec<f64> {
    let all: u64 = counts.iter().sum();
    let mut shares = vec![0.0; bins];
    for (age, n) in counts.iter().enumerate() {
        shares[(age / each).min(bins - 1)] += *n as f64 / all.max(1) as f64;
    }
    shares
}

/// So many ages hold nearly all pushes.
fn usual(counts: &[u64]) -> usize {
    let all: u64 = counts.iter().sum();
    let mut sum = 0;
    let found = counts.iter().position(|n| {
        sum += n;
        sum as f64 >= 0.995 * all as f64
    });
    found.map_or(1, |i| i + 1)
}

/// How old the values were from which gradients were computed that count.
pub(super) fn staleness(r: &Results) -> Option<Picture> {
    let (most, ps) = r.largest()?;
    let at = |name: &str, measured: bool| {
        let same = |row: &&Row| {
            row.strategy == name
                && row.workers == most
                && row.is_measured() == measured
                && row.is_clean()
                && (row.ps == ps || row.ps == 0)
        };
        r.rows.iter().find(same).filter(|row| !row.staleness.is_empty())
    };
    let names: Vec<&str> = r.styles.names().filter(|n| at(n, true).is_some()).collect();
    if names.is_empty() {
        return None;
    }
    let longest = r
        .rows
        .iter()
        .filter(|row| row.workers == most && row.is_clean())
        .map(|row| usual(&row.staleness));
    let longest = longest.max().unwrap_or(1);
    let each = longest.div_ceil(BINS);
    // One more for what is older.
    let bins = longest.div_ceil(each).max(5) + 1;
    let simulated = names.iter().any(|n| at(n, false).is_some());
    let mut legend: Legend = Vec::new();
    if simulated {
        legend.push((Sample::Box("#9a9a9a", "#9a9a9a"), "measured".to_owned()));
        legend.push((Sample::Box("#ffffff", FAINT), "simulated".to_owned()));
    }
    let columns = names.len().min(3);
    let (pw, ph) = ((WIDTH - 2.0 * MARGIN) / columns as f64, 190.0);
    let lines = names.len().div_ceil(columns);
    let title = format!("Age of the gradients that count, in updates: {}", count(most, "worker"));
    let (mut c, top) = begin("staleness", WIDTH, ph * lines as f64, &title, &legend);
    for (i, name) in names.iter().enumerate() {
        let (x0, y0) = (MARGIN + (i % columns) as f64 * pw, top + (i / columns) as f64 * ph);
        let (ix, iy, iw, ih) = (x0 + 44.0, y0 + 26.0, pw - 58.0, ph - 72.0);
        let style = r.styles.get(name);
        let Some(row) = at(name, true) else { continue };
        let about = format!("{name}: mean {:.1}", row.mean_staleness);
        c.text((ix, y0 + 14.0), &about, Font::new(12.5).bold(), Anchor::Start);
        for k in 0..=2 {
            let y = iy + ih * (1.0 - f64::from(k) / 2.0);
            c.line((ix, y), (ix + iw, y), GRID, 1.0, Dash::Solid);
            c.text(
                (ix - 6.0, y + 4.0),
                &percent(f64::from(k) / 2.0),
                Font::new(10.5),
                Anchor::End,
            );
        }
        let w = iw / bins as f64;
        for (k, share) in shares(&row.staleness, each, bins).into_iter().enumerate() {
            let h = ih * share;
            c.rect((ix + w * k as f64 + 1.5, iy + ih - h, w - 3.0, h), style.colour, None);
        }
        if let Some(row) = at(name, false) {
            for (k, share) in shares(&row.staleness, each, bins).into_iter().enumerate() {
                let h = ih * share;
                let edge = Some((INK, Dash::Dashed));
                c.rect((ix + w * k as f64 + 3.0, iy + ih - h, w - 6.0, h), "none", edge);
            }
        }
        for k in (0..bins).step_by(bins.div_ceil(8)) {
            let x = ix + w * (k as f64 + 0.5);
            let text = if each == 1 {
                k.to_string()
            } else {
                format!("{}+", k * each)
            };
            c.text((x, iy + ih + 15.0), &text, Font::new(10.5), Anchor::Middle);
        }
        c.line((ix, iy + ih), (ix + iw, iy + ih), INK, 1.0, Dash::Solid);
        c.text(
            (ix + iw / 2.0, iy + ih + 31.0),
            "updates old",
            Font::new(10.5).faint(),
            Anchor::Middle,
        );
    }
    let mut caption = "The share of all pushes that were applied when the values that they were computed from were so many updates old; at \
                       the first parameter server, measured in clean runs."
        .to_owned();
    if simulated {
        caption += " Dashed outlines are simulated, with a machine for each worker.";
    }
    Some(Picture {
        name: "staleness",
        caption,
        svg: c.finish(),
    })
}

#[cfg(test)]
mod tests {
    use super::{shares, usual};

    #[test]
    fn ages_are_put_together_without_losing_any() {
        assert_eq!(shares(&[1, 1, 2], 1, 3), [0.25, 0.25, 0.5]);
        assert_eq!(shares(&[1, 1, 2], 2, 3), [0.5, 0.5, 0.0]);
        assert_eq!(shares(&[1, 1, 2, 4], 1, 2), [0.125, 0.875]);
        assert_eq!(shares(&[], 3, 1), [0.0]);
        assert_eq!((usual(&[1000, 2, 1]), usual(&[1, 1]), usual(&[])), (1, 2, 1));
    }
}
