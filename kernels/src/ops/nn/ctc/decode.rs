//! `CTCGreedyDecoder`, `CTCBeamSearchDecoder`.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, dispatch, register_ops};

use super::{Frames, Score, log_add, log_softmax};

const NEVER: f64 = f64::NEG_INFINITY;

/// Lists of labels, one for each sequence, as a sparse matrix: indices, values, shape.
fn sparse(lists: &[Vec<usize>]) -> Result<[Tensor; 3]> {
    let mut indices = Vec::new();
    let mut values = Vec::new();
    for (b, list) in lists.iter().enumerate() {
        for (i, l) in list.iter().enumerate() {
            indices.extend([b as i64, i as i64]);
            values.push(*l as i64);
        }
    }
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    Ok([
        Tensor::from_slice([values.len(), 2], &indices)?,
        Tensor::from_slice([values.len()], &values)?,
        Tensor::vector(&[lists.len() as i64, longest as i64]),
    ])
}

struct Greedy<T> {
    merge: bool,
    blank: i64,
    element: PhantomData<fn() -> T>,
}

impl<T: Score> Kernel for Greedy<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let f = Frames::of(cx, 1, false)?;
        let classes = f.classes as i64;
        let blank = if self.blank < 0 {
            self.blank + classes
        } else {
            self.blank
        };
        if !(0..classes).contains(&blank) {
            return Err(Error::invalid(format!(
                "blank_index {} must be between -{classes} and {}",
                self.blank,
                classes - 1
            )));
        }
        let scores = cx.slice::<T>(0)?;
        let mut lists = Vec::new();
        let mut sums = Vec::new();
        for b in 0..f.batch {
            let (mut list, mut sum, mut last) = (Vec::new(), 0.0, None);
            for t in 0..f.lengths[b] {
                let frame = &scores[f.at(t, b)..][..f.classes];
                let (mut best, mut most) = (0, frame[0].to_f64());
                for (i, s) in frame.iter().enumerate() {
                    if s.to_f64() > most {
                        (best, most) = (i, s.to_f64());
                    }
                }
                sum -= most;
                if best as i64 != blank && !(self.merge && last == Some(best)) {
                    list.push(best);
                }
                last = Some(best);
            }
            lists.push(list);
            sums.push(T::of_f64(sum));
        }
        let sums = Tensor::from_slice([f.batch, 1], &sums)?;
        for (i, t) in sparse(&lists)?.into_iter().chain([sums]).enumerate() {
            cx.set_output(i, t);
        }
        Ok(())
    }
}

/// The logarithms of the probabilities of a beginning: with any last frame, with a blank, with its label.
#[derive(Clone, Copy)]
struct Chance {
    total: f64,
    blank: f64,
    label: f64,
}

const NONE: Chance = Chance {
    total: NEVER,
    blank: NEVER,
    label: NEVER,
};

/// A beginning of a decoded sequence: its parent and one more label.
struct Node {
    parent: Option<usize>,
    label: usize,
    /// First of its children, which lie together, one for each label.
    children: Option<usize>,
    old: Chance,
    new: Chance,
}

impl Node {
    fn active(&self) -> bool {
        self.new.total != NEVER
    }
}

/// The search of one sequence (Graves 2012, section 7.5.3).
struct Search {
    nodes: Vec<Node>,
    /// The beam: nodes, the best first.
    leaves: Vec<usize>,
    width: usize,
    classes: usize,
}

impl Search {
    fn new(width: usize, classes: usize) -> Search {
        let root = Node {
            parent: None,
            label: usize::MAX,
            children: None,
            old: NONE,
            new: Chance {
                total: 0.0,
                blank: 0.0,
                label: NEVER,
            },
        };
        Search {
            nodes: vec![root],
            leaves: vec![0],
            width,
            classes,
        }
    }

    /// Puts a node into the beam, whose worst drops out if it is full.
    fn push(&mut self, node: usize) {
        let total = self.nodes[node].new.total;
        let at = self.leaves.partition_point(|l| self.nodes[*l].new.total >= total);
        self.leaves.insert(at, node);
        self.leaves.truncate(self.width);
    }

    fn is_candidate(&self, c: Chance) -> bool {
        let worst = self.leaves.last().map_or(NEVER, |l| self.nodes[*l].new.total);
        c.total > NEVER && (self.leaves.len() < self.width || c.total > worst)
    }

    /// The first child of a node; a child for every class but the blank.
    fn children(&mut self, node: usize) -> usize {
        if let Some(c) = self.nodes[node].children {
            return c;
        }
        let first = self.nodes.len();
        self.nodes.extend((0..self.classes - 1).map(|label| Node {
            parent: Some(node),
            label,
            children: None,
            old: NONE,
            new: NONE,
        }));
        self.nodes[node].children = Some(first);
        first
    }

    /// Takes one frame of log-probabilities, the blank's last.
    fn step(&mut self, y: &[f64]) {
        let branches = std::mem::take(&mut self.leaves);
        for b in &branches {
            self.nodes[*b].old = self.nodes[*b].new;
        }
        for &b in &branches {
            let (label, mut new, old) = (self.nodes[b].label, self.nodes[b].new, self.nodes[b].old);
            if let Some(p) = self.nodes[b].parent {
                let parent = &self.nodes[p];
                if parent.active() {
                    let before = if label == parent.label {
                        parent.old.blank
                    } else {
                        parent.old.total
                    };
                    new.label = log_add(new.label, before);
                }
                new.label += y[label];
            }
            new.blank = old.total + y[self.classes - 1];
            new.total = log_add(new.blank, new.label);
            self.nodes[b].new = new;
            self.push(b);
        }
        for &b in &branches {
            if !self.is_candidate(self.nodes[b].old) {
                continue;
            }
            let first = self.children(b);
            for label in 0..self.classes - 1 {
                let child = first + label;
                if self.nodes[child].active() {
                    continue;
                }
                let parent = &self.nodes[b];
                let before = if label == parent.label {
                    parent.old.blank
                } else {
                    parent.old.total
                };
                let chance = before + y[label];
                let new = Chance {
                    total: chance,
                    blank: NEVER,
                    label: chance,
                };
                if self.is_candidate(new) {
                    if self.leaves.len() == self.width
                        && let Some(worst) = self.leaves.last()
                    {
                        // It leaves the beam and may come back as a new child.
                        let worst = *worst;
                        self.leaves.pop();
                        self.nodes[worst].new = NONE;
                    }
                    self.nodes[child].new = new;
                    self.push(child);
                } else {
                    (self.nodes[child].old, self.nodes[child].new) = (NONE, NONE);
                }
            }
        }
    }

    /// The labels of a node.
    fn path(&self, mut node: usize, merge: bool) -> Vec<usize> {
        let (mut list, mut last) = (Vec::new(), None);
        while let Some(parent) = self.nodes[node].parent {
            let label = self.nodes[node].label;
            if !merge || last != Some(label) {
                list.push(label);
            }
            last = Some(label);
            node = parent;
        }
        list.reverse();
        list
    }
}

struct Beam<T> {
    width: usize,
    paths: usize,
    merge: bool,
    element: PhantomData<fn() -> T>,
}

impl<T: Score> Kernel for Beam<T> {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let f = Frames::of(cx, 1, false)?;
        let scores = cx.slice::<T>(0)?;
        let mut lists = vec![Vec::with_capacity(f.batch); self.paths];
        let mut chances = Vec::new();
        let mut y = vec![0.0; f.classes];
        for b in 0..f.batch {
            let mut search = Search::new(self.width, f.classes);
            for t in 0..f.lengths[b] {
                log_softmax(&scores[f.at(t, b)..][..f.classes], &mut y);
                search.step(&y);
            }
            if search.leaves.len() < self.paths {
                return Err(Error::invalid(format!(
                    "less leaves in the beam search than requested: sequence {b} has {}, asked for are {}",
                    search.leaves.len(),
                    self.paths
                )));
            }
            for (k, l) in search.leaves.iter().take(self.paths).enumerate() {
                lists[k].push(search.path(*l, self.merge));
                chances.push(T::of_f64(search.nodes[*l].new.total));
            }
        }
        for (k, list) in lists.iter().enumerate() {
            for (part, t) in sparse(list)?.into_iter().enumerate() {
                cx.set_output(part * self.paths + k, t);
            }
        }
        let chances = Tensor::from_slice([f.batch, self.paths], &chances)?;
        cx.set_output(3 * self.paths, chances);
        Ok(())
    }
}

/// The number of sequences as far as it is known.
fn batch(cx: &actorflow_core::graph::ShapeContext<'_>) -> Result<Option<usize>> {
    let x = cx.input(0).with_rank(3)?;
    Ok(x.sub(1, 2).merge(&cx.input(1).with_rank(1)?)?.dim(0))
}

fn greedy() -> OpDef {
    OpDef::new("CTCGreedyDecoder", Category::Nn)
        .doc("The best label of every frame, without blanks, as a sparse matrix; and minus the sum of their scores.")
        .input("inputs: T")
        .input("sequence_length: int32")
        .output("decoded_indices: int64")
        .output("decoded_values: int64")
        .output("decoded_shape: int64")
        .output("log_probability: T")
        .attr("merge_repeated: bool = false")
        .attr("blank_index: int = -1")
        .attr("T: {float, double} = DT_FLOAT")
        .shape(|cx| {
            let n = batch(cx)?;
            Ok(vec![
                PartialShape::from([None, Some(2)]),
                PartialShape::vector(None),
                PartialShape::vector(Some(2)),
                PartialShape::from([n, Some(1)]),
            ])
        })
        .not_differentiable()
        .cpu(|init| {
            let (merge, blank) = (init.attrs.bool("merge_repeated")?, init.attrs.int("blank_index")?);
            dispatch!(init.input_types[0], T in [F32, F64] => {
                Ok(Box::new(Greedy::<T> { merge, blank, element: PhantomData }))
            }, else Err(init.no_kernel()))
        })
}

fn beam_search() -> OpDef {
    OpDef::new("CTCBeamSearchDecoder", Category::Nn)
        .doc("The likeliest sequences of labels, as sparse matrices, and the logarithms of their probabilities.")
        .input("inputs: T")
        .input("sequence_length: int32")
        .output("decoded_indices: top_paths * int64")
        .output("decoded_values: top_paths * int64")
        .output("decoded_shape: top_paths * int64")
        .output("log_probability: T")
        .attr("beam_width: int >= 1")
        .attr("top_paths: int >= 1")
        .attr("merge_repeated: bool = true")
        .attr("T: {float, double} = DT_FLOAT")
        .shape(|cx| {
            let n = batch(cx)?;
            let paths = cx.num_outputs() / 3;
            let mut all = vec![PartialShape::from([None, Some(2)]); paths];
            all.resize(2 * paths, PartialShape::vector(None));
            all.resize(3 * paths, PartialShape::vector(Some(2)));
            all.push(PartialShape::from([n, Some(paths)]));
            Ok(all)
        })
        .not_differentiable()
        .cpu(|init| {
            let number = |name: &str| -> Result<usize> {
                let n = init.attrs.int(name)?;
                usize::try_from(n).map_err(|_| Error::invalid(format!("{name} must be positive, got {n}")))
            };
            let (width, paths) = (number("beam_width")?, number("top_paths")?);
            let merge = init.attrs.bool("merge_repeated")?;
            dispatch!(init.input_types[0], T in [F32, F64] => {
                Ok(Box::new(Beam::<T> { width, paths, merge, element: PhantomData }))
            }, else Err(init.no_kernel()))
        })
}

register_ops!(greedy, beam_search);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::{Graph, Operation};

    /// Two frames in which the blank is likeliest, but one label all in all.
    fn frames(g: &Graph) -> [actorflow_core::Output; 2] {
        let p = [0.4f64.ln(), 0.0001f64.ln(), 0.5999f64.ln()];
        let x = Tensor::from_slice([2, 1, 3], &[p, p].concat()).unwrap();
        [g.constant(x).unwrap(), g.constant([2i32]).unwrap()]
    }

    fn values(op: &Operation, i: usize) -> Vec<i64> {
        eval(&op.output(i).unwrap()).to_vec().unwrap()
    }

    #[test]
    fn the_beam_finds_what_greed_misses() {
        let g = Graph::new();
        let [x, n] = frames(&g);
        let greedy = g.op("CTCGreedyDecoder").input(&x).input(&n).finish().unwrap();
        assert_eq!((values(&greedy, 1), values(&greedy, 2)), (vec![], vec![1, 0]));
        let b = g
            .op("CTCBeamSearchDecoder")
            .input(&x)
            .input(&n)
            .attr("beam_width", 4i64);
        let beam = b.attr("top_paths", 2i64).finish().unwrap();
        assert_eq!((values(&beam, 2), values(&beam, 3)), (vec![0], vec![]));
        assert_eq!((values(&beam, 4), values(&beam, 5)), (vec![1, 1], vec![1, 0]));
        let p: Vec<f64> = eval(&beam.output(6).unwrap()).to_vec().unwrap();
        let want = [0.4f64 * 0.4 + 2.0 * 0.4 * 0.5999, 0.5999 * 0.5999];
        assert!(p.iter().zip(want).all(|(p, w)| (p.exp() - w).abs() < 1e-9), "{p:?}");
    }

    #[test]
    fn repeated_labels_are_merged_if_asked_for() {
        let g = Graph::new();
        let x = Tensor::from_slice([3, 1, 2], &[5f32, 0., 5., 0., 0., 5.]).unwrap();
        let (x, n) = (g.constant(x).unwrap(), g.constant([3i32]).unwrap());
        let run = |merge: bool| {
            let b = g
                .op("CTCGreedyDecoder")
                .input(&x)
                .input(&n)
                .attr("merge_repeated", merge);
            values(&b.finish().unwrap(), 1)
        };
        assert_eq!((run(true), run(false)), (vec![0], vec![0, 0]));
    }
}
