//! `SerializeSparse`, `SerializeManySparse`, `DeserializeSparse`, `DeserializeManySparse`, `AddSparseToTensorsMap`,
//! `AddManySparseToTensorsMap`, `TakeManySparseFromTensorsMap`: sparse tensors as strings, as variants and in a map.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::Resource;
use actorflow_core::tensor::Variant;
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};
use parking_lot::Mutex;

use super::sets::check_order;
use super::{Sparse, indices_tensor, parts, pick, pick_one};
use crate::ops::parse::wire;
use crate::ops::queue::handle::{Handle, Place};

/// The three tensors of a sparse tensor.
type Parts = [Tensor; 3];

/// Checks that the parts belong together.
fn checked(p: &Parts) -> Result<Sparse<'_>> {
    if p[0].dtype() != DType::I64 || p[2].dtype() != DType::I64 {
        return Err(Error::invalid("indices and shape of a sparse tensor must be int64"));
    }
    Sparse::new(&p[0], &p[1], &p[2])
}

/// The sparse tensors that the rows of the first dimension are.
fn rows(cx: &OpContext<'_>) -> Result<Vec<Parts>> {
    let s = Sparse::at(cx, 0)?;
    if s.rank < 2 {
        return Err(Error::invalid(format!(
            "the rank of the input sparse tensor should be > 1, but saw rank {}",
            s.rank
        )));
    }
    s.check_bounds()?;
    check_order(&s)?;
    let n = usize::try_from(s.shape[0]).unwrap_or(0);
    let mut out = crate::moves::list(cx, n)?;
    let mut k = 0;
    for row in 0..n {
        let (mut flat, mut from) = (Vec::new(), Vec::new());
        while k < s.len() && s.index(k)[0] == row as i64 {
            flat.extend_from_slice(&s.index(k)[1..]);
            from.push(k);
            k += 1;
        }
        out.push([
            indices_tensor(from.len(), s.rank - 1, &flat)?,
            pick_one(cx, s.values, &from)?,
            Tensor::vector(&s.shape[1..]),
        ]);
    }
    Ok(out)
}

/// A tensor of three columns: each row a sparse tensor.
fn packed(rows: &[Parts], shape: Shape, dtype: DType) -> Result<Tensor> {
    let all = rows.iter().flatten();
    match dtype {
        DType::Variant => Tensor::variants(shape, all.map(|t| Arc::new(t.clone()) as Variant).collect()),
        _ => Tensor::strings(shape, all.map(wire::encode).collect::<Result<Vec<_>>>()?),
    }
}

/// The opposite of [`packed`].
fn unpacked(t: &Tensor) -> Result<Vec<Parts>> {
    if t.shape().dims().last() != Some(&3) {
        return Err(Error::invalid(format!(
            "serialized sparse tensors should have 3 as the last dimension, not shape {}",
            t.shape()
        )));
    }
    let all: Vec<Tensor> = match t.dtype() {
        DType::Variant => {
            let of = |v: &Variant| v.downcast_ref::<Tensor>().cloned();
            let all: Option<Vec<_>> = t.as_variants()?.iter().map(of).collect();
            all.ok_or_else(|| Error::invalid("a variant is no part of a sparse tensor"))?
        }
        _ => t.as_strings()?.iter().map(|s| wire::decode(s)).collect::<Result<_>>()?,
    };
    Ok(all
        .chunks_exact(3)
        .map(|c| [c[0].clone(), c[1].clone(), c[2].clone()])
        .collect())
}

/// One sparse tensor of several, stacked along new dimensions `outer`.
fn joined(cx: &OpContext<'_>, all: &[Parts], outer: &[usize], dtype: DType) -> Result<Parts> {
    let mut inner: Option<Vec<i64>> = None;
    let (mut flat, mut from, mut rank) = (Vec::new(), Vec::new(), 0);
    let strides = Shape::new(outer).strides();
    for (i, p) in all.iter().enumerate() {
        if p[1].dtype() != dtype {
            return Err(Error::invalid(format!(
                "requested a sparse tensor of type {dtype} but the values of number {i} are {}",
                p[1].dtype()
            )));
        }
        let s = checked(p)?;
        rank = s.rank;
        match &mut inner {
            None => inner = Some(s.shape.to_vec()),
            Some(inner) if inner.len() != s.rank => {
                return Err(Error::invalid(format!(
                    "inconsistent rank across sparse tensors: {} and, at {i}, {}",
                    inner.len(),
                    s.rank
                )));
            }
            Some(inner) => inner.iter_mut().zip(s.shape).for_each(|(a, b)| *a = (*a).max(*b)),
        }
        for k in 0..s.len() {
            flat.extend(strides.iter().zip(outer).map(|(s, d)| (i / s % d) as i64));
            flat.extend_from_slice(s.index(k));
            from.push((i, k));
        }
    }
    let inner = inner.ok_or_else(|| Error::invalid("there should be at least 1 serialized sparse tensor"))?;
    let sources: Vec<&Tensor> = all.iter().map(|p| &p[1]).collect();
    let shape: Vec<i64> = outer.iter().map(|d| *d as i64).chain(inner).collect();
    Ok([
        indices_tensor(from.len(), outer.len() + rank, &flat)?,
        pick(cx, &sources, &from)?,
        Tensor::vector(&shape),
    ])
}

fn set(cx: &mut OpContext<'_>, p: Parts) {
    p.into_iter().enumerate().for_each(|(i, t)| cx.set_output(i, t));
}

fn definition(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Sparse)
        .input("sparse_indices: int64")
        .input("sparse_values: T")
        .input("sparse_shape: int64")
        .attr("T: type")
}

fn one(cx: &OpContext<'_>) -> Result<Parts> {
    Sparse::at(cx, 0)?;
    Ok([cx.input(0)?.clone(), cx.input(1)?.clone(), cx.input(2)?.clone()])
}

fn serialize() -> OpDef {
    definition("SerializeSparse")
        .doc("A sparse tensor as three strings or variants.")
        .output("serialized_sparse: out_type")
        .attr("out_type: {string, variant} = DT_STRING")
        .shape(|_| Ok(vec![PartialShape::from([3])]))
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.output_types[0];
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = packed(&[one(cx)?], Shape::new(&[3]), dtype)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn serialize_many() -> OpDef {
    definition("SerializeManySparse")
        .doc("The rows of a sparse tensor, each as three strings or variants.")
        .output("serialized_sparse: out_type")
        .attr("out_type: {string, variant} = DT_STRING")
        .shape(|_| Ok(vec![PartialShape::new(vec![None, Some(3)])]))
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.output_types[0];
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let rows = rows(cx)?;
                let t = packed(&rows, Shape::new(&[rows.len(), 3]), dtype)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn deserialize(cx: &mut OpContext<'_>, dtype: DType, many: bool) -> Result<()> {
    let t = cx.input(0)?;
    if many && t.shape().rank() != 2 {
        return Err(Error::invalid(format!(
            "serialized sparse tensors should be a matrix, not of shape {}",
            t.shape()
        )));
    }
    let outer = t.shape().dims().split_last().map_or(&[][..], |(_, outer)| outer);
    let all = unpacked(t)?;
    let p = joined(cx, &all, outer, dtype)?;
    set(cx, p);
    Ok(())
}

fn deserialize_one() -> OpDef {
    OpDef::new("DeserializeSparse", Category::Sparse)
        .doc("The sparse tensor of three strings or variants; of more of them, stacked along new dimensions.")
        .input("serialized_sparse: Tserialized")
        .output("sparse_indices: int64")
        .output("sparse_values: dtype")
        .output("sparse_shape: int64")
        .attr("dtype: type")
        .attr("Tserialized: {string, variant} = DT_STRING")
        .shape(|_| Ok(parts(None, None)))
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.output_types[1];
            Ok(Box::new(move |cx: &mut OpContext<'_>| deserialize(cx, dtype, false)))
        })
}

fn deserialize_many() -> OpDef {
    OpDef::new("DeserializeManySparse", Category::Sparse)
        .doc("The sparse tensors of rows of three strings, stacked along a new first dimension.")
        .input("serialized_sparse: string")
        .output("sparse_indices: int64")
        .output("sparse_values: dtype")
        .output("sparse_shape: int64")
        .attr("dtype: type")
        .shape(|_| Ok(parts(None, None)))
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.output_types[1];
            Ok(Box::new(move |cx: &mut OpContext<'_>| deserialize(cx, dtype, true)))
        })
}

/// Sparse tensors that were put aside, by the numbers they were given.
struct Aside {
    kept: Mutex<(i64, BTreeMap<i64, Parts>)>,
}

impl Resource for Aside {
    fn kind(&self) -> &'static str {
        "SparseTensorsMap"
    }
}

fn aside(place: Place) -> Handle<Aside> {
    Handle::new(
        place,
        |_, _| {
            Ok(Aside {
                kept: Mutex::new((0, BTreeMap::new())),
            })
        },
        |_| Ok(()),
    )
}

fn adding(init: &KernelInit<'_>, many: bool) -> Result<Box<dyn Kernel>> {
    let map = aside(Place::of(init)?);
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let rows = if many { rows(cx)? } else { vec![one(cx)?] };
        let map = map.get(cx)?;
        let mut kept = map.kept.lock();
        let mut handles = Vec::with_capacity(rows.len());
        for p in rows {
            let number = kept.0;
            kept.0 += 1;
            kept.1.insert(number, p);
            handles.push(number);
        }
        let shape = if many {
            Shape::new(&[handles.len()])
        } else {
            Shape::SCALAR
        };
        cx.set_output(0, Tensor::from_slice(shape, &handles)?);
        Ok(())
    }))
}

fn add_one() -> OpDef {
    definition("AddSparseToTensorsMap")
        .doc("Puts a sparse tensor aside and gives it a number.")
        .output("sparse_handle: int64")
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .shape(crate::shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(|init| adding(init, false))
}

fn add_many() -> OpDef {
    definition("AddManySparseToTensorsMap")
        .doc("Puts the rows of a sparse tensor aside and gives each a number.")
        .output("sparse_handles: int64")
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .shape(|_| Ok(vec![PartialShape::vector(None)]))
        .stateful()
        .not_differentiable()
        .cpu(|init| adding(init, true))
}

fn take_many() -> OpDef {
    OpDef::new("TakeManySparseFromTensorsMap", Category::Sparse)
        .doc("Takes sparse tensors that were put aside by their numbers, stacked along a new first dimension.")
        .input("sparse_handles: int64")
        .output("sparse_indices: int64")
        .output("sparse_values: dtype")
        .output("sparse_shape: int64")
        .attr("dtype: type")
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .shape(|_| Ok(parts(None, None)))
        .stateful()
        .not_differentiable()
        .cpu(|init| {
            let (map, dtype) = (aside(Place::of(init)?), init.output_types[1]);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let handles = cx.input(0)?;
                if handles.shape().rank() != 1 {
                    return Err(Error::invalid(format!(
                        "sparse_handles should be a vector but received shape {}",
                        handles.shape()
                    )));
                }
                let map = map.get(cx)?;
                let mut all = Vec::with_capacity(handles.len());
                for n in handles.as_slice::<i64>()? {
                    let taken = map.kept.lock().1.remove(n);
                    all.push(
                        taken.ok_or_else(|| Error::invalid(format!("unable to find a sparse tensor of number {n}")))?,
                    );
                }
                let p = joined(cx, &all, &[all.len()], dtype)?;
                set(cx, p);
                Ok(())
            }))
        })
}

register_ops!(
    serialize,
    serialize_many,
    deserialize_one,
    deserialize_many,
    add_one,
    add_many,
    take_many
);
