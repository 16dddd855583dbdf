//! Patches of images as the rows of a matrix: what each output sees, ready for a matrix product.
#![forbid(unsafe_code)]

use std::ops::Range;

use actorflow_core::dtype::Element;

use super::super::window::Axis;

/// How the outputs `first`, `first + every`, … along one axis see the source: tap `i` of the `t`-th of them reads
/// `t * step + offset`, which may lie outside of the source, where zeros are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) first: usize,
    pub(super) every: usize,
    /// Outputs of this view.
    pub(super) count: usize,
    pub(super) step: usize,
    /// Index in the filter and offset, offsets ascending.
    pub(super) taps: Vec<(usize, isize)>,
    /// Extent of the source.
    pub(super) source: usize,
}

impl View {
    /// How a convolution's outputs see its input.
    pub(super) fn forward(a: &Axis) -> View {
        let offset = |k: usize| (k * a.dilation) as isize - a.before as isize;
        View {
            first: 0,
            every: 1,
            count: a.output,
            step: a.stride,
            taps: (0..a.window).map(|k| (k, offset(k))).collect(),
            source: a.input,
        }
    }

    /// How the gradient of a convolution's input sees that of the output. Inputs whose distances are multiples of the
    /// stride are seen by the same taps, so they make a view each; those that no tap sees are left out.
    pub(super) fn backward(a: &Axis) -> Vec<View> {
        let s = a.stride as isize;
        let mut views: Vec<View> = Vec::new();
        for k in (0..a.window).rev() {
            // Input `i` is tap `k` of output `(i + before - k * dilation) / stride` where that divides evenly.
            let shift = a.before as isize - (k * a.dilation) as isize;
            let first = (-shift).rem_euclid(s) as usize;
            if first >= a.input {
                continue;
            }
            let tap = (k, (first as isize + shift) / s);
            match views.iter_mut().find(|v| v.first == first) {
                Some(v) => v.taps.push(tap),
                None => views.push(View {
                    first,
                    every: a.stride,
                    count: (a.input - first).div_ceil(a.stride),
                    step: 1,
                    taps: vec![tap],
                    source: a.output,
                }),
            }
        }
        views
    }

    /// Which of this view's outputs lie in `all`.
    fn within(&self, all: &Range<usize>) -> Range<usize> {
        let index = |o: usize| o.saturating_sub(self.first).div_ceil(self.every).min(self.count);
        index(all.start)..index(all.end)
    }
}

/// Taps with consecutive offsets.
#[derive(Clone, Debug)]
struct Run {
    offset: isize,
    taps: usize,
    /// Taps before this run.
    before: usize,
}

/// Copies what the outputs of a line see of one line of the source.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    runs: Vec<Run>,
    step: usize,
    count: usize,
    source: usize,
    /// Channels of the source.
    channels: usize,
    /// Of which these are taken.
    taken: Range<usize>,
}

impl Lines {
    pub(super) fn new(x: &View, channels: usize, taken: Range<usize>) -> Lines {
        let mut runs: Vec<Run> = Vec::new();
        let whole = taken.len() == channels;
        for (i, &(_, offset)) in x.taps.iter().enumerate() {
            match runs.last_mut() {
                Some(r) if whole && r.offset + r.taps as isize == offset => r.taps += 1,
                _ => runs.push(Run {
                    offset,
                    taps: 1,
                    before: i,
                }),
            }
        }
        Lines {
            runs,
            step: x.step,
            count: x.count,
            source: x.source,
            channels,
            taken,
        }
    }

    /// Elements that one output sees.
    fn width(&self) -> usize {
        self.runs.iter().map(|r| r.taps).sum::<usize>() * self.taken.len()
    }

    /// Writes what output `x` of the line sees of `line` (nothing but zeros, if there is none) from `out[x * stride]` on.
    fn write<T: Element>(&self, line: Option<&[T]>, out: &mut [T], stride: usize) {
        let Some(line) = line else {
            let width = self.width();
            for row in out.chunks_mut(stride).take(self.count) {
                row[..width].fill(T::default());
            }
            return;
        };
        for r in &self.runs {
            self.write_run(r, line, out, stride);
        }
    }

    fn write_run<T: Element>(&self, r: &Run, line: &[T], out: &mut [T], stride: usize) {
        let (take, step) = (self.taken.len(), self.step as isize);
        let (len, at) = (r.taps * take, r.before * take);
        // Outputs `lo..hi` see nothing but the source.
        let last = self.source as isize - r.taps as isize - r.offset;
        let hi = if last < 0 {
            0
        } else {
            (last / step + 1).min(self.count as isize)
        } as usize;
        let lo = ((-r.offset).max(0).div_euclid(step) + isize::from((-r.offset).max(0) % step != 0)) as usize;
        let lo = lo.min(hi);
        for x in (0..lo).chain(hi..self.count) {
            let from = x as isize * step + r.offset;
            let begin = (-from).clamp(0, r.taps as isize) as usize;
            let end = (self.source as isize - from).clamp(begin as isize, r.taps as isize) as usize;
            let row = &mut out[x * stride + at..][..len];
            row[..begin * take].fill(T::default());
            row[end * take..].fill(T::default());
            for t in begin..end {
                let s = (from + t as isize) as usize * self.channels + self.taken.start;
                row[t * take..(t + 1) * take].copy_from_slice(&line[s..s + take]);
            }
        }
        if lo == hi {
            return;
        }
        let from = (lo as isize * step + r.offset) as usize * self.channels + self.taken.start;
        let (source, out) = (&line[from..], &mut out[lo * stride + at..]);
        let (n, step) = (hi - lo, self.step * self.channels);
        match len {
            1 => copies::<T, 1>(source, step, out, stride, n),
            2 => copies::<T, 2>(source, step, out, stride, n),
            3 => copies::<T, 3>(source, step, out, stride, n),
            4 => copies::<T, 4>(source, step, out, stride, n),
            5 => copies::<T, 5>(source, step, out, stride, n),
            7 => copies::<T, 7>(source, step, out, stride, n),
            9 => copies::<T, 9>(source, step, out, stride, n),
            16 => copies::<T, 16>(source, step, out, stride, n),
            32 => copies::<T, 32>(source, step, out, stride, n),
            _ => {
                for i in 0..n {
                    out[i * stride..][..len].copy_from_slice(&source[i * step..][..len]);
                }
            }
        }
    }
}

/// `n` copies of `N` elements, from every `step`-th to every `stride`-th.
#[inline]
fn copies<T: Element, const N: usize>(source: &[T], step: usize, out: &mut [T], stride: usize, n: usize) {
    for i in 0..n {
        if let (Some(s), Some(o)) = (
            source.get(i * step..).and_then(|s| s.first_chunk::<N>()),
            out.get_mut(i * stride..).and_then(|o| o.first_chunk_mut::<N>()),
        ) {
            *o = *s;
        }
    }
}

/// Lines of the output that follow each other in one plane: outputs `y` of a view in plane `z` of image `image`.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    pub(super) image: usize,
    pub(super) z: usize,
    pub(super) y: Range<usize>,
    /// The line of the output that `y.start` is, all images and planes counted; others follow at the view's distance.
    pub(super) line: usize,
}

/// The source of patches and how outputs see it.
#[derive(Clone, Debug)]
pub(super) struct Patches {
    pub(super) views: [View; 3],
    lines: Lines,
    /// Extents of the whole output along z and y.
    planes: [usize; 2],
}

impl Patches {
    /// Of a source with `channels` channels of which `taken` are seen; the output has `planes` planes and lines.
    pub(super) fn new(views: [View; 3], planes: [usize; 2], channels: usize, taken: Range<usize>) -> Patches {
        Patches {
            lines: Lines::new(&views[2], channels, taken),
            views,
            planes,
        }
    }

    /// Elements of a patch.
    pub(super) fn width(&self) -> usize {
        self.rows() * self.lines.width()
    }

    /// Elements of a patch that lie in one line of the source.
    pub(super) fn line_width(&self) -> usize {
        self.lines.width()
    }

    /// Lines of the source that a patch reaches into.
    pub(super) fn rows(&self) -> usize {
        self.views[0].taps.len() * self.views[1].taps.len()
    }

    /// Outputs in a line.
    pub(super) fn across(&self) -> usize {
        self.views[2].count
    }

    /// The strips of this view among lines `all` of the output.
    pub(super) fn strips(&self, all: Range<usize>) -> Vec<Strip> {
        let ([z, y, _], [planes, lines]) = (&self.views, self.planes);
        let mut strips = Vec::new();
        if planes == 0 || lines == 0 {
            return strips;
        }
        for plane in all.start / lines..all.end.div_ceil(lines) {
            let (image, oz) = (plane / planes, plane % planes);
            let base = plane * lines;
            let ys = y.within(&(all.start.max(base) - base..(all.end - base).min(lines)));
            if !ys.is_empty() && oz >= z.first && (oz - z.first).is_multiple_of(z.every) {
                strips.push(Strip {
                    image,
                    z: (oz - z.first) / z.every,
                    line: base + y.first + ys.start * y.every,
                    y: ys,
                });
            }
        }
        strips
    }

    /// Line (`z`, `y`) of image `image`, if it lies inside.
    fn source_line<'a, T>(&self, source: &'a [T], image: usize, z: isize, y: isize) -> Option<&'a [T]> {
        let [nz, ny, nx] = [0, 1, 2].map(|i| self.views[i].source);
        let (z, y) = (usize::try_from(z).ok()?, usize::try_from(y).ok()?);
        if z >= nz || y >= ny {
            return None;
        }
        let len = nx * self.lines.channels;
        source.get(((image * nz + z) * ny + y) * len..)?.get(..len)
    }

    /// Writes whole patches, one after the other, for the outputs of a strip; of each only the lines `rows` that it
    /// reaches into.
    pub(super) fn write<T: Element>(&self, source: &[T], strip: &Strip, rows: Range<usize>, out: &mut [T]) {
        let [vz, vy, _] = &self.views;
        let line = self.lines.width();
        let stride = rows.len() * line;
        for (i, y) in strip.y.clone().enumerate() {
            let out = &mut out[i * self.across() * stride..];
            for (j, row) in rows.clone().enumerate() {
                let (kz, ky) = (row / vy.taps.len(), row % vy.taps.len());
                let z = (strip.z * vz.step) as isize + vz.taps[kz].1;
                let y = (y * vy.step) as isize + vy.taps[ky].1;
                let from = self.source_line(source, strip.image, z, y);
                self.lines.write(from, &mut out[j * line..], stride);
            }
        }
    }

    /// The band of a strip: every line of the source that the strip's patches reach into in one plane, written once
    /// (see [`Band`]).
    pub(super) fn band(&self, y: &Range<usize>) -> Band {
        let v = &self.views[1];
        let step = v.step as isize;
        let mut classes: Vec<Class> = Vec::new();
        for &(_, offset) in &v.taps {
            let (class, q) = (offset.rem_euclid(step), offset.div_euclid(step));
            let (lo, hi) = (y.start as isize + q, y.end as isize + q);
            match classes.iter_mut().find(|c| c.class == class) {
                Some(c) => (c.lo, c.hi) = (c.lo.min(lo), c.hi.max(hi)),
                None => classes.push(Class { class, lo, hi, at: 0 }),
            }
        }
        let mut lines = 0;
        for c in &mut classes {
            c.at = lines;
            lines += (c.hi - c.lo) as usize;
        }
        Band { classes, lines }
    }

    /// Writes the band of a strip for tap `kz`; false if that lies outside of the source altogether.
    pub(super) fn write_band<T: Element>(
        &self,
        source: &[T],
        strip: &Strip,
        band: &Band,
        kz: usize,
        out: &mut [T],
    ) -> bool {
        let (vz, vy) = (&self.views[0], &self.views[1]);
        let z = (strip.z * vz.step) as isize + vz.taps[kz].1;
        if z < 0 || z >= vz.source as isize {
            return false;
        }
        let width = self.lines.width();
        let len = self.across() * width;
        for c in &band.classes {
            for (i, j) in (c.lo..c.hi).enumerate() {
                let line = self.source_line(source, strip.image, z, j * vy.step as isize + c.class);
                self.lines.write(line, &mut out[(c.at + i) * len..], width);
            }
        }
        true
    }

    /// The line of the band at which the patches' part for tap `ky` begins.
    pub(super) fn band_line(&self, strip: &Strip, band: &Band, ky: usize) -> usize {
        let v = &self.views[1];
        let (offset, step) = (v.taps[ky].1, v.step as isize);
        let class = offset.rem_euclid(step);
        let at = strip.y.start as isize + offset.div_euclid(step);
        band.classes
            .iter()
            .find(|c| c.class == class)
            .map_or(0, |c| c.at + (at - c.lo) as usize)
    }
}

/// Lines `lo * step + class` up to `hi * step + class`, which begin at line `at` of a band.
#[derive(Clone, Debug)]
struct Class {
    class: isize,
    lo: isize,
    hi: isize,
    at: usize,
}

/// Where the lines of the source are in a band.
///
/// Each line holds what the outputs of a line see of it, so that the part of a strip's patches that belongs to one tap
/// along y is a matrix whose rows follow each other: lines at the distance of the stride are neighbours.
#[derive(Clone, Debug)]
pub(super) struct Band {
    classes: Vec<Class>,
    /// Lines altogether.
    pub(super) lines: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(input: usize, window: usize, stride: usize, dilation: usize, before: usize, output: usize) -> Axis {
        Axis {
            input,
            window,
            stride,
            dilation,
            before,
            output,
        }
    }

    #[test]
    fn views_backward_are_views_forward_turned_around() {
        for (stride, dilation, before, window) in [(1, 1, 1, 3), (2, 1, 0, 3), (3, 2, 2, 4), (4, 1, 0, 2), (2, 3, 1, 1)]
        {
            let reach = (window - 1) * dilation + 1;
            let input = 11;
            let a = axis(
                input,
                window,
                stride,
                dilation,
                before,
                (input + 2 * before - reach) / stride + 1,
            );
            let mut forward = Vec::new();
            let v = View::forward(&a);
            for o in 0..v.count {
                for (k, off) in &v.taps {
                    let i = (o * v.step) as isize + off;
                    if (0..input as isize).contains(&i) {
                        forward.push((i as usize, *k, o));
                    }
                }
            }
            let mut backward = Vec::new();
            for v in View::backward(&a) {
                assert!(v.taps.is_sorted_by_key(|t| t.1));
                for t in 0..v.count {
                    for (k, off) in &v.taps {
                        let o = t as isize + off;
                        if (0..a.output as isize).contains(&o) {
                            backward.push((v.first + t * v.every, *k, o as usize));
                        }
                    }
                }
            }
            forward.sort_unstable();
            backward.sort_unstable();
            assert_eq!(forward, backward);
        }
    }

    fn naive(p: &Patches, source: &[f32], s: &Strip, channels: usize, taken: Range<usize>) -> Vec<f32> {
        let mut out = Vec::new();
        let [nz, ny, nx] = [0, 1, 2].map(|i| p.views[i].source as isize);
        for y in s.y.clone() {
            for x in 0..p.across() {
                for (_, kz) in &p.views[0].taps {
                    for (_, ky) in &p.views[1].taps {
                        for (_, kx) in &p.views[2].taps {
                            for c in taken.clone() {
                                let z = (s.z * p.views[0].step) as isize + kz;
                                let y = (y * p.views[1].step) as isize + ky;
                                let x = (x * p.views[2].step) as isize + kx;
                                let inside = (0..nz).contains(&z) && (0..ny).contains(&y) && (0..nx).contains(&x);
                                let at = ((s.image as isize * nz + z) * ny + y) * nx + x;
                                out.push(if inside {
                                    source[at as usize * channels + c]
                                } else {
                                    0.0
                                });
                            }
                        }
                    }
                }
            }
        }
        out
    }

    #[test]
    fn patches_and_bands_hold_what_outputs_see() {
        for (channels, taken) in [(1, 0..1), (3, 0..3), (4, 2..4)] {
            for (stride, dilation, before) in [(1, 1, 1), (2, 1, 0), (3, 2, 3), (2, 2, 1)] {
                let (input, window) = (9, 3);
                let output = (input + 2 * before - (window - 1) * dilation - 1) / stride + 1;
                let y = axis(input, window, stride, dilation, before, output);
                let z = axis(3, 2, 1, 1, 1, 4);
                let views = [View::forward(&z), View::forward(&y), View::forward(&y)];
                let p = Patches::new(views, [4, output], channels, taken.clone());
                let source: Vec<f32> = (0..2 * 3 * 81 * channels).map(|i| 1.0 + i as f32).collect();
                for s in p.strips(1..output * 8 - 1) {
                    let want = naive(&p, &source, &s, channels, taken.clone());
                    let mut got = vec![f32::NAN; want.len()];
                    p.write(&source, &s, 0..p.rows(), &mut got);
                    assert_eq!(got, want);
                    let band = p.band(&s.y);
                    let line = p.across() * p.line_width();
                    let mut held = vec![f32::NAN; band.lines * line];
                    for kz in 0..2 {
                        if !p.write_band(&source, &s, &band, kz, &mut held) {
                            continue;
                        }
                        for ky in 0..window {
                            let from = p.band_line(&s, &band, ky) * line;
                            let rows = held[from..][..s.y.len() * line].chunks(p.line_width());
                            let part = kz * window + ky;
                            for (row, want) in rows.zip(want.chunks(p.width())) {
                                assert_eq!(row, &want[part * p.line_width()..][..p.line_width()]);
                            }
                        }
                    }
                }
            }
        }
    }
}
