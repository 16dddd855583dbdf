//! The published parallel regions of a pool.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
};

use crossbeam::utils::CachePadded;

use crate::region::{Joined, Region, Slot};

/// At most so many regions are published at once.
const SLOTS: usize = 64;

/// A fixed table of region slots with one word that says which of them may have work.
#[derive(Debug)]
pub(super) struct RegionTable {
    /// Bit `i`: slot `i` has an owner.
    owned: CachePadded<AtomicU64>,
    /// Bit `i`: slot `i` is open and may have unclaimed chunks. The one word that idle workers watch.
    open: CachePadded<AtomicU64>,
    slots: Box<[CachePadded<Slot>]>,
}

impl RegionTable {
    pub(super) fn new() -> Self {
        Self {
            owned: CachePadded::new(AtomicU64::new(0)),
            open: CachePadded::new(AtomicU64::new(0)),
            slots: (0..SLOTS).map(|_| CachePadded::new(Slot::new())).collect(),
        }
    }

    /// Whether some region may have unclaimed chunks.
    #[inline]
    pub(super) fn any_open(&self) -> bool {
        self.open.load(Relaxed) != 0
    }

    /// [`any_open`](Self::any_open) for the last look before sleeping: ordered after the worker announced that it
    /// lies down, as the owner's announcement of a region is ordered before its look for sleepers.
    #[inline]
    pub(super) fn any_open_before_sleep(&self) -> bool {
        self.open.load(SeqCst) != 0
    }

    /// Runs a region: publishes it, calls `announce` (to wake a helper), takes part, and returns when every chunk
    /// is done. Without a free slot the caller runs all chunks.
    pub(super) fn run(&self, region: &Region<'_>, announce: impl FnOnce()) {
        let Some(index) = self.acquire() else {
            return region.work();
        };
        let bit = 1u64 << index;
        let release = Release { table: self, bit };
        // SAFETY: this thread owns the slot until `release` is dropped, and drops `open` before that and before
        // `region`'s borrow ends (locals drop in reverse order, also when a panic unwinds).
        let open = unsafe { self.slots[index].open(region) };
        // SeqCst: see `any_open_before_sleep`.
        self.open.fetch_or(bit, SeqCst);
        announce();
        region.work();
        self.exhausted(bit);
        drop(open);
        drop(release);
    }

    /// Joins the open regions, one after the other, and works on them; false if there was none. `joining` is told
    /// how many chunks it has left before this thread takes one.
    pub(super) fn help(&self, joining: impl Fn(usize)) -> bool {
        let mut open = self.open.load(Acquire);
        let mut helped = false;
        while open != 0 {
            let bit = open & open.wrapping_neg();
            open ^= bit;
            let slot = &self.slots[bit.trailing_zeros() as usize];
            let Some(joined) = slot.join() else { continue };
            helped |= self.work_on(&joined, bit, &joining);
        }
        helped
    }

    fn work_on(&self, joined: &Joined<'_>, bit: u64, joining: &impl Fn(usize)) -> bool {
        let region = joined.region();
        let left = region.left();
        if left == 0 {
            self.exhausted(bit);
            return false;
        }
        joining(left);
        region.work();
        self.exhausted(bit);
        true
    }

    /// Stops idle workers from looking into a region that has no chunk left. Called by its owner and by helpers
    /// that have joined it, so the bit cannot belong to a later region.
    fn exhausted(&self, bit: u64) {
        if self.open.load(Relaxed) & bit != 0 {
            self.open.fetch_and(!bit, Relaxed);
        }
    }

    fn acquire(&self) -> Option<usize> {
        let mut owned = self.owned.load(Relaxed);
        loop {
            let index = (!owned).trailing_zeros() as usize;
            if index >= SLOTS {
                return None;
            }
            // Acquire: the slot is as its last owner left it.
            match self
                .owned
                .compare_exchange_weak(owned, owned | 1 << index, Acquire, Relaxed)
            {
                Ok(_) => return Some(index),
                Err(now) => owned = now,
            }
        }
    }
}

/// Gives a slot up when dropped.
struct Release<'a> {
    table: &'a RegionTable,
    bit: u64,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.table.owned.fetch_and(!self.bit, AcqRel);
    }
}
