//! All-reduce: every replica adds up a share of the gradients for all.
//!
//! Gradients are packed into buckets, of which the replicas own one after the other in turn. A bucket goes to its owner as
//! soon as its gradients are there, while the backward pass goes on; the owner's agreement gives everybody the mean, added
//! up in the order of the replicas. Each replica sends and receives every gradient twice in all, as on a ring, but in two
//! hops instead of one for each replica; and unlike on a ring, where sums begin at another replica in each chunk, the
//! order of addition is the same everywhere.
//!
//! A sparse gradient is a bucket of its own: its rows travel with their indices, and what everybody gets is the mean of the
//! rows that anybody has. It is never made dense; how large it is depends on how many rows the replicas' batches touch.

use actorflow_core::gradient::{Grad, IndexedSlices};
use actorflow_core::{DType, Error, Graph, Output, Result};

use super::shard::{Site, agreement, at};
use crate::train::variable::Variable;

/// The bytes of a bucket. Large enough that a message costs little beside its bytes, small enough that several are on
/// their way while the backward pass goes on.
const BUCKET: usize = 1 << 20;

/// A piece of a gradient: which one, and the elements, if not all.
struct Piece {
    gradient: usize,
    range: Option<(usize, usize)>,
}

/// Packs pieces of gradients of these sizes in elements (of 4 bytes) into buckets.
fn pack(sizes: &[usize], most: usize) -> Vec<Vec<Piece>> {
    let mut buckets: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    // The backward pass is done with the last variables first.
    for (gradient, &n) in sizes.iter().enumerate().rev() {
        if n <= most {
            if n > room || buckets.is_empty() {
                buckets.push(Vec::new());
                room = most;
            }
            room -= n;
            let piece = Piece { gradient, range: None };
            if let Some(b) = buckets.last_mut() {
                b.push(piece);
            }
            continue;
        }
        for start in (0..n).step_by(most) {
            let range = Some((start, most.min(n - start)));
            buckets.push(vec![Piece { gradient, range }]);
        }
        room = 0;
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
    for bucket in pack(&sizes, BUCKET / 4) {
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
}
