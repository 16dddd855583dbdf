//! Sums for each channel and what is computed with them: the passes of batch normalisation over an image, seen as a
//! matrix of pixels and channels.
#![forbid(unsafe_code)]

use std::ops::Sub;

use actorflow_core::parallel::Parallel;

use super::super::conv::number::Number;
use crate::math::madd::Madd;
use crate::spread;
use crate::wide::Work;

/// A float that normalisation is computed in.
pub(super) trait Real: Number + Sub<Output = Self> {
    /// The nearest value.
    fn of(x: f64) -> Self;
    /// The same value.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self.into()
    }
}

impl Real for f64 {
    #[inline(always)]
    fn of(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

/// Pixels that are added up in the elements' own precision before they go into the double one.
const BLOCK: usize = 64;

/// Sums over the pixels of a matrix `x`.
#[derive(Clone, Copy)]
pub(super) enum Sum<'a, T> {
    /// Of `x`.
    Plain,
    /// Of `(x - mean)²`.
    Squares(&'a [T]),
    /// Of `x * (other - mean)`.
    Products(&'a [T], &'a [T]),
}

struct Span<'a, T> {
    x: &'a [T],
    /// Index of the first element of `x`.
    at: usize,
    sum: Sum<'a, T>,
    out: &'a mut [f64],
}

impl<T: Real> Work for Span<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let c = self.out.len();
        let mut block = vec![T::ZERO; c];
        for (i, rows) in self.x.chunks(BLOCK * c).enumerate() {
            block.fill(T::ZERO);
            for (j, row) in rows.chunks_exact(c).enumerate() {
                match self.sum {
                    Sum::Plain => block.iter_mut().zip(row).for_each(|(a, x)| *a = *a + *x),
                    Sum::Squares(mean) => {
                        for ((a, x), m) in block.iter_mut().zip(row).zip(mean) {
                            let d = *x - *m;
                            *a = d.madd::<M>(d, *a);
                        }
                    }
                    Sum::Products(other, mean) => {
                        let other = &other[self.at + (i * BLOCK + j) * c..][..c];
                        for (((a, x), o), m) in block.iter_mut().zip(row).zip(other).zip(mean) {
                            *a = x.madd::<M>(*o - *m, *a);
                        }
                    }
                }
            }
            self.out.iter_mut().zip(&block).for_each(|(o, b)| *o += b.to_f64());
        }
    }
}

/// The sum over all pixels, for each of `channels` channels. The same for any number of workers.
pub(super) fn sums<T: Real>(par: &dyn Parallel, x: &[T], channels: usize, sum: Sum<'_, T>) -> Vec<f64> {
    let per = spread::rows_of(channels) * channels;
    let spans = x.len().div_ceil(per.max(1)).max(1);
    let mut parts = vec![0.0; spans * channels];
    spread::chunks(par, &mut parts, channels, |i, out| {
        let at = i * per;
        T::run(Span {
            x: &x[at..(at + per).min(x.len())],
            at,
            sum,
            out,
        });
    });
    let mut total = vec![0.0; channels];
    for part in parts.chunks(channels.max(1)) {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    total
}

/// `out = (x - mean) * factor + offset`, each of the three one number for each channel.
struct Affine<'a, T> {
    x: &'a [T],
    mean: &'a [T],
    factor: &'a [T],
    offset: &'a [T],
    out: &'a mut [T],
}

impl<T: Real> Work for Affine<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let c = self.mean.len();
        for (out, x) in self.out.chunks_exact_mut(c).zip(self.x.chunks_exact(c)) {
            for ((((o, x), m), f), b) in out.iter_mut().zip(x).zip(self.mean).zip(self.factor).zip(self.offset) {
                *o = (*x - *m).madd::<M>(*f, *b);
            }
        }
    }
}

/// `out = (x - mean) * factor + offset` for every pixel.
pub(super) fn affine<T: Real>(par: &dyn Parallel, x: &[T], [mean, factor, offset]: [&[T]; 3], out: &mut [T]) {
    let per = spread::rows_of(mean.len()) * mean.len();
    spread::chunks(par, out, per, |i, out| {
        T::run(Affine {
            x: &x[i * per..][..out.len()],
            mean,
            factor,
            offset,
            out,
        });
    });
}

/// `out = factor * (dy - mean_dy - (x - mean) * slope)`.
struct Back<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    channels: [&'a [T]; 4],
    out: &'a mut [T],
}

impl<T: Real> Work for Back<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let [mean, slope, mean_dy, factor] = self.channels;
        let c = mean.len();
        let rows = self.x.chunks_exact(c).zip(self.dy.chunks_exact(c));
        for (out, (x, dy)) in self.out.chunks_exact_mut(c).zip(rows) {
            for i in 0..c {
                let centred = dy[i] - mean_dy[i];
                out[i] = (centred - (x[i] - mean[i]) * slope[i]) * factor[i];
            }
        }
    }
}

/// `out = factor * (dy - mean_dy - (x - mean) * slope)` for every pixel; `channels` are mean, slope, mean_dy, factor.
pub(super) fn back<T: Real>(par: &dyn Parallel, x: &[T], dy: &[T], channels: [&[T]; 4], out: &mut [T]) {
    let per = spread::rows_of(channels[0].len()) * channels[0].len();
    spread::chunks(par, out, per, |i, out| {
        T::run(Back {
            x: &x[i * per..][..out.len()],
            dy: &dy[i * per..][..out.len()],
            channels,
            out,
        });
    });
}
