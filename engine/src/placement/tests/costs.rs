use super::*;
use crate::{NodeTrace, Trace};

fn by_costs(g: &Graph, devices: &[DeviceInfo], costs: CostModel) -> Placement {
    let options = PlaceOptions {
        free: Free::CostModel,
        costs: Some(Arc::new(costs)),
        ..PlaceOptions::default()
    };
    place(g, devices, None, &options).unwrap()
}

fn matrix(g: &Graph, n: usize) -> Output {
    let shape = g.constant([n as i32, n as i32]).unwrap();
    let x = g.op("RandomUniform").input(&shape).attr("dtype", DType::F32);
    x.output().unwrap()
}

/// A chain of products of matrices of that size.
fn chain(g: &Graph, n: usize, length: usize) -> Vec<Output> {
    let mut xs = vec![matrix(g, n)];
    for _ in 0..length {
        let x = &xs[xs.len() - 1];
        xs.push(x.matmul(x).unwrap());
    }
    xs
}

fn on(p: &Placement, xs: &[Output]) -> HashSet<usize> {
    xs.iter().map(|x| p.device_of(x.op().id())).collect()
}

#[test]
fn two_independent_heavy_chains_are_split_over_two_devices() {
    let g = Graph::new();
    let (a, b) = (chain(&g, 512, 5), chain(&g, 512, 5));
    let p = by_costs(&g, &cpus(2), CostModel::new());
    let (a, b) = (on(&p, &a), on(&p, &b));
    assert_eq!((a.len(), b.len()), (1, 1));
    assert_ne!(a, b);
}

#[test]
fn cheap_chains_stay_together_because_sending_costs_more() {
    let g = Graph::new();
    let x = matrix(&g, 4);
    let (a, b) = (x.unary("Neg").unwrap(), x.unary("Abs").unwrap());
    let c = (&a + &b).unwrap();
    let p = by_costs(&g, &cpus(2), CostModel::new());
    assert_eq!(on(&p, &[x, a, b, c]), HashSet::from([0]));
}

#[test]
fn branches_with_huge_tensors_stay_together_and_small_ones_are_split() {
    let branches = |link| {
        let g = Graph::new();
        let x = matrix(&g, 256);
        let ends: Vec<Output> = (0..2).map(|_| x.matmul(&x).unwrap()).collect();
        on(&by_costs(&g, &cpus(2), CostModel::new().local_link(link)), &ends).len()
    };
    let fast = Link {
        latency_ns: 10,
        bytes_per_ns: 1000.0,
    };
    let slow = Link {
        latency_ns: 10,
        bytes_per_ns: 0.001,
    };
    assert_eq!((branches(fast), branches(slow)), (2, 1));
}

#[test]
fn the_device_with_more_threads_takes_the_heavy_node() {
    let g = Graph::new();
    let x = chain(&g, 512, 1);
    let mut d = cpus(2);
    d[1].threads = 8;
    assert_eq!(on(&by_costs(&g, &d, CostModel::new()), &x), HashSet::from([1]));
}

#[test]
fn measurements_replace_estimates() {
    let g = Graph::new();
    let x = matrix(&g, 4);
    let ends = [x.unary("Neg").unwrap(), x.unary("Abs").unwrap()];
    assert_eq!(on(&by_costs(&g, &cpus(2), CostModel::new()), &ends).len(), 1);
    let costs = CostModel::new();
    let named = |o: &Output| o.op().node().shared_name().clone();
    costs.record(&[(named(&ends[0]), 1_000_000), (named(&ends[1]), 0)]);
    assert_eq!(costs.measured_ns("Neg"), Some(1_000_000));
    assert_eq!(costs.measured_ns("Abs"), None);
    assert_eq!(on(&by_costs(&g, &cpus(2), costs), &ends).len(), 2);
}

#[test]
fn a_trace_is_recorded_by_the_mean_of_a_nodes_runs() {
    let run = |name: &str, duration_ns| NodeTrace {
        device: "/job:localhost/task:0/device:CPU:0".into(),
        name: name.into(),
        op: "Neg",
        start_ns: 0,
        duration_ns,
        thread: String::new(),
    };
    let costs = CostModel::new();
    costs.record_trace(&Trace {
        nodes: vec![run("a", 10), run("a", 30), run("b", 5)],
        left_out: 0,
    });
    assert_eq!((costs.measured_ns("a"), costs.measured_ns("b")), (Some(20), Some(5)));
}

#[test]
fn what_was_measured_on_a_device_counts_there() {
    let g = Graph::new();
    let x = matrix(&g, 4).unary("Neg").unwrap();
    let costs = CostModel::new();
    let at = |device: &str, duration_ns| NodeTrace {
        device: device.into(),
        name: x.op().node().shared_name().clone(),
        op: "Neg",
        start_ns: 0,
        duration_ns,
        thread: String::new(),
    };
    let devices = cpus(2);
    let names: Vec<String> = devices.iter().map(|d| d.name.to_string()).collect();
    costs.record_trace(&Trace {
        nodes: vec![at(&names[0], 9_000_000), at(&names[1], 1_000)],
        left_out: 0,
    });
    let name = x.op().name();
    assert_eq!(costs.measured_on(&name, &names[0]), Some(9_000_000));
    assert_eq!(costs.measured_on(&name, &names[1]), Some(1_000));
    assert_eq!(on(&by_costs(&g, &devices, costs), &[x]), HashSet::from([1]));
}

#[test]
fn no_device_is_given_more_variables_than_it_has_memory_for() {
    let g = Graph::new();
    let mut handles = Vec::new();
    for i in 0..4 {
        let v = g
            .op("VarHandleOp")
            .attr("dtype", DType::F32)
            .attr("shape", PartialShape::vector(Some(100)));
        handles.push(
            v.attr("shared_name", format!("v{i}").as_str())
                .name(&format!("v{i}"))
                .output()
                .unwrap(),
        );
    }
    let mut devices = cpus(2);
    let place_on = |devices: &[DeviceInfo]| {
        let options = PlaceOptions {
            free: Free::CostModel,
            ..PlaceOptions::default()
        };
        place(&g, devices, None, &options)
    };
    for d in &mut devices {
        d.memory = 800;
    }
    let p = place_on(&devices).unwrap();
    let on_first = handles.iter().filter(|h| p.device_of(h.op().id()) == 0).count();
    assert_eq!(on_first, 2);
    devices[1].memory = 799;
    let e = place_on(&devices).unwrap_err();
    assert_eq!(e.code(), actorflow_core::Code::ResourceExhausted);
    for part in ["\"v3\"", "400 bytes", "CPU:0 has 0 left", "CPU:1 has 399 left"] {
        assert!(e.message().contains(part), "{e}");
    }
    devices[1].memory = 0;
    place_on(&devices).unwrap();
}

#[test]
fn what_is_allowed_only_in_part_is_respected() {
    let g = Graph::new();
    let _ps = g.device_scope("/job:ps");
    let (a, b) = (chain(&g, 512, 3), chain(&g, 512, 3));
    let p = by_costs(&g, &cluster(), CostModel::new());
    assert_eq!(&on(&p, &a) | &on(&p, &b), HashSet::from([2, 3]));
}

#[test]
fn estimates_know_products_convolutions_and_unknown_dimensions() {
    let g = Graph::new();
    let costs = CostModel::new().rates(1.0, 1e9);
    let flops = |o: &Output| {
        let node = o.op().node();
        let inputs: Vec<PartialShape> = node.inputs().iter().map(|r| g.output_of(*r).unwrap().shape()).collect();
        costs.compute_ns(&node, &inputs, 1) - 50
    };
    let x = |dims: Vec<Option<usize>>| g.placeholder("x", DType::F32, PartialShape::new(dims)).unwrap();
    let (a, b) = (x(vec![Some(3), Some(5)]), x(vec![Some(5), Some(7)]));
    assert_eq!(flops(&a.matmul(&b).unwrap()), 2 * 3 * 5 * 7);
    assert_eq!(flops(&b.matmul_t(&a, true, true).unwrap()), 2 * 3 * 5 * 7);
    let batch = x(vec![None, Some(5)]);
    assert_eq!(flops(&batch.matmul(&b).unwrap()), 2 * 32 * 5 * 7);
    let image = x(vec![Some(2), Some(8), Some(8), Some(3)]);
    let filter = x(vec![Some(3), Some(3), Some(3), Some(4)]);
    let conv = g.op("Conv2D").input(&image).input(&filter).attr("padding", "SAME");
    let conv = conv.attr("strides", vec![1i64, 1, 1, 1]).output().unwrap();
    assert_eq!(flops(&conv), 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3));
    assert_eq!(flops(&a.unary("Neg").unwrap()), 15);
    assert_eq!(costs.tensor_bytes(&PartialShape::UNKNOWN, DType::F64), 32 * 8);
    let huge = PartialShape::new(vec![Some(usize::MAX), Some(usize::MAX)]);
    assert_eq!(costs.tensor_bytes(&huge, DType::F32), u64::MAX);
}

#[test]
fn sending_costs_nothing_at_home_and_most_between_tasks() {
    let d = cluster();
    let costs = CostModel::new();
    let to = |n: &str| costs.transfer_ns(1000, &d[0].name, &n.parse().unwrap());
    assert_eq!(costs.transfer_ns(1000, &d[0].name, &d[0].name), 0);
    assert_eq!(to("/job:worker/replica:0/task:0/cpu:1"), 2_125);
    assert_eq!(to("/job:ps/task:0/cpu:0"), 101_000);
    let broken = Link {
        latency_ns: u64::MAX,
        bytes_per_ns: 0.0,
    };
    let costs = costs.remote_link(broken);
    assert_eq!(costs.transfer_ns(1, &d[0].name, &d[2].name), u64::MAX);
}
