//! One-dimensional transforms of every line of a tensor along one of its axes.
#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::dtype::Element;
use actorflow_core::parallel::Parallel;
use num_complex::Complex;
use parking_lot::Mutex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftNum, FftPlanner};

use crate::spread;

/// A floating-point type that transforms are computed in.
pub trait Real: Element + FftNum {
    /// The reciprocal of a length.
    fn reciprocal(n: usize) -> Self;
}

impl Real for f32 {
    fn reciprocal(n: usize) -> f32 {
        1.0 / n as f32
    }
}

impl Real for f64 {
    fn reciprocal(n: usize) -> f64 {
        1.0 / n as f64
    }
}

/// Plans that a kernel keeps; a transform of three dimensions needs three.
const KEPT: usize = 4;

/// What was planned for the lengths that were seen last.
struct Kept<P: ?Sized>(Mutex<Vec<(usize, Arc<P>)>>);

impl<P: ?Sized> Default for Kept<P> {
    fn default() -> Self {
        Kept(Mutex::new(Vec::new()))
    }
}

impl<P: ?Sized> Kept<P> {
    fn get(&self, n: usize, make: impl FnOnce() -> Arc<P>) -> Arc<P> {
        if let Some((_, p)) = self.0.lock().iter().find(|(len, _)| *len == n) {
            return p.clone();
        }
        let made = make();
        let mut kept = self.0.lock();
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((n, made.clone()));
        made
    }
}

/// The transforms of one direction. Neither direction scales.
pub struct Lines<F: Real> {
    inverse: bool,
    complex: Kept<dyn Fft<F>>,
    forward: Kept<dyn RealToComplex<F>>,
    backward: Kept<dyn ComplexToReal<F>>,
}

impl<F: Real> Lines<F> {
    /// Transforms with `exp(-2πi…)`, or with `exp(2πi…)` if `inverse`.
    pub fn new(inverse: bool) -> Self {
        Lines {
            inverse,
            complex: Kept::default(),
            forward: Kept::default(),
            backward: Kept::default(),
        }
    }

    /// Transforms every line along `axis` in place.
    pub fn along(&self, par: &dyn Parallel, data: &mut [Complex<F>], dims: &[usize], axis: usize) {
        let n = dims.get(axis).copied().unwrap_or(0);
        // A transform of length 1 changes nothing.
        if n <= 1 || data.is_empty() {
            return;
        }
        let plan = self.complex.get(n, || {
            let mut planner = FftPlanner::new();
            match self.inverse {
                true => planner.plan_fft_inverse(n),
                false => planner.plan_fft_forward(n),
            }
        });
        let zero = Complex::new(F::zero(), F::zero());
        let transform = |lines: &mut [Complex<F>]| {
            let mut scratch = vec![zero; plan.get_inplace_scratch_len()];
            plan.process_with_scratch(lines, &mut scratch);
        };
        let inner: usize = dims[axis + 1..].iter().product();
        let group = spread::rows_of(n) * n;
        if inner == 1 {
            spread::chunks(par, data, group, |_, lines| transform(lines));
            return;
        }
        // Lines are collected, transformed, and put back.
        let mut turned = vec![zero; data.len()];
        let from = &*data;
        spread::chunks(par, &mut turned, group, |c, lines| {
            for (k, line) in lines.chunks_exact_mut(n).enumerate() {
                let at = c * (group / n) + k;
                let start = at / inner * n * inner + at % inner;
                for (j, x) in line.iter_mut().enumerate() {
                    *x = from[start + j * inner];
                }
            }
            transform(lines);
        });
        let turned = &turned;
        let group = spread::rows_of(inner) * inner;
        spread::chunks(par, data, group, |c, rows| {
            for (k, row) in rows.chunks_exact_mut(inner).enumerate() {
                let at = c * (group / inner) + k;
                let start = at / n * n * inner + at % n;
                for (i, x) in row.iter_mut().enumerate() {
                    *x = turned[start + i * n];
                }
            }
        });
    }

    /// The first `n / 2 + 1` frequencies of every row of `n` real numbers. `n` is not 0.
    pub fn of_real(&self, par: &dyn Parallel, from: &[F], n: usize, to: &mut [Complex<F>]) {
        let plan = self.forward.get(n, || RealFftPlanner::new().plan_fft_forward(n));
        let width = n / 2 + 1;
        let rows = spread::rows_of(n);
        spread::chunks(par, to, rows * width, |c, to| {
            let mut scratch = plan.make_scratch_vec();
            let mut line = plan.make_input_vec();
            for (k, to) in to.chunks_exact_mut(width).enumerate() {
                line.copy_from_slice(&from[(c * rows + k) * n..][..n]);
                // The lengths are the plan's own, which is all that can be wrong.
                let done = plan.process_with_scratch(&mut line, to, &mut scratch);
                debug_assert!(done.is_ok());
            }
        });
    }

    /// The `n` real numbers of which each row of `from` is the first `n / 2 + 1` frequencies, `n` times as large.
    /// Imaginary parts that a real signal cannot have are taken to be 0. `n` is not 0.
    pub fn to_real(&self, par: &dyn Parallel, from: &[Complex<F>], n: usize, to: &mut [F]) {
        let plan = self.backward.get(n, || RealFftPlanner::new().plan_fft_inverse(n));
        let width = n / 2 + 1;
        let rows = spread::rows_of(n);
        spread::chunks(par, to, rows * n, |c, to| {
            let mut scratch = plan.make_scratch_vec();
            let mut line = plan.make_input_vec();
            for (k, to) in to.chunks_exact_mut(n).enumerate() {
                line.copy_from_slice(&from[(c * rows + k) * width..][..width]);
                line[0].im = F::zero();
                if n.is_multiple_of(2) {
                    line[width - 1].im = F::zero();
                }
                let done = plan.process_with_scratch(&mut line, to, &mut scratch);
                debug_assert!(done.is_ok());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spread::tests::Scattered;
    use actorflow_core::parallel::Serial;

    /// By the definition, one line at a time.
    fn slow(x: &[Complex<f64>], inverse: bool) -> Vec<Complex<f64>> {
        let n = x.len();
        let sign = if inverse { 1.0 } else { -1.0 };
        let turn = |k: usize| Complex::from_polar(1.0, sign * std::f64::consts::TAU * k as f64 / n as f64);
        (0..n)
            .map(|k| x.iter().enumerate().map(|(j, x)| x * turn(j * k % n)).sum())
            .collect()
    }

    fn numbers(n: usize) -> Vec<Complex<f64>> {
        (0..n)
            .map(|i| Complex::new((i * i % 7) as f64 - 2.0, (i * 5 % 11) as f64))
            .collect()
    }

    #[test]
    fn lines_along_any_axis_are_transformed() {
        let dims = [3, 4, 5];
        for (axis, inverse) in [(0, false), (1, true), (2, false)] {
            let (n, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
            let x = numbers(60);
            for par in [&Serial as &dyn Parallel, &Scattered] {
                let mut y = x.clone();
                Lines::new(inverse).along(par, &mut y, &dims, axis);
                for start in (0..60).filter(|i| i / inner % n == 0) {
                    let line: Vec<_> = (0..n).map(|j| x[start + j * inner]).collect();
                    for (j, want) in slow(&line, inverse).into_iter().enumerate() {
                        assert!((y[start + j * inner] - want).norm() < 1e-10);
                    }
                }
            }
        }
    }

    #[test]
    fn real_lines_have_half_of_the_frequencies() {
        for n in [1, 2, 3, 6, 7] {
            let x: Vec<f64> = numbers(2 * n).iter().map(|x| x.re).collect();
            let lines = Lines::new(false);
            let mut y = vec![Complex::new(0.0, 0.0); 2 * (n / 2 + 1)];
            lines.of_real(&Serial, &x, n, &mut y);
            for row in 0..2 {
                let line: Vec<_> = x[row * n..][..n].iter().map(|x| Complex::new(*x, 0.0)).collect();
                let want = slow(&line, false);
                for (a, b) in y[row * (n / 2 + 1)..][..n / 2 + 1].iter().zip(want) {
                    assert!((a - b).norm() < 1e-10);
                }
            }
            let mut back = vec![0.0; 2 * n];
            lines.to_real(&Serial, &y, n, &mut back);
            assert!(back.iter().zip(&x).all(|(a, b)| (a / n as f64 - b).abs() < 1e-10));
        }
    }
}
