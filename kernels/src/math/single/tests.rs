use super::*;
use crate::math::madd::{Fused, Madd, Split};

/// The distance of `y` from `exact` in units of f32's last place at `exact`.
fn ulps(y: f32, exact: f64) -> f64 {
    if exact.is_nan() || y.is_nan() {
        return if exact.is_nan() && y.is_nan() {
            0.0
        } else {
            f64::INFINITY
        };
    }
    let rounded = exact as f32;
    if rounded.is_infinite() || y.is_infinite() {
        // A finite neighbour of the threshold may round either way.
        let near = |v: f64| v.abs() > f32::MAX as f64 * (1.0 - 3e-7);
        return if rounded == y || (near(exact) && near(y as f64) && (exact > 0.0) == (y > 0.0)) {
            0.0
        } else {
            f64::INFINITY
        };
    }
    let exponent = if rounded == 0.0 {
        -126
    } else {
        (rounded.abs().log2().floor() as i32).max(-126)
    };
    (y as f64 - exact).abs() / 2f64.powi(exponent - 23)
}

/// Values of every exponent and both signs, and every special value.
fn sweep() -> Vec<f32> {
    let mut v = vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
    ];
    let mut state = 0x9e37_79b9_u32;
    for high in 0..512_u32 {
        for _ in 0..64 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            v.push(f32::from_bits((high << 23) | (state >> 9)));
        }
        v.push(f32::from_bits(high << 23));
    }
    // The range where most functions do something.
    for i in -60_000..=60_000 {
        v.push(i as f32 * (1.0 / 512.0) + 1e-4);
        v.push(i as f32 * (1.0 / 60_000.0));
    }
    v
}

fn check(name: &str, limit: f64, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) {
    let (mut worst, mut at) = (0.0, 0.0);
    for x in sweep() {
        let e = exact(x as f64);
        let u = ulps(f(x), e);
        if u > worst {
            (worst, at) = (u, x);
        }
        if e == 0.0 && x == 0.0 {
            assert_eq!(
                f(x).to_bits(),
                (e as f32).to_bits(),
                "{name} of {x:?} has the wrong zero"
            );
        }
    }
    println!("{name}: {worst:.2} ulp at {at:e}");
    assert!(
        worst <= limit,
        "{name} is off by {worst} ulp at {at:e}: {:e} instead of {:e}",
        f(at),
        exact(at as f64)
    );
}

fn both(name: &str, limit: f64, fused: impl Fn(f32) -> f32, split: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) {
    check(name, limit, fused, &exact);
    check(&format!("{name} without FMA"), limit, split, &exact);
}

macro_rules! accurate {
    ($($test:ident: $f:ident within $limit:expr, $exact:expr;)*) => {
        $(#[test]
        fn $test() {
            both(stringify!($f), $limit, $f::<Fused>, $f::<Split>, $exact);
        })*
    };
}

accurate! {
    exp_is_accurate: exp within 1.1, f64::exp;
    exp2_is_accurate: exp2 within 1.3, f64::exp2;
    expm1_is_accurate: expm1 within 1.7, f64::exp_m1;
    tanh_is_accurate: tanh within 2.3, f64::tanh;
    sigmoid_is_accurate: sigmoid within 2.0, |x| 1.0 / (1.0 + (-x).exp());
    log_is_accurate: log within 1.1, f64::ln;
    log2_is_accurate: log2 within 1.5, f64::log2;
    log1p_is_accurate: log1p within 1.5, f64::ln_1p;
    sinh_is_accurate: sinh within 1.6, f64::sinh;
    cosh_is_accurate: cosh within 1.6, f64::cosh;
    asinh_is_accurate: asinh within 2.5, f64::asinh;
    acosh_is_accurate: acosh within 3.0, f64::acosh;
    atanh_is_accurate: atanh within 2.5, f64::atanh;
    softplus_is_accurate: softplus within 2.0, |x| if x < -40.0 { x.exp() } else { x.max(0.0) + (-x.abs()).exp().ln_1p() + if x.is_nan() { x } else { 0.0 } };
    erf_is_accurate: erf within 1.6, libm::erf;
    erfc_is_accurate: erfc within 4.0, libm::erfc;
    atan_is_accurate: atan within 1.6, f64::atan;
    asin_is_accurate: asin within 2.0, f64::asin;
    acos_is_accurate: acos within 2.0, f64::acos;
}

#[test]
fn sine_cosine_and_tangent_are_accurate_where_they_cover() {
    for (name, f, g, exact) in [
        (
            "sin",
            sin::<Fused> as fn(f32) -> f32,
            sin::<Split> as fn(f32) -> f32,
            f64::sin as fn(f64) -> f64,
        ),
        ("cos", cos::<Fused>, cos::<Split>, f64::cos),
        ("tan", tan::<Fused>, tan::<Split>, f64::tan),
    ] {
        let near = |h: fn(f32) -> f32| move |x: f32| if covers_angle(x) { h(x) } else { exact(x as f64) as f32 };
        both(name, 0.6, near(f), near(g), exact);
    }
    // Multiples of pi/2, where a reduction loses its digits.
    for k in 1..200_000_i32 {
        let x = (k as f64 * std::f64::consts::FRAC_PI_2) as f32;
        assert!(ulps(sin::<Split>(x), (x as f64).sin()) < 0.6, "sin {x}");
        assert!(ulps(cos::<Split>(-x), (x as f64).cos()) < 0.6, "cos {x}");
    }
}

#[test]
fn atan2_follows_the_standard_at_every_pair_of_special_values() {
    let specials = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.3,
        -7.5,
        1e-40,
        -1e-40,
        3e38,
        -3e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for y in specials {
        for x in specials {
            let (got, exact) = (atan2::<Split>(y, x), (y as f64).atan2(x as f64));
            assert!(ulps(got, exact) <= 2.0, "atan2({y}, {x}) = {got}, not {exact}");
            assert!(
                got.is_nan() || got.is_sign_negative() == exact.is_sign_negative(),
                "atan2({y}, {x}) = {got}"
            );
            assert!(ulps(atan2::<Fused>(y, x), exact) <= 2.0);
        }
    }
    let mut s = 1u32;
    for _ in 0..200_000 {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (y, x) = (
            ((s >> 8) as f32 - 8e6) * 1e-6,
            ((s.rotate_left(13) >> 8) as f32 - 8e6) * 1e-6,
        );
        assert!(
            ulps(atan2::<Fused>(y, x), (y as f64).atan2(x as f64)) <= 3.0,
            "atan2({y}, {x})"
        );
    }
}

fn pow_cases<M: Madd>() {
    let specials = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        -3.0,
        1.0000001,
        0.9999999,
        2.5,
        1e-42,
        -1e-42,
        1e30,
        -1e30,
        8388607.0,
        8388609.0,
        16777215.0,
        16777216.0,
        33554432.0,
        -8388609.0,
        1e-10,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for x in specials {
        for y in specials {
            let (got, exact) = (pow::<M>(x, y), (x as f64).powf(y as f64));
            assert!(ulps(got, exact) <= 0.6, "pow({x}, {y}) = {got}, not {exact}");
            assert!(
                got.is_nan() || got.is_sign_negative() == (exact as f32).is_sign_negative(),
                "pow({x}, {y}) = {got}"
            );
        }
    }
    let mut s = 1u32;
    for _ in 0..200_000 {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (x, y) = ((s >> 8) as f32 * 1e-6, ((s.rotate_left(13) >> 8) as f32 - 8e6) * 2e-6);
        assert!(ulps(pow::<M>(x, y), (x as f64).powf(y as f64)) <= 0.6, "pow({x}, {y})");
    }
}

#[test]
fn pow_is_accurate_and_follows_the_standard_with_fma() {
    pow_cases::<Fused>();
}

#[test]
fn pow_is_accurate_and_follows_the_standard_without_fma() {
    pow_cases::<Split>();
}

#[test]
fn rsqrt_is_one_over_the_root() {
    assert_eq!(rsqrt(4.0), 0.5);
    assert_eq!(rsqrt(0.0), f32::INFINITY);
    assert_eq!(rsqrt(-0.0), f32::NEG_INFINITY);
    assert!(rsqrt(-1.0).is_nan());
}
