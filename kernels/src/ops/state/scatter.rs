//! `ScatterUpdate`, `ScatterAdd` and their kin on references and resource variables.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::Variable;
use actorflow_core::{Shape, Tensor, register_ops};

use super::arith::Update;
use super::rows::{Reach, Rows, index_error, make};
use crate::ops::array::support::ints;

/// `indices[i...]` is a row of the variable; `updates` has a row for each, or is a scalar that goes everywhere.
struct ByRow;

impl Reach for ByRow {
    fn rows(&self, var: &Variable, shape: &Shape, indices: &Tensor, updates: &Shape) -> Result<Rows> {
        let Some((&n, row)) = shape.split_first() else {
            return Err(Error::invalid(format!(
                "variable {} is a scalar, which has no rows to scatter to",
                var.name()
            )));
        };
        let scalar = updates.is_scalar();
        let given = indices.shape().iter().chain(row);
        if !scalar && !given.eq(updates.iter()) {
            return Err(Error::invalid(format!(
                "updates must have the shape of the indices followed by the variable's but for its first dimension, or \
                 be a scalar; got updates {updates}, indices {} and variable {} of shape {shape}",
                indices.shape(),
                var.name()
            )));
        }
        let check = |(at, i): (usize, i64)| match usize::try_from(i) {
            Ok(i) if i < n => Ok(i),
            _ => Err(index_error(indices.shape(), at, &i.to_string(), &format!("[0, {n})"))),
        };
        Ok(Rows {
            picks: ints(indices)?
                .into_iter()
                .enumerate()
                .map(check)
                .collect::<Result<_>>()?,
            len: row.iter().product(),
            scalar,
        })
    }
}

fn update_of(op: &str) -> Update {
    match op.rsplit("Scatter").next() {
        Some("Add") => Update::Add,
        Some("Sub") => Update::Sub,
        Some("Mul") => Update::Mul,
        Some("Div") => Update::Div,
        Some("Min") => Update::Min,
        Some("Max") => Update::Max,
        _ => Update::Set,
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let dtype = init.input_types.get(2).copied();
    make(init, update_of(init.op), dtype, ByRow)
}

const NUMBERS: &str = "numbertype";
const ORDERED: &str = "{half, bfloat16, float, double, int32, int64}";

fn on_reference((name, doc, types): (&'static str, &'static str, &str)) -> OpDef {
    OpDef::new(name, Category::State)
        .doc(doc)
        .input("ref: Ref(T)")
        .input("indices: Tindices")
        .input("updates: T")
        .output("output_ref: Ref(T)")
        .attr(&format!("T: {types}"))
        .attr("Tindices: {int32, int64}")
        .attr(match name {
            "ScatterUpdate" => "use_locking: bool = true",
            _ => "use_locking: bool = false",
        })
        .shape(|cx| Ok(vec![cx.input(0).with_rank_at_least(1)?]))
        .stateful()
        .not_differentiable()
        .cpu(kernel)
}

fn on_resource((name, doc, types): (&'static str, &'static str, &str)) -> OpDef {
    OpDef::new(name, Category::State)
        .doc(doc)
        .input("resource: resource")
        .input("indices: Tindices")
        .input("updates: dtype")
        .attr(&format!("dtype: {types}"))
        .attr("Tindices: {int32, int64}")
        .shape(|cx| {
            cx.variable_shape(0).with_rank_at_least(1)?;
            Ok(Vec::new())
        })
        .stateful()
        .not_differentiable()
        .cpu(kernel)
}

fn references() -> Vec<OpDef> {
    [
        ("ScatterUpdate", "Replaces rows of the variable.", "type"),
        ("ScatterAdd", "Adds to rows of the variable; rows may repeat.", NUMBERS),
        (
            "ScatterSub",
            "Subtracts from rows of the variable; rows may repeat.",
            NUMBERS,
        ),
        (
            "ScatterMul",
            "Multiplies rows of the variable; rows may repeat.",
            NUMBERS,
        ),
        ("ScatterDiv", "Divides rows of the variable; rows may repeat.", NUMBERS),
        ("ScatterMin", "Lowers rows of the variable to the updates.", ORDERED),
        ("ScatterMax", "Raises rows of the variable to the updates.", ORDERED),
    ]
    .map(on_reference)
    .into()
}

fn resources() -> Vec<OpDef> {
    [
        ("ResourceScatterUpdate", "Replaces rows of the variable.", "type"),
        (
            "ResourceScatterAdd",
            "Adds to rows of the variable; rows may repeat.",
            NUMBERS,
        ),
        (
            "ResourceScatterSub",
            "Subtracts from rows of the variable; rows may repeat.",
            NUMBERS,
        ),
        (
            "ResourceScatterMul",
            "Multiplies rows of the variable; rows may repeat.",
            NUMBERS,
        ),
        (
            "ResourceScatterDiv",
            "Divides rows of the variable; rows may repeat.",
            NUMBERS,
        ),
        (
            "ResourceScatterMin",
            "Lowers rows of the variable to the updates.",
            NUMBERS,
        ),
        (
            "ResourceScatterMax",
            "Raises rows of the variable to the updates.",
            NUMBERS,
        ),
    ]
    .map(on_resource)
    .into()
}

register_ops!(all references);
register_ops!(all resources);
