//! A worker that trains: the perceptron 784-512-256-10 on batches of 128, with its parameters on the servers.

use std::time::{Duration, Instant};

use actorflow::cluster::{ClusterSpec, Server};
use actorflow::train::optimizer::GradientDescent;
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::{DType, Error, Graph, GraphVariables, Result, Session, SessionOptions, Tensor};

use crate::measure::Settings;
use crate::mlp;
use crate::tasks::say;

/// Images of a worker's step.
pub(super) const BATCH: usize = 128;

/// The cases, and whether their workers wait for each other.
pub(super) const CASES: [(&str, bool); 4] = [
    ("train_async", false),
    ("train_sync", true),
    ("train_async_feed", false),
    ("train_sync_feed", true),
];

/// The whole task of a worker; ends with its parent.
pub(super) fn run(
    spec: &ClusterSpec,
    server: &Server,
    index: u32,
    case: &str,
    session: SessionOptions,
    m: &Settings,
) -> Result<()> {
    let names = |job: &str| -> Vec<String> {
        (0..spec.num_tasks(job))
            .map(|i| format!("/job:{job}/task:{i}"))
            .collect()
    };
    let (sync, feed) = (
        case.contains("sync") && !case.contains("async"),
        case.ends_with("_feed"),
    );
    let strategy: Strategy = if sync { "sync" } else { "async" }.parse()?;
    let workers = names("worker");
    let me = workers[index as usize].clone();
    let mut options = ReplicaOptions::new(strategy, index as usize, workers.len());
    options.ps = names("ps");
    options.worker = me.clone();
    options.workers = workers;
    options.deadline = Duration::from_secs(60);
    let (xs, ys) = mlp::data()?;

    let g = Graph::new();
    let mut local = Vec::new();
    let mut replica = Replica::build(&g, GradientDescent::new(0.01).into(), options, |g| {
        let (x, y) = if feed {
            let x = g.placeholder("x", DType::F32, [BATCH, mlp::LAYERS[0]])?;
            (x, g.placeholder("y", DType::I32, [BATCH])?)
        } else {
            let _here = g.device_scope(&me);
            let mut keep = |name: &str, all: &Tensor| {
                let v = g.variable_builder(name).not_trainable().local();
                let v = v.build(all.slice_rows(0, BATCH)?)?;
                local.push(v.initializer().clone());
                Ok::<_, Error>(v.value().clone())
            };
            (keep("x", &xs)?, keep("y", &ys)?)
        };
        let loss = mlp::loss(&x, &y)?;
        let inputs = if feed { vec![x, y] } else { vec![] };
        Ok(Model {
            inputs,
            loss,
            metrics: vec![],
        })
    })?;
    let filters = vec!["/job:ps".to_owned(), me];
    let session = SessionOptions {
        device_filters: filters,
        ..session
    };
    let session = Session::on(&g, server, session)?;
    if !local.is_empty() {
        session.execute(&local.iter().collect::<Vec<_>>())?;
    }
    replica.start(&session)?;
    say("SESSION")?;
    let mut at = 0;
    let mut step = || -> Result<()> {
        if !feed {
            return replica.step(&[]).map(drop);
        }
        at = (at + BATCH) % mlp::POOL;
        let batch = [xs.slice_rows(at, at + BATCH)?, ys.slice_rows(at, at + BATCH)?];
        replica.step(&batch).map(drop)
    };
    let warm = Instant::now();
    let mut n = 0u64;
    while n < 5 || (warm.elapsed().as_secs_f64() < 1.0 && n < 500) {
        step()?;
        n += 1;
    }
    say("READY")?;
    let told = std::thread::spawn(|| std::io::stdin().read_line(&mut String::new()));
    // The others may need this one's gradients to become warm.
    while !told.is_finished() {
        step()?;
    }
    let mut rates = Vec::new();
    for _ in 0..m.samples {
        let (t, mut n) = (Instant::now(), 0u64);
        let elapsed = loop {
            step()?;
            n += 1;
            let d = t.elapsed().as_secs_f64();
            if d > m.window {
                break d;
            }
        };
        rates.push(n as f64 / elapsed);
    }
    let text = serde_json::to_string(&rates).map_err(|e| Error::internal(e.to_string()))?;
    say(&format!("RATES {text}"))?;
    // The others are measured until they are done too.
    loop {
        step()?;
    }
}
