//! Eigenvalues of self-adjoint matrices by Jacobi's method.

use super::Num;

/// Sweeps after which rounding alone is left; quadratic convergence needs fewer than ten.
const SWEEPS: usize = 60;

/// The rotation that makes `p q` diagonal for the self-adjoint `[[app, apq], [conj apq, aqq]]`: cosine, sine, and the
/// phase of `apq`.
pub(super) fn rotation<T: Num>(app: f64, aqq: f64, apq: T) -> (f64, f64, T) {
    let size = apq.abs();
    let phase = apq.scale(1.0 / size);
    let theta = (aqq - app) / (2.0 * size);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    (c, t * c, phase)
}

/// Eigenvalues in ascending order and, in the columns of the second matrix, orthonormal eigenvectors of a self-adjoint
/// matrix, of which the lower triangle is read. NaN throughout if an element is not finite.
pub fn eigen<T: Num>(a: &[T], n: usize) -> (Vec<f64>, Vec<T>) {
    let mut a: Vec<T> = (0..n * n)
        .map(|k| {
            let (i, j) = (k / n, k % n);
            match i.cmp(&j) {
                std::cmp::Ordering::Greater => a[k],
                std::cmp::Ordering::Equal => T::real(a[k].re()),
                std::cmp::Ordering::Less => a[j * n + i].conj(),
            }
        })
        .collect();
    if a.iter().any(|x| !x.abs().is_finite()) {
        return (vec![f64::NAN; n], vec![T::real(f64::NAN); n * n]);
    }
    let mut v: Vec<T> = (0..n * n)
        .map(|k| if k / n == k % n { T::ONE } else { T::ZERO })
        .collect();
    let largest = a.iter().map(|x| x.abs()).fold(0.0, f64::max);
    let small = largest * f64::EPSILON * 1e-3;
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq.abs() <= small {
                    continue;
                }
                rotated = true;
                let (c, s, phase) = rotation(a[p * n + p].re(), a[q * n + q].re(), apq);
                turn_columns(&mut a, n, (p, q), (c, s, phase));
                turn_columns(&mut v, n, (p, q), (c, s, phase));
                // The rows likewise, with the conjugate phase.
                for j in 0..n {
                    let (x, y) = (a[p * n + j], a[q * n + j]);
                    a[p * n + j] = x.scale(c) - phase * y.scale(s);
                    a[q * n + j] = phase.conj() * x.scale(s) + y.scale(c);
                }
                (a[p * n + q], a[q * n + p]) = (T::ZERO, T::ZERO);
            }
        }
        if !rotated {
            break;
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| a[i * n + i].re().total_cmp(&a[j * n + j].re()));
    let values = order.iter().map(|i| a[i * n + i].re()).collect();
    let vectors = (0..n * n).map(|k| v[k / n * n + order[k % n]]).collect();
    (values, vectors)
}

/// Columns p and q become `c p - conj(phase) s q` and `phase s p + c q`.
pub(super) fn turn_columns<T: Num>(a: &mut [T], n: usize, (p, q): (usize, usize), (c, s, phase): (f64, f64, T)) {
    for row in a.chunks_exact_mut(n) {
        let (x, y) = (row[p], row[q]);
        row[p] = x.scale(c) - phase.conj() * y.scale(s);
        row[q] = phase * x.scale(s) + y.scale(c);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, complexes, reals, unit};
    use super::super::{adjoint, product};
    use super::*;

    fn check<T: Num>(b: &[T], n: usize) {
        let bt = adjoint(b, n, n);
        let a: Vec<T> = b.iter().zip(&bt).map(|(x, y)| *x + *y).collect();
        let (e, v) = eigen(&a, n);
        assert!(e.windows(2).all(|w| w[0] <= w[1]));
        let d: Vec<T> = (0..n * n)
            .map(|i| if i / n == i % n { T::real(e[i / n]) } else { T::ZERO })
            .collect();
        let vt = adjoint(&v, n, n);
        close(&product(&product(&v, &d, (n, n, n)), &vt, (n, n, n)), &a);
        close(&product(&vt, &v, (n, n, n)), &unit(n));
    }

    #[test]
    fn vectors_and_values_make_up_the_matrix() {
        for n in [1, 2, 3, 8, 25] {
            check(&reals(n * n, 12), n);
            check(&complexes(n * n, 13), n);
        }
        check(&[0.0; 9], 3);
        check(&unit::<f64>(4), 4);
    }

    #[test]
    fn what_is_not_finite_gives_nan() {
        assert!(eigen(&[f64::INFINITY, 0.0, 0.0, 1.0], 2).0.iter().all(|x| x.is_nan()));
    }
}
