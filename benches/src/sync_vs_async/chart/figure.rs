//! Panels with a title and a legend.

use super::canvas::{Anchor, Canvas, Dash, FAINT, Font};
use super::panel::Panel;
use super::style::Style;

/// The sample of a legend's entry.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sample {
    /// A line with its points, or without.
    Line(Style, Dash, bool),
    /// A line of no strategy.
    Plain(Dash),
    /// A filled box with an edge.
    Box(&'static str, &'static str),
}

/// What the signs mean.
pub(super) type Legend = Vec<(Sample, String)>;

const MARGIN: f64 = 14.0;
const ROW: f64 = 20.0;
const SAMPLE: f64 = 30.0;

fn entry_width(text: &str) -> f64 {
    SAMPLE + 8.0 + Font::new(12.0).width(text) + 16.0
}

/// How many rows a legend takes.
fn rows(legend: &Legend, width: f64) -> usize {
    let (mut rows, mut x) = (usize::from(!legend.is_empty()), 0.0);
    for (_, text) in legend {
        let w = entry_width(text);
        if x > 0.0 && x + w > width {
            rows += 1;
            x = 0.0;
        }
        x += w;
    }
    rows
}

/// Begins a picture with a title and a legend; gives it and where the rest begins.
pub(super) fn begin(name: &str, width: f64, height: f64, title: &str, legend: &Legend) -> (Canvas, f64) {
    let inner = width - 2.0 * MARGIN;
    let top = MARGIN + 22.0 + ROW * rows(legend, inner) as f64 + 10.0;
    let mut c = Canvas::new(name, width, top + height + MARGIN);
    c.text((MARGIN, MARGIN + 12.0), title, Font::new(15.0).bold(), Anchor::Start);
    let (mut x, mut y) = (MARGIN, MARGIN + 22.0 + ROW / 2.0 + 4.0);
    for (sample, text) in legend {
        let w = entry_width(text);
        if x > MARGIN && x - MARGIN + w > inner {
            x = MARGIN;
            y += ROW;
        }
        match sample {
            Sample::Line(style, dash, marks) => {
                c.line((x, y), (x + SAMPLE, y), style.colour, 2.2, *dash);
                if *marks {
                    style.point(&mut c, (x + SAMPLE / 2.0, y), *dash == Dash::Dashed);
                }
            }
            Sample::Plain(dash) => c.line((x, y), (x + SAMPLE, y), FAINT, 1.6, *dash),
            Sample::Box(fill, edge) => c.rect((x + 8.0, y - 6.0, 16.0, 12.0), fill, Some((edge, Dash::Solid))),
        }
        c.text((x + SAMPLE + 7.0, y + 4.0), text, Font::new(12.0), Anchor::Start);
        x += w;
    }
    (c, top)
}

/// Panels in rows of `columns`, each of this size.
pub(super) fn grid(
    name: &str,
    title: &str,
    legend: &Legend,
    panels: &[Panel],
    columns: usize,
    (pw, ph): (f64, f64),
) -> String {
    let columns = columns.clamp(1, panels.len().max(1));
    let lines = panels.len().div_ceil(columns);
    let width = (columns as f64 * pw + 2.0 * MARGIN).max(560.0);
    let (mut c, top) = begin(name, width, lines as f64 * ph, title, legend);
    for (i, p) in panels.iter().enumerate() {
        let (row, column) = (i / columns, i % columns);
        let x = MARGIN + column as f64 * pw;
        p.draw(&mut c, (x, top + row as f64 * ph, pw, ph));
    }
    c.finish()
}
