//! Encodings of Unicode text.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};

/// An encoding of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Utf8,
    /// Two-byte units; big-endian, or little-endian, or as a byte order mark says (big-endian without one).
    Utf16(Order),
    /// Four-byte units.
    Utf32(Order),
    /// Bytes below 128.
    Ascii,
    /// Every byte is the character of its number.
    Latin1,
}

/// The order of the bytes of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Big,
    Little,
    Marked,
}

impl Encoding {
    /// The encoding of that name; case and separators do not matter.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming it if it is not known.
    pub(crate) fn named(name: &str) -> Result<Encoding> {
        let plain: String = name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase();
        Ok(match &plain[..] {
            "utf8" => Encoding::Utf8,
            "utf16" => Encoding::Utf16(Order::Marked),
            "utf16be" => Encoding::Utf16(Order::Big),
            "utf16le" => Encoding::Utf16(Order::Little),
            "utf32" => Encoding::Utf32(Order::Marked),
            "utf32be" => Encoding::Utf32(Order::Big),
            "utf32le" => Encoding::Utf32(Order::Little),
            "ascii" | "usascii" | "iso646us" | "ansix341968" => Encoding::Ascii,
            "latin1" | "iso88591" | "l1" | "ibm819" | "cp819" => Encoding::Latin1,
            _ => {
                return Err(Error::invalid(format!(
                    "could not create converter for input encoding {name:?}; known are UTF-8, UTF-16 and UTF-32 (-BE, \
                     -LE), US-ASCII and ISO-8859-1"
                )));
            }
        })
    }

    /// Calls `f` with every character, `None` for what is malformed, and where its bytes begin.
    pub(crate) fn decode(self, text: &[u8], mut f: impl FnMut(Option<char>, usize)) {
        match self {
            Encoding::Utf8 => {
                let mut at = 0;
                for chunk in text.utf8_chunks() {
                    for (i, c) in chunk.valid().char_indices() {
                        f(Some(c), at + i);
                    }
                    at += chunk.valid().len();
                    if !chunk.invalid().is_empty() {
                        f(None, at);
                    }
                    at += chunk.invalid().len();
                }
            }
            Encoding::Utf16(order) => utf16(text, order, f),
            Encoding::Utf32(order) => utf32(text, order, f),
            Encoding::Ascii => {
                for (i, b) in text.iter().enumerate() {
                    f(b.is_ascii().then_some(char::from(*b)), i);
                }
            }
            Encoding::Latin1 => {
                for (i, b) in text.iter().enumerate() {
                    f(Some(char::from(*b)), i);
                }
            }
        }
    }
}

/// The order of the units, and how many bytes a mark takes.
fn resolved(order: Order, text: &[u8], size: usize) -> (bool, usize) {
    let mark = |little: bool| {
        let mut m = vec![0; size];
        let n = m.len();
        (m[n - 2], m[n - 1]) = (0xfe, 0xff);
        if little {
            m.reverse();
        }
        m
    };
    match order {
        Order::Big => (false, 0),
        Order::Little => (true, 0),
        Order::Marked if text.starts_with(&mark(true)) => (true, size),
        Order::Marked if text.starts_with(&mark(false)) => (false, size),
        Order::Marked => (false, 0),
    }
}

fn utf16(text: &[u8], order: Order, mut f: impl FnMut(Option<char>, usize)) {
    let (little, start) = resolved(order, text, 2);
    let unit = |at: usize| {
        let b = text.get(at..at + 2)?;
        Some(if little {
            u16::from_le_bytes([b[0], b[1]])
        } else {
            u16::from_be_bytes([b[0], b[1]])
        })
    };
    let mut at = start;
    while at < text.len() {
        let Some(u) = unit(at) else {
            return f(None, at);
        };
        let pair = unit(at + 2).filter(|v| (0xd800..0xdc00).contains(&u) && (0xdc00..0xe000).contains(v));
        match pair {
            Some(v) => {
                let c = 0x10000 + ((u32::from(u) & 0x3ff) << 10) + (u32::from(v) & 0x3ff);
                f(char::from_u32(c), at);
                at += 4;
            }
            None => {
                f(char::from_u32(u32::from(u)), at);
                at += 2;
            }
        }
    }
}

fn utf32(text: &[u8], order: Order, mut f: impl FnMut(Option<char>, usize)) {
    let (little, start) = resolved(order, text, 4);
    let mut at = start;
    while at < text.len() {
        let unit = text.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
        let c = unit.map(|b| {
            if little {
                u32::from_le_bytes(b)
            } else {
                u32::from_be_bytes(b)
            }
        });
        f(c.and_then(char::from_u32), at);
        at += 4;
    }
}

/// What text is encoded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Utf8,
    Utf16Be,
    Utf32Be,
}

impl Target {
    /// The target of that name.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is none of the three.
    pub(crate) fn named(name: &str) -> Result<Target> {
        match name {
            "UTF-8" => Ok(Target::Utf8),
            "UTF-16-BE" => Ok(Target::Utf16Be),
            "UTF-32-BE" => Ok(Target::Utf32Be),
            other => Err(Error::invalid(format!("invalid output encoding {other:?}"))),
        }
    }

    /// Appends a character.
    pub(crate) fn push(self, c: char, out: &mut Vec<u8>) {
        match self {
            Target::Utf8 => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Target::Utf16Be => {
                for u in c.encode_utf16(&mut [0; 2]) {
                    out.extend_from_slice(&u.to_be_bytes());
                }
            }
            Target::Utf32Be => out.extend_from_slice(&u32::from(c).to_be_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(name: &str, text: &[u8]) -> Vec<(u32, usize)> {
        let mut out = Vec::new();
        Encoding::named(name)
            .unwrap()
            .decode(text, |c, at| out.push((c.map_or(0xfffd, u32::from), at)));
        out
    }

    #[test]
    fn text_of_every_encoding() {
        assert_eq!(
            decoded("UTF-8", "hé世😀".as_bytes()),
            [(104, 0), (233, 1), (19990, 3), (128512, 6)]
        );
        assert_eq!(
            decoded("UTF-16-BE", b"\0h\0\xe9\xd8\x3d\xde\0\0z"),
            [(104, 0), (233, 2), (128512, 4), (122, 8)]
        );
        assert_eq!(decoded("utf16", b"\xff\xfea\0"), [(97, 2)]);
        assert_eq!(decoded("UTF-32-BE", b"\0\0\0a"), [(97, 0)]);
        assert_eq!(decoded("latin1", b"\xe9"), [(233, 0)]);
        assert!(Encoding::named("nope").is_err());
    }

    #[test]
    fn malformed_text_is_marked() {
        let bad = |n: &str, t: &[u8]| decoded(n, t).iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!(bad("UTF-8", b"a\xffb\xe4\xb8c"), [97, 0xfffd, 98, 0xfffd, 99]);
        assert_eq!(bad("UTF-8", b"\xed\xa0\x80\xf0\x9f\x98"), [0xfffd; 4]);
        assert_eq!(bad("UTF-16-BE", b"\0a\xd8\x3d\0b\xd8"), [97, 0xfffd, 98, 0xfffd]);
        assert_eq!(bad("UTF-32-BE", b"\0\0\0a\0\x11\0\0\0"), [97, 0xfffd, 0xfffd]);
        assert_eq!(bad("US-ASCII", b"h\xc3"), [104, 0xfffd]);
    }

    #[test]
    fn characters_are_encoded() {
        let mut out = Vec::new();
        Target::Utf16Be.push('😀', &mut out);
        Target::Utf32Be.push('é', &mut out);
        Target::Utf8.push('世', &mut out);
        assert_eq!(out, [0xd8, 0x3d, 0xde, 0, 0, 0, 0, 0xe9, 0xe4, 0xb8, 0x96]);
    }
}
