//! How a queue keeps its elements and which leaves first.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use actorflow_core::Tensor;
use actorflow_core::philox::Philox;

use crate::ops::random::stream::Singles;

/// One element: a tensor for each component.
pub type Element = Vec<Tensor>;

/// The elements of a queue.
pub enum Store {
    /// First in, first out.
    Fifo(VecDeque<Element>),
    /// Any may leave next.
    Shuffle {
        /// In no order.
        elements: Vec<Element>,
        /// Picks them.
        random: Box<Singles>,
    },
    /// The one with the least priority number leaves next; a binary heap.
    Priority(Vec<(i64, Element)>),
}

impl Store {
    /// An empty store of a shuffling queue.
    pub fn shuffle(seed: u64, seed2: u64) -> Store {
        Store::Shuffle {
            elements: Vec::new(),
            random: Box::new(Singles::new(Philox::new(seed, seed2))),
        }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Store::Fifo(q) => q.len(),
            Store::Shuffle { elements, .. } => elements.len(),
            Store::Priority(heap) => heap.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an element.
    pub fn push(&mut self, e: Element) {
        match self {
            Store::Fifo(q) => q.push_back(e),
            Store::Shuffle { elements, .. } => elements.push(e),
            Store::Priority(heap) => {
                // The first component was checked to be an int64 scalar when the element came in.
                let priority = e.first().and_then(|t| t.to_scalar::<i64>().ok()).unwrap_or(0);
                heap.push((priority, e));
                let end = heap.len() - 1;
                sift_up(heap, end);
            }
        }
    }

    /// Takes the element that leaves next.
    pub fn pop(&mut self) -> Option<Element> {
        match self {
            Store::Fifo(q) => q.pop_front(),
            Store::Shuffle { elements, random } => {
                let n = u32::try_from(elements.len()).unwrap_or(u32::MAX);
                let at = random.next().checked_rem(n)?;
                Some(elements.swap_remove(at as usize))
            }
            Store::Priority(heap) => {
                let last = heap.len().checked_sub(1)?;
                heap.swap(0, last);
                let (_, e) = heap.pop()?;
                sift_down(heap);
                Some(e)
            }
        }
    }

    /// Puts elements back that were taken in this order.
    pub fn put_back(&mut self, taken: Vec<Element>) {
        match self {
            Store::Fifo(q) => taken.into_iter().rev().for_each(|e| q.push_front(e)),
            _ => taken.into_iter().for_each(|e| self.push(e)),
        }
    }
}

/// Moves the last element of a heap up to its place.
fn sift_up(heap: &mut [(i64, Element)], mut at: usize) {
    while at > 0 {
        let parent = (at - 1) / 2;
        if heap[parent].0 <= heap[at].0 {
            return;
        }
        heap.swap(parent, at);
        at = parent;
    }
}

/// Moves the first element of a heap to its place: down along the smaller children to the bottom, and up from there, so
/// that elements of one priority leave in the order that C++'s heap functions give them.
fn sift_down(heap: &mut [(i64, Element)]) {
    let n = heap.len();
    let mut at = 0;
    loop {
        let (left, right) = (2 * at + 1, 2 * at + 2);
        if left >= n {
            break;
        }
        let child = if right < n && heap[right].0 <= heap[left].0 {
            right
        } else {
            left
        };
        heap.swap(at, child);
        at = child;
    }
    sift_up(heap, at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_leave_in_order_whatever_the_order_they_came() {
        let mut s = Store::Priority(Vec::new());
        for p in [5i64, -3, 9, 5, 0, 7, -3, 2] {
            s.push(vec![Tensor::scalar(p)]);
        }
        let out: Vec<i64> = std::iter::from_fn(|| s.pop()).map(|e| e[0].to_i64().unwrap()).collect();
        assert_eq!(out, [-3, -3, 0, 2, 5, 5, 7, 9]);
    }

    #[test]
    fn a_shuffle_returns_every_element_once() {
        let mut s = Store::shuffle(1, 2);
        (0..20i32).for_each(|i| s.push(vec![Tensor::scalar(i)]));
        let out: Vec<i64> = std::iter::from_fn(|| s.pop()).map(|e| e[0].to_i64().unwrap()).collect();
        let mut sorted = out.clone();
        sorted.sort_unstable();
        assert!(sorted == (0..20).collect::<Vec<_>>() && out != sorted);
    }
}
