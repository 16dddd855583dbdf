//! TensorFlow 2.21's own values.

use crate::testing::Interpreter;
use actorflow_core::attr::AttrValue;
use actorflow_core::error::Result;
use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};

/// Runs an operation on inputs that are not known when the graph is built.
pub(crate) fn run(op: &str, inputs: Vec<Tensor>, attrs: &[(&str, AttrValue)]) -> Result<Vec<Tensor>> {
    let g = Graph::new();
    let mut b = g.op(op);
    for t in inputs {
        let late = g.op("PlaceholderWithDefault").input(&g.constant(t)?);
        b = b.input(&late.attr("shape", PartialShape::UNKNOWN).output()?);
    }
    for (name, value) in attrs {
        b = b.attr(name, value.clone());
    }
    Interpreter::default().run(&b.finish()?.outputs(), &[], &[])
}

fn indices() -> Tensor {
    Tensor::from([[0i64, 1], [1, 0], [1, 2]])
}

fn values() -> Tensor {
    Tensor::from([1f32, 2., 3.])
}

fn shape() -> Tensor {
    Tensor::from([2i64, 3])
}

fn no_indices() -> Tensor {
    Tensor::zeros(DType::I64, [0, 2]).unwrap()
}

fn ones(dims: [usize; 2]) -> Tensor {
    Tensor::full(dims, 1f32).unwrap()
}

#[track_caller]
fn refused(r: Result<Vec<Tensor>>) {
    assert_eq!(r.unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn sparse_matrices_are_multiplied_and_added_to_dense_ones() {
    let mm = |i: Tensor, v: Tensor, s: Tensor, b: Tensor| run("SparseTensorDenseMatMul", vec![i, v, s, b], &[]);
    let y = mm(indices(), values(), shape(), ones([3, 2])).unwrap();
    assert_eq!(y[0], Tensor::from([[1f32, 1.], [5., 5.]]));
    let y = mm(no_indices(), Tensor::vector::<f32>(&[]), shape(), ones([3, 2])).unwrap();
    assert_eq!(y[0], Tensor::from([[0f32, 0.], [0., 0.]]));
    for bad in [[0i64, 5], [5, 0], [-1, 0]] {
        let i = Tensor::from([bad, [1, 0], [1, 2]]);
        refused(mm(i.clone(), values(), shape(), ones([3, 2])));
        refused(run(
            "SparseTensorDenseAdd",
            vec![i, values(), shape(), ones([2, 3])],
            &[],
        ));
    }
    refused(mm(indices(), values(), shape(), ones([2, 2])));
    refused(mm(indices(), Tensor::from([1f32]), shape(), ones([3, 2])));
    refused(mm(
        no_indices(),
        Tensor::vector::<f32>(&[]),
        [-2i64, 3].into(),
        ones([3, 2]),
    ));
    let y = run(
        "SparseTensorDenseAdd",
        vec![indices(), values(), shape(), ones([2, 3])],
        &[],
    )
    .unwrap();
    assert_eq!(y[0], Tensor::from([[1f32, 2., 1.], [3., 1., 4.]]));
    refused(run(
        "SparseTensorDenseAdd",
        vec![indices(), values(), shape(), ones([3, 2])],
        &[],
    ));
}

#[test]
fn large_products_do_not_depend_on_the_split() {
    let n = 4000;
    let at: Vec<i64> = (0..n).flat_map(|k| [k * 7 % 100, k * 13 % 50]).collect();
    let v: Vec<f64> = (0..n).map(|k| (k % 9) as f64 - 3.5).collect();
    let b: Vec<f64> = (0..50 * 80).map(|k| (k % 11) as f64 * 0.5).collect();
    let inputs = vec![
        Tensor::from_slice([n as usize, 2], &at).unwrap(),
        Tensor::vector(&v),
        [100i64, 50].into(),
        Tensor::from_slice([50, 80], &b).unwrap(),
    ];
    let y = run("SparseTensorDenseMatMul", inputs, &[]).unwrap().remove(0);
    let mut want = vec![0.0; 100 * 80];
    for (at, v) in at.chunks(2).zip(&v) {
        for j in 0..80 {
            want[at[0] as usize * 80 + j] += v * b[at[1] as usize * 80 + j];
        }
    }
    assert_eq!(y.to_vec::<f64>().unwrap(), want);
}

#[test]
fn only_sums_are_held_against_the_threshold() {
    let add = |th: f32, s: Tensor| {
        let b = [Tensor::from([[0i64, 1], [1, 1]]), Tensor::from([-1f32, 5.]), s];
        let [i, v, s] = b;
        run("SparseAdd", vec![indices(), values(), shape(), i, v, s, th.into()], &[])
    };
    let y = add(0.0, shape()).unwrap();
    assert_eq!(y[0], Tensor::from([[0i64, 1], [1, 0], [1, 1], [1, 2]]));
    assert_eq!(y[1], Tensor::from([0f32, 2., 5., 3.]));
    assert_eq!(y[2], shape());
    let y = add(2.5, shape()).unwrap();
    assert_eq!(y[1], Tensor::from([2f32, 5., 3.]));
    refused(add(0.0, [3i64, 3].into()));
    let both = [Tensor::from([[0i64, 1], [1, 1]]), Tensor::from([-1f32, 5.])];
    let [i, v] = both;
    let inputs = vec![indices(), values(), shape(), i, v, shape()];
    let y = run("SparseSparseMinimum", inputs.clone(), &[]).unwrap();
    assert_eq!(y[1], Tensor::from([-1f32, 0., 0., 0.]));
    let y = run("SparseSparseMaximum", inputs, &[]).unwrap();
    assert_eq!(y[1], Tensor::from([1f32, 2., 5., 3.]));
}

#[test]
fn pieces_are_joined_split_and_cut() {
    let twice = |t: Tensor| vec![t.clone(), t];
    let concat = |axis: i64| {
        let inputs = [twice(indices()), twice(values()), twice(shape())].concat();
        let g = Graph::new();
        let list: Vec<_> = inputs.into_iter().map(|t| g.constant(t).unwrap()).collect();
        let b = g.op("SparseConcat").input_list(&list[..2]).input_list(&list[2..4]);
        let op = b.input_list(&list[4..]).attr("concat_dim", axis).finish()?;
        Interpreter::default().run(&op.outputs(), &[], &[])
    };
    let y = concat(-1).unwrap();
    assert_eq!(y[0], Tensor::from([[0i64, 1], [0, 4], [1, 0], [1, 2], [1, 3], [1, 5]]));
    assert_eq!(y[1], Tensor::from([1f32, 1., 2., 3., 2., 3.]));
    assert_eq!(y[2], Tensor::from([2i64, 6]));
    refused(concat(2));
    let split = |axis: i64, n: i64, i: Tensor| {
        run(
            "SparseSplit",
            vec![axis.into(), i, values(), shape()],
            &[("num_split", n.into())],
        )
    };
    let y = split(1, 2, indices()).unwrap();
    assert_eq!(y[0], Tensor::from([[0i64, 1], [1, 0]]));
    assert_eq!((&y[1], &y[3]), (&Tensor::from([[1i64, 0]]), &Tensor::from([3f32])));
    assert_eq!((&y[4], &y[5]), (&Tensor::from([2i64, 2]), &Tensor::from([2i64, 1])));
    refused(split(0, 3, indices()));
    refused(split(2, 2, indices()));
    refused(split(0, 2, [[0i64, 1], [5, 0], [1, 2]].into()));
    let slice = |start: Vec<i64>, size: [i64; 2]| {
        let inputs = vec![indices(), values(), shape(), Tensor::vector(&start), size.into()];
        run("SparseSlice", inputs, &[])
    };
    let y = slice(vec![1, 0], [7, i64::MAX]).unwrap();
    assert_eq!(
        (&y[0], &y[2]),
        (&Tensor::from([[0i64, 0], [0, 2]]), &Tensor::from([1i64, 3]))
    );
    let y = slice(vec![-1, 0], [2, 2]).unwrap();
    assert_eq!((&y[0], &y[2]), (&Tensor::from([[1i64, 1]]), &Tensor::from([2i64, 2])));
    assert_eq!(slice(vec![5, i64::MIN], [1, 1]).unwrap()[0].shape().dims(), [0, 2]);
    refused(slice(vec![0, 0], [-1, 2]));
    refused(slice(vec![0], [1, 2]));
}

#[test]
fn elements_are_put_in_order_and_in_other_shapes() {
    let i = Tensor::from([[1i64, 2], [0, 1], [1, 2]]);
    let y = run("SparseReorder", vec![i, values(), shape()], &[]).unwrap();
    assert_eq!(y[0], Tensor::from([[0i64, 1], [1, 2], [1, 2]]));
    assert_eq!(y[1], Tensor::from([2f32, 1., 3.]));
    let reshape = |to: Vec<i64>| run("SparseReshape", vec![indices(), shape(), Tensor::vector(&to)], &[]);
    let y = reshape(vec![-1, 2]).unwrap();
    assert_eq!(
        (&y[0], &y[1]),
        (&Tensor::from([[0i64, 1], [1, 1], [2, 1]]), &Tensor::from([3i64, 2]))
    );
    for bad in [
        vec![-1, -1],
        vec![4, 2],
        vec![-1, 4],
        vec![-2, 3],
        vec![],
        vec![i64::MAX, i64::MAX],
    ] {
        refused(reshape(bad));
    }
    let none = |to: Vec<i64>| {
        run(
            "SparseReshape",
            vec![no_indices(), [0i64, 3].into(), Tensor::vector(&to)],
            &[],
        )
    };
    assert_eq!(none(vec![0, 5]).unwrap()[1], Tensor::from([0i64, 5]));
    refused(none(vec![-1, 0]));
    let huge = vec![indices(), [i64::MAX, i64::MAX].into(), [1i64, 1].into()];
    refused(run("SparseReshape", huge, &[]));
}

#[test]
fn empty_rows_get_the_default() {
    let fill = |i: Tensor, rows: i64| {
        run(
            "SparseFillEmptyRows",
            vec![i, values(), [rows, 3].into(), 9f32.into()],
            &[],
        )
    };
    let y = fill([[3i64, 1], [1, 2], [1, 0]].into(), 4).unwrap();
    assert_eq!(y[0], Tensor::from([[0i64, 0], [1, 2], [1, 0], [2, 0], [3, 1]]));
    assert_eq!(y[1], Tensor::from([9f32, 2., 3., 9., 1.]));
    assert_eq!(y[2], Tensor::from([true, false, true, false]));
    assert_eq!(y[3], Tensor::from([4i64, 1, 2]));
    refused(fill(indices(), 0));
    refused(fill([[0i64, 1], [7, 0], [1, 2]].into(), 4));
    assert!(fill(indices(), i64::MAX).is_err());
    let grad = |map: [i64; 2]| {
        run(
            "SparseFillEmptyRowsGrad",
            vec![map.into(), [0f32, 1., 2., 3.].into()],
            &[],
        )
    };
    let y = grad([2, 1]).unwrap();
    assert_eq!((&y[0], &y[1]), (&Tensor::from([2f32, 1.]), &Tensor::from(3f32)));
    refused(grad([2, 7]));
}

#[test]
fn sums_and_maxima_over_dimensions() {
    let reduce = |op: &str, axes: Vec<i32>, keep: bool| {
        let inputs = vec![indices(), values(), shape(), Tensor::vector(&axes)];
        run(op, inputs, &[("keep_dims", keep.into())])
    };
    assert_eq!(
        reduce("SparseReduceSum", vec![0, 0], false).unwrap()[0],
        Tensor::from([2f32, 1., 3.])
    );
    assert_eq!(
        reduce("SparseReduceMax", vec![-1], true).unwrap()[0],
        Tensor::from([[1f32], [3.]])
    );
    assert_eq!(
        reduce("SparseReduceSum", vec![0, 1], false).unwrap()[0],
        Tensor::from(6f32)
    );
    assert_eq!(
        reduce("SparseReduceMax", vec![], false).unwrap()[0],
        Tensor::from([[0f32, 1., 0.], [2., 0., 3.]])
    );
    refused(reduce("SparseReduceSum", vec![2], false));
    let y = reduce("SparseReduceSumSparse", vec![1], true).unwrap();
    assert_eq!(
        (&y[0], &y[1]),
        (&Tensor::from([[0i64, 0], [1, 0]]), &Tensor::from([1f32, 5.]))
    );
    assert_eq!(y[2], Tensor::from([2i64, 1]));
    let y = reduce("SparseReduceMaxSparse", vec![0, 1], false).unwrap();
    assert_eq!((y[0].shape().dims(), y[1].clone()), (&[1, 0][..], Tensor::from([3f32])));
    let far = vec![
        Tensor::from([[1i64, 2], [5, 1], [1, 0]]),
        values(),
        shape(),
        Tensor::from([1i32]),
    ];
    assert_eq!(run("SparseReduceSum", far, &[]).unwrap_err().code(), Code::Internal);
    let y = run("SparseSoftmax", vec![indices(), values(), shape()], &[])
        .unwrap()
        .remove(0);
    let y = y.to_vec::<f32>().unwrap();
    assert!(y[0] == 1.0 && (y[1] - 0.26894143).abs() < 1e-6 && (y[2] - 0.7310586).abs() < 1e-6);
    refused(run(
        "SparseSoftmax",
        vec![[[0i64], [1]].into(), [1f32, 2.].into(), [4i64].into()],
        &[],
    ));
}

#[test]
fn dense_operands_are_broadcast_to_sparse_ones() {
    let cwise = |op: &str, d: Tensor| run(op, vec![indices(), values(), shape(), d], &[]);
    let row = || Tensor::from([1f32, 2., 3.]);
    assert_eq!(
        cwise("SparseDenseCwiseAdd", row()).unwrap()[0],
        Tensor::from([3f32, 3., 6.])
    );
    let column = Tensor::from([[1f32], [2.]]);
    assert_eq!(
        cwise("SparseDenseCwiseDiv", column).unwrap()[0],
        Tensor::from([1f32, 1., 1.5])
    );
    assert_eq!(
        cwise("SparseDenseCwiseMul", 2f32.into()).unwrap()[0],
        Tensor::from([2f32, 4., 6.])
    );
    refused(cwise("SparseDenseCwiseMul", ones([3, 3])));
    refused(cwise("SparseDenseCwiseMul", Tensor::full([1, 2, 3], 1f32).unwrap()));
    let ints = vec![indices(), [1i32, 2, 3].into(), shape(), 0i32.into()];
    refused(run("SparseDenseCwiseDiv", ints, &[]));
}

#[test]
fn numbers_are_counted_in_rows() {
    let v = || Tensor::from([1i32, 0, 1]);
    let none = || Tensor::vector::<f32>(&[]);
    let bins = |size: i32, w: Tensor| run("SparseBincount", vec![indices(), v(), shape(), size.into(), w], &[]);
    assert_eq!(
        bins(4, none()).unwrap()[0],
        Tensor::from([[0f32, 1., 0., 0.], [1., 1., 0., 0.]])
    );
    assert_eq!(bins(1, values()).unwrap()[0], Tensor::from([[0f32], [2.]]));
    refused(bins(-1, none()));
    refused(bins(4, Tensor::from([1f32])));
    let count = |v: Tensor, most: i64| {
        let inputs = vec![indices(), v, shape(), none()];
        let attrs = [
            ("binary_output", false.into()),
            ("minlength", 5.into()),
            ("maxlength", most.into()),
        ];
        run("SparseCountSparseOutput", inputs, &attrs)
    };
    let y = count(v(), -1).unwrap();
    assert_eq!(
        (&y[0], &y[2]),
        (&Tensor::from([[0i64, 1], [1, 0], [1, 1]]), &Tensor::from([2i64, 5]))
    );
    let y = count(v(), 1).unwrap();
    assert_eq!((&y[0], &y[2]), (&Tensor::from([[1i64, 0]]), &Tensor::from([2i64, 1])));
    refused(count([-1i32, 0, 1].into(), -1));
    let ragged = |splits: Vec<i64>| {
        let inputs = vec![Tensor::vector(&splits), v(), 2i32.into(), none()];
        run("RaggedBincount", inputs, &[])
    };
    assert_eq!(
        ragged(vec![0, 2, 2, 3]).unwrap()[0],
        Tensor::from([[1f32, 1.], [0., 0.], [0., 1.]])
    );
    for bad in [vec![], vec![1, 3], vec![0, 2], vec![0, 3, 2, 3]] {
        refused(ragged(bad));
    }
    let attrs = [("binary_output", true.into())];
    let y = run(
        "DenseCountSparseOutput",
        vec![[[1i64, 1], [3, 0]].into(), none()],
        &attrs,
    )
    .unwrap();
    assert_eq!(
        (&y[0], &y[2]),
        (&Tensor::from([[0i64, 1], [1, 0], [1, 3]]), &Tensor::from([2i64, 4]))
    );
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let bad = [
        vec![Tensor::from([0i64, 1]), values(), shape()],
        vec![indices(), Tensor::from([1f32]), shape()],
        vec![indices(), values(), Tensor::from([2i64])],
        vec![indices(), values(), Tensor::from([2i64, -3])],
    ];
    for inputs in bad {
        refused(run("SparseReorder", inputs.clone(), &[]));
        refused(run("SparseSoftmax", inputs, &[]));
    }
}
