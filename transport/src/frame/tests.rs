//! Frames there and back, whole, in pieces, cut off, damaged and made up.
#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::tensor::{ALIGN, Pool};
use actorflow_core::{DType, Tensor};
use bytes::Bytes;
use proptest::prelude::*;

use super::fuzz::{any as decode_anything, decode as decode_with, limits};
use super::*;
use crate::limits::Limits;

/// An intake whose pool refuses more than the limits allow.
fn intake() -> Intake {
    Intake::new(limits(), Pool::new(8 << 20, 0))
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    frame.encode().unwrap().chunks.concat()
}

fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<Frame>, bool), Fault> {
    decode_with(bytes, piece, &mut intake())
}

fn frame(body: Body) -> Frame {
    let stamp = Stamp {
        epoch: 3,
        incarnation: 9,
    };
    Frame {
        stamp,
        credited: matches!(body, Body::Parcel(_)),
        body,
    }
}

fn parcel(value: Option<Tensor>) -> Frame {
    frame(Body::Parcel(Parcel {
        step: 5,
        edge: 7,
        tag: 11,
        value,
    }))
}

fn message() -> Message {
    Message {
        kind: 4,
        step: 12,
        header: Bytes::from_static(b"a header"),
        blob: Bytes::from(vec![7; 10_000]),
        tensors: vec![
            Tensor::scalar(1.5f32),
            Tensor::strings([2, 1], vec!["one", "three"]).unwrap(),
            Tensor::zeros(DType::F64, [0, 4]).unwrap(),
            Tensor::vector(&[true, false, true]),
            Tensor::vector(&(0..5000).collect::<Vec<i32>>()),
        ],
    }
}

/// One frame of each kind and shape.
fn samples() -> Vec<Frame> {
    let failure = Failure::of(
        &Error::not_found("nothing there")
            .at_node("n", "Op")
            .in_task("task/ps/0"),
    );
    vec![
        frame(Body::Hello(Hello {
            cluster: "mars".to_owned(),
            subject: "task/ps/0".to_owned(),
            header: 1,
            message: 2,
            tensor: 3,
            window_bytes: 4,
            window: 5,
            pending_requests: 6,
            stripes: 7,
            stripe: true,
        })),
        frame(Body::Request {
            id: 77,
            message: message(),
        }),
        frame(Body::Answer {
            id: 77,
            outcome: Outcome::Done(message()),
        }),
        frame(Body::Answer {
            id: 77,
            outcome: Outcome::Failed(failure),
        }),
        frame(Body::Notice(Message::new(1))),
        frame(Body::Credit(Credit { frames: 1, bytes: 2 })),
        frame(Body::Ping { silence: 3 }),
        parcel(None),
        parcel(Some(Tensor::scalar(true))),
        parcel(Some(Tensor::string("text"))),
        parcel(Some(Tensor::zeros(DType::F16, [2, 3, 1, 1, 5]).unwrap())),
        parcel(Some(Tensor::vector(&vec![0.5f64; 3000]))),
    ]
}

#[test]
fn every_kind_of_frame_comes_back_in_pieces_of_any_size() {
    let all: Vec<u8> = samples().iter().flat_map(bytes_of).collect();
    for piece in [1, 2, 23, 24, 25, 1000, 4096, all.len()] {
        assert_eq!(decode(&all, piece), Ok((samples(), true)), "{piece}");
    }
}

#[test]
fn every_dtype_that_has_bytes_comes_back() {
    for dtype in DType::ALL.into_iter().filter(|d| d.is_plain()) {
        let mut t = Tensor::zeros(dtype, [3, 7]).unwrap();
        if dtype != DType::Bool {
            t.bytes_mut()
                .unwrap()
                .iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b = i as u8);
        }
        let f = parcel(Some(t));
        assert_eq!(decode(&bytes_of(&f), 50), Ok((vec![f], true)), "{dtype}");
    }
}

#[test]
fn a_tensor_arrives_aligned() {
    let bytes = bytes_of(&parcel(Some(Tensor::vector(&vec![1u8; 5000]))));
    let (frames, _) = decode(&bytes, 100).unwrap();
    let Body::Parcel(Parcel { value: Some(t), .. }) = &frames[0].body else {
        panic!("a parcel was sent")
    };
    assert_eq!(t.bytes().unwrap().as_ptr() as usize % ALIGN, 0);
}

#[test]
fn a_large_tensor_is_not_copied_by_its_sender() {
    let t = Tensor::vector(&vec![1u8; 5000]);
    let encoded = parcel(Some(t.clone())).encode().unwrap();
    assert_eq!(encoded.chunks[1].as_ptr(), t.bytes().unwrap().as_ptr());
    assert_eq!(encoded.len, encoded.chunks.concat().len());
}

#[test]
fn a_frame_that_is_cut_off_is_no_frame() {
    for f in samples() {
        let bytes = bytes_of(&f);
        let cuts = (0..bytes.len()).filter(|at| *at < 600 || at % 97 == 0);
        for cut in cuts {
            let (frames, whole) = decode(&bytes[..cut], 64).unwrap();
            assert!(frames.is_empty() && (!whole || cut == 0), "{cut} of {f:?}");
        }
    }
}

#[test]
fn a_damaged_frame_is_an_error_or_another_frame_and_promises_are_given_back() {
    for f in samples() {
        let bytes = bytes_of(&f);
        for at in 0..bytes.len().min(700) {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let mut intake = intake();
                if decode_with(&damaged, 333, &mut intake).is_ok() {
                    assert_eq!(intake.promised(), 0);
                }
            }
        }
    }
}

#[test]
fn limits_are_enforced_before_anything_is_allocated() {
    let pool = Pool::new(1 << 30, 0);
    let tight = Limits {
        header: 4,
        message: 1000,
        tensor: 1000,
        in_flight_bytes: 100,
        ..Limits::default()
    };
    let mut intake = Intake::new(tight, pool.clone());
    let large = [
        parcel(Some(Tensor::vector(&vec![0u8; 1001]))),
        frame(Body::Notice(message())),
        frame(Body::Notice(Message {
            header: Bytes::from_static(b"12345"),
            ..Message::new(1)
        })),
    ];
    for f in large {
        let got = decode_with(
            &bytes_of(&f)[..PREFIX + 200.min(bytes_of(&f).len() - PREFIX)],
            999,
            &mut intake,
        );
        assert!(matches!(got, Err(Fault::Oversized(_))), "{got:?}");
    }
    // Three frames of 1000 bytes are more than the window and two that may exceed it.
    let bytes = bytes_of(&parcel(Some(Tensor::vector(&vec![0u8; 1000]))));
    let header_only = &bytes[..bytes.len() - 1000];
    let begin = |intake: &mut Intake| {
        let mut decoder = Decoder::new();
        let result = decoder.push(&mut Bytes::copy_from_slice(header_only), intake);
        (decoder, result)
    };
    let (first, ok) = begin(&mut intake);
    assert_eq!(ok, Ok(None));
    assert_eq!(begin(&mut intake).1, Ok(None));
    assert!(matches!(begin(&mut intake).1, Err(Fault::Oversized(_))));
    first.abandon(&mut intake);
    assert_eq!(begin(&mut intake).1, Ok(None));
    assert!(pool.stats().peak < 10_000);
}

#[test]
fn a_pool_without_room_is_a_fault_that_says_so() {
    let mut intake = Intake::new(limits(), Pool::new(1000, 0));
    let bytes = bytes_of(&parcel(Some(Tensor::vector(&vec![0u8; 5000]))));
    let got = decode_with(&bytes, 4096, &mut intake);
    assert!(matches!(got, Err(Fault::Exhausted(_))), "{got:?}");
}

#[test]
fn what_a_peer_makes_this_side_hold_follows_what_it_has_sent() {
    let length = 900_000;
    let ramp: Vec<u8> = (0..length).map(|i| (i / 255 + i) as u8).collect();
    let blob = Message {
        blob: ramp.clone().into(),
        ..Message::new(1)
    };
    let strings = Tensor::strings([2], vec![ramp[..600_000].to_vec(), ramp[600_000..].to_vec()]).unwrap();
    for f in [
        parcel(Some(Tensor::vector(&ramp))),
        parcel(Some(strings)),
        frame(Body::Notice(blob)),
    ] {
        let bytes = bytes_of(&f);
        for piece in [1, 700, 60_000] {
            let mut intake = intake();
            let pool = intake.pool.clone();
            let mut decoder = Decoder::new();
            let mut got = None;
            for (i, part) in bytes.chunks(piece).enumerate() {
                let come = i * piece + part.len();
                got = decoder.push(&mut Bytes::copy_from_slice(part), &mut intake).unwrap();
                // The pool rounds up by a quarter at most, and by some bytes.
                let held = pool.stats().used.max(intake.held() as usize);
                assert!(held <= come * 8 * 5 / 4 + 300, "{held} bytes are held of {come}");
            }
            assert_eq!(got.as_ref(), Some(&f), "{piece}");
            assert_eq!((intake.held(), intake.promised()), (0, 0));
            // An eighth was put aside and given back before.
            assert!(pool.stats().peak <= length * 5 / 4 * 9 / 8 + 1000, "{:?}", pool.stats());
        }
    }
}

#[test]
fn unfinished_frames_of_one_peer_share_an_account_over_its_connections() {
    let pool = Pool::new(8 << 20, 0);
    let tight = Limits {
        unfinished: 1 << 20,
        ..limits()
    };
    let ledger = Arc::new(Ledger::new(&tight, 8 << 20));
    let bytes = bytes_of(&parcel(Some(Tensor::vector(&vec![1u8; 400_000]))));
    let begin = || {
        let mut intake = Intake::new(tight, pool.clone());
        intake.join(ledger.clone());
        let mut decoder = Decoder::new();
        let got = decoder.push(&mut Bytes::copy_from_slice(&bytes[..100_000]), &mut intake);
        (got, decoder, intake)
    };
    let (first, second) = (begin(), begin());
    assert!(first.0.is_ok() && second.0.is_ok());
    let third = begin();
    let Err(Fault::Exhausted(why)) = &third.0 else {
        panic!("{:?}", third.0)
    };
    assert!(why.contains("1.0 MiB") && why.contains("more memory"), "{why}");
    drop((third, second));
    assert!(begin().0.is_ok());
    drop(first);
    assert_eq!(ledger.drawn(), 0);
    assert_eq!(pool.stats().used, 0);
}

#[test]
fn the_table_of_many_short_strings_is_charged_for_what_it_becomes() {
    let tight = Limits {
        unfinished: 1 << 20,
        ..limits()
    };
    let mut intake = Intake::new(tight, Pool::new(64 << 20, 0));
    // 400 kB on the wire, 3.2 MB as strings.
    let f = parcel(Some(Tensor::strings([100_000], vec![""; 100_000]).unwrap()));
    let got = decode_with(&bytes_of(&f), 50_000, &mut intake);
    assert!(matches!(got, Err(Fault::Exhausted(_))), "{got:?}");
}

#[test]
fn bools_are_checked() {
    let mut bytes = bytes_of(&parcel(Some(Tensor::vector(&[true; 40]))));
    let last = bytes.len() - 1;
    bytes[last] = 2;
    assert!(matches!(decode(&bytes, 4096), Err(Fault::Malformed(_))));
}

/// A generator of its own, so that the corpus is the same on every machine.
fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// How many streams are mangled: `ACTORFLOW_FUZZ_ITERATIONS`, or a number that takes a second.
fn iterations() -> u64 {
    match std::env::var("ACTORFLOW_FUZZ_ITERATIONS") {
        Ok(n) => n.parse().expect("ACTORFLOW_FUZZ_ITERATIONS is a number"),
        Err(_) => 4000,
    }
}

#[test]
fn a_corpus_of_mangled_streams_never_panics_nor_allocates_beyond_the_limits() {
    let good: Vec<Vec<u8>> = samples().iter().map(bytes_of).collect();
    for seed in 1..iterations() {
        let mut next = noise(seed);
        let mut bytes = Vec::new();
        for _ in 0..1 + next() % 3 {
            bytes.extend_from_slice(&good[next() as usize % good.len()]);
        }
        for _ in 0..1 + next() % 4 {
            let at = next() as usize % bytes.len().min(400);
            match next() % 4 {
                0 => bytes[at] = next() as u8,
                1 => bytes.truncate(at.max(1)),
                2 => bytes.splice(at..at, next().to_le_bytes()).for_each(drop),
                _ => bytes.drain(at..(at + 9).min(bytes.len())).for_each(drop),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        decode_anything(&bytes, 1 + next() as usize % 2000);
    }
}

fn any_tensor() -> impl Strategy<Value = Tensor> {
    let dims = prop::collection::vec(0usize..5, 0..5);
    let dense = (dims, 0usize..DType::ALL.len(), any::<u64>()).prop_filter_map("a plain dtype", |(dims, d, seed)| {
        let dtype = DType::ALL[d];
        let mut t = dtype.is_plain().then(|| Tensor::zeros(dtype, dims).unwrap())?;
        let mut next = noise(seed);
        let limit = if dtype == DType::Bool { 2 } else { 256 };
        t.bytes_mut()?.iter_mut().for_each(|b| *b = (next() % limit) as u8);
        Some(t)
    });
    let strings = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..9);
    prop_oneof![
        4 => dense,
        1 => strings.prop_map(|s| Tensor::strings([s.len()], s).unwrap()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_message_comes_back(
        (kind, step, id) in (any::<u16>(), any::<u64>(), any::<u64>()),
        header in prop::collection::vec(any::<u8>(), 0..200),
        blob in prop::collection::vec(any::<u8>(), 0..9000),
        tensors in prop::collection::vec(any_tensor(), 0..5),
        piece in 1usize..5000,
    ) {
        let message = Message { kind, step, header: header.into(), blob: blob.into(), tensors };
        let f = frame(Body::Request { id, message });
        prop_assert_eq!(decode(&bytes_of(&f), piece), Ok((vec![f], true)));
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..100) {
        let _ = decode(&bytes, piece);
    }

    #[test]
    fn any_header_behind_a_good_prefix_is_a_frame_or_an_error(
        kind in 1u8..8, flags in 0u16..8, payload in 0u64..2000, header in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = b"aflo\x01".to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&payload.to_le_bytes());
        bytes.extend_from_slice(&header);
        let _ = decode(&bytes, 4096);
    }
}

#[test]
fn strings_of_a_message_share_its_payload() {
    let f = parcel(Some(
        Tensor::strings([2], vec![vec![1u8; 300], vec![2u8; 300]]).unwrap(),
    ));
    let bytes: Arc<[u8]> = bytes_of(&f).into();
    let (frames, _) = decode(&bytes, usize::MAX).unwrap();
    assert_eq!(frames, [f]);
}

#[test]
fn an_error_crosses_with_its_place() {
    let e = Error::not_found("no variable w")
        .at_node("a", "ReadVariableOp")
        .in_task("task/ps/0")
        .derived();
    let back = Failure::of(&e).into_error();
    assert_eq!(back.to_string(), e.to_string());
    assert!(back.is_derived());
}

#[test]
fn every_code_crosses() {
    for (code, number) in CODES {
        assert_eq!(code_of(number.into()), code);
        assert_eq!(code_number(code), number);
    }
    assert_eq!(code_of(999), Code::Unknown);
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(cut("aé", 2), "a");
    assert_eq!(cut("aé", 3), "aé");
    assert_eq!(
        Failure::of(&Error::internal("é".repeat(60_000))).message.len(),
        32 << 10
    );
}

#[test]
fn prefixes_round_trip_and_reserved_bits_are_refused() {
    let p = Prefix {
        kind: Kind::Parcel,
        flags: CREDITED | DEAD,
        header: 77,
        payload: 1 << 40,
    };
    assert_eq!(Prefix::read(&p.write()), Ok(p));
    let set = |at: usize, to: u8| {
        let mut b = p.write();
        b[at] = to;
        Prefix::read(&b)
    };
    for (at, to) in [(0, 0), (4, VERSION + 1), (5, 0), (5, 8), (6, 2), (7, 1), (13, 1)] {
        assert!(matches!(set(at, to), Err(Fault::Malformed(_))), "{at}");
    }
    assert!(matches!(set(11, 1), Err(Fault::Oversized(_))));
}
