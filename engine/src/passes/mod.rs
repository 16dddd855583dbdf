//! Passes: rewriting the graph of a run before it is compiled.
//!
//! Each can be switched off ([`Passes`]), and none changes results: the conformance suite runs with all of them
//! on and off. They work on [`ir::Ir`], after everything was pruned that the run does not need.

mod bypass;
mod cse;
mod fold;
mod fuse_descent;
mod fuse_matmul;
pub mod ir;
mod same;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use actorflow_core::error::Result;
use actorflow_core::resource::ResourceManager;

/// Which passes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Passes {
    /// Computes what depends on constants only, once.
    pub constant_folding: bool,
    /// Goes around identities and changes of shape that change nothing.
    pub bypass: bool,
    /// Computes equal things once.
    pub common_subexpressions: bool,
    /// Runs a product of matrices with the bias and the `Relu` that follow as one node.
    pub product_fusion: bool,
    /// Adds a gradient that is a product of matrices to its variable without storing it.
    pub descent_fusion: bool,
}

impl Passes {
    /// All passes.
    pub const ALL: Passes = Passes {
        constant_folding: true,
        bypass: true,
        common_subexpressions: true,
        product_fusion: true,
        descent_fusion: true,
    };
    /// No pass: every node of the graph runs as it is (unneeded ones are still pruned).
    pub const NONE: Passes = Passes {
        constant_folding: false,
        bypass: false,
        common_subexpressions: false,
        product_fusion: false,
        descent_fusion: false,
    };
    /// Each pass alone, with its name.
    pub const EACH: &[(&str, Passes)] = &[
        (
            "constant_folding",
            Passes {
                constant_folding: true,
                ..Passes::NONE
            },
        ),
        (
            "bypass",
            Passes {
                bypass: true,
                ..Passes::NONE
            },
        ),
        (
            "common_subexpressions",
            Passes {
                common_subexpressions: true,
                ..Passes::NONE
            },
        ),
        (
            "product_fusion",
            Passes {
                product_fusion: true,
                ..Passes::NONE
            },
        ),
        (
            "descent_fusion",
            Passes {
                descent_fusion: true,
                ..Passes::NONE
            },
        ),
    ];
}

impl Default for Passes {
    fn default() -> Self {
        Passes::ALL
    }
}

/// How often the simplifying passes run one after the other; each may make work for the others.
const ROUNDS: usize = 4;

/// Runs the passes.
///
/// # Errors
/// If an operation that a pass needs is not linked in.
pub fn run(ir: &mut ir::Ir, passes: Passes, resources: &Arc<ResourceManager>) -> Result<()> {
    for _ in 0..ROUNDS {
        let mut changes = 0;
        if passes.constant_folding {
            changes += fold::run(ir, resources)?;
        }
        if passes.bypass {
            changes += bypass::run(ir);
        }
        if passes.common_subexpressions {
            changes += cse::run(ir);
        }
        if changes == 0 {
            break;
        }
    }
    if passes.product_fusion {
        fuse_matmul::run(ir)?;
    }
    if passes.descent_fusion {
        fuse_descent::run(ir)?;
    }
    Ok(())
}
