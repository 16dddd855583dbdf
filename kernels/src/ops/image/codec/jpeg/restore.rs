//! From coefficients to pixels, bit for bit as the Independent JPEG Group's library computes them: transforms in integers, in
//! full size or reduced, colours scaled up by triangles or by repetition.
#![forbid(unsafe_code)]

use super::file::{Coefficients, Plane};

/// Fixed-point numbers of the transforms.
const BITS: u32 = 13;
const MORE: u32 = 2;
const fn fixed(x: f64) -> i64 {
    (x * (1 << BITS) as f64 + if x < 0.0 { -0.5 } else { 0.5 }) as i64
}

fn rounded(x: i64, bits: u32) -> i64 {
    (x + (1 << (bits - 1))) >> bits
}

/// One dimension of the transform to 8 values, not yet rounded.
fn eight(v: [i64; 8]) -> [i64; 8] {
    let z = (v[2] + v[6]) * fixed(0.541196100);
    let (t2, t3) = (z - v[6] * fixed(1.847759065), z + v[2] * fixed(0.765366865));
    let (t0, t1) = ((v[0] + v[4]) << BITS, (v[0] - v[4]) << BITS);
    let even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3];
    let (z1, z2, z3, z4) = (v[7] + v[1], v[5] + v[3], v[7] + v[3], v[5] + v[1]);
    let z5 = (z3 + z4) * fixed(1.175875602);
    let (z1, z2) = (-z1 * fixed(0.899976223), -z2 * fixed(2.562915447));
    let (z3, z4) = (z5 - z3 * fixed(1.961570560), z5 - z4 * fixed(0.390180644));
    let odd = [
        v[1] * fixed(1.501321110) + z1 + z4,
        v[3] * fixed(3.072711026) + z2 + z3,
        v[5] * fixed(2.053119869) + z2 + z4,
        v[7] * fixed(0.298631336) + z1 + z3,
    ];
    std::array::from_fn(|i| {
        if i < 4 {
            even[i] + odd[i]
        } else {
            even[7 - i] - odd[7 - i]
        }
    })
}

/// Arai's, Agui's and Nakajima's transform to 8 values (Transactions of the IEICE, 1988) in numbers of few bits, of which
/// what is cut off is not rounded; of inputs that were scaled by [`quick_factor`].
fn quick(v: [i64; 8]) -> [i64; 8] {
    let times = |x: i64, by: i64| (x * by) >> 8;
    let (sum, difference) = (v[0] + v[4], v[0] - v[4]);
    let middle = v[2] + v[6];
    let turned = times(v[2] - v[6], 362) - middle;
    let even = [sum + middle, difference + turned, difference - turned, sum - middle];
    let (z10, z11, z12, z13) = (v[5] - v[3], v[1] + v[7], v[1] - v[7], v[5] + v[3]);
    let z5 = times(z10 + z12, 473);
    let t7 = z11 + z13;
    let t6 = times(z10, -669) + z5 - t7;
    let t5 = times(z11 - z13, 362) - t6;
    let t4 = times(z12, 277) - z5 + t5;
    let odd = [t7, t6, t5, -t4];
    std::array::from_fn(|i| {
        if i < 4 {
            even[i] + odd[i]
        } else {
            even[7 - i] - odd[7 - i]
        }
    })
}

/// The scale of a coefficient for [`quick`], times its divisor, with two bits for fractions.
fn quick_factor(i: usize, divisor: u16) -> i64 {
    let scale = |k: usize| match k {
        0 => 1.0,
        k => (k as f64 * std::f64::consts::PI / 16.0).cos() * std::f64::consts::SQRT_2,
    };
    let scale = (scale(i / 8) * scale(i % 8) * 16384.0).round() as i64;
    rounded(i64::from(divisor) * scale, 12)
}

/// The samples of a block in full size by [`quick`].
fn quick_samples(block: &[i16; 64], factors: &[i64; 64], mut put: impl FnMut(usize, usize, u8)) {
    let mut half = [[0; 8]; 8];
    for x in 0..8 {
        let column = quick(std::array::from_fn(|y| {
            i64::from(block[8 * y + x]) * factors[8 * y + x]
        }));
        (0..8).for_each(|y| half[y][x] = column[y]);
    }
    for (y, row) in half.iter().enumerate() {
        let row = quick(*row);
        (0..8).for_each(|x| put(x, y, ((row[x] >> (MORE + 3)) + 128).clamp(0, 255) as u8));
    }
}

/// The same to 4 values, with one more bit.
fn four(v: [i64; 8]) -> [i64; 8] {
    let t0 = v[0] << (BITS + 1);
    let t2 = v[2] * fixed(1.847759065) - v[6] * fixed(0.765366865);
    let (even, odd) = (
        (t0 + t2, t0 - t2),
        (
            v[5] * fixed(1.451774981) - v[7] * fixed(0.211164243) - v[3] * fixed(2.172734803)
                + v[1] * fixed(1.061594337),
            v[3] * fixed(0.899976223) - v[7] * fixed(0.509795579) - v[5] * fixed(0.601344887)
                + v[1] * fixed(2.562915447),
        ),
    );
    [
        even.0 + odd.1,
        even.1 + odd.0,
        even.1 - odd.0,
        even.0 - odd.1,
        0,
        0,
        0,
        0,
    ]
}

/// The same to 2 values, with two more bits.
fn two(v: [i64; 8]) -> [i64; 8] {
    let even = v[0] << (BITS + 2);
    let odd =
        v[5] * fixed(0.850430095) - v[7] * fixed(0.720959822) - v[3] * fixed(1.272758580) + v[1] * fixed(3.624509785);
    [even + odd, even - odd, 0, 0, 0, 0, 0, 0]
}

/// A block's samples, `side` by `side`.
fn samples(block: &[i16; 64], factors: &[u16; 64], side: usize, mut put: impl FnMut(usize, usize, u8)) {
    let value = |i: usize| i64::from(block[i]) * i64::from(factors[i]);
    let clamped = |x: i64| (x + 128).clamp(0, 255) as u8;
    let (line, extra): (fn([i64; 8]) -> [i64; 8], u32) = match side {
        8 => (eight, 0),
        4 => (four, 1),
        2 => (two, 2),
        _ => return put(0, 0, clamped(rounded(value(0), 3))),
    };
    let mut half = [[0; 8]; 8];
    for x in 0..8 {
        let column = line(std::array::from_fn(|y| value(8 * y + x)));
        (0..side).for_each(|y| half[y][x] = rounded(column[y], BITS - MORE + extra));
    }
    for (y, row) in half.iter().enumerate().take(side) {
        let row = line(*row);
        (0..side).for_each(|x| put(x, y, clamped(rounded(row[x], BITS + MORE + 3 + extra))));
    }
}

/// An 8-bit plane without what fills up its blocks.
struct Samples {
    width: usize,
    height: usize,
    values: Vec<u8>,
}

impl Samples {
    fn of(plane: &Plane, side: usize, [width, height]: [usize; 2], accurate: bool) -> Samples {
        let mut values = vec![0; width * height];
        let scaled: [i64; 64] = std::array::from_fn(|i| quick_factor(i, plane.factors[i]));
        for (y, row) in plane.blocks.chunks(plane.stride).take(plane.high).enumerate() {
            for (x, block) in row[..plane.wide].iter().enumerate() {
                let put = |u, v, s| {
                    let (u, v) = (x * side + u, y * side + v);
                    if u < width && v < height {
                        values[v * width + u] = s;
                    }
                };
                match side == 8 && !accurate {
                    true => quick_samples(block, &scaled, put),
                    false => samples(block, &plane.factors, side, put),
                }
            }
        }
        Samples { width, height, values }
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.values[y * self.width..][..self.width]
    }

    /// Each row and each sample `times` and `down` times.
    fn repeated(&self, times: usize, down: usize) -> Samples {
        let rows = (0..self.height * down).map(|y| self.row(y / down));
        let values = rows.flat_map(|row| row.iter().flat_map(|s| std::iter::repeat_n(*s, times)));
        Samples {
            width: self.width * times,
            height: self.height * down,
            values: values.collect(),
        }
    }

    /// Twice as high, and twice as wide if `wide`: three parts of the nearer sample and one of the farther, in each direction.
    fn smoothed(&self, wide: bool, high: bool) -> Samples {
        let mut values = Vec::with_capacity(self.values.len() * 4);
        for y in 0..self.height {
            let near = self.row(y);
            if !high {
                let row: Vec<u32> = near.iter().map(|s| u32::from(*s)).collect();
                widened(&row, [1, 2], 4, &mut values);
                continue;
            }
            for (below, bias) in [(false, 1), (true, 2)] {
                let far = self.row(match below {
                    true => (y + 1).min(self.height - 1),
                    false => y.saturating_sub(1),
                });
                let sums = near.iter().zip(far).map(|(n, f)| 3 * u32::from(*n) + u32::from(*f));
                match wide {
                    true => widened(&sums.collect::<Vec<_>>(), [8, 7], 16, &mut values),
                    false => values.extend(sums.map(|s| ((s + bias) >> 2) as u8)),
                }
            }
        }
        Samples {
            width: self.width * (1 + usize::from(wide)),
            height: self.height * (1 + usize::from(high)),
            values,
        }
    }
}

/// A row twice as wide: three parts of the nearer and one of the farther of its numbers, which are `whole / 4` times too large.
fn widened(row: &[u32], [left, right]: [u32; 2], whole: u32, out: &mut Vec<u8>) {
    for (i, x) in row.iter().enumerate() {
        let part = |other: Option<&u32>, bias: u32| {
            let other = other.unwrap_or(x);
            ((3 * x + other + bias) / whole) as u8
        };
        out.push(part(i.checked_sub(1).map(|i| &row[i]), left));
        out.push(part(row.get(i + 1), right));
    }
}

/// The pixels `[height, width, channels]` of an image that is made `ratio` times smaller, a power of two to 8; of brightness
/// only, or as red, green and blue; `fancy` scales colours up smoothly, `accurate` takes the slower of two transforms.
pub(crate) fn pixels(
    image: &Coefficients,
    ratio: usize,
    channels: usize,
    [fancy, accurate]: [bool; 2],
) -> ([usize; 2], Vec<u8>) {
    let least = 8 / ratio;
    let [height, width] = [image.height.div_ceil(ratio), image.width.div_ceil(ratio)];
    let most = |f: fn(&Plane) -> usize| image.planes.iter().map(f).max().unwrap_or(1);
    let (widest, highest) = (most(|p| p.h), most(|p| p.v));
    let wanted = if channels == 1 { 1 } else { image.planes.len() };
    let planes: Vec<Samples> = image.planes[..wanted]
        .iter()
        .map(|p| {
            // Colours are scaled up by their transforms as far as it goes.
            let mut side = least;
            while side < 8
                && (widest * least).is_multiple_of(p.h * side * 2)
                && (highest * least).is_multiple_of(p.v * side * 2)
            {
                side *= 2;
            }
            let extent = |n: usize, own: usize, all: usize| (n * own * side).div_ceil(all * 8);
            let size = [extent(image.width, p.h, widest), extent(image.height, p.v, highest)];
            let plane = Samples::of(p, side, size, accurate);
            let (across, down) = (widest * least / (p.h * side), highest * least / (p.v * side));
            let smooth = fancy && least > 1;
            match (across, down) {
                (1, 1) => plane,
                (2, 1) if smooth && plane.width > 2 => plane.smoothed(true, false),
                (1, 2) if smooth => plane.smoothed(false, true),
                (2, 2) if smooth && plane.width > 2 => plane.smoothed(true, true),
                _ => plane.repeated(across, down),
            }
        })
        .collect();
    let mut out = Vec::with_capacity(height * width * channels);
    for y in 0..height {
        if wanted == 1 {
            let row = &planes[0].row(y)[..width];
            row.iter().for_each(|s| out.extend(std::iter::repeat_n(*s, channels)));
            continue;
        }
        for x in 0..width {
            out.extend(colour([0, 1, 2].map(|i| planes[i].row(y)[x])));
        }
    }
    ([height, width], out)
}

/// Red, green and blue of brightness and two differences.
fn colour([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const fn fixed(x: f64) -> i32 {
        (x * 65536.0 + 0.5) as i32
    }
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let r = y + ((fixed(1.40200) * cr + HALF) >> 16);
    let g = y + ((HALF - fixed(0.34414) * cb - fixed(0.71414) * cr) >> 16);
    let b = y + ((fixed(1.77200) * cb + HALF) >> 16);
    [r, g, b].map(|x| x.clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_of_every_size_keep_the_mean_and_clamp() {
        let factors = [4; 64];
        for side in [1, 2, 4, 8] {
            for (mean, want) in [(20, 138), (-300, 0), (900, 255)] {
                let mut block = [0; 64];
                block[0] = mean;
                let mut seen = Vec::new();
                samples(&block, &factors, side, |_, _, s| seen.push(s));
                assert_eq!(seen, vec![want; side * side], "{side} {mean}");
            }
        }
    }

    #[test]
    fn the_full_transform_is_the_cosine_transform() {
        let block: [i16; 64] = std::array::from_fn(|i| if i % 7 == 0 { 40 - i as i16 } else { 0 });
        samples(&block, &[3; 64], 8, |x, y, s| {
            let scale = |k: usize| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
            let angle = |x: usize, k: usize| ((2 * x + 1) * k) as f64 * std::f64::consts::PI / 16.0;
            let sum: f64 = (0..64)
                .map(|i| {
                    let (v, u) = (i / 8, i % 8);
                    3.0 * f64::from(block[i]) * scale(u) * scale(v) * angle(x, u).cos() * angle(y, v).cos()
                })
                .sum();
            let want = (sum / 4.0 + 128.0).clamp(0.0, 255.0);
            assert!((want - f64::from(s)).abs() < 1.0, "{x} {y}: {want} {s}");
        });
    }

    #[test]
    fn planes_are_widened_by_three_parts_of_the_nearer_sample() {
        let plane = Samples {
            width: 3,
            height: 2,
            values: vec![0, 40, 80, 100, 100, 100],
        };
        let wide = plane.smoothed(true, false);
        assert_eq!(wide.row(0), [0, 10, 30, 50, 70, 80]);
        let high = plane.smoothed(false, true);
        assert_eq!((high.width, high.height, high.row(1)), (3, 4, &[25, 55, 85][..]));
        let both = plane.smoothed(true, true);
        assert_eq!(
            (both.width, both.height, both.row(0)),
            (6, 4, &[0, 10, 30, 50, 70, 80][..])
        );
        assert_eq!(plane.repeated(2, 1).row(0), [0, 0, 40, 40, 80, 80]);
    }
}
