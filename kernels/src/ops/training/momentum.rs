//! Gradient descent with momentum, TensorFlow 1's and Keras's.

#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::define::{self, apply_names};
use super::rule::{Field, MOST, Optimizer, Real, Rule, Settings, Use};

const INPUTS: &[&str] = &["lr", "grad", "momentum"];
const SPARSE: &[&str] = &["lr", "grad", "indices", "momentum"];

struct Momentum;

#[derive(Clone, Copy)]
struct Accelerate<F, const NESTEROV: bool> {
    lr: F,
    momentum: F,
}

impl<F: Field, const NESTEROV: bool> Rule<F> for Accelerate<F, NESTEROV> {
    const N: usize = 2;

    #[inline(always)]
    fn step(&self, [var, accum, ..]: [F; MOST], g: F) -> [F; MOST] {
        let accum = accum * self.momentum + g;
        let var = if NESTEROV {
            var - (g * self.lr + accum * self.momentum * self.lr)
        } else {
            var - accum * self.lr
        };
        [var, accum, var, var]
    }
}

impl Momentum {
    fn choose<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        let (lr, momentum) = (s.at(0), s.at(1));
        if s.flag(0) {
            to.with(Accelerate::<F, true> { lr, momentum });
        } else {
            to.with(Accelerate::<F, false> { lr, momentum });
        }
    }
}

impl Optimizer for Momentum {
    const NAMES: [&'static str; 4] = apply_names!("Momentum");
    const DOC: &'static str = "accum = accum * momentum + grad; var -= lr * accum. With use_nesterov, var -= \
         lr * (grad + momentum * accum).";
    const SLOTS: &'static [&'static str] = &["accum"];
    const INPUTS: &'static [&'static str] = INPUTS;
    const SPARSE: &'static [&'static str] = SPARSE;
    const FLAGS: &'static [(&'static str, bool)] = &[("use_nesterov", false)];
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        Self::choose(s, to);
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        Self::choose(s, to);
    }
}

struct KerasMomentum;

#[derive(Clone, Copy)]
struct Roll<F, const NESTEROV: bool> {
    lr: F,
    momentum: F,
}

impl<F: Field, const NESTEROV: bool> Rule<F> for Roll<F, NESTEROV> {
    const N: usize = 2;

    #[inline(always)]
    fn step(&self, [var, accum, ..]: [F; MOST], g: F) -> [F; MOST] {
        let accum = accum * self.momentum - g * self.lr;
        let var = if NESTEROV {
            var + (accum * self.momentum - g * self.lr)
        } else {
            var + accum
        };
        [var, accum, var, var]
    }
}

impl KerasMomentum {
    fn choose<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        let (lr, momentum) = (s.at(0), s.at(1));
        if s.flag(0) {
            to.with(Roll::<F, true> { lr, momentum });
        } else {
            to.with(Roll::<F, false> { lr, momentum });
        }
    }
}

impl Optimizer for KerasMomentum {
    const NAMES: [&'static str; 4] = {
        let [_, _, dense, sparse] = apply_names!("KerasMomentum");
        ["", "", dense, sparse]
    };
    const DOC: &'static str = "accum = accum * momentum - lr * grad; var += accum. With use_nesterov, var += \
         accum * momentum - lr * grad.";
    const SLOTS: &'static [&'static str] = &["accum"];
    const INPUTS: &'static [&'static str] = INPUTS;
    const SPARSE: &'static [&'static str] = SPARSE;
    const FLAGS: &'static [(&'static str, bool)] = &[("use_nesterov", false)];
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        Self::choose(s, to);
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        Self::choose(s, to);
    }
}

fn classic() -> Vec<OpDef> {
    define::ops::<Momentum>()
}

fn keras() -> Vec<OpDef> {
    define::ops::<KerasMomentum>()
}

register_ops!(all classic);
register_ops!(all keras);
