//! The loops that let a device take part in a loop of others.
//!
//! On each device that has nodes of a loop which is on several: a token enters the loop, meets the condition in a
//! `Switch`, and goes on to the next iteration as long as the condition holds. Its `Merge` fires in every iteration, so
//! it is what a `_Recv` of that iteration waits for. A loop inside of another one takes its token from the outer
//! loop's `Merge`. (TensorFlow: `AddControlFlow` in `graph_partition.cc`.)

use std::collections::{BTreeSet, HashMap};

use actorflow_actors::exec::Source;
use actorflow_core::error::{Error, Result};
use actorflow_core::op::registry;
use actorflow_core::{Attrs, DType, PartialShape, Tensor};

use super::frames::{Frames, OUTSIDE};
use crate::passes::ir::{Ir, IrNode};

/// What fires in every iteration of a loop on a device.
pub(super) type Triggers = HashMap<(usize, usize), usize>;

/// A new node of one of the operations that dividing needs, without inputs and outputs.
pub(super) fn bare(op: &str, name: String, device: usize) -> Result<IrNode> {
    let mut attrs = Attrs::new();
    let def = registry().get(op)?;
    def.fill_defaults(&mut attrs);
    Ok(IrNode {
        name: name.into(),
        def,
        attrs,
        inputs: Vec::new(),
        input_types: Vec::new(),
        input_refs: Vec::new(),
        control: Vec::new(),
        output_types: Vec::new(),
        output_refs: Vec::new(),
        output_shapes: Vec::new(),
        location: None,
        parts: Default::default(),
        device,
        target: false,
        pinned: false,
    })
}

impl IrNode {
    fn with_input(mut self, source: Source, dtype: DType) -> Self {
        self.inputs.push(source);
        self.input_types.push(dtype);
        self.input_refs.push(false);
        self
    }

    fn with_output(mut self, dtype: DType) -> Self {
        self.output_types.push(dtype);
        self.output_refs.push(false);
        self.output_shapes.push(PartialShape::scalar());
        self
    }
}

/// A constant that means nothing but that it is there.
pub(super) fn token(name: String, device: usize, after: Vec<usize>) -> Result<IrNode> {
    let mut n = bare("Const", name, device)?.with_output(DType::Bool);
    n.attrs.set("dtype", DType::Bool);
    n.attrs.set("value", Tensor::scalar(true));
    n.control = after;
    Ok(n)
}

fn output(node: usize, output: usize) -> Source {
    Source::Node { node, output }
}

/// Adds the loops, and says what fires in every iteration.
///
/// # Errors
/// `INVALID_ARGUMENT` naming a loop on several devices that has no condition.
pub(super) fn add(ir: &mut Ir, frames: &mut Frames) -> Result<Triggers> {
    let mut devices: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); frames.list.len()];
    for (i, n) in ir.nodes.iter().enumerate() {
        if let Some(n) = n {
            devices[frames.of[i]].insert(n.device);
            devices[frames.out[i]].insert(n.device);
        }
    }
    // An inner loop is entered from the outer one on every device.
    for f in (1..frames.list.len()).rev() {
        let inner = devices[f].clone();
        devices[frames.list[f].parent].extend(inner);
    }
    let mut triggers = Triggers::new();
    for f in 1..frames.list.len() {
        if devices[f].len() < 2 {
            continue;
        }
        for &device in &devices[f] {
            let merge = add_one(ir, frames, &triggers, f, device)?;
            triggers.insert((f, device), merge);
        }
    }
    Ok(triggers)
}

fn add_one(ir: &mut Ir, frames: &mut Frames, triggers: &Triggers, f: usize, device: usize) -> Result<usize> {
    let frame = &frames.list[f];
    let (name, parent) = (frame.name.clone(), frame.parent);
    let Some(condition) = frame.condition else {
        return Err(Error::invalid(format!(
            "loop {name:?} is on several devices but has no LoopCond, so none of them knows when it ends; place all of \
             it on one device"
        )));
    };
    let parallel = frame.parallel_iterations;
    let named = |what: &str| format!("{name}/_control{device}/{what}");
    let around = match parent {
        OUTSIDE => Vec::new(),
        _ => vec![triggers.get(&(parent, device)).copied().ok_or_else(|| {
            Error::internal(format!(
                "the loop around {name:?} has no control loop on device {device}"
            ))
        })?],
    };
    let start = ir.add(token(named("start"), device, around)?);
    frames.note(parent, parent);
    let mut enter = bare("Enter", named("Enter"), device)?
        .with_input(output(start, 0), DType::Bool)
        .with_output(DType::Bool);
    enter.attrs.set("T", DType::Bool);
    enter.attrs.set("frame_name", name.to_string());
    enter.attrs.set("is_constant", false);
    enter.attrs.set("parallel_iterations", parallel);
    let enter = ir.add(enter);
    frames.note(parent, f);
    let merge_number = enter + 1;
    let mut merge = bare("Merge", named("Merge"), device)?
        .with_input(output(enter, 0), DType::Bool)
        .with_input(output(merge_number + 2, 0), DType::Bool)
        .with_output(DType::Bool)
        .with_output(DType::I32);
    merge.attrs.set("T", DType::Bool);
    merge.attrs.set("N", 2i64);
    let merge = ir.add(merge);
    frames.note(f, f);
    let mut switch = bare("Switch", named("Switch"), device)?
        .with_input(output(merge, 0), DType::Bool)
        .with_input(output(condition, 0), DType::Bool)
        .with_output(DType::Bool)
        .with_output(DType::Bool);
    switch.attrs.set("T", DType::Bool);
    let switch = ir.add(switch);
    frames.note(f, f);
    let mut next = bare("NextIteration", named("NextIteration"), device)?
        .with_input(output(switch, 1), DType::Bool)
        .with_output(DType::Bool);
    next.attrs.set("T", DType::Bool);
    // Nothing but the iterations themselves depends on it.
    next.target = true;
    ir.add(next);
    frames.note(f, f);
    Ok(merge)
}
