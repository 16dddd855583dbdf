//! Conditionals and loops, from the primitives up.
#![allow(clippy::unwrap_used)] // helpers of tests

mod flow;

use std::time::Duration;

use actorflow::{Code, DType, Graph, GraphVariables, Operation, Output, PartialShape, Tensor};
use flow::{enter, int_pinned, merge, pinned, raw_while, run, session, switch};

fn counter(g: &Graph, parallel: i64) -> (Output, Output) {
    let n = g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap();
    let zero = g.constant(0i32).unwrap();
    let limit = enter(&n, "count", true, parallel);
    let out = raw_while(
        "count",
        parallel,
        &[zero],
        |v| v[0].less(&limit).unwrap(),
        |v| vec![v[0].plus(&int_pinned(&v[0], 1)).unwrap()],
    );
    (n, out[0].clone())
}

#[test]
fn a_conditional_takes_one_side_and_merges_it() {
    let g = Graph::new();
    let p = g.placeholder("p", DType::Bool, PartialShape::scalar()).unwrap();
    let x = g.constant(3.0f32).unwrap();
    let (no, yes) = switch(&x, &p);
    let m = g
        .op("Merge")
        .input_list(&[(&no + 1.0).unwrap(), (&yes * 10.0).unwrap()])
        .finish()
        .unwrap();
    let (value, index) = (m.output(0).unwrap(), m.output(1).unwrap());
    for (pred, want, side) in [(false, 4.0f32, 0i32), (true, 30.0, 1)] {
        let out = run(&g, &[(&p, pred.into())], &[&value, &index]).unwrap();
        assert_eq!(out, [Tensor::from(want), Tensor::from(side)]);
    }
}

#[test]
fn a_dead_fetch_is_an_error_and_the_session_stays_usable() {
    let g = Graph::new();
    let p = g.placeholder("p", DType::Bool, PartialShape::scalar()).unwrap();
    let x = g.constant(3.0f32).unwrap();
    let (no, yes) = switch(&x, &p);
    let e = run(&g, &[(&p, false.into())], &[&yes]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert_eq!(run(&g, &[(&p, false.into())], &[&no]).unwrap()[0], Tensor::from(3.0f32));
}

#[test]
fn two_live_inputs_of_a_merge_are_an_error() {
    let g = Graph::new();
    let (a, b) = (g.constant(1.0f32).unwrap(), g.constant(2.0f32).unwrap());
    let e = run(&g, &[], &[&merge(&a, &b)]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("second live input"), "{e}");
}

#[test]
fn a_merge_waits_for_its_control_inputs() {
    let g = Graph::new();
    let p = g.placeholder("p", DType::Bool, PartialShape::scalar()).unwrap();
    let x = g.constant(3.0f32).unwrap();
    let (no, yes) = switch(&x, &p);
    let dead = yes.identity().unwrap();
    // A dead control input counts as an arrival, and does not kill the Merge.
    let m = g
        .op("Merge")
        .input_list(&[no, yes])
        .control_input(&dead.op())
        .output()
        .unwrap();
    assert_eq!(run(&g, &[(&p, false.into())], &[&m]).unwrap()[0], Tensor::from(3.0f32));
}

#[test]
fn dead_tokens_follow_control_edges_until_a_trigger() {
    let g = Graph::new();
    let p = g.placeholder("p", DType::Bool, PartialShape::scalar()).unwrap();
    let x = g.constant(3.0f32).unwrap();
    let (_, yes) = switch(&x, &p);
    let dead = yes.identity().unwrap();
    let after = |op: &Operation| {
        let _c = g.control_dependencies(std::slice::from_ref(op));
        g.constant(5.0f32).unwrap()
    };
    let killed = after(&dead.op());
    let trigger = g.op("ControlTrigger").control_input(&dead.op()).finish().unwrap();
    let alive = after(&trigger);
    let feeds = [(&p, Tensor::from(false))];
    assert_eq!(run(&g, &feeds, &[&killed]).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(run(&g, &feeds, &[&alive]).unwrap()[0], Tensor::from(5.0f32));
    assert_eq!(
        run(&g, &[(&p, true.into())], &[&killed]).unwrap()[0],
        Tensor::from(5.0f32)
    );
}

#[test]
fn an_error_on_the_side_that_is_not_taken_is_harmless() {
    let g = Graph::new();
    let p = g.placeholder("p", DType::Bool, PartialShape::scalar()).unwrap();
    let x = g.constant(3.0f32).unwrap();
    let (no, yes) = switch(&x, &p);
    let abort = g
        .op("Abort")
        .attr("error_msg", "no")
        .control_input(&yes.identity().unwrap().op())
        .finish()
        .unwrap();
    let other = {
        let _c = g.control_dependencies(&[abort]);
        yes.identity().unwrap()
    };
    let m = merge(&no, &other);
    assert_eq!(run(&g, &[(&p, false.into())], &[&m]).unwrap()[0], Tensor::from(3.0f32));
    let e = run(&g, &[(&p, true.into())], &[&m]).unwrap_err();
    assert_eq!((e.code(), e.message()), (Code::Aborted, "no"));
}

#[test]
fn a_switch_of_many_sends_to_one() {
    let g = Graph::new();
    let i = g.placeholder("i", DType::I32, PartialShape::scalar()).unwrap();
    let x = g.constant(3.0f32).unwrap();
    let s = g
        .op("_SwitchN")
        .input(&x)
        .input(&i)
        .attr("num_outs", 3i64)
        .finish()
        .unwrap();
    let sides: Vec<Output> = (0..3)
        .map(|k| (&s.output(k).unwrap() * (k as f32 + 1.0)).unwrap())
        .collect();
    let m = g.op("Merge").input_list(&sides).output().unwrap();
    for (k, want) in [(0, 3.0f32), (1, 6.0), (2, 9.0), (7, 9.0), (-1, 9.0)] {
        assert_eq!(run(&g, &[(&i, k.into())], &[&m]).unwrap()[0], Tensor::from(want));
    }
}

#[test]
fn a_loop_counts() {
    for parallel in [1, 2, 10] {
        let g = Graph::new();
        let (n, out) = counter(&g, parallel);
        for k in [0, 1, 2, 3, 100, 10_000] {
            assert_eq!(run(&g, &[(&n, k.into())], &[&out]).unwrap()[0], Tensor::from(k));
        }
    }
}

#[test]
fn a_loop_of_a_million_iterations_runs_in_constant_memory() {
    let g = Graph::new();
    let (n, out) = counter(&g, 10);
    let s = session(&g, 2);
    for _ in 0..2 {
        assert_eq!(
            s.run(&[(&n, 1_000_000.into())], &[&out]).unwrap()[0],
            Tensor::from(1_000_000)
        );
    }
}

#[test]
fn values_swap_places_from_iteration_to_iteration() {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap();
    let zero = g.constant(0i32).unwrap();
    let (a, b) = (g.constant(1.0f32).unwrap(), g.constant(2.0f32).unwrap());
    let limit = enter(&n, "swap", true, 10);
    let out = raw_while(
        "swap",
        10,
        &[zero, a, b],
        |v| v[0].less(&limit).unwrap(),
        |v| vec![v[0].plus(&int_pinned(&v[0], 1)).unwrap(), v[2].clone(), v[1].clone()],
    );
    let got = run(&g, &[(&n, 5.into())], &[&out[1], &out[2]]).unwrap();
    assert_eq!(got, [Tensor::from(2.0f32), Tensor::from(1.0f32)]);
}

/// sum over i < n of sum over j < i of (i * j + c), nested loops with an invariant of the outer in the inner one.
fn nested(g: &Graph, parallel: i64) -> (Output, Output) {
    let n = g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap();
    let c = g.constant(7i32).unwrap();
    let (zero, sum) = (g.constant(0i32).unwrap(), g.constant(0i32).unwrap());
    let limit = enter(&n, "outer", true, parallel);
    let c1 = enter(&c, "outer", true, parallel);
    let out = raw_while(
        "outer",
        parallel,
        &[zero, sum],
        |v| v[0].less(&limit).unwrap(),
        |v| {
            let i = enter(&v[0], "inner", true, parallel);
            let c2 = enter(&c1, "inner", true, parallel);
            let inner = raw_while(
                "inner",
                parallel,
                &[int_pinned(&v[0], 0), v[1].clone()],
                |w| w[0].less(&i).unwrap(),
                |w| {
                    let term = i.times(&w[0]).unwrap().plus(&c2).unwrap();
                    vec![w[0].plus(&int_pinned(&w[0], 1)).unwrap(), w[1].plus(&term).unwrap()]
                },
            );
            vec![v[0].plus(&int_pinned(&v[0], 1)).unwrap(), inner[1].clone()]
        },
    );
    (n, out[1].clone())
}

#[test]
fn frames_nest() {
    for parallel in [1, 3, 32] {
        let g = Graph::new();
        let (n, out) = nested(&g, parallel);
        for k in [0i32, 1, 2, 9, 40] {
            let want: i32 = (0..k).map(|i| (0..i).map(|j| i * j + 7).sum::<i32>()).sum();
            assert_eq!(
                run(&g, &[(&n, k.into())], &[&out]).unwrap()[0],
                Tensor::from(want),
                "{k}"
            );
        }
    }
}

#[test]
fn a_loop_on_the_side_that_is_not_taken_is_dead_as_a_whole() {
    let g = Graph::new();
    let p = g.placeholder("p", DType::Bool, PartialShape::scalar()).unwrap();
    let n = g.constant(5i32).unwrap();
    let (no, yes) = switch(&n, &p);
    let limit = enter(&yes, "loop", true, 10);
    let start = int_pinned(&yes.identity().unwrap(), 0);
    let out = raw_while(
        "loop",
        10,
        &[start],
        |v| v[0].less(&limit).unwrap(),
        |v| vec![v[0].plus(&int_pinned(&v[0], 2)).unwrap()],
    );
    // The dead Exit arrives once, when the frame is over.
    let m = merge(&no, &out[0]);
    assert_eq!(run(&g, &[(&p, false.into())], &[&m]).unwrap()[0], Tensor::from(5i32));
    assert_eq!(run(&g, &[(&p, true.into())], &[&m]).unwrap()[0], Tensor::from(6i32));
}

#[test]
fn conditionals_in_a_loop_are_decided_in_each_iteration() {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap();
    let (zero, sum) = (g.constant(0i32).unwrap(), g.constant(0i32).unwrap());
    let limit = enter(&n, "loop", true, 4);
    let out = raw_while(
        "loop",
        4,
        &[zero, sum],
        |v| v[0].less(&limit).unwrap(),
        |v| {
            let odd = v[0].modulo(&int_pinned(&v[0], 2)).unwrap();
            let odd = odd.equal(&int_pinned(&v[0], 1)).unwrap();
            let (even_side, odd_side) = switch(&v[1], &odd);
            let (_, i) = switch(&v[0], &odd);
            let sum = merge(&even_side, &odd_side.plus(&i).unwrap());
            vec![v[0].plus(&int_pinned(&v[0], 1)).unwrap(), sum]
        },
    );
    for k in [0i32, 1, 2, 11, 200] {
        let want: i32 = (0..k).filter(|i| i % 2 == 1).sum();
        assert_eq!(run(&g, &[(&n, k.into())], &[&out[1]]).unwrap()[0], Tensor::from(want));
    }
}

#[test]
fn a_constant_that_arrives_late_reaches_iterations_that_have_begun() {
    // Two counters in one loop; the second one's step comes through a long chain, so that the first runs ahead.
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, PartialShape::scalar()).unwrap();
    let mut late = g.placeholder("late", DType::I32, PartialShape::scalar()).unwrap();
    let fed = late.clone();
    for _ in 0..500 {
        late = late.identity().unwrap();
    }
    let (zero, sum) = (g.constant(0i32).unwrap(), g.constant(0i32).unwrap());
    let limit = enter(&n, "loop", true, 10);
    let step = enter(&late, "loop", true, 10);
    let out = raw_while(
        "loop",
        10,
        &[zero, sum],
        |v| v[0].less(&limit).unwrap(),
        |v| vec![v[0].plus(&int_pinned(&v[0], 1)).unwrap(), v[1].plus(&step).unwrap()],
    );
    let got = run(&g, &[(&n, 50.into()), (&fed, 3.into())], &[&out[0], &out[1]]).unwrap();
    assert_eq!(got, [Tensor::from(50), Tensor::from(150)]);
}

#[test]
fn an_edge_into_a_loop_without_an_enter_is_refused() {
    let g = Graph::new();
    let n = g.constant(5i32).unwrap();
    let zero = g.constant(0i32).unwrap();
    let limit = enter(&n, "loop", true, 10);
    let one = g
        .op("Const")
        .attr("dtype", DType::I32)
        .attr("value", Tensor::from(1i32))
        .name("outside")
        .output()
        .unwrap();
    let out = raw_while(
        "loop",
        10,
        &[zero],
        |v| v[0].less(&limit).unwrap(),
        |v| vec![g.op("AddV2").input(&v[0]).input(&one).name("inside").output().unwrap()],
    );
    let e = run(&g, &[], &[&out[0]]).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("outside") && e.message().contains("inside"), "{e}");
}

#[test]
fn values_inside_of_a_loop_cannot_be_fetched_and_exits_need_a_loop() {
    let g = Graph::new();
    let x = g.constant(1.0f32).unwrap();
    let e = enter(&x, "loop", false, 10);
    assert_eq!(run(&g, &[], &[&e]).unwrap_err().code(), Code::InvalidArgument);
    let exit = x.unary("Exit").unwrap();
    assert_eq!(run(&g, &[], &[&exit]).unwrap_err().code(), Code::InvalidArgument);
    let next = x.unary("NextIteration").unwrap();
    assert_eq!(run(&g, &[], &[&next]).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn an_exit_that_is_live_twice_is_an_error() {
    let g = Graph::new();
    let (n, out) = counter(&g, 10);
    // Taken from the Merge instead of from behind the Switch.
    let merge = out.op().input(0).unwrap().op().input(0).unwrap();
    let wrong = merge.unary("Exit").unwrap();
    assert_eq!(
        run(&g, &[(&n, 3.into())], &[&wrong]).unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[test]
fn an_error_in_a_loop_names_node_and_iteration() {
    let g = Graph::new();
    let n = g.constant(5i32).unwrap();
    let start = g.constant(-2i32).unwrap();
    let limit = enter(&n, "loop", true, 1);
    let out = raw_while(
        "loop",
        1,
        &[start],
        |v| v[0].less(&limit).unwrap(),
        |v| {
            let bad = int_pinned(&v[0], 1).floor_div(&v[0]).unwrap();
            vec![
                v[0].plus(&int_pinned(&v[0], 1))
                    .unwrap()
                    .plus(&bad.minus(&bad).unwrap())
                    .unwrap(),
            ]
        },
    );
    let e = run(&g, &[], &[&out[0]]).unwrap_err();
    assert!(e.message().contains("iteration 2 of loop \"loop\""), "{e}");
    assert!(e.node().unwrap().contains("FloorDiv"), "{e}");
}

#[test]
fn an_endless_loop_ends_at_its_deadline() {
    let g = Graph::new();
    let x = g.constant(1.0f32).unwrap();
    let out = raw_while(
        "loop",
        10,
        &[x],
        |v| v[0].greater(&pinned(&v[0], 0.0)).unwrap(),
        |v| vec![v[0].clone()],
    );
    for threads in [1, 2] {
        let s = session(&g, threads);
        let e = s
            .runner()
            .fetch(&out[0])
            .timeout(Duration::from_millis(50))
            .run()
            .unwrap_err();
        assert_eq!(e.code(), Code::DeadlineExceeded);
    }
}

#[test]
fn a_loop_reads_and_writes_a_reference_variable() {
    let g = Graph::new();
    let v = g.variable_builder("v").reference().build(1.0f32).unwrap();
    let (zero, limit) = (g.constant(0i32).unwrap(), g.constant(100i32).unwrap());
    let limit = enter(&limit, "loop", true, 10);
    let inside = g
        .op("RefEnter")
        .input(v.handle())
        .attr("frame_name", "loop")
        .attr("is_constant", true)
        .output()
        .unwrap();
    let out = raw_while(
        "loop",
        10,
        &[zero],
        |i| i[0].less(&limit).unwrap(),
        |i| {
            let one = pinned(&i[0], 1.0);
            let add = g.op("AssignAdd").input(&inside).input(&one).finish().unwrap();
            let _c = g.control_dependencies(&[add]);
            // A reading of the reference between two writings.
            let read = inside.identity().unwrap();
            let step = int_pinned(&read, 1);
            vec![i[0].plus(&step).unwrap()]
        },
    );
    for threads in [1, 2] {
        let s = session(&g, threads);
        s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
        assert_eq!(s.run(&[], &[&out[0]]).unwrap()[0], Tensor::from(100i32));
        assert_eq!(s.run(&[], &[v.value()]).unwrap()[0], Tensor::from(101.0f32));
    }
}
