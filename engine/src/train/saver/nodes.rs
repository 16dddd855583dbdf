//! The nodes of a saver: TensorFlow's, under TensorFlow's names (`python/training/saver.py`).

use std::collections::BTreeMap;

use actorflow_core::error::{Error, Result};
use actorflow_core::{DType, Graph, Operation, Output, PartialShape, Tensor};

/// What is saved under a name.
#[derive(Debug, Clone)]
pub struct SavedVariable {
    /// The name in the checkpoint.
    pub name: String,
    /// The handle of a resource variable, or a reference.
    pub handle: Output,
    /// `10 20 0,5:-` if the variable is a part of a tensor that is saved under the name; else empty.
    pub slice: String,
}

impl SavedVariable {
    /// A variable that is saved whole.
    pub fn new(name: impl Into<String>, handle: &Output) -> SavedVariable {
        SavedVariable {
            name: name.into(),
            handle: handle.clone(),
            slice: String::new(),
        }
    }

    /// It is a part of a larger tensor: the shape of the whole, and where the part is, as in `10 20 0,5:-`.
    pub fn slice(mut self, spec: impl Into<String>) -> SavedVariable {
        self.slice = spec.into();
        self
    }

    fn is_resource(&self) -> Result<bool> {
        match self.handle.op().node().op_name() {
            "VarHandleOp" => Ok(true),
            _ if self.handle.is_ref() => Ok(false),
            other => Err(Error::invalid(format!(
                "{} cannot be saved: it is a {other}, not a variable",
                self.handle.name()
            ))),
        }
    }

    pub(super) fn dtype(&self) -> Result<DType> {
        self.handle.op().node().attrs().dtype("dtype")
    }

    /// The shape of the variable, or of the part.
    pub(super) fn shape(&self) -> PartialShape {
        let node = self.handle.op().node();
        node.attrs().shape("shape").cloned().unwrap_or_default()
    }
}

/// The nodes that a program runs.
pub(super) struct Nodes {
    /// Takes the prefix.
    pub(super) filename: Output,
    pub(super) save: Operation,
    pub(super) restore: Operation,
}

fn strings<'s>(g: &Graph, name: &str, items: impl Iterator<Item = &'s str>) -> Result<Output> {
    let items: Vec<String> = items.map(str::to_owned).collect();
    constant(g, name, Tensor::strings([items.len()], items)?)
}

fn constant(g: &Graph, name: &str, value: Tensor) -> Result<Output> {
    let b = g.op("Const").attr("dtype", value.dtype()).attr("value", value);
    b.name(name).output()
}

/// Adds the nodes to the graph, in a scope `save`.
pub(super) fn build(g: &Graph, variables: &[SavedVariable], sharded: bool) -> Result<Nodes> {
    let _now = g.no_control_dependencies();
    let _scope = g.name_scope("save");
    let default = constant(g, "filename/input", Tensor::from("model"))?;
    let pass = |from: &Output, name: &str| {
        let b = g.op("PlaceholderWithDefault").input(from);
        b.attr("shape", PartialShape::scalar()).name(name).output()
    };
    let filename = pass(&pass(&default, "filename")?, "Const")?;
    let groups = if sharded {
        by_device(variables)
    } else {
        vec![variables.iter().collect()]
    };
    let save = match sharded {
        false => {
            let done = save_group(g, &filename, &groups[0])?;
            let b = g.op("Identity").input(&filename).control_input(&done);
            b.name("control_dependency").finish()?
        }
        true => save_shards(g, &filename, &groups)?,
    };
    let mut assigned = Vec::new();
    for group in &groups {
        assigned.extend(restore_group(g, &filename, group)?);
    }
    let restore = g.group("restore_all", &assigned)?;
    Ok(Nodes {
        filename,
        save,
        restore,
    })
}

/// The variables of each device, in the order of the devices' names.
fn by_device(variables: &[SavedVariable]) -> Vec<Vec<&SavedVariable>> {
    let mut groups: BTreeMap<String, Vec<&SavedVariable>> = BTreeMap::new();
    for v in variables {
        groups
            .entry(v.handle.op().node().device().to_owned())
            .or_default()
            .push(v);
    }
    groups.into_values().collect()
}

fn names(g: &Graph, scope: &str, group: &[&SavedVariable]) -> Result<[Output; 2]> {
    Ok([
        strings(
            g,
            &format!("{scope}/tensor_names"),
            group.iter().map(|v| v.name.as_str()),
        )?,
        strings(
            g,
            &format!("{scope}/shape_and_slices"),
            group.iter().map(|v| v.slice.as_str()),
        )?,
    ])
}

fn save_group(g: &Graph, prefix: &Output, group: &[&SavedVariable]) -> Result<Operation> {
    let [tensor_names, slices] = names(g, "SaveV2", group)?;
    let mut values = Vec::new();
    for v in group {
        values.push(match v.is_resource()? {
            true => {
                let b = g.op("ReadVariableOp").input(&v.handle).attr("dtype", v.dtype()?);
                b.colocate_with(&v.handle.op().name()).output()?
            }
            false => v.handle.clone(),
        });
    }
    let b = g.op("SaveV2").input(prefix).input(&tensor_names).input(&slices);
    b.input_list(&values).name("SaveV2").finish()
}

/// Each device saves its own part beside the target; then the parts are merged.
fn save_shards(g: &Graph, filename: &Output, groups: &[Vec<&SavedVariable>]) -> Result<Operation> {
    let suffix = constant(g, "suffix", Tensor::from(format!("_temp_{}/part", super::unique())))?;
    let inputs = [filename.clone(), suffix];
    let part = g.op("StringJoin").input_list(&inputs).name("StringJoin").output()?;
    let count = constant(g, "num_shards", Tensor::from(groups.len() as i32))?;
    let (mut parts, mut saved) = (Vec::new(), Vec::new());
    for (i, group) in groups.iter().enumerate() {
        let device = group.first().map(|v| v.handle.op().node().device().to_owned());
        let _device = g.device_scope(device.as_deref().unwrap_or(""));
        let shard = constant(g, "ShardedFilename/shard", Tensor::from(i as i32))?;
        let b = g.op("ShardedFilename").input(&part).input(&shard).input(&count);
        let name = b.name("ShardedFilename").output()?;
        saved.push(save_group(g, &name, group)?);
        parts.push(name);
    }
    let all = g
        .op("Pack")
        .input_list(&parts)
        .name("MergeV2Checkpoints/checkpoint_prefixes");
    let mut all = all.attr("axis", 0i64);
    for s in &saved {
        all = all.control_input(s);
    }
    let merge = g.op("MergeV2Checkpoints").input(&all.output()?).input(filename);
    let merge = merge
        .attr("delete_old_dirs", true)
        .name("MergeV2Checkpoints")
        .finish()?;
    let b = g.op("Identity").input(filename).control_input(&merge);
    b.name("Identity").finish()
}

fn restore_group(g: &Graph, prefix: &Output, group: &[&SavedVariable]) -> Result<Vec<Operation>> {
    let [tensor_names, slices] = names(g, "RestoreV2", group)?;
    let dtypes = group.iter().map(|v| v.dtype()).collect::<Result<Vec<_>>>()?;
    let b = g.op("RestoreV2").input(prefix).input(&tensor_names).input(&slices);
    let restored = b.attr("dtypes", dtypes).name("RestoreV2").finish()?;
    let mut assigned = Vec::new();
    for (v, value) in group.iter().zip(restored.outputs()) {
        let shape = v.shape();
        let value = match shape == PartialShape::UNKNOWN {
            true => value,
            false => {
                let b = g.op("EnsureShape").input(&value).attr("shape", shape);
                // An error of the node says which variable it is.
                b.name(&format!("EnsureShape/{}", v.handle.op().name())).output()?
            }
        };
        let op = if v.is_resource()? { "AssignVariableOp" } else { "Assign" };
        let b = g.op(op).input(&v.handle).input(&value).name("Assign");
        assigned.push(b.colocate_with(&v.handle.op().name()).finish()?);
    }
    Ok(assigned)
}
