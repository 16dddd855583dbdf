//! `RaggedTensorToTensor`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext, IndexedSlices, unbroadcast};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::{Operation, Output, PartialShape, Shape, Tensor, register_ops};

use super::{inner, splits_of};
use crate::moves::{self, Fill, Item, Shuffle};
use crate::ops::list::value::shape_of;

/// How a dimension is divided into rows.
#[derive(Clone, Copy, PartialEq)]
enum Partition {
    FirstDimSize,
    ValueRowIds,
    RowSplits,
}

/// For each child of a level the row that it is in, and how many rows there are.
fn rows_of(kind: Partition, t: &Tensor, rows: Option<usize>) -> Result<(Vec<usize>, usize)> {
    if kind == Partition::RowSplits {
        let s = splits_of(t)?;
        let number = s.len().checked_sub(1).filter(|_| s[0] == 0);
        let number = number
            .filter(|n| rows.is_none_or(|r| r == *n))
            .ok_or_else(|| Error::invalid(format!("invalid row splits for {rows:?} rows: {s:?}")))?;
        let each = s.windows(2).enumerate();
        let rows = each.flat_map(|(r, w)| std::iter::repeat_n(r, (w[1] - w[0]) as usize));
        return Ok((rows.collect(), number));
    }
    let number = rows.ok_or_else(|| Error::invalid("VALUE_ROWIDS must come after a dimension of known size"))?;
    if t.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "value_rowids must be a vector, not of shape {}",
            t.shape()
        )));
    }
    let mut out = Vec::with_capacity(t.len());
    for id in t.to_i64_vec()? {
        let row = usize::try_from(id)
            .ok()
            .filter(|r| *r < number)
            .ok_or_else(|| Error::invalid(format!("got value_rowid={id} which is not less than {number}")))?;
        if out.last().is_some_and(|last| *last > row) {
            return Err(Error::invalid("value_rowids must not decrease"));
        }
        out.push(row);
    }
    Ok((out, number))
}

/// Puts rows of values at their places among copies of a default row.
struct Place<'a> {
    /// Where each row of values goes; `None` if it is cut off.
    places: &'a [Option<usize>],
    /// For each element of a row, the element of the default value.
    default: &'a [usize],
}

impl Shuffle for Place<'_> {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        let [values, default] = sources else {
            return Err(Error::internal("there are two sources"));
        };
        let inner = self.default.len();
        for row in out.chunks_exact_mut(inner) {
            row.iter_mut()
                .zip(self.default)
                .for_each(|(o, d)| o.clone_from(&default[*d]));
        }
        for (k, place) in self.places.iter().enumerate() {
            if let Some(p) = place {
                let from = values.get(k * inner..(k + 1) * inner);
                let from = from.ok_or_else(|| Error::internal("a row is missing"))?;
                out[p * inner..(p + 1) * inner].clone_from_slice(from);
            }
        }
        Ok(())
    }
}

/// For each element of a row of this shape, the element of a tensor that is broadcast to it.
fn broadcast(default: &Shape, row: &Shape) -> Result<Vec<usize>> {
    let lead = row.rank().checked_sub(default.rank());
    let fits = lead.is_some_and(|lead| default.iter().zip(&row[lead..]).all(|(d, r)| *d == 1 || d == r));
    let Some(lead) = lead.filter(|_| fits) else {
        return Err(Error::invalid(format!(
            "default_value of shape {default} and values with rows of shape {row} are incompatible"
        )));
    };
    let (strides, from) = (row.strides(), default.strides());
    Ok((0..row.count())
        .map(|e| {
            let at = (0..default.rank()).map(|i| {
                if default[i] == 1 {
                    0
                } else {
                    e / strides[lead + i] % row[lead + i] * from[i]
                }
            });
            at.sum()
        })
        .collect())
}

fn run(cx: &mut OpContext<'_>, kinds: &[Partition]) -> Result<()> {
    let (asked, values, default) = (shape_of(cx.input(0)?)?, cx.input(1)?, cx.input(2)?);
    let Some(available) = values.shape().dims().first().copied() else {
        return Err(Error::invalid("values must be at least a vector"));
    };
    let row = inner(values);
    let ragged = kinds.iter().filter(|k| **k != Partition::FirstDimSize).count();
    let rank = 1 + ragged + row.rank();
    let asked = asked.with_rank(rank).map_err(|_| {
        Error::invalid(format!(
            "shape {asked} is incompatible with a ragged tensor of {rank} dimensions"
        ))
    })?;
    let mut first = None;
    let mut levels = Vec::with_capacity(ragged);
    for (i, kind) in kinds.iter().enumerate() {
        let t = cx.input(3 + i)?;
        if *kind == Partition::FirstDimSize {
            let n = t.to_i64()?;
            let n = usize::try_from(n).map_err(|_| Error::invalid(format!("the first dimension {n} is negative")))?;
            first = Some(n);
            continue;
        }
        let above = levels
            .last()
            .map(|(rows, _): &(Vec<usize>, usize)| rows.len())
            .or(first);
        if i == kinds.len() - 1 && *kind == Partition::RowSplits {
            let last = splits_of(t)?.last().copied().unwrap_or(0);
            if last > available as i64 {
                return Err(Error::invalid(format!(
                    "row splits end with {last}, but there are {available} values"
                )));
            }
        }
        levels.push(rows_of(*kind, t, above)?);
    }
    let number = levels.first().map_or(first.unwrap_or(0), |(_, n)| *n);
    let mut dims = vec![asked.dim(0).unwrap_or(number)];
    let mut places: Vec<Option<usize>> = (0..number).map(|i| Some(i).filter(|i| *i < dims[0])).collect();
    for (i, (rows, _)) in levels.iter().enumerate() {
        // The position of each child in its row.
        let mut at = Vec::with_capacity(rows.len());
        for (k, r) in rows.iter().enumerate() {
            at.push(if k > 0 && rows[k - 1] == *r {
                at[k - 1] + 1
            } else {
                0usize
            });
        }
        let width = asked.dim(i + 1).unwrap_or_else(|| at.iter().max().map_or(0, |m| m + 1));
        let below = rows.iter().zip(&at);
        places = below
            .map(|(r, at)| {
                places[*r]
                    .filter(|_| *at < width)
                    .and_then(|p| p.checked_mul(width)?.checked_add(*at))
            })
            .collect();
        dims.push(width);
    }
    places.truncate(available);
    dims.extend_from_slice(&row);
    let shape = Shape::new(&dims);
    if !asked.accepts(&shape) {
        return Err(Error::invalid(format!(
            "values with rows of shape {row} and shape {asked} are incompatible"
        )));
    }
    if available < places.len() {
        return Err(Error::invalid("there are fewer values than rows"));
    }
    let of_default = broadcast(default.shape(), &row)?;
    let out = if shape.checked_count()? == 0 {
        moves::zeros(cx, values.dtype(), shape)?
    } else {
        let how = Place {
            places: &places,
            default: &of_default,
        };
        moves::build(cx, values.dtype(), shape, Fill::Any, &[values, default], &how)?
    };
    cx.set_output(0, out);
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let kinds = kinds(&init.attrs.strs("row_partition_types")?)?;
    if kinds.len() + 3 != init.input_types.len() {
        return Err(Error::invalid(
            "row_partition_types must name the type of every row partition",
        ));
    }
    Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, &kinds)))
}

fn kinds(names: &[&str]) -> Result<Vec<Partition>> {
    let of = |name: &&str| match *name {
        "FIRST_DIM_SIZE" => Ok(Partition::FirstDimSize),
        "VALUE_ROWIDS" => Ok(Partition::ValueRowIds),
        "ROW_SPLITS" => Ok(Partition::RowSplits),
        other => Err(Error::invalid(format!("unknown row partition type {other}"))),
    };
    names.iter().map(of).collect()
}

/// The rows of `x` at which `mask`, a vector, is true; and their numbers.
fn chosen(x: &Output, mask: &Output) -> Result<(Output, Output)> {
    let at = mask.unary("Where")?.reshape(&[-1])?;
    Ok((x.gather(&at, 0)?, at))
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let g = cx.graph();
    let (values, default, dy) = (cx.input(1)?, cx.input(2)?, cx.dense(dys, 0)?);
    let names = cx.attrs().strs("row_partition_types")?;
    let ragged = kinds(&names)?.iter().filter(|k| **k != Partition::FirstDimSize).count();
    let shape = values.shape_op()?;
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    let slice = |x: &Output, from: i32, len: i32| {
        g.op("Slice")
            .input(x)
            .input(&g.constant([from])?)
            .input(&g.constant([len])?)
            .output()
    };
    let numbers = g
        .op("Range")
        .input(&zero)
        .input(&shape.gather(&zero, 0)?)
        .input(&one)
        .output()?;
    // For each row of the result, the row of the values that it is, or -1.
    let mut again = g
        .op("RaggedTensorToTensor")
        .input(&slice(&dy.shape_op()?, 0, 1 + ragged as i32)?)
        .input(&numbers)
        .input(&g.constant(-1i32)?);
    let partitions = (3..cx.num_inputs()).map(|i| cx.input(i)).collect::<Result<Vec<_>>>()?;
    again = again.input_list(&partitions);
    let types = cx.attrs().get("row_partition_types").cloned();
    let types = types.ok_or_else(|| Error::internal("the node has row_partition_types"))?;
    let at = again.attr("row_partition_types", types).output()?.reshape(&[-1])?;
    let mask = at.not_equal(&g.constant(-1i32)?)?;
    let rows = dy.reshape_to(&g.concat(&[g.constant([-1i32])?, slice(&shape, 1, -1)?], 0)?)?;
    let (of_values, kept) = chosen(&rows, &mask)?;
    let (of_default, _) = chosen(&rows, &mask.unary("LogicalNot")?)?;
    let slices = IndexedSlices {
        values: of_values,
        indices: at.gather(&kept, 0)?,
        dense_shape: shape,
    };
    let mut all = vec![None; cx.num_inputs()];
    all[1] = Some(slices.into());
    all[2] = Some(unbroadcast(&of_default, &default, &of_default)?.into());
    Ok(all)
}

fn sample(s: &mut actorflow_core::op::Sampler, inner: &[usize], shape: &[i64]) -> Result<Operation> {
    let values: Shape = std::iter::once(5).chain(inner.iter().copied()).collect();
    let (v, d) = (s.normal(values)?, s.normal([])?);
    s.op("RaggedTensorToTensor")
        .input(&s.constant(Tensor::vector(shape))?)
        .input(&v)
        .input(&d)
        .input_list(&[s.constant([0i64, 2, 2, 5])?])
        .attr("row_partition_types", vec!["ROW_SPLITS".to_owned()])
        .finish()
}

fn to_tensor() -> OpDef {
    OpDef::new("RaggedTensorToTensor", Category::Sparse)
        .doc("A dense tensor of the rows of a ragged one, filled up with a default value or cut off.")
        .input("shape: Tshape")
        .input("values: T")
        .input("default_value: T")
        .input("row_partition_tensors: num_row_partition_tensors * Tindex")
        .output("result: T")
        .attr("T: type")
        .attr("Tindex: {int64, int32}")
        .attr("Tshape: {int64, int32}")
        .attr("num_row_partition_tensors: int >= 1")
        .attr("row_partition_types: list(string)")
        .shape(|cx| {
            let ragged = kinds(&cx.attrs().strs("row_partition_types")?)?
                .iter()
                .filter(|k| **k != Partition::FirstDimSize)
                .count();
            let asked = crate::ops::list::value::known_shape(cx, 0)?;
            Ok(vec![match cx.input(1).with_rank_at_least(1)?.rank() {
                Some(r) => asked.with_rank(r + ragged)?,
                None => PartialShape::UNKNOWN,
            }])
        })
        .gradient(gradient)
        .cpu(kernel)
        .sample(|s| sample(s, &[], &[-1, -1]))
        .sample(|s| sample(s, &[2], &[4, 2, -1]))
}

register_ops!(to_tensor);
