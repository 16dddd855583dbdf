//! `UnicodeDecode`, `UnicodeDecodeWithOffsets`, `UnicodeEncode`, `UnicodeTranscode`, `UnicodeScript`.

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Tensor, register_ops};
use bytes::Bytes;

use super::codec::{Encoding, Target};
use super::scripts::script;
use super::support::map;
use crate::moves;
use crate::ops::array::support::{index_vector, int_vector};
use crate::shapes;

/// What becomes of malformed text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Strict,
    Replace,
    Ignore,
}

#[derive(Debug, Clone, Copy)]
struct Errors {
    policy: Policy,
    /// The code point that stands for what is malformed.
    replacement: i32,
    /// Control characters below 32 count as malformed, but are no error.
    control: bool,
}

impl Errors {
    fn of(attrs: &Attrs) -> Result<Errors> {
        let r = attrs.int("replacement_char")?;
        if !(0..=0x10ffff).contains(&r) {
            return Err(Error::invalid("replacement_char out of unicode codepoint range"));
        }
        Ok(Errors {
            policy: match attrs.str("errors")? {
                "strict" => Policy::Strict,
                "ignore" => Policy::Ignore,
                _ => Policy::Replace,
            },
            replacement: r as i32,
            control: attrs.get("replace_control_characters").is_some() && attrs.bool("replace_control_characters")?,
        })
    }

    /// The code points of a text, and where each begins.
    fn read(self, encoding: Encoding, text: &[u8], mut f: impl FnMut(i32, usize)) -> Result<()> {
        let mut malformed = false;
        encoding.decode(text, |c, at| match c {
            Some(c) if !(self.control && c <= '\u{1f}') => f(c as i32, at),
            other => {
                malformed |= other.is_none();
                if self.policy != Policy::Ignore {
                    f(self.replacement, at);
                }
            }
        });
        if malformed && self.policy == Policy::Strict {
            return Err(Error::invalid("invalid formatting on input string"));
        }
        Ok(())
    }
}

fn decode_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let rows = cx.input(0).count().map(|n| n + 1);
    let mut out = vec![PartialShape::vector(None); cx.num_outputs()];
    out[0] = PartialShape::vector(rows);
    Ok(out)
}

fn decode_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let encoding = Encoding::named(init.attrs.str("input_encoding")?)?;
    let (errors, dtype) = (Errors::of(init.attrs)?, init.attrs.dtype("Tsplits")?);
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let input = cx.input(0)?.as_strings()?;
        let (mut splits, mut chars, mut starts) = (vec![0i64], Vec::new(), Vec::new());
        for s in input {
            errors.read(encoding, s, |c, at| {
                chars.push(c);
                starts.push(at as i64);
            })?;
            splits.push(chars.len() as i64);
        }
        cx.set_output(0, index_vector(dtype, &splits)?);
        cx.set_output(1, Tensor::vector(&chars));
        cx.set_output(2, Tensor::vector(&starts));
        Ok(())
    }))
}

fn decoding(name: &'static str) -> OpDef {
    OpDef::new(name, Category::String)
        .input("input: string")
        .output("row_splits: Tsplits")
        .output("char_values: int32")
        .attr("input_encoding: string")
        .attr("errors: {'strict', 'replace', 'ignore'} = 'replace'")
        .attr("replacement_char: int = 65533")
        .attr("replace_control_characters: bool = false")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .shape(decode_shape)
        .not_differentiable()
        .cpu(decode_kernel)
}

fn unicode_decode() -> OpDef {
    decoding("UnicodeDecode").doc("The code points of strings, as a ragged tensor.")
}

fn unicode_decode_with_offsets() -> OpDef {
    decoding("UnicodeDecodeWithOffsets")
        .doc("The code points of strings, as a ragged tensor, and where in its string each begins.")
        .output("char_to_byte_starts: int64")
}

fn unicode_encode() -> OpDef {
    OpDef::new("UnicodeEncode", Category::String)
        .doc("Strings of the code points of a ragged tensor.")
        .input("input_values: int32")
        .input("input_splits: Tsplits")
        .output("output: string")
        .attr("errors: {'ignore', 'replace', 'strict'} = 'replace'")
        .attr("output_encoding: {'UTF-8', 'UTF-16-BE', 'UTF-32-BE'}")
        .attr("replacement_char: int = 65533")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .shape(|cx| {
            cx.input(0).with_rank(1)?;
            let n = match cx.input(1).with_rank(1)?.dim(0) {
                Some(0) => return Err(Error::invalid("input_splits must have at least one element")),
                n => n.map(|n| n - 1),
            };
            Ok(vec![PartialShape::vector(n)])
        })
        .not_differentiable()
        .cpu(|init| {
            let errors = Errors::of(init.attrs)?;
            let target = Target::named(init.attrs.str("output_encoding")?)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| encode(cx, errors, target)))
        })
}

fn encode(cx: &mut OpContext<'_>, errors: Errors, target: Target) -> Result<()> {
    let values = cx.slice::<i32>(0)?;
    let splits = int_vector(cx.input(1)?, "input_splits")?;
    let [first, rest @ ..] = &splits[..] else {
        return Err(Error::invalid("input_splits must have at least one element"));
    };
    if *first != 0 {
        return Err(Error::invalid("first value in input_splits must be zero"));
    }
    let mut out = moves::list(cx, rest.len())?;
    let mut start = 0usize;
    for s in rest {
        let end = usize::try_from(*s).ok().filter(|e| *e >= start && *e <= values.len());
        let end = end.ok_or_else(|| {
            Error::invalid("values in input_splits must be in ascending order and at most the length of input_values")
        })?;
        let mut text = Vec::new();
        for v in &values[start..end] {
            let c = u32::try_from(*v).ok().and_then(char::from_u32);
            match (c, errors.policy) {
                (Some(c), _) => target.push(c, &mut text),
                (None, Policy::Ignore) => {}
                (None, Policy::Replace) => {
                    let r = char::from_u32(errors.replacement as u32).unwrap_or(char::REPLACEMENT_CHARACTER);
                    target.push(r, &mut text);
                }
                (None, Policy::Strict) => {
                    return Err(Error::invalid(format!(
                        "code point {v} is out of range for Unicode, or is a surrogate"
                    )));
                }
            }
        }
        out.push(Bytes::from(text));
        start = end;
    }
    if start != values.len() {
        return Err(Error::invalid(
            "last value in input_splits must be equal to the length of input_values",
        ));
    }
    let n = out.len();
    cx.set_output(0, Tensor::strings([n], out)?);
    Ok(())
}

fn unicode_transcode() -> OpDef {
    OpDef::new("UnicodeTranscode", Category::String)
        .doc("Strings in another encoding.")
        .input("input: string")
        .output("output: string")
        .attr("input_encoding: string")
        .attr("output_encoding: {'UTF-8', 'UTF-16-BE', 'UTF-32-BE'}")
        .attr("errors: {'strict', 'replace', 'ignore'} = 'replace'")
        .attr("replacement_char: int = 65533")
        .attr("replace_control_characters: bool = false")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            let encoding = Encoding::named(init.attrs.str("input_encoding")?)?;
            let target = Target::named(init.attrs.str("output_encoding")?)?;
            let errors = Errors::of(init.attrs)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = map(cx, 0, |s| {
                    let mut out = Vec::with_capacity(s.len());
                    errors.read(encoding, s, |c, _| {
                        let c = char::from_u32(c as u32).unwrap_or(char::REPLACEMENT_CHARACTER);
                        target.push(c, &mut out);
                    })?;
                    Ok(out.into())
                })?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn unicode_script() -> OpDef {
    OpDef::new("UnicodeScript", Category::String)
        .doc("The script of code points, by ICU's numbers; -1 for what is no code point.")
        .input("input: int32")
        .output("output: int32")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                let mut t = cx.alloc(DType::I32, x.shape())?;
                let out = t.as_mut_slice::<i32>().unwrap_or(&mut []);
                for (o, c) in out.iter_mut().zip(x.as_slice::<i32>()?) {
                    *o = script(*c);
                }
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(
    unicode_decode,
    unicode_decode_with_offsets,
    unicode_encode,
    unicode_transcode,
    unicode_script,
);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};
    use bytes::Bytes;

    fn strings(v: &[&'static [u8]]) -> Tensor {
        Tensor::strings([v.len()], v.iter().map(|s| Bytes::from_static(s)).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn text_becomes_code_points() {
        let g = Graph::new();
        let x = g.constant(strings(&["hé".as_bytes(), b"a\xffb\x01"])).unwrap();
        let decode = |errors: &str, control: bool| {
            let b = g
                .op("UnicodeDecodeWithOffsets")
                .input(&x)
                .attr("input_encoding", "UTF-8");
            let b = b.attr("errors", errors).attr("replace_control_characters", control);
            b.finish().unwrap().outputs()
        };
        let o = decode("replace", false);
        assert_eq!(eval(&o[0]), Tensor::from([0i64, 2, 6]));
        assert_eq!(eval(&o[1]), Tensor::from([104i32, 233, 97, 65533, 98, 1]));
        assert_eq!(eval(&o[2]), Tensor::from([0i64, 1, 0, 1, 2, 3]));
        assert_eq!(eval(&decode("ignore", true)[1]), Tensor::from([104i32, 233, 97, 98]));
        assert!(
            fails(&decode("strict", false)[0])
                .message()
                .contains("invalid formatting")
        );
    }

    #[test]
    fn code_points_become_text() {
        let g = Graph::new();
        let (v, s) = (
            g.constant([104i32, 0xd800, 10]).unwrap(),
            g.constant([0i64, 1, 1, 3]).unwrap(),
        );
        let encode = |errors: &str| {
            let b = g
                .op("UnicodeEncode")
                .input(&v)
                .input(&s)
                .attr("output_encoding", "UTF-8");
            b.attr("errors", errors).output().unwrap()
        };
        assert_eq!(eval(&encode("replace")), strings(&[b"h", b"", "\u{fffd}\n".as_bytes()]));
        assert_eq!(eval(&encode("ignore")), strings(&[b"h", b"", b"\n"]));
        assert!(fails(&encode("strict")).message().contains("surrogate"));
        let x = g.constant("é").unwrap();
        let b = g.op("UnicodeTranscode").input(&x).attr("input_encoding", "UTF-8");
        let y = b.attr("output_encoding", "UTF-16-BE").output().unwrap();
        assert_eq!(eval(&y).as_strings().unwrap()[0], &b"\x00\xe9"[..]);
    }

    #[test]
    fn code_points_have_scripts() {
        let g = Graph::new();
        let x = g
            .constant([-1i32, 0x110000, 65, 0x4e16, 0x1f600, 0x391, 32, 0x300, 0x378])
            .unwrap();
        assert_eq!(
            eval(&x.unary("UnicodeScript").unwrap()),
            Tensor::from([-1i32, -1, 25, 17, 0, 14, 0, 1, 103])
        );
    }
}
