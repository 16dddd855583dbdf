//! `QuantizedBiasAdd`, `QuantizedAdd`, `QuantizedMul`: element-wise arithmetic, with 32-bit results.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::range::{
    Integers, Quant, Reals, deliver, ends, map, nearest, proper_ends, range_of_product, real, scalars, stored,
    unclamped, with_range, zero_point,
};
use crate::moves;
use crate::ops::array::broadcast::broadcast;

/// A range around zero that sums of numbers of both ranges fit with room to spare.
fn range_of_sum((min_a, max_a): (f32, f32), (min_b, max_b): (f32, f32)) -> (f32, f32) {
    let most = max_a.max((-min_a).max(max_b.max(-min_b))) * (1 << 17) as f32;
    (-most, most)
}

fn bias<T: Quant>(cx: &mut OpContext<'_>) -> Result<()> {
    let (x, b) = (stored(cx, 0)?, stored(cx, 1)?);
    let (range_x, range_b) = (ends(cx, 2, "input")?, ends(cx, 4, "bias")?);
    let channels = match (x.shape().dims(), b.shape().dims()) {
        ([_, .., last], [n]) if last == n => *n,
        _ => {
            return Err(Error::invalid(format!(
                "input must be at least 2-dimensional and biases as many as its last dimension, got shapes {} and {}",
                x.shape(),
                b.shape()
            )));
        }
    };
    let (min, max) = range_of_sum(range_x, range_b);
    let to = Integers::of::<i32>(min, max);
    let zero: i32 = nearest(0.0, min, max);
    let from = Reals::of::<T>(range_b.0, range_b.1);
    let biases = map(cx, &b, |b: T| to.at::<i32>(from.at(b)).wrapping_add(zero))?;
    let biases = biases.as_slice::<i32>()?;
    let (from, x_shape) = (Reals::of::<T>(range_x.0, range_x.1), x.shape().clone());
    let x = x.as_slice::<T>()?;
    let mut y = cx.alloc(DType::I32, &x_shape)?;
    let out = y.as_mut_slice::<i32>().unwrap_or(&mut []);
    moves::par_chunks(cx.parallel(), out, |at, out| {
        for (i, (o, x)) in out.iter_mut().zip(&x[at..]).enumerate() {
            *o = to.at::<i32>(from.at(*x)).wrapping_add(biases[(at + i) % channels]);
        }
    });
    deliver::<i32>(cx, y, (min, max))
}

/// Two operands brought to one shape, and their 32-bit results.
fn pairs(cx: &OpContext<'_>, x: Tensor, y: Tensor, f: impl Fn(i32, i32) -> i32 + Sync) -> Result<Tensor> {
    let shape: Shape = Shape::broadcast(x.shape(), y.shape())?;
    let (x, y) = (broadcast(cx, &x, &shape)?, broadcast(cx, &y, &shape)?);
    let y = y.as_slice::<i32>()?;
    let x = x.as_slice::<i32>()?;
    let mut z = cx.alloc(DType::I32, &shape)?;
    let out = z.as_mut_slice::<i32>().unwrap_or(&mut []);
    moves::par_chunks(cx.parallel(), out, |at, out| {
        for ((o, x), y) in out.iter_mut().zip(&x[at..]).zip(&y[at..]) {
            *o = f(*x, *y);
        }
    });
    Ok(z)
}

/// The integers of `x` in another range, 32 bits wide. A lone number is converted by itself, several by the distance of
/// two neighbours, which rounds differently.
fn in_range<T: Quant>(
    cx: &OpContext<'_>,
    x: &Tensor,
    (min, max): (f32, f32),
    to: (f32, f32),
    lone: bool,
) -> Result<Tensor> {
    if lone {
        return map(cx, x, |x: T| nearest::<i32>(real(x, min, max), to.0, to.1));
    }
    let code = |q: i64| unclamped::<i32>(real(T::narrow(q), min, max), to.0, to.1);
    let first = code(0);
    let step = i64::from(code(1).wrapping_sub(first) as i32);
    map(cx, x, |x: T| {
        let wide = first.saturating_add(x.wide().saturating_mul(step));
        i32::narrow(wide.clamp(i32::LOWEST, i32::HIGHEST))
    })
}

fn add(cx: &mut OpContext<'_>) -> Result<()> {
    let (x, y) = (stored(cx, 0)?, stored(cx, 1)?);
    let (range_x, range_y) = (proper_ends(cx, 2, "x")?, proper_ends(cx, 4, "y")?);
    let biggest = range_x.0.min(range_y.0).abs().max(range_x.1.max(range_y.1).abs());
    let range = (-(biggest * (1 << 14) as f32), biggest * (1 << 14) as f32);
    // Of two lone numbers the first is converted by itself.
    let (lone_x, lone_y) = (x.len() == 1, y.len() == 1 && x.len() != 1);
    let x = in_range::<u8>(cx, &x, range_x, range, lone_x)?;
    let y = in_range::<u8>(cx, &y, range_y, range, lone_y)?;
    let z = pairs(cx, x, y, i32::wrapping_add)?;
    deliver::<i32>(cx, z, range)
}

fn multiply(cx: &mut OpContext<'_>) -> Result<()> {
    let (x, y) = (stored(cx, 0)?, stored(cx, 1)?);
    let (range_x, range_y) = (proper_ends(cx, 2, "x")?, proper_ends(cx, 4, "y")?);
    let (zero_x, zero_y) = (
        zero_point::<u8>(range_x.0, range_x.1),
        zero_point::<u8>(range_y.0, range_y.1),
    );
    let x = map(cx, &x, |x: u8| i32::from(x).wrapping_sub(zero_x))?;
    let y = map(cx, &y, |y: u8| i32::from(y).wrapping_sub(zero_y))?;
    let z = pairs(cx, x, y, i32::wrapping_mul)?;
    deliver::<i32>(cx, z, range_of_product::<u8, u8>(range_x, range_y))
}

fn bias_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    match (init.input_types[0], init.input_types[1], init.output_types[0]) {
        (DType::QU8, DType::QU8, DType::QI32) => Ok(Box::new(bias::<u8>)),
        (DType::QI8, DType::QI8, DType::QI32) => Ok(Box::new(bias::<i8>)),
        _ => Err(init.no_kernel()),
    }
}

fn bias_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    scalars(cx, &[2, 3, 4, 5])?;
    let (x, b) = (cx.input(0).with_rank_at_least(2)?, cx.input(1).with_rank(1)?);
    let last = x.rank().and_then(|r| x.dim(r - 1));
    PartialShape::vector(last)
        .merge(&b)
        .map_err(|e| e.context(format!("biases {b} of input {x}")))?;
    Ok(with_range(x))
}

fn bias_add() -> OpDef {
    OpDef::new("QuantizedBiasAdd", Category::Nn)
        .doc("Adds a bias to every channel, the last dimension, of quantised numbers.")
        .input("input: T1")
        .input("bias: T2")
        .input("min_input: float")
        .input("max_input: float")
        .input("min_bias: float")
        .input("max_bias: float")
        .output("output: out_type")
        .output("min_out: float")
        .output("max_out: float")
        .attr("T1: quantizedtype")
        .attr("T2: quantizedtype")
        .attr("out_type: quantizedtype")
        .shape(bias_shape)
        .not_differentiable()
        .cpu(bias_kernel)
}

const MUL: &str = "QuantizedMul";

fn both(name: &'static str, doc: &'static str) -> OpDef {
    OpDef::new(name, Category::Math)
        .doc(doc)
        .input("x: T1")
        .input("y: T2")
        .input("min_x: float")
        .input("max_x: float")
        .input("min_y: float")
        .input("max_y: float")
        .output("z: Toutput")
        .output("min_z: float")
        .output("max_z: float")
        .attr("T1: quantizedtype")
        .attr("T2: quantizedtype")
        .attr("Toutput: quantizedtype = DT_QINT32")
        .shape(|cx| {
            scalars(cx, &[2, 3, 4, 5])?;
            Ok(with_range(PartialShape::broadcast(&cx.input(0), &cx.input(1))?))
        })
        .not_differentiable()
        .cpu(
            |init| match (init.input_types[0], init.input_types[1], init.output_types[0]) {
                (DType::QU8, DType::QU8, DType::QI32) if init.op == MUL => Ok(Box::new(multiply)),
                (DType::QU8, DType::QU8, DType::QI32) => Ok(Box::new(add)),
                _ => Err(init.no_kernel()),
            },
        )
}

fn quantized_add() -> OpDef {
    both(
        "QuantizedAdd",
        "x + y of quantised numbers of 8 bits, broadcast, as 32-bit ones.",
    )
}

fn quantized_mul() -> OpDef {
    both(MUL, "x * y of quantised numbers of 8 bits, broadcast, as 32-bit ones.")
}

register_ops!(bias_add, quantized_add, quantized_mul);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Operation, Tensor};

    fn apply(op: &str, x: Tensor, y: Tensor, (min, max): (f32, f32)) -> Operation {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let b = g.op(op).input(&c(x.bitcast(DType::QU8).unwrap()));
        let b = b.input(&c(y.bitcast(DType::QU8).unwrap()));
        let b = b.input(&c((-10f32).into())).input(&c(245f32.into()));
        let b = b.input(&c(min.into())).input(&c(max.into()));
        let b = if op == "QuantizedBiasAdd" {
            b.attr("out_type", DType::QI32)
        } else {
            b
        };
        b.finish().unwrap()
    }

    /// What the results stand for, as their range is even around zero.
    fn numbers(op: &Operation) -> Vec<f64> {
        let z = eval(&op.output(0).unwrap()).bitcast(DType::I32).unwrap();
        let end = f64::from(eval(&op.output(2).unwrap()).to_scalar::<f32>().unwrap());
        let step = end / f64::from(1u32 << 31);
        z.to_vec::<i32>()
            .unwrap()
            .iter()
            .map(|z| f64::from(*z) * step)
            .collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 5e-2), "{got:?}");
    }

    #[test]
    fn sums_and_products_are_those_of_what_the_integers_stand_for() {
        let x = || Tensor::from([[10u8, 11, 255], [0, 12, 20]]);
        let y = || Tensor::from([0u8, 1, 255]);
        close(
            &numbers(&apply("QuantizedAdd", x(), y(), (0.0, 255.0))),
            &[0., 2., 500., -10., 3., 265.],
        );
        // TensorFlow's own integers: its biased sums are off by the ranges' zero, by design of their wide range.
        let op = apply("QuantizedBiasAdd", x(), y(), (0.0, 255.0));
        let z = eval(&op.output(0).unwrap()).bitcast(DType::I32).unwrap();
        assert_eq!(z.to_vec::<i32>().unwrap(), [-256, -128, 31869, -899, -63, 16771]);
        let op = apply("QuantizedMul", x(), y(), (0.0, 255.0));
        let z = eval(&op.output(0).unwrap()).bitcast(DType::I32).unwrap();
        assert_eq!(z.to_vec::<i32>().unwrap(), [0, 1, 62475, 0, 2, 2550]);
        close(
            &numbers(&apply("QuantizedAdd", Tensor::from(13u8), y(), (0.0, 255.0))),
            &[3., 4., 258.],
        );
    }

    #[test]
    fn a_range_has_to_be_one() {
        let e = fails(
            &apply("QuantizedAdd", 1u8.into(), 1u8.into(), (2.0, 2.0))
                .output(0)
                .unwrap(),
        );
        assert!(e.message().contains("max_y must be larger than min_y"), "{e}");
    }
}
