//! Conditionals.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::graph::{Context, ContextRef};
use actorflow_core::{DType, Error, Graph, Operation, Output, Result};

use super::branch::{Inner, Way};

/// A branch of [`case`] or [`switch_case`]: adds its nodes and gives its results.
pub type Branch<'a> = Box<dyn FnOnce() -> Result<Vec<Output>> + 'a>;

/// The results of `then` if `pred`, a bool scalar, is true when the graph runs, else those of `otherwise`. Only the
/// nodes of the branch that is taken run; what it uses from outside is computed in any case.
///
/// Both branches give the same number of tensors, of the same dtypes. `TensorFlow: tf.cond`.
///
/// # Errors
/// `INVALID_ARGUMENT` if the predicate is no bool scalar or the branches do not agree; what the branches return.
#[track_caller]
pub fn cond(
    pred: &Output,
    then: impl FnOnce() -> Result<Vec<Output>>,
    otherwise: impl FnOnce() -> Result<Vec<Output>>,
) -> Result<Vec<Output>> {
    let g = pred.graph();
    check_choice(pred, DType::Bool, "the predicate of a conditional")?;
    let _name = g.name_scope("cond");
    let on = pred.identity()?;
    let sides = g.op("Switch").input(&on).input(&on).finish()?;
    let (no, yes) = (sides.output(0)?, sides.output(1)?);
    let no = branch(g, &on, 0, 0, &no, otherwise)?;
    let yes = branch(g, &on, 1, 0, &yes, then)?;
    join(g, vec![no, yes])
}

/// The results of the branch whose number `index`, an int32 scalar, is; of the last one if there is none of that
/// number. `TensorFlow: tf.switch_case`.
///
/// # Errors
/// As [`cond`]; `INVALID_ARGUMENT` without branches.
#[track_caller]
pub fn switch_case(index: &Output, branches: Vec<Branch<'_>>) -> Result<Vec<Output>> {
    let g = index.graph();
    check_choice(index, DType::I32, "the index of a switch")?;
    if branches.is_empty() {
        return Err(Error::invalid("a switch needs at least one branch"));
    }
    let _name = g.name_scope("switch_case");
    let on = index.identity()?;
    let arms = branches.len();
    let n = i64::try_from(arms).unwrap_or(i64::MAX);
    let sides = g.op("_SwitchN").input(&on).input(&on).attr("num_outs", n).finish()?;
    let mut results = Vec::with_capacity(arms);
    for (arm, f) in branches.into_iter().enumerate() {
        results.push(branch(g, &on, arm, arms, &sides.output(arm)?, f)?);
    }
    join(g, results)
}

/// The results of the first of `pairs` whose predicate is true, else those of `default`. `TensorFlow: tf.case`.
///
/// # Errors
/// As [`cond`].
#[track_caller]
pub fn case(pairs: Vec<(Output, Branch<'_>)>, default: Branch<'_>) -> Result<Vec<Output>> {
    let mut pairs = pairs.into_iter();
    match pairs.next() {
        None => default(),
        Some((pred, f)) => {
            let rest: Vec<_> = pairs.collect();
            cond(&pred, f, move || case(rest, default))
        }
    }
}

/// Runs the operations of one of two branches for their effects; the operation that is done when they are.
///
/// # Errors
/// As [`cond`].
#[track_caller]
pub fn cond_run(
    pred: &Output,
    then: impl FnOnce() -> Result<Vec<Operation>>,
    otherwise: impl FnOnce() -> Result<Vec<Operation>>,
) -> Result<Operation> {
    let g = pred.graph();
    let done = |ops: Vec<Operation>| -> Result<Vec<Output>> {
        let _after = g.control_dependencies(&ops);
        Ok(vec![g.constant(true)?])
    };
    let out = cond(pred, || done(then()?), || done(otherwise()?))?;
    match out.first() {
        Some(x) => Ok(x.op()),
        None => Err(Error::internal("a conditional lost its result")),
    }
}

fn check_choice(x: &Output, dtype: DType, what: &str) -> Result<()> {
    if x.dtype() == dtype && x.shape().rank().is_none_or(|r| r == 0) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} must be a {dtype} scalar; {} is {} of shape {}",
        x.name(),
        x.dtype(),
        x.shape()
    )))
}

/// Builds one branch; its results, all of them inside.
fn branch(
    g: &Graph,
    on: &Output,
    arm: usize,
    arms: usize,
    side: &Output,
    f: impl FnOnce() -> Result<Vec<Output>>,
) -> Result<Vec<Output>> {
    // Not the Switch itself: waiting for that would be waiting for either side.
    let pivot = side.identity()?.op();
    let way = Way::Choice {
        on: on.clone(),
        arm,
        arms,
    };
    let inner = Inner::new(g, g.context(), way, &pivot);
    let as_context: Arc<dyn Context> = inner.clone();
    let _inside = g.context_scope(Some(as_context) as ContextRef);
    let mut results = Vec::new();
    for x in f()? {
        if !x.graph().same(g) {
            return Err(Error::invalid(format!("{} is of another graph", x.name())));
        }
        let x = inner.bring_in(&x)?;
        results.push(if x.is_ref() { x.identity()? } else { x });
    }
    Ok(results)
}

fn join(g: &Graph, sides: Vec<Vec<Output>>) -> Result<Vec<Output>> {
    let n = sides.first().map_or(0, Vec::len);
    for (k, s) in sides.iter().enumerate() {
        if s.len() != n {
            return Err(Error::invalid(format!(
                "the branches of a conditional must give equally many results: branch 0 gives {n}, branch {k} gives {}",
                s.len()
            )));
        }
        for (i, (a, b)) in sides[0].iter().zip(s).enumerate() {
            if a.dtype() != b.dtype() {
                return Err(Error::invalid(format!(
                    "result {i} of a conditional is {} from branch 0 and {} from branch {k}; cast one of them",
                    a.dtype(),
                    b.dtype()
                )));
            }
        }
    }
    (0..n)
        .map(|i| {
            let parts: Vec<Output> = sides.iter().map(|s| s[i].clone()).collect();
            g.op("Merge").input_list(&parts).output()
        })
        .collect()
}
