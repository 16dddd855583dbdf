//! Lookup tables: the state and what it answers.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::actor::{Actor, Claimable, Mailbox};
use actorflow_core::error::{Error, Result};
use actorflow_core::resource::Resource;
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, PartialShape, Shape, Tensor};
use bytes::Bytes;
use smallvec::SmallVec;

use super::batch::stack;

/// What kind of table it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Filled once, by an initialiser.
    Constant,
    /// Entries come and go.
    Mutable,
}

/// What never changes about a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The kind.
    pub kind: Kind,
    /// The dtype of the keys.
    pub key: DType,
    /// The dtype of the values.
    pub value: DType,
    /// The shape of a key; a scalar but in dense tables.
    pub key_shape: Shape,
    /// The shape of a value.
    pub value_shape: Shape,
    /// Keys that no entry may have: a dense table's empty and deleted key.
    pub forbidden: Vec<Tensor>,
}

/// The bytes of a key.
type Key = SmallVec<[u8; 16]>;

/// The entries; each with the order in which it came, so that exports are reproducible.
#[derive(Default)]
pub struct Entries {
    map: HashMap<Key, (u64, Tensor)>,
    next: u64,
    initialized: bool,
}

/// A table actor.
pub struct Table {
    name: String,
    spec: Spec,
    actor: Actor<Entries>,
}

impl Claimable for Table {
    fn mailbox(&self) -> &dyn Mailbox {
        self.actor.mailbox()
    }
}

impl Resource for Table {
    fn kind(&self) -> &'static str {
        "table"
    }
}

/// The keys of a tensor whose shape ends with that of a key.
fn keys_of(spec: &Spec, t: &Tensor) -> Result<Vec<Key>> {
    let each = spec.key_shape.count();
    match t.dtype() {
        DType::Str => Ok(t.as_strings()?.iter().map(|s| Key::from_slice(s)).collect()),
        _ => {
            let bytes = t
                .bytes()
                .ok_or_else(|| Error::invalid(format!("{} is no key", t.dtype())))?;
            let size = (each * t.dtype().size()).max(1);
            Ok(bytes.chunks(size).map(Key::from_slice).collect())
        }
    }
}

impl Table {
    /// An empty table.
    pub fn new(name: &str, spec: Spec, mailbox: Box<dyn Mailbox>) -> Self {
        Table {
            name: name.to_owned(),
            spec,
            actor: Actor::new(mailbox, Entries::default()),
        }
    }

    /// The name, as messages give it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What never changes.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The actor with the entries.
    pub fn actor(&self) -> &Actor<Entries> {
        &self.actor
    }

    /// Fails unless the tensors have the table's dtypes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming them.
    pub fn check_types(&self, key: DType, value: Option<DType>) -> Result<()> {
        if key == self.spec.key && value.is_none_or(|v| v == self.spec.value) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "table {} maps {} to {}, the operation works on {key} and {value:?}",
            self.name, self.spec.key, self.spec.value
        )))
    }

    /// The dimensions of `keys` before those of a key.
    fn outer(&self, keys: &Tensor) -> Result<Shape> {
        let (have, want) = (keys.shape().dims(), self.spec.key_shape.dims());
        match have.len().checked_sub(want.len()) {
            Some(n) if have[n..] == *want => Ok(Shape::new(&have[..n])),
            _ => Err(Error::invalid(format!(
                "keys of table {} must end with shape {}, got {}",
                self.name,
                self.spec.key_shape,
                keys.shape()
            ))),
        }
    }

    fn allowed(&self, keys: &[Key]) -> Result<()> {
        for (t, what) in self.spec.forbidden.iter().zip(["empty_key", "deleted_key"]) {
            if keys_of(&self.spec, t)?.iter().any(|k| keys.contains(k)) {
                return Err(Error::invalid(format!(
                    "Using the {what} as a table key is not allowed (table {})",
                    self.name
                )));
            }
        }
        Ok(())
    }

    /// The values of keys.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` before a constant table was initialised; `INVALID_ARGUMENT` for shapes that do not fit.
    pub fn find(&self, entries: &Entries, keys: &Tensor, default: &Tensor, pool: &Arc<Pool>) -> Result<Tensor> {
        self.check_types(keys.dtype(), Some(default.dtype()))?;
        if self.spec.kind == Kind::Constant && !entries.initialized {
            return Err(Error::failed_precondition(format!(
                "Table {} not initialized: run the graph's table initializers first",
                self.name
            )));
        }
        let outer = self.outer(keys)?;
        let found = keys_of(&self.spec, keys)?;
        self.allowed(&found)?;
        let shape: Shape = outer.iter().chain(self.spec.value_shape.iter()).copied().collect();
        // One default for all keys, or one for each.
        let flat = default.len().checked_div(self.spec.value_shape.count().max(1));
        let each = *default.shape() == shape && !outer.is_scalar();
        let default_row = |i: usize| -> Result<Tensor> {
            let rows = default
                .clone()
                .reshape([&[flat.unwrap_or(0)], self.spec.value_shape.dims()].concat())?;
            let i = if each { i } else { 0 };
            rows.slice_rows(i, i + 1)?.reshape(self.spec.value_shape.clone())
        };
        if !each && *default.shape() != self.spec.value_shape {
            return Err(Error::invalid(format!(
                "default_value of table {} must have shape {} or {shape}, got {}",
                self.name,
                self.spec.value_shape,
                default.shape()
            )));
        }
        let rows = found.iter().enumerate().map(|(i, k)| match entries.map.get(k) {
            Some((_, v)) => Ok(v.clone()),
            None => default_row(i),
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let t = self.stack(self.spec.value, &self.spec.value_shape, &rows, pool)?;
        t.reshape(shape)
    }

    fn stack(&self, dtype: DType, shape: &Shape, rows: &[Tensor], pool: &Arc<Pool>) -> Result<Tensor> {
        stack(
            pool,
            dtype,
            &PartialShape::from(shape),
            &rows.iter().collect::<Vec<_>>(),
        )
    }

    /// The keys and their values, as rows.
    fn pairs(&self, keys: &Tensor, values: &Tensor) -> Result<Vec<(Key, Tensor)>> {
        self.check_types(keys.dtype(), Some(values.dtype()))?;
        let outer = self.outer(keys)?;
        let shape: Shape = outer.iter().chain(self.spec.value_shape.iter()).copied().collect();
        if shape != *values.shape() {
            return Err(Error::invalid(format!(
                "values for {} keys of table {} must have shape {shape}, got {}",
                keys.shape(),
                self.name,
                values.shape()
            )));
        }
        let keys = keys_of(&self.spec, keys)?;
        self.allowed(&keys)?;
        let rows = values
            .clone()
            .reshape([&[outer.count()], self.spec.value_shape.dims()].concat())?;
        let row = |i: usize| -> Result<Tensor> {
            let r = rows.slice_rows(i, i + 1)?.reshape(self.spec.value_shape.clone())?;
            // A share of the whole batch would keep all of it alive.
            match r.bytes() {
                Some(b) if !r.is_inline() => Tensor::from_bytes(r.dtype(), r.shape(), b),
                _ => Ok(r),
            }
        };
        keys.into_iter().enumerate().map(|(i, k)| Ok((k, row(i)?))).collect()
    }

    /// Adds entries to a mutable table, or replaces them.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for a constant table; `INVALID_ARGUMENT` for shapes that do not fit.
    pub fn insert(&self, entries: &mut Entries, keys: &Tensor, values: &Tensor) -> Result<()> {
        self.mutable("Insert")?;
        for (k, v) in self.pairs(keys, values)? {
            entries.put(k, v);
        }
        Ok(())
    }

    fn mutable(&self, what: &str) -> Result<()> {
        match self.spec.kind {
            Kind::Mutable => Ok(()),
            Kind::Constant => Err(Error::unimplemented(format!(
                "{what} is not supported by table {}, which is constant; use a mutable table",
                self.name
            ))),
        }
    }

    /// Removes entries from a mutable table; keys without one are ignored.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for a constant table.
    pub fn remove(&self, entries: &mut Entries, keys: &Tensor) -> Result<()> {
        self.mutable("Remove")?;
        self.check_types(keys.dtype(), None)?;
        self.outer(keys)?;
        let keys = keys_of(&self.spec, keys)?;
        self.allowed(&keys)?;
        for k in keys {
            entries.map.remove(&k);
        }
        Ok(())
    }

    /// Fills a constant table; filling it again with the same entries does nothing.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` if it has other entries or a key has two values; `INVALID_ARGUMENT` for shapes that do not
    /// fit.
    pub fn initialize(&self, entries: &mut Entries, keys: &Tensor, values: &Tensor) -> Result<()> {
        let mut new = Entries {
            initialized: true,
            ..Entries::default()
        };
        for (k, v) in self.pairs(keys, values)? {
            if new.map.get(&k).is_some_and(|(_, old)| *old != v) {
                return Err(Error::failed_precondition(format!(
                    "HashTable has different value for same key: table {}",
                    self.name
                )));
            }
            new.put(k, v);
        }
        if entries.initialized {
            let same = |(k, (_, v)): (&Key, &(u64, Tensor))| entries.map.get(k).is_some_and(|(_, old)| old == v);
            if new.map.len() == entries.map.len() && new.map.iter().all(same) {
                return Ok(());
            }
            return Err(Error::failed_precondition(format!(
                "Table {} was already initialized with different data.",
                self.name
            )));
        }
        *entries = new;
        Ok(())
    }

    /// Replaces all entries of a mutable table, or fills a constant one.
    ///
    /// # Errors
    /// As [`insert`](Self::insert) and [`initialize`](Self::initialize).
    pub fn import(&self, entries: &mut Entries, keys: &Tensor, values: &Tensor) -> Result<()> {
        if self.spec.kind == Kind::Constant {
            return self.initialize(entries, keys, values);
        }
        let pairs = self.pairs(keys, values)?;
        entries.map.clear();
        pairs.into_iter().for_each(|(k, v)| entries.put(k, v));
        Ok(())
    }

    /// All keys and values, in the order in which they came.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is no memory for them.
    pub fn export(&self, entries: &Entries, pool: &Arc<Pool>) -> Result<[Tensor; 2]> {
        let mut all: Vec<(&Key, &(u64, Tensor))> = entries.map.iter().collect();
        all.sort_by_key(|(_, (n, _))| *n);
        let values: Vec<Tensor> = all.iter().map(|(_, (_, v))| v.clone()).collect();
        let key = |k: &Key| match self.spec.key {
            DType::Str => Ok(Tensor::string(Bytes::copy_from_slice(k))),
            d => Tensor::from_bytes(d, self.spec.key_shape.clone(), k),
        };
        let keys = all.iter().map(|(k, _)| key(k)).collect::<Result<Vec<_>>>()?;
        Ok([
            self.stack(self.spec.key, &self.spec.key_shape, &keys, pool)?,
            self.stack(self.spec.value, &self.spec.value_shape, &values, pool)?,
        ])
    }
}

impl Entries {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    fn put(&mut self, key: Key, value: Tensor) {
        let n = self.next;
        self.next += 1;
        self.map
            .entry(key)
            .and_modify(|e| e.1 = value.clone())
            .or_insert((n, value));
    }
}
