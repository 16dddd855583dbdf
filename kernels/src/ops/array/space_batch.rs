//! `SpaceToBatch`, `SpaceToBatchND`, `BatchToSpace`, `BatchToSpaceND`: blocks of space as further batches.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};

use super::pad::{Paddings, paddings};
use super::support::{Ints, int_vector};
use crate::moves::{self, Axis, Copies, Fill, Run, products};

/// Which way blocks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToBatch,
    ToSpace,
}

/// Block lengths of the dimensions after the first, and what is padded (or cropped) there.
struct Blocks {
    lengths: Vec<usize>,
    pads: Paddings,
}

impl Blocks {
    fn new(lengths: &[i64], pads: &Tensor) -> Result<Blocks> {
        let positive = |b: &i64| {
            let b = usize::try_from(*b).ok().filter(|b| *b > 0);
            b.ok_or_else(|| Error::invalid(format!("all block lengths must be positive, got {lengths:?}")))
        };
        let lengths = lengths.iter().map(positive).collect::<Result<Vec<_>>>()?;
        let pads = paddings(pads, lengths.len())?;
        Ok(Blocks { lengths, pads })
    }

    fn product(&self) -> Result<usize> {
        let n = self.lengths.iter().try_fold(1usize, |n, b| n.checked_mul(*b));
        n.ok_or_else(|| Error::invalid("the product of the block lengths overflows"))
    }

    /// The result's dimensions; unknown ones stay unknown.
    fn shape(&self, way: Way, x: &[Option<usize>]) -> Result<PartialShape> {
        if x.len() <= self.lengths.len() {
            return Err(Error::invalid(format!(
                "the input must have more than {} dimensions, it has {}",
                self.lengths.len(),
                x.len()
            )));
        }
        let all = self.product()?;
        let overflow = || Error::invalid("a dimension overflows");
        let mut out = x.to_vec();
        out[0] = match (way, x[0]) {
            (_, None) => None,
            (Way::ToBatch, Some(n)) => Some(n.checked_mul(all).ok_or_else(overflow)?),
            (Way::ToSpace, Some(n)) if n % all == 0 => Some(n / all),
            (Way::ToSpace, Some(n)) => {
                return Err(Error::invalid(format!(
                    "the batch of {n} is not a multiple of {all} blocks"
                )));
            }
        };
        for (i, (&b, &(before, after))) in self.lengths.iter().zip(&self.pads).enumerate() {
            let Some(n) = x[i + 1] else { continue };
            let pad = before.checked_add(after).ok_or_else(overflow)?;
            out[i + 1] = Some(match way {
                Way::ToBatch => {
                    let n = n.checked_add(pad).ok_or_else(overflow)?;
                    if n % b != 0 {
                        return Err(Error::invalid(format!(
                            "padded dimension {} of length {n} is not a multiple of its block length {b}",
                            i + 1
                        )));
                    }
                    n / b
                }
                Way::ToSpace => {
                    let n = n.checked_mul(b).ok_or_else(overflow)?;
                    n.checked_sub(pad)
                        .ok_or_else(|| Error::invalid(format!("crops of dimension {} exceed its length {n}", i + 1)))?
                }
            });
        }
        Ok(PartialShape::new(out))
    }

    fn apply(&self, cx: &OpContext<'_>, way: Way, x: &Tensor) -> Result<Tensor> {
        let dims = x.shape();
        let known: Vec<_> = dims.iter().map(|d| Some(*d)).collect();
        let shape = self.shape(way, &known)?;
        let shape = shape.to_shape().ok_or_else(|| Error::internal("unknown shape"))?;
        shape.checked_count()?;
        if shape.count() == 0 || dims.count() == 0 {
            return moves::build(cx, x.dtype(), shape, Fill::Zero, &[], &moves::Still);
        }
        if self.product()? > moves::MOST {
            return Err(Error::exhausted(format!("{} blocks are too many", self.product()?)));
        }
        // Seen from the tensor whose space is whole: `whole[n, p] <-> parts[block·batch + n, (p + before) / b]`.
        let (whole, parts) = match way {
            Way::ToBatch => (dims, &shape),
            Way::ToSpace => (&shape, dims),
        };
        let (ws, ps) = (whole.strides(), parts.strides());
        let oriented = |w: usize, p: usize, n: usize, wstep: usize, pstep: usize| match way {
            Way::ToBatch => Run {
                from: w,
                to: p,
                axis: Axis {
                    n,
                    src: wstep as isize,
                    dst: pstep as isize,
                },
            },
            Way::ToSpace => Run {
                from: p,
                to: w,
                axis: Axis {
                    n,
                    src: pstep as isize,
                    dst: wstep as isize,
                },
            },
        };
        let batch = whole[0];
        let mut per = vec![vec![oriented(0, 0, batch, ws[0], ps[0])]];
        let mut block_stride = self.product()?;
        for (i, (&b, &(before, _))) in self.lengths.iter().zip(&self.pads).enumerate() {
            block_stride /= b;
            let d = i + 1;
            let run = |k: usize| {
                // Positions o·b + k - before of the whole that exist, for o in first..last.
                let first = before.saturating_sub(k).div_ceil(b);
                let last = (whole[d] + before).saturating_sub(k).div_ceil(b).min(parts[d]);
                let at = (first * b + k).saturating_sub(before);
                oriented(
                    at * ws[d],
                    first * ps[d] + k * block_stride * batch * ps[0],
                    last.saturating_sub(first),
                    b * ws[d],
                    ps[d],
                )
            };
            per.push((0..b).map(run).collect());
        }
        for d in self.lengths.len() + 1..whole.rank() {
            per.push(vec![oriented(0, 0, whole[d], ws[d], ps[d])]);
        }
        let copies = products(&per);
        let padded = way == Way::ToBatch && self.pads.iter().any(|p| p.0 + p.1 > 0);
        let fill = if padded { Fill::Zero } else { Fill::Any };
        moves::build(cx, x.dtype(), shape, fill, &[x], &Copies(&copies))
    }
}

fn infer(cx: &ShapeContext<'_>, way: Way, lengths: Option<Vec<i64>>, pads: usize) -> Result<Vec<PartialShape>> {
    let x = cx.input(0);
    Ok(vec![match (x.dims(), lengths, cx.constant(pads)) {
        (Some(d), Some(l), Some(p)) => Blocks::new(&l, &p)?.shape(way, d)?,
        (Some(d), ..) => PartialShape::of_rank(d.len()),
        _ => PartialShape::UNKNOWN,
    }])
}

fn run(cx: &mut OpContext<'_>, way: Way, lengths: &[i64], pads: usize) -> Result<()> {
    let blocks = Blocks::new(lengths, cx.input(pads)?)?;
    let t = blocks.apply(cx, way, cx.input(0)?)?;
    cx.set_output(0, t);
    Ok(())
}

fn nd(name: &'static str, way: Way) -> OpDef {
    let (pads, tpads) = match way {
        Way::ToBatch => ("paddings: Tpaddings", "Tpaddings: {int32, int64} = DT_INT32"),
        Way::ToSpace => ("crops: Tcrops", "Tcrops: {int32, int64} = DT_INT32"),
    };
    OpDef::new(name, Category::Array)
        .input("input: T")
        .input("block_shape: Tblock_shape")
        .input(pads)
        .output("output: T")
        .attr("T: type")
        .attr("Tblock_shape: {int32, int64} = DT_INT32")
        .attr(tpads)
}

fn nd_gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let b = cx
        .graph()
        .op(op)
        .input(&cx.dense(dys, 0)?)
        .input(&cx.input(1)?)
        .input(&cx.input(2)?);
    Ok(vec![Some(b.output()?.into()), None, None])
}

fn nd_kernel(cx: &mut OpContext<'_>, way: Way) -> Result<()> {
    let lengths: Ints = int_vector(cx.input(1)?, "block_shape")?;
    run(cx, way, &lengths, 2)
}

fn space_to_batch_nd() -> OpDef {
    nd("SpaceToBatchND", Way::ToBatch)
        .doc("Pads dimensions 1, 2, … with zeros and moves every position in a block of them to a batch of its own.")
        .shape(|cx| infer(cx, Way::ToBatch, cx.constant_i64s(1), 2))
        .gradient(|cx, dys| nd_gradient(cx, dys, "BatchToSpaceND"))
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| nd_kernel(cx, Way::ToBatch))))
        .sample(|s| {
            let x = s.normal([2, 3, 4, 2])?;
            let (b, p) = (s.constant([2i32, 3])?, s.constant([[1i32, 0], [2, 0]])?);
            s.op("SpaceToBatchND").input(&x).input(&b).input(&p).finish()
        })
}

fn batch_to_space_nd() -> OpDef {
    nd("BatchToSpaceND", Way::ToSpace)
        .doc("The reverse of SpaceToBatchND: batches become positions in blocks, then the crops are cut off.")
        .shape(|cx| infer(cx, Way::ToSpace, cx.constant_i64s(1), 2))
        .gradient(|cx, dys| nd_gradient(cx, dys, "SpaceToBatchND"))
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| nd_kernel(cx, Way::ToSpace))))
        .sample(|s| {
            let x = s.normal([6, 2, 2])?;
            let (b, p) = (s.constant([2i32, 3])?, s.constant([[1i32, 0], [2, 1]])?);
            s.op("BatchToSpaceND").input(&x).input(&b).input(&p).finish()
        })
}

fn square(name: &'static str, pads: &str, tpads: &str) -> OpDef {
    OpDef::new(name, Category::Array)
        .input("input: T")
        .input(pads)
        .output("output: T")
        .attr("T: type")
        .attr(tpads)
        .attr("block_size: int >= 2")
}

fn square_gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let b = cx.graph().op(op).input(&cx.dense(dys, 0)?).input(&cx.input(1)?);
    let dx = b.attr("block_size", cx.attrs().int("block_size")?).output()?;
    Ok(vec![Some(dx.into()), None])
}

fn square_shape(cx: &ShapeContext<'_>, way: Way) -> Result<Vec<PartialShape>> {
    cx.input(0).with_rank(4)?;
    let b = cx.attrs().int("block_size")?;
    infer(cx, way, Some(vec![b, b]), 1)
}

fn square_kernel(cx: &mut OpContext<'_>, way: Way, block: i64) -> Result<()> {
    let shape: &Shape = cx.input(0)?.shape();
    if shape.rank() != 4 {
        return Err(Error::invalid(format!("the input must have rank 4, got shape {shape}")));
    }
    run(cx, way, &[block, block], 1)
}

fn space_to_batch() -> OpDef {
    square(
        "SpaceToBatch",
        "paddings: Tpaddings",
        "Tpaddings: {int32, int64} = DT_INT32",
    )
    .doc("SpaceToBatchND of images with square blocks.")
    .shape(|cx| square_shape(cx, Way::ToBatch))
    .gradient(|cx, dys| square_gradient(cx, dys, "BatchToSpace"))
    .cpu(|init| {
        let b = init.attrs.int("block_size")?;
        Ok(Box::new(move |cx: &mut OpContext<'_>| {
            square_kernel(cx, Way::ToBatch, b)
        }))
    })
    .sample(|s| {
        let x = s.normal([1, 3, 4, 1])?;
        let p = s.constant([[1i32, 0], [0, 0]])?;
        s.op("SpaceToBatch")
            .input(&x)
            .input(&p)
            .attr("block_size", 2i64)
            .finish()
    })
}

fn batch_to_space() -> OpDef {
    square("BatchToSpace", "crops: Tidx", "Tidx: {int32, int64} = DT_INT32")
        .doc("BatchToSpaceND of images with square blocks.")
        .shape(|cx| square_shape(cx, Way::ToSpace))
        .gradient(|cx, dys| square_gradient(cx, dys, "SpaceToBatch"))
        .cpu(|init| {
            let b = init.attrs.int("block_size")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                square_kernel(cx, Way::ToSpace, b)
            }))
        })
        .sample(|s| {
            let x = s.normal([4, 2, 1, 2])?;
            let p = s.constant([[1i32, 0], [0, 0]])?;
            s.op("BatchToSpace")
                .input(&x)
                .input(&p)
                .attr("block_size", 2i64)
                .finish()
        })
}

register_ops!(space_to_batch_nd, batch_to_space_nd, space_to_batch, batch_to_space);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, PartialShape, Tensor};

    #[test]
    fn blocks_become_batches_and_back() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let v: Vec<i32> = (1..=16).collect();
        let x = c(Tensor::from_slice([1, 4, 4, 1], &v).unwrap());
        let (block, none) = (c([2i32, 2].into()), c([[0i32, 0], [0, 0]].into()));
        let y = g
            .op("SpaceToBatchND")
            .input(&x)
            .input(&block)
            .input(&none)
            .output()
            .unwrap();
        assert_eq!(y.shape(), PartialShape::from([4, 2, 2, 1]));
        let want = [1, 3, 9, 11, 2, 4, 10, 12, 5, 7, 13, 15, 6, 8, 14, 16];
        assert_eq!(eval(&y).to_vec::<i32>().unwrap(), want);
        let z = g
            .op("BatchToSpaceND")
            .input(&y)
            .input(&block)
            .input(&none)
            .output()
            .unwrap();
        assert_eq!(eval(&z), eval(&x));
        let pads = c([[0i32, 0], [2, 0]].into());
        let two = c(Tensor::from_slice([2, 2, 4, 1], &v).unwrap());
        let y = g
            .op("SpaceToBatch")
            .input(&two)
            .input(&pads)
            .attr("block_size", 2i64)
            .output()
            .unwrap();
        let t = eval(&y);
        assert_eq!(t.shape().dims(), [8, 1, 3, 1]);
        assert_eq!(
            t.to_vec::<i32>().unwrap()[..12],
            [0, 1, 3, 0, 9, 11, 0, 2, 4, 0, 10, 12]
        );
        let z = g
            .op("BatchToSpace")
            .input(&y)
            .input(&pads)
            .attr("block_size", 2i64)
            .output()
            .unwrap();
        assert_eq!(eval(&z), eval(&two));
    }

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let x = c(Tensor::from_slice([1, 3, 1], &[1i32, 2, 3]).unwrap());
        let nd = |op: &str, b: i32| {
            g.op(op)
                .input(&x)
                .input(&c([b].into()))
                .input(&c([[0i32, 0]].into()))
                .output()
        };
        assert!(nd("SpaceToBatchND", 2).is_err() && nd("SpaceToBatchND", 0).is_err());
        assert!(nd("BatchToSpaceND", 2).is_err() && nd("BatchToSpaceND", -1).is_err());
    }
}
