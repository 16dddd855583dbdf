//! Both directions of a lane, with frames in them.
//!
//! What is in a ring is a row of chunks: eight bytes that say of which class it is and how long, and so many bytes of the
//! stream of that class. A chunk is shown to the reader as a whole. So what is small waits for at most one chunk of what is
//! large, and for what lies in the ring already.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::ring::{Broken, In, Out, Side, Words};
use super::{Bell, RING};
use crate::frame::{Arriving, Decoder, Fault, Frame, Intake};
use crate::proto::Class;

/// Bytes of a stream that are shown to the reader at once, at most.
const CHUNK: usize = 128 << 10;

/// With less room than this, the writer waits for more, unless it has less to write.
const LEAST: usize = CHUNK / 2;

const HEAD: usize = 8;

/// What is read before others have their turn.
const SHARE: usize = 4 * RING;

const CLASSES: [Class; 3] = [Class::Control, Class::Small, Class::Bulk];

const _: () = assert!(CHUNK + HEAD <= RING);

/// What became of an attempt to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// So many bytes were written.
    Written(usize),
    /// There is no room; the reader rings when there is.
    Full,
}

/// What became of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Received {
    /// Bytes read.
    pub(crate) bytes: u64,
    /// There may be more; nobody rings for it.
    pub(crate) more: bool,
}

/// One side of a lane.
#[derive(Debug)]
pub(crate) struct Lane<M> {
    out: Out<M>,
    input: In<M>,
    decoders: [Decoder; CLASSES.len()],
}

fn broken(Broken: Broken) -> Fault {
    Fault::Malformed("the counters of the shared memory are not those of a ring".to_owned())
}

/// Bytes of a chunk that are still in the ring.
struct Chunk<'a, M> {
    input: &'a mut In<M>,
    left: usize,
}

impl<M: Words> Arriving for Chunk<'_, M> {
    fn len(&self) -> usize {
        self.left
    }

    fn take(&mut self, n: usize) -> Bytes {
        let mut bytes = vec![0; n.min(self.left)];
        self.copy_to(&mut bytes);
        bytes.into()
    }

    fn copy_to(&mut self, into: &mut [u8]) {
        let n = into.len().min(self.left);
        self.input.read(&mut into[..n]);
        self.left -= n;
    }
}

impl<M: Words> Lane<M> {
    pub(crate) fn new(memory: &Arc<M>, side: Side) -> Lane<M> {
        Lane {
            out: Out::new(memory.clone(), side),
            input: In::new(memory.clone(), side),
            decoders: Default::default(),
        }
    }

    /// Writes a chunk of what is queued for the stream of `class`, which is not nothing, and rings if the reader sleeps.
    pub(crate) fn put(&mut self, class: Class, queue: &mut VecDeque<Bytes>, bell: &Bell) -> Result<Put, Fault> {
        let mut wanted = 0;
        for piece in queue.iter() {
            wanted += piece.len();
            if wanted >= CHUNK {
                wanted = CHUNK;
                break;
            }
        }
        let room = self.out.room().map_err(broken)?;
        if room < HEAD + wanted.min(LEAST) && self.out.sleep(HEAD + wanted).map_err(broken)? {
            return Ok(Put::Full);
        }
        let len = wanted.min(self.out.room().map_err(broken)?.saturating_sub(HEAD));
        self.out.write(&head(class, len));
        let mut left = len;
        while let Some(piece) = queue.front_mut()
            && left > 0
        {
            let n = piece.len().min(left);
            self.out.write(&piece[..n]);
            piece.advance(n);
            left -= n;
            if piece.is_empty() {
                queue.pop_front();
            }
        }
        if self.out.tell() {
            bell.ring();
        }
        Ok(Put::Written(len))
    }

    /// Whether the peer has read everything; if not, it rings when it has.
    pub(crate) fn is_drained(&self) -> bool {
        self.out.is_drained() || self.out.sleep(RING) == Ok(false)
    }

    /// Reads what has come and gives every frame to `each`. Without more, the peer rings when something comes.
    pub(crate) fn receive(
        &mut self,
        intake: &mut Intake,
        bell: &Bell,
        mut each: impl FnMut(Frame),
    ) -> Result<Received, Fault> {
        let mut received = Received::default();
        loop {
            let available = self.input.available().map_err(broken)?;
            if available == 0 {
                if self.input.sleep().map_err(broken)? {
                    return Ok(received);
                }
                continue;
            }
            if received.bytes >= SHARE as u64 {
                received.more = true;
                return Ok(received);
            }
            received.bytes += self.chunk(available, intake, &mut each)? as u64;
            if self.input.tell() {
                bell.ring();
            }
        }
    }

    fn chunk(&mut self, available: usize, intake: &mut Intake, each: &mut impl FnMut(Frame)) -> Result<usize, Fault> {
        let torn = || Fault::Malformed("a chunk in shared memory is torn".to_owned());
        if available < HEAD {
            return Err(torn());
        }
        let mut head = [0; HEAD];
        self.input.read(&mut head);
        let [class, 0, 0, 0, l0, l1, l2, l3] = head else {
            return Err(torn());
        };
        let left = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if left == 0 || left > available - HEAD {
            return Err(torn());
        }
        let decoder = self.decoders.get_mut(usize::from(class)).ok_or_else(torn)?;
        let mut chunk = Chunk {
            input: &mut self.input,
            left,
        };
        while let Some(frame) = decoder.push(&mut chunk, intake)? {
            each(frame);
        }
        Ok(left)
    }

    /// Writes bytes that are no chunk, as a peer might.
    #[cfg(test)]
    pub(super) fn scribble(&mut self, bytes: &[u8]) {
        self.out.write(bytes);
        self.out.tell();
    }

    /// Gives back what has come in part.
    pub(crate) fn abandon(self, intake: &mut Intake) {
        self.decoders.into_iter().for_each(|d| d.abandon(intake));
    }
}

fn head(class: Class, len: usize) -> [u8; HEAD] {
    let class = CLASSES.iter().position(|c| *c == class).unwrap_or(0) as u8;
    let [l0, l1, l2, l3] = (len as u32).to_le_bytes();
    [class, 0, 0, 0, l0, l1, l2, l3]
}
