//! How a tensor crosses processes: the place of the protocol and of its QUIC endpoint.
//!
//! Two layers belong here. The protocol is a pure state machine: frames in, frames out, no sockets and no clock, so that
//! it can be simulated and fuzzed. The endpoint carries its frames over QUIC with mutual TLS and is the only code beside
//! the service that admits nodes (`identity/join_quic.rs`) that knows the QUIC library. There is no plaintext mode.
//!
//! Depends on `actorflow-core` alone: graphs, kernels and actors are unknown here, and a frame's destination is an edge
//! number that both sides agreed on. An engine that runs in one process needs none of it.
//!
//! [`identity`] is who is who: certificates, joining, renewal, revocation.
#![forbid(unsafe_code)]

pub mod identity;
