//! `ParseExample`, `ParseExampleV2`, `ParseSingleExample`: the features of serialized `tf.train.Example`s as tensors.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Shape, Tensor, register_ops};
use bytes::Bytes;

use super::features::{Record, Values, dense, flat, sparse, splits};

/// What is read of every example: dtypes of sparse and ragged features, dtypes and shapes of dense ones.
pub(super) struct Wanted {
    pub(super) sparse: Vec<DType>,
    pub(super) dense: Vec<(DType, PartialShape)>,
    pub(super) ragged: Vec<(DType, DType)>,
}

/// The names of the three kinds of features, in the order of [`Wanted`].
pub(super) struct Keys {
    pub(super) sparse: Vec<Bytes>,
    pub(super) dense: Vec<Bytes>,
    pub(super) ragged: Vec<Bytes>,
}

/// Names of attributes that a family of operations gives to the parts of [`Wanted`].
pub(super) struct Names {
    pub(super) sparse: &'static str,
    pub(super) dense: &'static str,
    pub(super) shapes: &'static str,
    pub(super) ragged: Option<(&'static str, &'static str)>,
}

const NAMES: Names = Names {
    sparse: "sparse_types",
    dense: "Tdense",
    shapes: "dense_shapes",
    ragged: None,
};

const NAMES_V2: Names = Names {
    ragged: Some(("ragged_value_types", "ragged_split_types")),
    ..NAMES
};

impl Wanted {
    pub(super) fn of(attrs: &Attrs, names: &Names) -> Result<Wanted> {
        let (types, shapes) = (attrs.dtypes(names.dense)?, attrs.shapes(names.shapes)?);
        if types.len() != shapes.len() {
            return Err(Error::invalid(format!(
                "{} has {} elements, but {} has {}",
                names.dense,
                types.len(),
                names.shapes,
                shapes.len()
            )));
        }
        let ragged = match names.ragged {
            None => Vec::new(),
            Some((values, splits)) => {
                let (v, s) = (attrs.dtypes(values)?, attrs.dtypes(splits)?);
                if v.len() != s.len() {
                    return Err(Error::invalid(format!(
                        "{values} has {} elements, but {splits} has {}",
                        v.len(),
                        s.len()
                    )));
                }
                v.into_iter().zip(s).collect()
            }
        };
        Ok(Wanted {
            sparse: attrs.dtypes(names.sparse)?,
            dense: types.into_iter().zip(shapes.into_iter().cloned()).collect(),
            ragged,
        })
    }

    /// Fails unless there is a name for each feature.
    pub(super) fn check(&self, keys: &Keys) -> Result<()> {
        for (what, names, types) in [
            ("sparse", keys.sparse.len(), self.sparse.len()),
            ("dense", keys.dense.len(), self.dense.len()),
            ("ragged", keys.ragged.len(), self.ragged.len()),
        ] {
            if names != types {
                return Err(Error::invalid(format!(
                    "there are {names} names of {what} features, but {types} dtypes"
                )));
            }
        }
        Ok(())
    }

    /// The shapes of the outputs, in the order of the operations, for records of shape `records`.
    pub(super) fn shapes(&self, records: &PartialShape) -> Vec<PartialShape> {
        let (rank, batch) = (records.rank(), records.dim(0));
        let n = self.sparse.len();
        let columns = rank.map(|r| r + 1);
        let mut out = vec![PartialShape::new(vec![None, columns]); n];
        out.extend(vec![PartialShape::vector(None); n]);
        out.extend(vec![PartialShape::vector(columns); n]);
        out.extend(self.dense.iter().map(|(_, s)| records.concat(s)));
        out.extend(vec![PartialShape::vector(None); self.ragged.len()]);
        let ends = match rank {
            Some(1) => PartialShape::vector(batch.map(|b| b + 1)),
            _ => PartialShape::UNKNOWN,
        };
        out.extend(vec![ends; self.ragged.len()]);
        out
    }
}

/// The default of a dense feature: what stands for a missing one (if there is such a thing), and what short ones are
/// filled up with.
struct Rule<'a> {
    key: &'a Bytes,
    dtype: DType,
    /// The shape of one example's values; without its first dimension if that varies.
    inner: Shape,
    varies: bool,
    default: Values,
}

impl<'a> Rule<'a> {
    fn new(key: &'a Bytes, dtype: DType, shape: &PartialShape, default: &Tensor) -> Result<Rule<'a>> {
        let name = String::from_utf8_lossy(key);
        let varies = shape.rank().is_some_and(|r| r > 0) && shape.dim(0).is_none();
        let inner = if varies {
            shape.sub(1, shape.rank().unwrap_or(1))
        } else {
            shape.clone()
        };
        let inner = inner.to_shape().ok_or_else(|| {
            Error::invalid(format!(
                "the shape {shape} of dense feature {name:?} is not known: only its first dimension may be"
            ))
        })?;
        if default.dtype() != dtype {
            return Err(Error::invalid(format!(
                "the default of dense feature {name:?} is {}, not {dtype}",
                default.dtype()
            )));
        }
        if varies && default.len() != 1 {
            return Err(Error::invalid(format!(
                "dense feature {name:?} has the variable shape {shape}, so its default must be one element to fill up \
                 with, but has shape {}",
                default.shape()
            )));
        }
        if !varies && !default.is_empty() && *default.shape() != inner {
            return Err(Error::invalid(format!(
                "the default of dense feature {name:?} has shape {}, but the feature has {inner}",
                default.shape()
            )));
        }
        Ok(Rule {
            key,
            dtype,
            inner,
            varies,
            default: Values::of(default)?,
        })
    }

    /// The values of one record.
    fn read(&self, r: &Record<'_>) -> Result<Values> {
        let per = self.inner.checked_count()?;
        let Some(values) = r.values(self.key, self.dtype)? else {
            return match (self.varies, self.default.len()) {
                (true, _) => Ok(Values::none(self.dtype)),
                (false, 0) if per > 0 => Err(r.error(
                    self.key,
                    format!("feature of data type {} is required but could not be found", self.dtype),
                )),
                (false, _) => Ok(self.default.clone()),
            };
        };
        let n = values.len();
        if self.varies {
            if per == 0 || !n.is_multiple_of(per) {
                return Err(r.error(
                    self.key,
                    format!("{n} values are no whole number of elements of shape {}", self.inner),
                ));
            }
        } else if n != per {
            return Err(r.error(self.key, format!("{n} values, but the shape is {}", self.inner)));
        }
        Ok(values)
    }

    /// The tensor of all records; one record without a batch dimension if `single`.
    fn tensor(&self, cx: &OpContext<'_>, records: &[Record<'_>], single: bool) -> Result<Tensor> {
        let rows = records.iter().map(|r| self.read(r)).collect::<Result<Vec<_>>>()?;
        let per = self.inner.checked_count()?;
        let mut shape = if single { Vec::new() } else { vec![records.len()] };
        let mut width = per;
        if self.varies {
            let longest = rows.iter().map(Values::len).max().unwrap_or(0);
            shape.push(longest.checked_div(per).unwrap_or(0));
            width = longest;
        }
        shape.extend_from_slice(self.inner.dims());
        let rows: Vec<&Values> = rows.iter().collect();
        dense(cx, self.dtype, Shape::new(&shape), &rows, width, &self.default)
    }
}

/// The names of records: as many as there are, or none.
pub(super) fn record_names(names: &Tensor, records: &Tensor) -> Result<Vec<Bytes>> {
    if !names.is_empty() && names.shape() != records.shape() {
        return Err(Error::invalid(format!(
            "there must be a name for each record or none: got shapes {} and {}",
            names.shape(),
            records.shape()
        )));
    }
    Ok(names.as_strings()?.to_vec())
}

/// The records of a scalar or a vector of strings.
pub(super) fn records<'a>(serialized: &'a Tensor, names: &[Bytes]) -> Result<Vec<Record<'a>>> {
    if serialized.shape().rank() > 1 {
        return Err(Error::invalid(format!(
            "the serialized examples must be a scalar or a vector, got shape {}",
            serialized.shape()
        )));
    }
    let strings = serialized.as_strings()?.iter().enumerate();
    strings.map(|(i, s)| Record::read(s, names.get(i))).collect()
}

/// The tensors of the features of records, in the order of [`Wanted::shapes`]; the defaults of dense features are the
/// inputs from `defaults` on.
pub(super) fn tensors(
    cx: &OpContext<'_>,
    wanted: &Wanted,
    keys: &Keys,
    records: &[Record<'_>],
    single: bool,
    defaults: usize,
) -> Result<Vec<Tensor>> {
    let column = |key: &Bytes, dtype: DType| -> Result<Vec<Values>> {
        let read = |r: &Record<'_>| Ok(r.values(key, dtype)?.unwrap_or_else(|| Values::none(dtype)));
        records.iter().map(read).collect()
    };
    let mut parts: [Vec<Tensor>; 3] = Default::default();
    let leading = if single { vec![] } else { vec![records.len() as i64] };
    let prefixes: Vec<Vec<i64>> = (0..records.len() as i64)
        .map(|i| if single { vec![] } else { vec![i] })
        .collect();
    for (key, dtype) in keys.sparse.iter().zip(&wanted.sparse) {
        let rows = column(key, *dtype)?;
        let rows: Vec<&Values> = rows.iter().collect();
        for (to, part) in parts.iter_mut().zip(sparse(cx, *dtype, &leading, &prefixes, &rows)?) {
            to.push(part);
        }
    }
    let mut out: Vec<Tensor> = parts.into_iter().flatten().collect();
    for (i, (key, (dtype, shape))) in keys.dense.iter().zip(&wanted.dense).enumerate() {
        let rule = Rule::new(key, *dtype, shape, cx.input(defaults + i)?)?;
        out.push(rule.tensor(cx, records, single)?);
    }
    let mut ends = Vec::new();
    for (key, (dtype, split)) in keys.ragged.iter().zip(&wanted.ragged) {
        let rows = column(key, *dtype)?;
        // One record alone is one row, which needs no splits.
        ends.push(match (single, *split) {
            (true, DType::I64) => Tensor::vector::<i64>(&[]),
            (true, _) => Tensor::vector::<i32>(&[]),
            (false, split) => splits(rows.iter().map(Values::len), split)?,
        });
        out.push(flat(cx, *dtype, &rows.iter().collect::<Vec<_>>())?);
    }
    out.extend(ends);
    Ok(out)
}

/// A vector of names.
pub(super) fn name_list(t: &Tensor, what: &str) -> Result<Vec<Bytes>> {
    if t.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "{what} must be a vector, got shape {}",
            t.shape()
        )));
    }
    Ok(t.as_strings()?.to_vec())
}

/// Names that are scalars of their own, the inputs from `from` on.
pub(super) fn scalars(cx: &OpContext<'_>, from: usize, n: usize) -> Result<Vec<Bytes>> {
    let one = |i| match cx.input(i)?.as_strings()? {
        [s] => Ok(s.clone()),
        _ => Err(Error::invalid(format!("the name in input {i} must be a scalar"))),
    };
    (from..from + n).map(one).collect()
}

pub(super) fn set_all(cx: &mut OpContext<'_>, tensors: Vec<Tensor>) {
    for (i, t) in tensors.into_iter().enumerate() {
        cx.set_output(i, t);
    }
}

/// Fails unless the attribute that counts a list says how long another one is.
pub(super) fn counted(attrs: &Attrs, count: &str, of: &str, len: usize) -> Result<usize> {
    let n = attrs.int(count)?;
    match usize::try_from(n) {
        Ok(n) if n == len => Ok(n),
        _ => Err(Error::invalid(format!("{count} is {n}, but {of} has {len} elements"))),
    }
}

fn shape(cx: &ShapeContext<'_>, names: &Names, records: &PartialShape) -> Result<Vec<PartialShape>> {
    Ok(Wanted::of(cx.attrs(), names)?.shapes(records))
}

fn outputs(def: OpDef, number: &str) -> OpDef {
    def.output(&format!("sparse_indices: {number} * int64"))
        .output("sparse_values: sparse_types")
        .output(&format!("sparse_shapes: {number} * int64"))
        .output("dense_values: Tdense")
}

fn attributes(def: OpDef) -> OpDef {
    def.attr("sparse_types: list({float, int64, string})")
        .attr("Tdense: list({float, int64, string})")
        .attr("dense_shapes: list(shape)")
        .not_differentiable()
}

fn parse() -> OpDef {
    let def = OpDef::new("ParseExample", Category::Io)
        .doc("The features of a vector of serialized `tf.train.Example`s, as sparse and dense tensors.")
        .input("serialized: string")
        .input("names: string")
        .input("sparse_keys: Nsparse * string")
        .input("dense_keys: Ndense * string")
        .input("dense_defaults: Tdense")
        .attr("Nsparse: int >= 0")
        .attr("Ndense: int >= 0");
    attributes(outputs(def, "Nsparse"))
        .shape(|cx| shape(cx, &NAMES, &cx.input(0).with_rank(1)?))
        .cpu(|init: &KernelInit<'_>| {
            let wanted = Wanted::of(init.attrs, &NAMES)?;
            let s = counted(init.attrs, "Nsparse", "sparse_types", wanted.sparse.len())?;
            let d = counted(init.attrs, "Ndense", "Tdense", wanted.dense.len())?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let keys = Keys {
                    sparse: scalars(cx, 2, s)?,
                    dense: scalars(cx, 2 + s, d)?,
                    ragged: Vec::new(),
                };
                let serialized = cx.input(0)?;
                if serialized.shape().rank() != 1 {
                    return Err(Error::invalid(format!(
                        "the serialized examples must be a vector, got shape {}",
                        serialized.shape()
                    )));
                }
                let names = record_names(cx.input(1)?, serialized)?;
                let out = tensors(cx, &wanted, &keys, &records(serialized, &names)?, false, 2 + s + d)?;
                set_all(cx, out);
                Ok(())
            }))
        })
}

fn parse_v2() -> OpDef {
    let def = OpDef::new("ParseExampleV2", Category::Io)
        .doc("The features of serialized `tf.train.Example`s, one or a vector, as sparse, dense and ragged tensors.")
        .input("serialized: string")
        .input("names: string")
        .input("sparse_keys: string")
        .input("dense_keys: string")
        .input("ragged_keys: string")
        .input("dense_defaults: Tdense")
        .attr("num_sparse: int >= 0")
        .attr("ragged_value_types: list({float, int64, string})")
        .attr("ragged_split_types: list({int32, int64})");
    attributes(outputs(def, "num_sparse"))
        .output("ragged_values: ragged_value_types")
        .output("ragged_row_splits: ragged_split_types")
        .shape(|cx| shape(cx, &NAMES_V2, &cx.input(0)))
        .cpu(|init: &KernelInit<'_>| {
            let wanted = Wanted::of(init.attrs, &NAMES_V2)?;
            counted(init.attrs, "num_sparse", "sparse_types", wanted.sparse.len())?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let keys = Keys {
                    sparse: name_list(cx.input(2)?, "sparse_keys")?,
                    dense: name_list(cx.input(3)?, "dense_keys")?,
                    ragged: name_list(cx.input(4)?, "ragged_keys")?,
                };
                wanted.check(&keys)?;
                let serialized = cx.input(0)?;
                let names = record_names(cx.input(1)?, serialized)?;
                let single = serialized.shape().is_scalar();
                let out = tensors(cx, &wanted, &keys, &records(serialized, &names)?, single, 5)?;
                set_all(cx, out);
                Ok(())
            }))
        })
}

fn parse_single() -> OpDef {
    let def = OpDef::new("ParseSingleExample", Category::Io)
        .doc("The features of one serialized `tf.train.Example`, as sparse and dense tensors.")
        .input("serialized: string")
        .input("dense_defaults: Tdense")
        .attr("num_sparse: int >= 0")
        .attr("sparse_keys: list(string)")
        .attr("dense_keys: list(string)");
    attributes(outputs(def, "num_sparse"))
        .shape(|cx| shape(cx, &NAMES, &cx.input(0).with_rank(0)?))
        .cpu(|init: &KernelInit<'_>| {
            let wanted = Wanted::of(init.attrs, &NAMES)?;
            counted(init.attrs, "num_sparse", "sparse_types", wanted.sparse.len())?;
            let list = |name| Ok::<_, Error>(init.attrs.byte_strings(name)?.into_iter().cloned().collect());
            let keys = Keys {
                sparse: list("sparse_keys")?,
                dense: list("dense_keys")?,
                ragged: Vec::new(),
            };
            wanted.check(&keys)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let serialized = cx.input(0)?;
                if !serialized.shape().is_scalar() {
                    return Err(Error::invalid(format!(
                        "the serialized example must be a scalar, got shape {}",
                        serialized.shape()
                    )));
                }
                let out = tensors(cx, &wanted, &keys, &records(serialized, &[])?, true, 1)?;
                set_all(cx, out);
                Ok(())
            }))
        })
}

register_ops!(parse, parse_v2, parse_single);
