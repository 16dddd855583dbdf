//! Function libraries: calls, conditionals and loops of functions become nodes of the graph itself.
//!
//! [`lower`] replaces every node that runs a function of the library by the nodes of that function's body:
//! `PartitionedCall`, `StatefulPartitionedCall`, `RemoteCall`, `SymbolicGradient` and nodes whose operation is a
//! function's name; `If`, `Case` and their stateless forms with `Switch` and `Merge`; `While`, `StatelessWhile` and
//! `For` with `Enter`, `Merge`, `Switch`, `NextIteration` and `Exit`. What comes out has no functions, so execution,
//! passes, gradients and export know nothing of them.
//!
//! - The nodes of a body are named `call/node` (`call/then/node`, `call/body/node`, …). A node of the call's own name
//!   and outputs remains, so that `call:0` can be fetched and fed, and `^call` means that the call is done, with all
//!   its effects.
//! - The nodes of a branch or a loop run only if it does: what depends on no argument waits for the branch's or the
//!   iteration's *pivot*. Effects of one iteration come before the next one begins.
//! - A loop variable that the body returns as it is becomes a constant `Enter`, which a gradient need not record.
//! - Functions that call themselves, directly or by way of others, are refused: an expansion would have no end.
//!   There is no way to declare such a function.
//!
//! Before anything is expanded, [`library::Library::check`] computes how large the result will be, so that a few
//! functions that call each other twice, again and again, cannot fill the memory.

#![forbid(unsafe_code)]

mod body;
mod branches;
mod library;
mod loops;
mod make;
mod symbolic;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use self::body::{Argument, Scope};
use self::library::Library;
use self::make::{Make, types};
use super::order::Input;
use super::proto::{AttrValue, FunctionDef, GraphDef, NameAttrList, NodeDef};
use actorflow_core::op::registry;
use actorflow_core::{Error, Result};

/// Attributes as messages.
type AttrMap = BTreeMap<String, AttrValue>;

use self::library::Call;

/// How much lowering may produce.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Nodes that come from functions.
    pub(super) nodes: usize,
    /// How many gradients of functions this is part of.
    pub(super) order: usize,
}

/// Calls within calls; anything near this number is no program.
const MAX_DEPTH: usize = 500;
/// The names of the nodes of nested calls grow with their depth.
const MAX_NAME_BYTES: usize = 64 << 20;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            nodes: 1 << 17,
            order: 0,
        }
    }
}

/// A function of the file, or one that was made for it.
#[derive(Clone)]
enum Function<'a> {
    Given(&'a FunctionDef),
    Made(Arc<FunctionDef>),
}

impl std::ops::Deref for Function<'_> {
    type Target = FunctionDef;

    fn deref(&self) -> &FunctionDef {
        match self {
            Function::Given(f) => f,
            Function::Made(f) => f,
        }
    }
}

/// A node that runs functions, with inputs as they are in the lowered graph.
struct Pending {
    node: NodeDef,
    call: Call,
    /// What a node without inputs waits for at this place.
    pivot: Option<Rc<str>>,
    depth: usize,
}

struct Lowering<'a> {
    library: Library<'a>,
    /// Functions that were made, and whether they have effects.
    made: HashMap<String, (Arc<FunctionDef>, bool)>,
    nodes: Vec<NodeDef>,
    names: HashSet<String>,
    /// The constant Enters: what reads only these would run once more than its loop's body.
    constant: HashSet<String>,
    pending: Vec<Pending>,
    limits: Limits,
    added: usize,
    name_bytes: usize,
}

/// The same graph without calls of functions.
///
/// # Errors
/// Naming the calling node: `NOT_FOUND` for a function that the library does not have, `INVALID_ARGUMENT` for
/// functions that call themselves, arguments and results that do not fit and bodies that are malformed,
/// `RESOURCE_EXHAUSTED` if there would be more nodes than the limits allow.
pub(super) fn lower<'a>(def: &'a GraphDef, limits: &Limits) -> Result<Cow<'a, GraphDef>> {
    let mut library = Library::new(def)?;
    if !def.node.iter().any(|n| library.call(n).is_some()) {
        return Ok(Cow::Borrowed(def));
    }
    library.check(def, limits)?;
    let mut l = Lowering {
        library,
        made: HashMap::new(),
        nodes: Vec::with_capacity(def.node.len()),
        names: def.node.iter().map(|n| n.name.clone()).collect(),
        constant: HashSet::new(),
        pending: Vec::new(),
        limits: *limits,
        added: 0,
        name_bytes: 0,
    };
    for node in &def.node {
        match l.library.call(node) {
            None => l.nodes.push(node.clone()),
            Some(call) => l.pending.push(Pending {
                node: node.clone(),
                call,
                pivot: None,
                depth: 0,
            }),
        }
    }
    // In the order of the file.
    l.pending.reverse();
    while let Some(p) = l.pending.pop() {
        l.lower(&p).map_err(|e| e.at_node(&p.node.name, &p.node.op))?;
    }
    Ok(Cow::Owned(GraphDef {
        node: l.nodes,
        library: None,
        versions: def.versions.clone(),
        ..Default::default()
    }))
}

/// A node's inputs, data and control apart.
struct Inputs {
    data: Vec<String>,
    control: Vec<String>,
}

impl Inputs {
    fn of(node: &NodeDef) -> Result<Inputs> {
        let (mut data, mut control) = (Vec::new(), Vec::new());
        for text in &node.input {
            match Input::parse(text)? {
                Input::Control(name) => control.push(name.to_owned()),
                Input::Data(..) if !control.is_empty() => {
                    return Err(Error::invalid(format!(
                        "the data input {text:?} comes after a control input; put all control inputs last"
                    )));
                }
                Input::Data(name, 0) => data.push(name.to_owned()),
                Input::Data(name, i) => data.push(format!("{name}:{i}")),
            }
        }
        Ok(Inputs { data, control })
    }
}

impl<'a> Lowering<'a> {
    fn lower(&mut self, p: &Pending) -> Result<()> {
        if p.depth >= MAX_DEPTH {
            return Err(library::too_deep());
        }
        match p.call {
            Call::Plain => self.plain_call(p),
            Call::Remote => self.remote_call(p),
            Call::Named => self.named_call(p),
            Call::Gradient => self.symbolic_gradient(p),
            Call::If => self.lower_if(p),
            Call::Case => self.lower_case(p),
            Call::While => self.lower_while(p),
            Call::For => self.lower_for(p),
        }
    }

    /// The function that a `func` attribute names.
    fn function(&self, name: &str) -> Result<Function<'a>> {
        if let Some((f, _)) = self.made.get(name) {
            return Ok(Function::Made(f.clone()));
        }
        self.library.get(name).map(Function::Given)
    }

    /// Whether running it has effects beyond its results.
    fn has_effects(&self, name: &str) -> bool {
        match self.made.get(name) {
            Some((_, effects)) => *effects,
            None => self.library.has_effects(name),
        }
    }

    fn plain_call(&mut self, p: &Pending) -> Result<()> {
        let f = make::func(&p.node, "f")?.clone();
        let inputs = Inputs::of(&p.node)?;
        let declared = (types(&p.node, "Tin")?, types(&p.node, "Tout")?);
        self.inline(p, &f, inputs, Some(declared))
    }

    /// The device that the call asks for by its first input is this one.
    fn remote_call(&mut self, p: &Pending) -> Result<()> {
        let f = make::func(&p.node, "f")?.clone();
        let mut inputs = Inputs::of(&p.node)?;
        if inputs.data.is_empty() {
            return Err(Error::invalid("the call lacks its target"));
        }
        inputs.data.remove(0);
        let declared = (types(&p.node, "Tin")?, types(&p.node, "Tout")?);
        self.inline(p, &f, inputs, Some(declared))
    }

    /// A node whose operation is the function: its attributes are the function's.
    fn named_call(&mut self, p: &Pending) -> Result<()> {
        let f = NameAttrList {
            name: p.node.op.clone(),
            attr: p.node.attr.clone(),
        };
        self.inline(p, &f, Inputs::of(&p.node)?, None)
    }

    /// Adds the body of `f` in place of a call.
    fn inline(
        &mut self,
        p: &Pending,
        f: &NameAttrList,
        inputs: Inputs,
        declared: Option<(Vec<i32>, Vec<i32>)>,
    ) -> Result<()> {
        let function = self.function(&f.name)?;
        let (takes, gives) = self.signature(&function, &f.attr)?;
        if let Some((tin, tout)) = declared {
            body::agree(&f.name, "arguments", &takes, &tin)?;
            body::agree(&f.name, "results", &gives, &tout)?;
        }
        if inputs.data.len() != takes.len() {
            return Err(body::wrong_count(&f.name, takes.len(), inputs.data.len()));
        }
        let name = &p.node.name;
        let pivot = p.pivot.as_deref();
        let after = self.after(p, &inputs.control)?;
        let mut args = Vec::with_capacity(takes.len());
        for (i, (x, t)) in inputs.data.into_iter().zip(&takes).enumerate() {
            let reference = self.is_reference(&x);
            // A reference is read when the call starts, and an argument waits for what the call waits for.
            let x = if after.is_some() || reference {
                let m = Make::new(name, &format!("arg_{i}"), "Identity")
                    .input(&x)
                    .dtype("T", *t);
                self.emit(m.wait(after.as_deref()).on(&p.node), pivot)?
            } else {
                x
            };
            args.push(Argument {
                wait: Input::parse(&x)?.node().to_owned(),
                tensor: x,
            });
        }
        let scope = Scope {
            prefix: name,
            device: &p.node.device,
            pivot: p.pivot.clone(),
            after: after.as_deref(),
            depth: p.depth + 1,
        };
        let done = self.expand(&function, &f.attr, &args, &scope)?;
        let mut waits = done.effects;
        waits.extend(after);
        self.finish(p, &done.results, &gives, &waits)
    }

    /// One node that is done when all of these are; none if there are none.
    fn after(&mut self, p: &Pending, control: &[String]) -> Result<Option<String>> {
        match control {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            many => {
                let m = many
                    .iter()
                    .fold(Make::new(&p.node.name, "after", "NoOp"), |m, c| m.wait(Some(c)));
                self.emit(m.on(&p.node), p.pivot.as_deref()).map(Some)
            }
        }
    }

    /// The node that keeps the call's name, outputs and meaning as a control input.
    fn finish(&mut self, p: &Pending, results: &[String], types: &[i32], waits: &[String]) -> Result<()> {
        let op = match results.len() {
            0 => "NoOp",
            1 => "Identity",
            _ => "IdentityN",
        };
        let mut m = Make::named(&p.node.name, op);
        for r in results {
            m = m.input(r);
        }
        m = match types {
            [] => m,
            [one] => m.dtype("T", *one),
            many => m.dtypes("T", many),
        };
        for w in waits {
            m = m.wait(Some(w));
        }
        let mut node = m.on(&p.node);
        if let Some(class) = p.node.attr.get("_class") {
            node.attr.insert("_class".to_owned(), class.clone());
        }
        self.pin(&mut node, p.pivot.as_deref());
        self.count(&node)?;
        self.nodes.push(node);
        Ok(())
    }

    /// Makes a node that depends on nothing of its branch or iteration wait for `pivot`.
    fn pin(&self, node: &mut NodeDef, pivot: Option<&str>) {
        let Some(pivot) = pivot else { return };
        if node
            .input
            .iter()
            .all(|i| !i.starts_with('^') && self.constant.contains(i))
        {
            node.input.push(format!("^{pivot}"));
        }
    }

    /// Adds a node under a name of its own; the name of its first output.
    fn emit(&mut self, mut node: NodeDef, pivot: Option<&str>) -> Result<String> {
        node.name = self.unique(&node.name);
        self.pin(&mut node, pivot);
        self.count(&node)?;
        let name = node.name.clone();
        self.nodes.push(node);
        Ok(name)
    }

    fn count(&mut self, node: &NodeDef) -> Result<()> {
        self.added += 1;
        self.name_bytes += node.name.len() + node.input.iter().map(String::len).sum::<usize>();
        if self.added > self.limits.nodes || self.name_bytes > 4 * MAX_NAME_BYTES {
            return Err(library::too_large(&self.limits));
        }
        Ok(())
    }

    fn unique(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut n = 0;
        while !self.names.insert(name.clone()) {
            n += 1;
            name = format!("{wanted}_{n}");
        }
        name
    }

    /// Whether a tensor of the file itself is a reference to a variable.
    fn is_reference(&self, tensor: &str) -> bool {
        self.library.is_reference(tensor)
    }
}

/// Whether the engine regards an operation as stateful; what it does not know, it cannot run either.
fn is_stateful(op: &str) -> bool {
    registry().find(op).is_some_and(|d| d.is_stateful()) && !matches!(op, "Placeholder" | "PlaceholderV2")
}

/// The operations that `def` needs: those of its own nodes and of the functions that they run, without the calls
/// themselves.
///
/// # Errors
/// As [`lower`] for a malformed library.
pub(super) fn needed(def: &GraphDef) -> Result<Vec<&NodeDef>> {
    let library = Library::new(def)?;
    let mut all = library.reached(def);
    all.retain(|n| library.call(n).is_none());
    Ok(all)
}
