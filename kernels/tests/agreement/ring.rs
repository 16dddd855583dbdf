//! A replica that keeps the parameters itself: each has a place of its own, and owns a bucket that all exchange.

use std::sync::Arc;

use actorflow_core::error::Result;
use actorflow_core::{Code, Tensor};
use actorflow_kernels::ops::agreement::state::Rules;
use shuttle::sync::mpsc::channel;

use super::actors::Place;
use super::world::{Life, World};

/// The places of all replicas; the world's are the buckets.
pub(crate) struct Ring {
    pub(crate) world: Arc<World>,
    pub(crate) own: Vec<Place>,
}

impl Ring {
    pub(crate) fn new(replicas: usize) -> Arc<Ring> {
        let rules = |members| Rules {
            groups: 1,
            members,
            required: members,
            bound: None,
        };
        let world = World::new(rules(replicas), replicas);
        let own = |_| Place::new(rules(1), replicas * super::world::PUSHES);
        let own: Vec<Place> = (0..replicas).map(own).collect();
        own.iter().for_each(|p| p.begin(0, false));
        Arc::new(Ring { world, own })
    }
}

struct Member {
    ring: Arc<Ring>,
    life: Life,
    me: usize,
    push: i64,
    round: i64,
    version: i64,
}

impl Member {
    /// Takes the values of whoever has made more updates, tells all buckets how many there were, and joins.
    fn join(ring: &Arc<Ring>, life: &Life, me: usize) -> Result<Member> {
        life.check()?;
        let mut member = Member {
            ring: ring.clone(),
            life: life.clone(),
            me,
            push: 0,
            round: 0,
            version: 0,
        };
        let own = &ring.own[me];
        let version = own.version();
        let newest = (0..ring.own.len()).map(|i| (ring.own[i].version(), i)).max().unwrap();
        let mut known = version;
        if newest.0 > version {
            let nothing = Tensor::vector(&[0i64; 4]);
            let (value, info) = ring.own[newest.1].apply(&nothing, &Tensor::vector::<i64>(&[]))?;
            own.set(value, info[0]);
            own.begin(info[0], false);
            known = info[0];
        }
        for bucket in &ring.world.places {
            life.check()?;
            bucket.begin(known, true);
        }
        for bucket in &ring.world.places {
            let (next, _) = bucket.join(me as i64, &life.cancel)?;
            member.push = member.push.max(next[0]);
        }
        let (next, _) = own.join(0, &life.cancel)?;
        member.push = member.push.max(next[0]);
        member.keep(&Tensor::vector::<i64>(&[]))?;
        Ok(member)
    }

    fn tag(&self) -> Tensor {
        Tensor::vector(&[0, self.push, self.round, self.version])
    }

    fn keep(&mut self, decision: &Tensor) -> Result<()> {
        self.life.check()?;
        let (value, info) = self.ring.own[self.me].apply(&self.tag(), decision)?;
        // The world sees what replicas have, which is the same for all.
        self.ring.world.see(self.me, info[0], &value);
        (self.version, self.round) = (info[0], info[1]);
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let world = &self.ring.world;
        let tag = Tensor::vector(&[self.me as i64, self.push, self.version, self.version]);
        // The gradient stands for the step and not for the push, since a step that was cut off is made again.
        let gradient = world.gradient(self.me, self.version as u64);
        self.life.check()?;
        let mut answers = Vec::new();
        for i in 0..world.places.len() {
            let (ring, tag, gradient, cancel) = (
                self.ring.clone(),
                tag.clone(),
                gradient.clone(),
                self.life.cancel.clone(),
            );
            let (answer, answered) = channel();
            world.spawn(move || {
                let bucket = &ring.world.places[i];
                let exchange = || {
                    let ticket = bucket.stage(&tag, gradient)?;
                    let decision = bucket.decide(&tag, &ticket, &cancel)?;
                    bucket.reduce(&decision)
                };
                let _ = answer.send(exchange());
            });
            answers.push(answered);
        }
        let mut means: Vec<Tensor> = Vec::new();
        for answered in answers {
            self.life.check()?;
            means.push(answered.recv().expect("an exchange ends with an answer")?);
        }
        let mean = means[0].to_vec::<f32>()?;
        for other in &means {
            assert_eq!(
                mean,
                other.to_vec::<f32>()?,
                "buckets of one step have means of different gradients"
            );
        }
        let own = &self.ring.own[self.me];
        let ticket = own.stage(&self.tag(), means.remove(0))?;
        self.keep(&ticket)?;
        self.push += 1;
        Ok(())
    }
}

/// Steps until so many updates are made. A step that has missed what others have is made again after joining again.
pub(crate) fn train(ring: &Arc<Ring>, life: &Life, me: usize, updates: i64) {
    let run = || -> Result<()> {
        let mut member = Member::join(ring, life, me)?;
        while member.version < updates {
            match member.step() {
                Err(e) if e.code() == Code::Aborted && life.check().is_ok() => member = Member::join(ring, life, me)?,
                other => other?,
            }
        }
        Ok(())
    };
    if let Err(e) = run() {
        assert!(life.check().is_err(), "replica {me} fails though it lives: {e}");
        assert!(
            matches!(e.code(), Code::Unavailable | Code::Cancelled | Code::Aborted),
            "{e}"
        );
    }
}
