//! Actors that keep requests waiting: a counter that serves them, and the room where they wait their turn.
//!
//! A request that cannot be served is parked with the continuation of its node; no thread waits. Whenever the state
//! changes, the waiting requests are tried again, in order. Aborting a step withdraws what it has waiting.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use actorflow_core::Tensor;
use actorflow_core::actor::{Actor, Claims, Mailbox};
use actorflow_core::cancel::CancelGuard;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Continuation, Kernel, OpContext};
use actorflow_core::resource::Resource;

/// What became of trying to serve a request.
pub enum Served {
    /// Nothing: it waits.
    Waits,
    /// Part of it; it waits for the rest.
    Progressed,
    /// All of it: the outputs of its node, or the error.
    Done(Result<Vec<Tensor>>),
}

/// A state that serves requests.
pub trait Counter: Send + 'static {
    /// A request. Requests that do not depend on each other wait in different lines.
    type Request: Send + 'static;
    /// What never changes after the actor was made.
    type Info: Send + Sync + 'static;
    /// What the actor is, for messages.
    const KIND: &'static str;
    /// Whether nobody overtakes in a line; else whoever can be served is.
    const ORDERED: bool = true;

    /// The line in which a request waits: 0 or 1.
    fn line(request: &Self::Request) -> usize;

    /// Tries to serve a request; `others` says whether somebody waits in the other line.
    fn serve(&mut self, request: &mut Self::Request, others: bool) -> Served;

    /// Undoes what was served of a request that is withdrawn.
    fn withdraw(&mut self, request: Self::Request);
}

struct Waiting<R> {
    id: u64,
    request: R,
    /// Where the answer goes; none while the node that asks is still running.
    to: Option<Continuation>,
    /// Keeps the cancellation of the node's step registered.
    guard: Option<CancelGuard>,
}

/// An answer on its way: whose it is, where it goes, what it is.
type Answer = (u64, Option<Continuation>, Result<Vec<Tensor>>);

/// A counter and those who wait for it.
pub struct Room<C: Counter> {
    /// The state.
    pub counter: C,
    lines: [VecDeque<Waiting<C::Request>>; 2],
    next: u64,
}

impl<C: Counter> Room<C> {
    /// An empty room.
    pub fn new(counter: C) -> Self {
        Room {
            counter,
            lines: Default::default(),
            next: 0,
        }
    }

    /// How many wait in a line.
    pub fn waiting(&self, line: usize) -> usize {
        self.lines[line].len()
    }

    fn push(&mut self, request: C::Request) -> u64 {
        let id = self.next;
        self.next += 1;
        self.lines[C::line(&request)].push_back(Waiting {
            id,
            request,
            to: None,
            guard: None,
        });
        id
    }

    /// Serves whoever can be served.
    fn flush(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        loop {
            let mut progress = false;
            for line in 0..2 {
                let others = !self.lines[1 - line].is_empty();
                let mut at = 0;
                while let Some(w) = self.lines[line].get_mut(at) {
                    match self.counter.serve(&mut w.request, others) {
                        Served::Waits if C::ORDERED => break,
                        Served::Waits => at += 1,
                        Served::Progressed => {
                            progress = true;
                            break;
                        }
                        Served::Done(result) => {
                            progress = true;
                            if let Some(w) = self.lines[line].remove(at) {
                                answers.push((w.id, w.to, result));
                            }
                        }
                    }
                }
            }
            if !progress {
                return answers;
            }
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut Waiting<C::Request>> {
        self.lines.iter_mut().flatten().find(|w| w.id == id)
    }

    /// Withdraws a request, if it still waits.
    fn cancel(&mut self, id: u64, reason: Error) -> Vec<Answer> {
        for line in &mut self.lines {
            if let Some(at) = line.iter().position(|w| w.id == id)
                && let Some(w) = line.remove(at)
            {
                self.counter.withdraw(w.request);
                let mut answers = self.flush();
                answers.push((w.id, w.to, Err(reason)));
                return answers;
            }
        }
        Vec::new()
    }

    /// Answers everybody in a line with an error. What was served of their requests stays.
    pub fn dismiss(&mut self, line: usize, error: impl Fn() -> Error) -> Dismissed {
        let all = std::mem::take(&mut self.lines[line]);
        Dismissed(all.into_iter().map(|w| (w.id, w.to, Err(error()))).collect())
    }
}

/// Answers to requests that were dismissed, to be delivered by [`settle`].
pub struct Dismissed(Vec<Answer>);

fn deliver(answers: Vec<Answer>) {
    for (_, to, result) in answers {
        if let Some(to) = to {
            to.finish(result);
        }
    }
}

/// A resource with a room.
pub struct Desk<C: Counter> {
    name: String,
    info: C::Info,
    actor: Arc<Actor<Room<C>>>,
}

impl<C: Counter> Desk<C> {
    /// A resource of that name.
    pub fn new(name: &str, info: C::Info, counter: C, mailbox: Box<dyn Mailbox>) -> Self {
        Desk {
            name: name.to_owned(),
            info,
            actor: Arc::new(Actor::new(mailbox, Room::new(counter))),
        }
    }

    /// The name, as messages give it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What never changes.
    pub fn info(&self) -> &C::Info {
        &self.info
    }

    /// The actor.
    pub fn actor(&self) -> &Arc<Actor<Room<C>>> {
        &self.actor
    }
}

impl<C: Counter> Resource for Desk<C> {
    fn kind(&self) -> &'static str {
        C::KIND
    }
}

fn set_outputs(cx: &mut OpContext<'_>, outputs: Vec<Tensor>) {
    for (i, t) in outputs.into_iter().enumerate() {
        cx.set_output(i, t);
    }
}

/// Makes a request for the running node, which holds the actor's turn: its outputs are set, or it is suspended.
///
/// # Errors
/// What the counter answers.
pub fn submit<C: Counter>(cx: &mut OpContext<'_>, desk: &Desk<C>, request: C::Request) -> Result<()> {
    let (held, actor) = (cx.held(), desk.actor());
    let (id, mut answers) = {
        let mut room = held.state(actor)?;
        let id = room.push(request);
        (id, room.flush())
    };
    let mine = answers.iter().position(|a| a.0 == id).map(|at| answers.remove(at));
    deliver(answers);
    if let Some((_, _, result)) = mine {
        set_outputs(cx, result?);
        return Ok(());
    }
    let to = match cx.suspend() {
        Ok(to) => to,
        Err(e) => {
            let answers = held.state(actor)?.cancel(id, e.clone());
            deliver(answers);
            return Err(e);
        }
    };
    let token = to.cancel_token();
    if let Some(w) = held.state(actor)?.find(id) {
        w.to = Some(to);
    }
    let guard = token.map(|token| {
        // Not a share of its own: the guard is kept in the actor, which would then never end.
        let actor = Arc::downgrade(actor);
        token.on_cancel(move |reason| {
            let reason = reason.clone();
            if let Some(actor) = actor.upgrade() {
                actor.send(move |room| deliver(room.cancel(id, reason)));
            }
        })
    });
    if let Some(w) = held.state(actor)?.find(id) {
        w.guard = guard;
    }
    Ok(())
}

/// Changes the state for the running node, which holds the actor's turn, and then serves whoever can now be served.
///
/// # Errors
/// What `change` returns.
pub fn settle<C: Counter, R>(
    cx: &OpContext<'_>,
    desk: &Desk<C>,
    change: impl FnOnce(&mut Room<C>) -> Result<(R, Option<Dismissed>)>,
) -> Result<R> {
    let (value, answers) = {
        let mut room = cx.held().state(desk.actor())?;
        let (value, dismissed) = change(&mut room)?;
        let mut answers = dismissed.map_or_else(Vec::new, |d| d.0);
        answers.append(&mut room.flush());
        (value, answers)
    };
    deliver(answers);
    Ok(value)
}

/// Changes the state from outside of a node, when the actor's turn comes, and then serves whoever can now be served.
pub fn later<C: Counter>(actor: &Arc<Actor<Room<C>>>, change: impl FnOnce(&mut C) + Send + 'static) {
    actor.send(move |room| {
        change(&mut room.counter);
        deliver(room.flush());
    });
}

/// Makes a request that no node waits for: the answer goes to `to`, whose step's end withdraws the request.
pub fn ask<C: Counter>(actor: &Arc<Actor<Room<C>>>, request: C::Request, to: Continuation) {
    let weak = Arc::downgrade(actor);
    actor.send(move |room| {
        let token = to.cancel_token();
        let id = room.push(request);
        if let Some(w) = room.find(id) {
            w.to = Some(to);
        }
        deliver(room.flush());
        if room.find(id).is_none() {
            return;
        }
        let guard = token.map(|token| {
            token.on_cancel(move |reason| {
                let reason = reason.clone();
                if let Some(actor) = weak.upgrade() {
                    actor.send(move |room| deliver(room.cancel(id, reason)));
                }
            })
        });
        if let Some(w) = room.find(id) {
            w.guard = guard;
        }
    });
}

/// A kernel that works at a desk: `find` says which, `act` works there with the turn held.
pub struct At<C, D, A> {
    find: D,
    act: A,
    suspends: bool,
    of: std::marker::PhantomData<fn() -> C>,
}

impl<C: Counter, D, A> At<C, D, A>
where
    D: Fn(&OpContext<'_>) -> Result<Arc<Desk<C>>> + Send + Sync,
    A: Fn(&mut OpContext<'_>, &Arc<Desk<C>>) -> Result<()> + Send + Sync,
{
    /// A kernel whose work is done at once.
    pub fn once(find: D, act: A) -> Self {
        At {
            find,
            act,
            suspends: false,
            of: std::marker::PhantomData,
        }
    }

    /// A kernel that may have to wait.
    pub fn waits(find: D, act: A) -> Self {
        At {
            suspends: true,
            ..Self::once(find, act)
        }
    }
}

impl<C: Counter, D, A> Kernel for At<C, D, A>
where
    D: Fn(&OpContext<'_>) -> Result<Arc<Desk<C>>> + Send + Sync,
    A: Fn(&mut OpContext<'_>, &Arc<Desk<C>>) -> Result<()> + Send + Sync,
{
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        want.want((self.find)(cx)?.actor().clone());
        Ok(())
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn may_suspend(&self) -> bool {
        self.suspends
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let desk = (self.find)(cx)?;
        (self.act)(cx, &desk)
    }
}

/// The desk behind input 0.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is a handle of something else.
pub fn first_input<C: Counter>(cx: &OpContext<'_>) -> Result<Arc<Desk<C>>> {
    cx.resource::<Desk<C>>(0)
}
