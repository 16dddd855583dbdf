//! Queues: elements that one part of a program leaves for another, across runs and threads.
//!
//! A queue is an actor of the session. A run that finds it full or empty is parked, not blocked: no thread waits inside
//! of the engine. `docs/queues.md` is a guide. Filling queues from threads of their own is [`train::coordinator`](crate::train::coordinator)'s and
//! [`train::queue_runner`](crate::train::queue_runner)'s.

#![forbid(unsafe_code)]

use actorflow_core::{AttrValue, DType, Error, Graph, Operation, Output, PartialShape, Result};

/// In which order elements leave a [`Queue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// In the order in which they came.
    Fifo,
    /// In the order in which they came; elements that leave together are padded to one shape.
    Padding,
    /// In random order.
    Shuffle,
    /// In the order of their priority, an int64 that comes before the components; the least first.
    Priority,
}

/// A queue in the making; see [`Queue::builder`].
#[derive(Debug)]
#[must_use = "call build()"]
pub struct QueueBuilder {
    graph: Graph,
    kind: QueueKind,
    components: Vec<(DType, PartialShape)>,
    capacity: Option<usize>,
    min_after_dequeue: usize,
    seed: Option<i64>,
    shared_name: String,
    container: String,
    name: Option<String>,
}

impl QueueBuilder {
    /// The most elements; there is no limit without it.
    pub fn capacity(mut self, elements: usize) -> Self {
        self.capacity = Some(elements);
        self
    }

    /// Of a shuffling queue: so many elements stay behind while it is open, so that there is something to choose from.
    pub fn min_after_dequeue(mut self, elements: usize) -> Self {
        self.min_after_dequeue = elements;
        self
    }

    /// Of a shuffling queue: the op's seed; the graph's alone decides without one.
    pub fn seed(mut self, seed: i64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The name by which several nodes of a session are the same queue.
    pub fn shared_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.shared_name);
        self
    }

    /// The container that the queue belongs to.
    pub fn container(mut self, name: &str) -> Self {
        name.clone_into(&mut self.container);
        self
    }

    /// The node's name.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Adds the queue's node.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` without components, or for a capacity that no int32 is.
    #[track_caller]
    pub fn build(self) -> Result<Queue> {
        let g = &self.graph;
        let number = |what: &str, n: usize| {
            i32::try_from(n)
                .map(i64::from)
                .map_err(|_| Error::invalid(format!("the {what} of a queue cannot be {n}")))
        };
        let capacity = self.capacity.map_or(Ok(-1), |n| number("capacity", n))?;
        let op = match self.kind {
            QueueKind::Fifo => "FIFOQueueV2",
            QueueKind::Padding => "PaddingFIFOQueueV2",
            QueueKind::Shuffle => "RandomShuffleQueueV2",
            QueueKind::Priority => "PriorityQueueV2",
        };
        let types: Vec<DType> = self.components.iter().map(|c| c.0).collect();
        // Shapes are prescribed for all components or for none.
        let known = self.components.iter().all(|(_, s)| match self.kind {
            QueueKind::Padding => s.rank().is_some(),
            _ => s.is_fully_known(),
        });
        let shapes: Vec<PartialShape> = match known {
            true => self.components.iter().map(|c| c.1.clone()).collect(),
            false => Vec::new(),
        };
        let mut b = g
            .op(op)
            .attr("component_types", types.clone())
            .attr("shapes", AttrValue::from(shapes))
            .attr("capacity", capacity)
            .attr("container", self.container.as_str())
            .attr("shared_name", self.shared_name.as_str());
        if self.kind == QueueKind::Shuffle {
            let (seed, seed2) = g.op_seeds(self.seed);
            b = b
                .attr(
                    "min_after_dequeue",
                    number("least number of elements", self.min_after_dequeue)?,
                )
                .attr("seed", seed)
                .attr("seed2", seed2);
        }
        if let Some(n) = &self.name {
            b = b.name(n);
        }
        let mut all = types;
        if self.kind == QueueKind::Priority {
            all.insert(0, DType::I64);
        }
        Ok(Queue {
            handle: b.output()?,
            types: all,
        })
    }
}

/// A queue of a graph. `TensorFlow: tf.FIFOQueue` and its kin.
#[derive(Debug, Clone)]
pub struct Queue {
    handle: Output,
    types: Vec<DType>,
}

impl Queue {
    /// Starts describing a queue whose elements have these components. Elements can leave in batches only if the
    /// shapes of all components are known (of a padding queue: their ranks).
    pub fn builder(graph: &Graph, kind: QueueKind, components: &[(DType, PartialShape)]) -> QueueBuilder {
        QueueBuilder {
            graph: graph.clone(),
            kind,
            components: components.to_vec(),
            capacity: None,
            min_after_dequeue: 0,
            seed: None,
            shared_name: String::new(),
            container: String::new(),
            name: None,
        }
    }

    /// The handle that operations on the queue take.
    pub fn handle(&self) -> &Output {
        &self.handle
    }

    /// The dtypes of an element's components; of a priority queue the first is the priority.
    pub fn types(&self) -> &[DType] {
        &self.types
    }

    fn graph(&self) -> &Graph {
        self.handle.graph()
    }

    fn check(&self, components: &[Output]) -> Result<()> {
        let got: Vec<DType> = components.iter().map(Output::dtype).collect();
        if got == self.types {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "queue {} has components of {:?}, but an element of {got:?} is to be added",
            self.handle.op().name(),
            self.types
        )))
    }

    /// An operation that adds an element; while the queue is full, it waits.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the components are not the queue's. When run: `CANCELLED` if the queue is closed.
    #[track_caller]
    pub fn enqueue(&self, components: &[Output]) -> Result<Operation> {
        self.check(components)?;
        let b = self.graph().op("QueueEnqueueV2").input(&self.handle);
        b.input_list(components).finish()
    }

    /// An operation that adds the rows of the components as elements; while the queue is full, it waits.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    #[track_caller]
    pub fn enqueue_many(&self, components: &[Output]) -> Result<Operation> {
        self.check(components)?;
        let b = self.graph().op("QueueEnqueueManyV2").input(&self.handle);
        b.input_list(components).finish()
    }

    /// Takes an element; while the queue is empty, it waits.
    ///
    /// # Errors
    /// If the node cannot be added. When run: `OUT_OF_RANGE` if the queue is closed and empty.
    #[track_caller]
    pub fn dequeue(&self) -> Result<Vec<Output>> {
        let b = self.graph().op("QueueDequeueV2").input(&self.handle);
        Ok(b.attr("component_types", self.types.clone()).finish()?.outputs())
    }

    /// Takes `n` (an int32 scalar) elements as a batch; until there were so many, it waits.
    ///
    /// # Errors
    /// If the node cannot be added. When run: `OUT_OF_RANGE` if the queue is closed and has fewer, which it then keeps.
    #[track_caller]
    pub fn dequeue_many(&self, n: &Output) -> Result<Vec<Output>> {
        let b = self.graph().op("QueueDequeueManyV2").input(&self.handle).input(n);
        Ok(b.attr("component_types", self.types.clone()).finish()?.outputs())
    }

    /// Takes `n` (an int32 scalar) elements as a batch, or what is left of a closed queue; until then it waits.
    ///
    /// # Errors
    /// If the node cannot be added. When run: `OUT_OF_RANGE` if the queue is closed and empty.
    #[track_caller]
    pub fn dequeue_up_to(&self, n: &Output) -> Result<Vec<Output>> {
        let b = self.graph().op("QueueDequeueUpToV2").input(&self.handle).input(n);
        Ok(b.attr("component_types", self.types.clone()).finish()?.outputs())
    }

    /// An operation that closes the queue: nothing more can be added, what is in it can be taken. Those who wait to add
    /// elements may finish first, unless `cancel_pending_enqueues`: then they fail with `CANCELLED`.
    ///
    /// # Errors
    /// If the node cannot be added. When run: `CANCELLED` if the queue is closed already.
    #[track_caller]
    pub fn close(&self, cancel_pending_enqueues: bool) -> Result<Operation> {
        let b = self.graph().op("QueueCloseV2").input(&self.handle);
        b.attr("cancel_pending_enqueues", cancel_pending_enqueues).finish()
    }

    /// How many elements are in the queue, an int32 scalar.
    ///
    /// # Errors
    /// If the node cannot be added.
    #[track_caller]
    pub fn size(&self) -> Result<Output> {
        self.handle.unary("QueueSizeV2")
    }

    /// Whether the queue is closed, a bool scalar.
    ///
    /// # Errors
    /// If the node cannot be added.
    #[track_caller]
    pub fn is_closed(&self) -> Result<Output> {
        self.handle.unary("QueueIsClosedV2")
    }
}
