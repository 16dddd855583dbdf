use actorflow_core::{AttrValue, DType, Graph, Operation, Output, PartialShape, Tensor};

use crate::protobuf::{Message, put_varint};
use crate::testing::Interpreter;

fn floats(v: &[f32]) -> Vec<u8> {
    let packed: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
    Message::default()
        .part(2, &Message::default().bytes(1, &packed).done())
        .done()
}

fn ints(v: &[i64]) -> Vec<u8> {
    let mut packed = Vec::new();
    v.iter().for_each(|x| put_varint(&mut packed, *x as u64));
    Message::default()
        .part(3, &Message::default().bytes(1, &packed).done())
        .done()
}

fn strings(v: &[&str]) -> Vec<u8> {
    let list = v.iter().fold(Message::default(), |m, s| m.part(1, s.as_bytes()));
    Message::default().part(1, &list.done()).done()
}

fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entry = |(k, v): &(&str, Vec<u8>)| Message::default().part(1, k.as_bytes()).part(2, v).done();
    entries
        .iter()
        .fold(Message::default(), |m, e| m.part(1, &entry(e)))
        .done()
}

fn example(features: &[(&str, Vec<u8>)]) -> Vec<u8> {
    Message::default().part(1, &map(features)).done()
}

fn list(steps: &[Vec<u8>]) -> Vec<u8> {
    steps.iter().fold(Message::default(), |m, s| m.part(1, s)).done()
}

fn names(g: &Graph, list: &[&'static str]) -> Output {
    g.constant(Tensor::strings([list.len()], list.to_vec()).unwrap())
        .unwrap()
}

fn types(list: &[DType]) -> AttrValue {
    AttrValue::List(list.iter().map(|d| AttrValue::Type(*d)).collect())
}

fn shapes(list: &[PartialShape]) -> AttrValue {
    AttrValue::List(list.iter().map(|s| AttrValue::Shape(s.clone())).collect())
}

/// `ParseExampleV2` of a sparse feature `s`, a dense one `d` of two floats, one `v` of any number and a ragged one `r`.
fn parse(records: Vec<Vec<u8>>, default: Tensor) -> Operation {
    let g = Graph::new();
    let empty = g.constant(Tensor::strings([0], Vec::<&str>::new()).unwrap()).unwrap();
    let serialized = Tensor::strings([records.len()], records).unwrap();
    g.op("ParseExampleV2")
        .input(&g.constant(serialized).unwrap())
        .input(&empty)
        .input(&names(&g, &["s"]))
        .input(&names(&g, &["d", "v"]))
        .input(&names(&g, &["r"]))
        .input_list(&[g.constant(default).unwrap(), g.constant(-1i64).unwrap()])
        .attr("num_sparse", 1i64)
        .attr("sparse_types", types(&[DType::Str]))
        .attr("ragged_value_types", types(&[DType::I64]))
        .attr("ragged_split_types", types(&[DType::I32]))
        .attr(
            "dense_shapes",
            shapes(&[PartialShape::vector(Some(2)), PartialShape::vector(None)]),
        )
        .finish()
        .unwrap()
}

fn run(op: &Operation) -> Result<Vec<Tensor>, String> {
    Interpreter::default()
        .run(&op.outputs(), &[], &[])
        .map_err(|e| e.message().to_owned())
}

fn no_default() -> Tensor {
    Tensor::vector::<f32>(&[])
}

#[test]
fn a_batch_has_sparse_dense_padded_and_ragged_features() {
    let op = parse(
        vec![
            example(&[
                ("d", floats(&[1.0, 2.0])),
                ("s", strings(&["x"])),
                ("v", ints(&[7, -8])),
                ("r", ints(&[3])),
            ]),
            example(&[("s", strings(&["y", "z"])), ("r", ints(&[4, 5]))]),
        ],
        Tensor::from([9f32, 8.0]),
    );
    let got = run(&op).unwrap();
    assert_eq!(got[0], Tensor::from([[0i64, 0], [1, 0], [1, 1]]));
    assert_eq!(got[1], Tensor::strings([3], vec!["x", "y", "z"]).unwrap());
    assert_eq!(got[2], Tensor::from([2i64, 2]));
    assert_eq!(got[3], Tensor::from([[1f32, 2.0], [9.0, 8.0]]));
    assert_eq!(got[4], Tensor::from([[7i64, -8], [-1, -1]]));
    assert_eq!(got[5], Tensor::from([3i64, 4, 5]));
    assert_eq!(got[6], Tensor::from([0i32, 1, 3]));
    for (o, t) in op.outputs().iter().zip(&got) {
        assert!(o.shape().accepts(t.shape()), "{} is no {}", t.shape(), o.shape());
    }
}

#[test]
fn wrong_examples_are_refused_by_name() {
    for (record, why) in [
        (example(&[]), "required but could not be found"),
        (example(&[("d", floats(&[1.0]))]), "1 values, but the shape is [2]"),
        (example(&[("d", ints(&[1, 2]))]), "data types don't match"),
        (b"zzzz".to_vec(), "could not parse"),
    ] {
        let e = run(&parse(vec![record], no_default())).unwrap_err();
        assert!(e.contains(why), "{e}");
    }
    let e = run(&parse(vec![example(&[])], Tensor::from([1f32, 2.0, 3.0]))).unwrap_err();
    assert!(e.contains("the default of dense feature \"d\" has shape [3]"), "{e}");
}

#[test]
fn every_truncated_example_is_read_or_refused() {
    let whole = example(&[
        ("d", floats(&[1.0, 2.0])),
        ("s", strings(&["xyz"])),
        ("r", ints(&[1 << 40])),
    ]);
    for n in 0..whole.len() {
        let _ = run(&parse(vec![whole[..n].to_vec()], Tensor::from([9f32, 8.0])));
    }
    for i in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[i] ^= 0x55;
        let _ = run(&parse(vec![damaged], Tensor::from([9f32, 8.0])));
    }
}

#[test]
fn sequences_have_a_context_and_padded_lists() {
    let sequence = |steps: &[Vec<u8>]| {
        Message::default()
            .part(1, &map(&[("n", ints(&[steps.len() as i64]))]))
            .part(2, &map(&[("t", list(steps))]))
            .done()
    };
    let g = Graph::new();
    let records = vec![sequence(&[ints(&[1, 2]), ints(&[3, 4])]), sequence(&[ints(&[5, 6])])];
    let empty = names(&g, &[]);
    let op = g
        .op("ParseSequenceExample")
        .input(&g.constant(Tensor::strings([2], records).unwrap()).unwrap())
        .input(&empty)
        .input_list(&[])
        .attr("feature_list_dense_missing_assumed_empty", vec!["gone"])
        .attr("context_sparse_keys", vec!["n"])
        .attr("context_dense_keys", AttrValue::List(vec![]))
        .attr("feature_list_sparse_keys", vec!["t"])
        .attr("feature_list_dense_keys", vec!["t", "gone"])
        .attr("Ncontext_sparse", 1i64)
        .attr("Nfeature_list_sparse", 1i64)
        .attr("Nfeature_list_dense", 2i64)
        .attr("context_sparse_types", types(&[DType::I64]))
        .attr("Tcontext_dense", types(&[]))
        .attr("feature_list_dense_types", types(&[DType::I64, DType::F32]))
        .attr("feature_list_sparse_types", types(&[DType::I64]))
        .attr(
            "feature_list_dense_shapes",
            shapes(&[PartialShape::vector(Some(2)), PartialShape::scalar()]),
        )
        .finish()
        .unwrap();
    let got = run(&op).unwrap();
    assert_eq!(got[1], Tensor::from([2i64, 1]));
    let rows = [[0i64, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1]];
    assert_eq!(got[3], Tensor::from(rows));
    assert_eq!(got[5], Tensor::from([2i64, 2, 2]));
    assert_eq!(
        got[6],
        Tensor::from_slice([2, 2, 2], &[1i64, 2, 3, 4, 5, 6, 0, 0]).unwrap()
    );
    assert_eq!(got[7].shape().dims(), [2, 0]);
    assert_eq!(got[8], Tensor::from([2i64, 1]));
    assert_eq!(got[9], Tensor::from([0i64, 0]));
    for (o, t) in op.outputs().iter().zip(&got) {
        assert!(o.shape().accepts(t.shape()), "{} is no {}", t.shape(), o.shape());
    }
}

#[test]
fn json_becomes_examples() {
    let decode = |text: &'static str| {
        let g = Graph::new();
        let json = g.constant(Tensor::strings([1], vec![text]).unwrap()).unwrap();
        run(&g.op("DecodeJSONExample").input(&json).finish().unwrap())
    };
    let got = decode(
        r#"{"features":{"feature":{"d":{"floatList":{"value":[1.5,"NaN"]}},
        "r":{"int64_list":{"value":["-7",3]}},"s":{"bytesList":{"value":["aGk="]}}}}}"#,
    );
    let bytes = got.unwrap()[0].as_strings().unwrap()[0].to_vec();
    // As TensorFlow writes it: a list's numbers one by one.
    let list = b"\x1a\x0d\x08\xf9\xff\xff\xff\xff\xff\xff\xff\xff\x01\x08\x03";
    assert!(bytes.windows(list.len()).any(|w| w == list), "{bytes:x?}");
    let got = run(&parse(vec![bytes], no_default())).unwrap();
    assert_eq!(got[1], Tensor::strings([1], vec!["hi"]).unwrap());
    assert_eq!(got[5], Tensor::from([-7i64, 3]));
    let d = got[3].as_slice::<f32>().unwrap();
    assert!(d[0] == 1.5 && d[1].is_nan());
    for wrong in [
        "",
        "[]",
        r#"{"features":3}"#,
        r#"{"features":{"feature":{"d":{"floatList":{"value":["x"]}}}}}"#,
    ] {
        assert!(decode(wrong).is_err(), "{wrong:?}");
    }
}
