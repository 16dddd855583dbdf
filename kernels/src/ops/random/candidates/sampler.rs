//! Distributions over the classes `0..range`. TensorFlow's `RangeSampler` and `SimplePhilox`.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use actorflow_core::error::{Error, Result};
use actorflow_core::philox::uniform_f32;

use crate::ops::random::stream::Singles;

/// A number below `n` without bias: numbers that would give some values an advantage are skipped.
pub(in crate::ops) fn below32(random: &mut Singles, n: u32) -> u32 {
    if n.is_power_of_two() {
        return random.next() & (n - 1);
    }
    let first = (u32::MAX % n.max(1)).wrapping_add(1);
    loop {
        let x = random.next();
        if x >= first {
            return x % n.max(1);
        }
    }
}

/// As [`below32`] of 64 bits.
fn below64(random: &mut Singles, n: u64) -> u64 {
    let mut draw = || {
        let low = u64::from(random.next());
        low | u64::from(random.next()) << 32
    };
    if n.is_power_of_two() {
        return draw() & (n - 1);
    }
    let first = (u64::MAX % n.max(1)).wrapping_add(1);
    loop {
        let x = draw();
        if x >= first {
            return x % n.max(1);
        }
    }
}

/// Drawing from weights in constant time (Walker 1977).
#[derive(Debug, Clone)]
pub(super) struct Alias(Vec<(f32, usize)>);

impl Alias {
    fn new(weights: &[f32]) -> Alias {
        let n = weights.len();
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let mut share: Vec<f64> = weights.iter().map(|w| f64::from(*w * n as f32) / sum).collect();
        let mut other = vec![None; n];
        let (mut low, mut high): (Vec<usize>, Vec<usize>) = (0..n).partition(|i| share[*i] < 1.0);
        while let (Some(&l), Some(&h)) = (low.last(), high.last()) {
            low.pop();
            high.pop();
            other[l] = Some(h);
            share[h] -= 1.0 - share[l];
            match share[h] < 1.0 {
                true => low.push(h),
                false => high.push(h),
            }
        }
        // What is left is 1 but for rounding.
        for i in low.into_iter().chain(high) {
            (share[i], other[i]) = (1.0, Some(i));
        }
        Alias((0..n).map(|i| (share[i] as f32, other[i].unwrap_or(i))).collect())
    }

    fn draw(&self, random: &mut Singles) -> usize {
        let r = uniform_f32(random.next());
        let i = below32(random, self.0.len() as u32) as usize;
        match self.0.get(i) {
            Some((share, _)) if r < *share => i,
            Some((_, other)) => *other,
            None => 0,
        }
    }
}

/// A distribution.
pub(super) enum Sampler {
    /// All classes, in order.
    All(u64),
    /// All alike.
    Uniform(u64),
    /// The first are the likeliest, as words in a list by frequency.
    LogUniform(u64),
    /// As weights say.
    Fixed {
        weights: Vec<f32>,
        total: f32,
        alias: Alias,
    },
    /// As often as classes were true before, and once more.
    Learned { counts: Vec<i64>, total: i64 },
}

/// What was drawn.
pub(super) struct Batch {
    pub(super) classes: Vec<i64>,
    pub(super) expected: Vec<f32>,
    pub(super) true_expected: Vec<f32>,
}

/// How often a class of probability `p` is expected in a batch of `n` that took so many tries.
fn expected(p: f32, n: usize, tries: i64) -> f32 {
    if tries == n as i64 {
        return p * n as f32;
    }
    -f64::exp_m1(tries as f64 * f64::from((-p).ln_1p())) as f32
}

impl Sampler {
    /// A sampler of these weights.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there are none, their sum is not positive or one is negative or not finite.
    pub(super) fn fixed(weights: Vec<f32>, total: f32) -> Result<Sampler> {
        if weights.is_empty() || weights.iter().any(|w| !w.is_finite() || *w < 0.0) || !(total > 0.0) {
            return Err(Error::invalid(
                "the weights of classes must be finite, none negative, and their sum positive",
            ));
        }
        Ok(Sampler::Fixed {
            alias: Alias::new(&weights),
            weights,
            total,
        })
    }

    /// A sampler that has learned nothing.
    pub(super) fn learned(range: usize) -> Sampler {
        Sampler::Learned {
            counts: vec![1; range],
            total: range as i64,
        }
    }

    /// How many classes there are.
    pub(super) fn range(&self) -> u64 {
        match self {
            Sampler::All(n) | Sampler::Uniform(n) | Sampler::LogUniform(n) => *n,
            Sampler::Fixed { weights, .. } => weights.len() as u64,
            Sampler::Learned { counts, .. } => counts.len() as u64,
        }
    }

    fn draw(&self, random: &mut Singles) -> i64 {
        match self {
            Sampler::All(_) => 0,
            Sampler::Uniform(n) => below64(random, *n) as i64,
            Sampler::LogUniform(n) => {
                let x = (random.next_f64() * (*n as f64).ln_1p()).exp() as i64 - 1;
                x.rem_euclid((*n).max(1) as i64)
            }
            Sampler::Fixed { alias, .. } => alias.draw(random) as i64,
            Sampler::Learned { counts, total } => {
                let mut left = i64::from(below32(random, u32::try_from(*total).unwrap_or(u32::MAX)));
                let at = counts.iter().position(|c| {
                    left -= c;
                    left < 0
                });
                at.unwrap_or(0) as i64
            }
        }
    }

    fn probability(&self, class: i64) -> f32 {
        let at = class as usize;
        match self {
            Sampler::All(_) => 1.0,
            Sampler::Uniform(n) => (1.0 / *n as f64) as f32,
            Sampler::LogUniform(n) => {
                let c = class as f64;
                (((c + 2.0) / (c + 1.0)).ln() / (*n as f64).ln_1p()) as f32
            }
            Sampler::Fixed { weights, total, .. } => weights.get(at).map_or(0.0, |w| w / total),
            Sampler::Learned { counts, total } => counts.get(at).map_or(0.0, |c| *c as f32 / *total as f32),
        }
    }

    /// Draws `n` classes, all different if `unique`, and says how often they and `true_classes` are expected.
    pub(super) fn batch(&self, n: usize, unique: bool, true_classes: &[i64], random: &mut Singles) -> Batch {
        if let Sampler::All(_) = self {
            return Batch {
                classes: (0..n as i64).collect(),
                expected: vec![1.0; n],
                true_expected: vec![1.0; true_classes.len()],
            };
        }
        let mut classes = Vec::with_capacity(n);
        let mut tries = 0;
        let mut used = HashSet::new();
        // A class of no weight never comes, so an end is set to the search; more tries than TensorFlow's would do.
        while classes.len() < n && tries < i64::from(i32::MAX) {
            tries += 1;
            let c = self.draw(random);
            if !unique || used.insert(c) {
                classes.push(c);
            }
        }
        Batch {
            expected: classes
                .iter()
                .map(|c| expected(self.probability(*c), n, tries))
                .collect(),
            true_expected: true_classes
                .iter()
                .map(|c| expected(self.probability(*c), n, tries))
                .collect(),
            classes,
        }
    }

    /// How many classes can be drawn at all.
    pub(super) fn possible(&self) -> usize {
        match self {
            Sampler::Fixed { weights, .. } => weights.iter().filter(|w| **w > 0.0).count(),
            _ => usize::try_from(self.range()).unwrap_or(usize::MAX),
        }
    }

    /// Learns from classes that were true.
    pub(super) fn update(&mut self, true_classes: &[i64]) {
        if let Sampler::Learned { counts, total } = self {
            for c in true_classes {
                if let Some(n) = counts.get_mut(*c as usize) {
                    *n += 1;
                    *total += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::philox::Philox;

    #[test]
    fn frequencies_are_the_probabilities() {
        let weights = vec![0.5, 0.0, 2.0, 1.5];
        let mut learned = Sampler::learned(4);
        learned.update(&[2, 2, 2, 0]);
        for s in [
            Sampler::Uniform(5),
            Sampler::LogUniform(6),
            Sampler::fixed(weights, 4.0).unwrap(),
            learned,
        ] {
            let n = 40_000;
            let b = s.batch(n, false, &[], &mut Singles::new(Philox::new(1, 2)));
            for c in 0..s.range() as i64 {
                let share = b.classes.iter().filter(|x| **x == c).count() as f32 / n as f32;
                assert!((share - s.probability(c)).abs() < 0.01, "{c}: {share}");
            }
        }
    }

    #[test]
    fn unique_batches_repeat_nothing() {
        let b = Sampler::LogUniform(9).batch(9, true, &[3], &mut Singles::new(Philox::new(1, 2)));
        let mut sorted = b.classes.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..9).collect::<Vec<_>>());
        assert!(b.true_expected[0] > 0.0 && b.true_expected[0] <= 1.0);
    }
}
