//! Convolutions as products of patches and weights, a tile of lines at a time.
//!
//! The forward convolution multiplies patches of the input with the filter. The gradient with respect to the input is
//! one too: patches of the output's gradient with the filter turned around, separately for each remainder of the
//! input's index modulo the stride. So nothing is ever scattered, and no two tiles write the same element.
//!
//! Where there are images enough, [`direct`] reads them in place instead; where there is much to multiply, [`winograd`](super::winograd)
//! multiplies less. Every output is one chain of multiply-adds in
//! an order that the extents alone decide.
#![forbid(unsafe_code)]

use std::ops::Range;

use actorflow_core::error::Result;
use actorflow_core::kernel::Device;
use actorflow_core::parallel::Serial;

use super::direct;
use super::geometry::Geometry;
use super::number::{Failure, Number, refused, room, writable};
use super::patches::{Patches, Strip, View};
use super::winograd::Tiled;
use crate::gemm::{Epilogue, Mat, MatMut, gemm};
use crate::spread;

/// Bytes of patches that are built at a time: they should stay in a core's second-level cache.
const ROOM: usize = 384 << 10;

/// Multiply-adds that are worth handing to another worker.
const GRAIN: usize = 1 << 19;

/// Elements of a line's part of a patch from which it pays to multiply the parts one by one (and write each line only
/// once) instead of writing whole patches.
const BROAD: usize = 64;

/// The outputs of some views, and the weights of the taps that they see: a matrix with a row for each tap and channel
/// of the source that a group sees, a column for each channel of the output.
pub(super) struct Part<'a, T> {
    pub(super) views: [View; 3],
    pub(super) weights: &'a [T],
}

/// A convolution to be computed.
pub(super) struct Convolution<'a, T> {
    /// `[batch, z, y, x, channels]`
    pub(super) source: &'a [T],
    pub(super) channels: usize,
    pub(super) groups: usize,
    /// Extents of the output: images, z, y, x, channels.
    pub(super) output: [usize; 5],
    pub(super) parts: Vec<Part<'a, T>>,
    /// Applied to every output; only where a single part covers all.
    pub(super) epilogue: Epilogue<'a, T>,
}

/// One part, with its patches for each group.
struct Piece<'a, T> {
    weights: &'a [T],
    patches: Vec<Patches>,
    /// Whether the parts of patches in single lines are multiplied one by one.
    banded: bool,
    /// Whether it covers the whole output.
    whole: bool,
}

impl<T: Number> Convolution<'_, T> {
    fn lines(&self) -> usize {
        self.output[..3].iter().product()
    }

    /// Whether the parts write every output.
    pub(super) fn is_covered(&self) -> bool {
        let outputs = |p: &Part<'_, T>| p.views.iter().map(|v| v.count).product::<usize>();
        self.parts.iter().map(outputs).sum::<usize>() >= self.output[1..4].iter().product()
    }

    /// Computes all outputs.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is no room for the patches.
    pub(super) fn run(&self, device: &dyn Device, out: &mut [T]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if let Some(fast) = self.tiled().and_then(Tiled::if_worth_it)
            && let Some(done) = self.run_tiled(device, &fast, out)
        {
            return done;
        }
        if let Some(per) = direct::images(self, device.parallel().threads()) {
            return self.directly(device, per, out);
        }
        let [_, oz, oy, ox, channels] = self.output;
        let take = self.channels / self.groups;
        let pieces: Vec<Piece<'_, T>> = self
            .parts
            .iter()
            .map(|p| {
                let patches: Vec<Patches> = (0..self.groups)
                    .map(|g| Patches::new(p.views.clone(), [oz, oy], self.channels, g * take..(g + 1) * take))
                    .collect();
                let plane = p.views[1].count * p.views[2].count;
                let one = &patches[0];
                Piece {
                    weights: p.weights,
                    banded: one.rows() > 1 && one.line_width() >= BROAD && plane >= 48,
                    whole: p.views.iter().all(|v| v.every == 1 && v.first == 0),
                    patches,
                }
            })
            .collect();
        let zeros = !self.is_covered();
        let per = self.tile(device, &pieces);
        let failure = Failure::default();
        spread::chunks(device.parallel(), out, per * ox * channels, |i, out| {
            if zeros {
                out.fill(T::ZERO);
            }
            let lines = i * per..(i + 1).saturating_mul(per).min(self.lines());
            for p in &pieces {
                failure.note(self.piece(device, p, lines.clone(), out));
            }
        });
        failure.result()
    }

    /// Itself by minimal filtering, if that can be.
    fn tiled(&self) -> Option<Tiled> {
        let ([p], 1) = (&self.parts[..], self.groups) else {
            return None;
        };
        Tiled::of(self.output[0], p.views.each_ref(), self.channels, self.output[4])
    }

    fn run_tiled(&self, device: &dyn Device, fast: &Tiled, out: &mut [T]) -> Option<Result<()>> {
        let (source, weights) = (T::as_f32(self.source)?, T::as_f32(self.parts[0].weights)?);
        let epilogue = Epilogue {
            bias: match self.epilogue.bias {
                Some(b) => Some(T::as_f32(b)?),
                None => None,
            },
            relu: self.epilogue.relu,
        };
        Some(fast.run(device, source, weights, epilogue, T::as_f32_mut(out)?))
    }

    /// Lines to a tile.
    fn tile(&self, device: &dyn Device, pieces: &[Piece<'_, T>]) -> usize {
        let (lines, oy) = (self.lines(), self.output[2]);
        let mut fits = lines;
        let mut work = 0usize;
        for p in pieces {
            let one = &p.patches[0];
            let [_, y, x] = &one.views;
            let per_line = if p.banded {
                let len = x.count * one.line_width() * size_of::<T>();
                let halo = y.taps.len().saturating_sub(1);
                (ROOM / len.max(1)).saturating_sub(halo).max(halo).max(1) * y.every
            } else {
                (ROOM / (x.count * one.width() * size_of::<T>()).max(1)) * y.every
            };
            fits = fits.min(per_line.max(1));
            let outputs = one.views.iter().map(|v| v.count).product::<usize>();
            work = work.saturating_add(outputs.saturating_mul(one.width()));
        }
        let work = (work as f64) * self.output[0] as f64 * self.output[4] as f64;
        let enough = (GRAIN as f64 * lines as f64 / work.max(1.0)).ceil() as usize;
        let even = match device.parallel().threads() {
            0 | 1 => lines,
            n => lines.div_ceil(4 * n),
        };
        let per = fits.min(even.max(enough)).clamp(1, lines);
        if per >= oy {
            per - per % oy
        } else {
            oy.div_ceil(oy.div_ceil(per))
        }
    }

    /// Computes the outputs of one part in some lines, `out`.
    fn piece(&self, device: &dyn Device, p: &Piece<'_, T>, lines: Range<usize>, out: &mut [T]) -> Result<()> {
        let line = self.output[3] * self.output[4];
        let strips = p.patches[0].strips(lines.clone());
        let across = p.patches[0].across();
        let rows: usize = strips.iter().map(|s| s.y.len() * across).sum();
        if rows == 0 || p.patches[0].width() == 0 {
            return Ok(());
        }
        let mut aside = match p.whole {
            true => None,
            false => Some(room::<T>(device, [rows * self.output[4]])?),
        };
        let product: &mut [T] = match &mut aside {
            Some(t) => writable(t)?,
            None => &mut *out,
        };
        for (g, patches) in p.patches.iter().enumerate() {
            if p.banded {
                let mut at = 0;
                for s in &strips {
                    let rows = s.y.len() * across;
                    self.band(
                        device,
                        p.weights,
                        patches,
                        (g, s),
                        &mut product[at..][..rows * self.output[4]],
                    )?;
                    at += rows * self.output[4];
                }
            } else {
                self.full(device, p.weights, patches, (g, &strips), rows, product)?;
            }
        }
        let [_, vy, vx] = &p.patches[0].views;
        if let Some(t) = &aside {
            let channels = self.output[4];
            let mut from = t.as_slice::<T>()?.chunks_exact(channels);
            for s in &strips {
                for i in 0..s.y.len() {
                    let to = &mut out[(s.line + i * vy.every - lines.start) * line..][..line];
                    let to = to[vx.first * channels..].chunks_mut(channels).step_by(vx.every);
                    for (to, from) in to.zip(from.by_ref().take(across)) {
                        to.copy_from_slice(from);
                    }
                }
            }
        }
        Ok(())
    }

    /// The weights of rows `from..from + rows` for group `g`.
    fn weights<'w>(&self, weights: &'w [T], g: usize, from: usize, rows: usize) -> Result<Mat<'w, T>> {
        let (all, own) = (self.output[4], self.output[4] / self.groups);
        Mat::new(weights.get(from * all + g * own..).unwrap_or(&[]), rows, own, all, 1).map_err(refused)
    }

    /// What happens to the outputs of group `g`, once they are all added up.
    pub(super) fn epilogue(&self, g: usize, last: bool) -> Epilogue<'_, T> {
        let own = self.output[4] / self.groups;
        match last {
            true => Epilogue {
                bias: self.epilogue.bias.and_then(|b| b.get(g * own..(g + 1) * own)),
                relu: self.epilogue.relu,
            },
            false => Epilogue::NONE,
        }
    }

    /// Writes whole patches of all strips and multiplies them at once.
    fn full(
        &self,
        device: &dyn Device,
        weights: &[T],
        patches: &Patches,
        (g, strips): (usize, &[Strip]),
        rows: usize,
        product: &mut [T],
    ) -> Result<()> {
        let width = patches.width();
        let mut matrix = room::<T>(device, [rows * width])?;
        let a = writable::<T>(&mut matrix)?;
        let mut at = 0;
        for s in strips {
            patches.write(self.source, s, 0..patches.rows(), &mut a[at..]);
            at += s.y.len() * patches.across() * width;
        }
        let b = self.weights(weights, g, 0, width)?;
        self.multiply(
            Mat::dense(a, rows, width).map_err(refused)?,
            b,
            (g, T::ZERO, true),
            product,
        )
    }

    /// Writes the band of a strip and multiplies the patches' parts for each tap along y.
    fn band(
        &self,
        device: &dyn Device,
        weights: &[T],
        patches: &Patches,
        (g, strip): (usize, &Strip),
        product: &mut [T],
    ) -> Result<()> {
        let (width, across) = (patches.line_width(), patches.across());
        let band = patches.band(&strip.y);
        let mut held = room::<T>(device, [band.lines * across * width])?;
        let held = writable::<T>(&mut held)?;
        let [z, y, _] = &patches.views;
        let rows = strip.y.len() * across;
        let inside = |kz: usize| {
            let at = (strip.z * z.step) as isize + z.taps[kz].1;
            at >= 0 && at < z.source as isize
        };
        let Some(last) = (0..z.taps.len()).rev().find(|kz| inside(*kz)) else {
            // Patches of nothing but padding.
            let none = self.weights(weights, g, 0, 0)?;
            return self.multiply(
                Mat::dense(&[], rows, 0).map_err(refused)?,
                none,
                (g, T::ZERO, true),
                product,
            );
        };
        let mut beta = T::ZERO;
        for kz in 0..=last {
            if !patches.write_band(self.source, strip, &band, kz, held) {
                continue;
            }
            for ky in 0..y.taps.len() {
                let from = patches.band_line(strip, &band, ky) * across * width;
                let a = Mat::dense(&held[from..], rows, width).map_err(refused)?;
                let b = self.weights(weights, g, (kz * y.taps.len() + ky) * width, width)?;
                let end = kz == last && ky + 1 == y.taps.len();
                self.multiply(a, b, (g, beta, end), product)?;
                beta = T::ONE;
            }
        }
        Ok(())
    }

    fn multiply(
        &self,
        a: Mat<'_, T>,
        b: Mat<'_, T>,
        (g, beta, last): (usize, T, bool),
        product: &mut [T],
    ) -> Result<()> {
        let (all, own) = (self.output[4], self.output[4] / self.groups);
        let rows = product.len() / all;
        let c = MatMut::new(&mut product[g * own..], rows, own, all).map_err(refused)?;
        gemm(&Serial, T::ONE, a, b, beta, c, self.epilogue(g, last)).map_err(refused)
    }
}

/// The convolution of `x` with `filter`: `[batch, z, y, x, in_channels]` with `[z, y, x, filter_channels,
/// out_channels]`.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no room for the patches.
pub(super) fn forward<T: Number>(
    device: &dyn Device,
    g: &Geometry,
    x: &[T],
    filter: &[T],
    epilogue: Epilogue<'_, T>,
    y: &mut [T],
) -> Result<()> {
    if y.is_empty() {
        return Ok(());
    }
    if g.is_pointwise() {
        let a = Mat::dense(x, g.pixels(), g.in_channels).map_err(refused)?;
        let b = Mat::dense(filter, g.in_channels, g.out_channels).map_err(refused)?;
        let c = MatMut::dense(y, g.pixels(), g.out_channels).map_err(refused)?;
        return gemm(device.parallel(), T::ONE, a, b, T::ZERO, c, epilogue).map_err(refused);
    }
    let [z, yy, xx] = g.axes.map(|a| a.output);
    let views = [0, 1, 2].map(|i| View::forward(&g.axes[i]));
    Convolution {
        source: x,
        channels: g.in_channels,
        groups: g.groups,
        output: [g.batch, z, yy, xx, g.out_channels],
        parts: vec![Part { views, weights: filter }],
        epilogue,
    }
    .run(device, y)
}

/// The gradient with respect to the input, from that of the output.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no room for the patches.
pub(super) fn backward<T: Number>(
    device: &dyn Device,
    g: &Geometry,
    dy: &[T],
    filter: &[T],
    dx: &mut [T],
) -> Result<()> {
    if dx.is_empty() {
        return Ok(());
    }
    if dy.is_empty() || filter.is_empty() {
        dx.fill(T::ZERO);
        return Ok(());
    }
    if g.is_pointwise() {
        let a = Mat::dense(dy, g.pixels(), g.out_channels).map_err(refused)?;
        let b = Mat::dense(filter, g.in_channels, g.out_channels).map_err(refused)?.t();
        let c = MatMut::dense(dx, g.pixels(), g.in_channels).map_err(refused)?;
        return gemm(device.parallel(), T::ONE, a, b, T::ZERO, c, Epilogue::NONE).map_err(refused);
    }
    let [z, y, x] = [0, 1, 2].map(|i| View::backward(&g.axes[i]));
    let mut taps = Vec::new();
    let mut parts = Vec::new();
    for z in &z {
        for y in &y {
            for x in &x {
                let first = taps.len();
                for (kz, _) in &z.taps {
                    for (ky, _) in &y.taps {
                        for (kx, _) in &x.taps {
                            taps.push((kz * g.axes[1].window + ky) * g.axes[2].window + kx);
                        }
                    }
                }
                parts.push(([z.clone(), y.clone(), x.clone()], first));
            }
        }
    }
    let tap = g.group_out() * g.in_channels;
    let mut turned = room::<T>(device, [taps.len() * tap])?;
    turn(device, g, filter, &taps, writable(&mut turned)?);
    let turned = turned.as_slice::<T>()?;
    let [iz, iy, ix] = g.axes.map(|a| a.input);
    Convolution {
        source: dy,
        channels: g.out_channels,
        groups: g.groups,
        output: [g.batch, iz, iy, ix, g.in_channels],
        parts: parts
            .into_iter()
            .map(|(views, first)| Part {
                views,
                weights: &turned[first * tap..],
            })
            .collect(),
        epilogue: Epilogue::NONE,
    }
    .run(device, dx)
}

/// The filter's taps in another order, each transposed: a row for each output channel of a group, a column for each
/// input channel, groups side by side.
fn turn<T: Number>(device: &dyn Device, g: &Geometry, filter: &[T], taps: &[usize], out: &mut [T]) {
    let (rows, columns) = (g.group_out(), g.filter_channels);
    let tap = rows * g.in_channels;
    let per = spread::rows_of(tap);
    spread::chunks(device.parallel(), out, per * tap, |i, out| {
        for (out, k) in out.chunks_mut(tap).zip(&taps[i * per..]) {
            let from = &filter[k * columns * g.out_channels..];
            for group in 0..g.groups {
                for c0 in (0..columns).step_by(16) {
                    for o in 0..rows {
                        let to = &mut out[o * g.in_channels + group * columns..][..columns];
                        for (c, to) in to.iter_mut().enumerate().skip(c0).take(16) {
                            *to = from[c * g.out_channels + group * rows + o];
                        }
                    }
                }
            }
        }
    });
}
