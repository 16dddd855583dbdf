//! Gradient descent, plain and proximal.

#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::define::{self, apply_names};
use super::rule::{Field, MOST, Optimizer, Real, Rule, Settings, Use};

struct GradientDescent;

#[derive(Clone, Copy)]
struct Descend<F> {
    alpha: F,
}

impl<F: Field> Rule<F> for Descend<F> {
    const N: usize = 1;

    #[inline(always)]
    fn step(&self, [var, ..]: [F; MOST], g: F) -> [F; MOST] {
        [var - g * self.alpha, var, var, var]
    }
}

impl Optimizer for GradientDescent {
    // The sparse form is ScatterSub.
    const NAMES: [&'static str; 4] = apply_names!("GradientDescent");
    const DOC: &'static str = "var -= alpha * delta";
    const SLOTS: &'static [&'static str] = &[];
    const INPUTS: &'static [&'static str] = &["alpha", "delta"];
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(Descend { alpha: s.at(0) });
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(Descend { alpha: s.at(0) });
    }
}

struct ProximalGradientDescent;

/// The proximal step of FOBOS with L1 and L2 regularisation from the point `var` with this learning rate.
#[inline(always)]
pub(super) fn shrink<F: Real>(var: F, rate: F, l1: F, l2: F) -> F {
    let one = F::of(1.0);
    let kept = (var.magnitude() - rate * l1).larger(F::of(0.0));
    var.sign() * kept / (one + l2 * rate)
}

#[derive(Clone, Copy)]
struct Proximal<F> {
    alpha: F,
    l1: F,
    l2: F,
}

impl<F: Real> Rule<F> for Proximal<F> {
    const N: usize = 1;

    #[inline(always)]
    fn step(&self, [var, ..]: [F; MOST], g: F) -> [F; MOST] {
        let var = shrink(var - g * self.alpha, self.alpha, self.l1, self.l2);
        [var, var, var, var]
    }
}

impl Optimizer for ProximalGradientDescent {
    const NAMES: [&'static str; 4] = apply_names!("ProximalGradientDescent");
    const DOC: &'static str = "Gradient descent with L1 and L2 regularisation by proximal steps: J. Duchi, Y. Singer, \
         \"Efficient Learning using Forward-Backward Splitting\", NIPS 2009.";
    const SLOTS: &'static [&'static str] = &[];
    const INPUTS: &'static [&'static str] = &["alpha", "l1", "l2", "delta"];
    const SPARSE: &'static [&'static str] = &["alpha", "l1", "l2", "grad", "indices"];
    const HALF: bool = false;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(Proximal {
            alpha: s.at(0),
            // Without a positive l1 there is no shrinking, as in TensorFlow.
            l1: s.at(1).larger(F::of(0.0)),
            l2: s.at(2),
        });
    }
}

fn plain() -> Vec<OpDef> {
    define::ops::<GradientDescent>()
}

fn proximal() -> Vec<OpDef> {
    define::ops::<ProximalGradientDescent>()
}

register_ops!(all plain);
register_ops!(all proximal);
