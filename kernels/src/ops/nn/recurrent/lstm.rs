//! `LSTMBlockCell`, `LSTMBlockCellGrad`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, dispatch, register_ops};

use super::cell::{Cell, Order};
use super::{Products, Real, TYPES, check, dims, given, joined, supported};

struct Step {
    cell: Cell,
    products: Products,
}

/// The attributes of all cells; those that an operation lacks have no effect.
pub(super) fn cell(init: &KernelInit<'_>, order: Order) -> Result<Cell> {
    let number = |name: &str| match init.attrs.get(name) {
        Some(_) => init.attrs.float(name).map(f64::from),
        None => Ok(0.0),
    };
    Ok(Cell {
        order,
        forget_bias: number("forget_bias")?,
        clip: number("cell_clip")?,
        peephole: init.attrs.bool("use_peephole")?,
        units: 0,
    })
}

/// Checks the weights of a cell: inputs `first..` are w, wci, wcf, wco, b.
pub(super) fn check_weights(cx: &OpContext<'_>, first: usize, inputs: usize, cell: &Cell) -> Result<()> {
    let n = cell.units;
    check(cx, first, "w", &[inputs + n, 4 * n])?;
    if cell.peephole {
        for (i, name) in ["wci", "wcf", "wco"].iter().enumerate() {
            check(cx, first + 1 + i, name, &[n])?;
        }
    }
    check(cx, first + 4, "b", &[4 * n])
}

impl Step {
    fn sizes(&self, cx: &OpContext<'_>) -> Result<(Cell, [usize; 2])> {
        let ([batch, inputs], [_, units]) = (dims(cx, 0, "x")?, dims(cx, 1, "cs_prev")?);
        let cell = Cell { units, ..self.cell };
        check(cx, 1, "cs_prev", &[batch, units])?;
        check(cx, 2, "h_prev", &[batch, units])?;
        check_weights(cx, 3, inputs, &cell)?;
        Ok((cell, [batch, inputs]))
    }

    fn forward<T: Real>(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (cell, [batch, inputs]) = self.sizes(cx)?;
        let n = cell.units;
        let xh = joined::<T>(cx, cx.slice(0)?, cx.slice(2)?, [batch, inputs, n], None)?;
        let gates = self.products.plain.run1(cx, vec![xh, cx.input(3)?.clone()])?;
        let mut out: [Vec<T>; 7] = std::array::from_fn(|_| vec![T::of(0.0); batch * n]);
        let peepholes = [cx.slice::<T>(4)?, cx.slice(5)?, cx.slice(6)?];
        cell.forward(
            gates.as_slice()?,
            cx.slice(7)?,
            cx.slice(1)?,
            peepholes,
            &mut out.each_mut().map(|v| &mut v[..]),
        );
        for (i, v) in out.iter().enumerate() {
            given(cx, i, &[batch, n], v)?;
        }
        Ok(())
    }

    fn backward<T: Real>(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (cell, [batch, _]) = self.sizes(cx)?;
        let n = cell.units;
        for (i, name) in ["i", "cs", "f", "o", "ci", "co", "cs_grad", "h_grad"]
            .iter()
            .enumerate()
        {
            check(cx, 8 + i, name, &[batch, n])?;
        }
        let wide =
            |i: usize| Ok::<Vec<f64>, actorflow_core::Error>(cx.slice::<T>(i)?.iter().map(|x| x.wide()).collect());
        let (cs_grad, h_grad) = (wide(14)?, wide(15)?);
        let mut done: [&[T]; 6] = [&[]; 6];
        for (i, d) in done.iter_mut().enumerate() {
            *d = cx.slice(8 + i)?;
        }
        let mut gates = vec![T::of(0.0); batch * 4 * n];
        let mut before = vec![0.0; batch * n];
        let mut peeps: [Vec<f64>; 3] = std::array::from_fn(|_| vec![0.0; n]);
        let peepholes = [cx.slice::<T>(4)?, cx.slice(5)?, cx.slice(6)?];
        cell.backward(
            (cx.slice(1)?, peepholes),
            done,
            (&cs_grad, &h_grad),
            &mut gates,
            &mut before,
            &mut peeps,
        );
        let narrow = |v: &[f64]| v.iter().map(|x| T::of(*x)).collect::<Vec<T>>();
        given(cx, 0, &[batch, n], &narrow(&before))?;
        given(cx, 1, &[batch, 4 * n], &gates)?;
        for (i, p) in peeps.iter().enumerate() {
            give_peephole(cx, 2 + i, 4 + i, cell.peephole.then_some(p))?;
        }
        Ok(())
    }
}

/// The gradient of a peephole's weights, input `i`: zeros if there are no peepholes.
pub(super) fn give_peephole_of<T: Real>(
    cx: &mut OpContext<'_>,
    out: usize,
    i: usize,
    sum: Option<&Vec<f64>>,
) -> Result<()> {
    let shape = cx.input(i)?.shape().clone();
    let values: Vec<T> = match sum {
        Some(s) => s.iter().map(|x| T::of(*x)).collect(),
        None => vec![T::of(0.0); shape.count()],
    };
    given(cx, out, shape.dims(), &values)
}

fn give_peephole(cx: &mut OpContext<'_>, out: usize, i: usize, sum: Option<&Vec<f64>>) -> Result<()> {
    dispatch!(cx.input(i)?.dtype(), T in [F32, F64, F16] => give_peephole_of::<T>(cx, out, i, sum),
        else Err(actorflow_core::Error::internal("a cell of another dtype")))
}

fn kernel(init: &KernelInit<'_>, back: bool) -> Result<Box<dyn Kernel>> {
    let step = Step {
        cell: cell(init, Order::Icfo)?,
        products: Products::new(init)?,
    };
    let dtype = supported(init)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        dispatch!(dtype, T in [F32, F64, F16] => match back {
            false => step.forward::<T>(cx),
            true => step.backward::<T>(cx),
        }, else Err(actorflow_core::Error::internal("a cell of another dtype")))
    }))
}

/// The inputs that all operations on cells begin with.
pub(super) fn arguments(def: OpDef) -> OpDef {
    ["x", "cs_prev", "h_prev", "w", "wci", "wcf", "wco", "b"]
        .iter()
        .fold(def, |d, name| d.input(&format!("{name}: T")))
}

/// The outputs of all operations on cells.
pub(super) fn results(def: OpDef) -> OpDef {
    ["i", "cs", "f", "o", "ci", "co", "h"]
        .iter()
        .fold(def, |d, name| d.output(&format!("{name}: T")))
}

fn states(cx: &ShapeContext<'_>) -> Result<PartialShape> {
    let (x, c) = (cx.input(0).with_rank(2)?, cx.input(1).with_rank(2)?);
    let s = PartialShape::from([x.dim(0), c.dim(1)]).merge(&c)?;
    s.merge(&cx.input(2))
}

fn lstm() -> OpDef {
    let def = OpDef::new("LSTMBlockCell", Category::Nn)
        .doc("One step of an LSTM cell; the columns of `w` are input gate, cell, forget gate, output gate.");
    results(arguments(def))
        .attr("forget_bias: float = 1.0")
        .attr("cell_clip: float = 3.0")
        .attr("use_peephole: bool = false")
        .attr(TYPES)
        .shape(|cx| Ok(vec![states(cx)?; 7]))
        .cpu(|init| kernel(init, false))
}

fn lstm_grad() -> OpDef {
    let def =
        OpDef::new("LSTMBlockCellGrad", Category::Nn).doc("The gradient of LSTMBlockCell, one step back in time.");
    let names = ["i", "cs", "f", "o", "ci", "co", "cs_grad", "h_grad"];
    let def = names
        .iter()
        .fold(arguments(def), |d, name| d.input(&format!("{name}: T")));
    ["cs_prev_grad", "dicfo", "wci_grad", "wcf_grad", "wco_grad"]
        .iter()
        .fold(def, |d, name| d.output(&format!("{name}: T")))
        .attr("use_peephole: bool")
        .attr(TYPES)
        .shape(|cx| {
            let s = states(cx)?;
            let gates = PartialShape::from([s.dim(0), s.dim(1).and_then(|n| n.checked_mul(4))]);
            Ok(vec![s, gates, cx.input(4), cx.input(5), cx.input(6)])
        })
        .cpu(|init| kernel(init, true))
}

register_ops!(lstm, lstm_grad);
