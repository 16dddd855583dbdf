//! The one place the runtime takes its synchronisation primitives from, so that they can be model-checked.
//!
//! In a normal build this is `std`'s atomics and threads and `parking_lot`'s locks. Built with
//! `RUSTFLAGS="--cfg loom"` the same names are [loom](https://docs.rs/loom)'s, which runs a test under every
//! interleaving and every outcome the C11 memory model allows, up to a bound. Every structure whose
//! correctness rests on memory orderings ([`pending`](crate::pending), [`mailbox`](crate::mailbox),
//! [`parked`](crate::parked), [`region`](crate::region), [`turn`](crate::turn)) is written against this module, and the code that is
//! checked is the code that ships.
//!
//! The models are the `loom_*` test targets of this crate. As models:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=/tmp/loom-target \
//!     cargo test --release -p actorflow-actors --test 'loom_*'
//! ```
//!
//! and in a plain `cargo test` the same scenarios run as short stress tests on real threads.

#[cfg(loom)]
pub use loom::{
    cell::UnsafeCell,
    hint,
    sync::{Arc, atomic},
    thread, thread_local,
};
#[cfg(not(loom))]
pub use std::{
    hint,
    sync::{Arc, atomic},
    thread, thread_local,
};

#[cfg(not(loom))]
pub use plain::{Mutex, UnsafeCell};

#[cfg(loom)]
pub use modelled::Mutex;

#[cfg(not(loom))]
mod plain {
    pub use parking_lot::Mutex;

    /// `std`'s `UnsafeCell` behind the closure interface of loom's, which lets loom see every access.
    #[derive(Debug, Default)]
    pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// Wraps a value.
        pub const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// Gives `f` a pointer to read through; the caller answers for there being no writer meanwhile.
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Gives `f` a pointer to write through; the caller answers for there being no other access meanwhile.
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(loom)]
mod modelled {
    /// loom's mutex with `parking_lot`'s interface: `lock` gives the guard, a panic does not poison.
    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// Wraps a value.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }
}
