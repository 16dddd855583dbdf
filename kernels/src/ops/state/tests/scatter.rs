//! Scattering to variables, gathering from them, assigning to slices of them.

use actorflow_core::gradient::{GradientOptions, gradients_with};
use actorflow_core::{Code, DType, Graph, Operation, Output, PartialShape, Tensor};

use super::{handle, node, one, reference};
use crate::testing::Interpreter;

/// A variable of either kind holding `value`, in a new graph.
fn start(is_ref: bool, value: impl Into<Tensor>) -> (Graph, Interpreter, Output) {
    let (g, run, value) = (Graph::new(), Interpreter::default(), value.into());
    let shape = PartialShape::from(value.shape());
    let c = g.constant(value.clone()).unwrap();
    let (v, init) = match is_ref {
        true => {
            let v = reference(&g, "v", value.dtype(), shape);
            (v.clone(), node(&g, "Assign", &[&v, &c]))
        }
        false => {
            let v = handle(&g, "v", value.dtype(), shape);
            let b = g.op("AssignVariableOp").input(&v).input(&c);
            (v, b.attr("dtype", value.dtype()).finish().unwrap())
        }
    };
    run.run(&[], &[init], &[]).unwrap();
    (g, run, v)
}

fn now(run: &Interpreter, v: &Output, dtype: DType) -> Tensor {
    match v.is_ref() {
        true => one(run, v),
        false => one(run, &super::read(v.graph(), v, dtype)),
    }
}

fn scatter(g: &Graph, op: &str, v: &Output, indices: impl Into<Tensor>, updates: impl Into<Tensor>) -> Operation {
    let op = match v.is_ref() {
        true => op.to_owned(),
        false => format!("Resource{op}"),
    };
    let (i, u) = (g.constant(indices).unwrap(), g.constant(updates).unwrap());
    node(g, &op, &[v, &i, &u])
}

#[test]
fn rows_are_updated_in_order_even_if_they_repeat() {
    let cases: [(&str, [[i32; 2]; 3]); 7] = [
        ("ScatterUpdate", [[4, 6], [-3, 8], [2, -2]]),
        ("ScatterAdd", [[8, 14], [-3, 8], [3, 4]]),
        ("ScatterSub", [[0, 2], [-3, 8], [-1, 8]]),
        ("ScatterMul", [[16, 96], [-3, 8], [2, -12]]),
        ("ScatterDiv", [[1, 0], [-3, 8], [0, -3]]),
        ("ScatterMin", [[1, 2], [-3, 8], [1, -2]]),
        ("ScatterMax", [[4, 8], [-3, 8], [2, 6]]),
    ];
    for (op, want) in cases {
        for is_ref in [true, false] {
            let (g, run, v) = start(is_ref, [[4, 8], [-3, 8], [1, 6]]);
            let updates = match op {
                "ScatterUpdate" => [[9, 9], [2, -2], [4, 6]],
                "ScatterMin" => [[1, 2], [2, -2], [4, 6]],
                "ScatterAdd" | "ScatterSub" => [[1, 2], [2, -2], [3, 4]],
                "ScatterMul" => [[2, 3], [2, -2], [2, 4]],
                "ScatterDiv" => [[2, 3], [2, -2], [2, 4]],
                _ => [[1, 2], [2, -2], [3, 6]],
            };
            let op = scatter(&g, op, &v, [0i64, 2, 0], updates);
            run.run(&[], std::slice::from_ref(&op), &[]).unwrap();
            assert_eq!(now(&run, &v, DType::I32), Tensor::from(want), "{}", op.name());
        }
    }
}

#[test]
fn a_scalar_update_goes_to_every_row_and_no_index_changes_nothing() {
    for is_ref in [true, false] {
        let (g, run, v) = start(is_ref, [[1f32, 2.], [3., 4.], [5., 6.]]);
        let add = scatter(&g, "ScatterAdd", &v, [[0i32, 2]], 10f32);
        let none = scatter(
            &g,
            "ScatterUpdate",
            &v,
            Vec::<i32>::new(),
            Tensor::zeros(DType::F32, [0, 2]).unwrap(),
        );
        run.run(&[], &[add, none], &[]).unwrap();
        let want = Tensor::from([[11f32, 12.], [3., 4.], [15., 16.]]);
        assert_eq!(now(&run, &v, DType::F32), want);
        let set = scatter(&g, "ScatterUpdate", &v, 1i32, 7f32);
        run.run(&[], &[set], &[]).unwrap();
        let want = Tensor::from([[11f32, 12.], [7., 7.], [15., 16.]]);
        assert_eq!(now(&run, &v, DType::F32), want);
    }
}

#[test]
fn strings_can_be_scattered() {
    let words = |w: &[&'static str]| Tensor::strings([w.len()], w.to_vec()).unwrap();
    let (g, run, v) = start(true, words(&["a", "b", "c"]));
    let op = scatter(&g, "ScatterUpdate", &v, [2i32, 0], words(&["x", "y"]));
    run.run(&[], &[op], &[]).unwrap();
    let op = scatter(&g, "ScatterNdUpdate", &v, [[1i32]], words(&["z"]));
    run.run(&[], &[op], &[]).unwrap();
    assert_eq!(one(&run, &v), words(&["y", "z", "x"]));
}

#[test]
fn a_bad_scatter_is_explained_and_changes_nothing() {
    let (g, run, v) = start(true, [[1i32, 2], [3, 4]]);
    let e = |op: Operation| run.run(&[], &[op], &[]).unwrap_err();
    let err = e(scatter(
        &g,
        "ScatterAdd",
        &v,
        [[0i32], [2]],
        [[[1i32, 1]], [[1, 1]]].as_flattened().as_flattened(),
    ));
    assert_eq!(err.code(), Code::InvalidArgument);
    assert!(err.message().contains("updates [4]"), "{err}");
    let bad = scatter(
        &g,
        "ScatterAdd",
        &v,
        [[0i32], [2]],
        Tensor::zeros(DType::I32, [2, 1, 2]).unwrap(),
    );
    assert_eq!(e(bad).message(), "indices[1,0] = 2 is not in [0, 2)");
    assert!(
        e(scatter(&g, "ScatterDiv", &v, [0i32], [[1i32, 0]]))
            .message()
            .contains("division by zero")
    );
    let bad = scatter(&g, "ScatterNdAdd", &v, [[0i32, 1], [1, -1]], [1i32, 1]);
    assert!(
        e(bad).message().contains("indices[1] = [1, -1] is not in"),
        "{}",
        g.len()
    );
    assert_eq!(one(&run, &v), Tensor::from([[1i32, 2], [3, 4]]));
}

#[test]
fn elements_and_slices_are_updated_by_index() {
    for is_ref in [true, false] {
        let (g, run, v) = start(is_ref, [[1f64, 2.], [3., 4.], [5., 6.]]);
        let elements = scatter(&g, "ScatterNdAdd", &v, [[0i32, 1], [2, 0], [0, 1]], [10f64, 20., 30.]);
        let slices = scatter(&g, "ScatterNdSub", &v, [[1i32]], [[1f64, 1.]]);
        let all = scatter(
            &g,
            "ScatterNdMax",
            &v,
            Tensor::zeros(DType::I32, [0]).unwrap(),
            Tensor::from([[0f64, 0.], [9., 9.], [0., 7.]]),
        );
        run.run(&[], &[elements, slices, all], &[]).unwrap();
        let want = Tensor::from([[1f64, 42.], [9., 9.], [25., 7.]]);
        assert_eq!(now(&run, &v, DType::F64), want);
        let (i, u) = (
            g.constant([[0i32, 0], [5, 5]]).unwrap(),
            g.constant([-1f64, 3.]).unwrap(),
        );
        let op = if is_ref {
            "ScatterNdUpdate"
        } else {
            "ResourceScatterNdUpdate"
        };
        let lax = g
            .op(op)
            .input(&v)
            .input(&i)
            .input(&u)
            .attr("bad_indices_policy", "IGNORE");
        run.run(&[], &[lax.finish().unwrap()], &[]).unwrap();
        let want = Tensor::from([[-1f64, 42.], [9., 9.], [25., 7.]]);
        assert_eq!(now(&run, &v, DType::F64), want);
    }
}

#[test]
fn a_slice_of_a_variable_is_assigned_in_place() {
    for is_ref in [true, false] {
        let (g, run, v) = start(is_ref, vec![0i32; 24]);
        let c = |x: Vec<i32>| g.constant(x).unwrap();
        let op = if is_ref {
            "StridedSliceAssign"
        } else {
            "ResourceStridedSliceAssign"
        };
        let assign = g
            .op(op)
            .input(&v)
            .input(&c(vec![2]))
            .input(&c(vec![9]))
            .input(&c(vec![3]));
        let assign = assign.input(&c(vec![5, 6, 7])).finish().unwrap();
        let at = |t: Tensor| t.bytes().unwrap().as_ptr();
        run.run(&[], std::slice::from_ref(&assign), &[]).unwrap();
        let before = at(now(&run, &v, DType::I32));
        run.run(&[], &[assign], &[]).unwrap();
        let after = now(&run, &v, DType::I32);
        assert_eq!(after.as_slice::<i32>().unwrap()[..10], [0, 0, 5, 0, 0, 6, 0, 0, 7, 0]);
        assert_eq!(at(after), before);
        let one = g
            .op(op)
            .input(&v)
            .input(&c(vec![0]))
            .input(&c(vec![2]))
            .input(&c(vec![1]));
        let one = one.input(&g.constant(1i32).unwrap()).finish().unwrap();
        run.run(&[], &[one], &[]).unwrap();
        assert_eq!(now(&run, &v, DType::I32).as_slice::<i32>().unwrap()[..3], [1, 1, 5]);
    }
}

#[test]
fn rows_of_a_resource_variable_are_gathered_and_the_gradient_is_slices() {
    let (g, run, v) = start(false, [[1f32, 2.], [3., 4.], [5., 6.]]);
    let i = g.placeholder("i", DType::I32, PartialShape::UNKNOWN).unwrap();
    let rows = g.op("ResourceGather").input(&v).input(&i).attr("dtype", DType::F32);
    let rows = rows.output().unwrap();
    let feed = |x: Tensor| [(i.clone(), x)];
    let index = Tensor::from([[2i32, 0]]);
    let got = run.run(std::slice::from_ref(&rows), &[], &feed(index.clone())).unwrap();
    assert_eq!(got[0], Tensor::from_slice([1, 2, 2], &[5f32, 6., 1., 2.]).unwrap());
    let e = run.run(std::slice::from_ref(&rows), &[], &feed(Tensor::from([3i32])));
    assert_eq!(e.unwrap_err().message(), "indices[0] = 3 is not in [0, 3)");
    let seed = g.constant(Tensor::from_slice([1, 2, 2], &[1f32, 2., 3., 4.]).unwrap());
    let options = GradientOptions {
        grad_ys: vec![Some(seed.unwrap())],
        ..GradientOptions::default()
    };
    let grad = gradients_with(&[rows], &[v], &options).unwrap().remove(0).unwrap();
    let values = run.run(&[grad.values().clone()], &[], &feed(index)).unwrap();
    assert_eq!(values[0], Tensor::from([[1f32, 2.], [3., 4.]]));
}

#[test]
fn batches_and_single_elements_are_gathered() {
    let (g, run, v) = start(false, [[1f32, 2., 3.], [4., 5., 6.]]);
    let (i, nd) = (
        g.constant([[2i64], [0]]).unwrap(),
        g.constant([[1i64, 2], [0, 0]]).unwrap(),
    );
    let batch = g.op("ResourceGather").input(&v).input(&i).attr("batch_dims", 1i64);
    let batch = batch.attr("dtype", DType::F32).output().unwrap();
    assert_eq!(batch.shape(), PartialShape::from([2, 1]));
    assert_eq!(one(&run, &batch), Tensor::from([[3f32], [4.]]));
    let elements = g.op("ResourceGatherNd").input(&v).input(&nd).attr("dtype", DType::F32);
    let elements = elements.output().unwrap();
    assert_eq!(elements.shape(), PartialShape::from([2]));
    assert_eq!(one(&run, &elements), Tensor::from([6f32, 1.]));
    let options = GradientOptions {
        grad_ys: vec![Some(g.constant([10f32, 20.]).unwrap())],
        ..GradientOptions::default()
    };
    let grad = gradients_with(&[elements], &[v], &options).unwrap().remove(0).unwrap();
    let want = Tensor::from([[20f32, 0., 0.], [0., 0., 10.]]);
    assert_eq!(one(&run, &grad.to_dense().unwrap()), want);
}
