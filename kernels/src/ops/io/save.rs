//! `SaveV2`, `Save`, `SaveSlices`: tensors into a checkpoint.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, register_ops};

use super::support::{Names, check_names, one_string, slice_of};
use crate::checkpoint::{Location, Writer};

/// There are as many tensors, after `fixed` other inputs, as names.
fn shape(cx: &ShapeContext<'_>, fixed: usize) -> Result<Vec<PartialShape>> {
    let names = check_names(cx, fixed - 1)?;
    let tensors = cx.num_inputs().saturating_sub(fixed);
    match names {
        Some(n) if n != tensors => Err(Error::invalid(format!("Got {n} tensor names but {tensors} tensors."))),
        _ => Ok(Vec::new()),
    }
}

fn save_v2() -> OpDef {
    OpDef::new("SaveV2", Category::Io)
        .doc("Saves tensors, or parts of tensors, under names in the checkpoint `prefix`.")
        .input("prefix: string")
        .input("tensor_names: string")
        .input("shape_and_slices: string")
        .input("tensors: dtypes")
        .attr("dtypes: list(type) >= 1")
        .stateful()
        .shape(|cx| shape(cx, 3))
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let names = Names::of(cx)?;
                let tensors = cx.num_inputs() - 3;
                if names.names.len() != tensors {
                    return Err(Error::invalid(format!(
                        "Got {} tensor names but {tensors} tensors.",
                        names.names.len()
                    )));
                }
                let mut writer = Writer::new(names.prefix.clone());
                for (i, name) in names.names.iter().enumerate() {
                    match names.slice(i)? {
                        Some(slice) => writer.add_slice(name, &slice, cx.input(i + 3)?)?,
                        None => writer.add(name, cx.input(i + 3)?)?,
                    }
                }
                writer.finish()
            }))
        })
}

/// The operations of the first version differ in where they have slices.
fn first_version(cx: &mut OpContext<'_>, sliced: bool) -> Result<()> {
    let fixed = if sliced { 3 } else { 2 };
    let names = cx.input(1)?;
    let wanted = names.len().saturating_add(fixed);
    if wanted != cx.num_inputs() {
        return Err(Error::invalid(format!(
            "Expected totally {wanted} inputs as input #1 (which is a string tensor of saved names) contains {} names, \
             but received {} inputs",
            names.len(),
            cx.num_inputs()
        )));
    }
    let file = one_string(cx.input(0)?, "filename")?;
    let slices = match sliced {
        true => Some(cx.input(2)?.as_strings()?),
        false => None,
    };
    if slices.is_some_and(|s| s.len() != names.len()) {
        return Err(Error::invalid(format!(
            "Expected {} elements for the tensor slice specification, got {}",
            names.len(),
            cx.input(2)?.len()
        )));
    }
    let mut writer = Writer::new(Location::in_graph(file, cx.files())?);
    for (i, name) in names.as_strings()?.iter().enumerate() {
        let t = cx.input(i + fixed)?;
        match slices.map_or(Ok(None), |s| slice_of(&s[i]))? {
            Some(slice) => writer.add_slice(name, &slice, t)?,
            None => writer.add(name, t)?,
        }
    }
    writer.finish()
}

fn save() -> OpDef {
    OpDef::new("Save", Category::Io)
        .doc("Saves tensors under names; `SaveV2` in its first version.")
        .input("filename: string")
        .input("tensor_names: string")
        .input("data: T")
        .attr("T: list(type) >= 1")
        .stateful()
        .shape(|cx| shape(cx, 2))
        .not_differentiable()
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| first_version(cx, false))))
}

fn save_slices() -> OpDef {
    OpDef::new("SaveSlices", Category::Io)
        .doc("Saves parts of tensors under names; `SaveV2` in its first version.")
        .input("filename: string")
        .input("tensor_names: string")
        .input("shapes_and_slices: string")
        .input("data: T")
        .attr("T: list(type) >= 1")
        .stateful()
        .shape(|cx| shape(cx, 3))
        .not_differentiable()
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| first_version(cx, true))))
}

register_ops!(save_v2, save, save_slices);
