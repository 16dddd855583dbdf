//! What replicas share, and what each adds.

use actorflow_core::gradient::Grad;
use actorflow_core::{Code, DType, Error, Graph, Operation, Output, Result, Tensor};

use super::SyncReplicas;
use super::accumulator::Accumulator;
use crate::session::Session;
use crate::train::coordinator::Coordinator;
use crate::train::optimizer::VariableGrad;
use crate::train::queue_runner::wait;
use crate::train::variable::{GraphVariables, Variable};

/// What replicas share: the accumulators, and the chief's step.
#[derive(Debug, Clone)]
pub struct SyncGraph {
    graph: Graph,
    name: String,
    /// For each variable that has gradients, its name and its accumulator.
    gradients: Vec<(String, Accumulator)>,
    /// How many replicas have pushed: taken together with the gradients.
    pushes: Accumulator,
    /// The same: taken when they are enough, before the gradients.
    arrivals: Accumulator,
    /// Where each replica waits for the end of the step.
    gates: Vec<Accumulator>,
    mutex: Output,
    global_step: Variable,
    enough: Operation,
    apply: Operation,
    /// How many have pushed, and how many of these have arrived, at a time when nobody pushes.
    pending: [Output; 2],
    aggregate: usize,
    init: Operation,
}

/// What a replica adds.
#[derive(Debug, Clone)]
pub struct Replica {
    train: Operation,
    init: Operation,
}

impl Replica {
    /// Pushes the gradients, waits until the step is over, and takes over its number.
    pub fn train(&self) -> &Operation {
        &self.train
    }

    /// Takes over the number of the global step; to be run before the first training.
    pub fn init(&self) -> &Operation {
        &self.init
    }
}

/// A step that is never past.
fn always(g: &Graph) -> Result<Output> {
    g.constant(i64::MAX)
}

/// The sum divided by the number of those that made it.
fn mean(sum: &Grad, count: &Output) -> Result<Grad> {
    let values = sum.values();
    Ok(sum.with_values(values.divided_by(&count.cast(values.dtype())?)?))
}

impl SyncGraph {
    #[track_caller]
    pub(super) fn new(replicas: &SyncReplicas, like: &[VariableGrad], global_step: &Variable) -> Result<SyncGraph> {
        let g = global_step.handle().graph().clone();
        let _now = g.no_control_dependencies();
        let _scope = g.name_scope(&replicas.name);
        let _place = g.colocate_with(&global_step.handle().op())?;
        let shared = |what: &str| format!("{}/{what}", replicas.name);
        let mut gradients = Vec::new();
        let mut trained = Vec::new();
        for (grad, variable) in like {
            let Some(grad) = grad else { continue };
            let name = variable.name();
            let accumulator = Accumulator::of(variable, grad, &shared(&format!("{name}/grad_accum")))?;
            gradients.push((name, accumulator));
            trained.push(variable.clone());
        }
        if gradients.is_empty() {
            return Err(Error::invalid("no variable has a gradient that replicas could share"));
        }
        let pushes = Accumulator::counter(&g, &shared("pushes"))?;
        let arrivals = Accumulator::counter(&g, &shared("arrivals"))?;
        let gate = |i| Accumulator::counter(&g, &shared(&format!("gate_{i}")));
        let gates = (0..replicas.total).map(gate).collect::<Result<Vec<_>>>()?;
        let mutex = g.op("MutexV2").attr("shared_name", shared("mutex")).output()?;

        let enough = arrivals.take(replicas.aggregate)?.values().op();
        // From here on nobody pushes until the step is over.
        let lock = g.op("MutexLock").input(&mutex).output()?;
        let held = g.control_dependencies(&[lock.op()]);
        // Those who came while the mutex was waited for count too, in every accumulator.
        let count = pushes.take(replicas.aggregate)?.values().clone();
        let mut means = Vec::with_capacity(trained.len());
        for ((_, accumulator), variable) in gradients.iter().zip(&trained) {
            let _place = g.colocate_with(&variable.handle().op())?;
            let sum = accumulator.take(replicas.aggregate)?;
            means.push((Some(mean(&sum, &count)?), variable.clone()));
        }
        drop(held);
        let applied = replicas.optimizer.apply_gradients(&means, Some(global_step))?;
        let _after = g.control_dependencies(&[applied]);
        let mut ends = vec![g.op("ConsumeMutexLock").input(&lock).finish()?];
        for gate in &gates {
            ends.push(gate.count(&always(&g)?)?);
        }
        drop(_after);
        let apply = g.group("apply", &ends)?;

        let lock = g.op("MutexLock").input(&mutex).output()?;
        let held = g.control_dependencies(&[lock.op()]);
        let counts = [pushes.pushed()?, arrivals.pushed()?];
        drop(held);
        let unlock = g.op("ConsumeMutexLock").input(&lock);
        let unlock = unlock
            .control_input(&counts[0].op())
            .control_input(&counts[1].op())
            .finish()?;
        let after = g.control_dependencies(&[unlock]);
        let pending = [counts[0].identity()?, counts[1].identity()?];
        drop(after);

        let now = global_step.read()?;
        let all = gradients.iter().map(|(_, a)| a).chain([&pushes, &arrivals]);
        let set = all.map(|a| a.set_step(&now)).collect::<Result<Vec<_>>>()?;
        let init = g.group("init", &set)?;
        Ok(SyncGraph {
            name: replicas.name.clone(),
            graph: g.clone(),
            gradients,
            pushes,
            arrivals,
            gates,
            mutex,
            global_step: global_step.clone(),
            enough,
            apply,
            pending,
            aggregate: replicas.aggregate,
            init,
        })
    }

    /// Adds replica `index` with its gradients.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a number that is not below that of replicas, or for gradients that are not of the same
    /// variables and kinds as those that the accumulators were made for.
    #[track_caller]
    pub fn replica(&self, index: usize, grads: &[VariableGrad]) -> Result<Replica> {
        let g = &self.graph;
        let gate = self.gates.get(index).ok_or_else(|| {
            Error::invalid(format!(
                "there is no replica {index} among {}; they count from 0",
                self.gates.len()
            ))
        })?;
        let _now = g.no_control_dependencies();
        let _scope = g.name_scope(&format!("{}/replica_{index}", self.name));
        let local = g.variable_builder("local_step").local().build(0i64)?;
        let step = local.value();
        let mut brought = Vec::with_capacity(self.gradients.len());
        for (name, accumulator) in &self.gradients {
            let of = grads.iter().find(|(_, v)| v.name() == *name);
            let Some((Some(grad), _)) = of else {
                return Err(Error::invalid(format!(
                    "replica {index} has no gradient for variable {name}, which others have one for"
                )));
            };
            brought.push((accumulator, accumulator.brought(grad)?));
        }
        if grads.iter().filter(|(grad, _)| grad.is_some()).count() != brought.len() {
            return Err(Error::invalid(format!(
                "replica {index} has gradients for variables which others have none for"
            )));
        }
        // Pushed together, once all are there: the mutex is held shortly.
        let mut there = vec![step.op()];
        for (_, grad) in &brought {
            there.push(grad.values().op());
            if let Grad::Slices(s) = grad {
                there.push(s.indices.op());
            }
        }
        let ready = g.control_dependencies(&there);
        let at_mutex = g.colocate_with(&self.mutex.op())?;
        let lock = g.op("MutexLock").input(&self.mutex).output()?;
        drop(ready);
        let held = g.control_dependencies(&[lock.op()]);
        let mut pushed = Vec::with_capacity(brought.len() + 2);
        for (accumulator, grad) in &brought {
            pushed.push(accumulator.push(grad, step)?);
        }
        pushed.push(self.pushes.count(step)?);
        drop(held);
        let all = g.control_dependencies(&pushed);
        let arrived = self.arrivals.count(step)?;
        drop(all);
        let unlock = g.op("ConsumeMutexLock").input(&lock).control_input(&arrived).finish()?;
        drop(at_mutex);
        let waits = g.control_dependencies(&[unlock]);
        let over = gate.take(1)?.values().op();
        drop(waits);
        let follow = g.control_dependencies(&[over]);
        let train = local.assign(&self.global_step.read()?.cast(DType::I64)?)?;
        drop(follow);
        let init = local.assign(&self.global_step.read()?.cast(DType::I64)?)?;
        Ok(Replica { train, init })
    }

    /// The first half of the chief's part of a step: waits until enough replicas have pushed.
    pub fn enough(&self) -> &Operation {
        &self.enough
    }

    /// The second half: applies the means, and lets all replicas go on. It does not wait for replicas, and must not be
    /// cancelled: some of them would wait for ever.
    pub fn apply(&self) -> &Operation {
        &self.apply
    }

    /// Sets the accumulators to the global step; to be run by the chief before the first training.
    pub fn init(&self) -> &Operation {
        &self.init
    }

    /// Starts a thread that does the chief's part, step after step, until the coordinator stops.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the system has no more threads. Errors of steps are reported to the coordinator.
    pub fn start_chief(&self, session: &Session, coordinator: &Coordinator) -> Result<()> {
        let (session, this) = (session.clone(), self.clone());
        coordinator.spawn(&format!("{} chief", self.name), move |stop| {
            while !stop.should_stop() {
                // Asynchronous, because waiting for replicas is no stall however long they compute.
                let run = session.runner().target(&this.enough).cancel(stop.token()).run_async();
                match run.and_then(wait) {
                    // A step that has begun is finished whoever stops: replicas wait for its end.
                    Ok(_) => session.execute(&[&this.apply])?,
                    Err(e) if e.code() == Code::Cancelled && stop.should_stop() => return this.finish(&session),
                    Err(e) => return Err(e),
                }
            }
            this.finish(&session)
        })
    }

    /// Finishes the step for which enough replicas have pushed, if there is one: the wait for them may have been cancelled
    /// before or after it took note of it.
    fn finish(&self, session: &Session) -> Result<()> {
        let counts = session.run(&[], &[&self.pending[0], &self.pending[1]])?;
        let enough = |t: &Tensor| Ok::<bool, Error>(usize::try_from(t.to_i64()?).is_ok_and(|n| n >= self.aggregate));
        let (pushed, arrived) = match &counts[..] {
            [pushed, arrived] => (enough(pushed)?, enough(arrived)?),
            _ => return Err(Error::internal("a run gave fewer values than were fetched")),
        };
        if arrived {
            session.execute(&[&self.enough])?;
        }
        if pushed {
            session.execute(&[&self.apply])?;
        }
        Ok(())
    }
}
