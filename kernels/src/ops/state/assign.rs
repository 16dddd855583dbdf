//! `Assign`, `AssignAdd`, `AssignSub`, `CountUpTo` and their forms for resource variables.

#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, dispatch, register_ops};

use super::access;
use super::arith::{Arith, Update};
use crate::{shapes, spread};

/// Replaces the value; the assigned tensor is shared, not copied.
struct Assign {
    dtype: DType,
    validate_shape: bool,
    is_ref: bool,
}

impl Kernel for Assign {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let value = cx.take_input(1)?;
        let var = cx.variable(0)?;
        let mut state = access::state(cx.held(), &var, self.dtype)?;
        if value.dtype() != self.dtype {
            return Err(Error::invalid(format!(
                "cannot assign a {} value to variable {}, which holds {}",
                value.dtype(),
                var.name(),
                self.dtype
            )));
        }
        if self.validate_shape {
            let have = state.value.as_ref().map(Tensor::shape);
            if have.map_or_else(|| !var.shape().accepts(value.shape()), |h| h != value.shape()) {
                return Err(Error::invalid(format!(
                    "cannot assign a value of shape {} to variable {} of shape {}",
                    value.shape(),
                    var.name(),
                    have.map_or_else(|| var.shape().to_string(), ToString::to_string),
                )));
            }
        }
        state.value = Some(value);
        state.version += 1;
        drop(state);
        if self.is_ref {
            cx.forward(0, 0)?;
        }
        Ok(())
    }
}

fn assign() -> OpDef {
    OpDef::new("Assign", Category::State)
        .doc("Gives the variable a value; with validate_shape, one of its shape.")
        .input("ref: Ref(T)")
        .input("value: T")
        .output("output_ref: Ref(T)")
        .attr("T: type")
        .attr("validate_shape: bool = true")
        .attr("use_locking: bool = true")
        .shape(|cx| {
            Ok(vec![match cx.attrs().bool("validate_shape")? {
                true => cx.input(0).merge(&cx.input(1))?,
                false => cx.input(1),
            }])
        })
        .stateful()
        .not_differentiable()
        .cpu(|init| {
            Ok(Box::new(Assign {
                dtype: init.attrs.dtype("T")?,
                validate_shape: init.attrs.bool("validate_shape")?,
                is_ref: true,
            }))
        })
}

fn assign_variable_op() -> OpDef {
    OpDef::new("AssignVariableOp", Category::State)
        .doc("Gives the resource variable a value; with validate_shape, one of the present value's shape.")
        .input("resource: resource")
        .input("value: dtype")
        .attr("dtype: type")
        .attr("validate_shape: bool = false")
        .shape(|cx| {
            cx.variable_shape(0).merge(&cx.input(1))?;
            Ok(Vec::new())
        })
        .stateful()
        .not_differentiable()
        .cpu(|init| {
            Ok(Box::new(Assign {
                dtype: init.attrs.dtype("dtype")?,
                validate_shape: init.attrs.bool("validate_shape")?,
                is_ref: false,
            }))
        })
}

/// Adds to the value or subtracts from it, in place.
struct AssignUpdate<T> {
    update: Update,
    is_ref: bool,
    of: PhantomData<fn() -> T>,
}

impl<T: Arith> Kernel for AssignUpdate<T> {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let var = cx.variable(0)?;
        let mut state = access::state(cx.held(), &var, T::DTYPE)?;
        let by = cx.input(1)?;
        let have = access::existing(&var, &state, self.is_ref)?.shape();
        access::same_shape(&var, have, "the value", by.shape())?;
        let to = access::writable(&var, &mut state, cx.step().device.pool())?;
        let to = to
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a new buffer is shared"))?;
        let by = by.as_slice::<T>()?;
        spread::chunks(cx.parallel(), to, spread::GRAIN, |i, to| {
            let at = i * spread::GRAIN;
            self.update.zip(to, &by[at..at + to.len()]);
        });
        drop(state);
        if self.is_ref {
            cx.forward(0, 0)?;
        }
        Ok(())
    }
}

fn make_update(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let is_ref = !init.output_types.is_empty();
    let dtype = init.attrs.dtype(if is_ref { "T" } else { "dtype" })?;
    let update = match init.op {
        "AssignAdd" | "AssignAddVariableOp" => Update::Add,
        _ => Update::Sub,
    };
    Ok(dispatch!(dtype, T in numbers => Box::new(AssignUpdate::<T> {
        update,
        is_ref,
        of: PhantomData,
    }), else return Err(init.no_kernel())))
}

fn assign_update(name: &'static str, doc: &'static str) -> OpDef {
    OpDef::new(name, Category::State)
        .doc(doc)
        .input("ref: Ref(T)")
        .input("value: T")
        .output("output_ref: Ref(T)")
        .attr("T: numbertype")
        .attr("use_locking: bool = false")
        .shape(shapes::merged)
        .stateful()
        .not_differentiable()
        .cpu(make_update)
}

fn assign_update_variable(name: &'static str, doc: &'static str) -> OpDef {
    OpDef::new(name, Category::State)
        .doc(doc)
        .input("resource: resource")
        .input("value: dtype")
        .attr("dtype: type")
        .shape(|cx| {
            cx.variable_shape(0).merge(&cx.input(1))?;
            Ok(Vec::new())
        })
        .stateful()
        .not_differentiable()
        .cpu(make_update)
}

fn assign_add() -> OpDef {
    assign_update("AssignAdd", "Adds to the variable.")
}

fn assign_sub() -> OpDef {
    assign_update("AssignSub", "Subtracts from the variable.")
}

fn assign_add_variable_op() -> OpDef {
    assign_update_variable("AssignAddVariableOp", "Adds to the resource variable.")
}

fn assign_sub_variable_op() -> OpDef {
    assign_update_variable("AssignSubVariableOp", "Subtracts from the resource variable.")
}

/// Outputs the value and counts it up, up to a limit.
struct CountUpTo {
    is_ref: bool,
    dtype: DType,
    limit: i64,
}

impl Kernel for CountUpTo {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let var = cx.variable(0)?;
        let mut state = access::state(cx.held(), &var, self.dtype)?;
        let old = access::existing(&var, &state, self.is_ref)?.clone();
        if !old.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "variable {} must be a scalar to be counted up, its shape is {}",
                var.name(),
                old.shape()
            )));
        }
        let now = old.to_i64()?;
        if now >= self.limit {
            return Err(Error::out_of_range(format!(
                "variable {} reached its limit of {}",
                var.name(),
                self.limit
            )));
        }
        // Below the limit, which fits the dtype or is larger than any of its values.
        let next = now.wrapping_add(1);
        state.value =
            Some(match self.dtype {
                DType::I32 => Tensor::scalar(i32::try_from(next).map_err(|_| {
                    Error::out_of_range(format!("variable {} would exceed the largest int32", var.name()))
                })?),
                _ => Tensor::scalar(next),
            });
        state.version += 1;
        drop(state);
        cx.set_output(0, old);
        Ok(())
    }
}

fn make_count(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(CountUpTo {
        is_ref: init.op == "CountUpTo",
        dtype: init.attrs.dtype("T")?,
        limit: init.attrs.int("limit")?,
    }))
}

fn count_up_to() -> OpDef {
    OpDef::new("CountUpTo", Category::State)
        .doc("Outputs the variable's value and adds 1 to it; OUT_OF_RANGE at the limit.")
        .input("ref: Ref(T)")
        .output("output: T")
        .attr("limit: int")
        .attr("T: {int32, int64}")
        .shape(|cx| Ok(vec![cx.input(0).with_rank(0)?]))
        .stateful()
        .not_differentiable()
        .cpu(make_count)
}

fn resource_count_up_to() -> OpDef {
    OpDef::new("ResourceCountUpTo", Category::State)
        .doc("Outputs the resource variable's value and adds 1 to it; OUT_OF_RANGE at the limit.")
        .input("resource: resource")
        .output("output: T")
        .attr("limit: int")
        .attr("T: {int32, int64}")
        .shape(|cx| {
            cx.variable_shape(0).with_rank(0)?;
            Ok(vec![PartialShape::scalar()])
        })
        .stateful()
        .not_differentiable()
        .cpu(make_count)
}

register_ops!(
    assign,
    assign_add,
    assign_sub,
    assign_variable_op,
    assign_add_variable_op,
    assign_sub_variable_op,
    count_up_to,
    resource_count_up_to,
);
