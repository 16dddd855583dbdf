//! Cells and ways to run them, against TensorFlow's `dynamic_rnn` over the same cells and weights.
#![allow(clippy::unwrap_used)] // helpers of tests

use actorflow_core::gradient::gradients;
use actorflow_core::{Code, DType, Graph, Output, PartialShape, Result, Tensor};

use super::expected::{BASIC, BOTH, GRU, LSTM, LSTM_FULL, MULTI};
use super::{
    BasicRnn, Cell, Dropout, Gru, Lstm, LstmOptions, Peepholes, Residual, RnnOptions, Stacked,
    bidirectional_dynamic_rnn, dynamic_rnn, static_rnn,
};
use crate::session::Session;
use crate::train::optimizer::{Adam, Optimizer};
use crate::train::variable::GraphVariables;

/// Numbers that the other side makes too: `sin(seed + 0.7 i) / 2`.
fn values<const N: usize>(shape: [usize; N], seed: f64) -> Tensor {
    let n = shape.iter().product::<usize>();
    let v: Vec<f32> = (0..n).map(|i| ((seed + 0.7 * i as f64).sin() * 0.5) as f32).collect();
    Tensor::from_slice(shape, &v).unwrap()
}

fn w<const N: usize>(g: &Graph, shape: [usize; N], seed: f64) -> Output {
    g.constant(values(shape, seed)).unwrap()
}

fn basic(g: &Graph, i: usize, n: usize, k: f64) -> (BasicRnn, Output) {
    let kernel = w(g, [i + n, n], k);
    (BasicRnn::with_weights(&kernel, &w(g, [n], k + 1.0)).unwrap(), kernel)
}

fn gru(g: &Graph, i: usize, n: usize, k: f64) -> (Gru, Output) {
    let kernel = w(g, [i + n, 2 * n], k);
    let candidate = [w(g, [i + n, n], k + 2.0), w(g, [n], k + 3.0)];
    let cell = Gru::with_weights([kernel.clone(), w(g, [2 * n], k + 1.0)], candidate).unwrap();
    (cell, kernel)
}

fn lstm(g: &Graph, i: usize, n: usize, k: f64) -> (Lstm, Output) {
    let kernel = w(g, [i + n, 4 * n], k);
    let cell = Lstm::with_weights(&kernel, &w(g, [4 * n], k + 1.0), None, None, LstmOptions::default());
    (cell.unwrap(), kernel)
}

fn full_lstm(g: &Graph) -> (Lstm, Output) {
    let (kernel, k) = (w(g, [4, 12], 4.0), 4.0);
    let peepholes = Peepholes {
        input: w(g, [3], k + 3.0),
        forget: w(g, [3], k + 4.0),
        output: w(g, [3], k + 5.0),
    };
    let options = LstmOptions {
        forget_bias: 0.5,
        cell_clip: Some(0.4),
        projection_clip: Some(0.15),
        ..LstmOptions::default()
    };
    let projection = Some(w(g, [3, 2], k + 2.0));
    let cell = Lstm::with_weights(&kernel, &w(g, [12], k + 1.0), Some(peepholes), projection, options);
    (cell.unwrap(), kernel)
}

fn stacked(g: &Graph) -> (Stacked, Output) {
    let (below, kernel) = lstm(g, 2, 3, 3.0);
    let (above, _) = gru(g, 3, 2, 6.0);
    (Stacked::new(vec![Box::new(below), Box::new(above)]).unwrap(), kernel)
}

/// The sequences: two of at most three steps of two features.
fn sequences() -> Tensor {
    let v: Vec<f32> = values([2, 3, 2], 9.0).to_vec::<f32>().unwrap();
    Tensor::from_slice([2, 3, 2], &v.iter().map(|x| x * 2.0).collect::<Vec<_>>()).unwrap()
}

fn lengths(g: &Graph) -> Output {
    g.constant(vec![3i32, 2]).unwrap()
}

fn grads(loss: &Output, xs: &[Output]) -> Vec<Output> {
    let g = gradients(std::slice::from_ref(loss), xs).unwrap();
    g.into_iter().map(|g| g.unwrap().to_dense().unwrap()).collect()
}

fn total(xs: &[Output]) -> Output {
    let sums: Vec<Output> = xs.iter().map(|x| x.sum(&[], false).unwrap()).collect();
    xs[0].graph().add_n(&sums).unwrap()
}

#[track_caller]
fn check(g: &Graph, feeds: &[(&Output, Tensor)], got: &[Output], want: &[f32]) {
    let s = Session::new(g).unwrap();
    let got = s.run(feeds, &got.iter().collect::<Vec<_>>()).unwrap();
    let got: Vec<f32> = got.iter().flat_map(|t| t.to_vec::<f32>().unwrap()).collect();
    assert_eq!(got.len(), want.len());
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(
            (a - b).abs() < 3e-6 * b.abs().max(1.0),
            "number {i}: {a} instead of {b}"
        );
    }
}

/// The outputs, the last state, and gradients with respect to inputs and kernel of a loss of both.
fn results(y: &Output, state: &[Output], x: &Output, kernel: &Output) -> Vec<Output> {
    let mut all = vec![y.square().unwrap()];
    all.extend(state.iter().cloned());
    let d = grads(&total(&all), &[x.clone(), kernel.clone()]);
    let mut got = vec![y.clone()];
    got.extend(state.iter().cloned());
    got.extend(d);
    got
}

/// Runs a cell over sequences of known and of unknown shape, in both layouts, by a loop and written out.
fn in_every_way(cell: impl Fn(&Graph) -> (Box<dyn Cell>, Output), want: &[f32]) {
    let exact = PartialShape::from([2, 3, 2]);
    let open = PartialShape::new([None, None, Some(2)]);
    for (shape, time_major, parallel) in [
        (exact.clone(), false, 32),
        (exact.clone(), true, 1),
        (open.clone(), false, 1),
        (open, true, 32),
    ] {
        let g = Graph::new();
        let (cell, kernel) = cell(&g);
        let x = g.placeholder("x", DType::F32, shape).unwrap();
        let swap = |x: &Output| x.transpose(&[1, 0, 2]).unwrap();
        let inputs = if time_major { swap(&x) } else { x.clone() };
        let options = RnnOptions {
            sequence_length: Some(lengths(&g)),
            time_major,
            parallel_iterations: parallel,
            ..RnnOptions::default()
        };
        let (y, state) = dynamic_rnn(&*cell, &inputs, options).unwrap();
        let y = if time_major { swap(&y) } else { y };
        let got = results(&y, &state, &x, &kernel);
        check(&g, &[(&x, sequences())], &got, want);
    }
    let g = Graph::new();
    let (cell, kernel) = cell(&g);
    let x = g.placeholder("x", DType::F32, exact).unwrap();
    let steps = g.op("Unpack").input(&x).attr("num", 3i64).attr("axis", 1i64);
    let options = RnnOptions {
        sequence_length: Some(lengths(&g)),
        ..RnnOptions::default()
    };
    let (y, state) = static_rnn(&*cell, &steps.finish().unwrap().outputs(), options).unwrap();
    let got = results(&g.stack(&y, 1).unwrap(), &state, &x, &kernel);
    check(&g, &[(&x, sequences())], &got, want);
}

fn boxed<C: Cell + 'static>((cell, kernel): (C, Output)) -> (Box<dyn Cell>, Output) {
    (Box::new(cell), kernel)
}

#[test]
fn basic_cells_agree_with_tensorflow() {
    in_every_way(|g| boxed(basic(g, 2, 3, 1.0)), BASIC);
}

#[test]
fn gated_units_agree_with_tensorflow() {
    in_every_way(|g| boxed(gru(g, 2, 3, 2.0)), GRU);
}

#[test]
fn long_short_term_memory_agrees_with_tensorflow() {
    in_every_way(|g| boxed(lstm(g, 2, 3, 3.0)), LSTM);
}

#[test]
fn peepholes_projections_and_limits_agree_with_tensorflow() {
    in_every_way(|g| boxed(full_lstm(g)), LSTM_FULL);
}

#[test]
fn stacked_cells_agree_with_tensorflow() {
    in_every_way(|g| boxed(stacked(g)), MULTI);
}

#[test]
fn both_directions_agree_with_tensorflow() {
    for time_major in [false, true] {
        let g = Graph::new();
        let x = g.constant(sequences()).unwrap();
        let ((there, _), (back, _)) = (gru(&g, 2, 3, 2.0), gru(&g, 2, 2, 7.0));
        let swap = |x: &Output| {
            if time_major {
                x.transpose(&[1, 0, 2]).unwrap()
            } else {
                x.clone()
            }
        };
        let options = RnnOptions {
            sequence_length: Some(lengths(&g)),
            time_major,
            ..RnnOptions::default()
        };
        let y = bidirectional_dynamic_rnn(&there, &back, &swap(&x), options).unwrap();
        let mut got = vec![swap(&y.forward), swap(&y.backward)];
        got.extend(y.forward_state.iter().chain(&y.backward_state).cloned());
        let loss = total(&[y.forward.square().unwrap(), y.backward.square().unwrap()]);
        got.extend(grads(&loss, std::slice::from_ref(&x)));
        check(&g, &[], &got, BOTH);
    }
}

#[test]
fn a_state_can_be_carried_from_one_run_to_the_next() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, [None, None, Some(2)]).unwrap();
    let (cell, _) = lstm(&g, 2, 3, 3.0);
    let (whole, last) = dynamic_rnn(&cell, &x, RnnOptions::default()).unwrap();
    let c = g.placeholder("c", DType::F32, [None, Some(3)]).unwrap();
    let h = g.placeholder("h", DType::F32, [None, Some(3)]).unwrap();
    let options = RnnOptions {
        initial_state: Some(vec![c.clone(), h.clone()]),
        ..RnnOptions::default()
    };
    let (part, after) = dynamic_rnn(&cell, &x, options).unwrap();
    let s = Session::new(&g).unwrap();
    let feed = sequences();
    let want = s.run(&[(&x, feed.clone())], &[&whole, &last[0], &last[1]]).unwrap();
    let mut state = [
        Tensor::zeros(DType::F32, [2, 3]).unwrap(),
        Tensor::zeros(DType::F32, [2, 3]).unwrap(),
    ];
    for t in 0..3 {
        let v = feed.to_vec::<f32>().unwrap();
        let step = [v[2 * t], v[2 * t + 1], v[6 + 2 * t], v[7 + 2 * t]];
        let step = Tensor::from_slice([2, 1, 2], &step).unwrap();
        let feeds = [(&x, step), (&c, state[0].clone()), (&h, state[1].clone())];
        let mut got = s.run(&feeds, &[&part, &after[0], &after[1]]).unwrap();
        let y = got.remove(0).to_vec::<f32>().unwrap();
        assert_eq!(y[..3], want[0].to_vec::<f32>().unwrap()[3 * t..3 * t + 3]);
        state = [got.remove(0), got.remove(0)];
    }
    assert_eq!(state, [want[1].clone(), want[2].clone()]);
}

#[test]
fn sequences_of_no_steps_leave_the_state_as_it_is() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, [Some(2), None, Some(2)]).unwrap();
    let (cell, kernel) = gru(&g, 2, 3, 2.0);
    let start = w(&g, [2, 3], 5.0);
    let options = RnnOptions {
        initial_state: Some(vec![start.clone()]),
        ..RnnOptions::default()
    };
    let (y, state) = dynamic_rnn(&cell, &x, options).unwrap();
    let d = grads(&total(&[state[0].square().unwrap()]), &[kernel, start]);
    let s = Session::new(&g).unwrap();
    let none = Tensor::zeros(DType::F32, [2, 0, 2]).unwrap();
    let got = s.run(&[(&x, none)], &[&y, &state[0], &d[0], &d[1]]).unwrap();
    assert_eq!(got[0].shape().dims(), [2, 0, 3]);
    assert_eq!(got[1], values([2, 3], 5.0));
    assert_eq!(got[2], Tensor::zeros(DType::F32, [5, 6]).unwrap());
    assert_eq!(
        got[3].to_vec::<f32>().unwrap()[0],
        2.0 * values([2, 3], 5.0).to_vec::<f32>().unwrap()[0]
    );
    // Sequences that are all of length zero in a tensor that has steps.
    let g = Graph::new();
    let x = g.constant(sequences()).unwrap();
    let (cell, _) = gru(&g, 2, 3, 2.0);
    let options = RnnOptions {
        sequence_length: Some(g.constant(vec![0i64, 0]).unwrap()),
        ..RnnOptions::default()
    };
    let (y, state) = dynamic_rnn(&cell, &x, options).unwrap();
    let got = Session::new(&g).unwrap().run(&[], &[&y, &state[0]]).unwrap();
    assert_eq!(got[0], Tensor::zeros(DType::F32, [2, 3, 3]).unwrap());
    assert_eq!(got[1], Tensor::zeros(DType::F32, [2, 3]).unwrap());
}

#[test]
fn what_does_not_fit_is_refused_by_name() -> Result<()> {
    let g = Graph::new();
    let (cell, kernel) = gru(&g, 2, 3, 2.0);
    let run = |x: &Output, o: RnnOptions| dynamic_rnn(&cell, x, o).unwrap_err();
    let ok = g.placeholder("ok", DType::F32, [2, 3, 2])?;
    let flat = g.placeholder("flat", DType::F32, [2, 3])?;
    let e = run(&flat, RnnOptions::default());
    assert!(
        e.message().contains("flat") && e.message().contains("three dimensions"),
        "{e}"
    );
    let double = g.placeholder("double", DType::F64, [2, 3, 2])?;
    assert!(run(&double, RnnOptions::default()).message().contains("double"));
    let vague = g.placeholder("vague", DType::F32, PartialShape::of_rank(3))?;
    assert!(run(&vague, RnnOptions::default()).message().contains("vague"));
    let with = |state: Option<Vec<Output>>, lengths: Option<Output>| RnnOptions {
        initial_state: state,
        sequence_length: lengths,
        ..RnnOptions::default()
    };
    let e = run(&ok, with(Some(vec![flat.clone(), flat.clone()]), None));
    assert!(e.message().contains("1 parts"), "{e}");
    let wide = g.placeholder("wide", DType::F32, [2, 4])?;
    assert!(run(&ok, with(Some(vec![wide]), None)).message().contains("wide"));
    let odd = g.placeholder("odd", DType::F32, [2])?;
    assert!(run(&ok, with(None, Some(odd))).message().contains("odd"));
    let e = Gru::with_weights([kernel.clone(), ok.clone()], [kernel.clone(), ok.clone()]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(Lstm::with_weights(&w(&g, [4, 6], 0.0), &odd_bias(&g), None, None, LstmOptions::default()).is_err());
    assert!(Stacked::new(vec![]).is_err());
    assert!(static_rnn(&cell, &[], RnnOptions::default()).is_err());
    // As many lengths as sequences: known when the graph runs.
    let n = g.placeholder("n", DType::I32, [None])?;
    let (y, _) = dynamic_rnn(&cell, &ok, with(None, Some(n.clone())))?;
    let x = Tensor::zeros(DType::F32, [2, 3, 2])?;
    let s = Session::new(&g)?;
    let e = s.run(&[(&ok, x), (&n, Tensor::vector(&[1i32]))], &[&y]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("differ in number"), "{e}");
    Ok(())
}

fn odd_bias(g: &Graph) -> Output {
    w(g, [6], 0.0)
}

#[test]
fn dropout_differs_from_step_to_step_and_residual_cells_add_their_input() {
    let g = Graph::new();
    g.set_seed(7);
    let x = g
        .constant(Tensor::from_slice([1, 64, 3], &[1f32; 192]).unwrap())
        .unwrap();
    let zero = |shape: &[usize]| g.constant(Tensor::zeros(DType::F32, shape.to_vec()).unwrap()).unwrap();
    // A cell that gives zeros, so that what comes out is the input.
    let silent = || BasicRnn::with_weights(&zero(&[6, 3]), &zero(&[3])).unwrap();
    let cell = Dropout {
        cell: Residual(silent()),
        input_rate: 0.5,
        output_rate: 0.0,
        seed: Some(3),
    };
    let (y, _) = dynamic_rnn(&cell, &x, RnnOptions::default()).unwrap();
    let y = Session::new(&g).unwrap().run(&[], &[&y]).unwrap()[0]
        .to_vec::<f32>()
        .unwrap();
    assert!(y.iter().all(|v| *v == 0.0 || *v == 2.0));
    let kept = y.iter().filter(|v| **v > 0.0).count();
    assert!((60..132).contains(&kept), "{kept} of 192");
    assert!(y.chunks(3).any(|c| c != &y[..3]));
    assert!(
        Residual(silent())
            .step(&w(&g, [1, 2], 0.0), &[w(&g, [1, 3], 0.0)])
            .is_err()
    );
}

#[test]
fn a_recurrent_network_learns_to_remember() {
    // Whether the first of eight steps was positive, asked after the last.
    let g = Graph::new();
    g.set_seed(5);
    let x = g.placeholder("x", DType::F32, [None, None, Some(1)]).unwrap();
    let want = g.placeholder("want", DType::F32, [None, Some(1)]).unwrap();
    let cell = Lstm::new(&g, "lstm", 1, 6, LstmOptions::default()).unwrap();
    let (_, state) = dynamic_rnn(&cell, &x, RnnOptions::default()).unwrap();
    let out = g.get_variable("out", [6, 1], super::cells::glorot()).unwrap();
    let logits = state[1].matmul(&out).unwrap();
    let loss = crate::nn::sigmoid_cross_entropy(&logits, &want)
        .unwrap()
        .mean(&[], false)
        .unwrap();
    let train = Optimizer::from(Adam::new(0.05)).minimize(&loss).unwrap();
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let step = s.callable(&[&x, &want], &[&loss], &[&train]).unwrap();
    let rows: Vec<f32> = (0..16 * 8)
        .map(|i| if (i * i / 3 + i / 8) % 3 == 0 { 1.0 } else { -1.0 })
        .collect();
    let labels: Vec<f32> = rows.chunks(8).map(|r| f32::from(u8::from(r[0] > 0.0))).collect();
    let feeds = [
        Tensor::from_slice([16, 8, 1], &rows).unwrap(),
        Tensor::from_slice([16, 1], &labels).unwrap(),
    ];
    let mut last = f32::INFINITY;
    for _ in 0..60 {
        last = step.call(&feeds).unwrap()[0].to_scalar().unwrap();
    }
    assert!(last < 0.1, "{last}");
}
