//! `RaggedTensorToVariant`, `RaggedTensorFromVariant`, `RaggedTensorToVariantGradient`: ragged tensors as variants.
#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::tensor::Variant;
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::gather::take_ranges;
use super::{inner, nested};
use crate::moves::{self, Fill, Item, Shuffle};
use crate::ops::array::support::index_vector;

/// A ragged tensor as one value; without splits, a tensor.
#[derive(Clone, Debug)]
pub struct Ragged {
    /// The row splits, the outermost first.
    pub splits: Vec<Tensor>,
    /// The values.
    pub values: Tensor,
}

impl Ragged {
    /// The same rows with other values.
    pub fn with_values(&self, values: Tensor) -> Ragged {
        Ragged {
            splits: self.splits.clone(),
            values,
        }
    }
}

fn of_variant(v: &Variant) -> Result<&Ragged> {
    v.downcast_ref()
        .ok_or_else(|| Error::invalid("the variant is no ragged tensor"))
}

fn to_variant(cx: &mut OpContext<'_>, ragged: usize, batched: bool, splits_type: DType) -> Result<()> {
    let splits = (0..ragged).map(|i| cx.input(i).cloned()).collect::<Result<Vec<_>>>()?;
    let values = cx.input(ragged)?.clone();
    let checked = match ragged {
        0 => Vec::new(),
        _ => nested(&splits, &values)?,
    };
    if !batched {
        let one = Arc::new(Ragged { splits, values }) as Variant;
        cx.set_output(0, Tensor::variants([], vec![one])?);
        return Ok(());
    }
    let Some(rows) = checked.first().map(|s| s.len() - 1).or(values.shape().first().copied()) else {
        return Err(Error::invalid("a scalar has no rows to be encoded"));
    };
    let mut out: Vec<Variant> = moves::list(cx, rows)?;
    for row in 0..rows {
        let (mut a, mut b) = match checked.first() {
            Some(s) => (s[row] as usize, s[row + 1] as usize),
            None => (row, row + 1),
        };
        let mut inside = Vec::new();
        for s in checked.iter().skip(1) {
            let ends: Vec<i64> = s[a..=b].iter().map(|e| e - s[a]).collect();
            inside.push(index_vector(splits_type, &ends)?);
            (a, b) = (s[a] as usize, s[b] as usize);
        }
        let part = values.slice_rows(a, b)?;
        let values = if ragged == 0 {
            part.reshape(inner(&values))?
        } else {
            part
        };
        out.push(Arc::new(Ragged { splits: inside, values }) as Variant);
    }
    cx.set_output(0, Tensor::variants([rows], out)?);
    Ok(())
}

fn to_variant_op() -> OpDef {
    OpDef::new("RaggedTensorToVariant", Category::Sparse)
        .doc("A ragged tensor as a variant, or each of its rows as one.")
        .input("rt_nested_splits: RAGGED_RANK * Tsplits")
        .input("rt_dense_values: Tvalues")
        .output("encoded_ragged: variant")
        .attr("RAGGED_RANK: int >= 0")
        .attr("Tvalues: type")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .attr("batched_input: bool")
        .shape(|cx| {
            let rows = match cx.num_inputs() {
                1 => cx.input(0).dim(0),
                _ => cx.input(0).with_rank(1)?.dim(0).and_then(|n| n.checked_sub(1)),
            };
            Ok(vec![match cx.attrs().bool("batched_input")? {
                true => PartialShape::vector(rows),
                false => PartialShape::scalar(),
            }])
        })
        .gradient(|cx, dys| {
            let ragged = cx.num_inputs() - 1;
            let values = cx.input(ragged)?;
            let splits = match ragged {
                0 => cx.graph().constant(0i64)?,
                _ => cx.input(0)?,
            };
            let dx = cx
                .graph()
                .op("RaggedTensorToVariantGradient")
                .input(&cx.dense(dys, 0)?)
                .input(&splits)
                .input(&values.shape_op()?)
                .attr("Tvalues", values.dtype())
                .output()?;
            let mut all = vec![None; ragged];
            all.push(Some(dx.into()));
            Ok(all)
        })
        .cpu(|init| {
            let ragged = init.input_types.len() - 1;
            let (batched, splits) = (init.attrs.bool("batched_input")?, init.attrs.dtype("Tsplits")?);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                to_variant(cx, ragged, batched, splits)
            }))
        })
        .sample(|s| sample(s, true))
        .sample(|s| sample(s, false))
}

fn sample(s: &mut actorflow_core::op::Sampler, batched: bool) -> Result<actorflow_core::Operation> {
    let v = s.normal([5, 2])?;
    let encoded = s
        .op("RaggedTensorToVariant")
        .input_list(&[s.constant([0i64, 2, 2, 5])?])
        .input(&v)
        .attr("batched_input", batched)
        .output()?;
    s.op("RaggedTensorFromVariant")
        .input(&encoded)
        .attr("input_ragged_rank", if batched { 0 } else { 1 })
        .attr("output_ragged_rank", 1)
        .attr("Tvalues", DType::F64)
        .finish()
}

/// Sources one behind the other.
struct Behind;

impl Shuffle for Behind {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn actorflow_core::parallel::Parallel) -> Result<()> {
        let mut at = 0;
        for s in sources {
            out.get_mut(at..at + s.len())
                .ok_or_else(|| Error::internal("a part lies outside of the output"))?
                .clone_from_slice(s);
            at += s.len();
        }
        Ok(())
    }
}

/// Tensors joined along their first dimension.
fn join(cx: &OpContext<'_>, parts: &[&Tensor], dtype: DType) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        return moves::zeros(cx, dtype, Shape::new(&[0]));
    };
    let row = inner(first);
    let mut rows = 0usize;
    for p in parts {
        if p.shape().is_scalar() || inner(p) != row {
            return Err(Error::invalid(format!(
                "the values of all components must have rows of one shape, but shapes are {} and {}",
                first.shape(),
                p.shape()
            )));
        }
        rows += p.shape()[0];
    }
    let shape: Shape = std::iter::once(rows).chain(row.iter().copied()).collect();
    if shape.checked_count()? == 0 {
        return take_ranges(cx, first, &[]).and_then(|t| t.reshape(shape));
    }
    moves::build(cx, dtype, shape, Fill::Any, parts, &Behind)
}

fn from_variant(cx: &mut OpContext<'_>, from: Option<usize>, to: usize, values: DType, splits: DType) -> Result<()> {
    let encoded = cx.input(0)?;
    let rank = encoded.shape().rank();
    let from = match from {
        Some(n) => n,
        None => to.checked_sub(rank).ok_or_else(|| {
            Error::invalid(format!(
                "output_ragged_rank {to} is less than the rank of the input, {rank}"
            ))
        })?,
    };
    if from + rank != to {
        return Err(Error::invalid(format!(
            "output_ragged_rank must be equal to input_ragged_rank + the rank of encoded_ragged; these are {to}, {from} \
             and {rank}"
        )));
    }
    let parts: Vec<&Ragged> = encoded.as_variants()?.iter().map(of_variant).collect::<Result<_>>()?;
    for p in &parts {
        if p.splits.len() != from {
            return Err(Error::invalid(format!(
                "encoded input has ragged rank {}, expected {from}",
                p.splits.len()
            )));
        }
        if p.values.dtype() != values {
            return Err(Error::invalid(format!(
                "expected values of dtype {values}, found {}",
                p.values.dtype()
            )));
        }
        if let Some(s) = p.splits.iter().find(|s| s.dtype() != splits) {
            return Err(Error::invalid(format!(
                "expected row splits of dtype {splits}, found {}",
                s.dtype()
            )));
        }
    }
    let mut outs = Vec::new();
    if rank == 0 {
        let one = parts
            .first()
            .ok_or_else(|| Error::internal("a scalar has an element"))?;
        outs.extend(one.splits.iter().cloned());
        outs.push(one.values.clone());
    } else {
        let mut outer = 1usize;
        for w in encoded.shape().windows(2) {
            outer *= w[0];
            let mut ends: Vec<i64> = moves::list(cx, outer + 1)?;
            ends.extend((0..=outer).map(|i| (i * w[1]) as i64));
            outs.push(index_vector(splits, &ends)?);
        }
        // How many rows each component has, then how its own rows are split.
        let mut ends = vec![0i64];
        for p in &parts {
            let rows = match p.splits.first() {
                Some(s) => s.len().saturating_sub(1),
                None => p.values.shape().first().copied().unwrap_or(0),
            };
            ends.push(ends[ends.len() - 1] + rows as i64);
        }
        outs.push(index_vector(splits, &ends)?);
        for level in 0..from {
            let mut ends = vec![0i64];
            for p in &parts {
                let base = ends[ends.len() - 1];
                ends.extend(p.splits[level].to_i64_vec()?.iter().skip(1).map(|e| e + base));
            }
            outs.push(index_vector(splits, &ends)?);
        }
        let all: Vec<&Tensor> = parts.iter().map(|p| &p.values).collect();
        outs.push(join(cx, &all, values)?);
    }
    outs.into_iter().enumerate().for_each(|(i, t)| cx.set_output(i, t));
    Ok(())
}

fn from_variant_op() -> OpDef {
    OpDef::new("RaggedTensorFromVariant", Category::Sparse)
        .doc("The ragged tensor of a variant, or of a tensor of them, which become its outer dimensions.")
        .input("encoded_ragged: variant")
        .output("output_nested_splits: output_ragged_rank * Tsplits")
        .output("output_dense_values: Tvalues")
        .attr("input_ragged_rank: int >= -1")
        .attr("output_ragged_rank: int >= 0")
        .attr("Tvalues: type")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .shape(|cx| {
            let mut out = vec![PartialShape::vector(None); cx.num_outputs() - 1];
            out.push(PartialShape::UNKNOWN);
            Ok(out)
        })
        .gradient(|cx, dys| {
            let last = cx.node().num_outputs() - 1;
            let batched = match cx.input(0)?.shape().rank() {
                Some(0) => false,
                Some(1) => true,
                None => last > 0,
                Some(_) => return Err(cx.unsupported("for tensors of variants of more than one dimension")),
            };
            let splits = (0..last).map(|i| cx.output(i)).collect::<Result<Vec<_>>>()?;
            let mut b = cx.graph().op("RaggedTensorToVariant");
            b = b.input_list(&splits).input(&cx.dense(dys, last)?);
            Ok(vec![Some(b.attr("batched_input", batched).output()?.into())])
        })
        .cpu(|init| {
            let from = usize::try_from(init.attrs.int("input_ragged_rank")?).ok();
            let to = init.output_types.len() - 1;
            let (values, splits) = (init.attrs.dtype("Tvalues")?, init.attrs.dtype("Tsplits")?);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                from_variant(cx, from, to, values, splits)
            }))
        })
        .sample(|s| sample(s, true))
}

fn gradient_op() -> OpDef {
    OpDef::new("RaggedTensorToVariantGradient", Category::Sparse)
        .doc("The gradient of the values of a ragged tensor from that of its variants.")
        .input("encoded_ragged_grad: variant")
        .input("row_splits: Tsplits")
        .input("dense_values_shape: int32")
        .output("dense_values_grad: Tvalues")
        .attr("Tvalues: type")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .shape(|cx| Ok(vec![cx.constant_shape(2)?]))
        .cpu(|init| {
            let dtype = init.output_types[0];
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let encoded = cx.input(0)?;
                let shape = cx.input(2)?.to_shape()?;
                let parts: Vec<&Ragged> = encoded.as_variants()?.iter().map(of_variant).collect::<Result<_>>()?;
                if let Some(p) = parts.iter().find(|p| p.values.dtype() != dtype) {
                    return Err(Error::invalid(format!(
                        "expected values of dtype {dtype}, found {}",
                        p.values.dtype()
                    )));
                }
                let total = parts.iter().map(|p| p.values.len()).sum::<usize>();
                if total != shape.checked_count()? {
                    return Err(Error::invalid(format!(
                        "the gradients have {total} elements, which do not make up shape {shape}"
                    )));
                }
                let flat = parts.iter().map(|p| p.values.clone().reshape([p.values.len()]));
                let flat = flat.collect::<Result<Vec<_>>>()?;
                let out = join(cx, &flat.iter().collect::<Vec<_>>(), dtype)?.reshape(shape)?;
                cx.set_output(0, out);
                Ok(())
            }))
        })
}

register_ops!(to_variant_op, from_variant_op, gradient_op);
