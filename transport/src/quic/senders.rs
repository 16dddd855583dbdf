//! Threads that send what is large, so that the reactor can receive meanwhile.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use actorflow_core::{Error, Result};
use parking_lot::{Condvar, Mutex};

use super::cork;
use super::link::Link;

#[derive(Default)]
struct Queue {
    links: VecDeque<Arc<Link>>,
    closed: bool,
}

/// Links with more to send than fits one turn, and how the threads wait for them.
#[derive(Default)]
pub(super) struct Senders {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Senders {
    /// Gives a link to the threads.
    pub(super) fn push(&self, link: &Arc<Link>) {
        let mut queue = self.queue.lock();
        // Once is enough: its turn sends whatever there is then.
        if !queue.closed && !queue.links.iter().any(|l| Arc::ptr_eq(l, link)) {
            queue.links.push_back(link.clone());
            self.wake.notify_one();
        }
    }

    /// Ends the threads.
    pub(super) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.links.clear();
        self.wake.notify_all();
    }

    fn next(&self) -> Option<Arc<Link>> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(link) = queue.links.pop_front() {
                return Some(link);
            }
            self.wake.wait(&mut queue);
        }
    }

    /// Starts `count` threads.
    pub(super) fn start(senders: &Arc<Senders>, count: usize) -> Result<Vec<JoinHandle<()>>> {
        let mut threads = Vec::new();
        for _ in 0..count {
            let own = senders.clone();
            let spawned = std::thread::Builder::new()
                .name("actorflow-send".to_owned())
                .spawn(move || {
                    super::reactor::enter();
                    while let Some(link) = own.next() {
                        let _cork = cork::cork();
                        cork::mark(&link);
                    }
                });
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    senders.close();
                    return Err(Error::from(error).context("cannot start the endpoint's threads"));
                }
            }
        }
        Ok(threads)
    }
}
