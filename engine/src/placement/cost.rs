//! What computing a node and sending a tensor cost, in nanoseconds: estimated from shapes, or measured.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_actors::exec::Trace;
use actorflow_core::graph::Node;
use actorflow_core::{DType, DeviceName, PartialShape};

use super::estimate;

/// How fast tensors get from one device to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// What sending costs however small the tensor is, in nanoseconds.
    pub latency_ns: u64,
    /// Bytes per nanosecond, which are gigabytes per second.
    pub bytes_per_ns: f64,
}

/// The cost model: static estimates from operations and inferred shapes, replaced by what runs measured.
///
/// The estimates are orders of magnitude; placement depends on their ratios. A node takes as long as its arithmetic or its
/// memory traffic, whichever is slower, plus a fixed overhead.
#[derive(Debug, Clone)]
pub struct CostModel {
    measured: HashMap<Arc<str>, u64>,
    unknown_dim: u64,
    flops_per_ns: f64,
    bytes_per_ns: f64,
    overhead_ns: u64,
    local: Link,
    remote: Link,
}

impl Default for CostModel {
    /// Unknown dimensions count as 32, a usual batch. A thread does 16 floating-point operations and moves 8 bytes in a
    /// nanosecond, and a node's overhead is 50 ns: a core of a server with AVX2. Tensors of the same task are handed over
    /// in 2 µs; between tasks they take 100 µs and a gigabyte per second: a data centre's network.
    fn default() -> Self {
        CostModel {
            measured: HashMap::new(),
            unknown_dim: 32,
            flops_per_ns: 16.0,
            bytes_per_ns: 8.0,
            overhead_ns: 50,
            local: Link {
                latency_ns: 2_000,
                bytes_per_ns: 8.0,
            },
            remote: Link {
                latency_ns: 100_000,
                bytes_per_ns: 1.0,
            },
        }
    }
}

impl CostModel {
    /// The estimates, nothing measured.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a dimension counts that is not known when the graph is built.
    pub fn unknown_dim(mut self, elements: usize) -> Self {
        self.unknown_dim = elements as u64;
        self
    }

    /// How fast one thread computes: floating-point operations and bytes of memory per nanosecond.
    pub fn rates(mut self, flops_per_ns: f64, bytes_per_ns: f64) -> Self {
        self.flops_per_ns = flops_per_ns;
        self.bytes_per_ns = bytes_per_ns;
        self
    }

    /// How fast tensors get from device to device in one task.
    pub fn local_link(mut self, link: Link) -> Self {
        self.local = link;
        self
    }

    /// How fast tensors get from task to task.
    pub fn remote_link(mut self, link: Link) -> Self {
        self.remote = link;
        self
    }

    /// Takes measured costs in nanoseconds by the names of nodes, as [`Callable::costs`](crate::Callable::costs) gives them.
    /// They replace estimates and earlier measurements of these nodes; 0 means that a node was not measured.
    pub fn record(&mut self, costs: &[(Arc<str>, u32)]) {
        for (name, ns) in costs {
            if *ns > 0 {
                self.measured.insert(name.clone(), u64::from(*ns));
            }
        }
    }

    /// Takes the mean times of a traced run's nodes, which replace estimates and earlier measurements.
    pub fn record_trace(&mut self, trace: &Trace) {
        let mut sums: HashMap<&Arc<str>, (u64, u64)> = HashMap::new();
        for n in &trace.nodes {
            let (sum, runs) = sums.entry(&n.name).or_default();
            *sum = sum.saturating_add(n.duration_ns);
            *runs += 1;
        }
        for (name, (sum, runs)) in sums {
            self.measured.insert(name.clone(), sum / runs);
        }
    }

    /// What a node was measured to cost, in nanoseconds, if it was.
    pub fn measured_ns(&self, node: &str) -> Option<u64> {
        self.measured.get(node).copied()
    }

    /// What running a node once costs on a device of so many threads, in nanoseconds; `inputs` are the shapes of its
    /// inputs. Measured if it was, or else estimated.
    pub fn compute_ns(&self, node: &Node, inputs: &[PartialShape], threads: usize) -> u64 {
        if let Some(ns) = self.measured_ns(node.name()) {
            return ns;
        }
        let work = estimate::work(node, inputs, self.unknown_dim);
        let threads = threads.max(1) as f64;
        let arithmetic = work.flops as f64 / (self.flops_per_ns * threads);
        let traffic = work.bytes as f64 / (self.bytes_per_ns * threads);
        // Casts of floats saturate, and make nothing of what is no number.
        self.overhead_ns.saturating_add(arithmetic.max(traffic) as u64)
    }

    /// The bytes of a tensor, unknown dimensions counted.
    pub fn tensor_bytes(&self, shape: &PartialShape, dtype: DType) -> u64 {
        estimate::bytes(shape, dtype, self.unknown_dim)
    }

    /// What sending so many bytes costs, in nanoseconds; nothing from a device to itself.
    pub fn transfer_ns(&self, bytes: u64, from: &DeviceName, to: &DeviceName) -> u64 {
        if from == to {
            return 0;
        }
        let link = if from.task() == to.task() {
            self.local
        } else {
            self.remote
        };
        let bytes = bytes as f64 / link.bytes_per_ns;
        link.latency_ns.saturating_add(bytes as u64)
    }
}
