//! The tensors of a checkpoint as a table.

use std::io::Write;

use actorflow::checkpoint::{Format, Reader};
use serde::Serialize;

/// What is printed of a checkpoint.
#[derive(Serialize)]
pub(super) struct Table {
    checkpoint: String,
    format: &'static str,
    bytes: u64,
    tensors: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
    /// The parts in which it is saved, each as `start,length` for every dimension; empty if it is saved whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slices: Vec<String>,
}

impl Table {
    pub(super) fn of(reader: &Reader) -> Table {
        let rows = reader.entries().iter().map(|(name, e)| Row {
            name: name.clone(),
            dtype: e.dtype_name(),
            shape: e.shape.dims().to_vec(),
            bytes: e.bytes,
            slices: e.windows.iter().flatten().map(ToString::to_string).collect(),
        });
        let tensors: Vec<Row> = rows.collect();
        Table {
            checkpoint: reader.prefix(),
            format: match reader.format() {
                Format::Actorflow => "actorflow",
                Format::TensorFlow => "tensorflow-v2",
                Format::TensorFlowV1 => "tensorflow-v1",
            },
            bytes: tensors.iter().map(|t| t.bytes).fold(0, u64::saturating_add),
            tensors,
        }
    }

    pub(super) fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "{}: {} tensors, {} bytes, format {}",
            self.checkpoint,
            self.tensors.len(),
            self.bytes,
            self.format
        )?;
        let shape = |r: &Row| {
            let dims: Vec<String> = r.shape.iter().map(ToString::to_string).collect();
            format!("[{}]", dims.join(","))
        };
        // A name may hold anything; what is not printable must not reach a terminal.
        let rows: Vec<[String; 4]> = self
            .tensors
            .iter()
            .map(|r| {
                [
                    r.name.escape_debug().to_string(),
                    r.dtype.clone(),
                    shape(r),
                    r.bytes.to_string(),
                ]
            })
            .collect();
        let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
        let [a, b, c, d] = [0, 1, 2, 3].map(width);
        for ([name, dtype, shape, bytes], t) in rows.iter().zip(&self.tensors) {
            let parts = match t.slices.len() {
                0 => String::new(),
                n => format!("  in {n} parts"),
            };
            writeln!(out, "  {name:a$}  {dtype:b$}  {shape:c$}  {bytes:>d$}{parts}")?;
        }
        Ok(())
    }
}
