//! What may wait at the sender.
#![forbid(unsafe_code)]

use super::*;

#[test]
fn a_queue_of_parked_parcels_has_a_bound() {
    let limits = Limits {
        in_flight: 1,
        parked: 2,
        ..Limits::default()
    };
    let (mut a, _) = pair_with(limits);
    // Who waits may always park.
    for edge in 0..5 {
        a.send(parcel(edge, 8), Some(edge), at(0));
    }
    assert!(failed(&drain(&mut a).1).is_empty() && a.parked_bytes() == 32);
    // What nobody waits for may not: parcels, notices.
    let large = || Message {
        blob: vec![1; BULK as usize].into(),
        ..Message::new(1)
    };
    a.notify(large(), at(0)).unwrap();
    a.send(parcel(6, 8), None, at(0));
    let e = a.notify(large(), at(0)).unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted);
    assert!(e.message().contains("2 frames of 256.0 KiB wait"), "{e}");
    assert!(a.is_up());
}

#[test]
fn the_bytes_that_are_parked_while_nobody_waits_have_a_bound() {
    let limits = Limits {
        in_flight: 1,
        parked_bytes: 100,
        ..Limits::default()
    };
    let (mut a, _) = pair_with(limits);
    for edge in 0..4 {
        a.send(parcel(edge, 40), None, at(0));
        assert!(a.is_up());
    }
    // 120 bytes are parked.
    a.send(parcel(4, 40), None, at(0));
    assert_eq!(a.over().unwrap().code(), Code::ResourceExhausted);
    assert_eq!(a.parked_bytes(), 0);
}

#[test]
fn small_requests_have_a_bound_in_bytes_until_the_peer_answers_one() {
    let limits = Limits {
        parked_bytes: 100,
        ..Limits::default()
    };
    let (mut a, mut b) = pair_with(limits);
    let ask = |a: &mut C, k| {
        let blob = vec![1; 60].into();
        a.request(
            Message {
                blob,
                ..Message::new(7)
            },
            at(500),
            k,
            at(0),
        );
    };
    (0..2).for_each(|k| ask(&mut a, k));
    // 120 bytes are under way; that their deadlines pass does not mean that they have been read.
    a.handle_timeout(at(600));
    ask(&mut a, 3);
    let (_, up) = settle(&mut a, &mut b, at(0));
    assert_eq!(up.len(), 2, "two requests have come: {up:?}");
    b.answer(2, Ok(Message::new(8)), at(1));
    settle(&mut a, &mut b, at(1));
    (4..6).for_each(|k| ask(&mut a, k));
    assert!(failed(&drain(&mut a).1).is_empty() && a.is_up());
    ask(&mut a, 6);
    let up = drain(&mut a).1;
    let [Action::Answered(6, Err(e))] = &up[..] else {
        panic!("{up:?}")
    };
    assert_eq!((e.code(), e.task()), (Code::ResourceExhausted, Some("task/ps/0")));
    assert!(
        e.message().contains("120 B to task/ps/0") && e.message().contains("parked-bytes"),
        "{e}"
    );
}
