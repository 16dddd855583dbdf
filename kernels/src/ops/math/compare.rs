//! `Less`, `LessEqual`, `Greater`, `GreaterEqual`, `Equal`, `NotEqual`, `ApproximateEqual`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::common::{C64, C128};
use crate::elementwise::{self, Loop2, Loops, fn2, functions};
use crate::shapes;

fn2! {
    Less {
        Wide f32 as bool, f64 as bool, i32 as bool, i64 as bool => |a, b, M| a < b;
        Plain i8 as bool, i16 as bool, u8 as bool, u16 as bool, u32 as bool, u64 as bool => |a, b, M| a < b;
    }
    LessEqual {
        Wide f32 as bool, f64 as bool, i32 as bool, i64 as bool => |a, b, M| a <= b;
        Plain i8 as bool, i16 as bool, u8 as bool, u16 as bool, u32 as bool, u64 as bool => |a, b, M| a <= b;
    }
    Greater {
        Wide f32 as bool, f64 as bool, i32 as bool, i64 as bool => |a, b, M| a > b;
        Plain i8 as bool, i16 as bool, u8 as bool, u16 as bool, u32 as bool, u64 as bool => |a, b, M| a > b;
    }
    GreaterEqual {
        Wide f32 as bool, f64 as bool, i32 as bool, i64 as bool => |a, b, M| a >= b;
        Plain i8 as bool, i16 as bool, u8 as bool, u16 as bool, u32 as bool, u64 as bool => |a, b, M| a >= b;
    }
    Equal {
        Wide f32 as bool, f64 as bool, i32 as bool, i64 as bool => |a, b, M| a == b;
        Plain i8 as bool, i16 as bool, bool, C64 as bool, C128 as bool => |a, b, M| a == b;
    }
    NotEqual {
        Wide f32 as bool, f64 as bool, i32 as bool, i64 as bool => |a, b, M| a != b;
        Plain i8 as bool, i16 as bool, bool, C64 as bool, C128 as bool => |a, b, M| a != b;
    }
}

macro_rules! order_loop {
    ($($name:ident $f:ident;)*) => {
        $(fn $name(d: DType) -> Option<Loops> {
            dispatch!(d, T in [F32, F64, I8, I16, I32, I64, U8, U16, U32, U64] =>
                Some(Loop2::light_to::<$f, T, bool>().into()), else None)
        })*
    };
}
order_loop!(less_loop Less; less_equal_loop LessEqual; greater_loop Greater; greater_equal_loop GreaterEqual;);

/// Unsigned integers are equal where signed ones of the same bits are.
macro_rules! equality_loop {
    ($($name:ident $f:ident;)*) => {
        $(fn $name(d: DType) -> Option<Loops> {
            let s = elementwise::signed(d);
            dispatch!(s, T in [F32, F64, I8, I16, I32, I64, Bool, C64, C128] =>
                Some(Loop2::light_to::<$f, T, bool>().seen_as(s, d).into()), else None)
        })*
    };
}
equality_loop!(equal_loop Equal; not_equal_loop NotEqual;);

functions! {
    "Less" => less_loop;
    "LessEqual" => less_equal_loop;
    "Greater" => greater_loop;
    "GreaterEqual" => greater_equal_loop;
    "Equal" => equal_loop;
    "NotEqual" => not_equal_loop;
}

fn order(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("x: T")
        .input("y: T")
        .output("z: bool")
        .attr("T: realnumbertype")
        .shape(shapes::broadcast)
        .not_differentiable()
        .cpu(elementwise::kernel)
}

fn less() -> OpDef {
    order("Less").doc("Whether x < y.")
}

fn less_equal() -> OpDef {
    order("LessEqual").doc("Whether x <= y.")
}

fn greater() -> OpDef {
    order("Greater").doc("Whether x > y.")
}

fn greater_equal() -> OpDef {
    order("GreaterEqual").doc("Whether x >= y.")
}

/// `Equal` or `NotEqual`.
struct Equality {
    /// `None` for strings.
    dense: Option<Box<dyn Kernel>>,
    /// Whether operands that do not broadcast are an error; otherwise they are just not equal.
    strict: bool,
    /// What equal elements give.
    equal: bool,
}

impl Kernel for Equality {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        if !self.strict && Shape::broadcast(a.shape(), b.shape()).is_err() {
            cx.set_output(0, Tensor::scalar(!self.equal));
            return Ok(());
        }
        if let Some(k) = &self.dense {
            return k.compute(cx);
        }
        let (shape, all) = elementwise::map2_strings(a, b, |x, y| (x == y) == self.equal)?;
        let mut z = cx.alloc(DType::Bool, shape)?;
        if let Some(z) = z.as_mut_slice::<bool>() {
            z.copy_from_slice(&all);
        }
        cx.set_output(0, z);
        Ok(())
    }
}

fn equality_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let strict = init.attrs.bool("incompatible_shape_error")?;
    let dense = match init.input_types[0] {
        DType::Str => None,
        _ => Some(elementwise::kernel(init)?),
    };
    match dense {
        Some(k) if strict => Ok(k),
        dense => Ok(Box::new(Equality {
            dense,
            strict,
            equal: init.op == "Equal",
        })),
    }
}

fn equality_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    if cx.attrs().bool("incompatible_shape_error")? {
        return shapes::broadcast(cx);
    }
    // Whether the result is a scalar is known only if both shapes are.
    let known = cx.input(0).is_fully_known() && cx.input(1).is_fully_known();
    Ok(vec![match PartialShape::broadcast(&cx.input(0), &cx.input(1)) {
        Ok(s) if known => s,
        Err(_) if known => PartialShape::scalar(),
        _ => PartialShape::UNKNOWN,
    }])
}

fn equality(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("x: T")
        .input("y: T")
        .output("z: bool")
        .attr("T: type")
        .attr("incompatible_shape_error: bool = true")
        .commutative()
        .shape(equality_shape)
        .not_differentiable()
        .cpu(equality_kernel)
}

fn equal() -> OpDef {
    equality("Equal").doc("Whether x = y; NaN equals nothing.")
}

fn not_equal() -> OpDef {
    equality("NotEqual").doc("Whether x and y differ; NaN differs from everything.")
}

/// Whether |a - b| is less than the tolerance.
fn approximately_equal(cx: &mut OpContext<'_>, tolerance: f32) -> Result<()> {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    if a.shape() != b.shape() {
        return Err(Error::invalid(format!(
            "x and y must be of the same shape. x shape: {}. y shape: {}",
            a.shape(),
            b.shape()
        )));
    }
    let mut z = cx.alloc(DType::Bool, a.shape())?;
    let Some(out) = z.as_mut_slice::<bool>() else {
        return Err(Error::internal("the result is shared"));
    };
    macro_rules! compare {
        ($t:ty, |$x:ident, $y:ident| $near:expr) => {
            for ((o, x), y) in out.iter_mut().zip(a.as_slice::<$t>()?).zip(b.as_slice::<$t>()?) {
                let ($x, $y) = (*x, *y);
                *o = $near;
            }
        };
    }
    let wide = f64::from(tolerance);
    match a.dtype() {
        DType::F32 => compare!(f32, |x, y| (x - y).abs() < tolerance),
        DType::F64 => compare!(f64, |x, y| (x - y).abs() < wide),
        DType::F16 => compare!(half::f16, |x, y| (x.to_f32() - y.to_f32()).abs() < tolerance),
        DType::BF16 => compare!(half::bf16, |x, y| (x.to_f32() - y.to_f32()).abs() < tolerance),
        DType::C64 => compare!(C64, |x, y| (x - y).norm() < tolerance),
        DType::C128 => compare!(C128, |x, y| (x - y).norm() < wide),
        d => dispatch!(d, T in integers => compare!(T, |x, y| (x.abs_diff(y) as f64) < wide), else {
            return Err(Error::invalid(format!("ApproximateEqual has no CPU kernel for {d}")));
        }),
    }
    cx.set_output(0, z);
    Ok(())
}

fn approximate_equal() -> OpDef {
    OpDef::new("ApproximateEqual", Category::Math)
        .doc("Whether |x - y| < tolerance.")
        .input("x: T")
        .input("y: T")
        .output("z: bool")
        .attr("T: numbertype")
        .attr("tolerance: float = 1e-5")
        .commutative()
        .shape(shapes::merged)
        .not_differentiable()
        .cpu(|init| {
            let tolerance = init.attrs.float("tolerance")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                approximately_equal(cx, tolerance)
            }))
        })
}

register_ops!(
    less,
    less_equal,
    greater,
    greater_equal,
    equal,
    not_equal,
    approximate_equal
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::Graph;

    #[test]
    fn orders_broadcast_and_nan_is_in_none() {
        let g = Graph::new();
        let x = g.constant([[1.0f32], [f32::NAN]]).unwrap();
        let y = g.constant([0.0f32, 1.0, 2.0]).unwrap();
        let f = false;
        assert_eq!(eval(&x.less(&y).unwrap()), Tensor::from([[f, f, true], [f, f, f]]));
        assert_eq!(
            eval(&x.greater_equal(&y).unwrap()),
            Tensor::from([[true, true, f], [f, f, f]])
        );
        let (a, b) = (g.constant([200u8, 1]).unwrap(), g.constant([100u8, 1]).unwrap());
        assert_eq!(eval(&a.greater(&b).unwrap()), Tensor::from([true, false]));
    }

    #[test]
    fn equality_takes_every_type_and_may_tolerate_other_shapes() {
        let g = Graph::new();
        let s = g.constant(Tensor::strings([2], vec!["a", "b"]).unwrap()).unwrap();
        let t = g.constant("b").unwrap();
        assert_eq!(eval(&s.equal(&t).unwrap()), Tensor::from([false, true]));
        assert_eq!(eval(&s.not_equal(&t).unwrap()), Tensor::from([true, false]));
        let b = g.constant([true, false]).unwrap();
        assert_eq!(
            eval(&b.equal(&g.constant(false).unwrap()).unwrap()),
            Tensor::from([false, true])
        );
        let (x, y) = (g.constant([1i32, 2]).unwrap(), g.constant([1i32, 2, 3]).unwrap());
        assert!(x.equal(&y).is_err());
        for (op, want) in [("Equal", false), ("NotEqual", true)] {
            let z = g.op(op).input(&x).input(&y).attr("incompatible_shape_error", false);
            assert_eq!(eval(&z.output().unwrap()), Tensor::from(want));
        }
    }

    #[test]
    fn approximate_equality_is_within_the_tolerance() {
        let g = Graph::new();
        let x = g.constant([1.0f32, f32::NAN, f32::INFINITY, 1.0]).unwrap();
        let y = g.constant([1.000_001f32, f32::NAN, f32::INFINITY, 1.1]).unwrap();
        let z = g.op("ApproximateEqual").input(&x).input(&y).output().unwrap();
        assert_eq!(eval(&z), Tensor::from([true, false, false, false]));
    }
}
