//! Who a certificate, a token or a request speaks of, and what that role may do.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use actorflow_core::{Error, Result};

/// The longest name of a cluster, a job, a client or a chief, in bytes.
pub const MAX_NAME: usize = 63;

/// What a member of a cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Executes its part of graphs that others submit.
    Task,
    /// Submits graphs from outside of the cluster.
    Client,
    /// Submits graphs and coordinates training.
    Chief,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Task => "task",
            Role::Client => "client",
            Role::Chief => "chief",
        })
    }
}

/// A member of a cluster: `task/ps/0`, `client/alice` or `chief/main`.
///
/// The text form is canonical: two subjects are equal exactly if their texts are. A job is named as in TensorFlow's
/// device names (a letter, then letters, digits and `_`), a client or chief by letters, digits, `.`, `_` and `-`, first a
/// letter or digit; both are at most [`MAX_NAME`] bytes long.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Task `index` of `job`.
    Task {
        /// The job: `ps`, `worker`.
        job: String,
        /// Its index within the job, from 0.
        index: u32,
    },
    /// A program that submits graphs.
    Client {
        /// Who it is.
        name: String,
    },
    /// A program that submits graphs and coordinates training.
    Chief {
        /// Who it is.
        name: String,
    },
}

impl Subject {
    /// The role that the subject has.
    pub fn role(&self) -> Role {
        match self {
            Subject::Task { .. } => Role::Task,
            Subject::Client { .. } => Role::Client,
            Subject::Chief { .. } => Role::Chief,
        }
    }

    /// Whether the subject may submit graphs: clients and chiefs may, tasks may not.
    pub fn may_submit(&self) -> bool {
        self.role() != Role::Task
    }

    /// The task as a device name says it, `/job:ps/task:0`; `None` for clients and chiefs.
    pub fn task_name(&self) -> Option<String> {
        match self {
            Subject::Task { job, index } => Some(format!("/job:{job}/task:{index}")),
            Subject::Client { .. } | Subject::Chief { .. } => None,
        }
    }

    /// Whether the names inside are valid. Parsing has checked that; a subject built field by field may be wrong.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names the offending part.
    pub fn check(&self) -> Result<()> {
        match self {
            Subject::Task { job, .. } => check_job(job),
            Subject::Client { name } | Subject::Chief { name } => check_name(name),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Task { job, index } => write!(f, "task/{job}/{index}"),
            Subject::Client { name } => write!(f, "client/{name}"),
            Subject::Chief { name } => write!(f, "chief/{name}"),
        }
    }
}

impl FromStr for Subject {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('/');
        let subject = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("task"), Some(job), Some(index), None) => Subject::Task {
                job: job.to_owned(),
                index: canonical_index(index).ok_or_else(|| malformed(text))?,
            },
            (Some("client"), Some(name), None, None) => Subject::Client { name: name.to_owned() },
            (Some("chief"), Some(name), None, None) => Subject::Chief { name: name.to_owned() },
            _ => return Err(malformed(text)),
        };
        subject.check()?;
        Ok(subject)
    }
}

/// Which subjects a token admits: one (`task/worker/1`, `client/alice`), or every task of a job (`task/worker/*`).
///
/// A token is always bound to a role, and to a name unless it is for the tasks of one job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SubjectPattern {
    /// This subject alone.
    Exactly(Subject),
    /// Any task of the job.
    AnyTask {
        /// The job.
        job: String,
    },
}

impl SubjectPattern {
    /// Whether `subject` is admitted.
    pub fn admits(&self, subject: &Subject) -> bool {
        match (self, subject) {
            (SubjectPattern::Exactly(only), _) => only == subject,
            (SubjectPattern::AnyTask { job }, Subject::Task { job: other, .. }) => job == other,
            (SubjectPattern::AnyTask { .. }, _) => false,
        }
    }

    /// Whether the names inside are valid.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names the offending part.
    pub fn check(&self) -> Result<()> {
        match self {
            SubjectPattern::Exactly(subject) => subject.check(),
            SubjectPattern::AnyTask { job } => check_job(job),
        }
    }
}

impl From<Subject> for SubjectPattern {
    fn from(subject: Subject) -> Self {
        SubjectPattern::Exactly(subject)
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubjectPattern::Exactly(subject) => subject.fmt(f),
            SubjectPattern::AnyTask { job } => write!(f, "task/{job}/*"),
        }
    }
}

impl FromStr for SubjectPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("task/").and_then(|rest| rest.strip_suffix("/*")) {
            Some(job) => {
                check_job(job)?;
                Ok(SubjectPattern::AnyTask { job: job.to_owned() })
            }
            None => Ok(SubjectPattern::Exactly(text.parse()?)),
        }
    }
}

/// Whether `cluster` can name a cluster.
///
/// # Errors
/// `INVALID_ARGUMENT` that says what a name is.
pub fn check_cluster(cluster: &str) -> Result<()> {
    check_name(cluster).map_err(|error| error.context("the cluster's name"))
}

/// A job's name has to be one in device names too.
fn check_job(job: &str) -> Result<()> {
    let letter_first = job.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = job.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match letter_first && rest && job.len() <= MAX_NAME {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{:?} cannot name a job; use a letter, then letters, digits and _, at most {MAX_NAME} in all",
            short(job)
        ))),
    }
}

fn check_name(name: &str) -> Result<()> {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    match first && rest && name.len() <= MAX_NAME {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{:?} is not a name; use a letter or digit, then letters, digits, `.`, `_` and `-`, at most {MAX_NAME} in all",
            short(name)
        ))),
    }
}

/// The index, if `text` is the one way to write it.
fn canonical_index(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|index| index.to_string() == text)
}

fn malformed(text: &str) -> Error {
    Error::invalid(format!(
        "{:?} is not a subject; write task/JOB/INDEX, client/NAME or chief/NAME",
        short(text)
    ))
}

/// As much of `text` as an error repeats.
fn short(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    #[test]
    fn every_kind_of_subject_is_read_back_from_its_text() {
        for text in ["task/ps/0", "task/worker_2/4294967295", "client/alice", "chief/x.y-z_1"] {
            assert_eq!(subject(text).to_string(), text);
        }
    }

    #[test]
    fn anything_but_the_canonical_text_is_refused() {
        for text in [
            "",
            "task",
            "task/ps",
            "task/ps/",
            "task/ps/00",
            "task/ps/+1",
            "task/ps/-1",
            "task/ps/4294967296",
            "task/ps/0/1",
            "task/ps/0 ",
            "Task/ps/0",
            "task//0",
            "task/1ps/0",
            "task/p:s/0",
            "task/pß/0",
            "client/",
            "client/a/b",
            "client/..",
            "client/a b",
            "client/a\n",
            "chief/%41",
            "root/x",
        ] {
            assert!(text.parse::<Subject>().is_err(), "{text:?}");
        }
        assert!(format!("client/{}", "a".repeat(63)).parse::<Subject>().is_ok());
        assert!(format!("client/{}", "a".repeat(64)).parse::<Subject>().is_err());
    }

    #[test]
    fn clients_and_chiefs_alone_may_submit() {
        assert!(subject("client/a").may_submit());
        assert!(subject("chief/a").may_submit());
        assert!(!subject("task/chief/0").may_submit());
    }

    #[test]
    fn a_task_has_a_device_name() {
        assert_eq!(subject("task/ps/3").task_name().as_deref(), Some("/job:ps/task:3"));
        assert_eq!(subject("client/a").task_name(), None);
    }

    #[test]
    fn a_pattern_admits_its_subject_or_the_tasks_of_its_job() {
        let one: SubjectPattern = "task/worker/1".parse().unwrap();
        let job: SubjectPattern = "task/worker/*".parse().unwrap();
        assert!(one.admits(&subject("task/worker/1")) && !one.admits(&subject("task/worker/2")));
        assert!(job.admits(&subject("task/worker/2")) && !job.admits(&subject("task/ps/2")));
        assert!(!job.admits(&subject("client/worker")));
        assert_eq!(job.to_string(), "task/worker/*");
        for text in ["task/*/*", "client/*", "*", "task//*", "chief/*"] {
            assert!(text.parse::<SubjectPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_subject_built_by_hand_is_checked_too() {
        let forged = Subject::Task {
            job: "ps/0/../chief".to_owned(),
            index: 0,
        };
        assert!(forged.check().is_err());
    }
}
