//! Reading checkpoints, whichever format they have.

use std::collections::BTreeMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Shape, Tensor};
use bytes::Bytes;

use super::bundle::{Bundle, First};
use super::native::{self, Native};
use super::slice::{SliceSpec, Window};
use super::store::Location;

/// The dtype of a saved tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One that the engine has.
    Known(DType),
    /// Another one, by TensorFlow's number: 8-bit floats and numbers narrower than a byte.
    Foreign(i32),
}

/// What a checkpoint says of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The dtype.
    pub kind: Kind,
    /// The shape of the whole tensor.
    pub shape: Shape,
    /// The parts in which it was saved; `None` if it was saved whole.
    pub windows: Option<Vec<Window>>,
    /// Bytes in the file.
    pub bytes: u64,
}

impl Entry {
    /// The dtype, if the engine has it.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` otherwise.
    pub fn dtype(&self) -> Result<DType> {
        match self.kind {
            Kind::Known(dtype) => Ok(dtype),
            Kind::Foreign(n) => DType::from_tf(n),
        }
    }

    /// The dtype's name.
    pub fn dtype_name(&self) -> String {
        match self.kind {
            Kind::Known(dtype) => dtype.name().into(),
            Kind::Foreign(n) => format!("DataType {n}"),
        }
    }
}

/// Where the bytes of tensors come from.
pub(super) trait Source: Send + Sync {
    /// Part `piece` of a tensor (0 if it is whole), checked.
    fn read(&self, name: &str, entry: &Entry, piece: usize, pool: &Arc<Pool>) -> Result<Tensor>;

    /// Checks every byte.
    fn verify(&self) -> Result<()>;
}

/// Which format a checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A manifest and safetensors shards.
    Actorflow,
    /// TensorFlow's V2 bundle: an index and data files.
    TensorFlow,
    /// TensorFlow's first version: one file.
    TensorFlowV1,
}

/// An open checkpoint: its tensors by name, and their values on demand.
pub struct Reader {
    prefix: Location,
    format: Format,
    entries: BTreeMap<String, Entry>,
    source: Box<dyn Source>,
    pool: Arc<Pool>,
    /// What says that the checkpoint is still the one that was opened.
    stamp: Bytes,
}

impl Reader {
    /// Opens the checkpoint of that prefix, of this engine's format or one of TensorFlow's.
    ///
    /// # Errors
    /// `NOT_FOUND` if there is none; `DATA_LOSS` if its table of contents is damaged.
    pub fn open(prefix: &str) -> Result<Reader> {
        Reader::open_in(&Location::of(prefix)?, &Pool::new(usize::MAX, 0))
    }

    /// As [`open`](Self::open), with tensors from a device's memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(prefix: &Location, pool: &Arc<Pool>) -> Result<Reader> {
        let (format, entries, source, stamp): (_, _, Box<dyn Source>, _) = match native::text(prefix)? {
            Some(text) => {
                let native = Native::open(prefix, &text)?;
                (Format::Actorflow, native.entries()?, Box::new(native), text)
            }
            None => match Bundle::open(prefix)? {
                Some((bundle, entries)) => (Format::TensorFlow, entries, Box::new(bundle), Bytes::new()),
                None => match First::open(prefix)? {
                    Some((first, entries)) => (Format::TensorFlowV1, entries, Box::new(first), Bytes::new()),
                    None => {
                        return Err(Error::not_found(format!(
                            "Unsuccessful TensorSliceReader constructor: Failed to find any matching files for {prefix}"
                        )));
                    }
                },
            },
        };
        Ok(Reader {
            prefix: prefix.clone(),
            format,
            entries,
            source,
            pool: pool.clone(),
            stamp,
        })
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What it is called.
    pub fn prefix(&self) -> String {
        self.prefix.to_string()
    }

    /// The tensors by name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The entry of a tensor.
    ///
    /// # Errors
    /// `NOT_FOUND` naming the tensor and the checkpoint.
    pub fn entry(&self, name: &str) -> Result<(&str, &Entry)> {
        let found = self.entries.get_key_value(name);
        found
            .map(|(name, entry)| (name.as_str(), entry))
            .ok_or_else(|| Error::not_found(format!("Key {name} not found in checkpoint {}", self.prefix)))
    }

    /// The value of a tensor.
    ///
    /// # Errors
    /// `NOT_FOUND` naming the tensor and the checkpoint; `DATA_LOSS` naming the file and the tensor if its bytes are not
    /// what was written; `INVALID_ARGUMENT` if only parts of it were saved; `UNIMPLEMENTED` for a dtype that the engine
    /// does not have; `RESOURCE_EXHAUSTED` if the memory budget refuses it.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let (name, entry) = self.entry(name)?;
        self.part(name, entry, &Window::whole(&entry.shape))
    }

    /// A part of a tensor.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor); `INVALID_ARGUMENT` also if the whole has another shape.
    pub fn slice(&self, name: &str, spec: &SliceSpec) -> Result<Tensor> {
        let (name, entry) = self.entry(name)?;
        if entry.shape != spec.full {
            return Err(Error::invalid(format!(
                "tensor_name = {name}; shape in shape_and_slice spec {} does not match the shape stored in checkpoint: \
                 {}",
                spec.full, entry.shape
            )));
        }
        spec.check()?;
        self.part(name, entry, &spec.window)
    }

    fn part(&self, name: &str, entry: &Entry, wanted: &Window) -> Result<Tensor> {
        let whole = [Window::whole(&entry.shape)];
        let windows = entry.windows.as_deref().unwrap_or(&whole);
        if let Some(same) = windows.iter().position(|w| w == wanted) {
            return self.source.read(name, entry, same, &self.pool);
        }
        check_cover(windows, wanted, name)?;
        let parts = windows.iter().enumerate().filter(|(_, w)| w.overlaps(wanted));
        let parts = parts.map(|(i, w)| Ok((w, self.source.read(name, entry, i, &self.pool)?)));
        join(entry.dtype()?, wanted, parts, &self.pool)
    }

    /// Checks every byte of the checkpoint.
    ///
    /// # Errors
    /// `DATA_LOSS` naming the file (and the tensor, where one is damaged).
    pub fn verify(&self) -> Result<()> {
        for (name, entry) in &self.entries {
            if matches!(entry.kind, Kind::Foreign(_)) {
                continue;
            }
            for i in 0..entry.windows.as_ref().map_or(1, Vec::len) {
                self.source.read(name, entry, i, &self.pool)?;
            }
        }
        self.source.verify()
    }

    /// Whether another checkpoint has taken the place of this one since it was opened.
    pub fn is_replaced(&self) -> bool {
        matches!(native::text(&self.prefix), Ok(text) if text.as_deref().unwrap_or_default() != &self.stamp[..])
    }
}

/// Every two parts of a tensor are compared.
const MOST_PARTS: usize = 10_000;

/// TensorFlow saves overlapping parts and refuses to read them.
fn check_disjoint(windows: &[Window]) -> Result<()> {
    if windows.len() > MOST_PARTS {
        return Err(Error::unimplemented(format!(
            "a tensor in {} parts; {MOST_PARTS} are supported",
            windows.len()
        )));
    }
    for (i, a) in windows.iter().enumerate() {
        if let Some(b) = windows[..i].iter().find(|b| b.overlaps(a)) {
            return Err(Error::internal(format!(
                "Overlapping slices: existing slice = {b}, new slice = {a}"
            )));
        }
    }
    Ok(())
}

/// A part of a tensor whose parts are in several checkpoints.
///
/// # Errors
/// As [`Reader::tensor`]; `NOT_FOUND` if there is no checkpoint; `INVALID_ARGUMENT` if the checkpoints differ about the
/// tensor, or together they do not have all of it.
pub fn gather(readers: &[&Reader], name: &str, wanted: &Window, pool: &Arc<Pool>) -> Result<Tensor> {
    let mut parts = Vec::new();
    for r in readers {
        let (name, entry) = r.entry(name)?;
        parts.push((*r, name, entry));
    }
    let Some((_, _, first)) = parts.first().copied() else {
        return Err(Error::not_found(format!("there is no checkpoint with tensor {name}")));
    };
    let mut windows = Vec::new();
    let mut places = Vec::new();
    for (r, name, entry) in &parts {
        if entry.kind != first.kind || entry.shape != first.shape {
            return Err(Error::invalid(format!(
                "checkpoints differ about tensor {name}: {} of shape {} and {} of shape {}",
                first.dtype_name(),
                first.shape,
                entry.dtype_name(),
                entry.shape
            )));
        }
        let whole = [Window::whole(&entry.shape)];
        for (i, w) in entry.windows.as_deref().unwrap_or(&whole).iter().enumerate() {
            windows.push(w.clone());
            places.push((*r, *name, *entry, i));
        }
    }
    check_cover(&windows, wanted, name)?;
    let used = windows.iter().zip(&places).filter(|(w, _)| w.overlaps(wanted));
    let read = used.map(|(w, (r, name, entry, i))| Ok((w, r.source.read(name, entry, *i, pool)?)));
    join(first.dtype()?, wanted, read, pool)
}

/// Parts that do not overlap cover `wanted`.
fn check_cover(windows: &[Window], wanted: &Window, name: &str) -> Result<()> {
    check_disjoint(windows)?;
    let shared = |w: &Window| w.intersect(wanted).map_or(0, |both| both.count());
    match windows.iter().map(shared).fold(0usize, usize::saturating_add) == wanted.count() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "Does not have sufficient slices for partitioned tensor {name} to restore in slice_spec: {wanted}"
        ))),
    }
}

/// Puts the part `wanted` together from parts that cover it.
fn join<'w>(
    dtype: DType,
    wanted: &Window,
    parts: impl Iterator<Item = Result<(&'w Window, Tensor)>>,
    pool: &Arc<Pool>,
) -> Result<Tensor> {
    if dtype == DType::Str {
        let mut out = vec![Bytes::new(); wanted.count()];
        for part in parts {
            let (window, t) = part?;
            let from = t.as_strings()?;
            window.for_each_run(wanted, |f, to, n| out[to..to + n].clone_from_slice(&from[f..f + n]));
        }
        return Tensor::strings(wanted.shape(), out);
    }
    let size = dtype.size();
    let mut whole = Tensor::alloc_in(pool, dtype, wanted.shape())?;
    let out = whole
        .bytes_mut()
        .ok_or_else(|| Error::internal("a new tensor is shared"))?;
    for part in parts {
        let (window, t) = part?;
        let from = t.bytes().unwrap_or(&[]);
        window.for_each_run(wanted, |f, to, n| {
            out[to * size..(to + n) * size].copy_from_slice(&from[f * size..(f + n) * size]);
        });
    }
    Ok(whole)
}

/// Reads from the checkpoint of that prefix; begins anew if it is replaced while it is read.
///
/// # Errors
/// As [`Reader::open`] and what `read` returns.
pub fn with_reader<T>(prefix: &Location, pool: &Arc<Pool>, read: impl Fn(&Reader) -> Result<T>) -> Result<T> {
    let mut tries = 0;
    loop {
        let reader = Reader::open_in(prefix, pool)?;
        match read(&reader) {
            Err(_) if tries < 8 && reader.is_replaced() => tries += 1,
            done => return done,
        }
    }
}
