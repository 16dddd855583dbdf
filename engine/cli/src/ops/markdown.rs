//! The table of all operations as a page of documentation, `docs/ops.md`.

use std::collections::BTreeMap;
use std::fmt::Write;

use actorflow::AttrValue;
use actorflow::op::{ArgType, AttrDef, AttrKind, Category, OpDef};

use super::{devices, dtypes, gradient};

/// A default value of more characters than this is left out.
const LONG: usize = 16;

const HEAD: &str = r#"# Operations

Every operation that the engine has. Names, attributes and semantics are TensorFlow's. `actorflow ops --json --filter NAME` says more,
such as the inputs and outputs in their order, and `actorflow ops --markdown > docs/ops.md` writes this page.

The common ones are methods of outputs (`x.matmul(&w)?`, `&a + &b`) and functions of `actorflow::nn`, `flow`, `queue` and `train`. All but
those that begin with an underscore have a typed function in `actorflow::ops`, named as in TensorFlow's generated Python code, and every
one is built by name. Inputs, attributes, dtypes and shapes are checked when the node is added; an error names the node and the line.

```rust
use actorflow::{Graph, Result, Session, Tensor, ops};

fn main() -> Result<()> {
    let g = Graph::new();
    let x = g.constant(Tensor::from([2f32, -2.0]))?;
    let y = ops::leaky_relu(&x).alpha(0.25).output()?;
    let same = g.op("LeakyRelu").input(&x).attr("alpha", 0.25f32).output()?;
    let values = Session::new(&g)?.run(&[], &[&y, &same])?;
    assert_eq!(values[0], Tensor::from([2f32, -0.5]));
    assert_eq!(values[0], values[1]);
    assert!(g.op("LeakyRelu").output().is_err());
    Ok(())
}
```

- **Dtypes**: what the tensors may be. *Reals* are floats and integers; *numbers* are reals and complex numbers.
- **Attributes**: with their defaults; one without is required. Those that follow from the inputs are left out.
- **Gradient**: *yes*; *stop* where gradients end, as at an `ArgMax`; *no* where none is defined.
"#;

/// The page.
pub(super) fn page(ops: &[&OpDef]) -> Result<String, std::fmt::Error> {
    let mut by_category = BTreeMap::<Category, Vec<&OpDef>>::new();
    for op in ops {
        by_category.entry(op.category()).or_default().push(op);
    }
    let mut page = HEAD.to_owned();
    writeln!(page, "\n{} operations:", ops.len())?;
    for (category, ops) in &by_category {
        let name = category.to_string();
        writeln!(page, "[{name}](#{}) {} ·", name.replace(' ', "-"), ops.len())?;
    }
    // The last one has nothing after it.
    page.truncate(page.trim_end_matches([' ', '·', '\n']).len());
    page.push('\n');
    for (category, ops) in &by_category {
        writeln!(page, "\n## {category}\n")?;
        page.push_str("| operation | dtypes | attributes | gradient | devices |\n|---|---|---|---|---|\n");
        for op in ops {
            writeln!(
                page,
                "| `{}` | {} | {} | {} | {} |",
                op.name(),
                dtypes::describe(&dtypes::of(op)),
                attributes(op),
                gradient(op),
                devices(op).join(", "),
            )?;
        }
    }
    Ok(page)
}

/// Whether an attribute follows from what is connected to the inputs.
fn is_inferred(op: &OpDef, attr: &AttrDef) -> bool {
    op.inputs().iter().any(|input| match &input.ty {
        _ if input.number.as_ref() == Some(&attr.name) => true,
        ArgType::Attr(a) | ArgType::TypeList(a) => attr.kind == AttrKind::Type && *a == attr.name,
        ArgType::Fixed(_) => false,
    })
}

fn attributes(op: &OpDef) -> String {
    let given = op.attrs().iter().filter(|attr| !is_inferred(op, attr));
    let texts: Vec<String> = given
        .map(|attr| match &attr.default {
            None => format!("`{}`", attr.name),
            Some(default) => match value(default) {
                text if text.chars().count() > LONG => format!("`{}=…`", attr.name),
                text => format!("`{}={text}`", attr.name),
            },
        })
        .collect();
    texts.join(" ")
}

fn value(v: &AttrValue) -> String {
    match v {
        // A bar would end the cell of the table.
        AttrValue::Str(s) => format!("{:?}", String::from_utf8_lossy(s)).replace('|', "\\|"),
        AttrValue::List(items) => format!("[{}]", items.iter().map(value).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow::op::registry;

    #[test]
    fn a_row_says_what_a_program_has_to_know() {
        let page = page(&[registry().find("Conv2D").unwrap()]).unwrap();
        let row = page.lines().find(|line| line.starts_with("| `Conv2D` |")).unwrap();
        for part in ["`strides`", "`padding`", "`data_format=\"NHWC\"`", "| yes | CPU |"] {
            assert!(row.contains(part), "{row}");
        }
        assert!(!row.contains("`T`"), "the dtype follows from the inputs: {row}");
    }

    #[test]
    fn every_operation_has_one_row_of_five_short_cells() {
        let ops: Vec<&OpDef> = registry().iter().collect();
        let page = page(&ops).unwrap();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), ops.len());
        for row in rows {
            assert_eq!(row.replace("\\|", "").matches('|').count(), 6, "{row}");
            assert!(row.chars().count() < 600, "{row}");
        }
    }
}
