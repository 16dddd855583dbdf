//! Conditionals and loops as programs write them, against a direct interpreter.
#![allow(clippy::unwrap_used)] // helpers of tests

mod flow;

use actorflow::flow::{
    ElementOptions, TensorArray, TensorArrayOptions, WhileOptions, case, cond, cond_run, foldl, foldr, map_fn, scan,
    switch_case, while_loop,
};
use actorflow::{Code, DType, Graph, GraphVariables, Output, PartialShape, Tensor, gradients};
use flow::{run, session};

fn scalar(g: &Graph, name: &str, dtype: DType) -> Output {
    g.placeholder(name, dtype, PartialShape::scalar()).unwrap()
}

fn one(g: &Graph, feeds: &[(&Output, Tensor)], y: &Output) -> Tensor {
    run(g, feeds, &[y]).unwrap().remove(0)
}

fn grad(y: &Output, x: &Output) -> Output {
    let g = gradients(std::slice::from_ref(y), std::slice::from_ref(x)).unwrap();
    g[0].as_ref().unwrap().to_dense().unwrap()
}

#[test]
fn branches_capture_what_they_use() {
    let g = Graph::new();
    let (p, x) = (scalar(&g, "p", DType::Bool), scalar(&g, "x", DType::F32));
    let k = g.constant(10.0f32).unwrap();
    let y = cond(
        &p,
        || Ok(vec![(&x * &k)?, x.clone()]),
        || Ok(vec![(&x + 1.0)?, k.clone()]),
    )
    .unwrap();
    for (side, want) in [(true, [30.0f32, 3.0]), (false, [4.0, 10.0])] {
        let feeds = [(&p, Tensor::from(side)), (&x, 3.0f32.into())];
        let got = run(&g, &feeds, &[&y[0], &y[1]]).unwrap();
        assert_eq!(got, want.map(Tensor::from));
    }
    let e = cond(&p, || Ok(vec![x.clone()]), || Ok(vec![])).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(cond(&x, || Ok(vec![]), || Ok(vec![])).is_err());
}

#[test]
fn effects_happen_on_the_side_that_is_taken_only() {
    let g = Graph::new();
    let p = scalar(&g, "p", DType::Bool);
    let v = g.variable_builder("v").reference().build(0.0f32).unwrap();
    let add = |x: f32| -> actorflow::Result<_> {
        let by = g.constant(x)?;
        Ok(vec![g.op("AssignAdd").input(v.handle()).input(&by).finish()?])
    };
    let done = cond_run(&p, || add(1.0), || add(100.0)).unwrap();
    let s = session(&g, 2);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    for side in [true, false, true] {
        s.runner().feed(&p, side).target(&done).run().unwrap();
    }
    assert_eq!(s.run(&[], &[v.value()]).unwrap()[0], Tensor::from(102.0f32));
}

#[test]
fn one_of_many_branches_is_taken() {
    let g = Graph::new();
    let (i, x) = (scalar(&g, "i", DType::I32), scalar(&g, "x", DType::F32));
    let times = |k: f32| -> Box<dyn FnOnce() -> actorflow::Result<Vec<Output>> + '_> {
        let x = &x;
        Box::new(move || Ok(vec![(x * k)?]))
    };
    let y = switch_case(&i, vec![times(1.0), times(2.0), times(3.0)])
        .unwrap()
        .remove(0);
    let dy = grad(&y, &x);
    for (k, want) in [(0, 1.0f32), (1, 2.0), (2, 3.0), (5, 3.0), (-1, 3.0)] {
        let feeds = [(&i, Tensor::from(k)), (&x, 5.0f32.into())];
        assert_eq!(one(&g, &feeds, &y), Tensor::from(5.0 * want));
        assert_eq!(one(&g, &feeds, &dy), Tensor::from(want));
    }
    let (small, big) = (
        (x.less(&x.scalar_like(1.0).unwrap())).unwrap(),
        x.greater(&x.scalar_like(9.0).unwrap()).unwrap(),
    );
    let z = case(vec![(small, times(10.0)), (big, times(100.0))], times(-1.0))
        .unwrap()
        .remove(0);
    for (at, want) in [(0.5f32, 5.0f32), (10.0, 1000.0), (5.0, -5.0)] {
        assert_eq!(one(&g, &[(&x, at.into())], &z), Tensor::from(want));
    }
}

#[test]
fn loops_capture_count_and_stop() {
    let g = Graph::new();
    let (n, step) = (scalar(&g, "n", DType::I32), scalar(&g, "step", DType::F32));
    let (zero, sum) = (g.constant(0i32).unwrap(), g.constant(0.0f32).unwrap());
    let most = scalar(&g, "most", DType::I32);
    let options = WhileOptions {
        maximum_iterations: Some(most.clone()),
        ..WhileOptions::default()
    };
    let body = |v: &[Output]| Ok(vec![(&v[0] + 1)?, (&v[1] + &step)?]);
    let out = while_loop(&[zero, sum], |v| v[0].less(&n), body, options).unwrap();
    for (k, m, want) in [(0, 9, 0.0f32), (4, 9, 2.0), (4, 3, 1.5), (4, 0, 0.0)] {
        let feeds = [(&n, Tensor::from(k)), (&step, 0.5f32.into()), (&most, m.into())];
        assert_eq!(one(&g, &feeds, &out[1]), Tensor::from(want));
    }
}

#[test]
fn a_variable_may_change_its_shape_only_if_its_invariant_allows() {
    let g = Graph::new();
    let (zero, x) = (
        g.constant(0i32).unwrap(),
        g.constant(Tensor::vector(&[1.0f32])).unwrap(),
    );
    let grow = |v: &[Output]| Ok(vec![(&v[0] + 1)?, g.concat(&[v[1].clone(), v[1].clone()], 0)?]);
    let limit = |v: &[Output]| v[0].less(&v[0].scalar_like(3.0)?);
    let start = [zero, x];
    let e = while_loop(&start, limit, grow, WhileOptions::default()).unwrap_err();
    assert!(e.message().contains("shape_invariants"), "{e}");
    let options = WhileOptions {
        shape_invariants: vec![PartialShape::scalar(), PartialShape::vector(None)],
        ..WhileOptions::default()
    };
    let out = while_loop(&start, limit, grow, options).unwrap();
    assert_eq!(out[1].shape(), PartialShape::vector(None));
    assert_eq!(one(&g, &[], &out[1]).len(), 8);
    let wrong = |v: &[Output]| Ok(vec![v[1].clone(), v[0].clone()]);
    assert!(while_loop(&start, limit, wrong, WhileOptions::default()).is_err());
}

#[test]
fn rows_are_mapped_scanned_and_folded_and_differentiated() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, [3, 2]).unwrap();
    let k = scalar(&g, "k", DType::F32);
    let zero = g.constant(Tensor::vector(&[0.0f32, 0.0])).unwrap();
    let at = Tensor::from_slice([3, 2], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let feeds = [(&x, at), (&k, 2.0f32.into())];
    let of = |v: &[f32]| Tensor::from_slice([v.len() / 2, 2], v).unwrap();
    let o = ElementOptions::default;
    let xs = std::slice::from_ref(&x);
    let acc = |a: &[Output], r: &[Output]| Ok(vec![((&a[0] * &k)? + &r[0])?]);
    let start = std::slice::from_ref(&zero);

    let m = map_fn(xs, &[DType::F32], |r| Ok(vec![(r[0].square()? * &k)?]), o())
        .unwrap()
        .remove(0);
    assert_eq!(m.shape(), PartialShape::from([3, 2]));
    assert_eq!(one(&g, &feeds, &m), of(&[2.0, 8.0, 18.0, 32.0, 50.0, 72.0]));
    assert_eq!(one(&g, &feeds, &grad(&m, &x)), of(&[4.0, 8.0, 12.0, 16.0, 20.0, 24.0]));
    assert_eq!(one(&g, &feeds, &grad(&m, &k)), Tensor::from(91.0f32));

    let s = scan(xs, start, acc, o()).unwrap().remove(0);
    assert_eq!(one(&g, &feeds, &s), of(&[1.0, 2.0, 5.0, 8.0, 15.0, 22.0]));
    assert_eq!(one(&g, &feeds, &grad(&s, &x)), of(&[7.0, 7.0, 3.0, 3.0, 1.0, 1.0]));
    let back = ElementOptions { reverse: true, ..o() };
    let r = scan(xs, start, acc, back).unwrap().remove(0);
    assert_eq!(one(&g, &feeds, &r), of(&[27.0, 34.0, 13.0, 16.0, 5.0, 6.0]));

    let l = foldl(xs, start, acc, o()).unwrap().remove(0);
    assert_eq!(one(&g, &feeds, &l), Tensor::vector(&[15.0f32, 22.0]));
    let r = foldr(xs, start, acc, o()).unwrap().remove(0);
    assert_eq!(one(&g, &feeds, &r), Tensor::vector(&[27.0f32, 34.0]));
    assert_eq!(one(&g, &feeds, &grad(&r, &x)), of(&[1.0, 1.0, 2.0, 2.0, 4.0, 4.0]));
}

#[test]
fn an_array_grows_in_a_loop() {
    let g = Graph::new();
    let n = scalar(&g, "n", DType::I32);
    let zero = g.constant(0i32).unwrap();
    let options = TensorArrayOptions {
        dynamic_size: true,
        ..TensorArrayOptions::default()
    };
    let array = TensorArray::new(&zero, DType::I32, options).unwrap();
    let body = |v: &[Output]| {
        let square = v[0].times(&v[0])?;
        Ok(vec![
            (&v[0] + 1)?,
            array.with_flow(&v[1]).write(&v[0], &square)?.flow().clone(),
        ])
    };
    let start = [zero, array.flow().clone()];
    let out = while_loop(&start, |v| v[0].less(&n), body, WhileOptions::default()).unwrap();
    let all = array.with_flow(&out[1]).stack().unwrap();
    assert_eq!(one(&g, &[(&n, 4.into())], &all), Tensor::vector(&[0i32, 1, 4, 9]));
}

#[test]
fn gradients_can_be_taken_inside_of_a_loop() {
    // Newton's method for the square root, with the derivative by the engine.
    let g = Graph::new();
    let a = scalar(&g, "a", DType::F32);
    let (zero, start) = (g.constant(0i32).unwrap(), g.constant(1.0f32).unwrap());
    let body = |v: &[Output]| {
        let f = (v[1].square()? - &a)?;
        let df = gradients(std::slice::from_ref(&f), &v[1..2])?[0].clone();
        let df = df.expect("f depends on x").to_dense()?;
        Ok(vec![(&v[0] + 1)?, (&v[1] - &f.divided_by(&df)?)?])
    };
    let out = while_loop(
        &[zero, start],
        |v| v[0].less(&v[0].scalar_like(20.0)?),
        body,
        WhileOptions::default(),
    )
    .unwrap();
    let got = one(&g, &[(&a, 2.0f32.into())], &out[1]).to_scalar::<f32>().unwrap();
    assert!((got - 2f32.sqrt()).abs() < 1e-6, "{got}");
}
