//! The pending word fires exactly once, at the last arrival, and whoever fires sees everything that was sent.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=/tmp/loom-target cargo test --release -p
//! actorflow-actors --test loom_pending`; without the flag a stress test on real threads.

mod support;

use actorflow_actors::{
    pending::{MergeArrival, MergeInput, Pending},
    sync::{
        Arc, UnsafeCell,
        atomic::{AtomicUsize, Ordering::Relaxed},
        thread,
    },
};

/// A node with an input slot for each sender.
struct Node {
    pending: Pending,
    slots: [UnsafeCell<u32>; 3],
    fired: AtomicUsize,
}

// SAFETY: a slot is written by its one sender before it counts its arrival, and read by the thread that fires.
unsafe impl Sync for Node {}

impl Node {
    fn new(template: Option<u32>) -> Arc<Self> {
        let pending = Pending::new(template.expect("few inputs"));
        Arc::new(Self {
            pending,
            slots: [0; 3].map(UnsafeCell::new),
            fired: AtomicUsize::new(0),
        })
    }

    fn put(&self, slot: usize) {
        // SAFETY: this is the slot's only sender.
        self.slots[slot].with_mut(|value| unsafe { *value = slot as u32 + 1 });
    }

    fn sum(&self) -> u32 {
        self.fired.fetch_add(1, Relaxed);
        // SAFETY: the caller fires the node, after all senders of the slots that it reads.
        self.slots.iter().map(|slot| slot.with(|value| unsafe { *value })).sum()
    }
}

fn race(node: &Arc<Node>, parts: [fn(&Node); 3]) {
    let [a, b, here] = parts;
    let threads = [a, b].map(|part| {
        let node = Arc::clone(node);
        thread::spawn(move || part(&node))
    });
    here(node);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

#[test]
fn fires_once_and_sees_all_slots() {
    fn send<const SLOT: usize>(node: &Node) {
        node.put(SLOT);
        if node.pending.arrive(1) {
            assert_eq!(node.sum(), 6);
            assert!(!node.pending.is_dead());
        }
    }
    support::model(|| {
        let node = Node::new(Pending::template(3));
        race(&node, [send::<0>, send::<1>, send::<2>]);
        assert_eq!(node.fired.load(Relaxed), 1);
    });
}

#[test]
fn a_dead_arrival_is_never_missed_by_who_fires() {
    fn live<const SLOT: usize>(node: &Node) {
        node.put(SLOT);
        if node.pending.arrive(1) {
            assert_eq!(node.sum(), 3);
            assert!(node.pending.is_dead());
        }
    }
    fn dead(node: &Node) {
        if node.pending.arrive_dead() {
            assert_eq!(node.sum(), 3);
            assert!(node.pending.is_dead());
        }
    }
    support::model(|| {
        let node = Node::new(Pending::template(3));
        race(&node, [live::<0>, live::<1>, dead]);
        assert_eq!(node.fired.load(Relaxed), 1);
    });
}

#[test]
fn a_merge_fires_once_with_its_live_input_and_after_its_control() {
    fn live(node: &Node) {
        node.put(0);
        fire(node, MergeInput::Live);
    }
    fn control(node: &Node) {
        node.put(1);
        fire(node, MergeInput::Control);
    }
    fn dead(node: &Node) {
        fire(node, MergeInput::Dead);
    }
    fn fire(node: &Node, input: MergeInput) {
        match node.pending.arrive_merge(input) {
            MergeArrival::Wait => {}
            outcome => {
                assert_eq!(outcome, MergeArrival::Fire { dead: false });
                assert_eq!(node.sum(), 3);
            }
        }
    }
    support::model(|| {
        let node = Node::new(Pending::merge_template(2, 1));
        race(&node, [live, control, dead]);
        assert_eq!(node.fired.load(Relaxed), 1);
    });
}

#[test]
fn a_second_live_input_of_a_merge_is_noticed_by_exactly_one_sender() {
    fn live(node: &Node) {
        match node.pending.arrive_merge(MergeInput::Live) {
            MergeArrival::Fire { dead } => assert!(!dead),
            MergeArrival::SecondLive => {
                node.fired.fetch_add(1, Relaxed);
            }
            MergeArrival::Wait => panic!("nothing to wait for"),
        }
    }
    support::model(|| {
        let node = Node::new(Pending::merge_template(2, 0));
        race(&node, [live, live, |_| ()]);
        assert_eq!(node.fired.load(Relaxed), 1);
    });
}
