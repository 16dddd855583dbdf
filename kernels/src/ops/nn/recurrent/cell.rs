//! One step of an LSTM cell with optional peepholes (Gers and Schmidhuber 2000), and its gradient.
#![forbid(unsafe_code)]

use super::{Real, sigmoid};

/// How the four gates lie in the columns of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Input, cell, forget, output.
    Icfo,
    /// Input, forget, cell, output.
    Ifco,
}

/// What is the same for every step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) order: Order,
    pub(super) forget_bias: f64,
    /// Cell states are limited to this, if it is positive.
    pub(super) clip: f64,
    pub(super) peephole: bool,
    pub(super) units: usize,
}

/// The weights of the peepholes of input, forget and output gate, one for each unit.
pub(super) type Peepholes<'a, T> = [&'a [T]; 3];

/// Where the operations put the cell's state.
pub(super) const CS: usize = 1;
/// Where the operations put the cell's output.
pub(super) const H: usize = 6;

impl Cell {
    /// The column of the cell's and of the forget gate's weights.
    fn columns(&self) -> (usize, usize) {
        match self.order {
            Order::Icfo => (self.units, 2 * self.units),
            Order::Ifco => (2 * self.units, self.units),
        }
    }

    /// One step: `gates` are products with the weights, `[batch, 4 * units]`; the rest is `[batch, units]`.
    pub(super) fn forward<T: Real>(
        &self,
        gates: &[T],
        bias: &[T],
        before: &[T],
        [wi, wf, wo]: Peepholes<'_, T>,
        out: &mut [&mut [T]; 7],
    ) {
        let n = self.units;
        let (at_ci, at_f) = self.columns();
        for k in 0..before.len() {
            let (row, u) = (k / n, k % n);
            let gate = |column: usize| gates[row * 4 * n + column + u].wide() + bias[column + u].wide();
            let old = before[k].wide();
            let peep = |w: &[T], state: f64| if self.peephole { w[u].wide() * state } else { 0.0 };
            let i = sigmoid(gate(0) + peep(wi, old));
            let f = sigmoid(gate(at_f) + self.forget_bias + peep(wf, old));
            let ci = gate(at_ci).tanh();
            let mut cs = ci * i + old * f;
            if self.clip > 0.0 {
                cs = cs.clamp(-self.clip, self.clip);
            }
            let o = sigmoid(gate(3 * n) + peep(wo, cs));
            let co = cs.tanh();
            for (slot, x) in [i, cs, f, o, ci, co, co * o].into_iter().enumerate() {
                out[slot][k] = T::of(x);
            }
        }
    }

    /// The gradient of a step: from those of state and output to those of the gates (`d`) and of the state before
    /// (`before_grad`); those of the peepholes are added to `peep_grads`. The limit has none, as in TensorFlow.
    pub(super) fn backward<T: Real>(
        &self,
        (before, [wi, wf, wo]): (&[T], Peepholes<'_, T>),
        done: [&[T]; 6],
        (cs_grad, h_grad): (&[f64], &[f64]),
        d: &mut [T],
        before_grad: &mut [f64],
        peep_grads: &mut [Vec<f64>; 3],
    ) {
        let n = self.units;
        let (at_ci, at_f) = self.columns();
        for k in 0..before.len() {
            let (row, u) = (k / n, k % n);
            let [i, cs, f, o, ci, co] = done.map(|x| x[k].wide());
            let old = before[k].wide();
            let d_o = o * (1.0 - o) * h_grad[k] * co;
            let mut d_cs = (1.0 - co * co) * h_grad[k] * o + cs_grad[k];
            if self.peephole {
                d_cs += d_o * wo[u].wide();
            }
            let d_ci = (1.0 - ci * ci) * d_cs * i;
            let d_f = f * (1.0 - f) * d_cs * old;
            let d_i = i * (1.0 - i) * d_cs * ci;
            before_grad[k] = d_cs * f;
            if self.peephole {
                before_grad[k] += d_i * wi[u].wide() + d_f * wf[u].wide();
                for (sum, x) in peep_grads.iter_mut().zip([d_i * old, d_f * old, d_o * cs]) {
                    sum[u] += x;
                }
            }
            let row = &mut d[row * 4 * n..][..4 * n];
            for (column, x) in [(0, d_i), (at_ci, d_ci), (at_f, d_f), (3 * n, d_o)] {
                row[column + u] = T::of(x);
            }
        }
    }
}
