//! `actorflow ops`: what the engine has.

mod builders;
mod dtypes;
mod markdown;

use std::io::Write;
use std::path::PathBuf;

use actorflow::AttrValue;
use actorflow::op::{ArgDef, ArgType, AttrDef, AttrKind, Gradient, OpDef, registry};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::glob::{matches, matches_any};

/// List the operations that the engine has.
///
/// A row has the name, the group, the devices, how gradients flow (`yes`; `stop` where they end, as at an ArgMax;
/// `no` where none is defined) and the dtypes. A filter that no operation matches is a mistake.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only operations whose name matches, such as 'Conv*'; may be given several times
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Everything about each operation as a JSON array
    #[arg(long)]
    json: bool,
    /// The table as a page of Markdown, by category, with the attributes
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Write the typed functions of the Rust module `actorflow::ops` into this folder, a file for each category
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "markdown", "filter"])]
    builders: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    registry().check()?;
    let ops: Vec<&OpDef> = registry()
        .iter()
        .filter(|op| matches_any(&args.filter, op.name()))
        .collect();
    let idle = |pattern: &&String| !ops.iter().any(|op| matches(pattern, op.name()));
    if let Some(pattern) = args.filter.iter().find(idle) {
        return Err(Failure::Usage(format!(
            "--filter {pattern:?}: no operation has such a name; a name is matched as a whole, as by 'Conv*'"
        )));
    }
    let mut out = std::io::stdout().lock();
    if let Some(folder) = &args.builders {
        let files = builders::write(&ops, folder)?;
        writeln!(out, "{files} files written to {}", folder.display())?;
        return Ok(());
    }
    if args.json {
        let rows: Vec<Value> = ops.iter().map(|op| describe(op)).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    if args.markdown {
        let page = markdown::page(&ops).map_err(std::io::Error::other)?;
        out.write_all(page.as_bytes())?;
        return Ok(());
    }
    let width = ops.iter().map(|op| op.name().len()).max().unwrap_or(0).max(9);
    writeln!(
        out,
        "{:width$}  {:13}  {:7}  {:8}  DTYPES",
        "OPERATION", "CATEGORY", "DEVICES", "GRADIENT"
    )?;
    for op in &ops {
        writeln!(
            out,
            "{:width$}  {:13}  {:7}  {:8}  {}",
            op.name(),
            op.category().to_string(),
            devices(op).join(","),
            gradient(op),
            dtypes::describe(&dtypes::of(op)),
        )?;
    }
    writeln!(out, "{} operations", ops.len())?;
    Ok(())
}

fn devices(op: &OpDef) -> Vec<&'static str> {
    match op.cpu_kernel() {
        Some(_) => vec!["CPU"],
        None => Vec::new(),
    }
}

fn gradient(op: &OpDef) -> &'static str {
    match op.gradient_of() {
        Gradient::Function(_) => "yes",
        Gradient::NotDifferentiable => "stop",
        Gradient::Undefined => "no",
    }
}

fn describe(op: &OpDef) -> Value {
    json!({
        "name": op.name(),
        "category": op.category().to_string(),
        "description": op.description(),
        "signature": op.to_string(),
        "inputs": op.inputs().iter().map(argument).collect::<Vec<_>>(),
        "outputs": op.outputs().iter().map(argument).collect::<Vec<_>>(),
        "attributes": op.attrs().iter().map(attribute).collect::<Vec<_>>(),
        "dtypes": dtypes::of(op).iter().map(|d| d.name()).collect::<Vec<_>>(),
        "devices": devices(op),
        "differentiable": matches!(op.gradient_of(), Gradient::Function(_)),
        "gradient": gradient(op),
        "stateful": op.is_stateful(),
        "commutative": op.is_commutative(),
        "control_flow": op.is_control_flow(),
    })
}

fn argument(arg: &ArgDef) -> Value {
    let ty = match &arg.ty {
        ArgType::Fixed(d) => d.name(),
        ArgType::Attr(a) | ArgType::TypeList(a) => a,
    };
    json!({ "name": arg.name, "type": ty, "list": arg.is_list(), "number": arg.number, "ref": arg.is_ref })
}

fn attribute(attr: &AttrDef) -> Value {
    let kind = match attr.is_list {
        true => format!("list({})", attr.kind.name()),
        false => attr.kind.name().to_owned(),
    };
    let allowed = match attr.kind {
        AttrKind::Type => attr
            .types
            .as_ref()
            .map(|t| t.iter().map(|d| d.name().to_owned()).collect::<Vec<_>>()),
        _ => attr.strings.clone(),
    };
    json!({
        "name": attr.name,
        "type": kind,
        "default": attr.default.as_ref().map(value),
        "minimum": attr.minimum,
        "allowed": allowed,
    })
}

fn value(v: &AttrValue) -> Value {
    match v {
        AttrValue::Str(s) => json!(String::from_utf8_lossy(s)),
        AttrValue::Int(i) => json!(i),
        AttrValue::Float(x) => json!(x),
        AttrValue::Bool(b) => json!(b),
        AttrValue::List(items) => Value::Array(items.iter().map(value).collect()),
        other => json!(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_can_be_described() {
        for op in registry().iter() {
            let d = describe(op);
            assert_eq!(d["name"], op.name());
            assert!(d["attributes"].is_array() && d["dtypes"].is_array());
        }
        let op = registry().find("Const").unwrap();
        assert_eq!(describe(op)["gradient"], "stop");
    }
}
