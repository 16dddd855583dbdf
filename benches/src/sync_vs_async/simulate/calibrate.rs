//! The times of a simulation.

use serde::Serialize;

use super::super::measures::median;
use super::super::setup::Raw;

/// Steps at the beginning of a run that are not typical: plans are registered, buffers made.
const WARM_UP: usize = 20;
/// Bytes of the buckets in which gradients travel under allreduce.
const BUCKET: usize = 1 << 20;

/// What a step consists of, measured with one worker: seconds.
#[derive(Debug, Clone, Serialize)]
pub(in super::super) struct Times {
    /// From the beginning of a step to its gradients, of many steps; a simulated worker draws from them.
    #[serde(skip)]
    pub(in super::super) compute: Vec<f64>,
    /// From the gradients to new values, without what the server takes; of many steps, drawn from, too.
    #[serde(skip)]
    pub(in super::super) wire: Vec<f64>,
    /// What a server takes for a push: receiving it, applying it, answering with new values.
    pub(in super::super) service: f64,
    /// How many servers.
    pub(in super::super) ps: usize,
    /// In how many buckets gradients travel under allreduce.
    pub(in super::super) buckets: usize,
    /// The median of `compute`.
    pub(in super::super) median_compute: f64,
    /// The median of `wire`.
    pub(in super::super) median_wire: f64,
}

impl Times {
    /// Times of a run with one worker, whose model has so many parameters of 4 bytes. Without processes, there is no telling
    /// the network from the server: then all waiting is the server's.
    pub(in super::super) fn of(raw: &Raw, ps: usize, parameters: usize) -> Times {
        let marks: Vec<_> = raw.marks.iter().flatten().collect();
        let skip = WARM_UP.min(marks.len() / 2);
        let compute: Vec<f64> = marks[skip..]
            .iter()
            .map(|m| (m.ready - m.begin) as f64 * 1e-6)
            .collect();
        let wait: Vec<f64> = marks[skip..].iter().map(|m| (m.end - m.ready) as f64 * 1e-6).collect();
        let cpu: f64 = raw.server_cpu.iter().sum::<f64>() / raw.server_cpu.len().max(1) as f64;
        let usual = median(wait.clone());
        let service = match raw.server_cpu.is_empty() {
            true => usual,
            // What the worker waits is no less.
            false => (cpu / marks.len().max(1) as f64).min(usual),
        };
        let wire = wait.iter().map(|w| (w - service).max(0.0)).collect();
        Times::new(compute, wire, service, ps, (4 * parameters).div_ceil(BUCKET))
    }

    /// Times that are known.
    pub(in super::super) fn new(compute: Vec<f64>, wire: Vec<f64>, service: f64, ps: usize, buckets: usize) -> Times {
        Times {
            median_compute: median(compute.clone()),
            median_wire: median(wire.clone()),
            compute,
            wire,
            service,
            ps,
            buckets: buckets.max(1),
        }
    }

    /// Half of the steps compute for less than this.
    pub(in super::super) fn median_compute(&self) -> f64 {
        self.median_compute
    }
}
