//! `GRUBlockCell`, `GRUBlockCellGrad`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, dispatch, register_ops};

use super::{Products, Real, TYPES, check, dims, given, joined, sigmoid, supported};

fn sizes(cx: &OpContext<'_>) -> Result<[usize; 3]> {
    let ([batch, inputs], [_, n]) = (dims(cx, 0, "x")?, dims(cx, 1, "h_prev")?);
    check(cx, 1, "h_prev", &[batch, n])?;
    check(cx, 2, "w_ru", &[inputs + n, 2 * n])?;
    check(cx, 3, "w_c", &[inputs + n, n])?;
    check(cx, 4, "b_ru", &[2 * n])?;
    check(cx, 5, "b_c", &[n])?;
    Ok([batch, inputs, n])
}

fn forward<T: Real>(cx: &mut OpContext<'_>, products: &Products) -> Result<()> {
    let [batch, inputs, n] = sizes(cx)?;
    let (x, h) = (cx.slice::<T>(0)?, cx.slice::<T>(1)?);
    let xh = joined(cx, x, h, [batch, inputs, n], None)?;
    let gates = products.plain.run1(cx, vec![xh, cx.input(2)?.clone()])?;
    let (gates, bias) = (gates.as_slice::<T>()?, cx.slice::<T>(4)?);
    let gate = |column: usize| {
        let of = |k: usize| {
            let at = column + k % n;
            T::of(sigmoid(gates[k / n * 2 * n + at].wide() + bias[at].wide()))
        };
        (0..batch * n).map(of).collect::<Vec<T>>()
    };
    let (r, u) = (gate(0), gate(n));
    let xhr = joined(cx, x, h, [batch, inputs, n], Some(&r))?;
    let c = products.plain.run1(cx, vec![xhr, cx.input(3)?.clone()])?;
    let bias = cx.slice::<T>(5)?;
    let c: Vec<T> = c
        .as_slice::<T>()?
        .iter()
        .enumerate()
        .map(|(k, c)| T::of((c.wide() + bias[k % n].wide()).tanh()))
        .collect();
    let mixed = |k: usize| T::of(u[k].wide() * h[k].wide() + (1.0 - u[k].wide()) * c[k].wide());
    let h: Vec<T> = (0..batch * n).map(mixed).collect();
    for (i, v) in [r, u, c, h].iter().enumerate() {
        given(cx, i, &[batch, n], v)?;
    }
    Ok(())
}

fn backward<T: Real>(cx: &mut OpContext<'_>, products: &Products) -> Result<()> {
    let [batch, inputs, n] = sizes(cx)?;
    for (i, name) in ["r", "u", "c", "d_h"].iter().enumerate() {
        check(cx, 6 + i, name, &[batch, n])?;
    }
    let wide = |i: usize| Ok::<Vec<f64>, Error>(cx.slice::<T>(i)?.iter().map(|x| x.wide()).collect());
    let (h, r, u, c, dh) = (wide(1)?, wide(6)?, wide(7)?, wide(8)?, wide(9)?);
    let all = 0..batch * n;
    let c_bar: Vec<T> = all
        .clone()
        .map(|k| T::of(dh[k] * (1.0 - u[k]) * (1.0 - c[k] * c[k])))
        .collect();
    let tensor = |columns: usize, v: &[T]| actorflow_core::Tensor::from_slice([batch, columns], v);
    // Of x and of h_prev times r.
    let from_c = products
        .by_transposed
        .run1(cx, vec![tensor(n, &c_bar)?, cx.input(3)?.clone()])?;
    let from_c: Vec<f64> = from_c.as_slice::<T>()?.iter().map(|x| x.wide()).collect();
    let width = inputs + n;
    let hr = |k: usize| from_c[k / n * width + inputs + k % n];
    let mut ru_bar = vec![T::of(0.0); batch * 2 * n];
    for k in all.clone() {
        let row = k / n * 2 * n + k % n;
        ru_bar[row] = T::of(hr(k) * h[k] * r[k] * (1.0 - r[k]));
        ru_bar[row + n] = T::of(dh[k] * (h[k] - c[k]) * u[k] * (1.0 - u[k]));
    }
    let from_ru = products
        .by_transposed
        .run1(cx, vec![tensor(2 * n, &ru_bar)?, cx.input(2)?.clone()])?;
    let from_ru: Vec<f64> = from_ru.as_slice::<T>()?.iter().map(|x| x.wide()).collect();
    let dx: Vec<T> = (0..batch * inputs)
        .map(|k| {
            let at = k / inputs * width + k % inputs;
            T::of(from_c[at] + from_ru[at])
        })
        .collect();
    let d_before = |k: usize| T::of(hr(k) * r[k] + dh[k] * u[k] + from_ru[k / n * width + inputs + k % n]);
    let d_before: Vec<T> = all.map(d_before).collect();
    given(cx, 0, &[batch, inputs], &dx)?;
    given(cx, 1, &[batch, n], &d_before)?;
    given(cx, 2, &[batch, n], &c_bar)?;
    given(cx, 3, &[batch, 2 * n], &ru_bar)
}

fn kernel(init: &KernelInit<'_>, back: bool) -> Result<Box<dyn Kernel>> {
    let (products, dtype) = (Products::new(init)?, supported(init)?);
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        dispatch!(dtype, T in [F32, F64, F16] => match back {
            false => forward::<T>(cx, &products),
            true => backward::<T>(cx, &products),
        }, else Err(Error::internal("a cell of another dtype")))
    }))
}

fn arguments(def: OpDef) -> OpDef {
    ["x", "h_prev", "w_ru", "w_c", "b_ru", "b_c"]
        .iter()
        .fold(def, |d, name| d.input(&format!("{name}: T")))
}

fn states(cx: &ShapeContext<'_>) -> Result<[PartialShape; 2]> {
    let (x, h) = (cx.input(0).with_rank(2)?, cx.input(1).with_rank(2)?);
    Ok([x.clone(), PartialShape::from([x.dim(0), h.dim(1)]).merge(&h)?])
}

fn gru() -> OpDef {
    let def = OpDef::new("GRUBlockCell", Category::Nn)
        .doc("One step of a gated recurrent unit: reset gate, update gate, candidate and the new state.");
    ["r", "u", "c", "h"]
        .iter()
        .fold(arguments(def), |d, name| d.output(&format!("{name}: T")))
        .attr(TYPES)
        .shape(|cx| Ok(vec![states(cx)?[1].clone(); 4]))
        .cpu(|init| kernel(init, false))
}

fn gru_grad() -> OpDef {
    let def = OpDef::new("GRUBlockCellGrad", Category::Nn).doc("The gradient of GRUBlockCell.");
    let def = ["r", "u", "c", "d_h"]
        .iter()
        .fold(arguments(def), |d, name| d.input(&format!("{name}: T")));
    ["d_x", "d_h_prev", "d_c_bar", "d_r_bar_u_bar"]
        .iter()
        .fold(def, |d, name| d.output(&format!("{name}: T")))
        .attr(TYPES)
        .shape(|cx| {
            let [x, h] = states(cx)?;
            let gates = PartialShape::from([h.dim(0), h.dim(1).and_then(|n| n.checked_mul(2))]);
            Ok(vec![x, h.clone(), h, gates])
        })
        .cpu(|init| kernel(init, true))
}

register_ops!(gru, gru_grad);
