//! Resources: what outlives a run. Variables, queues, mutexes, tables and the like, by container and name.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::actor::{Actor, Claimable, Mailbox, MailboxFactory};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::files::FilePolicy;
use crate::shape::PartialShape;
use crate::tensor::Tensor;

/// A thing that a session owns across runs.
pub trait Resource: Any + Send + Sync {
    /// What it is, for messages: `variable`, `queue`.
    fn kind(&self) -> &'static str;

    /// The bytes that it holds, for reports; 0 if unknown.
    fn byte_size(&self) -> usize {
        0
    }
}

/// A tensor element that refers to a resource.
#[derive(Clone)]
pub struct ResourceHandle {
    name: Arc<str>,
    target: Arc<dyn Resource>,
}

impl ResourceHandle {
    /// A handle of `target`.
    pub fn new(name: impl Into<Arc<str>>, target: Arc<dyn Resource>) -> Self {
        ResourceHandle {
            name: name.into(),
            target,
        }
    }

    /// The resource's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both refer to the same resource.
    pub fn same(&self, other: &ResourceHandle) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.target), Arc::as_ptr(&other.target))
    }

    /// The resource, without its type.
    pub fn target(&self) -> &Arc<dyn Resource> {
        &self.target
    }

    /// The resource as a `T`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the resource and both kinds if it is something else.
    pub fn get<T: Resource>(&self) -> Result<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = self.target.clone();
        any.downcast::<T>().map_err(|_| {
            Error::invalid(format!(
                "resource {:?} is a {}, not the {} that the operation needs",
                self.name,
                self.target.kind(),
                short_type_name::<T>()
            ))
        })
    }
}

fn short_type_name<T>() -> &'static str {
    let n = std::any::type_name::<T>();
    n.rsplit("::").next().unwrap_or(n)
}

impl fmt::Debug for ResourceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.target.kind(), self.name)
    }
}

/// All resources of a session (or of a task), by container and name.
pub struct ResourceManager {
    mailboxes: MailboxFactory,
    map: Mutex<HashMap<(String, String), ResourceHandle>>,
    random: Mutex<HashMap<String, Arc<AtomicU64>>>,
    removals: AtomicU64,
    files: OnceLock<FilePolicy>,
}

impl ResourceManager {
    /// An empty manager whose actors get their mailboxes from `mailboxes`.
    pub fn new(mailboxes: MailboxFactory) -> Arc<Self> {
        Arc::new(ResourceManager {
            mailboxes,
            map: Mutex::default(),
            random: Mutex::default(),
            removals: AtomicU64::new(0),
            files: OnceLock::new(),
        })
    }

    /// Says which files the operations of graphs may touch from now on; without it, any.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` if it was said before: what a task allows does not change while it runs.
    pub fn set_files(&self, policy: FilePolicy) -> Result<()> {
        let again = |_| Error::failed_precondition("which files graphs may touch was set before");
        self.files.set(policy).map_err(again)
    }

    /// Which files the operations of graphs may touch.
    #[inline]
    pub fn files(&self) -> &FilePolicy {
        const ANYTHING: &FilePolicy = &FilePolicy::anything();
        self.files.get().unwrap_or(ANYTHING)
    }

    /// A mailbox for a new resource actor.
    pub fn mailbox(&self) -> Box<dyn Mailbox> {
        (self.mailboxes)()
    }

    /// The resource of that container and name, made by `make` if there is none yet.
    ///
    /// # Errors
    /// What `make` returns; `INVALID_ARGUMENT` if there is one of another type.
    pub fn get_or_create<T: Resource>(
        &self,
        container: &str,
        name: &str,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<ResourceHandle> {
        let key = (container.to_owned(), name.to_owned());
        let mut map = self.map.lock();
        if let Some(h) = map.get(&key) {
            h.get::<T>()?;
            return Ok(h.clone());
        }
        let h = ResourceHandle::new(name, Arc::new(make()?));
        map.insert(key, h.clone());
        Ok(h)
    }

    /// The resource of that container and name.
    ///
    /// # Errors
    /// `NOT_FOUND` naming both.
    pub fn get(&self, container: &str, name: &str) -> Result<ResourceHandle> {
        let key = (container.to_owned(), name.to_owned());
        let found = self.map.lock().get(&key).cloned();
        found.ok_or_else(|| {
            let place = if container.is_empty() {
                String::new()
            } else {
                format!(" in container {container:?}")
            };
            Error::not_found(format!("there is no resource {name:?}{place}"))
        })
    }

    /// Removes a resource; those who hold a handle keep it alive. True if there was one.
    pub fn remove(&self, container: &str, name: &str) -> bool {
        let removed = self.map.lock().remove(&(container.to_owned(), name.to_owned()));
        self.removals.fetch_add(1, Ordering::Release);
        removed.is_some()
    }

    /// How often something was removed. A handle that was looked up is current as long as this does not change.
    #[inline]
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Removes everything in the container; `""` is the default one.
    pub fn clear_container(&self, container: &str) {
        let removed: Vec<_> = {
            let mut map = self.map.lock();
            let keys: Vec<_> = map.keys().filter(|k| k.0 == container).cloned().collect();
            keys.into_iter().filter_map(|k| map.remove(&k)).collect()
        };
        self.removals.fetch_add(1, Ordering::Release);
        drop(removed);
    }

    /// Removes everything.
    pub fn clear_all(&self) {
        let removed = {
            let mut map = self.map.lock();
            if map.is_empty() {
                return;
            }
            std::mem::take(&mut *map)
        };
        self.removals.fetch_add(1, Ordering::Release);
        drop(removed);
    }

    /// Every resource: container, name, handle; sorted.
    pub fn list(&self) -> Vec<(String, String, ResourceHandle)> {
        let mut v: Vec<_> = self
            .map
            .lock()
            .iter()
            .map(|(k, h)| (k.0.clone(), k.1.clone(), h.clone()))
            .collect();
        v.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        v
    }

    /// The counter that a random op of this node advances; shared by every plan of the session.
    pub fn random_counter(&self, node: &str) -> Arc<AtomicU64> {
        self.random.lock().entry(node.to_owned()).or_default().clone()
    }

    /// Sets every random op back to the start of its stream.
    pub fn reset_random(&self) {
        for c in self.random.lock().values() {
            c.store(0, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceManager({} resources)", self.map.lock().len())
    }
}

/// The state of a [`Variable`].
#[derive(Debug, Default)]
pub struct VariableState {
    /// The present value; `None` until it is initialised.
    pub value: Option<Tensor>,
    /// How often it was written.
    pub version: u64,
}

/// A variable actor, behind both TensorFlow's reference variables and its resource variables.
pub struct Variable {
    name: String,
    dtype: DType,
    shape: PartialShape,
    actor: Actor<VariableState>,
}

impl Variable {
    /// An uninitialised variable.
    pub fn new(name: &str, dtype: DType, shape: PartialShape, mailbox: Box<dyn Mailbox>) -> Self {
        Variable {
            name: name.to_owned(),
            dtype,
            shape,
            actor: Actor::new(mailbox, VariableState::default()),
        }
    }

    /// The name, as messages give it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element type of every value.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The declared shape, as far as it is known.
    pub fn shape(&self) -> &PartialShape {
        &self.shape
    }

    /// The actor with the value.
    pub fn actor(&self) -> &Actor<VariableState> {
        &self.actor
    }

    /// The error of reading it before it was initialised.
    pub fn uninitialized(&self) -> Error {
        Error::failed_precondition(format!(
            "attempting to use uninitialized value {}: run its initializer first (for example the graph's \
             global_variables_initializer), or restore it from a checkpoint",
            self.name
        ))
    }
}

impl Claimable for Variable {
    fn mailbox(&self) -> &dyn Mailbox {
        self.actor.mailbox()
    }
}

impl Resource for Variable {
    fn kind(&self) -> &'static str {
        "variable"
    }

    fn byte_size(&self) -> usize {
        self.actor
            .try_with(|s| s.value.as_ref().map_or(0, Tensor::byte_size))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::local_mailboxes;

    struct Other;
    impl Resource for Other {
        fn kind(&self) -> &'static str {
            "other"
        }
    }

    #[test]
    fn resources_are_shared_by_name_and_typed() {
        let m = ResourceManager::new(local_mailboxes());
        let make = || Ok(Variable::new("v", DType::F32, PartialShape::UNKNOWN, m.mailbox()));
        let a = m.get_or_create("", "v", make).unwrap();
        let b = m
            .get_or_create("", "v", || -> Result<Variable> { panic!("made already") })
            .unwrap();
        assert!(a.same(&b));
        assert!(m.get_or_create("", "v", || Ok(Other)).is_err());
        assert!(a.get::<Variable>().is_ok() && a.get::<Other>().is_err());
        m.clear_container("");
        assert_eq!(m.get("", "v").unwrap_err().code(), crate::error::Code::NotFound);
    }
    #[test]
    fn which_files_graphs_may_touch_is_said_once() {
        let m = ResourceManager::new(local_mailboxes());
        assert!(m.files().allows_anything());
        m.set_files(FilePolicy::nothing()).unwrap();
        assert!(!m.files().allows_anything());
        let e = m.set_files(FilePolicy::anything()).unwrap_err();
        assert_eq!(e.code(), crate::error::Code::FailedPrecondition);
        assert!(!m.files().allows_anything());
    }
}
