//! `Diag`, `DiagPart`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::parallel::Parallel;
use actorflow_core::{PartialShape, Shape, register_ops};

use crate::moves::{self, Fill, Item, Shuffle};

/// Element `i` of a vector is element `(i, i)` of a matrix; copies one to the other.
struct Main {
    to_matrix: bool,
}

impl Shuffle for Main {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], _: &dyn Parallel) -> Result<()> {
        let Some(from) = sources.first() else {
            return Err(Error::internal("a diagonal needs a source"));
        };
        let n = from.len().min(out.len());
        let (a, b) = if self.to_matrix { (1, n + 1) } else { (n + 1, 1) };
        for (to, from) in out.iter_mut().step_by(b).zip(from.iter().step_by(a)) {
            *to = from.clone();
        }
        Ok(())
    }
}

fn diag_kernel(cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    let dims = x.shape();
    if dims.is_scalar() {
        return Err(Error::invalid("input must be at least rank 1, got 0"));
    }
    let shape: Shape = dims.iter().chain(dims.iter()).copied().collect();
    shape.checked_count()?;
    let out = moves::build(cx, x.dtype(), shape, Fill::Zero, &[x], &Main { to_matrix: true })?;
    cx.set_output(0, out);
    Ok(())
}

fn part_kernel(cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    let shape = x.shape();
    let (left, right) = shape.split_at(shape.rank() / 2);
    if shape.is_scalar() || left != right {
        return Err(Error::invalid(format!(
            "the rank of the tensor should be even and positive, its halves the same: got shape {shape}"
        )));
    }
    let out = moves::build(
        cx,
        x.dtype(),
        Shape::new(left),
        Fill::Any,
        &[x],
        &Main { to_matrix: false },
    )?;
    cx.set_output(0, out);
    Ok(())
}

const NUMBERS: &str = "T: {bfloat16, half, float, double, int32, int64, complex64, complex128}";

fn diag() -> OpDef {
    OpDef::new("Diag", Category::Matrix)
        .doc("A tensor of twice the rank with the input on its diagonal, zero elsewhere.")
        .input("diagonal: T")
        .output("output: T")
        .attr(NUMBERS)
        .shape(|cx| {
            let x = cx.input(0).with_rank_at_least(1)?;
            Ok(vec![x.concat(&x)])
        })
        .gradient(|cx, dys| Ok(vec![Some(cx.dense(dys, 0)?.unary("DiagPart")?.into())]))
        .cpu(|_| Ok(Box::new(diag_kernel)))
        .sample(|s| {
            let x = s.normal([2, 3])?;
            s.op("Diag").input(&x).finish()
        })
}

fn diag_part() -> OpDef {
    OpDef::new("DiagPart", Category::Matrix)
        .doc("The diagonal of a tensor whose dimensions are some dimensions twice.")
        .input("input: T")
        .output("diagonal: T")
        .attr(NUMBERS)
        .shape(|cx| {
            let x = cx.input(0);
            Ok(vec![match x.rank() {
                None => PartialShape::UNKNOWN,
                Some(r) if r > 0 && r % 2 == 0 => x.sub(0, r / 2).merge(&x.sub(r / 2, r))?,
                Some(r) => {
                    return Err(Error::invalid(format!(
                        "input must have even and positive rank, got {r}: shape {x}"
                    )));
                }
            }])
        })
        .gradient(|cx, dys| Ok(vec![Some(cx.dense(dys, 0)?.unary("Diag")?.into())]))
        .cpu(|_| Ok(Box::new(part_kernel)))
        .sample(|s| {
            let x = s.normal([2, 3, 2, 3])?;
            s.op("DiagPart").input(&x).finish()
        })
}

register_ops!(diag, diag_part);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn to_a_diagonal_and_back() {
        let g = Graph::new();
        let x = g.constant([1i64, 2]).unwrap();
        let y = x.unary("Diag").unwrap();
        assert_eq!(eval(&y), Tensor::from([[1i64, 0], [0, 2]]));
        assert_eq!(eval(&y.unary("DiagPart").unwrap()), Tensor::from([1i64, 2]));
        let x = g.constant([[1f32, 2., 3.]]).unwrap();
        let y = x.unary("Diag").unwrap();
        assert_eq!(eval(&y).shape().dims(), [1, 3, 1, 3]);
        assert_eq!(eval(&y.unary("DiagPart").unwrap()), eval(&x));
        assert!(x.unary("DiagPart").is_err() && g.constant([1f32]).unwrap().unary("DiagPart").is_err());
    }
}
