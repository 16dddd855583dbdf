//! From pixels to quantised coefficients, bit for bit as the Independent JPEG Group's library computes them: colours in
//! fixed point, halving by averages, and Loeffler's, Ligtenberg's and Moschytz's transform (ICASSP 1989) in integers.
#![forbid(unsafe_code)]

/// The samples on a side of a block.
pub(super) const SIDE: usize = 8;

/// A block's coefficients, in zigzag order.
pub(super) type Block = [i16; SIDE * SIDE];

/// Where the elements of the zigzag order are in a block.
#[rustfmt::skip]
pub(super) const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The standard's divisors for brightness and for colour, ISO/IEC 10918-1, tables K.1 and K.2.
#[rustfmt::skip]
const DIVISORS: [[u16; 64]; 2] = [
    [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
        18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
    ],
    [
        17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
        99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    ],
];

/// The divisors of a quality from 1 (least) to 100: for brightness and for colour, in the order of blocks.
pub(super) fn divisors(quality: u32) -> [[u16; 64]; 2] {
    let quality = quality.clamp(1, 100);
    let percent = if quality < 50 {
        5000 / quality
    } else {
        200 - 2 * quality
    };
    DIVISORS.map(|table| table.map(|d| ((u32::from(d) * percent + 50) / 100).clamp(1, 255) as u16))
}

/// One component: its blocks, in rows.
pub(super) struct Component {
    /// Blocks of a unit of interleaved components, horizontally and vertically.
    pub(super) unit: usize,
    /// Blocks that the image covers.
    pub(super) wide: usize,
    pub(super) high: usize,
    /// Blocks of a row with those that fill up the last unit.
    pub(super) stride: usize,
    pub(super) blocks: Vec<Block>,
}

/// An 8-bit plane.
struct Plane {
    width: usize,
    height: usize,
    samples: Vec<u8>,
}

impl Plane {
    /// The sample, of which the last column and row go on for ever.
    fn at(&self, x: usize, y: usize) -> u8 {
        self.samples[y.min(self.height - 1) * self.width + x.min(self.width - 1)]
    }

    /// Half as many samples in each direction: averages of four that are rounded down and up in turn.
    fn halved(&self, width: usize) -> Plane {
        let height = self.height.div_ceil(2);
        let mut samples = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                let (x, y, bias) = (2 * x, 2 * y, 1 + x as u32 % 2);
                let four = [(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)];
                let sum: u32 = four.iter().map(|(x, y)| u32::from(self.at(*x, *y))).sum();
                samples.push(((sum + bias) >> 2) as u8);
            }
        }
        Plane { width, height, samples }
    }

    /// The plane's blocks, for units of `unit` by `unit` blocks.
    fn component(&self, divisors: &[u16; 64], unit: usize, [wide, high]: [usize; 2]) -> Component {
        let stride = wide.next_multiple_of(unit);
        let mut blocks = vec![[0; 64]; stride * high.next_multiple_of(unit)];
        for (y, row) in blocks.chunks_mut(stride).enumerate() {
            if y < high {
                for (x, block) in row[..wide].iter_mut().enumerate() {
                    *block = self.block(x, y, divisors);
                }
                // What fills up the unit costs least if it is as bright as its neighbour.
                let last = row[wide - 1][0];
                row[wide..].iter_mut().for_each(|b| b[0] = last);
            }
        }
        for y in high..blocks.len() / stride {
            for x in 0..stride {
                let above = (y - 1) * stride + x / unit * unit + unit - 1;
                blocks[y * stride + x][0] = blocks[above][0];
            }
        }
        Component {
            unit,
            wide,
            high,
            stride,
            blocks,
        }
    }

    fn block(&self, x: usize, y: usize, divisors: &[u16; 64]) -> Block {
        let mut values: [i32; 64] =
            std::array::from_fn(|i| i32::from(self.at(x * SIDE + i % SIDE, y * SIDE + i / SIDE)) - 128);
        transform(&mut values);
        std::array::from_fn(|k| {
            let at = ZIGZAG[k];
            // The transform's results are 8 times too large.
            let divisor = i32::from(divisors[at]) * 8;
            let rounded = (values[at].abs() + divisor / 2) / divisor;
            (rounded * values[at].signum()) as i16
        })
    }
}

/// Fixed-point numbers of the transform.
const BITS: u32 = 13;
const fn fixed(x: f64) -> i32 {
    (x * (1 << BITS) as f64 + 0.5) as i32
}

fn rounded(x: i32, bits: u32) -> i32 {
    (x + (1 << (bits - 1))) >> bits
}

/// One dimension of the transform: eight values `step` apart. The first pass keeps two more bits than the second.
fn transform_line(v: &mut [i32], step: usize, first: bool) {
    const MORE: u32 = 2;
    let at = |i: usize| v[i * step];
    let (sum, difference) = (|i: usize| at(i) + at(7 - i), |i: usize| at(i) - at(7 - i));
    let [s0, s1, s2, s3] = [sum(0), sum(1), sum(2), sum(3)];
    let [d4, d5, d6, d7] = [difference(3), difference(2), difference(1), difference(0)];
    let (even, odd) = ((s0 + s3, s0 - s3), (s1 + s2, s1 - s2));
    let whole = |x: i32| if first { x << MORE } else { rounded(x, MORE) };
    let part = |x: i32| rounded(x, if first { BITS - MORE } else { BITS + MORE });
    let z = (odd.1 + even.1) * fixed(0.541196100);
    let mut out = [0; 8];
    out[0] = whole(even.0 + odd.0);
    out[4] = whole(even.0 - odd.0);
    out[2] = part(z + even.1 * fixed(0.765366865));
    out[6] = part(z - odd.1 * fixed(1.847759065));
    let (z1, z2, z3, z4) = (d4 + d7, d5 + d6, d4 + d6, d5 + d7);
    let z5 = (z3 + z4) * fixed(1.175875602);
    let (z1, z2) = (-z1 * fixed(0.899976223), -z2 * fixed(2.562915447));
    let (z3, z4) = (z5 - z3 * fixed(1.961570560), z5 - z4 * fixed(0.390180644));
    out[7] = part(d4 * fixed(0.298631336) + z1 + z3);
    out[5] = part(d5 * fixed(2.053119869) + z2 + z4);
    out[3] = part(d6 * fixed(3.072711026) + z2 + z3);
    out[1] = part(d7 * fixed(1.501321110) + z1 + z4);
    out.iter().enumerate().for_each(|(i, x)| v[i * step] = *x);
}

fn transform(block: &mut [i32; 64]) {
    block
        .chunks_exact_mut(SIDE)
        .for_each(|row| transform_line(row, 1, true));
    (0..SIDE).for_each(|x| transform_line(&mut block[x..], SIDE, false));
}

/// Brightness and the two colour differences of a pixel.
fn colours(pixel: &[u8]) -> [u8; 3] {
    const fn fixed(x: f64) -> i32 {
        (x * 65536.0 + 0.5) as i32
    }
    const HALF: i32 = 1 << 15;
    const MIDDLE: i32 = (128 << 16) + HALF - 1;
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(i32::from);
    let y = fixed(0.29900) * r + fixed(0.58700) * g + fixed(0.11400) * b + HALF;
    let cb = fixed(0.5) * b - fixed(0.16874) * r - fixed(0.33126) * g + MIDDLE;
    let cr = fixed(0.5) * r - fixed(0.41869) * g - fixed(0.08131) * b + MIDDLE;
    [y, cb, cr].map(|x| (x >> 16) as u8)
}

/// The components of an image `[height, width, channels]` with 1 channel or 3; `halve` keeps a quarter of the colour samples.
pub(super) fn components(
    pixels: &[u8],
    [height, width, channels]: [usize; 3],
    divisors: &[[u16; 64]; 2],
    halve: bool,
) -> Vec<Component> {
    let plane = |samples| Plane { width, height, samples };
    if channels == 1 {
        let extents = [width.div_ceil(SIDE), height.div_ceil(SIDE)];
        return vec![plane(pixels.to_vec()).component(&divisors[0], 1, extents)];
    }
    let mut planes = [Vec::new(), Vec::new(), Vec::new()];
    for pixel in pixels.chunks_exact(3) {
        for (plane, x) in planes.iter_mut().zip(colours(pixel)) {
            plane.push(x);
        }
    }
    let extents = |per: usize| [width.div_ceil(per), height.div_ceil(per)];
    let one = |(i, samples)| {
        let plane = plane(samples);
        match (i, halve) {
            (0, true) => plane.component(&divisors[0], 2, extents(SIDE)),
            (_, true) => {
                let [wide, high] = extents(2 * SIDE);
                plane.halved(wide * SIDE).component(&divisors[1], 1, [wide, high])
            }
            _ => plane.component(&divisors[usize::from(i > 0)], 1, extents(SIDE)),
        }
    };
    planes.into_iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_block_is_its_brightness_alone() {
        let flat = components(&[200; 64], [8, 8, 1], &[[1; 64]; 2], true);
        assert_eq!(flat[0].blocks.len(), 1);
        assert_eq!(
            (flat[0].blocks[0][0], flat[0].blocks[0][1..].iter().any(|x| *x != 0)),
            (576, false)
        );
    }

    #[test]
    fn the_transform_is_the_cosine_transform() {
        let mut block: [i32; 64] = std::array::from_fn(|i| (i * i * 37 + i * 11) as i32 % 255 - 128);
        let samples = block;
        transform(&mut block);
        for (at, got) in block.iter().enumerate() {
            let (v, u) = (at / 8, at % 8);
            let scale = |k| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
            let angle = |x: usize, k: usize| ((2 * x + 1) * k) as f64 * std::f64::consts::PI / 16.0;
            let sum: f64 = (0..64)
                .map(|i| f64::from(samples[i]) * angle(i % 8, u).cos() * angle(i / 8, v).cos())
                .sum();
            let want = 2.0 * sum * scale(u) * scale(v);
            assert!((want - f64::from(*got)).abs() < 2.0, "{at}: {want} {got}");
        }
    }

    #[test]
    fn qualities_scale_the_divisors() {
        assert_eq!(divisors(50), DIVISORS);
        assert_eq!(divisors(100), [[1; 64]; 2]);
        assert_eq!((divisors(0)[0][0], divisors(25)[0][0]), (255, 32));
    }
}
