//! Endpoints that talk over the loopback interface.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::OnceLock;

use actorflow_core::{Code, DType, Tensor};
use parking_lot::Condvar;

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

    fn notice(&self) -> Message {
        self.next(|t| match t {
            Told::Notice(m) => Some(m),
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

fn options(who: &str) -> EndpointOptions {
    let identity = authority().issue(subject(who), Duration::from_secs(3600)).unwrap();
    EndpointOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)), identity)
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

#[test]
fn requests_are_answered_whatever_their_size() {
    let p = pair();
    for size in [0, 10, 5000, 100_000, BULK as usize, 3_000_000] {
        let message = Message {
            step: 9,
            header: vec![1; size.min(60_000)].into(),
            blob: vec![2; size].into(),
            tensors: vec![ramp(size), Tensor::strings([2], vec!["a", "bc"]).unwrap()],
            ..Message::new(1)
        };
        assert_eq!(p.peer.call(message.clone(), soon()).unwrap(), message, "{size}");
    }
}

#[test]
fn an_error_is_an_answer_and_a_dropped_reply_is_one_too() {
    let p = pair();
    let e = p.peer.call(Message::new(2), soon()).unwrap_err();
    assert_eq!(
        (e.code(), e.node(), e.task()),
        (Code::NotFound, Some("a"), Some("task/ps/0"))
    );
    let e = p.peer.call(Message::new(3), soon()).unwrap_err();
    assert_eq!(e.code(), Code::Internal);
}

#[test]
fn many_requests_from_many_threads_each_get_their_own_answer() {
    let p = pair();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let peer = &p.peer;
            scope.spawn(move || {
                for i in 0..200 {
                    let message = Message {
                        step: thread * 1000 + i,
                        ..Message::new(1)
                    };
                    assert_eq!(peer.call(message.clone(), soon()).unwrap(), message);
                }
            });
        }
    });
}

#[test]
fn notices_and_small_parcels_arrive_in_order() {
    let p = pair();
    {
        let _cork = cork();
        for i in 0..300u32 {
            p.peer
                .notify(Message {
                    step: i.into(),
                    ..Message::new(7)
                })
                .unwrap();
            p.peer.send(parcel(i, Some(Tensor::scalar(i as f32))), None);
        }
    }
    let mut steps = Vec::new();
    let mut edges = Vec::new();
    while steps.len() < 300 || edges.len() < 300 {
        p.of_server.next(|t| match t {
            Told::Notice(m) => {
                steps.push(m.step);
                Some(())
            }
            Told::Parcel(p) => {
                assert_eq!(p.value, Some(Tensor::scalar(p.edge as f32)));
                edges.push(u64::from(p.edge));
                Some(())
            }
            _ => None,
        });
    }
    assert!(steps == (0..300).collect::<Vec<u64>>() && edges == steps);
}

#[test]
fn tensors_of_every_kind_arrive_bit_for_bit() {
    let p = pair();
    let nan = Tensor::vector(&[f32::NAN, -0.0, f32::from_bits(0x7fc0_1234)]);
    let values = [
        None,
        Some(nan),
        Some(Tensor::string("a string")),
        Some(Tensor::strings([3], vec![vec![0u8; 400_000], Vec::new(), vec![9; 3]]).unwrap()),
        Some(Tensor::zeros(DType::F64, [0, 3]).unwrap()),
        Some(ramp(BULK as usize - 1)),
        Some(ramp(BULK as usize)),
        Some(ramp(20_000_000)),
        Some(ramp(30_000_000).slice_rows(1, 29_999_998).unwrap()),
    ];
    for (edge, value) in values.into_iter().enumerate() {
        let sent = parcel(edge as u32, value);
        p.peer.send(sent.clone(), None);
        assert_eq!(p.of_server.parcel(), sent);
    }
}

#[test]
fn large_tensors_both_ways_at_once_arrive_whole() {
    let p = pair();
    let back = p.of_server.connected();
    for edge in 0..6 {
        p.peer.send(parcel(edge, Some(ramp(4_000_000 + edge as usize))), None);
        back.send(parcel(edge, Some(ramp(4_000_000 + edge as usize))), None);
    }
    for log in [&p.of_server, &p.of_worker] {
        let mut edges: Vec<u32> = (0..6)
            .map(|_| {
                let got = log.parcel();
                assert_eq!(got.value, Some(ramp(4_000_000 + got.edge as usize)));
                got.edge
            })
            .collect();
        edges.sort_unstable();
        assert_eq!(edges, [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn parcels_beyond_the_window_wait_without_blocking_and_all_arrive() {
    let p = pair_with(|o| {
        o.limits.in_flight = 4;
        o.limits.in_flight_bytes = 100_000;
    });
    let (tell, told) = std::sync::mpsc::channel();
    for edge in 0..200 {
        let tell = tell.clone();
        let then: SentThen = Box::new(move |r| tell.send((edge, r.is_ok())).unwrap());
        p.peer.send(parcel(edge, Some(ramp(30_000))), Some(then));
    }
    let got: Vec<u32> = (0..200).map(|_| p.of_server.parcel().edge).collect();
    assert_eq!(got, (0..200).collect::<Vec<_>>());
    let sent: Vec<_> = (0..200).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    assert_eq!(sent, (0..200).map(|e| (e, true)).collect::<Vec<_>>());
    assert!(p.worker.counters().parked > 0);
}

#[test]
fn a_variant_is_refused_where_it_is_sent() {
    let p = pair();
    let (tell, told) = std::sync::mpsc::channel();
    let variant = Tensor::variants([0], Vec::new()).unwrap();
    let then: SentThen = Box::new(move |r| tell.send(r).unwrap());
    p.peer.send(parcel(8, Some(variant.clone())), Some(then));
    let e = told.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(e.message().contains("variant") && e.message().contains("edge 8"), "{e}");
    let message = Message {
        tensors: vec![variant],
        ..Message::new(1)
    };
    assert!(p.peer.notify(message.clone()).is_err());
    assert!(p.peer.call(message, soon()).is_err());
    assert!(p.peer.is_alive());
}

#[test]
fn a_deadline_without_an_answer_names_the_peer_and_the_message() {
    let p = pair();
    let e = p
        .peer
        .call(Message::new(40), Instant::now() + Duration::from_millis(50))
        .unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(
        e.message().contains("task/ps/0") && e.message().contains("message 40"),
        "{e}"
    );
    assert_eq!(p.worker.counters().deadlines_exceeded, 1);
}

#[test]
fn everything_pending_fails_when_a_peer_closes() {
    let p = pair();
    let (tell, told) = std::sync::mpsc::channel();
    for kind in [40, 41] {
        let tell = tell.clone();
        let then: AnswerThen = Box::new(move |r| tell.send(r.unwrap_err()).unwrap());
        p.peer.request(Message::new(kind), soon(), then);
    }
    // The server has the first two when it has answered the third.
    p.peer.call(Message::new(1), soon()).unwrap();
    p.server.close(PATIENCE);
    for _ in 0..2 {
        let e = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(e.code(), Code::Unavailable);
        assert!(e.message().contains("task/ps/0 (incarnation"), "{e}");
    }
    let (peer, e) = p.of_worker.lost();
    assert_eq!((peer, e.code()), (p.peer.clone(), Code::Unavailable));
    assert!(!p.peer.is_alive() && p.worker.peers().is_empty());
    assert_eq!(
        p.peer.call(Message::new(1), soon()).unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(p.peer.notify(Message::new(1)).unwrap_err().code(), Code::Unavailable);
}

#[test]
fn a_peer_that_falls_silent_is_lost_after_the_idle_time() {
    let p = pair_with(|o| {
        o.timing.keep_alive = Duration::from_millis(50);
        o.timing.idle = Duration::from_millis(400);
    });
    // Alive for several idle times without anything to say.
    std::thread::sleep(Duration::from_millis(1200));
    assert!(p.peer.is_alive());
    // A process that dies sends nothing; so does an endpoint whose thread is stuck in a handler.
    let (stop, stuck) = std::sync::mpsc::channel::<()>();
    let back = p.of_server.connected();
    let hold: AnswerThen = Box::new(move |_| drop(stuck.recv_timeout(PATIENCE)));
    back.request(Message::new(1), soon(), hold);
    let (_, e) = p.of_worker.lost();
    assert_eq!(e.code(), Code::Unavailable);
    drop(stop);
}

#[test]
fn a_handler_that_panics_ends_its_connection_and_nothing_else() {
    let p = pair();
    let e = p.peer.call(Message::new(4), soon()).unwrap_err();
    assert!(matches!(e.code(), Code::Unavailable | Code::Internal), "{e}");
    let again = p
        .worker
        .connect(&p.server.local_addr().to_string(), None, soon())
        .unwrap();
    assert!(again.call(Message::new(1), soon()).is_ok());
}

#[test]
fn only_the_expected_subject_will_do() {
    let p = pair();
    let addr = p.server.local_addr().to_string();
    let e = p
        .worker
        .connect(&addr, Some(&subject("task/ps/1")), soon())
        .unwrap_err();
    assert_eq!(e.code(), Code::Unauthenticated);
    assert!(
        e.message().contains("task/ps/0") && e.message().contains("task/ps/1"),
        "{e}"
    );
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_either_side() {
    let (server, _) = bind(options("task/ps/0"));
    let other = Authority::ephemeral("mars").unwrap();
    let stranger = other.issue(subject("task/worker/0"), Duration::from_secs(60)).unwrap();
    let (stranger, _) = bind(EndpointOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)), stranger));
    let e = stranger
        .connect(&server.local_addr().to_string(), None, soon())
        .unwrap_err();
    assert_eq!(e.code(), Code::Unauthenticated, "{e}");
    assert!(server.peers().is_empty());
    let (worker, _) = bind(options("task/worker/1"));
    let e = worker
        .connect(&stranger.local_addr().to_string(), None, soon())
        .unwrap_err();
    assert_eq!(e.code(), Code::Unauthenticated, "{e}");
}

#[test]
fn a_live_connection_is_used_again() {
    let p = pair();
    let again = p
        .worker
        .connect("nobody.invalid:1", Some(&subject("task/ps/0")), soon())
        .unwrap();
    assert_eq!(again, p.peer);
    let back = p
        .server
        .connect("nobody.invalid:1", Some(&subject("task/worker/0")), soon())
        .unwrap();
    assert!(back.call(Message::new(1), soon()).is_ok());
    assert_eq!(p.worker.peers().len(), 1);
}

#[test]
fn a_name_is_looked_up_and_a_bad_one_is_an_error() {
    let p = pair();
    let port = p.server.local_addr().port();
    assert!(p.worker.connect(&format!("localhost:{port}"), None, soon()).is_ok());
    for bad in ["", "nowhere", "127.0.0.1", "127.0.0.1:99999", "::::"] {
        assert_eq!(
            p.worker.connect(bad, None, soon()).unwrap_err().code(),
            Code::Unavailable,
            "{bad}"
        );
    }
}

#[test]
fn nobody_at_an_address_is_an_error_in_time() {
    let (worker, _) = bind(options("task/worker/0"));
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = nobody.local_addr().unwrap().to_string();
    let deadline = Instant::now() + Duration::from_millis(100);
    let e = worker.connect(&addr, None, deadline).unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(e.message().contains(&addr), "{e}");
    let mut o = options("task/worker/1");
    o.timing.handshake = Duration::from_millis(100);
    let (worker, _) = bind(o);
    let e = worker.connect(&addr, None, soon()).unwrap_err();
    assert_eq!(e.code(), Code::Unavailable);
}

#[test]
fn a_later_incarnation_fences_the_earlier_one() {
    let (server, log) = bind(options("task/ps/0"));
    let addr = server.local_addr().to_string();
    let worker = |incarnation| {
        let mut o = options("task/worker/0");
        o.incarnation = incarnation;
        bind(o)
    };
    let (first, of_first) = worker(5);
    let old = first.connect(&addr, None, soon()).unwrap();
    let (second, _) = worker(6);
    let new = second.connect(&addr, None, soon()).unwrap();
    assert_eq!(of_first.lost().1.code(), Code::Unavailable);
    assert_eq!(log.lost().0.info().incarnation, 5);
    assert!(!old.is_alive() && new.call(Message::new(1), soon()).is_ok());
    let e = first.connect(&addr, None, soon()).unwrap_err();
    assert_eq!(e.code(), Code::Aborted, "{e}");
    assert!(server.counters().fenced >= 2);
}

#[test]
fn what_comes_of_an_old_epoch_is_dropped_and_counted() {
    let p = pair();
    p.worker.set_epoch(3);
    p.server.set_epoch(4);
    let e = p.peer.call(Message::new(1), soon()).unwrap_err();
    assert_eq!(e.code(), Code::Aborted);
    p.peer.send(parcel(1, None), None);
    p.worker.set_epoch(4);
    p.peer.send(parcel(2, None), None);
    assert_eq!(p.of_server.parcel().edge, 2);
    assert_eq!(p.server.counters().stale_epoch, 2);
}

#[test]
fn a_message_that_the_peer_does_not_accept_stays_here() {
    let p = pair_with(|o| o.limits.message = 10_000);
    let large = Message {
        blob: vec![0; 10_001].into(),
        ..Message::new(1)
    };
    assert_eq!(p.peer.call(large, soon()).unwrap_err().code(), Code::ResourceExhausted);
    assert!(p.peer.call(Message::new(1), soon()).is_ok());
}

#[test]
fn memory_for_arriving_tensors_is_bounded_and_others_are_left_alone() {
    let mut o = options("task/ps/0");
    o.pool = Some(Pool::new(1 << 20, 0));
    let (server, _) = bind(o);
    let addr = server.local_addr().to_string();
    let (greedy, log) = bind(options("task/worker/0"));
    let (modest, _) = bind(options("task/worker/1"));
    let greedy = (greedy.connect(&addr, None, soon()).unwrap(), greedy);
    let peer = modest.connect(&addr, None, soon()).unwrap();
    greedy.0.send(parcel(1, Some(ramp(2 << 20))), None);
    assert!(log.lost().1.message().contains("no memory"));
    assert!(peer.call(Message::new(1), soon()).is_ok());
    assert_eq!(server.counters().oversized, 1);
}

#[test]
fn a_renewed_certificate_is_used_and_another_subject_is_refused() {
    let p = pair();
    let issue = |who: &str| authority().issue(subject(who), Duration::from_secs(60)).unwrap();
    p.server.set_identity(issue("task/ps/0")).unwrap();
    assert!(p.server.set_identity(issue("task/ps/1")).is_err());
    let (third, _) = bind(options("client/alice"));
    assert!(third.connect(&p.server.local_addr().to_string(), None, soon()).is_ok());
    assert!(p.peer.call(Message::new(1), soon()).is_ok());
}

#[test]
fn waiting_on_the_endpoints_own_thread_is_refused() {
    let p = pair();
    let (tell, told) = std::sync::mpsc::channel();
    let peer = p.peer.clone();
    let then: AnswerThen = Box::new(move |_| tell.send(peer.call(Message::new(1), soon())).unwrap());
    p.peer.request(Message::new(1), soon(), then);
    let e = told.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition);
}

#[test]
fn endpoints_that_dial_each_other_at_once_both_get_through() {
    for _ in 0..5 {
        let (a, _) = bind(options("task/worker/0"));
        let (b, _) = bind(options("task/worker/1"));
        std::thread::scope(|scope| {
            for (from, to) in [(&a, &b), (&b, &a)] {
                scope.spawn(move || {
                    let peer = from.connect(&to.local_addr().to_string(), None, soon()).unwrap();
                    assert!(peer.call(Message::new(1), soon()).is_ok());
                });
            }
        });
    }
}

#[test]
fn noise_on_the_socket_is_ignored() {
    let p = pair();
    let noisy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [1usize, 20, 100, 1200, 1500, 9000] {
        for first in [0u8, 0x40, 0xc0, 0xff] {
            let mut bytes = vec![first; length];
            bytes
                .iter_mut()
                .enumerate()
                .skip(1)
                .for_each(|(i, b)| *b = (i * 31) as u8);
            noisy.send_to(&bytes, p.server.local_addr()).unwrap();
        }
    }
    assert!(p.peer.call(Message::new(1), soon()).is_ok());
}

#[test]
fn nothing_works_after_the_end_and_nothing_hangs() {
    let p = pair();
    p.worker.close(Duration::ZERO);
    p.worker.close(PATIENCE);
    assert!(p.peer.call(Message::new(1), soon()).is_err());
    assert!(
        p.worker
            .connect(&p.server.local_addr().to_string(), None, soon())
            .is_err()
    );
    drop(p.worker);
    assert_eq!(
        p.peer.call(Message::new(1), soon()).unwrap_err().code(),
        Code::Unavailable
    );
    let (tell, told) = std::sync::mpsc::channel();
    p.peer
        .send(parcel(1, None), Some(Box::new(move |r| tell.send(r.is_err()).unwrap())));
    assert!(told.recv_timeout(PATIENCE).unwrap());
}
