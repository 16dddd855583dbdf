//! `ResizeBilinear`, `ResizeNearestNeighbor`, `ResizeBicubic`, `ResizeArea` and their gradients.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::OpBuilder;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Attrs, DType, Operation, Output, PartialShape, register_ops};

use super::resample::{self, MakeTaps, centers, image, require_real, resized, resized_shape, size};
use super::taps::{Centers, Taps};
use crate::moves::{self, Fill, Item, Shuffle};

const PIXELS: &str = "T: {int8, uint8, int16, uint16, int32, int64, half, float, double, bfloat16}";

fn both_centers(def: OpDef) -> OpDef {
    def.attr("align_corners: bool = false")
        .attr("half_pixel_centers: bool = false")
}

fn kernel(init: &KernelInit<'_>, make: MakeTaps) -> Result<Box<dyn Kernel>> {
    let centers = centers(init.attrs);
    require_real(init, 0)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let out = resized(cx, centers.clone()?, make)?;
        cx.set_output(0, out);
        Ok(())
    }))
}

fn gradient_kernel(init: &KernelInit<'_>, make: MakeTaps) -> Result<Box<dyn Kernel>> {
    let (centers, dtype) = (centers(init.attrs), init.output_types[0]);
    require_real(init, 1)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let (centers, [_, h, w, _]) = (centers.clone()?, image(cx.input(1)?.shape())?);
        let out = resample::back(cx, |n, m| make(centers, n, m), [h, w], dtype)?;
        cx.set_output(0, out);
        Ok(())
    }))
}

fn with_centers(mut b: OpBuilder, attrs: &Attrs) -> OpBuilder {
    for name in ["align_corners", "half_pixel_centers"] {
        if let Some(a) = attrs.get(name) {
            b = b.attr(name, a.clone());
        }
    }
    b
}

fn to_original(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let b = cx.graph().op(op).input(&cx.dense(dys, 0)?).input(&cx.input(0)?);
    Ok(vec![Some(with_centers(b, cx.attrs()).output()?.into()), None])
}

fn sample(s: &mut Sampler, op: &str, size: [i32; 2], centers: &str) -> Result<Operation> {
    // The output is float32: small numbers have small rounding errors.
    let x = s.uniform([1, 2, 3, 1], -1e-4, 1e-4)?;
    let size = s.constant(size)?;
    let b = s.op(op).input(&x).input(&size);
    match centers {
        "" => b,
        name => b.attr(name, true),
    }
    .finish()
}

fn bilinear() -> OpDef {
    let def = OpDef::new("ResizeBilinear", Category::Image)
        .doc("Resizes images to height and width `size`, interpolating linearly between the nearest pixels.")
        .input("images: T")
        .input("size: int32")
        .output("resized_images: float")
        .attr(PIXELS);
    both_centers(def)
        .shape(resized_shape)
        .gradient(|cx, dys| to_original(cx, dys, "ResizeBilinearGrad"))
        .cpu(|init| kernel(init, Taps::linear))
        .sample(|s| sample(s, "ResizeBilinear", [5, 3], ""))
        .sample(|s| sample(s, "ResizeBilinear", [2, 7], "align_corners"))
        .sample(|s| sample(s, "ResizeBilinear", [5, 3], "half_pixel_centers"))
}

fn bilinear_grad() -> OpDef {
    let def = OpDef::new("ResizeBilinearGrad", Category::Image)
        .doc("The gradient of ResizeBilinear with respect to the images.")
        .input("grads: float")
        .input("original_image: T")
        .output("output: T")
        .attr("T: {float, bfloat16, half, double}");
    both_centers(def)
        .shape(|cx| Ok(vec![cx.input(1)]))
        .not_differentiable()
        .cpu(|init| gradient_kernel(init, Taps::linear))
}

fn bicubic() -> OpDef {
    let def = OpDef::new("ResizeBicubic", Category::Image)
        .doc("Resizes images to height and width `size` by cubic convolution (Keys 1981).")
        .input("images: T")
        .input("size: int32")
        .output("resized_images: float")
        .attr(PIXELS);
    both_centers(def)
        .shape(resized_shape)
        .gradient(|cx, dys| match cx.input(0)?.dtype() {
            DType::F32 | DType::F64 => to_original(cx, dys, "ResizeBicubicGrad"),
            _ => cx.none(),
        })
        .cpu(|init| kernel(init, Taps::cubic))
        .sample(|s| sample(s, "ResizeBicubic", [5, 3], ""))
        .sample(|s| sample(s, "ResizeBicubic", [2, 7], "align_corners"))
        .sample(|s| sample(s, "ResizeBicubic", [5, 3], "half_pixel_centers"))
}

fn bicubic_grad() -> OpDef {
    let def = OpDef::new("ResizeBicubicGrad", Category::Image)
        .doc("The gradient of ResizeBicubic with respect to the images.")
        .input("grads: float")
        .input("original_image: T")
        .output("output: T")
        .attr("T: {float, double}");
    both_centers(def)
        .shape(|cx| Ok(vec![cx.input(1)]))
        .cpu(|init| gradient_kernel(init, Taps::cubic))
}

fn area() -> OpDef {
    OpDef::new("ResizeArea", Category::Image)
        .doc("Resizes images to height and width `size`; every new pixel is the mean of the area that it covers.")
        .input("images: T")
        .input("size: int32")
        .output("resized_images: float")
        .attr(PIXELS)
        .attr("align_corners: bool = false")
        .shape(resized_shape)
        .cpu(|init| kernel(init, Taps::area))
}

/// Where every pixel of the output comes from.
struct Nearest {
    y: Taps,
    x: Taps,
    channels: usize,
}

impl Shuffle for Nearest {
    fn run<E: Item>(
        &self,
        sources: &[&[E]],
        out: &mut [E],
        par: &dyn actorflow_core::parallel::Parallel,
    ) -> Result<()> {
        let (from, to) = (self.x.inputs * self.channels, self.x.outputs() * self.channels);
        let image = sources.first().copied().unwrap_or(&[]);
        if out.is_empty() {
            return Ok(());
        }
        moves::par_rows(par, out, to, |at, out| {
            for (j, out) in out.chunks_mut(to).enumerate() {
                let line = at / to + j;
                let (n, o) = (line / self.y.outputs(), line % self.y.outputs());
                let line = &image[(n * self.y.inputs + self.y.of(o)[0].0) * from..];
                for (o, out) in out.chunks_mut(self.channels).enumerate() {
                    out.clone_from_slice(&line[self.x.of(o)[0].0 * self.channels..][..self.channels]);
                }
            }
        });
        Ok(())
    }
}

fn nearest() -> OpDef {
    let def = OpDef::new("ResizeNearestNeighbor", Category::Image)
        .doc("Resizes images to height and width `size`; every new pixel is the nearest old one.")
        .input("images: T")
        .input("size: int32")
        .output("resized_images: T")
        .attr(PIXELS);
    both_centers(def)
        .shape(resized_shape)
        .gradient(|cx, dys| {
            let b = cx.graph().op("ResizeNearestNeighborGrad").input(&cx.dense(dys, 0)?);
            let b = b.input(&height_and_width(&cx.input(0)?)?);
            Ok(vec![Some(with_centers(b, cx.attrs()).output()?.into()), None])
        })
        .cpu(|init| {
            let centers = centers(init.attrs);
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let centers: Centers = centers.clone()?;
                let x = cx.input(0)?;
                let ([n, h, w, channels], [oh, ow]) = (image(x.shape())?, size(cx, 1, "output dimensions")?);
                let how = Nearest {
                    y: Taps::nearest(centers, h, oh),
                    x: Taps::nearest(centers, w, ow),
                    channels,
                };
                let shape = [n, oh, ow, channels].into();
                let out = moves::build(cx, x.dtype(), shape, Fill::Any, &[x], &how)?;
                cx.set_output(0, out);
                Ok(())
            }))
        })
        .sample(|s| sample(s, "ResizeNearestNeighbor", [5, 3], ""))
        .sample(|s| sample(s, "ResizeNearestNeighbor", [2, 7], "align_corners"))
        .sample(|s| sample(s, "ResizeNearestNeighbor", [5, 3], "half_pixel_centers"))
}

/// Height and width of images as an int32 vector.
fn height_and_width(x: &Output) -> Result<Output> {
    let g = x.graph();
    if let (Some(h), Some(w)) = (x.shape().dim(1), x.shape().dim(2)) {
        return g.constant([h as i32, w as i32]);
    }
    let (from, n) = (g.constant([1i32])?, g.constant([2i32])?);
    g.op("Slice").input(&x.shape_op()?).input(&from).input(&n).output()
}

fn nearest_grad() -> OpDef {
    let def = OpDef::new("ResizeNearestNeighborGrad", Category::Image)
        .doc("The gradient of ResizeNearestNeighbor with respect to images of height and width `size`.")
        .input("grads: T")
        .input("size: int32")
        .output("output: T")
        .attr("T: {uint8, int8, int32, half, float, double, bfloat16}");
    both_centers(def)
        .shape(|cx| -> Result<Vec<PartialShape>> { resized_shape(cx) })
        .cpu(|init| {
            let (centers, dtype) = (centers(init.attrs), init.output_types[0]);
            require_real(init, 0)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let centers = centers.clone()?;
                let size = size(cx, 1, "the size of the images")?;
                let out = resample::back(cx, |n, m| Taps::nearest(centers, n, m), size, dtype)?;
                cx.set_output(0, out);
                Ok(())
            }))
        })
}

register_ops!(
    bilinear,
    bilinear_grad,
    bicubic,
    bicubic_grad,
    area,
    nearest,
    nearest_grad
);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, DType, Graph, Output, Tensor};

    fn resize(op: &str, x: Tensor, size: &[i32], centers: &[&str]) -> Output {
        let g = Graph::new();
        let (x, size) = (g.constant(x).unwrap(), g.constant(Tensor::vector(size)).unwrap());
        let mut b = g.op(op).input(&x).input(&size);
        for c in centers {
            b = b.attr(c, true);
        }
        b.output().unwrap()
    }

    fn line(x: &[f32]) -> Tensor {
        Tensor::from_slice([1, 1, x.len(), 1], x).unwrap()
    }

    #[test]
    fn lines_are_resized() {
        let run = |op, n, c: &[&str]| {
            eval(&resize(op, line(&[0., 4., 8., 12.]), &[1, n], c))
                .to_vec::<f32>()
                .unwrap()
        };
        assert_eq!(run("ResizeBilinear", 2, &[]), [0., 8.]);
        assert_eq!(run("ResizeBilinear", 2, &["half_pixel_centers"]), [2., 10.]);
        assert_eq!(
            run("ResizeBilinear", 7, &["align_corners"]),
            [0., 2., 4., 6., 8., 10., 12.]
        );
        assert_eq!(run("ResizeNearestNeighbor", 2, &["half_pixel_centers"]), [4., 12.]);
        assert_eq!(run("ResizeNearestNeighbor", 3, &["align_corners"]), [0., 8., 12.]);
        assert_eq!(run("ResizeArea", 2, &[]), [2., 10.]);
        assert_eq!(run("ResizeBicubic", 4, &[]), [0., 4., 8., 12.]);
    }

    #[test]
    fn bytes_are_resized_to_floats_or_bytes() {
        let x = || Tensor::from_slice([1, 2, 1, 2], &[0u8, 10, 200, 30]).unwrap();
        assert_eq!(eval(&resize("ResizeBilinear", x(), &[1, 1], &[])).dtype(), DType::F32);
        let y = eval(&resize("ResizeNearestNeighbor", x(), &[4, 1], &[]));
        assert_eq!(y.to_vec::<u8>().unwrap(), [0, 10, 0, 10, 200, 30, 200, 30]);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for op in ["ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"] {
            for size in [[0, 1], [1, -1]] {
                assert_eq!(
                    fails(&resize(op, line(&[1.]), &size, &[])).code(),
                    Code::InvalidArgument
                );
            }
            let none = Tensor::zeros(DType::F32, [1, 0, 2, 1]).unwrap();
            assert_eq!(fails(&resize(op, none, &[1, 1], &[])).code(), Code::InvalidArgument);
            let empty = Tensor::zeros(DType::F32, [0, 1, 2, 1]).unwrap();
            assert_eq!(eval(&resize(op, empty, &[3, 1], &[])).shape().dims(), [0, 3, 1, 1]);
        }
        let both = resize(
            "ResizeBilinear",
            line(&[1.]),
            &[1, 1],
            &["align_corners", "half_pixel_centers"],
        );
        assert_eq!(fails(&both).code(), Code::InvalidArgument);
    }
}
