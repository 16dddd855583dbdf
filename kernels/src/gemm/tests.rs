//! Products of random shapes, layouts and types against the plain product, on any number of threads.

mod edges;

use super::*;
use actorflow_core::parallel::Serial;
use half::{bf16, f16};
use num_complex::Complex;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Several threads that take chunks in whatever order they come.
struct Threads(usize);

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0 {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= chunks {
                            break;
                        }
                        body(i);
                    }
                });
            }
        });
    }
}

/// A small reproducible generator of values in -1..1.
struct Values(u64);

impl Values {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / f64::from(1 << 23) - 1.0
    }

    fn take(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.next()).collect()
    }
}

/// How an operand lies in memory.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Rows,
    Columns,
    Spread,
    Broadcast,
}

impl Layout {
    fn strides(self, rows: usize, cols: usize, pad: usize) -> (usize, usize) {
        match self {
            Layout::Rows => (cols + pad, 1),
            Layout::Columns => (1, rows + pad),
            Layout::Spread => (2 * cols + pad, 2),
            Layout::Broadcast => (0, 1),
        }
    }
}

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    a: Layout,
    b: Layout,
    pad: usize,
    alpha: f64,
    beta: f64,
    bias: bool,
    relu: bool,
    seed: u64,
}

trait Scalar: Element {
    const EPSILON: f64;
    fn of(x: f64) -> Self;
    fn f64(self) -> f64;
}

macro_rules! scalar {
    ($t:ty, $epsilon:expr, $of:expr, $f64:expr) => {
        impl Scalar for $t {
            const EPSILON: f64 = $epsilon;
            fn of(x: f64) -> Self {
                $of(x)
            }
            fn f64(self) -> f64 {
                $f64(self)
            }
        }
    };
}

scalar!(f32, 6e-8, |x| x as f32, f64::from);
scalar!(f64, 2e-16, |x| x, |x| x);
scalar!(f16, 1e-3, f16::from_f64, f16::to_f64);
scalar!(bf16, 8e-3, bf16::from_f64, bf16::to_f64);
scalar!(i32, 0.0, |x: f64| (x * 100.0) as i32, f64::from);
scalar!(i64, 0.0, |x: f64| (x * 100.0) as i64, |x| x as f64);
scalar!(Complex<f32>, 6e-8, |x| Complex::new(x as f32, 0.0), |x: Complex<
    f32,
>| f64::from(x.re));
scalar!(Complex<f64>, 2e-16, |x| Complex::new(x, 0.0), |x: Complex<f64>| x.re);

/// The operands of a case.
struct Operands<T> {
    a: (Vec<T>, usize, usize),
    b: (Vec<T>, usize, usize),
    bias: Vec<T>,
    before: Vec<T>,
    c_row: usize,
}

fn operands<T: Scalar>(case: &Case) -> Operands<T> {
    let Case { m, n, k, .. } = *case;
    let mut values = Values(case.seed);
    let mut take = |len: usize| values.take(len).into_iter().map(T::of).collect::<Vec<T>>();
    let mut operand = |layout: Layout, rows: usize, cols: usize| {
        let (r, c) = layout.strides(rows, cols, case.pad);
        let len = if rows * cols == 0 {
            0
        } else {
            (rows - 1) * r + (cols - 1) * c + 1
        };
        (take(len), r, c)
    };
    let (a, b) = (operand(case.a, m, k), operand(case.b, k, n));
    let c_row = n + case.pad;
    Operands {
        a,
        b,
        bias: take(n),
        before: take(m * c_row),
        c_row,
    }
}

/// Runs a case and returns the output with its padding.
fn run<T: Scalar>(case: &Case, par: &dyn Parallel) -> Vec<f64> {
    let Case { m, n, k, .. } = *case;
    let Operands {
        a,
        b,
        bias,
        before: mut c,
        c_row,
    } = operands::<T>(case);
    gemm(
        par,
        T::of(case.alpha),
        Mat::new(&a.0, m, k, a.1, a.2).unwrap(),
        Mat::new(&b.0, k, n, b.1, b.2).unwrap(),
        T::of(case.beta),
        MatMut::new(&mut c, m, n, c_row).unwrap(),
        Epilogue {
            bias: case.bias.then_some(&bias[..]),
            relu: case.relu,
        },
    )
    .unwrap();
    c.into_iter().map(T::f64).collect()
}

/// Runs a case, compares it with the plain product in `f64`, and returns the output with its padding.
fn check<T: Scalar>(case: &Case, par: &dyn Parallel) -> Vec<f64> {
    let Case { m, n, k, .. } = *case;
    let c = run::<T>(case, par);
    let Operands {
        a,
        b,
        bias,
        before,
        c_row,
    } = operands::<T>(case);
    let (alpha, beta) = (T::of(case.alpha).f64(), T::of(case.beta).f64());
    let wide = |x: Vec<T>| x.into_iter().map(T::f64).collect::<Vec<f64>>();
    let (a, ar, ac) = (wide(a.0), a.1, a.2);
    let (b, br, bc) = (wide(b.0), b.1, b.2);
    let (bias, before) = (wide(bias), wide(before));
    for i in 0..m {
        for j in 0..c_row {
            let (got, old) = (c[i * c_row + j], before[i * c_row + j]);
            if j >= n {
                assert_eq!(got, old, "padding at ({i}, {j}) was written");
                continue;
            }
            let (mut sum, mut size) = (0.0, 0.0);
            for p in 0..k {
                let x = a[i * ar + p * ac] * b[p * br + j * bc];
                sum += x;
                size += x.abs();
            }
            let mut want = alpha * sum + beta * old;
            size = alpha.abs() * size + (beta * old).abs();
            if case.bias {
                want += bias[j];
                size += bias[j].abs();
            }
            if case.relu {
                want = want.max(0.0);
            }
            // Sums in f32 for the half types, whose stored result is then rounded once.
            let bound = T::EPSILON * size * (k as f64 + 8.0).sqrt() * 4.0;
            assert!(
                (got - want).abs() <= bound,
                "({i}, {j}): {got} not {want} within {bound:e} in {case:?}"
            );
        }
    }
    c
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        3 => Just(Layout::Rows),
        3 => Just(Layout::Columns),
        1 => Just(Layout::Spread),
        1 => Just(Layout::Broadcast),
    ]
}

fn extent(max: usize) -> impl Strategy<Value = usize> {
    prop_oneof![1 => 0..=1usize, 3 => 0..40usize, 3 => 0..max]
}

prop_compose! {
    fn case(max: usize)(
        (m, n, k) in (extent(max), extent(max), extent(2 * max)),
        (a, b, pad) in (layout(), layout(), 0..20usize),
        alpha in prop_oneof![Just(1.0), Just(-0.75), Just(0.0)],
        beta in prop_oneof![Just(0.0), Just(1.0), Just(0.5)],
        (bias, relu, seed) in any::<(bool, bool, u64)>(),
    ) -> Case {
        Case { m, n, k, a, b, pad, alpha, beta, bias, relu, seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 16 } else { 96 }))]

    #[test]
    fn f32_and_f64_agree_with_the_plain_product(case in case(200)) {
        check::<f32>(&case, &Serial);
        check::<f64>(&case, &Serial);
    }

    #[test]
    fn the_bits_are_the_same_on_any_number_of_threads(case in case(300)) {
        let one = run::<f32>(&case, &Serial);
        prop_assert_eq!(&one, &run::<f32>(&case, &Threads(4)));
        prop_assert_eq!(&one, &run::<f32>(&case, &Threads(3)));
    }

    #[test]
    fn other_types_agree_with_the_plain_product(case in case(80)) {
        check::<f16>(&case, &Threads(2));
        check::<bf16>(&case, &Threads(2));
        check::<i32>(&case, &Threads(2));
        check::<i64>(&case, &Threads(2));
        check::<Complex<f32>>(&case, &Threads(2));
        check::<Complex<f64>>(&case, &Threads(2));
    }
}

fn plain_case(m: usize, n: usize, k: usize, a: Layout, b: Layout) -> Case {
    Case {
        m,
        n,
        k,
        a,
        b,
        pad: 0,
        alpha: 1.0,
        beta: 0.0,
        bias: true,
        relu: true,
        seed: 7,
    }
}

#[test]
fn shapes_of_training_agree_with_the_plain_product_and_split_without_a_trace() {
    use Layout::{Columns, Rows};
    for (m, n, k, a, b) in [
        (128, 512, 784, Rows, Rows),
        (32, 512, 784, Rows, Rows),
        (128, 10, 256, Rows, Rows),
        (784, 512, 32, Columns, Rows),
        (256, 10, 128, Columns, Rows),
        (128, 512, 256, Rows, Columns),
        (128, 256, 10, Rows, Columns),
        (300, 700, 900, Columns, Columns),
        // Several blocks of B, several groups of packed rows, and more of C than the second-level cache holds.
        (100, 300, 300, Rows, Rows),
        (150, 530, 300, Columns, Rows),
        (520, 530, 40, Columns, Rows),
        // Rows of B that compete for sets of the cache, more than once a block.
        (200, 512, 300, Rows, Rows),
        (290, 768, 1100, Columns, Rows),
    ] {
        let case = plain_case(m, n, k, a, b);
        let one = check::<f32>(&case, &Serial);
        for threads in [2, 4, 7] {
            assert_eq!(
                one,
                run::<f32>(&case, &Threads(threads)),
                "{case:?} on {threads} threads"
            );
        }
        assert_eq!(run::<f64>(&case, &Serial), run::<f64>(&case, &Threads(4)));
    }
}

#[test]
fn products_of_few_rows_agree_with_the_plain_product() {
    for m in 1..5 {
        for n in [1, 15, 16, 17, 33, 48, 49, 63, 64, 65, 127, 130] {
            for (a, b) in [(Layout::Rows, Layout::Rows), (Layout::Columns, Layout::Columns)] {
                check::<f32>(&plain_case(m, n, 50, a, b), &Serial);
                check::<f32>(&plain_case(n, m, 50, a, b), &Serial);
                check::<f64>(&plain_case(m, n, 50, a, b), &Serial);
                check::<f64>(&plain_case(n, m, 50, a, b), &Serial);
            }
        }
    }
}

/// Every instruction set that this CPU has, driven directly, since dispatch only ever takes the best.
#[test]
fn every_instruction_set_agrees_with_the_best_one() {
    fn with<S: micro::Isa<T: Scalar>>(m: usize, n: usize, k: usize, turned: (bool, bool)) -> Vec<f64> {
        let mut values = Values(3);
        let a: Vec<S::T> = values.take(m * k).into_iter().map(S::T::of).collect();
        let b: Vec<S::T> = values.take(k * n).into_iter().map(S::T::of).collect();
        let mut c = vec![S::T::of(f64::NAN); m * n];
        let a = if turned.0 {
            Mat::dense(&a, k, m).unwrap().t()
        } else {
            Mat::dense(&a, m, k).unwrap()
        };
        let b = if turned.1 {
            Mat::dense(&b, n, k).unwrap().t()
        } else {
            Mat::dense(&b, k, n).unwrap()
        };
        let product = Product {
            m,
            n,
            k,
            alpha: S::T::of(1.0),
            a: a.data.as_ptr(),
            a_row: a.row_stride,
            a_col: a.col_stride,
            b: b.data.as_ptr(),
            b_row: b.row_stride,
            b_col: b.col_stride,
            beta: S::T::of(0.0),
            c: c.as_mut_ptr(),
            c_row: n,
            turned: false,
            bias: std::ptr::null(),
            relu: false,
        };
        for turn in [false, true] {
            let one = if turn { product.turn() } else { product };
            let plan = plan::layout(&one, S::LANES);
            for pack_b in [plan.pack_b, true] {
                let plan = plan::Plan { pack_b, ..plan };
                // SAFETY: the operands are as described, and the callers below check the instruction set.
                unsafe { block::block::<S>(&one, &plan, 0..one.m, 0..one.n) };
            }
        }
        c.into_iter().map(S::T::f64).collect()
    }
    fn compare(m: usize, n: usize, k: usize, turned: (bool, bool)) {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
        let (mut single, mut double) = (
            vec![with::<simd::Portable<f32, 4>>(m, n, k, turned)],
            vec![with::<simd::Portable<f64, 2>>(m, n, k, turned)],
        );
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                single.push(with::<x86::Avx2F32>(m, n, k, turned));
                double.push(with::<x86::Avx2F64>(m, n, k, turned));
            }
            if std::arch::is_x86_feature_detected!("avx512f") {
                single.push(with::<x86::Avx512F32>(m, n, k, turned));
                double.push(with::<x86::Avx512F64>(m, n, k, turned));
            }
        }
        for (all, epsilon) in [(&single, 1e-6), (&double, 1e-14)] {
            for other in &all[1..] {
                for (x, y) in all[0].iter().zip(other) {
                    assert!(
                        (x - y).abs() < epsilon * (k as f64 + 1.0),
                        "{x} {y} at {m} {n} {k} {turned:?}"
                    );
                }
            }
        }
    }
    for (m, n, k) in [(1, 1, 1), (13, 37, 29), (5, 70, 17), (64, 33, 300), (250, 530, 20)] {
        for turned in [(false, false), (false, true), (true, false), (true, true)] {
            compare(m, n, k, turned);
        }
    }
}
