//! The streams of a connection: one in each direction for control and for small parcels, one for each large frame.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use quinn_proto::{Connection, Dir, ReadError, StreamId, VarInt, WriteError};

use crate::frame::{Decoder, Encoded, Fault, Frame, Intake};
use crate::lane::{Bell, Lane, Memory, Put};
use crate::proto::Class;

/// Frames on their way to a stream.
#[derive(Default)]
struct Queue {
    id: Option<StreamId>,
    chunks: VecDeque<Bytes>,
}

/// What there is to send, by class.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Goes to the control stream whatever way the rest takes, and before it.
    direct: VecDeque<Bytes>,
    /// The rest goes through QUIC; it does not before that is decided, and not if there is a lane.
    through_quic: bool,
    control: Queue,
    small: Queue,
    /// In order; the first is being written.
    bulk: VecDeque<Queue>,
    /// Streams that are written to their end, but not known to have arrived.
    unconfirmed: usize,
    /// Nothing comes after what is queued.
    ends: bool,
}

/// Why a stream cannot be written: the peer has stopped it, which it never does.
fn stopped() -> Fault {
    Fault::Malformed("a stream was stopped by its receiver".to_owned())
}

impl Queue {
    /// Hands to QUIC what it takes; whether that is everything.
    fn write(&mut self, quic: &mut Connection) -> Result<bool, Fault> {
        let Some(id) = self.id else {
            return Ok(self.chunks.is_empty());
        };
        while !self.chunks.is_empty() {
            match quic.send_stream(id).write_chunks(self.chunks.make_contiguous()) {
                Ok(written) => {
                    self.chunks.drain(..written.chunks);
                }
                Err(WriteError::Blocked) => return Ok(false),
                Err(_) => return Err(stopped()),
            }
        }
        Ok(true)
    }
}

impl Outgoing {
    /// The control stream is this one.
    pub(super) fn set_control(&mut self, quic: &mut Connection, id: StreamId) {
        self.control.id = Some(id);
        let _ = quic.send_stream(id).set_priority(2);
    }

    /// Everything goes through QUIC from now on.
    pub(super) fn through_quic(&mut self) {
        self.through_quic = true;
    }

    /// Queues what goes to the control stream whatever way the rest takes.
    pub(super) fn push_direct(&mut self, frame: Encoded) {
        if self.through_quic {
            self.control.chunks.extend(frame.chunks);
        } else {
            self.direct.extend(frame.chunks);
        }
    }

    pub(super) fn push(&mut self, class: Class, frame: Encoded) {
        match class {
            Class::Control => self.control.chunks.extend(frame.chunks),
            Class::Small => self.small.chunks.extend(frame.chunks),
            Class::Bulk => self.bulk.push_back(Queue {
                id: None,
                chunks: frame.chunks.into_iter().collect(),
            }),
        }
    }

    /// Hands to QUIC what it takes.
    pub(super) fn write(&mut self, quic: &mut Connection) -> Result<(), Fault> {
        if !self.direct.is_empty() {
            std::mem::swap(&mut self.direct, &mut self.control.chunks);
            let written = self.control.write(quic);
            std::mem::swap(&mut self.direct, &mut self.control.chunks);
            if !written? {
                return Ok(());
            }
        }
        if !self.through_quic {
            return self.finish(quic);
        }
        self.control.write(quic)?;
        if self.small.id.is_none() && !self.small.chunks.is_empty() {
            self.small.id = quic.streams().open(Dir::Uni);
            if let Some(id) = self.small.id {
                let _ = quic.send_stream(id).set_priority(1);
            }
        }
        self.small.write(quic)?;
        while let Some(first) = self.bulk.front_mut() {
            if first.id.is_none() {
                first.id = quic.streams().open(Dir::Uni);
            }
            let Some(id) = first.id else { break };
            if !first.write(quic)? {
                break;
            }
            quic.send_stream(id).finish().map_err(|_| stopped())?;
            self.unconfirmed += 1;
            self.bulk.pop_front();
        }
        self.finish(quic)
    }

    /// Writes into a lane what it takes, about `budget` bytes; whether there is more that it would take.
    pub(super) fn write_lane(
        &mut self,
        lane: &mut Lane<Memory>,
        bell: &Bell,
        mut budget: usize,
    ) -> Result<bool, Fault> {
        loop {
            let (class, queue) = if !self.control.chunks.is_empty() {
                (Class::Control, &mut self.control)
            } else if !self.small.chunks.is_empty() {
                (Class::Small, &mut self.small)
            } else if let Some(first) = self.bulk.front_mut() {
                (Class::Bulk, first)
            } else {
                return Ok(false);
            };
            if budget == 0 {
                return Ok(true);
            }
            match lane.put(class, &mut queue.chunks, bell)? {
                Put::Full => return Ok(false),
                Put::Written(n) => budget = budget.saturating_sub(n),
            }
            if class == Class::Bulk && queue.chunks.is_empty() {
                self.bulk.pop_front();
            }
        }
    }

    /// Ends the streams that nothing comes for any more.
    fn finish(&mut self, quic: &mut Connection) -> Result<(), Fault> {
        if self.ends {
            for queue in [&mut self.control, &mut self.small] {
                if queue.chunks.is_empty()
                    && let Some(id) = queue.id.take()
                {
                    quic.send_stream(id).finish().map_err(|_| stopped())?;
                    self.unconfirmed += 1;
                }
            }
        }
        Ok(())
    }

    /// Nothing is sent any more but what is queued.
    pub(super) fn end(&mut self) {
        self.ends = true;
    }

    /// The peer has all of a stream that was written to its end.
    pub(super) fn confirmed(&mut self) {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
    }

    /// Whether the end has been reached and the peer has everything.
    pub(super) fn has_ended(&self) -> bool {
        let written = |q: &Queue| q.id.is_none() && q.chunks.is_empty();
        self.ends && self.unconfirmed == 0 && self.bulk.is_empty() && written(&self.control) && written(&self.small)
    }

    /// Drops everything that has not been handed to QUIC.
    pub(super) fn clear(&mut self) {
        *self = Outgoing::default();
    }
}

/// What is coming in.
#[derive(Default)]
pub(super) struct Incoming {
    decoders: HashMap<StreamId, Decoder>,
    readable: VecDeque<StreamId>,
}

impl Incoming {
    pub(super) fn readable(&mut self, id: StreamId) {
        if !self.readable.contains(&id) {
            self.readable.push_back(id);
        }
    }

    /// Drops what has come in part: users may hold the connection for long after its end.
    pub(super) fn clear(&mut self, intake: &mut Intake) {
        self.readable.clear();
        self.decoders.drain().for_each(|(_, decoder)| decoder.abandon(intake));
    }

    /// Whether a frame has come in part.
    pub(super) fn is_within_a_frame(&self) -> bool {
        self.decoders.values().any(|d| !d.is_between_frames())
    }

    /// The next stream that can be read; before the peer is known, only the control stream is.
    pub(super) fn next(&mut self, known: bool) -> Option<StreamId> {
        let at = self.readable.iter().position(|id| known || id.dir() == Dir::Bi)?;
        self.readable.remove(at)
    }

    /// Reads what has come on a stream and gives every frame to `each`; the bytes read.
    pub(super) fn read(
        &mut self,
        quic: &mut Connection,
        id: StreamId,
        intake: &mut Intake,
        mut each: impl FnMut(Frame),
    ) -> Result<u64, Fault> {
        let mut stream = quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else {
            return Ok(0);
        };
        let decoder = self.decoders.entry(id).or_default();
        let mut count = 0;
        let result = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    let mut bytes = chunk.bytes;
                    count += bytes.len() as u64;
                    let fault = loop {
                        match decoder.push(&mut bytes, intake) {
                            Ok(Some(frame)) => each(frame),
                            Ok(None) => break None,
                            Err(fault) => break Some(fault),
                        }
                    };
                    if let Some(fault) = fault {
                        break Err(fault);
                    }
                }
                Ok(None) if decoder.is_between_frames() => break Ok(true),
                Ok(None) => break Err(Fault::Malformed("a stream ends within a frame".to_owned())),
                Err(ReadError::Blocked) => break Ok(false),
                Err(ReadError::Reset(_)) => {
                    break Err(Fault::Malformed("a stream was given up by its sender".to_owned()));
                }
            }
        };
        // What has to be sent because of the reading is sent with everything else.
        let _ = chunks.finalize();
        if !matches!(result, Ok(false))
            && let Some(decoder) = self.decoders.remove(&id)
        {
            decoder.abandon(intake);
            if result.is_err() {
                let _ = quic.recv_stream(id).stop(VarInt::from_u32(0));
            }
        }
        result.map(|_| count)
    }
}
