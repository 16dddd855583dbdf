//! What computing a node and sending a tensor cost, in nanoseconds: estimated from shapes, or measured.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use actorflow_actors::exec::Trace;
use actorflow_core::graph::Node;
use actorflow_core::{DType, DeviceName, PartialShape};
use parking_lot::RwLock;

use super::{DeviceInfo, estimate};

/// How fast tensors get from one device to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// What sending costs however small the tensor is, in nanoseconds.
    pub latency_ns: u64,
    /// Bytes per nanosecond, which are gigabytes per second.
    pub bytes_per_ns: f64,
}

/// What was measured: for each node, on each device, nanoseconds. Devices without a name are not known.
#[derive(Debug, Default)]
struct Measured(RwLock<HashMap<Arc<str>, Vec<(Arc<str>, u64)>>>);

impl Clone for Measured {
    fn clone(&self) -> Measured {
        Measured(RwLock::new(self.0.read().clone()))
    }
}

impl Measured {
    fn put(&self, node: &Arc<str>, device: &Arc<str>, ns: u64) {
        let mut all = self.0.write();
        match all.entry(node.clone()) {
            Entry::Vacant(v) => {
                v.insert(vec![(device.clone(), ns)]);
            }
            Entry::Occupied(mut o) => match o.get_mut().iter_mut().find(|(d, _)| d == device) {
                Some(known) => known.1 = ns,
                None => o.get_mut().push((device.clone(), ns)),
            },
        }
    }
}

/// The cost model: static estimates from operations and inferred shapes, replaced by what runs measured.
///
/// The estimates are orders of magnitude; placement depends on their ratios. A node takes as long as its arithmetic or its
/// memory traffic, whichever is slower, plus a fixed overhead.
///
/// A session whose [`SessionOptions::costs`](crate::SessionOptions::costs) this is adds what its traced runs measure, on all
/// devices and tasks; sessions that share the model place by that from then on.
#[derive(Debug, Clone)]
pub struct CostModel {
    measured: Measured,
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
            measured: Measured::default(),
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
    /// They count where nothing was measured on a device of a known name, and replace earlier ones; 0 means that a node was
    /// not measured.
    pub fn record(&self, costs: &[(Arc<str>, u32)]) {
        let unknown: Arc<str> = "".into();
        for (name, ns) in costs {
            if *ns > 0 {
                self.measured.put(name, &unknown, u64::from(*ns));
            }
        }
    }

    /// Takes the mean times of a traced run's nodes, which replace estimates and earlier measurements on the same devices.
    pub fn record_trace(&self, trace: &Trace) {
        let mut sums: HashMap<(&Arc<str>, &Arc<str>), (u64, u64)> = HashMap::new();
        for n in &trace.nodes {
            let (sum, runs) = sums.entry((&n.name, &n.device)).or_default();
            *sum = sum.saturating_add(n.duration_ns);
            *runs += 1;
        }
        for ((name, device), (sum, runs)) in sums {
            self.measured.put(name, device, sum / runs);
        }
    }

    /// What a node was measured to cost, in nanoseconds, if it was: the mean over the devices.
    pub fn measured_ns(&self, node: &str) -> Option<u64> {
        let all = self.measured.0.read();
        let found = all.get(node)?;
        let sum = found.iter().fold(0u64, |sum, (_, ns)| sum.saturating_add(*ns));
        sum.checked_div(found.len() as u64)
    }

    /// What a node was measured to cost on a device of that full name, in nanoseconds, if it was.
    pub fn measured_on(&self, node: &str, device: &str) -> Option<u64> {
        let all = self.measured.0.read();
        let found = all.get(node)?.iter().find(|(d, _)| **d == *device);
        found.map(|(_, ns)| *ns)
    }

    /// What running a node once costs on a device, in nanoseconds: measured there, or else elsewhere, or else estimated.
    pub fn compute_ns_on(&self, node: &Node, inputs: &[PartialShape], device: &DeviceInfo) -> u64 {
        self.measured_on(node.name(), &device.name.to_string())
            .unwrap_or_else(|| self.compute_ns(node, inputs, device.threads))
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
