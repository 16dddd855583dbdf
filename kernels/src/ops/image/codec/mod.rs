//! Images as files.
//!
//! - `picture`: decoding PNG, JPEG, GIF and BMP
//! - `png`: writing PNG
//! - the other files define the operations

pub mod decode;
pub mod encode;
mod picture;
pub(crate) mod png;
