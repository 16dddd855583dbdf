//! `Stage`, `Unstage`, `StagePeek`, `StageSize`, `StageClear`: a buffer between steps.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::{Tensor, register_ops};

use super::handle::{Handle, Place};
use super::room::{At, Counter, Desk, Served, settle, submit};
use crate::shapes;

/// The limits of a staging area; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most elements.
    pub capacity: usize,
    /// The most bytes.
    pub memory: usize,
}

impl Limits {
    /// The limits that the attributes say.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if an attribute is missing or negative.
    pub fn of(init: &KernelInit<'_>) -> Result<Limits> {
        let limit = |name: &str| {
            let n = init.attrs.int(name)?;
            usize::try_from(n).map_err(|_| Error::invalid(format!("{name} must not be negative, got {n}")))
        };
        Ok(Limits {
            capacity: limit("capacity")?,
            memory: limit("memory_limit")?,
        })
    }

    /// Whether an element of `bytes` bytes has room among `count` elements of `used` bytes.
    pub fn admit(self, count: usize, used: usize, bytes: usize) -> bool {
        (self.capacity == 0 || count < self.capacity) && (self.memory == 0 || used.saturating_add(bytes) <= self.memory)
    }

    /// Fails for elements that will never have room.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` naming both sizes.
    pub fn check(self, bytes: usize) -> Result<()> {
        if self.memory > 0 && bytes > self.memory {
            return Err(Error::exhausted(format!(
                "Attempted to insert tensors with combined size of '{bytes}' bytes into a staging area with a memory \
                 limit of '{}'",
                self.memory
            )));
        }
        Ok(())
    }
}

/// The bytes of all tensors.
pub(super) fn bytes_of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> usize {
    tensors.into_iter().map(Tensor::byte_size).sum()
}

enum Request {
    Put(Vec<Tensor>),
    Get,
    /// The element with this number from the front.
    Peek(usize),
}

struct Staging {
    elements: VecDeque<Vec<Tensor>>,
    bytes: usize,
    limits: Limits,
}

impl Counter for Staging {
    type Request = Request;
    type Info = ();
    const KIND: &'static str = "staging area";
    const ORDERED: bool = false;

    fn line(request: &Request) -> usize {
        usize::from(!matches!(request, Request::Put(_)))
    }

    fn serve(&mut self, request: &mut Request, _: bool) -> Served {
        match request {
            Request::Put(element) => {
                let bytes = bytes_of(element.iter());
                if !self.limits.admit(self.elements.len(), self.bytes, bytes) {
                    return Served::Waits;
                }
                self.bytes += bytes;
                self.elements.push_back(std::mem::take(element));
                Served::Done(Ok(Vec::new()))
            }
            Request::Get => match self.elements.pop_front() {
                Some(e) => {
                    self.bytes -= bytes_of(e.iter());
                    Served::Done(Ok(e))
                }
                None => Served::Waits,
            },
            Request::Peek(i) => match self.elements.get(*i) {
                Some(e) => Served::Done(Ok(e.clone())),
                None => Served::Waits,
            },
        }
    }

    fn withdraw(&mut self, _: Request) {}
}

/// The area that a node names, made by `empty` if it is not there yet.
pub(super) fn area_of<C: Counter<Info = ()>>(
    init: &KernelInit<'_>,
    empty: fn(Limits) -> C,
) -> Result<impl Fn(&OpContext<'_>) -> Result<Arc<Desk<C>>> + Send + Sync + 'static + use<C>> {
    let limits = Limits::of(init)?;
    let handle = Handle::new(
        Place::of(init)?,
        move |name, mailbox| Ok(Desk::new(name, (), empty(limits), mailbox)),
        |_: &Desk<C>| Ok(()),
    );
    Ok(move |cx: &OpContext<'_>| handle.get(cx))
}

fn area(
    init: &KernelInit<'_>,
) -> Result<impl Fn(&OpContext<'_>) -> Result<Arc<Desk<Staging>>> + Send + Sync + 'static> {
    area_of(init, |limits| Staging {
        elements: VecDeque::new(),
        bytes: 0,
        limits,
    })
}

/// All inputs from `first` on.
pub(super) fn inputs_from(cx: &OpContext<'_>, first: usize) -> Result<Vec<Tensor>> {
    (first..cx.num_inputs()).map(|i| cx.input(i).cloned()).collect()
}

fn stage(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let limits = Limits::of(init)?;
    Ok(Box::new(At::waits(area(init)?, move |cx, desk| {
        let element = inputs_from(cx, 0)?;
        limits.check(bytes_of(element.iter()))?;
        submit(cx, desk, Request::Put(element))
    })))
}

/// Fails unless a tuple has the components that the node outputs.
fn check_outputs(cx: &OpContext<'_>, desk: &Desk<Staging>) -> Result<()> {
    let room = cx.state(desk.actor())?;
    match room.counter.elements.front() {
        Some(e) if e.len() != cx.num_outputs() => Err(Error::invalid(format!(
            "elements of staging area {} have {} components, the operation outputs {}",
            desk.name(),
            e.len(),
            cx.num_outputs()
        ))),
        _ => Ok(()),
    }
}

fn unstage(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::waits(area(init)?, |cx, desk| {
        check_outputs(cx, desk)?;
        submit(cx, desk, Request::Get)
    })))
}

fn peek(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::waits(area(init)?, |cx, desk| {
        check_outputs(cx, desk)?;
        let i = cx.input(0)?.to_i64()?;
        let i = usize::try_from(i).map_err(|_| Error::invalid(format!("the index must not be negative, got {i}")))?;
        submit(cx, desk, Request::Peek(i))
    })))
}

fn size(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(area(init)?, |cx, desk| {
        let n = cx.state(desk.actor())?.counter.elements.len();
        cx.set_output(0, Tensor::scalar(i32::try_from(n).unwrap_or(i32::MAX)));
        Ok(())
    })))
}

fn clear(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(At::once(area(init)?, |cx, desk| {
        settle(cx, desk, |room| {
            room.counter.elements.clear();
            room.counter.bytes = 0;
            Ok(((), None))
        })
    })))
}

/// An operation on a staging area that its attributes name; `least` is the fewest dtypes.
pub(super) fn on_area(name: &'static str, doc: &'static str, least: usize, kernel: KernelFn) -> OpDef {
    OpDef::new(name, Category::Queue)
        .doc(doc)
        .attr("capacity: int >= 0 = 0")
        .attr("memory_limit: int >= 0 = 0")
        .attr(&format!("dtypes: list(type) >= {least}"))
        .attr("container: string = ''")
        .attr("shared_name: string = ''")
        .stateful()
        .not_differentiable()
        .shape(shapes::unknown)
        .cpu(kernel)
}

fn ops() -> Vec<OpDef> {
    vec![
        on_area(
            "Stage",
            "Puts an element into the buffer; waits while it is full.",
            1,
            stage,
        )
        .input("values: dtypes"),
        on_area(
            "Unstage",
            "Takes the oldest element; waits while there is none.",
            1,
            unstage,
        )
        .output("values: dtypes"),
        on_area(
            "StagePeek",
            "Reads an element by its place; waits until there is one.",
            1,
            peek,
        )
        .input("index: int32")
        .output("values: dtypes"),
        on_area("StageSize", "How many elements the buffer has.", 0, size)
            .output("size: int32")
            .shape(shapes::scalar),
        on_area("StageClear", "Removes all elements.", 0, clear),
    ]
}

register_ops!(all ops);
