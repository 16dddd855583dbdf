//! The actor of an agreement: its state, and the replicas that wait there.

#![forbid(unsafe_code)]

use actorflow_core::Tensor;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;

use super::state::{Decision, Rules, State, Tag};
use crate::ops::queue::room::{Counter, Desk, Served};

/// What a replica pushes: its gradients, and the hyper-parameters that its graph computes.
pub type Payload = Vec<Tensor>;

/// The state of the actor.
pub struct Agreement {
    /// Who agreed on what.
    pub state: State<Payload>,
    /// The mean of the round that was reduced last.
    pub mean: Option<(u64, Vec<Tensor>)>,
}

impl Agreement {
    /// A new one.
    ///
    /// # Errors
    /// As [`Rules::replicas`].
    pub fn new(rules: Rules) -> Result<Agreement> {
        Ok(Agreement {
            state: State::new(rules)?,
            mean: None,
        })
    }
}

/// What a replica waits for.
pub enum Wait {
    /// That the variables have values; then it joins.
    Join(u64),
    /// A decision.
    Decision(Tag),
    /// That it is near enough to the slowest.
    Gate(u64),
}

impl Counter for Agreement {
    type Request = Wait;
    type Info = Rules;
    const KIND: &'static str = "agreement";
    const ORDERED: bool = false;

    fn line(_: &Wait) -> usize {
        0
    }

    fn serve(&mut self, request: &mut Wait, _: bool) -> Served {
        match request {
            Wait::Join(_) if !self.state.is_ready() => Served::Waits,
            Wait::Join(replica) => Served::Done(self.state.join(*replica).map(|j| {
                vec![
                    Tensor::vector(&[number(j.push), number(j.round)]),
                    vector(j.last.as_ref()),
                ]
            })),
            Wait::Decision(tag) => match self.state.decided(*tag) {
                Ok(None) => Served::Waits,
                Ok(decision) => Served::Done(Ok(vec![vector(decision.as_ref())])),
                Err(e) => Served::Done(Err(e)),
            },
            Wait::Gate(replica) => match self.state.may_go(*replica) {
                Ok(false) => Served::Waits,
                Ok(true) => Served::Done(Ok(vec![vector(None)])),
                Err(e) => Served::Done(Err(e)),
            },
        }
    }

    fn withdraw(&mut self, _: Wait) {}
}

/// The resource that operations find by its handle.
pub type AgreementDesk = Desk<Agreement>;

/// A count as an int64.
pub fn number(x: u64) -> i64 {
    i64::try_from(x).unwrap_or(i64::MAX)
}

/// A decision as a tensor; none is an empty vector.
pub fn vector(d: Option<&Decision>) -> Tensor {
    Tensor::vector(&d.map(Decision::encode).unwrap_or_default())
}

/// The count in scalar input `i`.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is no scalar or negative.
pub fn count(cx: &OpContext<'_>, i: usize, what: &str) -> Result<u64> {
    let n = cx.scalar::<i64>(i)?;
    u64::try_from(n).map_err(|_| Error::invalid(format!("{what} must not be negative, got {n}")))
}

/// The tag in input `i`: replica, push, round and version.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is anything else.
pub fn tag(cx: &OpContext<'_>, i: usize) -> Result<Tag> {
    let v = cx.slice::<i64>(i)?;
    let numbers: Option<Vec<u64>> = v.iter().map(|x| u64::try_from(*x).ok()).collect();
    match numbers.as_deref() {
        Some(&[replica, push, round, version]) => Ok(Tag {
            replica,
            push,
            round,
            version,
        }),
        _ => Err(Error::invalid(format!(
            "a tag is a replica, the number of its push, a round and a version, none negative; got {v:?}"
        ))),
    }
}

/// The decision in input `i`, if there is one.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is anything else.
pub fn decision(cx: &OpContext<'_>, i: usize) -> Result<Option<Decision>> {
    Decision::decode(cx.slice::<i64>(i)?)
}
