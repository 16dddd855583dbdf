//! Functions over blocks of elements, of which fused chains are made.

use actorflow_core::DType;
use actorflow_core::dtype::Element;

use super::loops::Arg;
use super::{Loops, loops};

/// An operand of a [`BlockFn`].
#[derive(Debug, Clone, Copy)]
pub enum Block<'a, T> {
    /// An element for each of the result's.
    Many(&'a [T]),
    /// One element for all.
    One(T),
    /// What the result holds before.
    Here,
}

/// The function of an element-wise operation over blocks that lie in the cache.
///
/// Operands and result have one dtype. A block may be of any length; lengths that are multiples of
/// [`BLOCK`](crate::math::simd::BLOCK) are fastest.
#[derive(Clone, Copy)]
pub struct BlockFn {
    loops: Loops,
    dtype: DType,
}

/// The function of operation `op` over blocks of `dtype`, float32 or float64; `None` if the operation is not
/// element-wise, its result has another dtype or it has attributes that change it.
pub fn block_fn(op: &str, dtype: DType) -> Option<BlockFn> {
    let loops = matches!(dtype, DType::F32 | DType::F64).then(|| loops(op, dtype))??;
    let fits = match &loops {
        Loops::One(l) => l.input() == dtype && l.output() == dtype,
        Loops::Two(l) => l.inputs() == [dtype; 2] && l.output() == dtype,
    };
    fits.then_some(BlockFn { loops, dtype })
}

impl BlockFn {
    /// The number of operands: 1 or 2.
    pub fn arity(&self) -> usize {
        match self.loops {
            Loops::One(_) => 1,
            Loops::Two(_) => 2,
        }
    }

    /// The dtype of operands and result.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether an element costs no more than moving it.
    pub fn is_light(&self) -> bool {
        let grain = match self.loops {
            Loops::One(l) => l.grain(),
            Loops::Two(l) => l.grain(),
        };
        grain >= 1 << 16
    }

    /// `y[i] = f(operands at i)`.
    ///
    /// # Panics
    /// If `T`, the number of operands or a length is wrong.
    pub fn run<T: Element>(&self, operands: &[Block<'_, T>], y: &mut [T]) {
        assert!(T::DTYPE == self.dtype, "the function is one of {}", self.dtype);
        assert!(
            operands.len() == self.arity(),
            "the function has {} operands",
            self.arity()
        );
        let n = y.len();
        let to = y.as_mut_ptr() as *mut u8;
        let arg = |b: &Block<'_, T>| match b {
            Block::Many(x) => {
                assert!(x.len() == n, "operand and result of a block differ in length");
                Arg::Many(x.as_ptr() as *const u8)
            }
            Block::One(x) => Arg::One(x as *const T as *const u8),
            Block::Here => Arg::Many(to as *const u8),
        };
        if n == 0 {
            return;
        }
        // SAFETY: the loops are of `T`, the operands have `n` elements or one, and only `Here` overlaps the result, with
        // which it is equal.
        unsafe {
            match (&self.loops, operands) {
                (Loops::One(l), [x]) => match arg(x) {
                    Arg::Many(x) => l.run(x, to, n),
                    Arg::One(x) => {
                        l.run(x, to, 1);
                        let first = y[0];
                        y.fill(first);
                    }
                },
                (Loops::Two(l), [a, b]) => l.run(arg(a), arg(b), to, n),
                _ => {}
            }
        }
    }
}
