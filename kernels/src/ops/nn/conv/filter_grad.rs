//! The gradient of a convolution with respect to its filter: patches of the input, transposed, times the gradient of
//! the output.
//!
//! With channels enough the input is read in place, tap by tap; otherwise patches are written first.
//! The product is long (all pixels of all images) and its result small, so the pixels are cut into a number of spans
//! that the extents alone decide; each span's product is computed on its own and they are added in order. The result
//! does not depend on the number of workers.
#![forbid(unsafe_code)]

use std::ops::Range;

use actorflow_core::error::Result;
use actorflow_core::kernel::Device;
use actorflow_core::parallel::Serial;

use super::super::window::Axis;
use super::geometry::Geometry;
use super::number::{Failure, Number, refused, room, writable};
use super::patches::{Patches, View};
use super::winograd::{self, Tiled};
use crate::gemm::{Chain, Epilogue, Link, Mat, MatMut, gemm, gemm_chain};
use crate::spread;

/// Bytes of patches that are built at a time.
const ROOM: usize = 256 << 10;

/// Elements that the spans' products may take together, beyond which there are fewer spans.
const SPARE: usize = 4 << 20;

/// Multiply-adds that are worth a span of their own.
const GRAIN: usize = 4 << 20;

/// Spans at most.
const SPANS: usize = 16;

/// Channels that a tap sees from which taps are worth a product each.
const BROAD: usize = 8;

/// Bytes of input and gradient that are read for all taps before the next: they should stay in a core's second-level
/// cache.
const NEAR: usize = 320 << 10;

/// How the work is cut: spans of lines, and blocks of the filter's rows in the sense of [`Patches::rows`].
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    /// Lines of the output to a span.
    lines: usize,
    spans: usize,
    /// Rows to a block, which divide all rows.
    rows: usize,
    blocks: usize,
}

impl Cut {
    fn of(g: &Geometry, lines: usize, rows: usize) -> Cut {
        let filter = g.taps() * g.filter_channels * g.out_channels;
        let work = filter as f64 * g.pixels() as f64;
        let worth = (work / GRAIN as f64).min(SPANS as f64) as usize;
        let spans = worth.min(SPARE / filter.max(1)).clamp(1, lines.max(1));
        let per = lines.div_ceil(spans).max(1);
        let spans = lines.div_ceil(per).max(1);
        // Where memory forbids enough spans, blocks of the filter make up for them.
        let blocks = if spans * 2 >= worth { 1 } else { rows };
        Cut {
            lines: per,
            spans,
            rows: rows / blocks,
            blocks,
        }
    }
}

/// The gradient with respect to the filter, from the input `x` and the gradient `dy` of the output.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there is no room for the patches and the spans' products.
pub(super) fn filter_grad<T: Number>(device: &dyn Device, g: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) -> Result<()> {
    if dw.is_empty() {
        return Ok(());
    }
    if dy.is_empty() || x.is_empty() {
        dw.fill(T::ZERO);
        return Ok(());
    }
    if let Some(fast) = winograd::of_geometry(g).and_then(Tiled::if_worth_summing)
        && let (Some(x), Some(dy)) = (T::as_f32(x), T::as_f32(dy))
        && let Some(dw) = T::as_f32_mut(dw)
    {
        return fast.filter_grad(device, x, dy, dw);
    }
    let views = [0, 1, 2].map(|i| View::forward(&g.axes[i]));
    let planes = [g.axes[0].output, g.axes[1].output];
    let take = g.filter_channels;
    let patches: Vec<Patches> = (0..g.groups)
        .map(|i| Patches::new(views.clone(), planes, g.in_channels, i * take..(i + 1) * take))
        .collect();
    let lines = g.batch * planes[0] * planes[1];
    let cut = Cut::of(g, lines, patches[0].rows());
    let failure = Failure::default();
    let job = Job { g, x, dy, patches };
    if cut.spans == 1 {
        spread::chunks(device.parallel(), dw, job.block(&cut), |i, dw| {
            failure.note(job.run(device, &cut, 0..lines, i, dw));
        });
        return failure.result();
    }
    let mut all = room::<T>(device, [cut.spans * dw.len()])?;
    let all = writable::<T>(&mut all)?;
    spread::chunks(device.parallel(), all, job.block(&cut), |i, part| {
        let (span, block) = (i / cut.blocks, i % cut.blocks);
        let from = span * cut.lines;
        failure.note(job.run(device, &cut, from..(from + cut.lines).min(lines), block, part));
    });
    failure.result()?;
    let len = dw.len();
    spread::chunks(device.parallel(), dw, spread::GRAIN, |i, dw| {
        let at = i * spread::GRAIN;
        dw.copy_from_slice(&all[at..at + dw.len()]);
        for span in 1..cut.spans {
            for (d, p) in dw.iter_mut().zip(&all[span * len + at..]) {
                *d = d.plus(*p);
            }
        }
    });
    Ok(())
}

struct Job<'a, T> {
    g: &'a Geometry,
    x: &'a [T],
    dy: &'a [T],
    patches: Vec<Patches>,
}

impl<T: Number> Job<'_, T> {
    /// Elements of a block of the filter.
    fn block(&self, cut: &Cut) -> usize {
        cut.rows * self.patches[0].line_width() * self.g.out_channels
    }

    /// Adds up block `block` of the filter's gradient over some lines.
    fn run(&self, device: &dyn Device, cut: &Cut, lines: Range<usize>, block: usize, dw: &mut [T]) -> Result<()> {
        if self.g.filter_channels >= BROAD && !self.g.is_pointwise() {
            return self.run_directly(cut, lines, block, dw);
        }
        let (g, one) = (self.g, &self.patches[0]);
        let (across, all, own) = (one.across(), g.out_channels, g.group_out());
        let width = cut.rows * one.line_width();
        let rows = block * cut.rows..(block + 1) * cut.rows;
        let per = (ROOM / (across * width * size_of::<T>()).max(1))
            .max(1)
            .min(lines.len().max(1));
        let direct = g.is_pointwise();
        let mut held = room::<T>(device, [if direct { 0 } else { per * across * width }])?;
        let held = writable::<T>(&mut held)?;
        let mut beta = T::ZERO;
        let mut from = lines.start;
        while from < lines.end {
            let to = (from + per).min(lines.end);
            let pixels = (to - from) * across;
            for (i, patches) in self.patches.iter().enumerate() {
                let a: &[T] = if direct {
                    &self.x[from * across * width..][..pixels * width]
                } else {
                    let mut at = 0;
                    for s in patches.strips(from..to) {
                        patches.write(self.x, &s, rows.clone(), &mut held[at..]);
                        at += s.y.len() * across * width;
                    }
                    &held[..pixels * width]
                };
                let a = Mat::dense(a, pixels, width).map_err(refused)?.t();
                let dy = &self.dy[from * across * all + i * own..];
                let b = Mat::new(dy, pixels, own, all, 1).map_err(refused)?;
                let c = MatMut::new(&mut dw[i * own..], width, own, all).map_err(refused)?;
                gemm(&Serial, T::ONE, a, b, beta, c, Epilogue::NONE).map_err(refused)?;
            }
            beta = T::ONE;
            from = to;
        }
        Ok(())
    }

    /// As [`run`](Self::run), a product for each tap whose operands are lines of the input and of the gradient.
    fn run_directly(&self, cut: &Cut, lines: Range<usize>, block: usize, dw: &mut [T]) -> Result<()> {
        let g = self.g;
        let line_bytes = (g.axes[2].input * g.in_channels + g.axes[2].output * g.out_channels) * size_of::<T>();
        let per = (NEAR / line_bytes.max(1)).max(1);
        let mut links = Vec::new();
        let mut from = lines.start;
        let mut beta = T::ZERO;
        while from < lines.end {
            let some = from..(from + per).min(lines.end);
            for row in 0..cut.rows {
                let at = block * cut.rows + row;
                let (kz, ky) = (at / g.axes[1].window, at % g.axes[1].window);
                for kx in 0..g.axes[2].window {
                    self.links(some.clone(), [kz, ky, kx], &mut links);
                    let tap = row * g.axes[2].window + kx;
                    let dw = &mut dw[tap * g.filter_channels * g.out_channels..];
                    self.tap(&links, beta, dw)?;
                }
            }
            beta = T::ONE;
            from = some.end;
        }
        Ok(())
    }

    /// Where a tap and the outputs that see it lie, in some lines of the output.
    fn links(&self, lines: Range<usize>, tap: [usize; 3], links: &mut Vec<Link>) {
        let g = self.g;
        let [z, y, x] = &g.axes;
        // The outputs along an axis whose tap lies inside of the input, and what the first of them sees.
        let seen = |a: &Axis, k: usize| {
            let offset = (k * a.dilation) as isize - a.before as isize;
            let (first, last) = (-offset, a.input as isize - offset);
            let up = |n: isize| (n.max(0) as usize).div_ceil(a.stride).min(a.output);
            let (lo, hi) = (up(first), up(last));
            (lo..hi.max(lo), (lo * a.stride) as isize + offset)
        };
        let ((zs, _), (ys, _), (xs, sx)) = (seen(z, tap[0]), seen(y, tap[1]), seen(x, tap[2]));
        links.clear();
        if xs.is_empty() {
            return;
        }
        let source = |a: &Axis, o: usize, k: usize| o * a.stride + k * a.dilation - a.before;
        for line in lines {
            let (plane, oy) = (line / y.output, line % y.output);
            let (image, oz) = (plane / z.output, plane % z.output);
            if !zs.contains(&oz) || !ys.contains(&oy) {
                continue;
            }
            let row = (image * z.input + source(z, oz, tap[0])) * y.input + source(y, oy, tap[1]);
            let link = Link {
                a: (row * x.input + sx as usize) * g.in_channels,
                b: (line * x.output + xs.start) * g.out_channels,
                k: xs.len(),
            };
            match links.last_mut() {
                Some(l) if l.a + l.k * x.stride * g.in_channels == link.a && l.b + l.k * g.out_channels == link.b => {
                    l.k += link.k;
                }
                _ => links.push(link),
            }
        }
    }

    /// Adds up a tap of the filter's gradient.
    fn tap(&self, links: &[Link], beta: T, dw: &mut [T]) -> Result<()> {
        let g = self.g;
        let (take, own) = (g.filter_channels, g.group_out());
        for i in 0..g.groups {
            let chain = Chain {
                a: self.x.get(i * take..).unwrap_or(&[]),
                a_row: 1,
                a_col: g.axes[2].stride * g.in_channels,
                b: self.dy.get(i * own..).unwrap_or(&[]),
                b_row: g.out_channels,
            };
            let c = MatMut::new(&mut dw[i * own..], take, own, g.out_channels).map_err(refused)?;
            gemm_chain(chain, links, beta, c, Epilogue::NONE).map_err(refused)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::nn::window::Axis;

    #[test]
    fn a_large_filter_is_cut_into_blocks_and_a_small_one_into_spans() {
        let axis = |window| Axis {
            input: 32,
            window,
            stride: 1,
            dilation: 1,
            before: 0,
            output: 32,
        };
        let g = |c| Geometry {
            batch: 8,
            axes: [
                Axis {
                    input: 1,
                    output: 1,
                    ..axis(1)
                },
                axis(3),
                axis(3),
            ],
            in_channels: c,
            filter_channels: c,
            out_channels: c,
            groups: 1,
        };
        let small = Cut::of(&g(32), 8 * 32, 3);
        assert_eq!((small.spans, small.blocks), (16, 1));
        let large = Cut::of(&g(1024), 8 * 32, 3);
        assert_eq!((large.spans, large.blocks), (1, 3));
    }
}
