//! A slow network: relays that pass datagrams on, both ways, after a while.
//!
//! A task that is far away is told addresses of relays instead of those of the others, and the others are told that of a
//! relay instead of its own. What is encrypted stays so; a relay knows datagrams only.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use actorflow::Result;

/// How often a relay looks whether it is over.
const LOOK: Duration = Duration::from_millis(100);
/// The largest datagram.
const LARGEST: usize = 65536;

/// A datagram on its way.
struct Flight {
    due: Instant,
    number: u64,
    bytes: Vec<u8>,
    from: Arc<UdpSocket>,
    /// Where to; a connected socket knows.
    to: Option<SocketAddr>,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Flight) -> bool {
        self.number == other.number
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Flight) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Flight) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// All relays of a run.
pub(super) struct Relays {
    over: Arc<AtomicBool>,
    queue: Sender<Flight>,
    known: HashMap<(SocketAddr, Duration), SocketAddr>,
}

impl Relays {
    /// None yet.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn new() -> Result<Relays> {
        let (queue, flights) = channel();
        std::thread::Builder::new()
            .name("actorflow-relay".into())
            .spawn(move || fly(&flights))?;
        Ok(Relays {
            over: Arc::default(),
            queue,
            known: HashMap::new(),
        })
    }

    /// The address at which what is sent reaches `target` later, and what that answers comes back later.
    ///
    /// # Errors
    /// If there can be no socket or thread.
    pub(super) fn to(&mut self, target: SocketAddr, delay: Duration) -> Result<SocketAddr> {
        if let Some(known) = self.known.get(&(target, delay)) {
            return Ok(*known);
        }
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0")?);
        front.set_read_timeout(Some(LOOK))?;
        let addr = front.local_addr()?;
        let relay = Relay {
            front,
            target,
            delay,
            over: self.over.clone(),
            queue: self.queue.clone(),
        };
        std::thread::Builder::new()
            .name("actorflow-relay".into())
            .spawn(move || relay.run())?;
        self.known.insert((target, delay), addr);
        Ok(addr)
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Sends datagrams when they are due, until nobody can add one.
fn fly(flights: &Receiver<Flight>) {
    let mut waiting: BinaryHeap<Reverse<Flight>> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while waiting.peek().is_some_and(|f| f.0.due <= now) {
            let Some(Reverse(f)) = waiting.pop() else { break };
            // Datagrams may be lost; whoever misses one sends it again.
            let _ = match f.to {
                Some(to) => f.from.send_to(&f.bytes, to),
                None => f.from.send(&f.bytes),
            };
        }
        let left = waiting
            .peek()
            .map_or(LOOK, |f| f.0.due.saturating_duration_since(Instant::now()));
        match flights.recv_timeout(left) {
            Ok(f) => waiting.push(Reverse(f)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// One of them.
struct Relay {
    front: Arc<UdpSocket>,
    target: SocketAddr,
    delay: Duration,
    over: Arc<AtomicBool>,
    queue: Sender<Flight>,
}

impl Relay {
    /// Passes on what comes to the front, from a socket for each sender, and what comes back there.
    fn run(self) {
        let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let front = self.front.clone();
        self.receive(&front, |sender, bytes| {
            let back = match backs.get(&sender) {
                Some(back) => back.clone(),
                None => {
                    let back = Arc::new(self.back(sender)?);
                    backs.insert(sender, back.clone());
                    back
                }
            };
            Ok((back, None, bytes))
        });
    }

    fn back(&self, sender: SocketAddr) -> std::io::Result<UdpSocket> {
        let back = UdpSocket::bind("127.0.0.1:0")?;
        back.connect(self.target)?;
        back.set_read_timeout(Some(LOOK))?;
        let (listening, relay) = (Arc::new(back.try_clone()?), self.same());
        std::thread::Builder::new()
            .name("actorflow-relay".into())
            .spawn(move || {
                let front = relay.front.clone();
                relay.receive(&listening, |_, bytes| Ok((front.clone(), Some(sender), bytes)));
            })?;
        Ok(back)
    }

    fn same(&self) -> Relay {
        Relay {
            front: self.front.clone(),
            over: self.over.clone(),
            queue: self.queue.clone(),
            ..*self
        }
    }

    fn receive(
        &self,
        socket: &UdpSocket,
        mut onward: impl FnMut(SocketAddr, Vec<u8>) -> std::io::Result<(Arc<UdpSocket>, Option<SocketAddr>, Vec<u8>)>,
    ) {
        let mut buffer = vec![0; LARGEST];
        let mut number = 0;
        while !self.over.load(Ordering::Relaxed) {
            let (n, sender) = match socket.recv_from(&mut buffer) {
                Ok(got) => got,
                // The target is not there yet, or no more.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
                    ) =>
                {
                    continue;
                }
                Err(_) => return,
            };
            let due = Instant::now() + self.delay;
            let Ok((from, to, bytes)) = onward(sender, buffer[..n].to_vec()) else {
                return;
            };
            number += 1;
            let flight = Flight {
                due,
                number,
                bytes,
                from,
                to,
            };
            if self.queue.send(flight).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_relayed_arrives_later_and_is_answered_later() {
        let delay = Duration::from_millis(30);
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut relays = Relays::new().unwrap();
        let addr = relays.to(target.local_addr().unwrap(), delay).unwrap();
        assert_eq!(relays.to(target.local_addr().unwrap(), delay).unwrap(), addr);
        let senders: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let begun = Instant::now();
        for (i, s) in senders.iter().enumerate() {
            s.send_to(&[i as u8, 7], addr).unwrap();
        }
        let mut buffer = [0; 16];
        for _ in &senders {
            let (n, from) = target.recv_from(&mut buffer).unwrap();
            target.send_to(&buffer[..n], from).unwrap();
        }
        assert!(begun.elapsed() >= delay);
        for (i, s) in senders.iter().enumerate() {
            let (n, _) = s.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..n], [i as u8, 7]);
        }
        assert!(begun.elapsed() >= 2 * delay);
    }
}
