//! What streams may hold while they are read: the limits, the memory, and an account of both.
//!
//! A frame that has come in part is memory that nobody has use for yet, and a peer can keep it so for as long as it
//! likes. So it is bounded three times: memory follows what has really come (see `Filling`), what the frames of one
//! connection announce stays within its window, and what those of one peer hold together, over all its connections, is
//! charged to a [`Ledger`] with a limit that leaves the others their share of the pool.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actorflow_core::tensor::{Pool, human};

use super::Fault;
use crate::limits::Limits;

/// What a connection draws from its ledger at a time, at most, so that small frames cost no access to what is shared.
const GRAIN: u64 = 256 << 10;

/// How many bytes the unfinished frames of one peer hold, and how many they may.
#[derive(Debug)]
pub struct Ledger {
    most: u64,
    drawn: AtomicU64,
}

impl Ledger {
    /// Nothing is held. At most what the limits say, and what a pool with this budget can do without.
    pub fn new(limits: &Limits, budget: usize) -> Ledger {
        Ledger {
            most: limits.within(budget).unfinished as u64,
            drawn: AtomicU64::new(0),
        }
    }

    /// Bytes that connections have drawn.
    pub fn drawn(&self) -> u64 {
        self.drawn.load(Ordering::Relaxed)
    }

    fn draw(&self, bytes: u64) -> bool {
        let more = |n: u64| n.checked_add(bytes).filter(|n| *n <= self.most);
        self.drawn
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.drawn.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What all streams of one connection share while they are read: the limits, the memory, and how much of it is
/// promised to frames whose headers have come, and held by them.
#[derive(Debug)]
pub struct Intake {
    pub(super) limits: Limits,
    pub(super) pool: Arc<Pool>,
    promised: u64,
    /// What unfinished frames hold; at most `drawn`.
    held: u64,
    /// What has been drawn from the ledger.
    drawn: u64,
    ledger: Arc<Ledger>,
}

impl Intake {
    /// Nothing is promised yet. The ledger is the connection's own until it [joins](Self::join) that of its peer.
    pub fn new(limits: Limits, pool: Arc<Pool>) -> Intake {
        let ledger = Arc::new(Ledger::new(&limits, pool.stats().budget));
        Intake {
            limits,
            pool,
            promised: 0,
            held: 0,
            drawn: 0,
            ledger,
        }
    }

    /// Charges another ledger from now on. To be called before anything is read: what is held already is forgotten.
    pub fn join(&mut self, ledger: Arc<Ledger>) {
        self.ledger.give_back(self.drawn);
        (self.held, self.drawn) = (0, 0);
        self.ledger = ledger;
    }

    /// Bytes that frames whose headers have come are still waiting for or holding.
    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// Bytes of memory that unfinished frames hold.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Promises `bytes` to a frame: at most the window, and what may exceed it.
    pub(super) fn promise(&mut self, bytes: u64) -> Result<(), Fault> {
        let largest = self.limits.tensor.max(self.limits.message);
        let most = self.limits.in_flight_bytes.saturating_add(largest.saturating_mul(2));
        match self.promised.checked_add(bytes).filter(|n| *n <= most as u64) {
            Some(n) => {
                self.promised = n;
                Ok(())
            }
            None => Err(Fault::Oversized(format!(
                "{bytes} bytes more while {} are under way, at most {}",
                self.promised,
                human(most)
            ))),
        }
    }

    /// A frame that was promised so many bytes is complete or given up.
    pub(super) fn redeem(&mut self, bytes: u64) {
        self.promised = self.promised.saturating_sub(bytes);
    }

    /// Charges memory of an unfinished frame, before it is taken. `account` is what its holder has been charged.
    pub(super) fn charge(&mut self, account: &mut u64, bytes: u64) -> Result<(), Fault> {
        let held = self.held.saturating_add(bytes);
        if held > self.drawn {
            let exactly = held - self.drawn;
            let rounded = exactly.saturating_add(GRAIN.min(self.ledger.most / 256));
            let drawn = [rounded, exactly].into_iter().find(|n| self.ledger.draw(*n));
            let Some(drawn) = drawn else {
                let most = usize::try_from(self.ledger.most).unwrap_or(usize::MAX);
                return Err(Fault::Exhausted(format!(
                    "no memory for an arriving frame: it needs {bytes} bytes more, and what has come in part from this \
                     peer may hold {} in all; give the receiver's device more memory, or send in parts",
                    human(most)
                )));
            };
            self.drawn += drawn;
        }
        self.held = held;
        *account = account.saturating_add(bytes);
        Ok(())
    }

    /// Takes back what was charged.
    pub(super) fn release(&mut self, account: &mut u64, bytes: u64) {
        let bytes = bytes.min(*account);
        *account -= bytes;
        self.held = self.held.saturating_sub(bytes);
        let spare = self.drawn - self.held;
        if spare > 2 * GRAIN.min(self.ledger.most / 256) {
            self.ledger.give_back(spare);
            self.drawn = self.held;
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.ledger.give_back(self.drawn);
    }
}
