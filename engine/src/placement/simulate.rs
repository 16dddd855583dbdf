//! The greedy simulation of a run, section 3.2.1 of the TensorFlow white paper: each node goes where it is done first.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::PartialShape;
use actorflow_core::graph::Node;

use super::groups::Groups;
use super::{CostModel, DeviceInfo};

/// A run in which every device computes one node at a time, as far as it has been simulated. Times are nanoseconds.
pub(super) struct Simulation<'a> {
    nodes: &'a [Arc<Node>],
    devices: &'a [DeviceInfo],
    groups: &'a Groups,
    costs: &'a CostModel,
    /// What each node costs on each device.
    cost: Vec<Vec<u64>>,
    /// When each device is done with what it was given.
    idle_from: Vec<u64>,
    /// Where and when each node was run; nodes that were not are everywhere at once.
    ran: Vec<Option<(usize, u64)>>,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(
        nodes: &'a [Arc<Node>],
        devices: &'a [DeviceInfo],
        groups: &'a Groups,
        costs: &'a CostModel,
    ) -> Self {
        let cost = nodes
            .iter()
            .map(|n| {
                let inputs = shapes_of_inputs(nodes, n);
                devices.iter().map(|d| costs.compute_ns_on(n, &inputs, d)).collect()
            })
            .collect();
        Simulation {
            nodes,
            cost,
            devices,
            groups,
            costs,
            idle_from: vec![0; devices.len()],
            ran: vec![None; nodes.len()],
        }
    }

    /// The device among `candidates` on which node `n`, with all that has to be with it, would be done first; the default
    /// device and then the first one if it makes no difference.
    pub(super) fn earliest(&self, n: usize, candidates: &[usize], default: usize) -> usize {
        let members = self.groups.members(self.groups.of_node(n));
        let done = |d: usize| {
            let arrived = members.iter().map(|&m| self.arrival(m, d)).max().unwrap_or(0);
            members.iter().fold(arrived.max(self.idle_from[d]), |t, &m| {
                t.saturating_add(self.cost(m, d))
            })
        };
        candidates
            .iter()
            .copied()
            .min_by_key(|&d| (done(d), d != default, d))
            .unwrap_or(default)
    }

    /// Runs node `n` on device `d`.
    pub(super) fn run(&mut self, n: usize, d: usize) {
        let start = self.arrival(n, d).max(self.idle_from[d]);
        let end = start.saturating_add(self.cost(n, d));
        self.idle_from[d] = end;
        self.ran[n] = Some((d, end));
    }

    /// When everything that node `n` waits for, as far as it has run, has arrived on device `d`.
    fn arrival(&self, n: usize, d: usize) -> u64 {
        let node = &self.nodes[n];
        let data = node.inputs().iter().map(|r| {
            let from = self.nodes.get(r.node.index())?;
            let bytes = self
                .costs
                .tensor_bytes(from.output_shape(r.index as usize), from.output_type(r.index as usize));
            self.sent(r.node.index(), bytes, d)
        });
        let control = node.control_inputs().iter().map(|c| self.sent(c.index(), 0, d));
        data.chain(control).flatten().max().unwrap_or(0)
    }

    fn sent(&self, from: usize, bytes: u64, d: usize) -> Option<u64> {
        let (device, end) = (*self.ran.get(from)?)?;
        let to = &self.devices[d].name;
        Some(end.saturating_add(self.costs.transfer_ns(bytes, &self.devices[device].name, to)))
    }

    fn cost(&self, n: usize, d: usize) -> u64 {
        self.cost[n][d]
    }

    /// When the last device is done with what it was given.
    pub(super) fn end(&self) -> u64 {
        self.idle_from.iter().copied().max().unwrap_or(0)
    }
}

fn shapes_of_inputs(nodes: &[Arc<Node>], node: &Node) -> Vec<PartialShape> {
    node.inputs()
        .iter()
        .map(|r| match nodes.get(r.node.index()) {
            Some(from) => from.output_shape(r.index as usize).clone(),
            None => PartialShape::UNKNOWN,
        })
        .collect()
}
