//! The form in which passes see a graph: just what one run needs, free to be rewritten.

use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;

use actorflow_actors::exec::{InputSpec, NodeInfo, NodeSpec, PlanSpec, Role, Source};
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::{Node, NodeId, OutputRef};
use actorflow_core::kernel::{Kernel, KernelInit};
use actorflow_core::op::{OpDef, registry};
use actorflow_core::resource::ResourceManager;
use actorflow_core::{Attrs, DType, Graph, PartialShape, Tensor};

/// The operation of constants.
pub const CONST: &str = "Const";

/// A node of the reduced graph.
#[derive(Clone)]
pub struct IrNode {
    /// The name in the graph; nodes made by passes carry the name of the node they replace.
    pub name: Arc<str>,
    /// The operation.
    pub def: &'static OpDef,
    /// The attributes.
    pub attrs: Attrs,
    /// The data inputs.
    pub inputs: Vec<Source>,
    /// The dtypes of the inputs.
    pub input_types: Vec<DType>,
    /// Which inputs are taken as references.
    pub input_refs: Vec<bool>,
    /// The nodes that must finish before.
    pub control: Vec<usize>,
    /// The dtypes of the outputs.
    pub output_types: Vec<DType>,
    /// Which outputs are references.
    pub output_refs: Vec<bool>,
    /// What is known of the outputs' shapes.
    pub output_shapes: Vec<PartialShape>,
    /// The source line that built it.
    pub location: Option<&'static Location<'static>>,
    /// The nodes that a pass has fused into this one.
    pub parts: Arc<[NodeInfo]>,
    /// The number of its device, in the list that the run was placed with; 0 where there is one device only.
    pub device: usize,
    /// The run asks for this very node to finish.
    pub target: bool,
    /// It is a target, or another node waits for it: it must not go away. [`Ir::sweep`] keeps this up to date.
    pub pinned: bool,
}

/// Operations that are stateful, but that nobody can see run: sources of values and handles.
const SILENT: &[&str] = &[
    "Placeholder",
    "PlaceholderWithDefault",
    "VarHandleOp",
    "Variable",
    "VariableV2",
    "ReadVariableOp",
];

impl IrNode {
    /// Whether passes must leave it alone: it has state or effects, belongs to control flow, or takes or gives
    /// references to variables. (TensorFlow does not flag `Assign` and its kind as stateful.)
    pub fn is_untouchable(&self) -> bool {
        self.def.is_stateful()
            || self.def.is_control_flow()
            || self.input_refs.contains(&true)
            || self.output_refs.contains(&true)
    }

    /// Whether it would be noticed that the node did not run: it writes state, advances a random stream, fails on
    /// purpose, or steers control flow. Reading a variable is not noticed.
    pub fn has_effect(&self) -> bool {
        self.is_untouchable() && !SILENT.contains(&self.def.name())
    }

    /// The nodes of the data inputs.
    pub fn producers(&self) -> impl Iterator<Item = usize> + '_ {
        self.inputs.iter().filter_map(|s| match s {
            Source::Node { node, .. } => Some(*node),
            Source::Feed(_) => None,
        })
    }

    /// The nodes that must finish before: those of the data inputs and the control inputs.
    pub fn dependencies(&self) -> impl Iterator<Item = usize> + '_ {
        self.producers().chain(self.control.iter().copied())
    }

    /// A copy of a graph node without its edges.
    fn from_node(n: &Node) -> IrNode {
        IrNode {
            name: n.shared_name().clone(),
            def: n.def(),
            attrs: n.attrs().clone(),
            inputs: Vec::new(),
            input_types: n.input_types().to_vec(),
            input_refs: n.input_refs().to_vec(),
            control: Vec::new(),
            output_types: n.output_types().to_vec(),
            output_refs: (0..n.num_outputs()).map(|i| n.output_is_ref(i)).collect(),
            output_shapes: (0..n.num_outputs()).map(|i| n.output_shape(i).clone()).collect(),
            location: n.location(),
            parts: Arc::default(),
            device: 0,
            target: false,
            pinned: false,
        }
    }

    /// Makes the node's kernel.
    ///
    /// # Errors
    /// What the kernel factory returns, with the node's name.
    pub fn kernel(&self, resources: &Arc<ResourceManager>) -> Result<Arc<dyn Kernel>> {
        let init = KernelInit {
            name: &self.name,
            op: self.def.name(),
            attrs: &self.attrs,
            input_types: &self.input_types,
            input_refs: &self.input_refs,
            output_types: &self.output_types,
            resources,
        };
        self.def.make_kernel(&init).map(Arc::from).map_err(|e| self.blame(e))
    }

    /// Adds to an error what is known of this node.
    pub fn blame(&self, e: Error) -> Error {
        self.info().blame(e)
    }

    /// How the executor treats the node.
    fn role(&self) -> Result<Role> {
        Ok(match self.def.name() {
            "Switch" | "RefSwitch" => Role::Switch,
            "_SwitchN" => Role::SwitchN,
            "Merge" | "RefMerge" => Role::Merge,
            "Enter" | "RefEnter" => {
                let parallel = self.attrs.int("parallel_iterations")?;
                Role::Enter {
                    frame: self.attrs.str("frame_name")?.into(),
                    is_constant: self.attrs.bool("is_constant")?,
                    parallel_iterations: u32::try_from(parallel).unwrap_or(if parallel > 0 { u32::MAX } else { 0 }),
                }
            }
            "Exit" | "RefExit" => Role::Exit,
            "NextIteration" | "RefNextIteration" => Role::NextIteration,
            "LoopCond" => Role::LoopCond,
            "ControlTrigger" => Role::ControlTrigger,
            "_Send" | "_HostSend" if self.attrs.bool("may_be_dead")? => Role::Send,
            "_Recv" | "_HostRecv" if self.attrs.bool("may_be_dead")? => Role::Recv,
            _ => Role::Ordinary,
        })
    }

    /// What messages say about this node.
    pub fn info(&self) -> NodeInfo {
        NodeInfo {
            name: self.name.clone(),
            op: self.def.name(),
            location: self.location,
            parts: self.parts.clone(),
        }
    }
}

/// The part of a graph that one set of feeds, fetches and targets needs.
#[derive(Clone, Default)]
pub struct Ir {
    /// The nodes; those that passes have removed are `None`.
    pub nodes: Vec<Option<IrNode>>,
    /// The number of feeds.
    pub feeds: usize,
    /// What is fetched.
    pub fetches: Vec<Source>,
}

#[derive(Clone, Default)]
struct Use {
    by: Vec<usize>,
    fetched: bool,
}

/// Who uses the outputs of each node, when it was asked ([`Ir::users`]).
pub struct Users(Vec<Use>);

impl Users {
    /// The node that has the only data edge from node `i`, if `i` is not fetched.
    pub fn only_data_user(&self, i: usize) -> Option<usize> {
        match self.0.get(i) {
            Some(Use { by, fetched: false }) if by.len() == 1 => by.first().copied(),
            _ => None,
        }
    }

    /// Whether all data edges from node `i` go to these nodes, and it is not fetched.
    pub fn all_among(&self, i: usize, nodes: &[usize]) -> bool {
        let inside = |u: &Use| !u.fetched && u.by.iter().all(|j| nodes.contains(j));
        self.0.get(i).is_some_and(inside)
    }

    /// The same, if moreover nobody waits for node `i` and it is no target: nobody but that user would notice if it
    /// went away.
    pub fn only_user(&self, ir: &Ir, i: usize) -> Option<usize> {
        self.only_data_user(i).filter(|_| ir.node(i).is_some_and(|n| !n.pinned))
    }
}

impl Ir {
    /// Reduces a graph: everything that `fetches` and `targets` depend on, cut at `feeds`.
    ///
    /// # Errors
    /// `NOT_FOUND` for ids that the graph does not have.
    pub fn reduce(graph: &Graph, feeds: &[OutputRef], fetches: &[OutputRef], targets: &[NodeId]) -> Result<Ir> {
        Ir::reduce_placed(graph, feeds, fetches, targets, |_| 0)
    }

    /// [`reduce`](Self::reduce), for nodes that are on several devices.
    ///
    /// # Errors
    /// As [`reduce`](Self::reduce).
    pub fn reduce_placed(
        graph: &Graph,
        feeds: &[OutputRef],
        fetches: &[OutputRef],
        targets: &[NodeId],
        device_of: impl Fn(NodeId) -> usize,
    ) -> Result<Ir> {
        let nodes = graph.nodes();
        let fed: HashMap<OutputRef, usize> = feeds.iter().enumerate().map(|(k, f)| (*f, k)).collect();
        // What only waits for a placeholder waits for its feed, which is there from the start; any other fed node
        // still runs for those that wait for its effects.
        let waits = |c: &&NodeId| {
            let placeholder = nodes.get(c.index()).is_some_and(|n| n.op_name() == "Placeholder");
            !(placeholder && fed.contains_key(&OutputRef { node: **c, index: 0 }))
        };
        let mut number: HashMap<NodeId, usize> = HashMap::new();
        let mut found: Vec<NodeId> = Vec::new();
        let mut visit = |id: NodeId, todo: &mut Vec<NodeId>| {
            number.entry(id).or_insert_with(|| {
                found.push(id);
                todo.push(id);
                found.len() - 1
            });
        };
        let mut todo = Vec::new();
        for f in fetches.iter().filter(|f| !fed.contains_key(f)) {
            visit(f.node, &mut todo);
        }
        for t in targets {
            visit(*t, &mut todo);
        }
        while let Some(id) = todo.pop() {
            let n = nodes
                .get(id.index())
                .ok_or_else(|| Error::not_found("a node is not of this graph"))?;
            for r in n.inputs().iter().filter(|r| !fed.contains_key(r)) {
                visit(r.node, &mut todo);
            }
            for c in n.control_inputs().iter().filter(waits) {
                visit(*c, &mut todo);
            }
        }
        let source = |r: &OutputRef| match fed.get(r) {
            Some(k) => Source::Feed(*k),
            None => Source::Node {
                node: number[&r.node],
                output: r.index as usize,
            },
        };
        let mut ir = Ir {
            nodes: Vec::with_capacity(found.len()),
            feeds: feeds.len(),
            fetches: Vec::new(),
        };
        for id in &found {
            let n = &nodes[id.index()];
            let mut node = IrNode::from_node(n);
            node.device = device_of(*id);
            node.inputs = n.inputs().iter().map(source).collect();
            node.control = n.control_inputs().iter().filter(waits).map(|c| number[c]).collect();
            ir.nodes.push(Some(node));
        }
        for t in targets {
            if let Some(n) = &mut ir.nodes[number[t]] {
                n.target = true;
            }
        }
        ir.fetches = fetches.iter().map(source).collect();
        ir.pin();
        Ok(ir)
    }

    /// Sets [`IrNode::pinned`] anew.
    fn pin(&mut self) {
        for n in self.nodes.iter_mut().flatten() {
            n.pinned = n.target;
        }
        let sources: Vec<usize> = self
            .nodes
            .iter()
            .flatten()
            .flat_map(|n| n.control.iter().copied())
            .collect();
        for c in sources {
            if let Some(n) = &mut self.nodes[c] {
                n.pinned = true;
            }
        }
    }

    /// The node of that number, if it is still there.
    pub fn node(&self, i: usize) -> Option<&IrNode> {
        self.nodes.get(i).and_then(Option::as_ref)
    }

    /// Who uses the nodes' outputs.
    pub fn users(&self) -> Users {
        let mut users = Users(vec![Use::default(); self.nodes.len()]);
        for (i, n) in self.nodes.iter().enumerate() {
            for s in n.iter().flat_map(|n| &n.inputs) {
                if let Source::Node { node, .. } = *s {
                    users.0[node].by.push(i);
                }
            }
        }
        for f in &self.fetches {
            if let Source::Node { node, .. } = *f {
                users.0[node].fetched = true;
            }
        }
        users
    }

    /// Adds a node; its number.
    pub fn add(&mut self, node: IrNode) -> usize {
        self.nodes.push(Some(node));
        self.nodes.len() - 1
    }

    /// Whether a source is a reference to a variable.
    pub fn is_ref(&self, s: Source) -> bool {
        match s {
            Source::Node { node, output } => self
                .node(node)
                .is_some_and(|n| n.output_refs.get(output).copied().unwrap_or(false)),
            Source::Feed(_) => false,
        }
    }

    /// Whether passes may merge, replace or leave out a node: it may be touched, and it does not matter when it runs.
    pub fn is_free(&self, n: &IrNode) -> bool {
        !n.is_untouchable() && !self.reads_reference(n)
    }

    /// Whether a node takes the value of a reference: it reads a variable at the time when it runs.
    pub fn reads_reference(&self, n: &IrNode) -> bool {
        let inputs = n.inputs.iter().zip(&n.input_refs);
        inputs.into_iter().any(|(s, want_ref)| !want_ref && self.is_ref(*s))
    }

    /// What is known of the shape of a source, if it is no feed.
    pub fn shape_of(&self, s: Source) -> Option<&PartialShape> {
        match s {
            Source::Node { node, output } => self.node(node)?.output_shapes.get(output),
            Source::Feed(_) => None,
        }
    }

    /// The value of a source that is a constant.
    pub fn constant(&self, s: Source) -> Option<&Tensor> {
        match s {
            Source::Node { node, .. } => {
                let n = self.node(node).filter(|n| n.def.name() == CONST)?;
                n.attrs.tensor("value").ok()
            }
            Source::Feed(_) => None,
        }
    }

    /// The nodes with every node behind those it depends on. Loops are cut where they jump back; nodes of other
    /// cycles, which no plan accepts, are left out.
    pub fn order(&self) -> Vec<usize> {
        let jumps_back = |i: usize| {
            self.node(i)
                .is_some_and(|n| matches!(n.def.name(), "NextIteration" | "RefNextIteration"))
        };
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        let mut waiting = vec![0usize; self.nodes.len()];
        for (i, n) in self.nodes.iter().enumerate() {
            for from in n.iter().flat_map(IrNode::dependencies).filter(|f| !jumps_back(*f)) {
                users[from].push(i);
                waiting[i] += 1;
            }
        }
        let mut order: Vec<usize> = (0..self.nodes.len())
            .filter(|i| self.nodes[*i].is_some() && waiting[*i] == 0)
            .collect();
        let mut next = 0;
        while let Some(&i) = order.get(next) {
            next += 1;
            for &u in &users[i] {
                waiting[u] -= 1;
                if waiting[u] == 0 {
                    order.push(u);
                }
            }
        }
        order
    }

    /// For each node, whether it or something that it depends on has an effect ([`IrNode::has_effect`]).
    /// `order` is that of [`order`](Self::order).
    pub fn effects(&self, order: &[usize]) -> Vec<bool> {
        let mut effects = vec![false; self.nodes.len()];
        for &i in order {
            if let Some(n) = self.node(i) {
                effects[i] = n.has_effect() || n.dependencies().any(|d| effects[d]);
            }
        }
        effects
    }

    /// Turns a node with one output into a constant. Control inputs stay.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` if there is no `Const` operation.
    pub fn make_constant(&mut self, i: usize, value: Tensor) -> Result<()> {
        let def = registry().get(CONST)?;
        if let Some(n) = &mut self.nodes[i] {
            n.def = def;
            n.attrs = Attrs::new();
            n.attrs.set("dtype", value.dtype());
            n.output_shapes = vec![PartialShape::from(value.shape())];
            n.attrs.set("value", value);
            n.inputs.clear();
            n.input_types.clear();
            n.input_refs.clear();
        }
        Ok(())
    }

    /// Makes everyone who uses the source of an entry use its value. Chains of entries are followed.
    pub fn redirect(&mut self, to: &HashMap<(usize, usize), Source>) {
        if to.is_empty() {
            return;
        }
        let follow = |s: &mut Source| {
            while let Source::Node { node, output } = *s
                && let Some(next) = to.get(&(node, output))
            {
                *s = *next;
            }
        };
        for n in self.nodes.iter_mut().flatten() {
            n.inputs.iter_mut().for_each(follow);
        }
        self.fetches.iter_mut().for_each(follow);
    }

    /// Which nodes fetches and targets depend on, by data and, of those nodes that `waits` says, by control edges.
    pub fn live(&self, waits: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        let mut todo: Vec<usize> = Vec::new();
        for f in &self.fetches {
            if let Source::Node { node, .. } = f {
                todo.push(*node);
            }
        }
        todo.extend((0..self.nodes.len()).filter(|i| self.node(*i).is_some_and(|n| n.target)));
        while let Some(i) = todo.pop() {
            if std::mem::replace(&mut live[i], true) {
                continue;
            }
            let Some(n) = self.node(i) else { continue };
            if waits(i) {
                todo.extend(&n.control);
            }
            todo.extend(n.producers());
        }
        live
    }

    /// Removes nodes that nobody uses and that are not asked for.
    pub fn sweep(&mut self) {
        let live = self.live(|_| true);
        for (n, live) in self.nodes.iter_mut().zip(live) {
            if !live {
                *n = None;
            }
        }
        self.pin();
    }

    /// Makes the kernels and the specification that the executor compiles.
    ///
    /// # Errors
    /// What a kernel factory returns, with the node's name.
    pub fn into_spec(self, resources: &Arc<ResourceManager>) -> Result<PlanSpec> {
        let mut number = vec![usize::MAX; self.nodes.len()];
        let mut n = 0;
        for (i, node) in self.nodes.iter().enumerate() {
            if node.is_some() {
                number[i] = n;
                n += 1;
            }
        }
        let is_ref = |s: &Source| self.is_ref(*s);
        let moved = |s: &Source| match *s {
            Source::Node { node, output } => Source::Node {
                node: number[node],
                output,
            },
            feed => feed,
        };
        let mut spec = PlanSpec {
            nodes: Vec::with_capacity(n),
            feeds: self.feeds,
            fetches: Vec::new(),
        };
        for node in self.nodes.iter().flatten() {
            let inputs = node.inputs.iter().zip(&node.input_refs);
            spec.nodes.push(NodeSpec {
                info: node.info(),
                kernel: node.kernel(resources)?,
                inputs: inputs
                    .map(|(s, want_ref)| InputSpec {
                        source: moved(s),
                        deref: !want_ref && is_ref(s),
                    })
                    .collect(),
                control: node.control.iter().map(|c| number[*c]).collect(),
                outputs: node.output_types.len(),
                role: node.role()?,
            });
        }
        for f in &self.fetches {
            let source = moved(f);
            if is_ref(f)
                && let Source::Node { node, output } = *f
                && let Some(n) = self.node(node)
            {
                // A fetched reference is read by a node of its own.
                let identity = registry().get("Identity")?;
                let types = [n.output_types[output]];
                let init = KernelInit {
                    name: &n.name,
                    op: identity.name(),
                    attrs: &n.attrs,
                    input_types: &types,
                    input_refs: &[false],
                    output_types: &types,
                    resources,
                };
                spec.nodes.push(NodeSpec {
                    info: n.info(),
                    kernel: identity.make_kernel(&init).map(Arc::from)?,
                    inputs: vec![InputSpec { source, deref: true }],
                    control: Vec::new(),
                    outputs: 1,
                    role: Role::Ordinary,
                });
                spec.fetches.push(Source::Node {
                    node: spec.nodes.len() - 1,
                    output: 0,
                });
            } else {
                spec.fetches.push(source);
            }
        }
        Ok(spec)
    }
}
