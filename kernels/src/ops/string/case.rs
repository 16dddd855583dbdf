//! `StringLength`, `StringLower`, `StringUpper`, `StringStrip`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, register_ops};
use bytes::Bytes;

use super::support::{begins_char, map, map_to, stripped};
use crate::shapes;

fn mapping(name: &'static str) -> OpDef {
    OpDef::new(name, Category::String)
        .input("input: string")
        .shape(shapes::unchanged)
        .not_differentiable()
}

fn string_length() -> OpDef {
    mapping("StringLength")
        .doc("The number of bytes, or of UTF-8 characters.")
        .output("output: int32")
        .attr("unit: {'BYTE', 'UTF8_CHAR'} = 'BYTE'")
        .cpu(|init| {
            let chars = init.attrs.str("unit")? == "UTF8_CHAR";
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = map_to::<i32>(cx, 0, |s| {
                    let n = if chars {
                        s.iter().filter(|b| begins_char(**b)).count()
                    } else {
                        s.len()
                    };
                    i32::try_from(n).map_err(|_| Error::invalid("a string is longer than an int32 can say"))
                })?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

/// Whether letters outside of ASCII count.
fn unicode(attrs: &Attrs) -> Result<bool> {
    match attrs.str("encoding")? {
        "" => Ok(false),
        "utf-8" => Ok(true),
        other => Err(Error::invalid(format!(
            "only utf-8 or '' (no encoding) is supported, received {other}"
        ))),
    }
}

/// A change of case.
#[derive(Clone, Copy)]
struct Changing {
    unicode: bool,
    ascii: fn(&[u8]) -> Vec<u8>,
    full: fn(&str) -> String,
}

impl Changing {
    fn of(self, s: &Bytes) -> Bytes {
        if self.unicode {
            (self.full)(&String::from_utf8_lossy(s)).into()
        } else {
            (self.ascii)(s).into()
        }
    }
}

fn string_lower() -> OpDef {
    mapping("StringLower")
        .doc("Lower case; of ASCII letters only unless the encoding is utf-8.")
        .output("output: string")
        .attr("encoding: string = ''")
        .cpu(|init| {
            let change = Changing {
                unicode: unicode(init.attrs)?,
                ascii: <[u8]>::to_ascii_lowercase,
                full: str::to_lowercase,
            };
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = map(cx, 0, |s| Ok(change.of(s)))?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn string_upper() -> OpDef {
    mapping("StringUpper")
        .doc("Upper case; of ASCII letters only unless the encoding is utf-8.")
        .output("output: string")
        .attr("encoding: string = ''")
        .cpu(|init| {
            let change = Changing {
                unicode: unicode(init.attrs)?,
                ascii: <[u8]>::to_ascii_uppercase,
                full: str::to_uppercase,
            };
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = map(cx, 0, |s| Ok(change.of(s)))?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn string_strip() -> OpDef {
    mapping("StringStrip")
        .doc("Without white space at both ends.")
        .output("output: string")
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let t = map(cx, 0, |s| Ok(s.slice_ref(stripped(s))))?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(string_length, string_lower, string_upper, string_strip);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn lengths_cases_and_white_space() {
        let g = Graph::new();
        let s = g.constant("é世A").unwrap();
        assert_eq!(eval(&s.unary("StringLength").unwrap()), Tensor::from(6i32));
        let chars = g
            .op("StringLength")
            .input(&s)
            .attr("unit", "UTF8_CHAR")
            .output()
            .unwrap();
        assert_eq!(eval(&chars), Tensor::from(3i32));
        let upper = |e: &str| g.op("StringUpper").input(&s).attr("encoding", e).output().unwrap();
        assert_eq!(eval(&upper("")), Tensor::from("é世A"));
        assert_eq!(eval(&upper("utf-8")), Tensor::from("É世A"));
        assert!(fails(&upper("latin")).message().contains("latin"));
        let s = g.constant(" \t\u{b} a b \0 ").unwrap();
        assert_eq!(eval(&s.unary("StringStrip").unwrap()), Tensor::from("a b \0"));
        assert_eq!(
            eval(&g.constant("  ").unwrap().unary("StringStrip").unwrap()),
            Tensor::from("")
        );
    }
}
