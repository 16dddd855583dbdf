//! `Unique`, `UniqueV2`, `UniqueWithCounts`, `UniqueWithCountsV2`, `ListDiff`.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{DType, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::support::{ints, product};
use crate::moves::{self, Fill, Rows};

/// A fast hash of integers and short byte strings.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for c in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..c.len()].copy_from_slice(c);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, x: u64) {
        self.0 = (self.0.rotate_left(23) ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, x: usize) {
        self.write_u64(x as u64);
    }

    fn write_u8(&mut self, x: u8) {
        self.write_u64(u64::from(x));
    }
}

type Seen<K> = HashMap<K, usize, BuildHasherDefault<Mix>>;

/// Bits of a plain element by which equal elements are equal: zeros of both signs are one but in half precision, where
/// they are two as in TensorFlow; NaN (`None`) equals nothing.
trait Bits: actorflow_core::Element {
    fn bits(self) -> Option<[u64; 2]>;
}

macro_rules! integers {
    ($($t:ty),*) => {
        $(impl Bits for $t {
            #[inline]
            fn bits(self) -> Option<[u64; 2]> {
                Some([self as u64, 0])
            }
        })*
    };
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64, bool);

/// A float as a double: zeros equal, NaN nothing.
#[inline]
fn float(x: f64) -> Option<u64> {
    (!x.is_nan()).then(|| (x + 0.0).to_bits())
}

macro_rules! floats {
    ($($t:ty: |$x:ident| $re:expr, $im:expr;)*) => {
        $(impl Bits for $t {
            #[inline]
            fn bits(self) -> Option<[u64; 2]> {
                let $x = self;
                Some([float($re)?, float($im)?])
            }
        })*
    };
}

floats! {
    f32: |x| f64::from(x), 0.0;
    f64: |x| x, 0.0;
    actorflow_core::num_complex::Complex<f32>: |x| f64::from(x.re), f64::from(x.im);
    actorflow_core::num_complex::Complex<f64>: |x| x.re, x.im;
}

macro_rules! halves {
    ($($t:ident),*) => {
        $(impl Bits for actorflow_core::half::$t {
            #[inline]
            fn bits(self) -> Option<[u64; 2]> {
                (!self.is_nan()).then(|| [u64::from(self.to_bits()), 0])
            }
        })*
    };
}

halves!(f16, bf16);

/// What makes items equal: an item's number and bits, or nothing if it equals no other.
fn keys(x: &Tensor) -> Result<Vec<Option<[u64; 2]>>> {
    dispatch!(x.dtype(), T in plain => Ok(x.as_slice::<T>()?.iter().map(|x| x.bits()).collect()),
        else Err(Error::invalid(format!("unique elements of dtype {}", x.dtype()))))
}

/// The distinct items in the order in which they first appear.
#[derive(Default)]
struct Distinct {
    /// Where each appears first.
    first: Vec<usize>,
    /// Which of the distinct ones each item is.
    index: Vec<i64>,
    /// How often each appears.
    counts: Vec<i64>,
}

impl Distinct {
    fn of<K: Hash + Eq>(items: impl Iterator<Item = Option<K>>) -> Distinct {
        let mut seen: Seen<K> = Seen::default();
        let mut d = Distinct::default();
        for (i, k) in items.enumerate() {
            let next = d.first.len();
            let at = match k {
                Some(k) => *seen.entry(k).or_insert(next),
                None => next,
            };
            d.add(i, at);
        }
        d
    }

    fn add(&mut self, item: usize, at: usize) {
        if at == self.first.len() {
            self.first.push(item);
            self.counts.push(0);
        }
        self.counts[at] += 1;
        self.index.push(at as i64);
    }

    /// For integers that lie close together: a table instead of a hash.
    fn of_near(items: &[i64], low: i64, span: usize) -> Distinct {
        let mut table = vec![usize::MAX; span];
        let mut d = Distinct::default();
        for (i, x) in items.iter().enumerate() {
            let slot = &mut table[x.wrapping_sub(low) as usize];
            if *slot == usize::MAX {
                *slot = d.first.len();
            }
            let at = *slot;
            d.add(i, at);
        }
        d
    }

    /// The rows of a matrix `[n, row]`.
    fn of_rows(x: &Tensor, n: usize) -> Result<Distinct> {
        let row = x.len().checked_div(n).unwrap_or(0);
        if let Ok(s) = x.as_strings() {
            return Ok(match row {
                1 => Distinct::of(s.iter().map(Some)),
                _ => Distinct::of((0..n).map(|i| Some(&s[i * row..(i + 1) * row]))),
            });
        }
        if row == 1
            && let DType::I32 | DType::I64 = x.dtype()
        {
            let v = ints(x)?;
            if let (Some(low), Some(high)) = (v.iter().min(), v.iter().max())
                && let Some(span) = high.checked_sub(*low)
                && span < 4 * n as i64 + 1024
            {
                return Ok(Distinct::of_near(&v, *low, span as usize + 1));
            }
        }
        let keys = keys(x)?;
        Ok(match row {
            0 => Distinct::of((0..n).map(|_| Some(()))),
            1 => Distinct::of(keys.into_iter()),
            _ => Distinct::of(
                keys.chunks_exact(row)
                    .map(|r| r.iter().copied().collect::<Option<Vec<_>>>()),
            ),
        })
    }
}

/// A vector of small numbers as the dtype of the index output.
fn numbers(dtype: DType, v: &[i64]) -> Result<Tensor> {
    match dtype {
        DType::I64 => Ok(Tensor::vector(v)),
        _ => {
            let narrow = v
                .iter()
                .map(|x| i32::try_from(*x))
                .collect::<std::result::Result<Vec<_>, _>>();
            let narrow = narrow.map_err(|_| Error::invalid("too many elements for int32 indices; set out_idx"))?;
            Ok(Tensor::vector(&narrow))
        }
    }
}

/// The tensor with axis `axis` in front, or back.
fn moved(cx: &OpContext<'_>, x: &Tensor, axis: usize, to_front: bool) -> Result<Tensor> {
    let rank = x.shape().rank();
    let mut perm: Vec<usize> = (0..rank).collect();
    if to_front {
        perm.remove(axis);
        perm.insert(0, axis);
    } else {
        perm.remove(0);
        perm.insert(axis, 0);
    }
    super::transpose::transposed(cx, x, &perm)
}

fn run(cx: &mut OpContext<'_>, out: DType) -> Result<()> {
    let x = cx.input(0)?.clone();
    let axis = if cx.num_inputs() > 1 {
        let a = cx.input(1)?;
        if a.shape().rank() > 1 {
            return Err(Error::invalid(format!(
                "axis must be a vector or scalar, got shape {}",
                a.shape()
            )));
        }
        match ints(a)?[..] {
            [] => None,
            [a] => Some(resolve_axis(a, x.shape().rank())?),
            _ => return Err(Error::invalid("axis does not support more than one element")),
        }
    } else {
        None
    };
    if axis.is_none() && x.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "unique expects a vector, got shape {}",
            x.shape()
        )));
    }
    let axis = axis.unwrap_or(0);
    let front = moved(cx, &x, axis, true)?;
    let n = front.shape()[0];
    let d = Distinct::of_rows(&front, n)?;
    let row = product(&front.shape()[1..]);
    let shape = front.shape().with_replaced(0, 1, &[d.first.len()]);
    let y = if row == 0 {
        moves::build(cx, x.dtype(), shape, Fill::Zero, &[], &moves::Still)?
    } else {
        let picks = &d.first;
        moves::build(cx, x.dtype(), shape, Fill::Any, &[&front], &Rows { row, picks })?
    };
    let y = moved(cx, &y, axis, false)?;
    cx.set_output(0, y);
    cx.set_output(1, numbers(out, &d.index)?);
    if cx.num_outputs() > 2 {
        cx.set_output(2, numbers(out, &d.counts)?);
    }
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn actorflow_core::kernel::Kernel>> {
    let out = init.attrs.dtype("out_idx")?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, out)))
}

fn finding(name: &'static str, with_axis: bool, with_counts: bool) -> OpDef {
    let mut d = OpDef::new(name, Category::Array)
        .doc("The distinct elements (or slices along an axis) in the order of first appearance, and which each is.")
        .input("x: T");
    if with_axis {
        d = d.input("axis: Taxis");
    }
    d = d.output("y: T").output("idx: out_idx");
    if with_counts {
        d = d.output("count: out_idx");
    }
    d = d.attr("T: type");
    if with_axis {
        d = d.attr("Taxis: {int32, int64} = DT_INT64");
    }
    d.attr("out_idx: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let x = cx.input(0);
            let axis = if cx.num_inputs() > 1 {
                cx.constant_i64s(1)
            } else {
                Some(Vec::new())
            };
            let (y, n) = match (&axis.as_deref(), x.rank()) {
                (Some([]), _) => {
                    let n = x.with_rank(1)?.dim(0);
                    (PartialShape::vector(None), n)
                }
                (Some([a]), Some(r)) => {
                    let a = resolve_axis(*a, r)?;
                    (x.with_dim(a, None), x.dim(a))
                }
                (_, Some(r)) => (PartialShape::of_rank(r), None),
                _ => (PartialShape::UNKNOWN, None),
            };
            let all = [y, PartialShape::vector(n), PartialShape::vector(None)];
            Ok(all[..cx.num_outputs()].to_vec())
        })
        .not_differentiable()
        .cpu(kernel)
}

fn unique() -> OpDef {
    finding("Unique", false, false)
}

fn unique_with_counts() -> OpDef {
    finding("UniqueWithCounts", false, true)
}

fn unique_v2() -> OpDef {
    finding("UniqueV2", true, false)
}

fn unique_with_counts_v2() -> OpDef {
    finding("UniqueWithCountsV2", true, true)
}

/// The numbers of the items of `x` that are no item of `y`.
fn missing<K: Hash + Eq>(x: impl Iterator<Item = Option<K>>, y: impl Iterator<Item = Option<K>>) -> Vec<usize> {
    let known: HashSet<K, BuildHasherDefault<Mix>> = y.flatten().collect();
    x.enumerate()
        .filter(|(_, k)| k.as_ref().is_none_or(|k| !known.contains(k)))
        .map(|(i, _)| i)
        .collect()
}

fn list_diff() -> OpDef {
    OpDef::new("ListDiff", Category::Array)
        .doc("The elements of `x` that are not in `y`, in order, and where they are in `x`.")
        .input("x: T")
        .input("y: T")
        .output("out: T")
        .output("idx: out_idx")
        .attr("T: type")
        .attr("out_idx: {int32, int64} = DT_INT32")
        .shape(|cx| {
            cx.input(0).with_rank(1)?;
            cx.input(1).with_rank(1)?;
            Ok(vec![PartialShape::vector(None); 2])
        })
        .not_differentiable()
        .cpu(|init| {
            let out = init.attrs.dtype("out_idx")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let (x, y) = (cx.input(0)?, cx.input(1)?);
                for t in [x, y] {
                    if t.shape().rank() != 1 {
                        return Err(Error::invalid(format!(
                            "x and y must be vectors, got shape {}",
                            t.shape()
                        )));
                    }
                }
                let picks = match (x.as_strings(), y.as_strings()) {
                    (Ok(x), Ok(y)) => missing(x.iter().map(Some), y.iter().map(Some)),
                    _ => missing(keys(x)?.into_iter(), keys(y)?.into_iter()),
                };
                let shape = Shape::from([picks.len()]);
                let rows = Rows { row: 1, picks: &picks };
                let t = moves::build(cx, x.dtype(), shape, Fill::Any, &[x], &rows)?;
                cx.set_output(0, t);
                let at: Vec<i64> = picks.iter().map(|i| *i as i64).collect();
                cx.set_output(1, numbers(out, &at)?);
                Ok(())
            }))
        })
}

register_ops!(unique, unique_with_counts, unique_v2, unique_with_counts_v2, list_diff);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::Graph;

    fn unique(x: Tensor) -> (Tensor, Tensor, Tensor) {
        let g = Graph::new();
        let x = g.constant(x).unwrap();
        let u = g.op("UniqueWithCounts").input(&x).finish().unwrap();
        let out = |i: usize| eval(&u.output(i).unwrap());
        (out(0), out(1), out(2))
    }

    #[test]
    fn distinct_elements_of_every_kind() {
        let want = (
            Tensor::from([5i32, 7, 1]),
            Tensor::from([0i32, 0, 1, 2, 1]),
            Tensor::from([2i32, 2, 1]),
        );
        assert_eq!(unique([5i32, 5, 7, 1, 7].into()), want);
        let far = unique([5i64 << 40, 5 << 40, -7, 1, -7].into());
        assert_eq!((far.1, far.2), (want.1.clone(), want.2.clone()));
        let s = unique(Tensor::strings([5], vec!["a", "a", "b", "c", "b"]).unwrap());
        assert_eq!((s.0, s.1), (Tensor::strings([3], vec!["a", "b", "c"]).unwrap(), want.1));
        assert_eq!(
            unique([0.0f32, -0.0, f32::NAN, f32::NAN].into()).1,
            Tensor::from([0i32, 0, 1, 2])
        );
        let half = actorflow_core::half::bf16::from_f32;
        assert_eq!(
            unique([half(0.0), half(-0.0), half(0.0)].into()).1,
            Tensor::from([0i32, 1, 0])
        );
        assert_eq!(unique(Tensor::vector::<u8>(&[])).0.len(), 0);
    }

    #[test]
    fn distinct_slices_along_an_axis() {
        let g = Graph::new();
        let x = g.constant([[1i32, 0, 0], [1, 0, 0], [2, 0, 0]]).unwrap();
        let run = |axis: i64| {
            let a = g.constant([axis]).unwrap();
            let u = g.op("UniqueV2").input(&x).input(&a).finish().unwrap();
            (eval(&u.output(0).unwrap()), eval(&u.output(1).unwrap()))
        };
        assert_eq!(
            run(0),
            (Tensor::from([[1i32, 0, 0], [2, 0, 0]]), Tensor::from([0i32, 0, 1]))
        );
        assert_eq!(
            run(-1),
            (Tensor::from([[1i32, 0], [1, 0], [2, 0]]), Tensor::from([0i32, 1, 1]))
        );
    }

    #[test]
    fn what_is_in_one_list_only() {
        let g = Graph::new();
        let (x, y) = (g.constant([1i32, 2, 3, 4, 3]).unwrap(), g.constant([1i32, 4]).unwrap());
        let d = g.op("ListDiff").input(&x).input(&y).finish().unwrap();
        assert_eq!(eval(&d.output(0).unwrap()), Tensor::from([2i32, 3, 3]));
        assert_eq!(eval(&d.output(1).unwrap()), Tensor::from([1i32, 2, 4]));
    }
}
