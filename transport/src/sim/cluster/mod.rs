//! A small cluster under every kind of fault: steps of a coordinator over parameter servers and workers, in a network that
//! loses, delays, breaks and parts, among tasks that die, stand still, are replaced and return. What they do is in `model`.
#![forbid(unsafe_code)]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::limits::{Limits, Timing};
use model::{Applied, Book, COORDINATOR, Coordinator, DEADLINE, END, PS, Shared, Task, WORKERS, ms, number};

/// When faults end.
const CALM: Time = Time::from_millis(1500);
/// Steps that begin when everything is well again, long enough after it for everybody to have noticed.
const HEALED: Time = Time::from_millis(3500);

fn is_ps(subject: &str) -> bool {
    PS.contains(&subject)
}

/// A cluster whose network and tasks fail in ways drawn from the seed until it is calm.
fn simulate(seed: u64) -> (Network, Shared) {
    let book = Shared::default();
    let weather = Weather {
        lost: 10_000,
        breaks: 700,
        replay: 20_000,
        ..Weather::default()
    };
    let mut net = Network::new(seed, weather);
    let timing = Timing {
        keep_alive: ms(50),
        idle: ms(250),
        handshake: ms(250),
        stall: ms(500),
    };
    net.set_limits(Limits::default(), timing);
    for subject in PS.into_iter().chain(WORKERS) {
        let node = net.add(subject, Task::make(&book, is_ps(subject)));
        book.borrow_mut().at.insert(subject.to_owned(), node);
    }
    net.add(COORDINATOR, Coordinator::make(&book));
    for _ in 0..5 {
        let at = ms(net.random().below(1000));
        let back = (at + ms(1 + net.random().below(800))).min(CALM);
        let subjects: Vec<String> = book.borrow().at.keys().cloned().collect();
        let (a, b) = (
            subjects[net.random().below(4) as usize].clone(),
            subjects[net.random().below(4) as usize].clone(),
        );
        let of = |book: &Shared, s: &str| book.borrow().at[s];
        let book = book.clone();
        match net.random().below(4) {
            // It dies, and another run of it begins at its address.
            0 => {
                let again = book.clone();
                let (dies, comes) = (a.clone(), a);
                net.at(at, move |n| n.kill(of(&book, &dies)));
                net.at(back, move |n| {
                    let node = of(&again, &comes);
                    n.resume(node);
                    n.restart(node, Task::make(&again, is_ps(&comes)));
                });
            }
            // It stands still.
            1 => {
                net.at(at, move |n| {
                    let node = of(&book, &a);
                    n.pause(node);
                    n.at(back, move |n| n.resume(node));
                });
            }
            // It stands still, is replaced, and returns.
            2 => {
                let replaced = at + (back.saturating_sub(at)) / 2;
                net.at(at, move |n| {
                    let node = of(&book, &a);
                    n.pause(node);
                    n.at(replaced, move |n| {
                        let run = n.incarnation(of(&book, &a)) + 1;
                        let new = n.add_run(&a, run, Task::make(&book, is_ps(&a)));
                        book.borrow_mut().at.insert(a, new);
                    });
                    n.at(back, move |n| n.resume(node));
                });
            }
            // Two do not reach each other.
            _ => {
                net.at(at, move |n| {
                    let (a, b) = (of(&book, &a), of(&book, &b));
                    n.part(a, b);
                    n.at(back, move |n| n.heal(a, b));
                });
            }
        }
    }
    let last = book.clone();
    net.at(CALM, move |n| {
        n.clear_up();
        // Whoever was replaced is ended in the end; its connections die of silence.
        let present: BTreeSet<NodeId> = last.borrow().at.values().copied().collect();
        let replaced = (0..n.len()).map(NodeId).filter(|node| !present.contains(node));
        let replaced: Vec<NodeId> = replaced.filter(|node| n.subject(*node) != COORDINATOR).collect();
        replaced.into_iter().for_each(|node| n.kill(node));
    });
    net.run_until(END);
    (net, book)
}

fn check(seed: u64, net: &Network, book: &Book) {
    let mut applied_by: BTreeMap<u64, Vec<(&(String, u64), &Applied)>> = BTreeMap::new();
    for (by, all) in &book.applied {
        let mut sum = 0.0;
        for a in all {
            sum += a.value;
            assert_eq!(
                a.value,
                number(a.step),
                "seed {seed}: {by:?} added a wrong value: {a:?}"
            );
            assert_eq!(a.sum, sum, "seed {seed}: {by:?} has a wrong sum: {a:?}");
            assert_eq!(
                a.from.1, a.latest,
                "seed {seed}: {by:?} took from a run that is over: {a:?}"
            );
            applied_by.entry(a.step).or_default().push((by, a));
        }
    }
    for (step, o) in &book.steps {
        let ended = o
            .ended
            .unwrap_or_else(|| panic!("seed {seed}: step {step} hangs: {o:?}"));
        assert!(
            ended - o.begun <= DEADLINE + ms(1),
            "seed {seed}: step {step} took too long: {o:?}"
        );
        let times = applied_by.get(step).map_or(&[][..], Vec::as_slice);
        assert!(
            times.len() <= 1,
            "seed {seed}: step {step} was applied more than once: {times:?}"
        );
        if o.failed {
            assert!(
                o.begun < HEALED,
                "seed {seed}: step {step} failed although nothing was wrong: {o:?}"
            );
            continue;
        }
        let [(by, a)] = times else {
            panic!("seed {seed}: step {step} succeeded, and nobody has applied it")
        };
        assert_eq!(o.by, Some((by.1, a.sum)), "seed {seed}: step {step}");
        // Between what the worker was given and what was added comes nothing but the end of steps that have failed.
        let all = &book.applied[*by];
        let at = all.iter().position(|other| other.step == *step).unwrap_or(0);
        let late = all[..at].iter().rev().take_while(|a| book.steps[&a.step].failed);
        let mut given: Vec<f64> = late.map(|a| a.sum - a.value).collect();
        given.push(a.sum - a.value);
        let seen = o.seen.unwrap_or(f64::NAN);
        assert!(
            given.contains(&seen),
            "seed {seed}: step {step} saw {seen}, not {given:?}"
        );
    }
    let healed = book.steps.values().filter(|o| o.begun >= HEALED).count();
    assert!(healed > 20, "seed {seed}: {healed} steps at the end");
    for node in 0..net.len() {
        let c = net.counters(NodeId(node));
        assert_eq!((c.malformed, c.oversized), (0, 0), "seed {seed}: node {node}");
    }
}

/// How many clusters are simulated: `ACTORFLOW_SIMULATIONS`, or a number that takes some seconds.
fn simulations() -> u64 {
    match std::env::var("ACTORFLOW_SIMULATIONS") {
        Ok(n) => n.parse().expect("ACTORFLOW_SIMULATIONS is a number"),
        Err(_) => 1000,
    }
}

/// Calls `each` with every seed, on all cores; what it returned, in no order. A seed that panics fails the test.
fn for_every_seed<T: Send>(seeds: u64, each: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut out = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return out;
            }
            out.push(each(seed));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[test]
fn a_cluster_under_faults_neither_hangs_nor_computes_a_wrong_value() {
    // Every tenth is simulated twice, and must do the same.
    let counts = for_every_seed(simulations(), |seed| {
        let (net, book) = simulate(seed);
        let book = book.borrow();
        check(seed, &net, &book);
        if seed % 10 == 0 {
            assert!(net.trace().len() > 500, "seed {seed}");
            assert!(net.trace() == simulate(seed).0.trace(), "seed {seed} has two traces");
        }
        (book.steps.len(), book.steps.values().filter(|o| o.failed).count())
    });
    let (steps, failed) = counts.iter().fold((0, 0), |(s, f), (a, b)| (s + a, f + b));
    // Neither too rough to compute anything nor too calm to mean anything.
    assert!(
        failed * 100 > steps && failed * 2 < steps,
        "{failed} of {steps} steps failed"
    );
}

#[test]
fn another_seed_does_something_else() {
    assert_ne!(simulate(1).0.trace(), simulate(2).0.trace());
}

#[test]
fn simulated_faults_are_of_every_kind() {
    let (mut fenced, mut stale) = (0, 0);
    let mut whats: BTreeSet<String> = BTreeSet::new();
    for seed in 0..60 {
        let (net, book) = simulate(seed);
        for t in net.trace() {
            whats.insert(t.what.split(' ').next().unwrap_or_default().to_owned());
            fenced += usize::from(t.what.contains("has been seen") || t.what.contains("of it has come"));
        }
        stale += (0..net.len())
            .map(|n| net.counters(NodeId(n)).stale_incarnation)
            .sum::<u64>();
        assert!(book.borrow().applied.values().map(Vec::len).sum::<usize>() > 20);
    }
    for what in ["killed", "restarted", "paused", "resumed", "started"] {
        assert!(whats.contains(what), "nobody was {what}: {whats:?}");
    }
    assert!(fenced > 0 && stale > 0, "{fenced} fenced, {stale} stale");
}
