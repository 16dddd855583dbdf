//! Running graphs over several devices of one process gives what one device gives.

use actorflow_core::{DType, Graph, Output, PartialShape, Result, Tensor};

use crate::flow::{WhileOptions, cond, while_loop};
use crate::{GraphVariables, Session, SessionOptions, gradients};

fn session(g: &Graph, devices: usize) -> Session {
    let options = SessionOptions {
        devices,
        pin: false,
        ..SessionOptions::with_threads(2)
    };
    Session::with_options(g, options).unwrap()
}

/// Opens a scope for one of three devices.
fn on<R>(g: &Graph, device: usize, f: impl FnOnce() -> R) -> R {
    let _scope = g.device_scope(&format!("/cpu:{device}"));
    f()
}

fn run(g: &Graph, feeds: &[(&Output, Tensor)], fetch: &Output) -> Tensor {
    let s = session(g, 3);
    let mut last = None;
    // A plan is used again, and its pooled steps are.
    for _ in 0..3 {
        let got = s.run(feeds, &[fetch]).unwrap().pop().unwrap();
        if let Some(last) = last.replace(got.clone()) {
            assert_eq!(last, got);
        }
    }
    last.unwrap()
}

#[test]
fn tensors_and_control_edges_cross() {
    let g = Graph::new();
    let x = on(&g, 1, || g.placeholder("x", DType::F32, [Some(2)])).unwrap();
    let v = on(&g, 2, || g.variable("v", Tensor::from([1f32, 1.0]))).unwrap();
    let write = on(&g, 2, || v.assign(&x)).unwrap();
    let read = {
        let _after = g.control_dependencies(&[write]);
        on(&g, 0, || x.square()).unwrap()
    };
    let sum = on(&g, 2, || &read + v.value()).unwrap();
    let s = session(&g, 3);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let got = s.run(&[(&x, Tensor::from([3f32, 4.0]))], &[&sum, &x]).unwrap();
    assert_eq!(got[1], Tensor::from([3f32, 4.0]));
    assert_eq!(s.variable("v").unwrap(), Tensor::from([3f32, 4.0]));
    assert_eq!(got[0].as_slice::<f32>().unwrap().len(), 2);
    assert!(s.device_of(&sum.op()).unwrap().ends_with("/device:CPU:2"));
}

/// A product in a loop whose condition, body and counter are on three devices.
fn scattered_loop(g: &Graph, n: &Output, rate: &Output) -> Result<Output> {
    let zero = g.constant(0i32)?;
    let one = g.constant(1f32)?;
    let out = while_loop(
        &[zero, one],
        |v| on(g, 1, || v[0].less(n)),
        |v| {
            let i = on(g, 0, || &v[0] + 1)?;
            let y = on(g, 2, || &v[1] * rate)?;
            Ok(vec![i, y])
        },
        WhileOptions::default(),
    )?;
    Ok(out[1].clone())
}

#[test]
fn a_loop_runs_on_several_devices() {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, [] as [Option<usize>; 0]).unwrap();
    let rate = g.constant(2f32).unwrap();
    let out = scattered_loop(&g, &n, &rate).unwrap();
    for trips in [0, 1, 7, 40] {
        let got = run(&g, &[(&n, Tensor::scalar(trips))], &out);
        assert_eq!(got.to_scalar::<f32>().unwrap(), 2f32.powi(trips), "{trips} trips");
    }
}

#[test]
fn gradients_of_a_loop_cross_devices() {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, [] as [Option<usize>; 0]).unwrap();
    let rate = g.placeholder("rate", DType::F32, [] as [Option<usize>; 0]).unwrap();
    let out = scattered_loop(&g, &n, &rate).unwrap();
    let grad = gradients(&[out], std::slice::from_ref(&rate)).unwrap()[0]
        .clone()
        .unwrap()
        .to_dense()
        .unwrap();
    let got = run(&g, &[(&n, Tensor::scalar(5)), (&rate, Tensor::scalar(1.5f32))], &grad);
    let want = 5.0 * 1.5f32.powi(4);
    assert!((got.to_scalar::<f32>().unwrap() - want).abs() < 1e-3, "{got} {want}");
}

#[test]
fn loops_inside_of_loops_and_branches_cross_devices() {
    let g = Graph::new();
    let n = g.placeholder("n", DType::I32, [] as [Option<usize>; 0]).unwrap();
    let zero = g.constant(0i32).unwrap();
    let sum = g.constant(0f32).unwrap();
    let rate = g.constant(2f32).unwrap();
    let out = while_loop(
        &[zero, sum],
        |v| on(&g, 2, || v[0].less(&n)),
        |v| {
            // Odd trips run an inner loop, even ones do not.
            let odd = on(&g, 1, || v[0].modulo(&g.constant(2i32)?)?.equal(&g.constant(1i32)?))?;
            let add = cond(
                &odd,
                || Ok(vec![scattered_loop(&g, &v[0], &rate)?]),
                || on(&g, 2, || Ok(vec![(&v[1] * 0.0)?])),
            )?;
            Ok(vec![(&v[0] + 1)?, on(&g, 0, || &v[1] + &add[0])?])
        },
        WhileOptions::default(),
    )
    .unwrap();
    let got = run(&g, &[(&n, Tensor::scalar(6))], &out[1]);
    assert_eq!(got.to_scalar::<f32>().unwrap(), 2.0 + 8.0 + 32.0);
}

#[test]
fn what_is_on_a_branch_that_is_not_taken_arrives_dead() {
    let g = Graph::new();
    let p = g.placeholder("p", DType::Bool, [] as [Option<usize>; 0]).unwrap();
    let x = g.constant([1f32, 2.0]).unwrap();
    let out = cond(
        &p,
        || on(&g, 1, || Ok(vec![on(&g, 2, || x.square())?.square()?])),
        || on(&g, 2, || Ok(vec![on(&g, 1, || x.negated())?.negated()?])),
    )
    .unwrap();
    assert_eq!(
        run(&g, &[(&p, Tensor::scalar(true))], &out[0]),
        Tensor::from([1f32, 16.0])
    );
    assert_eq!(
        run(&g, &[(&p, Tensor::scalar(false))], &out[0]),
        Tensor::from([1f32, 2.0])
    );
}

#[test]
fn an_error_on_one_device_ends_the_step_on_all() {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F32, PartialShape::UNKNOWN).unwrap();
    let bad = on(&g, 1, || {
        g.op("CheckNumerics").input(&x).attr("message", "seen").output()
    })
    .unwrap();
    let out = on(&g, 2, || bad.square()).unwrap();
    let s = session(&g, 3);
    let e = s.run(&[(&x, Tensor::from([f32::NAN]))], &[&out]).unwrap_err();
    assert!(e.message().contains("seen"), "{e}");
    assert_eq!(e.node(), Some("CheckNumerics"));
    // The session stays usable.
    let got = s.run(&[(&x, Tensor::from([3f32]))], &[&out]).unwrap();
    assert_eq!(got[0], Tensor::from([9f32]));
}

#[test]
fn asynchronous_runs_and_deadlines_work_over_devices() {
    let g = Graph::new();
    let x = on(&g, 1, || g.constant([2f32])).unwrap();
    let y = on(&g, 2, || x.square()).unwrap();
    let queue = on(&g, 1, || {
        let q = g.op("FIFOQueueV2").attr("component_types", vec![DType::F32]).output()?;
        g.op("QueueDequeueV2")
            .input(&q)
            .attr("component_types", vec![DType::F32])
            .output()
    })
    .unwrap();
    let never = on(&g, 2, || &queue + &x).unwrap();
    let s = session(&g, 3);
    let future = s.runner().fetch(&y).run_async().unwrap();
    assert_eq!(block_on(future).unwrap()[0], Tensor::from([4f32]));
    let wait = std::time::Duration::from_millis(200);
    let e = s.runner().fetch(&never).timeout(wait).run().unwrap_err();
    assert_eq!(e.code(), crate::Code::DeadlineExceeded, "{e}");
    let e = block_on(s.runner().fetch(&never).timeout(wait).run_async().unwrap()).unwrap_err();
    assert_eq!(e.code(), crate::Code::DeadlineExceeded, "{e}");
}

fn block_on<F: Future>(f: F) -> F::Output {
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    let mut f = std::pin::pin!(f);
    loop {
        if let Poll::Ready(r) = f.as_mut().poll(&mut Context::from_waker(&waker)) {
            return r;
        }
        std::thread::park();
    }
}
