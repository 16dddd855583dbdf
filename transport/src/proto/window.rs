//! Room at the receiver: what is under way, what is parked, and what has been delivered.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::Time;
use crate::frame::{Body, Credit, Frame};

/// A frame that waits for room.
#[derive(Debug)]
pub(super) struct Parked<K> {
    pub(super) frame: Frame,
    pub(super) bytes: u64,
    pub(super) then: Option<K>,
}

impl<K> Parked<K> {
    /// Whether nobody waits for it on this side. A request has a continuation of its own.
    fn is_loose(&self) -> bool {
        self.then.is_none() && !matches!(self.frame.body, Body::Request { .. })
    }
}

/// The sender's side of the peer's window. Counts are totals since the connection began, so that a lost or repeated
/// reading of them does no harm.
#[derive(Debug)]
pub(super) struct Outbound<K> {
    sent: Credit,
    granted: Credit,
    window: Credit,
    parked: VecDeque<Parked<K>>,
    /// Bytes of all that is parked.
    bytes: u64,
    /// What of it nobody waits for.
    loose: Credit,
    /// When room was last given, or the first frame parked.
    progress: Time,
}

impl<K> Outbound<K> {
    /// No room until the peer has said how much there is.
    pub(super) fn new() -> Outbound<K> {
        Outbound {
            sent: Credit::default(),
            granted: Credit::default(),
            window: Credit::default(),
            parked: VecDeque::new(),
            bytes: 0,
            loose: Credit::default(),
            progress: Time::ZERO,
        }
    }

    pub(super) fn open(&mut self, window: Credit, now: Time) {
        self.window = window;
        self.progress = now;
    }

    /// Whether one more may leave. The last one may exceed the window in bytes: a value larger than it must pass too.
    pub(super) fn has_room(&self) -> bool {
        self.sent.frames - self.granted.frames < self.window.frames
            && self.sent.bytes - self.granted.bytes < self.window.bytes
    }

    pub(super) fn take(&mut self, bytes: u64) {
        self.sent.frames += 1;
        self.sent.bytes = self.sent.bytes.saturating_add(bytes);
    }

    pub(super) fn park(&mut self, parked: Parked<K>, now: Time) {
        if self.parked.is_empty() {
            self.progress = now;
        }
        self.bytes = self.bytes.saturating_add(parked.bytes);
        if parked.is_loose() {
            self.loose.frames += 1;
            self.loose.bytes = self.loose.bytes.saturating_add(parked.bytes);
        }
        self.parked.push_back(parked);
    }

    /// How many frames are parked.
    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Their bytes.
    pub(super) fn parked_bytes(&self) -> u64 {
        self.bytes
    }

    /// How many frames are parked that nobody waits for, and their bytes.
    pub(super) fn loose(&self) -> Credit {
        self.loose
    }

    /// The frame that is parked longest.
    pub(super) fn front(&self) -> Option<&Frame> {
        self.parked.front().map(|p| &p.frame)
    }

    /// Takes the frame that is parked longest out, whether there is room for it or not.
    pub(super) fn pop(&mut self) -> Option<Parked<K>> {
        let parked = self.parked.pop_front()?;
        self.bytes = self.bytes.saturating_sub(parked.bytes);
        if parked.is_loose() {
            self.loose.frames = self.loose.frames.saturating_sub(1);
            self.loose.bytes = self.loose.bytes.saturating_sub(parked.bytes);
        }
        Some(parked)
    }

    /// Takes the peer's word on what it has delivered; false if that cannot be.
    pub(super) fn grant(&mut self, credit: Credit, now: Time) -> bool {
        let grows = credit.frames >= self.granted.frames && credit.bytes >= self.granted.bytes;
        if !grows || credit.frames > self.sent.frames || credit.bytes > self.sent.bytes {
            return false;
        }
        self.granted = credit;
        self.progress = now;
        true
    }

    /// The next parked frame, if there is room for it.
    pub(super) fn unpark(&mut self) -> Option<Parked<K>> {
        if !self.has_room() {
            return None;
        }
        let parked = self.pop()?;
        self.take(parked.bytes);
        Some(parked)
    }

    /// Since when parked frames have waited without any progress.
    pub(super) fn stalled_since(&self) -> Option<Time> {
        (!self.parked.is_empty()).then_some(self.progress)
    }
}

/// The receiver's side of its own window.
#[derive(Debug)]
pub(super) struct Inbound {
    window: Credit,
    received: Credit,
    delivered: Credit,
    granted: Credit,
    /// Bytes by which the last frame may exceed the window.
    excess: u64,
}

impl Inbound {
    pub(super) fn new(window: Credit, excess: u64) -> Inbound {
        Inbound {
            window,
            received: Credit::default(),
            delivered: Credit::default(),
            granted: Credit::default(),
            excess,
        }
    }

    /// Notes a frame that has come; false if the peer had no room for it.
    pub(super) fn receive(&mut self, bytes: u64) -> bool {
        self.received.frames += 1;
        self.received.bytes = self.received.bytes.saturating_add(bytes);
        let out = self.received.bytes - self.granted.bytes;
        self.received.frames - self.granted.frames <= self.window.frames
            && out <= self.window.bytes.saturating_add(self.excess)
    }

    /// Notes that a frame has been delivered, and says what to tell the peer, if it is time: after each quarter of the
    /// window, so that a sender with a full one always gets room and small frames cost no answer each.
    pub(super) fn deliver(&mut self, bytes: u64) -> Option<Credit> {
        self.delivered.frames += 1;
        self.delivered.bytes = self.delivered.bytes.saturating_add(bytes);
        let due = self.delivered.frames - self.granted.frames >= (self.window.frames / 4).max(1)
            || self.delivered.bytes - self.granted.bytes >= (self.window.bytes / 4).max(1);
        due.then(|| {
            self.granted = self.delivered;
            self.granted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credit(frames: u64, bytes: u64) -> Credit {
        Credit { frames, bytes }
    }

    #[test]
    fn a_full_window_always_gets_room_again() {
        for (frames, bytes, size) in [
            (1, 1, 1),
            (1, 1, 100),
            (4, 100, 33),
            (100, 7, 3),
            (8, 1000, 5000),
            (3, 1000, 0),
        ] {
            let mut out = Outbound::<()>::new();
            let mut inb = Inbound::new(credit(frames, bytes), size);
            out.open(credit(frames, bytes), Time::ZERO);
            for _ in 0..1000 {
                assert!(out.has_room(), "{frames} {bytes} {size}");
                out.take(size);
                assert!(inb.receive(size));
                if let Some(c) = inb.deliver(size) {
                    assert!(out.grant(c, Time::ZERO));
                }
            }
        }
    }

    #[test]
    fn room_that_was_never_taken_is_not_believed() {
        let mut out = Outbound::<()>::new();
        out.open(credit(10, 10), Time::ZERO);
        out.take(5);
        assert!(!out.grant(credit(2, 5), Time::ZERO));
        assert!(!out.grant(credit(1, 6), Time::ZERO));
        assert!(out.grant(credit(1, 5), Time::ZERO));
        assert!(!out.grant(credit(0, 0), Time::ZERO));
    }

    #[test]
    fn a_sender_beyond_its_room_is_noticed() {
        let mut inb = Inbound::new(credit(2, 100), 50);
        assert!(inb.receive(10) && inb.receive(140));
        assert!(!inb.receive(1));
        let mut inb = Inbound::new(credit(9, 100), 50);
        assert!(!inb.receive(151));
    }
}
