//! Event files: records that are `Event` messages.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use actorflow_core::{Error, Graph, Result, Tensor};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use crate::data::records::{Compression, RecordReader, RecordWriter};
use crate::graphdef::export_graph;
use crate::graphdef::proto::event::What;
use crate::graphdef::proto::session_log::SessionStatus;
use crate::graphdef::proto::summary::{Value, value};
use crate::graphdef::proto::{Event, SessionLog, Summary};

/// What the first record says of the file.
const VERSION: &str = "brain.Event:2";
/// How many names are tried before it is an error that all of them are taken.
const NAMES: u32 = 10_000;

/// Writes an event file, from any number of threads.
///
/// What was added is in the file after [`flush`](Self::flush), and when the writer is dropped.
/// `TensorFlow: tf.summary.FileWriter`.
pub struct EventWriter {
    path: PathBuf,
    records: Mutex<RecordWriter>,
}

fn now() -> f64 {
    // A clock before 1970 is as good as none.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |d| d.as_secs_f64())
}

/// The machine's name, as TensorFlow puts it into the names of event files.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fit = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = name.trim().chars().filter(fit).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

impl EventWriter {
    /// Creates a new file `events.out.tfevents.TIME.HOST.PID.N` in a directory, which is created too, and writes the
    /// file's version.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn create(dir: impl AsRef<Path>) -> Result<EventWriter> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(|e| Error::from(e).context(dir.display()))?;
        let (file, path) = fresh(dir)?;
        let writer = EventWriter {
            records: Mutex::new(RecordWriter::on(file, &path, Compression::None)),
            path,
        };
        writer.add(0, What::FileVersion(VERSION.to_owned()))?;
        writer.flush()?;
        Ok(writer)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn add(&self, step: i64, what: What) -> Result<()> {
        self.add_event(&Event {
            wall_time: now(),
            step,
            source_metadata: None,
            what: Some(what),
        })
    }

    /// Adds an event as it is.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn add_event(&self, event: &Event) -> Result<()> {
        self.records.lock().write(&event.encode_to_vec())
    }

    /// Adds the values of a step: what a summary operation gives, a scalar string.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless it is a serialized `Summary`; what the file system says.
    pub fn add_summary(&self, summary: &Tensor, step: i64) -> Result<()> {
        let [bytes] = summary.as_strings()? else {
            return Err(Error::invalid(format!(
                "a summary is one string, not a tensor of shape {}",
                summary.shape()
            )));
        };
        let summary = Summary::decode(bytes.clone())
            .map_err(|e| Error::invalid(format!("the string is no serialized Summary: {e}")))?;
        self.add(step, What::Summary(summary))
    }

    /// Adds a number under a tag.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn add_scalar(&self, tag: &str, x: f32, step: i64) -> Result<()> {
        let value = Value {
            tag: tag.to_owned(),
            value: Some(value::Value::SimpleValue(x)),
            ..Value::default()
        };
        self.add(step, What::Summary(Summary { value: vec![value] }))
    }

    /// Adds the graph, for TensorBoard's picture of it.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` naming a node with an attribute that has no file form; what the file system says.
    pub fn add_graph(&self, graph: &Graph) -> Result<()> {
        let def: Bytes = export_graph(graph)?;
        self.add(0, What::GraphDef(def))
    }

    /// Adds that a checkpoint was saved.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn add_checkpoint(&self, path: &str, step: i64) -> Result<()> {
        let log = SessionLog {
            status: SessionStatus::Checkpoint.into(),
            checkpoint_path: path.to_owned(),
            msg: String::new(),
        };
        self.add(step, What::SessionLog(log))
    }

    /// Hands everything added so far to the operating system.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn flush(&self) -> Result<()> {
        self.records.lock().flush()
    }
}

/// A file that was not there before.
fn fresh(dir: &Path) -> Result<(File, PathBuf)> {
    let (seconds, host, process) = (now() as u64, host(), std::process::id());
    for n in 0..NAMES {
        let path = dir.join(format!("events.out.tfevents.{seconds:010}.{host}.{process}.{n}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::from(e).context(path.display())),
        }
    }
    Err(Error::already_exists(format!(
        "{} has {NAMES} event files of this second and process already",
        dir.display()
    )))
}

/// The events of a file, in order.
///
/// # Errors
/// `DATA_LOSS` naming file and offset for a torn or changed record, or a record that is no `Event`; what the file system
/// says.
pub fn read_events(path: impl AsRef<Path>) -> Result<Vec<Event>> {
    let path = path.as_ref();
    let event = |record: Result<Bytes>| {
        Event::decode(record?)
            .map_err(|e| Error::data_loss(format!("{} has a record that is no Event: {e}", path.display())))
    };
    RecordReader::open(path, Compression::None)?.map(event).collect()
}
