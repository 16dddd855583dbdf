//! Queue runners, coordinators and the pipelines made of them.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::time::Duration;

use actorflow::queue::{Queue, QueueKind};
use actorflow::train::coordinator::Coordinator;
use actorflow::train::input::{
    BatchOptions, ProducerOptions, batch, input_producer, range_input_producer, shuffle_batch, slice_input_producer,
    string_input_producer,
};
use actorflow::train::queue_runner::{QueueRunner, start_queue_runners};
use actorflow::{Code, DType, Error, Graph, GraphVariables, Output, PartialShape, Session, SessionOptions, Tensor};

const LONG: Duration = Duration::from_secs(30);

fn sessions(g: &Graph) -> Vec<Session> {
    let init = g.global_variables_initializer().unwrap();
    let make = |n| {
        let s = Session::with_options(g, SessionOptions::with_threads(n)).unwrap();
        s.execute(&[&init]).unwrap();
        s
    };
    vec![make(1), make(2)]
}

/// Everything that comes until the end.
fn drain(s: &Session, x: &Output) -> (Vec<Tensor>, Error) {
    let mut all = Vec::new();
    loop {
        match s.run(&[], &[x]) {
            Ok(mut t) => all.push(t.remove(0)),
            Err(e) => return (all, e),
        }
        assert!(all.len() < 10_000);
    }
}

fn ordered(epochs: i64) -> ProducerOptions {
    ProducerOptions {
        num_epochs: Some(epochs),
        shuffle: false,
        ..ProducerOptions::default()
    }
}

#[test]
fn strings_come_in_order_as_often_as_asked_for() {
    let g = Graph::new();
    let names = string_input_producer(&g, &["a", "b", "c", "d", "e"], &ordered(2)).unwrap();
    let name = names.dequeue().unwrap();
    let options = BatchOptions {
        allow_smaller_final_batch: true,
        ..BatchOptions::default()
    };
    let out = batch(&name, 4, &options).unwrap();
    for s in sessions(&g) {
        let c = Coordinator::new();
        assert_eq!(start_queue_runners(&s, &c).unwrap(), 2);
        let (batches, end) = drain(&s, &out[0]);
        assert_eq!(end.code(), Code::OutOfRange, "{end}");
        let sizes: Vec<usize> = batches.iter().map(Tensor::len).collect();
        assert_eq!(sizes, [4, 4, 2]);
        let text: Vec<String> = batches.iter().map(|t| format!("{t:?}")).collect();
        assert!(text[1].contains('e') && text[2].contains('d'), "{text:?}");
        c.join(LONG).unwrap();
    }
}

#[test]
fn shuffled_batches_have_every_row_once_in_an_epoch() {
    let g = Graph::new();
    g.set_seed(3);
    let numbers = range_input_producer(
        &g,
        50,
        &ProducerOptions {
            num_epochs: Some(3),
            seed: Some(1),
            ..ProducerOptions::default()
        },
    )
    .unwrap();
    let one = numbers.dequeue().unwrap();
    let options = BatchOptions {
        threads: 3,
        capacity: 40,
        ..BatchOptions::default()
    };
    let out = shuffle_batch(&one, 10, 20, Some(2), &options).unwrap();
    for s in sessions(&g) {
        let c = Coordinator::new();
        start_queue_runners(&s, &c).unwrap();
        let (batches, end) = drain(&s, &out[0]);
        assert_eq!(end.code(), Code::OutOfRange, "{end}");
        let mut all: Vec<i32> = batches.iter().flat_map(|t| t.to_vec::<i32>().unwrap()).collect();
        assert!(all.windows(2).any(|w| w[0] > w[1]));
        all.sort_unstable();
        assert_eq!(all, (0..150).map(|i| i / 3).collect::<Vec<i32>>());
        c.join(LONG).unwrap();
    }
}

#[test]
fn rows_of_several_tensors_stay_together_and_are_padded() {
    let g = Graph::new();
    let x = g.constant(vec![1i32, 2, 3, 4, 5]).unwrap();
    let y = g.constant(vec![10f32, 20.0, 30.0, 40.0, 50.0]).unwrap();
    let row = slice_input_producer(&[x, y], &ordered(1)).unwrap();
    // As many ones as the number says.
    let many = row[0].expand_dims(0).unwrap();
    let ones = many.fill_with(&g.constant(1i32).unwrap()).unwrap();
    let options = BatchOptions {
        dynamic_pad: true,
        ..BatchOptions::default()
    };
    let out = batch(&[row[0].clone(), row[1].clone(), ones], 2, &options).unwrap();
    for s in sessions(&g) {
        let c = Coordinator::new();
        start_queue_runners(&s, &c).unwrap();
        for k in 0..2 {
            let got = s.run(&[], &[&out[0], &out[1], &out[2]]).unwrap();
            let a = 2 * k + 1;
            assert_eq!(got[0], Tensor::vector(&[a, a + 1]));
            assert_eq!(got[1], Tensor::vector(&[10.0 * a as f32, 10.0 * (a + 1) as f32]));
            assert_eq!(got[2].shape().dims(), [2, a as usize + 1]);
            assert_eq!(got[2].to_vec::<i32>().unwrap().iter().sum::<i32>(), 2 * a + 1);
        }
        // The fifth is lost, as it makes no batch.
        assert_eq!(s.run(&[], &[&out[0]]).unwrap_err().code(), Code::OutOfRange);
        c.join(LONG).unwrap();
    }
}

#[test]
fn an_error_in_the_pipeline_stops_everybody_and_is_reported() {
    let g = Graph::new();
    let x = g.constant(vec![1f32, 2.0, f32::NAN, 4.0]).unwrap();
    let forever = ProducerOptions {
        shuffle: false,
        ..ProducerOptions::default()
    };
    let rows = input_producer(&x, &forever).unwrap();
    let row = rows.dequeue().unwrap();
    let checked = g.op("CheckNumerics").input(&row[0]).attr("message", "a bad row");
    let checked = checked.output().unwrap();
    let out = batch(&[checked], 1, &BatchOptions::default()).unwrap();
    for s in sessions(&g) {
        let c = Coordinator::new();
        start_queue_runners(&s, &c).unwrap();
        let e = c.join(LONG).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument, "{e}");
        assert!(e.message().contains("a bad row"), "{e}");
        assert!(c.should_stop());
        // What came before can still be taken.
        let (got, end) = drain(&s, &out[0]);
        assert_eq!((got.len(), end.code()), (2, Code::OutOfRange));
    }
}

#[test]
fn stopping_wakes_runners_that_wait_for_room() {
    let g = Graph::new();
    let rows = range_input_producer(&g, 100, &ProducerOptions::default()).unwrap();
    let out = rows.dequeue().unwrap();
    let size = rows.size().unwrap();
    for s in sessions(&g) {
        let c = Coordinator::new();
        start_queue_runners(&s, &c).unwrap();
        s.run(&[], &[&out[0]]).unwrap();
        // Until the queue is full and the runner waits.
        while s.run(&[], &[&size]).unwrap()[0] != Tensor::from(32i32) {
            std::thread::yield_now();
        }
        c.request_stop();
        c.join(LONG).unwrap();
        let closed = rows.is_closed().unwrap();
        assert_eq!(s.run(&[], &[&closed]).unwrap()[0], Tensor::from(true));
    }
}

#[test]
fn a_runner_may_wait_for_a_slow_consumer_for_longer_than_a_stall() {
    let g = Graph::new();
    let rows = range_input_producer(&g, 100, &ordered(1)).unwrap();
    let out = rows.dequeue().unwrap();
    let options = SessionOptions {
        stall_timeout: Duration::from_millis(50),
        ..SessionOptions::with_threads(2)
    };
    let s = Session::with_options(&g, options).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let c = Coordinator::new();
    start_queue_runners(&s, &c).unwrap();
    assert!(!c.handle().wait_for_stop(Duration::from_millis(400)));
    let (got, end) = drain(&s, &out[0]);
    assert_eq!((got.len(), end.code()), (100, Code::OutOfRange));
    c.join(LONG).unwrap();
}

#[test]
fn several_runners_of_one_queue_close_it_once() {
    let g = Graph::new();
    let queue = Queue::builder(&g, QueueKind::Fifo, &[(DType::I64, PartialShape::scalar())]);
    let queue = queue.capacity(5).build().unwrap();
    let one = |n: i64| {
        let v = g.variable_builder("count").local().reference().build(0i64).unwrap();
        let counted = g.op("CountUpTo").input(v.handle()).attr("limit", n).output().unwrap();
        queue.enqueue(&[counted]).unwrap()
    };
    let runner = QueueRunner::new(&queue, &[one(3), one(40), one(17)]).unwrap();
    let out = queue.dequeue().unwrap();
    for s in sessions(&g) {
        let c = Coordinator::new();
        runner.start(&s, &c).unwrap();
        let (got, end) = drain(&s, &out[0]);
        assert_eq!((got.len(), end.code()), (60, Code::OutOfRange));
        c.join(LONG).unwrap();
    }
    assert!(QueueRunner::new(&queue, &[]).is_err());
}

#[test]
fn dropping_the_coordinator_ends_the_threads() {
    let g = Graph::new();
    range_input_producer(&g, 10, &ProducerOptions::default()).unwrap();
    let s = sessions(&g).remove(0);
    let c = Coordinator::new();
    start_queue_runners(&s, &c).unwrap();
    let handle = c.handle();
    drop(c);
    assert!(handle.should_stop());
}

#[test]
fn pipelines_that_cannot_work_are_refused() {
    let g = Graph::new();
    let o = ProducerOptions::default;
    assert!(string_input_producer(&g, &[], &o()).is_err());
    assert!(range_input_producer(&g, 0, &o()).is_err());
    assert!(range_input_producer(&g, 5, &ordered(0)).is_err());
    let open = g.placeholder("open", DType::F32, [None, None]).unwrap();
    let e = input_producer(&open, &o()).unwrap_err();
    assert!(e.message().contains("open"), "{e}");
    let e = batch(std::slice::from_ref(&open), 2, &BatchOptions::default()).unwrap_err();
    assert!(e.message().contains("open"), "{e}");
    let x = g.constant(1f32).unwrap();
    let xs = std::slice::from_ref(&x);
    assert!(batch(xs, 0, &BatchOptions::default()).is_err());
    assert!(batch(&[], 1, &BatchOptions::default()).is_err());
    assert!(shuffle_batch(xs, 1, 32, None, &BatchOptions::default()).is_err());
    assert!(slice_input_producer(&[], &o()).is_err());
    g.add_to_collection(actorflow::keys::QUEUE_RUNNERS, "odd");
    let s = Session::new(&g).unwrap();
    assert!(start_queue_runners(&s, &Coordinator::new()).is_err());
}
