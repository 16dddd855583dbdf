//! Dividing what a run needs among devices.
//!
//! A run whose nodes are placed on several devices becomes one [`Part`] for each. An edge between two of them
//! becomes a `_Send` on the one and a `_Recv` on the other, one pair for each tensor and receiving device; a control
//! edge sends an empty token. What is read through a reference crosses as a value.
//!
//! **Loops.** A loop whose nodes are on several devices runs on each of them: every device gets a small loop of its
//! own that the one condition drives ([`loops`]), so that a `_Recv` inside of a loop fires in every iteration, the
//! last one included, where what was not computed arrives dead. `Enter` and `NextIteration` are where their `Merge`
//! is, and a loop's invariants enter it on every device that uses them.
//!
//! **When a receiver begins.** Tensors are pushed: a value leaves when it is there, whether it is awaited or not.
//! So a `_Recv` costs nothing while it waits, and there is no point in delaying it.

#![forbid(unsafe_code)]

mod edges;
mod frames;
mod loops;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use actorflow_actors::exec::Source;
use actorflow_core::DType;
use actorflow_core::error::{Error, Result};

use crate::passes::ir::Ir;

/// A device as far as dividing is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The full name: `/job:ps/replica:0/task:0/device:CPU:0`.
    pub(crate) name: Arc<str>,
    /// Which process it is in. Handles of resources cross devices of one process only.
    pub(crate) process: usize,
}

/// How edges between devices are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct DivideOptions {
    /// Single-precision tensors cross processes as bfloat16: half the bytes, 8 instead of 24 bits of mantissa
    /// (TensorFlow white paper, §5.5). Off unless asked for; a node's attribute `_lossy` (a bool), which
    /// [`lossy`](crate::placement::lossy) sets, decides for its own outputs.
    pub(crate) lossy: bool,
}

/// What one device does in a run.
pub(crate) struct Part {
    /// The device's number.
    pub(crate) device: usize,
    /// The nodes. Its feeds and fetches are those of `feeds` and `fetches`, in order.
    pub(crate) ir: Ir,
    /// Which of the run's feeds it needs.
    pub(crate) feeds: Vec<usize>,
    /// Which of the run's fetches it gives.
    pub(crate) fetches: Vec<usize>,
}

/// A tensor that crosses from one device to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crossing {
    /// The device that sends.
    pub(crate) from: usize,
    /// The device that receives.
    pub(crate) to: usize,
    /// What crosses: `node:output`, or `^node` for a control edge.
    pub(crate) tensor: String,
    /// The element type on the way.
    pub(crate) dtype: DType,
}

/// A run, divided.
pub(crate) struct Divided {
    /// One for each device that has anything to do.
    pub(crate) parts: Vec<Part>,
    /// What crosses; the number of an edge is its index here.
    pub(crate) crossings: Vec<Crossing>,
    /// Fetches that are fed: (which fetch, which feed).
    pub(crate) passed: Vec<(usize, usize)>,
}

/// Divides a run among the devices that its nodes are placed on.
///
/// # Errors
/// `INVALID_ARGUMENT` naming both nodes of an edge that cannot cross: a reference, a handle that leaves its process;
/// or the loop that has no condition but is on several devices.
pub(crate) fn divide(mut ir: Ir, sites: &[Site], options: DivideOptions) -> Result<Divided> {
    if let Some(n) = ir.nodes.iter().flatten().find(|n| n.device >= sites.len()) {
        return Err(n.blame(Error::internal("the node is on a device that is not there")));
    }
    let mut crossings = Vec::new();
    let first = ir.nodes.iter().flatten().map(|n| n.device).next();
    if ir.nodes.iter().flatten().any(|n| Some(n.device) != first) {
        frames::settle(&mut ir);
        let mut frames = frames::Frames::of(&ir)?;
        let triggers = loops::add(&mut ir, &mut frames)?;
        crossings = edges::cut(&mut ir, &mut frames, &triggers, sites, options)?;
    }
    split(ir, sites.len(), crossings)
}

/// Takes apart what has no edges between devices any more.
fn split(ir: Ir, devices: usize, crossings: Vec<Crossing>) -> Result<Divided> {
    let mut parts: Vec<Part> = (0..devices)
        .map(|device| Part {
            device,
            ir: Ir::default(),
            feeds: Vec::new(),
            fetches: Vec::new(),
        })
        .collect();
    let mut number = vec![usize::MAX; ir.nodes.len()];
    let mut place = vec![usize::MAX; ir.nodes.len()];
    for (i, n) in ir.nodes.iter().enumerate() {
        if let Some(n) = n {
            place[i] = n.device;
            number[i] = parts[n.device].ir.nodes.len();
            parts[n.device].ir.nodes.push(None);
        }
    }
    let mut passed = Vec::new();
    for (k, f) in ir.fetches.iter().enumerate() {
        match *f {
            Source::Node { node, output } => {
                let part = &mut parts[place[node]];
                part.fetches.push(k);
                part.ir.fetches.push(Source::Node {
                    node: number[node],
                    output,
                });
            }
            Source::Feed(feed) => passed.push((k, feed)),
        }
    }
    for (i, n) in ir.nodes.into_iter().enumerate() {
        let Some(mut n) = n else { continue };
        let part = &mut parts[n.device];
        for s in &mut n.inputs {
            *s = match *s {
                Source::Node { node, output } if place[node] == n.device => Source::Node {
                    node: number[node],
                    output,
                },
                Source::Node { .. } => return Err(n.blame(Error::internal("an edge between devices was not cut"))),
                Source::Feed(k) => Source::Feed(part.feeds.iter().position(|f| *f == k).unwrap_or_else(|| {
                    part.feeds.push(k);
                    part.feeds.len() - 1
                })),
            };
        }
        for c in &mut n.control {
            *c = number[*c];
        }
        part.ir.nodes[number[i]] = Some(n);
    }
    for p in &mut parts {
        p.ir.feeds = p.feeds.len();
        p.ir.sweep();
    }
    parts.retain(|p| p.ir.nodes.iter().any(Option::is_some));
    Ok(Divided {
        parts,
        crossings,
        passed,
    })
}
