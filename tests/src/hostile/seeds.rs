//! Files to begin from: sound ones, and graphs that were made to do harm.

use actorflow::graphdef::proto::{self, AttrValue, DataType, FunctionDef, GraphDef, NodeDef, attr_value::Value};
use prost::Message;
use std::path::PathBuf;

use crate::{oracle, repo};

/// Where the graphs of [`made`] are, and what was found later.
pub fn folder() -> PathBuf {
    repo::root().join("tests/data/hostile")
}

/// The files in the folder, by name.
pub fn kept() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder())
        .expect("tests/data/hostile")
        .map(|entry| entry.expect("an entry of tests/data/hostile").path())
        .filter(|path| path.extension().is_some_and(|e| e == "pb"))
        .map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("a file of tests/data/hostile"))
        })
        .collect();
    files.sort();
    files
}

/// Graphs that TensorFlow wrote, the shortest first.
pub fn sound() -> Vec<Vec<u8>> {
    let mut graphs: Vec<Vec<u8>> = oracle::cases()
        .expect("the bundled cases")
        .iter()
        .map(|case| std::fs::read(case.join("graph.pb")).expect("a bundled case"))
        .collect();
    graphs.sort_by_key(Vec::len);
    graphs
}

fn attr(v: Value) -> AttrValue {
    AttrValue { value: Some(v) }
}

fn node(name: &str, op: &str, inputs: &[&str], attrs: &[(&str, Value)]) -> NodeDef {
    NodeDef {
        name: name.into(),
        op: op.into(),
        input: inputs.iter().map(|i| (*i).into()).collect(),
        attr: attrs.iter().map(|(n, v)| ((*n).into(), attr(v.clone()))).collect(),
        ..Default::default()
    }
}

fn dtype(d: DataType) -> Value {
    Value::Type(d as i32)
}

fn shape(dims: &[i64]) -> proto::TensorShapeProto {
    proto::TensorShapeProto {
        dim: dims
            .iter()
            .map(|size| proto::tensor_shape_proto::Dim {
                size: *size,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

/// A constant of int64 with fewer values than its shape has, or as many.
fn integers(name: &str, dims: &[i64], values: &[i64]) -> NodeDef {
    let value = proto::TensorProto {
        dtype: DataType::DtInt64 as i32,
        tensor_shape: Some(shape(dims)),
        int64_val: values.to_vec(),
        ..Default::default()
    };
    node(
        name,
        "Const",
        &[],
        &[
            ("dtype", dtype(DataType::DtInt64)),
            ("value", Value::Tensor(value.into())),
        ],
    )
}

fn vector(name: &str, values: &[i64]) -> NodeDef {
    integers(name, &[values.len() as i64], values)
}

fn float(name: &str) -> NodeDef {
    let value = proto::TensorProto {
        dtype: DataType::DtFloat as i32,
        tensor_shape: Some(shape(&[])),
        float_val: vec![1.0],
        ..Default::default()
    };
    node(
        name,
        "Const",
        &[],
        &[
            ("dtype", dtype(DataType::DtFloat)),
            ("value", Value::Tensor(value.into())),
        ],
    )
}

const T: DataType = DataType::DtFloat;
const I: DataType = DataType::DtInt64;

fn call(name: &str, function: &str, inputs: &[&str]) -> NodeDef {
    let types = || {
        Value::List(Box::new(proto::attr_value::ListValue {
            r#type: vec![T as i32],
            ..Default::default()
        }))
    };
    let f = proto::NameAttrList {
        name: function.into(),
        ..Default::default()
    };
    node(
        name,
        "PartitionedCall",
        inputs,
        &[("Tin", types()), ("Tout", types()), ("f", Value::Func(f))],
    )
}

/// A function `y = f(x)` of floats whose last node is `y`.
fn function(name: &str, body: Vec<NodeDef>) -> FunctionDef {
    let arg = |name: &str| proto::op_def::ArgDef {
        name: name.into(),
        r#type: T as i32,
        ..Default::default()
    };
    FunctionDef {
        signature: Some(proto::OpDef {
            name: name.into(),
            input_arg: vec![arg("x")],
            output_arg: vec![arg("y")],
            ..Default::default()
        }),
        ret: [("y".into(), "y:output:0".into())].into(),
        node_def: body,
        ..Default::default()
    }
}

fn with_functions(node: Vec<NodeDef>, function: Vec<FunctionDef>) -> GraphDef {
    GraphDef {
        node,
        library: Some(proto::FunctionDefLibrary {
            function,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Graphs that were made to do harm, by the names of their files.
pub fn made() -> Vec<(&'static str, Vec<u8>)> {
    let graph = |node| GraphDef {
        node,
        ..Default::default()
    };
    let sized = |op: &str, dims: &[i64], attrs: &[(&str, Value)]| {
        graph(vec![
            vector("dims", dims),
            float("x"),
            node("y", op, &["dims", "x"], attrs),
        ])
    };
    let doubling = (0..40).map(|i| {
        let next = format!("f{}", i + 1);
        let body = match i {
            39 => vec![node("y", "Identity", &["x"], &[("T", dtype(T))])],
            _ => vec![call("a", &next, &["x"]), call("y", &next, &["a:output:0"])],
        };
        function(&format!("f{i}"), body)
    });
    let t = || ("T", dtype(T));
    let identity = |name: &str, inputs: &[&str]| node(name, "Identity", inputs, &[t()]);
    let deep = (0..120).fold(Value::I(0), |inner, _| {
        Value::Func(proto::NameAttrList {
            name: "f".into(),
            attr: [("a".into(), attr(inner))].into(),
        })
    });
    let graphs = [
        (
            "recursive_function.pb",
            with_functions(
                vec![float("x"), call("y", "f", &["x"])],
                vec![function("f", vec![call("y", "f", &["x"])])],
            ),
        ),
        (
            "functions_that_call_each_other.pb",
            with_functions(
                vec![float("x"), call("y", "f", &["x"])],
                vec![
                    function("f", vec![call("y", "g", &["x"])]),
                    function("g", vec![call("y", "f", &["x"])]),
                ],
            ),
        ),
        (
            "functions_that_double_forty_times.pb",
            with_functions(vec![float("x"), call("y", "f0", &["x"])], doubling.collect()),
        ),
        (
            "constant_of_a_trillion.pb",
            graph(vec![integers("y", &[1 << 20, 1 << 20], &[1])]),
        ),
        (
            "constant_beyond_64_bits.pb",
            graph(vec![integers("y", &[1 << 62, 4], &[1])]),
        ),
        (
            "constant_of_negative_extent.pb",
            graph(vec![integers("y", &[-5, 3], &[1])]),
        ),
        (
            "constant_with_too_many_values.pb",
            graph(vec![integers("y", &[2], &[1, 2, 3])]),
        ),
        (
            "placeholder_of_huge_extents.pb",
            graph(vec![
                node(
                    "x",
                    "Placeholder",
                    &[],
                    &[
                        ("dtype", dtype(T)),
                        ("shape", Value::Shape(shape(&[1 << 40, 1 << 40, 1 << 40]))),
                    ],
                ),
                node("y", "Shape", &["x"], &[t()]),
            ]),
        ),
        (
            "fill_beyond_the_memory.pb",
            sized("Fill", &[1 << 31, 1 << 31], &[t(), ("index_type", dtype(I))]),
        ),
        (
            "fill_of_negative_extent.pb",
            sized("Fill", &[-1], &[t(), ("index_type", dtype(I))]),
        ),
        (
            "tile_beyond_the_memory.pb",
            graph(vec![
                vector("x", &[1, 2, 3]),
                vector("n", &[1 << 61]),
                node("y", "Tile", &["x", "n"], &[("T", dtype(I)), ("Tmultiples", dtype(I))]),
            ]),
        ),
        (
            "pad_beyond_the_memory.pb",
            graph(vec![
                vector("x", &[1, 2, 3]),
                integers("n", &[1, 2], &[i64::MAX, i64::MAX]),
                node("y", "Pad", &["x", "n"], &[("T", dtype(I)), ("Tpaddings", dtype(I))]),
            ]),
        ),
        (
            "pad_by_less_than_nothing.pb",
            graph(vec![
                vector("x", &[1, 2, 3]),
                integers("n", &[1, 2], &[-2, -2]),
                node("y", "Pad", &["x", "n"], &[("T", dtype(I)), ("Tpaddings", dtype(I))]),
            ]),
        ),
        (
            "range_without_end.pb",
            graph(vec![
                integers("from", &[], &[0]),
                integers("to", &[], &[i64::MAX]),
                integers("by", &[], &[1]),
                node("y", "Range", &["from", "to", "by"], &[("Tidx", dtype(I))]),
            ]),
        ),
        (
            "range_that_goes_nowhere.pb",
            graph(vec![
                integers("from", &[], &[0]),
                integers("by", &[], &[0]),
                node("y", "Range", &["from", "from", "by"], &[("Tidx", dtype(I))]),
            ]),
        ),
        (
            "random_numbers_beyond_the_memory.pb",
            graph(vec![
                vector("dims", &[1 << 40, 1 << 20]),
                node("y", "RandomUniform", &["dims"], &[("dtype", dtype(T)), ("T", dtype(I))]),
            ]),
        ),
        ("cycle.pb", graph(vec![identity("a", &["y"]), identity("y", &["a"])])),
        ("node_that_needs_itself.pb", graph(vec![identity("y", &["y"])])),
        (
            "cycle_of_control.pb",
            graph(vec![node("a", "NoOp", &["^y"], &[]), node("y", "NoOp", &["^a"], &[])]),
        ),
        ("two_nodes_of_one_name.pb", graph(vec![float("y"), float("y")])),
        (
            "output_that_is_not_there.pb",
            graph(vec![float("x"), identity("y", &["x:2147483647"])]),
        ),
        (
            "attributes_too_deep.pb",
            graph(vec![node("y", "NoOp", &[], &[("a", deep)])]),
        ),
        (
            "thousands_of_empty_nodes.pb",
            graph((0..4000).map(|_| NodeDef::default()).collect()),
        ),
        (
            "loop_without_end.pb",
            graph(vec![
                float("x"),
                node(
                    "enter",
                    "Enter",
                    &["x"],
                    &[t(), ("frame_name", Value::S(b"loop".to_vec().into()))],
                ),
                node("merge", "Merge", &["enter", "next"], &[t(), ("N", Value::I(2))]),
                identity("body", &["merge"]),
                node("next", "NextIteration", &["body"], &[t()]),
                node("y", "Exit", &["merge"], &[t()]),
            ]),
        ),
    ];
    graphs.into_iter().map(|(n, g)| (n, g.encode_to_vec())).collect()
}
