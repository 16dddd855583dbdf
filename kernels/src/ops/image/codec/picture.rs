//! Decoding image files of several formats.
#![forbid(unsafe_code)]

use std::io::Cursor;

use actorflow_core::error::{Error, Result};
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::jpeg::{Refusal, pixels, read};

/// The most samples of an image: files that say more are refused before anything is allocated.
const MOST: usize = 1 << 29;

/// A format of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    Jpeg,
    Gif,
    Bmp,
}

impl Format {
    /// The format that a file's first bytes tell.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if they tell none.
    pub(super) fn of(file: &[u8]) -> Result<Format> {
        const SIGNS: [(&[u8], Format); 4] = [
            (b"\x89PNG\r\n\x1a\n", Format::Png),
            (b"\xff\xd8\xff", Format::Jpeg),
            (b"GIF8", Format::Gif),
            (b"BM", Format::Bmp),
        ];
        if file.is_empty() {
            return Err(Error::invalid("Input is empty."));
        }
        SIGNS
            .iter()
            .find(|(sign, _)| file.starts_with(sign))
            .map(|s| s.1)
            .ok_or_else(|| Error::invalid("Unknown image file format. One of JPEG, PNG, GIF, BMP required."))
    }
}

/// A decoded image (or several, of an animation): samples `[frames, height, width, channels]`.
pub(super) struct Picture {
    pub(super) frames: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) samples: Samples,
    /// Channels that it gets if none are asked for.
    natural: usize,
    /// What opaque is, where no alpha is in the file. As in TensorFlow, the largest sample of the file's depth, even if
    /// the other samples are widened to a byte.
    opaque: u16,
}

pub(super) enum Samples {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
}

fn room(what: &str, dims: [usize; 4]) -> Result<usize> {
    dims.iter()
        .try_fold(1usize, |n, d| n.checked_mul(*d))
        .filter(|n| (1..=MOST).contains(n))
        .ok_or_else(|| {
            Error::invalid(format!(
                "{what} has an image of impossible or too large extents {:?}",
                &dims[1..3]
            ))
        })
}

/// A sample of one or two bytes.
trait Sample: Copy {
    fn wide(self) -> u32;
    fn of(x: u32) -> Self;
    /// Half a unit in the conversion to grey: TensorFlow's library rounds words but cuts bytes off.
    const HALF: u32;
}

impl Sample for u8 {
    const HALF: u32 = 0;
    fn wide(self) -> u32 {
        self.into()
    }
    fn of(x: u32) -> u8 {
        x as u8
    }
}

impl Sample for u16 {
    const HALF: u32 = 1 << 14;
    fn wide(self) -> u32 {
        self.into()
    }
    fn of(x: u32) -> u16 {
        x as u16
    }
}

/// Samples of `from` channels as samples of `to`: grey (1), with alpha (2), red, green, blue (3), with alpha (4).
fn converted<T: Sample>(x: Vec<T>, from: usize, to: usize, opaque: T) -> Vec<T> {
    if from == to {
        return x;
    }
    let mut out = Vec::with_capacity(x.len() / from * to);
    for p in x.chunks_exact(from) {
        let (color, alpha) = match from {
            1 | 2 => ([p[0]; 3], p.get(1)),
            _ => ([p[0], p[1], p[2]], p.get(3)),
        };
        let alpha = alpha.copied().unwrap_or(opaque);
        match to {
            1 | 2 => {
                let [r, g, b] = color.map(T::wide);
                // The weights of red, green and blue in 2^-15.
                let grey = match r == g && g == b {
                    true => color[0],
                    false => T::of((9797 * r + 19234 * g + 3737 * b + T::HALF) >> 15),
                };
                out.push(grey);
            }
            _ => out.extend(color),
        }
        if to.is_multiple_of(2) {
            out.push(alpha);
        }
    }
    out
}

impl Picture {
    /// Decodes a file. A JPEG file is decoded to as many `channels` as asked for (0: as many as it has).
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a file that is torn, malformed or too large.
    pub(super) fn decoded(file: &[u8], channels: usize, options: JpegOptions) -> Result<Picture> {
        match Format::of(file)? {
            Format::Png => png(file),
            Format::Jpeg => jpeg(file, channels, options),
            Format::Gif => gif(file),
            Format::Bmp => bmp(file),
        }
    }

    /// With this number of channels, or with its own if 0.
    pub(super) fn with_channels(mut self, channels: usize) -> Picture {
        let to = if channels == 0 { self.natural } else { channels };
        self.samples = match self.samples {
            Samples::Bytes(v) => Samples::Bytes(converted(v, self.channels, to, self.opaque as u8)),
            Samples::Words(v) => Samples::Words(converted(v, self.channels, to, self.opaque)),
        };
        self.channels = to;
        self
    }

    /// The part of `[height, width]` that begins at `[y, x]`; `None` if it is empty or leaves the image.
    pub(super) fn cropped(self, [y, x]: [usize; 2], [h, w]: [usize; 2]) -> Option<Picture> {
        let inside = |at: usize, n: usize, all: usize| n > 0 && at.checked_add(n).is_some_and(|e| e <= all);
        if !inside(y, h, self.height) || !inside(x, w, self.width) {
            return None;
        }
        let (row, from, len) = (self.width * self.channels, x * self.channels, w * self.channels);
        fn cut<T: Copy>(v: &[T], row: usize, rows: std::ops::Range<usize>, from: usize, len: usize) -> Vec<T> {
            rows.flat_map(|r| v[r * row + from..][..len].iter().copied()).collect()
        }
        Some(Picture {
            samples: match &self.samples {
                Samples::Bytes(v) => Samples::Bytes(cut(v, row, y..y + h, from, len)),
                Samples::Words(v) => Samples::Words(cut(v, row, y..y + h, from, len)),
            },
            frames: 1,
            height: h,
            width: w,
            ..self
        })
    }
}

fn png(file: &[u8]) -> Result<Picture> {
    let wrong = |e: png::DecodingError| Error::invalid(format!("Invalid PNG data, size {}: {e}", file.len()));
    let limits = png::Limits { bytes: 4 * MOST };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), limits);
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(wrong)?;
    let (color, depth) = reader.output_color_type();
    let info = reader.info();
    let (height, width, channels) = (info.height as usize, info.width as usize, color.samples());
    // Only a palette's transparency is a channel that nobody need ask for.
    let natural = match info.color_type {
        png::ColorType::Indexed => channels,
        own => own.samples(),
    };
    let opaque = ((1u32 << (info.bit_depth as u32)) - 1) as u16;
    let n = room("a PNG file", [1, height, width, channels])?;
    let bytes = if depth == png::BitDepth::Sixteen { 2 * n } else { n };
    let mut data = vec![0; bytes];
    reader.next_frame(&mut data).map_err(wrong)?;
    Ok(Picture {
        frames: 1,
        height,
        width,
        channels,
        natural,
        opaque,
        samples: match depth {
            png::BitDepth::Sixteen => {
                Samples::Words(data.as_chunks::<2>().0.iter().map(|b| u16::from_be_bytes(*b)).collect())
            }
            _ => Samples::Bytes(data),
        },
    })
}

/// Height, width and channels of a JPEG file.
///
/// # Errors
/// `INVALID_ARGUMENT` if it is none.
pub(super) fn jpeg_extents(file: &[u8]) -> Result<[usize; 3]> {
    let mut decoder = zune_jpeg::JpegDecoder::new(ZCursor::new(file));
    decoder
        .decode_headers()
        .map_err(|e| Error::invalid(format!("Invalid JPEG data, size {}: {e}", file.len())))?;
    let info = decoder
        .info()
        .ok_or_else(|| Error::invalid("a JPEG file has no header"))?;
    Ok([info.height.into(), info.width.into(), info.components.into()])
}

/// How JPEG files are decoded.
#[derive(Clone, Copy)]
pub(super) struct JpegOptions {
    /// How many times smaller the image becomes: 1, 2, 4 or 8.
    pub(super) ratio: usize,
    /// Whether colours are scaled up smoothly.
    pub(super) fancy: bool,
    /// Whether the transform is the accurate one; else the one that is TensorFlow's default.
    pub(super) accurate: bool,
}

impl Default for JpegOptions {
    fn default() -> Self {
        JpegOptions {
            ratio: 1,
            fancy: true,
            accurate: false,
        }
    }
}

fn jpeg(file: &[u8], channels: usize, options: JpegOptions) -> Result<Picture> {
    let wrong = |e: &dyn std::fmt::Display| Error::invalid(format!("Invalid JPEG data, size {}: {e}", file.len()));
    let [height, width, components] = jpeg_extents(file)?;
    let (color, channels) = match (channels, components) {
        (1, _) | (0, 1) => (ColorSpace::Luma, 1),
        _ => (ColorSpace::RGB, 3),
    };
    room("a JPEG file", [1, height, width, channels])?;
    match read(file, MOST) {
        Ok(image) => {
            let ([height, width], data) = pixels(&image, options.ratio, channels, [options.fancy, options.accurate]);
            return Ok(Picture {
                frames: 1,
                height,
                width,
                channels,
                natural: channels,
                opaque: 255,
                samples: Samples::Bytes(data),
            });
        }
        Err(Refusal::Wrong(why)) => return Err(wrong(&why)),
        Err(Refusal::Kind) if options.ratio != 1 => {
            return Err(Error::unimplemented(
                "JPEG files of other colours than brightness and YCbCr are decoded in full size only: ratio must be 1",
            ));
        }
        Err(Refusal::Kind) => {}
    }
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(1 << 16)
        .set_max_height(1 << 16)
        .jpeg_set_out_colorspace(color);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(file), options);
    let data = decoder.decode().map_err(|e| wrong(&e))?;
    if data.len() != height * width * channels {
        return Err(wrong(&"its colours are of a kind that is not supported"));
    }
    Ok(Picture {
        frames: 1,
        height,
        width,
        channels,
        natural: channels,
        opaque: 255,
        samples: Samples::Bytes(data),
    })
}

fn gif(file: &[u8]) -> Result<Picture> {
    let wrong = |e: gif::DecodingError| Error::invalid(format!("Invalid GIF data, size {}: {e}", file.len()));
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    options.set_memory_limit(gif::MemoryLimit::Bytes(
        std::num::NonZeroU64::new(4 * MOST as u64).ok_or_else(|| Error::internal("a limit of nothing"))?,
    ));
    let mut decoder = options.read_info(Cursor::new(file)).map_err(wrong)?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let one = room("a GIF file", [1, height, width, 3])?;
    let mut all: Vec<u8> = Vec::new();
    let mut frames = 0;
    while let Some(frame) = decoder.read_next_frame().map_err(wrong)? {
        frames += 1;
        room("a GIF file", [frames, height, width, 3])?;
        // What a frame leaves open shows the one before it, or black.
        let begin = all.len();
        match begin.checked_sub(one) {
            Some(before) => all.extend_from_within(before..),
            None => all.resize(one, 0),
        }
        let (top, left, columns) = (
            usize::from(frame.top),
            usize::from(frame.left),
            usize::from(frame.width),
        );
        for (i, pixel) in frame.buffer.as_chunks::<4>().0.iter().enumerate() {
            let (y, x) = (top + i / columns.max(1), left + i % columns.max(1));
            if pixel[3] != 0 && y < height && x < width {
                all[begin + 3 * (y * width + x)..][..3].copy_from_slice(&pixel[..3]);
            }
        }
    }
    if frames == 0 {
        return Err(Error::invalid("Invalid GIF data: it has no frame"));
    }
    Ok(Picture {
        frames,
        height,
        width,
        channels: 3,
        natural: 3,
        opaque: 255,
        samples: Samples::Bytes(all),
    })
}

fn bmp(file: &[u8]) -> Result<Picture> {
    let number = |at: usize| match file.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ok(i32::from_le_bytes([a, b, c, d])),
        _ => Err(Error::invalid(format!(
            "Incomplete bmp content, requires at least 32 bytes to find the header size, width, height, and bpp, got {} bytes",
            file.len()
        ))),
    };
    let (header, w, h, bits) = (number(10)?, number(18)?, number(22)?, number(28)? & 0xffff);
    let wrong = |what: &str| Error::invalid(format!("a BMP file has {what}: {w} by {h} pixels of {bits} bits"));
    let channels = match bits {
        8 => 1,
        24 => 3,
        32 => 4,
        _ => return Err(wrong("pixels that are not supported, of neither 8 nor 24 nor 32 bits")),
    };
    let (Ok(header), Ok(width)) = (usize::try_from(header), usize::try_from(w)) else {
        return Err(wrong("a negative size"));
    };
    let height = h.unsigned_abs() as usize;
    room("a BMP file", [1, height, width, channels])?;
    let row = (width * channels).next_multiple_of(4);
    if file.len().checked_sub(header) != row.checked_mul(height) {
        return Err(wrong("another length than header and rows"));
    }
    let mut data = Vec::with_capacity(height * width * channels);
    for y in 0..height {
        // Rows go up unless the height is negative.
        let line = if h > 0 { height - 1 - y } else { y };
        for p in file[header + line * row..][..width * channels].chunks_exact(channels) {
            match *p {
                [b, g, r] => data.extend([r, g, b]),
                [b, g, r, a] => data.extend([r, g, b, a]),
                _ => data.extend(p),
            }
        }
    }
    Ok(Picture {
        frames: 1,
        height,
        width,
        channels,
        natural: channels,
        opaque: 255,
        samples: Samples::Bytes(data),
    })
}
