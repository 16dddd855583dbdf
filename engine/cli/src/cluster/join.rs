//! `actorflow cluster join`: a machine becomes a member. The command is printed by `actorflow cluster token`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use actorflow::cluster::identity::tokens::{read_secret, secret_from_env};
use actorflow::cluster::identity::{self, Subject};

use super::authority::{JOIN_WITHIN, check_addr};
use crate::failure::Failure;
use crate::home;

/// Become a member of a cluster, by a token
///
/// `actorflow cluster token`, where the cluster's authority is, prints this command as a whole. The token's secret is read
/// from a file, a pipe or the environment, never from an argument, which every user of the machine could read.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where the authority is served
    #[arg(long, value_name = "HOST:PORT")]
    addr: String,
    /// The hash of the cluster's CA
    #[arg(long, value_name = "HASH")]
    ca_hash: String,
    /// Whom to become: task/JOB/N, client/NAME or chief/NAME
    #[arg(long = "as", value_name = "MEMBER")]
    subject: Subject,
    #[command(flatten)]
    secret: Secret,
    /// Where to keep the identity [default: ~/.actorflow/MEMBER, with dashes]
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Secret {
    /// The file with the token's secret; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// The environment variable with the token's secret
    #[arg(long, value_name = "VARIABLE")]
    token_env: Option<String>,
}

/// Joins.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    check_addr(&args.addr).map_err(|e| Failure::Usage(format!("--addr: {e}")))?;
    let dir = match &args.identity {
        Some(dir) => dir.clone(),
        None => home::member_dir(&args.subject)?,
    };
    let secret = match (&args.secret.token_file, &args.secret.token_env) {
        (Some(file), _) => read_secret(file)?,
        (None, variable) => secret_from_env(variable.as_deref().unwrap_or_default())?,
    };
    let deadline = Instant::now() + JOIN_WITHIN;
    let identity = identity::join(&args.addr, &args.ca_hash, &secret, args.subject.clone(), deadline)?;
    identity.save(&dir)?;
    home::remember_authority(&dir, &args.addr)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} is a member of cluster {}: {}",
        args.subject,
        identity.cluster(),
        dir.display()
    )?;
    if let Subject::Task { job, index } = &args.subject {
        let own = if args.identity.is_some() {
            format!(" --identity {}", dir.display())
        } else {
            String::new()
        };
        writeln!(
            out,
            "start it: actorflow daemon --job {job} --task {index}{own} --cluster cluster.json"
        )?;
    }
    Ok(())
}
