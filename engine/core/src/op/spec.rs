//! The notation of TensorFlow's `REGISTER_OP` for inputs, outputs and attributes.

use std::fmt;

use crate::attr::AttrValue;
use crate::dtype::DType;
use crate::shape::PartialShape;

/// The type of an input or output.
#[derive(Debug, Clone, PartialEq)]
pub enum ArgType {
    /// Always this dtype.
    Fixed(DType),
    /// The dtype of this `type` attribute.
    Attr(String),
    /// A list: one tensor for each dtype of this `list(type)` attribute.
    TypeList(String),
}

/// An input or output of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct ArgDef {
    /// The name.
    pub name: String,
    /// The dtype. (A name that turns out to be a `list(type)` attribute is resolved by the registry.)
    pub ty: ArgType,
    /// A list of as many tensors of one dtype as this `int` attribute says.
    pub number: Option<String>,
    /// A reference to a variable.
    pub is_ref: bool,
}

impl ArgDef {
    /// Whether it stands for any number of tensors.
    pub fn is_list(&self) -> bool {
        self.number.is_some() || matches!(self.ty, ArgType::TypeList(_))
    }
}

impl fmt::Display for ArgDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        if let Some(n) = &self.number {
            write!(f, "{n} * ")?;
        }
        let t = match &self.ty {
            ArgType::Fixed(d) => d.name(),
            ArgType::Attr(a) | ArgType::TypeList(a) => a,
        };
        if self.is_ref {
            write!(f, "Ref({t})")
        } else {
            f.write_str(t)
        }
    }
}

/// The kind of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttrKind {
    /// Bytes.
    Str,
    /// A 64-bit integer.
    Int,
    /// A 32-bit float.
    Float,
    /// A truth value.
    Bool,
    /// A dtype.
    Type,
    /// A partial shape.
    Shape,
    /// A tensor.
    Tensor,
    /// The name of a function.
    Func,
}

impl AttrKind {
    /// The name in op definitions.
    pub fn name(self) -> &'static str {
        match self {
            AttrKind::Str => "string",
            AttrKind::Int => "int",
            AttrKind::Float => "float",
            AttrKind::Bool => "bool",
            AttrKind::Type => "type",
            AttrKind::Shape => "shape",
            AttrKind::Tensor => "tensor",
            AttrKind::Func => "func",
        }
    }

    fn admits(self, v: &AttrValue) -> bool {
        matches!(
            (self, v),
            (AttrKind::Str, AttrValue::Str(_))
                | (AttrKind::Int, AttrValue::Int(_))
                | (AttrKind::Float, AttrValue::Float(_))
                | (AttrKind::Bool, AttrValue::Bool(_))
                | (AttrKind::Type, AttrValue::Type(_))
                | (AttrKind::Shape, AttrValue::Shape(_))
                | (AttrKind::Tensor, AttrValue::Tensor(_))
                | (AttrKind::Func, AttrValue::Func(..))
        )
    }
}

/// An attribute of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct AttrDef {
    /// The name.
    pub name: String,
    /// The kind (of the elements, for a list).
    pub kind: AttrKind,
    /// Whether it is a list.
    pub is_list: bool,
    /// The value if none is given; without one the attribute is required (or inferred from the inputs).
    pub default: Option<AttrValue>,
    /// The allowed dtypes, if restricted.
    pub types: Option<Vec<DType>>,
    /// The allowed strings, if restricted.
    pub strings: Option<Vec<String>>,
    /// The least value of an int, or the least length of a list.
    pub minimum: Option<i64>,
}

impl AttrDef {
    /// Why `v` is not a legal value, if it is not.
    pub fn check(&self, v: &AttrValue) -> std::result::Result<(), String> {
        let wrong_kind = || {
            let (l, r) = if self.is_list { ("list(", ")") } else { ("", "") };
            format!(
                "attribute {:?} must be a {l}{}{r}, got {v}",
                self.name,
                self.kind.name()
            )
        };
        let one = |v: &AttrValue| {
            if !self.kind.admits(v) {
                return Err(wrong_kind());
            }
            match v {
                AttrValue::Type(t) if self.types.as_ref().is_some_and(|a| !a.contains(t)) => Err(format!(
                    "attribute {:?} cannot be {t}; allowed: {}",
                    self.name,
                    self.types
                        .as_deref()
                        .unwrap_or(&[])
                        .iter()
                        .map(|t| t.name())
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
                AttrValue::Str(s)
                    if self
                        .strings
                        .as_ref()
                        .is_some_and(|a| !a.iter().any(|x| x.as_bytes() == &s[..])) =>
                {
                    Err(format!(
                        "attribute {:?} cannot be {v}; allowed: {}",
                        self.name,
                        self.strings.as_deref().unwrap_or(&[]).join(", ")
                    ))
                }
                _ => Ok(()),
            }
        };
        match (self.is_list, v) {
            (true, AttrValue::List(l)) => {
                if self.minimum.is_some_and(|m| (l.len() as i64) < m) {
                    return Err(format!(
                        "attribute {:?} needs at least {} elements, got {}",
                        self.name,
                        self.minimum.unwrap_or(0),
                        l.len()
                    ));
                }
                l.iter().try_for_each(one)
            }
            (false, AttrValue::Int(i)) if self.kind == AttrKind::Int && self.minimum.is_some_and(|m| *i < m) => {
                Err(format!(
                    "attribute {:?} must be at least {}, got {i}",
                    self.name,
                    self.minimum.unwrap_or(0)
                ))
            }
            (false, v) => one(v),
            (true, _) => Err(wrong_kind()),
        }
    }
}

fn types_of(word: &str) -> Option<Vec<DType>> {
    use DType::*;
    let real = [F32, F64, I32, I64, U8, I16, I8, U16, F16, U32, U64, BF16];
    match word {
        "numbertype" => Some(real.into_iter().chain([C64, C128]).collect()),
        "realnumbertype" => Some(real.to_vec()),
        "quantizedtype" => Some(DType::QUANTIZED.to_vec()),
        _ => None,
    }
}

/// Parses `name: type`.
pub(super) fn arg(spec: &str) -> Result<ArgDef, String> {
    let bad = || format!("bad argument specification {spec:?}");
    let (name, ty) = spec.split_once(':').ok_or_else(bad)?;
    let (name, mut ty) = (name.trim(), ty.trim());
    let mut is_ref = false;
    let mut number = None;
    if let Some((n, t)) = ty.split_once('*') {
        number = Some(n.trim().to_owned());
        ty = t.trim();
    }
    if let Some(t) = ty.strip_prefix("Ref(").and_then(|t| t.strip_suffix(')')) {
        is_ref = true;
        ty = t.trim();
    }
    if name.is_empty() || ty.is_empty() {
        return Err(bad());
    }
    let ty = match DType::from_name(ty) {
        Some(d) => ArgType::Fixed(d),
        None => ArgType::Attr(ty.to_owned()),
    };
    Ok(ArgDef {
        name: name.to_owned(),
        ty,
        number,
        is_ref,
    })
}

/// Parses `name: kind [>= n] [= default]`.
pub(super) fn attr(spec: &str) -> Result<AttrDef, String> {
    let bad = || format!("bad attribute specification {spec:?}");
    let (name, rest) = spec.split_once(':').ok_or_else(bad)?;
    let rest = rest.trim();
    // A default follows a '=' that is not part of '>='.
    let eq = rest
        .char_indices()
        .find(|&(i, c)| c == '=' && !rest[..i].ends_with('>'))
        .map(|(i, _)| i);
    let (ty, default) = match eq {
        Some(i) => (rest[..i].trim(), Some(rest[i + 1..].trim())),
        None => (rest, None),
    };
    let (ty, minimum) = match ty.split_once(">=") {
        Some((t, m)) => (t.trim(), Some(m.trim().parse::<i64>().map_err(|_| bad())?)),
        None => (ty, None),
    };
    let (ty, is_list) = match ty.strip_prefix("list(").and_then(|t| t.strip_suffix(')')) {
        Some(t) => (t.trim(), true),
        None => (ty, false),
    };
    let (mut types, mut strings) = (None, None);
    let kind = if let Some(set) = ty.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        let words: Vec<&str> = set.split(',').map(str::trim).collect();
        if words.iter().all(|w| w.starts_with('\'') || w.starts_with('"')) {
            strings = Some(words.iter().map(|w| w.trim_matches(['\'', '"']).to_owned()).collect());
            AttrKind::Str
        } else {
            let mut allowed = Vec::new();
            for w in words {
                match (types_of(w), DType::from_name(w)) {
                    (Some(many), _) => allowed.extend(many),
                    (None, Some(d)) => allowed.push(d),
                    (None, None) => return Err(format!("unknown dtype {w:?} in {spec:?}")),
                }
            }
            types = Some(allowed);
            AttrKind::Type
        }
    } else {
        match ty {
            "string" => AttrKind::Str,
            "int" => AttrKind::Int,
            "float" => AttrKind::Float,
            "bool" => AttrKind::Bool,
            "type" => AttrKind::Type,
            "shape" => AttrKind::Shape,
            "tensor" => AttrKind::Tensor,
            "func" => AttrKind::Func,
            _ => match types_of(ty) {
                Some(many) => {
                    types = Some(many);
                    AttrKind::Type
                }
                None => return Err(bad()),
            },
        }
    };
    let default = match default {
        None => None,
        Some(text) if is_list => {
            let inner = text
                .strip_prefix('[')
                .and_then(|t| t.strip_suffix(']'))
                .ok_or_else(bad)?
                .trim();
            let items = if inner.is_empty() {
                Vec::new()
            } else {
                inner.split(',').collect::<Vec<_>>()
            };
            let items = items
                .into_iter()
                .map(|t| value(kind, t.trim()))
                .collect::<Option<Vec<_>>>();
            Some(AttrValue::List(items.ok_or_else(bad)?))
        }
        Some(text) => Some(value(kind, text).ok_or_else(bad)?),
    };
    Ok(AttrDef {
        name: name.trim().to_owned(),
        kind,
        is_list,
        default,
        types,
        strings,
        minimum,
    })
}

fn value(kind: AttrKind, text: &str) -> Option<AttrValue> {
    match kind {
        AttrKind::Str => Some(AttrValue::from(text.trim_matches(['\'', '"']))),
        AttrKind::Int => text.parse::<i64>().ok().map(AttrValue::Int),
        AttrKind::Float => text.parse::<f32>().ok().map(AttrValue::Float),
        AttrKind::Bool => text.parse::<bool>().ok().map(AttrValue::Bool),
        AttrKind::Type => {
            let t = text.strip_prefix("DT_").map(str::to_lowercase);
            DType::from_name(t.as_deref().unwrap_or(text)).map(AttrValue::Type)
        }
        AttrKind::Shape => match text {
            "unknown" | "{ unknown_rank: true }" => Some(AttrValue::Shape(PartialShape::UNKNOWN)),
            _ => {
                let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
                let dims = inner.split(',').map(str::trim).filter(|d| !d.is_empty());
                let dims = dims.map(|d| d.parse::<i64>().ok()).collect::<Option<Vec<_>>>()?;
                Some(AttrValue::Shape(PartialShape::from_i64(&dims)))
            }
        },
        AttrKind::Tensor | AttrKind::Func => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(arg("values: N * T").unwrap().number.as_deref(), Some("N"));
        assert!(arg("ref: Ref(T)").unwrap().is_ref);
        assert_eq!(arg("axis: int32").unwrap().ty, ArgType::Fixed(DType::I32));
        assert!(arg("nothing").is_err());
    }

    #[test]
    fn attributes() {
        let a = attr("T: {half, float, double} = DT_FLOAT").unwrap();
        assert_eq!(a.default, Some(AttrValue::Type(DType::F32)));
        assert!(
            a.check(&AttrValue::Type(DType::I32))
                .unwrap_err()
                .contains("cannot be int32")
        );
        let n = attr("N: int >= 1").unwrap();
        assert!(n.check(&AttrValue::Int(0)).is_err() && n.check(&AttrValue::Int(1)).is_ok());
        let p = attr("padding: {'SAME', 'VALID'}").unwrap();
        assert!(p.check(&AttrValue::from("SAME")).is_ok() && p.check(&AttrValue::from("ODD")).is_err());
        let l = attr("axes: list(int) >= 0 = [1, -2]").unwrap();
        assert_eq!(
            l.default,
            Some(AttrValue::List(vec![AttrValue::Int(1), AttrValue::Int(-2)]))
        );
        assert_eq!(attr("eps: float = 1e-3").unwrap().default, Some(AttrValue::Float(1e-3)));
        assert_eq!(attr("T: numbertype").unwrap().types.unwrap().len(), 14);
        assert_eq!(attr("T: quantizedtype").unwrap().types.unwrap().len(), 5);
        let q = attr("T: {quint8, float} = DT_QUINT8").unwrap();
        assert_eq!(q.default, Some(AttrValue::Type(DType::QU8)));
        assert_eq!(attr("T: list(type) >= 1").unwrap().minimum, Some(1));
        assert!(attr("x: strange").is_err());
        assert_eq!(attr("c: string = ''").unwrap().default, Some(AttrValue::from("")));
    }
}
