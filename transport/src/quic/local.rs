//! The way that a connection's frames take: through QUIC, or through memory shared with the peer.
//!
//! Nothing but hellos is sent before that is decided, so that no frame can overtake another on the other way:
//!
//! - The side that was dialed opens its door before it says hello, if the peer is on this machine and there may be one more
//!   lane. Else the way is QUIC's.
//! - The side that dialed, on hearing that hello, tries the door. If there is none, it sends a ping through QUIC, whether or
//!   not the other side waits for one.
//! - The side that waits at its door finds the peer there, or hears that ping.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mio::Token;
use quinn_proto::Connection as Quic;

use super::config;
use super::shared::Shared;
use super::streams::Outgoing;
use crate::frame::{Fault, Frame, Intake};
use crate::lane::{self, Bell, Door, Key, LABEL, Lane, Memory, Received, Side};
use crate::proto::Time;

/// A peer whose end of the bell is closed has ended, unless it says more within this time.
const LAST_WORD: Duration = Duration::from_millis(50);

/// One of the lanes that an endpoint may have.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(shared: &Shared) -> Option<Place> {
        let most = shared.limits.lanes;
        let more = |n: usize| (n < most).then_some(n + 1);
        let lanes = &shared.lanes;
        let taken = lanes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Place(lanes.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A lane in use.
pub(super) struct Local {
    lane: Lane<Memory>,
    bell: Bell,
    /// Since when the peer's end of the bell is closed.
    gone: Option<Time>,
    _place: Place,
}

/// The way of a connection's frames.
pub(super) enum Way {
    /// Not decided.
    Open {
        key: Option<Key>,
        door: Option<(Door, Place)>,
    },
    Quic,
    Local(Box<Local>),
}

impl Way {
    /// TLS is done: the key is known, and who was dialed opens its door.
    pub(super) fn begin(quic: &Quic, dialed: bool, shared: &Shared, token: Token) -> Way {
        let export = |key: &mut [u8]| quic.crypto_session().export_keying_material(key, LABEL, &[]).is_ok();
        if dialed {
            let key = Key::export(quic.remote_address().port(), export);
            return Way::Open { key, door: None };
        }
        if !config::is_local(quic.remote_address(), quic.local_ip()) {
            return Way::Quic;
        }
        let opened = Key::export(shared.socket.local.port(), export)
            .zip(Place::take(shared))
            .and_then(|(key, place)| {
                let door = Door::open(&key, &shared.registry, token).ok()?;
                Some(Way::Open {
                    key: Some(key),
                    door: Some((door, place)),
                })
            });
        opened.unwrap_or(Way::Quic)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Way::Open { .. })
    }

    /// The peer has answered who dialed it: tries its door. Whether the way is a lane.
    pub(super) fn try_door(&mut self, shared: &Shared, token: Token) -> bool {
        let Way::Open { key: Some(key), .. } = self else {
            *self = Way::Quic;
            return false;
        };
        let place = Place::take(shared);
        let brought = place.and_then(|place| Some((lane::dial(key, &shared.registry, token).ok()?, place)));
        *self = match brought {
            Some(((memory, bell), place)) => Way::local(&memory, bell, Side::Dialed, place),
            None => Way::Quic,
        };
        matches!(self, Way::Local(_))
    }

    /// Looks whether the peer is at the door; whether it was.
    pub(super) fn look(&mut self, shared: &Shared, token: Token) -> bool {
        let Way::Open {
            key: Some(key),
            door: Some((door, _)),
        } = self
        else {
            return false;
        };
        let Some((memory, bell)) = door.accept(key, &shared.registry, token) else {
            return false;
        };
        let Way::Open {
            door: Some((_, place)), ..
        } = std::mem::replace(self, Way::Quic)
        else {
            return false;
        };
        *self = Way::local(&memory, bell, Side::Accepted, place);
        true
    }

    fn local(memory: &Arc<Memory>, bell: Bell, side: Side, place: Place) -> Way {
        Way::Local(Box::new(Local {
            lane: Lane::new(memory, side),
            bell,
            gone: None,
            _place: place,
        }))
    }

    /// The bell was heard: takes back what was rung.
    pub(super) fn quiet(&mut self, now: Time) {
        if let Way::Local(local) = self
            && !local.bell.quiet()
        {
            local.gone.get_or_insert(now);
        }
    }

    /// When a peer that has closed its end of the bell is gone.
    pub(super) fn gone_at(&self) -> Time {
        match self {
            Way::Local(local) => local.gone.map_or(Time::MAX, |at| at.saturating_add(LAST_WORD)),
            _ => Time::MAX,
        }
    }

    /// Reads what has come through a lane.
    pub(super) fn receive(&mut self, intake: &mut Intake, each: impl FnMut(Frame)) -> Result<Received, Fault> {
        match self {
            Way::Local(local) => local.lane.receive(intake, &local.bell, each),
            _ => Ok(Received::default()),
        }
    }

    /// Writes about `budget` bytes of what is queued into a lane; whether there is more that it would take.
    pub(super) fn send(&mut self, outgoing: &mut Outgoing, budget: usize) -> Result<bool, Fault> {
        match self {
            Way::Local(local) => outgoing.write_lane(&mut local.lane, &local.bell, budget),
            _ => Ok(false),
        }
    }

    /// Whether the peer has everything that was sent through a lane.
    pub(super) fn is_drained(&self) -> bool {
        match self {
            Way::Local(local) => local.lane.is_drained(),
            _ => true,
        }
    }

    /// The connection is over.
    pub(super) fn end(&mut self, intake: &mut Intake) {
        if let Way::Local(local) = std::mem::replace(self, Way::Quic) {
            local.lane.abandon(intake);
        }
    }
}
