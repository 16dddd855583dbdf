//! `StatelessRandomBinomial`, `StatefulRandomBinomial`.

#![forbid(unsafe_code)]

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::Philox;
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::gamma::fill_by;
use super::stateful::{advance, check_algorithm};
use super::stateless::{PHILOX, seeded};
use super::stream::{Doubles, doubles, shape_input, uniform_pair};
use crate::ops::state::access;

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

/// The numbers of the shape in input `at`, for the counts in input `counts` and the probabilities behind them, from the
/// stream that `start` gives for so many samples of so many parameters.
fn draw(
    cx: &OpContext<'_>,
    dtype: DType,
    (at, counts): (usize, usize),
    start: impl FnOnce(usize, usize) -> Result<Philox>,
) -> Result<Tensor> {
    let shape = shape_input(cx, at)?;
    shape.checked_count()?;
    let (counts, probs) = (cx.input(counts)?, cx.input(counts + 1)?);
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
    let lead = Shape::from(lead);
    let from = start(lead.checked_count()?, counts.len())?;
    fill_by(cx, dtype, (&lead, &which), from, (stretch, draw))
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let dtype = init.attrs.dtype("dtype")?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let t = draw(cx, dtype, (0, 2), |_, _| seeded(cx.input(1)?))?;
        cx.set_output(0, t);
        Ok(())
    }))
}

/// Draws from a stream whose place a variable keeps.
struct Stateful(DType);

impl Kernel for Stateful {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        check_algorithm(cx.input(1)?, &[PHILOX])?;
        let t = draw(cx, self.0, (2, 3), |samples, parameters| {
            // TensorFlow's reckoning, by which other operations on the variable go on.
            let outputs = (samples as u64).wrapping_add(3);
            let outputs = (parameters as u64).wrapping_mul(200).wrapping_mul(outputs) / 4;
            Ok(advance(cx, 0, outputs)?.0)
        })?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn stateful_random_binomial() -> OpDef {
    OpDef::new("StatefulRandomBinomial", Category::Random)
        .doc("Binomially distributed numbers of a stream in a variable; `shape` ends with that of the parameters.")
        .input("resource: resource")
        .input("algorithm: int64")
        .input("shape: S")
        .input("counts: T")
        .input("probs: T")
        .output("output: dtype")
        .attr("S: {int32, int64}")
        .attr("T: {half, float, double, int32, int64} = DT_DOUBLE")
        .attr("dtype: {half, float, double, int32, int64} = DT_INT64")
        .stateful()
        .not_differentiable()
        .shape(|cx| {
            cx.input(2).with_rank(1)?;
            Ok(vec![cx.constant_shape(2)?])
        })
        .cpu(|init| Ok(Box::new(Stateful(init.attrs.dtype("dtype")?))))
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

register_ops!(stateless_random_binomial, stateful_random_binomial);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Interpreter;
    use actorflow_core::{Code, Graph};

    /// TensorFlow 2.21's numbers and places in the stream.
    #[test]
    fn a_stream_in_a_variable_goes_on_as_in_tensorflow() {
        let (g, run) = (Graph::new(), Interpreter::default());
        let var = g
            .op("VarHandleOp")
            .attr("dtype", DType::I64)
            .attr("shape", PartialShape::from([3]));
        let var = var.attr("shared_name", "s").output().unwrap();
        let start = g.constant([5i64, 0, 11]).unwrap();
        let init = g.op("AssignVariableOp").input(&var).input(&start).finish().unwrap();
        let op = |algorithm: i64, shape: Tensor, dtype: DType| {
            let op = g
                .op("StatefulRandomBinomial")
                .input(&var)
                .input(&g.constant(algorithm).unwrap());
            let op = op.input(&g.constant(shape).unwrap());
            let op = op.input(&g.constant([10f32, 100., 1000.]).unwrap());
            let op = op.input(&g.constant([0.5f32, 0.25, 0.9]).unwrap());
            op.attr("dtype", dtype).output().unwrap()
        };
        let read = g
            .op("ReadVariableOp")
            .input(&var)
            .attr("dtype", DType::I64)
            .output()
            .unwrap();
        let get = |o: &actorflow_core::Output| run.run(std::slice::from_ref(o), &[], &[]);
        let ints = op(1, [2i32, 3].into(), DType::I64);
        assert_eq!(get(&ints).unwrap_err().code(), Code::NotFound);
        run.run(&[], &[init], &[]).unwrap();
        assert_eq!(get(&ints).unwrap()[0], Tensor::from([[4i64, 34, 911], [4, 28, 901]]));
        assert_eq!(get(&read).unwrap()[0], Tensor::from([192_005i64, 0, 11]));
        let floats = op(1, [2i64, 3].into(), DType::F32);
        assert_eq!(
            get(&floats).unwrap()[0],
            Tensor::from([[3f32, 25., 879.], [7., 26., 910.]])
        );
        assert_eq!(
            get(&op(1, [0i32, 3].into(), DType::F64)).unwrap()[0].shape().dims(),
            [0, 3]
        );
        assert_eq!(get(&read).unwrap()[0], Tensor::from([499_205i64, 0, 11]));
        for bad in [op(2, [2i32, 3].into(), DType::F32), op(1, [2i32].into(), DType::F32)] {
            assert_eq!(get(&bad).unwrap_err().code(), Code::InvalidArgument);
        }
        assert_eq!(get(&read).unwrap()[0], Tensor::from([499_205i64, 0, 11]));
    }

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
