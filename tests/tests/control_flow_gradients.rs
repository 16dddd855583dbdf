//! Gradients of conditionals and loops, against the same computation without them.
#![allow(clippy::unwrap_used)] // helpers of tests

mod flow;

use actorflow::flow::{WhileOptions, while_loop};
use actorflow::{Code, DType, Graph, Output, PartialShape, Session, SessionOptions, Tensor, gradients};
use flow::{enter, int_pinned, merge, pinned, raw_while, run, switch};

fn scalar(g: &Graph, name: &str, dtype: DType) -> Output {
    g.placeholder(name, dtype, PartialShape::scalar()).unwrap()
}

fn grad(y: &Output, x: &Output) -> Output {
    let g = gradients(std::slice::from_ref(y), std::slice::from_ref(x)).unwrap();
    g[0].as_ref().unwrap().to_dense().unwrap()
}

fn f32_of(t: &Tensor) -> f32 {
    t.to_scalar::<f32>().unwrap()
}

#[track_caller]
fn close(a: f32, b: f32) {
    assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{a} and {b}");
}

fn next(i: &Output) -> Output {
    i.plus(&int_pinned(i, 1)).unwrap()
}

/// y = x; n times: y = sin(y) * x.
fn sines(g: &Graph, parallel: i64) -> (Output, Output, Output) {
    let (x, n) = (scalar(g, "x", DType::F32), scalar(g, "n", DType::I32));
    let zero = g.constant(0i32).unwrap();
    let limit = enter(&n, "loop", true, parallel);
    let inside = enter(&x, "loop", true, parallel);
    let out = raw_while(
        "loop",
        parallel,
        &[zero, x.clone()],
        |v| v[0].less(&limit).unwrap(),
        |v| vec![next(&v[0]), v[1].sin().unwrap().times(&inside).unwrap()],
    );
    (x, n, out[1].clone())
}

#[test]
fn the_gradient_of_a_loop_is_that_of_the_unrolled_graph() {
    for parallel in [1, 10] {
        let g = Graph::new();
        let (x, n, y) = sines(&g, parallel);
        let dx = grad(&y, &x);
        for k in [0usize, 1, 2, 5, 40] {
            let mut unrolled = x.clone();
            for _ in 0..k {
                unrolled = unrolled.sin().unwrap().times(&x).unwrap();
            }
            let want = grad(&unrolled, &x);
            let feeds = [(&x, 0.9f32.into()), (&n, (k as i32).into())];
            let got = run(&g, &feeds, &[&y, &dx]).unwrap();
            let want = run(&g, &feeds, &[&unrolled, &want]).unwrap();
            close(f32_of(&got[0]), f32_of(&want[0]));
            close(f32_of(&got[1]), f32_of(&want[1]));
        }
    }
}

#[test]
fn the_number_of_iterations_may_depend_on_the_data() {
    let g = Graph::new();
    let x = scalar(&g, "x", DType::F32);
    // Doubles until it is above 100.
    let out = raw_while(
        "loop",
        10,
        std::slice::from_ref(&x),
        |v| v[0].less(&pinned(&v[0], 100.0)).unwrap(),
        |v| vec![v[0].times(&pinned(&v[0], 2.0)).unwrap()],
    );
    let dx = grad(&out[0], &x);
    for (at, want) in [(200.0f32, 1.0f32), (60.0, 2.0), (7.0, 16.0), (1.0, 128.0)] {
        close(f32_of(&run(&g, &[(&x, at.into())], &[&dx]).unwrap()[0]), want);
    }
}

#[test]
fn gradients_pass_through_nested_loops() {
    // For i in 0..n: for j in 0..i: y = y * x + j.
    let g = Graph::new();
    let (x, n) = (scalar(&g, "x", DType::F32), scalar(&g, "n", DType::I32));
    let (zero, one) = (g.constant(0i32).unwrap(), g.constant(1.0f32).unwrap());
    let limit = enter(&n, "outer", true, 10);
    let x1 = enter(&x, "outer", true, 10);
    let out = raw_while(
        "outer",
        10,
        &[zero, one],
        |v| v[0].less(&limit).unwrap(),
        |v| {
            let i = enter(&v[0], "inner", true, 10);
            let x2 = enter(&x1, "inner", true, 10);
            let inner = raw_while(
                "inner",
                10,
                &[int_pinned(&v[0], 0), v[1].clone()],
                |w| w[0].less(&i).unwrap(),
                |w| {
                    let j = w[0].cast(DType::F32).unwrap();
                    vec![next(&w[0]), w[1].times(&x2).unwrap().plus(&j).unwrap()]
                },
            );
            vec![next(&v[0]), inner[1].clone()]
        },
    );
    let dx = grad(&out[1], &x);
    let at = 1.1f32;
    for k in [0, 1, 2, 6] {
        let (mut y, mut dy) = (1.0f32, 0.0f32);
        for i in 0..k {
            for j in 0..i {
                dy = dy * at + y;
                y = y * at + j as f32;
            }
        }
        let got = run(&g, &[(&x, at.into()), (&n, k.into())], &[&out[1], &dx]).unwrap();
        close(f32_of(&got[0]), y);
        close(f32_of(&got[1]), dy);
    }
}

#[test]
fn gradients_pass_through_conditionals_in_loops() {
    // Six times: y = if y > 2 { y - x } else { y * x + 0.3 }.
    let g = Graph::new();
    let x = scalar(&g, "x", DType::F32);
    let zero = g.constant(0i32).unwrap();
    let inside = enter(&x, "loop", true, 10);
    let out = raw_while(
        "loop",
        10,
        &[zero, x.clone()],
        |v| v[0].less(&int_pinned(&v[0], 6)).unwrap(),
        |v| {
            let p = v[1].greater(&pinned(&v[1], 2.0)).unwrap();
            let (y_no, y_yes) = switch(&v[1], &p);
            let (x_no, x_yes) = switch(&inside, &p);
            let no = y_no.times(&x_no).unwrap();
            let no = no.plus(&pinned(&no, 0.3)).unwrap();
            vec![next(&v[0]), merge(&no, &y_yes.minus(&x_yes).unwrap())]
        },
    );
    let dx = grad(&out[1], &x);
    for at in [1.3f32, 0.2, 2.5] {
        let (mut y, mut dy) = (at, 1.0f32);
        for _ in 0..6 {
            (y, dy) = if y > 2.0 {
                (y - at, dy - 1.0)
            } else {
                (y * at + 0.3, dy * at + y)
            };
        }
        let got = run(&g, &[(&x, at.into())], &[&out[1], &dx]).unwrap();
        close(f32_of(&got[0]), y);
        close(f32_of(&got[1]), dy);
    }
}

#[test]
fn gradients_pass_through_a_loop_on_one_side_of_a_conditional() {
    let g = Graph::new();
    let (x, p) = (scalar(&g, "x", DType::F32), scalar(&g, "p", DType::Bool));
    let (no, yes) = switch(&x, &p);
    let inside = enter(&yes, "loop", true, 10);
    let out = raw_while(
        "loop",
        10,
        &[int_pinned(&yes.identity().unwrap(), 0), yes.clone()],
        |v| v[0].less(&int_pinned(&v[0], 3)).unwrap(),
        |v| vec![next(&v[0]), v[1].times(&inside).unwrap()],
    );
    let y = merge(&no.square().unwrap(), &out[1]);
    let dx = grad(&y, &x);
    for (side, at, want) in [(false, 3.0f32, 6.0f32), (true, 2.0, 32.0)] {
        let feeds = [(&x, at.into()), (&p, side.into())];
        close(f32_of(&run(&g, &feeds, &[&dx]).unwrap()[0]), want);
    }
}

#[test]
fn conditionals_can_be_differentiated_twice() {
    let g = Graph::new();
    let (x, p) = (scalar(&g, "x", DType::F32), scalar(&g, "p", DType::Bool));
    let (no, yes) = switch(&x, &p);
    let y = merge(&no.square().unwrap(), &yes.square().unwrap().times(&yes).unwrap());
    let d2 = grad(&grad(&y, &x), &x);
    for (side, want) in [(false, 2.0f32), (true, 12.0)] {
        let feeds = [(&x, 2.0f32.into()), (&p, side.into())];
        close(f32_of(&run(&g, &feeds, &[&d2]).unwrap()[0]), want);
    }
}

#[test]
fn a_second_derivative_through_the_stacks_of_a_loop_is_refused_not_wrong() {
    let g = Graph::new();
    let (x, _, y) = sines(&g, 10);
    let dx = grad(&y, &x);
    let e = gradients(&[dx], &[x]).unwrap_err();
    assert_eq!(e.code(), Code::Unimplemented);
    assert!(e.message().contains("StackPop"), "{e}");
}

#[test]
fn shapes_that_are_known_at_run_time_only_are_kept_for_the_gradient() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, PartialShape::UNKNOWN).unwrap();
    let zero = g.constant(0i32).unwrap();
    let one = g.constant(1.0f32).unwrap();
    let b = enter(&one, "loop", true, 10);
    let out = raw_while(
        "loop",
        10,
        &[zero, x.clone()],
        |v| v[0].less(&int_pinned(&v[0], 3)).unwrap(),
        |v| {
            // Broadcast of a scalar: its gradient sums over a shape of which nothing is known.
            let y = v[1].square().unwrap().plus(&b).unwrap();
            vec![next(&v[0]), y.times(&b).unwrap()]
        },
    );
    let loss = out[1].sum(&[], false).unwrap();
    let grads = gradients(std::slice::from_ref(&loss), &[x.clone(), one.clone()]).unwrap();
    let (dx, done) = (grads[0].as_ref().unwrap(), grads[1].as_ref().unwrap());
    let at = Tensor::from_slice([2, 2], &[0.1f32, 0.2, -0.3, 0.4]).unwrap();
    let got = run(
        &g,
        &[(&x, at.clone())],
        &[&dx.to_dense().unwrap(), &done.to_dense().unwrap()],
    )
    .unwrap();
    let mut total = 0.0f32;
    for (i, x0) in at.to_vec::<f32>().unwrap().into_iter().enumerate() {
        let (mut y, mut dy, mut db) = (x0, 1.0f32, 0.0f32);
        for _ in 0..3 {
            (y, dy, db) = (y * y + 1.0, 2.0 * y * dy, 2.0 * y * db + 1.0 + (y * y + 1.0));
        }
        close(got[0].to_vec::<f32>().unwrap()[i], dy);
        total += db;
    }
    close(f32_of(&got[1]), total);
}

#[test]
fn a_gradient_keeps_the_operands_that_change_and_nothing_else() {
    let (rows, times) = (1024, 1000);
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, [rows]).unwrap();
    let c = scalar(&g, "c", DType::F32);
    let n = scalar(&g, "n", DType::I32);
    let body = |v: &[Output]| Ok(vec![(&v[0] + 1)?, v[1].sin()?.times(&c)?]);
    let start = [g.constant(0i32).unwrap(), x.clone()];
    let out = while_loop(&start, |v| v[0].less(&n), body, WhileOptions::default()).unwrap();
    let dx = grad(&out[1], &x);
    let feed = Tensor::from_slice([rows], &vec![0.5f32; rows]).unwrap();
    let run = |bytes: usize| {
        let options = SessionOptions {
            memory_budget: bytes,
            ..SessionOptions::with_threads(1)
        };
        let s = Session::with_options(&g, options).unwrap();
        let r = s.runner().feed(&x, feed.clone()).feed(&c, 0.9f32).feed(&n, times);
        r.fetch(&dx).run()
    };
    // The sine's argument and the product's left side; the right side never changes and is kept once.
    let kept = 2 * rows * 4 * times as usize;
    run(kept + (256 << 10)).unwrap();
    let e = run(kept - (256 << 10)).unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
}
