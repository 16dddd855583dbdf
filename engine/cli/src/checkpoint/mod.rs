//! `actorflow checkpoint`: what is in checkpoints, whether they are whole, and TensorFlow's made into this engine's.

mod table;

use std::io::Write;
use std::path::Path;

use actorflow::checkpoint::{Location, Reader, Writer, manifest};
use actorflow::latest_checkpoint;
use actorflow::train::saver::exists;
use clap::Subcommand;

use crate::failure::Failure;

/// List, check and convert checkpoints, of this engine and of TensorFlow (V2 bundles, V1 files).
///
/// A checkpoint is named by its prefix (`out/model.ckpt-100`), by one of its files `PREFIX.manifest.json` and
/// `PREFIX.index`, or by a directory, which stands for its latest one.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List the tensors: names, dtypes, shapes, bytes
    List {
        /// The checkpoint
        checkpoint: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check every byte
    Verify {
        /// The checkpoint
        checkpoint: String,
    },
    /// Write a checkpoint of TensorFlow as one of this engine
    Convert {
        /// The checkpoint
        from: String,
        /// The prefix of the new one
        to: String,
    },
}

/// Runs the command.
///
/// # Errors
/// If there is no such checkpoint or it is damaged.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::List { checkpoint, json } => list(&named(checkpoint)?, *json),
        What::Verify { checkpoint } => {
            let reader = Reader::open(&named(checkpoint)?)?;
            reader.verify()?;
            let n = reader.entries().len();
            writeln!(std::io::stdout(), "{}: {n} tensors, no damage", reader.prefix())?;
            Ok(())
        }
        What::Convert { from, to } => convert(&named(from)?, to),
    }
}

/// The prefix that a user's name of a checkpoint stands for.
///
/// # Errors
/// If there is no such checkpoint.
pub(crate) fn named(text: &str) -> Result<String, Failure> {
    let found = prefix_of(text)?;
    found.ok_or_else(|| Failure::Failed(format!("NOT_FOUND: there is no checkpoint {text}")))
}

/// The prefix of the checkpoint that this path names, if it names one.
///
/// # Errors
/// If the state of a directory is damaged, or files cannot be read.
pub(crate) fn prefix_of(text: &str) -> Result<Option<String>, Failure> {
    for suffix in [manifest::SUFFIX, ".index"] {
        if let Some(prefix) = text.strip_suffix(suffix).filter(|p| !p.is_empty() && !p.ends_with('/'))
            && exists(prefix)?
        {
            return Ok(Some(prefix.to_owned()));
        }
    }
    if !text.contains("://") && Path::new(text).is_dir() {
        return Ok(latest_checkpoint(text)?);
    }
    match Location::of(text) {
        Ok(at) if exists(text)? || is_table(&at)? => Ok(Some(text.to_owned())),
        _ => Ok(None),
    }
}

/// Whether it is a file that ends as a table does: a checkpoint of TensorFlow's first version.
fn is_table(at: &Location) -> Result<bool, Failure> {
    const MAGIC: [u8; 8] = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];
    Ok(match at.length()? {
        Some(n) if n > 8 => at.read_range(n - 8..n)?[..] == MAGIC,
        _ => false,
    })
}

/// Prints the tensors of a checkpoint.
///
/// # Errors
/// If it is damaged.
pub(crate) fn list(prefix: &str, json: bool) -> Result<(), Failure> {
    let reader = Reader::open(prefix)?;
    let table = table::Table::of(&reader);
    let mut out = std::io::stdout().lock();
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&table)?)?,
        false => table.print(&mut out)?,
    }
    Ok(())
}

fn convert(from: &str, to: &str) -> Result<(), Failure> {
    let reader = Reader::open(from)?;
    let mut writer = Writer::new(Location::of(to)?);
    for name in reader.entries().keys() {
        writer.add(name.as_bytes(), &reader.tensor(name)?)?;
    }
    writer.finish()?;
    let n = reader.entries().len();
    writeln!(std::io::stdout(), "{from}: {n} tensors written to {to}")?;
    Ok(())
}
