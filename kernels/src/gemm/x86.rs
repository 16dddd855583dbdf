//! [`Simd`] for x86-64: AVX-512 and AVX2 with fused multiply-add.

use super::simd::{Caches, Simd};
use std::arch::x86_64::*;

/// What the CPU says of its data caches, as far as it does.
pub(super) fn caches() -> Caches {
    let mut caches = Caches::USUAL;
    // AMD and Intel describe caches in the same way, in leaves of different numbers.
    for leaf in [0x8000_001d, 4] {
        if __cpuid(leaf & 0x8000_0000).eax < leaf {
            continue;
        }
        for index in 0..8 {
            let r = __cpuid_count(leaf, index);
            let (kind, level) = (r.eax & 31, (r.eax >> 5) & 7);
            if kind == 0 {
                break;
            }
            // Data, or data and instructions.
            if kind == 2 {
                continue;
            }
            let ways = (r.ebx >> 22) as usize + 1;
            let lines = ((r.ebx >> 12) & 0x3ff) as usize + 1;
            let line = (r.ebx & 0xfff) as usize + 1;
            match level {
                1 => caches.first_ways = ways,
                2 => caches.second_bytes = ways * lines * line * (r.ecx as usize + 1),
                _ => {}
            }
        }
    }
    caches
}

/// Sixteen `f32` in a 512-bit register.
#[derive(Clone, Copy)]
pub(super) struct Avx512F32;
/// Eight `f64` in a 512-bit register.
#[derive(Clone, Copy)]
pub(super) struct Avx512F64;
/// Eight `f32` in a 256-bit register.
#[derive(Clone, Copy)]
pub(super) struct Avx2F32;
/// Four `f64` in a 256-bit register.
#[derive(Clone, Copy)]
pub(super) struct Avx2F64;

/// The methods that differ between the four types by the names of their intrinsics only.
macro_rules! common {
    ($t:ty, $v:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $fma:ident, $mul:ident, $add:ident,
     $max:ident, $zero:ident) => {
        type T = $t;
        type V = $v;
        const LANES: usize = $lanes;

        #[inline(always)]
        unsafe fn splat(x: $t) -> $v {
            // SAFETY: the caller runs on a CPU with the instruction set.
            unsafe { $splat(x) }
        }

        #[inline(always)]
        unsafe fn load(src: *const $t) -> $v {
            // SAFETY: the caller vouches for the CPU and for the elements.
            unsafe { $load(src) }
        }

        #[inline(always)]
        unsafe fn store(dst: *mut $t, v: $v) {
            // SAFETY: the caller vouches for the CPU and for the elements.
            unsafe { $store(dst, v) }
        }

        #[inline(always)]
        unsafe fn mul_add(a: $v, b: $v, c: $v) -> $v {
            // SAFETY: the caller runs on a CPU with the instruction set.
            unsafe { $fma(a, b, c) }
        }

        #[inline(always)]
        unsafe fn mul(a: $v, b: $v) -> $v {
            // SAFETY: the caller runs on a CPU with the instruction set.
            unsafe { $mul(a, b) }
        }

        #[inline(always)]
        unsafe fn add(a: $v, b: $v) -> $v {
            // SAFETY: the caller runs on a CPU with the instruction set.
            unsafe { $add(a, b) }
        }

        #[inline(always)]
        unsafe fn relu(a: $v) -> $v {
            // The instruction returns its second operand when either is NaN, so NaN stays.
            // SAFETY: the caller runs on a CPU with the instruction set.
            unsafe { $max($zero(), a) }
        }

        #[inline(always)]
        fn opaque(mut ptr: *const $t) -> *const $t {
            // SAFETY: no instruction at all.
            unsafe { std::arch::asm!("/* {0} */", inout(reg) ptr, options(pure, readonly, nostack, preserves_flags)) };
            ptr
        }

        #[inline(always)]
        unsafe fn prefetch(ptr: *const $t) {
            // SAFETY: a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr.cast()) }
        }

        #[inline(always)]
        unsafe fn prefetch_later(ptr: *const $t) {
            // SAFETY: a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(ptr.cast()) }
        }

        #[inline(always)]
        unsafe fn prefetch_write(ptr: *const $t) {
            // SAFETY: a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(ptr.cast()) }
        }
    };
}

impl Simd for Avx512F32 {
    type M = __mmask16;
    common!(
        f32,
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_mul_ps,
        _mm512_add_ps,
        _mm512_max_ps,
        _mm512_setzero_ps
    );

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> __mmask16 {
        ((1u32 << lanes) - 1) as __mmask16
    }

    #[inline(always)]
    unsafe fn load_masked(src: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: the caller vouches for the CPU and for the masked elements.
        unsafe { _mm512_maskz_loadu_ps(mask, src) }
    }

    #[inline(always)]
    unsafe fn store_masked(dst: *mut f32, v: __m512, mask: __mmask16) {
        // SAFETY: the caller vouches for the CPU and for the masked elements.
        unsafe { _mm512_mask_storeu_ps(dst, mask, v) }
    }

    #[inline(always)]
    unsafe fn transpose<const FULL: bool>(
        src: *const f32,
        src_stride: usize,
        (rows, cols): (usize, usize),
        dst: *mut f32,
        dst_stride: usize,
    ) {
        // Four rounds of a 16 by 16 butterfly: pairs of elements, pairs of pairs, then whole 128-bit lanes.
        // SAFETY: the caller vouches for the CPU and for both blocks.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            let mask = Self::mask(cols.min(16));
            for (i, row) in r.iter_mut().enumerate() {
                if FULL {
                    *row = Self::load(src.add(i * src_stride));
                } else if i < rows {
                    *row = Self::load_masked(src.add(i * src_stride), mask);
                }
            }
            let mut s = r;
            for i in 0..8 {
                s[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                s[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..4 {
                let q = |j: usize| _mm512_castps_pd(s[4 * i + j]);
                r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(q(0), q(2)));
                r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(q(0), q(2)));
                r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(q(1), q(3)));
                r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(q(1), q(3)));
            }
            // Now r[4i + c] holds, in its lane l, rows 4i..4i+4 of column 4l + c.
            for c in 0..4 {
                let lo0 = _mm512_shuffle_f32x4::<0x88>(r[c], r[4 + c]);
                let hi0 = _mm512_shuffle_f32x4::<0xdd>(r[c], r[4 + c]);
                let lo1 = _mm512_shuffle_f32x4::<0x88>(r[8 + c], r[12 + c]);
                let hi1 = _mm512_shuffle_f32x4::<0xdd>(r[8 + c], r[12 + c]);
                let out = |column: usize, v: __m512| {
                    if FULL || column < cols {
                        Self::store(dst.add(column * dst_stride), v);
                    }
                };
                out(c, _mm512_shuffle_f32x4::<0x88>(lo0, lo1));
                out(4 + c, _mm512_shuffle_f32x4::<0x88>(hi0, hi1));
                out(8 + c, _mm512_shuffle_f32x4::<0xdd>(lo0, lo1));
                out(12 + c, _mm512_shuffle_f32x4::<0xdd>(hi0, hi1));
            }
        }
    }
}

impl Simd for Avx512F64 {
    type M = __mmask8;
    common!(
        f64,
        __m512d,
        8,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_fmadd_pd,
        _mm512_mul_pd,
        _mm512_add_pd,
        _mm512_max_pd,
        _mm512_setzero_pd
    );

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> __mmask8 {
        ((1u32 << lanes) - 1) as __mmask8
    }

    #[inline(always)]
    unsafe fn load_masked(src: *const f64, mask: __mmask8) -> __m512d {
        // SAFETY: the caller vouches for the CPU and for the masked elements.
        unsafe { _mm512_maskz_loadu_pd(mask, src) }
    }

    #[inline(always)]
    unsafe fn store_masked(dst: *mut f64, v: __m512d, mask: __mmask8) {
        // SAFETY: the caller vouches for the CPU and for the masked elements.
        unsafe { _mm512_mask_storeu_pd(dst, mask, v) }
    }

    #[inline(always)]
    unsafe fn transpose<const FULL: bool>(
        src: *const f64,
        src_stride: usize,
        (rows, cols): (usize, usize),
        dst: *mut f64,
        dst_stride: usize,
    ) {
        // SAFETY: the caller vouches for the CPU and for both blocks.
        unsafe {
            let mut r = [_mm512_setzero_pd(); 8];
            let mask = Self::mask(cols.min(8));
            for (i, row) in r.iter_mut().enumerate() {
                if FULL {
                    *row = Self::load(src.add(i * src_stride));
                } else if i < rows {
                    *row = Self::load_masked(src.add(i * src_stride), mask);
                }
            }
            let mut s = r;
            for i in 0..4 {
                s[2 * i] = _mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]);
                s[2 * i + 1] = _mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]);
            }
            // Now s[2i + c] holds, in its lane l, rows 2i..2i+2 of column 2l + c.
            for c in 0..2 {
                let lo0 = _mm512_shuffle_f64x2::<0x88>(s[c], s[2 + c]);
                let hi0 = _mm512_shuffle_f64x2::<0xdd>(s[c], s[2 + c]);
                let lo1 = _mm512_shuffle_f64x2::<0x88>(s[4 + c], s[6 + c]);
                let hi1 = _mm512_shuffle_f64x2::<0xdd>(s[4 + c], s[6 + c]);
                let out = |column: usize, v: __m512d| {
                    if FULL || column < cols {
                        Self::store(dst.add(column * dst_stride), v);
                    }
                };
                out(c, _mm512_shuffle_f64x2::<0x88>(lo0, lo1));
                out(2 + c, _mm512_shuffle_f64x2::<0x88>(hi0, hi1));
                out(4 + c, _mm512_shuffle_f64x2::<0xdd>(lo0, lo1));
                out(6 + c, _mm512_shuffle_f64x2::<0xdd>(hi0, hi1));
            }
        }
    }
}

impl Simd for Avx2F32 {
    type M = __m256i;
    common!(
        f32,
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_mul_ps,
        _mm256_add_ps,
        _mm256_max_ps,
        _mm256_setzero_ps
    );

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> __m256i {
        const TABLE: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: `lanes <= 8`, so the eight elements from `8 - lanes` lie in the table.
        unsafe { _mm256_loadu_si256(TABLE.as_ptr().add(8 - lanes).cast()) }
    }

    #[inline(always)]
    unsafe fn load_masked(src: *const f32, mask: __m256i) -> __m256 {
        // SAFETY: the caller vouches for the CPU and for the masked elements.
        unsafe { _mm256_maskload_ps(src, mask) }
    }

    #[inline(always)]
    unsafe fn store_masked(dst: *mut f32, v: __m256, mask: __m256i) {
        // SAFETY: the caller vouches for the CPU and for the masked elements.
        unsafe { _mm256_maskstore_ps(dst, mask, v) }
    }

    #[inline(always)]
    unsafe fn transpose<const FULL: bool>(
        src: *const f32,
        src_stride: usize,
        (rows, cols): (usize, usize),
        dst: *mut f32,
        dst_stride: usize,
    ) {
        // SAFETY: the caller vouches for the CPU and for both blocks.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            let mask = Self::mask(cols.min(8));
            for (i, row) in r.iter_mut().enumerate() {
                if FULL {
                    *row = Self::load(src.add(i * src_stride));
                } else if i < rows {
                    *row = Self::load_masked(src.add(i * src_stride), mask);
                }
            }
            let mut s = r;
            for i in 0..4 {
                s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..2 {
                let q = |j: usize| _mm256_castps_pd(s[4 * i + j]);
                r[4 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(q(0), q(2)));
                r[4 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(q(0), q(2)));
                r[4 * i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(q(1), q(3)));
                r[4 * i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(q(1), q(3)));
            }
            for c in 0..4 {
                let out = |column: usize, v: __m256| {
                    if FULL || column < cols {
                        Self::store(dst.add(column * dst_stride), v);
                    }
                };
                out(c, _mm256_permute2f128_ps::<0x20>(r[c], r[4 + c]));
                out(4 + c, _mm256_permute2f128_ps::<0x31>(r[c], r[4 + c]));
            }
        }
    }
}

impl Simd for Avx2F64 {
    type M = __m256i;
    common!(
        f64,
        __m256d,
        4,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_fmadd_pd,
        _mm256_mul_pd,
        _mm256_add_pd,
        _mm256_max_pd,
        _mm256_setzero_pd
    );

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> __m256i {
        const TABLE: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];
        // SAFETY: `lanes <= 4`, so the four elements from `4 - lanes` lie in the table.
        unsafe { _mm256_loadu_si256(TABLE.as_ptr().add(4 - lanes).cast()) }
    }

    #[inline(always)]
    unsafe fn load_masked(src: *const f64, mask: __m256i) -> __m256d {
        // SAFETY: the caller vouches for the CPU and for the masked elements.
        unsafe { _mm256_maskload_pd(src, mask) }
    }

    #[inline(always)]
    unsafe fn store_masked(dst: *mut f64, v: __m256d, mask: __m256i) {
        // SAFETY: the caller vouches for the CPU and for the masked elements.
        unsafe { _mm256_maskstore_pd(dst, mask, v) }
    }

    #[inline(always)]
    unsafe fn transpose<const FULL: bool>(
        src: *const f64,
        src_stride: usize,
        (rows, cols): (usize, usize),
        dst: *mut f64,
        dst_stride: usize,
    ) {
        // SAFETY: the caller vouches for the CPU and for both blocks.
        unsafe {
            let mut r = [_mm256_setzero_pd(); 4];
            let mask = Self::mask(cols.min(4));
            for (i, row) in r.iter_mut().enumerate() {
                if FULL {
                    *row = Self::load(src.add(i * src_stride));
                } else if i < rows {
                    *row = Self::load_masked(src.add(i * src_stride), mask);
                }
            }
            let s = [
                _mm256_unpacklo_pd(r[0], r[1]),
                _mm256_unpackhi_pd(r[0], r[1]),
                _mm256_unpacklo_pd(r[2], r[3]),
                _mm256_unpackhi_pd(r[2], r[3]),
            ];
            for c in 0..2 {
                let out = |column: usize, v: __m256d| {
                    if FULL || column < cols {
                        Self::store(dst.add(column * dst_stride), v);
                    }
                };
                out(c, _mm256_permute2f128_pd::<0x20>(s[c], s[2 + c]));
                out(2 + c, _mm256_permute2f128_pd::<0x31>(s[c], s[2 + c]));
            }
        }
    }
}
