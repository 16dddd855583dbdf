//! The names of functions, parameters and methods.

/// The words that Rust keeps to itself, edition 2024.
const RESERVED: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// The methods that every builder has.
const METHODS: &[&str] = &[
    "name",
    "device",
    "colocate_with",
    "control_input",
    "attr",
    "output",
    "outputs",
    "operation",
];

/// A name in lower case by the rule of TensorFlow's generated Python functions: an underscore comes before a capital that
/// follows a small letter, or that a small letter follows. So `Conv2DBackpropInput` is `conv2d_backprop_input`.
pub(super) fn lower(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut lower = String::with_capacity(name.len() + 8);
    for (i, c) in chars.iter().enumerate() {
        let small = |c: Option<&char>| c.is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && i > 0 && (small(chars.get(i - 1)) || small(chars.get(i + 1))) {
            lower.push('_');
        }
        lower.push(c.to_ascii_lowercase());
    }
    lower
}

/// The name of a function.
pub(super) fn function(op: &str) -> String {
    free(lower(op), &[])
}

/// The name of a parameter beside those that are there.
pub(super) fn parameter(name: &str, others: &[String]) -> String {
    free(lower(name), others)
}

/// The name of the method that sets an attribute, beside those that are there.
pub(super) fn method(attr: &str, others: &[String]) -> String {
    let mut name = free(lower(attr), others);
    while METHODS.contains(&name.as_str()) {
        name = free(name + "_", others);
    }
    name
}

/// The name, with underscores behind it until nothing else is called that.
fn free(mut name: String, others: &[String]) -> String {
    while RESERVED.contains(&name.as_str()) || others.contains(&name) {
        name.push('_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_tensorflows_functions() {
        for (name, want) in [
            ("MatMul", "mat_mul"),
            ("Conv2D", "conv2d"),
            ("Conv2DBackpropInput", "conv2d_backprop_input"),
            ("FIFOQueueV2", "fifo_queue_v2"),
            ("TopKV2", "top_kv2"),
            ("BatchMatMulV2", "batch_mat_mul_v2"),
            ("L2Loss", "l2_loss"),
            ("SpaceToBatchND", "space_to_batch_nd"),
            ("IRFFT2D", "irfft2d"),
            ("BesselI0e", "bessel_i0e"),
            ("DecodeJSONExample", "decode_json_example"),
            ("DstT", "dst_t"),
            ("OUT_TYPE", "out_type"),
        ] {
            assert_eq!(lower(name), want);
        }
    }

    #[test]
    fn a_name_that_is_taken_gets_an_underscore() {
        assert_eq!(function("Where"), "where_");
        assert_eq!(parameter("ref", &[]), "ref_");
        assert_eq!(parameter("T", &["t".to_owned(), "t_".to_owned()]), "t__");
        assert_eq!(method("device", &[]), "device_");
        assert_eq!(method("type", &["type_".to_owned()]), "type__");
    }
}
