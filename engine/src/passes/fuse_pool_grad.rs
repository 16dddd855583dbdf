//! Pool fusion: the gradient of a max pool, and then that of the `Relu` whose output was pooled, become one
//! `_MaxPoolGradOfRelu`, which writes and reads the large gradient between them never.
//!
//! Why no result changes: nobody else sees the pool's gradient, the features of `ReluGrad` are the very input that was
//! pooled, and every element is multiplied by the same one or zero as before. The fused node waits for everything that
//! the two waited for, and has the name of the pool's gradient, which is what can fail.

#![forbid(unsafe_code)]

use actorflow_actors::exec::Source;
use actorflow_core::DType;
use actorflow_core::error::Result;
use actorflow_core::op::registry;

use super::ir::{Ir, IrNode};

/// Fuses every pair that it can; how many.
///
/// # Errors
/// `UNIMPLEMENTED` if there is no fused operation.
pub(super) fn run(ir: &mut Ir) -> Result<usize> {
    let users = ir.users();
    let mut fused = 0;
    for i in 0..ir.nodes.len() {
        let Some(j) = users.only_user(ir, i) else { continue };
        let (Some(pool), Some(relu)) = (ir.node(i), ir.node(j)) else {
            continue;
        };
        if !is_pair(ir, (i, pool), relu) {
            continue;
        }
        let pool = pool.clone();
        let def = registry().get("_MaxPoolGradOfRelu")?;
        if let Some(n) = &mut ir.nodes[j] {
            n.name = pool.name;
            n.location = pool.location;
            n.def = def;
            n.attrs = pool.attrs;
            n.inputs = pool.inputs;
            n.input_types = pool.input_types;
            n.input_refs = pool.input_refs;
            n.control.extend(pool.control);
            n.control.sort_unstable();
            n.control.dedup();
            fused += 1;
        }
    }
    if fused > 0 {
        ir.sweep();
    }
    Ok(fused)
}

/// Whether `relu` is the gradient of the `Relu` whose output was pooled, taken of `pool`, which is node `i`.
fn is_pair(ir: &Ir, (i, pool): (usize, &IrNode), relu: &IrNode) -> bool {
    pool.def.name() == "MaxPoolGrad"
        && relu.def.name() == "ReluGrad"
        && matches!(pool.output_types[..], [DType::F32 | DType::F64])
        && ir.is_free(pool)
        && ir.is_free(relu)
        && matches!(relu.inputs[..], [Source::Node { node, .. }, features]
            if node == i && pool.inputs.first() == Some(&features))
}
