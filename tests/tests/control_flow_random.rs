//! Random programs of conditionals and loops, nested in each other: values and gradients against an interpreter that
//! computes both directly (with dual numbers).

mod flow;

use actorflow::flow::{WhileOptions, cond, while_loop};
use actorflow::{DType, Graph, Output, PartialShape, Result, Tensor, gradients};
use flow::run;
use proptest::prelude::*;

const VARS: usize = 3;

#[derive(Debug, Clone)]
enum Statement {
    /// `v[to] = a op b`
    Set { to: usize, op: u8, a: usize, b: usize },
    /// `if v[a] < v[b] { then } else { otherwise }`
    If {
        a: usize,
        b: usize,
        then: Vec<Statement>,
        otherwise: Vec<Statement>,
    },
    /// At most `times` times, as long as `v[a] < v[b] + 1`.
    While {
        times: i32,
        a: usize,
        b: usize,
        parallel: usize,
        body: Vec<Statement>,
    },
}

fn block(depth: u32) -> BoxedStrategy<Vec<Statement>> {
    prop::collection::vec(statement(depth), 1..4).boxed()
}

fn statement(depth: u32) -> BoxedStrategy<Statement> {
    let v = 0..VARS;
    let set = (v.clone(), 0..3u8, v.clone(), v.clone()).prop_map(|(to, op, a, b)| Statement::Set { to, op, a, b });
    if depth == 0 {
        return set.boxed();
    }
    let choice = (v.clone(), v.clone(), block(depth - 1), block(depth - 1))
        .prop_map(|(a, b, then, otherwise)| Statement::If { a, b, then, otherwise });
    let repeat = (0..4i32, v.clone(), v, 1..4usize, block(depth - 1)).prop_map(|(times, a, b, parallel, body)| {
        Statement::While {
            times,
            a,
            b,
            parallel,
            body,
        }
    });
    prop_oneof![3 => set, 2 => choice, 2 => repeat].boxed()
}

/// A value and its derivative.
type Dual = (f64, f64);

fn interpret(program: &[Statement], v: &mut [Dual; VARS]) {
    for s in program {
        match s {
            Statement::Set { to, op, a, b } => {
                let (x, y) = (v[*a], v[*b]);
                v[*to] = match op {
                    0 => (x.0 + y.0, x.1 + y.1),
                    1 => (x.0 - y.0, x.1 - y.1),
                    _ => ((x.0 * y.0) * 0.25, (x.1 * y.0 + x.0 * y.1) * 0.25),
                };
            }
            Statement::If { a, b, then, otherwise } => {
                let side = if v[*a].0 < v[*b].0 { then } else { otherwise };
                interpret(side, v);
            }
            Statement::While { times, a, b, body, .. } => {
                let mut i = 0;
                while i < *times && v[*a].0 < v[*b].0 + 1.0 {
                    interpret(body, v);
                    i += 1;
                }
            }
        }
    }
}

/// The variables that a program sets.
fn sets(program: &[Statement], found: &mut Vec<usize>) {
    for s in program {
        match s {
            Statement::Set { to, .. } => {
                if !found.contains(to) {
                    found.push(*to);
                }
            }
            Statement::If { then, otherwise, .. } => {
                sets(then, found);
                sets(otherwise, found);
            }
            Statement::While { body, .. } => sets(body, found),
        }
    }
}

fn build(program: &[Statement], v: &mut [Output]) -> Result<()> {
    for s in program {
        match s {
            Statement::Set { to, op, a, b } => {
                v[*to] = match op {
                    0 => v[*a].plus(&v[*b])?,
                    1 => v[*a].minus(&v[*b])?,
                    _ => (v[*a].times(&v[*b])? * 0.25)?,
                };
            }
            Statement::If { a, b, then, otherwise } => {
                let mut changed = Vec::new();
                sets(then, &mut changed);
                sets(otherwise, &mut changed);
                let side = |block: &[Statement]| -> Result<Vec<Output>> {
                    let mut w = v.to_vec();
                    build(block, &mut w)?;
                    Ok(changed.iter().map(|k| w[*k].clone()).collect())
                };
                let out = cond(&v[*a].less(&v[*b])?, || side(then), || side(otherwise))?;
                for (k, x) in changed.iter().zip(out) {
                    v[*k] = x;
                }
            }
            Statement::While {
                times,
                a,
                b,
                parallel,
                body,
            } => {
                let mut changed = Vec::new();
                sets(body, &mut changed);
                let with = |state: &[Output]| {
                    let mut w = v.to_vec();
                    for (k, x) in changed.iter().zip(&state[1..]) {
                        w[*k] = x.clone();
                    }
                    w
                };
                let mut start = vec![v[0].graph().constant(0i32)?];
                start.extend(changed.iter().map(|k| v[*k].clone()));
                let out = while_loop(
                    &start,
                    |s| {
                        let w = with(s);
                        let counted = s[0].less(&s[0].scalar_like(f64::from(*times))?)?;
                        counted.logical_and(&w[*a].less(&(&w[*b] + 1.0)?)?)
                    },
                    |s| {
                        let mut w = with(s);
                        build(body, &mut w)?;
                        let mut next = vec![(&s[0] + 1)?];
                        next.extend(changed.iter().map(|k| w[*k].clone()));
                        Ok(next)
                    },
                    WhileOptions {
                        parallel_iterations: *parallel,
                        ..WhileOptions::default()
                    },
                )?;
                for (k, x) in changed.iter().zip(&out[1..]) {
                    v[*k] = x.clone();
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn programs_and_their_gradients_agree_with_the_interpreter(
        program in block(3),
        x in -2.0..2.0f64,
        others in prop::array::uniform2(-2.0..2.0f64),
    ) {
        let g = Graph::new();
        let input = g.placeholder("x", DType::F64, PartialShape::scalar()).unwrap();
        let mut v = vec![input.clone(), g.constant(others[0]).unwrap(), g.constant(others[1]).unwrap()];
        build(&program, &mut v).unwrap();
        let y = g.add_n(&[v[0].identity().unwrap(), v[1].identity().unwrap(), v[2].identity().unwrap()]).unwrap();
        let dy = gradients(std::slice::from_ref(&y), std::slice::from_ref(&input)).unwrap().remove(0);
        let mut want: [Dual; VARS] = [(x, 1.0), (others[0], 0.0), (others[1], 0.0)];
        interpret(&program, &mut want);
        prop_assume!(want.iter().all(|w| w.0.abs() < 1e6 && w.1.abs() < 1e6));
        let feeds = [(&input, Tensor::from(x))];
        let got = run(&g, &feeds, &[&v[0], &v[1], &v[2]]).unwrap();
        for (t, w) in got.iter().zip(&want) {
            prop_assert_eq!(t.to_scalar::<f64>().unwrap(), w.0);
        }
        let dwant: f64 = want.iter().map(|w| w.1).sum();
        let dgot = match dy {
            Some(d) => run(&g, &feeds, &[&d.to_dense().unwrap()]).unwrap()[0].to_scalar::<f64>().unwrap(),
            None => 0.0,
        };
        prop_assert!((dgot - dwant).abs() <= 1e-9 * dwant.abs().max(1.0), "gradient {} and {}", dgot, dwant);
    }
}
