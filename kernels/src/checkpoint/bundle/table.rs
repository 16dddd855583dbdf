//! The index file: a sorted string table as LevelDB defines it (`doc/table_format.md`), read whole.
//!
//! Blocks of entries whose keys share prefixes, each block with its compression and a masked CRC32C; a block that says
//! where the blocks are; a footer that says where that is.

use actorflow_core::error::{Error, Result};

use super::snappy;
use super::wire::{Cursor, little_endian, masked};

const FOOTER: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;

/// A table may take this many times the memory of its file, since keys and blocks are compressed.
const MOST_PER_BYTE: usize = 64;

/// The keys and values of a table, in order.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, Clone, Copy)]
struct Handle {
    offset: u64,
    size: u64,
}

impl Handle {
    fn read(from: &mut Cursor<'_>) -> Result<Handle> {
        Ok(Handle {
            offset: from.varint()?,
            size: from.varint()?,
        })
    }
}

/// Reads a table.
///
/// # Errors
/// `DATA_LOSS` if any byte of it is not as it was written.
pub(super) fn entries(file: &[u8]) -> Result<Entries> {
    let start = file
        .len()
        .checked_sub(FOOTER)
        .ok_or_else(|| Error::data_loss(format!("the table is cut off: it has {} bytes", file.len())))?;
    let (blocks, footer) = file.split_at(start);
    if little_endian(&footer[FOOTER - 8..]) != MAGIC {
        return Err(Error::data_loss(
            "the table is cut off or no table: its last bytes are wrong",
        ));
    }
    let mut handles = Cursor(&footer[..FOOTER - 8]);
    let meta = Handle::read(&mut handles)?;
    let index = Handle::read(&mut handles)?;
    if handles.0.iter().any(|b| *b != 0) {
        return Err(Error::data_loss("the table's footer is damaged"));
    }
    let mut room = file.len() * MOST_PER_BYTE;
    // Nothing is kept in it, but damage there is damage too.
    pairs(&block(blocks, meta)?, &mut room)?;
    let mut all: Entries = Vec::new();
    let mut end = 0;
    for (_, value) in pairs(&block(blocks, index)?, &mut room)? {
        let mut value = Cursor(&value);
        let handle = Handle::read(&mut value)?;
        // Blocks that followed each other in the writing cannot be one and the same.
        if handle.offset < end || !value.is_empty() {
            return Err(Error::data_loss("the table's index is damaged"));
        }
        let block = block(blocks, handle)?;
        end = handle.offset.saturating_add(handle.size);
        for pair in pairs(&block, &mut room)? {
            if all.last().is_some_and(|last| last.0 >= pair.0) {
                return Err(Error::data_loss("the table's keys are out of order"));
            }
            all.push(pair);
        }
    }
    Ok(all)
}

/// The contents of a block, checked and decompressed.
fn block(blocks: &[u8], at: Handle) -> Result<Vec<u8>> {
    let bad = |what: &str| Error::data_loss(format!("the block at {} of the table {what}", at.offset));
    let range = || {
        let start = usize::try_from(at.offset).ok()?;
        let size = usize::try_from(at.size).ok()?;
        Some((size, blocks.get(start..start.checked_add(size)?.checked_add(5)?)?))
    };
    let (size, bytes) = range().ok_or_else(|| bad("is outside of it"))?;
    let (data, crc) = bytes.split_at(size + 1);
    if masked(crc32c::crc32c(data)) != little_endian(crc) as u32 {
        return Err(bad("is damaged: its checksum is wrong"));
    }
    match data[size] {
        0 => Ok(data[..size].to_vec()),
        1 => snappy::decompressed(&data[..size]).map_err(|e| bad(e.message())),
        other => Err(Error::unimplemented(format!("a table's block has compression {other}"))),
    }
}

/// The entries of a block; `room` bounds the memory that they may take.
fn pairs(block: &[u8], room: &mut usize) -> Result<Entries> {
    let bad = |what: &str| Error::data_loss(format!("a block of the table is damaged: {what}"));
    let tail = block.len().checked_sub(4).ok_or_else(|| bad("it is too short"))?;
    let restarts = usize::try_from(little_endian(&block[tail..])).ok();
    let end = restarts
        .and_then(|n| n.checked_mul(4))
        .and_then(|n| tail.checked_sub(n))
        .ok_or_else(|| bad("it has no room for its restarts"))?;
    let mut at = Cursor(&block[..end]);
    let mut out: Entries = Vec::new();
    let mut key: Vec<u8> = Vec::new();
    while !at.is_empty() {
        let shared = at.varint()?;
        let (own, size) = (at.varint()?, at.varint()?);
        let shared = usize::try_from(shared).ok().filter(|s| *s <= key.len());
        key.truncate(shared.ok_or_else(|| bad("a key shares more than there is"))?);
        key.extend_from_slice(at.take(own)?);
        let value = at.take(size)?;
        *room = (key.len() + value.len())
            .checked_add(64)
            .and_then(|used| room.checked_sub(used))
            .ok_or_else(|| bad("its keys are larger than a table can be"))?;
        out.push((key.clone(), value.to_vec()));
    }
    Ok(out)
}
