//! A target for a fuzzer that makes files itself, guided by coverage (`fuzz/`).

use std::sync::{Mutex, PoisonError};

use actorflow::Error;

use super::damage;
use super::dice::Dice;
use super::targets::Target;

/// A target whose files are inputs of a fuzzer. An input of a graph is the graph; of a folder's file it is that file behind a
/// byte that says which one.
pub struct Guided {
    target: Target,
    /// A file takes its place in the folder while it is read.
    reading: Mutex<()>,
}

impl Guided {
    /// The target of one of the [`NAMES`](super::targets::NAMES).
    pub fn new(name: &str) -> Guided {
        Guided {
            target: Target::new(name),
            reading: Mutex::new(()),
        }
    }

    /// The target.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The input that means a file in the place of file `at`.
    ///
    /// # Panics
    /// If `at` is beyond 255.
    pub fn input(&self, at: usize, bytes: Vec<u8>) -> Vec<u8> {
        match self.target {
            Target::Graph { .. } => bytes,
            Target::Folder { .. } => {
                let mut input = vec![u8::try_from(at).expect("a folder of at most 256 files")];
                input.extend(bytes);
                input
            }
        }
    }

    /// The inputs to begin from.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        let files = (0..self.target.count()).map(|at| self.input(at, self.target.whole(at)));
        files.collect()
    }

    /// Reads an input; the error that it gives. An input that names no file is nothing to read.
    ///
    /// # Panics
    /// As [`Target::run`].
    pub fn read(&self, input: &[u8]) -> Option<Error> {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        match (&self.target, input) {
            (Target::Graph { .. }, graph) => self.target.run(0, graph.to_vec()),
            (Target::Folder { files, .. }, [at, bytes @ ..]) if usize::from(*at) < files.len() => {
                self.target.run(usize::from(*at), bytes.to_vec())
            }
            (Target::Folder { .. }, _) => None,
        }
    }

    /// Changes what the graph in the first `size` bytes of the buffer says, as follows from the seed: its new size. `None`, and
    /// the buffer as it was, if there is no graph or the changed one does not fit.
    pub fn change(&self, buffer: &mut [u8], size: usize, seed: u32) -> Option<usize> {
        let Target::Graph { ops, .. } = &self.target else {
            return None;
        };
        let changed = damage::graph(buffer.get(..size)?, ops, &mut Dice::new(u64::from(seed)))?;
        buffer.get_mut(..changed.len())?.copy_from_slice(&changed);
        Some(changed.len())
    }
}
