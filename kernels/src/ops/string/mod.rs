//! Strings: joining, splitting, searching, hashing, converting; and tensors as text.

pub mod base64;
pub mod case;
mod codec;
pub mod convert;
pub mod csv;
pub mod fact;
pub(crate) mod hash;
pub mod hash_bucket;
pub mod join;
pub mod ngrams;
mod pattern;
pub mod print;
mod printf;
pub mod raw;
pub mod regex_ops;
mod scripts;
pub mod split;
pub mod substr;
mod summary;
mod support;
pub mod unicode;
pub mod vocab_remapping;
