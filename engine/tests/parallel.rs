//! Replicas of one process under every strategy: whose gradients count and how often, what waits for whom, and that
//! replicas together do what one machine does.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod replicas;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actorflow::train::init::RandomNormal;
use actorflow::train::optimizer::{Adam, GradientDescent, Momentum};
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, StepReport, Strategy};
use actorflow::{CancelToken, Code, DType, Error, Graph, GraphVariables, Optimizer, Result, Session, Tensor};
use replicas::{devices, options};

/// Two variables with a place for every push; the gradient of a push is 1 at its place. The update subtracts means, so that
/// the variables count how often each push was applied.
fn counters(g: &Graph, places: usize) -> Result<Model> {
    let push = g.placeholder("push", DType::F32, [places])?;
    let a = g.variable("a", Tensor::zeros(DType::F32, [places])?)?;
    let b = g.variable("b", Tensor::zeros(DType::F32, [places])?)?;
    let loss = (&a.times(&push)? + &b.times(&push)?)?.sum(&[], false)?;
    Ok(Model {
        inputs: vec![push],
        loss,
        metrics: vec![],
    })
}

fn one_hot(places: usize, at: usize) -> Tensor {
    let mut v = vec![0f32; places];
    v[at] = 1.0;
    Tensor::vector(&v)
}

struct Counted {
    session: Session,
    places: usize,
    o: ReplicaOptions,
}

impl Counted {
    fn replica(&self) -> Replica {
        let g = Graph::new();
        let optimizer = GradientDescent::new(1.0).into();
        let mut r = Replica::build(&g, optimizer, self.o.clone(), |g| counters(g, self.places)).unwrap();
        r.start(&self.session.sibling(&g)).unwrap();
        r
    }
}

/// How often each push was applied, by the variables of a replica; both variables must agree.
fn counts(r: &Replica, required: usize) -> Vec<usize> {
    let p = r.parameters().unwrap();
    let of = |t: &Tensor| -> Vec<usize> {
        let v = t.to_vec::<f32>().unwrap();
        let count = |x: &f32| {
            let n = -x * required as f32;
            assert!((n - n.round()).abs() < 1e-3 && n > -0.5, "{x} is no count");
            n.round() as usize
        };
        v.iter().map(count).collect()
    };
    let (a, b) = (of(&p[0].1), of(&p[1].1));
    assert_eq!(a, b, "a step was applied to one variable and not to the other");
    a
}

/// Runs all replicas, each in a thread, and checks what holds under every strategy. Gives all reports, by replica.
fn run(strategy: Strategy, replicas: usize, ps: usize, steps: usize, required: usize) -> Vec<Vec<StepReport>> {
    let session = devices(ps + replicas);
    let places = replicas * steps;
    let all = Mutex::new(vec![Vec::new(); replicas]);
    let counted = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for i in 0..replicas {
            let (session, all, counted) = (session.clone(), &all, &counted);
            s.spawn(move || {
                let o = options(strategy, i, replicas, ps);
                let mut r = Counted { session, places, o }.replica();
                let mut reports = Vec::new();
                for k in 0..steps {
                    match r.step(&[one_hot(places, i * steps + k)]) {
                        Ok(report) => reports.push(report),
                        // The others have all left.
                        Err(e) if e.code() == Code::OutOfRange => break,
                        Err(e) => panic!("replica {i}: {e}"),
                    }
                }
                all.lock().unwrap()[i] = reports;
                let histogram = r.histogram().unwrap();
                counted
                    .lock()
                    .unwrap()
                    .push((i, counts_if_last(&r, required), histogram));
                r.leave().unwrap();
            });
        }
    });
    let all = all.into_inner().unwrap();
    // Whoever comes back last sees the end of it.
    let mut o = options(strategy, 0, replicas, ps);
    o.deadline = Duration::from_secs(30);
    if strategy != Strategy::AllReduce {
        let r = Counted { session, places, o }.replica();
        let seen = counts(&r, required);
        assert!(seen.iter().all(|n| *n <= 1), "a push was applied more than once");
        for (i, reports) in all.iter().enumerate() {
            for (k, report) in reports.iter().enumerate() {
                assert_eq!(
                    seen[i * steps + k] == 1,
                    report.applied,
                    "{strategy}: push {k} of replica {i}"
                );
            }
        }
        let pushes: usize = seen.iter().sum();
        let histogram = r.histogram().unwrap();
        assert_eq!(histogram.iter().sum::<u64>(), pushes as u64);
    } else {
        for (_, seen, _) in counted.into_inner().unwrap() {
            assert!(seen.iter().all(|n| *n == 1));
        }
    }
    all
}

fn counts_if_last(r: &Replica, required: usize) -> Vec<usize> {
    match r.options().strategy {
        Strategy::AllReduce => counts(r, required),
        _ => Vec::new(),
    }
}

#[test]
fn asynchronous_pushes_are_applied_once_each() {
    for ps in [1, 2] {
        let all = run("async".parse().unwrap(), 4, ps, 8, 1);
        assert!(all.iter().flatten().all(|r| r.applied));
        let last = all.iter().flatten().map(|r| r.global_step).max();
        assert_eq!(last, Some(32));
    }
}

#[test]
fn synchronous_steps_apply_every_push_of_all_and_none_is_stale() {
    for (n, ps) in [(1, 1), (2, 2), (8, 1)] {
        let all = run("sync".parse().unwrap(), n, ps, 6, n);
        for reports in &all {
            let steps: Vec<u64> = reports.iter().map(|r| r.global_step).collect();
            assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
            assert!(reports.iter().all(|r| r.applied && r.staleness == 0));
        }
    }
}

#[test]
fn with_one_in_reserve_each_step_has_one_set_of_winners() {
    for ps in [1, 2] {
        let all = run("sync+backup1".parse().unwrap(), 4, ps, 10, 3);
        let applied = all.iter().flatten().filter(|r| r.applied).count();
        let steps = all.iter().flatten().map(|r| r.global_step).max().unwrap();
        assert!(all.iter().flatten().all(|r| r.staleness == 0));
        // Pushes whose replica did not hear of it any more count, too.
        assert!(applied <= 3 * steps as usize && applied + 3 >= 3 * steps as usize);
    }
}

#[test]
fn groups_are_synchronous_inside_and_asynchronous_among_each_other() {
    let all = run("hybrid2x2".parse().unwrap(), 4, 2, 6, 2);
    assert!(all.iter().flatten().all(|r| r.applied));
    assert_eq!(all.iter().flatten().map(|r| r.global_step).max(), Some(12));
}

#[test]
fn all_reduce_applies_every_push_at_every_replica() {
    let all = run(Strategy::AllReduce, 4, 0, 6, 4);
    for reports in &all {
        assert!(reports.iter().all(|r| r.applied));
        assert_eq!(
            reports.iter().map(|r| r.global_step).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6]
        );
    }
}

#[test]
fn nobody_is_further_ahead_than_the_bound() {
    for (bound, ps) in [(0, 1), (1, 2), (2, 1)] {
        let (replicas, steps) = (4, 12);
        let session = devices(ps + replicas);
        let done: Vec<AtomicU64> = (0..replicas).map(|_| AtomicU64::new(0)).collect();
        let places = replicas * steps;
        // Joined before anybody begins: who has not joined is not waited for.
        let all_here = std::sync::Barrier::new(replicas);
        std::thread::scope(|s| {
            for i in 0..replicas {
                let (session, done, all_here) = (session.clone(), &done, &all_here);
                s.spawn(move || {
                    let o = options(Strategy::Ssp { bound }, i, replicas, ps);
                    let mut r = Counted { session, places, o }.replica();
                    all_here.wait();
                    for k in 0..steps as u64 {
                        let slowest = done.iter().map(|d| d.load(Ordering::SeqCst)).min().unwrap();
                        // What others have done is noted after they are told.
                        assert!(k <= slowest + bound + 1, "step {k}, the slowest is at {slowest}");
                        if (i as u64 + k).is_multiple_of(3) {
                            std::thread::sleep(Duration::from_millis((i as u64 * 7 + k) % 5));
                        }
                        assert!(r.step(&[one_hot(places, i * steps + k as usize)]).unwrap().applied);
                        done[i].store(k + 1, Ordering::SeqCst);
                    }
                    r.leave().unwrap();
                });
            }
        });
    }
}

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

/// The parameters after 200 steps on batches of 8 rows that do not depend on how many share them.
fn trained(strategy: Strategy, replicas: usize, ps: usize, optimizer: impl Fn() -> Optimizer + Sync) -> Vec<Vec<u8>> {
    let session = devices(ps + replicas);
    let result = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for i in 0..replicas {
            let (session, result, optimizer) = (session.clone(), &result, &optimizer);
            s.spawn(move || {
                let g = Graph::new();
                let mut o = options(strategy, i, replicas, ps);
                o.micro_batches = 4 / replicas;
                let mut r = Replica::build(&g, optimizer(), o, network).unwrap();
                r.start(&session.sibling(&g)).unwrap();
                let rows = 8 / replicas;
                for step in 0..200 {
                    let value = |k: usize| ((step * 131 + k * 17) % 97) as f32 / 48.5 - 1.0;
                    let x: Vec<f32> = (i * rows * 4..(i + 1) * rows * 4).map(value).collect();
                    let y: Vec<f32> = (i * rows * 3..(i + 1) * rows * 3).map(value).collect();
                    let batch = [
                        Tensor::from_slice([rows, 4], &x).unwrap(),
                        Tensor::from_slice([rows, 3], &y).unwrap(),
                    ];
                    assert!(r.step(&batch).unwrap().applied);
                }
                let bytes = |(_, t): (String, Tensor)| t.bytes().unwrap().to_vec();
                let parameters = r.parameters().unwrap().into_iter().map(bytes).collect();
                result.lock().unwrap().push(parameters);
            });
        }
    });
    let mut all: Vec<Vec<Vec<u8>>> = result.into_inner().unwrap();
    all.dedup();
    assert_eq!(all.len(), 1, "the replicas differ");
    all.remove(0)
}

#[test]
fn replicas_together_give_the_same_bits_as_one_with_the_whole_batch() {
    let momentum = || Momentum::new(0.1, 0.9).into();
    let sync = Strategy::Sync { backup: 0 };
    let one = trained(sync, 1, 1, momentum);
    assert_eq!(trained(sync, 2, 2, momentum), one);
    assert_eq!(trained(sync, 4, 1, momentum), one);
    assert_eq!(trained(Strategy::AllReduce, 2, 0, momentum), one);
    assert_eq!(trained(Strategy::AllReduce, 4, 0, momentum), one);
}

#[test]
fn rules_with_shared_scalars_work_on_several_servers() {
    let adam = || Adam::new(0.01).into();
    let sync = Strategy::Sync { backup: 0 };
    let one = trained(sync, 1, 1, adam);
    assert_eq!(trained(sync, 2, 2, adam), one);
    assert_eq!(trained(Strategy::AllReduce, 2, 0, adam), one);
}

#[test]
fn a_killed_replica_holds_up_nobody_if_one_is_in_reserve() {
    let (replicas, ps, steps) = (3, 2, 40);
    let session = devices(ps + replicas);
    let places = replicas * steps;
    let strategy = Strategy::Sync { backup: 1 };
    std::thread::scope(|s| {
        for i in 0..2 {
            let session = session.clone();
            s.spawn(move || {
                let o = options(strategy, i, replicas, ps);
                let mut r = Counted { session, places, o }.replica();
                for k in 0.. {
                    let report = r.step(&[one_hot(places, i * steps + k)]).unwrap();
                    if report.global_step >= steps as u64 {
                        break;
                    }
                }
            });
        }
        // Dies at some point of each step, and comes back for the next.
        let session = session.clone();
        s.spawn(move || {
            let o = options(strategy, 2, replicas, ps);
            let mut r = Counted { session, places, o }.replica();
            for k in 0..steps {
                let token = CancelToken::new();
                let killer = token.clone();
                let killing = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_micros(k as u64 * 37));
                    killer.cancel(Error::cancelled("killed"));
                });
                let _ = r.step_unless(&[one_hot(places, 2 * steps + k)], &token);
                killing.join().unwrap();
            }
        });
    });
    let o = options(strategy, 2, replicas, ps);
    let r = Counted { session, places, o }.replica();
    let counts = counts(&r, 2);
    assert!(counts.iter().all(|n| *n <= 1));
    assert!(counts.iter().sum::<usize>() >= 2 * steps);
}

#[test]
fn a_killed_replica_of_an_all_reduce_takes_its_place_again() {
    let (replicas, steps) = (3, 12);
    let session = devices(replicas);
    let places = replicas * steps;
    std::thread::scope(|s| {
        for i in 0..replicas {
            let session = session.clone();
            s.spawn(move || {
                let o = options(Strategy::AllReduce, i, replicas, 0);
                let mut r = Counted { session, places, o }.replica();
                let mut done = 0;
                for attempt in 0u64.. {
                    let k = done as usize;
                    if k == steps {
                        break;
                    }
                    let token = CancelToken::new();
                    if i == 1 && attempt % 3 != 2 {
                        let killer = token.clone();
                        std::thread::spawn(move || {
                            std::thread::sleep(Duration::from_micros(attempt * 97 % 1500));
                            killer.cancel(Error::cancelled("killed"));
                        });
                    }
                    match r.step_unless(&[one_hot(places, i * steps + k)], &token) {
                        Ok(report) => done = report.global_step,
                        Err(e) if i != 1 => panic!("replica {i}: {e}"),
                        // A step that was killed may have been applied here.
                        Err(_) => done = (counts(&r, replicas).iter().sum::<usize>() / replicas) as u64,
                    }
                }
                let counts = counts(&r, replicas);
                assert_eq!(counts.iter().sum::<usize>(), replicas * steps);
            });
        }
    });
}

#[test]
fn whoever_waits_in_vain_is_told_for_whom() {
    let session = devices(3);
    let mut o = options(Strategy::Sync { backup: 0 }, 0, 2, 1);
    o.deadline = Duration::from_millis(300);
    let mut r = Counted { session, places: 4, o }.replica();
    let e = r.step(&[one_hot(4, 0)]).unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded);
    assert!(e.to_string().contains("waited for replicas [1]"), "{e}");
}

#[test]
fn a_step_that_too_few_are_left_for_is_over_at_once() {
    let session = devices(3);
    let strategy = Strategy::Sync { backup: 0 };
    let start = |i: usize| {
        let (session, o) = (session.clone(), options(strategy, i, 2, 1));
        Counted { session, places: 4, o }.replica()
    };
    let (mut a, b) = (start(0), start(1));
    b.options();
    let waiting = std::thread::spawn(move || a.step(&[one_hot(4, 0)]).unwrap_err());
    let mut b = b;
    b.leave().unwrap();
    let e = waiting.join().unwrap();
    assert_eq!(e.code(), Code::OutOfRange);
    assert!(e.to_string().contains("[1] have left"), "{e}");
}

#[test]
fn a_schedule_and_staleness_scale_the_learning_rate() {
    let session = devices(3);
    let build = |i: usize| {
        let g = Graph::new();
        let mut o = options("async-scaled".parse().unwrap(), i, 2, 1);
        o.ps = vec!["/cpu:0".to_owned()];
        let rate = g.constant(1.0f32).unwrap();
        let mut r = Replica::build(&g, GradientDescent::new(&rate).into(), o, |g| counters(g, 2)).unwrap();
        r.start(&session.sibling(&g)).unwrap();
        r
    };
    let (mut a, mut b) = (build(0), build(1));
    assert_eq!(a.step(&[one_hot(2, 0)]).unwrap().staleness, 0);
    // Its values are one update old: half the rate.
    assert_eq!(b.step(&[one_hot(2, 1)]).unwrap().staleness, 1);
    assert_eq!(a.parameters().unwrap()[0].1.to_vec::<f32>().unwrap(), [-1.0, -0.5]);
    assert_eq!(a.histogram().unwrap(), [1, 1]);
}
