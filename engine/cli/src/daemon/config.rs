//! What a daemon is told: flags, a file, and TensorFlow's environment variable, in this order of precedence.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actorflow::cluster::identity::Subject;
use actorflow::cluster::{ClusterSpec, TF_CONFIG, TaskName};
use serde::Deserialize;

use super::Args;
use super::log::{Format, Level};
use crate::failure::Failure;
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
    memory: Option<Size>,
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
    grace: Option<String>,
    log_level: Option<Level>,
    log_format: Option<Format>,
}

/// A size is a number or a text with a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
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
        let environment = || std::env::var_os(TF_CONFIG).is_some().then(ClusterSpec::from_env);
        Self::resolve_in(args, &environment)
    }

    fn resolve_in(
        args: &Args,
        environment: &dyn Fn() -> Option<actorflow::Result<(ClusterSpec, TaskName)>>,
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
        let (spec, fallback) = match told {
            Some(spec) => (spec, None),
            None => match environment() {
                Some(told) => told.map(|(spec, task)| (spec, Some(task))).map_err(usage)?,
                None => {
                    return Err(Failure::Usage(format!(
                        "nothing says which tasks the cluster has; give --cluster FILE or JSON such as \
                         '{{\"ps\": [\"host:2222\"]}}', the key `cluster` of a --config file, or {TF_CONFIG}"
                    )));
                }
            },
        };
        let job = args
            .job
            .clone()
            .or(file.job)
            .or(fallback.as_ref().map(|t| t.job.to_string()));
        let job = job.ok_or_else(|| {
            let jobs: Vec<&str> = spec.jobs().collect();
            Failure::Usage(format!(
                "nothing says which task this is; give --job, one of {}",
                jobs.join(", ")
            ))
        })?;
        let index = args.task.or(file.task).or(fallback.as_ref().map(|t| t.index));
        // Without a number, the only task of its job is meant.
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
        let size = |s: Size| match s {
            Size::Bytes(n) => usize::try_from(n).map_err(|_| format!("{n} bytes are more than can be addressed")),
            Size::Text(text) => units::bytes(&text),
        };
        let memory = places.choose("memory", args.memory.clone().map(Size::Text), file.memory);
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
        let grace = places.choose("grace", args.grace.clone(), file.grace);
        Ok(Config {
            task,
            identity,
            bind,
            memory: memory.map(|s| s.read(size)).transpose()?,
            threads: counted("threads", args.threads, file.threads, 4096)?,
            devices: counted("devices", args.devices, file.devices, 64)?.unwrap_or(1),
            submitters: args.submitters.clone().or(file.submitters).map(|jobs| {
                // None at all is an empty text on a command line.
                jobs.into_iter().filter(|j| !j.is_empty()).collect()
            }),
            allow_dir: match args.allow_dir.is_empty() {
                true => file.allow_dir,
                false => args.allow_dir.clone(),
            },
            authority,
            authority_address: args.authority_address.clone().or(file.authority_address),
            metrics: match metrics {
                Some(s) => s.read(|text| metrics_address(&text, anywhere))?,
                None => None,
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

    fn resolve_with(args: &[&str], environment: Option<(ClusterSpec, TaskName)>) -> Result<Config, String> {
        let cli = Cli::try_parse_from([&["actorflow"], args].concat()).map_err(|e| e.to_string())?;
        Config::resolve_in(&cli.args, &|| environment.clone().map(Ok)).map_err(|f| match f {
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
        assert_eq!(c.grace, Duration::from_secs(10));
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
        let spec = ClusterSpec::from_json(JSON).unwrap();
        let me = (spec, TaskName::new("worker", 1).unwrap());
        let c = resolve_with(&[], Some(me.clone())).unwrap();
        assert_eq!(c.task.to_string(), "/job:worker/task:1");
        let c = resolve_with(&["--cluster", r#"{"ps": ["z:9"]}"#, "--job", "ps"], Some(me)).unwrap();
        assert_eq!(c.spec.to_string(), "/job:ps/task:0 at z:9");
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
            ("task = 7", ["no task /job:ps/task:7", "/job:ps/task:0"]),
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
        let e = resolve(&["--config", "/no/such/file"]).unwrap_err();
        assert!(e.starts_with("/no/such/file: "), "{e}");
    }
}
