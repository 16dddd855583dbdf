#![allow(clippy::cloned_ref_to_slice_refs)]
use super::super::{export_graph, graph_to_def};
use super::*;
use actorflow_core::op::Category;
use actorflow_core::{Code, PartialShape, Tensor, register_ops};
use prost::Message;

/// An operation with every kind of input and attribute.
fn everything() -> OpDef {
    OpDef::new("ImportTestEverything", Category::User)
        .input("x: T")
        .input("many: N * T")
        .input("any: Tany")
        .output("y: T")
        .output("ys: N * T")
        .output("z: Tany")
        .attr("T: type")
        .attr("N: int >= 1")
        .attr("Tany: list(type) >= 0 = []")
        .attr("flag: bool = true")
        .attr("eps: float = 0.5")
        .attr("mode: {'A', 'B'} = 'A'")
        .attr("shapes: list(shape) = []")
}

register_ops!(everything);

fn attr(v: AttrValue) -> proto::AttrValue {
    super::super::attrs::attr_to_message(&v, None).unwrap()
}

fn node(name: &str, op: &str, input: &[&str], attrs: &[(&str, AttrValue)]) -> NodeDef {
    NodeDef {
        name: name.into(),
        op: op.into(),
        input: input.iter().map(|i| (*i).to_owned()).collect(),
        attr: attrs.iter().map(|(k, v)| ((*k).to_owned(), attr(v.clone()))).collect(),
        ..Default::default()
    }
}

fn constant(name: &str, value: f32) -> NodeDef {
    let attrs = [
        ("value", AttrValue::Tensor(Tensor::scalar(value))),
        ("dtype", AttrValue::Type(DType::F32)),
    ];
    node(name, "Const", &[], &attrs)
}

fn def(node: Vec<NodeDef>) -> GraphDef {
    GraphDef {
        node,
        ..Default::default()
    }
}

fn import(nodes: Vec<NodeDef>) -> Result<ImportedGraph> {
    import_graph(def(nodes).encode_to_vec())
}

fn t(d: DType) -> AttrValue {
    AttrValue::Type(d)
}

#[test]
fn edges_attributes_devices_and_colocation_arrive() {
    let mut id = node("id", "Identity", &["e:1", "^k"], &[("T", t(DType::F32))]);
    id.device = "/job:ps/task:1".into();
    id.attr.insert(
        "_class".into(),
        attr(vec!["loc:@k".to_owned(), "other".to_owned()].into()),
    );
    id.attr.insert("_note".into(), attr(7i64.into()));
    id.attr
        .insert("_output_shapes".into(), attr(vec![PartialShape::from([9])].into()));
    let everything = node(
        "e",
        "ImportTestEverything",
        &["k", "k:0", "k", "k"],
        &[
            ("T", t(DType::F32)),
            ("N", 2i64.into()),
            ("Tany", vec![DType::F32].into()),
            ("mode", "B".into()),
        ],
    );
    let g = import(vec![id, everything, constant("k", 2.0)]).unwrap();
    let names: Vec<String> = g.operations.iter().map(Operation::name).collect();
    assert_eq!(names, ["id", "e", "k"], "in the order of the file");
    let (id, e, k) = (&g.operations[0], &g.operations[1], &g.operations[2]);
    assert_eq!(id.input(0).unwrap(), e.output(1).unwrap());
    assert_eq!(id.node().control_inputs(), [k.id()]);
    assert_eq!(id.node().device(), "/job:ps/task:1");
    assert_eq!(id.node().colocate_with(), ["k"]);
    assert_eq!(id.attr("_class"), Some(vec!["other".to_owned()].into()));
    assert_eq!(id.attr("_note"), Some(7i64.into()));
    assert_eq!(id.attr("_output_shapes"), None);
    assert_eq!(e.outputs().len(), 4);
    assert_eq!(e.attr("eps"), Some(0.5f32.into()), "defaults are filled in");
    assert_eq!(e.attr("mode"), Some("B".into()));
    assert_eq!(k.output(0).unwrap().shape(), PartialShape::scalar());
}

#[test]
fn all_unsupported_operations_are_one_error() {
    let e = import(vec![
        node("a", "NoSuchOp", &["nowhere"], &[]),
        node("b", "AnotherOne", &[], &[]),
        node("c", "NoSuchOp", &[], &[]),
        node("q", "Identity", &["b"], &[]),
        {
            let mut n = constant("d", 1.0);
            let tiny = proto::AttrValue {
                value: Some(Value::Type(proto::DataType::DtFloat8E5m2 as i32)),
            };
            n.attr.insert("dtype".into(), tiny);
            n
        },
    ])
    .unwrap_err();
    assert_eq!(e.code(), Code::Unimplemented);
    for part in [
        "3 operations",
        "NoSuchOp (2 nodes, one is \"a\")",
        "AnotherOne (node \"b\")",
        "Const of DT_FLOAT8_E5M2 (node \"d\")",
    ] {
        assert!(e.message().contains(part), "{part} is missing in {e}");
    }
    assert!(!e.to_string().contains('\n'));
}

#[test]
fn the_library_is_kept_and_its_calls_become_nodes() {
    let function = proto::FunctionDef {
        signature: Some(proto::OpDef {
            name: "nothing".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut d = def(vec![constant("k", 1.0), node("call", "nothing", &[], &[])]);
    d.library = Some(FunctionDefLibrary {
        function: vec![function],
        ..Default::default()
    });
    let g = import_graph(d.encode_to_vec()).unwrap();
    assert_eq!(g.library.function.len(), 1);
    assert_eq!(g.to_def().unwrap().library, d.library);
    assert_eq!(g.graph.operation("call").unwrap().def().name(), "NoOp");
}

#[test]
fn errors_name_the_node() {
    let k = || constant("k", 1.0);
    let cases = [
        (
            node("x", "Identity", &["k:1"], &[("T", t(DType::F32))]),
            "output 1 of k",
        ),
        (node("x", "Identity", &[], &[("T", t(DType::F32))]), "inputs"),
        (node("x", "Identity", &["k", "k"], &[("T", t(DType::F32))]), "too many"),
        (node("x", "Identity", &["k"], &[("T", t(DType::I32))]), "int32"),
        (node("x", "Identity", &["k"], &[("T", 3i64.into())]), "type"),
        (
            node(
                "x",
                "ImportTestEverything",
                &["k", "k"],
                &[("T", t(DType::F32)), ("N", i64::MAX.into())],
            ),
            "inputs",
        ),
        (
            node(
                "x",
                "ImportTestEverything",
                &["k"],
                &[("T", t(DType::F32)), ("N", (-1i64).into())],
            ),
            "\"N\"",
        ),
        (
            node(
                "x",
                "Identity",
                &["k"],
                &[("_class", vec!["loc:@gone".to_owned()].into())],
            ),
            "gone",
        ),
    ];
    for (n, part) in cases {
        let e = import(vec![k(), n]).unwrap_err();
        assert_eq!((e.code(), e.node()), (Code::InvalidArgument, Some("x")), "{e}");
        assert!(e.message().contains(part), "{part} is missing in {e}");
    }
    assert_eq!(
        import_graph(&b"\xff\xff"[..]).unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[test]
fn an_import_into_a_graph_can_be_prefixed_and_mapped() {
    let graph = Graph::new();
    let p = graph.placeholder("p", DType::F32, PartialShape::from([3])).unwrap();
    let mut id = node(
        "id",
        "Identity",
        &["image:0", "^start"],
        &[("_class", vec!["loc:@k".to_owned()].into())],
    );
    id.device = String::new();
    let d = def(vec![constant("k", 1.0), id]);
    let options = ImportOptions::new()
        .prefix("net/")
        .default_device("/cpu:1")
        .map_input("image", &p)
        .map_control("^start", &p.op());
    let g = import_into(&graph, &d, &options).unwrap();
    let id = graph.operation("net/id").unwrap();
    assert_eq!(g.operations[1], id);
    assert_eq!(id.input(0).unwrap(), p);
    assert_eq!(id.output(0).unwrap().shape(), PartialShape::from([3]));
    assert_eq!(id.node().control_inputs(), [p.op().id()]);
    assert_eq!(id.node().colocate_with(), ["net/k"]);
    assert_eq!(id.node().device(), "/cpu:1");
    let again = import_into(&graph, &d, &options).unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    let other = Graph::new()
        .placeholder("p", DType::F32, PartialShape::UNKNOWN)
        .unwrap();
    let e = import_into(&graph, &d, &options.prefix("again").map_input("image", &other)).unwrap_err();
    assert!(e.message().contains("another graph"), "{e}");
}

#[test]
fn attributes_that_our_definition_lacks_are_left_out_and_listed() {
    let mut n = constant("k", 1.0);
    n.attr.insert("invented_later".into(), attr(true.into()));
    let g = import(vec![n]).unwrap();
    assert_eq!(g.unknown_attrs, [("k".to_owned(), "invented_later".to_owned())]);
    assert_eq!(g.operations[0].attr("invented_later"), None);
}

#[test]
fn constants_are_bounded_together() {
    let big = |name: &str| {
        let mut n = constant(name, 1.0);
        n.attr.insert(
            "value".into(),
            attr(AttrValue::Tensor(Tensor::full([1000], 1.0f32).unwrap())),
        );
        n
    };
    let d = def(vec![big("a"), big("b"), big("c")]);
    let options = ImportOptions::new().max_constants(10_000);
    let e = import_into(&Graph::new(), &d, &options).unwrap_err();
    assert_eq!((e.code(), e.node()), (Code::ResourceExhausted, Some("c")));
}

#[test]
fn the_default_device_leaves_nodes_alone_that_are_colocated_with_a_node_on_a_device() {
    let mut k = constant("k", 1.0);
    k.device = "/job:ps".to_owned();
    let beside = node(
        "id",
        "Identity",
        &["k"],
        &[("_class", vec!["loc:@k".to_owned()].into())],
    );
    let options = ImportOptions::new().default_device("/job:worker");
    let nodes = vec![k, beside, constant("free", 1.0)];
    let g = import_into(&Graph::new(), &def(nodes), &options).unwrap();
    let devices: Vec<String> = g.operations.iter().map(|o| o.node().device().to_owned()).collect();
    assert_eq!(devices, ["/job:ps", "", "/job:worker"]);
}

#[test]
fn a_malformed_device_of_a_file_is_refused_with_the_node() {
    let mut k = constant("k", 1.0);
    k.device = "/job:ps/tusk:1".to_owned();
    let e = import(vec![k]).unwrap_err();
    assert_eq!((e.code(), e.node()), (Code::InvalidArgument, Some("k")));
    assert!(e.message().contains("tusk:1"), "{e}");
}

#[test]
fn a_graph_built_by_hand_round_trips() {
    let g = Graph::new();
    let _dev = g.device_scope("/job:worker/device:CPU:1");
    let k = g.constant([[1.0f32, 2.0], [3.0, f32::NEG_INFINITY]]).unwrap();
    let e = g
        .op("ImportTestEverything")
        .input(&k)
        .input_list(&[k.clone(), k.clone()])
        .input_list(&[])
        .attr(
            "shapes",
            vec![PartialShape::UNKNOWN, PartialShape::new([Some(3), None])],
        )
        .attr("_private", "x")
        .finish()
        .unwrap();
    let _c = g.colocate_with(&e).unwrap();
    let id = g
        .op("Identity")
        .input(&e.output(2).unwrap())
        .control_input(&k.op())
        .name("scope/last")
        .finish()
        .unwrap();
    assert_eq!(id.node().colocate_with(), [e.name()]);
    let bytes = export_graph(&g).unwrap();
    let back = import_graph(bytes.clone()).unwrap();
    assert_eq!(export_graph(&back.graph).unwrap(), bytes);
    for (a, b) in g.nodes().iter().zip(back.graph.nodes()) {
        assert_eq!((a.name(), a.op_name()), (b.name(), b.op_name()));
        assert_eq!(a.attrs(), b.attrs(), "{}", a.name());
        assert_eq!(a.inputs(), b.inputs());
        assert_eq!(a.control_inputs(), b.control_inputs());
        assert_eq!((a.device(), a.colocate_with()), (b.device(), b.colocate_with()));
        assert_eq!(a.output_types(), b.output_types());
    }
    assert_eq!(graph_to_def(&g).unwrap().node.len(), 3);
}

#[test]
fn a_loop_is_closed_and_knows_its_shapes() {
    let bytes: &[u8] = include_bytes!("../testdata/while_loop.pb");
    let g = import_graph(bytes).unwrap().graph;
    let (merge, next) = (
        g.operation("while/Merge").unwrap(),
        g.operation("while/NextIteration").unwrap(),
    );
    assert_eq!(merge.input(1).unwrap(), next.output(0).unwrap());
    assert!(merge.id() < next.id());
    for name in ["while/Merge", "while/NextIteration", "while/Exit"] {
        assert_eq!(g.output(name).unwrap().shape(), PartialShape::scalar(), "{name}");
    }
}

/// A loop whose body concatenates `rows` to its variable of shape `[1,2]`, along axis 0, or multiplies it.
fn growing_loop(grows: bool) -> Vec<NodeDef> {
    let f = ("T", t(DType::F32));
    let frame = ("frame_name", AttrValue::from("loop"));
    let tensor = |name: &str, value: Tensor| {
        let dtype = ("dtype", t(value.dtype()));
        node(name, "Const", &[], &[("value", AttrValue::Tensor(value)), dtype])
    };
    let invariant = ("is_constant", AttrValue::Bool(true));
    let body = match grows {
        true => node(
            "body",
            "ConcatV2",
            &["switch:1", "k_in", "axis_in"],
            &[f.clone(), ("N", 2i64.into()), ("Tidx", t(DType::I32))],
        ),
        false => node("body", "Mul", &["k_in", "switch:1"], &[f.clone()]),
    };
    vec![
        node("next", "NextIteration", &["body"], &[f.clone()]),
        node("merge", "Merge", &["enter", "next"], &[f.clone(), ("N", 2i64.into())]),
        node("enter", "Enter", &["k"], &[f.clone(), frame.clone()]),
        tensor("k", Tensor::from([[1f32, 2.0]])),
        tensor("axis", Tensor::scalar(0i32)),
        tensor("yes", Tensor::scalar(true)),
        node("k_in", "Enter", &["k"], &[f.clone(), frame.clone(), invariant.clone()]),
        node(
            "axis_in",
            "Enter",
            &["axis"],
            &[("T", t(DType::I32)), frame.clone(), invariant.clone()],
        ),
        node("yes_in", "Enter", &["yes"], &[("T", t(DType::Bool)), frame, invariant]),
        node("cond", "LoopCond", &["yes_in"], &[]),
        node("switch", "Switch", &["merge", "cond"], &[f.clone()]),
        body,
        node("exit", "Exit", &["switch"], &[f]),
    ]
}

#[test]
fn what_changes_from_one_iteration_to_the_next_has_no_known_shape() {
    let shape = |grows: bool| {
        let g = import(growing_loop(grows)).unwrap().graph;
        g.output("exit").unwrap().shape()
    };
    assert_eq!(shape(false), PartialShape::from([1, 2]));
    let grown = shape(true);
    assert!(
        grown.dim(0).is_none() && grown.dim(1) != Some(1),
        "the rows change: {grown}"
    );
}

#[test]
fn a_loop_without_an_entry_is_refused() {
    let f = ("T", t(DType::F32));
    let nodes = vec![
        node("merge", "Merge", &["next"], &[f.clone(), ("N", 1i64.into())]),
        node("next", "NextIteration", &["merge"], &[f]),
    ];
    let e = import(nodes).unwrap_err();
    assert_eq!((e.code(), e.node()), (Code::InvalidArgument, Some("merge")));
    let nodes = growing_loop(true)
        .into_iter()
        .map(|mut n| {
            n.input
                .iter_mut()
                .filter(|i| *i == "next")
                .for_each(|i| *i = "next:4".into());
            n
        })
        .collect();
    let e = import(nodes).unwrap_err();
    assert!(e.message().contains("output 4 of next"), "{e}");
}
