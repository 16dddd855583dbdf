use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actorflow_core::{Code, DType, Error, Graph, PartialShape, Tensor};

use super::records::{Compression, RecordWriter};
use super::*;
use crate::npy::write_npy_file;
use crate::queue::{Queue, QueueKind};
use crate::session::Session;
use crate::train::coordinator::Coordinator;

fn numbers(n: i64) -> Dataset {
    Dataset::from_tensors(&[Tensor::vector(&(0..n).collect::<Vec<_>>())]).unwrap()
}

fn values(d: &Dataset) -> Vec<i64> {
    d.iter()
        .unwrap()
        .flat_map(|e| e.unwrap()[0].to_i64_vec().unwrap())
        .collect()
}

#[test]
fn rows_become_batches_and_the_rest_is_kept_or_dropped() {
    let x = Tensor::from_slice([5, 2], &(0..10).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
    let names = Tensor::strings([5], vec!["a", "b", "c", "d", "e"]).unwrap();
    let rows = Dataset::from_tensors(&[x.clone(), names]).unwrap();
    let batches: Vec<Example> = rows
        .clone()
        .batch(2, false)
        .unwrap()
        .iter()
        .unwrap()
        .map(|b| b.unwrap())
        .collect();
    assert_eq!(batches.len(), 3);
    assert_eq!(batches[1][0], x.slice_rows(2, 4).unwrap());
    assert_eq!(batches[2][1], Tensor::strings([1], vec!["e"]).unwrap());
    assert_eq!(rows.batch(2, true).unwrap().iter().unwrap().count(), 2);
}

#[test]
fn the_order_depends_on_the_seed_and_the_epoch_alone() {
    let shuffled = |seed| numbers(50).shuffle(20, seed).unwrap().repeat(Some(2));
    let a = values(&shuffled(1));
    assert_eq!(a, values(&shuffled(1)));
    assert_ne!(a, values(&shuffled(2)));
    assert_ne!(a[..50], a[50..]);
    for epoch in a.chunks(50) {
        assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>(), (0..50).collect());
    }
    // An example comes at most a buffer early.
    assert!(a[..50].iter().enumerate().all(|(i, x)| *x <= i as i64 + 19));
    // Repetitions of repetitions are epochs of their own.
    let twice = values(&numbers(50).shuffle(50, 1).unwrap().repeat(Some(2)).repeat(Some(2)));
    let orders: BTreeSet<&[i64]> = twice.chunks(50).collect();
    assert_eq!(orders.len(), 4);
}

#[test]
fn shards_are_disjoint_and_complete() {
    let mut all: Vec<i64> = (0..3).flat_map(|w| values(&numbers(10).shard(3, w).unwrap())).collect();
    assert_eq!(values(&numbers(10).shard(3, 1).unwrap()), [1, 4, 7]);
    all.sort();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    assert_eq!(numbers(1).shard(3, 3).err().unwrap().code(), Code::InvalidArgument);
}

#[test]
fn examples_are_mapped_filtered_taken_and_skipped() {
    let d = numbers(10)
        .filter(|e| Ok(e[0].to_i64()? % 2 == 0))
        .map(|e| Ok(vec![Tensor::from(e[0].to_i64()? * 10)]));
    assert_eq!(values(&d.clone().skip(1).take(3)), [20, 40, 60]);
    assert_eq!(values(&d.skip(9)).len(), 0);
    assert_eq!(values(&numbers(3).repeat(None).take(7)), [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(values(&numbers(0).repeat(None)).len(), 0);
}

#[test]
fn an_error_comes_once_and_ends_the_examples() {
    let bad = numbers(10).map(|e| match e[0].to_i64()? {
        3 => Err(Error::data_loss("three")),
        _ => Ok(e),
    });
    let whole = bad.clone().prefetch(2).unwrap();
    for d in [
        bad.clone().repeat(None),
        whole,
        bad.shuffle(2, 1).unwrap().batch(1, false).unwrap(),
    ] {
        let all: Vec<_> = d.iter().unwrap().collect();
        let (last, before) = all.split_last().unwrap();
        assert_eq!(last.as_ref().unwrap_err().code(), Code::DataLoss);
        assert!(before.iter().all(|e| e.is_ok()) && before.len() <= 3);
    }
    let uneven = Dataset::new(|_| {
        let all = [Tensor::vector(&[1f32]), Tensor::vector(&[1f32, 2.0])];
        Ok(Box::new(all.into_iter().map(|t| Ok(vec![t]))))
    });
    let e = uneven
        .batch(2, false)
        .unwrap()
        .iter()
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
}

#[test]
fn sizes_of_zero_and_uneven_tensors_are_refused() {
    let code = |r: actorflow_core::Result<Dataset>| r.err().unwrap().code();
    assert_eq!(code(numbers(1).batch(0, false)), Code::InvalidArgument);
    assert_eq!(code(numbers(1).shuffle(0, 1)), Code::InvalidArgument);
    assert_eq!(code(numbers(1).prefetch(0)), Code::InvalidArgument);
    assert_eq!(code(numbers(1).prefetch(usize::MAX)), Code::InvalidArgument);
    assert_eq!(code(Dataset::from_tensors(&[])), Code::InvalidArgument);
    assert_eq!(
        code(Dataset::from_tensors(&[Tensor::from(1f32)])),
        Code::InvalidArgument
    );
    let uneven = [Tensor::vector(&[1f32]), Tensor::vector(&[1f32, 2.0])];
    assert_eq!(code(Dataset::from_tensors(&uneven)), Code::InvalidArgument);
}

#[test]
fn prefetching_keeps_the_order_and_its_thread_ends_with_the_iterator() {
    assert_eq!(values(&numbers(100).prefetch(3).unwrap()), (0..100).collect::<Vec<_>>());
    let alive = Arc::new(AtomicUsize::new(0));
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let of = alive.clone();
    let endless = Dataset::new(move |_| {
        of.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(of.clone());
        Ok(Box::new((0i64..).map(move |i| {
            assert!(counted.0.load(Ordering::SeqCst) > 0);
            Ok(vec![Tensor::from(i)])
        })))
    });
    let mut examples = endless.prefetch(2).unwrap().iter().unwrap();
    assert_eq!(examples.next().unwrap().unwrap()[0].to_i64().unwrap(), 0);
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    drop(examples);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn a_panic_in_a_prefetching_thread_is_an_error() {
    let d = numbers(3).map(|e| match e[0].to_i64()? {
        1 => panic!("no"),
        _ => Ok(e),
    });
    let all: Vec<_> = d.prefetch(1).unwrap().iter().unwrap().collect();
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].as_ref().unwrap_err().code(), Code::Internal);
}

#[test]
fn files_are_read_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    for (name, records) in [("a", ["0", "1"]), ("b", ["2", "3"])] {
        let mut w = RecordWriter::create(path(name), Compression::Gzip).unwrap();
        records.iter().for_each(|r| w.write(r.as_bytes()).unwrap());
        w.finish().unwrap();
    }
    let d = Dataset::from_records(vec![path("a"), path("b")], Compression::Gzip);
    let all: Vec<Example> = d.iter().unwrap().map(|e| e.unwrap()).collect();
    assert_eq!(all, ["0", "1", "2", "3"].map(|s| vec![Tensor::string(s)]));
    let missing = Dataset::from_records(vec![path("a"), path("c")], Compression::Gzip);
    assert_eq!(
        missing.iter().unwrap().last().unwrap().unwrap_err().code(),
        Code::NotFound
    );

    for i in 0..2i64 {
        write_npy_file(path(&format!("x{i}.npy")), &Tensor::vector(&[2 * i, 2 * i + 1])).unwrap();
        write_npy_file(path(&format!("y{i}.npy")), &Tensor::zeros(DType::F32, [2, 3]).unwrap()).unwrap();
    }
    let shards = (0..2)
        .map(|i| vec![path(&format!("x{i}.npy")), path(&format!("y{i}.npy"))])
        .collect();
    let npy = Dataset::from_npy(shards);
    assert_eq!(npy.iter().unwrap().next().unwrap().unwrap()[1].shape().dims(), [3]);
    assert_eq!(values(&npy.map(|mut e| Ok(vec![e.swap_remove(0)]))), [0, 1, 2, 3]);

    std::fs::write(path("t.csv"), "v\n5\n6\n").unwrap();
    let options = csv::CsvOptions::new(vec![csv::CsvColumn::new("v", DType::I64)]);
    assert_eq!(
        values(&Dataset::from_csv(vec![path("t.csv"), path("t.csv")], &options)),
        [5, 6, 5, 6]
    );
}

#[test]
fn a_ledger_hands_out_each_example_once_in_each_epoch_to_whoever_asks() {
    for assignment in [Assignment::Dynamic, Assignment::Strided { workers: 3 }] {
        let ledger: Arc<dyn EpochLedger> = Arc::new(Ledger::new(1000, Some(7), assignment).unwrap());
        let x = Tensor::vector(&(0i64..1000).collect::<Vec<_>>());
        let workers: Vec<_> = (0..3)
            .map(|w| {
                let d = Dataset::rows_from_ledger(std::slice::from_ref(&x), ledger.clone(), w).unwrap();
                std::thread::spawn(move || {
                    (0..4)
                        .map(|e| d.epoch(e).unwrap().map(|x| x.unwrap()[0].to_i64().unwrap()).collect())
                        .collect()
                })
            })
            .collect();
        let seen: Vec<Vec<Vec<i64>>> = workers.into_iter().map(|w| w.join().unwrap()).collect();
        for epoch in 0..4 {
            let mut all: Vec<i64> = seen.iter().flat_map(|w| w[epoch].clone()).collect();
            all.sort();
            assert_eq!(all, (0..1000).collect::<Vec<_>>(), "{assignment:?} epoch {epoch}");
        }
        if assignment != Assignment::Dynamic {
            let again = Ledger::new(1000, Some(7), assignment).unwrap();
            let first = again.claim(1, 2, 1000).unwrap();
            assert_eq!(first.iter().map(|x| *x as i64).collect::<Vec<_>>(), seen[1][2]);
        }
    }
}

#[test]
fn a_ledger_refuses_workers_it_does_not_know_and_epochs_too_far_ahead() {
    for workers in [0, usize::MAX] {
        assert!(Ledger::new(3, None, Assignment::Strided { workers }).is_err());
    }
    let endless = Ledger::new(u64::MAX, Some(1), Assignment::Dynamic).unwrap();
    assert_eq!(endless.claim(0, 0, 1).unwrap_err().code(), Code::ResourceExhausted);
    let l = Ledger::new(3, None, Assignment::Strided { workers: 2 }).unwrap();
    assert_eq!(l.claim(2, 0, 1).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(l.claim(0, 0, 9).unwrap(), [0, 2]);
    assert_eq!(l.claim(0, 0, 9).unwrap(), [] as [u64; 0]);
    for epoch in 1..16 {
        l.claim(0, epoch, 9).unwrap();
    }
    assert_eq!(l.claim(0, 16, 9).unwrap_err().code(), Code::ResourceExhausted);
    // The other worker has read on.
    assert_eq!(l.claim(1, 0, 9).unwrap(), [1]);
    assert_eq!(l.claim(0, 16, 9).unwrap(), [0, 2]);
    assert_eq!(l.claim(1, 0, 9).unwrap(), [] as [u64; 0]);
}

#[test]
fn a_queue_is_filled_from_a_data_set_and_closed_behind_it() {
    let g = Graph::new();
    let queue = Queue::builder(&g, QueueKind::Fifo, &[(DType::I64, PartialShape::scalar())])
        .capacity(2)
        .build()
        .unwrap();
    let feeder = QueueFeeder::of_batches(&queue).unwrap();
    let next = queue.dequeue().unwrap();
    let session = Session::new(&g).unwrap();
    let c = Coordinator::new();
    feeder
        .start(&session, &c, &numbers(5).batch(2, false).unwrap())
        .unwrap();
    let take = || {
        session
            .runner()
            .fetch(&next[0])
            .deadline(Instant::now() + Duration::from_secs(60))
            .run()
    };
    for i in 0..5 {
        assert_eq!(take().unwrap()[0].to_i64().unwrap(), i);
    }
    assert_eq!(take().unwrap_err().code(), Code::OutOfRange);
    c.join(Duration::from_secs(60)).unwrap();
}

#[test]
fn an_error_of_the_data_set_reaches_the_coordinator_and_ends_the_queue() {
    let g = Graph::new();
    let queue = Queue::builder(&g, QueueKind::Fifo, &[(DType::I64, PartialShape::scalar())])
        .capacity(2)
        .build()
        .unwrap();
    let feeder = QueueFeeder::new(&queue).unwrap();
    let next = queue.dequeue().unwrap();
    let session = Session::new(&g).unwrap();
    let c = Coordinator::new();
    let bad = Dataset::new(|_| Ok(Box::new(std::iter::once(Err(Error::data_loss("torn"))))));
    feeder.start(&session, &c, &bad).unwrap();
    assert_eq!(c.join(Duration::from_secs(60)).unwrap_err().code(), Code::DataLoss);
    assert_eq!(session.run(&[], &[&next[0]]).unwrap_err().code(), Code::OutOfRange);
}
