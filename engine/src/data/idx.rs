//! IDX files, such as MNIST's: arrays of numbers.
//!
//! Two zero bytes, the element type, the rank; the dimensions and the elements, big-endian. Packed by gzip or not.
//! Reference: yann.lecun.com/exdb/mnist.

use std::io::Read;
use std::path::Path;

use actorflow_core::{DType, Error, Result, Shape, Tensor};

/// A file of more elements' bytes is not one of examples.
const MAX_BYTES: usize = 1 << 40;

fn dtype(code: u8) -> Result<DType> {
    Ok(match code {
        0x08 => DType::U8,
        0x09 => DType::I8,
        0x0b => DType::I16,
        0x0c => DType::I32,
        0x0d => DType::F32,
        0x0e => DType::F64,
        _ => {
            return Err(Error::data_loss(format!(
                "no IDX file: there is no element type {code:#x}"
            )));
        }
    })
}

/// Reads an array.
///
/// # Errors
/// `DATA_LOSS` for anything that is no whole IDX file; what reading says.
pub fn read_idx(mut from: impl Read) -> Result<Tensor> {
    let lost = |what: &str| Error::data_loss(format!("no IDX file: {what}"));
    let mut head = [0u8; 4];
    from.read_exact(&mut head)?;
    let [0, 0, code, rank] = head else {
        return Err(lost("it does not begin with two zero bytes"));
    };
    let dtype = dtype(code)?;
    let mut dims = vec![0u8; usize::from(rank) * 4];
    from.read_exact(&mut dims)?;
    let dims = dims.as_chunks::<4>().0.iter();
    let dims: Vec<i64> = dims.map(|d| i64::from(u32::from_be_bytes(*d))).collect();
    let shape = Shape::from_i64(&dims).map_err(|e| lost(e.message()))?;
    let size = shape.checked_count()?.checked_mul(dtype.size());
    let size = size
        .filter(|n| *n <= MAX_BYTES)
        .ok_or_else(|| lost(&format!("the shape {shape} is too large")))?;
    // Grows with what is there, whatever the head says.
    let mut data = Vec::new();
    from.by_ref().take(size as u64).read_to_end(&mut data)?;
    if data.len() < size {
        return Err(lost(&format!("{} of {size} bytes of elements are there", data.len())));
    }
    if from.read(&mut [0])? > 0 {
        return Err(lost("there are bytes after the last element"));
    }
    if cfg!(target_endian = "little") {
        data.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    Tensor::from_bytes(dtype, shape, &data)
}

/// Reads a file, packed by gzip or not.
///
/// # Errors
/// As [`read_idx`], naming the file.
pub fn read_idx_file(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    read_idx(super::opened(path)?).map_err(|e| e.context(path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::Code;
    use std::io::Write;

    const BYTES: &[u8] = &[0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];

    #[test]
    fn arrays_are_read_packed_or_not() {
        let want = Tensor::from_slice([2, 3], &[1u8, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(read_idx(BYTES).unwrap(), want);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images.gz");
        let file = std::fs::File::create(&path).unwrap();
        let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packed.write_all(BYTES).unwrap();
        packed.finish().unwrap();
        assert_eq!(read_idx_file(&path).unwrap(), want);
    }

    #[test]
    fn numbers_of_several_bytes_are_big_endian() {
        let bytes = [&[0, 0, 0x0b, 1, 0, 0, 0, 2][..], &[0x01, 0x02, 0xff, 0xff]].concat();
        assert_eq!(read_idx(&bytes[..]).unwrap(), Tensor::vector(&[0x0102i16, -1]));
        let bytes = [&[0, 0, 0x0d, 0][..], &1.5f32.to_be_bytes()].concat();
        assert_eq!(read_idx(&bytes[..]).unwrap(), Tensor::from(1.5f32));
    }

    #[test]
    fn what_is_torn_or_too_long_or_something_else_is_data_loss() {
        for end in 0..BYTES.len() {
            assert_eq!(read_idx(&BYTES[..end]).unwrap_err().code(), Code::DataLoss, "{end}");
        }
        let longer = [BYTES, &[7]].concat();
        let huge = [&[0, 0, 8, 3][..], &[0xff; 12]].concat();
        let kind = [0, 0, 7, 0, 1];
        for bad in [&longer[..], &huge, &kind, b"PK\x03\x04xxxx"] {
            let e = read_idx(bad).unwrap_err();
            assert!(matches!(e.code(), Code::DataLoss | Code::InvalidArgument), "{e}");
        }
    }
}
