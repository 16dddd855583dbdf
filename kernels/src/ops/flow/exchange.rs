//! `_Send`, `_Recv` and their `_Host` twins: the two ends of an edge between devices or tasks.

use std::sync::Arc;

use actorflow_core::PartialShape;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Cost, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;
use actorflow_core::rendezvous::{EdgeKey, Rendezvous};

/// Attributes that TensorFlow's definition does not have; a partition's graph carries them.
const EDGE: &str = "edge";

fn edge(init: &KernelInit<'_>) -> Result<u32> {
    let edge = init.attrs.int(EDGE)?;
    u32::try_from(edge).map_err(|_| {
        Error::invalid(format!(
            "{} {:?} has no edge number: such nodes are made when a graph is divided among devices, and a graph that \
             brings its own cannot be run",
            init.op, init.name
        ))
    })
}

fn rendezvous(cx: &OpContext<'_>) -> Result<Arc<dyn Rendezvous>> {
    cx.step().rendezvous.clone().ok_or_else(|| {
        Error::failed_precondition("the run is of one device only, so there is nobody to exchange tensors with")
    })
}

/// Sends its input, or that it is dead.
struct Send(u32);

impl Kernel for Send {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let key = EdgeKey {
            edge: self.0,
            tag: cx.iteration(),
        };
        let value = cx.take_input(0).ok();
        rendezvous(cx)?.send(key, value, &mut || cx.suspend())
    }

    fn may_suspend(&self) -> bool {
        true
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

/// Gives what was sent; waits for it without a worker.
struct Recv(u32);

impl Kernel for Recv {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let key = EdgeKey {
            edge: self.0,
            tag: cx.iteration(),
        };
        if let Some(Some(value)) = rendezvous(cx)?.recv(key, &mut || cx.suspend())? {
            cx.set_output(0, value);
        }
        Ok(())
    }

    fn may_suspend(&self) -> bool {
        true
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn sent_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok(vec![cx.attrs().shape("shape")?.clone()])
}

/// What both ends have in common.
fn end(name: &'static str) -> OpDef {
    OpDef::new(name, Category::ControlFlow)
        .attr("tensor_name: string")
        .attr("send_device: string")
        .attr("send_device_incarnation: int")
        .attr("recv_device: string")
        .attr("client_terminated: bool = false")
        .attr("edge: int = -1")
        .attr("may_be_dead: bool = false")
        .stateful()
        .not_differentiable()
}

fn send_op(name: &'static str) -> OpDef {
    end(name)
        .doc("Sends a tensor to the _Recv with the same edge number, on another device or in another task.")
        .input("tensor: T")
        .attr("T: type")
        .shape(|_| Ok(Vec::new()))
        .cpu(|init| Ok(Box::new(Send(edge(init)?))))
}

fn recv_op(name: &'static str) -> OpDef {
    end(name)
        .doc("The tensor that the _Send with the same edge number sends, from another device or another task.")
        .output("tensor: tensor_type")
        .attr("tensor_type: type")
        .attr("shape: shape = unknown")
        .shape(sent_shape)
        .cpu(|init| Ok(Box::new(Recv(edge(init)?))))
}

fn send() -> OpDef {
    send_op("_Send")
}

fn recv() -> OpDef {
    recv_op("_Recv")
}

fn host_send() -> OpDef {
    send_op("_HostSend")
}

fn host_recv() -> OpDef {
    recv_op("_HostRecv")
}

register_ops!(send, recv, host_send, host_recv);
