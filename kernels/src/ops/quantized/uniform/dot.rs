//! `UniformQuantizedDot`, `UniformQuantizedDotHybrid`.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Attrs, DType, PartialShape, Shape, register_ops};

use super::convert::{fill, operation, with_attrs};
use super::{Bounds, Factor, Scales, quantized};
use crate::ops::quantized::range::stored;
use crate::spread;

/// Rows, contracted extent and columns of a product.
fn extents(a: &Shape, b: &Shape) -> Result<(usize, usize, usize)> {
    match (a.dims(), b.dims()) {
        ([m, k], [l, n]) if k == l => Ok((*m, *k, *n)),
        _ => Err(Error::invalid(format!(
            "lhs and rhs must be matrices, lhs with as many columns as rhs has rows, but their shapes are {a} and {b}"
        ))),
    }
}

/// The axis that scales of this rank are for: the columns of a matrix.
fn columns(cx: &OpContext<'_>, i: usize) -> Result<Option<usize>> {
    Ok((!cx.input(i)?.shape().is_scalar()).then_some(1))
}

/// Fails unless the attribute is one of the axes that may be quantised along.
fn check_axis(attrs: &Attrs, name: &str, columns: bool) -> Result<()> {
    match attrs.int(name)? {
        -1 => Ok(()),
        1 if columns => Ok(()),
        a => Err(Error::invalid(format!(
            "{name} must be -1 (one scale){}, but is {a}",
            if columns { " or 1 (a scale for each column)" } else { "" }
        ))),
    }
}

/// The products of a row of `a` with column `j` of `b`, both without their zero points; wraps around.
fn sum(a: &[i8], b: &[i8], (j, n): (usize, usize), (za, zb): (i32, i32)) -> i32 {
    let column = b.get(j..).unwrap_or(&[]).iter().step_by(n.max(1));
    a.iter().zip(column).fold(0, |acc: i32, (x, y)| {
        let (x, y) = (i32::from(*x).wrapping_sub(za), i32::from(*y).wrapping_sub(zb));
        acc.wrapping_add(x.wrapping_mul(y))
    })
}

fn dot(cx: &mut OpContext<'_>, bounds: Bounds) -> Result<()> {
    let (a, b) = (stored(cx, 0)?, stored(cx, 1)?);
    let (m, k, n) = extents(a.shape(), b.shape())?;
    let shape = Shape::new(&[m, n]);
    shape.checked_count()?;
    let of_a = Scales::read(cx, 2, a.shape(), None)?;
    let of_b = Scales::read(cx, 4, b.shape(), columns(cx, 4)?)?;
    let to = Scales::read(cx, 6, &shape, columns(cx, 6)?)?;
    for (scales, what) in [(&of_a, "lhs"), (&of_b, "rhs"), (&to, "output")] {
        scales.positive(what)?;
    }
    if columns(cx, 4)?.is_none() && columns(cx, 6)?.is_some() {
        return Err(Error::invalid(format!(
            "if rhs has one scale, output must have one too, but its scales have shape {}",
            cx.input(6)?.shape()
        )));
    }
    let (scale, zero) = of_a.at(0);
    let factors = (0..of_b.len()).map(|j| {
        let (b, c) = (of_b.at(j).0, to.at(j).0);
        Factor::of(f64::from(scale) * f64::from(b) / f64::from(c))
    });
    let factors = factors.collect::<Result<Vec<_>>>()?;
    let (x, y) = (a.as_slice::<i8>()?, b.as_slice::<i8>()?);
    fill::<i32>(cx, shape, |i| {
        let (i, j) = (i / n, i % n);
        let acc = sum(&x[i * k..][..k], y, (j, n), (zero, of_b.at(j).1));
        let factor = factors[if factors.len() == 1 { 0 } else { j }];
        bounds.clamp(factor.times(acc).wrapping_add(to.at(j).1))
    })
}

fn dot_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    check_axis(init.attrs, "lhs_quantization_axis", false)?;
    check_axis(init.attrs, "rhs_quantization_axis", true)?;
    check_axis(init.attrs, "output_quantization_axis", true)?;
    let bounds = Bounds::of(init.attrs, "output_")?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| dot(cx, bounds)))
}

/// A row as integers from -128 to 127 with a scale and zero point that its own range gives.
fn dynamic(row: &[f32]) -> (Vec<i8>, f32, i32) {
    let least = f64::from(row.iter().fold(0f32, |a, x| if *x < a { *x } else { a }));
    let most = f64::from(row.iter().fold(0f32, |a, x| if *x > a { *x } else { a }));
    let (low, high) = (-128f64, 127f64);
    let range = most - least;
    let scale = (range / (high - low)) as f32;
    let inverse = if range == 0.0 {
        0.0
    } else {
        ((high - low) / range) as f32
    };
    if scale == 0.0 || !inverse.is_finite() {
        return (vec![0; row.len()], 1.0, 0);
    }
    // Of the zero points that the two ends give, the one with the smaller error.
    let (steps_least, steps_most) = (least / f64::from(scale), most / f64::from(scale));
    let zero = match low.abs() + steps_least.abs() < high.abs() + steps_most.abs() {
        true => low - steps_least,
        false => high - steps_most,
    };
    // The conversion keeps it within bounds; it is 0 for an infinite range.
    let zero = i32::from(zero.round() as i8);
    let bounds = Bounds { least: -128, most: 127 };
    let integers = row.iter().map(|x| quantized(*x, inverse, zero, bounds) as i8).collect();
    (integers, scale, zero)
}

fn hybrid(cx: &mut OpContext<'_>) -> Result<()> {
    let (a, b) = (cx.input(0)?.clone(), stored(cx, 1)?);
    let (m, k, n) = extents(a.shape(), b.shape())?;
    let shape = Shape::new(&[m, n]);
    shape.checked_count()?;
    let scales = Scales::read(cx, 2, b.shape(), columns(cx, 2)?)?;
    scales.positive("rhs")?;
    let (x, y) = (a.as_slice::<f32>()?, b.as_slice::<i8>()?);
    let mut out = cx.alloc(DType::F32, shape)?;
    let all = out
        .as_mut_slice::<f32>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
    if n > 0 {
        let rows = spread::rows_of(k.saturating_mul(n).max(1));
        spread::chunks(cx.parallel(), all, rows * n, |c, out| {
            for (i, out) in out.chunks_mut(n).enumerate() {
                let (row, scale, zero) = dynamic(&x[(c * rows + i) * k..][..k]);
                for (j, o) in out.iter_mut().enumerate() {
                    let (of_b, zb) = scales.at(j);
                    *o = sum(&row, y, (j, n), (zero, zb)) as f32 * scale * of_b;
                }
            }
        });
    }
    cx.set_output(0, out);
    Ok(())
}

fn hybrid_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    check_axis(init.attrs, "rhs_quantization_axis", true)?;
    Ok(Box::new(hybrid))
}

/// A matrix for matrices whose inner extents agree.
fn product_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (a, b) = (cx.input(0).with_rank(2)?, cx.input(1).with_rank(2)?);
    a.sub(1, 2).merge(&b.sub(0, 1))?;
    for i in 2..cx.num_inputs() {
        if cx.input(i).rank().is_some_and(|r| r > 1) {
            return Err(Error::invalid(format!(
                "scales and zero points must be scalars or vectors, got shape {}",
                cx.input(i)
            )));
        }
    }
    Ok(vec![a.sub(0, 1).concat(&b.sub(1, 2))])
}

fn uniform_dot() -> OpDef {
    let mut def = operation("UniformQuantizedDot")
        .doc("The product of two matrices of quantised integers; the right one may have a scale for each column.")
        .input("lhs: Tin")
        .input("rhs: Tin");
    for name in ["lhs", "rhs", "output"] {
        def = def
            .input(&format!("{name}_scales: float"))
            .input(&format!("{name}_zero_points: int32"));
    }
    def = def.output("output: Tout").attr("Tin: {qint8}").attr("Tout: {qint32}");
    for prefix in ["lhs_", "rhs_", "output_"] {
        def = with_attrs(def, prefix);
    }
    def.shape(product_shape).cpu(dot_kernel)
}

fn uniform_dot_hybrid() -> OpDef {
    let def = operation("UniformQuantizedDotHybrid")
        .doc("The product of a matrix of real numbers, each row quantised by its range, and one of quantised integers.")
        .input("lhs: Tlhs")
        .input("rhs: Trhs")
        .input("rhs_scales: float")
        .input("rhs_zero_points: int32")
        .output("output: Tout")
        .attr("Tlhs: {float}")
        .attr("Trhs: {qint8}")
        .attr("Tout: {float}");
    with_attrs(def, "rhs_").shape(product_shape).cpu(hybrid_kernel)
}

register_ops!(uniform_dot, uniform_dot_hybrid);
