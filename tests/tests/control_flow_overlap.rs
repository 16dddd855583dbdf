//! Iterations of a loop overlap, up to the loop's bound.
#![allow(clippy::unwrap_used)] // helpers of tests

mod flow;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use actorflow::op::{Category, Kernel, OpContext, OpDef};
use actorflow::{Graph, Result, Tensor};
use flow::{enter, int_pinned, raw_while, session, wait};

/// How many of [`slow_op`]'s kernels are suspended now, and at most were at once.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Slow;

impl Kernel for Slow {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let x = cx.take_input(0)?;
        let resume = cx.suspend()?;
        let now = WAITING.fetch_add(1, SeqCst) + 1;
        MOST.fetch_max(now, SeqCst);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            WAITING.fetch_sub(1, SeqCst);
            resume.finish(Ok(vec![x]));
        });
        Ok(())
    }

    fn may_suspend(&self) -> bool {
        true
    }
}

fn slow_op() -> OpDef {
    OpDef::new("TestSlow", Category::User)
        .input("x: T")
        .output("y: T")
        .attr("T: type")
        .stateful()
        .cpu(|_| Ok(Box::new(Slow)))
}

actorflow::register_ops!(slow_op);

#[test]
fn iterations_overlap_as_far_as_parallel_iterations_allows() {
    let g = Graph::new();
    for (k, threads) in [(1, 1), (1, 2), (4, 1), (4, 2)] {
        let (zero, sum) = (g.constant(0i32).unwrap(), g.constant(0i32).unwrap());
        let limit = enter(&g.constant(24i32).unwrap(), "loop", true, k);
        let out = raw_while(
            "loop",
            k,
            &[zero, sum],
            |v| v[0].less(&limit).unwrap(),
            |v| {
                let slow = v[0].unary("TestSlow").unwrap();
                vec![v[0].plus(&int_pinned(&v[0], 1)).unwrap(), v[1].plus(&slow).unwrap()]
            },
        );
        MOST.store(0, SeqCst);
        let s = session(&g, threads);
        assert_eq!(s.run(&[], &[&out[1]]).unwrap()[0], Tensor::from(276i32));
        assert_eq!(MOST.load(SeqCst), k as usize);
        let f = s.runner().fetch(&out[1]).run_async().unwrap();
        assert_eq!(wait(f).unwrap()[0], Tensor::from(276i32));
        assert_eq!(MOST.load(SeqCst), k as usize);
    }
}
