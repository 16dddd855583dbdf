//! `Slice`.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};
use smallvec::SmallVec;

use super::support::{checked_rank, int_vector, shape_of};
use crate::moves::{self, Copies, Fill, view_copy};

/// The part of a tensor that begins at `begin` and has shape `shape`; shares the buffer if the part is contiguous
/// rows.
///
/// # Errors
/// As [`moves::build`]; the caller has checked that the part lies inside.
pub(crate) fn cut(cx: &OpContext<'_>, x: &Tensor, begin: &[usize], shape: &Shape) -> Result<Tensor> {
    if shape == x.shape() {
        return Ok(x.clone());
    }
    if shape.rank() > 0 && shape.count() > 0 && shape[1..] == x.shape()[1..] {
        return x.slice_rows(begin[0], begin[0] + shape[0]);
    }
    let strides = x.shape().strides();
    let from = begin.iter().zip(&strides).map(|(b, s)| b * s).sum();
    let strides: SmallVec<[isize; 6]> = strides.iter().map(|s| *s as isize).collect();
    let copy = view_copy(shape, &strides, from);
    moves::build(cx, x.dtype(), shape.clone(), Fill::Any, &[x], &Copies(&[copy]))
}

fn infer(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let x = cx.input(0);
    let (begin, size) = (cx.constant_i64s(1), cx.constant_i64s(2));
    let rank = x
        .rank()
        .or(begin.as_ref().map(Vec::len))
        .or(size.as_ref().map(Vec::len));
    let rank = rank.or(cx.input(1).dim(0)).or(cx.input(2).dim(0));
    let Some(rank) = rank else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let x = x.with_rank(checked_rank(rank)?)?;
    for v in [&begin, &size].into_iter().flatten() {
        if v.len() != rank {
            return Err(Error::invalid(format!(
                "begin and size must have {rank} elements, got {v:?}"
            )));
        }
    }
    let partial = match size {
        None => cx.constant_shape(2)?,
        Some(_) => PartialShape::UNKNOWN,
    };
    (0..rank)
        .map(|i| {
            let n = x.dim(i).map(|n| n as i64);
            let b = begin.as_ref().map(|b| b[i]);
            let s = size.as_ref().map(|s| s[i]);
            if let Some(b) = b
                && (b < 0 || n.is_some_and(|n| b > n))
            {
                return Err(Error::invalid(format!("begin[{i}] = {b} is outside of {x}")));
            }
            if let Some(s) = s
                && (s < -1 || n.zip(b).is_some_and(|(n, b)| s > n - b))
            {
                return Err(Error::invalid(format!(
                    "size[{i}] = {s} is too long (or negative) for {x} from {b:?}"
                )));
            }
            Ok(match (s, n, b) {
                (Some(-1), Some(n), Some(b)) => usize::try_from(n - b).ok(),
                (Some(s), ..) => usize::try_from(s).ok(),
                // A part of a shape is known; a -1 would be unknown in it.
                (None, ..) => partial.dim(i),
            })
        })
        .collect::<Result<Vec<_>>>()
        .map(|d| vec![PartialShape::new(d)])
}

fn run(cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    let (begin, size) = (int_vector(cx.input(1)?, "begin")?, int_vector(cx.input(2)?, "size")?);
    let rank = x.shape().rank();
    if begin.len() != rank || size.len() != rank {
        return Err(Error::invalid(format!(
            "begin and size must have one element for each of the {rank} dimensions of {}, got {} and {}",
            x.shape(),
            begin.len(),
            size.len()
        )));
    }
    let mut at: SmallVec<[usize; 6]> = SmallVec::new();
    let mut dims: SmallVec<[usize; 6]> = SmallVec::new();
    for i in 0..rank {
        let n = x.shape()[i] as i64;
        let (b, s) = (begin[i], size[i]);
        if b < 0 || b > n {
            return Err(Error::invalid(format!("expected begin[{i}] in [0, {n}], but got {b}")));
        }
        let s = if s == -1 { n - b } else { s };
        if s < 0 || s > n - b {
            return Err(Error::invalid(format!(
                "expected size[{i}] in [0, {}], but got {s}",
                n - b
            )));
        }
        at.push(b as usize);
        dims.push(s as usize);
    }
    let t = cut(cx, x, &at, &Shape::new(&dims))?;
    cx.set_output(0, t);
    Ok(())
}

/// The gradient padded with zeros to the input's shape.
fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let g = cx.graph();
    let (x, begin) = (cx.input(0)?, cx.input(1)?);
    let dy = cx.dense(dys, 0)?;
    let index = begin.dtype();
    let after = shape_of(&x, index)?
        .minus(&shape_of(&cx.output(0)?, index)?)?
        .minus(&begin)?;
    let paddings = g.stack(&[begin, after], 1)?;
    let dx = g.op("Pad").input(&dy).input(&paddings).output()?;
    Ok(vec![Some(dx.into()), None, None])
}

fn slice() -> OpDef {
    OpDef::new("Slice", Category::Array)
        .doc("The part that begins at `begin` and has shape `size`; -1 is all that is left.")
        .input("input: T")
        .input("begin: Index")
        .input("size: Index")
        .output("output: T")
        .attr("T: type")
        .attr("Index: {int32, int64}")
        .shape(infer)
        .gradient(gradient)
        .cpu(|_| Ok(Box::new(run)))
        .sample(|s| {
            let x = s.normal([3, 4])?;
            let (begin, size) = (s.constant([1i32, 0])?, s.constant([-1i32, 2])?);
            s.op("Slice").input(&x).input(&begin).input(&size).finish()
        })
        .sample(|s| {
            let x = s.normal([3, 4])?;
            let (begin, size) = (s.constant([1i64, 1])?, s.constant([1i64, -1])?);
            let shape = s
                .op("PlaceholderWithDefault")
                .input(&x)
                .attr("shape", PartialShape::UNKNOWN)
                .output()?;
            s.op("Slice").input(&shape).input(&begin).input(&size).finish()
        })
}

register_ops!(slice);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Output};

    fn slice(x: &Output, begin: &[i64], size: &[i64]) -> Result<Output> {
        let g = x.graph();
        let (b, s) = (g.constant(Tensor::vector(begin))?, g.constant(Tensor::vector(size))?);
        g.op("Slice").input(x).input(&b).input(&s).output()
    }

    #[test]
    fn slices_of_numbers_and_strings() {
        let g = Graph::new();
        let x = g
            .constant(Tensor::from_slice([3, 3], &[1u8, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap())
            .unwrap();
        let y = slice(&x, &[1, 1], &[-1, 2]).unwrap();
        assert_eq!(y.shape(), PartialShape::from([2, 2]));
        assert_eq!(eval(&y).to_vec::<u8>().unwrap(), [5, 6, 8, 9]);
        assert_eq!(eval(&slice(&x, &[3, 0], &[0, 3]).unwrap()).len(), 0);
        let s = g
            .constant(Tensor::strings([2, 2], vec!["a", "b", "c", "d"]).unwrap())
            .unwrap();
        assert_eq!(
            eval(&slice(&s, &[0, 1], &[2, 1]).unwrap()),
            Tensor::strings([2, 1], vec!["b", "d"]).unwrap()
        );
        assert!(slice(&x, &[2, 0], &[2, 1]).is_err() && slice(&x, &[-1, 0], &[1, 1]).is_err());
        assert!(slice(&x, &[0], &[1]).is_err());
    }

    #[test]
    fn whole_rows_share_the_buffer() {
        let g = Graph::new();
        let x = g.constant(Tensor::zeros(DType::F32, [10, 10]).unwrap()).unwrap();
        let y = slice(&x, &[2, 0], &[3, -1]).unwrap();
        assert!(eval(&y).shares_data_with(&eval(&x)));
    }
}
