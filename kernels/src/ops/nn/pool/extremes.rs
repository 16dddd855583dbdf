//! The largest elements of windows, where they are, and their gradients.
#![forbid(unsafe_code)]

use std::ops::Range;

use actorflow_core::error::{Error, Result};
use actorflow_core::parallel::Parallel;

use super::super::conv::number::Failure;
use super::super::window::Axis;
use super::extents::Extents;
use super::number::Number;
use crate::math::madd::Madd;
use crate::spread;
use crate::wide::Work;

/// Channels that are computed at a time.
const LANES: usize = 16;

/// Comparisons that are worth handing to another worker.
const GRAIN: usize = 1 << 17;

/// No pixel.
const NONE: u32 = u32::MAX;

/// The largest elements of the windows of a line.
struct Largest<'a, T> {
    /// The image.
    x: &'a [T],
    /// The lines that the windows take.
    lines: &'a [usize],
    axis: Axis,
    channels: usize,
    out: &'a mut [T],
}

impl<T: Number> Work for Largest<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let c = self.channels;
        let line = self.axis.input * c;
        for (o, out) in self.out.chunks_exact_mut(c).enumerate() {
            let reach = self.axis.reach(o);
            let mut at = 0;
            let (blocks, rest) = out.as_chunks_mut::<LANES>();
            for out in blocks {
                let mut acc = [T::LEAST; LANES];
                for l in self.lines {
                    for i in reach.clone() {
                        let x = &self.x[l * line + i * c + at..][..LANES];
                        for (a, x) in acc.iter_mut().zip(x) {
                            *a = if *x > *a { *x } else { *a };
                        }
                    }
                }
                *out = acc;
                at += LANES;
            }
            if rest.is_empty() {
                continue;
            }
            rest.fill(T::LEAST);
            for l in self.lines {
                for i in reach.clone() {
                    for (a, x) in rest.iter_mut().zip(&self.x[l * line + i * c + at..]) {
                        *a = if *x > *a { *x } else { *a };
                    }
                }
            }
        }
    }
}

/// Chunks of whole output lines that are worth handing out.
fn chunk(e: &Extents) -> usize {
    let window: usize = e.axes.iter().map(|a| a.window).fold(1, usize::saturating_mul);
    (GRAIN / (e.line_out().saturating_mul(window)).max(1)).max(1)
}

/// The largest elements of all windows; NaNs are passed over.
pub(super) fn largest<T: Number>(par: &dyn Parallel, e: &Extents, x: &[T], out: &mut [T]) {
    let (line, per) = (e.line_out(), chunk(e));
    let image = e.lines_in() * e.line_in();
    spread::chunks(par, out, per * line, |i, out| {
        let mut lines = Vec::new();
        for (j, out) in out.chunks_mut(line).enumerate() {
            let at = i * per + j;
            lines.clear();
            lines.extend(e.taken(at % e.lines_out()));
            T::run(Largest {
                x: &x[at / e.lines_out() * image..][..image],
                lines: &lines,
                axis: e.axes[2],
                channels: e.channels,
                out,
            });
        }
    });
}

/// The windows of a line of outputs in an image.
struct Line<'a, T> {
    x: &'a [T],
    /// The lines that the windows take.
    lines: &'a [usize],
    axis: Axis,
    channels: usize,
}

impl<T: Number> Line<'_, T> {
    /// The pixels of window `o`, in order.
    #[inline(always)]
    fn pixels(&self, o: usize, pixels: &mut Vec<u32>) {
        pixels.clear();
        for l in self.lines {
            let reach = self.axis.reach(o);
            let at = (l * self.axis.input) as u32;
            pixels.extend(reach.map(|i| at + i as u32));
        }
    }

    /// The largest elements over some pixels, at least one, of the channels from `at` on, and the pixels that they are
    /// at: the first ones of equals; a NaN that comes first counts as largest.
    ///
    /// So many channels at a time that all is done in registers.
    #[inline(always)]
    fn peaks(&self, pixels: &[u32], at: usize) -> ([T; LANES], [u32; LANES]) {
        let mut values = [T::ZERO; LANES];
        values.copy_from_slice(&self.x[pixels[0] as usize * self.channels + at..][..LANES]);
        let mut places = [pixels[0]; LANES];
        for pixel in &pixels[1..] {
            let mut x = [T::ZERO; LANES];
            x.copy_from_slice(&self.x[*pixel as usize * self.channels + at..][..LANES]);
            for i in 0..LANES {
                let more = x[i] > values[i];
                values[i] = if more { x[i] } else { values[i] };
                places[i] = if more { *pixel } else { places[i] };
            }
        }
        (values, places)
    }

    /// As [`peaks`](Self::peaks), of one channel.
    #[inline(always)]
    fn peak(&self, pixels: &[u32], at: usize) -> (T, u32) {
        let of = |pixel: u32| (self.x[pixel as usize * self.channels + at], pixel);
        let more = |a: (T, u32), b: (T, u32)| if b.0 > a.0 { b } else { a };
        pixels[1..].iter().map(|p| of(*p)).fold(of(pixels[0]), more)
    }
}

/// The pixels at which the windows of a line have their largest elements.
struct Places<'a, T> {
    line: Line<'a, T>,
    out: &'a mut [u32],
}

impl<T: Number> Work for Places<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let mut pixels = Vec::new();
        for (o, out) in self.out.chunks_exact_mut(self.line.channels).enumerate() {
            self.line.pixels(o, &mut pixels);
            if pixels.is_empty() {
                out.fill(NONE);
                continue;
            }
            let (blocks, rest) = out.as_chunks_mut::<LANES>();
            let wide = blocks.len() * LANES;
            for (b, out) in blocks.iter_mut().enumerate() {
                *out = self.line.peaks(&pixels, b * LANES).1;
            }
            for (i, out) in rest.iter_mut().enumerate() {
                *out = self.line.peak(&pixels, wide + i).1;
            }
        }
    }
}

/// The gradient of a line of windows that share no pixel: each pixel gets its window's gradient or nothing.
struct Apart<'a, T> {
    line: Line<'a, T>,
    dy: &'a [T],
    /// Whether the image came out of a `Relu` whose gradient is taken too.
    rectified: bool,
    /// The gradient of the whole image; pixels outside of all windows are left as they are.
    dx: &'a mut [T],
}

impl<T: Number> Apart<'_, T> {
    /// What an output's gradient `dy` becomes at the element that it came from, which is `x`.
    #[inline(always)]
    fn share(&self, dy: T, x: T) -> T {
        let d = T::ZERO.plus(dy);
        if self.rectified { d.where_positive(x) } else { d }
    }
}

impl<T: Number> Work for Apart<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let c = self.line.channels;
        let mut pixels = Vec::new();
        for (o, dy) in self.dy.chunks_exact(c).enumerate() {
            self.line.pixels(o, &mut pixels);
            if pixels.is_empty() {
                continue;
            }
            let (blocks, rest) = dy.as_chunks::<LANES>();
            for (b, dy) in blocks.iter().enumerate() {
                let at = b * LANES;
                let (values, places) = self.line.peaks(&pixels, at);
                let shares: [T; LANES] = std::array::from_fn(|i| self.share(dy[i], values[i]));
                for pixel in &pixels {
                    let mut out = [T::ZERO; LANES];
                    for i in 0..LANES {
                        out[i] = if places[i] == *pixel { shares[i] } else { T::ZERO };
                    }
                    self.dx[*pixel as usize * c + at..][..LANES].copy_from_slice(&out);
                }
            }
            let wide = blocks.len() * LANES;
            for (i, dy) in rest.iter().enumerate() {
                let (value, place) = self.line.peak(&pixels, wide + i);
                for pixel in &pixels {
                    let d = if place == *pixel {
                        self.share(*dy, value)
                    } else {
                        T::ZERO
                    };
                    self.dx[*pixel as usize * c + wide + i] = d;
                }
            }
        }
    }
}

/// The gradient of pools whose windows share no pixel ([`Extents::is_apart`]), in one pass; the same as [`places`] and
/// [`scatter`] give, and (`rectified`) [`rectify`] after them.
pub(super) fn spread_back<T: Number>(
    par: &dyn Parallel,
    e: &Extents,
    x: &[T],
    dy: &[T],
    rectified: bool,
    dx: &mut [T],
) {
    let (size, line) = (e.lines_in() * e.line_in(), e.line_out());
    let (per, covered) = (spread::rows_of(size), e.is_covered());
    spread::chunks(par, dx, per * size, |i, dx| {
        if !covered {
            dx.fill(T::ZERO);
        }
        let mut lines = Vec::new();
        for (j, dx) in dx.chunks_mut(size).enumerate() {
            let image = i * per + j;
            for o in 0..e.lines_out() {
                lines.clear();
                lines.extend(e.taken(o));
                T::run(Apart {
                    line: Line {
                        x: &x[image * size..][..size],
                        lines: &lines,
                        axis: e.axes[2],
                        channels: e.channels,
                    },
                    dy: &dy[(image * e.lines_out() + o) * line..][..line],
                    rectified,
                    dx: &mut *dx,
                });
            }
        }
    });
}

/// The gradient of the `Relu` that `x` came out of, in place.
pub(super) fn rectify<T: Number>(par: &dyn Parallel, x: &[T], dx: &mut [T]) {
    spread::chunks(par, dx, spread::GRAIN, |i, dx| {
        for (d, x) in dx.iter_mut().zip(&x[i * spread::GRAIN..]) {
            *d = d.where_positive(*x);
        }
    });
}

/// The first pixels of the windows of a line that equal the outputs.
struct Equal<'a, T> {
    line: Line<'a, T>,
    y: &'a [T],
    out: &'a mut [u32],
}

impl<T: Number> Work for Equal<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let c = self.line.channels;
        let mut pixels = Vec::new();
        for ((o, out), y) in self.out.chunks_exact_mut(c).enumerate().zip(self.y.chunks_exact(c)) {
            out.fill(NONE);
            self.line.pixels(o, &mut pixels);
            for pixel in &pixels {
                for ((o, y), x) in out.iter_mut().zip(y).zip(&self.line.x[*pixel as usize * c..]) {
                    *o = if *o == NONE && *x == *y { *pixel } else { *o };
                }
            }
        }
    }
}

/// For every output the pixel of its image that holds the window's largest element; with `y`, the first that equals
/// the output given there.
pub(super) fn places<T: Number>(par: &dyn Parallel, e: &Extents, x: &[T], y: Option<&[T]>, out: &mut [u32]) {
    let (line, per) = (e.line_out(), chunk(e));
    let image = e.lines_in() * e.line_in();
    spread::chunks(par, out, per * line, |i, out| {
        let mut lines = Vec::new();
        for (j, out) in out.chunks_mut(line).enumerate() {
            let at = i * per + j;
            lines.clear();
            lines.extend(e.taken(at % e.lines_out()));
            let windows = Line {
                x: &x[at / e.lines_out() * image..][..image],
                lines: &lines,
                axis: e.axes[2],
                channels: e.channels,
            };
            match y {
                None => T::run(Places { line: windows, out }),
                Some(y) => T::run(Equal {
                    line: windows,
                    y: &y[at * line..][..line],
                    out,
                }),
            }
        }
    });
}

/// Adds every output's gradient to the pixel that it came from.
///
/// Every stripe of the input looks at the windows that reach into it, in their order.
pub(super) fn scatter<T: Number>(par: &dyn Parallel, e: &Extents, places: &[u32], dy: &[T], dx: &mut [T]) {
    let (line, c) = (e.line_in(), e.channels);
    let per = (GRAIN / line.max(1)).max(1);
    spread::chunks(par, dx, per * line, |i, dx| {
        dx.fill(T::ZERO);
        let stripe = i * per..i * per + dx.len() / line;
        for image in stripe.start / e.lines_in()..stripe.end.div_ceil(e.lines_in()) {
            let base = image * e.lines_in();
            let lines = stripe.start.max(base) - base..(stripe.end - base).min(e.lines_in());
            let first = lines.start * e.axes[2].input;
            let at = (base + lines.start - stripe.start) * line;
            let dx = &mut dx[at..][..lines.len() * line];
            for o in 0..e.lines_out() {
                if !touches(e, o, &lines) {
                    continue;
                }
                let from = (image * e.lines_out() + o) * e.line_out();
                let (places, dy) = (&places[from..][..e.line_out()], &dy[from..][..e.line_out()]);
                for (places, dy) in places.chunks_exact(c).zip(dy.chunks_exact(c)) {
                    for (k, (p, d)) in places.iter().zip(dy).enumerate() {
                        let pixel = (*p as usize).wrapping_sub(first);
                        if let Some(x) = pixel.checked_mul(c).and_then(|p| dx.get_mut(p + k)) {
                            *x = x.plus(*d);
                        }
                    }
                }
            }
        }
    });
}

/// Whether a line of windows can reach into a range of lines.
fn touches(e: &Extents, line: usize, lines: &Range<usize>) -> bool {
    let mut taken = e.taken(line);
    let Some(first) = taken.next() else { return false };
    let last = taken.last().unwrap_or(first);
    first < lines.end && last >= lines.start
}

/// For every output the element of `g`, shaped like the input, at its place; zero where there is none.
pub(super) fn gather<T: Number>(par: &dyn Parallel, e: &Extents, places: &[u32], g: &[T], out: &mut [T]) {
    let (line, c) = (e.line_out(), e.channels);
    let per = spread::rows_of(line);
    let image = e.lines_in() * e.line_in();
    spread::chunks(par, out, per * line, |i, out| {
        for (j, out) in out.chunks_mut(line).enumerate() {
            let at = i * per + j;
            let g = &g[at / e.lines_out() * image..][..image];
            for (k, (o, p)) in out.iter_mut().zip(&places[at * line..]).enumerate() {
                *o = match *p {
                    NONE => T::ZERO,
                    p => g[p as usize * c + k % c],
                };
            }
        }
    });
}

/// Calls `body(image, index of an output, index into the image)` for all outputs of image `image`.
///
/// `indices` are as `MaxPoolWithArgmax` gives them: into the flattened image, or (`batch`) into the whole batch.
fn indexed(e: &Extents, indices: &[i64], batch: bool, image: usize, mut body: impl FnMut(usize, usize)) -> Result<()> {
    let (size, per) = (e.lines_in() * e.line_in(), e.lines_out() * e.line_out());
    let base = if batch { (image * size) as i64 } else { 0 };
    for (i, index) in indices[image * per..][..per].iter().enumerate() {
        match usize::try_from(index.wrapping_sub(base)).ok().filter(|at| *at < size) {
            Some(at) => body(image * per + i, at),
            None => {
                return Err(Error::invalid(format!(
                    "argmax holds {index} for image {image}, which is outside of it: images have {size} elements"
                )));
            }
        }
    }
    Ok(())
}

/// Adds every output's gradient to the element that `indices` names.
///
/// # Errors
/// `INVALID_ARGUMENT` for an index outside of its image.
pub(super) fn scatter_at<T: Number>(
    par: &dyn Parallel,
    e: &Extents,
    (indices, batch): (&[i64], bool),
    dy: &[T],
    dx: &mut [T],
) -> Result<()> {
    let failure = Failure::default();
    spread::chunks(par, dx, e.lines_in() * e.line_in(), |image, dx| {
        dx.fill(T::ZERO);
        failure.note(indexed(e, indices, batch, image, |i, at| dx[at] = dx[at].plus(dy[i])));
    });
    failure.result()
}

/// For every output the element of `g`, shaped like the input, that `indices` names.
///
/// # Errors
/// `INVALID_ARGUMENT` for an index outside of its image.
pub(super) fn gather_at<T: Number>(
    par: &dyn Parallel,
    e: &Extents,
    (indices, batch): (&[i64], bool),
    g: &[T],
    out: &mut [T],
) -> Result<()> {
    let (size, per) = (e.lines_in() * e.line_in(), e.lines_out() * e.line_out());
    let failure = Failure::default();
    spread::chunks(par, out, per, |image, out| {
        let g = &g[image * size..][..size];
        failure.note(indexed(e, indices, batch, image, |i, at| out[i - image * per] = g[at]));
    });
    failure.result()
}

/// The largest of every `depth` channels.
pub(super) fn largest_of_channels<T: Number>(par: &dyn Parallel, x: &[T], depth: usize, out: &mut [T]) {
    let per = (spread::GRAIN / depth).max(1);
    spread::chunks(par, out, per, |i, out| {
        for (o, x) in out.iter_mut().zip(x[i * per * depth..].chunks_exact(depth)) {
            *o = x.iter().fold(T::LEAST, |a, x| if *x > a { *x } else { a });
        }
    });
}

#[cfg(test)]
mod tests {
    use actorflow_core::parallel::Serial;

    use super::*;

    /// The axis of windows that fit, as VALID gives it, or with a border of one as padding.
    fn axis(input: usize, window: usize, stride: usize, before: usize) -> Axis {
        Axis {
            input,
            window,
            stride,
            before,
            dilation: 1,
            output: (input + before - window.min(input + before)) / stride + 1,
        }
    }

    #[test]
    fn gradients_of_windows_that_share_no_pixel_are_the_same_in_one_pass() {
        for (height, width, window, stride, before) in [
            (4, 6, 2, 2, 0),
            (5, 7, 2, 2, 0),
            (5, 7, 2, 2, 1),
            (7, 5, 2, 3, 0),
            (6, 6, 3, 4, 1),
        ] {
            for channels in [1, 16, 19] {
                let e = Extents {
                    batch: 3,
                    axes: [
                        axis(1, 1, 1, 0),
                        axis(height, window, stride, before),
                        axis(width, window, stride, before),
                    ],
                    channels,
                };
                assert!(e.is_apart());
                let n = e.batch * e.lines_in() * e.line_in();
                // Few different values, so that windows have equals, and a NaN.
                let mut x: Vec<f32> = (0..n).map(|i| ((i * 7919) % 5) as f32).collect();
                x[n / 2] = f32::NAN;
                let dy: Vec<f32> = (0..e.batch * e.lines_out() * e.line_out())
                    .map(|i| i as f32 - 3.0)
                    .collect();
                let mut at = vec![0u32; dy.len()];
                places(&Serial, &e, &x, None, &mut at);
                for rectified in [false, true] {
                    let (mut two, mut one) = (vec![9f32; n], vec![9f32; n]);
                    scatter(&Serial, &e, &at, &dy, &mut two);
                    if rectified {
                        rectify(&Serial, &x, &mut two);
                    }
                    spread_back(&Serial, &e, &x, &dy, rectified, &mut one);
                    let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                    assert_eq!(bits(one), bits(two), "{e:?}");
                }
            }
        }
    }
}
