//! `L2Loss`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::rows::{Float, Real, float_kernel};
use crate::math::madd::Madd;
use crate::reduction::{Sum, fold_all};
use crate::spread::{self, GRAIN};
use crate::wide::Work;
use crate::{reduction::Fold, shapes};

/// The sum of the squares of at most [`GRAIN`] elements.
struct Squares<'a, T>(&'a [T]);

/// Elements that are summed side by side.
const LANES: usize = 32;

impl<T: Real> Work for Squares<'_, T> {
    type Out = T;
    #[inline(always)]
    fn run<M: Madd>(self) -> T {
        let mut total = T::ZERO;
        for block in self.0.chunks(64 * LANES) {
            let mut acc = [T::ZERO; LANES];
            let (lanes, rest) = block.as_chunks::<LANES>();
            for x in lanes {
                for (a, x) in acc.iter_mut().zip(x) {
                    *a = *a + *x * *x;
                }
            }
            for (a, x) in acc.iter_mut().zip(rest) {
                *a = *a + *x * *x;
            }
            total = total + super::rows::sum_row(&acc);
        }
        total
    }
}

fn loss<T: Float>(cx: &mut OpContext<'_>) -> Result<()>
where
    Sum<T::Real>: Fold<T = T::Real>,
{
    let device = &*cx.step().device;
    let wide = T::widened(device, cx.input(0)?)?;
    let x = wide.as_slice::<T::Real>()?;
    let mut sums = vec![T::Real::ZERO; x.len().div_ceil(GRAIN)];
    spread::chunks(device.parallel(), &mut sums, 1, |i, out| {
        out[0] = T::Real::run(Squares(&x[i * GRAIN..x.len().min((i + 1) * GRAIN)]));
    });
    let sum = fold_all::<Sum<T::Real>>(device, &sums)?;
    let half = sum * T::Real::of(0.5);
    cx.set_output(0, T::from_real(half).into());
    Ok(())
}

fn l2_loss() -> OpDef {
    OpDef::new("L2Loss", Category::Nn)
        .doc("Half the sum of the squares of all elements.")
        .input("t: T")
        .output("output: T")
        .attr("T: {half, bfloat16, float, double}")
        .shape(shapes::scalar)
        .gradient(|cx, dys| Ok(vec![Some(cx.input(0)?.times(&cx.dense(dys, 0)?)?.into())]))
        .cpu(|init| float_kernel!(init, loss))
        .sample(|s| {
            let t = s.normal([3, 4])?;
            s.op("L2Loss").input(&t).finish()
        })
}

register_ops!(l2_loss);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Tensor};
    use half::f16;

    #[test]
    fn the_loss_is_half_the_sum_of_squares() {
        let g = Graph::new();
        let loss = |t: Tensor| eval(&g.constant(t).unwrap().unary("L2Loss").unwrap());
        assert_eq!(loss(Tensor::from([[1f32, 2.], [3., 4.]])), Tensor::from(15f32));
        assert_eq!(loss(Tensor::zeros(DType::F64, [0]).unwrap()), Tensor::from(0f64));
        assert_eq!(loss(Tensor::from([f16::ONE; 3])), Tensor::from(f16::from_f32(1.5)));
        assert_eq!(loss(Tensor::full([300, 1000], 1f32).unwrap()), Tensor::from(150_000f32));
    }
}
