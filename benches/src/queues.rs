//! Queue elements and mutexes handed over a second. The same graphs as the peers' `fifo_queue.py`.

use actorflow::queue::{Queue, QueueKind};
use actorflow::{DType, Graph, GraphVariables, Operation, Output, PartialShape, Passes, Result, Session, Tensor};

use crate::measure::Settings;
use crate::report::Report;

/// Pairs in a run.
const PAIRS: usize = 1000;
/// Elements that the queue holds.
const CAPACITY: usize = 100;

/// A graph with a queue of float32 elements of one shape, and a variable that holds such an element.
struct Setup {
    graph: Graph,
    queue: Queue,
    value: Output,
}

impl Setup {
    fn new(shape: &[usize]) -> Result<Setup> {
        let graph = Graph::new();
        let element = [(DType::F32, PartialShape::from(shape))];
        let queue = Queue::builder(&graph, QueueKind::Fifo, &element)
            .capacity(CAPACITY)
            .build()?;
        let size: usize = shape.iter().product();
        let ones = Tensor::from_slice(shape, &vec![1f32; size])?;
        let value = graph.variable_builder("value").reference().build(ones)?.value().clone();
        Ok(Setup { graph, queue, value })
    }

    fn enqueue(&self) -> Result<Operation> {
        self.queue.enqueue(std::slice::from_ref(&self.value))
    }

    fn dequeue(&self) -> Result<(Operation, Output)> {
        let element = self.queue.dequeue()?.remove(0);
        Ok((element.op(), element))
    }

    fn session(&self, m: &Settings) -> Result<Session> {
        session(&self.graph, m)
    }
}

fn session(g: &Graph, m: &Settings) -> Result<Session> {
    let options = actorflow::SessionOptions {
        passes: Passes::NONE,
        ..m.session()
    };
    let s = Session::with_options(g, options)?;
    s.execute(&[&g.global_variables_initializer()?])?;
    Ok(s)
}

/// Operations made by `make`, each after the one before; the last of them.
fn chain(g: &Graph, mut make: impl FnMut() -> Result<Operation>) -> Result<Operation> {
    let mut last = make()?;
    for _ in 1..PAIRS {
        let _after = g.control_dependencies(&[last]);
        last = make()?;
    }
    Ok(last)
}

/// Calls of `target` a second, each for all pairs.
fn pairs(s: &Session, target: &Operation, m: &Settings) -> Result<Vec<f64>> {
    let c = s.callable(&[], &[], &[target])?;
    let rates = m.rates(|| c.call(&[]).map(drop))?;
    Ok(rates.into_iter().map(|r| r * PAIRS as f64).collect())
}

fn fifo(bench: &str, shape: &[usize], m: &Settings, out: &mut Report) -> Result<()> {
    let setup = Setup::new(shape)?;
    let last = chain(&setup.graph, || {
        let put = setup.enqueue()?;
        let _after = setup.graph.control_dependencies(&[put]);
        Ok(setup.dequeue()?.0)
    })?;
    let rates = pairs(&setup.session(m)?, &last, m)?;
    let note = format!("{PAIRS} enqueue+dequeue pairs in one run");
    out.row(bench, m.threads, &rates, "pairs/s", &note)?;

    let setup = Setup::new(shape)?;
    let p = setup.graph.placeholder("p", DType::F32, PartialShape::from(shape))?;
    let put = setup.enqueue()?;
    let put_fed = setup.queue.enqueue(std::slice::from_ref(&p))?;
    let (take, element) = setup.dequeue()?;
    let s = setup.session(m)?;
    let (put, take) = (s.callable(&[], &[], &[&put])?, s.callable(&[], &[], &[&take])?);
    let rates = m.rates(|| {
        put.call(&[])?;
        take.call(&[]).map(drop)
    })?;
    let note = "one callable per enqueue and per dequeue, no feed or fetch";
    out.row(bench, m.threads, &rates, "pairs/s", note)?;
    let (put, take) = (s.callable(&[&p], &[], &[&put_fed])?, s.callable(&[], &[&element], &[])?);
    let size: usize = shape.iter().product();
    let ones = Tensor::from_slice(shape, &vec![1f32; size])?;
    let rates = m.rates(|| {
        put.call(std::slice::from_ref(&ones))?;
        take.call(&[]).map(drop)
    })?;
    out.row(
        bench,
        m.threads,
        &rates,
        "pairs/s",
        "one callable each, a tensor fed and fetched",
    )?;

    let setup = Setup::new(shape)?;
    let producer = chain(&setup.graph, || setup.enqueue())?;
    let consumer = chain(&setup.graph, || Ok(setup.dequeue()?.0))?;
    let both = setup.graph.group("both", &[producer, consumer])?;
    let rates = pairs(&setup.session(m)?, &both, m)?;
    let note = format!("two parallel chains (producer, consumer) of {PAIRS} in one run, capacity {CAPACITY}");
    out.row(bench, m.threads, &rates, "pairs/s", &note)?;
    Ok(())
}

fn mutex(bench: &str, m: &Settings, out: &mut Report) -> Result<()> {
    let g = Graph::new();
    let mutex = g.op("MutexV2").output()?;
    let last = chain(&g, || {
        let lock = g.op("MutexLock").input(&mutex).output()?;
        g.op("ConsumeMutexLock").input(&lock).finish()
    })?;
    let rates = pairs(&session(&g, m)?, &last, m)?;
    let note = format!("{PAIRS} MutexLock+ConsumeMutexLock in one run");
    out.row(bench, m.threads, &rates, "pairs/s", &note)?;
    Ok(())
}

/// Measures everything of this subject.
///
/// # Errors
/// If a graph cannot be built or run.
pub(crate) fn run(m: &Settings, out: &mut Report) -> Result<()> {
    for (bench, shape) in [("fifo_pair_scalar", &[][..]), ("fifo_pair_128x784", &[128, 784][..])] {
        if out.wants(bench) {
            fifo(bench, shape, m, out)?;
        }
    }
    if out.wants("mutex_lock_release") {
        mutex("mutex_lock_release", m, out)?;
    }
    Ok(())
}
