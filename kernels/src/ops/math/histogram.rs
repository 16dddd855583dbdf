//! `HistogramFixedWidth`, `Bincount`, `DenseBincount`, `Bucketize`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Element, PartialShape, Tensor, dispatch, register_ops};

use crate::shapes;

fn unwritable() -> Error {
    Error::internal("a new tensor must be writable")
}

/// Numbers as f64, from any of the dtypes of this file.
#[allow(clippy::unnecessary_cast)] // one body for all of them
fn as_f64(t: &Tensor) -> Result<Vec<f64>> {
    dispatch!(t.dtype(), T in [F32, F64, I32, I64] => Ok(t.as_slice::<T>()?.iter().map(|x| *x as f64).collect()),
        else Err(Error::invalid(format!("no histogram of {}", t.dtype()))))
}

fn histogram_kernel(cx: &mut OpContext<'_>, out: DType) -> Result<()> {
    let (values, range, nbins) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    if range.shape().dims() != [2] {
        return Err(Error::invalid(format!(
            "value_range should be a 2-vector, but got shape {}",
            range.shape()
        )));
    }
    if !nbins.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "nbins must be a scalar, but got shape {}",
            nbins.shape()
        )));
    }
    let range = as_f64(range)?;
    let (low, high) = (range[0], range[1]);
    if !(low < high) {
        return Err(Error::invalid(format!(
            "value_range should satisfy value_range[0] < value_range[1], but got '[{low}, {high}]'"
        )));
    }
    let nbins = nbins.to_i64()?;
    let n = usize::try_from(nbins)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Error::invalid(format!("nbins should be a positive number, but got '{nbins}'")))?;
    let step = (high - low) / n as f64;
    let mut counts = cx.zeros(DType::I64, [n])?;
    let bins = counts.as_mut_slice::<i64>().ok_or_else(unwritable)?;
    for v in as_f64(values)? {
        if v.is_nan() {
            return Err(Error::invalid("Histogram values must not contain NaN"));
        }
        let at = ((v.clamp(low, high) - low) / step) as usize;
        bins[at.min(n - 1)] += 1;
    }
    let counts = match out {
        DType::I32 => Tensor::vector(&bins.iter().map(|c| *c as i32).collect::<Vec<_>>()),
        _ => counts,
    };
    cx.set_output(0, counts);
    Ok(())
}

fn size_shape(cx: &ShapeContext<'_>, i: usize) -> PartialShape {
    PartialShape::vector(cx.constant_i64(i).and_then(|n| usize::try_from(n).ok()))
}

fn histogram_fixed_width() -> OpDef {
    OpDef::new("HistogramFixedWidth", Category::Math)
        .doc("How many values fall into each of nbins equal parts of a range; what is outside counts at the ends.")
        .input("values: T")
        .input("value_range: T")
        .input("nbins: int32")
        .output("out: dtype")
        .attr("T: {int32, int64, float, double}")
        .attr("dtype: {int32, int64} = DT_INT32")
        .shape(|cx| Ok(vec![size_shape(cx, 2)]))
        .cpu(|init| {
            let out = init.output_types[0];
            Ok(Box::new(move |cx: &mut OpContext<'_>| histogram_kernel(cx, out)))
        })
}

/// A weight: what is added up.
trait Weight: Element {
    const ONE: Self;
    fn add(&mut self, w: Self);
}

macro_rules! weights {
    ($($t:ty, $one:expr, |$a:ident, $b:ident| $e:expr;)*) => {
        $(impl Weight for $t {
            const ONE: Self = $one;
            fn add(&mut self, $b: Self) {
                let $a = *self;
                *self = $e;
            }
        })*
    };
}
weights! {
    i32, 1, |a, b| a.wrapping_add(b);
    i64, 1, |a, b| a.wrapping_add(b);
    f32, 1.0, |a, b| a + b;
    f64, 1.0, |a, b| a + b;
}

/// Counts the values of each row of `arr`, or adds up their weights.
fn count<T: Weight>(cx: &OpContext<'_>, rows: Option<usize>, binary: bool) -> Result<Tensor> {
    let (arr, size, weights) = (cx.input(0)?, cx.input(1)?, cx.slice::<T>(2)?);
    if !size.shape().is_scalar() && size.len() != 1 {
        return Err(Error::invalid(format!(
            "Shape must be rank 0 but is rank {} for size",
            size.shape().rank()
        )));
    }
    let size = size.to_i64()?;
    let n = usize::try_from(size).map_err(|_| Error::invalid(format!("size ({size}) must be non-negative")))?;
    if !weights.is_empty() && weights.len() != arr.len() {
        return Err(Error::invalid(format!(
            "Input indices and weights must have the same size: {} vs. {}",
            arr.shape(),
            cx.input(2)?.shape()
        )));
    }
    let shape = match rows {
        Some(r) => vec![r, n],
        None => vec![n],
    };
    let mut out = cx.zeros(T::DTYPE, shape)?;
    let bins = out.as_mut_slice::<T>().ok_or_else(unwritable)?;
    let values = arr.to_i64_vec()?;
    if values.iter().any(|v| *v < 0) {
        return Err(Error::invalid("Input arr must be non-negative!"));
    }
    let row = values.len() / rows.unwrap_or(1).max(1);
    for (i, v) in values.iter().enumerate() {
        let Some(v) = usize::try_from(*v).ok().filter(|v| *v < n) else {
            continue;
        };
        let bin = &mut bins[rows.map_or(0, |_| i / row * n) + v];
        if binary {
            *bin = T::ONE;
        } else {
            bin.add(weights.get(i).copied().unwrap_or(T::ONE));
        }
    }
    Ok(out)
}

fn count_kernel(cx: &mut OpContext<'_>, dense: bool, binary: bool) -> Result<()> {
    let arr = cx.input(0)?.shape();
    let rows = match arr.rank() {
        2 if dense => Some(arr[0]),
        r if dense && r > 2 => {
            return Err(Error::invalid(format!("Shape must be at most rank 2 but is rank {r}")));
        }
        _ => None,
    };
    let out = dispatch!(cx.input(2)?.dtype(), T in [I32, I64, F32, F64] => count::<T>(cx, rows, binary)?, else {
        return Err(Error::unimplemented("weights must be int32, int64, float32 or float64"));
    });
    cx.set_output(0, out);
    Ok(())
}

fn bincount() -> OpDef {
    OpDef::new("Bincount", Category::Math)
        .doc("How often each number below size occurs, or the sums of the weights of its occurrences.")
        .input("arr: int32")
        .input("size: int32")
        .input("weights: T")
        .output("bins: T")
        .attr("T: {int32, int64, float, double}")
        .shape(|cx| Ok(vec![size_shape(cx, 1)]))
        .cpu(|_| Ok(Box::new(|cx: &mut OpContext<'_>| count_kernel(cx, false, false))))
}

fn dense_bincount() -> OpDef {
    OpDef::new("DenseBincount", Category::Math)
        .doc("Bincount of a vector or of each row of a matrix; with binary_output, whether a number occurs.")
        .input("input: Tidx")
        .input("size: Tidx")
        .input("weights: T")
        .output("output: T")
        .attr("Tidx: {int32, int64}")
        .attr("T: {int32, int64, float, double}")
        .attr("binary_output: bool = false")
        .shape(|cx| {
            let (arr, size) = (cx.input(0), size_shape(cx, 1));
            Ok(vec![match arr.rank() {
                None => PartialShape::UNKNOWN,
                Some(2) => PartialShape::vector(arr.dim(0)).concat(&size),
                Some(r) if r > 2 => {
                    return Err(Error::invalid(format!("Shape must be at most rank 2 but is rank {r}")));
                }
                Some(_) => size,
            }])
        })
        .cpu(|init| {
            let binary = init.attrs.bool("binary_output")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| count_kernel(cx, true, binary)))
        })
}

struct Bucketize(Vec<f32>);

impl Kernel for Bucketize {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let x = cx.input(0)?;
        let mut out = cx.alloc(DType::I32, x.shape())?;
        let y = out.as_mut_slice::<i32>().ok_or_else(unwritable)?;
        macro_rules! place {
            ($t:ty, $f:ty) => {
                for (y, x) in y.iter_mut().zip(x.as_slice::<$t>()?) {
                    // Not "b <= x": NaN is above all boundaries.
                    let above = self.0.partition_point(|b| !((*x as $f) < <$f>::from(*b)));
                    *y = above as i32;
                }
            };
        }
        match x.dtype() {
            DType::F32 => place!(f32, f32),
            DType::F64 => place!(f64, f64),
            DType::I32 => place!(i32, f32),
            DType::I64 => place!(i64, f32),
            d => return Err(Error::invalid(format!("Bucketize has no CPU kernel for {d}"))),
        }
        cx.set_output(0, out);
        Ok(())
    }
}

fn bucketize_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let boundaries = init.attrs.floats("boundaries")?;
    if !boundaries.is_sorted() {
        return Err(Error::invalid("Expected sorted boundaries"));
    }
    Ok(Box::new(Bucketize(boundaries)))
}

fn bucketize() -> OpDef {
    OpDef::new("Bucketize", Category::Math)
        .doc("The number of boundaries that are not above each element.")
        .input("input: T")
        .output("output: int32")
        .attr("T: {int32, int64, float, double}")
        .attr("boundaries: list(float)")
        .shape(shapes::like_first)
        .cpu(bucketize_kernel)
}

register_ops!(histogram_fixed_width, bincount, dense_bincount, bucketize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Output};

    fn apply(op: &str, inputs: Vec<Tensor>, attrs: &[(&str, actorflow_core::AttrValue)]) -> Output {
        let g = Graph::new();
        let mut b = g.op(op);
        for x in inputs {
            b = b.input(&g.constant(x).unwrap());
        }
        for (k, v) in attrs {
            b = b.attr(k, v.clone());
        }
        b.output().unwrap()
    }

    #[test]
    fn values_fall_into_bins_and_outliers_into_the_last_ones() {
        let v = Tensor::vector(&[-1.0f32, 0.0, 0.5, 1.0, 2.0, 5.0, 100.0, 2.5]);
        let h = |v: Tensor, n: i32| apply("HistogramFixedWidth", vec![v, [0.0f32, 5.0].into(), n.into()], &[]);
        assert_eq!(eval(&h(v.clone(), 5)), Tensor::from([3i32, 1, 2, 0, 2].to_vec()));
        assert!(fails(&h(v, 0)).message().contains("nbins"));
        assert!(fails(&h(f32::NAN.into(), 5)).message().contains("NaN"));
    }

    #[test]
    fn occurrences_are_counted_and_weighed() {
        let none = Tensor::vector::<f32>(&[]);
        let bins = |arr: [i32; 4], n: i32, w: Tensor| apply("Bincount", vec![arr.into(), n.into(), w], &[]);
        assert_eq!(
            eval(&bins([1, 2, 2, 7], 4, none.clone())),
            Tensor::from([0.0f32, 1.0, 2.0, 0.0])
        );
        let w = Tensor::from([1.0f32, 2.0, 3.0, 4.0]);
        assert_eq!(eval(&bins([1, 2, 2, 7], 4, w)), Tensor::from([0.0f32, 1.0, 5.0, 0.0]));
        assert!(
            fails(&bins([1, -2, 0, 0], 4, none.clone()))
                .message()
                .contains("non-negative")
        );
        assert!(
            fails(&bins([1, 2, 0, 0], -4, none.clone()))
                .message()
                .contains("size (-4)")
        );
        let rows = Tensor::from([[1i32, 2, 2, 7], [0, 0, 1, 1]]);
        let dense = |binary: bool| {
            let attrs = [("binary_output", binary.into())];
            eval(&apply(
                "DenseBincount",
                vec![rows.clone(), 4i32.into(), none.clone()],
                &attrs,
            ))
        };
        assert_eq!(
            dense(false),
            Tensor::from([[0.0f32, 1.0, 2.0, 0.0], [2.0, 2.0, 0.0, 0.0]])
        );
        assert_eq!(
            dense(true),
            Tensor::from([[0.0f32, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
        );
    }

    #[test]
    fn boundaries_belong_to_the_bucket_above() {
        let attrs = [("boundaries", vec![0.0f32, 1.0, 2.0].into())];
        let x = Tensor::vector(&[f32::NAN, -9.0, 0.0, 1.0, 1.5, 5.0]);
        assert_eq!(
            eval(&apply("Bucketize", vec![x], &attrs)),
            Tensor::from([3i32, 0, 1, 2, 2, 3].to_vec())
        );
        let unsorted = [("boundaries", vec![2.0f32, 1.0].into())];
        assert!(
            fails(&apply("Bucketize", vec![1i64.into()], &unsorted))
                .message()
                .contains("sorted")
        );
    }
}
