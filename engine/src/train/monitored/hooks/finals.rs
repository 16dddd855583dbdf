//! What is computed at the end.

use std::sync::Arc;

use actorflow_core::{Output, Result, Tensor};
use parking_lot::Mutex;

use crate::session::Session;
use crate::train::monitored::SessionHook;

/// The values that a [`FinalOpsHook`] has computed, once it has.
#[derive(Clone, Default)]
pub struct FinalValues(Arc<Mutex<Option<Vec<Tensor>>>>);

impl FinalValues {
    /// The values in order; `None` before the training was closed.
    pub fn get(&self) -> Option<Vec<Tensor>> {
        self.0.lock().clone()
    }
}

/// Computes values when the training is closed. `TensorFlow: tf.train.FinalOpsHook`.
pub struct FinalOpsHook {
    feeds: Vec<(Output, Tensor)>,
    fetches: Vec<Output>,
    values: FinalValues,
}

impl FinalOpsHook {
    /// Computes `fetches`, with some tensors given.
    pub fn new(feeds: &[(&Output, Tensor)], fetches: &[&Output]) -> FinalOpsHook {
        FinalOpsHook {
            feeds: feeds.iter().map(|(o, t)| ((*o).clone(), t.clone())).collect(),
            fetches: fetches.iter().map(|o| (*o).clone()).collect(),
            values: FinalValues::default(),
        }
    }

    /// Where the values will be.
    pub fn values(&self) -> FinalValues {
        self.values.clone()
    }
}

impl SessionHook for FinalOpsHook {
    fn end(&mut self, session: &Session) -> Result<()> {
        let feeds: Vec<(&Output, Tensor)> = self.feeds.iter().map(|(o, t)| (o, t.clone())).collect();
        let fetches: Vec<&Output> = self.fetches.iter().collect();
        let values = session.run(&feeds, &fetches)?;
        *self.values.0.lock() = Some(values);
        Ok(())
    }
}
