//! The report: one page that needs nothing else, and says what to choose.

use std::fmt::Write;

use super::advice::{cautions, sentences};
use super::args::Skipped;
use super::chart::{Picture, escape, time};
use super::results::Results;
use super::table::{Table, measured, simulated};

const CSS: &str = "
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; color: #222; background: #fff;
       max-width: 1040px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 28px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 38px 0 10px; }
.sub { color: #666; margin: 0 0 22px; }
.choose { background: #f2f7fb; border-left: 5px solid #0072b2; padding: 14px 20px; border-radius: 4px; }
.choose li, .beware li { margin: 5px 0; } .choose ul, .beware ul { margin: 4px 0; padding-left: 20px; }
.beware { background: #fdf6e7; border-left: 5px solid #e69f00; padding: 10px 20px; margin-top: 14px; border-radius: 4px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; border-bottom: 2px solid #222; padding: 5px 8px; white-space: nowrap; }
td { border-bottom: 1px solid #e3e3e3; padding: 4px 8px; white-space: nowrap; } .n { text-align: right; }
tr.new td { border-top: 2px solid #bbb; }
figure { margin: 18px 0 26px; } figure svg { max-width: 100%; height: auto; border: 1px solid #e8e8e8; border-radius: 4px; }
figcaption { color: #555; font-size: 14px; max-width: 860px; margin-top: 6px; }
.tag { display: inline-block; font-size: 12px; padding: 0 8px; border-radius: 9px; color: #fff; background: #0072b2; margin-right: 6px; }
.tag.s { background: #fff; color: #222; outline: 1px dashed #222; }
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
code, pre { font: 13px/1.5 ui-monospace, 'DejaVu Sans Mono', monospace; background: #f5f5f5; border-radius: 4px; }
code { padding: 1px 5px; } pre { padding: 10px 14px; overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; font-size: 14px; } dt { color: #666; } dd { margin: 0; }
";

// Writing to a string does not fail.
macro_rules! put {
    ($to:expr, $($what:tt)*) => { let _ = write!($to, $($what)*); };
}

fn list(html: &mut String, items: &[String]) {
    html.push_str("<ul>");
    for item in items {
        put!(html, "<li>{}</li>", escape(item));
    }
    html.push_str("</ul>");
}

fn table(html: &mut String, t: &Table, r: &Results) {
    let class = |i: usize| {
        if t.head.get(i).is_some_and(|h| h.1) {
            " class=\"n\""
        } else {
            ""
        }
    };
    html.push_str("<div class=\"wide\"><table><tr>");
    for (i, (name, _)) in t.head.iter().enumerate() {
        put!(html, "<th{}>{}</th>", class(i), escape(name));
    }
    html.push_str("</tr>");
    let mut group: Option<&str> = None;
    for row in &t.rows {
        let first = row.first().map(String::as_str);
        let new = group.is_some() && group != first && t.head.iter().any(|h| h.0 == "strategy");
        group = first;
        html.push_str(if new { "<tr class=\"new\">" } else { "<tr>" });
        for (i, cell) in row.iter().enumerate() {
            put!(html, "<td{}>", class(i));
            if t.head.get(i).is_some_and(|h| h.0 == "strategy") {
                put!(
                    html,
                    "<span class=\"dot\" style=\"background:{}\"></span>",
                    r.styles.get(cell).colour
                );
            }
            put!(html, "{}</td>", escape(cell));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table></div>");
}

fn facts(html: &mut String, facts: &[(String, String)]) {
    html.push_str("<dl>");
    for (name, value) in facts {
        put!(html, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    html.push_str("</dl>");
}

/// The columns of the table, explained.
const COLUMNS: &str = "<b>examples/s</b> counts the examples whose gradients count; <b>updates/s</b> is the rate of global steps. <b>Time to \
target</b> is from the start of training to the first kept values that reach the target on the test rows. <b>Accuracy</b> and <b>train loss</b> are \
those of the last values. <b>Staleness</b> is the mean age, in updates, of the values from which gradients that count were computed. <b>Waiting</b> \
is the share of workers' time from their gradients to their new values. <b>Late</b> is the share of steps whose gradients came too late to count. \
<b>Sent/update</b> is what all processes together send for an update.";

const OTHERS: &str = " <b>Others vs clean</b> is the rate of the workers with which nothing goes wrong, as a share of what the same workers do in \
the clean run. <b>Longest gap</b> is the longest that one of them went without new values.";

fn simulation(html: &mut String, r: &Results) {
    if r.times.is_empty() {
        return;
    }
    html.push_str("<h2><span class=\"tag s\">simulated</span>More workers</h2><p>A discrete-event simulation of the same strategies. Every worker and every parameter \
        server has a machine of its own; a worker's time to compute and the network's are drawn from those measured here with one worker, and a server \
        takes each push for as long as its processor was busy for one. It learns nothing, so it says nothing of accuracy. It knows no limit of \
        bandwidth. Hybrids keep their number of groups.</p>");
    for t in &r.times {
        let facts_: Vec<(String, String)> = [
            ("parameter servers".to_owned(), t.ps.to_string()),
            ("computing, median".to_owned(), time(t.median_compute)),
            (
                "network and the rest of a round trip, median".to_owned(),
                time(t.median_wire),
            ),
            ("a server's time for a push".to_owned(), time(t.service)),
            ("buckets of an all-reduce".to_owned(), t.buckets.to_string()),
        ]
        .into();
        facts(html, &facts_);
        if let Some(t) = simulated(r, t.ps) {
            html.push_str("<p>Examples a second:</p>");
            table(html, &t, r);
        }
    }
    let checks: Vec<String> = r
        .clean()
        .filter_map(|m| Some((m, twin(r, m)?)))
        .map(|(m, s)| format!("{} × {}: {:.2}", m.strategy, m.workers, s / m.examples_per_second))
        .collect();
    if !checks.is_empty() {
        put!(
            html,
            "<p>Simulated rates over measured ones, where both are there; above 1 where this machine's cores are shared: {}.</p>",
            escape(&checks.join(", "))
        );
    }
}

fn twin(r: &Results, m: &super::measures::Row) -> Option<f64> {
    let same = |s: &&super::measures::Row| {
        !s.is_measured() && s.is_clean() && (&s.strategy, s.workers, s.ps) == (&m.strategy, m.workers, m.ps)
    };
    r.rows.iter().find(same).map(|s| s.examples_per_second)
}

/// The page.
pub(super) fn html(r: &Results, pictures: &[Picture]) -> String {
    let mut h = String::new();
    put!(
        h,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Synchronous or asynchronous?</title><style>{CSS}</style></head><body><h1>Synchronous or asynchronous?</h1>"
    );
    put!(
        h,
        "<p class=\"sub\">One model trained under {} strategies with the same seed, data and budget, {}; {}.</p>",
        r.styles.names().count(),
        escape(&r.machine.date),
        escape(r.tasks_word())
    );
    h.push_str("<div class=\"choose\"><b>What to choose</b>");
    list(&mut h, &sentences(r));
    h.push_str("</div><div class=\"beware\"><b>To keep in mind</b>");
    list(&mut h, &cautions(r));
    h.push_str("</div><h2><span class=\"tag\">measured</span>Results</h2>");
    table(&mut h, &measured(r), r);
    put!(
        h,
        "<p class=\"sub\">{COLUMNS}{} The target is {}.</p>",
        if r.is_injected() { OTHERS } else { "" },
        r.target
    );
    if !r.skipped.is_empty() {
        let all: Vec<String> = r.skipped.iter().map(Skipped::sentence).collect();
        h.push_str("<p>Not run:</p>");
        list(&mut h, &all);
    }
    h.push_str("<h2>Pictures</h2>");
    for p in pictures {
        // Within a page the namespace goes without saying.
        let svg = p.svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
        put!(
            h,
            "<figure id=\"{}\">{svg}<figcaption>{}</figcaption></figure>",
            p.name,
            escape(&p.caption)
        );
    }
    simulation(&mut h, r);
    h.push_str("<h2>How it was done</h2>");
    let mut all = r.settings.clone();
    let m = &r.machine;
    all.extend([
        (
            "machine".to_owned(),
            format!("{}, {} cores, {:.0} GiB, {}", m.processor, m.cores, m.memory, m.system),
        ),
        ("engine".to_owned(), format!("actorflow {}", m.version)),
    ]);
    facts(&mut h, &all);
    put!(
        h,
        "<p>To do it again:</p><pre>{}</pre></body></html>\n",
        escape(&r.command)
    );
    h
}
