//! A cluster of servers in this process, for the suites about clusters.
#![allow(dead_code)] // each suite uses a part
#![allow(clippy::unwrap_used)] // helpers of tests

pub(crate) mod relay;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use actorflow::cluster::identity::{Authority, Identity};
use actorflow::cluster::{ClusterSpec, ConnectOptions, Server, ServerOptions, TaskName};
use actorflow::{Graph, GraphVariables, Output, Result, Session, SessionOptions, Tensor, Variable};
use relay::{Relay, Weather};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Servers, and the authority that vouches for them.
pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    pub(crate) spec: ClusterSpec,
    pub(crate) servers: Vec<Server>,
    /// What stands between a task and the others, if anything does.
    pub(crate) relays: Vec<Relay>,
}

/// An address that nobody has, and that nobody else is given: below the ports that the system gives to those who ask for
/// any, so that a task that ends finds its own free again.
pub(crate) fn free_addr() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Relaxed);
        let port = 10_000 + std::process::id().wrapping_mul(61).wrapping_add(n) % 20_000;
        let addr = format!("127.0.0.1:{port}");
        if UdpSocket::bind(&addr).is_ok() {
            return addr;
        }
    }
}

pub(crate) fn options() -> SessionOptions {
    SessionOptions {
        pin: false,
        ..SessionOptions::with_threads(2)
    }
}

impl Cluster {
    fn empty() -> Cluster {
        Cluster {
            authority: Authority::ephemeral("test").unwrap(),
            spec: ClusterSpec::new(),
            servers: Vec::new(),
            relays: Vec::new(),
        }
    }

    /// A cluster of these tasks.
    pub(crate) fn new(tasks: &[(&str, u32)]) -> Cluster {
        Cluster::with(tasks, |_| {}).unwrap()
    }

    /// A cluster of these tasks, with other options.
    pub(crate) fn with(tasks: &[(&str, u32)], adjust: impl Fn(&mut ServerOptions)) -> Result<Cluster> {
        let mut cluster = Cluster::empty();
        for (job, index) in tasks {
            cluster.spec = cluster.spec.with_task(job, *index, &free_addr()).unwrap();
        }
        for (job, index) in tasks {
            let mut options = cluster.server_options(job, *index);
            adjust(&mut options);
            cluster.servers.push(Server::start(options)?);
        }
        Ok(cluster)
    }

    /// A session of a client outside, by one of the tasks.
    pub(crate) fn connect(&self, g: &Graph, by: usize) -> Session {
        Session::connect(g, &self.servers[by].target(), &self.client(), options()).unwrap()
    }

    /// A session in one of the tasks.
    pub(crate) fn session(&self, g: &Graph, task: usize) -> Session {
        Session::on(g, &self.servers[task], options()).unwrap()
    }

    /// A cluster in which the way to each task leads through a relay.
    pub(crate) fn behind_relays(tasks: &[(&str, u32)], weather: Weather) -> Cluster {
        let mut cluster = Cluster::empty();
        let mut real = Vec::new();
        for (i, (job, index)) in tasks.iter().enumerate() {
            let addr = free_addr();
            let relay = Relay::start(addr.parse().unwrap(), weather, i as u64);
            cluster.spec = cluster.spec.with_task(job, *index, &relay.addr().to_string()).unwrap();
            cluster.relays.push(relay);
            real.push(addr);
        }
        for ((job, index), addr) in tasks.iter().zip(real) {
            let mut options = cluster.server_options(job, *index);
            options.bind = Some(addr.parse().unwrap());
            cluster.servers.push(Server::start(options).unwrap());
        }
        cluster
    }

    pub(crate) fn identity(&self, subject: &str) -> Identity {
        self.authority.issue(subject.parse().unwrap(), HOUR).unwrap()
    }

    pub(crate) fn server_options(&self, job: &str, index: u32) -> ServerOptions {
        let identity = self.identity(&format!("task/{job}/{index}"));
        let task = TaskName::new(job, index).unwrap();
        ServerOptions {
            session: options(),
            ..ServerOptions::new(self.spec.clone(), task, identity)
        }
    }

    pub(crate) fn start(&self, job: &str, index: u32) -> Result<Server> {
        Server::start(self.server_options(job, index))
    }

    pub(crate) fn client(&self) -> ConnectOptions {
        ConnectOptions::new(self.identity("client/test"))
    }
}

/// A variable on the first parameter server.
pub(crate) fn on_ps(g: &Graph, value: Tensor) -> Variable {
    let _ps = g.device_scope("/job:ps/task:0");
    g.variable("v", value).unwrap()
}

/// Twice a variable, on the first worker.
pub(crate) fn doubled(g: &Graph, v: &Variable) -> Output {
    let _worker = g.device_scope("/job:worker/task:0");
    (v.value() * 2f32).unwrap()
}
