//! Tensors written on the command line: `2.5`, `[[1, 2], [3, 4]]`, `true`, `"text"`, `1-2j`.

use actorflow::num_complex::Complex;
use actorflow::{DType, Shape, Tensor, dispatch, half};

/// Nested deeper than this is a mistake.
const MAX_DEPTH: usize = 32;

/// Reads a literal as a tensor of `dtype`. Text that is no list and not quoted is one string, for strings.
///
/// # Errors
/// What is wrong with the literal.
pub(crate) fn parse(text: &str, dtype: DType) -> Result<Tensor, String> {
    let trimmed = text.trim();
    if dtype == DType::Str && !trimmed.starts_with(['[', '"']) {
        return Ok(Tensor::from(text));
    }
    let mut p = Parser {
        rest: trimmed,
        shape: Vec::new(),
        items: Vec::new(),
    };
    p.value(0)?;
    if !p.rest.trim().is_empty() {
        return Err(format!("there is more after the value: {:?}", p.rest));
    }
    let (shape, items) = (p.shape.iter().map(|n| n.unwrap_or(0)).collect::<Shape>(), p.items);
    if dtype == DType::Str {
        return Tensor::strings(shape, items).map_err(|e| e.to_string());
    }
    if dtype.is_quantized() {
        let integers = parse(text, dtype.storage())?;
        return integers.bitcast(dtype).map_err(|e| e.to_string());
    }
    dispatch!(dtype, T in plain => {
        let values: Vec<T> = items.iter().map(|i| T::read(i)).collect::<Result<_, _>>()?;
        Tensor::from_slice(shape, &values).map_err(|e| e.to_string())
    }, else Err(format!("a {dtype} tensor cannot be written as a literal")))
}

struct Parser<'a> {
    rest: &'a str,
    /// The length of each level of nesting, once one list of that level has ended.
    shape: Vec<Option<usize>>,
    items: Vec<String>,
}

impl Parser<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), String> {
        if !self.eat('[') {
            if depth < self.shape.len() {
                return Err("a number stands where a list is expected: all rows must have the same form".into());
            }
            let item = self.item()?;
            self.items.push(item);
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(format!("lists nest deeper than {MAX_DEPTH} levels"));
        }
        // A list may open a level only before the first element.
        if depth == self.shape.len() {
            if !self.items.is_empty() {
                return Err("a list stands where a number is expected: all rows must have the same form".into());
            }
            self.shape.push(None);
        }
        let mut n = 0;
        while !self.eat(']') {
            self.value(depth + 1)?;
            n += 1;
            if !self.eat(',') {
                if !self.eat(']') {
                    return Err(format!("expected ',' or ']' at {:?}", self.rest));
                }
                break;
            }
        }
        match self.shape[depth] {
            Some(m) if m != n => Err(format!("rows have {m} and {n} elements; all must have the same number")),
            _ => {
                self.shape[depth] = Some(n);
                Ok(())
            }
        }
    }

    fn item(&mut self) -> Result<String, String> {
        self.skip();
        if self.rest.starts_with('"') {
            // A quoted string is JSON's.
            let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
            return match stream.next() {
                Some(Ok(s)) => {
                    self.rest = &self.rest[stream.byte_offset()..];
                    Ok(s)
                }
                _ => Err(format!("bad quoted text at {:?}", self.rest)),
            };
        }
        let end = self.rest.find([',', ']', '[']).unwrap_or(self.rest.len());
        let (item, rest) = self.rest.split_at(end);
        self.rest = rest;
        match item.trim() {
            "" => Err(format!("a value is missing at {rest:?}")),
            item => Ok(item.to_owned()),
        }
    }
}

/// An element that can be written.
trait Read: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

fn bad(text: &str, what: &str) -> String {
    format!("{text:?} is no {what}")
}

macro_rules! integers {
    ($($t:ty),*) => {
        $(impl Read for $t {
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| bad(text, stringify!($t)))
            }
        })*
    };
}

integers!(i8, i16, i32, i64, u8, u16, u32, u64);

impl Read for f64 {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| bad(text, "number"))
    }
}

impl Read for f32 {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| bad(text, "number"))
    }
}

impl Read for half::f16 {
    fn read(text: &str) -> Result<Self, String> {
        f64::read(text).map(half::f16::from_f64)
    }
}

impl Read for half::bf16 {
    fn read(text: &str) -> Result<Self, String> {
        f64::read(text).map(half::bf16::from_f64)
    }
}

impl Read for bool {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "true" | "True" | "1" => Ok(true),
            "false" | "False" | "0" => Ok(false),
            _ => Err(bad(text, "truth value: write true or false")),
        }
    }
}

impl Read for Complex<f64> {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .or_else(|| f64::read(text).ok().map(|re| Complex::new(re, 0.0)))
            .ok_or_else(|| bad(text, "complex number such as 1.5-2j"))
    }
}

impl Read for Complex<f32> {
    fn read(text: &str) -> Result<Self, String> {
        Complex::<f64>::read(text).map(|z| Complex::new(z.re as f32, z.im as f32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_and_lists_become_tensors() {
        assert_eq!(parse("2.5", DType::F32).unwrap(), Tensor::scalar(2.5f32));
        assert_eq!(
            parse(" [1, 2,3 ,] ", DType::I64).unwrap(),
            Tensor::vector(&[1i64, 2, 3])
        );
        assert_eq!(
            parse("[[1,2],[3,4]]", DType::F64).unwrap(),
            Tensor::from([[1.0f64, 2.0], [3.0, 4.0]])
        );
        assert_eq!(
            parse("[[[true]],[[false]]]", DType::Bool).unwrap().shape().dims(),
            [2, 1, 1]
        );
        assert_eq!(parse("[]", DType::F32).unwrap().shape().dims(), [0]);
        assert_eq!(parse("[[],[]]", DType::F32).unwrap().shape().dims(), [2, 0]);
        let q = parse("[0, 255]", DType::QU8).unwrap();
        assert_eq!(q, Tensor::from([0u8, 255]).bitcast(DType::QU8).unwrap());
        assert!(parse("[-inf, nan, 1e3]", DType::F16).is_ok());
        assert_eq!(
            parse("1.5-2j", DType::C64).unwrap(),
            Tensor::scalar(Complex::<f32>::new(1.5, -2.0))
        );
        assert_eq!(
            parse("-3", DType::C128).unwrap(),
            Tensor::scalar(Complex::<f64>::new(-3.0, 0.0))
        );
    }

    #[test]
    fn strings_may_be_bare_or_quoted() {
        assert_eq!(parse("a, b", DType::Str).unwrap(), Tensor::from("a, b"));
        assert_eq!(parse("\"[x\\n\"", DType::Str).unwrap(), Tensor::from("[x\n"));
        let want = Tensor::strings([2], vec!["a,b", "c"]).unwrap();
        assert_eq!(parse("[\"a,b\", c]", DType::Str).unwrap(), want);
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, dtype, part) in [
            ("[1,2", DType::F32, "expected"),
            ("[1,[2]]", DType::F32, "same form"),
            ("[[1],2]", DType::F32, "same form"),
            ("[[1],[2,3]]", DType::F32, "1 and 2"),
            ("1 2", DType::F32, "no number"),
            ("[1] 2", DType::F32, "more"),
            ("300", DType::U8, "no u8"),
            ("1.5", DType::I32, "no i32"),
            ("yes", DType::Bool, "truth value"),
            ("", DType::F32, "missing"),
            ("[,]", DType::F32, "missing"),
            ("1", DType::Resource, "resource"),
            ("[\"a]", DType::Str, "quoted"),
        ] {
            let e = parse(text, dtype).unwrap_err();
            assert!(e.contains(part), "{text}: {e}");
        }
        assert!(parse(&"[".repeat(10_000), DType::F32).is_err());
    }
}
