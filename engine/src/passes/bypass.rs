//! Removing nodes that hand on what they get: identities, and shape changes that change no shape.
//!
//! Why no result changes: whoever takes the node's output takes its input instead, which is the same tensor, is dead
//! when it is and belongs to the same loop. Left alone are nodes that somebody waits for or that wait for somebody
//! (their place in time matters), and nodes that read a reference (they take its value at the time when they run).
//! What else such a node takes, the shape of a `Reshape`, must be a constant that waits for nothing, so that nothing is
//! lost with it.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use actorflow_actors::exec::Source;

use super::ir::{Ir, IrNode};

/// Bypasses all such nodes; how many.
pub(super) fn run(ir: &mut Ir) -> usize {
    let mut to: HashMap<(usize, usize), Source> = HashMap::new();
    let mut gone = 0;
    for (i, n) in ir.nodes.iter().enumerate() {
        let Some(n) = n else { continue };
        if n.pinned || !n.control.is_empty() || !ir.is_free(n) || !hands_on(ir, n) {
            continue;
        }
        gone += 1;
        for (k, s) in n.inputs.iter().enumerate().take(n.output_types.len()) {
            to.insert((i, k), *s);
        }
    }
    if gone > 0 {
        ir.redirect(&to);
        ir.sweep();
    }
    gone
}

/// Whether each output of a node is always the input of the same number.
fn hands_on(ir: &Ir, n: &IrNode) -> bool {
    // A constant that waits for nothing.
    let constant = |i: usize| {
        let s = *n.inputs.get(i)?;
        let waits = matches!(s, Source::Node { node, .. } if ir.node(node).is_some_and(|c| !c.control.is_empty()));
        ir.constant(s).filter(|_| !waits)
    };
    // The first input and the output have one shape, known when the graph was built.
    let keeps_shape = || {
        let from = n
            .inputs
            .first()
            .and_then(|s| ir.shape_of(*s))
            .and_then(|s| s.to_shape());
        from.is_some() && from == n.output_shapes.first().and_then(|s| s.to_shape())
    };
    match n.def.name() {
        "Identity" | "IdentityN" | "Snapshot" | "StopGradient" | "PreventGradient" => {
            n.inputs.len() == n.output_types.len()
        }
        "Reshape" | "BroadcastTo" => constant(1).is_some() && keeps_shape(),
        // Squeezing without an axis to squeeze.
        "Squeeze" => keeps_shape(),
        "Cast" => n.input_types.first() == n.output_types.first(),
        // Reducing along no axis.
        "Sum" | "Prod" | "Mean" | "Max" | "Min" | "All" | "Any" => constant(1).is_some_and(|t| t.is_empty()),
        "Transpose" => constant(1)
            .and_then(|p| p.to_i64_vec().ok())
            .is_some_and(|p| p.iter().enumerate().all(|(i, d)| usize::try_from(*d) == Ok(i)) && keeps_shape()),
        _ => false,
    }
}
