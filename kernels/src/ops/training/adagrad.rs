//! Adagrad, its second version, its proximal form and its dual averaging form.

#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::define::{self, apply_names};
use super::gradient_descent::shrink;
use super::rule::{Field, MOST, Optimizer, Real, Rule, Settings, Use};

struct Adagrad;

/// `SLOTS`: whether the accumulator moves.
#[derive(Clone, Copy)]
struct Scale<F, const SLOTS: bool> {
    lr: F,
    epsilon: F,
}

impl<F: Field, const SLOTS: bool> Rule<F> for Scale<F, SLOTS> {
    const N: usize = 2;

    #[inline(always)]
    fn step(&self, [var, accum, ..]: [F; MOST], g: F) -> [F; MOST] {
        let accum = if SLOTS { accum + g * g } else { accum };
        let var = var - g * self.lr / (accum.root() + self.epsilon);
        [var, accum, var, var]
    }
}

fn adaptive<F: Field>(lr: F, epsilon: F, update_slots: bool, to: impl Use<F>) {
    if update_slots {
        to.with(Scale::<F, true> { lr, epsilon });
    } else {
        to.with(Scale::<F, false> { lr, epsilon });
    }
}

impl Optimizer for Adagrad {
    const NAMES: [&'static str; 4] = apply_names!("Adagrad");
    const DOC: &'static str = "accum += grad²; var -= lr * grad / √accum. J. Duchi, E. Hazan, Y. Singer, \"Adaptive \
         Subgradient Methods for Online Learning and Stochastic Optimization\", JMLR 12 (2011).";
    const SLOTS: &'static [&'static str] = &["accum"];
    const INPUTS: &'static [&'static str] = &["lr", "grad"];
    const SPARSE: &'static [&'static str] = &["lr", "grad", "indices"];
    const FLAGS: &'static [(&'static str, bool)] = &[("update_slots", true)];
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        adaptive(s.at(0), F::of(0.0), s.flag(0), to);
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        adaptive(s.at(0), F::of(0.0), s.flag(0), to);
    }
}

struct AdagradV2;

impl Optimizer for AdagradV2 {
    const NAMES: [&'static str; 4] = apply_names!("AdagradV2");
    const DOC: &'static str = "Adagrad with a constant in the denominator: var -= lr * grad / (√accum + epsilon).";
    const SLOTS: &'static [&'static str] = &["accum"];
    const INPUTS: &'static [&'static str] = &["lr", "epsilon", "grad"];
    const SPARSE: &'static [&'static str] = &["lr", "epsilon", "grad", "indices"];
    const FLAGS: &'static [(&'static str, bool)] = &[("update_slots", true)];
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        adaptive(s.at(0), s.at(1), s.flag(0), to);
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        adaptive(s.at(0), s.at(1), s.flag(0), to);
    }
}

struct ProximalAdagrad;

#[derive(Clone, Copy)]
struct Proximal<F> {
    lr: F,
    l1: F,
    l2: F,
}

impl<F: Real> Rule<F> for Proximal<F> {
    const N: usize = 2;

    #[inline(always)]
    fn step(&self, [var, accum, ..]: [F; MOST], g: F) -> [F; MOST] {
        let accum = accum + g * g;
        let rate = self.lr / accum.root();
        let var = shrink(var - g * rate, rate, self.l1, self.l2);
        [var, accum, var, var]
    }
}

impl Optimizer for ProximalAdagrad {
    const NAMES: [&'static str; 4] = apply_names!("ProximalAdagrad");
    const DOC: &'static str = "Adagrad with L1 and L2 regularisation by proximal steps: J. Duchi, Y. Singer, \
         \"Efficient Learning using Forward-Backward Splitting\", NIPS 2009.";
    const SLOTS: &'static [&'static str] = &["accum"];
    const INPUTS: &'static [&'static str] = &["lr", "l1", "l2", "grad"];
    const SPARSE: &'static [&'static str] = &["lr", "l1", "l2", "grad", "indices"];
    const HALF: bool = false;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(Proximal {
            lr: s.at(0),
            // Without a positive l1 there is no shrinking, as in TensorFlow.
            l1: s.at(1).larger(F::of(0.0)),
            l2: s.at(2),
        });
    }
}

struct AdagradDa;

#[derive(Clone, Copy)]
struct DualAverage<F> {
    lr: F,
    /// l1 times the number of steps.
    threshold: F,
    /// l2 times the number of steps times the learning rate.
    ridge: F,
}

impl<F: Real> Rule<F> for DualAverage<F> {
    const N: usize = 3;

    #[inline(always)]
    fn step(&self, [_, sum, squares, _]: [F; MOST], g: F) -> [F; MOST] {
        let sum = sum + g;
        let squares = squares + g * g;
        let kept = (sum.magnitude() - self.threshold).larger(F::of(0.0));
        let var = -(self.lr * sum.sign() * kept) / (self.ridge + squares.root());
        [var, sum, squares, squares]
    }
}

impl Optimizer for AdagradDa {
    const NAMES: [&'static str; 4] = apply_names!("AdagradDA");
    const DOC: &'static str = "Adagrad by dual averaging, with L1 and L2 regularisation: section 3 of J. Duchi, \
         E. Hazan, Y. Singer, JMLR 12 (2011).";
    const SLOTS: &'static [&'static str] = &["gradient_accumulator", "gradient_squared_accumulator"];
    const INPUTS: &'static [&'static str] = &["grad", "lr", "l1", "l2", "global_step"];
    const SPARSE: &'static [&'static str] = &["grad", "indices", "lr", "l1", "l2", "global_step"];
    const HALF: bool = false;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        let (lr, l1, l2, steps) = (s.at(0), s.at(1), s.at(2), s.at(3));
        to.with(DualAverage {
            lr,
            // Without a positive l1 there is no threshold, as in TensorFlow.
            threshold: l1.larger(F::of(0.0)) * steps,
            ridge: l2 * (steps * lr),
        });
    }
}

fn adagrad() -> Vec<OpDef> {
    define::ops::<Adagrad>()
}

fn adagrad_v2() -> Vec<OpDef> {
    define::ops::<AdagradV2>()
}

fn proximal_adagrad() -> Vec<OpDef> {
    define::ops::<ProximalAdagrad>()
}

fn adagrad_da() -> Vec<OpDef> {
    define::ops::<AdagradDa>()
}

register_ops!(all adagrad);
register_ops!(all adagrad_v2);
register_ops!(all proximal_adagrad);
register_ops!(all adagrad_da);
