//! Normalisation of small images, written out.

use actorflow_core::{Code, DType, Graph, Operation, Tensor};

use crate::testing::{eval, fails};

const X: [f32; 8] = [0., 1., 2., 3., 4., 5., 6., 7.];

fn norm(
    g: &Graph,
    x: Tensor,
    stats: Option<([f32; 2], [f32; 2])>,
    training: bool,
    factor: f32,
    format: &str,
) -> Operation {
    let x = g.constant(x).unwrap();
    let (scale, offset) = (g.constant([1f32, 2.]).unwrap(), g.constant([0.5f32, 0.25]).unwrap());
    let none = || g.constant(Tensor::zeros(DType::F32, [0]).unwrap()).unwrap();
    let (mean, variance) = match stats {
        Some((m, v)) => (g.constant(m).unwrap(), g.constant(v).unwrap()),
        None => (none(), none()),
    };
    let b = g
        .op("FusedBatchNormV3")
        .input(&x)
        .input(&scale)
        .input(&offset)
        .input(&mean)
        .input(&variance);
    b.attr("epsilon", 0.1f32)
        .attr("is_training", training)
        .attr("exponential_avg_factor", factor)
        .attr("data_format", format)
        .finish()
        .unwrap()
}

fn near(t: &Tensor, want: &[f32]) {
    let got = t.to_vec::<f32>().unwrap();
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-5 || (g.is_nan() && w.is_nan()), "{got:?} {want:?}");
    }
}

fn image(shape: [usize; 4], x: &[f32]) -> Tensor {
    Tensor::from_slice(shape, x).unwrap()
}

const NORMALISED: [f32; 8] = [
    -0.8284223, -2.4068446, 0.0571926, -0.6356149, 0.9428074, 1.1356149, 1.8284223, 2.9068446,
];

#[test]
fn training_normalises_with_the_batch_and_puts_its_statistics_out() {
    let g = Graph::new();
    let op = norm(&g, image([1, 2, 2, 2], &X), None, true, 1.0, "NHWC");
    let out = |i| eval(&op.output(i).unwrap());
    near(&out(0), &NORMALISED);
    near(&out(1), &[3., 4.]);
    near(&out(2), &[6.666_667, 6.666_667]);
    near(&out(3), &[3., 4.]);
    near(&out(4), &[5., 5.]);
    let op = norm(
        &g,
        image([1, 2, 2, 2], &X),
        Some(([1., 2.], [3., 4.])),
        true,
        0.25,
        "NHWC",
    );
    near(&eval(&op.output(1).unwrap()), &[1.5, 2.5]);
    near(&eval(&op.output(2).unwrap()), &[3.916_666_7, 4.666_667]);
}

#[test]
fn channels_may_come_first() {
    let g = Graph::new();
    let first = [0., 2., 4., 6., 1., 3., 5., 7.];
    let op = norm(&g, image([1, 2, 2, 2], &first), None, true, 1.0, "NCHW");
    let want: Vec<f32> = (0..8).map(|i| NORMALISED[i % 4 * 2 + i / 4]).collect();
    near(&eval(&op.output(0).unwrap()), &want);
}

#[test]
fn inference_normalises_with_given_statistics() {
    let g = Graph::new();
    let op = norm(
        &g,
        image([1, 1, 1, 2], &[0., 1.]),
        Some(([1., 2.], [3., 4.])),
        false,
        1.0,
        "NHWC",
    );
    near(&eval(&op.output(0).unwrap()), &[-0.067_961_87, -0.737_729_6]);
    near(&eval(&op.output(2).unwrap()), &[3., 4.]);
}

#[test]
fn an_empty_batch_has_no_statistics() {
    let g = Graph::new();
    let op = norm(&g, image([0, 2, 2, 2], &[]), None, true, 1.0, "NHWC");
    assert!(eval(&op.output(0).unwrap()).is_empty());
    near(&eval(&op.output(1).unwrap()), &[f32::NAN, f32::NAN]);
    near(&eval(&op.output(3).unwrap()), &[0., 0.]);
}

#[test]
fn statistics_of_another_length_are_refused() {
    let g = Graph::new();
    let op = norm(&g, image([1, 2, 2, 2], &X), None, true, 0.5, "NHWC");
    assert_eq!(fails(&op.output(0).unwrap()).code(), Code::InvalidArgument);
}

#[test]
fn neighbouring_channels_are_normalised_together() {
    let g = Graph::new();
    let x = g.constant(image([1, 1, 2, 2], &[0., 1., 2., 3.])).unwrap();
    let b = g.op("LRN").input(&x).attr("depth_radius", 1i64).attr("alpha", 0.5f32);
    near(
        &eval(&b.attr("beta", 0.75f32).output().unwrap()),
        &[0., 0.737_787_9, 0.441_300_12, 0.661_950_17],
    );
    let b = g.op("LRN").input(&x).attr("depth_radius", -1i64);
    assert_eq!(fails(&b.output().unwrap()).code(), Code::InvalidArgument);
}
