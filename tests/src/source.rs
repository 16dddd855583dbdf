//! Rust source read as lines of code, comments and test regions: enough for house rules, without a full parser.

/// One source file, taken apart line by line.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path relative to the repository's root, `/`-separated.
    pub path: String,
    /// The file's lines, in order; line *n* of an editor is `lines[n - 1]`.
    pub lines: Vec<Line>,
    /// Paths, as prefixes without `.rs`, of modules that this file declares for tests only (`#[cfg(test)] mod name;`).
    pub test_modules: Vec<String>,
}

/// One line of a source file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The line's code: comments are removed, the insides of string and character literals are emptied.
    pub code: String,
    /// The line's comment text with its markers (`//`, `//!`, `/*`), empty where there is none.
    pub comment: String,
    /// Whether the line is compiled for tests only.
    pub test: bool,
}

impl SourceFile {
    /// Takes `text` apart. `path` decides whether all of it is test code: integration tests live in a `tests` folder.
    pub fn parse(path: &str, text: &str) -> Self {
        let mut lines = split(text);
        let mut test_modules = Vec::new();
        mark_tests(path, &mut lines, &mut test_modules);
        if in_tests_folder(path) {
            lines.iter_mut().for_each(|line| line.test = true);
        }
        SourceFile {
            path: path.to_owned(),
            lines,
            test_modules,
        }
    }

    /// Takes many files apart and carries test-only module declarations over to the files that hold those modules.
    pub fn parse_all<P: AsRef<str>, T: AsRef<str>>(files: impl IntoIterator<Item = (P, T)>) -> Vec<Self> {
        let mut sources: Vec<Self> = files
            .into_iter()
            .map(|(path, text)| Self::parse(path.as_ref(), text.as_ref()))
            .collect();
        let modules: Vec<String> = sources.iter().flat_map(|source| source.test_modules.clone()).collect();
        for source in &mut sources {
            let of_test = |module: &String| {
                source
                    .path
                    .strip_prefix(module.as_str())
                    .is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            };
            if modules.iter().any(of_test) {
                source.lines.iter_mut().for_each(|line| line.test = true);
            }
        }
        sources
    }

    /// The lines with their 1-based numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line))
    }
}

impl Line {
    /// Whether `word` occurs in the code as a whole identifier.
    pub fn has_word(&self, word: &str) -> bool {
        words(&self.code).any(|(_, found)| found == word)
    }

    /// Whether the code calls the macro `name!`.
    pub fn calls_macro(&self, name: &str) -> bool {
        words(&self.code).any(|(at, found)| {
            let after = self.code[at + found.len()..].trim_start();
            found == name && after.starts_with('!') && !after.starts_with("!=")
        })
    }
}

/// The identifiers of `code` with the byte offset of each.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + code[rest..].find(is_ident)?;
        let end = code[start..]
            .find(|c| !is_ident(c))
            .map_or(code.len(), |length| start + length);
        rest = end;
        Some((start, &code[start..end]))
    })
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Integration tests are in a folder called `tests`; the package of that name keeps its library in `tests/src`.
fn in_tests_folder(path: &str) -> bool {
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    let folders = folders.strip_prefix("tests/src").unwrap_or(folders);
    let folders = folders.strip_prefix("tests").unwrap_or(folders);
    folders.split('/').any(|folder| folder == "tests")
}

/// What the scanner is inside of.
enum Inside {
    Code,
    LineComment,
    /// Nested this deep.
    BlockComment(usize),
    /// An escaped string or character literal that ends at this quote.
    Literal(char),
    /// A raw string that ends at a quote followed by this many `#`.
    RawString(usize),
}

/// Splits `text` into lines of code and comment.
fn split(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut lines = Vec::new();
    let mut line = Line::default();
    let mut inside = Inside::Code;
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '\n' {
            if matches!(inside, Inside::LineComment) {
                inside = Inside::Code;
            }
            lines.push(std::mem::take(&mut line));
            i += 1;
            continue;
        }
        let mut taken = 1;
        match inside {
            Inside::Code => match c {
                '/' if at(i + 1) == '/' => inside = Inside::LineComment,
                '/' if at(i + 1) == '*' => inside = Inside::BlockComment(0),
                '"' => {
                    line.code.push(c);
                    inside = Inside::Literal('"');
                }
                '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                    line.code.push(c);
                    inside = Inside::Literal('\'');
                }
                'r' if !(i > 0 && is_ident(at(i - 1))) || matches!(at(i.wrapping_sub(1)), 'b' | 'c') => {
                    let hashes = chars[i + 1..].iter().take_while(|&&c| c == '#').count();
                    line.code.push(c);
                    if at(i + 1 + hashes) == '"' {
                        line.code.push('"');
                        taken = hashes + 2;
                        inside = Inside::RawString(hashes);
                    }
                }
                _ => line.code.push(c),
            },
            Inside::LineComment => {}
            Inside::BlockComment(_) => {}
            Inside::Literal(quote) => {
                if c == '\\' && at(i + 1) != '\n' {
                    taken = 2;
                } else if c == quote {
                    line.code.push(c);
                    inside = Inside::Code;
                }
            }
            Inside::RawString(hashes) => {
                if c == '"' && (1..=hashes).all(|k| at(i + k) == '#') {
                    line.code.push(c);
                    taken = hashes + 1;
                    inside = Inside::Code;
                }
            }
        }
        match inside {
            Inside::LineComment => line.comment.push(c),
            Inside::BlockComment(depth) => {
                let (depth, ended) = match (c, at(i + 1)) {
                    ('/', '*') => (depth + 1, false),
                    ('*', '/') => (depth - 1, depth == 1),
                    _ => (depth, false),
                };
                line.comment.push(c);
                if matches!((c, at(i + 1)), ('/', '*') | ('*', '/')) {
                    line.comment.push(at(i + 1));
                    taken = 2;
                }
                inside = if ended {
                    Inside::Code
                } else {
                    Inside::BlockComment(depth)
                };
            }
            _ => {}
        }
        i += taken;
    }
    if !(line.code.is_empty() && line.comment.is_empty()) || !text.ends_with('\n') && !text.is_empty() {
        lines.push(line);
    }
    lines
}

/// Marks the lines of items under `#[test]` and `#[cfg(test)]`, and collects test-only modules kept in other files.
fn mark_tests(path: &str, lines: &mut [Line], test_modules: &mut Vec<String>) {
    let code: Vec<(usize, char)> = lines
        .iter()
        .enumerate()
        .flat_map(|(index, line)| line.code.chars().chain(['\n']).map(move |c| (index, c)))
        .collect();
    let mut i = 0;
    while i < code.len() {
        let inner = code[i].1 == '#' && code.get(i + 1).is_some_and(|c| c.1 == '!');
        let open = i + 1 + usize::from(inner);
        if code[i].1 != '#' || code.get(open).is_none_or(|c| c.1 != '[') {
            i += 1;
            continue;
        }
        let close = matching(&code, open);
        let attribute: String = code[open + 1..close]
            .iter()
            .map(|c| c.1)
            .filter(|c| !c.is_whitespace())
            .collect();
        if !is_test_attribute(&attribute) {
            i = close + 1;
            continue;
        }
        let end = if inner {
            code.len() - 1
        } else {
            item_end(&code, close + 1)
        };
        for line in &mut lines[code[i].0..=code[end].0] {
            line.test = true;
        }
        let item: String = code[close + 1..=end].iter().map(|c| c.1).collect();
        test_modules.extend(outside_module(path, &item));
        i = end + 1;
    }
}

fn is_test_attribute(attribute: &str) -> bool {
    let condition = attribute.strip_prefix("cfg(").and_then(|rest| rest.strip_suffix(')'));
    attribute == "test" || attribute.ends_with("::test") || condition.is_some_and(needs_tests)
}

/// Whether a `cfg` condition can hold only while testing or model checking.
fn needs_tests(condition: &str) -> bool {
    let inside = |operator: &str| condition.strip_prefix(operator)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(inside) = inside("all") {
        arguments(inside).into_iter().any(needs_tests)
    } else if let Some(inside) = inside("any") {
        arguments(inside).into_iter().all(needs_tests) && !inside.is_empty()
    } else {
        matches!(condition, "test" | "loom" | "shuttle")
    }
}

/// Splits at the commas that are in no parentheses.
fn arguments(list: &str) -> Vec<&str> {
    let mut depth = 0usize;
    let at_top = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    list.split(at_top).filter(|argument| !argument.is_empty()).collect()
}

/// The index of the bracket that closes the one at `open`, or the last index where nothing does.
fn matching(code: &[(usize, char)], open: usize) -> usize {
    let mut depth = 0usize;
    for (index, &(_, c)) in code.iter().enumerate().skip(open) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return index;
        }
    }
    code.len() - 1
}

/// The index of the last character of the item that starts at `from`: its `;`, its closing brace, or its container's end.
fn item_end(code: &[(usize, char)], from: usize) -> usize {
    let mut i = from;
    while i < code.len() {
        match code[i].1 {
            '{' => return matching(code, i),
            '(' | '[' => i = matching(code, i),
            ';' | '}' => return i,
            _ => {}
        }
        i += 1;
    }
    code.len() - 1
}

/// For `mod name;` in the file at `path`: where that module's file is, without `.rs`.
fn outside_module(path: &str, item: &str) -> Option<String> {
    let declared = item.trim().strip_suffix(';')?;
    let name = declared.split_whitespace().last()?;
    words(declared).any(|(_, word)| word == "mod").then_some(())?;
    let stem = path.strip_suffix(".rs")?;
    let (folder, file) = stem.rsplit_once('/').unwrap_or(("", stem));
    let base = if matches!(file, "lib" | "main" | "mod") {
        folder
    } else {
        stem
    };
    Some(format!("{base}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No lines.
    const NONE: [usize; 0] = [];

    fn code(text: &str) -> Vec<String> {
        SourceFile::parse("engine/src/a.rs", text)
            .lines
            .into_iter()
            .map(|line| line.code)
            .collect()
    }

    fn test_lines(text: &str) -> Vec<usize> {
        let source = SourceFile::parse("engine/src/a.rs", text);
        source
            .numbered()
            .filter(|(_, line)| line.test)
            .map(|(number, _)| number)
            .collect()
    }

    #[test]
    fn comments_and_the_insides_of_literals_are_not_code() {
        assert_eq!(code("let a = 1; // b()\n"), ["let a = 1; "]);
        assert_eq!(code("a /* b /* c */ d */ e"), ["a  e"]);
        assert_eq!(code(r#"f("x // \" y", 'z', '\'', b'{')"#), [r#"f("", '', '', b'')"#]);
        assert_eq!(code("r#\"a\" b\"# + br\"c\" + r#type"), ["r\"\" + br\"\" + r#type"]);
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), ["fn f<'a>(x: &'a str) {}"]);
        assert_eq!(code("let s = \"one\ntwo\"; x"), ["let s = \"", "\"; x"]);
    }

    #[test]
    fn comments_keep_their_text() {
        let source = SourceFile::parse("a.rs", "x; // SAFETY: y\n/* a\nb */ z\n");
        let comments: Vec<&str> = source.lines.iter().map(|line| line.comment.as_str()).collect();
        assert_eq!(comments, ["// SAFETY: y", "/* a", "b */"]);
        assert_eq!(source.lines[2].code, " z");
    }

    #[test]
    fn lines_are_counted_as_an_editor_counts_them() {
        assert_eq!(code("a\n\nb\n").len(), 3);
        assert_eq!(code("a\n\nb").len(), 3);
        assert_eq!(code("").len(), 0);
    }

    #[test]
    fn items_under_a_test_attribute_are_test_code() {
        assert_eq!(
            test_lines("a();\n#[cfg(test)]\nmod tests {\n    b();\n}\nc();\n"),
            [2, 3, 4, 5]
        );
        assert_eq!(
            test_lines("#[test]\n#[ignore]\nfn a() -> [u8; 2] {\n}\nfn b() {}\n"),
            [1, 2, 3, 4]
        );
        assert_eq!(test_lines("#[cfg(all(test, loom))]\nuse a::b;\nfn c() {}\n"), [1, 2]);
        assert_eq!(test_lines("#![cfg(test)]\nfn a() {}\n"), [1, 2]);
        assert_eq!(
            test_lines("#[cfg(not(test))]\nfn a() {}\n#[derive(Debug)]\nstruct B;\n"),
            NONE
        );
    }

    #[test]
    fn a_test_only_module_in_another_file_is_test_code() {
        let sources = SourceFile::parse_all([
            ("core/src/lib.rs", "#[cfg(test)]\nmod checks;\nmod real;\n"),
            ("core/src/checks.rs", "fn a() {}\n"),
            ("core/src/checks/deep.rs", "fn a() {}\n"),
            ("core/src/checks_too.rs", "fn a() {}\n"),
            ("core/src/real.rs", "#[cfg(test)] mod inner;\n"),
            ("core/src/real/inner.rs", "fn a() {}\n"),
        ]);
        let tests: Vec<&str> = sources
            .iter()
            .filter(|s| s.lines[0].test)
            .map(|s| s.path.as_str())
            .collect();
        assert_eq!(
            tests,
            [
                "core/src/lib.rs",
                "core/src/checks.rs",
                "core/src/checks/deep.rs",
                "core/src/real.rs",
                "core/src/real/inner.rs"
            ]
        );
    }

    #[test]
    fn integration_tests_are_test_code_and_their_library_is_not() {
        let is_test = |path: &str| SourceFile::parse(path, "a();\n").lines[0].test;
        assert!(is_test("tests/tests/tidy.rs"));
        assert!(is_test("engine/tests/session.rs"));
        assert!(!is_test("tests/src/lib.rs"));
        assert!(!is_test("engine/src/session.rs"));
    }

    #[test]
    fn words_are_whole_identifiers_and_macros_need_their_mark() {
        let line = |text: &str| SourceFile::parse("a.rs", text).lines.remove(0);
        assert!(line("unsafe { x }").has_word("unsafe"));
        assert!(!line("#![forbid(unsafe_code)]").has_word("unsafe"));
        assert!(line("eprintln !(1)").calls_macro("eprintln"));
        assert!(!line("eprintln!(1)").calls_macro("println"));
        assert!(!line("todo != 1").calls_macro("todo"));
    }
}
