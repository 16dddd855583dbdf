//! Element types.

use half::{bf16, f16};
use num_complex::Complex;
use std::fmt;

use crate::error::{Error, Result};

/// The type of a tensor's elements. The discriminants are TensorFlow's `DataType` numbers.
///
/// It takes a whole word, so that tensors have no padding (see `Rank` in `shape`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum DType {
    /// 32-bit IEEE float (`DT_FLOAT`).
    F32 = 1,
    /// 64-bit IEEE float (`DT_DOUBLE`).
    F64 = 2,
    /// 32-bit signed integer.
    I32 = 3,
    /// 8-bit unsigned integer.
    U8 = 4,
    /// 16-bit signed integer.
    I16 = 5,
    /// 8-bit signed integer.
    I8 = 6,
    /// A string of bytes of any length (`DT_STRING`).
    Str = 7,
    /// Complex number of two 32-bit floats.
    C64 = 8,
    /// 64-bit signed integer.
    I64 = 9,
    /// Truth value, one byte, 0 or 1.
    Bool = 10,
    /// 8-bit signed integer that stands for a real number in a range given beside it (`DT_QINT8`).
    QI8 = 11,
    /// 8-bit unsigned integer that stands for a real number (`DT_QUINT8`).
    QU8 = 12,
    /// 32-bit signed integer that stands for a real number (`DT_QINT32`).
    QI32 = 13,
    /// Brain float: the upper half of an f32.
    BF16 = 14,
    /// 16-bit signed integer that stands for a real number (`DT_QINT16`).
    QI16 = 15,
    /// 16-bit unsigned integer that stands for a real number (`DT_QUINT16`).
    QU16 = 16,
    /// 16-bit unsigned integer.
    U16 = 17,
    /// Complex number of two 64-bit floats.
    C128 = 18,
    /// 16-bit IEEE float (`DT_HALF`).
    F16 = 19,
    /// A handle of a resource: variable, queue, table.
    Resource = 20,
    /// Anything else that flows along an edge (`DT_VARIANT`).
    Variant = 21,
    /// 32-bit unsigned integer.
    U32 = 22,
    /// 64-bit unsigned integer.
    U64 = 23,
}

use DType::*;

impl DType {
    /// Every type, in the order of TensorFlow's numbers.
    pub const ALL: [DType; 23] = [
        F32, F64, I32, U8, I16, I8, Str, C64, I64, Bool, QI8, QU8, QI32, BF16, QI16, QU16, U16, C128, F16, Resource,
        Variant, U32, U64,
    ];

    /// The quantised types: integers that stand for real numbers.
    pub const QUANTIZED: [DType; 5] = [QI8, QU8, QI32, QI16, QU16];

    /// Bytes per element in a dense buffer; 0 for strings, resources and variants, which are not plain bytes.
    pub const fn size(self) -> usize {
        match self {
            U8 | I8 | Bool | QI8 | QU8 => 1,
            I16 | U16 | F16 | BF16 | QI16 | QU16 => 2,
            F32 | I32 | U32 | QI32 => 4,
            F64 | I64 | U64 | C64 => 8,
            C128 => 16,
            Str | Resource | Variant => 0,
        }
    }

    /// f16, bf16, f32, f64.
    pub const fn is_float(self) -> bool {
        matches!(self, F16 | BF16 | F32 | F64)
    }

    /// Complex64, complex128.
    pub const fn is_complex(self) -> bool {
        matches!(self, C64 | C128)
    }

    /// Signed and unsigned integers.
    pub const fn is_integer(self) -> bool {
        matches!(self, I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
    }

    /// Integers that stand for real numbers: their meaning is the range that an operation gets beside them.
    pub const fn is_quantized(self) -> bool {
        matches!(self, QI8 | QU8 | QI32 | QI16 | QU16)
    }

    /// The type whose elements lie in memory as this one's do and that Rust has a type for: the integer of a
    /// quantised type, any other type itself. A quantised tensor is read after
    /// [`bitcast`](crate::Tensor::bitcast) to it, which copies nothing.
    pub const fn storage(self) -> DType {
        match self {
            QI8 => I8,
            QU8 => U8,
            QI32 => I32,
            QI16 => I16,
            QU16 => U16,
            other => other,
        }
    }

    /// Integers, floats and complex numbers; quantised types are none of them, as they have no arithmetic of their own.
    pub const fn is_number(self) -> bool {
        self.is_float() || self.is_complex() || self.is_integer()
    }

    /// Whether gradients flow through tensors of this type: floats, complex numbers, resources and variants.
    pub const fn is_differentiable(self) -> bool {
        self.is_float() || self.is_complex() || matches!(self, Resource | Variant)
    }

    /// Whether elements are plain bytes in a dense buffer.
    pub const fn is_plain(self) -> bool {
        self.size() > 0
    }

    /// TensorFlow's number of this type.
    pub const fn to_tf(self) -> i32 {
        self as i32
    }

    /// The type of TensorFlow's number `n` (a reference type, number + 100, gives its base type).
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for types narrower than a byte, 8-bit floats and unknown types.
    pub fn from_tf(n: i32) -> Result<DType> {
        let base = if n > 100 { n - 100 } else { n };
        DType::ALL
            .into_iter()
            .find(|d| *d as i32 == base)
            .ok_or_else(|| Error::unimplemented(format!("TensorFlow DataType number {n} is not supported")))
    }

    /// The name as programs write it: `float32`, `int64`, `string`.
    pub const fn name(self) -> &'static str {
        match self {
            F32 => "float32",
            F64 => "float64",
            I32 => "int32",
            U8 => "uint8",
            I16 => "int16",
            I8 => "int8",
            Str => "string",
            C64 => "complex64",
            I64 => "int64",
            Bool => "bool",
            QI8 => "qint8",
            QU8 => "quint8",
            QI32 => "qint32",
            QI16 => "qint16",
            QU16 => "quint16",
            BF16 => "bfloat16",
            U16 => "uint16",
            C128 => "complex128",
            F16 => "float16",
            Resource => "resource",
            Variant => "variant",
            U32 => "uint32",
            U64 => "uint64",
        }
    }

    /// Parses [`name`](Self::name) and the spellings of TensorFlow's op definitions (`float`, `double`, `half`).
    pub fn from_name(name: &str) -> Option<DType> {
        match name {
            "float" => Some(F32),
            "double" => Some(F64),
            "half" => Some(F16),
            "str" => Some(Str),
            _ => DType::ALL.into_iter().find(|d| d.name() == name),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is the element of a dense tensor.
///
/// Sealed: every implementor is plain old data for which all-zero bytes are a valid value.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync + PartialEq + fmt::Debug + 'static {
    /// The dtype of tensors of this type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),* $(,)?) => {
        $(impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$d;
        })*
    };
}

elements! {
    f32 => F32, f64 => F64, i32 => I32, u8 => U8, i16 => I16, i8 => I8, Complex<f32> => C64, i64 => I64,
    bool => Bool, bf16 => BF16, u16 => U16, Complex<f64> => C128, f16 => F16, u32 => U32, u64 => U64,
}

/// Runs a block with a type alias for the element type of a run-time [`DType`].
///
/// `dispatch!(dtype, T in [F32, F64] => expr, else expr)`: `expr` sees `T` as the Rust type; the `else` arm covers
/// all other types. Groups: `floats`, `reals` (integers and floats), `numbers` (reals and complex), `plain`
/// (numbers and bool), `integers`. Quantised types are in none; dispatch on [`DType::storage`] reads them as integers.
#[macro_export]
macro_rules! dispatch {
    ($d:expr, $T:ident in floats => $body:expr, else $other:expr) => {
        $crate::dispatch!($d, $T in [F32, F64, F16, BF16] => $body, else $other)
    };
    ($d:expr, $T:ident in integers => $body:expr, else $other:expr) => {
        $crate::dispatch!($d, $T in [I32, I64, U8, I8, I16, U16, U32, U64] => $body, else $other)
    };
    ($d:expr, $T:ident in reals => $body:expr, else $other:expr) => {
        $crate::dispatch!($d, $T in [F32, F64, F16, BF16, I32, I64, U8, I8, I16, U16, U32, U64] => $body, else $other)
    };
    ($d:expr, $T:ident in numbers => $body:expr, else $other:expr) => {
        $crate::dispatch!($d, $T in [F32, F64, F16, BF16, I32, I64, U8, I8, I16, U16, U32, U64, C64, C128] => $body,
            else $other)
    };
    ($d:expr, $T:ident in plain => $body:expr, else $other:expr) => {
        $crate::dispatch!($d, $T in
            [F32, F64, F16, BF16, I32, I64, U8, I8, I16, U16, U32, U64, C64, C128, Bool] => $body, else $other)
    };
    ($d:expr, $T:ident in [$($v:ident),*] => $body:expr, else $other:expr) => {
        match $d {
            $($crate::dtype::DType::$v => {
                type $T = $crate::rust_type!($v);
                $body
            })*
            #[allow(unreachable_patterns)]
            _ => $other,
        }
    };
}

/// The Rust type of a [`DType`] variant, for [`dispatch!`](crate::dispatch).
#[macro_export]
#[doc(hidden)]
macro_rules! rust_type {
    (F32) => { f32 };
    (F64) => { f64 };
    (F16) => { $crate::half::f16 };
    (BF16) => { $crate::half::bf16 };
    (I8) => { i8 };
    (I16) => { i16 };
    (I32) => { i32 };
    (I64) => { i64 };
    (U8) => { u8 };
    (U16) => { u16 };
    (U32) => { u32 };
    (U64) => { u64 };
    (C64) => { $crate::num_complex::Complex<f32> };
    (C128) => { $crate::num_complex::Complex<f64> };
    (Bool) => { bool };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_round_trip() {
        for d in DType::ALL {
            assert_eq!(DType::from_tf(d.to_tf()).unwrap(), d);
            assert_eq!(DType::from_tf(d.to_tf() + 100).unwrap(), d);
            assert_eq!(DType::from_name(d.name()), Some(d));
        }
        assert!(DType::from_tf(24).is_err());
        assert!(DType::from_tf(i32::MIN).is_err());
    }

    #[test]
    fn a_quantised_type_lies_in_memory_as_an_integer() {
        for d in DType::ALL {
            assert_eq!(d.is_quantized(), DType::QUANTIZED.contains(&d), "{d}");
            assert_eq!(d.is_quantized(), d.storage() != d, "{d}");
            assert_eq!(d.storage().size(), d.size(), "{d}");
            assert!(!d.is_quantized() || (d.storage().is_integer() && !d.is_number()), "{d}");
        }
    }

    #[test]
    fn dispatch_picks_the_rust_type() {
        let size = |d: DType| dispatch!(d.storage(), T in plain => std::mem::size_of::<T>(), else 0);
        for d in DType::ALL {
            assert_eq!(size(d), d.size(), "{d}");
        }
    }
}
