//! `FIFOQueue`, `PaddingFIFOQueue`, `RandomShuffleQueue`, `PriorityQueue` and what works on them, with their `V2` forms.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::handle::{Handle, Place};
use super::room::{At, Desk, first_input, settle, submit};
use super::state::{Kind, Queue, Request, Spec};
use crate::shapes;

fn kind_of(op: &str) -> Kind {
    match op.strip_suffix("V2").unwrap_or(op) {
        "PaddingFIFOQueue" => Kind::Padding,
        "RandomShuffleQueue" => Kind::Shuffle,
        "PriorityQueue" => Kind::Priority,
        _ => Kind::Fifo,
    }
}

fn spec(init: &KernelInit<'_>) -> Result<Spec> {
    let kind = kind_of(init.op);
    let mut types = init.attrs.dtypes("component_types")?;
    let mut shapes: Vec<PartialShape> = init.attrs.shapes("shapes")?.into_iter().cloned().collect();
    if !shapes.is_empty() && shapes.len() != types.len() {
        return Err(Error::invalid(format!(
            "queue {} has {} component types but {} shapes",
            init.name,
            types.len(),
            shapes.len()
        )));
    }
    let prescribed = !shapes.is_empty() || (kind == Kind::Priority && types.is_empty());
    if kind == Kind::Priority {
        types.insert(0, DType::I64);
        shapes.insert(0, PartialShape::scalar());
    }
    let capacity = init.attrs.int("capacity")?;
    let min_after_dequeue = match kind {
        Kind::Shuffle => init.attrs.int("min_after_dequeue")?,
        _ => 0,
    };
    if min_after_dequeue < 0 || (capacity >= 0 && min_after_dequeue > capacity) {
        return Err(Error::invalid(format!(
            "min_after_dequeue of queue {} must be from 0 to its capacity {capacity}, got {min_after_dequeue}",
            init.name
        )));
    }
    Ok(Spec {
        kind,
        types,
        shapes: prescribed.then_some(shapes),
        // A negative capacity is none.
        capacity: usize::try_from(capacity).unwrap_or(usize::MAX),
        min_after_dequeue: usize::try_from(min_after_dequeue).unwrap_or(0),
    })
}

fn make_queue(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let spec = Arc::new(spec(init)?);
    let mut seeds = [0; 2];
    if spec.kind == Kind::Shuffle {
        seeds = [init.attrs.int("seed")? as u64, init.attrs.int("seed2")? as u64];
        if seeds == [0, 0] {
            seeds = [0u8, 1].map(|i| RandomState::new().hash_one(i));
        }
    }
    let wanted = spec.clone();
    Ok(Box::new(Handle::new(
        Place::of(init)?,
        move |name, mailbox| {
            let queue = Queue::new(name, spec.clone(), seeds);
            Ok(Desk::new(name, spec.clone(), queue, mailbox))
        },
        move |desk: &Desk<Queue>| match **desk.info() == *wanted {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "Shared queue '{}' exists as {:?}, but the node asks for {wanted:?}",
                desk.name(),
                desk.info()
            ))),
        },
    )))
}

fn queue(name: &'static str, doc: &'static str) -> OpDef {
    let kind = kind_of(name);
    let mut def = OpDef::new(name, Category::Queue)
        .doc(doc)
        .output(handle_type("handle", name));
    def = match kind {
        Kind::Priority => def
            .attr("component_types: list(type) >= 0 = []")
            .attr("shapes: list(shape) >= 0"),
        _ => def
            .attr("component_types: list(type) >= 1")
            .attr("shapes: list(shape) >= 0 = []"),
    };
    def = def.attr("capacity: int = -1");
    if kind == Kind::Shuffle {
        def = def
            .attr("min_after_dequeue: int = 0")
            .attr("seed: int = 0")
            .attr("seed2: int = 0");
    }
    def.attr("container: string = ''")
        .attr("shared_name: string = ''")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(make_queue)
}

/// The handle argument of an operation: a resource in the second version, a reference to a string in the first.
pub(super) fn handle_type(arg: &str, op: &str) -> &'static str {
    match (arg, op.ends_with("V2")) {
        ("handle", true) => "handle: resource",
        ("handle", false) => "handle: Ref(string)",
        (_, true) => "table_handle: resource",
        (_, false) => "table_handle: Ref(string)",
    }
}

fn queues() -> Vec<OpDef> {
    let docs = [
        (
            "FIFOQueue",
            "A queue whose elements leave in the order in which they came.",
        ),
        (
            "FIFOQueueV2",
            "A queue whose elements leave in the order in which they came.",
        ),
        (
            "PaddingFIFOQueue",
            "A FIFO queue of elements of various sizes, which are padded when they leave in a batch.",
        ),
        (
            "PaddingFIFOQueueV2",
            "A FIFO queue of elements of various sizes, which are padded when they leave in a batch.",
        ),
        ("RandomShuffleQueue", "A queue whose elements leave in random order."),
        ("RandomShuffleQueueV2", "A queue whose elements leave in random order."),
        (
            "PriorityQueue",
            "A queue whose elements leave in the order of their first component, an int64.",
        ),
        (
            "PriorityQueueV2",
            "A queue whose elements leave in the order of their first component, an int64.",
        ),
    ];
    docs.map(|(name, doc)| queue(name, doc)).into()
}

fn no_timeout(init: &KernelInit<'_>) -> Result<()> {
    match init.attrs.int("timeout_ms")? {
        -1 => Ok(()),
        _ => Err(Error::invalid(
            "timeout_ms of a queue operation is not supported; give the run a deadline",
        )),
    }
}

fn enqueue(init: &KernelInit<'_>, many: bool) -> Result<Box<dyn Kernel>> {
    no_timeout(init)?;
    Ok(Box::new(At::waits(first_input::<Queue>, move |cx, desk| {
        let components = (1..cx.num_inputs())
            .map(|i| cx.input(i).cloned())
            .collect::<Result<Vec<_>>>()?;
        let count = desk.info().check(desk.name(), &components, many)?;
        let request = Request::Enqueue {
            components,
            many,
            done: 0,
            count,
        };
        submit(cx, desk, request)
    })))
}

fn dequeue(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    no_timeout(init)?;
    let types = init.attrs.dtypes("component_types")?;
    Ok(Box::new(At::waits(first_input::<Queue>, move |cx, desk| {
        desk.info().check_types(desk.name(), &types)?;
        submit(cx, desk, Request::Dequeue)
    })))
}

fn dequeue_many(init: &KernelInit<'_>, up_to: bool) -> Result<Box<dyn Kernel>> {
    no_timeout(init)?;
    let types = init.attrs.dtypes("component_types")?;
    Ok(Box::new(At::waits(first_input::<Queue>, move |cx, desk| {
        desk.info().check_types(desk.name(), &types)?;
        desk.info().check_batches(desk.name())?;
        let n = cx.input(1)?;
        let count = match (n.shape().is_scalar(), n.to_i64()?) {
            (true, n) if n >= 0 => n as usize,
            (_, n) => {
                return Err(Error::invalid(format!(
                    "the number of elements to dequeue must be a scalar and not negative, got {n}"
                )));
            }
        };
        let request = Request::DequeueMany {
            count,
            // As in TensorFlow, a priority queue gives all or nothing.
            up_to: up_to && desk.info().kind != Kind::Priority,
            taken: Vec::new(),
            pool: cx.step().device.pool().clone(),
        };
        submit(cx, desk, request)
    })))
}

fn close(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let cancel = init.attrs.bool("cancel_pending_enqueues")?;
    Ok(Box::new(At::waits(first_input::<Queue>, move |cx, desk| {
        if !cancel {
            return submit(cx, desk, Request::Close);
        }
        settle(cx, desk, |room| {
            room.counter.close();
            let gone = room.dismiss(0, || Error::new(Code::Cancelled, "Enqueue operation was cancelled"));
            Ok(((), Some(gone)))
        })
    })))
}

fn size(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(first_input::<Queue>, |cx, desk| {
        let n = cx.state(desk.actor())?.counter.len();
        cx.set_output(0, Tensor::scalar(i32::try_from(n).unwrap_or(i32::MAX)));
        Ok(())
    })))
}

fn is_closed(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(first_input::<Queue>, |cx, desk| {
        let closed = cx.state(desk.actor())?.counter.is_closed();
        cx.set_output(0, Tensor::scalar(closed));
        Ok(())
    })))
}

/// The shapes of the elements of the queue behind input 0, as far as the handle can be followed to where it was made.
fn element_shapes(cx: &ShapeContext<'_>) -> Vec<PartialShape> {
    let unknown = vec![PartialShape::UNKNOWN; cx.num_outputs()];
    let Some(maker) = cx.handle_maker(0) else {
        return unknown;
    };
    let mut known: Vec<PartialShape> = match maker.attrs().shapes("shapes") {
        Ok(s) if !s.is_empty() => s.into_iter().cloned().collect(),
        _ => return unknown,
    };
    if kind_of(maker.op_name()) == Kind::Priority {
        known.insert(0, PartialShape::scalar());
    }
    if known.len() == unknown.len() { known } else { unknown }
}

fn batch_shapes(cx: &ShapeContext<'_>, count: Option<usize>) -> Vec<PartialShape> {
    let batch = |s: PartialShape| PartialShape::vector(count).concat(&s);
    element_shapes(cx).into_iter().map(batch).collect()
}

fn many_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(1).with_rank(0)?;
    let count = cx.constant_i64(1).and_then(|n| usize::try_from(n).ok());
    Ok(batch_shapes(cx, count))
}

fn up_to_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(1).with_rank(0)?;
    Ok(batch_shapes(cx, None))
}

fn on_queue(name: &'static str, doc: &'static str, kernel: KernelFn) -> OpDef {
    OpDef::new(name, Category::Queue)
        .doc(doc)
        .input(handle_type("handle", name))
        .stateful()
        .not_differentiable()
        .shape(shapes::none)
        .cpu(kernel)
}

fn putting() -> Vec<OpDef> {
    let one: KernelFn = |init| enqueue(init, false);
    let many: KernelFn = |init| enqueue(init, true);
    [
        ("QueueEnqueue", "Adds an element; waits while the queue is full.", one),
        ("QueueEnqueueV2", "Adds an element; waits while the queue is full.", one),
        (
            "QueueEnqueueMany",
            "Adds the rows of the components as elements; waits while the queue is full.",
            many,
        ),
        (
            "QueueEnqueueManyV2",
            "Adds the rows of the components as elements; waits while the queue is full.",
            many,
        ),
    ]
    .map(|(name, doc, kernel)| {
        on_queue(name, doc, kernel)
            .input("components: Tcomponents")
            .attr("Tcomponents: list(type) >= 1")
            .attr("timeout_ms: int = -1")
    })
    .into()
}

fn taking() -> Vec<OpDef> {
    let many: KernelFn = |init| dequeue_many(init, false);
    let up_to: KernelFn = |init| dequeue_many(init, true);
    let finish = |def: OpDef| {
        def.output("components: component_types")
            .attr("component_types: list(type) >= 1")
            .attr("timeout_ms: int = -1")
    };
    let one = ["QueueDequeue", "QueueDequeueV2"].map(|name| {
        let def = on_queue(name, "Takes an element; waits while the queue is empty.", dequeue);
        finish(def).shape(|cx| Ok(element_shapes(cx)))
    });
    let many = ["QueueDequeueMany", "QueueDequeueManyV2"].map(|name| {
        let def = on_queue(
            name,
            "Takes n elements as a batch; waits until the queue had as many.",
            many,
        );
        finish(def.input("n: int32")).shape(many_shape)
    });
    let up_to = ["QueueDequeueUpTo", "QueueDequeueUpToV2"].map(|name| {
        let doc = "Takes n elements as a batch, or what is left of a closed queue; waits until there are as many.";
        finish(on_queue(name, doc, up_to).input("n: int32")).shape(up_to_shape)
    });
    one.into_iter().chain(many).chain(up_to).collect()
}

fn others() -> Vec<OpDef> {
    let close = ["QueueClose", "QueueCloseV2"].map(|name| {
        let doc = "Lets nothing more in. Those who wait to add elements may finish, unless they are cancelled.";
        on_queue(name, doc, close).attr("cancel_pending_enqueues: bool = false")
    });
    let size = ["QueueSize", "QueueSizeV2"].map(|name| {
        let def = on_queue(name, "How many elements the queue has.", size);
        def.output("size: int32").shape(shapes::scalar)
    });
    let closed = ["QueueIsClosed", "QueueIsClosedV2"].map(|name| {
        let def = on_queue(name, "Whether the queue is closed.", is_closed);
        def.output("is_closed: bool").shape(shapes::scalar)
    });
    let fake = OpDef::new("FakeQueue", Category::Queue)
        .doc("The same queue as a handle of the first version.")
        .input("resource: resource")
        .output("handle: Ref(string)")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| cx.forward(0, 0))));
    close.into_iter().chain(size).chain(closed).chain([fake]).collect()
}

register_ops!(all queues);
register_ops!(all putting);
register_ops!(all taking);
register_ops!(all others);
