//! `RFFT`, `RFFT2D`, `RFFT3D`, `IRFFT`, `IRFFT2D`, `IRFFT3D`: transforms of real signals.
#![forbid(unsafe_code)]

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Operation, Output, PartialShape, Shape, Tensor, register_ops};
use num_complex::Complex;

use super::complex::{inner, name as complex_name, parts, scale};
use super::lines::{Lines, Real};

struct Transform<F: Real> {
    rank: usize,
    inverse: bool,
    lines: Lines<F>,
}

/// The lengths of a transform: input 1 of its node, held against the shape of input 0.
fn lengths(cx: &OpContext<'_>, rank: usize, inverse: bool) -> Result<Vec<usize>> {
    let (shape, length) = (cx.input(0)?.shape(), cx.input(1)?);
    let dims = inner(shape, rank)?;
    if length.shape().dims() != [rank] {
        return Err(Error::invalid(format!(
            "fft_length must have shape [{rank}], not {}",
            length.shape()
        )));
    }
    let mut out = Vec::with_capacity(rank);
    for (i, (len, have)) in length.to_i64_vec()?.into_iter().zip(dims).enumerate() {
        let n = usize::try_from(len)
            .map_err(|_| Error::invalid(format!("fft_length[{i}] must be >= 0, but got: {len}")))?;
        let need = if inverse && i + 1 == rank { n / 2 + 1 } else { n };
        if *have != 0 && *have < need {
            return Err(Error::invalid(format!(
                "dimension {} of the input must have length of at least {need} but got shape {shape}",
                shape.rank() - rank + i
            )));
        }
        out.push(n);
    }
    Ok(out)
}

/// The leading `to` elements of each dimension of `from`, which has at least as many.
fn cropped<T: Copy>(from: &[T], dims: &[usize], to: &[usize], out: &mut [T]) {
    let Some((width, rows)) = to.split_last() else {
        out.copy_from_slice(from);
        return;
    };
    if out.is_empty() {
        return;
    }
    let strides = Shape::new(dims).strides();
    let mut at = vec![0usize; rows.len()];
    for row in out.chunks_exact_mut(*width) {
        let start: usize = at.iter().zip(&strides).map(|(i, s)| i * s).sum();
        row.copy_from_slice(&from[start..start + width]);
        for (i, n) in at.iter_mut().zip(rows).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
}

impl<F: Real> Kernel for Transform<F>
where
    Complex<F>: Element,
{
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let lengths = lengths(cx, self.rank, self.inverse)?;
        let par = cx.parallel();
        let input = cx.input(0)?.clone();
        let dims = input.shape();
        let outer = dims.rank() - self.rank;
        let last = lengths.last().copied().unwrap_or(0);
        let half = if last == 0 { 0 } else { last / 2 + 1 };
        let with_last = |n: usize| -> Shape {
            let leading = dims[..outer].iter().chain(&lengths[..self.rank - 1]);
            leading.copied().chain([n]).collect()
        };
        let (real, complex) = (with_last(last), with_last(half));
        let total = real.checked_count()?;
        let (dtype, shape) = match self.inverse {
            true => (F::DTYPE, &real),
            false => (Complex::<F>::DTYPE, &complex),
        };
        if input.is_empty() || total == 0 {
            let none = cx.zeros(dtype, shape.clone())?;
            cx.set_output(0, none);
            return Ok(());
        }
        let mut out = cx.alloc(dtype, shape.clone())?;
        let unwritable = || Error::internal("a new tensor must be writable");
        let axes = (outer..dims.rank() - 1).rev();
        if self.inverse {
            let mut work = cx.alloc(Complex::<F>::DTYPE, complex.clone())?;
            let data = work.as_mut_slice::<Complex<F>>().ok_or_else(unwritable)?;
            cropped(input.as_slice()?, dims, &complex, data);
            axes.for_each(|a| self.lines.along(par, data, &complex, a));
            let to = out.as_mut_slice::<F>().ok_or_else(unwritable)?;
            self.lines.to_real(par, data, last, to);
            scale(par, to, F::reciprocal(lengths.iter().product()));
        } else {
            let to = out.as_mut_slice::<Complex<F>>().ok_or_else(unwritable)?;
            if **dims == *real {
                self.lines.of_real(par, input.as_slice()?, last, to);
            } else {
                let mut work = cx.alloc(F::DTYPE, real.clone())?;
                let data = work.as_mut_slice::<F>().ok_or_else(unwritable)?;
                cropped(input.as_slice()?, dims, &real, data);
                self.lines.of_real(par, data, last, to);
            }
            axes.for_each(|a| self.lines.along(par, to, &complex, a));
        }
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>, rank: usize, inverse: bool) -> Result<Box<dyn Kernel>> {
    let (real, complex) = match inverse {
        true => (init.output_types[0], init.input_types[0]),
        false => (init.input_types[0], init.output_types[0]),
    };
    match (real, complex) {
        (DType::F32, DType::C64) => Ok(Box::new(Transform {
            rank,
            inverse,
            lines: Lines::<f32>::new(inverse),
        })),
        (DType::F64, DType::C128) => Ok(Box::new(Transform {
            rank,
            inverse,
            lines: Lines::<f64>::new(inverse),
        })),
        _ => Err(Error::invalid(format!(
            "Treal {real} and Tcomplex {complex} are of different precision"
        ))),
    }
}

fn shape(cx: &ShapeContext<'_>, rank: usize, inverse: bool) -> Result<Vec<PartialShape>> {
    let x = cx.input(0).with_rank_at_least(rank)?;
    let length = cx.input(1).with_rank(1)?;
    length.merge(&PartialShape::vector(Some(rank)))?;
    let Some(r) = x.rank() else {
        return Ok(vec![x]);
    };
    let mut inner = vec![None; rank];
    for (i, n) in cx
        .constant_i64s(1)
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .take(rank)
    {
        let n =
            usize::try_from(n).map_err(|_| Error::invalid(format!("fft_length[{i}] must be >= 0, but got: {n}")))?;
        inner[i] = Some(match !inverse && i + 1 == rank && n > 0 {
            true => n / 2 + 1,
            false => n,
        });
    }
    Ok(vec![x.sub(0, r - rank).concat(&PartialShape::new(inner))])
}

/// The last `rank` elements of the shape of `x`, a vector.
fn inner_shape(x: &Output, rank: usize) -> Result<Output> {
    let (g, shape) = (x.graph(), x.shape_op()?);
    let start = shape.size_op()?.minus(&g.constant(rank as i32)?)?.expand_dims(0)?;
    g.op("Slice")
        .input(&shape)
        .input(&start)
        .input(&g.constant([rank as i32])?)
        .output()
}

/// `x` with zeros behind its last dimensions, so that these get the lengths that `to`, a vector, holds.
fn padded(x: &Output, to: &Output, rank: usize) -> Result<Output> {
    let g = x.graph();
    let more = to.minus(&inner_shape(x, rank)?)?;
    let outer = x.rank_op()?.minus(&g.constant(rank as i32)?)?.expand_dims(0)?;
    let behind = g.concat(&[outer.fill_with(&g.constant(0i32)?)?, more], 0)?;
    let pads = g.stack(&[behind.zeros_like()?, behind], 1)?;
    g.op("Pad").input(x).input(&pads).output()
}

fn last_of(lengths: &Output) -> Result<Output> {
    lengths.gather(
        &lengths
            .graph()
            .constant([lengths.shape().dim(0).unwrap_or(1) as i32 - 1])?,
        0,
    )
}

/// The gradients of the frequencies, of which those that were left out have none, are transformed back.
fn forward_grad(cx: &GradContext, grads: &[Option<Grad>], rank: usize) -> Result<Vec<Option<Grad>>> {
    let (x, lengths, dy) = (cx.input(0)?, cx.input(1)?, cx.dense(grads, 0)?);
    let lengths = lengths.reshape(&[rank as i64])?;
    let all = padded(&dy, &lengths, rank)?;
    let back = all.unary(complex_name(rank, true))?;
    let size = lengths.reduce_by("Prod", &cx.graph().constant(0i32)?, false)?;
    let real = cx
        .graph()
        .op("Real")
        .input(&back)
        .attr("Tout", x.dtype())
        .output()?
        .times(&size.cast(x.dtype())?)?;
    Ok(vec![Some(padded(&real, &inner_shape(&x, rank)?, rank)?.into()), None])
}

/// The gradients are transformed; frequencies that stand for two count twice.
fn inverse_grad(cx: &GradContext, grads: &[Option<Grad>], rank: usize) -> Result<Vec<Option<Grad>>> {
    let (g, x, dy) = (cx.graph(), cx.input(0)?, cx.dense(grads, 0)?);
    let lengths = cx.input(1)?.reshape(&[rank as i64])?;
    let forward = g
        .op(name(rank, false))
        .input(&dy)
        .input(&lengths)
        .attr("Tcomplex", x.dtype())
        .output()?;
    let n = last_of(&lengths)?.reshape(&[])?;
    let width = n.floor_div(&g.constant(2i32)?)?.plus(&g.constant(1i32)?)?;
    let number = g
        .op("Range")
        .input(&g.constant(0i32)?)
        .input(&width)
        .input(&g.constant(1i32)?)
        .output()?;
    // Number 0 stands for itself, and number n / 2 of an even n.
    let zero = g.constant(0i32)?;
    let doubled = number.times(&g.constant(2i32)?)?;
    let alone = number.equal(&zero)?.logical_or(&doubled.equal(&n)?)?;
    let (one, two) = (dy.scalar_like(1.0)?, dy.scalar_like(2.0)?);
    let size = lengths.reduce_by("Prod", &zero, false)?.cast(dy.dtype())?;
    let weights = alone.select(&one, &two)?.divided_by(&size)?.cast(x.dtype())?;
    let dx = forward.times(&weights)?;
    Ok(vec![Some(padded(&dx, &inner_shape(&x, rank)?, rank)?.into()), None])
}

fn name(rank: usize, inverse: bool) -> &'static str {
    match (rank, inverse) {
        (1, false) => "RFFT",
        (1, true) => "IRFFT",
        (2, false) => "RFFT2D",
        (2, true) => "IRFFT2D",
        (_, false) => "RFFT3D",
        (_, true) => "IRFFT3D",
    }
}

fn sample(s: &mut Sampler, op: &str, shape: &[usize], lengths: &[i32], inverse: bool) -> Result<Operation> {
    let n = s.constant(Tensor::vector(lengths))?;
    let re = s.normal(shape)?;
    if inverse {
        let im = s.normal(shape)?;
        let x = s
            .op("Complex")
            .input(&re)
            .input(&im)
            .attr("Tout", DType::C128)
            .output()?;
        return s.op(op).input(&x).input(&n).attr("Treal", DType::F64).finish();
    }
    let y = s.op(op).input(&re).input(&n).attr("Tcomplex", DType::C128).output()?;
    parts(s, &y)
}

macro_rules! transforms {
    ($($f:ident $name:literal $rank:literal $doc:literal $(($shape:expr, $lengths:expr))*;)*) => {
        $(fn $f() -> OpDef {
            const INVERSE: bool = matches!($name.as_bytes(), [b'I', ..]);
            let op = OpDef::new($name, Category::Signal).doc($doc);
            let (from, to) = if INVERSE { ("Tcomplex", "Treal") } else { ("Treal", "Tcomplex") };
            op.input(&format!("input: {from}"))
                .input("fft_length: int32")
                .output(&format!("output: {to}"))
                .attr("Treal: {float, double} = DT_FLOAT")
                .attr("Tcomplex: {complex64, complex128} = DT_COMPLEX64")
                .shape(|cx| shape(cx, $rank, INVERSE))
                .gradient(|cx, grads| match INVERSE {
                    true => inverse_grad(cx, grads, $rank),
                    false => forward_grad(cx, grads, $rank),
                })
                .cpu(|init| kernel(init, $rank, INVERSE))
                $(.sample(|s| sample(s, $name, &$shape, &$lengths, INVERSE)))*
        })*
        register_ops!($($f),*);
    };
}

transforms! {
    rfft "RFFT" 1 "The non-negative frequencies of the rows of real numbers." ([2, 5], [5]) ([6], [6]) ([2, 6], [3]);
    rfft2d "RFFT2D" 2 "The Fourier transform of real numbers over the last two dimensions." ([2, 3, 4], [3, 4])
        ([3, 3], [2, 3]);
    rfft3d "RFFT3D" 3 "The Fourier transform of real numbers over the last three dimensions." ([2, 2, 3], [2, 2, 3]);
    irfft "IRFFT" 1 "The rows of real numbers that have these non-negative frequencies." ([2, 3], [5]) ([4], [6])
        ([5], [4]);
    irfft2d "IRFFT2D" 2 "The real numbers that have these frequencies over the last two dimensions." ([2, 3, 3], [3, 4])
        ([3, 3], [2, 5]);
    irfft3d "IRFFT3D" 3 "The real numbers that have these frequencies over the last three dimensions."
        ([2, 2, 2], [2, 2, 3]);
}

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::error::Result;
    use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};
    use num_complex::Complex;

    fn run(op: &str, x: Tensor, length: Tensor) -> Result<Tensor> {
        let g = Graph::new();
        let (a, b) = (
            g.placeholder("x", x.dtype(), PartialShape::UNKNOWN)?,
            g.placeholder("n", DType::I32, PartialShape::UNKNOWN)?,
        );
        let y = g.op(op).input(&a).input(&b).output()?;
        Ok(Interpreter::default().run(&[y], &[], &[(a, x), (b, length)])?.remove(0))
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn inputs_are_cropped_to_the_lengths() {
        let c = |re: f32| Complex::new(re, 0.0);
        let x: Vec<f32> = (0..8).map(|x| x as f32).collect();
        let y = run("RFFT", Tensor::from_slice([2, 4], &x).unwrap(), [2i32].into()).unwrap();
        assert_eq!(y, Tensor::from([[c(1.), c(-1.)], [c(9.), c(-1.)]]));
        let x: Vec<_> = (0..4).map(|x| c(x as f32)).collect();
        let y = run("IRFFT", Tensor::vector(&x), [4i32].into()).unwrap();
        assert_eq!(y, Tensor::from([1f32, -0.5, 0., -0.5]));
        let x = [Complex::new(1f32, 3.), Complex::new(2., 1.), Complex::new(3., 5.)];
        let y = run("IRFFT", x.into(), [4i32].into()).unwrap();
        assert_eq!(y, Tensor::from([2f32, -1., 0., 0.]));
    }

    #[test]
    fn two_dimensions_are_cropped_too() {
        let x: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let y = run("RFFT2D", Tensor::from_slice([2, 3, 4], &x).unwrap(), [2i32, 3].into()).unwrap();
        assert_eq!(y.shape().dims(), [2, 2, 2]);
        let y = y.to_vec::<Complex<f32>>().unwrap();
        let want = [(18., 0.), (-3., 1.7320508), (-12., 0.), (0., 0.), (90., 0.)];
        for (y, (re, im)) in y.iter().zip(want) {
            assert!((y - Complex::new(re, im)).norm() < 1e-4);
        }
    }

    #[test]
    fn bad_lengths_are_refused() {
        let x = || Tensor::from([1f32, 2., 3.]);
        for n in [vec![4], vec![-1], vec![1, 1], vec![]] {
            let e = run("RFFT", x(), Tensor::vector::<i32>(&n)).unwrap_err();
            assert_eq!(e.code(), Code::InvalidArgument, "{n:?}");
        }
        assert!(run("RFFT2D", x(), [1i32, 1].into()).is_err());
        let y = run("RFFT", x(), [0i32].into()).unwrap();
        assert_eq!(y.shape().dims(), [0]);
        let none = Tensor::zeros(DType::F32, [2, 0]).unwrap();
        assert_eq!(run("RFFT", none, [4i32].into()).unwrap().shape().dims(), [2, 3]);
        let g = Graph::new();
        let n = g.constant([3i32]).unwrap();
        let mixed = g.op("RFFT").input(&g.constant(x()).unwrap()).input(&n);
        let y = mixed.attr("Tcomplex", DType::C128).output().unwrap();
        assert!(Interpreter::default().run(&[y], &[], &[]).is_err());
        let y = g
            .op("RFFT")
            .input(&g.constant(x()).unwrap())
            .input(&n)
            .output()
            .unwrap();
        assert_eq!(eval(&y).shape().dims(), [2]);
    }
}
