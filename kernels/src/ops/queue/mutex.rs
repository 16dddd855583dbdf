//! `MutexV2`, `MutexLock`, `ConsumeMutexLock`.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use actorflow_core::actor::Actor;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Tensor, register_ops};

use super::handle::{Handle, Place};
use super::room::{At, Counter, Desk, Room, Served, first_input, later, submit};
use crate::shapes;

/// A mutex: whether somebody holds it.
struct Mutex {
    held: bool,
}

/// Asks for the mutex of this actor.
struct Lock(Weak<Actor<Room<Mutex>>>);

/// The lock, which flows along an edge; the mutex is free again when it is consumed or nobody has it any more.
struct Held {
    actor: Arc<Actor<Room<Mutex>>>,
    released: AtomicBool,
}

impl Held {
    fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            later(&self.actor, |m| m.held = false);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

impl Counter for Mutex {
    type Request = Lock;
    type Info = ();
    const KIND: &'static str = "mutex";

    fn line(_: &Lock) -> usize {
        0
    }

    fn serve(&mut self, request: &mut Lock, _: bool) -> Served {
        if self.held {
            return Served::Waits;
        }
        let Some(actor) = request.0.upgrade() else {
            return Served::Done(Err(Error::cancelled("the mutex was destroyed")));
        };
        self.held = true;
        let lock = Arc::new(Held {
            actor,
            released: AtomicBool::new(false),
        });
        Served::Done(Tensor::variants([], vec![lock]).map(|t| vec![t]))
    }

    fn withdraw(&mut self, _: Lock) {}
}

fn mutex_v2() -> OpDef {
    OpDef::new("MutexV2", Category::Queue)
        .doc("A mutex: at most one step at a time holds its lock.")
        .output("resource: resource")
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(|init: &KernelInit<'_>| {
            Ok(Box::new(Handle::new(
                Place::of(init)?,
                |name, mailbox| Ok(Desk::new(name, (), Mutex { held: false }, mailbox)),
                |_: &Desk<Mutex>| Ok(()),
            )))
        })
}

fn mutex_lock() -> OpDef {
    OpDef::new("MutexLock", Category::Queue)
        .doc("Waits for the mutex and locks it until the lock is consumed or gone.")
        .input("mutex: resource")
        .output("mutex_lock: variant")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(At::waits(first_input::<Mutex>, |cx, desk| {
                submit(cx, desk, Lock(Arc::downgrade(desk.actor())))
            })))
        })
}

fn consume(cx: &mut OpContext<'_>) -> Result<()> {
    let t = cx.take_input(0)?;
    match t.as_variants()? {
        [v] => match v.downcast_ref::<Held>() {
            Some(lock) => {
                lock.release();
                Ok(())
            }
            None => Err(Error::invalid("the variant is no lock of a mutex")),
        },
        _ => Err(Error::invalid("expected one lock of a mutex")),
    }
}

fn consume_mutex_lock() -> OpDef {
    OpDef::new("ConsumeMutexLock", Category::Queue)
        .doc("Unlocks the mutex.")
        .input("mutex_lock: variant")
        .shape(shapes::none)
        .stateful()
        .not_differentiable()
        .cpu(|_| Ok(Box::new(consume)))
}

register_ops!(mutex_v2, mutex_lock, consume_mutex_lock);
