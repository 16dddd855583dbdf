//! `Where`: the places of what is not zero.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, Element, PartialShape, Tensor, dispatch, register_ops};

/// The row-major numbers of the elements that are not zero.
fn set<T: Element>(x: &Tensor) -> Result<Vec<usize>> {
    let v = x.as_slice::<T>()?;
    let zero = T::default();
    let n = v.iter().filter(|x| **x != zero).count();
    let mut out = Vec::with_capacity(n);
    out.extend(v.iter().enumerate().filter(|(_, x)| **x != zero).map(|(i, _)| i));
    Ok(out)
}

fn run(cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    if x.shape().rank() == 0 {
        return Err(Error::invalid(
            "Where of a scalar: there are no places in it; its input must have at least one dimension",
        ));
    }
    let places = dispatch!(x.dtype(), T in plain => set::<T>(x)?,
        else return Err(Error::invalid(format!("Where of dtype {}", x.dtype()))));
    let strides = x.shape().strides();
    let mut t = cx.alloc(DType::I64, [places.len(), strides.len()])?;
    let out = t.as_mut_slice::<i64>().unwrap_or(&mut []);
    if let [_] = strides[..] {
        out.iter_mut().zip(&places).for_each(|(o, p)| *o = *p as i64);
    } else if !strides.is_empty() {
        for (row, p) in out.chunks_exact_mut(strides.len()).zip(&places) {
            let mut rest = *p;
            for (o, s) in row.iter_mut().zip(&strides) {
                // A stride of 0 belongs to an empty tensor, which has no places.
                *o = (rest / s) as i64;
                rest %= s;
            }
        }
    }
    cx.set_output(0, t);
    Ok(())
}

fn where_() -> OpDef {
    OpDef::new("Where", Category::Array)
        .doc("The indices of the elements that are true or not zero, in row-major order, one row each.")
        .input("input: T")
        .output("index: int64")
        .attr("T: {numbertype, bool} = DT_BOOL")
        .shape(|cx| Ok(vec![PartialShape::new(vec![None, cx.input(0).rank()])]))
        .not_differentiable()
        .cpu(|_| Ok(Box::new(run)))
}

register_ops!(where_);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Tensor};

    #[test]
    fn a_scalar_has_no_places() {
        let g = Graph::new();
        let e = fails(&g.constant(true).unwrap().unary("Where").unwrap());
        assert_eq!(e.code(), Code::InvalidArgument);
        assert!(e.message().contains("scalar"), "{e}");
    }

    #[test]
    fn places_of_truths_and_of_numbers() {
        let g = Graph::new();
        let places = |t: Tensor| eval(&g.constant(t).unwrap().unary("Where").unwrap());
        assert_eq!(
            places([[true, false], [true, true]].into()),
            Tensor::from([[0i64, 0], [1, 0], [1, 1]])
        );
        assert_eq!(
            places([0.0f32, -0.0, f32::NAN, 2.0].into()),
            Tensor::from([[2i64], [3]])
        );
        assert_eq!(places([false].into()).shape().dims(), [0, 1]);
    }
}
