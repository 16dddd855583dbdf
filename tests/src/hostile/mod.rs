//! Files that do harm: what is read, how it is damaged, and what is done with it.
//!
//! - [`seeds`]: sound files, and files that were made to do harm;
//! - [`damage`]: changes of them, of bytes and of what the bytes mean, all from a seed;
//! - [`targets`]: what is done with a file;
//! - [`guided`]: the same for a fuzzer that is guided by coverage.
//!
//! `tests/hostile_files.rs` reads files that follow from seeds, `fuzz/` those that libFuzzer makes.

pub mod damage;
pub mod dice;
pub mod guided;
pub mod seeds;
pub mod targets;
