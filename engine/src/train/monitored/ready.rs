//! Making a session ready: by the chief, who initialises or restores, or by waiting for the chief.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_core::{Code, Error, Graph, Output, Result};

use super::scaffold::{Scaffold, texts};
use crate::session::Session;
use crate::train::parallel::Replica;
use crate::train::saver::latest_checkpoint;

/// Makes a session of a graph: a local one, or one of a cluster.
pub type SessionFactory = Arc<dyn Fn(&Graph) -> Result<Session> + Send + Sync>;

/// Who a client is among those that train together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Initialises or restores the variables.
    #[default]
    Chief,
    /// Waits until the chief has done so.
    Worker,
}

/// Makes sessions ready.
pub(super) struct Preparer {
    pub(super) graph: Graph,
    pub(super) create: SessionFactory,
    pub(super) role: Role,
    pub(super) checkpoint_dir: Option<String>,
    pub(super) checkpoint: Option<String>,
    pub(super) ready_timeout: Duration,
    pub(super) poll: Duration,
}

/// Whether a run may succeed in another session.
pub(super) fn recoverable(e: &Error) -> bool {
    matches!(e.code(), Code::Aborted | Code::Unavailable)
}

impl Preparer {
    /// A session in which everything is initialised.
    ///
    /// # Errors
    /// What creating, initialising or restoring says; `FAILED_PRECONDITION` (for the chief) or `DEADLINE_EXCEEDED` (for
    /// the others) naming the variables that are not initialised.
    pub(super) fn session(&self, scaffold: &Scaffold) -> Result<Session> {
        match self.role {
            Role::Chief => self.lead(scaffold),
            Role::Worker => self.follow(scaffold),
        }
    }

    fn until(&self) -> Instant {
        // A wait too long for the clock is a year.
        let now = Instant::now();
        now.checked_add(self.ready_timeout)
            .unwrap_or(now + Duration::from_secs(31_536_000))
    }

    /// What the chief restores.
    fn source(&self) -> Result<Option<String>> {
        match (&self.checkpoint_dir, &self.checkpoint) {
            (Some(dir), other) => Ok(latest_checkpoint(dir)?.or_else(|| other.clone())),
            (None, other) => Ok(other.clone()),
        }
    }

    /// A session in which a replica takes part in its training. If the variables have no values, the chief initialises or
    /// restores them first, and the others wait until it has.
    ///
    /// # Errors
    /// As [`session`](Self::session); what joining says.
    pub(super) fn joined(&self, scaffold: &Scaffold, replica: &mut Replica) -> Result<Session> {
        let chief = self.role == Role::Chief;
        if !chief {
            self.check_local(scaffold)?;
        }
        let until = self.until();
        let session = (self.create)(&self.graph)?;
        let mut filled = false;
        replica.start_until(&session, until, |session| {
            filled = true;
            self.fill(session, scaffold, until)
        })?;
        match &scaffold.local_init {
            // What is the client's own. A chief that comes back must not set the others back.
            Some(op) if !filled => {
                self.check_local(scaffold)?;
                session.runner().deadline(until).target(op).run()?;
            }
            _ => {}
        }
        Ok(session)
    }

    fn lead(&self, scaffold: &Scaffold) -> Result<Session> {
        let session = (self.create)(&self.graph)?;
        self.fill(&session, scaffold, self.until())?;
        Ok(session)
    }

    /// Initialises or restores.
    fn fill(&self, session: &Session, scaffold: &Scaffold, until: Instant) -> Result<()> {
        let runner = || session.runner().deadline(until);
        match (self.source()?, &scaffold.saver) {
            (Some(path), Some(saver)) => {
                // First what is local: it may depend on initial values, which must not overwrite restored ones.
                if let Some(op) = &scaffold.local_init {
                    runner().target(op).run()?;
                }
                if let Some(dir) = &self.checkpoint_dir {
                    saver.recover(dir)?;
                }
                let restored = saver.restore(session, &path);
                restored.map_err(|e| e.context(format!("the checkpoint {path} cannot be restored")))?;
            }
            (Some(path), None) => {
                return Err(Error::failed_precondition(format!(
                    "the checkpoint {path} cannot be restored: the graph has no variables, and the scaffold no saver"
                )));
            }
            (None, _) => {
                // In one run, in which initialisers wait for each other.
                let mut r = runner();
                for (output, value) in &scaffold.init_feeds {
                    r = r.feed(output, value.clone());
                }
                for op in scaffold.init.iter().chain(&scaffold.local_init) {
                    r = r.target(op);
                }
                if scaffold.init.is_some() || scaffold.local_init.is_some() {
                    r.run()?;
                }
                if let Some(f) = &scaffold.init_fn {
                    f(session)?;
                }
            }
        }
        match missing(session, scaffold.ready.as_ref(), until)? {
            names if names.is_empty() => Ok(()),
            names => Err(Error::failed_precondition(format!(
                "after initialisation these variables are still not initialised: {}; the init operation must cover \
                 them, or the checkpoint hold them",
                names.join(", ")
            ))),
        }
    }

    /// Fails if initialising what is the client's own would set back what it shares.
    fn check_local(&self, scaffold: &Scaffold) -> Result<()> {
        match scaffold.overwritten(&self.graph)? {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "a local variable starts from the initial value of {name}: a worker that initialises the one would set \
                 the other back; start the local variable from a constant"
            ))),
        }
    }

    fn follow(&self, scaffold: &Scaffold) -> Result<Session> {
        self.check_local(scaffold)?;
        let until = self.until();
        let mut session = None;
        self.wait(&mut session, scaffold.ready_for_local_init.as_ref(), until)?;
        if let (Some(session), Some(op)) = (&session, &scaffold.local_init) {
            session.runner().deadline(until).target(op).run()?;
        }
        self.wait(&mut session, scaffold.ready.as_ref(), until)?;
        session.ok_or_else(|| Error::internal("waiting for a session gave none"))
    }

    /// Waits until nothing is missing, in a session that is made anew when it is lost.
    fn wait(&self, session: &mut Option<Session>, ready: Option<&Output>, until: Instant) -> Result<()> {
        loop {
            let attempt = || -> Result<(Session, Vec<String>)> {
                let s = match session.as_ref() {
                    Some(s) => s.clone(),
                    None => (self.create)(&self.graph)?,
                };
                let names = missing(&s, ready, until)?;
                Ok((s, names))
            };
            let why = match attempt() {
                Ok((s, names)) => {
                    *session = Some(s);
                    match names.is_empty() {
                        true => return Ok(()),
                        false => format!("these variables are not initialised: {}", names.join(", ")),
                    }
                }
                Err(e) if recoverable(&e) => {
                    *session = None;
                    e.to_string()
                }
                Err(e) => return Err(e),
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::deadline(format!(
                    "waited {:.1?} for the chief to make the session ready, but {why}; is the chief running?",
                    self.ready_timeout
                )));
            }
            std::thread::sleep(self.poll.min(left));
        }
    }
}

/// The variables that are not initialised.
fn missing(session: &Session, ready: Option<&Output>, until: Instant) -> Result<Vec<String>> {
    let Some(ready) = ready else { return Ok(Vec::new()) };
    let found = session.runner().deadline(until).fetch(ready).run()?;
    found.first().map_or(Ok(Vec::new()), texts)
}
