//! Graphs of control flow that make no sense: an error, or a result, and always an end.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod flow;

use std::time::Duration;

use actorflow::flow::{WhileOptions, cond, while_loop};
use actorflow::graphdef::proto::{self, GraphDef, attr_value::Value};
use actorflow::graphdef::{graph_to_def, import_graph};
use actorflow::{Code, DType, Graph, Output, PartialShape, Result, Session, SessionOptions, Tensor};
use flow::{enter, int_pinned, merge, raw_while, switch, wait};
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;

/// Runs in all modes, with a limit; all that is asked for is that it ends, with no broken invariant.
fn ends(g: &Graph, feeds: &[(&Output, Tensor)], y: &Output) -> Result<Vec<Tensor>> {
    let mut last = Err(actorflow::Error::internal("not run"));
    for threads in [1, 2] {
        let s = Session::with_options(
            g,
            SessionOptions {
                stall_timeout: Duration::from_millis(200),
                memory_budget: 64 << 20,
                ..SessionOptions::with_threads(threads)
            },
        )
        .unwrap();
        let mut r = s.runner().fetch(y).timeout(Duration::from_millis(400));
        for (o, t) in feeds {
            r = r.feed(o, t.clone());
        }
        last = if threads == 1 {
            r.run()
        } else {
            r.run_async().and_then(wait)
        };
        if let Err(e) = &last {
            assert_ne!(e.code(), Code::Internal, "{e}");
        }
    }
    last
}

#[track_caller]
fn refused(g: &Graph, y: &Output) -> actorflow::Error {
    let e = ends(g, &[], y).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument, "{e}");
    e
}

fn next_iteration(x: &Output) -> Output {
    x.unary("NextIteration").unwrap()
}

#[test]
fn a_cycle_without_a_next_iteration_is_refused() {
    let g = Graph::new();
    let x = g.constant(1.0f32).unwrap();
    let e = enter(&x, "loop", false, 10);
    let m = merge(&e, &e);
    let y = m.identity().unwrap();
    g.set_loop_input(&m.op(), 1, &y).unwrap();
    let exit = y.unary("Exit").unwrap();
    refused(&g, &exit);
    // The same without a loop around it.
    let m = merge(&x, &x);
    let y = m.identity().unwrap();
    g.set_loop_input(&m.op(), 1, &y).unwrap();
    refused(&g, &y);
}

#[test]
fn a_loop_that_nothing_starts_is_refused() {
    let g = Graph::new();
    let x = g.constant(1.0f32).unwrap();
    let m = merge(&x, &x);
    let n = next_iteration(&m);
    g.set_loop_input(&m.op(), 0, &n).unwrap();
    g.set_loop_input(&m.op(), 1, &n).unwrap();
    refused(&g, &m);
}

#[test]
fn an_exit_leaves_one_loop_only() {
    // A value of an inner loop that is used outside of both.
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let a = enter(&x, "outer", false, 10);
    let b = enter(&a, "inner", false, 10);
    let out = b.unary("Exit").unwrap();
    let y = out.plus(&x).unwrap();
    refused(&g, &y);
    let y = out.unary("Exit").unwrap().plus(&x).unwrap();
    assert_eq!(ends(&g, &[], &y).unwrap()[0], Tensor::from(2i32));
}

#[test]
fn a_loop_belongs_to_one_loop_around_it() {
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let a = enter(&x, "a", false, 10);
    let b = enter(&x, "b", false, 10);
    let (c, d) = (enter(&a, "inner", false, 10), enter(&b, "inner", false, 10));
    let y = c.plus(&d).unwrap();
    let y = y.unary("Exit").unwrap().unary("Exit").unwrap();
    refused(&g, &y);
}

#[test]
fn a_loop_inside_of_itself_is_refused_or_ends() {
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let a = enter(&x, "loop", false, 10);
    let b = enter(&a, "loop", false, 10);
    let y = b.unary("Exit").unwrap().unary("Exit").unwrap();
    let _ = ends(&g, &[], &y);
}

#[test]
fn a_control_edge_into_or_out_of_a_loop_is_refused() {
    for inwards in [true, false] {
        let g = Graph::new();
        let n = g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap();
        let zero = g.constant(0i32).unwrap();
        let limit = enter(&n, "loop", true, 10);
        let outside = n.identity().unwrap();
        let inside = std::cell::RefCell::new(None);
        let out = raw_while(
            "loop",
            10,
            &[zero],
            |v| v[0].less(&limit).unwrap(),
            |v| {
                let one = int_pinned(&v[0], 1);
                let mut b = g.op("AddV2").input(&v[0]).input(&one);
                if inwards {
                    b = b.control_input(&outside.op());
                }
                let next = b.output().unwrap();
                inside.replace(Some(next.clone()));
                vec![next]
            },
        );
        let y = if inwards {
            out[0].clone()
        } else {
            let inside = inside.take().unwrap();
            let b = g.op("AddV2").input(&out[0]).input(&n).control_input(&inside.op());
            b.output().unwrap()
        };
        let e = ends(&g, &[(&n, 3.into())], &y).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument, "{e}");
    }
}

#[test]
fn a_merge_of_two_live_sides_is_an_error_in_any_iteration() {
    let g = Graph::new();
    let n = g.constant(5i32).unwrap();
    let zero = g.constant(0i32).unwrap();
    let limit = enter(&n, "loop", true, 10);
    let out = raw_while(
        "loop",
        10,
        &[zero],
        |v| v[0].less(&limit).unwrap(),
        |v| {
            // Below 3 only the left side is live, then both are.
            let p = v[0].less(&int_pinned(&v[0], 3)).unwrap();
            let (_, yes) = switch(&v[0], &p);
            let q = v[0].less(&int_pinned(&v[0], 2)).unwrap();
            let (no, _) = switch(&v[0], &q);
            vec![merge(&yes, &no).plus(&int_pinned(&v[0], 1)).unwrap()]
        },
    );
    let e = refused(&g, &out[0]);
    assert!(e.message().contains("second live input"), "{e}");
}

#[test]
fn a_merge_of_dead_sides_only_is_dead_and_a_loop_of_dead_values_ends() {
    let g = Graph::new();
    let no = g.constant(false).unwrap();
    let x = g.constant(1i32).unwrap();
    let (_, dead) = switch(&x, &no);
    let m = merge(&dead, &dead);
    let e = enter(&m, "loop", false, 10);
    let y = e.unary("Exit").unwrap();
    assert_eq!(ends(&g, &[], &y).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn an_endless_loop_without_progress_outside_ends_at_its_deadline() {
    let g = Graph::new();
    let x = g.constant(1i32).unwrap();
    let yes = g.constant(true).unwrap();
    let out = while_loop(
        &[x],
        |_| Ok(yes.clone()),
        |v| Ok(vec![v[0].clone()]),
        WhileOptions::default(),
    )
    .unwrap();
    let e = ends(&g, &[], &out[0]).unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded, "{e}");
}

/// A loop with a conditional and a loop inside.
fn sound() -> GraphDef {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap();
    let c = g.constant(2i32).unwrap();
    let start = [g.constant(0i32).unwrap(), g.constant(1i32).unwrap()];
    let body = |v: &[Output]| {
        let odd = v[0].modulo(&c)?.equal(&v[0].scalar_like(1.0)?)?;
        let inner = || {
            let vars = [v[0].clone(), v[1].clone()];
            let body = |w: &[Output]| Ok(vec![(&w[0] - 1)?, (&w[1] + &v[0])?]);
            let some = |w: &[Output]| w[0].greater(&w[0].scalar_like(0.0)?);
            Ok(vec![while_loop(&vars, some, body, WhileOptions::default())?[1].clone()])
        };
        let x = cond(&odd, inner, || Ok(vec![(&v[1] * &c)?]))?;
        Ok(vec![(&v[0] + 1)?, x[0].clone()])
    };
    let out = while_loop(&start, |v| v[0].less(&n), body, WhileOptions::default()).unwrap();
    g.op("Identity").input(&out[1]).name("out").finish().unwrap();
    graph_to_def(&g).unwrap()
}

/// A change of a graph.
#[derive(Debug, Clone)]
enum Damage {
    /// An input of a node comes from elsewhere.
    Rewire(Index, Index, Index, u8),
    /// A node waits for another.
    Wait(Index, Index),
    /// A node becomes another primitive.
    Become(Index, u8),
    /// An input is lost.
    Lose(Index, Index),
    /// An `Enter` changes its frame, or whether it is constant, or its bound.
    Frame(Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let i = any::<Index>;
    prop_oneof![
        4 => (i(), i(), i(), 0..2u8).prop_map(|(a, b, c, d)| Damage::Rewire(a, b, c, d)),
        2 => (i(), i()).prop_map(|(a, b)| Damage::Wait(a, b)),
        2 => (i(), 0..7u8).prop_map(|(a, b)| Damage::Become(a, b)),
        1 => (i(), i()).prop_map(|(a, b)| Damage::Lose(a, b)),
        2 => (i(), 0..6u8).prop_map(|(a, b)| Damage::Frame(a, b)),
    ]
}

fn apply(def: &mut GraphDef, damage: &Damage) {
    let primitive = |n: &proto::NodeDef| {
        [
            "Merge",
            "Switch",
            "Enter",
            "Exit",
            "NextIteration",
            "LoopCond",
            "Identity",
        ]
        .contains(&n.op.as_str())
    };
    let value = |v: Value| proto::AttrValue { value: Some(v) };
    let n = def.node.len();
    let some = |def: &GraphDef, i: &Index| {
        let all: Vec<usize> = (0..n).filter(|k| primitive(&def.node[*k])).collect();
        all[i.index(all.len())]
    };
    match damage {
        Damage::Rewire(at, input, from, out) => {
            let to = some(def, at);
            let source = def.node[from.index(n)].name.clone();
            let inputs = &mut def.node[to].input;
            if !inputs.is_empty() {
                let k = input.index(inputs.len());
                inputs[k] = if *out == 0 { source } else { format!("{source}:1") };
            }
        }
        Damage::Wait(at, on) => {
            let on = format!("^{}", def.node[on.index(n)].name);
            def.node[at.index(n)].input.push(on);
        }
        Damage::Become(at, what) => {
            let ops = [
                "Identity",
                "Exit",
                "NextIteration",
                "LoopCond",
                "Merge",
                "Switch",
                "Enter",
            ];
            let at = some(def, at);
            let node = &mut def.node[at];
            node.op = ops[usize::from(*what)].to_owned();
            if node.op == "Merge" {
                let k = node.input.iter().filter(|i| !i.starts_with('^')).count();
                node.attr.insert("N".to_owned(), value(Value::I(k as i64)));
            }
            if node.op == "Enter" {
                node.attr
                    .insert("frame_name".to_owned(), value(Value::S(b"new".to_vec().into())));
            }
        }
        Damage::Lose(at, input) => {
            let at = some(def, at);
            let inputs = &mut def.node[at].input;
            if !inputs.is_empty() {
                let k = input.index(inputs.len());
                inputs.remove(k);
            }
        }
        Damage::Frame(at, how) => {
            let enters: Vec<usize> = (0..n).filter(|k| def.node[*k].op == "Enter").collect();
            if enters.is_empty() {
                return;
            }
            let attr = &mut def.node[enters[at.index(enters.len())]].attr;
            let (name, v) = match how {
                0 => ("is_constant", Value::B(true)),
                1 => ("is_constant", Value::B(false)),
                2 => ("parallel_iterations", Value::I(1)),
                3 => ("parallel_iterations", Value::I(-1)),
                4 => ("frame_name", Value::S(b"elsewhere".to_vec().into())),
                _ => ("frame_name", Value::S(b"while/while_context".to_vec().into())),
            };
            attr.insert(name.to_owned(), value(v));
        }
    }
}

#[test]
fn the_graph_that_is_damaged_below_is_sound() {
    let g = import_graph(sound().encode_to_vec()).unwrap().graph;
    let (n, y) = (g.output("n").unwrap(), g.output("out").unwrap());
    // 0: 2; 1: 2 + 1; 2: 6; 3: 6 + 9; 4: 30
    assert_eq!(ends(&g, &[(&n, 5.into())], &y).unwrap()[0], Tensor::from(30i32));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn damaged_graphs_give_an_error_or_a_result(damages in prop::collection::vec(damage(), 1..4)) {
        let mut def = sound();
        for d in &damages {
            apply(&mut def, d);
        }
        if let Ok(imported) = import_graph(def.encode_to_vec()) {
            let g = imported.graph;
            if let (Ok(n), Ok(y)) = (g.output("n"), g.output("out")) {
                let _ = ends(&g, &[(&n, 5.into())], &y);
            }
        }
    }
}
