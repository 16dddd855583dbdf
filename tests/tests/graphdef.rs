//! Graphs written by TensorFlow: what comes in goes out again, and no bytes, however broken, do harm.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::fs;
use std::sync::OnceLock;

use actorflow::Operation;
use actorflow::graphdef::decode::DecodeLimits;
use actorflow::graphdef::proto::{self, AttrValue, GraphDef, attr_value::Value};
use actorflow::graphdef::{ImportOptions, ImportedGraph, export_graph, import_graph, import_with};
use actorflow_tests::oracle;
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;

fn graphs() -> &'static [(String, Bytes)] {
    static GRAPHS: OnceLock<Vec<(String, Bytes)>> = OnceLock::new();
    let read = |case: &std::path::PathBuf| {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        (name, Bytes::from(fs::read(case.join("graph.pb")).unwrap()))
    };
    GRAPHS.get_or_init(|| oracle::cases().unwrap().iter().map(read).collect())
}

#[track_caller]
fn same_graph(name: &str, a: &ImportedGraph, b: &ImportedGraph) {
    let (left, right) = (a.graph.nodes(), b.graph.nodes());
    assert_eq!(left.len(), right.len(), "{name}");
    for (m, n) in left.iter().zip(&right) {
        let at = format!("{name}: {}", m.name());
        assert_eq!((m.name(), m.op_name()), (n.name(), n.op_name()), "{at}");
        assert_eq!(m.attrs(), n.attrs(), "{at}");
        assert_eq!(m.inputs(), n.inputs(), "{at}");
        assert_eq!(m.control_inputs(), n.control_inputs(), "{at}");
        assert_eq!((m.device(), m.colocate_with()), (n.device(), n.colocate_with()), "{at}");
        assert_eq!(m.output_types(), n.output_types(), "{at}");
        for i in 0..m.num_outputs() {
            assert_eq!(m.output_shape(i), n.output_shape(i), "{at}");
            assert_eq!(m.output_is_ref(i), n.output_is_ref(i), "{at}");
        }
    }
}

#[test]
fn every_bundled_graph_survives_export_and_import() {
    for (name, bytes) in graphs() {
        let first = import_graph(bytes.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let written = export_graph(&first.graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let second = import_graph(written.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        same_graph(name, &first, &second);
        assert_eq!(export_graph(&second.graph).unwrap(), written, "{name}");
        assert!(first.unknown_attrs.is_empty(), "{name}: {:?}", first.unknown_attrs);
    }
}

#[test]
fn the_order_of_the_nodes_in_the_file_does_not_matter() {
    for (name, bytes) in graphs() {
        let straight = import_graph(bytes.clone()).unwrap();
        let mut def = GraphDef::decode(bytes.clone()).unwrap();
        def.node.reverse();
        let reversed = import_graph(def.encode_to_vec()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for op in &straight.operations {
            let other = reversed.graph.operation(&op.name()).unwrap();
            let inputs = |op: &Operation| -> Vec<String> {
                (0..op.node().inputs().len())
                    .map(|i| op.input(i).unwrap().name())
                    .collect()
            };
            assert_eq!(inputs(op), inputs(&other), "{name}");
            assert_eq!(op.node().attrs(), other.node().attrs(), "{name}");
        }
    }
}

/// Imports within limits that keep a hostile file from hurting the machine that runs the tests.
fn import(bytes: Bytes) -> actorflow::Result<ImportedGraph> {
    let limits = DecodeLimits {
        max_memory: 64 << 20,
        ..Default::default()
    };
    import_with(bytes, &ImportOptions::new().limits(limits).max_constants(16 << 20))
}

/// A change of a file's bytes.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Cut(Index),
    Remove(Index, u8),
    Repeat(Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Damage::Set(i, b)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), 1u8..20).prop_map(|(i, n)| Damage::Remove(i, n)),
        1 => (any::<Index>(), 1u8..100).prop_map(|(i, n)| Damage::Repeat(i, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match damage {
        Damage::Set(i, b) => bytes[i.index(len)] = *b,
        Damage::Cut(i) => bytes.truncate(i.index(len)),
        Damage::Remove(i, n) => {
            let at = i.index(len);
            bytes.drain(at..len.min(at + usize::from(*n)));
        }
        Damage::Repeat(i, n) => {
            let at = i.index(len);
            let piece = bytes[at..len.min(at + usize::from(*n))].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

/// A change of a well-formed file's meaning, which gets further than broken bytes.
#[derive(Debug, Clone)]
enum Change {
    /// A node becomes another operation.
    Op(Index, Index),
    /// An input reads something else, or one is added or removed.
    Input(Index, Index, Index, u8),
    /// An attribute takes the value of another node's.
    Attr(Index, Index, Index, Index),
    RemoveAttr(Index, Index),
    /// A number in an attribute.
    Int(Index, Index, i64),
    /// A dimension of a shape or of a constant.
    Dim(Index, Index, i64),
    RemoveNode(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let i = any::<Index>;
    let number = || prop_oneof![-3i64..10, Just(i64::MAX), Just(i64::MIN), Just(1 << 31), Just(1 << 20)];
    prop_oneof![
        (i(), i()).prop_map(|(a, b)| Change::Op(a, b)),
        (i(), i(), i(), any::<u8>()).prop_map(|(a, b, c, d)| Change::Input(a, b, c, d)),
        (i(), i(), i(), i()).prop_map(|(a, b, c, d)| Change::Attr(a, b, c, d)),
        (i(), i()).prop_map(|(a, b)| Change::RemoveAttr(a, b)),
        (i(), i(), number()).prop_map(|(a, b, n)| Change::Int(a, b, n)),
        (i(), i(), number()).prop_map(|(a, b, n)| Change::Dim(a, b, n)),
        i().prop_map(Change::RemoveNode),
    ]
}

fn nth_attr<'a>(def: &'a mut GraphDef, node: &Index, attr: &Index) -> Option<&'a mut AttrValue> {
    let at = node.index(def.node.len());
    let attrs = &mut def.node[at].attr;
    let n = attrs.len();
    (n > 0).then(|| attrs.values_mut().nth(attr.index(n)))?
}

fn set_dim(shape: Option<&mut proto::TensorShapeProto>, size: i64) {
    if let Some(shape) = shape {
        match shape.dim.first_mut() {
            Some(d) => d.size = size,
            None => shape.dim.push(proto::tensor_shape_proto::Dim {
                size,
                name: String::new(),
            }),
        }
    }
}

fn edit(def: &mut GraphDef, change: &Change, ops: &[&str]) {
    let n = def.node.len();
    if n == 0 {
        return;
    }
    match change {
        Change::Op(node, op) => def.node[node.index(n)].op = ops[op.index(ops.len())].to_owned(),
        Change::Input(node, input, from, output) => {
            let name = def.node[from.index(n)].name.clone();
            let text = match output % 8 {
                7 => format!("^{name}"),
                o => format!("{name}:{o}"),
            };
            let inputs = &mut def.node[node.index(n)].input;
            match input.index(inputs.len() + 2) {
                0 => inputs.push(text),
                1 => drop(inputs.pop()),
                i => inputs[i - 2] = text,
            }
        }
        Change::Attr(node, attr, other, from) => {
            if let Some(value) = nth_attr(def, other, from).cloned()
                && let Some(slot) = nth_attr(def, node, attr)
            {
                *slot = value;
            }
        }
        Change::RemoveAttr(node, attr) => {
            let attrs = &mut def.node[node.index(n)].attr;
            if !attrs.is_empty()
                && let Some(key) = attrs.keys().nth(attr.index(attrs.len())).cloned()
            {
                attrs.remove(&key);
            }
        }
        Change::Int(node, attr, number) => match nth_attr(def, node, attr).and_then(|a| a.value.as_mut()) {
            Some(Value::I(i)) => *i = *number,
            Some(Value::Type(t)) => *t = *number as i32,
            Some(Value::List(l)) => l.i.iter_mut().for_each(|i| *i = *number),
            Some(Value::Tensor(t)) => t.tensor_content = Bytes::new(),
            _ => {}
        },
        Change::Dim(node, attr, size) => match nth_attr(def, node, attr).and_then(|a| a.value.as_mut()) {
            Some(Value::Shape(s)) => set_dim(Some(s), *size),
            Some(Value::Tensor(t)) => set_dim(t.tensor_shape.as_mut(), *size),
            _ => {}
        },
        Change::RemoveNode(node) => drop(def.node.remove(node.index(n))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broken_bytes_are_errors_and_never_panics(
        which in any::<Index>(),
        damage in prop::collection::vec(damage(), 1..6),
    ) {
        let graphs = graphs();
        let mut bytes = graphs[which.index(graphs.len())].1.to_vec();
        for d in &damage {
            apply(&mut bytes, d);
        }
        if let Err(e) = import(bytes.into()) {
            prop_assert!(!e.message().is_empty());
        }
    }

    #[test]
    fn changed_graphs_are_errors_or_graphs_that_can_be_written(
        which in any::<Index>(),
        changes in prop::collection::vec(change(), 1..5),
    ) {
        let graphs = graphs();
        let ops: Vec<&str> = actorflow::op::registry().iter().map(|op| op.name()).collect();
        let mut def = GraphDef::decode(graphs[which.index(graphs.len())].1.clone()).unwrap();
        for c in &changes {
            edit(&mut def, c, &ops);
        }
        if let Ok(g) = import(def.encode_to_vec().into()) {
            let written = export_graph(&g.graph).unwrap();
            let again = import(written);
            prop_assert!(again.is_ok(), "{}", again.unwrap_err());
        }
    }
}
