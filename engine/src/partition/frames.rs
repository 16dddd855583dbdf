//! Which loop each node is in.

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_actors::exec::Source;
use actorflow_core::error::{Error, Result};

use crate::passes::ir::{Ir, IrNode};

/// The frame of what is outside of loops.
pub(super) const OUTSIDE: usize = 0;

/// A loop.
pub(super) struct Frame {
    pub(super) name: Arc<str>,
    pub(super) parent: usize,
    pub(super) parallel_iterations: i64,
    /// The node of its condition.
    pub(super) condition: Option<usize>,
}

/// The loops of a run, and where its nodes are in them. A loop comes behind the one around it.
pub(super) struct Frames {
    pub(super) list: Vec<Frame>,
    /// The frame in which each node fires.
    pub(super) of: Vec<usize>,
    /// The frame of each node's outputs: another one for `Enter` and `Exit`.
    pub(super) out: Vec<usize>,
}

/// Whether a node brings a value into a loop.
pub(super) fn is_enter(n: &IrNode) -> bool {
    matches!(n.def.name(), "Enter" | "RefEnter")
}

fn is_merge(n: &IrNode) -> bool {
    matches!(n.def.name(), "Merge" | "RefMerge")
}

fn is_next(n: &IrNode) -> bool {
    matches!(n.def.name(), "NextIteration" | "RefNextIteration")
}

fn is_invariant(n: &IrNode) -> bool {
    n.def.name() == "Enter" && n.attrs.bool("is_constant").unwrap_or(false)
}

/// Puts the structure of loops where it can run: what comes into a `Merge` from outside of the iteration on the device
/// of the `Merge`, and a loop's invariants on each device that uses them.
pub(super) fn settle(ir: &mut Ir) {
    let mut moves = Vec::new();
    for n in ir.nodes.iter().flatten() {
        if !is_merge(n) {
            continue;
        }
        for from in n.producers() {
            if ir
                .node(from)
                .is_some_and(|f| (is_enter(f) || is_next(f)) && f.device != n.device)
            {
                moves.push((from, n.device));
            }
        }
    }
    for (node, device) in moves {
        if let Some(n) = &mut ir.nodes[node] {
            n.device = device;
        }
    }
    let mut twins: HashMap<(usize, usize), usize> = HashMap::new();
    for i in 0..ir.nodes.len() {
        let Some(n) = ir.node(i) else { continue };
        let device = n.device;
        let elsewhere: Vec<usize> = n
            .producers()
            .filter(|p| ir.node(*p).is_some_and(|p| is_invariant(p) && p.device != device))
            .collect();
        for from in elsewhere {
            let twin = match (twins.get(&(from, device)), ir.node(from)) {
                (Some(twin), _) => *twin,
                (None, Some(enter)) => {
                    let twin = IrNode {
                        name: format!("{}/_on{device}", enter.name).into(),
                        device,
                        target: false,
                        pinned: false,
                        ..enter.clone()
                    };
                    let twin = ir.add(twin);
                    twins.insert((from, device), twin);
                    twin
                }
                (None, None) => continue,
            };
            if let Some(n) = &mut ir.nodes[i] {
                for s in &mut n.inputs {
                    if matches!(*s, Source::Node { node, .. } if node == from) {
                        *s = Source::Node { node: twin, output: 0 };
                    }
                }
            }
        }
    }
}

impl Frames {
    /// The loops of a run.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming an `Exit` that is in no loop, or an attribute that is missing.
    pub(super) fn of(ir: &Ir) -> Result<Frames> {
        let mut f = Frames {
            list: vec![Frame {
                name: "".into(),
                parent: OUTSIDE,
                parallel_iterations: 1,
                condition: None,
            }],
            of: vec![OUTSIDE; ir.nodes.len()],
            out: vec![OUTSIDE; ir.nodes.len()],
        };
        let mut by_name: HashMap<(usize, Arc<str>), usize> = HashMap::new();
        for i in ir.order() {
            let Some(n) = ir.node(i) else { continue };
            let back_edges = is_merge(n);
            let from_inside = n
                .dependencies()
                .find(|d| ir.node(*d).is_some_and(|d| !(back_edges && is_next(d))));
            let at = from_inside.map_or(OUTSIDE, |d| f.out[d]);
            f.of[i] = at;
            f.out[i] = match n.def.name() {
                "Enter" | "RefEnter" => {
                    let name: Arc<str> = n.attrs.str("frame_name").map_err(|e| n.blame(e))?.into();
                    let parallel_iterations = n.attrs.int("parallel_iterations").map_err(|e| n.blame(e))?;
                    let next = f.list.len();
                    let inside = *by_name.entry((at, name.clone())).or_insert(next);
                    if inside == next {
                        f.list.push(Frame {
                            name,
                            parent: at,
                            parallel_iterations,
                            condition: None,
                        });
                    }
                    inside
                }
                "Exit" | "RefExit" if at == OUTSIDE => {
                    return Err(n.blame(Error::invalid(format!(
                        "node {:?} is outside of any loop: its input does not come from an Enter",
                        n.name
                    ))));
                }
                "Exit" | "RefExit" => f.list[at].parent,
                _ => at,
            };
            if n.def.name() == "LoopCond" {
                f.list[at].condition = Some(i);
            }
        }
        Ok(f)
    }

    /// Notes the frames of a node that was added last.
    pub(super) fn note(&mut self, of: usize, out: usize) {
        self.of.push(of);
        self.out.push(out);
    }
}
