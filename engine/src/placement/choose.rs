//! Choosing a device for each group where more than one is allowed.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use actorflow_core::graph::Node;
use actorflow_core::{DType, Error, PartialShape, Result};

use super::groups::Groups;
use super::simulate::Simulation;
use super::{CostModel, DeviceInfo, Free, PlaceOptions};

/// Chooses among the devices that each group is allowed on.
pub(super) struct Chooser<'a> {
    nodes: &'a [Arc<Node>],
    devices: &'a [DeviceInfo],
    groups: &'a Groups,
    /// The allowed devices by group; never none.
    candidates: &'a [Rc<[usize]>],
    options: &'a PlaceOptions,
    device: Vec<Option<usize>>,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(
        nodes: &'a [Arc<Node>],
        devices: &'a [DeviceInfo],
        groups: &'a Groups,
        candidates: &'a [Rc<[usize]>],
        options: &'a PlaceOptions,
    ) -> Self {
        let device = candidates
            .iter()
            .map(|c| if c.len() == 1 { c.first().copied() } else { None })
            .collect();
        Chooser {
            nodes,
            devices,
            groups,
            candidates,
            options,
            device,
        }
    }

    /// The device of every group.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` naming a variable that no device has memory for, and the devices.
    pub(super) fn choose(mut self) -> Result<Vec<usize>> {
        if let Free::Scatter(seed) = self.options.free {
            for group in 0..self.groups.len() {
                let c = &self.candidates[group];
                let first = self.groups.members(group)[0] as u64;
                let at = mix(seed ^ mix(first)) % c.len() as u64;
                self.device[group].get_or_insert(c[at as usize]);
            }
        } else {
            self.by_neighbours()?;
        }
        Ok((0..self.groups.len())
            .map(|g| self.device[g].unwrap_or_else(|| self.default_of(g)))
            .collect())
    }

    /// Of a group's devices those that have memory for its variables, of so many bytes.
    fn with_room(&self, n: usize, bytes: u64, load: &[u64]) -> Result<Rc<[usize]>> {
        let all = &self.candidates[self.groups.of_node(n)];
        let room = |d: usize| match self.devices[d].memory {
            // Not known.
            0 => u64::MAX,
            memory => (memory as u64).saturating_sub(load[d]),
        };
        if bytes == 0 || all.iter().all(|d| bytes <= room(*d)) {
            return Ok(all.clone());
        }
        let fit: Rc<[usize]> = all.iter().copied().filter(|d| bytes <= room(*d)).collect();
        if !fit.is_empty() {
            return Ok(fit);
        }
        let left = all
            .iter()
            .map(|d| format!("{} has {} left", self.devices[*d].name, room(*d)));
        Err(Error::exhausted(format!(
            "node {:?} and what has to be with it keep {bytes} bytes of variables, which no device has room for: {}; give a \
             device more memory (memory_budget), or divide the variable into parts",
            self.nodes[n].name(),
            left.collect::<Vec<_>>().join(", ")
        ))
        .at_node(self.nodes[n].name(), self.nodes[n].op_name()))
    }

    /// Goes through the nodes in the order in which they could run, then places those that were left for their consumers
    /// to decide.
    fn by_neighbours(&mut self) -> Result<()> {
        let order = topological(self.nodes);
        let costs = self.options.costs.clone().unwrap_or_default();
        let mut simulation = match self.options.free {
            Free::CostModel => Some(Simulation::new(self.nodes, self.devices, self.groups, &costs)),
            _ => None,
        };
        // What variables take, by group, and on each device those that are placed.
        let (mut kept, mut load) = (vec![0u64; self.groups.len()], vec![0u64; self.devices.len()]);
        if simulation.is_some() {
            for (n, node) in self.nodes.iter().enumerate() {
                let group = self.groups.of_node(n);
                kept[group] = kept[group].saturating_add(kept_bytes(node, &costs));
            }
            for (d, bytes) in self.device.iter().zip(&kept) {
                if let Some(d) = d {
                    load[*d] = load[*d].saturating_add(*bytes);
                }
            }
        }
        let mut generators = Vec::new();
        for &n in &order {
            let group = self.groups.of_node(n);
            let alone = self.groups.members(group).len() == 1;
            if self.device[group].is_none() {
                if alone && is_generator(&self.nodes[n]) {
                    generators.push(n);
                    continue;
                }
                let near = if alone && stays_with_input(&self.nodes[n]) {
                    self.device_of_input(n).filter(|d| self.candidates[group].contains(d))
                } else {
                    None
                };
                let chosen = match (near, &simulation) {
                    (Some(near), _) => near,
                    (None, Some(s)) => {
                        let among = self.with_room(n, kept[group], &load)?;
                        s.earliest(n, &among, self.options.default_device)
                    }
                    (None, None) => self.default_of(group),
                };
                load[chosen] = load[chosen].saturating_add(kept[group]);
                self.device[group] = Some(chosen);
            }
            if let (Some(s), Some(d)) = (&mut simulation, self.device[group]) {
                s.run(n, d);
            }
        }
        drop(simulation);
        if generators.is_empty() {
            return Ok(());
        }
        let consumers = consumers(self.nodes);
        for n in generators {
            let group = self.groups.of_node(n);
            let mut of_consumers = consumers[n].iter().map(|&c| self.device[self.groups.of_node(c)]);
            let first = of_consumers.next().flatten();
            let agreed = first.filter(|d| of_consumers.all(|o| o == Some(*d)) && self.candidates[group].contains(d));
            self.device[group] = Some(agreed.unwrap_or_else(|| self.default_of(group)));
        }
        Ok(())
    }

    fn default_of(&self, group: usize) -> usize {
        let c = &self.candidates[group];
        let default = self.options.default_device;
        if c.contains(&default) { default } else { c[0] }
    }

    fn device_of_input(&self, n: usize) -> Option<usize> {
        let input = self.nodes[n].inputs().first()?.node.index();
        self.device[self.groups.of_node(input)]
    }
}

/// The bytes that a node keeps between runs, as a variable does.
fn kept_bytes(n: &Node, costs: &CostModel) -> u64 {
    let shape = match n.op_name() {
        "VarHandleOp" | "VariableV2" | "Variable" => n.attrs().shape("shape").cloned().unwrap_or(PartialShape::UNKNOWN),
        _ => return 0,
    };
    n.attrs().dtype("dtype").map_or(0, |t| costs.tensor_bytes(&shape, t))
}

/// A node that makes its one output out of nothing, such as a constant: best where the output is used.
fn is_generator(n: &Node) -> bool {
    n.inputs().is_empty() && n.num_outputs() == 1 && !n.output_is_ref(0) && n.output_type(0) != DType::Resource
}

/// A node that only looks at its input's shape, or passes its input on.
fn stays_with_input(n: &Node) -> bool {
    matches!(
        n.op_name(),
        "Shape" | "ShapeN" | "Size" | "Rank" | "Identity" | "StopGradient" | "PreventGradient" | "Snapshot"
    )
}

/// The nodes that read outputs of each node.
fn consumers(nodes: &[Arc<Node>]) -> Vec<Vec<usize>> {
    let mut of = vec![Vec::new(); nodes.len()];
    for (n, node) in nodes.iter().enumerate() {
        for r in node.inputs() {
            if let Some(list) = of.get_mut(r.node.index()) {
                list.push(n);
            }
        }
    }
    of
}

/// An order in which the nodes could run, with each loop's back edges left out; smaller numbers first.
pub(super) fn topological(nodes: &[Arc<Node>]) -> Vec<usize> {
    let mut waits = vec![0usize; nodes.len()];
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (n, node) in nodes.iter().enumerate() {
        let data = node.inputs().iter().map(|r| r.node);
        for from in data.chain(node.control_inputs().iter().copied()) {
            let Some(producer) = nodes.get(from.index()) else {
                continue;
            };
            let back = node.op_name().ends_with("Merge") && producer.op_name().ends_with("NextIteration");
            if !back {
                waits[n] += 1;
                next[from.index()].push(n);
            }
        }
    }
    let mut ready: VecDeque<usize> = (0..nodes.len()).filter(|n| waits[*n] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    let mut done = vec![false; nodes.len()];
    let mut stuck = 0;
    loop {
        while let Some(n) = ready.pop_front() {
            if std::mem::replace(&mut done[n], true) {
                continue;
            }
            order.push(n);
            for &m in &next[n] {
                waits[m] -= 1;
                if waits[m] == 0 {
                    ready.push_back(m);
                }
            }
        }
        // A cycle that is no loop's: no session runs it, but it has to be placed.
        match (stuck..nodes.len()).find(|n| !done[*n]) {
            Some(n) => {
                stuck = n + 1;
                ready.push_back(n);
            }
            None => return order,
        }
    }
}

/// The finaliser of SplitMix64: well-spread bits of a number.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
