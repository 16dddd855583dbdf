//! Between-graph replication: the classic program of parameter servers and workers.
//!
//! `cargo run --release -p actorflow --example worker_ps`
//!
//! Each task has a server, and each worker a graph and a session of its own; they share variables by name. Here all tasks
//! are threads of one process that speak QUIC with each other, so that one command shows all of it; [`task`] is what each
//! process would run. docs/parallel.md has TensorFlow's text beside it.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actorflow::cluster::identity::{Authority, Identity, Subject};
use actorflow::cluster::{ClusterSpec, Server, ServerOptions, TaskName};
use actorflow::train::monitored::MonitoredSession;
use actorflow::train::monitored::hooks::{CheckpointSaverHook, Every, NanTensorHook, StopAtStepHook};
use actorflow::train::optimizer::GradientDescent;
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::{Code, DType, Error, Graph, GraphVariables, Result, Session, SessionOptions, Tensor};

const STEPS: i64 = 200;

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
/// allreduce each worker adds up gradients for all. The chief saves checkpoints to `dir`, from which the training goes on
/// when a server has lost its values.
fn task(
    spec: &ClusterSpec,
    job: &str,
    index: u32,
    identity: Identity,
    strategy: Strategy,
    dir: &Path,
) -> Result<(Arc<Server>, Vec<f32>)> {
    let server = Arc::new(Server::start(ServerOptions {
        directories: vec![dir.display().to_string()],
        ..ServerOptions::new(spec.clone(), TaskName::new(job, index)?, identity)
    })?);
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
    let replica = Replica::build(&g, GradientDescent::new(0.1).into(), options, model)?;
    let (loss, checkpoints) = (replica.loss().clone(), dir.display().to_string());
    let of_sessions = server.clone();
    let mut session = MonitoredSession::for_replica(replica)
        .sessions(move |g| Session::on(g, &of_sessions, SessionOptions::default()))
        .checkpoint_dir(&checkpoints)
        .chief_hook(CheckpointSaverHook::new(&checkpoints, Every::Steps(100)))
        .hook(StopAtStepHook::last_step(STEPS))
        .hook(NanTensorHook::new(&loss))
        .build()?;
    let mut learnt = Vec::new();
    for step in 0.. {
        if session.should_stop() {
            break;
        }
        let x: Vec<f32> = (0..8).map(|i| ((step + i) % 8) as f32 / 4.0 - 1.0).collect();
        let y: Vec<f32> = x.iter().map(|x| 2.0 * x + 1.0).collect();
        let report = match session.step(&[Tensor::vector(&x), Tensor::vector(&y)]) {
            Ok(report) => report,
            // The others have taken the last step, and left.
            Err(e) if e.code() == Code::OutOfRange => break,
            Err(e) => return Err(e),
        };
        if step % 50 == 0 {
            println!(
                "worker {index}, global step {}: loss {:.6}, {} updates old",
                report.global_step, report.loss, report.staleness
            );
        }
    }
    if let Some(replica) = session.replica() {
        learnt = replica.parameters()?;
    }
    session.close()?;
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
    let dir = std::env::temp_dir().join(format!("worker_ps-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let servers = {
        let (spec, identity, dir) = (spec.clone(), identity("ps", 0)?, dir.clone());
        std::thread::spawn(move || task(&spec, "ps", 0, identity, strategy, &dir))
    };
    let mut workers = Vec::new();
    for index in 0..2 {
        let (spec, identity, dir) = (spec.clone(), identity("worker", index)?, dir.clone());
        workers.push(std::thread::spawn(move || {
            task(&spec, "worker", index, identity, strategy, &dir)
        }));
    }
    let panicked = |_| Error::internal("a task panicked");
    let mut done = Vec::new();
    for worker in workers {
        done.push(worker.join().map_err(panicked)??);
    }
    std::fs::remove_dir_all(&dir)?;
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
