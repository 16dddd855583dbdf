//! `ParseSequenceExample`, `ParseSequenceExampleV2`, `ParseSingleSequenceExample`: the context and the lists of features
//! of serialized `tf.train.SequenceExample`s as tensors.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Shape, Tensor, register_ops};
use bytes::Bytes;

use super::example::{Keys, Names, Wanted, counted, name_list, record_names, records, scalars, set_all, tensors};
use super::features::{Record, Values, dense, flat, sparse, splits};

const CONTEXT: Names = Names {
    sparse: "context_sparse_types",
    dense: "Tcontext_dense",
    shapes: "context_dense_shapes",
    ragged: None,
};

const LISTS: Names = Names {
    sparse: "feature_list_sparse_types",
    dense: "feature_list_dense_types",
    shapes: "feature_list_dense_shapes",
    ragged: None,
};

const CONTEXT_V2: Names = Names {
    ragged: Some(("context_ragged_value_types", "context_ragged_split_types")),
    ..CONTEXT
};

const LISTS_V2: Names = Names {
    ragged: Some(("feature_list_ragged_value_types", "feature_list_ragged_split_types")),
    ..LISTS
};

/// The steps of the lists of one name in all records.
type Lists = Vec<Vec<Values>>;

/// How the lists of features are read.
struct Reading<'a> {
    records: &'a [Record<'a>],
    single: bool,
}

impl Reading<'_> {
    fn lists(&self, key: &Bytes, dtype: DType) -> Result<Lists> {
        let read = |r: &Record<'_>| Ok(r.list(key, dtype)?.unwrap_or_default());
        self.records.iter().map(read).collect()
    }

    fn sparse(&self, cx: &OpContext<'_>, key: &Bytes, dtype: DType) -> Result<[Tensor; 3]> {
        let lists = self.lists(key, dtype)?;
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0) as i64;
        let mut prefixes = Vec::new();
        for (i, list) in lists.iter().enumerate() {
            for t in 0..list.len() as i64 {
                prefixes.push(if self.single { vec![t] } else { vec![i as i64, t] });
            }
        }
        let leading = if self.single {
            vec![longest]
        } else {
            vec![lists.len() as i64, longest]
        };
        sparse(
            cx,
            dtype,
            &leading,
            &prefixes,
            &lists.iter().flatten().collect::<Vec<_>>(),
        )
    }

    /// The values, filled up with zeros to the longest list, and the lengths of the lists.
    fn dense(
        &self,
        cx: &OpContext<'_>,
        key: &Bytes,
        (dtype, shape): &(DType, PartialShape),
        may_be_missing: bool,
    ) -> Result<(Tensor, Tensor)> {
        let unknown = || {
            let name = String::from_utf8_lossy(key);
            Error::invalid(format!(
                "the shape {shape} of the list of dense features {name:?} is not known"
            ))
        };
        let inner = shape.to_shape().ok_or_else(unknown)?;
        let per = inner.checked_count()?;
        let mut lists = Lists::new();
        for r in self.records {
            let list = match r.list(key, *dtype)? {
                Some(list) => list,
                None if may_be_missing => Vec::new(),
                None => {
                    return Err(r.error(
                        key,
                        "the list of features is required but could not be found; name it in \
                         feature_list_dense_missing_assumed_empty if it may be missing",
                    ));
                }
            };
            if let Some((t, v)) = list.iter().enumerate().find(|(_, v)| v.len() != per) {
                return Err(r.error(key, format!("{} values at step {t}, but the shape is {inner}", v.len())));
            }
            lists.push(list);
        }
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        let lengths: Vec<i64> = lists.iter().map(|l| l.len() as i64).collect();
        let mut dims = if self.single {
            vec![longest]
        } else {
            vec![lists.len(), longest]
        };
        dims.extend_from_slice(inner.dims());
        // The missing steps of a list are rows without values.
        let (none, mut rows) = (Values::none(*dtype), Vec::new());
        for list in &lists {
            rows.extend(list.iter());
            rows.extend(std::iter::repeat_n(&none, longest - list.len()));
        }
        let values = dense(cx, *dtype, Shape::new(&dims), &rows, per, &Values::zero(*dtype))?;
        let lengths = match (self.single, &lengths[..]) {
            (true, [n]) => Tensor::scalar(*n),
            _ => Tensor::vector(&lengths),
        };
        Ok((values, lengths))
    }

    /// The values, the splits of records into steps and of steps into values.
    fn ragged(&self, cx: &OpContext<'_>, key: &Bytes, (dtype, split): (DType, DType)) -> Result<[Tensor; 3]> {
        let lists = self.lists(key, dtype)?;
        let steps: Vec<&Values> = lists.iter().flatten().collect();
        let outer = if self.single {
            no_split(split)
        } else {
            splits(lists.iter().map(Vec::len), split)?
        };
        Ok([
            flat(cx, dtype, &steps)?,
            outer,
            splits(steps.iter().map(|s| s.len()), split)?,
        ])
    }
}

/// What stands for the splits of a batch where there is none.
fn no_split(dtype: DType) -> Tensor {
    match dtype {
        DType::I64 => Tensor::scalar(0i64),
        _ => Tensor::scalar(0i32),
    }
}

/// Everything of a node that is known before it runs.
struct Plan {
    context: Wanted,
    lists: Wanted,
    lengths: bool,
}

impl Plan {
    fn of(attrs: &Attrs, context: &Names, lists: &Names, lengths: bool) -> Result<Plan> {
        let plan = Plan {
            context: Wanted::of(attrs, context)?,
            lists: Wanted::of(attrs, lists)?,
            lengths,
        };
        for (count, of, n) in [
            ("Ncontext_sparse", context.sparse, plan.context.sparse.len()),
            ("Nfeature_list_sparse", lists.sparse, plan.lists.sparse.len()),
            ("Nfeature_list_dense", lists.dense, plan.lists.dense.len()),
        ] {
            counted(attrs, count, of, n)?;
        }
        Ok(plan)
    }

    fn shapes(&self, records: &PartialShape) -> Vec<PartialShape> {
        let mut out = self.context.shapes(records);
        let steps = match records.rank() {
            None => PartialShape::UNKNOWN,
            Some(_) => records.concat(&PartialShape::vector(None)),
        };
        let mut of_lists = self.lists.shapes(&steps);
        let (ragged, dense) = (self.lists.ragged.len(), self.lists.dense.len());
        of_lists.truncate(of_lists.len() - 2 * ragged);
        out.extend(of_lists);
        if self.lengths {
            out.extend(vec![records.clone(); dense]);
        }
        out.extend(vec![PartialShape::vector(None); ragged]);
        let outer = match records.rank() {
            Some(1) => PartialShape::vector(records.dim(0).map(|b| b + 1)),
            _ => PartialShape::UNKNOWN,
        };
        out.extend(vec![outer; ragged]);
        out.extend(vec![PartialShape::vector(None); ragged]);
        out
    }

    fn run(
        &self,
        cx: &OpContext<'_>,
        context: &Keys,
        lists: &Keys,
        may_be_missing: &[bool],
        names: &Tensor,
        defaults: usize,
    ) -> Result<Vec<Tensor>> {
        self.context.check(context)?;
        self.lists.check(lists)?;
        let serialized = cx.input(0)?;
        let names = record_names(names, serialized)?;
        let (records, single) = (records(serialized, &names)?, serialized.shape().is_scalar());
        // No dimension of a context feature may vary.
        let fixed = |(_, s): &&(DType, PartialShape)| !s.is_fully_known();
        if let Some((_, shape)) = self.context.dense.iter().find(fixed) {
            return Err(Error::invalid(format!(
                "the shape {shape} of a dense context feature is not known"
            )));
        }
        let mut out = tensors(cx, &self.context, context, &records, single, defaults)?;
        let r = Reading {
            records: &records,
            single,
        };
        let mut columns: [Vec<Tensor>; 8] = Default::default();
        for (key, dtype) in lists.sparse.iter().zip(&self.lists.sparse) {
            for (to, t) in columns[..3].iter_mut().zip(r.sparse(cx, key, *dtype)?) {
                to.push(t);
            }
        }
        for (i, (key, want)) in lists.dense.iter().zip(&self.lists.dense).enumerate() {
            let missing = may_be_missing.get(i).copied().unwrap_or(false);
            let (values, lengths) = r.dense(cx, key, want, missing)?;
            columns[3].push(values);
            if self.lengths {
                columns[4].push(lengths);
            }
        }
        for (key, want) in lists.ragged.iter().zip(&self.lists.ragged) {
            for (to, t) in columns[5..].iter_mut().zip(r.ragged(cx, key, *want)?) {
                to.push(t);
            }
        }
        out.extend(columns.into_iter().flatten());
        Ok(out)
    }
}

fn context_outputs(def: OpDef) -> OpDef {
    def.output("context_sparse_indices: Ncontext_sparse * int64")
        .output("context_sparse_values: context_sparse_types")
        .output("context_sparse_shapes: Ncontext_sparse * int64")
        .output("context_dense_values: Tcontext_dense")
}

fn list_outputs(def: OpDef) -> OpDef {
    def.output("feature_list_sparse_indices: Nfeature_list_sparse * int64")
        .output("feature_list_sparse_values: feature_list_sparse_types")
        .output("feature_list_sparse_shapes: Nfeature_list_sparse * int64")
        .output("feature_list_dense_values: feature_list_dense_types")
}

fn attributes(def: OpDef) -> OpDef {
    def.attr("Ncontext_sparse: int >= 0 = 0")
        .attr("Nfeature_list_sparse: int >= 0 = 0")
        .attr("Nfeature_list_dense: int >= 0 = 0")
        .attr("context_sparse_types: list({float, int64, string}) = []")
        .attr("Tcontext_dense: list({float, int64, string}) = []")
        .attr("feature_list_dense_types: list({float, int64, string}) = []")
        .attr("context_dense_shapes: list(shape) = []")
        .attr("feature_list_sparse_types: list({float, int64, string}) = []")
        .attr("feature_list_dense_shapes: list(shape) = []")
        .not_differentiable()
}

fn parse() -> OpDef {
    let def = OpDef::new("ParseSequenceExample", Category::Io)
        .doc("Context and lists of features of a vector of serialized `tf.train.SequenceExample`s.")
        .input("serialized: string")
        .input("debug_name: string")
        .input("context_dense_defaults: Tcontext_dense")
        .attr("feature_list_dense_missing_assumed_empty: list(string)")
        .attr("context_sparse_keys: list(string)")
        .attr("context_dense_keys: list(string)")
        .attr("feature_list_sparse_keys: list(string)")
        .attr("feature_list_dense_keys: list(string)")
        .attr("Ncontext_dense: int >= 0 = 0");
    attributes(list_outputs(context_outputs(def)))
        .output("feature_list_dense_lengths: Nfeature_list_dense * int64")
        .shape(|cx| Ok(Plan::of(cx.attrs(), &CONTEXT, &LISTS, true)?.shapes(&cx.input(0).with_rank(1)?)))
        .cpu(|init: &KernelInit<'_>| {
            let plan = Plan::of(init.attrs, &CONTEXT, &LISTS, true)?;
            let list = |name| Ok::<Vec<Bytes>, Error>(init.attrs.byte_strings(name)?.into_iter().cloned().collect());
            let keys = |sparse, dense| {
                Ok::<_, Error>(Keys {
                    sparse: list(sparse)?,
                    dense: list(dense)?,
                    ragged: Vec::new(),
                })
            };
            let context = keys("context_sparse_keys", "context_dense_keys")?;
            let lists = keys("feature_list_sparse_keys", "feature_list_dense_keys")?;
            let empty = list("feature_list_dense_missing_assumed_empty")?;
            let missing: Vec<bool> = lists.dense.iter().map(|k| empty.contains(k)).collect();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                if cx.input(0)?.shape().rank() != 1 {
                    return Err(Error::invalid(format!(
                        "the serialized examples must be a vector, got shape {}",
                        cx.input(0)?.shape()
                    )));
                }
                let out = plan.run(cx, &context, &lists, &missing, cx.input(1)?, 2)?;
                set_all(cx, out);
                Ok(())
            }))
        })
}

fn parse_v2() -> OpDef {
    let def = OpDef::new("ParseSequenceExampleV2", Category::Io)
        .doc("Context and lists of features of serialized `tf.train.SequenceExample`s, one or a vector.")
        .input("serialized: string")
        .input("debug_name: string")
        .input("context_sparse_keys: string")
        .input("context_dense_keys: string")
        .input("context_ragged_keys: string")
        .input("feature_list_sparse_keys: string")
        .input("feature_list_dense_keys: string")
        .input("feature_list_ragged_keys: string")
        .input("feature_list_dense_missing_assumed_empty: bool")
        .input("context_dense_defaults: Tcontext_dense")
        .attr("context_ragged_value_types: list({float, int64, string}) = []")
        .attr("context_ragged_split_types: list({int32, int64}) = []")
        .attr("feature_list_ragged_value_types: list({float, int64, string}) = []")
        .attr("feature_list_ragged_split_types: list({int32, int64}) = []");
    let def = context_outputs(def)
        .output("context_ragged_values: context_ragged_value_types")
        .output("context_ragged_row_splits: context_ragged_split_types");
    attributes(list_outputs(def))
        .output("feature_list_dense_lengths: Nfeature_list_dense * int64")
        .output("feature_list_ragged_values: feature_list_ragged_value_types")
        .output("feature_list_ragged_outer_splits: feature_list_ragged_split_types")
        .output("feature_list_ragged_inner_splits: feature_list_ragged_split_types")
        .shape(|cx| Ok(Plan::of(cx.attrs(), &CONTEXT_V2, &LISTS_V2, true)?.shapes(&cx.input(0))))
        .cpu(|init: &KernelInit<'_>| {
            let plan = Plan::of(init.attrs, &CONTEXT_V2, &LISTS_V2, true)?;
            let context_splits: Vec<DType> = plan.context.ragged.iter().map(|(_, s)| *s).collect();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let keys = |first| {
                    Ok::<_, Error>(Keys {
                        sparse: name_list(cx.input(first)?, "sparse keys")?,
                        dense: name_list(cx.input(first + 1)?, "dense keys")?,
                        ragged: name_list(cx.input(first + 2)?, "ragged keys")?,
                    })
                };
                let (context, lists) = (keys(2)?, keys(5)?);
                let missing = cx.slice::<bool>(8)?;
                if missing.len() != lists.dense.len() {
                    return Err(Error::invalid(format!(
                        "feature_list_dense_missing_assumed_empty has {} elements for {} lists of dense features",
                        missing.len(),
                        lists.dense.len()
                    )));
                }
                let mut out = plan.run(cx, &context, &lists, missing, cx.input(1)?, 9)?;
                if cx.input(0)?.shape().is_scalar() {
                    // Of one record alone, the splits of its context are scalars too.
                    let first = 3 * plan.context.sparse.len() + plan.context.dense.len() + context_splits.len();
                    for (t, dtype) in out[first..].iter_mut().zip(&context_splits) {
                        *t = no_split(*dtype);
                    }
                }
                set_all(cx, out);
                Ok(())
            }))
        })
}

fn parse_single() -> OpDef {
    let def = OpDef::new("ParseSingleSequenceExample", Category::Io)
        .doc("Context and lists of features of one serialized `tf.train.SequenceExample`.")
        .input("serialized: string")
        .input("feature_list_dense_missing_assumed_empty: string")
        .input("context_sparse_keys: Ncontext_sparse * string")
        .input("context_dense_keys: Ncontext_dense * string")
        .input("feature_list_sparse_keys: Nfeature_list_sparse * string")
        .input("feature_list_dense_keys: Nfeature_list_dense * string")
        .input("context_dense_defaults: Tcontext_dense")
        .input("debug_name: string")
        .attr("Ncontext_dense: int >= 0 = 0");
    attributes(list_outputs(context_outputs(def)))
        .shape(|cx| Ok(Plan::of(cx.attrs(), &CONTEXT, &LISTS, false)?.shapes(&cx.input(0).with_rank(0)?)))
        .cpu(|init: &KernelInit<'_>| {
            let plan = Plan::of(init.attrs, &CONTEXT, &LISTS, false)?;
            counted(init.attrs, "Ncontext_dense", CONTEXT.dense, plan.context.dense.len())?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                if !cx.input(0)?.shape().is_scalar() {
                    return Err(Error::invalid(format!(
                        "the serialized example must be a scalar, got shape {}",
                        cx.input(0)?.shape()
                    )));
                }
                let mut at = 2;
                let mut next = |n: usize| {
                    at += n;
                    scalars(cx, at - n, n)
                };
                let (c, l) = (&plan.context, &plan.lists);
                let context = Keys {
                    sparse: next(c.sparse.len())?,
                    dense: next(c.dense.len())?,
                    ragged: Vec::new(),
                };
                let lists = Keys {
                    sparse: next(l.sparse.len())?,
                    dense: next(l.dense.len())?,
                    ragged: Vec::new(),
                };
                let empty = cx.input(1)?.as_strings()?;
                let missing: Vec<bool> = lists.dense.iter().map(|k| empty.contains(k)).collect();
                let names = cx.input(at + c.dense.len())?;
                let out = plan.run(cx, &context, &lists, &missing, names, at)?;
                set_all(cx, out);
                Ok(())
            }))
        })
}

register_ops!(parse, parse_v2, parse_single);
