//! Files, and what is printed.

use std::fs;
use std::path::Path;

use actorflow::{Error, Result};

use super::advice::{cautions, sentences};
use super::chart::{all, png};
use super::measures::{Row, Timeline};
use super::report::html;
use super::results::Results;
use super::table::{csv, measured, simulated};
use crate::tell;

/// Makes the folder for results, and sees that files can be written there, before anything is measured.
///
/// # Errors
/// What the system says, with the folder.
pub(super) fn prepare(folder: &Path) -> Result<()> {
    let wrong =
        |e: std::io::Error| Error::from(e).context(format!("results cannot be written to {}", folder.display()));
    fs::create_dir_all(folder).map_err(wrong)?;
    let probe = folder.join(".writable");
    fs::write(&probe, "").map_err(wrong)?;
    fs::remove_file(&probe).map_err(wrong)
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::internal(e.to_string()))
}

/// The results as Markdown.
fn markdown(r: &Results) -> String {
    let mut text = "# Synchronous or asynchronous?\n\n".to_owned();
    for s in sentences(r) {
        text += &format!("- {s}\n");
    }
    text += &format!("\n## Measured\n\n{}\n", measured(r).markdown());
    for s in cautions(r) {
        text += &format!("- {s}\n");
    }
    for s in &r.skipped {
        text += &format!("- Not run: {}.\n", s.sentence());
    }
    for t in &r.times {
        if let Some(table) = simulated(r, t.ps) {
            text += &format!("\n## Simulated: examples a second, {} ps\n\n{}", t.ps, table.markdown());
        }
    }
    text += "\n## How it was done\n\n";
    for (name, value) in &r.settings {
        text += &format!("- {name}: {value}\n");
    }
    let m = &r.machine;
    text += &format!(
        "- machine: {}, {} cores, {:.0} GiB, {}\n- when: {}\n\n```sh\n{}\n```\n",
        m.processor, m.cores, m.memory, m.system, m.date, r.command
    );
    text
}

/// Writes every file; those of earlier results are replaced.
///
/// # Errors
/// What the system says, with the file.
pub(super) fn write(r: &Results, folder: &Path) -> Result<()> {
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|e| Error::from(e).context(path.display()))
    };
    put("results.json", json(r)?.as_bytes())?;
    put("results.csv", csv(r)?.as_bytes())?;
    put("results.md", markdown(r).as_bytes())?;
    let pictures = all(r);
    for p in &pictures {
        put(&format!("{}.svg", p.name), p.svg.as_bytes())?;
        put(&format!("{}.png", p.name), &png(&p.svg)?)?;
    }
    put("report.html", html(r, &pictures).as_bytes())
}

/// Prints the table, or a JSON object for each row, and where everything is.
///
/// # Errors
/// As [`tell::line`].
pub(super) fn print(r: &Results, folder: &Path, as_json: bool) -> Result<()> {
    eprintln!("\nReport: {}\n", folder.join("report.html").display());
    if as_json {
        for row in &r.rows {
            // What is long is in the file.
            let row = Row {
                curve: Vec::new(),
                timeline: Timeline::default(),
                ..row.clone()
            };
            tell::line(serde_json::to_string(&row).map_err(|e| Error::internal(e.to_string()))?)?;
        }
    } else {
        tell::line(format_args!("\n{}", measured(r).markdown()))?;
        for t in &r.times {
            if let Some(table) = simulated(r, t.ps) {
                tell::line(format_args!(
                    "Simulated, examples a second, {} ps:\n\n{}",
                    t.ps,
                    table.markdown()
                ))?;
            }
        }
        for s in sentences(r) {
            tell::line(format_args!("- {s}"))?;
        }
        for s in cautions(r) {
            tell::line(format_args!("- {s}"))?;
        }
        for s in &r.skipped {
            tell::line(format_args!("- Not run: {}.", s.sentence()))?;
        }
    }
    Ok(())
}
