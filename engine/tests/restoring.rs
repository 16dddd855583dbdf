//! What a saver says of checkpoints that do not fit the graph.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use actorflow::{Code, DType, Graph, GraphVariables, Saver, SaverOptions, Session, Tensor};

fn graph(value: Tensor) -> Graph {
    let g = Graph::new();
    g.variable("first", 1f32).unwrap();
    g.variable("layer/w", value).unwrap();
    g
}

#[test]
fn a_variable_of_another_shape_or_dtype_is_named_with_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let g = graph(Tensor::from([1f32, 2.0]));
    let saver = Saver::new(&g, SaverOptions::default()).unwrap();
    let session = Session::new(&g).unwrap();
    session.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let path = format!("{}/m", dir.path().display());
    saver.save(&session, &path, None).unwrap();
    for (value, what) in [
        (Tensor::zeros(DType::F32, [3]).unwrap(), "float32[3]"),
        (Tensor::from([1i32, 2]), "int32[2]"),
    ] {
        let other = graph(value);
        let saver = Saver::new(&other, SaverOptions::default()).unwrap();
        let e = saver.restore(&Session::new(&other).unwrap(), &path).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument, "{e}");
        let named = format!("layer/w is float32[2] there, but {what} in this graph");
        for part in [path.as_str(), &named, "another model"] {
            assert!(e.message().contains(part), "{part:?} is missing in {e}");
        }
    }
    // Where the file cannot be looked at, the node says which variable it is.
    assert!(g.operation("save/EnsureShape/layer/w").is_ok());
}

#[test]
fn without_variables_there_is_nothing_to_save_or_restore() {
    let e = Saver::new(&Graph::new(), SaverOptions::default())
        .map(drop)
        .unwrap_err();
    assert!(e.message().contains("nothing to save or restore"), "{e}");
}
