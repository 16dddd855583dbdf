//! Kernels that run the kernels of other operations.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::registry;
use actorflow_core::{Attrs, DType, Tensor};

/// The kernel of another operation, for a part of a node's work.
pub(crate) struct Part {
    kernel: Box<dyn Kernel>,
    outputs: usize,
}

impl Part {
    /// The kernel of `op` with these attributes (and the defaults of the others), inputs and outputs.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such operation; what making its kernel returns.
    pub(crate) fn new(
        init: &KernelInit<'_>,
        op: &str,
        mut attrs: Attrs,
        inputs: &[DType],
        outputs: &[DType],
    ) -> Result<Part> {
        let def = registry().get(op)?;
        def.fill_defaults(&mut attrs);
        let kernel = def.make_kernel(&KernelInit {
            name: init.name,
            op,
            attrs: &attrs,
            input_types: inputs,
            input_refs: &vec![false; inputs.len()],
            output_types: outputs,
            resources: init.resources,
        })?;
        if kernel.needs_claims() || kernel.may_suspend() {
            return Err(Error::internal(format!("{op} cannot be a part of {}", init.op)));
        }
        Ok(Part {
            kernel,
            outputs: outputs.len(),
        })
    }

    /// Runs it in the step of `cx`.
    ///
    /// # Errors
    /// What it returns.
    pub(crate) fn run(&self, cx: &OpContext<'_>, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let mut ins: Vec<_> = inputs.into_iter().map(Some).collect();
        let mut outs = vec![None; self.outputs];
        let mut inner = OpContext::new(&mut ins, &mut outs, cx.step(), cx.held(), None);
        self.kernel.compute(&mut inner)?;
        outs.into_iter()
            .map(|o| o.ok_or_else(|| Error::internal("a part left an output empty")))
            .collect()
    }

    /// As [`run`](Self::run) for a part of one output.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn run1(&self, cx: &OpContext<'_>, inputs: Vec<Tensor>) -> Result<Tensor> {
        self.run(cx, inputs)?
            .pop()
            .ok_or_else(|| Error::internal("a part has no output"))
    }
}
