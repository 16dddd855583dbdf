//! Several runs of one case as one row.

use serde::Serialize;

use super::measures::Row;

/// The least and the most of several runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Repeats {
    /// How many runs the row is made of.
    pub(super) runs: usize,
    /// How many of them reached the target.
    pub(super) reached: usize,
    /// Examples a second, in order; empty if there is one run.
    pub(super) examples_per_second: Vec<f64>,
    /// Seconds until the target was reached, of those that did.
    pub(super) seconds_to_target: Vec<f64>,
    /// Accuracy on the test rows at the end.
    pub(super) test_accuracy: Vec<f64>,
}

/// The ends of a list in order, if they differ.
pub(super) fn range(sorted: &[f64]) -> Option<(f64, f64)> {
    match (sorted.first(), sorted.last()) {
        (Some(low), Some(high)) if sorted.len() > 1 => Some((*low, *high)),
        _ => None,
    }
}

fn sorted(x: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut x: Vec<f64> = x.collect();
    x.sort_by(f64::total_cmp);
    x
}

/// The middle one, or the mean of the two; `None` counts as more than everything.
fn middle(runs: &[Row], of: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
    let all = sorted(runs.iter().map(|r| of(r).unwrap_or(f64::INFINITY)));
    let (low, high) = (all.get(all.len().saturating_sub(1) / 2)?, all.get(all.len() / 2)?);
    Some(low + (high - low) / 2.0).filter(|x| x.is_finite())
}

fn certain(runs: &[Row], of: impl Fn(&Row) -> f64) -> f64 {
    middle(runs, |r| Some(of(r))).unwrap_or(0.0)
}

/// One row of the runs of a case: numbers are medians; curves, workers, ages and deaths are those of the run with the median
/// rate; what went wrong is that of all.
pub(super) fn merged(mut runs: Vec<Row>) -> Option<Row> {
    runs.sort_by(|a, b| a.examples_per_second.total_cmp(&b.examples_per_second));
    let mut row = runs.get(runs.len().saturating_sub(1) / 2)?.clone();
    if runs.len() > 1 {
        row.examples_per_second = certain(&runs, |r| r.examples_per_second);
        row.seconds = certain(&runs, |r| r.seconds);
        row.updates_per_second = certain(&runs, |r| r.updates_per_second);
        row.seconds_to_target = middle(&runs, |r| r.seconds_to_target);
        row.examples_to_target = middle(&runs, |r| r.examples_to_target.map(|n| n as f64)).map(|n| n as u64);
        row.test_accuracy = middle(&runs, |r| r.test_accuracy);
        row.test_loss = middle(&runs, |r| r.test_loss);
        row.train_loss = middle(&runs, |r| r.train_loss);
        row.mean_staleness = certain(&runs, |r| r.mean_staleness);
        row.bytes_per_update = middle(&runs, |r| r.bytes_per_update);
        row.waiting = certain(&runs, |r| r.waiting);
        row.others_steps_per_second = certain(&runs, |r| r.others_steps_per_second);
        row.others_longest_gap_seconds = middle(&runs, |r| r.others_longest_gap_seconds);
        row.others_median_step_seconds = middle(&runs, |r| r.others_median_step_seconds);
        row.errors = runs.iter().flat_map(|r| r.errors.clone()).collect();
        row.repeats.examples_per_second = sorted(runs.iter().map(|r| r.examples_per_second));
        row.repeats.seconds_to_target = sorted(runs.iter().filter_map(|r| r.seconds_to_target));
        row.repeats.test_accuracy = sorted(runs.iter().filter_map(|r| r.test_accuracy));
    }
    row.repeats.runs = runs.len();
    row.repeats.reached = runs.iter().filter(|r| r.seconds_to_target.is_some()).count();
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync_vs_async::measures::tests::steady;

    #[test]
    fn numbers_are_medians_with_the_least_and_the_most_beside_them() {
        let run = |rate: f64, target: Option<f64>, accuracy: f64| Row {
            examples_per_second: rate,
            seconds_to_target: target,
            test_accuracy: Some(accuracy),
            ..steady()
        };
        let runs = vec![
            run(300.0, None, 0.9),
            run(100.0, Some(5.0), 0.7),
            run(200.0, Some(3.0), 0.8),
        ];
        let row = merged(runs.clone()).unwrap();
        assert_eq!((row.examples_per_second, row.seconds_to_target), (200.0, Some(5.0)));
        assert_eq!(row.test_accuracy, Some(0.8));
        assert_eq!((row.repeats.runs, row.repeats.reached), (3, 2));
        assert_eq!(range(&row.repeats.examples_per_second), Some((100.0, 300.0)));
        assert_eq!(range(&row.repeats.seconds_to_target), Some((3.0, 5.0)));
        let two = merged(vec![run(300.0, None, 0.9), run(100.0, Some(5.0), 0.7)]).unwrap();
        assert_eq!((two.examples_per_second, two.seconds_to_target), (200.0, None));
        // Most of them did not reach it.
        let missed = merged(vec![run(1.0, None, 0.1), run(2.0, None, 0.1), run(3.0, Some(1.0), 0.9)]).unwrap();
        assert_eq!((missed.seconds_to_target, missed.repeats.reached), (None, 1));
    }

    #[test]
    fn one_run_is_itself_and_none_is_no_row() {
        let row = merged(vec![steady()]).unwrap();
        assert_eq!((row.repeats.runs, range(&row.repeats.examples_per_second)), (1, None));
        assert_eq!(row.examples_per_second, steady().examples_per_second);
        assert!(merged(Vec::new()).is_none());
    }

    #[test]
    fn an_error_of_any_run_is_told() {
        let failed = Row {
            errors: vec!["worker 1: no".to_owned()],
            ..steady()
        };
        assert_eq!(
            merged(vec![steady(), failed, steady()]).unwrap().errors,
            ["worker 1: no"]
        );
    }
}
