use std::path::Path;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::{DType, Graph, Output, PartialShape, Tensor};

use crate::testing::{Interpreter, eval};

fn strings(v: &[&str]) -> Tensor {
    Tensor::strings([v.len()], v.iter().map(|s| (*s).to_owned()).collect()).unwrap()
}

/// A prefix in a directory of its own.
fn at(dir: &tempfile::TempDir, name: &str) -> String {
    format!("{}/{name}", dir.path().display())
}

fn input(g: &Graph, t: Tensor) -> Output {
    g.constant(t).unwrap()
}

fn run(g: &Graph, op: &str, fixed: &[Tensor], list: &[Tensor]) -> Result<()> {
    let mut b = g.op(op);
    for t in fixed {
        b = b.input(&input(g, t.clone()));
    }
    if !list.is_empty() {
        b = b.input_list(&list.iter().map(|t| input(g, t.clone())).collect::<Vec<_>>());
    }
    let done = b.finish()?;
    Interpreter::default().run(&[], &[done], &[]).map(|_| ())
}

fn save(prefix: &str, names: &[&str], slices: &[&str], tensors: &[Tensor]) -> Result<()> {
    let fixed = [Tensor::from(prefix), strings(names), strings(slices)];
    run(&Graph::new(), "SaveV2", &fixed, tensors)
}

fn restore(prefix: &str, names: &[&str], slices: &[&str], dtypes: &[DType]) -> Result<Vec<Tensor>> {
    let g = Graph::new();
    let mut b = g.op("RestoreV2");
    for t in [Tensor::from(prefix), strings(names), strings(slices)] {
        b = b.input(&input(&g, t));
    }
    let op = b.attr("dtypes", dtypes.to_vec()).finish()?;
    Interpreter::default().run(&op.outputs(), &[], &[])
}

fn one(prefix: &str, name: &str, slice: &str, dtype: DType) -> Result<Tensor> {
    restore(prefix, &[name], &[slice], &[dtype]).map(|mut v| v.remove(0))
}

fn code<T>(r: Result<T>) -> Code {
    r.err().map_or_else(|| panic!("expected an error"), |e: Error| e.code())
}

#[test]
fn what_was_saved_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let p = at(&dir, "new/ck");
    let (x, y) = (Tensor::from([[1f32, 2.0], [3.0, 4.0]]), strings(&["a", "b"]));
    save(&p, &["x", "y"], &["", ""], &[x.clone(), y.clone()]).unwrap();
    let got = restore(&p, &["y", "x"], &["", ""], &[DType::Str, DType::F32]).unwrap();
    assert_eq!(got, [y, x]);
    assert_eq!(
        one(&p, "x", "2 2 1,1:-", DType::F32).unwrap(),
        Tensor::from([[3f32, 4.0]])
    );
}

#[test]
fn parts_are_saved_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let p = at(&dir, "ck");
    let (a, b) = (Tensor::from([[1f32, 2.0]]), Tensor::from([[3f32, 4.0], [5.0, 6.0]]));
    save(&p, &["x", "x"], &["3 2 0,1:-", "3 2 1,2:-"], &[a, b]).unwrap();
    assert_eq!(
        one(&p, "x", "", DType::F32).unwrap(),
        Tensor::from([[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]])
    );
    assert_eq!(
        one(&p, "x", "3 2 0,2:1,1", DType::F32).unwrap(),
        Tensor::from([[2f32], [4.0]])
    );
    let e = one(&p, "x", "4 2 0,2:1,1", DType::F32).unwrap_err();
    assert!(e.code() == Code::InvalidArgument && e.message().contains("[4,2]") && e.message().contains("[3,2]"));
}

#[test]
fn errors_have_tensorflows_codes() {
    let dir = tempfile::tempdir().unwrap();
    let p = at(&dir, "ck");
    let x = Tensor::from([[1f32, 2.0]]);
    save(&p, &["x"], &[""], std::slice::from_ref(&x)).unwrap();
    let e = one(&p, "zz", "", DType::F32).unwrap_err();
    assert!(
        e.code() == Code::NotFound && e.message().contains("Key zz not found") && e.message().contains(&p),
        "{e}"
    );
    assert_eq!(code(one(&at(&dir, "nope"), "x", "", DType::F32)), Code::NotFound);
    let e = one(&p, "x", "", DType::I32).unwrap_err();
    assert!(e.code() == Code::InvalidArgument && e.message().contains("float32") && e.message().contains("int32"));
    assert_eq!(
        code(save(&p, &["x", "x"], &["", ""], &[x.clone(), x.clone()])),
        Code::InvalidArgument
    );
    assert_eq!(
        code(save(&p, &["x", "y"], &["", ""], std::slice::from_ref(&x))),
        Code::InvalidArgument
    );
    assert_eq!(
        code(save(&p, &["x"], &["1 3 -:-"], std::slice::from_ref(&x))),
        Code::InvalidArgument
    );
    assert_eq!(code(one(&p, "x", "1 2 -", DType::F32)), Code::Internal);
    assert_eq!(code(one(&p, "x", "1 2 0,0:-", DType::F32)), Code::InvalidArgument);
    assert_eq!(
        code(save("../climb", &["x"], &[""], std::slice::from_ref(&x))),
        Code::InvalidArgument
    );
    assert_eq!(code(one("a/../../climb", "x", "", DType::F32)), Code::InvalidArgument);
    assert_eq!(
        one(&p, "x", "", DType::F32).unwrap(),
        x,
        "nothing has changed the checkpoint"
    );
}

#[test]
fn shapes_are_inferred_from_constant_slices() {
    let g = Graph::new();
    let c = |t: Tensor| input(&g, t);
    let b = g.op("RestoreV2").input(&c("p".into())).input(&c(strings(&["a", "b"])));
    let b = b.input(&c(strings(&["10 20 0,5:-", ""])));
    let op = b.attr("dtypes", vec![DType::F32, DType::F32]).finish().unwrap();
    assert_eq!(op.outputs()[0].shape(), PartialShape::from([5, 20]));
    assert_eq!(op.outputs()[1].shape(), PartialShape::UNKNOWN);
    let b = g.op("RestoreV2").input(&c("p".into())).input(&c(strings(&["a"])));
    let b = b.input(&c(strings(&["", ""]))).attr("dtypes", vec![DType::F32]);
    assert!(b.finish().is_err());
}

#[test]
fn the_first_version_saves_whole_tensors_and_parts_and_restores_by_pattern() {
    let dir = tempfile::tempdir().unwrap();
    let (g, x) = (Graph::new(), Tensor::from([[1f32, 2.0]]));
    run(
        &g,
        "Save",
        &[Tensor::from(at(&dir, "v1")), strings(&["x"])],
        std::slice::from_ref(&x),
    )
    .unwrap();
    let get = |pattern: &str, name: &str, slice: Option<&str>, dtype: DType| {
        let op = if slice.is_some() { "RestoreSlice" } else { "Restore" };
        let b = g
            .op(op)
            .input(&input(&g, at(&dir, pattern).into()))
            .input(&input(&g, name.into()));
        let b = match slice {
            Some(s) => b.input(&input(&g, s.into())),
            None => b,
        };
        let y = b.attr("dt", dtype).output()?;
        Interpreter::default().run(&[y], &[], &[]).map(|mut v| v.remove(0))
    };
    assert_eq!(get("v1", "x", None, DType::F32).unwrap(), x);
    assert_eq!(get("v?", "x", None, DType::F32).unwrap(), x);
    assert_eq!(
        get("v1", "x", Some("1 2 -:1,1"), DType::F32).unwrap(),
        Tensor::from([[2f32]])
    );
    assert_eq!(
        code(get("v1", "x", Some("2 2 -:1,1"), DType::F32)),
        Code::InvalidArgument
    );
    assert_eq!(code(get("v1", "q", None, DType::F32)), Code::NotFound);
    assert_eq!(code(get("w*", "x", None, DType::F32)), Code::NotFound);
    assert_eq!(code(get("v1", "x", None, DType::I32)), Code::InvalidArgument);

    let rows = [Tensor::from([[1f32, 2.0]]), Tensor::from([[3f32, 4.0], [5.0, 6.0]])];
    for (i, slice) in ["3 2 0,1:-", "3 2 1,2:-"].iter().enumerate() {
        let file = Tensor::from(at(&dir, &format!("s-0000{i}-of-00002")));
        let fixed = [file, strings(&["x"]), strings(&[slice])];
        run(&g, "SaveSlices", &fixed, std::slice::from_ref(&rows[i])).unwrap();
    }
    let spec = g
        .op("ShardedFilespec")
        .input(&input(&g, at(&dir, "s").into()))
        .input(&input(&g, 2i32.into()));
    let y = g
        .op("Restore")
        .input(&spec.output().unwrap())
        .input(&input(&g, "x".into()));
    let y = y.attr("dt", DType::F32).output().unwrap();
    assert_eq!(eval(&y), Tensor::from([[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]]));
    assert_eq!(
        get("s-?????-of-00002", "x", Some("3 2 0,2:1,1"), DType::F32).unwrap(),
        Tensor::from([[2f32], [4.0]])
    );
    let by_pattern = one(&at(&dir, "s-?????-of-00002"), "x", "3 2 0,2:1,1", DType::F32).unwrap();
    assert_eq!(
        by_pattern,
        Tensor::from([[2f32], [4.0]]),
        "RestoreV2 takes a pattern too"
    );
    assert_eq!(
        code(one(&at(&dir, "q-?????-of-00002"), "x", "", DType::F32)),
        Code::NotFound
    );
    let lacking = get("s-00000-of-00002", "x", None, DType::F32);
    assert_eq!(code(lacking), Code::InvalidArgument);
}

#[test]
fn files_of_tensorflows_first_version_are_restored_by_either_version() {
    let data = format!("{}/tests/data/bundle", env!("CARGO_MANIFEST_DIR"));
    let x = Tensor::from([[1.5f32, -2.0], [3.0, 4.0]]);
    assert_eq!(one(&format!("{data}/v1"), "f", "", DType::F32).unwrap(), x);
    let g = Graph::new();
    let get = |pattern: &str, name: &str| {
        let b = g.op("Restore").input(&input(&g, format!("{data}/{pattern}").into()));
        eval(
            &b.input(&input(&g, name.into()))
                .attr("dt", DType::F32)
                .output()
                .unwrap(),
        )
    };
    assert_eq!(get("v1", "f"), x);
    assert_eq!(
        get("v1s-?????-of-00002", "x"),
        Tensor::from([[1f32, 2.], [3., 4.], [5., 6.], [7., 8.]])
    );
    assert_eq!(get("al?", "scope/scalar"), Tensor::from(7.5f32));
}

#[test]
fn names_of_shards() {
    let g = Graph::new();
    let name = |base: &str, shard: i32, n: i32| {
        let b = g.op("ShardedFilename").input(&input(&g, base.into()));
        eval(
            &b.input(&input(&g, shard.into()))
                .input(&input(&g, n.into()))
                .output()
                .unwrap(),
        )
    };
    assert_eq!(name("a/b", 3, 10), Tensor::from("a/b-00003-of-00010"));
    assert_eq!(name("a", -1, 5), Tensor::from("a--0001-of-00005"));
    assert_eq!(name("", 123_456, 1_234_567), Tensor::from("-123456-of-1234567"));
}

#[test]
fn parts_of_tasks_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let parts = [at(&dir, "tmp/part-0"), at(&dir, "tmp/part-1")];
    for (i, part) in parts.iter().enumerate() {
        save(part, &[&format!("x{i}")], &[""], &[Tensor::from(i as i32)]).unwrap();
    }
    let (all, target) = (strings(&[&parts[0], &parts[1]]), at(&dir, "ck"));
    let merge = |parts: Tensor, target: Tensor| run(&Graph::new(), "MergeV2Checkpoints", &[parts, target], &[]);
    merge(all.clone(), Tensor::from(&target[..])).unwrap();
    assert_eq!(one(&target, "x1", "", DType::I32).unwrap(), Tensor::from(1i32));
    assert!(!Path::new(&at(&dir, "tmp")).exists());
    assert_eq!(code(merge(all, Tensor::from(&target[..]))), Code::InvalidArgument);
    assert_eq!(
        code(merge(strings(&[]), Tensor::from(&target[..]))),
        Code::InvalidArgument
    );
    assert_eq!(code(merge(strings(&["a"]), strings(&["a"]))), Code::InvalidArgument);
}

#[test]
fn files_are_written_read_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let (g, file) = (Graph::new(), at(&dir, "w/x.txt"));
    run(&g, "WriteFile", &[Tensor::from(&file[..]), Tensor::from("abc")], &[]).unwrap();
    let read = |name: &str| {
        let y = g.op("ReadFile").input(&input(&g, name.into())).output().unwrap();
        Interpreter::default().run(&[y], &[], &[]).map(|mut v| v.remove(0))
    };
    assert_eq!(read(&file).unwrap(), Tensor::from("abc"));
    assert_eq!(code(read(&at(&dir, "none"))), Code::NotFound);
    assert_eq!(code(read(&at(&dir, "w"))), Code::FailedPrecondition);
    assert_eq!(code(read("../none")), Code::InvalidArgument);
    let found = |patterns: Tensor| eval(&g.op("MatchingFiles").input(&input(&g, patterns)).output().unwrap());
    assert_eq!(found(at(&dir, "w/*").into()), strings(&[&file]));
    assert_eq!(found(at(&dir, "*/[!y].t?t").into()), strings(&[&file]));
    assert_eq!(found(strings(&[&at(&dir, "nope*"), &file])), strings(&[&file]));
    assert_eq!(found(at(&dir, "nope/*").into()), strings(&[]));
}
