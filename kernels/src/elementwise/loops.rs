//! Loops whose element types are known at run time only.
//!
//! A [`Loop1`] or [`Loop2`] is made from a function of [`crate::math::simd`]'s kind and forgets its element types, so
//! that everything around the innermost loop (broadcasting, splitting, reuse of buffers, half precision) is compiled
//! once for all operations.
//!
//! The result may lie where an operand lies: `y == x`. Then the loop's in-place form is used, or the operand is copied
//! aside, a stage at a time.

use std::mem::MaybeUninit;

use actorflow_core::DType;
use actorflow_core::dtype::Element;

use super::half::{Half, STAGE};
use crate::math::simd::{self, Fn1, Fn2};

/// Bytes copied aside at a time where operand and result share memory.
const ASIDE: usize = 2048;

/// Memory for operands copied aside; aligned for every element type.
#[repr(C, align(64))]
pub(super) struct Scratch<const N: usize>(MaybeUninit<[u8; N]>);

impl<const N: usize> Scratch<N> {
    /// Of any content: to be written before it is read.
    pub(super) const fn new() -> Self {
        Scratch(MaybeUninit::uninit())
    }

    pub(super) const fn zeroed() -> Self {
        Scratch(MaybeUninit::zeroed())
    }

    pub(super) fn ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr() as *mut u8
    }
}

/// Where an operand's elements come from.
#[derive(Clone, Copy)]
pub(super) enum Arg {
    /// One after the other from here.
    Many(*const u8),
    /// The element here, again and again.
    One(*const u8),
}

impl Arg {
    fn ptr(self) -> *const u8 {
        match self {
            Arg::Many(p) | Arg::One(p) => p,
        }
    }

    /// The operand from element `i` on.
    ///
    /// # Safety
    /// There are at least `i` elements of `size` bytes.
    pub(super) unsafe fn skip(self, i: usize, size: usize) -> Arg {
        match self {
            // SAFETY: passed on to the caller.
            Arg::Many(p) => Arg::Many(unsafe { p.add(i * size) }),
            one => one,
        }
    }
}

type Run1 = unsafe fn(*const u8, *mut u8, usize);
type RunIn1 = unsafe fn(*mut u8, usize);
type Run2 = unsafe fn(*const u8, *const u8, *mut u8, usize);
type RunIn2 = unsafe fn(*mut u8, *const u8, usize);

/// `y[i] = f(x[i])` for element types given by [`DType`]s.
#[derive(Clone, Copy)]
pub struct Loop1 {
    one: unsafe fn(*const u8, *mut u8),
    run: Run1,
    in_place: Option<RunIn1>,
    input: DType,
    output: DType,
    grain: usize,
    half: Option<Half>,
}

/// `y[i] = f(a[i], b[i])` for element types given by [`DType`]s.
#[derive(Clone, Copy)]
pub struct Loop2 {
    one: unsafe fn(*const u8, *const u8, *mut u8),
    vv: Run2,
    sv: Run2,
    vs: Run2,
    in_left: Option<RunIn2>,
    inputs: [DType; 2],
    output: DType,
    grain: usize,
    half: Option<Half>,
}

/// Elements a thread should have to do at least, of a function that costs no more than moving the data.
const LIGHT: usize = 64 << 10;
/// The same for functions like `exp`.
const HEAVY: usize = 16 << 10;
/// The same for functions that sum series.
const COSTLY: usize = 1 << 10;

// The functions below are the typed loops with their types forgotten. What they ask of their callers: the pointers are
// valid and aligned for `n` elements (for one, where it is a scalar) of the types, and the result overlaps no operand
// unless the function is an in-place one.

unsafe fn one1<F: Fn1<A, B>, A: Element, B: Element>(x: *const u8, y: *mut u8) {
    let mut out = [B::default()];
    // SAFETY: as said above; the operand is read before the result is written, so that they may overlap.
    unsafe {
        simd::map1::<F, A, B>(&[(x as *const A).read()], &mut out);
        (y as *mut B).write(out[0]);
    }
}

unsafe fn run1<F: Fn1<A, B>, A: Element, B: Element>(x: *const u8, y: *mut u8, n: usize) {
    // SAFETY: as said above.
    unsafe {
        simd::map1::<F, A, B>(
            std::slice::from_raw_parts(x as *const A, n),
            std::slice::from_raw_parts_mut(y as *mut B, n),
        );
    }
}

unsafe fn run_in1<F: Fn1<A, A>, A: Element>(y: *mut u8, n: usize) {
    // SAFETY: as said above.
    simd::map1_inplace::<F, A>(unsafe { std::slice::from_raw_parts_mut(y as *mut A, n) });
}

unsafe fn one2<F: Fn2<A, B, C>, A: Element, B: Element, C: Element>(a: *const u8, b: *const u8, y: *mut u8) {
    let mut out = [C::default()];
    // SAFETY: as said above; the operands are read before the result is written, so that they may overlap.
    unsafe {
        simd::map2::<F, A, B, C>(&[(a as *const A).read()], &[(b as *const B).read()], &mut out);
        (y as *mut C).write(out[0]);
    }
}

unsafe fn run_vv<F: Fn2<A, B, C>, A: Element, B: Element, C: Element>(
    a: *const u8,
    b: *const u8,
    y: *mut u8,
    n: usize,
) {
    // SAFETY: as said above.
    unsafe {
        simd::map2::<F, A, B, C>(
            std::slice::from_raw_parts(a as *const A, n),
            std::slice::from_raw_parts(b as *const B, n),
            std::slice::from_raw_parts_mut(y as *mut C, n),
        );
    }
}

unsafe fn run_sv<F: Fn2<A, B, C>, A: Element, B: Element, C: Element>(
    a: *const u8,
    b: *const u8,
    y: *mut u8,
    n: usize,
) {
    // SAFETY: as said above.
    unsafe {
        simd::map2_scalar_left::<F, A, B, C>(
            (a as *const A).read(),
            std::slice::from_raw_parts(b as *const B, n),
            std::slice::from_raw_parts_mut(y as *mut C, n),
        );
    }
}

unsafe fn run_vs<F: Fn2<A, B, C>, A: Element, B: Element, C: Element>(
    a: *const u8,
    b: *const u8,
    y: *mut u8,
    n: usize,
) {
    // SAFETY: as said above.
    unsafe {
        simd::map2_scalar_right::<F, A, B, C>(
            std::slice::from_raw_parts(a as *const A, n),
            (b as *const B).read(),
            std::slice::from_raw_parts_mut(y as *mut C, n),
        );
    }
}

unsafe fn run_in_left<F: Fn2<A, B, A>, A: Element, B: Element>(y: *mut u8, b: *const u8, n: usize) {
    // SAFETY: as said above.
    unsafe {
        simd::map2_inplace_left::<F, A, B>(
            std::slice::from_raw_parts_mut(y as *mut A, n),
            std::slice::from_raw_parts(b as *const B, n),
        );
    }
}

/// A function of a whole slice, for what has a better way than one element after the other.
pub trait SliceFn<A: Element, B: Element>: 'static {
    /// `y[i] = f(x[i])`; the slices have one length.
    fn run(x: &[A], y: &mut [B]);
}

unsafe fn one_of_slice<F: SliceFn<A, B>, A: Element, B: Element>(x: *const u8, y: *mut u8) {
    let mut out = [B::default()];
    // SAFETY: as said above; the operand is read before the result is written, so that they may overlap.
    unsafe {
        F::run(&[(x as *const A).read()], &mut out);
        (y as *mut B).write(out[0]);
    }
}

unsafe fn run_slice<F: SliceFn<A, B>, A: Element, B: Element>(x: *const u8, y: *mut u8, n: usize) {
    // SAFETY: as said above.
    unsafe {
        F::run(
            std::slice::from_raw_parts(x as *const A, n),
            std::slice::from_raw_parts_mut(y as *mut B, n),
        );
    }
}

impl Loop1 {
    /// The loop of a cheap function of slices.
    pub fn slices<F: SliceFn<A, B>, A: Element, B: Element>() -> Loop1 {
        Loop1 {
            one: one_of_slice::<F, A, B>,
            run: run_slice::<F, A, B>,
            in_place: None,
            input: A::DTYPE,
            output: B::DTYPE,
            grain: LIGHT,
            half: None,
        }
    }

    /// The loop of a function from a type to itself that costs much more than moving its operand, such as `exp`.
    pub fn heavy<F: Fn1<A, A>, A: Element>() -> Loop1 {
        Loop1::heavy_to::<F, A, A>()
    }

    /// The loop of a function to another type that costs much more than moving its operand.
    pub fn heavy_to<F: Fn1<A, B>, A: Element, B: Element>() -> Loop1 {
        Loop1 {
            one: one1::<F, A, B>,
            run: run1::<F, A, B>,
            in_place: None,
            input: A::DTYPE,
            output: B::DTYPE,
            grain: HEAVY,
            half: None,
        }
    }

    /// The loop of a function from a type to itself that costs a hundred times as much as moving its operand.
    pub fn costly<F: Fn1<A, A>, A: Element>() -> Loop1 {
        Loop1 {
            grain: COSTLY,
            ..Loop1::heavy_to::<F, A, A>()
        }
    }

    /// The loop of a cheap function from a type to itself, such as negation.
    pub fn light<F: Fn1<A, A>, A: Element>() -> Loop1 {
        Loop1 {
            in_place: Some(run_in1::<F, A>),
            grain: LIGHT,
            ..Loop1::heavy_to::<F, A, A>()
        }
    }

    /// The loop of a cheap function to another type, such as a test for NaN.
    pub fn light_to<F: Fn1<A, B>, A: Element, B: Element>() -> Loop1 {
        Loop1 {
            grain: LIGHT,
            ..Loop1::heavy_to::<F, A, B>()
        }
    }

    /// The same loop over another element type of the same size, for functions that see only the bits.
    pub fn seen_as(mut self, from: DType, to: DType) -> Loop1 {
        for d in [&mut self.input, &mut self.output] {
            *d = super::renamed(*d, from, to);
        }
        self
    }

    /// The same loop over operands of another type of the same size, with the same results.
    pub fn with_input(mut self, d: DType) -> Loop1 {
        self.input = super::renamed(self.input, self.input, d);
        self
    }

    /// The same loop with results of another type of the same size, which are the same bits.
    pub fn with_output(mut self, d: DType) -> Loop1 {
        self.output = super::renamed(self.output, self.output, d);
        self
    }

    /// The loop over half-precision elements that computes in f32; `None` unless this is an f32 loop.
    pub(super) fn in_half(self, half: Half) -> Option<Loop1> {
        (self.input == DType::F32 && self.half.is_none()).then(|| Loop1 {
            half: Some(half),
            input: half.dtype(),
            output: super::renamed_half(self.output, half),
            ..self
        })
    }

    /// The operand's dtype.
    pub fn input(&self) -> DType {
        self.input
    }

    /// The result's dtype.
    pub fn output(&self) -> DType {
        self.output
    }

    /// Elements that a thread should have to do at least.
    pub fn grain(&self) -> usize {
        self.grain
    }

    /// `y[i] = f(x[i])` for `n` elements.
    ///
    /// # Safety
    /// `x` is valid for reading and `y` for writing `n` elements of the loop's types, initialised and aligned; they
    /// overlap not at all or are equal, the latter only if both types have one size.
    pub(super) unsafe fn run(&self, x: *const u8, y: *mut u8, n: usize) {
        // SAFETY: the caller's promise is what every function here asks for. Stages lie within the `n` elements.
        unsafe {
            if let Some(h) = self.half {
                self.run_half(h, x, y, n);
            } else if n == 1 {
                (self.one)(x, y);
            } else if !std::ptr::eq(x, y) {
                (self.run)(x, y, n);
            } else if let Some(f) = self.in_place {
                f(y, n);
            } else {
                let size = self.input.size();
                let mut aside = Scratch::<ASIDE>::new();
                for at in (0..n).step_by(ASIDE / size) {
                    let m = (n - at).min(ASIDE / size);
                    let y = y.add(at * size);
                    std::ptr::copy_nonoverlapping(y, aside.ptr(), m * size);
                    (self.run)(aside.ptr(), y, m);
                }
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn run_half(&self, h: Half, x: *const u8, y: *mut u8, n: usize) {
        let size = self.output.size();
        let (mut a, mut r) = (Scratch::<{ 4 * STAGE }>::zeroed(), Scratch::<{ 4 * STAGE }>::zeroed());
        for at in (0..n).step_by(STAGE) {
            let m = (n - at).min(STAGE);
            // SAFETY: the stages lie within the `n` elements; scratch memory holds a stage of f32 or bool.
            unsafe {
                h.widen(x.add(2 * at), a.ptr(), m);
                if self.output == h.dtype() {
                    (self.run)(a.ptr(), r.ptr(), m);
                    h.narrow(r.ptr(), y.add(2 * at), m);
                } else {
                    (self.run)(a.ptr(), y.add(size * at), m);
                }
            }
        }
    }
}

impl Loop2 {
    /// The loop of a function of one type that costs much more than moving its operands, such as `pow`.
    pub fn heavy<F: Fn2<A, A, A>, A: Element>() -> Loop2 {
        Loop2::heavy_to::<F, A, A, A>()
    }

    /// The loop of a function of any types that costs much more than moving its operands.
    pub fn heavy_to<F: Fn2<A, B, C>, A: Element, B: Element, C: Element>() -> Loop2 {
        Loop2 {
            one: one2::<F, A, B, C>,
            vv: run_vv::<F, A, B, C>,
            sv: run_sv::<F, A, B, C>,
            vs: run_vs::<F, A, B, C>,
            in_left: None,
            inputs: [A::DTYPE, B::DTYPE],
            output: C::DTYPE,
            grain: HEAVY,
            half: None,
        }
    }

    /// The loop of a function of one type that costs a hundred times as much as moving its operands.
    pub fn costly<F: Fn2<A, A, A>, A: Element>() -> Loop2 {
        Loop2 {
            grain: COSTLY,
            ..Loop2::heavy_to::<F, A, A, A>()
        }
    }

    /// The loop of a cheap function of one type, such as addition.
    pub fn light<F: Fn2<A, A, A>, A: Element>() -> Loop2 {
        Loop2 {
            in_left: Some(run_in_left::<F, A, A>),
            grain: LIGHT,
            ..Loop2::heavy_to::<F, A, A, A>()
        }
    }

    /// The loop of a cheap function to another type, such as a comparison.
    pub fn light_to<F: Fn2<A, A, C>, A: Element, C: Element>() -> Loop2 {
        Loop2 {
            grain: LIGHT,
            ..Loop2::heavy_to::<F, A, A, C>()
        }
    }

    /// The same loop over another element type of the same size, for functions that see only the bits.
    pub fn seen_as(mut self, from: DType, to: DType) -> Loop2 {
        let [a, b] = &mut self.inputs;
        for d in [a, b, &mut self.output] {
            *d = super::renamed(*d, from, to);
        }
        self
    }

    /// The loop over half-precision elements that computes in f32; `None` unless this is an f32 loop.
    pub(super) fn in_half(self, half: Half) -> Option<Loop2> {
        (self.inputs == [DType::F32; 2] && self.half.is_none()).then(|| Loop2 {
            half: Some(half),
            inputs: [half.dtype(); 2],
            output: super::renamed_half(self.output, half),
            ..self
        })
    }

    /// The operands' dtypes.
    pub fn inputs(&self) -> [DType; 2] {
        self.inputs
    }

    /// The result's dtype.
    pub fn output(&self) -> DType {
        self.output
    }

    /// Elements that a thread should have to do at least.
    pub fn grain(&self) -> usize {
        self.grain
    }

    /// `y[i] = f(a[i], b[i])` for `n` elements, where an operand may be one element for all.
    ///
    /// # Safety
    /// The operands are valid for reading and `y` for writing the elements of the loop's types, initialised and
    /// aligned; `y` overlaps no operand, or is equal to one of them that is `Many` and has the result's size (or `n`
    /// is 1).
    pub(super) unsafe fn run(&self, a: Arg, b: Arg, y: *mut u8, n: usize) {
        // SAFETY: the caller's promise is what every function here asks for.
        unsafe {
            if let Some(h) = self.half {
                return self.run_half(h, a, b, y, n);
            }
            if n == 1 {
                return (self.one)(a.ptr(), b.ptr(), y);
            }
            let shared = |p: *const u8| std::ptr::eq(p, y);
            match (a, b) {
                (Arg::Many(a), Arg::Many(b)) => match (shared(a), shared(b), self.in_left) {
                    (false, false, _) => (self.vv)(a, b, y, n),
                    (true, false, Some(f)) => f(y, b, n),
                    _ => self.run_aside(Arg::Many(a), Arg::Many(b), y, n),
                },
                (Arg::One(a), Arg::Many(b)) if !shared(b) => (self.sv)(a, b, y, n),
                (Arg::Many(a), Arg::One(b)) if !shared(a) => (self.vs)(a, b, y, n),
                (Arg::One(a), Arg::One(b)) => {
                    // All results are the same one: compute it, then copy it.
                    (self.one)(a, b, y);
                    let size = self.output.size();
                    for i in 1..n {
                        std::ptr::copy_nonoverlapping(y, y.add(i * size), size);
                    }
                }
                (a, b) => self.run_aside(a, b, y, n),
            }
        }
    }

    /// Copies operands that lie where the result goes aside, a stage at a time.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn run_aside(&self, a: Arg, b: Arg, y: *mut u8, n: usize) {
        let (sa, sb, sy) = (self.inputs[0].size(), self.inputs[1].size(), self.output.size());
        let stage = ASIDE / sa.max(sb);
        let (mut left, mut right) = (Scratch::<ASIDE>::new(), Scratch::<ASIDE>::new());
        for at in (0..n).step_by(stage) {
            let m = (n - at).min(stage);
            // SAFETY: the stage lies within the `n` elements and fits the scratch memory, which overlaps nothing.
            unsafe {
                let y = y.add(at * sy);
                let from = |arg: Arg, size: usize, scratch: *mut u8| match arg.skip(at, size) {
                    Arg::Many(p) if std::ptr::eq(p, y) => {
                        std::ptr::copy_nonoverlapping(p, scratch, m * size);
                        Arg::Many(scratch as *const u8)
                    }
                    other => other,
                };
                match (from(a, sa, left.ptr()), from(b, sb, right.ptr())) {
                    (Arg::Many(a), Arg::Many(b)) => (self.vv)(a, b, y, m),
                    (Arg::One(a), Arg::Many(b)) => (self.sv)(a, b, y, m),
                    (Arg::Many(a), Arg::One(b)) => (self.vs)(a, b, y, m),
                    (Arg::One(_), Arg::One(_)) => {}
                }
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn run_half(&self, h: Half, a: Arg, b: Arg, y: *mut u8, n: usize) {
        let size = self.output.size();
        let mut wide = [const { Scratch::<{ 4 * STAGE }>::zeroed() }; 3];
        let [wide_a, wide_b, wide_y] = &mut wide;
        let (wide_a, wide_b, wide_y) = (wide_a.ptr(), wide_b.ptr(), wide_y.ptr());
        for at in (0..n).step_by(STAGE) {
            let m = (n - at).min(STAGE);
            // SAFETY: the stages lie within the `n` elements; scratch memory holds a stage of f32 or bool.
            unsafe {
                let widened = |arg: Arg, to: *mut u8| match arg.skip(at, 2) {
                    Arg::Many(p) => {
                        h.widen(p, to, m);
                        Arg::Many(to as *const u8)
                    }
                    Arg::One(p) => {
                        h.widen(p, to, 1);
                        Arg::One(to as *const u8)
                    }
                };
                let single = Loop2 {
                    half: None,
                    inputs: [DType::F32; 2],
                    output: if size == 2 { DType::F32 } else { self.output },
                    ..*self
                };
                let (a, b) = (widened(a, wide_a), widened(b, wide_b));
                if size == 2 {
                    single.run(a, b, wide_y, m);
                    h.narrow(wide_y, y.add(2 * at), m);
                } else {
                    single.run(a, b, y.add(size * at), m);
                }
            }
        }
    }
}
