//! A service that trains while it serves: one process, one model, no copies.
//!
//! `cargo run --release -p actorflow --example train_and_serve`
//!
//! A thread trains a classifier of handwritten digits; others answer requests about images that nobody trains on, with a
//! deadline each, by a prepared call that reads the very variables. A run that reads a variable sees it before an update
//! or after it, never between. Every part of a second the service says how fast it answered, and how rightly; when it has
//! answered well enough it stops: no new request begins, what has begun is answered, and the training ends with its step.
//!
//! `--seconds S` (20): the longest that it serves. `--clients N` (2). `--deadline MS` (100): of a request.

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use actorflow::nn::sparse_softmax_cross_entropy;
use actorflow::train::coordinator::Coordinator;
use actorflow::train::init::{VarianceScaling, Zeros};
use actorflow::train::optimizer::Momentum;
use actorflow::{
    Callable, Code, DType, Error, Graph, GraphVariables, Optimizer, Output, Result, Session, SessionOptions, Tensor,
};

static DIGITS: &[u8] = include_bytes!("../cli/data/digits.csv.gz");
const PIXELS: usize = 64;
const BATCH: usize = 32;
/// Images of a request.
const REQUEST: usize = 8;
/// How often the service says how it does.
const REPORT: Duration = Duration::from_millis(100);
const TARGET: f64 = 0.95;

struct Options {
    seconds: f64,
    clients: usize,
    deadline: Duration,
}

impl Options {
    fn read() -> Result<Options> {
        let mut o = Options {
            seconds: 20.0,
            clients: 2,
            deadline: Duration::from_millis(100),
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let text = args.next().unwrap_or_default();
            let wrong = |what: &str| Error::invalid(format!("{arg} needs {what}, not {text:?}"));
            match arg.as_str() {
                "--seconds" => {
                    let s = text.parse().ok().filter(|s: &f64| *s > 0.0 && *s < 1e6);
                    o.seconds = s.ok_or_else(|| wrong("a number of seconds"))?;
                }
                "--clients" => {
                    let n = text.parse().ok().filter(|n| (1..=64).contains(n));
                    o.clients = n.ok_or_else(|| wrong("a number from 1 to 64"))?;
                }
                "--deadline" => {
                    let ms = text.parse().ok().filter(|ms| *ms > 0);
                    o.deadline = Duration::from_millis(ms.ok_or_else(|| wrong("a number of milliseconds"))?);
                }
                _ => {
                    let known = "--seconds, --clients and --deadline";
                    return Err(Error::invalid(format!("there is no argument {arg:?}, only {known}")));
                }
            }
        }
        Ok(o)
    }
}

/// Pixels and labels.
struct Images {
    pixels: Tensor,
    labels: Vec<i32>,
}

/// The images to learn from, and those that clients ask about.
fn load() -> Result<[Images; 2]> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(DIGITS).read_to_string(&mut text)?;
    let mut sets = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for (i, line) in text.lines().enumerate() {
        let numbers: std::result::Result<Vec<f32>, _> = line.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|e| Error::data_loss(format!("row {i}: {e}")))?;
        let (pixels, labels) = &mut sets[usize::from(i % 5 == 4)];
        pixels.extend(numbers[..PIXELS].iter().map(|p| p / 16.0));
        labels.push(numbers[PIXELS] as i32);
    }
    let [learn, ask] = sets;
    let images = |(pixels, labels): (Vec<f32>, Vec<i32>)| -> Result<Images> {
        Ok(Images {
            pixels: Tensor::from_slice([labels.len(), PIXELS], &pixels)?,
            labels,
        })
    };
    Ok([images(learn)?, images(ask)?])
}

fn logits(x: &Output, [w1, b1, w2, b2]: [&Output; 4]) -> Result<Output> {
    x.matmul(w1)?.bias_add(b1)?.relu()?.matmul(w2)?.bias_add(b2)
}

/// The two prepared calls over one set of variables: a training step and a prediction.
fn model(threads: usize) -> Result<(Callable, Callable)> {
    let g = Graph::new();
    g.set_seed(1);
    let w1 = g.get_variable("w1", [PIXELS, 128], VarianceScaling::glorot_uniform(Some(1)))?;
    let b1 = g.get_variable("b1", [128], Zeros)?;
    let w2 = g.get_variable("w2", [128, 10], VarianceScaling::glorot_uniform(Some(2)))?;
    let b2 = g.get_variable("b2", [10], Zeros)?;
    let parameters = [w1.value(), b1.value(), w2.value(), b2.value()];

    let x = g.placeholder("x", DType::F32, [BATCH, PIXELS])?;
    let y = g.placeholder("y", DType::I32, [BATCH])?;
    let loss = sparse_softmax_cross_entropy(&logits(&x, parameters)?, &y)?.mean(&[], false)?;
    let train = Optimizer::from(Momentum::new(0.01, 0.9)).minimize(&loss)?;

    let asked = g.placeholder("asked", DType::F32, [None, Some(PIXELS)])?;
    let answer = logits(&asked, parameters)?.argmax(1)?;

    let session = Session::with_options(&g, SessionOptions::with_threads(threads))?;
    session.execute(&[&g.global_variables_initializer()?])?;
    Ok((
        session.callable(&[&x, &y], &[&loss], &[&train])?,
        session.callable(&[&asked], &[&answer], &[])?,
    ))
}

/// What became of a request.
struct Served {
    took: Duration,
    /// How many of its images were read rightly; `None` if the deadline passed.
    right: Option<usize>,
}

/// A client: asks about a few images at a time.
fn ask(predict: &Callable, images: &Images, number: usize, deadline: Duration, done: &Sender<Served>) -> Result<bool> {
    let rows = images.labels.len();
    let at = (number * REQUEST) % (rows - REQUEST);
    let batch = [images.pixels.slice_rows(at, at + REQUEST)?];
    let begun = Instant::now();
    let right = match predict.call_until(&batch, begun + deadline) {
        Ok(answers) => {
            let answers = answers[0].to_i64_vec()?;
            let labels = &images.labels[at..at + REQUEST];
            Some(
                answers
                    .iter()
                    .zip(labels)
                    .filter(|(a, l)| **a == i64::from(**l))
                    .count(),
            )
        }
        Err(e) if e.code() == Code::DeadlineExceeded => None,
        Err(e) => return Err(e),
    };
    let served = Served {
        took: begun.elapsed(),
        right,
    };
    Ok(done.send(served).is_ok())
}

/// One line about the requests of the last part of a second: how many images were read rightly, as a share.
fn report(begun: Instant, served: &[Served]) -> f64 {
    let mut times: Vec<f64> = served.iter().map(|s| s.took.as_secs_f64() * 1e6).collect();
    times.sort_by(f64::total_cmp);
    let percentile = |p: f64| times[((times.len() - 1) as f64 * p) as usize];
    let right: usize = served.iter().filter_map(|s| s.right).sum();
    let answered = served.iter().filter(|s| s.right.is_some()).count();
    let accuracy = right as f64 / (answered * REQUEST).max(1) as f64;
    println!(
        "{:5.2} s: {} requests, {} late, p50 {:.0} µs, p95 {:.0} µs, p99 {:.0} µs, accuracy {accuracy:.3}",
        begun.elapsed().as_secs_f64(),
        served.len(),
        served.len() - answered,
        percentile(0.5),
        percentile(0.95),
        percentile(0.99)
    );
    accuracy
}

/// Takes what was served until the target is reached or the time is over; the accuracies, report by report.
fn watch(done: &Receiver<Served>, seconds: f64) -> Vec<f64> {
    let begun = Instant::now();
    let mut accuracies = Vec::new();
    while begun.elapsed().as_secs_f64() < seconds {
        let until = Instant::now() + REPORT;
        let mut served = Vec::new();
        loop {
            match done.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(s) => served.push(s),
                Err(RecvTimeoutError::Timeout) => break,
                // Nobody serves any more.
                Err(RecvTimeoutError::Disconnected) => return accuracies,
            }
        }
        if !served.is_empty() {
            accuracies.push(report(begun, &served));
        }
        if accuracies.last().is_some_and(|a| *a >= TARGET) {
            break;
        }
    }
    accuracies
}

fn main() -> Result<()> {
    let options = Options::read()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (train, predict) = model(threads)?;
    let [learn, images] = load()?;
    let images = Arc::new(images);
    let coordinator = Coordinator::new();
    let (send, done) = channel();
    for client in 0..options.clients {
        let (predict, images, send) = (predict.clone(), images.clone(), send.clone());
        let (clients, deadline) = (options.clients, options.deadline);
        coordinator.spawn("client", move |stop| {
            let mut number = client;
            // Looked at between requests, so that what has begun is answered.
            while !stop.should_stop() && ask(&predict, &images, number, deadline, &send)? {
                number += clients;
                std::thread::sleep(Duration::from_micros(500));
            }
            Ok(())
        })?;
    }
    // What is left of the senders is the clients'.
    drop(send);
    coordinator.spawn("training", move |stop| {
        let n = learn.labels.len();
        let labels = Tensor::vector(&learn.labels);
        let mut step = 0;
        while !stop.should_stop() {
            let at = (step * BATCH) % (n - BATCH);
            let loss = train.call(&[
                learn.pixels.slice_rows(at, at + BATCH)?,
                labels.slice_rows(at, at + BATCH)?,
            ])?;
            step += 1;
            if step % 5000 == 0 {
                println!("trained {step} steps, loss {:.4}", loss[0].to_scalar::<f32>()?);
            }
            // An update for each few requests, as data that comes in would have it.
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("training stopped after {step} steps");
        Ok(())
    })?;

    let accuracies = watch(&done, options.seconds);
    coordinator.request_stop();
    coordinator.join(Duration::from_secs(10))?;
    let (first, best) = match accuracies.as_slice() {
        [] => return Err(Error::internal("nothing was served")),
        [first, ..] => (*first, accuracies.iter().copied().fold(0.0, f64::max)),
    };
    println!("served accuracy went from {first:.3} to {best:.3}; stopped with every request answered");
    match best >= TARGET {
        true => Ok(()),
        false => Err(Error::internal(format!("{best:.3} is less than {TARGET}"))),
    }
}
