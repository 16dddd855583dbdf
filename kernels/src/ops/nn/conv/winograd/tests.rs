//! Minimal filtering against sums written out.

use super::super::convolve;
use super::super::filter_grad;
use super::super::tests::{Workers, terms};
use super::*;
use crate::ops::nn::window::Axis;

/// A convolution of square filters over images of some extents.
fn geometry(batch: usize, [y, x]: [usize; 2], window: usize, before: usize, channels: [usize; 2]) -> Geometry {
    let axis = |input: usize, window: usize, before: usize| Axis {
        input,
        window,
        stride: 1,
        dilation: 1,
        before,
        output: input + 2 * before + 1 - window,
    };
    Geometry {
        batch,
        axes: [axis(1, 1, 0), axis(y, window, before), axis(x, window, before)],
        in_channels: channels[0],
        filter_channels: channels[0],
        out_channels: channels[1],
        groups: 1,
    }
}

/// Numbers between -1 and 1.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// A convolution's operands.
struct Case {
    g: Geometry,
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
}

/// What each side of a convolution gives: output, gradients of input and filter.
type Sides = [Vec<f32>; 3];

impl Case {
    fn new(g: Geometry) -> Case {
        let pixels = g.batch * g.axes[1].input * g.axes[2].input;
        Case {
            x: numbers(pixels * g.in_channels, 1),
            w: numbers(g.taps() * g.in_channels * g.out_channels, 2),
            dy: numbers(g.pixels() * g.out_channels, 3),
            g,
        }
    }

    /// The sums in double precision.
    fn exact(&self) -> [Vec<f64>; 3] {
        let zeros = |v: &[f32]| vec![0f64; v.len()];
        let (mut y, mut dx, mut dw) = (zeros(&self.dy), zeros(&self.x), zeros(&self.w));
        terms(&self.g, |i, k, o| {
            let (x, w, d) = (f64::from(self.x[i]), f64::from(self.w[k]), f64::from(self.dy[o]));
            y[o] += x * w;
            dx[i] += d * w;
            dw[k] += x * d;
        });
        [y, dx, dw]
    }

    /// By minimal filtering.
    fn fast(&self, device: &dyn Device) -> Sides {
        let g = &self.g;
        let forward = of_geometry(g).unwrap();
        let (mut y, mut dw) = (vec![f32::NAN; self.dy.len()], vec![f32::NAN; self.w.len()]);
        forward.run(device, &self.x, &self.w, Epilogue::NONE, &mut y).unwrap();
        forward.filter_grad(device, &self.x, &self.dy, &mut dw).unwrap();
        let views: Vec<View> = g.axes.iter().flat_map(View::backward).collect();
        let backward = Tiled::of(g.batch, [0, 1, 2].map(|i| &views[i]), g.out_channels, g.in_channels).unwrap();
        // The filter with its taps the other way round, each transposed.
        let each = g.in_channels * g.out_channels;
        let taps = self.w.chunks(each).rev();
        let turned: Vec<f32> = taps
            .flat_map(|t| (0..each).map(|i| t[i % g.in_channels * g.out_channels + i / g.in_channels]))
            .collect();
        let mut dx = vec![f32::NAN; self.x.len()];
        backward
            .run(device, &self.dy, &turned, Epilogue::NONE, &mut dx)
            .unwrap();
        [y, dx, dw]
    }

    /// As kernels do it.
    fn chosen(&self, device: &dyn Device) -> Sides {
        let g = &self.g;
        let (mut y, mut dx, mut dw) = (self.dy.clone(), self.x.clone(), self.w.clone());
        convolve::forward(device, g, &self.x, &self.w, Epilogue::NONE, &mut y).unwrap();
        convolve::backward(device, g, &self.dy, &self.w, &mut dx).unwrap();
        filter_grad::filter_grad(device, g, &self.x, &self.dy, &mut dw).unwrap();
        [y, dx, dw]
    }
}

/// The largest error, as a part of the root mean square of the values.
fn error(got: &[f32], exact: &[f64]) -> f64 {
    let size = (exact.iter().map(|e| e * e).sum::<f64>() / exact.len() as f64).sqrt();
    let each = got.iter().zip(exact).map(|(g, e)| (f64::from(*g) - e).abs());
    each.fold(0.0, f64::max) / size
}

#[test]
fn tiles_give_the_sums_of_all_sides_whatever_hangs_over() {
    for (extents, window, before) in [
        ([8, 8], 3, 1),
        ([7, 9], 3, 1),
        ([6, 5], 3, 0),
        ([3, 3], 3, 0),
        ([1, 2], 3, 1),
        ([10, 13], 3, 2),
        ([8, 8], 5, 2),
        ([7, 11], 5, 2),
        ([5, 6], 5, 0),
        ([1, 1], 5, 2),
        ([9, 4], 5, 1),
    ] {
        for (batch, channels) in [(1, [16, 16]), (2, [16, 16]), (3, [32, 16]), (20, [16, 48])] {
            let case = Case::new(geometry(batch, extents, window, before, channels));
            let fast = case.fast(&Workers::one());
            for (side, (got, exact)) in fast.iter().zip(case.exact()).enumerate() {
                let e = error(got, &exact);
                assert!(e < 4e-5, "side {side} of {:?}: {e}", case.g);
            }
            // Not a bit depends on who computes what.
            let bits = |s: &Sides| s.each_ref().map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            assert_eq!(bits(&case.fast(&Workers::several())), bits(&fast));
        }
    }
}

#[test]
fn large_ones_are_computed_so_and_their_errors_are_small() {
    for (window, extents, channels) in [(3, [16, 16], [64, 64]), (5, [14, 14], [32, 64])] {
        let case = Case::new(geometry(16, extents, window, window / 2, channels));
        let fits = of_geometry(&case.g).and_then(Tiled::if_worth_it);
        assert!(fits.is_some() || !is_on());
        let (chosen, exact) = (case.chosen(&Workers::one()), case.exact());
        if fits.is_some() {
            assert!(chosen == case.fast(&Workers::one()));
        }
        for (side, (got, exact)) in chosen.iter().zip(&exact).enumerate() {
            let e = error(got, exact);
            assert!(e < 6e-5, "side {side}, filter of {window}: {e}");
        }
    }
}

#[test]
fn bias_and_relu_follow_and_nan_is_not_hidden() {
    let mut case = Case::new(geometry(2, [6, 6], 3, 1, [16, 16]));
    let bias = numbers(16, 4);
    let tiled = of_geometry(&case.g).unwrap();
    let epilogue = |relu| Epilogue {
        bias: Some(&bias),
        relu,
    };
    let run = |x: &[f32], e: Epilogue<'_, f32>| {
        let mut y = vec![0.0; case.dy.len()];
        tiled.run(&Workers::one(), x, &case.w, e, &mut y).unwrap();
        y
    };
    let plain = run(&case.x, Epilogue::NONE);
    let (biased, rectified) = (run(&case.x, epilogue(false)), run(&case.x, epilogue(true)));
    for (i, y) in plain.iter().enumerate() {
        assert_eq!(biased[i], y + bias[i % 16]);
        assert_eq!(rectified[i], biased[i].max(0.0));
    }
    case.x[0] = f32::NAN;
    let x = case.x.clone();
    let y = run(&x, epilogue(true));
    assert!(y[..16].iter().all(|y| y.is_nan()));
    assert!(y[y.len() - 16..].iter().all(|y| !y.is_nan()));
}

#[test]
fn strides_other_filters_and_few_channels_are_left_to_others() {
    let fits = |change: &dyn Fn(&mut Geometry)| {
        let mut g = geometry(4, [16, 16], 3, 1, [32, 32]);
        change(&mut g);
        of_geometry(&g)
    };
    assert!(fits(&|_| ()).is_some());
    for (why, change) in [
        ("stride", (|g| g.axes[1].stride = 2) as fn(&mut Geometry)),
        ("dilation", |g| g.axes[2].dilation = 2),
        ("a filter of 3 by 5", |g| g.axes[2].window = 5),
        ("a filter of 7", |g| {
            g.axes.iter_mut().skip(1).for_each(|a| a.window = 7)
        }),
        ("three dimensions", |g| g.axes[0].window = 3),
        ("deep images", |g| {
            g.axes[0].input = 2;
            g.axes[0].output = 2;
        }),
        ("channels", |g| g.out_channels = 24),
        ("groups", |g| g.groups = 2),
        ("nothing", |g| g.axes[1].output = 0),
    ] {
        assert_eq!(fits(&change), None, "{why}");
    }
    // Nor does one take a lot of memory.
    assert_eq!(
        fits(&|g| (g.in_channels, g.filter_channels, g.out_channels) = (1024, 1024, 1024)).and_then(Tiled::if_worth_it),
        None
    );
    // Small ones keep the direct sum, and with it its bits.
    assert_eq!(fits(&|g| g.batch = 2).and_then(Tiled::if_worth_it), None);
    assert_eq!(fits(&|_| ()).and_then(Tiled::if_worth_summing), None);
}
