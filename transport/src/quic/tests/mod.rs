//! Endpoints that talk over the loopback interface.
#![forbid(unsafe_code)]

mod certificates;
mod exchange;
mod failures;
mod hostile;
mod lanes;
mod stripes;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::OnceLock;

use actorflow_core::{Code, DType, Tensor};
use parking_lot::Condvar;
use rustls::pki_types::CertificateDer;

use super::*;
use crate::identity::Authority;
use crate::proto::BULK;

/// Longer than anything takes, even on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(30);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::ephemeral("mars").unwrap())
}

fn subject(text: &str) -> Subject {
    text.parse().unwrap()
}

/// What a handler was told.
#[derive(Debug)]
enum Told {
    Connected(Peer),
    Lost(Peer, Error),
    Notice(Message),
    Parcel(Parcel),
}

/// A handler that writes down what it is told. It answers a request of kind 1 with the request, fails one of kind 2,
/// drops one of kind 3, and keeps any other.
#[derive(Default)]
struct Log {
    told: Mutex<VecDeque<Told>>,
    kept: Mutex<Vec<Reply>>,
    wake: Condvar,
}

impl Log {
    fn note(&self, told: Told) {
        self.told.lock().push_back(told);
        self.wake.notify_all();
    }

    /// Waits for the first thing told that `pick` takes, and forgets those before it.
    fn next<T>(&self, mut pick: impl FnMut(Told) -> Option<T>) -> T {
        let until = soon();
        let mut told = self.told.lock();
        loop {
            while let Some(next) = told.pop_front() {
                if let Some(found) = pick(next) {
                    return found;
                }
            }
            assert!(!self.wake.wait_until(&mut told, until).timed_out(), "nothing came");
        }
    }

    fn parcel(&self) -> Parcel {
        self.next(|t| match t {
            Told::Parcel(p) => Some(p),
            _ => None,
        })
    }

    fn lost(&self) -> (Peer, Error) {
        self.next(|t| match t {
            Told::Lost(p, e) => Some((p, e)),
            _ => None,
        })
    }

    fn connected(&self) -> Peer {
        self.next(|t| match t {
            Told::Connected(p) => Some(p),
            _ => None,
        })
    }
}

impl Handler for Log {
    fn connected(&self, peer: &Peer) {
        self.note(Told::Connected(peer.clone()));
    }

    fn lost(&self, peer: &Peer, why: &Error) {
        self.note(Told::Lost(peer.clone(), why.clone()));
    }

    fn request(&self, _: &Peer, message: Message, reply: Reply) {
        match message.kind {
            1 => reply.send(Ok(message)),
            2 => reply.send(Err(Error::not_found("there is no plan 5").at_node("a", "MatMul"))),
            3 => drop(reply),
            4 => panic!("a handler that panics"),
            _ => self.kept.lock().push(reply),
        }
    }

    fn notice(&self, _: &Peer, message: Message) {
        self.note(Told::Notice(message));
    }

    fn parcel(&self, _: &Peer, parcel: Parcel) {
        self.note(Told::Parcel(parcel));
    }
}

thread_local! {
    static LANES: Cell<usize> = const { Cell::new(64) };
}

/// A test without lanes, as between machines.
fn through_quic(test: fn()) {
    LANES.set(0);
    test();
    LANES.set(Limits::default().lanes);
}

/// The tests of these names once more, without lanes.
macro_rules! also_through_quic {
    ($($test:ident)*) => {
        mod without_lanes {
            $(#[test]
            fn $test() {
                super::super::through_quic(super::$test);
            })*
        }
    };
}
use also_through_quic;

fn options(who: &str) -> EndpointOptions {
    let identity = authority().issue(subject(who), Duration::from_secs(3600)).unwrap();
    let mut options = EndpointOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)), identity);
    options.limits.lanes = LANES.get();
    options
}

fn bind(options: EndpointOptions) -> (Endpoint, Arc<Log>) {
    let log = Arc::new(Log::default());
    (Endpoint::bind(options, log.clone()).unwrap(), log)
}

/// A worker that is connected to a parameter server.
struct Pair {
    worker: Endpoint,
    server: Endpoint,
    of_worker: Arc<Log>,
    of_server: Arc<Log>,
    peer: Peer,
}

fn pair_with(adjust: impl Fn(&mut EndpointOptions)) -> Pair {
    let make = |who: &str| {
        let mut o = options(who);
        adjust(&mut o);
        bind(o)
    };
    let (worker, of_worker) = make("task/worker/0");
    let (server, of_server) = make("task/ps/0");
    let peer = worker
        .connect(&server.local_addr().to_string(), Some(&subject("task/ps/0")), soon())
        .unwrap();
    Pair {
        worker,
        server,
        of_worker,
        of_server,
        peer,
    }
}

fn pair() -> Pair {
    pair_with(|_| {})
}

fn parcel(edge: u32, value: Option<Tensor>) -> Parcel {
    Parcel {
        step: 3,
        edge,
        tag: 1,
        value,
    }
}

fn ramp(bytes: usize) -> Tensor {
    let mut t = Tensor::zeros(DType::U8, [bytes]).unwrap();
    let out = t.bytes_mut().unwrap();
    out.iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = (i * 7 + i / 251) as u8);
    t
}
