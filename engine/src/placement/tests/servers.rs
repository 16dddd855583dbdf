use super::*;

fn device(o: &Output) -> String {
    o.op().node().device().to_owned()
}

#[test]
fn variables_go_to_the_servers_in_turn_and_all_else_to_the_worker() {
    let g = Graph::new();
    let setter = replica_device_setter(2, "/job:worker/task:1", PsStrategy::RoundRobin).unwrap();
    let _scope = g.device_function(setter);
    let vs: Vec<_> = (0..3)
        .map(|i| g.variable(&format!("v{i}"), i as f32).unwrap())
        .collect();
    let got: Vec<String> = vs.iter().map(|v| device(v.handle())).collect();
    assert_eq!(got, ["/job:ps/task:0", "/job:ps/task:1", "/job:ps/task:0"]);
    let sum = (vs[0].value() + vs[1].value()).unwrap();
    assert_eq!(device(&sum), "/job:worker/task:1");
    assert_eq!(device(vs[1].value()), "/job:ps/task:1");
    assert_eq!(vs[1].initializer().node().device(), "/job:ps/task:1");
    let p = hard(&g, &cluster()).unwrap();
    assert_eq!(p.device_of(sum.op().id()), 1);
    assert_eq!(p.device_of(vs[1].initializer().id()), 3);
    assert_eq!(p.device_of(vs[2].value().op().id()), 2);
}

#[test]
fn an_update_on_a_worker_runs_where_its_variable_is() {
    use crate::train::optimizer::{Adam, Optimizer};
    for reference in [false, true] {
        let g = Graph::new();
        let setter = replica_device_setter(2, "/job:worker/task:0", PsStrategy::RoundRobin).unwrap();
        let _scope = g.device_function(setter);
        let builder = g.variable_builder("w");
        let builder = if reference { builder.reference() } else { builder };
        let w = builder.build(1.0f32).unwrap();
        let loss = w.value().unary("Square").unwrap();
        Optimizer::new(Adam::new(0.1)).minimize(&loss).unwrap();
        let p = hard(&g, &cluster()).unwrap();
        let apply = g
            .nodes()
            .iter()
            .find(|n| n.op_name().contains("ApplyAdam"))
            .unwrap()
            .clone();
        assert_eq!(p.device_of(apply.id()), 2);
        assert_eq!(p.device_of(loss.op().id()), 0);
    }
}

#[test]
fn balancing_by_bytes_gives_the_next_variable_to_the_emptiest_server() {
    let g = Graph::new();
    let setter = replica_device_setter(2, "/job:worker", PsStrategy::GreedyLoadBalancing).unwrap();
    let _scope = g.device_function(setter);
    let v = |name: &str, n: usize| device(g.variable(name, vec![0f32; n]).unwrap().handle());
    let got = [v("a", 100), v("b", 10), v("c", 20), v("d", 60), v("e", 40)];
    let tasks = got.map(|d| d.strip_prefix("/job:ps/task:").unwrap().parse::<u32>().unwrap());
    assert_eq!(tasks, [0, 1, 1, 1, 1]);
}

#[test]
fn scopes_inside_of_the_setter_win() {
    let g = Graph::new();
    let setter = replica_device_setter(2, "/job:worker/task:0", PsStrategy::RoundRobin).unwrap();
    let _scope = g.device_function(setter);
    let _inner = g.device_scope("/job:worker/task:1/cpu:1");
    let local = g.variable("local", 1.0f32).unwrap();
    assert_eq!(device(local.handle()), "/job:worker/task:1/device:CPU:1");
    let _ps = g.device_scope("/job:ps/task:7");
    let seventh = g.variable("seventh", 1.0f32).unwrap();
    assert_eq!(device(seventh.handle()), "/job:ps/task:7/device:CPU:1");
}

#[test]
fn without_servers_nothing_is_asked_for_and_wrong_arguments_are_errors() {
    let g = Graph::new();
    let _scope = g.device_function(replica_device_setter(0, "/job:worker", PsStrategy::RoundRobin).unwrap());
    assert_eq!(device(&g.constant(1.0f32).unwrap()), "");
    assert!(replica_device_setter(1, "/worker", PsStrategy::RoundRobin).is_err());
    assert!(replica_device_setter(u32::MAX, "/job:worker", PsStrategy::GreedyLoadBalancing).is_err());
}

#[test]
fn a_model_with_tables_loops_updates_queues_and_a_saver_is_placed_without_conflict() {
    use crate::nn::{PartitionStrategy, embedding_lookup};
    use crate::rnn::{Gru, RnnOptions, dynamic_rnn};
    use crate::train::optimizer::{Adam, Optimizer};
    use crate::{Saver, SaverOptions};
    for reference in [false, true] {
        let g = Graph::new();
        let setter = replica_device_setter(2, "/job:worker/task:0", PsStrategy::GreedyLoadBalancing).unwrap();
        let _scope = g.device_function(setter);
        let queue = Queue::builder(&g, QueueKind::Fifo, &[(DType::I32, PartialShape::from([2, 5]))]);
        let queue = queue.build().unwrap();
        let ids = queue.dequeue().unwrap().remove(0);
        let tables: Vec<_> = (0..2)
            .map(|i| {
                let b = g.variable_builder(&format!("table_{i}"));
                let b = if reference { b.reference() } else { b };
                let zeros = crate::Tensor::zeros(DType::F32, [10, 4]).unwrap();
                b.build(zeros).unwrap()
            })
            .collect();
        let values: Vec<Output> = tables.iter().map(|t| t.value().clone()).collect();
        let x = embedding_lookup(&values, &ids, PartitionStrategy::Mod, None).unwrap();
        let cell = Gru::new(&g, "gru", 4, 8).unwrap();
        let (y, _) = dynamic_rnn(&cell, &x, RnnOptions::default()).unwrap();
        let loss = y.square().unwrap().mean(&[0, 1, 2], false).unwrap();
        Optimizer::new(Adam::new(0.1)).minimize(&loss).unwrap();
        let sharded = SaverOptions {
            sharded: true,
            ..SaverOptions::default()
        };
        Saver::new(&g, sharded).unwrap();
        for free in [Free::Default, Free::CostModel, Free::Scatter(1)] {
            let options = PlaceOptions {
                free,
                ..PlaceOptions::default()
            };
            let p = place(&g, &cluster(), None, &options).unwrap();
            for t in &tables {
                assert!(p.device_of(t.handle().op().id()) >= 2, "{free:?} {}", t.handle().name());
            }
            assert_eq!(p.device_of(loss.op().id()), 0, "{free:?}");
        }
    }
}
