//! `SymbolicGradient`: the gradient of a function is built once, as a function of its own.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::import::{ImportOptions, import_into};
use super::super::order::Input;
use super::super::proto::attr_value::Value;
use super::super::proto::op_def::ArgDef;
use super::super::proto::{FunctionDef, FunctionDefLibrary, GraphDef, NameAttrList, NodeDef, OpDef, TensorShapeProto};
use super::super::{attrs, export};
use super::body::wrong_count;
use super::make::{Make, func, types};
use super::{AttrMap, Inputs, Lowering, Pending};
use actorflow_core::gradient::{GradientOptions, gradients_with};
use actorflow_core::{Error, Graph, PartialShape, Result};

/// Gradients of functions that contain gradients of functions.
const MAX_ORDER: usize = 3;

impl<'a> Lowering<'a> {
    /// Inputs are the function's arguments and the gradients of its results; outputs the gradients of its arguments,
    /// zeros where there is none.
    pub(super) fn symbolic_gradient(&mut self, p: &Pending) -> Result<()> {
        let f = func(&p.node, "f")?.clone();
        let inputs = Inputs::of(&p.node)?;
        let declared = (types(&p.node, "Tin")?, types(&p.node, "Tout")?);
        if let Some(g) = self.library.gradient_of(&f.name) {
            let g = NameAttrList {
                name: g.to_owned(),
                attr: f.attr,
            };
            return self.inline(p, &g, inputs, Some(declared));
        }
        if self.limits.order >= MAX_ORDER {
            return Err(Error::exhausted(format!(
                "gradients of functions contain each other more than {MAX_ORDER} levels deep"
            )));
        }
        let function = self.function(&f.name)?;
        let (takes, gives) = self.signature(&function, &f.attr)?;
        if declared.0.len() != takes.len() + gives.len() {
            return Err(wrong_count(&f.name, takes.len() + gives.len(), declared.0.len()));
        }
        let name = format!("{}/gradient", p.node.name);
        let made = self.gradient_function(&name, &f, &takes, &gives)?;
        let effects = self.has_effects(&f.name);
        self.made.insert(name.clone(), (Arc::new(made), effects));
        let g = NameAttrList {
            name,
            attr: AttrMap::new(),
        };
        self.inline(p, &g, inputs, Some(declared))
    }

    fn gradient_function(&self, name: &str, f: &NameAttrList, takes: &[i32], gives: &[i32]) -> Result<FunctionDef> {
        let graph = Graph::new();
        let placeholder = |n: String, t: i32| {
            let m = Make::named(&n, "Placeholder").dtype("dtype", t);
            m.attr("shape", Value::Shape(any_shape())).done()
        };
        let all: Vec<i32> = takes.iter().chain(gives).copied().collect();
        let mut def = GraphDef::default();
        let mut call = Make::named("call", "PartitionedCall").attr("f", Value::Func(f.clone()));
        for (i, t) in all.iter().enumerate() {
            def.node.push(placeholder(format!("x{i}"), *t));
            if i < takes.len() {
                call = call.input(&format!("x{i}"));
            }
        }
        def.node.push(call.dtypes("Tin", takes).dtypes("Tout", gives).done());
        def.library = Some(FunctionDefLibrary {
            function: self.library.all().cloned().collect(),
            ..Default::default()
        });
        let options = ImportOptions::default().inlining(super::Limits {
            nodes: self.limits.nodes,
            order: self.limits.order + 1,
        });
        import_into(&graph, &def, &options)?;
        let outputs = |names: std::ops::Range<usize>, node: &dyn Fn(usize) -> String| {
            names.map(|i| graph.output(&node(i))).collect::<Result<Vec<_>>>()
        };
        let xs = outputs(0..takes.len(), &|i| format!("x{i}"))?;
        let dys = outputs(takes.len()..all.len(), &|i| format!("x{i}"))?;
        let ys = outputs(0..gives.len(), &|i| format!("call:{i}"))?;
        let flows: Vec<usize> = (0..ys.len()).filter(|i| ys[*i].dtype().is_differentiable()).collect();
        let options = GradientOptions {
            grad_ys: flows.iter().map(|i| Some(dys[*i].clone())).collect(),
            ..GradientOptions::default()
        };
        let ys: Vec<_> = flows.iter().map(|i| ys[*i].clone()).collect();
        let grads = match ys.is_empty() {
            true => vec![None; xs.len()],
            false => gradients_with(&ys, &xs, &options)?,
        };
        let mut ret = BTreeMap::new();
        for (i, (grad, x)) in grads.into_iter().zip(&xs).enumerate() {
            let grad = match grad {
                Some(g) => g.to_dense()?,
                None => x.zeros_like()?,
            };
            ret.insert(format!("y{i}"), grad.identity()?.name());
        }
        self.as_function(name, &graph, &all, takes, ret)
    }

    /// A function that computes the tensors `ret` of a graph from its placeholders `x0`, `x1`, ….
    fn as_function(
        &self,
        name: &str,
        graph: &Graph,
        takes: &[i32],
        gives: &[i32],
        ret: BTreeMap<String, String>,
    ) -> Result<FunctionDef> {
        let def = export::graph_to_def(graph)?;
        let params: Vec<String> = (0..takes.len()).map(|i| format!("x{i}")).collect();
        let mut outputs = HashMap::with_capacity(def.node.len());
        for n in &def.node {
            outputs.insert(n.name.as_str(), self.outputs(n)?);
        }
        let tensor = |text: &str| -> Result<String> {
            match Input::parse(text)? {
                Input::Control(_) => Ok(text.to_owned()),
                Input::Data(n, 0) if params.iter().any(|p| p == n) => Ok(n.to_owned()),
                Input::Data(n, i) => {
                    let spans = outputs.get(n).map_or(&[][..], Vec::as_slice);
                    let span = spans.iter().find(|(_, first, len)| (*first..first + len).contains(&i));
                    let (o, first, _) = span.ok_or_else(|| Error::internal(format!("{text:?} is no tensor")))?;
                    Ok(format!("{n}:{o}:{}", i - first))
                }
            }
        };
        let mut node_def = Vec::with_capacity(def.node.len());
        for n in def.node.iter().filter(|n| !params.contains(&n.name)) {
            node_def.push(NodeDef {
                input: n.input.iter().map(|i| tensor(i)).collect::<Result<_>>()?,
                ..n.clone()
            });
        }
        let args = |prefix: &str, types: &[i32]| -> Vec<ArgDef> {
            let arg = |(i, t): (usize, &i32)| ArgDef {
                name: format!("{prefix}{i}"),
                r#type: *t,
                ..Default::default()
            };
            types.iter().enumerate().map(arg).collect()
        };
        Ok(FunctionDef {
            signature: Some(OpDef {
                name: name.to_owned(),
                input_arg: args("x", takes),
                output_arg: args("y", gives),
                ..Default::default()
            }),
            ret: ret
                .into_iter()
                .map(|(k, v)| Ok((k, tensor(&v)?)))
                .collect::<Result<_>>()?,
            node_def,
            ..Default::default()
        })
    }
}

fn any_shape() -> TensorShapeProto {
    attrs::shape_to_message(&PartialShape::UNKNOWN)
}
