//! What every resampling of an image along one axis is: for each output a list of inputs and their weights.
#![forbid(unsafe_code)]

/// The inputs and weights of every output along one axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taps {
    /// Where each output's list begins, and the end.
    starts: Vec<usize>,
    list: Vec<(usize, f32)>,
    /// Inputs along the axis.
    pub(super) inputs: usize,
}

/// Where samples are taken: TensorFlow's three conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Centers {
    /// Pixels are points at their indices, and the grid's origins coincide.
    Legacy,
    /// The first and the last pixels coincide.
    Aligned,
    /// Pixels are squares whose centres are at half numbers.
    Half,
}

/// Inputs for each output, as a factor.
fn scale(centers: Centers, input: usize, output: usize) -> f32 {
    match centers {
        Centers::Aligned if output > 1 => (input as f32 - 1.0) / (output as f32 - 1.0),
        _ => input as f32 / output as f32,
    }
}

impl Centers {
    fn sample(self, o: usize, scale: f32) -> f32 {
        match self {
            Centers::Half => (o as f32 + 0.5) * scale - 0.5,
            _ => o as f32 * scale,
        }
    }
}

impl Taps {
    /// Lists for `outputs` outputs, written by `write`; weights of zero are left out.
    pub(super) fn build(inputs: usize, outputs: usize, mut write: impl FnMut(usize, &mut Vec<(usize, f32)>)) -> Taps {
        let mut starts = Vec::with_capacity(outputs + 1);
        let mut list = Vec::new();
        let mut own = Vec::new();
        for o in 0..outputs {
            starts.push(list.len());
            own.clear();
            write(o, &mut own);
            list.extend(own.iter().filter(|(_, w)| *w != 0.0));
        }
        starts.push(list.len());
        Taps { starts, list, inputs }
    }

    /// The list of output `o`.
    pub(super) fn of(&self, o: usize) -> &[(usize, f32)] {
        &self.list[self.starts[o]..self.starts[o + 1]]
    }

    /// Outputs along the axis.
    pub(super) fn outputs(&self) -> usize {
        self.starts.len() - 1
    }

    /// The adjoint: for each input the outputs that take it.
    pub(super) fn turned(&self) -> Taps {
        let mut lists = vec![Vec::new(); self.inputs];
        for o in 0..self.outputs() {
            for (i, w) in self.of(o) {
                lists[*i].push((o, *w));
            }
        }
        Taps::build(self.outputs(), self.inputs, |i, list| list.append(&mut lists[i]))
    }

    /// Linear interpolation between the two nearest inputs.
    pub(super) fn linear(centers: Centers, inputs: usize, outputs: usize) -> Taps {
        let scale = scale(centers, inputs, outputs);
        Taps::build(inputs, outputs, |o, list| {
            let at = centers.sample(o, scale);
            let floor = at.floor();
            let upper = (at.ceil().max(0.0) as usize).min(inputs - 1);
            let lower = (floor.max(0.0) as usize).min(upper);
            let part = at - floor;
            if lower == upper {
                list.push((lower, 1.0));
            } else {
                list.extend([(lower, 1.0 - part), (upper, part)]);
            }
        })
    }

    /// The nearest input.
    pub(super) fn nearest(centers: Centers, inputs: usize, outputs: usize) -> Taps {
        let scale = scale(centers, inputs, outputs);
        Taps::build(inputs, outputs, |o, list| {
            let at = match centers {
                Centers::Half => ((o as f32 + 0.5) * scale).floor(),
                Centers::Aligned => (o as f32 * scale).round(),
                Centers::Legacy => (o as f32 * scale).floor(),
            };
            list.push(((at.max(0.0) as usize).min(inputs - 1), 1.0));
        })
    }

    /// Cubic convolution: Keys' kernel with half centres, else a sharper one.
    pub(super) fn cubic(centers: Centers, inputs: usize, outputs: usize) -> Taps {
        let scale = scale(centers, inputs, outputs);
        let keys = centers == Centers::Half;
        let kernel = Cubic::new(if keys { -0.5 } else { -0.75 });
        let limit = inputs as i64 - 1;
        Taps::build(inputs, outputs, |o, list| {
            let at = centers.sample(o, scale);
            let floor = at.floor();
            let weights = kernel.weights(at - floor);
            let first = floor as i64 - 1;
            let mut sum = 0.0;
            for (i, w) in (first..).zip(weights) {
                let inside = i.clamp(0, limit);
                // Keys' kernel leaves out what is outside, the other repeats the edge.
                let w = if keys && inside != i { 0.0 } else { w };
                sum += w;
                list.push((inside as usize, w));
            }
            if keys && sum.abs() >= 1000.0 * f32::MIN_POSITIVE {
                list.iter_mut().for_each(|(_, w)| *w /= sum);
            }
        })
    }

    /// The mean over the stretch of input that an output covers.
    pub(super) fn area(centers: Centers, inputs: usize, outputs: usize) -> Taps {
        let scale = scale(centers, inputs, outputs);
        Taps::build(inputs, outputs, |o, list| {
            let (from, to) = (o as f32 * scale, (o + 1) as f32 * scale);
            for i in from.floor() as usize..to.ceil() as usize {
                let at = i as f32;
                let covered = match (at < from, at + 1.0 > to) {
                    (true, true) => scale,
                    (true, false) => at + 1.0 - from,
                    (false, true) => to - at,
                    (false, false) => 1.0,
                };
                list.push((i.min(inputs - 1), covered / scale));
            }
            if scale == 0.0 {
                // One row of inputs that begins where it ends.
                list.push((0, f32::NAN));
            }
        })
    }
}

/// The cubic convolution kernel, tabulated as TensorFlow does.
struct Cubic {
    table: Vec<(f32, f32)>,
}

/// Steps between two pixels.
const STEPS: usize = 1024;

impl Cubic {
    /// With parameter `a` (Keys 1981).
    fn new(a: f32) -> Cubic {
        let table = (0..=STEPS)
            .map(|i| {
                let x = i as f32 / STEPS as f32;
                let near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
                let x = x + 1.0;
                (near, ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a)
            })
            .collect();
        Cubic { table }
    }

    /// The weights of the four pixels around a sample that lies `part` behind the second of them.
    fn weights(&self, part: f32) -> [f32; 4] {
        let offset = (part * STEPS as f32).round_ties_even() as usize;
        let (a, b) = (self.table[offset.min(STEPS)], self.table[STEPS - offset.min(STEPS)]);
        [a.1, a.0, b.0, b.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_an_interpolation_add_up_to_one() {
        for centers in [Centers::Legacy, Centers::Aligned, Centers::Half] {
            for (n, m) in [(1, 1), (1, 5), (5, 1), (4, 7), (7, 4), (5, 5)] {
                for taps in [
                    Taps::linear(centers, n, m),
                    Taps::nearest(centers, n, m),
                    Taps::cubic(centers, n, m),
                ] {
                    for o in 0..m {
                        let sum: f32 = taps.of(o).iter().map(|t| t.1).sum();
                        assert!((sum - 1.0).abs() < 1e-5, "{centers:?} {n} {m}");
                    }
                    assert_eq!(taps.turned().turned().outputs(), m);
                }
            }
        }
    }

    #[test]
    fn samples_lie_where_the_convention_says() {
        assert_eq!(Taps::linear(Centers::Legacy, 2, 4).of(1), [(0, 0.5), (1, 0.5)]);
        assert_eq!(Taps::linear(Centers::Half, 2, 4).of(1), [(0, 0.75), (1, 0.25)]);
        assert_eq!(Taps::linear(Centers::Aligned, 2, 3).of(1), [(0, 0.5), (1, 0.5)]);
        assert_eq!(Taps::nearest(Centers::Aligned, 3, 2).of(1), [(2, 1.0)]);
        assert_eq!(Taps::area(Centers::Legacy, 4, 2).of(1), [(2, 0.5), (3, 0.5)]);
    }

    #[test]
    fn the_adjoint_lists_who_takes_an_input() {
        let t = Taps::linear(Centers::Legacy, 2, 4).turned();
        assert_eq!(t.of(0), [(0, 1.0), (1, 0.5)]);
        assert_eq!(t.of(1), [(1, 0.5), (2, 1.0), (3, 1.0)]);
    }
}
