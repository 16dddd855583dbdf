//! Who is who in a cluster: certificates, how a node gets one, how it keeps it, how it is taken away.
//!
//! An [`Authority`] holds the key of the cluster's CA. A member holds an [`Identity`]: its own key, and a certificate for
//! its key and its [`Subject`] that is valid for a day and renewed by itself. Between members there is mutual TLS 1.3 and
//! nothing else, with configurations that the identity makes. A node becomes a member with a [`Token`] that names whom it
//! admits, expires, and can be used up.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use actorflow_transport::identity::{Authority, TokenSpec, join, peer_identity, serve};
//!
//! # fn main() -> actorflow_core::Result<()> {
//! // Where the cluster is administered:
//! let authority = Authority::ephemeral("demo")?; // or `Authority::create(dir, "demo")`
//! let service = serve("127.0.0.1:0".parse().expect("an address"), &authority)?;
//! let token = authority.token(&TokenSpec {
//!     subject: "task/worker/1".parse()?,
//!     ttl: Duration::from_secs(3600),
//!     uses: 1,
//! })?;
//!
//! // On the new node, with what the join command says:
//! let deadline = Instant::now() + Duration::from_secs(30);
//! let addr = service.addr().to_string();
//! let identity = join(&addr, token.ca_hash(), token.secret(), "task/worker/1".parse()?, deadline)?;
//! let tls = identity.client_tls(&[b"actorflow/1"])?;
//! # let _ = tls;
//! assert_eq!(peer_identity(identity.certificate_der())?.subject.task_name().as_deref(), Some("/job:worker/task:1"));
//! # Ok(())
//! # }
//! ```
//!
//! The layers, from below: names ([`subject`]), certificates ([`certificate`]), which of them a handshake accepts
//! (`verify`), a member's side ([`node`]), the authority's side ([`authority`], [`tokens`], its `store`, the [`audit`]
//! log), the exchanges between the two ([`join`](mod@join)), their connections ([`join_quic`]), and what repeats them
//! ([`renew`](mod@renew)). What is guaranteed, and what is not, is in `docs/security.md`. Who may do what with a connection
//! is for the caller, who reads the peer's subject with [`peer_identity`].
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
pub use node::{Identity, authority_of, remember_authority};
pub use renew::{REVOCATIONS_EVERY, Renewer, refresh};
pub use revocations::Revocations;
pub use subject::{Role, Subject, SubjectPattern};
pub use tokens::{Token, TokenSpec};
