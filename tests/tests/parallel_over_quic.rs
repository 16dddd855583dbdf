//! Synchronous replicas in several tasks, over real connections: together they compute, bit for bit, what one does with the
//! whole batch.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use std::sync::{Barrier, Mutex};
use std::time::Duration;

use actorflow::train::init::RandomNormal;
use actorflow::train::optimizer::Momentum;
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::{DType, Graph, GraphVariables, Result, Tensor};
use cluster::Cluster;

const STEPS: usize = 200;
/// Rows of a step, of all replicas together; so many parts have them whoever shares them.
const ROWS: usize = 8;
const PARTS: usize = 4;

fn network(g: &Graph) -> Result<Model> {
    g.set_seed(7);
    let x = g.placeholder("x", DType::F32, [None, Some(4)])?;
    let y = g.placeholder("y", DType::F32, [None, Some(3)])?;
    let random = || RandomNormal {
        mean: 0.0,
        stddev: 0.5,
        seed: Some(3),
    };
    let w1 = g.get_variable("w1", [4, 5], random())?;
    let b1 = g.get_variable("b1", [5], random())?;
    let w2 = g.get_variable("w2", [5, 3], random())?;
    let hidden = (&x.matmul(&w1)? + &*b1)?.tanh()?;
    let error = (&hidden.matmul(&w2)? - &y)?.square()?;
    Ok(Model {
        inputs: vec![x, y],
        loss: error.mean(&[], false)?,
        metrics: vec![],
    })
}

/// The parameters after all steps, which every replica has to agree about.
fn trained(strategy: Strategy, replicas: usize, ps: usize) -> Vec<Vec<u8>> {
    let names = |job: &'static str, n: usize| (0..n as u32).map(move |i| (job, i));
    let tasks: Vec<(&str, u32)> = names("ps", ps).chain(names("worker", replicas)).collect();
    let c = Cluster::new(&tasks);
    let devices = |job: &str, n: usize| (0..n).map(|i| format!("/job:{job}/task:{i}")).collect::<Vec<_>>();
    let (result, done) = (Mutex::new(Vec::new()), Barrier::new(replicas));
    std::thread::scope(|scope| {
        for i in 0..replicas {
            let (c, result, done) = (&c, &result, &done);
            let mut o = ReplicaOptions::new(strategy, i, replicas);
            o.ps = devices("ps", ps);
            o.workers = devices("worker", replicas);
            o.worker = o.workers[i].clone();
            o.micro_batches = PARTS / replicas;
            o.deadline = Duration::from_secs(30);
            scope.spawn(move || {
                let g = Graph::new();
                let mut r = Replica::build(&g, Momentum::new(0.1, 0.9).into(), o, network).unwrap();
                r.start(&c.session(&g, ps + i)).unwrap();
                let rows = ROWS / replicas;
                for step in 0..STEPS {
                    let value = |k: usize| ((step * 131 + k * 17) % 97) as f32 / 48.5 - 1.0;
                    let x: Vec<f32> = (i * rows * 4..(i + 1) * rows * 4).map(value).collect();
                    let y: Vec<f32> = (i * rows * 3..(i + 1) * rows * 3).map(value).collect();
                    let batch = [
                        Tensor::from_slice([rows, 4], &x).unwrap(),
                        Tensor::from_slice([rows, 3], &y).unwrap(),
                    ];
                    let report = r.step(&batch).unwrap();
                    assert!(report.applied && report.global_step == step as u64 + 1, "{report:?}");
                }
                let bytes = |(_, t): (String, Tensor)| t.bytes().unwrap().to_vec();
                let parameters: Vec<Vec<u8>> = r.parameters().unwrap().into_iter().map(bytes).collect();
                result.lock().unwrap().push(parameters);
                // Nobody goes while somebody is at the last step.
                done.wait();
            });
        }
    });
    if replicas > 1 {
        let sent = c.servers[ps].counters().unwrap().bytes_sent;
        assert!(sent > 100 * STEPS as u64, "{sent} bytes cannot have been all gradients");
    }
    let mut all = result.into_inner().unwrap();
    assert_eq!(all.len(), replicas);
    all.dedup();
    assert_eq!(all.len(), 1, "the replicas differ");
    all.remove(0)
}

#[test]
fn workers_together_give_the_same_bits_as_one_with_the_whole_batch() {
    let sync = Strategy::Sync { backup: 0 };
    let one = trained(sync, 1, 1);
    assert_eq!(one.len(), 3);
    assert!(trained(sync, 2, 2) == one, "sync, 2 workers, 2 parameter servers");
    assert!(trained(sync, 4, 1) == one, "sync, 4 workers");
    assert!(trained(Strategy::AllReduce, 2, 0) == one, "allreduce, 2 workers");
    assert!(trained(Strategy::AllReduce, 4, 0) == one, "allreduce, 4 workers");
}
