//! Filling a queue of the graph from a data set.

use actorflow_core::{Code, Error, Operation, Output, PartialShape, Result};

use super::dataset::Dataset;
use crate::queue::Queue;
use crate::session::Session;
use crate::train::coordinator::{Coordinator, StopHandle};
use crate::train::queue_runner::wait;

/// Threads that leave the examples of data sets in a queue, for graphs that take their input from one.
///
/// When a data set has ended, the queue is closed, so that those who take from it see the end behind the last example.
#[derive(Debug, Clone)]
pub struct QueueFeeder {
    name: String,
    components: Vec<Output>,
    enqueue: Operation,
    close: Operation,
    cancel: Operation,
}

impl QueueFeeder {
    /// Each example of a data set becomes an element of the queue.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    #[track_caller]
    pub fn new(queue: &Queue) -> Result<QueueFeeder> {
        QueueFeeder::made(queue, |q, components| q.enqueue(components))
    }

    /// Each row of a batch becomes an element of the queue.
    ///
    /// # Errors
    /// If the nodes cannot be added.
    #[track_caller]
    pub fn of_batches(queue: &Queue) -> Result<QueueFeeder> {
        QueueFeeder::made(queue, |q, components| q.enqueue_many(components))
    }

    #[track_caller]
    fn made(queue: &Queue, put: impl FnOnce(&Queue, &[Output]) -> Result<Operation>) -> Result<QueueFeeder> {
        let g = queue.handle().graph();
        let _scope = g.name_scope("feeder");
        let place = |dtype| g.placeholder("component", dtype, PartialShape::UNKNOWN);
        let components = queue.types().iter().map(|d| place(*d)).collect::<Result<Vec<_>>>()?;
        Ok(QueueFeeder {
            name: queue.handle().op().name(),
            enqueue: put(queue, &components)?,
            components,
            close: queue.close(false)?,
            cancel: queue.close(true)?,
        })
    }

    /// Starts a thread, which belongs to the coordinator.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the system has no more threads. Errors of the data set are reported to the coordinator.
    pub fn start(&self, session: &Session, coordinator: &Coordinator, data: &Dataset) -> Result<()> {
        let (this, session, data) = (self.clone(), session.clone(), data.clone());
        coordinator.spawn(&format!("{} feeder", self.name), move |stop| {
            let outcome = this.fill(&session, &data, stop);
            if let Err(e) = &outcome {
                stop.fail(e.clone());
            }
            let end = if stop.should_stop() { &this.cancel } else { &this.close };
            // It may be closed already, which is as well.
            let _ = session.execute(&[end]);
            outcome
        })
    }

    fn fill(&self, session: &Session, data: &Dataset, stop: &StopHandle) -> Result<()> {
        for example in data.iter()? {
            let example = example?;
            if example.len() != self.components.len() {
                return Err(Error::invalid(format!(
                    "an example has {} tensors, but elements of queue {} have {}",
                    example.len(),
                    self.name,
                    self.components.len()
                )));
            }
            let mut run = session.runner().target(&self.enqueue).cancel(stop.token());
            for (component, value) in self.components.iter().zip(example) {
                run = run.feed(component, value);
            }
            // Asynchronous, because waiting for room is no stall however long the consumer takes.
            match run.run_async().and_then(wait) {
                Ok(_) => {}
                // Closed, or told to stop.
                Err(e) if e.code() == Code::Cancelled => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
