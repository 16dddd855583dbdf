//! `RandomIndexShuffle`.
//!
//! A permutation of `0..=max` that is computed for one index at a time: a block cipher whose blocks are as wide as the
//! indices need is applied until the result is in range (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
//! The cipher is Simon (Beaulieu et al., 2013) with 96 bits of key, few rounds and blocks of 16 to 64 bits.

#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

/// The narrowest block; in narrower ones, patterns are seen.
const NARROWEST: u32 = 16;

/// The bits of Simon's constant sequence, lowest first.
const SEQUENCE: u64 = 0x7369_f885_192c_0ef5;

/// Simon on words of `bits`, half a block.
struct Simon {
    bits: u32,
    keys: Vec<u64>,
}

impl Simon {
    fn new(bits: u32, key: [u32; 3], rounds: usize) -> Self {
        let mut cipher = Simon { bits, keys: Vec::new() };
        let mask = cipher.mask();
        let mut keys: Vec<u64> = key.iter().map(|k| u64::from(*k) & mask).collect();
        // Words keep the sequence's low bits only.
        let mut sequence = SEQUENCE & mask;
        for i in 3..rounds {
            let last = keys[i - 1];
            let turned = cipher.left(last, bits - 3) ^ cipher.left(last, bits - 4);
            keys.push((0xffff_fffc & mask) ^ (sequence & 1) ^ keys[i - 3] ^ turned);
            sequence >>= 1;
        }
        cipher.keys = keys;
        cipher
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// Turned by `by` bits, at most the word's.
    fn left(&self, x: u64, by: u32) -> u64 {
        ((x << by) | (x >> (self.bits - by))) & self.mask()
    }

    fn mix(&self, x: u64) -> u64 {
        (self.left(x, 1) & self.left(x, 8)) ^ self.left(x, 2)
    }

    fn encrypt(&self, block: u64) -> u64 {
        let (mut left, mut right) = ((block >> self.bits) & self.mask(), block & self.mask());
        for pair in self.keys.chunks_exact(2) {
            left ^= self.mix(right) ^ pair[0];
            right ^= self.mix(left) ^ pair[1];
        }
        left << self.bits | right
    }
}

/// Where `index` of `0..=max` goes.
fn shuffled(index: u64, key: [u32; 3], max: u64, rounds: usize) -> u64 {
    if max == 0 {
        return 0;
    }
    let wide = (max as f64).log2().ceil() as u32;
    let block = (wide + wide % 2).max(NARROWEST);
    let cipher = Simon::new(block / 2, key, rounds);
    let mut at = index;
    loop {
        at = cipher.encrypt(at);
        if at <= max {
            return at;
        }
    }
}

/// The elements as 64 bits; negative numbers wrap.
fn words(t: &Tensor) -> Result<Vec<u64>> {
    match t.dtype() {
        DType::U64 => Ok(t.as_slice::<u64>()?.to_vec()),
        DType::U32 => Ok(t.as_slice::<u32>()?.iter().map(|x| u64::from(*x)).collect()),
        _ => Ok(t.to_i64_vec()?.iter().map(|x| *x as u64).collect()),
    }
}

fn shuffle(cx: &mut OpContext<'_>, rounds: usize) -> Result<()> {
    let (index, seed, max) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let seeds_fit = matches!(seed.shape().dims(), [3] | [_, 3]);
    if index.shape().rank() > 1 || max.shape().rank() > 1 || !seeds_fit {
        return Err(Error::invalid(format!(
            "index and max_index must be scalars or vectors and seed of shape [3] or [n, 3]; got index {}, seed {}, max_index {}",
            index.shape(),
            seed.shape(),
            max.shape()
        )));
    }
    let (indices, keys, most) = (words(index)?, words(seed)?, words(max)?);
    let each_key = seed.shape().rank() == 2;
    let mut lengths = Vec::new();
    for (t, many) in [
        (index, index.shape().rank() == 1),
        (seed, each_key),
        (max, max.shape().rank() == 1),
    ] {
        if many {
            lengths.push(t.shape()[0]);
        }
    }
    let n = lengths.iter().copied().find(|n| *n != 1).or(lengths.first().copied());
    if lengths.iter().any(|l| *l != 1 && Some(*l) != n) {
        return Err(Error::invalid(format!(
            "index, seed and max_index must have the same length where they are many, got lengths {lengths:?}"
        )));
    }
    let pick = |list: &[u64], i: usize| list[if list.len() == 1 { 0 } else { i }];
    let mut out = Vec::new();
    for i in 0..n.unwrap_or(1) {
        let (index, max) = (pick(&indices, i), pick(&most, i));
        if index > max {
            return Err(Error::invalid(format!(
                "max_index must be >= index, but {max} < {index}"
            )));
        }
        let at = if keys.len() == 3 { 0 } else { 3 * i };
        let key = [keys[at], keys[at + 1], keys[at + 2]].map(|k| k as u32);
        out.push(shuffled(index, key, max, rounds));
    }
    let shape = n.map_or_else(Vec::new, |n| vec![n]);
    let t = match index.dtype() {
        DType::I32 => Tensor::from_slice(shape, &out.iter().map(|x| *x as i32).collect::<Vec<_>>())?,
        DType::U32 => Tensor::from_slice(shape, &out.iter().map(|x| *x as u32).collect::<Vec<_>>())?,
        DType::I64 => Tensor::from_slice(shape, &out.iter().map(|x| *x as i64).collect::<Vec<_>>())?,
        _ => Tensor::from_slice(shape, &out)?,
    };
    cx.set_output(0, t);
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let rounds = init.attrs.int("rounds")?;
    let rounds = usize::try_from(rounds)
        .ok()
        .filter(|r| *r >= 4 && r % 2 == 0 && *r <= 1 << 16);
    let rounds = rounds.ok_or_else(|| Error::invalid("rounds must be even, at least 4 and at most 65536"))?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| shuffle(cx, rounds)))
}

fn random_index_shuffle() -> OpDef {
    OpDef::new("RandomIndexShuffle", Category::Random)
        .doc("Where indices go in a random permutation of 0 to max_index, which follows from a seed of three numbers.")
        .input("index: dtype")
        .input("seed: Tseed")
        .input("max_index: dtype")
        .output("output: dtype")
        .attr("rounds: int = 4")
        .attr("dtype: {int32, uint32, int64, uint64}")
        .attr("Tseed: {int32, uint32, int64, uint64}")
        .shape(|cx| {
            let ranks = [
                cx.input(0).rank(),
                cx.input(1).rank().map(|r| r.saturating_sub(1)),
                cx.input(2).rank(),
            ];
            Ok(vec![match ranks {
                [Some(0), Some(0), Some(0)] => PartialShape::scalar(),
                _ if ranks.contains(&Some(1)) => PartialShape::vector(None),
                _ => PartialShape::UNKNOWN,
            }])
        })
        .not_differentiable()
        .cpu(kernel)
}

register_ops!(random_index_shuffle);

#[cfg(test)]
mod tests {
    use super::shuffled;
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Output, Tensor};

    /// TensorFlow 2.21's own values.
    #[test]
    fn every_index_goes_where_tensorflow_sends_it() {
        let all = |max: u64| (0..=max).map(|i| shuffled(i, [1, 2, 3], max, 4)).collect::<Vec<_>>();
        assert_eq!(all(2), [2, 0, 1]);
        assert_eq!(all(10), [2, 0, 6, 4, 8, 10, 7, 9, 5, 3, 1]);
        assert_eq!(shuffled(1, [1, 2, 3], 1 << 40, 4), 95_092_355);
    }

    #[test]
    fn the_whole_range_is_permuted() {
        for max in [1, 100, 65_535, 65_536, 100_000] {
            let mut seen: Vec<u64> = (0..=max.min(3000)).map(|i| shuffled(i, [7, 8, 9], max, 6)).collect();
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() as u64 == max.min(3000) + 1 && seen.iter().all(|x| *x <= max));
        }
    }

    fn node(g: &Graph, index: Tensor, seed: Tensor, max: Tensor, rounds: i64) -> Output {
        let [index, seed, max] = [index, seed, max].map(|t| g.constant(t).unwrap());
        let node = g.op("RandomIndexShuffle").input(&index).input(&seed).input(&max);
        node.attr("rounds", rounds).output().unwrap()
    }

    #[test]
    fn indices_and_seeds_may_be_many() {
        let g = Graph::new();
        let many = Tensor::from([0i32, 1, 2]);
        let y = node(&g, many.clone(), Tensor::from([1u32, 2, 3]), 5i32.into(), 4);
        assert_eq!(eval(&y), Tensor::from([2i32, 0, 3]));
        let seeds = Tensor::from([[1u32, 2, 3], [4, 5, 6], [1, 2, 3]]);
        assert_eq!(eval(&node(&g, many, seeds, 5i32.into(), 6)), Tensor::from([1i32, 4, 3]));
    }

    #[test]
    fn bad_operands_are_refused() {
        let g = Graph::new();
        let seed = || Tensor::from([1u32, 2, 3]);
        assert!(
            fails(&node(&g, 7i32.into(), seed(), 5i32.into(), 4))
                .message()
                .contains("5 < 7")
        );
        assert!(
            fails(&node(&g, 1i32.into(), Tensor::from([1u32, 2]), 5i32.into(), 4))
                .message()
                .contains("[2]")
        );
        assert!(
            fails(&node(&g, 1i32.into(), seed(), 5i32.into(), 3))
                .message()
                .contains("even")
        );
    }
}
