//! The record of what an authority was asked and what it did.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use actorflow_core::{Error, Result};
use serde::Serialize;

use super::clock::rfc3339;
use super::files::{at, private_options};

/// How many lines an authority in memory keeps.
const KEPT_IN_MEMORY: usize = 4096;

/// How far back from its end the file is read, in bytes.
const TAIL: u64 = 4 << 20;

/// The audit log: one JSON object per line with `time` (RFC 3339, UTC), `event`, `outcome` and, as far as they apply,
/// `subject`, `serial`, `token` (its identifier), `peer` (the network address) and `reason`. Never a secret.
///
/// In an authority's directory it is `audit.jsonl`, mode 0600, only ever appended to; it may be moved away at any time.
#[derive(Debug)]
pub struct Audit(Sink);

#[derive(Debug)]
enum Sink {
    Memory(Mutex<VecDeque<String>>),
    File(PathBuf),
}

/// One line.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Event<'a> {
    time: String,
    event: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// `event` was done, at `now` in seconds since 1970.
    pub(crate) fn done(event: &'a str, now: u64) -> Self {
        Event {
            time: rfc3339(now),
            event,
            outcome: "done",
            ..Event::default()
        }
    }

    /// `event` was refused because of `error`.
    pub(crate) fn refused(event: &'a str, now: u64, error: &'a Error) -> Self {
        Event {
            outcome: "refused",
            reason: Some(error.message()),
            ..Event::done(event, now)
        }
    }

    /// Names the member spoken of.
    pub(crate) fn subject(mut self, subject: impl ToString) -> Self {
        self.subject = Some(subject.to_string());
        self
    }

    /// Names the address that asked.
    pub(crate) fn peer(mut self, peer: Option<SocketAddr>) -> Self {
        self.peer = peer.map(|peer| peer.to_string());
        self
    }
}

impl Audit {
    /// A log that is kept in memory; it forgets its oldest lines.
    pub(crate) fn in_memory() -> Self {
        Audit(Sink::Memory(Mutex::default()))
    }

    /// The log in the file `path`.
    pub(crate) fn in_file(path: PathBuf) -> Self {
        Audit(Sink::File(path))
    }

    /// Adds a line. What cannot be recorded must not be done, so a failure fails the request.
    pub(crate) fn record(&self, event: &Event<'_>) -> Result<()> {
        let mut line = serde_json::to_string(event)
            .map_err(|error| Error::internal(format!("no line for the audit log: {error}")))?;
        match &self.0 {
            Sink::Memory(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == KEPT_IN_MEMORY {
                    lines.pop_front();
                }
                lines.push_back(line);
                Ok(())
            }
            Sink::File(path) => {
                line.push('\n');
                // One write at the end of the file: lines of several processes do not mix.
                let write = || {
                    private_options()
                        .append(true)
                        .create(true)
                        .open(path)?
                        .write_all(line.as_bytes())
                };
                write().map_err(|error| at(path, error).context("the audit log cannot be written"))
            }
        }
    }

    /// The file, if the log is in one.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Sink::Memory(_) => None,
            Sink::File(path) => Some(path),
        }
    }

    /// The last lines, at most `limit` and at most 4 MiB, oldest first.
    ///
    /// # Errors
    /// Those of the file system, with the file.
    pub fn tail(&self, limit: usize) -> Result<Vec<String>> {
        let lines: Vec<String> = match &self.0 {
            Sink::Memory(lines) => {
                let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.iter().cloned().collect()
            }
            Sink::File(path) => tail_of(path)
                .map_err(|error| at(path, error))?
                .lines()
                .map(str::to_owned)
                .collect(),
        };
        let first = lines.len().saturating_sub(limit);
        Ok(lines[first..].to_vec())
    }
}

/// The whole lines within the last [`TAIL`] bytes.
fn tail_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match (start, text.split_once('\n')) {
        (0, _) | (_, None) => text.into_owned(),
        (_, Some((_, whole))) => whole.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_and_the_last_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::in_file(dir.path().join("audit.jsonl"));
        for event in ["a", "b", "c"] {
            audit.record(&Event::done(event, 0).subject("task/ps/0")).unwrap();
        }
        let lines = audit.tail(2).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[1],
            r#"{"time":"1970-01-01T00:00:00Z","event":"c","outcome":"done","subject":"task/ps/0"}"#
        );
    }

    #[test]
    fn a_line_break_in_a_value_stays_within_the_line() {
        let audit = Audit::in_memory();
        audit
            .record(&Event::done("a", 0).subject("x\n{\"event\":\"b\"}"))
            .unwrap();
        assert_eq!(audit.tail(9).unwrap()[0].lines().count(), 1);
    }

    #[test]
    fn a_log_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::in_file(dir.path().join("missing/audit.jsonl"));
        assert!(audit.record(&Event::done("a", 0)).is_err());
    }

    #[test]
    fn a_log_in_memory_forgets_its_oldest_lines() {
        let audit = Audit::in_memory();
        for _ in 0..KEPT_IN_MEMORY + 5 {
            audit.record(&Event::done("a", 0)).unwrap();
        }
        assert_eq!(audit.tail(usize::MAX).unwrap().len(), KEPT_IN_MEMORY);
    }
}
