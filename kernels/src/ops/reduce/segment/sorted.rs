//! `SegmentSum`, `SegmentMean`, `SegmentProd`, `SegmentMax`, `SegmentMin`: ids in ascending order.
#![forbid(unsafe_code)]

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Tensor, dispatch, register_ops};
use half::{bf16, f16};
use num_complex::Complex;

use super::super::shared::{elements, map};
use super::{Run, Segments, folds, wide_ids};

/// What is done with the folded rows.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// Nothing.
    Keep,
    /// Empty segments become zero.
    ClearEmpty,
    /// Each is divided by the number of its rows.
    Divide,
}

/// Checks the ids of a sorted segment operation and returns the number of segments: the last id plus 1.
pub(super) fn check_sorted(ids: &[i64]) -> Result<usize> {
    let mut last = 0;
    for (i, &id) in ids.iter().enumerate() {
        if id < 0 {
            return Err(Error::invalid(format!("segment id {id} at position {i} is negative")));
        }
        if id < last {
            return Err(Error::invalid(format!(
                "segment ids are not increasing: {id} at position {i} follows {last}"
            )));
        }
        last = id;
    }
    let segments = if ids.is_empty() { 0 } else { last.saturating_add(1) };
    usize::try_from(segments).map_err(|_| Error::invalid(format!("segment id {last} is too large")))
}

/// The segments that have rows, each with the number of its rows; for ascending ids.
pub(super) fn runs(ids: &[i64]) -> impl Iterator<Item = (usize, u32)> + '_ {
    ids.chunk_by(|a, b| a == b)
        .map(|run| (run[0] as usize, u32::try_from(run.len()).unwrap_or(u32::MAX)))
}

/// A number that a sum can be divided from.
trait Divide: Element {
    fn divide(self, by: u32) -> Self;
}

macro_rules! divide {
    ($($t:ty, |$x:ident, $n:ident| $e:expr;)*) => {
        $(impl Divide for $t {
            fn divide(self, $n: u32) -> $t {
                let $x = self;
                $e
            }
        })*
    };
}

divide! {
    f32, |x, n| x / n as f32;
    f64, |x, n| x / f64::from(n);
    i64, |x, n| x / i64::from(n);
    u64, |x, n| x / u64::from(n);
    Complex<f32>, |x, n| x / n as f32;
    Complex<f64>, |x, n| x / f64::from(n);
}

fn divide_rows<T: Divide>(mut sums: Tensor, s: &Segments<'_>) -> Result<Tensor> {
    if s.inner > 0 {
        let all = elements::<T>(&mut sums)?;
        for (segment, n) in runs(s.ids) {
            let row = &mut all[segment * s.inner..][..s.inner];
            row.iter_mut().for_each(|x| *x = x.divide(n));
        }
    }
    Ok(sums)
}

/// Sums in the element type itself, or in a wider one, and divides there.
fn mean(dtype: DType) -> Run {
    /// As the wider type `$w`.
    macro_rules! wide {
        ($t:ty, $w:ident, $wide:ty, |$x:ident| $to:expr, |$y:ident| $from:expr) => {
            |device, s| {
                let data = map::<$t, $wide>(device, s.data, |$x| $to)?;
                let shape = s.shape.clone();
                let s = Segments {
                    data: &data,
                    ids: s.ids,
                    inner: s.inner,
                    shape,
                };
                let mean = divide_rows::<$wide>(folds::sums(DType::$w)(device, &s)?, &s)?;
                map::<$wide, $t>(device, &mean, |$y| $from)
            }
        };
    }
    macro_rules! own {
        ($d:ident, $t:ty) => {
            |device, s| divide_rows::<$t>(folds::sums(DType::$d)(device, s)?, s)
        };
    }
    match dtype {
        DType::F32 => own!(F32, f32),
        DType::F64 => own!(F64, f64),
        DType::I64 => own!(I64, i64),
        DType::U64 => own!(U64, u64),
        DType::C64 => own!(C64, Complex<f32>),
        DType::C128 => own!(C128, Complex<f64>),
        DType::F16 => wide!(f16, F32, f32, |x| x.to_f32(), |y| f16::from_f32(y)),
        DType::BF16 => wide!(bf16, F32, f32, |x| x.to_f32(), |y| bf16::from_f32(y)),
        DType::I8 => wide!(i8, I64, i64, |x| i64::from(x), |y| y as i8),
        DType::I16 => wide!(i16, I64, i64, |x| i64::from(x), |y| y as i16),
        DType::I32 => wide!(i32, I64, i64, |x| i64::from(x), |y| y as i32),
        DType::U8 => wide!(u8, I64, i64, |x| i64::from(x), |y| y as u8),
        DType::U16 => wide!(u16, I64, i64, |x| i64::from(x), |y| y as u16),
        _ => wide!(u32, I64, i64, |x| i64::from(x), |y| y as u32),
    }
}

fn clear_empty<T: Element>(t: &mut Tensor, s: &Segments<'_>) -> Result<()> {
    if s.inner > 0 {
        let all = elements::<T>(t)?;
        let mut next = 0;
        for (segment, _) in runs(s.ids) {
            all[next * s.inner..segment * s.inner].fill(T::default());
            next = segment + 1;
        }
    }
    Ok(())
}

struct Sorted {
    run: Run,
    then: Then,
}

impl Sorted {
    fn fold(&self, device: &dyn Device, s: &Segments<'_>) -> Result<Tensor> {
        let mut out = (self.run)(device, s)?;
        if self.then == Then::ClearEmpty {
            dispatch!(out.dtype(), T in reals => clear_empty::<T>(&mut out, s)?, else ());
        }
        Ok(out)
    }
}

impl Kernel for Sorted {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (data, ids) = (cx.input(0)?, cx.input(1)?);
        if ids.shape().rank() != 1 {
            return Err(Error::invalid(format!(
                "segment_ids should be a vector, got shape {}",
                ids.shape()
            )));
        }
        let shape = data.shape();
        if shape.first() != Some(&ids.len()) {
            return Err(Error::invalid(format!(
                "segment_ids should be the same size as dimension 0 of input: {} ids, input of shape {shape}",
                ids.len()
            )));
        }
        let device = &*cx.step().device;
        let ids = wide_ids(device, ids)?;
        let ids = ids.as_slice::<i64>()?;
        let segments = check_sorted(ids)?;
        let s = Segments {
            data,
            ids,
            inner: shape[1..].iter().product(),
            shape: shape.with_replaced(0, 1, &[segments]),
        };
        s.shape.checked_count()?;
        let out = self.fold(device, &s)?;
        cx.set_output(0, out);
        Ok(())
    }
}

/// The segments are known when the ids are.
fn segment_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    // Whether there are as many ids as rows is asked when it is run, as TensorFlow does.
    let data = cx.input(0).with_rank_at_least(1)?;
    cx.input(1).with_rank(1)?;
    let segments = match cx.constant_i64s(1) {
        Some(ids) => ids.last().map_or(Some(0), |l| usize::try_from(*l).ok()?.checked_add(1)),
        None => None,
    };
    Ok(vec![data.with_dim(0, segments)])
}

fn definition(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("data: T")
        .input("segment_ids: Tindices")
        .output("output: T")
        .attr(types)
        .attr("Tindices: {int32, int64}")
        .shape(segment_shape)
}

const NUMBERS: &str = "T: {float, double, int32, uint8, int16, int8, complex64, int64, bfloat16, uint16, complex128, \
                       half, uint32, uint64}";
const REALS: &str = "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}";

fn segment(cx: &GradContext, op: &str, data: &Output) -> Result<Output> {
    cx.graph().op(op).input(data).input(&cx.input(1)?).output()
}

fn sum_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dx = cx.dense(grads, 0)?.gather(&cx.input(1)?, 0)?;
    Ok(vec![Some(dx.into()), None])
}

fn mean_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, data, ids, dy) = (cx.graph(), cx.input(0)?, cx.input(1)?, cx.dense(grads, 0)?);
    let one = g.constant(1i32)?;
    let zero = g.constant(0i32)?;
    let trailing = data.rank_op()?.minus(&one)?.expand_dims(0)?.fill_with(&one)?;
    let shape = g.concat(&[ids.shape_op()?, trailing], 0)?;
    let ones = shape.fill_with(&dy.scalar_like(1.0)?)?;
    let counts = segment(cx, "SegmentSum", &ones)?;
    let dx = g
        .op("GatherV2")
        .input(&dy.divided_by(&counts)?)
        .input(&ids)
        .input(&zero)
        .output()?;
    Ok(vec![Some(dx.into()), None])
}

/// Without zeros in a segment, the product divided by the element; with one, it alone gets the product of the others.
fn prod_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (data, ids, dy) = (cx.input(0)?, cx.input(1)?, cx.dense(grads, 0)?);
    let is_zero = data.equal(&data.scalar_like(0.0)?)?;
    let zeros = segment(cx, "SegmentSum", &is_zero.cast(DType::I32)?)?;
    let dy = zeros
        .greater(&zeros.scalar_like(1.0)?)?
        .select(&dy.zeros_like()?, &dy)?;
    let others = is_zero.select(&data.ones_like()?, &data)?;
    let product = segment(cx, "SegmentProd", &others)?.gather(&ids, 0)?;
    let divided = cx.output(0)?.gather(&ids, 0)?.divided_by(&others)?;
    let dx = dy.gather(&ids, 0)?.times(&is_zero.select(&product, &divided)?)?;
    Ok(vec![Some(dx.into()), None])
}

fn extreme_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (data, ids, dy) = (cx.input(0)?, cx.input(1)?, cx.dense(grads, 0)?);
    let chosen = data.equal(&cx.output(0)?.gather(&ids, 0)?)?;
    let number = segment(cx, "SegmentSum", &chosen.cast(dy.dtype())?)?;
    let shares = dy.divided_by(&number)?.gather(&ids, 0)?;
    let dx = chosen.select(&shares, &data.zeros_like()?)?;
    Ok(vec![Some(dx.into()), None])
}

fn sample(s: &mut Sampler, op: &str) -> Result<Operation> {
    let x = s.normal([5, 2])?;
    let ids = s.constant([0i32, 0, 1, 3, 3])?;
    s.op(op).input(&x).input(&ids).finish()
}

fn kernel(init: &KernelInit<'_>, run: fn(DType) -> Run, then: Then) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(Sorted {
        run: run(init.input_types[0]),
        then,
    }))
}

fn segment_sum() -> OpDef {
    definition("SegmentSum", NUMBERS)
        .doc("The sums of rows with the same id; ids ascend.")
        .gradient(sum_grad)
        .cpu(|init| kernel(init, folds::sums, Then::Keep))
        .sample(|s| sample(s, "SegmentSum"))
}

fn segment_mean() -> OpDef {
    definition("SegmentMean", NUMBERS)
        .doc("The means of rows with the same id; ids ascend, and a segment without rows is 0.")
        .gradient(mean_grad)
        .cpu(|init| kernel(init, mean, Then::Divide))
        .sample(|s| sample(s, "SegmentMean"))
}

fn segment_prod() -> OpDef {
    definition("SegmentProd", NUMBERS)
        .doc("The products of rows with the same id; ids ascend, and a segment without rows is 1.")
        .gradient(prod_grad)
        .cpu(|init| kernel(init, folds::products, Then::Keep))
        .sample(|s| sample(s, "SegmentProd"))
        .sample(|s| {
            let x = s.input(Tensor::from([2.0f64, 0.0, 3.0, 0.0, 0.0, 4.0]))?;
            let ids = s.constant([0i64, 0, 0, 1, 1, 2])?;
            s.op("SegmentProd").input(&x).input(&ids).finish()
        })
}

fn segment_max() -> OpDef {
    definition("SegmentMax", REALS)
        .doc("The largest elements of rows with the same id; ids ascend, and a segment without rows is 0.")
        .gradient(extreme_grad)
        .cpu(|init| kernel(init, |d| folds::maxima(d, false), Then::ClearEmpty))
        .sample(|s| sample(s, "SegmentMax"))
}

fn segment_min() -> OpDef {
    definition("SegmentMin", REALS)
        .doc("The smallest elements of rows with the same id; ids ascend, and a segment without rows is 0.")
        .gradient(extreme_grad)
        .cpu(|init| kernel(init, |d| folds::minima(d, false), Then::ClearEmpty))
        .sample(|s| sample(s, "SegmentMin"))
}

register_ops!(segment_sum, segment_mean, segment_prod, segment_max, segment_min);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Output, PartialShape, Tensor};

    fn segment(op: &str, data: impl Into<Tensor>, ids: &[i32]) -> actorflow_core::error::Result<Output> {
        let g = Graph::new();
        let (x, ids) = (g.constant(data)?, g.constant(ids)?);
        g.op(op).input(&x).input(&ids).output()
    }

    #[test]
    fn rows_are_folded_by_id() {
        let x = || Tensor::from([[1f32, 2.], [3., 4.], [5., -6.]]);
        let f = |op| eval(&segment(op, x(), &[0, 2, 2]).unwrap());
        assert_eq!(f("SegmentSum"), Tensor::from([[1f32, 2.], [0., 0.], [8., -2.]]));
        assert_eq!(f("SegmentMean"), Tensor::from([[1f32, 2.], [0., 0.], [4., -1.]]));
        assert_eq!(f("SegmentProd"), Tensor::from([[1f32, 2.], [1., 1.], [15., -24.]]));
        assert_eq!(f("SegmentMax"), Tensor::from([[1f32, 2.], [0., 0.], [5., 4.]]));
        assert_eq!(f("SegmentMin"), Tensor::from([[1f32, 2.], [0., 0.], [3., -6.]]));
        assert_eq!(
            segment("SegmentSum", x(), &[0, 2, 2]).unwrap().shape(),
            PartialShape::from([3, 2])
        );
    }

    #[test]
    fn integers_and_nothing() {
        let f = |op, x: [i8; 4]| eval(&segment(op, x, &[0, 0, 1, 1]).unwrap());
        assert_eq!(f("SegmentMean", [3, 4, -3, -4]), Tensor::from([3i8, -3]));
        assert_eq!(f("SegmentMax", [-3, -4, 100, 7]), Tensor::from([-3i8, 100]));
        assert_eq!(f("SegmentSum", [100, 100, 1, 1]), Tensor::from([-56i8, 2]));
        let none = segment(
            "SegmentSum",
            Tensor::zeros(actorflow_core::DType::F32, [0, 2]).unwrap(),
            &[],
        )
        .unwrap();
        assert_eq!(eval(&none).shape().dims(), [0, 2]);
    }

    #[test]
    fn bad_ids_are_refused() {
        let x = || Tensor::from([[1f32], [2.], [3.]]);
        assert!(
            fails(&segment("SegmentSum", x(), &[1, 0, 2]).unwrap())
                .message()
                .contains("not increasing")
        );
        assert!(
            fails(&segment("SegmentSum", x(), &[-1, 0, 2]).unwrap())
                .message()
                .contains("negative")
        );
        let short = segment("SegmentSum", x(), &[0, 0]).unwrap();
        assert!(fails(&short).message().contains("the same size"));
    }
}
