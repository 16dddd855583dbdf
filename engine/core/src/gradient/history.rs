//! The gradient of a loop, as a place where nodes are added.
//!
//! The gradient of a loop is a loop that runs backwards, once for each iteration that the loop made. When a node in
//! its body reads a value of the loop, the value of the corresponding iteration is meant: values are pushed on a
//! stack in the loop and popped in its gradient. Pushes and pops keep their order, whatever else of the iterations
//! overlaps, because the counters of both loops wait for them. A value that exists only on one side of a conditional
//! is pushed and popped only when that side was taken. (TensorFlow 1's `GradLoopState`.)

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::structure::{FrameId, Structure, is_constant_enter, is_switch};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::{Context, ContextRef, Graph, NodeId, Operation, Output, OutputRef};
use crate::tensor::Tensor;

/// A context that takes nodes as they are: for nodes whose inputs are known to be right.
struct AsIs(Arc<dyn Context>);

impl Context for AsIs {
    fn bring_in(&self, x: &Output) -> Result<Output> {
        Ok(x.clone())
    }

    fn wait_for(&self, op: &Operation) -> Result<Option<Operation>> {
        Ok(Some(op.clone()))
    }

    fn pin(&self, _: &[Output], _: bool) -> Option<Operation> {
        None
    }

    fn added(&self, op: &Operation) {
        self.0.added(op);
    }
}

/// The same context, but nodes are taken as they are.
pub(super) fn as_is(context: &ContextRef) -> ContextRef {
    context.as_ref().map(|c| Arc::new(AsIs(c.clone())) as Arc<dyn Context>)
}

/// What adding the gradients of all loops shares.
pub(super) struct Shared {
    pub(super) graph: Graph,
    pub(super) structure: Mutex<Structure>,
    /// The context in which gradients were asked for.
    pub(super) context: ContextRef,
    /// The frame in which they were asked for.
    pub(super) base: FrameId,
}

/// The `Enter` of a value into a loop.
pub(super) fn enter(x: &Output, frame: &str, constant: bool, parallel: i64) -> Result<Output> {
    x.graph()
        .op(if x.is_ref() { "RefEnter" } else { "Enter" })
        .input(x)
        .attr("frame_name", frame)
        .attr("is_constant", constant)
        .attr("parallel_iterations", parallel)
        .output()
}

/// A variable of a loop whose next value is not known yet.
pub(super) struct LoopVariable {
    pub(super) merge: Output,
    /// Its last value.
    pub(super) exit: Output,
    /// Its value in the loop's body.
    pub(super) value: Output,
}

impl LoopVariable {
    /// Closes the loop: the variable's value in the next iteration.
    pub(super) fn next(&self, x: &Output) -> Result<()> {
        let next = x.unary("NextIteration")?;
        x.graph().set_loop_input(&self.merge.op(), 1, &next)
    }
}

/// The gradient of one loop while it is being built.
pub(super) struct LoopGrad {
    shared: Arc<Shared>,
    this: Weak<LoopGrad>,
    /// The gradient of the loop around it.
    outer: Option<Arc<LoopGrad>>,
    /// The loop.
    pub(super) forward: FrameId,
    frame: String,
    parallel: i64,
    /// Counts the loop's iterations: its variable and the sum in the body, which orders the pushes.
    count: LoopVariable,
    counted: Output,
    /// Counts the gradient's iterations down.
    left: LoopVariable,
    /// Whether the gradient goes on.
    condition: Output,
    /// Runs first in each iteration of the gradient, and orders the pops.
    pivot: Output,
    /// By value of the loop (or from outside of it), what stands for it in the gradient.
    known: Mutex<HashMap<OutputRef, Output>>,
    inside: Mutex<HashSet<NodeId>>,
    pushes: Mutex<Vec<Operation>>,
    pops: Mutex<Vec<Operation>>,
}

impl LoopGrad {
    /// Begins the gradient of a loop, inside of that of the loop around it if there is one.
    ///
    /// # Errors
    /// If the loop has no condition, or nodes cannot be added.
    pub(super) fn new(shared: &Arc<Shared>, forward: FrameId, outer: Option<Arc<LoopGrad>>) -> Result<Arc<LoopGrad>> {
        let graph = shared.graph.clone();
        let (info, goes_on) = {
            let mut s = shared.structure.lock();
            (s.frame(forward).clone(), s.loop_condition(forward)?.output(0)?)
        };
        let around = match &outer {
            Some(o) => o.context(),
            None => shared.context.clone(),
        };
        let (count, counted) = {
            let _forward = graph.context_scope(as_is(&shared.context));
            let mut zero = graph
                .op("Const")
                .attr("dtype", DType::I32)
                .attr("value", Tensor::scalar(0i32));
            if let Some(o) = &outer {
                // Not before the outer loop's counter: what is pushed stays in order.
                zero = zero.control_input(&o.counted.op());
            } else if let Some(op) = shared.context.as_ref().and_then(|c| c.pin(&[], false)) {
                zero = zero.control_input(&op);
            }
            let start = enter(&zero.name("f_count").output()?, &info.name, false, info.parallel)?;
            let count = variable(&start, &goes_on)?;
            let one = after(&count.value, Tensor::scalar(1i32))?;
            let counted = count.value.plus(&one)?;
            (count, counted)
        };
        let frame = graph.unique_frame_name(&format!("{}{}", graph.current_name_scope(), info.name));
        let (start, one) = {
            let _outer = graph.context_scope(around.clone());
            let one = graph
                .op("Const")
                .attr("dtype", DType::I32)
                .attr("value", Tensor::scalar(1i32))
                .name("b_count");
            let one = one.output()?;
            let total = match &outer {
                Some(o) => o.bring_in(&count.exit)?,
                None => count.exit.clone(),
            };
            (
                enter(&total, &frame, false, info.parallel)?,
                enter(&one, &frame, true, info.parallel)?,
            )
        };
        let _inside = graph.context_scope(as_is(&around));
        let merge = graph.op("Merge").input_list(&[start.clone(), start]).output()?;
        let condition = merge.greater_equal(&one)?.unary("LoopCond")?;
        let left = split(merge, &condition)?;
        let pivot = left.value.minus(&one)?;
        let made = [&left.merge, &condition, &left.value, &pivot, &one];
        let inside = made.iter().map(|o| o.op().id()).collect();
        Ok(Arc::new_cyclic(|this| LoopGrad {
            shared: shared.clone(),
            this: this.clone(),
            outer,
            forward,
            frame,
            parallel: info.parallel,
            count,
            counted,
            left,
            condition,
            pivot,
            known: Mutex::default(),
            inside: Mutex::new(inside),
            pushes: Mutex::default(),
            pops: Mutex::default(),
        }))
    }

    /// The context of the gradient's body.
    pub(super) fn context(&self) -> ContextRef {
        self.this.upgrade().map(|c| c as Arc<dyn Context>)
    }

    /// The context around the gradient.
    pub(super) fn around(&self) -> ContextRef {
        match &self.outer {
            Some(o) => o.context(),
            None => self.shared.context.clone(),
        }
    }

    /// A variable of the gradient's loop that starts from a value of the context around it.
    pub(super) fn variable(&self, start: &Output, shape: crate::shape::PartialShape) -> Result<LoopVariable> {
        let graph = &self.shared.graph;
        let start = {
            let _around = graph.context_scope(self.around());
            enter(start, &self.frame, false, self.parallel)?
        };
        let _inside = graph.context_scope(as_is(&self.context()));
        let merge = graph
            .op("Merge")
            .input_list(&[start.clone(), start])
            .output_shape(0, shape)
            .output()?;
        let v = split(merge, &self.condition)?;
        if let Some(c) = self.around() {
            c.added(&v.exit.op());
        }
        Ok(v)
    }

    /// Closes the loop and its gradient.
    pub(super) fn finish(&self) -> Result<()> {
        let graph = &self.shared.graph;
        let sync = |ops: &Mutex<Vec<Operation>>, name: &str| -> Result<Operation> {
            let mut b = graph.op("ControlTrigger").name(name);
            for op in ops.lock().iter() {
                b = b.control_input(op);
            }
            b.finish()
        };
        let next = |v: &LoopVariable, x: &Output, after: &Mutex<Vec<Operation>>, name: &str| -> Result<()> {
            let mut b = graph.op("NextIteration").input(x);
            if !after.lock().is_empty() {
                b = b.control_input(&sync(after, name)?);
            }
            graph.set_loop_input(&v.merge.op(), 1, &b.output()?)
        };
        {
            let _forward = graph.context_scope(as_is(&self.shared.context));
            next(&self.count, &self.counted, &self.pushes, "f_sync")?;
        }
        {
            let _inside = graph.context_scope(as_is(&self.context()));
            next(&self.left, &self.pivot, &self.pops, "b_sync")?;
        }
        if let Some(o) = &self.outer {
            o.pops.lock().push(self.left.exit.op());
        }
        Ok(())
    }

    /// What stands for a value of the loop in its gradient.
    fn recall(&self, x: &Output) -> Result<Output> {
        if let Some(outside) = self.invariant(x)? {
            return self.enter_constant(&outside);
        }
        let node = x.op().node();
        if node.op_name() == "Const" {
            let _inside = self.shared.graph.context_scope(self.context());
            return self.shared.graph.op("Const").attrs(node.attrs()).output();
        }
        self.pop(x)
    }

    /// The value outside of the loop that a value of the loop always equals, if there is one.
    fn invariant(&self, x: &Output) -> Result<Option<Output>> {
        let mut at = x.clone();
        loop {
            let op = at.op();
            let node = op.node();
            if is_constant_enter(&node) {
                return op.input(0).map(Some);
            }
            let passes = matches!(node.op_name(), "Identity" | "RefIdentity") || is_switch(&node);
            if !passes {
                return Ok(None);
            }
            at = op.input(0)?;
        }
    }

    fn enter_constant(&self, x: &Output) -> Result<Output> {
        let e = {
            let _around = self.shared.graph.context_scope(self.around());
            enter(x, &self.frame, true, self.parallel)?
        };
        self.added(&e.op());
        Ok(e)
    }

    /// Pushes a value in the loop and pops it in the gradient.
    fn pop(&self, x: &Output) -> Result<Output> {
        let graph = &self.shared.graph;
        let (path, guards) = {
            let mut s = self.shared.structure.lock();
            let path = s.path(self.shared.base, self.forward).ok_or_else(|| {
                Error::internal(format!("loop {:?} is not inside of the gradient's frame", self.frame))
            })?;
            let path: Vec<_> = path.iter().map(|f| s.frame(*f).clone()).collect();
            let mut guards = Vec::new();
            for g in s.output_guards(x)? {
                // Conditions around the loop hold for all of it.
                if s.outputs_in(g.on.node)? == self.forward {
                    guards.push(g);
                }
            }
            (path, guards)
        };
        let stack = {
            let _base = graph.context_scope(self.shared.context.clone());
            let size = graph.constant(-1i32)?;
            graph
                .op("StackV2")
                .input(&size)
                .attr("elem_type", x.dtype())
                .name("f_acc")
                .output()?
        };
        {
            let _forward = graph.context_scope(as_is(&self.shared.context));
            let mut handle = stack.clone();
            for f in &path {
                handle = enter(&handle, &f.name, true, f.parallel)?;
            }
            let push = graph
                .op("StackPushV2")
                .input(&handle)
                .input(x)
                .control_input(&self.counted.op())
                .finish()?;
            self.pushes.lock().push(push);
        }
        let mut handle = self.bring_in(&stack)?;
        for g in guards {
            let on = self.bring_in(&graph.output_of(g.on)?)?;
            let _inside = graph.context_scope(as_is(&self.context()));
            let choice = match g.arms {
                0 => graph.op("Switch").input(&handle).input(&on).finish()?,
                n => graph
                    .op("_SwitchN")
                    .input(&handle)
                    .input(&on)
                    .attr("num_outs", i64::from(n))
                    .finish()?,
            };
            handle = choice.output(g.arm as usize)?;
        }
        let _inside = graph.context_scope(as_is(&self.context()));
        let pop = graph
            .op("StackPopV2")
            .input(&handle)
            .attr("elem_type", x.dtype())
            .control_input(&self.pivot.op())
            .output_shape(0, x.shape())
            .output()?;
        self.pops.lock().push(pop.op());
        Ok(pop)
    }

    /// The frame that an output is in.
    fn frame_of(&self, x: &Output) -> Result<FrameId> {
        self.shared.structure.lock().outputs_in(x.op().id())
    }
}

/// A constant that runs after a node of the same frame.
fn after(x: &Output, value: Tensor) -> Result<Output> {
    x.graph()
        .op("Const")
        .attr("dtype", value.dtype())
        .attr("value", value)
        .control_input(&x.op())
        .output()
}

/// A variable of a loop that starts with what comes from an `Enter`.
fn variable(start: &Output, goes_on: &Output) -> Result<LoopVariable> {
    let merge = start
        .graph()
        .op("Merge")
        .input_list(&[start.clone(), start.clone()])
        .output()?;
    split(merge, goes_on)
}

fn split(merge: Output, goes_on: &Output) -> Result<LoopVariable> {
    let switch = merge.graph().op("Switch").input(&merge).input(goes_on).finish()?;
    let exit = switch.output(0)?.unary("Exit")?;
    // An Identity, so that waiting for the value is not waiting for the Switch, which runs once more.
    let value = switch.output(1)?.identity()?;
    Ok(LoopVariable { merge, exit, value })
}

impl Context for LoopGrad {
    fn bring_in(&self, x: &Output) -> Result<Output> {
        if self.inside.lock().contains(&x.op().id()) {
            return Ok(x.clone());
        }
        if let Some(v) = self.known.lock().get(&x.as_ref()) {
            return Ok(v.clone());
        }
        let v = if self.frame_of(x)? == self.forward {
            self.recall(x)?
        } else {
            self.enter_constant(x)?
        };
        self.known.lock().insert(x.as_ref(), v.clone());
        Ok(v)
    }

    fn wait_for(&self, op: &Operation) -> Result<Option<Operation>> {
        // What is outside of the gradient was before it, or is ordered by the values that come in.
        Ok(self.inside.lock().contains(&op.id()).then(|| op.clone()))
    }

    fn pin(&self, inputs: &[Output], waits: bool) -> Option<Operation> {
        let free = inputs.iter().all(|x| is_constant_enter(&x.op().node()));
        (free && !waits).then(|| self.pivot.op())
    }

    fn added(&self, op: &Operation) {
        self.inside.lock().insert(op.id());
        if let Some(c) = self.around() {
            c.added(op);
        }
    }

    fn home(&self, op: &str, inputs: &[Output]) -> Option<ContextRef> {
        // Of a value of the loop only the shape is kept if only the shape is asked for.
        let [x] = inputs else { return None };
        if !matches!(op, "Shape" | "Size" | "Rank") || self.inside.lock().contains(&x.op().id()) {
            return None;
        }
        let f = self.frame_of(x).ok()?;
        let mut at = self.this.upgrade();
        while let Some(l) = at {
            if l.forward == f {
                return match self.invariant(x) {
                    Ok(None) => Some(as_is(&self.shared.context)),
                    _ => None,
                };
            }
            at = l.outer.clone();
        }
        None
    }
}
