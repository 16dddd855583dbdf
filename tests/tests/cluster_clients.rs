//! Several clients of one cluster at once, each with a connection and a graph of its own: they do not see each other, unless
//! they share a container, and none suffers when another one goes.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use actorflow::cluster::{ClusterInfo, ConnectOptions, TaskName};
use actorflow::flow::{WhileOptions, while_loop};
use actorflow::{Code, DType, Graph, GraphVariables, Operation, Output, PartialShape, Result, Session, Tensor};
use cluster::{Cluster, doubled, on_ps, options};

const TASKS: &[(&str, u32)] = &[("ps", 0), ("worker", 0), ("worker", 1)];
const CLIENTS: usize = 12;
const ROUNDS: usize = 200;

fn on<R>(g: &Graph, device: &str, f: impl FnOnce() -> R) -> R {
    let _there = g.device_scope(device);
    f()
}

/// A variable named `state` on the parameter server, in a container.
struct State {
    init: Operation,
    add: Operation,
    value: Output,
    by: Output,
}

fn state(g: &Graph, container: &str) -> Result<State> {
    let by = g.placeholder("by", DType::F32, [] as [Option<usize>; 0])?;
    // What is added comes from a worker.
    let made = on(g, "/job:worker/task:1", || &by * 1f32)?;
    let _ps = g.device_scope("/job:ps/task:0");
    let handle = g
        .op("VarHandleOp")
        .attr("dtype", DType::F32)
        .attr("shape", PartialShape::scalar());
    let handle = handle
        .attr("container", container)
        .attr("shared_name", "state")
        .output()?;
    let assign = |op: &str, value: &Output| g.op(op).input(&handle).input(value).finish();
    let init = assign("AssignVariableOp", &g.constant(0f32)?)?;
    let add = assign("AssignAddVariableOp", &made)?;
    let value = g
        .op("ReadVariableOp")
        .input(&handle)
        .attr("dtype", DType::F32)
        .output()?;
    Ok(State { init, add, value, by })
}

impl State {
    fn add(&self, s: &Session, by: f32) -> Result<()> {
        s.runner()
            .feed(&self.by, Tensor::scalar(by))
            .target(&self.add)
            .run()
            .map(drop)
    }

    fn value(&self, s: &Session) -> Result<f32> {
        s.run(&[], &[&self.value])?[0].to_scalar()
    }
}

/// The powers of a number, by a loop over all tasks.
fn powers(g: &Graph, base: f32) -> Result<(Output, Output)> {
    let n = g.placeholder("n", DType::I32, [] as [Option<usize>; 0])?;
    let (zero, one) = (g.constant(0i32)?, g.constant(1f32)?);
    let out = while_loop(
        &[zero, one],
        |v| on(g, "/job:worker/task:1", || v[0].less(&n)),
        |v| {
            let y = on(g, "/job:ps", || &v[1] * base)?;
            on(g, "/job:worker/task:0", || Ok(vec![(&v[0] + 1)?, y]))
        },
        WhileOptions::default(),
    )?;
    Ok((n, out[1].clone()))
}

/// What is fed to a worker, there and back through a queue on the parameter server.
fn through_a_queue(g: &Graph, container: &str) -> Result<(Output, Operation, Output)> {
    let x = g.placeholder("x", DType::F32, [None])?;
    let made = on(g, "/job:worker/task:0", || x.negated())?;
    let types = || vec![DType::F32];
    let _ps = g.device_scope("/job:ps/task:0");
    let queue = g
        .op("FIFOQueueV2")
        .attr("component_types", types())
        .attr("shared_name", "parcels");
    let queue = queue.attr("container", container).output()?;
    let put = g.op("QueueEnqueueV2").input(&queue).input_list(&[made]).finish()?;
    let head = g
        .op("QueueDequeueV2")
        .input(&queue)
        .attr("component_types", types())
        .output()?;
    let back = on(g, "/job:worker/task:1", || head.negated())?;
    Ok((x, put, back))
}

/// What a client does; it is wrong if another client's numbers come in.
fn work(s: &Session, g: &Graph, k: usize) -> Result<()> {
    let container = format!("client{k}");
    match k % 3 {
        0 => {
            let state = state(g, &container)?;
            s.execute(&[&state.init])?;
            for i in 1..=ROUNDS {
                state.add(s, k as f32 + 0.5)?;
                assert_eq!(state.value(s)?, i as f32 * (k as f32 + 0.5), "client {k}, round {i}");
            }
        }
        1 => {
            let base = 1.0 + k as f32;
            let (n, y) = powers(g, base)?;
            for i in 0..ROUNDS {
                let trips = (i % 5) as i32;
                let got = s.run(&[(&n, Tensor::scalar(trips))], &[&y])?[0].to_scalar::<f32>()?;
                assert_eq!(got, base.powi(trips), "client {k}, round {i}");
            }
        }
        _ => {
            let (x, put, back) = through_a_queue(g, &container)?;
            for i in 0..ROUNDS {
                // From nothing to several frames.
                let sent: Vec<f32> = (0..i * i).map(|n| (n * CLIENTS + k) as f32).collect();
                let got = s
                    .runner()
                    .feed(&x, Tensor::from(sent.clone()))
                    .fetch(&back)
                    .target(&put)
                    .run()?;
                assert_eq!(got[0].as_slice::<f32>()?, sent, "client {k}, round {i}");
            }
        }
    }
    Ok(())
}

fn client(c: &Cluster, k: usize) -> ConnectOptions {
    ConnectOptions::new(c.identity(&format!("client/{k}")))
}

/// The connection of a client, by one task or another.
fn connect(c: &Cluster, g: &Graph, k: usize) -> Session {
    let target = c.servers[1 + k % 2].target();
    Session::connect(g, &target, &client(c, k), options()).unwrap()
}

#[test]
fn clients_run_different_graphs_at_the_same_time_and_one_that_goes_in_a_step_harms_nobody() {
    let c = Cluster::new(TASKS);
    let info = ClusterInfo::connect(&c.servers[0].target(), &c.client()).unwrap();
    let waiting = |task: &str| {
        let steps = info.steps(&TaskName::new(task, 0).unwrap()).unwrap();
        steps.iter().filter(|s| s.waits_for.contains("abandoned")).count()
    };
    let all_here = Barrier::new(CLIENTS + 1);
    std::thread::scope(|scope| {
        for k in 0..CLIENTS {
            let (c, all_here) = (&c, &all_here);
            scope.spawn(move || {
                let g = Graph::new();
                let s = connect(c, &g, k);
                all_here.wait();
                work(&s, &g, k).unwrap_or_else(|e| panic!("client {k}: {e}"));
            });
        }
        // One more, which is in the middle of a step when it goes.
        let g = Graph::new();
        let s = connect(&c, &g, CLIENTS);
        let types = || vec![DType::F32];
        let queue = on(&g, "/job:ps/task:0", || {
            g.op("FIFOQueueV2").attr("component_types", types()).output().unwrap()
        });
        let head = g.op("QueueDequeueV2").input(&queue).attr("component_types", types());
        let head = on(&g, "/job:ps/task:0", || head.name("abandoned").output().unwrap());
        let y = on(&g, "/job:worker/task:0", || head.negated().unwrap());
        all_here.wait();
        let step = s.runner().fetch(&y).run_async().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while waiting("ps") == 0 {
            assert!(Instant::now() < until, "the step does not begin");
            std::thread::sleep(Duration::from_millis(2));
        }
        drop((step, s));
        // The cluster ends what nobody waits for.
        while waiting("ps") + waiting("worker") > 0 {
            assert!(Instant::now() < until, "the step is left");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    for task in &c.servers {
        assert_eq!(info.steps(&task.task().clone()).unwrap().len(), 0, "steps are left");
    }
}

#[test]
fn containers_keep_clients_apart_or_together_and_one_can_be_forgotten() {
    let c = Cluster::new(TASKS);
    // Two clients for each container, all with a variable of the same name.
    let names = ["red", "green", "blue"];
    let graphs: Vec<Graph> = (0..2 * names.len()).map(|_| Graph::new()).collect();
    let clients: Vec<(Session, State)> = (0..graphs.len())
        .map(|k| (connect(&c, &graphs[k], k), state(&graphs[k], names[k / 2]).unwrap()))
        .collect();
    for pair in clients.chunks(2) {
        pair[0].0.execute(&[&pair[0].1.init]).unwrap();
    }
    std::thread::scope(|scope| {
        for (k, (s, state)) in clients.iter().enumerate() {
            scope.spawn(move || (0..ROUNDS).for_each(|_| state.add(s, 1.0 + (k / 2) as f32).unwrap()));
        }
    });
    let expect = |k: usize| Some((2 * ROUNDS) as f32 * (1.0 + (k / 2) as f32));
    let values = || -> Vec<Option<f32>> {
        let read = |(s, state): &(Session, State)| match state.value(s) {
            Ok(v) => Some(v),
            Err(e) if e.code() == Code::FailedPrecondition => None,
            Err(e) => panic!("{e}"),
        };
        clients.iter().map(read).collect()
    };
    let all: Vec<Option<f32>> = (0..clients.len()).map(expect).collect();
    assert_eq!(
        values(),
        all,
        "each has what it and the other one of its container have added"
    );

    let info = ClusterInfo::connect(&c.servers[0].target(), &c.client()).unwrap();
    info.reset(&["green"]).unwrap();
    let mut left = all;
    left[2..4].fill(None);
    assert_eq!(values(), left, "one container is forgotten");
    // It begins anew, for both.
    clients[2].0.execute(&[&clients[2].1.init]).unwrap();
    left[2..4].fill(Some(0.0));
    assert_eq!(values(), left);
    info.reset(&[]).unwrap();
    assert_eq!(values(), vec![None; clients.len()], "all are forgotten");
}

#[test]
fn whoever_looks_at_a_cluster_disturbs_nobody_who_runs_under_the_same_name() {
    let c = Cluster::new(&TASKS[..2]);
    let g = Graph::new();
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let chief = ConnectOptions::new(c.identity("chief/main"));
    let of_chief = || Session::connect(&g, &c.servers[0].target(), &chief, options()).unwrap();
    let sessions = [c.session(&g, 1), of_chief()];
    sessions[0]
        .execute(&[&g.global_variables_initializer().unwrap()])
        .unwrap();
    let all_run = || {
        for s in &sessions {
            assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
        }
    };
    all_run();
    for who in ["task/worker/0", "chief/main"] {
        let me = ConnectOptions::new(c.identity(who));
        for server in &c.servers {
            let info = ClusterInfo::connect(&server.target(), &me).unwrap();
            for (job, server) in ["ps", "worker"].iter().zip(&c.servers) {
                let t = TaskName::new(job, 0).unwrap();
                assert_eq!(info.task(&t).unwrap().incarnation, server.incarnation());
                assert!(info.steps(&t).unwrap().is_empty());
            }
            all_run();
            drop(info);
            all_run();
        }
    }
    for server in &c.servers {
        assert_eq!(server.counters().unwrap().fenced, 0);
    }
    // A session is a run of its chief, and takes the place of an earlier one.
    let next = of_chief();
    assert_eq!(next.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
    let until = Instant::now() + Duration::from_secs(20);
    let e = loop {
        match sessions[1].run(&[], &[&y]) {
            Err(e) if e.code() == Code::Aborted => break e,
            got => assert!(Instant::now() < until, "{got:?}"),
        }
    };
    assert!(e.message().contains("is over"), "{e}");
    assert_eq!(next.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
    // Nobody runs as a visitor.
    let mut nobody = c.server_options("ps", 0);
    nobody.incarnation = Some(0);
    let e = actorflow::cluster::Server::start(nobody).err().unwrap();
    assert_eq!(e.code(), Code::InvalidArgument, "{e}");
}
