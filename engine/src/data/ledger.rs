//! Who reads which example: each once in an epoch.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use actorflow_core::{Error, Result};
use parking_lot::Mutex;

use super::draws::Draws;

/// The most epochs that may be under way at once: workers are seldom two apart.
const OPEN_EPOCHS: usize = 16;
/// The most workers of an assignment: each is counted for, in each epoch.
const WORKERS: usize = 1 << 20;

/// Hands out the examples of epochs to workers, each example once in each epoch.
///
/// [`Ledger`] is for the workers of one process. Workers of several processes that train synchronously use
/// [`SyncBatches`](super::SyncBatches), which survives that they die; others take shares that need no agreement
/// ([`Dataset::shard`](super::Dataset::shard)), or a ledger that the program implements.
pub trait EpochLedger: Send + Sync {
    /// The numbers of up to `most` further examples of an epoch for a worker; none when there are no more for it.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a worker that there is not; `RESOURCE_EXHAUSTED` for an epoch too far ahead of the others, or if
    /// there is no memory for its order.
    fn claim(&self, worker: usize, epoch: u64, most: usize) -> Result<Vec<u64>>;
}

/// Which worker gets an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// Whoever asks first: a slow worker reads fewer examples. Who reads which depends on time.
    Dynamic,
    /// Worker `i` of so many gets every so-many-th example: who reads which depends on the seed and the number of
    /// workers alone.
    Strided {
        /// How many workers there are.
        workers: usize,
    },
}

/// An epoch under way.
struct Epoch {
    order: Option<Vec<u64>>,
    /// How many examples were handed out: to all, or to each worker.
    given: Vec<u64>,
    /// How many were handed out altogether.
    total: u64,
}

#[derive(Default)]
struct State {
    epochs: BTreeMap<u64, Epoch>,
    /// All epochs before this one are over.
    over: u64,
}

/// An [`EpochLedger`] for the workers of one process.
pub struct Ledger {
    examples: u64,
    seed: Option<u64>,
    assignment: Assignment,
    state: Mutex<State>,
}

impl Ledger {
    /// Hands out the numbers below `examples`: with a seed in random order, in each epoch another one.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for an assignment to no workers, or to more than 1,048,576.
    pub fn new(examples: u64, seed: Option<u64>, assignment: Assignment) -> Result<Ledger> {
        if let Assignment::Strided { workers } = assignment
            && !(1..=WORKERS).contains(&workers)
        {
            return Err(Error::invalid(format!(
                "examples cannot be assigned to {workers} workers, but to 1 to {WORKERS}"
            )));
        }
        Ok(Ledger {
            examples,
            seed,
            assignment,
            state: Mutex::default(),
        })
    }

    fn opened(&self, number: u64) -> Result<Epoch> {
        let order = |seed| Draws::new(seed, number).permutation(self.examples);
        Ok(Epoch {
            order: self.seed.map(order).transpose()?,
            given: match self.assignment {
                Assignment::Dynamic => vec![0],
                Assignment::Strided { workers } => vec![0; workers],
            },
            total: 0,
        })
    }
}

impl EpochLedger for Ledger {
    fn claim(&self, worker: usize, epoch: u64, most: usize) -> Result<Vec<u64>> {
        let (lane, lanes) = match self.assignment {
            Assignment::Dynamic => (0, 1),
            Assignment::Strided { workers } if worker < workers => (worker, workers),
            Assignment::Strided { workers } => {
                return Err(Error::invalid(format!(
                    "there is no worker {worker} among the {workers} of the ledger; they count from 0"
                )));
            }
        };
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if epoch < state.over || self.examples == 0 {
            return Ok(Vec::new());
        }
        let open = state.epochs.len();
        let now = match state.epochs.entry(epoch) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(_) if open >= OPEN_EPOCHS => {
                return Err(Error::exhausted(format!(
                    "worker {worker} asks for epoch {epoch} while {open} others from epoch {} on are not read to the \
                     end: does a worker not take its examples?",
                    state.over
                )));
            }
            Entry::Vacant(e) => e.insert(self.opened(epoch)?),
        };
        let mut claimed = Vec::new();
        while claimed.len() < most {
            let place = now.given[lane]
                .checked_mul(lanes as u64)
                .and_then(|p| p.checked_add(lane as u64))
                .filter(|p| *p < self.examples);
            let Some(place) = place else { break };
            now.given[lane] += 1;
            now.total += 1;
            claimed.push(match &now.order {
                Some(order) => order.get(place as usize).copied().unwrap_or(place),
                None => place,
            });
        }
        if now.total == self.examples {
            now.order = None;
        }
        while let Some(e) = state.epochs.get(&state.over) {
            if e.total < self.examples {
                break;
            }
            state.epochs.remove(&state.over);
            state.over += 1;
        }
        Ok(claimed)
    }
}
