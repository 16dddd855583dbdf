//! The array of tensors.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::resource::{Resource, ResourceHandle};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, PartialShape, Shape, Tensor, dispatch};
use parking_lot::Mutex;

use crate::ops::state::arith::Update;

/// The most elements an array may grow to.
const MAX_SIZE: usize = 1 << 31;

#[derive(Default, Clone)]
struct Item {
    value: Option<Tensor>,
    /// The shape of what was written, or is known to be written.
    shape: Option<Shape>,
    written: bool,
    read: bool,
    cleared: bool,
}

struct State {
    items: Vec<Item>,
    element_shape: PartialShape,
    dynamic: bool,
    closed: bool,
    /// The arrays of gradients, by who asked for them.
    gradients: HashMap<String, ResourceHandle>,
}

/// How an array behaves.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) dtype: DType,
    pub(super) element_shape: PartialShape,
    pub(super) dynamic: bool,
    /// Reading an element takes it out.
    pub(super) clear_after_read: bool,
    pub(super) identical_shapes: bool,
    /// An array of gradients: writing adds, what was never written is zero.
    pub(super) sums: bool,
}

/// An array of tensors of one dtype. Its state is behind a lock that is held for a few instructions (an addition, in
/// an array of gradients), so that no node waits for it.
pub struct TensorArray {
    name: String,
    options: Options,
    state: Mutex<State>,
}

impl Resource for TensorArray {
    fn kind(&self) -> &'static str {
        "tensor array"
    }

    fn byte_size(&self) -> usize {
        let s = self.state.lock();
        s.items.iter().flat_map(|i| &i.value).map(Tensor::byte_size).sum()
    }
}

impl TensorArray {
    pub(super) fn new(name: &str, size: usize, options: Options) -> Result<TensorArray> {
        let too_large = || Error::exhausted(format!("a TensorArray of {size} elements is too large"));
        let mut items = Vec::new();
        if size > MAX_SIZE {
            return Err(too_large());
        }
        items.try_reserve_exact(size).map_err(|_| too_large())?;
        items.resize(size, Item::default());
        Ok(TensorArray {
            name: name.to_owned(),
            state: Mutex::new(State {
                items,
                element_shape: options.element_shape.clone(),
                dynamic: options.dynamic,
                closed: false,
                gradients: HashMap::new(),
            }),
            options,
        })
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::invalid(format!("TensorArray {:?}: {what}", self.name))
    }

    fn open(&self) -> Result<parking_lot::MutexGuard<'_, State>> {
        let s = self.state.lock();
        if s.closed {
            return Err(self.error("it has already been closed"));
        }
        Ok(s)
    }

    /// The number of elements.
    pub(super) fn size(&self) -> Result<usize> {
        Ok(self.open()?.items.len())
    }

    /// What is known of the elements' shape.
    pub(super) fn element_shape(&self) -> PartialShape {
        self.state.lock().element_shape.clone()
    }

    pub(super) fn check_dtype(&self, dtype: DType) -> Result<()> {
        if dtype == self.options.dtype {
            return Ok(());
        }
        Err(self.error(format_args!(
            "its elements are {}, but the operation's are {dtype}",
            self.options.dtype
        )))
    }

    /// Makes room for `n` elements.
    pub(super) fn fit(&self, n: usize) -> Result<()> {
        let mut s = self.open()?;
        if n <= s.items.len() {
            return Ok(());
        }
        if !s.dynamic {
            return Err(self.error(format_args!(
                "its size is {}, less than the {n} elements that are written, and it is not marked as dynamically \
                 resizeable",
                s.items.len()
            )));
        }
        self.grow(&mut s, n)
    }

    fn grow(&self, s: &mut State, n: usize) -> Result<()> {
        let more = n.saturating_sub(s.items.len());
        if n > MAX_SIZE || s.items.try_reserve(more).is_err() {
            return Err(Error::exhausted(format!(
                "TensorArray {:?} cannot grow to {n} elements",
                self.name
            )));
        }
        s.items.resize(n, Item::default());
        Ok(())
    }

    /// Writes an element; into an array of gradients, adds to it.
    pub(super) fn write(&self, index: i64, value: Tensor, pool: &Arc<Pool>) -> Result<()> {
        self.check_dtype(value.dtype())?;
        let mut s = self.open()?;
        let at = usize::try_from(index).ok();
        let at = match at {
            Some(i) if i < s.items.len() => i,
            Some(i) if s.dynamic => {
                self.grow(&mut s, i + 1)?;
                i
            }
            _ => {
                return Err(self.error(format_args!(
                    "tried to write to index {index}, but the array is not resizeable and its size is {}",
                    s.items.len()
                )));
            }
        };
        if !s.element_shape.accepts(value.shape()) {
            return Err(self.error(format_args!(
                "could not write to index {index} because the value's shape is {}, which is incompatible with the \
                 inferred element shape {} (consider infer_shape=false)",
                value.shape(),
                s.element_shape
            )));
        }
        if self.options.identical_shapes && !s.element_shape.is_fully_known() {
            s.element_shape = value.shape().into();
        }
        let item = &mut s.items[at];
        if item.read {
            return Err(self.error(format_args!(
                "could not write to index {index} because it has already been read"
            )));
        }
        if !item.written {
            item.shape = Some(value.shape().clone());
            item.value = Some(value);
            item.written = true;
            return Ok(());
        }
        if !self.options.sums {
            return Err(self.error(format_args!(
                "could not write to index {index} because it has already been written to"
            )));
        }
        if let Some(shape) = &item.shape
            && shape != value.shape()
        {
            return Err(self.error(format_args!(
                "could not add to index {index} because its shape is {shape}, but the new input's shape is {}",
                value.shape()
            )));
        }
        item.value = Some(match item.value.take() {
            Some(sum) => add(sum, &value, pool)?,
            // Only its shape was known: it was zero.
            None => value,
        });
        Ok(())
    }

    /// Reads an element; takes it out if the array is cleared by reading.
    pub(super) fn read(&self, index: i64) -> Result<Tensor> {
        let mut s = self.open()?;
        self.read_from(&mut s, index)
    }

    /// Reads several elements.
    pub(super) fn read_many(&self, indices: impl Iterator<Item = i64>) -> Result<Vec<Tensor>> {
        let mut s = self.open()?;
        indices.map(|i| self.read_from(&mut s, i)).collect()
    }

    fn read_from(&self, s: &mut State, index: i64) -> Result<Tensor> {
        let size = s.items.len();
        let at = usize::try_from(index).ok().filter(|i| *i < size || self.options.sums);
        let Some(at) = at else {
            return Err(self.error(format_args!(
                "tried to read from index {index}, but the array's size is {size}"
            )));
        };
        if s.items.get(at).is_none_or(|i| !i.written) {
            // What was never written is zero, if its shape is known.
            let known = s.items.get(at).and_then(|i| i.shape.clone());
            let Some(shape) = known.or_else(|| s.element_shape.to_shape()) else {
                return Err(self.error(format_args!(
                    "could not read index {index}: it was never written and its shape is not fully known ({})",
                    s.element_shape
                )));
            };
            if at >= size {
                self.grow(s, at + 1)?;
            }
            let item = &mut s.items[at];
            item.shape = Some(shape);
            item.written = true;
        }
        let clears = self.options.clear_after_read;
        let item = &mut s.items[at];
        if item.cleared {
            return Err(self.error(format_args!(
                "could not read index {index} twice because it was cleared after a previous read (perhaps try \
                 clear_after_read=false?)"
            )));
        }
        let value = match &item.value {
            Some(v) => v.clone(),
            None => Tensor::zeros(self.options.dtype, item.shape.clone().unwrap_or(Shape::SCALAR))?,
        };
        if clears {
            item.value = None;
            item.cleared = true;
        } else if item.value.is_none() {
            item.value = Some(value.clone());
        }
        item.read = true;
        Ok(value)
    }

    /// Drops the elements and refuses further use.
    pub(super) fn close(&self) {
        let dropped = {
            let mut s = self.state.lock();
            s.closed = true;
            (std::mem::take(&mut s.items), std::mem::take(&mut s.gradients))
        };
        drop(dropped);
    }

    /// The array of gradients that `source` adds up, made when it is first asked for. Its elements have the shapes of
    /// this one's, with `prefix` before them. From then on this array keeps its size.
    pub(super) fn gradient(&self, source: &str, prefix: &[usize]) -> Result<ResourceHandle> {
        let mut s = self.open()?;
        if let Some(h) = s.gradients.get(source) {
            return Ok(h.clone());
        }
        s.dynamic = false;
        let name = format!("{}@{source}", self.name);
        let prefixed = |d: &Shape| {
            let mut dims = prefix.to_vec();
            dims.extend_from_slice(d);
            Shape::from(dims)
        };
        let g = TensorArray::new(
            &name,
            s.items.len(),
            Options {
                dtype: self.options.dtype,
                element_shape: PartialShape::from(&Shape::new(prefix)).concat(&s.element_shape),
                dynamic: false,
                clear_after_read: true,
                identical_shapes: self.options.identical_shapes,
                sums: true,
            },
        )?;
        for (to, from) in g.state.lock().items.iter_mut().zip(&s.items) {
            if from.written {
                to.shape = from.shape.as_ref().map(prefixed);
                to.written = true;
            }
        }
        let h = ResourceHandle::new(name, Arc::new(g));
        s.gradients.insert(source.to_owned(), h.clone());
        Ok(h)
    }
}

/// The sum, in place of `a` if nobody else has it.
fn add(a: Tensor, b: &Tensor, pool: &Arc<Pool>) -> Result<Tensor> {
    let dtype = a.dtype();
    let mut sum = a.into_unique(pool)?;
    dispatch!(dtype, T in numbers => {
        let other = b.as_slice::<T>()?;
        match sum.as_mut_slice::<T>() {
            Some(to) => Update::Add.zip(to, other),
            None => return Err(Error::internal("the sum is shared")),
        }
    }, else {
        return Err(Error::unimplemented(format!("{dtype} elements of a TensorArray cannot be added up")));
    });
    Ok(sum)
}
