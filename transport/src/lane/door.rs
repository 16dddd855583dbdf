//! How the memory of a lane gets from one process to the other, and the bell between them.
//!
//! A Unix socket does both: it can carry an open file, and a byte through it wakes who waits for it. When a process ends, its
//! end of the socket closes, which tells the other at once what silence would tell it after seconds.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;

use mio::{Interest, Registry, Token};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, send, sendmsg,
};
use subtle::ConstantTimeEq;

pub(crate) use super::memory::Memory;
use super::{Key, PROOF};

/// Callers at a door that have not shown a proof yet. For a new one the oldest goes, of another user if there is one.
const CALLERS: usize = 8;

fn address(key: &Key) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(key.name())
}

/// The side that was dialed waits here for the memory.
#[derive(Debug)]
pub(crate) struct Door {
    listener: mio::net::UnixListener,
    callers: Vec<mio::net::UnixStream>,
}

impl Door {
    /// Listens at the key's name.
    pub(crate) fn open(key: &Key, registry: &Registry, token: Token) -> io::Result<Door> {
        let listener = UnixListener::bind_addr(&address(key)?)?;
        listener.set_nonblocking(true)?;
        let mut listener = mio::net::UnixListener::from_std(listener);
        registry.register(&mut listener, token, Interest::READABLE)?;
        Ok(Door {
            listener,
            callers: Vec::new(),
        })
    }

    /// What the peer has brought, if it has been here.
    pub(crate) fn accept(&mut self, key: &Key, registry: &Registry, token: Token) -> Option<(Arc<Memory>, Bell)> {
        while let Ok((mut caller, _)) = self.listener.accept() {
            if registry.register(&mut caller, token, Interest::READABLE).is_err() {
                continue;
            }
            if self.callers.len() == CALLERS {
                let stranger = self.callers.iter().position(|c| !is_of_this_user(c));
                self.callers.remove(stranger.unwrap_or(0));
            }
            self.callers.push(caller);
        }
        let mut at = 0;
        while at < self.callers.len() {
            match take_in(&self.callers[at], key) {
                Ok(memory) => return Some((Arc::new(memory), Bell(self.callers.swap_remove(at)))),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => at += 1,
                Err(_) => drop(self.callers.swap_remove(at)),
            }
        }
        None
    }
}

fn is_of_this_user(caller: &mio::net::UnixStream) -> bool {
    socket_peercred(caller).is_ok_and(|c| c.uid == rustix::process::geteuid())
}

/// Reads proof and memory from a caller.
fn take_in(caller: &mio::net::UnixStream, key: &Key) -> io::Result<Memory> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut proof = [0; PROOF];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut proof)];
    let got = recvmsg(caller, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file = files.flatten().next();
    if got != PROOF || !bool::from(proof[..].ct_eq(key.proof())) {
        return Err(refused("no proof"));
    }
    Memory::open(&File::from(file.ok_or_else(|| refused("no memory"))?))
}

/// Brings memory to the peer's door.
///
/// # Errors
/// There is no such door, as on another machine, or no memory.
pub(crate) fn dial(key: &Key, registry: &Registry, token: Token) -> io::Result<(Arc<Memory>, Bell)> {
    // Never blocks: where too many others call, there is no door either.
    let mut stream = mio::net::UnixStream::connect_addr(&address(key)?)?;
    registry.register(&mut stream, token, Interest::READABLE)?;
    let (memory, file) = Memory::create()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    let sent = sendmsg(&stream, &[IoSlice::new(key.proof())], &mut control, SendFlags::NOSIGNAL)?;
    if sent != PROOF {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok((Arc::new(memory), Bell(stream)))
}

/// The bell between two sides.
#[derive(Debug)]
pub(crate) struct Bell(mio::net::UnixStream);

impl Bell {
    /// Wakes the other side. If it has been rung so often that the socket is full, it need not be.
    pub(crate) fn ring(&self) {
        let _ = send(&self.0, &[0], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }

    /// Takes back what has been rung; false if the other side is gone.
    pub(crate) fn quiet(&mut self) -> bool {
        let mut rung = [0; 256];
        loop {
            match self.0.read(&mut rung) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}
