//! `InplaceUpdate`, `InplaceAdd`, `InplaceSub`: rows of a tensor that nobody else needs.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Tensor, register_ops};

use super::gather_nd::BadIndices;
use super::scatter::{Combine, scatter};
use super::support::ints;
use crate::shapes;

fn run(cx: &mut OpContext<'_>, how: Combine) -> Result<()> {
    let x = cx.take_input(0)?;
    let (i, v) = (cx.input(1)?, cx.input(2)?);
    if i.shape().rank() != 1 {
        return Err(Error::invalid(format!("i must be a vector, got shape {}", i.shape())));
    }
    let Some(&rows) = x.shape().dims().first() else {
        return Err(Error::invalid("x must be at least a vector"));
    };
    if rows == 0 && !i.is_empty() {
        return Err(Error::invalid("x has no rows"));
    }
    // Row numbers wrap around.
    let list: Vec<i64> = ints(i)?.iter().map(|r| r.rem_euclid(rows.max(1) as i64)).collect();
    let tuples = Tensor::from_slice([list.len(), 1], &list)?;
    let t = scatter(cx, x, &tuples, v, how, BadIndices::Error)?;
    cx.set_output(0, t);
    Ok(())
}

fn inplace(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .input("x: T")
        .input("i: int32")
        .input("v: T")
        .output("y: T")
        .attr("T: type")
        .shape(shapes::like_first)
        .not_differentiable()
}

fn kernel(how: Combine) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, how)))
}

fn update() -> OpDef {
    inplace("InplaceUpdate")
        .doc("The tensor with rows replaced.")
        .cpu(|_| kernel(Combine::Assign))
}

fn add() -> OpDef {
    inplace("InplaceAdd")
        .doc("The tensor with something added to rows.")
        .cpu(|_| kernel(Combine::Add))
}

fn sub() -> OpDef {
    inplace("InplaceSub")
        .doc("The tensor with something subtracted from rows.")
        .cpu(|_| kernel(Combine::Sub))
}

register_ops!(update, add, sub);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn rows_change_and_their_numbers_wrap() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let (x, v) = (c([[1i32, 2], [3, 4]].into()), c([[10i32, 20]].into()));
        let run = |op: &str, i: i32| eval(&g.op(op).input(&x).input(&c([i].into())).input(&v).output().unwrap());
        assert_eq!(run("InplaceUpdate", -1), Tensor::from([[1i32, 2], [10, 20]]));
        assert_eq!(run("InplaceAdd", 2), Tensor::from([[11i32, 22], [3, 4]]));
        assert_eq!(run("InplaceSub", 1), Tensor::from([[1i32, 2], [-7, -16]]));
        assert_eq!(eval(&x), Tensor::from([[1i32, 2], [3, 4]]));
    }
}
