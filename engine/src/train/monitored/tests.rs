use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actorflow_core::{Code, DType, Error, Graph, Operation, PartialShape, Result, Tensor};
use parking_lot::Mutex;

use super::hooks::{CheckpointSaverHook, Every, StopAtStepHook};
use super::*;
use crate::queue::{Queue, QueueKind};
use crate::session::{Session, SessionOptions};
use crate::train::optimizer::{GradientDescent, Optimizer};
use crate::train::queue_runner::QueueRunner;
use crate::train::variable::{GraphVariables, Variable};

/// A weight that each step halves, and the step that does it.
fn model() -> (Graph, Variable, Operation) {
    let g = Graph::new();
    let w = g.variable("w", 64f32).unwrap();
    let loss = w.square().unwrap();
    let step = g.global_step().unwrap();
    let descent = Optimizer::new(GradientDescent { rate: 0.25.into() });
    let train = descent.minimize_counting(&loss, &step).unwrap();
    (g, w, train)
}

fn value(s: &mut MonitoredSession, w: &Variable) -> f32 {
    s.run(&[], &[w.value()]).unwrap()[0].to_scalar().unwrap()
}

/// Notes what is called, and fails the runs that it is told to.
struct Watch {
    calls: Arc<Mutex<Vec<String>>>,
    fails: Vec<(usize, Code)>,
    runs: usize,
}

impl Watch {
    fn new(fails: &[(usize, Code)]) -> (Watch, Arc<Mutex<Vec<String>>>) {
        let calls = Arc::<Mutex<Vec<String>>>::default();
        let watch = Watch {
            calls: calls.clone(),
            fails: fails.to_vec(),
            runs: 0,
        };
        (watch, calls)
    }
    fn note(&self, what: &str) {
        self.calls.lock().push(what.to_owned());
    }
}

impl SessionHook for Watch {
    fn begin(&mut self, _: &Graph) -> Result<()> {
        self.note("begin");
        Ok(())
    }
    fn after_create_session(&mut self, _: &Setup<'_>) -> Result<()> {
        self.note("created");
        Ok(())
    }
    fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
        self.runs += 1;
        self.note("before");
        match self.fails.iter().find(|f| f.0 == self.runs) {
            Some((_, code)) => Err(Error::new(*code, "the task was lost")),
            None => Ok(None),
        }
    }
    fn after_run(&mut self, _: &RunContext<'_>, values: &RunValues<'_>) -> Result<()> {
        assert!(values.values.is_empty());
        self.note("after");
        Ok(())
    }
    fn end(&mut self, _: &Session) -> Result<()> {
        self.note("end");
        Ok(())
    }
}

#[test]
fn the_chief_initialises_and_hooks_see_everything_in_order() {
    let (g, w, train) = model();
    let (watch, calls) = Watch::new(&[]);
    let mut s = MonitoredSession::builder(&g).hook(watch).build().unwrap();
    s.execute(&[&train]).unwrap();
    assert_eq!(value(&mut s, &w), 32.0);
    s.close().unwrap();
    let calls = calls.lock().join(" ");
    assert_eq!(calls, "begin created before after before after end");
}

#[test]
fn a_training_goes_on_from_its_checkpoint_and_stops_at_its_last_step() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().to_str().unwrap();
    let train_to = |last: i64| {
        let (g, w, train) = model();
        let mut s = MonitoredSession::builder(&g)
            .checkpoint_dir(d)
            .chief_hook(CheckpointSaverHook::new(d, Every::Steps(2)))
            .hook(StopAtStepHook::last_step(last))
            .build()
            .unwrap();
        let mut steps = 0;
        while !s.should_stop() {
            s.execute(&[&train]).unwrap();
            steps += 1;
        }
        let w = s.session().unwrap().run(&[], &[w.value()]).unwrap()[0]
            .to_scalar::<f32>()
            .unwrap();
        s.close().unwrap();
        (steps, w)
    };
    assert_eq!(train_to(3), (3, 8.0));
    assert_eq!(train_to(5), (2, 2.0));
    // Nothing is left to do.
    assert_eq!(train_to(5), (0, 2.0));
}

#[test]
fn a_lost_session_is_made_anew_and_goes_on_from_the_last_checkpoint() {
    for code in [Code::Aborted, Code::Unavailable] {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().to_str().unwrap();
        let (g, w, train) = model();
        let (watch, calls) = Watch::new(&[(4, code)]);
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let mut s = MonitoredSession::builder(&g)
            .checkpoint_dir(d)
            .sessions(move |g| {
                count.fetch_add(1, Ordering::Relaxed);
                Session::new(g)
            })
            .hook(CheckpointSaverHook::new(d, Every::Steps(2)))
            .hook(watch)
            .hook(StopAtStepHook::last_step(5))
            .build()
            .unwrap();
        let mut runs = 0;
        while !s.should_stop() {
            s.execute(&[&train]).unwrap();
            runs += 1;
        }
        // Steps 1, 2, 3, then the third again, because the checkpoint is of step 2.
        assert_eq!((runs, s.recoveries(), made.load(Ordering::Relaxed)), (6, 1, 2));
        assert_eq!(
            s.session().unwrap().run(&[], &[w.value()]).unwrap()[0],
            Tensor::from(2f32)
        );
        s.close().unwrap();
        assert_eq!(calls.lock().iter().filter(|c| *c == "created").count(), 2);
    }
}

#[test]
fn recoveries_in_a_row_have_a_limit() {
    let (g, _, train) = model();
    let always: Vec<(usize, Code)> = (2..100).map(|i| (i, Code::Unavailable)).collect();
    let (watch, calls) = Watch::new(&always);
    let b = MonitoredSession::builder(&g).hook(watch).max_recoveries(3);
    let mut s = b.poll(Duration::from_millis(1)).build().unwrap();
    s.execute(&[&train]).unwrap();
    let e = s.execute(&[&train]).unwrap_err();
    assert_eq!((e.code(), s.recoveries()), (Code::Unavailable, 3));
    assert!(e.message().contains("gave up after 3"), "{e}");
    assert!(s.should_stop());
    s.close().unwrap();
    // There is no session in which hooks could end.
    assert!(!calls.lock().contains(&"end".to_owned()));
}

#[test]
fn other_errors_are_the_programs() {
    let (g, _, train) = model();
    let (watch, _) = Watch::new(&[(1, Code::DataLoss)]);
    let mut s = MonitoredSession::builder(&g).hook(watch).build().unwrap();
    assert_eq!(s.execute(&[&train]).unwrap_err().code(), Code::DataLoss);
    assert_eq!(s.recoveries(), 0);
    s.execute(&[&train]).unwrap();
}

#[test]
fn a_worker_waits_for_the_chief_and_shares_its_variables() {
    let (g, w, train) = model();
    let shared = Session::new(&g).unwrap();
    let worker = {
        let (g, shared, w) = (g.clone(), shared.clone(), w.clone());
        std::thread::spawn(move || {
            let b = MonitoredSession::builder(&g).role(Role::Worker);
            let b = b.ready_timeout(Duration::from_secs(60));
            let mut s = b.sessions(move |_| Ok(shared.clone())).build().unwrap();
            value(&mut s, &w)
        })
    };
    let mut chief = MonitoredSession::builder(&g)
        .sessions(move |_| Ok(shared.clone()))
        .build()
        .unwrap();
    let seen = worker.join().unwrap();
    assert_eq!(seen, 64.0);
    chief.execute(&[&train]).unwrap();
    assert_eq!(value(&mut chief, &w), 32.0);
}

#[test]
fn a_worker_without_a_chief_names_what_is_not_initialised() {
    let (g, _, _) = model();
    let b = MonitoredSession::builder(&g).role(Role::Worker);
    let e = b.ready_timeout(Duration::from_millis(30)).build().err().unwrap();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(e.message().contains("w, global_step"), "{e}");
}

#[test]
fn a_worker_initialises_its_local_variables_and_no_others() {
    let (g, w, _) = model();
    let mine = g.variable_builder("mine").local().build(7f32).unwrap();
    let shared = Session::new(&g).unwrap();
    shared
        .execute(&[w.initializer(), g.global_step().unwrap().initializer()])
        .unwrap();
    shared
        .execute(&[&w.assign(&g.constant(3f32).unwrap()).unwrap()])
        .unwrap();
    let (chiefs, calls) = Watch::new(&[]);
    let mut chiefs = Some(chiefs);
    let mut worker = |g: &Graph| {
        let shared = shared.clone();
        let b = MonitoredSession::builder(g).chief_hook(chiefs.take().unwrap());
        b.role(Role::Worker).sessions(move |_| Ok(shared.clone())).build()
    };
    let mut s = worker(&g).unwrap();
    assert_eq!((value(&mut s, &mine), value(&mut s, &w)), (7.0, 3.0));
    assert!(calls.lock().is_empty());
    // One that starts from another variable's initial value would set that back.
    let g2 = Graph::new();
    let v = g2.variable("v", 1f32).unwrap();
    g2.variable_builder("from_v").local().build(v.value().clone()).unwrap();
    let e = MonitoredSession::builder(&g2).role(Role::Worker).build().err().unwrap();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains(" v:"), "{e}");
    MonitoredSession::builder(&g2).build().unwrap();
}

#[test]
fn a_scaffold_that_initialises_too_little_is_found_out() {
    let (g, w, _) = model();
    let scaffold = Scaffold {
        init: Some(w.initializer().clone()),
        ..Scaffold::default()
    };
    let e = MonitoredSession::builder(&g).scaffold(scaffold).build().err().unwrap();
    assert_eq!(e.code(), Code::FailedPrecondition);
    assert!(
        e.message().contains("global_step") && !e.message().contains(" w"),
        "{e}"
    );
}

#[test]
fn what_a_scaffold_does_not_say_comes_from_the_collections() {
    let (g, w, _) = model();
    let nine = w.assign(&g.constant(9f32).unwrap()).unwrap();
    let step = g.global_step().unwrap();
    let init = g.group("my_init", &[nine, step.initializer().clone()]).unwrap();
    g.add_to_collection(scaffold::INIT_OP, init.name());
    let mut s = MonitoredSession::builder(&g).build().unwrap();
    assert_eq!(value(&mut s, &w), 9.0);
    assert_eq!(s.scaffold().init.as_ref().unwrap().name(), "my_init");
}

#[test]
fn the_end_of_the_input_ends_the_training_and_a_failed_reader_fails_it() {
    for (limit, fails) in [(3i64, false), (3, true)] {
        let g = Graph::new();
        let count = g.variable_builder("count").local().reference().build(0i64).unwrap();
        let shape = PartialShape::scalar();
        let queue = Queue::builder(&g, QueueKind::Fifo, &[(DType::I64, shape)])
            .capacity(2)
            .build()
            .unwrap();
        let next = g
            .op("CountUpTo")
            .input(count.handle())
            .attr("limit", limit)
            .output()
            .unwrap();
        let next = match fails {
            // Fails at 2.
            true => {
                let two = g.constant(2i64).unwrap();
                let (fine, text) = (next.less(&two).unwrap(), g.constant(Tensor::string("no")).unwrap());
                let check = g.op("Assert").input(&fine).input_list(&[text]).finish().unwrap();
                let _after = g.control_dependencies(&[check]);
                next.identity().unwrap()
            }
            false => next,
        };
        let put = queue.enqueue(&[next]).unwrap();
        QueueRunner::new(&queue, &[put]).unwrap().register();
        let out = queue.dequeue().unwrap();
        let seen = Mutex::new(Vec::new());
        let s = MonitoredSession::builder(&g).build().unwrap();
        let outcome = s.train(|s| {
            seen.lock().push(s.run(&[], &[&out[0]])?[0].to_i64()?);
            Ok(())
        });
        match fails {
            false => {
                outcome.unwrap();
                assert_eq!(*seen.lock(), [0, 1, 2]);
            }
            true => {
                let e = outcome.unwrap_err();
                assert_eq!(e.code(), Code::InvalidArgument, "{e}");
            }
        }
    }
}

#[test]
fn a_tensor_is_fed_once() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, PartialShape::scalar()).unwrap();
    let (y, z) = (x.square().unwrap(), x.clone());
    let feed = hooks::FeedFnHook::new(move || Ok(vec![(z.clone(), Tensor::from(3f32))]));
    let mut s = MonitoredSession::builder(&g).hook(feed).build().unwrap();
    assert_eq!(s.run(&[], &[&y, &y]).unwrap(), [Tensor::from(9f32), Tensor::from(9f32)]);
    let e = s.run(&[(&x, Tensor::from(1f32))], &[&y]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("fed twice"), "{e}");
}

#[test]
fn a_run_may_wait_as_long_as_the_most_hurried_who_asks_for_something() {
    let (g, ..) = model();
    let queue = Queue::builder(&g, QueueKind::Fifo, &[(DType::F32, PartialShape::scalar())]);
    let never = queue.build().unwrap().dequeue().unwrap()[0].clone();
    /// Wants its runs to end early.
    struct Hurry(Duration);
    impl SessionHook for Hurry {
        fn before_run(&mut self, _: &RunContext<'_>) -> Result<Option<RunArgs>> {
            Ok(Some(RunArgs::new().timeout(self.0)))
        }
    }
    let options = SessionOptions {
        stall_timeout: Duration::from_millis(10),
        ..SessionOptions::with_threads(1)
    };
    let b = MonitoredSession::builder(&g).sessions(move |g| Session::with_options(g, options.clone()));
    let mut s = b.hook(Hurry(Duration::from_millis(200))).build().unwrap();
    let begun = std::time::Instant::now();
    let asked = RunArgs::new().fetch(&never).timeout(Duration::from_secs(60));
    let e = s.run_args(&asked).unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(200), "{e}");
    assert_eq!(e.code(), Code::DeadlineExceeded, "{e}");
    assert!(e.message().contains("deadline"), "{e}");
}
