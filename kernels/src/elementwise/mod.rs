//! What all element-wise operations share.
//!
//! An operation brings a function for each of its dtypes ([`Loop1`], [`Loop2`]), submitted with [`functions!`]; it gets
//!
//! * its kernel, [`kernel`]: broadcasting, reuse of an operand's buffer, half precision through f32, the workers;
//! * a place in fused chains: [`block_fn`].
//!
//! `loops` forgets the element types, `plan` says how operands broadcast, `run` runs a loop over tensors, `split` over
//! the workers, `block` over blocks of a chain, `program` whole chains and trees.

mod block;
mod half;
mod loops;
mod plan;
mod program;
mod run;
mod select;
mod split;
mod strings;
#[cfg(test)]
mod tests;

pub use block::{Block, BlockFn, block_fn};
pub use loops::{Loop1, Loop2, SliceFn};
pub use program::{Meeting, Operand, Program, Step};
pub use run::{chain, chain1, fold, map1, map2};
pub use select::select;
pub use split::ranges;
pub use strings::map2_strings;

use std::collections::HashMap;
use std::sync::OnceLock;

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::{DType, Tensor};

use self::half::Half;

/// The loop of an operation with one or two operands.
#[derive(Clone, Copy)]
pub enum Loops {
    /// Of one operand.
    One(Loop1),
    /// Of two operands.
    Two(Loop2),
}

impl From<Loop1> for Loops {
    fn from(l: Loop1) -> Self {
        Loops::One(l)
    }
}

impl From<Loop2> for Loops {
    fn from(l: Loop2) -> Self {
        Loops::Two(l)
    }
}

/// Refuses integer operands that a function is not defined for (division by zero). Called for integers only, if the
/// result has elements.
pub type Check = fn(&Tensor, &Tensor) -> Result<()>;

/// The element-wise function of an operation.
pub struct Function {
    /// The operation.
    pub op: &'static str,
    /// The loop for operands of a dtype. Half precision needs none if there is one for f32.
    pub loops: fn(DType) -> Option<Loops>,
    /// What the operands must not be.
    pub check: Option<Check>,
}

inventory::collect!(Function);

/// Submits the functions of operations: `functions!("Exp" => exp, "Expm1" => expm1)`, each a
/// `fn(DType) -> Option<Loops>`; `"Div" => div, check` with a [`Check`].
#[macro_export]
#[doc(hidden)]
macro_rules! element_functions {
    ($($op:literal => $loops:expr $(, check $check:expr)?;)+) => {
        $(inventory::submit! {
            $crate::elementwise::Function {
                op: $op,
                loops: $loops,
                check: $crate::element_functions!(@check $($check)?),
            }
        })+
    };
    (@check) => { None };
    (@check $check:expr) => { Some($check) };
}
pub use element_functions as functions;

fn function(op: &str) -> Option<&'static Function> {
    static ALL: OnceLock<HashMap<&'static str, &'static Function>> = OnceLock::new();
    ALL.get_or_init(|| inventory::iter::<Function>().map(|f| (f.op, f)).collect())
        .get(op)
        .copied()
}

/// The loop of operation `op` for operands of this dtype; half precision computes in f32 where it has no own loop.
pub fn loops(op: &str, dtype: DType) -> Option<Loops> {
    with_half(dtype, function(op)?.loops)
}

/// The loop that a table has for a dtype, or in half precision the one that computes in f32.
pub fn with_half(dtype: DType, table: impl Fn(DType) -> Option<Loops>) -> Option<Loops> {
    if let Some(l) = table(dtype) {
        return Some(l);
    }
    let half = Half::of(dtype)?;
    match table(DType::F32)? {
        Loops::One(l) => l.in_half(half).map(Loops::One),
        Loops::Two(l) => l.in_half(half).map(Loops::Two),
    }
}

/// The kernel that applies a loop of one operand.
pub struct Map1(pub Loop1);

impl Kernel for Map1 {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        map1(&self.0, cx)
    }
}

/// The kernel that applies a loop of two operands, with broadcasting.
pub struct Map2(pub Loop2);

impl Kernel for Map2 {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        map2(&self.0, cx)
    }
}

struct CheckedMap2(Loop2, Check);

impl Kernel for CheckedMap2 {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        if !a.is_empty() && !b.is_empty() {
            (self.1)(a, b)?;
        }
        map2(&self.0, cx)
    }
}

/// The kernel of an operation whose function was submitted with [`functions!`].
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no function for the node's dtypes.
pub fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let dtype = init.input_types.first().copied().ok_or_else(|| init.no_kernel())?;
    match loops(init.op, dtype) {
        Some(Loops::One(l)) if l.output() == init.output_types[0] => Ok(Box::new(Map1(l))),
        Some(Loops::Two(l)) if l.output() == init.output_types[0] => {
            Ok(match function(init.op).and_then(|f| f.check) {
                Some(check) if dtype.is_integer() => Box::new(CheckedMap2(l, check)),
                _ => Box::new(Map2(l)),
            })
        }
        _ => Err(init.no_kernel()),
    }
}

/// The signed integer type of the same size in place of an unsigned one, for functions that treat both alike.
pub fn signed(d: DType) -> DType {
    match d {
        DType::U8 => DType::I8,
        DType::U16 => DType::I16,
        DType::U32 => DType::I32,
        DType::U64 => DType::I64,
        d => d,
    }
}

/// `to` in place of `from`, where all bits of one are values of the other; for loops that serve another dtype of the
/// same size.
fn renamed(d: DType, from: DType, to: DType) -> DType {
    let alike = from.size() == to.size() && from != DType::Bool && to != DType::Bool;
    if d == from && alike { to } else { d }
}

/// The result's dtype of an f32 loop that runs over half precision.
fn renamed_half(output: DType, half: Half) -> DType {
    if output == DType::F32 { half.dtype() } else { output }
}

/// Functions of one element as types of their own, each with the loop it suits ([`crate::math::simd`]); types before
/// `=>` map to themselves, `a as b` maps to another type:
/// `fn1! { Neg { Wide f32, f64 => |x, M| -x; Plain i8 => |x, M| x.wrapping_neg(); } IsNan { Wide f32 as bool => |x, M| x != x; } }`.
macro_rules! fn1 {
    ($($(#[$doc:meta])* $name:ident {
        $($kind:ident $($a:ty $(as $b:ty)?),+ => |$x:ident, $m:ident| $e:expr;)*
    })*) => {
        $($(#[$doc])*
        pub(super) struct $name;
        $($($crate::elementwise::fn1!(@one $name $kind, $a, [$($b)?], $x, $m, $e);)+)*)*
    };
    (@one $name:ident $kind:ident, $a:ty, [], $x:ident, $m:ident, $e:expr) => {
        $crate::elementwise::fn1!(@one $name $kind, $a, [$a], $x, $m, $e);
    };
    (@one $name:ident $kind:ident, $a:ty, [$b:ty], $x:ident, $m:ident, $e:expr) => {
        impl $crate::math::simd::Fn1<$a, $b> for $name {
            type Loop = $crate::math::simd::$kind;
            #[inline(always)]
            fn call<$m: $crate::math::madd::Madd>($x: $a) -> $b {
                $e
            }
        }
    };
}
pub(crate) use fn1;

/// Functions of two elements of one type as types of their own; types before `=>` map to themselves, `a as b` to
/// another type: `fn2! { Sub { Wide f32, f64 => |a, b, M| a - b; } Less { Wide f32 as bool => |a, b, M| a < b; } }`.
macro_rules! fn2 {
    ($($(#[$doc:meta])* $name:ident {
        $($kind:ident $($a:ty $(as $c:ty)?),+ => |$x:ident, $y:ident, $m:ident| $e:expr;)*
    })*) => {
        $($(#[$doc])*
        pub(super) struct $name;
        $($($crate::elementwise::fn2!(@one $name $kind, $a, [$($c)?], $x, $y, $m, $e);)+)*)*
    };
    (@one $name:ident $kind:ident, $a:ty, [], $x:ident, $y:ident, $m:ident, $e:expr) => {
        $crate::elementwise::fn2!(@one $name $kind, $a, [$a], $x, $y, $m, $e);
    };
    (@one $name:ident $kind:ident, $a:ty, [$c:ty], $x:ident, $y:ident, $m:ident, $e:expr) => {
        impl $crate::math::simd::Fn2<$a, $a, $c> for $name {
            type Loop = $crate::math::simd::$kind;
            #[inline(always)]
            fn call<$m: $crate::math::madd::Madd>($x: $a, $y: $a) -> $c {
                $e
            }
        }
    };
}
pub(crate) use fn2;

/// Tables of loops by dtype: `loop_table! { exp_loop = Loop1::heavy Exp [F32, F64]; }` makes
/// `fn exp_loop(DType) -> Option<Loops>`. With `signed` after the list, unsigned integers use the loops of signed ones,
/// for functions whose results are the same bits.
macro_rules! loop_table {
    ($($name:ident = $loop:ident::$kind:ident $f:ident [$($t:ident),*] $($signed:ident)?;)*) => {
        $(fn $name(d: actorflow_core::DType) -> Option<$crate::elementwise::Loops> {
            let s = $crate::elementwise::loop_table!(@seen d $($signed)?);
            actorflow_core::dispatch!(s, T in [$($t),*] =>
                Some($crate::elementwise::$loop::$kind::<$f, T>().seen_as(s, d).into()), else None)
        })*
    };
    (@seen $d:ident) => { $d };
    (@seen $d:ident signed) => { $crate::elementwise::signed($d) };
}
pub(crate) use loop_table;
