//! How kernels reach the values of the variables whose turns they hold.

use std::cell::RefMut;
use std::sync::Arc;

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::resource::{Variable, VariableState};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Shape, Tensor};

/// Asks for the turn of the variable behind input `i`.
///
/// # Errors
/// `INVALID_ARGUMENT` if the input is no variable.
pub fn want(cx: &OpContext<'_>, claims: &mut Claims, i: usize) -> Result<()> {
    claims.want(cx.variable(i)?);
    Ok(())
}

/// The state of a variable whose turn is held, after a check that it holds elements of `dtype`.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the variable and both dtypes; as [`Claims::state`].
pub fn state<'a>(held: &'a Claims, var: &'a Variable, dtype: DType) -> Result<RefMut<'a, VariableState>> {
    check_dtype(var, dtype)?;
    held.state(var.actor())
}

/// Fails unless the variable holds elements of `dtype`.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the variable and both dtypes.
pub fn check_dtype(var: &Variable, dtype: DType) -> Result<()> {
    if var.dtype() == dtype {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "variable {} holds {}, the operation works on {dtype}",
        var.name(),
        var.dtype()
    )))
}

/// The present value.
///
/// # Errors
/// `FAILED_PRECONDITION` naming the variable if it was never assigned.
pub fn value<'s>(var: &Variable, state: &'s VariableState) -> Result<&'s Tensor> {
    state.value.as_ref().ok_or_else(|| var.uninitialized())
}

/// The present value, for an operation that in TensorFlow looks a resource variable up among the session's resources
/// (with `is_ref`: one that takes a reference).
///
/// # Errors
/// If it was never assigned: `NOT_FOUND`, as a resource variable does not exist before; of a reference,
/// `FAILED_PRECONDITION`.
pub fn existing<'s>(var: &Variable, state: &'s VariableState, is_ref: bool) -> Result<&'s Tensor> {
    match &state.value {
        Some(t) => Ok(t),
        None if is_ref => Err(var.uninitialized()),
        None => Err(Error::not_found(var.uninitialized().message())),
    }
}

/// The present value as the only owner of its data: whoever shares it keeps the old elements, and the variable
/// gets a copy.
///
/// # Errors
/// `FAILED_PRECONDITION` naming the variable if it was never assigned; `RESOURCE_EXHAUSTED` if there is no memory
/// for the copy.
pub fn writable<'s>(var: &Variable, state: &'s mut VariableState, pool: &Arc<Pool>) -> Result<&'s mut Tensor> {
    let t = state.value.as_mut().ok_or_else(|| var.uninitialized())?;
    if !t.is_unique() {
        *t = t.deep_copy_in(pool)?;
    }
    state.version += 1;
    Ok(t)
}

/// Fails unless a value has the variable's shape.
///
/// # Errors
/// `INVALID_ARGUMENT` naming both shapes.
pub fn same_shape(var: &Variable, have: &Shape, what: &str, got: &Shape) -> Result<()> {
    if have == got {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "shapes of variable {} and of {what} must be the same, got {have} and {got}",
        var.name()
    )))
}
