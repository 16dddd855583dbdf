//! Who may connect: nobody takes the place of everybody else.
//!
//! Before a handshake nothing is known of a peer but its address, which it may have made up: so an address that has a share
//! of the handshakes under way has to show first that packets reach it (QUIC's Retry), which costs this side nothing to
//! remember. After the handshake the member is known, whose connections are counted wherever they come from.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use actorflow_core::{Error, Result};

use super::shared::Shared;
use crate::identity::Subject;

/// What is to be done about somebody who wants to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Accept,
    /// Let it show that the address is its own.
    Prove,
    Refuse,
}

/// What counts as one address: of IPv6, the network, all of which one machine usually has.
fn place(addr: SocketAddr) -> IpAddr {
    match addr.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

/// Judges a connection that begins at `from`, whose address is proved or not, while `open` connections are there in all.
pub(super) fn of_address(shared: &Shared, from: SocketAddr, proved: bool, open: usize) -> Admission {
    let limits = &shared.limits;
    let from = place(from);
    let (mut young, mut young_here, mut here) = (0, 0, 0);
    for link in shared.links.read().values().filter(|l| !l.dialed) {
        let is_young = link.info().is_none() && !link.is_over();
        let is_here = place(link.addr) == from;
        young += usize::from(is_young);
        young_here += usize::from(is_young && is_here);
        here += usize::from(is_here);
    }
    let busy = young >= limits.handshakes / 2 || young_here >= limits.handshakes_per_address / 2;
    if busy && !proved {
        return Admission::Prove;
    }
    let full = young >= limits.handshakes
        || young_here >= limits.handshakes_per_address
        || here >= limits.connections_per_address
        || open >= limits.connections;
    if full { Admission::Refuse } else { Admission::Accept }
}

/// Judges one more connection that a member has made.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if it has as many as it may.
pub(super) fn of_member(shared: &Shared, subject: &Subject) -> Result<()> {
    let of_it = |l: &super::link::Link| !l.dialed && !l.is_over() && l.certificate().is_some_and(|c| c.is_of(subject));
    let count = shared.links.read().values().filter(|l| of_it(l)).count();
    let most = shared.limits.connections_per_member;
    if count >= most {
        return Err(Error::exhausted(format!(
            "{subject} has made {count} connections already, at most {most}; close some"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_place_and_a_mapped_address_is_its_own() {
        let of = |text: &str| place(text.parse().unwrap());
        assert_eq!(of("[2001:db8::1]:5"), of("[2001:db8::ffff:2]:9"));
        assert_ne!(of("[2001:db8::1]:5"), of("[2001:db8:0:1::1]:5"));
        assert_eq!(of("[::ffff:10.0.0.1]:5"), of("10.0.0.1:6"));
        assert_ne!(of("10.0.0.1:5"), of("10.0.0.2:5"));
    }
}
