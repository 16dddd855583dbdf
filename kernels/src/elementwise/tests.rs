//! Broadcasting, splitting, reuse of buffers and half precision, against the plainest loops.

use std::sync::Arc;

use actorflow_core::actor::Claims;
use actorflow_core::cancel::CancelToken;
use actorflow_core::kernel::{Device, Kernel, OpContext, StepContext};
use actorflow_core::parallel::Parallel;
use actorflow_core::resource::ResourceManager;
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Shape, Tensor};
use half::{bf16, f16};

use super::{Block, Loops, Map1, Map2, block_fn, loops};

/// Four workers that are one thread, taking the chunks backwards.
struct FourWorkers(Arc<Pool>);

impl Parallel for FourWorkers {
    fn threads(&self) -> usize {
        4
    }
    fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..chunks).rev().for_each(body);
    }
}

impl Device for FourWorkers {
    fn name(&self) -> &str {
        "/device:CPU:0"
    }
    fn parallel(&self) -> &dyn Parallel {
        self
    }
    fn pool(&self) -> &Arc<Pool> {
        &self.0
    }
}

fn run(kernel: &dyn Kernel, inputs: Vec<Tensor>) -> Tensor {
    let resources = ResourceManager::new(actorflow_core::actor::local_mailboxes());
    let step = StepContext {
        step_id: 0,
        cancel: CancelToken::new(),
        step_resources: resources.clone(),
        resources,
        rendezvous: None,
        device: Arc::new(FourWorkers(Pool::unbounded())),
    };
    let mut ins: Vec<_> = inputs.into_iter().map(Some).collect();
    let mut outs = vec![None];
    kernel
        .compute(&mut OpContext::new(&mut ins, &mut outs, &step, &Claims::none(), None))
        .unwrap();
    outs.remove(0).unwrap()
}

fn two(op: &str, d: DType) -> Box<dyn Kernel> {
    match loops(op, d) {
        Some(Loops::Two(l)) => Box::new(Map2(l)),
        _ => panic!("{op} of {d}"),
    }
}

fn one(op: &str, d: DType) -> Box<dyn Kernel> {
    match loops(op, d) {
        Some(Loops::One(l)) => Box::new(Map1(l)),
        _ => panic!("{op} of {d}"),
    }
}

fn numbers(shape: &[usize], seed: usize) -> (Tensor, Vec<f64>) {
    let n = shape.iter().product();
    let v: Vec<f64> = (0..n).map(|i| ((i * 7919 + seed * 31) % 1009) as f64 - 500.0).collect();
    (Tensor::from_slice(shape, &v).unwrap(), v)
}

/// The element of an operand of `shape` that belongs to element `i` of the result.
fn at(shape: &[usize], out: &[usize], mut i: usize) -> usize {
    let (mut place, mut size) = (0, 1);
    for k in 0..out.len() {
        let (len, own) = (
            out[out.len() - 1 - k],
            if k < shape.len() { shape[shape.len() - 1 - k] } else { 1 },
        );
        if own != 1 {
            place += (i % len) * size;
            size *= own;
        }
        i /= len;
    }
    place
}

const SHAPES: [(&[usize], &[usize]); 16] = [
    (&[], &[]),
    (&[3], &[]),
    (&[1, 1], &[5]),
    (&[100], &[100]),
    (&[1000, 3], &[3]),
    (&[3], &[1000, 3]),
    (&[1000, 3], &[1000, 1]),
    (&[1, 7], &[501, 1]),
    (&[40, 300], &[300]),
    (&[40, 300], &[40, 1]),
    (&[5, 1, 9, 1], &[4, 1, 130]),
    (&[2, 3, 4, 5, 6], &[3, 1, 5, 1]),
    (&[700, 500], &[700, 500]),
    (&[700, 500], &[500]),
    (&[700, 500], &[700, 1]),
    (&[0, 3], &[3]),
];

#[test]
fn every_pair_of_shapes_gives_each_element_its_operands() {
    let k = two("Sub", DType::F64);
    for (i, (sa, sb)) in SHAPES.into_iter().enumerate() {
        let ((a, va), (b, vb)) = (numbers(sa, i), numbers(sb, i + 50));
        let out = Shape::broadcast(a.shape(), b.shape()).unwrap();
        let want: Vec<f64> = (0..out.count())
            .map(|i| va[at(sa, &out, i)] - vb[at(sb, &out, i)])
            .collect();
        let want = Tensor::from_slice(&out, &want).unwrap();
        // Shared operands; then either one free to be overwritten.
        assert_eq!(run(&*k, vec![a.clone(), b.clone()]), want, "{sa:?} {sb:?}");
        assert_eq!(run(&*k, vec![numbers(sa, i).0, b.clone()]), want, "{sa:?} {sb:?} left");
        assert_eq!(
            run(&*k, vec![a.clone(), numbers(sb, i + 50).0]),
            want,
            "{sa:?} {sb:?} right"
        );
        assert_eq!(
            (a.to_vec::<f64>().unwrap(), b.to_vec::<f64>().unwrap()),
            (va, vb),
            "operands were changed"
        );
    }
}

#[test]
fn results_of_another_size_and_of_half_precision_broadcast_alike() {
    let less = two("Less", DType::F64);
    let (half_sub, half_less) = (two("Sub", DType::BF16), two("Less", DType::F16));
    for (i, (sa, sb)) in SHAPES.into_iter().enumerate() {
        let ((a, va), (b, vb)) = (numbers(sa, i), numbers(sb, i + 50));
        let out = Shape::broadcast(a.shape(), b.shape()).unwrap();
        let pairs: Vec<(f64, f64)> = (0..out.count())
            .map(|i| (va[at(sa, &out, i)], vb[at(sb, &out, i)]))
            .collect();
        let want: Vec<bool> = pairs.iter().map(|(x, y)| x < y).collect();
        let want = Tensor::from_slice(&out, &want).unwrap();
        assert_eq!(run(&*less, vec![a, b]), want, "{sa:?} {sb:?}");
        let halves = |s: &[usize], v: &[f64]| {
            Tensor::from_slice(s, &v.iter().map(|x| f16::from_f64(*x)).collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(
            run(&*half_less, vec![halves(sa, &va), halves(sb, &vb)]),
            want,
            "{sa:?} {sb:?} half"
        );
        let brains = |s: &[usize], v: &[f64]| {
            Tensor::from_slice(s, &v.iter().map(|x| bf16::from_f64(*x)).collect::<Vec<_>>()).unwrap()
        };
        let want: Vec<bf16> = pairs
            .iter()
            .map(|(x, y)| bf16::from_f32(bf16::from_f64(*x).to_f32() - bf16::from_f64(*y).to_f32()))
            .collect();
        let want = Tensor::from_slice(&out, &want).unwrap();
        assert_eq!(
            run(&*half_sub, vec![brains(sa, &va), brains(sb, &vb)]),
            want,
            "{sa:?} {sb:?} bf16"
        );
    }
}

#[test]
fn a_free_operand_is_overwritten_and_a_shared_one_is_not() {
    let k = two("Add", DType::F64);
    let (a, b) = (numbers(&[1000], 1).0, numbers(&[1000], 2).0);
    let place = a.bytes().unwrap().as_ptr();
    assert_eq!(run(&*k, vec![a, b.clone()]).bytes().unwrap().as_ptr(), place);
    let place = b.bytes().unwrap().as_ptr();
    let row = numbers(&[1], 3).0;
    assert_eq!(run(&*k, vec![row, b]).bytes().unwrap().as_ptr(), place);
    let a = numbers(&[1000], 1).0;
    assert_ne!(
        run(&*k, vec![a.clone(), a.clone()]).bytes().unwrap().as_ptr(),
        a.bytes().unwrap().as_ptr()
    );
}

#[test]
fn unary_functions_run_in_place_whatever_their_weight() {
    for op in ["Neg", "Exp"] {
        let k = one(op, DType::F32);
        for n in [1, 3, 4, 5, 70, 1000, 300_000] {
            let v: Vec<f32> = (0..n).map(|i| (i % 13) as f32 - 6.0).collect();
            let shared = Tensor::vector(&v);
            let want = run(&*k, vec![shared.clone()]);
            assert_eq!(run(&*k, vec![Tensor::vector(&v)]), want, "{op} {n}");
            assert_eq!(shared.to_vec::<f32>().unwrap(), v);
        }
    }
}

#[test]
fn block_functions_take_slices_scalars_and_their_own_result() {
    let sub = block_fn("Sub", DType::F32).unwrap();
    let exp = block_fn("Exp", DType::F32).unwrap();
    assert_eq!(
        (sub.arity(), exp.arity(), sub.is_light(), exp.is_light()),
        (2, 1, true, false)
    );
    let x: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let mut y = vec![0.0f32; 100];
    sub.run(&[Block::Many(&x), Block::One(1.0)], &mut y);
    assert_eq!((y[0], y[99]), (-1.0, 98.0));
    sub.run(&[Block::One(1.0), Block::Here], &mut y);
    assert_eq!((y[0], y[99]), (2.0, -97.0));
    sub.run(&[Block::Here, Block::Here], &mut y);
    assert_eq!(y, [0.0; 100]);
    exp.run(&[Block::Here], &mut y);
    assert_eq!(y, [1.0; 100]);
    exp.run(&[Block::One(0.0)], &mut y);
    assert_eq!(y, [1.0; 100]);
    sub.run(&[Block::One(5.0), Block::One(3.0)], &mut y);
    assert_eq!(y, [2.0; 100]);
    for (op, d) in [("Less", DType::F32), ("Sub", DType::I32), ("MatMul", DType::F32)] {
        assert!(block_fn(op, d).is_none(), "{op}");
    }
}
