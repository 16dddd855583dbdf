//! How well it goes.

use actorflow_core::{Graph, Output, Result, Tensor};

use super::timer::{Every, Timer};
use crate::train::monitored::{RunArgs, RunContext, RunValues, SessionHook};

/// Hands the values of tensors to the program, for its log. `TensorFlow: tf.train.LoggingTensorHook`.
///
/// Steps are runs of this session here, not global ones.
pub struct LoggingTensorHook {
    names: Vec<String>,
    tensors: Vec<Output>,
    timer: Timer,
    runs: i64,
    due: bool,
    log: Box<dyn FnMut(&str) + Send>,
}

impl LoggingTensorHook {
    /// So often calls `log` with a line such as `loss = 0.25, accuracy = 0.9`.
    pub fn new(tensors: &[(&str, &Output)], every: Every, log: impl FnMut(&str) + Send + 'static) -> LoggingTensorHook {
        LoggingTensorHook {
            names: tensors.iter().map(|t| t.0.to_owned()).collect(),
            tensors: tensors.iter().map(|t| t.1.clone()).collect(),
            timer: Timer::new(every),
            runs: 0,
            due: false,
            log: Box::new(log),
        }
    }
}

/// A number as it is, another tensor as its dtype, shape and first values.
fn shown(t: &Tensor) -> String {
    match t.shape().is_scalar() {
        true => {
            if let Ok(x) = t.to_scalar::<f32>() {
                return x.to_string();
            }
            if let Ok(x) = t.to_scalar::<f64>() {
                return x.to_string();
            }
            t.to_i64().map_or_else(|_| format!("{t:?}"), |x| x.to_string())
        }
        false => format!("{t:?}"),
    }
}

impl SessionHook for LoggingTensorHook {
    fn begin(&mut self, _: &Graph) -> Result<()> {
        self.timer.check("LoggingTensorHook")
    }

    fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
        self.due = self.timer.due(self.runs);
        Ok(self.due.then(|| RunArgs {
            fetches: self.tensors.clone(),
            ..RunArgs::default()
        }))
    }

    fn after_run(&mut self, _: &RunContext<'_>, values: &RunValues<'_>) -> Result<()> {
        if self.due {
            self.timer.mark(self.runs);
            let parts = self.names.iter().zip(&values.values);
            let parts: Vec<String> = parts.map(|(n, v)| format!("{n} = {}", shown(v))).collect();
            (self.log)(&parts.join(", "));
        }
        self.runs += 1;
        Ok(())
    }
}
