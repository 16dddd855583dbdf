//! `QuantizeV2`, `Dequantize`: real numbers as quantised integers, and back.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::half::bf16;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Shape, Tensor, register_ops};

use super::range::{Integers, Quant, Reals, quantized, with_range};
use crate::ops::array::support::product;
use crate::{moves, spread};

const MODES: &str = "mode: {'MIN_COMBINED', 'MIN_FIRST', 'SCALED'} = 'MIN_COMBINED'";

/// How integers and real numbers correspond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The range is cut into equal parts from its lower end.
    Combined,
    /// As before, with zero moved to an integer.
    First,
    /// Multiples of a step; zero is the integer 0.
    Scaled,
}

impl Mode {
    fn of(attrs: &Attrs) -> Result<Mode> {
        Ok(match attrs.str("mode")? {
            "MIN_FIRST" => Mode::First,
            "SCALED" => Mode::Scaled,
            _ => Mode::Combined,
        })
    }
}

/// The attributes of either operation.
#[derive(Clone, Copy, Debug)]
struct Form {
    mode: Mode,
    narrow: bool,
    to_even: bool,
    axis: i64,
    least_range: f32,
}

/// Slices along an axis: `outer` rows of `n` blocks of `inner` elements.
struct Slices {
    n: usize,
    inner: usize,
}

impl Form {
    fn of(attrs: &Attrs) -> Result<Form> {
        let form = Form {
            mode: Mode::of(attrs)?,
            narrow: attrs.bool("narrow_range")?,
            to_even: attrs.get("round_mode").is_some() && attrs.str("round_mode")? == "HALF_TO_EVEN",
            axis: attrs.int("axis")?,
            least_range: match attrs.get("ensure_minimum_range") {
                Some(_) => attrs.float("ensure_minimum_range")?,
                None => 0.0,
            },
        };
        if form.to_even && form.mode != Mode::Scaled {
            return Err(Error::invalid(format!(
                "round mode HALF_TO_EVEN is only supported for mode SCALED, but mode is {}",
                attrs.str("mode")?
            )));
        }
        Ok(form)
    }

    /// The slices of a tensor, each with its own range.
    fn slices(self, shape: &Shape) -> Result<Slices> {
        match usize::try_from(self.axis) {
            Err(_) => Ok(Slices {
                n: 1,
                inner: shape.count(),
            }),
            Ok(a) if a < shape.rank() => Ok(Slices {
                n: shape[a],
                inner: product(&shape[a + 1..]),
            }),
            Ok(a) => Err(Error::invalid(format!(
                "axis {a} must be less than the rank of the input, whose shape is {shape}"
            ))),
        }
    }

    /// The ends of every slice's range.
    fn ranges(self, cx: &OpContext<'_>, n: usize) -> Result<Vec<(f32, f32)>> {
        let (min, max) = (cx.input(1)?, cx.input(2)?);
        for (t, what) in [(min, "min_range"), (max, "max_range")] {
            if t.len() != n {
                return Err(Error::invalid(format!(
                    "{what} must have {n} elements, one for each slice along axis {}, got shape {}",
                    self.axis,
                    t.shape()
                )));
            }
        }
        if self.mode == Mode::First && n != 1 {
            return Err(Error::unimplemented("mode MIN_FIRST with an axis other than -1"));
        }
        let (min, max) = (min.as_slice::<f32>()?, max.as_slice::<f32>()?);
        Ok(min.iter().copied().zip(max.iter().copied()).collect())
    }

    /// The least integer, in `SCALED` mode.
    fn least<T: Quant>(self) -> i64 {
        T::LOWEST + i64::from(self.narrow)
    }
}

/// Calls `body(slice, its elements of the input, and of the output)` for all blocks of all slices.
fn each_block<A: Sync, B: Send>(
    cx: &OpContext<'_>,
    s: &Slices,
    from: &[A],
    out: &mut [B],
    body: impl Fn(usize, &[A], &mut [B]) + Sync,
) {
    if s.n == 1 {
        return moves::par_chunks(cx.parallel(), out, |at, out| body(0, &from[at..at + out.len()], out));
    }
    let inner = s.inner.max(1);
    let chunk = spread::rows_of(inner) * inner;
    spread::chunks(cx.parallel(), out, chunk, |i, part| {
        for (j, out) in part.chunks_mut(inner).enumerate() {
            let at = i * chunk + j * inner;
            body(at / inner % s.n, &from[at..at + out.len()], out);
        }
    });
}

/// The function of one slice.
#[derive(Clone, Copy)]
enum ToIntegers {
    Combined {
        min: f32,
        max: f32,
        scale: f32,
        half: f32,
    },
    First(Integers),
    Scaled {
        min: f32,
        max: f32,
        scale: f32,
        to_even: bool,
    },
}

impl ToIntegers {
    /// The function and the range that it covers.
    fn new<T: Quant>(form: Form, min: f32, max: f32) -> Result<(ToIntegers, (f32, f32))> {
        if max < min {
            return Err(Error::invalid(format!(
                "input_max_range must be larger than input_min_range, got {max} and {min}"
            )));
        }
        // A range too narrow to be told apart is widened; every range includes zero.
        let epsilon = 1f32.max(min.abs().max(max.abs())) * form.least_range;
        let low = 0f32.min(min);
        let high = 0f32.max(max.max(low + epsilon));
        Ok(match form.mode {
            Mode::First => (ToIntegers::First(Integers::of::<T>(low, high)), (low, high)),
            Mode::Combined => {
                let scale = ((T::HIGHEST - T::LOWEST) as f64 / f64::from(high - low)) as f32;
                let half = if T::LOWEST < 0 { (T::STEPS / 2.0) as f32 } else { 0.0 };
                (
                    ToIntegers::Combined {
                        min: low,
                        max: high,
                        scale,
                        half,
                    },
                    (low, high),
                )
            }
            Mode::Scaled => {
                let (least, most) = (form.least::<T>() as f32, T::HIGHEST as f32);
                let side = |q: f32, end: f32| if q * end > 0.0 { q / end } else { f32::MAX };
                let scale = side(least, low).min(side(most, high));
                // An end too small for a normal number is none, as on a processor that flushes them to zero.
                let normal = |x: f32| if x.is_subnormal() { 0.0 } else { x };
                let (min, max) = (normal(least / scale), normal(most / scale));
                let to_even = form.to_even;
                (
                    ToIntegers::Scaled {
                        min,
                        max,
                        scale,
                        to_even,
                    },
                    (min, max),
                )
            }
        })
    }

    fn run<T: Quant>(self, from: &[f32], out: &mut [T]) {
        let each = |out: &mut [T], f: &dyn Fn(f32) -> f32| {
            out.iter_mut().zip(from).for_each(|(o, x)| *o = T::narrow(f(*x) as i64));
        };
        match self {
            ToIntegers::First(to) => out.iter_mut().zip(from).for_each(|(o, x)| *o = to.at(*x)),
            ToIntegers::Combined { min, max, scale, half } if half > 0.0 => {
                each(out, &|x| ((x.min(max).max(min) - min) * scale - half).round());
            }
            ToIntegers::Combined { min, max, scale, .. } => {
                each(out, &|x| (x.min(max).max(min) - min) * scale + 0.5);
            }
            ToIntegers::Scaled {
                min,
                max,
                scale,
                to_even,
            } => match to_even {
                true => each(out, &|x| (x.min(max).max(min) * scale).round_ties_even()),
                false => each(out, &|x| (x.min(max).max(min) * scale).round()),
            },
        }
    }
}

fn quantize<T: Quant>(cx: &mut OpContext<'_>, form: Form) -> Result<()> {
    let x = cx.input(0)?;
    let slices = form.slices(x.shape())?;
    let (mut functions, mut mins, mut maxs) = (Vec::new(), Vec::new(), Vec::new());
    for (min, max) in form.ranges(cx, slices.n)? {
        let (f, (min, max)) = ToIntegers::new::<T>(form, min, max)?;
        functions.push(f);
        mins.push(min);
        maxs.push(max);
    }
    let mut t = cx.alloc(T::DTYPE, x.shape())?;
    let out = t.as_mut_slice::<T>().unwrap_or(&mut []);
    each_block(cx, &slices, x.as_slice::<f32>()?, out, |i, from, out| {
        functions[i].run(from, out)
    });
    cx.set_output(0, t.bitcast(T::QUANTIZED)?);
    for (i, ends) in [(1, &mins), (2, &maxs)] {
        // One slice has a range of scalars, even along an axis.
        let ends = match ends[..] {
            [one] => Tensor::scalar(one),
            _ => Tensor::vector(ends),
        };
        cx.set_output(i, ends);
    }
    Ok(())
}

/// The function of one slice, back: `(x + shift) * scale + add`, or the form with zero moved.
#[derive(Clone, Copy)]
enum ToReals {
    Linear { shift: f32, scale: f32, add: f32 },
    First(Reals),
}

impl ToReals {
    fn new<T: Quant>(form: Form, min: f32, max: f32) -> ToReals {
        match form.mode {
            Mode::First => ToReals::First(Reals::of::<T>(min, max)),
            Mode::Combined => ToReals::Linear {
                shift: if T::LOWEST < 0 { (T::STEPS / 2.0) as f32 } else { 0.0 },
                scale: (max - min) / (T::HIGHEST as f32 - T::LOWEST as f32),
                add: min,
            },
            Mode::Scaled => {
                let from_max = max / T::HIGHEST as f32;
                ToReals::Linear {
                    shift: 0.0,
                    scale: match T::LOWEST {
                        0 => from_max,
                        _ => (min / form.least::<T>() as f32).max(from_max),
                    },
                    add: 0.0,
                }
            }
        }
    }

    fn at<T: Quant>(self, x: T) -> f32 {
        match self {
            ToReals::Linear { shift, scale, add } => (x.wide() as f32 + shift) * scale + add,
            ToReals::First(to) => to.at(x),
        }
    }
}

fn dequantize<T: Quant>(cx: &mut OpContext<'_>, form: Form, dtype: DType) -> Result<()> {
    let x = super::range::stored(cx, 0)?;
    let slices = form.slices(x.shape())?;
    let ranges = form.ranges(cx, slices.n)?;
    let functions: Vec<ToReals> = ranges.iter().map(|(a, b)| ToReals::new::<T>(form, *a, *b)).collect();
    let from = x.as_slice::<T>()?;
    let mut t = cx.alloc(dtype, x.shape())?;
    if let Some(out) = t.as_mut_slice::<f32>() {
        each_block(cx, &slices, from, out, |i, from, out| {
            out.iter_mut().zip(from).for_each(|(o, x)| *o = functions[i].at(*x));
        });
    } else if let Some(out) = t.as_mut_slice::<bf16>() {
        each_block(cx, &slices, from, out, |i, from, out| {
            out.iter_mut()
                .zip(from)
                .for_each(|(o, x)| *o = bf16::from_f32(functions[i].at(*x)));
        });
    }
    cx.set_output(0, t);
    Ok(())
}

/// The shape of the ends of the ranges.
fn checked_ends(cx: &ShapeContext<'_>) -> Result<PartialShape> {
    let (axis, x) = (cx.attrs().int("axis")?, cx.input(0));
    if axis < -1 {
        return Err(Error::invalid(format!("axis should be at least -1, got {axis}")));
    }
    let ends = match (usize::try_from(axis), x.rank()) {
        (Err(_), _) => PartialShape::scalar(),
        (Ok(_), None) => PartialShape::vector(None),
        (Ok(a), Some(r)) if a < r => PartialShape::vector(x.dim(a)),
        (Ok(a), Some(r)) => {
            return Err(Error::invalid(format!(
                "axis {a} must be less than the rank {r} of the input"
            )));
        }
    };
    cx.input(1).merge(&ends)?;
    cx.input(2).merge(&ends)?;
    // Whoever has one slice gives scalars.
    Ok(match ends.dim(0) {
        Some(1) => PartialShape::scalar(),
        None if axis >= 0 => PartialShape::UNKNOWN,
        _ => ends,
    })
}

fn quantize_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let form = Form::of(init.attrs)?;
    quantized!(init.output_types[0], T => Ok(Box::new(move |cx: &mut OpContext<'_>| quantize::<T>(cx, form))),
        else Err(init.no_kernel()))
}

fn quantize_v2() -> OpDef {
    OpDef::new("QuantizeV2", Category::Array)
        .doc(
            "Real numbers as the integers of a quantised type, which divide the range `min_range..max_range` evenly. \
             The range is widened to include zero and to be no narrower than `ensure_minimum_range`; the outputs say how.",
        )
        .input("input: float")
        .input("min_range: float")
        .input("max_range: float")
        .output("output: T")
        .output("output_min: float")
        .output("output_max: float")
        .attr("T: quantizedtype")
        .attr(MODES)
        .attr("round_mode: {'HALF_AWAY_FROM_ZERO', 'HALF_TO_EVEN'} = 'HALF_AWAY_FROM_ZERO'")
        .attr("narrow_range: bool = false")
        .attr("axis: int = -1")
        .attr("ensure_minimum_range: float = 0.01")
        .shape(|cx| {
            let ends = checked_ends(cx)?;
            let mut all = with_range(cx.input(0));
            all[1] = ends.clone();
            all[2] = ends;
            Ok(all)
        })
        .not_differentiable()
        .cpu(quantize_kernel)
}

fn dequantize_op() -> OpDef {
    OpDef::new("Dequantize", Category::Array)
        .doc("The real numbers that the integers of a quantised tensor stand for.")
        .input("input: T")
        .input("min_range: float")
        .input("max_range: float")
        .output("output: dtype")
        .attr("T: quantizedtype")
        .attr(MODES)
        .attr("narrow_range: bool = false")
        .attr("axis: int = -1")
        .attr("dtype: {bfloat16, float} = DT_FLOAT")
        .shape(|cx| {
            checked_ends(cx)?;
            Ok(vec![cx.input(0)])
        })
        .not_differentiable()
        .cpu(|init| {
            let (form, dtype) = (Form::of(init.attrs)?, init.output_types[0]);
            if dtype == DType::BF16 && form.mode != Mode::Combined {
                return Err(Error::invalid("with bfloat16 outputs the mode must be MIN_COMBINED"));
            }
            quantized!(init.input_types[0], T => {
                Ok(Box::new(move |cx: &mut OpContext<'_>| dequantize::<T>(cx, form, dtype)))
            }, else Err(init.no_kernel()))
        })
}

register_ops!(quantize_v2, dequantize_op);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{AttrValue, Code, Graph, Operation};

    const X: [f32; 5] = [-8.0, -0.3, 0.0, 1.7, 7.0];

    fn quantize(q: DType, min: Tensor, max: Tensor, attrs: &[(&str, AttrValue)]) -> Operation {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let x = Tensor::from_slice([1, 5], &X).unwrap();
        let b = g
            .op("QuantizeV2")
            .input(&c(x))
            .input(&c(min))
            .input(&c(max))
            .attr("T", q);
        attrs.iter().fold(b, |b, (k, v)| b.attr(k, v.clone())).finish().unwrap()
    }

    fn integers(op: &Operation) -> Vec<i32> {
        eval(&op.output(0).unwrap().cast(DType::I32).unwrap()).to_vec().unwrap()
    }

    fn ends(op: &Operation) -> (f32, f32) {
        let end = |i| eval(&op.output(i).unwrap()).to_scalar::<f32>().unwrap();
        (end(1), end(2))
    }

    // The numbers of these tests are TensorFlow's.
    #[test]
    fn every_mode_divides_the_range_in_its_way() {
        let (min, max) = (Tensor::from(-2.5f32), Tensor::from(3f32));
        let of = |q, mode: &str| quantize(q, min.clone(), max.clone(), &[("mode", mode.into())]);
        assert_eq!(integers(&of(DType::QU8, "MIN_COMBINED")), [0, 102, 116, 195, 255]);
        assert_eq!(integers(&of(DType::QI8, "MIN_COMBINED")), [-128, -26, -12, 67, 127]);
        assert_eq!(integers(&of(DType::QU8, "MIN_FIRST")), [0, 102, 116, 195, 255]);
        let scaled = of(DType::QI8, "SCALED");
        assert_eq!(integers(&scaled), [-128, -13, 0, 72, 127]);
        assert_eq!(ends(&scaled).1, 3.0);
    }

    #[test]
    fn ranges_are_widened_to_include_zero() {
        let op = quantize(DType::QU8, 1f32.into(), 4f32.into(), &[]);
        assert_eq!(ends(&op), (0.0, 4.0));
        let op = quantize(
            DType::QU8,
            0f32.into(),
            0f32.into(),
            &[("ensure_minimum_range", 0.5f32.into())],
        );
        assert_eq!(ends(&op), (0.0, 0.5));
    }

    #[test]
    fn every_slice_along_an_axis_has_its_own_range() {
        let (min, max) = (Tensor::from([-8f32; 5]), Tensor::from([8f32, 1.0, 1.0, 2.0, 7.0]));
        let attrs = [("axis", 1i64.into()), ("mode", "SCALED".into())];
        let op = quantize(DType::QI8, min.clone(), max.clone(), &attrs);
        assert_eq!(integers(&op), [-127, -5, 0, 27, 112]);
        assert_eq!(eval(&op.output(1).unwrap()).shape().dims(), [5]);
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let q = c(eval(&op.output(0).unwrap()));
        let b = g.op("Dequantize").input(&q);
        let b = b
            .input(&c(eval(&op.output(1).unwrap())))
            .input(&c(eval(&op.output(2).unwrap())));
        let back = b.attr("axis", 1i64).attr("mode", "SCALED").output().unwrap();
        let back = eval(&back).to_vec::<f32>().unwrap();
        assert!(back.iter().zip(X).all(|(a, b)| (a - b).abs() < 0.07), "{back:?}");
    }

    #[test]
    fn the_integers_of_every_type_stand_for_what_was_quantised() {
        for q in DType::QUANTIZED {
            // Scaled unsigned integers stand for no negative numbers.
            let unsigned = matches!(q, DType::QU8 | DType::QU16);
            let modes = ["MIN_COMBINED", "MIN_FIRST", "SCALED"];
            for mode in &modes[..if unsigned { 2 } else { 3 }] {
                let mode = *mode;
                let op = quantize(q, (-8f32).into(), 7.5f32.into(), &[("mode", mode.into())]);
                let g = op.graph();
                let b = g.op("Dequantize").input(&op.output(0).unwrap());
                let b = b.input(&op.output(1).unwrap()).input(&op.output(2).unwrap());
                let back = eval(&b.attr("mode", mode).output().unwrap()).to_vec::<f32>().unwrap();
                assert!(
                    back.iter().zip(X).all(|(a, b)| (a - b).abs() < 0.07),
                    "{q} {mode}: {back:?}"
                );
            }
        }
    }

    #[test]
    fn bfloat16_results_are_rounded() {
        let op = quantize(DType::QU8, (-8f32).into(), 7f32.into(), &[]);
        let g = op.graph();
        let b = g.op("Dequantize").input(&op.output(0).unwrap());
        let b = b.input(&op.output(1).unwrap()).input(&op.output(2).unwrap());
        let back = eval(&b.attr("dtype", DType::BF16).output().unwrap());
        assert_eq!(
            (back.dtype(), back.to_vec::<bf16>().unwrap()[4].to_f32()),
            (DType::BF16, 7.0)
        );
    }

    #[test]
    fn what_no_kernel_does_is_refused() {
        let of = |min: Tensor, max: Tensor, attrs: &[(&str, AttrValue)]| {
            fails(&quantize(DType::QU8, min, max, attrs).output(0).unwrap())
        };
        let e = of(3f32.into(), 2f32.into(), &[]);
        assert!(e.message().contains("got 2 and 3"), "{e}");
        let e = of((-1f32).into(), 2f32.into(), &[("round_mode", "HALF_TO_EVEN".into())]);
        assert!(
            e.code() == Code::InvalidArgument && e.message().contains("SCALED"),
            "{e}"
        );
        let five = Tensor::from([0f32; 5]);
        let attrs = [("axis", 1i64.into()), ("mode", "MIN_FIRST".into())];
        assert_eq!(of(five.clone(), five, &attrs).code(), Code::Unimplemented);
    }
}
