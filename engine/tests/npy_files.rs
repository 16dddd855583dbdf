//! `.npy` files are written piece by piece.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::io::Write;

use actorflow::npy::{read_npy, read_npy_file, write_npy, write_npy_file, write_npy_to};
use actorflow::{DType, Tensor};

/// Counts what is written, and what of it lies in the tensor itself; fails after some bytes.
struct Sink<'a> {
    tensor: &'a [u8],
    all: usize,
    uncopied: usize,
    room: usize,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.all + bytes.len() > self.room {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.all += bytes.len();
        if self.tensor.as_ptr_range().contains(&bytes.as_ptr()) {
            self.uncopied += bytes.len();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
#[cfg(target_endian = "little")]
fn numbers_are_written_without_a_copy() {
    let t = Tensor::zeros(DType::F32, [1 << 18]).unwrap();
    let mut sink = Sink {
        tensor: t.bytes().unwrap(),
        all: 0,
        uncopied: 0,
        room: usize::MAX,
    };
    write_npy_to(&mut sink, &t).unwrap();
    assert_eq!((sink.uncopied, sink.all), (4 << 18, write_npy(&t).unwrap().len()));
    let mut full = Sink {
        all: 0,
        uncopied: 0,
        room: 1 << 10,
        ..sink
    };
    assert!(write_npy_to(&mut full, &t).is_err(), "the destination was full");
}

#[test]
fn a_file_has_what_is_written_into_memory_or_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    // Longer than the pieces that pad the other strings.
    let long = "x".repeat(3 << 10);
    let strings = Tensor::strings([3], vec!["a".to_owned(), long, String::new()]).unwrap();
    for t in [strings, Tensor::from([[1f64, -2.0], [3.0, 0.5]])] {
        write_npy_file(&path, &t).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes, write_npy(&t).unwrap());
        assert_eq!(read_npy(&bytes).unwrap(), t);
        assert_eq!(read_npy_file(&path).unwrap(), t);
    }
    let before = std::fs::read(&path).unwrap();
    let e = write_npy_file(&path, &Tensor::zeros(DType::BF16, [2]).unwrap()).unwrap_err();
    assert!(e.message().contains("a.npy") && e.message().contains("float32"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
