//! The body of a function, added to the graph with its arguments in place of its parameters.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::super::order::Input;
use super::super::proto::attr_value::Value;
use super::super::proto::op_def::ArgDef;
use super::super::proto::{AttrValue, NameAttrList, NodeDef};
use super::library::Call;
use super::make::{base_type, func, funcs, types, value};
use super::{AttrMap, Function, Lowering, Pending, is_stateful};
use actorflow_core::AttrValue as CoreAttr;
use actorflow_core::op::{ArgType, registry};
use actorflow_core::{DType, Error, Result};

/// No function has a list of more tensors than this.
const MAX_LIST: i64 = 1 << 20;

/// What a parameter becomes.
#[derive(Debug, Clone)]
pub(super) struct Argument {
    /// `node` or `node:output`
    pub(super) tensor: String,
    /// What a control input on the parameter waits for.
    pub(super) wait: String,
}

/// Where a body is added.
pub(super) struct Scope<'s> {
    /// Comes before the names of the nodes.
    pub(super) prefix: &'s str,
    /// The device of nodes that ask for none.
    pub(super) device: &'s str,
    /// What nodes without inputs wait for.
    pub(super) pivot: Option<Rc<str>>,
    /// What nodes with effects wait for besides.
    pub(super) after: Option<&'s str>,
    /// The calls around it.
    pub(super) depth: usize,
}

/// A body that has been added.
pub(super) struct Expanded {
    /// The tensors that the function returns.
    pub(super) results: Vec<String>,
    /// The nodes that have run when all effects have happened, beyond those that the results depend on.
    pub(super) effects: Vec<String>,
}

/// A node of a body, once it has a name in the graph.
struct Placed {
    name: String,
    /// By output: its name in the definition, the first index, and how many tensors it has.
    outputs: Vec<(String, usize, usize)>,
}

/// Checks that the dtypes of a function are those that its caller declares.
pub(super) fn agree(f: &str, what: &str, has: &[i32], declared: &[i32]) -> Result<()> {
    if has == declared {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "function {f:?} has {what} of dtypes {}, the call declares {}",
        dtypes(has),
        dtypes(declared)
    )))
}

pub(super) fn wrong_count(f: &str, want: usize, got: usize) -> Error {
    Error::invalid(format!("function {f:?} takes {want} arguments, got {got}"))
}

fn dtypes(types: &[i32]) -> String {
    let names: Vec<String> = types
        .iter()
        .map(|t| DType::from_tf(*t).map_or_else(|_| format!("{t}"), |t| t.to_string()))
        .collect();
    format!("[{}]", names.join(", "))
}

/// The value of an attribute of the function that is being called.
fn attr<'m>(f: &'m Function<'_>, attrs: &'m AttrMap, name: &str) -> Result<&'m AttrValue> {
    let given = attrs.get(name).filter(|a| a.value.is_some());
    let default = || {
        let s = f.signature.as_ref()?;
        let a = s.attr.iter().find(|a| a.name == name)?;
        a.default_value.as_ref().filter(|a| a.value.is_some())
    };
    given
        .or_else(default)
        .ok_or_else(|| Error::invalid(format!("the call does not say the function's attribute {name:?}")))
}

/// Puts the function's attributes in the place of placeholders.
fn substitute(v: &AttrValue, f: &Function<'_>, attrs: &AttrMap) -> Result<AttrValue> {
    let inner = |g: &NameAttrList| -> Result<NameAttrList> {
        let attr = g
            .attr
            .iter()
            .map(|(k, v)| Ok((k.clone(), substitute(v, f, attrs)?)))
            .collect::<Result<_>>()?;
        Ok(NameAttrList {
            name: g.name.clone(),
            attr,
        })
    };
    Ok(match &v.value {
        Some(Value::Placeholder(name)) => attr(f, attrs, name)?.clone(),
        Some(Value::Func(g)) if !g.attr.is_empty() => value(Value::Func(inner(g)?)),
        Some(Value::List(l)) if l.func.iter().any(|g| !g.attr.is_empty()) => {
            let mut l = l.clone();
            l.func = l.func.iter().map(inner).collect::<Result<_>>()?;
            value(Value::List(l))
        }
        _ => v.clone(),
    })
}

/// The dtypes of each of these arguments.
fn arg_types(args: &[ArgDef], f: &Function<'_>, attrs: &AttrMap) -> Result<Vec<Vec<i32>>> {
    let wrong = |name: &str| Error::invalid(format!("the function's attribute {name:?} is of the wrong kind"));
    args.iter()
        .map(|a| {
            if !a.type_list_attr.is_empty() {
                return match &attr(f, attrs, &a.type_list_attr)?.value {
                    Some(Value::List(l)) => Ok(l.r#type.iter().map(|t| base_type(*t)).collect()),
                    _ => Err(wrong(&a.type_list_attr)),
                };
            }
            let t = match a.type_attr.as_str() {
                "" => a.r#type,
                name => match &attr(f, attrs, name)?.value {
                    Some(Value::Type(t)) => *t,
                    _ => return Err(wrong(name)),
                },
            };
            let n = match a.number_attr.as_str() {
                "" => 1,
                name => match &attr(f, attrs, name)?.value {
                    Some(Value::I(n)) if (0..=MAX_LIST).contains(n) => usize::try_from(*n).unwrap_or(0),
                    _ => return Err(wrong(name)),
                },
            };
            Ok(vec![base_type(t); n])
        })
        .collect()
}

impl<'a> Lowering<'a> {
    /// The dtypes of a function's arguments and results.
    pub(super) fn signature(&self, f: &Function<'_>, attrs: &AttrMap) -> Result<(Vec<i32>, Vec<i32>)> {
        let s = f.signature.as_ref();
        let flat = |args: Option<&Vec<ArgDef>>| -> Result<Vec<i32>> {
            let args = args.map_or(&[][..], Vec::as_slice);
            Ok(arg_types(args, f, attrs)?.concat())
        };
        Ok((flat(s.map(|s| &s.input_arg))?, flat(s.map(|s| &s.output_arg))?))
    }

    /// Adds the body of `f`, with `args` for its parameters, of which there must be the right number.
    pub(super) fn expand(
        &mut self,
        f: &Function<'a>,
        attrs: &AttrMap,
        args: &[Argument],
        scope: &Scope<'_>,
    ) -> Result<Expanded> {
        let fname = f.signature.as_ref().map_or("", |s| s.name.as_str()).to_owned();
        self.expand_body(f, attrs, args, scope)
            .map_err(|e| e.context(format!("function {fname:?}")))
    }

    fn expand_body(
        &mut self,
        f: &Function<'a>,
        attrs: &AttrMap,
        args: &[Argument],
        scope: &Scope<'_>,
    ) -> Result<Expanded> {
        let none = Default::default();
        let signature = f.signature.as_ref().unwrap_or(&none);
        let mut names = Names {
            args: HashMap::new(),
            nodes: HashMap::with_capacity(f.node_def.len()),
            placed: Vec::with_capacity(f.node_def.len()),
        };
        let mut rest = args;
        let takes = arg_types(&signature.input_arg, f, attrs)?;
        for (a, t) in signature.input_arg.iter().zip(&takes) {
            if rest.len() < t.len() {
                return Err(wrong_count(&signature.name, takes.concat().len(), args.len()));
            }
            let (now, later) = rest.split_at(t.len());
            if names.args.insert(a.name.as_str(), now).is_some() {
                return Err(Error::invalid(format!("two arguments are named {:?}", a.name)));
            }
            rest = later;
        }
        if !rest.is_empty() {
            return Err(wrong_count(&signature.name, takes.concat().len(), args.len()));
        }
        let mut bodies = Vec::with_capacity(f.node_def.len());
        for (i, n) in f.node_def.iter().enumerate() {
            if names.nodes.insert(n.name.as_str(), i).is_some() {
                return Err(Error::invalid(format!("two nodes are named {:?}", n.name)));
            }
            // Names are charged as soon as they are made, so that a hostile file cannot collect many long ones.
            self.name_bytes += scope.prefix.len() + n.name.len();
            if self.name_bytes > 4 * super::MAX_NAME_BYTES || self.added + i > self.limits.nodes {
                return Err(super::library::too_large(&self.limits));
            }
            let blame = |e: Error| e.at_node(&n.name, &n.op);
            let attr = n
                .attr
                .iter()
                .map(|(k, v)| Ok((k.clone(), substitute(v, f, attrs)?)))
                .collect::<Result<AttrMap>>()
                .map_err(blame)?;
            let node = NodeDef {
                name: self.unique(&format!("{}/{}", scope.prefix, n.name)),
                op: n.op.clone(),
                input: Vec::with_capacity(n.input.len()),
                device: if n.device.is_empty() {
                    scope.device.to_owned()
                } else {
                    n.device.clone()
                },
                attr,
                experimental_debug_info: None,
            };
            names.placed.push(Placed {
                name: node.name.clone(),
                outputs: self.outputs(&node).map_err(blame)?,
            });
            bodies.push(node);
        }
        let mut reads: Vec<Vec<usize>> = Vec::with_capacity(bodies.len());
        for (n, node) in f.node_def.iter().zip(&mut bodies) {
            let blame = |e: Error| e.at_node(&n.name, &n.op);
            let mut from = Vec::new();
            let mut control = false;
            for text in &n.input {
                let (inputs, source) = names.input(text).map_err(blame)?;
                if control && !text.starts_with('^') {
                    return Err(blame(Error::invalid(format!(
                        "the data input {text:?} comes after a control input; put all control inputs last"
                    ))));
                }
                control |= text.starts_with('^');
                node.input.extend(inputs);
                if node.input.len() > MAX_LIST as usize {
                    return Err(blame(Error::exhausted(format!("it has more than {MAX_LIST} inputs"))));
                }
                from.extend(source);
            }
            reads.push(from);
            self.adapt(node, scope, &names);
        }
        let mut results = Vec::new();
        let mut wanted = Vec::new();
        for (a, types) in signature
            .output_arg
            .iter()
            .zip(arg_types(&signature.output_arg, f, attrs)?)
        {
            let Some(text) = f.ret.get(&a.name) else {
                return Err(Error::invalid(format!(
                    "it does not say what it returns for {:?}",
                    a.name
                )));
            };
            let (tensors, source) = names.tensors(text)?;
            if tensors.len() != types.len() {
                return Err(Error::invalid(format!(
                    "its result {:?} is {} tensors, but {text:?} is {}",
                    a.name,
                    types.len(),
                    tensors.len()
                )));
            }
            results.extend(tensors);
            wanted.extend(source);
        }
        let mut effects = Vec::new();
        for text in f.control_ret.values() {
            let Some(i) = names.nodes.get(text.as_str()) else {
                return Err(Error::invalid(format!(
                    "its control output {text:?} names a node that it does not have"
                )));
            };
            wanted.push(*i);
            effects.push(names.placed[*i].name.clone());
        }
        // Whatever has effects runs, even if nothing is said to depend on it.
        let mut needed: HashSet<usize> = HashSet::new();
        while let Some(i) = wanted.pop() {
            if needed.insert(i) {
                wanted.extend(&reads[i]);
            }
        }
        let mut calls = Vec::new();
        for (i, mut node) in bodies.into_iter().enumerate() {
            let call = self.library.call(&node);
            let acts = match call {
                None => is_stateful(&node.op),
                Some(call) => self.call_has_effects(call, &node),
            };
            if acts {
                if !needed.contains(&i) {
                    effects.push(node.name.clone());
                }
                if let Some(after) = scope.after {
                    node.input.push(format!("^{after}"));
                }
            }
            match call {
                Some(call) => calls.push(Pending {
                    node,
                    call,
                    pivot: scope.pivot.clone(),
                    depth: scope.depth,
                }),
                None => {
                    self.pin(&mut node, scope.pivot.as_deref());
                    self.count(&node)?;
                    self.nodes.push(node);
                }
            }
        }
        self.pending.extend(calls.into_iter().rev());
        Ok(Expanded { results, effects })
    }

    /// Gives loops and colocation the names that they have at this place.
    fn adapt(&self, node: &mut NodeDef, scope: &Scope<'_>, names: &Names<'_>) {
        if let Some(Value::S(frame)) = node.attr.get("frame_name").and_then(|a| a.value.as_ref()) {
            let mut longer = scope.prefix.as_bytes().to_vec();
            longer.push(b'/');
            longer.extend_from_slice(frame);
            let v = value(Value::S(longer.into()));
            node.attr.insert("frame_name".to_owned(), v);
        }
        if let Some(Value::List(l)) = node.attr.get_mut("_class").and_then(|a| a.value.as_mut()) {
            let kept = l.s.iter().filter_map(|s| {
                let at = std::str::from_utf8(s).ok().and_then(|s| s.strip_prefix("loc:@"));
                match at {
                    None => Some(s.clone()),
                    // What is not in the body is on no known device.
                    Some(n) => names.nodes.get(n).map(|i| {
                        let there = &names.placed[*i].name;
                        format!("loc:@{there}").into()
                    }),
                }
            });
            l.s = kept.collect();
            if l.s.is_empty() {
                node.attr.remove("_class");
            }
        }
    }

    /// Whether a node that runs functions has effects.
    fn call_has_effects(&self, call: Call, node: &NodeDef) -> bool {
        let one = |name: &str| func(node, name).map_or(true, |f| self.has_effects(&f.name));
        match call {
            Call::Plain | Call::Remote | Call::Gradient => one("f"),
            Call::Named => self.has_effects(&node.op),
            Call::If => one("then_branch") || one("else_branch"),
            Call::Case => funcs(node, "branches").map_or(true, |l| l.iter().any(|f| self.has_effects(&f.name))),
            Call::While => one("cond") || one("body"),
            Call::For => one("body"),
        }
    }

    /// The outputs of a node by name, with the first index and the number of tensors of each.
    pub(super) fn outputs(&self, node: &NodeDef) -> Result<Vec<(String, usize, usize)>> {
        let mut at = 0;
        let mut next = |name: &str, n: usize| {
            let first = at;
            at += n;
            (name.to_owned(), first, n)
        };
        if let Some(call) = self.library.call(node) {
            let list = match call {
                Call::Named => {
                    let f = self.function(&node.op)?;
                    let Some(s) = &f.signature else { return Ok(Vec::new()) };
                    let counts = arg_types(&s.output_arg, &f, &node.attr)?;
                    let out = s.output_arg.iter().zip(counts);
                    return Ok(out.map(|(a, t)| next(&a.name, t.len())).collect());
                }
                Call::While | Call::For => types(node, "T")?,
                _ => types(node, "Tout")?,
            };
            return Ok(vec![next("output", list.len())]);
        }
        let def = registry().get(&node.op)?;
        let given = |name: &str| node.attr.get(name).and_then(|a| a.value.as_ref());
        let default = |name: &str| def.attr_def(name).and_then(|a| a.default.as_ref());
        let missing = |name: &str| Error::invalid(format!("attribute {name:?} is missing or of the wrong kind"));
        def.outputs()
            .iter()
            .map(|o| {
                let n = match (&o.number, &o.ty) {
                    (Some(name), _) => {
                        let n = match (given(name), default(name)) {
                            (Some(Value::I(n)), _) | (None, Some(CoreAttr::Int(n))) => *n,
                            _ => return Err(missing(name)),
                        };
                        let n = Some(n)
                            .filter(|n| (0..=MAX_LIST).contains(n))
                            .ok_or_else(|| missing(name))?;
                        usize::try_from(n).unwrap_or(0)
                    }
                    (None, ArgType::TypeList(name)) => match (given(name), default(name)) {
                        (Some(Value::List(l)), _) => l.r#type.len(),
                        (None, Some(CoreAttr::List(l))) => l.len(),
                        _ => return Err(missing(name)),
                    },
                    _ => 1,
                };
                Ok(next(&o.name, n))
            })
            .collect()
    }
}

/// What the names in a body mean.
struct Names<'n> {
    args: HashMap<&'n str, &'n [Argument]>,
    nodes: HashMap<&'n str, usize>,
    placed: Vec<Placed>,
}

impl Names<'_> {
    /// What an input of a node reads, and which node of the body that is.
    fn input(&self, text: &str) -> Result<(Vec<String>, Option<usize>)> {
        let Some(name) = text.strip_prefix('^') else {
            return self.tensors(text);
        };
        if let Some(i) = self.nodes.get(name) {
            return Ok((vec![format!("^{}", self.placed[*i].name)], Some(*i)));
        }
        match self.args.get(name) {
            Some(args) => Ok((args.iter().map(|a| format!("^{}", a.wait)).collect(), None)),
            None => Err(unknown(text)),
        }
    }

    /// The tensors that `argument`, `argument:index`, `node:output` or `node:output:index` means.
    fn tensors(&self, text: &str) -> Result<(Vec<String>, Option<usize>)> {
        let mut parts = text.split(':');
        let (name, second, third) = (parts.next().unwrap_or(""), parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(unknown(text));
        }
        let number = |t: &str| {
            t.parse::<usize>()
                .ok()
                .filter(|_| t.bytes().all(|b| b.is_ascii_digit()))
        };
        if let Some(args) = self.args.get(name) {
            let args = match (second, third) {
                (None, _) => args,
                (Some(i), None) => number(i)
                    .and_then(|i| args.get(i..)?.get(..1))
                    .ok_or_else(|| unknown(text))?,
                _ => return Err(unknown(text)),
            };
            return Ok((args.iter().map(|a| a.tensor.clone()).collect(), None));
        }
        let node = self.nodes.get(name).copied().ok_or_else(|| unknown(text))?;
        let placed = &self.placed[node];
        let output = second.and_then(|o| placed.outputs.iter().find(|(n, ..)| n == o));
        let Some((_, first, n)) = output else {
            let names: Vec<&str> = placed.outputs.iter().map(|o| o.0.as_str()).collect();
            return Err(Error::invalid(format!(
                "{text:?} names no output of the node {name:?}, which has [{}]; write \"node:output:index\"",
                names.join(", ")
            )));
        };
        let range = match third {
            None => *first..first + n,
            Some(i) => {
                let i = number(i).filter(|i| i < n).ok_or_else(|| unknown(text))?;
                first + i..first + i + 1
            }
        };
        let tensor = |i: usize| match i {
            0 => placed.name.clone(),
            i => format!("{}:{i}", placed.name),
        };
        Ok((range.map(tensor).collect(), Some(node)))
    }
}

fn unknown(text: &str) -> Error {
    Error::invalid(format!(
        "{text:?} names no argument and no output of a node of the function"
    ))
}

/// The node of a tensor's name.
pub(super) fn node_of(tensor: &str) -> &str {
    match Input::parse(tensor) {
        Ok(x) => x.node(),
        Err(_) => tensor,
    }
}
