//! Passes: rewriting the graph of a run before it is compiled.
//!
//! Each can be switched off ([`Passes`]), and none changes results: the conformance suite runs with all of them
//! on and off. They work on [`ir::Ir`], after everything was pruned that the run does not need.

pub(crate) mod alias;
mod bypass;
mod cse;
mod fold;
mod fuse_descent;
mod fuse_elementwise;
mod fuse_pool_grad;
mod fuse_product;
mod gates;
pub mod ir;
mod same;
#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::resource::ResourceManager;

/// Declares the passes: what each does, and its name.
macro_rules! passes {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// Which passes run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct Passes {
            $($(#[$doc])* pub $name: bool,)*
        }

        impl Passes {
            /// All passes.
            pub const ALL: Passes = Passes { $($name: true,)* };
            /// No pass: every node of the graph runs as it is (unneeded ones are still pruned).
            pub const NONE: Passes = Passes { $($name: false,)* };
            /// Each pass alone, with its name.
            pub const EACH: &[(&str, Passes)] = &[
                $((stringify!($name), Passes { $name: true, ..Passes::NONE }),)*
            ];

            /// These and those.
            pub const fn and(self, other: Passes) -> Passes {
                Passes { $($name: self.$name || other.$name,)* }
            }
        }
    };
}

passes! {
    /// Computes what depends on constants only, once.
    constant_folding;
    /// Goes around identities and changes of shape that change nothing.
    bypass;
    /// Computes equal things once.
    common_subexpressions;
    /// Drops control edges of gradients' gates that hold nothing back.
    open_gates;
    /// Runs a product of matrices or a convolution with the bias and the `Relu` that follow as one node.
    product_fusion;
    /// Runs the gradient of a max pool and that of the `Relu` before it as one node.
    pool_fusion;
    /// Adds a gradient that is a product of matrices to its variable without storing it.
    descent_fusion;
    /// Runs chains and trees of element-wise operations as one node.
    elementwise_fusion;
}

impl Default for Passes {
    fn default() -> Self {
        Passes::ALL
    }
}

/// `all`, `none`, or the names of some passes with commas between them.
impl FromStr for Passes {
    type Err = Error;

    fn from_str(s: &str) -> Result<Passes> {
        match s {
            "all" => return Ok(Passes::ALL),
            "none" => return Ok(Passes::NONE),
            _ => {}
        }
        s.split(',').try_fold(Passes::NONE, |sum, name| {
            let found = Passes::EACH.iter().find(|(n, _)| *n == name);
            found.map(|(_, p)| sum.and(*p)).ok_or_else(|| {
                let names: Vec<&str> = Passes::EACH.iter().map(|(n, _)| *n).collect();
                Error::invalid(format!(
                    "there is no pass {name:?}; the passes are {}, or all, or none",
                    names.join(", ")
                ))
            })
        })
    }
}

/// How often the simplifying passes run one after the other; each may make work for the others.
const ROUNDS: usize = 4;

/// Runs the passes.
///
/// # Errors
/// If an operation that a pass needs is not linked in.
pub fn run(ir: &mut ir::Ir, passes: Passes, resources: &Arc<ResourceManager>) -> Result<()> {
    alias::run(ir)?;
    optimize(ir, passes, resources)
}

/// Runs the passes on the part of a graph that one device has, whose references are read when they should be.
///
/// # Errors
/// As [`run`].
pub(crate) fn optimize(ir: &mut ir::Ir, passes: Passes, resources: &Arc<ResourceManager>) -> Result<()> {
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
    if passes.open_gates && gates::run(ir) > 0 && passes.bypass {
        bypass::run(ir);
    }
    if passes.product_fusion {
        fuse_product::run(ir)?;
    }
    if passes.pool_fusion {
        fuse_pool_grad::run(ir)?;
    }
    if passes.descent_fusion {
        fuse_descent::run(ir)?;
    }
    if passes.elementwise_fusion {
        fuse_elementwise::run(ir)?;
    }
    Ok(())
}
