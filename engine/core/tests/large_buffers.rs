//! Buffers that are backed by huge pages where the system has them.
#![forbid(unsafe_code)]

use actorflow_core::tensor::Pool;

const MIB: usize = 1 << 20;

#[test]
fn buffers_of_every_size_are_zero_at_first_and_used_again() {
    let pool = Pool::new(usize::MAX, usize::MAX);
    for bytes in [3 * MIB, 4 * MIB, 5 * MIB + 3, 20 * MIB] {
        let mut fresh = pool.alloc(bytes).unwrap();
        assert_eq!((fresh.bytes().len(), fresh.bytes().as_ptr() as usize % 64), (bytes, 0));
        assert!(fresh.bytes().iter().all(|b| *b == 0), "{bytes}");
        fresh.bytes_mut().fill(7);
        let at = fresh.bytes().as_ptr();
        drop(fresh);
        let again = pool.alloc(bytes).unwrap();
        assert_eq!((again.bytes().as_ptr(), again.bytes()[bytes - 1]), (at, 7), "{bytes}");
    }
    pool.trim();
    assert_eq!((pool.stats().used, pool.stats().kept), (0, 0));
}
