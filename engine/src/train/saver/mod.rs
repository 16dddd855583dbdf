//! Saving the variables of a session, and restoring them: TensorFlow's `tf.train.Saver`.
//!
//! A [`Saver`] adds nodes to a graph; [`Saver::save`] and [`Saver::restore`] run them. It deletes old checkpoints and keeps
//! the file [`checkpoint`](state) of the directory, from which [`latest_checkpoint`] tells where to go on.
//!
//! ```
//! use actorflow::{Graph, GraphVariables, Session, Tensor};
//! use actorflow::train::saver::{Saver, SaverOptions, latest_checkpoint};
//!
//! # fn main() -> actorflow::Result<()> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().to_str().unwrap_or(".");
//! let g = Graph::new();
//! let w = g.variable("w", Tensor::from([1f32, 2.0]))?;
//! let saver = Saver::new(&g, SaverOptions::default())?;
//!
//! let session = Session::new(&g)?;
//! session.execute(&[&g.global_variables_initializer()?])?;
//! let path = saver.save(&session, &format!("{dir}/model.ckpt"), Some(100))?;
//! assert!(path.ends_with("model.ckpt-100"));
//!
//! let another = Session::new(&g)?;
//! saver.restore(&another, &latest_checkpoint(dir)?.unwrap_or_default())?;
//! assert_eq!(another.run(&[], &[w.value()])?[0], Tensor::from([1f32, 2.0]));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod nodes;
pub(crate) mod slices;
pub mod state;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::{Graph, Operation, Output, Tensor};
use actorflow_kernels::checkpoint::store::without_climbing;
use actorflow_kernels::checkpoint::{Location, Reader, remove};
use parking_lot::Mutex;

use self::nodes::Nodes;
pub use self::nodes::SavedVariable;
use self::state::CheckpointState;
use super::variable::GraphVariables;
use crate::session::Session;

/// How a [`Saver`] is set up.
#[derive(Debug, Clone)]
pub struct SaverOptions {
    /// What is saved; by default the graph's variables (without local ones) under their own names, and the parts of
    /// [partitioned](super::partitioned) ones as parts of one tensor. Of a graph that was imported, and whose variables
    /// are in no collection, it is every variable.
    pub variables: Option<Vec<SavedVariable>>,
    /// How many of the latest checkpoints are kept; 0 keeps all.
    pub max_to_keep: usize,
    /// Beyond those, one checkpoint for every so many hours is kept.
    pub keep_checkpoint_every_n_hours: f64,
    /// Whether each device saves its variables in files of its own.
    pub sharded: bool,
}

impl Default for SaverOptions {
    /// TensorFlow's: all variables, the latest five checkpoints, in one part.
    fn default() -> Self {
        SaverOptions {
            variables: None,
            max_to_keep: 5,
            keep_checkpoint_every_n_hours: 10_000.0,
            sharded: false,
        }
    }
}

/// A checkpoint that may be deleted one day.
#[derive(Debug, Clone)]
struct Kept {
    path: String,
    saved: SystemTime,
}

#[derive(Debug)]
struct History {
    kept: Vec<Kept>,
    /// A checkpoint saved after this time is kept for good.
    next_to_keep: Option<SystemTime>,
}

/// Saves the variables of sessions of a graph, and restores them.
///
/// It can be shared between threads; two of its savings to one directory keep the directory's state consistent.
pub struct Saver {
    nodes: Nodes,
    variables: Vec<SavedVariable>,
    names: Vec<String>,
    options: SaverOptions,
    history: Mutex<History>,
    /// One saving at a time: shards of devices pass through one directory.
    saving: Mutex<()>,
}

impl Saver {
    /// Adds the nodes that save and restore to the graph.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is nothing to save or restore, a name is there twice (but for parts of one tensor), or something
    /// else than a variable is to be saved.
    pub fn new(graph: &Graph, options: SaverOptions) -> Result<Saver> {
        let variables = match &options.variables {
            Some(v) => v.clone(),
            None => all_variables(graph)?,
        };
        if variables.is_empty() {
            return Err(Error::invalid(
                "there is nothing to save or restore: the graph has no variables, or the list of variables is empty",
            ));
        }
        let mut seen = HashSet::new();
        for v in &variables {
            if !seen.insert((&v.name, &v.slice)) {
                return Err(Error::invalid(format!(
                    "at least two variables have the name {:?}",
                    v.name
                )));
            }
        }
        Ok(Saver {
            nodes: nodes::build(graph, &variables, options.sharded)?,
            names: variables.iter().map(|v| v.name.clone()).collect(),
            variables,
            history: Mutex::new(History {
                kept: Vec::new(),
                next_to_keep: later(SystemTime::now(), options.keep_checkpoint_every_n_hours),
            }),
            options,
            saving: Mutex::new(()),
        })
    }

    /// The scalar string that takes the prefix of a checkpoint; `save/Const` unless that name was taken.
    pub fn filename(&self) -> &Output {
        &self.nodes.filename
    }

    /// The operation that saves.
    pub fn save_op(&self) -> &Operation {
        &self.nodes.save
    }

    /// The operation that restores.
    pub fn restore_op(&self) -> &Operation {
        &self.nodes.restore
    }

    /// The names in the checkpoint.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Saves the variables of a session as the checkpoint `prefix` or `prefix-step`, whose name it gives.
    ///
    /// The checkpoint appears as a whole. Then the state of its directory names it as the latest, then checkpoints that
    /// are too many are deleted.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` if a variable is not initialised; what the file system says.
    pub fn save(&self, session: &Session, prefix: &str, global_step: Option<i64>) -> Result<String> {
        let mut path = without_climbing(prefix)?;
        if let Some(step) = global_step {
            path.push_str(&format!("-{step}"));
        }
        // Also says whether it can be a checkpoint's name at all.
        let at = Location::of(&path)?;
        let _alone = self.saving.lock();
        let run = session.runner().feed(&self.nodes.filename, Tensor::from(&path[..]));
        run.target(&self.nodes.save).run()?;
        let mut history = self.history.lock();
        history.kept.retain(|k| k.path != path);
        history.kept.push(Kept {
            path: path.clone(),
            saved: SystemTime::now(),
        });
        let gone = self.outdated(&mut history);
        let kept = match self.options.max_to_keep {
            0 => vec![path.clone()],
            _ => history.kept.iter().map(|k| k.path.clone()).collect(),
        };
        // What is to be deleted is named until it is gone, so that a program that goes on after a crash finds it.
        let mut state = CheckpointState {
            latest: Some(path.clone()),
            all: gone.iter().chain(&kept).cloned().collect(),
        };
        state.write(at.folder())?;
        if !gone.is_empty() {
            for old in gone {
                remove(&Location::of(&old)?)?;
            }
            state.all = kept;
            state.write(at.folder())?;
        }
        Ok(path)
    }

    /// Takes the checkpoints that are too many out of the history and gives those to delete.
    fn outdated(&self, history: &mut History) -> Vec<String> {
        let mut gone = Vec::new();
        while self.options.max_to_keep > 0 && history.kept.len() > self.options.max_to_keep {
            let old = history.kept.remove(0);
            match history.next_to_keep {
                Some(next) if old.saved > next => {
                    history.next_to_keep = later(next, self.options.keep_checkpoint_every_n_hours);
                }
                _ => gone.push(old.path),
            }
        }
        if self.options.max_to_keep == 0 {
            history.kept.clear();
        }
        gone
    }

    /// Sets the variables of a session to what the checkpoint has, of this engine's format or TensorFlow's.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is no such checkpoint or it lacks a variable; `INVALID_ARGUMENT` if a dtype or shape is
    /// another one, naming the checkpoint and the variable; `DATA_LOSS` naming file and tensor if it is damaged. Then some variables may have been set.
    pub fn restore(&self, session: &Session, prefix: &str) -> Result<()> {
        let path = without_climbing(prefix)?;
        let run = session.runner().feed(&self.nodes.filename, Tensor::from(path.as_str()));
        let done = run.target(&self.nodes.restore).run().map(drop);
        done.map_err(|e| match e.code() {
            Code::InvalidArgument => self.misfit(&path).map_or(e, Error::invalid),
            _ => e,
        })
    }

    /// The first variable that has another dtype or shape in the checkpoint, if this process can read it.
    fn misfit(&self, path: &str) -> Option<String> {
        let reader = Reader::open(path).ok()?;
        // Parts are compared with their whole by the operation that restores.
        let mut whole = self.variables.iter().filter(|v| v.slice.is_empty());
        whole.find_map(|v| {
            let (saved, dtype) = (reader.entries().get(&v.name)?, v.dtype().ok()?);
            let fits = saved.dtype().is_ok_and(|d| d == dtype) && v.shape().accepts(&saved.shape);
            (!fits).then(|| {
                format!(
                    "{path} is of another model: {} is {}{} there, but {dtype}{} in this graph; restore a checkpoint of this \
                     model, or build the graph that it was saved from",
                    v.name,
                    saved.dtype_name(),
                    saved.shape,
                    v.shape()
                )
            })
        })
    }

    /// Takes over the checkpoints of a directory, so that a program that goes on after a crash deletes the old ones.
    ///
    /// # Errors
    /// `DATA_LOSS` if the directory's state is damaged.
    pub fn recover(&self, dir: &str) -> Result<()> {
        let Some(state) = CheckpointState::read(dir)? else {
            return Ok(());
        };
        let mut kept = Vec::new();
        for path in state.all {
            if exists(&path)? {
                kept.push(Kept {
                    path,
                    saved: SystemTime::now(),
                });
            }
        }
        self.history.lock().kept = kept;
        Ok(())
    }

    /// The checkpoints that it has saved and not deleted, the oldest first.
    pub fn last_checkpoints(&self) -> Vec<String> {
        self.history.lock().kept.iter().map(|k| k.path.clone()).collect()
    }
}

fn all_variables(graph: &Graph) -> Result<Vec<SavedVariable>> {
    let known = graph.variables()?;
    if !known.is_empty() {
        let parts = slices::registered(graph)?;
        let saved = known.iter().map(|v| match parts.get(&v.name()) {
            Some(part) => SavedVariable::new(part.whole.clone(), v.handle()).slice(part.spec.clone()),
            None => SavedVariable::new(v.name(), v.handle()),
        });
        return Ok(saved.collect());
    }
    let nodes = graph.nodes();
    let variables = nodes
        .iter()
        .filter(|n| matches!(n.op_name(), "VarHandleOp" | "VariableV2" | "Variable"));
    variables
        .map(|n| Ok(SavedVariable::new(n.name(), &graph.output(n.name())?)))
        .collect()
}

/// So many hours later; `None` if that is never.
fn later(from: SystemTime, hours: f64) -> Option<SystemTime> {
    let seconds = hours * 3600.0;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|d| from.checked_add(d))
}

/// Whether there is a checkpoint of that prefix, of either format.
///
/// # Errors
/// What the file system says, and `INVALID_ARGUMENT` for a prefix that can be none.
pub fn exists(prefix: &str) -> Result<bool> {
    Location::of(prefix)?.is_checkpoint()
}

/// The prefix of the latest checkpoint of a directory, if there is one.
///
/// It is what the file `checkpoint` names; if that is not there any more, the latest one that is.
///
/// # Errors
/// `DATA_LOSS` if that file is damaged.
pub fn latest_checkpoint(dir: &str) -> Result<Option<String>> {
    let Some(state) = CheckpointState::read(dir)? else {
        return Ok(None);
    };
    for path in state.latest.iter().chain(state.all.iter().rev()) {
        if exists(path)? {
            return Ok(Some(path.clone()));
        }
    }
    Ok(None)
}

/// The names, dtypes and shapes of a checkpoint of either format, sorted by name.
///
/// # Errors
/// As [`Reader::open`].
pub fn list_variables(prefix: &str) -> Result<Vec<(String, String, Vec<usize>)>> {
    let reader = Reader::open(prefix)?;
    let of = |(name, e): (&String, &crate::checkpoint::Entry)| (name.clone(), e.dtype_name(), e.shape.dims().to_vec());
    Ok(reader.entries().iter().map(of).collect())
}

/// Sixteen hexadecimal digits that nobody else has.
fn unique() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    hasher.write_u128(now.map_or(0, |d| d.as_nanos()));
    format!("{:016x}", hasher.finish())
}
