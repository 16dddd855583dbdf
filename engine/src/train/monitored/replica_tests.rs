use std::sync::Arc;
use std::time::Duration;

use actorflow_core::{Code, DType, Error, Graph, Result, Tensor};
use parking_lot::Mutex;

use super::hooks::{
    CheckpointSaverHook, Every, LoggingTensorHook, NanTensorHook, ProfilerHook, StepCounterHook, StopAtStepHook,
    SummarySaverHook,
};
use super::*;
use crate::session::{Session, SessionOptions};
use crate::summary::{self, EventWriter, read_events};
use crate::train::optimizer::Momentum;
use crate::train::parallel::{Model, ReplicaOptions, Strategy};
use crate::train::saver::latest_checkpoint;
use crate::train::variable::GraphVariables;

/// A model that counts its updates: `count` goes down by 1 with each mean of gradients of batches of ones.
fn model(g: &Graph) -> Result<Model> {
    let x = g.placeholder("x", DType::F32, [None])?;
    let count = g.variable("count", 0f32)?;
    let loss = count.times(&x)?.mean(&[], false)?;
    summary::scalar("loss", &loss)?;
    Ok(Model {
        inputs: vec![x],
        loss,
        metrics: vec![],
    })
}

fn replica(strategy: Strategy, number: usize, of: usize, parts: usize) -> Replica {
    let mut options = ReplicaOptions::new(strategy, number, of);
    options.ps = vec!["/cpu:0".to_owned()];
    options.worker = format!("/cpu:{}", 1 + number);
    options.workers = (0..of).map(|i| format!("/cpu:{}", 1 + i)).collect();
    options.micro_batches = parts;
    Replica::build(&Graph::new(), Momentum::new(1.0, 0.0).into(), options, model).unwrap()
}

fn devices() -> Session {
    let options = SessionOptions {
        devices: 3,
        ..SessionOptions::with_threads(2)
    };
    Session::with_options(&Graph::new(), options).unwrap()
}

fn ones() -> [Tensor; 1] {
    [Tensor::vector(&[1f32, 1.0])]
}

/// What a replica saw: each report, and what its hooks logged.
type Seen = (Vec<StepReport>, Vec<String>);

fn train_to(last: i64, strategy: Strategy, number: usize, parts: usize, devices: &Session, dir: &str) -> Seen {
    let replica = replica(strategy, number, 2, parts);
    let (loss, lines) = (replica.loss().clone(), Arc::<Mutex<Vec<String>>>::default());
    let (into, rates, devices) = (lines.clone(), lines.clone(), devices.clone());
    let writer = Arc::new(EventWriter::create(format!("{dir}/events{number}")).unwrap());
    let mut s = MonitoredSession::for_replica(replica)
        .sessions(move |g| Ok(devices.sibling(g)))
        .checkpoint_dir(dir)
        .chief_hook(CheckpointSaverHook::new(dir, Every::Steps(4)))
        .hook(StopAtStepHook::last_step(last))
        .hook(NanTensorHook::new(&loss))
        .hook(LoggingTensorHook::new(&[("loss", &loss)], Every::Steps(1), move |l| {
            into.lock().push(l.to_owned());
        }))
        .hook(StepCounterHook::new(Every::Steps(2), move |r| {
            rates.lock().push(format!("at {}", r.step));
        }))
        .hook(SummarySaverHook::new(&writer, Every::Steps(3)))
        .hook(ProfilerHook::new(format!("{dir}/profile{number}"), Every::Steps(5)))
        .build()
        .unwrap();
    let mut reports = Vec::new();
    while !s.should_stop() {
        match s.step(&ones()) {
            Ok(report) => reports.push(report),
            // The others have all the steps that there are to take.
            Err(e) => assert!(e.code() == Code::OutOfRange && s.should_stop(), "{e}"),
        }
    }
    assert_eq!(s.recoveries(), 0);
    s.close().unwrap();
    let summaries = read_events(writer.path()).unwrap().len();
    assert!(reports.is_empty() || summaries >= 3, "{summaries}");
    let lines = lines.lock().clone();
    (reports, lines)
}

#[test]
fn hooks_watch_replicas_under_every_strategy_and_the_next_training_goes_on() {
    for (text, parts) in [
        ("async", 1),
        ("sync", 1),
        ("sync", 2),
        ("ssp3", 1),
        ("hybrid2x1", 1),
        ("allreduce", 1),
    ] {
        let strategy: Strategy = text.parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().to_str().unwrap();
        for (from, last) in [(0u64, 12i64), (12, 20)] {
            // Values are in the checkpoint alone.
            let devices = devices();
            let (chief, worker) = std::thread::scope(|scope| {
                let other = scope.spawn(|| train_to(last, strategy, 1, parts, &devices, d));
                (train_to(last, strategy, 0, parts, &devices, d), other.join().unwrap())
            });
            let all: Vec<&StepReport> = chief.0.iter().chain(&worker.0).collect();
            assert!(all.iter().all(|r| r.global_step > from), "{text}: {all:?}");
            assert!(all.iter().any(|r| r.global_step >= last as u64), "{text}: {all:?}");
            // The loss that hooks log is that of the step that they watch: how many updates there were before it.
            let losses = chief.1.iter().filter(|l| l.starts_with("loss = "));
            let expected: Vec<String> = chief.0.iter().map(|r| format!("loss = {}", r.loss)).collect();
            assert!(losses.eq(expected.iter()), "{text}: {:?}, not {expected:?}", chief.1);
            // Under some strategies the other replica may take nearly all of the steps.
            let long = chief.0.len() >= 8;
            assert!(
                long || !strategy.is_synchronous() || text == "hybrid2x1",
                "{text}: {chief:?}"
            );
            assert!(
                !long || chief.1.iter().any(|l| l.starts_with("at ")),
                "{text}: {:?}",
                chief.1
            );
            if strategy.is_synchronous() && text != "hybrid2x1" {
                for (i, r) in chief.0.iter().enumerate() {
                    let before = from + i as u64;
                    assert_eq!((r.global_step, r.loss), (before + 1, -(before as f32)), "{text}");
                }
            }
            let latest = latest_checkpoint(d).unwrap().unwrap();
            let step: i64 = latest.rsplit_once('-').unwrap().1.parse().unwrap();
            assert!(step >= last, "{text}: {latest}");
            let profiles = std::fs::read_dir(format!("{d}/profile0")).unwrap().count();
            assert!(!long || profiles > 1, "{text}: {profiles}");
        }
    }
}

/// Fails the run of this number once.
struct FailsOnce(usize, Code);

impl SessionHook for FailsOnce {
    fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
        self.0 = self.0.wrapping_sub(1);
        match self.0 {
            0 => Err(Error::new(self.1, "the task was lost")),
            _ => Ok(None),
        }
    }
}

#[test]
fn a_replica_whose_values_are_lost_goes_on_from_the_checkpoint_and_one_that_fails_otherwise_where_it_was() {
    for (strategy, lost) in [("sync", true), ("async", true), ("sync", false), ("allreduce", false)] {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().to_str().unwrap();
        let kept = devices();
        let mut s = MonitoredSession::for_replica(replica(strategy.parse().unwrap(), 0, 1, 1))
            .sessions(move |g| Ok(if lost { devices() } else { kept.clone() }.sibling(g)))
            .checkpoint_dir(d)
            .hook(CheckpointSaverHook::new(d, Every::Steps(2)))
            .hook(FailsOnce(4, Code::Unavailable))
            .hook(StopAtStepHook::last_step(6))
            .build()
            .unwrap();
        let mut steps = Vec::new();
        while !s.should_stop() {
            let report = s.step(&ones()).unwrap();
            // Before each update there were as many as the counter says.
            assert_eq!(report.loss, 1.0 - report.global_step as f32);
            steps.push(report.global_step);
        }
        let expected: &[u64] = if lost {
            &[1, 2, 3, 3, 4, 5, 6]
        } else {
            &[1, 2, 3, 4, 5, 6]
        };
        assert_eq!((&steps[..], s.recoveries()), (expected, 1), "{strategy}");
        s.close().unwrap();
    }
}

#[test]
fn values_that_a_server_lost_between_steps_are_restored_and_other_errors_are_the_programs() {
    for strategy in ["sync", "async"] {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().to_str().unwrap();
        let shared = devices();
        let same = shared.clone();
        let mut s = MonitoredSession::for_replica(replica(strategy.parse().unwrap(), 0, 1, 1))
            .sessions(move |g| Ok(same.sibling(g)))
            .checkpoint_dir(d)
            .hook(CheckpointSaverHook::new(d, Every::Steps(2)))
            .build()
            .unwrap();
        for _ in 0..3 {
            s.step(&ones()).unwrap();
        }
        shared.backend().resources().clear_all();
        // The checkpoint is of step 2.
        assert_eq!(s.step(&ones()).unwrap().global_step, 3, "{strategy}");
        assert_eq!(s.recoveries(), 1);
        let e = s.step(&[]).unwrap_err();
        assert_eq!((e.code(), s.recoveries()), (Code::InvalidArgument, 1), "{e}");
    }
}

#[test]
fn a_session_without_a_replica_takes_no_steps_and_a_worker_without_a_chief_none_either() {
    let g = Graph::new();
    g.variable("w", 1f32).unwrap();
    let mut s = MonitoredSession::builder(&g).build().unwrap();
    assert_eq!(s.step(&ones()).unwrap_err().code(), Code::FailedPrecondition);
    let shared = devices();
    let e = MonitoredSession::for_replica(replica("sync".parse().unwrap(), 1, 2, 1))
        .sessions(move |g| Ok(shared.sibling(g)))
        .ready_timeout(Duration::from_millis(100))
        .build()
        .err()
        .unwrap();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(e.message().contains("replica 1 waited for replicas [0]"), "{e}");
}
