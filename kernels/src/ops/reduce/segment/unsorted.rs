//! `UnsortedSegmentSum`, `UnsortedSegmentProd`, `UnsortedSegmentMax`, `UnsortedSegmentMin`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::DType;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, Tensor, register_ops};

use super::{Run, Segments, folds, wide_ids};

struct Unsorted(Run);

impl Kernel for Unsorted {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (data, ids, number) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        if !number.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "num_segments should be a scalar, not shape {}",
                number.shape()
            )));
        }
        let number = number.to_i64()?;
        let segments = usize::try_from(number)
            .map_err(|_| Error::invalid(format!("input num_segments == {number} must not be negative")))?;
        let (shape, id_shape) = (data.shape(), ids.shape());
        if !shape.starts_with(id_shape) {
            return Err(Error::invalid(format!(
                "data.shape = {shape} does not start with segment_ids.shape = {id_shape}"
            )));
        }
        let device = &*cx.step().device;
        let ids = wide_ids(device, ids)?;
        let ids = ids.as_slice::<i64>()?;
        if let Some(i) = ids.iter().position(|&id| id >= number) {
            return Err(Error::invalid(format!(
                "segment_ids[{i}] = {} is out of range [0, {number})",
                ids[i]
            )));
        }
        let row = &shape[id_shape.rank()..];
        let out: Shape = std::iter::once(segments).chain(row.iter().copied()).collect();
        out.checked_count()?;
        let s = Segments {
            data,
            ids,
            inner: row.iter().product(),
            shape: out,
        };
        let out = (self.0)(device, &s)?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn segment_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (data, ids) = (cx.input(0), cx.input(1));
    let number = cx.input(2).with_rank(0).map(|_| cx.constant_i64(2))?;
    let Some(rank) = ids.rank() else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let data = data.with_rank_at_least(rank)?;
    data.sub(0, rank).merge(&ids)?;
    let segments = match number {
        Some(n) => {
            Some(usize::try_from(n).map_err(|_| Error::invalid(format!("num_segments == {n} must not be negative")))?)
        }
        None => None,
    };
    Ok(vec![match data.rank() {
        Some(r) => PartialShape::vector(segments).concat(&data.sub(rank, r)),
        None => PartialShape::UNKNOWN,
    }])
}

fn definition(name: &'static str, types: &str, indices: &str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("data: T")
        .input("segment_ids: Tindices")
        .input("num_segments: Tnumsegments")
        .output("output: T")
        .attr(types)
        .attr(indices)
        .attr("Tnumsegments: {int32, int64} = DT_INT32")
        .shape(segment_shape)
}

const NUMBERS: &str = "T: {float, double, int32, uint8, int16, int8, complex64, int64, bfloat16, uint16, complex128, \
                       half, uint32, uint64}";
const REALS: &str = "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}";
const INDICES: &str = "Tindices: {int32, int64}";

/// What the gradients share: rows of the segments gathered back, zero where an id is negative.
struct Gather {
    /// The ids, negative ones replaced by 0.
    clipped: Output,
    /// Which ids are not negative, with as many dimensions as the data.
    kept: Output,
}

impl Gather {
    fn new(cx: &GradContext) -> Result<Gather> {
        let (data, ids) = (cx.input(0)?, cx.input(1)?);
        let zero = ids.scalar_like(0.0)?;
        let kept = ids.greater_equal(&zero)?;
        let kept = match (data.shape().rank(), ids.shape().rank()) {
            (Some(a), Some(b)) if a == b => kept,
            _ => {
                let one = cx.graph().constant(1i32)?;
                let more = data
                    .rank_op()?
                    .minus(&ids.rank_op()?)?
                    .expand_dims(0)?
                    .fill_with(&one)?;
                let shape = cx.graph().concat(&[ids.shape_op()?, more], 0)?;
                kept.reshape_to(&shape)?
            }
        };
        Ok(Gather {
            clipped: ids.maximum(&zero)?,
            kept,
        })
    }

    fn rows(&self, of: &Output) -> Result<Output> {
        of.gather(&self.clipped, 0)
    }

    fn kept_rows(&self, of: &Output) -> Result<Output> {
        let rows = self.rows(of)?;
        self.kept.select(&rows, &rows.zeros_like()?)
    }
}

fn segment(cx: &GradContext, op: &str, data: &Output) -> Result<Output> {
    cx.graph()
        .op(op)
        .input(data)
        .input(&cx.input(1)?)
        .input(&cx.input(2)?)
        .output()
}

fn sum_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dx = Gather::new(cx)?.kept_rows(&cx.dense(grads, 0)?)?;
    Ok(vec![Some(dx.into()), None, None])
}

fn prod_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (data, dy, by) = (cx.input(0)?, cx.dense(grads, 0)?, Gather::new(cx)?);
    let is_zero = data.equal(&data.scalar_like(0.0)?)?;
    let zeros = segment(cx, "UnsortedSegmentSum", &is_zero.cast(DType::I32)?)?;
    let dy = zeros
        .greater(&zeros.scalar_like(1.0)?)?
        .select(&dy.zeros_like()?, &dy)?;
    let others = is_zero.select(&data.ones_like()?, &data)?;
    let product = by.rows(&segment(cx, "UnsortedSegmentProd", &others)?)?;
    let divided = by.rows(&cx.output(0)?)?.divided_by(&others)?;
    let dx = by.kept_rows(&dy)?.times(&is_zero.select(&product, &divided)?)?;
    Ok(vec![Some(dx.into()), None, None])
}

fn extreme_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (data, dy, by) = (cx.input(0)?, cx.dense(grads, 0)?, Gather::new(cx)?);
    let chosen = data.equal(&by.kept_rows(&cx.output(0)?)?)?.logical_and(&by.kept)?;
    let number = segment(cx, "UnsortedSegmentSum", &chosen.cast(dy.dtype())?)?;
    let shares = by.kept_rows(&dy.divided_by(&number)?)?;
    let dx = chosen.select(&shares, &shares.zeros_like()?)?;
    Ok(vec![Some(dx.into()), None, None])
}

fn sample(s: &mut Sampler, op: &str) -> Result<Operation> {
    let x = s.normal([5, 2])?;
    let (ids, n) = (s.constant([1i32, 0, -1, 1, 0])?, s.constant(2i32)?);
    s.op(op).input(&x).input(&ids).input(&n).finish()
}

fn flat_sample(s: &mut Sampler, op: &str) -> Result<Operation> {
    let x = s.normal([2, 3])?;
    let (ids, n) = (s.constant([[1i64, 0, 1], [1, -1, 0]])?, s.constant(2i64)?);
    s.op(op).input(&x).input(&ids).input(&n).finish()
}

fn unsorted_sum() -> OpDef {
    definition("UnsortedSegmentSum", NUMBERS, "Tindices: {int16, int32, int64}")
        .doc("The sums of rows with the same id, in any order; rows with a negative id are dropped.")
        .gradient(sum_grad)
        .cpu(|init| Ok(Box::new(Unsorted(folds::sums(init.input_types[0])))))
        .sample(|s| sample(s, "UnsortedSegmentSum"))
        .sample(|s| flat_sample(s, "UnsortedSegmentSum"))
}

fn unsorted_prod() -> OpDef {
    definition("UnsortedSegmentProd", NUMBERS, INDICES)
        .doc("The products of rows with the same id, in any order; rows with a negative id are dropped.")
        .gradient(prod_grad)
        .cpu(|init| Ok(Box::new(Unsorted(folds::products(init.input_types[0])))))
        .sample(|s| sample(s, "UnsortedSegmentProd"))
        .sample(|s| {
            let x = s.input(Tensor::from([2.0f64, 0.0, 3.0, 0.0, 0.0, 4.0]))?;
            let (ids, n) = (s.constant([0i64, 0, 0, 1, 1, 2])?, s.constant(3i32)?);
            s.op("UnsortedSegmentProd").input(&x).input(&ids).input(&n).finish()
        })
}

fn unsorted_max() -> OpDef {
    definition("UnsortedSegmentMax", REALS, INDICES)
        .doc("The largest elements of rows with the same id; the lowest value of the type where there is none.")
        .gradient(extreme_grad)
        .cpu(|init| Ok(Box::new(Unsorted(folds::maxima(init.input_types[0], true)))))
        .sample(|s| sample(s, "UnsortedSegmentMax"))
        .sample(|s| flat_sample(s, "UnsortedSegmentMax"))
}

fn unsorted_min() -> OpDef {
    definition("UnsortedSegmentMin", REALS, INDICES)
        .doc("The smallest elements of rows with the same id; the highest value of the type where there is none.")
        .gradient(extreme_grad)
        .cpu(|init| Ok(Box::new(Unsorted(folds::minima(init.input_types[0], true)))))
        .sample(|s| sample(s, "UnsortedSegmentMin"))
}

register_ops!(unsorted_sum, unsorted_prod, unsorted_max, unsorted_min);

#[cfg(test)]
mod tests {
    use crate::spread::tests::Scattered;
    use crate::testing::Interpreter;
    use actorflow_core::error::Result;
    use actorflow_core::{DType, Graph, PartialShape, Tensor};

    fn run(op: &str, data: impl Into<Tensor>, ids: impl Into<Tensor>, n: impl Into<Tensor>) -> Result<Tensor> {
        let (g, n) = (Graph::new(), n.into());
        let (x, ids) = (g.constant(data)?, g.constant(ids)?);
        let p = g.placeholder("n", n.dtype(), PartialShape::UNKNOWN)?;
        let y = g.op(op).input(&x).input(&ids).input(&p).output()?;
        Ok(Interpreter::default().run(&[y], &[], &[(p, n)])?.remove(0))
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn rows_go_to_their_segments_in_any_order() {
        let x = || Tensor::from([[1f32, 2.], [3., 4.], [5., 6.]]);
        let f = |op| run(op, x(), [2i32, 0, -1], 4i32).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(f("UnsortedSegmentSum"), [3.0, 4.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0]);
        assert_eq!(f("UnsortedSegmentProd"), [3.0, 4.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0]);
        let (low, high) = (f32::MIN, f32::MAX);
        assert_eq!(f("UnsortedSegmentMax"), [3.0, 4.0, low, low, 1.0, 2.0, low, low]);
        assert_eq!(f("UnsortedSegmentMin"), [3.0, 4.0, high, high, 1.0, 2.0, high, high]);
        let nan = run(
            "UnsortedSegmentMax",
            [f32::NAN, 1., 2., f32::NAN],
            [0i32, 0, 1, 1],
            2i32,
        )
        .unwrap();
        let nan = nan.to_vec::<f32>().unwrap();
        assert!(nan[0] == 1.0 && nan[1].is_nan());
    }

    #[test]
    fn ids_may_have_any_rank() {
        let ones = || Tensor::full([2, 2, 3], 1i16).unwrap();
        let y = run("UnsortedSegmentSum", ones(), [[0i64, 1], [1, 0]], 2i64).unwrap();
        assert_eq!(y, Tensor::full([2, 3], 2i16).unwrap());
        let y = run("UnsortedSegmentMax", ones(), 1i32, 2i32).unwrap();
        assert_eq!(y.shape().dims(), [2, 2, 2, 3]);
        assert_eq!(y.to_vec::<i16>().unwrap()[11..13], [i16::MIN, 1]);
        let y = run(
            "UnsortedSegmentSum",
            Tensor::zeros(DType::F32, [0, 3]).unwrap(),
            Tensor::vector::<i32>(&[]),
            2i32,
        );
        assert_eq!(y.unwrap(), Tensor::full([2, 3], 0f32).unwrap());
    }

    #[test]
    fn bad_operands_are_refused() {
        let x = [1f32, 2., 3.];
        let e = run("UnsortedSegmentSum", x, [2i32, 0, 4], 4i32).unwrap_err();
        assert!(e.message().contains("segment_ids[2] = 4 is out of range [0, 4)"), "{e}");
        assert!(run("UnsortedSegmentSum", x, [2i32, 0, 1], -4i32).is_err());
        assert!(run("UnsortedSegmentSum", x, [2i32, 0], 4i32).is_err());
        assert!(run("UnsortedSegmentSum", x, [2i32, 0, 1], [4i32]).is_err());
        let huge = run(
            "UnsortedSegmentSum",
            Tensor::full([1, 1 << 20], 0f32).unwrap(),
            [0i32],
            i64::MAX,
        );
        assert!(huge.is_err());
    }

    #[test]
    fn sums_do_not_depend_on_the_workers() {
        use super::super::join;
        use crate::reduction::Sum;
        use actorflow_core::kernel::{Device, HostDevice};
        struct Workers(HostDevice);
        impl Device for Workers {
            fn name(&self) -> &str {
                "/device:CPU:0"
            }
            fn parallel(&self) -> &dyn actorflow_core::parallel::Parallel {
                &Scattered
            }
            fn pool(&self) -> &std::sync::Arc<actorflow_core::tensor::Pool> {
                self.0.pool()
            }
        }
        let (rows, inner) = (3000, 100);
        let data: Vec<f32> = (0..rows * inner).map(|i| (i % 97) as f32 * 0.1).collect();
        let ids: Vec<i64> = (0..rows as i64).map(|i| i * 7 % 23 - 1).collect();
        let (mut a, mut b) = (vec![0f32; 22 * inner], vec![0f32; 22 * inner]);
        join::<Sum<f32>>(&HostDevice::default(), &data, &ids, inner, &mut a);
        join::<Sum<f32>>(&Workers(HostDevice::default()), &data, &ids, inner, &mut b);
        assert_eq!(a, b);
    }
}
