//! Peers on one machine share memory, if both want to.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

use super::*;

fn connect(worker: &Endpoint, server: &Endpoint) -> Peer {
    let at = server.local_addr().to_string();
    worker.connect(&at, Some(&subject("task/ps/0")), soon()).unwrap()
}

fn endpoint(who: &str, lanes: usize) -> (Endpoint, Arc<Log>) {
    let mut o = options(who);
    o.limits.lanes = lanes;
    bind(o)
}

/// Both ways, what is small and what is large.
fn talk(there: &Peer, back: &Peer, of_worker: &Log, of_server: &Log) {
    for (to, at) in [(there, of_server), (back, of_worker)] {
        for (edge, bytes) in [(1, 100), (2, 3_000_000)] {
            to.send(parcel(edge, Some(ramp(bytes))), None);
        }
        let mut got = [at.parcel(), at.parcel()];
        got.sort_by_key(|p| p.edge);
        assert_eq!(got, [parcel(1, Some(ramp(100))), parcel(2, Some(ramp(3_000_000)))]);
        assert_eq!(to.call(Message::new(1), soon()).unwrap().kind, 1);
    }
}

#[test]
fn what_is_sent_goes_through_shared_memory_and_not_through_datagrams() {
    let p = pair();
    let back = p.of_server.connected();
    assert!(p.peer.shares_memory());
    for _ in 0..10 {
        talk(&p.peer, &back, &p.of_worker, &p.of_server);
    }
    assert!(back.shares_memory());
    for of in [&p.worker, &p.server] {
        let c = of.counters();
        assert_eq!(c.lanes, 1);
        assert!(c.bytes_sent > 30_000_000 && c.bytes_received > 30_000_000, "{c:?}");
        // The handshake, and a word a second.
        assert!(c.datagrams_sent < 100, "{c:?}");
    }
}

#[test]
fn if_either_side_wants_none_it_is_quic_that_carries() {
    for (of_worker, of_server) in [(0, 64), (64, 0), (0, 0)] {
        let (worker, worker_log) = endpoint("task/worker/0", of_worker);
        let (server, server_log) = endpoint("task/ps/0", of_server);
        let peer = connect(&worker, &server);
        let back = server_log.connected();
        talk(&peer, &back, &worker_log, &server_log);
        assert!(!peer.shares_memory() && !back.shares_memory());
        assert_eq!((worker.counters().lanes, server.counters().lanes), (0, 0));
    }
}

#[test]
fn there_are_no_more_lanes_than_allowed_and_a_place_is_free_again_after_its_connection() {
    let (server, log) = endpoint("task/ps/0", 1);
    let (first, _) = endpoint("task/worker/0", 64);
    let (second, second_log) = endpoint("task/worker/1", 64);
    assert!(connect(&first, &server).shares_memory());
    let back = log.connected();
    let peer = connect(&second, &server);
    talk(&peer, &log.connected(), &second_log, &log);
    assert!(!peer.shares_memory());
    first.close(PATIENCE);
    assert_eq!(log.lost().0, back);
    let (third, _) = endpoint("task/worker/2", 64);
    assert!(connect(&third, &server).shares_memory());
}

#[test]
fn a_peer_that_closes_says_why_though_its_end_of_the_bell_closes_too() {
    let p = pair();
    let back = p.of_server.connected();
    p.peer.close("it is time");
    let (peer, e) = p.of_server.lost();
    assert_eq!(peer, back);
    assert!(e.message().contains("it is time"), "{e}");
}
