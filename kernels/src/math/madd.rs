//! Multiply-add that is fused only where the processor fuses it.
//!
//! `f32::mul_add` is exact everywhere, but without the instruction it is a library call, which is slow and stops a loop from
//! being vectorised. A function that is inlined into loops for several instruction sets therefore takes the choice as a type.
#![forbid(unsafe_code)]

/// How `a * b + c` is computed: [`Fused`] or [`Split`].
pub trait Madd: Copy + 'static {
    /// `a * b + c` in f32.
    fn f32(a: f32, b: f32, c: f32) -> f32;
    /// `a * b + c` in f64.
    fn f64(a: f64, b: f64, c: f64) -> f64;
}

/// One rounding: the instruction of processors with FMA.
#[derive(Clone, Copy, Debug)]
pub struct Fused;

/// Two roundings: a multiplication, then an addition.
#[derive(Clone, Copy, Debug)]
pub struct Split;

/// The choice for code compiled for the build's own target, without run-time dispatch.
#[cfg(any(target_feature = "fma", target_arch = "aarch64"))]
pub type Baseline = Fused;
/// The choice for code compiled for the build's own target, without run-time dispatch.
#[cfg(not(any(target_feature = "fma", target_arch = "aarch64")))]
pub type Baseline = Split;

impl Madd for Fused {
    #[inline(always)]
    fn f32(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn f64(a: f64, b: f64, c: f64) -> f64 {
        a.mul_add(b, c)
    }
}

impl Madd for Split {
    #[inline(always)]
    fn f32(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn f64(a: f64, b: f64, c: f64) -> f64 {
        a * b + c
    }
}

/// `c0 + x * (c1 + x * (c2 + ...))` with the multiply-add given first: `horner!(M::f32, x; c0, c1, c2)`.
macro_rules! horner {
    ($madd:path, $x:expr; $c:expr) => { $c };
    ($madd:path, $x:expr; $c:expr, $($rest:expr),+) => {
        $madd($x, $crate::math::madd::horner!($madd, $x; $($rest),+), $c)
    };
}
pub(crate) use horner;
