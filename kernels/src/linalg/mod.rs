//! Dense linear algebra on small and middling matrices: factorisations, inverses, eigenvalues, singular values.
//!
//! Everything is computed in f64 or in complex numbers of two f64, whatever the tensor's type, so that results for
//! narrower types are right to the last bits and there are two copies of the code only. Matrices are row-major
//! slices. The algorithms are those of Golub and Van Loan, Matrix Computations, 4th edition; the Jacobi methods are
//! chosen because they are as accurate as any and short.
#![forbid(unsafe_code)]

mod cholesky;
mod eigen;
mod lu;
mod qr;
mod real_schur;
mod schur;
mod svd;

pub use cholesky::{cholesky, cholesky_gradient};
pub use eigen::eigen;
pub use lu::{Lu, lu};
pub use qr::qr;
pub use real_schur::general_eigen;
pub use schur::Schur;
pub use svd::{Svd, svd};

use std::fmt::Debug;
use std::ops::{Add, Div, Mul, Neg, Sub};

use actorflow_core::dtype::Element;
use num_complex::Complex;

/// A real or complex number.
pub trait Num:
    Element + Debug + Neg<Output = Self> + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// A real number.
    fn real(x: f64) -> Self;
    /// The real part.
    fn re(self) -> f64;
    /// The imaginary part.
    fn im(self) -> f64;
    /// The complex number; its real part, for real ones.
    fn from_complex(x: Complex<f64>) -> Self;
    /// The complex conjugate.
    fn conj(self) -> Self;
    /// The square of the magnitude.
    fn norm2(self) -> f64;
    /// The magnitude, without overflow on the way.
    fn abs(self) -> f64;
    /// The product with a real number.
    fn scale(self, by: f64) -> Self;
}

impl Num for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    fn real(x: f64) -> f64 {
        x
    }
    fn re(self) -> f64 {
        self
    }
    fn im(self) -> f64 {
        0.0
    }
    fn from_complex(x: Complex<f64>) -> f64 {
        x.re
    }
    fn conj(self) -> f64 {
        self
    }
    fn norm2(self) -> f64 {
        self * self
    }
    fn abs(self) -> f64 {
        f64::abs(self)
    }
    fn scale(self, by: f64) -> f64 {
        self * by
    }
}

impl Num for Complex<f64> {
    const ZERO: Self = Complex::new(0.0, 0.0);
    const ONE: Self = Complex::new(1.0, 0.0);
    fn real(x: f64) -> Self {
        Complex::new(x, 0.0)
    }
    fn re(self) -> f64 {
        self.re
    }
    fn im(self) -> f64 {
        self.im
    }
    fn from_complex(x: Complex<f64>) -> Self {
        x
    }
    fn conj(self) -> Self {
        Complex::conj(&self)
    }
    fn norm2(self) -> f64 {
        self.norm_sqr()
    }
    fn abs(self) -> f64 {
        self.norm()
    }
    fn scale(self, by: f64) -> Self {
        Complex::scale(&self, by)
    }
}

/// The conjugate transpose of an `m` by `n` matrix.
pub fn adjoint<T: Num>(a: &[T], m: usize, n: usize) -> Vec<T> {
    let mut out = vec![T::ZERO; a.len()];
    for i in 0..m {
        for j in 0..n {
            out[j * m + i] = a[i * n + j].conj();
        }
    }
    out
}

/// The product of an `m` by `k` and a `k` by `n` matrix.
pub fn product<T: Num>(a: &[T], b: &[T], (m, k, n): (usize, usize, usize)) -> Vec<T> {
    let mut out = vec![T::ZERO; m * n];
    for i in 0..m {
        for l in 0..k {
            add_scaled(&mut out[i * n..][..n], a[i * k + l], &b[l * n..][..n]);
        }
    }
    out
}

/// `y += alpha * x`
fn add_scaled<T: Num>(y: &mut [T], alpha: T, x: &[T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = *y + alpha * *x;
    }
}

/// Rows `i` and `j` of a matrix with rows of `n` elements, `i < j`.
fn two_rows<T>(a: &mut [T], n: usize, i: usize, j: usize) -> (&mut [T], &mut [T]) {
    let (top, bottom) = a.split_at_mut(j * n);
    (&mut top[i * n..][..n], &mut bottom[..n])
}

/// A triangular matrix.
#[derive(Debug, Clone, Copy)]
pub struct Triangular<'a, T> {
    /// The elements; those of the other triangle are not read.
    pub a: &'a [T],
    /// Rows.
    pub n: usize,
    /// Which triangle.
    pub lower: bool,
    /// Whether its conjugate transpose is meant.
    pub adjoint: bool,
    /// Whether its diagonal is taken to be 1.
    pub unit: bool,
}

impl<T: Num> Triangular<'_, T> {
    /// Solves for `k` right sides in place: `b`, `n` by `k`, becomes the inverse times `b`.
    pub fn solve(&self, b: &mut [T], k: usize) {
        let n = self.n;
        if k == 0 {
            return;
        }
        let at = |i: usize, j: usize| match self.adjoint {
            true => self.a[j * n + i].conj(),
            false => self.a[i * n + j],
        };
        // The adjoint of a lower triangle is an upper one.
        let forward = self.lower != self.adjoint;
        for step in 0..n {
            let i = if forward { step } else { n - 1 - step };
            let others = if forward { 0..i } else { i + 1..n };
            for j in others {
                let (top, bottom) = two_rows(b, k, i.min(j), i.max(j));
                let (row, other) = if i < j { (top, bottom) } else { (bottom, top) };
                add_scaled(row, -at(i, j), other);
            }
            if !self.unit {
                let d = at(i, i);
                b[i * k..][..k].iter_mut().for_each(|x| *x = *x / d);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use actorflow_core::philox::{Philox, uniform_f64};

    /// Random numbers in -1..1.
    pub(crate) fn reals(n: usize, seed: u64) -> Vec<f64> {
        let mut p = Philox::new(seed, 3);
        (0..n)
            .map(|_| {
                let b = p.next_block();
                2.0 * uniform_f64(b[0], b[1]) - 1.0
            })
            .collect()
    }

    /// Random complex numbers.
    pub(crate) fn complexes(n: usize, seed: u64) -> Vec<Complex<f64>> {
        reals(2 * n, seed).chunks(2).map(|c| Complex::new(c[0], c[1])).collect()
    }

    /// Fails unless both agree to 1e-10.
    #[track_caller]
    pub(crate) fn close<T: Num>(a: &[T], b: &[T]) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((*x - *y).abs() < 1e-10, "{a:?}\n{b:?}");
        }
    }

    /// The unit matrix.
    pub(crate) fn unit<T: Num>(n: usize) -> Vec<T> {
        (0..n * n)
            .map(|i| if i % (n + 1) == 0 { T::ONE } else { T::ZERO })
            .collect()
    }

    #[test]
    fn triangles_are_solved_from_either_side() {
        let n = 5;
        let a: Vec<_> = complexes(n * n, 1)
            .into_iter()
            .map(|x| x + Complex::new(2.0, 0.0))
            .collect();
        for lower in [false, true] {
            let triangle: Vec<_> = (0..n * n)
                .map(|i| {
                    if (i / n >= i % n) == lower || i / n == i % n {
                        a[i]
                    } else {
                        Num::real(0.0)
                    }
                })
                .collect();
            for adjoint in [false, true] {
                let x = complexes(n * 2, 2);
                let full = if adjoint {
                    super::adjoint(&triangle, n, n)
                } else {
                    triangle.clone()
                };
                let mut b = product(&full, &x, (n, n, 2));
                Triangular {
                    a: &a,
                    n,
                    lower,
                    adjoint,
                    unit: false,
                }
                .solve(&mut b, 2);
                close(&b, &x);
            }
        }
    }
}
