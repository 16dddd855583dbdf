//! `CheckNumerics`, `CheckNumericsV2`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Tensor, register_ops};

use super::common::FLOATS;
use crate::shapes;

struct Check {
    message: String,
    /// Tells the two infinities apart.
    signs: bool,
}

/// Whether there is a NaN, +infinity and -infinity, from the bits of each element: the exponent is all ones, and the
/// mantissa tells NaN from infinity.
macro_rules! classes {
    ($x:expr, $exponent:expr, $mantissa:expr) => {{
        let odd = $x.iter().map(|x| x.to_bits()).filter(|b| b & $exponent == $exponent);
        odd.fold([false; 3], |[nan, up, down], b| {
            let (is_nan, negative) = (b & $mantissa != 0, b & !($exponent | $mantissa) != 0);
            [nan || is_nan, up || !is_nan && !negative, down || !is_nan && negative]
        })
    }};
}

fn classes_of(t: &Tensor) -> Result<[bool; 3]> {
    Ok(match t.dtype() {
        DType::F32 => classes!(t.as_slice::<f32>()?, 0x7f80_0000u32, 0x007f_ffffu32),
        DType::F64 => classes!(t.as_slice::<f64>()?, 0x7ff0_0000_0000_0000u64, 0x000f_ffff_ffff_ffffu64),
        DType::F16 => classes!(t.as_slice::<half::f16>()?, 0x7c00u16, 0x03ffu16),
        _ => classes!(t.as_slice::<half::bf16>()?, 0x7f80u16, 0x007fu16),
    })
}

impl Kernel for Check {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let [nan, up, down] = classes_of(cx.input(0)?)?;
        if !(nan || up || down) {
            return cx.forward(0, 0);
        }
        let mut found = Vec::new();
        if self.signs {
            found.extend(down.then_some("-Inf"));
            found.extend(up.then_some("+Inf"));
        } else {
            found.extend((up || down).then_some("Inf"));
        }
        found.extend(nan.then_some("NaN"));
        let list = match &found[..] {
            [one] => (*one).to_owned(),
            [a, b] => format!("{a} and {b}"),
            all => format!("{}, and {}", all[..all.len() - 1].join(", "), all[all.len() - 1]),
        };
        Err(Error::invalid(format!("{} : Tensor had {list} values", self.message)))
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Check {
        message: init.attrs.str("message")?.to_owned(),
        signs: init.op == "CheckNumericsV2",
    }))
}

macro_rules! check {
    ($($f:ident $name:literal $doc:literal;)*) => {
        $(fn $f() -> OpDef {
            OpDef::new($name, Category::Math)
                .doc($doc)
                .input("tensor: T")
                .output("output: T")
                .attr(FLOATS)
                .attr("message: string")
                .stateful()
                .shape(shapes::like_first)
                .gradient(|cx, dys| {
                    let message = format!(
                        "Not a number (NaN) or infinity (Inf) values detected in gradient. {}",
                        cx.attrs().str("message")?
                    );
                    let g = cx.graph().op($name).input(&cx.dense(dys, 0)?).attr("message", message).output()?;
                    Ok(vec![Some(g.into())])
                })
                .cpu(kernel)
                .sample(|s| {
                    let x = s.normal([3])?;
                    s.op($name).input(&x).attr("message", "x").finish()
                })
        })*
    };
}
check! {
    check_numerics "CheckNumerics" "The same tensor; an error with the message if it has infinite or NaN elements.";
    check_numerics_v2 "CheckNumericsV2" "As CheckNumerics, and tells the signs of infinities.";
}

register_ops!(check_numerics, check_numerics_v2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::Graph;

    #[test]
    fn what_is_not_finite_is_named() {
        let g = Graph::new();
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let check = |op: &str, x: [f32; 3]| {
            let x = g.constant(x).unwrap();
            g.op(op).input(&x).attr("message", "loss").output().unwrap()
        };
        assert_eq!(
            eval(&check("CheckNumerics", [1.0, -0.0, 1e38])),
            Tensor::from([1.0f32, -0.0, 1e38])
        );
        for (op, x, want) in [
            ("CheckNumerics", [inf, nan, 1.0], "loss : Tensor had Inf and NaN values"),
            ("CheckNumerics", [-inf, 0.0, 1.0], "loss : Tensor had Inf values"),
            (
                "CheckNumericsV2",
                [-inf, inf, 1.0],
                "loss : Tensor had -Inf and +Inf values",
            ),
            (
                "CheckNumericsV2",
                [-inf, inf, nan],
                "loss : Tensor had -Inf, +Inf, and NaN values",
            ),
        ] {
            assert_eq!(fails(&check(op, x)).message(), want);
        }
    }
}
