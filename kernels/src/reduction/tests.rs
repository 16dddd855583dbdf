use super::*;
use crate::spread::tests::Scattered;
use actorflow_core::kernel::HostDevice;
use actorflow_core::parallel::Parallel;
use actorflow_core::philox::{Philox, uniform_f64};
use actorflow_core::tensor::Pool;
use std::sync::Arc;

struct Workers(HostDevice);

impl Device for Workers {
    fn name(&self) -> &str {
        "/device:CPU:0"
    }
    fn parallel(&self) -> &dyn Parallel {
        &Scattered
    }
    fn pool(&self) -> &Arc<Pool> {
        self.0.pool()
    }
}

fn numbers(n: usize) -> Vec<f32> {
    let mut p = Philox::new(7, 1);
    (0..n)
        .map(|_| {
            let b = p.next_block();
            (uniform_f64(b[0], b[1]) * 2.0 - 0.5) as f32
        })
        .collect()
}

/// Folds by the definition, in f64.
fn reference(x: &[f32], shape: &Shape, folded: &[bool]) -> Vec<f64> {
    let plan = Plan::of(shape, |i| folded[i], true);
    let (strides, out_strides) = (shape.strides(), plan.output().strides());
    let mut out = vec![0.0; plan.output().count()];
    for (i, v) in x.iter().enumerate() {
        let at: usize = (0..shape.rank())
            .filter(|&d| !folded[d])
            .map(|d| i / strides[d] % shape[d] * out_strides[d])
            .sum();
        out[at] += f64::from(*v);
    }
    out
}

fn check(dims: &[usize], folded: &[bool]) {
    let shape = Shape::new(dims);
    let x = numbers(shape.count());
    let plan = Plan::of(&shape, |i| folded[i], false);
    let want = reference(&x, &shape, folded);
    let mut alone = vec![f32::NAN; want.len()];
    fold::<Sum<f32>>(&HostDevice::default(), &x, &plan, &mut alone).unwrap();
    for (a, b) in alone.iter().zip(&want) {
        let bound = 3e-7 * plan.count().max(8) as f64;
        assert!((f64::from(*a) - b).abs() <= bound, "{dims:?} {folded:?}: {a} {b}");
    }
    let mut together = vec![f32::NAN; want.len()];
    fold::<Sum<f32>>(&Workers(HostDevice::default()), &x, &plan, &mut together).unwrap();
    assert_eq!(alone, together, "{dims:?} {folded:?}");
}

#[test]
fn every_pattern_of_dimensions_is_folded_whatever_the_workers() {
    for bits in 0..32 {
        let folded: Vec<bool> = (0..5).map(|i| bits >> i & 1 == 1).collect();
        check(&[3, 4, 5, 6, 7], &folded);
        check(&[2, 1, 33, 1, 2], &folded);
    }
    check(
        &[2, 3, 1, 2, 2, 3, 2, 3, 2, 2],
        &[true, false, true, true, false, true, false, true, false, true],
    );
}

#[test]
fn long_and_narrow_tables_are_folded() {
    check(&[300_000], &[true]);
    check(&[2, 200_000], &[false, true]);
    check(&[200_000, 2], &[true, false]);
    check(&[3, 70_001], &[true, false]);
    check(&[70, 5001], &[true, false]);
    check(&[9000, 10], &[true, false]);
    check(&[700, 1100], &[true, false]);
    check(&[2, 1500, 300], &[false, true, false]);
    check(&[2, 3, 100_000], &[false, true, false]);
    check(&[5000, 4, 16], &[false, true, false]);
}

#[test]
fn nothing_folds_to_the_neutral_element() {
    let d = HostDevice::default();
    let plan = Plan::of(&Shape::new(&[0, 3, 2]), |i| i != 1, false);
    let mut out = [7.0; 3];
    fold::<Largest<f32>>(&d, &[], &plan, &mut out).unwrap();
    assert_eq!(out, [f32::NEG_INFINITY; 3]);
    assert_eq!(fold_all::<Product<i64>>(&d, &[]).unwrap(), 1);
    let mut out = [7i32; 2];
    fold_columns::<Sum<i32>>(&d, &[], &mut out).unwrap();
    assert_eq!(out, [0; 2]);
}

#[test]
fn sums_are_as_exact_as_pairwise_ones() {
    let x = vec![0.1f32; 1 << 22];
    let sum = fold_all::<Sum<f32>>(&HostDevice::default(), &x).unwrap();
    let want = f64::from(0.1f32) * f64::from(1 << 22);
    assert!((f64::from(sum) - want).abs() / want < 2e-6, "{sum} {want}");
    let mut columns = [0.0; 4];
    fold_columns::<Sum<f32>>(&HostDevice::default(), &x, &mut columns).unwrap();
    for c in columns {
        assert!((f64::from(c) - want / 4.0).abs() / want < 2e-6, "{c} {want}");
    }
}

#[test]
fn extremes_keep_nan_wherever_it_is() {
    let d = HostDevice::default();
    for n in [1, 3, 33, 5000, 140_000] {
        for at in [0, n / 2, n - 1] {
            let mut x = vec![1.0f32; n];
            assert_eq!(fold_all::<Smallest<f32>>(&d, &x).unwrap(), 1.0);
            x[at] = f32::NAN;
            assert!(fold_all::<Largest<f32>>(&d, &x).unwrap().is_nan());
            assert!(fold_all::<Smallest<f32>>(&d, &x).unwrap().is_nan());
        }
    }
}
