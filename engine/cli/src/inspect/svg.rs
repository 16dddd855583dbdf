//! A graph as a picture.

use std::fmt::Write;

use super::layout::{HEIGHT, layout};
use super::picture::Picture;

/// Characters of a label that are drawn; the whole name is in the tooltip.
const MAX_LABEL: usize = 26;
/// The width of a character of the labels' fonts, on average.
const CHARACTER: f64 = 6.9;
/// How far lines that close loops pass beside the boxes.
const SIDE: f64 = 24.0;

/// The text of an `.svg` file.
pub(super) fn draw(p: &Picture) -> String {
    let labels: Vec<(String, String)> = p
        .vertices
        .iter()
        .map(|v| {
            let last = v.name.rsplit('/').next().unwrap_or(&v.name);
            (shorten(&v.op), shorten(last))
        })
        .collect();
    let widths: Vec<f64> = labels
        .iter()
        .map(|(op, name)| op.chars().count().max(name.chars().count()) as f64 * CHARACTER + 20.0)
        .collect();
    let l = layout(p, &widths);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0}\" height=\"{1:.0}\" viewBox=\"0 0 {0:.0} {1:.0}\" \
         font-family=\"Helvetica, Arial, sans-serif\">\n\
         <style>.e{{fill:none;stroke:#667;stroke-width:1}}.c{{stroke-dasharray:4 3;stroke:#99a}}\
         .u{{stroke:#a050c0}}.o{{font-size:11px;font-weight:bold}}.n{{font-size:9.5px;fill:#445}}\
         rect{{stroke:#778;stroke-width:.8}}text{{text-anchor:middle}}</style>\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" \
         orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#667\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\" stroke=\"none\" style=\"stroke:none\"/>\n",
        if l.upwards.contains(&true) {
            l.width + SIDE
        } else {
            l.width
        },
        l.height
    );
    for (i, e) in p.edges.iter().enumerate() {
        let class = match (l.upwards[i], e.control) {
            (true, _) => "e u",
            (false, true) => "e c",
            (false, false) => "e",
        };
        let path = match l.upwards[i] {
            true => upwards(&l.paths[i], widths[e.from].max(widths[e.to])),
            false => curve(&l.paths[i]),
        };
        let _ = writeln!(out, "<path class=\"{class}\" marker-end=\"url(#a)\" d=\"{path}\"/>");
    }
    for (i, v) in p.vertices.iter().enumerate() {
        let ((x, y), w, (op, name)) = (l.boxes[i], widths[i], &labels[i]);
        let _ = writeln!(
            out,
            "<g><title>{}: {}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{w:.1}\" height=\"{HEIGHT}\" rx=\"6\" \
             fill=\"{}\"/><text class=\"o\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"n\" x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>",
            escape(&v.name),
            escape(&v.op),
            x - w / 2.0,
            y - HEIGHT / 2.0,
            v.fill(),
            y - 3.0,
            escape(op),
            y + 10.0,
            escape(name),
        );
    }
    out.push_str("</svg>\n");
    out
}

/// A smooth line downwards through the points.
fn curve(points: &[(f64, f64)]) -> String {
    let mut d = String::new();
    for (i, &(x, y)) in points.iter().enumerate() {
        if i == 0 {
            let _ = write!(d, "M{x:.1} {y:.1}");
            continue;
        }
        let (px, py) = points[i - 1];
        let middle = (py + y) / 2.0;
        let _ = write!(d, "C{px:.1} {middle:.1} {x:.1} {middle:.1} {x:.1} {y:.1}");
    }
    d
}

/// A line back up, around the right of the boxes.
fn upwards(points: &[(f64, f64)], width: f64) -> String {
    let (Some(&(x0, y0)), Some(&(x1, y1))) = (points.first(), points.last()) else {
        return String::new();
    };
    let side = x0.max(x1) + width / 2.0 + SIDE;
    format!(
        "M{x0:.1} {y0:.1}C{x0:.1} {:.1} {side:.1} {:.1} {side:.1} {:.1}S{x1:.1} {:.1} {x1:.1} {y1:.1}",
        y0 + 30.0,
        y0 + 30.0,
        (y0 + y1) / 2.0,
        y1 - 30.0
    )
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_LABEL {
        return text.to_owned();
    }
    let head: String = text.chars().take(MAX_LABEL - 1).collect();
    format!("{head}…")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::picture;
    use super::*;

    #[test]
    fn every_node_and_edge_is_drawn_once() {
        let text = draw(&picture(&[
            ("a<b>", "Const", &[]),
            ("scope/b", "Neg", &["a<b>"]),
            ("m", "Merge", &["scope/b", "n"]),
            ("n", "NextIteration", &["m", "^scope/b"]),
        ]));
        assert_eq!(text.matches("<g>").count(), 4);
        assert_eq!(text.matches("<path class=").count(), 5);
        assert_eq!(text.matches("class=\"e u\"").count(), 1);
        assert_eq!(text.matches("class=\"e c\"").count(), 1);
        assert!(text.contains("a&lt;b&gt;: Const") && !text.contains("a<b>"));
    }

    #[test]
    fn long_labels_are_cut() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"é".repeat(40)).chars().count(), MAX_LABEL);
    }
}
