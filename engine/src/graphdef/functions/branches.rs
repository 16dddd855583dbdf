//! `If` and `Case` as `Switch` and `Merge`.

#![forbid(unsafe_code)]

use std::rc::Rc;

use super::super::proto::{DataType, NameAttrList, NodeDef};
use super::body::{Argument, Scope, agree, wrong_count};
use super::make::{Make, dtype, func, funcs, types};
use super::{Inputs, Lowering, Pending};
use actorflow_core::{Error, Result};

/// One of the functions to choose from.
struct Arm {
    f: NameAttrList,
    /// The name that its nodes have below the call's.
    name: String,
}

impl<'a> Lowering<'a> {
    /// `If`: the condition may be of any dtype; what is not a bool is true unless it is zero or empty.
    pub(super) fn lower_if(&mut self, p: &Pending) -> Result<()> {
        let arm = |attr: &str, name: &str| -> Result<Arm> {
            Ok(Arm {
                f: func(&p.node, attr)?.clone(),
                name: name.to_owned(),
            })
        };
        // In the order of the outputs of a Switch.
        let arms = vec![arm("else_branch", "else")?, arm("then_branch", "then")?];
        let mut inputs = Inputs::of(&p.node)?;
        if inputs.data.is_empty() {
            return Err(Error::invalid("the conditional lacks its condition"));
        }
        let on = inputs.data.remove(0);
        let on = self.truth(p, &on, dtype(&p.node, "Tcond")?, p.pivot.as_deref())?;
        self.choose(p, &on, DataType::DtBool as i32, &arms, inputs)
    }

    /// `Case`: an index that names no branch means the last one.
    pub(super) fn lower_case(&mut self, p: &Pending) -> Result<()> {
        let arms: Vec<Arm> = funcs(&p.node, "branches")?
            .iter()
            .enumerate()
            .map(|(i, f)| Arm {
                f: f.clone(),
                name: format!("branch_{i}"),
            })
            .collect();
        if arms.is_empty() {
            return Err(Error::invalid("the choice has no branches"));
        }
        let mut inputs = Inputs::of(&p.node)?;
        if inputs.data.is_empty() {
            return Err(Error::invalid("the choice lacks its index"));
        }
        let on = inputs.data.remove(0);
        self.choose(p, &on, DataType::DtInt32 as i32, &arms, inputs)
    }

    /// The truth of a tensor, a bool scalar.
    pub(super) fn truth(&mut self, p: &Pending, x: &str, t: i32, pivot: Option<&str>) -> Result<String> {
        if t == DataType::DtBool as i32 {
            return Ok(x.to_owned());
        }
        let m = Make::new(&p.node.name, "truth", "ToBool").input(x).dtype("T", t);
        self.emit(m.on(&p.node), pivot)
    }

    /// Sends `x` to one of the arms.
    fn switch(&mut self, p: &Pending, name: &str, x: &str, t: i32, on: &str, arms: Option<usize>) -> Result<String> {
        let m = match arms {
            None => Make::new(&p.node.name, name, "Switch"),
            Some(n) => Make::new(&p.node.name, name, "_SwitchN").int("num_outs", n),
        };
        self.emit(m.input(x).input(on).dtype("T", t).on(&p.node), p.pivot.as_deref())
    }

    fn merge(&mut self, p: &Pending, name: &str, parts: &[String], t: i32) -> Result<String> {
        let mut m = Make::new(&p.node.name, name, "Merge")
            .int("N", parts.len())
            .dtype("T", t);
        for x in parts {
            m = m.input(x);
        }
        self.emit(m.on(&p.node), None)
    }

    /// Adds all `arms`, of which that one runs that `on` chooses.
    fn choose(&mut self, p: &Pending, on: &str, on_type: i32, arms: &[Arm], inputs: Inputs) -> Result<()> {
        let (tin, tout) = (types(&p.node, "Tin")?, types(&p.node, "Tout")?);
        if inputs.data.len() != tin.len() {
            return Err(Error::invalid(format!(
                "attribute \"Tin\" has {} dtypes, but there are {} inputs",
                tin.len(),
                inputs.data.len()
            )));
        }
        let name = p.node.name.clone();
        let outer = p.pivot.as_deref();
        let m = Make::new(&name, "on", "Identity").input(on).dtype("T", on_type);
        let on = self.emit(m.waits(&inputs.control).on(&p.node), outer)?;
        let sides = (on_type != DataType::DtBool as i32).then_some(arms.len());
        let pivots = self.switch(p, "sides", &on, on_type, &on, sides)?;
        let mut switches = Vec::with_capacity(tin.len());
        for (i, (x, t)) in inputs.data.iter().zip(&tin).enumerate() {
            switches.push(self.switch(p, &format!("in_{i}"), x, *t, &on, sides)?);
        }
        let mut results: Vec<Vec<String>> = vec![Vec::with_capacity(arms.len()); tout.len()];
        let mut ends = Vec::with_capacity(arms.len());
        let mut acts = tout.is_empty();
        for (k, arm) in arms.iter().enumerate() {
            let f = self.function(&arm.f.name)?;
            let (takes, gives) = self.signature(&f, &arm.f.attr)?;
            if takes.len() != tin.len() {
                return Err(wrong_count(&arm.f.name, takes.len(), tin.len()));
            }
            agree(&arm.f.name, "arguments", &takes, &tin)?;
            agree(&arm.f.name, "results", &gives, &tout)?;
            let prefix = format!("{name}/{}", arm.name);
            // Not the Switch itself: waiting for that would be waiting for any side.
            let m = Make::new(&prefix, "pivot", "Identity").input(&output(&pivots, k));
            let pivot: Rc<str> = self.emit(m.dtype("T", on_type).on(&p.node), outer)?.into();
            let args: Vec<Argument> = switches
                .iter()
                .map(|s| Argument {
                    tensor: output(s, k),
                    wait: pivot.to_string(),
                })
                .collect();
            let scope = Scope {
                prefix: &prefix,
                device: &p.node.device,
                pivot: Some(pivot.clone()),
                after: None,
                depth: p.depth + 1,
            };
            let done = self.expand(&f, &arm.f.attr, &args, &scope)?;
            for (all, x) in results.iter_mut().zip(done.results) {
                all.push(x);
            }
            acts |= !done.effects.is_empty();
            ends.push((pivot, done.effects));
        }
        let mut waits = Vec::new();
        if acts {
            let mut parts = Vec::with_capacity(ends.len());
            for ((pivot, effects), arm) in ends.iter().zip(arms) {
                let m = Make::new(&format!("{name}/{}", arm.name), "done", "Identity").input(pivot);
                let end: NodeDef = m.dtype("T", on_type).waits(effects).on(&p.node);
                parts.push(self.emit(end, None)?);
            }
            waits.push(self.merge(p, "done", &parts, on_type)?);
        }
        let mut merged = Vec::with_capacity(tout.len());
        for (i, (parts, t)) in results.iter().zip(&tout).enumerate() {
            merged.push(self.merge(p, &format!("out_{i}"), parts, *t)?);
        }
        self.finish(p, &merged, &tout, &waits)
    }
}

/// Output `i` of a node.
fn output(node: &str, i: usize) -> String {
    match i {
        0 => node.to_owned(),
        i => format!("{node}:{i}"),
    }
}
