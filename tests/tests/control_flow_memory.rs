//! What a loop keeps in memory: the values of the present iterations. Alone in its process, whose memory it measures.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod flow;

use actorflow::flow::{WhileOptions, while_loop};
use actorflow::{DType, Graph, Output, PartialShape, Session, SessionOptions, Tensor};
use flow::wait;

/// Bytes of resident memory at most so far, where the system tells.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[test]
fn a_million_iterations_run_in_constant_memory() {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap();
    let start = [g.constant(0i32).unwrap(), g.constant(vec![0f32; 64]).unwrap()];
    let body = |v: &[Output]| Ok(vec![(&v[0] + 1)?, (&v[1] + 1.0)?]);
    let out = while_loop(&start, |v| v[0].less(&n), body, WhileOptions::default()).unwrap();
    // Sixteen vectors for each of ten iterations in progress: far from a million.
    let options = SessionOptions {
        memory_budget: 16 * 10 * 256,
        ..SessionOptions::with_threads(2)
    };
    let s = Session::with_options(&g, options).unwrap();
    let run = |k: i32, waiting: bool| {
        let r = s.runner().feed(&n, k).fetch(&out[0]).fetch(&out[1]);
        let got = if waiting {
            wait(r.run_async().unwrap()).unwrap()
        } else {
            r.run().unwrap()
        };
        assert_eq!(got[0], Tensor::from(k));
        assert_eq!(got[1].to_vec::<f32>().unwrap()[63], k as f32);
    };
    run(1_000, false);
    run(1_000, true);
    let before = peak();
    run(1_000_000, false);
    run(100_000, true);
    if let (Some(before), Some(after)) = (before, peak()) {
        // One byte for each iteration would be seen.
        assert!(after - before < 1 << 20, "{before} bytes before, {after} after");
    }
}
