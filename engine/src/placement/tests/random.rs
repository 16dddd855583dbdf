//! Random graphs with random demands: what comes out satisfies all of them, or the error names nodes that conflict.

use super::*;
use actorflow_core::graph::Node;
use actorflow_core::philox::Philox;

struct Dice(Philox);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0.next_block()[0] as usize % n
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const ASKED: [&str; 12] = [
    "",
    "",
    "",
    "",
    "",
    "",
    "/job:ps",
    "/job:worker",
    "/task:1",
    "/cpu:1",
    "/job:ps/task:1/cpu:0",
    "/job:worker/cpu:*",
];

/// Variables of both kinds, what updates them, sums, and colocations, added in random order.
fn graph(dice: &mut Dice, size: usize) -> Graph {
    let g = Graph::new();
    let mut values = vec![source(&g, "")];
    let (mut refs, mut handles): (Vec<Output>, Vec<Output>) = (Vec::new(), Vec::new());
    let scalar = PartialShape::scalar;
    while g.len() < size {
        let kind = dice.below(7);
        let b = match kind {
            0 => g.op("VariableV2").attr("dtype", DType::F32).attr("shape", scalar()),
            1 => g.op("VarHandleOp").attr("dtype", DType::F32).attr("shape", scalar()),
            2 if !refs.is_empty() => g.op("Assign").input(dice.pick(&refs)).input(dice.pick(&values)),
            3 if !handles.is_empty() => {
                let b = g.op("AssignAddVariableOp").input(dice.pick(&handles));
                b.input(dice.pick(&values))
            }
            4 if !handles.is_empty() => g
                .op("ReadVariableOp")
                .input(dice.pick(&handles))
                .attr("dtype", DType::F32),
            _ => g.op("Add").input(dice.pick(&values)).input(dice.pick(&values)),
        };
        let mut b = b.device(ASKED[dice.below(ASKED.len())]);
        if dice.below(8) == 0 {
            let nodes = g.nodes();
            b = b.colocate_with(dice.pick(&nodes).name());
        }
        let op = b.finish().unwrap();
        match op.node().op_name() {
            "VariableV2" | "Assign" => refs.push(op.output(0).unwrap()),
            "VarHandleOp" => handles.push(op.output(0).unwrap()),
            "AssignAddVariableOp" => {}
            _ => values.push(op.output(0).unwrap()),
        }
    }
    g
}

/// The nodes that `n` has to be with directly.
fn beside(n: &Node, nodes: &[Arc<Node>]) -> Vec<usize> {
    let taken = (0..n.inputs().len()).filter(|&i| n.input_refs()[i] || n.input_types()[i] == DType::Resource);
    let mut of: Vec<usize> = taken.map(|i| n.inputs()[i].node.index()).collect();
    of.extend(
        nodes
            .iter()
            .filter(|m| n.colocate_with().iter().any(|c| c == m.name()))
            .map(|m| m.id().index()),
    );
    of
}

/// Labels that are equal exactly within groups, by repeating until nothing changes.
fn labels(nodes: &[Arc<Node>]) -> Vec<usize> {
    let mut label: Vec<usize> = (0..nodes.len()).collect();
    loop {
        let old = label.clone();
        for (i, n) in nodes.iter().enumerate() {
            for j in beside(n, nodes) {
                let least = label[i].min(label[j]);
                (label[i], label[j]) = (least, least);
            }
        }
        if label == old {
            return label;
        }
    }
}

fn accepts(n: &Node, d: &DeviceInfo) -> bool {
    n.device().parse::<DeviceName>().unwrap().accepts(&d.name)
}

#[test]
fn a_placement_satisfies_every_demand_or_the_error_names_nodes_in_conflict() {
    let devices = devices(&[
        "/job:worker/task:0/cpu:0",
        "/job:worker/task:0/cpu:1",
        "/job:worker/task:1/cpu:0",
        "/job:ps/task:0/cpu:0",
        "/job:ps/task:1/cpu:0",
    ]);
    let (mut placed, mut failed) = (0, 0);
    for seed in 0..400u64 {
        let mut dice = Dice(Philox::new(seed, 1));
        let size = 2 + dice.below(28);
        let g = graph(&mut dice, size);
        let nodes = g.nodes();
        let label = labels(&nodes);
        let free = *dice.pick(&[Free::Default, Free::CostModel, Free::Scatter(seed)]);
        let mut options = PlaceOptions {
            free,
            default_device: dice.below(devices.len()),
            ..PlaceOptions::default()
        };
        let together = |p: &Placement| {
            for (i, n) in nodes.iter().enumerate() {
                assert_eq!(
                    p.device_of(n.id()),
                    p.device_of(nodes[label[i]].id()),
                    "seed {seed}: {}",
                    n.name()
                );
            }
        };
        match place(&g, &devices, None, &options) {
            Ok(p) => {
                placed += 1;
                together(&p);
                for n in &nodes {
                    assert!(accepts(n, &devices[p.device_of(n.id())]), "seed {seed}: {}", n.name());
                }
                assert_eq!(p.moves(), []);
            }
            Err(e) => {
                failed += 1;
                // Quoted with where it was built: not where the reasons are told.
                let blamed: Vec<&Arc<Node>> = nodes
                    .iter()
                    .filter(|n| e.message().contains(&format!("{:?}, built at", n.name())))
                    .collect();
                assert!(blamed.len() >= 2, "seed {seed}: {e}");
                let group = label[blamed[0].id().index()];
                assert!(
                    blamed.iter().all(|n| label[n.id().index()] == group),
                    "seed {seed}: {e}"
                );
                assert!(
                    devices.iter().all(|d| blamed.iter().any(|n| !accepts(n, d))),
                    "seed {seed}: {e}"
                );
                options.soft = true;
                let p = place(&g, &devices, None, &options).unwrap();
                together(&p);
                let moved: Vec<NodeId> = p.moves().iter().map(|m| m.node).collect();
                for n in &nodes {
                    let happy = accepts(n, &devices[p.device_of(n.id())]);
                    assert_ne!(happy, moved.contains(&n.id()), "seed {seed}: {}", n.name());
                }
            }
        }
    }
    assert!(placed > 50 && failed > 50, "{placed} placed, {failed} failed");
}

#[test]
fn a_growing_graph_keeps_what_was_placed() {
    for seed in 0..50u64 {
        let mut dice = Dice(Philox::new(seed, 2));
        let g = graph(&mut dice, 20);
        let options = PlaceOptions {
            free: Free::Scatter(seed),
            soft: true,
            ..PlaceOptions::default()
        };
        let before = place(&g, &cluster(), None, &options).unwrap();
        let refs: Vec<_> = g.nodes().into_iter().filter(|n| n.op_name() == "VariableV2").collect();
        for v in &refs {
            let out = g.output(v.name()).unwrap();
            let x = source(&g, "/job:worker");
            g.op("Assign").input(&out).input(&x).finish().unwrap();
        }
        let after = place(&g, &cluster(), Some(&before), &options).unwrap();
        for n in g.nodes().iter().take(before.len()) {
            assert_eq!(after.get(n.id()), before.get(n.id()), "seed {seed}");
        }
        let label = labels(&g.nodes());
        for n in g.nodes() {
            let first = g.nodes()[label[n.id().index()]].id();
            assert_eq!(after.device_of(n.id()), after.device_of(first), "seed {seed}");
        }
    }
}
