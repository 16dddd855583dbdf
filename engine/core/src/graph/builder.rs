//! Adding a node: collect inputs and attributes, check them against the definition, infer types and shapes.

use std::panic::Location;
use std::sync::Arc;

use super::device::Place;
use super::scope::Effective;
use super::shape_context::infer;
use super::{Context, ContextRef, Graph, Node, NodeId, Operation, Output, OutputRef};
use crate::attr::{AttrValue, Attrs};
use crate::device_name::DeviceName;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{ArgDef, ArgType, AttrKind, OpDef, registry};
use crate::shape::PartialShape;

enum Arg {
    One(Output),
    List(Vec<Output>),
}

/// A node in the making; [`finish`](Self::finish) checks it and adds it to the graph.
#[must_use = "call finish() or output() to add the node"]
pub struct OpBuilder {
    graph: Graph,
    op: String,
    name: Option<String>,
    args: Vec<Arg>,
    attrs: Attrs,
    control: Vec<NodeId>,
    device: Option<String>,
    default_device: Option<String>,
    colocate: Vec<String>,
    location: Option<&'static Location<'static>>,
    failed: Option<Error>,
    /// The flat inputs of an imported node, instead of `args`.
    flat: Option<Vec<(OutputRef, DType, bool)>>,
    /// Which of the flat inputs only stand in for a back edge.
    back_edges: Vec<usize>,
    exact: bool,
    /// Output shapes that are given instead of inferred.
    shapes: Vec<(usize, PartialShape)>,
}

impl Graph {
    /// Starts a node of operation `op`, for example `g.op("MatMul").input(&a).input(&b).output()?`.
    #[track_caller]
    pub fn op(&self, op: &str) -> OpBuilder {
        OpBuilder {
            graph: self.clone(),
            op: op.to_owned(),
            name: None,
            args: Vec::new(),
            attrs: Attrs::new(),
            control: Vec::new(),
            device: None,
            default_device: None,
            colocate: Vec::new(),
            location: Some(Location::caller()),
            failed: None,
            flat: None,
            back_edges: Vec::new(),
            exact: false,
            shapes: Vec::new(),
        }
    }
}

impl OpBuilder {
    /// The next input.
    pub fn input(mut self, x: &Output) -> Self {
        self.args.push(Arg::One(x.clone()));
        self
    }

    /// The next input, a list.
    pub fn input_list(mut self, xs: &[Output]) -> Self {
        self.args.push(Arg::List(xs.to_vec()));
        self
    }

    /// Sets an attribute. Types and list lengths that follow from the inputs need not be set.
    pub fn attr(mut self, name: &str, value: impl Into<AttrValue>) -> Self {
        self.attrs.set(name, value);
        self
    }

    /// Sets several attributes.
    pub fn attrs(mut self, attrs: &Attrs) -> Self {
        for (k, v) in attrs.iter() {
            self.attrs.set(k, v.clone());
        }
        self
    }

    /// The node's name, inside the open name scopes; the operation's name by default. Made unique by a number.
    /// A name that ends in `/` is the whole name, without the scopes and without a number.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The node starts only after `op` has finished.
    pub fn control_input(mut self, op: &Operation) -> Self {
        if self.graph.same(op.graph()) {
            self.control.push(op.id());
        } else {
            self.failed = Some(Error::invalid(format!(
                "control input {:?} is of another graph",
                op.name()
            )));
        }
        self
    }

    /// The device to ask for, in addition to what the open device scopes say; its parts win.
    pub fn device(mut self, device: &str) -> Self {
        self.device = Some(device.to_owned());
        self
    }

    /// For importers: the device to ask for if neither the node itself nor one that it has to be with asks for any.
    pub fn default_device(mut self, device: &str) -> Self {
        self.default_device = Some(device.to_owned());
        self
    }

    /// The node is placed on the device of the node of that name, whatever the open device scopes say.
    pub fn colocate_with(mut self, node: &str) -> Self {
        self.colocate.push(node.to_owned());
        self
    }

    /// For importers: exactly this name, no scopes, and no source line.
    pub fn imported(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self.exact = true;
        self.location = None;
        self
    }

    /// For importers: all inputs in order, lists flattened, with dtype and "is a reference".
    pub fn flat_inputs(mut self, inputs: Vec<(OutputRef, DType, bool)>) -> Self {
        self.flat = Some(inputs);
        self
    }

    /// For importers: flat input `index` is a stand-in of the same dtype for a back edge whose producer does not
    /// exist yet, so nothing is concluded from its shape. [`Graph::set_loop_input`] replaces it.
    pub fn back_edge(mut self, index: usize) -> Self {
        self.back_edges.push(index);
        self
    }

    /// What is known of the shape of output `index`, in place of what would be inferred. The caller answers for it:
    /// for the values of a loop that may change their shape, and for those that come back from a stack.
    pub fn output_shape(mut self, index: usize, shape: PartialShape) -> Self {
        self.shapes.push((index, shape));
        self
    }

    /// Adds the node and gives its only (or first) output.
    ///
    /// # Errors
    /// As [`finish`](Self::finish); `INVALID_ARGUMENT` if the operation has no output.
    pub fn output(self) -> Result<Output> {
        self.finish()?.output(0)
    }

    /// Checks the node against the definition, infers attributes, dtypes and shapes, and adds it.
    ///
    /// # Errors
    /// Naming the node, the operation and the source line: `UNIMPLEMENTED` for an unknown operation,
    /// `INVALID_ARGUMENT` for wrong numbers, dtypes or shapes of inputs, and wrong or missing attributes.
    pub fn finish(self) -> Result<Operation> {
        let (op, location) = (self.op.clone(), self.location);
        let shown = self.name.clone().unwrap_or_else(|| op.clone());
        self.build().map_err(|e| {
            let e = e.at_node(&shown, &op);
            match location {
                Some(l) => e.built_at(l),
                None => e,
            }
        })
    }

    fn build(mut self) -> Result<Operation> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let def = registry().get(&self.op)?;
        for (k, v) in self.attrs.iter() {
            if let Some(a) = def.attr_def(k) {
                a.check(v).map_err(Error::invalid)?;
            } else if !k.starts_with('_') {
                let known: Vec<_> = def.attrs().iter().map(|a| a.name.as_str()).collect();
                return Err(Error::invalid(format!(
                    "{} has no attribute {k:?}; it has: {}",
                    def.name(),
                    known.join(", ")
                )));
            }
        }
        let scope = self.graph.effective_scope();
        let mut flat = match self.flat.take() {
            Some(flat) => self.match_flat(def, flat)?,
            None => self.match_args(def)?,
        };
        def.fill_defaults(&mut self.attrs);
        for a in def.attrs() {
            match self.attrs.get(&a.name) {
                Some(v) => a.check(v).map_err(Error::invalid)?,
                None => {
                    return Err(Error::invalid(format!(
                        "attribute {:?} ({}) must be set: it has no default and does not follow from the inputs",
                        a.name,
                        a.kind.name()
                    )));
                }
            }
        }
        let (input_types, input_refs) = self.expected_inputs(def, &flat)?;
        let (output_types, output_refs) = arg_types(def.outputs(), &self.attrs)?;

        let context = scope.context.clone();
        let scope = if self.exact { Effective::default() } else { scope };
        let mut control = scope.control;
        control.append(&mut self.control);
        let context = match context {
            Some(c) => self.route(c, &mut flat, &mut control)?,
            None => None,
        };
        control.sort_unstable();
        control.dedup();
        let (mut colocate, mut layers) = (scope.colocate, scope.devices);
        if !self.colocate.is_empty() {
            layers.clear();
        }
        colocate.append(&mut self.colocate);
        let own_device = match &self.device {
            Some(d) => d.parse::<DeviceName>()?,
            None => DeviceName::default(),
        };
        let mut node = Node {
            id: NodeId(0),
            name: "".into(),
            def,
            attrs: self.attrs,
            inputs: flat.iter().map(|f| f.0).collect(),
            input_types,
            input_refs,
            control_inputs: control,
            output_shapes: Vec::new(),
            output_types,
            output_refs,
            device: String::new(),
            colocate_with: colocate,
            location: self.location,
        };
        node.output_shapes = infer(&self.graph, &node, &self.back_edges)?;
        for (i, shape) in self.shapes {
            if let Some(s) = node.output_shapes.get_mut(i) {
                *s = shape;
            }
        }

        node.device = if self.exact {
            // As the file spells it, so that it is written back like that.
            match (self.device, self.default_device) {
                (Some(text), _) if !text.is_empty() => text,
                (_, Some(default)) => {
                    let tied = self.graph.device_of_tie(&node)?;
                    let apart = !tied.is_any() && tied != default.parse()?;
                    if apart { String::new() } else { default }
                }
                _ => String::new(),
            }
        } else {
            let name = match self.name.as_deref().unwrap_or(def.name()) {
                whole if whole.ends_with('/') => whole.trim_end_matches('/').to_owned(),
                inner => format!("{}{inner}", scope.prefix),
            };
            let place = Place {
                own: own_device,
                name: &name,
                layers: &layers,
            };
            self.graph.device_of_new(&node, place)?.to_string()
        };

        let op = self.graph.write(|d| {
            // TensorFlow's internal operations start with an underscore, names of nodes may not.
            let wanted = self.name.as_deref().unwrap_or(def.name().trim_start_matches('_'));
            let name = if self.exact {
                if d.by_name.contains_key(wanted) {
                    return Err(Error::already_exists(format!("there is a node {wanted:?} already")));
                }
                d.name_uses.insert(wanted.to_ascii_lowercase(), 1);
                wanted.to_owned()
            } else if let Some(whole) = wanted.strip_suffix('/') {
                // The name of an open scope, which is unique already.
                check_name(whole)?;
                if d.by_name.contains_key(whole) {
                    return Err(Error::already_exists(format!("there is a node {whole:?} already")));
                }
                d.name_uses.entry(whole.to_ascii_lowercase()).or_insert(1);
                whole.to_owned()
            } else {
                check_name(wanted)?;
                d.unique_name(&format!("{}{wanted}", scope.prefix))
            };
            let id = u32::try_from(d.nodes.len())
                .map(NodeId)
                .map_err(|_| Error::exhausted("too many nodes"))?;
            node.id = id;
            if let Ok(frame) = node.attrs.str("frame_name") {
                d.frames.insert(frame.to_owned());
            }
            node.name = name.into();
            d.by_name.insert(node.name.clone(), id);
            d.nodes.push(Arc::new(node));
            Ok(Operation::new(self.graph.clone(), id))
        })?;
        if let Some(c) = context {
            c.added(&op);
        }
        Ok(op)
    }

    /// Replaces inputs and control inputs by what a node in this context reads and waits for; the context that the
    /// node ends up in.
    fn route(
        &self,
        context: Arc<dyn Context>,
        flat: &mut [(OutputRef, DType, bool)],
        control: &mut Vec<NodeId>,
    ) -> Result<ContextRef> {
        let outputs = |flat: &[(OutputRef, DType, bool)]| {
            flat.iter()
                .map(|f| self.graph.output_of(f.0))
                .collect::<Result<Vec<_>>>()
        };
        let mut context = context;
        if let Some(other) = context.home(&self.op, &outputs(flat)?) {
            control.clear();
            match other {
                Some(c) => context = c,
                None => return Ok(None),
            }
        }
        for f in flat.iter_mut() {
            let x = context.bring_in(&self.graph.output_of(f.0)?)?;
            *f = (x.as_ref(), x.dtype(), x.is_ref());
        }
        let given = std::mem::take(control);
        for c in given {
            let op = Operation::new(self.graph.clone(), c);
            control.extend(context.wait_for(&op)?.map(|op| op.id()));
        }
        control.extend(context.pin(&outputs(flat)?, !control.is_empty()).map(|op| op.id()));
        Ok(Some(context))
    }

    /// Matches the arguments with the definition's inputs and infers attributes from them.
    fn match_args(&mut self, def: &'static OpDef) -> Result<Vec<(OutputRef, DType, bool)>> {
        if self.args.len() != def.inputs().len() {
            return Err(Error::invalid(format!(
                "{def} takes {} inputs, got {}",
                def.inputs().len(),
                self.args.len()
            )));
        }
        let mut flat = Vec::new();
        for (arg, given) in def.inputs().iter().zip(std::mem::take(&mut self.args)) {
            let xs = match (given, arg.is_list()) {
                (Arg::One(x), false) => vec![x],
                (Arg::List(xs), true) => xs,
                (Arg::One(_), true) => {
                    return Err(Error::invalid(format!(
                        "input {:?} of {} is a list of tensors",
                        arg.name,
                        def.name()
                    )));
                }
                (Arg::List(_), false) => {
                    return Err(Error::invalid(format!(
                        "input {:?} of {} is one tensor, not a list",
                        arg.name,
                        def.name()
                    )));
                }
            };
            let mut types = Vec::with_capacity(xs.len());
            for x in &xs {
                if !self.graph.same(x.graph()) {
                    return Err(Error::invalid(format!(
                        "input {:?} ({}) is of another graph",
                        arg.name,
                        x.name()
                    )));
                }
                let (t, r) = (x.dtype(), x.is_ref());
                types.push(t);
                flat.push((x.as_ref(), t, r));
            }
            self.infer_attrs(arg, &types)?;
        }
        Ok(flat)
    }

    /// Matches an imported node's flat inputs; its attributes say the lengths of lists.
    fn match_flat(
        &mut self,
        def: &'static OpDef,
        flat: Vec<(OutputRef, DType, bool)>,
    ) -> Result<Vec<(OutputRef, DType, bool)>> {
        let mut rest = flat.as_slice();
        for arg in def.inputs() {
            let n = match (&arg.number, &arg.ty) {
                (Some(n), _) => usize::try_from(self.attrs.int(n)?).unwrap_or(0),
                (None, ArgType::TypeList(t)) => self.attrs.dtypes(t)?.len(),
                _ => 1,
            };
            if rest.len() < n {
                return Err(Error::invalid(format!(
                    "{def} needs more inputs than the {} given",
                    flat.len()
                )));
            }
            let (now, later) = rest.split_at(n);
            let types: Vec<DType> = now.iter().map(|f| f.1).collect();
            self.infer_attrs(arg, &types)?;
            rest = later;
        }
        if !rest.is_empty() {
            return Err(Error::invalid(format!("{def} got {} inputs too many", rest.len())));
        }
        Ok(flat)
    }

    fn infer_attrs(&mut self, arg: &ArgDef, types: &[DType]) -> Result<()> {
        if let Some(n) = &arg.number {
            self.infer_attr(arg, n, AttrValue::Int(types.len() as i64))?;
        }
        match &arg.ty {
            ArgType::Attr(a) => {
                for t in types {
                    self.infer_attr(arg, a, AttrValue::Type(*t))?;
                }
            }
            ArgType::TypeList(a) => {
                let list = types.iter().map(|t| AttrValue::Type(*t)).collect();
                self.infer_attr(arg, a, AttrValue::List(list))?;
            }
            ArgType::Fixed(want) => {
                if let Some(t) = types.iter().find(|t| *t != want) {
                    return Err(Error::invalid(format!("input {:?} must be {want}, got {t}", arg.name)));
                }
            }
        }
        Ok(())
    }

    fn infer_attr(&mut self, arg: &ArgDef, attr: &str, value: AttrValue) -> Result<()> {
        match self.attrs.get(attr) {
            Some(have) if *have != value => Err(Error::invalid(format!(
                "input {:?} makes attribute {attr:?} {value}, but it is {have} already (by an attribute or an \
                 earlier input); cast one of them",
                arg.name
            ))),
            Some(_) => Ok(()),
            None => {
                self.attrs.set(attr, value);
                Ok(())
            }
        }
    }

    /// The dtype of every flat input and whether it is taken as a reference.
    fn expected_inputs(
        &self,
        def: &'static OpDef,
        flat: &[(OutputRef, DType, bool)],
    ) -> Result<(Vec<DType>, Vec<bool>)> {
        let (types, refs) = arg_types(def.inputs(), &self.attrs)?;
        if types.len() != flat.len() {
            return Err(Error::invalid(format!(
                "{def} takes {} inputs here, got {}",
                types.len(),
                flat.len()
            )));
        }
        for (i, ((t, r), f)) in types.iter().zip(&refs).zip(flat).enumerate() {
            if *t != f.1 {
                return Err(Error::invalid(format!("input {i} must be {t}, got {}", f.1)));
            }
            if *r && !f.2 {
                return Err(Error::invalid(format!(
                    "input {i} must be a reference to a variable, not a value; pass the variable itself"
                )));
            }
        }
        Ok((types, refs))
    }
}

/// Expands argument definitions with the values of the attributes: dtype and "is a reference" of each tensor.
fn arg_types(args: &[ArgDef], attrs: &Attrs) -> Result<(Vec<DType>, Vec<bool>)> {
    let (mut types, mut refs) = (Vec::new(), Vec::new());
    for a in args {
        let one = |name: &str| -> Result<DType> { attrs.dtype(name) };
        let n = match &a.number {
            Some(n) => usize::try_from(attrs.int(n)?)
                .ok()
                .filter(|n| *n <= 1 << 20)
                .ok_or_else(|| Error::invalid(format!("attribute {n:?} is no sensible list length")))?,
            None => 1,
        };
        let list = match &a.ty {
            ArgType::Fixed(t) => vec![*t; n],
            ArgType::Attr(t) => vec![one(t)?; n],
            ArgType::TypeList(t) => attrs.dtypes(t)?,
        };
        refs.extend(std::iter::repeat_n(a.is_ref, list.len()));
        types.extend(list);
    }
    Ok((types, refs))
}

fn check_name(name: &str) -> Result<()> {
    let ok = |c: char, first: bool| {
        c.is_ascii_alphanumeric() || c == '.' || (!first && matches!(c, '_' | '-' | '/' | '\\' | '>'))
    };
    if name.is_empty() || !name.chars().enumerate().all(|(i, c)| ok(c, i == 0)) {
        return Err(Error::invalid(format!(
            "{name:?} is no valid node name: use letters, digits, '.', '_', '-', '/' and '\\', not starting with '_' or '-'"
        )));
    }
    Ok(())
}

// Kept beside the builder, which is the only place where kinds of attributes are told apart.
impl AttrKind {
    /// Whether attributes of this kind can follow from the inputs.
    pub fn is_inferable(self) -> bool {
        matches!(self, AttrKind::Type | AttrKind::Int)
    }
}
