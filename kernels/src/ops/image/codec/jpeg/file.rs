//! Reading JPEG files: markers, and Huffman's codes of sequential and progressive scans (ISO/IEC 10918-1, annexes B, F, G).
#![forbid(unsafe_code)]

use super::coefficients::ZIGZAG;

/// One component of a file.
pub(crate) struct Plane {
    /// Blocks of a unit, horizontally and vertically.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Blocks that the image covers.
    pub(super) wide: usize,
    pub(super) high: usize,
    /// Blocks of a row with those that fill up the last unit.
    pub(super) stride: usize,
    id: u8,
    table: usize,
    /// The coefficients of each block, row by row.
    pub(super) blocks: Vec<[i16; 64]>,
    /// What they are to be multiplied with.
    pub(super) factors: [u16; 64],
}

/// A file's coefficients.
pub(crate) struct Coefficients {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) planes: Vec<Plane>,
    restart: usize,
    progressive: bool,
}

/// Why a file is not read.
pub(crate) enum Refusal {
    /// It is of a kind that is not read here: with other components, more bits, or another code.
    Kind,
    Wrong(String),
}

type Result<T> = std::result::Result<T, Refusal>;

fn wrong<T>(why: &str) -> Result<T> {
    Err(Refusal::Wrong(why.to_owned()))
}

/// A code: for each length the first code and the position of its symbol.
struct Code {
    /// For each length from 1: the first code beyond those of that length, and what to add for the symbol's position.
    ends: [(i32, i32); 16],
    symbols: Vec<u8>,
}

impl Code {
    fn new(counts: &[u8], symbols: &[u8]) -> Option<Code> {
        let mut ends = [(0, 0); 16];
        let (mut code, mut at) = (0i32, 0i32);
        for (length, (end, count)) in ends.iter_mut().zip(counts).enumerate() {
            let count = i32::from(*count);
            *end = (code + count, at - code);
            code += count;
            at += count;
            if code > 2 << length {
                return None;
            }
            code <<= 1;
        }
        Some(Code {
            ends,
            symbols: symbols.to_vec(),
        })
    }
}

/// The bits of a scan.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    pending: u32,
    count: u32,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<i32> {
        if self.count == 0 {
            let byte = match self.data[self.at..] {
                [0xff, 0, ..] => {
                    self.at += 1;
                    0xff
                }
                [] | [0xff, ..] => return wrong("its data ends early"),
                [byte, ..] => byte,
            };
            self.at += 1;
            (self.pending, self.count) = (byte.into(), 8);
        }
        self.count -= 1;
        Ok((self.pending >> self.count & 1) as i32)
    }

    fn bits(&mut self, n: u8) -> Result<i32> {
        (0..n).try_fold(0, |x, _| Ok(x << 1 | self.bit()?))
    }

    /// A number of `size` bits, of which the smaller half stand for negative ones.
    fn number(&mut self, size: u8) -> Result<i32> {
        let x = self.bits(size)?;
        Ok(if size > 0 && x < 1 << (size - 1) {
            x - (1 << size) + 1
        } else {
            x
        })
    }

    fn symbol(&mut self, code: &Code) -> Result<u8> {
        let mut x = 0;
        for (end, offset) in &code.ends {
            x = x << 1 | self.bit()?;
            if x < *end {
                let symbol = usize::try_from(x + offset).ok().and_then(|i| code.symbols.get(i));
                return symbol
                    .copied()
                    .map_or_else(|| wrong("it has a code without a symbol"), Ok);
            }
        }
        wrong("it has bits that are no code")
    }

    /// Skips to behind the restart marker that has to come.
    fn restart(&mut self) -> Result<()> {
        self.count = 0;
        match self.data[self.at..] {
            [0xff, 0xd0..=0xd7, ..] => {
                self.at += 2;
                Ok(())
            }
            _ => wrong("a restart marker is missing"),
        }
    }
}

/// Which coefficients and bits a scan has.
struct Scan {
    components: Vec<(usize, usize, usize)>,
    first: usize,
    last: usize,
    refines: bool,
    low: u8,
}

fn sixteen(bytes: &[u8]) -> usize {
    bytes.iter().take(2).fold(0, |n, b| n << 8 | usize::from(*b))
}

/// Reads a file; `most` is the most samples that it may have.
pub(crate) fn read(file: &[u8], most: usize) -> Result<Coefficients> {
    let mut at = 2;
    let mut factors: [Option<[u16; 64]>; 4] = [None; 4];
    let mut codes: [[Option<Code>; 4]; 2] = Default::default();
    let mut image: Option<Coefficients> = None;
    let (mut jfif, mut adobe, mut restart, mut scans) = (false, None, 0, 0);
    loop {
        let Some(start) = file.get(at..).and_then(|rest| rest.iter().position(|b| *b == 0xff)) else {
            return wrong("its end is missing");
        };
        at += start;
        while file.get(at + 1) == Some(&0xff) {
            at += 1;
        }
        let Some(&kind) = file.get(at + 1) else {
            return wrong("its end is missing");
        };
        at += 2;
        match kind {
            0xd9 => break,
            0 | 1 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let length = sixteen(&file[at..]);
        let Some(content) = file.get(at + 2..at + length).filter(|_| length >= 2) else {
            return wrong("a marker is cut off");
        };
        at += length;
        match kind {
            0xc0..=0xc2 => {
                if image.is_some() {
                    return wrong("it has two frames");
                }
                let mut frame = frame(content, most, 8 * file.len(), (jfif, adobe))?;
                frame.progressive = kind == 0xc2;
                image = Some(frame);
            }
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return Err(Refusal::Kind),
            0xc4 => tables(content, &mut codes)?,
            0xdb => divisors(content, &mut factors)?,
            0xdd => restart = sixteen(content),
            0xe0 => jfif |= content.starts_with(b"JFIF\0"),
            0xee if content.starts_with(b"Adobe") => adobe = content.get(11).copied(),
            0xda => {
                let Some(image) = &mut image else {
                    return wrong("it has data before its frame");
                };
                scans += 1;
                // Real files have a dozen or so; each costs as much as the image is large.
                if scans > 200 {
                    return wrong("it has too many scans");
                }
                image.restart = restart;
                for plane in &mut image.planes {
                    if let Some(f) = factors[plane.table] {
                        plane.factors = f;
                    }
                }
                let scan = header(content, image)?;
                let mut bits = Bits {
                    data: file,
                    at,
                    pending: 0,
                    count: 0,
                };
                image.decode(&scan, &codes, &mut bits)?;
                at = bits.at;
            }
            _ => {}
        }
    }
    match image {
        Some(image) if scans > 0 => Ok(image),
        _ => wrong("it has no image"),
    }
}

fn tables(mut content: &[u8], codes: &mut [[Option<Code>; 4]; 2]) -> Result<()> {
    while let [to, rest @ ..] = content {
        let (class, slot) = (usize::from(to >> 4), usize::from(to & 15));
        let Some((counts, rest)) = rest.split_at_checked(16) else {
            return wrong("a table of codes is cut off");
        };
        let n: usize = counts.iter().map(|c| usize::from(*c)).sum();
        let (Some((symbols, rest)), true) = (rest.split_at_checked(n), class < 2 && slot < 4) else {
            return wrong("a table of codes is cut off");
        };
        let Some(code) = Code::new(counts, symbols) else {
            return wrong("a table has too many codes");
        };
        codes[class][slot] = Some(code);
        content = rest;
    }
    Ok(())
}

fn divisors(mut content: &[u8], factors: &mut [Option<[u16; 64]>; 4]) -> Result<()> {
    while let [to, rest @ ..] = content {
        let (bytes, slot) = (1 + usize::from(to >> 4), usize::from(to & 15));
        let (Some((list, rest)), true) = (rest.split_at_checked(64 * bytes), bytes <= 2 && slot < 4) else {
            return wrong("a table of divisors is cut off");
        };
        let mut table = [0; 64];
        for (value, at) in list.chunks_exact(bytes).zip(ZIGZAG) {
            table[at] = sixteen(value) as u16;
        }
        factors[slot] = Some(table);
        content = rest;
    }
    Ok(())
}

/// An image without its coefficients; of YCbCr or brightness only.
fn frame(content: &[u8], most: usize, bits: usize, (jfif, adobe): (bool, Option<u8>)) -> Result<Coefficients> {
    let [precision, size @ .., count] = content.get(..6).unwrap_or_default() else {
        return wrong("its frame is cut off");
    };
    let (height, width) = (sixteen(size), sixteen(&size[2..]));
    let parts: Vec<[u8; 3]> = content[6..].as_chunks::<3>().0.to_vec();
    if *precision != 8 || !matches!(count, 1 | 3) || height == 0 {
        return Err(Refusal::Kind);
    }
    if width == 0 || parts.len() != usize::from(*count) {
        return wrong("its frame is cut off");
    }
    let ids = [
        parts[0][0],
        parts.get(1).map_or(0, |p| p[0]),
        parts.get(2).map_or(0, |p| p[0]),
    ];
    let other_colours = !jfif && (adobe == Some(0) || adobe.is_none() && ids == *b"RGB");
    if *count == 3 && other_colours {
        return Err(Refusal::Kind);
    }
    let alone = parts.len() == 1;
    let sampling = |p: &[u8; 3]| {
        if alone {
            (1, 1)
        } else {
            (usize::from(p[1] >> 4), usize::from(p[1] & 15))
        }
    };
    let widest = parts.iter().map(|p| sampling(p).0).max().unwrap_or(1);
    let highest = parts.iter().map(|p| sampling(p).1).max().unwrap_or(1);
    let mut planes = Vec::new();
    let (across, down) = (width.div_ceil(8 * widest.max(1)), height.div_ceil(8 * highest.max(1)));
    let mut total = 0;
    for p in &parts {
        let (h, v) = sampling(p);
        if !matches!(h, 1 | 2 | 4) || !matches!(v, 1 | 2 | 4) || p[2] > 3 {
            return Err(Refusal::Kind);
        }
        let stride = across * h;
        let count = stride * down * v;
        total += count;
        // Each block takes a bit at least, so that a short file cannot ask for much memory.
        if total > bits || total * 64 > most {
            return wrong("it is cut off or too large");
        }
        planes.push(Plane {
            h,
            v,
            wide: (width * h).div_ceil(8 * widest),
            high: (height * v).div_ceil(8 * highest),
            stride,
            id: p[0],
            table: usize::from(p[2]),
            blocks: vec![[0; 64]; count],
            factors: [0; 64],
        });
    }
    Ok(Coefficients {
        height,
        width,
        planes,
        restart: 0,
        progressive: false,
    })
}

fn header(content: &[u8], image: &Coefficients) -> Result<Scan> {
    let (Some(&n), Some([first, last, bits])) = (content.first(), content.last_chunk::<3>()) else {
        return wrong("a scan is cut off");
    };
    let list = content.get(1..content.len() - 3).unwrap_or_default();
    let mut components: Vec<(usize, usize, usize)> = Vec::new();
    for part in list.as_chunks::<2>().0 {
        let [id, tables] = *part;
        let (Some(i), dc, ac) = (
            image.planes.iter().position(|p| p.id == id),
            usize::from(tables >> 4),
            usize::from(tables & 15),
        ) else {
            return wrong("a scan names a component that is not there");
        };
        if dc > 3 || ac > 3 || components.iter().any(|(j, ..)| *j == i) {
            return wrong("a scan names a table that is not there, or a component twice");
        }
        components.push((i, dc, ac));
    }
    let scan = Scan {
        first: usize::from(*first),
        last: usize::from(*last),
        refines: bits >> 4 > 0,
        low: bits & 15,
        components,
    };
    let whole = (scan.first, scan.last, *bits) == (0, 63, 0);
    let part = scan.last < 64
        && scan.low <= 13
        && match scan.first {
            0 => scan.last == 0,
            first => first <= scan.last && scan.components.len() == 1,
        };
    let right = if image.progressive { part } else { whole };
    if scan.components.len() != usize::from(n) || scan.components.is_empty() || !right {
        return wrong("a scan does not fit its frame");
    }
    Ok(scan)
}

impl Coefficients {
    fn decode(&mut self, scan: &Scan, codes: &[[Option<Code>; 4]; 2], bits: &mut Bits<'_>) -> Result<()> {
        let mut before = [0i32; 3];
        let mut run = 0u32;
        let mut blocks = Vec::new();
        let alone = scan.components.len() == 1;
        let (i, ..) = scan.components[0];
        let p = &self.planes[i];
        let (across, down) = match alone {
            true => (p.wide, p.high),
            false => (p.stride / p.h, p.blocks.len() / p.stride.max(1) / p.v),
        };
        for unit in 0..across * down {
            if self.restart > 0 && unit > 0 && unit % self.restart == 0 {
                bits.restart()?;
                (before, run) = ([0; 3], 0);
            }
            let (y, x) = (unit / across, unit % across);
            blocks.clear();
            for (i, dc, ac) in &scan.components {
                let p = &self.planes[*i];
                let (h, v) = if alone { (1, 1) } else { (p.h, p.v) };
                let inside = (0..v).flat_map(|b| (0..h).map(move |a| (a, b)));
                blocks.extend(inside.map(|(a, b)| (*i, *dc, *ac, (y * v + b) * p.stride + x * h + a)));
            }
            for (i, dc, ac, at) in &blocks {
                let block = &mut self.planes[*i].blocks[*at];
                let code = |class: usize, slot: usize| match &codes[class][slot] {
                    Some(code) => Ok(code),
                    None => wrong("a table of codes is missing"),
                };
                if scan.first > 0 {
                    let code = code(1, *ac)?;
                    match scan.refines {
                        true => refine(block, scan, code, bits, &mut run)?,
                        false => band(block, scan, code, bits, &mut run)?,
                    }
                    continue;
                }
                if scan.refines {
                    block[0] |= (bits.bit()? << scan.low) as i16;
                    continue;
                }
                let size = bits.symbol(code(0, *dc)?)?;
                if size > 15 {
                    return wrong("a coefficient is too large");
                }
                before[*i] = before[*i].wrapping_add(bits.number(size)?);
                block[0] = before[*i].wrapping_shl(scan.low.into()) as i16;
                if scan.last > 0 {
                    sequential(block, code(1, *ac)?, bits)?;
                }
            }
        }
        Ok(())
    }
}

fn sequential(block: &mut [i16; 64], code: &Code, bits: &mut Bits<'_>) -> Result<()> {
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(code)?;
        let (zeros, size) = (usize::from(symbol >> 4), symbol & 15);
        if size == 0 {
            if zeros < 15 {
                break;
            }
            k += 16;
            continue;
        }
        k += zeros;
        let x = bits.number(size)?;
        let Some(at) = ZIGZAG.get(k) else {
            return wrong("a block has too many coefficients");
        };
        block[*at] = x as i16;
        k += 1;
    }
    Ok(())
}

/// The first bits of some coefficients; `run` blocks that follow have none.
fn band(block: &mut [i16; 64], scan: &Scan, code: &Code, bits: &mut Bits<'_>, run: &mut u32) -> Result<()> {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let mut k = scan.first;
    while k <= scan.last {
        let symbol = bits.symbol(code)?;
        let (zeros, size) = (symbol >> 4, symbol & 15);
        if size == 0 {
            if zeros < 15 {
                *run = (1 << zeros) + bits.bits(zeros)? as u32 - 1;
                break;
            }
            k += 16;
            continue;
        }
        k += usize::from(zeros);
        let x = bits.number(size)?;
        if k > scan.last {
            return wrong("a block has too many coefficients");
        }
        block[ZIGZAG[k]] = x.wrapping_shl(scan.low.into()) as i16;
        k += 1;
    }
    Ok(())
}

/// One more bit of some coefficients.
fn refine(block: &mut [i16; 64], scan: &Scan, code: &Code, bits: &mut Bits<'_>, run: &mut u32) -> Result<()> {
    let one = 1i16 << scan.low;
    let correct = |x: &mut i16, bits: &mut Bits<'_>| -> Result<()> {
        if bits.bit()? == 1 && *x & one == 0 {
            *x = x.wrapping_add(if *x >= 0 { one } else { -one });
        }
        Ok(())
    };
    let mut k = scan.first;
    if *run == 0 {
        while k <= scan.last {
            let symbol = bits.symbol(code)?;
            let (mut zeros, size) = (symbol >> 4, symbol & 15);
            let mut new = 0;
            if size > 0 {
                new = if bits.bit()? == 1 { one } else { -one };
            } else if zeros < 15 {
                *run = (1 << zeros) + bits.bits(zeros)? as u32;
                break;
            }
            while k <= scan.last {
                let x = &mut block[ZIGZAG[k]];
                if *x != 0 {
                    correct(x, bits)?;
                } else if zeros == 0 {
                    *x = new;
                    break;
                } else {
                    zeros -= 1;
                }
                k += 1;
            }
            k += 1;
        }
    }
    if *run > 0 {
        for at in ZIGZAG.iter().take(scan.last + 1).skip(k) {
            if block[*at] != 0 {
                correct(&mut block[*at], bits)?;
            }
        }
        *run -= 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    fn written(progressive: bool) -> Vec<u8> {
        let pixels: Vec<u8> = (0..17 * 19 * 3).map(|i| (i * i / 7 % 256) as u8).collect();
        let g = Graph::new();
        let x = g.constant(Tensor::from_slice([17, 19, 3], &pixels).unwrap()).unwrap();
        let node = g.op("EncodeJpeg").input(&x).attr("progressive", progressive);
        eval(&node.output().unwrap()).as_strings().unwrap()[0].to_vec()
    }

    fn blocks(file: &[u8]) -> Option<Vec<Vec<[i16; 64]>>> {
        let image = read(file, 1 << 20).ok()?;
        Some(image.planes.into_iter().map(|p| p.blocks).collect())
    }

    #[test]
    fn sequential_and_progressive_files_have_the_same_coefficients() {
        let (a, b) = (blocks(&written(false)).unwrap(), blocks(&written(true)).unwrap());
        assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), [16, 4, 4]);
        assert!(a == b);
    }

    #[test]
    fn torn_and_spoilt_files_are_refused_or_read_and_never_more() {
        for progressive in [false, true] {
            let whole = written(progressive);
            for cut in 2..whole.len() - 2 {
                assert!(blocks(&whole[..cut]).is_none(), "{cut}");
            }
            for at in 2..whole.len() {
                for value in [0, 0xff, 0x7f, whole[at] ^ 1, whole[at] ^ 0x10] {
                    let mut file = whole.clone();
                    file[at] = value;
                    if let Ok(image) = read(&file, 1 << 20) {
                        let ([height, width], p) = crate::ops::image::codec::jpeg::pixels(&image, 2, 3, [true; 2]);
                        assert_eq!(p.len(), height * width * 3);
                    }
                }
            }
        }
    }

    #[test]
    fn a_short_file_does_not_ask_for_much_memory() {
        let mut file = written(false);
        let at = file.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        file[at + 5..at + 9].copy_from_slice(&[0xff, 0, 0xff, 0]);
        assert!(matches!(read(&file, 1 << 40), Err(Refusal::Wrong(why)) if why.contains("too large")));
    }
}
