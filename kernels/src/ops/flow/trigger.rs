//! `ControlTrigger`, `Abort`.

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

struct Nothing;

impl Kernel for Nothing {
    fn compute(&self, _: &mut OpContext<'_>) -> Result<()> {
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct Abort(String);

impl Kernel for Abort {
    fn compute(&self, _: &mut OpContext<'_>) -> Result<()> {
        Err(Error::new(Code::Aborted, self.0.clone()))
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn control_trigger() -> OpDef {
    OpDef::new("ControlTrigger", Category::ControlFlow)
        .doc("Does nothing, as NoOp, but is never dead: it finishes after its control inputs, whether they ran or not.")
        .control_flow()
        .shape(|_| Ok(Vec::new()))
        .not_differentiable()
        .cpu(|_| Ok(Box::new(Nothing)))
}

fn abort() -> OpDef {
    OpDef::new("Abort", Category::ControlFlow)
        .doc("Fails the step with this message. (TensorFlow's ends the process; here only the step dies.)")
        .attr("error_msg: string = ''")
        .attr("exit_without_error: bool = false")
        .stateful()
        .shape(|_| Ok(Vec::new()))
        .not_differentiable()
        .cpu(|init| {
            let text = init.attrs.str("error_msg")?;
            let text = if text.is_empty() {
                "the graph aborted the step"
            } else {
                text
            };
            Ok(Box::new(Abort(text.to_owned())))
        })
}

register_ops!(control_trigger, abort);
