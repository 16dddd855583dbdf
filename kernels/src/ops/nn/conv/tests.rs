//! Convolutions against sums written out, over many extents, with one worker and several.

use std::sync::Arc;

use actorflow_core::kernel::Device;
use actorflow_core::parallel::{Parallel, Serial};
use actorflow_core::tensor::Pool;
use actorflow_core::{Attrs, Code, DType, Graph, PartialShape, Shape, Tensor};

use super::super::window::Slide;
use super::geometry::Geometry;
use super::{convolve, filter_grad};
use crate::gemm::Epilogue;
use crate::spread::tests::Scattered;
use crate::testing::{Interpreter, eval, fails};

/// A device with given workers.
pub(crate) struct Workers(Arc<Pool>, &'static dyn Parallel);

impl Workers {
    pub(crate) fn one() -> Self {
        Workers(Pool::new(usize::MAX, 1 << 20), &Serial)
    }
    pub(crate) fn several() -> Self {
        Workers(Pool::new(usize::MAX, 1 << 20), &Scattered)
    }
}

impl Device for Workers {
    fn name(&self) -> &str {
        "test"
    }
    fn parallel(&self) -> &dyn Parallel {
        self.1
    }
    fn pool(&self) -> &Arc<Pool> {
        &self.0
    }
}

fn numbers(n: usize, seed: usize) -> Vec<f64> {
    (0..n)
        .map(|i| ((i * 7919 + seed * 104_729) % 61) as f64 - 30.0)
        .collect()
}

/// Every term of the convolution: (input, filter, output) indices.
pub(super) fn terms(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    let [z, y, x] = g.axes;
    let (take, give) = (g.filter_channels, g.group_out());
    for n in 0..g.batch {
        for (oz, oy, ox) in product3([z.output, y.output, x.output]) {
            for (kz, ky, kx) in product3([z.window, y.window, x.window]) {
                let at = |a: &super::super::window::Axis, o: usize, k: usize| {
                    (o * a.stride + k * a.dilation)
                        .checked_sub(a.before)
                        .filter(|i| *i < a.input)
                };
                let (Some(iz), Some(iy), Some(ix)) = (at(&z, oz, kz), at(&y, oy, ky), at(&x, ox, kx)) else {
                    continue;
                };
                let i = ((n * z.input + iz) * y.input + iy) * x.input + ix;
                let k = (kz * y.window + ky) * x.window + kx;
                let o = ((n * z.output + oz) * y.output + oy) * x.output + ox;
                for group in 0..g.groups {
                    for c in 0..take {
                        for d in 0..give {
                            f(
                                i * g.in_channels + group * take + c,
                                (k * take + c) * g.out_channels + group * give + d,
                                o * g.out_channels + group * give + d,
                            );
                        }
                    }
                }
            }
        }
    }
}

fn product3([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// Attributes of a convolution over three axes.
fn slide(strides: [i64; 3], dilations: [i64; 3], padding: &str) -> Slide {
    let mut a = Attrs::new();
    let list = |x: [i64; 3]| vec![1, x[0], x[1], x[2], 1];
    a.set("strides", list(strides));
    a.set("dilations", list(dilations));
    a.set("padding", padding);
    Slide::of(&a, 3).unwrap()
}

fn check(x: [usize; 5], w: [usize; 5], strides: [i64; 3], dilations: [i64; 3], padding: &str) {
    let slide = slide(strides, dilations, padding);
    let g = Geometry::of(&slide, &Shape::new(&x), &Shape::new(&w)).unwrap();
    let out: Shape = g.output(&slide).into();
    let (x, w, y) = (
        numbers(x.iter().product(), 1),
        numbers(w.iter().product(), 2),
        numbers(out.count(), 3),
    );
    let (mut dx, mut dw, mut want) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; y.len()]);
    terms(&g, |i, k, o| {
        want[o] += x[i] * w[k];
        dx[i] += y[o] * w[k];
        dw[k] += y[o] * x[i];
    });
    for device in [Workers::one(), Workers::several()] {
        let mut got = vec![f64::NAN; want.len()];
        convolve::forward(&device, &g, &x, &w, Epilogue::NONE, &mut got).unwrap();
        assert_eq!(got, want, "output of {g:?}");
        let mut got = vec![f64::NAN; dx.len()];
        convolve::backward(&device, &g, &y, &w, &mut got).unwrap();
        assert_eq!(got, dx, "input's gradient of {g:?}");
        let mut got = vec![f64::NAN; dw.len()];
        filter_grad::filter_grad(&device, &g, &x, &y, &mut got).unwrap();
        assert_eq!(got, dw, "filter's gradient of {g:?}");
    }
}

#[test]
fn convolutions_are_the_sums_that_define_them() {
    check([2, 1, 6, 5, 3], [1, 3, 3, 3, 4], [1, 1, 1], [1, 1, 1], "SAME");
    check([2, 1, 7, 6, 2], [1, 2, 3, 2, 3], [1, 2, 3], [1, 1, 1], "VALID");
    check([2, 1, 7, 6, 2], [1, 2, 3, 2, 3], [1, 3, 2], [1, 1, 1], "SAME");
    check([1, 1, 9, 8, 2], [1, 3, 3, 2, 3], [1, 1, 1], [1, 2, 3], "SAME");
    check([1, 1, 9, 8, 2], [1, 3, 3, 2, 3], [1, 2, 2], [1, 3, 2], "SAME");
    check([2, 4, 3, 5, 2], [2, 3, 2, 2, 3], [2, 1, 2], [1, 1, 1], "SAME");
    check([3, 1, 4, 4, 6], [1, 1, 1, 6, 5], [1, 1, 1], [1, 1, 1], "VALID");
    check([3, 1, 4, 4, 6], [1, 1, 1, 6, 5], [1, 2, 2], [1, 1, 1], "VALID");
    check([2, 1, 5, 5, 6], [1, 3, 3, 2, 9], [1, 1, 1], [1, 1, 1], "SAME");
    check([1, 1, 2, 2, 2], [1, 5, 5, 2, 2], [1, 1, 1], [1, 1, 1], "SAME");
    check([1, 1, 5, 4, 1], [1, 1, 2, 1, 1], [1, 4, 3], [1, 1, 1], "VALID");
    check([0, 1, 5, 4, 1], [1, 2, 2, 1, 1], [1, 1, 1], [1, 1, 1], "VALID");
}

#[test]
fn broad_patches_are_multiplied_in_bands() {
    check([1, 1, 14, 9, 32], [1, 3, 3, 32, 8], [1, 1, 1], [1, 1, 1], "SAME");
    check([1, 1, 30, 16, 32], [1, 5, 3, 32, 4], [1, 2, 1], [1, 1, 1], "SAME");
    check([1, 1, 30, 16, 32], [1, 3, 3, 32, 4], [1, 1, 1], [1, 3, 2], "VALID");
    check([1, 3, 10, 8, 40], [3, 3, 2, 40, 4], [1, 1, 1], [1, 1, 1], "SAME");
    check([1, 1, 20, 16, 64], [1, 3, 3, 32, 4], [1, 3, 2], [1, 2, 1], "SAME");
}

#[test]
fn many_images_are_read_in_place() {
    check([17, 1, 6, 5, 3], [1, 3, 3, 3, 4], [1, 1, 1], [1, 1, 1], "SAME");
    check([16, 1, 7, 6, 2], [1, 2, 3, 2, 3], [1, 3, 2], [1, 1, 1], "SAME");
    check([30, 1, 7, 6, 2], [1, 2, 3, 2, 3], [1, 2, 3], [1, 1, 1], "VALID");
    check([18, 1, 9, 8, 2], [1, 3, 3, 2, 3], [1, 2, 2], [1, 3, 2], "SAME");
    check([16, 4, 3, 5, 2], [2, 3, 2, 2, 3], [2, 1, 2], [1, 1, 1], "SAME");
    check([101, 1, 5, 5, 6], [1, 3, 3, 2, 9], [1, 1, 1], [1, 1, 1], "SAME");
    check([16, 1, 2, 2, 2], [1, 5, 5, 2, 2], [1, 1, 1], [1, 1, 1], "SAME");
    check([16, 1, 5, 4, 1], [1, 1, 2, 1, 1], [1, 4, 3], [1, 1, 1], "VALID");
}

#[test]
fn filters_of_many_channels_get_their_gradient_tap_by_tap() {
    check([3, 1, 6, 5, 9], [1, 3, 3, 9, 4], [1, 1, 1], [1, 1, 1], "SAME");
    check([2, 1, 7, 6, 8], [1, 3, 2, 8, 3], [1, 3, 2], [1, 1, 1], "SAME");
    check([2, 1, 8, 6, 16], [1, 2, 2, 8, 6], [1, 2, 2], [1, 1, 1], "VALID");
    check([2, 1, 9, 8, 8], [1, 3, 3, 8, 3], [1, 2, 2], [1, 3, 2], "SAME");
    check([2, 4, 3, 5, 8], [2, 3, 2, 8, 3], [2, 1, 2], [1, 1, 1], "SAME");
    check([1, 1, 2, 2, 8], [1, 5, 5, 8, 2], [1, 1, 1], [1, 1, 1], "SAME");
}

#[test]
fn results_do_not_depend_on_the_workers() {
    independent_of_workers([4, 1, 33, 32, 24], [1, 3, 3, 24, 40]);
    independent_of_workers([19, 1, 9, 8, 5], [1, 3, 3, 5, 12]);
}

fn independent_of_workers(x: [usize; 5], w: [usize; 5]) {
    let slide = slide([1, 1, 1], [1, 1, 1], "SAME");
    let (x, w) = (Shape::new(&x), Shape::new(&w));
    let channels = w[4];
    let g = Geometry::of(&slide, &x, &w).unwrap();
    let real =
        |n: usize, seed: usize| -> Vec<f32> { numbers(n, seed).iter().map(|x| (*x as f32 + 0.3).sin()).collect() };
    let (x, w, y) = (real(x.count(), 1), real(w.count(), 2), real(g.pixels() * channels, 3));
    let run = |device: &Workers| {
        let mut all = [vec![0f32; y.len()], vec![0f32; x.len()], vec![0f32; w.len()]];
        convolve::forward(device, &g, &x, &w, Epilogue::NONE, &mut all[0]).unwrap();
        convolve::backward(device, &g, &y, &w, &mut all[1]).unwrap();
        filter_grad::filter_grad(device, &g, &x, &y, &mut all[2]).unwrap();
        all
    };
    assert_eq!(run(&Workers::one()), run(&Workers::several()));
}

#[test]
fn bias_and_relu_follow_the_last_product() {
    let g = Graph::new();
    let x = Tensor::from_slice(
        [1, 8, 8, 32],
        &numbers(2048, 4).iter().map(|x| *x as f32).collect::<Vec<_>>(),
    )
    .unwrap();
    let w = Tensor::from_slice(
        [3, 3, 32, 2],
        &numbers(576, 5).iter().map(|x| *x as f32).collect::<Vec<_>>(),
    )
    .unwrap();
    let (x, w, b) = (
        g.constant(x).unwrap(),
        g.constant(w).unwrap(),
        g.constant([1000f32, -1000.]).unwrap(),
    );
    let conv = |op: &str| {
        g.op(op)
            .input(&x)
            .input(&w)
            .attr("strides", [1i64, 1, 1, 1])
            .attr("padding", "SAME")
    };
    let plain = conv("Conv2D").output().unwrap().bias_add(&b).unwrap().relu().unwrap();
    let fused = g
        .op("_FusedConv2D")
        .name("fused")
        .input(&x)
        .input(&w)
        .input_list(&[b])
        .attr("T", DType::F32)
        .attr("num_args", 1i64)
        .attr("fused_ops", vec!["BiasAdd", "Relu"])
        .attr("strides", [1i64, 1, 1, 1])
        .attr("padding", "SAME")
        .output()
        .unwrap();
    assert_eq!(eval(&fused), eval(&plain));
}

#[test]
fn halves_and_integers_are_convolved() {
    let g = Graph::new();
    let x = g
        .constant(Tensor::from_slice([1, 2, 2, 1], &[1i32, 2, 3, 4]).unwrap())
        .unwrap();
    let w = g
        .constant(Tensor::from_slice([2, 1, 1, 1], &[10i32, 1]).unwrap())
        .unwrap();
    let conv = |x: &actorflow_core::Output, w: &actorflow_core::Output| {
        let b = g.op("Conv2D").input(x).input(w);
        eval(
            &b.attr("strides", [1i64, 1, 1, 1])
                .attr("padding", "VALID")
                .output()
                .unwrap(),
        )
    };
    assert_eq!(conv(&x, &w).to_vec::<i32>().unwrap(), [13, 24]);
    for d in [DType::F16, DType::BF16] {
        let y = conv(&x.cast(d).unwrap(), &w.cast(d).unwrap());
        assert_eq!(y.dtype(), d);
        let y = eval(&g.constant(y).unwrap().cast(DType::F32).unwrap());
        assert_eq!(y.to_vec::<f32>().unwrap(), [13., 24.]);
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let g = Graph::new();
    let build = |x: &[usize], w: &[usize], padding: &str| {
        let x = g.placeholder("x", DType::F32, Shape::new(x)).unwrap();
        let w = g.placeholder("w", DType::F32, Shape::new(w)).unwrap();
        g.op("Conv2D")
            .input(&x)
            .input(&w)
            .attr("strides", [1i64, 1, 1, 1])
            .attr("padding", padding)
            .output()
    };
    assert_eq!(
        build(&[1, 5, 5, 2], &[3, 2, 2, 7], "VALID").unwrap().shape(),
        PartialShape::from([1, 3, 4, 7])
    );
    assert!(build(&[1, 3, 3, 2], &[5, 5, 2, 4], "VALID").is_err());
    assert!(build(&[1, 3, 3, 4], &[3, 3, 3, 4], "VALID").is_err());
    assert!(build(&[3, 3, 4], &[3, 3, 3, 4], "VALID").is_err());

    let run = |x: &[usize], w: &[usize]| {
        let feed = |s: &[usize]| Tensor::zeros(DType::F32, Shape::new(s)).unwrap();
        let p = |n| g.placeholder(n, DType::F32, PartialShape::UNKNOWN).unwrap();
        let (a, b) = (p("a"), p("b"));
        let y = g
            .op("Conv2D")
            .input(&a)
            .input(&b)
            .attr("strides", [1i64, 1, 1, 1])
            .attr("padding", "VALID");
        let y = y.output().unwrap();
        Interpreter::default().run(&[y], &[], &[(a, feed(x)), (b, feed(w))])
    };
    assert_eq!(
        run(&[1, 3, 3, 2], &[4, 4, 2, 4]).unwrap()[0].shape().dims(),
        [1, 0, 0, 4]
    );
    for (x, w) in [
        ([1, 3, 3, 2], [5, 5, 2, 4]),
        ([1, 3, 3, 2], [3, 3, 3, 4]),
        ([1, 3, 3, 0], [3, 3, 0, 4]),
        ([1, 3, 3, 4], [3, 3, 2, 5]),
        ([1, 3, 3, 2], [0, 3, 2, 5]),
    ] {
        let e = run(&x, &w).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument, "{x:?} {w:?}");
    }
    let strided = g.op("Conv2D");
    let x = g.constant(Tensor::zeros(DType::F32, [1, 3, 3, 2]).unwrap()).unwrap();
    let w = g.constant(Tensor::zeros(DType::F32, [1, 1, 2, 2]).unwrap()).unwrap();
    let y = strided
        .input(&x)
        .input(&w)
        .attr("strides", [2i64, 1, 1, 1])
        .attr("padding", "SAME");
    assert_eq!(fails(&y.output().unwrap()).code(), Code::Unimplemented);
}

#[test]
fn a_gradient_of_another_shape_is_refused() {
    let g = Graph::new();
    let w = g.constant(Tensor::zeros(DType::F32, [3, 3, 2, 4]).unwrap()).unwrap();
    let back = |sizes: &[i32], dy: [usize; 4]| {
        let sizes = g.constant(Tensor::vector(sizes)).unwrap();
        let dy = g.constant(Tensor::zeros(DType::F32, dy).unwrap()).unwrap();
        let b = g.op("Conv2DBackpropInput").input(&sizes).input(&w).input(&dy);
        b.attr("strides", [1i64, 1, 1, 1]).attr("padding", "SAME").output()
    };
    let given = |sizes: &[i32], dy| back(sizes, dy).unwrap();
    assert_eq!(eval(&given(&[1, 3, 3, 2], [1, 3, 3, 4])).shape().dims(), [1, 3, 3, 2]);
    assert_eq!(eval(&given(&[3, 3], [1, 3, 3, 4])).shape().dims(), [1, 3, 3, 2]);
    let wrong = fails(&given(&[1, 3, 3, 2], [1, 2, 3, 4]));
    assert!(wrong.message().contains("doesn't match computed"));
    assert_eq!(
        back(&[1, 3, -3, 2], [1, 3, 3, 4]).unwrap_err().code(),
        Code::InvalidArgument
    );
}
