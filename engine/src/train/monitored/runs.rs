//! One run on behalf of a program and its hooks.

use std::collections::HashMap;

use actorflow_actors::exec::Trace;
use actorflow_core::cancel::CancelToken;
use actorflow_core::graph::OutputRef;
use actorflow_core::{Error, Output, Result, Tensor};

use super::hook::{RunArgs, RunContext, RunValues, SessionHook};
use crate::session::Session;

/// What everybody asks for, as one run.
#[derive(Default)]
struct Joined {
    args: RunArgs,
    places: HashMap<OutputRef, usize>,
}

impl Joined {
    /// Adds what one of them asks for; where its fetches will be.
    fn add(&mut self, from: &RunArgs) -> Result<Vec<usize>> {
        for (output, value) in &from.feeds {
            if self.args.feeds.iter().any(|(o, _)| o.as_ref() == output.as_ref()) {
                return Err(Error::invalid(format!(
                    "{} is fed twice in one run, by the program and a hook or by two hooks",
                    output.name()
                )));
            }
            self.args.feeds.push((output.clone(), value.clone()));
        }
        for op in &from.targets {
            if !self.args.targets.iter().any(|t| t.id() == op.id()) {
                self.args.targets.push(op.clone());
            }
        }
        self.args.trace |= from.trace;
        self.args.timeout = self.args.timeout.into_iter().chain(from.timeout).min();
        Ok(from.fetches.iter().map(|f| self.place(f)).collect())
    }

    fn place(&mut self, fetch: &Output) -> usize {
        let next = self.args.fetches.len();
        let at = *self.places.entry(fetch.as_ref()).or_insert(next);
        if at == next {
            self.args.fetches.push(fetch.clone());
        }
        at
    }
}

fn chosen(values: &[Tensor], places: &[usize]) -> Result<Vec<Tensor>> {
    let one = |i: &usize| values.get(*i).cloned();
    let all: Option<Vec<Tensor>> = places.iter().map(one).collect();
    all.ok_or_else(|| Error::internal("a run gave fewer values than were fetched"))
}

/// Runs something in a session: the values, and when each node ran if that is asked for.
///
/// # Errors
/// As [`Session::run`].
pub(super) fn in_session(
    session: &Session,
    args: RunArgs,
    cancel: &CancelToken,
) -> Result<(Vec<Tensor>, Option<Trace>)> {
    let mut runner = session.runner().cancel(cancel);
    if let Some(after) = args.timeout {
        runner = runner.timeout(after);
    }
    for (output, value) in args.feeds {
        runner = runner.feed(&output, value);
    }
    for fetch in &args.fetches {
        runner = runner.fetch(fetch);
    }
    for target in &args.targets {
        runner = runner.target(target);
    }
    match args.trace {
        true => runner.run_traced().map(|(v, t)| (v, Some(t))),
        false => Ok((runner.run()?, None)),
    }
}

/// Runs, by `run`, what the program asks for with what the hooks add; the program's values. Of what `run` is given to feed,
/// the program's feeds come first.
///
/// # Errors
/// What a hook or the run says; `INVALID_ARGUMENT` if a tensor is fed twice.
pub(super) fn watched(
    context: &RunContext<'_>,
    hooks: &mut [Box<dyn SessionHook>],
    run: impl FnOnce(RunArgs) -> Result<(Vec<Tensor>, Option<Trace>)>,
) -> Result<Vec<Tensor>> {
    let mut joined = Joined::default();
    let own = joined.add(context.args())?;
    let mut theirs = Vec::with_capacity(hooks.len());
    for hook in hooks.iter_mut() {
        theirs.push(match hook.before_run(context)? {
            Some(extra) => joined.add(&extra)?,
            None => Vec::new(),
        });
    }
    let (values, trace) = run(joined.args)?;
    for (hook, places) in hooks.iter_mut().zip(&theirs) {
        let values = RunValues {
            values: chosen(&values, places)?,
            trace: trace.as_ref(),
        };
        hook.after_run(context, &values)?;
    }
    chosen(&values, &own)
}
