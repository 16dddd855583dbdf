//! What an update rule is, and the numbers that it computes with.

#![forbid(unsafe_code)]

use std::ops::{Add, Div, Mul, Neg, Sub};

use actorflow_core::Element;
use num_complex::Complex;

/// A number that optimizers compute with: `f32`, `f64` and the complex ones.
pub trait Field:
    Element + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// The number of that value.
    fn of(x: f64) -> Self;

    /// The principal square root.
    fn root(self) -> Self;

    /// Lets an optimizer pick its rule for numbers of this kind.
    fn choose<O: Optimizer>(s: &Settings<'_, Self>, to: impl Use<Self>);
}

/// A [`Field`] with an order.
pub trait Real: Field + PartialOrd {
    /// The absolute value.
    fn magnitude(self) -> Self;

    /// `self` to the power `e`.
    fn power(self, e: Self) -> Self;

    /// e to the power `self`.
    fn exponential(self) -> Self;

    /// The larger one.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    /// -1, 0 or 1; of NaN, NaN.
    #[inline(always)]
    fn sign(self) -> Self {
        let zero = Self::of(0.0);
        let s = if self < zero { Self::of(-1.0) } else { self };
        if self > zero { Self::of(1.0) } else { s }
    }
}

macro_rules! real {
    ($t:ident) => {
        impl Field for $t {
            #[inline(always)]
            fn of(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn root(self) -> Self {
                self.sqrt()
            }
            fn choose<O: Optimizer>(s: &Settings<'_, Self>, to: impl Use<Self>) {
                O::real(s, to);
            }
        }

        impl Real for $t {
            #[inline(always)]
            fn magnitude(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn power(self, e: Self) -> Self {
                self.powf(e)
            }
            #[inline(always)]
            fn exponential(self) -> Self {
                self.exp()
            }
        }

        impl Field for Complex<$t> {
            #[inline(always)]
            fn of(x: f64) -> Self {
                Complex::new(x as $t, 0.0)
            }
            #[inline(always)]
            fn root(self) -> Self {
                self.sqrt()
            }
            fn choose<O: Optimizer>(s: &Settings<'_, Self>, to: impl Use<Self>) {
                O::complex(s, to);
            }
        }
    };
}

real!(f32);
real!(f64);

/// The most tensors that a rule moves: the variable and three slots.
pub const MOST: usize = 4;

/// How one element moves.
///
/// The state is the element of the variable and of each of its slots; places beyond [`N`](Self::N) are zero and ignored.
/// `step` must be `#[inline(always)]` and free of branches on its arguments, so that the loop around it vectorises.
pub trait Rule<F: Field>: Copy + Send + Sync {
    /// How many tensors it moves: 1 and the number of slots.
    const N: usize;

    /// The new state.
    fn step(&self, state: [F; MOST], grad: F) -> [F; MOST];
}

/// The scalar inputs and the flags of one update.
pub struct Settings<'a, F> {
    /// The scalars, in the order of the operation's inputs (tensors of other shapes left out).
    pub scalars: &'a [F],
    /// The flags, in the order of [`Optimizer::FLAGS`].
    pub flags: &'a [bool],
}

impl<F: Field> Settings<'_, F> {
    /// Scalar `i`.
    pub fn at(&self, i: usize) -> F {
        self.scalars.get(i).copied().unwrap_or_default()
    }

    /// Flag `i`.
    pub fn flag(&self, i: usize) -> bool {
        self.flags.get(i).copied().unwrap_or(false)
    }
}

/// What is done with the rule that an optimizer chose.
pub trait Use<F: Field> {
    /// Runs the rule.
    fn with<R: Rule<F>>(self, rule: R);
}

/// An optimizer: how its operations look, and the rule for given settings.
pub trait Optimizer: Send + Sync + 'static {
    /// The names of the operations: dense and sparse on references, dense and sparse on resource variables; see
    /// `apply_names!` of `define`. An empty name means that there is no such operation.
    const NAMES: [&'static str; 4];
    /// What it does, with the reference.
    const DOC: &'static str;
    /// The names of the slots.
    const SLOTS: &'static [&'static str];
    /// The inputs after the slots, in order: `grad` or `delta` is the gradient, `global_step` an int64 scalar, the
    /// others are scalars of the variable's dtype.
    const INPUTS: &'static [&'static str];
    /// The same for the sparse operations, where `indices` names the rows; empty if there are none. The scalars are
    /// in the same order as in [`INPUTS`](Self::INPUTS).
    const SPARSE: &'static [&'static str] = &[];
    /// The boolean attributes, with their defaults.
    const FLAGS: &'static [(&'static str, bool)] = &[];
    /// Whether it works on half and bfloat16, as TensorFlow's kernels do.
    const HALF: bool = true;
    /// Whether it works on complex numbers.
    const COMPLEX: bool = false;

    /// Picks the rule for real numbers.
    fn real<F: Real>(s: &Settings<'_, F>, to: impl Use<F>);

    /// Picks the rule for complex numbers, if [`COMPLEX`](Self::COMPLEX).
    fn complex<F: Field>(_s: &Settings<'_, F>, _to: impl Use<F>) {}
}
