//! The transformations of [`winograd`](super::winograd): of what tiles see, of filters, of products and of gradients.
//!
//! All of them are made of one-dimensional ones, first along the rows and then along the columns, of some channels at a time.
#![forbid(unsafe_code)]

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

/// Transforms the columns of a tile; `to` is told where a number of each channel belongs, and what it is.
#[inline(always)]
fn columns<T: Transform, M: Madd>(d: &Tile, mut to: impl FnMut(usize, &Lane)) {
    for j in 0..T::COLUMNS {
        let y = line::<T, M>([&d[0][j], &d[1][j], &d[2][j], &d[3][j], &d[4][j], &d[5][j]]);
        to(j, &y[0]);
        to(j + SEEN, &y[1]);
        to(j + 2 * SEEN, &y[2]);
        to(j + 3 * SEEN, &y[3]);
        to(j + 4 * SEEN, &y[4]);
        to(j + 5 * SEEN, &y[5]);
    }
}

/// The channels of a pixel from `from` on, or zeros where there is none.
#[inline(always)]
fn at(source: &[f32], channels: usize, pixel: Option<usize>, from: usize) -> &[f32] {
    match pixel {
        Some(pixel) => &source[pixel * channels + from..][..WIDTH],
        None => &[0.0; WIDTH],
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

/// Pixels of tiles, as [`Tiled`](super::winograd::Tiled) lists them.
type Pixels = [Option<usize>; POINTS];

/// Writes channels of what a pixel has become into the matrix of its point.
#[inline(always)]
fn put(out: &mut [f32], at: usize, x: &Lane) {
    out[at..][..WIDTH].copy_from_slice(x);
}

/// Of each tile what it sees, transformed: `[POINTS, tiles, channels]`.
pub(super) struct See<'a> {
    pub(super) source: &'a [f32],
    pub(super) channels: usize,
    pub(super) pixels: &'a [Pixels],
    pub(super) out: &'a mut [f32],
    /// Numbers from one point's matrix to the next.
    pub(super) each: usize,
}

/// Tiles transformed by `T`.
#[inline(always)]
fn tiles<T: Transform, M: Madd>(source: &[f32], channels: usize, pixels: &[Pixels], out: &mut [f32], each: usize) {
    let mut d = EMPTY;
    for (t, pixels) in pixels.iter().enumerate() {
        for c in (0..channels).step_by(WIDTH) {
            rows::<T, M>(&mut d, |p| at(source, channels, pixels[p], c));
            columns::<T, M>(&d, |p, x| put(out, p * each + t * channels + c, x));
        }
    }
}

impl Work for See<'_> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        tiles::<B, M>(self.source, self.channels, self.pixels, self.out, self.each);
    }
}

/// Of each tile its gradient, transformed: `[POINTS, tiles, channels]`.
pub(super) struct Scatter<'a> {
    pub(super) source: &'a [f32],
    pub(super) channels: usize,
    /// Rows of a tile.
    pub(super) side: usize,
    pub(super) pixels: &'a [Pixels],
    pub(super) out: &'a mut [f32],
    /// Numbers from one point's matrix to the next.
    pub(super) each: usize,
}

impl Work for Scatter<'_> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        match self.side {
            2 => tiles::<A<2>, M>(self.source, self.channels, self.pixels, self.out, self.each),
            _ => tiles::<A<4>, M>(self.source, self.channels, self.pixels, self.out, self.each),
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
            rows::<T, M>(&mut d, |p| {
                let (i, j) = (p / SEEN, p % SEEN);
                let tap = (j < self.window).then_some(i * self.window + j);
                at(self.weights, self.each, tap, c)
            });
            columns::<T, M>(&d, |p, x| put(self.out, p * self.apart + c, x));
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
            rows::<T, M>(&mut d, |p| at(self.sums, self.apart, Some(p), c));
            columns::<T, M>(&d, |p, x| {
                let (i, j) = (p / SEEN, p % SEEN);
                if i < self.window {
                    put(self.out, (i * self.window + j) * self.each + c, x);
                }
            });
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

/// Products `[POINTS, tiles, channels]` as the tiles of an output.
pub(super) struct Collect<'a> {
    pub(super) products: &'a [f32],
    /// Numbers from one point's matrix to the next.
    pub(super) each: usize,
    pub(super) channels: usize,
    /// Rows of a tile.
    pub(super) side: usize,
    pub(super) pixels: &'a [Pixels],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
    pub(super) out: &'a mut [f32],
}

impl Collect<'_> {
    #[inline(always)]
    fn of<T: Transform, M: Madd>(self) {
        let (mut d, mut bias) = (EMPTY, [0.0; WIDTH]);
        // As `Relu`: NaN stays.
        let least = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        for (t, pixels) in self.pixels.iter().enumerate() {
            for c in (0..self.channels).step_by(WIDTH) {
                let from = t * self.channels + c;
                rows::<T, M>(&mut d, |p| &self.products[p * self.each + from..][..WIDTH]);
                if let Some(b) = self.bias {
                    bias.copy_from_slice(&b[c..][..WIDTH]);
                }
                columns::<T, M>(&d, |p, x| {
                    let Some(pixel) = pixels[p] else { return };
                    let mut y = [0.0; WIDTH];
                    for l in 0..WIDTH {
                        let sum = x[l] + bias[l];
                        y[l] = if sum < least { least } else { sum };
                    }
                    put(self.out, pixel * self.channels + c, &y);
                });
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
