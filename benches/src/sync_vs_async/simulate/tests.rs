//! What a simulation must be like where it can be computed by hand.

use actorflow::train::parallel::Strategy;

use super::super::data::Random;
use super::super::inject::Injection;
use super::super::setup::{Mark, Raw};
use super::{Outcome, Times, World};

/// Without jitter: 10 ms of computing, 1 ms on the network, 0.1 ms at a server.
fn steady() -> Times {
    Times::new(vec![0.010], vec![0.001], 0.0001, 1, 1)
}

fn jittery() -> Times {
    let mut random = Random::new(5);
    let mut draw = |mean: f64| (0..500).map(|_| mean * (0.5 + random.unit())).collect();
    Times::new(draw(0.010), draw(0.001), 0.0001, 1, 1)
}

fn strategy(text: &str) -> Strategy {
    text.parse().unwrap()
}

fn run_with(times: &Times, text: &str, workers: usize, injection: &Injection) -> Outcome {
    World::new(times, strategy(text), workers, injection, &[1]).run(1)
}

fn run(times: &Times, text: &str, workers: usize) -> Outcome {
    run_with(times, text, workers, &Injection::default())
}

fn straggler(text: &str) -> Injection {
    Injection {
        stragglers: vec![text.parse().unwrap()],
        ..Injection::default()
    }
}

fn rate(o: &Outcome) -> f64 {
    o.updates as f64 / o.seconds
}

fn near(a: f64, b: f64, share: f64) {
    assert!((a - b).abs() <= share * b, "{a} is not {b}");
}

#[test]
fn synchronous_rounds_without_jitter_take_what_the_formula_says() {
    for workers in [1, 2, 7, 64] {
        // All compute at once and arrive at once; the server takes one after the other.
        let round = 0.010 + 0.001 + workers as f64 * 0.0001;
        near(rate(&run(&steady(), "sync", workers)), 1.0 / round, 0.01);
        let reduced = rate(&run(&steady(), "allreduce", workers));
        match workers {
            1 => near(reduced, 1.0 / 0.010, 0.01),
            _ => near(reduced, 1.0 / round, 0.01),
        }
    }
    let two = Times { ps: 2, ..steady() };
    near(
        rate(&run(&two, "sync", 4)),
        1.0 / (0.010 + 2.0 * 0.001 + 4.0 * 0.0001),
        0.01,
    );
}

#[test]
fn all_reduce_spreads_buckets_over_owners() {
    let times = Times { buckets: 8, ..steady() };
    let round = 0.010 + 0.001 + 4.0 * 0.0001 * 2.0 / 8.0;
    near(rate(&run(&times, "allreduce", 4)), 1.0 / round, 0.01);
}

#[test]
fn asynchronous_workers_add_up_until_the_server_is_busy_all_the_time() {
    near(rate(&run(&jittery(), "async", 1)), 1.0 / 0.0111, 0.03);
    near(rate(&run(&jittery(), "async", 8)), 8.0 / 0.0111, 0.03);
    // 111 workers keep a server busy.
    for workers in [400, 10_000] {
        near(rate(&run(&jittery(), "async", workers)), 1.0 / 0.0001, 0.01);
    }
}

#[test]
fn the_age_of_asynchronous_updates_is_that_of_the_other_workers() {
    let o = run(&jittery(), "async", 8);
    near(super::mean_age(&o.staleness), 7.0, 0.02);
    assert!(run(&jittery(), "sync", 8).staleness.len() <= 1);
    // Two groups overtake each other.
    near(super::mean_age(&run(&jittery(), "hybrid2x4", 8).staleness), 1.0, 0.05);
}

#[test]
fn a_straggler_slows_synchronous_workers_and_not_asynchronous_ones() {
    let slow = straggler("1@10x");
    let others = |text: &str| {
        let (clean, slow) = (run(&jittery(), text, 4), run_with(&jittery(), text, 4, &slow));
        (slow.others / slow.seconds) / (clean.others / clean.seconds)
    };
    assert!(others("async") > 0.97);
    assert!(others("sync+backup1") > 0.9);
    assert!(others("sync") < 0.2);
    assert!(others("allreduce") < 0.2);
    assert!(others("ssp3") < 0.2, "the bound makes the others wait in the long run");
}

#[test]
fn nobody_is_ever_further_ahead_than_the_bound() {
    for bound in [0, 1, 3, 10] {
        let o = run_with(&jittery(), &format!("ssp{bound}"), 6, &straggler("2@7x"));
        assert_eq!(o.lead, bound, "it is reached, too, since one is slow");
    }
}

#[test]
fn backups_hide_jitter_and_lose_the_work_of_the_late() {
    let (plain, backed) = (run(&jittery(), "sync", 16), run(&jittery(), "sync+backup2", 16));
    assert!(rate(&backed) > rate(&plain));
    assert_eq!(plain.late, 0);
    assert!(backed.late > 0);
    near((backed.pushes - backed.late) as f64, 14.0 * backed.updates as f64, 0.01);
}

#[test]
fn a_delay_is_waited_for_twice_in_a_step() {
    let delay = Injection {
        delays: vec!["5ms".parse().unwrap()],
        ..Injection::default()
    };
    near(rate(&run_with(&steady(), "async", 1, &delay)), 1.0 / 0.0211, 0.01);
    let waiting = run_with(&steady(), "async", 1, &delay).waiting;
    near(waiting, 1.0 - 0.010 / 0.0211, 0.03);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let of = |seed| {
        World::new(&jittery(), strategy("ssp3"), 9, &Injection::default(), &[])
            .run(seed)
            .seconds
    };
    assert_eq!(of(3), of(3));
    assert_ne!(of(3), of(4));
}

/// A run of one worker: how long it makes its batch, computes and waits in each step, in microseconds.
fn raw(steps: impl Iterator<Item = [u64; 3]>, server_cpu: Vec<f64>) -> Raw {
    let mut now = 0;
    let mark = |[input, computes, waits]: [u64; 3]| {
        let begin = now + input;
        let ready = begin + computes;
        now = ready + waits;
        Mark {
            begin,
            ready,
            end: now,
            update: 0,
            applied: true,
            loss: 0.0,
        }
    };
    Raw {
        marks: vec![steps.map(mark).collect()],
        server_cpu,
        ..Raw::default()
    }
}

#[test]
fn one_simulated_worker_makes_as_many_steps_as_the_one_whose_times_it_has() {
    let mut random = Random::new(11);
    let steps: Vec<[u64; 3]> = (0..400)
        .map(|_| [8, 30 + random.below(12) as u64, 14 + random.below(8) as u64])
        .collect();
    let usual = steps.iter().flatten().sum::<u64>() as f64 * 1e-6 / steps.len() as f64;
    // The machine does something else in every twentieth step, and in all of the first.
    let disturbed = steps.iter().enumerate().map(|(i, s)| match i {
        _ if i < 20 => s.map(|t| t * 40),
        _ if i % 20 == 0 => [s[0], s[1] + 9_000, s[2] + 4_000],
        _ => *s,
    });
    let disturbed: Vec<[u64; 3]> = disturbed.collect();
    for (what, steps, cpu) in [
        ("threads", &steps, vec![]),
        ("threads, disturbed", &disturbed, vec![]),
        ("processes", &steps, vec![400.0 * 6e-6]),
        ("processes, disturbed", &disturbed, vec![400.0 * 6e-6]),
    ] {
        let times = Times::of(&raw(steps.iter().copied(), cpu.clone()), 1, 1000);
        for strategy in ["async", "sync"] {
            let simulated = rate(&run(&times, strategy, 1)) * usual;
            assert!(
                (0.95..1.05).contains(&simulated),
                "{what}, {strategy}: {simulated} of the rate"
            );
        }
        match cpu.is_empty() {
            // Waiting is not all the server's: 14 µs is the least.
            true => assert!((13e-6..16e-6).contains(&times.service), "{what}: {}", times.service),
            false => near(times.service, 6e-6, 0.01),
        }
    }
}

#[test]
fn a_server_in_threads_takes_what_it_takes_when_nothing_comes_between() {
    // Handing over between threads takes 40 of 50 µs, but now and then next to nothing.
    let steps = (0..400u64).map(|i| [0, 30, if i % 5 == 0 { 11 } else { 50 }]);
    let times = Times::of(&raw(steps, vec![]), 1, 1000);
    near(times.service, 11e-6, 0.01);
    // So many workers keep it busy, not two.
    near(rate(&run(&times, "async", 2)), 2.0 / 72.2e-6, 0.1);
    near(rate(&run(&times, "async", 64)), 1.0 / 11e-6, 0.02);
}
