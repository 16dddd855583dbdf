//! Operators on outputs: `+ - * / % -x`, with outputs and plain numbers on either side.
//!
//! Each adds a node, which can fail (shapes that do not broadcast), so each gives a `Result`:
//! `let h = (&x.matmul(&w)? + &b)?;`

use std::ops::{Add, Div, Mul, Neg, Rem, Sub};

use super::Output;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Something that can stand beside an [`Output`] in an operator: another output, or a number, which becomes a
/// constant of the other side's dtype.
pub trait IntoOutput {
    /// The output, or a constant in `like`'s graph with `like`'s dtype.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the number has no exact place in that dtype.
    fn into_output(self, like: &Output) -> Result<Output>;
}

impl IntoOutput for &Output {
    fn into_output(self, _like: &Output) -> Result<Output> {
        Ok(self.clone())
    }
}

impl IntoOutput for Output {
    fn into_output(self, _like: &Output) -> Result<Output> {
        Ok(self)
    }
}

/// A scalar tensor of `dtype` with the value `x`.
///
/// # Errors
/// `INVALID_ARGUMENT` if `x` is not a value of an integer dtype, or the dtype is no number.
pub(crate) fn number(dtype: DType, x: f64) -> Result<Tensor> {
    use half::{bf16, f16};
    use num_complex::Complex;
    macro_rules! int {
        ($t:ty) => {{
            let y = x as $t;
            if y as f64 == x {
                return Ok(Tensor::scalar(y));
            }
        }};
    }
    match dtype {
        DType::F32 => return Ok(Tensor::scalar(x as f32)),
        DType::F64 => return Ok(Tensor::scalar(x)),
        DType::F16 => return Ok(Tensor::scalar(f16::from_f64(x))),
        DType::BF16 => return Ok(Tensor::scalar(bf16::from_f64(x))),
        DType::C64 => return Ok(Tensor::scalar(Complex::new(x as f32, 0.0))),
        DType::C128 => return Ok(Tensor::scalar(Complex::new(x, 0.0))),
        DType::I8 => int!(i8),
        DType::I16 => int!(i16),
        DType::I32 => int!(i32),
        DType::I64 => int!(i64),
        DType::U8 => int!(u8),
        DType::U16 => int!(u16),
        DType::U32 => int!(u32),
        DType::U64 => int!(u64),
        _ => {}
    }
    Err(Error::invalid(format!("{x} is no value of dtype {dtype}")))
}

macro_rules! numbers {
    ($($t:ty),*) => {
        $(impl IntoOutput for $t {
            #[track_caller]
            fn into_output(self, like: &Output) -> Result<Output> {
                like.graph().constant(number(like.dtype(), self as f64)?)
            }
        })*
    };
}

numbers!(f32, f64, i32, i64);

macro_rules! binary {
    ($($trait:ident $fn:ident $named:ident;)*) => {
        $(
        impl<R: IntoOutput> $trait<R> for &Output {
            type Output = Result<Output>;
            #[track_caller]
            fn $fn(self, rhs: R) -> Result<Output> {
                self.$named(&rhs.into_output(self)?)
            }
        }
        impl<R: IntoOutput> $trait<R> for Output {
            type Output = Result<Output>;
            #[track_caller]
            fn $fn(self, rhs: R) -> Result<Output> {
                self.$named(&rhs.into_output(&self)?)
            }
        }
        binary!(@left $trait $fn $named f32 f64 i32 i64);
        )*
    };
    (@left $trait:ident $fn:ident $named:ident $($t:ty)*) => {
        $(impl $trait<&Output> for $t {
            type Output = Result<Output>;
            #[track_caller]
            fn $fn(self, rhs: &Output) -> Result<Output> {
                self.into_output(rhs)?.$named(rhs)
            }
        })*
    };
}

binary! {
    Add add plus;
    Sub sub minus;
    Mul mul times;
    Div div divided_by;
    Rem rem modulo;
}

impl Neg for &Output {
    type Output = Result<Output>;
    #[track_caller]
    fn neg(self) -> Result<Output> {
        self.unary("Neg")
    }
}

impl Neg for Output {
    type Output = Result<Output>;
    #[track_caller]
    fn neg(self) -> Result<Output> {
        self.unary("Neg")
    }
}
