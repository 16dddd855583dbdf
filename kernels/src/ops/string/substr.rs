//! `Substr`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};
use bytes::Bytes;

use super::support::begins_char;
use crate::moves;
use crate::ops::array::broadcast::broadcast;
use crate::ops::array::support::ints;

/// Where `pos` (from the end if negative) lies among `n` units.
fn start(pos: i64, n: usize) -> Option<usize> {
    let at = if pos < 0 { pos.checked_add(n as i64)? } else { pos };
    usize::try_from(at).ok().filter(|at| *at <= n)
}

fn bytes_part(s: &Bytes, pos: i64, len: i64) -> Option<Bytes> {
    let at = start(pos, s.len())?;
    // A negative length is all that is left.
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(s.len() - at);
    Some(s.slice(at..at + len))
}

fn chars_part(s: &Bytes, pos: i64, len: i64) -> Option<Bytes> {
    let starts: Vec<usize> = (0..s.len()).filter(|i| *i == 0 || begins_char(s[*i])).collect();
    let at = start(pos, starts.len())?;
    let end = at.saturating_add(usize::try_from(len).unwrap_or(0)).min(starts.len());
    let byte = |i: usize| starts.get(i).copied().unwrap_or(s.len());
    Some(s.slice(byte(at)..byte(end)))
}

fn run(cx: &mut OpContext<'_>, chars: bool) -> Result<()> {
    let (input, pos, len) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if pos.shape() != len.shape() {
        return Err(Error::invalid(format!(
            "pos and len must have one shape, got {} and {}",
            pos.shape(),
            len.shape()
        )));
    }
    let shape = Shape::broadcast(input.shape(), pos.shape())?;
    shape.checked_count()?;
    let input = broadcast(cx, input, &shape)?;
    let (pos, len) = (broadcast(cx, pos, &shape)?, broadcast(cx, len, &shape)?);
    let mut out = moves::list(cx, input.len())?;
    for (i, ((s, p), n)) in input.as_strings()?.iter().zip(ints(&pos)?).zip(ints(&len)?).enumerate() {
        let part = if chars {
            chars_part(s, p, n)
        } else {
            bytes_part(s, p, n)
        };
        out.push(part.ok_or_else(|| {
            let s = String::from_utf8_lossy(s);
            Error::invalid(format!("pos {p} out of range for string {s:?} at index {i}"))
        })?);
    }
    let t = Tensor::strings(shape, out)?;
    cx.set_output(0, t);
    Ok(())
}

fn substr() -> OpDef {
    OpDef::new("Substr", Category::String)
        .doc("The part of every string that begins at `pos` (from the end if negative) and is at most `len` long.")
        .input("input: string")
        .input("pos: T")
        .input("len: T")
        .output("output: string")
        .attr("T: {int32, int64}")
        .attr("unit: {'BYTE', 'UTF8_CHAR'} = 'BYTE'")
        .shape(|cx| {
            let pos = cx.input(1).merge(&cx.input(2))?;
            Ok(vec![PartialShape::broadcast(&cx.input(0), &pos)?])
        })
        .not_differentiable()
        .cpu(|init| {
            let chars = init.attrs.str("unit")? == "UTF8_CHAR";
            Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, chars)))
        })
}

register_ops!(substr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_by_bytes_and_by_characters() {
        let s = Bytes::from_static(b"hello");
        let part = |p, n| bytes_part(&s, p, n).map(|b| String::from_utf8(b.to_vec()).unwrap());
        assert_eq!(part(1, 3).as_deref(), Some("ell"));
        assert_eq!(part(-3, 2).as_deref(), Some("ll"));
        assert_eq!(part(5, 2).as_deref(), Some(""));
        assert_eq!(part(1, -1).as_deref(), Some("ello"));
        assert_eq!((part(6, 1), part(-6, 1), part(i64::MIN, 1)), (None, None, None));
        let s = Bytes::from("héllo世");
        let part = |p, n| chars_part(&s, p, n).map(|b| String::from_utf8(b.to_vec()).unwrap());
        assert_eq!(part(1, 2).as_deref(), Some("él"));
        assert_eq!(part(-1, 2).as_deref(), Some("世"));
        assert_eq!(part(1, -2).as_deref(), Some(""));
        assert_eq!((part(6, 2).as_deref(), part(7, 2)), (Some(""), None));
    }
}
