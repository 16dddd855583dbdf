//! One direction of a lane: a ring of bytes between one writer and one reader, in different processes.
//!
//! The writer counts what it has put in, the reader what it has taken out; both count bytes since the beginning, and the
//! difference is what lies in the ring. A side that has nothing to do says so in a word of its own and looks once more before it
//! sleeps; the other side takes that word back, and rings, when there is something to do. So nobody sleeps while there is, and a
//! side that is awake is not rung.
//!
//! Each side believes only its own counter; the other's is checked to be within the ring whenever it is read.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::RING;

/// Memory with words that both sides reach in one order, and bytes that follow them.
pub(crate) trait Words {
    /// The value of a word.
    fn load(&self, word: usize) -> u64;
    /// Sets a word.
    fn store(&self, word: usize, value: u64);
    /// Sets a word; its value before.
    fn swap(&self, word: usize, value: u64) -> u64;
    /// Copies bytes in.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Copies bytes out.
    fn read(&self, at: usize, into: &mut [u8]);
}

/// The words of one direction.
const WRITTEN: usize = 0;
const TAKEN: usize = 1;
const READER_SLEEPS: usize = 2;
const WRITER_SLEEPS: usize = 3;
const EACH: usize = 4;

/// Words of both directions.
pub(crate) const WORDS: usize = 2 * EACH;

/// Which of the two sides of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The one that dialed.
    Dialed,
    /// The one that was dialed.
    Accepted,
}

impl Side {
    /// The direction in which this side writes.
    fn writes(self) -> usize {
        match self {
            Side::Dialed => 0,
            Side::Accepted => 1,
        }
    }

    fn reads(self) -> usize {
        1 - self.writes()
    }
}

/// The other side's counter cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// What both ends of a direction have.
#[derive(Debug)]
struct End<M> {
    memory: Arc<M>,
    direction: usize,
    /// This side's counter.
    count: u64,
    /// As the other side has been told.
    told: u64,
}

impl<M: Words> End<M> {
    fn new(memory: Arc<M>, direction: usize) -> End<M> {
        End {
            memory,
            direction,
            count: 0,
            told: 0,
        }
    }

    fn word(&self, word: usize) -> usize {
        self.direction * EACH + word
    }

    /// The parts of the ring that the next `len` bytes are: where they begin, and how many lie before its end.
    fn place(&self, len: usize) -> (usize, usize) {
        let at = (self.count % RING as u64) as usize;
        (self.direction * RING + at, len.min(RING - at))
    }

    fn start(&self) -> usize {
        self.direction * RING
    }

    /// Tells the other side of the counter; whether it sleeps and is to be rung.
    fn tell(&mut self, word: usize, sleeps: usize) -> bool {
        if self.told == self.count {
            return false;
        }
        self.told = self.count;
        self.memory.store(self.word(word), self.count);
        self.memory.load(self.word(sleeps)) != 0 && self.memory.swap(self.word(sleeps), 0) != 0
    }
}

/// The writer's end.
#[derive(Debug)]
pub(crate) struct Out<M>(End<M>);

impl<M: Words> Out<M> {
    pub(crate) fn new(memory: Arc<M>, side: Side) -> Out<M> {
        Out(End::new(memory, side.writes()))
    }

    /// Bytes that can be written now.
    pub(crate) fn room(&self) -> Result<usize, Broken> {
        let taken = self.0.memory.load(self.0.word(TAKEN));
        match self.0.count.checked_sub(taken) {
            Some(n) if n <= RING as u64 => Ok(RING - n as usize),
            _ => Err(Broken),
        }
    }

    /// Writes behind what was written; there is room for it. The reader sees it when it is [told](Self::tell).
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let (at, first) = self.0.place(bytes.len());
        self.0.memory.write(at, &bytes[..first]);
        self.0.memory.write(self.0.start(), &bytes[first..]);
        self.0.count += bytes.len() as u64;
    }

    /// Shows the reader what was written; whether it is to be rung.
    pub(crate) fn tell(&mut self) -> bool {
        self.0.tell(WRITTEN, READER_SLEEPS)
    }

    /// Says that this side sleeps until there is room for `least` bytes; false if there is, and it need not.
    pub(crate) fn sleep(&self, least: usize) -> Result<bool, Broken> {
        let word = self.0.word(WRITER_SLEEPS);
        self.0.memory.store(word, least as u64);
        if self.room()? < least {
            return Ok(true);
        }
        self.0.memory.store(word, 0);
        Ok(false)
    }

    /// Whether the reader has taken everything.
    pub(crate) fn is_drained(&self) -> bool {
        self.room() == Ok(RING)
    }
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct In<M>(End<M>);

impl<M: Words> In<M> {
    pub(crate) fn new(memory: Arc<M>, side: Side) -> In<M> {
        In(End::new(memory, side.reads()))
    }

    /// Bytes that can be read now.
    pub(crate) fn available(&self) -> Result<usize, Broken> {
        let written = self.0.memory.load(self.0.word(WRITTEN));
        match written.checked_sub(self.0.count) {
            Some(n) if n <= RING as u64 => Ok(n as usize),
            _ => Err(Broken),
        }
    }

    /// Reads the next bytes; so many are available.
    pub(crate) fn read(&mut self, into: &mut [u8]) {
        let (at, first) = self.0.place(into.len());
        let (before, behind) = into.split_at_mut(first);
        self.0.memory.read(at, before);
        self.0.memory.read(self.0.start(), behind);
        self.0.count += (before.len() + behind.len()) as u64;
    }

    /// Gives the writer the room of what was read; whether it is to be rung.
    pub(crate) fn tell(&mut self) -> bool {
        let word = self.0.word(WRITER_SLEEPS);
        if self.0.told == self.0.count {
            return false;
        }
        self.0.told = self.0.count;
        self.0.memory.store(self.0.word(TAKEN), self.0.count);
        // It is rung for as much room as it waits for, not for every byte.
        let least = self.0.memory.load(word);
        if least == 0 {
            return false;
        }
        let written = self.0.memory.load(self.0.word(WRITTEN));
        let room = (RING as u64).saturating_sub(written.saturating_sub(self.0.count));
        room >= least && self.0.memory.swap(word, 0) != 0
    }

    /// Says that this side sleeps until something comes; false if something has, and it need not.
    pub(crate) fn sleep(&self) -> Result<bool, Broken> {
        let word = self.0.word(READER_SLEEPS);
        self.0.memory.store(word, 1);
        if self.available()? == 0 {
            return Ok(true);
        }
        self.0.memory.store(word, 0);
        Ok(false)
    }
}
