//! Large parcels are spread over several connections, of which users see one.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::super::dial;
use super::super::link::Link;
use super::super::stripes::carrier;
use super::certificates::issue;
use super::*;

const LARGE: usize = 1_000_000;

fn pair_of(of_worker: usize, of_server: usize) -> Pair {
    pair_with(|o| {
        o.limits.lanes = 0;
        o.threads = 3;
        let is_worker = o.identity.subject() == &subject("task/worker/0");
        o.limits.stripes = if is_worker { of_worker } else { of_server };
    })
}

/// As between machines.
fn spread(p: &Pair) {
    for of in [&p.worker, &p.server] {
        of.shared.stripes_here.store(true, Ordering::Relaxed);
    }
}

fn wait(what: &str, is: impl Fn() -> bool) {
    let until = soon();
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A worker and a server with so many further connections, after the first large parcel.
fn striped(count: usize) -> (Pair, Peer) {
    let p = pair_of(count, count);
    spread(&p);
    let back = p.of_server.connected();
    p.peer.send(parcel(0, Some(ramp(LARGE))), None);
    assert_eq!(p.of_server.parcel().edge, 0);
    let all = count as u64;
    wait("there are no further connections", || {
        (p.worker.counters().stripes, p.server.counters().stripes) == (all, all)
    });
    (p, back)
}

/// The first connection and the further ones of an endpoint that has one peer.
fn links(of: &Endpoint) -> (Arc<Link>, Vec<Arc<Link>>) {
    let all = of.shared.all_links().into_iter().filter(|l| l.is_up());
    let (further, first): (Vec<_>, Vec<_>) = all.partition(|l| l.stripes.is_one());
    (first.first().unwrap().clone(), further)
}

/// Waits until no connection is left on either side.
fn all_end(p: &Pair) {
    let over = |of: &Endpoint| of.shared.all_links().iter().all(|l| l.is_over());
    wait("some are left", || over(&p.worker) && over(&p.server));
}

fn receive(log: &Log, edges: std::ops::Range<u32>) {
    let mut left: HashSet<u32> = edges.collect();
    while !left.is_empty() {
        let p = log.parcel();
        assert_eq!(p.value, Some(ramp(LARGE + p.edge as usize)));
        assert!(left.remove(&p.edge), "{} came twice", p.edge);
    }
}

fn send(peer: &Peer, edges: std::ops::Range<u32>) {
    edges.for_each(|i| peer.send(parcel(i, Some(ramp(LARGE + i as usize))), None));
}

#[test]
fn large_parcels_of_both_sides_are_spread_over_connections_that_nobody_sees() {
    let (p, back) = striped(3);
    for (peer, at) in [(&p.peer, &p.of_server), (&back, &p.of_worker)] {
        send(peer, 1..40);
        receive(at, 1..40);
        assert!(peer.call(Message::new(1), soon()).is_ok());
    }
    for of in [&p.worker, &p.server] {
        assert_eq!(of.peers().len(), 1);
        let (first, further) = links(of);
        assert_eq!(further.len(), 3);
        let turns: Vec<_> = (0..8).map(|_| carrier(&first, LARGE).map(|l| l.handle)).collect();
        let distinct: HashSet<_> = turns.iter().collect();
        assert_eq!((distinct.len(), turns[..4] == turns[4..]), (4, true), "{turns:?}");
        assert!(carrier(&first, 1000).is_none());
    }
    // Whoever asks for the peer gets the first connection.
    let again = p
        .worker
        .connect("nobody.invalid:1", Some(&subject("task/ps/0")), soon());
    assert_eq!(again.unwrap(), p.peer);
}

#[test]
fn what_was_sent_arrives_before_the_end() {
    let (p, _) = striped(2);
    send(&p.peer, 1..60);
    p.worker.close(PATIENCE);
    receive(&p.of_server, 1..60);
    let (_, why) = p.of_server.lost();
    assert!(why.message().contains("the endpoint is closed"), "{why}");
}

#[test]
fn with_a_further_connection_that_is_lost_the_peer_is_and_it_can_come_again() {
    let (p, _) = striped(3);
    let (_, further) = links(&p.server);
    further[1].wish(Wish::Close(Error::unavailable("the cable is cut")));
    for log in [&p.of_server, &p.of_worker] {
        let (_, why) = log.lost();
        assert_eq!(why.code(), Code::Unavailable);
        assert!(why.message().contains("carried large tensors was lost"), "{why}");
        assert!(why.message().contains("the cable is cut"), "{why}");
    }
    all_end(&p);
    let peer = p
        .worker
        .connect(&p.server.local_addr().to_string(), None, soon())
        .unwrap();
    send(&peer, 1..20);
    receive(&p.of_server, 1..20);
}

#[test]
fn a_peer_that_is_closed_takes_the_further_connections_with_it() {
    let (p, _) = striped(3);
    p.peer.close("it is time");
    assert!(p.of_server.lost().1.message().contains("it is time"));
    all_end(&p);
    assert_eq!((p.worker.counters().lost, p.server.counters().lost), (1, 1));
}

#[test]
fn there_are_no_more_than_either_side_allows() {
    for (of_worker, of_server, expected) in [(0, 3, 0), (3, 0, 0), (3, 2, 2), (1, 3, 1)] {
        let p = pair_of(of_worker, of_server);
        spread(&p);
        send(&p.peer, 0..10);
        receive(&p.of_server, 0..10);
        wait("there are not as many as allowed", || {
            p.server.counters().stripes == expected && p.worker.counters().stripes == expected
        });
        // A peer that asks for more is refused.
        let (first, _) = links(&p.worker);
        let (tell, told) = std::sync::mpsc::channel();
        for _ in 0..=of_server {
            let tell = tell.clone();
            let waiter = Waiter::new(soon(), Box::new(move |r| tell.send(r.err()).unwrap()));
            dial::begin(&p.worker.shared, first.addr, None, waiter, Some(&first));
        }
        let refused = (0..=of_server).filter_map(|_| told.recv_timeout(PATIENCE).unwrap());
        let refused: Vec<Error> = refused.collect();
        assert_eq!(refused.len() as u64, expected + 1, "{refused:?}");
        assert!(
            refused[0].message().contains("no connection beside which"),
            "{}",
            refused[0]
        );
        // And nothing else happens to it.
        assert!(p.peer.call(Message::new(1), soon()).is_ok());
        assert_eq!(p.server.counters().lost, 0);
    }
}

#[test]
fn on_one_machine_there_are_none() {
    let p = pair_of(3, 3);
    send(&p.peer, 0..10);
    receive(&p.of_server, 0..10);
    assert_eq!(p.worker.shared.all_links().len(), 1);
}

#[test]
fn a_renewed_certificate_replaces_all_of_them_and_nothing_is_lost() {
    let (p, old) = striped(2);
    send(&p.peer, 1..30);
    p.worker.set_identity(issue("task/worker/0", 3600)).unwrap();
    // Over the old connection, though it is being replaced.
    send(&p.peer, 30..60);
    receive(&p.of_server, 1..60);
    let (gone, _) = p.of_server.lost();
    assert!(gone == old && gone.was_replaced());
    let (new, further) = links(&p.worker);
    let new = new.peer().unwrap();
    assert!(new != p.peer && further.is_empty());
    send(&new, 1..30);
    receive(&p.of_server, 1..30);
    wait("the new one has none", || p.server.counters().stripes == 4);
    assert_eq!(p.server.counters().lost, 1);
}
