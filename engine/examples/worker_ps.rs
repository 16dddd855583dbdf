//! Between-graph replication: the classic program of parameter servers and workers.
//!
//! `cargo run --release -p actorflow --example worker_ps`
//!
//! Each task has a server, and each worker a graph and a session of its own; they share variables by name. Here all tasks
//! are threads of one process that speak QUIC with each other, so that one command shows all of it; [`task`] is what each
//! process would run. docs/parallel.md has TensorFlow's text beside it.

use std::net::UdpSocket;
use std::time::Duration;

use actorflow::cluster::identity::{Authority, Identity, Subject};
use actorflow::cluster::{ClusterSpec, Server, ServerOptions, TaskName};
use actorflow::train::optimizer::GradientDescent;
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::{DType, Error, Graph, GraphVariables, Result, Session, SessionOptions, Tensor};

const STEPS: u64 = 200;

fn model(g: &Graph) -> Result<Model> {
    let x = g.placeholder("x", DType::F32, [None])?;
    let y = g.placeholder("y", DType::F32, [None])?;
    let (w, b) = (g.variable("w", 0.0f32)?, g.variable("b", 0.0f32)?);
    let guess = (&w.times(&x)? + &*b)?;
    let loss = (&guess - &y)?.square()?.mean(&[], false)?;
    Ok(Model {
        inputs: vec![x, y],
        loss,
        metrics: vec![],
    })
}

/// What the process of a task runs; a worker gives what it has learnt, and its server, which others may still need: under
/// allreduce each worker adds up gradients for all.
fn task(
    spec: &ClusterSpec,
    job: &str,
    index: u32,
    identity: Identity,
    strategy: Strategy,
) -> Result<(Server, Vec<f32>)> {
    let server = Server::start(ServerOptions::new(spec.clone(), TaskName::new(job, index)?, identity))?;
    if job == "ps" {
        server.join();
        return Ok((server, Vec::new()));
    }
    let (workers, ps) = (spec.num_tasks("worker"), spec.num_tasks("ps"));
    let names = |job: &str, n: usize| (0..n).map(|i| format!("/job:{job}/task:{i}")).collect::<Vec<_>>();
    let mut options = ReplicaOptions::new(strategy, index as usize, workers);
    options.ps = names("ps", ps);
    options.worker = format!("/job:worker/task:{index}");
    options.workers = names("worker", workers);

    let g = Graph::new();
    let mut replica = Replica::build(&g, GradientDescent::new(0.1).into(), options, model)?;
    let session = Session::on(&g, &server, SessionOptions::default())?;
    replica.start(&session)?;
    for step in 0..STEPS {
        let x: Vec<f32> = (0..8).map(|i| ((step + i) % 8) as f32 / 4.0 - 1.0).collect();
        let y: Vec<f32> = x.iter().map(|x| 2.0 * x + 1.0).collect();
        let report = replica.step(&[Tensor::vector(&x), Tensor::vector(&y)])?;
        if step % 50 == 0 {
            println!(
                "worker {index}, global step {}: loss {:.6}, {} updates old",
                report.global_step, report.loss, report.staleness
            );
        }
    }
    let learnt = replica.parameters()?;
    replica.leave()?;
    let learnt = learnt.iter().map(|(_, t)| t.to_scalar::<f32>());
    Ok((server, learnt.collect::<Result<_>>()?))
}

fn address() -> Result<String> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn main() -> Result<()> {
    let strategy: Strategy = std::env::args().nth(1).unwrap_or_else(|| "async".to_owned()).parse()?;
    let spec = ClusterSpec::new()
        .with_job("ps", &[address()?])?
        .with_job("worker", &[address()?, address()?])?;
    let authority = Authority::ephemeral("worker-ps")?;
    let identity = |job: &str, index: u32| {
        let subject = Subject::Task {
            job: job.to_owned(),
            index,
        };
        authority.issue(subject, Duration::from_secs(3600))
    };
    let servers = {
        let (spec, identity) = (spec.clone(), identity("ps", 0)?);
        std::thread::spawn(move || task(&spec, "ps", 0, identity, strategy))
    };
    let mut workers = Vec::new();
    for index in 0..2 {
        let (spec, identity) = (spec.clone(), identity("worker", index)?);
        workers.push(std::thread::spawn(move || {
            task(&spec, "worker", index, identity, strategy)
        }));
    }
    let panicked = |_| Error::internal("a task panicked");
    let mut done = Vec::new();
    for worker in workers {
        done.push(worker.join().map_err(panicked)??);
    }
    for (_, learnt) in &done {
        println!("y = {:.3} x + {:.3}", learnt[0], learnt[1]);
        if (learnt[0] - 2.0).abs() > 0.05 || (learnt[1] - 1.0).abs() > 0.05 {
            return Err(Error::internal("the line was not found"));
        }
    }
    // The parameter servers serve until the process ends.
    drop(servers);
    Ok(())
}
