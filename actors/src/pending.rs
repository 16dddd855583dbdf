//! The mailbox counter of a node actor: one 32-bit word that says how many inputs are missing, whether one of
//! them was dead, and whether the node has started.
//!
//! A node actor has no queue. Its mailbox is its slice of the step's slab of input slots; *sending* to it is
//! writing a slot and then counting the arrival here. The thread whose arrival brings the count to zero *fires*
//! the node: it alone is told so, and from then on it alone may touch the node's slots. That hand-over is the
//! only synchronisation between the producer of a value and its consumer:
//!
//! * an arrival is a `Release` operation, so a sender's slot write comes before its arrival;
//! * all arrivals at one word form one release sequence (they are read-modify-writes), and the firing thread
//!   issues an `Acquire` fence after it saw zero, so it sees the slot writes of *all* senders.
//!
//! Whether the node is dead (an untaken branch of a conditional) is decided by the same atomic step that counts:
//! a thread can never see the count at zero and miss a dead arrival that was part of it.
//!
//! Two classes of node use the word differently. An *ordinary* node fires when every input has arrived, and is
//! dead if one of them was. A [`Merge`](Pending::merge_template) fires when its control inputs have arrived and
//! either one live data input has or all data inputs were dead; its word holds two counts.
//!
//! **Capacity.** [`MAX_PENDING`] inputs for an ordinary node, [`MAX_MERGE_DATA`] data and [`MAX_MERGE_CONTROL`]
//! control inputs for a Merge; the templates refuse more, so a counter cannot overflow. **Cancellation** needs
//! nothing here: an aborted step stops firing nodes and its slab is reset from the template.

use crate::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// The largest number of inputs, data and control, an ordinary node may wait for.
pub const MAX_PENDING: u32 = (1 << 24) - 1;
/// The largest number of data inputs of a Merge.
pub const MAX_MERGE_DATA: u32 = (1 << 12) - 1;
/// The largest number of control inputs of a Merge.
pub const MAX_MERGE_CONTROL: u32 = (1 << 12) - 1;

const COUNT: u32 = MAX_PENDING;
const DEAD: u32 = 1 << 31;
const STARTED: u32 = 1 << 30;
/// A Merge has received its live input.
const LIVE: u32 = 1 << 29;
/// Somebody writes a Merge's live input.
const CLAIMED: u32 = 1 << 28;
/// A Merge's control count sits above its data count.
const CONTROL_ONE: u32 = 1 << 12;
const DATA: u32 = CONTROL_ONE - 1;
const CONTROL: u32 = COUNT & !DATA;

/// What an arrival at a [`Merge`](Pending::merge_template) leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeArrival {
    /// More has to arrive, or the Merge fired before.
    Wait,
    /// The caller fires the node, exactly once per reset; `dead` says that no live input will come.
    Fire {
        /// No data input was live.
        dead: bool,
    },
    /// A second live data input arrived, which is an error of the graph: the step must fail.
    SecondLive,
}

/// One arrival at a Merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeInput {
    /// A live value on a data input.
    Live,
    /// A dead value on a data input.
    Dead,
    /// A dead value from an Enter: the loop is on an untaken branch, no further input will come, and the Merge
    /// dies at once.
    DeadEnter,
    /// A control input.
    Control,
}

/// The packed word of one node actor in one step (and, in a loop, one iteration).
#[derive(Debug)]
#[repr(transparent)]
pub struct Pending(AtomicU32);

impl Pending {
    /// The template of an ordinary node with `inputs` data and control inputs, or `None` above [`MAX_PENDING`].
    /// A node without inputs is a root: it is never counted, the step starts it.
    pub const fn template(inputs: usize) -> Option<u32> {
        if inputs > MAX_PENDING as usize {
            None
        } else {
            Some(inputs as u32)
        }
    }

    /// The template of a Merge with `data` data inputs and `control` control inputs, or `None` when there is no
    /// data input or more inputs than [`MAX_MERGE_DATA`] and [`MAX_MERGE_CONTROL`].
    pub const fn merge_template(data: usize, control: usize) -> Option<u32> {
        if data == 0 || data > MAX_MERGE_DATA as usize || control > MAX_MERGE_CONTROL as usize {
            return None;
        }
        Some(data as u32 | (control as u32 * CONTROL_ONE))
    }

    /// A word that starts from a template.
    #[inline(always)]
    pub fn new(template: u32) -> Self {
        Self(AtomicU32::new(template))
    }

    /// Puts the word back to a template. The caller has the node to itself: the step that used it is over, and
    /// whoever runs the next one learns of it through a synchronising operation of its own.
    #[inline(always)]
    pub fn reset(&self, template: u32) {
        self.0.store(template, Relaxed);
    }

    /// Counts `n` live arrivals (`n` ≥ 1, at most what is missing). True for exactly one caller per reset: the
    /// one that brings the count to zero, which must then fire the node. [`is_dead`](Self::is_dead) is final then.
    #[inline(always)]
    pub fn arrive(&self, n: u32) -> bool {
        let before = self.0.fetch_sub(n, Release);
        debug_assert!(before & COUNT >= n, "more arrivals than inputs");
        if before & COUNT == n {
            fence(Acquire);
            return true;
        }
        false
    }

    /// Counts one dead arrival: marks the node dead and counts, in one atomic step. Returns as
    /// [`arrive`](Self::arrive) does.
    #[inline(always)]
    pub fn arrive_dead(&self) -> bool {
        let mut before = self.0.load(Relaxed);
        loop {
            debug_assert!(before & COUNT >= 1, "more arrivals than inputs");
            let after = (before - 1) | DEAD;
            match self.0.compare_exchange_weak(before, after, Release, Relaxed) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        if before & COUNT == 1 {
            fence(Acquire);
            return true;
        }
        false
    }

    /// [`arrive`](Self::arrive) for a step that one thread runs from start to end: no atomic read-modify-write,
    /// about a nanosecond instead of five. Wrong as soon as two threads can reach the node.
    #[inline(always)]
    pub fn arrive_solo(&self, n: u32) -> bool {
        let after = self.0.load(Relaxed).wrapping_sub(n);
        self.0.store(after, Relaxed);
        after & COUNT == 0
    }

    /// [`arrive_dead`](Self::arrive_dead) for a step that one thread runs from start to end.
    #[inline(always)]
    pub fn arrive_dead_solo(&self) -> bool {
        let after = self.0.load(Relaxed).wrapping_sub(1) | DEAD;
        self.0.store(after, Relaxed);
        after & COUNT == 0
    }

    /// Whether a dead input has arrived; final once the node has been told to fire.
    #[inline(always)]
    pub fn is_dead(&self) -> bool {
        self.0.load(Relaxed) & DEAD != 0
    }

    /// How many inputs of an ordinary node are missing; a snapshot, for reports on steps that do not progress.
    #[inline]
    pub fn missing(&self) -> u32 {
        self.0.load(Relaxed) & COUNT
    }

    /// Marks the node started; true for exactly one caller per reset. For nodes that two events can start, such
    /// as one that an abort may overtake.
    #[inline(always)]
    pub fn try_start(&self) -> bool {
        // Acquire: the loser must see what the winner published before it, Release: and the other way round.
        self.0.fetch_or(STARTED, crate::sync::atomic::Ordering::AcqRel) & STARTED == 0
    }

    /// Whether the node was marked started, by [`try_start`](Self::try_start) or by a Merge that fired.
    #[inline(always)]
    pub fn is_started(&self) -> bool {
        self.0.load(Acquire) & STARTED != 0
    }

    /// Asks for the right to write a Merge's one slot before a live input arrives; true for exactly one caller per
    /// reset. Who is refused is a second live input, and must not arrive.
    #[inline(always)]
    pub fn claim_live(&self) -> bool {
        // Relaxed: who loses touches nothing.
        self.0.fetch_or(CLAIMED, Relaxed) & CLAIMED == 0
    }

    /// [`claim_live`](Self::claim_live) for a step that one thread runs from start to end.
    #[inline(always)]
    pub fn claim_live_solo(&self) -> bool {
        let before = self.0.load(Relaxed);
        self.0.store(before | CLAIMED, Relaxed);
        before & CLAIMED == 0
    }

    /// Counts one arrival at a Merge; counts, liveness and "fired before" are tested in one atomic step.
    /// A live input must have written its slot before.
    #[inline(always)]
    pub fn arrive_merge(&self, input: MergeInput) -> MergeArrival {
        let mut before = self.0.load(Relaxed);
        loop {
            let (after, outcome) = merge_step(before, input);
            match self.0.compare_exchange_weak(before, after, Release, Relaxed) {
                Ok(_) => {
                    if outcome != MergeArrival::Wait {
                        fence(Acquire);
                    }
                    return outcome;
                }
                Err(now) => before = now,
            }
        }
    }

    /// [`arrive_merge`](Self::arrive_merge) for a step that one thread runs from start to end.
    #[inline(always)]
    pub fn arrive_merge_solo(&self, input: MergeInput) -> MergeArrival {
        let (after, outcome) = merge_step(self.0.load(Relaxed), input);
        self.0.store(after, Relaxed);
        outcome
    }
}

/// The transition of a Merge's word: pure, so that the atomic and the solo path cannot differ.
#[inline(always)]
fn merge_step(before: u32, input: MergeInput) -> (u32, MergeArrival) {
    let mut word = before;
    match input {
        MergeInput::Live if before & LIVE != 0 => return (before, MergeArrival::SecondLive),
        // After a dead Enter no data input is counted any more; a malformed loop may still send one.
        MergeInput::Live if before & DATA == 0 => word |= LIVE,
        MergeInput::Live => word = word.wrapping_sub(1) | LIVE,
        MergeInput::Dead if before & DATA == 0 => {}
        MergeInput::Dead => word = word.wrapping_sub(1),
        MergeInput::DeadEnter => word &= !DATA,
        MergeInput::Control => word = word.wrapping_sub(CONTROL_ONE),
    }
    let live = word & LIVE != 0;
    let ready = word & CONTROL == 0 && (live || word & DATA == 0);
    if !ready || word & STARTED != 0 {
        return (word, MergeArrival::Wait);
    }
    word |= STARTED | if live { 0 } else { DEAD };
    (word, MergeArrival::Fire { dead: !live })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn word(inputs: usize) -> Pending {
        Pending::new(Pending::template(inputs).expect("few inputs"))
    }

    #[test]
    fn fires_at_the_last_arrival_only() {
        let pending = word(3);
        assert!(!pending.arrive(1));
        assert_eq!(pending.missing(), 2);
        assert!(pending.arrive(2));
        assert!(!pending.is_dead());
        pending.reset(Pending::template(1).unwrap());
        assert!(pending.arrive(1));
    }

    #[test]
    fn one_dead_arrival_makes_the_node_dead_whenever_it_comes() {
        for dead_at in 0..3 {
            let (pending, solo) = (word(3), word(3));
            for i in 0..3 {
                let fired = if i == dead_at {
                    pending.arrive_dead()
                } else {
                    pending.arrive(1)
                };
                let fired_solo = if i == dead_at {
                    solo.arrive_dead_solo()
                } else {
                    solo.arrive_solo(1)
                };
                assert_eq!(fired, i == 2);
                assert_eq!(fired_solo, i == 2);
            }
            assert!(pending.is_dead() && solo.is_dead());
        }
    }

    #[test]
    fn nothing_that_follows_a_dead_enter_disturbs_the_counts() {
        use MergeInput::{Control, Dead, DeadEnter, Live};
        for late in [Dead, Live] {
            let pending = Pending::new(Pending::merge_template(2, 1).unwrap());
            assert_eq!(pending.arrive_merge(DeadEnter), MergeArrival::Wait);
            assert_eq!(pending.arrive_merge(Dead), MergeArrival::Wait);
            assert_eq!(pending.arrive_merge(late), MergeArrival::Wait);
            let dead = late == Dead;
            assert_eq!(pending.arrive_merge(Control), MergeArrival::Fire { dead });
            assert_eq!(pending.arrive_merge(Dead), MergeArrival::Wait);
        }
    }

    #[test]
    fn the_slot_of_a_merge_is_given_to_one_writer() {
        let (shared, solo) = (word(3), word(3));
        assert!(shared.claim_live() && !shared.claim_live());
        assert!(solo.claim_live_solo() && !solo.claim_live_solo());
        assert_eq!(shared.missing(), 3);
    }

    #[test]
    fn templates_refuse_more_inputs_than_they_can_count() {
        assert_eq!(Pending::template(MAX_PENDING as usize), Some(MAX_PENDING));
        assert_eq!(Pending::template(MAX_PENDING as usize + 1), None);
        assert_eq!(Pending::merge_template(0, 0), None);
        assert_eq!(Pending::merge_template(MAX_MERGE_DATA as usize + 1, 0), None);
        assert_eq!(Pending::merge_template(1, MAX_MERGE_CONTROL as usize + 1), None);
        let full = word(MAX_PENDING as usize);
        assert!(full.arrive_dead_solo() || full.arrive(MAX_PENDING - 1));
        assert!(full.is_dead());
    }

    #[test]
    fn starting_is_granted_once() {
        let pending = word(1);
        assert!(!pending.is_started());
        assert!(pending.try_start());
        assert!(!pending.try_start());
        assert!(pending.is_started());
        assert!(pending.arrive(1));
    }

    /// Every order of every mix of inputs against the rule as it is written down.
    #[test]
    fn merge_follows_its_rule_for_every_order_of_inputs() {
        use MergeInput::{Control, Dead, DeadEnter, Live};
        let data = [Live, Dead, DeadEnter];
        for a in data {
            for b in data {
                for controls in 0..2usize {
                    let mut inputs = vec![a, b];
                    inputs.extend(std::iter::repeat_n(Control, controls));
                    permutations(&mut inputs, 0, &mut |order| check_merge(order, controls));
                }
            }
        }
    }

    fn permutations(items: &mut Vec<MergeInput>, from: usize, f: &mut impl FnMut(&[MergeInput])) {
        if from == items.len() {
            return f(items);
        }
        for i in from..items.len() {
            items.swap(from, i);
            permutations(items, from + 1, f);
            items.swap(from, i);
        }
    }

    fn check_merge(order: &[MergeInput], controls: usize) {
        let template = Pending::merge_template(2, controls).expect("few inputs");
        let (shared, solo) = (Pending::new(template), Pending::new(template));
        let (mut live, mut gone, mut control, mut fired) = (0, 0, 0, false);
        for &input in order {
            match input {
                MergeInput::Live => live += 1,
                MergeInput::Dead => gone += 1,
                // After a dead Enter nothing else can arrive at a data input of a real loop.
                MergeInput::DeadEnter if live > 0 || gone > 0 => return,
                MergeInput::DeadEnter => gone = 2,
                MergeInput::Control => control += 1,
            }
            if live + gone > 2 {
                return;
            }
            let expected = if live == 2 && input == MergeInput::Live {
                MergeArrival::SecondLive
            } else if !fired && control == controls && (live >= 1 || gone == 2) {
                fired = true;
                MergeArrival::Fire { dead: live == 0 }
            } else {
                MergeArrival::Wait
            };
            assert_eq!(shared.arrive_merge(input), expected, "{order:?}");
            assert_eq!(solo.arrive_merge_solo(input), expected, "{order:?}");
            assert_eq!(shared.is_dead(), fired && live == 0);
        }
    }
}
