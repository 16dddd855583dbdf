//! Whether a tensor is what was expected.

use actorflow::num_complex::Complex;
use actorflow::{DType, Shape, Tensor, dispatch};

/// Compares by the rules of conformance cases: dtype and shape are equal, NaN equals NaN, infinities are equal by
/// sign, numbers agree within `atol + rtol * |want|`, integers, booleans and strings exactly, but for zero bytes at a
/// string's end, which `.npy` files cannot hold.
///
/// # Errors
/// What differs; for elements their number and the worst one with its index.
pub fn compare(got: &Tensor, want: &Tensor, rtol: f64, atol: f64) -> Result<(), String> {
    if got.dtype() != want.dtype() {
        return Err(format!("dtype is {}, expected {}", got.dtype(), want.dtype()));
    }
    if got.shape() != want.shape() {
        return Err(format!("shape is {}, expected {}", got.shape(), want.shape()));
    }
    let of = |e: actorflow::Error| e.to_string();
    match want.dtype() {
        DType::Str => {
            let (g, w) = (got.as_strings().map_err(of)?, want.as_strings().map_err(of)?);
            let text = |b: &[u8]| format!("{:?}", String::from_utf8_lossy(b));
            differing(got.shape(), g.len(), |i| {
                (unpadded(&g[i]) != unpadded(&w[i])).then(|| (1.0, text(&g[i]), text(&w[i])))
            })
        }
        d if d.is_float() || d.is_complex() => {
            let (g, w) = (values(got).map_err(of)?, values(want).map_err(of)?);
            let complex = d.is_complex();
            let text = |z: Complex<f64>| if complex { format!("{z}") } else { format!("{:?}", z.re) };
            differing(got.shape(), g.len(), |i| {
                let excess = excess(g[i], w[i], rtol, atol);
                (excess > 0.0 || excess.is_nan()).then(|| (excess, text(g[i]), text(w[i])))
            })
        }
        d => dispatch!(d, T in plain => {
            let (g, w) = (got.as_slice::<T>().map_err(of)?, want.as_slice::<T>().map_err(of)?);
            differing(got.shape(), g.len(), |i| {
                (g[i] != w[i]).then(|| (1.0, format!("{:?}", g[i]), format!("{:?}", w[i])))
            })
        }, else Err(format!("tensors of dtype {d} cannot be compared"))),
    }
}

/// A string without zero bytes at its end.
fn unpadded(s: &[u8]) -> &[u8] {
    let n = s.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    &s[..n]
}

/// How far a value is outside of the tolerance; at most 0 if it is inside.
fn excess(got: Complex<f64>, want: Complex<f64>, rtol: f64, atol: f64) -> f64 {
    if [got.re, got.im, want.re, want.im].iter().all(|x| x.is_finite()) {
        return (got - want).norm() - (atol + rtol * want.norm());
    }
    let part = |g: f64, w: f64| match (g.is_nan(), w.is_nan()) {
        (true, true) => 0.0,
        _ if g == w => 0.0,
        _ if g.is_finite() && w.is_finite() => (g - w).abs() - (atol + rtol * w.abs()),
        _ => f64::INFINITY,
    };
    part(got.re, want.re).max(part(got.im, want.im))
}

fn values(t: &Tensor) -> actorflow::Result<Vec<Complex<f64>>> {
    let real = |x: f64| Complex::new(x, 0.0);
    Ok(match t.dtype() {
        DType::F16 => t
            .as_slice::<actorflow::half::f16>()?
            .iter()
            .map(|x| real(x.to_f64()))
            .collect(),
        DType::BF16 => t
            .as_slice::<actorflow::half::bf16>()?
            .iter()
            .map(|x| real(x.to_f64()))
            .collect(),
        DType::F32 => t.as_slice::<f32>()?.iter().map(|x| real(f64::from(*x))).collect(),
        DType::F64 => t.as_slice::<f64>()?.iter().map(|x| real(*x)).collect(),
        DType::C64 => t
            .as_slice::<Complex<f32>>()?
            .iter()
            .map(|z| Complex::new(f64::from(z.re), f64::from(z.im)))
            .collect(),
        _ => t.as_slice::<Complex<f64>>()?.to_vec(),
    })
}

/// Reports the elements for which `wrong` gives how bad they are, what was got and what was expected.
fn differing(shape: &Shape, n: usize, wrong: impl Fn(usize) -> Option<(f64, String, String)>) -> Result<(), String> {
    let mut count = 0usize;
    let mut worst: Option<(usize, f64, String, String)> = None;
    for i in 0..n {
        if let Some((excess, got, want)) = wrong(i) {
            count += 1;
            if worst.as_ref().is_none_or(|w| excess > w.1) {
                worst = Some((i, excess, got, want));
            }
        }
    }
    match worst {
        None => Ok(()),
        Some((i, _, got, want)) => Err(format!(
            "{count} of {n} elements differ; the worst, at {}, is {got}, expected {want}",
            index(shape, i)
        )),
    }
}

/// The index of flat element `i`, such as `[1,0]`.
fn index(shape: &Shape, i: usize) -> Shape {
    let mut rest = i;
    let mut at: Vec<usize> = shape
        .iter()
        .rev()
        .map(|d| {
            let k = rest % (*d).max(1);
            rest /= (*d).max(1);
            k
        })
        .collect();
    at.reverse();
    Shape::from(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(got: impl Into<Tensor>, want: impl Into<Tensor>) -> Result<(), String> {
        compare(&got.into(), &want.into(), 1e-3, 1e-2)
    }

    #[test]
    fn numbers_agree_within_both_tolerances() {
        assert!(check([1000.0f32, 0.0], [1001.0f32, 0.01]).is_ok());
        let e = check([[1.0f64, 2.0], [3.0, 4.0]], [[1.0f64, 2.1], [3.0, 9.0]]).unwrap_err();
        assert_eq!(e, "2 of 4 elements differ; the worst, at [1,1], is 4.0, expected 9.0");
    }

    #[test]
    fn nan_and_infinities_must_be_met() {
        let (n, i) = (f32::NAN, f32::INFINITY);
        assert!(check([n, i, -i], [n, i, -i]).is_ok());
        for (g, w) in [(1.0, n), (n, 1.0), (i, -i), (1e30, i), (i, 1e30), (n, i)] {
            assert!(check([g], [w]).is_err(), "{g} {w}");
        }
        let z = |re, im| Tensor::scalar(Complex::<f64>::new(re, im));
        assert!(check(z(f64::NAN, 1.0), z(f64::NAN, 1.001)).is_ok());
        assert!(check(z(f64::NAN, 1.0), z(f64::NAN, 2.0)).is_err());
        assert!(check(z(1.0, f64::NAN), z(f64::NAN, 1.0)).is_err());
    }

    #[test]
    fn everything_else_is_exact() {
        assert!(check([1i32, 2], [1i32, 2]).is_ok());
        assert!(check([1i64], [2i64]).is_err());
        assert!(check([true], [false]).is_err());
        assert_eq!(
            check("a", "b").unwrap_err(),
            "1 of 1 elements differ; the worst, at [], is \"a\", expected \"b\""
        );
        assert!(check("a\0\0", "a").is_ok() && check("a\0b", "a").is_err());
        assert_eq!(check([1i32], [1i64]).unwrap_err(), "dtype is int32, expected int64");
        assert_eq!(check([1i32], 1i32).unwrap_err(), "shape is [1], expected []");
    }
}
