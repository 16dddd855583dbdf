//! `ExtractImagePatches`, `ExtractVolumePatches`: the windows of a convolution as rows of channels.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, register_ops};

use crate::moves::{self, Axis, Copies, Fill, Run, products};

/// The windows: for every spatial dimension how many positions they have, how far apart windows are, and how far
/// apart the positions of one window.
#[derive(Debug, Clone)]
struct Windows {
    sizes: Vec<usize>,
    strides: Vec<usize>,
    rates: Vec<usize>,
    same: bool,
}

/// A dimension's number of windows, and what is padded before it.
struct Fit {
    windows: usize,
    before: usize,
}

impl Windows {
    fn of(attrs: &Attrs, rank: usize, rated: bool) -> Result<Windows> {
        let list = |name: &str| {
            let all = attrs.ints(name)?;
            let wrong = || {
                Error::invalid(format!(
                    "{name} must be [1, positive …, 1] of length {rank}, got {all:?}"
                ))
            };
            if all.len() != rank || all[0] != 1 || all[rank - 1] != 1 {
                return Err(wrong());
            }
            let positive = |x: &i64| u32::try_from(*x).ok().filter(|x| *x > 0).map(|x| x as usize);
            all[1..rank - 1]
                .iter()
                .map(positive)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(wrong)
        };
        Ok(Windows {
            sizes: list("ksizes")?,
            strides: list("strides")?,
            rates: if rated { list("rates")? } else { vec![1; rank - 2] },
            same: attrs.str("padding")? == "SAME",
        })
    }

    fn fit(&self, i: usize, n: usize) -> Fit {
        // The reach of a window, its positions and the gaps between them.
        let reach = (self.sizes[i] - 1).saturating_mul(self.rates[i]).saturating_add(1);
        let stride = self.strides[i];
        if self.same {
            let windows = n.div_ceil(stride);
            let needed = windows.saturating_sub(1).saturating_mul(stride).saturating_add(reach);
            let before = needed.saturating_sub(n) / 2;
            Fit { windows, before }
        } else {
            let windows = if n < reach { 0 } else { (n - reach) / stride + 1 };
            Fit { windows, before: 0 }
        }
    }

    fn shape(&self, x: &[Option<usize>]) -> Result<PartialShape> {
        let s = self.sizes.len();
        if x.len() != s + 2 {
            return Err(Error::invalid(format!(
                "the input must have rank {}, not {}",
                s + 2,
                x.len()
            )));
        }
        let mut out = x.to_vec();
        for i in 0..s {
            out[i + 1] = x[i + 1].map(|n| self.fit(i, n).windows);
        }
        let all = self
            .sizes
            .iter()
            .try_fold(x[s + 1].unwrap_or(1), |n, k| n.checked_mul(*k));
        let all = all.ok_or_else(|| Error::invalid("the windows have too many elements"))?;
        out[s + 1] = x[s + 1].map(|_| all);
        Ok(PartialShape::new(out))
    }
}

fn kernel(init: &KernelInit<'_>, rank: usize, rated: bool) -> Result<Box<dyn actorflow_core::kernel::Kernel>> {
    let w = Windows::of(init.attrs, rank, rated)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let dims = x.shape();
        let known: Vec<_> = dims.iter().map(|d| Some(*d)).collect();
        let shape = w
            .shape(&known)?
            .to_shape()
            .ok_or_else(|| Error::internal("unknown shape"))?;
        shape.checked_count()?;
        let positions = w.sizes.iter().try_fold(1usize, |n, k| n.checked_mul(*k));
        if positions.is_none_or(|n| n > moves::MOST) {
            return Err(Error::exhausted(format!(
                "windows of {:?} positions are too large",
                w.sizes
            )));
        }
        let (xs, ys) = (dims.strides(), shape.strides());
        let plain = |d: usize, n: usize| Run {
            from: 0,
            to: 0,
            axis: Axis {
                n,
                src: xs[d] as isize,
                dst: ys[d] as isize,
            },
        };
        let s = w.sizes.len();
        let mut per = vec![vec![plain(0, dims[0])]];
        // Elements of the output's last dimension from one position of a window to the next.
        let mut step = shape[s + 1];
        for i in 0..s {
            let (d, stride, rate) = (i + 1, w.strides[i], w.rates[i]);
            step /= w.sizes[i];
            let Fit { windows, before } = w.fit(i, dims[d]);
            let run = |k: usize| {
                // Window o reads position o·stride + k·rate - before, where that exists.
                let at = k.saturating_mul(rate);
                let first = before.saturating_sub(at).div_ceil(stride);
                let last = (dims[d] + before).saturating_sub(at).div_ceil(stride).min(windows);
                Run {
                    from: first
                        .saturating_mul(stride)
                        .saturating_add(at)
                        .saturating_sub(before)
                        .min(dims[d])
                        * xs[d],
                    to: first.min(windows) * ys[d] + k * step,
                    axis: Axis {
                        n: last.saturating_sub(first),
                        src: stride.saturating_mul(xs[d]) as isize,
                        dst: ys[d] as isize,
                    },
                }
            };
            per.push((0..w.sizes[i]).map(run).filter(|r| r.axis.n > 0).collect());
        }
        per.push(vec![plain(s + 1, dims[s + 1])]);
        let copies = if shape.count() == 0 || dims.count() == 0 {
            Vec::new()
        } else {
            products(&per)
        };
        let t = moves::build(cx, x.dtype(), shape, Fill::Zero, &[x], &Copies(&copies))?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn infer(cx: &ShapeContext<'_>, rank: usize, rated: bool) -> Result<Vec<PartialShape>> {
    let w = Windows::of(cx.attrs(), rank, rated)?;
    let x = cx.input(0).with_rank(rank)?;
    Ok(vec![w.shape(x.dims().unwrap_or(&[]))?])
}

/// The gradient: the patches of the positions' numbers say which position of the image each element of a patch came
/// from; the elements are summed by them. Padding has number -1, which sums leave out.
fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, x, dy) = (cx.graph(), cx.input(0)?, cx.dense(dys, 0)?);
    let rank = x.shape().rank().unwrap_or(4);
    let wide = DType::I64;
    let shape = super::support::shape_of(&x, wide)?;
    let part = |from: usize, to: usize| {
        let (b, len) = (g.constant([from as i64])?, g.constant([(to - from) as i64])?);
        g.op("Slice").input(&shape).input(&b).input(&len).output()
    };
    let (batch, space, channels) = (part(0, 1)?, part(1, rank - 1)?, part(rank - 1, rank)?);
    let one = g.constant([1i64])?;
    let positions = space.reduce_by("Prod", &g.constant([0i32])?, false)?;
    let first = g.constant(1i64)?;
    let numbers = g
        .op("Range")
        .input(&first)
        .input(&positions.plus(&first)?)
        .input(&first)
        .output()?;
    let numbers = numbers.reshape_to(&g.concat(&[one.clone(), space.clone(), one.clone()], 0)?)?;
    let sources = g
        .op(cx.node().op_name())
        .input(&numbers)
        .attrs(&windows_only(cx.attrs()))
        .output()?;
    let sources = sources.reshape(&[-1])?.minus(&first)?;
    // [batch, windows·positions, channels] with the middle in front.
    let middle = super::support::shape_of(&sources, wide)?;
    let rows = dy
        .reshape_to(&g.concat(&[batch.clone(), middle, channels.clone()], 0)?)?
        .transpose(&[1, 0, 2])?;
    let sum = g
        .op("UnsortedSegmentSum")
        .input(&rows)
        .input(&sources)
        .input(&positions)
        .output()?;
    let dx = sum.transpose(&[1, 0, 2])?.reshape_to(&shape)?;
    Ok(vec![Some(dx.into())])
}

fn windows_only(attrs: &Attrs) -> Attrs {
    attrs
        .iter()
        .filter(|(k, _)| *k != "T")
        .map(|(k, v)| (k, v.clone()))
        .collect()
}

fn image() -> OpDef {
    OpDef::new("ExtractImagePatches", Category::Image)
        .doc("Every window of an image as one row of channels; positions outside of the image are zero.")
        .input("images: T")
        .output("patches: T")
        .attr("ksizes: list(int) >= 4")
        .attr("strides: list(int) >= 4")
        .attr("rates: list(int) >= 4")
        .attr(
            "T: {bfloat16, half, float, double, int8, int16, int32, int64, uint8, uint16, uint32, uint64, complex64, \
             complex128, bool}",
        )
        .attr("padding: {'SAME', 'VALID'}")
        .shape(|cx| infer(cx, 4, true))
        .gradient(gradient)
        .cpu(|init| kernel(init, 4, true))
        .sample(|s| {
            let x = s.normal([2, 4, 5, 2])?;
            s.op("ExtractImagePatches")
                .input(&x)
                .attr("ksizes", vec![1i64, 2, 3, 1])
                .attr("strides", vec![1i64, 2, 1, 1])
                .attr("rates", vec![1i64, 2, 1, 1])
                .attr("padding", "SAME")
                .finish()
        })
}

fn volume() -> OpDef {
    OpDef::new("ExtractVolumePatches", Category::Image)
        .doc("Every window of a volume as one row of channels; positions outside of the volume are zero.")
        .input("input: T")
        .output("patches: T")
        .attr("ksizes: list(int) >= 5")
        .attr("strides: list(int) >= 5")
        .attr("T: realnumbertype")
        .attr("padding: {'SAME', 'VALID'}")
        .shape(|cx| infer(cx, 5, false))
        .gradient(gradient)
        .cpu(|init| kernel(init, 5, false))
        .sample(|s| {
            let x = s.normal([1, 2, 3, 2, 2])?;
            s.op("ExtractVolumePatches")
                .input(&x)
                .attr("ksizes", vec![1i64, 2, 2, 1, 1])
                .attr("strides", vec![1i64, 1, 1, 2, 1])
                .attr("padding", "VALID")
                .finish()
        })
}

register_ops!(image, volume);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, PartialShape, Tensor};

    #[test]
    fn windows_of_an_image() {
        let g = Graph::new();
        let v: Vec<i32> = (1..=9).collect();
        let x = g.constant(Tensor::from_slice([1, 3, 3, 1], &v).unwrap()).unwrap();
        let patches = |k: i64, stride: i64, rate: i64, padding: &str| {
            g.op("ExtractImagePatches")
                .input(&x)
                .attr("ksizes", vec![1, k, k, 1])
                .attr("strides", vec![1, stride, stride, 1])
                .attr("rates", vec![1, rate, rate, 1])
                .attr("padding", padding)
                .output()
                .unwrap()
        };
        let p = patches(2, 1, 1, "VALID");
        assert_eq!(p.shape(), PartialShape::from([1, 2, 2, 4]));
        assert_eq!(
            eval(&p).to_vec::<i32>().unwrap(),
            [1, 2, 4, 5, 2, 3, 5, 6, 4, 5, 7, 8, 5, 6, 8, 9]
        );
        let p = eval(&patches(2, 2, 1, "SAME")).to_vec::<i32>().unwrap();
        assert_eq!(p, [1, 2, 4, 5, 3, 0, 6, 0, 7, 8, 0, 0, 9, 0, 0, 0]);
        assert_eq!(eval(&patches(2, 1, 2, "VALID")).to_vec::<i32>().unwrap(), [1, 3, 7, 9]);
        assert_eq!(eval(&patches(4, 1, 1, "VALID")).len(), 0);
    }
}
