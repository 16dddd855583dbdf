//! Writing PNG files.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use png::{BitDepth, ColorType, Compression, Encoder};

/// An image `[height, width, channels]` as a PNG file; samples of 16 bits are big-endian.
///
/// # Errors
/// `INVALID_ARGUMENT` for extents and channels that the format cannot have.
pub(crate) fn encoded(pixels: &[u8], [h, w, c]: [usize; 3], depth: BitDepth, level: i64) -> Result<Vec<u8>> {
    let color = match c {
        1 => ColorType::Grayscale,
        2 => ColorType::GrayscaleAlpha,
        3 => ColorType::Rgb,
        4 => ColorType::Rgba,
        _ => {
            return Err(Error::invalid(format!(
                "image must have 1, 2, 3, or 4 channels, got {c}"
            )));
        }
    };
    let extent = |n: usize| u32::try_from(n).ok().filter(|n| (1..=i32::MAX as u32).contains(n));
    let (Some(width), Some(height)) = (extent(w), extent(h)) else {
        return Err(Error::invalid(format!(
            "an image of {h} by {w} pixels cannot be a PNG file"
        )));
    };
    let mut file = Vec::new();
    let wrong = |e: png::EncodingError| Error::invalid(format!("the image cannot be a PNG file: {e}"));
    let mut encoder = Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    encoder.set_compression(match level {
        0 => Compression::NoCompression,
        1..=3 => Compression::Fast,
        7.. => Compression::High,
        _ => Compression::Balanced,
    });
    let mut writer = encoder.write_header().map_err(wrong)?;
    writer.write_image_data(pixels).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    Ok(file)
}
