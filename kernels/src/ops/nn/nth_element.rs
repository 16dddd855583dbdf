//! `NthElement`.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use actorflow_core::dtype::Element;
use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, dispatch, register_ops};

use super::rows::writable;
use crate::spread;

/// The order of numbers, NaN after all of them.
pub(super) fn order<T: PartialOrd>(a: &T, b: &T) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| {
        let nan = |x: &T| x.partial_cmp(x).is_none();
        nan(a).cmp(&nan(b))
    })
}

fn select<T: Element + PartialOrd>(cx: &mut OpContext<'_>, reverse: bool) -> Result<()> {
    let (input, n) = (cx.input(0)?, cx.input(1)?);
    if !n.shape().is_scalar() {
        return Err(Error::invalid(format!("n must be scalar but has shape {}", n.shape())));
    }
    let n = n.to_i64()?;
    let shape = input.shape();
    let Some(&len) = shape.last() else {
        return Err(Error::invalid("input must be at least rank 1 but is rank 0"));
    };
    let at = usize::try_from(n).map_err(|_| Error::invalid(format!("n must be non-negative but is {n}")))?;
    if at >= len {
        return Err(Error::invalid(format!(
            "input must have last dimension > n = {n}: its shape is {shape}"
        )));
    }
    let at = if reverse { len - 1 - at } else { at };
    let mut out = cx.alloc(T::DTYPE, &shape[..shape.rank() - 1])?;
    let x = input.as_slice::<T>()?;
    let rows = spread::rows_of(16 * len);
    spread::chunks(cx.parallel(), writable::<T>(&mut out)?, rows, |i, out| {
        let mut row = Vec::with_capacity(len);
        for (o, x) in out.iter_mut().zip(x[i * rows * len..].chunks(len)) {
            row.clear();
            row.extend_from_slice(x);
            *o = *row.select_nth_unstable_by(at, order).1;
        }
    });
    cx.set_output(0, out);
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let reverse = init.attrs.bool("reverse")?;
    dispatch!(init.input_types[0], T in reals => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| select::<T>(cx, reverse)))
    }, else Err(init.no_kernel()))
}

/// The gradient goes to the elements that equal the selected one, in equal shares.
fn select_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, dy) = (cx.input(0)?, cx.dense(grads, 0)?.expand_dims(-1)?);
    let chosen = cx.output(0)?.expand_dims(-1)?.equal(&x)?.cast(dy.dtype())?;
    let number = chosen.sum(&[-1], true)?;
    Ok(vec![Some(chosen.divided_by(&number)?.times(&dy)?.into()), None])
}

fn sample(s: &mut Sampler, reverse: bool) -> Result<Operation> {
    let x = s.normal([3, 5])?;
    let n = s.constant(1i32)?;
    s.op("NthElement").input(&x).input(&n).attr("reverse", reverse).finish()
}

fn nth_element() -> OpDef {
    OpDef::new("NthElement", Category::Nn)
        .doc("The n-th smallest (with `reverse`, largest) element of each row, counted from 0.")
        .input("input: T")
        .input("n: int32")
        .output("values: T")
        .attr("reverse: bool = false")
        .attr("T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64}")
        .shape(|cx| {
            let x = cx.input(0).with_rank_at_least(1)?;
            Ok(vec![match x.rank() {
                Some(r) => x.sub(0, r - 1),
                None => PartialShape::UNKNOWN,
            }])
        })
        .gradient(select_grad)
        .cpu(kernel)
        .sample(|s| sample(s, false))
        .sample(|s| sample(s, true))
}

register_ops!(nth_element);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::{Code, Graph, Tensor};

    #[test]
    fn elements_are_selected_by_rank() {
        let g = Graph::new();
        let x = g.constant([[5f32, 2., 9.], [1., 1., 0.]]).unwrap();
        let nth = |n: i32, reverse: bool| {
            let n = g.constant(n).unwrap();
            g.op("NthElement")
                .input(&x)
                .input(&n)
                .attr("reverse", reverse)
                .output()
                .unwrap()
        };
        assert_eq!(eval(&nth(1, false)), Tensor::from([5f32, 1.]));
        assert_eq!(eval(&nth(0, true)), Tensor::from([9f32, 1.]));
        for bad in [3, -1] {
            let e = Interpreter::default().run(&[nth(bad, false)], &[], &[]).unwrap_err();
            assert_eq!(e.code(), Code::InvalidArgument);
        }
        let nan = g.constant([f64::NAN, 1.0, 2.0]).unwrap();
        let two = g.constant(2i32).unwrap();
        let y = eval(&g.op("NthElement").input(&nan).input(&two).output().unwrap());
        assert!(y.to_scalar::<f64>().unwrap().is_nan());
    }
}
