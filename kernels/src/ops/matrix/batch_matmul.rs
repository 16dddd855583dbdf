//! `BatchMatMul`, `BatchMatMulV2`, `BatchMatMulV3`.
#![forbid(unsafe_code)]

use actorflow_core::dtype::DType;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Device, Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, Tensor, dispatch, register_ops};
use half::{bf16, f16};
use num_complex::Complex;

use super::product::{Batch, Finish, Multiply, Turn, convert, extents, multiply};
use crate::gemm::Offsets;

/// Converts an operand to the dtype of the result.
type Convert = fn(&dyn Device, &Tensor) -> Result<Tensor>;

struct BatchMatMul {
    x: Turn,
    y: Turn,
    /// Whether batch dimensions broadcast; else they must be the same.
    broadcasts: bool,
    convert: [Option<Convert>; 2],
    multiply: Multiply,
}

/// A number that operands of mixed types are converted from and to.
trait Mixed: Copy {
    fn wide(self) -> Complex<f64>;
    fn int(self) -> i64;
    fn from_wide(x: Complex<f64>, int: i64) -> Self;
}

macro_rules! mixed {
    ($($t:ty, |$a:ident| $wide:expr, $int:expr, |$w:ident, $i:ident| $from:expr;)*) => {
        $(impl Mixed for $t {
            fn wide(self) -> Complex<f64> {
                let $a = self;
                Complex::from($wide)
            }
            fn int(self) -> i64 {
                let $a = self;
                $int
            }
            #[allow(unused_variables, reason = "integers and floats take different sides")]
            fn from_wide($w: Complex<f64>, $i: i64) -> $t {
                $from
            }
        })*
    };
}

mixed! {
    f32, |a| f64::from(a), a as i64, |w, i| w.re as f32;
    f64, |a| a, a as i64, |w, i| w.re;
    f16, |a| a.to_f64(), a.to_f64() as i64, |w, i| f16::from_f64(w.re);
    bf16, |a| a.to_f64(), a.to_f64() as i64, |w, i| bf16::from_f64(w.re);
    i8, |a| f64::from(a), i64::from(a), |w, i| i as i8;
    i16, |a| f64::from(a), i64::from(a), |w, i| i as i16;
    i32, |a| f64::from(a), i64::from(a), |w, i| i as i32;
    i64, |a| a as f64, a, |w, i| i;
    u8, |a| f64::from(a), i64::from(a), |w, i| i as u8;
    Complex<f32>, |a| Complex::new(f64::from(a.re), f64::from(a.im)), a.re as i64,
        |w, i| Complex::new(w.re as f32, w.im as f32);
    Complex<f64>, |a| a, a.re as i64, |w, i| w;
}

/// The conversion between two dtypes of `BatchMatMulV3`, if they differ.
fn conversion(from: DType, to: DType, init: &KernelInit<'_>) -> Result<Option<Convert>> {
    if from == to {
        return Ok(None);
    }
    Ok(Some(
        dispatch!(from, A in [F32, F64, F16, BF16, I8, I16, I32, I64, U8, C64, C128] => {
        dispatch!(to, B in [F32, F64, F16, BF16, I16, I32, I64, C64, C128] => {
            |device, x| convert::<A, B>(device, x, |a| B::from_wide(a.wide(), a.int()))
        }, else return Err(init.no_kernel()))
    }, else return Err(init.no_kernel())),
    ))
}

impl BatchMatMul {
    fn new(init: &KernelInit<'_>, broadcasts: bool) -> Result<Self> {
        let to = init.output_types[0];
        let turn = |name| -> Result<Turn> {
            let adjoint = init.attrs.bool(name)?;
            Ok(Turn {
                transpose: adjoint,
                conj: adjoint,
            })
        };
        Ok(BatchMatMul {
            x: turn("adj_x")?,
            y: turn("adj_y")?,
            broadcasts,
            convert: [
                conversion(init.input_types[0], to, init)?,
                conversion(init.input_types[1], to, init)?,
            ],
            multiply: multiply(to, init)?,
        })
    }

    /// The batch dimensions of the result.
    fn batch_shape(&self, x: &Shape, y: &Shape) -> Result<Shape> {
        if x.rank() < 2 || y.rank() < 2 {
            return Err(Error::invalid(format!(
                "In[0] and In[1] must have at least 2 dimensions: they have shapes {x} and {y}"
            )));
        }
        let outer = |s: &Shape| Shape::new(&s[..s.rank() - 2]);
        let (bx, by) = (outer(x), outer(y));
        match self.broadcasts {
            true => Shape::broadcast(&bx, &by).map_err(|_| {
                Error::invalid(format!(
                    "In[0] and In[1] must have compatible batch dimensions: {x} vs. {y}"
                ))
            }),
            false if bx == by => Ok(bx),
            false => Err(Error::invalid(format!(
                "In[0] and In[1] must have the same batch dimensions: {x} vs. {y}"
            ))),
        }
    }
}

/// Where the matrices, each of `step` elements, of an operand with batch dimensions `own` begin for each matrix of
/// the result, whose batch dimensions `own` broadcasts to.
pub(super) fn offsets(own: &[usize], batch: &Shape, step: usize) -> Vec<usize> {
    let rank = batch.rank();
    let mut strides = vec![0; rank];
    let mut stride = step;
    for (i, d) in own.iter().enumerate().rev() {
        if *d != 1 {
            strides[rank - own.len() + i] = stride;
        }
        stride *= d;
    }
    let mut all = vec![0];
    for (d, s) in batch.iter().zip(&strides) {
        all = all.iter().flat_map(|o| (0..*d).map(move |i| o + i * s)).collect();
    }
    all
}

impl Kernel for BatchMatMul {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let device = &*cx.step().device;
        let operand = |i: usize| match self.convert[i] {
            Some(f) => f(device, cx.input(i)?),
            None => Ok(cx.input(i)?.clone()),
        };
        let (x, y) = (operand(0)?, operand(1)?);
        let (sx, sy) = (x.shape(), y.shape());
        let batch = self.batch_shape(sx, sy)?;
        let (m, k, n) = extents((sx, self.x.transpose), (sy, self.y.transpose))?;
        let shape: Shape = batch.iter().copied().chain([m, n]).collect();
        let (bx, by) = (&sx[..sx.rank() - 2], &sy[..sy.rank() - 2]);
        let (nx, ny): (usize, usize) = (bx.iter().product(), by.iter().product());
        let count = batch.count();
        let lists;
        let (m, count, a, b) = if ny == 1 && !self.x.transpose && nx == count {
            // One right side for all: the left sides are one tall matrix.
            (m * count, 1, Offsets::Every(0), Offsets::Every(0))
        } else {
            let every = |own: &[usize], n: usize, step: usize| match n {
                1 => Some(Offsets::Every(0)),
                _ if own == batch.dims() => Some(Offsets::Every(step)),
                _ => None,
            };
            lists = (offsets(bx, &batch, m * k), offsets(by, &batch, k * n));
            (
                m,
                count,
                every(bx, nx, m * k).unwrap_or(Offsets::At(&lists.0)),
                every(by, ny, k * n).unwrap_or(Offsets::At(&lists.1)),
            )
        };
        let batch = Batch { m, k, n, count, a, b };
        let out = (self.multiply)(device, (&x, self.x), (&y, self.y), &batch, Finish::default(), shape)?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn product_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (x, y) = (cx.input(0).with_rank_at_least(2)?, cx.input(1).with_rank_at_least(2)?);
    let (Some(rx), Some(ry)) = (x.rank(), y.rank()) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let (ax, ay) = (cx.attrs().bool("adj_x")?, cx.attrs().bool("adj_y")?);
    let side = |s: &PartialShape, r: usize, last: bool| s.sub(r - 2 + usize::from(last), r - 1 + usize::from(last));
    side(&x, rx, !ax).merge(&side(&y, ry, ay))?;
    let batch = PartialShape::broadcast(&x.sub(0, rx - 2), &y.sub(0, ry - 2))?;
    Ok(vec![batch.concat(&side(&x, rx, ax)).concat(&side(&y, ry, !ay))])
}

/// As [`product_shape`] where batch dimensions must agree.
fn same_batch_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let outer = |i: usize| {
        let s = cx.input(i);
        s.rank()
            .map_or(PartialShape::UNKNOWN, |r| s.sub(0, r.saturating_sub(2)))
    };
    let batch = outer(0).merge(&outer(1))?;
    let shape = product_shape(cx)?.remove(0);
    Ok(match shape.rank() {
        Some(r) => vec![batch.concat(&shape.sub(r - 2, r))],
        None => vec![shape],
    })
}

/// Sums `grad` over the batch dimensions that `x` was broadcast along in a product with `y`.
pub(super) fn fit(grad: &Output, x: &Output, y: &Output) -> Result<Output> {
    let outer = |o: &Output| {
        let s = o.shape();
        s.rank().map(|r| s.sub(0, r.saturating_sub(2)))
    };
    if let (Some(a), Some(b)) = (outer(x), outer(y)) {
        let none = |s: &PartialShape| s.rank() == Some(0);
        if none(&a) && none(&b) || a.is_fully_known() && a == b {
            return Ok(grad.clone());
        }
    }
    let g = grad.graph();
    let (begin, two) = (g.constant([0i32])?, g.constant([2i32])?);
    let batch = |o: &Output| -> Result<Output> {
        let shape = o.shape_op()?;
        let len = shape.shape_op()?.minus(&two)?;
        g.op("Slice").input(&shape).input(&begin).input(&len).output()
    };
    let axes = g
        .op("BroadcastGradientArgs")
        .input(&batch(x)?)
        .input(&batch(y)?)
        .output()?;
    grad.reduce_by("Sum", &axes, false)?.reshape_to(&x.shape_op()?)
}

fn product_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, y, dz) = (cx.input(0)?, cx.input(1)?, cx.dense(grads, 0)?);
    let op = cx.node().op_name();
    let multiply = |a: &Output, b: &Output, adj_a: bool, adj_b: bool, to: &Output| {
        let product = cx
            .graph()
            .op(op)
            .input(a)
            .input(b)
            .attr("adj_x", adj_a)
            .attr("adj_y", adj_b);
        match op {
            "BatchMatMulV3" => product.attr("Tout", to.dtype()).output(),
            _ => product.output(),
        }
    };
    let (dx, dy) = match (cx.attrs().bool("adj_x")?, cx.attrs().bool("adj_y")?) {
        (false, false) => (multiply(&dz, &y, false, true, &x)?, multiply(&x, &dz, true, false, &y)?),
        (false, true) => (
            multiply(&dz, &y, false, false, &x)?,
            multiply(&dz, &x, true, false, &y)?,
        ),
        (true, false) => (
            multiply(&y, &dz, false, true, &x)?,
            multiply(&x, &dz, false, false, &y)?,
        ),
        (true, true) => (multiply(&y, &dz, true, true, &x)?, multiply(&dz, &x, true, true, &y)?),
    };
    if op == "BatchMatMul" {
        return Ok(vec![Some(dx.into()), Some(dy.into())]);
    }
    Ok(vec![Some(fit(&dx, &x, &y)?.into()), Some(fit(&dy, &y, &x)?.into())])
}

fn definition(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Matrix)
        .input("x: T")
        .input("y: T")
        .output("output: T")
        .attr(types)
        .attr("adj_x: bool = false")
        .attr("adj_y: bool = false")
        .attr("grad_x: bool = false")
        .attr("grad_y: bool = false")
        .gradient(product_grad)
}

fn sample(s: &mut Sampler, op: &str, batches: [&[usize]; 2], adj: [bool; 2]) -> Result<Operation> {
    let shape = |batch: &[usize], matrix: [usize; 2], adj: bool| -> Shape {
        let [r, c] = if adj { [matrix[1], matrix[0]] } else { matrix };
        batch.iter().copied().chain([r, c]).collect()
    };
    let x = s.normal(shape(batches[0], [2, 3], adj[0]))?;
    let y = s.normal(shape(batches[1], [3, 4], adj[1]))?;
    let node = s.op(op).input(&x).input(&y).attr("adj_x", adj[0]).attr("adj_y", adj[1]);
    match op {
        "BatchMatMulV3" => node.attr("Tout", DType::F64).finish(),
        _ => node.finish(),
    }
}

fn batch_matmul() -> OpDef {
    definition(
        "BatchMatMul",
        "T: {bfloat16, half, float, double, int32, int64, complex64, complex128}",
    )
    .doc("The products of two batches of matrices; an adjoint is a transpose and, of complex matrices, a conjugate.")
    .shape(same_batch_shape)
    .cpu(|init| Ok(Box::new(BatchMatMul::new(init, false)?)))
    .sample(|s| sample(s, "BatchMatMul", [&[2], &[2]], [false, false]))
    .sample(|s| sample(s, "BatchMatMul", [&[2], &[2]], [true, true]))
}

fn batch_matmul_v2() -> OpDef {
    definition(
        "BatchMatMulV2",
        "T: {bfloat16, half, float, double, int16, int32, int64, uint8, uint16, uint32, uint64, complex64, complex128}",
    )
    .doc("As BatchMatMul, and batch dimensions broadcast.")
    .shape(product_shape)
    .cpu(|init| Ok(Box::new(BatchMatMul::new(init, true)?)))
    .sample(|s| sample(s, "BatchMatMulV2", [&[2, 1], &[2]], [false, false]))
    .sample(|s| sample(s, "BatchMatMulV2", [&[2], &[]], [true, false]))
    .sample(|s| sample(s, "BatchMatMulV2", [&[], &[2, 2]], [false, true]))
    .sample(|s| sample(s, "BatchMatMulV2", [&[1, 2], &[2, 1]], [true, true]))
}

fn batch_matmul_v3() -> OpDef {
    OpDef::new("BatchMatMulV3", Category::Matrix)
        .doc("As BatchMatMulV2, computed in the type of the result.")
        .input("x: Ta")
        .input("y: Tb")
        .output("output: Tout")
        .attr("Ta: {bfloat16, half, float, double, uint8, int8, int16, int32, int64, complex64, complex128}")
        .attr("Tb: {bfloat16, half, float, double, uint8, int8, int16, int32, int64, complex64, complex128}")
        .attr("Tout: {bfloat16, half, float, double, int16, int32, int64, complex64, complex128}")
        .attr("adj_x: bool = false")
        .attr("adj_y: bool = false")
        .attr("grad_x: bool = false")
        .attr("grad_y: bool = false")
        .shape(product_shape)
        .gradient(product_grad)
        .cpu(|init| Ok(Box::new(BatchMatMul::new(init, true)?)))
        .sample(|s| sample(s, "BatchMatMulV3", [&[2, 1], &[3]], [false, true]))
}

register_ops!(batch_matmul, batch_matmul_v2, batch_matmul_v3);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::error::Result;
    use actorflow_core::{DType, Graph, PartialShape, Tensor};
    use num_complex::Complex;

    fn run(op: &str, x: Tensor, y: Tensor, adj: [bool; 2]) -> Result<Tensor> {
        let g = Graph::new();
        let px = g.placeholder("x", x.dtype(), PartialShape::UNKNOWN)?;
        let py = g.placeholder("y", y.dtype(), PartialShape::UNKNOWN)?;
        let z = g
            .op(op)
            .input(&px)
            .input(&py)
            .attr("adj_x", adj[0])
            .attr("adj_y", adj[1])
            .output()?;
        Ok(Interpreter::default().run(&[z], &[], &[(px, x), (py, y)])?.remove(0))
    }

    fn count(dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().product();
        Tensor::from_slice(dims, &(0..n).map(|i| (i % 11) as f64).collect::<Vec<_>>()).unwrap()
    }

    /// By the definition, without adjoints.
    fn reference(x: &Tensor, y: &Tensor, batch: &[usize]) -> Vec<f64> {
        let (sx, sy) = (x.shape(), y.shape());
        let (m, k, n) = (sx[sx.rank() - 2], sx[sx.rank() - 1], sy[sy.rank() - 1]);
        let (vx, vy) = (x.to_vec::<f64>().unwrap(), y.to_vec::<f64>().unwrap());
        let total: usize = batch.iter().product();
        let mut out = Vec::new();
        for i in 0..total {
            let own = |s: &[usize]| {
                let (mut rest, mut at, mut stride) = (i, 0, 1);
                for d in 0..batch.len() {
                    let axis = batch.len() - 1 - d;
                    let j = rest % batch[axis];
                    rest /= batch[axis];
                    if d < s.len() {
                        let len = s[s.len() - 1 - d];
                        at += if len == 1 { 0 } else { j * stride };
                        stride *= len;
                    }
                }
                at
            };
            let (ox, oy) = (own(&sx[..sx.rank() - 2]) * m * k, own(&sy[..sy.rank() - 2]) * k * n);
            for r in 0..m {
                for c in 0..n {
                    out.push((0..k).map(|l| vx[ox + r * k + l] * vy[oy + l * n + c]).sum());
                }
            }
        }
        out
    }

    #[test]
    fn batches_broadcast() {
        for (bx, by, batch) in [
            (&[][..], &[][..], &[][..]),
            (&[3], &[3], &[3]),
            (&[3], &[], &[3]),
            (&[], &[2, 3], &[2, 3]),
            (&[2, 1], &[3], &[2, 3]),
            (&[2, 1, 3], &[4, 1], &[2, 4, 3]),
            (&[1], &[2, 2], &[2, 2]),
        ] {
            let (x, y) = (count(&[bx, &[2, 5]].concat()), count(&[by, &[5, 3]].concat()));
            let z = run("BatchMatMulV2", x.clone(), y.clone(), [false, false]).unwrap();
            assert_eq!(z.shape().dims(), [batch, &[2, 3]].concat());
            assert_eq!(z.to_vec::<f64>().unwrap(), reference(&x, &y, batch), "{bx:?} {by:?}");
        }
        let none = run("BatchMatMulV2", count(&[0, 2, 5]), count(&[5, 3]), [false, false]).unwrap();
        assert_eq!(none.shape().dims(), [0, 2, 3]);
    }

    #[test]
    fn an_adjoint_conjugates() {
        let c = |re: f32, im: f32| Tensor::from([[Complex::new(re, im)]]);
        assert_eq!(
            run("BatchMatMul", c(1.0, 2.0), c(1.0, 1.0), [true, false]).unwrap(),
            c(3.0, -1.0)
        );
        assert_eq!(
            run("BatchMatMul", c(1.0, 2.0), c(1.0, 1.0), [false, true]).unwrap(),
            c(3.0, 1.0)
        );
    }

    #[test]
    fn mixed_types_are_multiplied_in_the_type_of_the_result() {
        let g = Graph::new();
        let (x, y) = (g.constant([[-56i8, 100]]).unwrap(), g.constant([[2u8], [3]]).unwrap());
        let z = g
            .op("BatchMatMulV3")
            .input(&x)
            .input(&y)
            .attr("Tout", DType::I32)
            .output()
            .unwrap();
        assert_eq!(eval(&z), Tensor::from([[188i32]]));
    }

    #[test]
    fn operands_that_do_not_fit_are_refused() {
        assert!(run("BatchMatMulV2", count(&[2, 1, 2]), count(&[3, 2, 1]), [false; 2]).is_err());
        assert!(run("BatchMatMulV2", count(&[2, 1, 2]), count(&[2, 3, 1]), [false; 2]).is_err());
        assert!(run("BatchMatMulV2", count(&[2]), count(&[2, 3]), [false; 2]).is_err());
        assert!(run("BatchMatMul", count(&[2, 2, 2]), count(&[1, 2, 2]), [false; 2]).is_err());
        assert!(run("BatchMatMul", count(&[2, 2]), count(&[2, 2]), [false; 2]).is_ok());
    }
}
