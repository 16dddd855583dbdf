//! Replication inside of one graph: a tower for each device, whose gradients are averaged.
//!
//! One client runs the graph, which has a copy of the model for each device over variables that are shared. Every step is
//! synchronous. TensorFlow's tutorials call it multi-tower training.

use actorflow_core::gradient::{Grad, IndexedSlices};
use actorflow_core::{Error, Graph, Output, Result};

use crate::train::optimizer::{Optimizer, VariableGrad};
use crate::train::variable::Variable;

/// Towers whose gradients are averaged.
#[derive(Debug, Clone)]
pub struct Towers {
    /// The loss of each tower.
    pub losses: Vec<Output>,
    /// Their mean.
    pub loss: Output,
    /// The mean gradient of each variable, for [`Optimizer::apply_gradients`].
    pub gradients: Vec<VariableGrad>,
}

/// The sum of outputs, added as a tree in their order; see the kernels' `agreement::mean`.
fn sum(parts: &[Output]) -> Result<Output> {
    match parts {
        [one] => Ok(one.clone()),
        _ => {
            let (left, right) = parts.split_at(parts.len().next_power_of_two() / 2);
            &sum(left)? + &sum(right)?
        }
    }
}

fn mean(parts: &[Output]) -> Result<Output> {
    match parts {
        [one] => Ok(one.clone()),
        _ => &sum(parts)? / parts.len() as f64,
    }
}

/// Builds a tower on each device: `tower` gets its number and adds the model to the graph, over `variables` that exist
/// already, with the part of the batch that is the tower's; it returns the loss, the mean over that part. Parts should be of
/// equal size, as all gradients count the same.
///
/// ```
/// use actorflow::train::optimizer::GradientDescent;
/// use actorflow::train::parallel::towers::towers;
/// use actorflow::{Graph, GraphVariables, Optimizer, Session, SessionOptions};
///
/// # fn main() -> actorflow::Result<()> {
/// let g = Graph::new();
/// let w = g.variable("w", 0.0f32)?;
/// let optimizer = Optimizer::new(GradientDescent::new(0.5));
/// let devices = ["/cpu:0".to_owned(), "/cpu:1".to_owned()];
/// let built = towers(&g, &optimizer, &devices, &[w.clone()], |g, i| {
///     (&g.constant(i as f32)? - &*w)?.square()
/// })?;
/// let train = optimizer.apply_gradients(&built.gradients, None)?;
/// let s = Session::with_options(&g, SessionOptions { devices: 2, ..SessionOptions::default() })?;
/// s.execute(&[&g.global_variables_initializer()?])?;
/// s.execute(&[&train])?;
/// assert_eq!(s.variable("w")?.to_scalar::<f32>()?, 0.5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `INVALID_ARGUMENT` without devices, or for a variable whose gradient is sparse in one tower and dense in another; what
/// `tower` returns.
pub fn towers(
    graph: &Graph,
    optimizer: &Optimizer,
    devices: &[String],
    variables: &[Variable],
    mut tower: impl FnMut(&Graph, usize) -> Result<Output>,
) -> Result<Towers> {
    if devices.is_empty() {
        return Err(Error::invalid("towers need at least one device"));
    }
    let mut losses = Vec::new();
    let mut gradients: Vec<Vec<Grad>> = vec![Vec::new(); variables.len()];
    for (i, device) in devices.iter().enumerate() {
        let _there = graph.device_scope(device);
        let _name = graph.name_scope(&format!("tower_{i}"));
        let loss = tower(graph, i)?;
        for (all, (grad, _)) in gradients
            .iter_mut()
            .zip(optimizer.compute_gradients(&loss, Some(variables))?)
        {
            all.extend(grad);
        }
        losses.push(loss);
    }
    let _name = graph.name_scope("towers");
    let mut out = Vec::new();
    for (all, v) in gradients.into_iter().zip(variables) {
        out.push((average(graph, all, devices.len(), v)?, v.clone()));
    }
    Ok(Towers {
        loss: mean(&losses)?,
        losses,
        gradients: out,
    })
}

fn average(g: &Graph, all: Vec<Grad>, towers: usize, v: &Variable) -> Result<Option<Grad>> {
    let (mut dense, mut values, mut indices, mut shape) = (Vec::new(), Vec::new(), Vec::new(), None);
    for grad in all {
        match grad {
            Grad::Dense(d) => dense.push(d),
            Grad::Slices(s) => {
                values.push(s.values);
                indices.push(s.indices);
                shape = Some(s.dense_shape);
            }
        }
    }
    let mean = |sum: Output| if towers == 1 { Ok(sum) } else { &sum / towers as f64 };
    match (dense.is_empty(), shape) {
        (true, None) => Ok(None),
        (false, None) => Ok(Some(Grad::Dense(mean(sum(&dense)?)?))),
        (true, Some(dense_shape)) => {
            let joined = |parts: &[Output]| match parts {
                [one] => Ok(one.clone()),
                many => g.concat(many, 0),
            };
            Ok(Some(Grad::Slices(IndexedSlices {
                values: mean(joined(&values)?)?,
                indices: joined(&indices)?,
                dense_shape,
            })))
        }
        (false, Some(_)) => Err(Error::invalid(format!(
            "the gradient of variable {} is sparse in one tower and dense in another",
            v.name()
        ))),
    }
}
