//! Embeddings under data parallelism: their gradients travel as rows, and do what dense ones would.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod replicas;

use std::sync::{Barrier, Mutex};

use actorflow::train::optimizer::{Adagrad, Adam, Arg, GradientDescent, Momentum, Slot, UpdateRule};
use actorflow::train::parallel::{Model, Replica, Strategy};
use actorflow::{Code, DType, Graph, GraphVariables, Optimizer, Output, Result, Tensor, nn};
use replicas::{devices, options};

const ROWS: usize = 12;

/// Rows of a table by their numbers, or by a product that gives the table a dense gradient.
fn looked_up(table: &Output, ids: &Output, sparse: bool) -> Result<Output> {
    if sparse {
        return nn::embedding_lookup(std::slice::from_ref(table), ids, nn::PartitionStrategy::Mod, None);
    }
    let g = table.graph();
    let (depth, on, off) = (g.constant(ROWS as i32)?, g.constant(1f32)?, g.constant(0f32)?);
    let b = g.op("OneHot").input(ids).input(&depth).input(&on).input(&off);
    b.output()?.matmul(table)
}

fn embedding(g: &Graph, sparse: bool) -> Result<Model> {
    let ids = g.placeholder("ids", DType::I32, [3])?;
    let y = g.placeholder("y", DType::F32, [3, 2])?;
    let start: Vec<f32> = (0..ROWS * 2).map(|i| (i as f32 * 0.37).sin()).collect();
    let table = g.variable("table", Tensor::from_slice([ROWS, 2], &start)?)?;
    let w = g.variable("w", Tensor::from_slice([2, 2], &[0.9f32, -0.3, 0.2, 1.1])?)?;
    let guess = looked_up(table.value(), &ids, sparse)?.matmul(&w)?;
    let loss = (&guess - &y)?.square()?.sum(&[], false)?;
    Ok(Model {
        inputs: vec![ids, y],
        loss,
        metrics: vec![],
    })
}

/// The parameters after some steps, on rows that differ within a batch.
fn trained(
    strategy: Strategy,
    replicas: usize,
    ps: usize,
    sparse: bool,
    optimizer: impl Fn() -> Optimizer + Sync,
) -> Vec<Vec<f32>> {
    let session = devices(ps + replicas);
    let result = Mutex::new(Vec::new());
    let done = Barrier::new(replicas);
    std::thread::scope(|s| {
        for i in 0..replicas {
            let (session, result, optimizer, done) = (session.clone(), &result, &optimizer, &done);
            s.spawn(move || {
                let g = Graph::new();
                let o = options(strategy, i, replicas, ps);
                let mut r = Replica::build(&g, optimizer(), o, |g| embedding(g, sparse)).unwrap();
                r.start(&session.sibling(&g)).unwrap();
                for step in 0..30 {
                    // The last row is never touched; others meet other replicas' now and then.
                    let first = (step * 5 + i * 2) % (ROWS - 1);
                    let ids: Vec<i32> = (0..3).map(|k| ((first + k * 3) % (ROWS - 1)) as i32).collect();
                    let y: Vec<f32> = (0..6).map(|k| ((step * 7 + k + i) as f32).cos()).collect();
                    let batch = [Tensor::vector(&ids), Tensor::from_slice([3, 2], &y).unwrap()];
                    assert!(r.step(&batch).unwrap().applied);
                }
                done.wait();
                let floats = |(_, t): (String, Tensor)| t.to_vec::<f32>().unwrap();
                let parameters: Vec<_> = r.parameters().unwrap().into_iter().map(floats).collect();
                result.lock().unwrap().push(parameters);
                done.wait();
            });
        }
    });
    let mut all: Vec<Vec<Vec<f32>>> = result.into_inner().unwrap();
    all.dedup();
    assert_eq!(all.len(), 1, "{strategy}: the replicas differ");
    all.remove(0)
}

const SYNC: Strategy = Strategy::Sync { backup: 0 };

#[test]
fn adam_does_with_rows_what_it_does_with_a_dense_gradient() {
    let adam = || Adam::new(0.01).into();
    for (strategy, replicas, ps) in [(SYNC, 1, 1), (SYNC, 2, 2), (Strategy::AllReduce, 2, 0)] {
        let dense = trained(strategy, replicas, ps, false, adam);
        assert_eq!(trained(strategy, replicas, ps, true, adam), dense, "{strategy}");
    }
}

#[test]
fn adam_moves_the_rows_that_a_batch_does_not_have() {
    let session = devices(2);
    let g = Graph::new();
    let o = options(SYNC, 0, 1, 1);
    let mut r = Replica::build(&g, Adam::new(0.1).into(), o, |g| embedding(g, true)).unwrap();
    r.start(&session.sibling(&g)).unwrap();
    let y = Tensor::zeros(DType::F32, [3, 2]).unwrap();
    let mut table = |ids: [i32; 3]| {
        r.step(&[Tensor::vector(&ids), y.clone()]).unwrap();
        r.parameters().unwrap()[0].1.to_vec::<f32>().unwrap()
    };
    let first = table([0, 1, 2]);
    let second = table([3, 4, 5]);
    // Row 0 has momentum; row 11 has never had any.
    assert_ne!(first[..2], second[..2]);
    assert_eq!(first[22..], second[22..]);
}

#[test]
fn rows_that_are_all_reduced_do_what_servers_do_with_them() {
    let rules: [fn() -> Optimizer; 3] = [
        || GradientDescent::new(0.1).into(),
        || Momentum::new(0.1, 0.9).into(),
        || Adagrad::new(0.1).into(),
    ];
    for rule in rules {
        for replicas in [2, 3] {
            let served = trained(SYNC, replicas, 1, true, rule);
            assert_eq!(trained(Strategy::AllReduce, replicas, 0, true, rule), served);
        }
    }
}

#[test]
fn embeddings_are_trained_by_their_rows() {
    for (text, required) in [("sync", 2), ("async", 1), ("hybrid1x2", 2), ("allreduce", 2)] {
        let strategy: Strategy = text.parse().unwrap();
        let session = devices(4);
        let table = Mutex::new(Vec::new());
        let all_done = Barrier::new(2);
        std::thread::scope(|s| {
            for i in 0..2 {
                let (session, table, all_done) = (session.clone(), &table, &all_done);
                s.spawn(move || {
                    let g = Graph::new();
                    let o = options(strategy, i, 2, 2);
                    let mut r = Replica::build(&g, GradientDescent::new(1.0).into(), o, |g| {
                        let ids = g.placeholder("ids", DType::I32, [None])?;
                        let table = g.variable("table", Tensor::zeros(DType::F32, [4, 2])?)?;
                        let bias = g.variable("bias", Tensor::zeros(DType::F32, [2])?)?;
                        let rows = looked_up(table.value(), &ids, true)?;
                        let loss = (&rows + &*bias)?.sum(&[], false)?;
                        Ok(Model {
                            inputs: vec![ids],
                            loss,
                            metrics: vec![],
                        })
                    })
                    .unwrap();
                    r.start(&session.sibling(&g)).unwrap();
                    // The second row twice, and one of the replica's own.
                    r.step(&[Tensor::vector(&[1i32, 1, 2 + i as i32])]).unwrap();
                    all_done.wait();
                    table
                        .lock()
                        .unwrap()
                        .push(r.parameters().unwrap()[0].1.to_vec::<f32>().unwrap());
                });
            }
        });
        let n = required as f32;
        for t in table.into_inner().unwrap() {
            assert_eq!(
                t,
                [0., 0., -4. / n, -4. / n, -1. / n, -1. / n, -1. / n, -1. / n],
                "{text}"
            );
        }
    }
}

/// A rule of a program's own, which knows dense gradients only.
struct DenseOnly;

impl UpdateRule for DenseOnly {
    fn name(&self) -> &'static str {
        "DenseOnly"
    }

    fn slots(&self) -> Vec<Slot> {
        Vec::new()
    }

    fn dense(&self) -> (&'static str, Vec<Arg>, Vec<(&'static str, bool)>) {
        ("GradientDescent", vec![Arg::Hyper(0.1.into()), Arg::Grad], vec![])
    }

    fn sparse(&self) -> Option<(&'static str, Vec<Arg>, Vec<(&'static str, bool)>)> {
        None
    }
}

#[test]
fn what_cannot_be_agreed_on_is_refused_with_the_cure() {
    let model = |g: &Graph| embedding(g, true);
    let refused = Replica::build(&Graph::new(), DenseOnly.into(), options(SYNC, 0, 1, 1), model);
    let e = refused.err().unwrap();
    assert_eq!(e.code(), Code::Unimplemented);
    assert!(
        e.message().contains("table") && e.message().contains("another optimizer"),
        "{e}"
    );
    let mut wrong = options(SYNC, 0, 1, 1);
    wrong.replica = 1;
    let sgd = GradientDescent::new(0.1);
    assert!(Replica::build(&Graph::new(), sgd.into(), wrong, model).is_err());
}
