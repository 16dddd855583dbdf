//! `_MatMulApplyGradientDescent`, `_MatMulResourceApplyGradientDescent`: a step of gradient descent whose gradient is
//! a product of matrices, without the gradient.
#![forbid(unsafe_code)]

use actorflow_core::actor::Claims;
use actorflow_core::dtype::DType;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};

use super::product::{Number, Turn, accumulate, extents};
use crate::ops::state::access;

/// `var = var - alpha * a b`, computed in place as `1 * var + (-alpha) * a b`.
struct Descend {
    a: Turn,
    b: Turn,
    dtype: DType,
    /// Whether the variable is a reference, which is handed on.
    is_ref: bool,
}

impl Kernel for Descend {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        match self.dtype {
            DType::F64 => self.step::<f64>(cx, |x| -x)?,
            _ => self.step::<f32>(cx, |x| -x)?,
        }
        if self.is_ref {
            cx.forward(0, 0)?;
        }
        Ok(())
    }
}

impl Descend {
    fn step<T: Number>(&self, cx: &OpContext<'_>, minus: fn(T) -> T) -> Result<()> {
        let alpha = cx.input(1)?;
        if !alpha.shape().is_scalar() {
            return Err(Error::invalid(format!(
                "alpha must be a scalar, got shape {}",
                alpha.shape()
            )));
        }
        let alpha: T = alpha.to_scalar()?;
        let (a, b) = (cx.input(2)?, cx.input(3)?);
        let (sa, sb) = (a.shape(), b.shape());
        if sa.rank() != 2 || sb.rank() != 2 {
            return Err(Error::invalid(format!(
                "In[0] and In[1] must be matrices: they have shapes {sa} and {sb}"
            )));
        }
        let (m, k, n) = extents((sa, self.a.transpose), (sb, self.b.transpose))?;
        let var = cx.variable(0)?;
        let mut state = access::state(cx.held(), &var, self.dtype)?;
        let shape = access::value(&var, &state)?.shape();
        access::same_shape(&var, shape, "the gradient", &Shape::from([m, n]))?;
        let device = &*cx.step().device;
        let value: &mut Tensor = access::writable(&var, &mut state, device.pool())?;
        let value = value
            .as_mut_slice::<T>()
            .ok_or_else(|| Error::internal("a writable variable is shared"))?;
        accumulate(device, minus(alpha), (a, self.a), (b, self.b), [m, k, n], value)
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let turn = |name| -> Result<Turn> {
        Ok(Turn {
            transpose: init.attrs.bool(name)?,
            conj: false,
        })
    };
    let dtype = init.attrs.dtype("T")?;
    if !matches!(dtype, DType::F32 | DType::F64) {
        return Err(init.no_kernel());
    }
    Ok(Box::new(Descend {
        a: turn("transpose_a")?,
        b: turn("transpose_b")?,
        dtype,
        is_ref: !init.output_types.is_empty(),
    }))
}

fn define(name: &'static str, var: &str) -> OpDef {
    OpDef::new(name, Category::Internal)
        .doc("var -= alpha * (a b), in one pass over the variable.")
        .input(var)
        .input("alpha: T")
        .input("a: T")
        .input("b: T")
        .attr("transpose_a: bool = false")
        .attr("transpose_b: bool = false")
        .attr("T: {float, double}")
        .attr("use_locking: bool = false")
        .stateful()
        .not_differentiable()
        .shape(|cx| {
            for i in [2, 3] {
                cx.input(i).with_rank(2)?;
            }
            let of_value = |i| PartialShape::of_rank(2).merge(&cx.input(i));
            (0..cx.num_outputs()).map(of_value).collect()
        })
        .cpu(kernel)
}

fn on_reference() -> OpDef {
    define("_MatMulApplyGradientDescent", "var: Ref(T)").output("out: Ref(T)")
}

fn on_resource() -> OpDef {
    define("_MatMulResourceApplyGradientDescent", "var: resource")
}

register_ops!(on_reference, on_resource);

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::{Code, DType, Graph, Operation, Output, PartialShape, Tensor};

    struct Fixture {
        g: Graph,
        handle: Output,
        init: Operation,
    }

    fn fixture(value: Tensor, resource: bool) -> Fixture {
        let g = Graph::new();
        let (dtype, shape) = (value.dtype(), PartialShape::from(value.shape()));
        let (op, assign) = match resource {
            true => ("VarHandleOp", "AssignVariableOp"),
            false => ("VariableV2", "Assign"),
        };
        let handle = g
            .op(op)
            .name("w")
            .attr("dtype", dtype)
            .attr("shape", shape)
            .output()
            .unwrap();
        let value = g.constant(value).unwrap();
        let init = g.op(assign).input(&handle).input(&value).finish().unwrap();
        Fixture { g, handle, init }
    }

    fn step(f: &Fixture, alpha: &Output, a: &Output, b: &Output, ta: bool) -> actorflow_core::Result<Operation> {
        let op = match f.handle.dtype() {
            DType::Resource => "_MatMulResourceApplyGradientDescent",
            _ => "_MatMulApplyGradientDescent",
        };
        f.g.op(op)
            .name("step")
            .input(&f.handle)
            .input(alpha)
            .input(a)
            .input(b)
            .attr("transpose_a", ta)
            .finish()
    }

    fn read(f: &Fixture, run: &Interpreter) -> Tensor {
        let op = match f.handle.dtype() {
            DType::Resource => f.g.op("ReadVariableOp").attr("dtype", DType::F32),
            _ => f.g.op("Identity"),
        };
        let v = op.input(&f.handle).output().unwrap();
        run.run(&[v], &[], &[]).unwrap().remove(0)
    }

    #[test]
    fn the_variable_moves_against_the_product() {
        for resource in [true, false] {
            let f = fixture(Tensor::from([[1f32, 2.], [3., 4.], [5., 6.]]), resource);
            let a = f.g.constant([[1f32, 0., 2.], [0., 1., 1.]]).unwrap();
            let b = f.g.constant([[10f32, 20.], [30., 40.]]).unwrap();
            let alpha = f.g.constant(0.5f32).unwrap();
            let s = step(&f, &alpha, &a, &b, true).unwrap();
            let run = Interpreter::default();
            run.run(&[], std::slice::from_ref(&f.init), &[]).unwrap();
            let before = read(&f, &run);
            run.run(&[], &[s], &[]).unwrap();
            assert_eq!(read(&f, &run), Tensor::from([[-4f32, -8.], [-12., -16.], [-20., -34.]]));
            assert_eq!(before, Tensor::from([[1f32, 2.], [3., 4.], [5., 6.]]));
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let f = fixture(Tensor::from([[1f32, 2.]]), true);
        let a = f.g.constant([[1f32], [2.]]).unwrap();
        let b = f.g.constant([[1f32, 2.]]).unwrap();
        let alpha = f.g.constant(0.5f32).unwrap();
        let s = step(&f, &alpha, &a, &b, false).unwrap();
        let run = Interpreter::default();
        assert_eq!(
            run.run(&[], std::slice::from_ref(&s), &[]).unwrap_err().code(),
            Code::FailedPrecondition
        );
        run.run(&[], std::slice::from_ref(&f.init), &[]).unwrap();
        let e = run.run(&[], &[s], &[]).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument, "{e}");
        assert_eq!(read(&f, &run), Tensor::from([[1f32, 2.]]));
    }
}
