//! `FractionalMaxPool`, `FractionalAvgPool` and their gradients: pools of windows of random sizes (Graham 2014).
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::ops::Range;

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::philox::Philox;
use actorflow_core::{Attrs, Operation, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::super::conv::number::{room, writable};
use crate::ops::random::stream::Singles;

/// An element that windows are taken of.
trait Item: Element + PartialOrd {
    const ZERO: Self;
    fn plus(self, b: Self) -> Self;
    fn over(self, n: usize) -> Self;
}

macro_rules! items {
    ($($t:ty: $a:ident, $b:ident => $plus:expr;)*) => {
        $(impl Item for $t {
            const ZERO: $t = 0 as $t;
            fn plus(self, other: $t) -> $t {
                let ($a, $b) = (self, other);
                $plus
            }
            fn over(self, n: usize) -> $t {
                self / n as $t
            }
        })*
    };
}

items! {
    f32: a, b => a + b;
    f64: a, b => a + b;
    i32: a, b => a.wrapping_add(b);
    i64: a, b => a.wrapping_add(b);
}

/// The streams that one run draws the sizes of windows from, one after the other.
struct Draw {
    from: Philox,
    pseudo: bool,
}

impl Draw {
    /// The beginnings of `output` windows over `input` elements, and the end of the last.
    fn sequence(&mut self, input: usize, output: usize) -> Vec<i64> {
        let k = input / output;
        let sizes: Vec<usize> = if input.is_multiple_of(output) {
            vec![k; output]
        } else if self.pseudo {
            let mut numbers = Singles::new(self.from);
            self.from.skip(1);
            let alpha = input as f64 / output as f64;
            let most = ((k + 2) as f64 / alpha - 1.0).min((input + 1 - k) as f64 / alpha - (output - 1) as f64);
            let u = numbers.next_f64() * most;
            let edge = |i: usize| match i {
                0 => 1,
                i if i == output => input + 1,
                i => (alpha * (i as f64 + u)).ceil() as usize,
            };
            (0..output).map(|i| edge(i + 1).saturating_sub(edge(i))).collect()
        } else {
            let mut sizes = vec![k; output];
            sizes[..input % output].iter_mut().for_each(|s| *s += 1);
            let mut numbers = Singles::new(self.from);
            self.from.skip((output as u64).div_ceil(4));
            for i in 0..output - 1 {
                sizes.swap(i, i + numbers.next() as usize % (output - i));
            }
            sizes
        };
        let mut at = 0;
        let ends = sizes.into_iter().map(|s| {
            at += s as i64;
            at
        });
        std::iter::once(0).chain(ends).collect()
    }
}

/// The elements along an axis that a window takes.
fn window(sequence: &[i64], i: usize, overlapping: bool, input: usize) -> Range<usize> {
    let end = (sequence[i + 1] + i64::from(overlapping)).clamp(0, input as i64) as usize;
    (sequence[i].max(0) as usize).min(end)..end
}

/// A pooling sequence from input `i`, checked to rise within an axis of `input` elements.
fn given(cx: &OpContext<'_>, i: usize, input: usize, output: usize) -> Result<Vec<i64>> {
    let t = cx.input(i)?;
    let v = t.to_i64_vec()?;
    let rises = v.windows(2).all(|w| w[0] < w[1]);
    if v.len() != output + 1 || !rises || v.first() != Some(&0) || v.last() != i64::try_from(input).ok().as_ref() {
        return Err(Error::invalid(format!(
            "a pooling sequence for {output} windows over {input} elements must rise from 0 to {input} in {} numbers, \
             got {v:?}",
            output + 1
        )));
    }
    Ok(v)
}

fn dims4(what: &str, shape: &Shape) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(shape.dims())
        .map_err(|_| Error::invalid(format!("{what} must be 4-dimensional, got shape {shape}")))
}

struct Pool<T> {
    ratio: Vec<f32>,
    pseudo: bool,
    overlapping: bool,
    seeds: Option<[u64; 2]>,
    largest: bool,
    element: PhantomData<fn() -> T>,
}

fn ratios(attrs: &Attrs) -> Result<Vec<f32>> {
    let ratio = attrs.floats("pooling_ratio")?;
    if ratio.len() != 4 {
        return Err(Error::invalid(format!(
            "pooling_ratio must have 4 elements, got {ratio:?}"
        )));
    }
    if let Some(r) = ratio.iter().find(|r| !(**r >= 1.0)) {
        return Err(Error::invalid(format!(
            "pooling_ratio cannot be smaller than 1, got: {r}"
        )));
    }
    if ratio[0] != 1.0 || ratio[3] != 1.0 {
        return Err(Error::unimplemented(
            "Fractional pooling is not yet supported on the batch nor channel dimension.",
        ));
    }
    Ok(ratio)
}

impl<T: Item> Pool<T> {
    fn of(init: &KernelInit<'_>) -> Result<Pool<T>> {
        let seeds = [init.attrs.int("seed")? as u64, init.attrs.int("seed2")? as u64];
        let deterministic = init.attrs.bool("deterministic")?;
        if !deterministic && seeds != [0, 0] {
            return Err(Error::invalid(
                "Both seed and seed2 should be 0 if deterministic is false.",
            ));
        }
        let random = || [0u8, 1].map(|i| RandomState::new().hash_one(i));
        Ok(Pool {
            ratio: ratios(init.attrs)?,
            pseudo: init.attrs.bool("pseudo_random")?,
            overlapping: init.attrs.bool("overlapping")?,
            seeds: deterministic.then(|| if seeds == [0, 0] { random() } else { seeds }),
            largest: init.op == "FractionalMaxPool",
            element: PhantomData,
        })
    }
}

impl<T: Item> Kernel for Pool<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let x = cx.input(0)?;
        let dims = dims4("tensor_in", x.shape())?;
        for (n, r) in dims.iter().zip(&self.ratio) {
            if (*n as f64) < f64::from(*r) {
                return Err(Error::invalid(format!(
                    "Pooling ratio is higher than input dimension size: {r} over {n}"
                )));
            }
        }
        let [n, h, w, c] = dims;
        let [_, oh, ow, _]: [usize; 4] = std::array::from_fn(|i| (dims[i] as f32 / self.ratio[i]).floor() as usize);
        let [seed, seed2] = self
            .seeds
            .unwrap_or_else(|| [0u8, 1].map(|i| RandomState::new().hash_one(i)));
        let mut draw = Draw {
            from: Philox::new(seed, seed2),
            pseudo: self.pseudo,
        };
        let (rows, columns) = (draw.sequence(h, oh), draw.sequence(w, ow));
        let x = x.as_slice::<T>()?;
        let mut y = room::<T>(&*cx.step().device, [n, oh, ow, c])?;
        for (at, out) in writable::<T>(&mut y)?.chunks_mut(c.max(1)).enumerate() {
            let (b, i, j) = (at / (oh * ow), at / ow % oh, at % ow);
            let (ys, xs) = (
                window(&rows, i, self.overlapping, h),
                window(&columns, j, self.overlapping, w),
            );
            let count = ys.len() * xs.len();
            let mut first = true;
            for (y, x_at) in ys.flat_map(|y| xs.clone().map(move |x| (y, x))) {
                let pixel = &x[((b * h + y) * w + x_at) * c..][..c];
                match (first, self.largest) {
                    (true, _) => out.copy_from_slice(pixel),
                    (_, true) => out.iter_mut().zip(pixel).for_each(|(o, p)| {
                        if *p > *o {
                            *o = *p
                        }
                    }),
                    _ => out.iter_mut().zip(pixel).for_each(|(o, p)| *o = o.plus(*p)),
                }
                first = false;
            }
            if !self.largest {
                out.iter_mut().for_each(|o| *o = o.over(count));
            }
        }
        cx.set_output(0, y);
        cx.set_output(1, Tensor::vector(&rows));
        cx.set_output(2, Tensor::vector(&columns));
        Ok(())
    }
}

struct Back<T> {
    overlapping: bool,
    largest: bool,
    element: PhantomData<fn() -> T>,
}

impl<T: Item> Kernel for Back<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let at = if self.largest { 2 } else { 1 };
        let shape = match self.largest {
            true => cx.input(0)?.shape().clone(),
            false => cx.input(0)?.to_shape()?,
        };
        let [n, h, w, c] = dims4("orig_input", &shape)?;
        let dy = cx.input(at)?;
        let [m, oh, ow, d] = dims4("out_backprop", dy.shape())?;
        if (n, c) != (m, d) || (self.largest && cx.input(1)?.shape() != dy.shape()) {
            return Err(Error::invalid(format!(
                "out_backprop of shape {} does not fit an input of shape {shape}",
                dy.shape()
            )));
        }
        let (rows, columns) = (given(cx, at + 1, h, oh)?, given(cx, at + 2, w, ow)?);
        let mut dx = room::<T>(&*cx.step().device, shape)?;
        let to = writable::<T>(&mut dx)?;
        to.fill(T::ZERO);
        let image: &[T] = if self.largest { cx.slice::<T>(0)? } else { &[] };
        for (at, dy) in dy.as_slice::<T>()?.chunks(c.max(1)).enumerate() {
            let (b, i, j) = (at / (oh * ow), at / ow % oh, at % ow);
            let (ys, xs) = (
                window(&rows, i, self.overlapping, h),
                window(&columns, j, self.overlapping, w),
            );
            let count = ys.len() * xs.len();
            let pixels = || {
                ys.clone()
                    .flat_map(|y| xs.clone().map(move |x| ((b * h + y) * w + x) * c))
            };
            for (k, dy) in dy.iter().enumerate() {
                if self.largest {
                    // The first of the largest.
                    let best = pixels()
                        .map(|p| p + k)
                        .reduce(|a, b| if image[b] > image[a] { b } else { a });
                    if let Some(p) = best {
                        to[p] = to[p].plus(*dy);
                    }
                } else {
                    let part = dy.over(count);
                    pixels().for_each(|p| to[p + k] = to[p + k].plus(part));
                }
            }
        }
        cx.set_output(0, dx);
        Ok(())
    }
}

fn back(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (overlapping, largest) = (init.attrs.bool("overlapping")?, init.op == "FractionalMaxPoolGrad");
    dispatch!(init.output_types[0], T in [F32, F64, I32, I64] => {
        Ok(Box::new(Back::<T> { overlapping, largest, element: PhantomData }))
    }, else Err(init.no_kernel()))
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dense(dys, 0)?);
    let largest = cx.node().op_name() == "FractionalMaxPool";
    let b = match largest {
        true => cx.graph().op("FractionalMaxPoolGrad").input(&x).input(&y),
        false => {
            let shape = x.shape_op()?.cast(actorflow_core::DType::I64)?;
            cx.graph().op("FractionalAvgPoolGrad").input(&shape)
        }
    };
    let b = b.input(&dy).input(&cx.output(1)?).input(&cx.output(2)?);
    Ok(vec![Some(
        b.attr("overlapping", cx.attrs().bool("overlapping")?).output()?.into(),
    )])
}

fn sample(s: &mut Sampler, op: &str, pseudo: bool) -> Result<Operation> {
    let x = s.normal([1, 5, 7, 2])?;
    let y = s
        .op(op)
        .input(&x)
        .attr("pooling_ratio", vec![1.0f32, 1.5, 1.4, 1.0])
        .attr("pseudo_random", pseudo)
        .attr("overlapping", true)
        .attr("deterministic", true)
        .attr("seed", 3i64)
        .attr("seed2", 5i64)
        .output()?;
    s.op("Identity").input(&y).finish()
}

fn pool(name: &'static str, doc: &'static str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .doc(doc)
        .input("value: T")
        .output("output: T")
        .output("row_pooling_sequence: int64")
        .output("col_pooling_sequence: int64")
        .attr("pooling_ratio: list(float) >= 4")
        .attr("pseudo_random: bool = false")
        .attr("overlapping: bool = false")
        .attr("deterministic: bool = false")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr("T: {float, double, int32, int64}")
        // Windows differ from run to run.
        .stateful()
        .shape(|cx| {
            let (x, ratio) = (cx.input(0).with_rank(4)?, ratios(cx.attrs())?);
            let out = |i: usize| x.dim(i).map(|n| (n as f32 / ratio[i]).floor() as usize);
            let edge = |i: usize| PartialShape::vector(out(i).map(|n| n + 1));
            Ok(vec![PartialShape::from([x.dim(0), out(1), out(2), x.dim(3)]), edge(1), edge(2)])
        })
        .gradient(gradient)
        .cpu(|init| {
            dispatch!(init.output_types[0], T in [F32, F64, I32, I64] => Ok(Box::new(Pool::<T>::of(init)?)), else Err(init.no_kernel()))
        })
}

fn max_pool() -> OpDef {
    pool(
        "FractionalMaxPool",
        "The largest element of windows whose sizes vary at random.",
    )
    .sample(|s| sample(s, "FractionalMaxPool", false))
    .sample(|s| sample(s, "FractionalMaxPool", true))
}

fn avg_pool() -> OpDef {
    pool("FractionalAvgPool", "The mean of windows whose sizes vary at random.")
        .sample(|s| sample(s, "FractionalAvgPool", false))
        .sample(|s| sample(s, "FractionalAvgPool", true))
}

fn max_pool_grad() -> OpDef {
    OpDef::new("FractionalMaxPoolGrad", Category::Nn)
        .doc("The gradient of FractionalMaxPool: every output's goes to the first of the largest elements of its window.")
        .input("orig_input: T")
        .input("orig_output: T")
        .input("out_backprop: T")
        .input("row_pooling_sequence: int64")
        .input("col_pooling_sequence: int64")
        .output("output: T")
        .attr("overlapping: bool = false")
        .attr("T: {float, double, int32, int64}")
        .shape(|cx| Ok(vec![cx.input(0).with_rank(4)?]))
        .cpu(back)
}

fn avg_pool_grad() -> OpDef {
    OpDef::new("FractionalAvgPoolGrad", Category::Nn)
        .doc("The gradient of FractionalAvgPool: every output's is spread over its window.")
        .input("orig_input_tensor_shape: int64")
        .input("out_backprop: T")
        .input("row_pooling_sequence: int64")
        .input("col_pooling_sequence: int64")
        .output("output: T")
        .attr("overlapping: bool = false")
        .attr("T: {float, double, int32, int64}")
        .shape(|cx| Ok(vec![cx.constant_shape(0)?.with_rank(4)?]))
        .cpu(back)
}

register_ops!(max_pool, avg_pool, max_pool_grad, avg_pool_grad);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph};

    #[test]
    fn windows_cover_the_axis_with_two_sizes() {
        for pseudo in [false, true] {
            for seed in 0..20 {
                let mut d = Draw {
                    from: Philox::new(seed, 7),
                    pseudo,
                };
                let s = d.sequence(17, 11);
                assert_eq!((s[0], s[11], s.len()), (0, 17, 12));
                assert!(s.windows(2).all(|w| matches!(w[1] - w[0], 1 | 2)), "{s:?}");
            }
        }
    }

    #[test]
    fn ratios_and_sequences_are_checked() {
        let g = Graph::new();
        let x = g.constant(Tensor::full([1, 4, 4, 1], 1f32).unwrap()).unwrap();
        let pool = |r: f32| {
            g.op("FractionalMaxPool")
                .input(&x)
                .attr("pooling_ratio", vec![1.0, r, 1.0, 1.0])
                .finish()
        };
        assert_eq!(pool(0.5).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(eval(&pool(2.0).unwrap().output(1).unwrap()), Tensor::from([0i64, 2, 4]));
        let s = g.constant([0i64, 9]).unwrap();
        let shape = g.constant([1i64, 4, 4, 1]).unwrap();
        let dy = g.constant(Tensor::full([1, 1, 1, 1], 1f32).unwrap()).unwrap();
        let b = g
            .op("FractionalAvgPoolGrad")
            .input(&shape)
            .input(&dy)
            .input(&s)
            .input(&s);
        assert_eq!(fails(&b.output().unwrap()).code(), Code::InvalidArgument);
    }
}
