//! The updates of an `AgreeApply`: registered optimizer operations, run one after the other in one turn.
//!
//! Each is a line: the operation (`ResourceApplyMomentum`), its flags (`use_nesterov=true`) and its inputs:
//!
//! | input | what it is |
//! |---|---|
//! | `v3` | handle 3 of the node |
//! | `r3` | the value of the variable of handle 3 |
//! | `d1` | the mean of payload tensor 1 |
//! | `s1`, `i1` | the mean of payload tensors 1 and 2, rows and their indices: the rows, the indices |
//! | `w1` | the same mean with zeros in all other rows, in the shape of the variable of the first input |
//! | `h5` | payload tensor 5 of the first replica that counts: a hyper-parameter |
//! | `c0.9` | a number |
//! | `~h5`, `~c0.9` | the same, divided by one more than the number of updates that the gradient is old |
//!
//! `Multiply v3 c0.9` multiplies the variable of handle 3.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::registry;
use actorflow_core::resource::Variable;
use actorflow_core::{Attrs, DType, Tensor};

use super::desk::Payload;
use super::mean;
use crate::ops::state::access;

/// The operation that no optimizer has.
const MULTIPLY: &str = "Multiply";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Arg {
    Handle(usize),
    Value(usize),
    Dense(usize),
    Rows(usize),
    Whole(usize),
    Indices(usize),
    Hyper(usize, bool),
    Number(f64, bool),
}

impl Arg {
    fn parse(text: &str) -> Option<Arg> {
        let (text, scaled) = match text.strip_prefix('~') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (kind, rest) = text.split_at_checked(1)?;
        if kind == "c" {
            return rest.parse().ok().map(|x| Arg::Number(x, scaled));
        }
        let i = rest.parse().ok()?;
        Some(match kind {
            "h" => Arg::Hyper(i, scaled),
            _ if scaled => return None,
            "v" => Arg::Handle(i),
            "r" => Arg::Value(i),
            "d" => Arg::Dense(i),
            "s" => Arg::Rows(i),
            "w" => Arg::Whole(i),
            "i" => Arg::Indices(i),
            _ => return None,
        })
    }
}

struct Update {
    args: Vec<Arg>,
    dtype: DType,
    /// None multiplies.
    kernel: Option<Box<dyn Kernel>>,
}

/// The parsed updates of a node.
pub struct Program(Vec<Update>);

/// The gradients that count, each with its age in updates.
pub type Gradients<'a> = [(u64, &'a Payload)];

impl Program {
    /// Parses the lines; `dtypes` are those of the variables behind the handles.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the line that is none; what making a kernel returns.
    pub fn parse(init: &KernelInit<'_>, lines: &[&str], dtypes: &[DType]) -> Result<Program> {
        let line = |l: &&str| parse(init, l, dtypes).map_err(|e| e.context(format!("in the update {l:?}")));
        lines.iter().map(line).collect::<Result<_>>().map(Program)
    }

    /// Fails if an update could not be made. After it succeeded, only a lack of memory can stop [`run`](Self::run).
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` naming a variable without a value; `INVALID_ARGUMENT` if a gradient does not fit.
    fn check(&self, run: &Run<'_>) -> Result<()> {
        for u in &self.0 {
            let mut shape = None;
            for a in &u.args {
                match a {
                    Arg::Handle(i) | Arg::Value(i) => {
                        let v = run.variable(*i)?;
                        let state = access::state(run.cx.held(), v, u.dtype)?;
                        let value = access::value(v, &state)?;
                        if shape.is_none() {
                            shape = Some((v, value.shape().clone()));
                        }
                    }
                    Arg::Dense(i) => {
                        for (_, p) in run.gradients {
                            let g = part(p, *i)?;
                            if let Some((v, shape)) = &shape {
                                access::same_shape(v, shape, "its gradient", g.shape())?;
                            }
                        }
                    }
                    Arg::Rows(i) | Arg::Whole(i) => {
                        for (_, p) in run.gradients {
                            let (rows, indices) = (part(p, *i)?, part(p, i + 1)?);
                            if let Some((v, shape)) = &shape {
                                rows_fit(v, shape, rows, indices)?;
                            }
                        }
                    }
                    Arg::Hyper(i, _) => {
                        let h = part(run.first()?, *i)?;
                        if !h.shape().is_scalar() || h.dtype() != u.dtype {
                            return Err(Error::invalid(format!(
                                "a hyper-parameter must be a {} scalar, got {}{}",
                                u.dtype,
                                h.dtype(),
                                h.shape()
                            )));
                        }
                    }
                    Arg::Indices(_) | Arg::Number(..) => {}
                }
            }
        }
        Ok(())
    }

    /// Makes all updates, or none if one could not be made. `handles` is the first input of the node that is a variable;
    /// the node holds the turns of all of them.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` naming a variable without a value; `INVALID_ARGUMENT` if a gradient does not fit;
    /// `RESOURCE_EXHAUSTED` if there is no memory.
    pub fn run(&self, cx: &OpContext<'_>, handles: usize, gradients: &Gradients<'_>) -> Result<()> {
        let variables = (handles..cx.num_inputs())
            .map(|i| cx.variable(i))
            .collect::<Result<Vec<_>>>()?;
        let mut run = Run {
            cx,
            handles,
            variables,
            gradients,
            oldest: gradients.iter().map(|g| g.0).max().unwrap_or(0),
            means: HashMap::new(),
        };
        self.check(&run)?;
        for u in &self.0 {
            for a in &u.args {
                run.average(*a)?;
            }
        }
        for u in &self.0 {
            let inputs = u.args.iter().map(|a| run.input(*a, u)).collect::<Result<Vec<_>>>()?;
            match &u.kernel {
                Some(kernel) => {
                    let mut inputs: Vec<_> = inputs.into_iter().map(Some).collect();
                    kernel.compute(&mut OpContext::new(&mut inputs, &mut [], cx.step(), cx.held(), None))?;
                }
                None => run.multiply(u)?,
            }
        }
        Ok(())
    }
}

fn rows_fit(v: &Variable, shape: &actorflow_core::Shape, rows: &Tensor, indices: &Tensor) -> Result<()> {
    let (Some((&n, row)), 1) = (shape.split_first(), indices.shape().rank()) else {
        return Err(Error::invalid(format!(
            "variable {} of shape {shape} cannot be updated by rows with indices of shape {}",
            v.name(),
            indices.shape()
        )));
    };
    if rows.shape().split_first() != Some((&indices.len(), row)) {
        return Err(Error::invalid(format!(
            "rows of shape {} for {} indices do not fit variable {} of shape {shape}",
            rows.shape(),
            indices.len(),
            v.name()
        )));
    }
    let outside = |i: &i64| usize::try_from(*i).map_or(true, |i| i >= n);
    match indices.to_i64_vec()?.into_iter().find(outside) {
        Some(i) => Err(Error::invalid(format!(
            "index {i} is not in [0, {n}), the rows of variable {}",
            v.name()
        ))),
        None => Ok(()),
    }
}

fn parse(init: &KernelInit<'_>, line: &str, dtypes: &[DType]) -> Result<Update> {
    let mut words = line.split_whitespace();
    let op = words.next().ok_or_else(|| Error::invalid("it is empty"))?;
    let mut attrs = Attrs::new();
    let mut args = Vec::new();
    for w in words {
        match w.split_once('=') {
            Some((flag, value)) => {
                let value: bool = value
                    .parse()
                    .map_err(|_| Error::invalid(format!("{w:?} is no flag that is true or false")))?;
                attrs.set(flag, value);
            }
            None => args.push(Arg::parse(w).ok_or_else(|| Error::invalid(format!("{w:?} is no input of an update")))?),
        }
    }
    let first = match args.first() {
        Some(Arg::Handle(i)) => *i,
        _ => return Err(Error::invalid("the first input must be a variable")),
    };
    let at = |i: usize| {
        let missing = || Error::invalid(format!("there is no handle {i}, only {}", dtypes.len()));
        dtypes.get(i).copied().ok_or_else(missing)
    };
    let dtype = at(first)?;
    for a in &args {
        if let Arg::Handle(i) | Arg::Value(i) = a {
            at(*i)?;
        }
    }
    if op == MULTIPLY {
        let [_, Arg::Number(_, false) | Arg::Hyper(_, false)] = args[..] else {
            return Err(Error::invalid("Multiply takes a variable and a number"));
        };
        return Ok(Update {
            args,
            dtype,
            kernel: None,
        });
    }
    let def = registry().get(op)?;
    if !(op.starts_with("ResourceApply") || op.starts_with("ResourceSparseApply")) || def.inputs().len() != args.len() {
        return Err(Error::invalid(format!(
            "{op} is no update of a resource variable with {} inputs",
            args.len()
        )));
    }
    attrs.set("T", dtype);
    if def.attr_def("Tindices").is_some() {
        attrs.set("Tindices", DType::I64);
    }
    def.fill_defaults(&mut attrs);
    let types: Vec<DType> = args
        .iter()
        .map(|a| match a {
            Arg::Handle(_) => DType::Resource,
            Arg::Indices(_) => DType::I64,
            _ => dtype,
        })
        .collect();
    let kernel = def.make_kernel(&KernelInit {
        name: init.name,
        op,
        attrs: &attrs,
        input_types: &types,
        input_refs: &vec![false; types.len()],
        output_types: &[],
        resources: init.resources,
    })?;
    Ok(Update {
        args,
        dtype,
        kernel: Some(kernel),
    })
}

/// One application of the updates.
struct Run<'a> {
    cx: &'a OpContext<'a>,
    handles: usize,
    variables: Vec<Arc<Variable>>,
    gradients: &'a Gradients<'a>,
    oldest: u64,
    /// The means, by payload tensor; of rows, the indices are at the next.
    means: HashMap<usize, Tensor>,
}

fn part(payload: &Payload, i: usize) -> Result<&Tensor> {
    payload.get(i).ok_or_else(|| {
        Error::invalid(format!(
            "a replica pushed {} tensors, but an update needs number {i}",
            payload.len()
        ))
    })
}

impl Run<'_> {
    fn variable(&self, i: usize) -> Result<&Arc<Variable>> {
        self.variables
            .get(i)
            .ok_or_else(|| Error::invalid(format!("there is no handle {i}")))
    }

    fn first(&self) -> Result<&Payload> {
        match self.gradients.first() {
            Some((_, p)) => Ok(p),
            None => Err(Error::invalid("an update needs a gradient")),
        }
    }

    fn average(&mut self, a: Arg) -> Result<()> {
        let pool = self.cx.step().device.pool();
        match a {
            Arg::Dense(i) if !self.means.contains_key(&i) => {
                let parts = self
                    .gradients
                    .iter()
                    .map(|(_, p)| part(p, i))
                    .collect::<Result<Vec<_>>>()?;
                let mean = mean::dense(&parts, pool, self.cx.parallel())?;
                self.means.insert(i, mean);
            }
            Arg::Rows(i) | Arg::Whole(i) if !self.means.contains_key(&i) => {
                let parts = self
                    .gradients
                    .iter()
                    .map(|(_, p)| Ok((part(p, i)?, part(p, i + 1)?)))
                    .collect::<Result<Vec<_>>>()?;
                let (rows, indices) = mean::rows(&parts, pool)?;
                self.means.insert(i, rows);
                self.means.insert(i + 1, indices);
            }
            _ => {}
        }
        Ok(())
    }

    fn mean(&self, i: usize) -> Result<Tensor> {
        let missing = || Error::invalid(format!("payload tensor {i} is no gradient"));
        self.means.get(&i).cloned().ok_or_else(missing)
    }

    fn input(&self, a: Arg, u: &Update) -> Result<Tensor> {
        let dtype = u.dtype;
        let age = self.oldest.saturating_add(1) as f64;
        let pool = self.cx.step().device.pool();
        match a {
            Arg::Handle(i) => self.cx.input(self.handles + i).cloned(),
            Arg::Value(i) => {
                let v = self.variable(i)?;
                let state = access::state(self.cx.held(), v, dtype)?;
                access::value(v, &state).cloned()
            }
            Arg::Dense(i) | Arg::Rows(i) => self.mean(i),
            Arg::Whole(i) => {
                let Some(Arg::Handle(of)) = u.args.first() else {
                    return Err(Error::internal("an update of no variable"));
                };
                let v = self.variable(*of)?;
                let shape = access::value(v, &*access::state(self.cx.held(), v, dtype)?)?
                    .shape()
                    .clone();
                mean::whole(&self.mean(i)?, &self.mean(i + 1)?, shape, pool)
            }
            Arg::Indices(i) => self.mean(i + 1),
            Arg::Hyper(i, false) => part(self.first()?, i).cloned(),
            Arg::Hyper(i, true) => mean::divided(part(self.first()?, i)?.clone(), age, pool),
            Arg::Number(x, scaled) => {
                let one = mean::ones(dtype)?;
                mean::times(one, if scaled { x / age } else { x }, pool)
            }
        }
    }

    fn multiply(&self, u: &Update) -> Result<()> {
        let [Arg::Handle(i), by] = u.args[..] else {
            return Err(Error::internal("a product without factors"));
        };
        let by = self.input(by, u)?;
        let v = self.variable(i)?;
        let mut state = access::state(self.cx.held(), v, u.dtype)?;
        let value = access::writable(v, &mut state, self.cx.step().device.pool())?;
        mean::multiply(value, &by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_of_updates_are_parsed_and_others_refused() {
        assert_eq!(Arg::parse("v3"), Some(Arg::Handle(3)));
        assert_eq!(Arg::parse("~c0.5"), Some(Arg::Number(0.5, true)));
        assert_eq!(Arg::parse("~h1"), Some(Arg::Hyper(1, true)));
        assert_eq!(Arg::parse("w2"), Some(Arg::Whole(2)));
        for wrong in ["", "~", "~v1", "x1", "v", "v-1", "cx", "é1"] {
            assert_eq!(Arg::parse(wrong), None, "{wrong}");
        }
    }
}
