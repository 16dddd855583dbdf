//! Element-wise mathematics, comparison and logic.

mod common;

pub mod add;
pub mod add_n;
pub mod bessel;
pub mod bitcast;
pub mod cast;
pub mod check_numerics;
pub mod clip;
pub mod compare;
pub mod complex;
pub mod cumulative;
pub mod divide;
pub mod erf;
pub mod exp;
pub mod extrema;
pub mod fused;
pub mod gamma;
pub mod histogram;
pub mod hyperbolic;
pub mod integrals;
pub mod logical;
pub mod multiply;
pub mod pow;
pub mod root;
pub mod round;
pub mod select;
pub mod sequence;
pub mod sign;
pub mod trig;
pub mod xlogy;
