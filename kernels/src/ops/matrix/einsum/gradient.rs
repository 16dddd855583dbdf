//! The gradient of `Einsum`: einsums of the output's gradient with the other operand.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::{Graph, Output};

use super::equation::{Equation, Subscripts};

fn einsum(g: &Graph, inputs: &[Output], equation: &str) -> Result<Output> {
    g.op("Einsum").input_list(inputs).attr("equation", equation).output()
}

/// Parts of an operand's shape as integer vectors.
struct Extents<'a> {
    x: &'a Output,
    subscripts: &'a Subscripts,
    shape: Output,
}

impl<'a> Extents<'a> {
    fn of(x: &'a Output, subscripts: &'a Subscripts) -> Result<Self> {
        Ok(Extents {
            x,
            subscripts,
            shape: x.shape_op()?,
        })
    }

    /// `len` dimensions from `begin`, vectors of one element each.
    fn part(&self, begin: &Output, len: &Output) -> Result<Output> {
        self.x
            .graph()
            .op("Slice")
            .input(&self.shape)
            .input(begin)
            .input(len)
            .output()
    }

    /// The dimension of a letter.
    fn letter(&self, c: char) -> Result<Output> {
        let g = self.x.graph();
        let (s, one) = (self.subscripts, g.constant([1i32])?);
        let at = s.letters.iter().position(|l| *l == c).unwrap_or(0);
        let begin = match s.ellipsis {
            // Behind the ellipsis, places are counted from the end.
            Some(e) if at >= e => {
                let back = g.constant([(s.letters.len() - at) as i32])?;
                self.shape.shape_op()?.minus(&back)?
            }
            _ => g.constant([at as i32])?,
        };
        self.part(&begin, &one)
    }

    /// The dimensions that the ellipsis stands for.
    fn broadcast(&self) -> Result<Output> {
        let g = self.x.graph();
        let (letters, before) = (self.subscripts.letters.len(), self.subscripts.ellipsis.unwrap_or(0));
        let len = self.shape.shape_op()?.minus(&g.constant([letters as i32])?)?;
        self.part(&g.constant([before as i32])?, &len)
    }
}

/// The gradient with respect to `x`, from that of the output and the other operand, conjugated.
fn operand_grad(
    g: &Graph,
    (x, own): (&Output, &Subscripts),
    (dy, output): (&Output, &Subscripts),
    other: Option<(&Output, &Subscripts)>,
) -> Result<Output> {
    let letters = own.unique();
    let has = |s: &Subscripts, c: &char| s.letters.contains(c);
    let found = |c: &char| has(output, c) || other.is_some_and(|(_, s)| has(s, c));
    let present: Vec<char> = letters.iter().copied().filter(found).collect();
    let plain = own.ellipsis.is_none();
    let any_ellipsis = output.ellipsis.is_some() || other.is_some_and(|(_, s)| s.ellipsis.is_some());
    let broadcasts = !plain && any_ellipsis;
    let (inputs, left) = match other {
        Some((y, s)) => (vec![dy.clone(), y.clone()], format!("{output},{s}")),
        None => (vec![dy.clone()], output.to_string()),
    };
    if plain && present.len() == own.letters.len() {
        return einsum(g, &inputs, &format!("{left}->{own}"));
    }
    // First all that the factors give, the broadcasting dimensions in front.
    let dots = if broadcasts { "..." } else { "" };
    let names: String = present.iter().collect();
    let mut t = einsum(g, &inputs, &format!("{left}->{dots}{names}"))?;
    let extents = Extents::of(x, own)?;
    let one = g.constant([1i32])?;
    let mut target = Vec::new();
    if !plain {
        target.push(extents.broadcast()?);
    }
    // Each letter's dimension, 1 where the factors do not have it yet.
    let mut dims = Vec::new();
    for c in &letters {
        let d = extents.letter(*c)?;
        dims.push(if present.contains(c) { d.clone() } else { one.clone() });
        target.push(d);
    }
    let joined = |parts: &[Output]| match parts {
        [] => g.constant(actorflow_core::Tensor::vector::<i32>(&[])),
        [only] => Ok(only.clone()),
        many => g.concat(many, 0),
    };
    if broadcasts {
        let front = Subscripts {
            letters: present.clone(),
            ellipsis: Some(0),
        };
        let have = [vec![Extents::of(&t, &front)?.broadcast()?], dims.clone()].concat();
        let want = [vec![target[0].clone()], dims.clone()].concat();
        let (have, want) = (joined(&have)?, joined(&want)?);
        let axes = g.op("BroadcastGradientArgs").input(&want).input(&have).output()?;
        // What is repeated along `x` is summed; what `x` is longer along is repeated below.
        let all = g.op("BroadcastArgs").input(&want).input(&have).output()?;
        let full = g.op("BroadcastTo").input(&t.reshape_to(&have)?).input(&all).output()?;
        t = full.reduce_by("Sum", &axes, false)?.reshape_to(&want)?;
    } else {
        t = t.reshape_to(&joined(&dims)?)?;
    }
    let target = joined(&target)?;
    if !plain && !broadcasts {
        // The broadcasting dimensions were summed away: there is nothing in front yet.
        t = g.op("BroadcastTo").input(&t).input(&target).output()?;
    } else if present.len() < letters.len() {
        t = g.op("BroadcastTo").input(&t).input(&target).output()?;
    }
    let dots = if plain { "" } else { "..." };
    let names: String = letters.iter().collect();
    let now = format!("{dots}{names}");
    if now == own.to_string() {
        return Ok(t);
    }
    einsum(g, &[t], &format!("{now}->{own}"))
}

pub(super) fn einsum_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, n) = (cx.graph(), cx.num_inputs());
    let equation = Equation::parse(cx.attrs().str("equation")?, n)?;
    let dy = cx.dense(grads, 0)?;
    let conj = |x: Output| if x.dtype().is_complex() { x.conj_op() } else { Ok(x) };
    let dy = (&dy, &equation.output);
    let x = cx.input(0)?;
    if n == 1 {
        return Ok(vec![Some(operand_grad(g, (&x, &equation.inputs[0]), dy, None)?.into())]);
    }
    if n > 2 {
        return Err(cx.unsupported("for more than two inputs"));
    }
    let y = cx.input(1)?;
    let (cx_, cy) = (conj(x.clone())?, conj(y.clone())?);
    let (sx, sy) = (&equation.inputs[0], &equation.inputs[1]);
    let dx = operand_grad(g, (&x, sx), dy, Some((&cy, sy)))?;
    let dz = operand_grad(g, (&y, sy), dy, Some((&cx_, sx)))?;
    Ok(vec![Some(dx.into()), Some(dz.into())])
}
