//! `StringSplit`, `StringSplitV2`: strings cut into the values of a sparse matrix.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};
use bytes::Bytes;

use super::support::{is_space, scalar};

fn parts_at(s: &Bytes, delimiters: &[u8], skip_empty: bool) -> Vec<Bytes> {
    if s.is_empty() {
        return Vec::new();
    }
    if delimiters.is_empty() {
        return (0..s.len()).map(|i| s.slice(i..i + 1)).collect();
    }
    s.split(|b| delimiters.contains(b))
        .filter(|p| !(skip_empty && p.is_empty()))
        .map(|p| s.slice_ref(p))
        .collect()
}

/// At runs of white space, at most `most` times; the rest then stays as it is.
fn words(s: &Bytes, most: usize) -> Vec<Bytes> {
    let mut out = Vec::new();
    let skip = |from: usize| (from..s.len()).find(|i| !is_space(s[*i])).unwrap_or(s.len());
    let mut at = skip(0);
    while at < s.len() {
        let end = (at..s.len()).find(|i| is_space(s[*i])).unwrap_or(s.len());
        out.push(s.slice(at..end));
        at = skip(end);
        if out.len() == most {
            out.push(s.slice(at..));
            break;
        }
    }
    out
}

fn parts_by(s: &Bytes, separator: &[u8], most: usize) -> Vec<Bytes> {
    let mut out = Vec::new();
    let (mut start, mut i) = (0, 0);
    while out.len() < most && i + separator.len() <= s.len() {
        if s[i..].starts_with(separator) {
            out.push(s.slice(start..i));
            i += separator.len();
            start = i;
        } else {
            i += 1;
        }
    }
    out.push(s.slice(start..));
    out
}

/// Sets the three outputs of a sparse matrix with one row for each string.
fn set_rows(cx: &mut OpContext<'_>, split: impl Fn(&Bytes) -> Vec<Bytes>) -> Result<()> {
    let input = cx.input(0)?;
    if input.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "the input must be a vector, got shape {}",
            input.shape()
        )));
    }
    let (mut indices, mut values, mut longest) = (Vec::new(), Vec::new(), 0);
    let rows = input.len();
    for (r, s) in input.as_strings()?.iter().enumerate() {
        let parts = split(s);
        longest = longest.max(parts.len());
        for (c, p) in parts.into_iter().enumerate() {
            indices.extend([r as i64, c as i64]);
            values.push(p);
        }
    }
    let n = values.len();
    cx.set_output(0, Tensor::from_slice([n, 2], &indices)?);
    cx.set_output(1, Tensor::strings([n], values)?);
    cx.set_output(2, Tensor::from([rows as i64, longest as i64]));
    Ok(())
}

fn splitting(name: &'static str) -> OpDef {
    OpDef::new(name, Category::String)
        .input("input: string")
        .output("indices: int64")
        .output("values: string")
        .output("shape: int64")
        .shape(|cx| {
            cx.input(0).with_rank(1)?;
            cx.input(1).with_rank(0)?;
            Ok(vec![
                PartialShape::from([None, Some(2)]),
                PartialShape::vector(None),
                PartialShape::vector(Some(2)),
            ])
        })
        .not_differentiable()
}

fn string_split() -> OpDef {
    splitting("StringSplit")
        .doc("Cuts every string at any byte of the delimiter, or into bytes if it is empty.")
        .input("delimiter: string")
        .attr("skip_empty: bool = true")
        .cpu(|init| {
            let skip = init.attrs.bool("skip_empty")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let delimiters = scalar(cx, 1, "the delimiter")?.clone();
                set_rows(cx, |s| parts_at(s, &delimiters, skip))
            }))
        })
}

fn string_split_v2() -> OpDef {
    splitting("StringSplitV2")
        .doc("Cuts every string at a separator, or at white space if it is empty, as Python's `str.split`.")
        .input("sep: string")
        .attr("maxsplit: int = -1")
        .cpu(|init| {
            let most = usize::try_from(init.attrs.int("maxsplit")?).unwrap_or(usize::MAX);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let separator = scalar(cx, 1, "the separator")?.clone();
                set_rows(cx, |s| match (most, separator.is_empty()) {
                    (0, _) => vec![s.clone()],
                    (_, true) => words(s, most),
                    (_, false) => parts_by(s, &separator, most),
                })
            }))
        })
}

register_ops!(string_split, string_split_v2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::Graph;

    fn text(parts: Vec<Bytes>) -> Vec<String> {
        parts.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect()
    }

    #[test]
    fn at_delimiters_and_separators() {
        let s = Bytes::from_static(b" a  b c ");
        assert_eq!(text(parts_at(&s, b" ", true)), ["a", "b", "c"]);
        assert_eq!(text(parts_at(&Bytes::from_static(b" d"), b" ", false)), ["", "d"]);
        assert_eq!(
            text(parts_at(&Bytes::from_static(b"a,b;c"), b",;", false)),
            ["a", "b", "c"]
        );
        assert_eq!(text(parts_at(&Bytes::from_static(b"abc"), b"", false)), ["a", "b", "c"]);
        assert!(parts_at(&Bytes::new(), b",", false).is_empty());
        assert_eq!(text(words(&s, usize::MAX)), ["a", "b", "c"]);
        assert_eq!(text(words(&s, 1)), ["a", "b c "]);
        assert_eq!(text(words(&Bytes::from_static(b"xy"), 1)), ["xy", ""]);
        let s = Bytes::from_static(b"x--y----z");
        assert_eq!(text(parts_by(&s, b"--", usize::MAX)), ["x", "y", "", "z"]);
        assert_eq!(text(parts_by(&s, b"--", 1)), ["x", "y----z"]);
        assert_eq!(text(parts_by(&Bytes::new(), b"--", usize::MAX)), [""]);
    }

    #[test]
    fn parts_are_a_sparse_matrix() {
        let g = Graph::new();
        let x = g.constant(Tensor::strings([3], vec!["a b", "", "c"]).unwrap()).unwrap();
        let op = g
            .op("StringSplitV2")
            .input(&x)
            .input(&g.constant("").unwrap())
            .finish()
            .unwrap();
        assert_eq!(
            eval(&op.output(0).unwrap()),
            Tensor::from_slice([3, 2], &[0i64, 0, 0, 1, 2, 0]).unwrap()
        );
        assert_eq!(
            eval(&op.output(1).unwrap()),
            Tensor::strings([3], vec!["a", "b", "c"]).unwrap()
        );
        assert_eq!(eval(&op.output(2).unwrap()), Tensor::from([3i64, 2]));
    }
}
