//! Who is who in a cluster: certificates, how a node gets one, how it keeps it, how it is taken away.
//!
//! An [`Authority`] holds the key of the cluster's CA. A member holds an [`Identity`]: its own key, and a certificate for
//! its key and its [`Subject`] that is valid for a day and renewed by itself. Between members there is mutual TLS 1.3 and
//! nothing else, with configurations that the identity makes. A node becomes a member with a [`Token`] that names whom it
//! admits, expires, and can be used up.
//!
//! The layers, from below: names ([`subject`]), certificates ([`certificate`]), which of them a handshake accepts
//! (`verify`), a member's side ([`node`]), the authority's side ([`authority`], [`tokens`], its `store` and [`audit`] log).
//! Only the library named here knows about certificates; who may do what with them is for the caller, who reads the peer's
//! subject with [`peer_identity`].
#![forbid(unsafe_code)]

pub mod audit;
pub mod authority;
pub mod certificate;
mod clock;
mod crypto;
mod files;
#[cfg(test)]
mod handshakes;
pub mod join;
pub mod join_quic;
mod message;
pub mod node;
mod rate;
pub mod renew;
mod request;
pub mod revocations;
mod revoke;
mod store;
pub mod subject;
pub mod testing;
pub mod tokens;
mod verify;

pub use audit::Audit;
pub use authority::{Authority, CERTIFICATE_LIFETIME};
pub use certificate::{PeerIdentity, peer_identity};
pub use join_quic::{JoinService, fetch_revocations, join, renew, serve};
pub use node::Identity;
pub use renew::Renewer;
pub use revocations::Revocations;
pub use subject::{Role, Subject, SubjectPattern};
pub use tokens::{Token, TokenSpec};
