//! One unit of a reader's work: a file (or just its name), cut into records.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use actorflow_core::error::{Error, Result};
use actorflow_core::files::{Access, FilePolicy};
use bytes::Bytes;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use crate::files;

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// As zlib streams.
    Zlib,
    /// As gzip files.
    Gzip,
}

impl Compression {
    /// The one that an attribute names; `""` is none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for another name.
    pub fn of(name: &str) -> Result<Compression> {
        match name {
            "" => Ok(Compression::None),
            "ZLIB" => Ok(Compression::Zlib),
            "GZIP" => Ok(Compression::Gzip),
            _ => Err(Error::invalid(format!(
                "unknown compression {name:?}; it is \"\", \"ZLIB\" or \"GZIP\""
            ))),
        }
    }
}

/// How a file is cut into records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// Lines, without their ends.
    Lines {
        /// Lines at the beginning that are no records.
        skip: usize,
    },
    /// The file is one record.
    Whole,
    /// TensorFlow's format of records with checksums.
    Records(Compression),
    /// Records of one length.
    Fixed {
        /// Bytes before the first record.
        header: u64,
        /// Bytes of a record.
        record: u64,
        /// Bytes after the last record.
        footer: u64,
        /// Bytes from one record's beginning to the next's.
        hop: u64,
        /// How the file is compressed.
        compression: Compression,
    },
    /// The name itself is the record.
    Name,
}

/// A key and its record, and whether the source is known to be at its end after it.
pub struct Record {
    /// Says where the record was.
    pub key: Bytes,
    /// The bytes.
    pub value: Bytes,
    /// There is no further record.
    pub last: bool,
}

enum State {
    Lines(BufReader<File>),
    Whole,
    Records(Box<dyn BufRead + Send>),
    /// The file and where its records end.
    Seek(File, u64),
    /// What is left of a compressed file, with records that may overlap.
    Stream(Box<dyn BufRead + Send>, Vec<u8>),
    Name,
}

/// A source that is being read.
pub struct Source {
    name: Bytes,
    path: String,
    files: FilePolicy,
    format: Format,
    state: State,
    /// The number of the next record (or of the last line), or the offset of the next.
    at: u64,
    failed: Option<Error>,
}

fn decoded(files: &FilePolicy, path: &str, compression: Compression) -> Result<Box<dyn BufRead + Send>> {
    let file = BufReader::with_capacity(256 << 10, files::open(files, path)?);
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Zlib => Box::new(BufReader::new(ZlibDecoder::new(file))),
        Compression::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(file))),
    })
}

/// Reads up to `n` bytes; fewer only at the end.
fn take(from: &mut dyn Read, n: u64) -> std::io::Result<Vec<u8>> {
    let mut v = Vec::new();
    from.take(n).read_to_end(&mut v)?;
    Ok(v)
}

fn masked_crc(data: &[u8]) -> u32 {
    let crc = crc32c::crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

impl Source {
    /// Opens the source called `name`, which `files` has to allow.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if it does not, `NOT_FOUND` (or as the system says) if the file cannot be opened, `INVALID_ARGUMENT` for a name that is no
    /// UTF-8 or a file too short for header and footer.
    pub fn open(name: Bytes, format: &Format, files: &FilePolicy) -> Result<Source> {
        let path = match format {
            Format::Name => String::new(),
            _ => std::str::from_utf8(&name)
                .map_err(|_| Error::invalid("the name of a file is not UTF-8"))?
                .to_owned(),
        };
        let mut at = 0;
        let wrong = |e: std::io::Error| Error::from(e).context(&path);
        let state = match format {
            Format::Name => State::Name,
            Format::Whole => {
                files.check(&path, Access::Read)?;
                State::Whole
            }
            Format::Lines { skip } => {
                let mut file = BufReader::new(files::open(files, &path)?);
                for _ in 0..*skip {
                    if file.skip_until(b'\n').map_err(wrong)? == 0 {
                        break;
                    }
                    at += 1;
                }
                State::Lines(file)
            }
            Format::Records(c) => State::Records(decoded(files, &path, *c)?),
            Format::Fixed {
                header,
                footer,
                compression: Compression::None,
                ..
            } => {
                let file = files::open(files, &path)?;
                let len = file.metadata().map_err(wrong)?.len();
                State::Seek(file, len.saturating_sub(*footer).max(*header))
            }
            Format::Fixed {
                header, compression, ..
            } => {
                let mut stream = decoded(files, &path, *compression)?;
                take(&mut *stream, *header).map_err(wrong)?;
                State::Stream(stream, Vec::new())
            }
        };
        Ok(Source {
            name,
            path,
            files: files.clone(),
            format: format.clone(),
            state,
            at,
            failed: None,
        })
    }

    /// The name that it was opened by.
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    fn keyed(&self, n: u64) -> Bytes {
        let mut key = self.name.to_vec();
        key.extend_from_slice(format!(":{n}").as_bytes());
        key.into()
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// `DATA_LOSS` naming file and offset for a torn or changed record; an error repeats itself.
    pub fn advance(&mut self) -> Result<Option<Record>> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let r = self.read();
        if let Err(e) = &r {
            self.failed = Some(e.clone());
        }
        r
    }

    fn read(&mut self) -> Result<Option<Record>> {
        let path = &self.path;
        let wrong = |e: std::io::Error| Error::from(e).context(path);
        match &mut self.state {
            State::Name => Ok(Some(Record {
                key: self.name.clone(),
                value: self.name.clone(),
                last: true,
            })),
            State::Whole => Ok(Some(Record {
                key: self.name.clone(),
                value: files::read(&self.files, path)?.into(),
                last: true,
            })),
            State::Lines(file) => {
                let mut line = Vec::new();
                if file.read_until(b'\n', &mut line).map_err(wrong)? == 0 {
                    return Ok(None);
                }
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                line.retain(|b| *b != b'\r');
                self.at += 1;
                Ok(Some(self.record(self.at, line)))
            }
            State::Records(from) => match record(&mut **from, self.at, path)? {
                None => Ok(None),
                Some(data) => {
                    let at = self.at;
                    self.at += data.len() as u64 + 16;
                    Ok(Some(self.record(at, data)))
                }
            },
            State::Seek(file, end) => {
                let Format::Fixed {
                    header, record, hop, ..
                } = self.format
                else {
                    return Err(Error::internal("a source has another format"));
                };
                let begin = self.at.checked_mul(hop).and_then(|n| n.checked_add(header));
                let Some(begin) = begin.filter(|b| b.checked_add(record).is_some_and(|e| e <= *end)) else {
                    return Ok(None);
                };
                file.seek(SeekFrom::Start(begin)).map_err(wrong)?;
                let data = take(file, record).map_err(wrong)?;
                if (data.len() as u64) < record {
                    return Ok(None);
                }
                self.at += 1;
                Ok(Some(self.record(self.at - 1, data)))
            }
            State::Stream(from, ahead) => {
                let Format::Fixed {
                    record, hop, footer, ..
                } = self.format
                else {
                    return Err(Error::internal("a source has another format"));
                };
                if self.at > 0 {
                    let drop = usize::try_from(hop).unwrap_or(usize::MAX).min(ahead.len());
                    let further = hop - drop as u64;
                    ahead.drain(..drop);
                    std::io::copy(&mut from.take(further), &mut std::io::sink()).map_err(wrong)?;
                }
                let want = record.saturating_add(footer).saturating_sub(ahead.len() as u64);
                ahead.append(&mut take(&mut **from, want).map_err(wrong)?);
                if (ahead.len() as u64) < record.saturating_add(footer) {
                    return Ok(None);
                }
                let data = ahead[..record as usize].to_vec();
                self.at += 1;
                Ok(Some(self.record(self.at - 1, data)))
            }
        }
    }

    fn record(&self, key: u64, value: Vec<u8>) -> Record {
        Record {
            key: self.keyed(key),
            value: value.into(),
            last: false,
        }
    }
}

/// The next record with checksums, at `offset`: its length, the length's checksum, the bytes, their checksum.
///
/// # Errors
/// `DATA_LOSS` naming file and offset.
fn record(from: &mut dyn Read, offset: u64, path: &str) -> Result<Option<Vec<u8>>> {
    let lost = |what: &str| {
        Error::new(
            actorflow_core::Code::DataLoss,
            format!("{what} at {offset} in file {path}"),
        )
    };
    let read = |from: &mut dyn Read, n: u64| {
        take(from, n).map_err(|e| match e.kind() {
            // What a decoder says of a torn stream.
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
                lost(&format!("corrupted compressed stream ({e})"))
            }
            _ => Error::from(e).context(path),
        })
    };
    let word = |b: &[u8]| u32::from_le_bytes(std::array::from_fn(|i| b.get(i).copied().unwrap_or(0)));
    let head = read(from, 12)?;
    match head.len() {
        0 => return Ok(None),
        12 => {}
        _ => return Err(lost("truncated record")),
    }
    if masked_crc(&head[..8]) != word(&head[8..]) {
        return Err(lost("corrupted record"));
    }
    let len = u64::from(word(&head)) | u64::from(word(&head[4..])) << 32;
    let data = read(from, len)?;
    let tail = read(from, 4)?;
    if (data.len() as u64) < len || tail.len() < 4 {
        return Err(lost("truncated record"));
    }
    if masked_crc(&data) != word(&tail) {
        return Err(lost("corrupted record"));
    }
    Ok(Some(data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::Code;

    fn records(bytes: &[u8], format: &Format) -> (Vec<(String, Vec<u8>)>, Option<Error>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap().to_owned();
        let mut source = Source::open(path.clone().into(), format, &FilePolicy::anything()).unwrap();
        let mut all = Vec::new();
        loop {
            match source.advance() {
                Ok(Some(r)) => {
                    let key = String::from_utf8(r.key.to_vec()).unwrap();
                    all.push((key.trim_start_matches(&path).to_owned(), r.value.to_vec()));
                    if r.last {
                        return (all, None);
                    }
                }
                Ok(None) => return (all, None),
                Err(e) => {
                    assert_eq!(source.advance().err().map(|e| e.code()), Some(e.code()));
                    return (all, Some(e));
                }
            }
        }
    }

    fn record(data: &[u8]) -> Vec<u8> {
        let len = (data.len() as u64).to_le_bytes();
        let crcs = [masked_crc(&len).to_le_bytes(), masked_crc(data).to_le_bytes()];
        [&len[..], &crcs[0], data, &crcs[1]].concat()
    }

    #[test]
    fn lines_are_numbered_and_headers_skipped() {
        let (lines, _) = records(b"head\none\r\n\nlast", &Format::Lines { skip: 1 });
        let want = [(":2", "one"), (":3", ""), (":4", "last")];
        assert_eq!(lines, want.map(|(k, v)| (k.to_owned(), v.as_bytes().to_vec())));
    }

    #[test]
    fn records_of_one_length_may_overlap() {
        let format = |hop| Format::Fixed {
            header: 1,
            record: 4,
            footer: 2,
            hop,
            compression: Compression::None,
        };
        let values = |hop| {
            records(b"Habcdefghiff", &format(hop))
                .0
                .into_iter()
                .map(|r| r.1)
                .collect::<Vec<_>>()
        };
        assert_eq!(values(4), [b"abcd", b"efgh"]);
        assert_eq!(values(2), [b"abcd", b"cdef", b"efgh"]);
        assert_eq!(values(5), [b"abcd", b"fghi"]);
    }

    #[test]
    fn records_torn_or_changed_anywhere_are_data_loss() {
        let whole = [record(b"one"), record(b""), record(b"three")].concat();
        let format = Format::Records(Compression::None);
        assert_eq!(records(&whole, &format).0.len(), 3);
        for cut in 0..whole.len() {
            let (found, e) = records(&whole[..cut], &format);
            match [0, 19, 35].contains(&cut) {
                true => assert!(e.is_none()),
                false => assert_eq!(
                    (e.unwrap().code(), found.len()),
                    (Code::DataLoss, usize::from(cut > 19) + usize::from(cut > 35))
                ),
            }
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            assert_eq!(
                records(&changed, &format).1.unwrap().code(),
                Code::DataLoss,
                "byte {at}"
            );
        }
    }
    #[test]
    fn a_file_that_is_not_allowed_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let name = Bytes::from(path.to_str().unwrap().to_owned());
        let fixed = |compression| Format::Fixed {
            header: 0,
            record: 1,
            footer: 0,
            hop: 1,
            compression,
        };
        for format in [
            Format::Lines { skip: 0 },
            Format::Whole,
            Format::Records(Compression::None),
            fixed(Compression::None),
            fixed(Compression::Zlib),
        ] {
            let e = Source::open(name.clone(), &format, &FilePolicy::nothing())
                .err()
                .unwrap();
            assert_eq!(e.code(), Code::PermissionDenied, "{e}");
            assert!(Source::open(name.clone(), &format, &FilePolicy::only([dir.path()]).unwrap()).is_ok());
        }
        // A name is not a file.
        assert!(Source::open(name, &Format::Name, &FilePolicy::nothing()).is_ok());
    }
}
