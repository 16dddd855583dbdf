//! The vector operations that the microkernel, the packers and the write-back are written in, and the portable
//! implementation of them. The x86 implementations are in [`super::x86`].

/// A real element type that the vector engine multiplies.
pub(super) trait Real:
    Copy + Send + Sync + PartialOrd + std::ops::Add<Output = Self> + std::ops::Mul<Output = Self> + 'static
{
    /// Additive identity.
    const ZERO: Self;
    /// Multiplicative identity.
    const ONE: Self;
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

/// The data caches of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caches {
    /// Lines of the first level that one address can be in.
    pub(super) first_ways: usize,
    /// Size of the second level.
    pub(super) second_bytes: usize,
}

impl Caches {
    /// What is assumed of a CPU that does not tell.
    pub(super) const USUAL: Caches = Caches {
        first_ways: 8,
        second_bytes: 1 << 20,
    };

    /// Those of this machine.
    pub(super) fn here() -> Caches {
        #[cfg(target_arch = "x86_64")]
        {
            static HERE: std::sync::LazyLock<Caches> = std::sync::LazyLock::new(super::x86::caches);
            *HERE
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            Caches::USUAL
        }
    }
}

/// One vector register's worth of operations.
///
/// Every method is meant to be inlined into a function that enables the instruction set (see [`super::micro::Isa`]).
///
/// # Safety
/// Calling any method requires that the CPU has the instruction set the type is named after; pointer methods also
/// require the lanes they touch to be readable or writable. Masked-off lanes are never touched.
pub(super) trait Simd: Copy + 'static {
    /// Element type.
    type T: Real;
    /// Vector register.
    type V: Copy;
    /// Lane mask.
    type M: Copy;
    /// Elements per vector.
    const LANES: usize;

    /// A mask of the first `lanes` lanes, `lanes <= LANES`.
    unsafe fn mask(lanes: usize) -> Self::M;
    /// `x` in every lane.
    unsafe fn splat(x: Self::T) -> Self::V;
    /// `LANES` elements from `src`.
    unsafe fn load(src: *const Self::T) -> Self::V;
    /// The masked elements from `src`, zero in the other lanes.
    unsafe fn load_masked(src: *const Self::T, mask: Self::M) -> Self::V;
    /// `LANES` elements to `dst`.
    unsafe fn store(dst: *mut Self::T, v: Self::V);
    /// The masked lanes to `dst`.
    unsafe fn store_masked(dst: *mut Self::T, v: Self::V, mask: Self::M);
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `max(a, 0)`, keeping NaN.
    unsafe fn relu(a: Self::V) -> Self::V;
    /// The same pointer, of which the compiler does not know that it is: so it does not compute it from others.
    fn opaque(ptr: *const Self::T) -> *const Self::T {
        ptr
    }
    /// Asks for the cache line at `ptr` to be read soon; `ptr` may be any address.
    unsafe fn prefetch(ptr: *const Self::T);
    /// Asks for the cache line at `ptr` to be in the second-level cache later; `ptr` may be any address.
    unsafe fn prefetch_later(ptr: *const Self::T);
    /// Asks for the cache line at `ptr` to be owned soon, for it will be written; `ptr` may be any address.
    unsafe fn prefetch_write(ptr: *const Self::T);
    /// `dst[j * dst_stride + i] = src[i * src_stride + j]` for `i` in `0..rows` and `j` in `0..cols`, both at most
    /// `LANES`, and zero for `i` in `rows..LANES`; no overlap. With `FULL` both extents are taken to be `LANES`.
    unsafe fn transpose<const FULL: bool>(
        src: *const Self::T,
        src_stride: usize,
        extents: (usize, usize),
        dst: *mut Self::T,
        dst_stride: usize,
    );
}

/// [`Simd`] in plain Rust: four `f32` or two `f64`, which compilers turn into 128-bit instructions on any CPU.
///
/// Multiplies and adds separately, because a fused multiply-add without hardware support is a library call.
#[derive(Clone, Copy)]
pub(super) struct Portable<T, const L: usize>(std::marker::PhantomData<T>);

impl<T: Real, const L: usize> Simd for Portable<T, L> {
    type T = T;
    type V = [T; L];
    type M = usize;
    const LANES: usize = L;

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> usize {
        lanes
    }

    #[inline(always)]
    unsafe fn splat(x: T) -> [T; L] {
        [x; L]
    }

    #[inline(always)]
    unsafe fn load(src: *const T) -> [T; L] {
        // SAFETY: the caller vouches for `L` readable elements; arrays of `T` are aligned as `T`.
        unsafe { src.cast::<[T; L]>().read() }
    }

    #[inline(always)]
    unsafe fn load_masked(src: *const T, mask: usize) -> [T; L] {
        let mut v = [T::ZERO; L];
        for (i, x) in v.iter_mut().enumerate().take(mask) {
            // SAFETY: the caller vouches for the masked elements.
            *x = unsafe { *src.add(i) };
        }
        v
    }

    #[inline(always)]
    unsafe fn store(dst: *mut T, v: [T; L]) {
        // SAFETY: the caller vouches for `L` writable elements; arrays of `T` are aligned as `T`.
        unsafe { dst.cast::<[T; L]>().write(v) }
    }

    #[inline(always)]
    unsafe fn store_masked(dst: *mut T, v: [T; L], mask: usize) {
        for (i, x) in v.iter().enumerate().take(mask) {
            // SAFETY: the caller vouches for the masked elements.
            unsafe { *dst.add(i) = *x };
        }
    }

    #[inline(always)]
    unsafe fn mul_add(a: [T; L], b: [T; L], c: [T; L]) -> [T; L] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn mul(a: [T; L], b: [T; L]) -> [T; L] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn add(a: [T; L], b: [T; L]) -> [T; L] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn relu(a: [T; L]) -> [T; L] {
        a.map(|x| if x < T::ZERO { T::ZERO } else { x })
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const T) {}

    #[inline(always)]
    unsafe fn prefetch_later(_: *const T) {}

    #[inline(always)]
    unsafe fn prefetch_write(_: *const T) {}

    #[inline(always)]
    unsafe fn transpose<const FULL: bool>(
        src: *const T,
        src_stride: usize,
        extents: (usize, usize),
        dst: *mut T,
        dst_stride: usize,
    ) {
        let (rows, cols) = if FULL { (L, L) } else { extents };
        for i in 0..L {
            for j in 0..cols {
                // SAFETY: the caller vouches for both blocks.
                unsafe {
                    *dst.add(j * dst_stride + i) = if i < rows {
                        *src.add(i * src_stride + j)
                    } else {
                        T::ZERO
                    };
                }
            }
        }
    }
}
