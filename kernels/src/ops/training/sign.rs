//! AddSign and PowerSign.

#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::define::{self, apply_names};
use super::rule::{MOST, Optimizer, Real, Rule, Settings, Use};

/// Scales the gradient by whether it agrees in sign with its moving average.
#[derive(Clone, Copy)]
struct Agree<F> {
    lr: F,
    beta: F,
    /// 1 - beta
    new: F,
    /// The factors where the signs differ, where one of the two is zero, and where they agree.
    factors: [F; 3],
}

impl<F: Real> Rule<F> for Agree<F> {
    const N: usize = 2;

    #[inline(always)]
    fn step(&self, [var, m, ..]: [F; MOST], g: F) -> [F; MOST] {
        let zero = F::of(0.0);
        let m = m * self.beta + g * self.new;
        let signs = g.sign() * m.sign();
        let factor = if signs < zero { self.factors[0] } else { self.factors[1] };
        let factor = if signs > zero { self.factors[2] } else { factor };
        let var = var - self.lr * factor * g;
        [var, m, var, var]
    }
}

struct AddSign;

impl Optimizer for AddSign {
    const NAMES: [&'static str; 4] = apply_names!("AddSign");
    const DOC: &'static str = "m = beta * m + (1 - beta) * grad; var -= lr * (alpha + sign_decay * sign(grad) * \
         sign(m)) * grad. I. Bello et al., \"Neural Optimizer Search with Reinforcement Learning\", ICML 2017.";
    const SLOTS: &'static [&'static str] = &["m"];
    const INPUTS: &'static [&'static str] = &["lr", "alpha", "sign_decay", "beta", "grad"];

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        let (alpha, decay, beta) = (s.at(1), s.at(2), s.at(3));
        to.with(Agree {
            lr: s.at(0),
            beta,
            new: F::of(1.0) - beta,
            factors: [alpha - decay, alpha, alpha + decay],
        });
    }
}

struct PowerSign;

impl Optimizer for PowerSign {
    const NAMES: [&'static str; 4] = apply_names!("PowerSign");
    const DOC: &'static str = "m = beta * m + (1 - beta) * grad; var -= lr * exp(logbase * sign_decay * sign(grad) * \
         sign(m)) * grad. I. Bello et al., \"Neural Optimizer Search with Reinforcement Learning\", ICML 2017.";
    const SLOTS: &'static [&'static str] = &["m"];
    const INPUTS: &'static [&'static str] = &["lr", "logbase", "sign_decay", "beta", "grad"];

    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>) {
        let (power, beta) = (s.at(1) * s.at(2), s.at(3));
        to.with(Agree {
            lr: s.at(0),
            beta,
            new: F::of(1.0) - beta,
            factors: [(-power).exponential(), F::of(1.0), power.exponential()],
        });
    }
}

fn add_sign() -> Vec<OpDef> {
    define::ops::<AddSign>()
}

fn power_sign() -> Vec<OpDef> {
    define::ops::<PowerSign>()
}

register_ops!(all add_sign);
register_ops!(all power_sign);
