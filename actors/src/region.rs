//! Parallel regions: how helpers join work that lives on another thread's stack.
//!
//! [`Parallel::run`](actorflow_core::parallel::Parallel::run) borrows the kernel's closure, so its description
//! cannot outlive the call. It is published through a [`Slot`] that outlives it (the pool owns the slots): a
//! helper may look at the region only while it is counted in the slot, and the owner does not return before the
//! slot is closed and that count is zero.
//!
//! The slot's word is `OPEN | WAITING | helpers`:
//!
//! * a helper *joins* by a compare-exchange that adds one to a word in which `OPEN` is set: it cannot join a
//!   region that is being taken down, and a region it joined cannot be taken down under it;
//! * the owner *closes* by clearing `OPEN`, then waits, spinning first, until the helpers have left;
//! * the last helper to *leave* wakes the owner if it sleeps. After its leaving decrement a helper touches only
//!   the slot, never the region.
//!
//! Chunks are claimed by [`Region::work`] from one counter, by the owner and the helpers alike, so whoever is
//! late finds nothing and nobody waits for a thread that has not started.

use std::{
    any::Any,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::sync::{
    Mutex, UnsafeCell,
    atomic::{
        AtomicU32, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    hint, thread,
};

const OPEN: u32 = 1 << 31;
const WAITING: u32 = 1 << 30;
const HELPERS: u32 = WAITING - 1;

/// One parallel region: a body to be called for every chunk index, once.
pub struct Region<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    chunks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl<'a> Region<'a> {
    /// A region of `chunks` calls of `body`; nothing runs yet.
    pub fn new(chunks: usize, body: &'a (dyn Fn(usize) + Sync)) -> Self {
        Self {
            body,
            chunks,
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
        }
    }

    /// How many chunks nobody has claimed yet; a snapshot.
    pub fn left(&self) -> usize {
        // Relaxed: a stale answer only costs a useless or a missing helper.
        self.chunks.saturating_sub(self.next.load(Relaxed))
    }

    /// Claims and runs chunks until none is left. A panic of the body is kept for the owner, and the chunks
    /// nobody has claimed yet are then skipped.
    pub fn work(&self) {
        loop {
            // Relaxed: the counter only deals out indices. What the chunks wrote reaches the owner through the
            // slot's word, and what the owner wrote before reaches the helpers the same way.
            let chunk = self.next.fetch_add(1, Relaxed);
            if chunk >= self.chunks {
                // Keep the counter from creeping towards its end when very many look in vain.
                self.next.store(self.chunks, Relaxed);
                return;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.body)(chunk))) {
                self.next.store(self.chunks, Relaxed);
                self.panic.lock().get_or_insert(payload);
            }
        }
    }

    /// The payload of the first panic, once every participant is done.
    pub fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().take()
    }
}

/// A place where one region at a time is published. The word is on its own cache lines in the pool's table.
#[derive(Debug)]
pub struct Slot {
    word: AtomicU32,
    /// Written by the owner while the slot is closed and empty, read by helpers while they are counted in `word`.
    region: UnsafeCell<*const Region<'static>>,
    /// The owner, while it sleeps until the helpers have left.
    waiter: Mutex<Option<thread::Thread>>,
}

// SAFETY: `region` is written only by the slot's owner while no helper is counted, and read only by counted
// helpers; the word's release/acquire orders the two. What it points to is `Sync` (an atomic, a mutex and a
// `Sync` closure).
unsafe impl Sync for Slot {}
// SAFETY: as above; the pointer is only followed under the protocol.
unsafe impl Send for Slot {}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    /// A closed slot.
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            region: UnsafeCell::new(std::ptr::null()),
            waiter: Mutex::new(None),
        }
    }

    /// Publishes a region. The slot must be closed, and the caller the only one that opens it until the
    /// returned guard is gone. Dropping the guard closes the slot and waits for the helpers.
    ///
    /// # Safety
    /// The caller has the slot to itself, and drops the guard (never forgets it) before the region's borrow ends.
    pub unsafe fn open<'a>(&'a self, region: &'a Region<'_>) -> Opened<'a> {
        let erased: *const Region<'_> = region;
        // SAFETY: the slot is closed and empty, so nobody reads the cell.
        self.region
            .with_mut(|cell| unsafe { *cell = erased.cast::<Region<'static>>() });
        // Release: publishes the region to the helpers that join.
        self.word.store(OPEN, Release);
        Opened {
            slot: self,
            _region: PhantomData,
        }
    }

    /// Joins the open region, if there is one. It lives until the returned guard is dropped.
    pub fn join(&self) -> Option<Joined<'_>> {
        let mut word = self.word.load(Relaxed);
        while word & OPEN != 0 {
            // Acquire: pairs with the release in `open`.
            match self.word.compare_exchange_weak(word, word + 1, Acquire, Relaxed) {
                Ok(_) => return Some(Joined { slot: self }),
                Err(now) => word = now,
            }
        }
        None
    }

    /// Clears `OPEN` and waits until no helper is counted.
    fn close(&self) {
        // Acquire: sees the writes of helpers that have left already.
        if self.word.fetch_and(!OPEN, AcqRel) & HELPERS == 0 {
            return;
        }
        for _ in 0..SPINS {
            if self.word.load(Acquire) & HELPERS == 0 {
                return;
            }
            hint::spin_loop();
        }
        // Asleep: `WAITING` is set before the count is tested, and the last helper tests `WAITING` in the same
        // operation that makes the count zero, so one of the two sees the other. The waiter is written anew in
        // every turn, because a helper of an earlier region may still be about to take (and wake) it.
        loop {
            *self.waiter.lock() = Some(thread::current());
            if self.word.fetch_or(WAITING, AcqRel) & HELPERS == 0 {
                break;
            }
            thread::park();
        }
        self.word.store(0, Relaxed);
        self.waiter.lock().take();
    }

    fn leave(&self) {
        // Release: publishes the chunks' writes to the owner. Acquire: for the waiter.
        let before = self.word.fetch_sub(1, AcqRel);
        if before & HELPERS == 1 && before & WAITING != 0 {
            let waiter = self.waiter.lock().take();
            if let Some(waiter) = waiter {
                waiter.unpark();
            }
        }
    }
}

/// How often the owner looks for the helpers to have left before it sleeps: some 10 µs, about what a sleep and a
/// wake cost. Helpers that were not preempted leave within one chunk.
const SPINS: u32 = if cfg!(loom) { 1 } else { 1_000 };

/// A published region; dropping it takes it down.
#[derive(Debug)]
pub struct Opened<'a> {
    slot: &'a Slot,
    _region: PhantomData<&'a Region<'a>>,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.slot.close();
    }
}

/// A helper's hold on a region.
#[derive(Debug)]
pub struct Joined<'a> {
    slot: &'a Slot,
}

impl Joined<'_> {
    /// The region, which lives at least as long as this guard.
    pub fn region(&self) -> &Region<'_> {
        // SAFETY: this helper is counted in the word, so the owner waits in `close` before it lets the region go,
        // and does not write the cell meanwhile.
        self.slot.region.with(|cell| unsafe { &*(*cell) })
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.slot.leave();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_closed_slot_cannot_be_joined() {
        let slot = Slot::new();
        assert!(slot.join().is_none());
        let region = Region::new(1, &|_| ());
        // SAFETY: the slot is this test's alone and the guard is dropped before the region.
        let open = unsafe { slot.open(&region) };
        assert!(slot.join().is_some_and(|joined| joined.region().left() == 1));
        drop(open);
        assert!(slot.join().is_none());
    }

    #[test]
    fn a_panic_skips_unclaimed_chunks_and_is_kept() {
        let ran = AtomicUsize::new(0);
        let body = |i: usize| {
            ran.fetch_add(1, Relaxed);
            assert!(i != 1, "chunk one");
        };
        let region = Region::new(4, &body);
        region.work();
        assert_eq!(ran.load(Relaxed), 2);
        assert!(region.take_panic().is_some());
    }
}
