//! The header of an `.npy` file: a Python dictionary literal.

use actorflow_core::{DType, Error, Result};

/// How items are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain(DType),
    /// `|S`: bytes padded with NULs.
    Bytes,
    /// `<U`: UCS-4 padded with NULs.
    Text,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The dtype as the file writes it.
    pub(super) descr: String,
    pub(super) kind: Kind,
    /// Bytes per item.
    pub(super) item: usize,
    pub(super) big_endian: bool,
    pub(super) fortran: bool,
    pub(super) shape: Vec<i64>,
}

/// The dtype string of a plain dtype, little-endian.
pub(super) fn descr(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "|b1",
        DType::U8 => "|u1",
        DType::I8 => "|i1",
        DType::U16 => "<u2",
        DType::I16 => "<i2",
        DType::U32 => "<u4",
        DType::I32 => "<i4",
        DType::U64 => "<u8",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::C64 => "<c8",
        DType::C128 => "<c16",
        _ => return None,
    })
}

/// A value of the literal.
#[derive(Debug, PartialEq)]
enum Value {
    Str(String),
    Bool(bool),
    Int(i64),
    Tuple(Vec<Value>),
}

struct Parser<'a>(&'a str);

impl<'a> Parser<'a> {
    fn bad(&self) -> Error {
        let near: String = self.0.chars().take(20).collect();
        Error::invalid(format!("not an .npy array: malformed header at {near:?}"))
    }

    fn skip(&mut self) {
        self.0 = self.0.trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip();
        match self.0.strip_prefix(c) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { Err(self.bad()) }
    }

    fn string(&mut self) -> Result<String> {
        let quote = if self.eat('\'') {
            '\''
        } else if self.eat('"') {
            '"'
        } else {
            return Err(self.bad());
        };
        match self.0.split_once(quote) {
            Some((s, rest)) if !s.contains('\\') => {
                self.0 = rest;
                Ok(s.to_owned())
            }
            _ => Err(self.bad()),
        }
    }

    fn word(&mut self) -> &'a str {
        self.skip();
        let end = self
            .0
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    /// A value; tuples hold integers only, so it does not recurse.
    fn value(&mut self) -> Result<Value> {
        self.skip();
        if self.0.starts_with(['\'', '"']) {
            return self.string().map(Value::Str);
        }
        if self.0.starts_with('[') {
            return Err(Error::unimplemented(
                ".npy arrays of records (several named fields); save each field by itself",
            ));
        }
        if !self.eat('(') {
            return self.scalar();
        }
        let mut items = Vec::new();
        while !self.eat(')') {
            items.push(self.scalar()?);
            if !self.eat(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(Value::Tuple(items))
    }

    fn scalar(&mut self) -> Result<Value> {
        let before = self.0;
        match self.word() {
            "True" => Ok(Value::Bool(true)),
            "False" => Ok(Value::Bool(false)),
            // Python 2 wrote long integers as `3L`.
            n => n.strip_suffix('L').unwrap_or(n).parse().map(Value::Int).map_err(|_| {
                self.0 = before;
                self.bad()
            }),
        }
    }
}

impl Header {
    pub(super) fn parse(text: &str) -> Result<Header> {
        let mut p = Parser(text);
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        p.expect('{')?;
        while !p.eat('}') {
            let key = p.string()?;
            p.expect(':')?;
            match (key.as_str(), p.value()?) {
                ("descr", Value::Str(s)) if descr.is_none() => descr = Some(s),
                ("fortran_order", Value::Bool(b)) if fortran.is_none() => fortran = Some(b),
                ("shape", Value::Tuple(items)) if shape.is_none() => {
                    let int = |v: &Value| match v {
                        Value::Int(i) => Some(*i),
                        _ => None,
                    };
                    shape = Some(
                        items
                            .iter()
                            .map(int)
                            .collect::<Option<Vec<i64>>>()
                            .ok_or_else(|| p.bad())?,
                    );
                }
                _ => {
                    return Err(Error::invalid(format!(
                        "not an .npy array: the header's {key:?} is unknown, repeated or of the wrong kind"
                    )));
                }
            }
            if !p.eat(',') {
                p.expect('}')?;
                break;
            }
        }
        p.skip();
        match (descr, fortran, shape) {
            (Some(descr), Some(fortran), Some(shape)) if p.0.is_empty() => {
                let (kind, item, big_endian) = dtype(&descr)?;
                Ok(Header {
                    descr,
                    kind,
                    item,
                    big_endian,
                    fortran,
                    shape,
                })
            }
            (Some(_), Some(_), Some(_)) => Err(p.bad()),
            _ => Err(Error::invalid(
                "not an .npy array: the header must have descr, fortran_order and shape",
            )),
        }
    }
}

/// Kind, bytes per item and byte order of a dtype string such as `<f4`.
fn dtype(descr: &str) -> Result<(Kind, usize, bool)> {
    let unsupported = || {
        Error::unimplemented(format!(
            ".npy arrays of dtype {descr:?}; supported are bool, integers, float16/32/64, complex64/128, S and U"
        ))
    };
    let (big, rest) = match descr.split_at_checked(1) {
        Some(("<" | "|", rest)) => (false, rest),
        Some((">", rest)) => (true, rest),
        Some(("=", rest)) => (cfg!(target_endian = "big"), rest),
        _ => (false, descr),
    };
    if rest == "?" {
        return Ok((Kind::Plain(DType::Bool), 1, false));
    }
    let (letter, width) = rest.split_at_checked(1).ok_or_else(unsupported)?;
    // The width is all digits: `parse` alone would take a sign.
    if width.is_empty() || !width.bytes().all(|b| b.is_ascii_digit()) {
        return Err(unsupported());
    }
    let width: usize = width.parse().map_err(|_| unsupported())?;
    let kind = match letter {
        "S" | "a" => return Ok((Kind::Bytes, width, big)),
        "U" => {
            let bytes = width.checked_mul(4).ok_or_else(unsupported)?;
            return Ok((Kind::Text, bytes, big));
        }
        _ => DType::ALL
            .into_iter()
            .find(|d| super::header::descr(*d).is_some_and(|s| &s[1..] == rest)),
    };
    match kind {
        Some(d) => Ok((Kind::Plain(d), width, big)),
        None => Err(unsupported()),
    }
}
