//! What the numbers say, in sentences.

use super::chart::{percent, short, time};
use super::measures::Row;
use super::results::Results;

/// Rates and times that differ by less are called equal.
const EQUAL: f64 = 0.1;

fn workers(row: &Row) -> String {
    match (row.workers, row.ps) {
        (1, 0) => format!(
            "{} with 1 worker, a single process that exchanges nothing",
            row.strategy
        ),
        (1, _) => format!("{} with 1 worker", row.strategy),
        (n, _) => format!("{} with {n} workers", row.strategy),
    }
}

fn joined(rows: &[&Row], by: &str) -> String {
    let all: Vec<&str> = rows.iter().map(|r| r.strategy.as_str()).collect();
    match all.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} {by} {last}", rest.join(", ")),
    }
}

fn names(rows: &[&Row]) -> String {
    joined(rows, "and")
}

fn either(rows: &[&Row]) -> String {
    joined(rows, "or")
}

fn least<'a>(rows: impl IntoIterator<Item = &'a Row>, of: impl Fn(&Row) -> Option<f64>) -> Option<(&'a Row, f64)> {
    rows.into_iter()
        .filter_map(|r| Some((r, of(r)?)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Who got to the target first, and what to choose for that.
fn choice(r: &Results, all: &mut Vec<String>) {
    let target = r.target;
    let Some((fastest, seconds)) = least(r.clean(), |row| row.seconds_to_target) else {
        if let Some((best, accuracy)) = least(r.clean(), |row| row.test_accuracy.map(|a| -a)) {
            all.push(format!(
                "No run reached an accuracy of {target} with this budget; the best was {} with {:.3}. Give more --epochs, or another \
                 --lr.",
                workers(best),
                -accuracy
            ));
        }
        return;
    };
    let most = r.clean().map(|row| row.workers).max().unwrap_or(1);
    let mut sentence = format!(
        "First to an accuracy of {target} was {}, after {}.",
        workers(fastest),
        time(seconds)
    );
    if fastest.workers < most
        && let Some((row, t)) = least(r.clean().filter(|row| row.workers == most), |row| row.seconds_to_target)
    {
        sentence += &format!(
            " With {most} workers it was {}, after {}: here, they do not pay.",
            row.strategy,
            time(t)
        );
    }
    all.push(sentence);
    let here: Vec<&Row> = r.clean().filter(|row| row.workers == most).collect();
    let Some((best, t)) = least(here.iter().copied(), |row| row.seconds_to_target) else {
        return;
    };
    let safe = least(here.iter().copied().filter(|row| Results::waits_for_all(row)), |row| {
        row.seconds_to_target
    });
    match safe {
        _ if most == 1 => {}
        Some((row, s)) if s <= t * (1.0 + EQUAL) => all.push(format!(
            "Choose {} while workers are alike: with {most} workers nothing is faster to the target by more than {}, no gradient is stale, and \
             the result is that of one machine with a {most}-fold batch.",
            row.strategy,
            percent(EQUAL)
        )),
        Some((row, s)) => all.push(format!(
            "Choose {} for speed: with {most} workers it is at the target in {} of the time of {} ({} against {}). Choose {} where the result must \
             be that of one machine with a {most}-fold batch.",
            best.strategy,
            percent(t / s),
            row.strategy,
            time(t),
            time(s),
            row.strategy
        )),
        None => all.push(format!("Choose {} of these for speed with {most} workers.", best.strategy)),
    }
    let missed: Vec<&Row> = here
        .iter()
        .copied()
        .filter(|row| row.seconds_to_target.is_none())
        .collect();
    if !missed.is_empty() {
        all.push(format!(
            "With {most} workers and this budget, {} did not reach the target.",
            names(&missed)
        ));
    }
}

/// Rates, ages and bytes.
fn costs(r: &Results, all: &mut Vec<String>) {
    let most = r.clean().map(|row| row.workers).max().unwrap_or(1);
    let here: Vec<&Row> = r.clean().filter(|row| row.workers == most).collect();
    let rate = |row: &Row| Some(-row.examples_per_second);
    if let (Some((fast, _)), Some((slow, _))) = (
        least(here.iter().copied(), rate),
        least(here.iter().copied(), |row| Some(row.examples_per_second)),
    ) && fast.strategy != slow.strategy
    {
        all.push(format!(
            "With {most} workers, {} trained on the most examples a second ({}) and {} on the fewest ({}).",
            fast.strategy,
            short(fast.examples_per_second),
            slow.strategy,
            short(slow.examples_per_second)
        ));
    }
    if let Some((row, age)) = least(here.iter().copied(), |row| Some(-row.mean_staleness))
        && age < -0.05
    {
        all.push(format!(
            "Gradients are the stalest under {}: {:.1} updates old on average with {most} workers.",
            row.strategy, -age
        ));
    }
    let late: Vec<&Row> = here.iter().copied().filter(|row| row.late > 0).collect();
    if let Some(row) = late.iter().max_by_key(|row| row.late) {
        all.push(format!(
            "{} threw {} of its workers' steps away, since they came too late: the price of backups.",
            row.strategy,
            percent(row.late as f64 / row.pushes.max(1) as f64)
        ));
    }
    let per_example = |row: &Row| {
        let examples = row.examples_per_second * row.seconds;
        row.bytes.filter(|_| examples > 0.0).map(|b| b as f64 / examples)
    };
    if let (Some((thrifty, low)), Some((_, high))) = (
        least(here.iter().copied(), per_example),
        least(here.iter().copied(), |row| per_example(row).map(|b| -b)),
    ) && -high > low * 1.05
    {
        all.push(format!(
            "{} sends the fewest bytes for an example: {}, against up to {}.",
            thrifty.strategy,
            bytes(low),
            bytes(-high)
        ));
    }
}

/// A number of bytes.
pub(super) fn bytes(n: f64) -> String {
    let text = short(n);
    match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(i) => format!("{} {}B", &text[..i], &text[i..]),
        None => format!("{text} B"),
    }
}

/// What goes wrong, and who suffers.
fn trouble(r: &Results, all: &mut Vec<String>) {
    let wrong: Vec<&Row> = r
        .rows
        .iter()
        .filter(|row| row.is_measured() && !row.is_clean())
        .collect();
    let Some(most) = wrong.iter().map(|row| row.workers).max() else {
        return;
    };
    let here: Vec<&Row> = wrong.into_iter().filter(|row| row.workers == most).collect();
    let kept = |row: &Row| row.others_of_clean.unwrap_or(0.0);
    let (fine, hurt): (Vec<&Row>, Vec<&Row>) = here
        .iter()
        .copied()
        .partition(|row| row.errors.is_empty() && kept(row) >= 0.9);
    let with = &r.injection;
    if !fine.is_empty() {
        all.push(format!(
            "With {with}, the other workers kept at least 90 % of their clean rate under {}.",
            names(&fine)
        ));
    }
    if let Some(worst) = hurt.iter().min_by(|a, b| kept(a).total_cmp(&kept(b))) {
        all.push(format!(
            "With {with}, the other workers did not keep their rate under {}; the worst was {}, which kept {}.",
            names(&hurt),
            worst.strategy,
            percent(kept(worst))
        ));
    }
    let gap = |row: &Row| Some((row.others_longest_gap_seconds?, row.gap_limit()?));
    let calm = |row: &Row| gap(row).is_some_and(|(gap, limit)| gap <= limit);
    let killed: Vec<&Row> = here.iter().copied().filter(|row| !row.deaths.is_empty()).collect();
    if !killed.is_empty() {
        let gaps: Vec<String> = killed
            .iter()
            .filter_map(|row| Some(format!("{} {}", row.strategy, time(gap(row)?.0))))
            .collect();
        let (calm, waited): (Vec<&Row>, Vec<&Row>) = killed.iter().copied().partition(|row| calm(row));
        let mut sentence = format!(
            "The longest that another worker went without new values: {}.",
            gaps.join(", ")
        );
        if !calm.is_empty() {
            sentence += &format!(
                " That is no more than 2 median steps and a second under {}",
                names(&calm)
            );
            sentence += &match waited.is_empty() {
                true => ".".to_owned(),
                false => format!(", and more under {}.", names(&waited)),
            };
        }
        all.push(sentence);
    }
    let steady: Vec<&Row> = fine
        .iter()
        .copied()
        .filter(|row| row.deaths.is_empty() || calm(row))
        .collect();
    if !steady.is_empty() {
        let fastest = least(steady.iter().copied(), |row| row.seconds_to_target);
        let first = match fastest {
            Some((row, t)) if steady.len() > 1 => {
                format!(
                    " Of these, {} was first at {}, after {}.",
                    row.strategy,
                    r.target,
                    time(t)
                )
            }
            _ => String::new(),
        };
        all.push(format!("Choose {} if that is to be expected.{first}", either(&steady)));
    }
    for row in here.iter().filter(|row| !row.errors.is_empty()) {
        all.push(format!("{} did not get to its end: {}.", row.strategy, row.errors[0]));
    }
}

/// What the simulation adds.
fn simulated(r: &Results, all: &mut Vec<String>) {
    let rows: Vec<&Row> = r
        .rows
        .iter()
        .filter(|row| !row.is_measured() && row.is_clean())
        .collect();
    let Some(most) = rows.iter().map(|row| row.workers).max() else {
        return;
    };
    // The fewest workers that do it.
    let best = rows.iter().map(|row| row.examples_per_second).fold(0.0, f64::max);
    let enough = rows
        .iter()
        .copied()
        .filter(|row| row.examples_per_second >= 0.99 * best);
    if let Some((row, _)) = least(enough, |row| Some(row.workers as f64)) {
        all.push(format!(
            "Simulated, with a machine for each of up to {} workers: the most examples a second come from {} ({}).",
            short(most as f64),
            workers(row),
            short(row.examples_per_second)
        ));
    }
    for times in &r.times {
        let of = |row: &&&Row| row.ps == times.ps && row.strategy.starts_with("async");
        let of: Vec<(usize, f64)> = rows
            .iter()
            .filter(of)
            .map(|row| (row.workers, row.examples_per_second))
            .collect();
        let (s, is) = if times.ps == 1 { ("", "is") } else { ("s", "are") };
        let ps = times.ps;
        all.extend(busy(&of).map(|busy| match busy {
            Busy::From(n) => format!(
                "Simulated, {ps} parameter server{s} {is} busy all the time with {} asynchronous workers, and more of them only make \
                 gradients staler.",
                short(n as f64)
            ),
            Busy::NotWith(n) => format!(
                "Simulated, {ps} parameter server{s} {is} not yet busy all the time with {} asynchronous workers.",
                short(n as f64)
            ),
        }));
    }
}

/// When servers have no time left.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Busy {
    /// With so many workers; more of them get no more done.
    From(usize),
    /// Not even with so many, the most that were simulated.
    NotWith(usize),
}

/// What is done by numbers of workers, as they were simulated, says of servers; nothing if there is only one number.
fn busy(rates: &[(usize, f64)]) -> Option<Busy> {
    let most = rates.iter().map(|(n, _)| *n).max()?;
    let best = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    let enough = rates.iter().filter(|(_, rate)| *rate >= 0.95 * best).map(|(n, _)| *n);
    match enough.min()? {
        _ if rates.iter().all(|(n, _)| *n == most) => None,
        n if n == most => Some(Busy::NotWith(most)),
        n => Some(Busy::From(n)),
    }
}

/// The sentences that a person should read first.
pub(super) fn sentences(r: &Results) -> Vec<String> {
    let mut all = Vec::new();
    choice(r, &mut all);
    trouble(r, &mut all);
    costs(r, &mut all);
    simulated(r, &mut all);
    all
}

/// What to beware of.
pub(super) fn cautions(r: &Results) -> Vec<String> {
    let mut all = Vec::new();
    if r.is_crowded() {
        all.push(format!(
            "The tasks of a run compete for {} cores here, so that more workers do not make more steps. For how the strategies compare where each worker \
             has a device of its own, let a step wait instead of compute (--compute 5ms), or add --simulate.",
            r.machine.cores
        ));
    }
    if r.compute > 0.0 {
        all.push(format!(
            "Each step sleeps {} in place of a device that computes; rates are those of such devices, not of this machine's cores.",
            time(r.compute)
        ));
    }
    all.push(match r.rows.iter().map(|row| row.repeats.runs).max() {
        Some(n) if n > 1 => format!(
            "Numbers are medians of {n} runs, with the least and the most in brackets. Pictures over time show the run with the median rate."
        ),
        _ => "Every row is one run; expect differences of some percent between runs, or give --repeat.".to_owned(),
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_busy_from_where_more_workers_get_no_more_done() {
        let growing = [(1, 50.0), (2, 100.0), (4, 199.0), (8, 398.0), (32, 889.0)];
        assert_eq!(busy(&growing), Some(Busy::NotWith(32)));
        let full = [(1, 50.0), (64, 890.0), (2, 100.0), (32, 889.0), (16, 700.0)];
        assert_eq!(busy(&full), Some(Busy::From(32)));
        assert_eq!(busy(&[(1, 50.0), (10_000, 51.0)]), Some(Busy::From(1)));
        assert_eq!(busy(&[(4, 50.0)]), None);
        assert_eq!(busy(&[]), None);
    }
}
