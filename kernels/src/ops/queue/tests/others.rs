//! Mutexes, accumulators, barriers, staging areas and tables.

use actorflow_core::cancel::CancelToken;
use actorflow_core::{AttrValue, Code, DType, Error, PartialShape, Tensor};

use super::{Outcome, Session};

fn words(w: &[&'static str]) -> Tensor {
    Tensor::strings([w.len()], w.to_vec()).unwrap()
}

#[test]
fn a_mutex_goes_to_one_holder_after_the_other() {
    let s = Session::new();
    let mutex = s.run("MutexV2", &[], vec![]).outputs().remove(0);
    let lock = || s.run("MutexLock", &[], vec![mutex.clone()]);
    let first = lock().outputs().remove(0);
    let cancel = CancelToken::new();
    let cancelled = s.start("MutexLock", &[], vec![mutex.clone()], &cancel);
    let (second, third) = (lock(), lock());
    assert!(second.waits());
    cancel.cancel(Error::cancelled("aborted"));
    assert_eq!(cancelled.error().code(), Code::Cancelled);
    s.run("ConsumeMutexLock", &[], vec![first]).outputs();
    assert!(!second.waits() && third.waits());
    // A lock that nobody consumes is released when nobody has it any more.
    second.forget();
    assert!(!third.waits());
}

#[test]
fn an_accumulator_drops_the_past_and_waits_for_enough() {
    let s = Session::new();
    let attrs = [
        ("dtype", AttrValue::from(DType::F32)),
        ("shape", AttrValue::from(PartialShape::from([2]))),
    ];
    let acc = s
        .run("ResourceConditionalAccumulator", &attrs, vec![])
        .outputs()
        .remove(0);
    let dtype = [("dtype", AttrValue::from(DType::F32))];
    let apply = |step: i64, g: Tensor| {
        let inputs = vec![acc.clone(), step.into(), g];
        s.run("ResourceAccumulatorApplyGradient", &dtype, inputs)
    };
    let take = |n: i32| s.run("ResourceAccumulatorTakeGradient", &dtype, vec![acc.clone(), n.into()]);
    let mean = take(2);
    apply(0, [1f32, 3.].into()).outputs();
    assert!(mean.waits());
    apply(0, [2f32, 5.].into()).outputs();
    assert_eq!(mean.outputs(), [Tensor::from([1.5f32, 4.])]);
    // Taking moved the step on.
    apply(0, [9f32, 9.].into()).outputs();
    let next = take(1);
    assert!(next.waits());
    apply(1, [7f32, 8.].into()).outputs();
    assert_eq!(next.outputs(), [Tensor::from([7f32, 8.])]);
    assert_eq!(apply(5, [1f32].into()).error().code(), Code::InvalidArgument);
    assert_eq!(take(0).error().code(), Code::InvalidArgument);
}

#[test]
fn sparse_rows_are_averaged_by_how_often_they_came() {
    let s = Session::new();
    let attrs = [
        ("dtype", AttrValue::from(DType::F32)),
        ("shape", AttrValue::from(PartialShape::from([None, Some(1)]))),
    ];
    let acc = s
        .run("SparseConditionalAccumulator", &attrs, vec![])
        .outputs()
        .remove(0);
    let apply = |indices: &[i64], values: &[f32]| {
        let shape = Tensor::from_slice([0], &[0i64; 0]).unwrap();
        let values = Tensor::from_slice([values.len(), 1], values).unwrap();
        let inputs = vec![acc.clone(), 0i64.into(), Tensor::vector(indices), values, shape];
        let attrs = [
            ("dtype", AttrValue::from(DType::F32)),
            ("has_known_shape", false.into()),
        ];
        s.run("SparseAccumulatorApplyGradient", &attrs, inputs).outputs();
    };
    apply(&[0, 3], &[1., 3.]);
    apply(&[1, 3], &[30., 10.]);
    let dtype = [("dtype", AttrValue::from(DType::F32))];
    let out = s.run("SparseAccumulatorTakeGradient", &dtype, vec![acc.clone(), 2i32.into()]);
    let want = [
        Tensor::from([0i64, 1, 3]),
        Tensor::from([[1f32], [30.], [6.5]]),
        Tensor::from([-1i64, 1]),
    ];
    assert_eq!(out.outputs(), want);
}

#[test]
fn a_barrier_gives_tuples_when_all_their_parts_have_come() {
    let s = Session::new();
    let types = || ("component_types", AttrValue::from([DType::I32, DType::I32]));
    let barrier = s.run("Barrier", &[types()], vec![]).outputs().remove(0);
    let insert = |part: i64, keys: &[&'static str], values: &[i32]| {
        let attrs = [
            ("component_index", AttrValue::from(part)),
            ("T", AttrValue::from(DType::I32)),
        ];
        s.run(
            "BarrierInsertMany",
            &attrs,
            vec![barrier.clone(), words(keys), Tensor::vector(values)],
        )
    };
    let take = |n: i32| s.run("BarrierTakeMany", &[types()], vec![barrier.clone(), n.into()]);
    let close = |cancel: bool| {
        let c = ("cancel_pending_enqueues", AttrValue::from(cancel));
        s.run("BarrierClose", &[c], vec![barrier.clone()])
    };
    insert(0, &["a", "b"], &[1, 2]).outputs();
    let one = take(1);
    assert!(one.waits());
    insert(1, &["b"], &[20]).outputs();
    let got = one.outputs();
    assert_eq!(got[1..], [words(&["b"]), Tensor::from([2i32]), Tensor::from([20i32])]);
    assert_eq!(insert(0, &["a"], &[5]).error().code(), Code::InvalidArgument);
    assert_eq!(insert(2, &["a"], &[5]).error().code(), Code::InvalidArgument);
    close(false).outputs();
    assert_eq!(insert(0, &["new"], &[5]).error().code(), Code::Cancelled);
    assert_eq!(close(false).error().code(), Code::Cancelled);
    let last = take(1);
    assert!(last.waits());
    insert(1, &["a"], &[10]).outputs();
    assert_eq!(last.outputs()[2], Tensor::from([1i32]));
    assert_eq!(take(1).error().code(), Code::OutOfRange);
}

#[test]
fn a_staging_area_waits_for_room_and_for_elements() {
    let s = Session::new();
    let attrs = [
        ("dtypes", AttrValue::from([DType::I32])),
        ("shared_name", AttrValue::from("area")),
        ("capacity", AttrValue::from(1i64)),
    ];
    let put = |x: i32| s.run("Stage", &attrs, vec![x.into()]);
    let get = || s.run("Unstage", &attrs, vec![]);
    let (peek, first) = (s.run("StagePeek", &attrs, vec![3i32.into()]), get());
    assert!(first.waits());
    put(1).outputs();
    // The peek at a later element holds nobody up.
    assert_eq!(first.outputs(), [Tensor::from(1i32)]);
    put(2).outputs();
    let full = put(3);
    assert!(full.waits() && peek.waits());
    s.run("StageClear", &attrs, vec![]).outputs();
    assert!(full.outputs().is_empty());
    assert_eq!(s.run("StageSize", &attrs, vec![]).outputs(), [Tensor::from(1i32)]);
}

#[test]
fn a_map_staging_area_gives_the_parts_of_a_whole_element() {
    let s = Session::new();
    let attrs = |n: usize| {
        [
            ("dtypes", AttrValue::from(vec![DType::I32; n])),
            ("shared_name", AttrValue::from("map")),
            ("fake_dtypes", AttrValue::from([DType::I32])),
        ]
    };
    let put = |key: i64, i: i32, x: i32| s.run("OrderedMapStage", &attrs(2), vec![key.into(), [i].into(), x.into()]);
    let take = |key: i64, i: i32| s.run("OrderedMapUnstage", &attrs(1), vec![key.into(), [i].into()]);
    put(5, 0, 50).outputs();
    let part = take(5, 1);
    assert!(part.waits());
    assert_eq!(put(5, 0, 9).error().code(), Code::InvalidArgument);
    put(5, 1, 51).outputs();
    assert_eq!(part.outputs(), [Tensor::from(51i32)]);
    assert_eq!(take(5, 1).error().code(), Code::InvalidArgument);
    put(2, 0, 20).outputs();
    put(2, 1, 21).outputs();
    let least = s.run("OrderedMapUnstageNoKey", &attrs(2), vec![[1i32, 0].into()]);
    assert_eq!(
        least.outputs(),
        [Tensor::from(2i64), Tensor::from(21i32), Tensor::from(20i32)]
    );
    assert_eq!(take(5, 0).outputs(), [Tensor::from(50i32)]);
    assert_eq!(
        s.run("OrderedMapSize", &attrs(1), vec![]).outputs(),
        [Tensor::from(0i32)]
    );
}

fn table(s: &Session, op: &str, key: DType, value: DType, inputs: Vec<Tensor>) -> Outcome {
    let attrs = [
        ("key_dtype", AttrValue::from(key)),
        ("value_dtype", AttrValue::from(value)),
    ];
    s.run(op, &attrs, inputs)
}

#[test]
fn a_constant_table_is_filled_once_and_then_asked() {
    let s = Session::new();
    let t = table(&s, "HashTableV2", DType::Str, DType::I64, vec![])
        .outputs()
        .remove(0);
    let find = |keys: Tensor, default: Tensor| s.run("LookupTableFindV2", &[], vec![t.clone(), keys, default]);
    let fill = |keys: Tensor, values: Tensor| s.run("InitializeTableV2", &[], vec![t.clone(), keys, values]);
    assert_eq!(
        find(words(&["a"]), 0i64.into()).error().code(),
        Code::FailedPrecondition
    );
    let twice = fill(words(&["a", "a"]), [1i64, 2].into());
    assert_eq!(twice.error().code(), Code::FailedPrecondition);
    fill(words(&["a", "b"]), [1i64, 2].into()).outputs();
    fill(words(&["b", "a"]), [2i64, 1].into()).outputs();
    assert_eq!(
        fill(words(&["a"]), [1i64].into()).error().code(),
        Code::FailedPrecondition
    );
    assert_eq!(
        find(words(&["b", "z", "a"]), (-1i64).into()).outputs(),
        [Tensor::from([2i64, -1, 1])]
    );
    assert_eq!(find([1i64].into(), 0i64.into()).error().code(), Code::InvalidArgument);
    let insert = s.run(
        "LookupTableInsertV2",
        &[],
        vec![t.clone(), words(&["c"]), [3i64].into()],
    );
    assert_eq!(insert.error().code(), Code::Unimplemented);
}

#[test]
fn entries_of_a_mutable_table_come_and_go() {
    let s = Session::new();
    let t = table(&s, "MutableHashTableV2", DType::I64, DType::F32, vec![])
        .outputs()
        .remove(0);
    let on = |op: &str, mut inputs: Vec<Tensor>| {
        inputs.insert(0, t.clone());
        s.run(op, &[], inputs)
    };
    on("LookupTableInsertV2", vec![[3i64, 4].into(), [1f32, 2.].into()]).outputs();
    on("LookupTableInsertV2", vec![[4i64, 9].into(), [5f32, 6.].into()]).outputs();
    on("LookupTableRemoveV2", vec![[3i64, 7].into()]).outputs();
    assert_eq!(on("LookupTableSizeV2", vec![]).outputs(), [Tensor::from(2i64)]);
    let out = on("LookupTableExportV2", vec![]).outputs();
    assert_eq!(out, [Tensor::from([4i64, 9]), Tensor::from([5f32, 6.])]);
    let each = on("LookupTableFindV2", vec![[9i64, 3].into(), [0.5f32, 0.25].into()]);
    assert_eq!(each.outputs(), [Tensor::from([6f32, 0.25])]);
    on("LookupTableImportV2", vec![[1i64].into(), [1f32].into()]).outputs();
    assert_eq!(on("LookupTableSizeV2", vec![]).outputs(), [Tensor::from(1i64)]);
}

#[test]
fn a_dense_table_refuses_its_empty_and_deleted_key() {
    let s = Session::new();
    let keys = vec![(-1i64).into(), (-2i64).into()];
    let t = table(&s, "MutableDenseHashTableV2", DType::I64, DType::I64, keys)
        .outputs()
        .remove(0);
    let insert = |k: i64| s.run("LookupTableInsertV2", &[], vec![t.clone(), [k].into(), [7i64].into()]);
    insert(5).outputs();
    assert!(insert(-1).error().message().contains("empty_key"));
    assert!(insert(-2).error().message().contains("deleted_key"));
}

#[test]
fn a_table_is_filled_from_columns_of_a_file() {
    let s = Session::new();
    let path = std::env::temp_dir().join(format!("actorflow-table-{}.txt", std::process::id()));
    std::fs::write(&path, "one\t1\ntwo\t2\n").unwrap();
    let t = table(&s, "HashTableV2", DType::Str, DType::I64, vec![])
        .outputs()
        .remove(0);
    let fill = |size: i64, path: &str| {
        let attrs = [
            ("key_index", AttrValue::from(0i64)),
            ("value_index", AttrValue::from(1i64)),
            ("vocab_size", AttrValue::from(size)),
        ];
        let inputs = vec![t.clone(), Tensor::from(path)];
        s.run("InitializeTableFromTextFileV2", &attrs, inputs)
    };
    let path_text = path.to_str().unwrap();
    assert_eq!(fill(3, path_text).error().code(), Code::InvalidArgument);
    assert_eq!(fill(-1, "/no/such/file").error().code(), Code::NotFound);
    fill(-1, path_text).outputs();
    let found = s.run("LookupTableFindV2", &[], vec![t.clone(), words(&["two"]), 0i64.into()]);
    assert_eq!(found.outputs(), [Tensor::from([2i64])]);
    std::fs::remove_file(&path).unwrap();
}
