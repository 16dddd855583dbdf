//! Where the time goes.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use actorflow_actors::exec::Trace;
use actorflow_core::{Error, Graph, Result};
use serde_json::{Value, json};

use super::step::StepReader;
use super::timer::{Every, Timer};
use crate::train::monitored::{RunArgs, RunContext, RunValues, SessionHook};

/// A trace in the format of Chrome's `about:tracing` and of Perfetto; times in microseconds. Each task of a cluster is a
/// process of it, with a row for each thread of each device.
pub fn chrome_trace(trace: &Trace) -> String {
    let mut tasks: HashMap<&str, usize> = HashMap::new();
    let mut rows: HashMap<(usize, &str, &str), usize> = HashMap::new();
    let mut events: Vec<Value> = Vec::with_capacity(trace.nodes.len());
    for node in &trace.nodes {
        let (task, device) = node.device.split_once("/device:").unwrap_or((&node.device, ""));
        let next = tasks.len();
        let pid = *tasks.entry(task).or_insert(next);
        if pid == next {
            let args = json!({ "name": task });
            events.push(json!({ "name": "process_name", "ph": "M", "pid": pid, "args": args }));
        }
        let next = rows.len();
        let row = *rows.entry((pid, device, &node.thread)).or_insert(next);
        if row == next {
            let args = json!({ "name": format!("{device} {}", node.thread) });
            events.push(json!({ "name": "thread_name", "ph": "M", "pid": pid, "tid": row, "args": args }));
        }
        events.push(json!({
            "name": node.op,
            "cat": "Op",
            "ph": "X",
            "pid": pid,
            "tid": row,
            "ts": node.start_ns as f64 / 1e3,
            "dur": node.duration_ns as f64 / 1e3,
            "args": { "name": &*node.name, "op": node.op, "device": &*node.device },
        }));
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ns" }).to_string()
}

/// So often traces a run, and writes `timeline-STEP.json` to a directory. `TensorFlow: tf.train.ProfilerHook`.
///
/// It needs a global step.
pub struct ProfilerHook {
    dir: PathBuf,
    timer: Timer,
    step: StepReader,
    seen: Option<i64>,
    due: bool,
}

impl ProfilerHook {
    /// Writes to a directory, which is created.
    pub fn new(dir: impl Into<PathBuf>, every: Every) -> ProfilerHook {
        ProfilerHook {
            dir: dir.into(),
            timer: Timer::new(every),
            step: StepReader::default(),
            seen: None,
            due: false,
        }
    }
}

impl SessionHook for ProfilerHook {
    fn begin(&mut self, graph: &Graph) -> Result<()> {
        self.timer.check("ProfilerHook")?;
        fs::create_dir_all(&self.dir).map_err(|e| Error::from(e).context(self.dir.display()))?;
        self.step.require(graph, "ProfilerHook")
    }

    fn before_run(&mut self, context: &RunContext<'_>) -> Result<Option<RunArgs>> {
        self.due = self.step.soon(self.seen, &self.timer, context.session())?;
        let args = self.step.ask();
        Ok(Some(if self.due { args.traced() } else { args }))
    }

    fn after_run(&mut self, context: &RunContext<'_>, values: &RunValues<'_>) -> Result<()> {
        self.seen = Some(self.step.answer(values)?);
        let (true, Some(trace)) = (self.due, values.trace) else {
            return Ok(());
        };
        let step = self.step.read(context.session())?;
        self.timer.mark(step);
        let path = self.dir.join(format!("timeline-{step}.json"));
        fs::write(&path, chrome_trace(trace)).map_err(|e| Error::from(e).context(path.display()))
    }
}
