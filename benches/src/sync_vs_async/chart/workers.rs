//! What each worker did for a while.

use super::super::measures::Row;
use super::super::results::Results;
use super::canvas::{Anchor, Canvas, Dash, FAINT, Font, INK};
use super::figure::{Legend, Sample, begin};
use super::panel::Axis;
use super::pictures::{Picture, count};

const MARGIN: f64 = 14.0;
const WIDTH: f64 = 1000.0;
const LANE: f64 = 18.0;
const WAITS: &str = "#e9e9e9";
/// Runs in the picture, at most.
const MOST: usize = 14;

/// The lanes of a run in a rectangle whose upper left corner this is, so wide.
fn lanes(c: &mut Canvas, row: &Row, colour: &str, (x0, y0): (f64, f64), width: f64, title: &str) {
    let t = &row.timeline;
    let (left, inner) = (x0 + 64.0, width - 64.0 - 16.0);
    let scale = if t.to - t.from < 1.0 { 1e3 } else { 1.0 };
    let length = (t.to - t.from).max(1e-9);
    let x = |s: f64| left + inner * ((s - t.from) / length).clamp(0.0, 1.0);
    c.text((left, y0 + 12.0), title, Font::new(12.0).bold(), Anchor::Start);
    let top = y0 + 20.0;
    for (w, bars) in t.workers.iter().enumerate() {
        let y = top + LANE * w as f64;
        c.text(
            (left - 8.0, y + 12.5),
            &format!("worker {w}"),
            Font::new(10.5),
            Anchor::End,
        );
        for b in bars {
            let (begin, ready, end) = (x(b.begin), x(b.ready), x(b.end));
            c.rect((ready, y + 3.0, end - ready, LANE - 6.0), WAITS, None);
            let fill = if b.applied { colour } else { "#ffffff" };
            let edge = (!b.applied).then_some((colour, Dash::Solid));
            c.rect((begin, y + 3.0, (ready - begin).max(0.4), LANE - 6.0), fill, edge);
            if end - begin > 2.5 {
                c.line((end, y + 1.5), (end, y + LANE - 1.5), INK, 0.8, Dash::Solid);
            }
        }
        for d in row
            .deaths
            .iter()
            .filter(|d| d.worker == w && d.at >= t.from && d.at <= t.to)
        {
            let (at, m) = (x(d.at), y + LANE / 2.0);
            c.line((at - 4.0, m - 4.0), (at + 4.0, m + 4.0), INK, 2.0, Dash::Solid);
            c.line((at - 4.0, m + 4.0), (at + 4.0, m - 4.0), INK, 2.0, Dash::Solid);
        }
    }
    let bottom = top + LANE * t.workers.len() as f64 + 2.0;
    c.line((left, bottom), (left + inner, bottom), INK, 1.0, Dash::Solid);
    let unit = if scale > 1.0 { "ms" } else { "s" };
    for (v, text) in Axis::linear("", (0.0, length * scale), 5).ticks {
        let at = x(t.from + v / scale);
        c.line((at, bottom), (at, bottom + 4.0), FAINT, 1.0, Dash::Solid);
        c.text(
            (at, bottom + 16.0),
            &format!("{text} {unit}"),
            Font::new(10.0),
            Anchor::Middle,
        );
    }
}

/// A few steps of every strategy with the most workers.
pub(super) fn timeline(r: &Results) -> Option<Picture> {
    let (most, ps) = r.largest()?;
    let shown = |row: &&Row| {
        row.is_measured()
            && row.workers == most
            && (row.ps == ps || row.ps == 0)
            && row.timeline.workers.iter().any(|w| !w.is_empty())
    };
    let rows: Vec<&Row> = r.rows.iter().filter(shown).take(MOST).collect();
    if rows.is_empty() {
        return None;
    }
    let mut legend: Legend = r
        .styles
        .names()
        .filter(|n| rows.iter().any(|row| row.strategy == *n))
        .map(|n| {
            (
                Sample::Box(r.styles.get(n).colour, r.styles.get(n).colour),
                format!("{n} computes"),
            )
        })
        .collect();
    legend.push((Sample::Box(WAITS, WAITS), "waits".to_owned()));
    legend.push((
        Sample::Box("#ffffff", FAINT),
        "computed, but too late to count".to_owned(),
    ));
    let columns = if rows.len() > 1 { 2 } else { 1 };
    let (pw, ph) = ((WIDTH - 2.0 * MARGIN) / columns as f64, 52.0 + LANE * most as f64);
    let lines = rows.len().div_ceil(columns);
    let title = format!("What each of {} does", count(most, "worker"));
    let (mut c, top) = begin("timeline", WIDTH, ph * lines as f64, &title, &legend);
    for (i, row) in rows.iter().enumerate() {
        let at = (MARGIN + (i % columns) as f64 * pw, top + (i / columns) as f64 * ph);
        let title = match row.is_clean() {
            true => row.strategy.clone(),
            false => format!("{}, {}", row.strategy, row.injected),
        };
        lanes(&mut c, row, r.styles.get(&row.strategy).colour, at, pw, &title);
    }
    let mut caption = "Measured: some steps from the middle of each run. Each has its own scale of time. A black line is where a worker has new \
                       values and goes on."
        .to_owned();
    if rows.iter().any(|row| !row.deaths.is_empty()) {
        caption += " A cross is where a process was killed.";
    }
    Some(Picture {
        name: "timeline",
        caption,
        svg: c.finish(),
    })
}
