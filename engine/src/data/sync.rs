//! Which examples a step of synchronous training uses, by the number of the step.

use std::collections::VecDeque;
use std::sync::Arc;

use actorflow_core::{Error, Result, Tensor};
use parking_lot::Mutex;

use super::batch::{join, row, rows};
use super::dataset::Example;
use super::draws::Draws;

/// Orders of epochs that are kept: a batch is of two at most, and a step that is repeated after a failure may be of the one
/// before.
const KEPT: usize = 3;

/// Which examples each replica of synchronous training uses in which step, so that every example is used exactly once in
/// each epoch, whatever dies meanwhile, and without any agreement but that of the training itself.
///
/// The examples of all epochs are one sequence, each epoch in an order of its own, and step `s` of `n` replicas with
/// batches of `b` uses those from `s·n·b` on, each replica `b` of them. A step of `sync` without reserves and of `allreduce`
/// counts once, with the gradients of all replicas, or not at all; its number is saved and restored together with the
/// parameters. So whoever asks for the batch of the step that it is about to take
/// ([`Replica::position`](crate::train::parallel::Replica::position),
/// [`MonitoredSession::step_with`](crate::train::monitored::MonitoredSession::step_with)) neither repeats an example nor leaves
/// one out: a worker that was killed gets the batch again that has not counted, and a training that goes on from a checkpoint
/// goes on in the data from there. Of a strategy with reserves the batches of late replicas count for nothing, and the others have
/// no step in common.
///
/// ```
/// use actorflow::data::SyncBatches;
///
/// # fn main() -> actorflow::Result<()> {
/// let batches = SyncBatches::new(10, Some(7), 2, 3)?;
/// let mut uses = [0; 10];
/// for step in 0..batches.steps(3) {
///     for replica in 0..2 {
///         batches.of(step, replica)?.iter().for_each(|i| uses[*i as usize] += 1);
///     }
/// }
/// assert_eq!(uses, [3; 10]);
/// # Ok(())
/// # }
/// ```
pub struct SyncBatches {
    examples: u64,
    seed: Option<u64>,
    replicas: usize,
    batch: usize,
    orders: Mutex<VecDeque<(u64, Arc<[u64]>)>>,
}

impl SyncBatches {
    /// Batches of `batch` of the examples below `examples`, for so many replicas: with a seed in random order, in each epoch
    /// another one. All replicas need the same numbers.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if one of the numbers is 0, or a step would use more examples than can be counted.
    pub fn new(examples: u64, seed: Option<u64>, replicas: usize, batch: usize) -> Result<SyncBatches> {
        for (what, n) in [
            ("examples", examples),
            ("replicas", replicas as u64),
            ("examples in a batch", batch as u64),
        ] {
            if n == 0 {
                return Err(Error::invalid(format!(
                    "there are batches of at least 1 of the {what}, not 0"
                )));
            }
        }
        if (replicas as u64).checked_mul(batch as u64).is_none() {
            return Err(Error::invalid(format!(
                "{replicas} replicas with batches of {batch} use more examples in a step than can be counted"
            )));
        }
        Ok(SyncBatches {
            examples,
            seed,
            replicas,
            batch,
            orders: Mutex::default(),
        })
    }

    /// How many steps use the examples of so many epochs. If their number is no multiple of what a step uses, the last step
    /// uses the first examples of the next epoch as well.
    pub fn steps(&self, epochs: u64) -> u64 {
        let all = u128::from(epochs) * u128::from(self.examples);
        let each = self.replicas as u128 * self.batch as u128;
        u64::try_from(all.div_ceil(each)).unwrap_or(u64::MAX)
    }

    /// The numbers of the examples that a replica uses in a step; steps count from 0.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a replica that there is not; `RESOURCE_EXHAUSTED` if there is no memory for an epoch's order.
    pub fn of(&self, step: u64, replica: usize) -> Result<Vec<u64>> {
        super::shards::check(self.replicas, replica)?;
        let first = (u128::from(step) * self.replicas as u128 + replica as u128) * self.batch as u128;
        let each = u128::from(self.examples);
        let mut numbers = Vec::new();
        let mut order: Option<(u64, Option<Arc<[u64]>>)> = None;
        for place in first..first + self.batch as u128 {
            let epoch = u64::try_from(place / each)
                .map_err(|_| Error::invalid(format!("step {step} is beyond all epochs that can be counted")))?;
            // Below the number of examples.
            let within = (place % each) as u64;
            if order.as_ref().is_none_or(|(of, _)| *of != epoch) {
                order = Some((epoch, self.order(epoch)?));
            }
            numbers.push(match &order {
                Some((_, Some(order))) => order.get(within as usize).copied().unwrap_or(within),
                _ => within,
            });
        }
        Ok(numbers)
    }

    /// The batch of a replica in a step: its examples as rows of tensors that have a row for each example.
    ///
    /// # Errors
    /// As [`of`](Self::of); `INVALID_ARGUMENT` unless the tensors have as many rows as there are examples.
    pub fn rows(&self, tensors: &[Tensor], step: u64, replica: usize) -> Result<Example> {
        let n = rows(tensors)?;
        if n as u64 != self.examples {
            return Err(Error::invalid(format!(
                "the batches are of {} examples, but the tensors have {n} rows",
                self.examples
            )));
        }
        let of = |i: u64| -> Result<Example> { tensors.iter().map(|t| row(t, i as usize)).collect() };
        let examples = self
            .of(step, replica)?
            .into_iter()
            .map(of)
            .collect::<Result<Vec<_>>>()?;
        join(&examples)
    }

    /// The order of an epoch; `None` if it is that of the numbers.
    fn order(&self, epoch: u64) -> Result<Option<Arc<[u64]>>> {
        let Some(seed) = self.seed else { return Ok(None) };
        let mut orders = self.orders.lock();
        if let Some((_, order)) = orders.iter().find(|(of, _)| *of == epoch) {
            return Ok(Some(order.clone()));
        }
        let order: Arc<[u64]> = Draws::new(seed, epoch).permutation(self.examples)?.into();
        if orders.len() == KEPT {
            orders.pop_front();
        }
        orders.push_back((epoch, order.clone()));
        Ok(Some(order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::Code;

    #[test]
    fn every_example_is_of_one_batch_in_each_epoch_whatever_the_sizes() {
        for (examples, replicas, batch) in [(1, 1, 1), (7, 2, 3), (12, 3, 4), (5, 4, 8), (100, 2, 8)] {
            for seed in [None, Some(3)] {
                let b = SyncBatches::new(examples, seed, replicas, batch).unwrap();
                let steps = b.steps(6);
                // Backwards, since which step comes next must not matter.
                let mut all: Vec<Vec<u64>> = (0..steps)
                    .rev()
                    .map(|s| (0..replicas).flat_map(|r| b.of(s, r).unwrap()).collect())
                    .collect();
                all.reverse();
                let mut all: Vec<u64> = all.concat();
                assert!(
                    all.len() as u64 >= 6 * examples && (all.len() as u64) < 6 * examples + (replicas * batch) as u64
                );
                all.truncate(6 * examples as usize);
                for epoch in all.chunks_mut(examples as usize) {
                    epoch.sort_unstable();
                    assert!(epoch.iter().copied().eq(0..examples), "{epoch:?}");
                }
            }
        }
    }

    #[test]
    fn epochs_have_orders_of_their_own_that_the_seed_decides() {
        let of = |seed| SyncBatches::new(50, Some(seed), 1, 50).unwrap();
        let (a, b, c) = (of(1), of(1), of(2));
        assert_eq!(a.of(3, 0).unwrap(), b.of(3, 0).unwrap());
        assert_ne!(a.of(3, 0).unwrap(), a.of(4, 0).unwrap());
        assert_ne!(a.of(3, 0).unwrap(), c.of(3, 0).unwrap());
    }

    #[test]
    fn a_batch_is_rows_of_tensors() {
        let b = SyncBatches::new(4, None, 2, 1).unwrap();
        let (x, y) = (
            Tensor::from([[1f32], [2.0], [3.0], [4.0]]),
            Tensor::vector(&[5i32, 6, 7, 8]),
        );
        let got = b.rows(&[x.clone(), y.clone()], 1, 1).unwrap();
        assert_eq!(got, [Tensor::from([[4f32]]), Tensor::vector(&[8i32])]);
        let e = SyncBatches::new(5, None, 2, 1)
            .unwrap()
            .rows(&[x, y], 0, 0)
            .unwrap_err();
        assert!(
            e.message().contains("5 examples") && e.message().contains("4 rows"),
            "{e}"
        );
    }

    #[test]
    fn what_makes_no_batches_is_refused() {
        for (examples, replicas, batch) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, usize::MAX, 3)] {
            let e = SyncBatches::new(examples, None, replicas, batch).err().unwrap();
            assert_eq!(e.code(), Code::InvalidArgument, "{e}");
        }
        let b = SyncBatches::new(3, None, 2, 2).unwrap();
        assert_eq!(b.of(0, 2).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(b.of(u64::MAX / 8, 1).unwrap().len(), 2);
        assert!(SyncBatches::new(1, None, 2, 2).unwrap().of(u64::MAX, 1).is_err());
    }
}
