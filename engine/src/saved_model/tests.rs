#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message;

use super::*;
use crate::graphdef::attrs::tensor_to_message;
use crate::graphdef::proto::collection_def::NodeList;
use crate::graphdef::proto::meta_graph_def::MetaInfoDef;
use crate::graphdef::proto::{
    AssetFileDef, CollectionDef, SavedModel as Message_, SignatureDef, TensorInfo, TensorShapeProto, tensor_info,
};
use crate::graphdef::{graph_to_def, proto};
use crate::{Code, DType};

/// A folder that is removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("actorflow-saved-model-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Folder(dir)
    }

    fn with(name: &str, model: &Message_) -> Folder {
        let f = Folder::new(name);
        std::fs::write(f.0.join("saved_model.pb"), model.encode_to_vec()).unwrap();
        f
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn info(tensor: &str, dtype: DType, dims: &[i64]) -> TensorInfo {
    let dim = |size: &i64| proto::tensor_shape_proto::Dim {
        size: *size,
        ..Default::default()
    };
    TensorInfo {
        dtype: dtype.to_tf(),
        tensor_shape: Some(TensorShapeProto {
            dim: dims.iter().map(dim).collect(),
            unknown_rank: false,
        }),
        encoding: Some(tensor_info::Encoding::Name(tensor.into())),
    }
}

/// `y = 3 x + b`, `b` a variable that `start` sets to the length of the name of an asset.
fn model() -> Message_ {
    let g = Graph::new();
    let x = g
        .op("Placeholder")
        .attr("dtype", DType::F32)
        .name("in")
        .output()
        .unwrap();
    let b = g.op("VarHandleOp").attr("dtype", DType::F32);
    let b = b.attr("shape", PartialShape::scalar()).name("b").output().unwrap();
    let file = g
        .op("Placeholder")
        .attr("dtype", DType::Str)
        .name("file")
        .output()
        .unwrap();
    let has = g.op("StringLength").input(&file).output().unwrap();
    let zero = g.constant(0i32).unwrap();
    let set = has.greater(&zero).unwrap().cast(DType::F32).unwrap();
    let start = g.op("AssignVariableOp").input(&b).input(&set).name("start");
    start.finish().unwrap();
    let now = g
        .op("ReadVariableOp")
        .input(&b)
        .attr("dtype", DType::F32)
        .output()
        .unwrap();
    let three = g.constant(3f32).unwrap();
    let y = (&(&x * &three).unwrap() + &now).unwrap();
    y.identity().unwrap();
    let out = y.op().name();
    let mut signature = SignatureDef {
        inputs: [("x".to_owned(), info("in:0", DType::F32, &[-1]))].into(),
        outputs: [("y".to_owned(), info(&format!("{out}:0"), DType::F32, &[-1]))].into(),
        method_name: "tensorflow/serving/predict".into(),
        ..Default::default()
    };
    let mut signatures = BTreeMap::from([("serving_default".to_owned(), signature.clone())]);
    let default = tensor_to_message(&Tensor::vector(&[10f32])).unwrap();
    signature.defaults = [("x".to_owned(), default)].into();
    signatures.insert("lazy".to_owned(), signature);
    let nodes = NodeList {
        value: vec!["start".into()],
    };
    Message_ {
        saved_model_schema_version: 1,
        meta_graphs: vec![MetaGraphDef {
            meta_info_def: Some(MetaInfoDef {
                tags: vec!["serve".into(), "cpu".into()],
                tensorflow_version: "1.15".into(),
                ..Default::default()
            }),
            graph_def: Some(graph_to_def(&g).unwrap()),
            signature_def: signatures,
            collection_def: [(
                "saved_model_main_op".to_owned(),
                CollectionDef {
                    kind: Some(Kind::NodeList(nodes)),
                },
            )]
            .into(),
            // Twice, as TensorFlow writes what was declared twice.
            asset_file_def: vec![
                AssetFileDef {
                    tensor_info: Some(info("file:0", DType::Str, &[])),
                    filename: "words.txt".into(),
                };
                2
            ],
            ..Default::default()
        }],
    }
}

fn ask(m: &SavedModel, x: &[f32]) -> Tensor {
    m.run("serving_default", &[("x", Tensor::vector(x))]).unwrap()["y"].clone()
}

#[test]
fn a_model_is_initialised_with_its_assets_and_runs_by_signature() {
    let dir = Folder::with("runs", &model());
    let m = SavedModel::load(&dir.0, &["cpu", "serve"]).unwrap();
    assert_eq!(ask(&m, &[1.0, 2.0]), Tensor::vector(&[4f32, 7.0]));
    let y = m.run("lazy", &[]).unwrap();
    assert_eq!(y["y"], Tensor::vector(&[31f32]), "the default is used");
    assert!(!m.is_reduced());
    assert_eq!(m.signatures().len(), 2);
}

#[test]
fn tags_choose_the_graph_and_errors_list_them() {
    let dir = Folder::with("tags", &model());
    assert!(SavedModel::load(&dir.0, &[]).is_ok(), "the only graph");
    let e = SavedModel::load(&dir.0, &["serve"]).unwrap_err();
    assert_eq!(e.code(), Code::NotFound);
    for part in ["saved_model.pb", "{serve}", "{cpu, serve}"] {
        assert!(e.to_string().contains(part), "{part} is missing in {e}");
    }
}

#[test]
fn wrong_inputs_are_errors_that_name_the_signature() {
    let dir = Folder::with("inputs", &model());
    let m = SavedModel::load(&dir.0, &[]).unwrap();
    let x = || Tensor::vector(&[1f32]);
    let e = m.run("training", &[]).unwrap_err();
    assert!(e.to_string().contains("{lazy, serving_default}"), "{e}");
    let cases: [(&[(&str, Tensor)], &str); 5] = [
        (&[], "\"x\" (float32[?]) is missing"),
        (&[("z", x())], "no input \"z\""),
        (&[("x", x()), ("x", x())], "twice"),
        (&[("x", Tensor::vector(&[1i32]))], "must be float32"),
        (&[("x", Tensor::scalar(1f32))], "shape"),
    ];
    for (inputs, part) in cases {
        let e = m.run("serving_default", inputs).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument);
        let text = e.to_string();
        assert!(
            text.contains(part) && text.contains("serving_default"),
            "{part} is missing in {e}"
        );
    }
    let e = m.fetch("serving_default", &[("x", x())], &["logits"]).unwrap_err();
    assert!(e.to_string().contains("no output \"logits\""), "{e}");
}

#[test]
fn operations_that_no_signature_needs_may_be_missing() {
    let mut model = model();
    let def = model.meta_graphs[0].graph_def.as_mut().unwrap();
    def.node.push(proto::NodeDef {
        name: "save".into(),
        op: "NobodyHasThis".into(),
        input: vec!["b".into()],
        ..Default::default()
    });
    let dir = Folder::with("reduced", &model);
    let m = SavedModel::load(&dir.0, &[]).unwrap();
    assert!(m.is_reduced());
    assert_eq!(ask(&m, &[1.0]), Tensor::vector(&[4f32]));
    // But not what one needs.
    model.meta_graphs[0].signature_def.get_mut("lazy").unwrap().outputs =
        [("y".to_owned(), info("save:0", DType::F32, &[]))].into();
    let dir = Folder::with("lacking", &model);
    let e = SavedModel::load(&dir.0, &[]).unwrap_err();
    assert_eq!(e.code(), Code::Unimplemented);
    assert!(e.to_string().contains("NobodyHasThis"), "{e}");
}

#[test]
fn a_sparse_input_is_three_tensors() {
    let mut model = model();
    let s = model.meta_graphs[0].signature_def.get_mut("lazy").unwrap();
    let sparse = tensor_info::CooSparse {
        values_tensor_name: "v:0".into(),
        indices_tensor_name: "i:0".into(),
        dense_shape_tensor_name: "s:0".into(),
    };
    s.inputs.get_mut("x").unwrap().encoding = Some(tensor_info::Encoding::CooSparse(sparse));
    let dir = Folder::with("sparse", &model);
    let file = SavedModelFile::read(&dir.0).unwrap();
    let names: Vec<&String> = file.graphs[0].signatures["lazy"].inputs.keys().collect();
    assert_eq!(names, ["x.dense_shape", "x.indices", "x.values"]);
}

#[test]
fn assets_cannot_leave_their_folder() {
    for name in ["../secret", "/etc/passwd", "a/../../b"] {
        let mut model = model();
        model.meta_graphs[0].asset_file_def[0].filename = name.into();
        let dir = Folder::with("assets", &model);
        let e = SavedModel::load(&dir.0, &[]).unwrap_err();
        assert!(e.to_string().contains("assets"), "{e}");
    }
}

#[test]
fn a_folder_without_a_model_is_not_found() {
    let dir = Folder::new("none");
    let e = SavedModel::load(&dir.0, &[]).unwrap_err();
    assert_eq!(e.code(), Code::NotFound);
    assert!(e.to_string().contains("saved_model.pb"), "{e}");
    std::fs::write(dir.0.join("saved_model.pbtxt"), "").unwrap();
    assert!(
        SavedModel::load(&dir.0, &[])
            .unwrap_err()
            .to_string()
            .contains("text form")
    );
}

#[test]
fn damaged_files_are_errors_and_never_panic() {
    let dir = Folder::new("damaged");
    let whole = model().encode_to_vec();
    let load = |bytes: &[u8]| {
        let file = file::parse(&dir.0, bytes.to_vec())?;
        build(&dir.0, file.graph(&[])?, SessionOptions::with_threads(1)).map(drop)
    };
    assert!(load(&whole).is_ok());
    for n in 0..whole.len() {
        assert!(load(&whole[..n]).is_err(), "cut at {n}");
    }
    let mut seed = 7u32;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed as usize % n
    };
    for _ in 0..2000 {
        let mut bytes = whole.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        // Some flips leave a model that loads; none may panic or hang.
        let _ = load(&bytes);
    }
}

/// A model that TensorFlow wrote, with an input and its answer.
fn of_tensorflow(which: &str) -> (PathBuf, Tensor, Tensor) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/saved_model/testdata")
        .join(which);
    let array = |name: &str| crate::npy::read_npy_file(dir.join(name)).unwrap();
    (dir.clone(), array("x.npy"), array("y.npy"))
}

#[test]
fn models_of_both_generations_of_tensorflow_answer_as_there() {
    for which in ["v1", "tf2"] {
        let (dir, x, y) = of_tensorflow(which);
        let m = SavedModel::load(&dir, &["serve"]).unwrap();
        let got = m.run("serving_default", &[("x", x)]).unwrap();
        let (a, b) = (got["y"].as_slice::<f32>().unwrap(), y.as_slice::<f32>().unwrap());
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-5, "{which}: {a} is not {b}");
        }
    }
}

#[test]
fn the_tables_of_a_model_are_filled_when_it_is_loaded() {
    let (dir, ..) = of_tensorflow("tf2");
    let m = SavedModel::load(&dir, &[]).unwrap();
    let words = Tensor::strings([3], vec!["a", "none", "b"]).unwrap();
    let got = m.run("lookup", &[("k", words)]).unwrap();
    assert_eq!(got["id"], Tensor::vector(&[1i64, -1, 2]));
}

#[test]
fn damaged_variables_are_errors_and_never_panic() {
    let (from, ..) = of_tensorflow("v1");
    let dir = Folder::new("variables");
    for sub in ["variables", "assets"] {
        std::fs::create_dir_all(dir.0.join(sub)).unwrap();
    }
    let index = "variables/variables.index";
    let data = "variables/variables.data-00000-of-00001";
    for name in ["saved_model.pb", "assets/vocab.txt", index, data] {
        std::fs::copy(from.join(name), dir.0.join(name)).unwrap();
    }
    let load = || SavedModel::load_with(&dir.0, &[], SessionOptions::with_threads(1)).map(drop);
    load().unwrap();
    for name in [index, data] {
        let whole = std::fs::read(from.join(name)).unwrap();
        for n in (0..whole.len()).step_by(7) {
            std::fs::write(dir.0.join(name), &whole[..n]).unwrap();
            let e = load().unwrap_err();
            assert!(e.to_string().contains("variables"), "{name} cut at {n}: {e}");
        }
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        std::fs::write(dir.0.join(name), &flipped).unwrap();
        assert_eq!(load().unwrap_err().code(), Code::DataLoss, "{name}");
        std::fs::write(dir.0.join(name), &whole).unwrap();
    }
    load().unwrap();
}

#[test]
fn a_damaged_function_library_is_an_error_and_never_panics() {
    let (dir, ..) = of_tensorflow("tf2");
    let whole = std::fs::read(dir.join("saved_model.pb")).unwrap();
    let import = |bytes: &[u8]| -> Result<()> {
        let file = file::parse(&dir, bytes.to_vec())?;
        for g in &file.graphs {
            if let Some(def) = g.graph_def() {
                import_into(&Graph::new(), def, &ImportOptions::new())?;
            }
        }
        Ok(())
    };
    import(&whole).unwrap();
    for n in (1..whole.len()).step_by(251) {
        let _ = import(&whole[..n]);
    }
    let mut seed = 3u32;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % n
    };
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        let _ = import(&bytes);
    }
}
