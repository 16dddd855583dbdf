//! `EncodeBase64`, `DecodeBase64`: the alphabet that is safe in addresses of the web (RFC 4648, section 5).

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::support::map;
use crate::shapes;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encoded(s: &[u8], pad: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(s.len().div_ceil(3) * 4);
    for c in s.chunks(3) {
        let bits = c.iter().fold(0u32, |b, x| (b << 8) | u32::from(*x)) << (8 * (3 - c.len()));
        for i in 0..=c.len() {
            out.push(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63]);
        }
        if pad {
            out.resize(out.len() + 3 - c.len(), b'=');
        }
    }
    out
}

fn value(b: u8) -> Result<u32> {
    let v = match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return Err(Error::invalid("invalid character found in base64")),
    };
    Ok(u32::from(v))
}

/// Padding may be left out, but only be there in full.
pub(crate) fn decoded(s: &[u8]) -> Result<Vec<u8>> {
    let mut text = s;
    if s.len().is_multiple_of(4) {
        text = text
            .strip_suffix(b"=")
            .map_or(text, |t| t.strip_suffix(b"=").unwrap_or(t));
    }
    if text.len() % 4 == 1 {
        return Err(Error::invalid("a base64 string's length cannot be 1 modulo 4"));
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for c in text.chunks(4) {
        let mut bits = 0;
        for b in c {
            bits = (bits << 6) | value(*b)?;
        }
        bits <<= 6 * (4 - c.len());
        let bytes = bits.to_be_bytes();
        out.extend_from_slice(&bytes[1..c.len()]);
    }
    Ok(out)
}

fn encode_base64() -> OpDef {
    OpDef::new("EncodeBase64", Category::String)
        .doc("Strings in web-safe base64, padded if asked for.")
        .input("input: string")
        .output("output: string")
        .attr("pad: bool = false")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|init| {
            let pad = init.attrs.bool("pad")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = map(cx, 0, |s| Ok(encoded(s, pad).into()))?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

fn decode_base64() -> OpDef {
    OpDef::new("DecodeBase64", Category::String)
        .doc("What strings in web-safe base64 encode.")
        .input("input: string")
        .output("output: string")
        .shape(shapes::unchanged)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let t = map(cx, 0, |s| Ok(decoded(s)?.into()))?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(encode_base64, decode_base64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        for n in 0..40u8 {
            let s: Vec<u8> = (0..n).map(|i| i.wrapping_mul(97)).collect();
            for pad in [false, true] {
                assert_eq!(decoded(&encoded(&s, pad)).unwrap(), s);
            }
        }
        assert_eq!(encoded(b"\xff\xfe\xfd", false), b"__79");
        assert_eq!(
            (encoded(b"a", false), encoded(b"a", true)),
            (b"YQ".to_vec(), b"YQ==".to_vec())
        );
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for s in ["YQ=", "Y", "/+79", "YQ==YQ", " YQ", "Y==="] {
            assert!(decoded(s.as_bytes()).is_err(), "{s}");
        }
        assert_eq!(decoded(b"YR").unwrap(), b"a");
    }
}
