//! Sessions: running parts of a graph, with state that stays.
//!
//! A [`Session`] owns the variables and other resources of a graph and the device that computes. It can be cloned
//! and used from any number of threads at once; runs are concurrent. [`Session::run`] blocks, on its caller's
//! thread as far as possible; [`Runner::run_async`] gives a plain future. What a run needs is compiled once for
//! each set of feeds, fetches and targets and kept; a [`Callable`] holds its plan directly.
//!
//! Dropping the last handle of a session drops its variables.

mod backend;
mod callable;
mod options;
mod runner;

pub use callable::Callable;
pub use options::SessionOptions;
pub use runner::{Runner, TracedFuture};

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::{NodeId, OutputRef};
use actorflow_core::kernel::Device;
use actorflow_core::resource::{ResourceManager, Variable};
use actorflow_core::{Graph, Operation, Output, Tensor};
use parking_lot::Mutex;

use crate::cluster::{ConnectOptions, Server};
use backend::{Backend, Prepared};

/// What a plan is made for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The graph's.
    version: u64,
    pub(crate) feeds: Vec<OutputRef>,
    pub(crate) fetches: Vec<OutputRef>,
    pub(crate) targets: Vec<NodeId>,
}

#[derive(Default)]
struct Cache {
    plans: HashMap<Key, (Prepared, u64)>,
    clock: u64,
}

struct Inner {
    graph: Graph,
    options: SessionOptions,
    backend: Backend,
    cache: Mutex<Cache>,
}

/// Runs parts of a graph. Clones are handles of the same session.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

impl Session {
    /// A session with the default options: one worker for each core, no memory limit, all passes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if operations that are linked into the program are registered wrongly.
    pub fn new(graph: &Graph) -> Result<Session> {
        Session::with_options(graph, SessionOptions::default())
    }

    /// A session with options.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_options(graph: &Graph, options: SessionOptions) -> Result<Session> {
        let backend = Backend::local(&options)?;
        Ok(Session::over(graph, options, backend))
    }

    /// A session in a task of a cluster, over the devices of all its tasks. Variables live in the task that has them,
    /// and outlive the session. Nodes without constraints are placed on this task's first device. Threads, memory and
    /// devices of `options` are those of the server, whatever they say.
    ///
    /// # Errors
    /// As [`new`](Self::new); `INVALID_ARGUMENT` for a device filter that is none.
    pub fn on(graph: &Graph, server: &Server, options: SessionOptions) -> Result<Session> {
        let backend = Backend::in_task(server, &options)?;
        Ok(Session::over(graph, options, backend))
    }

    /// A session over the devices of a cluster, from outside: `target` is the address of any of its tasks
    /// ([`Server::target`]), on whose first device nodes without constraints are placed.
    ///
    /// # Errors
    /// As [`on`](Self::on); `UNAVAILABLE` if no task answers at the target, `UNAUTHENTICATED` if it is another
    /// cluster's.
    pub fn connect(graph: &Graph, target: &str, client: &ConnectOptions, options: SessionOptions) -> Result<Session> {
        let backend = Backend::outside(target, client, &options)?;
        Ok(Session::over(graph, options, backend))
    }

    /// A session of another graph over the same devices, threads and resources: what one assigns to a variable, the other
    /// reads under the same name. For a session made by [`connect`](Self::connect), the first must outlive the others.
    ///
    /// ```
    /// use actorflow::{Graph, GraphVariables, Session};
    ///
    /// # fn main() -> actorflow::Result<()> {
    /// let (a, b) = (Graph::new(), Graph::new());
    /// a.variable("w", 1.0f32)?;
    /// let w = b.variable("w", 2.0f32)?;
    /// let one = Session::new(&a)?;
    /// let other = one.sibling(&b);
    /// one.execute(&[&a.global_variables_initializer()?])?;
    /// assert_eq!(other.run(&[], &[&w])?[0].to_scalar::<f32>()?, 1.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sibling(&self, graph: &Graph) -> Session {
        Session::over(graph, self.0.options.clone(), self.0.backend.sibling())
    }

    fn over(graph: &Graph, options: SessionOptions, backend: Backend) -> Session {
        Session(Arc::new(Inner {
            graph: graph.clone(),
            options,
            backend,
            cache: Mutex::default(),
        }))
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.0.graph
    }

    /// The options.
    pub fn options(&self) -> &SessionOptions {
        &self.0.options
    }

    /// The resources of the session's process: variables, queues and the like. A session in a task of a cluster shares
    /// them with the task; one from outside has none.
    pub fn resources(&self) -> &Arc<ResourceManager> {
        self.0.backend.resources()
    }

    /// The first device of the session's process.
    pub fn device(&self) -> &Arc<dyn Device> {
        self.0.backend.device()
    }

    /// The devices that the session may use, by their full names.
    pub fn devices(&self) -> Vec<String> {
        self.0.backend.devices()
    }

    /// The nodes that [`SessionOptions::soft_placement`] has put elsewhere than they asked for: what was moved, where, and
    /// why, a sentence each.
    ///
    /// # Errors
    /// As [`placement::place`](crate::placement::place).
    pub fn placement_log(&self) -> Result<Vec<String>> {
        self.0.backend.moves(&self.0.graph)
    }

    /// The full name of the device that a node is placed on.
    ///
    /// # Errors
    /// As [`placement::place`](crate::placement::place).
    pub fn device_of(&self, op: &Operation) -> Result<String> {
        self.check_owner(op.graph(), &op.name())?;
        self.0.backend.device_of(&self.0.graph, op.id())
    }

    /// Computes `fetches` with some tensors given: `session.run(&[(&x, batch)], &[&loss])?`.
    ///
    /// A fed tensor replaces whatever the graph would compute for it. The fetched values come in order.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if nothing is fetched, or a feed's dtype or shape does not fit; the first error of a
    /// node otherwise, naming it.
    pub fn run(&self, feeds: &[(&Output, Tensor)], fetches: &[&Output]) -> Result<Vec<Tensor>> {
        let mut r = self.runner();
        for (o, t) in feeds {
            r = r.feed(o, t.clone());
        }
        for f in fetches {
            r = r.fetch(f);
        }
        r.run()
    }

    /// Runs operations for their effects: `session.execute(&[&init])?`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn execute(&self, targets: &[&Operation]) -> Result<()> {
        let mut r = self.runner();
        for t in targets {
            r = r.target(t);
        }
        r.run().map(drop)
    }

    /// Starts describing a run: feeds, fetches, targets, deadline, cancellation, trace.
    pub fn runner(&self) -> Runner<'_> {
        Runner::new(self)
    }

    /// Prepares a run that is called often: its plan is looked up once, and feeds and fetches are by position.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn callable(&self, feeds: &[&Output], fetches: &[&Output], targets: &[&Operation]) -> Result<Callable> {
        Callable::new(self, feeds, fetches, targets)
    }

    /// The present value of a variable, by the name of its node (or shared name), in the default container. A variable of
    /// another task is read by a run, if a node of the graph reads it.
    ///
    /// # Errors
    /// `NOT_FOUND` if no run has created it; `FAILED_PRECONDITION` if it is not initialised.
    pub fn variable(&self, name: &str) -> Result<Tensor> {
        if self.resources().get("", name).is_err()
            && let Some(reader) = self.remote_reader(name)?
        {
            let mut values = self.run(&[], &[&reader])?;
            return values.pop().ok_or_else(|| Error::internal("a fetch gave no value"));
        }
        let v = self.resources().get("", name)?.get::<Variable>()?;
        let value = match v.actor().try_with(|s| s.value.clone()) {
            Ok(value) => value,
            Err(_) => self.wait_for_variable(&v)?,
        };
        value.ok_or_else(|| v.uninitialized())
    }

    fn wait_for_variable(&self, v: &Arc<Variable>) -> Result<Option<Tensor>> {
        use actorflow_core::actor::Claims;
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        let mut want = Claims::none();
        want.want(v.clone());
        let of = v.clone();
        want.claim_all(Box::new(move |mut held| {
            let value = held.state(of.actor()).map(|s| s.value.clone());
            held.release_all();
            // The receiver waits below.
            let _ = tx.send(value);
        }));
        rx.recv_timeout(self.0.options.stall_timeout)
            .map_err(|_| Error::deadline(format!("variable {} stayed busy", v.name())))?
    }

    /// What reads a variable of another task: its node, if that gives references, or a node that reads it.
    fn remote_reader(&self, name: &str) -> Result<Option<Output>> {
        if !self.0.backend.is_distributed() {
            return Ok(None);
        }
        let Ok(op) = self.0.graph.operation(name) else {
            return Ok(None);
        };
        if op.node().output_is_ref(0) {
            return op.output(0).map(Some);
        }
        let handle = OutputRef {
            node: op.id(),
            index: 0,
        };
        let nodes = self.0.graph.nodes();
        let reads = |n: &&Arc<actorflow_core::graph::Node>| {
            n.op_name() == "ReadVariableOp" && n.inputs().first() == Some(&handle) && n.control_inputs().is_empty()
        };
        match nodes.iter().find(reads) {
            Some(n) => self.0.graph.operation(n.name())?.output(0).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0.backend
    }

    fn check_owner(&self, graph: &Graph, what: &str) -> Result<()> {
        if self.0.graph.same(graph) {
            return Ok(());
        }
        Err(Error::invalid(format!("{what} is of another graph than the session")))
    }

    /// The plan of these feeds, fetches and targets, from the cache or compiled now.
    pub(crate) fn plan(&self, feeds: &[&Output], fetches: &[&Output], targets: &[&Operation]) -> Result<Prepared> {
        if fetches.is_empty() && targets.is_empty() {
            return Err(Error::invalid("a run needs at least one fetch or target"));
        }
        for o in feeds.iter().chain(fetches) {
            self.check_owner(o.graph(), &o.name())?;
        }
        for t in targets {
            self.check_owner(t.graph(), &t.name())?;
        }
        let key = Key {
            version: self.0.graph.version(),
            feeds: feeds.iter().map(|o| o.as_ref()).collect(),
            fetches: fetches.iter().map(|o| o.as_ref()).collect(),
            targets: targets.iter().map(|t| t.id()).collect(),
        };
        if let Some(o) = key.feeds.iter().enumerate().find(|(i, f)| key.feeds[..*i].contains(f)) {
            return Err(Error::invalid(format!("{} is fed twice", feeds[o.0].name())));
        }
        {
            let mut cache = self.0.cache.lock();
            cache.clock += 1;
            let now = cache.clock;
            if let Some((plan, used)) = cache.plans.get_mut(&key) {
                *used = now;
                return Ok(plan.clone());
            }
        }
        let plan = self.0.backend.plan(&self.0.graph, &key, self.0.options.passes)?;
        let mut cache = self.0.cache.lock();
        if cache.plans.len() >= self.0.options.plan_cache.max(1) {
            let oldest = cache
                .plans
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(k, _)| k.clone());
            if let Some(k) = oldest {
                cache.plans.remove(&k);
            }
        }
        let now = cache.clock;
        cache.plans.insert(key, (plan.clone(), now));
        Ok(plan)
    }
}

/// Fails unless a tensor may be fed for an output.
fn check_feed(o: &Output, t: &Tensor) -> Result<()> {
    let node = o.op().node();
    let (dtype, shape) = (node.output_type(o.index()), node.output_shape(o.index()));
    if t.dtype() != dtype {
        return Err(node.blame(Error::invalid(format!(
            "cannot feed a {} tensor for {}, which is {dtype}",
            t.dtype(),
            o.name()
        ))));
    }
    if !shape.accepts(t.shape()) {
        return Err(node.blame(Error::invalid(format!(
            "cannot feed a tensor of shape {} for {}, which has shape {shape}",
            t.shape(),
            o.name()
        ))));
    }
    Ok(())
}
