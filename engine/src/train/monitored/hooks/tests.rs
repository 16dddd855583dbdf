use std::sync::Arc;
use std::time::Duration;

use actorflow_core::{Code, Error, Graph, Operation, Result, Tensor};
use parking_lot::Mutex;

use super::*;
use crate::graphdef::proto::event::What;
use crate::session::Session;
use crate::summary::{self, EventWriter, read_events};
use crate::train::monitored::{MonitoredBuilder, MonitoredSession};
use crate::train::variable::{GraphVariables, Variable};

/// A graph that counts.
fn counting() -> (Graph, Variable, Operation) {
    let g = Graph::new();
    let step = g.global_step().unwrap();
    let one = g.constant(1i64).unwrap();
    let up = step.assign_add(&one).unwrap();
    (g, step, up)
}

fn run_all(b: MonitoredBuilder, up: &Operation) -> Result<()> {
    b.build()?.train(|s| s.execute(&[up]))
}

#[test]
fn the_rate_is_of_the_steps_since_the_last_report() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Arc::new(EventWriter::create(dir.path()).unwrap());
    let (g, _, up) = counting();
    let rates = Arc::<Mutex<Vec<StepRate>>>::default();
    let into = rates.clone();
    let counter = StepCounterHook::new(Every::Steps(2), move |r| into.lock().push(r)).summaries(&writer);
    let b = MonitoredSession::builder(&g)
        .hook(counter)
        .hook(StopAtStepHook::num_steps(7));
    run_all(b, &up).unwrap();
    let seen: Vec<(i64, i64)> = rates.lock().iter().map(|r| (r.step, r.steps)).collect();
    assert_eq!(seen, [(3, 2), (5, 2), (7, 2)]);
    writer.flush().unwrap();
    assert_eq!(read_events(writer.path()).unwrap().len(), 4);
    let rate = StepRate {
        step: 9,
        steps: 3,
        elapsed: Duration::from_millis(1500),
    };
    assert_eq!(rate.per_second(), 2.0);
}

#[test]
fn values_are_logged_every_so_many_runs() {
    let (g, step, up) = counting();
    let ten = (step.value() * 0).unwrap();
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let into = lines.clone();
    let v = g.constant(vec![1f32, 2.0]).unwrap();
    let half = g.constant(0.5f32).unwrap();
    let log = LoggingTensorHook::new(
        &[("zero", &ten), ("half", &half), ("v", &v)],
        Every::Steps(3),
        move |l| {
            into.lock().push(l.to_owned());
        },
    );
    let b = MonitoredSession::builder(&g)
        .hook(log)
        .hook(StopAtStepHook::num_steps(7));
    run_all(b, &up).unwrap();
    let lines = lines.lock();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("zero = 0, half = 0.5, v = "), "{}", lines[0]);
}

#[test]
fn a_loss_that_is_nan_fails_the_run_or_ends_the_training() {
    let make = || {
        let (g, step, up) = counting();
        let zero = g.constant(0f32).unwrap();
        let left = (g.constant(3i64).unwrap() - step.value())
            .unwrap()
            .cast(actorflow_core::DType::F32)
            .unwrap();
        // 0 / 0 at step 3.
        let loss = zero.divided_by(&left).unwrap();
        (g, loss, up, step)
    };
    let (g, loss, up, _) = make();
    let mut s = MonitoredSession::builder(&g)
        .hook(NanTensorHook::new(&loss))
        .build()
        .unwrap();
    let e = (0..9).find_map(|_| s.execute(&[&up]).err()).unwrap();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(
        e.message().contains(&loss.name()) && e.message().contains("global step"),
        "{e}"
    );

    let (g, loss, up, step) = make();
    let finals = FinalOpsHook::new(&[], &[step.value()]);
    let values = finals.values();
    assert!(values.get().is_none());
    let quiet = NanTensorHook::new(&loss).stop_quietly();
    run_all(MonitoredSession::builder(&g).hook(quiet).hook(finals), &up).unwrap();
    let last = values.get().unwrap()[0].to_i64().unwrap();
    assert!((3..=4).contains(&last), "{last}");
}

#[test]
fn summaries_and_the_graph_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Arc::new(EventWriter::create(dir.path()).unwrap());
    let (g, step, up) = counting();
    summary::scalar("step", &step.value().cast(actorflow_core::DType::F32).unwrap()).unwrap();
    let hook = SummarySaverHook::new(&writer, Every::Steps(2));
    run_all(
        MonitoredSession::builder(&g)
            .hook(hook)
            .hook(StopAtStepHook::num_steps(5)),
        &up,
    )
    .unwrap();
    let events = read_events(writer.path()).unwrap();
    assert!(matches!(events[1].what, Some(What::GraphDef(_))));
    let steps: Vec<i64> = events[2..].iter().map(|e| e.step).collect();
    assert_eq!(steps, [1, 3, 5]);
    assert!(events[2..].iter().all(|e| matches!(e.what, Some(What::Summary(_)))));
}

#[test]
fn a_profile_is_a_chrome_trace_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let (g, _, up) = counting();
    let hook = ProfilerHook::new(dir.path(), Every::Steps(2));
    run_all(
        MonitoredSession::builder(&g)
            .hook(hook)
            .hook(StopAtStepHook::num_steps(3)),
        &up,
    )
    .unwrap();
    let mut files: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, ["timeline-1.json", "timeline-3.json"]);
    let text = std::fs::read_to_string(dir.path().join(&files[0])).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(
        events
            .iter()
            .any(|e| e["name"] == "AssignAddVariableOp" && e["ph"] == "X"),
        "{text}"
    );
    assert!(events.iter().any(|e| e["name"] == "thread_name"));
}

#[test]
fn a_worker_waits_for_a_step_but_not_for_ever() {
    let (g, step, up) = counting();
    let session = Session::new(&g).unwrap();
    let shared = session.clone();
    let waits = GlobalStepWaiterHook::new(3).timeout(Duration::from_secs(60));
    let b = MonitoredSession::builder(&g)
        .hook(waits)
        .sessions(move |_| Ok(shared.clone()));
    let mut s = b.build().unwrap();
    let other = {
        let up = up.clone();
        std::thread::spawn(move || (0..3).try_for_each(|_| session.execute(&[&up])))
    };
    let seen = s.run(&[], &[step.value()]).unwrap()[0].to_i64().unwrap();
    other.join().unwrap().unwrap();
    assert_eq!(seen, 3);

    let (g, step, _) = counting();
    let b = MonitoredSession::builder(&g).hook(GlobalStepWaiterHook::new(3).timeout(Duration::from_millis(5)));
    let e = b.build().unwrap().run(&[], &[step.value()]).unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(e.message().contains("it is 0"), "{e}");
}

#[test]
fn a_function_that_has_no_more_feeds_ends_the_training() {
    let (g, step, up) = counting();
    let mut left = 2;
    let s = step.value().clone();
    let feed = FeedFnHook::new(move || {
        left -= 1;
        match left < 0 {
            true => Err(Error::out_of_range("no more")),
            false => Ok(vec![(s.clone(), Tensor::from(7i64))]),
        }
    });
    let finals = FinalOpsHook::new(&[], &[step.value()]);
    let values = finals.values();
    run_all(MonitoredSession::builder(&g).hook(feed).hook(finals), &up).unwrap();
    assert_eq!(values.get().unwrap()[0].to_i64().unwrap(), 2);
}

#[test]
fn hooks_that_need_a_global_step_say_so() {
    let g = Graph::new();
    g.variable("w", 1f32).unwrap();
    let e = MonitoredSession::builder(&g)
        .hook(StopAtStepHook::last_step(1))
        .build()
        .err()
        .unwrap();
    assert_eq!(e.code(), Code::FailedPrecondition);
    assert!(e.message().contains("StopAtStepHook needs a global step"), "{e}");
}

#[test]
fn checkpoints_are_saved_at_the_beginning_every_so_many_steps_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_str().unwrap();
    let events = tempfile::tempdir().unwrap();
    let writer = Arc::new(EventWriter::create(events.path()).unwrap());
    let (g, _, up) = counting();
    let hook = CheckpointSaverHook::new(d, Every::Steps(3))
        .basename("m")
        .summaries(&writer);
    let b = MonitoredSession::builder(&g)
        .hook(hook)
        .hook(StopAtStepHook::num_steps(5));
    run_all(b, &up).unwrap();
    let saved: Vec<i64> = read_events(writer.path()).unwrap()[1..]
        .iter()
        .map(|e| e.step)
        .collect();
    assert_eq!(saved, [0, 3, 5]);
    let latest = crate::train::saver::latest_checkpoint(d).unwrap().unwrap();
    assert!(latest.ends_with("/m-5"), "{latest}");
}
