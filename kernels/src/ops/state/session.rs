//! `GetSessionHandle`, `GetSessionHandleV2`, `GetSessionTensor`, `DeleteSessionTensor`: tensors that a session keeps
//! between its runs under a name, the handle, so that a program need not fetch and feed them.
//!
//! TensorFlow's `SessionState`. The tensors of a task are in one resource, behind a lock that is held for a few
//! instructions; they stay until they are deleted or the session ends.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::{Resource, ResourceHandle};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::shapes;

/// Where the tensors are among the session's resources: names that no variable has.
const CONTAINER: &str = "session state";
const NAME: &str = "kept tensors";

/// A tensor that is kept.
struct Kept(Tensor);

impl Resource for Kept {
    fn kind(&self) -> &'static str {
        "kept tensor"
    }

    fn byte_size(&self) -> usize {
        self.0.byte_size()
    }
}

#[derive(Default)]
struct State {
    tensors: HashMap<Bytes, Arc<Kept>>,
    made: u64,
}

/// The tensors that are kept, by handle.
#[derive(Default)]
struct Store(Mutex<State>);

impl Resource for Store {
    fn kind(&self) -> &'static str {
        "store of kept tensors"
    }

    fn byte_size(&self) -> usize {
        self.0.lock().tensors.values().map(|t| t.0.byte_size()).sum()
    }
}

impl Store {
    fn of(cx: &OpContext<'_>) -> Result<Arc<Store>> {
        let resources = &cx.step().resources;
        resources.get_or_create(CONTAINER, NAME, || Ok(Store::default()))?.get()
    }

    /// Keeps a tensor under a new handle: node, number and device, as in TensorFlow.
    fn keep(&self, node: &str, device: &str, tensor: Tensor) -> (String, Arc<Kept>) {
        let kept = Arc::new(Kept(tensor));
        let mut state = self.0.lock();
        let handle = format!("{node};{};{device}", state.made);
        state.made += 1;
        state.tensors.insert(Bytes::from(handle.clone()), kept.clone());
        (handle, kept)
    }
}

fn absent(handle: &[u8]) -> Error {
    Error::not_found(format!(
        "the tensor with handle '{}' is not in the session store: it was never kept there, or was deleted",
        String::from_utf8_lossy(handle)
    ))
}

/// Input 0, a handle.
fn handle(cx: &OpContext<'_>) -> Result<Bytes> {
    let t = cx.input(0)?;
    match t.as_strings()? {
        [h] if t.shape().is_scalar() => Ok(h.clone()),
        _ => Err(Error::invalid(format!(
            "a handle must be a scalar, got shape {}",
            t.shape()
        ))),
    }
}

/// Keeps its input.
struct Keep {
    node: String,
    as_resource: bool,
}

impl Kernel for Keep {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let tensor = cx.take_input(0)?;
        let (handle, kept) = Store::of(cx)?.keep(&self.node, cx.step().device.name(), tensor);
        cx.set_output(
            0,
            match self.as_resource {
                true => Tensor::resource(ResourceHandle::new(handle, kept)),
                false => Tensor::string(handle),
            },
        );
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct Get(DType);

impl Kernel for Get {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let handle = handle(cx)?;
        let found = Store::of(cx)?.0.lock().tensors.get(&handle).cloned();
        let tensor = found.ok_or_else(|| absent(&handle))?.0.clone();
        if tensor.dtype() != self.0 {
            return Err(Error::invalid(format!(
                "the tensor with handle '{}' is of {}, but the attribute dtype is {}",
                String::from_utf8_lossy(&handle),
                tensor.dtype(),
                self.0
            )));
        }
        cx.set_output(0, tensor);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct Delete;

impl Kernel for Delete {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let handle = handle(cx)?;
        let removed = Store::of(cx)?.0.lock().tensors.remove(&handle);
        removed.map(drop).ok_or_else(|| absent(&handle))
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn operation(name: &'static str) -> OpDef {
    OpDef::new(name, Category::State).stateful().not_differentiable()
}

fn get_handle() -> OpDef {
    operation("GetSessionHandle")
        .doc("Keeps a tensor in the session's state and outputs the handle under which GetSessionTensor finds it.")
        .input("value: T")
        .output("handle: string")
        .attr("T: type")
        .shape(shapes::scalar)
        .cpu(|init| {
            Ok(Box::new(Keep {
                node: init.name.to_owned(),
                as_resource: false,
            }))
        })
}

fn get_handle_v2() -> OpDef {
    operation("GetSessionHandleV2")
        .doc("Keeps a tensor in the session's state; the output is a resource whose name is the handle.")
        .input("value: T")
        .output("handle: resource")
        .attr("T: type")
        .shape(shapes::scalar)
        .cpu(|init| {
            Ok(Box::new(Keep {
                node: init.name.to_owned(),
                as_resource: true,
            }))
        })
}

fn get_tensor() -> OpDef {
    operation("GetSessionTensor")
        .doc("The tensor that GetSessionHandle kept on the same task under this handle.")
        .input("handle: string")
        .output("value: dtype")
        .attr("dtype: type")
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            Ok(vec![PartialShape::UNKNOWN])
        })
        .cpu(|init| Ok(Box::new(Get(init.attrs.dtype("dtype")?))))
}

fn delete_tensor() -> OpDef {
    operation("DeleteSessionTensor")
        .doc("Forgets the tensor that was kept under this handle.")
        .input("handle: string")
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            Ok(Vec::new())
        })
        .cpu(|_| Ok(Box::new(Delete)))
}

register_ops!(get_handle, get_handle_v2, get_tensor, delete_tensor);

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};

    #[test]
    fn a_tensor_is_kept_between_runs_until_it_is_deleted() {
        let (g, run) = (Graph::new(), Interpreter::default());
        let x = g.constant([1f32, 2.]).unwrap();
        let keep = g.op("GetSessionHandle").name("keep").input(&x).output().unwrap();
        let handle = g.placeholder("h", DType::Str, PartialShape::UNKNOWN).unwrap();
        let get = |dtype: DType| {
            let op = g.op("GetSessionTensor").input(&handle).attr("dtype", dtype);
            op.output().unwrap()
        };
        let (floats, ints) = (get(DType::F32), get(DType::I32));
        let delete = g.op("DeleteSessionTensor").input(&handle).finish().unwrap();
        let kept = |n: usize| {
            let t = run.run(std::slice::from_ref(&keep), &[], &[]).unwrap().remove(0);
            let name = String::from_utf8(t.as_strings().unwrap()[0].to_vec()).unwrap();
            // TensorFlow: keep;0;/job:localhost/replica:0/task:0/device:CPU:0
            assert!(name.starts_with(&format!("keep;{n};/")), "{name}");
            t
        };
        let (first, second) = (kept(0), kept(1));
        let fetch = |o: &actorflow_core::Output, h: &Tensor| {
            run.run(std::slice::from_ref(o), &[], &[(handle.clone(), h.clone())])
        };
        assert_eq!(fetch(&floats, &first).unwrap()[0], Tensor::from([1f32, 2.]));
        assert_eq!(fetch(&ints, &first).unwrap_err().code(), Code::InvalidArgument);
        let forget = |h: &Tensor| run.run(&[], std::slice::from_ref(&delete), &[(handle.clone(), h.clone())]);
        forget(&first).unwrap();
        assert_eq!(forget(&first).unwrap_err().code(), Code::NotFound);
        assert_eq!(fetch(&floats, &first).unwrap_err().code(), Code::NotFound);
        assert!(fetch(&floats, &second).is_ok());
        let two = Tensor::strings([2], vec!["a", "b"]).unwrap();
        assert_eq!(forget(&two).unwrap_err().code(), Code::InvalidArgument);
        assert!(
            g.op("DeleteSessionTensor")
                .input(&g.constant(two).unwrap())
                .finish()
                .is_err()
        );
        // Another session has none of it.
        let other = Interpreter::default().run(&[floats], &[], &[(handle.clone(), second)]);
        assert_eq!(other.unwrap_err().code(), Code::NotFound);
    }

    #[test]
    fn a_handle_may_be_a_resource() {
        let (g, run) = (Graph::new(), Interpreter::default());
        let x = g.constant(7i64).unwrap();
        let keep = g.op("GetSessionHandleV2").name("keep").input(&x).output().unwrap();
        let t = run.run(&[keep], &[], &[]).unwrap().remove(0);
        let name = t.as_resources().unwrap()[0].name().to_owned();
        let get = g.op("GetSessionTensor").input(&g.constant(name.as_str()).unwrap());
        let get = get.attr("dtype", DType::I64).output().unwrap();
        assert_eq!(run.run(&[get], &[], &[]).unwrap()[0], Tensor::from(7i64));
        assert_eq!(run.resources().list()[0].2.target().byte_size(), 8);
    }
}
