//! The control actor that watches over steps of several devices: it notices those that only wait, and deadlines that
//! nobody waits for.
//!
//! A step that has said how long it may wait, by a deadline of its own or by being asynchronous, is not failed for waiting;
//! it is looked at all the same, so that others know that it stands still.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use actorflow_actors::control::{ArbiterHost, ControlActor, ControlAddr, ControlCx, Handle};
use actorflow_core::error::{Error, Result};
use crossbeam::queue::SegQueue;
use parking_lot::Mutex;

use super::run::DistRun;

struct Watched {
    run: Weak<DistRun>,
    waiting: Waiting,
}

/// How long a step may do nothing but wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waiting {
    /// As long as the watch lets steps that say nothing.
    Undeclared,
    /// As long as whoever waits for the step, who fails it at its deadline, and cancels it.
    Callers,
    /// Until this time, at which the watch fails it.
    Until(Instant),
}

impl Watched {
    /// The step, if it is in progress.
    fn run(&self) -> Option<Arc<DistRun>> {
        self.run.upgrade().filter(|run| !run.is_over())
    }
}

/// Steps that have begun. Nearly all of them are over before the actor looks, and nobody takes them out: who adds one
/// drops the oldest that is over, so that there are about as many as are in progress.
type Begun = Arc<SegQueue<Watched>>;

/// Steps in progress, and the actor that looks at them.
pub(crate) struct Watch {
    begun: Begun,
    host: ArbiterHost,
    starting: Mutex<()>,
    actor: OnceLock<ControlAddr<Looker>>,
    limit: Duration,
}

/// How often the actor looks.
const TICK: Duration = Duration::from_millis(250);
/// Steps younger than this are left alone.
const YOUNG: Duration = Duration::from_secs(2);

struct Looker {
    begun: Begun,
    /// Those that were in progress at the last look.
    watched: Vec<Watched>,
    limit: Duration,
    looked: Instant,
}

/// Begins the looking.
struct Begin;

impl Looker {
    fn tick(&mut self, cx: &mut ControlCx<'_, Self>) {
        let now = Instant::now();
        // Progress is asked for once a second; it costs a message for each task.
        let ask = now.saturating_duration_since(self.looked) >= Duration::from_secs(1);
        if ask {
            self.looked = now;
        }
        let new = self.begun.len();
        self.watched.extend((0..new).map_while(|_| self.begun.pop()));
        let limit = self.limit;
        self.watched.retain(|w| {
            let Some(run) = w.run() else { return false };
            if let Waiting::Until(deadline) = w.waiting
                && now >= deadline
            {
                run.past_deadline();
                return false;
            }
            if ask && now.saturating_duration_since(run.begun) >= YOUNG {
                run.look(matches!(w.waiting, Waiting::Undeclared).then_some(limit));
            }
            true
        });
        cx.run_later(TICK, Self::tick);
    }
}

impl ControlActor for Looker {}

impl Handle<Begin> for Looker {
    type Reply = ();

    fn handle(&mut self, _: Begin, cx: &mut ControlCx<'_, Self>) {
        cx.run_later(TICK, Self::tick);
    }
}

impl Watch {
    /// A watch that fails a step which only waits for `limit` and has not said how long it may.
    pub(crate) fn new(limit: Duration) -> Watch {
        Watch {
            begun: Begun::default(),
            host: ArbiterHost::new("actorflow-watch"),
            starting: Mutex::new(()),
            actor: OnceLock::new(),
            limit,
        }
    }

    /// Watches a step until it is over.
    ///
    /// # Errors
    /// `INTERNAL` if the system refuses the actor its thread.
    pub(crate) fn over(&self, run: &Arc<DistRun>, waiting: Waiting) -> Result<()> {
        if self.actor.get().is_none() {
            self.start()?;
        }
        if let Some(oldest) = self.begun.pop()
            && oldest.run().is_some()
        {
            self.begun.push(oldest);
        }
        self.begun.push(Watched {
            run: Arc::downgrade(run),
            waiting,
        });
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let _alone = self.starting.lock();
        if self.actor.get().is_some() {
            return Ok(());
        }
        let looker = Looker {
            begun: self.begun.clone(),
            watched: Vec::new(),
            limit: self.limit,
            looked: Instant::now(),
        };
        let refused = |e: &dyn std::fmt::Display| Error::internal(format!("steps cannot be watched: {e}"));
        let addr = self.host.start(looker).map_err(|e| refused(&e))?;
        addr.try_send(Begin)
            .map_err(|_| refused(&"the actor takes no message"))?;
        self.actor.get_or_init(|| addr);
        Ok(())
    }
}
