//! The documentation of functions and methods.

use actorflow::AttrValue;
use actorflow::op::{ArgDef, AttrDef, AttrKind, Gradient, OpDef};

use super::super::dtypes;
use super::function::Signature;

/// Text as rustdoc shows it unchanged: outside of code spans, nothing is emphasis, a link or a tag, and addresses are links.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (i, part) in text.split('`').enumerate() {
        if i > 0 {
            out.push('`');
        }
        if i % 2 == 1 {
            out.push_str(part);
            continue;
        }
        for word in part.split_inclusive(char::is_whitespace) {
            if word.starts_with("http://") || word.starts_with("https://") {
                let address = word.trim_end_matches(|c: char| c.is_whitespace() || ".,;:)".contains(c));
                out += &format!("<{address}>{}", &word[address.len()..]);
                continue;
            }
            for c in word.chars() {
                match c {
                    '\n' => out.push(' '),
                    '[' | ']' | '<' | '>' | '*' | '_' | '\\' => out.extend(['\\', c]),
                    c => out.push(c),
                }
            }
        }
    }
    out
}

/// A text in the marks of code, also one with a mark in it.
fn code(text: &str) -> String {
    match text.contains('`') {
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}

/// The kind of an attribute as definitions spell it.
fn kind(attr: &AttrDef) -> String {
    match attr.is_list {
        true => format!("list({})", attr.kind.name()),
        false => attr.kind.name().to_owned(),
    }
}

fn value(v: &AttrValue) -> String {
    match v {
        AttrValue::Str(s) => format!("{:?}", String::from_utf8_lossy(s)),
        AttrValue::List(items) => format!("[{}]", items.iter().map(value).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// What an attribute may be: kind, default, limits.
pub(super) fn attribute(attr: &AttrDef) -> String {
    let mut text = kind(attr);
    if let Some(strings) = &attr.strings {
        let all: Vec<String> = strings.iter().map(|s| code(&format!("{s:?}"))).collect();
        text += &format!(", one of {}", all.join(", "));
    }
    if let Some(types) = &attr.types {
        text += &format!(" of {}", dtypes::describe(types));
    }
    match (attr.minimum, attr.is_list) {
        (Some(n), true) if n > 0 => text += &format!(", {n} or more"),
        (Some(n), false) => text += &format!(", at least {n}"),
        _ => {}
    }
    if let Some(default) = &attr.default {
        text += &format!("; {} by default", code(&value(default)));
    }
    text
}

fn arguments(args: &[ArgDef]) -> String {
    let all: Vec<String> = args.iter().map(|arg| code(&arg.to_string())).collect();
    all.join(", ")
}

/// The lines above a function, without the slashes.
pub(super) fn function(op: &OpDef, signature: &Signature<'_>) -> Vec<String> {
    let mut lines = vec![format!("`{}`: {}", op.name(), escaped(op.description()))];
    let mut paragraph = |text: String| {
        lines.push(String::new());
        lines.push(text);
    };
    match op.inputs() {
        [] => paragraph("No inputs.".to_owned()),
        inputs => paragraph(format!("Inputs: {}.", arguments(inputs))),
    }
    let bullets = |attrs: &[(String, &AttrDef)]| {
        let line = |(name, attr): &(String, &AttrDef)| format!("\n- {}: {}", code(name), attribute(attr));
        attrs.iter().map(line).collect::<String>()
    };
    if !signature.required.is_empty() {
        paragraph(format!("Attributes:{}", bullets(&signature.required)));
    }
    if !signature.optional.is_empty() {
        paragraph(format!("Optional attributes:{}", bullets(&signature.optional)));
    }
    match op.outputs() {
        [] => paragraph("No outputs.".to_owned()),
        outputs => paragraph(format!("Outputs: {}.", arguments(outputs))),
    }
    let restricted = signature.inferred.iter().filter(|attr| attr.kind == AttrKind::Type);
    let dtypes: Vec<String> = restricted
        .map(|attr| match &attr.types {
            Some(types) => format!("{}: {}", code(&attr.name), dtypes::describe(types)),
            None => format!("{}: any", code(&attr.name)),
        })
        .collect();
    if !dtypes.is_empty() {
        paragraph(format!("Dtypes that follow from the inputs: {}.", dtypes.join("; ")));
    }
    let mut traits = vec![match op.gradient_of() {
        Gradient::Function(_) => "Differentiable.",
        Gradient::NotDifferentiable => "Gradients stop here.",
        Gradient::Undefined => "No gradient is defined.",
    }];
    if op.is_stateful() {
        traits.push("Has state or side effects.");
    }
    if op.is_control_flow() {
        traits.push("A primitive of control flow.");
    }
    if op.cpu_kernel().is_none() {
        traits.push("No kernel: the executor does it itself.");
    }
    paragraph(traits.join(" "));
    // A paragraph with bullets is several lines.
    lines
        .iter()
        .flat_map(|text| text.split('\n'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_it_is_written() {
        assert_eq!(
            escaped("x * y in [0, 1), `a[i]` <b> lr_t"),
            r"x \* y in \[0, 1), `a[i]` \<b\> lr\_t"
        );
        assert_eq!(escaped("see https://a.b/c_d."), "see <https://a.b/c_d>.");
        assert_eq!(escaped("one\ntwo"), "one two");
        assert_eq!(code("a`b"), "`` a`b ``");
    }
}
