//! `Cast`.
//!
//! A float becomes an integer as on x86 processors, which is what TensorFlow's kernels do with numbers that fit: the
//! fraction is dropped; NaN and what is too large for the machine integer gives its least value, and integers of 8 and
//! 16 bits are the low bits of a 32-bit one.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, dispatch, register_ops};
use half::{bf16, f16};

use super::common::{C64, C128};
use crate::elementwise::{self, Loop1, Map1, SliceFn};
use crate::math::half::Half;
use crate::math::madd::Madd;
use crate::math::simd::{Fn1, Plain, Wide};
use crate::shapes;

/// Numbers that can become any dtype: an integer or a float to come from.
trait Source: Copy {
    fn f32(self) -> f32;
    fn f64(self) -> f64;
    fn i32(self) -> i32;
    fn i64(self) -> i64;
    fn u32(self) -> u32;
    fn u64(self) -> u64;
    fn bool(self) -> bool;
}

macro_rules! integers {
    ($($t:ty),*) => {
        $(impl Source for $t {
            #[inline(always)]
            fn f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn i32(self) -> i32 {
                self as i32
            }
            #[inline(always)]
            fn i64(self) -> i64 {
                self as i64
            }
            #[inline(always)]
            fn u32(self) -> u32 {
                self as u32
            }
            #[inline(always)]
            fn u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn bool(self) -> bool {
                self != 0
            }
        })*
    };
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! floats {
    ($($t:ident),*) => {
        $(impl Source for $t {
            #[inline(always)]
            fn f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn i32(self) -> i32 {
                // `as` holds what does not fit at the nearest integer, NaN at 0.
                const END: $t = 2_147_483_648.0;
                if self < END && !self.is_nan() { self as i32 } else { i32::MIN }
            }
            #[inline(always)]
            fn i64(self) -> i64 {
                const END: $t = 9_223_372_036_854_775_808.0;
                if self < END && !self.is_nan() { self as i64 } else { i64::MIN }
            }
            #[inline(always)]
            fn u32(self) -> u32 {
                const END: $t = 4_294_967_296.0;
                if self > -2_147_483_649.0 && self < END { self as i64 as u32 } else { 1 << 31 }
            }
            #[inline(always)]
            fn u64(self) -> u64 {
                const END: $t = 18_446_744_073_709_551_616.0;
                if (0.0..END).contains(&self) { self as u64 } else { self.i64() as u64 }
            }
            #[inline(always)]
            fn bool(self) -> bool {
                self != 0.0
            }
        })*
    };
}
floats!(f32, f64);

/// The conversion, from every dtype to every other.
struct To;

/// Implements `Fn1` from one dtype, whose value the closure turns into a [`Source`], to all.
macro_rules! conversions {
    ($($a:ty => |$x:ident| $source:expr;)*) => {
        $(conversions! { @to $a, $x, $source;
            f32 = |s| s.f32(), f64 = |s| s.f64(), i32 = |s| s.i32(), i64 = |s| s.i64(), u32 = |s| s.u32(),
            u64 = |s| s.u64(), i8 = |s| s.i32() as i8, i16 = |s| s.i32() as i16, u8 = |s| s.i32() as u8,
            u16 = |s| s.i32() as u16, bool = |s| s.bool(), f16 = |s| f16::from_f32(s.f32()),
            bf16 = |s| bf16::from_f32(s.f32()) })*
    };
    (@to $a:ty, $x:ident, $source:expr; $($b:ty = |$s:ident| $e:expr),*) => {
        $(impl Fn1<$a, $b> for To {
            type Loop = Plain;
            #[inline(always)]
            fn call<M: Madd>($x: $a) -> $b {
                let $s = $source;
                $e
            }
        })*
    };
}
conversions! {
    f32 => |x| x;
    f64 => |x| x;
    i8 => |x| x;
    i16 => |x| x;
    i32 => |x| x;
    i64 => |x| x;
    u8 => |x| x;
    u16 => |x| x;
    u32 => |x| x;
    u64 => |x| x;
    bool => |x| x as u8;
    f16 => |x| x.to_f32();
    bf16 => |x| x.to_f32();
    C64 => |x| x.re;
    C128 => |x| x.re;
}

/// The conversion to complex numbers: real ones have no imaginary part.
macro_rules! to_complex {
    ($($a:ty),*) => {
        $(impl Fn1<$a, C64> for To {
            type Loop = Plain;
            #[inline(always)]
            fn call<M: Madd>(x: $a) -> C64 {
                C64::new(<To as Fn1<$a, f32>>::call::<M>(x), 0.0)
            }
        }
        impl Fn1<$a, C128> for To {
            type Loop = Plain;
            #[inline(always)]
            fn call<M: Madd>(x: $a) -> C128 {
                C128::new(<To as Fn1<$a, f64>>::call::<M>(x), 0.0)
            }
        })*
    };
}
to_complex!(f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, bool, f16, bf16);

/// The conversions that programs do most, at the processor's width.
struct WideTo;

macro_rules! wide {
    ($($a:ty => $b:ty;)*) => {
        $(impl Fn1<$a, $b> for WideTo {
            type Loop = Wide;
            #[inline(always)]
            fn call<M: Madd>(x: $a) -> $b {
                <To as Fn1<$a, $b>>::call::<M>(x)
            }
        })*
    };
}
wide! {
    f32 => f64;
    f64 => f32;
    f32 => i32;
    i32 => f32;
    i32 => i64;
    i64 => i32;
    i64 => f32;
    u8 => f32;
    bool => f32;
    f32 => bool;
    bool => i32;
}

macro_rules! between_complex {
    ($($a:ty => $b:ty, $t:ty;)*) => {
        $(impl Fn1<$a, $b> for To {
            type Loop = Plain;
            #[inline(always)]
            fn call<M: Madd>(x: $a) -> $b {
                <$b>::new(x.re as $t, x.im as $t)
            }
        })*
    };
}
between_complex! {
    C64 => C128, f64;
    C128 => C64, f32;
}

/// Between f32 and half precision, at the processor's width.
struct Slices;

macro_rules! half_slices {
    ($($h:ty),*) => {
        $(impl SliceFn<f32, $h> for Slices {
            fn run(x: &[f32], y: &mut [$h]) {
                Half::narrow(x, y);
            }
        }
        impl SliceFn<$h, f32> for Slices {
            fn run(x: &[$h], y: &mut [f32]) {
                Half::widen(x, y);
            }
        })*
    };
}
half_slices!(f16, bf16);

fn fast_loop(from: DType, to: DType) -> Option<Loop1> {
    macro_rules! table {
        ($($a:ident $s:ty => $b:ident $d:ty;)*) => {
            match (from, to) {
                $((DType::$a, DType::$b) => Some(Loop1::light_to::<WideTo, $s, $d>()),)*
                (DType::F32, DType::F16) => Some(Loop1::slices::<Slices, f32, f16>()),
                (DType::F16, DType::F32) => Some(Loop1::slices::<Slices, f16, f32>()),
                (DType::F32, DType::BF16) => Some(Loop1::slices::<Slices, f32, bf16>()),
                (DType::BF16, DType::F32) => Some(Loop1::slices::<Slices, bf16, f32>()),
                _ => None,
            }
        };
    }
    table! {
        F32 f32 => F64 f64;
        F64 f64 => F32 f32;
        F32 f32 => I32 i32;
        I32 i32 => F32 f32;
        I32 i32 => I64 i64;
        I64 i64 => I32 i32;
        I64 i64 => F32 f32;
        U8 u8 => F32 f32;
        Bool bool => F32 f32;
        F32 f32 => Bool bool;
        Bool bool => I32 i32;
    }
}

/// The loop that converts, for two different dtypes.
fn cast_loop(from: DType, to: DType) -> Option<Loop1> {
    if let Some(l) = fast_loop(from, to) {
        return Some(l);
    }
    match (from, to) {
        (DType::C64, DType::C128) => return Some(Loop1::light_to::<To, C64, C128>()),
        (DType::C128, DType::C64) => return Some(Loop1::light_to::<To, C128, C64>()),
        _ => {}
    }
    if to.is_complex() {
        return dispatch!(from, A in [F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, Bool] =>
            dispatch!(to, B in [C64, C128] => Some(Loop1::light_to::<To, A, B>()), else None), else None);
    }
    dispatch!(from, A in plain =>
        dispatch!(to, B in [F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, Bool] =>
            Some(Loop1::light_to::<To, A, B>()), else None), else None)
}

/// Clears the bits of a mantissa that a narrower type does not have, so that rounding drops them.
struct DropBits<const BITS: u32>;

impl<const BITS: u32> Fn1<f32, f32> for DropBits<BITS> {
    type Loop = Plain;
    #[inline(always)]
    fn call<M: Madd>(x: f32) -> f32 {
        if x.is_nan() {
            x
        } else {
            f32::from_bits(x.to_bits() >> BITS << BITS)
        }
    }
}

impl<const BITS: u32> Fn1<f64, f64> for DropBits<BITS> {
    type Loop = Plain;
    #[inline(always)]
    fn call<M: Madd>(x: f64) -> f64 {
        if x.is_nan() {
            x
        } else {
            f64::from_bits(x.to_bits() >> BITS << BITS)
        }
    }
}

/// What is to be done first where `Truncate` asks to drop bits instead of rounding.
fn dropping(from: DType, to: DType) -> Option<Loop1> {
    match (from, to) {
        (DType::F32, DType::F16) => Some(Loop1::light::<DropBits<13>, f32>()),
        (DType::F32, DType::BF16) => Some(Loop1::light::<DropBits<16>, f32>()),
        (DType::F64, DType::F32) => Some(Loop1::light::<DropBits<29>, f64>()),
        (DType::F64, DType::F16) => Some(Loop1::light::<DropBits<42>, f64>()),
        (DType::F64, DType::BF16) => Some(Loop1::light::<DropBits<45>, f64>()),
        _ => None,
    }
}

struct Same;

impl Kernel for Same {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        cx.forward(0, 0)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

/// Between a quantised type and the integer that it is stored as, or another one stored so: the same bits.
struct Renamed(DType);

impl Kernel for Renamed {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let t = cx.take_input(0)?.bitcast(self.0)?;
        cx.set_output(0, t);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

/// Drops bits, then converts.
struct Truncating(Loop1, Loop1);

impl Kernel for Truncating {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        elementwise::chain1([&self.0, &self.1], cx)
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (from, to) = (init.input_types[0], init.output_types[0]);
    if from == to {
        return Ok(Box::new(Same));
    }
    // A quantised number is converted as the integer that it is, whatever real number it stands for.
    if from.storage() == to.storage() {
        return Ok(Box::new(Renamed(to)));
    }
    let cast = cast_loop(from.storage(), to.storage())
        .ok_or_else(|| Error::unimplemented(format!("Cast {from} to {to} is not supported")))?;
    let cast = match (from.is_quantized(), to.is_quantized()) {
        (false, false) => cast,
        _ => cast.with_input(from).with_output(to),
    };
    match dropping(from, to) {
        Some(drop) if init.attrs.bool("Truncate")? => Ok(Box::new(Truncating(drop, cast))),
        _ => Ok(Box::new(Map1(cast))),
    }
}

fn cast() -> OpDef {
    OpDef::new("Cast", Category::Math)
        .doc("x in another dtype: a fraction is dropped, a complex number loses its imaginary part.")
        .input("x: SrcT")
        .output("y: DstT")
        .attr("SrcT: type")
        .attr("DstT: type")
        .attr("Truncate: bool = false")
        .shape(shapes::like_first)
        .gradient(|cx, dys| {
            let (from, to) = (cx.input(0)?.dtype(), cx.output(0)?.dtype());
            let smooth = |d: DType| d.is_float() || d.is_complex();
            if !smooth(from) || !smooth(to) {
                return cx.none();
            }
            Ok(vec![Some(cx.dense(dys, 0)?.cast(from)?.into())])
        })
        .cpu(kernel)
        .sample(|s| {
            let (re, im) = (s.normal([2, 3])?, s.normal([2, 3])?);
            let x = s
                .op("Complex")
                .input(&re)
                .input(&im)
                .attr("Tout", DType::C128)
                .output()?;
            s.op("Cast").input(&x).attr("DstT", DType::F64).finish()
        })
}

register_ops!(cast);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    fn to(x: impl Into<Tensor>, d: DType) -> Tensor {
        let g = Graph::new();
        eval(&g.constant(x).unwrap().cast(d).unwrap())
    }

    #[test]
    fn floats_become_integers_as_on_the_processor() {
        let x = [f32::NAN, f32::INFINITY, 1.9, -1.9, 300.7, 3e9, -3e9];
        let least = i32::MIN;
        assert_eq!(
            to(x, DType::I32),
            Tensor::from([least, least, 1, -1, 300, least, least].to_vec())
        );
        assert_eq!(to(x, DType::U8), Tensor::from([0u8, 0, 1, 255, 44, 0, 0].to_vec()));
        let u32s = [1u32 << 31, 1 << 31, 1, u32::MAX, 300, 3_000_000_000, 1 << 31];
        assert_eq!(to(x, DType::U32), Tensor::from(u32s.to_vec()));
        let i64s = [i64::MIN, i64::MIN, 1, -1, 300, 3_000_000_000, -3_000_000_000];
        assert_eq!(to(x, DType::I64), Tensor::from(i64s.to_vec()));
        let wide = x.map(f64::from);
        assert_eq!(to(wide, DType::I64), Tensor::from(i64s.to_vec()));
        assert_eq!(
            to([1e19f64, -1.0], DType::U64),
            Tensor::from([10_000_000_000_000_000_000u64, u64::MAX])
        );
    }

    #[test]
    fn integers_wrap_and_truth_is_one() {
        assert_eq!(to([300i32, -1, 65541], DType::U8), Tensor::from([44u8, 255, 5]));
        assert_eq!(
            to([0.5f64, 0.0, f64::NAN], DType::Bool),
            Tensor::from([true, false, true])
        );
        assert_eq!(to([true, false], DType::F16), Tensor::from([f16::ONE, f16::ZERO]));
        assert_eq!(to([-1i64], DType::U64), Tensor::from([u64::MAX]));
    }

    #[test]
    fn complex_numbers_keep_their_real_part() {
        assert_eq!(to([C64::new(-3.7, 2.0)], DType::I32), Tensor::from([-3]));
        assert_eq!(to([C64::new(0.0, 2.0)], DType::Bool), Tensor::from([false]));
        assert_eq!(
            to([C64::new(1.0, 2.0)], DType::C128),
            Tensor::from([C128::new(1.0, 2.0)])
        );
        assert_eq!(to([7u8], DType::C64), Tensor::from([C64::new(7.0, 0.0)]));
    }

    #[test]
    fn every_pair_of_dense_types_converts_small_numbers() {
        let plain: Vec<DType> = DType::ALL.into_iter().filter(|d| d.is_plain()).collect();
        for a in &plain {
            let x = to([0u8, 1, 100], *a);
            for b in &plain {
                let g = Graph::new();
                let y = eval(&g.constant(&x).unwrap().cast(*b).unwrap());
                let clip = *a == DType::Bool || *b == DType::Bool;
                let want = to([0u8, 1, if clip { 1 } else { 100 }], *b);
                assert_eq!(y, want, "{a} to {b}");
            }
        }
        let g = Graph::new();
        let s = g.constant("1").unwrap().cast(DType::F32).unwrap();
        assert!(fails(&s).message().contains("Cast string to float32 is not supported"));
    }

    #[test]
    fn truncation_drops_bits_where_conversion_rounds() {
        let g = Graph::new();
        let x = g.constant([0.1f64, 1e300]).unwrap();
        let cut = g
            .op("Cast")
            .input(&x)
            .attr("DstT", DType::F32)
            .attr("Truncate", true)
            .output()
            .unwrap();
        assert_eq!(eval(&cut), Tensor::from([0.099_999_994f32, f32::INFINITY]));
        #[allow(clippy::approx_constant)] // any number whose lower bits matter
        let x = g.constant([1.005_906_2f32, -3.14159]).unwrap();
        let cut = g
            .op("Cast")
            .input(&x)
            .attr("DstT", DType::BF16)
            .attr("Truncate", true)
            .output()
            .unwrap();
        assert_eq!(
            eval(&cut),
            Tensor::from([bf16::from_f32(1.0), bf16::from_f32(-3.140_625)])
        );
        let many: Vec<f32> = (0..1000).map(|i| i as f32 * 0.37).collect();
        let want: Vec<f16> = many.iter().map(|x| f16::from_f32(*x)).collect();
        assert_eq!(to(many, DType::F16), Tensor::from(want));
    }
}
