//! `Enter`, `Exit`, `NextIteration`, `LoopCond` and their reference forms: the edges of loops.

use actorflow_core::PartialShape;
use actorflow_core::error::Result;
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use crate::shapes;

/// Passes its input on.
struct Pass;

impl Kernel for Pass {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        cx.forward(0, 0)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn passing(name: &'static str, arg: &str) -> OpDef {
    OpDef::new(name, Category::ControlFlow)
        .input(&format!("data: {arg}"))
        .output(&format!("output: {arg}"))
        .attr("T: type")
        .control_flow()
        .shape(shapes::unchanged)
        .cpu(|_| Ok(Box::new(Pass)))
}

fn enter_attrs(def: OpDef) -> OpDef {
    def.attr("frame_name: string")
        .attr("is_constant: bool = false")
        .attr("parallel_iterations: int = 10")
}

fn enter() -> OpDef {
    enter_attrs(passing("Enter", "T"))
        .doc("Brings a value into a loop: to its first iteration, or to every one if it is constant.")
}

fn ref_enter() -> OpDef {
    enter_attrs(passing("RefEnter", "Ref(T)")).doc("Enter of a reference to a variable.")
}

fn exit() -> OpDef {
    passing("Exit", "T").doc("Takes a value out of a loop.")
}

fn ref_exit() -> OpDef {
    passing("RefExit", "Ref(T)").doc("Exit of a reference to a variable.")
}

fn next_iteration() -> OpDef {
    passing("NextIteration", "T").doc("Brings a value to the next iteration of a loop.")
}

fn ref_next_iteration() -> OpDef {
    passing("RefNextIteration", "Ref(T)").doc("NextIteration of a reference to a variable.")
}

fn loop_cond() -> OpDef {
    OpDef::new("LoopCond", Category::ControlFlow)
        .doc("Marks the condition of a loop; passes it on.")
        .input("input: bool")
        .output("output: bool")
        .control_flow()
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            Ok(vec![PartialShape::scalar()])
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(Pass)))
}

register_ops!(
    enter,
    ref_enter,
    exit,
    ref_exit,
    next_iteration,
    ref_next_iteration,
    loop_cond
);
