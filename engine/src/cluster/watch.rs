//! The control actor that watches over steps of several devices: it notices those that only wait, and deadlines that
//! nobody waits for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actorflow_actors::control::{ArbiterHost, ControlActor, ControlAddr, ControlCx, Handle};
use actorflow_core::error::{Error, Result};
use parking_lot::Mutex;

use super::run::DistRun;

struct Watched {
    run: Weak<DistRun>,
    deadline: Option<Instant>,
}

type Table = Arc<Mutex<HashMap<u64, Watched>>>;

/// Steps in progress, and the actor that looks at them.
pub(crate) struct Watch {
    table: Table,
    host: ArbiterHost,
    actor: Mutex<Option<ControlAddr<Looker>>>,
    limit: Duration,
}

/// How often the actor looks.
const TICK: Duration = Duration::from_millis(250);
/// Steps younger than this are left alone.
const YOUNG: Duration = Duration::from_secs(2);

struct Looker {
    table: Table,
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
        let (mut late, mut old) = (Vec::new(), Vec::new());
        {
            let mut table = self.table.lock();
            table.retain(|_, w| {
                let Some(run) = w.run.upgrade() else { return false };
                if w.deadline.is_some_and(|d| now >= d) {
                    late.push(run);
                    return false;
                }
                if ask && now.saturating_duration_since(run.begun) >= YOUNG {
                    old.push(run);
                }
                true
            });
        }
        for run in late {
            run.past_deadline();
        }
        for run in old {
            run.look(self.limit);
        }
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

/// Ends the watching of a step.
pub(crate) struct Watching {
    table: Table,
    step: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.table.lock().remove(&self.step);
    }
}

impl Watch {
    /// A watch that fails a step which only waits for `limit`.
    pub(crate) fn new(limit: Duration) -> Watch {
        Watch {
            table: Table::default(),
            host: ArbiterHost::new("actorflow-watch"),
            actor: Mutex::new(None),
            limit,
        }
    }

    /// Watches a step until the answer is dropped.
    ///
    /// # Errors
    /// `INTERNAL` if the system refuses the actor its thread.
    pub(crate) fn over(&self, run: &Arc<DistRun>, deadline: Option<Instant>) -> Result<Watching> {
        self.start()?;
        let watched = Watched {
            run: Arc::downgrade(run),
            deadline,
        };
        self.table.lock().insert(run.step, watched);
        Ok(Watching {
            table: self.table.clone(),
            step: run.step,
        })
    }

    fn start(&self) -> Result<()> {
        let mut actor = self.actor.lock();
        if actor.is_some() {
            return Ok(());
        }
        let looker = Looker {
            table: self.table.clone(),
            limit: self.limit,
            looked: Instant::now(),
        };
        let refused = |e: &dyn std::fmt::Display| Error::internal(format!("steps cannot be watched: {e}"));
        let addr = self.host.start(looker).map_err(|e| refused(&e))?;
        addr.try_send(Begin)
            .map_err(|_| refused(&"the actor takes no message"))?;
        *actor = Some(addr);
        Ok(())
    }
}
