//! Schur's decomposition of general matrices, and what is computed from it: eigenvalues and eigenvectors, square roots,
//! logarithms. The steps are those of LAPACK's and Eigen's complex QR method, so that eigenvectors come out with the same
//! phases.

use num_complex::Complex;

use super::{Num, add_scaled, adjoint, product};

type C = Complex<f64>;

/// A matrix as `u t u*`, with a unitary `u` and an upper triangular `t`.
pub struct Schur {
    n: usize,
    /// Upper triangular; the eigenvalues are its diagonal.
    pub t: Vec<C>,
    /// Unitary.
    pub u: Vec<C>,
}

/// The sum of the magnitudes of both parts.
fn size(x: C) -> f64 {
    x.re.abs() + x.im.abs()
}

/// The unit matrix.
fn unit(n: usize) -> Vec<C> {
    (0..n * n)
        .map(|i| if i % (n + 1) == 0 { C::ONE } else { C::ZERO })
        .collect()
}

/// A reflection `1 - tau v v*`, `v[0] = 1`, that maps a vector to a real multiple of the first unit vector.
struct Reflection {
    v: Vec<C>,
    tau: C,
}

impl Reflection {
    fn of(x: &[C]) -> Self {
        let tail: f64 = x[1..].iter().map(|x| x.norm2()).sum();
        if tail <= f64::MIN_POSITIVE && x[0].im * x[0].im <= f64::MIN_POSITIVE {
            let mut v = vec![C::ZERO; x.len()];
            v[0] = C::ONE;
            return Reflection { v, tau: C::ZERO };
        }
        let norm = (x[0].norm2() + tail).sqrt();
        let beta = if x[0].re >= 0.0 { -norm } else { norm };
        let divisor = x[0] - beta;
        let mut v: Vec<C> = x.iter().map(|x| x / divisor).collect();
        v[0] = C::ONE;
        let tau = ((C::real(beta) - x[0]) / beta).conj();
        Reflection { v, tau }
    }

    /// Applies it to rows `from..` of a matrix with `n` columns.
    fn rows(&self, a: &mut [C], n: usize, from: usize) {
        let mut sums = vec![C::ZERO; n];
        for (v, row) in self.v.iter().zip(a[from * n..].chunks_exact(n)) {
            add_scaled(&mut sums, v.conj(), row);
        }
        for (v, row) in self.v.iter().zip(a[from * n..].chunks_exact_mut(n)) {
            add_scaled(row, -self.tau * v, &sums);
        }
    }

    /// Applies its adjoint from the right to columns `from..`.
    fn columns(&self, a: &mut [C], n: usize, from: usize) {
        for row in a.chunks_exact_mut(n) {
            let row = &mut row[from..];
            let sum: C = row.iter().zip(&self.v).map(|(x, v)| x * v).sum();
            for (x, v) in row.iter_mut().zip(&self.v) {
                *x -= self.tau.conj() * sum * v.conj();
            }
        }
    }
}

/// A rotation with a real cosine.
struct Rotation {
    c: f64,
    s: C,
}

impl Rotation {
    /// The one whose adjoint maps `(p, q)` to `(r, 0)`.
    fn of(p: C, q: C) -> Self {
        if q == C::ZERO {
            let c = if p.re < 0.0 { -1.0 } else { 1.0 };
            return Rotation { c, s: C::ZERO };
        }
        if p == C::ZERO {
            return Rotation {
                c: 0.0,
                s: -q / q.abs(),
            };
        }
        let scale = size(p).max(size(q));
        let (ps, qs) = (p / scale, q / scale);
        let whole = (ps.norm2() + qs.norm2()).sqrt();
        let whole = if p.re < 0.0 { -whole } else { whole };
        let length = ps.abs();
        Rotation {
            c: length / whole,
            s: -qs * (ps.conj() / (length * whole)),
        }
    }

    /// Applies its adjoint to rows `i` and `i + 1`, from column `from` on.
    fn rows(&self, a: &mut [C], n: usize, i: usize, from: usize) {
        let (top, bottom) = a[i * n..(i + 2) * n].split_at_mut(n);
        for (x, y) in top[from..].iter_mut().zip(&mut bottom[from..]) {
            let (p, q) = (*x, *y);
            *x = p * self.c - self.s.conj() * q;
            *y = self.s * p + q * self.c;
        }
    }

    /// Applies it to columns `i` and `i + 1` of the first `rows` rows.
    fn columns(&self, a: &mut [C], n: usize, i: usize, rows: usize) {
        for row in a.chunks_exact_mut(n).take(rows) {
            let (p, q) = (row[i], row[i + 1]);
            row[i] = p * self.c - self.s * q;
            row[i + 1] = self.s.conj() * p + q * self.c;
        }
    }
}

/// Steps per row after which the method is taken not to converge.
const STEPS: usize = 30;

impl Schur {
    /// Decomposes an `n` by `n` matrix; `None` if an element is not finite, or the iteration does not converge.
    pub fn of<T: Num>(a: &[T], n: usize) -> Option<Self> {
        let mut t: Vec<C> = a.iter().map(|x| C::new(x.re(), x.im())).collect();
        if t.iter().any(|x| !x.is_finite()) {
            return None;
        }
        let mut u = unit(n);
        // To Hessenberg form.
        for i in 0..n.saturating_sub(2) {
            let column: Vec<C> = (i + 1..n).map(|r| t[r * n + i]).collect();
            let h = Reflection::of(&column);
            h.rows(&mut t, n, i + 1);
            h.columns(&mut t, n, i + 1);
            h.columns(&mut u, n, i + 1);
            (i + 2..n).for_each(|r| t[r * n + i] = C::ZERO);
        }
        let mut schur = Schur { n, t, u };
        schur.iterate().then_some(schur)
    }

    /// Whether element `(i + 1, i)` is 0 but for rounding; it becomes 0 then.
    fn negligible(&mut self, i: usize) -> bool {
        let n = self.n;
        let beside = size(self.t[i * n + i]) + size(self.t[(i + 1) * n + i + 1]);
        let small = size(self.t[(i + 1) * n + i]) <= beside * f64::EPSILON;
        if small {
            self.t[(i + 1) * n + i] = C::ZERO;
        }
        small
    }

    /// The eigenvalue of the last block of two that is nearer to its last element.
    fn shift(&self, last: usize, step: usize) -> C {
        let n = self.n;
        let at = |i: usize, j: usize| self.t[i * n + j];
        if (step == 10 || step == 20) && last > 1 {
            return C::real(at(last, last - 1).re.abs() + at(last - 1, last - 2).re.abs());
        }
        let block = [
            at(last - 1, last - 1),
            at(last - 1, last),
            at(last, last - 1),
            at(last, last),
        ];
        let norm: f64 = block.iter().map(|x| x.abs()).sum();
        let [a, b, c, d] = block.map(|x| x / norm);
        let product = b * c;
        let difference = a - d;
        let root = (difference * difference + product * 4.0).sqrt();
        let determinant = a * d - product;
        let (mut first, mut second) = ((a + d + root) * 0.5, (a + d - root) * 0.5);
        if size(first) > size(second) {
            second = determinant / first;
        } else if size(second) != 0.0 {
            first = determinant / second;
        }
        let nearer = if size(first - d) < size(second - d) {
            first
        } else {
            second
        };
        nearer * norm
    }

    fn iterate(&mut self) -> bool {
        let n = self.n;
        let (mut last, mut step, mut total) = (n.saturating_sub(1), 0, 0);
        loop {
            while last > 0 && self.negligible(last - 1) {
                step = 0;
                last -= 1;
            }
            if last == 0 {
                break;
            }
            step += 1;
            total += 1;
            if total > STEPS * n {
                return false;
            }
            let mut first = last - 1;
            while first > 0 && !self.negligible(first - 1) {
                first -= 1;
            }
            let shift = self.shift(last, step);
            let t = &mut self.t;
            let mut turn = Rotation::of(t[first * n + first] - shift, t[(first + 1) * n + first]);
            for i in first..last {
                if i > first {
                    turn = Rotation::of(t[i * n + i - 1], t[(i + 1) * n + i - 1]);
                }
                turn.rows(t, n, i, i.saturating_sub(usize::from(i > first)));
                if i > first {
                    t[(i + 1) * n + i - 1] = C::ZERO;
                }
                turn.columns(t, n, i, (i + 2).min(last) + 1);
                turn.columns(&mut self.u, n, i, n);
            }
        }
        true
    }

    /// `u x u*`
    fn back(&self, x: &[C]) -> Vec<C> {
        let n = self.n;
        let left = product(&self.u, x, (n, n, n));
        product(&left, &adjoint(&self.u, n, n), (n, n, n))
    }

    /// The eigenvalues, of ascending magnitude, and eigenvectors of length 1 as columns.
    pub fn eigen(&self) -> (Vec<C>, Vec<C>) {
        let (n, t) = (self.n, &self.t);
        let norm = t.iter().map(|x| x.norm2()).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        let mut x = vec![C::ZERO; n * n];
        for k in (0..n).rev() {
            x[k * n + k] = C::ONE;
            for i in (0..k).rev() {
                let rest: C = (i + 1..k).map(|j| t[i * n + j] * x[j * n + k]).sum();
                let mut z = t[i * n + i] - t[k * n + k];
                if z == C::ZERO {
                    z.re = f64::EPSILON * norm;
                }
                x[i * n + k] = (-t[i * n + k] - rest) / z;
            }
        }
        let v = product(&self.u, &x, (n, n, n));
        let lengths: Vec<f64> = (0..n)
            .map(|k| (0..n).map(|i| v[i * n + k].norm2()).sum::<f64>().sqrt())
            .collect();
        // By repeatedly exchanging for the smallest, which decides between values of equal magnitude as Eigen does.
        let mut order: Vec<usize> = (0..n).collect();
        let value = |k: usize| t[k * n + k];
        for i in 0..n {
            let mut least = i;
            for k in i + 1..n {
                if value(order[k]).abs() < value(order[least]).abs() {
                    least = k;
                }
            }
            order.swap(i, least);
        }
        let values = order.iter().map(|k| value(*k)).collect();
        let vectors = (0..n * n)
            .map(|at| v[at / n * n + order[at % n]] / lengths[order[at % n]])
            .collect();
        (values, vectors)
    }

    /// The principal square root; not a number where there is none.
    pub fn square_root(&self) -> Vec<C> {
        self.back(&root(&self.t, self.n))
    }

    /// The principal logarithm, by inverse scaling and squaring (Higham, Functions of Matrices, 11.5).
    pub fn logarithm(&self) -> Vec<C> {
        let n = self.n;
        let mut x = self.t.clone();
        let mut doublings = 0;
        // The distance from the unit matrix up to which Padé's approximation of degree 7 is exact to rounding.
        const NEAR: f64 = 0.25;
        let distance = |x: &[C]| {
            (0..n)
                .map(|j| {
                    (0..n)
                        .map(|i| (x[i * n + j] - if i == j { C::ONE } else { C::ZERO }).abs())
                        .sum::<f64>()
                })
                .fold(0.0, f64::max)
        };
        while distance(&x) > NEAR && doublings < 100 {
            x = root(&x, n);
            doublings += 1;
        }
        (0..n).for_each(|i| x[i * n + i] -= C::ONE);
        let mut log = vec![C::ZERO; n * n];
        for (node, weight) in GAUSS {
            // weight * x / (1 + node * x), by substitution in triangular matrices.
            let mut below: Vec<C> = x.iter().map(|x| x * node).collect();
            (0..n).for_each(|i| below[i * n + i] += C::ONE);
            let mut part = x.clone();
            super::Triangular {
                a: &below,
                n,
                lower: false,
                adjoint: false,
                unit: false,
            }
            .solve(&mut part, n);
            add_scaled(&mut log, C::real(weight), &part);
        }
        let scale = f64::from(doublings).exp2();
        log.iter_mut().for_each(|x| *x *= scale);
        // Exact on the diagonal, where the subtraction of 1 costs digits.
        (0..n).for_each(|i| log[i * n + i] = self.t[i * n + i].ln());
        self.back(&log)
    }
}

/// Nodes and weights of Gauss's quadrature with 7 points on 0..1.
const GAUSS: [(f64, f64); 7] = [
    (0.0254460438286207, 0.06474248308443487),
    (0.12923440720030277, 0.13985269574463843),
    (0.2970774243113014, 0.19091502525255935),
    (0.5, 0.20897959183673465),
    (0.7029225756886985, 0.19091502525255935),
    (0.8707655927996972, 0.13985269574463843),
    (0.9745539561713793, 0.06474248308443487),
];

/// The principal square root of an upper triangular matrix, by Björck's and Hammarling's recurrence.
fn root(t: &[C], n: usize) -> Vec<C> {
    let mut r = vec![C::ZERO; n * n];
    for j in 0..n {
        r[j * n + j] = t[j * n + j].sqrt();
        for i in (0..j).rev() {
            let inner: C = (i + 1..j).map(|k| r[i * n + k] * r[k * n + j]).sum();
            let rest = t[i * n + j] - inner;
            // Of a matrix that is diagonal there, the root is too, whatever the roots on the diagonal are.
            r[i * n + j] = match rest == C::ZERO {
                true => C::ZERO,
                false => rest / (r[i * n + i] + r[j * n + j]),
            };
        }
    }
    r
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, complexes, reals, unit};
    use super::*;

    #[test]
    fn factors_are_unitary_and_triangular_and_make_up_the_matrix() {
        for n in [1, 2, 3, 8, 25] {
            for a in [complexes(n * n, 5), reals(n * n, 6).into_iter().map(C::real).collect()] {
                let s = Schur::of(&a, n).unwrap();
                close(&product(&s.u, &adjoint(&s.u, n, n), (n, n, n)), &unit(n));
                assert!((0..n * n).all(|i| i / n <= i % n || s.t[i] == C::ZERO));
                close(&s.back(&s.t), &a);
            }
        }
        assert!(Schur::of(&[f64::NAN], 1).is_none());
        assert!(Schur::of::<f64>(&[], 0).unwrap().eigen().0.is_empty());
        // A nilpotent one, whose eigenvalues coincide.
        let s = Schur::of(&[0.0, 1.0, 0.0, 0.0], 2).unwrap();
        assert_eq!(s.eigen().0, [C::ZERO; 2]);
    }

    #[test]
    fn eigenvectors_are_scaled_by_the_matrix() {
        for n in [1, 2, 5, 20] {
            let a = complexes(n * n, 9);
            let (e, v) = Schur::of(&a, n).unwrap().eigen();
            assert!(e.windows(2).all(|w| w[0].abs() <= w[1].abs()));
            let scaled: Vec<C> = (0..n * n).map(|i| v[i] * e[i % n]).collect();
            close(&product(&a, &v, (n, n, n)), &scaled);
            assert!((v.iter().map(|x| x.norm2()).sum::<f64>() - n as f64).abs() < 1e-12);
        }
    }

    #[test]
    fn roots_squared_and_logarithms_of_exponentials_are_the_matrix() {
        for n in [1, 2, 4, 7] {
            let mut a = complexes(n * n, 11);
            (0..n).for_each(|i| a[i * n + i] += C::real(n as f64));
            let s = Schur::of(&a, n).unwrap();
            let r = s.square_root();
            close(&product(&r, &r, (n, n, n)), &a);
            // The series of the exponential, of a small matrix.
            let small: Vec<C> = complexes(n * n, 12).iter().map(|x| x * 0.3).collect();
            let (mut e, mut term) = (unit::<C>(n), unit::<C>(n));
            for k in 1..40 {
                term = product(&term, &small, (n, n, n));
                term.iter_mut().for_each(|x| *x /= f64::from(k));
                add_scaled(&mut e, C::ONE, &term);
            }
            close(&Schur::of(&e, n).unwrap().logarithm(), &small);
        }
    }
}
