//! `ShardedFilename`, `ShardedFilespec`: the names of the parts of a checkpoint.

#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::support::one_string;
use crate::shapes;

fn scalars(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    for i in 0..cx.num_inputs() {
        cx.input(i).with_rank(0)?;
    }
    shapes::scalar(cx)
}

/// The name with a suffix of which `C`'s `%05d` writes the numbers.
fn named(cx: &mut OpContext<'_>, suffix: &str) -> Result<()> {
    let mut name = one_string(cx.input(0)?, "basename")?.to_vec();
    name.extend_from_slice(suffix.as_bytes());
    cx.set_output(0, Tensor::string(name));
    Ok(())
}

fn sharded_filename() -> OpDef {
    OpDef::new("ShardedFilename", Category::Io)
        .doc("The name of shard `shard` of `num_shards`: `basename-00000-of-00002`.")
        .input("basename: string")
        .input("shard: int32")
        .input("num_shards: int32")
        .output("filename: string")
        .shape(scalars)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let suffix = format!("-{:05}-of-{:05}", cx.scalar::<i32>(1)?, cx.scalar::<i32>(2)?);
                named(cx, &suffix)
            }))
        })
}

fn sharded_filespec() -> OpDef {
    OpDef::new("ShardedFilespec", Category::Io)
        .doc("The pattern that matches the names of all shards: `basename-?????-of-00002`.")
        .input("basename: string")
        .input("num_shards: int32")
        .output("filename: string")
        .shape(scalars)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let suffix = format!("-?????-of-{:05}", cx.scalar::<i32>(1)?);
                named(cx, &suffix)
            }))
        })
}

register_ops!(sharded_filename, sharded_filespec);
