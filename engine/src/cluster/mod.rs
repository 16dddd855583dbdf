//! Several devices and several processes as one system.
//!
//! A *cluster* is a set of tasks, each a process with a [`Server`]; a [`ClusterSpec`] says where they are. A
//! [`Session`](crate::Session) made by [`Session::on`](crate::Session::on) in a task, or by
//! [`Session::connect`](crate::Session::connect) elsewhere, runs a graph on all of them: nodes are placed by their
//! device names, variables live in the task that has them and outlive sessions.
//!
//! - `spec`, `strict`: which tasks there are, and the JSON that says so
//! - `messages`, `ship`: what they say to each other; parts of graphs as bytes
//! - `table`, `host`, `joint`: the rendezvous of a step in a process; a process's devices and its share of each step;
//!   the parts of a share
//! - `peers`, `link`, `node`, `policy`, `register`: who is connected; the way to another task; what a task does for others,
//!   and for whom
//! - `run`, `watch`, `master`: a step as its coordinator sees it, who watches over steps, and the coordinator
//! - `server`, `info`, `epoch`, `events`: a task, looking at a cluster from outside, what fences off the past, and what is logged
//! - `renewal`: how certificates stay valid
//!
//! The coordinator of a session lives in the process of the session. That saves a hop and a copy of everything that is
//! fed and fetched, and a session's state cannot outlive those who use it. Neither it nor what a task does for others is an
//! actor with a mailbox, which would put a task's requests in one line and a wake-up into every step: a `node` handles what is
//! cheap on the endpoint's thread that received it, compiles on threads of its own, and leaves the rest to the devices'
//! workers. The `watch` over steps is a control actor.
//!
//! **Failure.** Peers are heard at least once a second. When one is lost, every step that it takes part in fails with
//! `UNAVAILABLE` that names it; the session stays usable, and registers its plans again when the task is back. A
//! step in which for ten seconds nothing happens but waiting fails and names what it waits for; where other steps make
//! progress, which may bring what it waits for, it may wait for a minute, and with a deadline of its own, or
//! asynchronously, as long as it was told. Of two connections with
//! a peer the newer is used, and the loss of one fails the steps that may have lost something with it.
//!
//! **Who may do what.** Clients, chiefs and the tasks of some jobs may submit graphs, of limited size. Their operations
//! touch files only in directories that a task allows ([`ServerOptions::directories`]). A tensor is taken from the task
//! only that the plan says it comes from, for a step that is in progress.

#![forbid(unsafe_code)]

mod devices;
mod epoch;
mod events;
mod host;
mod info;
mod joint;
mod link;
mod master;
mod messages;
mod node;
mod peers;
mod policy;
mod register;
mod renewal;
mod run;
mod server;
mod ship;
mod spec;
mod strict;
mod table;
mod tracer;
mod watch;

pub use actorflow_core::files::{Access, FilePolicy};
pub use actorflow_transport::identity;
pub use actorflow_transport::{Counters, Limits, Timing};
pub use info::{ClusterInfo, ConnectOptions, DeviceStatus, StepStatus, TaskStatus};
pub use renewal::Renewal;
pub use server::{Server, ServerOptions, ServerStatus};
pub use spec::{ClusterConfig, ClusterSpec, TF_CONFIG, TaskName};

pub(crate) use devices::Devices;
pub(crate) use host::Host;
pub(crate) use info::{Purpose, client_node};
pub(crate) use master::{DistPlan, How, Master, MasterOptions};
pub(crate) use server::cpu_executors;
pub(crate) use tracer::Tracer;
