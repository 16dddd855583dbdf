//! The file `checkpoint` of a directory: which checkpoints there are, and which is the latest.
//!
//! Its text is TensorFlow's `CheckpointState` (`core/protobuf/checkpoint_state.proto`), which either program reads. A name
//! is relative to the directory unless it is absolute.

use actorflow_core::error::{Code, Error, Result};
use actorflow_kernels::checkpoint::Location;
use bytes::Bytes;

/// The name of the file.
pub const STATE_FILE: &str = "checkpoint";

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointState {
    /// The prefix of the latest checkpoint.
    pub latest: Option<String>,
    /// The prefixes of all checkpoints that are kept, the oldest first.
    pub all: Vec<String>,
}

fn file(dir: &str) -> Result<Location> {
    Location::of(&join(dir, STATE_FILE))
}

/// A name in a directory; an absolute one as it is.
pub(super) fn join(dir: &str, name: &str) -> String {
    match dir {
        _ if name.starts_with('/') || name.contains("://") => name.to_owned(),
        "" | "." => name.to_owned(),
        _ => format!("{}/{name}", dir.trim_end_matches('/')),
    }
}

impl CheckpointState {
    /// Reads the file of a directory; `None` if there is none.
    ///
    /// # Errors
    /// `DATA_LOSS` if it is damaged, or a name in it leads out of the directory by `..`.
    pub fn read(dir: &str) -> Result<Option<CheckpointState>> {
        let at = file(dir)?;
        let bytes = match at.read() {
            Err(e) if e.code() == Code::NotFound => return Ok(None),
            other => other?,
        };
        let lost = |what: String| Error::data_loss(format!("{at} is damaged: {what}"));
        let text = std::str::from_utf8(&bytes).map_err(|_| lost("it is no text".into()))?;
        let mut state = CheckpointState::default();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            let (key, value) = line.split_once(':').ok_or_else(|| lost(format!("line {line:?}")))?;
            let name = || {
                let name = unquoted(value.trim()).ok_or_else(|| lost(format!("line {line:?}")))?;
                match name.split('/').any(|part| part == "..") {
                    true => Err(lost(format!("{name:?} leads out of the directory"))),
                    false => Ok(join(dir, &name)),
                }
            };
            match key.trim() {
                "model_checkpoint_path" => state.latest = Some(name()?),
                "all_model_checkpoint_paths" => state.all.push(name()?),
                // TensorFlow also notes times.
                _ => {}
            }
        }
        Ok(Some(state))
    }

    /// Writes the file of a directory as a whole. Names of files in the directory are written without it, so that it can
    /// be moved.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, dir: &str) -> Result<()> {
        let own = join(dir, "");
        let short = |path: &String| quoted(path.strip_prefix(&own).unwrap_or(path));
        let mut text = String::new();
        if let Some(latest) = &self.latest {
            text.push_str(&format!("model_checkpoint_path: {}\n", short(latest)));
        }
        for path in &self.all {
            text.push_str(&format!("all_model_checkpoint_paths: {}\n", short(path)));
        }
        file(dir)?.write(vec![Bytes::from(text)])
    }
}

/// A string literal of the text format of Protocol Buffers.
fn quoted(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_ascii_control() => out.push_str(&format!("\\{:03o}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn unquoted(literal: &str) -> Option<String> {
    let quote = literal.chars().next().filter(|q| matches!(q, '"' | '\''))?;
    let inner = literal.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = Vec::new();
    let mut rest = inner.bytes().peekable();
    while let Some(b) = rest.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match rest.next()? {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            d @ b'0'..=b'7' => {
                let mut code = u32::from(d - b'0');
                for _ in 0..2 {
                    if let Some(d) = rest.next_if(|d| matches!(d, b'0'..=b'7')) {
                        code = code * 8 + u32::from(d - b'0');
                    }
                }
                out.push(u8::try_from(code).ok()?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().to_str().unwrap();
        assert_eq!(CheckpointState::read(d).unwrap(), None);
        let state = CheckpointState {
            latest: Some(format!("{d}/m \"ü\"\\-2")),
            all: vec![format!("{d}/m-1"), "/elsewhere/m-0".into(), format!("{d}/m \"ü\"\\-2")],
        };
        state.write(d).unwrap();
        assert_eq!(CheckpointState::read(d).unwrap(), Some(state));
        let text = std::fs::read_to_string(dir.path().join(STATE_FILE)).unwrap();
        assert!(text.contains("all_model_checkpoint_paths: \"m-1\"\n"), "{text}");
    }

    #[test]
    fn what_tensorflow_writes_is_read_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().to_str().unwrap();
        let write = |text: &str| std::fs::write(dir.path().join(STATE_FILE), text).unwrap();
        write(
            "model_checkpoint_path: \"m-\\303\\274\"\nall_model_checkpoint_paths: \"/a/m\"\n\
             all_model_checkpoint_timestamps: 1795381088.5\nlast_preserved_timestamp: 1.5\n",
        );
        let state = CheckpointState::read(d).unwrap().unwrap();
        assert_eq!(state.latest, Some(format!("{d}/m-ü")));
        assert_eq!(state.all, ["/a/m"]);
        for bad in [
            "model_checkpoint_path",
            "model_checkpoint_path: m",
            "model_checkpoint_path: \"../m\"",
            "\u{0}x",
        ] {
            write(bad);
            assert_eq!(CheckpointState::read(d).unwrap_err().code(), Code::DataLoss, "{bad}");
        }
    }
}
