//! What is sent arrives.
#![forbid(unsafe_code)]

use super::*;

also_through_quic! {
    requests_are_answered_whatever_their_size
    an_error_is_an_answer_and_a_dropped_reply_is_one_too
    many_requests_from_many_threads_each_get_their_own_answer
    notices_and_small_parcels_arrive_in_order
    tensors_of_every_kind_arrive_bit_for_bit
    large_tensors_both_ways_at_once_arrive_whole
    parcels_beyond_the_window_wait_without_blocking_and_all_arrive
    a_variant_is_refused_where_it_is_sent
    a_live_connection_is_used_again
    a_message_that_the_peer_does_not_accept_stays_here
    a_renewed_certificate_is_used_and_another_subject_is_refused
    endpoints_that_dial_each_other_at_once_both_get_through
    what_was_sent_before_the_end_arrives_if_there_is_grace
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
    for threads in [1, 3] {
        both_ways(&pair_with(|o| o.threads = threads));
    }
}

fn both_ways(p: &Pair) {
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
fn a_live_connection_is_used_again() {
    let p = pair();
    let again = p
        .worker
        .connect("nobody.invalid:1", Some(&subject("task/ps/0")), soon())
        .unwrap();
    assert_eq!(again, p.peer);
    // Also by the server, which may not know yet that the worker has heard its hello.
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
fn what_was_sent_before_the_end_arrives_if_there_is_grace() {
    let p = pair();
    p.peer.send(parcel(1, Some(ramp(9_000_000))), None);
    p.peer.send(parcel(2, Some(Tensor::scalar(1i32))), None);
    p.peer.notify(Message::new(5)).unwrap();
    p.worker.close(PATIENCE);
    let mut came = Vec::new();
    let (_, why) = p.of_server.next(|t| match t {
        Told::Parcel(p) => {
            came.push(p.edge);
            None
        }
        Told::Notice(m) => {
            came.push(m.kind.into());
            None
        }
        Told::Lost(p, e) => Some((p, e)),
        Told::Connected(_) => None,
    });
    came.sort_unstable();
    assert_eq!(came, [1, 2, 5]);
    assert!(why.message().contains("closed"), "{why}");
}
