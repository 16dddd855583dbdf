//! `LoadAndRemapMatrix`.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::support::one_string;
use crate::checkpoint::{Location, Reader, SliceSpec, Window, reader, with_reader};

/// Rows or columns of the new matrix and those of the old one that they come from.
struct Remapping {
    /// Where old ones go.
    new_of: HashMap<usize, usize>,
    /// Whether each new one has an old one.
    present: Vec<bool>,
}

impl Remapping {
    fn of(t: &Tensor, what: &str, count: usize) -> Result<Self> {
        if t.shape().rank() != 1 || t.len() != count {
            return Err(Error::invalid(format!(
                "{what} must be a vector of {count} elements, as many as the new matrix has, got shape {}",
                t.shape()
            )));
        }
        let mut map = Remapping {
            new_of: HashMap::new(),
            present: Vec::new(),
        };
        for (new, old) in t.to_i64_vec()?.into_iter().enumerate() {
            let old = usize::try_from(old).ok();
            map.present.push(old.is_some());
            if let Some(old) = old
                && let Some(other) = map.new_of.insert(old, new)
            {
                return Err(Error::unimplemented(format!(
                    "old ID {old} is mapped to both new ID {other} and {new} by {what}"
                )));
            }
        }
        Ok(map)
    }
}

struct Remap {
    rows: usize,
    columns: usize,
    /// How many rows are read at once.
    at_once: usize,
}

impl Remap {
    /// Copies what has an old cell from the checkpoint.
    fn read(
        &self,
        r: &Reader,
        name: &str,
        rows: &Remapping,
        columns: Option<&Remapping>,
        out: &mut [f32],
    ) -> Result<()> {
        let (name, entry) = r.entry(name)?;
        if entry.kind != reader::Kind::Known(DType::F32) {
            return Err(Error::invalid(format!(
                "tensor {name} has invalid type {} instead of expected type float",
                entry.dtype_name()
            )));
        }
        let &[old_rows, old_columns] = entry.shape.dims() else {
            return Err(Error::invalid(format!(
                "tensor {name} has shape {} instead of expected shape of rank 2",
                entry.shape
            )));
        };
        if columns.is_none() && old_columns != self.columns {
            return Err(Error::invalid(format!(
                "tensor {name} has {old_columns} columns instead of num_cols = {}; give col_remapping",
                self.columns
            )));
        }
        let Some((first, last)) = rows.new_of.keys().min().zip(rows.new_of.keys().max()) else {
            return Ok(());
        };
        if *last >= old_rows {
            return Err(Error::invalid(format!(
                "row_remapping asks for row {last} of tensor {name}, which has {old_rows}"
            )));
        }
        let mut start = *first;
        while start <= *last {
            let count = self.at_once.min(last - start + 1);
            let window = Window {
                start: vec![start, 0],
                length: vec![count, old_columns],
            };
            let full = entry.shape.clone();
            let part = r.slice(name, &SliceSpec { full, window })?;
            let part = part.as_slice::<f32>()?;
            for (row, old) in (start..start + count).zip(part.chunks(old_columns.max(1))) {
                let Some(new) = rows.new_of.get(&row) else {
                    continue;
                };
                let to = &mut out[new * self.columns..][..self.columns];
                match columns {
                    None => to.copy_from_slice(old),
                    Some(columns) => {
                        for (column, x) in old.iter().enumerate() {
                            if let Some(new) = columns.new_of.get(&column) {
                                to[*new] = *x;
                            }
                        }
                    }
                }
            }
            start += count;
        }
        Ok(())
    }
}

impl Kernel for Remap {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let place = Location::in_graph(one_string(cx.input(0)?, "ckpt_path")?, cx.files())?;
        let name = String::from_utf8_lossy(one_string(cx.input(1)?, "old_tensor_name")?);
        let rows = Remapping::of(cx.input(2)?, "row_remapping", self.rows)?;
        let columns = cx.input(3)?;
        let columns = match columns.len() {
            0 => None,
            _ => Some(Remapping::of(columns, "col_remapping", self.columns)?),
        };
        let shape = Shape::new(&[self.rows, self.columns]);
        shape.checked_count()?;
        let mut t = cx.alloc(DType::F32, shape)?;
        let out = t
            .as_mut_slice::<f32>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        // An old column that is not there leaves its cells as they are.
        out.fill(0.0);
        let copied = with_reader(&place, cx.step().device.pool(), |r| {
            let mut copy = out.to_vec();
            self.read(r, &name, &rows, columns.as_ref(), &mut copy)?;
            Ok(copy)
        })?;
        out.copy_from_slice(&copied);
        let values = cx.slice::<f32>(4)?;
        let mut missing = values.iter();
        let mut used = 0;
        for (row, present) in out.chunks_mut(self.columns).zip(&rows.present) {
            for (j, cell) in row.iter_mut().enumerate() {
                if *present && columns.as_ref().is_none_or(|c| c.present[j]) {
                    continue;
                }
                *cell = *missing.next().ok_or_else(|| {
                    Error::invalid(format!(
                        "initializing_values contained {} elements, but more missing values remain",
                        values.len()
                    ))
                })?;
                used += 1;
            }
        }
        if used != values.len() {
            return Err(Error::invalid(format!(
                "initializing_values contained {} elements, but only {used} were used to fill in missing values",
                values.len()
            )));
        }
        cx.set_output(0, t);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let size = |name| -> Result<usize> {
        let n = init.attrs.int(name)?;
        usize::try_from(n).map_err(|_| Error::invalid(format!("{name} must not be negative, got {n}")))
    };
    let (rows, columns) = (size("num_rows")?, size("num_cols")?);
    let at_once = init.attrs.int("max_rows_in_memory")?;
    Ok(Box::new(Remap {
        rows,
        columns,
        at_once: usize::try_from(at_once).ok().filter(|n| *n > 0).unwrap_or(usize::MAX),
    }))
}

fn load_and_remap_matrix() -> OpDef {
    OpDef::new("LoadAndRemapMatrix", Category::Io)
        .doc("A matrix of a checkpoint with its rows and columns rearranged, and new cells where -1 stands for an old row or column.")
        .input("ckpt_path: string")
        .input("old_tensor_name: string")
        .input("row_remapping: int64")
        .input("col_remapping: int64")
        .input("initializing_values: float")
        .output("output_matrix: float")
        .attr("num_rows: int >= 0")
        .attr("num_cols: int >= 1")
        .attr("max_rows_in_memory: int = -1")
        .stateful()
        .shape(|cx| {
            cx.input(2).with_rank(1)?;
            cx.input(3).with_rank(1)?;
            let size = |name| cx.attrs().int(name).map(|n| usize::try_from(n).ok());
            Ok(vec![PartialShape::from([size("num_rows")?, size("num_cols")?])])
        })
        .not_differentiable()
        .cpu(kernel)
}

register_ops!(load_and_remap_matrix);

#[cfg(test)]
mod tests {
    use actorflow_core::error::Result;
    use actorflow_core::{Graph, Tensor};

    use crate::testing::Interpreter;

    const OLD: [[f32; 3]; 4] = [[0., 1., 2.], [10., 11., 12.], [20., 21., 22.], [30., 31., 32.]];

    fn run(rows: &[i64], columns: &[i64], values: &[f32], num_cols: i64, at_once: i64) -> Result<Tensor> {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}/ck", dir.path().display());
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let list = |s: &str| Tensor::strings([1], vec![s.to_owned()]).unwrap();
        let save = g
            .op("SaveV2")
            .input(&c(path.as_str().into()))
            .input(&c(list("m")))
            .input(&c(list("")));
        let save = save.input_list(&[c(OLD.into())]).finish().unwrap();
        Interpreter::default().run(&[], &[save], &[]).unwrap();
        let node = g
            .op("LoadAndRemapMatrix")
            .input(&c(path.as_str().into()))
            .input(&c("m".into()))
            .input(&c(Tensor::vector(rows)))
            .input(&c(Tensor::vector(columns)))
            .input(&c(Tensor::vector(values)))
            .attr("num_rows", rows.len() as i64)
            .attr("num_cols", num_cols)
            .attr("max_rows_in_memory", at_once)
            .output()?;
        Ok(Interpreter::default().run(&[node], &[], &[])?.remove(0))
    }

    #[test]
    fn rows_and_columns_move_and_missing_cells_are_filled() {
        for at_once in [-1, 1, 2] {
            let y = run(&[3, -1, 0], &[1, -1], &[5., 6., 7., 8.], 2, at_once).unwrap();
            assert_eq!(y, Tensor::from([[31f32, 5.], [6., 7.], [1., 8.]]));
            let y = run(&[2, 1], &[], &[], 3, at_once).unwrap();
            assert_eq!(y, Tensor::from([[20f32, 21., 22.], [10., 11., 12.]]));
        }
        let y = run(&[-1], &[], &[1., 2., 3.], 3, -1).unwrap();
        assert_eq!(y, Tensor::from([[1f32, 2., 3.]]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let e = |rows: &[i64], columns: &[i64], values: &[f32], n| run(rows, columns, values, n, -1).unwrap_err();
        assert!(e(&[0, 0], &[], &[], 3).message().contains("both new ID 0 and 1"));
        assert!(e(&[0, 4], &[], &[], 3).message().contains("row 4"));
        assert!(e(&[0], &[], &[], 2).message().contains("col_remapping"));
        assert!(e(&[0], &[1], &[], 2).message().contains("col_remapping"));
        assert!(e(&[-1], &[], &[1.], 3).message().contains("more missing"));
        assert!(e(&[0], &[], &[1.], 3).message().contains("only 0"));
    }
}
