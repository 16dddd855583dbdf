//! Which device a new node asks for: by name, by the device scopes around it, by device functions, or by what it is
//! tied to.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::scope::{Scope, ScopeGuard};
use super::{Graph, Node, OutputRef};
use crate::attr::Attrs;
use crate::device_name::DeviceName;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::OpDef;
use crate::shape::PartialShape;

/// What a device function sees of the node that is being added.
pub struct NodeSummary<'a> {
    /// The name, before a number makes it unique.
    pub name: &'a str,
    /// The operation's definition.
    pub def: &'static OpDef,
    /// The attributes, defaults filled in.
    pub attrs: &'a Attrs,
    /// The data inputs.
    pub inputs: &'a [OutputRef],
    /// The dtypes of the outputs.
    pub output_types: &'a [DType],
    /// What is known of the shapes of the outputs.
    pub output_shapes: &'a [PartialShape],
    /// What the node and the scopes inside of the function's ask for; these parts win over what the function says.
    pub device: &'a DeviceName,
}

type DeviceFn = Arc<dyn Fn(&NodeSummary<'_>) -> Result<Option<DeviceName>> + Send + Sync>;

/// What one open scope says about devices.
#[derive(Clone)]
pub(crate) enum DeviceLayer {
    Name(DeviceName),
    /// A name that is none; an error of the nodes that are added there.
    Malformed(Error),
    Function(DeviceFn),
}

/// What is said about where a new node goes, beside its ties to other nodes.
pub(super) struct Place<'a> {
    /// What the node itself asks for.
    pub(super) own: DeviceName,
    /// The name, before a number makes it unique.
    pub(super) name: &'a str,
    /// The scopes around it, outermost first, as far as they apply.
    pub(super) layers: &'a [DeviceLayer],
}

impl DeviceLayer {
    fn under(&self, node: &NodeSummary<'_>) -> Result<DeviceName> {
        match self {
            DeviceLayer::Name(outer) => Ok(DeviceName::merge(outer, node.device)),
            DeviceLayer::Malformed(e) => Err(e.clone()),
            DeviceLayer::Function(f) => match f(node).map_err(|e| e.context("device function"))? {
                Some(outer) => Ok(DeviceName::merge(&outer, node.device)),
                None => Ok(node.device.clone()),
            },
        }
    }
}

impl Graph {
    /// Nodes added while the guard lives ask for `device`, for example `"/job:ps/task:0"` or `"/device:CPU:1"`.
    /// Scopes nest: parts that the inner one names win, others are inherited; `""` clears all, device functions too.
    /// A name that is none is an error of every node that is added.
    ///
    /// Nodes that are colocated with another one ask for its device, whatever scopes there are outside of the
    /// colocation; so do nodes that take a reference or a resource handle from a node that asks for a device.
    pub fn device_scope(&self, device: &str) -> ScopeGuard {
        let layer = if device.is_empty() {
            None
        } else {
            Some(match device.parse() {
                Ok(name) => DeviceLayer::Name(name),
                Err(e) => DeviceLayer::Malformed(e.context(format!("device scope {device:?}"))),
            })
        };
        self.push_scope(Scope::Device(layer))
    }

    /// Nodes added while the guard lives ask for the device that `f` names for them, or for none by it. A scope like
    /// [`device_scope`](Self::device_scope): parts that the node itself or scopes inside of this one name win, and `f`
    /// sees them. `f` is called once for each node and must not add nodes. Text that is no device name is an error of
    /// the node.
    ///
    /// ```
    /// # use actorflow_core::Graph;
    /// let g = Graph::new();
    /// let _scope = g.device_function(|node| (node.def.name() == "MatMul").then_some("/gpu:0"));
    /// ```
    pub fn device_function<F, D>(&self, f: F) -> ScopeGuard
    where
        F: Fn(&NodeSummary<'_>) -> Option<D> + Send + Sync + 'static,
        D: TryInto<DeviceName>,
        Error: From<D::Error>,
    {
        let f = move |node: &NodeSummary<'_>| Ok(f(node).map(TryInto::try_into).transpose()?);
        self.push_scope(Scope::Device(Some(DeviceLayer::Function(Arc::new(f)))))
    }

    /// What a node that is about to be added asks for.
    pub(super) fn device_of_new(&self, node: &Node, place: Place<'_>) -> Result<DeviceName> {
        // Where it has to be anyway wins over scopes, which are about nodes that can be anywhere. What the node itself asks
        // for is left as it is, so that a contradiction is seen when the graph is placed.
        let tied = self.device_of_tie(node)?;
        if !tied.is_any() && (place.layers.is_empty() || node.colocate_with.is_empty()) {
            return Ok(if place.own.is_any() { tied } else { place.own });
        }
        let mut device = place.own;
        for layer in place.layers.iter().rev() {
            device = layer.under(&NodeSummary {
                name: place.name,
                def: node.def,
                attrs: &node.attrs,
                inputs: &node.inputs,
                output_types: &node.output_types,
                output_shapes: &node.output_shapes,
                device: &device,
            })?;
        }
        Ok(device)
    }

    /// What the first node that `node` has to be with asks for: one that it is colocated with, or one that gives it a
    /// reference or a resource handle.
    pub(super) fn device_of_tie(&self, node: &Node) -> Result<DeviceName> {
        let text = self.read(|d| {
            let named = node.colocate_with.iter().filter_map(|n| d.by_name.get(n.as_str()));
            let given = (0..node.inputs.len())
                .filter(|&i| node.input_refs[i] || node.input_types[i] == DType::Resource)
                .map(|i| &node.inputs[i].node);
            named
                .chain(given)
                .filter_map(|id| d.nodes.get(id.index()))
                .map(|tie| &tie.device)
                .find(|device| !device.is_empty())
                .cloned()
        });
        text.map_or(Ok(DeviceName::default()), |t| t.parse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Category;
    use crate::register_ops;
    use std::sync::Mutex;

    fn ops() -> Vec<OpDef> {
        vec![
            OpDef::new("DeviceTestValue", Category::User).output("y: float"),
            OpDef::new("DeviceTestVariable", Category::User).output("ref: Ref(float)"),
            OpDef::new("DeviceTestHandle", Category::User).output("handle: resource"),
            OpDef::new("DeviceTestAssign", Category::User)
                .input("ref: Ref(float)")
                .input("value: float"),
            OpDef::new("DeviceTestRead", Category::User)
                .input("handle: resource")
                .output("y: float"),
        ]
    }

    register_ops!(all ops);

    fn added(g: &Graph, op: &str) -> String {
        g.op(op).finish().unwrap().node().device().to_owned()
    }

    fn value(g: &Graph) -> String {
        added(g, "DeviceTestValue")
    }

    #[test]
    fn device_scopes_nest_by_part_and_empty_text_clears() {
        let g = Graph::new();
        assert_eq!(value(&g), "");
        let _ps = g.device_scope("/job:ps/gpu:1");
        {
            let _inner = g.device_scope("/task:2/cpu:0");
            assert_eq!(value(&g), "/job:ps/task:2/device:CPU:0");
            let op = g.op("DeviceTestValue").device("/task:3").finish().unwrap();
            assert_eq!(op.node().device(), "/job:ps/task:3/device:CPU:0");
        }
        assert_eq!(value(&g), "/job:ps/device:GPU:1");
        let _none = g.device_scope("");
        assert_eq!(value(&g), "");
    }

    #[test]
    fn a_malformed_scope_is_an_error_of_the_node_added_there() {
        let g = Graph::new();
        let scope = g.device_scope("/jobb:ps");
        let e = g.op("DeviceTestValue").name("x").finish().unwrap_err();
        assert!(e.message().contains("device scope \"/jobb:ps\""), "{e}");
        assert!(e.message().contains("/job:ps/replica:0/task:1/device:CPU:0"), "{e}");
        assert_eq!(e.node(), Some("x"));
        drop(scope);
        assert_eq!(value(&g), "");
        let e = g.op("DeviceTestValue").device("/cpu:x").finish().unwrap_err();
        assert!(e.message().contains("\"x\""), "{e}");
        assert_eq!(g.len(), 1);
    }

    #[test]
    fn a_device_function_sees_inner_parts_and_these_win() {
        let g = Graph::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let _outer = g.device_scope("/job:worker");
        let _function = g.device_function(move |n| {
            let device = n.device.to_string();
            log.lock().unwrap().push((n.name.to_owned(), device.clone()));
            match n.def.name() {
                "DeviceTestVariable" => Some("/job:ps/task:1/cpu:0"),
                _ => None,
            }
        });
        assert_eq!(value(&g), "/job:worker");
        assert_eq!(added(&g, "DeviceTestVariable"), "/job:ps/task:1/device:CPU:0");
        let _name = g.name_scope("in");
        let _inner = g.device_scope("/task:7");
        assert_eq!(added(&g, "DeviceTestVariable"), "/job:ps/task:7/device:CPU:0");
        assert_eq!(value(&g), "/job:worker/task:7");
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0], ("DeviceTestValue".to_owned(), String::new()));
        assert_eq!(seen[2], ("in/DeviceTestVariable".to_owned(), "/task:7".to_owned()));
    }

    #[test]
    fn device_functions_may_give_names_or_text_and_malformed_text_is_an_error() {
        let g = Graph::new();
        {
            let name: DeviceName = "/gpu:1".parse().unwrap();
            let _f = g.device_function(move |_| Some(name.clone()));
            assert_eq!(value(&g), "/device:GPU:1");
        }
        let _f = g.device_function(|n| Some(format!("/{}", n.def.name())));
        let e = g.op("DeviceTestValue").finish().unwrap_err();
        assert!(
            e.message().contains("device function") && e.message().contains("DeviceTestValue"),
            "{e}"
        );
    }

    #[test]
    fn an_empty_scope_clears_device_functions() {
        let g = Graph::new();
        let _f = g.device_function(|_| Some("/gpu:1"));
        let _none = g.device_scope("");
        assert_eq!(value(&g), "");
    }

    #[test]
    fn a_colocated_node_asks_for_the_other_ones_device_not_for_that_of_the_scopes_around() {
        let g = Graph::new();
        let v = {
            let _ps = g.device_scope("/job:ps");
            g.op("DeviceTestVariable").finish().unwrap()
        };
        let _worker = g.device_scope("/job:worker");
        let by_name = g.op("DeviceTestValue").colocate_with(&v.name()).finish().unwrap();
        assert_eq!(by_name.node().device(), "/job:ps");
        let _with = g.colocate_with(&v).unwrap();
        assert_eq!(value(&g), "/job:ps");
        let _inner = g.device_scope("/job:chief");
        assert_eq!(value(&g), "/job:chief");
    }

    #[test]
    fn what_takes_a_reference_or_a_handle_asks_for_the_device_that_it_is_on() {
        let g = Graph::new();
        let scope = g.device_scope("/job:ps/task:1");
        let v = g.op("DeviceTestVariable").output().unwrap();
        let h = g.op("DeviceTestHandle").output().unwrap();
        drop(scope);
        let free = g.op("DeviceTestHandle").output().unwrap();
        let _worker = g.device_scope("/job:worker");
        let x = g.op("DeviceTestValue").output().unwrap();
        let assign = g.op("DeviceTestAssign").input(&v).input(&x).finish().unwrap();
        assert_eq!(assign.node().device(), "/job:ps/task:1");
        let read = g.op("DeviceTestRead").input(&h).finish().unwrap();
        assert_eq!(read.node().device(), "/job:ps/task:1");
        let read = g.op("DeviceTestRead").input(&free).finish().unwrap();
        assert_eq!(read.node().device(), "/job:worker");
        let read = g.op("DeviceTestRead").input(&h).device("/cpu:1").finish().unwrap();
        assert_eq!(read.node().device(), "/device:CPU:1");
    }
}
