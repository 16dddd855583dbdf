//! `DenseToDenseSetOperation`, `DenseToSparseSetOperation`, `SparseToSparseSetOperation`, `SetSize`: the last dimension
//! holds sets.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, Tensor, dispatch, register_ops};
use bytes::Bytes;

use super::{Sparse, indices_tensor, known_rank, parts};

/// What can be in a set.
trait Member: Ord + Clone + Send + Sync + 'static {
    fn all(t: &Tensor) -> Result<&[Self]>;
    fn vector(of: Vec<Self>) -> Result<Tensor>;
}

macro_rules! members {
    ($($t:ty)*) => {
        $(impl Member for $t {
            fn all(t: &Tensor) -> Result<&[Self]> {
                t.as_slice()
            }
            fn vector(of: Vec<Self>) -> Result<Tensor> {
                debug_assert_ne!(<$t as Element>::DTYPE, DType::Str);
                Ok(Tensor::vector(&of))
            }
        })*
    };
}

members!(i8 i16 i32 i64 u8 u16);

impl Member for Bytes {
    fn all(t: &Tensor) -> Result<&[Self]> {
        t.as_strings()
    }
    fn vector(of: Vec<Self>) -> Result<Tensor> {
        Tensor::strings([of.len()], of)
    }
}

/// The sets by the index of all dimensions but the last, and these dimensions.
struct Sets<'a, M> {
    sets: BTreeMap<Vec<i64>, BTreeSet<&'a M>>,
    groups: Vec<i64>,
}

/// Which inputs a set comes from.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Dense,
    Sparse,
}

fn of_dense<M: Member>(t: &Tensor) -> Result<Sets<'_, M>> {
    let (Some((width, outer)), true) = (t.shape().dims().split_last(), t.shape().rank() >= 2) else {
        return Err(Error::invalid(format!("shape {} has a rank of less than 2", t.shape())));
    };
    let mut sets: BTreeMap<Vec<i64>, BTreeSet<&M>> = BTreeMap::new();
    let all = M::all(t)?;
    let strides = Shape::new(outer).strides();
    for (k, members) in all.chunks(*width.max(&1)).enumerate() {
        let at = strides.iter().zip(outer).map(|(s, d)| (k / s % d) as i64);
        sets.insert(at.collect(), members.iter().collect());
    }
    Ok(Sets {
        sets,
        groups: outer.iter().map(|d| *d as i64).collect(),
    })
}

fn of_sparse<'a, M: Member>(s: &Sparse<'a>, validate: bool) -> Result<Sets<'a, M>> {
    if s.rank < 2 {
        return Err(Error::invalid(format!(
            "invalid rank {} of a tensor of sets; it must be at least 2",
            s.rank
        )));
    }
    s.check_bounds()?;
    if validate {
        check_order(s)?;
    }
    let mut sets: BTreeMap<Vec<i64>, BTreeSet<&M>> = BTreeMap::new();
    for (k, m) in M::all(s.values)?.iter().enumerate() {
        sets.entry(s.index(k)[..s.rank - 1].to_vec()).or_default().insert(m);
    }
    Ok(Sets {
        sets,
        groups: s.shape[..s.rank - 1].to_vec(),
    })
}

/// Fails unless the elements are in order, and none is there twice.
pub(super) fn check_order(s: &Sparse<'_>) -> Result<()> {
    for k in 1..s.len() {
        let (before, here) = (s.index(k - 1), s.index(k));
        if before >= here {
            let how = if before == here {
                "repeated"
            } else {
                "out of order; `SparseReorder` puts elements in order"
            };
            return Err(Error::invalid(format!("indices[{k}] = {here:?} is {how}")));
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Operation {
    Intersection,
    FirstOnly,
    SecondOnly,
    Union,
}

fn operate<M: Member>(cx: &mut OpContext<'_>, forms: [Form; 2], what: Operation, validate: bool) -> Result<()> {
    let mut next = 0;
    let mut sets = |form: Form| -> Result<Sets<'_, M>> {
        let at = next;
        match form {
            Form::Dense => {
                next += 1;
                of_dense(cx.input(at)?)
            }
            Form::Sparse => {
                next += 3;
                of_sparse(&Sparse::at(cx, at)?, validate)
            }
        }
    };
    let (a, b) = (sets(forms[0])?, sets(forms[1])?);
    if a.groups != b.groups {
        return Err(Error::invalid(format!(
            "mismatched shapes {:?} and {:?} of all dimensions but the last",
            a.groups, b.groups
        )));
    }
    let none = BTreeSet::new();
    let groups: BTreeSet<&Vec<i64>> = a.sets.keys().chain(b.sets.keys()).collect();
    let (mut flat, mut values, mut widest) = (Vec::new(), Vec::new(), 0);
    for group in groups {
        let (x, y) = (a.sets.get(group).unwrap_or(&none), b.sets.get(group).unwrap_or(&none));
        let found: Vec<M> = match what {
            Operation::Intersection => x.intersection(y).map(|m| (**m).clone()).collect(),
            Operation::FirstOnly => x.difference(y).map(|m| (**m).clone()).collect(),
            Operation::SecondOnly => y.difference(x).map(|m| (**m).clone()).collect(),
            Operation::Union => x.union(y).map(|m| (**m).clone()).collect(),
        };
        widest = widest.max(found.len());
        for i in 0..found.len() {
            flat.extend_from_slice(group);
            flat.push(i as i64);
        }
        values.extend(found);
    }
    let shape: Vec<i64> = a.groups.iter().copied().chain([widest as i64]).collect();
    let indices = indices_tensor(values.len(), shape.len(), &flat)?;
    let values = M::vector(values)?;
    cx.set_output(0, indices);
    cx.set_output(1, values);
    cx.set_output(2, Tensor::vector(&shape));
    Ok(())
}

fn kernel(init: &KernelInit<'_>, forms: [Form; 2]) -> Result<Box<dyn Kernel>> {
    let validate = init.attrs.bool("validate_indices")?;
    let what = match init.attrs.str("set_operation")? {
        "intersection" => Operation::Intersection,
        "a-b" => Operation::FirstOnly,
        "b-a" => Operation::SecondOnly,
        "union" => Operation::Union,
        other => return Err(Error::invalid(format!("invalid set_operation {other}"))),
    };
    if init.output_types[1] == DType::Str {
        return Ok(Box::new(move |cx: &mut OpContext<'_>| {
            operate::<Bytes>(cx, forms, what, validate)
        }));
    }
    dispatch!(init.output_types[1], M in [I8, I16, I32, I64, U8, U16] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| operate::<M>(cx, forms, what, validate)))
    }, else Err(init.no_kernel()))
}

const TYPES: &str = "T: {int8, int16, int32, int64, uint8, uint16, string}";

fn definition(name: &'static str, inputs: &[&str]) -> OpDef {
    let op = OpDef::new(name, Category::Sparse)
        .doc("The intersections, differences or unions of the sets that the last dimensions hold, in order.");
    let op = inputs.iter().fold(op, |op, i| op.input(i));
    op.output("result_indices: int64")
        .output("result_values: T")
        .output("result_shape: int64")
        .attr("set_operation: string")
        .attr("validate_indices: bool = true")
        .attr(TYPES)
        .not_differentiable()
}

fn dense_dense() -> OpDef {
    definition("DenseToDenseSetOperation", &["set1: T", "set2: T"])
        .shape(|cx| Ok(parts(None, cx.input(0).rank().or(cx.input(1).rank()))))
        .cpu(|init| kernel(init, [Form::Dense, Form::Dense]))
}

fn dense_sparse() -> OpDef {
    let inputs = ["set1: T", "set2_indices: int64", "set2_values: T", "set2_shape: int64"];
    definition("DenseToSparseSetOperation", &inputs)
        .shape(|cx| Ok(parts(None, cx.input(0).rank().or(known_rank(cx, 1)?))))
        .cpu(|init| kernel(init, [Form::Dense, Form::Sparse]))
}

fn sparse_sparse() -> OpDef {
    let inputs = [
        "set1_indices: int64",
        "set1_values: T",
        "set1_shape: int64",
        "set2_indices: int64",
        "set2_values: T",
        "set2_shape: int64",
    ];
    definition("SparseToSparseSetOperation", &inputs)
        .shape(|cx| Ok(parts(None, known_rank(cx, 0)?.or(known_rank(cx, 3)?))))
        .cpu(|init| kernel(init, [Form::Sparse, Form::Sparse]))
}

fn sizes<M: Member>(cx: &mut OpContext<'_>, validate: bool) -> Result<()> {
    let sets = of_sparse::<M>(&Sparse::at(cx, 0)?, validate)?;
    let shape = Shape::from_i64(&sets.groups)?;
    shape.checked_count()?;
    let strides = shape.strides();
    let mut out = cx.zeros(DType::I32, shape)?;
    let to = out
        .as_mut_slice::<i32>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    for (at, set) in &sets.sets {
        let place: usize = at.iter().zip(&strides).map(|(i, s)| *i as usize * s).sum();
        to[place] = i32::try_from(set.len()).unwrap_or(i32::MAX);
    }
    cx.set_output(0, out);
    Ok(())
}

fn set_size() -> OpDef {
    OpDef::new("SetSize", Category::Sparse)
        .doc("The numbers of different elements of the sets that the last dimension of a sparse tensor holds.")
        .input("set_indices: int64")
        .input("set_values: T")
        .input("set_shape: int64")
        .output("size: int32")
        .attr("validate_indices: bool = true")
        .attr(TYPES)
        .shape(|cx| {
            Ok(vec![match known_rank(cx, 0)? {
                Some(rank) if rank >= 2 => PartialShape::of_rank(rank - 1),
                _ => PartialShape::UNKNOWN,
            }])
        })
        .not_differentiable()
        .cpu(|init| {
            let validate = init.attrs.bool("validate_indices")?;
            if init.input_types[1] == DType::Str {
                return Ok(Box::new(move |cx: &mut OpContext<'_>| sizes::<Bytes>(cx, validate)));
            }
            dispatch!(init.input_types[1], M in [I8, I16, I32, I64, U8, U16] => {
                Ok(Box::new(move |cx: &mut OpContext<'_>| sizes::<M>(cx, validate)))
            }, else Err(init.no_kernel()))
        })
}

register_ops!(dense_dense, dense_sparse, sparse_sparse, set_size);
