//! Flags of all subjects: which subject has no use for which. A flag that does nothing is refused.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// Parses the length of a window, in seconds.
pub(crate) fn window(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(s) if (1e-3..=3600.0).contains(&s) => Ok(s),
        _ => Err(format!(
            "{text:?} is no length of a window; write seconds from 0.001 to 3600, such as 0.3"
        )),
    }
}

/// The flags of all subjects that this one has no use for, each with what to do instead.
fn useless(subject: &str) -> &'static [(&'static str, &'static str)] {
    const LEAVE: &str = "leave it out";
    const AS_THEY_ARE: &str = "it measures graphs as they are; leave it out";
    match subject {
        "dispatch" | "matmul" | "fifo-queue" => &[("nodes", LEAVE), ("passes", AS_THEY_ARE)],
        "elementwise" => &[("nodes", LEAVE)],
        "ps" | "ps-task" => &[("nodes", LEAVE), ("passes", "its tasks use all passes; leave it out")],
        "sync-vs-async" | "sync-vs-async-task" => &[
            ("samples", "--repeat N is the number of runs of each case"),
            ("window", "--epochs and --steps say how long a run is"),
            ("nodes", LEAVE),
            ("passes", "its tasks use all passes; leave it out"),
        ],
        "soak" => &[
            ("json", "it prints no rows; leave it out"),
            ("samples", "--runs N says how long it is"),
            ("window", "--runs N says how long it is"),
            ("nodes", LEAVE),
            ("only", "it is one run; leave it out"),
        ],
        _ => &[],
    }
}

/// A sentence about a flag that was given and would do nothing.
pub(crate) fn without_effect(matches: &ArgMatches) -> Option<String> {
    let (subject, of) = matches.subcommand()?;
    let given = |id: &str| of.value_source(id) == Some(ValueSource::CommandLine);
    let (flag, cure) = useless(subject).iter().find(|(flag, _)| given(flag))?;
    Some(format!("{subject} does not take --{flag}: {cure}"))
}
