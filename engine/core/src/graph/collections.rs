//! Collections: named lists of nodes and outputs that parts of a program use to find each other.

use super::{Graph, Output};
use crate::error::Result;

/// The standard collections, named as in TensorFlow.
pub mod keys {
    /// All variables.
    pub const VARIABLES: &str = "variables";
    /// The variables that optimizers train by default.
    pub const TRAINABLE_VARIABLES: &str = "trainable_variables";
    /// Variables that are not saved with the model.
    pub const LOCAL_VARIABLES: &str = "local_variables";
    /// Operations that initialise variables.
    pub const INITIALIZERS: &str = "initializers";
    /// Scalar losses.
    pub const LOSSES: &str = "losses";
    /// Regularisation losses.
    pub const REGULARIZATION_LOSSES: &str = "regularization_losses";
    /// Operations to run with each training step (batch-norm statistics).
    pub const UPDATE_OPS: &str = "update_ops";
    /// The global step variable.
    pub const GLOBAL_STEP: &str = "global_step";
    /// Table initialisers.
    pub const TABLE_INITIALIZERS: &str = "table_initializer";
    /// Queue runners.
    pub const QUEUE_RUNNERS: &str = "queue_runners";
    /// Summaries.
    pub const SUMMARIES: &str = "summaries";
    /// What saves and restores variables.
    pub const SAVERS: &str = "savers";
}

impl Graph {
    /// Adds an item, the name of a node or of an output, to a collection.
    pub fn add_to_collection(&self, key: &str, item: impl Into<String>) {
        self.write(|d| d.collections.entry(key.to_owned()).or_default().push(item.into()));
    }

    /// The items of a collection in the order in which they were added.
    pub fn collection(&self, key: &str) -> Vec<String> {
        self.read(|d| d.collections.get(key).cloned().unwrap_or_default())
    }

    /// The outputs that a collection names.
    ///
    /// # Errors
    /// `NOT_FOUND` if an item is no node or output.
    pub fn collection_outputs(&self, key: &str) -> Result<Vec<Output>> {
        self.collection(key).iter().map(|n| self.output(n)).collect()
    }

    /// The names of all collections.
    pub fn collection_keys(&self) -> Vec<String> {
        self.read(|d| d.collections.keys().cloned().collect())
    }
}
