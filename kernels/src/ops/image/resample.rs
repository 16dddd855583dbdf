//! Resampling images along both axes, and what all kernels that do so share.
#![forbid(unsafe_code)]

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Device, KernelInit, OpContext};
use actorflow_core::parallel::Parallel;
use actorflow_core::{Attrs, DType, PartialShape, Shape, Tensor, dispatch};
use half::{bf16, f16};

use super::taps::{Centers, Taps};
use crate::math::madd::Madd;
use crate::ops::nn::conv::number::{Number, room, writable};
use crate::spread;
use crate::wide::Work;

/// `out[i] += weight * x[i]`, or without `add` just the product.
struct Axpy<'a, T> {
    x: &'a [T],
    weight: T,
    add: bool,
    out: &'a mut [T],
}

impl<T: Number> Work for Axpy<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let pairs = self.out.iter_mut().zip(self.x);
        if self.add {
            pairs.for_each(|(o, x)| *o = x.madd::<M>(self.weight, *o));
        } else {
            pairs.for_each(|(o, x)| *o = *x * self.weight);
        }
    }
}

/// A number that images are resampled in.
pub(super) trait Real: Number {
    /// The nearest value.
    fn of(x: f32) -> Self;
}

impl Real for f32 {
    fn of(x: f32) -> f32 {
        x
    }
}

impl Real for f64 {
    fn of(x: f32) -> f64 {
        x.into()
    }
}

/// Resamples images `[batch, y.inputs, x.inputs, channels]` to `[batch, y.outputs, x.outputs, channels]`.
pub(super) fn resample<T: Real>(par: &dyn Parallel, image: &[T], channels: usize, y: &Taps, x: &Taps, out: &mut [T]) {
    let (from, to) = (x.inputs * channels, x.outputs() * channels);
    if out.is_empty() {
        return;
    }
    let per = spread::rows_of(from.max(to));
    spread::chunks(par, out, per * to, |i, out| {
        let mut line = vec![T::ZERO; from];
        for (j, out) in out.chunks_mut(to).enumerate() {
            let at = i * per + j;
            let image = &image[at / y.outputs() * y.inputs * from..];
            line.fill(T::ZERO);
            for (k, (l, w)) in y.of(at % y.outputs()).iter().enumerate() {
                T::run(Axpy {
                    x: &image[l * from..][..from],
                    weight: T::of(*w),
                    add: k > 0,
                    out: &mut line,
                });
            }
            for (o, out) in out.chunks_mut(channels).enumerate() {
                out.fill(T::ZERO);
                for (p, w) in x.of(o) {
                    let (pixel, w) = (&line[p * channels..][..channels], T::of(*w));
                    out.iter_mut().zip(pixel).for_each(|(o, p)| *o = o.plus(*p * w));
                }
            }
        }
    });
}

/// Conversion between the dtypes of images and the type that they are resampled in.
pub(super) trait Pixel: Element {
    /// The nearest f32.
    fn to_f32(self) -> f32;
    /// The nearest f64.
    fn to_f64(self) -> f64;
    /// The nearest value of this type; integers are cut off.
    fn of_f64(x: f64) -> Self;
}

macro_rules! pixels {
    ($($t:ty),*) => {
        $(impl Pixel for $t {
            fn to_f32(self) -> f32 {
                self as f32
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn of_f64(x: f64) -> $t {
                x as $t
            }
        })*
    };
}

pixels!(f32, f64, i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! halves {
    ($($t:ty),*) => {
        $(impl Pixel for $t {
            fn to_f32(self) -> f32 {
                self.to_f32()
            }
            fn to_f64(self) -> f64 {
                self.to_f64()
            }
            fn of_f64(x: f64) -> $t {
                <$t>::from_f64(x)
            }
        })*
    };
}

halves!(f16, bf16);

fn mapped<A: Element, B: Element>(device: &dyn Device, x: &Tensor, f: impl Fn(A) -> B) -> Result<Tensor> {
    let mut out = room::<B>(device, x.shape())?;
    for (o, a) in writable::<B>(&mut out)?.iter_mut().zip(x.as_slice::<A>()?) {
        *o = f(*a);
    }
    Ok(out)
}

/// The tensor as f32.
pub(super) fn as_f32(device: &dyn Device, x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F32 {
        return Ok(x.clone());
    }
    dispatch!(x.dtype(), T in reals => mapped(device, x, <T as Pixel>::to_f32), else Err(Error::internal("no image")))
}

/// The tensor as f64.
pub(super) fn as_f64(device: &dyn Device, x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F64 {
        return Ok(x.clone());
    }
    dispatch!(x.dtype(), T in reals => mapped(device, x, <T as Pixel>::to_f64), else Err(Error::internal("no image")))
}

/// A tensor of f32 or f64 in another dtype.
pub(super) fn into_dtype(device: &dyn Device, x: Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x);
    }
    let wide = as_f64(device, &x)?;
    dispatch!(dtype, T in reals => mapped(device, &wide, <T as Pixel>::of_f64), else Err(Error::internal("no image")))
}

/// The convention that `align_corners` and `half_pixel_centers` say.
///
/// # Errors
/// `INVALID_ARGUMENT` for both at once.
pub(super) fn centers(attrs: &Attrs) -> Result<Centers> {
    let half = attrs.get("half_pixel_centers").is_some() && attrs.bool("half_pixel_centers")?;
    match (attrs.bool("align_corners")?, half) {
        (true, true) => Err(Error::invalid(
            "if half_pixel_centers is True, align_corners must be False",
        )),
        (true, false) => Ok(Centers::Aligned),
        (false, true) => Ok(Centers::Half),
        (false, false) => Ok(Centers::Legacy),
    }
}

/// Two positive numbers from input `i`: height and width.
///
/// # Errors
/// `INVALID_ARGUMENT` for anything else.
pub(crate) fn size(cx: &OpContext<'_>, i: usize, what: &str) -> Result<[usize; 2]> {
    let t = cx.input(i)?;
    match t.to_i64_vec()?[..] {
        [h, w] if t.shape().rank() == 1 => match (usize::try_from(h), usize::try_from(w)) {
            (Ok(h), Ok(w)) if h > 0 && w > 0 => Ok([h, w]),
            _ => Err(Error::invalid(format!("{what} must be positive, got {h} and {w}"))),
        },
        _ => Err(Error::invalid(format!(
            "{what} must be a vector of height and width, got shape {}",
            t.shape()
        ))),
    }
}

/// The dimensions of images `[batch, height, width, channels]`, of which only the batch may be empty.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub(crate) fn image(shape: &Shape) -> Result<[usize; 4]> {
    let dims = <[usize; 4]>::try_from(shape.dims())
        .map_err(|_| Error::invalid(format!("input must be 4-dimensional, got {shape}")))?;
    if dims[1..].contains(&0) {
        return Err(Error::invalid(format!(
            "the images must not be empty, got shape {shape}"
        )));
    }
    Ok(dims)
}

/// What makes the taps of an axis: convention, inputs, outputs.
pub(super) type MakeTaps = fn(Centers, usize, usize) -> Taps;

/// The images of input 0, resampled in f32 to the size that input 1 holds.
pub(super) fn resized(cx: &OpContext<'_>, centers: Centers, make: MakeTaps) -> Result<Tensor> {
    let x = cx.input(0)?;
    let ([n, h, w, c], [oh, ow]) = (image(x.shape())?, size(cx, 1, "output dimensions")?);
    let device = &*cx.step().device;
    let mut out = room::<f32>(device, [n, oh, ow, c])?;
    if n > 0 {
        let x = as_f32(device, x)?;
        let (y, xs) = (make(centers, h, oh), make(centers, w, ow));
        resample(device.parallel(), x.as_slice::<f32>()?, c, &y, &xs, writable(&mut out)?);
    }
    Ok(out)
}

/// The gradient of [`resized`]: input 0 brought back to images of `height` and `width`, in `dtype`.
pub(super) fn back(
    cx: &OpContext<'_>,
    make: impl Fn(usize, usize) -> Taps,
    [h, w]: [usize; 2],
    dtype: DType,
) -> Result<Tensor> {
    let [_, oh, ow, _] = image(cx.input(0)?.shape())?;
    back_by(cx, &make(h, oh).turned(), &make(w, ow).turned(), dtype)
}

/// The images of input 0 resampled by taps, in `dtype`: exactly for integers, in double for double, else in f32.
pub(super) fn back_by(cx: &OpContext<'_>, y: &Taps, x: &Taps, dtype: DType) -> Result<Tensor> {
    let g = cx.input(0)?;
    let [n, _, _, c] = image(g.shape())?;
    let device = &*cx.step().device;
    let exact = dtype == DType::F64 || !dtype.is_float();
    let shape = [n, y.outputs(), x.outputs(), c];
    let mut out = cx.alloc(if exact { DType::F64 } else { DType::F32 }, shape)?;
    if exact {
        let g = as_f64(device, g)?;
        resample(device.parallel(), g.as_slice::<f64>()?, c, y, x, writable(&mut out)?);
    } else {
        let g = as_f32(device, g)?;
        resample(device.parallel(), g.as_slice::<f32>()?, c, y, x, writable(&mut out)?);
    }
    into_dtype(device, out, dtype)
}

/// Height and width that input `i` holds, as far as they are known when the graph is built.
pub(super) fn resized_size(cx: &ShapeContext<'_>, i: usize) -> [Option<usize>; 2] {
    let size = cx.constant_i64s(i);
    [0, 1].map(|k| size.as_ref().and_then(|s| usize::try_from(*s.get(k)?).ok()))
}

/// The shape of images resized to what input 1 holds.
pub(crate) fn resized_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let x = cx.input(0).with_rank(4)?;
    cx.input(1).with_rank(1)?;
    let [h, w] = resized_size(cx, 1);
    Ok(vec![PartialShape::from([x.dim(0), h, w, x.dim(3)])])
}

/// Fails where there is no kernel for images of this dtype.
pub(super) fn require_real(init: &KernelInit<'_>, i: usize) -> Result<()> {
    dispatch!(init.input_types[i], T in reals => { let _: Option<T> = None; Ok(()) }, else Err(init.no_kernel()))
}
