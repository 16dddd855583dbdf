//! Every schedule of the agreement protocol, for a few replicas and servers: a search through all states that can be reached.
//!
//! A transition is one turn of one actor, or a replica that dies. What a replica has sent before it died arrives at any time later, or
//! never. States that were reached before are not looked at again, so that the number of schedules does not matter.
//!
//! `ACTORFLOW_STATES=all cargo test --release -p actorflow-kernels --test agreement_states` searches larger cases, too.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};

use actorflow_kernels::ops::agreement::state::{Decision, Push, Rules, State, Tag};

/// What is to be done at a server, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Do {
    Join,
    Bring,
    Stage,
}

/// Where a replica is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum At {
    Dead,
    /// Does something at the servers that are left, in any order; of one that decides alone, what it staged is brought.
    Doing(Do, Vec<usize>),
    Arriving,
    Waiting,
    /// Goes to the gate.
    Finishing,
    /// Has finished a push, and waits until it may go on.
    Gate,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Replica {
    at: At,
    push: u64,
    round: u64,
    versions: Vec<u64>,
    /// The decision that it brings; of one that decides alone, its ticket.
    decision: Option<Decision>,
    /// The least round that it was told while it brought that.
    told: Option<u64>,
    /// Its push is applied where it brings its own decision.
    own: bool,
}

/// What one that is dead has sent, or its step goes on to do without it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Late {
    /// Stages a push, with the versions of the servers' values, at those that are left, and then arrives.
    Step(u64, u64, u64, Vec<u64>, Vec<usize>),
    Arrive(u64, u64, u64, u64),
    Bring(usize, Vec<i64>),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Model {
    rules: Rules,
    rounds: u64,
    servers: Vec<State<Push>>,
    /// The pushes of every update, by group and round.
    applied: Vec<BTreeMap<(u64, u64), Vec<Push>>>,
    replicas: Vec<Replica>,
    late: BTreeSet<Late>,
    deaths: usize,
    /// Pushes that each replica has finished, as the model counts them; none if it is not here.
    clocks: Vec<Option<u64>>,
    stalest: u64,
}

/// A transition.
#[derive(Debug, Clone)]
enum Action {
    /// A replica does the next thing, at this server.
    Act(usize, usize),
    Die(usize),
    Arrive(usize, Late),
}

impl Model {
    fn new(rules: Rules, servers: usize, rounds: u64, deaths: usize) -> Model {
        let n = rules.replicas().unwrap();
        let mut all: Vec<State<Push>> = (0..servers).map(|_| State::new(rules).unwrap()).collect();
        all.iter_mut().for_each(|s| s.begin(0));
        let replica = Replica {
            at: At::Dead,
            push: 0,
            round: 0,
            versions: vec![0; servers],
            decision: None,
            told: None,
            own: false,
        };
        let stalest = match (rules.alone(), rules.bound) {
            (false, _) if rules.groups == 1 => 0,
            // From one gate to the next each of the others passes so many; a death adds a push.
            (true, Some(bound)) => (n as u64 - 1) * (2 * bound + 1) + deaths as u64,
            _ => u64::MAX,
        };
        Model {
            rules,
            // Those of one that decides alone are the numbers of its pushes, which begin at 1.
            rounds: rounds + u64::from(rules.alone()),
            applied: vec![BTreeMap::new(); servers],
            servers: all,
            replicas: vec![replica; n],
            late: BTreeSet::new(),
            deaths,
            clocks: vec![None; n],
            stalest,
        }
    }

    fn everywhere(&self) -> Vec<usize> {
        (0..self.servers.len()).collect()
    }

    fn tag(&self, r: usize, server: usize) -> Tag {
        let me = &self.replicas[r];
        Tag {
            replica: r as u64,
            push: me.push,
            round: me.round,
            version: me.versions[server],
        }
    }

    /// What the replicas can do. What waits for others is not among it.
    fn steps(&self) -> Vec<Action> {
        let mut all = Vec::new();
        for (r, me) in self.replicas.iter().enumerate() {
            match &me.at {
                At::Dead | At::Arriving | At::Finishing => all.push(Action::Act(r, 0)),
                At::Doing(_, left) => all.extend(left.iter().map(|s| Action::Act(r, *s))),
                At::Waiting if !matches!(self.servers[0].decided(self.tag(r, 0)), Ok(None)) => {
                    all.push(Action::Act(r, 0))
                }
                At::Gate if self.servers[0].may_go(r as u64).unwrap() => all.push(Action::Act(r, 0)),
                At::Waiting | At::Gate | At::Done => {}
            }
        }
        all
    }

    /// What can happen besides, or never.
    fn accidents(&self) -> Vec<Action> {
        let mut all = Vec::new();
        for late in &self.late {
            match late {
                Late::Step(.., left) => all.extend(left.iter().map(|s| Action::Arrive(*s, late.clone()))),
                Late::Arrive(..) => all.push(Action::Arrive(0, late.clone())),
                Late::Bring(server, _) => all.push(Action::Arrive(*server, late.clone())),
            }
        }
        if self.deaths > 0 {
            let alive = |r: &usize| !matches!(self.replicas[*r].at, At::Dead | At::Done);
            all.extend((0..self.replicas.len()).filter(alive).map(Action::Die));
        }
        all
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Act(r, server) => self.advance(r, server),
            Action::Die(r) => self.die(r),
            Action::Arrive(server, late) => {
                self.late.remove(&late);
                let tag = |replica, push, round, version| Tag {
                    replica,
                    push,
                    round,
                    version,
                };
                match late {
                    Late::Step(r, p, round, versions, mut left) => {
                        left.retain(|s| *s != server);
                        // Refused once its replica has joined again; then the step ends.
                        let Ok(ticket) = self.servers[server].stage(tag(r, p, round, versions[server]), (r, p)) else {
                            return;
                        };
                        if self.rules.alone() {
                            self.late.insert(Late::Bring(server, ticket.encode()));
                        } else if left.is_empty() {
                            self.late.insert(Late::Arrive(r, p, round, versions[0]));
                        }
                        if !left.is_empty() {
                            self.late.insert(Late::Step(r, p, round, versions, left));
                        }
                    }
                    Late::Arrive(r, p, round, v) => self.servers[0].arrive(tag(r, p, round, v)).unwrap(),
                    Late::Bring(_, d) => self.bring(server, &Decision::decode(&d).unwrap().unwrap()),
                }
            }
        }
    }

    fn die(&mut self, r: usize) {
        self.deaths -= 1;
        match self.replicas[r].at.clone() {
            At::Doing(Do::Stage, left) => {
                let me = &self.replicas[r];
                let step = Late::Step(r as u64, me.push, me.round, me.versions.clone(), left);
                self.late.insert(step);
            }
            At::Arriving => {
                let t = self.tag(r, 0);
                self.late.insert(Late::Arrive(t.replica, t.push, t.round, t.version));
            }
            At::Doing(Do::Bring, left) => {
                if let Some(d) = self.replicas[r].decision.clone() {
                    self.late.extend(left.iter().map(|s| Late::Bring(*s, d.encode())));
                }
            }
            _ => {}
        }
        self.replicas[r].at = At::Dead;
    }

    /// Brings a decision, and sees what is applied.
    fn bring(&mut self, server: usize, d: &Decision) {
        let (applied, stalest) = (&mut self.applied[server], self.stalest);
        let (required, alone) = (self.rules.required, self.rules.alone());
        self.servers[server]
            .bring(d, |gradients| {
                let pushes: Vec<Push> = gradients.iter().map(|(_, g)| **g).collect();
                assert_eq!(pushes, d.winners, "the gradients are not those of the winners");
                assert_eq!(pushes.len(), required, "an update of {pushes:?}");
                assert!(
                    gradients.iter().all(|(age, _)| *age <= stalest),
                    "a gradient is staler than {stalest}: {gradients:?}"
                );
                let twice = applied.values().flatten().any(|p| pushes.contains(p));
                assert!(!twice, "a push is applied twice: {pushes:?}");
                assert!(
                    applied.insert((d.group, d.round), pushes).is_none(),
                    "a round is applied twice"
                );
                Ok(())
            })
            .unwrap();
        if !alone {
            let key = (d.group, d.round);
            let all: Vec<_> = self.applied.iter().filter_map(|a| a.get(&key)).collect();
            assert!(
                all.iter().all(|a| *a == all[0]),
                "round {key:?} has two sets of winners: {all:?}"
            );
        }
    }

    /// One replica does the next thing, at a server.
    fn advance(&mut self, r: usize, server: usize) {
        let tag = self.tag(r, server);
        let all = self.everywhere();
        match self.replicas[r].at.clone() {
            At::Dead => {
                let me = &mut self.replicas[r];
                (me.push, me.decision, me.told, me.own) = (0, None, None, false);
                me.at = At::Doing(Do::Join, all);
            }
            At::Doing(what, mut left) => {
                left.retain(|s| *s != server);
                match what {
                    Do::Join => {
                        if server == 0 && self.clocks[r].is_none() {
                            self.clocks[r] = Some(self.clocks.iter().flatten().min().copied().unwrap_or(0));
                        }
                        let joined = self.servers[server].join(r as u64).unwrap();
                        let me = &mut self.replicas[r];
                        me.push = me.push.max(joined.push);
                        if server == 0 && !self.rules.alone() {
                            me.decision = joined.last;
                        }
                    }
                    Do::Stage => {
                        let ticket = self.servers[server].stage(tag, (tag.replica, tag.push)).unwrap();
                        if self.rules.alone() {
                            self.replicas[r].decision = Some(ticket);
                        }
                    }
                    Do::Bring => {
                        if let Some(d) = self.replicas[r].decision.clone() {
                            self.bring(server, &d);
                        }
                        let (round, version) = (
                            self.servers[server].round(r as u64).unwrap(),
                            self.servers[server].version(),
                        );
                        let me = &mut self.replicas[r];
                        me.told = Some(me.told.map_or(round, |t| t.min(round)));
                        me.versions[server] = version;
                    }
                }
                self.replicas[r].at = match left.is_empty() {
                    false => At::Doing(what, left),
                    true => self.after(r, what),
                };
            }
            At::Arriving => {
                self.servers[0].arrive(tag).unwrap();
                self.replicas[r].at = At::Waiting;
            }
            At::Waiting => {
                let d = self.servers[0].decided(tag).unwrap();
                let me = &mut self.replicas[r];
                (me.decision, me.told, me.own) = (d, None, true);
                me.at = At::Doing(Do::Bring, all);
            }
            At::Finishing => {
                self.servers[0].finish(r as u64).unwrap();
                *self.clocks[r].as_mut().unwrap() += 1;
                self.replicas[r].at = At::Gate;
            }
            At::Gate => {
                let mine = self.clocks[r].unwrap();
                let slowest = self.clocks.iter().flatten().min().copied().unwrap();
                assert!(
                    mine - slowest <= self.rules.bound.unwrap(),
                    "replica {r} is at {mine}, another at {slowest}"
                );
                let me = &mut self.replicas[r];
                (me.decision, me.told, me.own) = (None, None, false);
                me.at = At::Doing(Do::Bring, all);
            }
            At::Done => {}
        }
    }

    /// Where a replica is when it has done something everywhere.
    fn after(&mut self, r: usize, what: Do) -> At {
        let all = self.everywhere();
        let me = &mut self.replicas[r];
        match what {
            Do::Join => At::Doing(Do::Bring, all),
            Do::Stage if self.rules.alone() => {
                (me.told, me.own) = (None, true);
                At::Doing(Do::Bring, all)
            }
            Do::Stage => At::Arriving,
            Do::Bring => {
                if std::mem::take(&mut me.own) {
                    me.push += 1;
                    if self.rules.bound.is_some() {
                        return At::Finishing;
                    }
                }
                me.round = me.told.take().unwrap();
                (me.decision, me.told) = (None, None);
                if me.round < self.rounds {
                    return At::Doing(Do::Stage, all);
                }
                self.servers.iter_mut().for_each(|s| s.leave(r as u64).unwrap());
                self.clocks[r] = None;
                At::Done
            }
        }
    }

    /// Nobody can do anything any more.
    fn check_end(&self) {
        let places: Vec<&At> = self.replicas.iter().map(|r| &r.at).collect();
        assert!(places.iter().all(|at| **at == At::Done), "nobody can go on: {places:?}");
        if !self.rules.alone() {
            for (s, applied) in self.applied.iter().enumerate() {
                let updates = self.rules.groups as u64 * self.rounds;
                assert_eq!(applied.len() as u64, updates, "server {s} has applied {applied:?}");
            }
        }
    }

    fn fingerprint(&self) -> u128 {
        let hash = |salt: u64| {
            let mut h = DefaultHasher::new();
            salt.hash(&mut h);
            self.hash(&mut h);
            u128::from(h.finish())
        };
        hash(1) << 64 | hash(2)
    }
}

/// Looks at every state that can be reached; how many there are.
fn search(start: Model) -> usize {
    let mut seen = HashSet::from([start.fingerprint()]);
    let mut left = vec![start];
    while let Some(model) = left.pop() {
        let steps = model.steps();
        if steps.is_empty() {
            model.check_end();
        }
        for action in steps.into_iter().chain(model.accidents()) {
            let mut next = model.clone();
            next.act(action);
            if seen.insert(next.fingerprint()) {
                left.push(next);
            }
        }
    }
    seen.len()
}

/// Groups, members, required gradients and bound; servers, rounds and deaths.
type Case = ((usize, usize, usize, Option<u64>), (usize, u64, usize));

fn check(small: &[Case], large: &[Case]) {
    let all = std::env::var("ACTORFLOW_STATES").is_ok_and(|v| v == "all");
    for ((groups, members, required, bound), (servers, rounds, deaths)) in
        small.iter().chain(large.iter().filter(|_| all))
    {
        let rules = Rules {
            groups: *groups,
            members: *members,
            required: *required,
            bound: *bound,
        };
        let begun = std::time::Instant::now();
        let states = search(Model::new(rules, *servers, *rounds, *deaths));
        println!(
            "{rules:?}, {servers} servers, {rounds} rounds, {deaths} deaths: {states} states, {:.1?}",
            begun.elapsed()
        );
        assert!(states > 100);
    }
}

#[test]
fn synchronous_replicas_agree_under_every_schedule() {
    check(
        &[
            ((1, 2, 2, None), (2, 2, 1)),
            ((1, 2, 2, None), (1, 2, 2)),
            ((1, 3, 3, None), (1, 2, 0)),
        ],
        &[
            ((1, 2, 2, None), (2, 2, 2)),
            ((1, 2, 2, None), (3, 2, 1)),
            ((1, 3, 3, None), (2, 1, 1)),
        ],
    );
}

#[test]
fn backups_are_told_under_every_schedule() {
    check(
        &[((1, 2, 1, None), (2, 2, 1)), ((1, 3, 2, None), (1, 2, 1))],
        &[
            ((1, 3, 2, None), (2, 2, 0)),
            ((1, 3, 2, None), (2, 1, 1)),
            ((1, 3, 2, None), (1, 3, 1)),
        ],
    );
}

#[test]
fn groups_do_not_mix_under_any_schedule() {
    check(
        &[((2, 2, 2, None), (1, 1, 1))],
        &[((2, 2, 2, None), (1, 2, 0)), ((2, 2, 2, None), (2, 1, 0))],
    );
}

#[test]
fn asynchronous_pushes_count_once_under_every_schedule() {
    check(
        &[((2, 1, 1, None), (2, 1, 1)), ((3, 1, 1, None), (1, 2, 1))],
        &[((2, 1, 1, None), (2, 2, 1)), ((3, 1, 1, None), (1, 2, 2))],
    );
}

#[test]
fn nobody_passes_the_bound_under_any_schedule() {
    check(
        &[((2, 1, 1, Some(1)), (1, 2, 1)), ((3, 1, 1, Some(0)), (1, 2, 0))],
        &[((2, 1, 1, Some(1)), (2, 3, 1)), ((3, 1, 1, Some(1)), (1, 2, 1))],
    );
}
