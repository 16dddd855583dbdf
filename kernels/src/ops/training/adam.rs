//! Adam, its AMSGrad variant and AdaMax.

#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::define::{self, apply_names};
use super::rule::{Field, MOST, Optimizer, Real, Rule, Settings, Use};

const INPUTS: &[&str] = &["beta1_power", "beta2_power", "lr", "beta1", "beta2", "epsilon", "grad"];

/// What does not change from element to element.
#[derive(Clone, Copy)]
struct Rates<F> {
    /// The learning rate with the bias corrections of both moments.
    alpha: F,
    beta1: F,
    /// 1 - beta1, 1 - beta2
    new1: F,
    new2: F,
    epsilon: F,
}

impl<F: Field> Rates<F> {
    fn new(s: &Settings<'_, F>) -> Self {
        let one = F::of(1.0);
        Rates {
            alpha: s.at(2) * (one - s.at(1)).root() / (one - s.at(0)),
            beta1: s.at(3),
            new1: one - s.at(3),
            new2: one - s.at(4),
            epsilon: s.at(5),
        }
    }
}

struct Adam;

#[derive(Clone, Copy)]
struct Moments<F, const NESTEROV: bool>(Rates<F>);

impl<F: Field, const NESTEROV: bool> Rule<F> for Moments<F, NESTEROV> {
    const N: usize = 3;

    #[inline(always)]
    fn step(&self, [var, m, v, _]: [F; MOST], g: F) -> [F; MOST] {
        let r = &self.0;
        let m = m + (g - m) * r.new1;
        let v = v + (g * g - v) * r.new2;
        let towards = if NESTEROV { g * r.new1 + r.beta1 * m } else { m };
        let var = var - (towards * r.alpha) / (v.root() + r.epsilon);
        [var, m, v, v]
    }
}

impl Adam {
    fn choose<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        let rates = Rates::new(s);
        if s.flag(0) {
            to.with(Moments::<F, true>(rates));
        } else {
            to.with(Moments::<F, false>(rates));
        }
    }
}

impl Optimizer for Adam {
    const NAMES: [&'static str; 4] = apply_names!("Adam");
    const DOC: &'static str = "D. P. Kingma, J. Ba, \"Adam: A Method for Stochastic Optimization\", ICLR 2015. With use_nesterov, NAdam: \
         T. Dozat, \"Incorporating Nesterov Momentum into Adam\", ICLR 2016.";
    const SLOTS: &'static [&'static str] = &["m", "v"];
    const INPUTS: &'static [&'static str] = INPUTS;
    const FLAGS: &'static [(&'static str, bool)] = &[("use_nesterov", false)];
    const COMPLEX: bool = true;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        Self::choose(s, to);
    }

    fn complex<F: Field>(s: &Settings<'_, F>, to: impl Use<F>) {
        Self::choose(s, to);
    }
}

struct Amsgrad;

#[derive(Clone, Copy)]
struct LargestMoment<F>(Rates<F>);

impl<F: Real> Rule<F> for LargestMoment<F> {
    const N: usize = 4;

    #[inline(always)]
    fn step(&self, [var, m, v, vhat]: [F; MOST], g: F) -> [F; MOST] {
        let r = &self.0;
        let m = m + (g - m) * r.new1;
        let v = v + (g * g - v) * r.new2;
        let vhat = vhat.larger(v);
        [var - (m * r.alpha) / (vhat.root() + r.epsilon), m, v, vhat]
    }
}

impl Optimizer for Amsgrad {
    const NAMES: [&'static str; 4] = ["", "", "ResourceApplyAdamWithAmsgrad", ""];
    const DOC: &'static str = "S. J. Reddi, S. Kale, S. Kumar, \"On the Convergence of Adam and Beyond\", ICLR 2018.";
    const SLOTS: &'static [&'static str] = &["m", "v", "vhat"];
    const INPUTS: &'static [&'static str] = INPUTS;

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        to.with(LargestMoment(Rates::new(s)));
    }
}

struct AdaMax;

#[derive(Clone, Copy)]
struct InfinityNorm<F> {
    /// The learning rate with the bias correction.
    alpha: F,
    new1: F,
    beta2: F,
    epsilon: F,
}

impl<F: Real> Rule<F> for InfinityNorm<F> {
    const N: usize = 3;

    #[inline(always)]
    fn step(&self, [var, m, v, _]: [F; MOST], g: F) -> [F; MOST] {
        let m = m + (g - m) * self.new1;
        let v = (self.beta2 * v).larger(g.magnitude());
        [var - self.alpha * (m / (v + self.epsilon)), m, v, v]
    }
}

impl Optimizer for AdaMax {
    const NAMES: [&'static str; 4] = apply_names!("AdaMax");
    const DOC: &'static str = "AdaMax: section 7.1 of D. P. Kingma, J. Ba, \"Adam: A Method for Stochastic \
         Optimization\", ICLR 2015.";
    const SLOTS: &'static [&'static str] = &["m", "v"];
    const INPUTS: &'static [&'static str] = &["beta1_power", "lr", "beta1", "beta2", "epsilon", "grad"];

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        let one = F::of(1.0);
        to.with(InfinityNorm {
            alpha: s.at(1) / (one - s.at(0)),
            new1: one - s.at(2),
            beta2: s.at(3),
            epsilon: s.at(4),
        });
    }
}

fn adam() -> Vec<OpDef> {
    define::ops::<Adam>()
}

fn amsgrad() -> Vec<OpDef> {
    define::ops::<Amsgrad>()
}

fn ada_max() -> Vec<OpDef> {
    define::ops::<AdaMax>()
}

register_ops!(all adam);
register_ops!(all amsgrad);
register_ops!(all ada_max);
