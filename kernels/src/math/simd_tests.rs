use super::*;
use crate::math::single;

struct Exp;
impl Fn1<f32, f32> for Exp {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(a: f32) -> f32 {
        single::exp::<M>(a)
    }
}

struct Sin;
impl Fn1<f32, f32> for Sin {
    type Loop = Checked;
    #[inline(always)]
    fn call<M: Madd>(a: f32) -> f32 {
        single::sin::<M>(a)
    }
    #[inline(always)]
    fn covers(a: f32) -> bool {
        single::covers_angle(a)
    }
    fn rare(a: f32) -> f32 {
        (a as f64).sin() as f32
    }
}

struct Less;
impl Fn2<i64, i64, bool> for Less {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(a: i64, b: i64) -> bool {
        a < b
    }
}

/// Not commutative, and undefined for operands that no test passes, to show that padding invents none.
struct Divide;
impl Fn2<i32, i32, i32> for Divide {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(a: i32, b: i32) -> i32 {
        a / b
    }
}

struct Weigh;
impl Fn2<f64, f64, f64> for Weigh {
    type Loop = Wide;
    #[inline(always)]
    fn call<M: Madd>(a: f64, b: f64) -> f64 {
        M::f64(a, 0.5, b * 3.0)
    }
}

struct WeighPlain;
impl Fn2<f64, f64, f64> for WeighPlain {
    type Loop = Plain;
    #[inline(always)]
    fn call<M: Madd>(a: f64, b: f64) -> f64 {
        Weigh::call::<M>(a, b)
    }
}

const LENGTHS: [usize; 15] = [0, 1, 2, 7, 8, 63, 64, 65, 127, 128, 129, 255, 256, 1000, 4097];
const LEVELS: [Level; 3] = [Level::Baseline, Level::Avx2, Level::Avx512];

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1013) as f32 * 0.1 - 50.0).collect()
}

#[test]
fn every_level_and_length_gives_each_element_its_value() {
    for level in LEVELS {
        let fused = level.min(super::level()) != Level::Baseline;
        for n in LENGTHS {
            let x = numbers(n);
            let want: Vec<u32> = x
                .iter()
                .map(|v| {
                    if fused {
                        single::exp::<Fused>(*v)
                    } else {
                        single::exp::<Baseline>(*v)
                    }
                    .to_bits()
                })
                .collect();
            let bits = |y: &[f32]| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let mut y = vec![f32::NAN; n];
            Wide::map1::<Exp, f32, f32>(level, &x, &mut y);
            assert_eq!(bits(&y), want, "{level:?} {n}");
            let mut y = x.clone();
            Wide::map1_inplace::<Exp, f32>(level, &mut y);
            assert_eq!(bits(&y), want, "{level:?} {n} in place");
        }
    }
}

#[test]
fn arguments_out_of_range_are_mended_and_leave_their_neighbours_alone() {
    for n in LENGTHS {
        let mut x = numbers(n);
        for i in (0..n).step_by(37) {
            x[i] = 1e30;
        }
        let mut y = vec![0.0; n];
        map1::<Sin, _, _>(&x, &mut y);
        let mut z = x.clone();
        map1_inplace::<Sin, _>(&mut z);
        for i in 0..n {
            assert_eq!(y[i], (x[i] as f64).sin() as f32, "{i} of {n}");
            assert_eq!(y[i].to_bits(), z[i].to_bits());
        }
    }
}

fn binary_forms<F: Fn2<f64, f64, f64>>(n: usize) {
    let a: Vec<f64> = (0..n).map(|i| i as f64 * 0.25).collect();
    let b: Vec<f64> = (0..n).map(|i| 100.0 - i as f64).collect();
    let f = |a: f64, b: f64| a * 0.5 + b * 3.0;
    let mut y = vec![0.0; n];
    map2::<F, _, _, _>(&a, &b, &mut y);
    assert!((0..n).all(|i| y[i] == f(a[i], b[i])));
    let mut y = a.clone();
    map2_inplace_left::<F, _, _>(&mut y, &b);
    assert!((0..n).all(|i| y[i] == f(a[i], b[i])));
    let mut y = b.clone();
    map2_inplace_right::<F, _, _>(&a, &mut y);
    assert!((0..n).all(|i| y[i] == f(a[i], b[i])));
    let mut y = vec![0.0; n];
    map2_scalar_left::<F, _, _, _>(7.0, &b, &mut y);
    assert!((0..n).all(|i| y[i] == f(7.0, b[i])));
    map2_scalar_right::<F, _, _, _>(&a, 7.0, &mut y);
    assert!((0..n).all(|i| y[i] == f(a[i], 7.0)));
    let mut y = b.clone();
    map2_scalar_left_inplace::<F, _, _>(7.0, &mut y);
    assert!((0..n).all(|i| y[i] == f(7.0, b[i])));
    let mut y = a.clone();
    map2_scalar_right_inplace::<F, _, _>(&mut y, 7.0);
    assert!((0..n).all(|i| y[i] == f(a[i], 7.0)));
}

#[test]
fn all_forms_of_a_binary_map_agree() {
    for n in LENGTHS {
        binary_forms::<Weigh>(n);
        binary_forms::<WeighPlain>(n);
    }
}

#[test]
fn results_may_have_another_type() {
    for n in LENGTHS {
        let a: Vec<i64> = (0..n as i64).collect();
        let mut y = vec![false; n];
        map2_scalar_right::<Less, _, _, _>(&a, 20, &mut y);
        assert!((0..n).all(|i| y[i] == (i < 20)));
    }
}

#[test]
fn padding_repeats_operands_of_the_caller() {
    for n in LENGTHS {
        let (a, b) = (vec![12; n], vec![3; n]);
        let mut y = vec![0; n];
        map2::<Divide, _, _, _>(&a, &b, &mut y);
        assert!(y.iter().all(|v| *v == 4));
        let mut y = a.clone();
        map2_inplace_left::<Divide, _, _>(&mut y, &b);
        assert!(y.iter().all(|v| *v == 4));
    }
}

#[test]
#[should_panic(expected = "differ in length")]
fn operands_of_different_length_are_refused() {
    map1::<Exp, f32, f32>(&[1.0; 3], &mut [0.0; 4]);
}
