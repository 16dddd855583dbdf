//! Measures the matrix product engine against the CPU's fused multiply-add peak and the `gemm` crate.
//!
//! ```text
//! cargo run --release -p actorflow-kernels --example gemm_bench -- [--threads 1|2] [--f64] [--no-crate] [FILTER | --shape M,N,K[,at][,bt]]
//! ```
//! Every subject is measured in short windows, one after the other and round again, on threads pinned to cores. The
//! table gives the median and the best window in GFLOP/s and the best as a share of the best peak seen. The crate runs
//! on one thread always, since its own threads cannot be pinned; its share is of one thread's peak.

use actorflow_core::parallel::{Parallel, Serial};
use actorflow_kernels::gemm::{Element, Epilogue, Mat, MatMut, gemm};
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Windows of every subject.
const WINDOWS: usize = 21;
/// Length of a window.
const WINDOW: Duration = Duration::from_millis(8);

/// One product: extents, and whether A and B are stored transposed.
struct Shape {
    name: String,
    m: usize,
    n: usize,
    k: usize,
    at: bool,
    bt: bool,
}

impl Shape {
    fn new(name: impl Into<String>, (m, n, k): (usize, usize, usize), at: bool, bt: bool) -> Self {
        Shape {
            name: name.into(),
            m,
            n,
            k,
            at,
            bt,
        }
    }

    fn flops(&self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64
    }
}

fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    for n in [64, 128, 256, 384, 512, 768, 1024, 2048] {
        all.push(Shape::new(format!("square {n}"), (n, n, n), false, false));
    }
    all.push(Shape::new("square 512 B^T", (512, 512, 512), false, true));
    all.push(Shape::new("square 512 A^T", (512, 512, 512), true, false));
    for b in [1, 32, 128, 1024] {
        for (layer, (i, o)) in [(1, (784, 512)), (2, (512, 256)), (3, (256, 10))] {
            all.push(Shape::new(format!("b {b} forward {layer}"), (b, o, i), false, false));
        }
        for (layer, (i, o)) in [(1, (784, 512)), (2, (512, 256)), (3, (256, 10))] {
            all.push(Shape::new(format!("b {b} dW {layer}"), (i, o, b), true, false));
            if layer > 1 {
                all.push(Shape::new(format!("b {b} dX {layer}"), (b, i, o), false, true));
            }
        }
    }
    all
}

/// Two threads, this one and a pinned one that spins for work.
struct Two {
    shared: Arc<Shared>,
    helper: Option<std::thread::JoinHandle<()>>,
}

/// The work in hand. `round` is odd while there is some, and `usize::MAX` at the end.
#[derive(Default)]
struct Shared {
    round: AtomicUsize,
    next: AtomicUsize,
    chunks: AtomicUsize,
    body: std::sync::Mutex<Option<&'static (dyn Fn(usize) + Sync)>>,
    done: AtomicUsize,
}

impl Shared {
    fn work(&self, body: &(dyn Fn(usize) + Sync)) {
        loop {
            let i = self.next.fetch_add(1, Ordering::AcqRel);
            if i >= self.chunks.load(Ordering::Acquire) {
                return;
            }
            body(i);
        }
    }
}

impl Two {
    fn new(core: Option<core_affinity::CoreId>) -> Self {
        let shared = Arc::new(Shared::default());
        let other = Arc::clone(&shared);
        let helper = std::thread::spawn(move || {
            pin(core);
            let mut seen = 0;
            loop {
                let round = other.round.load(Ordering::Acquire);
                if round == usize::MAX {
                    return;
                }
                if round == seen {
                    spin_loop();
                    continue;
                }
                seen = round;
                let body = *other.body.lock().expect("no panic while locked");
                if let Some(body) = body {
                    other.work(body);
                }
                other.done.store(round, Ordering::Release);
            }
        });
        Two {
            shared,
            helper: Some(helper),
        }
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        self.shared.round.store(usize::MAX, Ordering::Release);
        if let Some(helper) = self.helper.take() {
            let _ = helper.join();
        }
    }
}

impl Parallel for Two {
    fn threads(&self) -> usize {
        2
    }

    fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        // SAFETY: the helper has finished with the reference before this function returns.
        let forever = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(body) };
        let s = &self.shared;
        *s.body.lock().expect("no panic while locked") = Some(forever);
        s.chunks.store(chunks, Ordering::Release);
        s.next.store(0, Ordering::Release);
        let round = s.round.fetch_add(1, Ordering::AcqRel) + 1;
        s.work(body);
        while s.done.load(Ordering::Acquire) != round {
            spin_loop();
        }
    }
}

/// Pins the calling thread, or says that it could not.
fn pin(core: Option<core_affinity::CoreId>) {
    if !core.is_some_and(core_affinity::set_for_current) {
        eprintln!("a thread could not be pinned to a core of its own");
    }
}

/// Floating-point operations of one call of [`peak`].
const PEAK_STEPS: usize = 20_000;

/// Independent fused multiply-adds in registers; returns the operations done.
#[cfg(target_arch = "x86_64")]
fn peak() -> f64 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn wide() -> f64 {
        let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        let mut acc = [_mm512_set1_ps(black_box(1.0)); 20];
        for _ in 0..PEAK_STEPS {
            for a in &mut acc {
                *a = _mm512_fmadd_ps(*a, x, y);
            }
        }
        black_box(acc);
        (PEAK_STEPS * 20 * 16 * 2) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    fn narrow() -> f64 {
        let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        let mut acc = [_mm256_set1_ps(black_box(1.0)); 12];
        for _ in 0..PEAK_STEPS {
            for a in &mut acc {
                *a = _mm256_fmadd_ps(*a, x, y);
            }
        }
        black_box(acc);
        (PEAK_STEPS * 12 * 8 * 2) as f64
    }

    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature was just detected.
        unsafe { wide() }
    } else if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the features were just detected.
        unsafe { narrow() }
    } else {
        f64::NAN
    }
}

/// The peak is only measured on x86-64.
#[cfg(not(target_arch = "x86_64"))]
fn peak() -> f64 {
    f64::NAN
}

/// GFLOP/s of one window of `call`, which does `flops` operations.
fn window(flops: f64, call: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0.0;
    while start.elapsed() < WINDOW {
        call();
        calls += 1.0;
    }
    flops * calls / start.elapsed().as_secs_f64() / 1e9
}

/// Median and best.
fn summary(mut rates: Vec<f64>) -> (f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates[rates.len() / 2], rates[rates.len() - 1])
}

fn main() {
    let mut threads = 1;
    let mut with_crate = true;
    let mut double = false;
    let mut filter = String::new();
    let mut shapes = shapes();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => threads = args.next().and_then(|x| x.parse().ok()).unwrap_or(1),
            "--f64" => double = true,
            "--no-crate" => with_crate = false,
            "--shape" => {
                let text = args.next().unwrap_or_default();
                let numbers: Vec<usize> = text.split(',').filter_map(|x| x.parse().ok()).collect();
                if let [m, n, k] = numbers[..] {
                    let (at, bt) = (text.contains("at"), text.contains("bt"));
                    shapes = vec![Shape::new(&text, (m, n, k), at, bt)];
                }
            }
            _ => filter = arg,
        }
    }
    // Listed before anything is pinned: afterwards the list has the thread's own core only.
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    pin(cores.first().copied());
    let par: Box<dyn Parallel> = if threads == 1 {
        Box::new(Serial)
    } else {
        Box::new(Two::new(cores.get(1).copied()))
    };
    let threads = par.threads();
    println!("{threads} thread(s), {WINDOWS} windows of {WINDOW:?}; GFLOP/s");
    println!(
        "{:<20}{:>16} {:>8}{:>8}{:>8}   crate {:>8}{:>8}",
        "product", "m n k", "median", "best", "share", "median", "best"
    );
    for shape in shapes.iter().filter(|s| s.name.contains(&filter)) {
        if double {
            measure::<f64>(shape, &*par, with_crate);
        } else {
            measure::<f32>(shape, &*par, with_crate);
        }
    }
}

fn measure<T: Element + From<f32>>(shape: &Shape, par: &dyn Parallel, with_crate: bool) {
    let Shape { m, n, k, .. } = *shape;
    let value = |i: usize| T::from((i * 7 % 13) as f32 / 13.0 - 0.5);
    let (zero, one) = (T::from(0.0), T::from(1.0));
    let a: Vec<T> = (0..m * k).map(value).collect();
    let b: Vec<T> = (0..k * n).map(value).collect();
    let mut c = vec![zero; m * n];
    let mut d = vec![zero; m * n];
    let (ar, ac) = if shape.at { (1, m) } else { (k, 1) };
    let (br, bc) = if shape.bt { (1, k) } else { (n, 1) };
    let (mut ours, mut theirs, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        let both = par.threads();
        peaks.push(window((0..both).map(|_| peak()).sum(), &mut || {
            par.run(both, &|_| {
                black_box(peak());
            })
        }));
        ours.push(window(shape.flops(), &mut || {
            let product = gemm(
                par,
                one,
                Mat::new(&a, m, k, ar, ac).expect("in bounds"),
                Mat::new(&b, k, n, br, bc).expect("in bounds"),
                zero,
                MatMut::dense(&mut c, m, n).expect("in bounds"),
                Epilogue::NONE,
            );
            black_box(product).expect("extents fit");
        }));
        if with_crate {
            theirs.push(window(shape.flops(), &mut || {
                // SAFETY: the pointers and strides are those of the vectors above.
                unsafe {
                    ::gemm::gemm(
                        m,
                        n,
                        k,
                        d.as_mut_ptr(),
                        1,
                        n as isize,
                        false,
                        a.as_ptr(),
                        ac as isize,
                        ar as isize,
                        b.as_ptr(),
                        bc as isize,
                        br as isize,
                        zero,
                        one,
                        false,
                        false,
                        false,
                        ::gemm::Parallelism::None,
                    );
                }
                black_box(&mut d);
            }));
        }
    }
    // The peak is measured in f32; a vector has half as many f64.
    let top = summary(peaks).1 * 4.0 / size_of::<T>() as f64;
    let (median, best) = summary(ours);
    print!(
        "{:<20}{:>16} {median:8.1}{best:8.1}{:7.1}%",
        shape.name,
        format!("{m} {n} {k}"),
        best / top * 100.0
    );
    if with_crate {
        let (median, best) = summary(theirs);
        println!("         {median:8.1}{best:8.1}");
    } else {
        println!();
    }
}
