//! The kernels of `FusedBatchNorm` and its gradient, all versions.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::{DType, Tensor, dispatch};

use super::super::conv::number::{Item, given, room, taken, writable};
use super::super::window::Layout;
use super::channels::{Real, Sum, affine, back, sums};

/// What every version's attributes say.
struct BatchNorm<T> {
    layout: Layout,
    training: bool,
    epsilon: f64,
    /// The weight of the batch in the running statistics.
    factor: f64,
    /// The dtype of everything that is one number for each channel.
    statistics: DType,
    element: PhantomData<fn() -> T>,
}

/// The numbers for each channel in input `i`, of which there must be `channels`.
fn numbers(cx: &OpContext<'_>, i: usize, what: &str, channels: usize) -> Result<Vec<f64>> {
    let t = cx.input(i)?;
    if t.shape().dims() != [channels] {
        return Err(Error::invalid(format!(
            "{what} must be a vector of {channels} elements, one for each channel of x, but its shape is {}",
            t.shape()
        )));
    }
    #[allow(clippy::useless_conversion)] // one body for all floats
    let numbers = dispatch!(t.dtype(), T in floats => {
        t.as_slice::<T>()?.iter().map(|x| Ok(f64::from(*x))).collect()
    }, else Err(Error::invalid(format!("{what} must be a float tensor"))));
    numbers
}

fn of<T: Real>(x: &[f64]) -> Vec<T> {
    x.iter().map(|x| T::of(*x)).collect()
}

impl<T: Item<Number: Real>> BatchNorm<T> {
    /// A tensor of one number for each channel.
    fn vector(&self, cx: &OpContext<'_>, x: &[f64]) -> Result<Tensor> {
        let mut t = cx.alloc(self.statistics, [x.len()])?;
        dispatch!(self.statistics, U in [F32, F64, BF16, F16] => {
            for (o, x) in writable::<U>(&mut t)?.iter_mut().zip(x) {
                *o = <U as Narrow>::of(*x);
            }
        }, else {});
        Ok(t)
    }

    /// The channels of input `i`, which must be an image or a volume.
    fn channels(&self, cx: &OpContext<'_>, i: usize) -> Result<usize> {
        let shape = cx.input(i)?.shape();
        if !(4..=5).contains(&shape.rank()) {
            return Err(Error::invalid(format!("input must be 4 or 5-dimensional: {shape}")));
        }
        Ok(shape[self.layout.channels(shape.rank())])
    }

    fn forward(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let channels = self.channels(cx, 0)?;
        let (scale, offset) = (numbers(cx, 1, "scale", channels)?, numbers(cx, 2, "offset", channels)?);
        let given_statistics = !self.training || self.factor != 1.0;
        let (old_mean, old_variance) = match given_statistics {
            true => (numbers(cx, 3, "mean", channels)?, numbers(cx, 4, "variance", channels)?),
            false => (Vec::new(), Vec::new()),
        };
        let rank = cx.input(0)?.shape().rank();
        let device = &*cx.step().device;
        let par = device.parallel();
        let x = taken::<T>(cx, cx.input(0)?, &self.layout.to_last(rank))?;
        let values = x.as_slice::<T::Number>()?;
        let n = values.len().checked_div(channels).unwrap_or(0);
        // What the output is normalised with, the running statistics, what the gradient needs.
        let (mean, variance, running, saved) = if !self.training {
            let both = (old_mean, old_variance);
            (both.0.clone(), both.1.clone(), both.clone(), both)
        } else if n == 0 {
            let (nan, zero) = (vec![f64::NAN; channels], vec![0.0; channels]);
            (zero.clone(), zero.clone(), (nan.clone(), nan), (zero.clone(), zero))
        } else {
            let mean: Vec<f64> = sums(par, values, channels, Sum::Plain)
                .iter()
                .map(|s| s / n as f64)
                .collect();
            let near = of::<T::Number>(&mean);
            let squares = sums(par, values, channels, Sum::Squares(&near));
            let variance: Vec<f64> = squares.iter().map(|s| s / n as f64).collect();
            let unbiased = n as f64 / (n - 1).max(1) as f64;
            let mix = |new: &[f64], old: &[f64], by: f64| -> Vec<f64> {
                match given_statistics {
                    true => new
                        .iter()
                        .zip(old)
                        .map(|(n, o)| (1.0 - self.factor) * o + self.factor * n * by)
                        .collect(),
                    false => new.iter().map(|n| n * by).collect(),
                }
            };
            let running = (mix(&mean, &old_mean, 1.0), mix(&variance, &old_variance, unbiased));
            (mean.clone(), variance.clone(), running, (mean, variance))
        };
        let factor: Vec<f64> = variance
            .iter()
            .zip(&scale)
            .map(|(v, s)| s / (v + self.epsilon).sqrt())
            .collect();
        let mut y = room::<T::Number>(device, x.shape())?;
        let out = writable::<T::Number>(&mut y)?;
        if !out.is_empty() {
            affine(par, values, [&of(&mean), &of(&factor), &of(&offset)], out);
        }
        let y = given::<T>(cx, y, &self.layout.back_from_last(rank))?;
        cx.set_output(0, y);
        for (i, v) in [&running.0, &running.1, &saved.0, &saved.1].into_iter().enumerate() {
            let t = self.vector(cx, v)?;
            cx.set_output(1 + i, t);
        }
        if cx.num_outputs() > 5 {
            let none = cx.zeros(self.statistics, [0])?;
            cx.set_output(5, none);
        }
        Ok(())
    }

    fn gradient(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let channels = self.channels(cx, 1)?;
        let (dy_shape, shape) = (cx.input(0)?.shape(), cx.input(1)?.shape());
        if dy_shape != shape {
            return Err(Error::invalid(format!(
                "x and y_backprop must have one shape, but have {shape} and {dy_shape}"
            )));
        }
        let rank = shape.rank();
        let scale = numbers(cx, 2, "scale", channels)?;
        let mean = numbers(cx, 3, "reserve_space_1", channels)?;
        let variance = numbers(cx, 4, "reserve_space_2", channels)?;
        let device = &*cx.step().device;
        let (par, to_last) = (device.parallel(), self.layout.to_last(rank));
        let dy = taken::<T>(cx, cx.input(0)?, &to_last)?;
        let x = taken::<T>(cx, cx.input(1)?, &to_last)?;
        let (g, values) = (dy.as_slice::<T::Number>()?, x.as_slice::<T::Number>()?);
        let n = values.len().checked_div(channels).unwrap_or(1).max(1) as f64;
        let near = of::<T::Number>(&mean);
        let (mut offset_grad, mut products) = (vec![0.0; channels], vec![0.0; channels]);
        if !values.is_empty() {
            offset_grad = sums(par, g, channels, Sum::Plain);
            products = sums(par, g, channels, Sum::Products(values, &near));
        }
        let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (v + self.epsilon)).collect();
        let scale_grad: Vec<f64> = products.iter().zip(&inverse).map(|(p, i)| p * i.sqrt()).collect();
        let factor: Vec<f64> = scale.iter().zip(&inverse).map(|(s, i)| s * i.sqrt()).collect();
        // In inference the statistics are constants, and only the factor is left.
        let through = |x: &[f64], by: &[f64]| -> Vec<f64> {
            match self.training {
                true => x.iter().zip(by).map(|(x, b)| x * b / n).collect(),
                false => vec![0.0; channels],
            }
        };
        let slope = through(&products, &inverse);
        let mean_dy = through(&offset_grad, &vec![1.0; channels]);
        let mut dx = room::<T::Number>(device, x.shape())?;
        let out = writable::<T::Number>(&mut dx)?;
        if !out.is_empty() {
            back(par, values, g, [&near, &of(&slope), &of(&mean_dy), &of(&factor)], out);
        }
        let dx = given::<T>(cx, dx, &self.layout.back_from_last(rank))?;
        cx.set_output(0, dx);
        for (i, v) in [&scale_grad, &offset_grad].into_iter().enumerate() {
            let t = self.vector(cx, v)?;
            cx.set_output(1 + i, t);
        }
        for i in 3..cx.num_outputs() {
            cx.set_output(i, Tensor::zero_scalar(self.statistics)?);
        }
        Ok(())
    }
}

/// Rounding to a float type.
trait Narrow {
    fn of(x: f64) -> Self;
}

macro_rules! narrow {
    ($($t:ty, |$x:ident| $e:expr;)*) => {
        $(impl Narrow for $t {
            fn of($x: f64) -> $t {
                $e
            }
        })*
    };
}

narrow! {
    f32, |x| x as f32;
    f64, |x| x;
    half::f16, |x| half::f16::from_f64(x);
    half::bf16, |x| half::bf16::from_f64(x);
}

struct Forward<T>(BatchNorm<T>);

impl<T: Item<Number: Real>> Kernel for Forward<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        self.0.forward(cx)
    }
}

struct Gradient<T>(BatchNorm<T>);

impl<T: Item<Number: Real>> Kernel for Gradient<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        self.0.gradient(cx)
    }
}

fn parts<T>(init: &KernelInit<'_>) -> Result<BatchNorm<T>> {
    Ok(BatchNorm {
        layout: Layout::of(init.attrs)?,
        training: init.attrs.bool("is_training")?,
        epsilon: f64::from(init.attrs.float("epsilon")?),
        factor: match init.attrs.get("exponential_avg_factor") {
            Some(_) => f64::from(init.attrs.float("exponential_avg_factor")?),
            None => 1.0,
        },
        statistics: init.output_types[1],
        element: PhantomData,
    })
}

/// The kernel of the operation, or of its gradient.
pub(super) fn kernel(init: &KernelInit<'_>, gradient: bool) -> Result<Box<dyn Kernel>> {
    dispatch!(init.output_types[0], T in floats => {
        let parts = parts::<T>(init)?;
        Ok(if gradient { Box::new(Gradient(parts)) } else { Box::new(Forward(parts)) })
    }, else Err(init.no_kernel()))
}
