//! `BlockLSTM`, `BlockLSTMV2` and their gradients: a layer of LSTM cells over all time steps.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, Tensor, dispatch, register_ops};

use super::cell::{CS, Cell, H, Order};
use super::lstm::{arguments, cell, check_weights, give_peephole_of, results};
use super::{Products, Real, TYPES, check, dims, given, joined, supported};

struct Layer {
    cell: Cell,
    products: Products,
}

/// Extents of a run.
#[derive(Clone, Copy)]
struct Extents {
    time: usize,
    batch: usize,
    inputs: usize,
    /// Steps that are computed; later ones are zero.
    steps: usize,
}

impl Layer {
    fn sizes(&self, cx: &OpContext<'_>) -> Result<(Cell, Extents)> {
        let ([time, batch, inputs], [_, units]) = (dims(cx, 1, "x")?, dims(cx, 2, "cs_prev")?);
        let cell = Cell { units, ..self.cell };
        check(cx, 2, "cs_prev", &[batch, units])?;
        check(cx, 3, "h_prev", &[batch, units])?;
        check_weights(cx, 4, inputs, &cell)?;
        let steps = cx.input(0)?;
        if !steps.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "seq_len_max must be a scalar, got shape {}",
                steps.shape()
            )));
        }
        let n = steps.to_i64()?;
        let steps = usize::try_from(n).ok().filter(|n| *n <= time).ok_or_else(|| {
            Error::invalid(format!(
                "seq_len_max must be between 0 and the {time} time steps, got {n}"
            ))
        })?;
        Ok((
            cell,
            Extents {
                time,
                batch,
                inputs,
                steps,
            },
        ))
    }

    fn forward<T: Real>(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (cell, e) = self.sizes(cx)?;
        let (n, state, step) = (cell.units, e.batch * cell.units, e.batch * e.inputs);
        let zeros = cx.zeros(T::DTYPE, [e.time, e.batch, n])?;
        let mut out: Vec<Tensor> = (0..7)
            .map(|_| zeros.deep_copy_in(cx.step().device.pool()))
            .collect::<Result<_>>()?;
        for t in 0..e.steps {
            let x = &cx.slice::<T>(1)?[t * step..][..step];
            let last = |slot: usize, first: usize| match t {
                0 => cx.slice::<T>(first),
                _ => Ok(&out[slot].as_slice::<T>()?[(t - 1) * state..][..state]),
            };
            let (cs_before, h_before) = (last(CS, 2)?.to_vec(), last(H, 3)?);
            let xh = joined::<T>(cx, x, h_before, [e.batch, e.inputs, n], None)?;
            let gates = self.products.plain.run1(cx, vec![xh, cx.input(4)?.clone()])?;
            let mut parts = Vec::with_capacity(7);
            for o in &mut out {
                let all = o
                    .as_mut_slice::<T>()
                    .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
                parts.push(&mut all[t * state..][..state]);
            }
            let mut parts: [&mut [T]; 7] = parts
                .try_into()
                .map_err(|_| Error::internal("a cell has seven outputs"))?;
            let peepholes = [cx.slice::<T>(5)?, cx.slice(6)?, cx.slice(7)?];
            cell.forward(gates.as_slice()?, cx.slice(8)?, &cs_before, peepholes, &mut parts);
        }
        for (i, t) in out.into_iter().enumerate() {
            cx.set_output(i, t);
        }
        Ok(())
    }

    fn backward<T: Real>(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (cell, e) = self.sizes(cx)?;
        let (n, state, step) = (cell.units, e.batch * cell.units, e.batch * e.inputs);
        for (i, name) in ["i", "cs", "f", "o", "ci", "co", "h", "cs_grad", "h_grad"]
            .iter()
            .enumerate()
        {
            check(cx, 9 + i, name, &[e.time, e.batch, n])?;
        }
        let at = |i: usize, t: usize| Ok::<&[T], Error>(&cx.slice::<T>(i)?[t * state..][..state]);
        let mut x_grad = vec![T::of(0.0); e.time * step];
        let mut w_grad = vec![0.0f64; (e.inputs + n) * 4 * n];
        let mut b_grad = vec![0.0f64; 4 * n];
        let mut peeps: [Vec<f64>; 3] = std::array::from_fn(|_| vec![0.0; n]);
        // What comes back from the step after.
        let (mut cs_back, mut h_back) = (vec![0.0f64; state], vec![0.0f64; state]);
        for t in (0..e.steps).rev() {
            let (cs_before, h_before) = match t {
                0 => (cx.slice::<T>(2)?, cx.slice::<T>(3)?),
                _ => (at(10, t - 1)?, at(15, t - 1)?),
            };
            let mut done: [&[T]; 6] = [&[]; 6];
            for (i, d) in done.iter_mut().enumerate() {
                *d = at(9 + i, t)?;
            }
            let sum = |back: &[f64], own: &[T]| back.iter().zip(own).map(|(a, b)| a + b.wide()).collect::<Vec<f64>>();
            let (cs_grad, h_grad) = (sum(&cs_back, at(16, t)?), sum(&h_back, at(17, t)?));
            let mut gates = cx.alloc(T::DTYPE, [e.batch, 4 * n])?;
            let d = gates
                .as_mut_slice::<T>()
                .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
            let peepholes = [cx.slice::<T>(5)?, cx.slice(6)?, cx.slice(7)?];
            cell.backward(
                (cs_before, peepholes),
                done,
                (&cs_grad, &h_grad),
                d,
                &mut cs_back,
                &mut peeps,
            );
            for (k, d) in d.iter().enumerate() {
                b_grad[k % (4 * n)] += d.wide();
            }
            let x = &cx.slice::<T>(1)?[t * step..][..step];
            let xh = joined::<T>(cx, x, h_before, [e.batch, e.inputs, n], None)?;
            let dw = self.products.of_transposed.run1(cx, vec![xh, gates.clone()])?;
            w_grad
                .iter_mut()
                .zip(dw.as_slice::<T>()?)
                .for_each(|(s, d)| *s += d.wide());
            let dxh = self
                .products
                .by_transposed
                .run1(cx, vec![gates, cx.input(4)?.clone()])?;
            for (r, row) in dxh.as_slice::<T>()?.chunks((e.inputs + n).max(1)).enumerate() {
                let (dx, dh) = row.split_at(e.inputs);
                x_grad[t * step + r * e.inputs..][..e.inputs].copy_from_slice(dx);
                h_back[r * n..][..n].iter_mut().zip(dh).for_each(|(o, d)| *o = d.wide());
            }
        }
        let narrow = |v: &[f64]| v.iter().map(|x| T::of(*x)).collect::<Vec<T>>();
        given(cx, 0, &[e.time, e.batch, e.inputs], &x_grad)?;
        given(cx, 1, &[e.batch, n], &narrow(&cs_back))?;
        given(cx, 2, &[e.batch, n], &narrow(&h_back))?;
        given(cx, 3, &[e.inputs + n, 4 * n], &narrow(&w_grad))?;
        for (i, p) in peeps.iter().enumerate() {
            give_peephole_of::<T>(cx, 4 + i, 5 + i, cell.peephole.then_some(p))?;
        }
        given(cx, 7, &[4 * n], &narrow(&b_grad))
    }
}

fn kernel(init: &KernelInit<'_>, back: bool) -> Result<Box<dyn Kernel>> {
    let order = if init.op.ends_with("V2") {
        Order::Ifco
    } else {
        Order::Icfo
    };
    let layer = Layer {
        cell: cell(init, order)?,
        products: Products::new(init)?,
    };
    let dtype = supported(init)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        dispatch!(dtype, T in [F32, F64, F16] => match back {
            false => layer.forward::<T>(cx),
            true => layer.backward::<T>(cx),
        }, else Err(Error::internal("a layer of another dtype")))
    }))
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let mut b = cx.graph().op(op);
    for i in 0..9 {
        b = b.input(&cx.input(i)?);
    }
    for i in 0..7 {
        b = b.input(&cx.output(i)?);
    }
    // Gates and activations get no gradient of their own, as in TensorFlow.
    let b = b.input(&cx.dense(dys, CS)?).input(&cx.dense(dys, H)?);
    let op = b.attr("use_peephole", cx.attrs().bool("use_peephole")?).finish()?;
    let grads = (0..8).map(|i| Ok(Some(op.output(i)?.into())));
    std::iter::once(Ok(None)).chain(grads).collect()
}

fn states(cx: &ShapeContext<'_>) -> Result<PartialShape> {
    let (x, c) = (cx.input(1).with_rank(3)?, cx.input(2).with_rank(2)?);
    Ok(PartialShape::from([x.dim(0), x.dim(1), c.dim(1)]))
}

fn layer(name: &'static str) -> OpDef {
    let def = OpDef::new(name, Category::Nn)
        .doc("A layer of LSTM cells over `seq_len_max` steps of `x`, `[time, batch, inputs]`.")
        .input("seq_len_max: int64");
    let def = results(arguments(def));
    let def = match name {
        "BlockLSTM" => def.attr("forget_bias: float = 1.0").attr("cell_clip: float = 3.0"),
        _ => def.attr("cell_clip: float = 0.0"),
    };
    def.attr("use_peephole: bool = false")
        .attr(TYPES)
        .shape(|cx| Ok(vec![states(cx)?; 7]))
        .cpu(|init| kernel(init, false))
}

fn sample(s: &mut Sampler, op: &str, peephole: bool) -> Result<Operation> {
    let (time, batch, inputs, units) = (3, 2, 2, 2);
    let x = s.uniform([time, batch, inputs], -1.0, 1.0)?;
    let states = [
        s.uniform([batch, units], -1.0, 1.0)?,
        s.uniform([batch, units], -1.0, 1.0)?,
    ];
    let w = s.uniform([inputs + units, 4 * units], -1.0, 1.0)?;
    let mut b = s.constant(2i64)?.graph().op(op).input(&s.constant(2i64)?).input(&x);
    for state in &states {
        b = b.input(state);
    }
    b = b.input(&w);
    for _ in 0..3 {
        b = match peephole {
            true => b.input(&s.uniform([units], -1.0, 1.0)?),
            false => b.input(&s.constant(Tensor::full([units], 0.5f64)?)?),
        };
    }
    let bias = s.uniform([4 * units], -1.0, 1.0)?;
    let layer = b.input(&bias).attr("use_peephole", peephole).finish()?;
    let (cs, h) = (layer.output(CS)?, layer.output(H)?);
    s.op("AddV2").input(&cs.square()?).input(&h).finish()
}

fn v1() -> OpDef {
    layer("BlockLSTM")
        .gradient(|cx, dys| gradient(cx, dys, "BlockLSTMGrad"))
        .sample(|s| sample(s, "BlockLSTM", true))
        .sample(|s| sample(s, "BlockLSTM", false))
}

fn v2() -> OpDef {
    layer("BlockLSTMV2")
        .gradient(|cx, dys| gradient(cx, dys, "BlockLSTMGradV2"))
        .sample(|s| sample(s, "BlockLSTMV2", true))
        .sample(|s| sample(s, "BlockLSTMV2", false))
}

fn grad(name: &'static str) -> OpDef {
    let def = OpDef::new(name, Category::Nn)
        .doc("The gradient of a layer of LSTM cells.")
        .input("seq_len_max: int64");
    let names = ["i", "cs", "f", "o", "ci", "co", "h", "cs_grad", "h_grad"];
    let def = names
        .iter()
        .fold(arguments(def), |d, name| d.input(&format!("{name}: T")));
    ["x", "cs_prev", "h_prev", "w", "wci", "wcf", "wco", "b"]
        .iter()
        .fold(def, |d, name| d.output(&format!("{name}_grad: T")))
        .attr("use_peephole: bool")
        .attr(TYPES)
        .shape(|cx| Ok((1..9).map(|i| cx.input(i)).collect()))
        .cpu(|init| kernel(init, true))
}

fn v1_grad() -> OpDef {
    grad("BlockLSTMGrad")
}

fn v2_grad() -> OpDef {
    grad("BlockLSTMGradV2")
}

register_ops!(v1, v2, v1_grad, v2_grad);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output, Tensor};

    fn layer(steps: i64) -> Output {
        let g = Graph::new();
        let full = |shape: &[usize], x: f32| g.constant(Tensor::full(shape, x).unwrap()).unwrap();
        let b = g
            .op("BlockLSTMV2")
            .input(&g.constant(steps).unwrap())
            .input(&full(&[3, 1, 2], 0.5));
        let b = b
            .input(&full(&[1, 1], 0.0))
            .input(&full(&[1, 1], 0.0))
            .input(&full(&[3, 4], 0.0));
        let b = b
            .input(&full(&[1], 0.0))
            .input(&full(&[1], 0.0))
            .input(&full(&[1], 0.0));
        b.input(&full(&[4], 1.0)).finish().unwrap().output(1).unwrap()
    }

    #[test]
    fn steps_beyond_the_longest_sequence_are_zero() {
        let cs: Vec<f32> = eval(&layer(2)).to_vec().unwrap();
        let (gate, input) = (1.0 / (1.0 + (-1f32).exp()), 1f32.tanh());
        let first = gate * input;
        let want = [first, first * gate + first, 0.0];
        assert!(cs.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{cs:?}");
        for steps in [-1, 4] {
            assert_eq!(fails(&layer(steps)).code(), Code::InvalidArgument);
        }
    }
}
