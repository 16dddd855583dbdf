//! Tensors as text, abbreviated: TensorFlow's `Tensor::SummarizeValue`.

use actorflow_core::half::{bf16, f16};
use actorflow_core::{DType, Tensor, dispatch};

use super::printf::{print_f32, print_f64};

/// An element as TensorFlow prints it.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($t:ty: |$x:ident| $e:expr;)*) => {
        $(impl Shown for $t {
            fn shown(&self) -> String {
                let $x = *self;
                $e
            }
        })*
    };
}

shown! {
    f32: |x| print_f32(x);
    f64: |x| print_f64(x);
    f16: |x| print_f32(x.to_f32());
    bf16: |x| print_f32(x.to_f32());
    bool: |x| u8::from(x).to_string();
    i8: |x| x.to_string();
    i16: |x| x.to_string();
    i32: |x| x.to_string();
    i64: |x| x.to_string();
    u8: |x| x.to_string();
    u16: |x| x.to_string();
    u32: |x| x.to_string();
    u64: |x| x.to_string();
}

/// Bytes with C escapes for what is not printable; UTF-8 stays.
pub(crate) fn escaped(s: &[u8]) -> String {
    let mut out = String::with_capacity(s.len());
    for chunk in s.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '"' | '\'' | '\\' => out.extend(['\\', c]),
                c if c.is_ascii_control() => out.push_str(&format!("\\{:03o}", c as u32)),
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\{b:03o}"));
        }
    }
    out
}

fn element(t: &Tensor, i: usize, quoted: bool) -> String {
    let text = match t.dtype() {
        DType::Str => t.as_strings().ok().and_then(|s| s.get(i)).map(|s| match quoted {
            true => format!("\"{}\"", escaped(s)),
            false => escaped(s),
        }),
        DType::Resource => t.as_resources().ok().and_then(|h| h.get(i)).map(|h| format!("{h:?}")),
        d => dispatch!(d, T in [F32, F64, F16, BF16, I32, I64, U8, I8, I16, U16, U32, U64, Bool] => {
            t.as_slice::<T>().ok().and_then(|s| s.get(i)).map(Shown::shown)
        }, else None),
    };
    // Complex numbers and variants have no text of their own.
    text.unwrap_or_else(|| "?".into())
}

/// The first `limit` elements (all if negative) in brackets by dimension: `[1 2][3...]...`.
pub(crate) fn summarized(t: &Tensor, limit: i64) -> String {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if t.dtype().is_complex() || t.dtype() == DType::Variant {
        return "?".into();
    }
    let mut out = String::new();
    let mut at = 0;
    match t.shape().rank() {
        0 if limit > 0 => out.push_str(&element(t, 0, false)),
        0 => {}
        _ => level(t, 0, limit, &mut at, &mut out),
    }
    if t.len() > limit {
        out.push_str("...");
    }
    out
}

fn level(t: &Tensor, dim: usize, limit: usize, at: &mut usize, out: &mut String) {
    if *at >= limit {
        return;
    }
    let n = t.shape()[dim];
    if dim + 1 == t.shape().rank() {
        for i in 0..n {
            if *at >= limit {
                if dim != 0 {
                    out.push_str("...");
                }
                return;
            }
            if i > 0 {
                out.push(' ');
            }
            out.push_str(&element(t, *at, false));
            *at += 1;
        }
        return;
    }
    for _ in 0..n {
        let open = *at < limit;
        if open {
            out.push('[');
        }
        level(t, dim + 1, limit, at, out);
        if open || *at < limit {
            out.push(']');
        }
        if !open && *at >= limit {
            return;
        }
    }
}

/// As NumPy prints: nested brackets over lines, `edge` elements at each end of a dimension (all if negative).
pub(crate) fn nested(t: &Tensor, edge: i64) -> String {
    let edge = usize::try_from(edge).unwrap_or(usize::MAX);
    if t.dtype().is_complex() || t.dtype() == DType::Variant {
        return "?".into();
    }
    let mut out = String::new();
    if t.is_empty() {
        return "[]".into();
    }
    nest(t, 0, 0, edge, &mut out);
    out
}

fn gap(dim: usize, rank: usize, out: &mut String) {
    if dim + 1 == rank {
        out.push(' ');
        return;
    }
    out.extend(std::iter::repeat_n('\n', rank - dim - 1));
    out.extend(std::iter::repeat_n(' ', dim + 1));
}

fn nest(t: &Tensor, dim: usize, at: usize, edge: usize, out: &mut String) {
    let rank = t.shape().rank();
    if dim == rank {
        out.push_str(&element(t, at, true));
        return;
    }
    let n = t.shape()[dim];
    let step: usize = t.shape()[dim + 1..].iter().product();
    out.push('[');
    for i in 0..n.min(edge) {
        if i > 0 {
            gap(dim, rank, out);
        }
        nest(t, dim + 1, at + i * step, edge, out);
    }
    if n > edge.saturating_mul(2) {
        gap(dim, rank, out);
        out.push_str("...");
    }
    for i in edge.max(n.saturating_sub(edge))..n {
        gap(dim, rank, out);
        nest(t, dim + 1, at + i * step, edge, out);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(dims: &[usize]) -> Tensor {
        let v: Vec<i64> = (0..dims.iter().product::<usize>() as i64).collect();
        Tensor::from_slice(dims, &v).unwrap()
    }

    #[test]
    fn the_first_elements_in_brackets() {
        assert_eq!(summarized(&numbers(&[10]), 3), "0 1 2...");
        assert_eq!(summarized(&numbers(&[2, 3, 4]), 10), "[[0 1 2 3][4 5 6 7][8 9...]]...");
        assert_eq!(summarized(&numbers(&[2, 3, 4]), 3), "[[0 1 2...]]...");
        assert_eq!(summarized(&numbers(&[2, 2]), 3), "[0 1][2...]...");
        assert_eq!(summarized(&numbers(&[2, 2]), 2), "[0 1]...");
        assert_eq!(summarized(&numbers(&[2, 2]), -1), "[0 1][2 3]");
        assert_eq!(summarized(&numbers(&[0, 3]), 3), "");
        assert_eq!(summarized(&Tensor::from(7i32), 0), "...");
        let s = Tensor::strings([2, 1], vec!["a\"\u{1}", "b"]).unwrap();
        assert_eq!(summarized(&s, 3), "[a\\\"\\001][b]");
    }

    #[test]
    fn nested_brackets_over_lines() {
        assert_eq!(nested(&numbers(&[10]), 3), "[0 1 2 ... 7 8 9]");
        assert_eq!(
            nested(&numbers(&[2, 2, 3]), 1),
            "[[[0 ... 2]\n  [3 ... 5]]\n\n [[6 ... 8]\n  [9 ... 11]]]"
        );
        assert_eq!(nested(&numbers(&[0, 3]), 3), "[]");
        assert_eq!(nested(&Tensor::from(0.1f32), 3), "0.1");
        assert_eq!(nested(&Tensor::from("a\"é"), 3), "\"a\\\"é\"");
        assert_eq!(nested(&numbers(&[3]), -1), "[0 1 2]");
    }
}
