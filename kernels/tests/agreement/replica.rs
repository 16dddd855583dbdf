//! A replica of the strategies with parameter servers, as `train::parallel` drives its operations: everything that a step
//! does at several servers is done by threads, which outlive it.

use std::sync::Arc;

use actorflow_core::error::Result;
use actorflow_core::{Code, Tensor};
use shuttle::sync::mpsc::channel;

use super::actors::{Numbers, Place};
use super::world::{Life, World};

/// How replicas agree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Agree {
    /// Synchronously, in one group or several.
    Decide,
    /// Not at all.
    Alone,
    /// Not at all, but nobody is further ahead than the bound.
    Gate,
}

pub(crate) struct Replica {
    world: Arc<World>,
    life: Life,
    agree: Agree,
    me: usize,
    push: i64,
    round: i64,
    versions: Vec<i64>,
}

impl Replica {
    /// Joins, brings what was decided last, and takes the values.
    pub(crate) fn join(world: &Arc<World>, life: &Life, agree: Agree, me: usize) -> Result<Replica> {
        let mut replica = Replica {
            world: world.clone(),
            life: life.clone(),
            agree,
            me,
            push: 0,
            round: 0,
            versions: vec![0; world.places.len()],
        };
        let cancel = life.cancel.clone();
        let joined = replica.everywhere(move |p, _| p.join(me as i64, &cancel))?;
        world.joined(me);
        replica.push = joined.iter().map(|j| j.0[0]).max().unwrap();
        let decision = match agree {
            Agree::Decide => joined[0].1.clone(),
            _ => Tensor::vector::<i64>(&[]),
        };
        replica.apply(vec![decision; world.places.len()], true)?;
        Ok(replica)
    }

    /// Does something at all places at once, unless this life is over. What has begun goes on whatever becomes of it.
    fn everywhere<R: Send + 'static>(
        &self,
        f: impl Fn(&Place, usize) -> Result<R> + Clone + Send + 'static,
    ) -> Result<Vec<R>> {
        self.life.check()?;
        let mut answers = Vec::new();
        for i in 0..self.world.places.len() {
            let (world, f) = (self.world.clone(), f.clone());
            let (answer, answered) = channel();
            self.world.spawn(move || {
                // Nobody may be left who listens.
                let _ = answer.send(f(&world.places[i], i));
            });
            answers.push(answered);
        }
        answers
            .into_iter()
            .map(|answered| {
                self.life.check()?;
                answered.recv().expect("an operation ends with an answer")
            })
            .collect()
    }

    fn tags(&self) -> Vec<Tensor> {
        let tag = |v: &i64| Tensor::vector(&[self.me as i64, self.push, self.round, *v]);
        self.versions.iter().map(tag).collect()
    }

    /// Brings a decision to each place; what happened there. `keep` the values, for the next gradients.
    fn apply(&mut self, decisions: Vec<Tensor>, keep: bool) -> Result<Vec<Numbers>> {
        let (world, tags) = (self.world.clone(), self.tags());
        let infos = self.everywhere(move |p, i| {
            let (value, info) = p.apply(&tags[i], &decisions[i])?;
            world.see(i, info[0], &value);
            assert_eq!(info[0], info[4], "the counter of steps counts something else");
            Ok(info)
        })?;
        if keep {
            self.versions = infos.iter().map(|i| i[0]).collect();
            self.round = infos.iter().map(|i| i[1]).min().unwrap();
        }
        Ok(infos)
    }

    /// How many rounds its group has made everywhere; of a replica that decides alone, how many pushes it has made.
    pub(crate) fn made(&self) -> i64 {
        self.round
    }

    /// A step: whether it counted, and its greatest age.
    pub(crate) fn step(&mut self) -> Result<(bool, i64)> {
        let (tags, gradient) = (self.tags(), self.world.gradient(self.me, self.push as u64));
        let tickets = self.everywhere(move |p, i| p.stage(&tags[i], gradient.clone()))?;
        let n = tickets.len();
        let (cancel, tag) = (self.life.cancel.clone(), self.tags().remove(0));
        self.life.check()?;
        let first = &self.world.places[0];
        let infos = match self.agree {
            Agree::Alone => self.apply(tickets, true)?,
            Agree::Decide => {
                let decision = first.decide(&tag, &tickets[0], &cancel)?;
                self.apply(vec![decision; n], true)?
            }
            Agree::Gate => {
                let infos = self.apply(tickets, false)?;
                self.world.before_gate(self.me);
                let open = self.world.places[0].gate(&tag, &cancel)?;
                self.world.after_gate(self.me);
                self.apply(vec![open; n], true)?;
                infos
            }
        };
        self.push += 1;
        Ok((
            infos.iter().all(|i| i[2] == 1),
            infos.iter().map(|i| i[3]).max().unwrap(),
        ))
    }

    /// Takes part no more.
    pub(crate) fn leave(self) -> Result<()> {
        self.world.leaves(self.me);
        let me = self.me as i64;
        self.everywhere(move |p, _| {
            p.leave(me);
            Ok(())
        })?;
        Ok(())
    }
}

/// Steps until so many rounds (or pushes of its own) are made, then it leaves; an error only if the life is over.
pub(crate) fn train(world: &Arc<World>, life: &Life, agree: Agree, me: usize, rounds: i64, stalest: i64) {
    let run = || -> Result<()> {
        let mut replica = Replica::join(world, life, agree, me)?;
        while replica.made() < rounds {
            match replica.step() {
                Ok((_, age)) => assert!(age <= stalest, "a gradient was applied that was {age} updates old"),
                // A life before it has joined late: this one joins again, as after every step that failed.
                Err(e) if e.code() == Code::Cancelled && life.check().is_ok() => {
                    replica = Replica::join(world, life, agree, me)?;
                }
                Err(e) => return Err(e),
            }
        }
        replica.leave()
    };
    if let Err(e) = run() {
        assert!(life.check().is_err(), "replica {me} fails though it lives: {e}");
        // It was woken, or saw that it had ended, or a later life of the same replica has joined meanwhile.
        assert!(matches!(e.code(), Code::Unavailable | Code::Cancelled), "{e}");
    }
}
