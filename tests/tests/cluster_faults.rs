//! Networks that lose, delay and withhold: steps give the right values or an error that names the task, in bounded time.
#![allow(clippy::unwrap_used)] // helpers of tests

mod cluster;

use std::time::{Duration, Instant};

use actorflow::cluster::{ClusterInfo, TaskName};
use actorflow::{Code, DType, Graph, GraphVariables, Output, Tensor};
use cluster::relay::Weather;
use cluster::{Cluster, doubled, on_ps};

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
    let s = c.session(&a.graph, 1);
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
    let s = c.session(&a.graph, 1);
    let init = a.graph.global_variables_initializer().unwrap();
    s.execute(&[&init]).unwrap();
    let x = || Tensor::from([1f32, 2.0, 3.0]);
    s.run(&[(&a.x, x())], &[&a.value]).unwrap();
    // A connection that another one will take the place of, as when a certificate is renewed: either may be lost first.
    c.servers[0].set_identity(c.identity("task/ps/0")).unwrap();
    c.relays[0].close(inward, outward);
    c.relays[1].close(inward, outward);
    let begun = Instant::now();
    let e = s.run(&[(&a.x, x())], &[&a.value]).unwrap_err();
    assert_eq!(e.code(), Code::Unavailable, "{e}");
    assert!(e.to_string().contains("/job:ps/task:0"), "{e}");
    // Five seconds of silence, and one to say so.
    assert!(begun.elapsed() <= Duration::from_secs(6), "{:?}", begun.elapsed());
    c.relays.iter().for_each(|r| r.close(false, false));
    // The very next step works. The one that failed was applied once or not at all.
    let got = s.run(&[(&a.x, x())], &[&a.value]).unwrap();
    let steps = got[0].as_slice::<f32>().unwrap()[0] / 0.37;
    assert!((steps - steps.round()).abs() < 1e-3, "{steps}");
    assert!((2..=3).contains(&(steps.round() as i32)), "{steps}");
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

/// The way to the parameter server is cut while a step waits for it, and the error says what for.
fn cut_in_a_step(inward: bool, outward: bool) {
    let c = Cluster::behind_relays(TASKS, Weather::default());
    let g = Graph::new();
    let head = {
        let _ps = g.device_scope("/job:ps/task:0");
        let types = || vec![DType::F32];
        let queue = g.op("FIFOQueueV2").attr("component_types", types()).output().unwrap();
        let head = g.op("QueueDequeueV2").input(&queue).attr("component_types", types());
        head.name("head").output().unwrap()
    };
    let (last, near) = {
        let _worker = g.device_scope("/job:worker/task:0");
        let last = g.op("Neg").input(&head).name("last").output().unwrap();
        (last, g.constant([3f32]).unwrap().square().unwrap())
    };
    let s = c.session(&g, 1);
    let info = ClusterInfo::connect(&c.servers[1].target(), &c.client()).unwrap();
    let waits = |job: &str| {
        let task = TaskName::new(job, 0).unwrap();
        info.steps(&task).is_ok_and(|steps| steps.iter().any(|s| s.waiting))
    };
    let (e, cut, ended) = std::thread::scope(|scope| {
        let run = scope.spawn(|| (s.run(&[], &[&last]).unwrap_err(), Instant::now()));
        let until = Instant::now() + Duration::from_secs(60);
        while !(waits("ps") && waits("worker")) {
            assert!(Instant::now() < until && !run.is_finished(), "the step does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        let cut = Instant::now();
        c.relays.iter().for_each(|r| r.close(inward, outward));
        let (e, ended) = run.join().unwrap();
        (e, cut, ended)
    });
    assert_eq!((e.code(), e.task()), (Code::Unavailable, Some("/job:ps/task:0")), "{e}");
    let said = e.to_string();
    let incarnation = format!("incarnation {}", c.servers[0].incarnation());
    for part in ["/job:ps/task:0", &incarnation, "step ", "waits for", "head:0"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    // Five seconds of silence, and one to say so.
    assert!(ended - cut <= Duration::from_secs(6), "{:?}", ended - cut);
    // What does not need the other one works meanwhile, and all does when the way is open.
    assert_eq!(s.run(&[], &[&near]).unwrap()[0], Tensor::from([9f32]));
    c.relays.iter().for_each(|r| r.close(false, false));
    let e = s
        .runner()
        .fetch(&last)
        .timeout(Duration::from_secs(2))
        .run()
        .unwrap_err();
    assert_eq!(e.code(), Code::DeadlineExceeded, "the queue is still empty: {e}");
}

#[test]
fn a_way_that_is_cut_in_a_step_is_an_error_that_names_task_run_and_edge() {
    std::thread::scope(|scope| {
        for (inward, outward) in [(true, true), (true, false), (false, true)] {
            scope.spawn(move || cut_in_a_step(inward, outward));
        }
    });
}

#[test]
fn a_partition_that_heals_in_time_is_not_noticed() {
    let c = Cluster::behind_relays(TASKS, Weather::default());
    let g = Graph::new();
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let s = c.session(&g, 1);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    c.relays.iter().for_each(|r| r.close(true, true));
    let got = std::thread::scope(|scope| {
        let run = scope.spawn(|| s.run(&[], &[&y]));
        std::thread::sleep(Duration::from_millis(1500));
        c.relays.iter().for_each(|r| r.close(false, false));
        run.join().unwrap()
    });
    assert_eq!(got.unwrap()[0], Tensor::from([2f32, 4.0]));
}
