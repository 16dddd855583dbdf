//! Where the boxes of a drawing go: layers from top to bottom.
//!
//! The method of Sugiyama, Tagawa and Toda (1981): edges that close cycles are set aside, each vertex goes one layer
//! below its lowest producer, long edges get a bend in each layer that they cross, the order within layers is
//! improved by barycenters, and last the boxes are moved towards what they are connected to.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::picture::{Edge, Picture};

/// The space between neighbours in a layer and between layers.
const GAP: f64 = 18.0;
const LAYER_GAP: f64 = 46.0;
/// The height of a box.
pub(super) const HEIGHT: f64 = 34.0;
/// Bends of all edges together; once they are used up, edges are drawn straight.
const MAX_BENDS: usize = 100_000;
/// Sweeps over all layers; more change little.
const SWEEPS: usize = 8;

/// The drawing: boxes by their middle, edges by the points they pass through.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) boxes: Vec<(f64, f64)>,
    pub(super) paths: Vec<Vec<(f64, f64)>>,
    /// Which edges lead upwards: those that close loops.
    pub(super) upwards: Vec<bool>,
}

/// Lays out boxes of the given widths.
pub(super) fn layout(p: &Picture, widths: &[f64]) -> Layout {
    let n = p.vertices.len();
    let (order, upwards) = acyclic(n, &p.edges);
    let layer = layers(n, &p.edges, &upwards, &order);
    let mut net = Net::new(p, widths, &layer, &upwards);
    net.sort_layers();
    net.place();
    net.finish(p, &upwards)
}

/// An order of the vertices, and which edges go against it.
fn acyclic(n: usize, edges: &[Edge]) -> (Vec<usize>, Vec<bool>) {
    let mut pending = vec![0usize; n];
    let mut out: Vec<Vec<usize>> = vec![Vec::new(); n];
    for e in edges {
        pending[e.to] += 1;
        out[e.from].push(e.to);
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..n).filter(|i| pending[*i] == 0).map(Reverse).collect();
    let mut position = vec![usize::MAX; n];
    let mut order = Vec::with_capacity(n);
    let mut oldest = 0;
    while order.len() < n {
        let v = match ready.pop() {
            Some(Reverse(v)) => v,
            // Only cycles are left: begin with the first vertex of the file that is in one or below one.
            None => {
                while position[oldest] != usize::MAX {
                    oldest += 1;
                }
                oldest
            }
        };
        if position[v] != usize::MAX {
            continue;
        }
        position[v] = order.len();
        order.push(v);
        for &c in &out[v] {
            pending[c] = pending[c].saturating_sub(1);
            if pending[c] == 0 && position[c] == usize::MAX {
                ready.push(Reverse(c));
            }
        }
    }
    let upwards = edges.iter().map(|e| position[e.from] >= position[e.to]).collect();
    (order, upwards)
}

/// The layer of each vertex: below all producers; those without producers directly above their first consumer.
fn layers(n: usize, edges: &[Edge], upwards: &[bool], order: &[usize]) -> Vec<usize> {
    let down = || edges.iter().zip(upwards).filter(|(_, up)| !**up).map(|(e, _)| e);
    let mut out: Vec<Vec<usize>> = vec![Vec::new(); n];
    let mut has_input = vec![false; n];
    for e in down() {
        out[e.from].push(e.to);
        has_input[e.to] = true;
    }
    let mut layer = vec![0usize; n];
    for &v in order {
        for &c in &out[v] {
            layer[c] = layer[c].max(layer[v] + 1);
        }
    }
    for v in 0..n {
        if !has_input[v]
            && let Some(first) = out[v].iter().map(|c| layer[*c]).min()
        {
            layer[v] = first.saturating_sub(1);
        }
    }
    layer
}

/// Vertices and the bends of long edges, by layer.
struct Net {
    layers: Vec<Vec<usize>>,
    width: Vec<f64>,
    x: Vec<f64>,
    above: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
    /// For each edge the bends that it passes through, from its producer on.
    bends: Vec<Vec<usize>>,
    layer: Vec<usize>,
}

impl Net {
    fn new(p: &Picture, widths: &[f64], layer: &[usize], upwards: &[bool]) -> Net {
        let count = layer.iter().max().map_or(0, |m| m + 1);
        let mut net = Net {
            layers: vec![Vec::new(); count],
            width: widths.to_vec(),
            x: vec![0.0; widths.len()],
            above: vec![Vec::new(); widths.len()],
            below: vec![Vec::new(); widths.len()],
            bends: Vec::with_capacity(p.edges.len()),
            layer: layer.to_vec(),
        };
        for (v, l) in layer.iter().enumerate() {
            net.layers[*l].push(v);
        }
        let mut left = MAX_BENDS;
        for (e, up) in p.edges.iter().zip(upwards) {
            let (from, to) = (layer[e.from], layer[e.to]);
            let mut bends = Vec::new();
            if !up && to > from && to - from <= left {
                left -= to - from - 1;
                let mut last = e.from;
                for l in from + 1..to {
                    let b = net.width.len();
                    net.width.push(2.0);
                    net.x.push(0.0);
                    net.above.push(Vec::new());
                    net.below.push(Vec::new());
                    net.layer.push(l);
                    net.layers[l].push(b);
                    net.connect(last, b);
                    bends.push(b);
                    last = b;
                }
                net.connect(last, e.to);
            }
            net.bends.push(bends);
        }
        net
    }

    fn connect(&mut self, upper: usize, lower: usize) {
        self.below[upper].push(lower);
        self.above[lower].push(upper);
    }

    /// Orders each layer by the mean position of the neighbours in the layer before, downwards and upwards in turn.
    fn sort_layers(&mut self) {
        let mut rank = vec![0.0; self.width.len()];
        let rank_layer = |rank: &mut Vec<f64>, layer: &[usize]| {
            for (i, v) in layer.iter().enumerate() {
                rank[*v] = i as f64;
            }
        };
        for layer in &self.layers {
            rank_layer(&mut rank, layer);
        }
        for sweep in 0..SWEEPS {
            let down = sweep % 2 == 0;
            let count = self.layers.len();
            for i in 0..count {
                let l = if down { i } else { count - 1 - i };
                let neighbours = if down { &self.above } else { &self.below };
                let mut keyed: Vec<(f64, usize)> = self.layers[l]
                    .iter()
                    .map(|v| (mean(neighbours[*v].iter().map(|u| rank[*u])).unwrap_or(rank[*v]), *v))
                    .collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                self.layers[l] = keyed.into_iter().map(|(_, v)| v).collect();
                rank_layer(&mut rank, &self.layers[l]);
            }
        }
    }

    /// Gives each layer's members an x that is near their neighbours' without overlap.
    fn place(&mut self) {
        for l in 0..self.layers.len() {
            let mut at = 0.0;
            for v in self.layers[l].clone() {
                self.x[v] = at + self.width[v] / 2.0;
                at += self.width[v] + GAP;
            }
        }
        for sweep in 0..SWEEPS {
            let down = sweep % 2 == 0;
            let count = self.layers.len();
            for i in 0..count {
                let l = if down { i } else { count - 1 - i };
                self.place_layer(l, down, sweep + 2 >= SWEEPS);
            }
        }
    }

    fn place_layer(&mut self, l: usize, down: bool, both: bool) {
        let layer = std::mem::take(&mut self.layers[l]);
        let wanted: Vec<f64> = layer
            .iter()
            .map(|&v| {
                let near = if down { &self.above[v] } else { &self.below[v] };
                let far = if down { &self.below[v] } else { &self.above[v] };
                let all = near.iter().chain(if both { far.as_slice() } else { &[] });
                mean(all.map(|u| self.x[*u])).unwrap_or(self.x[v])
            })
            .collect();
        // The mean of a packing from the left and one from the right neither overlaps nor leans to a side.
        let step = |a: usize, b: usize| (self.width[layer[a]] + self.width[layer[b]]) / 2.0 + GAP;
        let mut left = wanted.clone();
        for i in 1..layer.len() {
            left[i] = left[i].max(left[i - 1] + step(i - 1, i));
        }
        let mut right = wanted;
        for i in (0..layer.len().saturating_sub(1)).rev() {
            right[i] = right[i].min(right[i + 1] - step(i, i + 1));
        }
        for (i, v) in layer.iter().enumerate() {
            self.x[*v] = (left[i] + right[i]) / 2.0;
        }
        self.layers[l] = layer;
    }

    fn finish(&self, p: &Picture, upwards: &[bool]) -> Layout {
        let n = p.vertices.len();
        let edge = |f: fn(f64, f64) -> f64, sign: f64, start: f64| {
            (0..self.x.len())
                .map(|v| self.x[v] + sign * self.width[v] / 2.0)
                .fold(start, f)
        };
        let (min, max) = match n {
            0 => (0.0, 0.0),
            _ => (edge(f64::min, -1.0, f64::MAX), edge(f64::max, 1.0, f64::MIN)),
        };
        let y = |v: usize| GAP + HEIGHT / 2.0 + self.layer[v] as f64 * (HEIGHT + LAYER_GAP);
        let x = |v: usize| self.x[v] - min + GAP;
        let paths = p
            .edges
            .iter()
            .zip(&self.bends)
            .map(|(e, bends)| {
                let start = (x(e.from), y(e.from) + HEIGHT / 2.0);
                let end = (x(e.to), y(e.to) - HEIGHT / 2.0);
                std::iter::once(start)
                    .chain(bends.iter().map(|b| (x(*b), y(*b))))
                    .chain([end])
                    .collect()
            })
            .collect();
        let layers = self.layers.len() as f64;
        Layout {
            width: max - min + 2.0 * GAP,
            height: layers * HEIGHT + (layers - 1.0).max(0.0) * LAYER_GAP + 2.0 * GAP,
            boxes: (0..n).map(|v| (x(v), y(v))).collect(),
            paths,
            upwards: upwards.to_vec(),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0usize), |(s, n), x| (s + x, n + 1));
    (n > 0).then(|| sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::picture;
    use super::*;

    fn lay(p: &Picture) -> Layout {
        layout(p, &vec![60.0; p.vertices.len()])
    }

    #[test]
    fn consumers_are_below_producers_and_boxes_do_not_overlap() {
        let p = picture(&[
            ("sum", "Add", &["left", "right", "x"]),
            ("left", "Neg", &["x"]),
            ("right", "Exp", &["left", "k"]),
            ("x", "Placeholder", &[]),
            ("k", "Const", &[]),
        ]);
        let l = lay(&p);
        for e in &p.edges {
            assert!(l.boxes[e.from].1 < l.boxes[e.to].1, "{e:?}");
        }
        for a in 0..5 {
            for b in 0..a {
                let (p, q) = (l.boxes[a], l.boxes[b]);
                assert!(p.1 != q.1 || (p.0 - q.0).abs() >= 60.0, "{a} {b}");
            }
            assert!(l.boxes[a].0 >= 30.0 && l.boxes[a].0 <= l.width - 30.0);
        }
        let k = l.boxes[4].1;
        assert_eq!(k, l.boxes[1].1, "a constant is drawn just above its consumer");
    }

    #[test]
    fn a_loop_has_one_edge_upwards() {
        let p = picture(&[
            ("enter", "Enter", &[]),
            ("merge", "Merge", &["enter", "next"]),
            ("next", "NextIteration", &["merge"]),
        ]);
        let l = lay(&p);
        assert_eq!(l.upwards.iter().filter(|u| **u).count(), 1);
        assert!(l.boxes[1].1 < l.boxes[2].1);
    }

    #[test]
    fn any_graph_can_be_laid_out() {
        assert!(lay(&picture(&[])).width > 0.0);
        let own = picture(&[("a", "X", &["a"]), ("b", "X", &["c"]), ("c", "X", &["b"])]);
        let l = lay(&own);
        assert!(l.boxes.iter().all(|b| b.0.is_finite() && b.1.is_finite()));
    }
}
