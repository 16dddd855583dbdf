//! Loops over the rows of tensors.

#![forbid(unsafe_code)]

use std::cell::RefCell;

use actorflow_core::{DType, Error, Output, PartialShape, Result};

use super::iterate::{WhileOptions, while_loop};
use super::tensor_array::{TensorArray, TensorArrayOptions, count, rows};

/// How [`map_fn`], [`scan`], [`foldl`] and [`foldr`] run.
#[derive(Debug, Clone)]
pub struct ElementOptions {
    /// How many rows may be in progress at once, as far as their data allow.
    pub parallel_iterations: usize,
    /// Of [`scan`]: from the last row to the first.
    pub reverse: bool,
}

impl Default for ElementOptions {
    fn default() -> Self {
        ElementOptions {
            parallel_iterations: 10,
            reverse: false,
        }
    }
}

/// Tensors of which one row after the other is read.
struct Source {
    arrays: Vec<TensorArray>,
    /// Their number of rows, an int32 scalar.
    n: Output,
}

impl Source {
    fn new(elems: &[Output]) -> Result<Source> {
        let Some(first) = elems.first() else {
            return Err(Error::invalid("there must be at least one tensor to go over"));
        };
        let n = rows(first)?;
        let arrays = elems
            .iter()
            .map(|x| {
                let Some(rank) = x.shape().rank().or(Some(usize::MAX)).filter(|r| *r > 0) else {
                    return Err(Error::invalid(format!("{} is a scalar and has no rows", x.name())));
                };
                let options = TensorArrayOptions {
                    element_shape: match rank {
                        usize::MAX => PartialShape::UNKNOWN,
                        r => x.shape().sub(1, r),
                    },
                    ..TensorArrayOptions::default()
                };
                TensorArray::new(&n, x.dtype(), options)?.unstack(x)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Source { arrays, n })
    }

    fn read(&self, i: &Output) -> Result<Vec<Output>> {
        self.arrays.iter().map(|a| a.read(i)).collect()
    }
}

/// Arrays into which a loop writes its results.
struct Sink {
    arrays: Vec<TensorArray>,
    /// All row numbers.
    rows: Output,
    shapes: RefCell<Vec<PartialShape>>,
}

impl Sink {
    fn new(n: &Output, dtypes: &[DType]) -> Result<Sink> {
        let made = dtypes
            .iter()
            .map(|t| TensorArray::new(n, *t, TensorArrayOptions::default()));
        Ok(Sink {
            arrays: made.collect::<Result<Vec<_>>>()?,
            rows: count(n)?,
            shapes: RefCell::default(),
        })
    }

    fn flows(&self) -> impl Iterator<Item = Output> + '_ {
        self.arrays.iter().map(|a| a.flow().clone())
    }

    /// Writes row `i`; the flows afterwards.
    fn write(&self, flows: &[Output], i: &Output, values: &[Output]) -> Result<Vec<Output>> {
        *self.shapes.borrow_mut() = values.iter().map(Output::shape).collect();
        let arrays = self.arrays.iter().zip(flows).zip(values);
        arrays
            .map(|((a, flow), x)| Ok(a.with_flow(flow).write(i, x)?.flow().clone()))
            .collect()
    }

    fn stack(&self, flows: &[Output]) -> Result<Vec<Output>> {
        let shapes = self.shapes.borrow();
        let arrays = self.arrays.iter().zip(flows).zip(shapes.iter());
        arrays
            .map(|((a, flow), s)| a.with_flow(flow).with_element_shape(s.clone()).gather(&self.rows))
            .collect()
    }
}

fn check_count(what: &str, got: &[Output], want: usize) -> Result<()> {
    if got.len() == want {
        return Ok(());
    }
    Err(Error::invalid(format!("{what} gave {} tensors, not {want}", got.len())))
}

fn next(i: &Output) -> Result<Output> {
    i + 1
}

fn while_options(options: &ElementOptions) -> WhileOptions {
    WhileOptions {
        parallel_iterations: options.parallel_iterations,
        ..WhileOptions::default()
    }
}

/// `f` of each row (of the same row of each tensor), stacked. `dtypes` are those of what `f` gives.
/// `TensorFlow: tf.map_fn`.
///
/// # Errors
/// `INVALID_ARGUMENT` without tensors, for a scalar, or if `f` gives something else than `dtypes`; what `f` returns.
#[track_caller]
pub fn map_fn(
    elems: &[Output],
    dtypes: &[DType],
    f: impl FnOnce(&[Output]) -> Result<Vec<Output>>,
    options: ElementOptions,
) -> Result<Vec<Output>> {
    let source = Source::new(elems)?;
    let g = source.n.graph();
    let _name = g.name_scope("map");
    let sink = Sink::new(&source.n, dtypes)?;
    let mut vars = vec![g.constant(0i32)?];
    vars.extend(sink.flows());
    let out = while_loop(
        &vars,
        |v| v[0].less(&source.n),
        |v| {
            let y = f(&source.read(&v[0])?)?;
            check_count("the function of map_fn", &y, dtypes.len())?;
            let mut all = vec![next(&v[0])?];
            all.extend(sink.write(&v[1..], &v[0], &y)?);
            Ok(all)
        },
        while_options(&options),
    )?;
    sink.stack(&out[1..])
}

/// The states after each row, stacked: `state = f(state, row)`, starting from `initial`. `TensorFlow: tf.scan`.
///
/// # Errors
/// As [`map_fn`].
#[track_caller]
pub fn scan(
    elems: &[Output],
    initial: &[Output],
    f: impl FnOnce(&[Output], &[Output]) -> Result<Vec<Output>>,
    options: ElementOptions,
) -> Result<Vec<Output>> {
    let source = Source::new(elems)?;
    let g = source.n.graph();
    let _name = g.name_scope("scan");
    let dtypes: Vec<DType> = initial.iter().map(Output::dtype).collect();
    let sink = Sink::new(&source.n, &dtypes)?;
    let k = initial.len();
    let mut vars = vec![g.constant(0i32)?];
    vars.extend_from_slice(initial);
    vars.extend(sink.flows());
    let out = while_loop(
        &vars,
        |v| v[0].less(&source.n),
        |v| {
            let row = if options.reverse {
                // n - 1 - i
                source.n.minus(&next(&v[0])?)?
            } else {
                v[0].clone()
            };
            let state = f(&v[1..=k], &source.read(&row)?)?;
            check_count("the function of scan", &state, k)?;
            let flows = sink.write(&v[k + 1..], &row, &state)?;
            let mut all = vec![next(&v[0])?];
            all.extend(state);
            all.extend(flows);
            Ok(all)
        },
        while_options(&options),
    )?;
    sink.stack(&out[k + 1..])
}

/// The state after the last row: `state = f(state, row)`, starting from `initial`. `TensorFlow: tf.foldl`.
///
/// # Errors
/// As [`map_fn`].
#[track_caller]
pub fn foldl(
    elems: &[Output],
    initial: &[Output],
    f: impl FnOnce(&[Output], &[Output]) -> Result<Vec<Output>>,
    options: ElementOptions,
) -> Result<Vec<Output>> {
    fold(elems, initial, f, &options, false)
}

/// [`foldl`] from the last row to the first. `TensorFlow: tf.foldr`.
///
/// # Errors
/// As [`map_fn`].
#[track_caller]
pub fn foldr(
    elems: &[Output],
    initial: &[Output],
    f: impl FnOnce(&[Output], &[Output]) -> Result<Vec<Output>>,
    options: ElementOptions,
) -> Result<Vec<Output>> {
    fold(elems, initial, f, &options, true)
}

fn fold(
    elems: &[Output],
    initial: &[Output],
    f: impl FnOnce(&[Output], &[Output]) -> Result<Vec<Output>>,
    options: &ElementOptions,
    backwards: bool,
) -> Result<Vec<Output>> {
    let source = Source::new(elems)?;
    let g = source.n.graph();
    let _name = g.name_scope(if backwards { "foldr" } else { "foldl" });
    let mut vars = vec![g.constant(0i32)?];
    vars.extend_from_slice(initial);
    let out = while_loop(
        &vars,
        |v| v[0].less(&source.n),
        |v| {
            let row = match backwards {
                true => source.n.minus(&next(&v[0])?)?,
                false => v[0].clone(),
            };
            let state = f(&v[1..], &source.read(&row)?)?;
            check_count("the function of a fold", &state, initial.len())?;
            let mut all = vec![next(&v[0])?];
            all.extend(state);
            Ok(all)
        },
        while_options(options),
    )?;
    Ok(out[1..].to_vec())
}
