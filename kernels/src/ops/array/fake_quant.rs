//! `FakeQuantWithMinMaxArgs`, `…Vars`, `…VarsPerChannel` and their gradients: training for 8-bit inference.
//!
//! After Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
//! (2018), section 3. The range is nudged so that zero is one of the steps.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::{OpBuilder, ShapeContext};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Tensor, register_ops};

use crate::shapes;

/// The quantised integers.
#[derive(Debug, Clone, Copy)]
struct Integers {
    low: f32,
    high: f32,
}

impl Integers {
    fn of(attrs: &Attrs) -> Result<Integers> {
        let bits = attrs.int("num_bits")?;
        if !(2..=16).contains(&bits) {
            return Err(Error::invalid(format!(
                "num_bits must be between 2 and 16, inclusive, got {bits}"
            )));
        }
        Ok(Integers {
            low: f32::from(u8::from(attrs.bool("narrow_range")?)),
            high: ((1 << bits) - 1) as f32,
        })
    }
}

/// A range nudged so that zero is exact.
#[derive(Debug, Clone, Copy)]
struct Nudged {
    min: f32,
    max: f32,
    scale: f32,
    /// A range of nothing: everything is zero, and gradients pass.
    empty: bool,
}

impl Nudged {
    fn new(min: f32, max: f32, q: Integers) -> Nudged {
        let scale = (max - min) / (q.high - q.low);
        let zero = q.low - min / scale;
        let zero = if zero < q.low {
            q.low
        } else if zero > q.high {
            q.high
        } else {
            zero.round()
        };
        Nudged {
            min: (q.low - zero) * scale,
            max: (q.high - zero) * scale,
            scale,
            empty: min == 0.0 && max == 0.0,
        }
    }

    fn quantized(self, x: f32) -> f32 {
        if self.empty {
            return 0.0;
        }
        let x = if x > self.max { self.max } else { x };
        let x = if x < self.min { self.min } else { x };
        let zero = (-self.min * (1.0 / self.scale) + 0.5).floor();
        ((x - self.min) / self.scale - zero + 0.5).floor() * self.scale
    }

    /// The gradients of input, minimum and maximum.
    fn gradient(self, x: f32, dy: f32) -> [f32; 3] {
        match () {
            _ if self.empty => [dy, 0.0, 0.0],
            _ if x < self.min => [0.0, dy, 0.0],
            _ if x > self.max => [0.0, 0.0, dy],
            _ => [dy, 0.0, 0.0],
        }
    }
}

/// The range of the attributes `min` and `max`.
fn fixed(attrs: &Attrs) -> Result<Nudged> {
    let (min, max) = (attrs.float("min")?, attrs.float("max")?);
    if min >= max {
        return Err(Error::invalid(format!(
            "min has to be smaller than max, was: {min} >= {max}"
        )));
    }
    Ok(Nudged::new(min, max, Integers::of(attrs)?))
}

/// The ranges that inputs `first` and `first + 1` hold, one or one for each channel of `x`.
fn ranges(cx: &OpContext<'_>, first: usize, x: &Tensor, q: Integers, per_channel: bool) -> Result<Vec<Nudged>> {
    let (min, max) = (cx.input(first)?, cx.input(first + 1)?);
    let want = match (per_channel, x.shape().dims().last()) {
        (false, _) => None,
        (true, Some(d)) => Some(*d),
        (true, None) => return Err(Error::invalid("inputs must be at least a vector")),
    };
    for (t, name) in [(min, "min"), (max, "max")] {
        let fits = match want {
            None => t.shape().is_scalar(),
            Some(d) => t.shape().dims() == [d],
        };
        if !fits {
            return Err(Error::invalid(format!(
                "{name} of shape {} does not fit inputs of shape {}",
                t.shape(),
                x.shape()
            )));
        }
    }
    let pairs = min.as_slice::<f32>()?.iter().zip(max.as_slice::<f32>()?);
    Ok(pairs.map(|(a, b)| Nudged::new(*a, *b, q)).collect())
}

fn quantize(cx: &mut OpContext<'_>, ranges: &[Nudged]) -> Result<()> {
    let x = cx.take_input(0)?;
    let mut x = x.into_unique(cx.step().device.pool())?;
    let values = x
        .as_mut_slice::<f32>()
        .ok_or_else(|| Error::invalid("inputs must be float32"))?;
    for row in values.chunks_mut(ranges.len().max(1)) {
        for (x, r) in row.iter_mut().zip(ranges.iter().cycle()) {
            *x = r.quantized(*x);
        }
    }
    cx.set_output(0, x);
    Ok(())
}

fn differentiate(cx: &mut OpContext<'_>, ranges: &[Nudged], range_shape: Option<actorflow_core::Shape>) -> Result<()> {
    let (dy, x) = (cx.input(0)?, cx.input(1)?);
    if dy.shape() != x.shape() {
        return Err(Error::invalid(format!(
            "gradients {} and inputs {} must have one shape",
            dy.shape(),
            x.shape()
        )));
    }
    let mut dx = cx.alloc(DType::F32, x.shape())?;
    // Sums of many gradients are kept in double precision.
    let (mut dmin, mut dmax) = (vec![0f64; ranges.len()], vec![0f64; ranges.len()]);
    let out = dx.as_mut_slice::<f32>().unwrap_or(&mut []);
    for (i, ((o, g), x)) in out
        .iter_mut()
        .zip(dy.as_slice::<f32>()?)
        .zip(x.as_slice::<f32>()?)
        .enumerate()
    {
        let c = i % ranges.len();
        let [inside, low, high] = ranges[c].gradient(*x, *g);
        *o = inside;
        dmin[c] += f64::from(low);
        dmax[c] += f64::from(high);
    }
    cx.set_output(0, dx);
    if let Some(shape) = range_shape {
        for (i, d) in [dmin, dmax].iter().enumerate() {
            let d: Vec<f32> = d.iter().map(|x| *x as f32).collect();
            cx.set_output(i + 1, Tensor::from_slice(&shape, &d)?);
        }
    }
    Ok(())
}

fn common(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .attr("num_bits: int = 8")
        .attr("narrow_range: bool = false")
}

fn like(cx: &GradContext, op: &str) -> Result<OpBuilder> {
    let a = cx.attrs();
    let b = cx.graph().op(op).attr("num_bits", a.int("num_bits")?);
    Ok(b.attr("narrow_range", a.bool("narrow_range")?))
}

fn args() -> OpDef {
    common("FakeQuantWithMinMaxArgs")
        .doc("Rounds to the steps of a quantised type whose range is fixed.")
        .input("inputs: float")
        .output("outputs: float")
        .attr("min: float = -6")
        .attr("max: float = 6")
        .shape(shapes::unchanged)
        .gradient(|cx, dys| {
            let b = like(cx, "FakeQuantWithMinMaxArgsGradient")?
                .input(&cx.dense(dys, 0)?)
                .input(&cx.input(0)?);
            let b = b
                .attr("min", cx.attrs().float("min")?)
                .attr("max", cx.attrs().float("max")?);
            Ok(vec![Some(b.output()?.into())])
        })
        .cpu(|init: &KernelInit<'_>| {
            let r = [fixed(init.attrs)?];
            Ok(Box::new(move |cx: &mut OpContext<'_>| quantize(cx, &r)))
        })
}

fn args_gradient() -> OpDef {
    common("FakeQuantWithMinMaxArgsGradient")
        .doc("The gradient of FakeQuantWithMinMaxArgs: what lies inside of the range passes.")
        .input("gradients: float")
        .input("inputs: float")
        .output("backprops: float")
        .attr("min: float = -6")
        .attr("max: float = 6")
        .shape(shapes::merged)
        .not_differentiable()
        .cpu(|init: &KernelInit<'_>| {
            let r = [fixed(init.attrs)?];
            Ok(Box::new(move |cx: &mut OpContext<'_>| differentiate(cx, &r, None)))
        })
}

fn vars_gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let mut b = like(cx, op)?.input(&cx.dense(dys, 0)?);
    for i in 0..3 {
        b = b.input(&cx.input(i)?);
    }
    Ok(b.finish()?.outputs().into_iter().map(|g| Some(g.into())).collect())
}

fn check(cx: &ShapeContext<'_>, x: usize, per_channel: bool) -> Result<()> {
    let inputs = cx.input(x);
    let range = match (per_channel, inputs.rank()) {
        (false, _) => PartialShape::scalar(),
        (true, None) => PartialShape::vector(None),
        (true, Some(0)) => return Err(Error::invalid("inputs must be at least a vector")),
        (true, Some(r)) => PartialShape::vector(inputs.dim(r - 1)),
    };
    cx.input(x + 1).merge(&range)?;
    cx.input(x + 2).merge(&range)?;
    Ok(())
}

fn with_range(name: &'static str) -> OpDef {
    common(name)
        .doc("Rounds to the steps of a quantised type whose range is an input (one, or one for each channel).")
        .input("inputs: float")
        .input("min: float")
        .input("max: float")
        .output("outputs: float")
}

fn vars() -> OpDef {
    with_range("FakeQuantWithMinMaxVars")
        .shape(|cx| {
            check(cx, 0, false)?;
            Ok(vec![cx.input(0)])
        })
        .gradient(|cx, dys| vars_gradient(cx, dys, "FakeQuantWithMinMaxVarsGradient"))
        .cpu(|init| {
            let q = Integers::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let r = ranges(cx, 1, cx.input(0)?, q, false)?;
                quantize(cx, &r)
            }))
        })
}

fn per_channel() -> OpDef {
    with_range("FakeQuantWithMinMaxVarsPerChannel")
        .shape(|cx| {
            check(cx, 0, true)?;
            Ok(vec![cx.input(0)])
        })
        .gradient(|cx, dys| vars_gradient(cx, dys, "FakeQuantWithMinMaxVarsPerChannelGradient"))
        .cpu(|init| {
            let q = Integers::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let r = ranges(cx, 1, cx.input(0)?, q, true)?;
                quantize(cx, &r)
            }))
        })
}

fn backwards(name: &'static str) -> OpDef {
    common(name)
        .doc(
            "The gradient of fake quantisation: what lies inside of the range passes, what lies outside is its edge's.",
        )
        .input("gradients: float")
        .input("inputs: float")
        .input("min: float")
        .input("max: float")
        .output("backprops_wrt_input: float")
        .output("backprop_wrt_min: float")
        .output("backprop_wrt_max: float")
        .not_differentiable()
}

fn vars_backwards() -> OpDef {
    backwards("FakeQuantWithMinMaxVarsGradient")
        .shape(|cx| {
            check(cx, 1, false)?;
            let x = cx.input(0).merge(&cx.input(1))?;
            Ok(vec![x, PartialShape::scalar(), PartialShape::scalar()])
        })
        .cpu(|init| {
            let q = Integers::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let r = ranges(cx, 2, cx.input(1)?, q, false)?;
                let shape = cx.input(2)?.shape().clone();
                differentiate(cx, &r, Some(shape))
            }))
        })
}

fn per_channel_backwards() -> OpDef {
    backwards("FakeQuantWithMinMaxVarsPerChannelGradient")
        .shape(|cx| {
            check(cx, 1, true)?;
            let x = cx.input(0).merge(&cx.input(1))?;
            Ok(vec![x, cx.input(2), cx.input(3)])
        })
        .cpu(|init| {
            let q = Integers::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let r = ranges(cx, 2, cx.input(1)?, q, true)?;
                let shape = cx.input(2)?.shape().clone();
                differentiate(cx, &r, Some(shape))
            }))
        })
}

register_ops!(
    args,
    args_gradient,
    vars,
    per_channel,
    vars_backwards,
    per_channel_backwards
);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    const X: [f32; 11] = [-8.0, -6.1, -1.26, -0.3, 0.0, 0.02, 0.5, 1.7, 3.3, 5.99, 7.0];

    #[track_caller]
    fn close(t: &Tensor, want: &[f32]) {
        let got = t.to_vec::<f32>().unwrap();
        assert!(
            got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6) && got.len() == want.len(),
            "{got:?}"
        );
    }

    #[test]
    fn a_fixed_range_as_in_tensorflow() {
        let g = Graph::new();
        let x = g.constant(X).unwrap();
        let q = |min: f32, max: f32, bits: i64| {
            let b = g
                .op("FakeQuantWithMinMaxArgs")
                .input(&x)
                .attr("min", min)
                .attr("max", max);
            eval(&b.attr("num_bits", bits).output().unwrap())
        };
        let want = [
            -1.0019608, -1.0019608, -1.0019608, -0.3019608, 0.0, 0.01372549, 0.49411765, 1.7019608,
        ];
        close(&q(-1.0, 2.5, 8), &[&want[..], &[2.4980392; 3]].concat());
        let want = [
            -6.857143, -6.857143, -1.7142857, 0.0, 0.0, 0.0, 0.0, 1.7142857, 3.4285715, 5.142857, 5.142857,
        ];
        close(&q(-6.0, 6.0, 3), &want);
        close(
            &q(0.5, 2.0, 8),
            &[0., 0., 0., 0., 0., 0.01764706, 0.5, 1.5, 1.5, 1.5, 1.5],
        );
    }

    #[test]
    fn ranges_of_channels_get_what_is_outside() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let x = c([[-8.0f32, -6.1, -1.26, -0.3, 0.0], [0.02, 0.5, 1.7, 3.3, 5.99]].into());
        let dy = c([[1.0f32, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]].into());
        let (low, high) = (
            c([-1f32, -2.0, -3.0, 0.0, 0.0].into()),
            c([1f32, 2.0, 3.0, 0.0, 4.0].into()),
        );
        let y = g
            .op("FakeQuantWithMinMaxVarsPerChannel")
            .input(&x)
            .input(&low)
            .input(&high)
            .output()
            .unwrap();
        let want = [
            -0.9960785, -1.992157, -1.2705883, 0.0, 0.0, 0.02352941, 0.5019608, 1.6941177, 0.0, 4.0,
        ];
        close(&eval(&y), &want);
        let b = g
            .op("FakeQuantWithMinMaxVarsPerChannelGradient")
            .input(&dy)
            .input(&x)
            .input(&low)
            .input(&high);
        let d = b.finish().unwrap();
        close(&eval(&d.output(0).unwrap()), &[0., 0., 3., 4., 5., 6., 7., 8., 9., 0.]);
        close(&eval(&d.output(1).unwrap()), &[1., 2., 0., 0., 0.]);
        close(&eval(&d.output(2).unwrap()), &[0., 0., 0., 0., 10.]);
    }
}
