//! Which tasks a cluster has, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

pub use actorflow_core::device_name::TaskName;
use actorflow_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

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

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    cluster: BTreeMap<String, Tasks>,
    task: Option<ConfigTask>,
}

#[derive(Deserialize)]
struct ConfigTask {
    r#type: String,
    #[serde(default)]
    index: u32,
}

impl ClusterSpec {
    /// A cluster without tasks.
    pub fn new() -> ClusterSpec {
        ClusterSpec::default()
    }

    /// Adds a task, or gives it another address.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a job name or address that is none.
    pub fn with_task(mut self, job: &str, index: u32, addr: &str) -> Result<ClusterSpec> {
        TaskName::new(job, index)?;
        check_addr(job, index, addr)?;
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
        Self::with_task_of(text).map(|(spec, _)| spec)
    }

    /// The cluster of a JSON text, and the task that it says the reader is.
    fn with_task_of(text: &str) -> Result<(ClusterSpec, Option<TaskName>)> {
        let bad = |e: serde_json::Error| {
            Error::invalid(format!(
                "the cluster is described by JSON such as {{\"ps\": [\"host:2222\"], \"worker\": [\"host:2223\"]}}: {e}"
            ))
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(bad)?;
        if value.get("cluster").is_some() || value.get("task").is_some() {
            let config: Config = serde_json::from_value(value).map_err(bad)?;
            let task = config.task.map(|t| TaskName::new(&t.r#type, t.index)).transpose()?;
            return Ok((ClusterSpec::of(config.cluster)?, task));
        }
        let jobs: BTreeMap<String, Tasks> = serde_json::from_value(value).map_err(bad)?;
        Ok((ClusterSpec::of(jobs)?, None))
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
    /// `NOT_FOUND` if it is not set, `INVALID_ARGUMENT` if it names no task or is no such JSON.
    pub fn from_env() -> Result<(ClusterSpec, TaskName)> {
        let text = std::env::var(TF_CONFIG).map_err(|_| {
            Error::not_found(format!(
                "the environment variable {TF_CONFIG} is not set; it describes the cluster"
            ))
        })?;
        let (spec, task) = Self::with_task_of(&text).map_err(|e| e.context(TF_CONFIG))?;
        let task = task.ok_or_else(|| {
            Error::invalid(format!(
                "{TF_CONFIG} says nothing of \"task\", such as {{\"type\": \"worker\", \"index\": 0}}"
            ))
        })?;
        Ok((spec, task))
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
            Error::not_found(format!("the cluster has no task {task}; it has {}", known.join(", ")))
        })
    }
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
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
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
    fn tensorflows_variable_names_the_task_too() {
        let text = r#"{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}, "environment": "cloud"}"#;
        let (spec, task) = ClusterSpec::with_task_of(text).unwrap();
        assert_eq!(
            (spec.num_tasks("ps"), task.unwrap().to_string().as_str()),
            (1, "/job:ps/task:0")
        );
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
