//! What a peer may use of a task, by name: `--limit NAME=VALUE` and the table `[limits]` of a configuration file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::str::FromStr;

use actorflow::cluster::{Limits, ServerOptions};
use serde::Deserialize;

use crate::units;

/// A number, or a text with a unit.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Amount {
    /// As it is.
    Number(u64),
    /// To be read.
    Text(String),
}

impl Amount {
    /// As bytes.
    ///
    /// # Errors
    /// What is wrong with it, with an example.
    pub(crate) fn bytes(&self) -> Result<usize, String> {
        match self {
            Amount::Number(n) => usize::try_from(*n).map_err(|_| format!("{n} bytes are more than can be addressed")),
            Amount::Text(text) => units::bytes(text),
        }
    }

    fn count(&self) -> Result<usize, String> {
        match self {
            Amount::Number(n) => usize::try_from(*n).map_err(|_| format!("{n} is more than can be counted")),
            Amount::Text(text) => {
                let read = text.trim().parse();
                read.map_err(|_| format!("{text:?} is no number; write one such as 1000"))
            }
        }
    }
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Count,
}

/// All limits that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerLimits {
    wire: Limits,
    /// Bytes of the part of a graph for a task.
    graph: usize,
    /// Its nodes.
    graph_nodes: usize,
}

/// A limit that can be set.
struct Limit {
    name: &'static str,
    unit: Unit,
    least: usize,
    most: usize,
    about: &'static str,
    of: fn(&mut PeerLimits) -> &mut usize,
}

const MIB: usize = 1 << 20;
const ANY: usize = 1 << 50;

/// In the order of the help. The least values leave room for what a connection needs to be one: its hellos, and requests
/// as small as those of the commands that look at a cluster.
const ALL: [Limit; 20] = [
    limit("header", Unit::Bytes, 4096, 64 << 10, "a message's own header", |l| {
        &mut l.wire.header
    }),
    limit(
        "message",
        Unit::Bytes,
        64 << 10,
        ANY,
        "a message: header, graph and what is fed and fetched together",
        |l| &mut l.wire.message,
    ),
    limit(
        "graph",
        Unit::Bytes,
        1024,
        ANY,
        "a graph's part for a task, as it arrives and decoded",
        |l| &mut l.graph,
    ),
    limit("graph-nodes", Unit::Count, 1, ANY, "its nodes", |l| &mut l.graph_nodes),
    limit("tensor", Unit::Bytes, 4096, ANY, "one tensor", |l| &mut l.wire.tensor),
    limit(
        "in-flight-bytes",
        Unit::Bytes,
        4096,
        ANY,
        "tensors and large messages under way on a connection",
        |l| &mut l.wire.in_flight_bytes,
    ),
    limit("in-flight", Unit::Count, 1, ANY, "their number", |l| {
        &mut l.wire.in_flight
    }),
    limit(
        "unfinished",
        Unit::Bytes,
        MIB,
        ANY,
        "what has come of unfinished frames of one member",
        |l| &mut l.wire.unfinished,
    ),
    limit(
        "parked-bytes",
        Unit::Bytes,
        4096,
        ANY,
        "what waits here for room at a peer, while nobody waits for it",
        |l| &mut l.wire.parked_bytes,
    ),
    limit("parked", Unit::Count, 1, ANY, "its frames", |l| &mut l.wire.parked),
    limit(
        "early-bytes",
        Unit::Bytes,
        4096,
        ANY,
        "what waits of one member for steps that have not begun",
        |l| &mut l.wire.early_bytes,
    ),
    limit(
        "pending-requests",
        Unit::Count,
        1,
        ANY,
        "requests without an answer, in each direction",
        |l| &mut l.wire.pending_requests,
    ),
    limit(
        "streams",
        Unit::Count,
        2,
        MIB,
        "streams of large values that a connection has open",
        |l| &mut l.wire.streams,
    ),
    limit(
        "lanes",
        Unit::Count,
        0,
        MIB,
        "connections that share memory with a peer on this machine",
        |l| &mut l.wire.lanes,
    ),
    limit(
        "stripes",
        Unit::Count,
        0,
        64,
        "further connections to a peer on another machine, over which large tensors are spread",
        |l| &mut l.wire.stripes,
    ),
    limit("connections", Unit::Count, 1, ANY, "connections", |l| {
        &mut l.wire.connections
    }),
    limit(
        "connections-per-address",
        Unit::Count,
        1,
        ANY,
        "those of one address",
        |l| &mut l.wire.connections_per_address,
    ),
    limit(
        "connections-per-member",
        Unit::Count,
        1,
        ANY,
        "those of one member",
        |l| &mut l.wire.connections_per_member,
    ),
    limit("handshakes", Unit::Count, 1, ANY, "handshakes under way", |l| {
        &mut l.wire.handshakes
    }),
    limit(
        "handshakes-per-address",
        Unit::Count,
        1,
        ANY,
        "those with one address",
        |l| &mut l.wire.handshakes_per_address,
    ),
];

const fn limit(
    name: &'static str,
    unit: Unit,
    least: usize,
    most: usize,
    about: &'static str,
    of: fn(&mut PeerLimits) -> &mut usize,
) -> Limit {
    Limit {
        name,
        unit,
        least,
        most,
        about,
        of,
    }
}

impl Limit {
    fn named(name: &str) -> Result<&'static Limit, String> {
        ALL.iter().find(|l| l.name == name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|l| l.name).collect();
            format!("there is no limit {name:?}; there are {}", names.join(", "))
        })
    }

    /// The value as it is written.
    fn written(&self, value: usize) -> String {
        match self.unit {
            Unit::Count => value.to_string(),
            Unit::Bytes => exact(value),
        }
    }

    fn read(&self, amount: &Amount) -> Result<usize, String> {
        let value = match self.unit {
            Unit::Bytes => amount.bytes(),
            Unit::Count => amount.count(),
        };
        let value = value.map_err(|e| format!("{}: {e}", self.name))?;
        match (self.least..=self.most).contains(&value) {
            true => Ok(value),
            false => Err(format!(
                "{}: {} is not in {} to {}",
                self.name,
                self.written(value),
                self.written(self.least),
                self.written(self.most)
            )),
        }
    }
}

/// Bytes with the largest unit that says them exactly: `64KiB`.
fn exact(bytes: usize) -> String {
    const UNITS: [&str; 6] = ["", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut amount, mut unit) = (bytes, 0);
    while amount > 0 && amount % 1024 == 0 && unit + 1 < UNITS.len() {
        amount /= 1024;
        unit += 1;
    }
    format!("{amount}{}", UNITS[unit])
}

impl PeerLimits {
    /// The limits of a server that is told nothing.
    fn of_server(graph: usize, graph_nodes: usize) -> PeerLimits {
        PeerLimits {
            wire: Limits::default(),
            graph,
            graph_nodes,
        }
    }

    /// Has a server keep these limits.
    pub(crate) fn set(&self, options: &mut ServerOptions) {
        options.limits = self.wire;
        options.max_graph_bytes = self.graph;
        options.max_nodes = self.graph_nodes;
    }
}

impl Default for PeerLimits {
    fn default() -> PeerLimits {
        PeerLimits::of_server(ServerOptions::MAX_GRAPH_BYTES, ServerOptions::MAX_NODES)
    }
}

/// `NAME=VALUE` on a command line.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    limit: &'static str,
    value: usize,
}

impl FromStr for Told {
    type Err = String;

    fn from_str(text: &str) -> Result<Told, String> {
        let parts = text.split_once('=');
        let (name, value) = parts.ok_or_else(|| format!("{text:?} is no NAME=VALUE, such as tensor=64MiB"))?;
        let limit = Limit::named(name.trim())?;
        Ok(Told {
            limit: limit.name,
            value: limit.read(&Amount::Text(value.to_owned()))?,
        })
    }
}

impl std::fmt::Display for Told {
    /// As it is written on a command line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.limit, self.value)
    }
}

/// The limits of a file, and those of flags, which come first; `table` is what errors of the file's are blamed on.
///
/// # Errors
/// An unknown name, a value out of its range, and values that do not go together, with the cure.
pub(crate) fn resolve(flags: &[Told], file: &BTreeMap<String, Amount>, table: &str) -> Result<PeerLimits, String> {
    let mut set: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, amount) in file {
        let read = Limit::named(name).and_then(|l| Ok((l.name, l.read(amount)?)));
        let (name, value) = read.map_err(|e| format!("{table}: {e}"))?;
        set.insert(name, value);
    }
    set.extend(flags.iter().map(|t| (t.limit, t.value)));
    let mut limits = PeerLimits::default();
    for limit in &ALL {
        if let Some(value) = set.get(limit.name) {
            *(limit.of)(&mut limits) = *value;
        }
    }
    // What nobody has set follows what somebody has.
    let wire = &mut limits.wire;
    for (part, of, whole) in [
        (
            &mut wire.connections_per_address,
            "connections-per-address",
            wire.connections,
        ),
        (
            &mut wire.connections_per_member,
            "connections-per-member",
            wire.connections,
        ),
        (
            &mut wire.handshakes_per_address,
            "handshakes-per-address",
            wire.handshakes,
        ),
        (&mut limits.graph, "graph", wire.message),
    ] {
        if !set.contains_key(of) {
            *part = whole.min(*part);
        }
    }
    // A tensor that is moved into its buffer holds an eighth of it twice.
    let needed = wire.tensor.saturating_add(wire.tensor / 8);
    if !set.contains_key("unfinished") {
        wire.unfinished = wire.unfinished.max(needed);
    } else if wire.unfinished < needed {
        return Err(format!(
            "the limit unfinished, {}, is less than nine eighths of the limit tensor, {}: no tensor of that size would ever \
             come; raise unfinished to {}, or lower tensor",
            exact(wire.unfinished),
            exact(wire.tensor),
            exact(needed)
        ));
    }
    for (name, part, whole_name, whole) in [
        (
            "connections-per-address",
            wire.connections_per_address,
            "connections",
            wire.connections,
        ),
        (
            "connections-per-member",
            wire.connections_per_member,
            "connections",
            wire.connections,
        ),
        (
            "handshakes-per-address",
            wire.handshakes_per_address,
            "handshakes",
            wire.handshakes,
        ),
        ("graph", limits.graph, "message", wire.message),
    ] {
        if part > whole {
            return Err(format!(
                "the limit {name}, {part}, is more than the limit {whole_name}, {whole}, of which it is a part; raise \
                 {whole_name}, or lower {name}"
            ));
        }
    }
    Ok(limits)
}

/// What `--help` says about them.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "What one peer may use, as NAME=VALUE; may be given several times. In the file they are the table [limits]. With \
         --memory, what is more than the budget allows is less\n",
    );
    let mut defaults = PeerLimits::default();
    for l in &ALL {
        let default = l.written(*(l.of)(&mut defaults));
        // A text in memory takes whatever is written.
        let _ = write!(text, "\n  {:23}  {:>8}  {}", l.name, default, l.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(flags: &[&str]) -> Result<PeerLimits, String> {
        let flags: Result<Vec<Told>, String> = flags.iter().map(|f| f.parse()).collect();
        resolve(&flags?, &BTreeMap::new(), "[limits]")
    }

    #[test]
    fn without_a_word_limits_are_a_servers_own() {
        assert_eq!(told(&[]).unwrap(), PeerLimits::default());
    }

    #[test]
    fn every_limit_has_a_name_of_its_own_and_is_set_by_it() {
        for limit in &ALL {
            let mut before = PeerLimits::default();
            let default = *(limit.of)(&mut before);
            // Half of it would leave no room for a tensor.
            let value = match limit.name {
                "unfinished" => default * 2,
                _ => (default / 2).max(limit.least),
            };
            let mut after = told(&[&format!("{}={value}", limit.name)]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(*(limit.of)(&mut after), value, "{}", limit.name);
            let changed = ALL.iter().filter(|l| *(l.of)(&mut before) != *(l.of)(&mut after));
            let others: Vec<&str> = changed.map(|l| l.name).filter(|n| *n != limit.name).collect();
            assert!(
                others.iter().all(|o| o.starts_with(limit.name) || *o == "graph"),
                "{} sets {others:?}",
                limit.name
            );
        }
    }

    #[test]
    fn flags_are_louder_than_the_file() {
        let file = BTreeMap::from([
            ("tensor".to_owned(), Amount::Text("1MiB".into())),
            ("streams".to_owned(), Amount::Number(7)),
        ]);
        let flags = ["tensor=2MiB".parse().unwrap()];
        let l = resolve(&flags, &file, "f: [limits]").unwrap();
        assert_eq!((l.wire.tensor, l.wire.streams), (2 << 20, 7));
    }

    #[test]
    fn parts_of_a_smaller_whole_are_smaller() {
        let l = told(&["connections=10", "handshakes=3", "message=1MiB"]).unwrap();
        assert_eq!(
            (l.wire.connections_per_address, l.wire.connections_per_member),
            (10, 10)
        );
        assert_eq!((l.wire.handshakes_per_address, l.graph), (3, 1 << 20));
        assert!(told(&["tensor=64GiB"]).unwrap().wire.unfinished >= 72 << 30);
    }

    #[test]
    fn errors_name_the_limit_and_the_cure() {
        for (flags, parts) in [
            (
                &["tensors=1MiB"][..],
                ["no limit \"tensors\"", "handshakes-per-address"],
            ),
            (&["tensor"], ["tensor=64MiB", "NAME=VALUE"]),
            (&["tensor=4 apples"], ["tensor: ", "512MiB"]),
            (&["streams=some"], ["streams: ", "1000"]),
            (&["streams=1"], ["streams: 1 is not in 2 to", "1048576"]),
            (&["header=1MiB"], ["header: 1MiB is not in 4KiB", "64KiB"]),
            (&["header=-1"], ["header: ", "no size"]),
            (
                &["connections=5", "connections-per-member=6"],
                ["connections-per-member, 6", "lower"],
            ),
            (&["graph=2GiB"], ["limit message", "raise message"]),
            (&["unfinished=1GiB"], ["nine eighths", "lower tensor"]),
        ] {
            let e = told(flags).unwrap_err();
            assert!(parts.iter().all(|p| e.contains(p)), "{flags:?}: {e}");
        }
        let file = BTreeMap::from([("tensor".to_owned(), Amount::Number(1))]);
        let e = resolve(&[], &file, "d.toml: table `limits`").unwrap_err();
        assert!(e.starts_with("d.toml: table `limits`: tensor: 1 is not in 4KiB"), "{e}");
    }

    #[test]
    fn help_and_the_guide_list_every_limit_with_its_default() {
        let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
        let guide = std::fs::read_to_string(guide).unwrap();
        let mut defaults = PeerLimits::default();
        for l in &ALL {
            let default = l.written(*(l.of)(&mut defaults));
            let row = format!("| `{}` | {default} |", l.name);
            assert!(guide.contains(&row), "docs/security.md has no row {row}");
            assert!(
                help().contains(&format!("\n  {:23}  {default:>8}  ", l.name)),
                "{}",
                help()
            );
        }
    }
}
