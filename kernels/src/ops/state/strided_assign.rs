//! `StridedSliceAssign`, `ResourceStridedSliceAssign`.

#![forbid(unsafe_code)]

use actorflow_core::DType;
use actorflow_core::actor::Claims;
use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::access;
use crate::moves::{self, Copies, Fill};
use crate::ops::array::slicing::{MASKS, Masks};
use crate::ops::array::strided_slice::{place, resolve, write};

struct Assign {
    dtype: DType,
    masks: Masks,
    is_ref: bool,
}

impl Assign {
    fn assign(&self, cx: &OpContext<'_>) -> Result<()> {
        let var = cx.variable(0)?;
        let mut state = access::state(cx.held(), &var, self.dtype)?;
        let by = cx.input(4)?;
        let old = access::existing(&var, &state, self.is_ref)?;
        let spec = resolve(cx, 1, self.masks, old.shape())?;
        if !self.dtype.is_plain() {
            let new = write(cx, old.shape(), &spec, by, Fill::Copy(old), false)?;
            state.value = Some(new);
            state.version += 1;
            return Ok(());
        }
        let copy = place(old.shape(), &spec, by, false)?;
        let to = access::writable(&var, &mut state, cx.step().device.pool())?;
        moves::write_into(cx, to, &[by], &Copies(&[copy]))
    }
}

impl Kernel for Assign {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        self.assign(cx)?;
        if self.is_ref {
            cx.forward(0, 0)?;
        }
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Assign {
        dtype: init.attrs.dtype("T")?,
        masks: Masks::of(init.attrs)?,
        is_ref: !init.output_types.is_empty(),
    }))
}

fn definition(name: &'static str, is_ref: bool) -> OpDef {
    let mut def = OpDef::new(name, Category::State)
        .doc("Writes `value`, with broadcasting, to the slice of the variable that StridedSlice would read.")
        .input(if is_ref { "ref: Ref(T)" } else { "ref: resource" })
        .input("begin: Index")
        .input("end: Index")
        .input("strides: Index")
        .input("value: T");
    if is_ref {
        def = def.output("output_ref: Ref(T)");
    }
    def = def.attr("T: type").attr("Index: {int32, int64}");
    for mask in MASKS {
        def = def.attr(&format!("{mask}: int = 0"));
    }
    def.shape(|cx| Ok(vec![cx.input(0); cx.num_outputs()]))
        .stateful()
        .not_differentiable()
        .cpu(kernel)
}

fn strided_slice_assign() -> OpDef {
    definition("StridedSliceAssign", true)
}

fn resource_strided_slice_assign() -> OpDef {
    definition("ResourceStridedSliceAssign", false)
}

register_ops!(strided_slice_assign, resource_strided_slice_assign);
