//! Input: files of examples, and pipelines that turn them into batches.
//!
//! - [`Dataset`]: examples, one after the other: shuffled, in batches, repeated, shared among workers, read ahead
//! - [`EpochLedger`]: hands out each example once in an epoch, whoever asks; [`Ledger`] does so for one process
//! - [`SyncBatches`]: which examples each replica of synchronous training uses in which step, over any number of processes
//! - [`records`], [`csv`], [`idx`], [`npy`](crate::npy): files; [`shards`]: which worker reads which of them
//! - [`QueueFeeder`]: a thread that fills a queue of the graph from a data set
//!
//! The graph's own input pipelines, of readers and queues, are [`train::input`](crate::train::input)'s.
//!
//! ```
//! use actorflow::data::Dataset;
//! use actorflow::{DType, Graph, PartialShape, Session, Tensor};
//!
//! # fn main() -> actorflow::Result<()> {
//! let images = Tensor::zeros(DType::F32, [10, 64])?;
//! let labels = Tensor::vector(&[0i32, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
//! let data = Dataset::from_tensors(&[images, labels])?.shuffle(10, 42)?.batch(4, false)?.repeat(Some(2));
//!
//! let g = Graph::new();
//! let x = g.placeholder("x", DType::F32, PartialShape::new([None, Some(64)]))?;
//! let y = g.placeholder("y", DType::I32, PartialShape::vector(None))?;
//! let sum = y.sum(&[0], false)?;
//! let session = Session::new(&g)?;
//! let mut total = 0;
//! for batch in data.iter()? {
//!     let [images, labels]: [Tensor; 2] = batch?.try_into().expect("two tensors");
//!     total += session.run(&[(&x, images), (&y, labels)], &[&sum])?[0].to_scalar::<i32>()?;
//! }
//! assert_eq!(total, 2 * 45);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod batch;
pub mod csv;
mod dataset;
mod draws;
mod feed;
pub mod idx;
mod ledger;
mod prefetch;
pub mod records;
pub mod shards;
mod sync;

#[cfg(test)]
mod tests;

pub use dataset::{Dataset, Example, Examples};
pub use feed::QueueFeeder;
pub use ledger::{Assignment, EpochLedger, Ledger};
pub use sync::SyncBatches;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use actorflow_core::{Error, Result};

/// Opens a file, unpacking it if it is a gzip file.
fn opened(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let open = || {
        let mut file = BufReader::new(File::open(path)?);
        let packed = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        Ok::<Box<dyn BufRead + Send>, std::io::Error>(match packed {
            true => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))),
            false => Box::new(file),
        })
    };
    open().map_err(|e| Error::from(e).context(path.display()))
}
