//! When a hook is due.

use std::time::{Duration, Instant};

use actorflow_core::{Error, Result};

/// How often a hook does what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// After so many steps.
    Steps(u64),
    /// After such a time; always if it is zero.
    Time(Duration),
}

/// Remembers when a hook did something last. `TensorFlow: tf.train.SecondOrStepTimer`.
#[derive(Debug)]
pub(super) struct Timer {
    every: Every,
    last: Option<(i64, Instant)>,
}

impl Timer {
    pub(super) fn new(every: Every) -> Timer {
        Timer { every, last: None }
    }

    /// # Errors
    /// `INVALID_ARGUMENT` if it would be due after zero steps.
    pub(super) fn check(&self, hook: &str) -> Result<()> {
        match self.every {
            Every::Steps(0) => Err(Error::invalid(format!(
                "{hook} cannot be due every 0 steps; give it a positive number"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether it is due at a step; at the first one that it sees it is.
    pub(super) fn due(&self, step: i64) -> bool {
        match (self.last, self.every) {
            (None, _) => true,
            (Some((last, _)), _) if last == step => false,
            // The session was restored, so that it counts anew.
            (Some((last, _)), _) if step < last => true,
            (Some((last, _)), Every::Steps(n)) => step.saturating_sub(last) >= i64::try_from(n).unwrap_or(i64::MAX),
            (Some((_, at)), Every::Time(most)) => at.elapsed() >= most,
        }
    }

    /// Notes that it was done; the steps and the time since the last time.
    pub(super) fn mark(&mut self, step: i64) -> Option<(i64, Duration)> {
        let now = Instant::now();
        let before = self.last.replace((step, now));
        before.map(|(last, at)| (step.saturating_sub(last), now.duration_since(at)))
    }

    /// The step of the last time.
    pub(super) fn last(&self) -> Option<i64> {
        self.last.map(|(step, _)| step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_first_and_then_after_so_many_steps() {
        let mut t = Timer::new(Every::Steps(3));
        let due: Vec<i64> = (0..9)
            .filter(|s| t.due(*s) && t.mark(*s).is_none_or(|(n, _)| n == 3))
            .collect();
        assert_eq!(due, [0, 3, 6]);
        assert_eq!(t.last(), Some(6));
        assert!(Timer::new(Every::Steps(0)).check("it").is_err());
    }

    #[test]
    fn a_time_of_zero_is_always_over_but_not_twice_at_a_step() {
        let mut t = Timer::new(Every::Time(Duration::ZERO));
        t.mark(1);
        assert!(!t.due(1) && t.due(2));
        let mut t = Timer::new(Every::Time(Duration::MAX));
        t.mark(1);
        assert!(!t.due(1000));
    }
}
