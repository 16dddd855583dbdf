//! The times of a simulation.

use serde::Serialize;

use super::super::measures::median;
use super::super::setup::Raw;

/// Steps at the beginning of a run that are not typical: plans are registered, buffers made.
const WARM_UP: usize = 20;
/// Times that are further above the upper quartile than so many times the distance of the quartiles are not drawn: the machine
/// did something else meanwhile, which is no property of a step. J. Tukey's outer fence, "Exploratory Data Analysis", 1977.
const FENCE: f64 = 3.0;
/// That distance is taken to be at least this share of the median, as times are whole microseconds.
const LEAST_SPREAD: f64 = 0.1;
/// Bytes of the buckets in which gradients travel under allreduce.
const BUCKET: usize = 1 << 20;

/// What a step consists of, measured with one worker: seconds.
#[derive(Debug, Clone, Serialize)]
pub(in super::super) struct Times {
    /// From new values to the next gradients, what makes the batch included, of many steps; a simulated worker draws from them.
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
    /// Times of a run with one worker, whose model has so many parameters of 4 bytes. Without processes, the server's processor
    /// time is not known: then what a push takes when nothing comes between, the first decile of the waiting, is the server's,
    /// and the rest, handing over between threads, is in the network's place.
    pub(in super::super) fn of(raw: &Raw, ps: usize, parameters: usize) -> Times {
        let marks: Vec<_> = raw.marks.iter().flatten().collect();
        let skip = WARM_UP.min(marks.len() / 2);
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 * 1e-6;
        // The worker's whole time, so that a simulated one makes as many steps as it has made.
        let compute = marks[skip..].windows(2).map(|m| seconds(m[0].end, m[1].ready));
        let compute = typical(compute.collect());
        let wait = typical(marks[skip..].iter().map(|m| seconds(m.ready, m.end)).collect());
        let cpu: f64 = raw.server_cpu.iter().sum::<f64>() / raw.server_cpu.len().max(1) as f64;
        let usual = median(wait.clone());
        let service = match raw.server_cpu.is_empty() {
            true => quantile(&wait, 0.1),
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

/// The value below which this share of the sorted ones is; 0 of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or(0.0)
}

/// The times in order, without those that are far above the others.
fn typical(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(&times, share));
    let most = high + FENCE * (high - low).max(LEAST_SPREAD * middle);
    times.retain(|t| *t <= most);
    times
}
