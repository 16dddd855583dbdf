//! TensorFlow's files of records with checksums (`TFRecord`), which event files are too.
//!
//! A record is its length (u64, little-endian), the length's checksum, the bytes, their checksum. A checksum is the
//! CRC-32C, rotated by 15 bits, plus `0xa282ead8`. `TensorFlow: core/lib/io/record_writer.h`.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use actorflow_core::files::FilePolicy;
use actorflow_core::{Error, Result};
use actorflow_kernels::ops::reader::source::{Format, Source};
use bytes::Bytes;
use flate2::write::{GzEncoder, ZlibEncoder};

pub use actorflow_kernels::ops::reader::source::Compression;

fn masked_crc(data: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

enum Sink {
    Plain(BufWriter<File>),
    Zlib(ZlibEncoder<BufWriter<File>>),
    Gzip(GzEncoder<BufWriter<File>>),
}

impl Sink {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Sink::Plain(w) => w,
            Sink::Zlib(w) => w,
            Sink::Gzip(w) => w,
        }
    }
}

/// Writes a file of records. Call [`finish`](Self::finish) at the end: it is what reports that the last bytes could not
/// be written.
pub struct RecordWriter {
    path: PathBuf,
    sink: Sink,
}

impl RecordWriter {
    /// Creates the file, replacing an existing one.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn create(path: impl AsRef<Path>, compression: Compression) -> Result<RecordWriter> {
        let path = path.as_ref();
        let file = File::create(path).map_err(|e| Error::from(e).context(path.display()))?;
        Ok(RecordWriter::on(file, path, compression))
    }

    /// Writes to a file that is open.
    pub(crate) fn on(file: File, path: &Path, compression: Compression) -> RecordWriter {
        let file = BufWriter::new(file);
        let level = flate2::Compression::default();
        RecordWriter {
            path: path.to_owned(),
            sink: match compression {
                Compression::None => Sink::Plain(file),
                Compression::Zlib => Sink::Zlib(ZlibEncoder::new(file, level)),
                Compression::Gzip => Sink::Gzip(GzEncoder::new(file, level)),
            },
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn write(&mut self, record: &[u8]) -> Result<()> {
        let length = (record.len() as u64).to_le_bytes();
        let out = self.sink.writer();
        let parts = [&length[..], &masked_crc(&length), record, &masked_crc(record)];
        let done = parts.iter().try_for_each(|part| out.write_all(part));
        done.map_err(|e| Error::from(e).context(self.path.display()))
    }

    /// Hands everything written so far to the operating system.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn flush(&mut self) -> Result<()> {
        let done = self.sink.writer().flush();
        done.map_err(|e| Error::from(e).context(self.path.display()))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// What the file system says, naming the file.
    pub fn finish(self) -> Result<()> {
        let done = match self.sink {
            Sink::Plain(mut w) => w.flush(),
            Sink::Zlib(w) => w.finish().and_then(|mut w| w.flush()),
            Sink::Gzip(w) => w.finish().and_then(|mut w| w.flush()),
        };
        done.map_err(|e| Error::from(e).context(self.path.display()))
    }
}

/// Reads the records of a file one by one; an iterator that ends after the first error.
pub struct RecordReader {
    source: Option<Source>,
}

impl RecordReader {
    /// Opens the file.
    ///
    /// # Errors
    /// `NOT_FOUND` (or as the system says) naming the file; `INVALID_ARGUMENT` for a name that is no UTF-8.
    pub fn open(path: impl AsRef<Path>, compression: Compression) -> Result<RecordReader> {
        let path = path.as_ref();
        let name = path
            .to_str()
            .ok_or_else(|| Error::invalid(format!("the name of the file {} is not UTF-8", path.display())))?;
        let source = Source::open(
            Bytes::copy_from_slice(name.as_bytes()),
            &Format::Records(compression),
            &FilePolicy::anything(),
        )?;
        Ok(RecordReader { source: Some(source) })
    }
}

impl Iterator for RecordReader {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        match self.source.as_mut()?.advance() {
            Ok(Some(record)) => Some(Ok(record.value)),
            Ok(None) => {
                self.source = None;
                None
            }
            Err(e) => {
                self.source = None;
                Some(Err(e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::Code;

    #[test]
    fn records_come_back_whatever_the_compression() {
        let dir = tempfile::tempdir().unwrap();
        for c in [Compression::None, Compression::Zlib, Compression::Gzip] {
            let path = dir.path().join(format!("{c:?}"));
            let mut w = RecordWriter::create(&path, c).unwrap();
            let wanted: Vec<Vec<u8>> = (0..20).map(|i| vec![i as u8; i * 37]).collect();
            for r in &wanted {
                w.write(r).unwrap();
            }
            w.finish().unwrap();
            let read: Vec<Bytes> = RecordReader::open(&path, c).unwrap().map(Result::unwrap).collect();
            assert_eq!(read, wanted, "{c:?}");
        }
    }

    #[test]
    fn the_bytes_are_those_that_tensorflow_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut w = RecordWriter::create(&path, Compression::None).unwrap();
        w.write(b"abc").unwrap();
        w.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        // The CRC-32C of "abc" is 0x364b3fb7.
        let masked = 0x364b_3fb7u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(bytes[..8], 3u64.to_le_bytes());
        assert_eq!(bytes[12..15], *b"abc");
        assert_eq!(bytes[15..], masked.to_le_bytes());
    }

    #[test]
    fn a_torn_file_is_data_loss_once_and_then_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut w = RecordWriter::create(&path, Compression::None).unwrap();
        w.write(b"first").unwrap();
        w.write(b"second").unwrap();
        w.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let mut r = RecordReader::open(&path, Compression::None).unwrap();
        assert_eq!(r.next().unwrap().unwrap(), &b"first"[..]);
        assert_eq!(r.next().unwrap().unwrap_err().code(), Code::DataLoss);
        assert!(r.next().is_none());
    }
}
