//! `HashTable`, `MutableHashTable`, `MutableHashTableOfTensors`, `MutableDenseHashTable` and what works on tables.

#![forbid(unsafe_code)]

use std::sync::Arc;

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::resource::ResourceHandle;
use actorflow_core::{PartialShape, Shape, Tensor, register_ops};

use super::handle::{Handle, Place};
use super::ops::handle_type;
use super::table::{Kind, Spec, Table};
use super::table_file::Lines;
use crate::shapes;

fn agrees(wanted: &Spec, table: &Table) -> Result<()> {
    match table.spec() == wanted {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "Shared table '{}' exists as {:?}, but the node asks for {wanted:?}",
            table.name(),
            table.spec()
        ))),
    }
}

fn spec(init: &KernelInit<'_>) -> Result<Spec> {
    let value_shape = match init.attrs.get("value_shape") {
        Some(_) => init.attrs.shape("value_shape")?.clone(),
        None => PartialShape::scalar(),
    };
    Ok(Spec {
        kind: match init.op.contains("Mutable") {
            true => Kind::Mutable,
            false => Kind::Constant,
        },
        key: init.attrs.dtype("key_dtype")?,
        value: init.attrs.dtype("value_dtype")?,
        key_shape: Shape::SCALAR,
        value_shape: value_shape
            .to_shape()
            .ok_or_else(|| Error::invalid(format!("value_shape of table {} must be known", init.name)))?,
        forbidden: Vec::new(),
    })
}

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let spec = spec(init)?;
    if init.op.starts_with("Anonymous") {
        let name = init.name.to_owned();
        return Ok(Box::new(move |cx: &mut OpContext<'_>| {
            let table = Table::new(&name, spec.clone(), cx.step().resources.mailbox());
            cx.set_output(0, Tensor::resource(ResourceHandle::new(name.as_str(), Arc::new(table))));
            Ok(())
        }));
    }
    let wanted = spec.clone();
    Ok(Box::new(Handle::new(
        Place::of(init)?,
        move |name, mailbox| Ok(Table::new(name, spec.clone(), mailbox)),
        move |table: &Table| agrees(&wanted, table),
    )))
}

/// A dense table learns the shape of its keys from the keys that it may not have.
fn make_dense(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let (base, name) = (spec(init)?, init.name.to_owned());
    let anonymous = init.op.starts_with("Anonymous");
    let (mut container, mut shared) = (String::new(), String::new());
    if !anonymous {
        container = init.attrs.str("container")?.to_owned();
        shared = init.attrs.str("shared_name")?.to_owned();
    }
    let name = if shared.is_empty() { name } else { shared };
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let forbidden = (0..cx.num_inputs())
            .map(|i| cx.input(i).cloned())
            .collect::<Result<Vec<_>>>()?;
        if forbidden.windows(2).any(|w| w[0] == w[1]) {
            return Err(Error::invalid("empty_key and deleted_key must be different"));
        }
        let spec = Spec {
            key_shape: forbidden.first().map_or(Shape::SCALAR, |t| t.shape().clone()),
            forbidden,
            ..base.clone()
        };
        let resources = &cx.step().resources;
        if anonymous {
            let table = Table::new(&name, spec, resources.mailbox());
            cx.set_output(0, Tensor::resource(ResourceHandle::new(name.as_str(), Arc::new(table))));
            return Ok(());
        }
        let make = || Ok(Table::new(&name, spec.clone(), resources.mailbox()));
        let handle = resources.get_or_create(&container, &name, make)?;
        agrees(&spec, &*handle.get::<Table>()?)?;
        cx.set_output(0, Tensor::resource(handle));
        Ok(())
    }))
}

/// Works on the table behind input 0, with its turn held.
struct On<F>(F);

impl<F: Fn(&mut OpContext<'_>, &Table) -> Result<()> + Send + Sync> Kernel for On<F> {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        want.want(cx.resource::<Table>(0)?);
        Ok(())
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let table = cx.resource::<Table>(0)?;
        (self.0)(cx, &table)
    }
}

fn find(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(On(|cx: &mut OpContext<'_>, table: &Table| {
        let pool = cx.step().device.pool();
        let entries = cx.held().state(table.actor())?;
        let t = table.find(&entries, cx.input(1)?, cx.input(2)?, pool)?;
        drop(entries);
        cx.set_output(0, t);
        Ok(())
    })))
}

fn size(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(On(|cx: &mut OpContext<'_>, table: &Table| {
        let n = cx.state(table.actor())?.len();
        cx.set_output(0, Tensor::scalar(n as i64));
        Ok(())
    })))
}

fn insert(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(On(|cx: &mut OpContext<'_>, table: &Table| {
        table.insert(&mut *cx.state(table.actor())?, cx.input(1)?, cx.input(2)?)
    })))
}

fn import(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(On(|cx: &mut OpContext<'_>, table: &Table| {
        table.import(&mut *cx.state(table.actor())?, cx.input(1)?, cx.input(2)?)
    })))
}

fn initialize(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(On(|cx: &mut OpContext<'_>, table: &Table| {
        if table.spec().kind != Kind::Constant {
            return Err(Error::unimplemented(format!(
                "table {} needs no initializer; insert entries instead",
                table.name()
            )));
        }
        table.initialize(&mut *cx.state(table.actor())?, cx.input(1)?, cx.input(2)?)
    })))
}

fn remove(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(On(|cx: &mut OpContext<'_>, table: &Table| {
        table.remove(&mut *cx.state(table.actor())?, cx.input(1)?)
    })))
}

fn export(_: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    Ok(Box::new(On(|cx: &mut OpContext<'_>, table: &Table| {
        let pool = cx.step().device.pool();
        let [keys, values] = table.export(&*cx.state(table.actor())?, pool)?;
        cx.set_output(0, keys);
        cx.set_output(1, values);
        Ok(())
    })))
}

fn from_file(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let lines = Lines::of(init.attrs)?;
    Ok(Box::new(On(move |cx: &mut OpContext<'_>, table: &Table| {
        let [name] = cx.input(1)?.as_strings()? else {
            return Err(Error::invalid("filename must be one string"));
        };
        let path = std::str::from_utf8(name).map_err(|_| Error::invalid("filename is not UTF-8"))?;
        let [keys, values] = lines.read(cx.files(), path, table.spec().key, table.spec().value)?;
        table.initialize(&mut *cx.state(table.actor())?, &keys, &values)
    })))
}

/// The shape of the tables' values, as far as the handle can be followed to where it was made.
fn value_shape(cx: &ShapeContext<'_>) -> PartialShape {
    match cx.handle_maker(0) {
        Some(n) if n.attrs().get("value_shape").is_some() => {
            n.attrs().shape("value_shape").cloned().unwrap_or_default()
        }
        Some(n) if n.op_name().contains("HashTable") => PartialShape::scalar(),
        _ => PartialShape::UNKNOWN,
    }
}

fn found_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let dense = cx.handle_maker(0).is_none_or(|n| n.op_name().contains("Dense"));
    Ok(vec![match dense {
        // A dense table's keys may have a shape of their own.
        true => PartialShape::UNKNOWN,
        false => cx.input(1).concat(&value_shape(cx)),
    }])
}

fn table(name: &'static str) -> OpDef {
    let mut def = OpDef::new(name, Category::State)
        .doc("A table of keys and values that lives as long as the session.")
        .output(handle_type(
            "table_handle",
            if name.starts_with("Anonymous") { "V2" } else { name },
        ));
    if name.contains("Dense") {
        def = def.input("empty_key: key_dtype");
        if name.ends_with("V2") || name.starts_with("Anonymous") {
            def = def.input("deleted_key: key_dtype");
        }
    }
    if !name.starts_with("Anonymous") {
        def = def
            .attr("container: string = ''")
            .attr("shared_name: string = ''")
            .attr("use_node_name_sharing: bool = false");
    }
    def = def.attr("key_dtype: type").attr("value_dtype: type");
    if name.contains("OfTensors") || name.contains("Dense") {
        def = def.attr("value_shape: shape = []");
    }
    if name.contains("Dense") {
        def = def
            .attr("initial_num_buckets: int = 131072")
            .attr("max_load_factor: float = 0.8")
            .cpu(make_dense);
    } else {
        def = def.cpu(make);
    }
    def.shape(shapes::scalar).stateful().not_differentiable()
}

fn tables() -> Vec<OpDef> {
    [
        "HashTable",
        "HashTableV2",
        "MutableHashTable",
        "MutableHashTableV2",
        "MutableHashTableOfTensors",
        "MutableHashTableOfTensorsV2",
        "MutableDenseHashTable",
        "MutableDenseHashTableV2",
        "AnonymousHashTable",
        "AnonymousMutableHashTable",
        "AnonymousMutableHashTableOfTensors",
        "AnonymousMutableDenseHashTable",
    ]
    .map(table)
    .into()
}

/// Both versions of an operation on tables.
fn both(names: [&'static str; 2], doc: &'static str, kernel: KernelFn, rest: fn(OpDef) -> OpDef) -> Vec<OpDef> {
    names
        .into_iter()
        .filter(|n| !n.is_empty())
        .map(|name| {
            rest(
                OpDef::new(name, Category::State)
                    .doc(doc)
                    .input(handle_type("table_handle", name))
                    .stateful()
                    .not_differentiable()
                    .shape(shapes::none)
                    .cpu(kernel),
            )
        })
        .collect()
}

fn pairs(def: OpDef) -> OpDef {
    def.input("keys: Tin")
        .input("values: Tout")
        .attr("Tin: type")
        .attr("Tout: type")
}

fn on_tables() -> Vec<OpDef> {
    [
        both(
            ["LookupTableFind", "LookupTableFindV2"],
            "The values of keys; those without an entry get the default.",
            find,
            |d| {
                d.input("keys: Tin")
                    .input("default_value: Tout")
                    .output("values: Tout")
                    .attr("Tin: type")
                    .attr("Tout: type")
                    .shape(found_shape)
            },
        ),
        both(
            ["LookupTableSize", "LookupTableSizeV2"],
            "How many entries the table has.",
            size,
            |d| d.output("size: int64").shape(shapes::scalar),
        ),
        both(
            ["LookupTableInsert", "LookupTableInsertV2"],
            "Adds entries or replaces them.",
            insert,
            pairs,
        ),
        both(
            ["LookupTableImport", "LookupTableImportV2"],
            "Replaces all entries.",
            import,
            pairs,
        ),
        both(
            ["", "LookupTableRemoveV2"],
            "Removes the entries of keys.",
            remove,
            |d| d.input("keys: Tin").attr("Tin: type"),
        ),
        both(
            ["LookupTableExport", "LookupTableExportV2"],
            "All keys and values.",
            export,
            |d| {
                d.output("keys: Tkeys")
                    .output("values: Tvalues")
                    .attr("Tkeys: type")
                    .attr("Tvalues: type")
                    .shape(|cx| {
                        let values = PartialShape::vector(None).concat(&value_shape(cx));
                        Ok(vec![PartialShape::UNKNOWN, values])
                    })
            },
        ),
        both(
            ["InitializeTable", "InitializeTableV2"],
            "Fills a constant table.",
            initialize,
            |d| {
                d.input("keys: Tkey")
                    .input("values: Tval")
                    .attr("Tkey: type")
                    .attr("Tval: type")
            },
        ),
        both(
            ["InitializeTableFromTextFile", "InitializeTableFromTextFileV2"],
            "Fills a constant table from the lines of a file.",
            from_file,
            |d| {
                d.input("filename: string")
                    .attr("key_index: int >= -2")
                    .attr("value_index: int >= -2")
                    .attr("vocab_size: int >= -1 = -1")
                    .attr("delimiter: string = '\t'")
                    .attr("offset: int = 0")
            },
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

register_ops!(all tables);
register_ops!(all on_tables);
