//! A UDP relay that loses, delays and withholds datagrams.
#![allow(dead_code)] // each suite uses a part
#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::{BinaryHeap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What happens to datagrams.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Of a thousand datagrams so many are lost.
    pub(crate) lost_per_mille: u64,
    /// How long each takes, at least.
    pub(crate) delay: Duration,
    /// How much longer some take.
    pub(crate) jitter: Duration,
}

/// Which ways are closed.
#[derive(Default)]
struct Gates {
    inward: AtomicBool,
    outward: AtomicBool,
    over: AtomicBool,
    random: AtomicU64,
    /// Where it leads to.
    target: Mutex<Option<SocketAddr>>,
}

impl Gates {
    /// The next number of a fixed sequence (SplitMix64).
    fn next(&self) -> u64 {
        let mut x = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// A datagram on its way.
struct Flight {
    at: Instant,
    order: u64,
    by: Arc<UdpSocket>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Stands in front of a task.
pub(crate) struct Relay {
    addr: SocketAddr,
    gates: Arc<Gates>,
    threads: Vec<JoinHandle<()>>,
}

const PATIENCE: Duration = Duration::from_millis(20);

impl Relay {
    /// Relays what comes to an address of its own to `target`, and the answers back.
    pub(crate) fn start(target: SocketAddr, weather: Weather, seed: u64) -> Relay {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        front.set_read_timeout(Some(PATIENCE)).unwrap();
        let addr = front.local_addr().unwrap();
        let gates = Arc::new(Gates::default());
        gates.random.store(seed, Relaxed);
        *gates.target.lock().unwrap() = Some(target);
        let (fly, flights) = mpsc::channel::<Flight>();
        let order = Arc::new(AtomicU64::new(0));
        let depart = move |gates: &Gates, by: &Arc<UdpSocket>, to: SocketAddr, bytes: &[u8]| {
            if gates.next() % 1000 < weather.lost_per_mille {
                return;
            }
            let extra = weather.jitter.mul_f64((gates.next() % 1000) as f64 / 1000.0);
            let flight = Flight {
                at: Instant::now() + weather.delay + extra,
                order: order.fetch_add(1, Relaxed),
                by: by.clone(),
                to,
                bytes: bytes.to_vec(),
            };
            // The pilot may have gone home.
            let _ = fly.send(flight);
        };
        let of_pilot = gates.clone();
        let pilot = std::thread::spawn(move || {
            let mut air: BinaryHeap<Flight> = BinaryHeap::new();
            while !of_pilot.over.load(Relaxed) {
                let wait = air
                    .peek()
                    .map_or(PATIENCE, |f| f.at.saturating_duration_since(Instant::now()));
                match flights.recv_timeout(wait.min(PATIENCE)) {
                    Ok(f) => air.push(f),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
                while air.peek().is_some_and(|f| f.at <= Instant::now()) {
                    if let Some(f) = air.pop() {
                        let _ = f.by.send_to(&f.bytes, f.to);
                    }
                }
            }
        });
        let of_door = gates.clone();
        let door = std::thread::spawn(move || {
            let backs: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>> = Mutex::default();
            let mut bytes = vec![0; 65536];
            std::thread::scope(|scope| {
                while !of_door.over.load(Relaxed) {
                    let Ok((n, from)) = front.recv_from(&mut bytes) else {
                        continue;
                    };
                    let back = backs.lock().unwrap().get(&from).cloned();
                    let back = back.unwrap_or_else(|| {
                        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
                        back.set_read_timeout(Some(PATIENCE)).unwrap();
                        backs.lock().unwrap().insert(from, back.clone());
                        let (front, gates, back_again, depart) = (&front, &of_door, back.clone(), &depart);
                        scope.spawn(move || {
                            let mut bytes = vec![0; 65536];
                            while !gates.over.load(Relaxed) {
                                let Ok((n, _)) = back_again.recv_from(&mut bytes) else {
                                    continue;
                                };
                                if !gates.outward.load(Relaxed) {
                                    depart(gates, front, from, &bytes[..n]);
                                }
                            }
                        });
                        back
                    });
                    let target = *of_door.target.lock().unwrap();
                    if let (Some(target), false) = (target, of_door.inward.load(Relaxed)) {
                        depart(&of_door, &back, target, &bytes[..n]);
                    }
                }
            });
        });
        Relay {
            addr,
            gates,
            threads: vec![pilot, door],
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Leads to another address from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.gates.target.lock().unwrap() = Some(target);
    }

    /// Whether what goes to the task is withheld, and what comes from it.
    pub(crate) fn close(&self, inward: bool, outward: bool) {
        self.gates.inward.store(inward, Relaxed);
        self.gates.outward.store(outward, Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.gates.over.store(true, Relaxed);
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
    }
}
