//! A helper never touches a parallel region that its owner has taken down, every chunk runs once, and what the
//! helpers wrote is visible to the owner.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=/tmp/loom-target cargo test --release -p
//! actorflow-actors --test loom_region`; without the flag a stress test on real threads.

mod support;

use actorflow_actors::{
    region::{Region, Slot},
    sync::{Arc, UnsafeCell, thread},
};

/// Cells that the chunks write without synchronisation of their own; loom reports any race on them.
struct Cells([UnsafeCell<u32>; 2]);

// SAFETY: every cell is written by the one thread that claimed its chunk, and read when the region is over.
unsafe impl Sync for Cells {}

fn run_region(slot: &Slot) {
    let cells = Cells([UnsafeCell::new(0), UnsafeCell::new(0)]);
    let cells_ref = &cells;
    // SAFETY: each chunk is claimed once, and a chunk touches its own cell only.
    let body = move |i: usize| cells_ref.0[i].with_mut(|cell| unsafe { *cell += 1 });
    {
        let region = Region::new(2, &body);
        // SAFETY: this thread alone opens the slot, and drops the guard before the region.
        let open = unsafe { slot.open(&region) };
        region.work();
        drop(open);
        assert!(region.take_panic().is_none());
    }
    // SAFETY: the region is over.
    assert!(cells.0.iter().all(|cell| cell.with(|cell| unsafe { *cell }) == 1));
}

fn help(slot: &Slot) {
    if let Some(joined) = slot.join() {
        joined.region().work();
    }
}

#[test]
fn the_owner_waits_for_its_helpers_and_only_for_them() {
    support::model(|| {
        let slot = Arc::new(Slot::new());
        let helpers = [0; 2].map(|_| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || help(&slot))
        });
        run_region(&slot);
        helpers.into_iter().for_each(|helper| helper.join().expect("no panic"));
        assert!(slot.join().is_none());
    });
}

#[test]
fn a_late_helper_may_join_the_next_region_of_the_slot_but_no_dead_one() {
    support::model(|| {
        let slot = Arc::new(Slot::new());
        let other = Arc::clone(&slot);
        let helper = thread::spawn(move || help(&other));
        run_region(&slot);
        run_region(&slot);
        helper.join().expect("no panic");
    });
}
