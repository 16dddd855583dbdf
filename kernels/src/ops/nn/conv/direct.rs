//! Convolutions of many images that read them in place.
//!
//! For one pixel of the output, what all images contribute is a matrix product: a row for each image, a column for each
//! tap and channel of the source, whose parts for adjacent taps lie side by side in a line of the source. So nothing is
//! copied, taps in the padding cost nothing, and a tile's results stay in registers over all taps.
#![forbid(unsafe_code)]

use std::ops::Range;

use actorflow_core::error::Result;
use actorflow_core::kernel::Device;

use super::convolve::{Convolution, Part};
use super::number::{Failure, Number, refused};
use super::patches::View;
use crate::gemm::{Chain, Link, MatMut, gemm_chain};
use crate::spread;

/// Images that make it worth it.
const MANY: usize = 16;

/// Images to a chunk at least: fewer rows than this leave the multiply-adds waiting for each other.
const FEWEST: usize = 4;

/// Images to a chunk at most: each is read and written in pages of its own, of which the processor knows some tens.
const MOST: usize = 24;

/// Rows of the tallest tile.
const TILE: usize = 12;

/// Bytes of the lines that a pixel sees in a chunk's images: half of a second-level cache of 1 MiB holds them and as
/// many of the next ones.
const LINES: usize = 192 << 10;

/// Bytes of weights, which are read again for every pixel.
const WEIGHTS: usize = 512 << 10;

/// What the outputs along an axis see: for each output the taps that lie inside, as runs of taps whose sources are
/// adjacent.
struct Seen {
    runs: Vec<Run>,
    /// Where each output's runs begin, and an end.
    first: Vec<usize>,
}

/// Taps `tap..tap + len` of a view, which see the source from `at` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    tap: usize,
    at: usize,
    len: usize,
}

impl Seen {
    /// Of the outputs of a view; with `joined` adjacent taps make one run.
    fn of(v: &View, joined: bool) -> Seen {
        let mut seen = Seen {
            runs: Vec::new(),
            first: vec![0],
        };
        for t in 0..v.count {
            let begin = seen.runs.len();
            for (tap, (_, offset)) in v.taps.iter().enumerate() {
                let at = (t * v.step) as isize + offset;
                let Some(at) = usize::try_from(at).ok().filter(|at| *at < v.source) else {
                    continue;
                };
                match seen.runs[begin..].last_mut() {
                    Some(r) if joined && r.tap + r.len == tap && r.at + r.len == at => r.len += 1,
                    _ => seen.runs.push(Run { tap, at, len: 1 }),
                }
            }
            seen.first.push(seen.runs.len());
        }
        seen
    }

    fn get(&self, output: usize) -> &[Run] {
        &self.runs[self.first[output]..self.first[output + 1]]
    }
}

/// Images to a chunk, if a convolution is better computed in this way: it has many of them, and lines and weights that
/// stay in the caches. Whether it is does not depend on the workers, so that results do not either.
pub(super) fn images<T: Number>(c: &Convolution<'_, T>, threads: usize) -> Option<usize> {
    let batch = c.output[0];
    if batch < MANY || c.parts.iter().any(|p| size_of_val(p.weights) > WEIGHTS) {
        return None;
    }
    let line = |p: &Part<'_, T>| {
        let [z, y, x] = &p.views;
        let lines = z.taps.len() * y.taps.len();
        lines.saturating_mul(x.source * c.channels * size_of::<T>())
    };
    let line = c.parts.iter().map(line).max()?;
    let fits = (LINES / line.max(1)).min(MOST);
    if fits < FEWEST {
        return None;
    }
    let chunks = batch.div_ceil(if fits > TILE { fits - fits % TILE } else { fits });
    // As many chunks for each worker.
    let even = chunks.next_multiple_of(threads.max(1));
    Some(batch.div_ceil(even).max(FEWEST))
}

impl<T: Number> Convolution<'_, T> {
    /// Computes all outputs, `per` images to a chunk.
    pub(super) fn directly(&self, device: &dyn Device, per: usize, out: &mut [T]) -> Result<()> {
        let [batch, oz, oy, ox, channels] = self.output;
        let size = oz * oy * ox * channels;
        let parts: Vec<(&Part<'_, T>, [Seen; 3])> = self
            .parts
            .iter()
            .map(|p| {
                let whole = self.groups == 1;
                let [z, y, x] = &p.views;
                (p, [Seen::of(z, false), Seen::of(y, false), Seen::of(x, whole)])
            })
            .collect();
        let covered = self.is_covered();
        let failure = Failure::default();
        spread::chunks(device.parallel(), out, per * size, |i, out| {
            if !covered {
                out.fill(T::ZERO);
            }
            let images = i * per..((i + 1) * per).min(batch);
            for (p, seen) in &parts {
                failure.note(self.some(p, seen, images.clone(), out));
            }
        });
        failure.result()
    }

    /// The outputs of a part in some images.
    fn some(&self, p: &Part<'_, T>, seen: &[Seen; 3], images: Range<usize>, out: &mut [T]) -> Result<()> {
        let [_, oz, oy, ox, channels] = self.output;
        let [vz, vy, vx] = &p.views;
        let (take, own) = (self.channels / self.groups, channels / self.groups);
        let line = vx.source * self.channels;
        let image = vz.source * vy.source * line;
        let source = &self.source[images.start * image..images.end * image];
        let mut links = Vec::new();
        for z in 0..vz.count {
            for y in 0..vy.count {
                let row = (vz.first + z * vz.every) * oy + vy.first + y * vy.every;
                for x in 0..vx.count {
                    let pixel = (row * ox + vx.first + x * vx.every) * channels;
                    links.clear();
                    for rz in seen[0].get(z) {
                        for ry in seen[1].get(y) {
                            let from = (rz.at * vy.source + ry.at) * line;
                            let tap = (rz.tap * vy.taps.len() + ry.tap) * vx.taps.len();
                            links.extend(seen[2].get(x).iter().map(|rx| Link {
                                a: from + rx.at * self.channels,
                                b: (tap + rx.tap) * take * channels,
                                k: rx.len * take,
                            }));
                        }
                    }
                    for g in 0..self.groups {
                        let chain = Chain {
                            a: source.get(g * take..).unwrap_or(&[]),
                            a_row: image,
                            a_col: 1,
                            b: p.weights.get(g * own..).unwrap_or(&[]),
                            b_row: channels,
                        };
                        let to = &mut out[pixel + g * own..];
                        let c = MatMut::new(to, images.len(), own, oz * oy * ox * channels).map_err(refused)?;
                        gemm_chain(chain, &links, T::ZERO, c, self.epilogue(g, true)).map_err(refused)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_in_the_padding_are_left_out_and_adjacent_ones_make_a_run() {
        let v = View {
            first: 0,
            every: 1,
            count: 3,
            step: 1,
            taps: vec![(0, -1), (1, 0), (2, 1)],
            source: 3,
        };
        let seen = Seen::of(&v, true);
        let run = |tap, at, len| Run { tap, at, len };
        assert_eq!(seen.get(0), [run(1, 0, 2)]);
        assert_eq!(seen.get(1), [run(0, 0, 3)]);
        assert_eq!(seen.get(2), [run(0, 1, 2)]);
        assert_eq!(Seen::of(&v, false).get(0), [run(1, 0, 1), run(2, 1, 1)]);
    }
}
