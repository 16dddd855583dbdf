//! What firing a node costs, and an iteration of a loop. The same graphs as the peers' `dispatch.py`, optimisation passes off.

use actorflow::flow::{WhileOptions, while_loop};
use actorflow::{DType, Graph, GraphVariables, Operation, Output, PartialShape, Passes, Result, Session, Tensor};

use crate::measure::Settings;
use crate::report::Report;

const N: usize = 10_000;
const NOTE: &str = "passes off; prepared callable";

fn session(g: &Graph, m: &Settings) -> Result<Session> {
    let s = Session::with_options(
        g,
        actorflow::SessionOptions {
            passes: Passes::NONE,
            ..m.session()
        },
    )?;
    s.execute(&[&g.global_variables_initializer()?])?;
    Ok(s)
}

fn per_op(name: &str, ops: usize, g: &Graph, target: &Operation, m: &Settings, out: &mut Report) -> Result<()> {
    let s = session(g, m)?;
    let c = s.callable(&[], &[], &[target])?;
    let rates = m.rates(|| c.call(&[]).map(drop))?;
    let ns: Vec<f64> = rates.iter().map(|r| 1e9 / (r * ops as f64)).collect();
    out.row(name, m.threads, &ns, "ns/op", NOTE)
}

fn variable(g: &Graph, name: &str) -> Result<Output> {
    Ok(g.variable_builder(name).reference().build(1.0f32)?.handle().clone())
}

fn adds(n: usize) -> Result<(Graph, Operation)> {
    let g = Graph::new();
    let x = variable(&g, "x")?;
    let one = g.constant(1e-6f32)?;
    let mut y = x.plus(&one)?;
    for _ in 1..n {
        y = y.plus(&one)?;
    }
    let op = y.op();
    Ok((g, op))
}

fn identities() -> Result<(Graph, Operation)> {
    let g = Graph::new();
    let mut y = variable(&g, "x")?;
    for _ in 0..N {
        y = y.identity()?;
    }
    let op = y.op();
    Ok((g, op))
}

fn grid() -> Result<(Graph, Operation)> {
    let g = Graph::new();
    let mut row = (0..100)
        .map(|i| variable(&g, &format!("v{i}")))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..100 {
        row = (0..100)
            .map(|i| row[i].plus(&row[(i + 1) % 100]))
            .collect::<Result<Vec<_>>>()?;
    }
    let ops: Vec<Operation> = row.iter().map(Output::op).collect();
    let target = g.group("all", &ops)?;
    Ok((g, target))
}

fn no_ops() -> Result<(Graph, Operation)> {
    let g = Graph::new();
    let ops = (0..N).map(|_| g.op("NoOp").finish()).collect::<Result<Vec<_>>>()?;
    let target = g.group("all", &ops)?;
    Ok((g, target))
}

fn latency(m: &Settings, out: &mut Report) -> Result<()> {
    let g = Graph::new();
    let nop = g.op("NoOp").finish()?;
    let p = g.placeholder("p", DType::F32, PartialShape::scalar())?;
    let y = (&p + 1.0)?;
    let v = g.variable("v", 1.0f32)?;
    let s = session(&g, m)?;
    let us = |rates: Vec<f64>| rates.into_iter().map(|r| 1e6 / r).collect::<Vec<_>>();
    if out.wants("run_noop_callable") {
        let c = s.callable(&[], &[], &[&nop])?;
        out.row(
            "run_noop_callable",
            m.threads,
            &us(m.rates(|| c.call(&[]).map(drop))?),
            "us/call",
            NOTE,
        )?;
    }
    if out.wants("run_fetch_scalar_callable") {
        let c = s.callable(&[], &[v.value()], &[])?;
        out.row(
            "run_fetch_scalar_callable",
            m.threads,
            &us(m.rates(|| c.call(&[]).map(drop))?),
            "us/call",
            NOTE,
        )?;
    }
    if out.wants("run_feed_fetch_scalar_callable") {
        let c = s.callable(&[&p], &[&y], &[])?;
        let rates = m.rates(|| c.call(&[Tensor::scalar(1.0f32)]).map(drop))?;
        out.row("run_feed_fetch_scalar_callable", m.threads, &us(rates), "us/call", NOTE)?;
    }
    if out.wants("run_noop_session_run") {
        out.row(
            "run_noop_session_run",
            m.threads,
            &us(m.rates(|| s.execute(&[&nop]))?),
            "us/call",
            "passes off",
        )?;
    }
    if out.wants("run_feed_fetch_scalar_session_run") {
        let rates = m.rates(|| s.run(&[(&p, Tensor::scalar(1.0f32))], &[&y]).map(drop))?;
        out.row(
            "run_feed_fetch_scalar_session_run",
            m.threads,
            &us(rates),
            "us/call",
            "passes off",
        )?;
    }
    Ok(())
}

/// Iterations of a loop that counts, a second.
fn counting(m: &Settings, out: &mut Report) -> Result<()> {
    const ITERATIONS: i32 = 20_000;
    for parallel_iterations in [1, 10] {
        let g = Graph::new();
        let n = g.placeholder("n", DType::I32, PartialShape::scalar())?;
        let options = WhileOptions {
            parallel_iterations,
            ..WhileOptions::default()
        };
        let count = while_loop(
            &[g.constant(0i32)?],
            |v| v[0].less(&n),
            |v| Ok(vec![(&v[0] + 1)?]),
            options,
        )?;
        let s = session(&g, m)?;
        let c = s.callable(&[&n], &[&count[0]], &[])?;
        let feed = [Tensor::scalar(ITERATIONS)];
        let rates = m.rates(|| c.call(&feed).map(drop))?;
        let rates: Vec<f64> = rates.into_iter().map(|r| r * f64::from(ITERATIONS)).collect();
        let note = format!("parallel_iterations={parallel_iterations}; {NOTE}");
        out.row("while_counter", m.threads, &rates, "iter/s", &note)?;
    }
    Ok(())
}

type Subject = (&'static str, usize, fn() -> Result<(Graph, Operation)>);

/// Measures everything of this subject.
///
/// # Errors
/// If a graph cannot be built or run.
pub(crate) fn run(m: &Settings, out: &mut Report) -> Result<()> {
    let subjects: [Subject; 5] = [
        ("wide_noop_10k", N + 1, no_ops),
        ("chain_identity_10k", N, identities),
        ("chain_add_10k", N, || adds(N)),
        ("chain_add_1k", 1000, || adds(1000)),
        ("grid_add_100x100", N, grid),
    ];
    for (name, ops, build) in subjects {
        if out.wants(name) {
            let (g, target) = build()?;
            per_op(name, ops, &g, &target, m, out)?;
        }
    }
    if out.wants("while_counter") {
        counting(m, out)?;
    }
    latency(m, out)
}
