//! One worker's training, the same in a process of its own and in a thread.

use std::time::{Duration, Instant};

use actorflow::train::optimizer::Momentum;
use actorflow::train::parallel::{Replica, ReplicaOptions, StepReport};
use actorflow::{CancelToken, Code, DType, Graph, Result, Session, Tensor};

use super::data::{Order, Random, Split};
use super::network::{Judge, Values};
use super::probe;
use super::setup::{Ended, Mark, Point, Seen, Setup};

/// How often what was done is told.
const TELLING: Duration = Duration::from_millis(25);
/// How much of the time a step takes is new in what a straggler goes by.
const NEWS: f64 = 0.1;
/// Seconds until a step that has failed is made again.
const AGAIN: f64 = 0.02;

/// Where the tasks of a run are.
pub(super) struct Places {
    /// The devices of the parameter servers.
    pub(super) ps: Vec<String>,
    /// Those of the workers.
    pub(super) workers: Vec<String>,
}

/// A worker.
pub(super) struct Trainee<'a> {
    setup: &'a Setup,
    me: usize,
    data: &'a Split,
    replica: Replica,
    /// In a process of its own its probe is the first, in a thread that of its number.
    slot: usize,
}

impl<'a> Trainee<'a> {
    /// Builds a replica's graph and joins the training.
    ///
    /// # Errors
    /// As `Replica::build` and `Replica::start`.
    pub(super) fn new(
        setup: &'a Setup,
        me: usize,
        slot: usize,
        data: &'a Split,
        places: Places,
        session: impl FnOnce(&Graph) -> Result<Session>,
    ) -> Result<Trainee<'a>> {
        let mut options = ReplicaOptions::new(setup.strategy()?, me, setup.workers);
        options.ps = places.ps;
        options.worker = places.workers[me].clone();
        options.workers = places.workers;
        options.deadline = setup.deadline();
        let g = Graph::new();
        // Fed with each batch by the update that the values have had: no other round trip is needed for it.
        let rate = g.placeholder("rate", DType::F32, [0usize; 0])?;
        let rule = Momentum::new(&rate, setup.momentum);
        let model = |g: &Graph| {
            let mut model = setup.shape.build(g, Some(slot))?.0;
            model.inputs.push(rate.clone());
            Ok(model)
        };
        let mut replica = Replica::build(&g, rule.into(), options, model)?;
        replica.start(&session(&g)?)?;
        Ok(Trainee {
            setup,
            me,
            data,
            replica,
            slot,
        })
    }

    /// Trains until the budget is spent, the others have left or the run is cancelled, beginning at a step of the data;
    /// `tell` is given the steps that were done, now and then. The run began `earlier` than now.
    pub(super) fn train(
        mut self,
        first: usize,
        earlier: Duration,
        stop: &CancelToken,
        mut tell: impl FnMut(Vec<Mark>) -> Result<()>,
    ) -> Ended {
        let mut kept = Vec::new();
        let done = self.steps(first, earlier, stop, &mut kept, &mut tell);
        let mut ended = Ended {
            error: done.err().map(|e| e.to_string()),
            seen: None,
        };
        if self.me == self.setup.observer {
            match self.see(kept) {
                Ok(seen) => ended.seen = Some(seen),
                Err(e) => ended.error = ended.error.or(Some(e.to_string())),
            }
        }
        // Whoever failed may not be able to.
        if let Err(e) = self.replica.leave()
            && ended.error.is_none()
        {
            ended.error = Some(e.to_string());
        }
        ended
    }

    fn steps(
        &mut self,
        first: usize,
        earlier: Duration,
        stop: &CancelToken,
        kept: &mut Vec<(f64, u64, Values)>,
        tell: &mut impl FnMut(Vec<Mark>) -> Result<()>,
    ) -> Result<()> {
        let setup = self.setup;
        let mut order = Order::new(self.data.train.len(), setup.seed);
        let factor = setup.factors.get(self.me).copied().unwrap_or(1.0);
        let observes = self.me == setup.observer;
        let zero = probe::now();
        let earlier = u64::try_from(earlier.as_micros()).unwrap_or(0);
        let at = |t: u64| t.saturating_sub(zero) + earlier;
        let mut marks = Vec::new();
        let mut told = Instant::now();
        // Seconds that computing takes by itself.
        let mut computes: Option<f64> = None;
        if observes {
            kept.push((0.0, 0, self.replica.kept()?));
        }
        // The updates that the values have had: of one that was killed, more than none.
        let mut had = match self.replica.position() {
            Ok(had) => had,
            Err(e) if e.code() == Code::OutOfRange => return Ok(()),
            Err(e) => return Err(e),
        };
        for step in first.. {
            let rows = order.batch(step, self.me, setup.workers, setup.batch);
            let number = (step * setup.workers + self.me) as u64;
            let mut random = Random::new(setup.seed ^ number.wrapping_mul(0x9E6C_63D0_876A_9A35));
            let [x, y] = self.data.train.blurred(&rows, setup.noise, &mut random)?;
            let batch = [x, y, Tensor::scalar(setup.rate_after(had))];
            let begin = probe::now();
            let rest = (factor - 1.0) * computes.map_or(0.0, |c| c + setup.compute);
            sleep(setup.compute + rest, stop)?;
            let computing = probe::now();
            let report = match self.step(&batch, stop) {
                Ok(report) => report,
                // The others are done and have left.
                Err(e) if e.code() == Code::OutOfRange => break,
                Err(e) => {
                    tell(marks)?;
                    return Err(e);
                }
            };
            let end = probe::now();
            let ready = probe::ready(self.slot).clamp(computing, end);
            let took = (ready - computing) as f64 * 1e-6;
            computes = Some(computes.map_or(took, |c| c + NEWS * (took - c)));
            marks.push(Mark {
                begin: at(begin),
                ready: at(ready),
                end: at(end),
                update: report.global_step,
                applied: report.applied,
                loss: report.loss,
            });
            had = report.global_step;
            let over = report.global_step >= setup.updates;
            let next = kept.len() as u64 * setup.updates.div_ceil(setup.snapshots.max(1));
            if observes && (report.global_step >= next || over) {
                kept.push((at(end) as f64 * 1e-6, report.global_step, self.replica.kept()?));
            }
            if over {
                break;
            }
            if told.elapsed() > TELLING {
                tell(std::mem::take(&mut marks))?;
                told = Instant::now();
            }
        }
        tell(marks)
    }

    /// A step. While a worker of an all-reduce is away whose process was killed it fails, and is made again, for as long as a step
    /// may wait for others.
    fn step(&mut self, batch: &[Tensor], stop: &CancelToken) -> Result<StepReport> {
        let begun = Instant::now();
        loop {
            match self.replica.step_unless(batch, stop) {
                Err(e)
                    if matches!(e.code(), Code::Unavailable | Code::Aborted)
                        && begun.elapsed() < self.setup.deadline() =>
                {
                    sleep(AGAIN, stop)?;
                }
                done => return done,
            }
        }
    }

    /// Judges what was kept.
    fn see(&self, kept: Vec<(f64, u64, Values)>) -> Result<Seen> {
        let judge = Judge::new(&self.setup.shape, self.data)?;
        let mut seen = Seen {
            staleness: self.replica.histogram()?,
            ..Seen::default()
        };
        for (seconds, update, values) in &kept {
            let (loss, accuracy) = judge.test(values)?;
            seen.points.push(Point {
                seconds: *seconds,
                update: *update,
                examples: 0,
                loss,
                accuracy,
            });
        }
        if let Some((_, _, values)) = kept.last() {
            seen.train_loss = judge.train(values)?.0;
        }
        Ok(seen)
    }
}

/// Sleeps so many seconds unless the run is cancelled.
fn sleep(seconds: f64, stop: &CancelToken) -> Result<()> {
    const SLICE: Duration = Duration::from_millis(50);
    if !(seconds > 0.0) {
        return Ok(());
    }
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    loop {
        stop.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}
