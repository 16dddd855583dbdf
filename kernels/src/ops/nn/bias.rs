//! `BiasAdd`, `BiasAddV1`, `BiasAddGrad`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::{DType, Element};
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Output, PartialShape, Shape, dispatch, register_ops};
use half::{bf16, f16};
use num_complex::Complex;

use crate::math::madd::Madd;
use crate::ops::reduce::sums;
use crate::reduction::Plan;
use crate::spread::{self, GRAIN};
use crate::wide::{self, Work};

const NUMBERS: &str = "T: {float, double, int32, uint8, int16, int8, complex64, int64, bfloat16, uint16, complex128, \
                       half, uint32, uint64}";

/// Where the channels are: in the last dimension, or in the second.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Last,
    Second,
}

impl Layout {
    fn of(attrs: &actorflow_core::Attrs) -> Result<Layout> {
        match attrs.get("data_format") {
            Some(_) if attrs.str("data_format")? == "NCHW" => Ok(Layout::Second),
            _ => Ok(Layout::Last),
        }
    }

    /// The dimension of the channels of a tensor of this rank, which is at least 2.
    fn axis(self, rank: usize) -> usize {
        match self {
            Layout::Last => rank - 1,
            Layout::Second => 1,
        }
    }
}

/// A number that biases are made of; integers wrap.
trait Number: Element {
    fn plus(self, b: Self) -> Self;
}

macro_rules! numbers {
    ($($t:ty, |$a:ident, $b:ident| $e:expr;)*) => {
        $(impl Number for $t {
            #[inline(always)]
            fn plus(self, $b: $t) -> $t {
                let $a = self;
                $e
            }
        })*
    };
}

numbers! {
    f32, |a, b| a + b;
    f64, |a, b| a + b;
    f16, |a, b| f16::from_f32(a.to_f32() + b.to_f32());
    bf16, |a, b| bf16::from_f32(a.to_f32() + b.to_f32());
    i8, |a, b| a.wrapping_add(b);
    i16, |a, b| a.wrapping_add(b);
    i32, |a, b| a.wrapping_add(b);
    i64, |a, b| a.wrapping_add(b);
    u8, |a, b| a.wrapping_add(b);
    u16, |a, b| a.wrapping_add(b);
    u32, |a, b| a.wrapping_add(b);
    u64, |a, b| a.wrapping_add(b);
    Complex<f32>, |a, b| a + b;
    Complex<f64>, |a, b| a + b;
}

/// Adds `bias` to each row.
struct AddRows<'a, T> {
    rows: &'a mut [T],
    bias: &'a [T],
}

/// Elements that are added at a time; shorter biases are repeated.
const BROAD: usize = 64;

#[inline(always)]
fn add<T: Number>(row: &mut [T], bias: &[T]) {
    for (x, b) in row.iter_mut().zip(bias) {
        *x = x.plus(*b);
    }
}

impl<T: Number> Work for AddRows<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<M: Madd>(self) {
        let n = self.bias.len();
        if n >= BROAD || self.rows.len() < 2 * BROAD {
            for row in self.rows.chunks_mut(n) {
                add(row, self.bias);
            }
            return;
        }
        let mut repeated = [T::default(); 2 * BROAD];
        let repeated = &mut repeated[..n * (2 * BROAD / n)];
        for r in repeated.chunks_mut(n) {
            r.copy_from_slice(self.bias);
        }
        for rows in self.rows.chunks_mut(repeated.len()) {
            add(rows, repeated);
        }
    }
}

fn check(value: &Shape, bias: &Shape, layout: Layout) -> Result<()> {
    if value.rank() < 2 {
        return Err(Error::invalid(format!("input tensor must be at least 2D: {value}")));
    }
    if bias.rank() != 1 {
        return Err(Error::invalid(format!("biases must be 1D: {bias}")));
    }
    let axis = layout.axis(value.rank());
    if value[axis] != bias[0] {
        return Err(Error::invalid(format!(
            "must provide as many biases as there are channels (dimension {axis}): input {value}, biases {bias}"
        )));
    }
    Ok(())
}

struct BiasAdd<T> {
    layout: Layout,
    element: std::marker::PhantomData<fn() -> T>,
}

impl<T: Number> Kernel for BiasAdd<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let shape = cx.input(0)?.shape().clone();
        check(&shape, cx.input(1)?.shape(), self.layout)?;
        let (mut out, reused) = cx.reuse_or_alloc(0, T::DTYPE, &shape)?;
        let y = out
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a new tensor must be writable"))?;
        let x = if reused { None } else { Some(cx.slice::<T>(0)?) };
        let bias = cx.slice::<T>(1)?;
        let fill = |at: usize, y: &mut [T]| {
            if let Some(x) = x {
                y.copy_from_slice(&x[at..at + y.len()]);
            }
        };
        if bias.is_empty() {
            // No channel, no element.
        } else if self.layout == Layout::Last || shape.rank() == 2 {
            let chunk = (GRAIN / bias.len()).max(1) * bias.len();
            spread::chunks(cx.parallel(), y, chunk, |i, rows| {
                fill(i * chunk, rows);
                let work = AddRows { rows, bias };
                if T::DTYPE == DType::F32 {
                    wide::run(work);
                } else {
                    work.run::<crate::math::madd::Baseline>();
                }
            });
        } else {
            let plane: usize = shape[2..].iter().product();
            let planes = spread::rows_of(plane);
            spread::chunks(cx.parallel(), y, planes * plane, |i, y| {
                fill(i * planes * plane, y);
                for (j, y) in y.chunks_mut(plane).enumerate() {
                    let b = bias[(i * planes + j) % bias.len()];
                    y.iter_mut().for_each(|y| *y = y.plus(b));
                }
            });
        }
        cx.set_output(0, out);
        Ok(())
    }
}

fn bias_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let layout = Layout::of(init.attrs)?;
    dispatch!(init.input_types[0], T in numbers => {
        Ok(Box::new(BiasAdd::<T> { layout, element: std::marker::PhantomData }))
    }, else Err(init.no_kernel()))
}

fn bias_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (value, bias) = (cx.input(0).with_rank_at_least(2)?, cx.input(1).with_rank(1)?);
    let Some(rank) = value.rank() else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let axis = Layout::of(cx.attrs())?.axis(rank);
    let channels = value.sub(axis, axis + 1).merge(&bias)?;
    Ok(vec![value.with_dim(axis, channels.dim(0))])
}

fn add_op(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .input("value: T")
        .input("bias: T")
        .output("output: T")
        .attr(NUMBERS)
        .shape(bias_shape)
        .cpu(bias_kernel)
}

const FORMAT: &str = "data_format: {'NHWC', 'NCHW'} = 'NHWC'";

fn bias_add() -> OpDef {
    add_op("BiasAdd")
        .doc("Adds a vector to the channels: the last dimension, or with `data_format` NCHW the second.")
        .attr(FORMAT)
        .gradient(|cx, dys| {
            let dy = cx.dense(dys, 0)?;
            let db = cx
                .graph()
                .op("BiasAddGrad")
                .input(&dy)
                .attr("data_format", cx.attrs().str("data_format")?)
                .output()?;
            Ok(vec![Some(dy.into()), Some(db.into())])
        })
        .sample(|s| {
            let (x, b) = (s.normal([2, 3, 4])?, s.normal([4])?);
            s.op("BiasAdd").input(&x).input(&b).finish()
        })
        .sample(|s| {
            let (x, b) = (s.normal([2, 3, 4])?, s.normal([3])?);
            s.op("BiasAdd").input(&x).input(&b).attr("data_format", "NCHW").finish()
        })
}

fn bias_add_v1() -> OpDef {
    add_op("BiasAddV1")
        .doc("Adds a vector to the last dimension.")
        .gradient(|cx, dys| {
            let dy = cx.dense(dys, 0)?;
            let g = cx.graph();
            let (zero, one) = (g.constant(0i32)?, g.constant(1i32)?);
            let last = dy.rank_op()?.minus(&one)?;
            let axes = g.op("Range").input(&zero).input(&last).input(&one).output()?;
            let db = dy.reduce_by("Sum", &axes, false)?;
            Ok(vec![Some(dy.into()), Some(db.into())])
        })
        .sample(|s| {
            let (x, b) = (s.normal([2, 3, 4])?, s.normal([4])?);
            s.op("BiasAddV1").input(&x).input(&b).finish()
        })
}

fn grad_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let layout = Layout::of(init.attrs)?;
    let run = sums::sum_of(init.input_types[0]);
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let shape = x.shape();
        if shape.rank() < 2 {
            return Err(Error::invalid(format!("input tensor must be at least 2D: {shape}")));
        }
        let axis = layout.axis(shape.rank());
        let plan = Plan::of(shape, |i| i != axis, false);
        let out = run(&*cx.step().device, x, &plan)?;
        cx.set_output(0, out);
        Ok(())
    }))
}

/// The gradient with respect to the summed tensor: `dy`, one element for each channel, repeated to its shape.
fn repeated(cx: &GradContext, dy: &Output) -> Result<Output> {
    let (g, x) = (cx.graph(), cx.input(0)?);
    let shape = x.shape_op()?;
    let dy = match (Layout::of(cx.attrs())?, x.shape().rank()) {
        (Layout::Last, _) => dy.clone(),
        (Layout::Second, Some(rank)) => {
            let mut dims = vec![1; rank.max(2) - 1];
            dims[0] = -1;
            dy.reshape(&dims)?
        }
        (Layout::Second, None) => {
            let (from, all) = (g.constant([2i32])?, g.constant([-1i32])?);
            let rest = g.op("Slice").input(&shape).input(&from).input(&all).output()?;
            let dims = g.concat(&[dy.shape_op()?, rest.ones_like()?], 0)?;
            dy.reshape_to(&dims)?
        }
    };
    g.op("BroadcastTo").input(&dy).input(&shape).output()
}

fn bias_add_grad() -> OpDef {
    OpDef::new("BiasAddGrad", Category::Nn)
        .doc("The gradient of BiasAdd with respect to the bias: the sum over all dimensions but the channels.")
        .input("out_backprop: T")
        .output("output: T")
        .attr(NUMBERS)
        .attr(FORMAT)
        .shape(|cx| {
            let value = cx.input(0).with_rank_at_least(2)?;
            let layout = Layout::of(cx.attrs())?;
            let channels = value.rank().and_then(|r| value.dim(layout.axis(r)));
            Ok(vec![PartialShape::vector(channels)])
        })
        .gradient(|cx, dys| {
            let dx = repeated(cx, &cx.dense(dys, 0)?)?;
            Ok(vec![Some(Grad::from(dx))])
        })
        .cpu(grad_kernel)
        .sample(|s| {
            let x = s.normal([2, 3, 4])?;
            s.op("BiasAddGrad").input(&x).finish()
        })
        .sample(|s| {
            let x = s.normal([2, 3, 4])?;
            s.op("BiasAddGrad").input(&x).attr("data_format", "NCHW").finish()
        })
}

register_ops!(bias_add, bias_add_v1, bias_add_grad);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Output, PartialShape, Tensor};

    fn add(x: impl Into<Tensor>, b: impl Into<Tensor>, format: &str) -> actorflow_core::error::Result<Output> {
        let g = Graph::new();
        let (x, b) = (g.constant(x)?, g.constant(b)?);
        g.op("BiasAdd").input(&x).input(&b).attr("data_format", format).output()
    }

    #[test]
    fn biases_go_to_the_channels() {
        let y = add([[1f32, 2.], [3., 4.]], [10f32, 20.], "NHWC").unwrap();
        assert_eq!(eval(&y), Tensor::from([[11f32, 22.], [13., 24.]]));
        let x = Tensor::from([1u8, 2, 3, 254]).reshape([1, 2, 2]).unwrap();
        let y = add(x, [1u8, 2], "NCHW").unwrap();
        assert_eq!(eval(&y).to_vec::<u8>().unwrap(), [2, 3, 5, 0]);
        let y = add([[1f64, 2.]], [1f64, 2.], "NCHW").unwrap();
        assert_eq!(eval(&y), Tensor::from([[2f64, 4.]]));
    }

    #[test]
    fn narrow_and_broad_rows_are_added() {
        for n in [1, 3, 10, 63, 64, 100] {
            let x: Vec<f32> = (0..50 * n).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| 1000.0 * i as f32).collect();
            let y = add(Tensor::from_slice([50, n], &x).unwrap(), b.clone(), "NHWC").unwrap();
            let y = eval(&y).to_vec::<f32>().unwrap();
            assert!(y.iter().enumerate().all(|(i, y)| *y == x[i] + b[i % n]), "{n}");
        }
    }

    #[test]
    fn shapes_are_checked() {
        assert!(add([[1f32, 2., 3.]], [1f32, 2.], "NHWC").is_err());
        assert!(add([1f32, 2.], [1f32, 2.], "NHWC").is_err());
        assert!(add([[1f32, 2.]], [[1f32, 2.]], "NHWC").is_err());
        let g = Graph::new();
        let x = g.placeholder("x", DType::F32, PartialShape::UNKNOWN).unwrap();
        let y = x.bias_add(&g.constant([1f32, 2.]).unwrap()).unwrap();
        let run =
            |t: Tensor| crate::testing::Interpreter::default().run(std::slice::from_ref(&y), &[], &[(x.clone(), t)]);
        assert!(
            run(Tensor::from([1f32, 2.]))
                .unwrap_err()
                .message()
                .contains("at least 2D")
        );
        assert!(run(Tensor::from([[1f32]])).unwrap_err().message().contains("[1,1]"));
        assert_eq!(run(Tensor::zeros(DType::F32, [0, 2]).unwrap()).unwrap()[0].len(), 0);
    }

    #[test]
    fn the_gradient_sums_all_but_the_channels() {
        let g = Graph::new();
        let x = g
            .constant(Tensor::from([1f32, 2., 3., 4., 5., 6.]).reshape([1, 2, 3]).unwrap())
            .unwrap();
        let sum = |f: &str| eval(&g.op("BiasAddGrad").input(&x).attr("data_format", f).output().unwrap());
        assert_eq!(sum("NHWC"), Tensor::from([5f32, 7., 9.]));
        assert_eq!(sum("NCHW"), Tensor::from([6f32, 15.]));
        let none = g.constant(Tensor::zeros(DType::F32, [0, 3]).unwrap()).unwrap();
        assert_eq!(eval(&none.unary("BiasAddGrad").unwrap()), Tensor::from([0f32; 3]));
    }
}
