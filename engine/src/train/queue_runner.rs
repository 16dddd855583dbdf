//! Threads that keep queues filled.

#![forbid(unsafe_code)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use actorflow_core::graph::keys;
use actorflow_core::{Code, Error, Graph, Operation, Result};

use super::coordinator::{Coordinator, StopHandle};
use crate::queue::Queue;
use crate::session::Session;

/// Runs operations that fill a queue, each on a thread of its own, again and again.
///
/// When one of them is told `OUT_OF_RANGE`, its input has ended; when all have ended, the queue is closed, so that
/// those who take from it see the end too. When the coordinator stops, runs that wait are cancelled and the queue is
/// closed. Any other error is reported to the coordinator, which stops everybody. `TensorFlow: tf.train.QueueRunner`.
#[derive(Debug, Clone)]
pub struct QueueRunner {
    name: String,
    enqueue: Vec<Operation>,
    close: Operation,
    cancel: Operation,
}

/// Wakes a thread.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
pub(crate) fn wait<F: Future>(f: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut f = pin!(f);
    loop {
        match f.as_mut().poll(&mut cx) {
            Poll::Ready(x) => return x,
            Poll::Pending => std::thread::park(),
        }
    }
}

impl QueueRunner {
    /// A runner for a queue; one thread for each of `enqueue`, of which the same may be there several times.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` without operations; if the operations that close the queue cannot be added.
    #[track_caller]
    pub fn new(queue: &Queue, enqueue: &[Operation]) -> Result<Self> {
        if enqueue.is_empty() {
            return Err(Error::invalid("a queue runner needs at least one operation"));
        }
        Ok(QueueRunner {
            name: queue.handle().op().name(),
            enqueue: enqueue.to_vec(),
            close: queue.close(false)?,
            cancel: queue.close(true)?,
        })
    }

    /// Adds it to the graph's runners, which [`start_queue_runners`] starts.
    pub fn register(&self) {
        // Names of nodes contain neither of the separators.
        let names: Vec<String> = self.enqueue.iter().map(Operation::name).collect();
        let item = [
            self.name.clone(),
            names.join(","),
            self.close.name(),
            self.cancel.name(),
        ];
        let graph = self.close.graph();
        graph.add_to_collection(keys::QUEUE_RUNNERS, item.join(";"));
    }

    fn registered(graph: &Graph, item: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "the collection of queue runners has the malformed item {item:?}"
            ))
        };
        let parts: Vec<&str> = item.split(';').collect();
        let [name, enqueue, close, cancel] = parts[..] else {
            return Err(bad());
        };
        Ok(QueueRunner {
            name: name.to_owned(),
            enqueue: enqueue.split(',').map(|n| graph.operation(n)).collect::<Result<_>>()?,
            close: graph.operation(close)?,
            cancel: graph.operation(cancel)?,
        })
    }

    /// Starts the threads; they belong to the coordinator.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the system has no more threads.
    pub fn start(&self, session: &Session, coordinator: &Coordinator) -> Result<()> {
        let open = Arc::new(AtomicUsize::new(self.enqueue.len()));
        for (i, op) in self.enqueue.iter().enumerate() {
            let (session, op, open, this) = (session.clone(), op.clone(), open.clone(), self.clone());
            let name = format!("{} {i}", self.name);
            coordinator.spawn(&name, move |stop| {
                let outcome = fill(&session, &op, stop);
                if let Err(e) = outcome {
                    stop.fail(e);
                }
                if open.fetch_sub(1, Ordering::AcqRel) == 1 {
                    this.finish(&session, stop);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Closes the queue after the last thread.
    fn finish(&self, session: &Session, stop: &StopHandle) {
        let op = if stop.should_stop() { &self.cancel } else { &self.close };
        // It may be closed already, which is as well.
        let _ = session.execute(&[op]);
    }
}

/// Fills a queue until its input ends, the queue is closed or everybody stops.
fn fill(session: &Session, op: &Operation, stop: &StopHandle) -> Result<()> {
    while !stop.should_stop() {
        // Asynchronous, because waiting for room is no stall however long the consumer takes.
        let run = session.runner().target(op).cancel(stop.token()).run_async();
        match run.and_then(wait) {
            Ok(_) => {}
            Err(e) if matches!(e.code(), Code::OutOfRange | Code::Cancelled) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Starts all runners of the session's graph; how many there are. `TensorFlow: tf.train.start_queue_runners`.
///
/// # Errors
/// `INVALID_ARGUMENT` or `NOT_FOUND` if the graph's collection of runners is malformed; as [`QueueRunner::start`].
pub fn start_queue_runners(session: &Session, coordinator: &Coordinator) -> Result<usize> {
    let graph = session.graph();
    let items = graph.collection(keys::QUEUE_RUNNERS);
    let runners = items.iter().map(|i| QueueRunner::registered(graph, i));
    let runners = runners.collect::<Result<Vec<_>>>()?;
    for r in &runners {
        r.start(session, coordinator)?;
    }
    Ok(runners.len())
}
