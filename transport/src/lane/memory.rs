//! A memory file that two processes have mapped: a page of words, and bytes for each direction.
//!
//! The words are atomic numbers. The bytes are copied in and out by address and no reference to them ever exists, because the
//! other process may write them at any time: one that keeps to the protocol never writes what this side copies, and one that
//! does not makes this side copy out other bytes than it was sent, which are decoded like any others.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::RING;
use super::ring::{WORDS, Words};

/// Words are this far apart, so that what one side writes all the time is in no cache line that the other one does.
const APART: usize = 128;

/// Where the bytes begin: behind a page of words.
const DATA: usize = 4096;

const SIZE: usize = DATA + 2 * RING;

const _: () = assert!(WORDS * APART <= DATA && RING.is_power_of_two());

/// A mapped memory file.
#[derive(Debug)]
pub(crate) struct Memory {
    at: NonNull<u8>,
}

// SAFETY: the mapping stays where it is until it is dropped, and everything in it is reached through atomics, or by address
// under the protocol of `ring`.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// New memory, all zero, and the file to hand to the peer.
    pub(super) fn create() -> io::Result<(Memory, OwnedFd)> {
        let file = memfd_create("actorflow-lane", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, SIZE as u64)?;
        fcntl_add_seals(&file, sealed())?;
        Ok((Memory::map(file.as_fd())?, file))
    }

    /// The memory in a file of the peer's.
    ///
    /// # Errors
    /// If it is not of the size of a lane, or the peer could still cut it short.
    pub(super) fn open(file: &File) -> io::Result<Memory> {
        let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        if !fcntl_get_seals(file)?.contains(sealed()) {
            return Err(refused("the file is not sealed"));
        }
        if u64::try_from(fstat(file)?.st_size).ok() != Some(SIZE as u64) {
            return Err(refused("the file is not of the size of a lane"));
        }
        Memory::map(file.as_fd())
    }

    fn map(file: BorrowedFd<'_>) -> io::Result<Memory> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the system's choice; it replaces none.
        let at = unsafe { mmap(ptr::null_mut(), SIZE, access, MapFlags::SHARED, file, 0) }?;
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { at })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS, "no such word");
        // SAFETY: within the mapping and aligned, as asserted; only ever reached as an atomic number, here and by a peer that
        // keeps to the protocol.
        unsafe { &*self.at.as_ptr().add(index * APART).cast::<AtomicU64>() }
    }

    fn bytes(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= 2 * RING && len <= 2 * RING - at, "beyond the rings");
        // SAFETY: within the mapping, as asserted.
        unsafe { self.at.as_ptr().add(DATA + at) }
    }
}

fn sealed() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

impl Words for Memory {
    fn load(&self, word: usize) -> u64 {
        self.word(word).load(Ordering::SeqCst)
    }

    fn store(&self, word: usize, value: u64) {
        self.word(word).store(value, Ordering::SeqCst);
    }

    fn swap(&self, word: usize, value: u64) -> u64 {
        self.word(word).swap(value, Ordering::SeqCst)
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let to = self.bytes(at, bytes.len());
        // SAFETY: `to` is good for so many bytes, as checked, and no part of `bytes`, which is memory of this process alone.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    fn read(&self, at: usize, into: &mut [u8]) {
        let from = self.bytes(at, into.len());
        // SAFETY: as in `write`.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size, and nobody has it any more. That it cannot fail is of no use here.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_one_file_are_the_same_memory() {
        let (a, file) = Memory::create().unwrap();
        let b = Memory::open(&File::from(file)).unwrap();
        a.store(WORDS - 1, 7);
        assert_eq!(b.swap(WORDS - 1, 8), 7);
        assert_eq!(a.load(WORDS - 1), 8);
        a.write(2 * RING - 3, b"end");
        let mut got = [0; 3];
        b.read(2 * RING - 3, &mut got);
        assert_eq!(&got, b"end");
    }

    #[test]
    fn a_file_that_could_be_cut_short_is_refused() {
        let open = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("unsealed", open).unwrap();
        ftruncate(&file, SIZE as u64).unwrap();
        assert!(Memory::open(&File::from(file)).is_err());
        let file = memfd_create("short", open).unwrap();
        ftruncate(&file, SIZE as u64 - 1).unwrap();
        fcntl_add_seals(&file, sealed()).unwrap();
        assert!(Memory::open(&File::from(file)).is_err());
    }

    #[test]
    fn the_file_cannot_be_cut_short() {
        let (_memory, file) = Memory::create().unwrap();
        assert!(ftruncate(&file, 0).is_err());
        assert!(fcntl_add_seals(&file, SealFlags::WRITE).is_err());
    }
}
