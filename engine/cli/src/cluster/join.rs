//! `actorflow cluster join`: a machine becomes a member. The command is printed by `actorflow cluster token`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use actorflow::Code;
use actorflow::cluster::identity::tokens::{read_secret, secret_from_env};
use actorflow::cluster::identity::{self, Identity, Subject};

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
    /// Only if the identity that is kept there is not this member's, or has expired; else the token is not looked at
    #[arg(long)]
    if_needed: bool,
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

/// Whether the folder has an identity of that member, in that cluster, that has not expired.
fn is_member(args: &Args, dir: &Path) -> Result<bool, Failure> {
    match Identity::load(dir) {
        Ok(i) => Ok(*i.subject() == args.subject && i.ca_hash() == args.ca_hash),
        Err(e) if matches!(e.code(), Code::NotFound | Code::Unauthenticated) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Joins.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    check_addr(&args.addr).map_err(|e| Failure::Usage(format!("--addr: {e}")))?;
    let dir = match &args.identity {
        Some(dir) => dir.clone(),
        None => home::member_dir(&args.subject)?,
    };
    if args.if_needed && is_member(args, &dir)? {
        // The authority may have moved.
        identity::remember_authority(&dir, &args.addr)?;
        writeln!(
            std::io::stdout().lock(),
            "{} is a member already: {}",
            args.subject,
            dir.display()
        )?;
        return Ok(());
    }
    let secret = match (&args.secret.token_file, &args.secret.token_env) {
        (Some(file), _) => read_secret(file)?,
        (None, variable) => secret_from_env(variable.as_deref().unwrap_or_default())?,
    };
    let deadline = Instant::now() + JOIN_WITHIN;
    let identity = identity::join(&args.addr, &args.ca_hash, &secret, args.subject.clone(), deadline)?;
    identity.save(&dir)?;
    identity::remember_authority(&dir, &args.addr)?;
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
