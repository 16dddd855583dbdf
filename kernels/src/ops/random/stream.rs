//! The streams of stateful random operations, and reading a stream number by number.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::philox::{Philox, uniform_f64};
use actorflow_core::{DType, Shape, Tensor};

/// The stream of one node: where it starts and how many blocks earlier runs have reserved.
///
/// TensorFlow's `GuardedPhiloxRandom`.
pub struct Stream {
    start: Philox,
    reserved: Arc<AtomicU64>,
}

impl Stream {
    /// The stream of a node with the attributes `seed` and `seed2`; both 0 mean a start that nobody can foretell.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if an attribute is missing.
    pub fn new(init: &KernelInit<'_>) -> Result<Stream> {
        let (mut seed, mut seed2) = (init.attrs.int("seed")? as u64, init.attrs.int("seed2")? as u64);
        if seed == 0 && seed2 == 0 {
            // Each `RandomState` has keys of its own, which the operating system's randomness starts.
            (seed, seed2) = (RandomState::new().hash_one(0u8), RandomState::new().hash_one(1u8));
        }
        Ok(Stream {
            start: Philox::new(seed, seed2),
            reserved: init.random_counter(),
        })
    }

    /// Reserves `blocks` blocks of four numbers; the result stands at the first.
    pub fn reserve(&self, blocks: u64) -> Philox {
        let mut p = self.start;
        p.skip(self.reserved.fetch_add(blocks, Ordering::Relaxed));
        p
    }

    /// Reserves for `outputs` elements, with room for those that take many numbers.
    pub fn reserve_for(&self, outputs: usize) -> Philox {
        self.reserve((outputs as u64).wrapping_mul(RESERVED))
    }
}

/// Blocks reserved for each element of an output.
pub const RESERVED: u64 = 256;

/// Reads a stream one number at a time. TensorFlow's `SingleSampleAdapter`.
#[derive(Debug, Clone)]
pub struct Singles {
    from: Philox,
    block: [u32; 4],
    used: usize,
}

impl Singles {
    /// Starts at the stream's position.
    pub fn new(from: Philox) -> Self {
        Singles {
            from,
            block: [0; 4],
            used: 4,
        }
    }

    /// Starts `n` numbers after the stream's position.
    pub fn starting_at(mut from: Philox, n: u64) -> Self {
        from.skip(n / 4);
        let mut s = Singles::new(from);
        for _ in 0..n % 4 {
            s.next();
        }
        s
    }

    /// The next number.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "the stream never ends")]
    pub fn next(&mut self) -> u32 {
        if self.used == 4 {
            self.block = self.from.next_block();
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next double in `[0, 1)`, of two numbers.
    #[inline]
    pub fn next_f64(&mut self) -> f64 {
        let x0 = self.next();
        uniform_f64(x0, self.next())
    }
}

/// Reads a stream's doubles from groups, of each the last first, as TensorFlow's samplers of variable cost do.
pub struct Doubles {
    group: (f64, f64),
    left: u8,
}

impl Default for Doubles {
    fn default() -> Self {
        Doubles {
            group: (0.0, 0.0),
            left: 0,
        }
    }
}

impl Doubles {
    /// The next one, of a group that `make` makes of the stream's next block.
    #[inline]
    pub fn next(&mut self, from: &mut Philox, make: impl FnOnce([u32; 4]) -> (f64, f64)) -> f64 {
        if self.left == 0 {
            self.group = make(from.next_block());
            self.left = 2;
        }
        self.left -= 1;
        if self.left == 1 { self.group.1 } else { self.group.0 }
    }
}

/// Two uniform doubles of a block.
#[inline]
pub fn uniform_pair(x: [u32; 4]) -> (f64, f64) {
    (uniform_f64(x[0], x[1]), uniform_f64(x[2], x[3]))
}

/// The shape that input `i`, an integer vector, holds.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is no vector or no shape.
pub fn shape_input(cx: &OpContext<'_>, i: usize) -> Result<Shape> {
    let t = cx.input(i)?;
    if t.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "a shape must be a vector of int32 or int64, got shape {}",
            t.shape()
        )));
    }
    t.to_shape()
}

/// The elements of a float tensor as doubles.
///
/// # Errors
/// `INVALID_ARGUMENT` for another dtype.
pub fn doubles(t: &Tensor) -> Result<Vec<f64>> {
    Ok(match t.dtype() {
        DType::F64 => t.to_vec::<f64>()?,
        DType::F32 => t.as_slice::<f32>()?.iter().map(|x| f64::from(*x)).collect(),
        DType::F16 => t.as_slice::<half::f16>()?.iter().map(|x| x.to_f64()).collect(),
        DType::BF16 => t.as_slice::<half::bf16>()?.iter().map(|x| x.to_f64()).collect(),
        DType::I32 => t.as_slice::<i32>()?.iter().map(|x| f64::from(*x)).collect(),
        DType::I64 => t.as_slice::<i64>()?.iter().map(|x| *x as f64).collect(),
        d => return Err(Error::invalid(format!("expected a tensor of numbers, got {d}"))),
    })
}
