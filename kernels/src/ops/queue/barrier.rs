//! `Barrier` and what works on it: tuples that become whole by parts arriving under a key.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};
use bytes::Bytes;

use super::handle::{Handle, Place};
use super::room::{At, Counter, Desk, Served, first_input, settle, submit};
use super::state::{Kind, Queue, Request, Spec};
use crate::shapes;

/// A barrier: keys whose tuple is not whole yet, and a queue of the others, by when their keys first came.
struct Barrier {
    ready: Queue,
    incomplete: HashMap<Bytes, (i64, Vec<Option<Tensor>>)>,
    /// The number of the next insertion that brings new keys.
    index: i64,
    closed: bool,
    cancelled: bool,
}

impl Counter for Barrier {
    type Request = Request;
    type Info = Arc<Spec>;
    const KIND: &'static str = "barrier";

    fn line(_: &Request) -> usize {
        1
    }

    fn serve(&mut self, request: &mut Request, _: bool) -> Served {
        self.ready.serve(request, false)
    }

    fn withdraw(&mut self, request: Request) {
        self.ready.withdraw(request);
    }
}

impl Barrier {
    fn closed_error(&self, name: &str, new: usize) -> Error {
        Error::new(
            Code::Cancelled,
            format!(
                "Barrier {name} is closed. Pending enqueues cancelled: {}. Number of new insertions: {new}. Number of \
                 incomplete keys: {}.",
                self.cancelled,
                self.incomplete.len()
            ),
        )
    }

    /// Inserts component `at` of a tuple for each key.
    fn insert(&mut self, name: &str, parts: usize, at: usize, keys: &[Bytes], values: &Tensor) -> Result<()> {
        if self.closed && (self.cancelled || (!keys.is_empty() && self.incomplete.is_empty())) {
            return Err(self.closed_error(name, keys.len()));
        }
        let mut fresh = false;
        for (i, key) in keys.iter().enumerate() {
            if !self.incomplete.contains_key(key) {
                if self.closed {
                    return Err(self.closed_error(name, keys.len()));
                }
                fresh = true;
            }
            let index = self.index;
            let (_, tuple) = self
                .incomplete
                .entry(key.clone())
                .or_insert_with(|| (index, vec![None; parts]));
            if tuple[at].is_some() {
                return Err(Error::invalid(format!(
                    "Key {} already has a value for component {at} in barrier {name}",
                    String::from_utf8_lossy(key)
                )));
            }
            let shape = values.shape().with_replaced(0, 1, &[]);
            tuple[at] = Some(values.slice_rows(i, i + 1)?.reshape(shape)?);
            if tuple.iter().all(Option::is_some)
                && let Some((index, tuple)) = self.incomplete.remove(key)
            {
                let mut whole = vec![Tensor::scalar(index), Tensor::string(key.clone())];
                whole.extend(tuple.into_iter().flatten());
                self.ready.push(whole);
            }
        }
        self.index += i64::from(fresh);
        if self.closed && self.incomplete.is_empty() {
            self.ready.close();
        }
        Ok(())
    }
}

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let mut types = init.attrs.dtypes("component_types")?;
    let given: Vec<PartialShape> = init.attrs.shapes("shapes")?.into_iter().cloned().collect();
    if !given.is_empty() && given.len() != types.len() {
        return Err(Error::invalid(format!(
            "barrier {} has {} component types but {} shapes",
            init.name,
            types.len(),
            given.len()
        )));
    }
    if init.attrs.int("capacity")? >= 0 {
        return Err(Error::invalid("a barrier can have no capacity but -1"));
    }
    let mut shapes = vec![PartialShape::scalar(), PartialShape::scalar()];
    match given.is_empty() {
        true => shapes.resize(types.len() + 2, PartialShape::UNKNOWN),
        false => shapes.extend(given),
    }
    types.splice(0..0, [DType::I64, DType::Str]);
    let spec = Arc::new(Spec {
        kind: Kind::Priority,
        types,
        shapes: Some(shapes),
        capacity: usize::MAX,
        min_after_dequeue: 0,
    });
    let wanted = spec.clone();
    Ok(Box::new(Handle::new(
        Place::of(init)?,
        move |name, mailbox| {
            let barrier = Barrier {
                ready: Queue::new(name, spec.clone(), [0, 0]),
                incomplete: HashMap::new(),
                index: i64::MIN,
                closed: false,
                cancelled: false,
            };
            Ok(Desk::new(name, spec.clone(), barrier, mailbox))
        },
        move |desk: &Desk<Barrier>| match *desk.info() == wanted {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "Shared barrier '{}' exists as {:?}, but the node asks for {wanted:?}",
                desk.name(),
                desk.info()
            ))),
        },
    )))
}

fn insert_many(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let at = init.attrs.int("component_index")?;
    Ok(Box::new(At::once(first_input::<Barrier>, move |cx, desk| {
        let (keys, values) = (cx.input(1)?, cx.input(2)?);
        let parts = desk.info().types.len() - 2;
        let at = usize::try_from(at).ok().filter(|a| *a < parts).ok_or_else(|| {
            Error::invalid(format!(
                "The component ID {at} is out of range: barrier {} has {parts} components",
                desk.name()
            ))
        })?;
        let (want, shape) = (desk.info().types[at + 2], values.shape());
        if values.dtype() != want {
            return Err(Error::invalid(format!(
                "component {at} of barrier {} is {want}, got {}",
                desk.name(),
                values.dtype()
            )));
        }
        if keys.shape().rank() != 1 || shape.first() != Some(&keys.len()) {
            return Err(Error::invalid(format!(
                "keys must be a vector and values have a row for each, got shapes {} and {shape}",
                keys.shape()
            )));
        }
        let row = PartialShape::from(shape).sub(1, shape.rank());
        if let Some(s) = desk.info().shapes.as_ref().and_then(|s| s.get(at + 2)) {
            s.merge(&row)?;
        }
        if !keys.is_empty() && values.is_empty() {
            return Err(Error::invalid(format!(
                "Tensors with no elements are not supported by barrier {}: received shape {shape}",
                desk.name()
            )));
        }
        let keys = keys.as_strings()?;
        settle(cx, desk, |room| {
            let done = room.counter.insert(desk.name(), parts, at, keys, values);
            done.map(|()| ((), None))
        })
    })))
}

fn take_many(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let types = init.attrs.dtypes("component_types")?;
    let small = init.attrs.bool("allow_small_batch")?;
    Ok(Box::new(At::waits(first_input::<Barrier>, move |cx, desk| {
        if desk.info().types[2..] != types {
            return Err(Error::invalid(format!(
                "barrier {} has components of {:?}, the operation of {types:?}",
                desk.name(),
                &desk.info().types[2..]
            )));
        }
        let n = cx.input(1)?.to_i64()?;
        let mut count =
            usize::try_from(n).map_err(|_| Error::invalid(format!("num_elements must not be negative, got {n}")))?;
        {
            let room = cx.state(desk.actor())?;
            let b = &room.counter;
            if b.closed {
                let mut available = b.ready.len();
                match small {
                    true => count = count.min(available),
                    false => available += b.incomplete.len(),
                }
                if available < count.max(1) {
                    return Err(Error::out_of_range(format!(
                        "Barrier '{}' is closed and has insufficient elements (requested {count}, total size \
                         {available})",
                        desk.name()
                    )));
                }
            }
        }
        let request = Request::DequeueMany {
            count,
            up_to: false,
            taken: Vec::new(),
            pool: cx.step().device.pool().clone(),
        };
        submit(cx, desk, request)
    })))
}

fn close(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let cancel = init.attrs.bool("cancel_pending_enqueues")?;
    Ok(Box::new(At::once(first_input::<Barrier>, move |cx, desk| {
        settle(cx, desk, |room| {
            let b = &mut room.counter;
            // A close that cancels may follow one that does not.
            if b.closed && (b.cancelled || !cancel) {
                let message = format!("Barrier '{}' is already closed.", desk.name());
                return Err(Error::new(Code::Cancelled, message));
            }
            (b.closed, b.cancelled) = (true, cancel);
            if cancel {
                b.incomplete.clear();
            }
            if b.incomplete.is_empty() {
                b.ready.close();
            }
            Ok(((), None))
        })
    })))
}

fn sizes(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let ready = init.op == "BarrierReadySize";
    Ok(Box::new(At::once(first_input::<Barrier>, move |cx, desk| {
        let n = {
            let room = cx.state(desk.actor())?;
            match ready {
                true => room.counter.ready.len(),
                false => room.counter.incomplete.len(),
            }
        };
        cx.set_output(0, Tensor::scalar(i32::try_from(n).unwrap_or(i32::MAX)));
        Ok(())
    })))
}

fn barrier() -> OpDef {
    OpDef::new("Barrier", Category::Queue)
        .doc("A collection of tuples that become whole by parts which arrive under a key, in any order.")
        .output("handle: Ref(string)")
        .attr("component_types: list(type) >= 1")
        .attr("shapes: list(shape) >= 0 = []")
        .attr("capacity: int = -1")
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .shape(shapes::scalar)
        .stateful()
        .not_differentiable()
        .cpu(make)
}

fn on_barrier(name: &'static str, doc: &'static str, kernel: KernelFn) -> OpDef {
    OpDef::new(name, Category::Queue)
        .doc(doc)
        .input("handle: Ref(string)")
        .stateful()
        .not_differentiable()
        .cpu(kernel)
}

fn barrier_insert_many() -> OpDef {
    on_barrier(
        "BarrierInsertMany",
        "Adds one component to the tuple of each key.",
        insert_many,
    )
    .input("keys: string")
    .input("values: T")
    .attr("T: type")
    .attr("component_index: int")
    .shape(shapes::none)
}

fn barrier_take_many() -> OpDef {
    on_barrier(
        "BarrierTakeMany",
        "Takes whole tuples; waits until there are enough.",
        take_many,
    )
    .input("num_elements: int32")
    .output("indices: int64")
    .output("keys: string")
    .output("values: component_types")
    .attr("component_types: list(type) >= 1")
    .attr("allow_small_batch: bool = false")
    .attr("wait_for_incomplete: bool = false")
    .attr("timeout_ms: int = -1")
    .shape(shapes::unknown)
}

fn barrier_close() -> OpDef {
    on_barrier(
        "BarrierClose",
        "Lets no new key in; tuples that were begun may be finished unless cancelled.",
        close,
    )
    .attr("cancel_pending_enqueues: bool = false")
    .shape(shapes::none)
}

fn barrier_ready_size() -> OpDef {
    on_barrier("BarrierReadySize", "How many tuples are whole.", sizes)
        .output("size: int32")
        .shape(shapes::scalar)
}

fn barrier_incomplete_size() -> OpDef {
    on_barrier("BarrierIncompleteSize", "How many tuples are not whole yet.", sizes)
        .output("size: int32")
        .shape(shapes::scalar)
}

register_ops!(
    barrier,
    barrier_insert_many,
    barrier_take_many,
    barrier_close,
    barrier_ready_size,
    barrier_incomplete_size,
);
