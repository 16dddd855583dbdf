//! What a peer may use, and how long anything may take.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::frame::MAX_HEADER;

/// Bounds on what one connection may use. Each side enforces its own on what it receives and is told the other's in
/// the first exchange, so that it can keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message's own header; at most [`MAX_HEADER`].
    pub header: usize,
    /// Bytes of a message: header, blob and tensors together.
    pub message: usize,
    /// Bytes of one tensor.
    pub tensor: usize,
    /// Bytes of parcels and large messages that may be under way to this side at once. The last one admitted may
    /// exceed it, so that a tensor larger than the window still passes.
    pub in_flight_bytes: usize,
    /// Parcels and large messages that may be under way to this side at once.
    pub in_flight: usize,
    /// Large messages and parcels that wait at the sender for room while nobody waits for them there; beyond it, one more
    /// is refused. Those with a continuation wait without a limit: their sender holds them anyhow.
    pub parked: usize,
    /// As `parked`, in bytes; the last one may exceed it. Small requests that the peer is not known to have read have as
    /// much again.
    pub parked_bytes: usize,
    /// Requests without an answer yet, in each direction.
    pub pending_requests: usize,
    /// Streams of large values that the peer may have open at once.
    pub streams: usize,
    /// Bytes of memory that frames of one peer that have come in part may hold together, over all its connections.
    pub unfinished: usize,
    /// Connections of an endpoint whose frames go through memory that it shares with a peer on the same machine, 2 MiB each;
    /// beyond it they go through QUIC, and with 0 all do.
    pub lanes: usize,
    /// Further connections to a peer on another machine, over which large parcels are spread (striped): each has a
    /// congestion window of its own, an n-th part of `in_flight_bytes` if there are n, and a thread that sends, as far as the
    /// endpoint has some. With 0 there are none. They are made when the first large parcel is sent or has come, unless half of
    /// `connections` are open.
    pub stripes: usize,
    /// Bytes of parcels of one member, over all its connections, that a task holds for steps which have not begun there; the
    /// first of them may exceed it.
    pub early_bytes: usize,
    /// Connections of an endpoint.
    pub connections: usize,
    /// Connections that one address (of IPv6, one network of 64 bits) may have made to an endpoint, those that are ending
    /// included. Less than `connections`, so that one machine cannot take them all.
    pub connections_per_address: usize,
    /// Connections that one member, by its certificate's subject, may have made to an endpoint.
    pub connections_per_member: usize,
    /// Handshakes that an endpoint carries out at once for others.
    pub handshakes: usize,
    /// Handshakes that an endpoint carries out at once for one address. Less than `handshakes`, as above.
    pub handshakes_per_address: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            header: MAX_HEADER,
            message: 1 << 30,
            tensor: 16 << 30,
            in_flight_bytes: 256 << 20,
            in_flight: 16 << 10,
            parked: 64 << 10,
            parked_bytes: 256 << 20,
            pending_requests: 16 << 10,
            streams: 256,
            unfinished: 32 << 30,
            lanes: 64,
            stripes: 3,
            early_bytes: 4 << 30,
            connections: 1024,
            connections_per_address: 768,
            connections_per_member: 128,
            handshakes: 256,
            handshakes_per_address: 64,
        }
    }
}

impl Limits {
    /// Threads for an endpoint: with cores to spare, some that send over the stripes while one receives.
    pub fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        1 + self.stripes.min(cores / 4)
    }

    /// These limits where what arrives is put into a pool with so many bytes, so that one peer cannot have all of them:
    /// a message or a tensor takes at most a half, what is under way to this side, parked, or early a quarter, and what has
    /// come of unfinished frames of one peer five eighths (a tensor, and an eighth of it that is being moved).
    pub fn within(self, budget: usize) -> Limits {
        Limits {
            message: self.message.min(budget / 2),
            tensor: self.tensor.min(budget / 2),
            in_flight_bytes: self.in_flight_bytes.min(budget / 4),
            parked_bytes: self.parked_bytes.min(budget / 4),
            unfinished: self.unfinished.min(budget / 8 * 5),
            early_bytes: self.early_bytes.min(budget / 4),
            ..self
        }
    }
}

/// How long anything may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After this long without a word, one is sent.
    pub keep_alive: Duration,
    /// After this long without hearing from the peer, it is lost.
    pub idle: Duration,
    /// From the first packet to the end of the exchange of hellos.
    pub handshake: Duration,
    /// A parcel that has waited this long for room at a peer that takes nothing fails.
    pub stall: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            keep_alive: Duration::from_secs(1),
            idle: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            stall: Duration::from_secs(10),
        }
    }
}
