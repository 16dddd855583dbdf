//! The folds of segments by element type.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::dtype::DType;
use half::{bf16, f16};
use num_complex::Complex;

use super::super::shared::{Narrow, map};
use super::{Run, Segments, direct};
use crate::reduction::{Fold, Product, Sum};

/// The larger of two, the right one if they are not ordered, as TensorFlow's segment operations have it.
pub(super) struct Upper<T>(PhantomData<T>);
/// The smaller of two, likewise.
pub(super) struct Lower<T>(PhantomData<T>);

macro_rules! extremes {
    ($($t:ty, $low:expr, $high:expr;)*) => {
        $(impl Fold for Upper<$t> {
            type T = $t;
            const WIDE: bool = false;
            #[inline(always)]
            fn start() -> $t {
                $low
            }
            #[inline(always)]
            fn join(a: $t, b: $t) -> $t {
                if a > b { a } else { b }
            }
        }
        impl Fold for Lower<$t> {
            type T = $t;
            const WIDE: bool = false;
            #[inline(always)]
            fn start() -> $t {
                $high
            }
            #[inline(always)]
            fn join(a: $t, b: $t) -> $t {
                if a < b { a } else { b }
            }
        })*
    };
}

extremes! {
    f32, f32::NEG_INFINITY, f32::INFINITY;
    f64, f64::NEG_INFINITY, f64::INFINITY;
    i32, i32::MIN, i32::MAX;
    i64, i64::MIN, i64::MAX;
    u64, u64::MIN, u64::MAX;
}

/// Folds in a wider type.
macro_rules! widened {
    ($fold:ident, $t:ty, $wide:ty, $start:expr, $back:ident) => {
        |device, s: &Segments<'_>| {
            let data = map::<$t, $wide>(device, s.data, <$t>::widen)?;
            map::<$wide, $t>(device, &direct::<$fold<$wide>>(device, &data, s, $start)?, <$t>::$back)
        }
    };
}

macro_rules! own {
    ($fold:ident, $t:ty, $start:expr) => {
        |device, s: &Segments<'_>| direct::<$fold<$t>>(device, s.data, s, $start)
    };
}

macro_rules! arithmetic {
    ($(#[$doc:meta])* $name:ident $fold:ident) => {
        $(#[$doc])*
        pub(super) fn $name(dtype: DType) -> Run {
            match dtype {
                DType::F32 => own!($fold, f32, $fold::<f32>::start()),
                DType::F64 => own!($fold, f64, $fold::<f64>::start()),
                DType::I32 => own!($fold, i32, $fold::<i32>::start()),
                DType::I64 => own!($fold, i64, $fold::<i64>::start()),
                DType::C64 => own!($fold, Complex<f32>, $fold::<Complex<f32>>::start()),
                DType::C128 => own!($fold, Complex<f64>, $fold::<Complex<f64>>::start()),
                DType::F16 => widened!($fold, f16, f32, $fold::<f32>::start(), narrow),
                DType::BF16 => widened!($fold, bf16, f32, $fold::<f32>::start(), narrow),
                DType::I8 => widened!($fold, i8, i64, $fold::<i64>::start(), narrow),
                DType::I16 => widened!($fold, i16, i64, $fold::<i64>::start(), narrow),
                DType::U8 => widened!($fold, u8, i64, $fold::<i64>::start(), narrow),
                DType::U16 => widened!($fold, u16, i64, $fold::<i64>::start(), narrow),
                DType::U32 => widened!($fold, u32, i64, $fold::<i64>::start(), narrow),
                // Signed and unsigned sums and products have the same bits.
                _ => |device, s| {
                    let data = s.data.clone().bitcast(DType::I64)?;
                    direct::<$fold<i64>>(device, &data, s, $fold::<i64>::start())?.bitcast(DType::U64)
                },
            }
        }
    };
}

arithmetic! {
    /// Sums; empty segments are 0.
    sums Sum
}
arithmetic! {
    /// Products; empty segments are 1.
    products Product
}

macro_rules! ordered {
    ($(#[$doc:meta])* $name:ident $fold:ident $bound:ident $infinity:ident) => {
        $(#[$doc])*
        ///
        /// With `finite`, empty segments are the last finite value of the type, else an infinity where it has one.
        pub(super) fn $name(dtype: DType, finite: bool) -> Run {
            match (dtype, finite) {
                (DType::F32, true) => own!($fold, f32, f32::$bound),
                (DType::F64, true) => own!($fold, f64, f64::$bound),
                (DType::F16, true) => widened!($fold, f16, f32, f16::$bound.to_f32(), clamped),
                (DType::BF16, true) => widened!($fold, bf16, f32, bf16::$bound.to_f32(), clamped),
                (DType::F32, false) => own!($fold, f32, f32::$infinity),
                (DType::F64, false) => own!($fold, f64, f64::$infinity),
                (DType::F16, false) => widened!($fold, f16, f32, f32::$infinity, clamped),
                (DType::BF16, false) => widened!($fold, bf16, f32, f32::$infinity, clamped),
                (DType::I32, _) => own!($fold, i32, i32::$bound),
                (DType::I64, _) => own!($fold, i64, i64::$bound),
                (DType::I8, _) => widened!($fold, i8, i64, i64::$bound, clamped),
                (DType::I16, _) => widened!($fold, i16, i64, i64::$bound, clamped),
                (DType::U8, _) => widened!($fold, u8, i64, i64::$bound, clamped),
                (DType::U16, _) => widened!($fold, u16, i64, i64::$bound, clamped),
                (DType::U32, _) => widened!($fold, u32, i64, i64::$bound, clamped),
                _ => own!($fold, u64, u64::$bound),
            }
        }
    };
}

ordered! {
    /// Largest elements.
    maxima Upper MIN NEG_INFINITY
}
ordered! {
    /// Smallest elements.
    minima Lower MAX INFINITY
}
