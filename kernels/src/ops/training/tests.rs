//! Every update rule against TensorFlow's results, and what all of them share.

use actorflow_core::op::registry;
use actorflow_core::resource::Variable;
use actorflow_core::{Code, DType, Error, Graph, Operation, Output, PartialShape, Result, Tensor};
use half::{bf16, f16};

use crate::testing::Interpreter;

mod cases;
use cases::{CASES, Case};

/// The element of the variable, of the slots before their factor, and of the two gradients.
const VAR: [f64; 6] = [0.5, -1.5, 2.0, -0.25, 0.0, 0.75];
const SLOT: [f64; 6] = [0.3, 0.7, 1.1, 0.2, 0.9, 0.4];
const GRADS: [[f64; 6]; 2] = [[0.1, -0.2, 0.3, 0.0, -0.5, 0.05], [-0.4, 0.25, 0.15, 0.6, -0.1, -0.3]];
const ROWS: [f64; 6] = [0.1, -0.2, -0.4, 0.25, 0.15, 0.6];
const INDICES: [i32; 3] = [2, 0, 2];

fn tensor(dtype: DType, values: &[f64]) -> Tensor {
    let shape = [values.len() / 2, 2];
    match dtype {
        DType::F64 => Tensor::from_slice(shape, values),
        DType::F32 => Tensor::from_slice(shape, &values.iter().map(|x| *x as f32).collect::<Vec<_>>()),
        DType::F16 => Tensor::from_slice(shape, &values.iter().map(|x| f16::from_f64(*x)).collect::<Vec<_>>()),
        _ => Tensor::from_slice(shape, &values.iter().map(|x| bf16::from_f64(*x)).collect::<Vec<_>>()),
    }
    .unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    match t.dtype() {
        DType::F64 => t.to_vec::<f64>().unwrap(),
        DType::F32 => t.to_vec::<f32>().unwrap().iter().map(|x| f64::from(*x)).collect(),
        DType::F16 => t.to_vec::<f16>().unwrap().iter().map(|x| x.to_f64()).collect(),
        _ => t.to_vec::<bf16>().unwrap().iter().map(|x| x.to_f64()).collect(),
    }
}

/// A variable and the operation that initialises it.
fn variable(g: &Graph, is_ref: bool, value: &Tensor) -> (Output, Operation) {
    let shape = PartialShape::from(value.shape());
    let (op, assign) = match is_ref {
        true => ("VariableV2", "Assign"),
        false => ("VarHandleOp", "AssignVariableOp"),
    };
    let name = format!("v{}", g.len());
    let v = g.op(op).attr("dtype", value.dtype()).attr("shape", shape).name(&name);
    let v = v.output().unwrap();
    let c = g.constant(value.clone()).unwrap();
    let a = g.op(assign).input(&v).input(&c);
    let a = if is_ref { a } else { a.attr("dtype", value.dtype()) };
    (v, a.finish().unwrap())
}

fn read(g: &Graph, v: &Output) -> Output {
    match v.is_ref() {
        true => v.identity().unwrap(),
        false => g
            .op("ReadVariableOp")
            .input(v)
            .attr("dtype", DType::F32)
            .output()
            .unwrap(),
    }
}

fn value(run: &Interpreter, v: &Output) -> Tensor {
    let handle = match v.is_ref() {
        true => return run.run(std::slice::from_ref(v), &[], &[]).unwrap().remove(0),
        false => run.run(std::slice::from_ref(v), &[], &[]).unwrap().remove(0),
    };
    let v = handle.as_resources().unwrap()[0].get::<Variable>().unwrap();
    v.actor().try_with(|s| s.value.clone()).ok().flatten().unwrap()
}

fn apply(g: &Graph, op: &str, case: &Case, vars: &[Output], grad: &Tensor) -> Operation {
    let def = registry().get(op).unwrap();
    let mut scalars = case.scalars.iter();
    let mut b = g.op(op);
    for (i, arg) in def.inputs().iter().enumerate() {
        let x = match arg.name.as_str() {
            _ if i < vars.len() => vars[i].clone(),
            "grad" | "delta" => g.constant(grad.clone()).unwrap(),
            "indices" => g.constant(Tensor::from(INDICES)).unwrap(),
            "global_step" => g.constant(*scalars.next().unwrap() as i64).unwrap(),
            _ => g.scalar(grad.dtype(), *scalars.next().unwrap()).unwrap(),
        };
        b = b.input(&x);
    }
    assert!(scalars.next().is_none(), "{op}");
    for (name, on) in case.flags {
        b = b.attr(name, *on);
    }
    b.finish().unwrap()
}

fn check(case: &Case, is_ref: bool, dtype: DType, tolerance: f64) -> Result<()> {
    let op = match is_ref {
        true => case.op.to_owned(),
        false => format!("Resource{}", case.op),
    };
    if registry().find(&op).is_none() {
        let other = case.op.contains("KerasMomentum") || case.op.contains("Amsgrad");
        assert!(is_ref && other, "{op} is missing");
        return Ok(());
    }
    let g = Graph::new();
    let slot = |k: usize| {
        let factor = match k {
            1 if case.op.contains("Centered") => 0.3,
            1 => 0.5,
            2 => 1.3,
            _ => 0.8,
        };
        SLOT.map(|x| x * factor)
    };
    let starts = (0..case.want.len()).map(|k| tensor(dtype, &if k == 0 { VAR } else { slot(k) }));
    let (vars, inits): (Vec<_>, Vec<_>) = starts.map(|t| variable(&g, is_ref, &t)).unzip();
    let run = Interpreter::default();
    run.run(&[], &inits, &[])?;
    let grads: &[[f64; 6]] = if case.op.starts_with("Sparse") { &[ROWS] } else { &GRADS };
    for grad in grads {
        let step = apply(&g, &op, case, &vars, &tensor(dtype, grad));
        // What is read before the update must not change with it.
        let before = value(&run, &vars[0]);
        let copy = numbers(&before);
        let out = run.run(&step.outputs(), std::slice::from_ref(&step), &[])?;
        assert_eq!(numbers(&before), copy, "{op}");
        assert!(out.iter().all(|o| *o == value(&run, &vars[0])), "{op}");
    }
    for (k, (v, want)) in vars.iter().zip(case.want).enumerate() {
        let got = numbers(&value(&run, v));
        for (a, b) in got.iter().zip(*want) {
            if !((a - b).abs() <= tolerance * b.abs().max(0.3)) {
                return Err(Error::internal(format!(
                    "{op} {dtype} {:?} tensor {k}: got {got:?}, TensorFlow has {want:?}",
                    case.flags
                )));
            }
        }
    }
    Ok(())
}

#[test]
fn every_rule_agrees_with_tensorflow() {
    for case in CASES {
        for is_ref in [true, false] {
            check(case, is_ref, DType::F64, 1e-12).unwrap();
            check(case, is_ref, DType::F32, 2e-6).unwrap();
            let reals = ["Proximal", "AdagradDA"];
            if !reals.iter().any(|r| case.op.contains(r)) {
                check(case, is_ref, DType::F16, 1e-2).unwrap();
                check(case, is_ref, DType::BF16, 8e-2).unwrap();
            }
        }
    }
}

#[test]
fn large_updates_are_made_in_place_or_beside_a_shared_value() {
    for n in [1, 63, 64, 65, 1000, 1024, 1025, 5000] {
        let g = Graph::new();
        let start: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let (v, init) = variable(&g, true, &Tensor::from(start.clone()));
        let (lr, grad) = (g.constant(0.5f32).unwrap(), g.constant(vec![2f32; n]).unwrap());
        let op = g.op("ApplyGradientDescent").input(&v).input(&lr).input(&grad);
        let op = op.finish().unwrap();
        let run = Interpreter::default();
        run.run(&[], &[init], &[]).unwrap();
        for step in 1..4 {
            let held = (step == 2).then(|| value(&run, &v));
            run.run(&[], std::slice::from_ref(&op), &[]).unwrap();
            let want: Vec<f32> = start.iter().map(|x| x - step as f32).collect();
            assert_eq!(value(&run, &v).to_vec::<f32>().unwrap(), want);
            if let Some(h) = held {
                assert_eq!(h.as_slice::<f32>().unwrap()[0], -1.0);
            }
        }
    }
}

#[test]
fn mistakes_are_named() {
    let g = Graph::new();
    let (v, init) = variable(&g, true, &Tensor::from([1f32, 2., 3.]));
    let shape = PartialShape::UNKNOWN;
    let grad = g.placeholder("grad", DType::F32, shape).unwrap();
    let lr = g.placeholder("lr", DType::F32, PartialShape::UNKNOWN).unwrap();
    let op = g.op("ApplyGradientDescent").input(&v).input(&lr).input(&grad);
    let op = op.finish().unwrap();
    let run = Interpreter::default();
    let step = |lr_value: Tensor, grad_value: Tensor| {
        run.run(
            &[],
            std::slice::from_ref(&op),
            &[(lr.clone(), lr_value), (grad.clone(), grad_value)],
        )
    };
    let three = Tensor::from([1f32, 1., 1.]);
    let e = step(Tensor::from(1f32), three.clone()).unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition);
    assert!(e.message().contains("uninitialized value v0"), "{e}");
    run.run(&[], &[init], &[]).unwrap();
    let e = step(Tensor::from(1f32), Tensor::from([1f32, 1.])).unwrap_err();
    assert!(e.message().contains("[3]") && e.message().contains("[2]"), "{e}");
    let e = step(Tensor::from([1f32]), three.clone()).unwrap_err();
    assert_eq!(e.message(), "lr must be a scalar, got shape [1]".replace("lr", "alpha"));
    step(Tensor::from(1f32), three).unwrap();
    assert_eq!(value(&run, &v), Tensor::from([0f32, 1., 2.]));
    assert!(read(&g, &v).shape() == PartialShape::from([3]));
}

#[test]
fn a_sparse_index_out_of_range_is_named_and_nothing_moves() {
    let g = Graph::new();
    let (v, init) = variable(&g, false, &Tensor::from([[1f32, 2.], [3., 4.]]));
    let (a, init_a) = variable(&g, false, &Tensor::from([[1f32, 1.], [1., 1.]]));
    let lr = g.constant(0.5f32).unwrap();
    let grad = g.constant([[1f32, 1.], [1., 1.]]).unwrap();
    let indices = g.constant([1i64, 2]).unwrap();
    let op = g.op("ResourceSparseApplyAdagrad").input(&v).input(&a).input(&lr);
    let op = op.input(&grad).input(&indices).finish().unwrap();
    let run = Interpreter::default();
    run.run(&[], &[init, init_a], &[]).unwrap();
    let e = run.run(&[], &[op], &[]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("indices[1] = 2 is not in [0, 2)"), "{e}");
    assert_eq!(value(&run, &v), Tensor::from([[1f32, 2.], [3., 4.]]));
}
