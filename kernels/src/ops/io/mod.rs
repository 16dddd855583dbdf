//! Files: checkpoints, whole files, patterns of names.

pub mod file;
mod matching;
pub mod merge;
pub mod remap;
pub mod restore;
pub mod save;
pub mod sharded;
mod support;

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
