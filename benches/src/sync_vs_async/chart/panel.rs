//! Axes with lines in them.

use super::canvas::{Anchor, Canvas, Dash, FAINT, Font, GRID, INK};
use super::style::{Style, short};

/// How a length stands for a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Log,
}

/// One axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    /// What it shows, with the unit.
    pub(super) label: String,
    pub(super) scale: Scale,
    /// The numbers at its ends.
    pub(super) range: (f64, f64),
    /// Numbers that are written, with their texts.
    pub(super) ticks: Vec<(f64, String)>,
}

/// A round number that is not less: 1, 2, 2.5 or 5 times a power of ten.
fn round_up(x: f64) -> f64 {
    let power = 10f64.powf(x.max(1e-300).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    let step = steps.iter().find(|s| *s * power >= x * (1.0 - 1e-9));
    step.unwrap_or(&10.0) * power
}

fn decimals(x: f64, step: f64) -> String {
    if x.abs() >= 1000.0 {
        return short(x);
    }
    let digits = (-step.log10()).ceil().max(0.0) as usize;
    // Half steps, as 0.25, need one more.
    let exact = (step * 10f64.powi(digits as i32)).fract().abs() < 1e-6;
    format!("{x:.*}", if exact { digits } else { digits + 1 })
}

impl Axis {
    /// From a number to another, with about `n` round numbers between.
    pub(super) fn linear(label: &str, (low, high): (f64, f64), n: usize) -> Axis {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_up((high - low) / n as f64);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let ticks = (first..=last).map(|i| (i as f64 * step, decimals(i as f64 * step, step)));
        Axis {
            label: label.to_owned(),
            scale: Scale::Linear,
            range: (low, high),
            ticks: ticks.collect(),
        }
    }

    /// 1, 2 and 5 times powers of ten, or if there are many, powers of ten alone.
    pub(super) fn log(label: &str, (low, high): (f64, f64)) -> Axis {
        let (low, high) = (low.max(1e-12), high.max(low.max(1e-12) * 2.0));
        let powers = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
        let all: Vec<f64> = powers
            .flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(p)))
            .collect();
        let from = all.iter().copied().rfind(|x| *x <= low * 1.0001).unwrap_or(low);
        let to = all.iter().copied().find(|x| *x >= high * 0.9999).unwrap_or(high);
        let many = to / from > 200.0;
        let power = |x: &f64| (x.log10() - x.log10().round()).abs() < 1e-6;
        let shown = all
            .into_iter()
            .filter(|x| *x >= from && *x <= to && (!many || power(x)));
        Axis {
            label: label.to_owned(),
            scale: Scale::Log,
            range: (from, to),
            ticks: shown.map(|x| (x, short(x))).collect(),
        }
    }

    /// Numbers of workers, of which some are written.
    pub(super) fn counts(label: &str, counts: &[usize], log: bool) -> Axis {
        let (low, high) = (counts.iter().min().copied(), counts.iter().max().copied());
        let (low, high) = (low.unwrap_or(1) as f64, high.unwrap_or(1) as f64);
        let mut ticks: Vec<(f64, String)> = counts.iter().map(|n| (*n as f64, short(*n as f64))).collect();
        ticks.dedup();
        if ticks.len() > 8 {
            // The first, and every second one up to the last.
            let n = ticks.len();
            ticks = ticks
                .into_iter()
                .enumerate()
                .filter(|(i, _)| *i == 0 || (*i > 1 && (n - 1 - i).is_multiple_of(2)))
                .map(|t| t.1)
                .collect();
        }
        let scale = if log { Scale::Log } else { Scale::Linear };
        let range = match log {
            true => (low / 1.25, high.max(low * 2.0) * 1.25),
            false => (low - 0.3, high.max(low + 1.0) + 0.3),
        };
        Axis {
            label: label.to_owned(),
            scale,
            range,
            ticks,
        }
    }

    /// Where a number is, from 0 to 1.
    fn place(&self, x: f64) -> f64 {
        let (low, high) = self.range;
        match self.scale {
            Scale::Linear => (x - low) / (high - low),
            Scale::Log => (x.max(1e-12) / low).ln() / (high / low).ln(),
        }
    }
}

/// A line, or points.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) style: Style,
    pub(super) dash: Dash,
    pub(super) points: Vec<(f64, f64)>,
    /// From where to where several runs were: x, the least and the most y.
    pub(super) ranges: Vec<(f64, f64, f64)>,
    /// Draw the points, too.
    pub(super) marks: bool,
    /// How thick the line is.
    pub(super) width: f64,
}

/// A part of a figure: axes and what is in them.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Horizontal lines, which the legend explains.
    pub(super) levels: Vec<f64>,
    /// Lines that are only to compare with, which the legend explains.
    pub(super) guides: Vec<Vec<(f64, f64)>>,
}

/// What axes need beside the data.
pub(super) const LEFT: f64 = 58.0;
pub(super) const BOTTOM: f64 = 42.0;
pub(super) const TOP: f64 = 26.0;
pub(super) const RIGHT: f64 = 14.0;

impl Panel {
    /// Draws it in this rectangle `(x, y, width, height)`.
    pub(super) fn draw(&self, c: &mut Canvas, (x0, y0, w, h): (f64, f64, f64, f64)) {
        let small = Font::new(11.0);
        let inside = (x0 + LEFT, y0 + TOP, w - LEFT - RIGHT, h - TOP - BOTTOM);
        let (ix, iy, iw, ih) = inside;
        let px = |x: f64| ix + iw * self.x.place(x);
        let py = |y: f64| iy + ih * (1.0 - self.y.place(y));
        if !self.title.is_empty() {
            c.text((ix, y0 + 14.0), &self.title, Font::new(12.5).bold(), Anchor::Start);
        }
        for (v, text) in &self.y.ticks {
            c.line((ix, py(*v)), (ix + iw, py(*v)), GRID, 1.0, Dash::Solid);
            c.text((ix - 7.0, py(*v) + 4.0), text, small, Anchor::End);
        }
        for (v, text) in &self.x.ticks {
            c.line((px(*v), iy + ih), (px(*v), iy + ih + 4.0), FAINT, 1.0, Dash::Solid);
            c.text((px(*v), iy + ih + 17.0), text, small, Anchor::Middle);
        }
        c.text(
            (ix + iw / 2.0, iy + ih + 35.0),
            &self.x.label,
            small.faint(),
            Anchor::Middle,
        );
        let side = (x0 + 13.0, iy + ih / 2.0);
        c.turned(side, &self.y.label, small.faint(), Anchor::Middle, -90.0);
        for v in &self.levels {
            c.line((ix, py(*v)), (ix + iw, py(*v)), FAINT, 1.3, Dash::Dotted);
        }
        c.within((ix - 5.0, iy - 5.0, iw + 10.0, ih + 10.0), |c| {
            for points in &self.guides {
                let at: Vec<(f64, f64)> = points.iter().map(|(x, y)| (px(*x), py(*y))).collect();
                c.path(&at, FAINT, 1.3, Dash::Dotted);
            }
            for s in &self.series {
                for (x, low, high) in &s.ranges {
                    c.line(
                        (px(*x), py(*low)),
                        (px(*x), py(*high)),
                        s.style.colour,
                        1.0,
                        Dash::Solid,
                    );
                }
                let at: Vec<(f64, f64)> = s.points.iter().map(|(x, y)| (px(*x), py(*y))).collect();
                c.path(&at, s.style.colour, s.width, s.dash);
                if s.marks {
                    for p in at {
                        s.style.point(c, p, s.dash == Dash::Dashed);
                    }
                }
            }
        });
        c.line((ix, iy + ih), (ix + iw, iy + ih), INK, 1.0, Dash::Solid);
        c.line((ix, iy), (ix, iy + ih), INK, 1.0, Dash::Solid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers_inside_of_their_range() {
        let a = Axis::linear("x", (0.0, 1.83), 5);
        let texts: Vec<&str> = a.ticks.iter().map(|t| t.1.as_str()).collect();
        assert_eq!(texts, ["0.0", "0.5", "1.0", "1.5"]);
        let a = Axis::linear("x", (0.9, 1.0), 4);
        assert_eq!(a.ticks.first().map(|t| t.1.as_str()), Some("0.900"));
        let a = Axis::linear("x", (0.0, 0.0), 4);
        assert!(a.range.1 > a.range.0);
        let a = Axis::log("x", (30.0, 5000.0));
        assert_eq!((a.range, a.ticks.len()), ((20.0, 5000.0), 2));
        let a = Axis::log("x", (0.06, 2.0));
        let texts: Vec<&str> = a.ticks.iter().map(|t| t.1.as_str()).collect();
        assert_eq!(texts, ["0.05", "0.1", "0.2", "0.5", "1", "2"]);
        let a = Axis::linear("x", (0.0, 24_000.0), 5);
        assert_eq!(a.ticks[1].1, "5k");
    }

    #[test]
    fn many_counts_are_thinned_out_but_keep_the_last() {
        let counts: Vec<usize> = (0..14).map(|i| 1 << i).collect();
        let a = Axis::counts("workers", &counts, true);
        assert!(a.ticks.len() <= 8);
        assert_eq!(a.ticks[0].1, "1");
        assert_eq!(a.ticks.last().map(|t| t.1.as_str()), Some("8.19k"));
        assert!(a.place(1.0) > 0.0 && a.place(8192.0) < 1.0);
    }
}
