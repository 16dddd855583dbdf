use actorflow_core::{Code, Graph, Tensor};

use super::*;
use crate::graphdef::proto::event::What;
use crate::graphdef::proto::summary::value;
use crate::session::Session;

/// CRC-32C bit by bit, independent of the library that the writer uses.
fn crc(data: &[u8]) -> u32 {
    let mut c = !0u32;
    for b in data {
        c ^= u32::from(*b);
        for _ in 0..8 {
            c = (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg());
        }
    }
    !c
}

/// The records of a file, by the format's description alone.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let unmask = |b: &[u8]| {
        let m = u32::from_le_bytes(b.try_into().unwrap()).wrapping_sub(0xa282_ead8);
        m.rotate_left(15)
    };
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(crc(&bytes[..8]), unmask(&bytes[8..12]));
        let data = &bytes[12..12 + n];
        assert_eq!(crc(data), unmask(&bytes[12 + n..16 + n]));
        all.push(data.to_vec());
        bytes = &bytes[16 + n..];
    }
    all
}

/// A file with a graph, two curves and a histogram.
fn example(dir: &std::path::Path) -> EventWriter {
    let g = Graph::new();
    let x = g
        .placeholder("x", DType::F32, actorflow_core::PartialShape::scalar())
        .unwrap();
    scalar("loss", &x).unwrap();
    {
        let _tower = g.name_scope("tower");
        scalar("loss", &x.square().unwrap()).unwrap();
        histogram("weights", &g.constant(vec![1f32, 2.0, 2.0]).unwrap()).unwrap();
    }
    let all = merge_all(&g).unwrap().unwrap();
    let session = Session::new(&g).unwrap();
    let writer = EventWriter::create(dir).unwrap();
    writer.add_graph(&g).unwrap();
    for step in 1..=3 {
        let s = session.run(&[(&x, Tensor::from(step as f32))], &[&all]).unwrap();
        writer.add_summary(&s[0], step).unwrap();
    }
    writer.add_scalar("global_step/sec", 12.5, 3).unwrap();
    writer.add_checkpoint("model.ckpt-3", 3).unwrap();
    writer.flush().unwrap();
    writer
}

#[test]
fn an_independent_reader_finds_what_was_added() {
    let dir = tempfile::tempdir().unwrap();
    let writer = example(dir.path());
    let bytes = std::fs::read(writer.path()).unwrap();
    let raw = records(&bytes);
    assert_eq!(raw.len(), 7);
    // The first: wall_time (field 1, a double), then file_version (field 3).
    assert_eq!(raw[0][0], 0x09);
    assert_eq!(raw[0][9..], [&[0x1a, 13][..], b"brain.Event:2"].concat());
    let events = read_events(writer.path()).unwrap();
    assert_eq!(events.len(), 7);
    assert!(matches!(&events[1].what, Some(What::GraphDef(g)) if crate::graphdef::import_graph(g.clone()).is_ok()));
    let Some(What::Summary(s)) = &events[3].what else {
        panic!("no summary: {:?}", events[3]);
    };
    let tags: Vec<&str> = s.value.iter().map(|v| &v.tag[..]).collect();
    assert_eq!((events[3].step, tags), (2, vec!["loss", "tower/loss", "tower/weights"]));
    assert_eq!(s.value[1].value, Some(value::Value::SimpleValue(4.0)));
    assert!(matches!(&s.value[2].value, Some(value::Value::Histo(h)) if h.num == 3.0 && h.sum == 5.0));
    assert!(matches!(&events[6].what, Some(What::SessionLog(l)) if l.checkpoint_path == "model.ckpt-3"));
}

#[test]
fn writers_of_one_directory_have_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        EventWriter::create(dir.path()).unwrap(),
        EventWriter::create(dir.path()).unwrap(),
    );
    assert_ne!(a.path(), b.path());
}

#[test]
fn what_is_no_summary_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let w = EventWriter::create(dir.path()).unwrap();
    let refused = |t: Tensor| w.add_summary(&t, 0).unwrap_err().code();
    assert_eq!(refused(Tensor::from(1f32)), Code::InvalidArgument);
    assert_eq!(refused(Tensor::string(&b"\xff\xff"[..])), Code::InvalidArgument);
    assert_eq!(merge_all(&Graph::new()).unwrap().map(|o| o.name()), None);
    assert_eq!(
        scalar("", &Graph::new().constant(1f32).unwrap()).unwrap_err().code(),
        Code::InvalidArgument
    );
}
