//! Small node messages, and attributes read from messages.

#![forbid(unsafe_code)]

use super::super::proto::attr_value::{ListValue, Value};
use super::super::proto::{AttrValue, NameAttrList, NodeDef};
use actorflow_core::{Error, Result};

/// A node in the making.
pub(super) struct Make(NodeDef);

pub(super) fn value(v: Value) -> AttrValue {
    AttrValue { value: Some(v) }
}

impl Make {
    /// A node `prefix/name`.
    pub(super) fn new(prefix: &str, name: &str, op: &str) -> Make {
        Make::named(&format!("{prefix}/{name}"), op)
    }

    /// A node of exactly this name.
    pub(super) fn named(name: &str, op: &str) -> Make {
        Make(NodeDef {
            name: name.to_owned(),
            op: op.to_owned(),
            ..Default::default()
        })
    }

    pub(super) fn input(mut self, x: &str) -> Make {
        self.0.input.push(x.to_owned());
        self
    }

    /// A control input, if there is one to add.
    pub(super) fn wait(mut self, node: Option<&str>) -> Make {
        if let Some(n) = node {
            let text = format!("^{n}");
            if !self.0.input.contains(&text) {
                self.0.input.push(text);
            }
        }
        self
    }

    pub(super) fn waits<'n>(self, nodes: impl IntoIterator<Item = &'n String>) -> Make {
        nodes.into_iter().fold(self, |m, n| m.wait(Some(n)))
    }

    pub(super) fn attr(mut self, name: &str, v: Value) -> Make {
        self.0.attr.insert(name.to_owned(), value(v));
        self
    }

    pub(super) fn dtype(self, name: &str, t: i32) -> Make {
        self.attr(name, Value::Type(t))
    }

    pub(super) fn dtypes(self, name: &str, t: &[i32]) -> Make {
        let list = ListValue {
            r#type: t.to_vec(),
            ..Default::default()
        };
        self.attr(name, Value::List(Box::new(list)))
    }

    pub(super) fn int(self, name: &str, i: usize) -> Make {
        self.attr(name, Value::I(i64::try_from(i).unwrap_or(i64::MAX)))
    }

    /// On the device of the call.
    pub(super) fn on(mut self, call: &NodeDef) -> NodeDef {
        self.0.device = call.device.clone();
        self.0
    }

    pub(super) fn done(self) -> NodeDef {
        self.0
    }
}

/// The dtype of a value where a reference of that dtype is written.
pub(super) fn base_type(t: i32) -> i32 {
    const REFERENCE: i32 = 100;
    if t > REFERENCE { t - REFERENCE } else { t }
}

fn get<'n>(node: &'n NodeDef, name: &str) -> Option<&'n Value> {
    node.attr.get(name).and_then(|a| a.value.as_ref())
}

fn wrong(name: &str, kind: &str) -> Error {
    Error::invalid(format!("attribute {name:?} must be a {kind}"))
}

/// The function that an attribute names.
pub(super) fn func<'n>(node: &'n NodeDef, name: &str) -> Result<&'n NameAttrList> {
    match get(node, name) {
        Some(Value::Func(f)) => Ok(f),
        _ => Err(wrong(name, "function")),
    }
}

/// The functions that an attribute names.
pub(super) fn funcs<'n>(node: &'n NodeDef, name: &str) -> Result<&'n [NameAttrList]> {
    match get(node, name) {
        Some(Value::List(l)) => Ok(&l.func),
        _ => Err(wrong(name, "list of functions")),
    }
}

/// The dtypes that a list names; none if it is not set.
pub(super) fn types(node: &NodeDef, name: &str) -> Result<Vec<i32>> {
    match get(node, name) {
        Some(Value::List(l)) => Ok(l.r#type.iter().map(|t| base_type(*t)).collect()),
        None => Ok(Vec::new()),
        Some(_) => Err(wrong(name, "list of types")),
    }
}

/// A dtype.
pub(super) fn dtype(node: &NodeDef, name: &str) -> Result<i32> {
    match get(node, name) {
        Some(Value::Type(t)) => Ok(base_type(*t)),
        _ => Err(wrong(name, "type")),
    }
}

/// An integer, or its default if it is not set.
pub(super) fn int(node: &NodeDef, name: &str, default: i64) -> Result<i64> {
    match get(node, name) {
        Some(Value::I(i)) => Ok(*i),
        None => Ok(default),
        Some(_) => Err(wrong(name, "number")),
    }
}
