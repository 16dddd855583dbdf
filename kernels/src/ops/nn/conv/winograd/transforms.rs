//! The transformations of minimal filtering: of what tiles see, of filters, of products and of gradients.
//!
//! All of them are made of one-dimensional ones, first along the rows and then along the columns, of some channels at a time.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::math::madd::Madd;
use crate::wide::Work;

/// Pixels along an axis that a tile sees, and numbers that they become.
pub(super) const SEEN: usize = 6;

/// Numbers that a tile's pixels become.
pub(super) const POINTS: usize = SEEN * SEEN;

/// Channels that are transformed at a time: a vector of the widest registers. How many there are is a multiple of it.
pub(super) const WIDTH: usize = 16;

/// A pixel's channels, or what has become of them.
type Lane = [f32; WIDTH];

/// What a tile consists of.
type Tile = [[Lane; SEEN]; SEEN];

const EMPTY: Tile = [[[0.0; WIDTH]; SEEN]; SEEN];

/// A transformation of a row or a column.
trait Transform {
    /// Rows that are not zero before it.
    const ROWS: usize;
    /// Columns that are wanted after it.
    const COLUMNS: usize;
    fn of<M: Madd>(x: [f32; SEEN]) -> [f32; SEEN];
}

/// Transforms one row or column.
///
/// The numbers are written to arrays of their own and there is no closure, so that it becomes one pass through vector registers.
#[inline(always)]
fn line<T: Transform, M: Madd>(x: [&Lane; SEEN]) -> [Lane; SEEN] {
    let mut y = [[0.0; WIDTH]; SEEN];
    for l in 0..WIDTH {
        let z = T::of::<M>([x[0][l], x[1][l], x[2][l], x[3][l], x[4][l], x[5][l]]);
        (y[0][l], y[1][l], y[2][l]) = (z[0], z[1], z[2]);
        (y[3][l], y[4][l], y[5][l]) = (z[3], z[4], z[5]);
    }
    y
}

/// Transforms the rows of a tile, of whose pixels `from` gives the channels.
#[inline(always)]
fn rows<'a, T: Transform, M: Madd>(d: &mut Tile, from: impl Fn(usize) -> &'a [f32]) {
    for (i, row) in d.iter_mut().enumerate().take(T::ROWS) {
        let at = i * SEEN;
        let mut x = [[0.0; WIDTH]; SEEN];
        x[0].copy_from_slice(from(at));
        x[1].copy_from_slice(from(at + 1));
        x[2].copy_from_slice(from(at + 2));
        x[3].copy_from_slice(from(at + 3));
        x[4].copy_from_slice(from(at + 4));
        x[5].copy_from_slice(from(at + 5));
        *row = line::<T, M>([&x[0], &x[1], &x[2], &x[3], &x[4], &x[5]]);
    }
}

/// Where transformed tiles are written to. (Compilers leave a closure that is called so often out of line.)
trait Put {
    /// Number `p` of the tile, of each of some channels.
    fn put(&mut self, p: usize, x: &Lane);
}

/// Transforms the columns of a tile.
#[inline(always)]
fn columns<T: Transform, M: Madd>(d: &Tile, to: &mut impl Put) {
    for j in 0..T::COLUMNS {
        let y = line::<T, M>([&d[0][j], &d[1][j], &d[2][j], &d[3][j], &d[4][j], &d[5][j]]);
        to.put(j, &y[0]);
        to.put(j + SEEN, &y[1]);
        to.put(j + 2 * SEEN, &y[2]);
        to.put(j + 3 * SEEN, &y[3]);
        to.put(j + 4 * SEEN, &y[4]);
        to.put(j + 5 * SEEN, &y[5]);
    }
}

/// To the matrices of the points: the first number of the tile's channels in the first one.
struct Points<'a> {
    out: &'a mut [f32],
    at: usize,
    /// Numbers from one point's matrix to the next.
    each: usize,
}

impl Put for Points<'_> {
    #[inline(always)]
    fn put(&mut self, p: usize, x: &Lane) {
        self.out[p * self.each + self.at..][..WIDTH].copy_from_slice(x);
    }
}

/// `Bᵀ d`
struct B;

impl Transform for B {
    const ROWS: usize = SEEN;
    const COLUMNS: usize = SEEN;
    #[inline(always)]
    fn of<M: Madd>(d: [f32; SEEN]) -> [f32; SEEN] {
        let (a, b) = (M::f32(-4.0, d[2], d[4]), M::f32(-4.0, d[1], d[3]));
        let (e, f) = (d[4] - d[2], d[3] - d[1]);
        [
            M::f32(4.0, d[0], M::f32(-5.0, d[2], d[4])),
            a + b,
            a - b,
            M::f32(2.0, f, e),
            M::f32(-2.0, f, e),
            M::f32(4.0, d[1], M::f32(-5.0, d[3], d[5])),
        ]
    }
}

/// `Aᵀ m` for tiles of so many rows; the rest is zero.
struct At<const SIDE: usize>;

impl<const SIDE: usize> Transform for At<SIDE> {
    const ROWS: usize = SEEN;
    const COLUMNS: usize = SIDE;
    #[inline(always)]
    fn of<M: Madd>(m: [f32; SEEN]) -> [f32; SEEN] {
        let (s, d) = (m[1] + m[2], m[1] - m[2]);
        let (p, q) = (m[3] + m[4], m[3] - m[4]);
        let (first, second) = (m[0] + (s + p), M::f32(2.0, q, d));
        if SIDE == 2 {
            return [first, second + m[5], 0.0, 0.0, 0.0, 0.0];
        }
        let fourth = M::f32(8.0, q, d) + m[5];
        [first, second, M::f32(4.0, p, s), fourth, 0.0, 0.0]
    }
}

/// `A y` for tiles of so many rows, whose further ones are zero.
struct A<const SIDE: usize>;

impl<const SIDE: usize> Transform for A<SIDE> {
    const ROWS: usize = SIDE;
    const COLUMNS: usize = SEEN;
    #[inline(always)]
    fn of<M: Madd>(y: [f32; SEEN]) -> [f32; SEEN] {
        let (e, o) = (y[0] + y[2], y[1] + y[3]);
        let (e2, o2) = (M::f32(4.0, y[2], y[0]), M::f32(4.0, y[3], y[1]));
        [
            y[0],
            e + o,
            e - o,
            M::f32(2.0, o2, e2),
            M::f32(-2.0, o2, e2),
            y[SIDE - 1],
        ]
    }
}

const SIXTH: f32 = -1.0 / 6.0;
const PART: f32 = 1.0 / 24.0;

/// `G g` for a filter of so many taps, whose further ones are zero.
struct G<const WINDOW: usize>;

impl<const WINDOW: usize> Transform for G<WINDOW> {
    const ROWS: usize = WINDOW;
    const COLUMNS: usize = SEEN;
    #[inline(always)]
    fn of<M: Madd>(g: [f32; SEEN]) -> [f32; SEEN] {
        let (e, o) = (g[0] + (g[2] + g[4]), g[1] + g[3]);
        let e2 = M::f32(16.0, g[4], M::f32(4.0, g[2], g[0]));
        let o2 = M::f32(8.0, g[3], 2.0 * g[1]);
        [
            0.25 * g[0],
            SIXTH * (e + o),
            SIXTH * (e - o),
            PART * (e2 + o2),
            PART * (e2 - o2),
            g[WINDOW - 1],
        ]
    }
}

/// `Gᵀ s` for a filter of so many taps; the rest is zero, or not wanted.
struct Gt<const WINDOW: usize>;

impl<const WINDOW: usize> Transform for Gt<WINDOW> {
    const ROWS: usize = SEEN;
    const COLUMNS: usize = WINDOW;
    #[inline(always)]
    fn of<M: Madd>(s: [f32; SEEN]) -> [f32; SEEN] {
        let (p, q) = (SIXTH * (s[1] + s[2]), SIXTH * (s[1] - s[2]));
        let (u, v) = (s[3] + s[4], s[3] - s[4]);
        let mut g = [
            M::f32(0.25, s[0], M::f32(PART, u, p)),
            M::f32(2.0 * PART, v, q),
            M::f32(4.0 * PART, u, p),
            M::f32(8.0 * PART, v, q),
            M::f32(16.0 * PART, u, p),
            0.0,
        ];
        g[WINDOW - 1] += s[5];
        g
    }
}

/// Pixels of a tile along an axis, in elements of an image with one channel; [`NONE`] outside.
pub(super) type Line = [u32; SEEN];

/// Where there is no pixel: no image has so many.
pub(super) const NONE: u32 = u32::MAX;

/// Where the pixels of a tile are.
#[derive(Clone, Copy)]
struct Pixels<'a> {
    /// The first one of the image.
    first: usize,
    rows: &'a Line,
    columns: &'a Line,
}

impl Pixels<'_> {
    /// Pixel `p` of the tile, if there is one.
    #[inline(always)]
    fn at(&self, p: usize) -> Option<usize> {
        let (y, x) = (self.rows[p / SEEN], self.columns[p % SEEN]);
        (y != NONE && x != NONE).then(|| self.first + y as usize + x as usize)
    }
}

/// Some tiles of a batch of images, all of which have theirs in the same places.
pub(super) struct Places<'a> {
    /// The pixels of the tiles below one another, each of them the first of its row, and of those side by side.
    pub(super) lines: &'a [Vec<Line>; 2],
    /// Pixels of an image.
    pub(super) image: usize,
    /// Those of all images one after the other.
    pub(super) tiles: Range<usize>,
}

impl Places<'_> {
    /// Each tile's number among these, and its pixels.
    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = (usize, Pixels<'_>)> {
        let [down, across] = self.lines;
        let of = |t: usize| {
            let (t, x) = (t / across.len(), t % across.len());
            Pixels {
                first: t / down.len() * self.image,
                rows: &down[t % down.len()],
                columns: &across[x],
            }
        };
        self.tiles.clone().map(of).enumerate()
    }
}

/// What tiles are transformed as.
#[derive(Clone, Copy)]
pub(super) enum Are {
    /// What they see.
    Seen,
    /// Gradients of tiles of so many rows.
    Gradients(usize),
}

/// Tiles of a source, transformed: `[POINTS, tiles, channels]`.
pub(super) struct Tiles<'a> {
    pub(super) source: &'a [f32],
    pub(super) channels: usize,
    pub(super) places: Places<'a>,
    pub(super) are: Are,
    pub(super) out: &'a mut [f32],
    /// Numbers from one point's matrix to the next.
    pub(super) each: usize,
}

impl Tiles<'_> {
    #[inline(always)]
    fn of<T: Transform, M: Madd>(self) {
        let (channels, mut d) = (self.channels, EMPTY);
        for (t, pixels) in self.places.each() {
            for c in (0..channels).step_by(WIDTH) {
                rows::<T, M>(&mut d, |p| match pixels.at(p) {
                    Some(pixel) => &self.source[pixel * channels + c..][..WIDTH],
                    None => &[0.0; WIDTH],
                });
                let mut to = Points {
                    out: &mut *self.out,
                    at: t * channels + c,
                    each: self.each,
                };
                columns::<T, M>(&d, &mut to);
            }
        }
    }
}

impl Work for Tiles<'_> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        match self.are {
            Are::Seen => self.of::<B, M>(),
            Are::Gradients(2) => self.of::<A<2>, M>(),
            Are::Gradients(_) => self.of::<A<4>, M>(),
        }
    }
}

/// A filter `[window, window, each]`, transformed: `[POINTS, each]`.
pub(super) struct Filter<'a> {
    pub(super) window: usize,
    pub(super) weights: &'a [f32],
    /// Numbers of a tap.
    pub(super) each: usize,
    pub(super) out: &'a mut [f32],
    /// Numbers from one point's matrix to the next.
    pub(super) apart: usize,
}

impl Filter<'_> {
    #[inline(always)]
    fn of<T: Transform, M: Madd>(self) {
        let mut d = EMPTY;
        for c in (0..self.each).step_by(WIDTH) {
            rows::<T, M>(&mut d, |p| match (p / SEEN, p % SEEN) {
                (i, j) if j < self.window => &self.weights[(i * self.window + j) * self.each + c..][..WIDTH],
                _ => &[0.0; WIDTH],
            });
            let mut to = Points {
                out: &mut *self.out,
                at: c,
                each: self.apart,
            };
            columns::<T, M>(&d, &mut to);
        }
    }
}

impl Work for Filter<'_> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        match self.window {
            5 => self.of::<G<5>, M>(),
            _ => self.of::<G<3>, M>(),
        }
    }
}

/// To the taps of a filter.
struct Taps<'a> {
    out: &'a mut [f32],
    at: usize,
    window: usize,
    /// Numbers of a tap.
    each: usize,
}

impl Put for Taps<'_> {
    #[inline(always)]
    fn put(&mut self, p: usize, x: &Lane) {
        let (i, j) = (p / SEEN, p % SEEN);
        if i < self.window {
            self.out[(i * self.window + j) * self.each + self.at..][..WIDTH].copy_from_slice(x);
        }
    }
}

/// Sums `[POINTS, each]` as the gradient of a filter `[window, window, each]`.
pub(super) struct Back<'a> {
    pub(super) window: usize,
    pub(super) sums: &'a [f32],
    /// Numbers of a tap.
    pub(super) each: usize,
    pub(super) out: &'a mut [f32],
    /// Numbers from one point's matrix to the next.
    pub(super) apart: usize,
}

impl Back<'_> {
    #[inline(always)]
    fn of<T: Transform, M: Madd>(self) {
        let mut d = EMPTY;
        for c in (0..self.each).step_by(WIDTH) {
            rows::<T, M>(&mut d, |p| &self.sums[p * self.apart + c..][..WIDTH]);
            let mut to = Taps {
                out: &mut *self.out,
                at: c,
                window: self.window,
                each: self.each,
            };
            columns::<T, M>(&d, &mut to);
        }
    }
}

impl Work for Back<'_> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        match self.window {
            5 => self.of::<Gt<5>, M>(),
            _ => self.of::<Gt<3>, M>(),
        }
    }
}

/// To the pixels of an output, at last.
struct Output<'a> {
    out: &'a mut [f32],
    at: usize,
    /// The first pixel there.
    from: usize,
    pixels: Pixels<'a>,
    channels: usize,
    bias: Lane,
    /// What is less becomes this; NaN stays, as in `Relu`.
    least: f32,
}

impl Put for Output<'_> {
    #[inline(always)]
    fn put(&mut self, p: usize, x: &Lane) {
        let Some(pixel) = self.pixels.at(p) else { return };
        let mut y = [0.0; WIDTH];
        for l in 0..WIDTH {
            let sum = x[l] + self.bias[l];
            y[l] = if sum < self.least { self.least } else { sum };
        }
        self.out[(pixel - self.from) * self.channels + self.at..][..WIDTH].copy_from_slice(&y);
    }
}

/// Products `[POINTS, tiles, channels]` as the tiles of an output.
pub(super) struct Collect<'a> {
    pub(super) products: &'a [f32],
    /// Numbers from one point's matrix to the next.
    pub(super) each: usize,
    pub(super) channels: usize,
    /// Rows of a tile.
    pub(super) side: usize,
    pub(super) places: Places<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
    pub(super) out: &'a mut [f32],
    /// The first pixel there.
    pub(super) from: usize,
}

impl Collect<'_> {
    #[inline(always)]
    fn of<T: Transform, M: Madd>(self) {
        let (channels, mut d, mut bias) = (self.channels, EMPTY, [0.0; WIDTH]);
        for (t, pixels) in self.places.each() {
            for c in (0..channels).step_by(WIDTH) {
                let from = t * channels + c;
                rows::<T, M>(&mut d, |p| &self.products[p * self.each + from..][..WIDTH]);
                if let Some(b) = self.bias {
                    bias.copy_from_slice(&b[c..][..WIDTH]);
                }
                let mut to = Output {
                    out: &mut *self.out,
                    at: c,
                    from: self.from,
                    pixels,
                    channels,
                    bias,
                    least: if self.relu { 0.0 } else { f32::NEG_INFINITY },
                };
                columns::<T, M>(&d, &mut to);
            }
        }
    }
}

impl Work for Collect<'_> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        match self.side {
            2 => self.of::<At<2>, M>(),
            _ => self.of::<At<4>, M>(),
        }
    }
}
