//! `OptionalFromValue`, `OptionalNone`, `OptionalHasValue`, `OptionalGetValue`: values that only one branch has.

use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{AttrValue, DType, Operation, Output, PartialShape, Tensor, register_ops};

use crate::shapes;

/// What a variant of these operations holds.
pub(crate) struct Optional(Option<Vec<Tensor>>);

impl Optional {
    /// Has a value if this has one: what `f` makes of each tensor.
    pub(crate) fn map(&self, f: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Optional> {
        let parts = self.0.as_ref().map(|p| p.iter().map(f).collect::<Result<_>>());
        parts.transpose().map(Optional)
    }

    /// What `f` makes of the tensors of two optionals, which must both have as many or none.
    pub(crate) fn plus(
        &self,
        other: &Optional,
        mut f: impl FnMut(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Optional> {
        match (&self.0, &other.0) {
            (None, None) => Ok(Optional(None)),
            (Some(a), Some(b)) if a.len() == b.len() => {
                let sums = a.iter().zip(b).map(|(a, b)| f(a, b)).collect::<Result<_>>()?;
                Ok(Optional(Some(sums)))
            }
            _ => Err(Error::invalid(
                "an optional with a value cannot be added to one without",
            )),
        }
    }
}

fn optional(x: &Tensor) -> Result<&Optional> {
    let found = x.as_variants()?.first().and_then(|v| v.downcast_ref::<Optional>());
    found.ok_or_else(|| Error::invalid("the input is no optional: it must come from OptionalFromValue or OptionalNone"))
}

fn boxed(x: Optional) -> Result<Tensor> {
    Tensor::variants(&[][..], vec![Arc::new(x)])
}

struct FromValue;

impl Kernel for FromValue {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let parts = (0..cx.num_inputs())
            .map(|i| cx.take_input(i))
            .collect::<Result<Vec<_>>>()?;
        cx.set_output(0, boxed(Optional(Some(parts)))?);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct Nothing;

impl Kernel for Nothing {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        cx.set_output(0, boxed(Optional(None))?);
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct HasValue;

impl Kernel for HasValue {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let has = optional(cx.input(0)?)?.0.is_some();
        cx.set_output(0, Tensor::scalar(has));
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

struct GetValue {
    types: Vec<DType>,
    shapes: Vec<PartialShape>,
}

impl Kernel for GetValue {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let x = cx.take_input(0)?;
        let Some(parts) = &optional(&x)?.0 else {
            return Err(Error::invalid("the optional has no value; ask OptionalHasValue first"));
        };
        if parts.len() != self.types.len() {
            return Err(Error::invalid(format!(
                "the optional has {} components, expected {}",
                parts.len(),
                self.types.len()
            )));
        }
        for (i, (part, (t, shape))) in parts.iter().zip(self.types.iter().zip(&self.shapes)).enumerate() {
            if part.dtype() != *t {
                return Err(Error::invalid(format!(
                    "component {i} of the optional is {}, expected {t}",
                    part.dtype()
                )));
            }
            if shape.merge(&PartialShape::from(part.shape())).is_err() {
                return Err(Error::invalid(format!(
                    "component {i} of the optional has shape {}, which is no {shape}",
                    part.shape()
                )));
            }
            cx.set_output(i, part.clone());
        }
        Ok(())
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

/// The tensors of an optional that are like these.
fn values(optional: &Output, like: &[Output]) -> Result<Operation> {
    let types = like.iter().map(|x| AttrValue::Type(x.dtype())).collect();
    let shapes = like.iter().map(|x| AttrValue::Shape(x.shape())).collect();
    optional
        .graph()
        .op("OptionalGetValue")
        .input(optional)
        .attr("output_types", AttrValue::List(types))
        .attr("output_shapes", AttrValue::List(shapes))
        .finish()
}

fn held(xs: &[Output]) -> Result<Output> {
    let [first, ..] = xs else {
        return Err(Error::invalid("an optional holds at least one tensor"));
    };
    first.graph().op("OptionalFromValue").input_list(xs).output()
}

fn through(s: &mut Sampler) -> Result<Operation> {
    let xs = [s.normal([2, 3])?, s.normal([2])?];
    values(&held(&xs)?, &xs)
}

fn from_value() -> OpDef {
    OpDef::new("OptionalFromValue", Category::ControlFlow)
        .doc("An optional that holds these tensors.")
        .input("components: Toutput_types")
        .output("optional: variant")
        .attr("Toutput_types: list(type) >= 1")
        .shape(shapes::scalar)
        .gradient(|cx, dys| {
            let Some(dy) = &dys[0] else { return cx.none() };
            let xs = (0..cx.num_inputs()).map(|i| cx.input(i)).collect::<Result<Vec<_>>>()?;
            let grads = values(dy.values(), &xs)?.outputs();
            let flows = |(x, g): (&Output, Output)| x.dtype().is_differentiable().then(|| g.into());
            Ok(xs.iter().zip(grads).map(flows).collect())
        })
        .cpu(|_| Ok(Box::new(FromValue)))
        .sample(through)
}

fn none() -> OpDef {
    OpDef::new("OptionalNone", Category::ControlFlow)
        .doc("An optional that holds nothing.")
        .output("optional: variant")
        .shape(shapes::scalar)
        .cpu(|_| Ok(Box::new(Nothing)))
}

fn has_value() -> OpDef {
    OpDef::new("OptionalHasValue", Category::ControlFlow)
        .doc("Whether an optional holds tensors.")
        .input("optional: variant")
        .output("has_value: bool")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| Ok(Box::new(HasValue)))
}

fn get_value() -> OpDef {
    OpDef::new("OptionalGetValue", Category::ControlFlow)
        .doc("The tensors that an optional holds; an error if it holds none.")
        .input("optional: variant")
        .output("components: output_types")
        .attr("output_types: list(type) >= 1")
        .attr("output_shapes: list(shape) >= 1")
        .shape(|cx| {
            let mut shapes: Vec<PartialShape> = cx.attrs().shapes("output_shapes")?.into_iter().cloned().collect();
            shapes.resize(cx.num_outputs(), PartialShape::UNKNOWN);
            Ok(shapes)
        })
        .gradient(|cx, dys| {
            let grads = (0..dys.len()).map(|i| cx.dense(dys, i)).collect::<Result<Vec<_>>>()?;
            Ok(vec![Some(held(&grads)?.into())])
        })
        .sample(through)
        .cpu(|init| {
            let types = init.attrs.dtypes("output_types")?;
            let mut shapes: Vec<PartialShape> = init.attrs.shapes("output_shapes")?.into_iter().cloned().collect();
            shapes.resize(types.len(), PartialShape::UNKNOWN);
            Ok(Box::new(GetValue { types, shapes }))
        })
}

register_ops!(from_value, none, has_value, get_value);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::{AttrValue, DType, Graph, Output, PartialShape, Tensor};

    fn get(x: &Output, t: DType, shape: &[i64]) -> Output {
        let shape = PartialShape::from_i64(shape);
        x.graph()
            .op("OptionalGetValue")
            .input(x)
            .attr("output_types", AttrValue::List(vec![AttrValue::Type(t)]))
            .attr("output_shapes", AttrValue::List(vec![AttrValue::Shape(shape)]))
            .output()
            .unwrap()
    }

    #[test]
    fn a_value_comes_out_as_it_went_in_and_nothing_is_an_error() {
        let g = Graph::new();
        let x = g.constant(Tensor::vector(&[1.0f32, 2.0])).unwrap();
        let some = g
            .op("OptionalFromValue")
            .input_list(std::slice::from_ref(&x))
            .output()
            .unwrap();
        let none = g.op("OptionalNone").output().unwrap();
        let has = |o: &Output| eval(&g.op("OptionalHasValue").input(o).output().unwrap());
        assert_eq!((has(&some), has(&none)), (Tensor::scalar(true), Tensor::scalar(false)));
        assert_eq!(eval(&get(&some, DType::F32, &[-1])), Tensor::vector(&[1.0f32, 2.0]));
        let try_eval = |x: &Output| Interpreter::default().run(std::slice::from_ref(x), &[], &[]);
        assert!(try_eval(&get(&none, DType::F32, &[-1])).is_err());
        assert!(try_eval(&get(&some, DType::I32, &[-1])).is_err());
        assert!(try_eval(&get(&some, DType::F32, &[3])).is_err());
    }
}
