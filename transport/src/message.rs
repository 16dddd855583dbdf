//! What crosses the wire as its users see it: messages with headers of their own, and tensors under edge numbers.
#![forbid(unsafe_code)]

use actorflow_core::Tensor;
use bytes::Bytes;

/// A request, an answer or a notice. What its kind and contents mean is agreed between its sender and receiver.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message {
    /// What the message is; numbers are the users' own.
    pub kind: u16,
    /// The step it belongs to, 0 for none.
    pub step: u64,
    /// A small header, at most [`MAX_HEADER`](crate::frame::MAX_HEADER) bytes, opaque here; see [`header`](crate::header).
    pub header: Bytes,
    /// Bytes of any kind (a serialised graph, say), opaque here.
    pub blob: Bytes,
    /// Tensors that travel with it, at most [`MAX_TENSORS`](crate::frame::MAX_TENSORS).
    pub tensors: Vec<Tensor>,
}

impl Message {
    /// A message of `kind` with nothing in it.
    pub fn new(kind: u16) -> Message {
        Message {
            kind,
            ..Message::default()
        }
    }

    /// Bytes of header, blob and tensors.
    pub fn size(&self) -> usize {
        let tensors = self.tensors.iter().map(Tensor::byte_size);
        tensors.fold(self.header.len().saturating_add(self.blob.len()), usize::saturating_add)
    }
}

/// A tensor on its way to an edge of a registered plan: pushed by its producer, never asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Parcel {
    /// The step that produced it.
    pub step: u64,
    /// The edge, numbered when the plan was registered.
    pub edge: u32,
    /// Which of the edge's values this is: the iteration of a loop, say.
    pub tag: u64,
    /// The value; `None` is a dead one.
    pub value: Option<Tensor>,
}

impl Parcel {
    /// Bytes of the value.
    pub fn size(&self) -> usize {
        self.value.as_ref().map_or(0, Tensor::byte_size)
    }
}
