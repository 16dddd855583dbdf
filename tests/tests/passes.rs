//! The passes change no result: random graphs give the same with all of them, with each alone and without any.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use actorflow::train::optimizer::GradientDescent;
use actorflow::{
    DType, Graph, GraphVariables, Operation, Optimizer, Output, PartialShape, Passes, Result, Session, SessionOptions,
    Tensor, gradients,
};
use proptest::prelude::*;

/// All passes, each alone, and none, which comes last.
fn variants() -> impl Iterator<Item = (&'static str, Passes)> {
    let each = Passes::EACH.iter().copied();
    [("all", Passes::ALL)]
        .into_iter()
        .chain(each)
        .chain([("none", Passes::NONE)])
}

fn session(g: &Graph, passes: Passes) -> Session {
    let options = SessionOptions {
        passes,
        ..SessionOptions::with_threads(1)
    };
    Session::with_options(g, options).unwrap()
}

/// Whether two results are the same up to a relative error; 0 asks for the same bits (any NaN is a NaN).
fn agree(a: &Tensor, b: &Tensor, tolerance: f64) -> bool {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return false;
    }
    let numbers = |t: &Tensor| -> Option<Vec<f64>> {
        match t.dtype() {
            DType::F32 => Some(t.to_vec::<f32>().ok()?.into_iter().map(f64::from).collect()),
            DType::F64 => t.to_vec().ok(),
            _ => None,
        }
    };
    match (numbers(a), numbers(b)) {
        (Some(x), Some(y)) => x.iter().zip(&y).all(|(x, y)| {
            let close = (x - y).abs() <= tolerance * x.abs().max(y.abs()).max(1.0);
            x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) || *x == *y || close && tolerance > 0.0
        }),
        _ => a == b,
    }
}

/// Fails unless all variants give the same values, or an error with the same code.
fn check(
    g: &Graph,
    feeds: &[(&Output, Tensor)],
    fetches: &[&Output],
    tolerance: f64,
) -> std::result::Result<(), TestCaseError> {
    let want = session(g, Passes::NONE).run(feeds, fetches);
    for (w, f) in want.iter().flatten().zip(fetches) {
        let inferred = f.shape();
        prop_assert!(
            inferred.accepts(w.shape()),
            "{} has shape {}, inferred was {inferred}",
            f.name(),
            w.shape()
        );
    }
    for (name, passes) in variants() {
        let got = session(g, passes).run(feeds, fetches);
        match (&want, &got) {
            (Ok(w), Ok(got)) => {
                for ((w, got), f) in w.iter().zip(got).zip(fetches) {
                    prop_assert!(agree(w, got, tolerance), "{name}: {} is {got:?}, not {w:?}", f.name());
                }
            }
            // A shape that is known needs nothing computed, not even what would fail.
            (Err(_), Ok(_)) if passes.constant_folding => {}
            (Err(w), Err(got)) => prop_assert_eq!(w.code(), got.code(), "{}: {} / {}", name, w, got),
            _ => prop_assert!(false, "{name}: {got:?}, without passes {want:?}"),
        }
    }
    Ok(())
}

/// A random number in the making of a graph.
type Draw = u32;

/// A graph that grows by one node a draw, from whatever fits.
struct Growing {
    g: Graph,
    /// Everything that was made.
    all: Vec<Output>,
}

const UNARY: &[&str] = &[
    "Neg",
    "Exp",
    "Tanh",
    "Square",
    "Abs",
    "Sigmoid",
    "Relu",
    "Identity",
    "StopGradient",
    "Sqrt",
    "Softplus",
    "Elu",
    "Relu6",
    "ZerosLike",
    "Snapshot",
    "Reciprocal",
    "Log1p",
    "Sign",
    "Softmax",
];
const BINARY: &[&str] = &[
    "AddV2",
    "Sub",
    "Mul",
    "RealDiv",
    "Maximum",
    "Minimum",
    "SquaredDifference",
    "AddV2",
    "Mul",
    "Sub",
    "MatMul",
    "BiasAdd",
    "ReluGrad",
    "TanhGrad",
    "DivNoNan",
    "Pow",
];

impl Growing {
    fn pick(&self, d: Draw) -> Output {
        // Rather from the last few, so that there are chains.
        let n = self.all.len();
        let d = d as usize;
        let i = if d.is_multiple_of(3) {
            (d / 3) % n
        } else {
            n - 1 - (d / 3) % n.min(4)
        };
        self.all[i].clone()
    }

    /// Adds a node, if what was drawn fits.
    fn grow(&mut self, [kind, x, y, z]: [Draw; 4]) {
        let (a, b) = (self.pick(x), self.pick(y));
        let made: Result<Output> = match kind % 16 {
            0..=4 => a.unary(UNARY[z as usize % UNARY.len()]),
            5..=9 => {
                let op = BINARY[z as usize % BINARY.len()];
                self.g.op(op).input(&a).input(&b).output()
            }
            10 => a.matmul_t(&b, z % 2 == 0, z % 4 < 2),
            11 => {
                let rank = a.shape().rank().unwrap_or(0).max(1) as i64;
                a.sum(&[i64::from(z) % rank], z % 3 == 0)
            }
            12 => a.transpose(&[1, 0]),
            13 => match z % 4 {
                0 => a.shape_op().and_then(|s| b.reshape_to(&s)),
                1 => a.reshape(&[-1]),
                2 => self.g.add_n(&[a.clone(), b.clone(), a.clone()]),
                _ => self.g.concat(&[a, b], 0),
            },
            14 => match z % 3 {
                0 => self.g.constant(f32::from(z as i16) / 10_000.0),
                1 => self.g.constant([0.5f32, -1.5, f32::from(z as i8)]),
                _ => self
                    .g
                    .constant([[0.25f32, -0.5, 1.0], [2.0, 0.0, -0.0], [z as f32 / 1e9, 1.5, -3.0]]),
            },
            _ => {
                // A node that waits for another.
                let _after = self.g.control_dependencies(&[b.op()]);
                a.unary(if z % 2 == 0 { "Identity" } else { "Square" })
            }
        };
        if let Ok(made) = made
            && made.dtype() == DType::F32
        {
            self.all.push(made);
        }
    }
}

fn draws(n: usize) -> impl Strategy<Value = Vec<[Draw; 4]>> {
    prop::collection::vec(any::<[Draw; 4]>(), 1..n)
}

fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let n: usize = shape.iter().product();
    let x = |i: usize| ((i as u32 * 37 + seed * 101) % 223) as f32 / 60.0 - 1.7;
    Tensor::from_slice(shape, &(0..n).map(x).collect::<Vec<_>>()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Bit by bit: folding, going around, merging and fusing compute the same functions of the same values.
    #[test]
    fn random_graphs_give_the_same_bits(
        draws in draws(40),
        shapes in prop::collection::vec(prop::sample::select(vec![vec![], vec![1], vec![3], vec![3, 3], vec![1, 3], vec![3, 1], vec![2, 3, 3], vec![0, 3]]), 3),
        known in any::<[bool; 3]>(),
        fetch in any::<[Draw; 3]>(),
        seed in 0u32..1000,
    ) {
        let g = Graph::new();
        let mut feeds = Vec::new();
        let mut all = Vec::new();
        for (i, (shape, known)) in shapes.iter().zip(known).enumerate() {
            let declared = if known { PartialShape::from(shape.as_slice()) } else { PartialShape::UNKNOWN };
            let p = g.placeholder(&format!("p{i}"), DType::F32, declared).unwrap();
            feeds.push((p.clone(), numbers(shape, seed + i as u32)));
            all.push(p);
        }
        let mut growing = Growing { g: g.clone(), all };
        draws.into_iter().for_each(|d| growing.grow(d));
        let fetches: Vec<Output> = fetch.iter().map(|d| growing.pick(*d)).collect();
        let feeds: Vec<(&Output, Tensor)> = feeds.iter().map(|(p, t)| (p, t.clone())).collect();
        check(&g, &feeds, &fetches.iter().collect::<Vec<_>>(), 0.0)?;
    }

    /// Gradients, too, of which some are made of nodes that passes know well.
    #[test]
    fn random_gradients_are_the_same(draws in draws(16), seed in 0u32..1000) {
        let g = Graph::new();
        let p = g.placeholder("p", DType::F32, PartialShape::from([3, 3])).unwrap();
        let q = g.placeholder("q", DType::F32, PartialShape::from([3])).unwrap();
        let mut growing = Growing { g: g.clone(), all: vec![q.clone(), p.clone()] };
        draws.into_iter().for_each(|d| growing.grow(d));
        let y = growing.all.last().unwrap().clone();
        let Ok(grads) = gradients(&[y], &[p.clone(), q.clone()]) else { return Ok(()) };
        let grads: Vec<Output> = grads.into_iter().flatten().filter_map(|g| g.to_dense().ok()).collect();
        if grads.is_empty() {
            return Ok(());
        }
        let feeds = [(&p, numbers(&[3, 3], seed)), (&q, numbers(&[3], seed + 1))];
        check(&g, &feeds, &grads.iter().collect::<Vec<_>>(), 0.0)?;
    }

    /// Assignments, readings before and after them, and what is computed from both, in an order that control edges fix.
    #[test]
    fn programs_with_variables_are_the_same(
        draws in prop::collection::vec(any::<[Draw; 4]>(), 1..24),
        reference in any::<bool>(),
    ) {
        let g = Graph::new();
        let vars: Vec<_> = (0..3)
            .map(|i| {
                let b = g.variable_builder(&format!("v{i}"));
                let value = numbers(&[3], i);
                if reference { b.reference() } else { b }.build(value).unwrap()
            })
            .collect();
        let mut values = vec![g.constant([1f32, 2.0, -0.5]).unwrap()];
        let mut last: Option<Operation> = None;
        for [kind, x, y, z] in draws {
            let v = &vars[x as usize % vars.len()];
            let a = values[y as usize % values.len()].clone();
            let b = values[z as usize % values.len()].clone();
            // Every effect and every reading comes after the one before.
            let after: Vec<Operation> = last.iter().cloned().collect();
            let _after = g.control_dependencies(&after);
            match kind % 6 {
                0 => last = Some(v.assign(&a).unwrap()),
                1 => last = Some(v.assign_add(&a.tanh().unwrap()).unwrap()),
                2 => last = Some(v.assign_sub(&(&a.tanh().unwrap() * &b.sigmoid().unwrap()).unwrap()).unwrap()),
                3 => {
                    let r = v.read().unwrap();
                    last = Some(r.op());
                    values.push(r);
                }
                4 => values.push((&a.sin().unwrap() + &b).unwrap().tanh().unwrap()),
                _ => values.push((&a.identity().unwrap() - &b).unwrap().cos().unwrap()),
            }
        }
        let fetches: Vec<&Output> = values.iter().rev().take(4).collect();
        let targets: Vec<&Operation> = last.iter().collect();
        let run = |passes| {
            let s = session(&g, passes);
            s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
            let mut all = Vec::new();
            for _ in 0..2 {
                let mut r = s.runner();
                for f in &fetches {
                    r = r.fetch(f);
                }
                for t in &targets {
                    r = r.target(t);
                }
                all.extend(r.run().unwrap());
            }
            all.extend((0..3).map(|i| s.variable(&format!("v{i}")).unwrap()));
            all
        };
        let want = run(Passes::NONE);
        for (name, passes) in variants() {
            let got = run(passes);
            let same = want.iter().zip(&got).all(|(a, b)| agree(a, b, 0.0));
            prop_assert!(same, "{name}: {got:?}, without passes {want:?}");
        }
    }
}

/// A perceptron of three layers, trained for some steps: the variables in the end.
fn train(passes: Passes, reference: bool, batch: usize) -> Vec<Tensor> {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, [None, Some(7)]).unwrap();
    let labels = g.placeholder("labels", DType::I32, [None]).unwrap();
    let sizes = [7, 11, 6, 4];
    let mut h = x.clone();
    let mut names = Vec::new();
    for (i, w) in sizes.windows(2).enumerate() {
        let make = |name: String, value: Tensor| {
            let b = g.variable_builder(&name);
            if reference { b.reference() } else { b }.build(value).unwrap()
        };
        let weights = make(format!("w{i}"), numbers(&[w[0], w[1]], i as u32));
        let biases = make(format!("b{i}"), numbers(&[w[1]], 9));
        names.extend([weights.name(), biases.name()]);
        h = h.matmul(&weights).unwrap().bias_add(&biases).unwrap();
        h = match i {
            0 => h.relu().unwrap(),
            1 => h.tanh().unwrap(),
            _ => h,
        };
    }
    let loss = g
        .op("SparseSoftmaxCrossEntropyWithLogits")
        .input(&h)
        .input(&labels)
        .output()
        .unwrap()
        .mean(&[0], false)
        .unwrap();
    let step = Optimizer::from(GradientDescent::new(0.05)).minimize(&loss).unwrap();
    let s = session(&g, passes);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let classes: Vec<i32> = (0..batch as i32).map(|i| i % 4).collect();
    for _ in 0..10 {
        s.runner()
            .feed(&x, numbers(&[batch, 7], 5))
            .feed(&labels, Tensor::vector(&classes))
            .target(&step)
            .run()
            .unwrap();
    }
    names.iter().map(|n| s.variable(n).unwrap()).collect()
}

/// Rounding only: descent is fused with the product.
#[test]
fn training_gives_the_same_variables() {
    for (reference, batch) in [(false, 5), (true, 5), (false, 300)] {
        let want = train(Passes::NONE, reference, batch);
        for (name, passes) in variants() {
            let got = train(passes, reference, batch);
            for (w, got) in want.iter().zip(&got) {
                assert!(agree(w, got, 1e-4), "{name}: {got:?}, without passes {w:?}");
            }
        }
    }
}
