//! The means of windows and their gradients. A mean is over what of the window lies in the input.
#![forbid(unsafe_code)]

use std::ops::{Div, Mul};

use actorflow_core::parallel::Parallel;

use super::super::window::Axis;
use super::extents::Extents;
use super::number::Number;
use crate::math::madd::Madd;
use crate::spread;
use crate::wide::Work;

/// Channels that are computed at a time.
const LANES: usize = 16;

/// Additions that are worth handing to another worker.
const GRAIN: usize = 1 << 17;

/// A float that means are computed in.
pub(super) trait Real: Number + Div<Output = Self> + Mul<Output = Self> {
    /// The number of elements of a window.
    fn of(n: usize) -> Self;
}

impl Real for f32 {
    fn of(n: usize) -> f32 {
        n as f32
    }
}

impl Real for f64 {
    fn of(n: usize) -> f64 {
        n as f64
    }
}

/// Sums of some pixels of an image, each times the factor of its line and that of its column, over a list of each.
struct Sums<'a, T> {
    image: &'a [T],
    /// Where lines begin, and their factors.
    lines: &'a [(usize, T)],
    /// Where pixels of a line begin, and their factors.
    pixels: &'a [(usize, T)],
    out: &'a mut [T],
}

impl<T: Real> Work for Sums<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(mut self) {
        let all = std::mem::take(&mut self.out);
        let mut at = 0;
        let (blocks, rest) = all.as_chunks_mut::<LANES>();
        for out in blocks {
            self.block(at, out);
            at += LANES;
        }
        self.block(at, rest);
    }
}

impl<T: Real> Sums<'_, T> {
    #[inline(always)]
    fn block(&self, at: usize, out: &mut [T]) {
        let n = out.len();
        out.fill(T::ZERO);
        for (l, f) in self.lines {
            for (p, g) in self.pixels {
                let factor = *f * *g;
                for (o, x) in out.iter_mut().zip(&self.image[l + p + at..][..n]) {
                    *o = o.plus(*x * factor);
                }
            }
        }
    }
}

/// One over the number of inputs that window `o` takes.
fn share<T: Real>(a: &Axis, o: usize) -> T {
    T::of(1) / T::of(a.reach(o).len())
}

/// The means of all windows.
pub(super) fn means<T: Real>(par: &dyn Parallel, e: &Extents, x: &[T], out: &mut [T]) {
    let [z, y, a] = e.axes;
    let c = e.channels;
    let lines = |line: usize, list: &mut Vec<(usize, T)>| {
        list.extend(e.taken(line).map(|l| (l * e.line_in(), T::of(1))));
    };
    let window = z.window.saturating_mul(y.window).saturating_mul(a.window);
    let sizes = (e.lines_in() * e.line_in(), e.lines_out(), e.line_out());
    sums(par, sizes, c, window, x, out, lines, |o, list| {
        list.extend(a.reach(o).map(|i| (i * c, T::of(1))));
    });
    // The sums are exact for integers only if they are divided once, at the end.
    let per = spread::rows_of(e.line_out());
    spread::chunks(par, out, per * e.line_out(), |i, out| {
        for (j, out) in out.chunks_mut(e.line_out()).enumerate() {
            let line = (i * per + j) % e.lines_out();
            let n = e.taken(line).count();
            for (o, out) in out.chunks_mut(c).enumerate() {
                let n = T::of((n * a.reach(o).len()).max(1));
                out.iter_mut().for_each(|x| *x = *x / n);
            }
        }
    });
}

/// The windows along one axis that take input `i`.
fn takers(a: &Axis, i: usize) -> impl Iterator<Item = usize> + use<> {
    let a = *a;
    let first = (i + a.before + 1).saturating_sub(a.window).div_ceil(a.stride);
    (first..a.output.min((i + a.before) / a.stride + 1)).filter(move |o| a.reach(*o).contains(&i))
}

/// The gradient of [`means`]: every input gets its share of each window that takes it.
pub(super) fn shares<T: Real>(par: &dyn Parallel, e: &Extents, dy: &[T], dx: &mut [T]) {
    let [z, y, a] = e.axes;
    let c = e.channels;
    let lines = |line: usize, list: &mut Vec<(usize, T)>| {
        for oz in takers(&z, line / y.input) {
            for oy in takers(&y, line % y.input) {
                list.push((
                    (oz * y.output + oy) * e.line_out(),
                    share::<T>(&z, oz) * share::<T>(&y, oy),
                ));
            }
        }
    };
    let over = |x: &Axis| x.window.div_ceil(x.stride);
    let window = over(&z).saturating_mul(over(&y)).saturating_mul(over(&a));
    let sizes = (e.lines_out() * e.line_out(), e.lines_in(), e.line_in());
    sums(par, sizes, c, window, dy, dx, lines, |i, list| {
        list.extend(takers(&a, i).map(|o| (o * c, share::<T>(&a, o))));
    });
}

/// For every pixel of the output the sum over `lines_of` its line and `pixels_of` its column. `image` is the elements
/// of an image of the source, `lines` and `line` the lines and elements of a line of one of the output.
#[expect(clippy::too_many_arguments, reason = "private, called twice")]
fn sums<T: Real>(
    par: &dyn Parallel,
    (image, lines, line): (usize, usize, usize),
    channels: usize,
    window: usize,
    source: &[T],
    out: &mut [T],
    lines_of: impl Fn(usize, &mut Vec<(usize, T)>) + Sync,
    pixels_of: impl Fn(usize, &mut Vec<(usize, T)>) + Sync,
) {
    let per = (GRAIN / line.saturating_mul(window).max(1)).max(1);
    spread::chunks(par, out, per * line, |i, out| {
        let (mut rows, mut pixels) = (Vec::new(), Vec::new());
        for (j, out) in out.chunks_mut(line).enumerate() {
            let at = i * per + j;
            rows.clear();
            lines_of(at % lines, &mut rows);
            for (o, out) in out.chunks_mut(channels).enumerate() {
                pixels.clear();
                pixels_of(o, &mut pixels);
                T::run(Sums {
                    image: &source[at / lines * image..][..image],
                    lines: &rows,
                    pixels: &pixels,
                    out,
                });
            }
        }
    });
}
