//! `LowerBound`, `UpperBound`, `UnravelIndex`, `EditDistance`.

use std::collections::BTreeMap;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Element, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::support::ints;

/// Where in their sorted row the values belong.
fn places<T: Element + PartialOrd>(rows: &[T], values: &[T], n: usize, upper: bool) -> Vec<i64> {
    let m = if rows.is_empty() { 0 } else { rows.len() / n };
    let per = values.len() / n.max(1);
    values
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let row = &rows[i / per.max(1) * m..][..m];
            row.partition_point(|x| if upper { x <= v } else { x < v }) as i64
        })
        .collect()
}

fn bound(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .input("sorted_inputs: T")
        .input("values: T")
        .output("output: out_type")
        .attr("T: type")
        .attr("out_type: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let (rows, values) = (cx.input(0).with_rank(2)?, cx.input(1).with_rank(2)?);
            rows.sub(0, 1).merge(&values.sub(0, 1))?;
            Ok(vec![values])
        })
        .not_differentiable()
}

fn kernel(init: &KernelInit<'_>, upper: bool) -> Result<Box<dyn actorflow_core::kernel::Kernel>> {
    let out = init.attrs.dtype("out_type")?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let (rows, values) = (cx.input(0)?, cx.input(1)?);
        if rows.shape().rank() != 2 || values.shape().rank() != 2 || rows.shape()[0] != values.shape()[0] {
            return Err(Error::invalid(format!(
                "sorted_inputs {} and values {} must be matrices with the same number of rows",
                rows.shape(),
                values.shape()
            )));
        }
        let n = rows.shape()[0];
        let at = dispatch!(rows.dtype(), T in reals => {
            places(rows.as_slice::<T>()?, values.as_slice::<T>()?, n, upper)
        }, else return Err(Error::invalid(format!("searching in dtype {}", rows.dtype()))));
        let t = match out {
            DType::I64 => Tensor::vector(&at),
            _ => Tensor::vector(&at.iter().map(|x| *x as i32).collect::<Vec<_>>()),
        };
        let t = t.reshape(values.shape())?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn lower_bound() -> OpDef {
    bound("LowerBound")
        .doc("The first place in each sorted row at which a value could be inserted.")
        .cpu(|init| kernel(init, false))
}

fn upper_bound() -> OpDef {
    bound("UpperBound")
        .doc("The last place in each sorted row at which a value could be inserted.")
        .cpu(|init| kernel(init, true))
}

fn unravel_index() -> OpDef {
    OpDef::new("UnravelIndex", Category::Array)
        .doc("Row-major numbers of elements as coordinates in a tensor of shape `dims`.")
        .input("indices: Tidx")
        .input("dims: Tidx")
        .output("output: Tidx")
        .attr("Tidx: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let (ix, n) = (cx.input(0), cx.input(1).with_rank(1)?.dim(0));
            Ok(vec![match ix.rank() {
                Some(0) => PartialShape::vector(n),
                Some(_) => PartialShape::new(vec![n, ix.count()]),
                None => PartialShape::UNKNOWN,
            }])
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(unravel)))
}

fn unravel(cx: &mut OpContext<'_>) -> Result<()> {
    let (indices, dims) = (cx.input(0)?, cx.input(1)?.to_shape()?);
    if indices.shape().rank() > 1 {
        return Err(Error::invalid(format!(
            "indices must be a scalar or vector, got shape {}",
            indices.shape()
        )));
    }
    let (list, total, strides) = (ints(indices)?, dims.checked_count()?, dims.strides());
    let mut out = vec![0i64; list.len() * dims.rank()];
    for (k, &i) in list.iter().enumerate() {
        let mut rest = usize::try_from(i).ok().filter(|i| *i < total);
        let rest = rest
            .as_mut()
            .ok_or_else(|| Error::invalid(format!("index {i} is out of bounds for dims {dims}")))?;
        for (d, s) in strides.iter().enumerate() {
            out[d * list.len() + k] = (*rest / s) as i64;
            *rest %= s;
        }
    }
    let shape = match indices.shape().is_scalar() {
        true => Shape::from([dims.rank()]),
        false => Shape::from([dims.rank(), list.len()]),
    };
    let t = super::support::index_vector(indices.dtype(), &out)?.reshape(shape)?;
    cx.set_output(0, t);
    Ok(())
}

/// The sequences of a sparse tensor: the elements' numbers by the indices of all dimensions but the last.
fn sequences(indices: &Tensor, values: &Tensor, shape: &Shape) -> Result<BTreeMap<Vec<i64>, Vec<usize>>> {
    let rank = shape.rank();
    if indices.shape().dims() != [values.len(), rank] || values.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "a sparse tensor of shape {shape} cannot have indices {} and values {}",
            indices.shape(),
            values.shape()
        )));
    }
    let mut all: BTreeMap<Vec<i64>, Vec<usize>> = BTreeMap::new();
    let list = ints(indices)?;
    let mut last: Option<&[i64]> = None;
    for (k, row) in list.chunks_exact(rank.max(1)).enumerate() {
        let inside = row
            .iter()
            .zip(shape.iter())
            .all(|(i, d)| usize::try_from(*i).is_ok_and(|i| i < *d));
        if !inside || last.is_some_and(|l| l >= row) {
            return Err(Error::invalid(format!(
                "index {k}, {row:?}, is out of order, repeated or outside of {shape}"
            )));
        }
        last = Some(row);
        all.entry(row[..rank - 1].to_vec()).or_default().push(k);
    }
    Ok(all)
}

/// The least number of insertions, deletions and replacements from one sequence to the other.
fn levenshtein(a: &[usize], b: &[usize], same: impl Fn(usize, usize) -> bool) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!same(*x, *y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn edit_distance_kernel(cx: &mut OpContext<'_>, normalize: bool) -> Result<()> {
    let (h_shape, t_shape) = (cx.input(2)?.to_shape()?, cx.input(5)?.to_shape()?);
    if h_shape.rank() != t_shape.rank() || h_shape.rank() == 0 {
        return Err(Error::invalid(format!(
            "hypothesis {h_shape} and truth {t_shape} must have one rank, at least 1"
        )));
    }
    let (h_values, t_values) = (cx.input(1)?, cx.input(4)?);
    let hypotheses = sequences(cx.input(0)?, h_values, &h_shape)?;
    let truths = sequences(cx.input(3)?, t_values, &t_shape)?;
    let groups = h_shape.rank() - 1;
    let shape: Shape = h_shape[..groups]
        .iter()
        .zip(&t_shape[..groups])
        .map(|(a, b)| *a.max(b))
        .collect();
    let strides = shape.strides();
    let mut t = cx.zeros(DType::F32, shape)?;
    let out = t.as_mut_slice::<f32>().unwrap_or(&mut []);
    let equal: Box<dyn Fn(usize, usize) -> bool> = match (h_values.as_strings(), t_values.as_strings()) {
        (Ok(h), Ok(t)) => Box::new(|i, j| h[i] == t[j]),
        _ => dispatch!(h_values.dtype(), T in plain => {
            let (h, t) = (h_values.as_slice::<T>()?, t_values.as_slice::<T>()?);
            Box::new(|i, j| h[i] == t[j])
        }, else return Err(Error::invalid(format!("EditDistance of dtype {}", h_values.dtype())))),
    };
    let keys: std::collections::BTreeSet<_> = hypotheses.keys().chain(truths.keys()).collect();
    for key in keys {
        let none = Vec::new();
        let (h, t) = (hypotheses.get(key).unwrap_or(&none), truths.get(key).unwrap_or(&none));
        let at: usize = key.iter().zip(&strides).map(|(k, s)| *k as usize * s).sum();
        let distance = levenshtein(h, t, &equal) as f32;
        out[at] = match (normalize, t.len()) {
            (false, _) => distance,
            (true, 0) => f32::INFINITY,
            (true, n) => distance / n as f32,
        };
    }
    drop(equal);
    cx.set_output(0, t);
    Ok(())
}

fn edit_distance() -> OpDef {
    OpDef::new("EditDistance", Category::Array)
        .doc("The Levenshtein distances of the sequences of two sparse tensors.")
        .input("hypothesis_indices: int64")
        .input("hypothesis_values: T")
        .input("hypothesis_shape: int64")
        .input("truth_indices: int64")
        .input("truth_values: T")
        .input("truth_shape: int64")
        .output("output: float")
        .attr("normalize: bool = true")
        .attr("T: type")
        .shape(|cx| {
            let (h, t) = (cx.constant_i64s(2), cx.constant_i64s(5));
            Ok(vec![match (h, t) {
                (Some(h), Some(t)) if h.len() == t.len() && !h.is_empty() => {
                    let dims: Vec<i64> = h[..h.len() - 1].iter().zip(&t).map(|(a, b)| *a.max(b)).collect();
                    PartialShape::from_i64(&dims)
                }
                _ => PartialShape::UNKNOWN,
            }])
        })
        .not_differentiable()
        .cpu(|init| {
            let normalize = init.attrs.bool("normalize")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                edit_distance_kernel(cx, normalize)
            }))
        })
}

register_ops!(lower_bound, upper_bound, unravel_index, edit_distance);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::Graph;

    #[test]
    fn places_in_sorted_rows() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let (rows, values) = (
            c([[0i32, 3, 9, 9, 10], [1, 2, 3, 4, 5]].into()),
            c([[2i32, 4, 9], [0, 2, 6]].into()),
        );
        let run = |op: &str| eval(&g.op(op).input(&rows).input(&values).output().unwrap());
        assert_eq!(run("LowerBound"), Tensor::from([[1i32, 2, 2], [0, 1, 5]]));
        assert_eq!(run("UpperBound"), Tensor::from([[1i32, 2, 4], [0, 2, 5]]));
    }

    #[test]
    fn numbers_become_coordinates() {
        let g = Graph::new();
        let (i, d) = (g.constant([22i32, 41, 37]).unwrap(), g.constant([7i32, 6]).unwrap());
        let y = g.op("UnravelIndex").input(&i).input(&d).output().unwrap();
        assert_eq!(eval(&y), Tensor::from([[3i32, 6, 6], [4, 5, 1]]));
    }

    #[test]
    fn distances_of_sequences() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let words = |v: Vec<&'static str>| c(Tensor::strings([v.len()], v).unwrap());
        let run = |normalize: bool| {
            let hypothesis = [
                c([[0i64, 0], [1, 0], [1, 1]].into()),
                words(vec!["a", "b", "c"]),
                c([3i64, 2].into()),
            ];
            let truth = [
                c([[0i64, 0], [0, 1], [1, 0]].into()),
                words(vec!["a", "x", "b"]),
                c([3i64, 2].into()),
            ];
            let op = hypothesis
                .iter()
                .chain(&truth)
                .fold(g.op("EditDistance"), |b, x| b.input(x));
            eval(&op.attr("normalize", normalize).output().unwrap())
        };
        assert_eq!(run(false), Tensor::from([1f32, 1.0, 0.0]));
        assert_eq!(run(true), Tensor::from([0.5f32, 1.0, 0.0]));
    }
}
