//! Which tasks a cluster has, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

pub use actorflow_core::device_name::TaskName;
use actorflow_core::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::strict;

/// The environment variable that describes cluster and task: JSON in the shape of TensorFlow's, such as
/// `{"cluster": {"ps": ["host0:2222"], "worker": ["host1:2222"]}, "task": {"type": "worker", "index": 0}}`.
pub const TF_CONFIG: &str = "TF_CONFIG";

/// The tasks of a cluster by job, with the address of each (`tf.train.ClusterSpec`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterSpec {
    jobs: BTreeMap<String, BTreeMap<u32, String>>,
}

/// A job's tasks as they are written: a list, or numbers with addresses.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Tasks {
    List(Vec<String>),
    Sparse(BTreeMap<String, String>),
}

/// What a text says: of the cluster, of its reader, or of both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterConfig {
    /// The tasks that there are.
    pub cluster: Option<ClusterSpec>,
    /// The task that the reader is.
    pub task: Option<TaskName>,
}

impl ClusterSpec {
    /// A cluster without tasks.
    pub fn new() -> ClusterSpec {
        ClusterSpec::default()
    }

    /// Adds a task, or gives it another address.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a job name or address that is none, or an address that another task has.
    pub fn with_task(mut self, job: &str, index: u32, addr: &str) -> Result<ClusterSpec> {
        TaskName::new(job, index)?;
        check_addr(job, index, addr)?;
        let of_other = |(j, tasks): (&String, &BTreeMap<u32, String>)| {
            let mut same = tasks
                .iter()
                .filter(|(i, a)| *a == addr && (j.as_str(), **i) != (job, index));
            same.next().map(|(i, _)| format!("task {i} of job {j:?}"))
        };
        if let Some(other) = self.jobs.iter().find_map(of_other) {
            return Err(Error::invalid(format!(
                "{addr} is the address of task {index} of job {job:?} and of {other}; each task has one of its own"
            )));
        }
        self.jobs
            .entry(job.to_owned())
            .or_default()
            .insert(index, addr.to_owned());
        Ok(self)
    }

    /// Adds a job whose tasks, counted from 0, have these addresses.
    ///
    /// # Errors
    /// As [`with_task`](Self::with_task).
    pub fn with_job<A: AsRef<str>>(mut self, job: &str, addrs: &[A]) -> Result<ClusterSpec> {
        for (i, a) in (0u32..).zip(addrs) {
            self = self.with_task(job, i, a.as_ref())?;
        }
        Ok(self)
    }

    fn of(jobs: BTreeMap<String, Tasks>) -> Result<ClusterSpec> {
        let mut spec = ClusterSpec::new();
        for (job, tasks) in jobs {
            spec = match tasks {
                Tasks::List(addrs) => spec.with_job(&job, &addrs)?,
                Tasks::Sparse(tasks) => {
                    for (i, a) in tasks {
                        let index = i.parse().map_err(|_| {
                            Error::invalid(format!("{i:?} is no number of a task of job {job:?}; write 0, 1, ..."))
                        })?;
                        spec = spec.with_task(&job, index, &a)?;
                    }
                    spec
                }
            };
        }
        Ok(spec)
    }

    /// The cluster that a JSON text describes: `{"ps": ["host:port"], "worker": {"0": "host:port", "3": "host:port"}}`,
    /// by itself or under the key `cluster`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` saying what is wrong with the text.
    pub fn from_json(text: &str) -> Result<ClusterSpec> {
        ClusterConfig::from_json(text)?.cluster.ok_or_else(|| {
            Error::invalid("the text says nothing of \"cluster\", such as {\"cluster\": {\"ps\": [\"host:2222\"]}}")
        })
    }

    /// The cluster that a file describes, as [`from_json`](Self::from_json).
    ///
    /// # Errors
    /// `NOT_FOUND` and the like for the file, `INVALID_ARGUMENT` for its contents; both name it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<ClusterSpec> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::from(e).context(path.display()))?;
        Self::from_json(&text).map_err(|e| e.context(path.display()))
    }

    /// Cluster and task from the environment variable `TF_CONFIG`.
    ///
    /// # Errors
    /// `NOT_FOUND` if it is not set, `INVALID_ARGUMENT` if it names no cluster or no task or is no such JSON.
    pub fn from_env() -> Result<(ClusterSpec, TaskName)> {
        let config = ClusterConfig::from_env()?.ok_or_else(|| {
            Error::not_found(format!(
                "the environment variable {TF_CONFIG} is not set; it describes the cluster"
            ))
        })?;
        let nothing = |of: &str| Error::invalid(format!("{TF_CONFIG} says nothing of {of}"));
        let spec = config
            .cluster
            .ok_or_else(|| nothing("\"cluster\", such as {\"ps\": [\"host:2222\"]}"))?;
        let task = config.task;
        Ok((
            spec,
            task.ok_or_else(|| nothing("\"task\", such as {\"type\": \"worker\", \"index\": 0}"))?,
        ))
    }

    /// The cluster as JSON, which [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.jobs).unwrap_or_default()
    }

    /// The names of the jobs.
    pub fn jobs(&self) -> impl Iterator<Item = &str> {
        self.jobs.keys().map(String::as_str)
    }

    /// How many tasks a job has.
    pub fn num_tasks(&self, job: &str) -> usize {
        self.jobs.get(job).map_or(0, BTreeMap::len)
    }

    /// Every task with its address, by job and number.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskName, &str)> {
        self.jobs.iter().flat_map(|(job, tasks)| {
            tasks
                .iter()
                .filter_map(move |(i, addr)| Some((TaskName::new(job, *i).ok()?, addr.as_str())))
        })
    }

    /// The address of a task.
    ///
    /// # Errors
    /// `NOT_FOUND` naming it and the tasks that there are.
    pub fn address(&self, task: &TaskName) -> Result<&str> {
        let found = self.jobs.get(&*task.job).and_then(|tasks| tasks.get(&task.index));
        found.map(String::as_str).ok_or_else(|| {
            let known: Vec<String> = self.tasks().map(|(t, _)| t.to_string()).collect();
            let known = if known.is_empty() {
                "none at all".to_owned()
            } else {
                known.join(", ")
            };
            Error::not_found(format!("the cluster has no task {task}; it has {known}"))
        })
    }
}

impl ClusterConfig {
    /// What a JSON text says: a cluster, by itself or under the key `cluster`, and under the key `task` who the reader is.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` saying what is wrong with the text.
    pub fn from_json(text: &str) -> Result<ClusterConfig> {
        let bad = |e: serde_json::Error| {
            Error::invalid(format!(
                "the cluster is described by JSON such as {{\"ps\": [\"host:2222\"], \"worker\": [\"host:2223\"]}}: {e}"
            ))
        };
        let jobs = |value: Value| serde_json::from_value(value).map_err(bad).and_then(ClusterSpec::of);
        match strict::parse(text).map_err(bad)? {
            Value::Object(mut all) if all.contains_key("cluster") || all.contains_key("task") => Ok(ClusterConfig {
                cluster: all.remove("cluster").map(jobs).transpose()?,
                task: all.remove("task").map(|t| task_of(&t)).transpose()?,
            }),
            value => Ok(ClusterConfig {
                cluster: Some(jobs(value)?),
                task: None,
            }),
        }
    }

    /// What the environment variable `TF_CONFIG` says; nothing if it is not set.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is no such JSON.
    pub fn from_env() -> Result<Option<ClusterConfig>> {
        let Some(text) = std::env::var_os(TF_CONFIG) else {
            return Ok(None);
        };
        let text = text.to_str().ok_or_else(|| {
            Error::invalid(format!(
                "the environment variable {TF_CONFIG} is not UTF-8; it has JSON"
            ))
        })?;
        ClusterConfig::from_json(text)
            .map(Some)
            .map_err(|e| e.context(TF_CONFIG))
    }
}

/// Who the reader is: `{"type": "worker", "index": 0}`. A number in quotes is one as well, and without any it is 0, as in
/// TensorFlow.
fn task_of(value: &Value) -> Result<TaskName> {
    let bad = |what: String| {
        Error::invalid(format!(
            "the key \"task\" says which task the reader is, such as {{\"type\": \"worker\", \"index\": 0}}: {what}"
        ))
    };
    let job = match value.get("type") {
        Some(Value::String(job)) => job,
        Some(other) => return Err(bad(format!("its \"type\" is {other}, no name of a job"))),
        None => return Err(bad(format!("{value} has no \"type\""))),
    };
    let index = match value.get("index") {
        None => Some(0),
        Some(Value::Number(n)) => n.as_u64().and_then(|n| u32::try_from(n).ok()),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    let index = index.ok_or_else(|| {
        let found = value.get("index").unwrap_or(&Value::Null);
        bad(format!("its \"index\" is {found}, no number of a task"))
    })?;
    TaskName::new(job, index)
}

impl fmt::Display for ClusterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks: Vec<String> = self.tasks().map(|(t, a)| format!("{t} at {a}")).collect();
        f.write_str(&tasks.join(", "))
    }
}

fn check_addr(job: &str, index: u32, addr: &str) -> Result<()> {
    let good = addr
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{addr:?} is no address of task {index} of job {job:?}; write host:port, such as 10.0.0.1:2222 or [::1]:2222"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_numbers_describe_tasks() {
        let spec = ClusterSpec::from_json(r#"{"ps": ["a:1", "b:2"], "worker": {"3": "[::1]:9"}}"#).unwrap();
        assert_eq!(
            spec.to_string(),
            "/job:ps/task:0 at a:1, /job:ps/task:1 at b:2, /job:worker/task:3 at [::1]:9"
        );
        assert_eq!(ClusterSpec::from_json(&spec.to_json()).unwrap(), spec);
        assert_eq!(spec.num_tasks("ps"), 2);
        let e = spec.address(&TaskName::new("worker", 0).unwrap()).unwrap_err();
        assert!(e.message().contains("no task /job:worker/task:0"), "{e}");
    }

    #[test]
    fn tensorflows_variable_names_the_cluster_the_task_or_both() {
        let of = |text: &str| ClusterConfig::from_json(text).unwrap();
        let task = |text: &str| of(text).task.map(|t| t.to_string());
        let both = r#"{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}, "environment": "cloud"}"#;
        assert_eq!(of(both).cluster.map(|c| c.num_tasks("ps")), Some(1));
        assert_eq!(task(both).as_deref(), Some("/job:ps/task:0"));
        assert_eq!(of(r#"{"cluster": {"ps": ["a:1"]}}"#).task, None);
        let me = r#"{"task": {"type": "worker", "index": "3"}}"#;
        assert_eq!(of(me).cluster, None);
        assert_eq!(task(me).as_deref(), Some("/job:worker/task:3"));
        assert_eq!(
            task(r#"{"task": {"type": "chief"}}"#).as_deref(),
            Some("/job:chief/task:0")
        );
        for (text, says) in [
            (r#"{"task": {"type": "ps", "index": "x"}}"#, "its \"index\" is \"x\""),
            (r#"{"task": {"type": "ps", "index": -1}}"#, "its \"index\" is -1"),
            (r#"{"task": {"type": 3}}"#, "its \"type\" is 3"),
            (r#"{"task": {"index": 3}}"#, "no \"type\""),
        ] {
            let e = ClusterConfig::from_json(text).unwrap_err();
            assert!(
                e.message().contains("the key \"task\"") && e.message().contains(says),
                "{e}"
            );
        }
        let e = ClusterSpec::from_json(me).unwrap_err();
        assert!(e.message().contains("nothing of \"cluster\""), "{e}");
    }

    #[test]
    fn mistakes_in_a_cluster_are_named() {
        for (text, says) in [
            (
                r#"{"ps": ["a:1"], "worker": ["b:1", "a:1"]}"#,
                "a:1 is the address of task 1 of job \"worker\" and of task 0 of job \"ps\"",
            ),
            (r#"{"ps": ["a:1"], "ps": ["b:1"]}"#, "the key \"ps\" is there twice"),
            (r#"{"ps": {"0": "a:1", "0": "b:1"}}"#, "the key \"0\" is there twice"),
            (r#"{"ps": ["a:0"]}"#, "\"a:0\" is no address"),
        ] {
            let e = ClusterSpec::from_json(text).unwrap_err();
            assert!(e.message().contains(says), "{e}");
        }
        let none = ClusterSpec::from_json(r#"{"ps": []}"#).unwrap();
        let e = none.address(&TaskName::new("ps", 0).unwrap()).unwrap_err();
        assert!(e.message().ends_with("it has none at all"), "{e}");
        // A task may be given another address, and its own again.
        let spec = ClusterSpec::new().with_task("ps", 0, "a:1").unwrap();
        let spec = spec
            .with_task("ps", 0, "a:1")
            .unwrap()
            .with_task("ps", 0, "a:2")
            .unwrap();
        assert_eq!(spec.to_string(), "/job:ps/task:0 at a:2");
    }

    #[test]
    fn what_is_no_cluster_is_refused() {
        for text in [
            "",
            "[]",
            r#"{"ps": [1]}"#,
            r#"{"ps": ["a"]}"#,
            r#"{"ps": ["a:x"]}"#,
            r#"{"p s": ["a:1"]}"#,
        ] {
            assert!(ClusterSpec::from_json(text).is_err(), "{text}");
        }
    }
}
