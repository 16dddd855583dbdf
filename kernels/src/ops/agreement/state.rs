//! The decisions of an agreement, as a state machine without tensors, threads or time.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use actorflow_core::error::{Error, Result};

/// Who agrees with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// How many groups there are. Those of different groups do not wait for each other's gradients.
    pub groups: usize,
    /// How many replicas a group has, those in reserve included.
    pub members: usize,
    /// How many gradients of a group make one update.
    pub required: usize,
    /// The most pushes that a replica may be ahead of the slowest; no limit if `None`.
    pub bound: Option<u64>,
}

/// The most replicas of an agreement.
pub const MOST_REPLICAS: usize = 1 << 20;

impl Rules {
    /// The number of replicas.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is none or there are too many, or a group has fewer than an update needs.
    pub fn replicas(&self) -> Result<usize> {
        let n = self.groups.saturating_mul(self.members);
        if n == 0 || n > MOST_REPLICAS {
            return Err(Error::invalid(format!(
                "an agreement needs between 1 and {MOST_REPLICAS} replicas, got {} groups of {}",
                self.groups, self.members
            )));
        }
        if self.required == 0 || self.required > self.members {
            return Err(Error::invalid(format!(
                "an update needs gradients of {} replicas, but a group has {}",
                self.required, self.members
            )));
        }
        Ok(n)
    }

    /// Whether a replica's own gradient is an update, so that nobody waits for anybody to decide.
    pub fn alone(&self) -> bool {
        self.members == 1
    }
}

/// Whose push it is: the replica and the number of the push, which grows with each.
pub type Push = (u64, u64);

/// Which pushes make the update of a round.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The group.
    pub group: u64,
    /// The round of the group.
    pub round: u64,
    /// The pushes that count, by replica.
    pub winners: Vec<Push>,
}

impl Decision {
    /// The decision as a vector of numbers: group, round, and each winner's replica and push.
    pub fn encode(&self) -> Vec<i64> {
        let of = |x: u64| i64::try_from(x).unwrap_or(i64::MAX);
        let mut v = vec![of(self.group), of(self.round)];
        v.extend(self.winners.iter().flat_map(|(r, p)| [of(*r), of(*p)]));
        v
    }

    /// What [`encode`](Self::encode) wrote; nothing is no decision.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is anything else.
    pub fn decode(v: &[i64]) -> Result<Option<Decision>> {
        if v.is_empty() {
            return Ok(None);
        }
        let numbers: Option<Vec<u64>> = v.iter().map(|x| u64::try_from(*x).ok()).collect();
        match numbers.as_deref() {
            Some([group, round, rest @ ..]) if rest.len() >= 2 && rest.len() % 2 == 0 => {
                let winners: Vec<Push> = rest.chunks_exact(2).map(|c| (c[0], c[1])).collect();
                let sorted = winners.windows(2).all(|w| w[0].0 < w[1].0);
                sorted.then_some(Some(Decision {
                    group: *group,
                    round: *round,
                    winners,
                }))
            }
            _ => None,
        }
        .ok_or_else(|| Error::invalid(format!("{v:?} is no decision of an agreement")))
    }
}

/// Where a replica's gradients belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The replica.
    pub replica: u64,
    /// The number of its push.
    pub push: u64,
    /// The round of its group that it takes part in.
    pub round: u64,
    /// The version of the values that the gradients were computed from.
    pub version: u64,
}

/// A gradient that waits to be applied.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Staged<G> {
    push: u64,
    round: u64,
    version: u64,
    gradient: G,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Presence {
    /// It has not come yet.
    Absent,
    Here,
    Left,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Member<G> {
    presence: Presence,
    /// Pushes below are void unless they were decided on.
    floor: u64,
    /// More than every push that was seen, or was about to be made when the replica last joined.
    next: u64,
    /// How many pushes it has finished.
    clock: u64,
    /// How stale its last push was when it was applied.
    staleness: u64,
    /// Its newest gradient. One that was decided on is never replaced before it is applied: its replica pushes again only
    /// after it has brought the decision here.
    staged: Option<Staged<G>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Group {
    /// Rounds below are decided.
    next: u64,
    /// Those who have staged everywhere, in the round `next`.
    arrived: BTreeMap<u64, u64>,
    last: Option<Decision>,
    /// Rounds below are applied here.
    applied: u64,
}

/// What bringing a decision did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    /// It was applied.
    Applied,
    /// It had been applied before.
    Already,
}

/// How a replica joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The number of its next push.
    pub push: u64,
    /// The round that its group will decide next.
    pub round: u64,
    /// What the group decided last, which may not have been brought everywhere.
    pub last: Option<Decision>,
}

/// The state of an agreement over gradients `G`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State<G> {
    rules: Rules,
    ready: bool,
    version: u64,
    groups: Vec<Group>,
    members: Vec<Member<G>>,
    histogram: Vec<u64>,
}

/// The last bucket of the histogram counts everything that is at least so stale.
pub const MOST_STALE: usize = 1023;

/// The error of a push from before its replica joined again.
fn void(replica: u64) -> Error {
    Error::cancelled(format!("replica {replica} has joined again since"))
}

impl<G> State<G> {
    /// A state before its first round.
    ///
    /// # Errors
    /// As [`Rules::replicas`].
    pub fn new(rules: Rules) -> Result<Self> {
        let n = rules.replicas()?;
        let mut s = State {
            rules,
            ready: false,
            version: 0,
            groups: Vec::new(),
            members: Vec::with_capacity(n),
            histogram: Vec::new(),
        };
        s.members.resize_with(n, || Member {
            presence: Presence::Absent,
            floor: 0,
            next: 0,
            clock: 0,
            staleness: 0,
            staged: None,
        });
        s.groups.resize_with(rules.groups, || Group {
            next: 0,
            arrived: BTreeMap::new(),
            last: None,
            applied: 0,
        });
        Ok(s)
    }

    /// Begins anew: the variables have values, `version` updates old. Nothing that was staged is left, and pushes from
    /// before count no more.
    pub fn begin(&mut self, version: u64) {
        self.ready = true;
        self.version = version;
        self.histogram.clear();
        for g in &mut self.groups {
            // In a group of one, rounds are the numbers of its pushes.
            if !self.rules.alone() {
                (g.next, g.applied) = (version, version);
            }
            g.last = None;
            g.arrived.clear();
        }
        for m in &mut self.members {
            m.floor = m.next;
            m.clock = 0;
            m.staged = None;
        }
    }

    /// Begins anew unless that has happened already, and so many rounds are known here; whether it has.
    pub fn catch_up(&mut self, version: u64) -> bool {
        let behind = !self.ready || self.groups.iter().any(|g| g.next < version);
        if behind {
            self.begin(version);
        }
        behind
    }

    /// Whether the variables have values.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// How many updates were applied.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many pushes were applied when they were so many updates old.
    pub fn histogram(&self) -> &[u64] {
        &self.histogram
    }

    /// How stale the replica's last push was when it was applied.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is no such replica.
    pub fn staleness(&self, replica: u64) -> Result<u64> {
        Ok(self.members[self.member(replica)?].staleness)
    }

    /// The round that the replica's group applies next here.
    ///
    /// # Errors
    /// As [`staleness`](Self::staleness).
    pub fn round(&self, replica: u64) -> Result<u64> {
        Ok(self.groups[self.group(replica)?].applied)
    }

    fn member(&self, replica: u64) -> Result<usize> {
        let n = self.members.len();
        usize::try_from(replica)
            .ok()
            .filter(|r| *r < n)
            .ok_or_else(|| Error::invalid(format!("there is no replica {replica}: the agreement is among {n}")))
    }

    fn group(&self, replica: u64) -> Result<usize> {
        Ok(self.member(replica)? / self.rules.members)
    }

    /// A replica takes part from now on. What it pushed before and nobody decided on is void.
    ///
    /// # Errors
    /// As [`staleness`](Self::staleness).
    pub fn join(&mut self, replica: u64) -> Result<Joined> {
        let (at, of) = (self.member(replica)?, self.group(replica)?);
        let slowest = self.slowest();
        let m = &mut self.members[at];
        if m.presence != Presence::Here {
            m.presence = Presence::Here;
            // Nobody waits for what it missed.
            m.clock = m.clock.max(slowest.unwrap_or(0));
        }
        // What it was about to push before is not known anywhere, and may still come: it is no push of those to come.
        m.next = m.next.saturating_add(1);
        m.floor = m.next;
        let g = &mut self.groups[of];
        g.arrived.remove(&replica);
        Ok(Joined {
            push: m.next,
            round: g.next.max(g.applied),
            last: g.last.clone(),
        })
    }

    /// A replica takes part no more; nobody waits for it.
    ///
    /// # Errors
    /// As [`staleness`](Self::staleness).
    pub fn leave(&mut self, replica: u64) -> Result<()> {
        let at = self.member(replica)?;
        self.members[at].presence = Presence::Left;
        Ok(())
    }

    /// Keeps a replica's gradient; answers the decision of a replica that decides alone. One that comes too late, or after
    /// a newer one of the same replica, is dropped.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is no such replica; `CANCELLED` if the push is void because its replica has joined again.
    /// Without that it would look staged here and could be decided on elsewhere.
    pub fn stage(&mut self, tag: Tag, gradient: G) -> Result<Decision> {
        let (at, of) = (self.member(tag.replica)?, self.group(tag.replica)?);
        let alone = self.rules.alone();
        let g = &mut self.groups[of];
        let m = &mut self.members[at];
        let round = if alone { tag.push } else { tag.round };
        if tag.push < m.floor {
            return Err(void(tag.replica));
        }
        m.next = m.next.max(tag.push.saturating_add(1));
        // What is decided on and not applied yet stays, whatever comes; so does what is newer.
        let decided = |push: u64| {
            let of = |d: &Decision| d.round >= g.applied && d.winners.contains(&(tag.replica, push));
            g.last.as_ref().is_some_and(of)
        };
        let replaces = m.staged.as_ref().is_none_or(|s| s.push <= tag.push && !decided(s.push));
        if round >= g.applied && replaces {
            // What is replaced must not be decided on.
            g.arrived.remove(&tag.replica);
            m.staged = Some(Staged {
                push: tag.push,
                round,
                version: tag.version,
                gradient,
            });
        }
        Ok(Decision {
            group: of as u64,
            round,
            winners: vec![(tag.replica, tag.push)],
        })
    }

    /// A replica has staged everywhere. Once enough have, the group's round is decided.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is no such replica; `FAILED_PRECONDITION` if it is ahead of what is known here.
    pub fn arrive(&mut self, tag: Tag) -> Result<()> {
        let (at, of) = (self.member(tag.replica)?, self.group(tag.replica)?);
        let m = &mut self.members[at];
        m.next = m.next.max(tag.push.saturating_add(1));
        let floor = m.floor;
        let g = &mut self.groups[of];
        if tag.round > g.next {
            return Err(Error::failed_precondition(format!(
                "replica {} is at step {} of its group, but only {} were decided here: the parameter server was restarted; \
                 initialise or restore the model and join again",
                tag.replica, tag.round, g.next
            )));
        }
        if tag.push < floor || tag.round < g.next {
            return Ok(());
        }
        g.arrived.insert(tag.replica, tag.push);
        if g.arrived.len() >= self.rules.required {
            g.last = Some(Decision {
                group: of as u64,
                round: g.next,
                winners: std::mem::take(&mut g.arrived).into_iter().collect(),
            });
            g.next += 1;
        }
        Ok(())
    }

    /// The latest decision of the replica's group, if that is about the tag's round or a later one; `None` while it has to
    /// wait.
    ///
    /// # Errors
    /// `CANCELLED` if the push is void because its replica has joined again; `ABORTED` if the agreement has begun anew behind
    /// the tag's round; `OUT_OF_RANGE` naming who has left if too few are left to decide.
    pub fn decided(&self, tag: Tag) -> Result<Option<Decision>> {
        let of = self.group(tag.replica)?;
        let g = &self.groups[of];
        if tag.round < g.next {
            let gone = || {
                let known = format!(
                    "step {} was decided elsewhere; take the values of another replica",
                    tag.round
                );
                Error::new(actorflow_core::Code::Aborted, known)
            };
            return g.last.clone().ok_or_else(gone).map(Some);
        }
        if tag.push < self.members[self.member(tag.replica)?].floor {
            return Err(void(tag.replica));
        }
        let first = of * self.rules.members;
        let members = &self.members[first..first + self.rules.members];
        let left: Vec<usize> = members
            .iter()
            .enumerate()
            .filter(|(_, m)| m.presence == Presence::Left)
            .map(|(i, _)| first + i)
            .collect();
        let remain = members.len() - left.len();
        if remain < self.rules.required {
            return Err(Error::new(
                actorflow_core::Code::OutOfRange,
                format!(
                    "replicas {left:?} have left: {remain} remain, but a step needs {}",
                    self.rules.required
                ),
            ));
        }
        Ok(None)
    }

    /// A replica has finished a push and may have to wait before the next.
    ///
    /// # Errors
    /// As [`staleness`](Self::staleness).
    pub fn finish(&mut self, replica: u64) -> Result<()> {
        let at = self.member(replica)?;
        self.members[at].clock += 1;
        Ok(())
    }

    fn slowest(&self) -> Option<u64> {
        let here = self.members.iter().filter(|m| m.presence == Presence::Here);
        here.map(|m| m.clock).min()
    }

    /// Whether the replica is near enough to the slowest to go on.
    ///
    /// # Errors
    /// As [`staleness`](Self::staleness).
    pub fn may_go(&self, replica: u64) -> Result<bool> {
        let clock = self.members[self.member(replica)?].clock;
        Ok(match (self.rules.bound, self.slowest()) {
            (Some(bound), Some(slowest)) => clock.saturating_sub(slowest) <= bound,
            _ => true,
        })
    }

    /// Brings a decision: unless that has happened before, `f` gets the gradients that count, each with how many updates
    /// old the values are that it was computed from, by replica. If `f` fails nothing changes.
    ///
    /// # Errors
    /// `ABORTED` if gradients that count are not here; what `f` returns.
    pub fn bring(&mut self, d: &Decision, f: impl FnOnce(&[(u64, &G)]) -> Result<()>) -> Result<Brought> {
        let of = usize::try_from(d.group)
            .ok()
            .filter(|g| *g < self.groups.len())
            .ok_or_else(|| Error::invalid(format!("there is no group {} of replicas", d.group)))?;
        if d.round < self.groups[of].applied {
            return Ok(Brought::Already);
        }
        let mut gradients = Vec::with_capacity(d.winners.len());
        for (replica, push) in &d.winners {
            match &self.members[self.member(*replica)?].staged {
                Some(s) if s.push == *push => gradients.push((self.version.saturating_sub(s.version), &s.gradient)),
                // The push of one who decides alone is void once a newer one has come.
                _ if self.rules.alone() => return Ok(Brought::Already),
                _ => {
                    return Err(Error::new(
                        actorflow_core::Code::Aborted,
                        format!(
                            "the gradients that replica {replica} pushed for step {} are lost: the parameter server was \
                             restarted; restore the model from a checkpoint",
                            d.round
                        ),
                    ));
                }
            }
        }
        f(&gradients)?;
        let ages: Vec<u64> = gradients.iter().map(|g| g.0).collect();
        for ((replica, _), age) in d.winners.iter().zip(ages) {
            let at = self.member(*replica)?;
            self.members[at].staleness = age;
            let bucket = usize::try_from(age).map_or(MOST_STALE, |a| a.min(MOST_STALE));
            if self.histogram.len() <= bucket {
                self.histogram.resize(bucket + 1, 0);
            }
            self.histogram[bucket] += 1;
        }
        // Those who came too late for this round are dropped with those who were counted.
        let first = of * self.rules.members;
        for m in &mut self.members[first..first + self.rules.members] {
            if m.staged.as_ref().is_some_and(|s| s.round <= d.round) {
                m.staged = None;
            }
        }
        let g = &mut self.groups[of];
        g.applied = d.round.saturating_add(1);
        g.next = g.next.max(if self.rules.alone() { g.applied } else { 0 });
        self.version += 1;
        Ok(Brought::Applied)
    }

    /// Whom the others wait for: the members of groups in which somebody has arrived who have not; under a bound, the
    /// slowest. Replicas that have left are not among them.
    pub fn missing(&self) -> Vec<u64> {
        let mut missing = Vec::new();
        for (i, m) in self.members.iter().enumerate() {
            let g = &self.groups[i / self.rules.members];
            let awaited = match self.rules.bound {
                Some(_) => m.presence == Presence::Here && Some(m.clock) == self.slowest(),
                None => !g.arrived.is_empty() && !g.arrived.contains_key(&(i as u64)),
            };
            if awaited && m.presence != Presence::Left {
                missing.push(i as u64);
            }
        }
        missing
    }
}
