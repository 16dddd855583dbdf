//! What the definitions and gradients of all reductions share.
#![forbid(unsafe_code)]

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::GradContext;
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{Operation, Output, PartialShape, Tensor};
use half::{bf16, f16};

use crate::reduction::{Fold, Plan, fold};

/// The definition of a reduction of tensors of type `T`, without gradient and kernel.
pub(super) fn definition(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("input: T")
        .input("reduction_indices: Tidx")
        .output("output: T")
        .attr("keep_dims: bool = false")
        .attr(types)
        .attr("Tidx: {int32, int64} = DT_INT32")
        .shape(reduced)
}

/// TensorFlow's `ReductionShape`.
pub(super) fn reduced(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let keep = cx.attrs().bool("keep_dims")?;
    let input = cx.input(0);
    let Some(dims) = input.dims() else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let Some(axes) = cx.constant_i64s(1) else {
        return Ok(vec![match keep {
            true => PartialShape::of_rank(dims.len()),
            false => PartialShape::UNKNOWN,
        }]);
    };
    let mut gone = vec![false; dims.len()];
    for a in axes {
        gone[resolve_axis(a, dims.len())?] = true;
    }
    let kept = dims.iter().zip(gone).filter_map(|(d, gone)| match (gone, keep) {
        (true, true) => Some(Some(1)),
        (true, false) => None,
        (false, _) => Some(*d),
    });
    Ok(vec![PartialShape::new(kept.collect::<Vec<_>>())])
}

/// Reduces a tensor with at least two elements to each of the result's.
pub(crate) type Reduce = fn(&dyn Device, &Tensor, &Plan) -> Result<Tensor>;

/// The kernel of a reduction: reads the axes, and passes the input through where there is nothing to fold.
struct Reducing {
    keep: bool,
    /// Whether one element reduces to itself.
    passes_one: bool,
    run: Reduce,
}

impl Kernel for Reducing {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let plan = Plan::new(cx.input(0)?.shape(), cx.input(1)?, self.keep)?;
        let out = if self.passes_one && plan.count() == 1 {
            cx.take_input(0)?.reshape(plan.output().clone())?
        } else {
            (self.run)(&*cx.step().device, cx.input(0)?, &plan)?
        };
        cx.set_output(0, out);
        Ok(())
    }
}

/// A kernel that reduces by `run`.
pub(super) fn kernel(init: &KernelInit<'_>, passes_one: bool, run: Reduce) -> Result<Box<dyn Kernel>> {
    let keep = init.attrs.bool("keep_dims")?;
    Ok(Box::new(Reducing { keep, passes_one, run }))
}

/// The elements of a tensor just made.
pub(super) fn elements<T: Element>(t: &mut Tensor) -> Result<&mut [T]> {
    t.as_mut_slice::<T>()
        .ok_or_else(|| Error::internal("a new tensor must be writable"))
}

/// Folds a tensor of the fold's own element type.
pub(super) fn direct<F: Fold>(device: &dyn Device, x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let mut out = Tensor::alloc_in(device.pool(), F::T::DTYPE, plan.output().clone())?;
    fold::<F>(device, x.as_slice::<F::T>()?, plan, elements(&mut out)?)?;
    Ok(out)
}

/// An element type that is folded in a wider one, so that there are fewer loops and better results.
pub(super) trait Narrow: Element {
    /// The type it is folded in.
    type Wide: Element;
    /// The same value.
    fn widen(self) -> Self::Wide;
    /// The nearest value; integers wrap.
    fn narrow(x: Self::Wide) -> Self;
    /// The nearest value; integers stop at their bounds.
    fn clamped(x: Self::Wide) -> Self;
}

macro_rules! narrow {
    ($($t:ty => $w:ty, |$x:ident| $widen:expr, $narrow:expr, $clamped:expr;)*) => {
        $(impl Narrow for $t {
            type Wide = $w;
            #[inline]
            fn widen(self) -> $w {
                let $x = self;
                $widen
            }
            #[inline]
            fn narrow($x: $w) -> $t {
                $narrow
            }
            #[inline]
            fn clamped($x: $w) -> $t {
                $clamped
            }
        })*
    };
}

narrow! {
    f16 => f32, |x| x.to_f32(), f16::from_f32(x), f16::from_f32(x);
    bf16 => f32, |x| x.to_f32(), bf16::from_f32(x), bf16::from_f32(x);
    i8 => i64, |x| i64::from(x), x as i8, x.clamp(i8::MIN.into(), i8::MAX.into()) as i8;
    i16 => i64, |x| i64::from(x), x as i16, x.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
    i32 => i64, |x| i64::from(x), x as i32, x.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
    u8 => i64, |x| i64::from(x), x as u8, x.clamp(u8::MIN.into(), u8::MAX.into()) as u8;
    u16 => i64, |x| i64::from(x), x as u16, x.clamp(u16::MIN.into(), u16::MAX.into()) as u16;
    u32 => i64, |x| i64::from(x), x as u32, x.clamp(u32::MIN.into(), u32::MAX.into()) as u32;
}

/// A tensor of the same shape, element by element.
pub(super) fn map<A: Element, B: Element>(device: &dyn Device, x: &Tensor, f: impl Fn(A) -> B) -> Result<Tensor> {
    let mut out = Tensor::alloc_in(device.pool(), B::DTYPE, x.shape().clone())?;
    for (o, a) in elements::<B>(&mut out)?.iter_mut().zip(x.as_slice::<A>()?) {
        *o = f(*a);
    }
    Ok(out)
}

/// Folds a tensor in a wider type; integers wrap at the end.
pub(super) fn widened<F: Fold, T: Narrow<Wide = F::T>>(device: &dyn Device, x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let wide = map::<T, F::T>(device, x, T::widen)?;
    map::<F::T, T>(device, &direct::<F>(device, &wide, plan)?, T::narrow)
}

/// Folds a tensor in a wider type; integers stop at their bounds at the end.
pub(super) fn clamped<F: Fold, T: Narrow<Wide = F::T>>(device: &dyn Device, x: &Tensor, plan: &Plan) -> Result<Tensor> {
    let wide = map::<T, F::T>(device, x, T::widen)?;
    map::<F::T, T>(device, &direct::<F>(device, &wide, plan)?, T::clamped)
}

/// Folds unsigned 64-bit integers as signed ones, for operations that treat both alike.
pub(super) fn as_signed<F: Fold<T = i64>>(device: &dyn Device, x: &Tensor, plan: &Plan) -> Result<Tensor> {
    direct::<F>(device, &x.clone().bitcast(DType::I64)?, plan)?.bitcast(DType::U64)
}

/// The shape of a reduction's result if it had kept all dimensions.
pub(super) enum KeptShape {
    /// It has: nothing to reshape.
    Same,
    /// Known when the graph is built.
    Known(Vec<i64>),
    /// An integer vector.
    Computed(Output),
}

impl KeptShape {
    /// Of the reduction that is differentiated.
    pub(super) fn of(cx: &GradContext) -> Result<KeptShape> {
        if cx.attrs().bool("keep_dims")? {
            return Ok(KeptShape::Same);
        }
        let (x, axes) = (cx.input(0)?, cx.input(1)?);
        if let (Some(dims), Some(axes)) = (x.shape().dims(), axes.constant_value()) {
            let mut kept = dims.to_vec();
            for a in axes.to_i64_vec()? {
                kept[resolve_axis(a, dims.len())?] = Some(1);
            }
            let unknown = kept.iter().filter(|d| d.is_none()).count();
            if unknown <= 1 {
                return Ok(KeptShape::Known(
                    kept.iter().map(|d| d.map_or(-1, |d| d as i64)).collect(),
                ));
            }
        }
        // The input's shape with ones scattered over it, as TensorFlow's `reduced_shape`.
        let g = cx.graph();
        let shape = x.shape_op()?;
        let rank = x.rank_op()?;
        let axes = axes.cast(DType::I32)?.reshape(&[-1])?;
        let axes = axes.plus(&rank)?.modulo(&rank)?;
        let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
        let every = g.op("Range").input(&zero).input(&rank).input(&one).output()?;
        let stitched = g
            .op("DynamicStitch")
            .input_list(&[every, axes.clone()])
            .input_list(&[shape, axes.ones_like()?])
            .output()?;
        Ok(KeptShape::Computed(stitched))
    }

    /// `t`, of the reduction's output shape, reshaped to this.
    pub(super) fn apply(&self, t: &Output) -> Result<Output> {
        match self {
            KeptShape::Same => Ok(t.clone()),
            KeptShape::Known(dims) => t.reshape(dims),
            KeptShape::Computed(shape) => t.reshape_to(shape),
        }
    }
}

/// The shape of `x` as an integer vector, constant where it is known.
pub(super) fn shape_vector(x: &Output) -> Result<Output> {
    match x.shape().to_shape() {
        Some(s) if s.iter().all(|d| i32::try_from(*d).is_ok()) => {
            let dims: Vec<i32> = s.iter().map(|d| *d as i32).collect();
            x.graph().constant(Tensor::vector(&dims))
        }
        _ => x.shape_op(),
    }
}

/// Repeats `grad`, of the shape that keeps all dimensions, to the shape of `x`.
pub(super) fn spread_to(grad: &Output, x: &Output) -> Result<Output> {
    grad.graph()
        .op("BroadcastTo")
        .input(grad)
        .input(&shape_vector(x)?)
        .output()
}

/// A sample of the reduction `op` over `axes` of a [2, 3, 4] tensor.
pub(super) fn sample(s: &mut Sampler, op: &str, axes: &[i32], keep: bool) -> Result<Operation> {
    let x = s.normal([2, 3, 4])?;
    let axes = s.constant(Tensor::vector(axes))?;
    s.op(op).input(&x).input(&axes).attr("keep_dims", keep).finish()
}
