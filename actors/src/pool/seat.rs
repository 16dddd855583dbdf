//! The seats of a pool, and which thread holds one.

#![forbid(unsafe_code)]

use std::{
    cell::RefCell,
    marker::PhantomData,
    sync::atomic::{
        AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::worker::Shared;

/// The seats of one pool.
#[derive(Debug)]
pub(super) struct Seats {
    total: usize,
    taken: AtomicUsize,
    /// Threads that sleep until a seat is free.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    freed: Condvar,
}

impl Seats {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            freed: Condvar::new(),
        }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    #[inline]
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    #[inline]
    pub(super) fn any_free(&self) -> bool {
        self.taken.load(SeqCst) < self.total
    }

    #[inline]
    pub(super) fn try_take(&self) -> bool {
        let mut taken = self.taken.load(Relaxed);
        while taken < self.total {
            // SeqCst: together with the other SeqCst operations on seats, sleepers and work, of a thread that
            // frees a seat and one that goes to sleep for want of it, at least one sees the other.
            match self.taken.compare_exchange_weak(taken, taken + 1, SeqCst, Relaxed) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    #[inline]
    pub(super) fn give_back(&self) {
        let before = self.taken.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "a seat was given back twice");
        if self.waiting.load(SeqCst) > 0 {
            drop(self.lock.lock());
            self.freed.notify_one();
        }
    }

    /// Waits for a seat until the deadline, then takes one more than there are. False in that case.
    fn take_waiting(&self, patience: Duration) -> bool {
        for _ in 0..64 {
            if self.try_take() {
                return true;
            }
            std::hint::spin_loop();
        }
        let deadline = Instant::now() + patience;
        let mut guard = self.lock.lock();
        self.waiting.fetch_add(1, SeqCst);
        let got = loop {
            if self.try_take() {
                break true;
            }
            if self.freed.wait_until(&mut guard, deadline).timed_out() {
                break self.try_take();
            }
        };
        self.waiting.fetch_sub(1, SeqCst);
        if !got {
            self.taken.fetch_add(1, SeqCst);
        }
        got
    }
}

/// A thread's hold on a seat of one pool.
struct Hold {
    /// Identifies the pool: its address.
    pool: usize,
    depth: usize,
    /// False while the seat was given back for a wait and not regained.
    seated: bool,
}

thread_local! {
    /// The pools this thread has a seat of; nearly always none or one.
    static HOLDS: RefCell<Vec<Hold>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with this thread's hold on a seat of `pool`.
fn with_hold<R>(pool: usize, f: impl FnOnce(Option<&mut Hold>) -> R) -> R {
    HOLDS.with_borrow_mut(|holds| f(holds.iter_mut().find(|hold| hold.pool == pool)))
}

/// What a thread has of a pool.
enum Holding {
    Nothing,
    /// A seat that was given back for a wait, in name only.
    Lost,
    Seat,
}

fn holding(pool: usize) -> Holding {
    with_hold(pool, |hold| match hold {
        None => Holding::Nothing,
        Some(Hold { seated: false, .. }) => Holding::Lost,
        Some(_) => Holding::Seat,
    })
}

/// Adds one hold of a thread that has a seat, or a lost one that it just regained.
fn nest(pool: usize) {
    with_hold(pool, |hold| {
        if let Some(hold) = hold {
            hold.depth += 1;
            hold.seated = true;
        }
    });
}

fn begin(pool: usize) {
    HOLDS.with_borrow_mut(|holds| {
        holds.push(Hold {
            pool,
            depth: 1,
            seated: true,
        })
    });
}

/// The right to compute for a device, held by the thread that took it until it is dropped.
#[derive(Debug)]
pub struct Seat<'a> {
    shared: &'a Shared,
    /// A seat belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl<'a> Seat<'a> {
    #[inline]
    pub(super) fn take(shared: &'a Shared) -> Option<Self> {
        let pool = shared.id();
        match holding(pool) {
            Holding::Seat => nest(pool),
            Holding::Lost if shared.seats.try_take() => nest(pool),
            Holding::Nothing if shared.seats.try_take() => begin(pool),
            Holding::Lost | Holding::Nothing => return None,
        }
        Some(Self {
            shared,
            _not_send: PhantomData,
        })
    }

    /// A seat in any case: waits up to `patience` for one and then does without.
    pub(super) fn take_waiting(shared: &'a Shared, patience: Duration) -> Self {
        let pool = shared.id();
        match holding(pool) {
            Holding::Seat => nest(pool),
            Holding::Lost => {
                shared.seats.take_waiting(patience);
                nest(pool);
            }
            Holding::Nothing => {
                shared.seats.take_waiting(patience);
                begin(pool);
            }
        }
        Self {
            shared,
            _not_send: PhantomData,
        }
    }

    /// Gives this thread's seat back for the duration of `wait`, if it has one; takes one again if one is free.
    pub(super) fn without<R>(shared: &Shared, wait: impl FnOnce() -> R) -> R {
        let pool = shared.id();
        let had = with_hold(pool, |hold| hold.is_some_and(|hold| std::mem::take(&mut hold.seated)));
        if had {
            shared.free_seat();
        }
        let result = wait();
        if had && shared.seats.try_take() {
            with_hold(pool, |hold| hold.into_iter().for_each(|hold| hold.seated = true));
        }
        result
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let pool = self.shared.id();
        let free = HOLDS.with_borrow_mut(|holds| {
            let Some(at) = holds.iter().position(|hold| hold.pool == pool) else {
                return false;
            };
            holds[at].depth -= 1;
            holds[at].depth == 0 && holds.swap_remove(at).seated
        });
        if free {
            self.shared.free_seat();
        }
    }
}
