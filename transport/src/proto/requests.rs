//! Requests that wait for their answers, with deadlines.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// Those on the control stream, with their bytes, that the peer is not known to have read: it reads them in order,
    /// so that its answer to one tells of all before.
    unread: VecDeque<(u64, u64)>,
    unread_bytes: u64,
}

impl<K> Requests<K> {
    pub(super) fn new() -> Requests<K> {
        Requests {
            last: 0,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            unread: VecDeque::new(),
            unread_bytes: 0,
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

    /// A request leaves on the control stream.
    pub(super) fn leaves(&mut self, id: u64, bytes: u64) {
        self.unread.push_back((id, bytes));
        self.unread_bytes = self.unread_bytes.saturating_add(bytes);
    }

    /// The peer has answered a request, be it too late.
    pub(super) fn was_read(&mut self, id: u64) {
        // One that is not among them has gone by another stream, which says nothing of this one.
        if self.unread.binary_search_by_key(&id, |(i, _)| *i).is_err() {
            return;
        }
        while let Some((_, bytes)) = self.unread.pop_front_if(|(first, _)| *first <= id) {
            self.unread_bytes = self.unread_bytes.saturating_sub(bytes);
        }
    }

    /// How many requests, of how many bytes, the peer is not known to have read.
    pub(super) fn unread(&self) -> (usize, u64) {
        (self.unread.len(), self.unread_bytes)
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
