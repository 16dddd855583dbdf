//! TODO
pub mod graphdef;
