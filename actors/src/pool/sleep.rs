//! Sleeping workers, and choosing which one to wake.

#![forbid(unsafe_code)]

use std::{
    sync::atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    thread::{self, Thread},
};

use parking_lot::Mutex;

/// A core nobody knows.
const UNKNOWN: usize = usize::MAX;

/// The state of one worker that a waker needs.
#[derive(Debug)]
pub(super) struct Bed {
    thread: Mutex<Option<Thread>>,
    /// Set by the waker, cleared by the worker before it lies down.
    woken: AtomicBool,
    /// The core the worker is bound to, or was last seen on.
    core: AtomicUsize,
}

impl Default for Bed {
    fn default() -> Self {
        Self {
            thread: Mutex::new(None),
            woken: AtomicBool::new(false),
            core: AtomicUsize::new(UNKNOWN),
        }
    }
}

/// The workers that can be woken: those that sleep, and those that were not created yet.
#[derive(Debug)]
pub(super) struct Dormitory {
    beds: Box<[Bed]>,
    /// How many workers are in the lists below; read without the lock.
    available: AtomicUsize,
    lists: Mutex<Lists>,
}

#[derive(Debug)]
struct Lists {
    asleep: Vec<usize>,
    unborn: Vec<usize>,
}

/// Whom a waker got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    /// This worker slept and has been woken.
    Woken,
    /// This worker has no thread yet; the caller creates it.
    Unborn(usize),
}

impl Dormitory {
    /// Workers `0..count`, none of which exists yet. `core_of` says where a worker will be bound.
    pub(super) fn new(count: usize, core_of: impl Fn(usize) -> Option<usize>) -> Self {
        let beds: Box<[Bed]> = (0..count).map(|_| Bed::default()).collect();
        for (i, bed) in beds.iter().enumerate() {
            bed.core.store(core_of(i).unwrap_or(UNKNOWN), Relaxed);
        }
        Self {
            beds,
            available: AtomicUsize::new(count),
            lists: Mutex::new(Lists {
                asleep: Vec::with_capacity(count),
                unborn: (0..count).rev().collect(),
            }),
        }
    }

    /// Whether there is anyone to wake.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.available.load(SeqCst) > 0
    }

    /// Wakes one worker, if possible one that is not on core `avoid`.
    pub(super) fn wake_one(&self, avoid: Option<usize>) -> Option<Chosen> {
        let elsewhere = |&worker: &usize| {
            let core = self.beds[worker].core.load(Relaxed);
            avoid.is_none() || core == UNKNOWN || Some(core) != avoid
        };
        let mut lists = self.lists.lock();
        // The latest to fall asleep first: its caches are the warmest.
        let (list, at) = if let Some(at) = lists.asleep.iter().rposition(elsewhere) {
            (&mut lists.asleep, at)
        } else if let Some(at) = lists.unborn.iter().rposition(elsewhere) {
            (&mut lists.unborn, at)
        } else if let Some(at) = lists.asleep.len().checked_sub(1) {
            (&mut lists.asleep, at)
        } else {
            let at = lists.unborn.len().checked_sub(1)?;
            (&mut lists.unborn, at)
        };
        let worker = list.remove(at);
        self.available.fetch_sub(1, SeqCst);
        drop(lists);
        let bed = &self.beds[worker];
        let Some(thread) = bed.thread.lock().clone() else {
            return Some(Chosen::Unborn(worker));
        };
        bed.woken.store(true, Release);
        thread.unpark();
        Some(Chosen::Woken)
    }

    /// Wakes all that sleep, for shutting down; those that were never created never will be.
    pub(super) fn wake_all(&self) {
        {
            let mut lists = self.lists.lock();
            let dropped = std::mem::take(&mut lists.unborn).len();
            self.available.fetch_sub(dropped, SeqCst);
        }
        while self.wake_one(None).is_some() {}
    }

    /// Puts a worker whose thread could not be created back.
    pub(super) fn put_back(&self, worker: usize) {
        self.lists.lock().unborn.push(worker);
        self.available.fetch_add(1, SeqCst);
    }

    /// The worker, on its own thread, says where to wake it.
    pub(super) fn born(&self, worker: usize) {
        *self.beds[worker].thread.lock() = Some(thread::current());
    }

    /// The worker lies down; from here on it can be woken. `core` is where it runs now, if it is not bound.
    pub(super) fn lie_down(&self, worker: usize, core: Option<usize>) {
        let bed = &self.beds[worker];
        if let Some(core) = core {
            bed.core.store(core, Relaxed);
        }
        bed.woken.store(false, Relaxed);
        let mut lists = self.lists.lock();
        lists.asleep.push(worker);
        self.available.fetch_add(1, SeqCst);
    }

    /// The worker has seen work and gets up by itself; false if a waker came first (its wake-up is then pending).
    pub(super) fn get_up(&self, worker: usize) -> bool {
        let mut lists = self.lists.lock();
        let Some(at) = lists.asleep.iter().position(|&w| w == worker) else {
            return false;
        };
        lists.asleep.remove(at);
        self.available.fetch_sub(1, SeqCst);
        true
    }

    /// The worker sleeps until a waker has chosen it.
    pub(super) fn sleep(&self, worker: usize) {
        while !self.beds[worker].woken.load(Acquire) {
            thread::park();
        }
    }
}
