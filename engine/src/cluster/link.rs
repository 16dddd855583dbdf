//! The coordinator's and the sender's end of the way to another task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::kernel::Continuation;
use actorflow_core::rendezvous::{Arrival, EdgeKey, Park};
use actorflow_core::tensor::Tensor;
use actorflow_transport::{Endpoint, Message, Parcel, Peer, Subject};
use bytes::Bytes;
use parking_lot::Mutex;

use super::host::ShareStatus;
use super::messages::{
    ABORT, REGISTER, RELEASE, RUN, Reason, Registered, RunShare, STATUS, Status, header_of, micros, with_header,
};
use super::node::NO_PLAN;
use super::run::{Taker, Then};
use super::spec::TaskName;
use super::table::Outlet;

/// How long a question about a step may take.
const ASK: Duration = Duration::from_secs(5);
/// Without a deadline of its own a run is given this long to get an answer from a live task, which is: any time. A
/// task that is not alive fails it at once, one that makes no progress is noticed by the watch.
const LONG: Duration = Duration::from_secs(30 * 24 * 3600);

/// The way to one task.
pub(crate) struct Link {
    pub(crate) task: TaskName,
    pub(crate) addr: String,
    endpoint: Arc<Endpoint>,
    peer: Mutex<Option<Peer>>,
    /// How long a connection may take.
    pub(crate) patience: Duration,
}

impl Link {
    pub(crate) fn new(task: TaskName, addr: String, endpoint: Arc<Endpoint>, patience: Duration) -> Arc<Link> {
        Arc::new(Link {
            task,
            addr,
            endpoint,
            peer: Mutex::new(None),
            patience,
        })
    }

    fn subject(&self) -> Subject {
        Subject::Task {
            job: self.task.job.to_string(),
            index: self.task.index,
        }
    }

    /// The connection, if it is up.
    pub(crate) fn live(&self) -> Option<Peer> {
        self.peer.lock().as_ref().filter(|p| p.is_alive()).cloned()
    }

    /// Calls `then` with the connection, which is made if there is none.
    pub(crate) fn with_peer(self: &Arc<Self>, deadline: Instant, then: Box<dyn FnOnce(Result<Peer>) + Send>) {
        if let Some(p) = self.live() {
            return then(Ok(p));
        }
        let link = self.clone();
        let connected = move |made: Result<Peer>| {
            if let Ok(p) = &made {
                *link.peer.lock() = Some(p.clone());
            }
            then(made.map_err(|e| link.unreachable(&e)));
        };
        self.endpoint
            .connect_then(&self.addr, Some(&self.subject()), deadline, Box::new(connected));
    }

    /// The error of a task that does not answer.
    fn unreachable(&self, e: &Error) -> Error {
        let message = format!(
            "task {} at {} cannot be reached: {}; is it running, and is the address right?",
            self.task,
            self.addr,
            e.message()
        );
        let code = match e.code() {
            Code::DeadlineExceeded => Code::Unavailable,
            code => code,
        };
        Error::new(code, message).in_task(&self.task.to_string())
    }
}

impl Outlet for Link {
    fn send(self: Arc<Self>, step: u64, key: EdgeKey, value: Arrival, park: Park<'_>) -> Result<()> {
        let parcel = Parcel {
            step,
            edge: key.edge,
            tag: key.tag,
            value,
        };
        let peer = self.live().or_else(|| {
            // Two tasks share whatever connection there is between them, whoever made it.
            let subject = self.subject();
            let found = self
                .endpoint
                .peers()
                .into_iter()
                .find(|p| p.info().subject == subject && p.is_alive())?;
            *self.peer.lock() = Some(found.clone());
            Some(found)
        });
        let Some(peer) = peer else {
            // It may be back by now, as another run of the task.
            let then = park()?;
            let connected = move |peer: Result<Peer>| match peer {
                Ok(peer) => peer.send(parcel, Some(finishing(then))),
                Err(e) => then.finish(Err(e)),
            };
            self.with_peer(Instant::now() + self.patience, Box::new(connected));
            return Ok(());
        };
        if parcel.size() < SMALL {
            peer.send(parcel, None);
            return Ok(());
        }
        let then = park()?;
        peer.send(parcel, Some(finishing(then)));
        Ok(())
    }
}

/// Finishes a node that sends when what it sends has been taken.
fn finishing(then: Continuation) -> Box<dyn FnOnce(Result<()>) + Send> {
    Box::new(move |taken| then.finish(taken.map(|()| Vec::new())))
}

/// Tensors of fewer bytes are sent without waiting for room at the receiver.
const SMALL: usize = 64 << 10;

/// The share of a plan that a task has.
pub(crate) struct RemoteShare {
    pub(crate) link: Arc<Link>,
    /// What registers it.
    pub(crate) body: Bytes,
    /// Where it is registered: which run of the task, and the number there.
    handle: Mutex<Option<(u64, u64)>>,
}

impl RemoteShare {
    pub(crate) fn new(link: Arc<Link>, body: Bytes) -> Arc<RemoteShare> {
        Arc::new(RemoteShare {
            link,
            body,
            handle: Mutex::new(None),
        })
    }

    /// Runs the share, which is registered before if it is not. `then` is called once.
    pub(crate) fn run(self: &Arc<Self>, step: u64, feeds: Vec<Tensor>, deadline: Option<Instant>, then: Then) {
        if let (Some(peer), Some((incarnation, handle))) = (self.link.live(), *self.handle.lock())
            && peer.info().incarnation == incarnation
        {
            return self.run_registered(&peer, handle, step, feeds, deadline, then);
        }
        let until = Instant::now() + self.link.patience;
        let until = deadline.map_or(until, |d| d.min(until));
        let share = self.clone();
        let connected = move |peer: Result<Peer>| match peer {
            Ok(peer) => share.register(peer, step, feeds, deadline, then),
            Err(e) => then(Err(e)),
        };
        self.link.with_peer(until, Box::new(connected));
    }

    fn register(self: &Arc<Self>, peer: Peer, step: u64, feeds: Vec<Tensor>, deadline: Option<Instant>, then: Then) {
        let message = Message {
            blob: self.body.clone(),
            ..Message::new(REGISTER)
        };
        let (share, to) = (self.clone(), peer.clone());
        let answered = move |answer: Result<Message>| {
            let handle = answer.and_then(|m| Ok(header_of!(m, Registered)?.handle));
            match handle {
                Ok(handle) => {
                    *share.handle.lock() = Some((to.info().incarnation, handle));
                    share.run_registered(&to, handle, step, feeds, deadline, then);
                }
                Err(e) => then(Err(share.named(e))),
            }
        };
        peer.request(
            message,
            deadline.unwrap_or_else(|| Instant::now() + LONG),
            Box::new(answered),
        );
    }

    fn run_registered(
        self: &Arc<Self>,
        peer: &Peer,
        handle: u64,
        step: u64,
        feeds: Vec<Tensor>,
        deadline: Option<Instant>,
        then: Then,
    ) {
        let timeout_us = micros(deadline.map(|d| d.saturating_duration_since(Instant::now())));
        let head = with_header!(RUN, step, &RunShare { handle, timeout_us });
        let message = match head {
            Ok(m) => Message { tensors: feeds, ..m },
            Err(e) => return then(Err(e)),
        };
        let (share, to, again) = (self.clone(), peer.clone(), message.tensors.clone());
        let answered = move |answer: Result<Message>| match answer {
            // The task has forgotten it, since it thought that its coordinator was gone.
            Err(e) if e.code() == Code::NotFound && e.message().starts_with(NO_PLAN) => {
                let known = share.handle.lock().take();
                match known {
                    Some(_) => share.register(to, step, again, deadline, then),
                    None => then(Err(share.named(e))),
                }
            }
            answer => then(answer.map(|m| m.tensors).map_err(|e| share.named(e))),
        };
        // The coordinator fails the step at the deadline, and says more about it than the transport could.
        let until = deadline.map_or_else(|| Instant::now() + LONG, |d| d + ASK);
        peer.request(message, until, Box::new(answered));
    }

    /// Names the task. An error that was passed on from a third one names that already; the wire's name of a task is
    /// its certificate's.
    fn named(&self, e: Error) -> Error {
        let other = e.task().and_then(|t| t.parse::<TaskName>().ok());
        match other {
            Some(_) => e,
            None => e.of_task(&self.link.task.to_string()),
        }
    }
}

impl Taker for RemoteShare {
    fn name(&self) -> String {
        format!("task {}", self.link.task)
    }

    fn abort(&self, step: u64, why: &Error) {
        if let Some(peer) = self.link.live()
            && let Ok(m) = with_header!(ABORT, step, &Reason::of(why))
        {
            // A task that cannot be told has lost its coordinator, and ends the step for that.
            let _ = peer.notify(m);
        }
    }

    fn status(&self, step: u64, then: Box<dyn FnOnce(Option<ShareStatus>) + Send>) {
        let Some(peer) = self.link.live() else {
            return then(None);
        };
        let message = Message {
            step,
            ..Message::new(STATUS)
        };
        let answered = move |answer: Result<Message>| {
            let status = answer.and_then(|m| header_of!(m, Status));
            then(status.ok().and_then(Status::into_share));
        };
        peer.request(message, Instant::now() + ASK, Box::new(answered));
    }
}

impl Drop for RemoteShare {
    fn drop(&mut self) {
        if let (Some(peer), Some((incarnation, handle))) = (self.link.live(), *self.handle.lock())
            && peer.info().incarnation == incarnation
            && let Ok(m) = with_header!(RELEASE, 0, &super::messages::Numbers { numbers: vec![handle] })
        {
            // A task that has gone has forgotten it anyhow.
            let _ = peer.notify(m);
        }
    }
}
