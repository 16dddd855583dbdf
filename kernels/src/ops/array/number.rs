//! The little arithmetic that array operations need, for every number type.

use actorflow_core::Element;
use actorflow_core::half::{bf16, f16};
use actorflow_core::num_complex::Complex;

/// Sums and differences; integers wrap.
pub(crate) trait Number: Element {
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($t:ty: |$a:ident, $b:ident| $plus:expr, $minus:expr;)*) => {
        $(impl Number for $t {
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                let ($a, $b) = (self, other);
                $plus
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                let ($a, $b) = (self, other);
                $minus
            }
        })*
    };
}

numbers! {
    f32: |a, b| a + b, a - b;
    f64: |a, b| a + b, a - b;
    f16: |a, b| a + b, a - b;
    bf16: |a, b| a + b, a - b;
    Complex<f32>: |a, b| a + b, a - b;
    Complex<f64>: |a, b| a + b, a - b;
    i8: |a, b| a.wrapping_add(b), a.wrapping_sub(b);
    i16: |a, b| a.wrapping_add(b), a.wrapping_sub(b);
    i32: |a, b| a.wrapping_add(b), a.wrapping_sub(b);
    i64: |a, b| a.wrapping_add(b), a.wrapping_sub(b);
    u8: |a, b| a.wrapping_add(b), a.wrapping_sub(b);
    u16: |a, b| a.wrapping_add(b), a.wrapping_sub(b);
    u32: |a, b| a.wrapping_add(b), a.wrapping_sub(b);
    u64: |a, b| a.wrapping_add(b), a.wrapping_sub(b);
}
