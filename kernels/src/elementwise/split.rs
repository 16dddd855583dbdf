//! Splitting work over the device's workers.
#![forbid(unsafe_code)]

use actorflow_core::parallel::Parallel;

/// Calls `body(start, end)` for ranges that together make `0..n`, on the device's workers if there is enough to do.
///
/// No range is shorter than about `grain` elements; all but the last are multiples of `align`. There are a few more
/// ranges than threads, so that a thread that is late does not hold up the others.
pub fn ranges(parallel: &dyn Parallel, n: usize, grain: usize, align: usize, body: &(dyn Fn(usize, usize) + Sync)) {
    let most = n / grain.max(1);
    let threads = if most < 2 { 1 } else { parallel.threads() };
    if threads == 1 {
        if n > 0 {
            body(0, n);
        }
        return;
    }
    let chunks = most.min(4 * threads);
    let align = align.max(1);
    let size = n.div_ceil(chunks).div_ceil(align).saturating_mul(align);
    parallel.run(n.div_ceil(size), &|i| body(i * size, ((i + 1) * size).min(n)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Four;
    impl Parallel for Four {
        fn threads(&self) -> usize {
            4
        }
        fn run(&self, chunks: usize, body: &(dyn Fn(usize) + Sync)) {
            (0..chunks).rev().for_each(body);
        }
    }

    #[test]
    fn ranges_are_whole_and_aligned() {
        for (n, grain, align) in [
            (0, 10, 1),
            (1, 10, 1),
            (1000, 10, 64),
            (1001, 300, 7),
            (20, 10, 64),
            (5, 0, 0),
        ] {
            let got = Mutex::new(Vec::new());
            ranges(&Four, n, grain, align, &|s, e| got.lock().unwrap().push((s, e)));
            let mut got = got.into_inner().unwrap();
            got.sort_unstable();
            assert_eq!(got.iter().map(|(s, e)| e - s).sum::<usize>(), n);
            assert!(got.windows(2).all(|w| w[0].1 == w[1].0 && w[0].1 % align.max(1) == 0));
            assert!(got.len() <= 16 && got.iter().all(|(s, e)| s < e));
        }
    }
}
