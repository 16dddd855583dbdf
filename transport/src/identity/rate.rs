//! How often one address may ask.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// How many requests an address may make at once, and how many more per second. A machine with dozens of tasks joins
/// within the first number; the second is what a flood is cut down to.
const BURST: f64 = 256.0;
const PER_SECOND: f64 = 4.0;

/// How many addresses are told apart at once.
const MAX_ADDRESSES: usize = 4096;

/// A bucket of requests for each address (a network of 64 bits in IPv6, since one machine has them all).
#[derive(Debug, Default)]
pub(crate) struct RateLimit(HashMap<IpAddr, (f64, Instant)>);

impl RateLimit {
    /// Whether the address may make a request now; counts it.
    pub(crate) fn admits(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = network(address);
        let filled = |(left, since): (f64, Instant)| {
            let seconds = now.saturating_duration_since(since).as_secs_f64();
            (left + seconds * PER_SECOND).min(BURST)
        };
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&address) {
            self.0.retain(|_, bucket| filled(*bucket) < BURST);
            if self.0.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        let bucket = self.0.entry(address).or_insert((BURST, now));
        let left = filled(*bucket);
        let admitted = left >= 1.0;
        *bucket = (if admitted { left - 1.0 } else { left }, now);
        admitted
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::from((address.to_bits() >> 64 << 64).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_refused_and_its_address_admitted_again_later() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let admitted = (0..1000).filter(|_| limit.admits(address, start)).count();
        assert_eq!(admitted, 256);
        assert!(limit.admits("10.0.0.2".parse().unwrap(), start));
        assert!(!limit.admits(address, start + Duration::from_millis(200)));
        assert!(limit.admits(address, start + Duration::from_millis(500)));
    }

    #[test]
    fn the_addresses_of_one_network_share_a_bucket() {
        let (mut limit, now) = (RateLimit::default(), Instant::now());
        for host in 0..256u32 {
            assert!(limit.admits(format!("2001:db8::{host:x}").parse().unwrap(), now));
        }
        assert!(!limit.admits("2001:db8::1:1".parse().unwrap(), now));
        assert!(limit.admits("2001:db8:0:1::1".parse().unwrap(), now));
    }

    #[test]
    fn the_table_stays_bounded() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..5000 {
            limit.admits(address(n), start);
        }
        assert_eq!(limit.0.len(), MAX_ADDRESSES);
        assert!(limit.admits(address(9999), start + Duration::from_secs(3600)));
        assert_eq!(limit.0.len(), 1);
    }
}
