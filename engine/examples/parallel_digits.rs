//! One model, several workers, and a switch for how they agree: handwritten digits in one process.
//!
//! `cargo run --release -p actorflow --example parallel_digits -- --strategy sync`
//!
//! Strategies are async, async-scaled, sync, sync+backup1, hybrid2x1, ssp3 and allreduce. There is one device for the
//! parameters and one for each worker (`--workers`, 2 by default); each worker is a thread with a graph of its own. The
//! program ends when a part of the images that nobody trained on is read with an accuracy of 0.97, and fails if that
//! does not happen.

use std::io::Read;
use std::sync::Mutex;

use actorflow::nn::sparse_softmax_cross_entropy;
use actorflow::train::init::{VarianceScaling, Zeros};
use actorflow::train::optimizer::Momentum;
use actorflow::train::parallel::{Model, Replica, ReplicaOptions, Strategy};
use actorflow::{Code, DType, Error, Graph, GraphVariables, Output, Result, Session, SessionOptions, Tensor};

static DIGITS: &[u8] = include_bytes!("../cli/data/digits.csv.gz");
const PIXELS: usize = 64;
/// Images of a step, of all workers together.
const BATCH: usize = 32;
const EPOCHS: usize = 150;
const TARGET: f64 = 0.97;

/// Pixels and labels.
#[derive(Default)]
struct Images {
    pixels: Vec<f32>,
    labels: Vec<i32>,
}

impl Images {
    fn batch(&self, rows: impl Iterator<Item = usize>) -> Result<[Tensor; 2]> {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for r in rows {
            x.extend_from_slice(&self.pixels[r * PIXELS..(r + 1) * PIXELS]);
            y.push(self.labels[r]);
        }
        Ok([Tensor::from_slice([y.len(), PIXELS], &x)?, Tensor::vector(&y)])
    }
}

/// The images to learn from, and those to be judged by.
fn load() -> Result<[Images; 2]> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(DIGITS).read_to_string(&mut text)?;
    let mut sets = [Images::default(), Images::default()];
    for (i, line) in text.lines().enumerate() {
        let numbers: std::result::Result<Vec<f32>, _> = line.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|e| Error::data_loss(format!("row {i}: {e}")))?;
        let set = &mut sets[usize::from(i % 5 == 4)];
        set.pixels.extend(numbers[..PIXELS].iter().map(|p| p / 16.0));
        set.labels.push(numbers[PIXELS] as i32);
    }
    Ok(sets)
}

fn network(g: &Graph) -> Result<(Model, Output)> {
    g.set_seed(1);
    let x = g.placeholder("x", DType::F32, [None, Some(PIXELS)])?;
    let y = g.placeholder("y", DType::I32, [None])?;
    let w1 = g.get_variable("w1", [PIXELS, 128], VarianceScaling::glorot_uniform(Some(1)))?;
    let b1 = g.get_variable("b1", [128], Zeros)?;
    let w2 = g.get_variable("w2", [128, 10], VarianceScaling::glorot_uniform(Some(2)))?;
    let b2 = g.get_variable("b2", [10], Zeros)?;
    let hidden = (&x.matmul(&w1)? + &*b1)?.relu()?;
    let logits = (&hidden.matmul(&w2)? + &*b2)?;
    let loss = sparse_softmax_cross_entropy(&logits, &y)?.mean(&[], false)?;
    let model = Model {
        inputs: vec![x, y],
        loss,
        metrics: vec![],
    };
    Ok((model, logits))
}

/// How many of the images are read rightly with these parameters.
struct Judge {
    session: Session,
    feeds: Vec<Output>,
    answer: Output,
    images: [Tensor; 2],
}

impl Judge {
    fn new(images: &Images) -> Result<Judge> {
        let g = Graph::new();
        let (model, logits) = network(&g)?;
        let mut feeds = vec![model.inputs[0].clone()];
        feeds.extend(g.trainable_variables()?.iter().map(|v| v.value().clone()));
        Ok(Judge {
            session: Session::with_options(&g, SessionOptions::with_threads(1))?,
            feeds,
            answer: logits.argmax(1)?,
            images: images.batch(0..images.labels.len())?,
        })
    }

    fn accuracy(&self, replica: &Replica) -> Result<f64> {
        let mut given = vec![self.images[0].clone()];
        given.extend(replica.parameters()?.into_iter().map(|(_, t)| t));
        let feeds: Vec<(&Output, Tensor)> = self.feeds.iter().zip(given).collect();
        let answers = self.session.run(&feeds, &[&self.answer])?[0].to_i64_vec()?;
        let labels = self.images[1].to_i64_vec()?;
        let right = answers.iter().zip(&labels).filter(|(a, b)| a == b).count();
        Ok(right as f64 / labels.len() as f64)
    }
}

/// Trains one worker's share; the accuracy at its end.
fn work(options: ReplicaOptions, session: &Session, sets: &[Images; 2]) -> Result<f64> {
    let (me, workers, strategy) = (options.replica, options.replicas, options.strategy);
    let g = Graph::new();
    // Gradients that come late act as momentum themselves (Mitliagkas et al., "Asynchrony begets momentum", 2016): with all of
    // it on top, more than two workers make the loss grow once in a while, unless late ones count less.
    let late = match strategy {
        Strategy::Async { scale_by_staleness } => !scale_by_staleness,
        Strategy::Hybrid { .. } | Strategy::Ssp { .. } => true,
        Strategy::Sync { .. } | Strategy::AllReduce => false,
    };
    let rule = Momentum::new(0.05, if late && workers > 2 { 0.5 } else { 0.9 });
    let mut replica = Replica::build(&g, rule.into(), options, |g| network(g).map(|(model, _)| model))?;
    replica.start(&session.sibling(&g))?;
    let judge = Judge::new(&sets[1])?;
    let n = sets[0].labels.len();
    let (share, steps) = (BATCH / workers, n / BATCH);
    let mut accuracy = 0.0;
    'training: for epoch in 0..EPOCHS {
        let mut loss = 0.0;
        for step in 0..steps {
            // Every image once an epoch, in an order that all workers know.
            let at = step * BATCH + me * share;
            let rows = (at..at + share).map(|i| (i * 577 + epoch * 31) % n);
            match replica.step(&sets[0].batch(rows)?) {
                Ok(report) => loss += report.loss / steps as f32,
                // The others are done and have left.
                Err(e) if e.code() == Code::OutOfRange => break 'training,
                Err(e) => return Err(e),
            }
        }
        accuracy = judge.accuracy(&replica)?;
        if me == 0 && epoch % 5 == 4 {
            println!(
                "{strategy}: epoch {}: loss {loss:.4}, accuracy {accuracy:.4}",
                epoch + 1
            );
        }
        if accuracy >= TARGET {
            break;
        }
    }
    accuracy = accuracy.max(judge.accuracy(&replica)?);
    replica.leave()?;
    Ok(accuracy)
}

fn argument(name: &str, default: &str) -> String {
    let mut args = std::env::args().skip_while(|a| a != name).skip(1);
    args.next().unwrap_or_else(|| default.to_owned())
}

fn main() -> Result<()> {
    let strategy: Strategy = argument("--strategy", "sync").parse()?;
    let workers: usize = argument("--workers", "2")
        .parse()
        .map_err(|e| Error::invalid(format!("--workers: {e}")))?;
    if workers == 0 || workers > BATCH {
        return Err(Error::invalid(format!("--workers must be between 1 and {BATCH}")));
    }
    strategy.check(workers)?;
    let sets = load()?;
    let session = Session::with_options(
        &Graph::new(),
        SessionOptions {
            devices: 1 + workers,
            ..SessionOptions::default()
        },
    )?;
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for i in 0..workers {
            let mut options = ReplicaOptions::new(strategy, i, workers);
            options.ps = vec!["/cpu:0".to_owned()];
            options.worker = format!("/cpu:{}", 1 + i);
            options.workers = (0..workers).map(|k| format!("/cpu:{}", 1 + k)).collect();
            let (session, sets, results) = (&session, &sets, &results);
            scope.spawn(move || {
                let result = work(options, session, sets);
                if let Ok(mut all) = results.lock() {
                    all.push(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_default();
    let mut best = 0f64;
    for r in results {
        best = best.max(r?);
    }
    println!("{strategy}: accuracy {best:.4} on images that nobody trained on");
    match best >= TARGET {
        true => Ok(()),
        false => Err(Error::internal(format!("{best:.4} is less than {TARGET}"))),
    }
}
