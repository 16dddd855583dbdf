//! Networks that lose, delay and withhold: steps give the right values or an error that names the task, in bounded time.
#![allow(clippy::unwrap_used)] // helpers of tests

mod cluster;

use std::time::{Duration, Instant};

use actorflow::{Code, DType, Graph, GraphVariables, Output, Session, Tensor};
use cluster::relay::Weather;
use cluster::{Cluster, options};

const TASKS: &[(&str, u32)] = &[("ps", 0), ("worker", 0)];

/// A variable on the parameter server, and a worker that adds to it what it is fed.
struct Adder {
    graph: Graph,
    x: Output,
    value: Output,
}

fn adder() -> Adder {
    let g = Graph::new();
    let v = {
        let _ps = g.device_scope("/job:ps");
        g.variable("v", Tensor::from([0f32, 0.0, 0.0])).unwrap()
    };
    let _worker = g.device_scope("/job:worker");
    let x = g.placeholder("x", DType::F32, [Some(3)]).unwrap();
    let y = (x.square().unwrap() * 0.37).unwrap();
    let add = {
        let _ps = g.device_scope("/job:ps");
        v.assign_add(&y).unwrap()
    };
    let value = {
        let _after = g.control_dependencies(std::slice::from_ref(&add));
        let _ps = g.device_scope("/job:ps");
        g.op("ReadVariableOp")
            .input(v.handle())
            .attr("dtype", DType::F32)
            .output()
            .unwrap()
    };
    Adder { graph: g, x, value }
}

fn trained(weather: Weather) -> Tensor {
    let c = Cluster::behind_relays(TASKS, weather);
    let a = adder();
    let s = Session::on(&a.graph, &c.servers[1], options()).unwrap();
    s.execute(&[&a.graph.global_variables_initializer().unwrap()]).unwrap();
    let mut last = None;
    for i in 0..40 {
        let x = Tensor::from([i as f32 * 0.1, 1.0 / (i + 1) as f32, -3.3]);
        last = s.run(&[(&a.x, x)], &[&a.value]).unwrap().pop();
    }
    last.unwrap()
}

#[test]
fn loss_and_delay_change_no_value() {
    let bad = Weather {
        lost_per_mille: 10,
        delay: Duration::from_millis(10),
        jitter: Duration::from_millis(20),
    };
    let (clear, stormy) = (trained(Weather::default()), trained(bad));
    assert_eq!(clear.bytes().unwrap(), stormy.bytes().unwrap());
}

fn partition(inward: bool, outward: bool) {
    let c = Cluster::behind_relays(TASKS, Weather::default());
    let a = adder();
    let s = Session::on(&a.graph, &c.servers[1], options()).unwrap();
    let init = a.graph.global_variables_initializer().unwrap();
    s.execute(&[&init]).unwrap();
    let x = || Tensor::from([1f32, 2.0, 3.0]);
    s.run(&[(&a.x, x())], &[&a.value]).unwrap();
    c.relays[0].close(inward, outward);
    let begun = Instant::now();
    let e = s.run(&[(&a.x, x())], &[&a.value]).unwrap_err();
    assert_eq!(e.code(), Code::Unavailable, "{e}");
    assert!(e.to_string().contains("ps"), "{e}");
    // Lost after five seconds of silence; the rest is for a machine that is busy.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    c.relays[0].close(false, false);
    // The session works again: at the latest when both sides have noticed that they had lost each other. A step that
    // failed was applied once or not at all.
    let mut failed = 1;
    let got = loop {
        match s.run(&[(&a.x, x())], &[&a.value]) {
            Ok(mut got) => break got.remove(0),
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(40), "{e}"),
        }
        failed += 1;
        std::thread::sleep(Duration::from_millis(200));
    };
    let steps = got.as_slice::<f32>().unwrap()[0] / 0.37;
    assert!((steps - steps.round()).abs() < 1e-3, "{steps}");
    assert!(
        (2..=2 + failed).contains(&(steps.round() as i32)),
        "{steps} after {failed} failures"
    );
}

#[test]
fn a_partition_is_an_error_that_names_the_task_and_heals() {
    partition(true, true);
}

#[test]
fn a_partition_of_one_way_is_noticed_too() {
    partition(true, false);
    partition(false, true);
}
