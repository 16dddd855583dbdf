//! `Identity`, `IdentityN`, `StopGradient`, `PreventGradient`, `NoOp`, `Snapshot`, and the identities that TensorFlow's
//! debugger puts into graphs.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use crate::shapes;

/// Passes every input through.
struct Forward;

impl Kernel for Forward {
    #[inline]
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        for i in 0..cx.num_inputs() {
            cx.forward(i, i)?;
        }
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn passing(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .input("input: T")
        .output("output: T")
        .attr("T: type")
        .shape(shapes::unchanged)
        .cpu(|_| Ok(Box::new(Forward)))
}

fn identity() -> OpDef {
    passing("Identity")
        .doc("The same tensor; of a reference, its present value.")
        .gradient(|_, dys| Ok(vec![dys[0].clone()]))
        .sample(|s| {
            let x = s.normal([2, 3])?;
            s.op("Identity").input(&x).finish()
        })
}

fn snapshot() -> OpDef {
    passing("Snapshot")
        .doc("The same tensor.")
        .gradient(|_, dys| Ok(vec![dys[0].clone()]))
        .sample(|s| {
            let x = s.normal([2])?;
            s.op("Snapshot").input(&x).finish()
        })
}

/// An identity that TensorFlow's debugger watches. Nothing is published from here.
fn watched(name: &'static str) -> OpDef {
    passing(name)
        .attr("debug_urls: list(string) = []")
        .cpu(|init| match init.attrs.strs("debug_urls")?.first() {
            None => Ok(Box::new(Forward)),
            Some(url) => Err(Error::unimplemented(format!(
                "tensors are not published to {url}: leave debug_urls empty, and fetch the tensor instead"
            ))),
        })
}

fn debug_identity() -> OpDef {
    watched("DebugIdentity")
        .doc("The same tensor, as TensorFlow's debugger puts it into a graph; debug_urls must be empty.")
        .attr("device_name: string = ''")
        .attr("tensor_name: string = ''")
        .attr("gated_grpc: bool = false")
}

fn debug_identity_v2() -> OpDef {
    watched("DebugIdentityV2")
        .doc("The same tensor, as the second TensorFlow debugger puts it into a graph; debug_urls must be empty.")
        .attr("tfdbg_context_id: string = ''")
        .attr("op_name: string = ''")
        .attr("output_slot: int = -1")
        .attr("tensor_debug_mode: int = -1")
        .attr("circular_buffer_size: int = 1000")
        .attr("tfdbg_run_id: string = ''")
        .stateful()
        .gradient(|_, dys| Ok(vec![dys[0].clone()]))
        .sample(|s| {
            let x = s.normal([2])?;
            s.op("DebugIdentityV2").input(&x).finish()
        })
}

fn debug_gradient_identity() -> OpDef {
    passing("DebugGradientIdentity")
        .doc("The same tensor, whose gradient TensorFlow's debugger watches.")
        .gradient(|_, dys| Ok(vec![dys[0].clone()]))
        .sample(|s| {
            let x = s.normal([2])?;
            s.op("DebugGradientIdentity").input(&x).finish()
        })
}

fn stop_gradient() -> OpDef {
    passing("StopGradient")
        .doc("The same tensor, through which no gradient flows.")
        .not_differentiable()
}

fn prevent_gradient() -> OpDef {
    passing("PreventGradient")
        .doc("The same tensor; asking for a gradient through it is an error with this message.")
        .attr("message: string = ''")
        .gradient(|cx, _| {
            Err(Error::invalid(format!(
                "gradient explicitly disabled: {}",
                cx.attrs().str("message")?
            )))
        })
}

fn identity_n() -> OpDef {
    OpDef::new("IdentityN", Category::Array)
        .doc("The same tensors.")
        .input("input: T")
        .output("output: T")
        .attr("T: list(type) >= 1")
        .shape(shapes::unchanged)
        .gradient(|_, dys| Ok(dys.to_vec()))
        .cpu(|_| Ok(Box::new(Forward)))
        .sample(|s| {
            let (x, y) = (s.normal([2, 3])?, s.normal([2])?);
            s.op("IdentityN").input_list(&[x, y]).finish()
        })
}

fn no_op() -> OpDef {
    // Not stateful: whether it runs is decided by its control edges alone.
    OpDef::new("NoOp", Category::ControlFlow)
        .doc("Does nothing; finishes when its control inputs have.")
        .shape(|_| Ok(Vec::new()))
        .not_differentiable()
        .cpu(|_| Ok(Box::new(Nothing)))
}

struct Nothing;

impl Kernel for Nothing {
    #[inline]
    fn compute(&self, _: &mut OpContext<'_>) -> Result<()> {
        Ok(())
    }

    fn is_empty(&self) -> bool {
        true
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

register_ops!(
    identity,
    snapshot,
    stop_gradient,
    prevent_gradient,
    identity_n,
    no_op,
    debug_identity,
    debug_identity_v2,
    debug_gradient_identity
);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::gradient::gradients;
    use actorflow_core::{AttrValue, Code, Graph, Tensor};

    #[test]
    fn no_gradient_flows_through_stop_gradient() {
        let g = Graph::new();
        let x = g.constant(3.0f32).unwrap();
        let y = x.stop_gradient().unwrap();
        assert_eq!(eval(&y), Tensor::from(3.0f32));
        assert!(gradients(&[y], &[x]).unwrap()[0].is_none());
    }

    #[test]
    fn what_a_debugger_watches_passes_and_is_not_published() {
        let g = Graph::new();
        let x = g.constant([1f32, 2.]).unwrap();
        for op in ["DebugIdentity", "DebugIdentityV2", "DebugGradientIdentity"] {
            assert_eq!(eval(&x.unary(op).unwrap()), Tensor::from([1f32, 2.]));
        }
        let urls = AttrValue::List(vec![AttrValue::Str("file:///tmp/dump".into())]);
        let e = fails(
            &g.op("DebugIdentity")
                .input(&x)
                .attr("debug_urls", urls)
                .output()
                .unwrap(),
        );
        assert_eq!(e.code(), Code::Unimplemented);
        assert!(e.message().contains("file:///tmp/dump"), "{e}");
    }
}
