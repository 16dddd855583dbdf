//! `DecodeCSV`: records of comma-separated values (RFC 4180).

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, Tensor, dispatch, register_ops};
use bytes::Bytes;

use super::convert::parse;
use crate::moves;

/// How records are written.
struct Format {
    delimiter: u8,
    quotes: bool,
    missing: Bytes,
    /// The columns that are wanted, ascending; all if empty.
    columns: Vec<usize>,
}

impl Format {
    fn of(attrs: &Attrs, outputs: usize) -> Result<Format> {
        let [delimiter] = attrs.byte_string("field_delim")?[..] else {
            return Err(Error::invalid("field_delim should be only 1 char"));
        };
        let columns = attrs.ints("select_cols")?;
        if !columns.is_empty() && columns.len() != outputs {
            return Err(Error::invalid(format!(
                "select_cols should match the {outputs} outputs, it has {} elements",
                columns.len()
            )));
        }
        let ascending = columns.is_sorted_by(|a, b| a < b);
        let columns = columns
            .iter()
            .map(|c| usize::try_from(*c).ok())
            .collect::<Option<Vec<_>>>();
        match columns {
            Some(columns) if ascending => Ok(Format {
                delimiter,
                quotes: attrs.bool("use_quote_delim")?,
                missing: attrs.byte_string("na_value")?.clone(),
                columns,
            }),
            _ => Err(Error::invalid(
                "select_cols should be non-negative and strictly increasing",
            )),
        }
    }

    /// The fields of a record; those of unwanted columns are left out.
    fn fields(&self, record: &Bytes) -> Result<Vec<Bytes>> {
        let mut out = Vec::new();
        if record.is_empty() {
            return Ok(out);
        }
        let (mut at, mut column) = (0, 0);
        loop {
            let (field, end) = self.field(record, at)?;
            if self.columns.is_empty() || self.columns.contains(&column) {
                out.push(field);
            }
            column += 1;
            if end >= record.len() {
                return Ok(out);
            }
            at = end + 1;
        }
    }

    /// The field that begins at `at`, and where the delimiter after it (or the end) is.
    fn field(&self, record: &Bytes, at: usize) -> Result<(Bytes, usize)> {
        let rest = &record[at..];
        if !(self.quotes && rest.first() == Some(&b'"')) {
            let n = rest.iter().position(|b| *b == self.delimiter).unwrap_or(rest.len());
            if self.quotes && rest[..n].iter().any(|b| matches!(b, b'"' | b'\n' | b'\r')) {
                return Err(Error::invalid("unquoted fields cannot have quotes/CRLFs inside"));
            }
            return Ok((record.slice(at..at + n), at + n));
        }
        let mut text = Vec::new();
        let mut i = 1;
        loop {
            match (rest.get(i), rest.get(i + 1)) {
                (Some(b'"'), Some(b'"')) => {
                    text.push(b'"');
                    i += 2;
                }
                (Some(b'"'), None) => return Ok((text.into(), at + i + 1)),
                (Some(b'"'), Some(b)) if *b == self.delimiter => return Ok((text.into(), at + i + 1)),
                (Some(b'"'), Some(_)) => {
                    return Err(Error::invalid(
                        "a quote inside a string has to be escaped by another quote",
                    ));
                }
                (Some(b), _) => {
                    text.push(*b);
                    i += 1;
                }
                (None, _) => {
                    return Err(Error::invalid(
                        "a quoted field has to end with a quote followed by a delimiter or the end",
                    ));
                }
            }
        }
    }
}

/// One column as a tensor.
fn column(cx: &OpContext<'_>, rows: &[Vec<Bytes>], c: usize, missing: &Bytes, dtype: DType) -> Result<Tensor> {
    let default = cx.input(c + 1)?;
    let shape = cx.input(0)?.shape().clone();
    let empty = |f: &Bytes| f.is_empty() || f == missing;
    let required = |r: usize| Error::invalid(format!("field {c} is required but missing in record {r}!"));
    if dtype == DType::Str {
        let default = default.as_strings()?.first();
        let mut out = moves::list(cx, rows.len())?;
        for (r, row) in rows.iter().enumerate() {
            out.push(match (empty(&row[c]), default) {
                (false, _) => row[c].clone(),
                (true, Some(d)) => d.clone(),
                (true, None) => return Err(required(r)),
            });
        }
        return Tensor::strings(shape, out);
    }
    dispatch!(dtype, T in [F32, F64, I32, I64] => {
        let default = default.as_slice::<T>()?.first().copied();
        let mut t = cx.alloc(dtype, shape)?;
        for (r, (row, o)) in rows.iter().zip(t.as_mut_slice::<T>().unwrap_or(&mut [])).enumerate() {
            *o = match (empty(&row[c]), default) {
                (false, _) => parse::<T>(&row[c]).ok_or_else(|| Error::invalid(format!(
                    "field {c} in record {r} is not a valid {dtype}: {}", String::from_utf8_lossy(&row[c])
                )))?,
                (true, Some(d)) => d,
                (true, None) => return Err(required(r)),
            };
        }
        Ok(t)
    }, else Err(Error::unimplemented(format!("a column of dtype {dtype}"))))
}

fn decode_csv() -> OpDef {
    OpDef::new("DecodeCSV", Category::String)
        .doc("The columns of records of comma-separated values; an empty field takes its column's default.")
        .input("records: string")
        .input("record_defaults: OUT_TYPE")
        .output("output: OUT_TYPE")
        .attr("OUT_TYPE: list({float, double, int32, int64, string}) >= 1")
        .attr("field_delim: string = ','")
        .attr("use_quote_delim: bool = true")
        .attr("na_value: string = ''")
        .attr("select_cols: list(int) = []")
        .shape(|cx| {
            for i in 1..cx.num_inputs() {
                let s = cx.input(i);
                if s.rank().is_some_and(|r| r > 1) || s.dim(0).is_some_and(|d| d > 1) {
                    return Err(Error::invalid(format!(
                        "a default must be a scalar or a vector of at most one element, got {s}"
                    )));
                }
            }
            Ok(vec![cx.input(0); cx.num_outputs()])
        })
        .not_differentiable()
        .cpu(|init| {
            let format = Format::of(init.attrs, init.output_types.len())?;
            let dtypes = init.output_types.to_vec();
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                for i in 1..cx.num_inputs() {
                    if cx.input(i)?.len() > 1 {
                        return Err(Error::invalid(format!(
                            "there is more than one default for field {}",
                            i - 1
                        )));
                    }
                }
                let mut rows = Vec::new();
                for (r, s) in cx.input(0)?.as_strings()?.iter().enumerate() {
                    let fields = format.fields(s)?;
                    if fields.len() != dtypes.len() {
                        return Err(Error::invalid(format!(
                            "expect {} fields but have {} in record {r}",
                            dtypes.len(),
                            fields.len()
                        )));
                    }
                    rows.push(fields);
                }
                for (c, d) in dtypes.iter().enumerate() {
                    let t = column(cx, &rows, c, &format.missing, *d)?;
                    cx.set_output(c, t);
                }
                Ok(())
            }))
        })
}

register_ops!(decode_csv);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Interpreter, eval};
    use actorflow_core::{Graph, Operation};

    fn decode(record: &'static str, attrs: &[(&str, actorflow_core::AttrValue)]) -> Operation {
        let g = Graph::new();
        let x = g.constant(Tensor::strings([1], vec![record]).unwrap()).unwrap();
        let none = g.constant(Tensor::vector::<i64>(&[])).unwrap();
        let defaults = [g.constant(1.5f32).unwrap(), none, g.constant("d").unwrap()];
        let b = g.op("DecodeCSV").input(&x).input_list(&defaults);
        attrs.iter().fold(b, |b, (k, v)| b.attr(k, v.clone())).finish().unwrap()
    }

    #[test]
    fn quotes_defaults_and_selected_columns() {
        let op = decode(",5,\"b,\"\"c\"", &[]);
        assert_eq!(eval(&op.output(0).unwrap()), Tensor::from([1.5f32]));
        assert_eq!(eval(&op.output(1).unwrap()), Tensor::from([5i64]));
        assert_eq!(
            eval(&op.output(2).unwrap()),
            Tensor::strings([1], vec!["b,\"c"]).unwrap()
        );
        let op = decode(
            "0;1;2;",
            &[("select_cols", vec![0i64, 1, 3].into()), ("field_delim", ";".into())],
        );
        assert_eq!(eval(&op.output(2).unwrap()), Tensor::strings([1], vec!["d"]).unwrap());
    }

    #[test]
    fn malformed_records_are_refused() {
        for (record, why) in [
            ("1,,a", "required"),
            ("1,2", "expect 3 fields but have 2"),
            ("", "have 0"),
            ("x,2,a", "not a valid float32"),
            ("1,2,\"ab", "has to end with a quote"),
            ("1,2,a\"b", "unquoted"),
            ("1,2,\"a\"b", "escaped"),
            ("1,2,a\n", "unquoted"),
        ] {
            let op = decode(record, &[]);
            let e = Interpreter::default().run(&op.outputs(), &[], &[]).unwrap_err();
            assert!(e.message().contains(why), "{record:?}: {e}");
        }
    }
}
