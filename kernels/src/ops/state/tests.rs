//! Variables of both kinds through small graphs.

use actorflow_core::gradient::{GradientOptions, gradients_with};
use actorflow_core::{Code, DType, Graph, Operation, Output, PartialShape, Tensor};

use crate::testing::Interpreter;

mod scatter;

fn reference(g: &Graph, name: &str, dtype: DType, shape: impl Into<PartialShape>) -> Output {
    let b = g.op("VariableV2").attr("dtype", dtype).attr("shape", shape.into());
    b.name(name).output().unwrap()
}

fn handle(g: &Graph, name: &str, dtype: DType, shape: impl Into<PartialShape>) -> Output {
    let b = g.op("VarHandleOp").attr("dtype", dtype).attr("shape", shape.into());
    b.name(name).output().unwrap()
}

fn node(g: &Graph, op: &str, inputs: &[&Output]) -> Operation {
    inputs.iter().fold(g.op(op), |b, x| b.input(x)).finish().unwrap()
}

fn read(g: &Graph, v: &Output, dtype: DType) -> Output {
    let b = g.op("ReadVariableOp").input(v).attr("dtype", dtype);
    b.output().unwrap()
}

fn one(run: &Interpreter, x: &Output) -> Tensor {
    run.run(std::slice::from_ref(x), &[], &[]).unwrap().remove(0)
}

#[test]
fn a_reference_variable_keeps_its_value_between_runs() {
    let g = Graph::new();
    let v = reference(&g, "v", DType::F32, [2]);
    let known = node(&g, "IsVariableInitialized", &[&v]).output(0).unwrap();
    let init = node(&g, "Assign", &[&v, &g.constant([1f32, 2.]).unwrap()]);
    let add = node(&g, "AssignAdd", &[&v, &g.constant([10f32, 20.]).unwrap()]);
    let sub = node(&g, "AssignSub", &[&v, &g.constant([1f32, 1.]).unwrap()]);
    let run = Interpreter::default();
    assert_eq!(one(&run, &known), Tensor::from(false));
    let e = run.run(std::slice::from_ref(&v), &[], &[]).unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition);
    assert!(e.message().contains("uninitialized value v"), "{e}");
    assert_eq!(one(&run, &init.output(0).unwrap()), Tensor::from([1f32, 2.]));
    assert_eq!(one(&run, &known), Tensor::from(true));
    assert_eq!(one(&run, &add.output(0).unwrap()), Tensor::from([11f32, 22.]));
    assert_eq!(one(&run, &sub.output(0).unwrap()), Tensor::from([10f32, 21.]));
    assert_eq!(one(&run, &v), Tensor::from([10f32, 21.]));
}

#[test]
fn assigning_shares_the_value_and_updating_leaves_the_shared_one_alone() {
    let g = Graph::new();
    let big = Tensor::from(vec![1f32; 100]);
    let v = reference(&g, "v", DType::F32, [100]);
    let init = node(&g, "Assign", &[&v, &g.constant(big.clone()).unwrap()]);
    let add = node(&g, "AssignAdd", &[&v, &g.constant(vec![1f32; 100]).unwrap()]);
    let run = Interpreter::default();
    run.run(&[], &[init], &[]).unwrap();
    let before = one(&run, &v);
    assert!(before.shares_data_with(&big));
    run.run(&[], std::slice::from_ref(&add), &[]).unwrap();
    assert_eq!(before, big);
    let after = one(&run, &v);
    assert_eq!(after.as_slice::<f32>().unwrap()[7], 2.0);
    let at = after.bytes().unwrap().as_ptr();
    drop(after);
    run.run(&[], &[add], &[]).unwrap();
    let last = one(&run, &v);
    assert_eq!(
        (last.bytes().unwrap().as_ptr(), last.as_slice::<f32>().unwrap()[7]),
        (at, 3.0)
    );
}

#[test]
fn a_value_of_another_shape_or_dtype_is_refused_by_name() {
    let g = Graph::new();
    let v = reference(&g, "weights", DType::F32, [2]);
    let x = g.placeholder("x", DType::F32, PartialShape::UNKNOWN).unwrap();
    let strict = node(&g, "Assign", &[&v, &x]);
    let lax = g.op("Assign").input(&v).input(&x).attr("validate_shape", false);
    let lax = lax.finish().unwrap();
    let run = Interpreter::default();
    let three = Tensor::from([1f32, 2., 3.]);
    let e = run.run(&[], std::slice::from_ref(&strict), &[(x.clone(), three.clone())]);
    let e = e.unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert_eq!(
        e.message(),
        "cannot assign a value of shape [3] to variable weights of shape [2]"
    );
    run.run(&[], &[lax], &[(x, three.clone())]).unwrap();
    assert_eq!(one(&run, &v), three);
    assert!(
        g.op("Assign")
            .input(&v)
            .input(&g.constant([1i32, 2]).unwrap())
            .finish()
            .is_err()
    );
    assert!(
        g.op("Assign")
            .input(&v)
            .input(&g.constant([1f32]).unwrap())
            .finish()
            .is_err()
    );
}

#[test]
fn resource_variables_are_read_assigned_and_destroyed() {
    let g = Graph::new();
    let v = handle(&g, "v", DType::I32, [3]);
    let value = read(&g, &v, DType::I32);
    assert_eq!(value.shape(), PartialShape::from([3]));
    let assign = |op: &str, x: &Output| {
        let b = g.op(op).input(&v).input(x).attr("dtype", DType::I32);
        b.finish().unwrap()
    };
    let x = g.constant([1i32, 2, 3]).unwrap();
    let init = assign("AssignVariableOp", &x);
    let add = assign("AssignAddVariableOp", &x);
    let sub = assign("AssignSubVariableOp", &g.constant([0i32, 0, i32::MIN]).unwrap());
    let known = node(&g, "VarIsInitializedOp", &[&v]).output(0).unwrap();
    let shape = node(&g, "VariableShape", &[&v]).output(0).unwrap();
    let destroy = node(&g, "DestroyResourceOp", &[&v]);
    let run = Interpreter::default();
    assert_eq!(one(&run, &known), Tensor::from(false));
    assert!(run.run(std::slice::from_ref(&shape), &[], &[]).is_err());
    for op in [init, add, sub] {
        run.run(&[], &[op], &[]).unwrap();
    }
    assert_eq!(one(&run, &value), Tensor::from([2, 4, 6i32.wrapping_sub(i32::MIN)]));
    assert_eq!(one(&run, &shape), Tensor::from([3i32]));
    run.run(&[], std::slice::from_ref(&destroy), &[]).unwrap();
    assert_eq!(one(&run, &known), Tensor::from(false));
    let e = run.run(&[value], &[], &[]).unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition);
    run.run(&[], &[destroy], &[]).unwrap();
}

#[test]
fn variables_are_shared_by_shared_name_and_must_agree() {
    let g = Graph::new();
    let make = |op: &str, dtype: DType| {
        let b = g.op(op).attr("dtype", dtype).attr("shape", PartialShape::from([1]));
        b.attr("shared_name", "common").output().unwrap()
    };
    let (a, b) = (make("VariableV2", DType::F32), make("VariableV2", DType::F32));
    let init = node(&g, "Assign", &[&a, &g.constant([5f32]).unwrap()]);
    let run = Interpreter::default();
    run.run(&[], &[init], &[]).unwrap();
    assert_eq!(one(&run, &b), Tensor::from([5f32]));
    let e = run.run(&[make("VariableV2", DType::F64)], &[], &[]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(
        e.message().contains("float32") && e.message().contains("float64"),
        "{e}"
    );
}

#[test]
fn counting_stops_at_the_limit() {
    let g = Graph::new();
    let v = reference(&g, "v", DType::I64, PartialShape::scalar());
    let init = node(&g, "Assign", &[&v, &g.constant(3i64).unwrap()]);
    let count = g.op("CountUpTo").input(&v).attr("limit", 5i64).output().unwrap();
    let run = Interpreter::default();
    run.run(&[], &[init], &[]).unwrap();
    assert_eq!(one(&run, &count), Tensor::from(3i64));
    assert_eq!(one(&run, &count), Tensor::from(4i64));
    let e = run.run(std::slice::from_ref(&count), &[], &[]).unwrap_err();
    assert_eq!(e.code(), Code::OutOfRange);
    assert_eq!(one(&run, &v), Tensor::from(5i64));
}

#[test]
fn a_temporary_variable_starts_at_zero_and_ends_with_its_last_value() {
    let g = Graph::new();
    let v = g.op("TemporaryVariable").attr("dtype", DType::F32);
    let v = v.attr("shape", PartialShape::from([2])).attr("var_name", "t").output();
    let v = v.unwrap();
    let add = node(&g, "AssignAdd", &[&v, &g.constant([1f32, 2.]).unwrap()]);
    let end = g.op("DestroyTemporaryVariable").input(&add.output(0).unwrap());
    let end = end.attr("var_name", "t").output().unwrap();
    let run = Interpreter::default();
    for _ in 0..2 {
        assert_eq!(one(&run, &end), Tensor::from([1f32, 2.]));
    }
}

#[test]
fn the_gradient_of_reading_goes_to_the_handle() {
    let g = Graph::new();
    let v = handle(&g, "v", DType::F32, [2]);
    let x = read(&g, &v, DType::F32).identity().unwrap();
    let seed = g.constant([3f32, 4.]).unwrap();
    let options = GradientOptions {
        grad_ys: vec![Some(seed)],
        ..GradientOptions::default()
    };
    let grads = gradients_with(&[x], &[v], &options).unwrap();
    let grad = grads[0].as_ref().unwrap().to_dense().unwrap();
    assert_eq!(one(&Interpreter::default(), &grad), Tensor::from([3f32, 4.]));
}
