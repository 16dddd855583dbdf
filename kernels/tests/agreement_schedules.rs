//! What the strategies of data parallelism promise, under schedules that a model checker (shuttle) chooses: the operations,
//! actors and state machines are those of the engine; replicas are threads, and who goes on at each turn of an actor is up
//! to the checker. That a turn excludes others is shown by `actors/tests/loom_turn.rs`.
//!
//! In every model each push is applied once or not at all, nobody is left parked, and all get to their end: the checker
//! fails if all threads wait.
//!
//! `ACTORFLOW_SCHEDULES=20000 cargo test --release -p actorflow-kernels --test agreement_schedules` tries more schedules.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod agreement;
mod scheduled;

use std::sync::{Arc, Mutex};

use actorflow_core::Code;
use actorflow_kernels::ops::agreement::state::Rules;
use agreement::replica::{Agree, Replica, train};
use agreement::ring::{self, Ring};
use agreement::world::{End, Next, World};
use scheduled::schedules;

/// Rounds that every group makes.
const ROUNDS: i64 = 3;

fn rules(groups: usize, members: usize, required: usize, bound: Option<u64>) -> Rules {
    Rules {
        groups,
        members,
        required,
        bound,
    }
}

/// Replicas that train until all rounds are made; the lives of the first ones end as `ends` says.
fn run(rules: Rules, places: usize, agree: Agree, ends: &'static [&'static [End]], stalest: i64) -> Arc<World> {
    let world = World::new(rules, places);
    for me in 0..world.replicas() {
        let w = world.clone();
        let live = Arc::new(move |life: &_| train(&w, life, agree, me, ROUNDS, stalest));
        world.replica(ends.get(me).copied().unwrap_or(&[]), Next::AtOnce, live);
    }
    world.finish();
    world.check_updates();
    world
}

#[test]
fn synchronous_updates_have_one_set_of_winners_on_all_servers() {
    schedules(|| {
        let world = run(rules(1, 2, 2, None), 2, Agree::Decide, &[], 0);
        world.check_same();
        world.check_end(ROUNDS);
    });
}

#[test]
fn replicas_that_are_cancelled_or_lost_at_any_point_leave_nothing_half_applied() {
    schedules(|| {
        let world = run(
            rules(1, 2, 2, None),
            2,
            Agree::Decide,
            &[&[End::Cancelled, End::Lost], &[End::Lost]],
            0,
        );
        world.check_same();
        world.check_end(ROUNDS);
    });
}

#[test]
fn with_backups_the_first_count_and_late_ones_go_on() {
    schedules(|| {
        let world = run(
            rules(1, 3, 2, None),
            2,
            Agree::Decide,
            &[&[End::Lost, End::Cancelled]],
            0,
        );
        world.check_same();
        world.check_end(ROUNDS);
    });
}

#[test]
fn with_a_backup_the_others_do_not_wait_for_one_that_stays_away() {
    schedules(|| {
        let world = World::new(rules(1, 3, 2, None), 2);
        for (me, ends) in [(0, &[End::Lost][..]), (1, &[]), (2, &[])] {
            let w = world.clone();
            let live = Arc::new(move |life: &_| train(&w, life, Agree::Decide, me, ROUNDS, 0));
            world.replica(ends, Next::Never, live);
        }
        // The one that is lost may wait for a decision; the others' last one is its answer.
        world.finish();
        world.check_updates();
        world.check_same();
        world.check_end(ROUNDS);
    });
}

#[test]
fn groups_are_synchronous_inside_and_do_not_wait_for_each_other() {
    schedules(|| {
        let world = run(
            rules(2, 2, 2, None),
            2,
            Agree::Decide,
            &[&[End::Cancelled], &[], &[End::Lost]],
            i64::MAX,
        );
        world.check_end(2 * ROUNDS);
    });
}

#[test]
fn asynchronous_pushes_count_once_whoever_dies() {
    schedules(|| {
        run(
            rules(3, 1, 1, None),
            2,
            Agree::Alone,
            &[&[End::Lost, End::Cancelled], &[End::Cancelled]],
            i64::MAX,
        );
    });
}

#[test]
fn under_a_bound_nobody_is_further_ahead_and_nothing_is_staler_than_that_allows() {
    schedules(|| {
        let (replicas, bound) = (3, 1);
        // From one gate of a replica to its next, each of the others passes so many; a life that ends adds a push.
        let stalest = (replicas - 1) * (2 * bound + 1) + 2;
        let rules = rules(3, 1, 1, Some(bound as u64));
        run(rules, 1, Agree::Gate, &[&[End::Cancelled], &[], &[End::Lost]], stalest);
    });
}

#[test]
fn whoever_waits_for_one_that_leaves_is_told_so() {
    schedules(|| {
        let world = World::new(rules(1, 2, 2, None), 2);
        let w = world.clone();
        let told = Arc::new(Mutex::new(None));
        let tell = told.clone();
        let stays = Arc::new(move |life: &_| {
            let mut replica = Replica::join(&w, life, Agree::Decide, 0).unwrap();
            let failed = loop {
                if let Err(e) = replica.step() {
                    break e;
                }
            };
            *tell.lock().unwrap() = Some((replica.made(), failed.code(), failed.to_string()));
        });
        let w = world.clone();
        world.replica(&[], Next::Never, stays);
        world.replica(
            &[],
            Next::Never,
            Arc::new(move |life: &_| train(&w, life, Agree::Decide, 1, 1, 0)),
        );
        world.finish();
        world.check_updates();
        world.check_end(1);
        let (made, code, text) = told.lock().unwrap().take().unwrap();
        assert_eq!((made, code), (1, Code::OutOfRange));
        assert!(text.contains("[1] have left"), "{text}");
    });
}

#[test]
fn a_cancellation_wakes_whoever_waits_for_one_that_never_comes() {
    schedules(|| {
        let world = World::new(rules(1, 2, 2, None), 1);
        let w = world.clone();
        let live = Arc::new(move |life: &_| train(&w, life, Agree::Decide, 0, 1, 0));
        world.replica(&[End::Cancelled], Next::Never, live);
        world.finish();
        world.check_updates();
    });
}

#[test]
fn whoever_joins_before_the_model_has_values_waits_until_it_has() {
    schedules(|| {
        let world = World::unbegun(rules(1, 2, 2, None), 2);
        for me in 0..2 {
            let w = world.clone();
            let live = Arc::new(move |life: &_| train(&w, life, Agree::Decide, me, 1, 0));
            world.replica(&[], Next::Never, live);
        }
        let w = world.clone();
        world.spawn(move || w.places.iter().for_each(|p| p.begin(0, false)));
        world.finish();
        world.check_updates();
        world.check_end(1);
    });
}

#[test]
fn an_all_reduce_gives_everybody_the_same_means_whoever_is_cut_off() {
    schedules(|| {
        let ring = Ring::new(2);
        for (me, ends) in [&[End::Cancelled, End::Lost][..], &[End::Lost]].into_iter().enumerate() {
            let r = ring.clone();
            let live = Arc::new(move |life: &_| ring::train(&r, life, me, ROUNDS));
            ring.world.replica(ends, Next::AfterIt, live);
        }
        ring.world.finish();
        ring.world.check_updates();
        ring.world.check_same();
        ring.world.check_end(ROUNDS);
    });
}
