//! When reference variables are read, as programs of TensorFlow 1.x rely on it: an identity of a variable is the
//! variable, not a copy, for whoever runs after an assignment.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use actorflow::flow::cond;
use actorflow::{
    DType, Graph, GraphVariables, Operation, Output, PartialShape, Passes, Session, SessionOptions, Tensor,
};

/// A graph with reference variable `v`, 10 at first, and its identity, which waits for nothing.
fn variable() -> (Graph, Output, Output) {
    let g = Graph::new();
    let v = g
        .variable_builder("v")
        .reference()
        .build(10f32)
        .unwrap()
        .handle()
        .clone();
    let read = g.op("Identity").input(&v).name("v/read").output().unwrap();
    (g, v, read)
}

fn add_one(v: &Output) -> Operation {
    let g = v.graph().clone();
    let one = g.constant(1f32).unwrap();
    g.op("AssignAdd").input(v).input(&one).finish().unwrap()
}

/// The fetched values in a new session, which are the same with and without passes.
fn fetched(g: &Graph, feeds: &[(&Output, Tensor)], fetches: &[&Output]) -> Vec<f32> {
    let of = |passes| {
        let options = SessionOptions {
            passes,
            ..SessionOptions::default()
        };
        let s = Session::with_options(g, options).unwrap();
        s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
        let found = s.run(feeds, fetches).unwrap();
        found
            .iter()
            .map(|t| t.to_vec::<f32>().unwrap()[0])
            .collect::<Vec<f32>>()
    };
    let all = of(Passes::ALL);
    assert_eq!(all, of(Passes::NONE));
    all
}

#[test]
fn what_runs_after_an_assignment_sees_it_through_an_identity_that_ran_before() {
    let (g, v, read) = variable();
    let again = read.identity().unwrap();
    let after = {
        let _after = g.control_dependencies(&[add_one(&v)]);
        [(&read * 2.0).unwrap(), (&again * 3.0).unwrap()]
    };
    assert_eq!(fetched(&g, &[], &[&after[0], &after[1]]), [22., 33.]);
}

#[test]
fn what_an_assignment_waits_for_sees_the_value_before() {
    let (g, v, read) = variable();
    let before = (&read * 2.0).unwrap();
    let assign = g.op("Assign").input(&v).input(&before).output().unwrap();
    let after = {
        let _after = g.control_dependencies(&[assign.op()]);
        (&read + &before).unwrap()
    };
    assert_eq!(fetched(&g, &[], &[&before, &after]), [20., 40.]);
}

#[test]
fn an_identity_with_a_place_in_time_keeps_the_value_of_then() {
    let (g, v, _) = variable();
    let first = add_one(&v);
    let between = {
        let _after = g.control_dependencies(&[first]);
        g.op("Identity").input(&v).output().unwrap()
    };
    // What computes with it before the second assignment, and what it waits for.
    let kept = (&between * 1.0).unwrap();
    let second = {
        let _after = g.control_dependencies(&[kept.op()]);
        add_one(&v)
    };
    let last = {
        let _after = g.control_dependencies(&[second]);
        (&between * 1.0).unwrap()
    };
    assert_eq!(fetched(&g, &[], &[&kept, &last]), [11., 11.]);
}

#[test]
fn a_fetched_variable_has_its_value_at_the_end_of_the_run() {
    let (g, v, read) = variable();
    let assigned = add_one(&v).output(0).unwrap();
    assert_eq!(fetched(&g, &[], &[&v, &assigned, &read]), [11., 11., 11.]);
}

#[test]
fn a_fetch_does_not_wait_for_what_may_not_run() {
    let (g, v, _) = variable();
    let choice = g.placeholder("choice", DType::Bool, PartialShape::scalar()).unwrap();
    let changed = cond(
        &choice,
        || Ok(vec![add_one(&v).output(0)?.identity()?]),
        || Ok(vec![g.constant(0f32)?]),
    )
    .unwrap()
    .remove(0);
    assert_eq!(
        fetched(&g, &[(&choice, Tensor::scalar(false))], &[&changed, &v]),
        [0., 10.]
    );
    assert_eq!(fetched(&g, &[(&choice, Tensor::scalar(true))], &[&changed])[0], 11.);
}
