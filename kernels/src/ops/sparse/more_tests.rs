//! Sets, crosses and serialized sparse tensors: TensorFlow 2.21's own values.

use super::tests::run;
use crate::testing::Interpreter;
use actorflow_core::attr::AttrValue;
use actorflow_core::error::Result;
use actorflow_core::{Code, DType, Graph, Tensor};

#[track_caller]
fn refused(r: Result<Vec<Tensor>>) {
    assert_eq!(r.unwrap_err().code(), Code::InvalidArgument);
}

fn operation(what: &str) -> Vec<(&'static str, AttrValue)> {
    vec![("set_operation", what.into())]
}

#[test]
fn rows_are_sets() {
    let (a, b) = (
        Tensor::from([[1i64, 2, 3], [4, 5, 5]]),
        Tensor::from([[2i64, 3, 9], [5, 7, 5]]),
    );
    let dense = |what: &str, a: &Tensor| run("DenseToDenseSetOperation", vec![a.clone(), b.clone()], &operation(what));
    let y = dense("union", &a).unwrap();
    assert_eq!(
        (&y[1], &y[2]),
        (&Tensor::from([1i64, 2, 3, 9, 4, 5, 7]), &Tensor::from([2i64, 4]))
    );
    let y = dense("b-a", &a).unwrap();
    assert_eq!(
        (&y[0], &y[1]),
        (&Tensor::from([[0i64, 0], [1, 0]]), &Tensor::from([9i64, 7]))
    );
    refused(dense("both", &a));
    refused(dense("union", &Tensor::from([[1i64]])));
    refused(dense("union", &Tensor::from([1i64])));
    let (i, v, s) = (
        Tensor::from([[0i64, 0], [0, 1], [1, 0]]),
        Tensor::from([3i64, 2, 5]),
        Tensor::from([2i64, 2]),
    );
    let y = run(
        "DenseToSparseSetOperation",
        vec![a.clone(), i.clone(), v.clone(), s.clone()],
        &operation("intersection"),
    );
    let y = y.unwrap();
    assert_eq!((&y[1], &y[2]), (&Tensor::from([2i64, 3, 5]), &Tensor::from([2i64, 2])));
    let wrong = Tensor::from([[1i64, 0], [0, 0], [0, 1]]);
    let inputs = vec![a.clone(), wrong.clone(), v.clone(), s.clone()];
    refused(run("DenseToSparseSetOperation", inputs.clone(), &operation("union")));
    let mut attrs = operation("union");
    attrs.push(("validate_indices", false.into()));
    assert!(run("DenseToSparseSetOperation", inputs, &attrs).is_ok());
    let one = [Tensor::from([[0i64, 0], [1, 1]]), Tensor::from([3i64, 7]), s.clone()];
    let inputs = [&[i.clone(), v.clone(), s.clone()][..], &one].concat();
    let y = run("SparseToSparseSetOperation", inputs, &operation("a-b")).unwrap();
    assert_eq!((&y[1], &y[2]), (&Tensor::from([2i64, 5]), &Tensor::from([2i64, 1])));
    let sizes = |i: Tensor, v: Tensor| run("SetSize", vec![i, v, s.clone()], &[]);
    assert_eq!(sizes(i.clone(), v.clone()).unwrap()[0], Tensor::from([2i32, 1]));
    assert_eq!(
        sizes(i.clone(), [3i64, 3, 3].into()).unwrap()[0],
        Tensor::from([1i32, 1])
    );
    refused(sizes(wrong, v));
    refused(sizes([[0i64, 0], [0, 1], [5, 0]].into(), [1i64, 2, 3].into()));
    let texts = |v: [&'static str; 2]| Tensor::strings([1, 2], v.to_vec()).unwrap();
    let y = run(
        "DenseToDenseSetOperation",
        vec![texts(["b", "a"]), texts(["c", "a"])],
        &operation("union"),
    )
    .unwrap();
    assert_eq!(y[1], Tensor::strings([3], vec!["a", "b", "c"]).unwrap());
}

/// Crosses one sparse column and one dense one.
fn cross(op: &str, words: bool, dense: Tensor, tail: Vec<Tensor>, attrs: &[(&str, AttrValue)]) -> Result<Vec<Tensor>> {
    let g = Graph::new();
    let values = match words {
        true => Tensor::strings([3], vec!["a", "b", "c"]).unwrap(),
        false => Tensor::from([1i64, 2, 3]),
    };
    let mut b = g
        .op(op)
        .input_list(&[g.constant([[0i64, 0], [1, 0], [1, 1]])?])
        .input_list(&[g.constant(values)?])
        .input_list(&[g.constant([2i64, 2])?])
        .input_list(&[g.constant(dense)?]);
    for t in tail {
        b = b.input(&g.constant(t)?);
    }
    for (name, value) in attrs {
        b = b.attr(name, value.clone());
    }
    Interpreter::default().run(&b.finish()?.outputs(), &[], &[])
}

fn v1(hashed: bool, buckets: i64, internal: DType) -> Vec<(&'static str, AttrValue)> {
    vec![
        ("hashed_output", hashed.into()),
        ("num_buckets", buckets.into()),
        ("hash_key", 956888297470i64.into()),
        ("out_type", if hashed { DType::I64 } else { DType::Str }.into()),
        ("internal_type", internal.into()),
    ]
}

#[test]
fn features_are_crossed() {
    let texts = || Tensor::strings([2, 1], vec!["x", "y"]).unwrap();
    let y = cross("SparseCross", true, texts(), vec![], &v1(false, 0, DType::Str)).unwrap();
    assert_eq!(y[1], Tensor::strings([3], vec!["a_X_x", "b_X_y", "c_X_y"]).unwrap());
    assert_eq!(
        (&y[0], &y[2]),
        (&Tensor::from([[0i64, 0], [1, 0], [1, 1]]), &Tensor::from([2i64, 2]))
    );
    let y = cross("SparseCross", true, texts(), vec![], &v1(true, 100, DType::Str)).unwrap();
    assert_eq!(y[1], Tensor::from([92i64, 5, 60]));
    let y = cross("SparseCross", true, texts(), vec![], &v1(true, 0, DType::Str)).unwrap();
    assert_eq!(y[1].to_vec::<i64>().unwrap()[0], 1484974617627318892);
    let numbers = || Tensor::from([[5i64], [6]]);
    let y = cross("SparseCross", false, numbers(), vec![], &v1(true, 1000, DType::I64)).unwrap();
    assert_eq!(y[1], Tensor::from([733i64, 836, 543]));
    refused(cross(
        "SparseCross",
        false,
        numbers(),
        vec![],
        &v1(false, 0, DType::Str),
    ));
    let wide = Tensor::from([[5i64, 1], [6, 2]]);
    let y = cross("SparseCrossV2", true, wide, vec![Tensor::from("_Y_")], &[]).unwrap();
    let want = vec!["a_Y_5", "a_Y_1", "b_Y_6", "b_Y_2", "c_Y_6", "c_Y_2"];
    assert_eq!(y[1], Tensor::strings([6], want).unwrap());
    refused(cross(
        "SparseCrossV2",
        true,
        [[5i64, 1]].into(),
        vec![Tensor::from("_")],
        &[],
    ));
    let salted = |buckets: i64, strong: bool| {
        let tail = vec![buckets.into(), strong.into(), [3i64, 5].into()];
        cross("SparseCrossHashed", true, numbers(), tail, &[])
    };
    assert_eq!(salted(1000, false).unwrap()[1], Tensor::from([609i64, 174, 126]));
    assert_eq!(
        salted(0, false).unwrap()[1].to_vec::<i64>().unwrap()[0],
        1581116392146741802
    );
    assert!(salted(1000, true).is_ok());
    refused(salted(-1, false));
}

#[test]
fn sparse_tensors_are_serialized() {
    let parts = || {
        vec![
            [[0i64, 1], [1, 0], [1, 2]].into(),
            [1f32, 2., 3.].into(),
            [2i64, 3].into(),
        ]
    };
    let many = run("SerializeManySparse", parts(), &[]).unwrap().remove(0);
    assert_eq!(many.shape().dims(), [2, 3]);
    let first = &many.as_strings().unwrap()[0];
    assert_eq!(
        &first[..],
        b"\x08\t\x12\x08\x12\x02\x08\x01\x12\x02\x08\x01\"\x08\x01\0\0\0\0\0\0\0"
    );
    let back = |t: Tensor, dtype: DType| run("DeserializeManySparse", vec![t], &[("dtype", dtype.into())]);
    assert_eq!(back(many.clone(), DType::F32).unwrap(), parts());
    refused(back(many.clone(), DType::I32));
    refused(back(Tensor::strings([1, 3], vec!["a", "b", "c"]).unwrap(), DType::F32));
    refused(back(Tensor::strings([1, 2], vec!["a", "b"]).unwrap(), DType::F32));
    refused(back(Tensor::strings([0, 3], Vec::<&str>::new()).unwrap(), DType::F32));
    let mut wrong = parts();
    wrong[0] = [[1i64, 0], [0, 0], [0, 1]].into();
    refused(run("SerializeManySparse", wrong, &[]));
    for kind in [DType::Str, DType::Variant] {
        let g = Graph::new();
        let inputs: Vec<_> = parts().into_iter().map(|t| g.constant(t).unwrap()).collect();
        let one = inputs
            .iter()
            .fold(g.op("SerializeSparse"), |b, x| b.input(x))
            .attr("out_type", kind);
        let op = g.op("DeserializeSparse").input(&one.output().unwrap());
        let op = op.attr("dtype", DType::F32).finish().unwrap();
        assert_eq!(Interpreter::default().run(&op.outputs(), &[], &[]).unwrap(), parts());
    }
    let text = many.as_strings().unwrap()[3].clone();
    for n in 0..text.len() {
        let cut = Tensor::strings([1, 3], vec![text.slice(..n), text.clone(), text.clone()]).unwrap();
        assert!(back(cut, DType::F32).is_err());
    }
}

#[test]
fn sparse_tensors_are_put_aside_and_taken() {
    let g = Graph::new();
    let c = |t: Tensor| g.constant(t).unwrap();
    let add = g
        .op("AddManySparseToTensorsMap")
        .input(&c([[0i64, 1], [1, 0], [1, 2]].into()))
        .input(&c([1f32, 2., 3.].into()))
        .input(&c([2i64, 3].into()))
        .attr("shared_name", "map")
        .output()
        .unwrap();
    let handles = g
        .placeholder("handles", DType::I64, actorflow_core::PartialShape::UNKNOWN)
        .unwrap();
    let take = g
        .op("TakeManySparseFromTensorsMap")
        .input(&handles)
        .attr("dtype", DType::F32)
        .attr("shared_name", "map")
        .finish()
        .unwrap();
    let session = Interpreter::default();
    assert_eq!(session.run(&[add], &[], &[]).unwrap()[0], Tensor::from([0i64, 1]));
    let turned = || (handles.clone(), Tensor::from([1i64, 0]));
    let y = session.run(&take.outputs(), &[], &[turned()]).unwrap();
    assert_eq!(y[0], Tensor::from([[0i64, 0], [0, 2], [1, 1]]));
    assert_eq!(
        (&y[1], &y[2]),
        (&Tensor::from([2f32, 3., 1.]), &Tensor::from([2i64, 3]))
    );
    refused(session.run(&take.outputs(), &[], &[turned()]));
}
