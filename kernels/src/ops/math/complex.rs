//! `Complex`, `Real`, `Imag`, `Conj`, `Angle`, `ComplexAbs`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Output, register_ops};

use super::common::{C64, C128, one, reduced};
use crate::elementwise::{self, Loop1, Loop2, Loops, fn1, functions};
use crate::math::madd::Madd;
use crate::math::simd::{Fn2, Plain};
use crate::shapes;

fn1! {
    Real {
        Plain C64 as f32, C128 as f64 => |x, M| x.re;
    }
    Imag {
        Plain C64 as f32, C128 as f64 => |x, M| x.im;
    }
    Angle {
        Plain C64 as f32, C128 as f64 => |x, M| x.im.atan2(x.re);
    }
    /// The length, which does not overflow where the squares do.
    Abs {
        Plain C64 as f32, C128 as f64 => |x, M| x.re.hypot(x.im);
    }
    Conj {
        Plain C64, C128 => |x, M| x.conj();
    }
}

struct Join;

impl Fn2<f32, f32, C64> for Join {
    type Loop = Plain;
    #[inline(always)]
    fn call<M: Madd>(re: f32, im: f32) -> C64 {
        C64::new(re, im)
    }
}

impl Fn2<f64, f64, C128> for Join {
    type Loop = Plain;
    #[inline(always)]
    fn call<M: Madd>(re: f64, im: f64) -> C128 {
        C128::new(re, im)
    }
}

macro_rules! part_loop {
    ($($name:ident $f:ident;)*) => {
        $(fn $name(d: DType) -> Option<Loops> {
            match d {
                DType::C64 => Some(Loop1::light_to::<$f, C64, f32>().into()),
                DType::C128 => Some(Loop1::light_to::<$f, C128, f64>().into()),
                _ => None,
            }
        })*
    };
}
part_loop!(real_loop Real; imag_loop Imag; angle_loop Angle; abs_loop Abs;);

fn conj_loop(d: DType) -> Option<Loops> {
    match d {
        DType::C64 => Some(Loop1::light::<Conj, C64>().into()),
        DType::C128 => Some(Loop1::light::<Conj, C128>().into()),
        _ => None,
    }
}

fn complex_loop(d: DType) -> Option<Loops> {
    match d {
        DType::F32 => Some(Loop2::light_to::<Join, f32, C64>().into()),
        DType::F64 => Some(Loop2::light_to::<Join, f64, C128>().into()),
        _ => None,
    }
}

functions! {
    "Real" => real_loop;
    "Imag" => imag_loop;
    "Angle" => angle_loop;
    "ComplexAbs" => abs_loop;
    "Conj" => conj_loop;
    "Complex" => complex_loop;
}

fn op(name: &str, x: &Output, real: DType) -> Result<Output> {
    x.graph().op(name).input(x).attr("Tout", real).output()
}

/// `Complex` of two real tensors.
fn join(re: &Output, im: &Output) -> Result<Output> {
    let to = if re.dtype() == DType::F32 {
        DType::C64
    } else {
        DType::C128
    };
    re.graph().op("Complex").input(re).input(im).attr("Tout", to).output()
}

/// The definition of `name(input: T) -> (output: Tout)`, from complex to real numbers.
fn part(name: &'static str, input: &str, output: &str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input(input)
        .output(output)
        .attr("T: {complex64, complex128} = DT_COMPLEX64")
        .attr("Tout: {float, double} = DT_FLOAT")
        .shape(shapes::like_first)
        .cpu(elementwise::kernel)
}

fn sampled(s: &mut Sampler) -> Result<Output> {
    let (re, im) = (s.normal([2, 3])?, s.normal([2, 3])?);
    join(&re, &im)
}

fn real() -> OpDef {
    part("Real", "input: T", "output: Tout")
        .doc("The real part.")
        .gradient(|cx, dys| {
            let g = cx.dense(dys, 0)?;
            one(join(&g, &g.scalar_like(0.0)?)?)
        })
        .sample(|s| {
            let x = sampled(s)?;
            op("Real", &x, DType::F64).map(|y| y.op())
        })
}

fn imag() -> OpDef {
    part("Imag", "input: T", "output: Tout")
        .doc("The imaginary part.")
        .gradient(|cx, dys| {
            let g = cx.dense(dys, 0)?;
            one(join(&g.scalar_like(0.0)?, &g)?)
        })
        .sample(|s| {
            let x = sampled(s)?;
            op("Imag", &x, DType::F64).map(|y| y.op())
        })
}

fn angle() -> OpDef {
    part("Angle", "input: T", "output: Tout")
        .doc("The angle to the positive real axis, in -π..=π.")
        .gradient(|cx, dys| {
            let (x, g) = (cx.input(0)?, cx.dense(dys, 0)?);
            let (re, im) = (op("Real", &x, g.dtype())?, op("Imag", &x, g.dtype())?);
            let z = join(&im, &re)?.reciprocal()?;
            one(join(&g, &g.scalar_like(0.0)?)?.negated()?.times(&z)?)
        })
        .sample(|s| {
            let x = sampled(s)?;
            op("Angle", &x, DType::F64).map(|y| y.op())
        })
}

fn complex_abs() -> OpDef {
    part("ComplexAbs", "x: T", "y: Tout")
        .doc("The length of a complex number.")
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.output(0)?, cx.dense(dys, 0)?);
            let up = join(&g, &g.zeros_like()?)?.times(&x)?;
            let down = join(&y, &y.zeros_like()?)?;
            one(cx.graph().op("DivNoNan").input(&up).input(&down).output()?)
        })
        .sample(|s| {
            let x = sampled(s)?;
            op("ComplexAbs", &x, DType::F64).map(|y| y.op())
        })
}

struct Same;

impl Kernel for Same {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        cx.forward(0, 0)
    }
}

fn conj_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    match init.input_types[0] {
        DType::Variant => Ok(Box::new(Same)),
        _ => elementwise::kernel(init),
    }
}

fn conj() -> OpDef {
    OpDef::new("Conj", Category::Math)
        .doc("The complex conjugate.")
        .input("input: T")
        .output("output: T")
        .attr("T: {complex64, complex128, variant} = DT_COMPLEX64")
        .shape(shapes::like_first)
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.conj_op()?))
        .cpu(conj_kernel)
        .sample(|s| {
            let x = sampled(s)?.conj_op()?;
            op("Imag", &x, DType::F64).map(|y| y.op())
        })
}

fn complex() -> OpDef {
    OpDef::new("Complex", Category::Math)
        .doc("A complex number of its real and imaginary parts.")
        .input("real: T")
        .input("imag: T")
        .output("out: Tout")
        .attr("T: {float, double} = DT_FLOAT")
        .attr("Tout: {complex64, complex128} = DT_COMPLEX64")
        .shape(shapes::broadcast)
        .gradient(|cx, dys| {
            let (x, y, g) = (cx.input(0)?, cx.input(1)?, cx.dense(dys, 0)?);
            reduced(&x, &y, &op("Real", &g, x.dtype())?, &op("Imag", &g, x.dtype())?)
        })
        .cpu(elementwise::kernel)
        .sample(|s| {
            let (re, im) = (s.normal([2, 3])?, s.normal([3])?);
            let x = join(&re, &im)?;
            op("Angle", &x, DType::F64).map(|y| y.op())
        })
}

register_ops!(real, imag, angle, complex_abs, conj, complex);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn parts_of_complex_numbers() {
        let g = Graph::new();
        let re = g.constant([3.0f32, -1.0, 1e30]).unwrap();
        let im = g.constant([4.0f32, 0.0, 1e30]).unwrap();
        let z = join(&re, &im).unwrap();
        assert_eq!(
            eval(&op("Real", &z, DType::F32).unwrap()),
            Tensor::from([3.0f32, -1.0, 1e30])
        );
        assert_eq!(
            eval(&op("Imag", &z.conj_op().unwrap(), DType::F32).unwrap()),
            Tensor::from([-4.0f32, -0.0, -1e30])
        );
        let abs = eval(&op("ComplexAbs", &z, DType::F32).unwrap())
            .to_vec::<f32>()
            .unwrap();
        assert!(abs[..2] == [5.0, 1.0] && (abs[2] / 1.414_213_5e30 - 1.0).abs() < 1e-6);
        let angle = eval(&op("Angle", &z, DType::F32).unwrap()).to_vec::<f32>().unwrap();
        assert_eq!(angle[1], std::f32::consts::PI);
    }
}
