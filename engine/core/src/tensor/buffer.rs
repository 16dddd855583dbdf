//! Aligned buffers and the pool they come from.
//!
//! Returning big blocks to the operating system after each use makes element-wise chains several times slower,
//! because every reuse faults its pages in again; so freed blocks are kept, by size class, in the [`Pool`] they
//! came from, and a budget bounds what is out at any time.
//!
//! Blocks of [`HUGE_FROM`] bytes and more ask for huge pages (Linux; most distributions grant them to those who ask):
//! far fewer faults and translations, and prefetchers that go on where a small page would end. A product with a B of
//! 6 MiB became a third faster.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// Every buffer starts on a boundary of this many bytes: a cache line and the widest SIMD register.
pub const ALIGN: usize = 64;

/// The size of a huge page, and the alignment of blocks that ask for them.
const HUGE: usize = 2 << 20;

/// Blocks of this many bytes and more ask for huge pages. What is left of them behind the last whole one stays in small
/// pages, so nothing is wasted.
const HUGE_FROM: usize = HUGE;

/// Size classes: four per power of two, from 64 bytes up.
const CLASSES: usize = 4 * 48;

/// A raw, 64-byte-aligned block. Its bytes are always initialised: fresh blocks are zeroed, recycled ones hold
/// what their last user left.
struct Block {
    ptr: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block is plain memory owned by whoever holds the value.
unsafe impl Send for Block {}

impl Block {
    fn layout(capacity: usize) -> Option<Layout> {
        let align = if capacity >= HUGE_FROM { HUGE } else { ALIGN };
        Layout::from_size_align(capacity, align).ok()
    }

    fn new(capacity: usize) -> Option<Block> {
        let layout = Self::layout(capacity)?;
        if capacity < HUGE_FROM {
            // SAFETY: the capacity is never zero, so the layout is valid for `alloc_zeroed`.
            let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
            return Some(Block { ptr, capacity });
        }
        // SAFETY: the capacity is not zero.
        let ptr = NonNull::new(unsafe { alloc(layout) })?;
        advise_huge(ptr, capacity);
        // Only now, so that it is huge pages that are faulted in.
        // SAFETY: the block is `capacity` bytes long and nobody else has it.
        unsafe { ptr.as_ptr().write_bytes(0, capacity) };
        Some(Block { ptr, capacity })
    }

    fn free(self) {
        if let Some(layout) = Self::layout(self.capacity) {
            // SAFETY: made by `new` with this layout, and given up here.
            unsafe { dealloc(self.ptr.as_ptr(), layout) }
        }
    }
}

/// Asks the system to back the whole huge pages of a fresh block of `len` bytes, aligned to [`HUGE`], by such pages.
#[cfg(target_os = "linux")]
fn advise_huge(ptr: NonNull<u8>, len: usize) {
    use rustix::mm::{Advice, madvise};
    // A kernel that has no huge pages says no, and small ones serve as well.
    // SAFETY: the range lies in the block, and the advice changes nothing that can be read from it.
    let _ = unsafe { madvise(ptr.as_ptr().cast(), len / HUGE * HUGE, Advice::LinuxHugepage) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_: NonNull<u8>, _: usize) {}

fn class_of(bytes: usize) -> usize {
    // Rounded up to a multiple of a quarter of its power of two.
    let b = bytes.max(ALIGN) - 1;
    let log = usize::BITS - 1 - b.leading_zeros();
    let quarter = (b >> (log - 2)) & 3;
    ((log as usize - 5) * 4 + quarter).min(CLASSES - 1)
}

fn class_size(class: usize) -> usize {
    let log = class / 4 + 5;
    ((5 + class % 4) << log) >> 2
}

struct Shelf {
    free: Vec<Block>,
}

/// An allocator of tensor buffers that keeps freed blocks for reuse and enforces a byte budget.
///
/// Owned by a device; buffers hold a reference to it, so it lives as long as any of them. Shared freely between
/// threads.
pub struct Pool {
    shelves: Box<[Mutex<Shelf>]>,
    budget: usize,
    /// Kept blocks above this many bytes are given back to the system.
    keep: usize,
    used: AtomicUsize,
    kept: AtomicUsize,
    peak: AtomicUsize,
}

/// Counters of a [`Pool`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// In buffers that are alive.
    pub used: usize,
    /// In freed blocks kept for reuse.
    pub kept: usize,
    /// The most that was ever in use at once.
    pub peak: usize,
    /// The most that may be in use.
    pub budget: usize,
}

impl Pool {
    /// A pool that lets at most `budget` bytes be in use at once and keeps at most `keep` bytes of freed blocks.
    pub fn new(budget: usize, keep: usize) -> Arc<Pool> {
        Arc::new(Pool {
            shelves: (0..CLASSES).map(|_| Mutex::new(Shelf { free: Vec::new() })).collect(),
            budget,
            keep,
            used: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        })
    }

    /// A pool without a budget that keeps up to 1 GiB.
    pub fn unbounded() -> Arc<Pool> {
        Pool::new(usize::MAX, 1 << 30)
    }

    /// A buffer of `bytes` bytes (none of them uninitialised, but of any value).
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED`, before anything is allocated, if the budget would be exceeded, and if the system has
    /// no more memory.
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let class = class_of(bytes);
        let capacity = class_size(class).max(bytes.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX));
        let refused = |used: usize| {
            Error::exhausted(format!(
                "cannot allocate {} for a tensor: {} of the device's budget of {} are in use",
                human(bytes),
                human(used),
                human(self.budget)
            ))
        };
        if self.budget == usize::MAX {
            self.used.fetch_add(capacity, Ordering::Relaxed);
        } else {
            self.used
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |u| {
                    u.checked_add(capacity).filter(|n| *n <= self.budget)
                })
                .map_err(refused)?;
        }
        let found = self.shelves[class].lock().free.pop();
        let block = match found {
            Some(b) if b.capacity >= bytes => {
                self.kept.fetch_sub(b.capacity, Ordering::Relaxed);
                b
            }
            other => {
                if let Some(b) = other {
                    self.kept.fetch_sub(b.capacity, Ordering::Relaxed);
                    b.free();
                }
                match Block::new(capacity) {
                    Some(b) => b,
                    None => {
                        self.used.fetch_sub(capacity, Ordering::Relaxed);
                        return Err(Error::exhausted(format!(
                            "the system has no memory for a tensor of {}",
                            human(bytes)
                        )));
                    }
                }
            }
        };
        // A recycled block of the open-ended last class may be larger than what was charged.
        self.used.fetch_add(block.capacity - capacity, Ordering::Relaxed);
        self.peak
            .fetch_max(self.used.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(Buffer {
            block: Some(block),
            len: bytes,
            pool: self.clone(),
        })
    }

    /// The present counters.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            used: self.used.load(Ordering::Relaxed),
            kept: self.kept.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
            budget: self.budget,
        }
    }

    /// Gives all kept blocks back to the system.
    pub fn trim(&self) {
        for shelf in &self.shelves {
            let blocks = std::mem::take(&mut shelf.lock().free);
            for b in blocks {
                self.kept.fetch_sub(b.capacity, Ordering::Relaxed);
                b.free();
            }
        }
    }

    fn give_back(&self, block: Block) {
        self.used.fetch_sub(block.capacity, Ordering::Relaxed);
        if self.kept.load(Ordering::Relaxed).saturating_add(block.capacity) > self.keep {
            block.free();
            return;
        }
        self.kept.fetch_add(block.capacity, Ordering::Relaxed);
        self.shelves[class_of(block.capacity)].lock().free.push(block);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}

/// `1.5 MiB` and the like, for messages.
pub fn human(bytes: usize) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut x = bytes as f64;
    let mut u = 0;
    while x >= 1024.0 && u + 1 < UNITS.len() {
        x /= 1024.0;
        u += 1;
    }
    if u == 0 {
        format!("{bytes} B")
    } else {
        format!("{x:.1} {}", UNITS[u])
    }
}

/// A 64-byte-aligned block of initialised bytes that goes back to its pool when dropped.
pub struct Buffer {
    block: Option<Block>,
    len: usize,
    pool: Arc<Pool>,
}

// SAFETY: the bytes are only reachable through `&self` for reading and `&mut self` for writing.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn ptr(&self) -> *mut u8 {
        self.block.as_ref().map_or(std::ptr::null_mut(), |b| b.ptr.as_ptr())
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the block has at least `len` initialised bytes and nobody writes while it is shared.
        unsafe { std::slice::from_raw_parts(self.ptr(), self.len) }
    }

    /// The bytes, for writing.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(b) = self.block.take() {
            self.pool.give_back(b);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", human(self.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_are_for_and_waste_little() {
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, 3_000_000, 1 << 33]) {
            let c = class_of(bytes);
            assert!(class_size(c) >= bytes, "{bytes}");
            assert!(
                class_size(c) <= (bytes.max(64) * 5).div_ceil(4),
                "{bytes} {}",
                class_size(c)
            );
            assert_eq!(class_of(class_size(c)), c);
        }
    }

    #[test]
    fn big_blocks_are_zeroed_aligned_to_huge_pages_and_reused_whole() {
        for bytes in [HUGE_FROM - HUGE / 4, HUGE_FROM, HUGE_FROM + 1, 11_000_001] {
            let p = Pool::new(usize::MAX, usize::MAX);
            let mut b = p.alloc(bytes).unwrap();
            assert!(b.bytes().iter().all(|x| *x == 0), "{bytes}");
            if bytes >= HUGE_FROM {
                assert_eq!(b.bytes().as_ptr() as usize % HUGE, 0, "{bytes}");
            }
            b.bytes_mut().fill(7);
            let at = b.bytes().as_ptr();
            drop(b);
            assert_eq!(p.alloc(bytes).unwrap().bytes().as_ptr(), at);
            p.trim();
            assert_eq!((p.stats().used, p.stats().kept), (0, 0));
        }
    }

    #[test]
    fn a_freed_block_is_reused_and_the_budget_holds() {
        let p = Pool::new(1 << 20, 1 << 20);
        let a = p.alloc(100_000).unwrap();
        let at = a.bytes().as_ptr();
        assert_eq!(at as usize % ALIGN, 0);
        drop(a);
        let b = p.alloc(100_000).unwrap();
        assert_eq!(b.bytes().as_ptr(), at);
        let e = p.alloc(1 << 20).unwrap_err();
        assert_eq!(e.code(), crate::error::Code::ResourceExhausted);
        drop(b);
        p.trim();
        assert_eq!((p.stats().used, p.stats().kept), (0, 0));
        assert!(p.alloc(1 << 62).is_err());
    }
}
