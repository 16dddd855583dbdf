//! Certificates of processes that no daemon looks after: sessions from outside, and servers inside of programs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_core::error::{Code, Error, Result};
use actorflow_transport::identity::renew::Update;
use actorflow_transport::identity::{Identity, REVOCATIONS_EVERY, Renewer, authority_of, refresh};

use super::node::Node;

/// How long a client that connects waits for the present revocations.
const AT_FIRST: Duration = Duration::from_secs(1);

/// Where a process renews its certificate, in time before it expires, and learns which others are revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The authority's service: `host:port`.
    pub authority: String,
    /// The folder in which the identity is kept, so that the next start of the program finds the renewed one; nowhere, if
    /// there is none.
    pub folder: Option<PathBuf>,
    /// How often revocations are fetched: every minute by default.
    pub every: Duration,
}

impl Renewal {
    /// By the authority at `host:port`, kept nowhere.
    pub fn at(authority: &str) -> Renewal {
        Renewal {
            authority: authority.to_owned(),
            folder: None,
            every: REVOCATIONS_EVERY,
        }
    }

    /// What the folder that an identity was loaded from says: the address in its file `authority-address`, which
    /// `actorflow cluster join` has written. The renewed identity is kept there.
    pub fn of(identity: &Identity) -> Option<Renewal> {
        let folder = identity.folder()?;
        Some(Renewal {
            folder: Some(folder.to_owned()),
            ..Renewal::at(&authority_of(folder)?)
        })
    }

    /// What a [`Renewer`] of an identity is to do with what it brings: write it to the log, and `take` a fresh identity into
    /// use.
    pub fn reporter(
        identity: &Identity,
        mut take: impl FnMut(&Identity) -> Result<()> + Send + 'static,
    ) -> impl FnMut(Update) + Send + 'static {
        let mut known = identity.revocations().len();
        move |update| match update {
            // A renewed certificate comes with the list of the day.
            Update::Renewed(ref identity) | Update::Revocations(ref identity) => {
                if matches!(update, Update::Renewed(_)) {
                    tracing::info!(serial = identity.serial(), "certificate renewed");
                }
                let revoked = identity.revocations().len();
                if revoked > known {
                    tracing::warn!(revoked, "certificates revoked");
                }
                known = revoked;
                if let Err(error) = take(identity) {
                    tracing::error!(%error, "the identity cannot be used");
                }
            }
            Update::Failed { error, retry_in } => match error.code() {
                Code::PermissionDenied | Code::Unauthenticated => {
                    tracing::warn!(%error, retry_in = ?retry_in, "the authority refuses this task");
                }
                _ => tracing::warn!(%error, retry_in = ?retry_in, "authority not reached"),
            },
        }
    }

    fn check(&self) -> Result<()> {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(()),
            _ => Err(Error::invalid(format!(
                "{:?} is no address of an authority; write host:port",
                self.authority
            ))),
        }
    }

    /// The identity with the present revocations, and renewed if that is due; as it is if the authority does not answer at
    /// once.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the authority's address is none.
    pub(super) fn refreshed(&self, identity: &Identity) -> Result<Identity> {
        self.check()?;
        match refresh(&self.authority, identity, Instant::now() + AT_FIRST) {
            Ok(fresh) => {
                if fresh.serial() != identity.serial() || fresh.revocations() != identity.revocations() {
                    keep(self.folder.as_deref(), &fresh);
                }
                Ok(fresh)
            }
            Err(error) => {
                tracing::warn!(%error, "authority not reached");
                Ok(identity.clone())
            }
        }
    }
}

/// Writes an identity to the folder that it was in, unless the folder is gone.
fn keep(folder: Option<&Path>, identity: &Identity) {
    if let Some(folder) = folder.filter(|f| f.is_dir())
        && let Err(error) = identity.save(folder)
    {
        tracing::error!(%error, "the identity cannot be kept; after a restart it will be the old one");
    }
}

/// What keeps a node's identity fresh; dropping it ends that.
pub(super) struct Keeper(Option<Renewer>);

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(renewer) = self.0.take() {
            renewer.stop();
        }
    }
}

/// Begins to keep the identity of a node fresh; it was [refreshed](Renewal::refreshed) just now, or will be at once.
///
/// # Errors
/// `INVALID_ARGUMENT` if the authority's address is none; those of starting a thread.
pub(super) fn begin(node: &Arc<Node>, renewal: &Renewal, identity: Identity, refreshed: bool) -> Result<()> {
    renewal.check()?;
    let weak = Arc::downgrade(node);
    let folder = renewal.folder.clone();
    let report = Renewal::reporter(&identity, move |fresh| {
        keep(folder.as_deref(), fresh);
        match weak.upgrade() {
            Some(node) => node.endpoint()?.set_identity(fresh.clone()),
            None => Ok(()),
        }
    });
    let (addr, every) = (&renewal.authority, renewal.every);
    let renewer = match refreshed {
        true => Renewer::start_fresh(addr, identity, every, report)?,
        false => Renewer::start_with(addr, identity, every, report)?,
    };
    *node.keeper.lock() = Some(Keeper(Some(renewer)));
    Ok(())
}
