//! What all replicas share, and what must be true of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use actorflow_core::Tensor;
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::Error;
use actorflow_kernels::ops::agreement::state::Rules;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};

use super::actors::Place;

/// The pushes of a replica, at most. The variable has a number for each push of each replica, which an update moves by one
/// over the number of gradients in it: so its value says which pushes were applied, and how often.
pub(crate) const PUSHES: usize = 16;

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// Its step is cancelled, which wakes what it has parked.
    Cancelled,
    /// It is gone, and nobody says so; what it has sent arrives.
    Lost,
}

/// When a replica's next life begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Next {
    /// At once, while what is left of the one before goes on.
    AtOnce,
    /// When nothing of the one before goes on but what it has sent.
    AfterIt,
    /// Never.
    Never,
}

/// A life of a replica.
#[derive(Clone, Default)]
pub(crate) struct Life {
    pub(crate) cancel: CancelToken,
    over: Arc<Mutex<Over>>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Over {
    #[default]
    Lives,
    Done,
    Dead,
}

impl Life {
    /// An error once it has ended.
    pub(crate) fn check(&self) -> actorflow_core::Result<()> {
        match *self.over.lock().unwrap() {
            Over::Dead => Err(Error::unavailable("dead")),
            _ => Ok(()),
        }
    }

    /// Whether it was alive.
    fn end(&self, how: End) -> bool {
        let lived = {
            let mut over = self.over.lock().unwrap();
            let lived = *over == Over::Lives;
            if lived {
                *over = Over::Dead;
            }
            lived
        };
        if lived && how == End::Cancelled {
            self.cancel.cancel(Error::unavailable("the worker was cancelled"));
        }
        lived
    }

    fn done(&self) {
        let mut over = self.over.lock().unwrap();
        if *over == Over::Lives {
            *over = Over::Done;
        }
    }
}

/// What a replica does in a life.
pub(crate) type Live = Arc<dyn Fn(&Life) + Send + Sync>;

/// How many pushes of a replica are known to have passed the gate, how many may have.
#[derive(Default, Clone, Copy)]
struct Clock {
    here: bool,
    passed: u64,
    begun: u64,
}

/// The places, and what was seen of them.
pub(crate) struct World {
    pub(crate) rules: Rules,
    pub(crate) places: Vec<Place>,
    /// The variable of each place, by version.
    seen: Mutex<Vec<BTreeMap<i64, Vec<f32>>>>,
    clocks: Mutex<Vec<Clock>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl World {
    /// So many places with the same rules, which have begun.
    pub(crate) fn new(rules: Rules, places: usize) -> Arc<World> {
        let world = World::unbegun(rules, places);
        world.places.iter().for_each(|p| p.begin(0, false));
        world
    }

    /// So many places with the same rules.
    pub(crate) fn unbegun(rules: Rules, places: usize) -> Arc<World> {
        let replicas = rules.replicas().unwrap();
        let places: Vec<Place> = (0..places).map(|_| Place::new(rules, replicas * PUSHES)).collect();
        Arc::new(World {
            rules,
            seen: Mutex::new(vec![BTreeMap::new(); places.len()]),
            clocks: Mutex::new(vec![Clock::default(); replicas]),
            places,
            threads: Mutex::default(),
        })
    }

    pub(crate) fn replicas(&self) -> usize {
        self.rules.replicas().unwrap()
    }

    /// The gradient of a push.
    pub(crate) fn gradient(&self, replica: usize, push: u64) -> Tensor {
        let mut g = vec![0f32; self.replicas() * PUSHES];
        g[replica * PUSHES + usize::try_from(push).unwrap()] = -1.0;
        Tensor::vector(&g)
    }

    fn begin(life: Life, live: &Live) -> JoinHandle<()> {
        let live = live.clone();
        thread::spawn(move || {
            live(&life);
            life.done();
        })
    }

    fn wait_at_the_end(&self, thread: JoinHandle<()>) {
        self.threads.lock().unwrap().push(thread);
    }

    /// A thread that is waited for at the end only.
    pub(crate) fn spawn(&self, f: impl FnOnce() + Send + 'static) {
        self.wait_at_the_end(thread::spawn(f));
    }

    /// A replica whose first life ends as `ends` says, at any time, and then others.
    pub(crate) fn replica(self: &Arc<Self>, ends: &'static [End], next: Next, live: Live) {
        let mut life = Life::default();
        let mut living = Self::begin(life.clone(), &live);
        let world = self.clone();
        self.spawn(move || {
            for how in ends {
                for _ in 0..thread_rng().gen_range(0..60) {
                    thread::yield_now();
                }
                if !life.end(*how) || next == Next::Never {
                    break;
                }
                life = Life::default();
                if next == Next::AfterIt {
                    living.join().unwrap();
                    living = Self::begin(life.clone(), &live);
                } else {
                    let new = Self::begin(life.clone(), &live);
                    world.wait_at_the_end(std::mem::replace(&mut living, new));
                }
            }
            world.wait_at_the_end(living);
        });
    }

    /// Waits until all threads have ended, those too that are begun meanwhile; and sees that nobody is left waiting.
    pub(crate) fn finish(&self) {
        loop {
            let thread = self.threads.lock().unwrap().pop();
            match thread {
                Some(thread) => thread.join().unwrap(),
                None => break,
            }
        }
        for p in &self.places {
            assert_eq!(p.waiting(), 0, "somebody still waits");
        }
    }

    /// A place had these values after so many updates.
    pub(crate) fn see(&self, place: usize, version: i64, value: &Tensor) {
        let value = value.to_vec::<f32>().unwrap();
        let mut seen = self.seen.lock().unwrap();
        let before = seen[place].entry(version).or_insert_with(|| value.clone());
        assert_eq!(*before, value, "version {version} of place {place} has two values");
    }

    /// Each push was applied once or not at all, and each update was made of as many as it takes, of one group.
    pub(crate) fn check_updates(&self) {
        let share = 1.0 / self.rules.required as f32;
        for (place, versions) in self.seen.lock().unwrap().iter().enumerate() {
            let mut before = (0, vec![0.0; self.replicas() * PUSHES]);
            for (version, value) in versions {
                assert!(
                    value.iter().all(|x| *x == 0.0 || (*x - share).abs() < 1e-6),
                    "a push was applied twice, or in part, at place {place}: {value:?}"
                );
                let moved: Vec<usize> = (0..value.len()).filter(|i| value[*i] != before.1[*i]).collect();
                let updates = usize::try_from(version - before.0).unwrap();
                assert_eq!(
                    moved.len(),
                    updates * self.rules.required,
                    "{updates} updates at place {place}"
                );
                if updates == 1 {
                    let group = |i: &usize| i / PUSHES / self.rules.members;
                    assert!(
                        moved.iter().all(|i| group(i) == group(&moved[0])),
                        "an update of two groups"
                    );
                }
                before = (*version, value.clone());
            }
        }
    }

    /// All places have made the same updates, where both were seen.
    pub(crate) fn check_same(&self) {
        let seen = self.seen.lock().unwrap();
        for (a, b) in seen.iter().flat_map(|a| seen.iter().map(move |b| (a, b))) {
            for (version, value) in a {
                let other = b.get(version).unwrap_or(value);
                assert_eq!(value, other, "update {version} has two sets of winners");
            }
        }
    }

    /// All places end with so many updates, and the same values.
    pub(crate) fn check_end(&self, updates: i64) {
        let seen = self.seen.lock().unwrap();
        let ends: Vec<_> = seen.iter().map(|versions| versions.last_key_value().unwrap()).collect();
        for (version, value) in &ends {
            assert_eq!(**version, updates);
            assert_eq!(*value, ends[0].1, "an update is half applied");
        }
    }

    /// A replica has joined: it counts from where the slowest is.
    pub(crate) fn joined(&self, replica: usize) {
        let mut clocks = self.clocks.lock().unwrap();
        let slowest = clocks.iter().filter(|c| c.here).map(|c| c.begun).min();
        let me = &mut clocks[replica];
        me.begun = me.begun.max(slowest.unwrap_or(0));
        me.here = true;
    }

    /// A replica leaves.
    pub(crate) fn leaves(&self, replica: usize) {
        self.clocks.lock().unwrap()[replica].here = false;
    }

    /// A push goes to the gate.
    pub(crate) fn before_gate(&self, replica: usize) {
        self.clocks.lock().unwrap()[replica].begun += 1;
    }

    /// A push has passed the gate: nobody who is here is further behind than the bound.
    pub(crate) fn after_gate(&self, replica: usize) {
        let mut clocks = self.clocks.lock().unwrap();
        clocks[replica].passed += 1;
        let (passed, bound) = (clocks[replica].passed, self.rules.bound.unwrap());
        for (other, c) in clocks.iter().enumerate().filter(|c| c.1.here) {
            assert!(
                passed <= c.begun + bound,
                "replica {replica} has passed {passed} times, replica {other} {} times",
                c.begun
            );
        }
    }
}
