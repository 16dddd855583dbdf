//! A reader that goes before the end, as in `actorflow ops | head`: the command ends at once, says nothing, and its exit code is
//! what a shell says of a program that SIGPIPE has ended.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod command;

use std::io::{BufRead, BufReader, pipe};
use std::process::{Command, Stdio};

use command::ACTORFLOW;

#[test]
fn nothing_is_said_when_nobody_reads() {
    for args in [
        &["ops"][..],
        &["ops", "--json"],
        &["ops", "--markdown"],
        &["--help"],
        &["ops", "--help"],
        &["train", "digits", "--epochs", "1"],
        &["train", "digits", "--epochs", "1", "--json"],
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let output = Command::new(ACTORFLOW).args(args).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(141), ""), "{args:?}");
    }
}

#[test]
fn a_reader_that_has_read_enough_ends_it() {
    let mut child = Command::new(ACTORFLOW)
        .args(["ops", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    // More than a pipe holds is left to be written when its reader goes.
    BufReader::with_capacity(64, child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(!first.is_empty());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]));
}
