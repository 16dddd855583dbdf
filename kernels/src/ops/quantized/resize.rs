//! `QuantizedResizeBilinear`: images resized without leaving the integers.

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Element, Tensor, register_ops};

use super::range::{end, scalars, stored, with_range};
use crate::ops::image::resample::{image, resized_shape, size};
use crate::spread;

/// How the outputs along one axis are made of two neighbouring inputs.
struct Neighbours {
    /// The two inputs and the weight of the second.
    list: Vec<(usize, usize, f32)>,
}

#[derive(Clone, Copy)]
struct Centers {
    aligned: bool,
    half: bool,
}

impl Neighbours {
    fn of(centers: Centers, inputs: usize, outputs: usize) -> Neighbours {
        let scale = match centers.aligned && outputs > 1 {
            true => (inputs - 1) as f32 / (outputs - 1) as f32,
            false => inputs as f32 / outputs as f32,
        };
        let one = |o: usize| {
            let at = match centers.half {
                true => (o as f32 + 0.5) * scale - 0.5,
                false => o as f32 * scale,
            };
            let floor = at.floor();
            let upper = (at.ceil().max(0.0) as usize).min(inputs - 1);
            ((floor.max(0.0) as usize).min(upper), upper, at - floor)
        };
        Neighbours {
            list: (0..outputs).map(one).collect(),
        }
    }
}

/// A pixel that is interpolated: from four and two weights.
trait Pixel: Element {
    /// The weight as it is used.
    type Weight: Copy + Send + Sync;
    fn weight(w: f32) -> Self::Weight;
    fn mixed(corners: [Self; 4], x: Self::Weight, y: Self::Weight) -> Self;
}

macro_rules! fixed {
    ($($t:ident, $bits:literal;)*) => {
        $(impl Pixel for $t {
            /// With this many bits behind the point.
            type Weight = i64;
            fn weight(w: f32) -> i64 {
                (w * (1i64 << $bits) as f32) as i64
            }
            #[inline(always)]
            fn mixed([a, b, c, d]: [Self; 4], x: i64, y: i64) -> Self {
                const ONE: i64 = 1 << $bits;
                let line = |p: $t, q: $t| i64::from(p) * ONE + (i64::from(q) - i64::from(p)) * x;
                let (top, bottom) = (line(a, b), line(c, d));
                let out = top.wrapping_add(((bottom.wrapping_sub(top)) / ONE).wrapping_mul(y));
                (out.wrapping_add(ONE / 2) / ONE) as $t
            }
        })*
    };
}

fixed! {
    u8, 7;
    i32, 30;
}

impl Pixel for f32 {
    type Weight = f32;
    fn weight(w: f32) -> f32 {
        w
    }
    #[inline(always)]
    fn mixed([a, b, c, d]: [f32; 4], x: f32, y: f32) -> f32 {
        let (top, bottom) = (a + (b - a) * x, c + (d - c) * x);
        top + (bottom - top) * y
    }
}

fn run<T: Pixel>(cx: &mut OpContext<'_>, centers: Centers) -> Result<()> {
    let (min, max) = (end(cx, 2, "min")?, end(cx, 3, "max")?);
    let x = stored(cx, 0)?;
    let ([n, h, w, channels], [oh, ow]) = (image(x.shape())?, size(cx, 1, "output dimensions")?);
    let y = if (h, w) == (oh, ow) {
        x
    } else {
        let (ys, xs) = (Neighbours::of(centers, h, oh), Neighbours::of(centers, w, ow));
        let xs: Vec<_> = xs
            .list
            .iter()
            .map(|(a, b, w)| (a * channels, b * channels, T::weight(*w)))
            .collect();
        let from = x.as_slice::<T>()?;
        let mut t = cx.alloc(T::DTYPE, [n, oh, ow, channels])?;
        let out = t.as_mut_slice::<T>().unwrap_or(&mut []);
        let row = ow * channels;
        let per = spread::rows_of(row);
        spread::chunks(cx.parallel(), out, per * row, |i, out| {
            for (j, out) in out.chunks_mut(row).enumerate() {
                let line = i * per + j;
                let (upper, lower, weight) = ys.list[line % oh];
                let image = &from[line / oh * h * w * channels..];
                let (top, bottom) = (&image[upper * w * channels..], &image[lower * w * channels..]);
                let weight = T::weight(weight);
                for (out, (left, right, x)) in out.chunks_mut(channels).zip(&xs) {
                    for (c, o) in out.iter_mut().enumerate() {
                        let corners = [top[left + c], top[right + c], bottom[left + c], bottom[right + c]];
                        *o = T::mixed(corners, *x, weight);
                    }
                }
            }
        });
        t
    };
    let dtype = cx.input(0)?.dtype();
    cx.set_output(0, if y.dtype() == dtype { y } else { y.bitcast(dtype)? });
    cx.set_output(1, Tensor::scalar(min));
    cx.set_output(2, Tensor::scalar(max));
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let centers = Centers {
        aligned: init.attrs.bool("align_corners")?,
        half: init.attrs.bool("half_pixel_centers")?,
    };
    Ok(match init.input_types[0] {
        DType::QU8 => Box::new(move |cx: &mut OpContext<'_>| run::<u8>(cx, centers)),
        DType::QI32 => Box::new(move |cx: &mut OpContext<'_>| run::<i32>(cx, centers)),
        DType::F32 => Box::new(move |cx: &mut OpContext<'_>| run::<f32>(cx, centers)),
        _ => return Err(init.no_kernel()),
    })
}

fn quantized_resize_bilinear() -> OpDef {
    OpDef::new("QuantizedResizeBilinear", Category::Image)
        .doc("Resizes images of quantised numbers, interpolating linearly; their range stays as it is.")
        .input("images: T")
        .input("size: int32")
        .input("min: float")
        .input("max: float")
        .output("resized_images: T")
        .output("out_min: float")
        .output("out_max: float")
        .attr("T: {quint8, qint32, float}")
        .attr("align_corners: bool = false")
        .attr("half_pixel_centers: bool = false")
        .shape(|cx| {
            scalars(cx, &[2, 3])?;
            Ok(with_range(resized_shape(cx)?.swap_remove(0)))
        })
        .not_differentiable()
        .cpu(kernel)
}

register_ops!(quantized_resize_bilinear);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Output, Tensor};

    fn resized(image: Tensor, size: [i32; 2], aligned: bool) -> Output {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let b = g.op("QuantizedResizeBilinear").input(&c(image)).input(&c(size.into()));
        let b = b.input(&c(0f32.into())).input(&c(1f32.into()));
        b.attr("align_corners", aligned).finish().unwrap().output(0).unwrap()
    }

    #[test]
    fn pixels_between_are_interpolated() {
        let image = Tensor::from_slice([1, 1, 3, 1], &[0u8, 100, 200]).unwrap();
        let y = eval(&resized(image.bitcast(DType::QU8).unwrap(), [2, 5], true));
        let y = y.bitcast(DType::U8).unwrap();
        assert_eq!(y.to_vec::<u8>().unwrap(), [0, 50, 100, 150, 200, 0, 50, 100, 150, 200]);
        // The fraction that rounds is dropped towards zero.
        let image = Tensor::from_slice([1, 2, 1, 1], &[-1_000_000i32, 1_000_000]).unwrap();
        let y = eval(&resized(image.bitcast(DType::QI32).unwrap(), [4, 1], false));
        let y = y.bitcast(DType::I32).unwrap();
        assert_eq!(y.to_vec::<i32>().unwrap(), [-999_999, 0, 1_000_000, 1_000_000]);
        let image = Tensor::from_slice([1, 1, 2, 1], &[0f32, 1.0]).unwrap();
        assert_eq!(
            eval(&resized(image, [1, 4], false)).to_vec::<f32>().unwrap(),
            [0.0, 0.5, 1.0, 1.0]
        );
    }

    #[test]
    fn a_size_is_positive() {
        let image = Tensor::from_slice([1, 1, 2, 1], &[0f32, 1.0]).unwrap();
        assert!(fails(&resized(image, [0, 4], false)).message().contains("positive"));
    }
}
