//! Tables from text files: the key and the value of an entry are a line, its number or one of its columns.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};

use actorflow_core::error::{Error, Result};
use actorflow_core::files::FilePolicy;
use actorflow_core::{Attrs, DType, Tensor};

use crate::files;

/// Where a key or value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// The whole line.
    Line,
    /// The number of the line.
    Number,
    /// A column, counted from 0.
    At(usize),
}

impl Column {
    fn of(index: i64) -> Column {
        match usize::try_from(index) {
            Ok(i) => Column::At(i),
            Err(_) if index == -1 => Column::Number,
            Err(_) => Column::Line,
        }
    }
}

/// How a file is read.
#[derive(Debug, Clone)]
pub struct Lines {
    key: Column,
    value: Column,
    /// The number of entries; all lines without one.
    size: Option<usize>,
    delimiter: char,
    /// What is added to the number of a line.
    offset: i64,
}

impl Lines {
    /// As the attributes of `InitializeTableFromTextFile` say.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the delimiter is not one character.
    pub fn of(attrs: &Attrs) -> Result<Lines> {
        let delimiter = attrs.str("delimiter")?;
        let mut chars = delimiter.chars();
        let (Some(delimiter), None) = (chars.next(), chars.next()) else {
            return Err(Error::invalid(format!(
                "delimiter should be only 1 char, got {delimiter:?}"
            )));
        };
        Ok(Lines {
            key: Column::of(attrs.int("key_index")?),
            value: Column::of(attrs.int("value_index")?),
            size: usize::try_from(attrs.int("vocab_size")?).ok(),
            delimiter,
            offset: attrs.int("offset")?,
        })
    }

    fn text(&self, column: Column, line: &str, number: i64, path: &str) -> Result<String> {
        Ok(match column {
            Column::Line => line.to_owned(),
            Column::Number => number.saturating_add(self.offset).to_string(),
            Column::At(i) => line
                .split(self.delimiter)
                .nth(i)
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "Invalid number of columns in line {number} ({line}) of file {path}: expected more than {i}"
                    ))
                })?
                .to_owned(),
        })
    }

    /// The keys and values of a file that `files` allows.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if it does not; `NOT_FOUND` if there is no such file; `INVALID_ARGUMENT` if it has fewer lines than it should, a line lacks a
    /// column, or a column is no value of the dtype.
    pub fn read(&self, files: &FilePolicy, path: &str, key: DType, value: DType) -> Result<[Tensor; 2]> {
        let wrong = |c: Column, d: DType| {
            let fits = match c {
                Column::Line => matches!(d, DType::Str | DType::I64),
                Column::Number => d == DType::I64,
                Column::At(_) => true,
            };
            match fits {
                true => Ok(()),
                false => Err(Error::invalid(format!("a table entry from {c:?} cannot be {d}"))),
            }
        };
        wrong(self.key, key)?;
        wrong(self.value, value)?;
        let file = files::open(files, path)?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (n, line) in BufReader::new(file).lines().enumerate() {
            if self.size.is_some_and(|s| n >= s) {
                break;
            }
            let line = line.map_err(|e| Error::from(e).context(path))?;
            keys.push(self.text(self.key, &line, n as i64, path)?);
            values.push(self.text(self.value, &line, n as i64, path)?);
        }
        if let Some(size) = self.size.filter(|s| *s > keys.len()) {
            return Err(Error::invalid(format!(
                "Invalid vocab_size in {path}: expected {size} but got {}",
                keys.len()
            )));
        }
        Ok([parse(keys, key, path)?, parse(values, value, path)?])
    }
}

/// The texts as a vector of `dtype`.
fn parse(texts: Vec<String>, dtype: DType, path: &str) -> Result<Tensor> {
    fn all<T: std::str::FromStr>(texts: &[String], dtype: DType, path: &str) -> Result<Vec<T>> {
        let one = |t: &String| {
            t.trim()
                .parse::<T>()
                .map_err(|_| Error::invalid(format!("{t:?} in file {path} is no {dtype}")))
        };
        texts.iter().map(one).collect()
    }
    Ok(match dtype {
        DType::Str => Tensor::strings([texts.len()], texts)?,
        DType::I64 => Tensor::vector(&all::<i64>(&texts, dtype, path)?),
        DType::I32 => Tensor::vector(&all::<i32>(&texts, dtype, path)?),
        DType::F32 => Tensor::vector(&all::<f32>(&texts, dtype, path)?),
        DType::F64 => Tensor::vector(&all::<f64>(&texts, dtype, path)?),
        d => return Err(Error::invalid(format!("a table from a text file cannot hold {d}"))),
    })
}
