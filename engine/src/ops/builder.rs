//! The node in the making behind every function of [`ops`](crate::ops).

use std::panic::Location;

use actorflow_core::graph::OpBuilder;

use crate::{AttrValue, Error, Graph, Operation, Output, Result};

/// A node in the making of an operation without optional attributes, and what the builders of all others are made of.
///
/// Nothing is added to the graph before [`output`](Self::output), [`outputs`](Self::outputs) or [`operation`](Self::operation).
#[must_use = "call output(), outputs() or operation() to add the node"]
pub struct Builder(std::result::Result<OpBuilder, Error>);

/// What the functions of operations do with it.
impl Builder {
    /// A node of `op` in `graph`.
    #[track_caller]
    pub(super) fn new(op: &'static str, graph: &Graph) -> Self {
        Builder(Ok(graph.op(op)))
    }

    /// A node of `op` in the graph of the first tensor of `lists`, all of its inputs. The definition wants a tensor at least;
    /// without one the error waits for the node to be added.
    #[track_caller]
    pub(super) fn of_lists(op: &'static str, lists: &[&[Output]]) -> Self {
        match lists.iter().find_map(|list| list.first()) {
            Some(x) => Self::new(op, x.graph()),
            None => {
                let e = Error::invalid(format!(
                    "{op} needs at least one tensor in its lists of inputs, got none"
                ));
                Builder(Err(e.at_node(op, op).built_at(Location::caller())))
            }
        }
    }

    /// The next input.
    pub(super) fn input(self, x: &Output) -> Self {
        Builder(self.0.map(|b| b.input(x)))
    }

    /// The next input, a list.
    pub(super) fn list(self, xs: &[Output]) -> Self {
        Builder(self.0.map(|b| b.input_list(xs)))
    }

    /// Sets an attribute of the definition.
    pub(super) fn set(self, name: &str, value: AttrValue) -> Self {
        Builder(self.0.map(|b| b.attr(name, value)))
    }
}

impl Builder {
    /// The node's name, inside the open name scopes; the operation's name by default. Made unique by a number.
    /// A name that ends in `/` is the whole name, without the scopes and without a number.
    pub fn name(self, name: &str) -> Self {
        Builder(self.0.map(|b| b.name(name)))
    }

    /// The device to ask for, in addition to what the open device scopes say; its parts win.
    pub fn device(self, device: &str) -> Self {
        Builder(self.0.map(|b| b.device(device)))
    }

    /// The node is placed on the device of the node of that name, whatever the open device scopes say.
    pub fn colocate_with(self, node: &str) -> Self {
        Builder(self.0.map(|b| b.colocate_with(node)))
    }

    /// The node starts only after `op` has finished.
    pub fn control_input(self, op: &Operation) -> Self {
        Builder(self.0.map(|b| b.control_input(op)))
    }

    /// Sets an attribute by its name in the definition: one that begins with an underscore, which every node may have, or
    /// a string that is no text.
    pub fn attr(self, name: &str, value: impl Into<AttrValue>) -> Self {
        self.set(name, value.into())
    }

    /// Adds the node and gives its only (or first) output.
    ///
    /// # Errors
    /// As [`operation`](Self::operation); `NOT_FOUND` if the node has no output.
    pub fn output(self) -> Result<Output> {
        self.operation()?.output(0)
    }

    /// Adds the node and gives all of its outputs, in the order of the definition.
    ///
    /// # Errors
    /// As [`operation`](Self::operation).
    pub fn outputs(self) -> Result<Vec<Output>> {
        Ok(self.operation()?.outputs())
    }

    /// Checks the node against the definition, infers attributes, dtypes and shapes, and adds it.
    ///
    /// # Errors
    /// Naming the node, the operation and the line that called its function: `INVALID_ARGUMENT` for dtypes, shapes and
    /// attributes that the operation does not take, for lists of inputs that are all empty where one has to have a tensor,
    /// and for inputs or control inputs of another graph.
    pub fn operation(self) -> Result<Operation> {
        self.0?.finish()
    }
}

/// The builder of an operation with optional attributes: what [`Builder`] has, and a method for each of them, which the
/// generated code adds.
macro_rules! typed_builder {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use = "call output(), outputs() or operation() to add the node"]
        pub struct $name($crate::ops::Builder);

        impl $name {
            /// The node's name, as [`Builder::name`](crate::ops::Builder::name).
            #[inline]
            pub fn name(self, name: &str) -> Self {
                Self(self.0.name(name))
            }

            /// The device to ask for, as [`Builder::device`](crate::ops::Builder::device).
            #[inline]
            pub fn device(self, device: &str) -> Self {
                Self(self.0.device(device))
            }

            /// Ties the node to the device of another one, as [`Builder::colocate_with`](crate::ops::Builder::colocate_with).
            #[inline]
            pub fn colocate_with(self, node: &str) -> Self {
                Self(self.0.colocate_with(node))
            }

            /// Lets the node start after `op`, as [`Builder::control_input`](crate::ops::Builder::control_input).
            #[inline]
            pub fn control_input(self, op: &$crate::Operation) -> Self {
                Self(self.0.control_input(op))
            }

            /// Sets an attribute by name, as [`Builder::attr`](crate::ops::Builder::attr).
            #[inline]
            pub fn attr(self, name: &str, value: impl Into<$crate::AttrValue>) -> Self {
                Self(self.0.attr(name, value))
            }

            /// Adds the node and gives its first output.
            ///
            /// # Errors
            /// As [`Builder::output`](crate::ops::Builder::output).
            #[inline]
            pub fn output(self) -> $crate::Result<$crate::Output> {
                self.0.output()
            }

            /// Adds the node and gives all of its outputs.
            ///
            /// # Errors
            /// As [`Builder::operation`](crate::ops::Builder::operation).
            #[inline]
            pub fn outputs(self) -> $crate::Result<Vec<$crate::Output>> {
                self.0.outputs()
            }

            /// Adds the node.
            ///
            /// # Errors
            /// As [`Builder::operation`](crate::ops::Builder::operation).
            #[inline]
            pub fn operation(self) -> $crate::Result<$crate::Operation> {
                self.0.operation()
            }
        }
    };
}

pub(super) use typed_builder;
