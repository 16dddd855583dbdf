//! The UDP socket: datagrams in batches, never blocking.
#![forbid(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};

use actorflow_core::{Error, Result};
use bytes::BytesMut;
use parking_lot::RwLock;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

/// Asked of the system for each direction; it gives what its administrator allows. Measured: with 4 MiB, which
/// Linux counts as 8, a connection on loopback loses nothing at full speed.
const BUFFER: usize = 32 << 20;

/// Bytes that the system sends at once: a packet of IP holds 65,535, headers included.
const ONE_SEND: usize = 65_000;

/// The largest datagram.
const DATAGRAM: usize = 64 << 10;

/// Datagrams taken from the system at once: so few that large ones are still in the core's own cache when they are read. Measured:
/// with 2 to 16 a connection on loopback carries the same, because its sender is what binds; fewer take less memory.
pub(super) const BATCH: usize = if BATCH_SIZE < 4 { BATCH_SIZE } else { 4 };

pub(super) struct Socket {
    /// None once it is closed: then others may have its port, whoever still holds this.
    io: RwLock<Option<UdpSocket>>,
    state: UdpSocketState,
    pub(super) local: SocketAddr,
}

impl Socket {
    pub(super) fn bind(addr: SocketAddr) -> Result<Socket> {
        let at = |e: io::Error| Error::from(e).context(format_args!("cannot bind the UDP address {addr}"));
        let raw = RawSocket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP)).map_err(at)?;
        if addr.is_ipv6() {
            // One socket for both families where the system can; it is no error where it cannot.
            let _ = raw.set_only_v6(false);
        }
        raw.bind(&addr.into()).map_err(at)?;
        let _ = raw.set_recv_buffer_size(BUFFER);
        let _ = raw.set_send_buffer_size(BUFFER);
        let io: UdpSocket = raw.into();
        io.set_nonblocking(true).map_err(at)?;
        let local = io.local_addr().map_err(at)?;
        let state = UdpSocketState::new(UdpSockRef::from(&io)).map_err(at)?;
        Ok(Socket {
            io: RwLock::new(Some(io)),
            state,
            local,
        })
    }

    /// Gives the port back. What is sent from now on is lost, and nothing comes any more.
    pub(super) fn close(&self) {
        *self.io.write() = None;
    }

    /// The same socket, to be watched.
    pub(super) fn watched(&self) -> Result<mio::net::UdpSocket> {
        let io = self.io.read();
        let io = io
            .as_ref()
            .ok_or_else(|| Error::unavailable("the endpoint is closed"))?;
        Ok(mio::net::UdpSocket::from_std(io.try_clone()?))
    }

    /// The size of the receive buffer that the system gave, in bytes.
    pub(super) fn buffer(&self) -> usize {
        let io = self.io.read();
        let size = |io| self.state.recv_buffer_size(UdpSockRef::from(io)).ok();
        io.as_ref().and_then(size).unwrap_or(0)
    }

    /// Whether datagrams are never cut up on their way, so that the largest size can be searched for.
    pub(super) fn discovers_mtu(&self) -> bool {
        !self.state.may_fragment()
    }

    /// Datagrams of `size` bytes that may be given to [`send`](Self::send) at once: the system counts them, and takes no
    /// more bytes than in one datagram of the largest size.
    pub(super) fn segments(&self, size: u16) -> usize {
        let bytes = ONE_SEND / usize::from(size).max(1);
        self.state.max_gso_segments().min(bytes).max(1)
    }

    /// Sends a datagram, or several of one size; false if the system has no room for it now.
    pub(super) fn send(&self, transmit: &Transmit, contents: &[u8]) -> bool {
        let transmit = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|e| quinn_udp::EcnCodepoint::from_bits(e as u8)),
            contents: contents.get(..transmit.size).unwrap_or(contents),
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let io = self.io.read();
        let Some(io) = io.as_ref() else { return true };
        // Other errors than a full buffer are as good as a datagram that is lost on its way.
        !matches!(self.state.send(UdpSockRef::from(io), &transmit),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Datagrams of at least this many bytes keep the memory that they were received in; smaller ones are copied out of it.
const LARGE: usize = 16 << 10;

/// Pieces of memory that are kept for large datagrams: 8 MiB, twice what is under way on loopback.
const KEPT: usize = 128;

/// Memory into which datagrams are received: a large one stays where the system has put it, and its memory is used again
/// once nobody refers to it any more. Fresh memory would have to be faulted in.
pub(super) struct Inbox {
    /// Each of [`DATAGRAM`] bytes.
    slots: Vec<BytesMut>,
    /// What is left of slots behind the datagrams that were taken out of them; the last ones are used first, because
    /// they are still in the processor's cache.
    spent: Vec<BytesMut>,
    meta: Vec<RecvMeta>,
}

/// A datagram.
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: Option<std::net::IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) data: BytesMut,
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        Inbox {
            slots: Vec::with_capacity(BATCH),
            spent: Vec::new(),
            meta: vec![RecvMeta::default(); BATCH],
        }
    }

    /// No memory, to be put in the place of an inbox that is in use.
    pub(super) fn empty() -> Inbox {
        Inbox {
            slots: Vec::new(),
            spent: Vec::new(),
            meta: Vec::new(),
        }
    }

    /// A slot that nobody refers to.
    fn slot(&mut self) -> BytesMut {
        for at in (0..self.spent.len()).rev() {
            let spent = &mut self.spent[at];
            spent.clear();
            if spent.try_reclaim(DATAGRAM) {
                let mut slot = self.spent.swap_remove(at);
                slot.resize(DATAGRAM, 0);
                return slot;
            }
        }
        BytesMut::zeroed(DATAGRAM)
    }

    /// Takes a datagram of `len` bytes out of the slot at `at`, which has to be filled again.
    fn take(&mut self, at: usize, len: usize) -> BytesMut {
        let mut slot = std::mem::take(&mut self.slots[at]);
        let datagram = slot.split_to(len.min(slot.len()));
        if self.spent.len() < KEPT {
            self.spent.push(slot);
        }
        datagram
    }

    /// Sees to it that every slot has memory.
    fn refill(&mut self) {
        self.slots.resize_with(BATCH, BytesMut::new);
        for at in 0..BATCH {
            if self.slots[at].len() < DATAGRAM {
                self.slots[at] = self.slot();
            }
        }
    }

    /// Takes what has come and gives each datagram to `each`; how many there were. None only if nothing has come.
    pub(super) fn receive(&mut self, socket: &Socket, mut each: impl FnMut(Datagram)) -> usize {
        self.refill();
        let mut slices: Vec<IoSliceMut<'_>> = self.slots.iter_mut().map(|s| IoSliceMut::new(s)).collect();
        let io = socket.io.read();
        let received = loop {
            let Some(io) = io.as_ref() else { break 0 };
            match socket.state.recv(UdpSockRef::from(io), &mut slices, &mut self.meta) {
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Of an earlier datagram that nobody took; what has come since is still there.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(_) => break 0,
            }
        };
        drop(io);
        let mut count = 0;
        for at in 0..received.min(BATCH) {
            let meta = self.meta[at];
            let len = meta.len.min(DATAGRAM);
            let mut give = |data| {
                count += 1;
                each(Datagram {
                    from: meta.addr,
                    to: meta.dst_ip,
                    ecn: meta.ecn.and_then(|e| EcnCodepoint::from_bits(e as u8)),
                    data,
                });
            };
            if len >= LARGE && meta.stride >= len {
                give(self.take(at, len));
            } else {
                let memory = &self.slots[at][..len];
                memory.chunks(meta.stride.max(1)).for_each(|data| give(data.into()));
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_large_datagrams_is_used_again_only_when_nobody_refers_to_it() {
        let mut inbox = Inbox::new();
        inbox.refill();
        inbox.slots[0].fill(7);
        let held = inbox.take(0, 50_000);
        inbox.slots[1].fill(8);
        let second = inbox.take(1, 60_000);
        assert_eq!(
            (held.len(), held[0], second.len(), second[59_999]),
            (50_000, 7, 60_000, 8)
        );
        let at = second.as_ptr();
        drop(second);
        inbox.refill();
        let again: Vec<bool> = inbox.slots.iter().map(|s| s.as_ptr() == at).collect();
        assert_eq!(again.iter().filter(|a| **a).count(), 1, "{again:?}");
        assert!(
            inbox
                .slots
                .iter()
                .all(|s| s.len() == DATAGRAM && s.as_ptr() != held.as_ptr())
        );
        inbox.slots.iter_mut().for_each(|s| s.fill(9));
        assert!(held.iter().all(|b| *b == 7));
    }

    #[test]
    fn as_many_datagrams_as_may_be_sent_at_once_are_sent() {
        let to = Socket::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let from = Socket::bind(([127, 0, 0, 1], 0).into()).unwrap();
        for size in [1200u16, 1470, 8952, 60_000] {
            let n = from.segments(size);
            let transmit = Transmit {
                destination: to.local,
                ecn: None,
                size: n * usize::from(size),
                segment_size: (n > 1).then_some(usize::from(size)),
                src_ip: None,
            };
            // An error of the system would be taken for a loss on the way.
            assert!(from.send(&transmit, &vec![7; transmit.size]));
            let (mut inbox, mut got) = (Inbox::new(), 0);
            while got < n {
                inbox.receive(&to, |d| {
                    assert_eq!(d.data.len(), usize::from(size));
                    got += 1;
                });
            }
        }
    }

    #[test]
    fn a_large_datagram_stays_where_it_was_received_and_small_ones_leave_the_slot_as_it_is() {
        let socket = Socket::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sizes = [60_000usize, 100, 20_000];
        for (n, size) in sizes.into_iter().enumerate() {
            sender.send_to(&vec![n as u8; size], socket.local).unwrap();
        }
        let (mut inbox, mut got) = (Inbox::new(), Vec::new());
        inbox.refill();
        let places: Vec<*const u8> = inbox.slots.iter().map(|s| s.as_ptr()).collect();
        while got.len() < sizes.len() {
            inbox.receive(&socket, |d| got.push(d.data));
        }
        for (n, size) in sizes.into_iter().enumerate() {
            assert!(got[n].len() == size && got[n].iter().all(|b| usize::from(*b) == n));
            assert_eq!(places.contains(&got[n].as_ptr()), size >= LARGE);
        }
    }
}
