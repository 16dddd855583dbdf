//! `Lgamma`, `Digamma`, `Polygamma`, `Zeta`, `Igamma`, `Igammac`, `IgammaGradA`, `Betainc`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext, unbroadcast};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Element, Output, PartialShape, Shape, register_ops};

use super::common::{FLOATS, one, reduced, sample1, unary};
use crate::elementwise::{self, fn1, fn2, functions, loop_table};
use crate::math::special;
use crate::{shapes, spread};

fn1! {
    Lgamma {
        Plain f32 => |x, M| special::lgamma(f64::from(x)) as f32;
        Plain f64 => |x, M| special::lgamma(x);
    }
    Digamma {
        Plain f32 => |x, M| special::digamma(f64::from(x)) as f32;
        Plain f64 => |x, M| special::digamma(x);
    }
}

fn2! {
    Polygamma {
        Plain f32 => |a, x, M| special::polygamma(f64::from(a), f64::from(x)) as f32;
        Plain f64 => |a, x, M| special::polygamma(a, x);
    }
    Zeta {
        Plain f32 => |x, q, M| special::zeta(f64::from(x), f64::from(q)) as f32;
        Plain f64 => |x, q, M| special::zeta(x, q);
    }
    Igamma {
        Plain f32 => |a, x, M| special::igamma(f64::from(a), f64::from(x)) as f32;
        Plain f64 => |a, x, M| special::igamma(a, x);
    }
    Igammac {
        Plain f32 => |a, x, M| special::igammac(f64::from(a), f64::from(x)) as f32;
        Plain f64 => |a, x, M| special::igammac(a, x);
    }
    IgammaGradA {
        Plain f32 => |a, x, M| special::igamma_grad_a(f64::from(a), f64::from(x)) as f32;
        Plain f64 => |a, x, M| special::igamma_grad_a(a, x);
    }
}

loop_table! {
    lgamma_loop = Loop1::costly Lgamma [F32, F64];
    digamma_loop = Loop1::costly Digamma [F32, F64];
    polygamma_loop = Loop2::costly Polygamma [F32, F64];
    zeta_loop = Loop2::costly Zeta [F32, F64];
    igamma_loop = Loop2::costly Igamma [F32, F64];
    igammac_loop = Loop2::costly Igammac [F32, F64];
    igamma_grad_a_loop = Loop2::costly IgammaGradA [F32, F64];
}

functions! {
    "Lgamma" => lgamma_loop;
    "Digamma" => digamma_loop;
    "Polygamma" => polygamma_loop;
    "Zeta" => zeta_loop;
    "Igamma" => igamma_loop;
    "Igammac" => igammac_loop;
    "IgammaGradA" => igamma_grad_a_loop;
}

fn op(name: &str, a: &Output, b: &Output) -> Result<Output> {
    a.graph().op(name).input(a).input(b).output()
}

fn lgamma() -> OpDef {
    let def = unary("Lgamma", FLOATS)
        .doc("The logarithm of the magnitude of the gamma function.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.times(&cx.input(0)?.unary("Digamma")?)?));
    sample1!(def, "Lgamma", |s| s.positive([2, 3])?)
}

fn digamma() -> OpDef {
    let def = unary("Digamma", FLOATS)
        .doc("The derivative of Lgamma.")
        .gradient(|cx, dys| {
            let x = cx.input(0)?;
            one(cx.dense(dys, 0)?.times(&op("Polygamma", &x.scalar_like(1.0)?, &x)?)?)
        });
    sample1!(def, "Digamma", |s| s.positive([2, 3])?)
}

/// `name(a: T, b: T) -> (z: T)` with broadcasting.
fn pair(name: &'static str, a: &str, b: &str, types: &str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input(a)
        .input(b)
        .output("z: T")
        .attr(types)
        .shape(shapes::broadcast)
        .cpu(elementwise::kernel)
}

const WIDE: &str = "T: {float, double}";

fn polygamma() -> OpDef {
    pair("Polygamma", "a: T", "x: T", WIDE)
        .doc("The derivative of order a of Digamma at x.")
        .gradient(|cx, dys| {
            let (n, x, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            let slope = op("Polygamma", &n.plus(&n.scalar_like(1.0)?)?, &x)?;
            Ok(vec![None, Some(unbroadcast(&slope.times(&g)?, &x, &n)?.into())])
        })
        .sample(|s| {
            let (n, x) = (s.constant([1.0, 2.0, 3.0])?, s.positive([2, 3])?);
            s.op("Polygamma").input(&n).input(&x).finish()
        })
}

fn zeta() -> OpDef {
    pair("Zeta", "x: T", "q: T", WIDE)
        .doc("The sum of (q + n) to the power -x over n = 0, 1, 2, …")
        .gradient(|cx, dys| {
            let (x, q, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            let slope = x.negated()?.times(&op("Zeta", &x.plus(&x.scalar_like(1.0)?)?, &q)?)?;
            Ok(vec![None, Some(unbroadcast(&slope.times(&g)?, &q, &x)?.into())])
        })
        .sample(|s| {
            let (x, q) = (s.constant([1.5, 2.0, 4.0])?, s.positive([2, 3])?);
            s.op("Zeta").input(&x).input(&q).finish()
        })
}

fn igamma_grad(cx: &GradContext, dys: &[Option<Grad>]) -> Result<[Output; 4]> {
    let (a, x, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
    let by_a = op("IgammaGradA", &a, &x)?;
    // The density in logarithms: the gamma function itself overflows.
    let power = a.minus(&a.scalar_like(1.0)?)?.times(&x.log()?)?;
    let by_x = x.negated()?.plus(&power)?.minus(&a.unary("Lgamma")?)?.exp()?;
    let (ga, gx) = (by_a.times(&g)?, by_x.times(&g)?);
    Ok([a, x, ga, gx])
}

fn igamma() -> OpDef {
    pair("Igamma", "a: T", "x: T", FLOATS)
        .doc("The lower regularized incomplete gamma function.")
        .gradient(|cx, dys| {
            let [a, x, ga, gx] = igamma_grad(cx, dys)?;
            reduced(&a, &x, &ga, &gx)
        })
        .sample(|s| {
            let (a, x) = (s.positive([2, 3])?, s.positive([3])?);
            s.op("Igamma").input(&a).input(&x).finish()
        })
}

fn igammac() -> OpDef {
    pair("Igammac", "a: T", "x: T", FLOATS)
        .doc("The upper regularized incomplete gamma function.")
        .gradient(|cx, dys| {
            let [a, x, ga, gx] = igamma_grad(cx, dys)?;
            reduced(&a, &x, &ga.negated()?, &gx.negated()?)
        })
        .sample(|s| {
            let (a, x) = (s.positive([2, 3])?, s.positive([3])?);
            s.op("Igammac").input(&a).input(&x).finish()
        })
}

fn igamma_grad_a() -> OpDef {
    pair("IgammaGradA", "a: T", "x: T", WIDE).doc("The derivative of Igamma by a.")
}

/// The one shape of several tensors of which some may be scalars.
fn common_shape(all: [&Shape; 3]) -> Result<Shape> {
    let mut out = Shape::SCALAR;
    for s in all {
        if s.is_scalar() || *s == out {
            continue;
        }
        if !out.is_scalar() {
            let [a, b, x] = all;
            return Err(Error::invalid(format!(
                "Shapes of a, b and x are inconsistent: {a} vs. {b} vs. {x}; each must be a scalar or of one shape"
            )));
        }
        out = s.clone();
    }
    Ok(out)
}

struct Betainc<T>(fn([T; 3]) -> T);

impl<T: Element> Kernel for Betainc<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let shape = common_shape([cx.input(0)?.shape(), cx.input(1)?.shape(), cx.input(2)?.shape()])?;
        let mut out = cx.alloc(T::DTYPE, &shape)?;
        let operands = [cx.slice::<T>(0)?, cx.slice::<T>(1)?, cx.slice::<T>(2)?];
        let z = out
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        const GRAIN: usize = 512;
        spread::chunks(cx.parallel(), z, GRAIN, |chunk, z| {
            for (i, z) in z.iter_mut().enumerate() {
                let i = chunk * GRAIN + i;
                *z = (self.0)(operands.map(|x| if x.len() == 1 { x[0] } else { x[i] }));
            }
        });
        cx.set_output(0, out);
        Ok(())
    }
}

fn betainc_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    match init.output_types[0] {
        DType::F32 => Ok(Box::new(Betainc::<f32>(|v| {
            let [a, b, x] = v.map(f64::from);
            special::betainc(a, b, x) as f32
        }))),
        DType::F64 => Ok(Box::new(Betainc::<f64>(|[a, b, x]| special::betainc(a, b, x)))),
        _ => Err(init.no_kernel()),
    }
}

fn betainc() -> OpDef {
    OpDef::new("Betainc", Category::Math)
        .doc("The regularized incomplete beta function; operands have one shape or are scalars.")
        .input("a: T")
        .input("b: T")
        .input("x: T")
        .output("z: T")
        .attr(WIDE)
        .shape(|cx| {
            let mut out = PartialShape::scalar();
            let mut certain = true;
            for s in cx.inputs() {
                match s.rank() {
                    None => certain = false,
                    Some(0) => {}
                    Some(_) if out.rank() == Some(0) => out = s.clone(),
                    Some(_) => out = out.merge(s)?,
                }
            }
            Ok(vec![if certain || out.rank() != Some(0) {
                out
            } else {
                PartialShape::UNKNOWN
            }])
        })
        .gradient(|cx, dys| {
            let (a, b, x, g) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.dense(dys, 0)?);
            // The density in logarithms; x log y keeps the tails at 0 where a or b is 1.
            let log_beta = a
                .unary("Lgamma")?
                .plus(&b.unary("Lgamma")?)?
                .minus(&a.plus(&b)?.unary("Lgamma")?)?;
            let one = a.scalar_like(1.0)?;
            let upper = op("Xlog1py", &b.minus(&one)?, &x.negated()?)?;
            let lower = op("Xlogy", &a.minus(&one)?, &x)?;
            let slope = upper.plus(&lower)?.minus(&log_beta)?.exp()?;
            Ok(vec![None, None, Some(unbroadcast(&slope.times(&g)?, &x, &a)?.into())])
        })
        .cpu(betainc_kernel)
        .sample(|s| {
            let (a, b) = (s.constant([0.7, 1.5, 2.0])?, s.constant([1.2, 0.8, 3.0])?);
            let x = s.uniform([3], 0.2, 0.8)?;
            s.op("Betainc").input(&a).input(&b).input(&x).finish()
        })
}

register_ops!(
    lgamma,
    digamma,
    polygamma,
    zeta,
    igamma,
    igammac,
    igamma_grad_a,
    betainc
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Interpreter, eval};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn both_incomplete_gamma_functions_make_one() {
        let g = Graph::new();
        let a = g.constant([[0.5f32], [3.0], [40.0]]).unwrap();
        let x = g.constant([0.1f32, 1.0, 50.0]).unwrap();
        let sum = op("Igamma", &a, &x)
            .unwrap()
            .plus(&op("Igammac", &a, &x).unwrap())
            .unwrap();
        for s in eval(&sum).to_vec::<f32>().unwrap() {
            assert!((s - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn incomplete_beta_takes_scalars_beside_one_shape() {
        let g = Graph::new();
        let [a, b] = [2.0f64, 3.0].map(|x| g.constant(x).unwrap());
        let x = g.constant([0.0, 0.5, 1.0]).unwrap();
        let z = g.op("Betainc").input(&a).input(&b).input(&x).output().unwrap();
        assert_eq!(eval(&z), Tensor::from([0.0, 0.6875, 1.0]));
        let p = g.placeholder("p", DType::F64, PartialShape::UNKNOWN).unwrap();
        let z = g.op("Betainc").input(&p).input(&b).input(&x).output().unwrap();
        let e = Interpreter::default()
            .run(&[z], &[], &[(p, Tensor::from([1.0, 2.0]))])
            .unwrap_err();
        assert!(e.message().contains("inconsistent"));
    }
}
