//! What is learnt from: the bundled digits, or made-up points; and the order in which workers see it.

use std::io::Read;

use actorflow::{Error, Result, Tensor};
use clap::ValueEnum;
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

static DIGITS: &[u8] = include_bytes!("../../../engine/cli/data/digits.csv.gz");
static MNIST_5K: &[u8] = include_bytes!("../../../engine/cli/data/mnist_5k.csv.gz");

/// A data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dataset {
    /// 1,797 handwritten digits of 8 × 8 pixels.
    Digits,
    /// A subset of 5,000 of MNIST's digits, 28 × 28 pixels.
    Mnist5k,
    /// 4,000 made-up points of 32 dimensions in 10 classes, around a mean each.
    Synthetic,
}

impl Dataset {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Dataset::Digits => "digits",
            Dataset::Mnist5k => "mnist5k",
            Dataset::Synthetic => "synthetic",
        }
    }

    /// Reads or makes it. Row i is a test row if i % 5 == 4.
    ///
    /// # Errors
    /// `DATA_LOSS` if a bundled file is damaged.
    pub(super) fn load(self, seed: u64) -> Result<Split> {
        match self {
            Dataset::Digits => bundled(DIGITS, 16.0),
            Dataset::Mnist5k => bundled(MNIST_5K, 255.0),
            Dataset::Synthetic => Ok(points(seed)),
        }
        .map_err(|e: Error| e.context(self.name()))
    }
}

/// Rows of numbers, and the class of each.
#[derive(Debug, Default)]
pub(super) struct Rows {
    width: usize,
    values: Vec<f32>,
    labels: Vec<i32>,
}

impl Rows {
    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// These rows, as tensors `[n, width]` of float32 and `[n]` of int32.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn select(&self, rows: impl IntoIterator<Item = usize>) -> Result<[Tensor; 2]> {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for r in rows {
            x.extend_from_slice(&self.values[r * self.width..(r + 1) * self.width]);
            y.push(self.labels[r]);
        }
        Ok([Tensor::from_slice([y.len(), self.width], &x)?, Tensor::vector(&y)])
    }

    /// These rows with something random between `-noise` and `noise` added to every number, which is another in every step: so
    /// that what is learnt is not the rows themselves.
    ///
    /// # Errors
    /// As [`select`](Self::select).
    pub(super) fn blurred(&self, rows: &[usize], noise: f32, random: &mut Random) -> Result<[Tensor; 2]> {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for r in rows {
            let row = &self.values[r * self.width..(r + 1) * self.width];
            x.extend(row.iter().map(|v| v + noise * (2.0 * random.unit() as f32 - 1.0)));
            y.push(self.labels[*r]);
        }
        Ok([Tensor::from_slice([y.len(), self.width], &x)?, Tensor::vector(&y)])
    }

    fn push(&mut self, values: impl IntoIterator<Item = f32>, label: i32) {
        self.values.extend(values);
        self.labels.push(label);
    }
}

/// Rows to learn from, and rows to be judged by.
#[derive(Debug)]
pub(super) struct Split {
    /// Numbers per row.
    pub(super) width: usize,
    /// How many classes there are.
    pub(super) classes: usize,
    /// The rows to learn from.
    pub(super) train: Rows,
    /// The rows to be judged by.
    pub(super) test: Rows,
}

impl Split {
    fn new(width: usize, classes: usize) -> Split {
        let rows = || Rows {
            width,
            ..Rows::default()
        };
        Split {
            width,
            classes,
            train: rows(),
            test: rows(),
        }
    }

    fn side(&mut self, row: usize) -> &mut Rows {
        match row % 5 {
            4 => &mut self.test,
            _ => &mut self.train,
        }
    }
}

/// Pixels, then the label, a line each.
fn bundled(packed: &[u8], scale: f32) -> Result<Split> {
    let mut text = String::new();
    GzDecoder::new(packed).read_to_string(&mut text)?;
    let columns = text.lines().next().map_or(0, |l| l.split(',').count());
    let mut split = Split::new(columns.saturating_sub(1), 10);
    for (i, line) in text.lines().enumerate() {
        let numbers: std::result::Result<Vec<f32>, _> = line.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|e| Error::data_loss(format!("row {i}: {e}")))?;
        match numbers.split_last() {
            Some((label, pixels)) if pixels.len() == split.width => {
                let pixels = pixels.iter().map(|p| p / scale);
                split.side(i).push(pixels, *label as i32);
            }
            _ => return Err(Error::data_loss(format!("row {i} has another width than the first"))),
        }
    }
    Ok(split)
}

const POINTS: usize = 4000;
const DIMENSIONS: usize = 32;
const CLASSES: usize = 10;

fn points(seed: u64) -> Split {
    let mut random = Random::new(seed ^ 0x5eed_da7a);
    let means: Vec<Vec<f32>> = (0..CLASSES)
        .map(|_| (0..DIMENSIONS).map(|_| random.normal() as f32 * 0.6).collect())
        .collect();
    let mut split = Split::new(DIMENSIONS, CLASSES);
    for i in 0..POINTS {
        let class = random.below(CLASSES);
        let point: Vec<f32> = means[class].iter().map(|m| m + random.normal() as f32).collect();
        split.side(i).push(point, class as i32);
    }
    split
}

/// Numbers that look random: `splitmix64` by S. Vigna.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`, evenly.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// In 0..1, evenly.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of the normal distribution, by G. Box and M. Muller's transformation.
    pub(super) fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

/// The order in which all workers together see the rows: each once an epoch, in an order of the epoch's own that depends
/// on nothing but the seed.
#[derive(Debug)]
pub(super) struct Order {
    rows: usize,
    seed: u64,
    /// Epochs in use, with their permutations.
    epochs: Vec<(usize, Vec<usize>)>,
}

impl Order {
    /// The order of so many rows.
    pub(super) fn new(rows: usize, seed: u64) -> Order {
        Order {
            rows,
            seed,
            epochs: Vec::new(),
        }
    }

    /// The row at a place of the endless sequence.
    fn row(&mut self, place: usize) -> usize {
        let epoch = place / self.rows;
        let found = self.epochs.iter().position(|e| e.0 == epoch);
        let at = found.unwrap_or_else(|| {
            let mut random = Random::new(self.seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ epoch as u64);
            let mut order: Vec<usize> = (0..self.rows).collect();
            for i in (1..self.rows).rev() {
                order.swap(i, random.below(i + 1));
            }
            if self.epochs.len() == 2 {
                self.epochs.remove(0);
            }
            self.epochs.push((epoch, order));
            self.epochs.len() - 1
        });
        self.epochs[at].1[place % self.rows]
    }

    /// The rows of a worker's step: the workers take batches in turn.
    pub(super) fn batch(&mut self, step: usize, worker: usize, workers: usize, batch: usize) -> Vec<usize> {
        let first = (step * workers + worker) * batch;
        (first..first + batch).map(|place| self.row(place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_set_has_rows_to_learn_from_and_rows_to_be_judged_by() {
        for (set, width, train, test) in [
            (Dataset::Digits, 64, 1438, 359),
            (Dataset::Mnist5k, 784, 4000, 1000),
            (Dataset::Synthetic, 32, 3200, 800),
        ] {
            let split = set.load(1).unwrap();
            assert_eq!((split.width, split.train.len(), split.test.len()), (width, train, test));
            let [x, y] = split.test.select(0..3).unwrap();
            assert_eq!((x.shape().dims(), y.shape().dims()), (&[3, width][..], &[3][..]));
            assert!(split.train.labels.iter().all(|l| (0..10).contains(l)));
        }
    }

    #[test]
    fn workers_see_every_row_once_an_epoch_in_another_order_each() {
        let seen = |epoch: usize| -> Vec<usize> {
            let mut order = Order::new(24, 7);
            let steps = (epoch * 3..epoch * 3 + 3).flat_map(|s| (0..4).map(move |w| (s, w)));
            steps.flat_map(|(s, w)| order.batch(s, w, 4, 2)).collect()
        };
        let (first, second) = (seen(0), seen(1));
        assert_ne!(first, second);
        for mut rows in [first, second] {
            rows.sort_unstable();
            assert_eq!(rows, (0..24).collect::<Vec<_>>());
        }
    }
}
