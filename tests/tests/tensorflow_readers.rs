//! Files that others read: TensorFlow's own readers get back what was written here, and the other way round.
//!
//! The tests need a Python with the packages `tensorflow` (or `tensorflow-cpu`) and `tensorboard`: that which the
//! environment variable `ACTORFLOW_PYTHON` names, or else `python3`. Where the packages are missing they say so and pass;
//! a Python that was named must have them.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;
use std::process::Command;

use actorflow::data::records::{Compression, RecordReader, RecordWriter};
use actorflow::summary::{self, EventWriter};
use actorflow::{DType, Graph, PartialShape, Session, Tensor};

/// Runs a script that needs a package; what it prints, or `None` if there is no such Python.
fn python(package: &str, script: &str, args: &[&Path]) -> Option<String> {
    let named = std::env::var("ACTORFLOW_PYTHON").ok();
    let python = named.as_deref().unwrap_or("python3");
    let whole = format!("try:\n    import {package}\nexcept ImportError:\n    raise SystemExit(77)\n{script}");
    let mut command = Command::new(python);
    command.args(["-c", &whole]).args(args);
    // It shall say what is wrong with files, not with the machine.
    command.env("TF_CPP_MIN_LOG_LEVEL", "3").env("CUDA_VISIBLE_DEVICES", "");
    let why = match command.output() {
        Ok(out) if out.status.success() => return Some(String::from_utf8_lossy(&out.stdout).into_owned()),
        Ok(out) if out.status.code() == Some(77) => format!("{python} has no package {package}"),
        Ok(out) => panic!("{python}: {}", String::from_utf8_lossy(&out.stderr)),
        Err(e) => format!("{python} does not run: {e}"),
    };
    assert!(named.is_none(), "ACTORFLOW_PYTHON is no use: {why}");
    println!("skipped: {why}");
    None
}

const KINDS: [(&str, Compression); 3] = [
    ("", Compression::None),
    ("GZIP", Compression::Gzip),
    ("ZLIB", Compression::Zlib),
];

/// Records of many sizes: none, one byte, more than any buffer.
fn records() -> Vec<Vec<u8>> {
    let bytes = |n: usize| (0..n).map(|i| (i * i + n) as u8).collect();
    [0, 1, 7, 1000, 70_000, 300_001].into_iter().map(bytes).collect()
}

#[test]
fn tensorflow_reads_our_records_and_we_read_those_that_it_writes() {
    const SCRIPT: &str = "
import sys, os
import tensorflow as tf
here = sys.argv[1]
for kind in ('', 'GZIP', 'ZLIB'):
    got = [bytes(r) for r in tf.data.TFRecordDataset(os.path.join(here, 'ours' + kind), kind).as_numpy_iterator()]
    print(kind or 'NONE', [len(r) for r in got], [sum(r) for r in got])
    with tf.io.TFRecordWriter(os.path.join(here, 'theirs' + kind), kind or None) as w:
        for r in reversed(got):
            w.write(r)
";
    let dir = tempfile::tempdir().unwrap();
    for (kind, compression) in KINDS {
        let mut w = RecordWriter::create(dir.path().join(format!("ours{kind}")), compression).unwrap();
        records().iter().for_each(|r| w.write(r).unwrap());
        w.finish().unwrap();
    }
    let Some(said) = python("tensorflow", SCRIPT, &[dir.path()]) else {
        return;
    };
    let lengths: Vec<usize> = records().iter().map(Vec::len).collect();
    let sums: Vec<u64> = records()
        .iter()
        .map(|r| r.iter().map(|b| u64::from(*b)).sum())
        .collect();
    let line = |(kind, _): (&str, Compression)| {
        let kind = if kind.is_empty() { "NONE" } else { kind };
        format!("{kind} {lengths:?} {sums:?}\n")
    };
    assert_eq!(said, KINDS.map(line).concat());
    let mut backwards = records();
    backwards.reverse();
    for (kind, compression) in KINDS {
        let theirs = RecordReader::open(dir.path().join(format!("theirs{kind}")), compression).unwrap();
        let got: Vec<Vec<u8>> = theirs.map(|r| r.unwrap().to_vec()).collect();
        assert_eq!(got, backwards, "{kind:?}");
    }
}

/// An event file with a graph, curves, a histogram, an image and a note of a checkpoint.
fn events(dir: &Path) {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, PartialShape::scalar()).unwrap();
    summary::scalar("loss", &x).unwrap();
    {
        let _tower = g.name_scope("tower");
        summary::scalar("loss", &x.square().unwrap()).unwrap();
        summary::histogram("weights", &g.constant(vec![1f32, 2.0, 2.0]).unwrap()).unwrap();
    }
    let pixels: Vec<u8> = (0..5 * 7 * 3).map(|i| i as u8 * 2).collect();
    let picture = g.constant(Tensor::from_slice([1, 5, 7, 3], &pixels).unwrap()).unwrap();
    summary::image("picture", &picture, 1).unwrap();
    let all = summary::merge_all(&g).unwrap().unwrap();
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
}

#[test]
fn tensorboard_reads_our_event_files() {
    const SCRIPT: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
# It keeps all events, not the latest alone.
a = EventAccumulator(sys.argv[1], size_guidance={'histograms': 0, 'images': 0, 'scalars': 0}).Reload()
tags = a.Tags()
print(sorted(tags['scalars']), tags['histograms'], tags['images'], tags['graph'])
for tag in ('loss', 'tower/loss', 'global_step/sec'):
    print(tag, [(e.step, e.value) for e in a.Scalars(tag)])
h = a.Histograms('tower/weights')
print([e.step for e in h], h[0].histogram_value.min, h[0].histogram_value.max, h[0].histogram_value.num,
      h[0].histogram_value.sum, sum(h[0].histogram_value.bucket))
i = a.Images('picture/image/0' if 'picture/image/0' in tags['images'] else 'picture/image')
print([e.step for e in i], i[0].width, i[0].height, i[0].encoded_image_string[1:4])
print(sorted(n.name for n in a.Graph().node if n.op == 'Placeholder'))
";
    let dir = tempfile::tempdir().unwrap();
    events(dir.path());
    let Some(said) = python("tensorboard", SCRIPT, &[dir.path()]) else {
        return;
    };
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "['global_step/sec', 'loss', 'tower/loss'] ['tower/weights'] ['picture/image'] True",
            "loss [(1, 1.0), (2, 2.0), (3, 3.0)]",
            "tower/loss [(1, 1.0), (2, 4.0), (3, 9.0)]",
            "global_step/sec [(3, 12.5)]",
            "[1, 2, 3] 1.0 2.0 3.0 5.0 3.0",
            "[1, 2, 3] 7 5 b'PNG'",
            "['x']",
        ]
    );
}
