//! What the passes do to small graphs. That they change no result is tested over random graphs in the workspace's
//! suites.

use super::Passes;
use crate::{DType, Graph, GraphVariables, Operation, Output, PartialShape, Session, SessionOptions, Tensor};

mod pool;

fn session(g: &Graph, passes: Passes) -> Session {
    let options = SessionOptions {
        passes,
        ..SessionOptions::with_threads(1)
    };
    Session::with_options(g, options).unwrap()
}

/// The operations that run, sorted, with all passes.
fn ops(g: &Graph, feeds: &[&Output], fetches: &[&Output], targets: &[&Operation]) -> Vec<&'static str> {
    ops_with(Passes::ALL, g, feeds, fetches, targets)
}

fn ops_with(
    passes: Passes,
    g: &Graph,
    feeds: &[&Output],
    fetches: &[&Output],
    targets: &[&Operation],
) -> Vec<&'static str> {
    let c = session(g, passes).callable(feeds, fetches, targets).unwrap();
    assert_eq!(c.num_nodes(), c.nodes().len());
    let mut ops: Vec<_> = c.nodes().into_iter().map(|n| n.1).collect();
    ops.sort_unstable();
    ops
}

fn run1(g: &Graph, feeds: &[(&Output, Tensor)], fetch: &Output) -> Tensor {
    let mut all = Vec::new();
    for passes in Passes::EACH.iter().map(|p| p.1).chain([Passes::ALL, Passes::NONE]) {
        all.push(session(g, passes).run(feeds, &[fetch]).unwrap().remove(0));
    }
    assert!(all.iter().all(|t| *t == all[0]), "{all:?}");
    all.remove(0)
}

fn placeholder(g: &Graph, name: &str, shape: impl Into<PartialShape>) -> Output {
    g.placeholder(name, DType::F32, shape).unwrap()
}

#[test]
fn what_depends_on_constants_only_is_a_constant() {
    let g = Graph::new();
    let a = g.constant([1f32, 2., 3.]).unwrap();
    let b = g.stack(&[a.clone(), a.clone()], 0).unwrap();
    let c = b.transpose(&[1, 0]).unwrap().sum(&[1], false).unwrap();
    assert_eq!(ops(&g, &[], &[&c], &[]), ["Const"]);
    assert_eq!(run1(&g, &[], &c), Tensor::from([2f32, 4., 6.]));
}

#[test]
fn operations_with_several_outputs_are_folded() {
    let g = Graph::new();
    let a = g.constant([1f32, 2., 3., 4.]).unwrap();
    let axis = g.constant(0i32).unwrap();
    let s = g
        .op("Split")
        .input(&axis)
        .input(&a)
        .attr("num_split", 2i64)
        .finish()
        .unwrap();
    let (x, y) = (s.output(0).unwrap(), s.output(1).unwrap());
    assert_eq!(ops(&g, &[], &[&x, &y], &[]), ["Const", "Const"]);
    let joined = g.concat(&[y, x], 0).unwrap();
    assert_eq!(run1(&g, &[], &joined), Tensor::from([3f32, 4., 1., 2.]));
}

#[test]
fn a_fed_constant_is_no_constant() {
    let g = Graph::new();
    let a = g.constant([1f32, 2.]).unwrap();
    let s = a.sum(&[0], false).unwrap();
    assert_eq!(run1(&g, &[(&a, Tensor::from([5f32, 6.]))], &s), Tensor::from(11f32));
    assert_eq!(run1(&g, &[], &s), Tensor::from(3f32));
}

#[test]
fn what_fails_when_folded_fails_when_run() {
    let g = Graph::new();
    let a = g.constant([1i32, 2]).unwrap();
    let zero = g.constant(0i32).unwrap();
    let y = g
        .op("FloorDiv")
        .input(&a)
        .input(&zero)
        .name("by_zero")
        .output()
        .unwrap();
    let e = session(&g, Passes::ALL).run(&[], &[&y]).unwrap_err();
    assert_eq!(e.node(), Some("by_zero"));
}

#[test]
fn large_results_are_not_folded() {
    let g = Graph::new();
    let shape = g.constant([1i32 << 12, 1 << 12]).unwrap();
    let zero = g.constant(0f32).unwrap();
    let big = shape.fill_with(&zero).unwrap();
    let sum = big.sum(&[0, 1], false).unwrap();
    assert!(ops(&g, &[], &[&sum], &[]).contains(&"Fill"));
}

#[test]
fn known_shapes_are_constants_and_fed_ones_are_not() {
    let g = Graph::new();
    let x = placeholder(&g, "x", [2, 3]);
    let t = x.transpose(&[1, 0]).unwrap();
    let s = t.shape_op().unwrap();
    assert_eq!(ops(&g, &[&x], &[&s], &[]), ["Const"]);
    let u = placeholder(&g, "u", [None, Some(3)]);
    let s = u.shape_op().unwrap();
    assert_eq!(ops(&g, &[&u], &[&s], &[]), ["Shape"]);
    assert_eq!(
        run1(&g, &[(&u, Tensor::zeros(DType::F32, [4, 3]).unwrap())], &s),
        Tensor::from([4i32, 3])
    );
}

#[test]
fn the_shape_of_an_assignment_still_assigns() {
    let g = Graph::new();
    let v = g.variable_builder("v").reference().build([1f32, 2.]).unwrap();
    let x = g.constant([7f32, 8.]).unwrap();
    let assigned = v.assign(&x).unwrap().output(0).unwrap();
    let s = g.op("Identity").input(&assigned).output().unwrap().shape_op().unwrap();
    let session = session(&g, Passes::ALL);
    session.execute(&[v.initializer()]).unwrap();
    assert_eq!(session.run(&[], &[&s]).unwrap(), [Tensor::from([2i32])]);
    assert_eq!(session.variable("v").unwrap(), Tensor::from([7f32, 8.]));
}

#[test]
fn folded_values_keep_the_control_inputs() {
    let g = Graph::new();
    let v = g.variable("v", 1f32).unwrap();
    let one = g.constant(1f32).unwrap();
    let add = v.assign_add(&one).unwrap();
    let after = {
        let _after = g.control_dependencies(std::slice::from_ref(&add));
        let c = g.constant([2f32, 3.]).unwrap();
        c.sum(&[0], false).unwrap()
    };
    for passes in [Passes::ALL, Passes::NONE] {
        let s = session(&g, passes);
        s.execute(&[v.initializer()]).unwrap();
        assert_eq!(s.run(&[], &[&after]).unwrap(), [Tensor::from(5f32)]);
        assert_eq!(s.variable("v").unwrap(), Tensor::from(2f32), "{passes:?}");
    }
}

#[test]
fn identities_are_bypassed_unless_they_order_something() {
    let g = Graph::new();
    let x = placeholder(&g, "x", [2]);
    let i = x.identity().unwrap().stop_gradient().unwrap();
    let y = i.reshape(&[2]).unwrap().sum(&[0], false).unwrap();
    assert_eq!(ops(&g, &[&x], &[&y], &[]), ["Const", "Sum"]);
    assert_eq!(ops(&g, &[&x], &[&i], &[]), [""; 0]);
    let before = g.op("NoOp").finish().unwrap();
    let v = g.variable("v", 1f32).unwrap();
    let held = g
        .op("Identity")
        .input(&x)
        .control_input(v.initializer())
        .output()
        .unwrap();
    let _ = before;
    assert_eq!(
        ops(&g, &[&x], &[&held], &[]),
        ["AssignVariableOp", "Const", "Identity", "VarHandleOp"]
    );
}

#[test]
fn equal_nodes_are_one() {
    let g = Graph::new();
    let x = placeholder(&g, "x", [2, 3]);
    let two = || g.constant([0i32]).unwrap();
    let a = x.reduce_by("Sum", &two(), false).unwrap();
    let b = x.reduce_by("Sum", &two(), false).unwrap();
    let c = x.reduce_by("Max", &two(), false).unwrap();
    let y = g.stack(&[a, b, c], 0).unwrap();
    assert_eq!(ops(&g, &[&x], &[&y], &[]), ["Const", "Max", "Pack", "Sum"]);
    let p = placeholder(&g, "p", [2]);
    let q = placeholder(&g, "q", [2]);
    let y = g.stack(&[p.plus(&q).unwrap(), q.plus(&p).unwrap()], 0).unwrap();
    assert_eq!(ops(&g, &[&p, &q], &[&y], &[]).len(), 2);
    let y = g.stack(&[p.minus(&q).unwrap(), q.minus(&p).unwrap()], 0).unwrap();
    assert_eq!(ops(&g, &[&p, &q], &[&y], &[]).len(), 3);
}

#[test]
fn random_numbers_are_not_merged() {
    let g = Graph::new();
    if crate::op::registry().find("RandomUniform").is_none() {
        return;
    }
    let shape = g.constant([4i32]).unwrap();
    let r = || {
        let op = g.op("RandomUniform").input(&shape).attr("dtype", DType::F32);
        op.output().unwrap()
    };
    let (a, b) = (r(), r());
    let y = g.stack(&[a, b], 0).unwrap();
    let n = ops(&g, &[], &[&y], &[])
        .iter()
        .filter(|o| **o == "RandomUniform")
        .count();
    assert_eq!(n, 2);
}

#[test]
fn readings_of_a_reference_on_both_sides_of_an_assignment_stay_apart() {
    for reference in [true, false] {
        let g = Graph::new();
        let b = g.variable_builder("v");
        let v = if reference { b.reference() } else { b }.build(1f32).unwrap();
        let before = v.read().unwrap();
        let two = g.constant(2f32).unwrap();
        let add = {
            let _after = g.control_dependencies(&[before.op()]);
            v.assign_add(&two).unwrap()
        };
        let after = {
            let _after = g.control_dependencies(&[add]);
            v.read().unwrap()
        };
        let both = g.stack(&[before, after], 0).unwrap();
        for passes in Passes::EACH.iter().map(|p| p.1).chain([Passes::ALL]) {
            let s = session(&g, passes);
            s.execute(&[v.initializer()]).unwrap();
            assert_eq!(s.run(&[], &[&both]).unwrap(), [Tensor::from([1f32, 3.])]);
        }
    }
}

fn count(ops: &[&str], op: &str) -> usize {
    ops.iter().filter(|o| **o == op).count()
}

#[test]
fn a_product_takes_bias_and_relu_with_it() {
    let g = Graph::new();
    let x = placeholder(&g, "x", [None, Some(3)]);
    let w = g.variable("w", Tensor::from([[1f32, 2.], [3., 4.], [5., 6.]])).unwrap();
    let b = g.variable("b", [-30f32, 1.]).unwrap();
    let product = x.matmul(&w).unwrap();
    let fused = |y: &Output| {
        let o = ops(&g, &[&x], &[y], &[]);
        (count(&o, "_FusedMatMul"), o.len())
    };
    let biased = product.bias_add(&b).unwrap();
    assert_eq!(fused(&biased), (1, 5));
    assert_eq!(fused(&biased.relu().unwrap()), (1, 5));
    assert_eq!(fused(&product.plus(&b).unwrap().relu().unwrap()), (1, 5));
    assert_eq!(fused(&b.value().plus(&product).unwrap()), (1, 5));
    assert_eq!(fused(&product.relu().unwrap()), (1, 3));
    // The sum has another user, or the vector is a scalar.
    let both = g.stack(&[biased.relu().unwrap(), biased.clone()], 0).unwrap();
    assert_eq!(fused(&both), (1, 7));
    assert_eq!(fused(&product.plus(&g.constant(1f32).unwrap()).unwrap()).0, 0);
    let one = g.constant([1f32]).unwrap();
    assert_eq!(fused(&product.plus(&one).unwrap()).0, 0);
    assert_eq!(
        fused(&g.stack(&[product.clone(), product.relu().unwrap()], 0).unwrap()).0,
        0
    );

    let s = session(&g, Passes::ALL);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let got = s
        .run(&[(&x, Tensor::from([[1f32, 1., 2.]]))], &[&biased.relu().unwrap()])
        .unwrap();
    assert_eq!(got, [Tensor::from([[0f32, 19.]])]);
    // The node that fails is named.
    let e = s
        .run(&[(&x, Tensor::zeros(DType::F32, [1, 4]).unwrap())], &[&biased])
        .unwrap_err();
    assert!(e.node().is_some());
}

#[test]
fn a_convolution_takes_bias_and_relu_with_it() {
    for layout in ["NHWC", "NCHW"] {
        let g = Graph::new();
        let last = layout == "NHWC";
        let shape = if last { [2, 4, 3, 2] } else { [2, 2, 4, 3] };
        let x = placeholder(&g, "x", shape.map(Some));
        let weights: Vec<f32> = (0..24).map(|i| (i % 7) as f32 - 3.0).collect();
        let w = g
            .variable("w", Tensor::from_slice([2, 2, 2, 3], &weights).unwrap())
            .unwrap();
        let b = g.variable("b", [-2f32, 0., 3.]).unwrap();
        let conv = g.op("Conv2D").input(&x).input(&w).attr("data_format", layout);
        let conv = conv
            .attr("strides", [1i64; 4])
            .attr("padding", "SAME")
            .output()
            .unwrap();
        let bias = |y: &Output, layout: &str| {
            let b = g.op("BiasAdd").input(y).input(&b).attr("data_format", layout);
            b.output().unwrap()
        };
        let biased = bias(&conv, layout);
        let fused = |y: &Output| {
            let o = ops(&g, &[&x], &[y], &[]);
            (count(&o, "_FusedConv2D"), o.len())
        };
        assert_eq!(fused(&biased), (1, 5));
        assert_eq!(fused(&biased.relu().unwrap()), (1, 5));
        assert_eq!(fused(&conv.relu().unwrap()), (1, 3));
        // A vector is added to the last dimension, whatever that is.
        assert_eq!(fused(&conv.plus(&b).unwrap()).0, usize::from(last));

        let y = biased.relu().unwrap();
        let feed: Vec<f32> = (0..48).map(|i| (i % 5) as f32 - 2.0).collect();
        let results: Vec<_> = [Passes::ALL, Passes::NONE]
            .into_iter()
            .map(|passes| {
                let s = session(&g, passes);
                s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
                s.run(&[(&x, Tensor::from_slice(shape, &feed).unwrap())], &[&y])
                    .unwrap()
            })
            .collect();
        assert_eq!(results[0], results[1]);
    }
}

/// A linear model of two layers, its loss and its step of gradient descent.
fn model(g: &Graph, reference: bool) -> (Output, Output, Operation) {
    let build = |name: &str, value: Tensor| {
        let b = g.variable_builder(name);
        if reference { b.reference() } else { b }.build(value).unwrap()
    };
    let x = placeholder(g, "x", [None, Some(2)]);
    let w0 = build("w0", Tensor::from([[0.5f32, -1., 0.25], [1., 0.5, -0.5]]));
    let w1 = build("w1", Tensor::from([[1f32], [2.], [-1.]]));
    let h = x.matmul(&w0).unwrap().relu().unwrap();
    let y = h.matmul(&w1).unwrap();
    let loss = y.square().unwrap().mean(&[0, 1], false).unwrap();
    let train = crate::Optimizer::from(crate::train::optimizer::GradientDescent::new(0.1));
    (x, loss.clone(), train.minimize(&loss).unwrap())
}

#[test]
fn descent_takes_the_product_in() {
    for reference in [false, true] {
        let g = Graph::new();
        let (x, loss, step) = model(&g, reference);
        let of = |passes| ops_with(passes, &g, &[&x], &[], &[&step]);
        let (all, none) = (of(Passes::ALL), of(Passes::NONE));
        let op = match reference {
            true => "_MatMulApplyGradientDescent",
            false => "_MatMulResourceApplyGradientDescent",
        };
        assert_eq!(count(&all, op), 2, "{all:?}");
        // Two products forward, one back to the hidden layer; not one back to the input.
        assert_eq!(count(&none, "MatMul"), 5, "{none:?}");
        let results: Vec<_> = Passes::EACH
            .iter()
            .map(|p| p.1)
            .chain([Passes::ALL, Passes::NONE])
            .map(|passes| {
                let s = session(&g, passes);
                s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
                let feed = Tensor::from([[1f32, 2.], [-0.5, 0.25], [0.75, -1.]]);
                for _ in 0..5 {
                    let run = s.runner().feed(&x, feed.clone()).fetch(&loss).target(&step);
                    run.run().unwrap();
                }
                let of = |v: &str| s.variable(v).unwrap().to_vec::<f32>().unwrap();
                [of("w0"), of("w1")].concat()
            })
            .collect();
        for r in &results {
            let close = r.iter().zip(&results[0]).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(close, "{results:?}");
        }
        assert!(results[0][0] != 0.5);
    }
}

#[test]
fn a_gradient_that_somebody_else_sees_is_stored() {
    let g = Graph::new();
    let x = placeholder(&g, "x", [1, 2]);
    let w = g.variable("w", Tensor::from([[0.5f32], [1.]])).unwrap();
    let loss = x.matmul(&w).unwrap().sum(&[0, 1], false).unwrap();
    let opt = crate::Optimizer::from(crate::train::optimizer::GradientDescent::new(0.1));
    let grads = opt.compute_gradients(&loss, None).unwrap();
    let step = opt.apply_gradients(&grads, None).unwrap();
    let Some(crate::Grad::Dense(grad)) = &grads[0].0 else {
        panic!()
    };
    let o = ops(&g, &[&x], &[grad], &[&step]);
    assert_eq!(count(&o, "ResourceApplyGradientDescent"), 1, "{o:?}");
    let o = ops(&g, &[&x], &[], &[&step]);
    assert_eq!(count(&o, "_MatMulResourceApplyGradientDescent"), 1, "{o:?}");
}

#[test]
fn waiting_for_a_fed_placeholder_is_no_wait() {
    let g = Graph::new();
    let p = placeholder(&g, "p", [2]);
    let k = g.constant(1.0f32).unwrap();
    let after = g.op("Identity").input(&k).control_input(&p.op()).output().unwrap();
    assert_eq!(
        run1(&g, &[(&p, Tensor::vector(&[0f32, 0.0]))], &after),
        Tensor::scalar(1f32)
    );
    let e = session(&g, Passes::ALL).run(&[], &[&after]).unwrap_err();
    assert_eq!(e.node(), Some("p"));
}

#[test]
fn passes_are_known_by_name() {
    assert_eq!("all".parse::<Passes>().unwrap(), Passes::ALL);
    assert_eq!("none".parse::<Passes>().unwrap(), Passes::NONE);
    let two: Passes = "bypass,constant_folding".parse().unwrap();
    assert!(two.bypass && two.constant_folding && !two.common_subexpressions);
    let e = "folding".parse::<Passes>().unwrap_err();
    assert!(e.message().contains("constant_folding"), "{e}");
    let every = Passes::EACH.iter().fold(Passes::NONE, |sum, p| sum.and(p.1));
    assert_eq!(every, Passes::ALL);
}

#[test]
fn element_wise_operations_become_one() {
    let g = Graph::new();
    let x = placeholder(&g, "x", [None, Some(4)]);
    let i = x.identity().unwrap();
    let two = g.constant(2f32).unwrap();
    // A tree with a diamond in it.
    let e = i.times(&two).unwrap().exp().unwrap();
    let y = (&e.plus(&i).unwrap() / e.sqrt().unwrap()).unwrap();
    assert_eq!(ops(&g, &[&x], &[&y], &[]), ["Const", "_FusedElementwise"]);
    // What somebody else uses stays by itself.
    let o = ops(&g, &[&x], &[&y, &e], &[]);
    assert_eq!(count(&o, "_FusedElementwise"), 2, "{o:?}");
    let z = y.sum(&[0], false).unwrap();
    let o = ops(&g, &[&x], &[&z], &[]);
    assert_eq!(o, ["Const", "Const", "Sum", "_FusedElementwise"]);
    let value = Tensor::from([[1f32, 2., -1., 0.5]]);
    run1(&g, &[(&x, value)], &z);
}

#[test]
fn what_is_computed_once_is_not_computed_for_each_element() {
    let g = Graph::new();
    let x = placeholder(&g, "x", [8, 4]).identity().unwrap();
    let row = placeholder(&g, "row", [4]);
    let y = x.plus(&row.exp().unwrap()).unwrap().tanh().unwrap();
    let x = g.output("x:0").unwrap();
    assert_eq!(ops(&g, &[&x, &row], &[&y], &[]), ["Exp", "_FusedElementwise"]);
}

#[test]
fn a_fused_node_fails_as_its_parts_do() {
    let g = Graph::new();
    let x = placeholder(&g, "x", PartialShape::UNKNOWN).identity().unwrap();
    let y = placeholder(&g, "y", PartialShape::UNKNOWN).identity().unwrap();
    let sum = x.exp().unwrap().plus(&y).unwrap();
    let line = line!() - 1;
    let z = sum.tanh().unwrap();
    let (x, y) = (g.output("x:0").unwrap(), g.output("y:0").unwrap());
    assert_eq!(ops(&g, &[&x, &y], &[&z], &[]), ["_FusedElementwise"]);
    let feeds = [(&x, Tensor::from([1f32, 2.])), (&y, Tensor::from([1f32, 2., 3.]))];
    let e = session(&g, Passes::ALL).run(&feeds, &[&z]).unwrap_err();
    let want = session(&g, Passes::NONE).run(&feeds, &[&z]).unwrap_err();
    assert_eq!(e.node(), Some(&*sum.op().name()));
    assert_eq!(e.to_string(), want.to_string());
    assert!(e.to_string().contains(&format!(":{line}")), "{e}");
    let feeds = [(&x, Tensor::from([[1f32], [2.]])), (&y, Tensor::from([1f32, 2., 3.]))];
    run1(&g, &feeds, &z);
}

#[test]
fn sums_of_many_and_biases_take_part() {
    let g = Graph::new();
    let ps: Vec<Output> = (0..4).map(|i| placeholder(&g, &format!("p{i}"), [2, 3])).collect();
    let b = placeholder(&g, "b", [3]);
    let y = g.add_n(&ps).unwrap().bias_add(&b).unwrap().square().unwrap();
    let mut feeds: Vec<&Output> = ps.iter().collect();
    feeds.push(&b);
    assert_eq!(ops(&g, &feeds, &[&y], &[]), ["_FusedElementwise"]);
    let mut values: Vec<(&Output, Tensor)> = ps
        .iter()
        .enumerate()
        .map(|(i, p)| (p, Tensor::full([2, 3], i as f32 + 0.1).unwrap()))
        .collect();
    values.push((&b, Tensor::from([1f32, 2., 3.])));
    run1(&g, &values, &y);
}

#[test]
fn whoever_is_waited_for_is_not_hidden() {
    let g = Graph::new();
    let x = placeholder(&g, "x", [2]);
    let a = x.exp().unwrap();
    let y = a.sqrt().unwrap();
    let v = g.variable("v", 0f32).unwrap();
    let add = {
        let _after = g.control_dependencies(&[a.op()]);
        v.assign_add(&g.constant(1f32).unwrap()).unwrap()
    };
    let o = ops(&g, &[&x], &[&y], &[&add]);
    assert!(o.contains(&"Exp") && o.contains(&"Sqrt"), "{o:?}");
    assert_eq!(ops(&g, &[&x], &[&y], &[&a.op()]), ["Exp", "Sqrt"]);
}

#[test]
fn gates_that_hold_nothing_back_are_opened() {
    let g = Graph::new();
    let w = g.variable("w", [0.5f32, -1., 2.]).unwrap();
    let v = g.variable("v", [1.5f32, 1., -2.]).unwrap();
    let (a, b) = (w.value().tanh().unwrap(), v.value().sigmoid().unwrap());
    let loss = a.times(&b).unwrap().sum(&[0], false).unwrap();
    let opt = crate::Optimizer::from(crate::train::optimizer::GradientDescent::new(0.1));
    let step = opt.minimize(&loss).unwrap();
    let o = ops(&g, &[], &[], &[&step]);
    assert_eq!(count(&o, "Identity"), 0, "{o:?}");
    let closed = Passes {
        open_gates: false,
        ..Passes::ALL
    };
    let o = ops_with(closed, &g, &[], &[], &[&step]);
    assert_eq!(count(&o, "Identity"), 2, "{o:?}");
}

#[test]
fn gates_that_order_effects_or_keep_a_value_alone_stay() {
    let gate = |g: &Graph, x: &Output, after: &Operation| {
        let group = g.group("all", std::slice::from_ref(after)).unwrap();
        g.op("Identity").input(x).control_input(&group).output().unwrap()
    };
    let g = Graph::new();
    let x = placeholder(&g, "x", [2]);
    let v = g.variable("v", [0.5f32, -1.]).unwrap();
    let of_reading = |g: &Graph, x: &Output| {
        let y = x.exp().unwrap().identity().unwrap();
        ops(g, &[&x.graph().output("x:0").unwrap()], &[&y], &[]).len()
    };
    // It waits for an assignment, through a node that reads what was assigned.
    let add = v.assign_add(&x).unwrap();
    let read = {
        let _after = g.control_dependencies(&[add]);
        v.read().unwrap().identity().unwrap().tanh().unwrap()
    };
    let held = gate(&g, &x, &read.op());
    assert!(of_reading(&g, &held) > 3);
    // It waits for a node that takes a variable's value.
    let taken = v.value().times(&x).unwrap();
    let late = (&taken + &x).unwrap().tanh().unwrap();
    assert!(of_reading(&g, &gate(&g, &late, &taken.op())) > 3);
    // It waits for something that it comes after anyway.
    let first = x.tanh().unwrap();
    assert_eq!(of_reading(&g, &gate(&g, &first.sin().unwrap(), &first.op())), 1);
}
