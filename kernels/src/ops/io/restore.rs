//! `RestoreV2`, `Restore`, `RestoreSlice`: tensors out of a checkpoint, of this engine or of TensorFlow.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::files::FilePolicy;
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::matching::paths;
use super::support::{Names, check_names, one_string, slice_of};
use crate::checkpoint::manifest::SUFFIX;
use crate::checkpoint::store::graph_path;
use crate::checkpoint::{Location, Reader, SliceSpec, Window, reader, with_reader};

fn restore_v2() -> OpDef {
    OpDef::new("RestoreV2", Category::Io)
        .doc("Restores tensors, or parts of tensors, from the checkpoint `prefix`.")
        .input("prefix: string")
        .input("tensor_names: string")
        .input("shape_and_slices: string")
        .output("tensors: dtypes")
        .attr("dtypes: list(type) >= 1")
        .stateful()
        .shape(|cx| {
            check_names(cx, 2)?;
            let slices = cx.constant(2);
            let slices = slices.as_ref().and_then(|t| t.as_strings().ok()).unwrap_or(&[]);
            let one = |i: usize| match slices.get(i) {
                Some(text) => SliceSpec::restored_shape(text),
                None => Ok(PartialShape::UNKNOWN),
            };
            (0..cx.num_outputs()).map(one).collect()
        })
        .not_differentiable()
        .cpu(|init| {
            let dtypes = init.output_types.to_vec();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let tensors = restored(cx, &dtypes)?;
                for (i, t) in tensors.into_iter().enumerate() {
                    cx.set_output(i, t);
                }
                Ok(())
            }))
        })
}

fn restored(cx: &OpContext<'_>, dtypes: &[DType]) -> Result<Vec<Tensor>> {
    let names = Names::of(cx)?;
    if names.names.len() != dtypes.len() {
        return Err(Error::invalid(format!(
            "Got {} tensor names, but {} expected dtypes.",
            names.names.len(),
            dtypes.len()
        )));
    }
    let pool = cx.step().device.pool();
    // What savers of the first version have saved in shards is named by a pattern (`ShardedFilespec`).
    let prefix = names.prefix.to_string();
    if prefix.contains(['*', '?', '[']) && !names.prefix.is_checkpoint()? {
        let several = Several::open(&prefix, cx.files(), pool)?;
        let one = |(i, (name, dtype)): (usize, (&bytes::Bytes, &DType))| {
            several.tensor(&String::from_utf8_lossy(name), *dtype, names.slice(i)?)
        };
        return names.names.iter().zip(dtypes).enumerate().map(one).collect();
    }
    with_reader(&names.prefix, pool, |r| {
        // What is wrong shows before anything large is read.
        for (name, dtype) in names.names.iter().zip(dtypes) {
            let (name, entry) = r.entry(&String::from_utf8_lossy(name))?;
            if entry.kind != reader::Kind::Known(*dtype) {
                return Err(Error::invalid(format!(
                    "tensor_name = {name}; expected dtype {dtype} does not equal original dtype {}",
                    entry.dtype_name()
                )));
            }
        }
        let one = |(i, name): (usize, &bytes::Bytes)| {
            let name = String::from_utf8_lossy(name);
            match names.slice(i)? {
                Some(slice) => r.slice(&name, &slice),
                None => r.tensor(&name),
            }
        };
        names.names.iter().enumerate().map(one).collect()
    })
}

/// The checkpoints whose prefixes match a pattern, of those that `files` allows, in order.
fn matching(pattern: &str, files: &FilePolicy) -> Result<Vec<Location>> {
    // What ends a file's name when it is not the checkpoint's own: of this engine, of TensorFlow, of its first version.
    const SUFFIXES: [&str; 3] = [SUFFIX, ".index", ""];
    let place = |text: &str| Location::in_graph(text.as_bytes(), files);
    let exact = place(pattern)?;
    if exact.is_checkpoint()? || exact.length()?.is_some() {
        return Ok(vec![exact]);
    }
    if !exact.is_local() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for suffix in SUFFIXES {
        let part = |p: &String| {
            suffix.is_empty()
                && (p.ends_with(SUFFIX) || p.ends_with(".index") || p.contains(".data-") || p.ends_with(".safetensors"))
        };
        for path in paths(&format!("{pattern}{suffix}"), files)?
            .into_iter()
            .filter(|p| !part(p))
        {
            if place(&path)?.length()?.is_some() {
                found.extend(path.strip_suffix(suffix).map(str::to_owned));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found.iter().map(|prefix| place(prefix)).collect()
}

/// Checkpoints that were found by a pattern, and together hold tensors or parts of them.
struct Several<'p> {
    pattern: &'p str,
    readers: Vec<Reader>,
    pool: &'p Arc<Pool>,
}

impl<'p> Several<'p> {
    fn open(pattern: &'p str, files: &FilePolicy, pool: &'p Arc<Pool>) -> Result<Several<'p>> {
        let places = matching(pattern, files)?;
        if places.is_empty() {
            return Err(Error::not_found(format!(
                "Unsuccessful TensorSliceReader constructor: Failed to find any matching files for {pattern}"
            )));
        }
        let readers = places
            .iter()
            .map(|p| Reader::open_in(p, pool))
            .collect::<Result<Vec<_>>>()?;
        Ok(Several { pattern, readers, pool })
    }

    /// A tensor, or a part of one.
    fn tensor(&self, name: &str, dtype: DType, slice: Option<SliceSpec>) -> Result<Tensor> {
        let having: Vec<&Reader> = self.readers.iter().filter(|r| r.contains(name)).collect();
        let Some(first) = having.first() else {
            return Err(Error::not_found(format!(
                "Tensor name \"{name}\" not found in checkpoint files {}",
                self.pattern
            )));
        };
        let (_, entry) = first.entry(name)?;
        if entry.kind != reader::Kind::Known(dtype) {
            return Err(Error::invalid(format!(
                "Expected to restore a tensor of type {dtype}, got a tensor of type {} instead: tensor_name = {name}",
                entry.dtype_name()
            )));
        }
        let wanted = match slice {
            None => Window::whole(&entry.shape),
            Some(s) if s.full == entry.shape => s.window,
            Some(s) => {
                return Err(Error::invalid(format!(
                    "Shape in shape_and_slice spec does not match the shape in the save file: {}, save file shape: {}",
                    s.full, entry.shape
                )));
            }
        };
        gather(&having, name, &wanted, self.pool)
    }
}

fn first_version(cx: &OpContext<'_>, dtype: DType, sliced: bool) -> Result<Tensor> {
    let pattern = graph_path(one_string(cx.input(0)?, "file_pattern")?)?;
    let name = String::from_utf8_lossy(one_string(cx.input(1)?, "tensor_name")?);
    let slice = match sliced {
        true => slice_of(one_string(cx.input(2)?, "shape_and_slice")?)?,
        false => None,
    };
    Several::open(pattern, cx.files(), cx.step().device.pool())?.tensor(&name, dtype, slice)
}

/// The part, from a checkpoint that has all of it if there is one, else from several.
fn gather(readers: &[&Reader], name: &str, wanted: &Window, pool: &Arc<Pool>) -> Result<Tensor> {
    for r in readers {
        let full = r.entry(name)?.1.shape.clone();
        let window = wanted.clone();
        match r.slice(name, &SliceSpec { full, window }) {
            Err(e) if e.code() == Code::InvalidArgument && readers.len() > 1 => {}
            done => return done,
        }
    }
    reader::gather(readers, name, wanted, pool)
}

fn restore() -> OpDef {
    OpDef::new("Restore", Category::Io)
        .doc("Restores a tensor from the checkpoints whose names match a pattern; `RestoreV2` in its first version.")
        .input("file_pattern: string")
        .input("tensor_name: string")
        .output("tensor: dt")
        .attr("dt: type")
        .attr("preferred_shard: int = -1")
        .stateful()
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            cx.input(1).with_rank(0)?;
            Ok(vec![PartialShape::UNKNOWN])
        })
        .not_differentiable()
        .cpu(|init| kernel(init, false))
}

fn restore_slice() -> OpDef {
    OpDef::new("RestoreSlice", Category::Io)
        .doc("Restores a part of a tensor from the checkpoints whose names match a pattern.")
        .input("file_pattern: string")
        .input("tensor_name: string")
        .input("shape_and_slice: string")
        .output("tensor: dt")
        .attr("dt: type")
        .attr("preferred_shard: int = -1")
        .stateful()
        .shape(|cx| {
            for i in 0..3 {
                cx.input(i).with_rank(0)?;
            }
            let text = cx.constant(2);
            let text = text.as_ref().and_then(|t| t.as_strings().ok()).and_then(|s| s.first());
            Ok(vec![
                text.map_or(Ok(PartialShape::UNKNOWN), |t| SliceSpec::restored_shape(t))?,
            ])
        })
        .not_differentiable()
        .cpu(|init| kernel(init, true))
}

fn kernel(init: &KernelInit<'_>, sliced: bool) -> Result<Box<dyn actorflow_core::kernel::Kernel>> {
    let dtype = init.attrs.dtype("dt")?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let t = first_version(cx, dtype, sliced)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

register_ops!(restore_v2, restore, restore_slice);
