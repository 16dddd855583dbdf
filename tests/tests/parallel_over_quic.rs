//! Synchronous replicas in several tasks, over real connections: together they compute what one does with the whole batch,
//! and wait for each other as long as they were told to.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use actorflow::train::coordinator::Coordinator;
use actorflow::train::init::{Constant, RandomNormal};
use actorflow::train::optimizer::{Momentum, Optimizer};
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::train::sync_replicas::SyncReplicas;
use actorflow::{Code, DType, Graph, GraphVariables, Output, Result, Session, SessionOptions, Tensor, Variable};
use cluster::{Cluster, options};

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

/// Options with which a step that says nothing of waiting ends at once when it waits.
fn impatient() -> SessionOptions {
    SessionOptions {
        stall_timeout: Duration::from_millis(100),
        ..options()
    }
}

/// Longer than a step that says nothing is given, others making progress or not.
const PAUSE: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_replica_may_pause_for_less_than_the_deadline_and_is_named_after_it() {
    let c = Cluster::new(&[("ps", 0), ("worker", 0), ("worker", 1)]);
    let replica = |i: usize, deadline: Duration| {
        let mut o = ReplicaOptions::new(Strategy::Sync { backup: 0 }, i, 2);
        o.ps = vec!["/job:ps/task:0".to_owned()];
        o.worker = format!("/job:worker/task:{i}");
        o.deadline = deadline;
        let g = Graph::new();
        let mut r = Replica::build(&g, Momentum::new(0.1, 0.9).into(), o, network).unwrap();
        r.start(&Session::on(&g, &c.servers[1 + i], impatient()).unwrap())
            .unwrap();
        r
    };
    let batch = [
        Tensor::from_slice([1, 4], &[1f32; 4]).unwrap(),
        Tensor::from_slice([1, 3], &[1f32; 3]).unwrap(),
    ];
    let longest = PAUSE + Duration::from_secs(3);
    let e = std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let mut r = replica(0, longest);
            r.step(&batch).unwrap();
            assert!(r.step(&batch).unwrap().applied);
            let begun = Instant::now();
            let e = r.step(&batch).unwrap_err();
            assert!(begun.elapsed() >= longest, "{e}");
            e
        });
        let mut r = replica(1, LONG);
        r.step(&batch).unwrap();
        std::thread::sleep(PAUSE);
        r.step(&batch).unwrap();
        // Alive, but not at its next step.
        waits.join().unwrap()
    });
    assert_eq!(e.code(), Code::DeadlineExceeded, "{e}");
    assert!(
        e.message().contains("replica 0 waited for replicas [1]") && e.message().contains("deadline"),
        "{e}"
    );
}

/// The mean square error of a weight, and what it is fed with.
fn error_of(g: &Graph, w: &Variable) -> ([Output; 2], Output) {
    let x = g.placeholder("x", DType::F32, [None, Some(4)]).unwrap();
    let y = g.placeholder("y", DType::F32, [None, Some(1)]).unwrap();
    let error = (&x.matmul(w).unwrap() - &y).unwrap().square().unwrap();
    let loss = error.mean(&[], false).unwrap();
    ([x, y], loss)
}

/// Rows of a step, from the first that is wanted on.
fn rows(step: usize, first: usize, count: usize) -> [Tensor; 2] {
    let value = |k: usize| ((step * 131 + k * 17) % 97) as f32 / 48.5 - 1.0;
    let x: Vec<f32> = (first * 4..(first + count) * 4).map(value).collect();
    let y: Vec<f32> = (first..first + count).map(|k| value(k * 7 + 1)).collect();
    [
        Tensor::from_slice([count, 4], &x).unwrap(),
        Tensor::from_slice([count, 1], &y).unwrap(),
    ]
}

#[test]
fn graphs_of_their_own_share_accumulators_by_name_over_tasks_and_equal_one_with_the_whole_batch() {
    const REPLICAS: usize = 2;
    const STEPS: usize = 12;
    let c = Cluster::new(&[("ps", 0), ("worker", 0), ("worker", 1)]);
    let (ready, done, found) = (Barrier::new(REPLICAS), Barrier::new(REPLICAS), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for i in 0..REPLICAS {
            let (c, ready, done, found) = (&c, &ready, &done, &found);
            scope.spawn(move || {
                let g = Graph::new();
                let (w, step) = {
                    let _ps = g.device_scope("/job:ps/task:0");
                    let w = g.get_variable("w", [4, 1], Constant(0.5)).unwrap();
                    (w, g.global_step().unwrap())
                };
                let _worker = g.device_scope(&format!("/job:worker/task:{i}"));
                let (inputs, loss) = error_of(&g, &w);
                let sync = SyncReplicas::new(Momentum::new(0.1, 0.9), REPLICAS, REPLICAS).unwrap();
                let grads = sync.compute_gradients(&loss, None).unwrap();
                let shared = sync.share(&grads, &step).unwrap();
                let replica = shared.replica(i, &grads).unwrap();
                let s = Session::on(&g, &c.servers[1 + i], impatient()).unwrap();
                let threads = Coordinator::new();
                if i == 0 {
                    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
                    s.execute(&[shared.init()]).unwrap();
                    shared.start_chief(&s, &threads).unwrap();
                }
                ready.wait();
                s.execute(&[replica.init()]).unwrap();
                for n in 0..STEPS {
                    // The other, and the chief, wait for longer than a step that says nothing may.
                    if i == 1 && n == STEPS / 2 {
                        std::thread::sleep(PAUSE);
                    }
                    let mut run = s.runner().timeout(LONG).target(replica.train());
                    for (to, value) in inputs.iter().zip(rows(n, i * 3, 3)) {
                        run = run.feed(to, value);
                    }
                    run.run().unwrap();
                }
                done.wait();
                threads.request_stop();
                threads.join(LONG).unwrap();
                let got = s.run(&[], &[w.value(), step.value()]).unwrap();
                assert_eq!(got[1].to_i64().unwrap(), STEPS as i64);
                found.lock().unwrap().push(got[0].to_vec::<f32>().unwrap());
            });
        }
    });
    let g = Graph::new();
    let w = g.get_variable("w", [4, 1], Constant(0.5)).unwrap();
    let (inputs, loss) = error_of(&g, &w);
    let train = Optimizer::new(Momentum::new(0.1, 0.9)).minimize(&loss).unwrap();
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    for n in 0..STEPS {
        let mut run = s.runner().target(&train);
        for (to, value) in inputs.iter().zip(rows(n, 0, 3 * REPLICAS)) {
            run = run.feed(to, value);
        }
        run.run().unwrap();
    }
    let alone: Vec<f32> = s.run(&[], &[w.value()]).unwrap()[0].to_vec().unwrap();
    let found = found.into_inner().unwrap();
    assert_eq!(found.len(), REPLICAS);
    for together in found {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
        assert!(
            together.iter().zip(&alone).all(near),
            "{together:?} instead of {alone:?}"
        );
        assert!(
            alone.iter().all(|w| (w - 0.5).abs() > 1e-3),
            "nothing was learned: {alone:?}"
        );
    }
}
