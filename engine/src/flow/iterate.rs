//! Loops.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::graph::Context;
use actorflow_core::{DType, Error, Output, PartialShape, Result};

use super::branch::{Inner, Way, enter};

/// How a [`while_loop`] runs.
#[derive(Debug, Clone)]
pub struct WhileOptions {
    /// How many iterations may be in progress at once, as far as their data allow.
    pub parallel_iterations: usize,
    /// What is true of the variables' shapes in every iteration; as many as there are variables, or none, and then
    /// each variable keeps the shape that it starts with.
    pub shape_invariants: Vec<PartialShape>,
    /// The loop ends after so many iterations even if its condition is still true; an int32 scalar.
    pub maximum_iterations: Option<Output>,
}

impl Default for WhileOptions {
    fn default() -> Self {
        WhileOptions {
            parallel_iterations: 10,
            shape_invariants: Vec::new(),
            maximum_iterations: None,
        }
    }
}

/// Repeats `body` as long as `cond` is true; the last values of the variables.
///
/// `vars` are the variables' first values. `cond` gives a bool scalar for the variables of an iteration, `body` their
/// values for the next one: as many, of the same dtypes, and of shapes that the invariants allow.
/// `TensorFlow: tf.while_loop`.
///
/// # Errors
/// `INVALID_ARGUMENT` without variables, if `cond` gives no bool scalar, or `body` something else than the variables;
/// what `cond` and `body` return.
#[track_caller]
pub fn while_loop(
    vars: &[Output],
    cond: impl FnOnce(&[Output]) -> Result<Output>,
    body: impl FnOnce(&[Output]) -> Result<Vec<Output>>,
    mut options: WhileOptions,
) -> Result<Vec<Output>> {
    let Some(limit) = options.maximum_iterations.take() else {
        return repeat(vars, cond, body, &options);
    };
    // One more variable counts.
    let zero = limit.scalar_like(0.0)?;
    let mut counted = vec![zero];
    counted.extend_from_slice(vars);
    if !options.shape_invariants.is_empty() {
        options.shape_invariants.insert(0, PartialShape::scalar());
    }
    let out = repeat(
        &counted,
        |v| cond(&v[1..])?.logical_and(&v[0].less(&limit)?),
        |v| {
            let mut next = vec![(&v[0] + 1)?];
            next.extend(body(&v[1..])?);
            Ok(next)
        },
        &options,
    )?;
    Ok(out[1..].to_vec())
}

fn repeat(
    vars: &[Output],
    cond: impl FnOnce(&[Output]) -> Result<Output>,
    body: impl FnOnce(&[Output]) -> Result<Vec<Output>>,
    options: &WhileOptions,
) -> Result<Vec<Output>> {
    let Some(first) = vars.first() else {
        return Err(Error::invalid("a loop needs at least one variable"));
    };
    let g = first.graph().clone();
    if !options.shape_invariants.is_empty() && options.shape_invariants.len() != vars.len() {
        return Err(Error::invalid(format!(
            "a loop with {} variables got {} shape invariants",
            vars.len(),
            options.shape_invariants.len()
        )));
    }
    if options.parallel_iterations == 0 {
        return Err(Error::invalid("parallel_iterations must be at least 1"));
    }
    let parallel = i64::try_from(options.parallel_iterations).unwrap_or(i64::MAX);
    let _name = g.name_scope("while");
    let frame = g.unique_frame_name(&format!("{}while_context", g.current_name_scope()));
    let outer = g.context();
    let starts = vars
        .iter()
        .map(|v| enter(v, &frame, false, parallel))
        .collect::<Result<Vec<_>>>()?;
    let way = Way::Loop { frame, parallel };
    let inner = Inner::new(&g, outer, way, &starts[0].op());
    let context: Arc<dyn Context> = inner.clone();
    let sides = {
        let _inside = g.context_scope(Some(context));
        let mut merges = Vec::with_capacity(vars.len());
        for (i, e) in starts.iter().enumerate() {
            inner.adopt(e);
            let shape = match options.shape_invariants.get(i) {
                Some(s) if !allows(s, &vars[i].shape()) => {
                    return Err(Error::invalid(format!(
                        "loop variable {i} ({}) starts with shape {}, which its invariant {s} does not allow",
                        vars[i].name(),
                        vars[i].shape()
                    )));
                }
                Some(s) => s.clone(),
                None => vars[i].shape(),
            };
            let b = g.op("Merge").input_list(&[e.clone(), e.clone()]);
            merges.push(b.output_shape(0, shape).output()?);
        }
        inner.set_pivot(&merges[0].op());
        let goes_on = inner.bring_in(&cond(&merges)?)?;
        if goes_on.dtype() != DType::Bool || goes_on.shape().rank().is_some_and(|r| r != 0) {
            return Err(Error::invalid(format!(
                "the condition of a loop must be a bool scalar; {} is {} of shape {}",
                goes_on.name(),
                goes_on.dtype(),
                goes_on.shape()
            )));
        }
        let goes_on = goes_on.unary("LoopCond")?;
        let mut sides = Vec::with_capacity(vars.len());
        let mut values = Vec::with_capacity(vars.len());
        for m in &merges {
            let s = g.op("Switch").input(m).input(&goes_on).finish()?;
            values.push(s.output(1)?.identity()?);
            sides.push(s.output(0)?);
        }
        inner.set_pivot(&values[0].op());
        let next = body(&values)?;
        close(&inner, &merges, next)?;
        sides
    };
    sides.iter().map(|s| s.unary("Exit")).collect()
}

/// Connects the variables' next values.
fn close(inner: &Arc<Inner>, merges: &[Output], next: Vec<Output>) -> Result<()> {
    if next.len() != merges.len() {
        return Err(Error::invalid(format!(
            "the body of a loop with {} variables gave {} values",
            merges.len(),
            next.len()
        )));
    }
    for (i, (m, x)) in merges.iter().zip(next).enumerate() {
        if !x.graph().same(m.graph()) {
            return Err(Error::invalid(format!("{} is of another graph", x.name())));
        }
        let x = inner.bring_in(&x)?;
        if x.dtype() != m.dtype() {
            return Err(Error::invalid(format!(
                "loop variable {i} is {}, but the body gave {} ({}); cast it",
                m.dtype(),
                x.dtype(),
                x.name()
            )));
        }
        if !allows(&m.shape(), &x.shape()) {
            return Err(Error::invalid(format!(
                "loop variable {i} has shape {} at the start of an iteration, but {} after it; give shape_invariants \
                 that allow both",
                m.shape(),
                x.shape()
            )));
        }
        let back = x.unary("NextIteration")?;
        m.graph().set_loop_input(&m.op(), 1, &back)?;
    }
    Ok(())
}

/// Whether every tensor of shape `s` is one of shape `bound`.
fn allows(bound: &PartialShape, s: &PartialShape) -> bool {
    match (bound.dims(), s.dims()) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(b), Some(d)) => b.len() == d.len() && b.iter().zip(d).all(|(b, d)| b.is_none() || b == d),
    }
}
