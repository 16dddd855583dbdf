//! Requests that wait for their answers, with deadlines.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::Time;

#[derive(Debug)]
pub(super) struct Pending<K> {
    pub(super) then: K,
    pub(super) kind: u16,
    deadline: Time,
}

/// This side's requests without an answer.
#[derive(Debug)]
pub(super) struct Requests<K> {
    last: u64,
    pending: BTreeMap<u64, Pending<K>>,
    deadlines: BTreeSet<(Time, u64)>,
}

impl<K> Requests<K> {
    pub(super) fn new() -> Requests<K> {
        Requests {
            last: 0,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Registers a request; its number.
    pub(super) fn add(&mut self, kind: u16, deadline: Time, then: K) -> u64 {
        self.last += 1;
        let pending = Pending { then, kind, deadline };
        self.pending.insert(self.last, pending);
        self.deadlines.insert((deadline, self.last));
        self.last
    }

    pub(super) fn is_pending(&self, id: u64) -> bool {
        self.pending.contains_key(&id)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Pending<K>> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.deadline, id));
        Some(pending)
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(t, _)| *t)
    }

    /// A request whose deadline has passed.
    pub(super) fn expired(&mut self, now: Time) -> Option<Pending<K>> {
        let &(deadline, id) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(id)
    }

    /// All of them, in the order in which they were made.
    pub(super) fn drain(&mut self) -> Vec<Pending<K>> {
        self.deadlines.clear();
        std::mem::take(&mut self.pending).into_values().collect()
    }
}
