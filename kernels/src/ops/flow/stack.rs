//! `StackV2`, `StackPushV2`, `StackPopV2`, `StackCloseV2` and their first versions: tensors last in, first out.
//!
//! The gradient of a loop keeps the loop's values on stacks. A stack lives as long as the step or whoever has its
//! handle; its state is behind a lock that is held for a few instructions, so that no node ever waits for it.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::{Resource, ResourceHandle};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};
use parking_lot::Mutex;

use crate::shapes;

struct State {
    items: Vec<Tensor>,
    closed: bool,
}

/// A stack of tensors of one dtype.
pub struct Stack {
    name: String,
    dtype: DType,
    /// How many tensors it may hold; `None` for any number.
    limit: Option<usize>,
    state: Mutex<State>,
}

impl Stack {
    fn new(name: String, dtype: DType, limit: Option<usize>) -> Self {
        Stack {
            name,
            dtype,
            limit,
            state: Mutex::new(State {
                items: Vec::new(),
                closed: false,
            }),
        }
    }

    fn push(&self, x: Tensor) -> Result<()> {
        if x.dtype() != self.dtype {
            return Err(Error::invalid(format!(
                "stack {:?} holds {} tensors, not {}",
                self.name,
                self.dtype,
                x.dtype()
            )));
        }
        let mut s = self.state.lock();
        if s.closed {
            return Err(self.is_closed());
        }
        if self.limit.is_some_and(|l| s.items.len() >= l) {
            return Err(Error::invalid(format!(
                "stack {:?} overflowed its max_size ({})",
                self.name,
                s.items.len()
            )));
        }
        s.items.push(x);
        Ok(())
    }

    fn pop(&self) -> Result<Tensor> {
        let mut s = self.state.lock();
        if s.closed {
            return Err(self.is_closed());
        }
        s.items
            .pop()
            .ok_or_else(|| Error::invalid(format!("stack {:?} is empty when calling Pop()", self.name)))
    }

    fn close(&self) {
        let items = {
            let mut s = self.state.lock();
            s.closed = true;
            std::mem::take(&mut s.items)
        };
        drop(items);
    }

    fn is_closed(&self) -> Error {
        Error::invalid(format!("stack {:?} has already been closed", self.name))
    }
}

impl Resource for Stack {
    fn kind(&self) -> &'static str {
        "stack"
    }

    fn byte_size(&self) -> usize {
        self.state.lock().items.iter().map(Tensor::byte_size).sum()
    }
}

/// Makes a new stack each time it runs.
struct Make {
    name: String,
    dtype: DType,
    made: AtomicU64,
}

impl Kernel for Make {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let limit = match cx.num_inputs() {
            0 => None,
            _ => usize::try_from(cx.scalar::<i32>(0)?).ok(),
        };
        let name = format!("{}_{}", self.name, self.made.fetch_add(1, Relaxed));
        let stack = Stack::new(name.clone(), self.dtype, limit);
        cx.set_output(
            0,
            Tensor::resource(ResourceHandle::new(name, std::sync::Arc::new(stack))),
        );
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct Push;

impl Kernel for Push {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let stack = cx.resource::<Stack>(0)?;
        let x = cx.take_input(1)?;
        stack.push(x.clone())?;
        cx.set_output(0, x);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct Pop(DType);

impl Kernel for Pop {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let stack = cx.resource::<Stack>(0)?;
        if stack.dtype != self.0 {
            return Err(Error::invalid(format!(
                "stack {:?} holds {} tensors, not {}",
                stack.name, stack.dtype, self.0
            )));
        }
        cx.set_output(0, stack.pop()?);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct Close;

impl Kernel for Close {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        cx.resource::<Stack>(0)?.close();
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn make(name: &'static str, handle: &str) -> OpDef {
    OpDef::new(name, Category::ControlFlow)
        .output(&format!("handle: {handle}"))
        .attr("elem_type: type")
        .attr("stack_name: string = ''")
        .stateful()
        .not_differentiable()
        .cpu(|init| {
            let name = init.attrs.str("stack_name")?;
            Ok(Box::new(Make {
                name: if name.is_empty() { init.name } else { name }.to_owned(),
                dtype: init.attrs.dtype("elem_type")?,
                made: AtomicU64::new(0),
            }))
        })
}

fn stack_v2() -> OpDef {
    make("StackV2", "resource")
        .doc("A new, empty stack that lives as long as the step; max_size bounds it unless it is negative.")
        .input("max_size: int32")
        .shape(shapes::scalar)
}

fn stack() -> OpDef {
    make("Stack", "Ref(string)")
        .doc("The first version of StackV2.")
        .shape(|_| Ok(vec![PartialShape::vector(Some(2))]))
}

fn push(name: &'static str, handle: &str) -> OpDef {
    OpDef::new(name, Category::ControlFlow)
        .doc("Puts a tensor on the stack and passes it on.")
        .input(&format!("handle: {handle}"))
        .input("elem: T")
        .output("output: T")
        .attr("T: type")
        .attr("swap_memory: bool = false")
        .stateful()
        .shape(|cx| Ok(vec![cx.input(1)]))
        .cpu(|_| Ok(Box::new(Push)))
}

fn pop(name: &'static str, handle: &str) -> OpDef {
    OpDef::new(name, Category::ControlFlow)
        .doc("Takes the tensor that was put on the stack last.")
        .input(&format!("handle: {handle}"))
        .output("elem: elem_type")
        .attr("elem_type: type")
        .stateful()
        .shape(shapes::unknown)
        .cpu(|init| Ok(Box::new(Pop(init.attrs.dtype("elem_type")?))))
}

fn close(name: &'static str, handle: &str) -> OpDef {
    OpDef::new(name, Category::ControlFlow)
        .doc("Empties the stack and refuses further use.")
        .input(&format!("handle: {handle}"))
        .stateful()
        .shape(shapes::none)
        .not_differentiable()
        .cpu(|_| Ok(Box::new(Close)))
}

fn all() -> Vec<OpDef> {
    vec![
        stack_v2(),
        stack(),
        push("StackPushV2", "resource"),
        push("StackPush", "Ref(string)"),
        pop("StackPopV2", "resource"),
        pop("StackPop", "Ref(string)"),
        close("StackCloseV2", "resource"),
        close("StackClose", "Ref(string)"),
    ]
}

register_ops!(all all);

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::{Code, DType, Graph, Tensor};

    #[test]
    fn what_is_put_on_last_comes_off_first_until_the_stack_is_empty_full_or_closed() {
        let g = Graph::new();
        let size = g.constant(2i32).unwrap();
        let s = g
            .op("StackV2")
            .input(&size)
            .attr("elem_type", DType::F32)
            .output()
            .unwrap();
        let mut last = None;
        let mut step = |op: &str, x: Option<f32>| {
            let mut b = g.op(op).input(&s);
            if let Some(x) = x {
                b = b.input(&g.constant(x).unwrap());
            }
            if op == "StackPopV2" {
                b = b.attr("elem_type", DType::F32);
            }
            if let Some(before) = &last {
                b = b.control_input(before);
            }
            let op = b.finish().unwrap();
            last = Some(op.clone());
            op
        };
        step("StackPushV2", Some(1.0));
        step("StackPushV2", Some(2.0));
        let a = step("StackPopV2", None).output(0).unwrap();
        step("StackPushV2", Some(3.0));
        let full = step("StackPushV2", Some(4.0));
        let run = Interpreter::default();
        assert_eq!(run.run(&[a], &[], &[]).unwrap()[0], Tensor::from(2.0f32));
        let e = run.run(&[], &[full], &[]).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument);
        assert!(e.message().contains("max_size"), "{e}");
    }

    #[test]
    fn an_empty_stack_cannot_be_popped() {
        let g = Graph::new();
        let size = g.constant(-1i32).unwrap();
        let s = g
            .op("StackV2")
            .input(&size)
            .attr("elem_type", DType::F32)
            .output()
            .unwrap();
        let pop = g
            .op("StackPopV2")
            .input(&s)
            .attr("elem_type", DType::F32)
            .output()
            .unwrap();
        assert_eq!(crate::testing::fails(&pop).code(), Code::InvalidArgument);
        let close = g.op("StackCloseV2").input(&s).finish().unwrap();
        let x = g.constant(1.0f32).unwrap();
        let push = g
            .op("StackPushV2")
            .input(&s)
            .input(&x)
            .control_input(&close)
            .output()
            .unwrap();
        assert!(crate::testing::fails(&push).message().contains("closed"));
    }
}
