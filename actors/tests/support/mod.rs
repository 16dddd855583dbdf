//! Runs a scenario as a loom model, or as a short stress test in a normal build.

/// Under loom every interleaving (up to `LOOM_MAX_PREEMPTIONS`, or 3), else some hundred runs on real threads.
pub(crate) fn model(scenario: impl Fn() + Send + Sync + 'static) {
    #[cfg(loom)]
    {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(3));
        builder.check(scenario);
    }
    #[cfg(not(loom))]
    for _ in 0..300 {
        scenario();
    }
}
