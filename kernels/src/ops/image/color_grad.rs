//! The gradient of `RGBToHSV`, in closed form.
//!
//! With M the largest, m the smallest and o the other channel: value = M, saturation = 1 - m / M, and the hue is a
//! sixth of a constant plus (or minus) (o - m) / (M - m), so that
//! d value / dM = 1; d saturation / dM = m / M², / dm = -1 / M;
//! d hue / dM = ∓(o - m) / (M - m)², / do = ±1 / (M - m), / dm = ∓(M - o) / (M - m)², each over 6.
//! Where two channels are equal, red goes before green before blue as the largest, and after them as the smallest.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::{DType, Output};

/// Channel `i` of pixels in the last dimension.
fn channel(x: &Output, i: i64) -> Result<Output> {
    let at = x.graph().constant(i as i32)?;
    x.gather(&at, -1)
}

/// 1 where all of `conditions` hold.
fn indicator(conditions: &[Output], dtype: DType) -> Result<Output> {
    let [first, rest @ ..] = conditions else {
        return Err(actorflow_core::Error::internal("no condition"));
    };
    let mut all = first.clone();
    for c in rest {
        all = all.logical_and(c)?;
    }
    all.cast(dtype)
}

fn no_nan(x: &Output, y: &Output) -> Result<Output> {
    x.graph().op("DivNoNan").input(x).input(y).output()
}

pub(super) fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dense(dys, 0)?);
    let t = x.dtype();
    let [r, g, b] = [channel(&x, 0)?, channel(&x, 1)?, channel(&x, 2)?];
    let value = channel(&y, 2)?;
    let [dh, ds, dv] = [channel(&dy, 0)?, channel(&dy, 1)?, channel(&dy, 2)?];
    let largest = [
        indicator(&[r.greater_equal(&b)?, r.greater_equal(&g)?], t)?,
        indicator(&[g.greater(&r)?, g.greater_equal(&b)?], t)?,
        indicator(&[b.greater(&r)?, b.greater(&g)?], t)?,
    ];
    let smallest = [
        indicator(&[r.less(&b)?, r.less(&g)?], t)?,
        indicator(&[g.less_equal(&r)?, g.less(&b)?], t)?,
        indicator(&[b.less_equal(&r)?, b.less_equal(&g)?], t)?,
    ];
    let channels = [&r, &g, &b];
    let positive = value.greater(&value.zeros_like()?)?.cast(t)?;
    let min = r.minimum(&g)?.minimum(&b)?;
    let range = value.minus(&min)?;
    let sixth = x.scalar_like(6.0)?;
    // The hue's part between two sixths, by which channel is largest: (g - b), (b - r), (r - g) over the range.
    let across = |i: usize| channels[(i + 1) % 3].minus(channels[(i + 2) % 3]);
    let hue_slope = no_nan(&dh, &range.times(&sixth)?)?.times(&positive)?;
    let ratio = |i: usize| no_nan(&across(i)?, &range);
    let mut parts = Vec::new();
    for i in 0..3 {
        let (max, least) = (&largest[i], &smallest[i]);
        let by_value = dv.times(max)?;
        let as_max = max.times(&no_nan(&min, &value.square()?)?)?;
        let as_min = least.times(&no_nan(&positive, &value)?)?;
        // A channel at zero gives no gradient through the saturation, as in TensorFlow.
        let own = channels[i].greater(&channels[i].zeros_like()?)?.cast(t)?;
        let by_saturation = ds.times(&own)?.times(&as_max.minus(&as_min)?)?;
        // Of the difference directly: this channel is added where the one before it is largest (it follows that), and
        // subtracted where the one after it is. Then through the range, which grows with the largest channel and
        // shrinks with the smallest.
        let direct = largest[(i + 2) % 3].minus(&largest[(i + 1) % 3])?;
        let all_ratios = x.graph().add_n(&[
            largest[0].times(&ratio(0)?)?,
            largest[1].times(&ratio(1)?)?,
            largest[2].times(&ratio(2)?)?,
        ])?;
        let through = all_ratios.times(&max.minus(least)?)?;
        let by_hue = hue_slope.times(&direct.minus(&through)?)?;
        parts.push(x.graph().add_n(&[by_value, by_saturation, by_hue])?);
    }
    Ok(vec![Some(x.graph().stack(&parts, -1)?.into())])
}
