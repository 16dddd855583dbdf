//! Placing variables on parameter servers, and everything else on a worker.

#![forbid(unsafe_code)]

use parking_lot::Mutex;

use actorflow_core::graph::NodeSummary;
use actorflow_core::{AttrValue, DeviceName, Error, PartialShape, Result};

const MAX_TASKS: u32 = 1 << 16;

/// How variables are spread over the tasks of the job `ps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PsStrategy {
    /// In turn, in the order in which they are added.
    #[default]
    RoundRobin,
    /// Each to the task with the fewest bytes of variables so far. A variable whose shape is not fully known counts by the
    /// dimensions that are.
    GreedyLoadBalancing,
}

/// A device function after TensorFlow's `replica_device_setter`, for [`Graph::device_function`](crate::Graph::device_function):
/// variables and tables go to the tasks of the job `ps`, of which there are `ps_tasks`, everything else asks for
/// `worker_device`, for example `"/job:worker/task:3"`. What scopes inside of the function's say wins. Without `ps_tasks`
/// nothing is asked for.
///
/// Workers that build the same graph in the same order agree about where variables are.
///
/// # Errors
/// `INVALID_ARGUMENT` if `worker_device` is malformed or there are more than 65536 tasks.
///
/// ```
/// use actorflow::placement::{PsStrategy, replica_device_setter};
/// use actorflow::{Graph, GraphVariables};
///
/// # fn main() -> actorflow::Result<()> {
/// let g = Graph::new();
/// let _scope = g.device_function(replica_device_setter(2, "/job:worker/task:0", PsStrategy::RoundRobin)?);
/// let w = g.variable("w", 1.0f32)?;
/// let b = g.variable("b", 0.0f32)?;
/// let x = g.constant(2.0f32)?;
/// assert_eq!(w.handle().op().node().device(), "/job:ps/task:0");
/// assert_eq!(b.handle().op().node().device(), "/job:ps/task:1");
/// assert_eq!(x.op().node().device(), "/job:worker/task:0");
/// # Ok(())
/// # }
/// ```
pub fn replica_device_setter(
    ps_tasks: u32,
    worker_device: &str,
    strategy: PsStrategy,
) -> Result<impl Fn(&NodeSummary<'_>) -> Option<DeviceName> + Send + Sync + 'static> {
    if ps_tasks > MAX_TASKS {
        return Err(Error::invalid(format!(
            "{ps_tasks} tasks of parameter servers are more than the limit of {MAX_TASKS}"
        )));
    }
    let worker: DeviceName = worker_device.parse()?;
    let ps: DeviceName = "/job:ps".parse()?;
    let spread = Mutex::new(Spread::new(strategy, ps_tasks));
    Ok(move |node: &NodeSummary<'_>| {
        if ps_tasks == 0 {
            return None;
        }
        if !is_parameter(node.def.name()) {
            return Some(worker.clone());
        }
        let mut device = ps.clone();
        if node.device.job.is_none() || node.device.job == ps.job {
            device.task = Some(spread.lock().task(node, ps_tasks));
        }
        Some(device)
    })
}

/// [`replica_device_setter`] for any devices: variables and tables go to those of `servers` (names, possibly partial, like
/// `/job:ps/task:1` or `/cpu:0`), everything else to `worker`. Where a scope inside of the function's asks for a device of
/// its own, that wins. Without servers nothing is asked for.
///
/// # Errors
/// `INVALID_ARGUMENT` if a name is malformed or there are more than 65536 servers.
pub fn parameter_devices(
    servers: &[String],
    worker: &str,
    strategy: PsStrategy,
) -> Result<impl Fn(&NodeSummary<'_>) -> Option<DeviceName> + Send + Sync + 'static> {
    let n = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    if n > MAX_TASKS {
        return Err(Error::invalid(format!(
            "{n} parameter servers are more than the limit of {MAX_TASKS}"
        )));
    }
    let worker: DeviceName = worker.parse()?;
    let servers = servers.iter().map(|s| s.parse()).collect::<Result<Vec<DeviceName>>>()?;
    let spread = Mutex::new(Spread::new(strategy, n));
    Ok(move |node: &NodeSummary<'_>| {
        if n == 0 {
            return None;
        }
        match is_parameter(node.def.name()) {
            true if node.device.is_any() => servers.get(spread.lock().task(node, n) as usize).cloned(),
            true => None,
            false => Some(worker.clone()),
        }
    })
}

/// Operations that make what workers share.
fn is_parameter(op: &str) -> bool {
    matches!(
        op,
        "Variable"
            | "VariableV2"
            | "AutoReloadVariable"
            | "VarHandleOp"
            | "MutableHashTable"
            | "MutableHashTableV2"
            | "MutableHashTableOfTensors"
            | "MutableHashTableOfTensorsV2"
            | "MutableDenseHashTable"
            | "MutableDenseHashTableV2"
    )
}

struct Spread {
    strategy: PsStrategy,
    /// The task of the next variable, in turn.
    next: u32,
    /// The bytes on each task.
    bytes: Vec<u64>,
}

impl Spread {
    fn new(strategy: PsStrategy, tasks: u32) -> Spread {
        Spread {
            strategy,
            next: 0,
            bytes: match strategy {
                PsStrategy::RoundRobin => Vec::new(),
                PsStrategy::GreedyLoadBalancing => vec![0; tasks as usize],
            },
        }
    }

    fn task(&mut self, node: &NodeSummary<'_>, tasks: u32) -> u32 {
        match self.strategy {
            PsStrategy::RoundRobin => {
                let task = self.next;
                self.next = (task + 1) % tasks;
                task
            }
            PsStrategy::GreedyLoadBalancing => {
                let least = self.bytes.iter_mut().enumerate().min_by_key(|(i, b)| (**b, *i));
                least.map_or(0, |(task, bytes)| {
                    *bytes = bytes.saturating_add(bytes_of(node));
                    task as u32
                })
            }
        }
    }
}

/// The bytes of a variable; at least one, so that what has no size is spread, too.
fn bytes_of(node: &NodeSummary<'_>) -> u64 {
    let shape = match node.attrs.get("shape") {
        Some(AttrValue::Shape(s)) => s,
        _ => node.output_shapes.first().unwrap_or(&PartialShape::UNKNOWN),
    };
    let dtype = node.attrs.dtype("dtype").ok().or(node.output_types.first().copied());
    let dims = shape.dims().unwrap_or(&[]);
    dims.iter()
        .flatten()
        .fold(dtype.map_or(1, |d| d.size().max(1) as u64), |n, d| {
            n.saturating_mul(*d as u64)
        })
        .max(1)
}
