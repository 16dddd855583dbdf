//! `actorflow cluster local`: the command around [`LocalCluster`].

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};

use super::local::{Event, LocalCluster, LocalOptions};
use crate::daemon::Level;
use crate::failure::Failure;
use crate::{limits, signals, units};

/// Run a whole cluster on this machine, supervised, until Ctrl-C
///
/// Starts a process for each task, prints where sessions find the cluster and the folder with a client's identity, and keeps the
/// tasks running: one that dies is announced to the others at once and started again. When the command ends, so do they;
/// a second Ctrl-C ends them at once.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How many parameter servers
    #[arg(long, value_name = "N", default_value_t = 1)]
    ps: u32,
    /// A directory under which graphs may touch files, DIR or DIR:ro; may be given several times [default: none]
    #[arg(long, value_name = "DIR[:ro]")]
    allow_dir: Vec<String>,
    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: u32,
    /// The first task's port; the others follow [default: any free ones]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    base_port: Option<u16>,
    /// Threads of each task [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// CPU devices of each task
    #[arg(long, value_name = "N", default_value_t = 1)]
    devices: usize,
    /// The most bytes that tensors of a device may take, such as 1GiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// What one peer may use of a task, as NAME=VALUE such as tensor=64MiB; may be given several times; --help lists them
    #[arg(long, value_name = "NAME=VALUE", long_help = limits::help())]
    limit: Vec<limits::Told>,
    /// Serve each task's metrics at a loopback port, and print it
    #[arg(long)]
    metrics: bool,
    /// How long steps may go on at the end
    #[arg(long, value_name = "TIME", default_value = "5s")]
    grace: String,
    /// What the tasks log, to stderr
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: Level,
    /// Print one JSON object when all tasks are ready
    #[arg(long)]
    json: bool,
    /// The program of the tasks
    #[arg(long, value_name = "FILE", hide = true)]
    program: Option<PathBuf>,
}

/// Runs a local cluster until it is told to end.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let flag = |name: &str, e: String| Failure::Usage(format!("--{name}: {e}"));
    let options = LocalOptions {
        program: args.program.clone(),
        base_port: args.base_port,
        threads: args.threads,
        devices: args.devices,
        memory: args
            .memory
            .as_deref()
            .map(units::bytes)
            .transpose()
            .map_err(|e| flag("memory", e))?,
        limits: {
            // Their values are right; together they may be wrong.
            limits::resolve(&args.limit, &Default::default(), "--limit").map_err(|e| flag("limit", e))?;
            args.limit.iter().map(ToString::to_string).collect()
        },
        metrics: args.metrics,
        allow_dir: args.allow_dir.clone(),
        log_level: args.log_level.name().to_owned(),
        grace: units::time(&args.grace).map_err(|e| flag("grace", e))?,
        on_event: Arc::new(report),
        ..LocalOptions::new(args.ps, args.workers)
    };
    let (tell, told) = channel();
    // Before the start, so that Ctrl-C in its midst leaves nothing behind.
    signals::on_end(tell, |name| name)?;
    let (first, end) = channel();
    let hurry = Hurry::default();
    let of_signals = hurry.clone();
    std::thread::Builder::new()
        .name("actorflow-interrupts".into())
        .spawn(move || {
            if told.recv().is_ok() && first.send(()).is_ok() && told.recv().is_ok() {
                of_signals.up();
            }
        })?;
    let cluster = LocalCluster::start(options)?;
    describe(&cluster, args.json)?;
    if end.recv().is_ok() && !args.json {
        eprintln!("ending {} tasks; Ctrl-C again ends them at once", cluster.tasks().len());
    }
    hurry.with(cluster.hurry());
    cluster.stop();
    match hurry.is_up() {
        true => Err(Failure::Failed("ended at once by a second signal".into())),
        false => Ok(()),
    }
}

/// What a second Ctrl-C does.
#[derive(Clone, Default)]
struct Hurry(Arc<(AtomicBool, OnceLock<Box<dyn Fn() + Send + Sync>>)>);

impl Hurry {
    /// Ends the tasks at once. While they are only starting it ends this process, and they notice that.
    fn up(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        match self.0.1.get() {
            Some(hurry) => hurry(),
            None => std::process::exit(1),
        }
    }

    fn with(&self, hurry: impl Fn() + Send + Sync + 'static) {
        self.0.1.get_or_init(|| Box::new(hurry));
    }

    fn is_up(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }
}

fn describe(cluster: &LocalCluster, json: bool) -> Result<(), Failure> {
    let (target, identity) = (cluster.target(), cluster.client_identity());
    let identity = identity.display();
    let mut out = std::io::stdout().lock();
    if json {
        let tasks: Vec<serde_json::Value> = cluster
            .tasks()
            .iter()
            .map(|t| {
                serde_json::json!({
                    "task": t.task.to_string(), "address": t.addr, "pid": t.pid,
                    "incarnation": t.incarnation.map(|i| i.to_string()), "metrics": t.metrics,
                })
            })
            .collect();
        let all = serde_json::json!({ "target": target, "identity": identity.to_string(), "tasks": tasks });
        writeln!(out, "{all}")?;
    } else {
        for t in cluster.tasks() {
            let metrics = t.metrics.map_or_else(String::new, |m| format!("  {m}"));
            writeln!(out, "{}  {}  pid {}{metrics}", t.task, t.addr, t.pid.unwrap_or(0))?;
        }
        writeln!(out, "target    {target}")?;
        writeln!(out, "identity  {identity}")?;
        writeln!(
            out,
            "look at it: actorflow cluster status {} --identity {identity}",
            target.replace("actorflow://", "")
        )?;
        writeln!(out, "Ctrl-C ends it")?;
    }
    out.flush()?;
    Ok(())
}

/// Tells whoever watches the terminal what happens.
fn report(event: &Event) {
    match event {
        Event::Ready { task, pid, incarnation } => eprintln!("{task} is ready: pid {pid}, incarnation {incarnation}"),
        Event::Died {
            task,
            pid,
            how,
            again_in,
            ..
        } => match again_in {
            Some(wait) => eprintln!(
                "{task} (pid {pid}) died: {how}; started again in {}",
                units::human_time(*wait)
            ),
            None => eprintln!("{task} (pid {pid}) died: {how}; it is not started any more"),
        },
        Event::Deaf { task, why } => eprintln!("{task} was not told of a death: {why}"),
        Event::Log { task, line } => eprintln!("{task} | {line}"),
    }
}
