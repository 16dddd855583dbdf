//! The cluster's epoch in a task: raised by an operator, kept across restarts, told by every frame.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use actorflow_core::error::{Code, Error, Result};
use actorflow_transport::{Message, Peer, Subject};
use parking_lot::Mutex;
use rkyv::{Archive, Deserialize, Serialize};

use super::messages::{EPOCH, header_of, with_header};
use super::node::Node;

/// An epoch is raised by at most so much at once, since nothing ever lowers it.
const FARTHEST: u64 = 1 << 20;
/// The file of an epoch is no longer than its largest number.
const LONGEST: u64 = 32;

/// An epoch that is asked for, or is.
#[derive(Debug, Clone, PartialEq, Archive, Serialize, Deserialize)]
pub(super) struct Epoch {
    pub(super) epoch: u64,
}

/// The epoch that a process is in.
pub(crate) struct Epochs {
    now: Mutex<u64>,
    /// Where it is kept.
    file: Option<PathBuf>,
}

impl Epochs {
    /// Of a process that is in none: nothing that it says is stale.
    pub(crate) fn none() -> Epochs {
        Epochs {
            now: Mutex::new(0),
            file: None,
        }
    }

    /// The epoch that a file keeps, but at least this one.
    ///
    /// # Errors
    /// `DATA_LOSS` for a file that holds something else; what the system says of the file.
    pub(crate) fn open(least: u64, file: Option<PathBuf>) -> Result<Epochs> {
        let kept = file.as_deref().map(read).transpose()?.flatten();
        let epochs = Epochs {
            now: Mutex::new(kept.unwrap_or(0)),
            file,
        };
        {
            let mut now = epochs.now.lock();
            if *now < least {
                epochs.keep(least)?;
                *now = least;
            }
        }
        Ok(epochs)
    }

    pub(crate) fn now(&self) -> u64 {
        *self.now.lock()
    }

    /// Goes to an epoch unless it is in that or a later one, and calls `then` with the one before, while nobody else can raise
    /// it. It is kept before `then` is called.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for one too far ahead; what the system says of the file.
    fn raise(&self, to: u64, then: impl FnOnce(u64)) -> Result<u64> {
        let mut now = self.now.lock();
        if to <= *now {
            return Ok(*now);
        }
        if to - *now > FARTHEST {
            return Err(Error::invalid(format!(
                "epoch {to} is more than {FARTHEST} ahead of the task's, {}; an epoch cannot be lowered again",
                *now
            )));
        }
        self.keep(to)?;
        then(std::mem::replace(&mut *now, to));
        Ok(to)
    }

    /// Writes the file, as a whole or not at all.
    fn keep(&self, epoch: u64) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let write = || -> std::io::Result<()> {
            let beside = file.with_extension("new");
            let mut f = File::create(&beside)?;
            writeln!(f, "{epoch}")?;
            f.sync_all()?;
            fs::rename(&beside, file)?;
            if let Some(folder) = file.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(folder)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|e| Error::from(e).context(format!("the epoch cannot be kept in {}", file.display())))
    }
}

/// The epoch in a file; `None` if there is no file.
fn read(file: &Path) -> Result<Option<u64>> {
    let long = match fs::metadata(file) {
        Ok(m) => m.len() > LONGEST,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::from(e).context(file.display())),
    };
    let text = match long {
        true => None,
        false => fs::read_to_string(file).ok(),
    };
    let epoch = text.as_deref().and_then(|t| t.trim().parse().ok());
    epoch.map(Some).ok_or_else(|| {
        Error::new(
            Code::DataLoss,
            format!(
                "{} does not hold an epoch; write the cluster's there (actorflow cluster epoch), or remove it",
                file.display()
            ),
        )
    })
}

impl Node {
    /// Goes to the epoch that an operator asks for. The steps in progress end, whose frames others would drop.
    pub(super) fn raise_epoch(&self, peer: &Peer, message: &Message) -> Result<Message> {
        let subject = &peer.info().subject;
        if !matches!(subject, Subject::Client { .. } | Subject::Chief { .. }) {
            let why = format!("{subject} may not raise the cluster's epoch; clients and chiefs may");
            return Err(Error::new(Code::PermissionDenied, why));
        }
        let asked = header_of!(message, Epoch)?;
        let (host, endpoint) = (self.host()?, self.endpoint()?);
        let epoch = self.epochs.raise(asked.epoch, |before| {
            endpoint.set_epoch(asked.epoch);
            tracing::warn!(epoch = asked.epoch, before, peer = %subject, "epoch raised");
            for (step, _) in host.active_steps() {
                host.abort(
                    step,
                    Error::aborted(format!(
                        "{subject} has raised the cluster's epoch from {before} to {} while step {step} was in progress",
                        asked.epoch
                    )),
                );
            }
        })?;
        with_header!(EPOCH, 0, &Epoch { epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_only_grows_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("epoch");
        let epochs = Epochs::open(1, Some(file.clone())).unwrap();
        assert_eq!(epochs.now(), 1);
        let mut before = Vec::new();
        assert_eq!(epochs.raise(5, |b| before.push(b)).unwrap(), 5);
        assert_eq!(epochs.raise(3, |b| before.push(b)).unwrap(), 5);
        assert_eq!(epochs.raise(5, |b| before.push(b)).unwrap(), 5);
        assert_eq!(before, [1]);
        let again = |least| Epochs::open(least, Some(file.clone())).unwrap().now();
        assert_eq!((again(1), again(7), again(1)), (5, 7, 7));
    }

    #[test]
    fn what_cannot_be_an_epoch_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("epoch");
        for bad in ["", "seven", "-1", "9 9", &"1".repeat(100)] {
            fs::write(&file, bad).unwrap();
            let e = Epochs::open(1, Some(file.clone())).err().unwrap();
            assert_eq!(e.code(), Code::DataLoss, "{bad:?}");
            assert!(e.message().contains("epoch; write the cluster's"), "{e}");
        }
        let e = Epochs::none().raise(u64::MAX, |_| panic!("raised")).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument);
        let nowhere = Epochs::open(1, Some(dir.path().join("no/epoch"))).err().unwrap();
        assert!(nowhere.message().contains("no/epoch"), "{nowhere}");
    }
}
