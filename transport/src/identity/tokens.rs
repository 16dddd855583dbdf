//! Tokens: secrets that let a node join as one member, or as a task of one job, until they expire or are used up.
//!
//! The authority keeps the SHA-256 hash of a secret. A secret has 256 random bits, so nothing slower than a plain hash is
//! needed to protect it.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use actorflow_core::{Code, Error, Result};
use subtle::ConstantTimeEq;

use super::audit::Event;
use super::authority::Authority;
use super::clock::{moment, rfc3339, seconds};
use super::crypto::{hex, is_hex, random, sha256};
use super::files;
use super::store::{State, TokenRecord};
use super::subject::{Subject, SubjectPattern};

/// What a secret begins with, so that people and secret scanners know one when they see it.
const PREFIX: &str = "aft_";

/// The longest text that is taken for a secret, in bytes.
pub(crate) const MAX_SECRET: usize = 256;

/// The longest time for which a token is good: 7 days.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often a token can be used at most.
pub const MAX_TOKEN_USES: u32 = 10_000;

/// How many tokens an authority remembers at once.
const MAX_TOKENS: usize = 10_000;

/// How many digits of its hash name a token.
const ID_DIGITS: usize = 12;

/// What a token is to be good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSpec {
    /// Whom it admits.
    pub subject: SubjectPattern,
    /// For how long, 1 s to [`MAX_TOKEN_LIFETIME`].
    pub ttl: Duration,
    /// How often, 1 to [`MAX_TOKEN_USES`].
    pub uses: u32,
}

/// A token as it is handed out, once. Its debug form does not show the secret.
#[derive(Clone)]
pub struct Token {
    secret: String,
    id: String,
    ca_hash: String,
    subject: SubjectPattern,
    expires: SystemTime,
}

impl Token {
    /// The secret. It belongs neither in an argument list nor in a log.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What the audit log calls the token, and what [`Authority::withdraw`] takes.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The hash of the CA's certificate.
    pub fn ca_hash(&self) -> &str {
        &self.ca_hash
    }

    /// Whom it admits.
    pub fn subject(&self) -> &SubjectPattern {
        &self.subject
    }

    /// When it stops being good.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// The command to paste on the node that joins, one line, with the authority's service at `addr` (`HOST:PORT`).
    ///
    /// The secret goes through a pipe: `printf` is part of the shell, so no argument list shows the secret, no environment
    /// carries it on to other programs, and any POSIX shell will do. For a token of a whole job, the reader replaces `INDEX`.
    pub fn join_command(&self, addr: &str) -> String {
        let subject = match &self.subject {
            SubjectPattern::Exactly(subject) => subject.to_string(),
            SubjectPattern::AnyTask { job } => format!("task/{job}/INDEX"),
        };
        format!(
            "printf %s {} | actorflow cluster join --addr {addr} --ca-hash {} --as {subject} --token-file -",
            self.secret, self.ca_hash
        )
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// Reads a secret from a file, for `--token-file`; `-` is standard input. White space around it is dropped.
///
/// # Errors
/// Those of reading, and `INVALID_ARGUMENT` if it is no secret of a token; the error does not repeat it.
pub fn read_secret(file: &str) -> Result<String> {
    match file {
        "-" => secret_from(std::io::stdin().lock()).map_err(|error| error.context("standard input")),
        _ => {
            let path = Path::new(file);
            let reader = std::fs::File::open(path).map_err(|error| files::at(path, error))?;
            secret_from(reader).map_err(|error| error.context(file))
        }
    }
}

/// Takes a secret from an environment variable, for nodes that are started by something which hands secrets over so. A
/// file is better: programs that a node starts inherit its environment.
///
/// # Errors
/// `NOT_FOUND` if the variable is not set, `INVALID_ARGUMENT` if it is no secret of a token; the error does not repeat it.
pub fn secret_from_env(variable: &str) -> Result<String> {
    let value = std::env::var_os(variable)
        .ok_or_else(|| Error::not_found(format!("the environment variable {variable} is not set")))?;
    secret_from(value.as_encoded_bytes()).map_err(|error| error.context(variable))
}

/// Reads a secret and the white space around it.
pub(crate) fn secret_from(reader: impl Read) -> Result<String> {
    let mut text = String::new();
    // One byte more than any secret tells a longer text from one.
    let bound = u64::try_from(MAX_SECRET).unwrap_or(u64::MAX).saturating_add(1);
    reader
        .take(bound)
        .read_to_string(&mut text)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => not_a_secret(),
            _ => Error::from(error),
        })?;
    let secret = text.trim();
    match secret.strip_prefix(PREFIX) {
        Some(digits) if text.len() <= MAX_SECRET && is_hex(digits, 64) => Ok(secret.to_owned()),
        _ => Err(not_a_secret()),
    }
}

fn not_a_secret() -> Error {
    Error::invalid("this is not the secret of a token; it is `aft_` and 64 hexadecimal digits")
}

impl Authority {
    /// Makes a token. What is returned is the only copy of its secret.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the specification is out of bounds, `RESOURCE_EXHAUSTED` if too many tokens are unused.
    pub fn token(&self, spec: &TokenSpec) -> Result<Token> {
        self.token_at(spec, SystemTime::now())
    }

    /// As [`token`](Self::token), at a time of the caller's choice.
    pub(crate) fn token_at(&self, spec: &TokenSpec, now: SystemTime) -> Result<Token> {
        spec.subject.check()?;
        if spec.ttl < Duration::from_secs(1) || spec.ttl > MAX_TOKEN_LIFETIME {
            return Err(Error::invalid(format!(
                "a token is good for 1 s to {} days, not for {:?}",
                MAX_TOKEN_LIFETIME.as_secs() / (24 * 3600),
                spec.ttl
            )));
        }
        if spec.uses == 0 || spec.uses > MAX_TOKEN_USES {
            return Err(Error::invalid(format!(
                "a token is good for 1 to {MAX_TOKEN_USES} uses, not for {}",
                spec.uses
            )));
        }
        let secret = format!("{PREFIX}{}", hex(&random::<32>()?));
        let hash = hex(&sha256(secret.as_bytes()));
        let id = hash[..ID_DIGITS].to_owned();
        let now = seconds(now);
        let expires = now.saturating_add(spec.ttl.as_secs());
        self.store().change(now, |state| {
            if state.tokens.len() >= MAX_TOKENS {
                // Those that are good for nothing any more make room.
                state.tokens.retain(|token| token.expires > now && token.uses_left > 0);
            }
            if state.tokens.len() >= MAX_TOKENS {
                return Err(Error::exhausted(format!(
                    "{MAX_TOKENS} tokens are unused; withdraw some, or wait until they expire"
                )));
            }
            state.tokens.push(TokenRecord {
                hash,
                subject: spec.subject.to_string(),
                expires,
                uses_left: spec.uses,
            });
            Ok(())
        })?;
        let mut line = Event::done("token", now).subject(&spec.subject);
        line.token = Some(&id);
        self.audit().record(&line)?;
        Ok(Token {
            secret,
            id,
            ca_hash: self.ca_hash(),
            subject: spec.subject.clone(),
            expires: moment(expires)?,
        })
    }

    /// Spends one use of the token with this secret, for a node that wants to be `wanted`. Of several attempts on the last
    /// use exactly one succeeds, over all processes. Every attempt is audited.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if the token is unknown or expired, `PERMISSION_DENIED` if it is used up or for another subject.
    pub fn redeem(&self, secret: &str, wanted: &Subject, now: SystemTime) -> Result<()> {
        let id = self.audited("redeem", wanted, now, None, || {
            wanted.check()?;
            self.store()
                .change(seconds(now), |state| spend(state, secret, wanted, seconds(now)))
        })?;
        let mut line = Event::done("redeem", seconds(now)).subject(wanted);
        line.token = Some(&id);
        self.audit().record(&line)
    }

    /// Withdraws a token by its identifier.
    ///
    /// # Errors
    /// `NOT_FOUND` if no such token is remembered.
    pub fn withdraw(&self, token_id: &str) -> Result<()> {
        let now = seconds(SystemTime::now());
        self.store().change(now, |state| {
            let before = state.tokens.len();
            state
                .tokens
                .retain(|token| token.hash.get(..ID_DIGITS) != Some(token_id));
            match state.tokens.len() < before {
                true => Ok(()),
                false => Err(Error::not_found(
                    "no token has this identifier; the audit log says which were made",
                )),
            }
        })?;
        let mut line = Event::done("withdraw", now);
        line.token = Some(token_id);
        self.audit().record(&line)
    }
}

/// Takes one use from the token with this secret; returns the token's identifier. `now` is in seconds since 1970.
///
/// Every token's hash is compared, each in constant time.
pub(crate) fn spend(state: &mut State, secret: &str, wanted: &Subject, now: u64) -> Result<String> {
    let refuse = |code: Code, why: String| Err(Error::new(code, format!("the token {why}; ask for a new one")));
    let hash = hex(&sha256(secret.as_bytes()));
    let mut found = None;
    for token in &mut state.tokens {
        if bool::from(token.hash.as_bytes().ct_eq(hash.as_bytes())) {
            found = Some(token);
        }
    }
    let Some(token) = found else {
        return refuse(
            Code::Unauthenticated,
            "is unknown here: mistyped, withdrawn, or of another cluster".to_owned(),
        );
    };
    let pattern: SubjectPattern = token.subject.parse()?;
    if now >= token.expires {
        return refuse(Code::Unauthenticated, format!("expired at {}", rfc3339(token.expires)));
    }
    if !pattern.admits(wanted) {
        return refuse(Code::PermissionDenied, format!("is for {pattern}, not for {wanted}"));
    }
    match token.uses_left.checked_sub(1) {
        Some(left) => token.uses_left = left,
        None => return refuse(Code::PermissionDenied, "is used up".to_owned()),
    }
    Ok(hash[..ID_DIGITS].to_owned())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn spec(pattern: &str, uses: u32) -> TokenSpec {
        TokenSpec {
            subject: pattern.parse().unwrap(),
            ttl: HOUR,
            uses,
        }
    }

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    #[track_caller]
    fn is_refused(outcome: Result<()>, code: Code, why: &str) {
        let error = outcome.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(why), "{error}");
    }

    #[test]
    fn a_token_admits_as_often_as_it_says() {
        let authority = Authority::ephemeral("c").unwrap();
        let token = authority.token(&spec("task/worker/*", 2)).unwrap();
        let now = SystemTime::now();
        authority
            .redeem(token.secret(), &subject("task/worker/0"), now)
            .unwrap();
        authority
            .redeem(token.secret(), &subject("task/worker/1"), now)
            .unwrap();
        let again = authority.redeem(token.secret(), &subject("task/worker/2"), now);
        is_refused(again, Code::PermissionDenied, "used up");
    }

    #[test]
    fn a_token_for_another_subject_is_refused_and_not_spent() {
        let authority = Authority::ephemeral("c").unwrap();
        let token = authority.token(&spec("task/worker/1", 1)).unwrap();
        let now = SystemTime::now();
        for other in ["task/worker/2", "task/ps/1", "chief/worker", "client/worker"] {
            let outcome = authority.redeem(token.secret(), &subject(other), now);
            is_refused(outcome, Code::PermissionDenied, "is for task/worker/1");
        }
        authority
            .redeem(token.secret(), &subject("task/worker/1"), now)
            .unwrap();
    }

    #[test]
    fn an_expired_token_is_refused() {
        let authority = Authority::ephemeral("c").unwrap();
        let token = authority.token(&spec("client/a", 1)).unwrap();
        let outcome = authority.redeem(token.secret(), &subject("client/a"), token.expires());
        is_refused(outcome, Code::Unauthenticated, "expired");
    }

    #[test]
    fn a_token_of_another_cluster_and_one_made_up_are_unknown() {
        let authority = Authority::ephemeral("c").unwrap();
        let foreign = Authority::ephemeral("c").unwrap().token(&spec("client/a", 1)).unwrap();
        let made_up = format!("aft_{}", "0".repeat(64));
        for secret in [foreign.secret(), &made_up, "", foreign.id()] {
            let outcome = authority.redeem(secret, &subject("client/a"), SystemTime::now());
            is_refused(outcome, Code::Unauthenticated, "unknown");
        }
    }

    #[test]
    fn a_withdrawn_token_is_unknown() {
        let authority = Authority::ephemeral("c").unwrap();
        let token = authority.token(&spec("client/a", 1)).unwrap();
        authority.withdraw(token.id()).unwrap();
        assert_eq!(authority.withdraw(token.id()).unwrap_err().code(), Code::NotFound);
        let outcome = authority.redeem(token.secret(), &subject("client/a"), SystemTime::now());
        is_refused(outcome, Code::Unauthenticated, "unknown");
    }

    #[test]
    fn of_many_that_race_for_one_use_exactly_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let in_files = Authority::create(&path, "c").unwrap();
        let opened_again = Authority::open(&path).unwrap();
        let in_memory = Authority::ephemeral("c").unwrap();
        for pair in [[&in_files, &opened_again], [&in_memory, &in_memory]] {
            let token = pair[0].token(&spec("client/a", 1)).unwrap();
            let wins = thread::scope(|scope| {
                let racers: Vec<_> = (0..8)
                    .map(|n| {
                        let secret = token.secret();
                        let redeem = move || pair[n % 2].redeem(secret, &subject("client/a"), SystemTime::now());
                        scope.spawn(redeem)
                    })
                    .collect();
                racers
                    .into_iter()
                    .filter_map(|racer| racer.join().unwrap().ok())
                    .count()
            });
            assert_eq!(wins, 1);
        }
    }

    #[test]
    fn a_specification_out_of_bounds_is_refused() {
        let authority = Authority::ephemeral("c").unwrap();
        let good = spec("client/a", 1);
        for bad in [
            TokenSpec {
                uses: 0,
                ..good.clone()
            },
            TokenSpec {
                uses: u32::MAX,
                ..good.clone()
            },
            TokenSpec {
                ttl: Duration::ZERO,
                ..good.clone()
            },
            TokenSpec {
                ttl: Duration::MAX,
                ..good.clone()
            },
            TokenSpec {
                subject: SubjectPattern::AnyTask { job: "*".to_owned() },
                ..good
            },
        ] {
            assert_eq!(authority.token(&bad).unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn the_join_command_is_one_line_with_the_secret_outside_of_the_arguments() {
        let authority = Authority::ephemeral("c").unwrap();
        let token = authority.token(&spec("task/worker/1", 1)).unwrap();
        let command = token.join_command("10.0.0.1:7000");
        let (before, arguments) = command.split_once(" | ").unwrap();
        assert_eq!(before, format!("printf %s {}", token.secret()));
        assert!(!arguments.contains(token.secret()) && !command.contains('\n'));
        assert!(arguments.contains(&authority.ca_hash()) && arguments.contains("--as task/worker/1"));
    }

    #[test]
    fn the_secret_is_in_no_debug_form_no_log_and_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let authority = Authority::create(&path, "c").unwrap();
        let token = authority.token(&spec("client/a", 1)).unwrap();
        authority
            .redeem(token.secret(), &subject("client/b"), SystemTime::now())
            .unwrap_err();
        authority
            .redeem(token.secret(), &subject("client/a"), SystemTime::now())
            .unwrap();
        assert!(!format!("{token:?}{authority:?}").contains(token.secret()));
        for entry in std::fs::read_dir(&path).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            assert!(!text.contains(&token.secret()[4..]));
        }
        let audit = authority.audit().tail(100).unwrap();
        assert!(
            audit.iter().filter(|line| line.contains("redeem")).count() == 2,
            "{audit:?}"
        );
        assert!(audit.iter().any(|line| line.contains(token.id())));
    }

    #[test]
    fn a_secret_is_read_with_the_white_space_around_it_and_nothing_else_is() {
        let secret = format!("aft_{}", "0a".repeat(32));
        let read = |text: &str| secret_from(text.as_bytes());
        assert_eq!(read(&format!(" {secret}\r\n")).unwrap(), secret);
        for bad in [
            "",
            "\n",
            &secret[1..],
            &secret[..60],
            &format!("{secret} {secret}"),
            &secret.to_uppercase(),
        ] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(bad.len() < 8 || !error.message().contains(bad));
        }
        assert!(secret_from(&[0xff, 0xfe][..]).is_err());
        assert!(read(&format!("{secret}{}x", " ".repeat(300))).is_err());
        assert_eq!(read_secret("/nonexistent/token").unwrap_err().code(), Code::NotFound);
        assert_eq!(
            secret_from_env("ACTORFLOW_NO_SUCH_VARIABLE").unwrap_err().code(),
            Code::NotFound
        );
    }
}
