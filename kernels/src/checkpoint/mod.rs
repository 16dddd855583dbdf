//! Checkpoints: tensors by name in files, written whole or not at all.
//!
//! A checkpoint has a *prefix*, a path like `out/model.ckpt-1200`. [`Writer`] makes beside one another
//!
//! - shards, `PREFIX.ID-00000-of-00001.safetensors`: the tensors' bytes, in a format that other programs read; a shard
//!   is never overwritten, since `ID` is new each time
//! - the [`manifest`], `PREFIX.manifest.json`, written last: what is where, with the CRC32C of every tensor and shard
//!
//! so that a crash at any moment leaves the old checkpoint or the new one. [`Reader`] checks all that it reads; what is
//! cut off, changed or contradictory is `DATA_LOSS` naming file and tensor. It also reads TensorFlow's own formats, the
//! V2 [`bundle`] and the files of the first version.
//!
//! Files are reached through `object_store` (see [`store`]): local ones, and with the features `s3` and `gs` those of
//! clouds. Names inside of checkpoints never become paths, but for shards' plain names in the manifest's directory.
#![forbid(unsafe_code)]

pub mod bundle;
mod encode;
pub mod manifest;
mod merge;
mod native;
pub mod reader;
pub mod slice;
pub mod store;
pub mod writer;

#[cfg(test)]
mod tests;

pub use merge::{MergeOptions, merge};
pub use reader::{Entry, Format, Kind, Reader, with_reader};
pub use slice::{SliceSpec, Window};
pub use store::Location;
pub use writer::{Writer, remove};
