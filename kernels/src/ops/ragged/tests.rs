//! TensorFlow 2.21's own values.

use crate::ops::sparse::tests::run;
use crate::testing::Interpreter;
use actorflow_core::attr::AttrValue;
use actorflow_core::error::Result;
use actorflow_core::{Code, DType, Graph, Output, PartialShape, Tensor};

#[track_caller]
fn refused(r: Result<Vec<Tensor>>) {
    assert_eq!(r.unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn ranges_are_rows() {
    let range = |a: Tensor, b: Tensor, c: Tensor| run("RaggedRange", vec![a, b, c], &[]);
    let y = range([10i32, 5].into(), [0i32, 9].into(), [-3i32, 2].into()).unwrap();
    assert_eq!(
        (&y[0], &y[1]),
        (&Tensor::from([0i64, 4, 6]), &Tensor::from([10i32, 7, 4, 1, 5, 7]))
    );
    let y = range(0f32.into(), [1f32, 0.5].into(), 0.3f32.into()).unwrap();
    assert_eq!(y[0], Tensor::from([0i64, 4, 6]));
    assert_eq!(
        range(2i64.into(), 5i64.into(), 1i64.into()).unwrap()[0],
        Tensor::from([0i64, 3])
    );
    let y = range(i32::MIN.into(), [i32::MAX].into(), i32::MAX.into()).unwrap();
    assert_eq!(y[0], Tensor::from([0i64, 3]));
    refused(range(0i32.into(), 3i32.into(), 0i32.into()));
    refused(range([1i32, 2].into(), [3i32, 4, 5].into(), 1i32.into()));
    refused(range([[1i32]].into(), 3i32.into(), 1i32.into()));
    for limit in [i64::MAX, i64::MIN] {
        let delta = if limit > 0 { 1i64 } else { -1 };
        assert!(range((-limit.signum()).into(), limit.into(), delta.into()).is_err());
    }
    assert!(range(0f64.into(), f64::INFINITY.into(), 1f64.into()).is_err());
}

/// A gather from a ragged tensor of these splits, its values five numbers.
fn gather(splits: &[Vec<i64>], indices: Tensor) -> Result<Vec<Tensor>> {
    let g = Graph::new();
    let late = |t: Tensor| -> Result<Output> {
        let op = g.op("PlaceholderWithDefault").input(&g.constant(t)?);
        op.attr("shape", PartialShape::UNKNOWN).output()
    };
    let s = splits
        .iter()
        .map(|s| late(Tensor::vector(s)))
        .collect::<Result<Vec<_>>>()?;
    let rank = splits.len() + indices.shape().rank() - 1;
    let op = g
        .op("RaggedGather")
        .input_list(&s)
        .input(&late([1f32, 2., 3., 4., 5.].into())?)
        .input(&late(indices)?)
        .attr("OUTPUT_RAGGED_RANK", rank as i64)
        .finish()?;
    Interpreter::default().run(&op.outputs(), &[], &[])
}

#[test]
fn rows_are_gathered() {
    let s = || vec![0i64, 2, 2, 5];
    let y = gather(&[s()], [2i64, 0, 1].into()).unwrap();
    assert_eq!(
        (&y[0], &y[1]),
        (&Tensor::from([0i64, 3, 5, 5]), &Tensor::from([3f32, 4., 5., 1., 2.]))
    );
    assert_eq!(gather(&[s()], 2i64.into()).unwrap(), [Tensor::from([3f32, 4., 5.])]);
    let y = gather(&[s()], [[2i32, 0], [1, 1]].into()).unwrap();
    assert_eq!(
        (&y[0], &y[1]),
        (&Tensor::from([0i64, 2, 4]), &Tensor::from([0i64, 3, 5, 5, 5]))
    );
    let y = gather(&[vec![0, 1, 3], s()], [1i64, 0, 1].into()).unwrap();
    assert_eq!(
        (&y[0], &y[1]),
        (&Tensor::from([0i64, 2, 3, 5]), &Tensor::from([0i64, 0, 3, 5, 5, 8]))
    );
    assert_eq!(y[2].len(), 8);
    let y = gather(&[s()], Tensor::zeros(DType::I64, [2, 0]).unwrap()).unwrap();
    assert_eq!(
        (&y[0], &y[1], y[2].len()),
        (&Tensor::from([0i64, 0, 0]), &Tensor::from([0i64]), 0)
    );
    for bad in [3i64, -1] {
        refused(gather(&[s()], [bad].into()));
    }
    for bad in [vec![0i64, 9, 2, 5], vec![0, 2, 9], vec![-1, 2, 5], vec![]] {
        refused(gather(&[bad], [0i64].into()));
    }
}

/// An operation on ragged tensors: the splits as a list, and what comes behind them.
fn ragged(op: &str, splits: &[Vec<i64>], values: Tensor, batched: Option<bool>) -> Result<Vec<Tensor>> {
    let g = Graph::new();
    let s = splits
        .iter()
        .map(|s| g.constant(Tensor::vector(s)))
        .collect::<Result<Vec<_>>>()?;
    let mut b = g.op(op).input_list(&s).input(&g.constant(values)?);
    if let Some(batched) = batched {
        b = b.attr("batched_input", batched);
    }
    Interpreter::default().run(&b.finish()?.outputs(), &[], &[])
}

fn five() -> Tensor {
    Tensor::from([1f32, 2., 3., 4., 5.])
}

#[test]
fn ragged_tensors_become_sparse_ones() {
    let convert = |s: &[Vec<i64>], v: Tensor| ragged("RaggedTensorToSparse", s, v, None);
    let y = convert(&[vec![0, 1, 3], vec![0, 2, 2, 5]], five()).unwrap();
    let want = [[0i64, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 2]];
    assert_eq!((&y[0], &y[2]), (&Tensor::from(want), &Tensor::from([2i64, 2, 3])));
    let y = convert(&[vec![0, 1]], Tensor::from([[7f32, 8.]])).unwrap();
    assert_eq!(
        (&y[0], &y[2]),
        (&Tensor::from([[0i64, 0, 0], [0, 0, 1]]), &Tensor::from([1i64, 1, 2]))
    );
    for bad in [vec![0i64, 2, 4], vec![1, 5], vec![0, 3, 2, 5], vec![]] {
        refused(convert(&[bad], five()));
    }
}

fn to_tensor(shape: Tensor, values: Tensor, default: f32, parts: Vec<Tensor>, kinds: &[&str]) -> Result<Vec<Tensor>> {
    let g = Graph::new();
    let late = |t: Tensor| -> Result<Output> {
        let op = g.op("PlaceholderWithDefault").input(&g.constant(t)?);
        op.attr("shape", PartialShape::UNKNOWN).output()
    };
    let parts = parts.into_iter().map(late).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = kinds.iter().map(|s| (*s).to_owned()).collect();
    let op = g
        .op("RaggedTensorToTensor")
        .input(&late(shape)?)
        .input(&late(values)?)
        .input(&late(default.into())?)
        .input_list(&parts)
        .attr("row_partition_types", names)
        .finish()?;
    Interpreter::default().run(&op.outputs(), &[], &[])
}

#[test]
fn rows_are_filled_up_or_cut_off() {
    let splits = |shape: Vec<i64>, s: Vec<i64>| {
        to_tensor(
            Tensor::vector(&shape),
            five(),
            9.0,
            vec![Tensor::vector(&s)],
            &["ROW_SPLITS"],
        )
    };
    let s = || vec![0i64, 2, 2, 5];
    let y = splits(vec![-1, -1], s()).unwrap();
    assert_eq!(y[0], Tensor::from([[1f32, 2., 9.], [9., 9., 9.], [3., 4., 5.]]));
    assert_eq!(splits(vec![2, 1], s()).unwrap()[0], Tensor::from([[1f32], [9.]]));
    let y = splits(vec![4, 4], s()).unwrap();
    assert_eq!(
        y[0].slice_rows(2, 4).unwrap(),
        Tensor::from([[3f32, 4., 5., 9.], [9., 9., 9., 9.]])
    );
    assert_eq!(
        splits(vec![-1, -1], vec![0, 2, 4]).unwrap()[0],
        Tensor::from([[1f32, 2.], [3., 4.]])
    );
    for bad in [vec![0i64, 2, 7], vec![0, 3, 2, 5], vec![1, 3, 5], vec![]] {
        refused(splits(vec![-1, -1], bad));
    }
    refused(splits(vec![-1, -1, -1], s()));
    refused(splits(vec![-2, -1], s()));
    assert!(splits(vec![1 << 40, 1 << 40], s()).is_err());
    let ids = |n: i64, ids: Vec<i64>| {
        let parts = vec![n.into(), Tensor::vector(&ids)];
        to_tensor((-1i64).into(), five(), 9.0, parts, &["FIRST_DIM_SIZE", "VALUE_ROWIDS"])
    };
    let y = ids(4, vec![0, 0, 2, 2, 2]).unwrap();
    assert_eq!(
        y[0].slice_rows(2, 4).unwrap(),
        Tensor::from([[3f32, 4., 5.], [9., 9., 9.]])
    );
    refused(ids(2, vec![0, 0, 2, 2, 2]));
    refused(ids(-1, vec![]));
    let parts = || vec![Tensor::from([0i64, 1, 3]), Tensor::from([0i64, 2, 2, 5])];
    let y = to_tensor(
        [-1i64, -1, -1].into(),
        five(),
        9.0,
        parts(),
        &["ROW_SPLITS", "ROW_SPLITS"],
    )
    .unwrap();
    assert_eq!(y[0].shape().dims(), [2, 2, 3]);
    assert_eq!(y[0].to_vec::<f32>().unwrap()[6..], [9., 9., 9., 3., 4., 5.]);
    refused(to_tensor(
        (-1i64).into(),
        five(),
        9.0,
        parts(),
        &["ROW_SPLITS", "OTHER"],
    ));
    refused(to_tensor((-1i64).into(), five(), 9.0, parts(), &["ROW_SPLITS"]));
}

#[test]
fn variants_hold_ragged_tensors() {
    let s = [vec![0i64, 2, 2, 5]];
    let encode = |batched: bool| {
        ragged("RaggedTensorToVariant", &s, five(), Some(batched))
            .unwrap()
            .remove(0)
    };
    let decode = |t: Tensor, from: i64, to: i64, dtype: DType| {
        let attrs: [(&str, AttrValue); 3] = [
            ("input_ragged_rank", from.into()),
            ("output_ragged_rank", to.into()),
            ("Tvalues", dtype.into()),
        ];
        let g = Graph::new();
        let p = g.placeholder("p", DType::Variant, PartialShape::UNKNOWN)?;
        let mut b = g.op("RaggedTensorFromVariant").input(&p);
        for (name, value) in attrs {
            b = b.attr(name, value);
        }
        Interpreter::default().run(&b.finish()?.outputs(), &[], &[(p, t)])
    };
    for (t, from) in [(encode(true), 0), (encode(true), -1), (encode(false), 1)] {
        let y = decode(t, from, 1, DType::F32).unwrap();
        assert_eq!((&y[0], &y[1]), (&Tensor::from([0i64, 2, 2, 5]), &five()));
    }
    let y = decode(encode(true).reshape([3, 1]).unwrap(), 0, 2, DType::F32).unwrap();
    assert_eq!(
        (&y[0], &y[1]),
        (&Tensor::from([0i64, 1, 2, 3]), &Tensor::from([0i64, 2, 2, 5]))
    );
    refused(decode(encode(true), 1, 1, DType::F32));
    refused(decode(encode(true), 0, 1, DType::I32));
    refused(ragged("RaggedTensorToVariant", &[vec![0, 9]], five(), Some(true)));
    refused(ragged("RaggedTensorToVariant", &[], 1f32.into(), Some(true)));
    let none = ragged(
        "RaggedTensorToVariant",
        &[vec![0]],
        Tensor::vector::<f32>(&[]),
        Some(true),
    )
    .unwrap();
    assert_eq!(
        decode(none[0].clone(), 0, 1, DType::F32).unwrap()[0],
        Tensor::from([0i64])
    );
}
