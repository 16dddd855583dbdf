//! `StatelessRandomBinomial`.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::Philox;
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};

use super::gamma::fill_by;
use super::stateless::seeded;
use super::stream::{Doubles, doubles, shape_input, uniform_pair};

/// Blocks of the stream for each number, as in TensorFlow: many if successes are not rare.
fn reserved(n: f64, p: f64) -> u64 {
    if rare(n, p.min(1.0 - p)) { 42 } else { 256 }
}

/// Whether gaps between successes are drawn.
fn rare(n: f64, p: f64) -> bool {
    n * p < 10.0
}

/// What Stirling's approximation of log(k!) leaves out.
fn tail(k: f64) -> f64 {
    const FIRST: [f64; 10] = [
        0.0810614667953272,
        0.0413406959554092,
        0.0276779256849983,
        0.02079067210376509,
        0.0166446911898211,
        0.0138761288230707,
        0.0118967099458917,
        0.0104112652619720,
        0.00925546218271273,
        0.00833056343336287,
    ];
    match FIRST.get(k as usize) {
        Some(t) if k >= 0.0 => *t,
        _ => {
            let square = (k + 1.0) * (k + 1.0);
            (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / 1260.0 / square) / square) / (k + 1.0)
        }
    }
}

/// How often something of probability `p` (at most a half) happens in `n` tries, from a stretch of a stream of its own.
///
/// If it is rare, the gaps between successes are drawn (L. Devroye, "Non-Uniform Random Variate Generation", 1986); else
/// W. Hörmann, "The generation of binomial random variates", J. Stat. Comput. Simul. 46 (1993), algorithm BTRS.
fn successes(n: f64, p: f64, from: &mut Philox) -> f64 {
    let mut uniforms = Doubles::default();
    let mut uniform = || uniforms.next(from, uniform_pair);
    if rare(n, p) {
        let (mut tried, mut found) = (0.0, 0.0);
        loop {
            tried += (uniform().ln() / (-p).ln_1p()).ceil();
            if !(tried <= n) {
                return found;
            }
            found += 1.0;
        }
    }
    let deviation = (n * p * (1.0 - p)).sqrt();
    let b = 1.15 + 2.53 * deviation;
    let a = -0.0873 + 0.0248 * b + 0.01 * p;
    let c = n * p + 0.5;
    let tight = 0.92 - 4.2 / b;
    let r = p / (1.0 - p);
    let alpha = (2.83 + 5.1 / b) * deviation;
    let m = ((n + 1.0) * p).floor();
    loop {
        let u = uniform() - 0.5;
        let v = uniform();
        let us = 0.5 - u.abs();
        let k = ((2.0 * a / us + b) * u + c).floor();
        if us >= 0.07 && v <= tight {
            return k;
        }
        if !(0.0..=n).contains(&k) {
            continue;
        }
        let v = (v * alpha / (a / (us * us) + b)).ln();
        let bound = (m + 0.5) * ((m + 1.0) / (r * (n - m + 1.0))).ln()
            + (n + 1.0) * ((n - m + 1.0) / (n - k + 1.0)).ln()
            + (k + 0.5) * (r * (n - k + 1.0) / (k + 1.0)).ln()
            + tail(m)
            + tail(n - m)
            - tail(k)
            - tail(n - k);
        if v <= bound {
            return k;
        }
    }
}

/// One number of the binomial distribution; NaN for what is no count or no probability.
fn sample(n: f64, p: f64, mut from: Philox) -> f64 {
    if !(n.is_finite() && n >= 0.0 && (0.0..=1.0).contains(&p)) {
        return f64::NAN;
    }
    match p {
        p if p == 0.0 || n == 0.0 => 0.0,
        p if p <= 0.5 => successes(n, p, &mut from),
        1.0 => n,
        p => n - successes(n, 1.0 - p, &mut from),
    }
}

/// The elements of a tensor, broadcast to `shape`.
fn spread(t: &Tensor, shape: &Shape) -> Result<Vec<f64>> {
    let (own, dims) = (doubles(t)?, t.shape());
    let (strides, missing) = (dims.strides(), shape.rank() - dims.rank());
    let at = |mut i: usize| {
        let mut from = 0;
        for k in (0..shape.rank()).rev() {
            let n = shape[k];
            if k >= missing && dims[k - missing] > 1 {
                from += i % n * strides[k - missing];
            }
            i /= n;
        }
        own[from]
    };
    Ok((0..shape.checked_count()?).map(at).collect())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let dtype = init.attrs.dtype("dtype")?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let shape = shape_input(cx, 0)?;
        shape.checked_count()?;
        let (counts, probs) = (cx.input(2)?, cx.input(3)?);
        let both = Shape::broadcast(counts.shape(), probs.shape())?;
        let Some(lead) = shape.strip_suffix(both.dims()) else {
            return Err(Error::invalid(format!(
                "Shape passed in must end with broadcasted shape: {shape} does not end with {both}"
            )));
        };
        let (counts, probs) = (spread(counts, &both)?, spread(probs, &both)?);
        let numbers: Vec<f64> = (0..counts.len()).map(|i| i as f64).collect();
        let which = Tensor::from_slice(both, &numbers)?;
        let at = |i: f64| (counts[i as usize], probs[i as usize]);
        let stretch = |i: f64| reserved(at(i).0, at(i).1);
        let draw = |i: f64, from: Philox| sample(at(i).0, at(i).1, from);
        let t = fill_by(
            cx,
            dtype,
            (&lead.into(), &which),
            seeded(cx.input(1)?)?,
            (stretch, draw),
        )?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn stateless_random_binomial() -> OpDef {
    OpDef::new("StatelessRandomBinomial", Category::Random)
        .doc("Binomially distributed numbers that follow from the inputs alone; `shape` ends with that of the parameters.")
        .input("shape: S")
        .input("seed: Tseed")
        .input("counts: T")
        .input("probs: T")
        .output("output: dtype")
        .attr("S: {int32, int64}")
        .attr("Tseed: {int32, int64} = DT_INT64")
        .attr("T: {half, float, double, int32, int64} = DT_DOUBLE")
        .attr("dtype: {half, float, double, int32, int64} = DT_INT64")
        .not_differentiable()
        .shape(|cx| {
            cx.input(0).with_rank(1)?;
            cx.input(1).merge(&PartialShape::from([2]))?;
            Ok(vec![cx.constant_shape(0)?])
        })
        .cpu(kernel)
}

register_ops!(stateless_random_binomial);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_limits_are_those_of_the_distribution() {
        for (n, p) in [(20.0, 0.3), (100.0, 0.7), (1000.0, 0.4), (9.0, 0.99)] {
            let mut sum = 0.0;
            for i in 0..2000 {
                let mut from = Philox::new(1, 2);
                from.skip(256 * i);
                let x = sample(n, p, from);
                assert!((0.0..=n).contains(&x) && x.fract() == 0.0);
                sum += x;
            }
            assert!(
                (sum / 2000.0 - n * p).abs() < 0.1 * (n * p * (1.0 - p)).sqrt(),
                "{n} {p} {sum}"
            );
        }
        let from = Philox::new(1, 2);
        assert_eq!(
            (sample(5.0, 0.0, from), sample(5.0, 1.0, from), sample(0.0, 0.5, from)),
            (0.0, 5.0, 0.0)
        );
        assert!(
            [(f64::NAN, 0.5), (-1.0, 0.5), (5.0, 1.5), (5.0, f64::NAN)]
                .iter()
                .all(|(n, p)| sample(*n, *p, from).is_nan())
        );
    }
}
