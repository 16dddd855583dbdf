//! What an operator is told, as events of `tracing`: somebody who does not listen pays for a comparison.
//!
//! The messages and fields are listed in `docs/cluster.md`, for whoever watches over logs. Steps and incarnations are text,
//! since many readers of JSON round numbers of 64 bits.

use actorflow_core::error::{Code, Error};
use actorflow_transport::Peer;

/// A connection is gone; `last`: with it the peer.
pub(crate) fn lost(peer: &Peer, why: &Error, last: bool) {
    let info = peer.info();
    let (subject, incarnation, error) = (&info.subject, info.incarnation, why.message());
    match why.code() {
        _ if peer.was_replaced() => tracing::debug!(peer = %subject, %incarnation, "connection replaced"),
        Code::Aborted => tracing::warn!(peer = %subject, %incarnation, error, "fenced"),
        Code::Unauthenticated | Code::PermissionDenied => {
            tracing::warn!(peer = %subject, %incarnation, error, "certificate not valid any more");
        }
        Code::ResourceExhausted => tracing::warn!(peer = %subject, %incarnation, error, "limit exceeded"),
        // Clients come and go.
        _ if info.is_visitor() || !subject.to_string().starts_with("task/") => {
            tracing::debug!(peer = %subject, %incarnation, error, "lost");
        }
        _ => tracing::warn!(peer = %subject, %incarnation, last, error, "lost"),
    }
}

/// A step, or this task's share of one, has failed. What follows from another failure, and what a program brings about
/// itself (the end of an input, cancellation), is for those who look closely.
pub(crate) fn step_failed(step: u64, of: &str, error: &Error) {
    let (code, task, node) = (error.code(), error.task(), error.node());
    let expected = matches!(
        code,
        Code::Cancelled | Code::OutOfRange | Code::FailedPrecondition | Code::InvalidArgument
    );
    if error.is_derived() || expected {
        tracing::debug!(%step, of, %code, task, node, error = error.message(), "step failed");
    } else {
        tracing::warn!(%step, of, %code, task, node, error = error.message(), "step failed");
    }
}

/// Something was refused because it is more than is allowed.
pub(crate) fn limit(of: &str, error: &Error) {
    if error.code() == Code::ResourceExhausted {
        tracing::warn!(of, error = error.message(), "limit exceeded");
    }
}
