//! Loops over slices that run at the width of the processor.
//!
//! A function of one element is a zero-sized type with [`Fn1`] or [`Fn2`]; [`map1`], [`map2`] and their in-place and
//! scalar-operand forms apply it to slices. Which loop is used is part of the function's type ([`Fn1::Loop`]):
//!
//! * [`Wide`]: compiled for AVX-512, for AVX2 with FMA and for the build's own target; picked by what the processor has.
//!   For branch-free functions.
//! * [`Checked`]: as `Wide`, and arguments that the branch-free code does not cover are done again by [`Fn1::rare`].
//! * [`Plain`]: one loop for the build's own target. For functions that call the library or branch.
//!
//! The value computed for an element depends only on the element and on the [`Level`], never on its position, on the length of
//! the slice or on how a tensor is split between threads.
//!
//! Wide loops handle whole blocks of [`BLOCK`] elements, and up to seven elements one by one. Any other rest shorter than a
//! block is done as one padded block (out of place, the last full block is done again, overlapping), so that the function is not
//! compiled a second time for it. Padding repeats a real operand, so a function never sees a value that the caller did not pass.

use super::madd::{Baseline, Fused, Madd};
use std::sync::atomic::{AtomicU8, Ordering};

/// Elements that a wide loop handles without a rest.
pub const BLOCK: usize = 64;
/// Up to so many elements are done one by one.
const FEW: usize = 7;
/// Elements copied aside at a time where operand and result share memory.
const STAGE: usize = 4 * BLOCK;

/// An instruction set for which wide loops exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What the build targets.
    Baseline = 1,
    /// AVX2 and FMA.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512 = 3,
}

static DETECTED: AtomicU8 = AtomicU8::new(0);

#[cold]
fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    let found = {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (avx2, avx512) {
            (true, true) => Level::Avx512,
            (true, false) => Level::Avx2,
            _ => Level::Baseline,
        }
    };
    #[cfg(not(target_arch = "x86_64"))]
    let found = Level::Baseline;
    DETECTED.store(found as u8, Ordering::Relaxed);
    found
}

/// The widest instruction set of this processor. Detected once.
#[inline]
pub fn level() -> Level {
    match DETECTED.load(Ordering::Relaxed) {
        1 => Level::Baseline,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => detect(),
    }
}

/// What a loop can read or write: a plain value with some value to fill buffers with.
pub trait Elem: Copy + Default + 'static {}
impl<T: Copy + Default + 'static> Elem for T {}

/// A function of one element, as a type.
pub trait Fn1<A: Elem, B: Elem>: 'static {
    /// The loop that suits the function: [`Wide`], [`Checked`] or [`Plain`].
    type Loop: LoopKind;
    /// The function. Must be `#[inline(always)]`, and free of branches and calls where the loop is wide.
    fn call<M: Madd>(a: A) -> B;
    /// For [`Checked`] loops: whether [`call`](Fn1::call) is right for `a`. Branch-free.
    #[inline(always)]
    fn covers(_: A) -> bool {
        true
    }
    /// For [`Checked`] loops: the function where [`covers`](Fn1::covers) says no.
    fn rare(a: A) -> B {
        Self::call::<Baseline>(a)
    }
}

/// A function of two elements, as a type.
pub trait Fn2<A: Elem, B: Elem, C: Elem>: 'static {
    /// The loop that suits the function: [`Wide`] or [`Plain`] ([`Checked`] acts as `Wide`).
    type Loop: LoopKind;
    /// The function. Must be `#[inline(always)]`, and free of branches and calls where the loop is wide.
    fn call<M: Madd>(a: A, b: B) -> C;
}

/// Loops compiled for each [`Level`].
#[derive(Debug)]
pub struct Wide;
/// Loops compiled for each [`Level`], with a second look at arguments out of the function's range.
#[derive(Debug)]
pub struct Checked;
/// Loops compiled once.
#[derive(Debug)]
pub struct Plain;

type Run1<A, B> = unsafe fn(&[A], &mut [B]);
type RunIn1<A> = unsafe fn(&mut [A]);
type Run2<A, B, C> = unsafe fn(&[A], &[B], &mut [C]);
type RunIn2<A, B> = unsafe fn(&mut [A], &[B]);
type RunLeft<A, B, C> = unsafe fn(A, &[B], &mut [C]);
type RunRight<A, B, C> = unsafe fn(&[A], B, &mut [C]);

/// The loops of one instruction set. Each handles up to [`FEW`] elements, or a multiple of [`BLOCK`] elements and ignores a rest.
///
/// Lengths are rounded down to whole blocks inside, where the compiler sees it and leaves out the code for a rest.
macro_rules! loops {
    ($name:ident, $madd:ty, $(#[$feature:meta])*) => {
        mod $name {
            use super::*;

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run1<F: Fn1<A, B>, A: Elem, B: Elem>(x: &[A], y: &mut [B]) {
                if let ([a], [o]) = (x, &mut *y) {
                    *o = F::call::<$madd>(*a);
                    return;
                }
                if y.len() <= FEW {
                    for (o, a) in y.iter_mut().zip(x) {
                        *o = F::call::<$madd>(*a);
                    }
                    return;
                }
                let n = x.len().min(y.len()) / BLOCK * BLOCK;
                for (o, a) in y[..n].iter_mut().zip(&x[..n]) {
                    *o = F::call::<$madd>(*a);
                }
            }

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run_in1<F: Fn1<A, A>, A: Elem>(y: &mut [A]) {
                if let [o] = &mut *y {
                    *o = F::call::<$madd>(*o);
                    return;
                }
                if y.len() <= FEW {
                    for o in y {
                        *o = F::call::<$madd>(*o);
                    }
                    return;
                }
                let n = y.len() / BLOCK * BLOCK;
                for o in &mut y[..n] {
                    *o = F::call::<$madd>(*o);
                }
            }

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run2<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(a: &[A], b: &[B], y: &mut [C]) {
                if let ([a], [b], [o]) = (a, b, &mut *y) {
                    *o = F::call::<$madd>(*a, *b);
                    return;
                }
                if y.len() <= FEW {
                    for ((o, a), b) in y.iter_mut().zip(a).zip(b) {
                        *o = F::call::<$madd>(*a, *b);
                    }
                    return;
                }
                let n = a.len().min(b.len()).min(y.len()) / BLOCK * BLOCK;
                for ((o, a), b) in y[..n].iter_mut().zip(&a[..n]).zip(&b[..n]) {
                    *o = F::call::<$madd>(*a, *b);
                }
            }

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run_in2<F: Fn2<A, B, A>, A: Elem, B: Elem>(y: &mut [A], b: &[B]) {
                if let ([o], [b]) = (&mut *y, b) {
                    *o = F::call::<$madd>(*o, *b);
                    return;
                }
                if y.len() <= FEW {
                    for (o, b) in y.iter_mut().zip(b) {
                        *o = F::call::<$madd>(*o, *b);
                    }
                    return;
                }
                let n = b.len().min(y.len()) / BLOCK * BLOCK;
                for (o, b) in y[..n].iter_mut().zip(&b[..n]) {
                    *o = F::call::<$madd>(*o, *b);
                }
            }

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run_left<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(a: A, b: &[B], y: &mut [C]) {
                if let ([b], [o]) = (b, &mut *y) {
                    *o = F::call::<$madd>(a, *b);
                    return;
                }
                if y.len() <= FEW {
                    for (o, b) in y.iter_mut().zip(b) {
                        *o = F::call::<$madd>(a, *b);
                    }
                    return;
                }
                let n = b.len().min(y.len()) / BLOCK * BLOCK;
                for (o, b) in y[..n].iter_mut().zip(&b[..n]) {
                    *o = F::call::<$madd>(a, *b);
                }
            }

            $(#[$feature])*
            #[inline(never)]
            pub(super) unsafe fn run_right<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(a: &[A], b: B, y: &mut [C]) {
                if let ([a], [o]) = (a, &mut *y) {
                    *o = F::call::<$madd>(*a, b);
                    return;
                }
                if y.len() <= FEW {
                    for (o, a) in y.iter_mut().zip(a) {
                        *o = F::call::<$madd>(*a, b);
                    }
                    return;
                }
                let n = a.len().min(y.len()) / BLOCK * BLOCK;
                for (o, a) in y[..n].iter_mut().zip(&a[..n]) {
                    *o = F::call::<$madd>(*a, b);
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
loops!(avx512, Fused, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]);
#[cfg(target_arch = "x86_64")]
loops!(avx2, Fused, #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]);
loops!(baseline, Baseline,);

/// The loop `$f` for a level that the processor has.
macro_rules! pick {
    ($level:expr, $f:ident :: < $($g:ty),+ >) => {
        match $level.min(level()) {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::$f::<$($g),+>,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::$f::<$($g),+>,
            _ => baseline::$f::<$($g),+>,
        }
    };
}

/// A buffer of one block that starts with `x` (at least one, at most `BLOCK` elements) and repeats its first element after it.
#[inline]
fn padded<A: Elem>(x: &[A]) -> [A; BLOCK] {
    let mut buf = [x[0]; BLOCK];
    buf[..x.len()].copy_from_slice(x);
    buf
}

/// Applies `run` to every element: whole blocks, then what is left.
#[inline]
fn drive1<A: Elem, B: Elem>(run: impl Fn(&[A], &mut [B]), x: &[A], y: &mut [B]) {
    assert_eq!(x.len(), y.len(), "operand and result of a map differ in length");
    let n = x.len();
    if n >= BLOCK || n <= FEW {
        run(x, y);
        if n > BLOCK && !n.is_multiple_of(BLOCK) {
            run(&x[n - BLOCK..], &mut y[n - BLOCK..]);
        }
    } else {
        let mut out = [B::default(); BLOCK];
        run(&padded(x), &mut out);
        y.copy_from_slice(&out[..n]);
    }
}

#[inline]
fn drive_in1<A: Elem>(run: RunIn1<A>, y: &mut [A]) {
    let n = y.len();
    let rest = n % BLOCK;
    // SAFETY: `run` was picked for a level that the processor has; it asks nothing else of its caller.
    let run = |y: &mut [A]| unsafe { run(y) };
    if rest == 0 || n <= FEW {
        run(y);
        return;
    }
    let (whole, rest) = y.split_at_mut(n - rest);
    let mut buf = padded(rest);
    if !whole.is_empty() {
        run(whole);
    }
    run(&mut buf);
    rest.copy_from_slice(&buf[..rest.len()]);
}

#[inline]
fn drive2<A: Elem, B: Elem, C: Elem>(run: Run2<A, B, C>, a: &[A], b: &[B], y: &mut [C]) {
    assert!(
        a.len() == y.len() && b.len() == y.len(),
        "operands and result of a map differ in length"
    );
    let n = y.len();
    // SAFETY: `run` was picked for a level that the processor has; it asks nothing else of its caller.
    let run = |a: &[A], b: &[B], y: &mut [C]| unsafe { run(a, b, y) };
    if n >= BLOCK || n <= FEW {
        run(a, b, y);
        if n > BLOCK && !n.is_multiple_of(BLOCK) {
            run(&a[n - BLOCK..], &b[n - BLOCK..], &mut y[n - BLOCK..]);
        }
    } else {
        let mut out = [C::default(); BLOCK];
        run(&padded(a), &padded(b), &mut out);
        y.copy_from_slice(&out[..n]);
    }
}

#[inline]
fn drive_in2<A: Elem, B: Elem>(run: RunIn2<A, B>, y: &mut [A], b: &[B]) {
    assert_eq!(b.len(), y.len(), "operands of a map differ in length");
    let n = y.len();
    let rest = n % BLOCK;
    // SAFETY: `run` was picked for a level that the processor has; it asks nothing else of its caller.
    let run = |y: &mut [A], b: &[B]| unsafe { run(y, b) };
    if rest == 0 || n <= FEW {
        run(y, b);
        return;
    }
    let (whole, rest) = y.split_at_mut(n - rest);
    let (b_whole, b_rest) = b.split_at(whole.len());
    let mut buf = padded(rest);
    if !whole.is_empty() {
        run(whole, b_whole);
    }
    run(&mut buf, &padded(b_rest));
    rest.copy_from_slice(&buf[..rest.len()]);
}

/// Runs `f(operand, result)` over `y` with the operand copied aside, a stage at a time.
#[inline]
fn staged<A: Elem>(y: &mut [A], mut f: impl FnMut(usize, &[A], &mut [A])) {
    let mut buf = [A::default(); STAGE];
    for (i, part) in y.chunks_mut(STAGE).enumerate() {
        let operand = &mut buf[..part.len()];
        operand.copy_from_slice(part);
        f(i * STAGE, operand, part);
    }
}

/// A way to loop over slices; see the three that exist: [`Wide`], [`Checked`], [`Plain`].
pub trait LoopKind: 'static {
    /// `y[i] = f(x[i])`, with instructions up to `level`.
    fn map1<F: Fn1<A, B>, A: Elem, B: Elem>(level: Level, x: &[A], y: &mut [B]);
    /// `y[i] = f(y[i])`.
    fn map1_inplace<F: Fn1<A, A>, A: Elem>(level: Level, y: &mut [A]);
    /// `y[i] = f(a[i], b[i])`.
    fn map2<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: &[A], b: &[B], y: &mut [C]);
    /// `y[i] = f(y[i], b[i])`.
    fn map2_inplace_left<F: Fn2<A, B, A>, A: Elem, B: Elem>(level: Level, y: &mut [A], b: &[B]);
    /// `y[i] = f(a, b[i])`.
    fn map2_scalar_left<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: A, b: &[B], y: &mut [C]);
    /// `y[i] = f(a[i], b)`.
    fn map2_scalar_right<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: &[A], b: B, y: &mut [C]);
}

impl LoopKind for Wide {
    #[inline]
    fn map1<F: Fn1<A, B>, A: Elem, B: Elem>(level: Level, x: &[A], y: &mut [B]) {
        let run: Run1<A, B> = pick!(level, run1::<F, A, B>);
        // SAFETY: `run` was picked for a level that the processor has; it asks nothing else of its caller.
        drive1(|x, y| unsafe { run(x, y) }, x, y);
    }
    #[inline]
    fn map1_inplace<F: Fn1<A, A>, A: Elem>(level: Level, y: &mut [A]) {
        drive_in1(pick!(level, run_in1::<F, A>), y);
    }
    #[inline]
    fn map2<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: &[A], b: &[B], y: &mut [C]) {
        drive2(pick!(level, run2::<F, A, B, C>), a, b, y);
    }
    #[inline]
    fn map2_inplace_left<F: Fn2<A, B, A>, A: Elem, B: Elem>(level: Level, y: &mut [A], b: &[B]) {
        drive_in2(pick!(level, run_in2::<F, A, B>), y, b);
    }
    #[inline]
    fn map2_scalar_left<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: A, b: &[B], y: &mut [C]) {
        let run: RunLeft<A, B, C> = pick!(level, run_left::<F, A, B, C>);
        // SAFETY: `run` was picked for a level that the processor has; it asks nothing else of its caller.
        drive1(|b, y| unsafe { run(a, b, y) }, b, y);
    }
    #[inline]
    fn map2_scalar_right<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: &[A], b: B, y: &mut [C]) {
        let run: RunRight<A, B, C> = pick!(level, run_right::<F, A, B, C>);
        // SAFETY: `run` was picked for a level that the processor has; it asks nothing else of its caller.
        drive1(|a, y| unsafe { run(a, b, y) }, a, y);
    }
}

/// Replaces the results of arguments that the branch-free code does not cover.
#[inline]
fn mend<F: Fn1<A, B>, A: Elem, B: Elem>(x: &[A], y: &mut [B]) {
    for (x, y) in x.chunks(STAGE).zip(y.chunks_mut(STAGE)) {
        if !x.iter().fold(true, |all, a| all & F::covers(*a)) {
            for (o, a) in y.iter_mut().zip(x).filter(|(_, a)| !F::covers(**a)) {
                *o = F::rare(*a);
            }
        }
    }
}

impl LoopKind for Checked {
    #[inline]
    fn map1<F: Fn1<A, B>, A: Elem, B: Elem>(level: Level, x: &[A], y: &mut [B]) {
        Wide::map1::<F, A, B>(level, x, y);
        mend::<F, A, B>(x, y);
    }
    #[inline]
    fn map1_inplace<F: Fn1<A, A>, A: Elem>(level: Level, y: &mut [A]) {
        staged(y, |_, x, y| Self::map1::<F, A, A>(level, x, y));
    }
    #[inline]
    fn map2<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: &[A], b: &[B], y: &mut [C]) {
        Wide::map2::<F, A, B, C>(level, a, b, y);
    }
    #[inline]
    fn map2_inplace_left<F: Fn2<A, B, A>, A: Elem, B: Elem>(level: Level, y: &mut [A], b: &[B]) {
        Wide::map2_inplace_left::<F, A, B>(level, y, b);
    }
    #[inline]
    fn map2_scalar_left<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: A, b: &[B], y: &mut [C]) {
        Wide::map2_scalar_left::<F, A, B, C>(level, a, b, y);
    }
    #[inline]
    fn map2_scalar_right<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(level: Level, a: &[A], b: B, y: &mut [C]) {
        Wide::map2_scalar_right::<F, A, B, C>(level, a, b, y);
    }
}

impl LoopKind for Plain {
    fn map1<F: Fn1<A, B>, A: Elem, B: Elem>(_: Level, x: &[A], y: &mut [B]) {
        assert_eq!(x.len(), y.len(), "operand and result of a map differ in length");
        for (o, a) in y.iter_mut().zip(x) {
            *o = F::call::<Baseline>(*a);
        }
    }
    fn map1_inplace<F: Fn1<A, A>, A: Elem>(_: Level, y: &mut [A]) {
        for o in y {
            *o = F::call::<Baseline>(*o);
        }
    }
    fn map2<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(_: Level, a: &[A], b: &[B], y: &mut [C]) {
        assert!(
            a.len() == y.len() && b.len() == y.len(),
            "operands and result of a map differ in length"
        );
        for ((o, a), b) in y.iter_mut().zip(a).zip(b) {
            *o = F::call::<Baseline>(*a, *b);
        }
    }
    fn map2_inplace_left<F: Fn2<A, B, A>, A: Elem, B: Elem>(_: Level, y: &mut [A], b: &[B]) {
        assert_eq!(b.len(), y.len(), "operands of a map differ in length");
        for (o, b) in y.iter_mut().zip(b) {
            *o = F::call::<Baseline>(*o, *b);
        }
    }
    fn map2_scalar_left<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(_: Level, a: A, b: &[B], y: &mut [C]) {
        assert_eq!(b.len(), y.len(), "operand and result of a map differ in length");
        for (o, b) in y.iter_mut().zip(b) {
            *o = F::call::<Baseline>(a, *b);
        }
    }
    fn map2_scalar_right<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(_: Level, a: &[A], b: B, y: &mut [C]) {
        assert_eq!(a.len(), y.len(), "operand and result of a map differ in length");
        for (o, a) in y.iter_mut().zip(a) {
            *o = F::call::<Baseline>(*a, b);
        }
    }
}

/// `y[i] = f(x[i])`. Panics if the lengths differ, as all maps here do.
#[inline]
pub fn map1<F: Fn1<A, B>, A: Elem, B: Elem>(x: &[A], y: &mut [B]) {
    F::Loop::map1::<F, A, B>(level(), x, y);
}

/// `y[i] = f(y[i])`.
#[inline]
pub fn map1_inplace<F: Fn1<A, A>, A: Elem>(y: &mut [A]) {
    F::Loop::map1_inplace::<F, A>(level(), y);
}

/// `y[i] = f(a[i], b[i])`.
#[inline]
pub fn map2<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(a: &[A], b: &[B], y: &mut [C]) {
    F::Loop::map2::<F, A, B, C>(level(), a, b, y);
}

/// `y[i] = f(y[i], b[i])`.
#[inline]
pub fn map2_inplace_left<F: Fn2<A, B, A>, A: Elem, B: Elem>(y: &mut [A], b: &[B]) {
    F::Loop::map2_inplace_left::<F, A, B>(level(), y, b);
}

/// `y[i] = f(a[i], y[i])`.
#[inline]
pub fn map2_inplace_right<F: Fn2<A, B, B>, A: Elem, B: Elem>(a: &[A], y: &mut [B]) {
    assert_eq!(a.len(), y.len(), "operands of a map differ in length");
    let level = level();
    staged(y, |at, b, y| {
        F::Loop::map2::<F, A, B, B>(level, &a[at..at + y.len()], b, y)
    });
}

/// `y[i] = f(a, b[i])`.
#[inline]
pub fn map2_scalar_left<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(a: A, b: &[B], y: &mut [C]) {
    F::Loop::map2_scalar_left::<F, A, B, C>(level(), a, b, y);
}

/// `y[i] = f(a[i], b)`.
#[inline]
pub fn map2_scalar_right<F: Fn2<A, B, C>, A: Elem, B: Elem, C: Elem>(a: &[A], b: B, y: &mut [C]) {
    F::Loop::map2_scalar_right::<F, A, B, C>(level(), a, b, y);
}

/// `y[i] = f(a, y[i])`.
#[inline]
pub fn map2_scalar_left_inplace<F: Fn2<A, B, B>, A: Elem, B: Elem>(a: A, y: &mut [B]) {
    let level = level();
    staged(y, |_, b, y| F::Loop::map2_scalar_left::<F, A, B, B>(level, a, b, y));
}

/// `y[i] = f(y[i], b)`.
#[inline]
pub fn map2_scalar_right_inplace<F: Fn2<A, B, A>, A: Elem, B: Elem>(y: &mut [A], b: B) {
    let level = level();
    staged(y, |_, a, y| F::Loop::map2_scalar_right::<F, A, B, A>(level, a, b, y));
}

#[cfg(test)]
#[path = "simd_tests.rs"]
mod tests;
