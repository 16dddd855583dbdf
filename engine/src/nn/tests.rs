//! Functions against TensorFlow's, with the same numbers.
#![allow(clippy::unwrap_used)] // helpers of tests

use actorflow_core::gradient::gradients;
use actorflow_core::{DType, Graph, Output, Tensor};

use super::expected::{
    EMBED_DIV, EMBED_MOD, EMBED_NORM, L2, MOMENTS, NCE_FALSE, NCE_TRUE, SAMPLED_SOFTMAX_FALSE, SAMPLED_SOFTMAX_TRUE,
    SIGMOID, SPARSE_MEAN, SPARSE_SQRTN, SPARSE_SUM,
};
use super::{
    Candidates, Classes, Combiner, PartitionStrategy, batch_normalization, dropout, embedding_lookup,
    embedding_lookup_sparse, l2_normalize, moments, nce_loss, sampled_softmax_loss, sigmoid_cross_entropy,
};
use crate::session::Session;
use crate::train::optimizer::{Adagrad, Optimizer};
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

#[track_caller]
fn check(got: &[Output], want: &[f32]) {
    let g = got[0].graph();
    let got = Session::new(g)
        .unwrap()
        .run(&[], &got.iter().collect::<Vec<_>>())
        .unwrap();
    let got: Vec<f32> = got.iter().flat_map(|t| t.to_vec::<f32>().unwrap()).collect();
    assert_eq!(got.len(), want.len());
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(
            (a - b).abs() < 3e-6 * b.abs().max(1.0),
            "number {i}: {a} instead of {b}"
        );
    }
}

fn tables(g: &Graph) -> Vec<Output> {
    vec![w(g, [3, 2], 30.0), w(g, [2, 2], 31.0), w(g, [2, 2], 32.0)]
}

#[test]
fn rows_of_divided_tables_are_found_and_their_gradients_too() {
    for (strategy, want) in [(PartitionStrategy::Mod, EMBED_MOD), (PartitionStrategy::Div, EMBED_DIV)] {
        let g = Graph::new();
        let tables = tables(&g);
        let ids = g
            .constant(Tensor::from_slice([2, 3], &[0i64, 5, 2, 6, 2, 1]).unwrap())
            .unwrap();
        let y = embedding_lookup(&tables, &ids, strategy, None).unwrap();
        assert_eq!(y.shape().to_shape().unwrap().dims(), [2, 3, 2]);
        let loss = y.times(&w(&g, [2, 3, 2], 33.0)).unwrap().sum(&[], false).unwrap();
        let mut got = vec![y];
        got.extend(
            gradients(&[loss], &tables)
                .unwrap()
                .into_iter()
                .map(|d| d.unwrap().to_dense().unwrap()),
        );
        check(&got, want);
    }
}

#[test]
fn embeddings_can_be_limited_in_norm_and_joined_by_row() {
    let g = Graph::new();
    let tables = tables(&g);
    let ids = g
        .constant(Tensor::from_slice([2, 3], &[0i64, 5, 2, 6, 2, 1]).unwrap())
        .unwrap();
    check(
        &[embedding_lookup(&tables, &ids, PartitionStrategy::Mod, Some(0.4)).unwrap()],
        EMBED_NORM,
    );
    let at = [0i64, 0, 0, 2, 2, 0, 2, 1, 2, 2, 3, 1];
    let at = g.constant(Tensor::from_slice([6, 2], &at).unwrap()).unwrap();
    let ids = g.constant(vec![1i64, 3, 1, 6, 1, 0]).unwrap();
    let weights = g.constant(vec![2f32, 0.5, 1.0, 3.0, 1.0, 1.5]).unwrap();
    for (combiner, want) in [
        (Combiner::Sum, SPARSE_SUM),
        (Combiner::Mean, SPARSE_MEAN),
        (Combiner::SqrtN, SPARSE_SQRTN),
    ] {
        let find = |w: Option<&Output>| {
            embedding_lookup_sparse(&tables, &at, &ids, w, PartitionStrategy::Mod, combiner).unwrap()
        };
        check(&[find(None), find(Some(&weights))], want);
    }
}

#[test]
fn training_touches_the_rows_that_were_looked_up_and_no_others() {
    let g = Graph::new();
    let tables = [
        g.variable("a", values([3, 2], 30.0)).unwrap(),
        g.variable("b", values([3, 2], 31.0)).unwrap(),
    ];
    let parts: Vec<Output> = tables.iter().map(|t| t.value().clone()).collect();
    let ids = g.constant(vec![2i32, 3]).unwrap();
    let y = embedding_lookup(&parts, &ids, PartitionStrategy::Mod, None).unwrap();
    let loss = y.square().unwrap().sum(&[], false).unwrap();
    let sparse = gradients(std::slice::from_ref(&loss), &parts).unwrap();
    assert!(
        sparse
            .iter()
            .all(|d| matches!(d, Some(actorflow_core::gradient::Grad::Slices(_))))
    );
    let train = Optimizer::from(Adagrad::new(0.1)).minimize(&loss).unwrap();
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    s.execute(&[&train]).unwrap();
    for (t, seed) in tables.iter().zip([30.0, 31.0]) {
        let now = s.run(&[], &[t.value()]).unwrap()[0].to_vec::<f32>().unwrap();
        let before = values([3, 2], seed).to_vec::<f32>().unwrap();
        // 2 and 3 are row 1 of either table.
        assert!(now[2] != before[2] && now[3] != before[3]);
        assert_eq!((&now[..2], &now[4..]), (&before[..2], &before[4..]));
    }
}

#[test]
fn a_row_that_is_not_there_is_an_error() {
    let g = Graph::new();
    let ids = g.constant(vec![7i32]).unwrap();
    for strategy in [PartitionStrategy::Mod, PartitionStrategy::Div] {
        let y = embedding_lookup(&tables(&g), &ids, strategy, None).unwrap();
        assert!(Session::new(&g).unwrap().run(&[], &[&y]).is_err());
    }
    assert!(embedding_lookup(&[], &ids, PartitionStrategy::Mod, None).is_err());
    let names = g.constant(vec![1f32]).unwrap();
    assert!(embedding_lookup(&tables(&g), &names, PartitionStrategy::Mod, None).is_err());
}

#[test]
fn normalisation_agrees_with_tensorflow() {
    let g = Graph::new();
    let x = w(&g, [2, 2, 3], 40.0);
    let (mean, variance) = moments(&x, &[0, 1], false).unwrap();
    let (offset, scale) = (w(&g, [3], 41.0), w(&g, [3], 42.0));
    let y = batch_normalization(&x, &mean, &variance, Some(&offset), Some(&scale), 1e-3).unwrap();
    check(&[mean, variance, y], MOMENTS);
    check(&[l2_normalize(&x, &[0, 2], 1e-12).unwrap()], L2);
    let (kept, _) = moments(&x, &[-1], true).unwrap();
    assert_eq!(kept.shape().to_shape().unwrap().dims(), [2, 2, 1]);
}

#[test]
fn cross_entropies_do_not_overflow() {
    let g = Graph::new();
    let logits = (&w(&g, [4], 43.0) * 8.0).unwrap();
    let labels = g.constant(vec![0f32, 1.0, 0.3, 0.8]).unwrap();
    check(&[sigmoid_cross_entropy(&logits, &labels).unwrap()], SIGMOID);
    let far = g.constant(vec![1e4f32, -1e4, 1e4, 0.0]).unwrap();
    let labels = g.constant(vec![1f32, 0.0, 0.0, 1.0]).unwrap();
    let y = sigmoid_cross_entropy(&far, &labels).unwrap();
    let d = gradients(std::slice::from_ref(&y), &[far]).unwrap().remove(0).unwrap();
    check(
        &[y, d.to_dense().unwrap()],
        &[0.0, 0.0, 1e4, std::f32::consts::LN_2, 0.0, 0.0, 1.0, -0.5],
    );
}

#[test]
fn dropout_keeps_the_mean_and_the_seed_decides() {
    let g = Graph::new();
    g.set_seed(1);
    let x = g.placeholder("x", DType::F32, [None, Some(100)]).unwrap();
    let y = dropout(&x, 0.25, Some(2)).unwrap();
    let ones = || Tensor::from_slice([100, 100], &[1f32; 10_000]).unwrap();
    let run = || {
        let s = Session::new(&g).unwrap();
        s.run(&[(&x, ones())], &[&y]).unwrap()[0].to_vec::<f32>().unwrap()
    };
    let got = run();
    let mean = got.iter().sum::<f32>() / 10_000.0;
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
    assert_eq!(got, run());
    assert_eq!(dropout(&x, 0.0, None).unwrap(), x);
    assert!(dropout(&x, 1.0, None).is_err() && dropout(&x, f64::NAN, None).is_err());
}

#[test]
fn losses_over_sampled_classes_agree_with_tensorflow() {
    for (hits, softmax, nce) in [
        (true, SAMPLED_SOFTMAX_TRUE, NCE_TRUE),
        (false, SAMPLED_SOFTMAX_FALSE, NCE_FALSE),
    ] {
        let g = Graph::new();
        let weights = [w(&g, [4, 3], 50.0), w(&g, [3, 3], 51.0)];
        let biases = [w(&g, [4], 52.0), w(&g, [3], 53.0)];
        let classes = Classes {
            weights: &weights,
            biases: &biases,
            strategy: PartitionStrategy::Mod,
        };
        let labels = g.constant(Tensor::from([[1i64, 4], [0, 6]])).unwrap();
        let inputs = (&w(&g, [2, 3], 54.0) * 3.0).unwrap();
        let candidates = Candidates {
            ids: g.constant(vec![4i64, 2, 0, 5]).unwrap(),
            true_expected: g.constant(Tensor::from([[0.5f32, 0.2], [0.9, 0.1]])).unwrap(),
            sampled_expected: g.constant(vec![0.2f32, 0.4, 0.9, 0.15]).unwrap(),
        };
        let grads = |loss: &Output, xs: &[Output]| -> Vec<Output> {
            let d = gradients(std::slice::from_ref(loss), xs).unwrap();
            d.into_iter().map(|d| d.unwrap().to_dense().unwrap()).collect()
        };
        let loss = sampled_softmax_loss(classes, &labels, &inputs, &candidates, hits).unwrap();
        let mut xs = vec![inputs.clone()];
        xs.extend(weights.iter().chain(&biases).cloned());
        let mut got = vec![loss.clone()];
        got.extend(grads(&loss, &xs));
        check(&got, softmax);
        let loss = nce_loss(classes, &labels, &inputs, &candidates, hits).unwrap();
        let mut got = vec![loss.clone()];
        got.extend(grads(&loss, &xs[..1]));
        check(&got, nce);
        assert!(nce_loss(classes, &inputs, &inputs, &candidates, hits).is_err());
    }
}
