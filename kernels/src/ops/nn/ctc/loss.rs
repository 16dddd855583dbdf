//! `CTCLoss`.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, dispatch, register_ops};

use super::{Frames, Score, log_add, log_softmax};
use crate::ops::nn::conv::number::{Failure, room, writable};
use crate::spread;

const NEVER: f64 = f64::NEG_INFINITY;

#[derive(Clone, Copy)]
struct Rules {
    /// Repeated labels are collapsed before anything else.
    collapse: bool,
    /// Repeated labels without a blank between them count as one.
    merge: bool,
    /// Labels that are longer than their sequence give no loss instead of an error.
    ignore_long: bool,
}

/// The labels of each sequence, from the indices and values of a sparse matrix.
fn labels(cx: &OpContext<'_>, batch: usize) -> Result<Vec<Vec<usize>>> {
    let (indices, values) = (cx.input(1)?, cx.input(2)?);
    let n = match (indices.shape().dims(), values.shape().dims()) {
        ([n, 2], [m]) if n == m => *n,
        _ => {
            return Err(Error::invalid(format!(
                "labels_indices must have shape [labels, 2] and labels_values [labels], got {} and {}",
                indices.shape(),
                values.shape()
            )));
        }
    };
    let (places, values) = (indices.as_slice::<i64>()?.as_chunks::<2>().0, values.as_slice::<i32>()?);
    let mut all: Vec<Vec<usize>> = vec![Vec::new(); batch];
    for i in 0..n {
        if i > 0 && places[i - 1] >= places[i] {
            return Err(Error::invalid(format!(
                "labels_indices must be in order and without repetition, but {:?} follows {:?}",
                places[i],
                places[i - 1]
            )));
        }
        let list = usize::try_from(places[i][0])
            .ok()
            .and_then(|b| all.get_mut(b))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "labels_indices names sequence {}, but there are {batch}",
                    places[i][0]
                ))
            })?;
        let label = usize::try_from(values[i])
            .map_err(|_| Error::invalid(format!("all labels must be nonnegative integers, got {}", values[i])))?;
        list.push(label);
    }
    if let Some(b) = all.iter().position(Vec::is_empty) {
        return Err(Error::invalid(format!("labels length is zero in batch {b}")));
    }
    Ok(all)
}

/// The labels up to the first that is no class of its own; those that are longer than the sequence `None`.
fn cleaned(list: &[usize], blank: usize, length: usize, b: usize, rules: Rules) -> Result<Option<Vec<usize>>> {
    let end = list.iter().position(|l| *l >= blank).unwrap_or(list.len());
    if let Some(l) = list[end..].iter().find(|l| **l < blank) {
        return Err(Error::invalid(format!(
            "saw the label {l} following a null label (index >= {blank}, the blank) in batch {b}"
        )));
    }
    let mut own = list[..end].to_vec();
    if rules.collapse {
        own.dedup();
    }
    if own.len() <= length {
        return Ok(Some(own));
    }
    if rules.ignore_long {
        return Ok(None);
    }
    Err(Error::invalid(format!(
        "not enough time for target transition sequence (required: {}, available: {length}) in batch {b}; such \
         sequences are skipped with ignore_longer_outputs_than_inputs",
        own.len()
    )))
}

/// One sequence: the logarithms of its classes' probabilities, and its labels with blanks around each.
struct Sequence<'a> {
    log_y: &'a [f64],
    classes: usize,
    path: Vec<usize>,
    blank: usize,
    merge: bool,
}

impl Sequence<'_> {
    fn time(&self) -> usize {
        self.log_y.len() / self.classes
    }

    /// Whether state `u` may follow itself.
    fn stays(&self, u: usize) -> bool {
        self.merge || self.path[u] == self.blank
    }

    /// Whether state `u` may follow the one two before it, skipping the blank between.
    fn skips(&self, u: usize) -> bool {
        u > 1 && self.path[u] != self.blank && !(self.merge && self.path[u] == self.path[u - 2])
    }

    /// The logarithms of the probabilities of all beginnings that end in a state, for each time and state.
    fn alpha(&self) -> Vec<f64> {
        let (n, time) = (self.path.len(), self.time());
        let y = |t: usize, u: usize| self.log_y[t * self.classes + self.path[u]];
        let mut a = vec![NEVER; n * time];
        for (u, a) in a.iter_mut().enumerate().take(n.min(2)) {
            *a = y(0, u);
        }
        for t in 1..time {
            let (old, new) = a.split_at_mut(t * n);
            let old = &old[(t - 1) * n..];
            for u in 0..n {
                let mut sum = if self.stays(u) { old[u] } else { NEVER };
                if u > 0 {
                    sum = log_add(sum, old[u - 1]);
                }
                if self.skips(u) {
                    sum = log_add(sum, old[u - 2]);
                }
                new[u] = sum + y(t, u);
            }
        }
        a
    }

    /// The logarithms of the probabilities of all ends after a state, for each time and state.
    fn beta(&self) -> Vec<f64> {
        let (n, time) = (self.path.len(), self.time());
        let y = |t: usize, u: usize| self.log_y[t * self.classes + self.path[u]];
        let mut b = vec![NEVER; n * time];
        b[n * time - n.min(2)..].fill(0.0);
        for t in (0..time - 1).rev() {
            for u in 0..n {
                let next = |v: usize| b[(t + 1) * n + v] + y(t + 1, v);
                let mut sum = if self.stays(u) { next(u) } else { NEVER };
                if u + 1 < n {
                    sum = log_add(sum, next(u + 1));
                }
                if u + 2 < n && self.skips(u + 2) {
                    sum = log_add(sum, next(u + 2));
                }
                b[t * n + u] = sum;
            }
        }
        b
    }

    /// The loss; its gradient with respect to the scores goes to `out`.
    fn loss(&self, out: &mut [f64]) -> f64 {
        let n = self.path.len();
        let (alpha, beta) = (self.alpha(), self.beta());
        let total = (0..n).fold(NEVER, |s, u| log_add(s, alpha[u] + beta[u]));
        out.iter_mut().zip(self.log_y).for_each(|(o, y)| *o = y.exp());
        if total == NEVER {
            return f64::INFINITY;
        }
        for (t, out) in out.chunks_mut(self.classes).enumerate() {
            let mut sums = vec![NEVER; self.classes];
            for u in 0..n {
                let at = t * n + u;
                sums[self.path[u]] = log_add(sums[self.path[u]], alpha[at] + beta[at]);
            }
            out.iter_mut().zip(&sums).for_each(|(o, s)| *o -= (s - total).exp());
        }
        -total
    }
}

struct Loss<T> {
    rules: Rules,
    element: PhantomData<fn() -> T>,
}

impl<T: Score> Kernel for Loss<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let device = &*cx.step().device;
        let f = Frames::of(cx, 3, true)?;
        let scores = cx.slice::<T>(0)?;
        let blank = f.classes - 1;
        let mut own = Vec::with_capacity(f.batch);
        for (b, list) in labels(cx, f.batch)?.iter().enumerate() {
            own.push(cleaned(list, blank, f.lengths[b], b, self.rules)?);
        }
        // Sequences are computed side by side, [batch, 1 + time * classes]: the loss and its gradient.
        let per = 1 + f.time * f.classes;
        let mut all = room::<f64>(device, [f.batch, per])?;
        let failure = Failure::default();
        spread::chunks(device.parallel(), writable::<f64>(&mut all)?, per, |b, out| {
            out.fill(0.0);
            let (Some(labels), n) = (&own[b], f.lengths[b]) else {
                return;
            };
            if n == 0 {
                return;
            }
            failure.note((|| {
                let mut log_y = room::<f64>(device, [n * f.classes])?;
                let to = writable::<f64>(&mut log_y)?;
                for (t, y) in to.chunks_mut(f.classes).enumerate() {
                    log_softmax(&scores[f.at(t, b)..][..f.classes], y);
                }
                let sequence = Sequence {
                    log_y: to,
                    classes: f.classes,
                    path: std::iter::once(blank)
                        .chain(labels.iter().flat_map(|l| [*l, blank]))
                        .collect(),
                    blank,
                    merge: self.rules.merge,
                };
                let (loss, gradient) = out.split_at_mut(1);
                loss[0] = sequence.loss(&mut gradient[..n * f.classes]);
                Ok(())
            })());
        });
        failure.result()?;
        let all = all.as_slice::<f64>()?;
        let (mut loss, mut gradient) = (
            room::<T>(device, [f.batch])?,
            room::<T>(device, [f.time, f.batch, f.classes])?,
        );
        for (b, l) in writable::<T>(&mut loss)?.iter_mut().enumerate() {
            *l = T::of_f64(all[b * per]);
        }
        for (i, g) in writable::<T>(&mut gradient)?.chunks_mut(f.classes).enumerate() {
            let (t, b) = (i / f.batch, i % f.batch);
            let from = &all[b * per + 1 + t * f.classes..][..f.classes];
            g.iter_mut().zip(from).for_each(|(g, x)| *g = T::of_f64(*x));
        }
        cx.set_output(0, loss);
        cx.set_output(1, gradient);
        Ok(())
    }
}

fn ctc_loss() -> OpDef {
    OpDef::new("CTCLoss", Category::Nn)
        .doc(
            "The negative logarithm of the probability that frames of scores `[time, batch, classes]` spell the \
             labels, and its gradient. The last class is the blank.",
        )
        .input("inputs: T")
        .input("labels_indices: int64")
        .input("labels_values: int32")
        .input("sequence_length: int32")
        .output("loss: T")
        .output("gradient: T")
        .attr("preprocess_collapse_repeated: bool = false")
        .attr("ctc_merge_repeated: bool = true")
        .attr("ignore_longer_outputs_than_inputs: bool = false")
        .attr("T: {float, double} = DT_FLOAT")
        .shape(|cx| {
            let x = cx.input(0).with_rank(3)?;
            let (indices, values) = (cx.input(1).with_rank(2)?, cx.input(2).with_rank(1)?);
            indices.sub(0, 1).merge(&values)?;
            let n = x.sub(1, 2).merge(&cx.input(3).with_rank(1)?)?.dim(0);
            Ok(vec![PartialShape::vector(n), x.with_dim(1, n)])
        })
        .gradient(|cx, dys| {
            let dy = cx.dense(dys, 0)?.expand_dims(-1)?;
            // The kernel gives the first derivative only.
            let stopped = cx
                .graph()
                .op("PreventGradient")
                .input(&cx.output(1)?)
                .attr("message", "the second derivative of ctc_loss is not implemented")
                .output()?;
            Ok(vec![Some(dy.times(&stopped)?.into()), None, None, None])
        })
        .cpu(|init| {
            let rules = Rules {
                collapse: init.attrs.bool("preprocess_collapse_repeated")?,
                merge: init.attrs.bool("ctc_merge_repeated")?,
                ignore_long: init.attrs.bool("ignore_longer_outputs_than_inputs")?,
            };
            dispatch!(init.input_types[0], T in [F32, F64] => {
                Ok(Box::new(Loss::<T> { rules, element: PhantomData }))
            }, else Err(init.no_kernel()))
        })
        .sample(|s| sample(s, true))
        .sample(|s| sample(s, false))
}

/// Only the loss is differentiated.
fn sample(s: &mut actorflow_core::op::Sampler, merge: bool) -> Result<actorflow_core::Operation> {
    let x = s.normal([4, 2, 3])?;
    let (at, labels, lengths) = (
        s.constant([[0i64, 0], [0, 1], [1, 0]])?,
        s.constant([1i32, 1, 0])?,
        s.constant([4i32, 3])?,
    );
    let b = s.op("CTCLoss").input(&x).input(&at).input(&labels).input(&lengths);
    let loss = b.attr("ctc_merge_repeated", merge).finish()?.output(0)?;
    s.op("Identity").input(&loss).finish()
}

register_ops!(ctc_loss);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Operation, Tensor};

    fn loss(labels: &[i32], length: i32, ignore: bool) -> Operation {
        let g = Graph::new();
        // Three frames of equal scores for the classes 0, 1 and the blank.
        let x = g
            .constant(Tensor::zeros(actorflow_core::DType::F64, [3, 1, 3]).unwrap())
            .unwrap();
        let places: Vec<i64> = (0..labels.len() as i64).flat_map(|i| [0, i]).collect();
        let at = g
            .constant(Tensor::from_slice([labels.len(), 2], &places).unwrap())
            .unwrap();
        let (labels, lengths) = (
            g.constant(Tensor::vector(labels)).unwrap(),
            g.constant([length]).unwrap(),
        );
        let b = g.op("CTCLoss").input(&x).input(&at).input(&labels).input(&lengths);
        b.attr("ignore_longer_outputs_than_inputs", ignore).finish().unwrap()
    }

    fn value(op: &Operation) -> f64 {
        eval(&op.output(0).unwrap()).to_vec::<f64>().unwrap()[0]
    }

    #[test]
    fn all_spellings_are_counted() {
        // `0` is spelled by 0--, -0-, --0, 00-, -00, 000; `0 1` by 001, 011, 0-1, 01-, -01; `0 0` only by 0-0.
        for (labels, count) in [(&[0][..], 6.0), (&[0, 1], 5.0), (&[0, 0], 1.0)] {
            let want = (27.0f64 / count).ln();
            assert!((value(&loss(labels, 3, false)) - want).abs() < 1e-12, "{labels:?}");
        }
    }

    #[test]
    fn what_cannot_be_spelled_is_infinite_or_refused() {
        assert_eq!(value(&loss(&[0, 0], 2, false)), f64::INFINITY);
        assert_eq!(
            fails(&loss(&[0, 1, 0], 2, false).output(0).unwrap()).code(),
            Code::InvalidArgument
        );
        assert_eq!(value(&loss(&[0, 1, 0], 2, true)), 0.0);
        for (labels, length) in [(&[-1][..], 3), (&[0], 4), (&[0], -1), (&[2, 0], 3)] {
            assert_eq!(
                fails(&loss(labels, length, false).output(0).unwrap()).code(),
                Code::InvalidArgument
            );
        }
    }
}
