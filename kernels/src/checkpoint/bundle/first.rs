//! Checkpoints of TensorFlow's first version: one table file with everything (`core/util/saved_tensor_slice.proto`).
//!
//! The table's first key is empty and lists the tensors with their parts; each part has a key of its own, with the
//! elements in the typed fields of a `TensorProto`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Shape, Tensor};
use bytes::Bytes;

use super::entry::{dims, extents, window};
use super::key::{self, Extents};
use super::table;
use super::wire::{Cursor, Field};
use crate::checkpoint::encode::load;
use crate::checkpoint::reader::{Entry, Kind, Source};
use crate::checkpoint::slice::Window;
use crate::checkpoint::store::Location;

/// An open checkpoint of the first version; it is in memory as a whole.
pub(in crate::checkpoint) struct First {
    at: Location,
    /// The keys of each tensor's parts.
    parts: HashMap<String, Vec<Vec<u8>>>,
    table: HashMap<Vec<u8>, Vec<u8>>,
}

/// `SavedSliceMeta`.
#[derive(Default)]
struct Meta {
    name: Vec<u8>,
    shape: Vec<usize>,
    dtype: i32,
    slices: Vec<Extents>,
}

impl First {
    /// Opens the file of that name, if there is one.
    ///
    /// # Errors
    /// `DATA_LOSS` naming the file if it is no such checkpoint or damaged.
    pub(in crate::checkpoint) fn open(at: &Location) -> Result<Option<(First, BTreeMap<String, Entry>)>> {
        let file = match at.read() {
            Err(e) if e.code() == Code::NotFound => return Ok(None),
            other => other?,
        };
        First::of_table(at, &file).map(Some).map_err(|e| e.context(at))
    }

    pub(super) fn of_table(at: &Location, file: &[u8]) -> Result<(First, BTreeMap<String, Entry>)> {
        let table: HashMap<Vec<u8>, Vec<u8>> = table::entries(file)?.into_iter().collect();
        let contents = table
            .get(&b""[..])
            .ok_or_else(|| Error::data_loss("the table has no list of tensors"))?;
        let mut parts = HashMap::new();
        let mut entries = BTreeMap::new();
        for meta in metas(contents)? {
            let name = String::from_utf8_lossy(&meta.name).into_owned();
            let of = |e: Error| e.context(format!("the entry of {name:?}"));
            let shape = Shape::new(&meta.shape);
            shape.checked_count().map_err(of)?;
            let windows = meta
                .slices
                .iter()
                .map(|s| window(s, &shape))
                .collect::<Result<Vec<_>>>();
            let windows = windows.map_err(of)?;
            let keys: Vec<_> = meta.slices.iter().map(|s| key::of_slice(&meta.name, s)).collect();
            let bytes = keys.iter().filter_map(|k| table.get(k)).map(|v| v.len() as u64).sum();
            let known = DType::ALL.into_iter().find(|d| d.to_tf() == meta.dtype);
            let entry = Entry {
                kind: known.map_or(Kind::Foreign(meta.dtype), Kind::Known),
                windows: (windows[..] != [Window::whole(&shape)]).then_some(windows),
                shape,
                bytes,
            };
            entries.insert(name.clone(), entry);
            parts.insert(name, keys);
        }
        let first = First {
            at: at.clone(),
            parts,
            table,
        };
        Ok((first, entries))
    }
}

/// The list of tensors: `SavedTensorSlices.meta.tensor`.
fn metas(message: &[u8]) -> Result<Vec<Meta>> {
    let mut out = Vec::new();
    let mut at = Cursor(message);
    while !at.is_empty() {
        let (1, Field::Bytes(meta)) = at.field()? else {
            continue;
        };
        let mut at = Cursor(meta);
        while !at.is_empty() {
            let (1, Field::Bytes(tensor)) = at.field()? else {
                continue;
            };
            let mut at = Cursor(tensor);
            let mut meta = Meta::default();
            while !at.is_empty() {
                match at.field()? {
                    (1, Field::Bytes(name)) => meta.name = name.to_vec(),
                    (2, Field::Bytes(shape)) => meta.shape = dims(shape)?,
                    (3, Field::Number(n)) => {
                        meta.dtype = i32::try_from(n).map_err(|_| Error::data_loss("a dtype is negative"))?;
                    }
                    (4, Field::Bytes(slice)) => meta.slices.push(extents(slice)?),
                    _ => {}
                }
            }
            out.push(meta);
        }
    }
    Ok(out)
}

/// The `TensorProto` of a part: `SavedTensorSlices.data.data`.
fn data(message: &[u8]) -> Result<&[u8]> {
    let inner = |message, number| {
        let mut at = Cursor(message);
        while !at.is_empty() {
            match at.field()? {
                (n, Field::Bytes(b)) if n == number => return Ok(b),
                _ => {}
            }
        }
        Err(Error::data_loss("a part has no data"))
    };
    inner(inner(message, 2)?, 3)
}

/// The field of a `TensorProto` that has the elements of a dtype, and their width there; 0 for numbers of any length.
fn field_of(dtype: DType) -> Option<(u64, usize)> {
    Some(match dtype.storage() {
        DType::F32 => (5, 4),
        DType::F64 => (6, 8),
        DType::I32 | DType::I16 | DType::I8 | DType::U8 | DType::U16 => (7, 0),
        DType::C64 => (9, 4),
        DType::I64 => (10, 0),
        DType::Bool => (11, 0),
        DType::C128 => (12, 8),
        DType::F16 | DType::BF16 => (13, 0),
        DType::U32 => (16, 0),
        DType::U64 => (17, 0),
        // `storage` gives no quantised type.
        DType::QI8 | DType::QU8 | DType::QI32 | DType::QI16 | DType::QU16 => return None,
        DType::Str | DType::Resource | DType::Variant => return None,
    })
}

fn value(proto: &[u8], dtype: DType, shape: Shape, pool: &Arc<Pool>) -> Result<Tensor> {
    let mut at = Cursor(proto);
    if dtype == DType::Str {
        let mut items = Vec::new();
        while !at.is_empty() {
            if let (8, Field::Bytes(s)) = at.field()? {
                items.push(Bytes::copy_from_slice(s));
            }
        }
        return Tensor::strings(shape, items).map_err(|e| Error::data_loss(e.message()));
    }
    let (field, width) = field_of(dtype)
        .ok_or_else(|| Error::unimplemented(format!("tensors of dtype {dtype} in checkpoints of the first version")))?;
    // Numbers of any length are cut to their size; the others have it.
    let size = if width == 0 { dtype.size().min(8) } else { width };
    let mut out = Vec::new();
    while !at.is_empty() {
        match at.field()? {
            (n, Field::Number(x)) if n == field => out.extend_from_slice(&x.to_le_bytes()[..size]),
            (n, Field::Bytes(packed)) if n == field && width == 0 => {
                let mut packed = Cursor(packed);
                while !packed.is_empty() {
                    out.extend_from_slice(&packed.varint()?.to_le_bytes()[..size]);
                }
            }
            (n, Field::Bytes(packed)) if n == field => out.extend_from_slice(packed),
            _ => {}
        }
    }
    load(dtype, shape, &Bytes::from(out), pool)
}

impl Source for First {
    fn read(&self, name: &str, entry: &Entry, piece: usize, pool: &Arc<Pool>) -> Result<Tensor> {
        let dtype = entry.dtype()?;
        let shape = match entry.windows.as_deref() {
            Some(windows) => windows.get(piece).map(Window::shape),
            None => Some(entry.shape.clone()),
        };
        let read = || {
            let key = self.parts.get(name).and_then(|k| k.get(piece));
            let (Some(key), Some(shape)) = (key, shape) else {
                return Err(Error::internal(format!("there is no part {piece}")));
            };
            let message = self
                .table
                .get(key)
                .ok_or_else(|| Error::data_loss("a part is missing"))?;
            value(data(message)?, dtype, shape, pool)
        };
        read().map_err(|e| e.context(format!("tensor {name:?}: {}", self.at)))
    }

    fn verify(&self) -> Result<()> {
        // Every byte of the table was checked when it was read.
        Ok(())
    }
}
