//! `SpaceToDepth`, `DepthToSpace`: blocks of an image as further channels.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, PartialShape, Shape, register_ops};

use crate::moves::{self, Axis, Copies, Fill, StridedCopy};

/// Where an image tensor has its channels, and the block.
#[derive(Debug, Clone, Copy)]
struct Layout {
    channels_last: bool,
    block: usize,
}

impl Layout {
    fn of(attrs: &Attrs) -> Result<Layout> {
        let channels_last = match attrs.str("data_format")? {
            "NHWC" => true,
            "NCHW" => false,
            other => return Err(Error::unimplemented(format!("data_format {other} on the CPU"))),
        };
        let block = usize::try_from(attrs.int("block_size")?).unwrap_or(0);
        Ok(Layout { channels_last, block })
    }

    /// The places of height, width and channels.
    fn hwc(self) -> [usize; 3] {
        if self.channels_last { [1, 2, 3] } else { [2, 3, 1] }
    }

    fn shape(self, x: &[Option<usize>], to_depth: bool) -> Result<PartialShape> {
        if x.len() != 4 {
            return Err(Error::invalid(format!("the input must have rank 4, not {}", x.len())));
        }
        let b = self.block;
        let area = b.checked_mul(b);
        let [h, w, c] = self.hwc();
        let mut out = x.to_vec();
        let grown = |n: Option<usize>, by: Option<usize>| match (n, by) {
            (None, _) => Ok(None),
            (Some(n), Some(by)) if n.checked_mul(by).is_some() => Ok(Some(n * by)),
            _ => Err(Error::invalid("a dimension overflows")),
        };
        let shrunk = |n: Option<usize>, by: Option<usize>, what: &str| match (n, by) {
            (None, _) => Ok(None),
            (Some(n), Some(by)) if n % by == 0 => Ok(Some(n / by)),
            (Some(n), _) => Err(Error::invalid(format!("{what} {n} does not divide by block_size {b}"))),
        };
        if to_depth {
            out[h] = shrunk(x[h], Some(b), "the height")?;
            out[w] = shrunk(x[w], Some(b), "the width")?;
            out[c] = grown(x[c], area)?;
        } else {
            out[h] = grown(x[h], Some(b))?;
            out[w] = grown(x[w], Some(b))?;
            out[c] = shrunk(x[c], area, "the depth (by its square)")?;
        }
        Ok(PartialShape::new(out))
    }

    /// The one copy between the two forms, from or to the form with the deep channels.
    fn copy(self, space: &Shape, depth: &Shape, to_depth: bool) -> StridedCopy {
        let [h, w, c] = self.hwc();
        let (ss, ds) = (space.strides(), depth.strides());
        let b = self.block;
        let channels = space[c];
        let steps = [
            (space[0], ss[0], ds[0]),
            (depth[h], b * ss[h], ds[h]),
            (b, ss[h], b * channels * ds[c]),
            (depth[w], b * ss[w], ds[w]),
            (b, ss[w], channels * ds[c]),
            (channels, ss[c], ds[c]),
        ];
        let axes = steps.into_iter().map(|(n, space, depth)| {
            let (src, dst) = if to_depth { (space, depth) } else { (depth, space) };
            Axis {
                n,
                src: src as isize,
                dst: dst as isize,
            }
        });
        StridedCopy {
            source: 0,
            from: 0,
            to: 0,
            axes: axes.collect(),
        }
    }
}

fn kernel(init: &KernelInit<'_>, to_depth: bool) -> Result<Box<dyn actorflow_core::kernel::Kernel>> {
    let layout = Layout::of(init.attrs)?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let known: Vec<_> = x.shape().iter().map(|d| Some(*d)).collect();
        let shape = layout.shape(&known, to_depth)?.to_shape();
        let shape = shape.ok_or_else(|| Error::internal("unknown shape"))?;
        shape.checked_count()?;
        let (space, depth) = if to_depth {
            (x.shape(), &shape)
        } else {
            (&shape, x.shape())
        };
        let copy = layout.copy(space, depth, to_depth);
        let t = moves::build(cx, x.dtype(), shape, Fill::Any, &[x], &Copies(&[copy]))?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let dx = cx
        .graph()
        .op(op)
        .input(&cx.dense(dys, 0)?)
        .attr("block_size", cx.attrs().int("block_size")?)
        .attr("data_format", cx.attrs().str("data_format")?)
        .output()?;
    Ok(vec![Some(dx.into())])
}

fn common(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .input("input: T")
        .output("output: T")
        .attr("T: type")
        .attr("block_size: int >= 2")
        .attr("data_format: {'NHWC', 'NCHW', 'NCHW_VECT_C'} = 'NHWC'")
}

fn infer(cx: &actorflow_core::graph::ShapeContext<'_>, to_depth: bool) -> Result<Vec<PartialShape>> {
    Ok(vec![match (Layout::of(cx.attrs()), cx.input(0).dims()) {
        (Ok(layout), Some(d)) => layout.shape(d, to_depth)?,
        _ => PartialShape::UNKNOWN,
    }])
}

fn space_to_depth() -> OpDef {
    common("SpaceToDepth")
        .doc("Moves the positions of every block of an image to channels.")
        .shape(|cx| infer(cx, true))
        .gradient(|cx, dys| gradient(cx, dys, "DepthToSpace"))
        .cpu(|init| kernel(init, true))
        .sample(|s| {
            let x = s.normal([1, 2, 4, 2])?;
            s.op("SpaceToDepth").input(&x).attr("block_size", 2i64).finish()
        })
        .sample(|s| {
            let x = s.normal([1, 2, 2, 4])?;
            s.op("SpaceToDepth")
                .input(&x)
                .attr("block_size", 2i64)
                .attr("data_format", "NCHW")
                .finish()
        })
}

fn depth_to_space() -> OpDef {
    common("DepthToSpace")
        .doc("Moves channels to the positions of blocks of an image.")
        .shape(|cx| infer(cx, false))
        .gradient(|cx, dys| gradient(cx, dys, "SpaceToDepth"))
        .cpu(|init| kernel(init, false))
        .sample(|s| {
            let x = s.normal([1, 1, 2, 8])?;
            s.op("DepthToSpace").input(&x).attr("block_size", 2i64).finish()
        })
}

register_ops!(space_to_depth, depth_to_space);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Tensor};

    #[test]
    fn blocks_become_channels_and_back() {
        let g = Graph::new();
        for (format, dims, want) in [
            ("NHWC", [1usize, 2, 4, 1], vec![1i32, 2, 5, 6, 3, 4, 7, 8]),
            ("NCHW", [1, 1, 2, 4], vec![1, 3, 2, 4, 5, 7, 6, 8]),
        ] {
            let v: Vec<i32> = (1..=8).collect();
            let x = g.constant(Tensor::from_slice(dims, &v).unwrap()).unwrap();
            let op = |name: &str, x| {
                g.op(name)
                    .input(x)
                    .attr("block_size", 2i64)
                    .attr("data_format", format)
                    .output()
            };
            let y = op("SpaceToDepth", &x).unwrap();
            assert_eq!(eval(&y).to_vec::<i32>().unwrap(), want);
            assert_eq!(eval(&op("DepthToSpace", &y).unwrap()), eval(&x));
        }
        let odd = g.constant(Tensor::zeros(DType::F32, [1, 3, 2, 1]).unwrap()).unwrap();
        assert!(
            g.op("SpaceToDepth")
                .input(&odd)
                .attr("block_size", 2i64)
                .output()
                .is_err()
        );
    }
}
