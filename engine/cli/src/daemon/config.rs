//! What a daemon is told: flags, a file, and TensorFlow's environment variable, in this order of precedence.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actorflow::cluster::identity::Subject;
use actorflow::cluster::{ClusterConfig, ClusterSpec, TF_CONFIG, TaskName};
use serde::Deserialize;

use super::Args;
use super::log::{Format, Level};
use crate::cluster::check_addr;
use crate::failure::Failure;
use crate::limits::{self, Amount, PeerLimits};
use crate::{home, units};

/// The file. Every key is a flag, too.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    cluster: Option<toml::Value>,
    job: Option<String>,
    task: Option<u32>,
    identity: Option<PathBuf>,
    bind: Option<String>,
    memory: Option<Amount>,
    #[serde(default)]
    limits: BTreeMap<String, Amount>,
    threads: Option<usize>,
    devices: Option<usize>,
    submitters: Option<Vec<String>>,
    #[serde(default)]
    allow_dir: Vec<String>,
    authority: Option<PathBuf>,
    join_address: Option<String>,
    authority_address: Option<String>,
    metrics: Option<String>,
    metrics_anywhere: Option<bool>,
    epoch: Option<u64>,
    grace: Option<String>,
    log_level: Option<Level>,
    log_format: Option<Format>,
}

/// What a daemon does.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) spec: ClusterSpec,
    pub(crate) task: TaskName,
    pub(crate) identity: PathBuf,
    pub(crate) bind: Option<SocketAddr>,
    /// Bytes of each device; `None`: any number.
    pub(crate) memory: Option<usize>,
    /// What a peer may use.
    pub(crate) limits: PeerLimits,
    pub(crate) threads: Option<usize>,
    pub(crate) devices: usize,
    pub(crate) submitters: Option<Vec<String>>,
    /// The directories under which graphs may touch files.
    pub(crate) allow_dir: Vec<String>,
    /// The authority's directory, where its service is hosted, with the address to serve it at.
    pub(crate) authority: Option<(PathBuf, SocketAddr)>,
    /// Where the certificate is renewed, if the service is elsewhere.
    pub(crate) authority_address: Option<String>,
    pub(crate) metrics: Option<SocketAddr>,
    /// The epoch that the task is in at least.
    pub(crate) epoch: u64,
    pub(crate) grace: Duration,
    pub(crate) level: Level,
    pub(crate) format: Format,
}

/// Where the authority's service is by default.
pub(crate) const JOIN_PORT: u16 = 2200;

/// A setting with the place that it comes from.
struct Setting<T> {
    value: T,
    origin: String,
}

impl<T> Setting<T> {
    /// Reads the value, blaming the place for what is wrong with it.
    fn read<R>(self, read: impl FnOnce(T) -> Result<R, String>) -> Result<R, Failure> {
        read(self.value).map_err(|e| Failure::Usage(format!("{}: {e}", self.origin)))
    }
}

/// What is needed to blame a place.
struct Places<'a> {
    file: Option<&'a Path>,
}

impl Places<'_> {
    /// A flag before the file's key of the same name.
    fn choose<T>(&self, name: &str, flag: Option<T>, key: Option<T>) -> Option<Setting<T>> {
        match (flag, key) {
            (Some(value), _) => Some(Setting {
                value,
                origin: format!("--{name}"),
            }),
            (None, Some(value)) => Some(Setting {
                value,
                origin: self.key(name),
            }),
            (None, None) => None,
        }
    }

    fn key(&self, name: &str) -> String {
        match self.file {
            Some(file) => format!("{}: key `{name}`", file.display()),
            None => format!("--{name}"),
        }
    }
}

impl Config {
    /// Puts the configuration together.
    ///
    /// # Errors
    /// A wrong use, naming file, key and cure.
    pub(crate) fn resolve(args: &Args) -> Result<Config, Failure> {
        Self::resolve_in(args, &ClusterConfig::from_env)
    }

    fn resolve_in(
        args: &Args,
        environment: &dyn Fn() -> actorflow::Result<Option<ClusterConfig>>,
    ) -> Result<Config, Failure> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let places = Places {
            file: args.config.as_deref(),
        };
        // Paths in the file are meant from the file's folder.
        let folder = args.config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let usage = |e: actorflow::Error| Failure::Usage(e.to_string());

        let told = match (&args.cluster, &file.cluster) {
            (Some(text), _) => Some(flag_cluster(text)?),
            (None, Some(value)) => Some(file_cluster(value, folder, &places.key("cluster"))?),
            (None, None) => None,
        };
        // Looked at only for what neither flags nor the file say.
        let looked = OnceCell::new();
        let fallback = || -> Result<&ClusterConfig, Failure> {
            let found = looked.get_or_init(|| environment().map(Option::unwrap_or_default));
            found.as_ref().map_err(|e| usage(e.clone()))
        };
        let spec = match told {
            Some(spec) => spec,
            None => fallback()?.cluster.clone().ok_or_else(|| {
                Failure::Usage(format!(
                    "nothing says which tasks the cluster has; give --cluster FILE or JSON such as \
                     '{{\"ps\": [\"host:2222\"]}}', the key `cluster` of a --config file, or {TF_CONFIG}"
                ))
            })?,
        };
        if spec.tasks().next().is_none() {
            return Err(Failure::Usage(
                "the cluster has no tasks; write them as in '{\"ps\": [\"host:2222\"]}'".into(),
            ));
        }
        let job = match args.job.clone().or(file.job) {
            Some(job) => Some(job),
            None => fallback()?.task.as_ref().map(|t| t.job.to_string()),
        };
        let job = job.ok_or_else(|| {
            let jobs: Vec<&str> = spec.jobs().collect();
            Failure::Usage(format!(
                "nothing says which task this is; give --job, one of {}",
                jobs.join(", ")
            ))
        })?;
        // Without a number, the only task of its job is meant; or else that of the variable, if it is of the same job.
        let index = match args.task.or(file.task) {
            Some(index) => Some(index),
            None if looked.get().is_none() && spec.num_tasks(&job) <= 1 => None,
            None => fallback()?.task.as_ref().filter(|t| *t.job == *job).map(|t| t.index),
        };
        let index = match index {
            Some(index) => index,
            None if spec.num_tasks(&job) <= 1 => 0,
            None => {
                return Err(Failure::Usage(format!(
                    "job {job} has {} tasks; say with --task which one this is",
                    spec.num_tasks(&job)
                )));
            }
        };
        let task = TaskName::new(&job, index).map_err(usage)?;
        spec.address(&task).map_err(usage)?;

        let subject = Subject::Task {
            job: job.clone(),
            index,
        };
        let identity = match (args.identity.clone(), file.identity.map(|p| folder.join(p))) {
            (Some(dir), _) | (None, Some(dir)) => dir,
            (None, None) => home::member_dir(&subject).map_err(usage)?,
        };
        let address = |name: &str, flag: &Option<String>, key: Option<String>| {
            let setting = places.choose(name, flag.clone(), key);
            setting.map(|s| s.read(|text| socket(&text))).transpose()
        };
        let bind = address("bind", &args.bind, file.bind)?;
        let join_address = address("join-address", &args.join_address, file.join_address)?;
        let authority = args.authority.clone().or(file.authority.map(|p| folder.join(p)));
        if authority.is_none() && join_address.is_some() {
            return Err(Failure::Usage(
                "a join address without an authority; give --authority DIR, which `actorflow cluster init` makes"
                    .into(),
            ));
        }
        let authority = authority.map(|dir| {
            let everywhere: SocketAddr = (std::net::Ipv4Addr::UNSPECIFIED, JOIN_PORT).into();
            (dir, join_address.unwrap_or(everywhere))
        });
        let memory = places.choose("memory", args.memory.clone().map(Amount::Text), file.memory);
        let limits = limits::resolve(&args.limit, &file.limits, &places.key("limits")).map_err(Failure::Usage)?;
        let counted = |name: &str, flag: Option<usize>, key: Option<usize>, most: usize| {
            let setting = places.choose(name, flag, key);
            setting
                .map(|s| {
                    s.read(|n| match n {
                        n if (1..=most).contains(&n) => Ok(n),
                        n => Err(format!("{n} is not in 1 to {most}")),
                    })
                })
                .transpose()
        };
        let metrics = places.choose("metrics", args.metrics.clone(), file.metrics);
        let anywhere = args.metrics_anywhere || file.metrics_anywhere.unwrap_or(false);
        let epoch = places.choose("epoch", args.epoch, file.epoch);
        let authority_address = places
            .choose(
                "authority-address",
                args.authority_address.clone(),
                file.authority_address,
            )
            .map(|s| s.read(|addr| check_addr(&addr).map(|()| addr)))
            .transpose()?;
        let submitters = places
            .choose("submitters", args.submitters.clone(), file.submitters)
            .map(|s| s.read(|jobs| submitting(jobs, &spec)))
            .transpose()?;
        let grace = places.choose("grace", args.grace.clone(), file.grace);
        Ok(Config {
            task,
            identity,
            bind,
            memory: memory.map(|s| s.read(|size| size.bytes())).transpose()?,
            limits,
            threads: counted("threads", args.threads, file.threads, 4096)?,
            devices: counted("devices", args.devices, file.devices, 64)?.unwrap_or(1),
            submitters,
            allow_dir: match args.allow_dir.is_empty() {
                true => {
                    let from_folder = |dir: &String| match folder.join(dir).into_os_string().into_string() {
                        Ok(dir) => Ok(dir),
                        Err(_) => Err(Failure::Usage(format!(
                            "{}: {dir:?} is in a folder whose name is not UTF-8; write the whole path",
                            places.key("allow-dir")
                        ))),
                    };
                    file.allow_dir.iter().map(from_folder).collect::<Result<_, _>>()?
                }
                false => args.allow_dir.clone(),
            },
            authority,
            authority_address,
            metrics: match metrics {
                Some(s) => s.read(|text| metrics_address(&text, anywhere))?,
                None => None,
            },
            epoch: match epoch {
                Some(s) => s.read(|n| match n {
                    0 => Err("the first epoch is 1".to_owned()),
                    n => Ok(n),
                })?,
                None => 1,
            },
            grace: match grace {
                Some(s) => s.read(|text| units::time(&text))?,
                None => Duration::from_secs(5),
            },
            level: args.log_level.or(file.log_level).unwrap_or_default(),
            format: args.log_format.or(file.log_format).unwrap_or_default(),
            spec,
        })
    }
}

fn read(path: &Path) -> Result<File, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))?;
    toml::from_str(&text).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))
}

/// A cluster on the command line: JSON, or a file with it.
pub(crate) fn flag_cluster(text: &str) -> Result<ClusterSpec, Failure> {
    let read = match text.trim_start().starts_with('{') {
        true => ClusterSpec::from_json(text),
        false => ClusterSpec::from_file(text),
    };
    read.map_err(|e| Failure::Usage(format!("--cluster: {e}")))
}

/// A cluster in the file: a table of jobs, or the name of another file.
fn file_cluster(value: &toml::Value, folder: &Path, origin: &str) -> Result<ClusterSpec, Failure> {
    let read = match value {
        toml::Value::String(file) => ClusterSpec::from_file(folder.join(file)),
        table => ClusterSpec::from_json(&serde_json::to_string(table)?),
    };
    read.map_err(|e| Failure::Usage(format!("{origin}: {e}")))
}

/// The jobs whose tasks may submit graphs, which the cluster must have.
fn submitting(jobs: Vec<String>, spec: &ClusterSpec) -> Result<Vec<String>, String> {
    // None at all is an empty text on a command line.
    let jobs: Vec<String> = jobs.into_iter().filter(|job| !job.is_empty()).collect();
    let known: Vec<&str> = spec.jobs().collect();
    match jobs.iter().find(|job| !known.contains(&job.as_str())) {
        Some(unknown) => Err(format!(
            "the cluster has no job {unknown:?}; name jobs of {}, with commas between them",
            known.join(", ")
        )),
        None => Ok(jobs),
    }
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no address to listen at; write one such as 0.0.0.0:2222 or [::]:2222"))
}

/// Where metrics are served; `None` for `off`.
fn metrics_address(text: &str, anywhere: bool) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let addr = socket(text)?;
    if !addr.ip().is_loopback() && !anywhere {
        return Err(format!(
            "{addr} can be reached from other machines, by anybody and unencrypted; serve metrics at 127.0.0.1, or allow it \
             with --metrics-anywhere"
        ));
    }
    Ok(Some(addr))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    const JSON: &str = r#"{"ps": ["a:1"], "worker": ["b:2", "c:3"]}"#;

    fn resolve(args: &[&str]) -> Result<Config, String> {
        resolve_with(args, None)
    }

    fn resolve_with(args: &[&str], environment: Option<&str>) -> Result<Config, String> {
        let cli = Cli::try_parse_from([&["actorflow"], args].concat()).map_err(|e| e.to_string())?;
        Config::resolve_in(&cli.args, &|| environment.map(ClusterConfig::from_json).transpose()).map_err(|f| match f {
            Failure::Usage(m) => m,
            other => panic!("{other:?} is no wrong use"),
        })
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        (dir, path)
    }

    #[test]
    fn a_file_says_everything_and_flags_say_it_louder() {
        let (dir, path) = file(
            r#"
            cluster = { ps = ["a:1"], worker = ["b:2", "c:3"] }
            job = "worker"
            task = 1
            identity = "me"
            bind = "0.0.0.0:3"
            memory = "1GiB"
            threads = 3
            devices = 2
            submitters = []
            authority-address = "a:2200"
            metrics = "127.0.0.1:9100"
            grace = "10s"
            epoch = 4
            log-level = "debug"
            log-format = "json"
            "#,
        );
        let c = resolve(&["--config", &path, "--threads", "5", "--task", "0"]).unwrap();
        assert_eq!(c.task.to_string(), "/job:worker/task:0");
        assert_eq!(c.identity, dir.path().join("me"));
        assert_eq!((c.threads, c.devices, c.memory), (Some(5), 2, Some(1 << 30)));
        assert_eq!(
            (c.submitters, c.level, c.format),
            (Some(vec![]), Level::Debug, Format::Json)
        );
        let flags = |jobs: &str| resolve(&["--config", &path, "--submitters", jobs]).unwrap().submitters;
        assert_eq!(flags(""), Some(vec![]));
        assert_eq!(flags("ps,worker"), Some(vec!["ps".to_owned(), "worker".to_owned()]));
        assert_eq!(c.metrics, "127.0.0.1:9100".parse().ok());
        assert_eq!((c.grace, c.epoch), (Duration::from_secs(10), 4));
        assert_eq!(c.bind, "0.0.0.0:3".parse().ok());
    }

    #[test]
    fn the_cluster_may_be_in_a_file_of_its_own() {
        let (dir, path) = file("cluster = 'cluster.json'\njob = 'ps'");
        std::fs::write(dir.path().join("cluster.json"), JSON).unwrap();
        assert_eq!(resolve(&["--config", &path]).unwrap().spec.num_tasks("worker"), 2);
        let json = dir.path().join("cluster.json").display().to_string();
        assert_eq!(resolve(&["--cluster", &json, "--job", "ps"]).unwrap().task.index, 0);
    }

    #[test]
    fn tensorflows_variable_is_the_last_resort() {
        let me = r#""task": {"type": "worker", "index": 1}"#;
        let both = format!(r#"{{"cluster": {JSON}, {me}}}"#);
        let c = resolve_with(&[], Some(&both)).unwrap();
        assert_eq!(c.task.to_string(), "/job:worker/task:1");
        let c = resolve_with(&["--cluster", r#"{"ps": ["z:9"]}"#, "--job", "ps"], Some(&both)).unwrap();
        assert_eq!(c.spec.to_string(), "/job:ps/task:0 at z:9");
        // Each of the two fills in what flags leave out.
        let c = resolve_with(&["--job", "ps"], Some(&format!(r#"{{"cluster": {JSON}}}"#))).unwrap();
        assert_eq!(c.task.to_string(), "/job:ps/task:0");
        let only_task = format!("{{{me}}}");
        let c = resolve_with(&["--cluster", JSON], Some(&only_task)).unwrap();
        assert_eq!(c.task.to_string(), "/job:worker/task:1");
        let c = resolve_with(&["--cluster", JSON, "--job", "worker"], Some(&only_task)).unwrap();
        assert_eq!(c.task.index, 1);
        let c = resolve_with(&["--task", "0"], Some(&both)).unwrap();
        assert_eq!(c.task.to_string(), "/job:worker/task:0");
        // The number is that of its job.
        let c = resolve_with(&["--job", "ps"], Some(&both)).unwrap();
        assert_eq!(c.task.to_string(), "/job:ps/task:0");
        // What nothing is asked of may be anything.
        assert!(resolve_with(&["--cluster", JSON, "--job", "ps"], Some("{")).is_ok());
        let e = resolve_with(&["--cluster", JSON], Some("{")).unwrap_err();
        assert!(e.contains("the cluster is described by JSON"), "{e}");
        let e = resolve_with(&[], Some(&only_task)).unwrap_err();
        assert!(e.contains("which tasks the cluster has"), "{e}");
    }

    #[test]
    fn directories_of_a_file_are_meant_from_its_folder() {
        let (dir, path) = file("cluster = { ps = ['a:1'] }\njob = 'ps'\nallow-dir = ['data', 'more:ro', '/elsewhere']");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let c = resolve(&["--config", &path]).unwrap();
        assert_eq!(c.allow_dir, [at("data"), at("more:ro"), "/elsewhere".to_owned()]);
        let c = resolve(&["--config", &path, "--allow-dir", "here"]).unwrap();
        assert_eq!(c.allow_dir, ["here"]);
    }

    #[test]
    fn the_file_in_the_guide_is_one() {
        let guide = include_str!("../../../../docs/cluster.md");
        let text = guide.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let (dir, path) = file(text);
        let c = resolve(&["--config", &path]).unwrap();
        assert_eq!(c.task.to_string(), "/job:ps/task:0");
        assert_eq!(c.submitters, Some(vec!["worker".to_owned()]));
        assert_eq!(c.authority_address.as_deref(), Some("alpha:2200"));
        assert_eq!(c.metrics, "0.0.0.0:9100".parse().ok());
        let data = dir.path().join("data").display().to_string();
        assert_eq!(c.allow_dir, [data, "/srv/images:ro".to_owned()]);
    }

    #[test]
    fn errors_name_file_key_and_cure() {
        let cluster = "cluster = { ps = ['a:1'] }\njob = 'ps'\n";
        for (text, parts) in [
            ("memory = '4 apples'", ["daemon.toml: key `memory`", "512MiB"]),
            ("threads = 0", ["daemon.toml: key `threads`", "1 to 4096"]),
            ("bind = 'here'", ["daemon.toml: key `bind`", "0.0.0.0:2222"]),
            (
                "metrics = '0.0.0.0:9'",
                ["daemon.toml: key `metrics`", "--metrics-anywhere"],
            ),
            ("colour = 'red'", ["daemon.toml", "colour"]),
            ("log-level = 'loud'", ["daemon.toml", "loud"]),
            (
                "submitters = ['a b']",
                ["daemon.toml: key `submitters`", "no job \"a b\""],
            ),
            (
                "authority-address = 'nonsense'",
                ["daemon.toml: key `authority-address`", "host:port"],
            ),
            ("task = 7", ["no task /job:ps/task:7", "/job:ps/task:0"]),
            ("limits = { tensors = 1 }", ["daemon.toml: key `limits`", "graph-nodes"]),
            (
                "[limits]\ntensor = '1 apple'",
                ["daemon.toml: key `limits`: tensor", "512MiB"],
            ),
            ("epoch = 0", ["daemon.toml: key `epoch`", "is 1"]),
            ("join-address = '0.0.0.0:1'", ["--authority", "cluster init"]),
        ] {
            let (_dir, path) = file(&format!("{cluster}{text}"));
            let e = resolve(&["--config", &path]).unwrap_err();
            assert!(parts.iter().all(|p| e.contains(p)), "{text}: {e}");
        }
        let e = resolve(&[]).unwrap_err();
        assert!(e.contains("--cluster") && e.contains("TF_CONFIG"), "{e}");
        let e = resolve(&["--cluster", JSON]).unwrap_err();
        assert!(e.contains("--job") && e.contains("ps, worker"), "{e}");
        let e = resolve(&["--cluster", JSON, "--job", "worker"]).unwrap_err();
        assert!(e.contains("2 tasks") && e.contains("--task"), "{e}");
        let e = resolve(&["--cluster", r#"{"ps": []}"#, "--job", "ps"]).unwrap_err();
        assert!(e.contains("has no tasks"), "{e}");
        let e = resolve(&["--cluster", JSON, "--job", "ps", "--submitters", "worker,chef"]).unwrap_err();
        assert!(e.starts_with("--submitters: ") && e.contains("ps, worker"), "{e}");
        let e = resolve(&["--cluster", JSON, "--job", "ps", "--authority-address", "a"]).unwrap_err();
        assert!(e.starts_with("--authority-address: "), "{e}");
        let e = resolve(&["--config", "/no/such/file"]).unwrap_err();
        assert!(e.starts_with("/no/such/file: "), "{e}");
    }
}
