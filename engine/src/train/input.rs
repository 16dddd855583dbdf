//! Input pipelines of queues: rows of tensors, over and over, in order or shuffled, in batches.
//!
//! Each function adds queues and registers [runners](super::queue_runner) that fill them;
//! [`start_queue_runners`](super::queue_runner::start_queue_runners) starts these. When the input ends, `OUT_OF_RANGE`
//! travels down the pipeline, behind the last element. `TensorFlow: tf.train.string_input_producer, tf.train.batch`, …

#![forbid(unsafe_code)]

use actorflow_core::{DType, Error, Graph, Operation, Output, PartialShape, Result, Tensor};

use super::queue_runner::QueueRunner;
use super::variable::GraphVariables;
use crate::queue::{Queue, QueueKind};

/// How rows of a tensor become elements of a queue.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// How often all rows are produced; forever without it. It is counted in a local variable, which the initialiser
    /// of the graph's variables sets to zero.
    pub num_epochs: Option<i64>,
    /// The rows are shuffled, each time anew.
    pub shuffle: bool,
    /// The op's seed for shuffling; the graph's alone decides without one.
    pub seed: Option<i64>,
    /// The capacity of the queue.
    pub capacity: usize,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        ProducerOptions {
            num_epochs: None,
            shuffle: true,
            seed: None,
            capacity: 32,
        }
    }
}

/// `x`, so often; then `OUT_OF_RANGE`. `TensorFlow: tf.train.limit_epochs`.
///
/// # Errors
/// `INVALID_ARGUMENT` unless `num_epochs` is positive.
#[track_caller]
pub fn limit_epochs(x: &Output, num_epochs: i64) -> Result<Output> {
    if num_epochs <= 0 {
        return Err(Error::invalid(format!(
            "the number of epochs must be positive, got {num_epochs}"
        )));
    }
    let g = x.graph();
    let _name = g.name_scope("limit_epochs");
    let epochs = g.variable_builder("epochs").local().reference().build(0i64)?;
    let counted = g.op("CountUpTo").input(epochs.handle()).attr("limit", num_epochs);
    let counted = counted.finish()?;
    let _after = g.control_dependencies(&[counted]);
    x.identity()
}

/// A FIFO queue of the rows of a tensor, over and over. `TensorFlow: tf.train.input_producer`.
///
/// # Errors
/// `INVALID_ARGUMENT` if the shape of the rows is not known; as [`limit_epochs`].
#[track_caller]
pub fn input_producer(rows: &Output, options: &ProducerOptions) -> Result<Queue> {
    let g = rows.graph();
    let _name = g.name_scope("input_producer");
    let shape = match rows.shape().rank() {
        Some(r) if r > 0 => rows.shape().sub(1, r),
        _ => PartialShape::UNKNOWN,
    };
    if !shape.is_fully_known() {
        return Err(Error::invalid(format!(
            "the shape of the rows of an input must be known; {} has shape {}",
            rows.name(),
            rows.shape()
        )));
    }
    let mut x = rows.clone();
    if options.shuffle {
        let (seed, seed2) = g.op_seeds(options.seed);
        let b = g.op("RandomShuffle").input(&x);
        x = b.attr("seed", seed).attr("seed2", seed2).output()?;
    }
    if let Some(n) = options.num_epochs {
        x = limit_epochs(&x, n)?;
    }
    let queue = Queue::builder(g, QueueKind::Fifo, &[(x.dtype(), shape)]);
    let queue = queue.capacity(options.capacity).build()?;
    let enqueue = queue.enqueue_many(&[x])?;
    QueueRunner::new(&queue, &[enqueue])?.register();
    Ok(queue)
}

/// A FIFO queue of strings, such as file names. `TensorFlow: tf.train.string_input_producer`.
///
/// # Errors
/// `INVALID_ARGUMENT` without strings; as [`input_producer`].
#[track_caller]
pub fn string_input_producer(g: &Graph, strings: &[&str], options: &ProducerOptions) -> Result<Queue> {
    if strings.is_empty() {
        return Err(Error::invalid("there must be at least one string to produce"));
    }
    let bytes: Vec<_> = strings
        .iter()
        .map(|s| bytes::Bytes::copy_from_slice(s.as_bytes()))
        .collect();
    input_producer(&g.constant(Tensor::strings([strings.len()], bytes)?)?, options)
}

/// A FIFO queue of the numbers from 0 to `limit - 1`, int32. `TensorFlow: tf.train.range_input_producer`.
///
/// # Errors
/// `INVALID_ARGUMENT` unless `limit` is positive; as [`input_producer`].
#[track_caller]
pub fn range_input_producer(g: &Graph, limit: i32, options: &ProducerOptions) -> Result<Queue> {
    if limit <= 0 {
        return Err(Error::invalid(format!(
            "the numbers to produce must be below a positive limit, got {limit}"
        )));
    }
    input_producer(&g.constant((0..limit).collect::<Vec<i32>>())?, options)
}

/// One row after the other of several tensors with equally many rows, the same row of each.
/// `TensorFlow: tf.train.slice_input_producer`.
///
/// # Errors
/// `INVALID_ARGUMENT` without tensors, or unless they have a known and equal number of rows; as [`input_producer`].
#[track_caller]
pub fn slice_input_producer(tensors: &[Output], options: &ProducerOptions) -> Result<Vec<Output>> {
    let Some(first) = tensors.first() else {
        return Err(Error::invalid("there must be at least one tensor to take rows from"));
    };
    let rows = |x: &Output| x.shape().dim(0).and_then(|n| i32::try_from(n).ok());
    let Some(n) = rows(first) else {
        return Err(Error::invalid(format!(
            "the number of rows of {} must be known, but its shape is {}",
            first.name(),
            first.shape()
        )));
    };
    if let Some(x) = tensors.iter().find(|x| rows(x) != Some(n)) {
        return Err(Error::invalid(format!(
            "{} has {n} rows, but {} has shape {}",
            first.name(),
            x.name(),
            x.shape()
        )));
    }
    let queue = range_input_producer(first.graph(), n, options)?;
    let i = queue.dequeue()?;
    tensors.iter().map(|x| x.gather(&i[0], 0)).collect()
}

/// How elements become batches.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// How many threads compute elements; with more than one their order is lost.
    pub threads: usize,
    /// The capacity of the queue.
    pub capacity: usize,
    /// Each tensor is itself a batch, whose rows are elements.
    pub enqueue_many: bool,
    /// When the input ends, what is left makes a smaller batch; otherwise it is lost.
    pub allow_smaller_final_batch: bool,
    /// Elements may differ in the dimensions that are unknown, and are padded with zeros.
    pub dynamic_pad: bool,
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions {
            threads: 1,
            capacity: 32,
            enqueue_many: false,
            allow_smaller_final_batch: false,
            dynamic_pad: false,
        }
    }
}

/// What is known of the elements.
fn components(tensors: &[Output], options: &BatchOptions) -> Result<Vec<(DType, PartialShape)>> {
    if tensors.is_empty() {
        return Err(Error::invalid("there must be at least one tensor to make batches of"));
    }
    let one = |x: &Output| {
        let shape = match (options.enqueue_many, x.shape().rank()) {
            (true, Some(r)) if r > 0 => x.shape().sub(1, r),
            (true, _) => PartialShape::UNKNOWN,
            (false, _) => x.shape(),
        };
        let enough = match options.dynamic_pad {
            true => shape.rank().is_some(),
            false => shape.is_fully_known(),
        };
        match enough {
            true => Ok((x.dtype(), shape)),
            false => Err(Error::invalid(format!(
                "to make batches, the {} of {} must be known, but its shape is {}",
                if options.dynamic_pad { "rank" } else { "shape" },
                x.name(),
                x.shape()
            ))),
        }
    };
    tensors.iter().map(one).collect()
}

fn fill_and_take(queue: &Queue, tensors: &[Output], size: i32, options: &BatchOptions) -> Result<Vec<Output>> {
    if size <= 0 {
        return Err(Error::invalid(format!(
            "the size of a batch must be positive, got {size}"
        )));
    }
    let enqueue: Operation = match options.enqueue_many {
        true => queue.enqueue_many(tensors)?,
        false => queue.enqueue(tensors)?,
    };
    QueueRunner::new(queue, &vec![enqueue; options.threads])?.register();
    let n = queue.handle().graph().constant(size)?;
    match options.allow_smaller_final_batch {
        true => queue.dequeue_up_to(&n),
        false => queue.dequeue_many(&n),
    }
}

/// Batches of `size` elements, in order: one tensor `[size, …]` for each of `tensors`. `TensorFlow: tf.train.batch`.
///
/// # Errors
/// `INVALID_ARGUMENT` without tensors or threads, for a size that is not positive, or unless the tensors' shapes (with
/// `dynamic_pad`: ranks) are known.
#[track_caller]
pub fn batch(tensors: &[Output], size: i32, options: &BatchOptions) -> Result<Vec<Output>> {
    let elements = components(tensors, options)?;
    let g = tensors[0].graph();
    let _name = g.name_scope("batch");
    let kind = match options.dynamic_pad {
        true => QueueKind::Padding,
        false => QueueKind::Fifo,
    };
    let queue = Queue::builder(g, kind, &elements).capacity(options.capacity).build()?;
    fill_and_take(&queue, tensors, size, options)
}

/// Batches of `size` elements, drawn at random from at least `min_after_dequeue` others.
/// `TensorFlow: tf.train.shuffle_batch`.
///
/// # Errors
/// As [`batch`]; `INVALID_ARGUMENT` if the capacity is not above `min_after_dequeue`, or `dynamic_pad` is asked for.
#[track_caller]
pub fn shuffle_batch(
    tensors: &[Output],
    size: i32,
    min_after_dequeue: usize,
    seed: Option<i64>,
    options: &BatchOptions,
) -> Result<Vec<Output>> {
    if options.capacity <= min_after_dequeue || options.dynamic_pad {
        return Err(Error::invalid(format!(
            "shuffled batches need a capacity above min_after_dequeue and cannot be padded; got a capacity of {}, \
             min_after_dequeue {min_after_dequeue}, dynamic_pad {}",
            options.capacity, options.dynamic_pad
        )));
    }
    let elements = components(tensors, options)?;
    let g = tensors[0].graph();
    let _name = g.name_scope("shuffle_batch");
    let mut b = Queue::builder(g, QueueKind::Shuffle, &elements);
    if let Some(s) = seed {
        b = b.seed(s);
    }
    let queue = b
        .capacity(options.capacity)
        .min_after_dequeue(min_after_dequeue)
        .build()?;
    fill_and_take(&queue, tensors, size, options)
}
