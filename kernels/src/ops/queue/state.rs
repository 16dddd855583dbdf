//! The state of a queue and how it serves requests. TensorFlow's `QueueBase` and its kinds.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, PartialShape, Tensor};

use super::batch::stack;
use super::room::{Counter, Served};
use super::store::{Element, Store};

/// What kind of queue it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First in, first out.
    Fifo,
    /// First in, first out; elements may differ in shape and are padded when they leave together.
    Padding,
    /// In random order.
    Shuffle,
    /// The least priority number first.
    Priority,
}

impl Kind {
    /// TensorFlow's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Fifo => "FIFOQueue",
            Kind::Padding => "PaddingFIFOQueue",
            Kind::Shuffle => "RandomShuffleQueue",
            Kind::Priority => "PriorityQueue",
        }
    }
}

/// What never changes about a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The kind.
    pub kind: Kind,
    /// The dtypes of the components; a priority queue's first is the priority.
    pub types: Vec<DType>,
    /// The shapes of the components, as far as they are prescribed.
    pub shapes: Option<Vec<PartialShape>>,
    /// The most elements.
    pub capacity: usize,
    /// Elements that a shuffling queue keeps back as long as it is open.
    pub min_after_dequeue: usize,
}

impl Spec {
    /// Fails unless elements of these dtypes are the queue's.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both lists.
    pub fn check_types(&self, name: &str, types: &[DType]) -> Result<()> {
        if self.types == types {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "queue {name} has components of {:?}, the operation of {types:?}",
            self.types
        )))
    }

    /// Fails unless these are components of one element or (`many`) of a batch; the number of elements.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the component and both shapes.
    pub fn check(&self, name: &str, components: &[Tensor], many: bool) -> Result<usize> {
        let types: Vec<DType> = components.iter().map(Tensor::dtype).collect();
        self.check_types(name, &types)?;
        let mut count = 1;
        for (i, t) in components.iter().enumerate() {
            if many {
                let Some(&n) = t.shape().first() else {
                    return Err(Error::invalid(format!(
                        "component {i} of a batch for queue {name} must have a first dimension, got a scalar"
                    )));
                };
                if i > 0 && n != count {
                    return Err(Error::invalid(format!(
                        "all components of a batch for queue {name} must have the same first dimension; component {i} \
                         has {n}, those before it have {count}"
                    )));
                }
                count = n;
            }
            let got = PartialShape::from(t.shape());
            let got = got.sub(usize::from(many), t.shape().rank());
            let want = match (self.kind, &self.shapes) {
                (_, Some(s)) => s.get(i).cloned().unwrap_or_default(),
                (Kind::Priority, None) if i == 0 => PartialShape::scalar(),
                _ => PartialShape::UNKNOWN,
            };
            if !got.to_shape().is_some_and(|s| want.accepts(&s)) {
                return Err(Error::invalid(format!(
                    "Shape mismatch in tuple component {i} of queue {name}. Expected {want}, got {got}"
                )));
            }
        }
        Ok(count)
    }

    /// Fails unless elements can leave together.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the shapes that this needs are not prescribed.
    pub fn check_batches(&self, name: &str) -> Result<()> {
        let known = self.shapes.as_deref().is_some_and(|s| {
            s.iter().all(|s| match self.kind {
                Kind::Padding => s.rank().is_some(),
                _ => s.is_fully_known(),
            })
        });
        if known || self.types.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{}'s DequeueMany and DequeueUpTo require the components to have specified shapes (queue {name})",
            self.kind.name()
        )))
    }
}

/// A request to a queue.
pub enum Request {
    /// Elements to be added.
    Enqueue {
        /// Their components, or a batch of each.
        components: Vec<Tensor>,
        /// Whether the components are batches.
        many: bool,
        /// Elements that are in already.
        done: usize,
        /// How many there are.
        count: usize,
    },
    /// Closes the queue behind those who came before.
    Close,
    /// One element.
    Dequeue,
    /// Elements in a batch.
    DequeueMany {
        /// How many.
        count: usize,
        /// Whether fewer will do when the queue is closed.
        up_to: bool,
        /// Those that left already.
        taken: Vec<Element>,
        /// Where the batch is allocated.
        pool: Arc<Pool>,
    },
}

/// The state of a queue.
pub struct Queue {
    spec: Arc<Spec>,
    name: String,
    store: Store,
    closed: bool,
}

impl Queue {
    /// An empty, open queue; the seeds are those of a shuffling one.
    pub fn new(name: &str, spec: Arc<Spec>, [seed, seed2]: [u64; 2]) -> Self {
        Queue {
            store: match spec.kind {
                Kind::Fifo | Kind::Padding => Store::Fifo(VecDeque::new()),
                Kind::Shuffle => Store::shuffle(seed, seed2),
                Kind::Priority => Store::Priority(Vec::new()),
            },
            spec,
            name: name.to_owned(),
            closed: false,
        }
    }

    /// How many elements are in it.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// Whether nothing can be added any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Closes it at once.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Adds an element, whatever the capacity.
    pub fn push(&mut self, e: Element) {
        self.store.push(e);
    }

    fn closed_error(&self) -> Error {
        Error::new(
            Code::Cancelled,
            format!("{} '{}' is closed.", self.spec.kind.name(), self.name),
        )
    }

    fn insufficient(&self, requested: usize) -> Error {
        Error::out_of_range(format!(
            "{} '{}' is closed and has insufficient elements (requested {requested}, current size {})",
            self.spec.kind.name(),
            self.name,
            self.len()
        ))
    }

    /// Elements that may leave now.
    fn available(&self) -> usize {
        match self.closed {
            true => self.len(),
            false => self.len().saturating_sub(self.spec.min_after_dequeue),
        }
    }

    fn enqueue(&mut self, components: &[Tensor], many: bool, done: &mut usize, count: usize) -> Served {
        if *done == count {
            return Served::Done(Ok(Vec::new()));
        }
        if self.closed {
            return Served::Done(Err(self.closed_error()));
        }
        let before = *done;
        while *done < count && self.len() < self.spec.capacity {
            let element = match many {
                true => components.iter().map(|t| row(t, *done)).collect::<Result<Element>>(),
                false => Ok(components.to_vec()),
            };
            match element {
                Ok(e) => self.store.push(e),
                Err(e) => return Served::Done(Err(e)),
            }
            *done += 1;
        }
        match *done {
            n if n == count => Served::Done(Ok(Vec::new())),
            n if n > before => Served::Progressed,
            _ => Served::Waits,
        }
    }

    fn dequeue(&mut self) -> Served {
        if self.available() > 0
            && let Some(e) = self.store.pop()
        {
            return Served::Done(Ok(e));
        }
        match self.closed {
            true => Served::Done(Err(self.insufficient(1))),
            false => Served::Waits,
        }
    }

    fn dequeue_many(
        &mut self,
        count: &mut usize,
        up_to: bool,
        taken: &mut Vec<Element>,
        pool: &Arc<Pool>,
        producers: bool,
    ) -> Served {
        if self.closed && self.len() < *count - taken.len() {
            self.store.put_back(std::mem::take(taken));
            if !up_to || self.is_empty() {
                if up_to && producers {
                    // Those who wait to add elements are told first that the queue is closed.
                    return Served::Progressed;
                }
                return Served::Done(Err(self.insufficient(*count)));
            }
            *count = self.len();
        }
        let before = taken.len();
        while taken.len() < *count
            && self.available() > 0
            && let Some(e) = self.store.pop()
        {
            taken.push(e);
        }
        match taken.len() {
            n if n == *count => {
                let result = self.batch(taken, pool);
                if result.is_err() {
                    self.store.put_back(std::mem::take(taken));
                }
                Served::Done(result)
            }
            n if n > before => Served::Progressed,
            _ => Served::Waits,
        }
    }

    fn batch(&self, elements: &[Element], pool: &Arc<Pool>) -> Result<Vec<Tensor>> {
        let column = |i: usize| -> Result<Tensor> {
            let parts: Option<Vec<&Tensor>> = elements.iter().map(|e| e.get(i)).collect();
            let parts = parts.ok_or_else(|| Error::internal("an element lacks a component"))?;
            let shape = self.spec.shapes.as_ref().and_then(|s| s.get(i)).cloned();
            stack(pool, self.spec.types[i], &shape.unwrap_or_default(), &parts)
        };
        (0..self.spec.types.len()).map(column).collect()
    }
}

/// Row `i` as a tensor of its own.
fn row(t: &Tensor, i: usize) -> Result<Tensor> {
    let shape = t.shape().with_replaced(0, 1, &[]);
    t.slice_rows(i, i + 1)?.reshape(shape)
}

impl Counter for Queue {
    type Request = Request;
    type Info = Arc<Spec>;
    const KIND: &'static str = "queue";

    fn line(request: &Request) -> usize {
        match request {
            Request::Enqueue { .. } | Request::Close => 0,
            Request::Dequeue | Request::DequeueMany { .. } => 1,
        }
    }

    fn serve(&mut self, request: &mut Request, others: bool) -> Served {
        match request {
            Request::Enqueue {
                components,
                many,
                done,
                count,
            } => self.enqueue(components, *many, done, *count),
            Request::Close if self.closed => Served::Done(Err(Error::new(
                Code::Cancelled,
                format!("Queue '{}' is already closed.", self.name),
            ))),
            Request::Close => {
                self.closed = true;
                Served::Done(Ok(Vec::new()))
            }
            Request::Dequeue => self.dequeue(),
            Request::DequeueMany {
                count,
                up_to,
                taken,
                pool,
            } => self.dequeue_many(count, *up_to, taken, pool, others),
        }
    }

    fn withdraw(&mut self, request: Request) {
        if let Request::DequeueMany { taken, .. } = request {
            self.store.put_back(taken);
        }
    }
}
