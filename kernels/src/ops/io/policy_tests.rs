//! Operations that touch files, under policies of which files they may touch.

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::files::FilePolicy;
use actorflow_core::{AttrValue, DType, Graph, Operation, Tensor};

use crate::testing::Interpreter;

fn strings(v: &[&str]) -> Tensor {
    Tensor::strings([v.len()], v.iter().map(|s| (*s).to_owned()).collect()).unwrap()
}

fn op(g: &Graph, name: &str, inputs: &[Tensor], list: &[Tensor], attrs: &[(&str, AttrValue)]) -> Operation {
    let mut b = g.op(name);
    for t in inputs {
        b = b.input(&g.constant(t.clone()).unwrap());
    }
    if !list.is_empty() {
        let list: Vec<_> = list.iter().map(|t| g.constant(t.clone()).unwrap()).collect();
        b = b.input_list(&list);
    }
    for (name, value) in attrs {
        b = b.attr(name, value.clone());
    }
    b.finish().unwrap()
}

/// One of each operation that touches files, on files in `dir`, in an order in which they succeed.
fn touching(g: &Graph, dir: &str) -> Vec<Operation> {
    let at = |name: &str| Tensor::from(format!("{dir}/{name}").as_str());
    let (x, names, whole) = (Tensor::from([1f32, 2.0]), strings(&["x"]), strings(&[""]));
    let dtypes = ("dtypes", AttrValue::from(vec![DType::F32]));
    let dt = ("dt", AttrValue::from(DType::F32));
    let parts = strings(&[&format!("{dir}/part/ck")]);
    let mut all = vec![
        op(g, "WriteFile", &[at("words"), "a\nb\n".into()], &[], &[]),
        op(g, "ReadFile", &[at("words")], &[], &[]),
        op(g, "MatchingFiles", &[at("words")], &[], &[]),
        op(g, "MatchingFiles", &[at("w*")], &[], &[]),
        op(
            g,
            "SaveV2",
            &[at("ck"), names.clone(), whole.clone()],
            std::slice::from_ref(&x),
            &[],
        ),
        op(
            g,
            "SaveV2",
            &[at("part/ck"), names.clone(), whole.clone()],
            std::slice::from_ref(&x),
            &[],
        ),
        op(g, "Save", &[at("first"), names.clone()], std::slice::from_ref(&x), &[]),
        op(
            g,
            "SaveSlices",
            &[at("slices"), names.clone(), whole.clone()],
            &[x],
            &[],
        ),
        op(
            g,
            "RestoreV2",
            &[at("ck"), names.clone(), whole.clone()],
            &[],
            std::slice::from_ref(&dtypes),
        ),
        op(g, "RestoreV2", &[at("c?"), names, whole], &[], &[dtypes]),
        op(g, "Restore", &[at("first"), "x".into()], &[], std::slice::from_ref(&dt)),
        op(g, "Restore", &[at("fir*"), "x".into()], &[], std::slice::from_ref(&dt)),
        op(g, "RestoreSlice", &[at("slices"), "x".into(), "".into()], &[], &[dt]),
        op(g, "MergeV2Checkpoints", &[parts, at("merged")], &[], &[]),
        op(
            g,
            "SaveV2",
            &[at("matrix"), strings(&["x"]), strings(&[""])],
            &[Tensor::from([[1f32, 2.0]])],
            &[],
        ),
        op(
            g,
            "LoadAndRemapMatrix",
            &[
                at("matrix"),
                "x".into(),
                Tensor::from([0i64]),
                Tensor::from([1i64]),
                Tensor::zeros(DType::F32, [0]).unwrap(),
            ],
            &[],
            &[("num_rows", 1i64.into()), ("num_cols", 1i64.into())],
        ),
        op(
            g,
            "GenerateVocabRemapping",
            &[at("words"), at("words")],
            &[],
            &[("new_vocab_offset", 0i64.into()), ("num_new_vocab", 2i64.into())],
        ),
        op(
            g,
            "PrintV2",
            &["text".into()],
            &[],
            &[("output_stream", format!("file://{dir}/printed").as_str().into())],
        ),
        op(g, "WriteFile", &[at("weights"), "a,1\nb,2\n".into()], &[], &[]),
        op(
            g,
            "FixedUnigramCandidateSampler",
            &[Tensor::from([[0i64]])],
            &[],
            &[
                ("vocab_file", format!("{dir}/weights").as_str().into()),
                ("range_max", 2i64.into()),
                ("num_true", 1i64.into()),
                ("num_sampled", 1i64.into()),
                ("unique", false.into()),
            ],
        ),
    ];
    let table = g
        .op("HashTableV2")
        .attr("key_dtype", DType::Str)
        .attr("value_dtype", DType::I64)
        .output()
        .unwrap();
    let file = g.constant(at("words")).unwrap();
    let fill = g.op("InitializeTableFromTextFileV2").input(&table).input(&file);
    let fill = fill.attr("key_index", -2i64).attr("value_index", -1i64).finish();
    all.push(fill.unwrap());
    all
}

fn run(op: &Operation, files: FilePolicy) -> Result<()> {
    let run = Interpreter::default();
    run.resources().set_files(files).unwrap();
    run.run(&[], std::slice::from_ref(op), &[]).map(drop)
}

fn refused(op: &Operation, files: FilePolicy) -> Error {
    match run(op, files) {
        Ok(()) => panic!("{} touched a file that it must not", op.name()),
        Err(e) => e,
    }
}

#[test]
fn an_operation_touches_no_file_that_is_not_allowed_and_any_that_is() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let g = Graph::new();
    for op in touching(&g, dir.path().to_str().unwrap()) {
        for files in [FilePolicy::nothing(), FilePolicy::only([elsewhere.path()]).unwrap()] {
            let e = refused(&op, files);
            assert_eq!(e.code(), Code::PermissionDenied, "{e}");
            assert_eq!(e.node(), Some(op.name().as_str()), "{e}");
            assert!(e.message().contains("--allow-dir"), "{e}");
        }
        run(&op, FilePolicy::only([dir.path()]).unwrap()).unwrap();
    }
}

#[test]
fn a_directory_for_reading_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let g = Graph::new();
    let read_only = || FilePolicy::only([format!("{}:ro", dir.path().display())]).unwrap();
    for op in touching(&g, dir.path().to_str().unwrap()) {
        let writes = [
            "WriteFile",
            "SaveV2",
            "Save",
            "SaveSlices",
            "MergeV2Checkpoints",
            "PrintV2",
        ];
        match writes.contains(&op.node().op_name()) {
            true => {
                let before = std::fs::read_dir(dir.path()).unwrap().count();
                assert_eq!(refused(&op, read_only()).code(), Code::PermissionDenied);
                assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
                run(&op, FilePolicy::anything()).unwrap();
            }
            false => run(&op, read_only()).unwrap(),
        }
    }
}

#[cfg(unix)]
#[test]
fn a_pattern_gives_only_what_is_allowed() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["in/a", "in/b", "out"] {
        std::fs::create_dir_all(at(folder)).unwrap();
        std::fs::write(at(folder).join("f"), "").unwrap();
    }
    symlink(at("out"), at("in/c")).unwrap();
    symlink(at("out/f"), at("in/a/g")).unwrap();
    let g = Graph::new();
    let listed = |pattern: &str| {
        let pattern = Tensor::from(at(pattern).to_str().unwrap());
        let op = op(&g, "MatchingFiles", &[pattern], &[], &[]);
        let run = Interpreter::default();
        run.resources()
            .set_files(FilePolicy::only([at("in")]).unwrap())
            .unwrap();
        run.run(&op.outputs(), &[], &[]).map(|v| v[0].len())
    };
    assert_eq!(listed("in/*/*").unwrap(), 2);
    assert_eq!(listed("in/?").unwrap(), 2);
    assert_eq!(listed("in/none").unwrap(), 0);
    for outside in ["*/f", "out/*", "out/f", "in/c/*", "in/c/f", "none"] {
        assert_eq!(listed(outside).unwrap_err().code(), Code::PermissionDenied, "{outside}");
    }
}
