//! Certificates of connections that are up.
#![forbid(unsafe_code)]

use super::*;
use crate::identity::Identity;

also_through_quic! {
    a_connection_ends_when_the_peers_certificate_expires
    a_connection_ends_when_the_peers_certificate_is_revoked_and_no_other_does
    a_renewed_certificate_brings_a_new_connection_and_nothing_pending_fails
    a_server_that_renews_reaches_those_that_connected_to_it
}

pub(super) fn issue(who: &str, seconds: u64) -> Identity {
    authority().issue(subject(who), Duration::from_secs(seconds)).unwrap()
}

/// A worker whose certificate is good for so long, connected to a parameter server.
fn pair_for(seconds: u64) -> Pair {
    let (worker, of_worker) = bind(EndpointOptions {
        identity: issue("task/worker/0", seconds),
        ..options("task/worker/0")
    });
    let (server, of_server) = bind(options("task/ps/0"));
    let addr = server.local_addr().to_string();
    let peer = worker.connect(&addr, Some(&subject("task/ps/0")), soon()).unwrap();
    Pair {
        worker,
        server,
        of_worker,
        of_server,
        peer,
    }
}

#[test]
fn a_connection_ends_when_the_peers_certificate_expires() {
    let p = pair_for(2);
    assert!(p.peer.call(Message::new(1), soon()).is_ok());
    let begun = Instant::now();
    let (_, why) = p.of_server.lost();
    assert_eq!(why.code(), Code::Unauthenticated, "{why}");
    assert!(why.message().contains("task/worker/0 has expired"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    // The worker is told why, and cannot connect again without another certificate.
    let (_, why) = p.of_worker.lost();
    assert!(why.message().contains("has expired"), "{why}");
    let addr = p.server.local_addr().to_string();
    let e = p.worker.connect(&addr, None, soon()).unwrap_err();
    assert_eq!(e.code(), Code::Unauthenticated, "{e}");
    p.worker.set_identity(issue("task/worker/0", 3600)).unwrap();
    assert!(p.worker.connect(&addr, None, soon()).is_ok());
}

#[test]
fn a_connection_ends_when_the_peers_certificate_is_revoked_and_no_other_does() {
    let p = pair_for(3600);
    let (other, of_other) = bind(options("task/worker/1"));
    let addr = p.server.local_addr().to_string();
    let others = other.connect(&addr, None, soon()).unwrap();
    let serial = p.worker.shared.setup.read().identity.serial().to_owned();
    authority().revoke(&serial).unwrap();
    let warned = issue("task/ps/0", 3600).with_revocations(&authority().revocations().unwrap());
    p.server.set_identity(warned).unwrap();
    let (gone, why) = p.of_server.lost();
    assert_eq!(gone.info().subject, subject("task/worker/0"));
    assert_eq!(why.code(), Code::PermissionDenied, "{why}");
    assert!(why.message().contains("revoked"), "{why}");
    assert!(p.of_worker.lost().1.message().contains("revoked"));
    let e = p.worker.connect(&addr, None, soon()).unwrap_err();
    assert_eq!(e.code(), Code::Unauthenticated, "{e}");
    assert!(others.call(Message::new(1), soon()).is_ok() || others.was_replaced());
    drop(of_other);
}

#[test]
fn a_renewed_certificate_brings_a_new_connection_and_nothing_pending_fails() {
    let p = pair();
    let (tell, told) = std::sync::mpsc::channel();
    let then: AnswerThen = Box::new(move |r| tell.send(r).unwrap());
    p.peer.request(Message::new(40), soon(), then);
    p.peer.call(Message::new(1), soon()).unwrap();
    let old = p.of_server.connected();

    p.worker.set_identity(issue("task/worker/0", 3600)).unwrap();
    let new = p.of_server.connected();
    assert!(new.is_alive() && new != old);
    let until = soon();
    while p.peer.is_alive() {
        assert!(Instant::now() < until, "the old connection is still used");
        std::thread::sleep(Duration::from_millis(5));
    }
    // New work goes by the new connection, whoever asks.
    let again = p
        .worker
        .connect("nobody.invalid:1", Some(&subject("task/ps/0")), soon());
    let again = again.unwrap();
    assert!(again != p.peer && again.call(Message::new(1), soon()).is_ok());
    assert!(new.call(Message::new(1), soon()).is_ok());
    assert_eq!(p.worker.peers(), [again]);
    // What was pending is answered, however long it takes.
    std::thread::sleep(super::renewal::SETTLE + Duration::from_millis(500));
    assert_eq!(p.worker.counters().lost, 0);
    let reply = p.of_server.kept.lock().pop().unwrap();
    reply.send(Ok(Message::new(9)));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap().kind, 9);
    // Then the old one goes.
    for (log, of) in [(&p.of_worker, &p.peer), (&p.of_server, &old)] {
        let (gone, _) = log.lost();
        assert!(gone == *of && gone.was_replaced());
    }
    assert!(new.is_alive() && p.server.peers() == [new]);
}

#[test]
fn a_server_that_renews_reaches_those_that_connected_to_it() {
    let p = pair();
    let first = p.of_worker.connected();
    assert_eq!(first, p.peer);
    p.server.set_identity(issue("task/ps/0", 3600)).unwrap();
    let second = p.of_worker.connected();
    assert!(second.call(Message::new(1), soon()).is_ok());
    assert!(p.of_worker.lost().0.was_replaced());
    // Another list of revocations brings no other connections.
    let same = p.server.shared.setup.read().identity.clone();
    p.server.set_identity(same).unwrap();
    assert!(second.call(Message::new(1), soon()).is_ok() && second.is_alive());
}
