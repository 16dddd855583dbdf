//! `Maximum`, `Minimum`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Output, register_ops};

use super::common::{binary, reduced};
use crate::elementwise::{fn2, functions, loop_table};

fn2! {
    /// The larger; NaN if either is; of two zeros the second.
    Maximum {
        Wide f32, f64 => |a, b, M| {
            let m = if a > b { a } else { b };
            if a.is_nan() { a } else { m }
        };
        Wide i32, i64, u8 => |a, b, M| if a > b { a } else { b };
        Plain i8, i16, u16, u32, u64 => |a, b, M| if a > b { a } else { b };
    }
    /// The smaller; NaN if either is; of two zeros the second.
    Minimum {
        Wide f32, f64 => |a, b, M| {
            let m = if a < b { a } else { b };
            if a.is_nan() { a } else { m }
        };
        Wide i32, i64, u8 => |a, b, M| if a < b { a } else { b };
        Plain i8, i16, u16, u32, u64 => |a, b, M| if a < b { a } else { b };
    }
}

loop_table! {
    maximum_loop = Loop2::light Maximum [F32, F64, I8, I16, I32, I64, U8, U16, U32, U64];
    minimum_loop = Loop2::light Minimum [F32, F64, I8, I16, I32, I64, U8, U16, U32, U64];
}

functions!("Maximum" => maximum_loop; "Minimum" => minimum_loop;);

/// All of the gradient goes to the operand that was chosen; to x where both are equal.
fn chosen(
    cx: &GradContext,
    dys: &[Option<Grad>],
    x_wins: fn(&Output, &Output) -> Result<Output>,
) -> Result<Vec<Option<Grad>>> {
    let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
    let (zeros, mask) = (g.zeros_like()?, x_wins(&x, &y)?);
    reduced(&x, &y, &mask.select(&g, &zeros)?, &mask.select(&zeros, &g)?)
}

const REALS: &str = "T: {bfloat16, half, float, double, int8, uint8, int16, uint16, int32, uint32, int64, uint64}";

/// Operands that are nowhere nearly equal, where the functions have a kink.
macro_rules! apart {
    ($def:expr, $op:literal) => {
        $def.sample(|s| {
            let x = s.input([[1.0, -2.0, 0.5], [3.0, -1.0, 2.0]].into())?;
            let y = s.input([[0.25, 1.0, 1.5], [2.0, -3.0, 2.5]].into())?;
            s.op($op).input(&x).input(&y).finish()
        })
        .sample(|s| {
            let x = s.input([[1.0], [-2.0]].into())?;
            let y = s.input([0.25, 1.75, -3.0].into())?;
            s.op($op).input(&x).input(&y).finish()
        })
    };
}

fn maximum() -> OpDef {
    let def = binary("Maximum", REALS)
        .doc("The larger of x and y; NaN if either is.")
        .gradient(|cx, dys| chosen(cx, dys, Output::greater_equal));
    apart!(def, "Maximum")
}

fn minimum() -> OpDef {
    let def = binary("Minimum", REALS)
        .doc("The smaller of x and y; NaN if either is.")
        .gradient(|cx, dys| chosen(cx, dys, Output::less_equal));
    apart!(def, "Minimum")
}

register_ops!(maximum, minimum);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn nan_passes_through() {
        let g = Graph::new();
        let x = g.constant([f64::NAN, 1.0, 3.0]).unwrap();
        let y = g.constant([1.0, f64::NAN, 4.0]).unwrap();
        for (z, want) in [(x.maximum(&y).unwrap(), 4.0), (x.minimum(&y).unwrap(), 3.0)] {
            let v = eval(&z).to_vec::<f64>().unwrap();
            assert!(v[0].is_nan() && v[1].is_nan() && v[2] == want);
        }
        let (a, b) = (g.constant([200u8, 3]).unwrap(), g.constant([3u8, 200]).unwrap());
        assert_eq!(eval(&a.maximum(&b).unwrap()), Tensor::from([200u8, 200]));
    }
}
