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
    ABORT, Looking, REGISTER, RELEASE, RUN, Reason, Registered, RunShare, STATUS, Status, WAITS_FOR, header_of, micros,
    with_header,
};
use super::node::NO_PLAN;
use super::peers::Peers;
use super::run::{Taker, Then};
use super::spec::TaskName;
use super::table::Outlet;
use super::tracer::Tracer;

/// How long a question about a step may take.
const ASK: Duration = Duration::from_secs(5);
/// An attempt to connect that takes less is not repeated, so that attempts do not come in a rush.
const PACE: Duration = Duration::from_secs(1);
/// Without a deadline of its own a run is given this long to get an answer from a live task, which is: any time. A
/// task that is not alive fails it at once, one that makes no progress is noticed by the watch.
const LONG: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a task may take to compile its share of a plan.
const COMPILE: Duration = Duration::from_secs(300);
/// How often one step registers a share anew that the task has forgotten.
const AGAIN: u32 = 3;

/// The way to one task.
pub(crate) struct Link {
    pub(crate) task: TaskName,
    pub(crate) addr: String,
    subject: Subject,
    endpoint: Arc<Endpoint>,
    peers: Arc<Peers>,
    /// The connection to use: the newest.
    peer: Mutex<Option<Peer>>,
    /// How long a connection may take.
    pub(crate) patience: Duration,
}

impl Link {
    pub(crate) fn new(
        task: TaskName,
        addr: String,
        endpoint: Arc<Endpoint>,
        peers: Arc<Peers>,
        patience: Duration,
    ) -> Arc<Link> {
        Arc::new(Link {
            subject: Subject::Task {
                job: task.job.to_string(),
                index: task.index,
            },
            task,
            addr,
            endpoint,
            peers,
            peer: Mutex::new(None),
            patience,
        })
    }

    /// The connection, if there is one that is up: two tasks share what there is between them, whoever made it.
    pub(crate) fn live(&self) -> Option<Peer> {
        let mut peer = self.peer.lock();
        if peer.as_ref().is_none_or(|p| !p.is_alive()) {
            *peer = self.peers.newest(&self.subject);
        }
        peer.clone()
    }

    /// Another connection has come up.
    pub(crate) fn adopt(&self, newest: &Peer) {
        *self.peer.lock() = Some(newest.clone());
    }

    /// Calls `then` with the connection, which is made if there is none.
    pub(crate) fn with_peer(self: &Arc<Self>, deadline: Instant, then: Box<dyn FnOnce(Result<Peer>) + Send>) {
        if let Some(p) = self.live() {
            return then(Ok(p));
        }
        let (link, begun) = (self.clone(), Instant::now());
        // Whoever is told that a connection is up has adopted it.
        let connected = move |made: Result<Peer>| match made {
            // Nobody has answered for a while; a task that is being started may, if there is time left.
            Err(e) if e.code() == Code::Unavailable && begun.elapsed() >= PACE && Instant::now() + PACE < deadline => {
                link.with_peer(deadline, then);
            }
            made => then(made.map_err(|e| link.unreachable(&e))),
        };
        self.endpoint
            .connect_then(&self.addr, Some(&self.subject), deadline, Box::new(connected));
    }

    /// The error of a task that does not answer.
    fn unreachable(&self, e: &Error) -> Error {
        let mut message = format!("task {} at {} cannot be reached: {}", self.task, self.addr, e.message());
        // Unless the reason asks already.
        if !message.ends_with('?') {
            message += "; is it running, and is the address right?";
        }
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
        let Some(peer) = self.live() else {
            // It may be back by now, as another run of the task.
            let then = park()?;
            let connected = move |peer: Result<Peer>| match peer {
                Ok(peer) => peer.send(parcel, Some(finishing(then))),
                Err(e) => then.finish(Err(e)),
            };
            self.with_peer(Instant::now() + self.patience, Box::new(connected));
            return Ok(());
        };
        let parcel = match parcel.size() < SMALL {
            true => match peer.offer(parcel) {
                Ok(()) => return Ok(()),
                Err(back) => *back,
            },
            false => parcel,
        };
        let then = park()?;
        peer.send(parcel, Some(finishing(then)));
        Ok(())
    }
}

/// Finishes a node that sends when what it sends has been taken.
fn finishing(then: Continuation) -> Box<dyn FnOnce(Result<()>) + Send> {
    Box::new(move |taken| then.finish(taken.map(|()| Vec::new())))
}

/// Tensors of fewer bytes are sent without waiting for room at the receiver, as long as nothing else waits for it.
const SMALL: usize = 64 << 10;

/// What others get of the shares of a plan, by task.
pub(crate) type Gives = Arc<[(TaskName, String)]>;

/// What is asked of a share in a step.
pub(crate) struct Asked {
    pub(crate) step: u64,
    pub(crate) feeds: Vec<Tensor>,
    pub(crate) deadline: Option<Instant>,
    /// Takes when its nodes ran.
    pub(crate) trace: Option<Arc<Tracer>>,
}

/// The share of a plan that a task has.
pub(crate) struct RemoteShare {
    pub(crate) link: Arc<Link>,
    /// What registers it.
    pub(crate) body: Bytes,
    /// What others get of each task's share, for messages.
    gives: Gives,
    /// Where it is registered: which run of the task, and the number there.
    handle: Mutex<Option<(u64, u64)>>,
}

impl RemoteShare {
    pub(crate) fn new(link: Arc<Link>, body: Bytes, gives: Gives) -> Arc<RemoteShare> {
        Arc::new(RemoteShare {
            link,
            body,
            gives,
            handle: Mutex::new(None),
        })
    }

    /// Runs the share, which is registered before if it is not. `then` is called once.
    pub(crate) fn run(self: &Arc<Self>, asked: Asked, then: Then) {
        if let (Some(peer), Some((incarnation, handle))) = (self.link.live(), *self.handle.lock())
            && peer.info().incarnation == incarnation
        {
            return self.run_registered(&peer, handle, asked, AGAIN, then);
        }
        let until = Instant::now() + self.link.patience;
        let until = asked.deadline.map_or(until, |d| d.min(until));
        let share = self.clone();
        let connected = move |peer: Result<Peer>| match peer {
            Ok(peer) => share.register(peer, asked, AGAIN, then),
            Err(e) => then(Err(share.named(e, asked.step))),
        };
        self.link.with_peer(until, Box::new(connected));
    }

    /// Registers the share and runs it; anew, if the task forgets it meanwhile, `again` times.
    fn register(self: &Arc<Self>, peer: Peer, asked: Asked, again: u32, then: Then) {
        let deadline = asked.deadline;
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
                    share.run_registered(&to, handle, asked, again, then);
                }
                Err(e) => then(Err(share.told_by(&to, e, asked.step))),
            }
        };
        let compiled = Instant::now() + COMPILE;
        let until = deadline.map_or(compiled, |d| d.min(compiled));
        peer.request(message, until, Box::new(answered));
    }

    fn run_registered(self: &Arc<Self>, peer: &Peer, handle: u64, asked: Asked, again: u32, then: Then) {
        let Asked {
            step,
            feeds,
            deadline,
            trace,
        } = asked;
        let timeout_us = micros(deadline.map(|d| d.saturating_duration_since(Instant::now())));
        let head = with_header!(
            RUN,
            step,
            &RunShare {
                handle,
                timeout_us,
                trace: trace.is_some()
            }
        );
        let message = match head {
            Ok(m) => Message { tensors: feeds, ..m },
            Err(e) => return then(Err(e)),
        };
        let (share, to, feeds) = (self.clone(), peer.clone(), message.tensors.clone());
        let sent = Instant::now();
        let answered = move |answer: Result<Message>| match answer {
            // The task has forgotten it, since it thought that its coordinator was gone.
            Err(e) if e.code() == Code::NotFound && e.message().starts_with(NO_PLAN) => {
                let known = share.handle.lock().take();
                match again.checked_sub(1) {
                    Some(again) if known.is_some() => {
                        let asked = Asked {
                            step,
                            feeds,
                            deadline,
                            trace,
                        };
                        share.register(to, asked, again, then);
                    }
                    _ => then(Err(share.told_by(&to, e, step))),
                }
            }
            answer => {
                let taken = answer.and_then(|m| {
                    trace.iter().try_for_each(|t| t.told(&m.blob, sent))?;
                    Ok(m.tensors)
                });
                then(taken.map_err(|e| share.told_by(&to, e, step)));
            }
        };
        // The coordinator fails the step at the deadline, and says more about it than the transport could.
        let until = deadline.map_or_else(|| Instant::now() + LONG, |d| d + ASK);
        peer.request(message, until, Box::new(answered));
    }

    /// Names the task, as [`named`](Self::named) does. A task that misses another one, and hears nothing of this side
    /// either, is the one that is cut off; it will be lost here when it has missed this side, too.
    fn told_by(&self, peer: &Peer, e: Error, step: u64) -> Error {
        let missed = third(&e).filter(|t| *t != self.link.task && e.code() == Code::Unavailable);
        let Some(missed) = missed.filter(|_| peer.is_deaf()) else {
            return self.named(e, step);
        };
        let info = peer.info();
        let it = format!("{} (incarnation {})", info.subject, info.incarnation);
        let text = format!("{it} is cut off: it hears nothing of this side, nor of task {missed}");
        let of_it = Error::unavailable(text).of_task(&self.link.task.to_string());
        self.named(if e.is_derived() { of_it.derived() } else { of_it }, step)
    }

    /// Names the task, and what is missing now that it is lost. An error that was passed on from a third one names that
    /// already; the wire's name of a task is its certificate's.
    fn named(&self, e: Error, step: u64) -> Error {
        let task = third(&e).unwrap_or_else(|| self.link.task.clone());
        let gives = self.gives.iter().find(|(t, _)| *t == task);
        let says_so = e.code() != Code::Unavailable || e.node().is_some() || e.message().contains(WAITS_FOR);
        match gives {
            Some((task, gives)) if !says_so => {
                let text = format!("{}; step {step} {WAITS_FOR} {gives} of task {task}", e.message());
                let said = Error::unavailable(text).of_task(&task.to_string());
                if e.is_derived() { said.derived() } else { said }
            }
            _ => e.of_task(&task.to_string()),
        }
    }
}

/// The task that an error names; a wire's name is the one of its peer, who is known.
fn third(e: &Error) -> Option<TaskName> {
    e.task()?.parse().ok()
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

    fn status(&self, step: u64, stalled: bool, then: Box<dyn FnOnce(Option<ShareStatus>) + Send>) {
        let (Some(peer), Ok(message)) = (self.link.live(), with_header!(STATUS, step, &Looking { stalled })) else {
            return then(None);
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
