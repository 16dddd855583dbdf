//! `Transpose`, `ConjugateTranspose`, `InvertPermutation`.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Output, PartialShape, Tensor, dispatch, register_ops};
use smallvec::SmallVec;

use super::support::{checked_rank, index_constant, index_vector, int_vector};
use crate::moves::{self, Copies, Fill, view_copy};

type Permutation = SmallVec<[usize; 8]>;

/// A permutation of `0..rank`; negative entries count from the end.
fn permutation(perm: &[i64], rank: usize) -> Result<Permutation> {
    let wrong = || Error::invalid(format!("{perm:?} is not a permutation of the {rank} axes"));
    if perm.len() != rank {
        return Err(wrong());
    }
    let mut seen: SmallVec<[bool; 8]> = SmallVec::from_elem(false, rank);
    let mut out = Permutation::new();
    for &p in perm {
        let p = if p < 0 { p + rank as i64 } else { p };
        let p = usize::try_from(p)
            .ok()
            .filter(|p| *p < rank && !seen[*p])
            .ok_or_else(wrong)?;
        seen[p] = true;
        out.push(p);
    }
    Ok(out)
}

/// The tensor with its axes in another order: axis `i` of the result is axis `perm[i]` of `x`. Shares the buffer if
/// only axes of length 1 move.
///
/// # Errors
/// As [`moves::build`].
pub(crate) fn transposed(cx: &OpContext<'_>, x: &Tensor, perm: &[usize]) -> Result<Tensor> {
    let dims: SmallVec<[usize; 6]> = perm.iter().map(|p| x.shape()[*p]).collect();
    let mut long = perm.iter().filter(|p| x.shape()[**p] != 1);
    let mut last = None;
    if long.all(|p| last.replace(p).is_none_or(|l| l < p)) {
        return x.clone().reshape(&dims[..]);
    }
    let strides = x.shape().strides();
    let strides: SmallVec<[isize; 6]> = perm.iter().map(|p| strides[*p] as isize).collect();
    let copy = view_copy(&dims, &strides, 0);
    moves::build(cx, x.dtype(), dims[..].into(), Fill::Any, &[x], &Copies(&[copy]))
}

fn infer(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let x = cx.input(0);
    let perm = cx.constant_i64s(1);
    let rank = x.rank().or(cx.input(1).dim(0)).or(perm.as_ref().map(Vec::len));
    let Some(rank) = rank else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let x = x.with_rank(checked_rank(rank)?)?;
    Ok(vec![match perm {
        Some(p) => PartialShape::new(permutation(&p, rank)?.iter().map(|p| x.dim(*p)).collect::<Vec<_>>()),
        None => PartialShape::of_rank(rank),
    }])
}

fn run(cx: &OpContext<'_>) -> Result<Tensor> {
    let x = cx.input(0)?;
    let perm = permutation(&int_vector(cx.input(1)?, "perm")?, x.shape().rank())?;
    transposed(cx, x, &perm)
}

/// The permutation that undoes `perm`; a constant if it is known.
fn inverse(perm: &Output) -> Result<Output> {
    if let Some(p) = perm.constant_value().and_then(|t| t.to_i64_vec().ok())
        && let Ok(p) = permutation(&p, p.len())
    {
        let mut back = vec![0; p.len()];
        p.iter().enumerate().for_each(|(i, p)| back[*p] = i as i64);
        return index_constant(perm.graph(), perm.dtype(), &back);
    }
    perm.unary("InvertPermutation")
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let back = inverse(&cx.input(1)?)?;
    let dx = cx.graph().op(op).input(&cx.dense(dys, 0)?).input(&back).output()?;
    Ok(vec![Some(dx.into()), None])
}

fn transposing(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .input("x: T")
        .input("perm: Tperm")
        .output("y: T")
        .attr("T: type")
        .attr("Tperm: {int32, int64} = DT_INT32")
        .shape(infer)
}

fn transpose() -> OpDef {
    transposing("Transpose")
        .doc("The axes in another order: axis `i` of the result is axis `perm[i]` of the input.")
        .gradient(|cx, dys| gradient(cx, dys, "Transpose"))
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let t = run(cx)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([2, 3, 4])?;
            let perm = s.constant([2i32, 0, 1])?;
            s.op("Transpose").input(&x).input(&perm).finish()
        })
}

fn conjugate_transpose() -> OpDef {
    transposing("ConjugateTranspose")
        .doc("The axes in another order, and complex numbers conjugated.")
        .gradient(|cx, dys| gradient(cx, dys, "ConjugateTranspose"))
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let t = run(cx)?;
                let t = if t.dtype().is_complex() { conjugated(cx, t)? } else { t };
                cx.set_output(0, t);
                Ok(())
            }))
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            let perm = s.constant([1i32, 0])?;
            s.op("ConjugateTranspose").input(&x).input(&perm).finish()
        })
}

fn conjugated(cx: &OpContext<'_>, t: Tensor) -> Result<Tensor> {
    let mut t = t.into_unique(cx.step().device.pool())?;
    dispatch!(t.dtype(), T in [C64, C128] => {
        for x in t.as_mut_slice::<T>().unwrap_or(&mut []) {
            *x = x.conj();
        }
    }, else {});
    Ok(t)
}

fn invert_permutation() -> OpDef {
    OpDef::new("InvertPermutation", Category::Array)
        .doc("The inverse of a permutation of 0, 1, …: `y[x[i]] = i`.")
        .input("x: T")
        .output("y: T")
        .attr("T: {int32, int64} = DT_INT32")
        .shape(|cx| Ok(vec![cx.input(0).with_rank(1)?]))
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                if x.shape().rank() != 1 {
                    return Err(Error::invalid(format!("expected a vector, got shape {}", x.shape())));
                }
                let dtype: DType = x.dtype();
                let p = int_vector(x, "x")?;
                let mut back = vec![-1i64; p.len()];
                for (i, v) in p.iter().enumerate() {
                    let slot = usize::try_from(*v).ok().and_then(|v| back.get_mut(v));
                    let slot = slot.ok_or_else(|| Error::invalid(format!("{v} is not between 0 and {}", p.len())))?;
                    if *slot != -1 {
                        return Err(Error::invalid(format!("{v} is duplicated in the input")));
                    }
                    *slot = i as i64;
                }
                cx.set_output(0, index_vector(dtype, &back)?);
                Ok(())
            }))
        })
}

register_ops!(transpose, conjugate_transpose, invert_permutation);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::num_complex::Complex;
    use actorflow_core::{Graph, Shape};

    #[test]
    fn matrices_and_higher_ranks_of_every_element_size() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3], [4, 5, 6]]).unwrap();
        assert_eq!(
            eval(&x.transpose(&[]).unwrap()),
            Tensor::from([[1i32, 4], [2, 5], [3, 6]])
        );
        let dims = [3usize, 17, 2, 33];
        for perm in [[3i64, 2, 1, 0], [0, 2, 1, 3], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let v: Vec<i64> = (0..dims.iter().product::<usize>() as i64).collect();
            let x = g.constant(Tensor::from_slice(dims, &v).unwrap()).unwrap();
            let y = x.transpose(&perm).unwrap();
            let t = eval(&y);
            let strides = Shape::new(&dims).strides();
            let out = t.shape().strides();
            for (i, got) in t.as_slice::<i64>().unwrap().iter().enumerate() {
                let at: usize = (0..4)
                    .map(|d| i / out[d] % t.shape()[d] * strides[perm[d] as usize])
                    .sum();
                assert_eq!(*got, at as i64);
            }
            for to in [DType::I8, DType::I16, DType::F32, DType::C128, DType::Bool] {
                let n = 3 * 17 * 2 * 33 * to.size();
                let bytes: Vec<u8> = (0..n).map(|i| (i % 2) as u8).collect();
                let x = g.constant(Tensor::from_bytes(to, dims, &bytes).unwrap()).unwrap();
                let there = x.transpose(&perm).unwrap();
                let back = g.op("Transpose").input(&there);
                let back = back
                    .input(&inverse(&there.op().input(1).unwrap()).unwrap())
                    .output()
                    .unwrap();
                assert_eq!(eval(&back), eval(&x), "{to}");
            }
        }
    }

    #[test]
    fn moving_only_axes_of_length_one_shares_the_buffer() {
        let g = Graph::new();
        let x = g.constant(Tensor::zeros(DType::F32, [1, 30, 1, 5]).unwrap()).unwrap();
        assert!(eval(&x.transpose(&[1, 0, 3, 2]).unwrap()).shares_data_with(&eval(&x)));
    }

    #[test]
    fn conjugation_and_bad_permutations() {
        let g = Graph::new();
        let x = g
            .constant([[Complex::new(1f32, 2.0), Complex::new(3.0, -4.0)]])
            .unwrap();
        let perm = g.constant([1i32, 0]).unwrap();
        let y = g.op("ConjugateTranspose").input(&x).input(&perm).output().unwrap();
        assert_eq!(
            eval(&y),
            Tensor::from([[Complex::new(1f32, -2.0)], [Complex::new(3.0, 4.0)]])
        );
        assert!(x.transpose(&[0, 0]).is_err() && x.transpose(&[0]).is_err() && x.transpose(&[0, 2]).is_err());
        let p = g.constant([3i32, 4, 0, 2, 1]).unwrap();
        assert_eq!(
            eval(&p.unary("InvertPermutation").unwrap()),
            Tensor::from([2i32, 4, 3, 0, 1])
        );
        let p = g.constant([1i32, 1]).unwrap();
        assert!(
            fails(&p.unary("InvertPermutation").unwrap())
                .message()
                .contains("duplicated")
        );
    }
}
