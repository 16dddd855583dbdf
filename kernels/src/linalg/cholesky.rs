//! Cholesky factorisation and its gradient.

use super::{Num, Triangular, adjoint, product};

/// The lower triangle L with `A = L L^H` of a positive definite matrix, of which the lower triangle is read. `None` if
/// it is not positive definite.
pub fn cholesky<T: Num>(a: &[T], n: usize) -> Option<Vec<T>> {
    let mut l = vec![T::ZERO; n * n];
    for i in 0..n {
        for j in 0..=i {
            let (row_i, row_j) = (&l[i * n..][..j], &l[j * n..][..j]);
            let sum = row_i
                .iter()
                .zip(row_j)
                .fold(a[i * n + j], |s, (x, y)| s - *x * y.conj());
            l[i * n + j] = if i == j {
                let d = sum.re();
                // A NaN is not positive either.
                if !(d > 0.0) {
                    return None;
                }
                T::real(d.sqrt())
            } else {
                sum / l[j * n + j]
            };
        }
    }
    Some(l)
}

/// The gradient with respect to A, symmetric, from that with respect to `l`, whose lower triangle is read (Murray 2016,
/// arXiv:1602.07527).
pub fn cholesky_gradient<T: Num>(l: &[T], grad: &[T], n: usize) -> Vec<T> {
    let lower: Vec<T> = (0..n * n)
        .map(|i| if i / n >= i % n { grad[i] } else { T::ZERO })
        .collect();
    let clean: Vec<T> = (0..n * n)
        .map(|i| if i / n >= i % n { l[i] } else { T::ZERO })
        .collect();
    let mut middle = product(&adjoint(&clean, n, n), &lower, (n, n, n));
    for i in 0..n {
        middle[i * n + i] = middle[i * n + i].scale(0.5);
        middle[i * n + i + 1..(i + 1) * n].fill(T::ZERO);
    }
    // L^-H middle L^-1, the right side by way of the adjoint.
    let solve = |b: &mut [T]| {
        Triangular {
            a: &clean,
            n,
            lower: true,
            adjoint: true,
            unit: false,
        }
        .solve(b, n);
    };
    solve(&mut middle);
    let mut turned = adjoint(&middle, n, n);
    solve(&mut turned);
    let half = adjoint(&turned, n, n);
    (0..n * n)
        .map(|i| (half[i] + half[i % n * n + i / n].conj()).scale(0.5))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, complexes, reals};
    use super::*;

    #[test]
    fn the_factor_times_its_adjoint_is_the_matrix() {
        for n in [1, 3, 10] {
            let b = complexes(n * n, 7);
            let a = product(&b, &adjoint(&b, n, n), (n, n, n));
            let l = cholesky(&a, n).unwrap();
            close(&product(&l, &adjoint(&l, n, n), (n, n, n)), &a);
        }
        assert!(cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(cholesky(&[f64::NAN], 1).is_none());
    }

    #[test]
    fn the_gradient_agrees_with_differences() {
        let n = 3;
        let b = reals(9, 2);
        let mut a = product(&b, &adjoint(&b, n, n), (n, n, n));
        (0..n).for_each(|i| a[i * n + i] += 1.0);
        let weights = reals(9, 3);
        let value = |a: &[f64]| -> f64 { cholesky(a, n).unwrap().iter().zip(&weights).map(|(x, w)| x * w).sum() };
        let grad = cholesky_gradient(&cholesky(&a, n).unwrap(), &weights, n);
        for i in 0..n {
            for j in 0..=i {
                let h = 1e-5;
                let (mut up, mut down) = (a.clone(), a.clone());
                up[i * n + j] += h;
                down[i * n + j] -= h;
                // An element below the diagonal stands for both.
                let want = (value(&up) - value(&down)) / (2.0 * h) * if i == j { 1.0 } else { 0.5 };
                assert!(
                    (grad[i * n + j] - want).abs() < 1e-8,
                    "{i} {j}: {} {want}",
                    grad[i * n + j]
                );
            }
        }
    }
}
