//! `Sum`, `Mean`, `Prod`, `EuclideanNorm`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::DType;
use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::Device;
use actorflow_core::op::OpDef;
use actorflow_core::{Output, Tensor, register_ops};
use half::{bf16, f16};
use num_complex::Complex;

use super::shared::{self, KeptShape, Narrow, Reduce, as_signed, direct, elements, map, widened};
use crate::reduction::{Fold, Plan, Product, Sum};

const NUMBERS: &str = "T: {float, double, int32, uint8, int16, int8, complex64, int64, bfloat16, uint16, complex128, \
                       half, uint32, uint64}";

macro_rules! by_type {
    ($dtype:expr, $fold:ident) => {
        match $dtype {
            DType::F32 => direct::<$fold<f32>>,
            DType::F64 => direct::<$fold<f64>>,
            DType::I32 => direct::<$fold<i32>>,
            DType::I64 => direct::<$fold<i64>>,
            DType::C64 => direct::<$fold<Complex<f32>>>,
            DType::C128 => direct::<$fold<Complex<f64>>>,
            DType::F16 => widened::<$fold<f32>, f16>,
            DType::BF16 => widened::<$fold<f32>, bf16>,
            DType::I8 => widened::<$fold<i64>, i8>,
            DType::I16 => widened::<$fold<i64>, i16>,
            DType::U8 => widened::<$fold<i64>, u8>,
            DType::U16 => widened::<$fold<i64>, u16>,
            DType::U32 => widened::<$fold<i64>, u32>,
            _ => as_signed::<$fold<i64>>,
        }
    };
}

/// The sum of a tensor of this dtype, a number.
pub(crate) fn sum_of(dtype: DType) -> Reduce {
    by_type!(dtype, Sum)
}

fn sum_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dy = KeptShape::of(cx)?.apply(&cx.dense(grads, 0)?)?;
    let dx = shared::spread_to(&dy, &cx.input(0)?)?;
    Ok(vec![Some(dx.into()), None])
}

fn sum() -> OpDef {
    shared::definition("Sum", NUMBERS)
        .doc("The sum over some dimensions.")
        .gradient(sum_grad)
        .cpu(|init| shared::kernel(init, true, sum_of(init.input_types[0])))
        .sample(|s| shared::sample(s, "Sum", &[1], false))
        .sample(|s| shared::sample(s, "Sum", &[0, -1], true))
        .sample(|s| shared::sample(s, "Sum", &[0, 1, 2], false))
}

/// The mean of wider elements; integer division, and no mean of nothing.
fn mean_of<T: Narrow<Wide = i64>>(device: &dyn Device, x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let wide = map::<T, i64>(device, x, T::widen)?;
    let sum = direct::<Sum<i64>>(device, &wide, plan)?;
    let n = (plan.count() as i64).max(1);
    map::<i64, T>(device, &sum, |s| T::narrow(s / n))
}

/// Sums by `F` and divides each sum in place.
fn mean_by<F: Fold>(
    device: &dyn Device,
    x: &Tensor,
    plan: &Plan,
    divide: impl Fn(F::T, f64) -> F::T,
) -> Result<Tensor> {
    let mut sum = direct::<F>(device, x, plan)?;
    let n = plan.count() as f64;
    for s in elements::<F::T>(&mut sum)? {
        *s = divide(*s, n);
    }
    Ok(sum)
}

/// The mean in f32 of a narrower float.
fn mean_half<T: Narrow<Wide = f32>>(device: &dyn Device, x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let wide = map::<T, f32>(device, x, T::widen)?;
    let mean = mean_by::<Sum<f32>>(device, &wide, plan, |s, n| s / n as f32)?;
    map::<f32, T>(device, &mean, T::narrow)
}

fn mean_kernel(dtype: DType) -> Reduce {
    match dtype {
        DType::F32 => |d, x, p| mean_by::<Sum<f32>>(d, x, p, |s, n| s / n as f32),
        DType::F64 => |d, x, p| mean_by::<Sum<f64>>(d, x, p, |s, n| s / n),
        DType::I64 => |d, x, p| {
            let n = (p.count() as i64).max(1);
            mean_by::<Sum<i64>>(d, x, p, |s, _| s / n)
        },
        DType::C64 => |d, x, p| mean_by::<Sum<Complex<f32>>>(d, x, p, |s, n| s / n.max(1.0) as f32),
        DType::C128 => |d, x, p| mean_by::<Sum<Complex<f64>>>(d, x, p, |s, n| s / n.max(1.0)),
        DType::F16 => mean_half::<f16>,
        DType::BF16 => mean_half::<bf16>,
        DType::I8 => mean_of::<i8>,
        DType::I16 => mean_of::<i16>,
        DType::I32 => mean_of::<i32>,
        DType::U8 => mean_of::<u8>,
        DType::U16 => mean_of::<u16>,
        DType::U32 => mean_of::<u32>,
        _ => |d, x, p| {
            let n = (p.count() as u64).max(1);
            let sum = as_signed::<Sum<i64>>(d, x, p)?;
            map::<u64, u64>(d, &sum, |s| s / n)
        },
    }
}

/// The number of elements that each element of the reduction's output comes from, as a scalar of `like`'s dtype.
fn elements_per_output(cx: &GradContext, like: &Output) -> Result<Output> {
    let (x, y) = (cx.input(0)?, cx.output(0)?);
    if let (Some(n), Some(m)) = (x.shape().count(), y.shape().count()) {
        return like.scalar_like((n / m.max(1)) as f64);
    }
    let g = cx.graph();
    let size = |t: &Output| g.op("Size").input(t).attr("out_type", DType::I64).output();
    let one = g.constant(1i64)?;
    size(&x)?.floor_div(&size(&y)?.maximum(&one)?)?.cast(like.dtype())
}

fn mean_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dy = cx.dense(grads, 0)?;
    let dy = dy.divided_by(&elements_per_output(cx, &dy)?)?;
    let dx = shared::spread_to(&KeptShape::of(cx)?.apply(&dy)?, &cx.input(0)?)?;
    Ok(vec![Some(dx.into()), None])
}

fn mean() -> OpDef {
    shared::definition("Mean", NUMBERS)
        .doc("The mean over some dimensions.")
        .gradient(mean_grad)
        .cpu(|init| shared::kernel(init, true, mean_kernel(init.input_types[0])))
        .sample(|s| shared::sample(s, "Mean", &[1], false))
        .sample(|s| shared::sample(s, "Mean", &[2, 0], true))
}

/// How to bring the folded axes of the input of a reduction to the front.
struct ToFront {
    /// The permutation of the axes and its inverse.
    perm: Output,
    back: Output,
    /// Two integers: the number of elements that are folded, and of the others.
    table: Output,
}

impl ToFront {
    fn of(cx: &GradContext) -> Result<ToFront> {
        let (g, x) = (cx.graph(), cx.input(0)?);
        if let (Some(shape), Some(axes)) = (x.shape().to_shape(), cx.input(1)?.constant_value()) {
            let axes = axes.to_i64_vec()?;
            let mut perm = axes.iter().map(|a| shape.axis(*a)).collect::<Result<Vec<_>>>()?;
            let folded: usize = perm.iter().map(|a| shape[*a]).product();
            let others: Vec<usize> = (0..shape.rank()).filter(|a| !perm.contains(a)).collect();
            let kept: usize = others.iter().map(|a| shape[*a]).product();
            perm.extend(others);
            let mut back = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(i, a)| back[*a] = i);
            let vector = |v: &[usize]| g.constant(Tensor::vector(&v.iter().map(|x| *x as i64).collect::<Vec<_>>()));
            return Ok(ToFront {
                perm: vector(&perm)?,
                back: vector(&back)?,
                table: vector(&[folded, kept])?,
            });
        }
        let axes = cx.input(1)?.cast(DType::I32)?.reshape(&[-1])?;
        let rank = x.rank_op()?;
        let axes = axes.plus(&rank)?.modulo(&rank)?;
        let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
        let every = g.op("Range").input(&zero).input(&rank).input(&one).output()?;
        let others = g.op("ListDiff").input(&every).input(&axes).output()?;
        let shape = x.shape_op()?;
        let count = |of: &Output| shape.gather(of, 0)?.reduce_by("Prod", &zero, false);
        let table = g.stack(&[count(&axes)?, count(&others)?], 0)?;
        let perm = g.concat(&[axes, others], 0)?;
        let back = perm.unary("InvertPermutation")?;
        Ok(ToFront { perm, back, table })
    }
}

/// By products of all but one element, formed from both ends, so that zeros do no harm.
fn prod_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, x) = (cx.graph(), cx.input(0)?);
    let dy = KeptShape::of(cx)?.apply(&cx.dense(grads, 0)?)?;
    let dy = shared::spread_to(&dy, &x)?;
    let ToFront { perm, back, table } = ToFront::of(cx)?;
    let turned = g.op("Transpose").input(&x).input(&perm).output()?;
    let flat = turned.reshape_to(&table)?;
    let zero = g.constant(0i32)?;
    let before = |reverse: bool| {
        g.op("Cumprod")
            .input(&flat)
            .input(&zero)
            .attr("exclusive", true)
            .attr("reverse", reverse)
            .output()
    };
    let conj = |t: Output| if t.dtype().is_complex() { t.conj_op() } else { Ok(t) };
    let others = conj(before(false)?)?.times(&conj(before(true)?)?)?;
    let others = others.reshape_to(&shared::shape_vector(&turned)?)?;
    let others = g.op("Transpose").input(&others).input(&back).output()?;
    let dx = dy.times(&others)?.reshape_to(&shared::shape_vector(&x)?)?;
    Ok(vec![Some(dx.into()), None])
}

fn prod() -> OpDef {
    shared::definition("Prod", NUMBERS)
        .doc("The product over some dimensions.")
        .gradient(prod_grad)
        .cpu(|init| shared::kernel(init, true, by_type!(init.input_types[0], Product)))
        .sample(|s| shared::sample(s, "Prod", &[1], false))
        .sample(|s| shared::sample(s, "Prod", &[-1, 0], true))
        .sample(|s| {
            let x = s.input(Tensor::from([[2.0f64, 0.0, 3.0], [0.0, 4.0, 0.0]]))?;
            let axis = s.constant(1i32)?;
            s.op("Prod").input(&x).input(&axis).finish()
        })
}

/// The root of the sum of squares of floats.
fn norm_float<F: Fold>(
    device: &dyn Device,
    x: &Tensor,
    plan: &Plan,
    square: fn(F::T) -> F::T,
    root: fn(F::T) -> F::T,
) -> Result<Tensor> {
    let squares = map::<F::T, F::T>(device, x, square)?;
    map::<F::T, F::T>(device, &direct::<F>(device, &squares, plan)?, root)
}

/// As TensorFlow: the sum of squares wraps in the type of the elements, the root is rounded down.
fn norm_int<T: Narrow<Wide = i64>>(device: &dyn Device, x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let squares = map::<T, i64>(device, x, |x| x.widen().wrapping_mul(x.widen()))?;
    let sum = direct::<Sum<i64>>(device, &squares, plan)?;
    map::<i64, T>(device, &sum, |s| T::narrow((T::narrow(s).widen() as f64).sqrt() as i64))
}

fn norm_half<T: Narrow<Wide = f32>>(device: &dyn Device, x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let squares = map::<T, f32>(device, x, |x| x.widen() * x.widen())?;
    let sum = direct::<Sum<f32>>(device, &squares, plan)?;
    map::<f32, T>(device, &sum, |s| T::narrow(s.sqrt()))
}

fn norm_kernel(dtype: DType) -> Reduce {
    match dtype {
        DType::F32 => |d, x, p| norm_float::<Sum<f32>>(d, x, p, |x| x * x, f32::sqrt),
        DType::F64 => |d, x, p| norm_float::<Sum<f64>>(d, x, p, |x| x * x, f64::sqrt),
        DType::I64 => |d, x, p| norm_float::<Sum<i64>>(d, x, p, |x| x.wrapping_mul(x), |s| (s as f64).sqrt() as i64),
        DType::C64 => |d, x, p| {
            let squares = map::<Complex<f32>, f32>(d, x, |x| x.norm_sqr())?;
            let sum = direct::<Sum<f32>>(d, &squares, p)?;
            map::<f32, Complex<f32>>(d, &sum, |s| s.sqrt().into())
        },
        DType::C128 => |d, x, p| {
            let squares = map::<Complex<f64>, f64>(d, x, |x| x.norm_sqr())?;
            let sum = direct::<Sum<f64>>(d, &squares, p)?;
            map::<f64, Complex<f64>>(d, &sum, |s| s.sqrt().into())
        },
        DType::F16 => norm_half::<f16>,
        DType::BF16 => norm_half::<bf16>,
        DType::I8 => norm_int::<i8>,
        DType::I16 => norm_int::<i16>,
        DType::I32 => norm_int::<i32>,
        DType::U8 => norm_int::<u8>,
        DType::U16 => norm_int::<u16>,
        DType::U32 => norm_int::<u32>,
        _ => |d, x, p| {
            let squares = map::<u64, u64>(d, x, |x| x.wrapping_mul(x))?;
            let sum = as_signed::<Sum<i64>>(d, &squares, p)?;
            map::<u64, u64>(d, &sum, |s| (s as f64).sqrt() as u64)
        },
    }
}

fn norm_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let kept = KeptShape::of(cx)?;
    let y = kept.apply(&cx.output(0)?)?;
    let dy = kept.apply(&cx.dense(grads, 0)?)?;
    let dx = cx.input(0)?.divided_by(&y.divided_by(&dy)?)?;
    Ok(vec![Some(dx.into()), None])
}

fn euclidean_norm() -> OpDef {
    shared::definition("EuclideanNorm", NUMBERS)
        .doc("The square root of the sum of squares over some dimensions.")
        .gradient(norm_grad)
        .cpu(|init| shared::kernel(init, false, norm_kernel(init.input_types[0])))
        .sample(|s| shared::sample(s, "EuclideanNorm", &[1], false))
        .sample(|s| shared::sample(s, "EuclideanNorm", &[-1, 0], true))
}

register_ops!(sum, mean, prod, euclidean_norm);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};
    use half::f16;

    fn reduce(op: &str, x: impl Into<Tensor>, axes: impl Into<Tensor>) -> Tensor {
        let g = Graph::new();
        let axes = g.constant(axes).unwrap();
        eval(&g.constant(x).unwrap().reduce_by(op, &axes, false).unwrap())
    }

    #[test]
    fn sums_follow_the_axes() {
        let g = Graph::new();
        let x = g.constant([[1f32, 2., 3.], [4., 5., 6.]]).unwrap();
        assert_eq!(eval(&x.sum(&[0], false).unwrap()), Tensor::from([5f32, 7., 9.]));
        assert_eq!(eval(&x.sum(&[-1], true).unwrap()), Tensor::from([[6f32], [15.]]));
        assert_eq!(eval(&x.sum(&[], false).unwrap()), Tensor::from(21f32));
        let none = g.constant(Tensor::vector::<i64>(&[])).unwrap();
        let same = x.reduce_by("Sum", &none, false).unwrap();
        assert_eq!(same.shape(), PartialShape::from([2, 3]));
        assert_eq!(eval(&same), eval(&x));
        assert_eq!(reduce("Sum", 3f32, Tensor::vector::<i32>(&[])), Tensor::from(3f32));
    }

    #[test]
    fn axes_are_checked() {
        let g = Graph::new();
        let p = g.placeholder("axes", DType::I32, PartialShape::UNKNOWN).unwrap();
        let x = g.constant([[1f32, 2.], [3., 4.]]).unwrap();
        let y = x.reduce_by("Sum", &p, false).unwrap();
        let run = |axes: Tensor| {
            crate::testing::Interpreter::default().run(std::slice::from_ref(&y), &[], &[(p.clone(), axes)])
        };
        for bad in [&[2][..], &[-3], &[1, -1], &[0, 0]] {
            let e = run(Tensor::vector::<i32>(bad)).unwrap_err();
            assert_eq!(e.code(), Code::InvalidArgument, "{bad:?}");
        }
        assert_eq!(run(Tensor::vector(&[1i32, -2])).unwrap()[0], Tensor::from(10f32));
        assert!(x.sum(&[2], false).is_err());
        let dup = g.constant([0i32, 0]).unwrap();
        assert!(
            fails(&x.reduce_by("Sum", &dup, false).unwrap())
                .message()
                .contains("duplicate")
        );
    }

    #[test]
    fn integers_wrap_and_means_are_cut() {
        assert_eq!(reduce("Sum", [100i8, 100, 100], 0i32), Tensor::from(44i8));
        assert_eq!(reduce("Mean", [100i8, 100, 100], 0i32), Tensor::from(100i8));
        assert_eq!(reduce("Mean", [-3i32, -4], 0i32), Tensor::from(-3i32));
        assert_eq!(reduce("Mean", [i32::MAX, i32::MAX], 0i32), Tensor::from(i32::MAX));
        assert_eq!(reduce("Sum", [u64::MAX, 3], 0i32), Tensor::from(2u64));
        assert_eq!(reduce("Prod", [100u8, 100, 57], 0i32), Tensor::from(144u8));
        assert_eq!(reduce("EuclideanNorm", [3i32, 4, 5], 0i32), Tensor::from(7i32));
        assert_eq!(reduce("EuclideanNorm", [100u8, 100, 57], 0i32), Tensor::from(14u8));
        assert_eq!(reduce("EuclideanNorm", [100i8, 100, 57], 0i32), Tensor::from(0i8));
    }

    #[test]
    fn halves_are_summed_in_singles() {
        let ones = Tensor::full([5000, 2], f16::ONE).unwrap();
        assert_eq!(reduce("Sum", &ones, 0i32), Tensor::from([f16::from_f32(5000.0); 2]));
        assert_eq!(reduce("Mean", &ones, 0i32), Tensor::from([f16::ONE; 2]));
    }

    #[test]
    fn nothing_sums_to_zero_and_has_no_mean() {
        let none = |d: DType| Tensor::zeros(d, [0, 2]).unwrap();
        assert_eq!(reduce("Sum", none(DType::F32), 0i32), Tensor::from([0f32; 2]));
        assert_eq!(reduce("Prod", none(DType::I32), 0i32), Tensor::from([1i32; 2]));
        assert_eq!(reduce("Mean", none(DType::I32), 0i32), Tensor::from([0i32; 2]));
        assert!(reduce("Mean", none(DType::F64), 0i32).to_vec::<f64>().unwrap()[1].is_nan());
        assert_eq!(reduce("Sum", none(DType::F32), 1i32).shape().dims(), [0]);
    }
}
