//! `TopK`, `TopKV2`, `ApproxTopK`.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::rows::writable;
use crate::spread;

/// The order of the result: larger first, NaN last, the first of equal ones first.
fn before<T: PartialOrd>(x: &[T], a: i32, b: i32) -> Ordering {
    let (p, q) = (&x[a as usize], &x[b as usize]);
    let order = q.partial_cmp(p).unwrap_or_else(|| {
        let nan = |v: &T| v.partial_cmp(v).is_none();
        nan(p).cmp(&nan(q))
    });
    order.then(a.cmp(&b))
}

/// Up to this many are kept in order while the row is read.
const FEW: usize = 32;

/// Writes the positions of the first `top.len()` elements in the order of [`before`]; `all` is scratch space.
fn top_of_row<T: PartialOrd>(x: &[T], top: &mut [i32], all: &mut Vec<i32>) {
    let k = top.len();
    if k == 0 {
        return;
    }
    if k <= FEW && k < x.len() / 4 {
        // Sorted by insertion; almost all elements end at the first comparison.
        for (i, t) in top.iter_mut().enumerate() {
            *t = i as i32;
        }
        top.sort_unstable_by(|a, b| before(x, *a, *b));
        for i in k..x.len() {
            let i = i as i32;
            if before(x, i, top[k - 1]) == Ordering::Less {
                let at = top.partition_point(|t| before(x, *t, i) == Ordering::Less);
                top[at..].rotate_right(1);
                top[at] = i;
            }
        }
        return;
    }
    all.clear();
    all.extend(0..x.len() as i32);
    if k < all.len() {
        all.select_nth_unstable_by(k - 1, |a, b| before(x, *a, *b));
    }
    all[..k].sort_unstable_by(|a, b| before(x, *a, *b));
    top.copy_from_slice(&all[..k]);
}

fn top<T: Element + PartialOrd>(cx: &mut OpContext<'_>, k: i64, index_type: DType) -> Result<()> {
    let input = cx.input(0)?;
    let shape = input.shape();
    let Some(&n) = shape.last() else {
        return Err(Error::invalid(format!("input must be >= 1-D, got shape {shape}")));
    };
    let k = usize::try_from(k).map_err(|_| Error::invalid(format!("need k >= 0, got {k}")))?;
    if n < k {
        return Err(Error::invalid(format!(
            "input must have at least k columns: had {n}, needed {k}"
        )));
    }
    if i32::try_from(n).is_err() {
        return Err(Error::unimplemented(format!(
            "rows of {n} elements are too long for TopK"
        )));
    }
    let out: Shape = shape.with_replaced(shape.rank() - 1, 1, &[k]);
    let (mut values, mut indices) = (cx.alloc(T::DTYPE, &out)?, cx.alloc(DType::I32, &out)?);
    if k > 0 {
        let x = input.as_slice::<T>()?;
        let rows = spread::rows_of(8 * n);
        let (v, i) = (writable::<T>(&mut values)?, writable::<i32>(&mut indices)?);
        spread::chunks2(cx.parallel(), (v, rows * k), (i, rows * k), |at, values, indices| {
            let mut all = Vec::new();
            let x = x[at * rows * n..].chunks(n);
            for ((x, values), indices) in x.zip(values.chunks_mut(k)).zip(indices.chunks_mut(k)) {
                top_of_row(x, indices, &mut all);
                for (v, i) in values.iter_mut().zip(&*indices) {
                    *v = x[*i as usize];
                }
            }
        });
    }
    cx.set_output(0, values);
    cx.set_output(1, as_indices(indices, index_type)?);
    Ok(())
}

fn as_indices(indices: Tensor, dtype: DType) -> Result<Tensor> {
    let list = || indices.as_slice::<i32>();
    match dtype {
        DType::I64 => Tensor::from_slice(
            indices.shape(),
            &list()?.iter().map(|i| i64::from(*i)).collect::<Vec<_>>(),
        ),
        DType::I16 => Tensor::from_slice(indices.shape(), &list()?.iter().map(|i| *i as i16).collect::<Vec<_>>()),
        _ => Ok(indices),
    }
}

type Top = fn(&mut OpContext<'_>, i64, DType) -> Result<()>;

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let top: Top = dispatch!(init.input_types[0], T in reals => top::<T>, else return Err(init.no_kernel()));
    let index_type = init.output_types[1];
    let fixed = init.attrs.get("k").map(|_| init.attrs.int("k")).transpose()?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let k = match fixed {
            Some(k) => k,
            None if cx.input(1)?.shape().is_scalar() => cx.input(1)?.to_i64()?,
            None => {
                return Err(Error::invalid(format!(
                    "k must be scalar, got shape {}",
                    cx.input(1)?.shape()
                )));
            }
        };
        top(cx, k, index_type)
    }))
}

fn top_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let input = cx.input(0).with_rank_at_least(1)?;
    let k = match cx.attrs().get("k") {
        Some(_) => Some(cx.attrs().int("k")?),
        None => {
            cx.input(1).with_rank(0)?;
            cx.constant_i64(1)
        }
    };
    let k = match k {
        Some(k) => Some(usize::try_from(k).map_err(|_| Error::invalid(format!("need k >= 0, got {k}")))?),
        None => None,
    };
    let Some(rank) = input.rank() else {
        return Ok(vec![PartialShape::UNKNOWN; 2]);
    };
    if let (Some(n), Some(k)) = (input.dim(rank - 1), k)
        && n < k
    {
        return Err(Error::invalid(format!(
            "input must have at least k columns: had {n}, needed {k}"
        )));
    }
    Ok(vec![input.with_dim(rank - 1, k); 2])
}

/// Scatters the gradients of the values to where they were taken from.
fn top_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, x, dy) = (cx.graph(), cx.input(0)?, cx.dense(grads, 0)?);
    let indices = cx.output(1)?.cast(DType::I64)?;
    let shape = |t: &actorflow_core::Output| g.op("Shape").input(t).attr("out_type", DType::I64).output();
    let (shape_x, one) = (shape(&x)?, g.constant(1i32)?);
    let last = x.rank_op()?.minus(&one)?;
    let (n, k) = (shape_x.gather(&last, 0)?, shape(&dy)?.gather(&last, 0)?);
    let size = g.op("Size").input(&x).attr("out_type", DType::I64).output()?;
    let zero = g.constant(0i64)?;
    let step = n.maximum(&g.constant(1i64)?)?;
    // The flat position of each row's first element, in front of the row's indices.
    let starts = g.op("Range").input(&zero).input(&size).input(&step).output()?;
    let rows = g.op("Size").input(&starts).attr("out_type", DType::I64).output()?;
    let table = g.stack(&[rows, k], 0)?;
    let flat = indices.reshape_to(&table)?.plus(&starts.expand_dims(-1)?)?;
    let dx = g
        .op("ScatterNd")
        .input(&flat.reshape(&[-1, 1])?)
        .input(&dy.reshape(&[-1])?)
        .input(&size.expand_dims(0)?)
        .output()?;
    let mut out = cx.none()?;
    out[0] = Some(dx.reshape_to(&shape_x)?.into());
    Ok(out)
}

const REALS: &str = "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}";

fn top_k() -> OpDef {
    OpDef::new("TopK", Category::Nn)
        .doc("The `k` largest elements of each row, in order, and their positions.")
        .input("input: T")
        .output("values: T")
        .output("indices: int32")
        .attr("k: int >= 0")
        .attr("sorted: bool = true")
        .attr(REALS)
        .shape(top_shape)
        .gradient(top_grad)
        .cpu(kernel)
        .sample(|s| {
            let x = s.normal([3, 5])?;
            s.op("TopK").input(&x).attr("k", 2i64).finish()
        })
}

fn v2_sample(s: &mut Sampler, shape: &[usize], k: i32) -> Result<Operation> {
    let x = s.normal(shape)?;
    let k = s.constant(k)?;
    s.op("TopKV2").input(&x).input(&k).finish()
}

fn top_k_v2() -> OpDef {
    OpDef::new("TopKV2", Category::Nn)
        .doc("The `k` largest elements of each row, in order, and their positions.")
        .input("input: T")
        .input("k: Tk")
        .output("values: T")
        .output("indices: index_type")
        .attr("sorted: bool = true")
        .attr(REALS)
        .attr("Tk: {int16, int32, int64} = DT_INT32")
        .attr("index_type: {int16, int32, int64} = DT_INT32")
        .shape(top_shape)
        .gradient(top_grad)
        .cpu(kernel)
        .sample(|s| v2_sample(s, &[2, 3, 4], 3))
        .sample(|s| v2_sample(s, &[6], 2))
}

/// The CPU's approximation is exact, as TensorFlow's.
fn approx_top_k() -> OpDef {
    OpDef::new("ApproxTopK", Category::Nn)
        .doc("The `k` largest elements of each row, in order, and their positions; exact on CPUs, whatever the recall asked for.")
        .input("input: T")
        .output("values: T")
        .output("indices: int32")
        .attr("k: int >= 0")
        .attr("reduction_dimension: int = -1")
        .attr("recall_target: float = 0.95")
        .attr("is_max_k: bool = true")
        .attr("reduction_input_size_override: int = -1")
        .attr("aggregate_to_topk: bool = true")
        .attr("T: {half, bfloat16, float}")
        .shape(|cx| {
            let attrs = cx.attrs();
            let rank = cx.input(0).rank();
            let axis = attrs.int("reduction_dimension")?;
            if axis != -1 && rank.is_some_and(|rank| axis != rank as i64 - 1) || !attrs.bool("is_max_k")? {
                return Ok(vec![PartialShape::UNKNOWN; 2]);
            }
            top_shape(cx)
        })
        .gradient(top_grad)
        .cpu(|init| {
            let largest = init.attrs.bool("is_max_k")?;
            if init.attrs.int("reduction_dimension")? != -1 || !largest {
                return Err(Error::unimplemented(
                    "ApproxTopK on CPUs takes reduction_dimension = -1 and is_max_k = true, as in TensorFlow; transpose \
                     or negate the input for others",
                ));
            }
            kernel(init)
        })
}

register_ops!(top_k, top_k_v2, approx_top_k);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Interpreter;
    use actorflow_core::Graph;

    fn run(x: impl Into<Tensor>, k: i32) -> Result<Vec<Tensor>> {
        let g = Graph::new();
        let p = g.placeholder("k", DType::I32, PartialShape::UNKNOWN)?;
        let op = g.op("TopKV2").input(&g.constant(x)?).input(&p).finish()?;
        Interpreter::default().run(&op.outputs(), &[], &[(p, Tensor::from(k))])
    }

    #[test]
    fn the_largest_come_first_and_of_equal_ones_the_first() {
        let out = run([1f32, 3., 2., 3.], 2).unwrap();
        assert_eq!(out, [Tensor::from([3f32, 3.]), Tensor::from([1i32, 3])]);
        let out = run([[1i64, 3, 2], [3, 3, 5]], 2).unwrap();
        assert_eq!(
            out,
            [Tensor::from([[3i64, 2], [5, 3]]), Tensor::from([[1i32, 2], [2, 0]])]
        );
        let out = run([1., f32::NAN, 2., 5.], 3).unwrap();
        assert_eq!(out[1], Tensor::from([3i32, 2, 0]));
        assert_eq!(run([1f32, 2.], 0).unwrap()[0].shape().dims(), [0]);
        assert_eq!(
            run(Tensor::zeros(DType::F32, [0, 3]).unwrap(), 2).unwrap()[1]
                .shape()
                .dims(),
            [0, 2]
        );
    }

    #[test]
    fn the_approximation_is_exact_and_differentiated() {
        use actorflow_core::gradient::gradients;
        let g = Graph::new();
        let x = g.constant([[3f32, 1., f32::INFINITY, 5., 5., 2.]]).unwrap();
        let op = g.op("ApproxTopK").input(&x).attr("k", 3i64).finish().unwrap();
        let dx = gradients(&[op.output(0).unwrap()], std::slice::from_ref(&x))
            .unwrap()
            .remove(0);
        let mut outs = op.outputs();
        outs.push(dx.unwrap().to_dense().unwrap());
        let out = Interpreter::default().run(&outs, &[], &[]).unwrap();
        assert_eq!(out[0], Tensor::from([[f32::INFINITY, 5., 5.]]));
        assert_eq!(out[1], Tensor::from([[2i32, 3, 4]]));
        assert_eq!(out[2], Tensor::from([[0f32, 0., 1., 1., 1., 0.]]));
        let least = g.op("ApproxTopK").input(&x).attr("k", 1i64).attr("is_max_k", false);
        let e = crate::testing::fails(&least.output().unwrap());
        assert!(e.message().contains("is_max_k"), "{e}");
    }

    #[test]
    fn both_ways_agree_with_sorting() {
        let x: Vec<i32> = (0..1000).map(|i| i * 7919 % 251).collect();
        let mut sorted: Vec<i32> = (0..1000).collect();
        sorted.sort_by_key(|i| -x[*i as usize]);
        for k in [1, 2, 31, 32, 33, 500, 999, 1000] {
            let mut top = vec![0; k];
            top_of_row(&x, &mut top, &mut Vec::new());
            assert_eq!(top, sorted[..k], "{k}");
        }
    }

    #[test]
    fn k_is_checked_and_indices_have_the_type_asked_for() {
        assert!(run([1f32, 2.], 3).unwrap_err().message().contains("needed 3"));
        assert!(run([1f32, 2.], -1).is_err());
        assert!(run(1f32, 1).is_err());
        let g = Graph::new();
        let (x, k) = (g.constant([1f32, 2.]).unwrap(), g.constant(1i64).unwrap());
        assert!(
            g.op("TopKV2")
                .input(&x)
                .input(&g.constant(3i32).unwrap())
                .output()
                .is_err()
        );
        let op = g
            .op("TopKV2")
            .input(&x)
            .input(&k)
            .attr("index_type", DType::I64)
            .finish()
            .unwrap();
        let y = Interpreter::default().run(&op.outputs(), &[], &[]).unwrap();
        assert_eq!(y[1], Tensor::from([1i64]));
    }
}
