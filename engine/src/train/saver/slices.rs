//! Which variables are parts of tensors that are saved as one.

use std::collections::HashMap;

use actorflow_core::{Error, Graph, Result};

/// The collection of parts. An item is the variable's name, the whole's name, and the part in TensorFlow's notation,
/// separated by semicolons, which none of them contains.
const SAVE_SLICES: &str = "save_slices";

/// A part of a tensor that is saved under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The name of the whole.
    pub(crate) whole: String,
    /// Its shape and where the part is: `10 20 0,5:-`.
    pub(crate) spec: String,
}

/// Notes that a variable is a part.
pub(crate) fn register(graph: &Graph, variable: &str, slice: &Slice) {
    graph.add_to_collection(SAVE_SLICES, [variable, &slice.whole, &slice.spec].join(";"));
}

/// The parts, by the names of their variables.
///
/// # Errors
/// `INVALID_ARGUMENT` for a malformed item of the collection.
pub(crate) fn registered(graph: &Graph) -> Result<HashMap<String, Slice>> {
    let one = |item: &String| match item.split(';').collect::<Vec<_>>()[..] {
        [variable, whole, spec] => Ok((
            variable.to_owned(),
            Slice {
                whole: whole.to_owned(),
                spec: spec.to_owned(),
            },
        )),
        _ => Err(Error::invalid(format!(
            "the collection {SAVE_SLICES:?} has the malformed item {item:?}"
        ))),
    };
    graph.collection(SAVE_SLICES).iter().map(one).collect()
}

/// Notes that a slot is the same part of a slot of the whole as the variable that it belongs to. It is so if its name
/// begins with the variable's.
///
/// # Errors
/// As [`registered`].
pub(crate) fn follow(graph: &Graph, slot: &str, variable: &str) -> Result<()> {
    let Some(rest) = slot.strip_prefix(variable).filter(|r| r.starts_with('/')) else {
        return Ok(());
    };
    if let Some(part) = registered(graph)?.get(variable) {
        let whole = format!("{}{rest}", part.whole);
        let spec = part.spec.clone();
        register(graph, slot, &Slice { whole, spec });
    }
    Ok(())
}
