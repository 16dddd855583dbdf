//! `Xdivy`, `Xlogy`, `Xlog1py`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Output, register_ops};

use super::common::{C64, C128, binary, reduced, sample2};
use crate::elementwise::{fn2, functions, loop_table};
use crate::math::{complex, single};

// 0 where x is 0, whatever y is.
fn2! {
    Xdivy {
        Wide f32, f64 => |x, y, M| if x == 0.0 { x } else { x / y };
        Plain C64 => |x, y, M| if x == C64::ZERO { x } else { x / y };
        Plain C128 => |x, y, M| if x == C128::ZERO { x } else { x / y };
    }
    Xlogy {
        Wide f32 => |x, y, M| if x == 0.0 { x } else { x * single::log::<M>(y) };
        Plain f64 => |x, y, M| if x == 0.0 { x } else { x * y.ln() };
        Plain C64 => |x, y, M| if x == C64::ZERO { x } else { x * y.ln() };
        Plain C128 => |x, y, M| if x == C128::ZERO { x } else { x * y.ln() };
    }
    Xlog1py {
        Wide f32 => |x, y, M| if x == 0.0 { x } else { x * single::log1p::<M>(y) };
        Plain f64 => |x, y, M| if x == 0.0 { x } else { x * y.ln_1p() };
        Plain C64 => |x, y, M| if x == C64::ZERO { x } else { x * complex::log1p(y) };
        Plain C128 => |x, y, M| if x == C128::ZERO { x } else { x * complex::log1p(y) };
    }
}

loop_table! {
    xdivy_loop = Loop2::light Xdivy [F32, F64, C64, C128];
    xlogy_loop = Loop2::heavy Xlogy [F32, F64, C64, C128];
    xlog1py_loop = Loop2::heavy Xlog1py [F32, F64, C64, C128];
}

functions!("Xdivy" => xdivy_loop; "Xlogy" => xlogy_loop; "Xlog1py" => xlog1py_loop;);

const TYPES: &str = "T: {half, bfloat16, float, double, complex64, complex128}";

fn op(name: &str, x: &Output, y: &Output) -> Result<Output> {
    x.graph().op(name).input(x).input(y).output()
}

/// d/dx x·f(y) is f(y), but 0 where x is: the function of 1 or 0.
fn grad(
    cx: &GradContext,
    dys: &[Option<Grad>],
    name: &str,
    dy: impl Fn(&Output, &Output) -> Result<Output>,
) -> Result<Vec<Option<Grad>>> {
    let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
    let there = x.not_equal(&x.scalar_like(0.0)?)?.cast(x.dtype())?;
    let (px, py) = (op(name, &there, &y)?, dy(&x, &y)?);
    reduced(&x, &y, &px.times(&g)?, &py.times(&g)?)
}

fn xdivy() -> OpDef {
    let def = binary("Xdivy", TYPES)
        .doc("x / y, but 0 where x is 0.")
        .gradient(|cx, dys| grad(cx, dys, "Xdivy", |x, y| op("Xdivy", &x.negated()?, &y.square()?)));
    sample2!(def, "Xdivy", normal, positive)
}

fn xlogy() -> OpDef {
    let def = binary("Xlogy", TYPES)
        .doc("x log y, but 0 where x is 0.")
        .gradient(|cx, dys| grad(cx, dys, "Xlogy", |x, y| op("Xdivy", x, y)));
    sample2!(def, "Xlogy", normal, positive)
}

fn xlog1py() -> OpDef {
    let def = binary("Xlog1py", TYPES)
        .doc("x log(1 + y), but 0 where x is 0.")
        .gradient(|cx, dys| {
            grad(cx, dys, "Xlog1py", |x, y| {
                op("Xdivy", x, &y.plus(&y.scalar_like(1.0)?)?)
            })
        });
    sample2!(def, "Xlog1py", normal, positive)
}

register_ops!(xdivy, xlogy, xlog1py);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn nothing_times_anything_is_nothing() {
        let g = Graph::new();
        let x = g.constant([0.0f32, 0.0, 2.0]).unwrap();
        let y = g.constant([0.0f32, f32::NAN, 1.0]).unwrap();
        for (op, last) in [("Xdivy", 2.0), ("Xlogy", 0.0), ("Xlog1py", 2.0 * 2f32.ln())] {
            let z = eval(&g.op(op).input(&x).input(&y).output().unwrap());
            assert_eq!(z, Tensor::from([0.0, 0.0, last]), "{op}");
        }
    }
}
