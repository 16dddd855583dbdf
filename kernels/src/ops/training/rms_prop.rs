//! RMSProp, plain and centred, and Adadelta.

#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::define::{self, apply_names};
use super::rule::{Field, MOST, Optimizer, Real, Rule, Settings, Use};

const INPUTS: &[&str] = &["lr", "rho", "momentum", "epsilon", "grad"];
const SPARSE: &[&str] = &["lr", "rho", "momentum", "epsilon", "grad", "indices"];

#[derive(Clone, Copy)]
struct Rates<F> {
    lr: F,
    /// 1 - rho
    new: F,
    momentum: F,
    epsilon: F,
}

impl<F: Field> Rates<F> {
    fn new(s: &Settings<'_, F>) -> Self {
        Rates {
            lr: s.at(0),
            new: F::of(1.0) - s.at(1),
            momentum: s.at(2),
            epsilon: s.at(3),
        }
    }
}

struct RmsProp;

#[derive(Clone, Copy)]
struct MeanSquare<F>(Rates<F>);

impl<F: Field> Rule<F> for MeanSquare<F> {
    const N: usize = 3;

    #[inline(always)]
    fn step(&self, [var, ms, mom, _]: [F; MOST], g: F) -> [F; MOST] {
        let r = &self.0;
        let ms = ms + (g * g - ms) * r.new;
        let mom = mom * r.momentum + (g * r.lr) / (ms + r.epsilon).root();
        [var - mom, ms, mom, mom]
    }
}

impl Optimizer for RmsProp {
    const NAMES: [&'static str; 4] = apply_names!("RMSProp");
    const DOC: &'static str = "ms = rho * ms + (1 - rho) * grad²; mom = momentum * mom + lr * grad / √(ms + epsilon); \
         var -= mom. T. Tieleman, G. Hinton, Coursera lecture 6.5, 2012.";
    const SLOTS: &'static [&'static str] = &["ms", "mom"];
    const INPUTS: &'static [&'static str] = INPUTS;
    const SPARSE: &'static [&'static str] = SPARSE;
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(MeanSquare(Rates::new(s)));
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(MeanSquare(Rates::new(s)));
    }
}

struct CenteredRmsProp;

#[derive(Clone, Copy)]
struct Variance<F>(Rates<F>);

impl<F: Field> Rule<F> for Variance<F> {
    const N: usize = 4;

    #[inline(always)]
    fn step(&self, [var, mg, ms, mom]: [F; MOST], g: F) -> [F; MOST] {
        let r = &self.0;
        let ms = ms + (g * g - ms) * r.new;
        let mg = mg + (g - mg) * r.new;
        let variance = (ms - mg * mg) + r.epsilon;
        let mom = mom * r.momentum + (g * r.lr) / variance.root();
        [var - mom, mg, ms, mom]
    }
}

impl Optimizer for CenteredRmsProp {
    const NAMES: [&'static str; 4] = apply_names!("CenteredRMSProp");
    const DOC: &'static str = "RMSProp that divides by an estimate of the gradient's standard deviation: A. Graves, \
         \"Generating Sequences With Recurrent Neural Networks\", arXiv:1308.0850.";
    const SLOTS: &'static [&'static str] = &["mg", "ms", "mom"];
    const INPUTS: &'static [&'static str] = INPUTS;
    const SPARSE: &'static [&'static str] = SPARSE;
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(Variance(Rates::new(s)));
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(Variance(Rates::new(s)));
    }
}

struct Adadelta;

#[derive(Clone, Copy)]
struct Deltas<F> {
    lr: F,
    rho: F,
    /// 1 - rho
    new: F,
    epsilon: F,
}

impl<F: Field> Rule<F> for Deltas<F> {
    const N: usize = 3;

    #[inline(always)]
    fn step(&self, [var, accum, updates, _]: [F; MOST], g: F) -> [F; MOST] {
        let accum = accum * self.rho + g * g * self.new;
        let update = (updates + self.epsilon).root() / (accum + self.epsilon).root() * g;
        let updates = updates * self.rho + update * update * self.new;
        [var - update * self.lr, accum, updates, updates]
    }
}

impl Adadelta {
    fn rule<F: Field>(s: &Settings<'_, F>) -> Deltas<F> {
        Deltas {
            lr: s.at(0),
            rho: s.at(1),
            new: F::of(1.0) - s.at(1),
            epsilon: s.at(2),
        }
    }
}

impl Optimizer for Adadelta {
    const NAMES: [&'static str; 4] = apply_names!("Adadelta");
    const DOC: &'static str =
        "M. D. Zeiler, \"ADADELTA: An Adaptive Learning Rate Method\", arXiv:1212.5701, with a learning rate.";
    const SLOTS: &'static [&'static str] = &["accum", "accum_update"];
    const INPUTS: &'static [&'static str] = &["lr", "rho", "epsilon", "grad"];
    const SPARSE: &'static [&'static str] = &["lr", "rho", "epsilon", "grad", "indices"];
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(Self::rule(s));
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(Self::rule(s));
    }
}

fn rms_prop() -> Vec<OpDef> {
    define::ops::<RmsProp>()
}

fn centered_rms_prop() -> Vec<OpDef> {
    define::ops::<CenteredRmsProp>()
}

fn adadelta() -> Vec<OpDef> {
    define::ops::<Adadelta>()
}

register_ops!(all rms_prop);
register_ops!(all centered_rms_prop);
register_ops!(all adadelta);
