//! Counters of an endpoint: what crossed, and everything that was dropped or refused.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A reading of an endpoint's counters; each only grows.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters themselves, added to by every connection of an endpoint.
        #[derive(Debug, Default)]
        pub(crate) struct Totals {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Totals {
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }

            /// Adds what a connection has counted since it was last asked.
            pub(crate) fn add(&self, by: Counters) {
                $(if by.$name != 0 {
                    self.$name.fetch_add(by.$name, Ordering::Relaxed);
                })*
            }
        }
    };
}

counters! {
    /// Bytes of frames sent.
    bytes_sent,
    /// Bytes of frames received.
    bytes_received,
    /// Frames sent.
    frames_sent,
    /// Frames received.
    frames_received,
    /// Datagrams sent.
    datagrams_sent,
    /// Datagrams received.
    datagrams_received,
    /// Datagrams that were sent and, as far as the sender knows, lost.
    datagrams_lost,
    /// Connections that got as far as knowing their peer.
    connected,
    /// Connections whose frames go through memory that is shared with the peer, on the same machine.
    lanes,
    /// Connections that carry large parcels beside the first one with their peer.
    stripes,
    /// Connections lost after that.
    lost,
    /// Handshakes refused: no certificate of the cluster, another cluster, too many at once.
    handshakes_refused,
    /// Connections of an older incarnation that were closed or refused.
    fenced,
    /// Frames dropped because their sender's incarnation is not the connection's.
    stale_incarnation,
    /// Frames dropped because of an older cluster epoch.
    stale_epoch,
    /// Answers dropped because nobody waits for them any more.
    late_answers,
    /// Requests that ran into their deadline.
    deadlines_exceeded,
    /// Parcels and messages that were never sent because their connection was lost or no room came.
    unsent,
    /// Connections closed because of a frame that is malformed.
    malformed,
    /// Connections closed because of a frame that exceeds a limit.
    oversized,
    /// Parcels and large messages that had to wait for room at their receiver.
    parked,
}

impl Totals {
    /// Adds `n` to one counter.
    pub(crate) fn count(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
