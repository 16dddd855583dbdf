//! `IsotonicRegression`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{dispatch, register_ops};
use half::{bf16, f16};

use super::rows::writable;
use crate::spread;

/// A number that can be averaged.
trait Averaged: Element {
    fn wide(self) -> f64;
}

/// A number that an average is rounded to.
trait Average: Element {
    fn of(x: f64) -> Self;
}

macro_rules! averaged {
    ($($t:ty, |$x:ident| $wide:expr;)*) => {
        $(impl Averaged for $t {
            fn wide(self) -> f64 {
                let $x = self;
                $wide
            }
        })*
    };
}

macro_rules! averages {
    ($($t:ty, |$x:ident| $of:expr;)*) => {
        $(impl Average for $t {
            fn of($x: f64) -> $t {
                $of
            }
        })*
    };
}

averaged! {
    f32, |x| x.into();
    f64, |x| x;
    f16, |x| x.to_f64();
    bf16, |x| x.to_f64();
    i8, |x| x.into();
    i16, |x| x.into();
    i32, |x| x.into();
    i64, |x| x as f64;
    u8, |x| x.into();
    u16, |x| x.into();
    u32, |x| x.into();
    u64, |x| x as f64;
}

averages! {
    f32, |x| x as f32;
    f64, |x| x;
    f16, |x| f16::from_f64(x);
    bf16, |x| bf16::from_f64(x);
}

/// Neighbouring elements with one value.
struct Block {
    sum: f64,
    count: usize,
}

impl Block {
    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// The non-increasing row nearest to `x` in the square, and the number of each element's block: pool adjacent violators
/// (Best and Chakravarti, Mathematical Programming 47, 1990).
fn regress<T: Averaged, R: Average>(x: &[T], y: &mut [R], segments: &mut [i32], blocks: &mut Vec<Block>) {
    blocks.clear();
    for x in x {
        let mut last = Block {
            sum: x.wide(),
            count: 1,
        };
        while let Some(block) = blocks.pop_if(|b| b.mean() < last.mean()) {
            last.sum += block.sum;
            last.count += block.count;
        }
        blocks.push(last);
    }
    let mut at = 0;
    for (i, block) in blocks.iter().enumerate() {
        let here = at..at + block.count;
        y[here.clone()].fill(R::of(block.mean()));
        segments[here].fill(i as i32);
        at += block.count;
    }
}

fn regress_rows<T: Averaged, R: Average>(cx: &mut OpContext<'_>) -> Result<()> {
    let input = cx.input(0)?;
    let shape = input.shape().clone();
    let Some(&n) = shape.last() else {
        return Err(Error::invalid("input must have at least 1 dimension, got a scalar"));
    };
    if i32::try_from(n).is_err() {
        return Err(Error::invalid(format!("rows of {n} elements are too long")));
    }
    let (mut y, mut segments) = (cx.alloc(R::DTYPE, &shape)?, cx.alloc(DType::I32, &shape)?);
    if n > 0 {
        let x = input.as_slice::<T>()?;
        let rows = spread::rows_of(16 * n);
        let (to, ids) = (writable::<R>(&mut y)?, writable::<i32>(&mut segments)?);
        spread::chunks2(cx.parallel(), (to, rows * n), (ids, rows * n), |at, to, ids| {
            let mut blocks = Vec::new();
            let x = x[at * rows * n..].chunks(n);
            for ((x, to), ids) in x.zip(to.chunks_mut(n)).zip(ids.chunks_mut(n)) {
                regress(x, to, ids, &mut blocks);
            }
        });
    }
    cx.set_output(0, y);
    cx.set_output(1, segments);
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (from, to) = (init.input_types[0], init.output_types[0]);
    // As TensorFlow: small floats stay, small integers become single, all others double.
    let natural = match from {
        DType::F32 | DType::F16 | DType::BF16 => from,
        DType::I8 | DType::I16 => DType::F32,
        _ => DType::F64,
    };
    if to != natural {
        return Err(Error::unimplemented(format!(
            "IsotonicRegression of {from} gives {natural}; output_dtype must say so, got {to}"
        )));
    }
    dispatch!(from, T in [F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64] => {
        dispatch!(to, R in [F32, F64, F16, BF16] => {
            Ok(Box::new(|cx: &mut OpContext<'_>| regress_rows::<T, R>(cx)))
        }, else Err(init.no_kernel()))
    }, else Err(init.no_kernel()))
}

/// Each element gets its block's mean gradient.
fn regression_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, x, dy, segments) = (cx.graph(), cx.input(0)?, cx.dense(grads, 0)?, cx.output(1)?);
    let shape = dy.shape_op()?;
    let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
    // Blocks are numbered through all rows: the first block of a row has the position of its first element.
    let n = shape.gather(&dy.rank_op()?.minus(&one)?, 0)?;
    let size = g.op("Size").input(&dy).output()?;
    let step = n.maximum(&one)?;
    let starts = g.op("Range").input(&zero).input(&size).input(&step).output()?;
    let rows = g.stack(&[g.constant(-1i32)?, step], 0)?;
    let ids = segments
        .reshape_to(&rows)?
        .plus(&starts.expand_dims(-1)?)?
        .reshape(&[-1])?;
    let flat = dy.reshape(&[-1])?;
    let sum = |x: &actorflow_core::Output| {
        let sums = g.op("UnsortedSegmentSum").input(x).input(&ids).input(&size).output()?;
        sums.gather(&ids, 0)
    };
    let mean = sum(&flat)?.divided_by(&sum(&flat.unary("OnesLike")?)?)?;
    Ok(vec![Some(mean.reshape_to(&shape)?.cast(x.dtype())?.into())])
}

fn isotonic_regression() -> OpDef {
    OpDef::new("IsotonicRegression", Category::Nn)
        .doc("The nearest non-increasing row to each row, in the square, and the numbers of its blocks of equal elements.")
        .input("input: T")
        .output("output: output_dtype")
        .output("segments: int32")
        .attr("T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}")
        .attr("output_dtype: {half, bfloat16, float, double} = DT_FLOAT")
        .shape(|cx| Ok(vec![cx.input(0).with_rank_at_least(1)?; 2]))
        .gradient(regression_grad)
        .cpu(kernel)
        .sample(|s| {
            let x = s.normal([3, 5])?;
            s.op("IsotonicRegression")
                .input(&x)
                .attr("output_dtype", DType::F64)
                .finish()
        })
}

register_ops!(isotonic_regression);

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::{DType, Graph, Tensor};

    fn run(x: impl Into<Tensor>, to: DType) -> [Tensor; 2] {
        let g = Graph::new();
        let node = g.op("IsotonicRegression").input(&g.constant(x).unwrap());
        let op = node.attr("output_dtype", to).finish().unwrap();
        let out = Interpreter::default().run(&op.outputs(), &[], &[]).unwrap();
        out.try_into().unwrap()
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn rows_do_not_increase_and_equal_neighbours_stay_apart() {
        let [y, ids] = run([[1f32, 2., 1., 2.], [4., 3., 2., 1.]], DType::F32);
        assert_eq!(y, Tensor::from([[1.5f32; 4], [4., 3., 2., 1.]]));
        assert_eq!(ids, Tensor::from([[0i32, 0, 1, 1], [0, 1, 2, 3]]));
        let [y, ids] = run([3f32, 3., 1., 1.], DType::F32);
        assert_eq!(
            (y, ids),
            (Tensor::from([3f32, 3., 1., 1.]), Tensor::from([0i32, 1, 2, 3]))
        );
        let [y, _] = run([1i32, 2, 4], DType::F64);
        assert_eq!(y, Tensor::from([7.0 / 3.0; 3]));
        let [y, _] = run([1f32, f32::NAN, 2.], DType::F32);
        let y = y.to_vec::<f32>().unwrap();
        assert!(y[0] == 1.0 && y[1].is_nan() && y[2] == 2.0);
        assert_eq!(
            run(Tensor::zeros(DType::I8, [2, 0]).unwrap(), DType::F32)[1]
                .shape()
                .dims(),
            [2, 0]
        );
    }

    #[test]
    fn the_output_type_follows_from_the_input() {
        let g = Graph::new();
        let x = g.constant([1i32]).unwrap();
        let e = crate::testing::fails(&g.op("IsotonicRegression").input(&x).output().unwrap());
        assert!(e.message().contains("output_dtype"), "{e}");
    }
}
