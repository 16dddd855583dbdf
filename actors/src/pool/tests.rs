#![forbid(unsafe_code)]

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use actorflow_core::parallel::Parallel;
use parking_lot::Mutex;

use super::*;

fn pool(threads: usize) -> WorkerPool {
    WorkerPool::new(PoolOptions {
        pin: false,
        ..PoolOptions::new(threads)
    })
}

/// Counts how many threads are inside at once, and the most there ever were.
#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Gauge {
    fn inside<R>(&self, f: impl FnOnce() -> R) -> R {
        self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
        let result = f();
        self.now.fetch_sub(1, SeqCst);
        result
    }
}

/// Waits, for long if need be, until something that is bound to happen has happened.
fn eventually(what: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while !what() && Instant::now() < end {
        thread::sleep(Duration::from_micros(100));
    }
    what()
}

fn sum_of_chunks(pool: &dyn Parallel, chunks: usize) -> usize {
    let sum = AtomicUsize::new(0);
    pool.run(chunks, &|i| {
        sum.fetch_add(i + 1, SeqCst);
    });
    sum.into_inner()
}

#[test]
fn every_chunk_runs_exactly_once() {
    let pool = pool(3);
    let _active = pool.step_guard();
    for round in 0..300 {
        let chunks = round % 9;
        let counts: Vec<_> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(chunks, &|i| {
            counts[i].fetch_add(1, SeqCst);
        });
        assert!(counts.iter().all(|count| count.load(SeqCst) == 1), "round {round}");
    }
}

#[test]
fn what_helpers_write_is_seen_by_the_caller_and_the_other_way_round() {
    let pool = pool(2);
    let mut data = vec![0usize; 64];
    for round in 1..200 {
        data.fill(round);
        let cells: Vec<_> = data.iter_mut().map(Mutex::new).collect();
        pool.run(8, &|chunk| {
            cells[chunk * 8..][..8].iter().for_each(|cell| **cell.lock() += chunk)
        });
        drop(cells);
        assert!(data.iter().enumerate().all(|(i, &x)| x == round + i / 8));
    }
}

#[test]
fn one_thread_means_a_plain_loop_on_the_caller_and_no_worker() {
    let pool = pool(1);
    let caller = thread::current().id();
    let order = Mutex::new(Vec::new());
    pool.run(4, &|i| {
        assert_eq!(thread::current().id(), caller);
        order.lock().push(i);
    });
    assert_eq!(*order.lock(), [0, 1, 2, 3]);
    assert_eq!(pool.stats().workers, 0);
    assert_eq!(pool.threads(), 1);
}

#[test]
fn a_panic_in_a_chunk_is_raised_at_the_caller_and_the_pool_lives_on() {
    let pool = pool(2);
    for bad in 0..4 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(4, &|i| {
                if i == bad {
                    std::panic::panic_any(i);
                }
            });
        }));
        assert_eq!(outcome.unwrap_err().downcast_ref::<usize>(), Some(&bad));
    }
    assert_eq!(sum_of_chunks(&pool, 10), 55);
}

#[test]
fn regions_nest_and_run_from_several_threads_at_once() {
    let pool = pool(3);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let total = AtomicUsize::new(0);
                    pool.run(4, &|_| {
                        total.fetch_add(sum_of_chunks(&pool, 5), SeqCst);
                    });
                    assert_eq!(total.into_inner(), 4 * 15);
                }
            });
        }
    });
    assert!(eventually(|| pool.stats().seats_taken == 0));
}

#[test]
fn never_more_threads_compute_than_there_are_seats() {
    let pool = Arc::new(pool(2));
    let gauge = Arc::new(Gauge::default());
    let done = Arc::new(AtomicUsize::new(0));
    let mut spawned = 0;
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..100 {
                    if let Some(_seat) = pool.enter() {
                        gauge.inside(|| thread::sleep(Duration::from_micros(20)));
                    }
                }
            });
        }
        for _ in 0..200 {
            let (gauge, done) = (Arc::clone(&gauge), Arc::clone(&done));
            spawned += 1;
            pool.spawn(Box::new(move |_: &WorkerCx<'_>| {
                gauge.inside(|| thread::sleep(Duration::from_micros(20)));
                done.fetch_add(1, SeqCst);
            }));
        }
    });
    assert!(eventually(|| done.load(SeqCst) == spawned));
    assert!((1..=2).contains(&gauge.most.load(SeqCst)));
}

#[test]
fn a_seat_is_the_threads_own_and_nests() {
    let pool = pool(1);
    assert!(pool.idle());
    let seat = pool.enter().unwrap();
    let again = pool.enter().unwrap();
    assert!(!pool.idle());
    thread::scope(|scope| {
        scope.spawn(|| assert!(pool.enter().is_none()));
    });
    drop(seat);
    assert_eq!(pool.stats().seats_taken, 1);
    drop(again);
    assert_eq!(pool.stats().seats_taken, 0);
    assert!(pool.idle());
}

#[test]
fn a_task_waits_for_a_seat_and_runs_when_one_is_freed() {
    let pool = pool(1);
    let ran = Arc::new(Event::new());
    let seat = pool.enter().unwrap();
    let set = Arc::clone(&ran);
    pool.spawn(Box::new(move |_: &WorkerCx<'_>| set.set()));
    assert!(!ran.wait(Some(Instant::now() + Duration::from_millis(20))));
    assert_eq!((pool.stats().workers, pool.stats().queued), (0, 1));
    drop(seat);
    assert!(ran.wait(Some(Instant::now() + Duration::from_secs(10))));
}

#[test]
fn tasks_spawn_tasks_and_all_of_them_run() {
    fn burst(depth: u32, left: Arc<AtomicUsize>, done: Arc<Event>) -> Box<dyn Task> {
        Box::new(move |cx: &WorkerCx<'_>| {
            for _ in 0..if depth > 0 { 3 } else { 0 } {
                left.fetch_add(1, SeqCst);
                cx.spawn(burst(depth - 1, Arc::clone(&left), Arc::clone(&done)));
            }
            if left.fetch_sub(1, SeqCst) == 1 {
                done.set();
            }
        })
    }
    let pool = pool(3);
    for _ in 0..20 {
        let (left, done) = (Arc::new(AtomicUsize::new(1)), Arc::new(Event::new()));
        pool.spawn(burst(5, Arc::clone(&left), Arc::clone(&done)));
        assert!(done.wait(Some(Instant::now() + Duration::from_secs(30))));
    }
}

#[test]
fn a_panicking_task_is_counted_and_reported() {
    let (tx, rx) = mpsc::channel();
    let tx = Mutex::new(tx);
    let hook: TaskPanicHook = Arc::new(move |payload| {
        let _ = tx.lock().send(payload.downcast_ref::<&str>().map(|s| s.to_string()));
    });
    let pool = WorkerPool::new(PoolOptions {
        on_panic: Some(hook),
        ..PoolOptions::new(1)
    });
    pool.spawn(Box::new(|_: &WorkerCx<'_>| panic!("bad task")));
    assert_eq!(
        rx.recv_timeout(Duration::from_secs(10)).unwrap().as_deref(),
        Some("bad task")
    );
    assert!(eventually(|| pool.stats().panics == 1));
}

#[test]
fn a_waiting_thread_helps_with_the_tasks_itself() {
    let pool = pool(1);
    let _seat = pool.enter().unwrap();
    let (event, left) = (Arc::new(Event::new()), Arc::new(AtomicUsize::new(3)));
    let caller = thread::current().id();
    for _ in 0..3 {
        let (event, left) = (Arc::clone(&event), Arc::clone(&left));
        pool.spawn(Box::new(move |_: &WorkerCx<'_>| {
            assert_eq!(thread::current().id(), caller);
            if left.fetch_sub(1, SeqCst) == 1 {
                event.set();
            }
        }));
    }
    assert!(pool.help_while(&event, || left.load(SeqCst) > 0, None));
    assert_eq!((pool.stats().workers, pool.stats().panics), (0, 0));
}

#[test]
fn a_waiting_thread_gives_its_seat_to_a_worker_and_gets_it_back() {
    let pool = pool(1);
    let _seat = pool.enter().unwrap();
    let event = Arc::new(Event::new());
    let sleeping = AtomicBool::new(false);
    thread::scope(|scope| {
        let set = Arc::clone(&event);
        let (pool, sleeping) = (&pool, &sleeping);
        scope.spawn(move || {
            while pool.stats().seats_taken > 0 {
                thread::yield_now();
            }
            sleeping.store(true, SeqCst);
            pool.spawn(Box::new(move |cx: &WorkerCx<'_>| {
                assert!(cx.is_worker());
                set.set();
            }));
        });
        assert!(pool.help_while(&event, || !event.is_set(), None));
    });
    assert!(sleeping.load(SeqCst));
    assert!(eventually(|| pool.enter().is_some()));
}

#[test]
fn waiting_ends_at_the_deadline() {
    let pool = pool(2);
    let event = Event::new();
    assert!(!pool.help_while(&event, || true, Some(Instant::now() + Duration::from_millis(5))));
}

#[test]
fn dropping_the_pool_drops_queued_tasks_unrun_and_joins_its_workers() {
    let pool = pool(1);
    let token = Arc::new(());
    let ran = Arc::new(AtomicBool::new(false));
    let (started, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (s, g, held) = (Arc::clone(&started), Arc::clone(&go), Arc::clone(&token));
    pool.spawn(Box::new(move |_: &WorkerCx<'_>| {
        s.wait();
        g.wait();
        drop(held);
    }));
    started.wait();
    let (flag, held) = (Arc::clone(&ran), Arc::clone(&token));
    pool.spawn(Box::new(move |_: &WorkerCx<'_>| {
        flag.store(true, SeqCst);
        drop(held);
    }));
    let dropper = thread::spawn(move || drop(pool));
    thread::sleep(Duration::from_millis(20));
    go.wait();
    dropper.join().unwrap();
    assert_eq!(Arc::strong_count(&token), 1);
    assert!(!ran.load(SeqCst));
}

#[test]
fn a_worker_may_drop_the_pool_it_belongs_to() {
    for _ in 0..20 {
        let pool = Arc::new(pool(2));
        let dropped = Arc::new(Event::new());
        let (own, set, go) = (Arc::clone(&pool), Arc::clone(&dropped), Arc::new(Event::new()));
        let wait = Arc::clone(&go);
        pool.spawn(Box::new(move |_: &WorkerCx<'_>| {
            wait.wait(None);
            drop(own);
            set.set();
        }));
        drop(pool);
        go.set();
        assert!(dropped.wait(Some(Instant::now() + Duration::from_secs(10))));
    }
}

#[test]
fn workers_are_named_pinned_and_created_on_demand() {
    let cores = affinity::cores();
    let threads = cores.len().max(2);
    let pool = WorkerPool::new(PoolOptions {
        pin: true,
        name: "dev".into(),
        ..PoolOptions::new(threads)
    });
    assert_eq!(pool.stats().workers, 0);
    let (tx, rx) = mpsc::channel();
    let barrier = Arc::new(Barrier::new(threads));
    for _ in 0..threads {
        let (tx, barrier) = (tx.clone(), Arc::clone(&barrier));
        pool.spawn(Box::new(move |_: &WorkerCx<'_>| {
            barrier.wait();
            let name = thread::current().name().unwrap_or_default().to_owned();
            let _ = tx.send((name, affinity::current_core()));
        }));
    }
    let seen: Vec<_> = (0..threads)
        .map(|_| rx.recv_timeout(Duration::from_secs(20)).unwrap())
        .collect();
    assert!(seen.iter().all(|(name, _)| name.starts_with("dev-")));
    if cores.len() == threads {
        let on: HashSet<_> = seen.iter().map(|(_, core)| core.unwrap()).collect();
        assert_eq!(on, cores.into_iter().collect());
    }
    assert_eq!(pool.stats().workers, threads);
}

#[test]
fn two_pools_in_one_thread_keep_their_seats_apart() {
    let (a, b) = (pool(1), pool(1));
    let in_a = a.enter().unwrap();
    let in_b = b.enter().unwrap();
    drop(in_a);
    assert_eq!((a.stats().seats_taken, b.stats().seats_taken), (0, 1));
    drop(in_b);
    assert_eq!(b.stats().seats_taken, 0);
}
