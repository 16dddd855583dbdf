//! What the tests of hostile files are made of, beside `actorflow_tests::hostile`.
//!
//! - [`child`]: a process of its own for reading files, with bounded memory.

pub(crate) mod child;
