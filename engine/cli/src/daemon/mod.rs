//! `actorflow daemon`: a task of a cluster as a process that somebody else starts and watches over.
//!
//! - `config`: what it is told; `log`: what it tells
//! - `member`: who it is, and how it stays that
//! - `http`, `metrics`: probes and numbers

pub(crate) mod config;
mod http;
mod log;
mod member;
mod metrics;

use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actorflow::SessionOptions;
use actorflow::cluster::{Counters, Server, ServerOptions};

use crate::failure::Failure;
use crate::{home, limits, signals};
use config::Config;
use http::HttpServer;
pub(crate) use log::{Format, Level};
use member::Member;
use metrics::Vitals;

/// Run a task of a cluster
///
/// Prints `ready TASK at ADDRESS incarnation N` on stdout when it accepts work, and logs to stderr. SIGTERM or SIGINT
/// lets steps in progress finish for a while and ends it; a second one ends it at once. All settings may be in a file
/// (--config, TOML, keys like the flags without dashes in front); flags come first, then the file, then TF_CONFIG.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file with these settings: TOML, keys named like the flags
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The tasks of the cluster: JSON such as '{"ps": ["host:2222"]}', or a file with it
    #[arg(long, value_name = "FILE|JSON")]
    cluster: Option<String>,
    /// The job that this task belongs to
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
    /// The number of this task in its job
    #[arg(long, value_name = "N")]
    task: Option<u32>,
    /// The folder with this task's key and certificate [default: ~/.actorflow/task-JOB-N]
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// Where to listen, UDP [default: the port of the task's address in the cluster]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// The most bytes that tensors of a device may take, such as 4GiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// What one peer may use, as NAME=VALUE such as tensor=64MiB; may be given several times; --help lists them
    #[arg(long, value_name = "NAME=VALUE", long_help = limits::help())]
    limit: Vec<limits::Told>,
    /// Threads that compute [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// CPU devices, which share the threads [default: 1]
    #[arg(long, value_name = "N")]
    devices: Option<usize>,
    /// Jobs whose tasks may submit graphs, beside clients and chiefs; '' for none [default: chief,master,worker]
    #[arg(long, value_name = "JOB", value_delimiter = ',')]
    submitters: Option<Vec<String>>,
    /// A directory under which graphs may touch files, DIR or DIR:ro for reading alone; may be given several times
    /// [default: none]
    #[arg(long, value_name = "DIR[:ro]")]
    allow_dir: Vec<String>,
    /// The cluster's authority (`actorflow cluster init`): serve it to nodes that join, and take the identity from it
    #[arg(long, value_name = "DIR")]
    authority: Option<PathBuf>,
    /// Where the authority is served, UDP [default: 0.0.0.0:2200]
    #[arg(long, value_name = "ADDRESS")]
    join_address: Option<String>,
    /// Where the certificate is renewed [default: where the task has joined]
    #[arg(long, value_name = "HOST:PORT")]
    authority_address: Option<String>,
    /// Serve /healthz, /readyz and /metrics at a loopback address, such as 127.0.0.1:9100 [default: off]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<String>,
    /// Allow --metrics an address that other machines reach
    #[arg(long)]
    metrics_anywhere: bool,
    /// The cluster's epoch, if it is later than the one that the task has kept beside its identity [default: 1]
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,
    /// How long steps may go on after SIGTERM or SIGINT [default: 5s]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// What is logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// How it is logged [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
    /// End when standard input ends, as that of a parent's child does when the parent dies
    #[arg(long, hide = true)]
    with_parent: bool,
}

/// Why the daemon is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Signal(&'static str),
    ParentGone,
}

/// Everything that runs.
struct Running {
    // Dropped in this order: nothing is renewed or asked any more before the server goes.
    _member: Member,
    _http: Option<HttpServer>,
    vitals: Arc<Vitals>,
    server: Arc<Server>,
}

impl Running {
    fn start(config: &Config) -> Result<Running, Failure> {
        let (identity, keeper) = member::identity(config)?;
        let mut options = ServerOptions::new(config.spec.clone(), config.task.clone(), identity.clone());
        let session = config
            .threads
            .map_or_else(SessionOptions::default, SessionOptions::with_threads);
        options.session = SessionOptions {
            memory_budget: config.memory.unwrap_or(usize::MAX),
            devices: config.devices,
            ..session
        };
        options.bind = config.bind;
        config.limits.set(&mut options);
        options.epoch = config.epoch;
        options.epoch_file = Some(home::epoch_file(&config.identity));
        // The keeper does that, and tells the metrics.
        options.renewal = None;
        if let Some(jobs) = &config.submitters {
            options.submitters.clone_from(jobs);
        }
        options.directories.clone_from(&config.allow_dir);
        let server = Arc::new(Server::start(options)?);
        let vitals = Arc::new(Vitals::new(&server, &identity));
        let http = match config.metrics {
            Some(addr) => {
                let of = vitals.clone();
                let served = HttpServer::start(addr, Box::new(move |path| metrics::page(&of, path)));
                let served = served.map_err(|e| {
                    let cure = match e.kind() {
                        ErrorKind::AddrInUse => {
                            ": another process has this TCP port; end it, or give --metrics another one"
                        }
                        _ => "",
                    };
                    Failure::Failed(format!("metrics cannot be served at {addr}: {e}{cure}"))
                })?;
                writeln!(std::io::stdout(), "metrics http://{}/metrics", served.addr())?;
                Some(served)
            }
            None => None,
        };
        let member = keeper.keep(config, identity, &server, &vitals)?;
        Ok(Running {
            _member: member,
            _http: http,
            vitals,
            server,
        })
    }
}

/// Runs the command.
///
/// # Errors
/// Wrong use, or why the task cannot start; a failure if it was ended in the middle of steps.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::resolve(args)?;
    log::start(config.level, config.format)?;
    let (tell, told) = channel();
    signals::on_end(tell.clone(), End::Signal)?;
    if args.with_parent {
        watch_parent(tell.clone())?;
    }
    let running = Running::start(&config)?;
    announce(&running)?;
    let reason = look_after(&running, &told);
    stop(running, reason, config.grace, &told)
}

/// The line for whoever has started the daemon.
fn announce(running: &Running) -> Result<(), Failure> {
    let server = &running.server;
    let (task, addr, incarnation) = (server.task(), server.local_addr()?, server.incarnation());
    let epoch = server.epoch();
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready {task} at {addr} incarnation {incarnation}")?;
    out.flush()?;
    tracing::info!(%task, %addr, %incarnation, epoch, version = env!("CARGO_PKG_VERSION"), "ready");
    Ok(())
}

/// Waits until the daemon is to end, and logs what was refused: by the second, since strangers decide how often.
fn look_after(running: &Running, told: &Receiver<End>) -> End {
    let mut before = Counters::default();
    loop {
        match told.recv_timeout(Duration::from_secs(1)) {
            Ok(end) => return end,
            // The signals' thread is there as long as the process.
            Err(RecvTimeoutError::Disconnected) => return End::ParentGone,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let Ok(now) = running.server.counters() else { continue };
        for (what, was, is) in [
            ("handshakes", before.handshakes_refused, now.handshakes_refused),
            ("connections of earlier runs", before.fenced, now.fenced),
            ("malformed frames", before.malformed, now.malformed),
            ("frames beyond a limit", before.oversized, now.oversized),
            (
                "frames of earlier runs",
                before.stale_incarnation,
                now.stale_incarnation,
            ),
        ] {
            if is > was {
                tracing::warn!(what, count = is - was, "refused");
            }
        }
        before = now;
    }
}

/// Lets steps finish for a while and ends; at once, if told again.
fn stop(running: Running, reason: End, grace: Duration, told: &Receiver<End>) -> Result<(), Failure> {
    running.vitals.leave();
    let steps = running.server.status().steps;
    match reason {
        End::Signal(name) => tracing::info!(signal = name, steps, grace = ?grace, "ending"),
        End::ParentGone => tracing::warn!(steps, "ending: the process that started this one is gone"),
    }
    // The parent is not there to tell anything more, and nobody waits for the steps.
    let grace = if reason == End::ParentGone {
        Duration::ZERO
    } else {
        grace
    };
    let (tell, over) = channel::<End>();
    let left = Arc::new(OnceLock::new());
    let at_end = left.clone();
    let stopping = std::thread::Builder::new()
        .name("actorflow-stop".into())
        .spawn(move || {
            running.server.shutdown(grace);
            at_end.get_or_init(|| ());
            drop((running, tell));
        })?;
    while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(Duration::from_millis(20)) {
        if matches!(told.try_recv(), Ok(End::Signal(_))) && left.get().is_none() {
            return Err(Failure::Failed(
                "ended at once by a second signal, with steps in progress".into(),
            ));
        }
    }
    // A thread that panicked has left nothing running either.
    let _ = stopping.join();
    tracing::info!("ended");
    Ok(())
}

/// Tells when standard input ends.
fn watch_parent(tell: Sender<End>) -> Result<(), Failure> {
    std::thread::Builder::new()
        .name("actorflow-parent".into())
        .spawn(move || {
            let mut input = std::io::stdin().lock();
            let mut bytes = [0; 64];
            while input.read(&mut bytes).is_ok_and(|n| n > 0) {}
            // The daemon may be ending already.
            let _ = tell.send(End::ParentGone);
        })?;
    Ok(())
}
