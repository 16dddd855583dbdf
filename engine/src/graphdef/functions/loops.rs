//! `While` and `For` as loops of `Enter`, `Merge`, `Switch`, `NextIteration` and `Exit`.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::Arc;

use super::super::proto::attr_value::Value;
use super::super::proto::op_def::ArgDef;
use super::super::proto::{DataType, FunctionDef, NameAttrList, NodeDef, OpDef, TensorProto};
use super::body::{Argument, Scope, agree, node_of, wrong_count};
use super::make::{Make, func, int, types};
use super::{AttrMap, Function, Inputs, Lowering, Pending};
use actorflow_core::{Error, Result};

const BOOL: i32 = DataType::DtBool as i32;
const INT32: i32 = DataType::DtInt32 as i32;

/// Which of a body's results is its argument of the same number, unchanged.
fn invariants(f: &Function<'_>, n: usize) -> Vec<bool> {
    let none = OpDef::default();
    let s = f.signature.as_ref().unwrap_or(&none);
    // Lists as arguments or results are rare in bodies; their numbers would not agree.
    if s.input_arg.len() != n || s.output_arg.len() != n {
        return vec![false; n];
    }
    let origin = |text: &str| -> Option<String> {
        let mut text = text.to_owned();
        for _ in 0..=f.node_def.len() {
            let Some((node, _)) = text.split_once(':') else {
                return Some(text);
            };
            let node = f.node_def.iter().find(|x| x.name == node)?;
            match (node.op.as_str(), node.input.as_slice()) {
                ("Identity", [before]) => text = before.clone(),
                _ => return None,
            }
        }
        None
    };
    let results = s.output_arg.iter().zip(&s.input_arg);
    results
        .map(|(o, i)| f.ret.get(&o.name).and_then(|r| origin(r)).as_deref() == Some(&i.name))
        .collect()
}

impl<'a> Lowering<'a> {
    pub(super) fn lower_while(&mut self, p: &Pending) -> Result<()> {
        let inputs = Inputs::of(&p.node)?;
        let (cond, body) = (func(&p.node, "cond")?.clone(), func(&p.node, "body")?.clone());
        let types = types(&p.node, "T")?;
        self.repeat(p, inputs, &types, &cond, &body)
    }

    /// A loop whose variables are the data inputs, of these dtypes.
    fn repeat(
        &mut self,
        p: &Pending,
        inputs: Inputs,
        types: &[i32],
        cond: &NameAttrList,
        body: &NameAttrList,
    ) -> Result<()> {
        if inputs.data.len() != types.len() {
            return Err(Error::invalid(format!(
                "attribute \"T\" has {} dtypes, but there are {} inputs",
                types.len(),
                inputs.data.len()
            )));
        }
        let (cond_f, body_f) = (self.function(&cond.name)?, self.function(&body.name)?);
        let decides = self.check_loop(&cond_f, cond, &body_f, body, types)?;
        let parallel = int(&p.node, "parallel_iterations", 10)?.max(1);
        let name = p.node.name.clone();
        let outer = p.pivot.as_deref();
        let after = self.after(p, &inputs.control)?;
        let keeps = invariants(&body_f, types.len());

        // The variables that change, and one more if all stay the same, so that there is something to iterate on.
        let mut enters = Vec::with_capacity(types.len());
        let mut carried: Vec<(usize, String, i32)> = Vec::new();
        for (i, (x, t)) in inputs.data.iter().zip(types).enumerate() {
            let m = Make::new(&name, &format!("enter_{i}"), "Enter").input(x).dtype("T", *t);
            let m = frame(m, &name, keeps[i], parallel).wait(after.as_deref());
            let enter = self.emit(m.on(&p.node), outer)?;
            match keeps[i] {
                true => {
                    self.constant.insert(enter.clone());
                }
                false => carried.push((i, enter.clone(), *t)),
            }
            enters.push(enter);
        }
        let own = carried.is_empty();
        if own {
            let m = Make::new(&name, "go", "Const").dtype("dtype", BOOL);
            let m = m
                .attr("value", Value::Tensor(Box::new(scalar(true))))
                .wait(after.as_deref());
            let go = self.emit(m.on(&p.node), outer)?;
            let m = Make::new(&name, "enter_go", "Enter").input(&go).dtype("T", BOOL);
            let enter = self.emit(frame(m, &name, false, parallel).on(&p.node), outer)?;
            carried.push((usize::MAX, enter, BOOL));
        }
        let mut merges = Vec::with_capacity(carried.len());
        let mut nexts = Vec::with_capacity(carried.len());
        for (k, (_, enter, t)) in carried.iter().enumerate() {
            // The names are fixed now: a Merge reads its NextIteration before that exists.
            let next = self.unique(&format!("{name}/next_{k}"));
            let m = Make::new(&name, &format!("merge_{k}"), "Merge");
            let m = m.input(enter).input(&next).dtype("T", *t).int("N", 2);
            merges.push(self.emit(m.on(&p.node), None)?);
            nexts.push(next);
        }

        let starts: Rc<str> = merges[0].as_str().into();
        let args = arguments(&enters, &carried, &merges, &starts);
        let scope = Scope {
            prefix: &format!("{name}/cond"),
            device: &p.node.device,
            pivot: Some(starts.clone()),
            after: Some(&starts),
            depth: p.depth + 1,
        };
        let done = self.expand(&cond_f, &cond.attr, &args, &scope)?;
        let goes_on = done.results.first().map_or("", String::as_str);
        let goes_on = self.truth(p, goes_on, decides, Some(&starts))?;
        let m = Make::new(&name, "goes_on", "Identity").input(&goes_on).dtype("T", BOOL);
        let goes_on = self.emit(m.waits(&done.effects).on(&p.node), Some(&starts))?;
        let m = Make::new(&name, "LoopCond", "LoopCond").input(&goes_on);
        let goes_on = self.emit(m.on(&p.node), None)?;

        let mut exits = Vec::with_capacity(carried.len());
        let mut values = Vec::with_capacity(carried.len());
        for (k, (merge, (_, _, t))) in merges.iter().zip(&carried).enumerate() {
            let m = Make::new(&name, &format!("switch_{k}"), "Switch").input(merge);
            let switch = self.emit(m.input(&goes_on).dtype("T", *t).on(&p.node), None)?;
            let m = Make::new(&name, &format!("value_{k}"), "Identity").input(&format!("{switch}:1"));
            values.push(self.emit(m.dtype("T", *t).on(&p.node), None)?);
            let m = Make::new(&name, &format!("exit_{k}"), "Exit").input(&switch);
            exits.push(self.emit(m.dtype("T", *t).on(&p.node), None)?);
        }
        let pivot: Rc<str> = values[0].as_str().into();
        let args = arguments(&enters, &carried, &values, &pivot);
        let scope = Scope {
            prefix: &format!("{name}/body"),
            device: &p.node.device,
            pivot: Some(pivot.clone()),
            after: Some(&pivot),
            depth: p.depth + 1,
        };
        let done = self.expand(&body_f, &body.attr, &args, &scope)?;
        for (k, ((i, _, t), next)) in carried.iter().zip(nexts).enumerate() {
            let x = done.results.get(*i).map_or(&*pivot, String::as_str);
            let mut m = Make::named(&next, "NextIteration").input(x).dtype("T", *t);
            if k == 0 {
                // The next iteration starts when all effects of this one have happened.
                m = m.waits(&done.effects);
            }
            let mut node = m.on(&p.node);
            self.pin(&mut node, Some(&pivot));
            self.count(&node)?;
            self.nodes.push(node);
        }
        let mut results = inputs.data;
        for ((i, ..), exit) in carried.iter().zip(&exits) {
            if let Some(r) = results.get_mut(*i) {
                r.clone_from(exit);
            }
        }
        // The loop is over when its first variable is out.
        let last = exits[0].clone();
        self.finish(p, &results, types, &[last])
    }

    /// Checks the functions of a loop; the dtype of its condition.
    fn check_loop(
        &self,
        cond_f: &Function<'a>,
        cond: &NameAttrList,
        body_f: &Function<'a>,
        body: &NameAttrList,
        types: &[i32],
    ) -> Result<i32> {
        for (f, named) in [(cond_f, cond), (body_f, body)] {
            let (takes, _) = self.signature(f, &named.attr)?;
            if takes.len() != types.len() {
                return Err(wrong_count(&named.name, takes.len(), types.len()));
            }
            agree(&named.name, "arguments", &takes, types)?;
        }
        agree(&body.name, "results", &self.signature(body_f, &body.attr)?.1, types)?;
        match self.signature(cond_f, &cond.attr)?.1.as_slice() {
            [one] => Ok(*one),
            many => Err(Error::invalid(format!(
                "the condition of a loop, function {:?}, must give one result, it gives {}",
                cond.name,
                many.len()
            ))),
        }
    }

    /// `For` is a loop over an index, the limit, the step and its own variables.
    pub(super) fn lower_for(&mut self, p: &Pending) -> Result<()> {
        let mut inputs = Inputs::of(&p.node)?;
        let rest = types(&p.node, "T")?;
        let body = func(&p.node, "body")?.clone();
        if inputs.data.len() != rest.len() + 3 {
            return Err(Error::invalid(format!(
                "the loop needs start, limit, delta and {} inputs; it has {} inputs",
                rest.len(),
                inputs.data.len()
            )));
        }
        let function = self.function(&body.name)?;
        let (takes, gives) = self.signature(&function, &body.attr)?;
        let mut want = vec![INT32];
        want.extend(&rest);
        if takes.len() != want.len() {
            return Err(wrong_count(&body.name, takes.len(), want.len()));
        }
        agree(&body.name, "arguments", &takes, &want)?;
        agree(&body.name, "results", &gives, &rest)?;

        let checked = self.check_bounds(p, &inputs)?;
        inputs.control.push(checked);
        let name = &p.node.name;
        let (cond_name, body_name) = (format!("{name}/for_cond"), format!("{name}/for_body"));
        let mut all = vec![INT32; 3];
        all.extend(&rest);
        let loop_cond = for_cond(&cond_name, &all);
        let loop_body = for_body(&body_name, &all, &body);
        let effects = self.has_effects(&body.name);
        self.made.insert(cond_name.clone(), (Arc::new(loop_cond), false));
        self.made.insert(body_name.clone(), (Arc::new(loop_body), effects));
        let named = |name: String| NameAttrList {
            name,
            attr: AttrMap::new(),
        };
        // The loop as a whole has three results more than the node, and a name of its own.
        let inner = Pending {
            node: NodeDef {
                name: self.unique(&format!("{name}/for")),
                op: "While".to_owned(),
                device: p.node.device.clone(),
                ..Default::default()
            },
            call: p.call,
            pivot: p.pivot.clone(),
            depth: p.depth + 1,
        };
        self.repeat(&inner, inputs, &all, &named(cond_name), &named(body_name))?;
        let done = inner.node.name;
        let results: Vec<String> = (3..all.len()).map(|i| format!("{done}:{i}")).collect();
        self.finish(p, &results, &rest, &[done])
    }

    /// A step towards the limit, or nothing to do at all; the node that checks it.
    fn check_bounds(&mut self, p: &Pending, inputs: &Inputs) -> Result<String> {
        let name = p.node.name.clone();
        let pivot = p.pivot.clone();
        let pivot = pivot.as_deref();
        let [start, limit, delta] = [0, 1, 2].map(|i| inputs.data[i].clone());
        let mut add = |n: &str, op: &str, xs: [&str; 2], typed: bool| -> Result<String> {
            let m = Make::new(&name, n, op).input(xs[0]).input(xs[1]);
            let m = if typed { m.dtype("T", INT32) } else { m };
            self.emit(m.waits(&inputs.control).on(&p.node), pivot)
        };
        let zero = add("zero", "Sub", [&delta, &delta], true)?;
        let up = add("up", "Greater", [&delta, &zero], true)?;
        let up_room = add("up_room", "LessEqual", [&start, &limit], true)?;
        let down = add("down", "Less", [&delta, &zero], true)?;
        let down_room = add("down_room", "GreaterEqual", [&start, &limit], true)?;
        let same = add("same", "Equal", [&start, &limit], true)?;
        let up = add("up_ok", "LogicalAnd", [&up, &up_room], false)?;
        let down = add("down_ok", "LogicalAnd", [&down, &down_room], false)?;
        let some = add("some_ok", "LogicalOr", [&up, &down], false)?;
        let ok = add("ok", "LogicalOr", [&some, &same], false)?;
        let m = Make::new(&name, "check", "Assert").input(&ok);
        let m = m.input(&start).input(&limit).input(&delta);
        let m = m.dtypes("T", &[INT32; 3]).int("summarize", 3).waits(&inputs.control);
        self.emit(m.on(&p.node), pivot)
    }
}

fn frame(m: Make, name: &str, constant: bool, parallel: i64) -> Make {
    let frame = format!("{name}/frame");
    m.attr("frame_name", Value::S(frame.into()))
        .attr("is_constant", Value::B(constant))
        .attr("parallel_iterations", Value::I(parallel))
}

/// What a loop's function reads: of a variable that changes its value, of others their Enters.
fn arguments(enters: &[String], carried: &[(usize, String, i32)], values: &[String], pivot: &str) -> Vec<Argument> {
    let mut args: Vec<Argument> = enters
        .iter()
        .map(|e| Argument {
            tensor: e.clone(),
            wait: pivot.to_owned(),
        })
        .collect();
    for ((i, ..), x) in carried.iter().zip(values) {
        if let Some(a) = args.get_mut(*i) {
            a.wait = node_of(x).to_owned();
            a.tensor.clone_from(x);
        }
    }
    args
}

fn scalar(x: bool) -> TensorProto {
    TensorProto {
        dtype: BOOL,
        tensor_shape: Some(Default::default()),
        bool_val: vec![x],
        ..Default::default()
    }
}

fn parameters(prefix: &str, types: &[i32]) -> Vec<ArgDef> {
    let arg = |(i, t): (usize, &i32)| ArgDef {
        name: format!("{prefix}{i}"),
        r#type: *t,
        ..Default::default()
    };
    types.iter().enumerate().map(arg).collect()
}

/// Whether the index (argument 0) has not reached the limit (1), going by the step (2).
fn for_cond(name: &str, types: &[i32]) -> FunctionDef {
    let two = |n: &str, op: &str, a: &str, b: &str| {
        let m = Make::named(n, op).input(a).input(b);
        if op.starts_with("Logical") {
            m
        } else {
            m.dtype("T", INT32)
        }
        .done()
    };
    FunctionDef {
        signature: Some(OpDef {
            name: name.to_owned(),
            input_arg: parameters("x", types),
            output_arg: parameters("y", &[BOOL]),
            ..Default::default()
        }),
        node_def: vec![
            two("zero", "Sub", "x2", "x2"),
            two("up", "Greater", "x2", "zero:z:0"),
            two("below", "Less", "x0", "x1"),
            two("above", "Greater", "x0", "x1"),
            two("going_up", "LogicalAnd", "up:z:0", "below:z:0"),
            two("down", "Less", "x2", "zero:z:0"),
            two("going_down", "LogicalAnd", "down:z:0", "above:z:0"),
            two("on", "LogicalOr", "going_up:z:0", "going_down:z:0"),
        ],
        ret: [("y0".to_owned(), "on:z:0".to_owned())].into(),
        ..Default::default()
    }
}

/// The next index, and what `body` gives for the index and the variables.
fn for_body(name: &str, types: &[i32], body: &NameAttrList) -> FunctionDef {
    let mut call = Make::named("body", "PartitionedCall").input("x0");
    for i in 3..types.len() {
        call = call.input(&format!("x{i}"));
    }
    let mut tin = vec![INT32];
    tin.extend(&types[3..]);
    let call = call.dtypes("Tin", &tin).dtypes("Tout", &types[3..]);
    let next = Make::named("next", "AddV2").input("x0").input("x2").dtype("T", INT32);
    let mut ret: std::collections::BTreeMap<String, String> = (3..types.len())
        .map(|i| (format!("y{i}"), format!("body:output:{}", i - 3)))
        .collect();
    ret.insert("y0".to_owned(), "next:z:0".to_owned());
    ret.insert("y1".to_owned(), "x1".to_owned());
    ret.insert("y2".to_owned(), "x2".to_owned());
    FunctionDef {
        signature: Some(OpDef {
            name: name.to_owned(),
            input_arg: parameters("x", types),
            output_arg: parameters("y", types),
            ..Default::default()
        }),
        node_def: vec![next.done(), call.attr("f", Value::Func(body.clone())).done()],
        ret,
        ..Default::default()
    }
}
