//! `AsString`, `StringToNumber`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, Tensor, dispatch, register_ops};
use bytes::Bytes;

use super::printf::{Fill, Spec, Style};
use super::support::{map_to, stripped};
use crate::moves;
use crate::shapes;

/// The attributes as a conversion specification, if they suit the dtype.
fn spec(attrs: &Attrs, dtype: DType) -> Result<Spec> {
    let (scientific, shortest) = (attrs.bool("scientific")?, attrs.bool("shortest")?);
    let (precision, width) = (attrs.int("precision")?, attrs.int("width")?);
    if scientific && shortest {
        return Err(Error::invalid("cannot select both scientific and shortest notation"));
    }
    let plain = !(dtype.is_float() || dtype.is_complex() || dtype == DType::Str);
    if plain && (scientific || shortest) {
        return Err(Error::invalid(
            "scientific and shortest format not supported for non-float dtypes",
        ));
    }
    if plain && precision >= 0 {
        return Err(Error::invalid(format!("precision not supported for dtype {dtype}")));
    }
    let fill = match attrs.str("fill")? {
        "" => Fill::Spaces,
        " " => Fill::SpaceSign,
        "+" => Fill::PlusSign,
        "-" => Fill::Left,
        "0" => Fill::Zeros,
        other => return Err(Error::invalid(format!("fill argument not supported: {other:?}"))),
    };
    // Less than what the formatting of numbers allows.
    let bounded = |x: i64| usize::try_from(x).ok().map(|x| x.min(60_000));
    Ok(Spec {
        width: bounded(width).unwrap_or(0),
        fill: if width > 0 || fill != Fill::Zeros {
            fill
        } else {
            Fill::Spaces
        },
        // Texts are filled up to a width, but never cut.
        precision: bounded(precision).filter(|_| dtype != DType::Str),
        style: match (scientific, shortest) {
            (true, _) => Style::Exponent,
            (_, true) => Style::General,
            _ => Style::Fixed,
        },
    })
}

/// A number by a specification.
trait Text: actorflow_core::Element {
    fn text(self, s: &Spec) -> String;
}

macro_rules! text {
    ($($t:ty: |$x:ident, $s:ident| $e:expr;)*) => {
        $(impl Text for $t {
            fn text(self, $s: &Spec) -> String {
                let $x = self;
                $e
            }
        })*
    };
}

text! {
    f32: |x, s| s.float(f64::from(x));
    f64: |x, s| s.float(x);
    actorflow_core::half::f16: |x, s| s.float(f64::from(x));
    actorflow_core::half::bf16: |x, s| s.float(f64::from(x));
    actorflow_core::num_complex::Complex<f32>: |x, s| {
        format!("({},{})", s.float(f64::from(x.re)), s.float(f64::from(x.im)))
    };
    actorflow_core::num_complex::Complex<f64>: |x, s| format!("({},{})", s.float(x.re), s.float(x.im));
    bool: |x, _s| x.to_string();
    i8: |x, s| s.integer(x.into());
    i16: |x, s| s.integer(x.into());
    i32: |x, s| s.integer(x.into());
    i64: |x, s| s.integer(x.into());
    u8: |x, s| s.integer(x.into());
    u16: |x, s| s.integer(x.into());
    u32: |x, s| s.integer(x.into());
    u64: |x, s| s.integer(x.into());
}

fn as_string() -> OpDef {
    OpDef::new("AsString", Category::String)
        .doc("Every element as text.")
        .input("input: T")
        .output("output: string")
        .attr(
            "T: {float, double, int32, uint8, int16, int8, int64, bfloat16, uint16, half, uint32, uint64, complex64, \
             complex128, bool, variant, string}",
        )
        .attr("precision: int = -1")
        .attr("scientific: bool = false")
        .attr("shortest: bool = false")
        .attr("width: int = -1")
        .attr("fill: string = ''")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            let spec = spec(init.attrs, init.attrs.dtype("T")?)?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                let mut out: Vec<Bytes> = moves::list(cx, x.len())?;
                if let Ok(s) = x.as_strings() {
                    out.extend(s.iter().map(|s| Bytes::from(spec.text(s))));
                } else {
                    dispatch!(x.dtype(), T in plain => {
                        out.extend(x.as_slice::<T>()?.iter().map(|x| Bytes::from(x.text(&spec))));
                    }, else return Err(Error::unimplemented(format!("AsString of dtype {}", x.dtype()))));
                }
                let t = Tensor::strings(x.shape(), out)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

/// A number as text.
pub(crate) trait Parsed: actorflow_core::Element {
    /// The number that the text (white space at its ends ignored) is.
    fn parsed(text: &str) -> Option<Self>;
}

macro_rules! parsed {
    ($($t:ty)*; $($f:ty)*) => {
        $(impl Parsed for $t {
            fn parsed(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        })*
        $(impl Parsed for $f {
            fn parsed(text: &str) -> Option<Self> {
                let (sign, digits) = match text.strip_prefix('-') {
                    Some(rest) => (-1.0, rest),
                    None => (1.0, text.strip_prefix('+').unwrap_or(text)),
                };
                if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
                    // Hexadecimal integers are numbers too.
                    let whole = u64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))?;
                    return Some(sign * whole as $f);
                }
                text.parse().ok()
            }
        })*
    };
}

parsed!(i32 i64 u32 u64; f32 f64);

/// The number that a string is.
pub(crate) fn parse<T: Parsed>(s: &[u8]) -> Option<T> {
    T::parsed(std::str::from_utf8(stripped(s)).ok()?)
}

fn string_to_number() -> OpDef {
    OpDef::new("StringToNumber", Category::String)
        .doc("The number that every string says.")
        .input("string_tensor: string")
        .output("output: out_type")
        .attr("out_type: {float, double, int32, int64, uint32, uint64} = DT_FLOAT")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            let out = init.attrs.dtype("out_type")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = dispatch!(out, T in [F32, F64, I32, I64, U32, U64] => {
                    map_to::<T>(cx, 0, |s| parse(s).ok_or_else(|| Error::invalid(format!(
                        "StringToNumberOp could not correctly convert string: {}", String::from_utf8_lossy(s)
                    ))))?
                }, else return Err(Error::unimplemented(format!("StringToNumber to {out}"))));
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(as_string, string_to_number);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::Graph;

    #[test]
    fn numbers_become_text() {
        let g = Graph::new();
        let text = |x: Tensor, attrs: &[(&str, actorflow_core::AttrValue)]| {
            let b = g.op("AsString").input(&g.constant(x).unwrap());
            let t = attrs
                .iter()
                .fold(b, |b, (k, v)| b.attr(k, v.clone()))
                .output()
                .map(|o| eval(&o))
                .unwrap();
            String::from_utf8_lossy(&t.as_strings().unwrap()[0]).into_owned()
        };
        assert_eq!(text(0.1f32.into(), &[]), "0.100000");
        assert_eq!(text((1.0f32 / 3.0).into(), &[("shortest", true.into())]), "0.333333");
        assert_eq!(
            text((-7i32).into(), &[("width", 5i64.into()), ("fill", "0".into())]),
            "-0007"
        );
        assert_eq!(text(true.into(), &[]), "true");
        assert_eq!(text("ab".into(), &[("width", 4i64.into())]), "  ab");
        let c = actorflow_core::num_complex::Complex::new(1f32, -2.0);
        assert_eq!(text(c.into(), &[("precision", 1i64.into())]), "(1.0,-2.0)");
    }

    #[test]
    fn text_becomes_numbers() {
        assert_eq!(parse::<f32>(b" 3.5e2\n"), Some(350.0));
        assert_eq!(parse::<f64>(b"-Infinity"), Some(f64::NEG_INFINITY));
        assert_eq!(
            (parse::<f32>(b"0x10"), parse::<f32>(b"1e"), parse::<f32>(b"")),
            (Some(16.0), None, None)
        );
        assert_eq!(
            (parse::<i32>(b"+3"), parse::<i32>(b"3.5"), parse::<i32>(b"2147483648")),
            (Some(3), None, None)
        );
        assert_eq!(parse::<u32>(b"-1"), None);
        let g = Graph::new();
        let e = fails(&g.constant("abc").unwrap().unary("StringToNumber").unwrap());
        assert!(e.message().ends_with("convert string: abc"), "{e}");
    }
}
