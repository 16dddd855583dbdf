//! When a replica's gradients are there: an operation that variables flow through, whose gradient takes the time.
//!
//! A replica computes and pushes in one run of the graph, so that its backward pass and its network overlap. The probe
//! tells the two apart without getting in between: it passes each gradient on and notes when.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use actorflow::op::{Category, Cost, GradContext, Kernel, KernelInit, OpContext, OpDef, ShapeContext};
use actorflow::{Grad, Output, PartialShape, Result, register_ops};

/// Replicas of one process, at most.
pub(super) const SLOTS: usize = 256;

/// Microseconds from the [`epoch`] to when the last gradient of each replica of this process was there.
static READY: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Microseconds since this process began to measure.
pub(super) fn now() -> u64 {
    u64::try_from(epoch().elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// When the last gradient of a replica was there, as [`now`] counts.
pub(super) fn ready(slot: usize) -> u64 {
    READY[slot].load(Ordering::Relaxed)
}

/// The same value, whose gradient takes the time for a replica.
///
/// # Errors
/// As any node's.
pub(super) fn probe(x: &Output, slot: usize) -> Result<Output> {
    x.graph().op("BenchProbe").input(x).attr("slot", slot).output()
}

fn same(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok(vec![cx.input(0)])
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let slot = cx.attrs().int("slot")?;
    let dy = cx.dense(dys, 0)?;
    let noted = dy.graph().op("BenchProbed").input(&dy).attr("slot", slot).output()?;
    Ok(vec![Some(noted.into())])
}

/// Passes its input on; with a slot, notes the time.
struct Pass(Option<usize>);

impl Kernel for Pass {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        if let Some(slot) = self.0 {
            READY[slot].store(now(), Ordering::Relaxed);
        }
        cx.forward(0, 0)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn slot(init: &KernelInit<'_>) -> Result<usize> {
    Ok(usize::try_from(init.attrs.int("slot")?).unwrap_or(0).min(SLOTS - 1))
}

fn bench_probe() -> OpDef {
    OpDef::new("BenchProbe", Category::User)
        .doc("The same tensor; the time is taken when its gradient is there.")
        .input("x: T")
        .output("y: T")
        .attr("T: type")
        .attr("slot: int")
        .shape(same)
        .gradient(gradient)
        .cpu(|_: &KernelInit<'_>| Ok(Box::new(Pass(None))))
}

fn bench_probed() -> OpDef {
    OpDef::new("BenchProbed", Category::User)
        .doc("The same tensor; takes the time.")
        .input("x: T")
        .output("y: T")
        .attr("T: type")
        .attr("slot: int")
        .stateful()
        .shape(same)
        .not_differentiable()
        .cpu(|init: &KernelInit<'_>| Ok(Box::new(Pass(Some(slot(init)?)))))
}

register_ops!(bench_probe, bench_probed);
