//! The command line, and which runs it asks for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use actorflow::train::parallel::Strategy;
use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::data::Dataset;
use super::inject::{Delay, Injection, Kill, Restart, Straggler, parse_time};
use super::network::ModelName;
use super::probe::SLOTS;
use super::setup::Schedule;

fn strategy(text: &str) -> Result<Strategy, String> {
    text.parse().map_err(|e: actorflow::Error| e.message().to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err(format!("{text:?} is no accuracy between 0 and 1")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if x > 0.0 && x <= 1e3 => Ok(x),
        _ => Err(format!(
            "{text:?} is no learning rate; write a positive number, such as 0.05"
        )),
    }
}

fn momentum(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if (0.0..1.0).contains(&x) => Ok(x),
        _ => Err(format!("{text:?} is no momentum; write a number from 0 to less than 1")),
    }
}

fn noise(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(x) if (0.0..=10.0).contains(&x) => Ok(x),
        _ => Err(format!("{text:?} is no noise; write a number from 0 to 10")),
    }
}

fn count(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Compares how workers agree: trains one model by every strategy, with the same seed, data and budget, and writes a report.
///
/// Each task is a process, and they speak QUIC on the loopback; all of them share this machine's cores. With --straggler,
/// --delay or --kill every run is made twice, clean and with that, to say what it costs the others.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Numbers of workers.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_name = "N,…", value_parser = count(SLOTS as u64))]
    pub(super) workers: Vec<usize>,
    /// Numbers of parameter servers, 1 if it is not given. allreduce has none.
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = count(64))]
    pub(super) ps: Option<Vec<usize>>,
    /// async, async-scaled, sync, sync+backup1, hybrid2x2, ssp3, allreduce; with any numbers.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "async,sync,sync+backup1,hybrid2x2,ssp3,allreduce",
        value_name = "NAME,…",
        value_parser = strategy
    )]
    pub(super) strategies: Vec<Strategy>,
    /// A worker that takes longer to compute, such as 1@5x: it sleeps for the rest. Can be given several times, for several
    /// workers.
    #[arg(long, value_delimiter = ',', value_name = "WORKER@FACTOR")]
    pub(super) straggler: Vec<Straggler>,
    /// A slow network, each way: 10ms for all workers, 1@10ms for one, in addition. Can be given several times.
    #[arg(long, value_delimiter = ',', value_name = "[WORKER@]TIME")]
    pub(super) delay: Vec<Delay>,
    /// Kills the process of a worker (SIGKILL) at a share of the budget or after a time: 1@50%, 1@2s. Can be given several
    /// times.
    #[arg(long, value_delimiter = ',', value_name = "WORKER@WHEN")]
    pub(super) kill: Vec<Kill>,
    /// How long after its end a killed worker is started again: a time or never. Sync without backups, hybrids and allreduce
    /// cannot go on without it.
    #[arg(long, default_value = "1s", value_name = "TIME", requires = "kill")]
    pub(super) restart: Restart,
    /// What is learnt from.
    #[arg(long, value_enum, default_value = "digits")]
    pub(super) dataset: Dataset,
    /// What learns.
    #[arg(long, value_enum, default_value = "mlp")]
    pub(super) model: ModelName,
    /// Units of the mlp's hidden layer, 128 if it is not given.
    #[arg(long, value_name = "N", value_parser = count(65536))]
    pub(super) hidden: Option<usize>,
    /// Rows in a worker's step.
    #[arg(long, default_value_t = 16, value_parser = count(1 << 20))]
    pub(super) batch: usize,
    /// What is added to each number of a row that is trained on, or taken away, at most; another amount in every step.
    #[arg(long, default_value = "0.4", value_name = "X", allow_negative_numbers = true, value_parser = noise)]
    pub(super) noise: f32,
    /// The learning rate, at first.
    #[arg(long, default_value = "0.18", allow_negative_numbers = true, value_parser = rate)]
    pub(super) lr: f64,
    /// How the learning rate changes with the share of the budget that is used: not at all, or to nothing.
    #[arg(long, value_enum, default_value = "cosine")]
    pub(super) schedule: Schedule,
    /// The momentum.
    #[arg(long, default_value = "0.5", allow_negative_numbers = true, value_parser = momentum)]
    pub(super) momentum: f64,
    /// The budget in passes over the training rows, counted over all workers.
    #[arg(long, default_value_t = 100, value_parser = count(1 << 20))]
    pub(super) epochs: usize,
    /// The budget in workers' steps that count, summed over all workers; instead of --epochs.
    #[arg(long, conflicts_with = "epochs", value_parser = count(1 << 40))]
    pub(super) steps: Option<usize>,
    /// Each step also sleeps so long, in place of a device that computes, such as 5ms. On a machine with few cores this
    /// shows the strategies without the workers' competition for cores.
    #[arg(long, default_value = "0ms", value_name = "TIME", value_parser = parse_time)]
    pub(super) compute: Duration,
    /// The test accuracy to which the time is measured.
    #[arg(long, default_value = "0.97", value_name = "A", value_parser = share)]
    pub(super) target_accuracy: f64,
    /// Runs of each case: numbers are their medians, with the least and the most beside them.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = count(100))]
    pub(super) repeat: usize,
    /// The seed of first weights, the order of rows, and simulations.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Where results go; they replace earlier ones. By default target/sync-vs-async if there is a folder target here, else
    /// sync-vs-async.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Workers are threads of this process over one set of devices, without a network.
    #[arg(long)]
    pub(super) in_process: bool,
    /// Also simulates the strategies with more workers than are run, each on a machine of its own, by the times measured
    /// here.
    #[arg(long)]
    pub(super) simulate: bool,
    /// Numbers of workers to simulate, up to 10,000.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2,4,8,16,32,64,128,256,512,1024,2048,4096,10000",
        value_name = "N,…",
        requires = "simulate",
        value_parser = count(10_000)
    )]
    pub(super) simulate_workers: Vec<usize>,
}

/// A run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Case {
    /// How workers agree.
    pub(super) strategy: Strategy,
    /// How many workers.
    pub(super) workers: usize,
    /// How many parameter servers.
    pub(super) ps: usize,
    /// Whether something goes wrong on purpose.
    pub(super) injected: bool,
}

/// A combination that cannot be run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Skipped {
    /// Which.
    pub(super) strategy: String,
    /// How many workers.
    pub(super) workers: usize,
    /// Why not.
    pub(super) reason: String,
}

impl Skipped {
    /// Which, and why not.
    pub(super) fn sentence(&self) -> String {
        let workers = if self.workers == 1 { "worker" } else { "workers" };
        format!("{}, {} {workers}: {}", self.strategy, self.workers, self.reason)
    }
}

fn unique<T: Ord + Copy>(list: &[T]) -> Vec<T> {
    list.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
}

impl Args {
    /// What goes wrong on purpose.
    pub(super) fn injection(&self) -> Injection {
        Injection {
            stragglers: self.straggler.clone(),
            delays: self.delay.clone(),
            kills: self.kill.clone(),
            restart: self.restart.0,
        }
    }

    /// What goes wrong with so many workers, of all that was asked for.
    pub(super) fn injection_with(&self, workers: usize) -> Injection {
        let mut i = self.injection();
        i.stragglers.retain(|s| s.worker < workers);
        i.delays.retain(|d| d.worker.is_none_or(|w| w < workers));
        i.kills.retain(|k| k.worker < workers);
        i
    }

    /// Each strategy once, in the order in which they were given.
    pub(super) fn strategies(&self) -> Vec<Strategy> {
        let mut all = Vec::new();
        for s in &self.strategies {
            if !all.contains(s) {
                all.push(*s);
            }
        }
        all
    }

    /// Numbers of parameter servers with which a strategy is run.
    pub(super) fn servers(&self, strategy: Strategy) -> Vec<usize> {
        match strategy {
            Strategy::AllReduce => vec![0],
            _ => unique(self.ps.as_deref().unwrap_or(&[1])),
        }
    }

    /// Units of the hidden layer.
    pub(super) fn hidden(&self) -> usize {
        self.hidden.unwrap_or(128)
    }

    /// Checks that no flag is given which another one leaves nothing to do for.
    fn check_effects(&self) -> Result<(), String> {
        if self.hidden.is_some() && self.model == ModelName::Softmax {
            return Err(
                "--hidden does nothing with --model softmax, which has no hidden layer; leave one of them out"
                    .to_owned(),
            );
        }
        if self.ps.is_some() && self.strategies.iter().all(|s| *s == Strategy::AllReduce) {
            return Err(
                "--ps does nothing where allreduce is the only strategy, which has no servers; leave it out".to_owned(),
            );
        }
        let twice = |same: &dyn Fn(usize, usize) -> bool, n: usize| (0..n).find(|i| (0..*i).any(|k| same(*i, k)));
        let (s, d, k) = (&self.straggler, &self.delay, &self.kill);
        if let Some(i) = twice(&|i, k| s[i].worker == s[k].worker, s.len()) {
            let worker = s[i].worker;
            return Err(format!(
                "--straggler names worker {worker} twice; say once how much longer it takes, such as {}",
                s[i]
            ));
        }
        if let Some(i) = twice(&|i, k| d[i].worker == d[k].worker, d.len()) {
            let whom = d[i]
                .worker
                .map_or_else(|| "all workers".to_owned(), |w| format!("worker {w}"));
            return Err(format!(
                "--delay is given twice for {whom}; say it once, such as {}",
                d[i]
            ));
        }
        if let Some(i) = twice(&|i, j| k[i] == k[j], k.len()) {
            return Err(format!("--kill {} is given twice; a worker dies once at a time", k[i]));
        }
        Ok(())
    }

    /// The runs, and what cannot be run.
    ///
    /// # Errors
    /// A sentence about flags that do not fit each other.
    pub(super) fn plan(&self) -> Result<(Vec<Case>, Vec<Skipped>), String> {
        self.check_effects()?;
        let injection = self.injection();
        let most = self.workers.iter().copied().max().unwrap_or(1);
        if let Some(w) = injection.workers().into_iter().find(|w| *w >= most) {
            return Err(format!(
                "there is no worker {w}: with --workers {most} the last is {}; the first is 0",
                most - 1
            ));
        }
        if self.in_process && !(self.delay.is_empty() && self.kill.is_empty()) {
            return Err("--delay and --kill need processes; leave --in-process out".to_owned());
        }
        let (mut cases, mut skipped) = (Vec::new(), Vec::new());
        for workers in unique(&self.workers) {
            let injected = !self.injection_with(workers).is_empty();
            for strategy in self.strategies() {
                if let Err(e) = strategy.check(workers) {
                    skipped.push(Skipped {
                        strategy: strategy.to_string(),
                        workers,
                        reason: e.message().to_owned(),
                    });
                    continue;
                }
                for ps in self.servers(strategy) {
                    let clean = Case {
                        strategy,
                        workers,
                        ps,
                        injected: false,
                    };
                    cases.push(clean);
                    if injected {
                        cases.push(Case {
                            injected: true,
                            ..clean
                        });
                    }
                }
            }
        }
        match cases.is_empty() {
            true => {
                let reasons: Vec<String> = skipped.into_iter().map(|s| s.reason).collect();
                Err(format!("nothing is left to run: {}", reasons.join("; ")))
            }
            false => Ok((cases, skipped)),
        }
    }

    /// The folder for results.
    pub(super) fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| {
            let target = PathBuf::from("target");
            match target.is_dir() {
                true => target.join("sync-vs-async"),
                false => PathBuf::from("sync-vs-async"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(text: &str) -> Result<Args, String> {
        let words = std::iter::once("test").chain(text.split_whitespace());
        Cli::try_parse_from(words).map(|c| c.args).map_err(|e| e.to_string())
    }

    #[test]
    fn every_flag_is_read() {
        let a = args(
            "--workers 3,1 --ps 2 --strategies ssp7,async-scaled --straggler 1@5x,2@2x --delay 10ms --delay 1@2ms --kill 1@50% \
             --restart never --dataset mnist5k --model softmax --hidden 64 --batch 8 --noise 0 --lr 0.1 --schedule linear --momentum 0 --steps 100 \
             --compute 5ms --target-accuracy 0.9 --repeat 5 --seed 3 --out x/y --simulate --simulate-workers 10,10000",
        )
        .unwrap();
        assert_eq!((a.workers.as_slice(), a.ps.as_deref()), (&[3, 1][..], Some(&[2][..])));
        assert_eq!(a.strategies[0].to_string(), "ssp7");
        assert_eq!((a.straggler.len(), a.delay.len(), a.kill.len()), (2, 2, 1));
        assert_eq!(
            (a.restart.0, a.dataset, a.model),
            (None, Dataset::Mnist5k, ModelName::Softmax)
        );
        assert_eq!((a.hidden(), a.batch, a.steps), (64, 8, Some(100)));
        assert_eq!((a.lr, a.momentum, a.target_accuracy, a.seed), (0.1, 0.0, 0.9, 3));
        assert_eq!((a.noise, a.repeat, a.schedule), (0.0, 5, Schedule::Linear));
        assert_eq!((a.compute, a.out), (Duration::from_millis(5), Some("x/y".into())));
        assert!(a.simulate && !a.in_process);
        assert_eq!(a.simulate_workers, [10, 10000]);
    }

    #[test]
    fn defaults_compare_all_strategies_and_skip_what_does_not_fit() {
        let (cases, skipped) = args("").unwrap().plan().unwrap();
        assert_eq!((cases.len(), skipped.len()), (15, 3));
        assert!(cases.iter().all(|c| !c.injected));
        assert!(
            skipped
                .iter()
                .any(|s| s.strategy == "hybrid2x2" && s.reason.contains("2 times 2"))
        );
        assert!(cases.iter().all(|c| (c.ps == 0) == (c.strategy == Strategy::AllReduce)));
    }

    #[test]
    fn what_goes_wrong_is_run_clean_too_and_only_where_the_worker_is() {
        let (cases, _) = args("--strategies async,allreduce --workers 1,2 --ps 1,2 --straggler 1@5x")
            .unwrap()
            .plan()
            .unwrap();
        let count = |workers, injected| {
            let of = cases.iter().filter(|c| (c.workers, c.injected) == (workers, injected));
            of.count()
        };
        assert_eq!((count(1, false), count(1, true)), (3, 0));
        assert_eq!((count(2, false), count(2, true)), (3, 3));
    }

    #[test]
    fn mistakes_are_named_with_what_would_be_right() {
        for (text, says) in [
            ("--strategies async,foo", "allreduce"),
            ("--dataset mnist", "mnist5k"),
            ("--model cnn", "softmax"),
            ("--workers 0", "0 is not in"),
            ("--workers 1000", "1000 is not in"),
            ("--ps 0", "0 is not in"),
            ("--straggler 5x", "1@5x"),
            ("--kill 1@200%", "between 0% and 100%"),
            ("--compute 5", "with a unit"),
            ("--target-accuracy 97", "between 0 and 1"),
            ("--lr -1", "learning rate"),
            ("--momentum 1", "less than 1"),
            ("--noise -1", "from 0 to 10"),
            ("--epochs 2 --steps 3", "cannot be used with"),
            ("--repeat 0", "0 is not in"),
            ("--simulate --simulate-workers 20000", "20000 is not in"),
            ("--simulate-workers 20", "--simulate"),
            ("--restart 2s", "--kill"),
        ] {
            let e = args(text).map(drop).unwrap_err();
            assert!(e.contains(says), "{text}: {e}");
        }
        for (text, says) in [
            ("--workers 1,2 --straggler 2@5x", "no worker 2"),
            ("--workers 2 --kill 7@50%", "the last is 1"),
            ("--in-process --kill 1@50%", "need processes"),
            ("--in-process --delay 1ms", "need processes"),
            ("--straggler 1@5x --straggler 1@7x", "--straggler names worker 1 twice"),
            ("--delay 1@5ms,1@6ms", "--delay is given twice for worker 1"),
            ("--delay 5ms,6ms", "--delay is given twice for all workers"),
            ("--kill 1@50% --kill 1@50%", "--kill 1@50% is given twice"),
            ("--model softmax --hidden 64", "--hidden does nothing"),
            ("--strategies allreduce --ps 2", "--ps does nothing"),
            (
                "--workers 1 --strategies hybrid2x2",
                "nothing is left to run: strategy hybrid2x2 needs 2 times 2",
            ),
        ] {
            let e = args(text).unwrap().plan().unwrap_err();
            assert!(e.contains(says), "{text}: {e}");
        }
    }
}
