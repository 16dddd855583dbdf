//! LU factorisation with partial pivoting.

use super::{Num, Triangular, two_rows};

/// `P A = L U`: L below the diagonal (its own diagonal is 1) and U above, in one matrix.
#[derive(Debug, Clone)]
pub struct Lu<T> {
    /// Both triangles.
    pub factors: Vec<T>,
    /// Row `i` of `P A` is row `rows[i]` of A.
    pub rows: Vec<usize>,
    /// Whether an odd number of rows was exchanged.
    pub odd: bool,
    /// Rows and columns.
    pub n: usize,
}

/// Factors an `n` by `n` matrix. A singular one has a zero on the diagonal of U.
pub fn lu<T: Num>(a: &[T], n: usize) -> Lu<T> {
    let mut f = Lu {
        factors: a.to_vec(),
        rows: (0..n).collect(),
        odd: false,
        n,
    };
    for k in 0..n {
        let mut pivot = k;
        for i in k + 1..n {
            if f.factors[i * n + k].abs() > f.factors[pivot * n + k].abs() {
                pivot = i;
            }
        }
        if pivot != k {
            let (a, b) = two_rows(&mut f.factors, n, k, pivot);
            a.swap_with_slice(b);
            f.rows.swap(k, pivot);
            f.odd = !f.odd;
        }
        let d = f.factors[k * n + k];
        if d == T::ZERO {
            continue;
        }
        for i in k + 1..n {
            let (top, row) = two_rows(&mut f.factors, n, k, i);
            let l = row[k] / d;
            row[k] = l;
            if l != T::ZERO {
                super::add_scaled(&mut row[k + 1..], -l, &top[k + 1..]);
            }
        }
    }
    f
}

impl<T: Num> Lu<T> {
    /// The diagonal of U.
    pub fn pivots(&self) -> impl Iterator<Item = T> + '_ {
        self.factors.iter().step_by(self.n + 1).copied()
    }

    /// Whether the matrix has no inverse (an element that is not a number counts as none).
    pub fn is_singular(&self) -> bool {
        self.pivots().any(|p| !(p.abs() > 0.0))
    }

    /// The determinant.
    pub fn determinant(&self) -> T {
        let sign = if self.odd { -T::ONE } else { T::ONE };
        self.pivots().fold(sign, |a, b| a * b)
    }

    /// The determinant divided by its magnitude, and the logarithm of the magnitude; 0 and -inf of a singular matrix.
    pub fn sign_and_log(&self) -> (T, f64) {
        let sign = if self.odd { -T::ONE } else { T::ONE };
        self.pivots().fold((sign, 0.0), |(sign, log), p| {
            let size = p.abs();
            let unit = if size == 0.0 { T::ZERO } else { p.scale(1.0 / size) };
            (sign * unit, log + size.ln())
        })
    }

    /// Solves `A X = B`, or `A^H X = B`, for B with `k` columns.
    pub fn solve(&self, b: &[T], k: usize, adjoint: bool) -> Vec<T> {
        let n = self.n;
        let lower = Triangular {
            a: &self.factors,
            n,
            lower: true,
            adjoint,
            unit: true,
        };
        let upper = Triangular {
            lower: false,
            unit: false,
            ..lower
        };
        let mut x = vec![T::ZERO; n * k];
        if adjoint {
            let mut y = b.to_vec();
            upper.solve(&mut y, k);
            lower.solve(&mut y, k);
            for (i, row) in self.rows.iter().enumerate() {
                x[row * k..][..k].copy_from_slice(&y[i * k..][..k]);
            }
        } else {
            for (i, row) in self.rows.iter().enumerate() {
                x[i * k..][..k].copy_from_slice(&b[row * k..][..k]);
            }
            lower.solve(&mut x, k);
            upper.solve(&mut x, k);
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, complexes, reals};
    use super::super::{adjoint, product};
    use super::*;

    #[test]
    fn systems_are_solved_with_either_matrix() {
        for n in [1, 2, 5, 20] {
            let (a, x) = (complexes(n * n, 4), complexes(n * 3, 5));
            let f = lu(&a, n);
            close(&f.solve(&product(&a, &x, (n, n, 3)), 3, false), &x);
            close(&f.solve(&product(&adjoint(&a, n, n), &x, (n, n, 3)), 3, true), &x);
        }
    }

    #[test]
    fn determinants_are_signed() {
        let f = lu(&[0.0, 2.0, 3.0, 4.0], 2);
        assert_eq!(f.determinant(), -6.0);
        let (sign, log) = f.sign_and_log();
        assert!(sign == -1.0 && (log - 6f64.ln()).abs() < 1e-15);
        assert_eq!(lu::<f64>(&[], 0).determinant(), 1.0);
        let singular = lu(&[1.0, 2.0, 2.0, 4.0], 2);
        assert!(singular.is_singular() && singular.determinant() == 0.0);
        assert_eq!(singular.sign_and_log(), (0.0, f64::NEG_INFINITY));
        assert!(!lu(&reals(16, 1), 4).is_singular());
    }
}
