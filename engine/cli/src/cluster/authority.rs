//! The commands for whoever administers a cluster: they work on the authority's directory, whether it is being served
//! or not.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use actorflow::cluster::identity::{self, Authority, Subject, SubjectPattern, TokenSpec};

use crate::daemon::config::JOIN_PORT;
use crate::failure::Failure;
use crate::{home, signals, units};

/// Make the authority of a new cluster
///
/// The directory holds the cluster's key: whoever can read it owns the cluster.
#[derive(clap::Args)]
pub(super) struct InitArgs {
    /// The directory to make [default: ~/.actorflow/authority]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Where other machines will find the authority, for the commands that `token` prints
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
}

/// The authority's directory.
#[derive(clap::Args)]
struct At {
    /// The authority's directory [default: ~/.actorflow/authority]
    #[arg(long, value_name = "DIR")]
    authority: Option<PathBuf>,
}

impl At {
    fn open(&self) -> Result<(PathBuf, Authority), Failure> {
        let dir = directory(self.authority.as_deref())?;
        let authority = Authority::open(&dir)?;
        Ok((dir, authority))
    }
}

fn directory(dir: Option<&Path>) -> Result<PathBuf, Failure> {
    Ok(match dir {
        Some(dir) => dir.to_owned(),
        None => home::home()?.join("authority"),
    })
}

/// Makes an authority.
pub(super) fn init(args: &InitArgs) -> Result<(), Failure> {
    if let Some(addr) = &args.addr {
        check_addr(addr).map_err(Failure::Usage)?;
    }
    let dir = directory(args.dir.as_deref())?;
    let authority = Authority::create(&dir, &args.name)?;
    if let Some(addr) = &args.addr {
        identity::remember_authority(&dir, addr)?;
    }
    let dir = dir.display();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "cluster {} has its authority in {dir} (CA {})",
        authority.cluster(),
        authority.ca_hash()
    )?;
    writeln!(
        out,
        "serve it with a task of this machine: actorflow daemon --authority {dir} --job JOB --task N --cluster cluster.json"
    )?;
    writeln!(
        out,
        "let another machine in: actorflow cluster token --authority {dir} --job JOB --task N"
    )?;
    Ok(())
}

/// Make a token and print the command with which a machine joins
///
/// The command goes to stdout and is meant to be pasted there: it holds the token's secret, which is good for one use and one
/// hour unless said otherwise.
#[derive(clap::Args)]
pub(super) struct TokenArgs {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    whom: Whom,
    /// The number of the task; without one, the token admits any task of the job
    #[arg(long, value_name = "N", requires = "job", conflicts_with_all = ["client", "chief"])]
    task: Option<u32>,
    /// For how long it is good
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: String,
    /// How often it may be used
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// Where the authority is served [default: what `init` was told]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// Admit a task of this job
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
    /// Admit a client, which submits graphs from outside
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Admit a chief, which submits graphs and coordinates
    #[arg(long, value_name = "NAME")]
    chief: Option<String>,
}

impl TokenArgs {
    fn pattern(&self) -> SubjectPattern {
        let name = |n: &String| n.clone();
        match (&self.whom.job, self.task, &self.whom.client, &self.whom.chief) {
            (Some(job), Some(index), _, _) => Subject::Task { job: name(job), index }.into(),
            (Some(job), None, _, _) => SubjectPattern::AnyTask { job: name(job) },
            (None, _, Some(client), _) => Subject::Client { name: name(client) }.into(),
            (None, _, None, chief) => Subject::Chief {
                name: chief.clone().unwrap_or_default(),
            }
            .into(),
        }
    }
}

/// Makes a token.
pub(super) fn token(args: &TokenArgs) -> Result<(), Failure> {
    let subject = args.pattern();
    subject.check().map_err(|e| Failure::Usage(e.to_string()))?;
    let ttl = units::time(&args.ttl).map_err(|e| Failure::Usage(format!("--ttl: {e}")))?;
    let (dir, authority) = args.at.open()?;
    let addr = args.addr.clone().or_else(|| identity::authority_of(&dir)).ok_or_else(|| {
        Failure::Usage(
            "nothing says where other machines find the authority; give --addr HOST:PORT, here or to `actorflow cluster init`"
                .into(),
        )
    })?;
    check_addr(&addr).map_err(Failure::Usage)?;
    let token = authority.token(&TokenSpec {
        subject,
        ttl,
        uses: args.uses,
    })?;
    let command = token.join_command(&addr);
    let mut out = std::io::stdout().lock();
    if args.json {
        let json = serde_json::json!({
            "id": token.id(),
            "subject": token.subject().to_string(),
            "ttl_seconds": ttl.as_secs(),
            "uses": args.uses,
            "command": command,
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    writeln!(out, "{command}")?;
    let uses = if args.uses == 1 {
        "once".to_owned()
    } else {
        format!("{} times", args.uses)
    };
    // The command of a token for any task has a place for the task's number.
    let what = match token.subject() {
        SubjectPattern::AnyTask { .. } => "put the task's number in place of INDEX in the line above, and run it",
        SubjectPattern::Exactly(_) => "run the line above",
    };
    eprintln!(
        "token {} admits {}, {uses}, for {}; {what} on the machine that joins",
        token.id(),
        token.subject(),
        units::human_time(ttl)
    );
    Ok(())
}

/// Serve the authority to machines that join
#[derive(clap::Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    at: At,
    /// Where to listen, UDP
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, JOIN_PORT)))]
    bind: SocketAddr,
}

/// Serves the authority until SIGINT or SIGTERM.
pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let (_, authority) = args.at.open()?;
    let (tell, told) = channel();
    signals::on_end(tell, |name| name)?;
    let service = identity::serve(args.bind, &authority)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready authority of {} at {}", authority.cluster(), service.addr())?;
    out.flush()?;
    // Either way the service is to end.
    let _ = told.recv();
    Ok(())
}

/// Take back a member's certificates, or a token
///
/// Members refuse the certificates within a minute, and the authority renews none of them.
#[derive(clap::Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    at: At,
    /// A serial number, a member such as task/worker/1 or client/alice, or, with --token, a token's id
    what: String,
    /// Withdraw a token that has not been used up
    #[arg(long)]
    token: bool,
}

/// Revokes.
pub(super) fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    let (_, authority) = args.at.open()?;
    let mut out = std::io::stdout().lock();
    if args.token {
        authority.withdraw(&args.what)?;
        writeln!(out, "token {} is withdrawn", args.what)?;
        return Ok(());
    }
    for serial in authority.revoke(&args.what)? {
        writeln!(out, "certificate {serial} is revoked")?;
    }
    Ok(())
}

/// Show the last lines of the authority's audit log
#[derive(clap::Args)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    at: At,
    /// How many lines
    #[arg(long, value_name = "N", default_value_t = 20)]
    lines: usize,
}

/// Shows the log, one JSON object per line.
pub(super) fn audit(args: &AuditArgs) -> Result<(), Failure> {
    let (_, authority) = args.at.open()?;
    let mut out = std::io::stdout().lock();
    for line in authority.audit().tail(args.lines)? {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Whether others could connect there.
pub(crate) fn check_addr(addr: &str) -> Result<(), String> {
    // The form is what matters; names are for whoever connects to look up.
    match addr.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty()
                && port.parse::<u16>().is_ok_and(|p| p > 0)
                && addr.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c)) =>
        {
            Ok(())
        }
        _ => Err(format!(
            "{addr:?} is no address; write host:port, such as 10.0.0.1:2200"
        )),
    }
}

/// How long a machine tries to join.
pub(super) const JOIN_WITHIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_fit_into_a_shells_line() {
        for good in ["host:2200", "10.0.0.1:1", "[::1]:2200"] {
            assert!(check_addr(good).is_ok(), "{good}");
        }
        for bad in ["host", ":1", "host:0", "host:x", "h;rm -rf:1", "a b:1", "$(x):1"] {
            assert!(check_addr(bad).is_err(), "{bad}");
        }
    }
}
