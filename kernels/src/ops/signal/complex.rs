//! `FFT`, `FFT2D`, `FFT3D`, `IFFT`, `IFFT2D`, `IFFT3D`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::parallel::Parallel;
use actorflow_core::{DType, Operation, Output, Shape, register_ops};
use num_complex::Complex;

use super::lines::{Lines, Real};
use crate::spread::{self, GRAIN};

/// The last `rank` dimensions of a tensor that is to be transformed along them.
///
/// # Errors
/// `INVALID_ARGUMENT` if it has fewer.
pub(super) fn inner(shape: &Shape, rank: usize) -> Result<&[usize]> {
    match shape.rank().checked_sub(rank) {
        Some(start) => Ok(&shape[start..]),
        None => Err(Error::invalid(format!(
            "input must have rank of at least {rank} but got shape {shape}"
        ))),
    }
}

/// Multiplies by a number.
pub(super) fn scale<F: Real, T: Send + Copy + std::ops::Mul<F, Output = T>>(par: &dyn Parallel, data: &mut [T], by: F) {
    spread::chunks(par, data, GRAIN, |_, part| part.iter_mut().for_each(|x| *x = *x * by));
}

struct Transform<F: Real> {
    rank: usize,
    inverse: bool,
    lines: Lines<F>,
}

impl<F: Real> Kernel for Transform<F>
where
    Complex<F>: Element,
{
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let shape = cx.input(0)?.shape().clone();
        let count: usize = inner(&shape, self.rank)?.iter().product();
        let par = cx.parallel();
        let from = cx.input(0)?.clone();
        let mut out = cx.alloc(Complex::<F>::DTYPE, shape.clone())?;
        let data = out
            .as_mut_slice::<Complex<F>>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        data.copy_from_slice(from.as_slice()?);
        for axis in (shape.rank() - self.rank..shape.rank()).rev() {
            self.lines.along(par, data, &shape, axis);
        }
        if self.inverse {
            scale(par, data, F::reciprocal(count));
        }
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>, rank: usize, inverse: bool) -> Result<Box<dyn Kernel>> {
    match init.input_types[0] {
        DType::C64 => Ok(Box::new(Transform {
            rank,
            inverse,
            lines: Lines::<f32>::new(inverse),
        })),
        DType::C128 => Ok(Box::new(Transform {
            rank,
            inverse,
            lines: Lines::<f64>::new(inverse),
        })),
        _ => Err(init.no_kernel()),
    }
}

/// The number of elements in the last `rank` dimensions, as a complex scalar of the type of `x`.
fn size_of(x: &Output, rank: usize) -> Result<Output> {
    let g = x.graph();
    let dims = x.shape();
    let known = dims
        .rank()
        .filter(|r| *r >= rank)
        .and_then(|r| dims.sub(r - rank, r).count());
    let count = match known {
        Some(n) => g.scalar(DType::F64, n as f64)?,
        None => {
            let shape = x.shape_op()?;
            let start = shape.size_op()?.minus(&g.constant(rank as i32)?)?;
            let axes = g
                .op("Range")
                .input(&start)
                .input(&shape.size_op()?)
                .input(&g.constant(1i32)?)
                .output()?;
            shape
                .gather(&axes, 0)?
                .cast(DType::F64)?
                .reduce_by("Prod", &g.constant(0i32)?, false)?
        }
    };
    count.cast(x.dtype())
}

fn gradient(cx: &GradContext, grads: &[Option<Grad>], rank: usize, inverse: bool) -> Result<Vec<Option<Grad>>> {
    let dy = cx.dense(grads, 0)?;
    let size = size_of(&dy, rank)?;
    let dx = match inverse {
        true => dy.unary(name(rank, false))?.divided_by(&size)?,
        false => dy.unary(name(rank, true))?.times(&size)?,
    };
    Ok(vec![Some(dx.into())])
}

/// The name of the transform of that many dimensions.
pub(super) fn name(rank: usize, inverse: bool) -> &'static str {
    match (rank, inverse) {
        (1, false) => "FFT",
        (1, true) => "IFFT",
        (2, false) => "FFT2D",
        (2, true) => "IFFT2D",
        (_, false) => "FFT3D",
        (_, true) => "IFFT3D",
    }
}

fn sample(s: &mut Sampler, op: &str, shape: &[usize]) -> Result<Operation> {
    let (re, im) = (s.normal(shape)?, s.normal(shape)?);
    let x = s
        .op("Complex")
        .input(&re)
        .input(&im)
        .attr("Tout", DType::C128)
        .output()?;
    let y = s.op(op).input(&x).output()?;
    parts(s, &y)
}

/// The sum of both parts of complex128 numbers, with different weights.
pub(super) fn parts(s: &Sampler, y: &Output) -> Result<Operation> {
    let part = |op| s.op(op).input(y).attr("Tout", DType::F64).output();
    let sum = part("Real")?.plus(&part("Imag")?.times(&s.scalar(0.7)?)?)?;
    s.op("Identity").input(&sum).finish()
}

macro_rules! transforms {
    ($($f:ident $name:literal $rank:literal $inverse:literal $doc:literal $shape:expr;)*) => {
        $(fn $f() -> OpDef {
            OpDef::new($name, Category::Signal)
                .doc($doc)
                .input("input: Tcomplex")
                .output("output: Tcomplex")
                .attr("Tcomplex: {complex64, complex128} = DT_COMPLEX64")
                .shape(|cx| Ok(vec![cx.input(0).with_rank_at_least($rank)?]))
                .gradient(|cx, grads| gradient(cx, grads, $rank, $inverse))
                .cpu(|init| kernel(init, $rank, $inverse))
                .sample(|s| sample(s, $name, &$shape))
        })*
        register_ops!($($f),*);
    };
}

transforms! {
    fft "FFT" 1 false "The discrete Fourier transform of every row." [2, 5];
    fft2d "FFT2D" 2 false "The discrete Fourier transform over the last two dimensions." [2, 3, 2];
    fft3d "FFT3D" 3 false "The discrete Fourier transform over the last three dimensions." [2, 2, 3];
    ifft "IFFT" 1 true "The inverse discrete Fourier transform of every row." [2, 4];
    ifft2d "IFFT2D" 2 true "The inverse discrete Fourier transform over the last two dimensions." [3, 2];
    ifft3d "IFFT3D" 3 true "The inverse discrete Fourier transform over the last three dimensions." [2, 3, 1];
}

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval, fails};
    use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};
    use num_complex::Complex;

    #[test]
    fn transforms_are_undone_by_their_inverses() {
        let g = Graph::new();
        for op in ["FFT", "FFT2D", "FFT3D"] {
            let x: Vec<Complex<f32>> = (0..24).map(|i| Complex::new((i % 7) as f32, i as f32)).collect();
            let x = Tensor::from_slice([2, 3, 4], &x).unwrap();
            let y = g.constant(x.clone()).unwrap().unary(op).unwrap();
            let back = eval(&y.unary(&format!("I{op}")).unwrap());
            let pairs = back.as_slice::<Complex<f32>>().unwrap().iter();
            assert!(
                pairs
                    .zip(x.as_slice::<Complex<f32>>().unwrap())
                    .all(|(a, b)| (a - b).norm() < 1e-4)
            );
        }
        let c = |re: f64, im: f64| Complex::new(re, im);
        let x = g.constant([c(1., 0.), c(2., 1.), c(0., -1.), c(3., 0.)]).unwrap();
        let y = eval(&x.unary("FFT").unwrap());
        assert_eq!(y, Tensor::from([c(6., 0.), c(2., 2.), c(-4., -2.), c(0., 0.)]));
    }

    #[test]
    fn too_few_dimensions_are_refused_and_empty_ones_pass() {
        let g = Graph::new();
        let p = g.placeholder("x", DType::C64, PartialShape::UNKNOWN).unwrap();
        let run = |op: &str, t: Tensor| {
            let y = p.unary(op).unwrap();
            Interpreter::default().run(&[y], &[], &[(p.clone(), t)])
        };
        let one = || Tensor::from(Complex::new(1f32, 0.0));
        assert_eq!(run("FFT", one()).unwrap_err().code(), Code::InvalidArgument);
        let none = Tensor::zeros(DType::C64, [2, 0]).unwrap();
        assert_eq!(run("IFFT2D", none).unwrap()[0].shape().dims(), [2, 0]);
        assert!(g.constant(one()).unwrap().unary("FFT").is_err());
        assert_eq!(fails(&p).code(), Code::InvalidArgument);
    }
}
