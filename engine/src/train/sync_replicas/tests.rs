use std::time::{Duration, Instant};

use actorflow_core::{Code, DType, Graph, Operation, Output, PartialShape, Tensor};

use super::*;
use crate::nn::{PartitionStrategy, embedding_lookup};
use crate::session::Session;
use crate::train::coordinator::Coordinator;
use crate::train::init::Constant;
use crate::train::monitored::hooks::StopAtStepHook;
use crate::train::monitored::{MonitoredSession, Role};
use crate::train::optimizer::{GradientDescent, Momentum};
use crate::train::variable::GraphVariables;

const LONG: Duration = Duration::from_secs(60);

/// The mean square of what a weight and a table make of a batch of ids, placeholder `ids`.
fn loss(g: &Graph, w: &Variable, table: &Variable) -> (Output, Output) {
    let ids = g.placeholder("ids", DType::I64, PartialShape::vector(None)).unwrap();
    let rows = embedding_lookup(&[table.value().clone()], &ids, PartitionStrategy::Mod, None).unwrap();
    let out = rows.matmul(w.value()).unwrap();
    let wanted = ids.cast(DType::F32).unwrap().expand_dims(1).unwrap();
    let loss = out
        .minus(&wanted)
        .unwrap()
        .square()
        .unwrap()
        .mean(&[0, 1], false)
        .unwrap();
    (ids, loss)
}

fn variables(g: &Graph) -> (Variable, Variable, Variable) {
    let w = g.get_variable("w", [3, 1], Constant(0.5)).unwrap();
    let table = g.get_variable("table", [6, 3], Constant(0.25)).unwrap();
    (w, table, g.global_step().unwrap())
}

fn value(s: &Session, x: &Output) -> Vec<f32> {
    s.run(&[], &[x]).unwrap()[0].to_vec().unwrap()
}

/// The batch of a replica in a step.
fn batch(replica: usize, step: usize) -> Vec<i64> {
    (0..4).map(|i| ((replica * 5 + step * 3 + i * i) % 6) as i64).collect()
}

/// One machine with the batches of all replicas as one.
fn alone(replicas: usize, steps: usize) -> (Vec<f32>, Vec<f32>) {
    let g = Graph::new();
    let (w, table, step) = variables(&g);
    let (ids, loss) = loss(&g, &w, &table);
    let train = Optimizer::new(Momentum::new(0.1, 0.9))
        .minimize_counting(&loss, &step)
        .unwrap();
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    for i in 0..steps {
        let all: Vec<i64> = (0..replicas).flat_map(|r| batch(r, i)).collect();
        s.runner()
            .feed(&ids, Tensor::vector(&all))
            .target(&train)
            .run()
            .unwrap();
    }
    (value(&s, w.value()), value(&s, table.value()))
}

struct Together {
    session: Session,
    sync: SyncGraph,
    replicas: Vec<(Output, Replica)>,
    w: Variable,
    table: Variable,
    step: Variable,
}

/// Replicas in one graph, ready.
fn together(aggregate: usize, total: usize) -> Together {
    let g = Graph::new();
    let (w, table, step) = variables(&g);
    let sync = SyncReplicas::new(Momentum::new(0.1, 0.9), aggregate, total).unwrap();
    let (mut shared, mut replicas) = (None, Vec::new());
    for i in 0..total {
        let (ids, loss) = loss(&g, &w, &table);
        let grads = sync.compute_gradients(&loss, None).unwrap();
        let s: &SyncGraph = shared.get_or_insert_with(|| sync.share(&grads, &step).unwrap());
        replicas.push((ids, s.replica(i, &grads).unwrap()));
    }
    let sync = shared.unwrap();
    let session = Session::new(&g).unwrap();
    session.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let mut init: Vec<&Operation> = vec![sync.init()];
    init.extend(replicas.iter().map(|(_, r)| r.init()));
    session.execute(&init).unwrap();
    Together {
        session,
        sync,
        replicas,
        w,
        table,
        step,
    }
}

impl Together {
    fn run(&self, replica: usize, step: usize) -> actorflow_core::Result<()> {
        let (ids, r) = &self.replicas[replica];
        let run = self.session.runner().deadline(Instant::now() + LONG);
        run.feed(ids, Tensor::vector(&batch(replica, step)))
            .target(r.train())
            .run()
            .map(drop)
    }
    fn global_step(&self) -> i64 {
        self.session.run(&[], &[self.step.value()]).unwrap()[0]
            .to_i64()
            .unwrap()
    }
}

#[test]
fn replicas_in_step_equal_one_machine_with_all_of_their_batches() {
    let steps = 12;
    for n in [1, 2, 3] {
        let t = together(n, n);
        let c = Coordinator::new();
        t.sync.start_chief(&t.session, &c).unwrap();
        std::thread::scope(|scope| {
            for r in 0..n {
                let t = &t;
                scope.spawn(move || (0..steps).for_each(|i| t.run(r, i).unwrap()));
            }
        });
        c.request_stop();
        c.join(LONG).unwrap();
        assert_eq!(t.global_step(), steps as i64);
        let (w, table) = alone(n, steps);
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(x, y)| (x - y).abs() <= 1e-5 * (1.0 + y.abs()));
        assert!(near(&value(&t.session, t.w.value()), &w), "{n} replicas");
        assert!(near(&value(&t.session, t.table.value()), &table), "{n} replicas");
    }
}

#[test]
fn backups_are_not_waited_for_and_what_is_late_is_dropped() {
    let t = together(2, 3);
    let c = Coordinator::new();
    t.sync.start_chief(&t.session, &c).unwrap();
    // The third does nothing.
    std::thread::scope(|scope| {
        for r in 0..2 {
            let t = &t;
            scope.spawn(move || (0..5).for_each(|i| t.run(r, i).unwrap()));
        }
    });
    assert_eq!(t.global_step(), 5);
    let before = (value(&t.session, t.w.value()), value(&t.session, t.table.value()));
    // What it computes at step 0 is dropped, and it goes on at once.
    t.run(2, 0).unwrap();
    assert_eq!(t.global_step(), 5);
    assert_eq!(
        (value(&t.session, t.w.value()), value(&t.session, t.table.value())),
        before
    );
    // Now it takes part.
    std::thread::scope(|scope| {
        let t = &t;
        scope.spawn(move || t.run(0, 5).unwrap());
        scope.spawn(move || t.run(2, 5).unwrap());
    });
    assert_eq!(t.global_step(), 6);
    assert_ne!(value(&t.session, t.w.value()), before.0);
    c.request_stop();
    c.join(LONG).unwrap();
}

#[test]
fn a_replica_that_waits_in_vain_has_its_deadline() {
    let t = together(2, 2);
    let (ids, r) = &t.replicas[0];
    let run = t.session.runner().timeout(Duration::from_millis(30));
    let e = run
        .feed(ids, Tensor::vector(&batch(0, 0)))
        .target(r.train())
        .run()
        .unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded, "{e}");
}

/// Waits until so many have been counted by the accumulator of a name.
fn wait_for_count(s: &Session, accumulator: &str, wanted: i32) {
    let g = s.graph();
    let handle = g.output(accumulator).unwrap();
    let count = g.op("AccumulatorNumAccumulated").input(&handle).output().unwrap();
    let until = Instant::now() + LONG;
    while s.run(&[], &[&count]).unwrap()[0].to_scalar::<i32>().unwrap() != wanted {
        assert!(Instant::now() < until, "{accumulator} does not come to {wanted}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_step_that_has_begun_is_finished_although_the_chief_is_told_to_stop() {
    let t = together(1, 2);
    let c = Coordinator::new();
    let nodes = t.session.graph().nodes();
    let shared = |name: &str| {
        let found = nodes
            .iter()
            .find(|n| n.attrs().str("shared_name").is_ok_and(|s| s == name));
        found.unwrap().name().to_owned()
    };
    let arrivals = &shared("sync_replicas/arrivals");
    std::thread::scope(|scope| {
        let replica = scope.spawn(|| t.run(0, 0));
        wait_for_count(&t.session, arrivals, 1);
        // Holds the chief up in the middle of its step.
        let mutex = t.session.graph().output(&shared("sync_replicas/mutex")).unwrap();
        let lock = t.session.graph().op("MutexLock").input(&mutex).output().unwrap();
        let held = t.session.run(&[], &[&lock]).unwrap();
        t.sync.start_chief(&t.session, &c).unwrap();
        wait_for_count(&t.session, arrivals, 0);
        c.request_stop();
        drop(held);
        replica.join().unwrap().unwrap();
    });
    c.join(LONG).unwrap();
    assert_eq!(t.global_step(), 1);
    // The other replica's gate is open too.
    t.run(1, 0).unwrap();
}

#[test]
fn monitored_sessions_train_in_step_and_stop_at_the_same_one() {
    let t = together(2, 2);
    let graph = t.session.graph().clone();
    let shared = Session::new(&graph).unwrap();
    let train = |index: usize, role: Role| {
        let shared = shared.clone();
        let (ids, replica) = &t.replicas[index];
        let mut s = MonitoredSession::builder(&graph)
            .role(role)
            .sessions(move |_| Ok(shared.clone()))
            .hook(SyncReplicasHook::new(&t.sync, replica, role))
            .hook(StopAtStepHook::last_step(7))
            .build()
            .unwrap();
        let mut runs = 0;
        while !s.should_stop() {
            let args = crate::train::monitored::RunArgs::new();
            let args = args
                .feed(ids, Tensor::vector(&batch(index, runs)))
                .target(replica.train());
            s.run_args(&args).unwrap();
            runs += 1;
        }
        s.close().unwrap();
        runs
    };
    let runs = std::thread::scope(|scope| {
        let worker = scope.spawn(|| train(1, Role::Worker));
        (train(0, Role::Chief), worker.join().unwrap())
    });
    assert_eq!(runs, (7, 7));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let code = |r: Result<SyncReplicas>| r.err().map(|e| e.code());
    let sgd = || GradientDescent { rate: 0.1.into() };
    assert_eq!(code(SyncReplicas::new(sgd(), 0, 2)), Some(Code::InvalidArgument));
    assert_eq!(code(SyncReplicas::new(sgd(), 3, 2)), Some(Code::InvalidArgument));
    let g = Graph::new();
    let (w, table, step) = variables(&g);
    let sync = SyncReplicas::new(sgd(), 1, 1).unwrap();
    let (_, loss) = loss(&g, &w, &table);
    let grads = sync.compute_gradients(&loss, None).unwrap();
    let shared = sync.share(&grads, &step).unwrap();
    let refused = |index, grads: &[VariableGrad]| shared.replica(index, grads).unwrap_err();
    assert!(refused(1, &grads).message().contains("no replica 1"));
    assert!(refused(0, &grads[..1]).message().contains("table"));
    let dense: Vec<VariableGrad> = grads
        .iter()
        .map(|(d, v)| {
            (
                d.as_ref()
                    .map(|d| actorflow_core::gradient::Grad::Dense(d.to_dense().unwrap())),
                v.clone(),
            )
        })
        .collect();
    assert!(refused(0, &dense).message().contains("sparse for one replica"));
    let none: Vec<VariableGrad> = grads.iter().map(|(_, v)| (None, v.clone())).collect();
    assert_eq!(sync.share(&none, &step).unwrap_err().code(), Code::InvalidArgument);
}
