//! The daemon's log: one line for each event, on standard error.

use clap::ValueEnum;
use serde::Deserialize;
use tracing::level_filters::LevelFilter;

use crate::failure::Failure;

/// From which weight on events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// What makes the daemon end
    Error,
    /// What may need somebody
    Warn,
    /// What changes: peers, certificates, starting and ending
    #[default]
    Info,
    /// Everything
    Debug,
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

impl Level {
    /// As it is written in a configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// Writes events from now on, for the whole process.
///
/// # Errors
/// If something else writes them already.
pub(crate) fn start(level: Level, format: Format) -> Result<(), Failure> {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    let started = match format {
        Format::Text => log.try_init(),
        Format::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    };
    started.map_err(|e| Failure::Failed(format!("the log cannot be started: {e}")))
}
