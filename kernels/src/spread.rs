//! Splitting the output of a kernel over the workers.
//!
//! Chunks have a length that the caller derives from the output alone, so that nothing about a result can depend on
//! how many workers there are.

use std::marker::PhantomData;

use actorflow_core::parallel::Parallel;

/// Elements of cheap work that are worth handing to another worker.
pub const GRAIN: usize = 64 * 1024;

/// Rows of `row` elements to a chunk, so that a chunk is about [`GRAIN`] elements; at least 1.
pub fn rows_of(row: usize) -> usize {
    (GRAIN / row.max(1)).max(1)
}

/// A slice that several threads write, each other chunks of it.
struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    chunk: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: threads that share it get disjoint chunks only (the promise of `get`), as if each had been sent its own.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

impl<'a, T> Chunks<'a, T> {
    fn new(slice: &'a mut [T], chunk: usize) -> Self {
        Chunks {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            chunk: chunk.max(1),
            slice: PhantomData,
        }
    }

    /// # Safety
    /// Nobody else holds chunk `i`.
    #[expect(
        clippy::mut_from_ref,
        reason = "each chunk is held by one thread, as the caller promises"
    )]
    unsafe fn get(&self, i: usize) -> &mut [T] {
        let begin = i.saturating_mul(self.chunk).min(self.len);
        let len = self.chunk.min(self.len - begin);
        // SAFETY: the range lies in the slice that `self` borrows, and chunks of different numbers do not overlap.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(begin), len) }
    }
}

/// Calls `body(i, chunk i)` for the consecutive chunks of `chunk` elements of `out` (the last may be shorter), on any
/// worker. An empty output has no chunk.
pub fn chunks<T: Send>(par: &dyn Parallel, out: &mut [T], chunk: usize, body: impl Fn(usize, &mut [T]) + Sync) {
    let n = out.len().div_ceil(chunk.max(1));
    if n <= 1 {
        if n == 1 {
            body(0, out);
        }
        return;
    }
    let parts = Chunks::new(out, chunk);
    // SAFETY: `run` hands out every number once.
    par.run(n, &|i| body(i, unsafe { parts.get(i) }));
}

/// As [`chunks`] for two outputs at once: `body(i, chunk i of a, chunk i of b)`, where the number of chunks is `a`'s.
pub fn chunks2<A: Send, B: Send>(
    par: &dyn Parallel,
    (a, chunk_a): (&mut [A], usize),
    (b, chunk_b): (&mut [B], usize),
    body: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let n = a.len().div_ceil(chunk_a.max(1));
    if n <= 1 {
        if n == 1 {
            body(0, a, b);
        }
        return;
    }
    let (a, b) = (Chunks::new(a, chunk_a), Chunks::new(b, chunk_b));
    // SAFETY: `run` hands out every number once.
    par.run(n, &|i| unsafe { body(i, a.get(i), b.get(i)) });
}

/// As [`chunks`] for several outputs of one length at once: `body(start, parts)`, where `start` is the index of the
/// parts' first element. An empty slice among them stays empty.
///
/// # Panics
/// If slices that are not empty differ in length.
pub fn chunks_of_all<T: Send, const N: usize>(
    par: &dyn Parallel,
    outs: [&mut [T]; N],
    chunk: usize,
    body: impl Fn(usize, [&mut [T]; N]) + Sync,
) {
    let len = outs.iter().map(|o| o.len()).max().unwrap_or(0);
    assert!(
        outs.iter().all(|o| o.is_empty() || o.len() == len),
        "outputs differ in length"
    );
    let chunk = chunk.max(1);
    if len <= chunk {
        body(0, outs);
        return;
    }
    let parts = outs.map(|o| Chunks::new(o, chunk));
    par.run(len.div_ceil(chunk), &|i| {
        // SAFETY: `run` hands out every number once.
        body(i * chunk, std::array::from_fn(|k| unsafe { parts[k].get(i) }))
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use actorflow_core::parallel::Serial;

    /// Runs every chunk on a thread of its own, the last first: for tests that nothing depends on the split.
    pub(crate) struct Scattered;

    impl Parallel for Scattered {
        fn threads(&self) -> usize {
            4
        }

        fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
            std::thread::scope(|s| {
                for t in 0..4 {
                    s.spawn(move || (0..chunks).rev().filter(|i| i % 4 == t).for_each(body));
                }
            });
        }
    }

    #[test]
    fn every_element_is_in_one_chunk() {
        for n in [0, 1, 5, 10, 11] {
            for par in [&Serial as &dyn Parallel, &Scattered] {
                let mut v = vec![0usize; n];
                chunks(par, &mut v, 5, |i, c| {
                    c.iter_mut().enumerate().for_each(|(j, x)| *x += 5 * i + j + 1)
                });
                assert_eq!(v, (1..=n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn chunks_of_all_outputs_go_together_and_empty_ones_stay_empty() {
        let (mut a, mut b) = (vec![0; 7], vec![0; 7]);
        chunks_of_all(&Scattered, [&mut a[..], &mut [], &mut b[..]], 2, |at, [a, none, b]| {
            assert!(none.is_empty());
            for (k, (x, y)) in a.iter_mut().zip(b).enumerate() {
                (*x, *y) = (at + k, 10 * (at + k));
            }
        });
        assert_eq!((a, b[6]), (vec![0, 1, 2, 3, 4, 5, 6], 60));
    }

    #[test]
    fn chunks_of_two_outputs_go_together() {
        let (mut a, mut b) = (vec![0; 7], vec![0; 21]);
        chunks2(&Scattered, (&mut a, 2), (&mut b, 6), |i, a, b| {
            assert_eq!(3 * a.len(), b.len());
            a.fill(i);
            b.fill(i);
        });
        assert_eq!(a, [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!((b[5], b[6], b[20]), (0, 1, 3));
    }
}
