//! Follow the (proximally) regularised leader, both versions.

#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::define::{self, apply_names};
use super::rule::{MOST, Optimizer, Real, Rule, Settings, Use};

/// `ROOT`: the learning rate falls with the square root of the accumulator (lr_power is -1/2), for which there is
/// vector code.
#[derive(Clone, Copy)]
struct Leader<F, const ROOT: bool> {
    /// The L1 threshold of `linear`.
    l1: F,
    /// What the power of the accumulator is multiplied by: 1/lr, or 1 where `linear` is multiplied by lr.
    per_rate: F,
    /// What the gradient is multiplied by before it is added to `linear`.
    grad: F,
    /// 2 · l2, in the units of `linear`.
    ridge: F,
    /// 2 · l2_shrinkage
    shrinkage: F,
    /// -lr_power
    exponent: F,
}

impl<F: Real, const ROOT: bool> Rule<F> for Leader<F, ROOT> {
    const N: usize = 3;

    #[inline(always)]
    fn step(&self, [var, accum, linear, _]: [F; MOST], g: F) -> [F; MOST] {
        let power = |x: F| if ROOT { x.root() } else { x.power(self.exponent) };
        let new = accum + g * g;
        let p = power(new);
        let shrunk = g + self.shrinkage * var;
        let linear = linear + (shrunk * self.grad - (p - power(accum)) * self.per_rate * var);
        let x = self.l1 * linear.sign() - linear;
        let y = p * self.per_rate + self.ridge;
        let var = if linear.magnitude() > self.l1 {
            x / y
        } else {
            F::of(0.0)
        };
        [var, new, linear, linear]
    }
}

fn choose<F: Real>([lr, l1, l2, l2_shrinkage, lr_power]: [F; 5], multiply_linear_by_lr: bool, to: impl Use<F>) {
    let (one, two) = (F::of(1.0), F::of(2.0));
    let (scale, per_rate) = match multiply_linear_by_lr {
        true => (lr, one),
        false => (one, one / lr),
    };
    let leader = Leader::<F, false> {
        l1: l1 * scale,
        per_rate,
        grad: scale,
        ridge: two * l2 * scale,
        shrinkage: two * l2_shrinkage,
        exponent: -lr_power,
    };
    if lr_power == F::of(-0.5) {
        to.with(Leader::<F, true> {
            l1: leader.l1,
            per_rate: leader.per_rate,
            grad: leader.grad,
            ridge: leader.ridge,
            shrinkage: leader.shrinkage,
            exponent: leader.exponent,
        });
    } else {
        to.with(leader);
    }
}

const DOC: &str = "Follow the regularised leader: H. B. McMahan et al., \"Ad Click Prediction: a View from the \
     Trenches\", KDD 2013. With multiply_linear_by_lr, `linear` holds the sums times the learning rate.";
const FLAGS: &[(&str, bool)] = &[("multiply_linear_by_lr", false)];

struct Ftrl;

impl Optimizer for Ftrl {
    const NAMES: [&'static str; 4] = apply_names!("Ftrl");
    const DOC: &'static str = DOC;
    const SLOTS: &'static [&'static str] = &["accum", "linear"];
    const INPUTS: &'static [&'static str] = &["grad", "lr", "l1", "l2", "lr_power"];
    const SPARSE: &'static [&'static str] = &["grad", "indices", "lr", "l1", "l2", "lr_power"];
    const FLAGS: &'static [(&'static str, bool)] = FLAGS;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        choose([s.at(0), s.at(1), s.at(2), F::of(0.0), s.at(3)], s.flag(0), to);
    }
}

struct FtrlV2;

impl Optimizer for FtrlV2 {
    const NAMES: [&'static str; 4] = apply_names!("FtrlV2");
    const DOC: &'static str = DOC;
    const SLOTS: &'static [&'static str] = &["accum", "linear"];
    const INPUTS: &'static [&'static str] = &["grad", "lr", "l1", "l2", "l2_shrinkage", "lr_power"];
    const SPARSE: &'static [&'static str] = &["grad", "indices", "lr", "l1", "l2", "l2_shrinkage", "lr_power"];
    const FLAGS: &'static [(&'static str, bool)] = FLAGS;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        choose([s.at(0), s.at(1), s.at(2), s.at(3), s.at(4)], s.flag(0), to);
    }
}

fn ftrl() -> Vec<OpDef> {
    define::ops::<Ftrl>()
}

fn ftrl_v2() -> Vec<OpDef> {
    define::ops::<FtrlV2>()
}

register_ops!(all ftrl);
register_ops!(all ftrl_v2);
