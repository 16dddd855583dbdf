//! Patterns of names, as shells write them.

/// Whether `name` matches `pattern`, in which `*` stands for any characters and `?` for one.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut i, mut j) = (0, 0);
    // Where to go on after a mismatch: the last star takes one character more.
    let mut retry: Option<(usize, usize)> = None;
    while j < n.len() {
        match p.get(i) {
            Some('*') => {
                retry = Some((i, j));
                i += 1;
            }
            Some(c) if *c == '?' || *c == n[j] => {
                i += 1;
                j += 1;
            }
            _ => match retry {
                Some((star, taken)) => {
                    retry = Some((star, taken + 1));
                    i = star + 1;
                    j = taken + 1;
                }
                None => return false,
            },
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

/// Whether `name` matches one of the patterns, or there is none.
pub(crate) fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|p| matches(p, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (p, n, want) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("*ab*", "xaab", true),
            ("unary.*", "unary.exp", true),
            ("unary.*", "binary.exp", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a**b", "ab", true),
            ("*a*a*a*a*b", &"a".repeat(200), false),
        ] {
            assert_eq!(matches(p, n), want, "{p} {n}");
        }
        assert!(matches_any(&[], "x"));
        assert!(matches_any(&["y".into(), "x".into()], "x"));
    }
}
