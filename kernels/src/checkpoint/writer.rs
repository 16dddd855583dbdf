//! Writing a checkpoint: shards first, the manifest last.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::{DType, Shape, Tensor};
use bytes::Bytes;
use safetensors::tensor::{Metadata, TensorInfo};

use super::encode::{Stored, store};
use super::manifest::{Manifest, Piece, Record, SUFFIX, Shard};
use super::slice::{SliceSpec, Window};
use super::store::Location;

/// The bytes of a shard that is filled with several tensors; a larger tensor has one of its own.
///
/// A shard of this size is uploaded to an object store in one request, which allow 5 GB.
pub const SHARD_BYTES: u64 = 1 << 30;

/// Collects tensors and writes them as a checkpoint.
///
/// Nothing is written before [`finish`](Self::finish). A checkpoint that is there under the same prefix stays whole
/// until the new one is; then its shards are deleted. Several writers of one prefix do not disturb each other: the
/// last one to finish wins.
pub struct Writer {
    prefix: Location,
    tensors: BTreeMap<String, Pending>,
    shard_bytes: u64,
}

struct Pending {
    dtype: DType,
    shape: Shape,
    /// The parts with what is stored of them.
    pieces: Vec<(Option<Window>, Stored)>,
}

/// A checkpoint whose shards are written and whose manifest is not: until [`commit`](Self::commit) it does not
/// exist.
pub struct Prepared {
    prefix: Location,
    manifest: Manifest,
}

impl Writer {
    /// A writer of the checkpoint `prefix`.
    pub fn new(prefix: Location) -> Writer {
        Writer {
            prefix,
            tensors: BTreeMap::new(),
            shard_bytes: SHARD_BYTES,
        }
    }

    /// Starts a new shard after that many bytes.
    pub fn shard_bytes(mut self, bytes: u64) -> Writer {
        self.shard_bytes = bytes.max(1);
        self
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is one of that name, the name is empty or no UTF-8, or the dtype has no bytes
    /// (resource, variant).
    pub fn add(&mut self, name: &[u8], t: &Tensor) -> Result<()> {
        self.put(name, t.shape().clone(), None, t)
    }

    /// Adds a part of a tensor; the other parts may come in other calls or other checkpoints that are merged.
    ///
    /// # Errors
    /// As [`add`](Self::add); `INVALID_ARGUMENT` also if the tensor has not the shape of the part, or the part does not
    /// go with those that are there: another whole shape, another dtype, an overlap.
    pub fn add_slice(&mut self, name: &[u8], spec: &SliceSpec, t: &Tensor) -> Result<()> {
        spec.check()?;
        if spec.window.shape() != *t.shape() {
            return Err(Error::invalid(format!(
                "Slice in shape_and_slice specification does not match the shape of the tensor to save: {} of {}, \
                 tensor {:?}: {}",
                spec.window,
                spec.full,
                String::from_utf8_lossy(name),
                t.shape()
            )));
        }
        self.put(name, spec.full.clone(), Some(spec.window.clone()), t)
    }

    fn put(&mut self, name: &[u8], shape: Shape, window: Option<Window>, t: &Tensor) -> Result<()> {
        let text = std::str::from_utf8(name)
            .ok()
            .filter(|n| !n.is_empty())
            .ok_or_else(|| {
                Error::invalid(format!(
                    "a tensor's name must be UTF-8 and not empty, got {:?}",
                    String::from_utf8_lossy(name)
                ))
            })?;
        let stored = store(t).map_err(|e| e.context(format!("tensor {text:?}")))?;
        let Some(have) = self.tensors.get_mut(text) else {
            let pieces = vec![(window, stored)];
            let dtype = t.dtype();
            self.tensors.insert(text.to_owned(), Pending { dtype, shape, pieces });
            return Ok(());
        };
        let clash = |other: &Window| window.as_ref().is_none_or(|w| w.overlaps(other));
        if have.pieces.iter().any(|(w, _)| w.as_ref().is_none_or(clash)) {
            return Err(Error::invalid(format!("Adding duplicate key: {text}")));
        }
        if have.dtype != t.dtype() || have.shape != shape {
            return Err(Error::invalid(format!(
                "the parts of tensor {text:?} differ: {} of shape {} and {} of shape {shape}",
                have.dtype,
                have.shape,
                t.dtype()
            )));
        }
        have.pieces.push((window, stored));
        Ok(())
    }

    /// Writes the checkpoint.
    ///
    /// # Errors
    /// What the store says; then there is no trace of the new checkpoint, and an old one is as it was.
    pub fn finish(self) -> Result<()> {
        self.prepare()?.commit()
    }

    /// Writes the shards.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn prepare(self) -> Result<Prepared> {
        let mut records = BTreeMap::new();
        let mut items = Vec::new();
        for (name, pending) in self.tensors {
            let mut pieces = Vec::new();
            for (i, (window, stored)) in pending.pieces.into_iter().enumerate() {
                let key = match &window {
                    None => name.clone(),
                    Some(w) => format!("{name}|{w}"),
                };
                pieces.push(Piece {
                    slice: window.map(|w| [w.start, w.length]),
                    shard: 0,
                    key,
                    offset: 0,
                    bytes: stored.bytes.len() as u64,
                    crc32c: crc32c::crc32c(&stored.bytes),
                });
                items.push((name.clone(), i, stored));
            }
            let record = Record {
                dtype: pending.dtype.name().into(),
                shape: pending.shape.dims().to_vec(),
                pieces,
            };
            records.insert(name, record);
        }
        let mut plan: Vec<Vec<Item>> = Vec::new();
        let mut room = 0;
        for item in items {
            let size = item.2.bytes.len() as u64;
            if plan.is_empty() || size > room {
                plan.push(Vec::new());
                room = self.shard_bytes;
            }
            room = room.saturating_sub(size);
            if let Some(last) = plan.last_mut() {
                last.push(item);
            }
        }
        let (id, count) = (unique(), plan.len());
        let mut shards: Vec<Shard> = Vec::with_capacity(count);
        let mut written = Vec::new();
        for (n, items) in plan.into_iter().enumerate() {
            let file = self.prefix.suffixed(&shard_suffix(&id, n, count))?;
            written.push(file.clone());
            match write_shard(&file, n, items, &mut records) {
                Ok(shard) => shards.push(shard),
                Err(e) => {
                    discard(&written);
                    return Err(e);
                }
            }
        }
        Ok(Prepared {
            prefix: self.prefix,
            manifest: Manifest::new(shards, records),
        })
    }
}

/// The name of the tensor, which of its parts, and what is stored of it.
type Item = (String, usize, Stored);

/// What is no name of a tensor in safetensors.
const RESERVED: &str = "__metadata__";

fn write_shard(
    file: &Location,
    number: usize,
    mut items: Vec<Item>,
    records: &mut BTreeMap<String, Record>,
) -> Result<Shard> {
    // Wide elements first, so that every tensor is aligned.
    items.sort_by_key(|item| std::cmp::Reverse(item.2.dtype));
    let mut infos = Vec::with_capacity(items.len());
    let mut used = std::collections::HashSet::from([RESERVED.to_owned()]);
    let mut at = 0;
    for (name, i, stored) in &items {
        let end = at + stored.bytes.len();
        let Some(piece) = records.get_mut(name).and_then(|r| r.pieces.get_mut(*i)) else {
            continue;
        };
        // A tensor may be named as a part of another one is here, or as the format's own entry.
        while !used.insert(piece.key.clone()) {
            piece.key.push('|');
        }
        (piece.shard, piece.offset) = (number, at as u64);
        let info = TensorInfo {
            dtype: stored.dtype,
            shape: stored.shape.clone(),
            data_offsets: (at, end),
        };
        infos.push((piece.key.clone(), info));
        at = end;
    }
    let header = header(infos).map_err(|e| e.context(file))?;
    let header_bytes = header.len() as u64;
    let header_crc32c = crc32c::crc32c(&header);
    let mut crc = header_crc32c;
    let mut parts = vec![Bytes::from(header)];
    for (name, i, stored) in items {
        if let Some(piece) = records.get_mut(&name).and_then(|r| r.pieces.get_mut(i)) {
            piece.offset += header_bytes;
        }
        crc = crc32c::crc32c_append(crc, &stored.bytes);
        parts.push(stored.bytes);
    }
    file.write(parts)?;
    Ok(Shard {
        file: file.name().to_owned(),
        bytes: header_bytes + at as u64,
        header_bytes,
        header_crc32c,
        crc32c: crc,
    })
}

/// The start of a safetensors file: the length of its header, the header, spaces up to a multiple of 8.
fn header(infos: Vec<(String, TensorInfo)>) -> Result<Vec<u8>> {
    let named = [("format".to_owned(), "actorflow-checkpoint".to_owned())].into();
    let metadata = Metadata::new(Some(named), infos).map_err(|e| Error::internal(format!("safetensors: {e}")))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| Error::internal(format!("safetensors: {e}")))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.append(&mut text);
    Ok(out)
}

/// The end of a shard's name; `id` is another one for each writing, so that no shard is ever overwritten.
pub(super) fn shard_suffix(id: &str, number: usize, count: usize) -> String {
    format!(".{id}-{number:05}-of-{count:05}.safetensors")
}

/// Whether [`shard_suffix`] makes such a suffix.
fn is_shard_suffix(text: &str) -> bool {
    let digits = |s: &str| s.len() >= 5 && s.bytes().all(|b| b.is_ascii_digit());
    let parts = || {
        let rest = text.strip_prefix('.')?.strip_suffix(".safetensors")?;
        let (id, rest) = rest.split_once('-')?;
        let (number, count) = rest.split_once("-of-")?;
        Some(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()) && digits(number) && digits(count))
    };
    parts() == Some(true)
}

/// Sixteen hexadecimal digits that nobody else has.
pub(super) fn unique() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    hasher.write_u128(now.map_or(0, |d| d.as_nanos()));
    format!("{:016x}", hasher.finish())
}

/// Deletes a checkpoint of this engine: the manifest, then its shards. The flag says whether there was one.
///
/// # Errors
/// What the store says. A manifest that is damaged is deleted; its shards, which only it knows, stay.
pub fn remove(prefix: &Location) -> Result<bool> {
    let at = prefix.suffixed(SUFFIX)?;
    let text = match at.read() {
        Err(e) if e.code() == Code::NotFound => return Ok(false),
        other => other?,
    };
    at.delete()?;
    if let Ok(manifest) = Manifest::of_text(&text) {
        discard(&own_shards(prefix, &manifest));
    }
    Ok(true)
}

/// The shards of a manifest whose names are those of shards of its prefix: a manifest can name any file of its
/// directory.
fn own_shards(prefix: &Location, manifest: &Manifest) -> Vec<Location> {
    let files = manifest.shards.iter().filter(|s| {
        let rest = s.file.strip_prefix(prefix.name());
        rest.is_some_and(is_shard_suffix)
    });
    files.filter_map(|s| prefix.neighbour(&s.file).ok()).collect()
}

/// Deletes files of which it does not matter whether they can be deleted.
pub(super) fn discard(files: &[Location]) {
    for file in files {
        let _ = file.delete();
    }
}

impl Prepared {
    pub(super) fn new(prefix: Location, manifest: Manifest) -> Prepared {
        Prepared { prefix, manifest }
    }

    /// Writes the manifest: from now on this is the checkpoint. Then the shards of the one that it replaces are
    /// deleted.
    ///
    /// # Errors
    /// What the store says; then an old checkpoint is as it was, and the new shards are deleted.
    pub fn commit(self) -> Result<()> {
        let shards = own_shards(&self.prefix, &self.manifest);
        self.publish().inspect_err(|_| discard(&shards))
    }

    /// As [`commit`](Self::commit), but leaves the new shards where they are if the manifest cannot be written.
    pub(super) fn publish(self) -> Result<()> {
        let at = self.prefix.suffixed(SUFFIX)?;
        let old = at.read().ok().and_then(|text| Manifest::of_text(&text).ok());
        let text = self.manifest.to_text()?;
        at.write(vec![Bytes::from(text)])?;
        if let Some(old) = old {
            discard(&own_shards(&self.prefix, &old));
        }
        Ok(())
    }
}
