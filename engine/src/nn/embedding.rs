//! Rows of tables that are too large to be touched as a whole.

#![forbid(unsafe_code)]

use actorflow_core::{DType, Error, Output, Result};

/// How the rows of a table are divided among its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartitionStrategy {
    /// Row `i` is row `i / n` of part `i % n`.
    #[default]
    Mod,
    /// Each part has consecutive rows, as evenly many as possible; the first ones have one more.
    Div,
}

/// The rows `ids` (integers, of any shape) of a table that is one tensor or several; a tensor of the shape of `ids`
/// followed by that of a row. With `max_norm`, longer rows are scaled down to that L2 norm.
///
/// The gradient with respect to a table is sparse: optimizers touch the rows that were looked up and no others.
/// `TensorFlow: tf.nn.embedding_lookup`.
///
/// # Errors
/// `INVALID_ARGUMENT` without tables, if `ids` are no integers, or if dtypes or shapes of the parts do not agree.
#[track_caller]
pub fn embedding_lookup(
    params: &[Output],
    ids: &Output,
    strategy: PartitionStrategy,
    max_norm: Option<f64>,
) -> Result<Output> {
    let Some(first) = params.first() else {
        return Err(Error::invalid("an embedding needs at least one table"));
    };
    if !matches!(ids.dtype(), DType::I32 | DType::I64) {
        return Err(Error::invalid(format!(
            "the ids of an embedding must be int32 or int64; {} is {}",
            ids.name(),
            ids.dtype()
        )));
    }
    let g = first.graph();
    let _name = g.name_scope("embedding_lookup");
    let rows = |p: &Output, ids: &Output| {
        // Only the rows that are looked up leave the device of the table.
        let _there = g.colocate_with(&p.op())?;
        match max_norm {
            Some(n) => clipped(&p.gather(ids, 0)?, ids, n),
            None => p.gather(ids, 0),
        }
    };
    if let [table] = params {
        return rows(table, ids);
    }
    let flat = ids.reshape(&[-1])?;
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    let places = g.op("Range").input(&zero).input(&flat.size_op()?).input(&one);
    let places = places.output()?;
    let (part, row) = match strategy {
        PartitionStrategy::Mod => {
            let n = flat.scalar_like(params.len() as f64)?;
            (flat.modulo(&n)?, flat.floor_div(&n)?)
        }
        PartitionStrategy::Div => divided(params, &flat)?,
    };
    let part = part.cast(DType::I32)?;
    let n = i64::try_from(params.len()).unwrap_or(i64::MAX);
    let split = |x: &Output| -> Result<Vec<Output>> {
        let b = g.op("DynamicPartition").input(x).input(&part);
        Ok(b.attr("num_partitions", n).finish()?.outputs())
    };
    let (row, places) = (split(&row)?, split(&places)?);
    let found = params.iter().zip(&row).map(|(p, r)| rows(p, r));
    let found = found.collect::<Result<Vec<_>>>()?;
    let b = g.op("ParallelDynamicStitch").input_list(&places).input_list(&found);
    let all = b.output()?;
    // Back to the shape of the ids.
    let width = first.shape_op()?;
    let (begin, rest) = (g.constant(vec![1i32])?, g.constant(vec![-1i32])?);
    let width = g.op("Slice").input(&width).input(&begin).input(&rest).output()?;
    let shape = g.concat(&[ids.shape_op()?, width], 0)?;
    let known = match first.shape().rank() {
        Some(r) if r > 0 => ids.shape().concat(&first.shape().sub(1, r)),
        _ => actorflow_core::PartialShape::UNKNOWN,
    };
    let b = g.op("Reshape").input(&all).input(&shape);
    b.output_shape(0, known).output()
}

/// The part of each id, and its row in there, if each part has consecutive rows.
fn divided(params: &[Output], ids: &Output) -> Result<(Output, Output)> {
    let g = ids.graph();
    let heights = params
        .iter()
        .map(|p| p.shape_op()?.gather(&g.constant(0i32)?, 0)?.cast(ids.dtype()))
        .collect::<Result<Vec<_>>>()?;
    let total = g.add_n(&heights)?;
    let n = ids.scalar_like(params.len() as f64)?;
    let (each, more) = (total.floor_div(&n)?, total.modulo(&n)?);
    let longer = (&each + 1)?;
    // The first `more` parts have one more row. A table with fewer rows than parts has no shorter parts at all.
    let safe = each.maximum(&each.scalar_like(1.0)?)?;
    let behind = ids.minus(&more)?;
    let part = ids.floor_div(&longer)?.maximum(&behind.floor_div(&safe)?)?;
    let row = part
        .less(&more)?
        .select(&ids.modulo(&longer)?, &behind.modulo(&safe)?)?;
    Ok((part, row))
}

/// Rows scaled down to a norm.
fn clipped(rows: &Output, ids: &Output, norm: f64) -> Result<Output> {
    let (Some(all), Some(outer)) = (rows.shape().rank(), ids.shape().rank()) else {
        return Err(Error::invalid(format!(
            "limiting the norm of embeddings needs tables and ids of known rank; {} has shape {}, {} has {}",
            rows.name(),
            rows.shape(),
            ids.name(),
            ids.shape()
        )));
    };
    let axes: Vec<i64> = (outer as i64..all as i64).collect();
    if axes.is_empty() {
        // Rows without a shape of their own: their norm is their size.
        let limit = rows.scalar_like(norm)?;
        return rows.times(&limit)?.divided_by(&rows.unary("Abs")?.maximum(&limit)?);
    }
    let sum = rows.square()?.sum(&axes, true)?;
    // The root of zero has an infinite derivative: take it of one where the norm is zero.
    let positive = sum.greater(&sum.zeros_like()?)?;
    let length = positive.select(&sum, &sum.ones_like()?)?.sqrt()?;
    let length = positive.select(&length, &sum)?;
    let limit = rows.scalar_like(norm)?;
    rows.times(&limit)?.divided_by(&length.maximum(&limit)?)
}

/// How [`embedding_lookup_sparse`] joins the embeddings of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Combiner {
    /// Their sum, by weight.
    Sum,
    /// The sum divided by the sum of the weights.
    #[default]
    Mean,
    /// The sum divided by the root of the sum of the squared weights.
    SqrtN,
}

/// For each row of a sparse matrix of ids the embeddings of its ids, joined to one; `[rows, …]`.
///
/// The matrix is given as `indices` (int64 `[n, 2]`, sorted by row) and `ids` (`[n]`), with `weights` (`[n]`, of the
/// tables' dtype) or without. Rows that have no id become zeros up to the last one that has.
/// `TensorFlow: tf.nn.embedding_lookup_sparse`.
///
/// # Errors
/// As [`embedding_lookup`]; `INVALID_ARGUMENT` if shapes or dtypes of the matrix do not fit.
#[track_caller]
pub fn embedding_lookup_sparse(
    params: &[Output],
    indices: &Output,
    ids: &Output,
    weights: Option<&Output>,
    strategy: PartitionStrategy,
    combiner: Combiner,
) -> Result<Output> {
    let g = ids.graph();
    let _name = g.name_scope("embedding_lookup_sparse");
    if indices.dtype() != DType::I64 || indices.shape().rank().is_some_and(|r| r != 2) {
        return Err(Error::invalid(format!(
            "the indices of sparse ids must be an int64 matrix; {} is {} of shape {}",
            indices.name(),
            indices.dtype(),
            indices.shape()
        )));
    }
    let segment = indices.gather(&g.constant(0i32)?, 1)?.cast(DType::I32)?;
    let unique = g.op("Unique").input(ids).finish()?;
    let (unique, places) = (unique.output(0)?, unique.output(1)?);
    let rows = embedding_lookup(params, &unique, strategy, None)?;
    let Some(weights) = weights else {
        let op = match combiner {
            Combiner::Sum => "SparseSegmentSum",
            Combiner::Mean => "SparseSegmentMean",
            Combiner::SqrtN => "SparseSegmentSqrtN",
        };
        return g.op(op).input(&rows).input(&places).input(&segment).output();
    };
    let sum = |x: &Output| g.op("SegmentSum").input(x).input(&segment).output();
    let rows = rows.gather(&places, 0)?;
    let weights = weights.cast(rows.dtype())?;
    let Some(rank) = rows.shape().rank() else {
        return Err(Error::invalid("weighted embeddings need tables of known rank"));
    };
    let mut dims = vec![1i64; rank];
    dims[0] = -1;
    let wide = weights.reshape(&dims)?;
    let total = sum(&rows.times(&wide)?)?;
    match combiner {
        Combiner::Sum => Ok(total),
        Combiner::Mean => total.divide_no_nan(&sum(&wide)?),
        Combiner::SqrtN => total.divide_no_nan(&sum(&wide.square()?)?.sqrt()?),
    }
}

trait DivideNoNan {
    fn divide_no_nan(&self, by: &Output) -> Result<Output>;
}

impl DivideNoNan for Output {
    /// Zero where the divisor is zero.
    fn divide_no_nan(&self, by: &Output) -> Result<Output> {
        self.graph().op("DivNoNan").input(self).input(by).output()
    }
}
