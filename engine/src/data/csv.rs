//! Files of comma-separated values (RFC 4180).

use std::io::BufRead;
use std::path::Path;

use actorflow_core::{DType, Error, Result, Tensor};
use bytes::Bytes;
use csv::{ByteRecord, ReaderBuilder, Trim};

use super::dataset::Example;

/// A column that is wanted.
#[derive(Debug, Clone)]
pub struct CsvColumn {
    name: String,
    dtype: DType,
    default: Option<Tensor>,
}

impl CsvColumn {
    /// A column whose fields are numbers, `true` and `false`, or strings. Of a file without a header, the name is for
    /// messages.
    pub fn new(name: &str, dtype: DType) -> CsvColumn {
        CsvColumn {
            name: name.to_owned(),
            dtype,
            default: None,
        }
    }

    /// What an empty field stands for; without it, an empty field is an error (of a string: it is the empty string).
    pub fn default(mut self, value: impl Into<Tensor>) -> CsvColumn {
        self.default = Some(value.into());
        self
    }
}

/// How CSV files are read.
#[derive(Debug, Clone)]
pub struct CsvOptions {
    /// The columns that are wanted: of a file with a header by name, else all columns in order.
    pub columns: Vec<CsvColumn>,
    /// The first line has the columns' names.
    pub header: bool,
    /// What separates fields.
    pub delimiter: u8,
    /// Fields may be enclosed in `"`, and then hold delimiters, ends of lines and doubled `"`.
    pub quoting: bool,
}

impl CsvOptions {
    /// A file with a header, commas and quotes.
    pub fn new(columns: Vec<CsvColumn>) -> CsvOptions {
        CsvOptions {
            columns,
            header: true,
            delimiter: b',',
            quoting: true,
        }
    }
}

/// Reads the rows of a file one by one: a scalar for each column. An iterator that ends after the first error.
pub struct CsvReader {
    name: String,
    reader: Option<csv::Reader<Box<dyn BufRead + Send>>>,
    columns: Vec<CsvColumn>,
    /// Where each column is in a row.
    places: Vec<usize>,
    row: ByteRecord,
}

fn named(name: &str, e: csv::Error) -> Error {
    let e = match e.kind() {
        csv::ErrorKind::Io(_) => match e.into_kind() {
            csv::ErrorKind::Io(e) => Error::from(e),
            _ => Error::internal("an error of the file changed its kind"),
        },
        _ => Error::data_loss(e.to_string()),
    };
    e.context(name)
}

impl CsvReader {
    /// Opens a file, packed by gzip or not.
    ///
    /// # Errors
    /// As [`new`](Self::new); what the file system says.
    pub fn open(path: impl AsRef<Path>, options: &CsvOptions) -> Result<CsvReader> {
        let path = path.as_ref();
        CsvReader::new(super::opened(path)?, &path.display().to_string(), options)
    }

    /// Reads text; `name` is for messages.
    ///
    /// # Errors
    /// `NOT_FOUND` naming a column that the header lacks; `INVALID_ARGUMENT` without columns, or for a default of another
    /// dtype than its column; `DATA_LOSS` for a header that cannot be read.
    pub fn new(text: Box<dyn BufRead + Send>, name: &str, options: &CsvOptions) -> Result<CsvReader> {
        if options.columns.is_empty() {
            return Err(Error::invalid("reading CSV needs at least one column"));
        }
        for c in &options.columns {
            if let Some(d) = c
                .default
                .as_ref()
                .filter(|d| d.dtype() != c.dtype || !d.shape().is_scalar())
            {
                return Err(Error::invalid(format!(
                    "the default of column {:?} must be a scalar of {}, not {} of shape {}",
                    c.name,
                    c.dtype,
                    d.dtype(),
                    d.shape()
                )));
            }
        }
        let mut reader = ReaderBuilder::new()
            .has_headers(options.header)
            .delimiter(options.delimiter)
            .quoting(options.quoting)
            .trim(Trim::Headers)
            .from_reader(text);
        let places = match options.header {
            false => (0..options.columns.len()).collect(),
            true => {
                let header = reader.byte_headers().map_err(|e| named(name, e))?;
                let place = |c: &CsvColumn| {
                    let at = header.iter().position(|h| h == c.name.as_bytes());
                    at.ok_or_else(|| {
                        let all: Vec<String> = header.iter().map(|h| String::from_utf8_lossy(h).into_owned()).collect();
                        Error::not_found(format!("{name} has no column {:?}, but {}", c.name, all.join(", ")))
                    })
                };
                options.columns.iter().map(place).collect::<Result<_>>()?
            }
        };
        Ok(CsvReader {
            name: name.to_owned(),
            reader: Some(reader),
            columns: options.columns.clone(),
            places,
            row: ByteRecord::new(),
        })
    }

    fn example(&self) -> Result<Example> {
        let line = self.row.position().map_or(0, csv::Position::line);
        let cells = self.columns.iter().zip(&self.places);
        cells
            .map(|(c, at)| {
                let wrong =
                    |what: String| Error::invalid(format!("{}, line {line}, column {:?}: {what}", self.name, c.name));
                let field = self.row.get(*at);
                let field = field.ok_or_else(|| wrong(format!("the row has {} fields", self.row.len())))?;
                match (field.is_empty(), &c.default) {
                    (true, Some(d)) => Ok(d.clone()),
                    _ => parsed(field, c.dtype).map_err(wrong),
                }
            })
            .collect()
    }
}

/// A field as a scalar.
fn parsed(field: &[u8], dtype: DType) -> Result<Tensor, String> {
    if dtype == DType::Str {
        return Ok(Tensor::string(Bytes::copy_from_slice(field)));
    }
    let text = std::str::from_utf8(field).map_err(|_| "the field is no UTF-8".to_owned())?;
    let text = text.trim();
    if text.is_empty() {
        return Err("the field is empty, and the column has no default".to_owned());
    }
    macro_rules! number {
        ($t:ty) => {
            text.parse::<$t>()
                .map(Tensor::scalar)
                .map_err(|e| format!("{text:?} is no {dtype}: {e}"))
        };
    }
    match dtype {
        DType::F32 => number!(f32),
        DType::F64 => number!(f64),
        DType::I8 => number!(i8),
        DType::I16 => number!(i16),
        DType::I32 => number!(i32),
        DType::I64 => number!(i64),
        DType::U8 => number!(u8),
        DType::U16 => number!(u16),
        DType::U32 => number!(u32),
        DType::U64 => number!(u64),
        DType::Bool => number!(bool),
        other => Err(format!("columns of {other} cannot be read")),
    }
}

impl Iterator for CsvReader {
    type Item = Result<Example>;

    fn next(&mut self) -> Option<Result<Example>> {
        let reader = self.reader.as_mut()?;
        let example = match reader.read_byte_record(&mut self.row) {
            Ok(true) => self.example(),
            Ok(false) => {
                self.reader = None;
                return None;
            }
            Err(e) => Err(named(&self.name, e)),
        };
        if example.is_err() {
            self.reader = None;
        }
        Some(example)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::Code;

    fn columns() -> Vec<CsvColumn> {
        vec![
            CsvColumn::new("x", DType::F32).default(-1f32),
            CsvColumn::new("name", DType::Str),
            CsvColumn::new("n", DType::I64),
        ]
    }

    fn read(text: &'static str, options: &CsvOptions) -> Result<Vec<Example>> {
        CsvReader::new(Box::new(text.as_bytes()), "f.csv", options)?.collect()
    }

    fn row(x: f32, name: &'static str, n: i64) -> Example {
        vec![Tensor::from(x), Tensor::string(name), Tensor::from(n)]
    }

    #[test]
    fn columns_are_chosen_by_name_and_quotes_are_undone() {
        let text = "n, name,unused,x\n1,\"a, \"\"b\"\"\nc\",?, 2.5 \n-2,,,\n";
        let rows = read(text, &CsvOptions::new(columns())).unwrap();
        assert_eq!(rows, [row(2.5, "a, \"b\"\nc", 1), row(-1.0, "", -2)]);
    }

    #[test]
    fn without_a_header_columns_are_in_order() {
        let options = CsvOptions {
            header: false,
            delimiter: b'\t',
            quoting: false,
            ..CsvOptions::new(columns())
        };
        assert_eq!(read("1\t\"q\"\t3\r\n", &options).unwrap(), [row(1.0, "\"q\"", 3)]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_column() {
        let options = CsvOptions::new(columns());
        let e = read("x,name,n\n1,a,1\n1,a,1.5\n", &options).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument);
        assert!(e.message().contains("f.csv, line 3, column \"n\": \"1.5\""), "{e}");
        let e = read("x,name,n\n1,a,\n", &options).unwrap_err();
        assert!(e.message().contains("has no default"), "{e}");
        let e = read("x,name\n", &options).unwrap_err();
        assert_eq!(e.code(), Code::NotFound);
        assert!(e.message().contains("no column \"n\", but x, name"), "{e}");
        assert_eq!(read("x,name,n\n1,a\n", &options).unwrap_err().code(), Code::DataLoss);
        let bad = CsvOptions::new(vec![CsvColumn::new("x", DType::F32).default(1i32)]);
        assert_eq!(read("x\n", &bad).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(
            read("x\n", &CsvOptions::new(vec![])).unwrap_err().code(),
            Code::InvalidArgument
        );
    }
}
