//! The rendezvous of one step in one process: where what its nodes send and receive meets.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, OnceLock};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::Continuation;
use actorflow_core::rendezvous::{Arrival, EdgeKey, Park, Rendezvous};
use parking_lot::Mutex;

/// Whoever takes what leaves the process.
pub(crate) trait Outlet: Send + Sync {
    /// Sends a value to the task that awaits it. As [`Rendezvous::send`].
    fn send(self: Arc<Self>, step: u64, key: EdgeKey, value: Arrival, park: Park<'_>) -> Result<()>;
}

/// Where each edge of a plan leads, as one process sees it.
pub(crate) enum Route {
    /// To another device of this process.
    Here,
    /// To another task.
    Away(Arc<dyn Outlet>),
    /// The edge ends here: it comes from the task of that name.
    From(Arc<str>),
}

/// The routes of a plan, by edge number.
pub(crate) type Routes = Arc<[Option<Route>]>;

/// Keys are well mixed already.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        // Fibonacci hashing (Knuth, vol. 3, 6.4), with the high bits, which the table reads, turned in.
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

enum Slot {
    Arrived(Arrival),
    Awaited(Continuation),
}

#[derive(Default)]
struct State {
    slots: HashMap<EdgeKey, Slot, BuildHasherDefault<KeyHasher>>,
    aborted: Option<Error>,
}

/// Where the tensors of one step meet in one process.
pub(crate) struct StepTable {
    step: u64,
    routes: OnceLock<Routes>,
    state: Mutex<State>,
}

impl StepTable {
    /// The table of a step of which nothing is known yet but that something has arrived for it.
    pub(crate) fn new(step: u64) -> Arc<StepTable> {
        Arc::new(StepTable {
            step,
            routes: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    /// Says where edges lead; nothing may be sent before.
    pub(crate) fn open(&self, routes: &Routes) {
        self.routes.get_or_init(|| routes.clone());
    }

    /// Whether what arrives for an edge may come from this task. Before the step has begun here, anybody may be early.
    pub(crate) fn may_come_from(&self, edge: u32, task: &str) -> bool {
        match self.routes.get() {
            None => true,
            Some(routes) => {
                matches!(routes.get(edge as usize), Some(Some(Route::From(name))) if **name == *task)
            }
        }
    }

    /// A value has arrived.
    ///
    /// # Errors
    /// `INTERNAL` if the key has a value already.
    pub(crate) fn deliver(&self, key: EdgeKey, value: Arrival) -> Result<()> {
        let waiting = {
            let mut s = self.state.lock();
            if let Some(e) = &s.aborted {
                return Err(e.clone());
            }
            match s.slots.entry(key) {
                Entry::Vacant(v) => {
                    v.insert(Slot::Arrived(value));
                    return Ok(());
                }
                Entry::Occupied(o) => match o.get() {
                    Slot::Arrived(_) => {
                        return Err(Error::internal(format!(
                            "edge {} of step {} was sent twice",
                            key.edge, self.step
                        )));
                    }
                    Slot::Awaited(_) => o.remove(),
                },
            }
        };
        if let Slot::Awaited(then) = waiting {
            match value {
                Some(t) => then.finish(Ok(vec![t])),
                None => then.finish_dead(),
            }
        }
        Ok(())
    }

    /// The edges that are awaited, at most `most` of them.
    pub(crate) fn awaited(&self, most: usize) -> Vec<u32> {
        let s = self.state.lock();
        let mut edges: Vec<u32> = s
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Awaited(_)))
            .map(|(k, _)| k.edge)
            .take(most)
            .collect();
        edges.sort_unstable();
        edges
    }
}

impl Rendezvous for StepTable {
    fn send(&self, key: EdgeKey, value: Arrival, park: Park<'_>) -> Result<()> {
        let route = self.routes.get().and_then(|r| r.get(key.edge as usize)?.as_ref());
        match route {
            Some(Route::Here) => self.deliver(key, value),
            Some(Route::Away(outlet)) => {
                if let Some(e) = &self.state.lock().aborted {
                    return Err(e.clone());
                }
                outlet.clone().send(self.step, key, value, park)
            }
            Some(Route::From(_)) | None => Err(Error::internal(format!(
                "edge {} of step {} leads nowhere from here",
                key.edge, self.step
            ))),
        }
    }

    fn recv(&self, key: EdgeKey, park: Park<'_>) -> Result<Option<Arrival>> {
        let mut s = self.state.lock();
        if let Some(e) = &s.aborted {
            return Err(e.clone());
        }
        match s.slots.entry(key) {
            Entry::Vacant(v) => {
                v.insert(Slot::Awaited(park()?));
                Ok(None)
            }
            Entry::Occupied(o) => match o.remove() {
                Slot::Arrived(value) => Ok(Some(value)),
                awaited @ Slot::Awaited(_) => {
                    s.slots.insert(key, awaited);
                    Err(Error::internal(format!(
                        "edge {} of step {} is awaited twice",
                        key.edge, self.step
                    )))
                }
            },
        }
    }

    fn abort(&self, reason: Error) {
        let waiting: Vec<Slot> = {
            let mut s = self.state.lock();
            if s.aborted.is_some() {
                return;
            }
            s.aborted = Some(reason.clone());
            s.slots.drain().map(|(_, slot)| slot).collect()
        };
        for slot in waiting {
            if let Slot::Awaited(then) = slot {
                then.finish(Err(reason.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actorflow_core::Tensor;

    use super::*;

    fn key(edge: u32) -> EdgeKey {
        EdgeKey { edge, tag: 0 }
    }

    fn no_park() -> Result<Continuation> {
        Err(Error::internal("parked"))
    }

    fn table() -> Arc<StepTable> {
        let t = StepTable::new(7);
        t.open(&Arc::from([
            Some(Route::Here),
            None,
            Some(Route::From("/job:ps/task:0".into())),
        ]));
        t
    }

    #[test]
    fn a_value_is_given_once() {
        let t = table();
        t.send(key(0), Some(Tensor::scalar(1.0f32)), &mut no_park).unwrap();
        let e = t.send(key(0), None, &mut no_park).unwrap_err();
        assert!(e.message().contains("sent twice"), "{e}");
        let got = t.recv(key(0), &mut no_park).unwrap().unwrap().unwrap();
        assert_eq!(got, Tensor::scalar(1.0f32));
        assert_eq!(t.recv(key(0), &mut no_park).unwrap_err().message(), "parked");
    }

    #[test]
    fn edges_come_from_the_task_of_the_plan_only() {
        let t = table();
        assert!(t.may_come_from(2, "/job:ps/task:0"));
        assert!(!t.may_come_from(2, "/job:ps/task:1"));
        assert!(!t.may_come_from(0, "/job:ps/task:0") && !t.may_come_from(9, "/job:ps/task:0"));
        assert!(t.send(key(1), None, &mut no_park).is_err());
    }

    #[test]
    fn an_abort_makes_every_later_call_fail_with_its_reason() {
        let t = table();
        t.deliver(key(0), None).unwrap();
        t.abort(Error::cancelled("no more"));
        assert_eq!(t.deliver(key(0), None).unwrap_err().message(), "no more");
        assert_eq!(t.recv(key(0), &mut no_park).unwrap_err().message(), "no more");
    }
}
