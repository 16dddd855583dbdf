//! `MatMul`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, Output, PartialShape, Shape, register_ops};

use super::product::{Batch, Finish, Multiply, Turn, extents, multiply};
use crate::gemm::Offsets;

/// The product of two matrices, or (with more inputs) what `_FusedMatMul` makes of it.
pub(super) struct MatMul {
    a: Turn,
    b: Turn,
    /// Whether input 2 is a bias.
    bias: bool,
    relu: bool,
    multiply: Multiply,
}

impl MatMul {
    pub(super) fn new(init: &KernelInit<'_>, bias: bool, relu: bool) -> Result<Self> {
        let turn = |name| -> Result<Turn> {
            Ok(Turn {
                transpose: init.attrs.bool(name)?,
                conj: false,
            })
        };
        Ok(MatMul {
            a: turn("transpose_a")?,
            b: turn("transpose_b")?,
            bias,
            relu,
            multiply: multiply(init.input_types[0], init)?,
        })
    }
}

impl Kernel for MatMul {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        let (sa, sb) = (a.shape(), b.shape());
        both_matrices(sa, sb)?;
        let (m, k, n) = extents((sa, self.a.transpose), (sb, self.b.transpose))?;
        let bias = if self.bias { Some(cx.input(2)?) } else { None };
        if let Some(bias) = bias
            && bias.shape().dims() != [n]
        {
            return Err(Error::invalid(format!(
                "must provide as many biases as columns: a product of shape [{m},{n}], biases {}",
                bias.shape()
            )));
        }
        let batch = Batch {
            m,
            k,
            n,
            count: 1,
            a: Offsets::Every(0),
            b: Offsets::Every(0),
        };
        let finish = Finish { bias, relu: self.relu };
        let device = &*cx.step().device;
        let out = (self.multiply)(device, (a, self.a), (b, self.b), &batch, finish, [m, n].into())?;
        cx.set_output(0, out);
        Ok(())
    }
}

/// Fails unless both are the shapes of matrices.
pub(super) fn both_matrices(a: &Shape, b: &Shape) -> Result<()> {
    if a.rank() != 2 || b.rank() != 2 {
        return Err(Error::invalid(format!(
            "In[0] and In[1] must be matrices: they have shapes {a} and {b}"
        )));
    }
    Ok(())
}

/// The shape of the product of inputs 0 and 1.
pub(super) fn product_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (a, b) = (cx.input(0).with_rank(2)?, cx.input(1).with_rank(2)?);
    let (ta, tb) = (cx.attrs().bool("transpose_a")?, cx.attrs().bool("transpose_b")?);
    let side = |s: &PartialShape, i: usize| s.sub(i, i + 1);
    side(&a, usize::from(!ta)).merge(&side(&b, usize::from(tb)))?;
    Ok(vec![side(&a, usize::from(ta)).concat(&side(&b, usize::from(!tb)))])
}

fn matmul_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dy = cx.dense(grads, 0)?;
    let conj = |x: Output| if x.dtype().is_complex() { x.conj_op() } else { Ok(x) };
    let (a, b) = (conj(cx.input(0)?)?, conj(cx.input(1)?)?);
    let (ta, tb) = (cx.attrs().bool("transpose_a")?, cx.attrs().bool("transpose_b")?);
    let (da, db) = match (ta, tb) {
        (false, false) => (dy.matmul_t(&b, false, true)?, a.matmul_t(&dy, true, false)?),
        (false, true) => (dy.matmul_t(&b, false, false)?, dy.matmul_t(&a, true, false)?),
        (true, false) => (b.matmul_t(&dy, false, true)?, a.matmul_t(&dy, false, false)?),
        (true, true) => (b.matmul_t(&dy, true, true)?, dy.matmul_t(&a, true, true)?),
    };
    Ok(vec![Some(da.into()), Some(db.into())])
}

fn sample(s: &mut Sampler, ta: bool, tb: bool) -> Result<Operation> {
    let a = s.normal(if ta { [4, 3] } else { [3, 4] })?;
    let b = s.normal(if tb { [2, 4] } else { [4, 2] })?;
    s.op("MatMul")
        .input(&a)
        .input(&b)
        .attr("transpose_a", ta)
        .attr("transpose_b", tb)
        .finish()
}

fn matmul() -> OpDef {
    OpDef::new("MatMul", Category::Matrix)
        .doc("The product of two matrices, each transposed first if asked for.")
        .input("a: T")
        .input("b: T")
        .output("product: T")
        .attr("transpose_a: bool = false")
        .attr("transpose_b: bool = false")
        .attr("T: {bfloat16, half, float, double, int32, int64, uint8, uint16, uint32, uint64, complex64, complex128}")
        .attr("grad_a: bool = false")
        .attr("grad_b: bool = false")
        .shape(product_shape)
        .gradient(matmul_grad)
        .cpu(|init| Ok(Box::new(MatMul::new(init, false, false)?)))
        .sample(|s| sample(s, false, false))
        .sample(|s| sample(s, true, false))
        .sample(|s| sample(s, false, true))
        .sample(|s| sample(s, true, true))
}

register_ops!(matmul);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::{DType, Graph, PartialShape, Tensor};
    use half::bf16;
    use num_complex::Complex;

    #[test]
    fn products_with_either_side_transposed() {
        let g = Graph::new();
        let a = g.constant([[1f32, 2., 3.], [4., 5., 6.]]).unwrap();
        let b = g.constant([[1f32, 0., 2.], [0., 1., 0.]]).unwrap();
        assert_eq!(
            eval(&a.matmul_t(&b, false, true).unwrap()),
            Tensor::from([[7f32, 2.], [16., 5.]])
        );
        let y = a.matmul_t(&b, true, false).unwrap();
        assert_eq!(y.shape(), PartialShape::from([3, 3]));
        assert_eq!(eval(&y), Tensor::from([[1f32, 4., 2.], [2., 5., 4.], [3., 6., 6.]]));
    }

    #[test]
    fn every_type_is_multiplied() {
        let g = Graph::new();
        let product = |a: Tensor, b: Tensor| {
            let (a, b) = (g.constant(a).unwrap(), g.constant(b).unwrap());
            eval(&a.matmul_t(&b, false, true).unwrap())
        };
        macro_rules! check {
            ($($t:ty),*) => {
                $(assert_eq!(product(Tensor::from([[200 as $t, 100 as $t]]), Tensor::from([[1 as $t, 2 as $t]])),
                    Tensor::from([[(400u32 as u64) as $t]]));)*
            };
        }
        check!(f32, f64, i32, i64, u8, u16, u32, u64);
        let half = |x: f32| bf16::from_f32(x);
        assert_eq!(
            product(
                Tensor::from([[half(2.0), half(3.0)]]),
                Tensor::from([[half(1.0), half(0.5)]])
            ),
            Tensor::from([[half(3.5)]])
        );
        // A transpose does not conjugate.
        let c = |re: f32, im: f32| Tensor::from([[Complex::new(re, im)]]);
        assert_eq!(product(c(1.0, 2.0), c(1.0, 1.0)), c(-1.0, 3.0));
    }

    #[test]
    fn empty_products_are_zero() {
        let g = Graph::new();
        let zeros = |d: [usize; 2]| g.constant(Tensor::zeros(DType::F32, d).unwrap()).unwrap();
        assert_eq!(
            eval(&zeros([2, 0]).matmul(&zeros([0, 3])).unwrap()),
            Tensor::full([2, 3], 0f32).unwrap()
        );
        assert_eq!(
            eval(&zeros([0, 2]).matmul(&zeros([2, 3])).unwrap()).shape().dims(),
            [0, 3]
        );
    }

    #[test]
    fn operands_that_do_not_fit_are_named() {
        let g = Graph::new();
        let a = g.constant([[1f32, 2., 3.]]).unwrap();
        assert!(a.matmul(&a).is_err());
        let p = g.placeholder("p", DType::F32, PartialShape::UNKNOWN).unwrap();
        let y = p.matmul(&a).unwrap();
        let run = |t: Tensor| Interpreter::default().run(std::slice::from_ref(&y), &[], &[(p.clone(), t)]);
        let e = run(Tensor::from([[1f32, 2.]])).unwrap_err();
        assert!(e.message().contains("[1,2]") && e.message().contains("[1,3]"), "{e}");
        assert!(
            run(Tensor::from([1f32]))
                .unwrap_err()
                .message()
                .contains("must be matrices")
        );
    }
}
