//! Singular values by one-sided Jacobi rotations (Hestenes 1958).

use super::eigen::{rotation, turn_columns};
use super::{Num, adjoint, qr};

/// Singular values in descending order, and the vectors in the columns of U and V: `A = U diag(s) V^H`.
#[derive(Debug, Clone)]
pub struct Svd<T> {
    /// The lesser of rows and columns of them.
    pub s: Vec<f64>,
    /// `m` by `p`.
    pub u: Vec<T>,
    /// `n` by `q`.
    pub v: Vec<T>,
}

const SWEEPS: usize = 60;

/// Decomposes an `m` by `n` matrix. If `full`, U and V are square, else they have as many columns as there are singular
/// values. NaN throughout if an element is not finite.
pub fn svd<T: Num>(a: &[T], m: usize, n: usize, full: bool) -> Svd<T> {
    if m < n {
        let Svd { s, u, v } = svd(&adjoint(a, m, n), n, m, full);
        return Svd { s, u: v, v: u };
    }
    let p = if full { m } else { n };
    if a.iter().any(|x| !x.abs().is_finite()) {
        let nan = T::real(f64::NAN);
        return Svd {
            s: vec![f64::NAN; n],
            u: vec![nan; m * p],
            v: vec![nan; n * n],
        };
    }
    // Scaled, so that squares neither overflow nor vanish.
    let largest = a.iter().map(|x| x.abs()).fold(0.0, f64::max);
    let scale = if largest > 0.0 { largest } else { 1.0 };
    let mut w: Vec<T> = a.iter().map(|x| x.scale(1.0 / scale)).collect();
    let mut v: Vec<T> = (0..n * n)
        .map(|k| if k / n == k % n { T::ONE } else { T::ZERO })
        .collect();
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for i in 0..n {
            for j in i + 1..n {
                let (mut aii, mut ajj, mut aij) = (0.0, 0.0, T::ZERO);
                for row in w.chunks_exact(n) {
                    aii += row[i].norm2();
                    ajj += row[j].norm2();
                    aij = aij + row[i].conj() * row[j];
                }
                if aij.abs() <= f64::EPSILON * (aii * ajj).sqrt() || aij.abs() < f64::MIN_POSITIVE {
                    continue;
                }
                rotated = true;
                let turn = rotation(aii, ajj, aij);
                turn_columns(&mut w, n, (i, j), turn);
                turn_columns(&mut v, n, (i, j), turn);
            }
        }
        if !rotated {
            break;
        }
    }
    let norms: Vec<f64> = (0..n)
        .map(|j| w.chunks_exact(n).map(|row| row[j].norm2()).sum::<f64>().sqrt())
        .collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| norms[*j].total_cmp(&norms[*i]));
    let s: Vec<f64> = order.iter().map(|i| norms[*i] * scale).collect();
    let v = (0..n * n).map(|k| v[k / n * n + order[k % n]]).collect();
    // Columns that are nothing but rounding errors are replaced by ones orthogonal to the others.
    let floor = norms.iter().copied().fold(0.0, f64::max) * f64::EPSILON * m as f64;
    let rank = order.iter().take_while(|i| norms[**i] > floor).count();
    let mut u = vec![T::ZERO; m * p];
    for (k, j) in order.iter().take(rank).enumerate() {
        for i in 0..m {
            u[i * p + k] = w[i * n + j].scale(1.0 / norms[*j]);
        }
    }
    complete(&mut u, m, p, rank);
    Svd { s, u, v }
}

/// Gives an `m` by `p` matrix whose first `rank` columns are orthonormal further ones.
fn complete<T: Num>(u: &mut [T], m: usize, p: usize, rank: usize) {
    if rank == p {
        return;
    }
    let first: Vec<T> = u.chunks_exact(p).flat_map(|row| row[..rank].iter().copied()).collect();
    let (q, _) = qr(&first, m, rank, true);
    for i in 0..m {
        u[i * p + rank..(i + 1) * p].copy_from_slice(&q[i * m + rank..i * m + p]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::product;
    use super::super::tests::{close, complexes, reals, unit};
    use super::*;

    fn check<T: Num>(a: &[T], m: usize, n: usize) {
        for full in [false, true] {
            let Svd { s, u, v } = svd(a, m, n, full);
            let k = m.min(n);
            let (p, q) = if full { (m, n) } else { (k, k) };
            assert!(s.len() == k && s.windows(2).all(|w| w[0] >= w[1] && w[1] >= 0.0));
            let d: Vec<T> = (0..p * q)
                .map(|i| if i / q == i % q { T::real(s[i / q]) } else { T::ZERO })
                .collect();
            let us = product(&u, &d, (m, p, q));
            close(&product(&us, &adjoint(&v, n, q), (m, q, n)), a);
            close(&product(&adjoint(&u, m, p), &u, (p, m, p)), &unit(p));
            close(&product(&adjoint(&v, n, q), &v, (q, n, q)), &unit(q));
        }
    }

    #[test]
    fn the_parts_make_up_the_matrix() {
        for (m, n) in [(1, 1), (2, 2), (5, 3), (3, 5), (12, 12)] {
            check(&reals(m * n, 21), m, n);
            check(&complexes(m * n, 22), m, n);
        }
    }

    #[test]
    fn singular_matrices_have_full_bases() {
        check(&[0.0; 12], 4, 3);
        check(&[1.0, 2.0, 2.0, 4.0, 3.0, 6.0], 3, 2);
        check(&[1.0; 16], 4, 4);
        assert!(svd(&[f64::NAN, 1.0], 2, 1, false).s[0].is_nan());
    }
}
