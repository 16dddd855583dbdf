//! `LRN`, `LRNGrad`: local response normalisation over neighbouring channels (Krizhevsky et al. 2012, section 3.3).
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, dispatch, register_ops};

use super::super::conv::number::{Item, room, writable};
use super::channels::Real;
use crate::spread;

/// Powers that are worth handing to another worker.
const GRAIN: usize = 4 * 1024;

#[derive(Clone, Copy)]
struct Parameters {
    radius: usize,
    bias: f64,
    alpha: f64,
    beta: f64,
}

impl Parameters {
    /// `bias + alpha * (sum of squares of the neighbours)` for every channel of a pixel.
    fn norms<T: Real>(&self, x: &[T], out: &mut [f64]) {
        for (i, n) in out.iter_mut().enumerate() {
            let near = &x[i.saturating_sub(self.radius)..i.saturating_add(self.radius + 1).min(x.len())];
            let squares: f64 = near.iter().map(|x| x.to_f64() * x.to_f64()).sum();
            *n = self.bias + self.alpha * squares;
        }
    }

    /// `x * norm^-beta`
    fn forward<T: Real>(&self, x: &[T], norms: &[f64], out: &mut [T]) {
        for ((o, x), n) in out.iter_mut().zip(x).zip(norms) {
            *o = T::of(x.to_f64() * n.powf(-self.beta));
        }
    }

    /// The gradient of a pixel, from that of its outputs `y`.
    fn backward<T: Real>(&self, dy: &[T], x: &[T], y: &[T], norms: &[f64], out: &mut [T]) {
        for (k, o) in out.iter_mut().enumerate() {
            let first = k.saturating_sub(self.radius);
            let last = k.saturating_add(self.radius + 1).min(x.len());
            let through: f64 = (first..last).map(|j| dy[j].to_f64() * y[j].to_f64() / norms[j]).sum();
            let own = dy[k].to_f64() * norms[k].powf(-self.beta);
            *o = T::of(own - 2.0 * self.alpha * self.beta * x[k].to_f64() * through);
        }
    }
}

struct Lrn<T> {
    parameters: Parameters,
    gradient: bool,
    element: PhantomData<fn() -> T>,
}

impl<T: Item<Number: Real>> Kernel for Lrn<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let device = &*cx.step().device;
        let shape = cx.input(0)?.shape().clone();
        if shape.rank() != 4 {
            return Err(Error::invalid(format!("in must be 4-dimensional: {shape}")));
        }
        let mut inputs = Vec::new();
        for i in 0..cx.num_inputs() {
            same(cx.input(i)?.shape(), &shape)?;
            inputs.push(T::widened(device, cx.input(i)?)?);
        }
        let slices = inputs
            .iter()
            .map(|t| t.as_slice::<T::Number>())
            .collect::<Result<Vec<_>>>()?;
        let mut out = room::<T::Number>(device, shape.clone())?;
        let depth = shape[3];
        let per = (GRAIN / depth.max(1)).max(1) * depth;
        spread::chunks(device.parallel(), writable::<T::Number>(&mut out)?, per, |i, out| {
            let mut norms = vec![0.0; depth];
            for (j, out) in out.chunks_mut(depth).enumerate() {
                let at = i * per + j * depth;
                let pixel = |k: usize| slices.get(k).map_or(&[][..], |s| &s[at..at + depth]);
                if self.gradient {
                    self.parameters.norms(pixel(1), &mut norms);
                    self.parameters.backward(pixel(0), pixel(1), pixel(2), &norms, out);
                } else {
                    self.parameters.norms(pixel(0), &mut norms);
                    self.parameters.forward(pixel(0), &norms, out);
                }
            }
        });
        let out = T::narrowed(device, out)?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn same(a: &Shape, b: &Shape) -> Result<()> {
    if a == b {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "input_grads, input_image and output_image should have the same shape, but have {b} and {a}"
    )))
}

fn kernel(init: &KernelInit<'_>, gradient: bool) -> Result<Box<dyn Kernel>> {
    let float = |name: &str| init.attrs.float(name).map(f64::from);
    let radius = init.attrs.int("depth_radius")?;
    let parameters = Parameters {
        radius: usize::try_from(radius)
            .ok()
            .filter(|r| *r <= i32::MAX as usize)
            .ok_or_else(|| Error::invalid(format!("depth_radius {radius} must be a non-negative 32-bit number")))?,
        bias: float("bias")?,
        alpha: float("alpha")?,
        beta: float("beta")?,
    };
    dispatch!(init.output_types[0], T in floats => {
        Ok(Box::new(Lrn::<T> { parameters, gradient, element: PhantomData }))
    }, else Err(init.no_kernel()))
}

fn attributes(def: OpDef) -> OpDef {
    def.attr("depth_radius: int = 5")
        .attr("bias: float = 1.0")
        .attr("alpha: float = 1.0")
        .attr("beta: float = 0.5")
        .attr("T: {half, bfloat16, float, double} = DT_FLOAT")
}

fn lrn() -> OpDef {
    let def = OpDef::new("LRN", Category::Nn)
        .doc("Divides by a power of the sum of squares of the neighbouring channels: x / (bias + alpha * sum)^beta.")
        .input("input: T")
        .output("output: T");
    attributes(def)
        .shape(|cx| Ok(vec![cx.input(0).with_rank(4)?]))
        .gradient(|cx, dys| {
            let dy = cx.dense(dys, 0)?;
            let mut b = cx
                .graph()
                .op("LRNGrad")
                .input(&dy)
                .input(&cx.input(0)?)
                .input(&cx.output(0)?);
            for name in ["depth_radius", "bias", "alpha", "beta"] {
                if let Some(a) = cx.attrs().get(name) {
                    b = b.attr(name, a.clone());
                }
            }
            Ok(vec![Some(b.output()?.into())])
        })
        .cpu(|init| kernel(init, false))
        .sample(|s| {
            let x = s.normal([1, 2, 1, 6])?;
            s.op("LRN")
                .input(&x)
                .attr("depth_radius", 2i64)
                .attr("alpha", 0.5f32)
                .attr("beta", 0.75f32)
                .finish()
        })
}

fn lrn_grad() -> OpDef {
    let def = OpDef::new("LRNGrad", Category::Nn)
        .doc("The gradient of LRN, from that of its output, its input and its output.")
        .input("input_grads: T")
        .input("input_image: T")
        .input("output_image: T")
        .output("output: T");
    attributes(def)
        .shape(|cx| {
            let mut s = PartialShape::of_rank(4);
            for i in cx.inputs() {
                s = s.merge(i)?;
            }
            Ok(vec![s])
        })
        .cpu(|init| kernel(init, true))
}

register_ops!(lrn, lrn_grad);
