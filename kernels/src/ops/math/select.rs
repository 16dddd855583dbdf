//! `Select`, `SelectV2`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::unbroadcast;
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Shape, register_ops};

use crate::elementwise;

fn select_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let data = cx.input(1).merge(&cx.input(2))?;
    let condition = cx.input(0);
    let out = match (condition.rank(), data.rank()) {
        (Some(0), _) | (None, _) => data,
        (Some(1), Some(r)) if r >= 1 => {
            let rows = PartialShape::vector(data.dim(0)).merge(&condition)?;
            data.with_dim(0, rows.dim(0))
        }
        (Some(1), None) => data,
        _ => data.merge(&condition)?,
    };
    Ok(vec![out])
}

fn compute(cx: &mut OpContext<'_>) -> Result<()> {
    let (c, t, e) = (cx.input(0)?.shape(), cx.input(1)?.shape(), cx.input(2)?.shape());
    if t != e {
        return Err(Error::invalid(format!(
            "'then' and 'else' must have the same size, but received: {t} vs. {e}"
        )));
    }
    let condition = if c == t || c.is_scalar() {
        c.clone()
    } else if c.rank() == 1 && t.rank() > 1 && c[0] == t[0] {
        // A truth value for each row.
        let mut rows = vec![1; t.rank()];
        rows[0] = c[0];
        Shape::from(rows)
    } else if c.rank() == 1 && t.rank() >= 1 {
        return Err(Error::invalid(format!(
            "Number of batches of 'then' must match size of 'cond', but saw: {} vs. {}",
            t[0], c[0]
        )));
    } else {
        return Err(Error::invalid(format!(
            "'cond' must be a scalar, a vector, or have the shape of 'then': {c} vs. {t}"
        )));
    };
    elementwise::select(cx, &condition)
}

fn select() -> OpDef {
    OpDef::new("Select", Category::Math)
        .doc("t where the condition is true, e elsewhere; a vector of conditions chooses rows.")
        .input("condition: bool")
        .input("t: T")
        .input("e: T")
        .output("output: T")
        .attr("T: type")
        .shape(select_shape)
        .gradient(|cx, dys| {
            let (c, g) = (cx.input(0)?, cx.dense(dys, 0)?);
            let zeros = cx.input(1)?.zeros_like()?;
            let choose = |a, b| cx.graph().op("Select").input(&c).input(a).input(b).output();
            Ok(vec![
                None,
                Some(choose(&g, &zeros)?.into()),
                Some(choose(&zeros, &g)?.into()),
            ])
        })
        .cpu(|_| Ok(Box::new(compute)))
        .sample(|s| {
            let c = s.constant([[true, false, true], [false, false, true]])?;
            let (t, e) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("Select").input(&c).input(&t).input(&e).finish()
        })
        .sample(|s| {
            let c = s.constant([true, false])?;
            let (t, e) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("Select").input(&c).input(&t).input(&e).finish()
        })
}

fn select_v2() -> OpDef {
    OpDef::new("SelectV2", Category::Math)
        .doc("t where the condition is true, e elsewhere; all three broadcast.")
        .input("condition: bool")
        .input("t: T")
        .input("e: T")
        .output("output: T")
        .attr("T: type")
        .shape(|cx| {
            let data = PartialShape::broadcast(&cx.input(1), &cx.input(2))?;
            Ok(vec![PartialShape::broadcast(&cx.input(0), &data)?])
        })
        .gradient(|cx, dys| {
            let (c, t, e, z, g) = (
                cx.input(0)?,
                cx.input(1)?,
                cx.input(2)?,
                cx.output(0)?,
                cx.dense(dys, 0)?,
            );
            let zero = g.scalar_like(0.0)?;
            Ok(vec![
                None,
                Some(unbroadcast(&c.select(&g, &zero)?, &t, &z)?.into()),
                Some(unbroadcast(&c.select(&zero, &g)?, &e, &z)?.into()),
            ])
        })
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let condition = cx.input(0)?.shape().clone();
                elementwise::select(cx, &condition)
            }))
        })
        .sample(|s| {
            let c = s.constant([[true, false, true], [false, false, true]])?;
            let (t, e) = (s.normal([2, 3])?, s.normal([2, 3])?);
            s.op("SelectV2").input(&c).input(&t).input(&e).finish()
        })
        .sample(|s| {
            let c = s.constant([[true], [false]])?;
            let (t, e) = (s.normal([3])?, s.normal([])?);
            s.op("SelectV2").input(&c).input(&t).input(&e).finish()
        })
}

register_ops!(select, select_v2);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn conditions_choose_elements_rows_or_everything() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2], [3, 4]]).unwrap();
        let y = x.negated().unwrap();
        let choose = |c: &actorflow_core::Output| g.op("Select").input(c).input(&x).input(&y).output();
        let c = g.constant([[true, false], [false, true]]).unwrap();
        assert_eq!(eval(&choose(&c).unwrap()), Tensor::from([[1, -2], [-3, 4]]));
        let c = g.constant([false, true]).unwrap();
        assert_eq!(eval(&choose(&c).unwrap()), Tensor::from([[-1, -2], [3, 4]]));
        let c = g.constant(true).unwrap();
        assert_eq!(eval(&choose(&c).unwrap()), Tensor::from([[1, 2], [3, 4]]));
        assert!(choose(&g.constant([true; 3]).unwrap()).is_err());
    }

    #[test]
    fn all_three_broadcast() {
        let g = Graph::new();
        let rows = 400;
        let c: Vec<bool> = (0..rows).map(|i| i % 3 == 0).collect();
        let c = g.constant(Tensor::vector(&c).reshape([rows, 1]).unwrap()).unwrap();
        for cols in [5, 200] {
            let t: Vec<f64> = (0..cols).map(f64::from).collect();
            let t = g.constant(t).unwrap();
            let z = eval(&c.select(&t, &g.constant(-1.0f64).unwrap()).unwrap());
            let want: Vec<f64> = (0..rows)
                .flat_map(|i| (0..cols).map(move |j| if i % 3 == 0 { f64::from(j) } else { -1.0 }))
                .collect();
            assert_eq!(z, Tensor::from_slice([rows, cols as usize], &want).unwrap());
        }
    }

    #[test]
    fn strings_are_chosen_too() {
        let g = Graph::new();
        let c = g.constant([[true], [false]]).unwrap();
        let t = g.constant(Tensor::strings([2], vec!["a", "b"]).unwrap()).unwrap();
        let z = eval(&c.select(&t, &g.constant("q").unwrap()).unwrap());
        assert_eq!(z, Tensor::strings([2, 2], vec!["a", "b", "q", "q"]).unwrap());
    }

    #[test]
    fn a_result_may_lie_where_an_operand_was() {
        let g = Graph::new();
        let n = 70_000;
        let c = g.constant((0..n).map(|i| i % 2 == 0).collect::<Vec<_>>()).unwrap();
        let x = g.constant((0..n).collect::<Vec<i32>>()).unwrap();
        // Sums are the only owners of their buffers.
        let zero = g.constant(0i32).unwrap();
        let (t, e) = (x.plus(&zero).unwrap(), x.negated().unwrap());
        let want = Tensor::from((0..n).map(|i| if i % 2 == 0 { i } else { -i }).collect::<Vec<_>>());
        assert_eq!(eval(&c.select(&t, &e).unwrap()), want);
        assert_eq!(
            eval(&c.select(&t, &zero).unwrap()).to_vec::<i32>().unwrap()[..4],
            [0, 0, 2, 0]
        );
        assert_eq!(
            eval(&c.select(&zero, &e).unwrap()).to_vec::<i32>().unwrap()[..4],
            [0, -1, 0, -3]
        );
    }
}
