//! What is shown while it runs: a bar for each run, or lines where nobody looks.

use std::io::{IsTerminal, stderr};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The progress of a comparison.
pub(super) struct Progress {
    bars: Option<MultiProgress>,
    runs: usize,
    begun: usize,
}

/// The progress of a run.
pub(super) struct Run {
    bar: Option<ProgressBar>,
    name: String,
    number: String,
}

impl Progress {
    /// Of so many runs.
    pub(super) fn new(runs: usize) -> Progress {
        Progress {
            bars: stderr().is_terminal().then(MultiProgress::new),
            runs,
            begun: 0,
        }
    }

    /// Another run begins, of so many updates.
    pub(super) fn begin(&mut self, name: &str, updates: u64) -> Run {
        self.begun += 1;
        let number = format!("[{}/{}]", self.begun, self.runs);
        let bar = self.bars.as_ref().map(|bars| {
            let template = format!("{number:>8} {{prefix:44}} {{bar:24}} {{percent:>3}} %  {{msg}}");
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = bars.add(ProgressBar::new(updates).with_style(style).with_prefix(name.to_owned()));
            bar.tick();
            bar
        });
        Run {
            bar,
            name: name.to_owned(),
            number,
        }
    }
}

impl Run {
    /// The model has had so many updates.
    pub(super) fn at(&self, update: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(update.max(bar.position()));
        }
    }

    /// It is over.
    pub(super) fn end(self, what: &str) {
        match self.bar {
            Some(bar) => bar.finish_with_message(what.to_owned()),
            None => eprintln!("{} {}: {what}", self.number, self.name),
        }
    }
}
