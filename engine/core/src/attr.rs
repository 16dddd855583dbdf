//! Attributes of nodes.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::PartialShape;
use crate::tensor::Tensor;

/// A value of an attribute, TensorFlow's `AttrValue`.
#[derive(Debug, Clone, PartialEq)]
pub enum AttrValue {
    /// `string`
    Str(Bytes),
    /// `int`
    Int(i64),
    /// `float`
    Float(f32),
    /// `bool`
    Bool(bool),
    /// `type`
    Type(DType),
    /// `shape`
    Shape(PartialShape),
    /// `tensor`
    Tensor(Tensor),
    /// `func`: the name of a function of the graph's library, and its attributes
    Func(String, Attrs),
    /// A list of any of the above.
    List(Vec<AttrValue>),
}

impl AttrValue {
    /// The kind as op definitions name it: `int`, `list(type)`.
    pub fn kind(&self) -> &'static str {
        match self {
            AttrValue::Str(_) => "string",
            AttrValue::Int(_) => "int",
            AttrValue::Float(_) => "float",
            AttrValue::Bool(_) => "bool",
            AttrValue::Type(_) => "type",
            AttrValue::Shape(_) => "shape",
            AttrValue::Tensor(_) => "tensor",
            AttrValue::Func(..) => "func",
            AttrValue::List(_) => "list",
        }
    }
}

impl fmt::Display for AttrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttrValue::Str(s) => write!(f, "{:?}", String::from_utf8_lossy(s)),
            AttrValue::Int(i) => write!(f, "{i}"),
            AttrValue::Float(x) => write!(f, "{x}"),
            AttrValue::Bool(b) => write!(f, "{b}"),
            AttrValue::Type(t) => write!(f, "{t}"),
            AttrValue::Shape(s) => write!(f, "{s}"),
            AttrValue::Tensor(t) => write!(f, "{t:?}"),
            AttrValue::Func(n, _) => write!(f, "func {n}"),
            AttrValue::List(l) => {
                f.write_str("[")?;
                for (i, v) in l.iter().enumerate() {
                    write!(f, "{}{v}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
        }
    }
}

macro_rules! from {
    ($($t:ty => |$x:ident| $e:expr;)*) => {
        $(impl From<$t> for AttrValue {
            fn from($x: $t) -> Self {
                $e
            }
        })*
    };
}

from! {
    bool => |x| AttrValue::Bool(x);
    i64 => |x| AttrValue::Int(x);
    i32 => |x| AttrValue::Int(i64::from(x));
    usize => |x| AttrValue::Int(i64::try_from(x).unwrap_or(i64::MAX));
    f32 => |x| AttrValue::Float(x);
    &str => |x| AttrValue::Str(Bytes::copy_from_slice(x.as_bytes()));
    String => |x| AttrValue::Str(Bytes::from(x));
    Bytes => |x| AttrValue::Str(x);
    DType => |x| AttrValue::Type(x);
    PartialShape => |x| AttrValue::Shape(x);
    Tensor => |x| AttrValue::Tensor(x);
}

impl<T: Into<AttrValue>> From<Vec<T>> for AttrValue {
    fn from(x: Vec<T>) -> Self {
        AttrValue::List(x.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<AttrValue> + Clone> From<&[T]> for AttrValue {
    fn from(x: &[T]) -> Self {
        AttrValue::List(x.iter().cloned().map(Into::into).collect())
    }
}

impl<T: Into<AttrValue>, const N: usize> From<[T; N]> for AttrValue {
    fn from(x: [T; N]) -> Self {
        AttrValue::List(x.into_iter().map(Into::into).collect())
    }
}

/// The attributes of a node, by name, in sorted order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Attrs(BTreeMap<String, AttrValue>);

impl Attrs {
    /// No attributes.
    pub const fn new() -> Self {
        Attrs(BTreeMap::new())
    }

    /// Sets one.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<AttrValue>) {
        self.0.insert(name.into(), value.into());
    }

    /// One of them, if it is set.
    pub fn get(&self, name: &str) -> Option<&AttrValue> {
        self.0.get(name)
    }

    /// Removes one.
    pub fn remove(&mut self, name: &str) -> Option<AttrValue> {
        self.0.remove(name)
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AttrValue)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn typed<'a, T>(&'a self, name: &str, want: &str, f: impl FnOnce(&'a AttrValue) -> Option<T>) -> Result<T> {
        let v = self
            .get(name)
            .ok_or_else(|| Error::invalid(format!("attribute {name:?} is not set")))?;
        f(v).ok_or_else(|| Error::invalid(format!("attribute {name:?} is a {}, not a {want}", v.kind())))
    }

    /// A list of values of one kind. (An empty list fits every kind.)
    fn list<'a, T>(&'a self, name: &str, want: &str, f: impl Fn(&'a AttrValue) -> Option<T>) -> Result<Vec<T>> {
        self.typed(name, want, |v| match v {
            AttrValue::List(l) => l.iter().map(&f).collect(),
            _ => None,
        })
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $one:ident $many:ident $t:ty, $kind:literal, $pat:pat => $e:expr;)*) => {
        /// Typed access. Each fails with `INVALID_ARGUMENT` naming the attribute if it is not set or of another kind.
        impl Attrs {
            $(
            $(#[$doc])*
            pub fn $one(&self, name: &str) -> Result<$t> {
                self.typed(name, $kind, |v| match v { $pat => $e, _ => None })
            }
            #[doc = concat!("A list of `", $kind, "`.")]
            ///
            /// # Errors
            /// `INVALID_ARGUMENT` if it is not set or of another kind.
            pub fn $many(&self, name: &str) -> Result<Vec<$t>> {
                self.list(name, concat!("list(", $kind, ")"), |v| match v { $pat => $e, _ => None })
            }
            )*
        }
    };
}

getters! {
    /// An `int`.
    int ints i64, "int", AttrValue::Int(x) => Some(*x);
    /// A `float`.
    float floats f32, "float", AttrValue::Float(x) => Some(*x);
    /// A `bool`.
    bool bools bool, "bool", AttrValue::Bool(x) => Some(*x);
    /// A `type`.
    dtype dtypes DType, "type", AttrValue::Type(x) => Some(*x);
    /// A `shape`.
    shape shapes &PartialShape, "shape", AttrValue::Shape(x) => Some(x);
    /// A `tensor`.
    tensor tensors &Tensor, "tensor", AttrValue::Tensor(x) => Some(x);
    /// A `string` that is text.
    str strs &str, "string", AttrValue::Str(x) => std::str::from_utf8(x).ok();
    /// A `string` of any bytes.
    byte_string byte_strings &Bytes, "string", AttrValue::Str(x) => Some(x);
    /// A `func`.
    func funcs (&str, &Attrs), "func", AttrValue::Func(n, a) => Some((n.as_str(), a));
}

impl<K: Into<String>> FromIterator<(K, AttrValue)> for Attrs {
    fn from_iter<I: IntoIterator<Item = (K, AttrValue)>>(iter: I) -> Self {
        Attrs(iter.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_access_names_the_attribute() {
        let mut a = Attrs::new();
        a.set("N", 3i64);
        a.set("axes", vec![1i64, 2]);
        assert_eq!(a.int("N").unwrap(), 3);
        assert_eq!(a.ints("axes").unwrap(), [1, 2]);
        assert_eq!(
            a.float("N").unwrap_err().message(),
            "attribute \"N\" is a int, not a float"
        );
        assert_eq!(a.bool("M").unwrap_err().message(), "attribute \"M\" is not set");
    }
}
