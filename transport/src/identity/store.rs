//! What an authority remembers: tokens, certificates issued, certificates revoked.
//!
//! A change is one transaction: a lock that excludes other processes, the state read anew, the change, the state replaced
//! atomically. A change that fails leaves everything as it was.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use actorflow_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::files::{at, private_options, read_private, write_private};
use super::revocations::Revocations;

const STATE_FILE: &str = "state.json";
const LOCK_FILE: &str = "lock";

/// The largest state that is read, in bytes.
const MAX_STATE: usize = 64 << 20;

/// How long a change waits for those of other processes. Each takes milliseconds.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// How long a token that has expired is remembered, in seconds, so that its use is told from that of an unknown one.
const EXPIRED_TOKENS_KEPT: u64 = 7 * 24 * 3600;

/// The version of the state's format.
const VERSION: u32 = 1;

/// A token: the hash of its secret, and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRecord {
    /// SHA-256 of the secret, in hexadecimal digits.
    pub(crate) hash: String,
    /// The text of the pattern of subjects.
    pub(crate) subject: String,
    /// Seconds since 1970.
    pub(crate) expires: u64,
    pub(crate) uses_left: u32,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IssuedRecord {
    /// The text of the subject.
    pub(crate) subject: String,
    /// Seconds since 1970.
    pub(crate) not_after: u64,
}

/// All that an authority remembers. What has expired is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    pub(crate) tokens: Vec<TokenRecord>,
    /// By serial number.
    pub(crate) issued: BTreeMap<String, IssuedRecord>,
    /// Serial numbers, with the end of their certificates in seconds since 1970.
    pub(crate) revoked: BTreeMap<String, u64>,
}

impl State {
    fn empty() -> Self {
        State {
            version: VERSION,
            tokens: Vec::new(),
            issued: BTreeMap::new(),
            revoked: BTreeMap::new(),
        }
    }

    fn forget_expired(&mut self, now: u64) {
        self.tokens
            .retain(|token| token.expires.saturating_add(EXPIRED_TOKENS_KEPT) > now);
        self.issued.retain(|_, issued| issued.not_after >= now);
        self.revoked.retain(|_, not_after| *not_after >= now);
    }

    /// The list of what is revoked.
    pub(crate) fn revocations(&self) -> Revocations {
        Revocations::new(self.revoked.clone())
    }
}

/// Where the state is.
#[derive(Debug)]
pub(crate) enum Store {
    /// In this process alone.
    Memory(Mutex<State>),
    /// In files of this directory.
    Dir(PathBuf),
}

impl Store {
    /// An empty state in memory.
    pub(crate) fn in_memory() -> Self {
        Store::Memory(Mutex::new(State::empty()))
    }

    /// The state in `dir`; `create` makes an empty one.
    pub(crate) fn in_dir(dir: &Path, create: bool) -> Result<Self> {
        let store = Store::Dir(dir.to_owned());
        match create {
            true => write_state(dir, &State::empty())?,
            false => drop(store.read()?),
        }
        Ok(store)
    }

    /// The present state.
    pub(crate) fn read(&self) -> Result<State> {
        match self {
            Store::Memory(state) => Ok(state.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            Store::Dir(dir) => read_state(dir),
        }
    }

    /// Changes the state, one change at a time over all processes. If `change` fails nothing is changed. `now` is in
    /// seconds since 1970.
    pub(crate) fn change<R>(&self, now: u64, change: impl FnOnce(&mut State) -> Result<R>) -> Result<R> {
        match self {
            Store::Memory(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let mut next = state.clone();
                next.forget_expired(now);
                let result = change(&mut next)?;
                *state = next;
                Ok(result)
            }
            Store::Dir(dir) => {
                let _lock = lock(dir)?;
                let mut state = read_state(dir)?;
                state.forget_expired(now);
                let result = change(&mut state)?;
                write_state(dir, &state)?;
                Ok(result)
            }
        }
    }
}

/// Excludes other processes and threads from `dir` until the file is dropped.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    lock_within(dir, LOCK_DEADLINE)
}

fn lock_within(dir: &Path, patience: Duration) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    let file = private_options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| at(&path, error))?;
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(at(&path, error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(Error::deadline(format!(
                    "{} stayed locked for {} s; another process holds this authority and is stuck: end it",
                    path.display(),
                    patience.as_secs()
                )));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn write_state(dir: &Path, state: &State) -> Result<()> {
    let json =
        serde_json::to_vec(state).map_err(|error| Error::internal(format!("the state has no JSON form: {error}")))?;
    write_private(dir, STATE_FILE, &json)
}

fn read_state(dir: &Path) -> Result<State> {
    let path = dir.join(STATE_FILE);
    let json = read_private(&path, MAX_STATE, "check who changed it")?;
    let state: State = serde_json::from_slice(&json)
        .map_err(|error| Error::data_loss(format!("{} cannot be read: {error}", path.display())))?;
    match state.version {
        VERSION => Ok(state),
        other => Err(Error::data_loss(format!(
            "{} has version {other} of the format, this program knows {VERSION}",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(expires: u64) -> TokenRecord {
        TokenRecord {
            hash: "00".to_owned(),
            subject: "task/ps/0".to_owned(),
            expires,
            uses_left: 1,
        }
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for store in [Store::in_memory(), Store::in_dir(dir.path(), true).unwrap()] {
            let failed: Result<()> = store.change(0, |state| {
                state.tokens.push(token(9));
                Err(Error::internal("no"))
            });
            assert!(failed.is_err());
            assert!(store.read().unwrap().tokens.is_empty());
            store
                .change(0, |state| {
                    state.tokens.push(token(9));
                    Ok(())
                })
                .unwrap();
            assert_eq!(store.read().unwrap().tokens.len(), 1);
        }
    }

    #[test]
    fn what_has_expired_is_forgotten() {
        let store = Store::in_memory();
        store
            .change(0, |state| {
                state.tokens.push(token(10));
                state.revoked.insert("4".to_owned(), 10);
                Ok(())
            })
            .unwrap();
        store.change(11, |_| Ok(())).unwrap();
        assert_eq!(store.read().unwrap().tokens.len(), 1);
        assert!(store.read().unwrap().revoked.is_empty());
        store.change(10 + EXPIRED_TOKENS_KEPT, |_| Ok(())).unwrap();
        assert!(store.read().unwrap().tokens.is_empty());
    }

    #[test]
    fn a_missing_or_damaged_state_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Store::in_dir(dir.path(), false).is_err());
        for text in ["", "{}", "{\"version\":2,\"tokens\":[],\"issued\":{},\"revoked\":{}}"] {
            write_private(dir.path(), STATE_FILE, text.as_bytes()).unwrap();
            assert!(Store::in_dir(dir.path(), false).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lock_that_is_never_released_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let _held = lock(dir.path()).unwrap();
        let error = lock_within(dir.path(), Duration::ZERO).unwrap_err();
        assert!(error.message().contains("lock"), "{error}");
    }
}
