//! Further connections to a peer on another machine, over which large parcels are spread.
//!
//! Each has a congestion window of its own, so that a lost datagram slows down a part of what is under way, and can be sent
//! by a thread of its own. Nothing is announced of them: what comes on one comes from the peer of the first connection, and
//! nobody sends on one but through that. What is small, and everything that must keep its order, stays on the first.
//!
//! - Who has dialed the first connection dials them, when the first large parcel is sent or has come; both sides use them.
//! - They share the first one's fate: when it ends they end, and when one of them is lost, with whatever was under way on it,
//!   so is the first. If one cannot be made, there are fewer.
//! - The first leaves when nothing is pending and none of them is left, so that a peer gets what was sent before the end.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use actorflow_core::{Code, Error, Result};
use parking_lot::RwLock;

use super::cork;
use super::dial::{self, Waiter};
use super::link::Link;
use super::peer::PeerInfo;
use super::shared::Shared;
use super::state::Wish;
use crate::counters::Totals;
use crate::proto::{BULK, VISITOR};

/// What a connection has to do with others to the same peer.
#[derive(Default)]
pub(super) struct Stripes {
    /// The first connection, if this is a further one.
    first: OnceLock<Weak<Link>>,
    /// How many the peer accepts.
    accepted: AtomicUsize,
    /// They have been dialed, or will not be.
    asked: AtomicBool,
    /// The further ones that are up.
    links: RwLock<Vec<Arc<Link>>>,
    turn: AtomicUsize,
    /// The peer has closed it.
    left: AtomicBool,
}

impl Stripes {
    /// Of a connection that is dialed beside `first`.
    pub(super) fn beside(first: Option<&Arc<Link>>) -> Stripes {
        let stripes = Stripes::default();
        if let Some(first) = first {
            stripes.first.get_or_init(|| Arc::downgrade(first));
        }
        stripes
    }

    /// Whether the connection is a further one.
    pub(super) fn is_one(&self) -> bool {
        self.first.get().is_some()
    }

    /// The first connection, if this is a further one and that is still there.
    pub(super) fn first(&self) -> Option<Arc<Link>> {
        self.first.get()?.upgrade()
    }

    /// The peer accepts so many.
    pub(super) fn accept(&self, count: u64) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.accepted.store(count, Ordering::Relaxed);
    }

    /// The peer has closed the connection: it knows what that means for the first one.
    pub(super) fn set_left(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether there are none.
    pub(super) fn are_over(&self) -> bool {
        self.links.read().is_empty()
    }

    /// Those that are up.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.links.read().clone()
    }

    /// The connection whose turn it is, if it is not the first one's.
    fn next(&self) -> Option<Arc<Link>> {
        let links = self.links.read();
        for _ in 0..=links.len() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % (links.len() + 1);
            let link = links.get(turn.checked_sub(1)?)?;
            if link.is_up() && !link.is_crowded() {
                return Some(link.clone());
            }
        }
        None
    }
}

/// The further connection that is to carry so many bytes; none if the first one is.
pub(super) fn carrier(link: &Arc<Link>, bytes: usize) -> Option<Arc<Link>> {
    if (bytes as u64) < BULK {
        return None;
    }
    want(link);
    link.stripes.next()
}

/// Dials further connections, unless that has been done, or there are to be none.
pub(super) fn want(link: &Arc<Link>) {
    if !link.dialed || link.stripes.is_one() || link.stripes.asked.swap(true, Ordering::Relaxed) {
        return;
    }
    let (Some(shared), Some(info)) = (link.shared(), link.info()) else {
        return;
    };
    let spread = (link.paced || shared.stripes_here.load(Ordering::Relaxed)) && !link.shares();
    if !spread || info.is_visitor() || shared.incarnation == VISITOR {
        return;
    }
    let count = shared.limits.stripes.min(link.stripes.accepted.load(Ordering::Relaxed));
    if shared.links.read().len().saturating_add(count) > shared.limits.connections / 2 {
        return;
    }
    for _ in 0..count {
        // If one cannot be made, there is one less.
        let waiter = Waiter::new(Instant::now() + shared.timing.handshake, Box::new(|_| {}));
        dial::begin(&shared, link.addr, Some(&info.subject), waiter, Some(link));
    }
}

/// How many further connections there are beside this one, or will be.
fn beside(shared: &Shared, first: &Arc<Link>) -> usize {
    let of_it = |l: &Arc<Link>| l.stripes.first().is_some_and(|f| Arc::ptr_eq(&f, first));
    let links = shared.links.read();
    links.values().filter(|l| !l.is_over() && of_it(l)).count()
}

/// Judges a further connection whose peer has said who it is.
///
/// # Errors
/// Why there cannot be one.
pub(super) fn join(shared: &Shared, link: &Link, info: &PeerInfo) -> Result<()> {
    let of_peer = |l: &Link| {
        l.info()
            .is_some_and(|i| i.subject == info.subject && i.incarnation == info.incarnation)
    };
    let first = match link.dialed {
        true => link.stripes.first().filter(|l| of_peer(l) && l.is_usable()),
        false => {
            let mut firsts = shared.firsts().into_iter().filter(|l| of_peer(l));
            firsts.find(|l| beside(shared, l) < shared.limits.stripes)
        }
    };
    let first = first.ok_or_else(|| {
        Error::failed_precondition("there is no connection beside which there could be one more for large tensors")
    })?;
    let few = link.dialed || shared.links.read().len() <= shared.limits.connections / 2;
    if !few {
        return Err(Error::exhausted(
            "half of the connections are open; large tensors get no more",
        ));
    }
    link.stripes.first.get_or_init(|| Arc::downgrade(&first));
    Ok(())
}

/// A further connection is up: it is used from now on.
pub(super) fn begin(shared: &Shared, link: &Arc<Link>) {
    match link.stripes.first().filter(|l| !l.is_over()) {
        Some(first) => {
            Totals::count(&shared.totals.stripes, 1);
            first.stripes.links.write().push(link.clone());
            if !first.is_up() {
                link.retire();
            }
            if let Some(peer) = first.peer() {
                let waiters = link.waiters.lock().take();
                waiters.into_iter().for_each(|w| w.up(link.shared(), &peer));
            }
        }
        None => link.wish(Wish::Close(Error::cancelled("the first connection is over"))),
    }
}

/// A further connection is over.
pub(super) fn end(link: &Arc<Link>, error: &Error) {
    let Some(first) = link.stripes.first() else { return };
    first.stripes.links.write().retain(|l| !Arc::ptr_eq(l, link));
    let meant = link.was_replaced() || link.stripes.left.load(Ordering::Relaxed) || error.code() == Code::Cancelled;
    if link.info().is_some() && !meant && !first.is_over() {
        let why = error
            .clone()
            .context("a connection that carried large tensors was lost");
        return first.wish(Wish::Close(why));
    }
    // It may have waited for this.
    cork::mark(&first);
}

/// The first connection is over.
pub(super) fn end_all(link: &Link, error: &Error) {
    let links = std::mem::take(&mut *link.stripes.links.write());
    for other in links {
        other.wish(Wish::Close(error.clone()));
    }
}
