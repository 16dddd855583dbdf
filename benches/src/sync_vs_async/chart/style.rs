//! Colours and marks of strategies, the same in every picture, and numbers as text.

use actorflow::train::parallel::Strategy;

use super::canvas::Canvas;

/// The form of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
    Down,
    Cross,
}

/// What stands for a strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Style {
    /// Its colour.
    pub(in super::super) colour: &'static str,
    /// The form of its points.
    pub(super) mark: Mark,
}

/// M. Okabe and K. Ito's colours, which can be told apart without seeing all of them; a darker one for a second strategy of
/// the same kind.
fn of(strategy: Strategy) -> ([&'static str; 2], Mark) {
    match strategy {
        Strategy::Async {
            scale_by_staleness: false,
        } => (["#0072b2", "#004a73"], Mark::Circle),
        Strategy::Async { .. } => (["#5a5a5a", "#5a5a5a"], Mark::Circle),
        Strategy::Sync { backup: 0 } => (["#d55e00", "#8f3f00"], Mark::Square),
        Strategy::Sync { .. } => (["#e69f00", "#9a6a00"], Mark::Triangle),
        Strategy::Hybrid { .. } => (["#009e73", "#00664a"], Mark::Diamond),
        Strategy::Ssp { .. } => (["#cc79a7", "#8c3f6b"], Mark::Down),
        Strategy::AllReduce => (["#56b4e9", "#1f78a8"], Mark::Cross),
    }
}

/// What stands for each strategy of a comparison.
#[derive(Debug, Clone)]
pub(in super::super) struct Styles(Vec<(String, Style)>);

impl Styles {
    /// Of these strategies, in their order.
    pub(in super::super) fn new(strategies: &[Strategy]) -> Styles {
        let mut all: Vec<(String, Style)> = Vec::new();
        for s in strategies {
            let ([first, second], mark) = of(*s);
            let taken = all.iter().any(|(_, style)| style.colour == first);
            let colour = if taken { second } else { first };
            all.push((s.to_string(), Style { colour, mark }));
        }
        Styles(all)
    }

    /// What stands for a strategy.
    pub(in super::super) fn get(&self, strategy: &str) -> Style {
        let found = self.0.iter().find(|(name, _)| name == strategy);
        found.map_or(
            Style {
                colour: "#888888",
                mark: Mark::Circle,
            },
            |(_, style)| *style,
        )
    }

    /// The strategies in their order.
    pub(in super::super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

impl Style {
    /// A point; hollow if it was simulated.
    pub(super) fn point(self, c: &mut Canvas, (x, y): (f64, f64), hollow: bool) {
        let fill = if hollow { "#ffffff" } else { self.colour };
        let r = 3.8;
        let at = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().map(|(dx, dy)| (x + dx * r, y + dy * r)).collect()
        };
        match self.mark {
            Mark::Circle => c.circle((x, y), r, fill, self.colour),
            Mark::Square => c.shape(
                &at(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
                fill,
                self.colour,
            ),
            Mark::Triangle => c.shape(&at(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]), fill, self.colour),
            Mark::Down => c.shape(&at(&[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)]), fill, self.colour),
            Mark::Diamond => c.shape(
                &at(&[(0.0, -1.3), (1.2, 0.0), (0.0, 1.3), (-1.2, 0.0)]),
                fill,
                self.colour,
            ),
            Mark::Cross => {
                let (a, b) = (0.4, 1.15);
                let plus = [
                    (-a, -b),
                    (a, -b),
                    (a, -a),
                    (b, -a),
                    (b, a),
                    (a, a),
                    (a, b),
                    (-a, b),
                    (-a, a),
                    (-b, a),
                    (-b, -a),
                    (-a, -a),
                ];
                c.shape(&at(&plus), fill, self.colour);
            }
        }
    }
}

fn digits(x: f64) -> String {
    let text = match x {
        _ if x >= 100.0 => format!("{x:.0}"),
        _ if x >= 10.0 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A number with three digits: 950, 1.25k, 12.5k, 3M.
pub(in super::super) fn short(x: f64) -> String {
    let scales = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    for (scale, unit) in scales {
        if x.abs() >= scale * 0.9995 {
            return format!("{}{unit}", digits(x / scale));
        }
    }
    digits(x)
}

/// A time with three digits and its unit.
pub(in super::super) fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 0.9995 => format!("{} s", digits(seconds)),
        _ if seconds >= 0.9995e-3 => format!("{} ms", digits(seconds * 1e3)),
        _ => format!("{} µs", digits(seconds * 1e6)),
    }
}

/// A share as percent.
pub(in super::super) fn percent(x: f64) -> String {
    format!("{:.0} %", 100.0 * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_units() {
        let all = [0.0, 7.0, 12.34, 950.4, 999.8, 1250.0, 12_500.0, 3e6].map(short);
        assert_eq!(all, ["0", "7", "12.3", "950", "1k", "1.25k", "12.5k", "3M"]);
        assert_eq!([2e-6, 0.0125, 1.5].map(time), ["2 µs", "12.5 ms", "1.5 s"]);
    }

    #[test]
    fn every_strategy_has_a_look_of_its_own() {
        let strategies: Vec<Strategy> =
            "async,async-scaled,sync,sync+backup1,sync+backup2,hybrid2x2,ssp3,ssp9,allreduce"
                .split(',')
                .map(|s| s.parse().unwrap())
                .collect();
        let styles = Styles::new(&strategies);
        let mut colours: Vec<&str> = styles.names().map(|n| styles.get(n).colour).collect();
        colours.sort_unstable();
        colours.dedup();
        assert_eq!(colours.len(), strategies.len());
    }
}
