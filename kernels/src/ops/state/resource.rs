//! `VarHandleOp`, `ReadVariableOp`, `VariableShape`, `DestroyResourceOp`, `DisableCopyOnRead`.

#![forbid(unsafe_code)]

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::Variable;
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::access;
use super::variable::Handle;
use crate::shapes;

fn var_handle_op() -> OpDef {
    OpDef::new("VarHandleOp", Category::State)
        .doc("The handle of a resource variable that lives as long as the session.")
        .output("resource: resource")
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .attr("debug_name: string = ''")
        .attr("dtype: type")
        .attr("shape: shape")
        .attr("allowed_devices: list(string) = []")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(|init| Ok(Box::new(Handle::new(init)?)))
}

struct Read(DType);

impl Kernel for Read {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let var = cx.variable(0)?;
        let value = access::value(&var, &*access::state(cx.held(), &var, self.0)?)?.clone();
        cx.set_output(0, value);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn read_variable_op() -> OpDef {
    OpDef::new("ReadVariableOp", Category::State)
        .doc("The resource variable's present value.")
        .input("resource: resource")
        .output("value: dtype")
        .attr("dtype: type")
        .shape(|cx| Ok(vec![cx.variable_shape(0)]))
        .stateful()
        // The gradient with respect to the value is that with respect to the variable, which its handle stands for.
        .gradient(|_, dys| Ok(vec![dys[0].clone()]))
        .cpu(|init| Ok(Box::new(Read(init.attrs.dtype("dtype")?))))
}

struct ShapeOf(DType);

impl Kernel for ShapeOf {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let var = cx.variable(0)?;
        let dims = access::existing(&var, &*cx.state(var.actor())?, false)?
            .shape()
            .to_i64();
        let t = match self.0 {
            DType::I64 => Tensor::vector(&dims),
            _ => {
                let small: std::result::Result<Vec<i32>, _> = dims.iter().map(|d| i32::try_from(*d)).collect();
                Tensor::vector(&small.map_err(|_| {
                    Error::invalid(format!(
                        "the dimensions {dims:?} of variable {} exceed int32",
                        var.name()
                    ))
                })?)
            }
        };
        cx.set_output(0, t);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn variable_shape() -> OpDef {
    OpDef::new("VariableShape", Category::State)
        .doc("The shape of the resource variable's present value.")
        .input("input: resource")
        .output("output: out_type")
        .attr("out_type: {int32, int64} = DT_INT32")
        .shape(|cx| Ok(vec![PartialShape::vector(cx.variable_shape(0).rank())]))
        .stateful()
        .not_differentiable()
        .cpu(|init| Ok(Box::new(ShapeOf(init.attrs.dtype("out_type")?))))
}

/// Takes the variable's value away. The actor itself lives as long as anyone has its handle, and whoever uses it finds
/// it uninitialised.
struct Destroy {
    ignore_lookup_error: bool,
}

impl Kernel for Destroy {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        if let Ok(v) = cx.variable(0) {
            want.want(v);
        }
        Ok(())
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let resources = &cx.step().resources;
        let [handle] = cx.input(0)?.as_resources()? else {
            return Err(Error::invalid("DestroyResourceOp takes one handle"));
        };
        // A variable exists from its first assignment on, anything else from when it is made.
        let mut had = None;
        if let Ok(v) = handle.get::<Variable>() {
            had = Some(cx.state(v.actor())?.value.take().is_some());
        }
        let mut removed = false;
        for (container, name, h) in resources.list() {
            if h.same(handle) {
                removed |= resources.remove(&container, &name);
            }
        }
        if had.unwrap_or(removed) || self.ignore_lookup_error {
            return Ok(());
        }
        Err(Error::not_found(format!("there is no resource {:?}", handle.name())))
    }
}

fn make_destroy(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Destroy {
        ignore_lookup_error: init.attrs.bool("ignore_lookup_error")?,
    }))
}

fn destroy_resource_op() -> OpDef {
    OpDef::new("DestroyResourceOp", Category::State)
        .doc("Destroys the resource: a variable loses its value.")
        .input("resource: resource")
        .attr("ignore_lookup_error: bool = true")
        .shape(shapes::none)
        .stateful()
        .not_differentiable()
        .cpu(make_destroy)
}

fn disable_copy_on_read() -> OpDef {
    // Reads never copy.
    OpDef::new("DisableCopyOnRead", Category::State)
        .doc("Does nothing: reading a variable never copies.")
        .input("resource: resource")
        .shape(shapes::none)
        .stateful()
        .not_differentiable()
        .cpu(|_| Ok(Box::new(|_: &mut OpContext<'_>| Ok(()))))
}

register_ops!(
    var_handle_op,
    read_variable_op,
    variable_shape,
    destroy_resource_op,
    disable_copy_on_read,
);
