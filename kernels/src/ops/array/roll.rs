//! `Roll`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::support::int_vector;
use crate::moves::{self, Axis, Copies, Fill, Run, products};
use crate::shapes;

fn run(cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    let (shifts, axes) = (int_vector(cx.input(1)?, "shift")?, int_vector(cx.input(2)?, "axis")?);
    let dims = x.shape();
    if dims.rank() == 0 {
        return Err(Error::invalid("input must be at least a vector"));
    }
    if shifts.len() != axes.len() {
        return Err(Error::invalid(format!(
            "shift and axis must have one length, got {} and {}",
            shifts.len(),
            axes.len()
        )));
    }
    // Shifts of one axis add up.
    let mut shift = vec![0usize; dims.rank()];
    for (s, a) in shifts.iter().zip(&axes) {
        let a = dims.axis(*a)?;
        if dims[a] > 0 {
            shift[a] = (shift[a] + s.rem_euclid(dims[a] as i64) as usize) % dims[a];
        }
    }
    let t = if shift.iter().all(|s| *s == 0) {
        x.clone()
    } else {
        let strides = dims.strides();
        let per: Vec<Vec<Run>> = (0..dims.rank())
            .map(|d| {
                let run = |from: usize, to: usize, n: usize| Run {
                    from: from * strides[d],
                    to: to * strides[d],
                    axis: Axis {
                        n,
                        src: strides[d] as isize,
                        dst: strides[d] as isize,
                    },
                };
                let (n, s) = (dims[d], shift[d]);
                vec![run(n - s, 0, s), run(0, s, n - s)]
            })
            .collect();
        moves::build(cx, x.dtype(), dims.clone(), Fill::Any, &[x], &Copies(&products(&per)))?
    };
    cx.set_output(0, t);
    Ok(())
}

fn roll() -> OpDef {
    OpDef::new("Roll", Category::Array)
        .doc("The elements moved along axes by shifts; what falls off one end comes back at the other.")
        .input("input: T")
        .input("shift: Tshift")
        .input("axis: Taxis")
        .output("output: T")
        .attr("T: type")
        .attr("Tshift: {int32, int64}")
        .attr("Taxis: {int32, int64}")
        .shape(|cx| {
            cx.input(0).with_rank_at_least(1)?;
            shapes::like_first(cx)
        })
        .gradient(|cx, dys| {
            let back = cx.input(1)?.negated()?;
            let b = cx
                .graph()
                .op("Roll")
                .input(&cx.dense(dys, 0)?)
                .input(&back)
                .input(&cx.input(2)?);
            Ok(vec![Some(b.output()?.into()), None, None])
        })
        .cpu(|_| Ok(Box::new(run)))
        .sample(|s| {
            let x = s.normal([3, 4])?;
            let (shift, axis) = (s.constant([1i32, -2])?, s.constant([0i32, 1])?);
            s.op("Roll").input(&x).input(&shift).input(&axis).finish()
        })
}

register_ops!(roll);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn elements_come_back_at_the_other_end() {
        let g = Graph::new();
        let roll = |x: Tensor, s: Tensor, a: Tensor| {
            let c = |t: Tensor| g.constant(t).unwrap();
            eval(&g.op("Roll").input(&c(x)).input(&c(s)).input(&c(a)).output().unwrap())
        };
        assert_eq!(
            roll([1i32, 2, 3, 4].into(), 1i32.into(), 0i32.into()),
            Tensor::from([4i32, 1, 2, 3])
        );
        assert_eq!(
            roll([1i32, 2, 3, 4].into(), (-5i64).into(), 0i32.into()),
            Tensor::from([2i32, 3, 4, 1])
        );
        let m: Tensor = [[1i32, 2, 3], [4, 5, 6]].into();
        let got = roll(m, [1i32, 1, 1].into(), [0i32, 1, -1].into());
        assert_eq!(got, Tensor::from([[5i32, 6, 4], [2, 3, 1]]));
    }
}
