//! `actorflow-bench sync-vs-async`: how workers agree, compared: one model, every strategy, the same seed, data and budget.
//!
//! - [`args`], [`inject`]: the command line, which runs it asks for, and what goes wrong in them on purpose
//! - [`data`], [`network`], [`probe`]: what is learnt, and when gradients are there
//! - [`setup`], [`trainee`]: what a run is told and tells; a worker's training
//! - [`processes`], [`task`], [`relay`]: a run with a process for each task; [`threads`]: one in threads
//! - [`simulate`]: runs that are computed instead, by measured times
//! - [`measures`], [`repeats`], [`results`], [`advice`]: what is said about runs
//! - [`table`], [`chart`], [`report`], [`output`]: how it is said; [`progress`] while it runs

mod advice;
mod args;
mod chart;
mod data;
mod inject;
mod measures;
mod network;
mod output;
mod probe;
mod processes;
mod progress;
mod relay;
mod repeats;
mod report;
mod results;
mod setup;
mod simulate;
mod table;
mod task;
mod threads;
mod trainee;

use std::process::ExitCode;

use actorflow::train::parallel::Strategy;
use actorflow::{CancelToken, Code, Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::tell;

pub(crate) use args::Args;
use args::{Case, Skipped};
use chart::{Styles, short, time};
use data::Split;
use inject::Injection;
use measures::{Row, compare_with_clean};
use network::Shape;
use progress::Progress;
use results::{Machine, Results};
use setup::{Mark, Raw, Setup, pushes_per_update};
use simulate::Times;
pub(crate) use task::{TaskArgs, run as run_task};

/// How often the values of the model are kept in a run.
const SNAPSHOTS: u64 = 60;
/// Seconds that a step may wait for others.
const DEADLINE: f64 = 30.0;
/// Pushes of the run from which times are taken.
const CALIBRATION: u64 = 400;
/// Seconds that it may sleep in place of computing.
const CALIBRATION_SECONDS: f64 = 3.0;

/// What the subject is told by flags of all subjects.
pub(crate) struct Common {
    /// Threads of each task, at least 1.
    pub(crate) threads: Option<usize>,
    /// Print JSON lines.
    pub(crate) json: bool,
    /// Only runs whose name contains this.
    pub(crate) only: String,
}

/// A signal says that the program is to end.
fn listen() -> Result<CancelToken> {
    let stop = CancelToken::new();
    let told = stop.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new()
        .name("actorflow-signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                told.cancel(Error::cancelled("interrupted"));
            }
        })?;
    Ok(stop)
}

/// Runs the comparison.
///
/// # Errors
/// `Err` of a sentence about flags that do not fit each other; within, what a run or the file system says.
pub(crate) fn run(args: &Args, common: &Common) -> std::result::Result<ExitCode, String> {
    let (mut cases, skipped) = args.plan()?;
    cases.retain(|c| name(c, args).contains(&common.only));
    if cases.is_empty() {
        return Err(format!("no run's name contains {:?}", common.only));
    }
    Ok(match compare(args, common, &cases, skipped) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) if tell::is_unread(&e) => ExitCode::from(tell::UNREAD),
        Err(e) if e.code() == Code::Cancelled => {
            eprintln!("actorflow-bench: interrupted; nothing was written");
            ExitCode::from(130)
        }
        Err(e) => {
            eprintln!("actorflow-bench: {e}");
            ExitCode::FAILURE
        }
    })
}

fn name(case: &Case, args: &Args) -> String {
    let workers = if case.workers == 1 { "worker" } else { "workers" };
    let mut name = format!("{}, {} {workers}", case.strategy, case.workers);
    if case.ps > 0 {
        name += &format!(", {} ps", case.ps);
    }
    if case.injected {
        name += &format!(", {}", args.injection_with(case.workers));
    }
    name
}

/// What is the same in all runs.
struct Bench<'a> {
    args: &'a Args,
    data: Split,
    shape: Shape,
    threads: usize,
    stop: CancelToken,
}

impl Bench<'_> {
    fn setup(&self, strategy: Strategy, workers: usize, ps: usize, injection: &Injection) -> Setup {
        let a = self.args;
        let per_update = pushes_per_update(strategy, workers);
        let pushes = match a.steps {
            Some(steps) => steps,
            None => (a.epochs * self.data.train.len()).div_ceil(a.batch),
        };
        // Of what goes wrong, a worker with which nothing does sees the most.
        let named = a.injection().workers();
        let observer = (0..workers).find(|w| !named.contains(w)).unwrap_or(0);
        Setup {
            strategy: strategy.to_string(),
            workers,
            ps,
            dataset: a.dataset,
            shape: self.shape,
            batch: a.batch,
            noise: a.noise,
            rate: a.lr,
            schedule: a.schedule,
            momentum: a.momentum,
            seed: a.seed,
            updates: pushes.div_ceil(per_update) as u64,
            snapshots: SNAPSHOTS,
            compute: a.compute.as_secs_f64(),
            factors: (0..workers).map(|w| injection.factor(w)).collect(),
            observer,
            threads: self.threads,
            deadline: DEADLINE,
        }
    }

    fn train(&self, setup: &Setup, injection: &Injection, seen: impl FnMut(&[Mark])) -> Result<Raw> {
        match self.args.in_process {
            true => threads::run(setup, &self.data, &self.stop, seen),
            false => processes::run(setup, injection, &self.stop, seen),
        }
    }

    /// Makes a run of a case, the one of this number.
    fn case(&self, case: &Case, number: usize, progress: &mut Progress) -> Result<Row> {
        let could = self.args.injection_with(case.workers);
        let does = match case.injected {
            true => could.clone(),
            false => Injection::default(),
        };
        let setup = self.setup(case.strategy, case.workers, case.ps, &does);
        let mut name = name(case, self.args);
        if self.args.repeat > 1 {
            name += &format!(" ({number} of {})", self.args.repeat);
        }
        let shown = progress.begin(&name, setup.updates);
        let mut latest = 0;
        let seen = |marks: &[Mark]| {
            latest = marks.iter().map(|m| m.update).fold(latest, u64::max);
            shown.at(latest);
        };
        let raw = match self.train(&setup, &does, seen) {
            Ok(raw) => raw,
            Err(e) => {
                shown.end(&format!("failed: {e}"));
                return Err(e.context(name));
            }
        };
        let row = Row::measured(case, &setup, &could, raw, self.args.target_accuracy);
        let target = match row.seconds_to_target {
            Some(t) => format!("{} after {}", self.args.target_accuracy, time(t)),
            None => format!("{} not reached", self.args.target_accuracy),
        };
        let failed = match row.errors.first() {
            Some(e) => format!("; {e}"),
            None => String::new(),
        };
        let accuracy = row
            .test_accuracy
            .map_or_else(|| "not known".to_owned(), |a| format!("{a:.4}"));
        let rate = short(row.examples_per_second);
        shown.end(&format!("{rate} examples/s, accuracy {accuracy} ({target}){failed}"));
        Ok(row)
    }

    /// Takes the times for simulations with so many servers, of a run with one worker.
    fn times(&self, ps: usize, progress: &mut Progress) -> Result<Times> {
        let strategy = Strategy::Async {
            scale_by_staleness: false,
        };
        let mut setup = self.setup(strategy, 1, ps, &Injection::default());
        setup.updates = CALIBRATION;
        if setup.compute > 0.0 {
            setup.updates = ((CALIBRATION_SECONDS / setup.compute) as u64).clamp(60, CALIBRATION);
        }
        setup.observer = usize::MAX;
        let shown = progress.begin(&format!("times for the simulation, {ps} ps"), setup.updates);
        let raw = self.train(&setup, &Injection::default(), |_| {})?;
        if let Some(e) = raw.errors.first() {
            return Err(Error::unavailable(e.clone()));
        }
        let t = Times::of(&raw, ps, self.shape.parameters());
        shown.at(setup.updates);
        shown.end(&format!(
            "computing {}, network {}, a server {} a push",
            time(t.median_compute),
            time(t.median_wire),
            time(t.service)
        ));
        Ok(t)
    }

    /// Simulates every strategy by the times of each number of servers.
    fn simulate(&self, times: &[Times]) -> Result<Vec<Row>> {
        let a = self.args;
        let mut counts: Vec<usize> = a.simulate_workers.iter().chain(&a.workers).copied().collect();
        counts.sort_unstable();
        counts.dedup();
        let named = a.injection().workers();
        let mut rows = Vec::new();
        for strategy in a.strategies() {
            // allreduce has no servers; its rows are the same for any number.
            let times = match strategy {
                Strategy::AllReduce => &times[..1],
                _ => times,
            };
            for t in times {
                for n in counts.iter().copied().filter(|n| simulate::fits(strategy, *n)) {
                    self.stop.check()?;
                    let how = (a.batch, a.seed);
                    rows.push(simulate::row(t, strategy, n, (&Injection::default(), &named), how));
                    let mut wrong = a.injection_with(n);
                    wrong.kills.clear();
                    if !wrong.is_empty() && a.workers.contains(&n) {
                        rows.push(simulate::row(t, strategy, n, (&wrong, &named), how));
                    }
                }
            }
        }
        Ok(rows)
    }
}

fn settings(b: &Bench<'_>) -> Vec<(String, String)> {
    let a = b.args;
    let budget = match a.steps {
        Some(steps) => format!("{steps} steps of workers that count"),
        None => format!("{} passes over the training rows", a.epochs),
    };
    let model = match a.model {
        network::ModelName::Mlp => format!("mlp, {} hidden units", a.hidden()),
        network::ModelName::Softmax => "softmax".to_owned(),
    };
    let mut all = vec![
        (
            "data",
            format!(
                "{}: {} training rows, {} test rows",
                a.dataset.name(),
                b.data.train.len(),
                b.data.test.len()
            ),
        ),
        ("model", format!("{model}, {} parameters", b.shape.parameters())),
        (
            "batch",
            format!("{} rows in a worker's step, with noise of up to {}", a.batch, a.noise),
        ),
        (
            "rule",
            format!("momentum {}, learning rate {}, {}", a.momentum, a.lr, a.schedule.name()),
        ),
        ("budget", budget),
        (
            "runs",
            match a.repeat {
                1 => "1 of each case".to_owned(),
                n => format!(
                    "{n} of each case, all cases in turn; numbers are medians, with the least and the most in brackets"
                ),
            },
        ),
        ("seed", a.seed.to_string()),
        (
            "tasks",
            match a.in_process {
                true => format!("threads of one process, which computes with {} threads", b.threads),
                false => format!(
                    "a process each, over QUIC on the loopback, encrypted; {} thread(s) compute in each",
                    b.threads
                ),
            },
        ),
    ];
    if !a.compute.is_zero() {
        let text = format!(
            "each step sleeps {} in place of a device that computes",
            time(a.compute.as_secs_f64())
        );
        all.push(("computing", text));
    }
    let injection = a.injection();
    if !injection.is_empty() {
        let mut text = injection.to_string();
        if !a.kill.is_empty() {
            text += &match a.restart.0 {
                None => "; killed workers stay away".to_owned(),
                Some(t) => format!("; killed workers are started again after {}", time(t.as_secs_f64())),
            };
        }
        all.push(("goes wrong", text));
    }
    all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// The command line, as a shell takes it.
fn command() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,.:/@%+".contains(c);
    let words = std::env::args()
        .skip(1)
        .map(|w| match !w.is_empty() && w.chars().all(plain) {
            true => w,
            false => format!("'{}'", w.replace('\'', "'\\''")),
        });
    let words: Vec<String> = words.collect();
    format!("cargo run --release -p actorflow-bench -- {}", words.join(" "))
}

/// Makes all runs and writes what came of them; whether all clean ones got to their end.
fn compare(args: &Args, common: &Common, cases: &[Case], skipped: Vec<Skipped>) -> Result<bool> {
    let folder = args.folder();
    output::prepare(&folder)?;
    let stop = listen()?;
    let data = args.dataset.load(args.seed)?;
    let shape = Shape {
        model: args.model,
        width: data.width,
        hidden: args.hidden(),
        classes: data.classes,
        seed: (args.seed & 0x7fff_ffff) as i64,
    };
    let threads = common.threads.unwrap_or(match args.in_process {
        true => std::thread::available_parallelism().map_or(1, usize::from),
        false => 1,
    });
    let bench = Bench {
        args,
        data,
        shape,
        threads,
        stop,
    };
    // Times are taken with the servers that are compared.
    let mut servers: Vec<usize> = match args.simulate {
        true => cases.iter().map(|c| c.ps.max(1)).collect(),
        false => Vec::new(),
    };
    servers.sort_unstable();
    servers.dedup();
    let mut progress = Progress::new(cases.len() * args.repeat + servers.len());
    let times = servers
        .iter()
        .map(|ps| bench.times(*ps, &mut progress))
        .collect::<Result<Vec<_>>>()?;
    // All cases, and then all again: what the machine does meanwhile is not one case's alone.
    let mut runs: Vec<Vec<Row>> = vec![Vec::new(); cases.len()];
    for number in 1..=args.repeat {
        for (case, runs) in cases.iter().zip(&mut runs) {
            runs.push(bench.case(case, number, &mut progress)?);
        }
    }
    let mut rows: Vec<Row> = runs.into_iter().filter_map(repeats::merged).collect();
    if !times.is_empty() {
        rows.extend(bench.simulate(&times)?);
    }
    compare_with_clean(&mut rows);
    let fine = rows.iter().all(|r| r.errors.is_empty() || !r.is_clean());
    let results = Results {
        command: command(),
        mode: if args.in_process { "threads" } else { "processes" },
        machine: Machine::here(),
        settings: settings(&bench),
        target: args.target_accuracy,
        compute: args.compute.as_secs_f64(),
        injection: args.injection().to_string(),
        styles: Styles::new(&args.strategies()),
        rows,
        skipped,
        times,
    };
    output::write(&results, &folder)?;
    output::print(&results, &folder, common.json)?;
    Ok(fine)
}
