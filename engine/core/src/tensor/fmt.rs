//! How tensors are printed.

use std::fmt;

use num_complex::Complex;

use super::Tensor;
use crate::dispatch;
use crate::dtype::DType;

/// Elements shown at each end of a dimension that is too long to print whole.
const EDGE: usize = 3;
/// Tensors with more elements than this are abbreviated.
const WHOLE: usize = 60;

fn element(t: &Tensor, i: usize) -> String {
    let show = |s: Option<String>| s.unwrap_or_else(|| "?".into());
    match t.dtype() {
        DType::Str => show(
            t.as_strings()
                .ok()
                .and_then(|s| s.get(i))
                .map(|b| format!("{:?}", String::from_utf8_lossy(b))),
        ),
        DType::Resource => show(
            t.as_resources()
                .ok()
                .and_then(|s| s.get(i))
                .map(|h| h.name().to_owned()),
        ),
        DType::Variant => "<variant>".into(),
        DType::C64 => show(t.as_slice::<Complex<f32>>().ok().and_then(|s| s.get(i)).map(complex)),
        DType::C128 => show(t.as_slice::<Complex<f64>>().ok().and_then(|s| s.get(i)).map(complex)),
        d if d.is_quantized() => t.clone().bitcast(d.storage()).map_or("?".into(), |t| element(&t, i)),
        d => dispatch!(d, T in plain => {
            show(t.as_slice::<T>().ok().and_then(|s| s.get(i)).map(|x| format!("{x:?}")))
        }, else String::new()),
    }
}

/// As `1.0-2.0j`, the way in which a program reads it, too.
fn complex<T: fmt::Debug>(z: &Complex<T>) -> String {
    let im = format!("{:?}", z.im);
    let sign = if im.starts_with('-') { "" } else { "+" };
    format!("{:?}{sign}{im}j", z.re)
}

fn write_level(
    f: &mut fmt::Formatter<'_>,
    t: &Tensor,
    dims: &[usize],
    at: usize,
    depth: usize,
    cut: bool,
) -> fmt::Result {
    let Some((&n, rest)) = dims.split_first() else {
        return f.write_str(&element(t, at));
    };
    let step: usize = rest.iter().product();
    f.write_str("[")?;
    let mut first = true;
    let mut i = 0;
    while i < n {
        if !first {
            f.write_str(",")?;
            if rest.is_empty() {
                f.write_str(" ")?
            } else {
                write!(f, "\n{:1$}", "", depth + 1)?
            }
        }
        first = false;
        if cut && n > 2 * EDGE + 1 && i == EDGE {
            f.write_str("...")?;
            i = n - EDGE;
            continue;
        }
        write_level(f, t, rest, at + i * step, depth + 1, cut)?;
        i += 1;
    }
    f.write_str("]")
}

/// The elements, nested by dimension; long dimensions are abbreviated.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("[]");
        }
        write_level(f, self, self.shape().dims(), 0, 0, self.len() > WHOLE)
    }
}

/// Dtype, shape and elements: `float32[2,2] [[1.0, 2.0], ...`.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} {self}", self.dtype(), self.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_and_bounded() {
        assert_eq!(
            format!("{:?}", Tensor::from([[1i32, 2], [3, 4]])),
            "int32[2,2] [[1, 2],\n [3, 4]]"
        );
        assert_eq!(Tensor::from("a").to_string(), "\"a\"");
        let z = [Complex::new(-3f32, 4.0), Complex::new(0.5, f32::NEG_INFINITY)];
        assert_eq!(Tensor::from(z).to_string(), "[-3.0+4.0j, 0.5-infj]");
        let long = Tensor::from((0..1000i64).collect::<Vec<_>>());
        assert_eq!(long.to_string(), "[0, 1, 2, ..., 997, 998, 999]");
        let q = Tensor::from([3u8, 255]).bitcast(DType::QU8).unwrap();
        assert_eq!(format!("{q:?}"), "quint8[2] [3, 255]");
        assert_eq!(Tensor::zeros(DType::F32, [0, 3]).unwrap().to_string(), "[]");
    }
}
