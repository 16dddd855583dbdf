//! TensorFlow's V2 checkpoints: `PREFIX.index`, a sorted table of entries, and `PREFIX.data-?????-of-?????`.
//!
//! The formats are those of `core/util/tensor_bundle`: the table's first key is empty and has a `BundleHeaderProto`, the
//! others are names of tensors with a `BundleEntryProto` each. A tensor saved in parts has an entry that lists them
//! and one for each part. All lengths are checked against the bytes that there are before anything is allocated.

mod entry;
mod first;
mod key;
mod snappy;
mod table;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Shape, Tensor};
use bytes::Bytes;
use parking_lot::Mutex;

use self::entry::{Header, Proto, window};
pub(super) use self::first::First;
use self::wire::{Cursor, masked};
use super::encode::load;
use super::reader::{Entry, Kind, Source};
use super::store::Location;

/// An open bundle.
pub(super) struct Bundle {
    prefix: Location,
    shards: u32,
    /// For each tensor the places of its parts.
    places: HashMap<String, Vec<Proto>>,
    /// The lengths of data files.
    lengths: Mutex<HashMap<u32, u64>>,
}

impl Bundle {
    /// Opens the bundle of that prefix, if there is one.
    ///
    /// # Errors
    /// `DATA_LOSS` naming the index if it is damaged; `UNIMPLEMENTED` for a bundle of a later version or of a
    /// big-endian machine.
    pub(super) fn open(prefix: &Location) -> Result<Option<(Bundle, BTreeMap<String, Entry>)>> {
        let at = prefix.suffixed(".index")?;
        let index = match at.read() {
            Err(e) if e.code() == Code::NotFound => return Ok(None),
            other => other?,
        };
        Bundle::of_index(prefix, &index).map(Some).map_err(|e| e.context(&at))
    }

    fn of_index(prefix: &Location, index: &[u8]) -> Result<(Bundle, BTreeMap<String, Entry>)> {
        let table = table::entries(index)?;
        let Some((key, header)) = table.first().filter(|(k, _)| k.is_empty()) else {
            return Err(Error::data_loss("the table has no header"));
        };
        debug_assert!(key.is_empty());
        let header = Header::of(header)?;
        let mut parts = HashMap::new();
        let mut wholes = Vec::new();
        for (key, value) in &table[1..] {
            let name = String::from_utf8_lossy(key);
            let proto = Proto::of(value).map_err(|e| e.context(format!("the entry of {name:?}")))?;
            if proto.shard >= header.shards {
                return Err(Error::data_loss(format!(
                    "the entry of {name:?} is in shard {} of {}",
                    proto.shard, header.shards
                )));
            }
            match key.first() {
                Some(0) => drop(parts.insert(&key[..], proto)),
                _ => wholes.push((name.into_owned(), key, proto)),
            }
        }
        let (mut entries, mut places) = (BTreeMap::new(), HashMap::new());
        for (name, key, proto) in wholes {
            let (entry, found) =
                assemble(key, proto, &parts).map_err(|e| e.context(format!("the entry of {name:?}")))?;
            places.insert(name.clone(), found);
            entries.insert(name, entry);
        }
        let bundle = Bundle {
            prefix: prefix.clone(),
            shards: header.shards,
            places,
            lengths: Mutex::new(HashMap::new()),
        };
        Ok((bundle, entries))
    }

    /// The bytes of a part.
    fn bytes(&self, place: &Proto) -> Result<(Location, Bytes)> {
        let at = self
            .prefix
            .suffixed(&format!(".data-{:05}-of-{:05}", place.shard, self.shards))?;
        let known = self.lengths.lock().get(&place.shard).copied();
        let length = match known {
            Some(n) => n,
            None => {
                let n = at
                    .length()?
                    .ok_or_else(|| Error::data_loss(format!("data file {at} is missing")))?;
                self.lengths.lock().insert(place.shard, n);
                n
            }
        };
        let end = place.offset.checked_add(place.size).filter(|end| *end <= length);
        let cut_off = || Error::data_loss(format!("data file {at} is cut off: it has {length} bytes"));
        let bytes = at.read_range(place.offset..end.ok_or_else(cut_off)?)?;
        match bytes.len() as u64 == place.size {
            true => Ok((at, bytes)),
            false => Err(cut_off()),
        }
    }

    fn value(&self, place: &Proto, dtype: DType, shape: Shape, pool: &Arc<Pool>) -> Result<Tensor> {
        let each = if dtype == DType::Str { 1 } else { dtype.size() };
        let least = shape.checked_count()?.checked_mul(each).map(|n| n as u64);
        if least.is_none_or(|n| n > place.size) {
            return Err(Error::data_loss(format!(
                "a {dtype} tensor of shape {shape} is not in {} bytes",
                place.size
            )));
        }
        let (at, bytes) = self.bytes(place)?;
        let wrong = || Error::data_loss(format!("the checksum of its bytes in {at} is wrong"));
        if dtype == DType::Str {
            let (items, crc) = strings(&bytes, shape.count()).map_err(|e| e.context(&at))?;
            return match masked(crc) == place.crc32c {
                true => Tensor::strings(shape, items),
                false => Err(wrong()),
            };
        }
        if masked(crc32c::crc32c(&bytes)) != place.crc32c {
            return Err(wrong());
        }
        load(dtype, shape, &bytes, pool).map_err(|e| e.context(&at))
    }
}

/// The entry of a tensor and the places of its parts.
fn assemble(key: &[u8], proto: Proto, parts: &HashMap<&[u8], Proto>) -> Result<(Entry, Vec<Proto>)> {
    let shape = Shape::new(&proto.shape);
    shape.checked_count()?;
    let kind = DType::ALL
        .into_iter()
        .find(|d| d.to_tf() == proto.dtype)
        .map_or(Kind::Foreign(proto.dtype), Kind::Known);
    if proto.slices.is_empty() {
        let entry = Entry {
            kind,
            shape,
            windows: None,
            bytes: proto.size,
        };
        return Ok((entry, vec![proto]));
    }
    let (mut windows, mut places) = (Vec::new(), Vec::new());
    for extents in &proto.slices {
        let part = parts
            .get(&key::of_slice(key, extents)[..])
            .ok_or_else(|| Error::data_loss("a part that it lists is missing"))?;
        let window = window(extents, &shape)?;
        if part.dtype != proto.dtype || part.shape != window.length {
            return Err(Error::data_loss("a part contradicts the whole"));
        }
        windows.push(window);
        places.push(part.clone());
    }
    let entry = Entry {
        kind,
        shape,
        windows: Some(windows),
        bytes: places.iter().map(|p| p.size).fold(0, u64::saturating_add),
    };
    Ok((entry, places))
}

/// Strings: their lengths, the masked checksum of those, and the bytes. Also gives the checksum that the entry has:
/// of the lengths as numbers of 4 bytes (8 if they need them) and of what follows.
fn strings(bytes: &[u8], count: usize) -> Result<(Vec<Bytes>, u32)> {
    let mut at = Cursor(bytes);
    let mut lengths = Vec::with_capacity(count.min(bytes.len()));
    let mut crc = 0;
    for _ in 0..count {
        let n = at.varint()?;
        crc = match u32::try_from(n) {
            Ok(short) => crc32c::crc32c_append(crc, &short.to_le_bytes()),
            Err(_) => crc32c::crc32c_append(crc, &n.to_le_bytes()),
        };
        lengths.push(n);
    }
    let check = at.fixed32()?;
    if check != masked(crc) {
        return Err(Error::data_loss("the checksum of the strings' lengths is wrong"));
    }
    crc = crc32c::crc32c_append(crc, &check.to_le_bytes());
    crc = crc32c::crc32c_append(crc, at.0);
    let mut items = Vec::with_capacity(lengths.len());
    for n in lengths {
        items.push(Bytes::copy_from_slice(at.take(n)?));
    }
    match at.is_empty() {
        true => Ok((items, crc)),
        false => Err(Error::data_loss("there are bytes after the last string")),
    }
}

impl Source for Bundle {
    fn read(&self, name: &str, entry: &Entry, piece: usize, pool: &Arc<Pool>) -> Result<Tensor> {
        let dtype = entry.dtype()?;
        let place = self.places.get(name).and_then(|p| p.get(piece));
        let place = place.ok_or_else(|| Error::internal(format!("tensor {name:?} has no part {piece}")))?;
        if !dtype.is_plain() && dtype != DType::Str {
            return Err(Error::unimplemented(format!(
                "tensor {name:?} of dtype {dtype} cannot be read from a bundle"
            )));
        }
        let shape = Shape::new(&place.shape);
        self.value(place, dtype, shape, pool)
            .map_err(|e| e.context(format!("tensor {name:?}")))
    }

    fn verify(&self) -> Result<()> {
        // The index was checked when it was read, and data have no bytes outside of tensors.
        Ok(())
    }
}
