//! `SparseCross`, `SparseCrossV2`, `SparseCrossHashed`, `RaggedCross`: every combination of the features of each row.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};
use bytes::Bytes;

use super::count::rows_of_splits;
use super::{Sparse, indices_tensor, parts};
use crate::moves;
use crate::ops::string::hash::{fingerprint64, siphash};

/// Where the features of a row are among a column's values.
enum Rows {
    Listed(BTreeMap<usize, Vec<usize>>),
    /// So many in each row.
    Each(usize),
    Splits(Vec<usize>),
}

struct Column<'a> {
    values: &'a Tensor,
    rows: Rows,
    batch: usize,
}

impl<'a> Column<'a> {
    fn sparse(indices: &'a Tensor, values: &'a Tensor, shape: &'a Tensor) -> Result<Self> {
        let s = Sparse::new(indices, values, shape)?;
        if s.rank != 2 {
            return Err(Error::invalid(format!(
                "a column of features must be a matrix, not of rank {}",
                s.rank
            )));
        }
        s.check_bounds()?;
        let mut listed: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for k in 0..s.len() {
            listed.entry(s.index(k)[0] as usize).or_default().push(k);
        }
        Ok(Column {
            values,
            rows: Rows::Listed(listed),
            batch: usize::try_from(s.shape[0]).unwrap_or(0),
        })
    }

    fn dense(values: &'a Tensor) -> Result<Self> {
        match values.shape().dims() {
            [batch, width] => Ok(Column {
                values,
                rows: Rows::Each(*width),
                batch: *batch,
            }),
            _ => Err(Error::invalid(format!(
                "dense features must be a matrix but received shape {}",
                values.shape()
            ))),
        }
    }

    fn ragged(values: &'a Tensor, splits: &Tensor) -> Result<Self> {
        if values.shape().rank() != 1 || splits.shape().rank() != 1 {
            return Err(Error::invalid(format!(
                "ragged features and their splits must be vectors, got shapes {} and {}",
                values.shape(),
                splits.shape()
            )));
        }
        let splits = splits.to_i64_vec()?;
        rows_of_splits(&splits, values.len())?;
        Ok(Column {
            values,
            batch: splits.len() - 1,
            rows: Rows::Splits(splits.into_iter().map(|s| s as usize).collect()),
        })
    }

    fn features(&self, row: usize) -> Vec<usize> {
        match &self.rows {
            Rows::Listed(l) => l.get(&row).cloned().unwrap_or_default(),
            Rows::Each(n) => (row * n..(row + 1) * n).collect(),
            Rows::Splits(s) => (s[row]..s[row + 1]).collect(),
        }
    }

    fn text(&self, k: usize, out: &mut Vec<u8>) -> Result<()> {
        match self.values.dtype() {
            DType::Str => out.extend_from_slice(&self.values.as_strings()?[k]),
            _ => out.extend_from_slice(self.values.as_slice::<i64>()?[k].to_string().as_bytes()),
        }
        Ok(())
    }

    /// A feature as a number: an integer itself, a string hashed.
    fn number(&self, k: usize, hash: impl Fn(&[u8]) -> u64) -> Result<u64> {
        match self.values.dtype() {
            DType::Str => Ok(hash(&self.values.as_strings()?[k])),
            _ => Ok(self.values.as_slice::<i64>()?[k] as u64),
        }
    }
}

/// How two hashes become one, as TensorFlow's `FingerprintCat64`.
fn mixed(a: u64, b: u64) -> u64 {
    const MUL: u64 = 0xc6a4_a793_5bd1_e995;
    let shift = |x: u64| x ^ (x >> 47);
    let x = a ^ MUL;
    let x = (x ^ shift(b.wrapping_mul(MUL)).wrapping_mul(MUL)).wrapping_mul(MUL);
    shift(shift(x).wrapping_mul(MUL))
}

/// What a combination of features becomes.
enum Cross {
    /// The features with this between them.
    Text(Vec<u8>),
    /// A number below `buckets`, or of any size if that is 0.
    Hash { key: u64, buckets: u64 },
    /// The same without a key; if `strong`, strings are hashed with these two numbers as the key.
    Salted { salt: [u64; 2], buckets: u64, strong: bool },
}

fn bucket(x: u64, buckets: u64) -> i64 {
    (x % if buckets == 0 { i64::MAX as u64 } else { buckets }) as i64
}

impl Cross {
    fn hash(&self, columns: &[Column<'_>], features: &[usize]) -> Result<i64> {
        let mut pairs = columns.iter().zip(features);
        match self {
            Cross::Text(_) => Err(Error::internal("texts are not hashed")),
            Cross::Hash { key, buckets } => {
                let x = pairs.try_fold(*key, |x, (c, k)| Ok::<_, Error>(mixed(x, c.number(*k, fingerprint64)?)))?;
                Ok(bucket(x, *buckets))
            }
            // The numbers are the key of the strong hash, and nothing else.
            Cross::Salted { salt, buckets, strong } => {
                let hash = |s: &[u8]| {
                    if *strong { siphash(*salt, s) } else { fingerprint64(s) }
                };
                let first = match pairs.next() {
                    Some((c, k)) => c.number(*k, hash)?,
                    None => return Err(Error::internal("there are no columns")),
                };
                let x = pairs.try_fold(first, |x, (c, k)| Ok::<_, Error>(mixed(x, c.number(*k, hash)?)))?;
                Ok(bucket(x, *buckets))
            }
        }
    }
}

/// All combinations: the row of each, and as a tensor what they became.
fn crosses(cx: &OpContext<'_>, columns: &[Column<'_>], cross: &Cross) -> Result<(Vec<usize>, Tensor)> {
    let batch = batch_of(columns)?;
    let listed = columns.iter().find_map(|c| match &c.rows {
        Rows::Listed(l) => Some(l.keys().copied().collect::<Vec<_>>()),
        _ => None,
    });
    let candidates = listed.unwrap_or_else(|| (0..batch).collect());
    let (mut work, mut total) = (Vec::new(), 0usize);
    for row in candidates {
        let lists: Vec<Vec<usize>> = columns.iter().map(|c| c.features(row)).collect();
        let n = lists.iter().try_fold(1usize, |n, l| n.checked_mul(l.len()));
        total = n
            .and_then(|n| total.checked_add(n))
            .ok_or_else(|| Error::exhausted("there are too many combinations of features"))?;
        if n != Some(0) {
            work.push((row, lists));
        }
    }
    let mut rows = moves::list(cx, total)?;
    let (mut texts, mut numbers): (Vec<Bytes>, Vec<i64>) = match cross {
        Cross::Text(_) => (moves::list(cx, total)?, Vec::new()),
        _ => (Vec::new(), moves::list(cx, total)?),
    };
    for (row, lists) in work {
        let mut at = vec![0usize; lists.len()];
        'row: loop {
            let features: Vec<usize> = lists.iter().zip(&at).map(|(l, i)| l[*i]).collect();
            rows.push(row);
            match cross {
                Cross::Text(separator) => {
                    let mut text = Vec::new();
                    for (i, (c, k)) in columns.iter().zip(&features).enumerate() {
                        if i > 0 {
                            text.extend_from_slice(separator);
                        }
                        c.text(*k, &mut text)?;
                    }
                    texts.push(text.into());
                }
                _ => numbers.push(cross.hash(columns, &features)?),
            }
            // The last column's features change fastest.
            for (i, l) in at.iter_mut().zip(&lists).rev() {
                *i += 1;
                if *i < l.len() {
                    continue 'row;
                }
                *i = 0;
            }
            break;
        }
    }
    let values = match cross {
        Cross::Text(_) => Tensor::strings([texts.len()], texts)?,
        _ => Tensor::vector(&numbers),
    };
    Ok((rows, values))
}

fn batch_of(columns: &[Column<'_>]) -> Result<usize> {
    let batch = columns
        .first()
        .map(|c| c.batch)
        .ok_or_else(|| Error::invalid("there are no features to be crossed"))?;
    match columns.iter().position(|c| c.batch != batch) {
        Some(i) => Err(Error::invalid(format!(
            "expected batch size {batch}, got {} at column {i}",
            columns[i].batch
        ))),
        None => Ok(batch),
    }
}

/// How many inputs of each kind a node has.
#[derive(Clone, Copy)]
struct Counts {
    sparse: usize,
    dense: usize,
}

impl Counts {
    fn of(init: &KernelInit<'_>) -> Result<Counts> {
        let sparse = usize::try_from(init.attrs.int("N")?).unwrap_or(0);
        let values = init.attrs.dtypes("sparse_types")?.len();
        if values != sparse {
            return Err(Error::invalid(format!(
                "each sparse feature needs indices, values and a shape, but there are {sparse} indices and shapes and \
                 {values} values"
            )));
        }
        Ok(Counts {
            sparse,
            dense: init.attrs.dtypes("dense_types")?.len(),
        })
    }

    fn columns<'a>(&self, cx: &'a OpContext<'_>) -> Result<Vec<Column<'a>>> {
        let n = self.sparse;
        let sparse = (0..n).map(|i| Column::sparse(cx.input(i)?, cx.input(n + i)?, cx.input(2 * n + i)?));
        let dense = (0..self.dense).map(|i| Column::dense(cx.input(3 * n + i)?));
        sparse.chain(dense).collect()
    }
}

fn to_sparse(cx: &mut OpContext<'_>, counts: Counts, cross: &Cross) -> Result<()> {
    let columns = counts.columns(cx)?;
    let batch = batch_of(&columns)?;
    let (rows, values) = crosses(cx, &columns, cross)?;
    let (mut flat, mut widest, mut next) = (Vec::with_capacity(2 * rows.len()), 0, 0);
    for (i, row) in rows.iter().enumerate() {
        next = if i > 0 && rows[i - 1] == *row { next + 1 } else { 0 };
        widest = widest.max(next + 1);
        flat.extend([*row as i64, next]);
    }
    let indices = indices_tensor(rows.len(), 2, &flat)?;
    cx.set_output(0, indices);
    cx.set_output(1, values);
    cx.set_output(2, Tensor::from([batch as i64, widest]));
    Ok(())
}

fn definition(name: &'static str, out: &str) -> OpDef {
    OpDef::new(name, Category::Sparse)
        .doc("Every combination of the features of each row, joined or hashed.")
        .input("indices: N * int64")
        .input("values: sparse_types")
        .input("shapes: N * int64")
        .input("dense_inputs: dense_types")
        .output("output_indices: int64")
        .output(&format!("output_values: {out}"))
        .output("output_shape: int64")
        .attr("N: int >= 0")
        .attr("sparse_types: list({int64, string}) >= 0")
        .attr("dense_types: list({int64, string}) >= 0")
        .shape(|_| Ok(parts(None, Some(2))))
        .not_differentiable()
}

fn buckets_of(n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|_| Error::invalid(format!("num_buckets must be >= 0, got {n}")))
}

fn cross() -> OpDef {
    definition("SparseCross", "out_type")
        .attr("hashed_output: bool")
        .attr("num_buckets: int >= 0")
        .attr("hash_key: int")
        .attr("out_type: {int64, string}")
        .attr("internal_type: {int64, string}")
        .cpu(|init| {
            let counts = Counts::of(init)?;
            let (hashed, texts) = (
                init.output_types[1] == DType::I64,
                init.attrs.dtype("internal_type")? == DType::Str,
            );
            let cross = match hashed {
                true => Cross::Hash {
                    key: init.attrs.int("hash_key")? as u64,
                    buckets: buckets_of(init.attrs.int("num_buckets")?)?,
                },
                false => Cross::Text(b"_X_".to_vec()),
            };
            let types = init.attrs.dtypes("sparse_types")?.into_iter();
            let all = types.chain(init.attrs.dtypes("dense_types")?);
            if texts && !hashed && all.clone().any(|t| t != DType::Str) {
                return Err(Error::invalid(
                    "input values should be of the internal type string, but some are int64",
                ));
            }
            Ok(Box::new(move |cx: &mut OpContext<'_>| to_sparse(cx, counts, &cross)))
        })
}

fn cross_v2() -> OpDef {
    definition("SparseCrossV2", "string").input("sep: string").cpu(|init| {
        let counts = Counts::of(init)?;
        Ok(Box::new(move |cx: &mut OpContext<'_>| {
            let sep = match cx.input(3 * counts.sparse + counts.dense)?.as_strings()? {
                [s] => s.to_vec(),
                _ => return Err(Error::invalid("sep must be a scalar")),
            };
            to_sparse(cx, counts, &Cross::Text(sep))
        }))
    })
}

fn cross_hashed() -> OpDef {
    definition("SparseCrossHashed", "int64")
        .input("num_buckets: int64")
        .input("strong_hash: bool")
        .input("salt: int64")
        .cpu(|init| {
            let counts = Counts::of(init)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let at = 3 * counts.sparse + counts.dense;
                let buckets = buckets_of(cx.scalar::<i64>(at)?)?;
                let strong = cx.scalar::<bool>(at + 1)?;
                let salt = match cx.slice::<i64>(at + 2)? {
                    [a, b] => [*a as u64, *b as u64],
                    other => {
                        return Err(Error::invalid(format!(
                            "salt must have 2 elements, not {}",
                            other.len()
                        )));
                    }
                };
                to_sparse(cx, counts, &Cross::Salted { salt, buckets, strong })
            }))
        })
}

/// What a letter of `input_order` stands for.
#[derive(Clone, Copy)]
enum Kind {
    Ragged,
    Sparse,
    Dense,
}

fn ragged_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let ragged = init.attrs.dtypes("ragged_values_types")?.len();
    let sparse = usize::try_from(init.attrs.int("Nsparse")?).unwrap_or(0);
    let dense = init.attrs.dtypes("dense_types")?.len();
    if init.attrs.dtypes("ragged_splits_types")?.len() != ragged
        || init.attrs.dtypes("sparse_values_types")?.len() != sparse
    {
        return Err(Error::invalid(
            "RaggedCross needs as many splits as values, and as many sparse values as indices",
        ));
    }
    let mut order = Vec::new();
    let mut seen = [0usize; 3];
    for c in init.attrs.str("input_order")?.chars() {
        let kind = match c {
            'R' => Kind::Ragged,
            'S' => Kind::Sparse,
            'D' => Kind::Dense,
            other => {
                return Err(Error::invalid(format!(
                    "input_order has the letter {other}, which is not R, S or D"
                )));
            }
        };
        order.push((kind, seen[kind as usize]));
        seen[kind as usize] += 1;
    }
    if seen != [ragged, sparse, dense] {
        return Err(Error::invalid(format!(
            "input_order {} does not name {ragged} ragged, {sparse} sparse and {dense} dense inputs",
            init.attrs.str("input_order")?
        )));
    }
    let cross = match init.attrs.bool("hashed_output")? {
        true => Cross::Hash {
            key: init.attrs.int("hash_key")? as u64,
            buckets: buckets_of(init.attrs.int("num_buckets")?)?,
        },
        false => Cross::Text(b"_X_".to_vec()),
    };
    let (values, splits) = (init.output_types[0], init.output_types[1]);
    if (values == DType::I64) != matches!(cross, Cross::Hash { .. }) {
        return Err(Error::invalid(
            "out_values_type must be int64 if the output is hashed, else string",
        ));
    }
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let at = 2 * ragged;
        let column = |(kind, i): &(Kind, usize)| match kind {
            Kind::Ragged => Column::ragged(cx.input(*i)?, cx.input(ragged + i)?),
            Kind::Sparse => Column::sparse(
                cx.input(at + i)?,
                cx.input(at + sparse + i)?,
                cx.input(at + 2 * sparse + i)?,
            ),
            Kind::Dense => Column::dense(cx.input(at + 3 * sparse + i)?),
        };
        let columns: Vec<Column<'_>> = order.iter().map(column).collect::<Result<_>>()?;
        let batch = batch_of(&columns)?;
        let mut ends: Vec<i64> = moves::list(cx, batch.saturating_add(1))?;
        let (rows, out) = crosses(cx, &columns, &cross)?;
        ends.resize(batch + 1, 0);
        rows.iter().for_each(|r| ends[r + 1] += 1);
        (0..batch).for_each(|i| ends[i + 1] += ends[i]);
        let ends = crate::ops::array::support::index_vector(splits, &ends)?;
        cx.set_output(0, out);
        cx.set_output(1, ends);
        Ok(())
    }))
}

fn ragged_cross() -> OpDef {
    OpDef::new("RaggedCross", Category::Sparse)
        .doc("Every combination of the features of each row, joined or hashed, as a ragged tensor.")
        .input("ragged_values: ragged_values_types")
        .input("ragged_row_splits: ragged_splits_types")
        .input("sparse_indices: Nsparse * int64")
        .input("sparse_values: sparse_values_types")
        .input("sparse_shape: Nsparse * int64")
        .input("dense_inputs: dense_types")
        .output("output_values: out_values_type")
        .output("output_row_splits: out_row_splits_type")
        .attr("Nsparse: int >= 0")
        .attr("input_order: string")
        .attr("hashed_output: bool")
        .attr("num_buckets: int >= 0")
        .attr("hash_key: int")
        .attr("ragged_values_types: list({int64, string}) >= 0")
        .attr("ragged_splits_types: list({int32, int64}) >= 0")
        .attr("sparse_values_types: list({int64, string}) >= 0")
        .attr("dense_types: list({int64, string}) >= 0")
        .attr("out_values_type: {int64, string}")
        .attr("out_row_splits_type: {int32, int64}")
        .shape(|_| Ok(vec![PartialShape::vector(None); 2]))
        .not_differentiable()
        .cpu(ragged_kernel)
}

register_ops!(cross, cross_v2, cross_hashed, ragged_cross);
