//! A session whose nodes are run by threads of the scheduler, and what is done in it.

mod meetings;
mod queues;
mod stores;

use std::sync::Arc;

use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Device, HostDevice, KernelInit};
use actorflow_core::op::registry;
use actorflow_core::resource::ResourceManager;
use actorflow_core::{AttrValue, Attrs, DType, Tensor};
use shuttle::thread::{self, JoinHandle};

use crate::scheduled::{Answer, Node, Scheduled, run};

/// The resources of a session, and the device that its nodes run on.
#[derive(Clone)]
struct Session {
    resources: Arc<ResourceManager>,
    device: Arc<dyn Device>,
}

impl Session {
    fn new() -> Session {
        actorflow_kernels::link();
        Session {
            resources: Scheduled::resources(),
            device: Arc::new(HostDevice::default()),
        }
    }

    /// Starts a node of a step that `cancel` aborts.
    fn start(&self, op: &str, attrs: &[(&str, AttrValue)], inputs: Vec<Tensor>, cancel: &CancelToken) -> Arc<Answer> {
        let def = registry().get(op).unwrap();
        let mut all: Attrs = attrs.iter().map(|(k, v)| (*k, v.clone())).collect();
        def.fill_defaults(&mut all);
        let mut outputs = def.outputs().len();
        if def.outputs().iter().any(|o| o.is_list()) {
            let lists = ["component_types", "dtypes"].map(|name| all.get(name).cloned());
            for list in lists.into_iter().flatten() {
                let AttrValue::List(items) = list else {
                    panic!("{op}: not a list of dtypes");
                };
                outputs = outputs - 1 + items.len();
            }
        }
        let types: Vec<DType> = inputs.iter().map(Tensor::dtype).collect();
        let kernel = def.make_kernel(&KernelInit {
            name: "node",
            op: def.name(),
            attrs: &all,
            input_types: &types,
            input_refs: &vec![false; types.len()],
            output_types: &vec![DType::F32; outputs],
            resources: &self.resources,
        });
        let node = Node {
            kernel: kernel.unwrap().into(),
            outputs,
        };
        run(&node, inputs, &self.device, &self.resources, cancel)
    }

    /// Runs a node of a step that nobody aborts.
    fn run(&self, op: &str, attrs: &[(&str, AttrValue)], inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.start(op, attrs, inputs, &CancelToken::new()).wait()
    }

    /// A handle.
    fn make(&self, op: &str, attrs: &[(&str, AttrValue)]) -> Tensor {
        self.run(op, attrs, vec![]).unwrap().remove(0)
    }
}

/// A thread that aborts the steps of a token, sooner or later.
fn abort(token: &CancelToken) -> JoinHandle<()> {
    let token = token.clone();
    thread::spawn(move || {
        token.cancel(Error::cancelled("the step was aborted"));
    })
}

/// What all threads give.
fn all<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|t| t.join().unwrap()).collect()
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items
}
