//! `MirrorPad`, `MirrorPadGrad`: a border that mirrors what is inside.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, Shape, Tensor, dispatch, register_ops};

use super::number::Number;
use super::pad::{Paddings, infer, padded, paddings};
use crate::moves::{self, Axis, Copies, Fill, Run, products};

/// 1 if the edge itself is not repeated (`REFLECT`), 0 if it is (`SYMMETRIC`).
fn skip(attrs: &Attrs) -> Result<usize> {
    Ok(usize::from(attrs.str("mode")? == "REFLECT"))
}

/// A border cannot mirror more than there is.
fn check(dims: &[usize], pads: &Paddings, skip: usize) -> Result<()> {
    for (i, (n, (a, b))) in dims.iter().zip(pads).enumerate() {
        if (*a).max(*b) > n.saturating_sub(skip) {
            return Err(Error::invalid(format!(
                "paddings ({a}, {b}) of dimension {i} exceed what can be mirrored: {}",
                n.saturating_sub(skip)
            )));
        }
    }
    Ok(())
}

/// One dimension cut into runs: where each begins in the padded tensor, where in the inner one, forwards or
/// backwards there, and how long it is.
fn runs(n: usize, (a, b): (usize, usize), skip: usize) -> Vec<(usize, usize, isize, usize)> {
    let all = [
        (0, (a + skip).saturating_sub(1), -1, a),
        (a, 0, 1, n),
        (a + n, n.saturating_sub(1 + skip), -1, b),
    ];
    all.into_iter().filter(|r| r.3 > 0).collect()
}

fn pad_kernel(cx: &mut OpContext<'_>, skip: usize) -> Result<()> {
    let x = cx.input(0)?;
    let dims = x.shape();
    let pads = paddings(cx.input(1)?, dims.rank())?;
    check(dims, &pads, skip)?;
    let shape = padded(dims, &pads)?;
    let (inner, outer) = (dims.strides(), shape.strides());
    let per: Vec<Vec<Run>> = (0..dims.rank())
        .map(|d| {
            let run = |(at, start, step, n): (usize, usize, isize, usize)| Run {
                from: start * inner[d],
                to: at * outer[d],
                axis: Axis {
                    n,
                    src: step * inner[d] as isize,
                    dst: outer[d] as isize,
                },
            };
            runs(dims[d], pads[d], skip).into_iter().map(run).collect()
        })
        .collect();
    // Every run has elements, so there are no more copies than elements of the output.
    let copies = products(&per);
    let t = moves::build(cx, x.dtype(), shape, Fill::Any, &[x], &Copies(&copies))?;
    cx.set_output(0, t);
    Ok(())
}

/// `out[inner index] += dy[padded index]` for all that mirror it, one dimension after the other.
fn fold<T: Number>(dy: &[T], dims: &Shape, pads: &Paddings, skip: usize) -> Vec<T> {
    let mut now = dy.to_vec();
    let mut shape = dims.to_vec();
    for (d, pad) in pads.iter().enumerate() {
        let n = shape[d] - pad.0 - pad.1;
        let before: usize = shape[..d].iter().product();
        let row: usize = shape[d + 1..].iter().product();
        let mut next = vec![T::default(); before * n * row];
        // The middle first, so that a sum of it and its mirrors starts with it.
        let mut parts = runs(n, *pad, skip);
        parts.sort_by_key(|r| r.2 < 0);
        for b in 0..before {
            for &(at, start, step, len) in &parts {
                for k in 0..len {
                    let from = (b * shape[d] + at + k) * row;
                    let to = (b * n + start.wrapping_add_signed(step * k as isize)) * row;
                    for (o, x) in next[to..to + row].iter_mut().zip(&now[from..from + row]) {
                        *o = o.plus(*x);
                    }
                }
            }
        }
        shape[d] = n;
        now = next;
    }
    now
}

fn grad_kernel(cx: &mut OpContext<'_>, skip: usize) -> Result<()> {
    let dy = cx.input(0)?;
    let dims = dy.shape();
    let pads = paddings(cx.input(1)?, dims.rank())?;
    let inner = dims.iter().zip(&pads).map(|(n, (a, b))| {
        let less = a.checked_add(*b).and_then(|p| n.checked_sub(p));
        less.ok_or_else(|| Error::invalid(format!("paddings ({a}, {b}) exceed a dimension of shape {dims}")))
    });
    let shape = Shape::from(inner.collect::<Result<Vec<_>>>()?);
    check(&shape, &pads, skip)?;
    let t = dispatch!(dy.dtype(), T in numbers => {
        Tensor::from_slice(shape, &fold(dy.as_slice::<T>()?, dims, &pads, skip))?
    }, else return Err(Error::invalid(format!("MirrorPadGrad of dtype {}", dy.dtype()))));
    cx.set_output(0, t);
    Ok(())
}

fn mirroring(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Array)
        .input("input: T")
        .input("paddings: Tpaddings")
        .output("output: T")
        .attr("T: type")
        .attr("Tpaddings: {int32, int64} = DT_INT32")
        .attr("mode: {'REFLECT', 'SYMMETRIC'}")
}

fn gradient(cx: &GradContext, dys: &[Option<Grad>], op: &str) -> Result<Vec<Option<Grad>>> {
    let dx = cx
        .graph()
        .op(op)
        .input(&cx.dense(dys, 0)?)
        .input(&cx.input(1)?)
        .attr("mode", cx.attrs().str("mode")?)
        .output()?;
    Ok(vec![Some(dx.into()), None])
}

fn mirror_pad() -> OpDef {
    mirroring("MirrorPad")
        .doc("A border that mirrors what is inside, with (`SYMMETRIC`) or without (`REFLECT`) the edge itself.")
        .shape(|cx| infer(cx, 1))
        .gradient(|cx, dys| gradient(cx, dys, "MirrorPadGrad"))
        .cpu(|init: &KernelInit<'_>| {
            let skip = skip(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| pad_kernel(cx, skip)))
        })
        .sample(|s| {
            let x = s.normal([3, 3])?;
            let p = s.constant([[2i32, 1], [0, 2]])?;
            s.op("MirrorPad").input(&x).input(&p).attr("mode", "REFLECT").finish()
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            let p = s.constant([[2i32, 1], [0, 3]])?;
            s.op("MirrorPad").input(&x).input(&p).attr("mode", "SYMMETRIC").finish()
        })
}

fn mirror_pad_grad() -> OpDef {
    mirroring("MirrorPadGrad")
        .doc("The gradient of MirrorPad: the border added to what it mirrors.")
        .shape(|cx| infer(cx, -1))
        .gradient(|cx, dys| gradient(cx, dys, "MirrorPad"))
        .cpu(|init: &KernelInit<'_>| {
            let skip = skip(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| grad_kernel(cx, skip)))
        })
        .sample(|s| {
            let x = s.normal([5, 4])?;
            let p = s.constant([[2i32, 1], [0, 2]])?;
            s.op("MirrorPadGrad")
                .input(&x)
                .input(&p)
                .attr("mode", "SYMMETRIC")
                .finish()
        })
}

register_ops!(mirror_pad, mirror_pad_grad);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Output, Result, Tensor};

    fn pad(op: &str, x: &Output, p: Tensor, mode: &str) -> Result<Output> {
        let g = x.graph();
        g.op(op).input(x).input(&g.constant(p)?).attr("mode", mode).output()
    }

    #[test]
    fn mirrors_with_and_without_the_edge() {
        let g = Graph::new();
        let x = g.constant([1i32, 2, 3]).unwrap();
        let p = || Tensor::from([[2i32, 1]]);
        assert_eq!(
            eval(&pad("MirrorPad", &x, p(), "REFLECT").unwrap()),
            Tensor::from([3i32, 2, 1, 2, 3, 2])
        );
        assert_eq!(
            eval(&pad("MirrorPad", &x, p(), "SYMMETRIC").unwrap()),
            Tensor::from([2i32, 1, 1, 2, 3, 3])
        );
        let y = g.constant([1i32, 2, 4, 8, 16, 32]).unwrap();
        assert_eq!(
            eval(&pad("MirrorPadGrad", &y, p(), "REFLECT").unwrap()),
            Tensor::from([4i32, 42, 17])
        );
        let m = g.constant([[1i32, 2], [3, 4]]).unwrap();
        let both = pad("MirrorPad", &m, Tensor::from([[1i32, 0], [0, 1]]), "SYMMETRIC").unwrap();
        assert_eq!(eval(&both), Tensor::from([[1i32, 2, 2], [1, 2, 2], [3, 4, 4]]));
    }

    #[test]
    fn a_border_wider_than_the_inside_is_refused() {
        let g = Graph::new();
        let x = g.constant([1i32, 2, 3]).unwrap();
        let y = pad("MirrorPad", &x, Tensor::from([[3i32, 0]]), "REFLECT").unwrap();
        assert!(crate::testing::fails(&y).message().contains("exceed"));
    }
}
