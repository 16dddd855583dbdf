//! Patterns of file names: TensorFlow's `GetMatchingPaths`.

#![forbid(unsafe_code)]

use std::path::Path;

use actorflow_core::error::{Error, Result};
use actorflow_core::files::{Access, FilePolicy};

/// The paths that match a pattern, of those that may be read, sorted. A pattern without a special character gives itself if the file exists; one
/// that is special in its first part is taken as `./` and itself, as TensorFlow has it.
///
/// # Errors
/// `PERMISSION_DENIED` if the part without special characters may not be read, `UNIMPLEMENTED` for a URL.
pub(super) fn paths(pattern: &str, files: &FilePolicy) -> Result<Vec<String>> {
    let pattern = pattern.strip_prefix("file://").unwrap_or(pattern);
    if pattern.contains("://") {
        return Err(Error::unimplemented(format!(
            "patterns match local files only, got {pattern:?}"
        )));
    }
    let Some(special) = pattern.find(['*', '?', '[', '\\']) else {
        files.check(pattern, Access::Read)?;
        let there = Path::new(pattern).exists();
        return Ok(if there { vec![pattern.to_owned()] } else { Vec::new() });
    };
    let (fixed, rest) = match pattern[..special].rfind('/') {
        Some(slash) => pattern.split_at(slash + 1),
        None => ("./", pattern),
    };
    files.check(fixed, Access::Read)?;
    let mut found = vec![fixed.to_owned()];
    let parts: Vec<&str> = rest.split('/').collect();
    for (i, part) in parts.iter().enumerate() {
        let part: Vec<char> = part.chars().collect();
        let last = i + 1 == parts.len();
        let mut next = Vec::new();
        for folder in &found {
            // A directory that is not there, or may not be read, has nothing that matches.
            let Ok(listed) = std::fs::read_dir(folder) else {
                continue;
            };
            for entry in listed.flatten() {
                let name = entry.file_name();
                let Some(name) = name.to_str() else {
                    continue;
                };
                let fits = matches(&part, &name.chars().collect::<Vec<_>>());
                let path = format!("{folder}{name}");
                // A link may lead to what is not allowed.
                if fits && files.check(&path, Access::Read).is_ok() {
                    match last {
                        true => next.push(path),
                        false if Path::new(&path).is_dir() => next.push(path + "/"),
                        false => {}
                    }
                }
            }
        }
        found = next;
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a name matches: `*` any characters, `?` one, `[abc]`, `[a-z]`, `[^a]` or `[!a]` one of (or not of) a set, `\`
/// makes the next character ordinary.
fn matches(pattern: &[char], name: &[char]) -> bool {
    // Where to go on when what follows the last star does not match: it takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    loop {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p + 1, n));
            p += 1;
            continue;
        }
        let step = match (name.get(n), p < pattern.len()) {
            (None, false) => return true,
            (None, true) => return false,
            (Some(_), false) => None,
            (Some(&c), true) => one(&pattern[p..], c),
        };
        match (step, retry) {
            (Some(used), _) => (p, n) = (p + used, n + 1),
            (None, Some((after, from))) => {
                retry = Some((after, from + 1));
                (p, n) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
}

/// How many characters of the pattern match `c`, if they do.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['[', set @ ..] => {
            let (not, set) = match set {
                ['!' | '^', rest @ ..] => (true, rest),
                _ => (false, set),
            };
            // A bracket that comes first is a member.
            let end = set.iter().skip(1).position(|x| *x == ']')? + 1;
            let (mut i, mut inside) = (0, false);
            while i < end {
                if i + 2 < end && set[i + 1] == '-' {
                    inside |= (set[i]..=set[i + 2]).contains(&c);
                    i += 3;
                } else {
                    inside |= set[i] == c;
                    i += 1;
                }
            }
            (inside != not).then_some(end + 2 + usize::from(not))
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        matches(&chars(pattern), &chars(name))
    }

    #[test]
    fn stars_questions_sets_and_escapes() {
        for (pattern, name) in [
            ("*", "x.txt"),
            ("x?txt", "x.txt"),
            ("x.*", "x.txt"),
            ("[!a]*", "x"),
            ("[a-z]1", "v1"),
            ("\\*", "*"),
            ("*a*b", "xaab"),
            ("[]]", "]"),
            ("[^a-c]", "d"),
            ("", ""),
            ("**x", "abx"),
            ("a*", "a"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("x", "y"),
            ("x", "xy"),
            ("*.t", "x.txt"),
            ("[!x]", "x"),
            ("[a-c]", "d"),
            ("{x,y}", "x"),
            ("?", ""),
            ("[x", "x"),
            ("\\*", "a"),
            ("a?", "a"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
