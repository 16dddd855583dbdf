//! When it has gone wrong.

use actorflow_core::half::{bf16, f16};
use actorflow_core::{DType, Error, Graph, Output, Result, Tensor};

use super::step::StepReader;
use crate::train::monitored::{RunArgs, RunContext, RunValues, SessionHook};

/// Ends the training when a tensor, such as the loss, has become NaN. `TensorFlow: tf.train.NanTensorHook`.
pub struct NanTensorHook {
    tensor: Output,
    fails: bool,
    step: StepReader,
}

impl NanTensorHook {
    /// Fails the run with `INVALID_ARGUMENT` naming the tensor and the step.
    pub fn new(tensor: &Output) -> NanTensorHook {
        NanTensorHook {
            tensor: tensor.clone(),
            fails: true,
            step: StepReader::default(),
        }
    }

    /// Asks the training to end instead of failing.
    pub fn stop_quietly(mut self) -> Self {
        self.fails = false;
        self
    }
}

/// Whether an element is NaN.
fn has_nan(t: &Tensor) -> Result<bool> {
    Ok(match t.dtype() {
        DType::F32 => t.as_slice::<f32>()?.iter().any(|x| x.is_nan()),
        DType::F64 => t.as_slice::<f64>()?.iter().any(|x| x.is_nan()),
        DType::F16 => t.as_slice::<f16>()?.iter().any(|x| x.is_nan()),
        DType::BF16 => t.as_slice::<bf16>()?.iter().any(|x| x.is_nan()),
        _ => false,
    })
}

impl SessionHook for NanTensorHook {
    fn begin(&mut self, graph: &Graph) -> Result<()> {
        self.step.find(graph).map(drop)
    }

    fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
        Ok(Some(RunArgs::new().fetch(&self.tensor)))
    }

    fn after_run(&mut self, context: &RunContext<'_>, values: &RunValues<'_>) -> Result<()> {
        let Some(value) = values.values.first() else {
            return Err(Error::internal("the tensor that may be NaN was not fetched"));
        };
        if !has_nan(value)? {
            return Ok(());
        }
        if !self.fails {
            context.request_stop();
            return Ok(());
        }
        let at = match self.step.now(context.session())? {
            Some(step) => format!(" at global step {step}"),
            None => String::new(),
        };
        Err(Error::invalid(format!(
            "{} is NaN{at}: the training has diverged; lower the learning rate, clip the gradients, or look for \
             divisions by zero and logarithms of zero",
            self.tensor.name()
        )))
    }
}
