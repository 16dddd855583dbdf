//! Programs of element-wise functions: chains and trees of them, run block by block, so that intermediate results
//! never leave the cache.
#![forbid(unsafe_code)]

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::{DType, Shape, Tensor};
use smallvec::SmallVec;

use super::block::{Block, BlockFn};
use super::plan::Plan;
use crate::spread::{self, GRAIN};

/// Where an operand of a step comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// An input of the program.
    Input(usize),
    /// The result of an earlier step.
    Step(usize),
}

/// How the operands of a step of two meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// They broadcast.
    Broadcast,
    /// They must have one shape.
    Same,
    /// The second is a vector along the last dimension of the first.
    Bias,
}

/// One function applied.
#[derive(Clone)]
pub struct Step {
    /// The function.
    pub function: BlockFn,
    /// Its operands, as many as it has.
    pub operands: SmallVec<[Operand; 2]>,
    /// How they meet.
    pub meeting: Meeting,
}

/// Steps in order, the last of which gives the result. Operands and results have one dtype, float32 or float64.
pub struct Program {
    dtype: DType,
    inputs: usize,
    steps: Vec<Step>,
    /// Where each step's result is kept; the last one's is the output.
    register: Vec<usize>,
    registers: usize,
    /// What an element costs, in cheap operations.
    weight: usize,
}

/// How a value relates to the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It has one element.
    One,
    /// It has an element for each of the result's.
    Full,
    /// It is broadcast along some dimensions.
    Part,
}

/// How the shapes of one run fit.
struct Fit {
    shape: Shape,
    inputs: SmallVec<[Class; 8]>,
    steps: SmallVec<[Class; 16]>,
}

/// Elements in a block: a few blocks lie in the first-level cache together, and calling a function costs little beside
/// applying it to so many.
const BLOCK: usize = 2048;

/// What a function like `exp` costs, in cheap operations.
const HEAVY: usize = 8;

impl Program {
    /// A program of these steps.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is no step, an operand is not there, or dtypes differ.
    pub fn new(dtype: DType, inputs: usize, steps: Vec<Step>) -> Result<Program> {
        let fits = |i: usize, o: &Operand| match *o {
            Operand::Input(k) => k < inputs,
            Operand::Step(j) => j < i,
        };
        let well_formed = |(i, s): (usize, &Step)| {
            s.function.dtype() == dtype
                && s.operands.len() == s.function.arity()
                && s.operands.iter().all(|o| fits(i, o))
                && (s.operands.len() == 2 || s.meeting == Meeting::Broadcast)
        };
        if steps.is_empty() || !steps.iter().enumerate().all(well_formed) {
            return Err(Error::invalid("a program of element-wise functions is malformed"));
        }
        let mut last_use = vec![0; steps.len()];
        for (i, s) in steps.iter().enumerate() {
            for o in &s.operands {
                if let Operand::Step(j) = *o {
                    last_use[j] = i;
                }
            }
        }
        // A register is free once the last step that reads it is done, so that no step writes what it reads.
        let (mut register, mut free, mut registers) = (Vec::new(), Vec::new(), 0);
        for i in 0..steps.len() {
            register.push(free.pop().unwrap_or_else(|| {
                registers += 1;
                registers - 1
            }));
            free.extend((0..i).filter(|j| last_use[*j] == i).map(|j| register[j]));
        }
        let weight = |s: &Step| if s.function.is_light() { 1 } else { HEAVY };
        Ok(Program {
            dtype,
            inputs,
            weight: steps.iter().map(weight).sum(),
            steps,
            register,
            registers,
        })
    }

    /// Runs the program over the node's inputs and sets output 0. False, without any effect, if the shapes do not suit
    /// a run in blocks (a step's result is neither one element nor as large as the program's): then the steps must be
    /// applied one by one, which also finds out what is wrong if the shapes do not fit at all.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is no memory for the result.
    pub fn run(&self, cx: &mut OpContext<'_>) -> Result<bool> {
        match self.dtype {
            DType::F64 => self.run_as::<f64>(cx),
            _ => self.run_as::<f32>(cx),
        }
    }

    fn run_as<T: Element>(&self, cx: &mut OpContext<'_>) -> Result<bool> {
        if cx.num_inputs() != self.inputs {
            return Err(Error::internal("a program has other inputs than its node"));
        }
        let Some(fit) = self.fit(cx)? else { return Ok(false) };
        let mut first: SmallVec<[T; 8]> = SmallVec::new();
        for (i, class) in fit.inputs.iter().enumerate() {
            let x = cx.slice::<T>(i)?;
            first.push(match (class, x) {
                (Class::One, [x, ..]) => *x,
                _ => T::default(),
            });
        }
        let mut ones: SmallVec<[T; 16]> = SmallVec::new();
        for (step, class) in self.steps.iter().zip(&fit.steps) {
            ones.push(match class {
                Class::One => step.one(|o| match o {
                    Operand::Input(k) => first[k],
                    Operand::Step(j) => ones[j],
                }),
                _ => T::default(),
            });
        }
        let y = if fit.shape.is_scalar() {
            Tensor::scalar(ones.last().copied().unwrap_or_default())
        } else {
            self.run_blocks(cx, &fit, &first, &ones)?
        };
        cx.set_output(0, y);
        Ok(true)
    }

    /// How the inputs' shapes fit.
    fn fit(&self, cx: &OpContext<'_>) -> Result<Option<Fit>> {
        let mut common: Option<&Shape> = None;
        for i in 0..self.inputs {
            let s = cx.input(i)?.shape();
            if s.is_scalar() || common.is_some_and(|c| c == s) {
                continue;
            }
            if common.replace(s).is_some() {
                return self.fit_broadcast(cx);
            }
        }
        // Scalars, and tensors of one shape.
        let shape = common.cloned().unwrap_or(Shape::SCALAR);
        let large = if shape.is_scalar() { Class::One } else { Class::Full };
        let mut inputs: SmallVec<[Class; 8]> = SmallVec::new();
        for i in 0..self.inputs {
            let scalar = cx.input(i)?.shape().is_scalar();
            inputs.push(if scalar { Class::One } else { large });
        }
        let mut steps: SmallVec<[Class; 16]> = SmallVec::new();
        for step in &self.steps {
            let mut operands = step.operands.iter().map(|o| match *o {
                Operand::Input(k) => inputs[k],
                Operand::Step(j) => steps[j],
            });
            let (a, b) = (operands.next().unwrap_or(large), operands.next());
            let b = b.unwrap_or(a);
            if step.meeting == Meeting::Bias || step.meeting == Meeting::Same && a != b {
                return Ok(None);
            }
            steps.push(if a == Class::One { b } else { a });
        }
        // Every input is used, unless the program was made otherwise; then the result may be smaller than they are.
        Ok((steps.last() == Some(&large)).then_some(Fit { shape, inputs, steps }))
    }

    #[cold]
    fn fit_broadcast(&self, cx: &OpContext<'_>) -> Result<Option<Fit>> {
        let inputs = (0..self.inputs)
            .map(|i| cx.input(i).map(Tensor::shape))
            .collect::<Result<Vec<_>>>()?;
        let mut steps: Vec<Shape> = Vec::new();
        for step in &self.steps {
            let shape = |o: &Operand| match *o {
                Operand::Input(k) => inputs[k],
                Operand::Step(j) => &steps[j],
            };
            let result = match (&step.operands[..], step.meeting) {
                ([x], _) => Some(shape(x).clone()),
                ([a, b], Meeting::Same) => (shape(a) == shape(b)).then(|| shape(a).clone()),
                ([a, b], Meeting::Bias) => {
                    let (a, b) = (shape(a), shape(b));
                    let fits = a.rank() >= 2 && b.rank() == 1 && a.last() == b.last();
                    fits.then(|| a.clone())
                }
                ([a, b], Meeting::Broadcast) => Shape::broadcast(shape(a), shape(b)).ok(),
                _ => None,
            };
            match result {
                Some(s) => steps.push(s),
                None => return Ok(None),
            }
        }
        let Some(shape) = steps.last().cloned() else {
            return Ok(None);
        };
        let count = shape.count();
        let class = |s: &Shape| match s.count() {
            n if n == count => Class::Full,
            1 => Class::One,
            _ => Class::Part,
        };
        let steps: SmallVec<[Class; 16]> = steps.iter().map(class).collect();
        Ok((!steps.contains(&Class::Part)).then(|| Fit {
            inputs: inputs.iter().map(|s| class(s)).collect(),
            shape,
            steps,
        }))
    }

    fn run_blocks<T: Element>(&self, cx: &mut OpContext<'_>, fit: &Fit, first: &[T], ones: &[T]) -> Result<Tensor> {
        let full = |i: &usize| fit.inputs[*i] == Class::Full;
        let free = |i: &usize| {
            let t = cx.input_if_live(*i);
            t.is_some_and(|t| t.is_unique() && t.shape() == &fit.shape)
        };
        let (mut out, reused) = match (0..self.inputs).filter(full).find(free) {
            Some(i) => {
                let (t, reused) = cx.reuse_or_alloc(i, self.dtype, &fit.shape)?;
                (t, reused.then_some(i))
            }
            None => (cx.alloc(self.dtype, &fit.shape)?, None),
        };
        let mut block = BLOCK.min(fit.shape.count().max(1));
        let mut views: SmallVec<[View<'_, T>; 8]> = SmallVec::new();
        for (i, class) in fit.inputs.iter().enumerate() {
            views.push(match class {
                Class::One => View::One(first[i]),
                Class::Full if reused == Some(i) => View::Result,
                Class::Full => View::Full(cx.slice::<T>(i)?),
                Class::Part => {
                    let (_, plan) = Plan::new([&fit.shape, cx.input(i)?.shape()])?;
                    // Whole periods in a block, so that the elements are written out once.
                    let period = plan.dims.first().map_or(1, |d| d.len);
                    if plan.is_periodic(1) && period <= block {
                        block = block / period * period;
                    }
                    View::Part(cx.slice::<T>(i)?, plan)
                }
            });
        }
        // Blocks whose periods do not agree are written out every time.
        let periodic = |v: &View<'_, T>| match v {
            View::Part(_, p) => p.is_periodic(1) && p.dims.first().is_some_and(|d| block.is_multiple_of(d.len)),
            _ => false,
        };
        let writes_once: SmallVec<[bool; 8]> = views.iter().map(periodic).collect();
        let elements = out
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        let chunk = (GRAIN / self.weight).max(4 * BLOCK).div_ceil(block) * block;
        spread::chunks(cx.parallel(), elements, chunk, |i, chunk_of_result| {
            let mut bench = Bench {
                registers: vec![Vec::new(); self.registers],
                parts: vec![Vec::new(); self.inputs],
            };
            for (j, y) in chunk_of_result.chunks_mut(block).enumerate() {
                let at = i * chunk + j * block;
                for ((part, view), once) in bench.parts.iter_mut().zip(&views).zip(&writes_once) {
                    if let View::Part(from, plan) = view
                        && !(*once && part.len() >= y.len())
                    {
                        write_out(plan, from, at, y.len(), part);
                    }
                }
                self.run_block(&mut bench, &views, fit, ones, at, y);
            }
        });
        Ok(out)
    }

    fn run_block<T: Element>(
        &self,
        bench: &mut Bench<T>,
        views: &[View<'_, T>],
        fit: &Fit,
        ones: &[T],
        at: usize,
        y: &mut [T],
    ) {
        let n = y.len();
        let last = self.steps.len() - 1;
        for (i, step) in self.steps.iter().enumerate() {
            if i < last && fit.steps[i] == Class::One {
                continue;
            }
            let mut to = match i < last {
                true => std::mem::take(&mut bench.registers[self.register[i]]),
                false => Vec::new(),
            };
            let place = Place {
                program: self,
                bench,
                views,
                fit,
                ones,
                at,
                n,
            };
            if i < last {
                to.resize(n.max(to.len()), T::default());
                step.apply(|o| place.block(*o, Block::Many(y)), &mut to[..n]);
                bench.registers[self.register[i]] = to;
            } else {
                step.apply(|o| place.block(*o, Block::Here), y);
            }
        }
    }
}

/// A block of the result, and what its steps read.
struct Place<'a, T> {
    program: &'a Program,
    bench: &'a Bench<T>,
    views: &'a [View<'a, T>],
    fit: &'a Fit,
    ones: &'a [T],
    at: usize,
    n: usize,
}

impl<'a, T: Element> Place<'a, T> {
    /// An operand; `result` stands for what the result's block holds.
    fn block<'b>(&self, o: Operand, result: Block<'b, T>) -> Block<'b, T>
    where
        'a: 'b,
    {
        match o {
            Operand::Input(k) => match &self.views[k] {
                View::One(x) => Block::One(*x),
                View::Full(x) => Block::Many(&x[self.at..self.at + self.n]),
                View::Part(..) => Block::Many(&self.bench.parts[k][..self.n]),
                View::Result => result,
            },
            Operand::Step(j) if self.fit.steps[j] == Class::One => Block::One(self.ones[j]),
            Operand::Step(j) => Block::Many(&self.bench.registers[self.program.register[j]][..self.n]),
        }
    }
}

impl Step {
    fn one<T: Element>(&self, operand: impl Fn(Operand) -> T) -> T {
        let mut y = [T::default()];
        self.apply(|o| Block::One(operand(*o)), &mut y);
        y[0]
    }

    fn apply<'a, T: Element>(&self, operand: impl Fn(&Operand) -> Block<'a, T>, y: &mut [T]) {
        match &self.operands[..] {
            [a, b] => self.function.run(&[operand(a), operand(b)], y),
            [a] => self.function.run(&[operand(a)], y),
            _ => {}
        }
    }
}

/// How a block sees an input.
enum View<'a, T> {
    One(T),
    Full(&'a [T]),
    /// The input's buffer is the result's.
    Result,
    /// Broadcast: the second operand of the plan.
    Part(&'a [T], Plan<2>),
}

/// What a thread works with.
struct Bench<T> {
    registers: Vec<Vec<T>>,
    parts: Vec<Vec<T>>,
}

/// Writes what the elements `at..at + n` of the result take from a broadcast operand to `to`.
fn write_out<T: Element>(plan: &Plan<2>, from: &[T], at: usize, n: usize, to: &mut Vec<T>) {
    to.resize(n.max(to.len()), T::default());
    let stride = plan.dims.first().map_or(0, |d| d.strides[1]);
    plan.for_runs(at, at + n, |i, offsets, n| {
        let (to, from) = (&mut to[i - at..i - at + n], &from[offsets[1]..]);
        match stride {
            0 => to.fill(from[0]),
            _ => to.copy_from_slice(&from[..n]),
        }
    });
}
