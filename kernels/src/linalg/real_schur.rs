//! Eigenvalues and eigenvectors of general real matrices by Francis's doubly shifted QR method, as EISPACK's `orthes` and
//! `hqr2` (Wilkinson and Reinsch, Handbook for Automatic Computation II, 1971): values come in the order in which they stand
//! on the diagonal, as from LAPACK and Eigen, pairs of conjugate ones with the positive imaginary part first.

use num_complex::Complex;

/// Steps for one eigenvalue after which the method is taken not to converge.
const STEPS: usize = 100;

/// A matrix on its way to quasi-triangular form, and the orthogonal one that brings it there.
struct Francis {
    n: usize,
    h: Vec<f64>,
    v: Vec<f64>,
    values: Vec<Complex<f64>>,
    norm: f64,
}

/// The eigenvalues of a real `n` by `n` matrix and, as columns, eigenvectors of length 1; `None` if an element is not finite,
/// or the iteration does not converge.
pub fn general_eigen(a: &[f64], n: usize) -> Option<(Vec<Complex<f64>>, Vec<Complex<f64>>)> {
    if a.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    let mut f = Francis {
        n,
        h: a.to_vec(),
        v,
        values: vec![Complex::default(); n],
        norm: 0.0,
    };
    f.reduce();
    f.norm = (0..n)
        .flat_map(|i| (i.saturating_sub(1)..n).map(move |j| (i, j)))
        .map(|(i, j)| f.h[i * n + j].abs())
        .sum();
    f.iterate()?;
    f.substitute();
    Some((f.values.clone(), f.vectors()))
}

impl Francis {
    fn at(&self, i: usize, j: usize) -> f64 {
        self.h[i * self.n + j]
    }

    /// Reflections that leave one subdiagonal.
    fn reduce(&mut self) {
        let n = self.n;
        for m in 1..n.saturating_sub(1) {
            let scale: f64 = (m..n).map(|i| self.at(i, m - 1).abs()).sum();
            if (m + 1..n).all(|i| self.at(i, m - 1) == 0.0) {
                continue;
            }
            let mut u: Vec<f64> = (m..n).map(|i| self.at(i, m - 1) / scale).collect();
            let squares: f64 = u.iter().map(|x| x * x).sum();
            let g = if u[0] > 0.0 { -squares.sqrt() } else { squares.sqrt() };
            let half = squares - u[0] * g;
            u[0] -= g;
            for j in 0..n {
                let sum: f64 = (m..n).map(|i| u[i - m] * self.h[i * n + j]).sum();
                (m..n).for_each(|i| self.h[i * n + j] -= sum / half * u[i - m]);
            }
            for rows in [&mut self.h, &mut self.v] {
                for row in rows.chunks_exact_mut(n) {
                    let sum: f64 = u.iter().zip(&row[m..]).map(|(u, x)| u * x).sum();
                    row[m..].iter_mut().zip(&u).for_each(|(x, u)| *x -= sum / half * u);
                }
            }
            self.h[m * n + m - 1] = scale * g;
            (m + 1..n).for_each(|i| self.h[i * n + m - 1] = 0.0);
        }
    }

    /// The first row of the active block that ends with row `last`.
    fn block(&self, last: usize) -> usize {
        let mut l = last;
        while l > 0 {
            let beside = self.at(l - 1, l - 1).abs() + self.at(l, l).abs();
            let beside = if beside == 0.0 { self.norm } else { beside };
            if self.at(l, l - 1).abs() <= f64::EPSILON * beside {
                break;
            }
            l -= 1;
        }
        l
    }

    fn iterate(&mut self) -> Option<()> {
        let n = self.n;
        let (mut shifted, mut step) = (0.0, 0);
        let mut left = n;
        while left > 0 {
            let last = left - 1;
            let l = self.block(last);
            if l == last {
                self.h[last * n + last] += shifted;
                self.values[last] = Complex::new(self.at(last, last), 0.0);
                (left, step) = (left - 1, 0);
            } else if l + 1 == last {
                self.pair(last, shifted);
                (left, step) = (left - 2, 0);
            } else {
                step += 1;
                if step > STEPS {
                    return None;
                }
                self.sweep(l, last, step, &mut shifted);
            }
        }
        Some(())
    }

    /// The eigenvalues of the block of rows `last - 1` and `last`, made triangular if they are real.
    fn pair(&mut self, last: usize, shifted: f64) {
        let (n, before) = (self.n, last - 1);
        let w = self.at(last, before) * self.at(before, last);
        let p = (self.at(before, before) - self.at(last, last)) / 2.0;
        let q = p * p + w;
        let root = q.abs().sqrt();
        self.h[last * n + last] += shifted;
        self.h[before * n + before] += shifted;
        let x = self.at(last, last);
        if q < 0.0 {
            self.values[before] = Complex::new(x + p, root);
            self.values[last] = Complex::new(x + p, -root);
            return;
        }
        let z = if p >= 0.0 { p + root } else { p - root };
        let first = x + z;
        let second = if z == 0.0 { first } else { x - w / z };
        self.values[before] = Complex::new(first, 0.0);
        self.values[last] = Complex::new(second, 0.0);
        let length = self.at(last, before).hypot(z);
        let (sin, cos) = (self.at(last, before) / length, z / length);
        for j in before..n {
            let (a, b) = (self.at(before, j), self.at(last, j));
            self.h[before * n + j] = cos * a + sin * b;
            self.h[last * n + j] = cos * b - sin * a;
        }
        for row in self
            .h
            .chunks_exact_mut(n)
            .take(last + 1)
            .chain(self.v.chunks_exact_mut(n))
        {
            let (a, b) = (row[before], row[last]);
            row[before] = cos * a + sin * b;
            row[last] = cos * b - sin * a;
        }
    }

    /// One doubly shifted step on rows `l..=last`.
    fn sweep(&mut self, l: usize, last: usize, step: usize, shifted: &mut f64) {
        let n = self.n;
        let (mut x, mut y) = (self.at(last, last), self.at(last - 1, last - 1));
        let mut w = self.at(last, last - 1) * self.at(last - 1, last);
        // Shifts that get out of cycles.
        if step.is_multiple_of(10) && step != 30 {
            *shifted += x;
            (0..=last).for_each(|i| self.h[i * n + i] -= x);
            let s = self.at(last, last - 1).abs() + self.at(last - 1, last - 2).abs();
            (x, y, w) = (0.75 * s, 0.75 * s, -0.4375 * s * s);
        }
        if step == 30 {
            let half = (y - x) / 2.0;
            let square = half * half + w;
            if square > 0.0 {
                let root = if y < x { -square.sqrt() } else { square.sqrt() };
                let s = x - w / (half + root);
                (0..=last).for_each(|i| self.h[i * n + i] -= s);
                *shifted += s;
                (x, y, w) = (0.964, 0.964, 0.964);
            }
        }
        // Two small subdiagonal elements in a row.
        let mut m = last - 2;
        let (mut p, mut q, mut r);
        loop {
            let z = self.at(m, m);
            let (a, b) = (x - z, y - z);
            p = (a * b - w) / self.at(m + 1, m) + self.at(m, m + 1);
            q = self.at(m + 1, m + 1) - z - a - b;
            r = self.at(m + 2, m + 1);
            let s = p.abs() + q.abs() + r.abs();
            (p, q, r) = (p / s, q / s, r / s);
            if m == l {
                break;
            }
            let small = self.at(m, m - 1).abs() * (q.abs() + r.abs());
            let beside = self.at(m - 1, m - 1).abs() + z.abs() + self.at(m + 1, m + 1).abs();
            if small < f64::EPSILON * p.abs() * beside {
                break;
            }
            m -= 1;
        }
        for i in m + 2..=last {
            self.h[i * n + i - 2] = 0.0;
            if i > m + 2 {
                self.h[i * n + i - 3] = 0.0;
            }
        }
        for k in m..last {
            let three = k + 1 != last;
            let mut scale = 0.0;
            if k != m {
                p = self.at(k, k - 1);
                q = self.at(k + 1, k - 1);
                r = if three { self.at(k + 2, k - 1) } else { 0.0 };
                scale = p.abs() + q.abs() + r.abs();
                if scale == 0.0 {
                    continue;
                }
                (p, q, r) = (p / scale, q / scale, r / scale);
            }
            let s = (p * p + q * q + r * r).sqrt();
            let s = if p < 0.0 { -s } else { s };
            if s == 0.0 {
                continue;
            }
            if k != m {
                self.h[k * n + k - 1] = -s * scale;
            } else if l != m {
                self.h[k * n + k - 1] = -self.at(k, k - 1);
            }
            p += s;
            let (x, y, z) = (p / s, q / s, r / s);
            (q, r) = (q / p, r / p);
            for j in k..n {
                let mut sum = self.at(k, j) + q * self.at(k + 1, j);
                if three {
                    sum += r * self.at(k + 2, j);
                    self.h[(k + 2) * n + j] -= sum * z;
                }
                self.h[k * n + j] -= sum * x;
                self.h[(k + 1) * n + j] -= sum * y;
            }
            let rows = self.h.chunks_exact_mut(n).take(last.min(k + 3) + 1);
            for row in rows.chain(self.v.chunks_exact_mut(n)) {
                let mut sum = x * row[k] + y * row[k + 1];
                if three {
                    sum += z * row[k + 2];
                    row[k + 2] -= sum * r;
                }
                row[k] -= sum;
                row[k + 1] -= sum * q;
            }
        }
    }

    /// Replaces the upper triangle by the eigenvectors of the quasi-triangular matrix: columns, or for a pair of conjugate
    /// ones the real and the imaginary part of the first.
    fn substitute(&mut self) {
        let n = self.n;
        if self.norm == 0.0 {
            return;
        }
        let tiny = f64::EPSILON * self.norm;
        let safe = |w: f64| if w == 0.0 { tiny } else { w };
        for last in (0..n).rev() {
            let value = self.values[last];
            if value.im > 0.0 {
                // Done with the second of the pair.
                continue;
            }
            let mut x = vec![Complex::new(0.0, 0.0); last + 1];
            let mut top = last;
            if value.im == 0.0 {
                x[last].re = 1.0;
            } else {
                // The vector of the value with the positive imaginary part.
                let below = self.at(last, last - 1);
                x[last].im = 1.0;
                x[last - 1] = match below.abs() > self.at(last - 1, last).abs() {
                    true => Complex::new(value.im, -(self.at(last, last) - value.re)) / below,
                    false => {
                        Complex::new(0.0, -self.at(last - 1, last))
                            / Complex::new(self.at(last - 1, last - 1) - value.re, value.im)
                    }
                };
                top = last - 1;
            }
            let value = value.conj();
            let mut i = top;
            while i > 0 {
                i -= 1;
                let sum = |row: usize, from: usize, x: &[Complex<f64>]| -> Complex<f64> {
                    (from..=last).map(|j| x[j] * self.at(row, j)).sum()
                };
                if self.values[i].im == 0.0 {
                    let mut w = Complex::new(self.at(i, i), 0.0) - value;
                    if w == Complex::new(0.0, 0.0) {
                        w.re = safe(0.0);
                    }
                    x[i] = -sum(i, i + 1, &x) / w;
                } else {
                    // Two rows at once.
                    let (a, b) = (i - 1, i);
                    let (p, q) = (-sum(a, b + 1, &x), -sum(b, b + 1, &x));
                    let (waa, wbb) = (
                        Complex::new(self.at(a, a), 0.0) - value,
                        Complex::new(self.at(b, b), 0.0) - value,
                    );
                    let (wab, wba) = (self.at(a, b), self.at(b, a));
                    let mut determinant = waa * wbb - wab * wba;
                    if determinant == Complex::new(0.0, 0.0) {
                        determinant.re = safe(0.0) * self.norm;
                    }
                    x[a] = (p * wbb - q * wab) / determinant;
                    x[b] = (q * waa - p * wba) / determinant;
                    i -= 1;
                }
                // Against overflow.
                let largest = x[i].re.abs().max(x[i].im.abs());
                if f64::EPSILON * largest * largest > 1.0 {
                    x.iter_mut().for_each(|x| *x /= largest);
                }
            }
            for (i, x) in x.iter().enumerate() {
                self.h[i * n + last] = if value.im == 0.0 { x.re } else { x.im };
                if value.im != 0.0 {
                    self.h[i * n + last - 1] = x.re;
                }
            }
            (last + 1..n).for_each(|i| self.h[i * n + last] = 0.0);
            if value.im != 0.0 {
                (last + 1..n).for_each(|i| self.h[i * n + last - 1] = 0.0);
            }
        }
    }

    fn vectors(&self) -> Vec<Complex<f64>> {
        let n = self.n;
        let x = match self.norm == 0.0 {
            true => self.v.clone(),
            false => super::product(&self.v, &self.h, (n, n, n)),
        };
        let mut out = vec![Complex::default(); n * n];
        let mut j = 0;
        while j < n {
            let pair = self.values[j].im > 0.0;
            let column: Vec<Complex<f64>> = (0..n)
                .map(|i| Complex::new(x[i * n + j], if pair { x[i * n + j + 1] } else { 0.0 }))
                .collect();
            let length = column.iter().map(|x| x.norm_sqr()).sum::<f64>().sqrt();
            for (i, x) in column.iter().enumerate() {
                out[i * n + j] = x / length;
                if pair {
                    out[i * n + j + 1] = x.conj() / length;
                }
            }
            j += if pair { 2 } else { 1 };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, reals};
    use super::super::{Num, product};
    use super::*;

    #[test]
    fn vectors_are_scaled_by_the_matrix() {
        for n in [1, 2, 3, 5, 8, 30] {
            for seed in 0..5 {
                let a = reals(n * n, 20 + seed);
                let (e, v) = general_eigen(&a, n).unwrap();
                let wide: Vec<_> = a.iter().map(|x| Complex::new(*x, 0.0)).collect();
                let scaled: Vec<_> = (0..n * n).map(|i| v[i] * e[i % n]).collect();
                close(&product(&wide, &v, (n, n, n)), &scaled);
                for k in 0..n {
                    assert!(((0..n).map(|i| v[i * n + k].norm2()).sum::<f64>() - 1.0).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn values_stand_in_the_order_of_the_diagonal_and_pairs_together() {
        let (e, _) = general_eigen(&[9.0, 1.0, 2.0, 0.0, 4.0, 1.0, 0.0, 0.0, -1.0], 3).unwrap();
        assert_eq!(e.iter().map(|x| x.re).collect::<Vec<_>>(), [9.0, 4.0, -1.0]);
        let (e, v) = general_eigen(&[0.0, 1.0, -1.0, 0.0], 2).unwrap();
        assert_eq!(e, [Complex::new(0.0, 1.0), Complex::new(0.0, -1.0)]);
        let half = 0.5f64.sqrt();
        close(&v[..2], &[Complex::new(half, 0.0), Complex::new(half, 0.0)]);
        close(&v[2..], &[Complex::new(0.0, half), Complex::new(0.0, -half)]);
        assert!(general_eigen(&[f64::NAN], 1).is_none());
        let (e, v) = general_eigen(&[0.0; 4], 2).unwrap();
        assert!(e.iter().all(|x| x.norm() == 0.0) && v[0] == Complex::new(1.0, 0.0) && v[1].norm() == 0.0);
    }
}
