//! What the tests of hostile files are made of.
//!
//! - [`seeds`]: sound files, and files that were made to do harm;
//! - [`damage`]: changes of them, of bytes and of what the bytes mean, all from a seed;
//! - [`targets`]: what is done with a file;
//! - [`child`]: a process of its own for that, with bounded memory.

pub(crate) mod child;
pub(crate) mod damage;
pub(crate) mod dice;
pub(crate) mod seeds;
pub(crate) mod targets;
