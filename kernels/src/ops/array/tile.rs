//! `Tile`.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, register_ops};

use super::support::{checked_rank, index_constant, int_vector};
use crate::moves::{self, Axes, Axis, Copies, Fill, StridedCopy};

/// The shape of the result.
fn tiled(dims: &[usize], multiples: &[i64]) -> Result<Shape> {
    if dims.len() != multiples.len() {
        return Err(Error::invalid(format!(
            "multiples must have one element for each of the {} dimensions, got {multiples:?}",
            dims.len()
        )));
    }
    let each = dims.iter().zip(multiples).map(|(d, m)| {
        usize::try_from(*m)
            .ok()
            .and_then(|m| m.checked_mul(*d))
            .ok_or_else(|| Error::invalid(format!("multiples {multiples:?} are negative or too large")))
    });
    let shape = Shape::from(each.collect::<Result<Vec<_>>>()?);
    shape.checked_count()?;
    Ok(shape)
}

fn run(cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    let multiples = int_vector(cx.input(1)?, "multiples")?;
    let shape = tiled(x.shape(), &multiples)?;
    let t = if shape == *x.shape() {
        x.clone()
    } else {
        let (from, to) = (x.shape().strides(), shape.strides());
        let mut axes = Axes::new();
        for (i, &n) in x.shape().iter().enumerate() {
            let (src, dst) = (from[i] as isize, to[i] as isize);
            axes.push(Axis {
                n: multiples[i] as usize,
                src: 0,
                dst: dst.saturating_mul(n as isize),
            });
            axes.push(Axis { n, src, dst });
        }
        let copy = StridedCopy {
            source: 0,
            from: 0,
            to: 0,
            axes,
        };
        moves::build(cx, x.dtype(), shape, Fill::Any, &[x], &Copies(&[copy]))?
    };
    cx.set_output(0, t);
    Ok(())
}

/// The gradient reshaped to `[m0, d0, m1, d1, …]` and summed over the repetitions.
fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, x, multiples) = (cx.graph(), cx.input(0)?, cx.input(1)?);
    let dy = cx.dense(dys, 0)?;
    let known = multiples.constant_value().and_then(|t| t.to_i64_vec().ok());
    let dx = match (x.shape().to_shape(), known) {
        (Some(s), Some(m)) => {
            let parts: Vec<i64> = m.iter().zip(s.to_i64()).flat_map(|(m, d)| [*m, d]).collect();
            let axes: Vec<i64> = (0..s.rank() as i64).map(|i| 2 * i).collect();
            let parts = dy.reshape_to(&index_constant(g, DType::I64, &parts)?)?;
            parts.reduce_by("Sum", &index_constant(g, DType::I32, &axes)?, false)?
        }
        _ => {
            let shape = x.shape_op()?;
            let parts = g.stack(&[multiples.cast(DType::I32)?, shape], 1)?.reshape(&[-1])?;
            let (zero, two) = (g.constant(0i32)?, g.constant(2i32)?);
            let axes = g
                .op("Range")
                .input(&zero)
                .input(&parts.size_op()?)
                .input(&two)
                .output()?;
            let sum = dy.reshape_to(&parts)?.reduce_by("Sum", &axes, false)?;
            sum.reshape_to(&x.shape_op()?)?
        }
    };
    Ok(vec![Some(dx.into()), None])
}

fn tile() -> OpDef {
    OpDef::new("Tile", Category::Array)
        .doc("The tensor repeated `multiples[i]` times along each axis `i`.")
        .input("input: T")
        .input("multiples: Tmultiples")
        .output("output: T")
        .attr("T: type")
        .attr("Tmultiples: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let x = cx.input(0);
            let multiples = cx.constant_i64s(1);
            if let (Some(s), Some(m)) = (x.to_shape(), &multiples) {
                return Ok(vec![tiled(&s, m)?.into()]);
            }
            let Some(rank) = x.rank().or(cx.input(1).dim(0)) else {
                return Ok(vec![PartialShape::UNKNOWN]);
            };
            let x = x.with_rank(checked_rank(rank)?)?;
            if multiples.as_ref().is_some_and(|m| m.len() != rank) {
                return Err(Error::invalid(format!("multiples must have {rank} elements")));
            }
            let dim = |i: usize| {
                let m = usize::try_from(multiples.as_ref()?[i]).ok()?;
                x.dim(i)?.checked_mul(m)
            };
            Ok(vec![PartialShape::new((0..rank).map(dim).collect::<Vec<_>>())])
        })
        .gradient(gradient)
        .cpu(|_| Ok(Box::new(run)))
        .sample(|s| {
            let x = s.normal([2, 3])?;
            let m = s.constant([2i32, 3])?;
            s.op("Tile").input(&x).input(&m).finish()
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            let hidden = s
                .op("PlaceholderWithDefault")
                .input(&x)
                .attr("shape", PartialShape::UNKNOWN)
                .output()?;
            let m = s.constant([1i32, 2])?;
            s.op("Tile").input(&hidden).input(&m).finish()
        })
}

register_ops!(tile);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output, PartialShape, Tensor};

    fn tile(x: &Output, m: &[i64]) -> actorflow_core::Result<Output> {
        let m = x.graph().constant(Tensor::vector(m))?;
        x.graph().op("Tile").input(x).input(&m).output()
    }

    #[test]
    fn repeated_along_every_axis() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2], [3, 4]]).unwrap();
        let y = tile(&x, &[2, 2]).unwrap();
        assert_eq!(y.shape(), PartialShape::from([4, 4]));
        assert_eq!(
            eval(&y).to_vec::<i32>().unwrap(),
            [1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4]
        );
        assert_eq!(eval(&tile(&x, &[0, 1]).unwrap()).shape().dims(), [0, 2]);
        let s = g.constant(Tensor::strings([1], vec!["ab"]).unwrap()).unwrap();
        assert_eq!(
            eval(&tile(&s, &[2]).unwrap()),
            Tensor::strings([2], vec!["ab", "ab"]).unwrap()
        );
        assert!(tile(&x, &[1]).is_err() && tile(&x, &[-1, 1]).is_err());
    }

    #[test]
    fn absurd_multiples_are_an_error() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2], [3, 4]]).unwrap();
        assert!(tile(&x, &[i64::MAX, 2]).is_err());
        let e = fails(&tile(&x, &[1 << 60, 1]).unwrap());
        assert!(
            matches!(e.code(), Code::InvalidArgument | Code::ResourceExhausted),
            "{e}"
        );
    }
}
