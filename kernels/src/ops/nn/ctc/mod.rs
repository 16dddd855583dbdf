//! Connectionist temporal classification (Graves et al. 2006): the loss and the decoders.
//!
//! Sequences are scored frame by frame; a blank, the last class, separates what is repeated.

pub mod decode;
pub mod loss;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;

/// log(e^a + e^b)
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// The extents of the scores `[time, batch, classes]` and each sequence's length.
struct Frames {
    time: usize,
    batch: usize,
    classes: usize,
    lengths: Vec<usize>,
}

impl Frames {
    /// Of input 0, with the lengths of input `at`. The decoders (not `strict`) take a negative length for none and
    /// call wrong ones a failed precondition, as TensorFlow's do.
    fn of(cx: &OpContext<'_>, at: usize, strict: bool) -> Result<Frames> {
        let (scores, lengths) = (cx.input(0)?, cx.input(at)?);
        let [time, batch, classes] = <[usize; 3]>::try_from(scores.shape().dims())
            .map_err(|_| Error::invalid(format!("inputs is not a 3-Tensor, its shape is {}", scores.shape())))?;
        if time == 0 || classes == 0 {
            return Err(Error::invalid(format!(
                "inputs must have at least one time step and one class, got shape {}",
                scores.shape()
            )));
        }
        let refused = |message: String| match strict {
            true => Error::invalid(message),
            false => Error::failed_precondition(message),
        };
        if lengths.shape().dims() != [batch] {
            return Err(refused(format!(
                "sequence_length must have one element for each of the {batch} sequences, got shape {}",
                lengths.shape()
            )));
        }
        let mut list = Vec::with_capacity(batch);
        for (b, n) in lengths.as_slice::<i32>()?.iter().enumerate() {
            let n = if strict { *n } else { (*n).max(0) };
            match usize::try_from(n) {
                Ok(n) if n <= time => list.push(n),
                _ => {
                    return Err(refused(format!(
                        "sequence_length({b}) is {n}, but must be between 0 and the {time} time steps"
                    )));
                }
            }
        }
        Ok(Frames {
            time,
            batch,
            classes,
            lengths: list,
        })
    }

    /// Where the scores of sequence `b` at time `t` begin.
    fn at(&self, t: usize, b: usize) -> usize {
        (t * self.batch + b) * self.classes
    }
}

/// A float of the scores.
trait Score: actorflow_core::Element {
    fn to_f64(self) -> f64;
    fn of_f64(x: f64) -> Self;
}

impl Score for f32 {
    fn to_f64(self) -> f64 {
        self.into()
    }
    fn of_f64(x: f64) -> f32 {
        x as f32
    }
}

impl Score for f64 {
    fn to_f64(self) -> f64 {
        self
    }
    fn of_f64(x: f64) -> f64 {
        x
    }
}

/// The logarithms of the softmax of some scores.
fn log_softmax<T: Score>(scores: &[T], out: &mut [f64]) {
    let most = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.to_f64()));
    let sum: f64 = scores.iter().map(|s| (s.to_f64() - most).exp()).sum();
    let norm = most + sum.ln();
    out.iter_mut().zip(scores).for_each(|(o, s)| *o = s.to_f64() - norm);
}
