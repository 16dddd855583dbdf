//! What all products share: element types, operands and their errors.
#![forbid(unsafe_code)]

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Device, KernelInit};
use actorflow_core::{Shape, Tensor};
use half::{bf16, f16};
use num_complex::Complex;

use crate::gemm::{self, Epilogue, Mat, MatMut, Offsets, gemm_batched};

/// How an operand is read.
#[derive(Clone, Copy, Default)]
pub(super) struct Turn {
    /// Columns as rows.
    pub(super) transpose: bool,
    /// Complex elements conjugated.
    pub(super) conj: bool,
}

/// A batch of products `[m, k] x [k, n]`; where the matrices of an operand begin in it.
pub(super) struct Batch<'a> {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) count: usize,
    pub(super) a: Offsets<'a>,
    pub(super) b: Offsets<'a>,
}

/// What is done with each element of a product before it is stored.
#[derive(Clone, Copy, Default)]
pub(super) struct Finish<'a> {
    pub(super) bias: Option<&'a Tensor>,
    pub(super) relu: bool,
}

/// Computes a batch of products into a new tensor of the given shape.
pub(super) type Multiply =
    fn(&dyn Device, (&Tensor, Turn), (&Tensor, Turn), &Batch<'_>, Finish<'_>, Shape) -> Result<Tensor>;

fn refused(e: gemm::GemmError) -> Error {
    Error::internal(e.to_string())
}

fn view<'a, T: gemm::Element>(x: &'a [T], rows: usize, cols: usize, turn: Turn) -> Result<Mat<'a, T>> {
    let mat = match turn.transpose {
        true => Mat::dense(x, cols, rows).map_err(refused)?.t(),
        false => Mat::dense(x, rows, cols).map_err(refused)?,
    };
    Ok(if turn.conj { mat.conj() } else { mat })
}

/// A number that matrices are made of.
pub(super) trait Number: Element + gemm::Element {
    const ZERO: Self;
    const ONE: Self;
}

macro_rules! numbers {
    ($($t:ty, $zero:expr, $one:expr;)*) => {
        $(impl Number for $t {
            const ZERO: $t = $zero;
            const ONE: $t = $one;
        })*
    };
}

numbers! {
    f32, 0.0, 1.0;
    f64, 0.0, 1.0;
    f16, f16::ZERO, f16::ONE;
    bf16, bf16::ZERO, bf16::ONE;
    i32, 0, 1;
    i64, 0, 1;
    Complex<f32>, Complex::new(0.0, 0.0), Complex::new(1.0, 0.0);
    Complex<f64>, Complex::new(0.0, 0.0), Complex::new(1.0, 0.0);
}

fn direct<T: Number>(
    device: &dyn Device,
    (a, turn_a): (&Tensor, Turn),
    (b, turn_b): (&Tensor, Turn),
    batch: &Batch<'_>,
    finish: Finish<'_>,
    shape: Shape,
) -> Result<Tensor> {
    let Batch { m, k, n, count, .. } = *batch;
    let mut out = Tensor::alloc_in(device.pool(), T::DTYPE, shape)?;
    let c = out
        .as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    if c.is_empty() {
        return Ok(out);
    }
    let epilogue = Epilogue {
        bias: finish.bias.map(|b| b.as_slice::<T>()).transpose()?,
        relu: finish.relu,
    };
    let step = m * n;
    let a = view(a.as_slice::<T>()?, m, k, turn_a)?;
    let b = view(b.as_slice::<T>()?, k, n, turn_b)?;
    let c = MatMut::dense(c, m, n).map_err(refused)?;
    let (a, b) = ((a, batch.a), (b, batch.b));
    gemm_batched(device.parallel(), count, T::ONE, a, b, T::ZERO, (c, step), epilogue).map_err(refused)?;
    Ok(out)
}

/// `c += alpha * a b`, where the extents are rows, inner dimension and columns of the product.
///
/// # Errors
/// `INTERNAL` if the operands do not have these extents.
pub(super) fn accumulate<T: Number>(
    device: &dyn Device,
    alpha: T,
    (a, turn_a): (&Tensor, Turn),
    (b, turn_b): (&Tensor, Turn),
    [m, k, n]: [usize; 3],
    c: &mut [T],
) -> Result<()> {
    if c.is_empty() {
        return Ok(());
    }
    let a = view(a.as_slice::<T>()?, m, k, turn_a)?;
    let b = view(b.as_slice::<T>()?, k, n, turn_b)?;
    let c = MatMut::dense(c, m, n).map_err(refused)?;
    let plain = Epilogue {
        bias: None,
        relu: false,
    };
    gemm::gemm(device.parallel(), alpha, a, b, T::ONE, c, plain).map_err(refused)
}

/// The tensor converted element by element.
pub(super) fn convert<A: Element, B: Element>(device: &dyn Device, x: &Tensor, f: impl Fn(A) -> B) -> Result<Tensor> {
    let mut out = Tensor::alloc_in(device.pool(), B::DTYPE, x.shape().clone())?;
    let to = out
        .as_mut_slice::<B>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    for (o, a) in to.iter_mut().zip(x.as_slice::<A>()?) {
        *o = f(*a);
    }
    Ok(out)
}

/// Small integers are multiplied as int32, which is right modulo their size.
macro_rules! small {
    ($t:ty) => {
        |device, (a, ta), (b, tb), batch, finish, shape| {
            let widen = |x: $t| i32::from(x);
            let a = convert::<$t, i32>(device, a, widen)?;
            let b = convert::<$t, i32>(device, b, widen)?;
            let c = direct::<i32>(device, (&a, ta), (&b, tb), batch, finish, shape)?;
            convert::<i32, $t>(device, &c, |x| x as $t)
        }
    };
}

/// Unsigned integers are multiplied as signed ones, which is the same modulo their size.
macro_rules! unsigned {
    ($u:ident, $s:ident, $t:ty) => {
        |device, (a, ta), (b, tb), batch, finish, shape| {
            let (a, b) = (a.clone().bitcast(DType::$s)?, b.clone().bitcast(DType::$s)?);
            direct::<$t>(device, (&a, ta), (&b, tb), batch, finish, shape)?.bitcast(DType::$u)
        }
    };
}

/// The product of matrices of this dtype.
pub(super) fn multiply(dtype: DType, init: &KernelInit<'_>) -> Result<Multiply> {
    Ok(match dtype {
        DType::F32 => direct::<f32>,
        DType::F64 => direct::<f64>,
        DType::F16 => direct::<f16>,
        DType::BF16 => direct::<bf16>,
        DType::I32 => direct::<i32>,
        DType::I64 => direct::<i64>,
        DType::C64 => direct::<Complex<f32>>,
        DType::C128 => direct::<Complex<f64>>,
        DType::I8 => small!(i8),
        DType::I16 => small!(i16),
        DType::U8 => small!(u8),
        DType::U16 => small!(u16),
        DType::U32 => unsigned!(U32, I32, i32),
        DType::U64 => unsigned!(U64, I64, i64),
        _ => return Err(init.no_kernel()),
    })
}

/// The extents of a product of matrices of these dimensions: rows, inner, columns.
///
/// # Errors
/// `INVALID_ARGUMENT` naming both shapes if the inner dimensions differ.
pub(super) fn extents(
    (a, transpose_a): (&Shape, bool),
    (b, transpose_b): (&Shape, bool),
) -> Result<(usize, usize, usize)> {
    let last = |s: &Shape| (s[s.rank() - 2], s[s.rank() - 1]);
    let flip = |(r, c): (usize, usize), t: bool| if t { (c, r) } else { (r, c) };
    let ((m, k), (inner, n)) = (flip(last(a), transpose_a), flip(last(b), transpose_b));
    if k != inner {
        let turned = |t: bool| if t { " transposed" } else { "" };
        return Err(Error::invalid(format!(
            "matrix size-incompatible: In[0]: {a}{}, In[1]: {b}{}; columns of the first must be rows of the second",
            turned(transpose_a),
            turned(transpose_b)
        )));
    }
    Ok((m, k, n))
}
