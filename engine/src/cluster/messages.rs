//! What tasks and coordinators say to each other.

use std::time::Duration;

use actorflow_core::error::Error;
use rkyv::{Archive, Deserialize, Serialize};

use super::host::ShareStatus;

/// Request: what are you? Answer: [`Description`].
pub(crate) const DESCRIBE: u16 = 1;
/// Request: compile this share (in the blob). Answer: [`Registered`].
pub(crate) const REGISTER: u16 = 2;
/// Request: run a registered share ([`RunShare`]) with these tensors. Answer: what it fetched, as tensors.
pub(crate) const RUN: u16 = 3;
/// Notice: end a step ([`Reason`]).
pub(crate) const ABORT: u16 = 4;
/// Request: how far is a step? Answer: [`Status`].
pub(crate) const STATUS: u16 = 5;
/// Notice: forget registered shares ([`Numbers`]).
pub(crate) const RELEASE: u16 = 6;
/// Request: forget the resources of containers ([`Names`]; none: all of them). Answer: those of them that had any ([`Names`]).
pub(crate) const RESET: u16 = 7;
/// Request: which steps are in progress? Answer: [`Steps`].
pub(crate) const STEPS: u16 = 8;
/// Request: end a step that somebody else began ([`Reason`]). Answer: nothing.
pub(crate) const CANCEL: u16 = 9;
/// Request of a chief, and notice of a task to its clients: a run of a task has ended ([`Gone`]). Answer: nothing.
pub(crate) const GONE: u16 = 10;
/// Request of an operator: go to this epoch ([`Epoch`](super::epoch::Epoch)) unless you are in a later one. Answer: the one
/// that the task is in then.
pub(crate) const EPOCH: u16 = 11;

/// What a task is.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) devices: Vec<DeviceEntry>,
    /// The tasks of the cluster, as the task knows them: `/job:ps/task:0`.
    pub(crate) tasks: Vec<String>,
    /// Their addresses, in the same order.
    pub(crate) addresses: Vec<String>,
    pub(crate) version: String,
    /// Seconds since it started.
    pub(crate) uptime: u64,
    /// The cluster's epoch, as the task knows it.
    pub(crate) epoch: u64,
}

/// A device of a task.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct DeviceEntry {
    /// The full name.
    pub(crate) name: String,
    /// The byte budget.
    pub(crate) memory: u64,
    /// The bytes that tensors take now.
    pub(crate) used: u64,
    pub(crate) threads: u32,
}

/// Where a share is registered.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Registered {
    pub(crate) handle: u64,
}

/// A share to run.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct RunShare {
    pub(crate) handle: u64,
    /// How long it may take, in microseconds; 0: any time. (Clocks of machines differ, durations hardly.)
    pub(crate) timeout_us: u64,
    /// Whether the answer's blob is to say when each node ran.
    pub(crate) trace: bool,
}

/// Why something is to end.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Reason {
    pub(crate) message: String,
}

/// A run of a task that has ended.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Gone {
    /// `/job:ps/task:0`.
    pub(crate) task: String,
    /// This run and all earlier ones.
    pub(crate) incarnation: u64,
}

/// What a coordinator says when it asks how far a step is.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Looking {
    /// It has seen the step stand still everywhere.
    pub(crate) stalled: bool,
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Status {
    /// It is in progress.
    pub(crate) known: bool,
    pub(crate) waiting: bool,
    pub(crate) waits_for: String,
    pub(crate) others: u32,
}

/// Several handles.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Numbers {
    pub(crate) numbers: Vec<u64>,
}

/// Several containers.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Names {
    pub(crate) names: Vec<String>,
}

/// Steps in progress.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct Steps {
    /// The oldest of them.
    pub(crate) steps: Vec<StepEntry>,
    /// How many there are.
    pub(crate) count: u64,
}

/// A step in progress.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct StepEntry {
    pub(crate) step: u64,
    /// Since when, in microseconds.
    pub(crate) age_us: u64,
    pub(crate) waiting: bool,
    pub(crate) waits_for: String,
}

impl Status {
    pub(crate) fn of(status: Option<ShareStatus>) -> Status {
        let known = status.is_some();
        let s = status.unwrap_or_default();
        Status {
            known,
            waiting: s.waiting,
            waits_for: shortened(s.waits_for),
            others: u32::try_from(s.others).unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn into_share(self) -> Option<ShareStatus> {
        self.known.then_some(ShareStatus {
            waiting: self.waiting,
            waits_for: self.waits_for,
            others: self.others as usize,
        })
    }
}

impl Reason {
    pub(crate) fn of(e: &Error) -> Reason {
        Reason {
            message: shortened(e.to_string()),
        }
    }

    /// The error of the work that is to end.
    pub(crate) fn into_error(self) -> Error {
        Error::cancelled(format!("another part of the step failed: {}", self.message)).derived()
    }
}

/// How an error says what is missing now that a task is lost.
pub(crate) const WAITS_FOR: &str = "waits for";

/// Texts in headers are cut, so that the header fits.
fn shortened(mut text: String) -> String {
    const MOST: usize = 16 << 10;
    if text.len() > MOST {
        let end = (0..=MOST).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What is left of a time in microseconds, for [`RunShare::timeout_us`].
pub(crate) fn micros(left: Option<Duration>) -> u64 {
    left.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX).max(1))
}

/// A message of `kind` whose header is this struct.
macro_rules! with_header {
    ($kind:expr, $step:expr, $head:expr) => {
        actorflow_transport::header::encode($head).map(|header| actorflow_transport::Message {
            step: $step,
            header,
            ..actorflow_transport::Message::new($kind)
        })
    };
}
pub(crate) use with_header;

/// The header of a message.
///
/// # Errors
/// `INVALID_ARGUMENT` for bytes that are none.
macro_rules! header_of {
    ($message:expr, $t:ty) => {
        actorflow_transport::header::decode::<$t>(&$message.header)
    };
}
pub(crate) use header_of;
