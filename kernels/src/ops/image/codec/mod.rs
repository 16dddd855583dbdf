//! Images as files.
//!
//! - `picture`: decoding PNG, JPEG, GIF and BMP
//! - `png`: writing PNG; `jpeg`: writing JPEG
//! - the other files define the operations

pub mod decode;
pub mod encode;
pub mod jpeg;
mod picture;
pub(crate) mod png;
