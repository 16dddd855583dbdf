//! The UDP socket: datagrams in batches, never blocking.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};

use actorflow_core::{Error, Result};
use bytes::BytesMut;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

/// Asked of the system for each direction; it gives what its administrator allows. Measured: with 4 MiB, which
/// Linux counts as 8, a connection on loopback loses nothing at full speed.
const BUFFER: usize = 32 << 20;

/// The largest datagram.
const DATAGRAM: usize = 64 << 10;

/// Datagrams taken from the system at once.
const BATCH: usize = if BATCH_SIZE < 16 { BATCH_SIZE } else { 16 };

pub(super) struct Socket {
    io: UdpSocket,
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
        Ok(Socket { io, state, local })
    }

    /// The same socket, to be watched.
    pub(super) fn watched(&self) -> Result<mio::net::UdpSocket> {
        Ok(mio::net::UdpSocket::from_std(self.io.try_clone()?))
    }

    /// The size of the receive buffer that the system gave, in bytes.
    pub(super) fn buffer(&self) -> usize {
        self.state.recv_buffer_size(UdpSockRef::from(&self.io)).unwrap_or(0)
    }

    /// Whether datagrams are never cut up on their way, so that the largest size can be searched for.
    pub(super) fn discovers_mtu(&self) -> bool {
        !self.state.may_fragment()
    }

    /// Datagrams that may be given to [`send`](Self::send) at once.
    pub(super) fn segments(&self) -> usize {
        self.state.max_gso_segments()
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
        // Other errors than a full buffer are as good as a datagram that is lost on its way.
        !matches!(self.state.send(UdpSockRef::from(&self.io), &transmit),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Datagrams of at least this many bytes get memory that is used again.
const LARGE: usize = 16 << 10;

/// Pieces of memory that are kept for large datagrams: 8 MiB, twice what is under way on loopback.
const KEPT: usize = 128;

/// Memory into which datagrams are received.
pub(super) struct Inbox {
    memory: Vec<u8>,
    meta: Vec<RecvMeta>,
    kept: VecDeque<BytesMut>,
}

/// A copy of a datagram that its connection can keep. Large ones go into memory of earlier ones that nobody refers to
/// any more. Fresh memory would have to be faulted in.
fn copy(kept: &mut VecDeque<BytesMut>, data: &[u8]) -> BytesMut {
    if data.len() < LARGE {
        return data.into();
    }
    let mut memory = match kept.pop_front() {
        Some(mut oldest) => {
            if oldest.try_reclaim(data.len()) {
                oldest
            } else {
                if kept.len() < KEPT {
                    kept.push_back(oldest);
                }
                BytesMut::with_capacity(DATAGRAM)
            }
        }
        None => BytesMut::with_capacity(DATAGRAM),
    };
    memory.extend_from_slice(data);
    let datagram = memory.split();
    kept.push_back(memory);
    datagram
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
            memory: vec![0; DATAGRAM * BATCH],
            meta: vec![RecvMeta::default(); BATCH],
            kept: VecDeque::new(),
        }
    }

    /// No memory, to be put in the place of an inbox that is in use.
    pub(super) fn empty() -> Inbox {
        Inbox {
            memory: Vec::new(),
            meta: Vec::new(),
            kept: VecDeque::new(),
        }
    }

    /// Takes what has come and gives each datagram to `each`; how many there were. None only if nothing has come.
    pub(super) fn receive(&mut self, socket: &Socket, mut each: impl FnMut(Datagram)) -> usize {
        let mut slices: Vec<IoSliceMut<'_>> = self.memory.chunks_mut(DATAGRAM).map(IoSliceMut::new).collect();
        let received = loop {
            match socket
                .state
                .recv(UdpSockRef::from(&socket.io), &mut slices, &mut self.meta)
            {
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Of an earlier datagram that nobody took; what has come since is still there.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(_) => break 0,
            }
        };
        let mut count = 0;
        for (meta, memory) in self.meta.iter().zip(self.memory.chunks(DATAGRAM)).take(received) {
            for data in memory[..meta.len.min(DATAGRAM)].chunks(meta.stride.max(1)) {
                count += 1;
                each(Datagram {
                    from: meta.addr,
                    to: meta.dst_ip,
                    ecn: meta.ecn.and_then(|e| EcnCodepoint::from_bits(e as u8)),
                    data: copy(&mut self.kept, data),
                });
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
        let mut kept = VecDeque::new();
        let data = vec![7u8; 50_000];
        let held = copy(&mut kept, &data);
        let second = copy(&mut kept, &data);
        assert_eq!((held.len(), held[0], kept.len()), (50_000, 7, 2));
        let at = second.as_ptr();
        drop(second);
        // The oldest is still held and goes to the back; the next one to come takes the free one.
        let _third = copy(&mut kept, &data);
        let fourth = copy(&mut kept, &vec![8u8; 60_000]);
        assert_eq!((fourth.as_ptr(), fourth[59_999], held[49_999]), (at, 8, 7));
    }
}
