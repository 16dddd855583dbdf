//! Examples, one after the other.

use std::path::PathBuf;
use std::sync::Arc;

use actorflow_core::{Error, Result, Tensor};

use super::batch::{join, row, rows};
use super::csv::{CsvOptions, CsvReader};
use super::draws::Draws;
use super::ledger::EpochLedger;
use super::prefetch::ahead;
use super::records::{Compression, RecordReader};
use crate::npy::read_npy_file;

/// The tensors of an example, or of a batch of them.
pub type Example = Vec<Tensor>;

/// Examples of one epoch. After an error there are no more.
pub type Examples = Box<dyn Iterator<Item = Result<Example>> + Send>;

/// How many examples are claimed from a ledger at once, so that it is not asked for each.
const CLAIM: usize = 32;
/// The most examples that are made ahead: there is room for all of them from the beginning.
const AHEAD: usize = 1 << 20;

/// Examples that can be gone through any number of times.
///
/// Each epoch has a number, which decides together with seeds in which order examples come: the same seeds give the same
/// order, whatever the machine. Methods take a data set and give another one; none of them reads anything before the
/// [iterator](Self::iter) is asked. `TensorFlow: tf.data.Dataset`.
#[derive(Clone)]
pub struct Dataset(Arc<dyn Fn(u64) -> Result<Examples> + Send + Sync>);

/// Ends after the first error.
struct UntilError {
    from: Option<Examples>,
}

impl Iterator for UntilError {
    type Item = Result<Example>;

    fn next(&mut self) -> Option<Result<Example>> {
        let item = self.from.as_mut()?.next();
        if !matches!(item, Some(Ok(_))) {
            self.from = None;
        }
        item
    }
}

/// An iterator that gives one error.
fn failed(e: Error) -> Examples {
    Box::new(std::iter::once(Err(e)))
}

fn positive(what: &str, n: usize) -> Result<()> {
    match n {
        0 => Err(Error::invalid(format!("{what} must be positive"))),
        _ => Ok(()),
    }
}

impl Dataset {
    /// A data set whose epochs a function makes, given their numbers.
    pub fn new(make: impl Fn(u64) -> Result<Examples> + Send + Sync + 'static) -> Dataset {
        Dataset(Arc::new(make))
    }

    /// The rows of tensors that have equally many.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` without tensors, for scalars, or if the numbers of rows differ.
    pub fn from_tensors(tensors: &[Tensor]) -> Result<Dataset> {
        let (n, tensors) = (rows(tensors)?, tensors.to_vec());
        Ok(Dataset::new(move |_| {
            let tensors = tensors.clone();
            Ok(Box::new(
                (0..n).map(move |i| tensors.iter().map(|t| row(t, i)).collect()),
            ))
        }))
    }

    /// The examples that a ledger hands out to a worker; `read` reads one by its number.
    pub fn from_ledger(
        ledger: Arc<dyn EpochLedger>,
        worker: usize,
        read: impl Fn(u64) -> Result<Example> + Send + Sync + 'static,
    ) -> Dataset {
        let read = Arc::new(read);
        Dataset::new(move |epoch| {
            let (ledger, read) = (ledger.clone(), read.clone());
            let mut claimed = Vec::new().into_iter();
            Ok(Box::new(std::iter::from_fn(move || {
                if claimed.len() == 0 {
                    match ledger.claim(worker, epoch, CLAIM) {
                        Ok(more) => claimed = more.into_iter(),
                        Err(e) => return Some(Err(e)),
                    }
                }
                claimed.next().map(|i| read(i))
            })))
        })
    }

    /// Those rows of tensors that a ledger hands out to a worker. The ledger must be of as many examples.
    ///
    /// # Errors
    /// As [`from_tensors`](Self::from_tensors).
    pub fn rows_from_ledger(tensors: &[Tensor], ledger: Arc<dyn EpochLedger>, worker: usize) -> Result<Dataset> {
        let (n, tensors) = (rows(tensors)?, tensors.to_vec());
        Ok(Dataset::from_ledger(ledger, worker, move |i| {
            let at = usize::try_from(i).ok().filter(|i| *i < n);
            let at =
                at.ok_or_else(|| Error::invalid(format!("the ledger hands out example {i}, but there are {n}")))?;
            tensors.iter().map(|t| row(t, at)).collect()
        }))
    }

    /// Each file's examples, one file after the other.
    fn from_files<F: Clone + Send + Sync + 'static>(
        files: Vec<F>,
        open: impl Fn(&F) -> Result<Examples> + Send + Sync + 'static,
    ) -> Dataset {
        let open = Arc::new(open);
        Dataset::new(move |_| {
            let open = open.clone();
            let all = files.clone().into_iter();
            Ok(Box::new(all.flat_map(move |file| open(&file).unwrap_or_else(failed))))
        })
    }

    /// The records of files, one after the other; each is a scalar string.
    pub fn from_records(files: Vec<PathBuf>, compression: Compression) -> Dataset {
        Dataset::from_files(files, move |file| {
            let records = RecordReader::open(file, compression)?;
            Ok(Box::new(records.map(|r| Ok(vec![Tensor::string(r?)]))))
        })
    }

    /// The rows of CSV files, one after the other; each column is a scalar.
    pub fn from_csv(files: Vec<PathBuf>, options: &CsvOptions) -> Dataset {
        let options = options.clone();
        Dataset::from_files(files, move |file| Ok(Box::new(CsvReader::open(file, &options)?)))
    }

    /// The rows of NumPy's arrays, shard after shard. A shard is one file for each tensor of an example, all with equally
    /// many rows. One shard is in memory at a time.
    pub fn from_npy(shards: Vec<Vec<PathBuf>>) -> Dataset {
        Dataset::from_files(shards, |files| {
            let tensors = files.iter().map(read_npy_file).collect::<Result<Vec<_>>>()?;
            let named = |e: Error| {
                let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
                e.context(names.join(", "))
            };
            Dataset::from_tensors(&tensors).map_err(named)?.iter()
        })
    }

    /// The examples in the first epoch's order.
    ///
    /// # Errors
    /// What the source says when it is opened.
    pub fn iter(&self) -> Result<Examples> {
        self.epoch(0)
    }

    /// The examples in the order of an epoch.
    ///
    /// # Errors
    /// What the source says when it is opened.
    pub fn epoch(&self, number: u64) -> Result<Examples> {
        let from = Some((self.0)(number)?);
        Ok(Box::new(UntilError { from }))
    }

    /// What `f` makes of each example.
    pub fn map(self, f: impl Fn(Example) -> Result<Example> + Send + Sync + 'static) -> Dataset {
        let f = Arc::new(f);
        Dataset::new(move |epoch| {
            let f = f.clone();
            Ok(Box::new(self.epoch(epoch)?.map(move |e| f(e?))))
        })
    }

    /// Those examples for which `keep` holds.
    pub fn filter(self, keep: impl Fn(&Example) -> Result<bool> + Send + Sync + 'static) -> Dataset {
        let keep = Arc::new(keep);
        Dataset::new(move |epoch| {
            let keep = keep.clone();
            let kept = move |e: Result<Example>| match e.and_then(|e| Ok((keep(&e)?, e))) {
                Ok((true, e)) => Some(Ok(e)),
                Ok((false, _)) => None,
                Err(e) => Some(Err(e)),
            };
            Ok(Box::new(self.epoch(epoch)?.filter_map(kept)))
        })
    }

    /// The first `n` examples.
    pub fn take(self, n: usize) -> Dataset {
        Dataset::new(move |epoch| Ok(Box::new(self.epoch(epoch)?.take(n))))
    }

    /// All but the first `n` examples.
    pub fn skip(self, n: usize) -> Dataset {
        Dataset::new(move |epoch| {
            let mut examples = self.epoch(epoch)?;
            let mut left = n;
            Ok(Box::new(std::iter::from_fn(move || {
                while left > 0 {
                    left -= 1;
                    // An error is not skipped.
                    match examples.next() {
                        Some(Ok(_)) => {}
                        other => return other,
                    }
                }
                examples.next()
            })))
        })
    }

    /// Example `i` if `i % count == index`: what worker `index` of `count` reads.
    ///
    /// Before [`shuffle`](Self::shuffle), the workers' parts are disjoint in each epoch.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless `index` is below `count`.
    pub fn shard(self, count: usize, index: usize) -> Result<Dataset> {
        super::shards::check(count, index)?;
        Ok(Dataset::new(move |epoch| {
            let numbered = self.epoch(epoch)?.enumerate();
            // An error concerns every worker.
            Ok(Box::new(numbered.filter_map(move |(i, e)| {
                (e.is_err() || i % count == index).then_some(e)
            })))
        }))
    }

    /// The examples in random order, in each epoch another one; each is drawn from the next `buffer` ones.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a buffer of no examples.
    pub fn shuffle(self, buffer: usize, seed: u64) -> Result<Dataset> {
        positive("the size of a shuffle buffer", buffer)?;
        Ok(Dataset::new(move |epoch| {
            let (mut from, mut draws) = (self.epoch(epoch)?, Draws::new(seed, epoch));
            let mut held: Vec<Example> = Vec::new();
            let mut open = true;
            Ok(Box::new(std::iter::from_fn(move || {
                while open && held.len() < buffer {
                    match from.next() {
                        Some(Ok(e)) => held.push(e),
                        Some(Err(e)) => return Some(Err(e)),
                        None => open = false,
                    }
                }
                match held.len() {
                    0 => None,
                    n => Some(Ok(held.swap_remove(draws.below(n)))),
                }
            })))
        }))
    }

    /// Batches of `size` examples. What is left at the end makes a smaller batch, or is dropped.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a size of zero. When iterated: if examples of one batch differ in dtype or shape.
    pub fn batch(self, size: usize, drop_remainder: bool) -> Result<Dataset> {
        positive("the size of a batch", size)?;
        Ok(Dataset::new(move |epoch| {
            let mut from = self.epoch(epoch)?;
            Ok(Box::new(std::iter::from_fn(move || {
                let batch: Result<Vec<Example>> = from.by_ref().take(size).collect();
                match batch {
                    Ok(b) if b.is_empty() || drop_remainder && b.len() < size => None,
                    Ok(b) => Some(join(&b)),
                    Err(e) => Some(Err(e)),
                }
            })))
        }))
    }

    /// Epoch after epoch: so many, or without an end. An epoch without examples ends it.
    pub fn repeat(self, epochs: Option<u64>) -> Dataset {
        Dataset::new(move |outer| {
            // Repeated repetitions have numbers of their own.
            let first = outer.wrapping_mul(epochs.unwrap_or(0x9e37_79b9_7f4a_7c15));
            let this = self.clone();
            let (mut number, mut now): (u64, Option<Examples>) = (0, None);
            let mut any = false;
            Ok(Box::new(std::iter::from_fn(move || {
                loop {
                    if let Some(item) = now.as_mut().and_then(Iterator::next) {
                        any = true;
                        return Some(item);
                    }
                    let empty = now.is_some() && !any;
                    if empty || epochs.is_some_and(|n| number >= n) {
                        return None;
                    }
                    match this.epoch(first.wrapping_add(number)) {
                        Ok(examples) => now = Some(examples),
                        Err(e) => return Some(Err(e)),
                    }
                    (number, any) = (number + 1, false);
                }
            })))
        })
    }

    /// The same examples, of which up to `n` are made ahead by a thread. It ends when its iterator does or is dropped.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if `n` is zero, or above 1,048,576.
    pub fn prefetch(self, n: usize) -> Result<Dataset> {
        positive("the number of examples to prefetch", n)?;
        if n > AHEAD {
            return Err(Error::invalid(format!(
                "at most {AHEAD} examples can be made ahead, not {n}"
            )));
        }
        Ok(Dataset::new(move |epoch| ahead(self.epoch(epoch)?, n)))
    }
}
