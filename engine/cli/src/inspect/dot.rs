//! A graph in Graphviz's language.

use std::fmt::Write;

use super::picture::Picture;

/// The text of a `.dot` file.
pub(super) fn draw(p: &Picture) -> String {
    let mut out = String::from(
        "digraph graph_def {\n  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", \
         fontsize=10];\n  edge [arrowsize=0.6, color=\"#555566\"];\n",
    );
    // Writing to a String cannot fail.
    for (i, v) in p.vertices.iter().enumerate() {
        let label = format!("{}\\n{}", escape(&v.op), escape(&v.name));
        let _ = writeln!(out, "  n{i} [label=\"{label}\", fillcolor=\"{}\"];", v.fill());
    }
    for e in &p.edges {
        let style = if e.control { " [style=dashed]" } else { "" };
        let _ = writeln!(out, "  n{} -> n{}{style};", e.from, e.to);
    }
    out.push_str("}\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::super::picture::tests::picture;
    use super::*;

    #[test]
    fn nodes_and_edges_are_written_and_quoted() {
        let text = draw(&picture(&[
            ("a\"\\", "Const", &[]),
            ("b", "Neg", &["a\"\\"]),
            ("c", "NoOp", &["^b"]),
        ]));
        assert!(text.contains("n0 [label=\"Const\\na\\\"\\\\\""), "{text}");
        assert!(text.contains("n0 -> n1;") && text.contains("n1 -> n2 [style=dashed];"));
    }
}
