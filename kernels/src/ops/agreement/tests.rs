//! A random model of the whole protocol: servers, replicas that die at any point and come back, and messages of the dead
//! that arrive late. What every strategy promises is checked after each action.

use std::collections::{HashMap, HashSet};

use super::state::{Brought, Decision, MOST_REPLICAS, Rules, State, Tag};

/// A small generator (xorshift); the model must be the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Where a replica is in its step.
#[derive(Debug, Clone, PartialEq)]
enum At {
    Dead,
    /// Has joined; brings the last decision to the servers that are left.
    Bringing(Option<Decision>, Vec<usize>),
    /// Stages on the servers that are left.
    Staging(Vec<usize>),
    Waiting,
    Idle,
}

struct Replica {
    at: At,
    tag: Tag,
    /// What it is told of the round by each server that it has brought the decision to.
    rounds: Vec<u64>,
}

/// A push, as the gradient that stands for it.
type Gradient = (u64, u64);

struct Model {
    rules: Rules,
    servers: Vec<State<Gradient>>,
    replicas: Vec<Replica>,
    /// Which pushes each server applied, by group and round.
    applied: Vec<HashMap<(u64, u64), Vec<Gradient>>>,
    /// Messages of the dead that are still on their way: the server and the tag.
    late: Vec<(usize, Tag)>,
    random: Random,
}

impl Model {
    fn new(rules: Rules, servers: usize, seed: u64) -> Model {
        let n = rules.replicas().unwrap();
        let mut servers: Vec<State<Gradient>> = (0..servers).map(|_| State::new(rules).unwrap()).collect();
        servers.iter_mut().for_each(|s| s.begin(0));
        let replica = |r: usize| Replica {
            at: At::Dead,
            tag: Tag {
                replica: r as u64,
                push: 0,
                round: 0,
                version: 0,
            },
            rounds: Vec::new(),
        };
        Model {
            rules,
            applied: vec![HashMap::new(); servers.len()],
            servers,
            replicas: (0..n).map(replica).collect(),
            late: Vec::new(),
            random: Random(seed * 2 + 1),
        }
    }

    fn bring(&mut self, server: usize, d: &Decision) {
        let applied = &mut self.applied[server];
        let brought = self.servers[server].bring(d, |gradients| {
            let pushes: Vec<Gradient> = gradients.iter().map(|(_, g)| **g).collect();
            assert_eq!(pushes, d.winners, "the gradients are not those of the winners");
            assert!(
                gradients.iter().all(|(age, _)| *age == 0),
                "a synchronous gradient is stale"
            );
            assert!(
                applied.insert((d.group, d.round), pushes).is_none(),
                "a round was applied twice"
            );
            Ok(())
        });
        assert!(
            matches!(brought, Ok(Brought::Applied | Brought::Already)),
            "{brought:?}"
        );
    }

    fn all_servers(&self) -> Vec<usize> {
        (0..self.servers.len()).collect()
    }

    fn act(&mut self) {
        let r = self.random.below(self.replicas.len());
        match self.random.below(20) {
            0 => return self.die(r),
            1 | 2 if !self.late.is_empty() => {
                let at = self.random.below(self.late.len());
                let (server, tag) = self.late.swap_remove(at);
                // Refused once its replica has joined again.
                drop(self.servers[server].stage(tag, (tag.replica, tag.push)));
                return;
            }
            _ => {}
        }
        let tag = self.replicas[r].tag;
        match self.replicas[r].at.clone() {
            At::Dead => {
                let joined: Vec<_> = self.servers.iter_mut().map(|s| s.join(tag.replica).unwrap()).collect();
                let me = &mut self.replicas[r];
                me.tag.push = joined.iter().map(|j| j.push).max().unwrap();
                me.rounds.clear();
                me.at = At::Bringing(joined[0].last.clone(), (0..joined.len()).collect());
            }
            At::Bringing(decision, mut left) => {
                let server = left.swap_remove(self.random.below(left.len()));
                if let Some(d) = &decision {
                    self.bring(server, d);
                }
                let round = self.servers[server].round(tag.replica).unwrap();
                let me = &mut self.replicas[r];
                me.rounds.push(round);
                me.at = At::Bringing(decision, left);
                if let At::Bringing(_, left) = &me.at
                    && left.is_empty()
                {
                    me.tag.round = *me.rounds.iter().min().unwrap();
                    me.tag.version = me.tag.round;
                    me.at = At::Idle;
                }
            }
            At::Idle => {
                let servers = self.all_servers();
                self.replicas[r].at = At::Staging(servers);
            }
            At::Staging(mut left) => {
                let server = left.swap_remove(self.random.below(left.len()));
                self.servers[server].stage(tag, (tag.replica, tag.push)).unwrap();
                let me = &mut self.replicas[r];
                me.at = At::Staging(left.clone());
                if left.is_empty() {
                    self.servers[0].arrive(tag).unwrap();
                    me.at = At::Waiting;
                }
            }
            At::Waiting => {
                if let Some(d) = self.servers[0].decided(tag).unwrap() {
                    let servers = self.all_servers();
                    let me = &mut self.replicas[r];
                    me.rounds.clear();
                    me.tag.push += 1;
                    me.at = At::Bringing(Some(d), servers);
                }
            }
        }
    }

    fn die(&mut self, r: usize) {
        let me = &mut self.replicas[r];
        if let At::Staging(left) = &me.at {
            // Some of what it sent arrives after its death.
            let tag = me.tag;
            self.late.extend(left.iter().map(|s| (*s, tag)));
        }
        me.at = At::Dead;
    }

    fn check(&self) {
        for applied in &self.applied {
            let pushes: Vec<&Gradient> = applied.values().flatten().collect();
            let once: HashSet<&&Gradient> = pushes.iter().collect();
            assert_eq!(once.len(), pushes.len(), "a push was applied twice");
            assert!(applied.values().all(|p| p.len() == self.rules.required));
        }
        for a in &self.applied {
            for b in &self.applied {
                assert!(
                    a.iter().all(|(round, pushes)| b.get(round).is_none_or(|p| p == pushes)),
                    "a step has two sets of winners"
                );
            }
        }
    }
}

fn synchronous(groups: usize, members: usize, required: usize) -> Rules {
    Rules {
        groups,
        members,
        required,
        bound: None,
    }
}

#[test]
fn every_step_has_one_set_of_winners_whoever_dies_and_whenever() {
    for seed in 0..300 {
        let (members, required) = [(2, 2), (3, 2), (4, 3), (4, 2)][seed % 4];
        let mut m = Model::new(synchronous(1, members, required), 1 + seed % 3, seed as u64);
        for i in 0..600 {
            m.act();
            if i % 50 == 0 {
                m.check();
            }
        }
        // Whoever is left brings what was decided.
        for r in 0..members {
            m.die(r);
        }
        let decided = m.servers[0].join(0).unwrap();
        if let Some(d) = decided.last {
            (0..m.servers.len()).for_each(|s| m.bring(s, &d));
        }
        m.check();
        let rounds: Vec<usize> = m.applied.iter().map(HashMap::len).collect();
        assert!(
            rounds.iter().all(|n| *n == rounds[0]),
            "a step is half applied: {rounds:?}"
        );
        assert!(rounds[0] > 3, "nothing happened in run {seed}");
    }
}

/// An update that expects these gradients.
fn expect<'a>(gradients: &'a [(u64, u32)]) -> impl FnOnce(&[(u64, &u32)]) -> actorflow_core::Result<()> + 'a {
    move |got| {
        let got: Vec<(u64, u32)> = got.iter().map(|(age, g)| (*age, **g)).collect();
        assert_eq!(got, gradients);
        Ok(())
    }
}

fn tag(replica: u64, push: u64, round: u64, version: u64) -> Tag {
    Tag {
        replica,
        push,
        round,
        version,
    }
}

#[test]
fn a_replica_that_decides_alone_is_applied_once_and_its_age_is_counted() {
    let mut s: State<u32> = State::new(synchronous(2, 1, 1)).unwrap();
    s.begin(0);
    let first = s.stage(tag(0, 0, 0, 0), 7).unwrap();
    assert_eq!(s.bring(&first, expect(&[(0, 7)])).unwrap(), Brought::Applied);
    assert_eq!(s.bring(&first, |_| panic!("twice")).unwrap(), Brought::Already);
    let other = s.stage(tag(1, 0, 0, 0), 8).unwrap();
    s.bring(&other, expect(&[(1, 8)])).unwrap();
    assert_eq!(
        (s.staleness(1).unwrap(), s.histogram(), s.version()),
        (1, [1, 1].as_slice(), 2)
    );
    // The same push again is dropped.
    let again = s.stage(tag(0, 0, 0, 2), 9).unwrap();
    assert_eq!(s.bring(&again, |_| panic!("twice")).unwrap(), Brought::Already);
}

#[test]
fn a_failed_update_changes_nothing() {
    let mut s: State<u32> = State::new(synchronous(1, 1, 1)).unwrap();
    let d = s.stage(tag(0, 0, 0, 0), 7).unwrap();
    assert!(s.bring(&d, |_| Err(actorflow_core::Error::invalid("no"))).is_err());
    assert_eq!((s.version(), s.histogram().len()), (0, 0));
    assert_eq!(s.bring(&d, |_| Ok(())).unwrap(), Brought::Applied);
}

#[test]
fn what_is_decided_on_is_not_replaced_before_it_is_applied() {
    let mut s: State<u32> = State::new(synchronous(1, 2, 2)).unwrap();
    for (replica, gradient) in [(0, 10), (1, 20)] {
        s.stage(tag(replica, 0, 0, 0), gradient).unwrap();
        s.arrive(tag(replica, 0, 0, 0)).unwrap();
    }
    let decision = s.decided(tag(0, 0, 0, 0)).unwrap().unwrap();
    // One dies and computes the step again, before anybody has applied it.
    assert_eq!(s.join(1).unwrap().push, 2);
    s.stage(tag(1, 2, 0, 0), 21).unwrap();
    s.arrive(tag(1, 2, 0, 0)).unwrap();
    assert_eq!(s.decided(tag(1, 2, 0, 0)).unwrap().as_ref(), Some(&decision));
    s.bring(&decision, expect(&[(0, 10), (0, 20)])).unwrap();
}

#[test]
fn nobody_passes_the_bound_and_those_who_leave_or_never_came_hold_nobody_back() {
    let rules = Rules {
        bound: Some(1),
        ..synchronous(3, 1, 1)
    };
    let mut s: State<u32> = State::new(rules).unwrap();
    s.join(0).unwrap();
    s.join(1).unwrap();
    s.finish(0).unwrap();
    assert!(s.may_go(0).unwrap());
    s.finish(0).unwrap();
    assert!(!s.may_go(0).unwrap());
    assert_eq!(s.missing(), [1]);
    s.finish(1).unwrap();
    assert!(s.may_go(0).unwrap());
    s.finish(0).unwrap();
    s.leave(1).unwrap();
    assert!(s.may_go(0).unwrap());
    // Whoever comes late begins where the slowest is.
    s.join(2).unwrap();
    s.finish(0).unwrap();
    assert!(s.may_go(0).unwrap());
}

#[test]
fn a_group_that_too_many_have_left_says_who() {
    let mut s: State<u32> = State::new(synchronous(1, 3, 2)).unwrap();
    s.arrive(tag(0, 0, 0, 0)).unwrap();
    assert_eq!(s.decided(tag(0, 0, 0, 0)).unwrap(), None);
    assert_eq!(s.missing(), [1, 2]);
    s.leave(1).unwrap();
    assert_eq!(s.decided(tag(0, 0, 0, 0)).unwrap(), None);
    s.leave(2).unwrap();
    let e = s.decided(tag(0, 0, 0, 0)).unwrap_err();
    assert_eq!(e.code(), actorflow_core::Code::OutOfRange);
    assert!(e.message().contains("[1, 2] have left"), "{e}");
}

#[test]
fn decisions_are_read_back_and_what_is_none_is_refused() {
    let d = Decision {
        group: 1,
        round: 5,
        winners: vec![(2, 9), (3, 7)],
    };
    assert_eq!(Decision::decode(&d.encode()).unwrap(), Some(d));
    assert_eq!(Decision::decode(&[]).unwrap(), None);
    for wrong in [&[1][..], &[0, 0], &[0, 0, 1], &[0, -1, 1, 1], &[0, 0, 2, 1, 1, 1]] {
        assert!(Decision::decode(wrong).is_err(), "{wrong:?}");
    }
    let mut s: State<u32> = State::new(synchronous(1, 2, 2)).unwrap();
    let unknown = Decision::decode(&[7, 0, 0, 0]).unwrap().unwrap();
    assert!(s.bring(&unknown, |_| Ok(())).is_err());
    let lost = Decision::decode(&[0, 0, 0, 0, 1, 0]).unwrap().unwrap();
    assert_eq!(
        s.bring(&lost, |_| Ok(())).unwrap_err().code(),
        actorflow_core::Code::Aborted
    );
}

#[test]
fn agreements_of_nobody_or_of_too_many_are_refused() {
    for (groups, members, required) in [
        (0, 1, 1),
        (1, 0, 0),
        (1, 1, 2),
        (MOST_REPLICAS, 2, 1),
        (usize::MAX, 2, 1),
    ] {
        assert!(synchronous(groups, members, required).replicas().is_err());
    }
    let mut s: State<u32> = State::new(synchronous(1, 2, 2)).unwrap();
    assert!(s.join(2).is_err() && s.leave(u64::MAX).is_err() && s.arrive(tag(0, 0, 1, 0)).is_err());
}
