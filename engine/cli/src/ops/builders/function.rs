//! The function of one operation, and its builder if there are optional attributes.

use actorflow::op::{ArgDef, ArgType, AttrDef, AttrKind, OpDef};

use super::{docs, names};

/// What becomes of an operation's attributes. Names are those of parameters and methods.
pub(super) struct Signature<'a> {
    /// Parameters of the function.
    pub(super) required: Vec<(String, &'a AttrDef)>,
    /// Methods of the builder.
    pub(super) optional: Vec<(String, &'a AttrDef)>,
    /// They follow from the inputs.
    pub(super) inferred: Vec<&'a AttrDef>,
}

/// How an attribute is found when the node is added.
enum Source {
    /// From the inputs, always.
    Inputs,
    /// From the inputs, unless a list is empty.
    InputsIfAny,
    /// From the program, or by its default.
    Program,
}

/// Whether an input may be no tensor at all.
fn may_be_empty(op: &OpDef, input: &ArgDef) -> bool {
    let length = match (&input.number, &input.ty) {
        (Some(n), _) => n,
        (None, ArgType::TypeList(t)) => t,
        _ => return false,
    };
    op.attr_def(length).and_then(|attr| attr.minimum).unwrap_or(0) < 1
}

fn source(op: &OpDef, attr: &AttrDef) -> Source {
    let mut found = Source::Program;
    for input in op.inputs() {
        let is_length = input.number.as_ref() == Some(&attr.name);
        match &input.ty {
            _ if is_length => return Source::Inputs,
            ArgType::TypeList(t) if *t == attr.name => return Source::Inputs,
            ArgType::Attr(t) if *t == attr.name => {
                if input.number.is_none() || !may_be_empty(op, input) {
                    return Source::Inputs;
                }
                found = Source::InputsIfAny;
            }
            _ => {}
        }
    }
    found
}

/// Whether no input tells the graph: there is none, or all of them are lists that may be empty.
fn needs_graph(op: &OpDef) -> bool {
    op.inputs().iter().all(|input| may_be_empty(op, input))
}

impl<'a> Signature<'a> {
    /// The parameters' names of the inputs are in `taken`; those of required attributes are added.
    fn new(op: &'a OpDef, taken: &mut Vec<String>) -> Self {
        let mut signature = Signature {
            required: Vec::new(),
            optional: Vec::new(),
            inferred: Vec::new(),
        };
        let mut methods = Vec::new();
        for attr in op.attrs() {
            let is_optional = match source(op, attr) {
                Source::Inputs => {
                    signature.inferred.push(attr);
                    continue;
                }
                Source::InputsIfAny => true,
                Source::Program => attr.default.is_some(),
            };
            if is_optional {
                let name = names::method(&attr.name, &methods);
                methods.push(name.clone());
                signature.optional.push((name, attr));
            } else {
                let name = names::parameter(&attr.name, taken);
                taken.push(name.clone());
                signature.required.push((name, attr));
            }
        }
        signature
    }
}

/// The type of a builder.
pub(super) fn builder_type(op: &OpDef) -> String {
    format!("{}Builder", op.name())
}

/// The parameter's type for an attribute, and the expression that makes its value of the parameter.
fn typed(attr: &AttrDef, name: &str) -> (&'static str, String) {
    let plain = format!("{name}.into()");
    match (attr.kind, attr.is_list) {
        (AttrKind::Str, false) => ("&str", plain),
        (AttrKind::Int, false) => ("i64", plain),
        (AttrKind::Float, false) => ("f32", plain),
        (AttrKind::Bool, false) => ("bool", plain),
        (AttrKind::Type, false) => ("DType", plain),
        (AttrKind::Shape, false) => ("impl Into<PartialShape>", format!("AttrValue::Shape({name}.into())")),
        (AttrKind::Tensor, false) => ("impl Into<Tensor>", format!("AttrValue::Tensor({name}.into())")),
        (AttrKind::Func, false) => (
            "(&str, Attrs)",
            format!("AttrValue::Func({name}.0.to_owned(), {name}.1)"),
        ),
        (AttrKind::Str, true) => ("&[&str]", plain),
        (AttrKind::Int, true) => ("&[i64]", plain),
        (AttrKind::Float, true) => ("&[f32]", plain),
        (AttrKind::Bool, true) => ("&[bool]", plain),
        (AttrKind::Type, true) => ("&[DType]", plain),
        (AttrKind::Shape, true) => ("&[PartialShape]", plain),
        (AttrKind::Tensor, true) => ("&[Tensor]", plain),
        (AttrKind::Func, true) => (
            "&[(&str, Attrs)]",
            format!("AttrValue::List({name}.iter().map(|f| AttrValue::Func(f.0.to_owned(), f.1.clone())).collect())"),
        ),
    }
}

fn commented(lines: &[String], indent: &str) -> String {
    let line = |line: &String| format!("{indent}{}\n", format!("/// {line}").trim_end());
    lines.iter().map(line).collect()
}

/// The items of an operation.
pub(super) fn items(op: &OpDef) -> String {
    let graph = needs_graph(op);
    let mut parameters = Vec::new();
    let mut names = Vec::new();
    if graph {
        parameters.push("graph: &Graph".to_owned());
        names.push("graph".to_owned());
    }
    let mut inputs = Vec::new();
    for input in op.inputs() {
        let name = names::parameter(&input.name, &names);
        let ty = if input.is_list() { "&[Output]" } else { "&Output" };
        parameters.push(format!("{name}: {ty}"));
        names.push(name.clone());
        inputs.push((name, input.is_list()));
    }
    let signature = Signature::new(op, &mut names);
    let start = match inputs.iter().find(|(_, is_list)| !is_list) {
        _ if graph => format!("Builder::new({:?}, graph)", op.name()),
        Some((one, _)) => format!("Builder::new({:?}, {one}.graph())", op.name()),
        None => {
            let lists: Vec<&str> = inputs.iter().map(|(name, _)| name.as_str()).collect();
            format!("Builder::of_lists({:?}, &[{}])", op.name(), lists.join(", "))
        }
    };
    let given = |(name, is_list): &(String, bool)| format!(".{}({name})", if *is_list { "list" } else { "input" });
    let mut calls: Vec<String> = inputs.iter().map(given).collect();
    for (name, attr) in &signature.required {
        let (ty, value) = typed(attr, name);
        parameters.push(format!("{name}: {ty}"));
        calls.push(format!(".set({:?}, {value})", attr.name));
    }
    let mut text = commented(&docs::function(op, &signature), "");
    let function = names::function(op.name());
    let builder = builder_type(op);
    let has_builder = !signature.optional.is_empty();
    let result = if has_builder { builder.as_str() } else { "Builder" };
    text += "#[inline]\n#[track_caller]\n";
    text += &declaration(&function, &parameters, result);
    text += &expression(has_builder.then_some(result), &start, &calls);
    text += "}\n";
    if has_builder {
        text += &format!(
            "\ntyped_builder! {{\n    /// The node in the making of [`{function}()`], with a method for each optional attribute.\n    {builder}\n}}\n"
        );
        text += &format!("\nimpl {builder} {{\n");
        let methods: Vec<String> = signature
            .optional
            .iter()
            .map(|(name, attr)| method(name, attr))
            .collect();
        text += &methods.join("\n");
        text += "}\n";
    }
    text
}

/// A line of code has at most as many characters.
const WIDTH: usize = 120;

fn declaration(function: &str, parameters: &[String], result: &str) -> String {
    let line = format!("pub fn {function}({}) -> {result} {{\n", parameters.join(", "));
    if line.len() <= WIDTH + 1 {
        return line;
    }
    format!(
        "pub fn {function}(\n    {},\n) -> {result} {{\n",
        parameters.join(",\n    ")
    )
}

/// The start and its calls, in what wraps them.
fn expression(wrap: Option<&str>, start: &str, calls: &[String]) -> String {
    let chain = |indent: &str| {
        let calls: Vec<String> = calls.iter().map(|call| format!("\n{indent}    {call}")).collect();
        format!("{indent}{start}{}", calls.concat())
    };
    let line = match wrap {
        Some(wrap) => format!("    {wrap}({start}{})\n", calls.concat()),
        None => format!("    {start}{}\n", calls.concat()),
    };
    match wrap {
        _ if line.len() <= WIDTH + 1 => line,
        Some(wrap) => format!("    {wrap}(\n{},\n    )\n", chain("        ")),
        None => chain("    ") + "\n",
    }
}

/// The method that sets an optional attribute.
fn method(name: &str, attr: &AttrDef) -> String {
    let (ty, value) = typed(attr, name);
    let unless = match attr.default {
        Some(_) => "",
        None => "; follows from the inputs unless a list is empty",
    };
    let doc = format!("`{}`: {}{unless}.", attr.name, docs::attribute(attr));
    commented(&[doc], "    ")
        + &format!(
            "    #[inline]\n    pub fn {name}(self, {name}: {ty}) -> Self {{\n        Self(self.0.set({:?}, {value}))\n    }}\n",
            attr.name
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow::op::{Category, registry};

    /// The declaration of the function.
    fn declared(op: &OpDef) -> String {
        let text = items(op);
        let from = text.find("pub fn ").unwrap();
        text[from..].split_inclusive('{').next().unwrap().to_owned()
    }

    fn known(name: &str) -> String {
        declared(registry().find(name).unwrap())
    }

    #[test]
    fn what_must_be_given_is_a_parameter_and_what_follows_is_none() {
        assert_eq!(
            known("MatMul"),
            "pub fn mat_mul(a: &Output, b: &Output) -> MatMulBuilder {"
        );
        assert_eq!(
            known("Split"),
            "pub fn split(split_dim: &Output, value: &Output, num_split: i64) -> Builder {"
        );
        assert_eq!(known("AddN"), "pub fn add_n(inputs: &[Output]) -> Builder {");
        assert_eq!(
            known("StringJoin"),
            "pub fn string_join(graph: &Graph, inputs: &[Output]) -> StringJoinBuilder {"
        );
        assert_eq!(
            known("VarHandleOp"),
            "pub fn var_handle_op(graph: &Graph, dtype: DType, shape: impl Into<PartialShape>) -> VarHandleOpBuilder {"
        );
    }

    #[test]
    fn a_type_that_only_a_list_tells_can_be_set_where_the_list_may_be_empty() {
        let op = |n: &str| {
            OpDef::new("Join", Category::Array)
                .input("xs: N * T")
                .output("y: T")
                .attr("T: type")
                .attr(n)
        };
        assert!(items(&op("N: int >= 0")).contains("pub fn t(self, t: DType) -> Self"));
        assert_eq!(declared(&op("N: int >= 1")), "pub fn join(xs: &[Output]) -> Builder {");
    }

    #[test]
    fn every_kind_of_attribute_has_a_type() {
        let kinds = [
            ("string", "&str", "&[&str]"),
            ("int", "i64", "&[i64]"),
            ("float", "f32", "&[f32]"),
            ("bool", "bool", "&[bool]"),
            ("type", "DType", "&[DType]"),
            ("shape", "impl Into<PartialShape>", "&[PartialShape]"),
            ("tensor", "impl Into<Tensor>", "&[Tensor]"),
            ("func", "(&str, Attrs)", "&[(&str, Attrs)]"),
        ];
        for (kind, one, many) in kinds {
            let op = OpDef::new("Do", Category::User)
                .attr(&format!("name: {kind}"))
                .attr(&format!("type: list({kind})"));
            assert_eq!(
                declared(&op),
                format!("pub fn do_(graph: &Graph, name: {one}, type_: {many}) -> Builder {{")
            );
        }
    }

    #[test]
    fn names_that_meet_are_told_apart() {
        let op = OpDef::new("Meet", Category::User)
            .input("ref: Ref(float)")
            .input("graph: float")
            .attr("Graph: int")
            .attr("name: string = ''");
        let text = items(&op);
        assert!(
            text.contains("pub fn meet(ref_: &Output, graph: &Output, graph_: i64) -> MeetBuilder {"),
            "{text}"
        );
        assert!(text.contains("pub fn name_(self, name_: &str) -> Self"), "{text}");
        let body = "Builder::new(\"Meet\", ref_.graph()).input(ref_).input(graph).set(\"Graph\", graph_.into())";
        assert!(text.contains(body), "{text}");
    }
}
