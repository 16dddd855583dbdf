//! The definitions of an optimizer's operations, and what their kernels have in common.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::resource::Variable;
use actorflow_core::{DType, PartialShape, Shape};

use super::drive::Storage;
use super::rule::{Field, MOST, Optimizer};
use super::{dense, sparse};
use crate::ops::state::access;

/// The names of an optimizer's operations on references and on resource variables.
macro_rules! apply_names {
    ($name:literal) => {
        [
            concat!("Apply", $name),
            concat!("SparseApply", $name),
            concat!("ResourceApply", $name),
            concat!("ResourceSparseApply", $name),
        ]
    };
}
pub(crate) use apply_names;

/// The definitions of all operations of `O`.
pub fn ops<O: Optimizer>() -> Vec<OpDef> {
    let [dense, sparse, resource_dense, resource_sparse] = O::NAMES;
    [
        (dense, true, false),
        (sparse, true, true),
        (resource_dense, false, false),
        (resource_sparse, false, true),
    ]
    .into_iter()
    .filter(|(name, _, sparse)| !name.is_empty() && (!sparse || !O::SPARSE.is_empty()))
    .map(|(name, is_ref, sparse)| op::<O>(name, is_ref, sparse))
    .collect()
}

fn op<O: Optimizer>(name: &'static str, is_ref: bool, is_sparse: bool) -> OpDef {
    let (inputs, make): (_, KernelFn) = if is_sparse {
        (O::SPARSE, make_sparse::<O>)
    } else {
        (O::INPUTS, make_dense::<O>)
    };
    let held = if is_ref { "Ref(T)" } else { "resource" };
    let mut def = OpDef::new(name, Category::Training).doc(O::DOC);
    for slot in ["var"].iter().chain(O::SLOTS) {
        def = def.input(&format!("{slot}: {held}"));
    }
    for input in inputs {
        let ty = match Arg::of(input) {
            Arg::Step => "int64",
            Arg::Indices => "Tindices",
            Arg::Grad | Arg::Scalar => "T",
        };
        def = def.input(&format!("{input}: {ty}"));
    }
    if is_ref {
        def = def.output("out: Ref(T)");
    }
    def = def.attr("T: numbertype");
    if is_sparse {
        def = def.attr("Tindices: {int32, int64}");
    }
    def = def.attr("use_locking: bool = false");
    for (flag, default) in O::FLAGS {
        def = def.attr(&format!("{flag}: bool = {default}"));
    }
    def.stateful()
        .not_differentiable()
        .shape(if is_sparse { sparse_shape::<O> } else { dense_shape::<O> })
        .cpu(make)
}

/// The common shape of the variable and its slots.
fn state_shape<O: Optimizer>(cx: &ShapeContext<'_>) -> Result<PartialShape> {
    let mut shape = PartialShape::UNKNOWN;
    for i in 0..=O::SLOTS.len() {
        let s = match cx.input_type(i) {
            Some(DType::Resource) => cx.variable_shape(i),
            _ => cx.input(i),
        };
        shape = shape.merge(&s)?;
    }
    Ok(shape)
}

fn check_args(cx: &ShapeContext<'_>, names: &[&str], first: usize) -> Result<()> {
    for (k, name) in names.iter().enumerate() {
        if matches!(Arg::of(name), Arg::Scalar | Arg::Step) {
            let s = cx.input(first + k);
            s.with_rank(0)
                .map_err(|_| Error::invalid(format!("{name} must be a scalar, got shape {s}")))?;
        }
    }
    Ok(())
}

fn position(names: &[&str], arg: Arg) -> Option<usize> {
    names.iter().position(|n| Arg::of(n) == arg)
}

fn dense_shape<O: Optimizer>(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let first = O::SLOTS.len() + 1;
    check_args(cx, O::INPUTS, first)?;
    let mut shape = state_shape::<O>(cx)?;
    if let Some(k) = position(O::INPUTS, Arg::Grad) {
        shape = shape.merge(&cx.input(first + k))?;
    }
    Ok(vec![shape; cx.num_outputs()])
}

fn sparse_shape<O: Optimizer>(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let first = O::SLOTS.len() + 1;
    check_args(cx, O::SPARSE, first)?;
    let mut shape = state_shape::<O>(cx)?.with_rank_at_least(1)?;
    if let (Some(g), Some(i)) = (position(O::SPARSE, Arg::Grad), position(O::SPARSE, Arg::Indices)) {
        let rows = cx.input(first + i).with_rank(1)?.dim(0);
        let grad = cx.input(first + g);
        if let Some(rank) = grad.rank() {
            let of_rows = grad.with_rank_at_least(1)?;
            PartialShape::vector(of_rows.dim(0)).merge(&PartialShape::vector(rows))?;
            let row = of_rows.sub(1, rank);
            shape = shape.merge(&PartialShape::vector(None).concat(&row))?;
        }
    }
    Ok(vec![shape; cx.num_outputs()])
}

/// What an input after the slots is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arg {
    Scalar,
    Grad,
    Step,
    Indices,
}

impl Arg {
    fn of(name: &str) -> Arg {
        match name {
            "grad" | "delta" => Arg::Grad,
            "global_step" => Arg::Step,
            "indices" => Arg::Indices,
            _ => Arg::Scalar,
        }
    }
}

/// The most scalars that an optimizer has.
pub(super) const MOST_SCALARS: usize = 8;

/// Which inputs of a node are what.
pub(super) struct Layout {
    /// The number of variables: 1 and the number of slots.
    pub(super) variables: usize,
    /// The scalars: input and name.
    scalars: Vec<(usize, &'static str)>,
    /// The input with the gradient.
    pub(super) grad: usize,
    /// The input with the rows' indices; of a dense operation, any.
    pub(super) indices: usize,
    pub(super) flags: Vec<bool>,
    /// Whether the variables are references, of which the first is forwarded.
    pub(super) is_ref: bool,
}

impl Layout {
    fn new<O: Optimizer>(init: &KernelInit<'_>, names: &[&'static str]) -> Result<Layout> {
        let first = O::SLOTS.len() + 1;
        let scalars = names.iter().enumerate();
        let scalars = scalars.filter(|(_, n)| matches!(Arg::of(n), Arg::Scalar | Arg::Step));
        Ok(Layout {
            variables: first,
            scalars: scalars.map(|(i, n)| (first + i, *n)).collect(),
            grad: first + position(names, Arg::Grad).unwrap_or(0),
            indices: first + position(names, Arg::Indices).unwrap_or(0),
            flags: O::FLAGS
                .iter()
                .map(|(f, _)| init.attrs.bool(f))
                .collect::<Result<_>>()?,
            is_ref: !init.output_types.is_empty(),
        })
    }

    /// Asks for the turns of all variables.
    pub(super) fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        (0..self.variables).try_for_each(|i| access::want(cx, want, i))
    }

    /// The variables.
    pub(super) fn variables(&self, cx: &OpContext<'_>) -> Result<[Option<Arc<Variable>>; MOST]> {
        let mut vars = [const { None }; MOST];
        for (i, v) in vars.iter_mut().enumerate().take(self.variables) {
            *v = Some(cx.variable(i)?);
        }
        Ok(vars)
    }

    /// The scalars' values.
    pub(super) fn scalars<T: Storage>(&self, cx: &OpContext<'_>) -> Result<[T::Compute; MOST_SCALARS]> {
        let mut values = [T::Compute::default(); MOST_SCALARS];
        for (v, (i, name)) in values.iter_mut().zip(&self.scalars) {
            let t = cx.input(*i)?;
            if !t.shape().is_scalar() {
                return Err(Error::invalid(format!(
                    "{name} must be a scalar, got shape {}",
                    t.shape()
                )));
            }
            *v = match t.dtype() {
                DType::I64 if T::DTYPE != DType::I64 => T::Compute::of(t.to_scalar::<i64>()? as f64),
                _ => t.to_scalar::<T>()?.widen(),
            };
        }
        Ok(values)
    }
}

/// Fails unless a slot has the shape of the variable.
pub(super) fn slot_shape(var: &Variable, shape: &Shape, slot: &Variable, got: &Shape) -> Result<()> {
    if shape == got {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "variable {} and its slot {} must have the same shape, got {shape} and {got}",
        var.name(),
        slot.name()
    )))
}

macro_rules! make {
    ($fn:ident, $module:ident, $names:ident) => {
        fn $fn<O: Optimizer>(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
            use actorflow_core::dtype::DType::*;
            use half::{bf16, f16};
            use num_complex::Complex;
            let layout = Layout::new::<O>(init, O::$names)?;
            Ok(match init.attrs.dtype("T")? {
                F32 => $module::kernel::<O, f32>(layout),
                F64 => $module::kernel::<O, f64>(layout),
                F16 if O::HALF => $module::kernel::<O, f16>(layout),
                BF16 if O::HALF => $module::kernel::<O, bf16>(layout),
                C64 if O::COMPLEX => $module::kernel::<O, Complex<f32>>(layout),
                C128 if O::COMPLEX => $module::kernel::<O, Complex<f64>>(layout),
                _ => return Err(init.no_kernel()),
            })
        }
    };
}

make!(make_dense, dense, INPUTS);
make!(make_sparse, sparse, SPARSE);
