//! All-reduce: every replica adds up a share of the gradients for all.
//!
//! Gradients are packed into buckets, of which the replicas own one after the other in turn. A bucket goes to its owner as
//! soon as its gradients are there, while the backward pass goes on; the owner's agreement gives everybody the mean, added
//! up in the order of the replicas. Each replica sends and receives every gradient twice in all, as on a ring, but in two
//! hops instead of one for each replica; and unlike on a ring, where sums begin at another replica in each chunk, the
//! order of addition is the same everywhere.

use actorflow_core::gradient::Grad;
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

/// Adds the nodes that exchange gradients; gives their means.
///
/// # Errors
/// `UNIMPLEMENTED` naming a variable with a sparse gradient; `INVALID_ARGUMENT` if there is no owner or a shape is not
/// known.
pub(super) fn exchange(
    g: &Graph,
    name: &str,
    owners: &[String],
    grads: Vec<(Grad, Variable)>,
) -> Result<(Buckets, Vec<(Grad, Variable)>)> {
    let tag = g.placeholder("tag", DType::I64, [4])?;
    let mut dense = Vec::new();
    let mut sizes = Vec::new();
    for (grad, v) in &grads {
        let Grad::Dense(d) = grad else {
            return Err(Error::unimplemented(format!(
                "allreduce exchanges dense gradients only, and that of variable {} is sparse; use a strategy with parameter \
                 servers",
                v.name()
            )));
        };
        let shape = v.shape().to_shape().ok_or_else(|| {
            Error::invalid(format!(
                "variable {} needs a fully known shape to be trained, not {}",
                v.name(),
                v.shape()
            ))
        })?;
        sizes.push(shape.checked_count()?);
        dense.push((d.clone(), shape));
    }
    let mut agreements = Vec::new();
    let mut means: Vec<Vec<Output>> = vec![Vec::new(); grads.len()];
    for (i, bucket) in pack(&sizes, BUCKET / 4).into_iter().enumerate() {
        let owner = owners
            .get(i % owners.len().max(1))
            .ok_or_else(|| Error::invalid("allreduce needs the devices of all workers"))?;
        let rules = (1, owners.len(), owners.len(), None);
        let site = Site {
            name: format!("{name}/bucket{i}"),
            device: owner,
            rules,
        };
        let agreement = agreement(g, &site)?;
        let mut payload = Vec::new();
        for p in &bucket {
            let whole = &dense[p.gradient].0;
            payload.push(match p.range {
                None => whole.clone(),
                Some((start, n)) => {
                    let number = |n: usize| g.constant(vec![i64::try_from(n).unwrap_or(i64::MAX)]);
                    let flat = whole.reshape(&[-1])?;
                    g.op("Slice")
                        .input(&flat)
                        .input(&number(start)?)
                        .input(&number(n)?)
                        .output()?
                }
            });
        }
        let types: Vec<DType> = payload.iter().map(Output::dtype).collect();
        let ticket = at(&agreement, "AgreeStage").input(&tag).input_list(&payload).output()?;
        let decide = at(&agreement, "AgreeDecide").input(&tag).input_list(&[ticket]);
        let reduce = at(&agreement, "AgreeReduce")
            .input(&decide.output()?)
            .attr("mean_types", types);
        for (p, mean) in bucket.iter().zip(reduce.finish()?.outputs()) {
            means[p.gradient].push(mean);
        }
        agreements.push(agreement);
    }
    let mut out = Vec::new();
    for (((_, v), pieces), (_, shape)) in grads.into_iter().zip(means).zip(&dense) {
        let flat = match pieces.as_slice() {
            [one] => one.clone(),
            many => g.concat(many, 0)?,
        };
        out.push((Grad::Dense(flat.reshape(&shape.to_i64())?), v));
    }
    Ok((Buckets { agreements, tag }, out))
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
