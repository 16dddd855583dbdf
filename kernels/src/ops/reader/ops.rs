//! `TextLineReader`, `WholeFileReader`, `TFRecordReader`, `FixedLengthRecordReader`, `IdentityReader` and what reads
//! from them, with their `V2` forms.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::source::{Compression, Format};
use super::state::{Progress, Reader, Request};
use crate::ops::queue::handle::{Handle, Place};
use crate::ops::queue::room::{At, Desk, first_input, submit};
use crate::ops::queue::state::Queue;
use crate::shapes;

fn bytes_attr(init: &KernelInit<'_>, name: &str) -> Result<u64> {
    let n = init.attrs.int(name)?;
    u64::try_from(n).map_err(|_| Error::invalid(format!("{name} must be >= 0, got {n}")))
}

fn format(init: &KernelInit<'_>) -> Result<Format> {
    Ok(match init.op.strip_suffix("V2").unwrap_or(init.op) {
        "TextLineReader" => Format::Lines {
            skip: usize::try_from(bytes_attr(init, "skip_header_lines")?).unwrap_or(usize::MAX),
        },
        "WholeFileReader" => Format::Whole,
        "TFRecordReader" => Format::Records(Compression::of(init.attrs.str("compression_type")?)?),
        "FixedLengthRecordReader" => {
            let record = bytes_attr(init, "record_bytes")?;
            if record == 0 {
                return Err(Error::invalid("record_bytes must be > 0, got 0"));
            }
            let encoding = match init.attrs.get("encoding") {
                Some(_) => init.attrs.str("encoding")?,
                None => "",
            };
            if encoding == "GZIP" {
                return Err(Error::invalid("encoding must be \"\" or \"ZLIB\""));
            }
            Format::Fixed {
                header: bytes_attr(init, "header_bytes")?,
                record,
                footer: bytes_attr(init, "footer_bytes")?,
                hop: match bytes_attr(init, "hop_bytes")? {
                    0 => record,
                    n => n,
                },
                compression: Compression::of(encoding)?,
            }
        }
        _ => Format::Name,
    })
}

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let format = format(init)?;
    let wanted = format.clone();
    let files = init.resources.files().clone();
    Ok(Box::new(Handle::new(
        Place::of(init)?,
        move |name, mailbox| Ok(Reader::desk(name, format.clone(), files.clone(), mailbox)),
        move |desk: &Desk<Reader>| match **desk.info() == wanted {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "Shared reader '{}' exists as {:?}, but the node asks for {wanted:?}",
                desk.name(),
                desk.info()
            ))),
        },
    )))
}

fn reader(name: &'static str) -> OpDef {
    let base = name.strip_suffix("V2");
    let (doc, attrs): (&str, &[&str]) = match base.unwrap_or(name) {
        "TextLineReader" => ("Reads files line by line.", &["skip_header_lines: int = 0"]),
        "WholeFileReader" => ("Reads a file at a time.", &[]),
        "TFRecordReader" => (
            "Reads files of records with checksums, as TensorFlow writes them.",
            &["compression_type: string = ''"],
        ),
        "FixedLengthRecordReader" => (
            "Reads files of records of one length.",
            &[
                "header_bytes: int = 0",
                "record_bytes: int",
                "footer_bytes: int = 0",
                "hop_bytes: int = 0",
            ],
        ),
        _ => ("Reads nothing: a record is the name of the work.", &[]),
    };
    let mut def = OpDef::new(name, Category::Io).doc(doc).output(match base {
        Some(_) => "reader_handle: resource",
        None => "reader_handle: Ref(string)",
    });
    for a in attrs {
        def = def.attr(a);
    }
    if name == "FixedLengthRecordReaderV2" {
        def = def.attr("encoding: string = ''");
    }
    def.attr("container: string = ''")
        .attr("shared_name: string = ''")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(make)
}

fn readers() -> Vec<OpDef> {
    [
        "TextLineReader",
        "TextLineReaderV2",
        "WholeFileReader",
        "WholeFileReaderV2",
        "TFRecordReader",
        "TFRecordReaderV2",
        "FixedLengthRecordReader",
        "FixedLengthRecordReaderV2",
        "IdentityReader",
        "IdentityReaderV2",
    ]
    .map(reader)
    .into()
}

/// Reads from the reader behind input 0 with work from the queue behind input 1.
fn read(cx: &mut OpContext<'_>, desk: &Arc<Desk<Reader>>, most: Option<usize>) -> Result<()> {
    let queue = cx.resource::<Desk<Queue>>(1)?;
    queue.info().check_types(queue.name(), &[DType::Str])?;
    let step = (cx.step().step_id, cx.step().cancel.clone());
    submit(cx, desk, Request::new(queue, most, step))
}

fn read_one(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::waits(first_input::<Reader>, |cx, desk| {
        read(cx, desk, None)
    })))
}

fn read_up_to(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::waits(first_input::<Reader>, |cx, desk| {
        let n = cx.input(2)?.to_i64()?;
        match usize::try_from(n) {
            Ok(n) if n > 0 => read(cx, desk, Some(n)),
            _ => Err(Error::invalid(format!("num_records must be positive, got {n}"))),
        }
    })))
}

fn count(of: fn(&Progress) -> i64) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(first_input::<Reader>, move |cx, desk| {
        let n = of(cx.state(desk.actor())?.counter.progress());
        cx.set_output(0, Tensor::scalar(n));
        Ok(())
    })))
}

fn produced(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    count(|p| p.produced)
}

fn completed(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    count(|p| p.finished)
}

fn reset(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(first_input::<Reader>, |cx, desk| {
        cx.state(desk.actor())?.counter.reset();
        Ok(())
    })))
}

fn serialize(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(first_input::<Reader>, |cx, desk| {
        let state = cx.state(desk.actor())?.counter.saved()?;
        cx.set_output(0, Tensor::string(state));
        Ok(())
    })))
}

fn restore(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(first_input::<Reader>, |cx, desk| {
        let state = match cx.input(1)?.as_strings()? {
            [s] => s.clone(),
            _ => return Err(Error::invalid("Reader state must be scalar")),
        };
        cx.state(desk.actor())?.counter.restore(&state)
    })))
}

/// Both versions of an operation on readers.
fn both(name: [&'static str; 2], doc: &'static str, kernel: KernelFn, rest: fn(OpDef, bool) -> OpDef) -> [OpDef; 2] {
    name.map(|name| {
        let v2 = name.ends_with("V2");
        let def = OpDef::new(name, Category::Io)
            .doc(doc)
            .input(if v2 {
                "reader_handle: resource"
            } else {
                "reader_handle: Ref(string)"
            })
            .stateful()
            .not_differentiable()
            .shape(shapes::none)
            .cpu(kernel);
        rest(def, v2)
    })
}

fn queue_input(def: OpDef, v2: bool) -> OpDef {
    def.input(if v2 {
        "queue_handle: resource"
    } else {
        "queue_handle: Ref(string)"
    })
}

fn on_readers() -> Vec<OpDef> {
    [
        both(
            ["ReaderRead", "ReaderReadV2"],
            "The next record and its key; takes work from the queue when there is none, and waits for it.",
            read_one,
            |d, v2| {
                queue_input(d, v2)
                    .output("key: string")
                    .output("value: string")
                    .shape(shapes::scalar)
            },
        ),
        both(
            ["ReaderReadUpTo", "ReaderReadUpToV2"],
            "The next records and their keys, at most `num_records`, fewer at the end of a file.",
            read_up_to,
            |d, v2| {
                queue_input(d, v2)
                    .input("num_records: int64")
                    .output("keys: string")
                    .output("values: string")
                    .shape(|_| Ok(vec![PartialShape::vector(None); 2]))
            },
        ),
        both(
            ["ReaderNumRecordsProduced", "ReaderNumRecordsProducedV2"],
            "How many records the reader has given.",
            produced,
            |d, _| d.output("records_produced: int64").shape(shapes::scalar),
        ),
        both(
            ["ReaderNumWorkUnitsCompleted", "ReaderNumWorkUnitsCompletedV2"],
            "How many files the reader has read to the end.",
            completed,
            |d, _| d.output("units_completed: int64").shape(shapes::scalar),
        ),
        both(
            ["ReaderReset", "ReaderResetV2"],
            "Sets the reader back to where it was when it was made.",
            reset,
            |d, _| d,
        ),
        both(
            ["ReaderSerializeState", "ReaderSerializeStateV2"],
            "The reader's progress as bytes.",
            serialize,
            |d, _| d.output("state: string").shape(shapes::scalar),
        ),
        both(
            ["ReaderRestoreState", "ReaderRestoreStateV2"],
            "Sets the reader to progress that was saved.",
            restore,
            |d, _| d.input("state: string"),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

register_ops!(all readers);
register_ops!(all on_readers);
