//! NumPy's `.npy` files: arrays between Python and the engine.
//!
//! Versions 1, 2 and 3 of the format, either byte order, row-major and column-major arrays. Booleans, integers,
//! float16/32/64 and complex numbers become tensors of the same dtype; fixed-width bytes (`|S`) and text (`<U`,
//! as UTF-8) become string tensors without the NULs that pad them. NumPy has no bfloat16.
//! Reference: `numpy.lib.format`, NEP 1.

#![forbid(unsafe_code)]

mod header;

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use bytes::Bytes;

use crate::graphdef::attrs::unit;
use actorflow_core::{DType, Error, Result, Shape, Tensor};
use header::{Header, Kind};

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy's own writer never comes near; a longer header is no array's.
const MAX_HEADER: usize = 1 << 20;
/// The most strings of width 0, which take no byte in the file.
const MAX_EMPTY_STRINGS: usize = 1 << 20;
/// The data starts at a multiple of this.
const ALIGN: usize = 64;
/// Bytes that are turned round at a time, of whole items.
const PIECE: usize = 1 << 16;
/// What pads strings.
const PADDING: [u8; 1024] = [0; 1024];

/// Reads the bytes of an `.npy` file.
///
/// # Errors
/// `INVALID_ARGUMENT` for bytes that are no whole array, `UNIMPLEMENTED` naming the dtype for arrays of objects,
/// records, dates and the like.
pub fn read_npy(bytes: &[u8]) -> Result<Tensor> {
    let bad = |what: &str| Error::invalid(format!("not an .npy array: {what}"));
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| bad("the first bytes are not \"\\x93NUMPY\""))?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [1..=3, ..] | [] | [_] => return Err(bad("it ends inside its header")),
        [v, ..] => return Err(Error::unimplemented(format!("version {v} of the .npy format"))),
    };
    if length > MAX_HEADER || length > rest.len() {
        return Err(bad(&format!("a header of {length} bytes does not fit")));
    }
    let (head, data) = rest.split_at(length);
    let text = std::str::from_utf8(head).map_err(|_| bad("the header is no text"))?;
    let header = Header::parse(text)?;
    let shape = Shape::from_i64(&header.shape)?;
    let count = shape.checked_count()?;
    let size = count
        .checked_mul(header.item)
        .ok_or_else(|| bad("its size overflows"))?;
    if size != data.len() {
        return Err(bad(&format!(
            "{} bytes of data where the shape {shape} and {:?} need {size}",
            data.len(),
            header.descr
        )));
    }
    let reordered;
    let data = if header.fortran && shape.rank() > 1 && size > 0 {
        reordered = row_major(data, &shape, header.item);
        &reordered
    } else {
        data
    };
    match header.kind {
        Kind::Plain(dtype) => plain(dtype, shape, data, header.big_endian),
        Kind::Bytes | Kind::Text if header.item == 0 && count > MAX_EMPTY_STRINGS => {
            Err(bad(&format!("{count} strings of width 0")))
        }
        Kind::Bytes => {
            let values = items(data, header.item, count).map(|s| Bytes::copy_from_slice(trim(s)));
            Tensor::strings(shape, values.collect::<Vec<_>>())
        }
        Kind::Text => {
            let values = items(data, header.item, count).map(|s| text_of(s, header.big_endian));
            Tensor::strings(shape, values.collect::<Result<Vec<_>>>()?)
        }
    }
}

/// Reads an `.npy` file.
///
/// # Errors
/// As [`read_npy`] and the operating system's, naming the file.
pub fn read_npy_file(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    let read = || read_npy(&std::fs::read(path)?);
    read().map_err(|e| e.context(path.display()))
}

/// The bytes of an `.npy` file (version 1, little-endian, row-major) that holds `tensor`; strings become `|S`.
///
/// # Errors
/// `UNIMPLEMENTED` for bfloat16 (cast it to float32), resources and variants; `INVALID_ARGUMENT` for strings that
/// end in a NUL, which NumPy would strip; `RESOURCE_EXHAUSTED` if there is no memory for them.
pub fn write_npy(tensor: &Tensor) -> Result<Vec<u8>> {
    let form = Form::of(tensor)?;
    let size = form.head.len().saturating_add(form.size);
    let mut out = Vec::new();
    out.try_reserve_exact(size)
        .map_err(|_| Error::exhausted(format!("no memory for an .npy array of {size} bytes")))?;
    form.write(&mut out)?;
    Ok(out)
}

/// Writes what [`write_npy`] gives, piece by piece: beside the tensor it takes no memory that grows with it.
///
/// # Errors
/// As [`write_npy`], before anything is written; then the destination's.
pub fn write_npy_to(to: &mut impl Write, tensor: &Tensor) -> Result<()> {
    Form::of(tensor)?.write(to)
}

/// Writes an `.npy` file, replacing an existing one, piece by piece as [`write_npy_to`].
///
/// # Errors
/// As [`write_npy`], and then a file that was there is as it was; the operating system's, naming the file.
pub fn write_npy_file(path: impl AsRef<Path>, tensor: &Tensor) -> Result<()> {
    let path = path.as_ref();
    let write = || {
        let form = Form::of(tensor)?;
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        form.write(&mut file)?;
        Ok::<_, Error>(file.flush()?)
    };
    write().map_err(|e| e.context(path.display()))
}

/// A tensor as a file has it.
struct Form<'a> {
    /// All that comes before the data.
    head: Vec<u8>,
    data: Data<'a>,
    /// Bytes of data.
    size: usize,
}

enum Data<'a> {
    /// Numbers in this machine's byte order.
    Plain(&'a [u8], DType),
    /// Strings, padded to this width.
    Strings(&'a [Bytes], usize),
}

impl<'a> Form<'a> {
    fn of(tensor: &'a Tensor) -> Result<Form<'a>> {
        let (descr, data, size) = match tensor.dtype() {
            DType::Str => {
                let items = tensor.as_strings()?;
                let (width, size) = width(items)?;
                (Cow::from(format!("|S{width}")), Data::Strings(items, width), size)
            }
            DType::BF16 => {
                return Err(Error::unimplemented(
                    "NumPy has no bfloat16; cast the tensor to float32 to write it as .npy",
                ));
            }
            d => match (header::descr(d), tensor.bytes()) {
                (Some(descr), Some(bytes)) => (Cow::from(descr), Data::Plain(bytes, d), bytes.len()),
                _ => return Err(Error::unimplemented(format!("a {d} tensor has no .npy form"))),
            },
        };
        Ok(Form {
            head: head(&descr, tensor.shape())?,
            data,
            size,
        })
    }

    fn write(&self, to: &mut impl Write) -> Result<()> {
        to.write_all(&self.head)?;
        match self.data {
            Data::Plain(bytes, _) if cfg!(target_endian = "little") => to.write_all(bytes)?,
            Data::Plain(bytes, dtype) => {
                for piece in bytes.chunks(PIECE) {
                    let mut piece = piece.to_vec();
                    piece.chunks_exact_mut(unit(dtype)).for_each(<[u8]>::reverse);
                    to.write_all(&piece)?;
                }
            }
            Data::Strings(items, width) => {
                for s in items {
                    to.write_all(s)?;
                    let mut missing = width - s.len();
                    while missing > 0 {
                        let n = missing.min(PADDING.len());
                        to.write_all(&PADDING[..n])?;
                        missing -= n;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The header, padded so that the data is aligned.
fn head(descr: &str, shape: &Shape) -> Result<Vec<u8>> {
    let dims: Vec<String> = shape.iter().map(|d| format!("{d},")).collect();
    let shape = match dims.as_slice() {
        [one] => format!("({one})"),
        many => format!("({})", many.join(" ").trim_end_matches(',')),
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let unpadded = MAGIC.len() + 4 + text.len() + 1;
    text.push_str(&" ".repeat(unpadded.next_multiple_of(ALIGN) - unpadded));
    text.push('\n');
    let length = u16::try_from(text.len()).map_err(|_| Error::invalid("the shape is too long for an .npy header"))?;
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&[1, 0]);
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(text.as_bytes());
    Ok(head)
}

/// Exactly `count` items of `width` bytes; of width 0 they are all empty.
fn items(data: &[u8], width: usize, count: usize) -> impl Iterator<Item = &[u8]> {
    (0..count).map(move |i| &data[i * width..(i + 1) * width])
}

fn trim(s: &[u8]) -> &[u8] {
    let end = s.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    &s[..end]
}

/// Text of NumPy's UCS-4 as UTF-8.
fn text_of(item: &[u8], big_endian: bool) -> Result<Bytes> {
    let mut text = String::with_capacity(item.len() / 4);
    for &unit in item.as_chunks::<4>().0 {
        let code = if big_endian {
            u32::from_be_bytes(unit)
        } else {
            u32::from_le_bytes(unit)
        };
        let c = char::from_u32(code);
        text.push(c.ok_or_else(|| Error::invalid(format!("not an .npy array: {code:#x} is no character")))?);
    }
    text.truncate(text.trim_end_matches('\0').len());
    Ok(text.into())
}

fn plain(dtype: DType, shape: Shape, data: &[u8], big_endian: bool) -> Result<Tensor> {
    if dtype == DType::Bool && data.iter().any(|b| *b > 1) {
        let clean: Vec<u8> = data.iter().map(|b| u8::from(*b != 0)).collect();
        return Tensor::from_bytes(dtype, shape, &clean);
    }
    let mut t = Tensor::from_bytes(dtype, shape, data)?;
    if big_endian != cfg!(target_endian = "big")
        && dtype.size() > 1
        && let Some(b) = t.bytes_mut()
    {
        b.chunks_exact_mut(unit(dtype)).for_each(<[u8]>::reverse);
    }
    Ok(t)
}

/// The width of strings in a file, and the bytes that all take.
fn width(items: &[Bytes]) -> Result<(usize, usize)> {
    if let Some(i) = items.iter().position(|s| s.last() == Some(&0)) {
        return Err(Error::invalid(format!(
            "string {i} ends in a NUL byte, which the .npy format cannot tell from padding"
        )));
    }
    // NumPy gives an array of empty strings the width 1.
    let width = items.iter().map(Bytes::len).max().unwrap_or(0).max(1);
    let size = width.checked_mul(items.len()).filter(|n| *n <= isize::MAX as usize);
    let size = size.ok_or_else(|| Error::exhausted("the strings are too long for one .npy array"))?;
    Ok((width, size))
}

/// The items of a column-major array in row-major order.
fn row_major(data: &[u8], shape: &Shape, item: usize) -> Vec<u8> {
    let dims = shape.dims();
    let mut strides = vec![item; dims.len()];
    for i in 1..dims.len() {
        strides[i] = strides[i - 1] * dims[i - 1];
    }
    let mut out = Vec::with_capacity(data.len());
    let mut at = vec![0; dims.len()];
    let mut from = 0;
    while out.len() < data.len() {
        out.extend_from_slice(&data[from..from + item]);
        for i in (0..dims.len()).rev() {
            at[i] += 1;
            from += strides[i];
            if at[i] < dims[i] {
                break;
            }
            from -= strides[i] * dims[i];
            at[i] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests;
