//! `QuantizeAndDequantize`, `QuantizeAndDequantizeV2`, `V3`, `V4`, `V4Grad`: numbers rounded to what a quantised type could hold.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{Attrs, Element, PartialShape, Tensor, dispatch, register_ops};

use super::support::{int_scalar, product};
use crate::math::real::Real;

/// A float that quantisation is computed in.
trait Quantized: Real + Element {
    const GREATEST: Self;
    fn from_int(x: i64) -> Self;
    fn of(x: f32) -> Self;
    fn half_even(self) -> Self;
    fn half() -> Self;
}

macro_rules! quantized {
    ($($t:ident),*) => {
        $(impl Quantized for $t {
            const GREATEST: Self = $t::MAX;
            fn from_int(x: i64) -> Self {
                x as $t
            }
            fn of(x: f32) -> Self {
                x.into()
            }
            #[inline(always)]
            fn half_even(self) -> Self {
                self.round_ties_even()
            }
            fn half() -> Self {
                0.5
            }
        })*
    };
}

quantized!(f32, f64);

/// The attributes that all versions share.
#[derive(Debug, Clone, Copy)]
struct Quantizer {
    signed: bool,
    range_given: bool,
    narrow: bool,
    half_up: bool,
    axis: i64,
}

impl Quantizer {
    fn of(attrs: &Attrs) -> Result<Quantizer> {
        Ok(Quantizer {
            signed: attrs.bool("signed_input")?,
            range_given: attrs.bool("range_given")?,
            narrow: attrs.get("narrow_range").is_some() && attrs.bool("narrow_range")?,
            half_up: attrs.get("round_mode").is_some() && attrs.str("round_mode")? == "HALF_UP",
            axis: match attrs.get("axis") {
                Some(_) => attrs.int("axis")?,
                None => -1,
            },
        })
    }

    /// The range of the quantised integers.
    fn integers(self, bits: i64) -> Result<(i64, i64)> {
        let most = if self.signed { 62 } else { 63 };
        if bits < 1 || bits > most {
            return Err(Error::invalid(format!(
                "num_bits is out of range: {bits} with signed_input {}",
                self.signed
            )));
        }
        Ok(match (self.signed, self.narrow) {
            (false, _) => (0, ((1u64 << bits) - 1) as i64),
            (true, narrow) => (i64::from(narrow) - (1 << (bits - 1)), (1 << (bits - 1)) - 1),
        })
    }

    /// Quantises `x`, whose values lie in the range `low..=high` (or are to be cut to it).
    fn apply<T: Quantized>(self, x: &mut [T], stride: (usize, usize), low: T, high: T, (min_q, max_q): (i64, i64)) {
        let (min_q, max_q) = (T::from_int(min_q), T::from_int(max_q));
        let side = |q: T, edge: T| if q * edge > T::ZERO { q / edge } else { T::GREATEST };
        let (from_low, from_high) = (side(min_q, low), side(max_q, high));
        let (mut low, mut high) = (low, high);
        let (scale, inverse);
        // The side that determines the scale keeps its edge.
        if from_low < from_high {
            scale = from_low;
            inverse = low / min_q;
            high = max_q * inverse;
        } else {
            scale = from_high;
            inverse = high / max_q;
            low = min_q * inverse;
        }
        let one = |x: T| {
            let x = if self.range_given {
                let x = if x > high { high } else { x };
                if x < low { low } else { x }
            } else {
                x
            };
            let q = x * scale;
            let q = if self.half_up {
                (q + T::half()).floor()
            } else {
                q.half_even()
            };
            q * inverse
        };
        let (block, every) = stride;
        for run in x.chunks_mut(every.max(1)) {
            let n = block.min(run.len());
            run[..n].iter_mut().for_each(|x| *x = one(*x));
        }
    }

    /// Quantises input 0 in the given ranges: one, or one for each slice along the axis.
    fn run<T: Quantized>(self, cx: &mut OpContext<'_>, bits: i64, (min, max): (Tensor, Tensor)) -> Result<Tensor> {
        let integers = self.integers(bits)?;
        let x = cx.take_input(0)?;
        let dims = x.shape().clone();
        let axis = if self.axis == -1 {
            None
        } else {
            Some(resolve_axis(self.axis, dims.rank())?)
        };
        let channels = axis.map_or(1, |a| dims[a]);
        let inner = axis.map_or(x.len(), |a| product(&dims[a + 1..]));
        if self.range_given {
            for (t, name) in [(&min, "input_min"), (&max, "input_max")] {
                let fits = if axis.is_some() {
                    t.shape().dims() == [channels]
                } else {
                    t.shape().is_scalar()
                };
                if !fits {
                    return Err(Error::invalid(format!(
                        "{name} must have one element for each of {channels} channels, got shape {}",
                        t.shape()
                    )));
                }
            }
        }
        let (min, max) = (min.as_slice::<T>()?.to_vec(), max.as_slice::<T>()?.to_vec());
        let mut x = x.into_unique(cx.step().device.pool())?;
        let values = x
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("the input is shared"))?;
        for c in 0..channels {
            let start = (c * inner).min(values.len());
            let part = &mut values[start..];
            let (block, every) = (inner, inner * channels);
            let (low, high) = if self.range_given {
                (min[c], max[c])
            } else {
                let own = || part.chunks(every.max(1)).flat_map(|r| &r[..block.min(r.len())]);
                let first = own().next().copied().unwrap_or(T::ZERO);
                (
                    own().fold(first, |a, b| if *b < a { *b } else { a }),
                    own().fold(first, |a, b| if *b > a { *b } else { a }),
                )
            };
            if low > high {
                return Err(Error::invalid(format!(
                    "invalid range: input_min {low:?} > input_max {high:?}"
                )));
            }
            self.apply(part, (block, every), low, high, integers);
        }
        Ok(x)
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let q = Quantizer::of(init.attrs)?;
    let fixed = match init.attrs.get("num_bits") {
        Some(_) => Some(init.attrs.int("num_bits")?),
        None => None,
    };
    if let Some(bits) = fixed {
        q.integers(bits)?;
    }
    dispatch!(init.attrs.dtype("T")?, T in [F32, F64] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| {
            let bits = match fixed {
                Some(b) => b,
                None => int_scalar(cx.input(3)?, "num_bits")?,
            };
            let range = (cx.input(1)?.clone(), cx.input(2)?.clone());
            let t = q.run::<T>(cx, bits, range)?;
            cx.set_output(0, t);
            Ok(())
        }))
    }, else Err(init.no_kernel()))
}

fn check(cx: &ShapeContext<'_>, first: usize) -> Result<()> {
    let (axis, x) = (cx.attrs().int("axis")?, cx.input(0));
    let range = match (axis, x.rank()) {
        (-1, _) => PartialShape::scalar(),
        (_, None) => PartialShape::vector(None),
        (a, Some(r)) => PartialShape::vector(x.dim(resolve_axis(a, r)?)),
    };
    cx.input(first).merge(&range)?;
    cx.input(first + 1).merge(&range)?;
    Ok(())
}

fn quantizing(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .doc("Rounds to multiples of a step such that the range holds in the given number of bits, zero among them.")
        .input("input: T")
        .input("input_min: T")
        .input("input_max: T")
        .output("output: T")
        .attr("signed_input: bool = true")
        .attr("T: {bfloat16, half, float, double}")
        .attr("narrow_range: bool = false")
        .attr("axis: int = -1")
        .shape(|cx| {
            check(cx, 1)?;
            Ok(vec![cx.input(0)])
        })
        .cpu(kernel)
}

/// The rounding passes the gradient straight through.
fn straight(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let mut all = vec![None; cx.num_inputs()];
    all[0] = dys[0].clone();
    Ok(all)
}

fn v1() -> OpDef {
    OpDef::new("QuantizeAndDequantize", Category::Array)
        .doc("QuantizeAndDequantizeV2 with a range of attributes; of files from before 2017.")
        .input("input: T")
        .output("output: T")
        .attr("signed_input: bool = true")
        .attr("num_bits: int = 8")
        .attr("range_given: bool = false")
        .attr("input_min: float = 0")
        .attr("input_max: float = 0")
        .attr("T: {bfloat16, half, float, double}")
        .shape(|cx| Ok(vec![cx.input(0)]))
        .gradient(straight)
        .cpu(|init| {
            let (q, bits) = (Quantizer::of(init.attrs)?, init.attrs.int("num_bits")?);
            q.integers(bits)?;
            let range = [init.attrs.float("input_min")?, init.attrs.float("input_max")?];
            dispatch!(init.attrs.dtype("T")?, T in [F32, F64] => {
                let [min, max] = range.map(|x| Tensor::scalar(T::of(x)));
                Ok(Box::new(move |cx: &mut OpContext<'_>| {
                    let t = q.run::<T>(cx, bits, (min.clone(), max.clone()))?;
                    cx.set_output(0, t);
                    Ok(())
                }))
            }, else Err(init.no_kernel()))
        })
}

fn v2() -> OpDef {
    quantizing("QuantizeAndDequantizeV2")
        .attr("num_bits: int = 8")
        .attr("range_given: bool = false")
        .attr("round_mode: {'HALF_TO_EVEN', 'HALF_UP'} = 'HALF_TO_EVEN'")
        .gradient(straight)
}

fn v3() -> OpDef {
    quantizing("QuantizeAndDequantizeV3")
        .input("num_bits: int32")
        .attr("range_given: bool = true")
        .gradient(straight)
}

fn v4() -> OpDef {
    quantizing("QuantizeAndDequantizeV4")
        .attr("num_bits: int = 8")
        .attr("range_given: bool = false")
        .attr("round_mode: {'HALF_TO_EVEN', 'HALF_UP'} = 'HALF_TO_EVEN'")
        .gradient(|cx, dys| {
            let b = cx.graph().op("QuantizeAndDequantizeV4Grad").input(&cx.dense(dys, 0)?);
            let b = b.input(&cx.input(0)?).input(&cx.input(1)?).input(&cx.input(2)?);
            let all = b.attr("axis", cx.attrs().int("axis")?).finish()?.outputs();
            Ok(all.into_iter().map(|g| Some(g.into())).collect())
        })
}

fn v4_grad_kernel<T: Quantized>(cx: &mut OpContext<'_>, axis: i64) -> Result<()> {
    let (dy, x, min, max) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let dims = x.shape();
    let axis = if axis == -1 {
        None
    } else {
        Some(resolve_axis(axis, dims.rank())?)
    };
    let channels = axis.map_or(1, |a| dims[a]);
    let inner = axis.map_or(x.len(), |a| product(&dims[a + 1..])).max(1);
    if dy.shape() != dims || min.len() != channels || max.len() != channels {
        return Err(Error::invalid(format!(
            "gradients {}, input {dims}, input_min {} and input_max {} do not fit each other",
            dy.shape(),
            min.shape(),
            max.shape()
        )));
    }
    let (low, high) = (min.as_slice::<T>()?, max.as_slice::<T>()?);
    let mut dx = cx.alloc(T::DTYPE, dims)?;
    let out = dx.as_mut_slice::<T>().unwrap_or(&mut []);
    for (i, ((o, g), x)) in out
        .iter_mut()
        .zip(dy.as_slice::<T>()?)
        .zip(x.as_slice::<T>()?)
        .enumerate()
    {
        let c = i / inner % channels;
        *o = if *x >= low[c] && *x <= high[c] { *g } else { T::ZERO };
    }
    let (dmin, dmax) = (cx.zeros(T::DTYPE, min.shape())?, cx.zeros(T::DTYPE, max.shape())?);
    cx.set_output(0, dx);
    cx.set_output(1, dmin);
    cx.set_output(2, dmax);
    Ok(())
}

fn v4_grad() -> OpDef {
    OpDef::new("QuantizeAndDequantizeV4Grad", Category::Array)
        .doc("The gradient of QuantizeAndDequantizeV4: what lies inside of the range passes.")
        .input("gradients: T")
        .input("input: T")
        .input("input_min: T")
        .input("input_max: T")
        .output("input_backprop: T")
        .output("input_min_backprop: T")
        .output("input_max_backprop: T")
        .attr("T: {bfloat16, half, float, double}")
        .attr("axis: int = -1")
        .shape(|cx| {
            check(cx, 2)?;
            Ok(vec![cx.input(0).merge(&cx.input(1))?, cx.input(2), cx.input(3)])
        })
        .gradient(|cx, dys| {
            let b = cx.graph().op("QuantizeAndDequantizeV4Grad").input(&cx.dense(dys, 0)?);
            let b = b.input(&cx.input(1)?).input(&cx.input(2)?).input(&cx.input(3)?);
            let again = b.attr("axis", cx.attrs().int("axis")?).output()?;
            Ok(vec![Some(again.into()), None, None, None])
        })
        .cpu(|init| {
            let axis = init.attrs.int("axis")?;
            dispatch!(init.attrs.dtype("T")?, T in [F32, F64] => {
                Ok(Box::new(move |cx: &mut OpContext<'_>| v4_grad_kernel::<T>(cx, axis)))
            }, else Err(init.no_kernel()))
        })
        .sample(|s| {
            let g = s.normal([2, 3])?;
            let x = s.constant([[-3.0f64, 0.2, 1.0], [0.5, 2.5, -0.1]])?;
            let (low, high) = (s.constant([-1.0f64, -0.2])?, s.constant([1.5f64, 2.0])?);
            let b = s
                .op("QuantizeAndDequantizeV4Grad")
                .input(&g)
                .input(&x)
                .input(&low)
                .input(&high);
            b.attr("axis", 0i64).finish()
        })
}

register_ops!(v1, v2, v3, v4, v4_grad);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{AttrValue, Graph};

    const X: [f32; 11] = [-8.0, -6.1, -1.26, -0.3, 0.0, 0.02, 0.5, 1.7, 3.3, 5.99, 7.0];

    fn quantized(x: Tensor, min: Tensor, max: Tensor, attrs: &[(&str, AttrValue)]) -> Vec<f32> {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let b = g
            .op("QuantizeAndDequantizeV2")
            .input(&c(x))
            .input(&c(min))
            .input(&c(max));
        let y = attrs.iter().fold(b, |b, (k, v)| b.attr(k, v.clone())).output().unwrap();
        eval(&y).to_vec().unwrap()
    }

    #[track_caller]
    fn close(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?}");
    }

    #[test]
    fn values_are_those_of_tensorflow() {
        let q = |attrs: &[(&str, AttrValue)]| quantized(X.into(), (-2f32).into(), 3f32.into(), attrs);
        close(
            &q(&[]),
            &[-8.0, -6.125, -1.25, -0.3125, 0.0, 0.0, 0.5, 1.6875, 3.3125, 6.0, 7.0],
        );
        let up = [
            ("round_mode", "HALF_UP".into()),
            ("num_bits", 3i64.into()),
            ("range_given", true.into()),
        ];
        close(&q(&up), &[-4.0, -4.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 3.0, 3.0]);
        let narrow = q(&[("narrow_range", true.into())]);
        close(&narrow[..4], &[-8.0, -6.110236, -1.2598425, -0.31496063]);
        let given = q(&[("range_given", true.into()), ("signed_input", false.into())]);
        close(&given[5..8], &[0.023529412, 0.49411765, 1.6941177]);
    }

    #[test]
    fn the_first_version_has_its_range_in_attributes() {
        let g = Graph::new();
        let x = g.constant(X).unwrap();
        let b = g.op("QuantizeAndDequantize").input(&x).attr("range_given", true);
        let y = b.attr("input_min", -2f32).attr("input_max", 3f32).output().unwrap();
        let given = [("range_given", true.into())];
        let want = quantized(X.into(), (-2f32).into(), 3f32.into(), &given);
        close(&eval(&y).to_vec::<f32>().unwrap(), &want);
        assert!(want[0] > -3.1, "{want:?}");
    }

    #[test]
    fn every_channel_has_its_own_range() {
        let x = Tensor::from([[-8.0f32, -6.1, -1.26], [0.02, 0.5, 1.7]]);
        let got = quantized(x, [-1f32, -2.0].into(), [1f32, 2.0].into(), &[("axis", 0i64.into())]);
        close(&got, &[-8.0, -6.125, -1.25, 0.013385827, 0.4952756, 1.7]);
    }

    #[test]
    fn bad_bits_and_ranges_are_refused() {
        let g = Graph::new();
        let (x, three, two) = (
            g.constant(X).unwrap(),
            g.constant(3f32).unwrap(),
            g.constant(2f32).unwrap(),
        );
        let q = |bits: i64| {
            let b = g.op("QuantizeAndDequantizeV2").input(&x).input(&three).input(&two);
            fails(&b.attr("num_bits", bits).attr("range_given", true).output().unwrap())
        };
        assert!(q(8).message().contains("input_min 3.0 > input_max 2.0"));
        assert!(q(0).message().contains("out of range") && q(63).message().contains("out of range"));
    }
}
