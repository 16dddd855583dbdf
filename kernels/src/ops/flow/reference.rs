//! `RefIdentity`, `RefSelect`: references to variables, passed on and chosen.

use actorflow_core::PartialShape;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use crate::shapes;

struct Pass;

impl Kernel for Pass {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        cx.forward(0, 0)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct Select;

impl Kernel for Select {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let index = cx.scalar::<i32>(0)?;
        let n = cx.num_inputs() - 1;
        match usize::try_from(index).ok().filter(|i| *i < n) {
            Some(i) => cx.forward(0, i + 1),
            None => Err(Error::invalid(format!(
                "RefSelect got index {index}, which is not in [0, {n})"
            ))),
        }
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn ref_identity() -> OpDef {
    OpDef::new("RefIdentity", Category::ControlFlow)
        .doc("The same reference to a variable.")
        .input("input: Ref(T)")
        .output("output: Ref(T)")
        .attr("T: type")
        .shape(shapes::unchanged)
        .gradient(|_, dys| Ok(vec![dys[0].clone()]))
        .cpu(|_| Ok(Box::new(Pass)))
}

fn ref_select() -> OpDef {
    OpDef::new("RefSelect", Category::ControlFlow)
        .doc("The reference that the index selects.")
        .input("index: int32")
        .input("inputs: N * Ref(T)")
        .output("output: Ref(T)")
        .attr("T: type")
        .attr("N: int >= 1")
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            let mut rest = cx.inputs().iter().skip(1);
            let first = rest.next().cloned().unwrap_or_default();
            let s: PartialShape = rest.fold(first, |s, i| s.relax(i));
            Ok(vec![s])
        })
        .cpu(|_| Ok(Box::new(Select)))
}

register_ops!(ref_identity, ref_select);
