//! Scalar mathematics and the loops that apply it to slices.
//!
//! A function here is a plain `fn(x) -> y` on one element. Those in [`single`] are written without branches, table look-ups or
//! calls, so that the loops of [`simd`] turn them into AVX2 or AVX-512 code when the processor has it. Multiply-adds go through
//! [`madd::Madd`], because whether the processor can fuse them is known only by the loop, not by the function.

pub mod complex;
pub mod double;
pub mod half;
pub mod int;
pub mod madd;
pub mod real;
pub mod simd;
pub mod single;
pub mod special;
