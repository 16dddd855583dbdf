//! `QuantizedMatMul`, `QuantizedConv2D`: products of 8-bit integers, summed in 32 bits.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use super::range::{Quant, deliver, map, proper_ends, range_of_product, scalars, stored, with_range, zero_point};
use crate::ops::nn::window::{Axis, Slide};
use crate::spread;

/// Multiplications that are worth handing to another worker.
const GRAIN: usize = 1 << 16;

/// A tensor's integers without those that stand for zero.
fn centred<T: Quant>(cx: &OpContext<'_>, i: usize, zero: i32) -> Result<Tensor> {
    map(cx, &stored(cx, i)?, move |x: T| (x.wide() as i32).wrapping_sub(zero))
}

/// `out += a * row`, wrapping.
#[inline(always)]
fn add_scaled(out: &mut [i32], a: i32, row: &[i32]) {
    for (o, b) in out.iter_mut().zip(row) {
        *o = o.wrapping_add(a.wrapping_mul(*b));
    }
}

fn matmul<A: Quant, B: Quant>(cx: &mut OpContext<'_>, [turn_a, turn_b]: [bool; 2]) -> Result<()> {
    let (range_a, range_b) = (proper_ends(cx, 2, "a")?, proper_ends(cx, 4, "b")?);
    let (a, b) = (cx.input(0)?.shape().clone(), cx.input(1)?.shape().clone());
    let (&[a0, a1], &[b0, b1]) = (a.dims(), b.dims()) else {
        return Err(Error::invalid(format!(
            "a and b must be matrices, got shapes {a} and {b}"
        )));
    };
    let (rows, inner) = if turn_a { (a1, a0) } else { (a0, a1) };
    let (deep, columns) = if turn_b { (b1, b0) } else { (b0, b1) };
    if inner != deep {
        return Err(Error::invalid(format!(
            "matrices of shapes {a} and {b} cannot be multiplied (transpose_a {turn_a}, transpose_b {turn_b})"
        )));
    }
    let x = centred::<A>(cx, 0, zero_point::<A>(range_a.0, range_a.1))?;
    let mut y = centred::<B>(cx, 1, zero_point::<B>(range_b.0, range_b.1))?;
    if turn_b {
        let mut turned = cx.alloc(DType::I32, [deep, columns])?;
        let (from, to) = (y.as_slice::<i32>()?, turned.as_mut_slice::<i32>().unwrap_or(&mut []));
        for (i, o) in to.iter_mut().enumerate() {
            *o = from[i % columns * deep + i / columns];
        }
        y = turned;
    }
    let (x, y) = (x.as_slice::<i32>()?, y.as_slice::<i32>()?);
    let mut c = cx.zeros(DType::I32, [rows, columns])?;
    let out = c.as_mut_slice::<i32>().unwrap_or(&mut []);
    let per = (GRAIN / (inner * columns).max(1)).max(1);
    spread::chunks(cx.parallel(), out, per * columns, |i, out| {
        for (j, out) in out.chunks_mut(columns).enumerate() {
            let row = i * per + j;
            for k in 0..inner {
                let a = if turn_a { x[k * rows + row] } else { x[row * inner + k] };
                add_scaled(out, a, &y[k * columns..][..columns]);
            }
        }
    });
    deliver::<i32>(cx, c, range_of_product::<A, B>(range_a, range_b))
}

/// Where windows of a convolution begin: as TensorFlow places them here, what is left over by strides without padding
/// lies half before the first one.
fn placed(mut a: Axis) -> (Axis, isize) {
    let reach = (a.output as isize - 1) * a.stride as isize + a.window as isize;
    let before = (reach - a.input as isize) / 2;
    a.before = before.max(0) as usize;
    (a, before)
}

fn conv<A: Quant, B: Quant>(cx: &mut OpContext<'_>, slide: &Slide) -> Result<()> {
    let (range_x, range_w) = (
        super::range::ends(cx, 2, "input")?,
        super::range::ends(cx, 4, "filter")?,
    );
    let (x, w) = (cx.input(0)?.shape().clone(), cx.input(1)?.shape().clone());
    let (&[n, h, width, depth], &[kh, kw, deep, filters]) = (x.dims(), w.dims()) else {
        return Err(Error::invalid(format!(
            "input and filter must be 4-dimensional, got shapes {x} and {w}"
        )));
    };
    if depth != deep {
        return Err(Error::invalid(format!(
            "input and filter must have the same depth: {depth} vs {deep}"
        )));
    }
    let [_, y, a] = slide.axes(&[h, width], &[kh, kw])?;
    let ((y, top), (a, left)) = (placed(y), placed(a));
    let pixels = centred::<A>(cx, 0, zero_point::<A>(range_x.0, range_x.1))?;
    let weights = centred::<B>(cx, 1, zero_point::<B>(range_w.0, range_w.1))?;
    let (pixels, weights) = (pixels.as_slice::<i32>()?, weights.as_slice::<i32>()?);
    let mut out = cx.zeros(DType::I32, [n, y.output, a.output, filters])?;
    let to = out.as_mut_slice::<i32>().unwrap_or(&mut []);
    let row = a.output * filters;
    let work = row.saturating_mul(kh * kw).saturating_mul(depth);
    let per = (GRAIN / work.max(1)).max(1);
    let inside = |o: usize, stride: usize, k: usize, before: isize, n: usize| {
        let i = (o * stride + k) as isize - before;
        usize::try_from(i).ok().filter(|i| *i < n)
    };
    spread::chunks(cx.parallel(), to, per * row, |i, out| {
        for (j, line) in out.chunks_mut(row).enumerate() {
            let (image, oy) = ((i * per + j) / y.output, (i * per + j) % y.output);
            for (ox, out) in line.chunks_mut(filters).enumerate() {
                for ky in 0..kh {
                    let Some(iy) = inside(oy, y.stride, ky, top, h) else {
                        continue;
                    };
                    for kx in 0..kw {
                        let Some(ix) = inside(ox, a.stride, kx, left, width) else {
                            continue;
                        };
                        let pixel = &pixels[((image * h + iy) * width + ix) * depth..][..depth];
                        let weights = &weights[(ky * kw + kx) * depth * filters..][..depth * filters];
                        for (p, w) in pixel.iter().zip(weights.chunks(filters)) {
                            add_scaled(out, *p, w);
                        }
                    }
                }
            }
        }
    });
    deliver::<i32>(cx, out, range_of_product::<A, B>(range_x, range_w))
}

/// Picks the types of both factors, 8 bits each.
macro_rules! factors {
    ($init:expr, $A:ident, $B:ident => $body:expr) => {
        match ($init.input_types[0], $init.input_types[1], $init.output_types[0]) {
            (DType::QU8, DType::QU8, DType::QI32) => factors!(@ $A u8, $B u8, $body),
            (DType::QU8, DType::QI8, DType::QI32) => factors!(@ $A u8, $B i8, $body),
            (DType::QI8, DType::QI8, DType::QI32) => factors!(@ $A i8, $B i8, $body),
            (DType::QI8, DType::QU8, DType::QI32) => factors!(@ $A i8, $B u8, $body),
            _ => Err($init.no_kernel()),
        }
    };
    (@ $A:ident $a:ty, $B:ident $b:ty, $body:expr) => {{
        type $A = $a;
        type $B = $b;
        Ok(Box::new($body))
    }};
}

fn matmul_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let turns = [init.attrs.bool("transpose_a")?, init.attrs.bool("transpose_b")?];
    factors!(init, A, B => move |cx: &mut OpContext<'_>| matmul::<A, B>(cx, turns))
}

fn matmul_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    scalars(cx, &[2, 3, 4, 5])?;
    let (a, b) = (cx.input(0).with_rank(2)?, cx.input(1).with_rank(2)?);
    let (turn_a, turn_b) = (cx.attrs().bool("transpose_a")?, cx.attrs().bool("transpose_b")?);
    let (inner, deep) = (a.dim(usize::from(!turn_a)), b.dim(usize::from(turn_b)));
    PartialShape::vector(inner)
        .merge(&PartialShape::vector(deep))
        .map_err(|e| e.context(format!("matrices of shapes {a} and {b}")))?;
    let shape = [a.dim(usize::from(turn_a)), b.dim(usize::from(!turn_b))];
    Ok(with_range(PartialShape::from(shape)))
}

fn quantized_matmul() -> OpDef {
    OpDef::new("QuantizedMatMul", Category::Matrix)
        .doc("The product of two matrices of 8-bit quantised numbers, as 32-bit ones.")
        .input("a: T1")
        .input("b: T2")
        .input("min_a: float")
        .input("max_a: float")
        .input("min_b: float")
        .input("max_b: float")
        .output("out: Toutput")
        .output("min_out: float")
        .output("max_out: float")
        .attr("T1: quantizedtype")
        .attr("T2: quantizedtype")
        .attr("Toutput: quantizedtype = DT_QINT32")
        .attr("transpose_a: bool = false")
        .attr("transpose_b: bool = false")
        .attr("Tactivation: quantizedtype = DT_QUINT8")
        .shape(matmul_shape)
        .not_differentiable()
        .cpu(matmul_kernel)
}

fn conv_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (strides, dilations) = (init.attrs.ints("strides")?, init.attrs.ints("dilations")?);
    let slide = Slide::of(init.attrs, 2)?;
    if strides[1] != strides[2] || strides[0] != 1 || strides[3] != 1 {
        return Err(Error::invalid(format!(
            "strides must be equal along height and width and 1 elsewhere, got {strides:?}"
        )));
    }
    if dilations.iter().any(|d| *d != 1) {
        return Err(Error::invalid(format!("dilations must be 1, got {dilations:?}")));
    }
    factors!(init, A, B => move |cx: &mut OpContext<'_>| conv::<A, B>(cx, &slide))
}

fn conv_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    scalars(cx, &[2, 3, 4, 5])?;
    let (x, w) = (cx.input(0).with_rank(4)?, cx.input(1).with_rank(4)?);
    PartialShape::vector(x.dim(3))
        .merge(&PartialShape::vector(w.dim(2)))
        .map_err(|e| e.context(format!("the depths of input {x} and filter {w}")))?;
    let slide = Slide::of(cx.attrs(), 2)?;
    let space = slide.outputs(&[x.dim(1), x.dim(2)], &[w.dim(0), w.dim(1)])?;
    Ok(with_range(PartialShape::from([x.dim(0), space[0], space[1], w.dim(3)])))
}

fn quantized_conv2d() -> OpDef {
    OpDef::new("QuantizedConv2D", Category::Nn)
        .doc("The convolution of images with a filter, both 8-bit quantised numbers, as 32-bit ones.")
        .input("input: Tinput")
        .input("filter: Tfilter")
        .input("min_input: float")
        .input("max_input: float")
        .input("min_filter: float")
        .input("max_filter: float")
        .output("output: out_type")
        .output("min_output: float")
        .output("max_output: float")
        .attr("Tinput: quantizedtype")
        .attr("Tfilter: quantizedtype")
        .attr("out_type: quantizedtype = DT_QINT32")
        .attr("strides: list(int)")
        .attr("padding: {'SAME', 'VALID'}")
        .attr("dilations: list(int) = [1, 1, 1, 1]")
        .shape(conv_shape)
        .not_differentiable()
        .cpu(conv_kernel)
}

register_ops!(quantized_matmul, quantized_conv2d);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Output, Tensor};

    /// Bytes that stand for themselves minus 10.
    fn bytes(g: &Graph, shape: &[usize], values: &[u8]) -> [Output; 3] {
        let x = Tensor::from_slice(shape, values).unwrap().bitcast(DType::QU8).unwrap();
        [x, (-10f32).into(), 245f32.into()].map(|t| g.constant(t).unwrap())
    }

    fn numbers(o: &Output) -> Vec<i32> {
        eval(o).bitcast(DType::I32).unwrap().to_vec().unwrap()
    }

    #[test]
    fn products_are_those_of_what_the_integers_stand_for() {
        let g = Graph::new();
        let a = bytes(&g, &[2, 3], &[11, 12, 13, 10, 9, 8]);
        let b = bytes(&g, &[3, 2], &[11, 10, 10, 11, 20, 0]);
        let turned = bytes(&g, &[2, 3], &[11, 10, 20, 10, 11, 0]);
        let product = |a: &[Output; 3], b: &[Output; 3], turn: bool| {
            let o = g.op("QuantizedMatMul").input(&a[0]).input(&b[0]);
            let o = o.input(&a[1]).input(&a[2]).input(&b[1]).input(&b[2]);
            o.attr("transpose_b", turn).finish().unwrap()
        };
        let op = product(&a, &b, false);
        let o = op.output(0).unwrap();
        assert_eq!(o.shape().to_shape().unwrap().dims(), [2, 2]);
        assert_eq!(numbers(&o), [31, -28, -20, 19]);
        assert_eq!(
            numbers(&product(&a, &turned, true).output(0).unwrap()),
            [31, -28, -20, 19]
        );
        let end = eval(&op.output(2).unwrap()).to_scalar::<f32>().unwrap();
        assert_eq!(end, 2_147_483_648.0);
        let e = fails(
            &product(&a, &[b[0].clone(), b[2].clone(), b[1].clone()], false)
                .output(0)
                .unwrap(),
        );
        assert!(e.message().contains("max_b must be larger"), "{e}");
    }

    #[test]
    fn what_surrounds_an_image_is_zero() {
        let g = Graph::new();
        let x = bytes(&g, &[1, 2, 3, 1], &[11, 12, 13, 14, 15, 16]);
        let w = bytes(&g, &[3, 1, 1, 2], &[11, 10, 10, 12, 10, 9]);
        let conv = |padding: &str, stride: i64| {
            let o = g.op("QuantizedConv2D").input(&x[0]).input(&w[0]);
            let o = o.input(&x[1]).input(&x[2]).input(&w[1]).input(&w[2]);
            o.attr("strides", [1, stride, stride, 1])
                .attr("padding", padding)
                .finish()
        };
        let y = conv("SAME", 1).unwrap().output(0).unwrap();
        assert_eq!(numbers(&y), [0, -2, 0, -1, 0, 0, 1, 8, 2, 10, 3, 12]);
        assert!(conv("VALID", 1).is_err(), "the filter is taller than the image");
    }
}
