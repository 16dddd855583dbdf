//! `Add`, `AddV2`, `Sub`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::OpDef;
use actorflow_core::{DType, Tensor, register_ops};
use bytes::{Bytes, BytesMut};

use super::common::{C64, C128, binary, reduced, sample2};
use crate::elementwise::{self, fn2, functions, loop_table};

fn2! {
    /// The sum; integers wrap.
    Add {
        Wide f32, f64 => |a, b, M| a + b;
        Wide i32, i64 => |a, b, M| a.wrapping_add(b);
        Plain i8, i16 => |a, b, M| a.wrapping_add(b);
        Plain C64, C128 => |a, b, M| a + b;
    }
    /// The difference; integers wrap.
    Sub {
        Wide f32, f64 => |a, b, M| a - b;
        Wide i32, i64 => |a, b, M| a.wrapping_sub(b);
        Plain i8, i16 => |a, b, M| a.wrapping_sub(b);
        Plain C64, C128 => |a, b, M| a - b;
    }
}

loop_table! {
    add_loop = Loop2::light Add [F32, F64, I8, I16, I32, I64, C64, C128] signed;
    sub_loop = Loop2::light Sub [F32, F64, I8, I16, I32, I64, C64, C128] signed;
}

functions!("Add" => add_loop; "AddV2" => add_loop; "Sub" => sub_loop;);

fn add_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, y) = (cx.input(0)?, cx.input(1)?);
    if let (Some(a), Some(b), Some(g)) = (x.shape().to_shape(), y.shape().to_shape(), &dys[0])
        && a == b
    {
        return Ok(vec![Some(g.clone()), Some(g.clone())]);
    }
    let g = cx.dense(dys, 0)?;
    reduced(&x, &y, &g, &g)
}

fn concatenate(cx: &mut OpContext<'_>) -> Result<()> {
    let (shape, all) = elementwise::map2_strings(cx.input(0)?, cx.input(1)?, |a, b| {
        let mut s = BytesMut::with_capacity(a.len() + b.len());
        s.extend_from_slice(a);
        s.extend_from_slice(b);
        s.freeze()
    })?;
    cx.set_output(0, Tensor::strings::<Bytes>(shape, all)?);
    Ok(())
}

fn add() -> OpDef {
    let def = binary(
        "Add",
        "T: {bfloat16, half, float, double, uint8, int8, int16, int32, int64, complex64, complex128, string}",
    )
    .doc("x + y; of strings, one after the other.")
    .gradient(add_grad)
    .cpu(|init| {
        if init.input_types[0] == DType::Str {
            return Ok(Box::new(concatenate));
        }
        elementwise::kernel(init)
    });
    sample2!(def, "Add", normal, normal)
}

fn add_v2() -> OpDef {
    let def = binary(
        "AddV2",
        "T: {bfloat16, half, float, double, uint8, uint16, uint32, uint64, int8, int16, int32, int64, complex64, \
         complex128}",
    )
    .doc("x + y.")
    .commutative()
    .gradient(add_grad);
    sample2!(def, "AddV2", normal, normal)
}

fn sub() -> OpDef {
    let def = binary(
        "Sub",
        "T: {bfloat16, half, float, double, uint8, int8, uint16, int16, int32, int64, complex64, complex128, uint32, \
         uint64}",
    )
    .doc("x - y.")
    .gradient(|cx, dys| {
        let g = cx.dense(dys, 0)?;
        reduced(&cx.input(0)?, &cx.input(1)?, &g, &g.negated()?)
    });
    sample2!(def, "Sub", normal, normal)
}

register_ops!(add, add_v2, sub);
