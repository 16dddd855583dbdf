//! `RandomShuffle`.

#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::Philox;
use actorflow_core::register_ops;

use super::stream::{Singles, Stream};
use crate::moves::{self, Fill, Rows};
use crate::shapes;

/// A permutation of `0..n`: Fisher and Yates's shuffle, which takes `n - 1` numbers.
pub(super) fn permutation(n: usize, from: Philox) -> Vec<usize> {
    let mut p: Vec<usize> = (0..n).collect();
    let mut numbers = Singles::new(from);
    for i in 0..n.saturating_sub(1) {
        // As TensorFlow: 32 bits, whatever the length.
        let j = numbers.next() % ((n - i) as u32).max(1);
        p.swap(i, i + j as usize);
    }
    p
}

struct Shuffle(Stream);

impl Kernel for Shuffle {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let x = cx.input(0)?;
        let n = match x.shape().first() {
            Some(n) if *n > 1 && x.len() > 1 => *n,
            _ => return cx.forward(0, 0),
        };
        let from = self.0.reserve((n as u64 - 1).div_ceil(4));
        let rows = Rows {
            row: x.len() / n,
            picks: &permutation(n, from),
        };
        let t = moves::build(cx, x.dtype(), x.shape().clone(), Fill::Any, &[x], &rows)?;
        cx.set_output(0, t);
        Ok(())
    }
}

fn random_shuffle() -> OpDef {
    OpDef::new("RandomShuffle", Category::Random)
        .doc("The rows of the tensor in random order.")
        .input("value: T")
        .output("output: T")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .attr("T: type")
        .shape(shapes::unchanged)
        .stateful()
        .not_differentiable()
        .cpu(|init| Ok(Box::new(Shuffle(Stream::new(init)?))))
}

register_ops!(random_shuffle);
