//! Time per element of the f32 functions, for a slice in the first-level cache and one of ten million elements.
//!
//! `cargo run --release -p actorflow-kernels --example math_bench`. Prints the least time of many repetitions for every
//! instruction set of the processor, and for the standard library's function in a plain loop where it has one.

use actorflow_kernels::math::madd::Madd;
use actorflow_kernels::math::simd::{self, Checked, Fn1, Level, LoopKind, Wide};
use actorflow_kernels::math::single;
use std::hint::black_box;
use std::time::Instant;

macro_rules! functions {
    ($($name:ident, $loop:ty, |$a:ident, $m:ident| $call:expr;)*) => {
        $(struct $name;
        impl Fn1<f32, f32> for $name {
            type Loop = $loop;
            #[inline(always)]
            fn call<$m: Madd>($a: f32) -> f32 {
                $call
            }
        })*
    };
}

functions! {
    Negate, Wide, |a, M| -a;
    Relu, Wide, |a, M| if a > 0.0 { a } else { 0.0 };
    Rsqrt, Wide, |a, M| single::rsqrt(a);
    Exp, Wide, |a, M| single::exp::<M>(a);
    Tanh, Wide, |a, M| single::tanh::<M>(a);
    Sigmoid, Wide, |a, M| single::sigmoid::<M>(a);
    Log, Wide, |a, M| single::log::<M>(a);
    Log1p, Wide, |a, M| single::log1p::<M>(a);
    Softplus, Wide, |a, M| single::softplus::<M>(a);
    Erf, Wide, |a, M| single::erf::<M>(a);
    Erfc, Wide, |a, M| single::erfc::<M>(a);
    Sin, Checked, |a, M| single::sin::<M>(a);
    Tan, Checked, |a, M| single::tan::<M>(a);
    Atan, Wide, |a, M| single::atan::<M>(a);
    Asinh, Wide, |a, M| single::asinh::<M>(a);
    Pow, Wide, |a, M| single::pow::<M>(a, 1.7);
}

/// Nanoseconds per element of one pass, the least over about a fifth of a second.
fn time(n: usize, mut pass: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let inner = (20_000 / n).max(1);
    while start.elapsed().as_millis() < 200 {
        let t = Instant::now();
        for _ in 0..inner {
            pass();
        }
        best = best.min(t.elapsed().as_nanos() as f64 / (n * inner) as f64);
    }
    best
}

fn row<F: Fn1<f32, f32>>(name: &str, reference: Option<fn(f32) -> f32>) {
    print!("{name:>10}");
    for n in [2048, 10_000_000] {
        let x: Vec<f32> = (0..n).map(|i| (i % 1000) as f32 * 0.008 + 0.01).collect();
        let mut y = vec![0.0_f32; n];
        for level in [Level::Baseline, Level::Avx2, Level::Avx512] {
            if level <= simd::level() {
                print!(
                    " {:9.4}",
                    time(n, || F::Loop::map1::<F, f32, f32>(
                        level,
                        black_box(&x),
                        black_box(&mut y)
                    ))
                );
            }
        }
        let std = reference.map(|f| {
            time(n, || {
                black_box(&mut y)
                    .iter_mut()
                    .zip(black_box(&x))
                    .for_each(|(o, a)| *o = f(*a))
            })
        });
        print!(" {:>9} |", std.map_or("-".into(), |v| format!("{v:.4}")));
    }
    println!();
}

fn main() {
    println!(
        "ns per element: levels up to {:?}, then std; first 2048 elements, then 10 million",
        simd::level()
    );
    row::<Negate>("neg", None);
    row::<Relu>("relu", None);
    row::<Rsqrt>("rsqrt", None);
    row::<Exp>("exp", Some(f32::exp));
    row::<Tanh>("tanh", Some(f32::tanh));
    row::<Sigmoid>("sigmoid", None);
    row::<Log>("log", Some(f32::ln));
    row::<Log1p>("log1p", Some(f32::ln_1p));
    row::<Softplus>("softplus", None);
    row::<Erf>("erf", None);
    row::<Erfc>("erfc", None);
    row::<Sin>("sin", Some(f32::sin));
    row::<Tan>("tan", Some(f32::tan));
    row::<Atan>("atan", Some(f32::atan));
    row::<Asinh>("asinh", Some(f32::asinh));
    row::<Pow>("pow 1.7", None);
}
