//! From coefficients to bits: what each scan codes, and Huffman's codes for it (ISO/IEC 10918-1, annexes C, F, G and K).
#![forbid(unsafe_code)]

use super::coefficients::{Block, Component};

/// A code: how many symbols have each length from 1 to 16 bits, and the symbols in order.
#[derive(Clone)]
pub(super) struct Code {
    pub(super) counts: [u8; 16],
    pub(super) symbols: Vec<u8>,
}

/// The symbols of the standard's codes for differences of brightness and of colour, tables K.3 and K.4.
const DC_COUNTS: [[u8; 16]; 2] = [
    [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
    [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
];
/// The standard's codes for the other coefficients, tables K.5 and K.6.
const AC_COUNTS: [[u8; 16]; 2] = [
    [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d],
    [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77],
];
#[rustfmt::skip]
const AC_FIRST: [&[u8]; 2] = [
    &[
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71, 0x14, 0x32,
        0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72, 0x82,
    ],
    &[
        0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22, 0x32, 0x81,
        0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34,
        0xe1, 0x25, 0xf1,
    ],
];

impl Code {
    /// The standard's code: of differences or of other coefficients, for brightness (0) or colour (1).
    pub(super) fn standard(ac: bool, table: usize) -> Code {
        if !ac {
            return Code {
                counts: DC_COUNTS[table],
                symbols: (0..12).collect(),
            };
        }
        // The long codes go to the remaining pairs of a run and a size, in order.
        let mut symbols = AC_FIRST[table].to_vec();
        let all = (0..16u8).flat_map(|run| (1..=10u8).map(move |size| run << 4 | size));
        let rest: Vec<u8> = all.filter(|s| !symbols.contains(s)).collect();
        symbols.extend(rest);
        Code {
            counts: AC_COUNTS[table],
            symbols,
        }
    }

    /// The shortest code for symbols of these frequencies, with none of only ones and none longer than 16 bits (K.2).
    fn optimal(frequencies: &[u32; 256]) -> Code {
        // A symbol that does not occur keeps the code of only ones to itself.
        let mut weights: Vec<u64> = frequencies.iter().map(|f| u64::from(*f)).chain([1]).collect();
        let mut lengths = [0usize; 257];
        let mut groups: Vec<Vec<usize>> = (0..257).map(|i| vec![i]).collect();
        // Of equal ones the last.
        let lightest = |weights: &[u64], but: Option<usize>| {
            let all = (0..257).filter(|i| weights[*i] > 0 && Some(*i) != but);
            all.min_by_key(|i| (weights[*i], std::cmp::Reverse(*i)))
        };
        while let Some(a) = lightest(&weights, None)
            && let Some(b) = lightest(&weights, Some(a))
        {
            weights[a] += weights[b];
            weights[b] = 0;
            let other = std::mem::take(&mut groups[b]);
            groups[a].extend(other);
            groups[a].iter().for_each(|i| lengths[*i] += 1);
        }
        let mut counts = [0u32; 64];
        lengths
            .iter()
            .filter(|l| **l > 0)
            .for_each(|l| counts[(*l).min(63)] += 1);
        for i in (17..64).rev() {
            while counts[i] > 0 {
                // Two of the longest are shortened: one takes their prefix, the other a place below a shorter code.
                let mut j = i - 2;
                while counts[j] == 0 {
                    j -= 1;
                }
                counts[i] -= 2;
                counts[i - 1] += 1;
                counts[j + 1] += 2;
                counts[j] -= 1;
            }
        }
        if let Some(last) = counts.iter().rposition(|c| *c > 0) {
            counts[last] -= 1;
        }
        let mut symbols: Vec<u8> = (0..=255).filter(|s| lengths[usize::from(*s)] > 0).collect();
        symbols.sort_by_key(|s| lengths[usize::from(*s)]);
        Code {
            counts: std::array::from_fn(|i| counts[i + 1] as u8),
            symbols,
        }
    }

    /// Each symbol's code and its length; 0 for symbols without one.
    fn table(&self) -> Vec<(u32, u32)> {
        let mut table = vec![(0, 0); 256];
        let mut symbols = self.symbols.iter();
        let mut code = 0;
        for (length, count) in (1..).zip(self.counts) {
            for symbol in symbols.by_ref().take(usize::from(count)) {
                table[usize::from(*symbol)] = (code, length);
                code += 1;
            }
            code <<= 1;
        }
        table
    }
}

/// What is written: a symbol of the code with that number, or bits as they are.
#[derive(Clone, Copy)]
enum Item {
    Symbol(u8, u8),
    Bits(u16, u8),
}

/// Which components and coefficients a scan has, and which bits of them: from `low`, and, in a first scan, all above;
/// `refines` says that it adds one bit to earlier scans.
pub(super) struct Scan {
    pub(super) components: Vec<usize>,
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) refines: bool,
    pub(super) low: u32,
}

impl Scan {
    fn new(components: &[usize], [first, last]: [usize; 2], refines: bool, low: u32) -> Scan {
        Scan {
            components: components.to_vec(),
            first,
            last,
            refines,
            low,
        }
    }

    /// The scan that has everything.
    pub(super) fn whole(components: usize) -> Vec<Scan> {
        vec![Scan::new(&Vec::from_iter(0..components), [0, 63], false, 0)]
    }

    /// The scans of a file that is seen coarsely first, in the usual order.
    pub(super) fn progressive(components: usize) -> Vec<Scan> {
        let all = Vec::from_iter(0..components);
        if components == 1 {
            return vec![
                Scan::new(&all, [0, 0], false, 1),
                Scan::new(&all, [1, 5], false, 2),
                Scan::new(&all, [6, 63], false, 2),
                Scan::new(&all, [1, 63], true, 1),
                Scan::new(&all, [0, 0], true, 0),
                Scan::new(&all, [1, 63], true, 0),
            ];
        }
        vec![
            Scan::new(&all, [0, 0], false, 1),
            Scan::new(&[0], [1, 5], false, 2),
            Scan::new(&[2], [1, 63], false, 1),
            Scan::new(&[1], [1, 63], false, 1),
            Scan::new(&[0], [6, 63], false, 2),
            Scan::new(&[0], [1, 63], true, 1),
            Scan::new(&all, [0, 0], true, 0),
            Scan::new(&[2], [1, 63], true, 0),
            Scan::new(&[1], [1, 63], true, 0),
            Scan::new(&[0], [1, 63], true, 0),
        ]
    }

    /// Calls `f` with each block in the order of the scan, and its component.
    fn each<'a>(&self, all: &'a [Component], mut f: impl FnMut(usize, &'a Block)) {
        if let [i] = self.components[..] {
            let c = &all[i];
            let rows = c.blocks.chunks(c.stride).take(c.high);
            rows.flat_map(|row| &row[..c.wide]).for_each(|b| f(i, b));
            return;
        }
        let Some(first) = self.components.first().map(|i| &all[*i]) else {
            return;
        };
        let (across, down) = (
            first.stride / first.unit,
            first.blocks.len() / first.stride / first.unit,
        );
        for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
            for i in &self.components {
                let c = &all[*i];
                for (v, u) in (0..c.unit).flat_map(|v| (0..c.unit).map(move |u| (v, u))) {
                    f(*i, &c.blocks[(y * c.unit + v) * c.stride + x * c.unit + u]);
                }
            }
        }
    }
}

/// The number of the code that a symbol of a component belongs to: colour has its own, and so have differences.
pub(super) fn code_of(component: usize, ac: bool) -> u8 {
    2 * u8::from(component > 0) + u8::from(ac)
}

/// The bits that say which of the numbers of its size a number is, and their number.
fn magnitude(x: i32) -> (u16, u8) {
    let size = 32 - x.unsigned_abs().leading_zeros();
    let bits = if x < 0 { x - 1 } else { x };
    ((bits & ((1 << size) - 1)) as u16, size as u8)
}

/// What codes a scan.
#[derive(Default)]
struct Coder {
    items: Vec<Item>,
    /// Blocks whose rest is zero and that are not written yet, with the bits that correct their coefficients.
    run: u32,
    corrections: Vec<bool>,
    code: u8,
}

/// The longest run of blocks, and the most correcting bits that wait with one.
const LONGEST_RUN: u32 = 0x7fff;
const MOST_CORRECTIONS: usize = 1000 - 64 + 1;

impl Coder {
    fn symbol(&mut self, code: u8, symbol: u8) {
        self.items.push(Item::Symbol(code, symbol));
    }

    fn bits(&mut self, bits: u16, count: u8) {
        if count > 0 {
            self.items.push(Item::Bits(bits, count));
        }
    }

    fn number(&mut self, code: u8, run: u8, x: i32) {
        let (bits, size) = magnitude(x);
        self.symbol(code, run << 4 | size);
        self.bits(bits, size);
    }

    fn corrected(&mut self, bits: &[bool]) {
        bits.iter().for_each(|b| self.bits(u16::from(*b), 1));
    }

    /// Writes the run of blocks that waits.
    fn end_run(&mut self) {
        if self.run > 0 {
            let size = self.run.ilog2() as u8;
            self.symbol(self.code, size << 4);
            self.bits((self.run & ((1 << size) - 1)) as u16, size);
            self.run = 0;
            let waiting = std::mem::take(&mut self.corrections);
            self.corrected(&waiting);
        }
    }

    /// The coefficients but the first of a block, all their bits.
    fn sequential(&mut self, code: u8, block: &Block) {
        let mut zeros = 0;
        for x in &block[1..] {
            if *x == 0 {
                zeros += 1;
                continue;
            }
            while zeros > 15 {
                self.symbol(code, 0xf0);
                zeros -= 16;
            }
            self.number(code, zeros, i32::from(*x));
            zeros = 0;
        }
        if zeros > 0 {
            self.symbol(code, 0);
        }
    }

    /// The high bits of some coefficients of a block.
    fn band(&mut self, band: &[i16], low: u32) {
        let mut zeros = 0;
        for x in band {
            // Towards zero.
            let size = i32::from(*x).abs() >> low;
            if size == 0 {
                zeros += 1;
                continue;
            }
            self.end_run();
            while zeros > 15 {
                self.symbol(self.code, 0xf0);
                zeros -= 16;
            }
            self.number(self.code, zeros, size * i32::from(x.signum()));
            zeros = 0;
        }
        if zeros > 0 {
            self.run += 1;
            if self.run == LONGEST_RUN {
                self.end_run();
            }
        }
    }

    /// One more bit of some coefficients of a block.
    fn refine(&mut self, band: &[i16], low: u32) {
        let sizes: Vec<i32> = band.iter().map(|x| i32::from(*x).abs() >> low).collect();
        let last_new = sizes.iter().rposition(|s| *s == 1);
        let (mut zeros, mut waiting) = (0u8, Vec::new());
        for (k, size) in sizes.iter().enumerate() {
            if *size == 0 {
                zeros += 1;
                continue;
            }
            while zeros > 15 && last_new.is_some_and(|last| k <= last) {
                self.end_run();
                self.symbol(self.code, 0xf0);
                zeros -= 16;
                self.corrected(&std::mem::take(&mut waiting));
            }
            if *size > 1 {
                waiting.push(size & 1 == 1);
                continue;
            }
            self.end_run();
            self.symbol(self.code, zeros << 4 | 1);
            self.bits(u16::from(band[k] > 0), 1);
            self.corrected(&std::mem::take(&mut waiting));
            zeros = 0;
        }
        if zeros > 0 || !waiting.is_empty() {
            self.run += 1;
            self.corrections.append(&mut waiting);
            if self.run == LONGEST_RUN || self.corrections.len() > MOST_CORRECTIONS {
                self.end_run();
            }
        }
    }
}

/// A scan's codes, with their numbers, and its bytes.
pub(super) struct Coded {
    pub(super) codes: Vec<(u8, Code)>,
    pub(super) bytes: Vec<u8>,
}

/// Codes a scan, with the standard's codes or with the shortest.
pub(super) fn coded(scan: &Scan, all: &[Component], optimal: bool) -> Coded {
    let mut coder = Coder::default();
    if scan.first > 0 {
        coder.code = code_of(scan.components[0], true);
    }
    let mut before = vec![0i32; all.len()];
    scan.each(all, |i, block| {
        if scan.first > 0 {
            let band = &block[scan.first..=scan.last];
            return match scan.refines {
                true => coder.refine(band, scan.low),
                false => coder.band(band, scan.low),
            };
        }
        // The mean rounds down.
        let mean = i32::from(block[0]) >> scan.low;
        if scan.refines {
            return coder.bits((mean & 1) as u16, 1);
        }
        coder.number(code_of(i, false), 0, mean - before[i]);
        before[i] = mean;
        if scan.last > 0 {
            coder.sequential(code_of(i, true), block);
        }
    });
    coder.end_run();
    let mut frequencies = [[0u32; 256]; 4];
    for item in &coder.items {
        if let Item::Symbol(code, symbol) = item {
            frequencies[usize::from(*code)][usize::from(*symbol)] += 1;
        }
    }
    let mut needed: Vec<u8> = Vec::new();
    for i in &scan.components {
        needed.extend((scan.first == 0 && !scan.refines).then(|| code_of(*i, false)));
        needed.extend((scan.last > 0).then(|| code_of(*i, true)));
    }
    needed.sort_unstable();
    needed.dedup();
    let codes: Vec<(u8, Code)> = needed
        .into_iter()
        .map(|c| match optimal {
            true => (c, Code::optimal(&frequencies[usize::from(c)])),
            false => (c, Code::standard(c % 2 == 1, usize::from(c / 2))),
        })
        .collect();
    let bytes = packed(&coder.items, &codes);
    Coded { codes, bytes }
}

/// The bits as bytes, filled up with ones; after a byte of ones comes one of zeros, so that it is no marker.
fn packed(items: &[Item], codes: &[(u8, Code)]) -> Vec<u8> {
    let mut tables = vec![Vec::new(); 4];
    for (c, code) in codes {
        tables[usize::from(*c)] = code.table();
    }
    let (mut bytes, mut pending, mut count) = (Vec::new(), 0u64, 0);
    let mut put = |bits: u32, length: u32, bytes: &mut Vec<u8>| {
        pending = pending << length | u64::from(bits);
        count += length;
        while count >= 8 {
            count -= 8;
            let byte = (pending >> count) as u8;
            bytes.push(byte);
            if byte == 0xff {
                bytes.push(0);
            }
        }
        count
    };
    let mut left = 0;
    for item in items {
        let (bits, length) = match item {
            Item::Symbol(code, symbol) => tables[usize::from(*code)][usize::from(*symbol)],
            Item::Bits(bits, length) => (u32::from(*bits), u32::from(*length)),
        };
        left = put(bits, length, &mut bytes);
    }
    if left > 0 {
        put((1 << (8 - left)) - 1, 8 - left, &mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_codes_are_complete() {
        for table in 0..2 {
            let (dc, ac) = (Code::standard(false, table), Code::standard(true, table));
            let sum = |c: &Code| c.counts.iter().map(|n| usize::from(*n)).sum::<usize>();
            assert_eq!((sum(&dc), dc.symbols.len()), (12, 12));
            assert_eq!((sum(&ac), ac.symbols.len()), (162, 162));
        }
        // The end of a block, from table K.5.
        assert_eq!(Code::standard(true, 0).table()[0], (0b1010, 4));
        assert_eq!(Code::standard(true, 1).table()[0xfa], (0xfffe, 16));
    }

    #[test]
    fn optimal_codes_are_free_of_prefixes_and_not_too_long() {
        // Fibonacci's numbers give the longest codes.
        let mut frequencies = [0u32; 256];
        let (mut a, mut b) = (1u32, 1u32);
        for f in frequencies.iter_mut().take(40) {
            *f = a;
            (a, b) = (b, a + b);
        }
        let code = Code::optimal(&frequencies);
        assert_eq!(code.symbols.len(), 40);
        let table = code.table();
        let used: Vec<_> = table.iter().filter(|(_, l)| *l > 0).collect();
        assert!(used.len() == 40 && used.iter().all(|(c, l)| *l <= 16 && *c + 1 < 1 << l));
        for (i, (c, l)) in used.iter().enumerate() {
            for (d, m) in &used[i + 1..] {
                let shared = (*l).min(*m);
                assert!(c >> (l - shared) != d >> (m - shared));
            }
        }
    }

    #[test]
    fn numbers_are_their_size_and_what_tells_them_apart() {
        assert_eq!(
            [0, 1, -1, 5, -5, -1024].map(magnitude),
            [(0, 0), (1, 1), (0, 1), (5, 3), (2, 3), (1023, 11)]
        );
    }
}
