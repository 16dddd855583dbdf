//! RE2's regular expressions by way of the `regex` crate, whose syntax is nearly the same.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use regex::bytes::{Captures, Regex, RegexBuilder};

/// Compiles a pattern; `whole` makes it match whole strings only.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the pattern and what is wrong with it.
pub(crate) fn compile(pattern: &[u8], whole: bool) -> Result<Regex> {
    let invalid = |why: &str| {
        let shown = String::from_utf8_lossy(pattern);
        Error::invalid(format!("Invalid pattern: {shown}, error: {why}"))
    };
    let text = std::str::from_utf8(pattern).map_err(|_| invalid("invalid UTF-8"))?;
    // Compiled as it is first, so that nothing but what is valid alone is put into the group.
    let translated = translated(text);
    let build = |p: &str| {
        let built = RegexBuilder::new(p).octal(true).size_limit(64 << 20).build();
        built.map_err(|e| {
            let e = e.to_string();
            let why = e.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("syntax error");
            invalid(why.trim_start_matches("error: "))
        })
    };
    let alone = build(&translated)?;
    if whole {
        build(&format!(r"\A(?:{translated})\z"))
    } else {
        Ok(alone)
    }
}

/// RE2's Perl classes and word boundaries are those of ASCII, and some characters that mean something inside of
/// brackets to `regex` mean themselves to RE2.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut class = false;
    // A bracket right after the opening one (and the circumflex) means itself.
    let mut first = false;
    while let Some(c) = chars.next() {
        let at_start = std::mem::take(&mut first);
        match c {
            '\\' => {
                let Some(e) = chars.next() else {
                    out.push('\\');
                    break;
                };
                match (e, class) {
                    ('d', false) => out.push_str("[0-9]"),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('s', false) => out.push_str(r"[\t\n\f\r ]"),
                    ('S', _) => out.push_str(r"[^\t\n\f\r ]"),
                    ('d', true) => out.push_str("0-9"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('s', true) => out.push_str(r"\t\n\f\r "),
                    ('b', false) => out.push_str(r"(?-u:\b)"),
                    ('B', false) => out.push_str(r"(?-u:\B)"),
                    ('C', false) => out.push_str("(?s-u:.)"),
                    ('Q', false) => {
                        let mut literal = String::new();
                        while let Some(c) = chars.next() {
                            if c == '\\' && chars.peek() == Some(&'E') {
                                chars.next();
                                break;
                            }
                            literal.push(c);
                        }
                        out.push_str(&regex::escape(&literal));
                    }
                    _ => out.extend(['\\', e]),
                }
            }
            '[' if !class => {
                class = true;
                first = true;
                out.push('[');
                if chars.peek() == Some(&'^') {
                    chars.next();
                    out.push('^');
                }
            }
            '[' => {
                // `[:name:]` is a class of its own, any other bracket means itself.
                if chars.peek() == Some(&':') {
                    out.push('[');
                    for c in chars.by_ref() {
                        out.push(c);
                        if c == ']' {
                            break;
                        }
                    }
                } else {
                    out.push_str(r"\[");
                }
            }
            ']' if class && at_start => out.push_str(r"\]"),
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => out.extend(['\\', c]),
            '-' if class && chars.peek() == Some(&'-') => out.push_str(r"\-"),
            _ => out.push(c),
        }
    }
    out
}

/// What a match is replaced by: text, and `\0` to `\9` for the match and its groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rewrite {
    parts: Vec<Part>,
    /// Something that is no rewrite follows the parts.
    broken: bool,
}

#[derive(Debug, Clone)]
enum Part {
    Text(Vec<u8>),
    Group(usize),
}

impl Rewrite {
    /// Reads a rewrite.
    pub(crate) fn new(text: &[u8]) -> Rewrite {
        let mut r = Rewrite::default();
        let mut bytes = text.iter();
        let mut run = Vec::new();
        while let Some(&b) = bytes.next() {
            if b != b'\\' {
                run.push(b);
                continue;
            }
            match bytes.next() {
                Some(b'\\') => run.push(b'\\'),
                Some(d) if d.is_ascii_digit() => {
                    r.parts.push(Part::Text(std::mem::take(&mut run)));
                    r.parts.push(Part::Group(usize::from(d - b'0')));
                }
                _ => {
                    r.broken = true;
                    break;
                }
            }
        }
        r.parts.push(Part::Text(run));
        r
    }

    fn append(&self, m: &Captures<'_>, out: &mut Vec<u8>) {
        for p in &self.parts {
            match p {
                Part::Text(t) => out.extend_from_slice(t),
                Part::Group(g) => out.extend_from_slice(m.get(*g).map_or(&[], |g| g.as_bytes())),
            }
        }
    }

    /// The text with the first match, or all, replaced; `None` if nothing changes. As in RE2, a rewrite that asks
    /// for a group that the pattern does not have changes nothing.
    pub(crate) fn apply(&self, pattern: &Regex, text: &[u8], all: bool) -> Option<Vec<u8>> {
        let groups = pattern.captures_len();
        if self.parts.iter().any(|p| matches!(p, Part::Group(g) if *g >= groups)) || (self.broken && !all) {
            return None;
        }
        let mut out = Vec::with_capacity(text.len());
        let mut at = 0;
        let mut matched = false;
        for m in pattern.captures_iter(text).take(if all { usize::MAX } else { 1 }) {
            let whole = m.get(0)?;
            out.extend_from_slice(&text[at..whole.start()]);
            self.append(&m, &mut out);
            at = whole.end();
            matched = true;
        }
        out.extend_from_slice(&text[at..]);
        matched.then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &[u8], pattern: &str, rewrite: &[u8]) -> Vec<u8> {
        let p = compile(pattern.as_bytes(), false).unwrap();
        Rewrite::new(rewrite)
            .apply(&p, text, true)
            .unwrap_or_else(|| text.to_vec())
    }

    #[test]
    fn replacements_are_those_of_re2() {
        type Case = (&'static [u8], &'static str, &'static [u8], &'static [u8]);
        let cases: [Case; 22] = [
            (b"abc123def", r"(\d+)", br"<\1\0\\>", br"abc<123123\>def"),
            (b"abc", "(b)", br"\2", b"abc"),
            (b"abc", "(b)", br"\x", b"ac"),
            (b"abc", "a*", b"-", b"-b-c-"),
            (b"baac", "a*", b"-", b"-b-c-"),
            ("été 世".as_bytes(), ".", b"-", b"-----"),
            ("été".as_bytes(), r"\w", b"-", "é-é".as_bytes()),
            ("É".as_bytes(), "(?i)é", b"-", b"-"),
            (b"a\xff\xfeb", ".", b"-", b"-\xff\xfe-"),
            (b"a\nb", ".", b"-", b"-\n-"),
            (b"a b", "[[:alpha:]]", b"-", b"- -"),
            (b"a[b&&c", "[[&&]", b"-", b"a-b--c"),
            (b"ab", r"\C", b"-", b"--"),
            (b"ab\x01", r"\001", b"-", b"ab-"),
            (b"a.b.c", r"\Q.b\E", b"-", b"a-.c"),
            (b"aXbX", "(?P<n>X)", br"-\1", b"a-Xb-X"),
            (b"abc", r"\b", b"-", b"-abc-"),
            (b"a\nb", "^", b"-", b"-a\nb"),
            (b"a\nb", "(?m)^", b"-", b"-a\n-b"),
            (b"aaa", "a{2}", b"-", b"-a"),
            (b"a-]b", r"[]\-]", b"", b"ab"),
            (b"a1_ b", r"[^\w]", b"-", b"a1_-b"),
        ];
        for (text, pattern, rewrite, want) in cases {
            let got = replaced(text, pattern, rewrite);
            assert_eq!(got, want, "{pattern} {}", String::from_utf8_lossy(&got));
        }
    }

    #[test]
    fn whole_strings_match_or_do_not() {
        let m = |p: &str, s: &[u8]| compile(p.as_bytes(), true).unwrap().is_match(s);
        assert!(m("a.c", b"abc") && !m("a.c", b"abcd") && m("a|abc", b"abc") && !m("abc", b"abc\n"));
        for bad in ["(", "[", "a(?=b)", "*"] {
            assert!(
                compile(bad.as_bytes(), true)
                    .unwrap_err()
                    .message()
                    .starts_with("Invalid pattern: "),
                "{bad}"
            );
        }
        assert!(compile(b")(", true).is_err());
    }
}
