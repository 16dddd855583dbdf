//! What goes wrong is told, in time and to those concerned.
#![forbid(unsafe_code)]

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;

also_through_quic! {
    a_deadline_without_an_answer_names_the_peer_and_the_message
    everything_pending_fails_when_a_peer_closes
    a_handler_that_panics_ends_its_connection_and_nothing_else
    only_the_expected_subject_will_do
    a_later_incarnation_fences_the_earlier_one
    what_comes_of_an_old_epoch_is_dropped_and_counted
    memory_for_arriving_tensors_is_bounded_and_others_are_left_alone
    nothing_works_after_the_end_and_nothing_hangs
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
        o.timing.idle = Duration::from_millis(1500);
    });
    // Alive for longer than the idle time without anything to say.
    std::thread::sleep(Duration::from_millis(2000));
    assert!(p.peer.is_alive());
    // A process that dies sends nothing; so does an endpoint whose thread is stuck in a handler.
    let (stop, stuck) = std::sync::mpsc::channel::<()>();
    let back = p.of_server.connected();
    let hold: AnswerThen = Box::new(move |_| {
        let _ = stuck.recv_timeout(PATIENCE);
    });
    back.request(Message::new(1), soon(), hold);
    let (_, e) = p.of_worker.lost();
    assert_eq!(e.code(), Code::Unavailable);
    drop(stop);
}

#[test]
fn a_closed_endpoint_gives_its_port_back_though_it_is_still_held() {
    let p = pair();
    let addr = p.server.local_addr();
    p.server.close(Duration::ZERO);
    let identity = authority()
        .issue(subject("task/ps/0"), Duration::from_secs(3600))
        .unwrap();
    let (next, _) = bind(EndpointOptions::new(addr, identity));
    assert_eq!(next.local_addr(), addr);
    let again = p.worker.connect(&addr.to_string(), None, soon()).unwrap();
    assert!(again.call(Message::new(1), soon()).is_ok());
}

#[test]
fn a_peer_that_does_not_hear_this_side_says_so_before_it_is_lost() {
    let patient = |who: &str| {
        let mut o = options(who);
        o.timing.keep_alive = Duration::from_millis(100);
        o.timing.idle = Duration::from_secs(2);
        // What goes through memory needs no way.
        o.limits.lanes = 0;
        bind(o)
    };
    let ((worker, of_worker), (server, _of_server)) = (patient("task/worker/0"), patient("task/ps/0"));
    let (way, inward) = way_to(server.local_addr());
    let peer = worker
        .connect(&way.to_string(), Some(&subject("task/ps/0")), soon())
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!peer.is_deaf());
    inward.store(false, Relaxed);
    let (lost, e) = of_worker.lost();
    assert_eq!((&lost, e.code()), (&peer, Code::Unavailable));
    assert!(lost.is_deaf() && !lost.is_silent(), "{e}");
}

/// A way to an endpoint for one peer, and whether what goes in arrives.
fn way_to(target: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let way = UdpSocket::bind("127.0.0.1:0").unwrap();
    way.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (addr, open) = (way.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
    let inward = open.clone();
    std::thread::spawn(move || {
        let (mut bytes, mut peer) = (vec![0; 1 << 16], None);
        while let Ok((n, from)) = way.recv_from(&mut bytes) {
            let to = match from == target {
                true => peer,
                false => {
                    peer = Some(from);
                    inward.load(Relaxed).then_some(target)
                }
            };
            to.map(|to| way.send_to(&bytes[..n], to).unwrap());
        }
    });
    (addr, open)
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
fn memory_for_arriving_tensors_is_bounded_and_others_are_left_alone() {
    let mut o = options("task/ps/0");
    let pool = Pool::new(1 << 20, 0);
    o.pool = Some(pool.clone());
    let (server, _) = bind(o);
    let addr = server.local_addr().to_string();
    let (greedy, log) = bind(options("task/worker/0"));
    let (modest, _) = bind(options("task/worker/1"));
    let greedy = (greedy.connect(&addr, None, soon()).unwrap(), greedy);
    let peer = modest.connect(&addr, None, soon()).unwrap();
    // More than its share of the pool: refused where it is sent.
    let (tell, told) = std::sync::mpsc::channel();
    let then: SentThen = Box::new(move |r| tell.send(r).unwrap());
    greedy.0.send(parcel(1, Some(ramp((1 << 19) + 1))), Some(then));
    let e = told.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(e.code() == Code::ResourceExhausted && greedy.0.is_alive(), "{e}");
    // The pool is full.
    let _full = pool.alloc(700_000).unwrap();
    greedy.0.send(parcel(1, Some(ramp(400_000))), None);
    assert!(log.lost().1.message().contains("no memory"));
    assert!(peer.call(Message::new(1), soon()).is_ok());
    assert_eq!(server.counters().oversized, 1);
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
