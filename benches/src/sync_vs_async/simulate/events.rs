//! A run as a sequence of events: a push arrives, a server has taken it, a worker has new values.
//!
//! Every worker and server is a machine of its own. A worker computes, its push travels for half of what the network takes,
//! waits until the servers are done with earlier ones, is taken, and is answered when the strategy allows; the answer travels
//! for the other half. All servers have the same to do for each push and are seen as one that takes a push in `service`. With
//! several of them a synchronous update takes another round trip, in which the decision is made at one and brought to all.
//! Under allreduce the workers that own buckets are the servers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use actorflow::train::parallel::Strategy;

use super::super::data::Random;
use super::super::inject::Injection;
use super::calibrate::Times;

/// Staleness is counted up to this.
const OLDEST: usize = 16384;
/// Steps of a worker that are simulated, on average; a fifth more come before, to forget the start.
const STEPS: usize = 40;
/// At least so many pushes are simulated.
const PUSHES: usize = 4000;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The push of a worker is at the servers.
    Arrived(usize),
    /// They have taken it.
    Taken(usize),
}

/// A point in time that has an order.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Time(f64);

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Time) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Time) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[derive(Debug, Clone, Default)]
struct Worker {
    factor: f64,
    delay: f64,
    /// What the network takes for its present step.
    wire: f64,
    /// The updates that its values have had.
    version: u64,
    /// The round for which it computes.
    round: u64,
    /// Steps that it has made.
    clock: u64,
    /// Seconds that it has computed since what is counted began.
    computed: f64,
}

/// A group of workers that wait for each other.
#[derive(Debug, Clone, Default)]
struct Group {
    round: u64,
    here: Vec<usize>,
}

/// A strategy with machines to run on.
#[derive(Debug)]
pub(in super::super) struct World<'a> {
    times: &'a Times,
    strategy: Strategy,
    service: f64,
    workers: Vec<Worker>,
    /// Those with which nothing goes wrong.
    others: Vec<bool>,
    groups: Vec<Group>,
    members: usize,
    required: usize,
    now: f64,
    busy: f64,
    version: u64,
    number: u64,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    /// Under a bound: how many workers have made so many steps, from `slowest` on.
    clocks: VecDeque<usize>,
    slowest: u64,
    held: Vec<usize>,
    random: Random,
    outcome: Outcome,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Outcome {
    /// Seconds that are counted.
    pub(in super::super) seconds: f64,
    /// Updates in them.
    pub(in super::super) updates: u64,
    /// Pushes in them.
    pub(in super::super) pushes: u64,
    /// Pushes that came too late to count.
    pub(in super::super) late: u64,
    /// Pushes of workers with which nothing goes wrong.
    pub(in super::super) others: f64,
    /// Pushes by age.
    pub(in super::super) staleness: Vec<u64>,
    /// The share of their time that workers waited.
    pub(in super::super) waiting: f64,
    /// How far ahead of the slowest a worker that went on has been at most, in steps.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(in super::super) lead: u64,
}

impl<'a> World<'a> {
    /// So many workers that agree by a strategy; what those do who are not `named` is counted by itself. Kills are not
    /// simulated.
    pub(in super::super) fn new(
        times: &'a Times,
        strategy: Strategy,
        workers: usize,
        injection: &Injection,
        named: &[usize],
    ) -> World<'a> {
        let (members, required) = match strategy {
            Strategy::Async { .. } | Strategy::Ssp { .. } => (1, 1),
            Strategy::Sync { backup } => (workers, workers.saturating_sub(backup).max(1)),
            Strategy::Hybrid { replicas, .. } => (replicas, replicas),
            Strategy::AllReduce => (workers, workers),
        };
        // Under allreduce an owner has its share of the buckets to take.
        let service = match strategy {
            Strategy::AllReduce if workers == 1 => 0.0,
            Strategy::AllReduce => {
                let each = times.buckets.div_ceil(times.buckets.min(workers));
                times.service * each as f64 / times.buckets as f64
            }
            _ => times.service,
        };
        let worker = |w: usize| Worker {
            factor: injection.factor(w),
            delay: injection.delay(w).as_secs_f64(),
            ..Worker::default()
        };
        World {
            times,
            strategy,
            service,
            workers: (0..workers).map(worker).collect(),
            others: (0..workers).map(|w| !named.contains(&w)).collect(),
            groups: vec![Group::default(); workers.div_ceil(members)],
            members,
            required,
            now: 0.0,
            busy: 0.0,
            version: 0,
            number: 0,
            queue: BinaryHeap::new(),
            clocks: VecDeque::from([workers]),
            slowest: 0,
            held: Vec::new(),
            random: Random::new(0),
            outcome: Outcome::default(),
        }
    }

    fn at(&mut self, time: f64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((Time(time), self.number, event)));
    }

    fn draw(&mut self, wire: bool) -> f64 {
        let from = if wire { &self.times.wire } else { &self.times.compute };
        match from.len() {
            0 => 0.0,
            n => from[self.random.below(n)],
        }
    }

    /// A worker computes from a point in time on, with the values that there were when it was answered.
    fn compute(&mut self, w: usize, from: f64) {
        let computes = self.draw(false);
        // Alone, an all-reduce exchanges nothing.
        let alone = self.strategy == Strategy::AllReduce && self.workers.len() == 1;
        let wire = if alone { 0.0 } else { self.draw(true) };
        let worker = &mut self.workers[w];
        worker.computed += computes * worker.factor;
        worker.wire = wire;
        let arrives = from + computes * worker.factor + wire / 2.0 + worker.delay;
        self.at(arrives, Event::Arrived(w));
    }

    /// A worker is answered with the present values, `hops` round trips between servers later.
    fn answer(&mut self, w: usize, hops: f64) {
        let (version, round) = (self.version, self.groups[w / self.members].round);
        let worker = &mut self.workers[w];
        worker.version = version;
        worker.round = round;
        let back = self.now + worker.wire * (0.5 + hops) + worker.delay;
        self.compute(w, back);
    }

    fn count(&mut self, age: u64) {
        let age = usize::try_from(age).unwrap_or(OLDEST).min(OLDEST);
        let counts = &mut self.outcome.staleness;
        if counts.len() <= age {
            counts.resize(age + 1, 0);
        }
        counts[age] += 1;
    }

    /// The servers have taken a worker's push.
    fn taken(&mut self, w: usize) {
        self.outcome.pushes += 1;
        self.outcome.others += f64::from(u8::from(self.others[w]));
        let several = f64::from(u8::from(self.times.ps > 1 && self.strategy != Strategy::AllReduce));
        match self.strategy {
            Strategy::Async { .. } => {
                self.count(self.version - self.workers[w].version);
                self.version += 1;
                self.outcome.updates += 1;
                self.answer(w, 0.0);
            }
            Strategy::Ssp { bound } => {
                self.count(self.version - self.workers[w].version);
                self.version += 1;
                self.outcome.updates += 1;
                self.tick(w);
                self.held.push(w);
                self.release(bound, several);
            }
            Strategy::Sync { .. } | Strategy::Hybrid { .. } | Strategy::AllReduce => {
                let g = w / self.members;
                if self.workers[w].round < self.groups[g].round {
                    self.outcome.late += 1;
                    return self.answer(w, 0.0);
                }
                self.groups[g].here.push(w);
                if self.groups[g].here.len() < self.required {
                    return;
                }
                let here = std::mem::take(&mut self.groups[g].here);
                for w in &here {
                    self.count(self.version - self.workers[*w].version);
                }
                self.groups[g].round += 1;
                self.version += 1;
                self.outcome.updates += 1;
                for w in here {
                    self.answer(w, several);
                }
            }
        }
    }

    /// A worker has made another step.
    fn tick(&mut self, w: usize) {
        let at = (self.workers[w].clock - self.slowest) as usize;
        self.workers[w].clock += 1;
        self.clocks[at] -= 1;
        if self.clocks.len() == at + 1 {
            self.clocks.push_back(0);
        }
        self.clocks[at + 1] += 1;
        while self.clocks.front() == Some(&0) {
            self.clocks.pop_front();
            self.slowest += 1;
        }
    }

    /// Answers all that are not too far ahead.
    fn release(&mut self, bound: u64, hops: f64) {
        let held = std::mem::take(&mut self.held);
        let (free, held): (Vec<usize>, Vec<usize>) = held
            .into_iter()
            .partition(|w| self.workers[*w].clock <= self.slowest + bound);
        self.held = held;
        for w in free {
            self.outcome.lead = self.outcome.lead.max(self.workers[w].clock - self.slowest);
            self.answer(w, hops);
        }
    }

    /// Lets the workers make some steps, and counts the later ones.
    pub(in super::super) fn run(mut self, seed: u64) -> Outcome {
        self.random = Random::new(seed);
        for w in 0..self.workers.len() {
            self.compute(w, 0.0);
        }
        let pushes = (STEPS * self.workers.len()).max(PUSHES) as u64;
        let (mut begun, mut counting) = (0.0, false);
        while let Some(Reverse((time, _, event))) = self.queue.pop() {
            self.now = time.0;
            let version = self.version;
            match event {
                Event::Arrived(w) => {
                    self.busy = self.busy.max(self.now) + self.service;
                    self.at(self.busy, Event::Taken(w));
                }
                Event::Taken(w) => self.taken(w),
            }
            // What is counted begins and ends with an update.
            if self.version == version {
                continue;
            }
            if !counting && self.outcome.pushes >= pushes / 5 {
                counting = true;
                begun = self.now;
                self.outcome = Outcome::default();
                for w in &mut self.workers {
                    // Of the step that is under way, what is left counts.
                    w.computed = 0.0;
                }
            } else if counting && self.outcome.pushes >= pushes {
                break;
            }
        }
        let n = self.workers.len() as f64;
        let mut outcome = self.outcome;
        outcome.seconds = (self.now - begun).max(1e-12);
        let computed: f64 = self.workers.iter().map(|w| w.computed).sum();
        outcome.waiting = (1.0 - computed / (n * outcome.seconds)).clamp(0.0, 1.0);
        outcome
    }
}
