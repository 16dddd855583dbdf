//! Running cells over sequences.

#![forbid(unsafe_code)]

use actorflow_core::{DType, Error, Output, PartialShape, Result};

use super::cells::{Cell, check_state, zeros};
use crate::flow::{TensorArray, TensorArrayOptions, WhileOptions, while_loop};

/// How [`dynamic_rnn`] and the others run.
#[derive(Debug, Clone)]
pub struct RnnOptions {
    /// The length of each sequence, an integer vector `[batch]`. Behind it outputs are zero and the state stays.
    pub sequence_length: Option<Output>,
    /// What the state starts from; zeros otherwise.
    pub initial_state: Option<Vec<Output>>,
    /// The first dimension of inputs and outputs is the time and the second the batch, not the other way round.
    pub time_major: bool,
    /// How many steps may be in progress at once, as far as their data allow.
    pub parallel_iterations: usize,
}

impl Default for RnnOptions {
    fn default() -> Self {
        RnnOptions {
            sequence_length: None,
            initial_state: None,
            time_major: false,
            parallel_iterations: 32,
        }
    }
}

/// The length of dimension `i`, an int32 scalar.
fn length(x: &Output, i: usize) -> Result<Output> {
    let g = x.graph();
    match x.shape().dim(i).and_then(|n| i32::try_from(n).ok()) {
        Some(n) => g.constant(n),
        None => x.shape_op()?.gather(&g.constant(i as i32)?, 0),
    }
}

/// Swaps the first two dimensions.
fn swapped(x: &Output) -> Result<Output> {
    let rank = x.shape().rank().unwrap_or(3);
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    perm.swap(0, 1);
    x.transpose(&perm)
}

/// Sequence lengths as an int32 vector that is checked, when the graph runs, to have `batch` elements.
fn checked_lengths(lengths: &Output, batch: &Output) -> Result<Output> {
    let g = lengths.graph();
    if lengths.shape().rank().is_some_and(|r| r != 1) || !matches!(lengths.dtype(), DType::I32 | DType::I64) {
        return Err(Error::invalid(format!(
            "sequence lengths must be an int32 or int64 vector; {} is {} of shape {}",
            lengths.name(),
            lengths.dtype(),
            lengths.shape()
        )));
    }
    let lengths = lengths.cast(DType::I32)?;
    let (got, want) = (lengths.shape_op()?, batch.expand_dims(0)?);
    let same = got.equal(&want)?;
    let same = same.reduce_by("All", &g.constant(vec![0i32])?, false)?;
    let what = g.constant(actorflow_core::Tensor::from(
        "sequence lengths and sequences differ in number",
    ))?;
    let b = g.op("Assert").input(&same).input_list(&[what, got, want]);
    let check = b.finish()?;
    g.op("Identity").input(&lengths).control_input(&check).output()
}

/// What step `time` leaves of the sequences: `old` of those that are over, `new` of the others.
fn running(time: &Output, lengths: &Output, old: &Output, new: &Output) -> Result<Output> {
    let over = time.greater_equal(lengths)?.expand_dims(1)?;
    // The cell may know less of the batch's size than the state does.
    let shape = new.shape().merge(&old.shape())?;
    let g = time.graph();
    let b = g.op("SelectV2").input(&over).input(old).input(new);
    b.output_shape(0, shape).output()
}

fn first_state(cell: &dyn Cell, batch: &Output, given: Option<Vec<Output>>) -> Result<Vec<Output>> {
    let state = match given {
        Some(s) => s,
        None => cell.zero_state(batch)?,
    };
    check_state(cell, &state)?;
    Ok(state)
}

/// Runs a cell over sequences `[batch, time, features]` (`[time, batch, features]` if time-major) whose number and
/// length need not be known before the graph runs; the outputs of all steps, of the same layout, and the last state.
///
/// It is one [`while_loop`] however long the sequences are, and can be differentiated. `TensorFlow: tf.nn.dynamic_rnn`.
///
/// # Errors
/// `INVALID_ARGUMENT` if the inputs have not three dimensions of which the last is known, or dtypes, state or
/// sequence lengths do not fit.
#[track_caller]
pub fn dynamic_rnn(cell: &dyn Cell, inputs: &Output, options: RnnOptions) -> Result<(Output, Vec<Output>)> {
    let g = inputs.graph();
    let _name = g.name_scope("rnn");
    check_inputs(cell, inputs)?;
    let x = match options.time_major {
        true => inputs.clone(),
        false => swapped(inputs)?,
    };
    let (steps, batch) = (length(&x, 0)?, length(&x, 1)?);
    let lengths = options.sequence_length.as_ref();
    let lengths = lengths.map(|l| checked_lengths(l, &batch)).transpose()?;
    let state = first_state(cell, &batch, options.initial_state)?;
    // Behind the longest sequence nothing happens; one step is made so that the outputs have a shape.
    let bound = match &lengths {
        Some(l) => {
            let longest = l.max(&[], false)?;
            steps.minimum(&longest.maximum(&longest.scalar_like(1.0)?)?)?
        }
        None => steps.clone(),
    };
    let size = x.shape().dim(1);
    let element = |n: Option<usize>| PartialShape::new([size, n]);
    let array = |dtype: DType, width: Option<usize>| {
        let options = TensorArrayOptions {
            element_shape: element(width),
            identical_shapes: true,
            ..TensorArrayOptions::default()
        };
        TensorArray::new(&steps, dtype, options)
    };
    let source = array(x.dtype(), x.shape().dim(2))?.unstack(&x)?;
    let sink = array(cell.dtype(), Some(cell.output_size()))?;
    let blank = zeros(g, &batch, cell.output_size(), cell.dtype())?;
    let mut vars = vec![g.constant(0i32)?, sink.flow().clone()];
    vars.extend(state.iter().cloned());
    let mut shapes = vec![PartialShape::scalar(), PartialShape::scalar()];
    shapes.extend(state.iter().zip(cell.state_sizes()).map(|(s, n)| {
        let known = size.filter(|_| s.shape().dim(0).is_some());
        PartialShape::new([known, Some(n).filter(|_| s.shape().dim(1).is_some())])
    }));
    let out = while_loop(
        &vars,
        |v| v[0].less(&bound),
        |v| {
            let (y, next) = step(cell, &source.read(&v[0])?, &v[2..])?;
            let (y, next) = match &lengths {
                None => (y, next),
                Some(l) => {
                    let next = v[2..].iter().zip(&next).map(|(old, new)| running(&v[0], l, old, new));
                    (running(&v[0], l, &blank, &y)?, next.collect::<Result<Vec<_>>>()?)
                }
            };
            let mut all = vec![(&v[0] + 1)?, sink.with_flow(&v[1]).write(&v[0], &y)?.flow().clone()];
            all.extend(next);
            Ok(all)
        },
        WhileOptions {
            parallel_iterations: options.parallel_iterations,
            shape_invariants: shapes,
            ..WhileOptions::default()
        },
    )?;
    let y = sink.with_flow(&out[1]).stack()?;
    let y = match options.time_major {
        true => y,
        false => swapped(&y)?,
    };
    Ok((y, out[2..].to_vec()))
}

fn check_inputs(cell: &dyn Cell, x: &Output) -> Result<()> {
    let shape = x.shape();
    if shape.rank() == Some(3) && shape.dim(2).is_some() && x.dtype() == cell.dtype() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the inputs of a recurrent network must be {} with three dimensions, the last of them known; {} is {} of shape \
         {shape}",
        cell.dtype(),
        x.name(),
        x.dtype()
    )))
}

/// A step whose results are checked to be what the cell promises.
fn step(cell: &dyn Cell, x: &Output, state: &[Output]) -> Result<(Output, Vec<Output>)> {
    let (y, next) = cell.step(x, state)?;
    check_state(cell, &next)?;
    if y.shape().dim(1).is_some_and(|n| n != cell.output_size()) {
        return Err(Error::invalid(format!(
            "the cell promises outputs of width {}, but gave {} of shape {}",
            cell.output_size(),
            y.name(),
            y.shape()
        )));
    }
    Ok((y, next))
}

/// What a [`bidirectional_dynamic_rnn`] gives, for each direction.
#[derive(Debug, Clone)]
pub struct Bidirectional {
    /// The outputs of the first cell, which sees the sequences from their start.
    pub forward: Output,
    /// Those of the second, which sees them from their end; in the order of the inputs.
    pub backward: Output,
    /// The first cell's last state.
    pub forward_state: Vec<Output>,
    /// The second cell's last state.
    pub backward_state: Vec<Output>,
}

/// Runs one cell over sequences from their start and another one from their end (each sequence from its own end, if
/// lengths are given). `TensorFlow: tf.nn.bidirectional_dynamic_rnn`.
///
/// `options.initial_state` holds the first cell's state followed by the second's.
///
/// # Errors
/// As [`dynamic_rnn`].
#[track_caller]
pub fn bidirectional_dynamic_rnn(
    forward: &dyn Cell,
    backward: &dyn Cell,
    inputs: &Output,
    options: RnnOptions,
) -> Result<Bidirectional> {
    let _name = inputs.graph().name_scope("bidirectional_rnn");
    check_inputs(forward, inputs)?;
    let (mut there, mut back) = (options.clone(), options.clone());
    if let Some(mut all) = options.initial_state {
        let (n, m) = (forward.state_sizes().len(), backward.state_sizes().len());
        if all.len() != n + m {
            return Err(Error::invalid(format!(
                "the initial state of both directions must have {n} and {m} parts, got {} together",
                all.len()
            )));
        }
        back.initial_state = Some(all.split_off(n));
        there.initial_state = Some(all);
    }
    let reversed = |x: &Output| reverse(x, options.sequence_length.as_ref(), options.time_major);
    let (y, forward_state) = dynamic_rnn(forward, inputs, there)?;
    let (z, backward_state) = dynamic_rnn(backward, &reversed(inputs)?, back)?;
    Ok(Bidirectional {
        forward: y,
        backward: reversed(&z)?,
        forward_state,
        backward_state,
    })
}

/// Reverses sequences, each up to its length.
fn reverse(x: &Output, lengths: Option<&Output>, time_major: bool) -> Result<Output> {
    let (time, batch) = if time_major { (0i64, 1i64) } else { (1, 0) };
    let g = x.graph();
    match lengths {
        Some(l) => {
            let b = g.op("ReverseSequence").input(x).input(l);
            b.attr("seq_dim", time).attr("batch_dim", batch).output()
        }
        None => {
            let axis = g.constant(vec![time as i32])?;
            g.op("ReverseV2").input(x).input(&axis).output()
        }
    }
}

/// Runs a cell over a list of inputs `[batch, features]`, one for each step; the outputs of all steps and the last
/// state. The graph grows with the number of steps. `TensorFlow: tf.nn.static_rnn`.
///
/// Of the options, `time_major` and `parallel_iterations` do not matter.
///
/// # Errors
/// `INVALID_ARGUMENT` without inputs, or if dtypes, state or sequence lengths do not fit.
#[track_caller]
pub fn static_rnn(cell: &dyn Cell, inputs: &[Output], options: RnnOptions) -> Result<(Vec<Output>, Vec<Output>)> {
    let Some(first) = inputs.first() else {
        return Err(Error::invalid("a recurrent network needs at least one step"));
    };
    let g = first.graph();
    let _name = g.name_scope("rnn");
    if let Some(x) = inputs
        .iter()
        .find(|x| x.shape().rank().is_some_and(|r| r != 2) || x.dtype() != cell.dtype())
    {
        return Err(Error::invalid(format!(
            "each input of a recurrent network must be a {} matrix; {} is {} of shape {}",
            cell.dtype(),
            x.name(),
            x.dtype(),
            x.shape()
        )));
    }
    let batch = length(first, 0)?;
    let lengths = options.sequence_length.as_ref();
    let lengths = lengths.map(|l| checked_lengths(l, &batch)).transpose()?;
    let mut state = first_state(cell, &batch, options.initial_state)?;
    let blank = match &lengths {
        Some(_) => Some(zeros(g, &batch, cell.output_size(), cell.dtype())?),
        None => None,
    };
    let mut outputs = Vec::with_capacity(inputs.len());
    for (t, x) in inputs.iter().enumerate() {
        let (y, next) = step(cell, x, &state)?;
        match (&lengths, &blank) {
            (Some(l), Some(blank)) => {
                let t = g.scalar(DType::I32, t as f64)?;
                let kept = state.iter().zip(&next).map(|(old, new)| running(&t, l, old, new));
                let kept = kept.collect::<Result<Vec<_>>>()?;
                outputs.push(running(&t, l, blank, &y)?);
                state = kept;
            }
            _ => {
                outputs.push(y);
                state = next;
            }
        }
    }
    Ok((outputs, state))
}
