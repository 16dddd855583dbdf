//! Random nodes with random inputs: whatever they are given, operations answer with a result or a proper error.
//!
//! Every operation of the families below is built many times with random attributes, dtypes, shapes and values, most
//! of them wrong. None may panic, report an internal error, exceed the memory budget, or give a tensor that its shape
//! function did not promise.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actorflow_core::kernel::HostDevice;
use actorflow_core::op::{ArgType, AttrDef, AttrKind, Category, OpDef, registry};
use actorflow_core::philox::Philox;
use actorflow_core::{AttrValue, Attrs, Code, DType, Graph, Output, PartialShape, Result, Tensor, dispatch};
use actorflow_kernels::testing::Interpreter;

/// The families that are tried.
const FAMILIES: [Category; 3] = [Category::Array, Category::String, Category::Sparse];

/// Operations that write somewhere or wait for a feed.
const NOT: [&str; 4] = ["Const", "Placeholder", "PlaceholderV2", "PrintV2"];

struct Dice(Philox);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0.next_block()[0] as usize % n.max(1)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn shape(&mut self) -> Vec<usize> {
        let rank = *self.pick(&[0, 0, 1, 1, 1, 2, 2, 3, 4]);
        (0..rank).map(|_| *self.pick(&[0, 1, 1, 2, 2, 3, 4])).collect()
    }

    fn integer(&mut self) -> i64 {
        match self.below(40) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => i64::from(i32::MAX),
            3 => i64::from(i32::MIN),
            4 => 1 << 40,
            _ => self.below(8) as i64 - 2,
        }
    }

    fn text(&mut self) -> String {
        (*self.pick(&[
            "",
            "a",
            "b,c",
            " x y ",
            "é世",
            "12",
            "-1.5",
            "YWJj",
            "[",
            "a.*",
            "\\1",
            "farmhash64",
        ]))
        .to_owned()
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        if dtype == DType::Str {
            return Tensor::strings(shape, (0..n).map(|_| self.text()).collect::<Vec<_>>());
        }
        let values: Vec<i64> = (0..n).map(|_| self.integer()).collect();
        let mut bytes = Vec::new();
        dispatch!(dtype, T in [I8, I16, I32, I64, U8, U16, U32, U64] => {
            values.iter().for_each(|v| bytes.extend_from_slice(&(*v as T).to_ne_bytes()));
        }, else match dtype {
            DType::Bool => values.iter().for_each(|v| bytes.push((*v & 1) as u8)),
            DType::F32 => values.iter().for_each(|v| bytes.extend_from_slice(&(*v as f32).to_ne_bytes())),
            DType::F64 => values.iter().for_each(|v| bytes.extend_from_slice(&(*v as f64).to_ne_bytes())),
            _ => bytes.resize(n * dtype.size(), 0),
        });
        Tensor::from_bytes(dtype, shape, &bytes)
    }

    fn dtype(&mut self, def: &AttrDef) -> DType {
        match &def.types {
            Some(allowed) => *self.pick(allowed),
            None => *self.pick(&[
                DType::F32,
                DType::I32,
                DType::Str,
                DType::Bool,
                DType::I64,
                DType::C128,
                DType::F16,
            ]),
        }
    }

    fn attr(&mut self, def: &AttrDef) -> Option<AttrValue> {
        if def.default.is_some() && self.below(2) == 0 {
            return None;
        }
        if def.is_list {
            let n = def.minimum.unwrap_or(0).max(0) as usize + self.below(3);
            let one = AttrDef {
                is_list: false,
                default: None,
                minimum: None,
                ..def.clone()
            };
            return Some(AttrValue::List((0..n).filter_map(|_| self.attr(&one)).collect()));
        }
        Some(match def.kind {
            AttrKind::Str => match &def.strings {
                Some(allowed) => self.pick(allowed).clone().into(),
                None => self.text().into(),
            },
            AttrKind::Int => match def.minimum {
                Some(m) => (m + self.below(4) as i64).into(),
                None => self.integer().into(),
            },
            AttrKind::Float => (self.below(9) as f32 - 4.0).into(),
            AttrKind::Bool => (self.below(2) == 0).into(),
            AttrKind::Type => self.dtype(def).into(),
            AttrKind::Shape => match self.below(3) {
                0 => PartialShape::UNKNOWN.into(),
                _ => PartialShape::new(self.shape().iter().map(|d| (*d > 1).then_some(*d)).collect::<Vec<_>>()).into(),
            },
            AttrKind::Tensor | AttrKind::Func => return None,
        })
    }
}

/// An input: a constant, or the same hidden from shape functions.
fn input(g: &Graph, dice: &mut Dice, dtype: DType, shape: &[usize]) -> Result<Output> {
    let c = g.constant(dice.tensor(dtype, shape)?)?;
    if dice.below(2) == 0 {
        return Ok(c);
    }
    let shape = match dice.below(2) {
        0 => PartialShape::UNKNOWN,
        _ => PartialShape::of_rank(shape.len()),
    };
    g.op("PlaceholderWithDefault").input(&c).attr("shape", shape).output()
}

/// Builds and runs one random node.
fn attempt(def: &OpDef, dice: &mut Dice) -> Result<()> {
    let g = Graph::new();
    let mut attrs = Attrs::new();
    for a in def.attrs() {
        if let Some(v) = dice.attr(a) {
            attrs.set(a.name.clone(), v);
        }
    }
    let mut all = attrs.clone();
    def.fill_defaults(&mut all);
    let mut b = g.op(def.name()).attrs(&attrs);
    // Many operations want equal shapes.
    let common = dice.shape();
    for arg in def.inputs() {
        let dtypes = match &arg.ty {
            ArgType::Fixed(d) => vec![*d],
            ArgType::Attr(name) | ArgType::TypeList(name) => match all.get(name) {
                Some(AttrValue::Type(d)) => vec![*d],
                Some(AttrValue::List(l)) => l
                    .iter()
                    .filter_map(|t| if let AttrValue::Type(d) = t { Some(*d) } else { None })
                    .collect(),
                _ => return Ok(()),
            },
        };
        let is_list = arg.is_list() || matches!(&arg.ty, ArgType::Attr(n) if all.dtypes(n).is_ok());
        let dtypes = match &arg.number {
            Some(n) => vec![dtypes[0]; usize::try_from(all.int(n)?).unwrap_or(0)],
            None => dtypes,
        };
        let mut outs = Vec::new();
        for d in dtypes {
            let shape = if dice.below(2) == 0 {
                common.clone()
            } else {
                dice.shape()
            };
            outs.push(input(&g, dice, d, &shape)?);
        }
        b = if is_list {
            b.input_list(&outs)
        } else {
            b.input(&outs[0])
        };
    }
    let op = b.finish()?;
    let run = Interpreter::on(Arc::new(HostDevice::with_budget(16 << 20)));
    run.run(&op.outputs(), std::slice::from_ref(&op), &[])?;
    Ok(())
}

#[test]
fn random_nodes_give_results_or_proper_errors() {
    actorflow_kernels::link();
    std::panic::set_hook(Box::new(|_| {}));
    let mut failures = Vec::new();
    let mut succeeded = 0;
    let defs: Vec<_> = registry().iter().filter(|d| FAMILIES.contains(&d.category())).collect();
    for (k, def) in defs.into_iter().enumerate() {
        if NOT.contains(&def.name()) || def.cpu_kernel().is_none() || def.inputs().iter().any(|a| a.is_ref) {
            continue;
        }
        for seed in 0..rounds() {
            let mut dice = Dice(Philox::new(seed, k as u64));
            let what = match catch_unwind(AssertUnwindSafe(|| attempt(def, &mut dice))) {
                Ok(Ok(())) => {
                    succeeded += 1;
                    continue;
                }
                Ok(Err(e)) if e.code() != Code::Internal => continue,
                Ok(Err(e)) => e.to_string(),
                Err(p) => {
                    let text = p.downcast_ref::<String>().cloned();
                    let text = text.or(p.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                    format!("panicked: {}", text.unwrap_or_default())
                }
            };
            failures.push(format!("{} seed {seed}: {what}", def.name()));
            break;
        }
    }
    let _ = std::panic::take_hook();
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(succeeded > 1000, "only {succeeded} random nodes were right");
}

/// Tries for each operation; `ACTORFLOW_RANDOM_NODES` asks for more.
fn rounds() -> u64 {
    std::env::var("ACTORFLOW_RANDOM_NODES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(300)
}
