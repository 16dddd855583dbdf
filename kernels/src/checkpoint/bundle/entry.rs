//! The messages of a bundle's index: `tensorflow/core/protobuf/tensor_bundle.proto`.

use actorflow_core::Shape;
use actorflow_core::error::{Error, Result};
use actorflow_core::shape::MAX_RANK;

use super::key::Extents;
use super::wire::{Cursor, Field};
use crate::checkpoint::slice::Window;

/// `BundleHeaderProto`.
#[derive(Debug)]
pub(super) struct Header {
    /// The number of data files.
    pub(super) shards: u32,
}

impl Header {
    pub(super) fn of(message: &[u8]) -> Result<Header> {
        let mut at = Cursor(message);
        let (mut shards, mut endianness, mut least_consumer) = (0, 0, 0);
        while !at.is_empty() {
            match at.field()? {
                (1, Field::Number(n)) => shards = n,
                (2, Field::Number(n)) => endianness = n,
                (3, Field::Bytes(version)) => {
                    let mut version = Cursor(version);
                    while !version.is_empty() {
                        if let (2, Field::Number(n)) = version.field()? {
                            least_consumer = n;
                        }
                    }
                }
                _ => {}
            }
        }
        if endianness != 0 {
            return Err(Error::unimplemented("the bundle was written by a big-endian machine"));
        }
        if least_consumer > 1 {
            return Err(Error::unimplemented(format!(
                "the bundle needs a reader of version {least_consumer}, this one has version 1"
            )));
        }
        let shards = u32::try_from(shards)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::data_loss(format!("the header says that there are {shards} data files")))?;
        Ok(Header { shards })
    }
}

/// `BundleEntryProto`.
#[derive(Debug, Clone, Default)]
pub(super) struct Proto {
    pub(super) dtype: i32,
    pub(super) shape: Vec<usize>,
    pub(super) shard: u32,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) crc32c: u32,
    pub(super) slices: Vec<Extents>,
}

impl Proto {
    pub(super) fn of(message: &[u8]) -> Result<Proto> {
        let mut at = Cursor(message);
        let mut out = Proto::default();
        let negative = |what: &str| Error::data_loss(format!("its {what} is negative"));
        let natural = |n: u64, what: &str| {
            if n > i64::MAX as u64 {
                Err(negative(what))
            } else {
                Ok(n)
            }
        };
        while !at.is_empty() {
            match at.field()? {
                (1, Field::Number(n)) => out.dtype = i32::try_from(n).map_err(|_| negative("dtype"))?,
                (2, Field::Bytes(shape)) => out.shape = dims(shape)?,
                (3, Field::Number(n)) => out.shard = u32::try_from(n).map_err(|_| negative("shard"))?,
                (4, Field::Number(n)) => out.offset = natural(n, "offset")?,
                (5, Field::Number(n)) => out.size = natural(n, "size")?,
                (6, Field::Number(n)) => out.crc32c = n as u32,
                (7, Field::Bytes(slice)) => out.slices.push(extents(slice)?),
                _ => {}
            }
        }
        Ok(out)
    }
}

/// `TensorShapeProto`: dimensions (2) with a size (1); of unknown rank (3) no saved tensor is.
pub(super) fn dims(message: &[u8]) -> Result<Vec<usize>> {
    let mut at = Cursor(message);
    let mut out = Vec::new();
    while !at.is_empty() {
        let (2, Field::Bytes(dim)) = at.field()? else {
            return Err(Error::data_loss("its shape is none"));
        };
        let mut dim = Cursor(dim);
        let mut size = 0;
        while !dim.is_empty() {
            if let (1, Field::Number(n)) = dim.field()? {
                size = n;
            }
        }
        let size = usize::try_from(size).ok().filter(|n| *n <= i64::MAX as usize);
        out.push(size.ok_or_else(|| Error::data_loss("a dimension is negative"))?);
        if out.len() > MAX_RANK {
            return Err(Error::data_loss("it has too many dimensions"));
        }
    }
    Ok(out)
}

/// `TensorSliceProto`: an extent (1) for each dimension, with a start (1) and, unless it is all, a length (2).
pub(super) fn extents(message: &[u8]) -> Result<Extents> {
    let mut at = Cursor(message);
    let mut out = Vec::new();
    while !at.is_empty() {
        let (1, Field::Bytes(extent)) = at.field()? else {
            continue;
        };
        let mut extent = Cursor(extent);
        let (mut start, mut length) = (0, -1);
        while !extent.is_empty() {
            match extent.field()? {
                (1, Field::Number(n)) => start = n as i64,
                (2, Field::Number(n)) => length = n as i64,
                _ => {}
            }
        }
        out.push((start, length));
        if out.len() > MAX_RANK {
            return Err(Error::data_loss("a part has too many dimensions"));
        }
    }
    Ok(out)
}

/// Where a part is.
pub(super) fn window(extents: &Extents, shape: &Shape) -> Result<Window> {
    let mut window = Window::whole(shape);
    if extents.len() != shape.rank() {
        return Err(Error::data_loss("a part has another rank"));
    }
    for (d, (start, length)) in extents.iter().enumerate() {
        if *length >= 0 {
            let natural = |n: &i64| usize::try_from(*n).map_err(|_| Error::data_loss("a part starts before 0"));
            (window.start[d], window.length[d]) = (natural(start)?, natural(length)?);
        }
    }
    match window.is_inside(shape) {
        true => Ok(window),
        false => Err(Error::data_loss("a part is not inside of the whole")),
    }
}
