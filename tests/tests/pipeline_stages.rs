//! Model parallelism over tasks: layers on different workers, parts of each batch on their way through queues.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use actorflow::train::init::RandomNormal;
use actorflow::train::optimizer::{Momentum, Optimizer};
use actorflow::train::parallel::pipeline::{Pipeline, PipelineOptions};
use actorflow::{Code, DType, Graph, GraphVariables, Output, Result, Session, Tensor, Variable};
use cluster::{Cluster, options};

const ROWS: usize = 24;
const LAYERS: [usize; 4] = [6, 8, 5, 3];

/// The layers' weights and biases, each on its device.
fn layers(g: &Graph, devices: &[&str]) -> Vec<[Variable; 2]> {
    g.set_seed(5);
    let layer = |i: usize| {
        let _there = g.device_scope(devices[i % devices.len()]);
        let random = || RandomNormal {
            mean: 0.0,
            stddev: 0.6,
            seed: Some(7),
        };
        let shape = [LAYERS[i], LAYERS[i + 1]];
        let w = g.get_variable(&format!("w{i}"), shape, random()).unwrap();
        let b = g.get_variable(&format!("b{i}"), [LAYERS[i + 1]], random()).unwrap();
        [w, b]
    };
    (0..LAYERS.len() - 1).map(layer).collect()
}

fn dense(x: &Output, [w, b]: &[Variable; 2]) -> Result<Output> {
    x.matmul(w.value())?.bias_add(b.value())
}

fn loss(logits: &Output, labels: &Output) -> Result<Output> {
    actorflow::nn::sparse_softmax_cross_entropy(logits, labels)?.mean(&[], false)
}

fn batch(step: usize) -> [Tensor; 2] {
    let value = |k: usize| ((step * 131 + k * 17) % 97) as f32 / 48.5 - 1.0;
    let x: Vec<f32> = (0..ROWS * LAYERS[0]).map(value).collect();
    let y: Vec<i32> = (0..ROWS).map(|k| ((step + k * k) % LAYERS[3]) as i32).collect();
    [Tensor::from_slice([ROWS, LAYERS[0]], &x).unwrap(), Tensor::vector(&y)]
}

fn momentum() -> Optimizer {
    Momentum::new(0.1, 0.9).into()
}

/// Losses and final variables of one device that trains on whole batches.
fn reference(steps: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
    let g = Graph::new();
    let all = layers(&g, &[""]);
    let x = g.placeholder("x", DType::F32, [ROWS, LAYERS[0]]).unwrap();
    let y = g.placeholder("y", DType::I32, [ROWS]).unwrap();
    let h = dense(&x, &all[0]).unwrap().tanh().unwrap();
    let h = dense(&h, &all[1]).unwrap().relu().unwrap();
    let loss = loss(&dense(&h, &all[2]).unwrap(), &y).unwrap();
    let train = momentum().minimize(&loss).unwrap();
    let s = Session::with_options(&g, options()).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let step = s.callable(&[&x, &y], &[&loss], &[&train]).unwrap();
    let losses = (0..steps).map(|i| step.call(&batch(i)).unwrap()[0].to_scalar::<f32>().unwrap());
    let losses = losses.collect();
    (losses, values(&s, &all))
}

fn values(s: &Session, layers: &[[Variable; 2]]) -> Vec<Vec<f32>> {
    let outputs: Vec<&Output> = layers.iter().flatten().map(|v| v.value()).collect();
    let values = s.run(&[], &outputs).unwrap();
    values.iter().map(|t| t.to_vec::<f32>().unwrap()).collect()
}

fn near(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() < 1e-4 * (1.0 + y.abs()), "{x} is not {y}");
    }
}

/// The model in three stages.
fn pipeline(g: &Graph, devices: &[&str], micro_batches: usize) -> (Pipeline, Vec<[Variable; 2]>) {
    let all = layers(g, devices);
    let flat: Vec<Variable> = all.iter().flatten().cloned().collect();
    let rows = ROWS / micro_batches;
    let inputs = [(DType::F32, [rows, LAYERS[0]].into()), (DType::I32, [rows].into())];
    let options = PipelineOptions {
        micro_batches,
        name: format!("in_{micro_batches}_parts"),
        ..PipelineOptions::new(devices.iter().map(|d| (*d).to_owned()).collect())
    };
    let stage = |_: &Graph, k: usize, xs: &[Output]| {
        let h = dense(&xs[0], &all[k])?;
        Ok(match k {
            // Labels are needed at the end only, and go the whole way.
            0 => vec![h.tanh()?, xs[1].clone()],
            1 => vec![h.relu()?, xs[1].clone()],
            _ => vec![loss(&h, &xs[1])?],
        })
    };
    let built = Pipeline::build(g, &momentum(), options, &inputs, &flat, stage).unwrap();
    (built, all)
}

const WORKERS: [&str; 3] = ["/job:worker/task:0", "/job:worker/task:1", "/job:worker/task:2"];

#[test]
fn stages_on_three_workers_train_as_one_device_does_with_the_whole_batch() {
    let (losses, expected) = reference(12);
    for micro_batches in [1, 4, 12] {
        // New each time, as its tasks would go on with their random numbers.
        let c = Cluster::new(&[("worker", 0), ("worker", 1), ("worker", 2)]);
        let g = Graph::new();
        let (mut p, all) = pipeline(&g, &WORKERS, micro_batches);
        let s = Session::on(&g, &c.servers[0], options()).unwrap();
        s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
        p.start(&s).unwrap();
        for (i, expected) in losses.iter().enumerate() {
            near(&[p.step(&batch(i)).unwrap()], &[*expected]);
        }
        near(&values(&s, &all).concat(), &expected.concat());
    }
}

#[test]
fn a_failed_step_moves_nothing_and_leaves_nothing_in_the_queues() {
    let (_, expected) = reference(2);
    let c = Cluster::new(&[("worker", 0), ("worker", 1), ("worker", 2)]);
    let g = Graph::new();
    let (mut p, all) = pipeline(&g, &WORKERS, 4);
    let s = Session::on(&g, &c.servers[1], options()).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    p.start(&s).unwrap();
    p.step(&batch(0)).unwrap();
    // A label that is none, in the third part.
    let [x, y] = batch(5);
    let mut labels = y.to_vec::<i32>().unwrap();
    labels[ROWS / 2 + 1] = 99;
    let e = p.step(&[x, Tensor::vector(&labels)]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument, "{e}");
    assert_eq!(e.task(), Some(WORKERS[2]));
    p.step(&batch(1)).unwrap();
    near(&values(&s, &all).concat(), &expected.concat());
}

#[test]
fn what_is_no_pipeline_or_no_batch_of_it_is_refused() {
    let g = Graph::new();
    let build = |devices: &[&str], parts: usize, last: usize| {
        let options = PipelineOptions {
            micro_batches: parts,
            ..PipelineOptions::new(devices.iter().map(|d| (*d).to_owned()).collect())
        };
        let w = g.variable("w", 1f32).unwrap();
        let inputs = [(DType::F32, [2].into())];
        Pipeline::build(
            &g,
            &momentum(),
            options,
            &inputs,
            std::slice::from_ref(&w),
            |_, _, xs| {
                let y = w.times(&xs[0])?;
                Ok(vec![if last == 0 { y.mean(&[], false)? } else { y }])
            },
        )
    };
    for wrong in [build(&[], 2, 0), build(&["/cpu:0"], 0, 0), build(&["/cpu:0"], 2, 1)] {
        assert_eq!(wrong.err().unwrap().code(), Code::InvalidArgument);
    }
    let mut p = build(&["/cpu:0"], 2, 0).unwrap();
    let x = Tensor::vector(&[1f32, 2., 3., 4.]);
    assert_eq!(
        p.step(std::slice::from_ref(&x)).unwrap_err().code(),
        Code::FailedPrecondition
    );
    let s = Session::with_options(&g, options()).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    p.start(&s).unwrap();
    assert!(p.start(&Session::new(&Graph::new()).unwrap()).is_err());
    assert!((p.step(std::slice::from_ref(&x)).unwrap() - 2.5).abs() < 1e-6);
    for wrong in [
        vec![],
        vec![Tensor::vector(&[1f32, 2., 3.])],
        vec![Tensor::scalar(1f32)],
    ] {
        assert_eq!(p.step(&wrong).unwrap_err().code(), Code::InvalidArgument);
    }
}
