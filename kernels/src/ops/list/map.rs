//! Maps from tensors to tensors: immutable values of dtype `variant`, as lists are.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::tensor::Variant;
use actorflow_core::{DType, Tensor};
use bytes::Bytes;

use super::value::{DEPTH, depth_of};

/// What two keys have in common that are the same: dtype, shape and contents. Floating-point numbers are compared by
/// their bits, as in TensorFlow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    dtype: &'static str,
    dims: Vec<usize>,
    dense: Vec<u8>,
    strings: Vec<Bytes>,
}

impl Key {
    /// The key that a tensor is.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for variants and handles of resources, which have no contents to compare.
    pub fn of(t: &Tensor) -> Result<Key> {
        let (dense, strings) = match (t.dtype(), t.bytes()) {
            (DType::Str, _) => (Vec::new(), t.as_strings()?.to_vec()),
            (_, Some(b)) => (b.to_vec(), Vec::new()),
            (dtype, None) => {
                return Err(Error::invalid(format!(
                    "a {dtype} tensor cannot be the key of a map; use one of numbers, booleans or strings"
                )));
            }
        };
        Ok(Key {
            dtype: t.dtype().name(),
            dims: t.shape().to_vec(),
            dense,
            strings,
        })
    }
}

/// A map from tensors to tensors of any dtypes and shapes; keys are in the order of their dtypes, shapes and bytes.
#[derive(Clone, Debug, Default)]
pub struct TensorMap {
    /// How deep lists and maps are nested in the values.
    depth: usize,
    items: BTreeMap<Key, (Tensor, Tensor)>,
}

impl TensorMap {
    /// The number of keys.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How deep lists and maps are nested in the values.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// The value of a key.
    pub fn get(&self, key: &Key) -> Option<&Tensor> {
        self.items.get(key).map(|(_, value)| value)
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Tensor> {
        self.items.values().map(|(key, _)| key)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the key cannot be one, or lists and maps are nested too deeply.
    pub fn insert(&mut self, key: Tensor, value: Tensor) -> Result<()> {
        self.depth = self.depth.max(depth_of(&value)?);
        if self.depth > DEPTH {
            return Err(Error::invalid("maps are nested too deeply"));
        }
        self.items.insert(Key::of(&key)?, (key, value));
        Ok(())
    }

    /// Removes a key; false if there was none.
    pub fn remove(&mut self, key: &Key) -> bool {
        self.items.remove(key).is_some()
    }

    /// A map of the keys of either; the values of a key of both are added.
    ///
    /// # Errors
    /// What `add` returns.
    pub fn plus(&self, other: &TensorMap, mut add: impl FnMut(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let mut out = self.clone();
        out.depth = out.depth.max(other.depth);
        for (key, (tensor, value)) in &other.items {
            let sum = match self.get(key) {
                Some(own) => add(own, value)?,
                None => value.clone(),
            };
            out.items.insert(key.clone(), (tensor.clone(), sum));
        }
        Ok(out)
    }

    /// The map as a tensor.
    ///
    /// # Errors
    /// Never.
    pub fn into_tensor(self) -> Result<Tensor> {
        Tensor::variants([], vec![Arc::new(self) as Variant])
    }
}

/// Input `i` of a kernel, a map.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub fn map<'a>(cx: &'a OpContext<'_>, i: usize) -> Result<&'a TensorMap> {
    let t = cx.input(i)?;
    match t.as_variants()? {
        [v] if t.shape().is_scalar() => v
            .downcast_ref()
            .ok_or_else(|| Error::invalid("the input handle is not a map of tensors; make one with EmptyTensorMap")),
        _ => Err(Error::invalid(format!(
            "the input map must be a scalar, saw shape {}",
            t.shape()
        ))),
    }
}

/// Input `i` of a kernel, a map that may be changed: it is copied if somebody else has it too.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub fn take(cx: &mut OpContext<'_>, i: usize) -> Result<TensorMap> {
    map(cx, i)?;
    let mut items = cx.take_input(i)?.into_variants()?;
    let v = items.pop().ok_or_else(|| Error::internal("a scalar has an element"))?;
    let map = v
        .downcast::<TensorMap>()
        .map_err(|_| Error::internal("the variant was a map"))?;
    Ok(Arc::unwrap_or_clone(map))
}
