//! `MatrixBandPart`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::parallel::Parallel;
use actorflow_core::{Operation, register_ops};

use crate::moves::{self, Fill, Item, Shuffle};
use crate::spread;

/// Copies the diagonals from `below` under the main one to `above` over it; `None` is all on that side.
struct Band {
    rows: usize,
    cols: usize,
    below: Option<usize>,
    above: Option<usize>,
}

impl Shuffle for Band {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], par: &dyn Parallel) -> Result<()> {
        let (Some(from), cols) = (sources.first(), self.cols) else {
            return Err(Error::internal("a band needs a source"));
        };
        if cols == 0 {
            return Ok(());
        }
        let rows = spread::rows_of(cols);
        spread::chunks(par, out, rows * cols, |i, out| {
            let from = from[i * rows * cols..].chunks(cols);
            for (j, (from, to)) in from.zip(out.chunks_mut(cols)).enumerate() {
                let row = (i * rows + j) % self.rows;
                let begin = self.below.map_or(0, |n| row.saturating_sub(n)).min(cols);
                let end = self
                    .above
                    .map_or(cols, |n| row.saturating_add(n).saturating_add(1).min(cols));
                if begin < end {
                    to[begin..end].clone_from_slice(&from[begin..end]);
                }
            }
        });
        Ok(())
    }
}

/// The number of diagonals on one side that input `i` asks for; negative is all.
fn side(cx: &OpContext<'_>, i: usize, name: &str, most: usize) -> Result<Option<usize>> {
    let t = cx.input(i)?;
    if !t.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "{name} must be scalar, got shape {}",
            t.shape()
        )));
    }
    let n = t.to_i64()?;
    match usize::try_from(n) {
        Err(_) => Ok(None),
        Ok(n) if n <= most => Ok(Some(n)),
        Ok(n) => Err(Error::invalid(format!(
            "{name} must be negative or less or equal to {most}, got {n}"
        ))),
    }
}

fn compute(cx: &mut OpContext<'_>) -> Result<()> {
    let input = cx.input(0)?;
    let shape = input.shape();
    let [.., rows, cols] = *shape.dims() else {
        return Err(Error::invalid(format!(
            "input must be at least 2-dim, received shape {shape}"
        )));
    };
    let below = side(cx, 1, "num_lower", rows)?;
    let above = side(cx, 2, "num_upper", cols)?;
    if below.is_none() && above.is_none() {
        return cx.forward(0, 0);
    }
    let band = Band {
        rows,
        cols,
        below,
        above,
    };
    let out = moves::build(cx, input.dtype(), shape.clone(), Fill::Zero, &[input], &band)?;
    cx.set_output(0, out);
    Ok(())
}

fn sample(s: &mut Sampler, lower: i64, upper: i64) -> Result<Operation> {
    let x = s.normal([2, 3, 4])?;
    let (lower, upper) = (s.constant(lower)?, s.constant(upper)?);
    s.op("MatrixBandPart").input(&x).input(&lower).input(&upper).finish()
}

pub(super) fn band_part() -> OpDef {
    OpDef::new("MatrixBandPart", Category::Matrix)
        .doc("Matrices with everything cleared but a band around the main diagonal.")
        .input("input: T")
        .input("num_lower: Tindex")
        .input("num_upper: Tindex")
        .output("band: T")
        .attr("T: type")
        .attr("Tindex: {int32, int64} = DT_INT64")
        .shape(|cx| Ok(vec![cx.input(0)]))
        .gradient(|cx, dys| {
            let dx = cx
                .graph()
                .op("MatrixBandPart")
                .input(&cx.dense(dys, 0)?)
                .input(&cx.input(1)?)
                .input(&cx.input(2)?)
                .output()?;
            Ok(vec![Some(dx.into()), None, None])
        })
        .cpu(|_| Ok(Box::new(compute)))
        .sample(|s| sample(s, 1, 0))
        .sample(|s| sample(s, -1, 1))
}

register_ops!(band_part);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Output, Tensor};

    fn band(lower: i32, upper: i32) -> Output {
        let g = Graph::new();
        let x = g
            .constant([[0f32, 1., 2., 3.], [-1., 0., 1., 2.], [-2., -1., 0., 1.]])
            .unwrap();
        let (lower, upper) = (g.constant(lower).unwrap(), g.constant(upper).unwrap());
        g.op("MatrixBandPart")
            .input(&x)
            .input(&lower)
            .input(&upper)
            .output()
            .unwrap()
    }

    #[test]
    fn a_band_is_kept() {
        assert_eq!(
            eval(&band(1, -1)),
            Tensor::from([[0f32, 1., 2., 3.], [-1., 0., 1., 2.], [0., -1., 0., 1.]])
        );
        assert_eq!(
            eval(&band(2, 1)),
            Tensor::from([[0f32, 1., 0., 0.], [-1., 0., 1., 0.], [-2., -1., 0., 1.]])
        );
        assert_eq!(eval(&band(0, 0)), Tensor::full([3, 4], 0f32).unwrap());
        assert!(fails(&band(4, 0)).message().contains("num_lower"));
        assert!(fails(&band(0, 5)).message().contains("num_upper"));
    }
}
