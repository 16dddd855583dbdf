//! `SparseSegmentSum`, `-Mean`, `-SqrtN`, with and without the number of segments, and their gradients: segments of
//! rows that an index picks.
#![forbid(unsafe_code)]

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext, IndexedSlices};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Operation, Output, PartialShape, Tensor, dispatch, register_ops};
use half::{bf16, f16};

use super::super::shared::elements;
use super::sorted::{check_sorted, runs};
use super::wide_ids;

/// What a segment's sum is divided by.
#[derive(Clone, Copy, PartialEq)]
enum By {
    One,
    Count,
    RootOfCount,
}

impl By {
    fn scale(self, count: u32) -> f64 {
        match self {
            By::One => 1.0,
            By::Count => 1.0 / f64::from(count.max(1)),
            By::RootOfCount => 1.0 / f64::from(count.max(1)).sqrt(),
        }
    }
}

/// A number that rows are summed in.
trait Wide: Element {
    fn plus(self, b: Self) -> Self;
    fn scaled(self, by: f64) -> Self;
}

/// An element and the number it is summed in.
trait Sums: Element {
    type Wide: Wide;
    fn widen(self) -> Self::Wide;
    fn narrow(x: Self::Wide) -> Self;
}

macro_rules! wides {
    ($($t:ty, |$a:ident, $b:ident| $sum:expr, |$x:ident, $s:ident| $scaled:expr;)*) => {
        $(impl Wide for $t {
            #[inline(always)]
            fn plus(self, $b: $t) -> $t {
                let $a = self;
                $sum
            }
            #[inline(always)]
            #[allow(unused_variables, reason = "integers are summed only")]
            fn scaled(self, $s: f64) -> $t {
                let $x = self;
                $scaled
            }
        })*
    };
}

wides! {
    f32, |a, b| a + b, |x, s| x * s as f32;
    f64, |a, b| a + b, |x, s| x * s;
    i64, |a, b| a.wrapping_add(b), |x, s| x;
}

macro_rules! sums {
    ($($t:ty, $w:ty, |$a:ident| $widen:expr, |$b:ident| $narrow:expr;)*) => {
        $(impl Sums for $t {
            type Wide = $w;
            #[inline(always)]
            fn widen(self) -> $w {
                let $a = self;
                $widen
            }
            #[inline(always)]
            fn narrow($b: $w) -> $t {
                $narrow
            }
        })*
    };
}

sums! {
    f32, f32, |a| a, |b| b;
    f64, f64, |a| a, |b| b;
    f16, f32, |a| a.to_f32(), |b| f16::from_f32(b);
    bf16, f32, |a| a.to_f32(), |b| bf16::from_f32(b);
    i8, i64, |a| i64::from(a), |b| b as i8;
    i16, i64, |a| i64::from(a), |b| b as i16;
    i32, i64, |a| i64::from(a), |b| b as i32;
    i64, i64, |a| a, |b| b;
    u8, i64, |a| i64::from(a), |b| b as u8;
    u16, i64, |a| i64::from(a), |b| b as u16;
    u32, i64, |a| i64::from(a), |b| b as u32;
    u64, i64, |a| a as i64, |b| b as u64;
}

/// `to[row of each]` is the sum of `from[row]` times its factor over the pairs (row of `from`, row of `to`).
fn sum_rows<T: Sums>(
    device: &dyn Device,
    from: &[T],
    to: &mut [T],
    inner: usize,
    pairs: impl Iterator<Item = (usize, usize, f64)>,
) -> Result<()> {
    if inner == 0 {
        return Ok(());
    }
    let mut wide = Tensor::alloc_in(device.pool(), T::Wide::DTYPE, [to.len()].into())?;
    let wide = elements::<T::Wide>(&mut wide)?;
    wide.fill(T::Wide::default());
    for (source, target, factor) in pairs {
        let x = &from[source * inner..][..inner];
        let y = &mut wide[target * inner..][..inner];
        if factor == 1.0 {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = y.plus(x.widen()));
        } else {
            y.iter_mut()
                .zip(x)
                .for_each(|(y, x)| *y = y.plus(x.widen().scaled(factor)));
        }
    }
    to.iter_mut().zip(wide).for_each(|(t, w)| *t = T::narrow(*w));
    Ok(())
}

/// The indices and segment ids, checked to be vectors of one length.
fn pairs(cx: &OpContext<'_>) -> Result<(Tensor, Tensor)> {
    let (indices, ids) = (cx.input(1)?, cx.input(2)?);
    for (name, t) in [("indices", indices), ("segment_ids", ids)] {
        if t.shape().rank() != 1 {
            return Err(Error::invalid(format!(
                "{name} should be a vector, got shape {}",
                t.shape()
            )));
        }
    }
    if indices.len() != ids.len() {
        return Err(Error::invalid(format!(
            "segment_ids and indices should have same size: {} and {}",
            ids.len(),
            indices.len()
        )));
    }
    let device = &*cx.step().device;
    Ok((wide_ids(device, indices)?, wide_ids(device, ids)?))
}

fn check_index(i: usize, index: i64, rows: usize) -> Result<()> {
    if usize::try_from(index).is_ok_and(|x| x < rows) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "indices[{i}] == {index} is out of range [0, {rows})"
    )))
}

/// A non-negative size that input `i`, a scalar, holds.
fn size_input(cx: &OpContext<'_>, i: usize, name: &str) -> Result<usize> {
    let t = cx.input(i)?;
    if !t.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "{name} should be a scalar, not shape {}",
            t.shape()
        )));
    }
    let n = t.to_i64()?;
    usize::try_from(n).map_err(|_| Error::invalid(format!("{name} == {n} must not be negative")))
}

fn forward<T: Sums>(cx: &mut OpContext<'_>, by: By) -> Result<()> {
    let data = cx.input(0)?;
    let shape = data.shape();
    let Some(&rows) = shape.first() else {
        return Err(Error::invalid("the data must have at least 1 dimension, got a scalar"));
    };
    let (indices, ids) = pairs(cx)?;
    let (indices, ids) = (indices.as_slice::<i64>()?, ids.as_slice::<i64>()?);
    let mut segments = check_sorted(ids)?;
    if cx.num_inputs() > 3 {
        let number = size_input(cx, 3, "num_segments")?;
        if number < segments {
            return Err(Error::invalid(format!(
                "segment ids must be < num_segments: {} is not less than {number}",
                segments - 1
            )));
        }
        segments = number;
    }
    indices
        .iter()
        .enumerate()
        .try_for_each(|(i, x)| check_index(i, *x, rows))?;
    let mut out = cx.alloc(T::DTYPE, shape.with_replaced(0, 1, &[segments]))?;
    let inner: usize = shape[1..].iter().product();
    let to = elements::<T>(&mut out)?;
    let each = indices.iter().zip(ids).map(|(i, s)| (*i as usize, *s as usize, 1.0));
    sum_rows(&*cx.step().device, cx.slice::<T>(0)?, to, inner, each)?;
    if by != By::One {
        for (segment, n) in runs(ids) {
            let (row, scale) = (&mut to[segment * inner..][..inner], by.scale(n));
            row.iter_mut().for_each(|x| *x = T::narrow(x.widen().scaled(scale)));
        }
    }
    cx.set_output(0, out);
    Ok(())
}

/// Where the gradient's rows go: with `compact`, output 1 lists the rows that are reached, ascending, and output 0 has these
/// rows only.
fn backward<T: Sums>(cx: &mut OpContext<'_>, by: By, compact: bool) -> Result<()> {
    let shape = cx.input(0)?.shape();
    let Some(&segments) = shape.first() else {
        return Err(Error::invalid(
            "the gradient must have at least 1 dimension, got a scalar",
        ));
    };
    let rows = size_input(cx, 3, "output_dim0")?;
    let (indices, ids) = pairs(cx)?;
    let (indices, ids) = (indices.as_slice::<i64>()?, ids.as_slice::<i64>()?);
    for (i, (index, id)) in indices.iter().zip(ids).enumerate() {
        check_index(i, *index, rows)?;
        if usize::try_from(*id).map_or(true, |id| id >= segments) {
            return Err(Error::invalid(format!(
                "segment id {id} at position {i} is out of range [0, {segments}): invalid number of segments"
            )));
        }
    }
    let reached = compact.then(|| {
        let mut all = indices.to_vec();
        all.sort_unstable();
        all.dedup();
        all
    });
    let rows = reached.as_ref().map_or(rows, Vec::len);
    // The index is among the reached ones.
    let row_of = |i: i64| match &reached {
        Some(reached) => reached.partition_point(|r| *r < i),
        None => i as usize,
    };
    let mut out = cx.alloc(T::DTYPE, shape.with_replaced(0, 1, &[rows]))?;
    let inner: usize = shape[1..].iter().product();
    let mut counts = vec![0u32; if inner == 0 { 0 } else { segments }];
    if inner > 0 {
        ids.iter().for_each(|id| counts[*id as usize] += 1);
    }
    let each = indices
        .iter()
        .zip(ids)
        .map(|(i, s)| (*s as usize, row_of(*i), by.scale(counts[*s as usize])));
    let device = &*cx.step().device;
    sum_rows(device, cx.slice::<T>(0)?, elements::<T>(&mut out)?, inner, each)?;
    cx.set_output(0, out);
    if let Some(reached) = &reached {
        let narrow = || reached.iter().map(|i| *i as i32).collect::<Vec<_>>();
        let list = match cx.input(1)?.dtype() {
            DType::I32 => Tensor::vector(&narrow()),
            _ => Tensor::vector(reached),
        };
        cx.set_output(1, list);
    }
    Ok(())
}

fn forward_kernel(init: &KernelInit<'_>, by: By) -> Result<Box<dyn Kernel>> {
    dispatch!(init.input_types[0], T in reals => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| forward::<T>(cx, by)))
    }, else Err(init.no_kernel()))
}

fn backward_kernel(init: &KernelInit<'_>, by: By, compact: bool) -> Result<Box<dyn Kernel>> {
    dispatch!(init.input_types[0], T in floats => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| backward::<T>(cx, by, compact)))
    }, else Err(init.no_kernel()))
}

fn segment_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let data = cx.input(0).with_rank_at_least(1)?;
    cx.input(1).with_rank(1)?.merge(&cx.input(2).with_rank(1)?)?;
    let segments = if cx.num_inputs() > 3 { cx.constant_i64(3) } else { None };
    Ok(vec![data.with_dim(0, segments.and_then(|n| usize::try_from(n).ok()))])
}

/// One divisor: the op, its form with the number of segments, and both forms of its gradient.
struct Family {
    name: &'static str,
    with_number: &'static str,
    grad: &'static str,
    compact_grad: &'static str,
    by: By,
}

const SUM: Family = Family {
    name: "SparseSegmentSum",
    with_number: "SparseSegmentSumWithNumSegments",
    grad: "SparseSegmentSumGrad",
    compact_grad: "SparseSegmentSumGradV2",
    by: By::One,
};
const MEAN: Family = Family {
    name: "SparseSegmentMean",
    with_number: "SparseSegmentMeanWithNumSegments",
    grad: "SparseSegmentMeanGrad",
    compact_grad: "SparseSegmentMeanGradV2",
    by: By::Count,
};
const SQRT_N: Family = Family {
    name: "SparseSegmentSqrtN",
    with_number: "SparseSegmentSqrtNWithNumSegments",
    grad: "SparseSegmentSqrtNGrad",
    compact_grad: "SparseSegmentSqrtNGradV2",
    by: By::RootOfCount,
};

const REALS: &str = "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}";
const FLOATS: &str = "T: {bfloat16, half, float, double}";

/// Each row's share of its segment's gradient, as slices with the rows' indices.
fn slices(cx: &GradContext, dy: &Output, by: By) -> Result<IndexedSlices> {
    let (indices, ids) = (cx.input(1)?, cx.input(2)?);
    let mut values = dy.gather(&ids, 0)?;
    if by != By::One {
        let g = cx.graph();
        let one = g.constant(1i32)?;
        let more = dy.rank_op()?.minus(&one)?.expand_dims(0)?.fill_with(&one)?;
        let shape = g.concat(&[ids.shape_op()?, more], 0)?;
        let ones = shape.fill_with(&dy.scalar_like(1.0)?)?;
        let counts = g.op("SegmentSum").input(&ones).input(&ids).output()?.gather(&ids, 0)?;
        let divisor = if by == By::Count { counts } else { counts.sqrt()? };
        values = values.divided_by(&divisor)?;
    }
    Ok(IndexedSlices {
        values,
        indices,
        dense_shape: cx.input(0)?.shape_op()?,
    })
}

fn segment_grad(cx: &GradContext, grads: &[Option<Grad>], family: &Family) -> Result<Vec<Option<Grad>>> {
    let dy = cx.dense(grads, 0)?;
    let mut out = cx.none()?;
    out[0] = Some(if cx.attrs().bool("sparse_gradient")? {
        slices(cx, &dy, family.by)?.into()
    } else {
        let g = cx.graph();
        let rows = cx.input(0)?.shape_op()?.gather(&g.constant(0i32)?, 0)?;
        let dx = g
            .op(family.grad)
            .input(&dy)
            .input(&cx.input(1)?)
            .input(&cx.input(2)?)
            .input(&rows)
            .output()?;
        dx.into()
    });
    Ok(out)
}

fn definition(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("data: T")
        .input("indices: Tidx")
        .input("segment_ids: Tsegmentids")
        .output("output: T")
        .attr(types)
        .attr("Tidx: {int32, int64} = DT_INT32")
        .attr("Tsegmentids: {int32, int64} = DT_INT32")
        .attr("sparse_gradient: bool = false")
        .shape(segment_shape)
}

fn numbered(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("data: T")
        .input("indices: Tidx")
        .input("segment_ids: Tsegmentids")
        .input("num_segments: Tnumsegments")
        .output("output: T")
        .attr(types)
        .attr("Tidx: {int32, int64} = DT_INT32")
        .attr("Tnumsegments: {int32, int64} = DT_INT32")
        .attr("Tsegmentids: {int32, int64} = DT_INT32")
        .attr("sparse_gradient: bool = false")
        .shape(segment_shape)
}

fn gradient_op(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("grad: T")
        .input("indices: Tidx")
        .input("segment_ids: Tsegmentids")
        .input("output_dim0: int32")
        .output("output: T")
        .attr(FLOATS)
        .attr("Tidx: {int32, int64} = DT_INT32")
        .attr("Tsegmentids: {int32, int64} = DT_INT32")
        .shape(segment_shape)
}

fn compact_gradient_op(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("grad: T")
        .input("indices: Tidx")
        .input("segment_ids: Tsegmentids")
        .input("dense_output_dim0: int32")
        .output("output: T")
        .output("sorted_unique_indices: Tidx")
        .attr(FLOATS)
        .attr("Tidx: {int32, int64} = DT_INT32")
        .attr("Tsegmentids: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let grad = cx.input(0).with_rank_at_least(1)?;
            cx.input(1).with_rank(1)?.merge(&cx.input(2).with_rank(1)?)?;
            Ok(vec![grad.with_dim(0, None), PartialShape::vector(None)])
        })
}

fn sample(s: &mut Sampler, op: &str, number: bool, sparse_gradient: bool) -> Result<Operation> {
    let x = s.normal([4, 2])?;
    let (indices, ids) = (s.constant([3i32, 0, 0, 1])?, s.constant([0i32, 0, 2, 2])?);
    let n = s.constant(5i32)?;
    let node = s.op(op).input(&x).input(&indices).input(&ids);
    let node = if number { node.input(&n) } else { node };
    node.attr("sparse_gradient", sparse_gradient).finish()
}

macro_rules! family {
    ($($family:ident $types:ident $plain:ident $numbered:ident $grad:ident $compact:ident $doc:literal;)*) => {
        $(fn $plain() -> OpDef {
            definition($family.name, $types)
                .doc(concat!("The ", $doc, " of each segment's rows, which `indices` picks; segment ids ascend."))
                .gradient(|cx, dys| segment_grad(cx, dys, &$family))
                .cpu(|init| forward_kernel(init, $family.by))
                .sample(|s| sample(s, $family.name, false, false))
                .sample(|s| sample(s, $family.name, false, true))
        }
        fn $numbered() -> OpDef {
            numbered($family.with_number, $types)
                .doc(concat!("The ", $doc, " of each of `num_segments` segments' rows; segments without rows are 0."))
                .gradient(|cx, dys| segment_grad(cx, dys, &$family))
                .cpu(|init| forward_kernel(init, $family.by))
                .sample(|s| sample(s, $family.with_number, true, false))
                .sample(|s| sample(s, $family.with_number, true, true))
        }
        fn $grad() -> OpDef {
            gradient_op($family.grad)
                .doc(concat!("The gradient of the ", $doc, " of segments of picked rows."))
                .cpu(|init| backward_kernel(init, $family.by, false))
        }
        fn $compact() -> OpDef {
            compact_gradient_op($family.compact_grad)
                .doc(concat!("The gradient of the ", $doc, " of segments of picked rows: the picked rows only."))
                .cpu(|init| backward_kernel(init, $family.by, true))
        })*
        register_ops!($($plain, $numbered, $grad, $compact),*);
    };
}

family! {
    SUM REALS sum sum_numbered sum_grad sum_compact "sum";
    MEAN FLOATS mean mean_numbered mean_grad mean_compact "mean";
    SQRT_N FLOATS sqrt_n sqrt_n_numbered sqrt_n_grad sqrt_n_compact "sum, divided by the root of the number,";
}

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::error::Result;
    use actorflow_core::{Graph, Tensor};

    const X: [[f32; 2]; 3] = [[1., 2.], [3., 4.], [5., 6.]];

    fn run(op: &str, indices: &[i32], ids: &[i32], n: Option<i32>) -> Result<Vec<f32>> {
        let g = Graph::new();
        let mut node = g
            .op(op)
            .input(&g.constant(X)?)
            .input(&g.constant(indices)?)
            .input(&g.constant(ids)?);
        if let Some(n) = n {
            node = node.input(&g.constant(n)?);
        }
        Interpreter::default().run(&[node.output()?], &[], &[])?[0].to_vec::<f32>()
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn picked_rows_are_summed() {
        let f = |op| run(op, &[0, 2, 1], &[0, 0, 2], None).unwrap();
        assert_eq!(f("SparseSegmentSum"), [6., 8., 0., 0., 3., 4.]);
        assert_eq!(f("SparseSegmentMean"), [3., 4., 0., 0., 3., 4.]);
        assert_eq!(f("SparseSegmentSqrtN"), [4.242_640_5, 5.656_854, 0., 0., 3., 4.]);
        let f = |op| run(op, &[0, 2, 1], &[0, 0, 2], Some(4)).unwrap();
        assert_eq!(f("SparseSegmentSumWithNumSegments"), [6., 8., 0., 0., 3., 4., 0., 0.]);
        let g = |op| run(op, &[0, 2, 1, 0], &[0, 0, 2, 2], Some(4)).unwrap();
        assert_eq!(g("SparseSegmentSumGrad"), [6., 8., 5., 6., 1., 2., 0., 0.]);
        assert_eq!(g("SparseSegmentMeanGrad"), [3., 4., 2.5, 3., 0.5, 1., 0., 0.]);
        let root = g("SparseSegmentSqrtNGrad");
        assert!((root[0] - 4.242_640_5).abs() < 1e-6 && (root[4] - 0.707_106_77).abs() < 1e-6);
        assert!(run("SparseSegmentSum", &[], &[], None).unwrap().is_empty());
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn compact_gradients_have_the_picked_rows_only() {
        let g = Graph::new();
        let run = |op: &str| {
            let node = g
                .op(op)
                .input(&g.constant(X).unwrap())
                .input(&g.constant([7i32, 0, 0, 7]).unwrap())
                .input(&g.constant([0i32, 0, 2, 2]).unwrap())
                .input(&g.constant(8i32).unwrap());
            let outputs = node.finish().unwrap().outputs();
            Interpreter::default().run(&outputs, &[], &[]).unwrap()
        };
        let out = run("SparseSegmentSumGradV2");
        assert_eq!(out, [Tensor::from([[6f32, 8.], [6., 8.]]), Tensor::from([0i32, 7])]);
        let out = run("SparseSegmentMeanGradV2");
        assert_eq!(out[0], Tensor::from([[3f32, 4.], [3., 4.]]));
        let out = run("SparseSegmentSqrtNGradV2")[0].to_vec::<f32>().unwrap();
        assert!((out[0] - 4.242_640_5).abs() < 1e-6 && out.len() == 4);
    }

    #[test]
    fn bad_operands_are_refused() {
        let e = |indices: &[i32], ids: &[i32]| run("SparseSegmentSum", indices, ids, None).is_err();
        assert!(e(&[0, 2, 1], &[1, 0, 2]) && e(&[0, 3, 1], &[0, 0, 2]) && e(&[0, -1, 1], &[0, 0, 2]));
        assert!(e(&[0, 1], &[0]) && e(&[0, 1], &[-1, 0]));
        assert!(run("SparseSegmentSumWithNumSegments", &[0], &[2], Some(2)).is_err());
        assert!(run("SparseSegmentMeanGrad", &[4], &[0], Some(4)).is_err());
        assert!(run("SparseSegmentMeanGrad", &[0], &[3], Some(4)).is_err());
        assert!(run("SparseSegmentSumGradV2", &[4], &[0], Some(4)).is_err());
    }
}
