//! What a daemon says of itself over HTTP: probes, and numbers in Prometheus' text format (version 0.0.4).

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use actorflow::cluster::identity::Identity;
use actorflow::cluster::{Counters, Server, ServerStatus, TaskName};

use super::http::Answer;

/// What is known of the daemon, beside its server's status.
pub(crate) struct Vitals {
    server: Weak<Server>,
    cluster: String,
    /// When the certificate ends, in seconds since 1970.
    not_after: AtomicU64,
    revoked: AtomicU64,
    leaving: AtomicBool,
    started: Instant,
}

fn seconds(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Vitals {
    pub(crate) fn new(server: &Arc<Server>, identity: &Identity) -> Vitals {
        let vitals = Vitals {
            server: Arc::downgrade(server),
            cluster: identity.cluster().to_owned(),
            not_after: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            started: Instant::now(),
        };
        vitals.renewed(identity);
        vitals
    }

    /// Another certificate or list of revocations is used.
    pub(crate) fn renewed(&self, identity: &Identity) {
        self.not_after.store(seconds(identity.not_after()), Ordering::Relaxed);
        self.revoked
            .store(identity.revocations().len() as u64, Ordering::Relaxed);
    }

    /// The daemon is ending and takes no more work.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Seconds until the certificate ends; negative after.
    fn certificate_left(&self) -> i64 {
        let (end, now) = (self.not_after.load(Ordering::Relaxed), seconds(SystemTime::now()));
        i64::try_from(end)
            .unwrap_or(i64::MAX)
            .saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// Why the daemon takes no work, if it does not.
    fn unready(&self) -> Option<&'static str> {
        if self.leaving.load(Ordering::Relaxed) || self.server.strong_count() == 0 {
            Some("ending")
        } else if self.certificate_left() <= 0 {
            Some("the certificate has expired; join the cluster again")
        } else {
            None
        }
    }
}

/// The page of a path.
pub(crate) fn page(vitals: &Vitals, path: &str) -> Option<Answer> {
    match path {
        "/healthz" => Some(Answer::text(200, "ok")),
        "/readyz" => Some(match vitals.unready() {
            None => Answer::text(200, "ready"),
            Some(why) => Answer::text(503, why),
        }),
        "/metrics" => {
            let Some(server) = vitals.server.upgrade() else {
                return Some(Answer::text(503, "ending"));
            };
            let numbers = Numbers {
                cluster: &vitals.cluster,
                task: server.task(),
                others: server
                    .spec()
                    .tasks()
                    .map(|(t, _)| t)
                    .filter(|t| t != server.task())
                    .collect(),
                uptime: vitals.started.elapsed().as_secs_f64(),
                certificate: vitals.certificate_left(),
                revoked: vitals.revoked.load(Ordering::Relaxed),
                status: server.status(),
                wire: server.counters().unwrap_or_default(),
            };
            Some(Answer {
                status: 200,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: numbers.text(),
            })
        }
        _ => None,
    }
}

struct Numbers<'a> {
    cluster: &'a str,
    task: &'a TaskName,
    others: Vec<TaskName>,
    uptime: f64,
    certificate: i64,
    revoked: u64,
    status: ServerStatus,
    wire: Counters,
}

/// A family of metrics under way.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string does not fail.
        let _ = write!(
            self.0,
            "# HELP actorflow_{name} {help}\n# TYPE actorflow_{name} {kind}\n"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.0, "actorflow_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Numbers<'_> {
    fn text(&self) -> String {
        let mut p = Page(String::with_capacity(8 << 10));
        let s = &self.status;
        let task = self.task.to_string();
        p.family("build_info", "gauge", "What runs; always 1.");
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("cluster", self.cluster),
            ("task", &task),
        ];
        p.sample("build_info", &labels, 1);
        p.one("uptime_seconds", "gauge", "Since the daemon started.", self.uptime);
        p.one(
            "cluster_epoch",
            "gauge",
            "The cluster's epoch that the task is in.",
            self.status.epoch,
        );
        p.one("steps_total", "counter", "Steps that have begun here.", s.begun);
        p.one("steps_in_progress", "gauge", "Steps in progress here.", s.steps);
        p.one(
            "remote_steps_in_progress",
            "gauge",
            "Of these, those that other processes began.",
            s.remote_steps,
        );
        p.one("plans", "gauge", "Plans that coordinators have registered.", s.plans);
        p.family("task_connected", "gauge", "Whether another task is connected.");
        for t in &self.others {
            let name = t.to_string();
            let up = u8::from(s.connected.contains(&name));
            p.sample("task_connected", &[("peer", &name)], up);
        }
        p.family("memory_used_bytes", "gauge", "Bytes that tensors of a device take.");
        for d in &s.devices {
            p.sample("memory_used_bytes", &[("device", &d.name)], d.used);
        }
        p.family(
            "memory_budget_bytes",
            "gauge",
            "The most bytes that they may take; +Inf without a limit.",
        );
        for d in &s.devices {
            let limited = usize::try_from(d.memory).is_ok_and(|m| m < usize::MAX);
            let budget = if limited {
                d.memory.to_string()
            } else {
                "+Inf".to_owned()
            };
            p.sample("memory_budget_bytes", &[("device", &d.name)], budget);
        }
        p.family("dropped_values_total", "counter", "Tensors that came and were dropped.");
        for (reason, n) in [("late", s.late), ("foreign", s.foreign), ("orphaned", s.orphaned)] {
            p.sample("dropped_values_total", &[("reason", reason)], n);
        }
        p.one(
            "certificate_expiry_seconds",
            "gauge",
            "Until the certificate ends.",
            self.certificate,
        );
        p.one(
            "revoked_certificates",
            "gauge",
            "Certificates of the cluster that are refused.",
            self.revoked,
        );
        self.wire(&mut p);
        p.0
    }

    fn wire(&self, p: &mut Page) {
        let c = &self.wire;
        for (name, help, n) in [
            ("bytes_sent", "Bytes of frames sent.", c.bytes_sent),
            ("bytes_received", "Bytes of frames received.", c.bytes_received),
            ("frames_sent", "Frames sent.", c.frames_sent),
            ("frames_received", "Frames received.", c.frames_received),
            ("datagrams_sent", "Datagrams sent.", c.datagrams_sent),
            ("datagrams_received", "Datagrams received.", c.datagrams_received),
            (
                "stripes",
                "Connections that carry large tensors beside the first one with their peer.",
                c.stripes,
            ),
            ("datagrams_lost", "Datagrams sent and lost.", c.datagrams_lost),
            ("connections", "Connections whose peer became known.", c.connected),
            ("connections_lost", "Connections lost after that.", c.lost),
            ("handshakes_refused", "Handshakes refused.", c.handshakes_refused),
            (
                "fenced",
                "Connections of older incarnations that were closed.",
                c.fenced,
            ),
            (
                "stale_incarnation",
                "Frames of older incarnations dropped.",
                c.stale_incarnation,
            ),
            ("stale_epoch", "Frames of older epochs dropped.", c.stale_epoch),
            ("late_answers", "Answers that nobody waited for.", c.late_answers),
            (
                "deadlines_exceeded",
                "Requests that ran into their deadline.",
                c.deadlines_exceeded,
            ),
            ("unsent", "Messages that were never sent.", c.unsent),
            ("malformed", "Connections closed for a malformed frame.", c.malformed),
            (
                "oversized",
                "Connections closed for a frame beyond a limit.",
                c.oversized,
            ),
            ("parked", "Messages that waited for room at their receiver.", c.parked),
        ] {
            p.one(&format!("wire_{name}_total"), "counter", help, n);
        }
    }
}

#[cfg(test)]
mod tests {
    use actorflow::cluster::DeviceStatus;

    use super::*;

    fn numbers(task: &TaskName) -> Numbers<'_> {
        let device = |name: &str, memory| DeviceStatus {
            name: name.to_owned(),
            memory,
            used: 7,
            threads: 1,
        };
        Numbers {
            cluster: "demo\"",
            task,
            others: vec![TaskName::new("worker", 0).unwrap(), TaskName::new("worker", 1).unwrap()],
            uptime: 1.5,
            certificate: -3,
            revoked: 2,
            status: ServerStatus {
                epoch: 3,
                plans: 1,
                steps: 2,
                remote_steps: 1,
                begun: 40,
                connected: vec!["/job:worker/task:1".to_owned()],
                late: 3,
                foreign: 0,
                orphaned: 0,
                memory: 14,
                devices: vec![device("a", 100), device("b", u64::MAX)],
            },
            wire: Counters {
                bytes_sent: 99,
                ..Counters::default()
            },
        }
    }

    #[test]
    fn the_numbers_are_prometheus_text() {
        let task = TaskName::new("ps", 0).unwrap();
        let text = numbers(&task).text();
        for line in [
            "actorflow_steps_total 40",
            "actorflow_task_connected{peer=\"/job:worker/task:0\"} 0",
            "actorflow_task_connected{peer=\"/job:worker/task:1\"} 1",
            "actorflow_memory_budget_bytes{device=\"a\"} 100",
            "actorflow_memory_budget_bytes{device=\"b\"} +Inf",
            "actorflow_dropped_values_total{reason=\"late\"} 3",
            "actorflow_certificate_expiry_seconds -3",
            "actorflow_wire_bytes_sent_total 99",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("cluster=\"demo\\\"\""), "{text}");
        // Every sample follows the type of its family.
        let mut family = String::new();
        for line in text.lines() {
            if let Some(of) = line.strip_prefix("# TYPE ") {
                family = of.split(' ').next().unwrap().to_owned();
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, family, "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
    }
}
