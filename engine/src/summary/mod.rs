//! Summaries for TensorBoard: operations that make them, and the event files that hold them.
//!
//! - [`scalar`], [`histogram`], [`image`]: operations whose values are `Summary` messages, in the graph's collection
//! - [`merge_all`]: all of these as one
//! - [`EventWriter`]: a file that TensorBoard opens; [`read_events`] reads one back
//!
//! ```
//! use actorflow::{Graph, Session, summary};
//!
//! # fn main() -> actorflow::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! let g = Graph::new();
//! let loss = g.constant(0.25f32)?;
//! summary::scalar("loss", &loss)?;
//! let all = summary::merge_all(&g)?.expect("there is a summary");
//!
//! let session = Session::new(&g)?;
//! let writer = summary::EventWriter::create(dir.path())?;
//! writer.add_graph(&g)?;
//! writer.add_summary(&session.run(&[], &[&all])?[0], 1)?;
//! writer.flush()?;
//! assert_eq!(summary::read_events(writer.path())?.len(), 3);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod writer;

#[cfg(test)]
mod tests;

pub use writer::{EventWriter, read_events};

use actorflow_core::graph::{OpBuilder, keys};
use actorflow_core::{DType, Error, Graph, Output, Result, Tensor};

/// Adds a summary operation with a tag that is the name in the open name scopes.
fn tagged(name: &str, of: &Output, op: &str, set: impl FnOnce(OpBuilder) -> OpBuilder) -> Result<Output> {
    if name.is_empty() {
        return Err(Error::invalid(
            "a summary needs a name, under which TensorBoard shows it",
        ));
    }
    let g = of.graph();
    let _scope = g.name_scope(name);
    let tag = Tensor::string(g.current_name_scope().trim_end_matches('/').to_owned());
    let tag = g.op("Const").attr("dtype", DType::Str).attr("value", tag);
    let tag = tag.name("tag").output()?;
    let summary = set(g.op(op).input(&tag).input(of)).name(op).output()?;
    g.add_to_collection(keys::SUMMARIES, summary.name());
    Ok(summary)
}

/// A summary of a number, a point of a curve. `TensorFlow: tf.summary.scalar`.
///
/// # Errors
/// `INVALID_ARGUMENT` for an empty name; unless `x` is a scalar of a real dtype.
#[track_caller]
pub fn scalar(name: &str, x: &Output) -> Result<Output> {
    tagged(name, x, "ScalarSummary", |b| b)
}

/// A summary of how often values occur. `TensorFlow: tf.summary.histogram`.
///
/// # Errors
/// `INVALID_ARGUMENT` for an empty name; unless the values are real numbers.
#[track_caller]
pub fn histogram(name: &str, values: &Output) -> Result<Output> {
    tagged(name, values, "HistogramSummary", |b| b)
}

/// A summary of up to `most` images of a batch `[n, height, width, channels]`. `TensorFlow: tf.summary.image`.
///
/// # Errors
/// `INVALID_ARGUMENT` for an empty name; unless it is such a batch of 1, 3 or 4 channels.
#[track_caller]
pub fn image(name: &str, batch: &Output, most: i64) -> Result<Output> {
    // Red, for pixels that are no numbers, as TensorFlow has it.
    let bad = Tensor::vector(&[255u8, 0, 0, 255]);
    tagged(name, batch, "ImageSummary", |b| {
        b.attr("max_images", most).attr("bad_color", bad)
    })
}

/// All summaries of the graph's collection as one; `None` if there are none. `TensorFlow: tf.summary.merge_all`.
///
/// # Errors
/// `NOT_FOUND` if the collection names something that is not in the graph.
#[track_caller]
pub fn merge_all(graph: &Graph) -> Result<Option<Output>> {
    let all = graph.collection_outputs(keys::SUMMARIES)?;
    if all.is_empty() {
        return Ok(None);
    }
    let merged = graph.op("MergeSummary").input_list(&all).name("Merge/MergeSummary");
    merged.output().map(Some)
}
