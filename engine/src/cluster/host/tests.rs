#![allow(clippy::unwrap_used)] // tests

use actorflow_core::actor::local_mailboxes;

use super::*;

const KEY: EdgeKey = EdgeKey { edge: 0, tag: 0 };

fn host() -> Arc<Host> {
    Host::new(Vec::new(), ResourceManager::new(local_mailboxes()))
}

fn begin(host: &Host, step: u64) -> Result<()> {
    let share = SharePlan {
        devices: Vec::new(),
        routes: Arc::new([]),
        feeds: 0,
        fetches: 0,
        edge_names: Arc::new([]),
        peers: Vec::new(),
    };
    let options = ShareOptions {
        step,
        deadline: None,
        cancel: &CancelToken::new(),
        trace: None,
    };
    host.begin(&Arc::new(share), &options, None).map(drop)
}

#[test]
fn what_comes_for_steps_that_never_begin_is_bounded_and_does_not_stay() {
    let host = host();
    for step in 0..EARLY_STEPS as u64 + 10 {
        host.arrived(step, KEY, None, "/job:worker/task:0");
    }
    assert_eq!(host.steps.len(), EARLY_STEPS);
    assert_eq!(host.dropped.orphaned.load(Relaxed), 10);
    // A step of which something is missing does not begin as if it were whole; one that was in time does.
    let e = begin(&host, EARLY_STEPS as u64 + 3).unwrap_err();
    assert!(e.message().contains("aborted before it began"), "{e}");
    begin(&host, 3).unwrap();
    host.drop_orphans(Instant::now() + EARLY);
    assert_eq!(host.steps.len(), 1);
    assert_eq!(host.early.load(Relaxed), 0);
}

#[test]
fn who_has_no_part_in_a_step_that_is_in_progress_cannot_end_it() {
    let host = host();
    begin(&host, 7).unwrap();
    host.never(7);
    assert!(host.cancel_token(7).is_some_and(|c| !c.is_cancelled()));
    host.never(8);
    assert!(begin(&host, 8).is_err());
}

#[test]
fn steps_that_stand_still_are_no_hope_for_others() {
    let host = host();
    begin(&host, 1).unwrap();
    begin(&host, 2).unwrap();
    assert_eq!(host.status(1, Some(true)).unwrap().others, 1);
    // Whoever is no coordinator only looks.
    assert_eq!(host.status(2, None).unwrap().others, 0);
    assert_eq!(host.status(1, Some(false)).unwrap().others, 1);
    assert_eq!(host.status(2, Some(false)).unwrap().others, 1);
}
