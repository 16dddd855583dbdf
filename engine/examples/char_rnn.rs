//! A recurrent network that learns to write a poem, character by character.
//!
//! `cargo run --release -p actorflow --example char_rnn`
//!
//! It trains with `dynamic_rnn`, a loop over the characters of a batch of excerpts, and writes with a `while_loop` of
//! its own, in which each character that is drawn is the input of the next iteration. The text is Lewis Carroll's
//! "Jabberwocky" (1871), which is in the public domain.

use actorflow::flow::{TensorArray, TensorArrayOptions, WhileOptions, while_loop};
use actorflow::nn::{PartitionStrategy, embedding_lookup, sparse_softmax_cross_entropy};
use actorflow::rnn::{Cell, Gru, RnnOptions, dynamic_rnn};
use actorflow::train::clip::clip_by_global_norm;
use actorflow::train::init::{RandomUniform, VarianceScaling, Zeros};
use actorflow::train::optimizer::{Adam, Optimizer};
use actorflow::{DType, Graph, GraphVariables, Operation, Output, PartialShape, Result, Session, Tensor};

const TEXT: &str = include_str!("data/jabberwocky.txt");

/// Excerpts in a step of training, and their length.
const BATCH: usize = 16;
const LENGTH: usize = 32;

/// Numbers that stand for a character, and units of the cell.
const WIDTH: usize = 24;
const UNITS: usize = 96;

/// The text as numbers, and the character of each number.
struct Corpus {
    text: Vec<i32>,
    characters: Vec<char>,
}

impl Corpus {
    fn new(text: &str) -> Corpus {
        let mut characters: Vec<char> = text.chars().collect();
        characters.sort_unstable();
        characters.dedup();
        let number = |c| characters.binary_search(&c).unwrap_or_default() as i32;
        Corpus {
            text: text.chars().map(number).collect(),
            characters,
        }
    }

    /// The excerpts of a step: each one, and the same one character later. They are spread over the text, and shift
    /// from step to step.
    fn batch(&self, step: usize) -> Result<[Tensor; 2]> {
        let starts = self.text.len() - LENGTH;
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for row in 0..BATCH {
            let at = (step * 37 + row * starts / BATCH) % starts;
            x.extend_from_slice(&self.text[at..at + LENGTH]);
            y.extend_from_slice(&self.text[at + 1..at + LENGTH + 1]);
        }
        let shape = [BATCH, LENGTH];
        Ok([Tensor::from_slice(shape, &x)?, Tensor::from_slice(shape, &y)?])
    }
}

/// The graph: one set of weights, a loop that learns and a loop that writes.
struct Model {
    graph: Graph,
    /// Characters `[batch, time]`, and those that follow them.
    x: Output,
    y: Output,
    loss: Output,
    train: Operation,
    /// The character to begin with, how many to write, how boldly (1 as learnt, less more safely); what is written.
    first: Output,
    count: Output,
    temperature: Output,
    written: Output,
}

impl Model {
    fn new(characters: usize) -> Result<Model> {
        let g = Graph::new();
        g.set_seed(11);
        let start = RandomUniform {
            min: -0.5,
            max: 0.5,
            seed: None,
        };
        let table = g.get_variable("characters", [characters, WIDTH], start)?;
        let cell = Gru::new(&g, "gru", WIDTH, UNITS)?;
        let w = g.get_variable(
            "out/weights",
            [UNITS, characters],
            VarianceScaling::glorot_uniform(None),
        )?;
        let b = g.get_variable("out/biases", [characters], Zeros)?;
        let look_up = |i: &Output| embedding_lookup(&[table.value().clone()], i, PartitionStrategy::Mod, None);
        let logits = |h: &Output| h.matmul(&w)?.bias_add(&b);

        let x = g.placeholder("x", DType::I32, [None, None])?;
        let y = g.placeholder("y", DType::I32, [None, None])?;
        let (outputs, _) = dynamic_rnn(&cell, &look_up(&x)?, RnnOptions::default())?;
        let all = logits(&outputs.reshape(&[-1, UNITS as i64])?)?;
        let loss = sparse_softmax_cross_entropy(&all, &y.reshape(&[-1])?)?.mean(&[], false)?;
        let optimizer = Optimizer::from(Adam::new(0.01));
        let (grads, variables): (Vec<_>, Vec<_>) = optimizer.compute_gradients(&loss, None)?.into_iter().unzip();
        let (grads, _) = clip_by_global_norm(&grads, 5.0)?;
        let pairs: Vec<_> = grads.into_iter().zip(variables).collect();
        let train = optimizer.apply_gradients(&pairs, None)?;

        let first = g.placeholder("first", DType::I32, [1])?;
        let count = g.placeholder("count", DType::I32, PartialShape::scalar())?;
        let temperature = g.placeholder("temperature", DType::F32, PartialShape::scalar())?;
        let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
        let paper = TensorArray::new(&count, DType::I32, TensorArrayOptions::default())?;
        let mut vars = vec![zero, first.clone(), paper.flow().clone()];
        vars.extend(cell.zero_state(&one)?);
        let out = while_loop(
            &vars,
            |v| v[0].less(&count),
            |v| {
                let (h, state) = cell.step(&look_up(&v[1])?, &v[3..])?;
                let odds = logits(&h)?.divided_by(&temperature)?;
                let (seed, seed2) = g.op_seeds(Some(1));
                let b = g.op("Multinomial").input(&odds).input(&g.constant(1i32)?);
                let drawn = b.attr("seed", seed).attr("seed2", seed2).output()?;
                let drawn = drawn.cast(DType::I32)?.reshape(&[1])?;
                let flow = paper.with_flow(&v[2]).write(&v[0], &drawn)?.flow().clone();
                let mut next = vec![(&v[0] + 1)?, drawn, flow];
                next.extend(state);
                Ok(next)
            },
            WhileOptions::default(),
        )?;
        let written = paper.with_flow(&out[2]).stack()?.reshape(&[-1])?;
        Ok(Model {
            x,
            y,
            loss,
            train,
            first,
            count,
            temperature,
            written,
            graph: g,
        })
    }
}

/// Trains for some steps; the losses, and a sample of `length` characters. `report` is told step and loss.
fn learn(steps: usize, length: i32, mut report: impl FnMut(usize, f32)) -> Result<(Vec<f32>, String)> {
    let corpus = Corpus::new(TEXT);
    let m = Model::new(corpus.characters.len())?;
    let session = Session::new(&m.graph)?;
    session.execute(&[&m.graph.global_variables_initializer()?])?;
    let step = session.callable(&[&m.x, &m.y], &[&m.loss], &[&m.train])?;
    let mut losses = Vec::with_capacity(steps);
    for i in 0..steps {
        let loss = step.call(&corpus.batch(i)?)?[0].to_scalar::<f32>()?;
        report(i, loss);
        losses.push(loss);
    }
    let feeds = [
        (&m.first, Tensor::vector(&corpus.text[..1])),
        (&m.count, Tensor::from(length)),
        (&m.temperature, Tensor::from(0.5f32)),
    ];
    let written = session.run(&feeds, &[&m.written])?[0].to_vec::<i32>()?;
    let character = |i: &i32| corpus.characters.get(*i as usize);
    let sample = corpus.text[..1].iter().chain(&written).filter_map(character).collect();
    Ok((losses, sample))
}

fn main() -> Result<()> {
    let (_, sample) = learn(150, 300, |step, loss| {
        if step % 25 == 24 {
            println!("step {:>3}  loss {loss:.3} nats per character", step + 1);
        }
    })?;
    println!("\n{sample}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_learns() {
        let (losses, sample) = learn(50, 40, |_, _| {}).unwrap();
        // Without having learnt anything it is the logarithm of the number of characters, 3.8.
        assert!(losses[0] > 3.4, "{}", losses[0]);
        assert!(losses[49] < 1.5, "{}", losses[49]);
        assert_eq!(sample.chars().count(), 41);
    }
}
