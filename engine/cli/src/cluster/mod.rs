//! `actorflow cluster`: making a cluster, getting into it, looking at it, and running one on this machine.
//!
//! - `authority`: who may be a member; `join`: becoming one
//! - `look`: what the tasks of a running cluster are doing; `epoch`: fencing off what they did before
//! - [`local`]: a supervised cluster of processes on this machine; `up`: the command for it

mod authority;
mod epoch;
mod join;
pub mod local;
mod look;
mod up;

pub(crate) use authority::check_addr;
use clap::Subcommand;

use crate::failure::Failure;

/// Make a cluster, join it, look at it, or run one on this machine
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster on this machine, supervised, until Ctrl-C
    Local(up::Args),
    /// Make the authority of a new cluster
    Init(authority::InitArgs),
    /// Make a token and print the command with which a machine joins
    Token(authority::TokenArgs),
    /// Serve the authority to machines that join, if no daemon does (`actorflow daemon --authority`)
    Serve(authority::ServeArgs),
    /// Become a member of a cluster, by a token
    Join(join::Args),
    /// Take back a member's certificates, or a token
    Revoke(authority::RevokeArgs),
    /// Show the last lines of the authority's audit log
    Audit(authority::AuditArgs),
    /// Show the tasks of a running cluster; the exit code is 1 if any does not answer
    Status(look::StatusArgs),
    /// Show the devices of a running cluster; the exit code is 1 if a task does not answer
    Devices(look::DevicesArgs),
    /// Show the steps in progress in a running cluster; the exit code is 1 if a task does not answer
    Steps(look::StepsArgs),
    /// End a step that is in progress
    Cancel(look::CancelArgs),
    /// Show the epoch of a running cluster, or raise it: what began before is over
    Epoch(epoch::Args),
    /// Forget the variables, queues and the like of a running cluster
    Reset(look::ResetArgs),
}

/// Runs the command.
///
/// # Errors
/// Wrong use, or a failure of what was asked.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Local(a) => up::run(a),
        Command::Init(a) => authority::init(a),
        Command::Token(a) => authority::token(a),
        Command::Serve(a) => authority::serve(a),
        Command::Join(a) => join::run(a),
        Command::Revoke(a) => authority::revoke(a),
        Command::Audit(a) => authority::audit(a),
        Command::Status(a) => look::status(a),
        Command::Devices(a) => look::devices(a),
        Command::Steps(a) => look::steps(a),
        Command::Cancel(a) => look::cancel(a),
        Command::Epoch(a) => epoch::run(a),
        Command::Reset(a) => look::reset(a),
    }
}
