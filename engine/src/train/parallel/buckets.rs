//! All-reduce: every replica adds up a share of the gradients for all.
//!
//! Gradients are packed into buckets of one size, of which the replicas own one after the other in turn, the same number each. A
//! bucket goes to its owner as soon as its gradients are there, while the backward pass goes on; the owner's agreement gives
//! everybody the mean, added up in the order of the replicas. That is a reduce-scatter and an all-gather by direct exchange: of
//! B bytes of gradients each of N replicas sends (N - 1) / N B to the owners, and as an owner as much to the others, which are
//! the 2 (N - 1) / N B of a ring, in 2 hops instead of 2 (N - 1); and unlike on a ring, where sums begin at another
//! replica in each chunk, the order of addition is the same everywhere.
//!
//! A sparse gradient is a bucket of its own: its rows travel with their indices, and what everybody gets is the mean of the
//! rows that anybody has. It is never made dense; how large it is depends on how many rows the replicas' batches touch.

use actorflow_core::gradient::{Grad, IndexedSlices};
use actorflow_core::{DType, Error, Graph, Output, Result};

use super::shard::{Site, agreement, at};
use crate::train::variable::Variable;

/// The bytes of a bucket, at most. Large enough that a message costs little beside its bytes, small enough that several are on
/// their way while the backward pass goes on.
const BUCKET: usize = 1 << 20;

/// The bytes of a bucket, at least, if there are so many. Each bucket more costs every replica 70 µs of a processor (measured with
/// 4 replicas on 2 cores), in which a network of 10 Gbit/s carries 85 KiB.
const LEAST: usize = 64 << 10;

/// The elements (of 4 bytes) of a bucket, so that all owners have the same number of them.
fn size(elements: usize, owners: usize) -> usize {
    let owners = owners.max(1);
    let buckets = owners * elements.div_ceil(owners).div_ceil(BUCKET / 4);
    let buckets = buckets.min(elements / (LEAST / 4)).max(1);
    elements.div_ceil(buckets).max(1)
}

/// A piece of a gradient: which one, and the elements, if not all.
struct Piece {
    gradient: usize,
    range: Option<(usize, usize)>,
}

/// Packs gradients of these sizes in elements into buckets of `each`, and the last of what is left. Where one is full the
/// gradient goes on in the next.
fn pack(sizes: &[usize], each: usize) -> Vec<Vec<Piece>> {
    let mut buckets: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    // The backward pass is done with the last variables first.
    for (gradient, &n) in sizes.iter().enumerate().rev() {
        let mut start = 0;
        loop {
            let take = room.min(n - start);
            if (take > 0 || n == 0)
                && let Some(b) = buckets.last_mut()
            {
                let range = (take < n).then_some((start, take));
                b.push(Piece { gradient, range });
                (start, room) = (start + take, room - take);
                if start == n {
                    break;
                }
            }
            buckets.push(Vec::new());
            room = each;
        }
    }
    buckets
}

/// The buckets of a replica's graph.
pub(super) struct Buckets {
    pub(super) agreements: Vec<Output>,
    /// The tag of all buckets.
    pub(super) tag: Output,
}

/// Where gradients meet, one agreement after the other.
struct Meeting<'a> {
    g: &'a Graph,
    name: &'a str,
    owners: &'a [String],
    buckets: Buckets,
}

impl Meeting<'_> {
    /// Sends a payload to the next owner; the means. The tensors of numbers `rows` are rows, followed by their indices.
    fn exchange(&mut self, payload: &[Output], rows: &[i64]) -> Result<Vec<Output>> {
        let i = self.buckets.agreements.len();
        let owner = self
            .owners
            .get(i % self.owners.len().max(1))
            .ok_or_else(|| Error::invalid("allreduce needs the devices of all workers"))?;
        let site = Site {
            name: format!("{}/bucket{i}", self.name),
            device: owner,
            rules: (1, self.owners.len(), self.owners.len(), None),
        };
        let agreement = agreement(self.g, &site)?;
        let tag = &self.buckets.tag;
        let types: Vec<DType> = payload.iter().map(Output::dtype).collect();
        let ticket = at(&agreement, "AgreeStage").input(tag).input_list(payload).output()?;
        let decide = at(&agreement, "AgreeDecide").input(tag).input_list(&[ticket]);
        let reduce = at(&agreement, "AgreeReduce")
            .input(&decide.output()?)
            .attr("mean_types", types)
            .attr("rows", rows.to_vec());
        self.buckets.agreements.push(agreement);
        Ok(reduce.finish()?.outputs())
    }
}

/// The piece of a gradient.
fn piece(g: &Graph, whole: &Output, range: Option<(usize, usize)>) -> Result<Output> {
    let Some((start, n)) = range else {
        return Ok(whole.clone());
    };
    let number = |n: usize| g.constant(vec![i64::try_from(n).unwrap_or(i64::MAX)]);
    let flat = whole.reshape(&[-1])?;
    g.op("Slice")
        .input(&flat)
        .input(&number(start)?)
        .input(&number(n)?)
        .output()
}

/// Adds the nodes that exchange gradients; gives their means, in the same order.
///
/// # Errors
/// `INVALID_ARGUMENT` if there is no owner or a shape is not known.
pub(super) fn exchange(
    g: &Graph,
    name: &str,
    owners: &[String],
    grads: Vec<(Grad, Variable)>,
) -> Result<(Buckets, Vec<(Grad, Variable)>)> {
    let mut meeting = Meeting {
        g,
        name,
        owners,
        buckets: Buckets {
            agreements: Vec::new(),
            tag: g.placeholder("tag", DType::I64, [4])?,
        },
    };
    // The dense ones: which they are, and their shapes.
    let (mut dense, mut sizes) = (Vec::new(), Vec::new());
    for (i, (grad, v)) in grads.iter().enumerate() {
        let Grad::Dense(d) = grad else { continue };
        let shape = v.shape().to_shape().ok_or_else(|| {
            Error::invalid(format!(
                "variable {} needs a fully known shape to be trained, not {}",
                v.name(),
                v.shape()
            ))
        })?;
        sizes.push(shape.checked_count()?);
        dense.push((i, d.clone(), shape));
    }
    let mut pieces: Vec<Vec<Output>> = vec![Vec::new(); dense.len()];
    let elements = sizes.iter().fold(0usize, |a, n| a.saturating_add(*n));
    for bucket in pack(&sizes, size(elements, owners.len())) {
        let payload = bucket.iter().map(|p| piece(g, &dense[p.gradient].1, p.range));
        let means = meeting.exchange(&payload.collect::<Result<Vec<_>>>()?, &[])?;
        for (p, mean) in bucket.iter().zip(means) {
            pieces[p.gradient].push(mean);
        }
    }
    let mut means: Vec<Option<Grad>> = vec![None; grads.len()];
    for ((i, _, shape), pieces) in dense.iter().zip(pieces) {
        let flat = match pieces.as_slice() {
            [one] => one.clone(),
            many => g.concat(many, 0)?,
        };
        means[*i] = Some(Grad::Dense(flat.reshape(&shape.to_i64())?));
    }
    let mut out = Vec::new();
    for ((grad, v), mean) in grads.into_iter().zip(means) {
        let mean = match (mean, grad) {
            (Some(mean), _) => mean,
            (None, Grad::Slices(s)) => {
                let payload = [s.values.clone(), s.indices.cast(DType::I64)?];
                let [values, indices] = <[Output; 2]>::try_from(meeting.exchange(&payload, &[0])?)
                    .map_err(|_| Error::internal("AgreeReduce gives something else than it was given"))?;
                Grad::Slices(IndexedSlices {
                    values,
                    indices,
                    dense_shape: s.dense_shape,
                })
            }
            (None, Grad::Dense(_)) => return Err(Error::internal("a gradient was not exchanged")),
        };
        out.push((mean, v));
    }
    Ok((meeting.buckets, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_every_element_once_and_not_too_many() {
        let sizes = [3, 0, 10, 4, 4, 25, 1];
        let buckets = pack(&sizes, 10);
        let mut seen = sizes.map(|n| vec![0; n]);
        for b in &buckets {
            let mut total = 0;
            for p in b {
                let (start, n) = p.range.unwrap_or((0, sizes[p.gradient]));
                total += n;
                seen[p.gradient][start..start + n].iter_mut().for_each(|x| *x += 1);
            }
            assert!(total <= 10);
        }
        assert!(seen.iter().flatten().all(|x| *x == 1));
        assert_eq!(buckets.iter().flatten().filter(|p| p.gradient == 1).count(), 1);
    }

    #[test]
    fn owners_have_the_same_number_of_buckets_and_of_elements() {
        for owners in [1, 2, 3, 4, 7] {
            for sizes in [
                vec![784 * 100, 100, 1000, 10],
                vec![5_000_000, 3, 700_001],
                vec![300_000; 5],
            ] {
                let all: usize = sizes.iter().sum();
                let each = size(all, owners);
                assert!((LEAST / 4..=BUCKET / 4).contains(&each));
                if all < owners * LEAST / 4 {
                    continue;
                }
                let mut of = vec![0; owners];
                for (i, b) in pack(&sizes, each).iter().enumerate() {
                    let elements = b.iter().map(|p| p.range.map_or(sizes[p.gradient], |r| r.1));
                    of[i % owners] += elements.sum::<usize>();
                }
                let (least, most) = (of.iter().min().unwrap(), of.iter().max().unwrap());
                // What rounding up leaves for the last one: less than an element of each bucket.
                assert!(
                    most - least <= 2 * sizes.iter().sum::<usize>() / each + 1,
                    "{owners} owners have {of:?}"
                );
            }
        }
        // Little is one message rather than several.
        assert_eq!(pack(&[1000, 1000], size(2000, 4)).len(), 1);
    }
}
