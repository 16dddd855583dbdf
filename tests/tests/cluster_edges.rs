//! What crosses between tasks: exactly what was computed, unless a session asks for less.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use actorflow::placement::{lossless, lossy};
use actorflow::{Code, DType, Graph, Output, PartialShape, Session, SessionOptions, Tensor};
use cluster::{Cluster, options};

const TASKS: &[(&str, u32)] = &[("ps", 0), ("worker", 0)];

/// The nearest of the numbers with seven bits after the leading one, ties to even (IEEE 754), as bits of single precision.
fn rounded(x: f32) -> f32 {
    let bits = x.to_bits();
    if x.is_nan() {
        return x;
    }
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// Numbers of which most need more than eight bits, and the odd ones: halfway cases, zeros, the largest, infinities.
fn numbers() -> Vec<f32> {
    let mut all: Vec<f32> = (0..4000)
        .map(|i| (i as f32 * 0.737 - 1000.0) * 1.7f32.powi(i % 90 - 45))
        .collect();
    all.extend([
        0.0,
        -0.0,
        1.0,
        1.00390625,
        1.01171875,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-42,
    ]);
    all.extend([f32::INFINITY, f32::NEG_INFINITY]);
    all
}

/// What is fed on a worker, as a parameter server gets it: single and double precision, and whole numbers.
struct Crossing {
    graph: Graph,
    inputs: [Output; 3],
    there: [Output; 3],
}

fn crossing() -> Crossing {
    let g = Graph::new();
    // The sign is changed on either side, so that there is something to do and no other bit changes.
    let on_worker = |dtype| {
        let _worker = g.device_scope("/job:worker/task:0");
        let x = g.placeholder("x", dtype, [None]).unwrap();
        (x.negated().unwrap(), x)
    };
    let on_ps = |x: &Output| {
        let _ps = g.device_scope("/job:ps/task:0");
        x.negated().unwrap()
    };
    let made = [DType::F32, DType::F64, DType::I32].map(on_worker);
    Crossing {
        there: [on_ps(&made[0].0), on_ps(&made[1].0), on_ps(&made[2].0)],
        inputs: made.map(|(_, x)| x),
        graph: g.clone(),
    }
}

impl Crossing {
    /// What comes through, in a session in the worker.
    fn run(&self, c: &Cluster, lossy: bool) -> Vec<Tensor> {
        let with = SessionOptions {
            lossy_edges: lossy,
            ..options()
        };
        let s = Session::on(&self.graph, &c.servers[1], with).unwrap();
        let [x, y, n] = self.feeds();
        let feeds = [(&self.inputs[0], x), (&self.inputs[1], y), (&self.inputs[2], n)];
        s.run(&feeds, &[&self.there[0], &self.there[1], &self.there[2]])
            .unwrap()
    }

    fn feeds(&self) -> [Tensor; 3] {
        let doubles: Vec<f64> = numbers().iter().map(|x| f64::from(*x) * 1.000_000_1).collect();
        let whole: Vec<i32> = (0..1000).map(|i| i * 1_234_567).collect();
        [Tensor::from(numbers()), Tensor::from(doubles), Tensor::from(whole)]
    }
}

#[test]
fn nothing_is_rounded_unless_it_is_asked_for() {
    assert!(!SessionOptions::default().lossy_edges);
    let c = Cluster::new(TASKS);
    let crossing = crossing();
    let got = crossing.run(&c, false);
    for (got, fed) in got.iter().zip(crossing.feeds()) {
        assert_eq!(got.bytes().unwrap(), fed.bytes().unwrap());
    }
}

#[test]
fn lossy_edges_round_single_precision_to_bfloat16_and_nothing_else() {
    let c = Cluster::new(TASKS);
    let crossing = crossing();
    let got = crossing.run(&c, true);
    let [x, y, n] = crossing.feeds();
    let (single, fed) = (got[0].as_slice::<f32>().unwrap(), x.as_slice::<f32>().unwrap());
    for (got, fed) in single.iter().zip(fed) {
        assert_eq!(got.to_bits(), rounded(*fed).to_bits(), "{fed} became {got}");
    }
    assert_eq!(single.len(), fed.len());
    assert!(single != fed, "the numbers need rounding");
    assert_eq!(got[1], y);
    assert_eq!(got[2], n);
}

#[test]
fn edges_within_a_process_are_never_lossy() {
    let two = |o: &mut actorflow::cluster::ServerOptions| o.session.devices = 2;
    let c = Cluster::with(&[("ps", 0)], two).unwrap();
    let g = Graph::new();
    let x = {
        let _first = g.device_scope("/job:ps/task:0/device:CPU:0");
        let x = g.constant(Tensor::from(numbers())).unwrap();
        x.negated().unwrap()
    };
    let y = {
        let _second = g.device_scope("/job:ps/task:0/device:CPU:1");
        x.negated().unwrap()
    };
    let with = SessionOptions {
        lossy_edges: true,
        ..options()
    };
    let s = Session::on(&g, &c.servers[0], with).unwrap();
    assert_eq!(
        s.run(&[], &[&y]).unwrap()[0].bytes().unwrap(),
        Tensor::from(numbers()).bytes().unwrap()
    );
}

#[test]
fn a_program_decides_for_single_edges_whatever_the_session_says() {
    let c = Cluster::new(TASKS);
    let g = Graph::new();
    let (x, rough, exact) = {
        let _worker = g.device_scope("/job:worker/task:0");
        let x = g.placeholder("x", DType::F32, [None]).unwrap();
        let made = x.negated().unwrap();
        // Where they are built does not matter: they are where the tensor is.
        let _ps = g.device_scope("/job:ps/task:0");
        (x, lossy(&made).unwrap(), lossless(&made).unwrap())
    };
    let there = |x: &Output| {
        let _ps = g.device_scope("/job:ps/task:0");
        x.negated().unwrap()
    };
    let (plain, rough_there, exact_there) = (rough.op().input(0).unwrap(), there(&rough), there(&exact));
    let plain_there = there(&plain);
    // Within the process nothing is rounded.
    let here = {
        let _worker = g.device_scope("/job:worker/task:0");
        rough.negated().unwrap()
    };
    let fed = numbers();
    let as_fed: Vec<u32> = fed.iter().map(|x| x.to_bits()).collect();
    let as_rounded: Vec<u32> = fed.iter().map(|x| rounded(*x).to_bits()).collect();
    for lossy_edges in [false, true] {
        let with = SessionOptions {
            lossy_edges,
            ..options()
        };
        let s = Session::on(&g, &c.servers[1], with).unwrap();
        let fetches = [&rough_there, &exact_there, &plain_there, &here];
        let got = s.run(&[(&x, Tensor::from(fed.clone()))], &fetches).unwrap();
        let bits = |t: &Tensor| -> Vec<u32> { t.as_slice::<f32>().unwrap().iter().map(|x| x.to_bits()).collect() };
        assert!(bits(&got[0]) == as_rounded, "lossy, in a session with {lossy_edges}");
        assert!(bits(&got[1]) == as_fed, "lossless, in a session with {lossy_edges}");
        let of_session = if lossy_edges { &as_rounded } else { &as_fed };
        assert!(&bits(&got[2]) == of_session, "plain, in a session with {lossy_edges}");
        assert!(bits(&got[3]) == as_fed, "lossy, within the process");
        for placed in [&rough, &exact] {
            let device = s.device_of(&placed.op()).unwrap();
            assert!(device.starts_with("/job:worker"), "{device}");
        }
    }
}

#[test]
fn only_values_of_single_precision_can_be_lossy() {
    let g = Graph::new();
    let e = lossy(&g.placeholder("n", DType::F64, [None]).unwrap()).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("n:0") && e.message().contains("float64"), "{e}");
    let reference = g.op("VariableV2").attr("shape", PartialShape::vector(Some(2)));
    let reference = reference.attr("dtype", DType::F32).name("v").output().unwrap();
    let e = lossless(&reference).unwrap_err();
    assert!(e.message().contains("v:0") && e.message().contains("reference"), "{e}");
}
