//! `Sin`, `Cos`, `Tan`, `Asin`, `Acos`, `Atan`, `Atan2`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Output, register_ops};

use super::common::{C64, C128, FLOATS, FLOATS_COMPLEX, conj, one, reduced, sample1, unary};
use crate::elementwise::{self, fn1, fn2, functions, loop_table};
use crate::math::madd::Madd;
use crate::math::simd::{Checked, Fn1};
use crate::math::{complex, single};
use crate::shapes;

/// Functions of an angle whose wide form does not cover huge ones.
macro_rules! of_angle {
    ($($name:ident $f:ident;)*) => {
        fn1! { $($name {
            Plain f64 => |x, M| x.$f();
            Plain C64, C128 => |x, M| complex::$f(x);
        })* }
        $(impl Fn1<f32, f32> for $name {
            type Loop = Checked;
            #[inline(always)]
            fn call<M: Madd>(x: f32) -> f32 {
                single::$f::<M>(x)
            }
            #[inline(always)]
            fn covers(x: f32) -> bool {
                single::covers_angle(x)
            }
            fn rare(x: f32) -> f32 {
                f64::from(x).$f() as f32
            }
        })*
    };
}
of_angle!(Sin sin; Cos cos; Tan tan;);

fn1! {
    Asin {
        Wide f32 => |x, M| single::asin::<M>(x);
        Plain f64 => |x, M| x.asin();
        Plain C64, C128 => |x, M| complex::asin(x);
    }
    Acos {
        Wide f32 => |x, M| single::acos::<M>(x);
        Plain f64 => |x, M| x.acos();
        Plain C64, C128 => |x, M| complex::acos(x);
    }
    Atan {
        Wide f32 => |x, M| single::atan::<M>(x);
        Plain f64 => |x, M| x.atan();
        Plain C64, C128 => |x, M| complex::atan(x);
    }
}

fn2! {
    /// The angle of the point (x, y), y first.
    Atan2 {
        Wide f32 => |y, x, M| single::atan2::<M>(y, x);
        Plain f64 => |y, x, M| y.atan2(x);
    }
}

loop_table! {
    sin_loop = Loop1::heavy Sin [F32, F64, C64, C128];
    cos_loop = Loop1::heavy Cos [F32, F64, C64, C128];
    tan_loop = Loop1::heavy Tan [F32, F64, C64, C128];
    asin_loop = Loop1::heavy Asin [F32, F64, C64, C128];
    acos_loop = Loop1::heavy Acos [F32, F64, C64, C128];
    atan_loop = Loop1::heavy Atan [F32, F64, C64, C128];
    atan2_loop = Loop2::heavy Atan2 [F32, F64];
}

functions! {
    "Sin" => sin_loop;
    "Cos" => cos_loop;
    "Tan" => tan_loop;
    "Asin" => asin_loop;
    "Acos" => acos_loop;
    "Atan" => atan_loop;
    "Atan2" => atan2_loop;
}

fn sin() -> OpDef {
    let def = unary("Sin", FLOATS_COMPLEX)
        .doc("The sine.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.times(&conj(&cx.input(0)?)?.cos()?)?));
    sample1!(def, "Sin", |s| s.normal([2, 3])?)
}

fn cos() -> OpDef {
    let def = unary("Cos", FLOATS_COMPLEX)
        .doc("The cosine.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.negated()?.times(&conj(&cx.input(0)?)?.sin()?)?));
    sample1!(def, "Cos", |s| s.normal([2, 3])?)
}

fn tan() -> OpDef {
    let def = unary("Tan", FLOATS_COMPLEX).doc("The tangent.").gradient(|cx, dys| {
        let sec = conj(&cx.input(0)?)?.cos()?.reciprocal()?;
        one(sec.square()?.times(&cx.dense(dys, 0)?)?)
    });
    sample1!(def, "Tan", |s| s.uniform([2, 3], -1.2, 1.2)?)
}

/// 1 - x², or 1 + x².
pub(super) fn one_and_square(x: &Output, op: &str) -> Result<Output> {
    let one = x.scalar_like(1.0)?;
    x.graph().op(op).input(&one).input(&x.square()?).output()
}

fn asin() -> OpDef {
    let def = unary("Asin", FLOATS_COMPLEX)
        .doc("The angle whose sine is x.")
        .gradient(|cx, dys| {
            let inv = one_and_square(&conj(&cx.input(0)?)?, "Sub")?.sqrt()?.reciprocal()?;
            one(cx.dense(dys, 0)?.times(&inv)?)
        });
    sample1!(def, "Asin", |s| s.uniform([2, 3], -0.9, 0.9)?)
}

fn acos() -> OpDef {
    let def = unary("Acos", FLOATS_COMPLEX)
        .doc("The angle whose cosine is x.")
        .gradient(|cx, dys| {
            let inv = one_and_square(&conj(&cx.input(0)?)?, "Sub")?.sqrt()?.reciprocal()?;
            one(cx.dense(dys, 0)?.negated()?.times(&inv)?)
        });
    sample1!(def, "Acos", |s| s.uniform([2, 3], -0.9, 0.9)?)
}

fn atan() -> OpDef {
    let def = unary("Atan", FLOATS_COMPLEX)
        .doc("The angle whose tangent is x.")
        .gradient(|cx, dys| {
            let inv = one_and_square(&conj(&cx.input(0)?)?, "AddV2")?.reciprocal()?;
            one(cx.dense(dys, 0)?.times(&inv)?)
        });
    sample1!(def, "Atan", |s| s.normal([2, 3])?)
}

fn atan2() -> OpDef {
    OpDef::new("Atan2", Category::Math)
        .doc("The angle of the point (x, y), in -π..=π.")
        .input("y: T")
        .input("x: T")
        .output("z: T")
        .attr(FLOATS)
        .shape(shapes::broadcast)
        .cpu(elementwise::kernel)
        .gradient(|cx, dys| {
            let (y, x, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            let inv = g.divided_by(&y.square()?.plus(&x.square()?)?)?;
            reduced(&y, &x, &x.times(&inv)?, &y.negated()?.times(&inv)?)
        })
        .sample(|s| {
            let (y, x) = (s.normal([2, 3])?, s.normal([3])?);
            s.op("Atan2").input(&y).input(&x).finish()
        })
}

register_ops!(sin, cos, tan, asin, acos, atan, atan2);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::Graph;

    #[test]
    fn huge_angles_are_reduced_exactly() {
        let g = Graph::new();
        let angles: Vec<f32> = (0..300)
            .map(|i| if i % 7 == 0 { 1e20 + i as f32 * 1e18 } else { i as f32 })
            .collect();
        let x = g.constant(angles.clone()).unwrap();
        let s = eval(&x.sin().unwrap()).to_vec::<f32>().unwrap();
        for (s, a) in s.iter().zip(angles) {
            assert!((f64::from(*s) - f64::from(a).sin()).abs() < 1e-6, "{a}");
        }
    }
}
