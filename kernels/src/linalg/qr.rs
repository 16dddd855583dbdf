//! QR factorisation by Householder reflections.

use super::Num;

/// `A = Q R` of an `m` by `n` matrix: Q, `m` by `p`, has orthonormal columns, R, `p` by `n`, is upper triangular; `p` is
/// `m` if `full`, else the lesser of `m` and `n`.
///
/// Signs are LAPACK's: a diagonal element of R has the sign opposite to that of the element it was reduced from, unless
/// there was nothing below it to reduce.
pub fn qr<T: Num>(a: &[T], m: usize, n: usize, full: bool) -> (Vec<T>, Vec<T>) {
    let mut r = a.to_vec();
    let steps = m.min(n);
    // Reflection k is I - tau v v^H with v = (1, below): `below` is kept under the diagonal of column k.
    let mut taus = vec![T::ZERO; steps];
    for k in 0..steps {
        let head = r[k * n + k];
        let scale = (k + 1..m).map(|i| r[i * n + k].abs()).fold(0.0, f64::max);
        let imaginary = (head - T::real(head.re())).abs();
        if scale == 0.0 && imaginary == 0.0 {
            continue;
        }
        let top = scale.max(head.abs());
        let sum: f64 = (k..m).map(|i| r[i * n + k].scale(1.0 / top).norm2()).sum();
        let norm = top * sum.sqrt();
        let beta = if head.re() >= 0.0 { -norm } else { norm };
        let below = head - T::real(beta);
        for i in k + 1..m {
            r[i * n + k] = r[i * n + k] / below;
        }
        let tau = (T::real(beta) - head).scale(1.0 / beta);
        taus[k] = tau;
        r[k * n + k] = T::real(beta);
        reflect(&mut r, n, k, tau.conj(), m, None);
    }
    let p = if full { m } else { steps };
    let mut q: Vec<T> = (0..m * p)
        .map(|i| if i / p == i % p { T::ONE } else { T::ZERO })
        .collect();
    for k in (0..steps).rev() {
        reflect(&mut r, n, k, taus[k], m, Some((&mut q, p)));
    }
    r.truncate(p * n);
    for i in 0..p {
        r[i * n..][..i.min(n)].fill(T::ZERO);
    }
    (q, r)
}

/// Applies `I - tau v v^H` from the left: to the columns of `r` right of `k`, or to all of another matrix. The vector v
/// is 1 followed by the elements of `r` below the diagonal of column `k`.
fn reflect<T: Num>(r: &mut [T], n: usize, k: usize, tau: T, m: usize, other: Option<(&mut [T], usize)>) {
    let v: Vec<T> = (k..m).map(|i| if i == k { T::ONE } else { r[i * n + k] }).collect();
    let (target, width, from) = match other {
        Some((q, width)) => (q, width, 0),
        None => (r, n, k + 1),
    };
    if from >= width {
        return;
    }
    let mut dots = vec![T::ZERO; width - from];
    for (i, v) in v.iter().enumerate() {
        super::add_scaled(&mut dots, v.conj(), &target[(k + i) * width + from..][..width - from]);
    }
    for (i, v) in v.iter().enumerate() {
        super::add_scaled(
            &mut target[(k + i) * width + from..][..width - from],
            -(tau * *v),
            &dots,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, complexes, reals, unit};
    use super::super::{adjoint, product};
    use super::*;

    fn check<T: Num>(a: &[T], m: usize, n: usize) {
        for full in [false, true] {
            let p = if full { m } else { m.min(n) };
            let (q, r) = qr(a, m, n, full);
            close(&product(&q, &r, (m, p, n)), a);
            close(&product(&adjoint(&q, m, p), &q, (p, m, p)), &unit(p));
            assert!((0..p * n).all(|i| i / n <= i % n || r[i] == T::ZERO));
        }
    }

    #[test]
    fn matrices_of_any_form_are_factored() {
        for (m, n) in [(1, 1), (3, 3), (5, 2), (2, 5), (7, 6)] {
            check(&reals(m * n, 9), m, n);
            check(&complexes(m * n, 10), m, n);
        }
        check(&[0.0; 12], 4, 3);
    }

    #[test]
    fn signs_are_those_of_lapack() {
        let (_, r) = qr(&[3.0, 1.0, 4.0, 2.0], 2, 2, false);
        assert!((r[0] + 5.0).abs() < 1e-12);
        assert_eq!(qr(&[2.0], 1, 1, false).1, [2.0]);
    }
}
