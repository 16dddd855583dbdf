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
    /// Where results are kept if the output's block is free for them.
    free: Layout,
    /// Where they are kept if it holds an input.
    taken: Layout,
    /// What an element costs, in cheap operations.
    weight: usize,
}

/// Where the results of steps are kept.
struct Layout {
    /// By step.
    places: Vec<Keep>,
    /// How many registers there are.
    registers: usize,
}

/// Where a result is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// In the output's block. Only the last step may write there what it reads there.
    Output,
    /// In a register.
    Register(usize),
}

impl Layout {
    /// A place for each step, free again after the last step that reads it, so that no step (but the last) writes
    /// what it reads.
    fn new(steps: &[Step], output_is_free: bool) -> Layout {
        let mut last_use = vec![0; steps.len()];
        for (i, s) in steps.iter().enumerate() {
            for o in &s.operands {
                if let Operand::Step(j) = *o {
                    last_use[j] = i;
                }
            }
        }
        let mut layout = Layout {
            places: Vec::new(),
            registers: 0,
        };
        let mut free = Vec::from_iter(output_is_free.then_some(Keep::Output));
        for i in 0..steps.len() {
            let place = if i + 1 == steps.len() {
                Keep::Output
            } else {
                free.pop().unwrap_or_else(|| {
                    layout.registers += 1;
                    Keep::Register(layout.registers - 1)
                })
            };
            layout.places.push(place);
            free.extend((0..i).filter(|j| last_use[*j] == i).map(|j| layout.places[j]));
        }
        layout
    }
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
        let weight = |s: &Step| if s.function.is_light() { 1 } else { HEAVY };
        Ok(Program {
            dtype,
            inputs,
            weight: steps.iter().map(weight).sum(),
            free: Layout::new(&steps, true),
            taken: Layout::new(&steps, false),
            steps,
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
        if let Some(y) = self.scalar::<T>(cx)? {
            cx.set_output(0, Tensor::scalar(y));
            return Ok(true);
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
        let y = self.run_blocks(cx, &fit, &first, &ones)?;
        cx.set_output(0, y);
        Ok(true)
    }

    /// The short path of scalar programs: nothing is allocated, nothing is planned.
    #[inline]
    fn scalar<T: Element>(&self, cx: &OpContext<'_>) -> Result<Option<T>> {
        let mut inputs: SmallVec<[T; 8]> = SmallVec::new();
        for i in 0..self.inputs {
            let t = cx.input(i)?;
            match t.as_slice::<T>()? {
                [x] if t.shape().is_scalar() => inputs.push(*x),
                _ => return Ok(None),
            }
        }
        let mut results: SmallVec<[T; 32]> = SmallVec::new();
        for step in &self.steps {
            if step.meeting == Meeting::Bias {
                return Ok(None);
            }
            results.push(step.one(|o| match o {
                Operand::Input(k) => inputs[k],
                Operand::Step(j) => results[j],
            }));
        }
        Ok(results.pop())
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
        let parts: SmallVec<[PartOf<'_, T>; 4]> = views
            .iter()
            .filter_map(|v| match v {
                View::Part(from, plan) => Some(PartOf {
                    from,
                    plan,
                    once: plan.is_periodic(1) && plan.dims.first().is_some_and(|d| block.is_multiple_of(d.len)),
                }),
                _ => None,
            })
            .collect();
        let elements = out
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        let layout = if reused.is_some() { &self.taken } else { &self.free };
        let chunk = (GRAIN / self.weight).max(4 * BLOCK).div_ceil(block) * block;
        spread::chunks(cx.parallel(), elements, chunk, |i, chunk_of_result| {
            let n = block.min(chunk_of_result.len());
            // The broadcast operands lie before the registers.
            let mut memory: SmallVec<[T; SMALL]> = SmallVec::new();
            memory.resize((parts.len() + layout.registers) * n, T::default());
            for (j, y) in chunk_of_result.chunks_mut(block).enumerate() {
                let at = i * chunk + j * block;
                for (part, to) in parts.iter().zip(memory.chunks_mut(n)) {
                    if j == 0 || !part.once {
                        write_out(part.plan, part.from, at, &mut to[..y.len()]);
                    }
                }
                let place = Place {
                    layout,
                    views: &views,
                    fit,
                    ones,
                    at,
                    n: y.len(),
                };
                self.run_block(&place, &mut memory, n, parts.len(), y);
            }
        });
        Ok(out)
    }

    /// Runs the steps for one block. `memory` has blocks of `n` elements: broadcast operands, then registers.
    fn run_block<T: Element>(&self, place: &Place<'_, T>, memory: &mut [T], n: usize, parts: usize, y: &mut [T]) {
        let last = self.steps.len() - 1;
        for (i, step) in self.steps.iter().enumerate() {
            if i < last && place.fit.steps[i] == Class::One {
                continue;
            }
            match place.layout.places[i] {
                Keep::Output => {
                    // What is read where it is written, by the last step only, is read as `Here`.
                    let memory = Memory {
                        before: memory,
                        after: &[],
                        gap: usize::MAX,
                        n,
                        parts,
                    };
                    step.apply(|o| place.block(*o, &memory, Block::Here), y);
                }
                Keep::Register(r) => {
                    let (before, rest) = memory.split_at_mut((parts + r) * n);
                    let (to, after) = rest.split_at_mut(n);
                    let memory = Memory {
                        before,
                        after,
                        gap: parts + r,
                        n,
                        parts,
                    };
                    step.apply(|o| place.block(*o, &memory, Block::Many(y)), &mut to[..place.n]);
                }
            }
        }
    }
}

/// Elements of scratch memory on the stack.
const SMALL: usize = 64;

/// A block of the result, and what its steps read.
struct Place<'a, T> {
    layout: &'a Layout,
    views: &'a [View<'a, T>],
    fit: &'a Fit,
    ones: &'a [T],
    at: usize,
    n: usize,
}

/// Scratch memory without the block that is written.
struct Memory<'a, T> {
    before: &'a [T],
    after: &'a [T],
    /// The number of the block that is missing.
    gap: usize,
    /// Elements in a block.
    n: usize,
    /// Blocks before the registers.
    parts: usize,
}

impl<'a, T> Memory<'a, T> {
    fn block(&self, i: usize) -> &'a [T] {
        match i < self.gap {
            true => &self.before[i * self.n..(i + 1) * self.n],
            false => &self.after[(i - self.gap - 1) * self.n..(i - self.gap) * self.n],
        }
    }
}

impl<'a, T: Element> Place<'a, T> {
    /// An operand; `result` stands for what the result's block holds.
    fn block<'b>(&self, o: Operand, memory: &Memory<'b, T>, result: Block<'b, T>) -> Block<'b, T>
    where
        'a: 'b,
    {
        match o {
            Operand::Input(k) => match &self.views[k] {
                View::One(x) => Block::One(*x),
                View::Full(x) => Block::Many(&x[self.at..self.at + self.n]),
                View::Part(..) => {
                    let is_part = |v: &&View<'_, T>| matches!(v, View::Part(..));
                    let number = self.views[..k].iter().filter(is_part).count();
                    Block::Many(&memory.block(number)[..self.n])
                }
                View::Result => result,
            },
            Operand::Step(j) if self.fit.steps[j] == Class::One => Block::One(self.ones[j]),
            Operand::Step(j) => match self.layout.places[j] {
                Keep::Output => result,
                Keep::Register(r) => Block::Many(&memory.block(memory.parts + r)[..self.n]),
            },
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

/// A broadcast input.
struct PartOf<'a, T> {
    from: &'a [T],
    plan: &'a Plan<2>,
    /// Every block takes the same elements.
    once: bool,
}

/// Writes what the elements from `at` on of the result take from a broadcast operand to `to`.
fn write_out<T: Element>(plan: &Plan<2>, from: &[T], at: usize, to: &mut [T]) {
    let stride = plan.dims.first().map_or(0, |d| d.strides[1]);
    plan.for_runs(at, at + to.len(), |i, offsets, n| {
        let (to, from) = (&mut to[i - at..i - at + n], &from[offsets[1]..]);
        match stride {
            0 => to.fill(from[0]),
            _ => to.copy_from_slice(&from[..n]),
        }
    });
}
