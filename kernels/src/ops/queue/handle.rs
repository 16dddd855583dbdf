//! Operations that output the handle of a resource, which they make on first use.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::Tensor;
use actorflow_core::actor::Mailbox;
use actorflow_core::error::Result;
use actorflow_core::kernel::{Cost, Kernel, KernelInit, OpContext};
use actorflow_core::resource::{Resource, ResourceManager};
use parking_lot::RwLock;

type Make<R> = Box<dyn Fn(&str, Box<dyn Mailbox>) -> Result<R> + Send + Sync>;
type Agrees<R> = Box<dyn Fn(&R) -> Result<()> + Send + Sync>;

/// Where a node's resource is kept: its container and name.
#[derive(Debug, Clone)]
pub struct Place {
    container: String,
    name: String,
}

impl Place {
    /// The place that the attributes `container` and `shared_name` say; without a shared name, the node's own.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if an attribute is missing.
    pub fn of(init: &KernelInit<'_>) -> Result<Place> {
        let shared = init.attrs.str("shared_name")?;
        Ok(Place {
            container: init.attrs.str("container")?.to_owned(),
            name: if shared.is_empty() { init.name } else { shared }.to_owned(),
        })
    }

    /// A place of that name in the default container.
    pub fn named(name: &str) -> Place {
        Place {
            container: String::new(),
            name: name.to_owned(),
        }
    }
}

/// Outputs the handle.
pub struct Handle<R> {
    place: Place,
    make: Make<R>,
    agrees: Agrees<R>,
    /// The handle, and [`ResourceManager::removals`] when it was looked up.
    cached: RwLock<Option<(u64, Tensor)>>,
}

impl<R: Resource> Handle<R> {
    /// A handle of the resource at `place`; one that exists must be as this node wants it (`agrees`).
    pub fn new(
        place: Place,
        make: impl Fn(&str, Box<dyn Mailbox>) -> Result<R> + Send + Sync + 'static,
        agrees: impl Fn(&R) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Handle {
            place,
            make: Box::new(make),
            agrees: Box::new(agrees),
            cached: RwLock::new(None),
        }
    }

    /// The handle as a tensor.
    ///
    /// # Errors
    /// What making the resource returns; `INVALID_ARGUMENT` if one exists that is otherwise.
    pub fn tensor(&self, resources: &Arc<ResourceManager>) -> Result<Tensor> {
        let removals = resources.removals();
        if let Some((at, t)) = &*self.cached.read()
            && *at == removals
        {
            return Ok(t.clone());
        }
        let Place { container, name } = &self.place;
        let handle = resources.get_or_create(container, name, || (self.make)(name, resources.mailbox()))?;
        (self.agrees)(&*handle.get::<R>()?)?;
        let t = Tensor::resource(handle);
        *self.cached.write() = Some((removals, t.clone()));
        Ok(t)
    }

    /// The resource.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn get(&self, cx: &OpContext<'_>) -> Result<Arc<R>> {
        match self.tensor(&cx.step().resources)?.as_resources()? {
            [h] => h.get::<R>(),
            _ => Err(actorflow_core::Error::internal("a handle is not one handle")),
        }
    }
}

impl<R: Resource> Kernel for Handle<R> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let t = self.tensor(&cx.step().resources)?;
        cx.set_output(0, t);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}
