//! `MergeV2Checkpoints`: the parts that several tasks have saved become one checkpoint.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use crate::checkpoint::{Location, MergeOptions, merge};
use crate::shapes;

fn merge_v2_checkpoints() -> OpDef {
    OpDef::new("MergeV2Checkpoints", Category::Io)
        .doc("Makes one checkpoint of several; the files of the parts are moved.")
        .input("checkpoint_prefixes: string")
        .input("destination_prefix: string")
        .attr("delete_old_dirs: bool = true")
        .attr("allow_missing_files: bool = false")
        .stateful()
        .shape(|cx| {
            cx.input(0).with_rank(1)?;
            cx.input(1).with_rank(0)?;
            shapes::none(cx)
        })
        .not_differentiable()
        .cpu(|init| {
            let options = MergeOptions {
                delete_old_dirs: init.attrs.bool("delete_old_dirs")?,
                allow_missing: init.attrs.bool("allow_missing_files")?,
            };
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let (parts, target) = (cx.input(0)?, cx.input(1)?);
                if parts.shape().rank() != 1 {
                    return Err(Error::invalid(format!(
                        "Input checkpoint_prefixes should be an 1-D tensor, got {} instead.",
                        parts.shape()
                    )));
                }
                let target = match target.as_strings()? {
                    [one] if target.shape().is_scalar() => Location::in_graph(one, cx.files())?,
                    _ => {
                        return Err(Error::invalid(format!(
                            "Input destination_prefix should be a scalar tensor, got {} instead.",
                            target.shape()
                        )));
                    }
                };
                let parts = parts.as_strings()?.iter().map(|p| Location::in_graph(p, cx.files()));
                merge(&parts.collect::<Result<Vec<_>>>()?, &target, options)
            }))
        })
}

register_ops!(merge_v2_checkpoints);
