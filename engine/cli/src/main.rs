//! The `actorflow` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    actorflow_cli::main()
}
