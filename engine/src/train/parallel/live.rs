//! A replica that takes part: the values that it keeps, and its steps.

use std::time::{Duration, Instant};

use actorflow_core::cancel::CancelToken;
use actorflow_core::parallel::Serial;
use actorflow_core::tensor::Pool;
use actorflow_core::{Code, DType, Error, Operation, Output, Result, Tensor};
use actorflow_kernels::ops::agreement::mean;

use super::replica::{Nodes, Point};
use super::{ReplicaOptions, StepReport, Strategy};
use crate::train::monitored::RunArgs;
use crate::{Callable, Session, Trace};

/// What the last output of an `AgreeApply` says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Info {
    pub(super) version: u64,
    round: u64,
    counted: bool,
    staleness: u64,
    global_step: u64,
}

impl Info {
    pub(super) fn of(t: &Tensor) -> Result<Info> {
        let number = |x: i64| u64::try_from(x).unwrap_or(0);
        match t.as_slice::<i64>()? {
            &[version, round, counted, staleness, global_step] => Ok(Info {
                version: number(version),
                round: number(round),
                counted: counted != 0,
                staleness: number(staleness),
                global_step: number(global_step),
            }),
            _ => Err(Error::internal("AgreeApply says something else than five numbers")),
        }
    }
}

/// How long asking who is missing may take.
const ASKING: Duration = Duration::from_secs(2);

/// What was asked for beside a step: values, and when each node ran.
#[derive(Default)]
pub(crate) struct Beside {
    pub(crate) values: Vec<Tensor>,
    pub(crate) trace: Option<Trace>,
}

/// A run that is compiled, and of what.
struct Run {
    callable: Callable,
    feeds: Vec<Output>,
    fetches: Vec<Output>,
}

impl Run {
    fn new(session: &Session, feeds: &[&Output], fetches: &[&Output]) -> Result<Run> {
        let owned = |list: &[&Output]| list.iter().map(|o| (*o).clone()).collect();
        Ok(Run {
            callable: session.callable(feeds, fetches, &[])?,
            feeds: owned(feeds),
            fetches: owned(fetches),
        })
    }

    /// Its values, and those of what is asked for beside.
    fn run(
        &self,
        session: &Session,
        values: Vec<Tensor>,
        beside: &RunArgs,
        deadline: Instant,
        cancel: Option<&CancelToken>,
    ) -> Result<(Vec<Tensor>, Beside)> {
        if beside.is_empty() {
            let own = self.callable.call_unless(&values, Some(deadline), cancel)?;
            return Ok((own, Beside::default()));
        }
        let mut runner = session.runner().deadline(deadline);
        if let Some(cancel) = cancel {
            runner = runner.cancel(cancel);
        }
        let given = beside.feeds.iter().map(|(o, t)| (o, t.clone()));
        for (output, value) in self.feeds.iter().zip(values).chain(given) {
            runner = runner.feed(output, value);
        }
        for fetch in self.fetches.iter().chain(&beside.fetches) {
            runner = runner.fetch(fetch);
        }
        for target in &beside.targets {
            runner = runner.target(target);
        }
        let (mut own, trace) = match beside.trace {
            true => runner.run_traced().map(|(v, t)| (v, Some(t)))?,
            false => (runner.run()?, None),
        };
        let values = own.split_off(self.fetches.len());
        Ok((own, Beside { values, trace }))
    }
}

pub(super) struct Live {
    session: Session,
    /// A whole step, or from the gradients on.
    step: Run,
    /// Loss, metrics and gradients, if a step computes its batch in parts.
    parts: Option<Run>,
    pull: Callable,
    join: Callable,
    /// The number of the next push, the round, and the version of each shard's values.
    push: u64,
    round: u64,
    versions: Vec<u64>,
    /// How many updates the first shard's values have had.
    global_step: u64,
    /// The values that gradients are computed from, of all shards.
    values: Vec<Tensor>,
    /// A step has failed since the replica joined.
    failed: bool,
}

fn number(x: u64) -> i64 {
    i64::try_from(x).unwrap_or(i64::MAX)
}

/// What is fed where gradients could be computed.
fn given(points: &[Point]) -> Vec<&Output> {
    let mut all = Vec::new();
    for p in points {
        match p {
            Point::Dense(d) => all.push(d),
            Point::Rows(values, indices) => all.extend([values, indices]),
        }
    }
    all
}

impl Live {
    pub(super) fn start(
        session: &Session,
        nodes: &Nodes,
        options: &ReplicaOptions,
        deadline: Instant,
        initialize: impl FnOnce(&Session) -> Result<()>,
    ) -> Result<Live> {
        let tags: Vec<&Output> = nodes.shards.iter().map(|s| &s.tag).collect();
        let all_tags: Vec<&Output> = tags
            .iter()
            .copied()
            .chain(nodes.ring.iter().map(|r| &r.buckets.tag))
            .collect();
        let kept: Vec<&Output> = nodes
            .shards
            .iter()
            .flat_map(|s| s.kept.iter().map(|v| v.value()))
            .collect();
        let computed: Vec<&Output> = std::iter::once(&nodes.model.loss).chain(&nodes.model.metrics).collect();
        let inputs: Vec<&Output> = nodes.model.inputs.iter().chain(kept).collect();
        let gradients = given(&nodes.points);
        let of = |list: &'_ [(Vec<Output>, Output)]| -> Vec<Output> {
            list.iter()
                .flat_map(|(v, info)| v.iter().chain([info]))
                .cloned()
                .collect()
        };
        let (stepped, pulled) = (of(&nodes.stepped), of(&nodes.pulled));
        let after: Vec<&Output> = stepped.iter().chain(&nodes.pushed).collect();
        let (step, parts) = match options.micro_batches {
            1 => {
                let feeds: Vec<&Output> = inputs.iter().chain(&all_tags).copied().collect();
                let fetches: Vec<&Output> = computed.iter().chain(&after).copied().collect();
                (Run::new(session, &feeds, &fetches)?, None)
            }
            _ => {
                let fetches: Vec<&Output> = computed.iter().chain(&gradients).copied().collect();
                let parts = Run::new(session, &inputs, &fetches)?;
                let feeds: Vec<&Output> = gradients.iter().chain(&all_tags).copied().collect();
                (Run::new(session, &feeds, &after)?, Some(parts))
            }
        };
        let pull_feeds: Vec<&Output> = std::iter::once(&nodes.decision).chain(tags).collect();
        let joined: Vec<&Output> = nodes.joined.iter().flat_map(|(a, b)| [a, b]).collect();
        let mut live = Live {
            step,
            parts,
            pull: session.callable(&pull_feeds, &pulled.iter().collect::<Vec<_>>(), &[])?,
            join: session.callable(&[], &joined, &[])?,
            session: session.clone(),
            push: 0,
            round: 0,
            versions: vec![0; nodes.shards.len()],
            global_step: 0,
            values: Vec::new(),
            failed: false,
        };
        live.initialize(nodes, options, deadline, initialize)?;
        live.rejoin(nodes, options, deadline, None)?;
        Ok(live)
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn values(&self) -> &[Tensor] {
        &self.values
    }

    fn begin(&self, nodes: &Nodes, ops: &[Operation], version: u64, deadline: Instant) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let mut run = self.session.runner().deadline(deadline);
        run = run.feed(&nodes.version, Tensor::scalar(number(version)));
        for op in ops {
            run = run.target(op);
        }
        run.run().map(drop)
    }

    /// For each shard, how many updates its variables have had; `None` if they have no values.
    fn known(&self, nodes: &Nodes, deadline: Instant) -> Result<Vec<Option<u64>>> {
        let own = nodes.reports.len() - nodes.shards.len();
        let mut run = self.session.runner().deadline(deadline);
        for report in &nodes.reports[own..] {
            run = run.fetch(&report[0]).fetch(&report[1]);
        }
        let said = run.run()?;
        let one = |pair: &[Tensor]| {
            let version = u64::try_from(pair[1].to_scalar::<i64>()?).unwrap_or(0);
            Ok(pair[0].to_scalar::<bool>()?.then_some(version))
        };
        said.chunks_exact(2).map(one).collect()
    }

    /// Whether a server has lost its values since this replica has had some of it, or cannot be asked.
    pub(super) fn has_lost_values(&self, nodes: &Nodes) -> bool {
        let Ok(known) = self.known(nodes, Instant::now() + ASKING) else {
            return true;
        };
        known
            .iter()
            .zip(&self.versions)
            .any(|(now, mine)| now.is_none_or(|v| v < *mine))
    }

    /// Sees to it that the variables have values, and that the others know.
    fn initialize(
        &self,
        nodes: &Nodes,
        options: &ReplicaOptions,
        deadline: Instant,
        initialize: impl FnOnce(&Session) -> Result<()>,
    ) -> Result<()> {
        let chief = options.replica == 0;
        if nodes.ring.is_none() && !chief {
            return Ok(());
        }
        let ready: Vec<bool> = self.known(nodes, deadline)?.iter().map(Option::is_some).collect();
        if ready.iter().all(|r| *r) {
            return Ok(());
        }
        let Some(ring) = &nodes.ring else {
            initialize(&self.session)?;
            // A server that has kept its values gives up what it knew, and before anybody can join everywhere.
            for turn in [true, false] {
                let ops = nodes.begin.iter().zip(&ready).filter(|(_, r)| **r == turn);
                let ops: Vec<Operation> = ops.map(|(op, _)| op.clone()).collect();
                self.begin(nodes, &ops, 0, deadline)?;
            }
            return Ok(());
        };
        let others_train = ring.is_in_training(&self.session);
        if chief && !others_train {
            initialize(&self.session)?;
            self.begin(nodes, &nodes.begin, 0, deadline)?;
            return self.begin(nodes, &nodes.begin_buckets, 0, deadline);
        }
        // What is not taken from others, too.
        self.session.execute(&[&nodes.initializer])?;
        if !others_train {
            // Waits until the chief has begun the buckets.
            let run = self.session.runner().deadline(deadline).fetch(&nodes.joined[0].0);
            self.waiting(nodes, options, run.run())?;
        }
        let taken = ring.take_newest(&self.session, None, deadline)?;
        let version = taken.ok_or_else(|| {
            Error::unavailable("the training has begun, but no replica that has its values can be reached")
        })?;
        self.begin(nodes, &nodes.begin, version, deadline)
    }

    fn tags(&self, options: &ReplicaOptions) -> Vec<Tensor> {
        let me = match options.strategy {
            Strategy::AllReduce => 0,
            _ => options.replica,
        };
        let tag = |v: &u64| Tensor::vector(&[me as i64, number(self.push), number(self.round), number(*v)]);
        self.versions.iter().map(tag).collect()
    }

    fn bucket_tag(&self, options: &ReplicaOptions) -> Option<Tensor> {
        let round = number(self.versions[0]);
        let tag = Tensor::vector(&[options.replica as i64, number(self.push), round, round]);
        (options.strategy == Strategy::AllReduce).then_some(tag)
    }

    /// Keeps the values of all shards, each followed by what happened there, and says what did.
    fn keep(&mut self, outputs: Vec<Tensor>, nodes: &Nodes) -> Result<Vec<Info>> {
        let mut outputs = outputs.into_iter();
        let (mut values, mut infos) = (Vec::with_capacity(self.values.len()), Vec::new());
        for s in &nodes.shards {
            values.extend(outputs.by_ref().take(s.kept.len()));
            let info = outputs.next().ok_or_else(|| Error::internal("a fetch gave no value"))?;
            infos.push(Info::of(&info)?);
        }
        self.values = values;
        self.versions = infos.iter().map(|i| i.version).collect();
        self.global_step = infos.first().map_or(0, |i| i.global_step);
        // Whoever has old values of one shard is late everywhere.
        self.round = infos.iter().map(|i| i.round).min().unwrap_or(0);
        Ok(infos)
    }

    /// Joins (again), brings what was decided last, and takes the values.
    fn rejoin(
        &mut self,
        nodes: &Nodes,
        options: &ReplicaOptions,
        deadline: Instant,
        cancel: Option<&CancelToken>,
    ) -> Result<()> {
        if let Some(ring) = &nodes.ring {
            let own = nodes.reports.len() - nodes.shards.len();
            let run = self.session.runner().deadline(deadline).fetch(&nodes.reports[own][1]);
            let mut version = u64::try_from(run.run()?[0].to_scalar::<i64>()?).unwrap_or(0);
            if let Some(newer) = ring.take_newest(&self.session, Some(version), deadline)? {
                version = newer;
                self.begin(nodes, &nodes.begin, version, deadline)?;
            }
            self.begin(nodes, &nodes.begin_buckets, version, deadline)?;
        }
        let joined = self.waiting(nodes, options, self.join.call_unless(&[], Some(deadline), cancel))?;
        let own = nodes.joined.len() - nodes.shards.len();
        self.push = 0;
        for next in joined.iter().step_by(2) {
            let next = next.as_slice::<i64>()?.first().copied().unwrap_or(0);
            self.push = self.push.max(u64::try_from(next).unwrap_or(0));
        }
        // The first shard decides for all; where replicas do not wait for each other there is nothing to bring.
        let decision = match options.strategy {
            Strategy::Sync { .. } | Strategy::Hybrid { .. } => joined[2 * own + 1].clone(),
            _ => Tensor::vector::<i64>(&[]),
        };
        let mut feeds = vec![decision];
        feeds.extend(self.tags(options));
        let outputs = self.pull.call_unless(&feeds, Some(deadline), cancel)?;
        self.keep(outputs, nodes)?;
        self.failed = false;
        Ok(())
    }

    /// How many updates the values have had from which the next step computes its gradients; joins again if the last step
    /// has failed.
    pub(super) fn position(
        &mut self,
        nodes: &Nodes,
        options: &ReplicaOptions,
        cancel: Option<&CancelToken>,
    ) -> Result<u64> {
        if self.failed {
            self.rejoin(nodes, options, Instant::now() + options.deadline, cancel)?;
        }
        Ok(self.global_step)
    }

    pub(super) fn step(
        &mut self,
        nodes: &Nodes,
        options: &ReplicaOptions,
        batch: &[Tensor],
        beside: &RunArgs,
        cancel: Option<&CancelToken>,
    ) -> Result<(StepReport, Beside)> {
        if batch.len() != nodes.model.inputs.len() {
            return Err(Error::invalid(format!(
                "a batch has a tensor for each of the model's {} inputs, got {}",
                nodes.model.inputs.len(),
                batch.len()
            )));
        }
        let longest = beside.timeout.map_or(options.deadline, |t| t.min(options.deadline));
        let deadline = Instant::now() + longest;
        if self.failed {
            self.rejoin(nodes, options, deadline, cancel)?;
        }
        // Stays so unless everything below succeeds.
        self.failed = true;
        let begun = Instant::now();
        let nothing = RunArgs::new();
        let (computed, mut feeds, with_step) = match &self.parts {
            None => {
                let feeds = batch.iter().chain(&self.values).cloned().collect();
                (None, feeds, beside)
            }
            Some(parts) => {
                let (computed, gradients, got) =
                    self.in_parts(parts, nodes, options, batch, beside, deadline, cancel)?;
                (Some((computed, got)), gradients, &nothing)
            }
        };
        feeds.extend(self.tags(options));
        feeds.extend(self.bucket_tag(options));
        let args = match (beside.trace, with_step.trace) {
            (true, false) => &RunArgs::new().traced(),
            _ => with_step,
        };
        let before = begun.elapsed();
        // The values that it keeps are the servers' to change once nobody else has them: the run takes the feeds.
        let result = self.step.run(&self.session, feeds, args, deadline, cancel);
        let (mut outputs, mut got) = self.waiting(nodes, options, result)?;
        let computed = computed.map(|(computed, of_parts)| {
            if let (Some(all), Some(last)) = (of_parts.trace, got.trace.take()) {
                got.trace = Some(followed(all, last, before));
            }
            got.values = of_parts.values;
            computed
        });
        let computed = match computed {
            Some(computed) => computed,
            None => outputs.drain(..1 + nodes.model.metrics.len()).collect(),
        };
        let pushed = outputs.split_off(outputs.len() - nodes.pushed.len());
        let mut infos = self.keep(outputs, nodes)?;
        let global_step = infos[0].global_step;
        if !pushed.is_empty() {
            infos = pushed.iter().map(Info::of).collect::<Result<_>>()?;
        }
        self.push += 1;
        self.failed = false;
        let report = StepReport {
            loss: float(&computed[0])?,
            metrics: computed[1..].to_vec(),
            global_step,
            applied: infos.iter().all(|i| i.counted),
            staleness: infos.iter().map(|i| i.staleness).max().unwrap_or(0),
        };
        Ok((report, got))
    }

    /// Computes the parts of a batch one after the other: the means of loss and metrics, those of the gradients, and those of
    /// what is asked for beside. Operations are run beside the last part only.
    #[allow(clippy::too_many_arguments)]
    fn in_parts(
        &self,
        parts: &Run,
        nodes: &Nodes,
        options: &ReplicaOptions,
        batch: &[Tensor],
        beside: &RunArgs,
        deadline: Instant,
        cancel: Option<&CancelToken>,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>, Beside)> {
        let n = options.micro_batches;
        let mut results = Vec::with_capacity(n);
        let (begun, mut trace) = (Instant::now(), beside.trace.then(Trace::default));
        let early = RunArgs {
            targets: Vec::new(),
            ..beside.clone()
        };
        for k in 0..n {
            let mut feeds = Vec::with_capacity(batch.len() + self.values.len());
            for t in batch {
                feeds.push(match t.shape().first() {
                    None => t.clone(),
                    Some(rows) if rows % n == 0 => t.slice_rows(k * (rows / n), (k + 1) * (rows / n))?,
                    Some(rows) => {
                        return Err(Error::invalid(format!("a batch of {rows} rows is not {n} equal parts")));
                    }
                });
            }
            feeds.extend(self.values.iter().cloned());
            let (args, before) = (if k + 1 == n { beside } else { &early }, begun.elapsed());
            let (mut values, got) = parts.run(&self.session, feeds, args, deadline, cancel)?;
            values.extend(got.values);
            results.push(values);
            trace = match (trace, got.trace) {
                (Some(all), Some(part)) => Some(followed(all, part, before)),
                (all, _) => all,
            };
        }
        let pool = Pool::unbounded();
        let dense = |i: usize| {
            let all: Vec<&Tensor> = results.iter().map(|r| &r[i]).collect();
            match all[0].dtype() {
                DType::F32 | DType::F64 | DType::F16 | DType::BF16 => mean::dense(&all, &pool, &Serial),
                // What has no mean is that of the last part.
                _ => Ok(all[n - 1].clone()),
            }
        };
        let mut at = 1 + nodes.model.metrics.len();
        let computed = (0..at).map(dense).collect::<Result<Vec<_>>>()?;
        let mut gradients = Vec::new();
        for p in &nodes.points {
            match p {
                Point::Dense(_) => {
                    gradients.push(dense(at)?);
                    at += 1;
                }
                Point::Rows(..) => {
                    let all: Vec<(&Tensor, &Tensor)> = results.iter().map(|r| (&r[at], &r[at + 1])).collect();
                    let (values, indices) = mean::rows(&all, &pool)?;
                    gradients.extend([values, indices]);
                    at += 2;
                }
            }
        }
        let values = (at..at + beside.fetches.len()).map(dense).collect::<Result<_>>()?;
        Ok((computed, gradients, Beside { values, trace }))
    }

    /// Says who was waited for in vain.
    fn waiting<T>(&self, nodes: &Nodes, options: &ReplicaOptions, result: Result<T>) -> Result<T> {
        result.map_err(|e| {
            if e.code() != Code::DeadlineExceeded {
                return e;
            }
            let mut missing = Vec::new();
            for report in &nodes.reports {
                let run = self
                    .session
                    .runner()
                    .timeout(ASKING)
                    .fetch(&report[0])
                    .fetch(&report[3]);
                match run.run().map(|r| (r[0].to_scalar::<bool>(), r[1].to_vec::<i64>())) {
                    Ok((Ok(true), Ok(who))) => missing.extend(who),
                    Ok((Ok(false), _)) => missing.push(0),
                    _ => {}
                }
            }
            missing.sort_unstable();
            missing.dedup();
            missing.retain(|r| *r != options.replica as i64);
            match missing.is_empty() {
                true => e.context(format!("replica {}", options.replica)),
                false => e.context(format!(
                    "replica {} waited for replicas {missing:?}, which did not come",
                    options.replica
                )),
            }
        })
    }

    pub(super) fn histogram(&self, nodes: &Nodes, options: &ReplicaOptions) -> Result<Vec<u64>> {
        let own = nodes.reports.len() - nodes.shards.len();
        let run = self
            .session
            .runner()
            .timeout(options.deadline)
            .fetch(&nodes.reports[own][2]);
        let counts = run.run()?[0].to_vec::<i64>()?;
        Ok(counts.into_iter().map(|n| u64::try_from(n).unwrap_or(0)).collect())
    }

    pub(super) fn leave(self, nodes: &Nodes, options: &ReplicaOptions) -> Result<()> {
        let mut run = self.session.runner().timeout(options.deadline);
        for op in &nodes.leave {
            run = run.target(op);
        }
        run.run().map(drop)
    }
}

/// A trace and then another one, which began so long after it.
fn followed(mut all: Trace, next: Trace, after: Duration) -> Trace {
    let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
    all.nodes.extend(next.nodes.into_iter().map(|mut n| {
        n.start_ns = n.start_ns.saturating_add(after);
        n
    }));
    all
}

fn float(t: &Tensor) -> Result<f32> {
    match t.dtype() {
        DType::F64 => Ok(t.to_scalar::<f64>()? as f32),
        _ => t.to_scalar::<f32>(),
    }
}
