//! How QUIC is set up: TLS with certificates on both sides, and parameters for two kinds of path.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actorflow_core::{Error, Result};
use quinn_proto::congestion::CubicConfig;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};

use crate::identity::Identity;
use crate::limits::{Limits, Timing};

/// The protocol's name in the TLS handshake.
const ALPN: &[u8] = b"actorflow/1";

/// Datagrams on the loopback interface, in bytes, which takes 65,507. What a datagram costs beside its bytes is several
/// times what QUIC's usual 1,200 to 1,452 bytes cost.
const LOOPBACK_DATAGRAM: u16 = 60_000;

/// Bytes that a connection may have under way on loopback, at most. The receiver's socket buffer must hold them,
/// because the interface drops what does not fit; its bookkeeping takes about as much again.
const LOOPBACK_WINDOW: u64 = 4 << 20;

/// The window on loopback for socket buffers of `buffer` bytes; those of the peer are of the same system.
fn loopback_window(buffer: usize) -> u64 {
    (buffer as u64 / 2).clamp(2 * u64::from(LOOPBACK_DATAGRAM), LOOPBACK_WINDOW)
}

/// A congestion window that never binds and that QUIC does not pace (it paces none above 4 GiB), for a path that loses
/// nothing while the window above is kept: without it, bursts are sized once and for all by the round trip that is
/// assumed at the start. When several connections overrun one receiver, their losses bring it down to where it binds.
const UNPACED: u64 = 8 << 30;

/// Bytes that a connection may have under way on other paths: 10 Gbit/s for 100 ms.
const NETWORK_WINDOW: u64 = 128 << 20;

/// The smallest such window, however little may be under way to this side.
const LEAST_WINDOW: u64 = 1 << 20;

/// The configurations that follow from an identity; replaced when it is renewed.
pub(super) struct Setup {
    pub(super) identity: Identity,
    /// How many certificates the endpoint has had before.
    pub(super) turn: u64,
    client: Arc<QuicClientConfig>,
    server: Arc<QuicServerConfig>,
    loopback: Arc<TransportConfig>,
    network: Arc<TransportConfig>,
}

/// Whether a path stays on this machine.
pub(super) fn is_local(remote: SocketAddr, local: Option<IpAddr>) -> bool {
    let ip = remote.ip().to_canonical();
    ip.is_loopback() || local.is_some_and(|l| l.to_canonical() == ip)
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("TLS refuses this identity: {error}"))
}

impl Setup {
    /// `buffer` is the size of the socket's receive buffer in bytes.
    pub(super) fn new(identity: Identity, limits: &Limits, timing: &Timing, buffer: usize) -> Result<Setup> {
        let mut client = identity.client_tls(&[ALPN])?;
        // A resumed session would skip the verification of certificates, and with it revocation and renewal.
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_early_data = false;
        let mut server = identity.server_tls(&[ALPN])?;
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        Ok(Setup {
            identity,
            turn: 0,
            client: Arc::new(QuicClientConfig::try_from(client).map_err(refused)?),
            server: Arc::new(QuicServerConfig::try_from(server).map_err(refused)?),
            loopback: Arc::new(transport(Some(loopback_window(buffer)), limits, timing)),
            network: Arc::new(transport(None, limits, timing)),
        })
    }

    fn transport(&self, remote: SocketAddr, local: Option<IpAddr>) -> Arc<TransportConfig> {
        if is_local(remote, local) {
            self.loopback.clone()
        } else {
            self.network.clone()
        }
    }

    /// For a connection to `remote`.
    pub(super) fn client(&self, remote: SocketAddr) -> ClientConfig {
        let mut config = ClientConfig::new(self.client.clone());
        config.transport_config(self.transport(remote, None));
        config
    }

    /// For a connection of `remote` that came to the address `local`.
    pub(super) fn server(&self, remote: SocketAddr, local: Option<IpAddr>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::with_crypto(self.server.clone());
        config.transport_config(self.transport(remote, local));
        config.migration(false);
        Arc::new(config)
    }
}

/// What the endpoint as a whole uses.
pub(super) fn endpoint() -> Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(LOOPBACK_DATAGRAM)
        .map_err(|e| Error::internal(format!("the size of datagrams: {e}")))?;
    Ok(config)
}

/// `local` is the window on a path that stays on this machine.
fn transport(local: Option<u64>, limits: &Limits, timing: &Timing) -> TransportConfig {
    let mut t = TransportConfig::default();
    let varint = |n: u64| VarInt::from_u64(n).unwrap_or(VarInt::MAX);
    let streams = limits.streams.clamp(2, 1 << 20) as u64;
    t.max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(varint(streams))
        .datagram_receive_buffer_size(None)
        // One tensor after the other: the first is of use while the second is under way.
        .send_fairness(false)
        .keep_alive_interval(None)
        // The protocol notices silence first, and says so to a peer that can still hear; QUIC would end without a word, and
        // such a peer would wait for its own silence to begin.
        .max_idle_timeout(IdleTimeout::try_from(timing.idle.saturating_add(timing.idle / 4)).ok());
    // What QUIC keeps until it is in order is memory that no pool knows of; a member that leaves out a byte keeps it there.
    let kept = (limits.in_flight_bytes as u64).max(LEAST_WINDOW);
    let window = local.unwrap_or(NETWORK_WINDOW.min(kept));
    // The receiver's credit is what binds. The sender's own window binds until acknowledgements come, and the last odd one
    // is delayed: with both equal, one of ten tensors of 4 MiB took the 25 ms of that delay.
    t.send_window(window.saturating_mul(2))
        .stream_receive_window(varint(window))
        .receive_window(varint(if local.is_some() {
            window
        } else {
            window.saturating_mul(2).min(kept)
        }));
    let mut congestion = CubicConfig::default();
    if local.is_some() {
        congestion.initial_window(UNPACED);
        t.initial_mtu(LOOPBACK_DATAGRAM)
            .mtu_discovery_config(None)
            .enable_segmentation_offload(false)
            .initial_rtt(Duration::from_millis(20));
    } else {
        congestion.initial_window(256 << 10);
        let mut discovery = MtuDiscoveryConfig::default();
        // Jumbo frames of Ethernet, where the path has them.
        discovery.upper_bound(8952);
        t.mtu_discovery_config(Some(discovery));
    }
    t.congestion_controller_factory(Arc::new(congestion));
    t
}
