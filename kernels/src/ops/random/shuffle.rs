//! `RandomShuffle`, `StatelessShuffle`.

#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::Philox;
use actorflow_core::register_ops;

use super::stateless::keyed;
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

/// Puts the rows of input 0 in the order of the stream for so many blocks of numbers.
fn shuffle(cx: &mut OpContext<'_>, from: impl FnOnce(u64) -> Philox) -> Result<()> {
    let x = cx.input(0)?;
    let n = match x.shape().first() {
        Some(n) if *n > 1 && x.len() > 1 => *n,
        _ => return cx.forward(0, 0),
    };
    let rows = Rows {
        row: x.len() / n,
        picks: &permutation(n, from((n as u64 - 1).div_ceil(4))),
    };
    let t = moves::build(cx, x.dtype(), x.shape().clone(), Fill::Any, &[x], &rows)?;
    cx.set_output(0, t);
    Ok(())
}

struct Shuffle(Stream);

impl Kernel for Shuffle {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        shuffle(cx, |blocks| self.0.reserve(blocks))
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

fn stateless_shuffle() -> OpDef {
    OpDef::new("StatelessShuffle", Category::Random)
        .doc("The rows of the tensor in an order that follows from a key and a counter.")
        .input("value: T")
        .input("key: uint64")
        .input("counter: uint64")
        .input("alg: int32")
        .output("output: T")
        .attr("T: type")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let from = keyed(cx)?;
                shuffle(cx, |_| from)
            }))
        })
}

register_ops!(random_shuffle, stateless_shuffle);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Output, Tensor};

    fn shuffled(g: &Graph, x: impl Into<Tensor>, counter: impl Into<Tensor>, alg: i32) -> Output {
        let inputs = [x.into(), Tensor::from([5u64]), counter.into(), alg.into()];
        let node = inputs
            .into_iter()
            .fold(g.op("StatelessShuffle"), |node, t| node.input(&g.constant(t).unwrap()));
        node.output().unwrap()
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn the_order_follows_from_key_and_counter() {
        let g = Graph::new();
        let numbers: Vec<i64> = (0..8).collect();
        let y = eval(&shuffled(&g, Tensor::vector(&numbers), [1u64, 2], 1));
        assert_eq!(y, Tensor::from([7i64, 5, 6, 4, 0, 1, 2, 3]));
        let rows = Tensor::vector(&numbers).reshape([4, 2]).unwrap();
        let y = eval(&shuffled(&g, rows, [1u64, 2], 1)).to_vec::<i64>().unwrap();
        assert_eq!(y, [6, 7, 2, 3, 4, 5, 0, 1]);
    }

    #[test]
    fn other_algorithms_and_short_counters_are_refused() {
        let g = Graph::new();
        assert!(
            fails(&shuffled(&g, [1i32, 2], [1u64, 2], 2))
                .message()
                .contains("algorithm 2")
        );
        assert!(fails(&shuffled(&g, [1i32, 2], [7u64], 1)).message().contains("counter"));
    }
}
