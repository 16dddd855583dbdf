//! Products of the element types that have no microkernel: blocked loops over packed rows of B, accumulated in a type
//! wide enough.

use super::chain::Linked;
use super::{Batch, Element, Offsets, block::Product, scratch, sealed::Multiply};
use actorflow_core::parallel::{Parallel, Serial};
use half::{bf16, f16};
use num_complex::Complex;
use std::ops::Range;

/// Rows of a block of C.
const ROWS: usize = 32;
/// Columns of a block of C: with [`DEPTH`] it keeps the packed block of B within the second-level cache.
const COLS: usize = 128;
/// Steps of the inner dimension for which a block of B is packed.
const DEPTH: usize = 128;

/// An element type and the type it is accumulated in.
trait Plain: Copy + Send + Sync + 'static {
    /// Accumulator.
    type Acc: Copy + PartialEq;
    const ZERO: Self::Acc;
    const ONE: Self::Acc;
    fn widen(self, conj: bool) -> Self::Acc;
    fn narrow(acc: Self::Acc) -> Self;
    fn mul_add(a: Self::Acc, b: Self::Acc, c: Self::Acc) -> Self::Acc;
    fn relu(acc: Self::Acc) -> Self::Acc;
}

/// Computes rows `rows` and columns `cols` (at most [`ROWS`] by [`COLS`]) of the product.
///
/// # Safety
/// `p`'s pointers are valid, the ranges lie inside it, and no one else accesses that part of C meanwhile.
unsafe fn block<T: Plain>(p: &Product<T>, conj: (bool, bool), rows: Range<usize>, cols: Range<usize>) {
    let width = cols.len();
    let mut acc = [[T::ZERO; COLS]; ROWS];
    scratch::with(DEPTH * COLS, |packed: *mut T::Acc| {
        // SAFETY: the buffer has that many initialised elements, of types for which all bits are values.
        let packed = unsafe { std::slice::from_raw_parts_mut(packed, DEPTH * COLS) };
        for k0 in (0..p.k).step_by(DEPTH) {
            let depth = DEPTH.min(p.k - k0);
            for k in 0..depth {
                for j in 0..width {
                    // SAFETY: row k0 + k and column cols.start + j are inside B.
                    let x = unsafe { *p.b.add((k0 + k) * p.b_row + (cols.start + j) * p.b_col) };
                    packed[k * width + j] = x.widen(conj.1);
                }
            }
            for (acc, i) in acc.iter_mut().zip(rows.clone()) {
                for k in 0..depth {
                    // SAFETY: row i and column k0 + k are inside A.
                    let a = unsafe { *p.a.add(i * p.a_row + (k0 + k) * p.a_col) }.widen(conj.0);
                    for (c, b) in acc.iter_mut().zip(&packed[k * width..(k + 1) * width]) {
                        *c = T::mul_add(a, *b, *c);
                    }
                }
            }
        }
    });
    let (alpha, beta) = (p.alpha.widen(false), p.beta.widen(false));
    for (acc, i) in acc.iter().zip(rows) {
        for (x, j) in acc.iter().zip(cols.clone()) {
            // SAFETY: element (i, j) is inside C, and column j inside the bias if there is one.
            unsafe {
                let c = p.c.add(i * p.c_row + j);
                let old = if beta == T::ZERO {
                    T::ZERO
                } else {
                    T::mul_add(beta, (*c).widen(false), T::ZERO)
                };
                let mut x = T::mul_add(alpha, *x, old);
                if !p.bias.is_null() {
                    x = T::mul_add(T::ONE, x, (*p.bias.add(j)).widen(false));
                }
                *c = T::narrow(if p.relu { T::relu(x) } else { x });
            }
        }
    }
}

/// Computes a batch, one block of C a chunk.
fn run<T: Plain>(par: &dyn Parallel, batch: &Batch<'_, T>) {
    let p = &batch.product;
    let (down, across) = (p.m.div_ceil(ROWS), p.n.div_ceil(COLS));
    let chunks = down * across * batch.count;
    let body = |chunk: usize| {
        assert!(chunk < chunks, "only the chunks asked for are run");
        let (i, rest) = (chunk / (down * across), chunk % (down * across));
        let (r, c) = (rest / across * ROWS, rest % across * COLS);
        let one = batch.get(i);
        // SAFETY: a batch is made with checked pointers only; blocks and products are disjoint.
        unsafe {
            block(
                &one,
                (batch.conj_a, batch.conj_b),
                r..(r + ROWS).min(p.m),
                c..(c + COLS).min(p.n),
            );
        }
    };
    // A split costs some microseconds to hand over, about 50,000 multiply-adds here.
    if chunks == 1 || p.m as f64 * p.n as f64 * p.k as f64 * (batch.count as f64) < 1e5 {
        (0..chunks).for_each(body);
    } else {
        par.run(chunks, &body);
    }
}

/// Computes a sum of products, one after the other.
fn chain<T: Plain + Multiply>(sum: &Linked<'_, T>) {
    let none = super::Link { a: 0, b: 0, k: 0 };
    let links = if sum.links.is_empty() { &[none] } else { sum.links };
    for (i, l) in links.iter().enumerate() {
        let (p, last) = (sum.product, i + 1 == links.len());
        let product = Product {
            k: l.k,
            a: p.a.wrapping_add(l.a),
            b: p.b.wrapping_add(l.b),
            beta: if i == 0 { p.beta } else { T::UNIT },
            bias: if last { p.bias } else { std::ptr::null() },
            relu: last && p.relu,
            ..p
        };
        let batch = Batch {
            product,
            conj_a: false,
            conj_b: false,
            count: 1,
            a: Offsets::Every(0),
            b: Offsets::Every(0),
            c: 0,
        };
        run(&Serial, &batch);
    }
}

macro_rules! plain {
    ($t:ty, $unit:expr, $acc:ty, $zero:expr, $one:expr, $widen:expr, $narrow:expr, $mul_add:expr, $relu:expr) => {
        impl Plain for $t {
            type Acc = $acc;
            const ZERO: $acc = $zero;
            const ONE: $acc = $one;
            #[inline(always)]
            fn widen(self, conj: bool) -> $acc {
                $widen(self, conj)
            }
            #[inline(always)]
            fn narrow(acc: $acc) -> $t {
                $narrow(acc)
            }
            #[inline(always)]
            fn mul_add(a: $acc, b: $acc, c: $acc) -> $acc {
                $mul_add(a, b, c)
            }
            #[inline(always)]
            fn relu(acc: $acc) -> $acc {
                if $relu(acc) { $zero } else { acc }
            }
        }

        impl Element for $t {}

        impl Multiply for $t {
            const UNIT: $t = $unit;

            fn multiply(par: &dyn Parallel, batch: &Batch<'_, $t>) {
                run(par, batch);
            }

            fn chain(sum: &Linked<'_, $t>) {
                chain(sum);
            }
        }
    };
}

/// Multiplies and adds in two roundings, as every CPU can.
macro_rules! separate {
    ($t:ty) => {
        |a: $t, b: $t, c: $t| a * b + c
    };
}

plain!(
    f16,
    f16::ONE,
    f32,
    0.0,
    1.0,
    |x: f16, _| x.to_f32(),
    f16::from_f32,
    separate!(f32),
    |x| x < 0.0
);
plain!(
    bf16,
    bf16::ONE,
    f32,
    0.0,
    1.0,
    |x: bf16, _| x.to_f32(),
    bf16::from_f32,
    separate!(f32),
    |x| x < 0.0
);
plain!(
    i32,
    1,
    i32,
    0,
    1,
    |x, _| x,
    |x| x,
    |a: i32, b: i32, c: i32| a.wrapping_mul(b).wrapping_add(c),
    |x| x < 0
);
plain!(
    i64,
    1,
    i64,
    0,
    1,
    |x, _| x,
    |x| x,
    |a: i64, b: i64, c: i64| a.wrapping_mul(b).wrapping_add(c),
    |x| x < 0
);
plain!(
    Complex<f32>,
    Complex::new(1.0, 0.0),
    Complex<f32>,
    Complex::new(0.0, 0.0),
    Complex::new(1.0, 0.0),
    |x: Complex<f32>, conj| if conj { x.conj() } else { x },
    |x| x,
    separate!(Complex<f32>),
    |x: Complex<f32>| x.re < 0.0
);
plain!(
    Complex<f64>,
    Complex::new(1.0, 0.0),
    Complex<f64>,
    Complex::new(0.0, 0.0),
    Complex::new(1.0, 0.0),
    |x: Complex<f64>, conj| if conj { x.conj() } else { x },
    |x| x,
    separate!(Complex<f64>),
    |x: Complex<f64>| x.re < 0.0
);
