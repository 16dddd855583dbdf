//! What an all-reduce sends, counted on the wire, and when it can.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use std::collections::HashSet;
use std::sync::Barrier;

use actorflow::train::optimizer::GradientDescent;
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::{DType, Graph, GraphVariables, Operation, Result, Session, SessionOptions, Tensor};
use cluster::Cluster;

/// The widths of the layers; no size of a variable divides by a number of workers and that of a bucket.
const LAYERS: [usize; 4] = [301, 1203, 399, 7];
const ROWS: usize = 2;
const STEPS: usize = 4;

fn model(g: &Graph) -> Result<Model> {
    let x = g.placeholder("x", DType::F32, [ROWS, LAYERS[0]])?;
    let mut h = x.clone();
    for (i, w) in LAYERS.windows(2).enumerate() {
        let weights = g.variable(&format!("w{i}"), Tensor::full([w[0], w[1]], 1e-3f32)?)?;
        let bias = g.variable(&format!("b{i}"), Tensor::zeros(DType::F32, [w[1]])?)?;
        h = h.matmul(weights.value())?.bias_add(bias.value())?.tanh()?;
    }
    let loss = h.square()?.mean(&[], false)?;
    Ok(Model {
        inputs: vec![x],
        loss,
        metrics: vec![],
    })
}

fn parameters() -> usize {
    LAYERS.windows(2).map(|w| w[0] * w[1] + w[1]).sum()
}

fn replica(g: &Graph, me: usize, workers: &[String]) -> Replica {
    let mut options = ReplicaOptions::new(Strategy::AllReduce, me, workers.len());
    options.workers = workers.to_vec();
    options.worker = workers[me].clone();
    Replica::build(g, GradientDescent::new(0.1).into(), options, model).unwrap()
}

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("/job:worker/task:{i}")).collect()
}

/// The bytes of frames that each worker sends and receives in a step.
fn traffic(n: usize) -> Vec<(f64, f64)> {
    let tasks: Vec<(&str, u32)> = (0..n as u32).map(|i| ("worker", i)).collect();
    let (cluster, workers) = (Cluster::new(&tasks), names(n));
    let together = Barrier::new(n);
    let count = |i: usize| {
        let c = cluster.servers[i].counters().unwrap();
        (c.bytes_sent, c.bytes_received)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|me| {
                let (together, workers, count, server) = (&together, &workers, &count, &cluster.servers[me]);
                scope.spawn(move || {
                    let g = Graph::new();
                    let mut replica = replica(&g, me, workers);
                    let options = SessionOptions {
                        pin: false,
                        device_filters: workers.clone(),
                        ..SessionOptions::with_threads(1)
                    };
                    replica.start(&Session::on(&g, server, options).unwrap()).unwrap();
                    let x = [Tensor::full([ROWS, LAYERS[0]], 1.0 + me as f32).unwrap()];
                    // Plans are made with the first step.
                    replica.step(&x).unwrap();
                    together.wait();
                    let before = count(me);
                    together.wait();
                    for _ in 0..STEPS {
                        replica.step(&x).unwrap();
                    }
                    together.wait();
                    let after = count(me);
                    together.wait();
                    replica.leave().unwrap();
                    let a_step = |before: u64, after: u64| (after - before) as f64 / STEPS as f64;
                    (a_step(before.0, after.0), a_step(before.1, after.1))
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn each_worker_sends_and_receives_what_a_ring_would() {
    for n in [2, 4] {
        let ring = 2.0 * (n - 1) as f64 / n as f64 * (4 * parameters()) as f64;
        let all = traffic(n);
        println!("{n} workers: {all:.0?} bytes sent and received in a step; on a ring {ring:.0}");
        for (sent, received) in all {
            for bytes in [sent, received] {
                let share = bytes / ring;
                // Heads of frames, requests and answers come to it.
                assert!(
                    (1.0..1.02).contains(&share),
                    "{n} workers: {bytes} bytes are {share} of a ring's"
                );
            }
        }
    }
}

/// All operations that one depends on.
fn ancestors(op: &Operation) -> HashSet<String> {
    let (mut seen, mut left) = (HashSet::new(), vec![op.clone()]);
    while let Some(op) = left.pop() {
        for i in 0..op.node().inputs().len() {
            let from = op.input(i).unwrap().op();
            if seen.insert(from.name()) {
                left.push(from);
            }
        }
    }
    seen
}

#[test]
fn gradients_are_on_their_way_while_the_backward_pass_goes_on() {
    let g = Graph::new();
    let replica = replica(&g, 0, &names(4));
    let nodes = replica.graph().nodes();
    let stages: Vec<Operation> = nodes
        .iter()
        .filter(|n| n.op_name() == "AgreeStage")
        .map(|n| g.operation(n.name()).unwrap())
        .collect();
    // Those of the buckets in their order, then that of the replica's own agreement, which has the means.
    assert!(stages.len() > 2, "{}", stages.len());
    let buckets = &stages[..stages.len() - 1];
    let needs = |op: &Operation| -> HashSet<String> {
        let is_product = |n: &String| g.operation(n).unwrap().node().op_name() == "MatMul";
        ancestors(op).into_iter().filter(is_product).collect()
    };
    let (first, last) = (needs(&buckets[0]), needs(&buckets[buckets.len() - 1]));
    // Those of the first layers come after it, and are what its exchange has time for.
    assert!(
        last.difference(&first).count() >= 2,
        "the last bucket needs {last:?}, the first {first:?}"
    );
    assert!(
        first.len() < 3 * (LAYERS.len() - 1) - 1,
        "the first bucket needs all products: {first:?}"
    );
}
