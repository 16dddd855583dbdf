//! What goes wrong on purpose: slow workers, slow networks, killed processes; and how each is written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// Parses a time: `250us`, `10ms`, `1.5s`.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write a number with a unit, such as 250us, 10ms or 1.5s");
    let (number, unit) = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))
        .ok_or_else(wrong)?;
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    if !(0.0..=3600.0).contains(&(number * unit)) {
        return Err(format!("{text:?} is not between 0 and an hour"));
    }
    Ok(Duration::from_secs_f64(number * unit))
}

/// A time as it is written.
pub(super) fn time_text(d: Duration) -> String {
    let us = d.as_secs_f64() * 1e6;
    match us {
        _ if us >= 1e6 => format!("{}s", us / 1e6),
        _ if us >= 1e3 => format!("{}ms", us / 1e3),
        _ => format!("{us}us"),
    }
}

fn worker_of(text: &str, whole: &str, example: &str) -> Result<usize, String> {
    text.parse()
        .map_err(|_| format!("{whole:?} names no worker; write the worker's number first, such as {example}"))
}

/// A worker that takes longer to compute: `1@5x`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Straggler {
    /// Which worker.
    pub(super) worker: usize,
    /// How many times as long it takes.
    pub(super) factor: f64,
}

impl FromStr for Straggler {
    type Err = String;

    fn from_str(s: &str) -> Result<Straggler, String> {
        let wrong = || format!("{s:?} is no straggler; write worker@factor, such as 1@5x");
        let (worker, factor) = s.split_once('@').ok_or_else(wrong)?;
        let factor: f64 = factor
            .strip_suffix('x')
            .ok_or_else(wrong)?
            .parse()
            .map_err(|_| wrong())?;
        if !(1.0..=1000.0).contains(&factor) {
            return Err(format!("a straggler takes between 1x and 1000x as long, not {factor}x"));
        }
        let worker = worker_of(worker, s, "1@5x")?;
        Ok(Straggler { worker, factor })
    }
}

impl fmt::Display for Straggler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}x", self.worker, self.factor)
    }
}

/// A slow network: `1@10ms` of one worker, `10ms` of all, each way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Delay {
    /// Which worker; all without one.
    pub(super) worker: Option<usize>,
    /// How much later everything arrives that it sends or is sent.
    pub(super) by: Duration,
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(s: &str) -> Result<Delay, String> {
        let (worker, by) = match s.split_once('@') {
            Some((worker, by)) => (Some(worker_of(worker, s, "1@10ms")?), by),
            None => (None, s),
        };
        let by = parse_time(by)?;
        if by > Duration::from_secs(2) {
            return Err(format!(
                "{s:?} is more than the 2 s after which connections are thought lost"
            ));
        }
        Ok(Delay { worker, by })
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(worker) = self.worker {
            write!(f, "{worker}@")?;
        }
        f.write_str(&time_text(self.by))
    }
}

/// When a worker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) enum When {
    /// At this share of the budget.
    Share(f64),
    /// So long after the start.
    After(Duration),
}

/// A worker whose process is killed: `1@50%`, `1@2s`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Kill {
    /// Which worker.
    pub(super) worker: usize,
    /// When.
    pub(super) when: When,
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(s: &str) -> Result<Kill, String> {
        let (worker, when) = s
            .split_once('@')
            .ok_or_else(|| format!("{s:?} is no kill; write worker@when, such as 1@50% or 1@2s"))?;
        let worker = worker_of(worker, s, "1@50%")?;
        let when = match when.strip_suffix('%') {
            None => When::After(parse_time(when)?),
            Some(share) => {
                let share: f64 = share.parse().map_err(|_| format!("{s:?} is no kill; write 1@50%"))?;
                if !(0.0..100.0).contains(&share) {
                    return Err(format!(
                        "a worker is killed between 0% and 100% of the budget, not at {share}%"
                    ));
                }
                When::Share(share / 100.0)
            }
        };
        Ok(Kill { worker, when })
    }
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.when {
            When::Share(share) => write!(f, "{}@{}%", self.worker, share * 100.0),
            When::After(time) => write!(f, "{}@{}", self.worker, time_text(time)),
        }
    }
}

/// Whether killed workers come back: a time, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Restart(pub(super) Option<Duration>);

impl FromStr for Restart {
    type Err = String;

    fn from_str(s: &str) -> Result<Restart, String> {
        match s {
            "never" => Ok(Restart(None)),
            _ => parse_time(s)
                .map(|t| Restart(Some(t)))
                .map_err(|e| format!("{e}, or never")),
        }
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("never"),
            Some(t) => f.write_str(&time_text(t)),
        }
    }
}

/// All that goes wrong in a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Injection {
    /// Slow workers.
    pub(super) stragglers: Vec<Straggler>,
    /// Slow networks.
    pub(super) delays: Vec<Delay>,
    /// Killed processes.
    pub(super) kills: Vec<Kill>,
    /// How long after its end a killed process is started again.
    pub(super) restart: Option<Duration>,
}

impl Injection {
    /// Whether nothing goes wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.stragglers.is_empty() && self.delays.is_empty() && self.kills.is_empty()
    }

    /// The workers that it names.
    pub(super) fn workers(&self) -> Vec<usize> {
        let mut all: Vec<usize> = self.stragglers.iter().map(|s| s.worker).collect();
        all.extend(self.delays.iter().filter_map(|d| d.worker));
        all.extend(self.kills.iter().map(|k| k.worker));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How many times as long a worker takes.
    pub(super) fn factor(&self, worker: usize) -> f64 {
        let of = self.stragglers.iter().filter(|s| s.worker == worker);
        of.map(|s| s.factor).product()
    }

    /// The delay of what a worker sends or is sent.
    pub(super) fn delay(&self, worker: usize) -> Duration {
        let of = self.delays.iter().filter(|d| d.worker.is_none_or(|w| w == worker));
        of.map(|d| d.by).sum()
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.stragglers.iter().map(|s| format!("straggler {s}")));
        parts.extend(self.delays.iter().map(|d| format!("delay {d}")));
        parts.extend(self.kills.iter().map(|k| format!("kill {k}")));
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back<T: FromStr<Err = String> + fmt::Display>(text: &str) {
        assert_eq!(
            text.parse::<T>().unwrap_or_else(|e| panic!("{text}: {e}")).to_string(),
            text
        );
    }

    #[test]
    fn what_goes_wrong_is_read_back_from_its_text() {
        back::<Straggler>("1@5x");
        back::<Straggler>("12@1.5x");
        back::<Delay>("10ms");
        back::<Delay>("1@250us");
        back::<Kill>("1@50%");
        back::<Kill>("0@2s");
        back::<Restart>("never");
        back::<Restart>("1.5s");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_an_example() {
        for wrong in ["", "1", "1@5", "1@x", "@5x", "1@0.5x", "1@-2x", "1@1e9x", "1@nanx"] {
            let e = wrong.parse::<Straggler>().unwrap_err();
            assert!(e.contains("1@5x") || e.contains("1x and 1000x"), "{wrong}: {e}");
        }
        for wrong in ["", "10", "1@", "x@10ms", "-1ms", "1@3s", "nans", "1e9s"] {
            assert!(wrong.parse::<Delay>().is_err(), "{wrong}");
        }
        for wrong in ["", "1", "1@", "1@100%", "1@-1%", "a@50%", "1@50", "1@nan%"] {
            assert!(wrong.parse::<Kill>().is_err(), "{wrong}");
        }
        assert!("soon".parse::<Restart>().unwrap_err().contains("never"));
    }

    #[test]
    fn what_is_injected_adds_up_by_worker() {
        let i = Injection {
            stragglers: vec!["1@2x".parse().unwrap(), "1@3x".parse().unwrap()],
            delays: vec!["5ms".parse().unwrap(), "2@5ms".parse().unwrap()],
            kills: vec!["3@50%".parse().unwrap()],
            restart: None,
        };
        assert_eq!((i.factor(0), i.factor(1)), (1.0, 6.0));
        assert_eq!(
            (i.delay(0), i.delay(2)),
            (Duration::from_millis(5), Duration::from_millis(10))
        );
        assert_eq!(i.workers(), [1, 2, 3]);
        assert_eq!(
            i.to_string(),
            "straggler 1@2x, straggler 1@3x, delay 5ms, delay 2@5ms, kill 3@50%"
        );
    }
}
