//! Convolutions of many channels by minimal filtering: S. Winograd, "Arithmetic Complexity of Computations", 1980;
//! A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
//!
//! The output is cut into tiles of `m` by `m`. What a tile sees, 6 by 6 pixels, becomes 36 numbers per channel by additions
//! (`Bᵀ d B`), as the filter does once (`G g Gᵀ`); each of the 36 is a matrix product over the channels; and 36 results become
//! the tile (`Aᵀ M A`). The polynomials are those through 0, ±1, ±2 and infinity, so that a tile has `m = 7 - r` rows for a
//! filter of `r`: 36 multiplications instead of 144 for 3 × 3, instead of 100 for 5 × 5. The gradient with respect to the
//! input is such a convolution; that with respect to the filter is the adjoint of the same three transformations.
//!
//! Sums are rounded at other places than one after the other: errors are some times as large as those of the direct
//! sum (`tests` says how large), infinities become NaN in the tile that they are in, and numbers beyond 1e36 overflow. So it
//! is only used where there is much to gain, and `ACTORFLOW_WINOGRAD=0` in the environment turns it off.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::OnceLock;

use actorflow_core::Tensor;
use actorflow_core::error::Result;
use actorflow_core::kernel::Device;
use actorflow_core::parallel::Serial;

use super::geometry::Geometry;
use super::number::{Failure, refused, room, writable};
use super::patches::View;
use crate::gemm::{Epilogue, Mat, MatMut, Offsets, gemm_batched};
use crate::spread;
use crate::wide;

mod transforms;
use transforms::{Are, Back, Collect, Filter, Line, NONE, POINTS, Places, SEEN, Tiles, WIDTH};

/// Multiply-adds of the direct sum from which it is worth it.
const WORTH: f64 = 8e6;

/// The same for gradients of filters, which are cut into pieces between images only.
const WORTH_SUMMING: f64 = 6.4e7;

/// What it costs to transform a channel of a tile, or a filter of one channel, as multiply-adds: some 280 cycles for 16 of them
/// on a Zen 4 core.
const BESIDE: f64 = 300.0;

/// Bytes of transformed pixels that a block of tiles takes: they should stay in a second-level cache of 1 MiB, beside the
/// filter.
const ROOM: usize = 400 << 10;

/// Bytes of a transformed filter that does not stay there, and so should be read seldom.
const LARGE: usize = 512 << 10;

/// Numbers of a transformed filter, which is four times as large as one of 3 × 3, at most: 64 MiB.
const MOST: usize = 16 << 20;

/// Rows of a strip of the products, as high as the microkernel takes them: blocks consist of whole ones as far as they can.
const STRIP: usize = 12;

/// Tiles to a block: at least a strip, at most so many as read a large filter often enough.
const TILES: Range<usize> = STRIP..96;

/// Tiles of a chunk of images, at least, if there are enough for every thread: several blocks, so that the last one, whose
/// strips are lower, does not count for much.
const CHUNK: usize = 192;

/// Chunks for each thread, at least, so that they are done at about the same time.
const CHUNKS: usize = 4;

/// Spans of images whose sums for the filter's gradient are computed apart, at most, and the numbers that they take.
const SPANS: usize = 16;
const SPARE: usize = 8 << 20;

/// Of the direct sum's multiply-adds those that are expected to be needed: taps in the padding are left out there.
const MARGIN: f64 = 0.8;

/// Numbers from the beginning of a matrix of so many to that of the next: the first lines of [`POINTS`] of them lie in different
/// sets of a cache, since what is transformed is written to, or read from, all of them at once.
fn apart(len: usize) -> usize {
    len | WIDTH
}

fn is_on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var_os("ACTORFLOW_WINOGRAD").is_none_or(|v| v != "0"))
}

/// A convolution of images `[batch, y, x, channels]` that is computed in this way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tiled {
    batch: usize,
    /// Extents of the source and of the output.
    source: [usize; 2],
    output: [usize; 2],
    /// Where the first output's first tap lies.
    offset: [isize; 2],
    channels: usize,
    out_channels: usize,
    /// Taps of the filter along an axis, 3 or 5.
    window: usize,
}

/// The pixels of the tiles of an image, in the source and in the output; none beyond the edges.
struct Lists {
    seen: [Vec<Line>; 2],
    written: [Vec<Line>; 2],
}

/// Tiles that one thread computes.
struct Piece<'a> {
    /// The first image.
    image: usize,
    /// Tiles, counted from that image on.
    tiles: Range<usize>,
    /// Their pixels.
    out: &'a mut [f32],
}

impl Tiled {
    /// The convolution whose outputs see a source in this way, if it is one of those that can be computed so.
    pub(super) fn of(batch: usize, [z, y, x]: [&View; 3], channels: usize, out_channels: usize) -> Option<Tiled> {
        let flat = z.source == 1 && z.count == 1 && z.taps.len() == 1 && z.taps[0].1 == 0;
        let dense = |v: &View| {
            let first = v.taps.first().map_or(0, |t| t.1);
            let adjacent = v.taps.iter().enumerate().all(|(i, t)| t.1 == first + i as isize);
            v.first == 0 && v.every == 1 && v.step == 1 && adjacent
        };
        let window = y.taps.len();
        let whole = |n: usize| n > 0 && n.is_multiple_of(WIDTH);
        let fits = flat
            && [y, x]
                .into_iter()
                .all(|v| dense(v) && v.taps.len() == window && v.count > 0)
            && matches!(window, 3 | 5)
            && [y.source * x.source, y.count * x.count]
                .into_iter()
                .all(|pixels| pixels < NONE as usize)
            && whole(channels)
            && whole(out_channels);
        fits.then(|| Tiled {
            batch,
            source: [y.source, x.source],
            output: [y.count, x.count],
            offset: [y.taps[0].1, x.taps[0].1],
            channels,
            out_channels,
            window,
        })
    }

    /// Itself, if it is faster than the direct sum. That depends on the extents alone, and so does the result.
    pub(super) fn if_worth_it(self) -> Option<Tiled> {
        self.if_worth(WORTH)
    }

    /// The same for the gradient of the filter.
    pub(super) fn if_worth_summing(self) -> Option<Tiled> {
        self.if_worth(WORTH_SUMMING)
    }

    fn if_worth(self, least: f64) -> Option<Tiled> {
        let pixels = (self.batch * self.output[0] * self.output[1]) as f64;
        let direct = pixels * (self.window * self.window) as f64;
        let (c, o) = (self.channels as f64, self.out_channels as f64);
        let tiles = (self.batch * self.tiles()) as f64;
        let here = tiles * (POINTS as f64 * c * o + BESIDE * (c + o)) + BESIDE * c * o;
        let small = self.filter() <= MOST;
        (is_on() && small && direct * c * o >= least && here < MARGIN * direct * c * o).then_some(self)
    }

    /// Rows of a tile.
    fn side(&self) -> usize {
        SEEN + 1 - self.window
    }

    /// Tiles along an axis.
    fn along(&self, axis: usize) -> usize {
        self.output[axis].div_ceil(self.side())
    }

    /// Tiles of an image.
    fn tiles(&self) -> usize {
        self.along(0) * self.along(1)
    }

    /// Numbers from one point's matrix of the transformed filter to the next.
    fn apart(&self) -> usize {
        apart(self.channels * self.out_channels)
    }

    /// Numbers of the transformed filter.
    fn filter(&self) -> usize {
        POINTS * self.apart()
    }

    /// The blocks that so many tiles are cut into: of whole strips, but for the last, which is half as large as the others to
    /// half as large again.
    fn blocks(&self, tiles: usize) -> impl Iterator<Item = Range<usize>> {
        let each = POINTS * (self.channels + self.out_channels) * size_of::<f32>();
        let most = match self.filter() * size_of::<f32>() > LARGE {
            true => TILES.end,
            false => (ROOM / each).clamp(TILES.start, TILES.end) / STRIP * STRIP,
        };
        let count = ((tiles + most / 2) / most).max(1);
        (0..count).map(move |i| i * most..if i + 1 < count { (i + 1) * most } else { tiles })
    }

    /// The pixels of the tiles of an image of these extents, so many from each one's corner on, which lies at that of its
    /// output and this offset.
    fn lines(&self, extents: [usize; 2], count: usize, offset: [isize; 2]) -> [Vec<Line>; 2] {
        [(0, extents[1]), (1, 1)].map(|(axis, step)| {
            let of = |tile: usize| {
                std::array::from_fn(|i| {
                    let at = usize::try_from((tile * self.side() + i) as isize + offset[axis]).ok();
                    let inside = at.filter(|at| i < count && *at < extents[axis]);
                    inside.map_or(NONE, |at| (at * step) as u32)
                })
            };
            (0..self.along(axis)).map(of).collect()
        })
    }

    fn lists(&self) -> Lists {
        Lists {
            seen: self.lines(self.source, SEEN, self.offset),
            written: self.lines(self.output, self.side(), [0, 0]),
        }
    }

    /// What tiles see.
    fn sees<'a>(&self, lists: &'a Lists, tiles: Range<usize>) -> Places<'a> {
        Places {
            lines: &lists.seen,
            image: self.source[0] * self.source[1],
            tiles,
        }
    }

    /// Where tiles are.
    fn writes<'a>(&self, lists: &'a Lists, tiles: Range<usize>) -> Places<'a> {
        Places {
            lines: &lists.written,
            image: self.output[0] * self.output[1],
            tiles,
        }
    }

    /// Room for what the channels and the output's channels of the tiles of a block become, if there are so many tiles in all.
    fn rooms(&self, device: &dyn Device, tiles: usize) -> Result<[Tensor; 2]> {
        let most = self.blocks(tiles).map(|b| b.len()).max().unwrap_or(0);
        let room = |channels: usize| room::<f32>(device, [POINTS * apart(most * channels)]);
        Ok([room(self.channels)?, room(self.out_channels)?])
    }

    /// Computes the outputs.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is no room for what is transformed.
    pub(super) fn run(
        &self,
        device: &dyn Device,
        source: &[f32],
        weights: &[f32],
        epilogue: Epilogue<'_, f32>,
        out: &mut [f32],
    ) -> Result<()> {
        let (c, o) = (self.channels, self.out_channels);
        let mut filter = room::<f32>(device, [self.filter()])?;
        let filter = writable::<f32>(&mut filter)?;
        wide::run(Filter {
            window: self.window,
            weights,
            each: c * o,
            out: &mut *filter,
            apart: self.apart(),
        });
        let filter = &*filter;
        let (lists, failure) = (self.lists(), Failure::default());
        let mut pieces = self.pieces(device.parallel().threads(), out);
        spread::chunks(device.parallel(), &mut pieces, 1, |_, pieces| {
            for piece in pieces {
                failure.note(self.some(device, &lists, source, filter, epilogue, piece));
            }
        });
        failure.result()
    }

    /// The output in pieces for so many threads: some images each, or bands of one where there are few. No tile's results
    /// depend on the others'.
    fn pieces<'a>(&self, threads: usize, out: &'a mut [f32]) -> Vec<Piece<'a>> {
        let (row, size) = (
            self.output[1] * self.out_channels,
            self.output[0] * self.output[1] * self.out_channels,
        );
        if self.batch >= CHUNKS * threads || self.batch.is_multiple_of(threads) {
            let images = (self.batch / (CHUNKS * threads)).clamp(1, CHUNK.div_ceil(self.tiles()));
            let some = |(i, out): (usize, &'a mut [f32])| Piece {
                image: i * images,
                tiles: 0..out.len() / size * self.tiles(),
                out,
            };
            return out.chunks_mut(images * size).enumerate().map(some).collect();
        }
        let rows = self.along(0).div_ceil(threads);
        let tiles = rows * self.along(1);
        let bands = |(image, out): (usize, &'a mut [f32])| {
            let bands = out.chunks_mut(rows * self.side() * row).enumerate();
            bands.map(move |(i, out)| Piece {
                image,
                tiles: i * tiles..((i + 1) * tiles).min(self.tiles()),
                out,
            })
        };
        out.chunks_mut(size).enumerate().flat_map(bands).collect()
    }

    /// The outputs of a piece.
    fn some(
        &self,
        device: &dyn Device,
        lists: &Lists,
        source: &[f32],
        filter: &[f32],
        epilogue: Epilogue<'_, f32>,
        piece: &mut Piece<'_>,
    ) -> Result<()> {
        let (c, o) = (self.channels, self.out_channels);
        let source = &source[piece.image * self.source[0] * self.source[1] * c..];
        let first = piece.tiles.start;
        let from = first / self.along(1) * self.side() * self.output[1];
        let [mut seen, mut products] = self.rooms(device, piece.tiles.len())?;
        let (seen, products) = (writable::<f32>(&mut seen)?, writable::<f32>(&mut products)?);
        for block in self.blocks(piece.tiles.len()) {
            let block = first + block.start..first + block.end;
            let n = block.len();
            wide::run(Tiles {
                source,
                channels: c,
                places: self.sees(lists, block.clone()),
                are: Are::Seen,
                out: &mut *seen,
                each: apart(n * c),
            });
            let a = Mat::dense(seen, n, c).map_err(refused)?;
            let b = Mat::dense(filter, c, o).map_err(refused)?;
            let to = MatMut::dense(products, n, o).map_err(refused)?;
            gemm_batched(
                &Serial,
                POINTS,
                1.0,
                (a, Offsets::Every(apart(n * c))),
                (b, Offsets::Every(self.apart())),
                0.0,
                (to, apart(n * o)),
                Epilogue::NONE,
            )
            .map_err(refused)?;
            wide::run(Collect {
                products: &*products,
                each: apart(n * o),
                channels: o,
                side: self.side(),
                places: self.writes(lists, block),
                bias: epilogue.bias,
                relu: epilogue.relu,
                out: &mut *piece.out,
                from,
            });
        }
        Ok(())
    }

    /// The gradient with respect to the filter: for each tile what it sees times its gradient, both transformed.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is no room for what is transformed.
    pub(super) fn filter_grad(&self, device: &dyn Device, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
        let (c, o, len) = (self.channels, self.out_channels, self.filter());
        let spans = SPANS.min(self.batch).min(SPARE / len).max(1);
        let per = self.batch.div_ceil(spans);
        let spans = self.batch.div_ceil(per);
        let mut all = room::<f32>(device, [spans * len])?;
        let all = writable::<f32>(&mut all)?;
        let (image, size) = (self.source[0] * self.source[1] * c, self.output[0] * self.output[1] * o);
        let (lists, failure) = (self.lists(), Failure::default());
        spread::chunks(device.parallel(), all, len, |i, sums| {
            let images = i * per..((i + 1) * per).min(self.batch);
            let (x, dy) = (&x[images.start * image..], &dy[images.start * size..]);
            failure.note(self.sums(device, &lists, x, dy, images.len(), sums));
        });
        failure.result()?;
        let (first, others) = all.split_at_mut(len);
        spread::chunks(device.parallel(), first, spread::GRAIN, |i, sums| {
            for other in others.chunks_exact(len) {
                for (s, x) in sums.iter_mut().zip(&other[i * spread::GRAIN..]) {
                    *s += x;
                }
            }
        });
        wide::run(Back {
            window: self.window,
            sums: first,
            each: c * o,
            out: dw,
            apart: self.apart(),
        });
        Ok(())
    }

    /// The sums over the tiles of some images.
    fn sums(
        &self,
        device: &dyn Device,
        lists: &Lists,
        x: &[f32],
        dy: &[f32],
        images: usize,
        sums: &mut [f32],
    ) -> Result<()> {
        let (c, o) = (self.channels, self.out_channels);
        let tiles = images * self.tiles();
        let [mut seen, mut given] = self.rooms(device, tiles)?;
        let (seen, given) = (writable::<f32>(&mut seen)?, writable::<f32>(&mut given)?);
        let mut beta = 0.0;
        for block in self.blocks(tiles) {
            let n = block.len();
            wide::run(Tiles {
                source: x,
                channels: c,
                places: self.sees(lists, block.clone()),
                are: Are::Seen,
                out: &mut *seen,
                each: apart(n * c),
            });
            wide::run(Tiles {
                source: dy,
                channels: o,
                places: self.writes(lists, block),
                are: Are::Gradients(self.side()),
                out: &mut *given,
                each: apart(n * o),
            });
            let a = Mat::dense(seen, n, c).map_err(refused)?.t();
            let b = Mat::dense(given, n, o).map_err(refused)?;
            let to = MatMut::dense(&mut *sums, c, o).map_err(refused)?;
            gemm_batched(
                &Serial,
                POINTS,
                1.0,
                (a, Offsets::Every(apart(n * c))),
                (b, Offsets::Every(apart(n * o))),
                beta,
                (to, self.apart()),
                Epilogue::NONE,
            )
            .map_err(refused)?;
            beta = 1.0;
        }
        Ok(())
    }
}

/// The convolution whose filter's gradient is to be computed, if it is one of those.
pub(super) fn of_geometry(g: &Geometry) -> Option<Tiled> {
    let views = g.axes.each_ref().map(View::forward);
    match g.groups {
        1 => Tiled::of(g.batch, views.each_ref(), g.in_channels, g.out_channels),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
