//! A lane: memory that two processes of one machine share, beside their QUIC connection, for what they send each other.
//!
//! On one machine a byte sent through QUIC is encrypted, copied into a datagram, into the system, out of it, decrypted and
//! copied to where it belongs. Through a lane it is copied twice: into a ring of shared memory by its sender, and out of it by
//! its receiver. The connection itself stays: it is what authenticates the peer, says hello, shows that the peer is there,
//! and ends; everything else that would go through its streams goes through the lane, in the same frames, under the same
//! limits, read by the same decoder.
//!
//! - [`memory`]: a memory file that cannot shrink, mapped; the only `unsafe` code of the crate
//! - [`ring`]: one direction, as a protocol over counters that the other side may set to anything
//! - [`flow`]: both directions, with frames in them
//! - [`door`]: how the memory gets to the peer, and the bell that wakes it
//!
//! # Who may come in
//!
//! Both sides derive a name and a proof from the secrets of their TLS session ([`Key`]). The side that was dialed listens at
//! the name, in the abstract namespace of Unix sockets, which ends where the network namespace does: so a peer that cannot
//! be reached so is on another machine, or in another container, and the connection goes on without a lane. The side that
//! dialed sends the memory with the proof. Whoever is not this peer knows no proof; what it sends is dropped. The name has the UDP port in it at which the one side has dialed the other: where something stands between them
//! that passes datagrams on, they do not meet, so nothing goes past it.
//!
//! # What a peer can do
//!
//! It can write anything into the shared memory at any time. Nothing is read there in place: bytes are copied out and then
//! decoded, as those of a datagram are, and counters are checked against the ring's size each time they are read. The file
//! is sealed, so it cannot be cut short under this side's feet. A lane that breaks its protocol ends the connection.

#[cfg(target_os = "linux")]
mod door;
#[cfg(not(target_os = "linux"))]
#[path = "nowhere.rs"]
mod door;
mod flow;
#[cfg(target_os = "linux")]
mod memory;
mod ring;
#[cfg(test)]
mod tests;

pub(crate) use door::{Bell, Door, Memory, dial};
pub(crate) use flow::{Lane, Put, Received};
pub(crate) use ring::Side;

/// Bytes under way in each direction, at most. A few of them fit the processor's caches, where the copies meet.
pub(crate) const RING: usize = 1 << 20;

/// The label under which TLS exports what a [`Key`] is made of.
pub(crate) const LABEL: &[u8] = b"EXPERIMENTAL actorflow lane 1";

const NAME: usize = 16;
const PROOF: usize = 32;

/// What only the two ends of one TLS session know: where the memory is handed over, and the proof that comes with it.
pub(crate) struct Key {
    secret: [u8; NAME + PROOF],
    port: u16,
}

impl Key {
    /// The key that `export` fills with a session's secrets, for a door at the UDP port `port`; none if it cannot.
    pub(crate) fn export(port: u16, export: impl FnOnce(&mut [u8]) -> bool) -> Option<Key> {
        let mut secret = [0; NAME + PROOF];
        export(&mut secret).then_some(Key { secret, port })
    }

    /// The name of the socket.
    fn name(&self) -> String {
        let digits = self.secret[..NAME].iter().map(|b| format!("{b:02x}"));
        format!("actorflow-{}-{}", self.port, digits.collect::<String>())
    }

    fn proof(&self) -> &[u8] {
        &self.secret[NAME..]
    }
}
