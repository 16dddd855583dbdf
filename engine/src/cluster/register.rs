//! Compiling a share that a coordinator has sent, and connecting to the tasks that it exchanges tensors with.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use actorflow_actors::exec::panic_message;
use actorflow_core::error::{Error, Result};
use parking_lot::Mutex;

use super::host::{DevicePlan, SharePlan};
use super::link::Link;
use super::node::Node;
use super::ship::{self, AWAY, ELSEWHERE, FROM, HERE, WireShare};
use super::spec::TaskName;
use super::table::{Outlet, Route};

type Built = Box<dyn FnOnce(Result<Arc<SharePlan>>) + Send>;

/// Compiles a share; `done` is called when the tasks that it sends to are connected, or with what is wrong.
pub(crate) fn build(node: &Arc<Node>, blob: &[u8], done: Built) {
    let begin = || -> Result<(SharePlan, Vec<Arc<Link>>)> {
        let wire = ship::from_bytes(blob)?;
        let links: Vec<Arc<Link>> = wire
            .tasks
            .iter()
            .map(|t| node.link(&t.name.parse::<TaskName>()?, &t.addr))
            .collect::<Result<_>>()?;
        Ok((compile(node, &wire, &links)?, links))
    };
    // Whatever a graph does to the passes or to the kernels of users, its coordinator gets an answer.
    let begun = catch_unwind(AssertUnwindSafe(begin)).unwrap_or_else(|payload| {
        let what = panic_message(&*payload);
        Err(Error::internal(format!(
            "compiling the share of the graph panicked: {what}"
        )))
    });
    match begun {
        Err(e) => done(Err(e)),
        Ok((share, links)) => connect(links, Arc::new(share), done),
    }
}

fn compile(node: &Node, wire: &WireShare, links: &[Arc<Link>]) -> Result<SharePlan> {
    let host = node
        .host
        .as_ref()
        .ok_or_else(|| Error::failed_precondition("this process is a client and computes nothing"))?;
    let passes = ship::passes_of(&wire.passes)?;
    let (feeds, fetches) = (wire.feeds as usize, wire.fetches as usize);
    if wire.parts.len() > host.executors().len() {
        return Err(Error::invalid(format!(
            "the share has {} parts, and the task {} devices, each for one",
            wire.parts.len(),
            host.executors().len()
        )));
    }
    let mut devices = Vec::with_capacity(wire.parts.len());
    let mut left = node.policy.graphs;
    for part in &wire.parts {
        let device = part.device as usize;
        if device >= host.executors().len() {
            return Err(Error::invalid(format!(
                "the share is for device {device}, of which the task has {}",
                host.executors().len()
            )));
        }
        let numbers = |given: &[u32], names: usize, of: usize| -> Result<Vec<usize>> {
            let numbers: Vec<usize> = given.iter().map(|n| *n as usize).collect();
            match numbers.len() == names && numbers.iter().all(|n| *n < of) {
                true => Ok(numbers),
                false => Err(Error::invalid("the share's feeds and fetches do not fit its parts")),
            }
        };
        let graph = ship::import_part(part, &mut left).map_err(|e| node.policy.explain(e))?;
        devices.push(DevicePlan {
            device,
            plan: ship::compile(part, &graph, passes, host.resources())?,
            feeds: numbers(&part.feed_numbers, part.feeds.len(), feeds)?,
            fetches: numbers(&part.fetch_numbers, part.fetches.len(), fetches)?,
        });
    }
    let routes = wire
        .routes
        .iter()
        .map(|r| {
            let link = || {
                let link = links.get(r.task as usize);
                link.ok_or_else(|| Error::invalid("an edge of the share leads to no task"))
            };
            Ok(match r.kind {
                ELSEWHERE => None,
                HERE => Some(Route::Here),
                AWAY => {
                    let link: Arc<dyn Outlet> = link()?.clone();
                    Some(Route::Away(link))
                }
                FROM => Some(Route::From(link()?.task.to_string().into())),
                _ => return Err(Error::invalid("an edge of the share leads nowhere")),
            })
        })
        .collect::<Result<_>>()?;
    Ok(SharePlan {
        devices,
        routes,
        feeds,
        fetches,
        edge_names: wire.edge_names.iter().cloned().collect(),
        peers: links.iter().map(|l| l.task.to_string()).collect(),
    })
}

/// Connects to all of these, and then calls `done`.
pub(crate) fn connect(links: Vec<Arc<Link>>, share: Arc<SharePlan>, done: Built) {
    if links.is_empty() {
        return done(Ok(share));
    }
    struct Waiting {
        left: usize,
        failed: Option<Error>,
        done: Option<(Arc<SharePlan>, Built)>,
    }
    let waiting = Arc::new(Mutex::new(Waiting {
        left: links.len(),
        failed: None,
        done: Some((share, done)),
    }));
    for link in links {
        let waiting = waiting.clone();
        let deadline = Instant::now() + link.patience;
        let connected = move |peer: Result<actorflow_transport::Peer>| {
            let ready = {
                let mut w = waiting.lock();
                w.left -= 1;
                if let Err(e) = peer {
                    w.failed.get_or_insert(e);
                }
                match w.left {
                    0 => w.done.take().map(|done| (done, w.failed.take())),
                    _ => None,
                }
            };
            if let Some(((share, done), failed)) = ready {
                done(failed.map_or(Ok(share), Err));
            }
        };
        link.with_peer(deadline, Box::new(connected));
    }
}
