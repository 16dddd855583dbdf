//! The workspace's own suites, and what they share.
//!
//! This package holds the tests that no single crate can hold: the house rules over every source file
//! (`tests/tidy.rs`), the dependency rule over every package (`tests/dependency_rule.rs`), and end-to-end behaviour of the
//! engine. The library part is what those suites are written with:
//!
//! - [`hostile`] damages graphs, SavedModels and checkpoints, and reads them, for tests and fuzzers;
//! - [`oracle`] lists the bundled cases that TensorFlow has answered;
//! - [`repo`] finds the repository and lists its files;
//! - [`source`] reads Rust source as lines of code, comments and test regions;
//! - [`rules`] states the house rules as functions from sources to findings, so that each rule can itself be tested.
//!
//! It may depend on any other package of the workspace; none may depend on it. Nothing here needs a network.
#![forbid(unsafe_code)]

pub mod hostile;
pub mod oracle;
pub mod repo;
pub mod rules;
pub mod source;
