//! What one thread sends in one go leaves together.
//!
//! While a thread holds a [`Cork`], what it sends is only queued. When the last cork of the thread is dropped, each
//! connection that got something is flushed once, so that a message and the parcels after it share a datagram.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;

use super::link::Link;

#[derive(Default)]
struct Held {
    depth: usize,
    dirty: Vec<Arc<Link>>,
}

thread_local! {
    static HELD: RefCell<Held> = RefCell::default();
}

/// Holds back what this thread sends, until it is dropped.
///
/// ```no_run
/// # fn f(peer: &actorflow_transport::Peer, messages: Vec<actorflow_transport::Message>) -> actorflow_core::Result<()> {
/// let _cork = actorflow_transport::cork();
/// for message in messages {
///     peer.notify(message)?;
/// }
/// # Ok(()) }
/// ```
#[must_use = "what is sent is held back only as long as the cork exists"]
pub struct Cork {
    /// It belongs to its thread.
    thread: PhantomData<*const ()>,
}

/// Holds back what this thread sends on any endpoint, until the result is dropped. Corks nest.
pub fn cork() -> Cork {
    HELD.with_borrow_mut(|h| h.depth += 1);
    Cork { thread: PhantomData }
}

/// Notes that `link` has something to send when the cork is drawn; there must be one.
pub(super) fn mark(link: &Arc<Link>) {
    HELD.with_borrow_mut(|h| {
        if !h.dirty.iter().any(|l| Arc::ptr_eq(l, link)) {
            h.dirty.push(link.clone());
        }
    });
}

impl Drop for Cork {
    fn drop(&mut self) {
        // The cork stays in place while links are flushed: what continuations send meanwhile joins the list, and the
        // stack does not grow with it.
        loop {
            let next = HELD.with_borrow_mut(|h| {
                let next = if h.depth == 1 { h.dirty.pop() } else { None };
                if next.is_none() {
                    h.depth -= 1;
                }
                next
            });
            match next {
                Some(link) => link.flush(),
                None => return,
            }
        }
    }
}
