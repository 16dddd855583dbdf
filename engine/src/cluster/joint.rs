//! The parts of a share in one process.

use std::sync::Arc;

use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::tensor::Tensor;
use parking_lot::{Condvar, Mutex};

use super::host::{DevicePlan, SharePlan};

/// The parts of a share that run at the same time, and what comes of them.
pub(super) struct Joint {
    state: Mutex<JointState>,
    over: Condvar,
    cancel: CancelToken,
}

struct JointState {
    left: usize,
    error: Option<Error>,
    fetched: Vec<Option<Tensor>>,
    then: Option<Box<dyn FnOnce(Result<Vec<Tensor>>) + Send>>,
}

impl Joint {
    pub(super) fn new(
        share: &SharePlan,
        cancel: &CancelToken,
        then: Option<Box<dyn FnOnce(Result<Vec<Tensor>>) + Send>>,
    ) -> Arc<Joint> {
        Arc::new(Joint {
            state: Mutex::new(JointState {
                left: share.devices.len(),
                error: None,
                fetched: vec![None; share.fetches],
                then,
            }),
            over: Condvar::new(),
            cancel: cancel.clone(),
        })
    }

    /// One part is over.
    pub(super) fn done(&self, part: &DevicePlan, result: Result<Vec<Tensor>>) {
        let (first, then) = {
            let mut s = self.state.lock();
            s.left = s.left.saturating_sub(1);
            let mut first = None;
            match result {
                Ok(values) => {
                    for (k, t) in part.fetches.iter().zip(values) {
                        if let Some(slot) = s.fetched.get_mut(*k) {
                            *slot = Some(t);
                        }
                    }
                }
                Err(e) => {
                    // What follows from another error gives way to it.
                    let better = s.error.as_ref().is_none_or(|old| old.is_derived() && !e.is_derived());
                    if better {
                        first = Some(e.clone());
                        s.error = Some(e);
                    }
                }
            }
            let then = if s.left == 0 { s.then.take() } else { None };
            (first, then)
        };
        if let Some(e) = first {
            self.cancel.cancel(e);
        }
        if let Some(then) = then {
            then(self.outcome());
        }
        self.over.notify_all();
    }

    pub(super) fn outcome(&self) -> Result<Vec<Tensor>> {
        let mut s = self.state.lock();
        if let Some(e) = s.error.take() {
            return Err(e);
        }
        s.fetched
            .drain(..)
            .map(|t| t.ok_or_else(|| Error::internal("a part of the step gave no value")))
            .collect()
    }

    pub(super) fn wait(&self) {
        let mut s = self.state.lock();
        while s.left > 0 {
            self.over.wait(&mut s);
        }
    }
}
