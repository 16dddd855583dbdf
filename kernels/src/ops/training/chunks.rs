//! Slices cut into chunks for the workers of a device.

use actorflow_core::parallel::Parallel;

/// Elements of a chunk that are worth a hand-over to another worker.
pub const GRAIN: usize = 64 << 10;

/// Writable memory that several workers share, each for a range of its own.
struct Shared<T>(*mut T);

// SAFETY: the workers get disjoint ranges, each of which one worker writes; the borrow of the whole slice outlives
// them all.
unsafe impl<T: Send> Sync for Shared<T> {}

/// Calls `f` with where a chunk of the range `0..len` starts and its part of each of the slices `to`, on the device's
/// workers. Empty slices stay empty.
///
/// # Panics
/// If a slice that is not empty is shorter than `len`.
pub fn zip<T: Send, const N: usize>(
    parallel: &dyn Parallel,
    len: usize,
    to: [&mut [T]; N],
    f: &(dyn Fn(usize, [&mut [T]; N]) + Sync),
) {
    assert!(
        to.iter().all(|s| s.is_empty() || s.len() >= len),
        "a slice is too short"
    );
    let threads = parallel.threads();
    if threads < 2 || len < 2 * GRAIN {
        f(0, to);
        return;
    }
    // Whole cache lines, and at most two chunks for each worker.
    let size = len.div_ceil(2 * threads).max(GRAIN).next_multiple_of(64);
    let used = to.each_ref().map(|s| !s.is_empty());
    let shared = to.map(|s| Shared(s.as_mut_ptr()));
    parallel.run(len.div_ceil(size), &|i| {
        let start = i * size;
        let n = size.min(len - start);
        let parts = std::array::from_fn(|k| {
            let (at, n) = if used[k] { (start, n) } else { (0, 0) };
            // SAFETY: `start + n <= len`, so the range is inside the slice, and no two calls have a common element.
            unsafe { std::slice::from_raw_parts_mut(shared[k].0.add(at), n) }
        });
        f(start, parts);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;

    impl Parallel for Two {
        fn threads(&self) -> usize {
            2
        }

        fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
            for i in (0..chunks).rev() {
                body(i);
            }
        }
    }

    #[test]
    fn every_element_is_in_exactly_one_chunk() {
        for len in [0, 1, GRAIN * 2 - 1, GRAIN * 2, GRAIN * 3 + 5, GRAIN * 9 + 63] {
            let (mut a, mut b) = (vec![0u32; len], vec![0u32; len]);
            zip(&Two, len, [&mut a, &mut b], &|start, [a, b]| {
                for (i, x) in a.iter_mut().enumerate() {
                    *x += (start + i) as u32;
                }
                b.iter_mut().for_each(|x| *x += 1);
            });
            assert!(a.iter().enumerate().all(|(i, x)| *x == i as u32) && b.iter().all(|x| *x == 1));
        }
    }
}
