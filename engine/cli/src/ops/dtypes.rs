//! The dtypes of an operation, in few words.

use actorflow::DType;
use actorflow::op::{ArgType, OpDef};

/// The dtypes that the tensors of an operation may have.
pub(super) fn of(op: &OpDef) -> Vec<DType> {
    let mut found = Vec::new();
    for arg in op.inputs().iter().chain(op.outputs()) {
        match &arg.ty {
            ArgType::Fixed(d) => found.push(*d),
            ArgType::Attr(a) | ArgType::TypeList(a) => match op.attr_def(a).and_then(|a| a.types.as_deref()) {
                Some(types) => found.extend(types),
                None => found.extend(DType::ALL),
            },
        }
    }
    found.sort();
    found.dedup();
    found
}

type Test = fn(DType) -> bool;

const GROUPS: [(Test, &str); 11] = [
    (|_| true, "any"),
    (DType::is_plain, "numbers, bool, quantised"),
    (|d| d.is_number() || d == DType::Bool, "numbers, bool"),
    (DType::is_quantized, "quantised"),
    (DType::is_number, "numbers"),
    (|d| d.is_float() || d.is_integer(), "reals"),
    (|d| d.is_float() || d.is_complex(), "floats, complex"),
    (DType::is_integer, "integers"),
    (is_signed_integer, "signed integers"),
    (|d| d.is_float() || is_signed_integer(d), "floats, signed integers"),
    (DType::is_float, "floats"),
];

fn is_signed_integer(d: DType) -> bool {
    matches!(d, DType::I8 | DType::I16 | DType::I32 | DType::I64)
}

/// A set of dtypes: the group with the fewest exceptions and additions, or the dtypes themselves if that is shorter.
pub(super) fn describe(dtypes: &[DType]) -> String {
    let names = |of: &[DType]| of.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ");
    if dtypes.is_empty() {
        return "-".to_owned();
    }
    let with = |(is, name): (Test, &str)| {
        let lacks: Vec<DType> = DType::ALL
            .into_iter()
            .filter(|d| is(*d) && !dtypes.contains(d))
            .collect();
        let adds: Vec<DType> = dtypes.iter().copied().filter(|d| !is(*d)).collect();
        let mut text = name.to_owned();
        if !adds.is_empty() {
            text = format!("{text}, {}", names(&adds));
        }
        if !lacks.is_empty() {
            text = format!("{text} except {}", names(&lacks));
        }
        (lacks.len() + adds.len(), text)
    };
    match GROUPS.into_iter().map(with).min_by_key(|(changes, _)| *changes) {
        Some((changes, text)) if changes + 1 < dtypes.len() => text,
        _ => names(dtypes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_dtypes_have_short_names() {
        let of = |f: fn(DType) -> bool| describe(&DType::ALL.into_iter().filter(|d| f(*d)).collect::<Vec<_>>());
        assert_eq!(of(|_| true), "any");
        assert_eq!(of(DType::is_float), "floats");
        assert_eq!(of(DType::is_number), "numbers");
        assert_eq!(of(|d| d.is_number() && d != DType::U16), "numbers except uint16");
        assert_eq!(of(|d| d.is_integer() || d == DType::Bool), "integers, bool");
        assert_eq!(describe(&[DType::F32, DType::Str]), "float32, string");
        assert_eq!(of(DType::is_quantized), "quantised");
        assert_eq!(of(DType::is_plain), "numbers, bool, quantised");
        assert_eq!(of(|d| d.is_number() || d == DType::Bool), "numbers, bool");
        assert_eq!(describe(&[]), "-");
    }
}
