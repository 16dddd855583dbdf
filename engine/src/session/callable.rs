//! Prepared runs.

use std::sync::Arc;
use std::time::Instant;

use actorflow_actors::exec::StepFuture;
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::{DType, Operation, Output, PartialShape, Tensor};

use super::backend::{How, Prepared};
use super::{Session, check_feed};

struct Feed {
    output: Output,
    dtype: DType,
    shape: PartialShape,
}

/// A run whose plan is compiled already; made by [`Session::callable`]. Cheap to call and to share.
#[derive(Clone)]
pub struct Callable {
    session: Session,
    plan: Prepared,
    feeds: Arc<[Feed]>,
}

impl Callable {
    pub(super) fn new(
        session: &Session,
        feeds: &[&Output],
        fetches: &[&Output],
        targets: &[&Operation],
    ) -> Result<Callable> {
        let plan = session.plan(feeds, fetches, targets)?;
        let feeds = feeds
            .iter()
            .map(|o| Feed {
                output: (*o).clone(),
                dtype: o.dtype(),
                shape: o.shape(),
            })
            .collect();
        Ok(Callable {
            session: session.clone(),
            plan,
            feeds,
        })
    }

    fn check(&self, values: &[Tensor]) -> Result<()> {
        if values.len() != self.feeds.len() {
            return Err(Error::invalid(format!(
                "the callable takes {} feeds, got {}",
                self.feeds.len(),
                values.len()
            )));
        }
        for (f, t) in self.feeds.iter().zip(values) {
            if t.dtype() != f.dtype || !f.shape.accepts(t.shape()) {
                check_feed(&f.output, t)?;
            }
        }
        Ok(())
    }

    /// Runs with these feeds, in the order in which the callable was made; the fetched values in order.
    ///
    /// # Errors
    /// As [`Session::run`].
    #[inline]
    pub fn call(&self, feeds: &[Tensor]) -> Result<Vec<Tensor>> {
        self.call_with(feeds, How::default())
    }

    /// [`call`](Self::call), failing with `DEADLINE_EXCEEDED` at a given time.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn call_until(&self, feeds: &[Tensor], deadline: Instant) -> Result<Vec<Tensor>> {
        self.call_with(
            feeds,
            How {
                deadline: Some(deadline),
                ..How::default()
            },
        )
    }

    /// [`call`](Self::call), failing at a given time and when a token is cancelled.
    ///
    /// # Errors
    /// As [`Session::run`]; `DEADLINE_EXCEEDED` and `CANCELLED` as asked for.
    pub fn call_unless(
        &self,
        feeds: &[Tensor],
        deadline: Option<Instant>,
        cancel: Option<&CancelToken>,
    ) -> Result<Vec<Tensor>> {
        self.call_with(
            feeds,
            How {
                deadline,
                cancel,
                ..How::default()
            },
        )
    }

    #[inline]
    fn call_with(&self, feeds: &[Tensor], how: How<'_>) -> Result<Vec<Tensor>> {
        self.check(feeds)?;
        self.session.backend().run(&self.plan, feeds.iter().cloned(), how)
    }

    /// Starts the run on the session's workers; dropping the future cancels it.
    ///
    /// # Errors
    /// Errors of the feeds come at once, errors of the run from the future.
    pub fn call_async(&self, feeds: Vec<Tensor>) -> Result<StepFuture> {
        self.check(&feeds)?;
        Ok(self.session.backend().run_async(&self.plan, feeds, None, None))
    }

    /// The number of nodes that a call runs, after all passes; over several devices, before the passes of each.
    pub fn num_nodes(&self) -> usize {
        self.plan.num_nodes()
    }

    /// The nodes that a call runs in this process, after all passes: their names and operations. A node that a pass
    /// made has the name of the one that it replaced.
    pub fn nodes(&self) -> Vec<(Arc<str>, &'static str)> {
        let plans = self.plan.plans_here();
        let nodes = plans.iter().flat_map(|p| p.nodes());
        nodes.map(|n| (n.name.clone(), n.op)).collect()
    }

    /// What each node of this process costs, in nanoseconds, as far as it was measured.
    pub fn costs(&self) -> Vec<(Arc<str>, u32)> {
        self.plan.plans_here().iter().flat_map(|p| p.costs()).collect()
    }
}
