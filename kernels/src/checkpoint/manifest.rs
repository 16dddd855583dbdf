//! The manifest: which tensors a checkpoint has, in which shards their bytes are, and the checksums of all.
//!
//! `PREFIX.manifest.json` is written after the shards that it names, so that a checkpoint exists exactly when its
//! manifest does. Its text is `{"crc32c":"XXXXXXXX","manifest":{…}}` and a newline, with the CRC32C (Castagnoli, eight
//! hexadecimal digits) of the text between the last colon and the last brace; nothing in the file is outside of what
//! that covers.

use std::collections::{BTreeMap, HashSet};

use actorflow_core::error::{Error, Result};
use actorflow_core::shape::MAX_RANK;
use actorflow_core::{DType, Shape};
use serde::{Deserialize, Serialize};

use super::encode::{stored_dtype, stored_size};
use super::slice::Window;

/// What the name of a manifest ends with.
pub const SUFFIX: &str = ".manifest.json";

const FORMAT: &str = "actorflow-checkpoint";
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: String,
    version: u32,
    pub(super) shards: Vec<Shard>,
    pub(super) tensors: BTreeMap<String, Record>,
}

/// A safetensors file in the manifest's directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shard {
    pub(super) file: String,
    pub(super) bytes: u64,
    /// Up to the first tensor's data.
    pub(super) header_bytes: u64,
    pub(super) header_crc32c: u32,
    pub(super) crc32c: u32,
}

/// A tensor, whole or in parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) pieces: Vec<Piece>,
}

/// The bytes of a tensor or of a part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Piece {
    /// Where the part is, `start` and `length` for each dimension; absent for the whole tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slice: Option<[Vec<usize>; 2]>,
    pub(super) shard: usize,
    /// The name in the shard's header.
    pub(super) key: String,
    /// Where its bytes start in the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

impl Record {
    pub(super) fn dtype(&self) -> Result<DType> {
        let dtype = DType::from_name(&self.dtype).filter(|d| d.name() == self.dtype);
        dtype.ok_or_else(|| Error::data_loss(format!("there is no dtype {:?}", self.dtype)))
    }

    pub(super) fn shape(&self) -> Shape {
        Shape::new(&self.shape)
    }
}

impl Piece {
    pub(super) fn window(&self, shape: &Shape) -> Window {
        match &self.slice {
            None => Window::whole(shape),
            Some([start, length]) => Window {
                start: start.clone(),
                length: length.clone(),
            },
        }
    }
}

impl Manifest {
    pub(super) fn new(shards: Vec<Shard>, tensors: BTreeMap<String, Record>) -> Manifest {
        Manifest {
            format: FORMAT.into(),
            version: VERSION,
            shards,
            tensors,
        }
    }

    /// The file's text.
    pub(super) fn to_text(&self) -> Result<String> {
        let body = serde_json::to_string(self).map_err(|e| Error::internal(format!("the manifest: {e}")))?;
        let crc = crc32c::crc32c(body.as_bytes());
        Ok(format!("{{\"crc32c\":\"{crc:08x}\",\"manifest\":{body}}}\n"))
    }

    /// Reads and checks the file's text; what it says about files is not checked yet.
    ///
    /// # Errors
    /// `DATA_LOSS` if it is not what [`to_text`](Self::to_text) has written; `UNIMPLEMENTED` for a later version.
    pub(super) fn of_text(text: &[u8]) -> Result<Manifest> {
        let lost = |what: &str| Error::data_loss(format!("the manifest is damaged: {what}"));
        let (head, rest) = text.split_at_checked(11).ok_or_else(|| lost("it is cut off"))?;
        let (digits, rest) = rest.split_at_checked(8).ok_or_else(|| lost("it is cut off"))?;
        let body = rest
            .strip_prefix(b"\",\"manifest\":")
            .and_then(|rest| rest.strip_suffix(b"}\n"))
            .filter(|_| head == b"{\"crc32c\":\"")
            .ok_or_else(|| lost("it is cut off or no manifest"))?;
        if format!("{:08x}", crc32c::crc32c(body)).as_bytes() != digits {
            return Err(lost("its checksum is wrong"));
        }
        let manifest: Manifest = serde_json::from_slice(body).map_err(|e| lost(&e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(lost(&format!("its format is {:?}", manifest.format)));
        }
        if manifest.version != VERSION {
            return Err(Error::unimplemented(format!(
                "the manifest has version {}; this program reads version {VERSION}",
                manifest.version
            )));
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let mut files = HashSet::new();
        for shard in &self.shards {
            if shard.header_bytes < 8 || shard.header_bytes > shard.bytes || !files.insert(&shard.file) {
                return Err(Error::data_loss(format!(
                    "the manifest contradicts itself about shard {:?}",
                    shard.file
                )));
            }
        }
        let mut taken = Vec::new();
        for (name, record) in &self.tensors {
            let bad =
                |what: &str| Error::data_loss(format!("the manifest contradicts itself about tensor {name:?}: {what}"));
            record.check(self, &mut taken).map_err(|e| bad(e.message()))?;
        }
        // No byte belongs to two tensors, so that what is read is never more than what is there.
        taken.sort_unstable();
        match taken.windows(2).any(|w| w[0].0 == w[1].0 && w[0].2 > w[1].1) {
            true => Err(Error::data_loss("the manifest contradicts itself: two tensors overlap")),
            false => Ok(()),
        }
    }
}

impl Record {
    fn check(&self, manifest: &Manifest, taken: &mut Vec<(usize, u64, u64)>) -> Result<()> {
        let dtype = self.dtype()?;
        stored_dtype(dtype)?;
        if self.shape.len() > MAX_RANK {
            return Err(Error::data_loss("it has too many dimensions"));
        }
        let shape = self.shape();
        shape.checked_count()?;
        if self.pieces.is_empty() || (self.pieces.len() > 1 && self.pieces.iter().any(|p| p.slice.is_none())) {
            return Err(Error::data_loss("it is neither whole nor in parts"));
        }
        for piece in &self.pieces {
            let window = piece.window(&shape);
            if !window.is_inside(&shape) {
                return Err(Error::data_loss("a part is not inside of it"));
            }
            let size = stored_size(dtype, &window.shape())?;
            if piece.bytes < size || (piece.bytes > size && dtype != DType::Str) {
                return Err(Error::data_loss("its bytes do not fill its shape"));
            }
            let shard = manifest.shards.get(piece.shard);
            let end = piece.offset.checked_add(piece.bytes);
            match (shard, end) {
                (Some(s), Some(end)) if piece.offset >= s.header_bytes && end <= s.bytes => {
                    if piece.bytes > 0 {
                        taken.push((piece.shard, piece.offset, end));
                    }
                }
                _ => return Err(Error::data_loss("its bytes are outside of its shard")),
            }
        }
        Ok(())
    }
}
