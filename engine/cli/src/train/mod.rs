//! `actorflow train`: trains a classifier of handwritten digits.

mod data;
mod model;
mod resume;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use actorflow::{GraphVariables, Result, Session, SessionOptions, Tensor};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use self::data::{Dataset, Split};
use self::model::{Model, ModelName, OptimizerName, Setup};
use self::resume::{Checkpoints, Progress};
use crate::{Failure, numbers};

/// Train a classifier of handwritten digits and report its accuracy on the test rows.
///
/// Row i of the data is a test row if i % 5 == 4; the others are trained on. Equal seeds give equal results,
/// whatever the number of threads.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data set.
    #[arg(value_enum)]
    dataset: Dataset,
    /// The classifier.
    #[arg(long, value_enum, default_value = "mlp")]
    model: ModelName,
    /// Units of the hidden layer (default: 256, of lenet 128); softmax has none.
    #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=65536))]
    hidden: Option<u32>,
    /// Passes over the training rows (default: 40, of lenet 6).
    #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Rows in a step.
    #[arg(long, default_value_t = 32, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// The update rule.
    #[arg(long, value_enum, default_value = "adam")]
    optimizer: OptimizerName,
    /// The learning rate; each optimizer has a default of its own. Of lenet it falls to zero by the last step.
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// The seed of the initial weights and of the order of the rows.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, value_parser = numbers::seed)]
    seed: u64,
    /// Threads that may compute at once (default: one for each core).
    #[arg(long, allow_negative_numbers = true, value_parser = numbers::threads)]
    threads: Option<usize>,
    /// A CSV file (plain or gzip) to use instead of the bundled one: pixels, then the label, a line each.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Save checkpoints in this directory: at the end, and as --checkpoint-every says.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Save a checkpoint after every so many steps.
    #[arg(long, value_name = "N", requires = "checkpoint", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_every: Option<u32>,
    /// Go on from the latest checkpoint of the directory, if there is one; the result is that of a training that was
    /// never stopped.
    #[arg(long, requires = "checkpoint")]
    resume: bool,
    /// Print the result as one JSON object, as the last line.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn epochs(&self) -> u32 {
        self.epochs.unwrap_or(self.model.default_epochs())
    }
}

#[derive(Serialize)]
struct Summary {
    dataset: &'static str,
    model: &'static str,
    steps: u64,
    seconds: f64,
    final_loss: f32,
    test_accuracy: f64,
    /// Rows that were trained on, those of a resumed checkpoint not counted.
    #[serde(skip)]
    rows: u64,
}

/// A small generator for the order of rows: `xorshift64*` by S. Vigna, seeded through `splitmix64`.
struct Shuffle(u64);

impl Shuffle {
    fn new(seed: u64) -> Self {
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Shuffle((z ^ (z >> 31)) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = u128::from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)) * n as u128;
        (high >> 64) as usize
    }

    fn shuffle(&mut self, v: &mut [usize]) {
        for i in (1..v.len()).rev() {
            v.swap(i, self.below(i + 1));
        }
    }
}

/// Runs the command.
///
/// # Errors
/// For units of a hidden layer that the model has not, unreadable data, a learning rate that is no positive number, and errors of the engine.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.hidden.is_some() && !args.model.has_hidden_layer() {
        return Err(Failure::Usage(format!(
            "--hidden: {} has no hidden layer; leave it out, or train --model mlp or lenet",
            args.model.name()
        )));
    }
    let split = args.dataset.load(args.data.as_deref())?;
    let model = Model::build(&Setup {
        model: args.model,
        width: split.width,
        classes: split.classes,
        hidden: args.hidden.map(|h| h as usize),
        optimizer: args.optimizer,
        rate: args.lr,
        seed: args.seed,
        steps: u64::from(args.epochs()) * split.train.len().div_ceil(args.batch as usize) as u64,
    })?;
    let checkpoints = Checkpoints::new(args, &split, &model)?;
    let mut options = SessionOptions::default();
    if let Some(t) = args.threads {
        options = SessionOptions::with_threads(t);
    }
    let session = Session::with_options(&model.graph, options)?;
    session.execute(&[&model.graph.global_variables_initializer()?])?;
    if !args.json {
        writeln!(
            io::stdout(),
            "{}: {} training rows, {} test rows, {} pixels, {} classes; {} parameters, {} with learning rate {}",
            args.dataset.name(),
            split.train.len(),
            split.test.len(),
            split.width,
            split.classes,
            model.parameters,
            args.optimizer.name(),
            model.rate
        )?;
    }
    let summary = fit(args, &split, &model, &session, checkpoints.as_ref())?;
    let mut out = io::stdout().lock();
    let line = if args.json {
        serde_json::to_string(&summary).map_err(|e| actorflow::Error::internal(e.to_string()))?
    } else {
        format!(
            "test accuracy {:.4} ({} rows), final loss {:.4}, {} steps in {:.2} s ({:.0} examples/s)",
            summary.test_accuracy,
            split.test.len(),
            summary.final_loss,
            summary.steps,
            summary.seconds,
            summary.rows as f64 / summary.seconds.max(1e-9)
        )
    };
    writeln!(out, "{line}")?;
    Ok(())
}

fn fit(
    args: &Args,
    split: &Split,
    model: &Model,
    session: &Session,
    checkpoints: Option<&Checkpoints>,
) -> Result<Summary> {
    let step = session.callable(&[&model.x, &model.y], &[&model.loss], &[&model.train])?;
    let judge = session.callable(&[&model.x, &model.y], &[&model.accuracy], &[])?;
    let (test_x, test_y) = split.test.all(split.width)?;
    let test = [test_x, test_y];
    let n = split.train.len();
    let bar = progress(args, n);
    let mut order: Vec<usize> = (0..n).collect();
    let mut shuffle = Shuffle::new(args.seed);
    let mut now = match checkpoints.filter(|_| args.resume) {
        Some(c) => c.resume(session)?.unwrap_or_default(),
        None => Progress::default(),
    };
    let per_epoch = n.div_ceil(args.batch as usize).max(1) as u64;
    let mut last_loss = (now.loss / per_epoch as f64) as f32;
    let begun = Instant::now();
    let (before, mut rows_seen) = (now.steps, 0u64);
    for epoch in 0..args.epochs() {
        shuffle.shuffle(&mut order);
        // Epochs that a checkpoint has behind it only shuffle.
        let done = now.steps.saturating_sub(u64::from(epoch) * per_epoch).min(per_epoch);
        if done == per_epoch {
            bar.inc(n as u64);
            continue;
        }
        if done == 0 {
            now.loss = 0.0;
        }
        bar.inc(done * u64::from(args.batch));
        for rows in order.chunks(args.batch as usize).skip(done as usize) {
            let (x, y) = split.train.select(rows, split.width)?;
            let out = step.call(&[x, y])?;
            let loss: f32 = out.first().map_or(Ok(f32::NAN), Tensor::to_scalar)?;
            if !loss.is_finite() {
                bar.abandon();
                return Err(actorflow::Error::invalid(format!(
                    "the loss became {loss} in epoch {}; try a smaller --lr than {}",
                    epoch + 1,
                    model.rate
                )));
            }
            now.steps += 1;
            now.loss += f64::from(loss);
            rows_seen += rows.len() as u64;
            bar.inc(rows.len() as u64);
            if let Some(c) = checkpoints {
                c.step(session, &now)?;
            }
        }
        last_loss = (now.loss / per_epoch as f64) as f32;
        if !bar.is_hidden() {
            let accuracy = measure(&judge, &test)?;
            bar.set_message(format!(
                "epoch {:>3}  loss {last_loss:.4}  test accuracy {accuracy:.4}",
                epoch + 1
            ));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    bar.finish();
    if let Some(c) = checkpoints.filter(|_| now.steps > before) {
        c.save(session, &now)?;
    }
    Ok(Summary {
        dataset: args.dataset.name(),
        model: args.model.name(),
        steps: now.steps,
        seconds,
        final_loss: last_loss,
        test_accuracy: measure(&judge, &test)?,
        rows: rows_seen,
    })
}

fn measure(judge: &actorflow::Callable, test: &[Tensor]) -> Result<f64> {
    let out = judge.call(test)?;
    // Rounded away from float noise: it is a share of whole rows.
    out.first().map_or(Ok(f64::NAN), |t| {
        t.to_scalar::<f32>().map(|a| (f64::from(a) * 1e6).round() / 1e6)
    })
}

fn progress(args: &Args, rows: usize) -> ProgressBar {
    if args.json || !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:32} {percent:>3}%  {msg}  {per_sec} examples  eta {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(u64::from(args.epochs()) * rows as u64);
    bar.set_style(style);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_is_a_permutation_that_follows_the_seed() {
        let run = |seed| {
            let mut v: Vec<usize> = (0..100).collect();
            Shuffle::new(seed).shuffle(&mut v);
            v
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
        let mut sorted = run(5);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..100));
    }
}
