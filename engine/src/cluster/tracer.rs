//! When the nodes of a step ran, on all devices and tasks that had a part in it: one timeline, that of whoever asked.
//!
//! Clocks of machines differ, so a task reports times since the request came. What it took there, subtracted from what it
//! took here, is the time on the way; half of that is taken for the way there, as NTP does (RFC 5905). So what is known of
//! another task's times is off by half the difference of the two ways at most, on a loopback some 50 µs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actorflow_actors::exec::{NodeTrace, Trace};
use actorflow_core::error::{Error, Result};
use actorflow_core::op::registry;
use actorflow_transport::header;
use bytes::Bytes;
use parking_lot::Mutex;
use rkyv::{Archive, Deserialize, Serialize};

/// A task reports so many nodes of a step at most: some megabytes.
const MOST: usize = 1 << 16;

/// What a task tells of its share of a step.
#[derive(Archive, Serialize, Deserialize)]
struct Told {
    /// From the request to this answer, in nanoseconds.
    took_ns: u64,
    /// Nodes that are not told.
    left_out: u64,
    /// Names, which nodes have the numbers of.
    texts: Vec<String>,
    nodes: Vec<ToldNode>,
}

#[derive(Archive, Serialize, Deserialize)]
struct ToldNode {
    name: u32,
    op: u32,
    thread: u32,
    device: u32,
    /// Since the request came.
    start_ns: u64,
    duration_ns: u64,
}

/// Takes the traces of the parts of a step.
pub(crate) struct Tracer {
    begun: Instant,
    all: Mutex<Trace>,
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Tracer {
    /// The step begins now.
    pub(crate) fn new() -> Arc<Tracer> {
        Arc::new(Tracer {
            begun: Instant::now(),
            all: Mutex::default(),
        })
    }

    /// Takes the trace of a part that began then.
    pub(crate) fn add(&self, part: Trace, began: Instant) {
        let after = nanos(began.saturating_duration_since(self.begun));
        self.put(part, |ns| ns.saturating_add(after));
    }

    fn put(&self, part: Trace, time: impl Fn(u64) -> u64) {
        let mut all = self.all.lock();
        all.left_out = all.left_out.saturating_add(part.left_out);
        all.nodes.extend(part.nodes.into_iter().map(|mut n| {
            n.start_ns = time(n.start_ns);
            n
        }));
    }

    /// Everything, in the order of completion.
    pub(crate) fn take(&self) -> Trace {
        let mut all = std::mem::take(&mut *self.all.lock());
        all.nodes.sort_by_key(|n| n.start_ns.saturating_add(n.duration_ns));
        all
    }

    /// Everything, for whoever asked.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it cannot be serialised.
    pub(crate) fn tell(&self) -> Result<Bytes> {
        let all = self.take();
        let (mut texts, mut known) = (Vec::new(), HashMap::<String, u32>::new());
        let mut number = |text: &str| match known.get(text) {
            Some(n) => *n,
            None => {
                let n = u32::try_from(texts.len()).unwrap_or(u32::MAX);
                texts.push(text.to_owned());
                known.insert(text.to_owned(), n);
                n
            }
        };
        let nodes = all.nodes.iter().take(MOST).map(|n| ToldNode {
            name: number(&n.name),
            op: number(n.op),
            thread: number(&n.thread),
            device: number(&n.device),
            start_ns: n.start_ns,
            duration_ns: n.duration_ns,
        });
        let nodes = nodes.collect();
        header::encode_blob(&Told {
            took_ns: nanos(self.begun.elapsed()),
            left_out: all.left_out.saturating_add(all.nodes.len().saturating_sub(MOST) as u64),
            texts,
            nodes,
        })
    }

    /// Takes what another task, which was asked at `asked` and has answered now, tells of its share.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for bytes that say nothing of the kind.
    pub(crate) fn told(&self, bytes: &[u8], asked: Instant) -> Result<()> {
        let told: Told = header::decode_blob(bytes)?;
        if told.nodes.len() > MOST {
            return Err(Error::invalid(format!(
                "a task tells of {} nodes, more than {MOST}",
                told.nodes.len()
            )));
        }
        let text = |n: u32| {
            let found = told.texts.get(n as usize).map(String::as_str);
            found.ok_or_else(|| Error::invalid(format!("a trace has no name of number {n}")))
        };
        let one = |n: &ToldNode| {
            Ok(NodeTrace {
                name: text(n.name)?.into(),
                op: registry().get(text(n.op)?)?.name(),
                start_ns: n.start_ns,
                duration_ns: n.duration_ns,
                thread: text(n.thread)?.to_owned(),
                device: text(n.device)?.into(),
            })
        };
        let nodes = told.nodes.iter().map(one).collect::<Result<_>>()?;
        let on_the_way = asked.elapsed().saturating_sub(Duration::from_nanos(told.took_ns));
        let came = asked.saturating_duration_since(self.begun) + on_the_way / 2;
        let after = nanos(came);
        let part = Trace {
            nodes,
            left_out: told.left_out,
        };
        self.put(part, |ns| ns.saturating_add(after));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(start_ns: u64) -> NodeTrace {
        NodeTrace {
            name: "a".into(),
            op: "Identity",
            start_ns,
            duration_ns: 10,
            thread: "t".to_owned(),
            device: "/job:ps/task:0/device:CPU:0".into(),
        }
    }

    #[test]
    fn times_of_another_task_are_put_between_question_and_answer() {
        actorflow_kernels::link();
        let (there, asked) = (Tracer::new(), Instant::now());
        let here = Tracer::new();
        let part = Trace {
            nodes: vec![node(1000)],
            left_out: 0,
        };
        there.add(part, there.begun);
        let bytes = there.tell().unwrap();
        here.told(&bytes, asked).unwrap();
        let all = here.take();
        assert_eq!(
            (all.nodes.len(), &*all.nodes[0].name, all.nodes[0].op),
            (1, "a", "Identity")
        );
        assert!((1000..nanos(asked.elapsed()) + 1000).contains(&all.nodes[0].start_ns));
        assert!(here.told(b"nothing", asked).is_err());
    }

    #[test]
    fn what_is_too_much_is_counted() {
        actorflow_kernels::link();
        let (there, here) = (Tracer::new(), Tracer::new());
        let part = Trace {
            nodes: (0..MOST as u64 + 3).map(node).collect(),
            left_out: 1,
        };
        there.add(part, there.begun);
        here.told(&there.tell().unwrap(), Instant::now()).unwrap();
        let all = here.take();
        assert_eq!((all.nodes.len(), all.left_out), (MOST, 4));
    }
}
