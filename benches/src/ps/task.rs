//! One task of the cluster that is measured.

use std::path::PathBuf;
use std::time::Instant;

use actorflow::cluster::identity::Identity;
use actorflow::cluster::{ClusterSpec, Server, ServerOptions, TaskName};
use actorflow::train::init::Zeros;
use actorflow::{Code, DType, Error, Graph, GraphVariables, Operation, Output, Result, Session, SessionOptions};

use crate::measure::{Settings, cores};
use crate::tasks::say;

/// Which task, of which cluster, does what.
#[derive(clap::Args, Clone)]
pub(crate) struct TaskArgs {
    /// The folder with the cluster's description and identities
    dir: PathBuf,
    /// ps or worker
    job: String,
    /// The number of the task in its job
    index: u32,
    /// What is measured
    case: String,
}

/// Threads that compute in a task of a job that has so many: those that are asked for, or else one for each core, which workers
/// that train share, because they compute most of the time.
pub(super) fn threads(asked: Option<usize>, case: &str, job: &str, tasks: usize) -> usize {
    asked.unwrap_or_else(|| match case.starts_with("train_") && job == "worker" {
        true => (cores().len() / tasks.max(1)).max(1),
        false => std::thread::available_parallelism().map_or(1, usize::from),
    })
}

/// Runs a task until its parent ends it, with so many threads if any number was asked for.
///
/// # Errors
/// If it cannot be started, or its steps fail.
pub(crate) fn run(args: &TaskArgs, asked: Option<usize>, m: &Settings) -> Result<()> {
    let spec = ClusterSpec::from_file(args.dir.join("cluster.json"))?;
    let identity = Identity::load(&args.dir.join(format!("{}{}", args.job, args.index)))?;
    let session = SessionOptions {
        pin: false,
        ..SessionOptions::with_threads(threads(asked, &args.case, &args.job, spec.num_tasks(&args.job)))
    };
    let server = Server::start(ServerOptions {
        session: session.clone(),
        ..ServerOptions::new(spec.clone(), TaskName::new(&args.job, args.index)?, identity)
    })?;
    say("UP")?;
    if args.job == "ps" {
        // Ends when its parent does.
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        return Ok(());
    }
    if args.case.starts_with("train_") {
        return super::train::run(&spec, &server, args.index, &args.case, session, m);
    }
    let me = format!("/job:worker/task:{}", args.index);
    let g = Graph::new();
    let nps = spec.num_tasks("ps");
    let target = build(&g, &args.case, nps, &me)?;
    let filters = vec!["/job:ps".to_owned(), me];
    let s = Session::on(
        &g,
        &server,
        SessionOptions {
            device_filters: filters,
            ..session
        },
    )?;
    if args.index == 0 {
        s.execute(&[&g.global_variables_initializer()?])?;
    }
    let step = s.callable(&[], &[], &[&target])?;
    let begun = Instant::now();
    loop {
        match step.call(&[]) {
            Err(e) if e.code() == Code::FailedPrecondition && begun.elapsed().as_secs() < 60 => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done => break done.map(drop)?,
        }
    }
    say("SESSION")?;
    let timed = |n: u64| -> Result<f64> {
        let t = Instant::now();
        for _ in 0..n {
            step.call(&[])?;
        }
        Ok(t.elapsed().as_secs_f64())
    };
    let warm = Instant::now();
    let mut n = 0u64;
    while n < 5 || (warm.elapsed().as_secs_f64() < 1.0 && n < 2000) {
        timed(1)?;
        n += 1;
    }
    let once = warm.elapsed().as_secs_f64() / n as f64;
    say("READY")?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let n = ((m.window / once) as u64).max(1);
    let rates: Vec<f64> = (0..m.samples)
        .map(|_| Ok(n as f64 / timed(n)?))
        .collect::<Result<_>>()?;
    let text = serde_json::to_string(&rates).map_err(|e| Error::internal(e.to_string()))?;
    say(&format!("RATES {text}"))?;
    // The others are measured until they are done too.
    loop {
        timed(1)?;
    }
}

/// What a worker does in a step.
fn build(g: &Graph, case: &str, nps: usize, me: &str) -> Result<Operation> {
    let mut done = Vec::new();
    for p in 0..nps {
        let ps = format!("/job:ps/task:{p}");
        let on_ps = |f: &dyn Fn() -> Result<Output>| {
            let _scope = g.device_scope(&ps);
            f()
        };
        let of = |prefix: &str| case.strip_prefix(prefix).and_then(|n| n.parse::<usize>().ok());
        if case == "empty" {
            let _scope = g.device_scope(&ps);
            done.push(g.op("NoOp").finish()?);
            continue;
        }
        let value = if let Some(rows) = of("sparse_") {
            let rows = rows / nps;
            let table = on_ps(&|| {
                g.get_variable(&format!("t{p}"), [rows, 20], Zeros)
                    .map(|v| v.value().clone())
            })?;
            let ids = {
                let _scope = g.device_scope(me);
                let shape = g.constant([(32 / nps) as i32])?;
                let (low, high) = (g.constant(0i32)?, g.constant(rows as i32)?);
                g.op("RandomUniformInt")
                    .input(&shape)
                    .input(&low)
                    .input(&high)
                    .attr("seed", 1i64)
                    .attr("seed2", 2i64)
                    .output()?
            };
            on_ps(&|| {
                let axis = g.constant(0i32)?;
                g.op("GatherV2").input(&table).input(&ids).input(&axis).output()
            })?
        } else {
            let n = of("dense_").map(|mib| mib * (1 << 18) / nps);
            let shape: Vec<usize> = n.into_iter().collect();
            on_ps(&|| {
                g.get_variable(&format!("v{p}"), &shape[..], Zeros)
                    .map(|v| v.value().clone())
            })?
        };
        let _scope = g.device_scope(me);
        done.push(g.op("Identity").input(&value).attr("T", DType::F32).finish()?);
    }
    let _scope = g.device_scope(me);
    let _after = g.control_dependencies(&done);
    g.op("NoOp").name("step").finish()
}
