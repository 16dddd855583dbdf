#![allow(clippy::unwrap_used)]

use super::super::attrs::attr_to_message;
use super::super::proto::op_def::ArgDef;
use super::super::proto::{FunctionDef, FunctionDefLibrary, GradientDef, GraphDef, NodeDef, OpDef, attr_value};
use super::super::{ImportOptions, ImportedGraph, import_graph, import_into};
use super::make;
use crate::{AttrValue, Code, DType, Error, Graph, Result, Session, Tensor, gradients};
use actorflow_core::Attrs;
use prost::Message;

const F: DType = DType::F32;
const I: DType = DType::I32;
const B: DType = DType::Bool;
const R: DType = DType::Resource;

fn ty(t: DType) -> AttrValue {
    AttrValue::Type(t)
}

fn tys(t: &[DType]) -> AttrValue {
    AttrValue::List(t.iter().map(|t| ty(*t)).collect())
}

fn fun(name: &str) -> AttrValue {
    AttrValue::Func(name.into(), Attrs::new())
}

fn node(name: &str, op: &str, input: &[&str], attrs: &[(&str, AttrValue)]) -> NodeDef {
    NodeDef {
        name: name.into(),
        op: op.into(),
        input: input.iter().map(|i| (*i).to_owned()).collect(),
        attr: attrs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), attr_to_message(v, None).unwrap()))
            .collect(),
        ..Default::default()
    }
}

fn constant(name: &str, value: impl Into<Tensor>) -> NodeDef {
    let value: Tensor = value.into();
    let t = ty(value.dtype());
    node(name, "Const", &[], &[("dtype", t), ("value", AttrValue::Tensor(value))])
}

fn placeholder(name: &str, t: DType) -> NodeDef {
    node(name, "Placeholder", &[], &[("dtype", ty(t))])
}

fn function(name: &str, args: &[(&str, DType)], rets: &[(&str, DType, &str)], nodes: Vec<NodeDef>) -> FunctionDef {
    let arg = |(n, t): (&str, DType)| ArgDef {
        name: n.into(),
        r#type: t.to_tf(),
        ..Default::default()
    };
    FunctionDef {
        signature: Some(OpDef {
            name: name.into(),
            input_arg: args.iter().copied().map(arg).collect(),
            output_arg: rets.iter().map(|r| arg((r.0, r.1))).collect(),
            ..Default::default()
        }),
        node_def: nodes,
        ret: rets.iter().map(|r| (r.0.to_owned(), r.2.to_owned())).collect(),
        ..Default::default()
    }
}

fn call(name: &str, f: &str, input: &[&str], tin: &[DType], tout: &[DType]) -> NodeDef {
    let attrs = [("f", fun(f)), ("Tin", tys(tin)), ("Tout", tys(tout))];
    node(name, "PartitionedCall", input, &attrs)
}

fn cond(name: &str, input: &[&str], tin: &[DType], tout: &[DType], then: &str, otherwise: &str) -> NodeDef {
    let attrs = [
        ("Tcond", ty(B)),
        ("Tin", tys(tin)),
        ("Tout", tys(tout)),
        ("then_branch", fun(then)),
        ("else_branch", fun(otherwise)),
    ];
    node(name, "If", input, &attrs)
}

fn whil(name: &str, input: &[&str], t: &[DType], c: &str, b: &str) -> NodeDef {
    node(
        name,
        "While",
        input,
        &[("T", tys(t)), ("cond", fun(c)), ("body", fun(b))],
    )
}

fn two(name: &str, op: &str, a: &str, b: &str, t: DType) -> NodeDef {
    node(name, op, &[a, b], &[("T", ty(t))])
}

/// `name(x) = x op x`
fn twice(name: &str, op: &str) -> FunctionDef {
    function(name, &[("x", F)], &[("y", F, "r:z:0")], vec![two("r", op, "x", "x", F)])
}

fn file(node: Vec<NodeDef>, functions: Vec<FunctionDef>) -> GraphDef {
    GraphDef {
        node,
        library: Some(FunctionDefLibrary {
            function: functions,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn import(def: &GraphDef) -> Result<ImportedGraph> {
    import_graph(def.encode_to_vec())
}

fn fails(node: Vec<NodeDef>, functions: Vec<FunctionDef>) -> Error {
    import(&file(node, functions)).unwrap_err()
}

fn run(s: &Session, g: &Graph, feeds: &[(&str, Tensor)], fetch: &str) -> Tensor {
    let mut r = s.runner().fetch(&g.output(fetch).unwrap());
    for (n, t) in feeds {
        r = r.feed(&g.output(n).unwrap(), t.clone());
    }
    r.run().unwrap().remove(0)
}

fn eval(def: &GraphDef, feeds: &[(&str, Tensor)], fetch: &str) -> Tensor {
    let g = import(def).unwrap().graph;
    run(&Session::new(&g).unwrap(), &g, feeds, fetch)
}

/// A resource variable `v` with an initializer `init`, and `read`, its value after `^call`.
fn variable(after: &str) -> Vec<NodeDef> {
    let attrs = [
        ("dtype", ty(F)),
        ("shape", AttrValue::Shape(crate::PartialShape::scalar())),
        ("shared_name", AttrValue::from("v")),
    ];
    vec![
        node("v", "VarHandleOp", &[], &attrs),
        constant("zero", 0.0f32),
        node("init", "AssignVariableOp", &["v", "zero"], &[("dtype", ty(F))]),
        node("read", "ReadVariableOp", &["v", after], &[("dtype", ty(F))]),
        node("now", "ReadVariableOp", &["v"], &[("dtype", ty(F))]),
    ]
}

/// Adds `amount` to the variable; nothing that it returns depends on that.
fn adds(name: &str, amount: f32) -> FunctionDef {
    let mut f = function(
        name,
        &[("h", R)],
        &[],
        vec![
            constant("a", amount),
            node("add", "AssignAddVariableOp", &["h", "a:output:0"], &[("dtype", ty(F))]),
        ],
    );
    f.control_ret.insert("done".into(), "add".into());
    f
}

#[test]
fn a_call_becomes_nodes_below_its_name_and_stays_fetchable_and_feedable() {
    let nodes = vec![
        placeholder("x", F),
        call("c", "square", &["x"], &[F], &[F]),
        two("after", "Add", "c", "x", F),
    ];
    let def = file(nodes, vec![twice("square", "Mul")]);
    let g = import(&def).unwrap().graph;
    assert_eq!(g.operation("c/r").unwrap().def().name(), "Mul");
    let s = Session::new(&g).unwrap();
    let x = ("x:0", Tensor::scalar(3.0f32));
    assert_eq!(run(&s, &g, std::slice::from_ref(&x), "c:0"), Tensor::scalar(9.0f32));
    assert_eq!(
        run(&s, &g, &[x, ("c:0", Tensor::scalar(1.0f32))], "after"),
        Tensor::scalar(4.0f32)
    );
}

#[test]
fn exporting_gives_a_graph_without_calls() {
    let def = file(
        vec![placeholder("x", F), call("c", "square", &["x"], &[F], &[F])],
        vec![twice("square", "Mul")],
    );
    let again = import(&def).unwrap().to_def().unwrap();
    assert!(again.node.iter().all(|n| n.op != "PartitionedCall"));
    assert_eq!(
        eval(&again, &[("x", Tensor::scalar(2.0f32))], "c"),
        Tensor::scalar(4.0f32)
    );
}

#[test]
fn attributes_of_the_call_fill_the_placeholders_of_the_body() {
    let mut f = twice("f", "Add");
    let s = f.signature.as_mut().unwrap();
    s.input_arg[0].type_attr = "T".into();
    s.output_arg[0].type_attr = "T".into();
    let open = make::value(attr_value::Value::Placeholder("T".into()));
    f.node_def[0].attr.insert("T".into(), open);
    let nodes = vec![constant("k", 4i32), node("c", "f", &["k"], &[("T", ty(I))])];
    assert_eq!(eval(&file(nodes, vec![f.clone()]), &[], "c"), Tensor::scalar(8i32));
    let e = fails(vec![constant("k", 4i32), node("c", "f", &["k"], &[])], vec![f]);
    assert!(e.message().contains("\"T\"") && e.node() == Some("c"), "{e}");
}

#[test]
fn the_untaken_branch_has_no_effects_and_a_call_as_control_input_has_all() {
    for (which, want) in [(true, 1.0f32), (false, 10.0)] {
        let mut nodes = variable("^c");
        nodes.extend([placeholder("p", B), cond("c", &["p", "v"], &[R], &[], "one", "ten")]);
        let def = file(nodes, vec![adds("one", 1.0), adds("ten", 10.0)]);
        let g = import(&def).unwrap().graph;
        let s = Session::new(&g).unwrap();
        s.execute(&[&g.operation("init").unwrap()]).unwrap();
        let got = run(&s, &g, &[("p", Tensor::scalar(which))], "read");
        assert_eq!(got, Tensor::scalar(want));
    }
}

#[test]
fn effects_that_no_result_depends_on_happen_even_if_nothing_declares_them() {
    let mut silent = adds("one", 1.0);
    silent.control_ret.clear();
    let mut nodes = variable("^c");
    nodes.push(call("c", "one", &["v"], &[R], &[]));
    let g = import(&file(nodes, vec![silent])).unwrap().graph;
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.operation("init").unwrap()]).unwrap();
    assert_eq!(run(&s, &g, &[], "read"), Tensor::scalar(1.0f32));
    assert_eq!(run(&s, &g, &[], "now"), Tensor::scalar(1.0f32), "not a second time");
}

/// `i + 1`, the variable's handle as it is, and an addition to the variable.
fn counting() -> (FunctionDef, FunctionDef) {
    let c = function(
        "c",
        &[("i", I), ("h", R)],
        &[("go", B, "less:z:0")],
        vec![constant("n", 5i32), two("less", "Less", "i", "n:output:0", I)],
    );
    let mut b = function(
        "b",
        &[("i", I), ("h", R)],
        &[("j", I, "next:z:0"), ("k", R, "h")],
        vec![
            constant("one", 1i32),
            two("next", "Add", "i", "one:output:0", I),
            constant("a", 1.0f32),
            node("add", "AssignAddVariableOp", &["h", "a:output:0"], &[("dtype", ty(F))]),
        ],
    );
    b.control_ret.insert("done".into(), "add".into());
    (c, b)
}

#[test]
fn the_effects_of_a_loops_body_happen_once_an_iteration() {
    for (start, want) in [(0i32, 5.0f32), (5, 0.0)] {
        let mut nodes = variable("^w");
        nodes.extend([constant("i", start), whil("w", &["i", "v"], &[I, R], "c", "b")]);
        let (c, b) = counting();
        let g = import(&file(nodes, vec![c, b])).unwrap().graph;
        let s = Session::new(&g).unwrap();
        s.execute(&[&g.operation("init").unwrap()]).unwrap();
        assert_eq!(run(&s, &g, &[], "read"), Tensor::scalar(want));
        assert_eq!(run(&s, &g, &[], "w:0"), Tensor::scalar(5i32));
    }
}

#[test]
fn the_condition_of_a_loop_sees_the_effects_of_the_iteration_before() {
    // While v < 3: v += 1. No variable of the loop changes.
    let c = function(
        "c",
        &[("h", R)],
        &[("go", B, "less:z:0")],
        vec![
            node("now", "ReadVariableOp", &["h"], &[("dtype", ty(F))]),
            constant("n", 3.0f32),
            two("less", "Less", "now:value:0", "n:output:0", F),
        ],
    );
    let mut b = adds("b", 1.0);
    b.signature.as_mut().unwrap().output_arg = vec![ArgDef {
        name: "k".into(),
        r#type: R.to_tf(),
        ..Default::default()
    }];
    b.ret.insert("k".into(), "h".into());
    let mut nodes = variable("^w");
    nodes.push(whil("w", &["v"], &[R], "c", "b"));
    let g = import(&file(nodes, vec![c, b])).unwrap().graph;
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.operation("init").unwrap()]).unwrap();
    assert_eq!(run(&s, &g, &[], "read"), Tensor::scalar(3.0f32));
}

#[test]
fn gradients_go_through_calls_branches_and_loops() {
    // y = f(x), f squares three times in a loop of conditionals of calls.
    let one = function(
        "one",
        &[("x", F)],
        &[("y", F, "c:output:0")],
        vec![call("c", "square", &["x"], &[F], &[F])],
    );
    let keep = function("keep", &[("x", F)], &[("y", F, "x")], vec![]);
    let c = function(
        "c",
        &[("i", I), ("x", F)],
        &[("go", B, "less:z:0")],
        vec![constant("n", 3i32), two("less", "Less", "i", "n:output:0", I)],
    );
    let b = function(
        "b",
        &[("i", I), ("x", F)],
        &[("j", I, "next:z:0"), ("y", F, "if:output:0")],
        vec![
            constant("one", 1i32),
            two("next", "Add", "i", "one:output:0", I),
            two("late", "Greater", "i", "one:output:0", I),
            cond("if", &["late:z:0", "x"], &[F], &[F], "keep", "one"),
        ],
    );
    let nodes = vec![
        placeholder("x", F),
        constant("i", 0i32),
        whil("w", &["i", "x"], &[I, F], "c", "b"),
    ];
    let g = import(&file(nodes, vec![twice("square", "Mul"), one, keep, c, b]))
        .unwrap()
        .graph;
    let (y, x) = (g.output("w:1").unwrap(), g.output("x").unwrap());
    let dx = gradients(&[y], std::slice::from_ref(&x)).unwrap()[0].clone().unwrap();
    let s = Session::new(&g).unwrap();
    let got = s
        .run(&[(&x, Tensor::scalar(2.0f32))], &[&dx.to_dense().unwrap()])
        .unwrap();
    assert_eq!(got[0], Tensor::scalar(32.0f32), "d x^4 = 4 x^3");
}

#[test]
fn a_case_beyond_the_branches_is_the_last_one() {
    let scale = |name: &str, k: f32| {
        let nodes = vec![constant("k", k), two("r", "Mul", "x", "k:output:0", F)];
        function(name, &[("x", F)], &[("y", F, "r:z:0")], nodes)
    };
    let branches = AttrValue::List(vec![fun("one"), fun("ten"), fun("hundred")]);
    let attrs = [("Tin", tys(&[F])), ("Tout", tys(&[F])), ("branches", branches)];
    let nodes = vec![
        placeholder("i", I),
        constant("x", 2.0f32),
        node("c", "Case", &["i", "x"], &attrs),
    ];
    let def = file(
        nodes,
        vec![scale("one", 1.0), scale("ten", 10.0), scale("hundred", 100.0)],
    );
    for (i, want) in [(0, 2.0f32), (1, 20.0), (2, 200.0), (3, 200.0), (-1, 200.0)] {
        assert_eq!(
            eval(&def, &[("i", Tensor::scalar(i))], "c"),
            Tensor::scalar(want),
            "branch {i}"
        );
    }
}

#[test]
fn a_for_loop_counts_both_ways_and_refuses_a_step_away_from_the_limit() {
    let b = function(
        "b",
        &[("i", I), ("x", I)],
        &[("y", I, "r:z:0")],
        vec![two("r", "Add", "i", "x", I)],
    );
    let attrs = [("T", tys(&[I])), ("body", fun("b"))];
    let mut nodes: Vec<NodeDef> = ["s", "l", "d"].map(|n| placeholder(n, I)).into();
    nodes.extend([constant("x", 0i32), node("f", "For", &["s", "l", "d", "x"], &attrs)]);
    let g = import(&file(nodes, vec![b])).unwrap().graph;
    let s = Session::new(&g).unwrap();
    let run = |a: i32, b: i32, c: i32| {
        let feeds: Vec<_> = [("s", a), ("l", b), ("d", c)]
            .iter()
            .map(|(n, v)| (g.output(n).unwrap(), Tensor::scalar(*v)))
            .collect();
        let feeds: Vec<_> = feeds.iter().map(|(o, t)| (o, t.clone())).collect();
        s.run(&feeds, &[&g.output("f").unwrap()])
            .map(|r| r[0].to_scalar::<i32>().unwrap())
    };
    assert_eq!(run(0, 5, 2).unwrap(), 6);
    assert_eq!(run(5, 0, -2).unwrap(), 9);
    assert_eq!(run(3, 3, 0).unwrap(), 0);
    assert_eq!(run(0, 5, -1).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(run(0, 5, 0).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn the_gradient_of_a_function_is_computed_or_taken_from_the_library() {
    let attrs = [("f", fun("square")), ("Tin", tys(&[F, F])), ("Tout", tys(&[F]))];
    let nodes = vec![
        constant("x", 3.0f32),
        constant("dy", 2.0f32),
        node("g", "SymbolicGradient", &["x", "dy"], &attrs),
    ];
    let mut def = file(nodes, vec![twice("square", "Mul")]);
    assert_eq!(eval(&def, &[], "g"), Tensor::scalar(12.0f32));
    let own = function("own", &[("x", F), ("dy", F)], &[("dx", F, "dy")], vec![]);
    let library = def.library.as_mut().unwrap();
    library.function.push(own);
    library.gradient.push(GradientDef {
        function_name: "square".into(),
        gradient_func: "own".into(),
    });
    assert_eq!(eval(&def, &[], "g"), Tensor::scalar(2.0f32));
}

#[test]
fn functions_that_call_themselves_are_refused() {
    let f = |name: &str, calls: &str| {
        let nodes = vec![call("c", calls, &["x"], &[F], &[F])];
        function(name, &[("x", F)], &[("y", F, "c:output:0")], nodes)
    };
    let top = || vec![constant("k", 1.0f32), call("c", "f", &["k"], &[F], &[F])];
    let e = fails(top(), vec![f("f", "f")]);
    assert!(
        e.message().contains("f -> f") && e.message().contains("recursive"),
        "{e}"
    );
    let e = fails(top(), vec![f("f", "g"), f("g", "h"), f("h", "g")]);
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("g -> h -> g"), "{e}");
}

#[test]
fn a_function_that_gets_itself_as_an_attribute_ends_at_the_depth_limit() {
    // f(g) calls g(g).
    let mut f = function(
        "f",
        &[("x", F)],
        &[("y", F, "c:output:0")],
        vec![call("c", "f", &["x"], &[F], &[F])],
    );
    let open = make::value(attr_value::Value::Placeholder("g".into()));
    f.node_def[0].attr.insert("f".into(), open);
    let mut attrs = Attrs::new();
    attrs.set("g", fun("f"));
    let mut c = call("c", "f", &["k"], &[F], &[F]);
    c.attr.insert(
        "f".into(),
        attr_to_message(&AttrValue::Func("f".into(), attrs), None).unwrap(),
    );
    let e = fails(vec![constant("k", 1.0f32), c], vec![f]);
    assert!(
        matches!(e.code(), Code::ResourceExhausted | Code::InvalidArgument),
        "{e}"
    );
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let doubling = |i: usize| {
        let next = format!("f{}", i + 1);
        let nodes = vec![
            call("a", &next, &["x"], &[F], &[F]),
            call("b", &next, &["a:output:0"], &[F], &[F]),
        ];
        function(&format!("f{i}"), &[("x", F)], &[("y", F, "b:output:0")], nodes)
    };
    let mut functions: Vec<FunctionDef> = (0..64).map(doubling).collect();
    functions.push(twice("f64", "Mul"));
    let top = || vec![constant("k", 1.0f32), call("c", "f0", &["k"], &[F], &[F])];
    let e = fails(top(), functions.clone());
    assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
    // A few levels of it are a program, up to the limit that is set.
    let small = file(
        vec![constant("k", 1.0f32), call("c", "f58", &["k"], &[F], &[F])],
        functions,
    );
    assert!(import(&small).is_ok());
    let strict = ImportOptions::new().max_inlined_nodes(100);
    let e = import_into(&Graph::new(), &small, &strict).unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
}

#[test]
fn a_hundred_nested_calls_work_and_thousands_are_refused() {
    let chain = |n: usize| {
        let mut functions: Vec<FunctionDef> = (0..n)
            .map(|i| {
                let nodes = vec![call("c", &format!("f{}", i + 1), &["x"], &[F], &[F])];
                function(&format!("f{i}"), &[("x", F)], &[("y", F, "c:output:0")], nodes)
            })
            .collect();
        functions.push(twice(&format!("f{n}"), "Add"));
        file(
            vec![constant("k", 1.0f32), call("c", "f0", &["k"], &[F], &[F])],
            functions,
        )
    };
    assert_eq!(eval(&chain(100), &[], "c"), Tensor::scalar(2.0f32));
    assert_eq!(import(&chain(5_000)).unwrap_err().code(), Code::ResourceExhausted);
}

#[test]
fn what_does_not_fit_is_an_error_that_names_the_call() {
    let k = || constant("k", 1.0f32);
    let square = || vec![twice("square", "Mul")];
    let cases = [
        (call("c", "nobody", &["k"], &[F], &[F]), "nobody"),
        (call("c", "square", &[], &[], &[F]), "arguments"),
        (call("c", "square", &["k", "k"], &[F, F], &[F]), "arguments"),
        (call("c", "square", &["k"], &[I], &[F]), "int32"),
        (call("c", "square", &["k"], &[F], &[I]), "results"),
        (call("c", "square", &["k"], &[F], &[]), "results"),
        (node("c", "PartitionedCall", &["k"], &[]), "\"f\""),
        (node("c", "square", &[], &[]), "takes 1 arguments"),
        (cond("c", &[], &[], &[], "square", "square"), "condition"),
        (cond("c", &["k", "k"], &[F], &[], "square", "square"), "results"),
        (whil("c", &["k"], &[I], "square", "square"), "int32"),
        (whil("c", &["k", "k"], &[F], "square", "square"), "\"T\""),
        (
            node("c", "Case", &["k"], &[("branches", AttrValue::List(vec![]))]),
            "branches",
        ),
    ];
    for (n, part) in cases {
        let e = fails(vec![k(), n], square());
        assert!(
            e.to_string().contains(part) && e.to_string().contains('c'),
            "{part} is missing in {e}"
        );
    }
}

#[test]
fn malformed_bodies_are_errors() {
    let with = |edit: fn(&mut FunctionDef)| {
        let mut f = twice("f", "Mul");
        edit(&mut f);
        fails(vec![constant("k", 1.0f32), call("c", "f", &["k"], &[F], &[F])], vec![f])
    };
    for (edit, part) in [
        (
            (|f| f.node_def[0].input[1] = "nobody".into()) as fn(&mut FunctionDef),
            "nobody",
        ),
        (|f| f.node_def[0].input[1] = "r:no:0".into(), "r:no:0"),
        (|f| f.node_def[0].input[1] = "r:z:7".into(), "r:z:7"),
        (|f| f.node_def[0].input[1] = "r:z:0".into(), "cycle"),
        (|f| f.node_def[0].input[1] = "x:9".into(), "x:9"),
        (|f| f.ret.clear(), "return"),
        (|f| drop(f.ret.insert("y".into(), "r".into())), "output"),
        (
            |f| drop(f.control_ret.insert("e".into(), "no".into())),
            "control output",
        ),
        (|f| f.node_def.push(f.node_def[0].clone()), "two nodes"),
        (
            |f| {
                let mut n = f.node_def[0].clone();
                n.name = "r r".into();
                f.node_def.push(n);
            },
            "r r",
        ),
    ] {
        let e = with(edit);
        assert!(e.to_string().contains(part), "{part} is missing in {e}");
    }
}
