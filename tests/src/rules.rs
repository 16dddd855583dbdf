//! The house rules: functions from sources to findings, each of which can be tested on a made-up violation.

use std::fmt;

use crate::source::{Line, SourceFile, words};

/// A place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Path relative to the repository's root.
    pub file: String,
    /// 1-based line, or 0 for the file as a whole.
    pub line: usize,
    /// What is wrong there, and the cure.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// A file, or with a trailing `/` a folder, that a rule does not apply to.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    /// Path relative to the repository's root; a trailing `/` means everything below.
    pub path: &'static str,
    /// Why it is excepted. An exception without a reason is none.
    pub why: &'static str,
}

impl Exception {
    fn covers(&self, path: &str) -> bool {
        path == self.path || self.path.ends_with('/') && path.starts_with(self.path)
    }
}

/// A file has at most `limit` lines.
pub fn files_are_short(sources: &[SourceFile], limit: usize, exceptions: &[Exception]) -> Vec<Finding> {
    let findings = sources
        .iter()
        .filter(|source| source.lines.len() > limit)
        .map(|source| Finding {
            file: source.path.clone(),
            line: limit + 1,
            message: format!(
                "{} lines, the limit is {limit}; split the file along its ideas, one idea each",
                source.lines.len()
            ),
        });
    excepted(findings.collect(), exceptions)
}

/// `unsafe` appears only where the exceptions say that it is needed.
pub fn unsafe_is_confined(sources: &[SourceFile], exceptions: &[Exception]) -> Vec<Finding> {
    let findings = lines_where(
        sources,
        |_, line| line.has_word("unsafe"),
        "`unsafe` outside of the modules that need it; write it safely, or use one of those modules, \
         or add the file to the list in tests/tests/tidy.rs with its reason",
    );
    excepted(findings, exceptions)
}

/// Every `unsafe` block and `unsafe impl` has a `// SAFETY:` comment directly above it, or above its statement.
pub fn unsafe_is_justified(sources: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (number, line) in source.numbered() {
            let opens = words(&line.code).any(|(at, word)| {
                let after = line.code[at + word.len()..].trim_start();
                let after = if after.is_empty() {
                    next_code(source, number)
                } else {
                    after
                };
                word == "unsafe" && (after.starts_with('{') || after.starts_with("impl"))
            });
            if opens && !has_safety_comment(source, number) {
                findings.push(Finding {
                    file: source.path.clone(),
                    line: number,
                    message:
                        "`unsafe` without a `// SAFETY:` comment directly above; say which guarantee makes it sound"
                            .to_owned(),
                });
            }
        }
    }
    findings
}

/// The code of the first line after line `number` that has any.
fn next_code(source: &SourceFile, number: usize) -> &str {
    source.lines[number..]
        .iter()
        .map(|line| line.code.trim())
        .find(|code| !code.is_empty())
        .unwrap_or("")
}

/// Looks for `SAFETY:` on line `number`, then upwards to the start of the statement and through the comment above it.
fn has_safety_comment(source: &SourceFile, number: usize) -> bool {
    let says_so = |line: &Line| line.comment.contains("SAFETY:");
    let above = source.lines[..number - 1].iter().rev();
    let mut in_comment = false;
    for line in std::iter::once(&source.lines[number - 1]).chain(above) {
        if says_so(line) {
            return true;
        }
        let code = line.code.trim();
        let first = std::ptr::eq(line, &source.lines[number - 1]);
        if code.is_empty() && line.comment.is_empty() || in_comment && !code.is_empty() {
            return false;
        }
        let ends_another = code.ends_with([';', '}', ',', '{']);
        if !first && ends_another {
            return false;
        }
        in_comment = code.is_empty();
    }
    false
}

/// No `.unwrap()` outside of tests.
pub fn nothing_unwraps(sources: &[SourceFile]) -> Vec<Finding> {
    lines_where(
        sources,
        |_, line| !line.test && line.code.contains(".unwrap()"),
        "`.unwrap()` outside of tests; return an error with `?`, or `expect` a true invariant and name it",
    )
}

/// No code or comment that says something is unfinished, tests included.
pub fn nothing_is_unfinished(sources: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["todo", "unimplemented", "dbg"] {
        findings.extend(lines_where(
            sources,
            |_, line| line.calls_macro(name),
            &format!("`{name}!` is for work in progress; finish it, or return an UNIMPLEMENTED error that says what"),
        ));
    }
    findings.extend(lines_where(
        sources,
        |_, line| words(&line.comment).any(|(_, word)| matches!(word, "TODO" | "FIXME" | "XXX" | "HACK")),
        "a note to oneself; do the work, or file an issue and state here what holds today",
    ));
    findings
}

/// A library does not write to its caller's standard output or error stream. `libraries` are the `src` folders it holds for.
pub fn libraries_do_not_print(sources: &[SourceFile], libraries: &[&str]) -> Vec<Finding> {
    lines_where(
        sources,
        |source, line| {
            libraries.iter().any(|folder| source.path.starts_with(folder))
                && !line.test
                && ["println", "print", "eprintln", "eprint"]
                    .iter()
                    .any(|name| line.calls_macro(name))
        },
        "a library prints; return the text, or take a writer",
    )
}

/// Kernels touch files only in the files of `folder` that the exceptions list: there every access is checked against the
/// task's policy of which files graphs may touch.
pub fn file_access_is_reviewed(sources: &[SourceFile], folder: &str, exceptions: &[Exception]) -> Vec<Finding> {
    /// What reaches for the file system, or for something else outside of the process.
    const TOUCHES: &[&str] = &[
        "std::fs",
        "fs::",
        "File::",
        "OpenOptions",
        "Location::of",
        "LocalFileSystem",
        "read_dir",
        "canonicalize",
        ".exists()",
        ".is_dir()",
        ".is_file()",
        ".metadata()",
        "Command::new",
        "std::net",
    ];
    let findings = lines_where(
        sources,
        |source, line| {
            source.path.starts_with(folder) && !line.test && TOUCHES.iter().any(|what| line.code.contains(what))
        },
        "a kernel touches files by itself; go through `crate::files` or `Location::in_graph`, which ask the task's \
         policy, or have the file reviewed and put it on the list in tests/tests/tidy.rs",
    );
    excepted(findings, exceptions)
}

/// The crate called `name` is named in code only in files that `module` is a prefix of.
pub fn crate_is_named_in_one_module(sources: &[SourceFile], name: &str, module: &str) -> Vec<Finding> {
    let macros = format!("{name}_");
    lines_where(
        sources,
        |source, line| {
            !source.path.starts_with(module)
                && words(&line.code).any(|(_, word)| word == name || word.starts_with(&macros))
        },
        &format!("`{name}` is named outside of {module}*; go through that module's own types"),
    )
}

/// Each file of `roots` opens with `//!` documentation.
pub fn crates_say_what_they_are_for(sources: &[SourceFile], roots: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for root in roots {
        let first = sources
            .iter()
            .find(|source| source.path == *root)
            .and_then(|source| source.lines.first());
        if !first.is_some_and(|line| line.code.trim().is_empty() && line.comment.starts_with("//!")) {
            findings.push(Finding {
                file: root.clone(),
                line: 1,
                message: "a crate opens with `//!`: what it is for, the layers inside it, what it may depend on"
                    .to_owned(),
            });
        }
    }
    findings
}

/// The text of `file` mentions each of the top-level folders that `files` lie in, as `name/`.
pub fn folders_are_mentioned(file: &str, text: &str, files: &[String]) -> Vec<Finding> {
    let mut folders: Vec<&str> = files.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    folders.dedup();
    folders
        .into_iter()
        .filter(|folder| !mentions(text, folder))
        .map(|folder| Finding {
            file: file.to_owned(),
            line: 0,
            message: format!("does not mention `{folder}/`; say in a line what is in it"),
        })
        .collect()
}

fn mentions(text: &str, folder: &str) -> bool {
    let named = format!("{folder}/");
    text.match_indices(&named).any(|(at, _)| {
        !text[..at].ends_with(|before: char| before.is_alphanumeric() || matches!(before, '_' | '-' | '.' | '/'))
    })
}

/// What the text of `file` puts in backticks as a path of this repository exists: a path has a `/` and its first folder
/// is a top-level one. `*` and `<name>` stand for anything, so only what comes before them is looked up.
pub fn paths_exist(file: &str, text: &str, files: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for path in line.split('`').skip(1).step_by(2) {
            let plain = path.find(['*', '<', '{']).map_or(path, |end| &path[..end]);
            let Some((top, _)) = plain.split_once('/') else {
                continue;
            };
            let ours = files
                .iter()
                .any(|file| file.split_once('/').is_some_and(|(folder, _)| folder == top));
            let is_path = ours && plain.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            let exists = |known: &String| {
                known == plain
                    || known
                        .strip_prefix(plain)
                        .is_some_and(|rest| plain.len() < path.len() || plain.ends_with('/') || rest.starts_with('/'))
            };
            if is_path && !files.iter().any(exists) {
                findings.push(Finding {
                    file: file.to_owned(),
                    line: index + 1,
                    message: format!("`{path}` does not exist; the page has to be true of the repository"),
                });
            }
        }
    }
    findings
}

fn lines_where(sources: &[SourceFile], breaks: impl Fn(&SourceFile, &Line) -> bool, message: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (number, _) in source.numbered().filter(|(_, line)| breaks(source, line)) {
            findings.push(Finding {
                file: source.path.clone(),
                line: number,
                message: message.to_owned(),
            });
        }
    }
    findings
}

/// Drops the findings that `exceptions` cover, and reports each exception that covers nothing or gives no reason.
fn excepted(findings: Vec<Finding>, exceptions: &[Exception]) -> Vec<Finding> {
    let stale = exceptions
        .iter()
        .filter(|exception| exception.why.is_empty() || !findings.iter().any(|finding| exception.covers(&finding.file)))
        .map(|exception| Finding {
            file: exception.path.to_owned(),
            line: 0,
            message: "is on a list of exceptions, but needs none or gives no reason; take it off the list".to_owned(),
        });
    let kept = findings
        .iter()
        .filter(|finding| !exceptions.iter().any(|exception| exception.covers(&finding.file)));
    kept.cloned().chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No lines.
    const NONE: [usize; 0] = [];

    fn source(path: &str, text: &str) -> Vec<SourceFile> {
        vec![SourceFile::parse(path, text)]
    }

    fn lines(findings: Vec<Finding>) -> Vec<usize> {
        findings.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_finding_reads_as_file_line_and_cure() {
        let findings = nothing_unwraps(&source("engine/src/a.rs", "\nx.unwrap();\n"));
        assert!(
            findings[0]
                .to_string()
                .starts_with("engine/src/a.rs:2: `.unwrap()` outside of tests; return")
        );
    }

    #[test]
    fn a_long_file_is_found_unless_excepted() {
        let long = source("core/src/a.rs", "x\n".repeat(11).as_str());
        assert_eq!(lines(files_are_short(&long, 10, &[])), [11]);
        assert_eq!(lines(files_are_short(&long, 11, &[])), NONE);
        let exception = |path| [Exception { path, why: "generated" }];
        assert_eq!(lines(files_are_short(&long, 10, &exception("core/src/a.rs"))), NONE);
        assert_eq!(lines(files_are_short(&long, 10, &exception("core/src/"))), NONE);
        // The exception covers nothing: the file and the stale exception are both reported.
        assert_eq!(lines(files_are_short(&long, 10, &exception("core/src/b.rs"))), [11, 0]);
    }

    #[test]
    fn stray_unsafe_is_found_and_words_about_it_are_not() {
        let text = "#![forbid(unsafe_code)]\n// unsafe\nlet s = \"unsafe\";\nunsafe fn a() {}\n";
        assert_eq!(lines(unsafe_is_confined(&source("a/src/b.rs", text), &[])), [4]);
        let allowed = [Exception {
            path: "a/src/b.rs",
            why: "SIMD",
        }];
        assert_eq!(lines(unsafe_is_confined(&source("a/src/b.rs", text), &allowed)), NONE);
    }

    #[test]
    fn an_unsafe_block_needs_its_reason_directly_above() {
        let check = |text: &str| lines(unsafe_is_justified(&source("a/src/b.rs", text)));
        assert_eq!(check("// SAFETY: x is valid.\nunsafe { f(x) }\n"), NONE);
        assert_eq!(
            check("// SAFETY: x is valid,\n// always.\nlet a =\n    unsafe { f(x) };\n"),
            NONE
        );
        assert_eq!(
            check("// SAFETY: a plain type.\n#[allow(x)]\nunsafe impl Send for A {}\n"),
            NONE
        );
        assert_eq!(check("f(unsafe { x }) // SAFETY: x is valid.\n"), NONE);
        assert_eq!(check("unsafe { f(x) }\n"), [1]);
        assert_eq!(check("// SAFETY: x is valid.\ng();\nunsafe { f(x) }\n"), [3]);
        assert_eq!(check("// SAFETY: x is valid.\n\nunsafe { f(x) }\n"), [3]);
        assert_eq!(
            check("// SAFETY: fine.\nunsafe impl Send for A {}\nunsafe impl Sync for A {}\n"),
            [3]
        );
        assert_eq!(check("let a = unsafe\n{ x };\n"), [1]);
        assert_eq!(check("unsafe fn f() {}\n"), NONE);
    }

    #[test]
    fn unwrap_is_found_outside_of_tests_only() {
        let text = "a.unwrap_or(1);\n/// a.unwrap()\na.unwrap();\n#[cfg(test)]\nmod tests { fn f() { a.unwrap(); } }\n";
        assert_eq!(lines(nothing_unwraps(&source("a/src/b.rs", text))), [3]);
        assert_eq!(lines(nothing_unwraps(&source("a/tests/b.rs", text))), NONE);
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_comments() {
        let text = "todo!();\nlet todo = 1;\n// TODO later\nlet s = \"TODO\";\ndbg!(s);\n// a TodoList\n";
        let mut found = lines(nothing_is_unfinished(&source("a/tests/b.rs", text)));
        found.sort_unstable();
        assert_eq!(found, [1, 3, 5]);
    }

    #[test]
    fn a_kernel_that_opens_a_file_by_itself_is_found_unless_it_was_reviewed() {
        let text = "use std::fs::File;\nlet f = File::open(p);\n// std::fs\n#[cfg(test)]\nmod t { fn a() { std::fs::read(p); } }\n";
        let kernel = source("kernels/src/ops/a.rs", text);
        assert_eq!(lines(file_access_is_reviewed(&kernel, "kernels/src/", &[])), [1, 2]);
        assert_eq!(
            lines(file_access_is_reviewed(
                &source("engine/src/a.rs", text),
                "kernels/src/",
                &[]
            )),
            NONE
        );
        let reviewed = [Exception {
            path: "kernels/src/ops/a.rs",
            why: "asks the policy",
        }];
        assert_eq!(lines(file_access_is_reviewed(&kernel, "kernels/src/", &reviewed)), NONE);
    }

    #[test]
    fn a_printing_library_is_found_and_a_printing_command_is_not() {
        let text = "println!();\nwriteln!(f);\neprint!();\n#[cfg(test)]\nmod t { fn a() { println!(); } }\n";
        assert_eq!(
            lines(libraries_do_not_print(&source("a/src/b.rs", text), &["a/src/"])),
            [1, 3]
        );
        assert_eq!(
            lines(libraries_do_not_print(&source("cli/src/b.rs", text), &["a/src/"])),
            NONE
        );
    }

    #[test]
    fn a_confined_crate_is_found_outside_of_its_module() {
        let text = "//! About actix.\nuse actix::Actor;\nlet s = \"actix\";\nactix_rt::spawn();\n";
        let check = |path: &str| {
            lines(crate_is_named_in_one_module(
                &source(path, text),
                "actix",
                "actors/src/control",
            ))
        };
        assert_eq!(check("actors/src/step.rs"), [2, 4]);
        assert_eq!(check("actors/src/control.rs"), NONE);
        assert_eq!(check("actors/src/control/peer.rs"), NONE);
    }

    #[test]
    fn a_crate_without_opening_documentation_is_found() {
        let check = |text: &str| {
            lines(crates_say_what_they_are_for(
                &source("a/src/lib.rs", text),
                &["a/src/lib.rs".into()],
            ))
        };
        assert_eq!(check("//! What it is for.\n"), NONE);
        assert_eq!(check("// What it is for.\n"), [1]);
        assert_eq!(check("mod a;\n//! Late.\n"), [1]);
        assert_eq!(check(""), [1]);
    }

    #[test]
    fn a_folder_that_the_page_leaves_out_is_found() {
        let files = [
            "Cargo.toml".to_owned(),
            "engine/a".to_owned(),
            "engine/b".to_owned(),
            "tests/a".to_owned(),
        ];
        let check = |text: &str| folders_are_mentioned("README.md", text, &files).len();
        assert_eq!(check("`engine/` and `tests/`"), 0);
        assert_eq!(check("`my-engine/` and [tests](tests/)"), 1);
    }

    #[test]
    fn a_path_that_does_not_exist_is_found() {
        let files = ["engine/src/lib.rs".to_owned(), "engine/core/src/lib.rs".to_owned()];
        let check = |text: &str| paths_exist("A.md", text, &files).len();
        assert_eq!(
            check("`engine/src/lib.rs`, `engine/core`, `engine/core/`, `engine/src/*.rs`, `a/b`, `x`"),
            0
        );
        assert_eq!(
            check("`engine/src/<name>/x.rs` and `engine/src/l*.rs` and `engine/core + x/y`"),
            0
        );
        assert_eq!(check("`engine/src/session.rs`"), 1);
        assert_eq!(check("`engine/cor`"), 1);
        assert_eq!(check("`engine/sources/*.rs`"), 1);
    }
}
