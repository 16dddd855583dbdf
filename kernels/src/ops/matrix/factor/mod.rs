//! Operations on batches of matrices: factorisations, inverses, solutions.
#![forbid(unsafe_code)]

pub mod banded;
pub mod cholesky;
pub mod determinant;
pub mod eigen;
pub mod eigen_general;
pub mod functions;
pub mod inverse;
pub mod least_squares;
pub mod qr;
pub mod solve;
pub mod svd;
pub mod triangular;
pub mod tridiagonal;

use std::sync::Mutex;

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext};
use actorflow_core::parallel::Parallel;
use actorflow_core::{Output, PartialShape, Shape, Tensor, dispatch};
use half::{bf16, f16};
use num_complex::Complex;

use super::product::convert;
use crate::linalg::Num;
use crate::spread;

/// The element types of most of these operations.
const TYPES: &str = "T: {double, float, half, complex64, complex128}";

/// An element type, and the one that matrices of it are factored in.
trait Entry: Element {
    type Wide: Num;
    fn widen(self) -> Self::Wide;
    fn narrow(x: Self::Wide) -> Self;
}

macro_rules! entries {
    ($($t:ty, $w:ty, |$x:ident| $widen:expr, $narrow:expr;)*) => {
        $(impl Entry for $t {
            type Wide = $w;
            fn widen(self) -> $w {
                let $x = self;
                $widen
            }
            fn narrow($x: $w) -> $t {
                $narrow
            }
        })*
    };
}

entries! {
    f16, f64, |x| x.to_f64(), f16::from_f64(x);
    bf16, f64, |x| x.to_f64(), bf16::from_f64(x);
    f32, f64, |x| f64::from(x), x as f32;
    f64, f64, |x| x, x;
    Complex<f32>, Complex<f64>, |x| Complex::new(x.re.into(), x.im.into()), Complex::new(x.re as f32, x.im as f32);
    Complex<f64>, Complex<f64>, |x| x, x;
}

fn widened<T: Entry>(device: &dyn Device, x: &Tensor) -> Result<Tensor> {
    match T::DTYPE == T::Wide::DTYPE {
        true => Ok(x.clone()),
        false => convert::<T, T::Wide>(device, x, T::widen),
    }
}

/// Calls `f(i, part i of out)` for parts of `len` elements, on any worker; the first error of all.
fn batched<W: Send>(
    par: &dyn Parallel,
    out: &mut [W],
    len: usize,
    work: usize,
    f: impl Fn(usize, &mut [W]) -> Result<()> + Sync,
) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let failure = Mutex::new(None);
    let group = spread::rows_of(work);
    spread::chunks(par, out, group * len, |c, out| {
        for (i, out) in out.chunks_mut(len).enumerate() {
            if let Err(e) = f(c * group + i, out) {
                let mut first = failure.lock().unwrap_or_else(|e| e.into_inner());
                first.get_or_insert(e);
                return;
            }
        }
    });
    match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// The batch dimensions, rows and columns of a tensor of matrices.
fn matrices(shape: &Shape) -> Result<(&[usize], usize, usize)> {
    match shape.dims() {
        [batch @ .., m, n] => Ok((batch, *m, *n)),
        _ => Err(Error::invalid(format!(
            "input must have at least 2 dimensions, got shape {shape}"
        ))),
    }
}

fn square(shape: &Shape) -> Result<(&[usize], usize)> {
    let (batch, m, n) = matrices(shape)?;
    if m != n {
        return Err(Error::invalid(format!(
            "input matrices must be square, got shape {shape}"
        )));
    }
    Ok((batch, n))
}

/// A decomposition of one matrix.
trait Factor: Send + Sync + 'static {
    /// The shapes of the results for one `m` by `n` matrix; `None` for a result that is not asked for.
    fn results(&self, m: usize, n: usize) -> Vec<Option<Vec<usize>>>;

    /// Whether matrices must be square.
    const SQUARE: bool;

    /// Decomposes `a` and writes the results one after the other to `out`.
    fn run<W: Num>(&self, a: &[W], m: usize, n: usize, out: &mut [W]) -> Result<()>;
}

struct Factoring<F> {
    factor: F,
    run: fn(&F, &mut OpContext<'_>) -> Result<()>,
}

impl<F: Factor> Kernel for Factoring<F> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        (self.run)(&self.factor, cx)
    }
}

fn factor_all<F: Factor, T: Entry>(factor: &F, cx: &mut OpContext<'_>) -> Result<()> {
    let device = &*cx.step().device;
    let input = cx.input(0)?;
    let shape = input.shape().clone();
    let (batch, m, n) = matrices(&shape)?;
    if F::SQUARE {
        square(&shape)?;
    }
    let wide = widened::<T>(device, input)?;
    let a = wide.as_slice::<T::Wide>()?;
    let count: usize = batch.iter().product();
    let results = factor.results(m, n);
    let sizes: Vec<usize> = results
        .iter()
        .map(|r| r.as_ref().map_or(0, |d| d.iter().product()))
        .collect();
    let total: usize = sizes.iter().sum();
    let packed_shape = Shape::new(&[count, total]);
    packed_shape.checked_count()?;
    let mut packed = Tensor::alloc_in(device.pool(), T::Wide::DTYPE, packed_shape)?;
    let all = packed
        .as_mut_slice::<T::Wide>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    let work = (m * n).saturating_mul(m.min(n));
    batched(cx.parallel(), all, total, work, |i, out| {
        factor.run(&a[i * m * n..][..m * n], m, n, out)
    })?;
    let mut at = 0;
    let mut outs = Vec::new();
    for (dims, size) in results.iter().zip(&sizes) {
        let shape: Shape = match dims {
            Some(d) => batch.iter().chain(d).copied().collect(),
            None => Shape::new(&[0]),
        };
        let mut out = cx.alloc(T::DTYPE, shape)?;
        let to = out
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        if *size > 0 {
            for (to, from) in to.chunks_mut(*size).zip(all.chunks(total)) {
                let from = &from[at..at + size];
                to.iter_mut().zip(from).for_each(|(t, f)| *t = T::narrow(*f));
            }
        }
        at += size;
        outs.push(out);
    }
    outs.into_iter().enumerate().for_each(|(i, t)| cx.set_output(i, t));
    Ok(())
}

/// The kernel of a decomposition.
fn factoring<F: Factor>(factor: F, init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let run = dispatch!(init.input_types[0], T in [F16, F32, F64, C64, C128] => factor_all::<F, T>,
        else return Err(init.no_kernel()));
    Ok(Box::new(Factoring { factor, run }))
}

/// What is known of the shape of input 0, a tensor of square matrices.
fn square_shape(cx: &ShapeContext<'_>, i: usize) -> Result<PartialShape> {
    let shape = cx.input(i).with_rank_at_least(2)?;
    let Some(rank) = shape.rank() else {
        return Ok(shape);
    };
    let n = shape.sub(rank - 2, rank - 1).merge(&shape.sub(rank - 1, rank))?;
    Ok(shape.with_dim(rank - 2, n.dim(0)).with_dim(rank - 1, n.dim(0)))
}

/// The conjugate transpose of the last two dimensions.
fn adjoint(x: &Output) -> Result<Output> {
    let turned = match x.shape().rank() {
        Some(rank) if rank >= 2 => {
            let mut perm: Vec<i64> = (0..rank as i64).collect();
            perm.swap(rank - 2, rank - 1);
            x.transpose(&perm)?
        }
        _ => x
            .graph()
            .op("Einsum")
            .input_list(std::slice::from_ref(x))
            .attr("equation", "...ij->...ji")
            .output()?,
    };
    if turned.dtype().is_complex() {
        turned.conj_op()
    } else {
        Ok(turned)
    }
}

/// The products of two batches of matrices, either of them adjoint.
fn times(a: &Output, b: &Output, adj_a: bool, adj_b: bool) -> Result<Output> {
    a.graph()
        .op("BatchMatMulV2")
        .input(a)
        .input(b)
        .attr("adj_x", adj_a)
        .attr("adj_y", adj_b)
        .output()
}

/// The matrices without what lies more than `lower` diagonals below or `upper` above the main one (-1: all stay).
fn band(x: &Output, lower: i64, upper: i64) -> Result<Output> {
    let g = x.graph();
    g.op("MatrixBandPart")
        .input(x)
        .input(&g.constant(lower)?)
        .input(&g.constant(upper)?)
        .output()
}

fn set_diag(x: &Output, diagonal: &Output) -> Result<Output> {
    x.graph().op("MatrixSetDiag").input(x).input(diagonal).output()
}

/// `x / (x^2 + epsilon)`: the reciprocal, and 0 of 0.
fn safe_reciprocal(x: &Output) -> Result<Output> {
    x.times(&(x.square()? + 1e-20)?.reciprocal()?)
}

/// 1 / (x_j - x_i) for each pair of elements of the last dimension, 0 on the diagonal.
fn reciprocal_differences(x: &Output) -> Result<Output> {
    let differences = x.expand_dims(-2)?.minus(&x.expand_dims(-1)?)?;
    set_diag(&safe_reciprocal(&differences)?, &x.zeros_like()?)
}

/// A tensor of scalars with two trailing dimensions of length 1.
fn as_matrices(x: &Output) -> Result<Output> {
    x.expand_dims(-1)?.expand_dims(-1)
}
