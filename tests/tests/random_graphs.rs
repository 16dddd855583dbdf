//! Random small graphs of every registered operation, with random dtypes, shapes and values: no panic, no hang, no
//! allocation beyond the budget, and the session stays usable. Errors are fine; that is what most of them give.
#![forbid(unsafe_code)]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use actorflow::op::{ArgDef, ArgType, AttrDef, AttrKind, OpDef, registry};
use actorflow::{
    AttrValue, CancelToken, Code, DType, Error, Graph, Output, PartialShape, Passes, Session, SessionOptions, Tensor,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Bytes that a graph's tensors may take together.
const BUDGET: usize = 32 << 20;
/// Operations that touch files, sleep, print or end the program on purpose.
const LEFT_OUT: &[&str] = &[
    "Abort",
    "PrintV2",
    "Print",
    "Timestamp",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
];

/// A stream of small random numbers.
struct Dice(TestRunner);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Dice(TestRunner::new_with_rng(
            Config::default(),
            TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
        ))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0.rng().random_range(0..n.max(1))
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() {
            None
        } else {
            Some(&of[self.below(of.len())])
        }
    }

    fn shape(&mut self) -> Vec<usize> {
        let rank = self.below(5);
        (0..rank).map(|_| [0, 1, 1, 2, 2, 3, 4, 5][self.below(8)]).collect()
    }

    fn integer(&mut self) -> i64 {
        const ODD: [i64; 8] = [i64::MIN, i64::MAX, i32::MIN as i64, i32::MAX as i64, -1, 0, 1 << 40, -7];
        if self.below(12) == 0 {
            ODD[self.below(8)]
        } else {
            self.below(7) as i64 - 2
        }
    }

    fn tensor(&mut self, dtype: DType) -> Option<Tensor> {
        let shape = self.shape();
        let n: usize = shape.iter().product();
        let ints: Vec<i64> = (0..n).map(|_| self.integer()).collect();
        Some(match dtype {
            DType::Str => {
                let words = ["", "a", "3.5", "hello world", "\u{e9}", "-7", "x,y", "0x1F"];
                let v: Vec<String> = ints
                    .iter()
                    .map(|i| words[i.rem_euclid(8) as usize].to_owned())
                    .collect();
                Tensor::strings(shape, v).ok()?
            }
            DType::Bool => Tensor::from_slice(shape, &ints.iter().map(|i| i % 2 == 0).collect::<Vec<_>>()).ok()?,
            DType::Resource | DType::Variant => return None,
            DType::F32 => {
                let odd = [f32::NAN, f32::INFINITY, -0.0, 1e-40, 3e38];
                let v: Vec<f32> = ints
                    .iter()
                    .map(|i| {
                        if i.unsigned_abs() > 100 {
                            odd[(i.rem_euclid(5)) as usize]
                        } else {
                            *i as f32 * 0.7
                        }
                    })
                    .collect();
                Tensor::from_slice(shape, &v).ok()?
            }
            DType::I32 => Tensor::from_slice(shape, &ints.iter().map(|i| *i as i32).collect::<Vec<_>>()).ok()?,
            DType::I64 => Tensor::from_slice(shape, &ints).ok()?,
            d => {
                let bytes: Vec<u8> = ints
                    .iter()
                    .flat_map(|i| i.to_le_bytes().into_iter().cycle().take(d.size()))
                    .collect();
                Tensor::from_bytes(d, shape, &bytes).ok()?
            }
        })
    }
}

fn attribute(d: &mut Dice, a: &AttrDef) -> Option<AttrValue> {
    let one = |d: &mut Dice| -> Option<AttrValue> {
        Some(match a.kind {
            AttrKind::Str => match &a.strings {
                Some(all) => AttrValue::from(d.pick(all)?.as_str()),
                None => AttrValue::from(["", "SAME", "%d", "x"][d.below(4)]),
            },
            AttrKind::Int => AttrValue::Int(d.integer()),
            AttrKind::Float => AttrValue::Float([0.0, 1.0, -1.5, 0.25, f32::NAN][d.below(5)]),
            AttrKind::Bool => AttrValue::Bool(d.below(2) == 0),
            AttrKind::Type => AttrValue::Type(*d.pick(a.types.as_deref().unwrap_or(&DType::ALL))?),
            AttrKind::Shape => {
                let dims: Vec<Option<usize>> = d
                    .shape()
                    .into_iter()
                    .map(|n| if n == 3 { None } else { Some(n) })
                    .collect();
                AttrValue::Shape(PartialShape::new(dims))
            }
            AttrKind::Tensor => AttrValue::Tensor(d.tensor(DType::F32)?),
            AttrKind::Func => return None,
        })
    };
    if a.is_list {
        let n = d.below(4);
        return (0..n).map(|_| one(d)).collect::<Option<Vec<_>>>().map(AttrValue::List);
    }
    one(d)
}

/// Adds one node of `def` with random inputs, mostly of dtypes that fit.
fn add(d: &mut Dice, g: &Graph, def: &OpDef, pool: &mut Vec<Output>) {
    let mut b = g.op(def.name());
    let mut chosen: Vec<(String, DType)> = Vec::new();
    for a in def.attrs() {
        let inferred = a.kind == AttrKind::Type
            && !a.is_list
            && def.inputs().iter().any(|i| i.ty == ArgType::Attr(a.name.clone()));
        if inferred {
            // Decided here, so that the inputs agree.
            if let Some(t) = d.pick(a.types.as_deref().unwrap_or(&DType::ALL)) {
                chosen.push((a.name.clone(), *t));
            }
        } else if (a.default.is_none() || d.below(3) == 0)
            && let Some(v) = attribute(d, a)
            && a.check(&v).is_ok()
            && !def
                .inputs()
                .iter()
                .any(|i| i.number.as_deref() == Some(&a.name) || i.ty == ArgType::TypeList(a.name.clone()))
        {
            b = b.attr(&a.name, v);
        }
    }
    let mut input = |d: &mut Dice, arg: &ArgDef| -> Option<Output> {
        let want = match &arg.ty {
            ArgType::Fixed(t) => *t,
            ArgType::Attr(a) => chosen.iter().find(|(n, _)| n == a)?.1,
            ArgType::TypeList(_) => *d.pick(&DType::ALL)?,
        };
        let fits: Vec<Output> = pool
            .iter()
            .filter(|o| o.dtype() == want && (!arg.is_ref || o.is_ref()))
            .cloned()
            .collect();
        if !fits.is_empty() && d.below(3) > 0 {
            return d.pick(&fits).cloned();
        }
        let made = g.constant(d.tensor(want)?).ok()?;
        pool.push(made.clone());
        Some(made)
    };
    for arg in def.inputs() {
        if arg.is_list() {
            let n = d.below(4);
            let Some(list) = (0..n).map(|_| input(d, arg)).collect::<Option<Vec<_>>>() else {
                return;
            };
            b = b.input_list(&list);
        } else {
            let Some(x) = input(d, arg) else { return };
            b = b.input(&x);
        }
    }
    if let Ok(op) = b.finish() {
        pool.extend(op.outputs());
    }
}

/// A run without a deadline, which the session ends by itself when nothing can wake it; cancelled if that fails.
fn fetched(s: &Session, o: &Output) -> actorflow::Result<Vec<Tensor>> {
    let cancel = CancelToken::new();
    let (done, over) = channel::<()>();
    std::thread::scope(|scope| {
        let token = cancel.clone();
        scope.spawn(move || {
            if over.recv_timeout(Duration::from_secs(5)) == Err(RecvTimeoutError::Timeout) {
                token.cancel(Error::deadline("the run did not finish"));
            }
        });
        let got = s.runner().fetch(o).cancel(&cancel).run();
        drop(done);
        got
    })
}

/// Builds and runs one graph; what is wrong, if anything.
fn one_graph(seed: u64) -> Result<(), String> {
    let mut d = Dice::new(seed);
    let ops: Vec<&OpDef> = registry()
        .iter()
        .filter(|o| !LEFT_OUT.contains(&o.name()) && !o.name().starts_with('_'))
        .collect();
    let g = Graph::new();
    let mut pool = Vec::new();
    for _ in 0..12 {
        if let Some(def) = d.pick(&ops) {
            add(&mut d, &g, def, &mut pool);
        }
    }
    let passes = if d.below(2) == 0 { Passes::ALL } else { Passes::NONE };
    let options = SessionOptions {
        memory_budget: BUDGET,
        passes,
        stall_timeout: Duration::from_millis(100),
        ..SessionOptions::with_threads(1 + d.below(2))
    };
    let s = Session::with_options(&g, options).expect("a session");
    for o in pool
        .iter()
        .filter(|o| !matches!(o.dtype(), DType::Resource | DType::Variant))
    {
        if let Err(e) = fetched(&s, o) {
            let panicked = e.code() == Code::Internal && e.message().contains("panicked");
            let hung = e.code() == Code::DeadlineExceeded && e.message().contains("did not finish");
            if panicked || hung {
                return Err(e.to_string());
            }
        }
        let peak = s.device().pool().stats().peak;
        if peak > BUDGET {
            return Err(format!("{peak} bytes were in use after fetching {}", o.name()));
        }
    }
    let fine = g
        .constant(1f32)
        .and_then(|c| s.run(&[], &[&c]))
        .expect("the session is still usable");
    match fine[0].to_scalar::<f32>() {
        Ok(1.0) => Ok(()),
        other => Err(format!("the session is not usable afterwards: {other:?}")),
    }
}

#[test]
fn random_graphs_neither_panic_nor_hang_nor_exceed_the_budget() {
    actorflow::Session::new(&Graph::new()).expect("operations are registered well");
    let setting = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let first = setting("ACTORFLOW_RANDOM_FIRST", 0);
    let count = setting("ACTORFLOW_RANDOM_GRAPHS", 1500);
    let mut failures = Vec::new();
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(|| one_graph(seed));
        let what = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(what)) => what,
            Err(panic) => format!("building the graph panicked: {:?}", panic.downcast_ref::<String>()),
        };
        failures.push(format!("seed {seed}: {what}"));
        if failures.len() == 25 {
            break;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
