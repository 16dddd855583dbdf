//! `Variable`, `VariableV2`, `IsVariableInitialized`, `TemporaryVariable`, `DestroyTemporaryVariable`.

use std::sync::Arc;

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::{ResourceManager, Variable};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};
use parking_lot::RwLock;

use super::access;
use crate::shapes;

/// Outputs the handle of a variable of the session, which it makes on first use.
pub(super) struct Handle {
    container: String,
    name: String,
    dtype: DType,
    shape: PartialShape,
    /// The handle, and [`ResourceManager::removals`] when it was looked up.
    cached: RwLock<Option<(u64, Tensor)>>,
}

impl Handle {
    pub(super) fn new(init: &KernelInit<'_>) -> Result<Self> {
        let shared = init.attrs.str("shared_name")?;
        Ok(Handle {
            container: init.attrs.str("container")?.to_owned(),
            name: if shared.is_empty() { init.name } else { shared }.to_owned(),
            dtype: init.attrs.dtype("dtype")?,
            shape: init.attrs.shape("shape")?.clone(),
            cached: RwLock::new(None),
        })
    }

    fn find(&self, resources: &Arc<ResourceManager>) -> Result<Tensor> {
        let removals = resources.removals();
        let make = || {
            let mailbox = resources.mailbox();
            Ok(Variable::new(&self.name, self.dtype, self.shape.clone(), mailbox))
        };
        let handle = resources.get_or_create(&self.container, &self.name, make)?;
        let v = handle.get::<Variable>()?;
        if v.dtype() != self.dtype || v.shape().merge(&self.shape).is_err() {
            return Err(Error::invalid(format!(
                "variable {} is shared as {}{}, but exists as {}{}",
                self.name,
                self.dtype,
                self.shape,
                v.dtype(),
                v.shape()
            )));
        }
        let t = Tensor::resource(handle);
        *self.cached.write() = Some((removals, t.clone()));
        Ok(t)
    }
}

impl Kernel for Handle {
    #[inline]
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let resources = &cx.step().resources;
        let cached = match &*self.cached.read() {
            Some((at, t)) if *at == resources.removals() => Some(t.clone()),
            _ => None,
        };
        let t = match cached {
            Some(t) => t,
            None => self.find(resources)?,
        };
        cx.set_output(0, t);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn variable_op(name: &'static str) -> OpDef {
    OpDef::new(name, Category::State)
        .output("ref: Ref(dtype)")
        .attr("shape: shape")
        .attr("dtype: type")
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .stateful()
        .not_differentiable()
        .cpu(|init| Ok(Box::new(Handle::new(init)?)))
}

fn variable_v2() -> OpDef {
    variable_op("VariableV2")
        .doc("A reference to a variable that lives as long as the session.")
        .shape(|cx| Ok(vec![cx.attrs().shape("shape")?.clone()]))
}

fn variable_v1() -> OpDef {
    variable_op("Variable")
        .doc("As VariableV2; an empty shape means that the shape is not known.")
        .shape(|cx| {
            let s = cx.attrs().shape("shape")?;
            let unknown = s.rank() == Some(0);
            Ok(vec![if unknown { PartialShape::UNKNOWN } else { s.clone() }])
        })
}

struct IsInitialized;

impl Kernel for IsInitialized {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let v = cx.variable(0)?;
        let is = cx.state(v.actor())?.value.is_some();
        cx.set_output(0, Tensor::scalar(is));
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn is_variable_initialized() -> OpDef {
    OpDef::new("IsVariableInitialized", Category::State)
        .doc("Whether the variable has a value.")
        .input("ref: Ref(dtype)")
        .output("is_initialized: bool")
        .attr("dtype: type")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(|_| Ok(Box::new(IsInitialized)))
}

fn var_is_initialized_op() -> OpDef {
    OpDef::new("VarIsInitializedOp", Category::State)
        .doc("Whether the resource variable has a value.")
        .input("resource: resource")
        .output("is_initialized: bool")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(|_| Ok(Box::new(IsInitialized)))
}

/// The container of temporary variables among a step's resources.
const TEMPORARY: &str = "temporary variables";

fn temporary_name(init: &KernelInit<'_>) -> Result<String> {
    let name = init.attrs.str("var_name")?;
    Ok(if name.is_empty() { init.name } else { name }.to_owned())
}

struct Temporary {
    name: String,
    dtype: DType,
    shape: PartialShape,
}

impl Kernel for Temporary {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let mut made = false;
        let shape = self.shape.to_shape().ok_or_else(|| {
            Error::invalid(format!(
                "the shape of temporary variable {} must be known, it is {}",
                self.name, self.shape
            ))
        })?;
        let value = cx.zeros(self.dtype, shape)?;
        let resources = &cx.step().step_resources;
        let handle = resources.get_or_create(TEMPORARY, &self.name, || {
            made = true;
            let v = Variable::new(&self.name, self.dtype, self.shape.clone(), resources.mailbox());
            // Nobody else knows the variable yet, so its turn is free.
            let _ = v.actor().try_with(|s| s.value = Some(value));
            Ok(v)
        })?;
        if !made {
            return Err(Error::already_exists(format!(
                "there is a temporary variable {} in this step already",
                self.name
            )));
        }
        cx.set_output(0, Tensor::resource(handle));
        Ok(())
    }
}

fn temporary_variable() -> OpDef {
    OpDef::new("TemporaryVariable", Category::State)
        .doc("A reference to a variable that lives until DestroyTemporaryVariable, at most as long as the step.")
        .output("ref: Ref(dtype)")
        .attr("shape: shape")
        .attr("dtype: type")
        .attr("var_name: string = ''")
        .shape(|cx| Ok(vec![cx.attrs().shape("shape")?.clone()]))
        .stateful()
        .not_differentiable()
        .cpu(|init| {
            Ok(Box::new(Temporary {
                name: temporary_name(init)?,
                dtype: init.attrs.dtype("dtype")?,
                shape: init.attrs.shape("shape")?.clone(),
            }))
        })
}

struct DestroyTemporary(String);

impl Kernel for DestroyTemporary {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let v = cx.variable(0)?;
        let value = cx.state(v.actor())?.value.take().ok_or_else(|| v.uninitialized())?;
        if !cx.step().step_resources.remove(TEMPORARY, &self.0) {
            return Err(Error::not_found(format!(
                "there is no temporary variable {} in this step",
                self.0
            )));
        }
        cx.set_output(0, value);
        Ok(())
    }
}

fn destroy_temporary_variable() -> OpDef {
    OpDef::new("DestroyTemporaryVariable", Category::State)
        .doc("Ends a temporary variable and outputs its last value.")
        .input("ref: Ref(T)")
        .output("value: T")
        .attr("T: type")
        .attr("var_name: string")
        .shape(shapes::unchanged)
        .stateful()
        .not_differentiable()
        .cpu(|init| Ok(Box::new(DestroyTemporary(temporary_name(init)?))))
}

register_ops!(
    variable_v1,
    variable_v2,
    is_variable_initialized,
    var_is_initialized_op,
    temporary_variable,
    destroy_temporary_variable,
);
