//! Reading a checkpoint of this engine: manifest and safetensors shards.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use actorflow_core::Tensor;
use actorflow_core::error::{Code, Error, Result};
use actorflow_core::tensor::Pool;

use super::encode::load;
use super::manifest::{Manifest, Piece, SUFFIX, Shard};
use super::reader::{Entry, Kind, Source};
use super::store::Location;

/// A shard and whether its header has been checked.
struct File {
    at: Location,
    shard: Shard,
    checked: OnceLock<()>,
}

/// An open checkpoint.
pub(super) struct Native {
    manifest: Manifest,
    files: Vec<File>,
}

/// The manifest's text, if the checkpoint is one of this engine.
pub(super) fn text(prefix: &Location) -> Result<Option<bytes::Bytes>> {
    match prefix.suffixed(SUFFIX)?.read() {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.code() == Code::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Native {
    pub(super) fn open(prefix: &Location, text: &[u8]) -> Result<Native> {
        let at = prefix.suffixed(SUFFIX)?;
        let manifest = Manifest::of_text(text).map_err(|e| e.context(&at))?;
        let mut files = Vec::with_capacity(manifest.shards.len());
        for shard in &manifest.shards {
            files.push(File {
                at: at.neighbour(&shard.file)?,
                shard: shard.clone(),
                checked: OnceLock::new(),
            });
        }
        Ok(Native { manifest, files })
    }

    pub(super) fn entries(&self) -> Result<BTreeMap<String, Entry>> {
        let mut all = BTreeMap::new();
        for (name, record) in &self.manifest.tensors {
            let shape = record.shape();
            let entry = Entry {
                kind: Kind::Known(record.dtype()?),
                windows: match &record.pieces[..] {
                    [whole] if whole.slice.is_none() => None,
                    parts => Some(parts.iter().map(|p| p.window(&shape)).collect()),
                },
                bytes: record.pieces.iter().map(|p| p.bytes).sum(),
                shape,
            };
            all.insert(name.clone(), entry);
        }
        Ok(all)
    }
}

impl File {
    /// Checks length and header, once.
    fn check(&self) -> Result<()> {
        if self.checked.get().is_some() {
            return Ok(());
        }
        let lost = |what: String| Error::data_loss(format!("shard {} {what}", self.at));
        match self.at.length()? {
            None => return Err(lost("is missing".into())),
            Some(n) if n != self.shard.bytes => {
                return Err(lost(format!("has {n} bytes instead of {}", self.shard.bytes)));
            }
            Some(_) => {}
        }
        let header = self.bytes(0, self.shard.header_bytes)?;
        if crc32c::crc32c(&header) != self.shard.header_crc32c {
            return Err(lost("has a damaged header: its checksum is wrong".into()));
        }
        let _ = self.checked.set(());
        Ok(())
    }

    fn bytes(&self, from: u64, length: u64) -> Result<bytes::Bytes> {
        let bytes = match self.at.read_range(from..from.saturating_add(length)) {
            Err(e) if e.code() == Code::NotFound => {
                return Err(Error::data_loss(format!("shard {} is missing", self.at)));
            }
            other => other?,
        };
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(Error::data_loss(format!("shard {} is cut off", self.at))),
        }
    }
}

impl Native {
    fn piece(&self, name: &str, piece: usize) -> Result<(&Piece, &File)> {
        let found = || {
            let piece = self.manifest.tensors.get(name)?.pieces.get(piece)?;
            Some((piece, self.files.get(piece.shard)?))
        };
        found().ok_or_else(|| Error::internal(format!("tensor {name:?} has no part {piece}")))
    }
}

impl Source for Native {
    fn read(&self, name: &str, entry: &Entry, piece: usize, pool: &Arc<Pool>) -> Result<Tensor> {
        let dtype = entry.dtype()?;
        let (piece, file) = self.piece(name, piece)?;
        let window = piece.window(&entry.shape);
        let read = || {
            file.check()?;
            let bytes = file.bytes(piece.offset, piece.bytes)?;
            if crc32c::crc32c(&bytes) != piece.crc32c {
                return Err(Error::data_loss(format!(
                    "the checksum of its bytes in shard {} is wrong",
                    file.at
                )));
            }
            load(dtype, window.shape(), &bytes, pool).map_err(|e| e.context(&file.at))
        };
        read().map_err(|e| e.context(format!("tensor {name:?}")))
    }

    fn verify(&self) -> Result<()> {
        for file in &self.files {
            file.check()?;
            let mut crc = 0;
            let mut at = 0;
            while at < file.shard.bytes {
                let n = (file.shard.bytes - at).min(8 << 20);
                crc = crc32c::crc32c_append(crc, &file.bytes(at, n)?);
                at += n;
            }
            if crc != file.shard.crc32c {
                return Err(Error::data_loss(format!("shard {}: its checksum is wrong", file.at)));
            }
        }
        Ok(())
    }
}
