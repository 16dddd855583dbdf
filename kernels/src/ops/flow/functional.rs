//! What functional conditionals and loops need beside the primitives: `ToBool`, `FakeParam`, `DeviceIndex`.

use std::sync::Arc;

use actorflow_core::error::Result;
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Tensor, register_ops};

use crate::shapes;

struct ToBool;

/// Whether a scalar is not zero, a string not empty; of other tensors, whether they have an element.
fn truth(x: &Tensor) -> Result<bool> {
    if x.shape().rank() > 0 {
        return Ok(!x.is_empty());
    }
    Ok(match x.dtype() {
        DType::Str => x.as_strings()?.first().is_some_and(|s| !s.is_empty()),
        DType::Resource | DType::Variant => true,
        _ => !is_zero(x),
    })
}

/// Zeros of every dtype are zero bytes, but for the sign of a float's zero.
fn is_zero(x: &Tensor) -> bool {
    let Some(bytes) = x.bytes() else { return false };
    let part = if x.dtype().is_complex() {
        x.dtype().size() / 2
    } else {
        x.dtype().size()
    };
    let signed_zero = x.dtype().is_float() || x.dtype().is_complex();
    bytes.chunks(part.max(1)).all(|number| {
        number.iter().enumerate().all(|(i, b)| {
            let top = if cfg!(target_endian = "little") {
                i + 1 == number.len()
            } else {
                i == 0
            };
            *b == 0 || (signed_zero && top && *b == 0x80)
        })
    })
}

impl Kernel for ToBool {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let t = truth(cx.input(0)?)?;
        cx.set_output(0, Tensor::scalar(t));
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn to_bool() -> OpDef {
    OpDef::new("ToBool", Category::ControlFlow)
        .doc("Whether a scalar is not zero, or a string not empty; of other tensors, whether they have an element.")
        .input("input: T")
        .output("output: bool")
        .attr("T: type")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| Ok(Box::new(ToBool)))
}

/// The same tensor, each time.
struct Always(Tensor);

impl Kernel for Always {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        cx.set_output(0, self.0.clone());
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct FakeParam {
    dtype: DType,
    dims: Vec<usize>,
}

impl Kernel for FakeParam {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let x = match self.dtype {
            // These have no zero.
            DType::Variant => Tensor::variants(&[][..], vec![Arc::new(())])?,
            DType::Resource => Tensor::resources(&[0][..], Vec::new())?,
            t => cx.zeros(t, self.dims.as_slice())?,
        };
        cx.set_output(0, x);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn fake_param() -> OpDef {
    OpDef::new("FakeParam", Category::ControlFlow)
        .doc("Stands for a value of the branch that was not taken; nobody reads it. Unknown dimensions are empty.")
        .output("output: dtype")
        .attr("dtype: type")
        .attr("shape: shape")
        .shape(|cx| Ok(vec![cx.attrs().shape("shape")?.clone()]))
        .not_differentiable()
        .cpu(|init| {
            let shape = init.attrs.shape("shape")?;
            Ok(Box::new(FakeParam {
                dtype: init.attrs.dtype("dtype")?,
                dims: match shape.dims() {
                    Some(d) => d.iter().map(|d| d.unwrap_or(0)).collect(),
                    None => vec![0],
                },
            }))
        })
}

fn device_index() -> OpDef {
    OpDef::new("DeviceIndex", Category::ControlFlow)
        .doc("Which of these kinds of devices the node runs on; their number if it is none of them.")
        .output("index: int32")
        .attr("device_names: list(string)")
        .stateful()
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|init| {
            let names = init.attrs.strs("device_names")?;
            let at = names.iter().position(|n| *n == "CPU").unwrap_or(names.len());
            Ok(Box::new(Always(Tensor::scalar(i32::try_from(at).unwrap_or(i32::MAX)))))
        })
}

register_ops!(to_bool, fake_param, device_index);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, PartialShape, Tensor};

    #[test]
    fn scalars_are_true_unless_zero_and_tensors_unless_empty() {
        let g = Graph::new();
        let truth = |x: Tensor| {
            let x = g.constant(x).unwrap();
            eval(&g.op("ToBool").input(&x).output().unwrap())
                .to_scalar::<bool>()
                .unwrap()
        };
        assert!(!truth(Tensor::scalar(0i32)) && truth(Tensor::scalar(-3i64)));
        assert!(!truth(Tensor::scalar(-0.0f32)) && truth(Tensor::scalar(f32::NAN)) && truth(Tensor::scalar(1e-30f32)));
        assert!(!truth(Tensor::string("")) && truth(Tensor::string("no")));
        assert!(truth(Tensor::zeros(DType::F32, [1]).unwrap()) && !truth(Tensor::zeros(DType::F32, [0]).unwrap()));
        assert!(truth(Tensor::scalar(true)) && !truth(Tensor::scalar(false)));
    }

    #[test]
    fn a_fake_parameter_has_the_dtype_and_no_more_than_the_known_dimensions() {
        let g = Graph::new();
        let shape = PartialShape::from_i64(&[2, -1]);
        let x = g.op("FakeParam").attr("dtype", DType::I64).attr("shape", shape);
        assert_eq!(eval(&x.output().unwrap()), Tensor::zeros(DType::I64, [2, 0]).unwrap());
    }

    #[test]
    fn the_device_is_found_by_its_kind() {
        let g = Graph::new();
        let names = |n: &[&str]| actorflow_core::AttrValue::List(n.iter().map(|n| (*n).into()).collect());
        for (kinds, at) in [(&["GPU", "CPU"][..], 1i32), (&["TPU"], 1), (&["CPU"], 0)] {
            let x = g.op("DeviceIndex").attr("device_names", names(kinds)).output().unwrap();
            assert_eq!(eval(&x), Tensor::scalar(at));
        }
    }
}
