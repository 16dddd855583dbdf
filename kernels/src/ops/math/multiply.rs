//! `Mul`, `MulNoNan`, `SquaredDifference`.
#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::common::{C64, C128, FLOATS_COMPLEX, binary, conj, reduced, sample2};
use crate::elementwise::{fn2, functions, loop_table};

fn2! {
    /// The product; integers wrap.
    Mul {
        Wide f32, f64 => |a, b, M| a * b;
        Wide i32, i64 => |a, b, M| a.wrapping_mul(b);
        Plain i8, i16 => |a, b, M| a.wrapping_mul(b);
        Plain C64, C128 => |a, b, M| a * b;
    }
    /// The product, but 0 where the second factor is 0.
    MulNoNan {
        Wide f32, f64 => |a, b, M| if b == 0.0 { 0.0 } else { a * b };
        Plain C64, C128 => |a, b, M| if b == Default::default() { b } else { a * b };
    }
    /// The square of the difference; of complex numbers the product with the conjugate.
    SquaredDifference {
        Wide f32, f64 => |a, b, M| (a - b) * (a - b);
        Wide i32, i64 => |a, b, M| a.wrapping_sub(b).wrapping_mul(a.wrapping_sub(b));
        Plain C64 => |a, b, M| C64::from((a - b).norm_sqr());
        Plain C128 => |a, b, M| C128::from((a - b).norm_sqr());
    }
}

loop_table! {
    mul_loop = Loop2::light Mul [F32, F64, I8, I16, I32, I64, C64, C128] signed;
    mul_no_nan_loop = Loop2::light MulNoNan [F32, F64, C64, C128];
    squared_difference_loop = Loop2::light SquaredDifference [F32, F64, I32, I64, C64, C128];
}

functions!("Mul" => mul_loop; "MulNoNan" => mul_no_nan_loop; "SquaredDifference" => squared_difference_loop;);

fn mul() -> OpDef {
    let def = binary(
        "Mul",
        "T: {bfloat16, half, float, double, uint8, int8, uint16, int16, int32, uint32, uint64, int64, complex64, \
         complex128}",
    )
    .doc("x * y.")
    .commutative()
    .gradient(|cx, dys| {
        let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
        reduced(&x, &y, &g.times(&conj(&y)?)?, &conj(&x)?.times(&g)?)
    });
    sample2!(def, "Mul", normal, normal)
}

fn mul_no_nan() -> OpDef {
    let def = binary("MulNoNan", FLOATS_COMPLEX)
        .doc("x * y, but 0 where y is 0, even if x is infinite or NaN.")
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            let gx = cx.graph().op("MulNoNan").input(&g).input(&y).output()?;
            let gy = cx.graph().op("MulNoNan").input(&x).input(&g).output()?;
            reduced(&x, &y, &gx, &gy)
        });
    sample2!(def, "MulNoNan", normal, normal)
}

fn squared_difference() -> OpDef {
    let def = binary(
        "SquaredDifference",
        "T: {bfloat16, half, float, double, int32, int64, complex64, complex128}",
    )
    .doc("(x - y)(x - y), the second factor conjugated.")
    .commutative()
    .gradient(|cx, dys| {
        let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
        let gx = (g.scalar_like(2.0)?.times(&g)?).times(&x.minus(&y)?)?;
        reduced(&x, &y, &gx, &gx.negated()?)
    });
    sample2!(def, "SquaredDifference", normal, normal)
}

register_ops!(mul, mul_no_nan, squared_difference);
