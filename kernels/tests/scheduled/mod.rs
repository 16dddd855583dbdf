//! Actors under a scheduler that chooses who goes on: real but for the lock of their mailboxes, with nodes that may wait.
#![allow(dead_code)] // each suite uses a part

use std::collections::VecDeque;
use std::sync::Arc;

use actorflow_core::actor::{Claims, Mailbox, Turn};
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext, Resume, StepContext, Suspend};
use actorflow_core::resource::ResourceManager;
use actorflow_core::{Operation, Tensor};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::{Condvar, Mutex};
use shuttle::{Config, Runner, thread};

/// The turn of an actor, as `TurnMailbox` hands it out; who is next is up to the schedule.
#[derive(Default)]
pub(crate) struct Scheduled(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    held: bool,
    waiting: VecDeque<Turn>,
}

impl Scheduled {
    /// Resources whose actors have such mailboxes.
    pub(crate) fn resources() -> Arc<ResourceManager> {
        ResourceManager::new(Arc::new(|| Box::<Scheduled>::default()))
    }
}

impl Mailbox for Scheduled {
    fn try_claim(&self) -> bool {
        !std::mem::replace(&mut self.0.lock().unwrap().held, true)
    }

    fn claim(&self, turn: Turn) {
        let mut queue = self.0.lock().unwrap();
        if queue.held {
            queue.waiting.push_back(turn);
            return;
        }
        queue.held = true;
        drop(queue);
        turn();
    }

    fn release(&self) {
        let mut queue = self.0.lock().unwrap();
        match queue.waiting.pop_front() {
            Some(turn) => {
                drop(queue);
                turn();
            }
            None => queue.held = false,
        }
    }
}

/// What a node answers, once.
#[derive(Default)]
pub(crate) struct Answer {
    given: Mutex<(bool, Option<Result<Vec<Tensor>>>)>,
    there: Condvar,
}

impl Answer {
    fn give(&self, outputs: Result<Vec<Tensor>>) {
        let mut given = self.given.lock().unwrap();
        assert!(!given.0, "a node was answered twice");
        *given = (true, Some(outputs));
        self.there.notify_all();
    }

    /// Waits for it.
    pub(crate) fn wait(&self) -> Result<Vec<Tensor>> {
        let mut given = self.given.lock().unwrap();
        loop {
            if let Some(outputs) = given.1.take() {
                return outputs;
            }
            given = self.there.wait(given).unwrap();
        }
    }
}

/// A node that is parked.
struct Parked {
    answer: Arc<Answer>,
    cancel: CancelToken,
}

impl Resume for Parked {
    fn resume(self: Box<Self>, outputs: Result<Vec<Tensor>>) {
        self.answer.give(outputs);
    }

    fn step_id(&self) -> u64 {
        0
    }

    fn cancel(&self) -> &CancelToken {
        // A cancellation may come before it is listened for.
        thread::yield_now();
        &self.cancel
    }
}

impl Suspend for Parked {
    fn suspend(&self) -> Box<dyn Resume> {
        thread::yield_now();
        Box::new(Parked {
            answer: self.answer.clone(),
            cancel: self.cancel.clone(),
        })
    }
}

/// The operation of a node, and its kernel.
pub(crate) struct Node {
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) outputs: usize,
}

impl Node {
    /// The node of an operation of a graph.
    pub(crate) fn of(op: &Operation, resources: &Arc<ResourceManager>) -> Node {
        let node = op.node();
        let init = KernelInit::of(&node, resources);
        Node {
            kernel: node.def().make_kernel(&init).unwrap().into(),
            outputs: node.num_outputs(),
        }
    }
}

/// Runs a node as the executor does: its actors are claimed, then it computes, here or on the thread that gives the last
/// of them up; it may be parked.
pub(crate) fn run(
    node: &Node,
    inputs: Vec<Tensor>,
    device: &Arc<dyn Device>,
    resources: &Arc<ResourceManager>,
    cancel: &CancelToken,
) -> Arc<Answer> {
    let answer = Arc::new(Answer::default());
    let step = StepContext {
        step_id: 0,
        cancel: cancel.clone(),
        step_resources: resources.clone(),
        resources: resources.clone(),
        rendezvous: None,
        device: device.clone(),
    };
    let mut ins: Vec<Option<Tensor>> = inputs.into_iter().map(Some).collect();
    let mut outs = vec![None; node.outputs];
    let (nothing, mut want) = (Claims::none(), Claims::none());
    let before = OpContext::new(&mut ins, &mut outs, &step, &nothing, None);
    if let Err(e) = node.kernel.claims(&before, &mut want) {
        answer.give(Err(e));
        return answer;
    }
    let (kernel, to) = (node.kernel.clone(), answer.clone());
    want.claim_all(Box::new(move |mut held| {
        let parked = Parked {
            answer: to.clone(),
            cancel: step.cancel.clone(),
        };
        let may: Option<&dyn Suspend> = if kernel.may_suspend() { Some(&parked) } else { None };
        let mut cx = OpContext::new(&mut ins, &mut outs, &step, &held, may);
        let result = kernel.compute(&mut cx);
        let suspended = cx.is_suspended();
        held.release_all();
        if suspended {
            assert!(result.is_ok(), "a parked node failed");
            return;
        }
        let all = |()| {
            let outputs: Option<Vec<Tensor>> = outs.into_iter().collect();
            outputs.ok_or_else(|| Error::internal("the kernel left an output empty"))
        };
        to.give(result.and_then(all));
    }));
    answer
}

/// Runs a model under many schedules: half of them at random, half with few changes of who goes first (PCT, Burckhardt et
/// al. 2010). A model that cannot go on, as all of its threads wait, fails; so does one that does not end.
///
/// `ACTORFLOW_SCHEDULES` says how many there are.
pub(crate) fn schedules(model: impl Fn() + Send + Sync + Clone + 'static) {
    let all = std::env::var("ACTORFLOW_SCHEDULES").map_or(200, |n| n.parse().expect("a number of schedules"));
    let config = || {
        let mut config = Config::new();
        config.stack_size = 512 << 10;
        config
    };
    Runner::new(RandomScheduler::new_from_seed(1, all / 2), config()).run(model.clone());
    Runner::new(PctScheduler::new_from_seed(2, 3, all - all / 2), config()).run(model);
}
