//! Control flow written with primitives, and running it in every mode.
#![allow(clippy::unwrap_used)] // helpers of tests
#![allow(dead_code, unreachable_pub)]

use actorflow::{Graph, Output, Result, Session, SessionOptions, Tensor};

/// A session with so many threads.
pub fn session(g: &Graph, threads: usize) -> Session {
    Session::with_options(g, SessionOptions::with_threads(threads)).unwrap()
}

/// Runs on one thread, and on workers.
pub fn run(g: &Graph, feeds: &[(&Output, Tensor)], fetches: &[&Output]) -> Result<Vec<Tensor>> {
    let one = session(g, 1).run(feeds, fetches);
    let two = session(g, 2);
    for _ in 0..4 {
        let mut r = two.runner();
        for (o, t) in feeds {
            r = r.feed(o, t.clone());
        }
        for f in fetches {
            r = r.fetch(f);
        }
        match (&one, r.run_async().and_then(wait)) {
            (Ok(a), Ok(b)) => assert_eq!(*a, b),
            (Err(a), Err(b)) => assert_eq!(a.code(), b.code(), "{a} / {b}"),
            (a, b) => panic!("one thread: {a:?}, two threads: {b:?}"),
        }
    }
    one
}

/// An `Enter`.
pub fn enter(x: &Output, frame: &str, constant: bool, parallel: i64) -> Output {
    x.graph()
        .op("Enter")
        .input(x)
        .attr("frame_name", frame)
        .attr("is_constant", constant)
        .attr("parallel_iterations", parallel)
        .output()
        .unwrap()
}

/// A `Merge` of two.
pub fn merge(a: &Output, b: &Output) -> Output {
    a.graph()
        .op("Merge")
        .input_list(&[a.clone(), b.clone()])
        .output()
        .unwrap()
}

/// A `Switch`: its outputs for false and for true.
pub fn switch(x: &Output, p: &Output) -> (Output, Output) {
    let s = x.graph().op("Switch").input(x).input(p).finish().unwrap();
    (s.output(0).unwrap(), s.output(1).unwrap())
}

/// A loop over some values, written with primitives. `cond` and `body` get the values of the iteration.
pub fn raw_while(
    frame: &str,
    parallel: i64,
    vars: &[Output],
    cond: impl Fn(&[Output]) -> Output,
    body: impl Fn(&[Output]) -> Vec<Output>,
) -> Vec<Output> {
    let g = vars[0].graph().clone();
    let merges: Vec<Output> = vars
        .iter()
        .map(|v| {
            let e = enter(v, frame, false, parallel);
            merge(&e, &e)
        })
        .collect();
    let p = cond(&merges).unary("LoopCond").unwrap();
    let sides: Vec<(Output, Output)> = merges.iter().map(|m| switch(m, &p)).collect();
    let inside: Vec<Output> = sides.iter().map(|s| s.1.identity().unwrap()).collect();
    let next = body(&inside);
    for (m, n) in merges.iter().zip(next) {
        let n = n.unary("NextIteration").unwrap();
        g.set_loop_input(&m.op(), 1, &n).unwrap();
    }
    sides.iter().map(|s| s.0.unary("Exit").unwrap()).collect()
}

/// A constant of a loop's body, pinned into it by a control edge.
pub fn pinned(like: &Output, x: f32) -> Output {
    let g = like.graph();
    let _c = g.control_dependencies(&[like.op()]);
    g.constant(x).unwrap()
}

/// [`pinned`] for an integer.
pub fn int_pinned(like: &Output, x: i32) -> Output {
    let g = like.graph();
    let _c = g.control_dependencies(&[like.op()]);
    g.constant(x).unwrap()
}

/// Waits for a future on this thread.
pub fn wait<F: std::future::Future>(f: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut f = std::pin::pin!(f);
    loop {
        match f.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(x) => return x,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
