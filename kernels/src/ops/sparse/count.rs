//! `SparseBincount`, `RaggedBincount`, `SparseCountSparseOutput`, `RaggedCountSparseOutput`, `DenseCountSparseOutput`:
//! how often each number occurs in each row.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, Tensor, dispatch, register_ops};

use super::number::Ordered;
use super::{Sparse, indices_tensor, parts};

/// Numbers, each in a row.
struct Counted {
    values: Vec<i64>,
    rows: Vec<usize>,
    /// How many rows there are; `None` if there is just the one and the result has no dimension for rows.
    number: Option<usize>,
}

fn of_sparse(cx: &OpContext<'_>) -> Result<Counted> {
    let s = Sparse::at(cx, 0)?;
    s.check_bounds()?;
    let flat = s.rank <= 1;
    Ok(Counted {
        values: s.values.to_i64_vec()?,
        rows: (0..s.len())
            .map(|k| if flat { 0 } else { s.index(k)[0] as usize })
            .collect(),
        number: match flat {
            true => None,
            false => Some(usize::try_from(s.shape[0]).unwrap_or(0)),
        },
    })
}

/// The row of each value of a ragged tensor with these splits.
///
/// # Errors
/// `INVALID_ARGUMENT` if they do not start at 0, decrease, or do not end at the number of values.
pub(crate) fn rows_of_splits(splits: &[i64], values: usize) -> Result<Vec<usize>> {
    let (Some(0), Some(last)) = (splits.first(), splits.last()) else {
        return Err(Error::invalid("splits must start with 0"));
    };
    if *last != values as i64 {
        return Err(Error::invalid(format!(
            "splits must end with the number of values, got {last} instead of {values}"
        )));
    }
    let mut rows = Vec::with_capacity(values);
    for (row, w) in splits.windows(2).enumerate() {
        if w[0] > w[1] {
            return Err(Error::invalid(format!(
                "splits must not decrease, but {} follows {}",
                w[1], w[0]
            )));
        }
        rows.extend(std::iter::repeat_n(row, (w[1] - w[0]) as usize));
    }
    Ok(rows)
}

fn of_ragged(cx: &OpContext<'_>) -> Result<Counted> {
    let (splits, values) = (cx.input(0)?, cx.input(1)?);
    if splits.shape().rank() != 1 || values.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "splits and values must be vectors, saw shapes {} and {}",
            splits.shape(),
            values.shape()
        )));
    }
    let splits = splits.to_i64_vec()?;
    Ok(Counted {
        values: values.to_i64_vec()?,
        rows: rows_of_splits(&splits, values.len())?,
        number: Some(splits.len() - 1),
    })
}

fn of_dense(cx: &OpContext<'_>) -> Result<Counted> {
    let values = cx.input(0)?;
    let (number, width) = match values.shape().dims() {
        [n] => (None, *n),
        [m, n] => (Some(*m), *n),
        _ => {
            return Err(Error::invalid(format!(
                "the input must be a 1- or 2-dimensional tensor, got shape {}",
                values.shape()
            )));
        }
    };
    Ok(Counted {
        values: values.to_i64_vec()?,
        rows: (0..values.len()).map(|k| k / width.max(1)).collect(),
        number,
    })
}

/// What each value counts for: 1 if `t` is empty.
fn weights<'a, W: Ordered>(t: &'a Tensor, values: &Counted) -> Result<Option<&'a [W]>> {
    match t.len() {
        0 => Ok(None),
        n if n == values.values.len() => Ok(Some(t.as_slice()?)),
        _ => Err(Error::invalid(format!(
            "weights and values must have the same shape; the weights have shape {}, and there are {} values",
            t.shape(),
            values.values.len()
        ))),
    }
}

/// The dense counts: inputs `at` and `at + 1` are the number of bins and the weights.
fn bincount<W: Ordered>(
    cx: &mut OpContext<'_>,
    from: fn(&OpContext<'_>) -> Result<Counted>,
    at: usize,
    binary: bool,
) -> Result<()> {
    let c = from(cx)?;
    let size = cx.input(at)?;
    if !size.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "size must be a scalar, saw shape {}",
            size.shape()
        )));
    }
    let size = size.to_i64()?;
    let bins = usize::try_from(size).map_err(|_| Error::invalid(format!("size ({size}) must be non-negative")))?;
    let w = weights::<W>(cx.input(at + 1)?, &c)?;
    let shape: Shape = c.number.iter().copied().chain([bins]).collect();
    shape.checked_count()?;
    let mut out = cx.zeros(W::DTYPE, shape)?;
    let to = out
        .as_mut_slice::<W>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    let one = W::from_f64(1.0);
    for (k, (v, row)) in c.values.iter().zip(&c.rows).enumerate() {
        // What is no bin is left out.
        if let Some(v) = usize::try_from(*v).ok().filter(|v| *v < bins) {
            let to = &mut to[row * bins + v];
            *to = match w {
                _ if binary => one,
                Some(w) => to.plus(w[k]),
                None => to.plus(one),
            };
        }
    }
    cx.set_output(0, out);
    Ok(())
}

fn bincount_kernel(
    init: &KernelInit<'_>,
    from: fn(&OpContext<'_>) -> Result<Counted>,
    at: usize,
) -> Result<Box<dyn Kernel>> {
    let binary = init.attrs.bool("binary_output")?;
    dispatch!(init.output_types[0], W in [I32, I64, F32, F64] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| bincount::<W>(cx, from, at, binary)))
    }, else Err(init.no_kernel()))
}

fn bins(cx: &ShapeContext<'_>, at: usize) -> Result<Option<usize>> {
    cx.input(at).with_rank(0)?;
    match cx.constant_i64(at) {
        Some(n) => {
            Ok(Some(usize::try_from(n).map_err(|_| {
                Error::invalid(format!("size ({n}) must be non-negative"))
            })?))
        }
        None => Ok(None),
    }
}

fn sparse_bincount() -> OpDef {
    OpDef::new("SparseBincount", Category::Sparse)
        .doc("How often each number below `size` occurs in each row of a sparse tensor, or the sum of its weights.")
        .input("indices: int64")
        .input("values: Tidx")
        .input("dense_shape: int64")
        .input("size: Tidx")
        .input("weights: T")
        .output("output: T")
        .attr("Tidx: {int32, int64}")
        .attr("T: {int32, int64, float, double}")
        .attr("binary_output: bool = false")
        .shape(|cx| {
            let size = bins(cx, 3)?;
            Ok(vec![match super::known_rank(cx, 0)? {
                Some(1) => PartialShape::vector(size),
                Some(_) => PartialShape::new(vec![cx.constant_shape(2)?.dim(0), size]),
                None => PartialShape::UNKNOWN,
            }])
        })
        .not_differentiable()
        .cpu(|init| bincount_kernel(init, of_sparse, 3))
}

fn ragged_bincount() -> OpDef {
    OpDef::new("RaggedBincount", Category::Sparse)
        .doc("How often each number below `size` occurs in each row of a ragged tensor, or the sum of its weights.")
        .input("splits: int64")
        .input("values: Tidx")
        .input("size: Tidx")
        .input("weights: T")
        .output("output: T")
        .attr("Tidx: {int32, int64}")
        .attr("T: {int32, int64, float, double}")
        .attr("binary_output: bool = false")
        .shape(|cx| {
            let rows = cx.input(0).with_rank(1)?.dim(0).and_then(|n| n.checked_sub(1));
            Ok(vec![PartialShape::new(vec![rows, bins(cx, 2)?])])
        })
        .not_differentiable()
        .cpu(|init| bincount_kernel(init, of_ragged, 2))
}

#[derive(Clone, Copy)]
struct Limits {
    least: Option<i64>,
    most: Option<i64>,
    binary: bool,
}

/// The sparse counts; input `at` is the weights.
fn count<W: Ordered>(
    cx: &mut OpContext<'_>,
    from: fn(&OpContext<'_>) -> Result<Counted>,
    at: usize,
    limits: Limits,
) -> Result<()> {
    let c = from(cx)?;
    let w = weights::<W>(cx.input(at)?, &c)?;
    let one = W::from_f64(1.0);
    let mut found: BTreeMap<(usize, i64), W> = BTreeMap::new();
    let mut largest = 0;
    for (k, (v, row)) in c.values.iter().zip(&c.rows).enumerate() {
        if *v < 0 {
            return Err(Error::invalid("input values must all be non-negative"));
        }
        if limits.most.is_some_and(|m| *v >= m) {
            continue;
        }
        largest = largest.max(*v);
        let sum = found.entry((*row, *v)).or_default();
        *sum = match w {
            _ if limits.binary => one,
            Some(w) => sum.plus(w[k]),
            None => sum.plus(one),
        };
    }
    let width = match limits.most {
        Some(m) => m,
        None => largest.saturating_add(1).max(limits.least.unwrap_or(0)),
    };
    let (mut flat, mut values) = (Vec::new(), Vec::with_capacity(found.len()));
    for ((row, v), sum) in found {
        flat.extend(c.number.map(|_| row as i64));
        flat.push(v);
        values.push(sum);
    }
    let shape: Vec<i64> = c.number.iter().map(|n| *n as i64).chain([width]).collect();
    let indices = indices_tensor(values.len(), shape.len(), &flat)?;
    cx.set_output(0, indices);
    cx.set_output(1, Tensor::vector(&values));
    cx.set_output(2, Tensor::vector(&shape));
    Ok(())
}

fn count_kernel(
    init: &KernelInit<'_>,
    from: fn(&OpContext<'_>) -> Result<Counted>,
    at: usize,
) -> Result<Box<dyn Kernel>> {
    let length = |name: &str| -> Result<Option<i64>> { Ok(Some(init.attrs.int(name)?).filter(|n| *n >= 0)) };
    let limits = Limits {
        least: length("minlength")?,
        most: length("maxlength")?,
        binary: init.attrs.bool("binary_output")?,
    };
    dispatch!(init.output_types[1], W in [I32, I64, F32, F64] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| count::<W>(cx, from, at, limits)))
    }, else Err(init.no_kernel()))
}

fn count_def(name: &'static str, inputs: &[&str]) -> OpDef {
    let op = OpDef::new(name, Category::Sparse).doc("How often each number occurs in each row, as a sparse tensor.");
    let op = inputs.iter().fold(op, |op, i| op.input(i));
    op.input("weights: output_type")
        .output("output_indices: int64")
        .output("output_values: output_type")
        .output("output_dense_shape: int64")
        .attr("T: {int32, int64}")
        .attr("minlength: int >= -1 = -1")
        .attr("maxlength: int >= -1 = -1")
        .attr("binary_output: bool")
        .attr("output_type: {int32, int64, float, double}")
        .not_differentiable()
}

fn sparse_count() -> OpDef {
    count_def(
        "SparseCountSparseOutput",
        &["indices: int64", "values: T", "dense_shape: int64"],
    )
    .shape(|cx| Ok(parts(None, super::known_rank(cx, 0)?.map(|r| r.clamp(1, 2)))))
    .cpu(|init| count_kernel(init, of_sparse, 3))
}

fn ragged_count() -> OpDef {
    count_def("RaggedCountSparseOutput", &["splits: int64", "values: T"])
        .shape(|_| Ok(parts(None, Some(2))))
        .cpu(|init| count_kernel(init, of_ragged, 2))
}

fn dense_count() -> OpDef {
    count_def("DenseCountSparseOutput", &["values: T"])
        .shape(|cx| Ok(parts(None, cx.input(0).rank().filter(|r| (1..=2).contains(r)))))
        .cpu(|init| count_kernel(init, of_dense, 1))
}

register_ops!(
    sparse_bincount,
    ragged_bincount,
    sparse_count,
    ragged_count,
    dense_count
);
