//! Random loops over matrices, alone, nested and in conditionals: values and gradients equal those of the same
//! computation written out.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod flow;

use actorflow::flow::{ElementOptions, WhileOptions, cond, scan, while_loop};
use actorflow::{DType, Graph, Output, PartialShape, Result, Tensor, gradients};
use flow::run;
use proptest::prelude::*;

/// What is done to the state (two matrices) in an iteration; `c` is from outside.
#[derive(Debug, Clone, Copy)]
enum Act {
    Add,
    MatMul,
    Sine,
    Scale,
    Swap,
    Capture,
    /// A column of the second, broadcast along the first.
    Column,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    use Act::*;
    let one = prop::sample::select(vec![Add, MatMul, Sine, Scale, Swap, Capture, Column]);
    prop::collection::vec(one, 1..6)
}

fn apply(acts: &[Act], v: &[Output], c: &Output) -> Result<Vec<Output>> {
    let (mut a, mut b) = (v[0].clone(), v[1].clone());
    for act in acts {
        match act {
            Act::Add => a = a.plus(&b)?,
            Act::MatMul => a = (a.matmul(&b)? * 0.5)?,
            Act::Sine => a = a.sin()?,
            Act::Scale => b = (&b * 0.5)?,
            Act::Swap => (a, b) = (b, a),
            Act::Capture => b = b.times(c)?.tanh()?,
            Act::Column => a = a.minus(&b.mean(&[1], true)?)?,
        }
    }
    Ok(vec![a, b])
}

fn matrix(seed: f64) -> Tensor {
    let v: Vec<f64> = (0..4).map(|i| (seed + f64::from(i) * 1.7).sin()).collect();
    Tensor::from_slice([2, 2], &v).unwrap()
}

fn grads(ys: &[Output], xs: &[Output]) -> Vec<Output> {
    let g = gradients(ys, xs).unwrap();
    let dense = |(g, x): (Option<actorflow::Grad>, &Output)| match g {
        Some(g) => g.to_dense().unwrap(),
        None => x.zeros_like().unwrap(),
    };
    g.into_iter().zip(xs).map(dense).collect()
}

fn near(a: &Tensor, b: &Tensor) -> bool {
    let (a, b) = (a.to_vec::<f64>().unwrap(), b.to_vec::<f64>().unwrap());
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-9 * b.abs().max(1.0))
}

struct Setting {
    g: Graph,
    xs: Vec<Output>,
    n: Output,
    p: Output,
}

fn setting() -> Setting {
    let g = Graph::new();
    let one = |name: &str| g.placeholder(name, DType::F64, [2, 2]).unwrap();
    Setting {
        xs: vec![one("a"), one("b"), one("c")],
        n: g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap(),
        p: g.placeholder("p", DType::Bool, PartialShape::scalar()).unwrap(),
        g,
    }
}

fn repeat(
    n: &Output,
    parallel: usize,
    start: &[Output],
    body: impl Fn(&[Output]) -> Result<Vec<Output>>,
) -> Vec<Output> {
    let mut vars = vec![n.graph().constant(0i32).unwrap()];
    vars.extend_from_slice(start);
    let options = WhileOptions {
        parallel_iterations: parallel,
        ..WhileOptions::default()
    };
    let next = |v: &[Output]| {
        let mut next = vec![(&v[0] + 1)?];
        next.extend(body(&v[1..])?);
        Ok(next)
    };
    while_loop(&vars, |v| v[0].less(n), next, options).unwrap()[1..].to_vec()
}

impl Setting {
    /// Compares outputs and their gradients.
    fn same(&self, ys: &[Output], want: &[Output], times: i32, side: bool) {
        let mut left = ys.to_vec();
        let mut right = want.to_vec();
        left.extend(grads(ys, &self.xs));
        right.extend(grads(want, &self.xs));
        let mut feeds: Vec<(&Output, Tensor)> = self.xs.iter().zip([0.3, 1.1, 2.3].map(matrix)).collect();
        feeds.push((&self.n, times.into()));
        feeds.push((&self.p, side.into()));
        let got = run(&self.g, &feeds, &left.iter().collect::<Vec<_>>()).unwrap();
        let want = run(&self.g, &feeds, &right.iter().collect::<Vec<_>>()).unwrap();
        for (i, (a, b)) in got.iter().zip(&want).enumerate() {
            assert!(near(a, b), "output {i}: {a:?} instead of {b:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_loop_equals_its_iterations_written_out(acts in acts(), times in 0..7i32, parallel in 1..5usize) {
        let s = setting();
        let out = repeat(&s.n, parallel, &s.xs[..2], |v| apply(&acts, v, &s.xs[2]));
        let mut v = s.xs[..2].to_vec();
        for _ in 0..times {
            v = apply(&acts, &v, &s.xs[2]).unwrap();
        }
        s.same(&out, &v, times, false);
    }

    #[test]
    fn a_loop_in_a_loop_equals_its_iterations_written_out(
        outer in acts(), inner in acts(), times in 0..4i32, parallel in 1..4usize,
    ) {
        let s = setting();
        let body = |v: &[Output]| {
            let v = apply(&outer, v, &s.xs[2])?;
            // The inner one captures a value of the outer iteration.
            let captured = v[1].clone();
            Ok(repeat(&s.n, parallel, &v, |w| apply(&inner, w, &captured)))
        };
        let out = repeat(&s.n, parallel, &s.xs[..2], body);
        let mut v = s.xs[..2].to_vec();
        for _ in 0..times {
            v = apply(&outer, &v, &s.xs[2]).unwrap();
            let captured = v[1].clone();
            for _ in 0..times {
                v = apply(&inner, &v, &captured).unwrap();
            }
        }
        s.same(&out, &v, times, false);
    }

    #[test]
    fn a_loop_in_a_conditional_in_a_loop_equals_its_iterations_written_out(
        looped in acts(), plain in acts(), times in 0..4i32, side in any::<bool>(), parallel in 1..4usize,
    ) {
        let s = setting();
        let c = &s.xs[2];
        let body = |v: &[Output]| cond(
            &s.p,
            || Ok(repeat(&s.n, parallel, v, |w| apply(&looped, w, c))),
            || apply(&plain, v, c),
        );
        let out = repeat(&s.n, parallel, &s.xs[..2], body);
        let mut v = s.xs[..2].to_vec();
        for _ in 0..times {
            for _ in 0..if side { times } else { 1 } {
                v = apply(if side { &looped } else { &plain }, &v, c).unwrap();
            }
        }
        s.same(&out, &v, times, side);
    }

    #[test]
    fn second_derivatives_through_conditionals_equal_those_of_the_side_that_is_taken(
        yes in acts(), no in acts(), inner in acts(), side in any::<bool>(),
    ) {
        let s = setting();
        let c = &s.xs[2];
        // A conditional in each side of a conditional.
        let nested = |acts: &[Act]| cond(
            &s.p,
            || apply(&inner, &apply(acts, &s.xs[..2], c)?, c),
            || apply(acts, &apply(&inner, &s.xs[..2], c)?, c),
        );
        let out = cond(&s.p, || nested(&yes), || nested(&no)).unwrap();
        let plain = if side {
            apply(&inner, &apply(&yes, &s.xs[..2], c).unwrap(), c).unwrap()
        } else {
            apply(&no, &apply(&inner, &s.xs[..2], c).unwrap(), c).unwrap()
        };
        s.same(&grads(&out, &s.xs), &grads(&plain, &s.xs), 1, side);
    }

    #[test]
    fn a_scan_equals_its_steps_written_out(acts in acts(), reverse in any::<bool>()) {
        let s = setting();
        let rows = s.g.stack(&[s.xs[0].clone(), s.xs[2].clone(), s.xs[1].clone()], 0).unwrap();
        let options = ElementOptions { reverse, ..ElementOptions::default() };
        let out = scan(&[rows], &s.xs[..2], |v, row| apply(&acts, v, &row[0]), options).unwrap();
        let mut v = s.xs[..2].to_vec();
        let mut steps = vec![Vec::new(), Vec::new()];
        let mut order = vec![0, 2, 1];
        if reverse {
            order.reverse();
        }
        for i in order {
            v = apply(&acts, &v, &s.xs[i]).unwrap();
            for (all, x) in steps.iter_mut().zip(&v) {
                all.push(x.clone());
            }
        }
        let want: Vec<Output> = steps
            .into_iter()
            .map(|mut all| {
                if reverse {
                    all.reverse();
                }
                s.g.stack(&all, 0).unwrap()
            })
            .collect();
        s.same(&out, &want, 0, false);
    }
}
