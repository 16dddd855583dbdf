//! Two connections joined by nothing but their actions.
#![forbid(unsafe_code)]

mod bounds;

use actorflow_core::{Code, DType, Error, Tensor};

use super::*;
use crate::frame::{Body, Credit, Stamp};
use crate::limits::{Limits, Timing};

type C = Connection<u32>;

fn local(subject: &str, incarnation: u64, limits: Limits) -> Local {
    Local {
        cluster: "mars".to_owned(),
        subject: subject.to_owned(),
        incarnation,
        stripe: false,
        epoch: 0,
        limits,
        timing: Timing::default(),
    }
}

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// Everything that a connection gives out.
fn drain(c: &mut C) -> (Vec<Frame>, Vec<Action<u32>>) {
    let (mut frames, mut rest) = (Vec::new(), Vec::new());
    while let Some(action) = c.poll() {
        if matches!(action, Action::Connected { .. }) && c.local.subject == "task/ps/0" {
            c.welcome();
        }
        match action {
            Action::Send { frame, .. } => frames.push(frame),
            other => rest.push(other),
        }
    }
    (frames, rest)
}

/// Carries frames both ways until there are none; what each side gives to its user.
fn settle(a: &mut C, b: &mut C, now: Time) -> (Vec<Action<u32>>, Vec<Action<u32>>) {
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    loop {
        let (to_b, up) = drain(a);
        of_a.extend(up);
        let (to_a, up) = drain(b);
        of_b.extend(up);
        if to_a.is_empty() && to_b.is_empty() {
            return (of_a, of_b);
        }
        to_b.into_iter().for_each(|f| b.receive(f, now));
        to_a.into_iter().for_each(|f| a.receive(f, now));
    }
}

fn pair_with(limits: Limits) -> (C, C) {
    let mut a = C::new(local("task/worker/0", 10, limits), "task/ps/0".to_owned(), true, at(0));
    let mut b = C::new(local("task/ps/0", 20, limits), "task/worker/0".to_owned(), false, at(0));
    let (of_a, of_b) = settle(&mut a, &mut b, at(0));
    assert!(matches!(of_a[..], [Action::Connected { incarnation: 20, .. }]));
    assert!(matches!(of_b[..], [Action::Connected { incarnation: 10, .. }]));
    (a, b)
}

fn pair() -> (C, C) {
    pair_with(Limits::default())
}

fn parcel(edge: u32, bytes: usize) -> Parcel {
    Parcel {
        step: 1,
        edge,
        tag: 0,
        value: Some(Tensor::zeros(DType::U8, [bytes]).unwrap()),
    }
}

fn edges(actions: &[Action<u32>]) -> Vec<u32> {
    let edge = |a: &Action<u32>| match a {
        Action::Parcel(p) => Some(p.edge),
        _ => None,
    };
    actions.iter().filter_map(edge).collect()
}

/// The continuations that got an error, with its code.
fn failed(actions: &[Action<u32>]) -> Vec<(u32, Code)> {
    let error = |a: &Action<u32>| match a {
        Action::Answered(k, Err(e)) | Action::Sent(k, Err(e)) => Some((*k, e.code())),
        _ => None,
    };
    actions.iter().filter_map(error).collect()
}

#[test]
fn a_request_gets_its_answer() {
    let (mut a, mut b) = pair();
    a.request(Message::new(7), at(1000), 1, at(0));
    let (_, up) = settle(&mut a, &mut b, at(1));
    let [Action::Request { id, message }] = &up[..] else {
        panic!("{up:?}")
    };
    assert_eq!(message.kind, 7);
    b.answer(*id, Ok(Message::new(8)), at(2));
    b.answer(*id, Ok(Message::new(9)), at(2));
    let (up, _) = settle(&mut a, &mut b, at(2));
    assert!(matches!(&up[..], [Action::Answered(1, Ok(m))] if m.kind == 8), "{up:?}");
}

#[test]
fn the_peers_error_is_the_answers_error_and_names_the_peer() {
    let (mut a, mut b) = pair();
    a.request(Message::new(7), at(1000), 1, at(0));
    settle(&mut a, &mut b, at(1));
    b.answer(1, Err(Error::not_found("no plan 5")), at(1));
    let (up, _) = settle(&mut a, &mut b, at(1));
    let [Action::Answered(1, Err(e))] = &up[..] else {
        panic!("{up:?}")
    };
    assert_eq!((e.code(), e.task()), (Code::NotFound, Some("task/ps/0")));
}

#[test]
fn a_deadline_names_the_peer_and_the_message_and_a_late_answer_is_counted() {
    let (mut a, mut b) = pair();
    a.request(Message::new(7), at(500), 1, at(0));
    settle(&mut a, &mut b, at(1));
    assert_eq!(a.next_timeout(), Some(at(500)));
    a.handle_timeout(at(499));
    assert!(drain(&mut a).1.is_empty());
    a.handle_timeout(at(500));
    let (_, up) = drain(&mut a);
    let [Action::Answered(1, Err(e))] = &up[..] else {
        panic!("{up:?}")
    };
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(
        e.message().contains("task/ps/0") && e.message().contains("message 7"),
        "{e}"
    );
    b.answer(1, Ok(Message::new(8)), at(600));
    assert!(settle(&mut a, &mut b, at(600)).0.is_empty());
    assert_eq!(a.take_counted().late_answers, 1);
}

#[test]
fn everything_pending_fails_when_the_connection_is_lost() {
    let (mut a, _) = pair_with(Limits {
        in_flight: 1,
        ..Limits::default()
    });
    a.request(Message::new(7), at(500), 1, at(0));
    a.send(parcel(1, 10), Some(2), at(0));
    a.send(parcel(2, 10), Some(3), at(0));
    a.lost(Error::unavailable("the process is gone"));
    let up = drain(&mut a).1;
    assert_eq!(failed(&up), [(1, Code::Unavailable), (3, Code::Unavailable)]);
    let why = a.over().unwrap().to_string();
    assert!(why.contains("task/ps/0 (incarnation 20): the process is gone"), "{why}");
    a.request(Message::new(7), at(500), 4, at(0));
    a.send(parcel(2, 10), Some(5), at(0));
    assert_eq!(
        failed(&drain(&mut a).1),
        [(4, Code::Unavailable), (5, Code::Unavailable)]
    );
    assert_eq!(a.notify(Message::new(1), at(0)).unwrap_err().code(), Code::Unavailable);
    assert_eq!(a.next_timeout(), None);
}

#[test]
fn parcels_without_room_are_parked_in_order_and_go_when_there_is() {
    let limits = Limits {
        in_flight: 4,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    for edge in 0..10 {
        a.send(parcel(edge, 8), Some(edge), at(0));
    }
    let (frames, sent) = drain(&mut a);
    assert_eq!((frames.len(), sent.len()), (4, 4));
    assert_eq!(a.take_counted().parked, 6);
    frames.into_iter().for_each(|f| b.receive(f, at(0)));
    let (of_a, of_b) = settle(&mut a, &mut b, at(0));
    assert_eq!(edges(&of_b), (0..10).collect::<Vec<_>>());
    assert_eq!(of_a.len(), 6);
}

#[test]
fn a_tensor_larger_than_the_window_passes_alone() {
    let limits = Limits {
        in_flight_bytes: 1000,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    for edge in 0..5 {
        a.send(parcel(edge, 5000), None, at(0));
    }
    let (frames, _) = drain(&mut a);
    assert_eq!(frames.len(), 1);
    frames.into_iter().for_each(|f| b.receive(f, at(0)));
    assert_eq!(edges(&settle(&mut a, &mut b, at(0)).1), [0, 1, 2, 3, 4]);
}

#[test]
fn an_offered_parcel_leaves_at_once_or_comes_back() {
    let limits = Limits {
        in_flight: 2,
        tensor: 100,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    assert!(a.offer(parcel(0, 8), at(0)).is_ok() && !a.is_crowded());
    // What can never be sent is for a continuation to hear.
    let variant = Parcel {
        value: Some(Tensor::variants([0], Vec::new()).unwrap()),
        ..parcel(6, 0)
    };
    assert!(a.offer(variant, at(0)).is_err() && a.offer(parcel(6, 101), at(0)).is_err());
    assert!(a.offer(parcel(1, 8), at(0)).is_ok() && a.is_crowded());
    let back = a.offer(parcel(2, 8), at(0)).unwrap_err();
    assert_eq!((back.edge, a.has_parked()), (2, false));
    a.send(*back, Some(2), at(0));
    assert_eq!(edges(&settle(&mut a, &mut b, at(0)).1), [0, 1, 2]);
    assert!(!a.is_crowded());
    assert!(a.offer(parcel(3, 8), at(0)).is_ok());
    a.lost(Error::unavailable("gone"));
    assert!(a.offer(parcel(4, 8), at(0)).is_err());
}

#[test]
fn a_peer_that_claims_a_large_window_gets_no_more_than_this_sides_own() {
    let (mut a, _) = pair_with(Limits::default());
    let own = Limits {
        in_flight: 3,
        in_flight_bytes: 100,
        ..Limits::default()
    };
    let mut c = C::new(local("task/worker/0", 10, own), "task/ps/0".to_owned(), true, at(0));
    drain(&mut c);
    a.welcome();
    let hello = drain(&mut a).0.pop().unwrap();
    let Body::Hello(mut said) = hello.body else { panic!() };
    said.subject = "task/ps/0".to_owned();
    c.receive(
        Frame {
            body: Body::Hello(said),
            ..hello
        },
        at(0),
    );
    for edge in 0..5 {
        c.send(parcel(edge, 8), Some(edge), at(0));
    }
    assert_eq!((drain(&mut c).0.len(), c.parked_bytes()), (3, 16));
}

#[test]
fn a_parcel_that_cannot_be_sent_says_so_or_ends_the_connection() {
    let (mut a, _) = pair();
    let variant = Parcel {
        value: Some(Tensor::variants([0], Vec::new()).unwrap()),
        ..parcel(6, 0)
    };
    a.send(variant.clone(), Some(1), at(0));
    let up = drain(&mut a).1;
    let [Action::Sent(1, Err(e))] = &up[..] else {
        panic!("{up:?}")
    };
    assert!(e.message().contains("edge 6") && e.message().contains("variant"), "{e}");
    a.send(variant, None, at(0));
    assert!(matches!(&drain(&mut a).1[..], [Action::Close(_)]));
}

#[test]
fn dead_parcels_arrive_dead() {
    let (mut a, mut b) = pair();
    a.send(
        Parcel {
            value: None,
            ..parcel(3, 0)
        },
        None,
        at(0),
    );
    let up = settle(&mut a, &mut b, at(0)).1;
    assert!(
        matches!(
            &up[..],
            [Action::Parcel(Parcel {
                edge: 3,
                value: None,
                ..
            })]
        ),
        "{up:?}"
    );
}

#[test]
fn a_peer_that_takes_nothing_is_lost_after_the_stall_time() {
    let limits = Limits {
        in_flight: 1,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    a.send(parcel(1, 8), None, at(0));
    a.send(parcel(2, 8), Some(2), at(0));
    drain(&mut a);
    for second in 1..10 {
        b.handle_timeout(at(1000 * second));
        drain(&mut b)
            .0
            .into_iter()
            .for_each(|f| a.receive(f, at(1000 * second)));
        a.handle_timeout(at(1000 * second));
        drain(&mut a)
            .0
            .into_iter()
            .for_each(|f| b.receive(f, at(1000 * second)));
        assert!(a.is_up() && b.is_up());
    }
    a.handle_timeout(at(10_000));
    let up = drain(&mut a).1;
    let [Action::Close(e), Action::Sent(2, Err(_))] = &up[..] else {
        panic!("{up:?}")
    };
    assert!(e.message().contains("taken nothing"), "{e}");
}

#[test]
fn silence_is_broken_by_a_word_and_ends_the_connection_when_it_lasts() {
    let (mut a, mut b) = pair();
    assert_eq!(a.next_timeout(), Some(at(1000)));
    a.handle_timeout(at(1000));
    let (frames, _) = drain(&mut a);
    assert!(matches!(frames[0].body, Body::Ping { .. }));
    frames.into_iter().for_each(|f| b.receive(f, at(1000)));
    b.handle_timeout(at(5999));
    assert!(b.is_up());
    a.handle_timeout(at(5000));
    assert_eq!(a.over().unwrap().code(), Code::Unavailable);
    b.handle_timeout(at(6000));
    assert!(!b.is_up());
}

#[test]
fn a_side_that_only_the_peer_does_not_hear_is_told_so_until_it_is_heard_again() {
    let (mut a, mut b) = pair();
    // What `b` says arrives, what `a` says is lost.
    let mut told = Vec::new();
    for second in 1..5 {
        for c in [&mut a, &mut b] {
            c.handle_timeout(at(1000 * second));
        }
        drain(&mut a);
        drain(&mut b)
            .0
            .into_iter()
            .for_each(|f| a.receive(f, at(1000 * second)));
        told.push(a.told_deaf());
    }
    assert_eq!(told, [None, None, Some(at(3000)), Some(at(4000))]);
    assert_eq!(b.told_deaf(), None);
    // It arrives again.
    a.handle_timeout(at(4900));
    a.ping(at(4900));
    drain(&mut a).0.into_iter().for_each(|f| b.receive(f, at(4900)));
    b.handle_timeout(at(5000));
    drain(&mut b).0.into_iter().for_each(|f| a.receive(f, at(5000)));
    assert!(a.is_up() && b.is_up());
    assert_eq!(a.told_deaf(), None);
}

#[test]
fn nothing_is_read_before_a_hello_of_the_same_cluster_and_subject() {
    let make = || {
        C::new(
            local("task/ps/0", 1, Limits::default()),
            "task/worker/0".to_owned(),
            false,
            at(0),
        )
    };
    let hello_of = |cluster: &str, subject: &str| {
        let mut l = local(subject, 2, Limits::default());
        l.cluster = cluster.to_owned();
        drain(&mut C::new(l, "task/ps/0".to_owned(), true, at(0))).0
    };
    for (cluster, subject, code) in [
        ("venus", "task/worker/0", Code::Unauthenticated),
        ("mars", "task/worker/1", Code::Unauthenticated),
    ] {
        let mut c = make();
        hello_of(cluster, subject).into_iter().for_each(|f| c.receive(f, at(0)));
        assert_eq!(c.over().unwrap().code(), code);
    }
    let mut c = make();
    let frame = Frame {
        stamp: Stamp::default(),
        credited: false,
        body: Body::Ping { silence: 0 },
    };
    c.receive(frame, at(0));
    assert!(c.over().is_some());
    assert_eq!(c.take_counted().malformed, 1);
    let mut c = make();
    c.handle_timeout(at(5000));
    assert!(c.over().unwrap().message().contains("no hello"));
}

#[test]
fn frames_of_another_incarnation_are_dropped_and_counted_and_give_no_room_back() {
    let limits = Limits {
        in_flight: 1,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    let mut stale = C::new(local("task/worker/0", 9, limits), "task/ps/0".to_owned(), true, at(0));
    stale.peer = a.peer.clone();
    stale.outbound.open(Credit { frames: 9, bytes: 99 }, at(0));
    for round in 0..3 {
        stale.send(parcel(round, 8), None, at(0));
    }
    drain(&mut stale).0.into_iter().for_each(|f| b.receive(f, at(0)));
    a.send(parcel(7, 8), None, at(0));
    let (of_a, of_b) = settle(&mut a, &mut b, at(0));
    assert!(of_a.is_empty() && edges(&of_b) == [7]);
    assert!(a.is_up() && b.is_up());
    // The stale hello is dropped like everything else.
    assert_eq!(b.take_counted().stale_incarnation, 4);
}

#[test]
fn what_comes_of_an_old_epoch_is_dropped_and_who_waits_is_told() {
    let (mut a, mut b) = pair();
    a.set_epoch(3);
    b.set_epoch(4);
    a.send(parcel(1, 8), None, at(0));
    a.notify(Message::new(1), at(0)).unwrap();
    a.request(Message::new(2), at(100), 1, at(0));
    let (of_a, of_b) = settle(&mut a, &mut b, at(0));
    assert!(of_b.is_empty(), "{of_b:?}");
    assert_eq!(failed(&of_a), [(1, Code::Aborted)]);
    assert_eq!(b.take_counted().stale_epoch, 3);
    a.set_epoch(4);
    a.send(parcel(1, 8), None, at(0));
    assert_eq!(edges(&settle(&mut a, &mut b, at(0)).1), [1]);
    a.set_epoch(2);
    assert_eq!(a.local.epoch, 4);
    // Refused already, though what is sent still belongs to the earlier epoch.
    b.refuse_before(5);
    a.send(parcel(2, 8), None, at(0));
    b.send(parcel(3, 8), None, at(0));
    let (of_a, of_b) = settle(&mut a, &mut b, at(0));
    assert_eq!((edges(&of_a), edges(&of_b)), (vec![3], vec![]));
}

#[test]
fn a_peer_that_takes_room_it_does_not_have_is_cut_off() {
    let limits = Limits {
        in_flight: 2,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    a.outbound.open(Credit { frames: 99, bytes: 99 }, at(0));
    for edge in 0..3 {
        a.send(parcel(edge, 8), None, at(0));
    }
    drain(&mut a).0.into_iter().for_each(|f| b.receive(f, at(0)));
    assert_eq!(b.over().unwrap().code(), Code::ResourceExhausted);
    assert_eq!(b.take_counted().oversized, 1);
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let stamp = |c: &C| Stamp {
        epoch: 0,
        incarnation: c.peer.as_ref().unwrap().incarnation,
    };
    let bad = [
        Body::Parcel(parcel(1, 8)),
        Body::Credit(Credit { frames: 1, bytes: 0 }),
        Body::Notice(Message {
            tensors: vec![Tensor::zeros(DType::U8, [BULK as usize]).unwrap()],
            ..Message::new(1)
        }),
    ];
    for body in bad {
        let (_, mut b) = pair();
        let stamp = stamp(&b);
        b.receive(
            Frame {
                stamp,
                credited: false,
                body,
            },
            at(0),
        );
        assert_eq!(b.take_counted().malformed, 1);
        assert!(matches!(&drain(&mut b).1[..], [Action::Close(_)]));
    }
}

#[test]
fn too_many_requests_are_refused_on_either_side() {
    let limits = Limits {
        pending_requests: 2,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    for k in 0..3 {
        a.request(Message::new(1), at(100), k, at(0));
    }
    assert_eq!(failed(&settle(&mut a, &mut b, at(0)).0), [(2, Code::ResourceExhausted)]);
    // The first two expire here but are still open there.
    a.handle_timeout(at(100));
    a.request(Message::new(1), at(200), 7, at(100));
    let (of_a, _) = settle(&mut a, &mut b, at(100));
    assert_eq!(failed(&of_a).last(), Some(&(7, Code::ResourceExhausted)));
}

#[test]
fn messages_beyond_the_peers_limits_never_leave() {
    let limits = Limits {
        header: 10,
        message: 1000,
        tensor: 100,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    let message = |header: usize, blob: usize, tensor: usize| Message {
        header: vec![0; header].into(),
        blob: vec![0; blob].into(),
        tensors: vec![Tensor::zeros(DType::U8, [tensor]).unwrap()],
        ..Message::new(1)
    };
    assert!(a.notify(message(10, 100, 100), at(0)).is_ok());
    for (h, b, t) in [(11, 0, 0), (0, 1001, 0), (0, 0, 101)] {
        assert!(a.notify(message(h, b, t), at(0)).is_err());
    }
    // An answer that cannot be sent becomes an error.
    a.request(Message::new(1), at(100), 1, at(0));
    settle(&mut a, &mut b, at(0));
    b.answer(1, Ok(message(11, 0, 0)), at(0));
    assert_eq!(failed(&settle(&mut a, &mut b, at(0)).0), [(1, Code::InvalidArgument)]);
}

#[test]
fn large_messages_take_room_like_parcels() {
    let limits = Limits {
        in_flight: 1,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    let large = Message {
        blob: vec![1; BULK as usize].into(),
        ..Message::new(1)
    };
    a.notify(large.clone(), at(0)).unwrap();
    a.request(large.clone(), at(100), 1, at(0));
    a.request(large, at(900), 2, at(0));
    let (frames, _) = drain(&mut a);
    assert_eq!(frames.len(), 1);
    a.handle_timeout(at(100));
    frames.into_iter().for_each(|f| b.receive(f, at(100)));
    let (_, of_b) = settle(&mut a, &mut b, at(100));
    // The request whose deadline passed while it was parked is never sent.
    assert_eq!(of_b.len(), 2);
    assert!(matches!(of_b[1], Action::Request { id: 2, .. }), "{of_b:?}");
}
