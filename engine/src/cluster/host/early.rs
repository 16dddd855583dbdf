//! How much each member has sent for steps that have not begun here. A coordinator tells all its tasks at once, so that
//! there is little of it for long unless a member is broken or hostile.

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::rendezvous::Arrival;
use actorflow_core::tensor::Tensor;
use parking_lot::Mutex;

/// Bytes that a value takes beside its own: its place in a table.
pub(super) const BESIDE: usize = 128;

/// What members have sent for one step.
#[derive(Default)]
pub(super) struct Charges(Vec<(Arc<str>, usize)>);

/// What members have sent for all steps that have not begun.
pub(super) struct Early {
    /// The most bytes of one member.
    most: usize,
    held: Mutex<HashMap<Arc<str>, usize>>,
}

impl Early {
    pub(super) fn new(most: usize) -> Early {
        Early {
            most,
            held: Mutex::default(),
        }
    }

    /// Charges a value to the member that has sent it; false if the member has too much here already. The first is always
    /// taken, so that one larger than the limit passes.
    #[must_use]
    pub(super) fn take(&self, charges: &mut Charges, from: &str, value: &Arrival) -> bool {
        let bytes = value.as_ref().map_or(0, Tensor::byte_size).saturating_add(BESIDE);
        let mut held = self.held.lock();
        let before = held.get(from).copied().unwrap_or(0);
        let after = before.saturating_add(bytes);
        if before > 0 && after > self.most {
            return false;
        }
        let known = held.get_key_value(from).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| Arc::from(from));
        match charges.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, charged)) => *charged = charged.saturating_add(bytes),
            None => charges.0.push((name.clone(), bytes)),
        }
        held.insert(name, after);
        true
    }

    /// A step has begun, or never will.
    pub(super) fn give_back(&self, charges: Charges) {
        if charges.0.is_empty() {
            return;
        }
        let mut held = self.held.lock();
        for (name, bytes) in charges.0 {
            if let Some(all) = held.get_mut(&name) {
                *all = all.saturating_sub(bytes);
                if *all == 0 {
                    held.remove(&name);
                }
            }
        }
    }

    /// The bytes of a member.
    #[cfg(test)]
    pub(super) fn of(&self, from: &str) -> usize {
        self.held.lock().get(from).copied().unwrap_or(0)
    }
}
