//! Map staging areas, tables, variables, stacks and arrays of tensors: what nodes leave for each other.

use actorflow_core::cancel::CancelToken;
use actorflow_core::error::Result;
use actorflow_core::{AttrValue, Code, DType, PartialShape, Tensor};
use shuttle::thread;

use super::{Session, abort, all, sorted};
use crate::scheduled::schedules;

/// A map staging area of one int32 for each key.
#[derive(Clone)]
struct Map {
    session: Session,
    kind: &'static str,
    capacity: i64,
}

impl Map {
    fn attrs(&self) -> Vec<(&'static str, AttrValue)> {
        vec![
            ("dtypes", AttrValue::from([DType::I32])),
            ("fake_dtypes", AttrValue::from([DType::I32])),
            ("shared_name", AttrValue::from("map")),
            ("capacity", AttrValue::from(self.capacity)),
        ]
    }

    fn op(&self, name: &str) -> String {
        format!("{}{name}", self.kind)
    }

    fn put(&self, key: i64, cancel: &CancelToken) -> Result<()> {
        let inputs = vec![key.into(), [0i32].into(), (key as i32 * 10).into()];
        self.session
            .start(&self.op("Stage"), &self.attrs(), inputs, cancel)
            .wait()
            .map(drop)
    }

    fn take(&self, key: i64) -> Result<i32> {
        let inputs = vec![key.into(), [0i32].into()];
        self.session.run(&self.op("Unstage"), &self.attrs(), inputs)?[0].to_scalar()
    }

    /// Any key that is there.
    fn take_any(&self, cancel: &CancelToken) -> Result<i64> {
        let taken = self
            .session
            .start(&self.op("UnstageNoKey"), &self.attrs(), vec![[0i32].into()], cancel);
        let taken = taken.wait()?;
        let key = taken[0].to_scalar::<i64>()?;
        assert_eq!(taken[1].to_scalar::<i32>()?, key as i32 * 10);
        Ok(key)
    }

    fn size(&self) -> i64 {
        let size = self.session.run(&self.op("Size"), &self.attrs(), vec![]);
        size.unwrap()[0].to_i64().unwrap()
    }
}

#[test]
fn each_key_of_a_map_goes_to_whoever_asks_for_it() {
    for kind in ["Map", "OrderedMap"] {
        schedules(move || {
            let map = Map {
                session: Session::new(),
                kind,
                capacity: 0,
            };
            let producers = [[1, 2], [3, 4]].map(|keys| {
                let map = map.clone();
                thread::spawn(move || keys.iter().for_each(|k| map.put(*k, &CancelToken::new()).unwrap()))
            });
            let consumers = [[4, 1], [2, 3]].map(|keys| {
                let map = map.clone();
                thread::spawn(move || keys.map(|k| map.take(k).unwrap()))
            });
            all(producers.into());
            assert_eq!(all(consumers.into()), [[40, 10], [20, 30]]);
            assert_eq!(map.size(), 0);
        });
    }
}

#[test]
fn a_map_that_is_full_makes_producers_wait_and_loses_nothing_to_cancellation() {
    for kind in ["Map", "OrderedMap"] {
        schedules(move || {
            let map = Map {
                session: Session::new(),
                kind,
                capacity: 1,
            };
            let token = CancelToken::new();
            let producer = {
                let (map, token) = (map.clone(), token.clone());
                thread::spawn(move || {
                    map.put(1, &CancelToken::new()).unwrap();
                    map.put(2, &token).is_ok()
                })
            };
            let consumer = {
                let (map, token) = (map.clone(), token.clone());
                thread::spawn(move || map.take_any(&token))
            };
            let aborter = abort(&token);
            let put = if producer.join().unwrap() { vec![1, 2] } else { vec![1] };
            let taken = consumer.join().unwrap();
            aborter.join().unwrap();
            let left = (0..map.size()).map(|_| map.take_any(&CancelToken::new()).unwrap());
            assert_eq!(sorted(taken.into_iter().chain(left)), put, "{kind}");
        });
    }
}

/// The attributes of a table from int64 to int64.
fn table() -> [(&'static str, AttrValue); 2] {
    [
        ("key_dtype", AttrValue::from(DType::I64)),
        ("value_dtype", AttrValue::from(DType::I64)),
    ]
}

fn find(session: &Session, table: &Tensor) -> Result<Vec<i64>> {
    let inputs = vec![table.clone(), [1i64, 2].into(), (-1i64).into()];
    session.run("LookupTableFindV2", &[], inputs)?[0].to_vec()
}

#[test]
fn whoever_asks_a_table_sees_all_of_an_insertion_or_nothing() {
    schedules(|| {
        let session = Session::new();
        let t = session.make("MutableHashTableV2", &table());
        let writers = [10i64, 20].map(|x| {
            let (session, t) = (session.clone(), t.clone());
            thread::spawn(move || {
                for (op, keys, values) in [
                    ("LookupTableInsertV2", vec![1i64, 2, x], vec![x, x, x]),
                    ("LookupTableInsertV2", vec![2, 1, x + 1], vec![x, x, x]),
                ] {
                    let inputs = vec![t.clone(), Tensor::vector(&keys), Tensor::vector(&values)];
                    session.run(op, &[], inputs).unwrap();
                }
            })
        });
        let reader = {
            let (session, t) = (session.clone(), t.clone());
            thread::spawn(move || {
                let mut filled = false;
                for _ in 0..3 {
                    let found = find(&session, &t).unwrap();
                    assert!(found[0] == found[1] && [-1, 10, 20].contains(&found[0]), "{found:?}");
                    assert!(!filled || found[0] > 0, "what was inserted is gone");
                    filled = found[0] > 0;
                }
            })
        };
        all(writers.into());
        reader.join().unwrap();
        let size = session.run("LookupTableSizeV2", &[], vec![t.clone()]).unwrap();
        assert_eq!(size[0].to_i64().unwrap(), 6, "1, 2 and two keys of each writer");
    });
}

#[test]
fn a_constant_table_is_filled_by_one_whoever_else_tries() {
    schedules(|| {
        let session = Session::new();
        let t = session.make("HashTableV2", &table());
        let fillers = [10i64, 20].map(|x| {
            let (session, t) = (session.clone(), t.clone());
            thread::spawn(move || {
                let inputs = vec![t, [1i64, 2].into(), [x, x].into()];
                session.run("InitializeTableV2", &[], inputs).map(|_| x)
            })
        });
        let reader = {
            let (session, t) = (session.clone(), t.clone());
            thread::spawn(move || find(&session, &t))
        };
        let filled = all(fillers.into());
        let seen = reader.join().unwrap();
        let (won, lost): (Vec<_>, Vec<_>) = filled.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 1));
        let x = *won[0].as_ref().unwrap();
        assert_eq!(lost[0].as_ref().unwrap_err().code(), Code::FailedPrecondition);
        assert_eq!(find(&session, &t).unwrap(), [x, x]);
        match seen {
            Ok(found) => assert_eq!(found, [x, x]),
            Err(e) => assert_eq!(e.code(), Code::FailedPrecondition, "{e}"),
        }
    });
}

#[test]
fn no_update_of_a_variable_is_lost_and_none_is_seen_in_part() {
    schedules(|| {
        let session = Session::new();
        let dtype = || ("dtype", AttrValue::from(DType::F32));
        let shape = ("shape", AttrValue::from(PartialShape::from([2])));
        let v = session.make("VarHandleOp", &[dtype(), shape]);
        let zeros = vec![v.clone(), [0f32, 0.0].into()];
        session.run("AssignVariableOp", &[dtype()], zeros).unwrap();
        let read = {
            let (session, v) = (session.clone(), v.clone());
            move || -> Vec<f32> {
                let value = session.run("ReadVariableOp", &[dtype()], vec![v.clone()]);
                value.unwrap()[0].to_vec().unwrap()
            }
        };
        let writers = ["AssignAddVariableOp", "AssignAddVariableOp", "ResourceScatterAdd"].map(|op| {
            let (session, v) = (session.clone(), v.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    let (attrs, inputs) = match op {
                        "ResourceScatterAdd" => (
                            vec![dtype(), ("Tindices", AttrValue::from(DType::I32))],
                            vec![v.clone(), [1i32, 0].into(), [1f32, 1.0].into()],
                        ),
                        _ => (vec![dtype()], vec![v.clone(), [1f32, 1.0].into()]),
                    };
                    session.run(op, &attrs, inputs).unwrap();
                }
            })
        });
        let reader = {
            let read = read.clone();
            thread::spawn(move || {
                let mut last = 0.0;
                for _ in 0..3 {
                    let value = read();
                    assert!(value[0] == value[1] && value[0] >= last, "{value:?} after {last}");
                    last = value[0];
                }
            })
        };
        all(writers.into());
        reader.join().unwrap();
        assert_eq!(read(), [6.0, 6.0]);
    });
}

#[test]
fn what_is_pushed_on_a_stack_is_popped_once() {
    schedules(|| {
        let session = Session::new();
        let types = || ("elem_type", AttrValue::from(DType::I32));
        let stack = session
            .run("StackV2", &[types()], vec![(-1i32).into()])
            .unwrap()
            .remove(0);
        let pop = {
            let (session, stack) = (session.clone(), stack.clone());
            move || session.run("StackPopV2", &[types()], vec![stack.clone()])
        };
        let pushers = [[1, 2], [3, 4]].map(|items| {
            let (session, stack) = (session.clone(), stack.clone());
            thread::spawn(move || {
                for x in items {
                    // The stack's lock is no part of a schedule.
                    thread::yield_now();
                    let t = ("T", AttrValue::from(DType::I32));
                    session
                        .run("StackPushV2", &[t], vec![stack.clone(), Tensor::scalar(x)])
                        .unwrap();
                }
            })
        });
        let poppers = [0, 1].map(|_| {
            let pop = pop.clone();
            thread::spawn(move || {
                let mut popped = Vec::new();
                for _ in 0..3 {
                    thread::yield_now();
                    match pop() {
                        Ok(x) => popped.push(x[0].to_scalar::<i32>().unwrap()),
                        Err(e) => assert!(e.message().contains("empty"), "{e}"),
                    }
                }
                popped
            })
        });
        all(pushers.into());
        let mut popped = all(poppers.into()).concat();
        while let Ok(x) = pop() {
            popped.push(x[0].to_scalar().unwrap());
        }
        assert_eq!(sorted(popped), [1, 2, 3, 4]);
    });
}

#[test]
fn an_element_of_an_array_is_written_by_one_and_each_has_its_own() {
    schedules(|| {
        let session = Session::new();
        let dtype = ("dtype", AttrValue::from(DType::I32));
        let array = session.run("TensorArrayV3", &[dtype], vec![3i32.into()]).unwrap();
        let (handle, flow) = (array[0].clone(), array[1].clone());
        // Both write element 1, and one more that is theirs.
        let writers = [[0, 1], [1, 2]].map(|at| {
            let (session, handle, flow) = (session.clone(), handle.clone(), flow.clone());
            thread::spawn(move || {
                at.map(|i: i32| {
                    thread::yield_now();
                    let t = ("T", AttrValue::from(DType::I32));
                    let value = Tensor::scalar(10 * at[0] + i);
                    let inputs = vec![handle.clone(), Tensor::scalar(i), value, flow.clone()];
                    session.run("TensorArrayWriteV3", &[t], inputs).is_ok()
                })
            })
        });
        let wrote = all(writers.into());
        assert!(wrote[0][0] && wrote[1][1]);
        assert_ne!(wrote[0][1], wrote[1][0], "element 1 is written once");
        let shared = if wrote[0][1] { 1 } else { 11 };
        for (i, want) in [0, shared, 12].into_iter().enumerate() {
            let t = ("dtype", AttrValue::from(DType::I32));
            let inputs = vec![handle.clone(), Tensor::scalar(i as i32), flow.clone()];
            let got = session.run("TensorArrayReadV3", &[t], inputs).unwrap();
            assert_eq!(got[0].to_scalar::<i32>().unwrap(), want);
        }
    });
}
