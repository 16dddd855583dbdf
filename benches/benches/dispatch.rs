//! Micro-benchmarks of what a run costs: `cargo bench -p actorflow-bench`.

use actorflow::{DType, Graph, PartialShape, Passes, Session, SessionOptions, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};

fn runs(c: &mut Criterion) {
    let g = Graph::new();
    let nop = g.op("NoOp").finish().expect("a no-op");
    let x = g
        .placeholder("x", DType::F32, PartialShape::scalar())
        .expect("a placeholder");
    let one = (&x + 1.0).expect("a sum");
    let mut chain = one.clone();
    for _ in 0..100 {
        chain = (&chain + 1.0).expect("a sum");
    }
    let options = SessionOptions {
        passes: Passes::NONE,
        ..SessionOptions::with_threads(1)
    };
    let s = Session::with_options(&g, options).expect("a session");
    let feed = [Tensor::scalar(1f32)];
    let empty = s.callable(&[], &[], &[&nop]).expect("a callable");
    c.bench_function("run_noop", |b| b.iter(|| empty.call(&[])));
    let single = s.callable(&[&x], &[&one], &[]).expect("a callable");
    c.bench_function("run_feed_add_fetch", |b| b.iter(|| single.call(&feed)));
    let many = s.callable(&[&x], &[&chain], &[]).expect("a callable");
    c.bench_function("run_chain_of_101_adds", |b| b.iter(|| many.call(&feed)));
}

fn tensors(c: &mut Criterion) {
    let t = Tensor::zeros(DType::F32, [1024, 64]).expect("zeros");
    c.bench_function("tensor_clone", |b| b.iter(|| t.clone()));
    c.bench_function("tensor_slice_rows", |b| b.iter(|| t.slice_rows(128, 256)));
    c.bench_function("tensor_scalar", |b| {
        b.iter(|| Tensor::scalar(std::hint::black_box(1f32)))
    });
}

criterion_group!(benches, runs, tensors);
criterion_main!(benches);
