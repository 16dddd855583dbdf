//! Names of devices and tasks: `/job:ps/replica:0/task:1/device:CPU:0`, whole or in part.
//!
//! A name with parts left out is a constraint: it accepts every device that has the parts which it does name.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};

/// What every error of a device name shows.
const EXAMPLE: &str = "write it like \"/job:ps/replica:0/task:1/device:CPU:0\", leaving out what does not matter";

/// The name of a device, of which any part may be left open.
///
/// The text form is TensorFlow's, with its short spellings: `/cpu:0`, `/gpu:1`, `/device:GPU:*`, `/job:ps/task:1`, without
/// regard to the case of the device's kind, with or without the first slash. `*` leaves a part open. The empty text leaves
/// all open. Displayed is the canonical form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceName {
    /// The job of the cluster: `worker`.
    pub job: Option<Arc<str>>,
    /// The replica; clusters of this engine have only replica 0.
    pub replica: Option<u32>,
    /// The number of the task in its job.
    pub task: Option<u32>,
    /// What the device is, in capitals: `CPU`, `GPU`.
    pub kind: Option<Arc<str>>,
    /// The number of the device among those of its kind in its task.
    pub index: Option<u32>,
}

impl DeviceName {
    /// Whether it names one device: job, task, kind and index. A replica that is left out is replica 0.
    pub fn is_full(&self) -> bool {
        self.job.is_some() && self.task.is_some() && self.kind.is_some() && self.index.is_some()
    }

    /// Whether every part is open, so that any device will do.
    pub fn is_any(&self) -> bool {
        *self == DeviceName::default()
    }

    /// Joins a more specific constraint to an outer one: parts that `inner` names win, others are taken from `outer`.
    /// Kind and index are one part, because an index means nothing for devices of another kind.
    pub fn merge(outer: &DeviceName, inner: &DeviceName) -> DeviceName {
        let device = match inner.kind.is_some() || inner.index.is_some() {
            true => inner,
            false => outer,
        };
        DeviceName {
            job: inner.job.as_ref().or(outer.job.as_ref()).cloned(),
            replica: inner.replica.or(outer.replica),
            task: inner.task.or(outer.task),
            kind: device.kind.clone(),
            index: device.index,
        }
    }

    /// Whether the device of the full name `full` has every part that this name has.
    pub fn accepts(&self, full: &DeviceName) -> bool {
        self.replica.is_none_or(|r| r == full.replica.unwrap_or(0))
            && fits(&self.job, &full.job)
            && fits(&self.task, &full.task)
            && fits(&self.kind, &full.kind)
            && fits(&self.index, &full.index)
    }

    /// The task, if the name says which: job and task.
    pub fn task(&self) -> Option<TaskName> {
        Some(TaskName {
            job: self.job.clone()?,
            index: self.task?,
        })
    }

    /// The name of device `index` of `kind` in `task`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if `kind` is not made of letters, digits and `_`.
    pub fn of_task(task: &TaskName, kind: &str, index: u32) -> Result<DeviceName> {
        Ok(DeviceName {
            job: Some(task.job.clone()),
            replica: Some(0),
            task: Some(task.index),
            kind: Some(kind_of(kind).map_err(|why| Error::invalid(format!("device {kind:?}: {why}; {EXAMPLE}")))?),
            index: Some(index),
        })
    }

    /// Sets the part `text` (`task:1`); what is wrong with it, without the whole name.
    fn set(&mut self, text: &str) -> Result<(), String> {
        let mut fields = text.split(':');
        let key = fields.next().unwrap_or_default();
        let values: Vec<&str> = fields.collect();
        let one = || match values.as_slice() {
            [v] if !v.is_empty() => Ok(*v),
            _ => Err(format!("{text:?} must be {key:?}, a colon and one value")),
        };
        match key.to_ascii_lowercase().as_str() {
            "job" => {
                if self.job.is_some() {
                    return Err("the job is named twice".to_owned());
                }
                self.job = open(one()?).map(job_of).transpose()?;
            }
            "replica" => once(&mut self.replica, one()?, "replica")?,
            "task" => once(&mut self.task, one()?, "task")?,
            "device" | "cpu" | "gpu" => {
                if self.kind.is_some() || self.index.is_some() {
                    return Err("the device is named twice".to_owned());
                }
                let (kind, index) = match (key.eq_ignore_ascii_case("device"), values.as_slice()) {
                    (true, [kind]) => (*kind, None),
                    (true, [kind, index]) => (*kind, Some(*index)),
                    (false, []) => (key, None),
                    (false, [index]) => (key, Some(*index)),
                    _ => return Err(format!("{text:?} must be like \"device:CPU:0\" or \"cpu:0\"")),
                };
                self.kind = open(kind).map(kind_of).transpose()?;
                if let Some(index) = index {
                    once(&mut self.index, index, "device")?;
                }
            }
            _ => {
                return Err(format!(
                    "{text:?} is no part of a device name: parts are job, replica, task and device"
                ));
            }
        }
        Ok(())
    }
}

fn fits<T: PartialEq>(asked: &Option<T>, has: &Option<T>) -> bool {
    asked.is_none() || asked == has
}

/// Nothing for `*`, which leaves a part open.
fn open(value: &str) -> Option<&str> {
    (value != "*").then_some(value)
}

fn once(slot: &mut Option<u32>, value: &str, part: &str) -> Result<(), String> {
    if slot.is_some() {
        return Err(format!("the {part} is named twice"));
    }
    *slot = open(value).map(|v| number(v, part)).transpose()?;
    Ok(())
}

fn number(value: &str, part: &str) -> Result<u32, String> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let n = if digits { value.parse::<u32>().ok() } else { None };
    n.ok_or_else(|| {
        format!(
            "the number of the {part}, {value:?}, is none between 0 and {}",
            u32::MAX
        )
    })
}

fn job_of(value: &str) -> Result<Arc<str>, String> {
    let first = value.starts_with(|c: char| c.is_ascii_alphabetic());
    if first
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
    {
        Ok(value.into())
    } else {
        Err(format!(
            "the job {value:?} must be a letter and then letters, digits, '_' and '-'"
        ))
    }
}

fn kind_of(value: &str) -> Result<Arc<str>, String> {
    let first = value.starts_with(|c: char| c.is_ascii_alphabetic());
    if first && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        Ok(value.to_ascii_uppercase().into())
    } else {
        Err(format!("the kind of device {value:?} must be a word like CPU or GPU"))
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    /// # Errors
    /// `INVALID_ARGUMENT` that names the wrong part and shows a correct name.
    fn from_str(text: &str) -> Result<Self> {
        let mut name = DeviceName::default();
        for part in text.split('/').filter(|p| !p.is_empty()) {
            name.set(part)
                .map_err(|why| Error::invalid(format!("bad device name {text:?}: {why}; {EXAMPLE}")))?;
        }
        Ok(name)
    }
}

impl TryFrom<&str> for DeviceName {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for DeviceName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// So that what is a name already goes where text is parsed, too.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(job) = &self.job {
            write!(f, "/job:{job}")?;
        }
        if let Some(replica) = self.replica {
            write!(f, "/replica:{replica}")?;
        }
        if let Some(task) = self.task {
            write!(f, "/task:{task}")?;
        }
        match (&self.kind, self.index) {
            (None, None) => Ok(()),
            (kind, Some(index)) => write!(f, "/device:{}:{index}", kind.as_deref().unwrap_or("*")),
            (Some(kind), None) => write!(f, "/device:{kind}:*"),
        }
    }
}

/// A task of a cluster: one process, by its job and its number there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskName {
    /// The job: `ps`.
    pub job: Arc<str>,
    /// The number of the task in its job, from 0.
    pub index: u32,
}

impl TaskName {
    /// Task `index` of `job`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if `job` is not a letter followed by letters, digits, `_` and `-`.
    pub fn new(job: &str, index: u32) -> Result<TaskName> {
        let job = job_of(job).map_err(Error::invalid)?;
        Ok(TaskName { job, index })
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/job:{}/task:{}", self.job, self.index)
    }
}

impl FromStr for TaskName {
    type Err = Error;

    /// Reads `/job:ps/task:0` (a replica 0 may stand between), `ps:0` and `ps/0`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that says what is wrong and shows a correct name.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::invalid(format!(
                "bad task name {text:?}: {why}; write it like \"/job:ps/task:0\" or \"ps:0\""
            ))
        };
        let short = text
            .split_once(['/', ':'])
            .filter(|(job, index)| !job.eq_ignore_ascii_case("job") && !job.is_empty() && !index.contains(['/', ':']));
        if let Some((job, index)) = short {
            return Ok(TaskName {
                job: job_of(job).map_err(bad)?,
                index: number(index, "task").map_err(bad)?,
            });
        }
        let name: DeviceName = text.parse().map_err(|e: Error| bad(e.message().to_owned()))?;
        if name.kind.is_some() || name.index.is_some() {
            return Err(bad("it names a device".to_owned()));
        }
        if name.replica.is_some_and(|r| r != 0) {
            return Err(bad("there is no replica but 0".to_owned()));
        }
        name.task()
            .ok_or_else(|| bad("it must say the job and the number of the task".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(text: &str) -> DeviceName {
        text.parse().unwrap()
    }

    fn merged(outer: &str, inner: &str) -> String {
        DeviceName::merge(&device(outer), &device(inner)).to_string()
    }

    #[test]
    fn every_spelling_has_one_canonical_form() {
        for (text, canonical) in [
            (
                "/job:ps/replica:0/task:1/device:CPU:0",
                "/job:ps/replica:0/task:1/device:CPU:0",
            ),
            ("/job:ps/task:1", "/job:ps/task:1"),
            ("/cpu:0", "/device:CPU:0"),
            ("/gpu:3", "/device:GPU:3"),
            ("/CPU:0", "/device:CPU:0"),
            ("gpu:0", "/device:GPU:0"),
            ("/cpu", "/device:CPU:*"),
            ("/gpu:*", "/device:GPU:*"),
            ("/device:gpu:*", "/device:GPU:*"),
            ("/device:GPU", "/device:GPU:*"),
            ("/device:*:2", "/device:*:2"),
            ("/device:*", ""),
            ("/device:xla_cpu:0", "/device:XLA_CPU:0"),
            ("/task:0/job:ps", "/job:ps/task:0"),
            ("/job:*/task:*", ""),
            ("/job:my_job-2/cpu:0", "/job:my_job-2/device:CPU:0"),
            ("", ""),
        ] {
            assert_eq!(device(text).to_string(), canonical, "{text}");
            assert_eq!(device(canonical), device(text), "{text}");
        }
    }

    #[test]
    fn a_malformed_name_is_refused_by_its_part_and_with_an_example() {
        for (text, part) in [
            ("/jobb:ps", "\"jobb:ps\""),
            ("/job:ps/task:x", "\"x\""),
            ("/task:-1", "\"-1\""),
            ("/task:+1", "\"+1\""),
            ("/task:4294967296", "\"4294967296\""),
            ("/replica:", "\"replica:\""),
            ("/job", "\"job\""),
            ("/job:1st", "\"1st\""),
            ("/job:a/job:b", "job is named twice"),
            ("/cpu:0/gpu:0", "device is named twice"),
            ("/device:CPU:0:1", "\"device:CPU:0:1\""),
            ("/device", "\"device\""),
            ("/device:", "kind of device"),
            ("/device:CPU:one", "\"one\""),
            ("/tpu:0", "\"tpu:0\""),
        ] {
            let e = text.parse::<DeviceName>().unwrap_err();
            assert_eq!(e.code(), crate::Code::InvalidArgument);
            assert!(e.message().contains(part), "{text}: {e}");
            assert!(e.message().contains("/job:ps/replica:0/task:1/device:CPU:0"), "{e}");
        }
    }

    #[test]
    fn inner_parts_win_and_others_are_inherited() {
        assert_eq!(merged("/job:ps/task:1", "/cpu:0"), "/job:ps/task:1/device:CPU:0");
        assert_eq!(
            merged("/job:ps/device:CPU:0", "/task:2/device:CPU:1"),
            "/job:ps/task:2/device:CPU:1"
        );
        assert_eq!(merged("/job:ps", "/job:worker"), "/job:worker");
        assert_eq!(merged("/gpu:1", "/cpu"), "/device:CPU:*");
        assert_eq!(merged("/gpu:1", ""), "/device:GPU:1");
    }

    #[test]
    fn a_partial_name_accepts_what_has_its_parts() {
        let full = device("/job:ps/replica:0/task:1/device:CPU:0");
        for yes in [
            "",
            "/job:ps",
            "/task:1",
            "/cpu:0",
            "/cpu:*",
            "/replica:0",
            "/device:*:0",
        ] {
            assert!(device(yes).accepts(&full), "{yes}");
        }
        for no in [
            "/job:worker",
            "/task:0",
            "/cpu:1",
            "/gpu:0",
            "/replica:1",
            "/job:ps/task:0",
        ] {
            assert!(!device(no).accepts(&full), "{no}");
        }
        assert!(device("/replica:0").accepts(&device("/job:ps/task:1/cpu:0")));
    }

    #[test]
    fn a_full_name_says_its_task() {
        let full = device("/job:ps/task:1/cpu:0");
        assert!(full.is_full() && !device("/job:ps/task:1").is_full());
        let task = full.task().unwrap();
        assert_eq!(task.to_string(), "/job:ps/task:1");
        assert_eq!(device("/job:ps").task(), None);
        let gpu = DeviceName::of_task(&task, "gpu", 2).unwrap();
        assert_eq!(gpu.to_string(), "/job:ps/replica:0/task:1/device:GPU:2");
        assert!(DeviceName::of_task(&task, "g/p", 2).is_err());
    }

    #[test]
    fn tasks_have_a_long_and_two_short_spellings() {
        for text in [
            "/job:ps/task:3",
            "job:ps/task:3",
            "ps:3",
            "ps/3",
            "/job:ps/replica:0/task:3",
        ] {
            let task: TaskName = text.parse().unwrap();
            assert_eq!(task, TaskName::new("ps", 3).unwrap(), "{text}");
        }
        for text in [
            "",
            "ps",
            "ps:",
            "ps:x",
            ":0",
            "/0",
            "1:0",
            "/job:ps",
            "/job:ps/task:0/cpu:0",
            "job:0",
        ] {
            let e = text.parse::<TaskName>().unwrap_err();
            assert!(e.message().contains("\"ps:0\""), "{text}: {e}");
        }
        assert!("/job:ps/replica:1/task:3".parse::<TaskName>().is_err());
        assert!(TaskName::new("a/b", 0).is_err());
    }
}
