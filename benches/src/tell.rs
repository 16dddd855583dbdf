//! Printing for a reader that may go before the end, such as `head`.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stdout};

use actorflow::{Code, Error, Result};

/// The exit code of a program whose output nobody reads: what a shell says of one that SIGPIPE has ended.
pub(crate) const UNREAD: u8 = 128 + 13;

const GONE: &str = "nobody reads what is printed";

/// Prints a line to standard output.
///
/// # Errors
/// One that [`is_unread`] if the reader has gone; what else the system says.
pub(crate) fn line(text: impl Display) -> Result<()> {
    let mut out = stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Error::new(Code::Cancelled, GONE),
        _ => Error::from(e).context("standard output"),
    })
}

/// Whether an error says that the reader has gone, of which nobody needs to be told.
pub(crate) fn is_unread(e: &Error) -> bool {
    e.code() == Code::Cancelled && e.message() == GONE
}
