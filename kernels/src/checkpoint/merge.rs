//! Making one checkpoint of several: what `MergeV2Checkpoints` does after each task has saved its part.

use std::collections::BTreeMap;

use actorflow_core::error::{Error, Result};

use super::manifest::{Manifest, Record, SUFFIX};
use super::native;
use super::store::Location;
use super::writer::{Prepared, discard, shard_suffix, unique};

/// How [`merge`] goes about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct MergeOptions {
    /// Parts that do not exist are left out.
    pub allow_missing: bool,
    /// The directories of the parts are removed if nothing is left in them.
    pub delete_old_dirs: bool,
}

/// Moves the shards of the checkpoints `parts` to `target` and makes them one checkpoint there.
///
/// The parts are gone afterwards. A checkpoint that was at `target` is whole until the new one is.
///
/// # Errors
/// `INVALID_ARGUMENT` if a part is missing (or all are, with `allow_missing`), or two have a tensor of one name that
/// are not parts of one; what the store says when files are moved, and then the parts are as before; `UNIMPLEMENTED` for a part in TensorFlow's format; `DATA_LOSS` for a damaged part.
pub fn merge(parts: &[Location], target: &Location, options: MergeOptions) -> Result<()> {
    let mut found = Vec::new();
    for part in parts {
        match native::text(part)? {
            Some(text) => {
                let manifest = Manifest::of_text(&text).map_err(|e| e.context(part))?;
                found.push((part, manifest));
            }
            None if part.suffixed(".index")?.length()?.is_some() => {
                return Err(Error::unimplemented(format!(
                    "{part} is a bundle of TensorFlow, which can be read but not merged; convert it first"
                )));
            }
            None if options.allow_missing => {}
            None => {
                return Err(Error::invalid(format!(
                    "allow_missing_files was set to false and {part} did not exist"
                )));
            }
        }
    }
    if found.is_empty() {
        return Err(Error::invalid(
            "At least one prefix checkpoint file must exist, but none existed.",
        ));
    }
    let count = found.iter().map(|(_, m)| m.shards.len()).sum();
    let (mut shards, mut tensors) = (Vec::new(), BTreeMap::new());
    let (id, mut moves) = (unique(), Vec::new());
    for (part, manifest) in &found {
        let first = shards.len();
        for (name, record) in &manifest.tensors {
            let mut record = record.clone();
            for piece in &mut record.pieces {
                piece.shard += first;
            }
            add(&mut tensors, name, record).map_err(|e| e.context(format!("when merging prefix {part}")))?;
        }
        for shard in &manifest.shards {
            let to = target.suffixed(&shard_suffix(&id, shards.len(), count))?;
            moves.push((part.neighbour(&shard.file)?, to.clone()));
            let mut shard = shard.clone();
            shard.file = to.name().to_owned();
            shards.push(shard);
        }
    }
    let manifest = Manifest::new(shards, tensors);
    // Whatever is wrong with the parts shows before a file is moved.
    Manifest::of_text(manifest.to_text()?.as_bytes())?;
    for (done, (from, to)) in moves.iter().enumerate() {
        if let Err(e) = from.rename(to) {
            put_back(&moves[..done]);
            return Err(e);
        }
    }
    if let Err(e) = Prepared::new(target.clone(), manifest).publish() {
        put_back(&moves);
        return Err(e);
    }
    for (part, _) in &found {
        if part.suffixed(SUFFIX)?.to_string() != target.suffixed(SUFFIX)?.to_string() {
            discard(&[part.suffixed(SUFFIX)?]);
        }
    }
    if options.delete_old_dirs {
        for (part, _) in &found {
            // One that is not empty stays; so does the target's own.
            if part.folder() != target.folder() {
                let _ = part.remove_folder();
            }
        }
    }
    Ok(())
}

/// The parts are as they were, as far as files can be moved back.
fn put_back(moves: &[(Location, Location)]) {
    for (from, to) in moves {
        let _ = to.rename(from);
    }
}

fn add(tensors: &mut BTreeMap<String, Record>, name: &str, record: Record) -> Result<()> {
    let Some(have) = tensors.get_mut(name) else {
        tensors.insert(name.to_owned(), record);
        return Ok(());
    };
    let sliced = |r: &Record| r.pieces.iter().all(|p| p.slice.is_some());
    let shape = record.shape();
    let overlap = || {
        let windows = have.pieces.iter().map(|p| p.window(&shape));
        let mut pairs = windows.flat_map(|a| record.pieces.iter().map(move |b| (a.clone(), b)));
        pairs.any(|(a, b)| a.overlaps(&b.window(&shape)))
    };
    if !sliced(have) || !sliced(&record) {
        return Err(Error::invalid(format!("Duplicate tensor keyed by {name} encountered")));
    }
    if have.dtype != record.dtype || have.shape != record.shape {
        return Err(Error::invalid(format!(
            "the parts of tensor {name:?} differ: {} of shape {:?} and {} of shape {:?}",
            have.dtype, have.shape, record.dtype, record.shape
        )));
    }
    if overlap() {
        return Err(Error::invalid(format!("parts of tensor {name:?} overlap")));
    }
    have.pieces.extend(record.pieces);
    Ok(())
}
