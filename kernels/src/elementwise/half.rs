//! Between half precision and f32, a stage at a time.

use actorflow_core::DType;
use half::{bf16, f16};

use crate::math::half::Half as Convert;

/// Elements widened at a time.
pub(super) const STAGE: usize = 512;

/// One of the two half-precision types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
}

impl Half {
    /// The half-precision type of that dtype.
    pub(super) fn of(d: DType) -> Option<Half> {
        match d {
            DType::F16 => Some(Half::F16),
            DType::BF16 => Some(Half::BF16),
            _ => None,
        }
    }

    pub(super) fn dtype(self) -> DType {
        match self {
            Half::F16 => DType::F16,
            Half::BF16 => DType::BF16,
        }
    }

    /// Converts `n` elements at `x` to f32 at `y`.
    ///
    /// # Safety
    /// `x` is valid for reading `n` aligned elements of this type, `y` for writing `n` aligned, initialised f32; no
    /// overlap.
    pub(super) unsafe fn widen(self, x: *const u8, y: *mut u8, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let y = std::slice::from_raw_parts_mut(y as *mut f32, n);
            match self {
                Half::F16 => f16::widen(std::slice::from_raw_parts(x as *const f16, n), y),
                Half::BF16 => bf16::widen(std::slice::from_raw_parts(x as *const bf16, n), y),
            }
        }
    }

    /// Rounds `n` f32 at `x` to the nearest elements at `y`, ties to even.
    ///
    /// # Safety
    /// `x` is valid for reading `n` aligned f32, `y` for writing `n` aligned, initialised elements of this type; no
    /// overlap.
    pub(super) unsafe fn narrow(self, x: *const u8, y: *mut u8, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = std::slice::from_raw_parts(x as *const f32, n);
            match self {
                Half::F16 => f16::narrow(x, std::slice::from_raw_parts_mut(y as *mut f16, n)),
                Half::BF16 => bf16::narrow(x, std::slice::from_raw_parts_mut(y as *mut bf16, n)),
            }
        }
    }
}
