//! Why a command did not succeed, and what it says about it.

use std::io;
use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The command was used wrongly: exit code 2.
    Usage(String),
    /// What was asked for failed: exit code 1.
    Failed(String),
    /// The command has said itself what failed: exit code 1 and no further line.
    Reported,
    /// Whoever reads the output has gone (`actorflow ops | head`): nobody is left to complain to. Exit code 141, which is what a
    /// shell says of a program that SIGPIPE has ended.
    Unread,
}

impl Failure {
    /// Prints the one line on stderr and gives the exit code.
    pub fn report(self) -> ExitCode {
        let (message, code) = match self {
            Failure::Usage(m) => (m, 2),
            Failure::Failed(m) => (m, 1),
            Failure::Reported => return ExitCode::from(1),
            Failure::Unread => return ExitCode::from(128 + 13),
        };
        eprintln!("error: {}", one_line(&message));
        ExitCode::from(code)
    }
}

impl From<actorflow::Error> for Failure {
    fn from(e: actorflow::Error) -> Self {
        Failure::Failed(e.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::Unread,
            _ => Failure::Failed(e.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(e: serde_json::Error) -> Self {
        Failure::from(io::Error::from(e))
    }
}

/// `text` without line breaks.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_one_line() {
        assert_eq!(one_line("a\n  b\r\n\tc "), "a b c");
    }
}
