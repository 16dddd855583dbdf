use actorflow_core::{Code, DType, Graph, Shape, Tensor};

use super::*;
use crate::checkpoint::Reader;
use crate::session::Session;
use crate::train::init::{VarianceScaling, Whole, Zeros};
use crate::train::optimizer::{Adagrad, Optimizer};
use crate::train::saver::{Saver, SaverOptions, list_variables};

fn lengths(shape: &[usize], dtype: DType, p: &dyn Partitioner) -> Vec<usize> {
    let parts = plan(&Shape::new(shape), dtype, p).unwrap();
    let (axis, _) = p.partition(&Shape::new(shape), dtype).unwrap();
    parts.iter().map(|p| p.length[axis]).collect()
}

/// The values of a table `[7, 3]`.
fn table() -> Tensor {
    Tensor::from_slice([7, 3], &(0..21).map(|i| i as f32 / 10.0).collect::<Vec<_>>()).unwrap()
}

fn divided(g: &Graph, parts: usize) -> PartitionedVariable {
    let b = PartitionedVariable::builder(g, "scope/table", [7, 3]);
    b.partitioner(FixedSize { parts, axis: 0 })
        .build(Whole(table()))
        .unwrap()
}

fn value(s: &Session, x: &Output) -> Tensor {
    s.run(&[], &[x]).unwrap().swap_remove(0)
}

#[test]
fn parts_are_consecutive_and_the_first_are_longer() {
    assert_eq!(
        lengths(&[10, 2], DType::F32, &FixedSize { parts: 3, axis: 0 }),
        [4, 3, 3]
    );
    assert_eq!(
        lengths(&[2, 10], DType::F32, &FixedSize { parts: 4, axis: 1 }),
        [3, 3, 2, 2]
    );
    assert_eq!(lengths(&[2], DType::F32, &FixedSize { parts: 5, axis: 0 }), [1, 1]);
    assert_eq!(lengths(&[0, 3], DType::F32, &FixedSize { parts: 5, axis: 0 }), [0]);
    let parts = plan(&Shape::new(&[10, 2]), DType::F32, &FixedSize { parts: 3, axis: 0 }).unwrap();
    let specs: Vec<String> = parts.iter().map(Part::spec).collect();
    assert_eq!(specs, ["10 2 0,4:-", "10 2 4,3:-", "10 2 7,3:-"]);
}

#[test]
fn the_partitioners_choose_as_tensorflows_do() {
    // Sixteen bytes a row.
    let max = |max_bytes, max_parts| AxisSize {
        max_bytes,
        axis: 0,
        max_parts,
    };
    let parts = |p: &dyn Partitioner, shape: &[usize], d| p.partition(&Shape::new(shape), d).unwrap().1;
    assert_eq!(parts(&max(1 << 10, None), &[1024, 4], DType::F32), 16);
    assert_eq!(parts(&max(1 << 10, Some(3)), &[1024, 4], DType::F32), 3);
    assert_eq!(parts(&max(1, None), &[8, 4], DType::F32), 8);
    assert_eq!(parts(&max(1 << 20, None), &[8, 4], DType::F32), 1);
    let min = |max_parts, min_bytes| MinMax {
        max_parts,
        axis: 0,
        min_bytes,
    };
    assert_eq!(parts(&min(100, 256 << 10), &[1 << 20], DType::F32), 16);
    assert_eq!(parts(&min(10, 256 << 10), &[1 << 20], DType::F32), 10);
    assert_eq!(parts(&min(100, 1 << 30), &[1 << 20], DType::F32), 1);
    assert_eq!(parts(&min(100, 16), &[5], DType::Str), 5);
    let billion = plan(
        &Shape::new(&[1_000_000_000, 20]),
        DType::F32,
        &FixedSize { parts: 4, axis: 0 },
    )
    .unwrap();
    assert_eq!(billion[3].bytes(DType::F32).unwrap(), 20_000_000_000);
}

#[test]
fn what_cannot_be_divided_is_refused() {
    let refused = |shape: &[usize], p: &dyn Partitioner| {
        plan(&Shape::new(shape), DType::F32, p).unwrap_err().code() == Code::InvalidArgument
    };
    assert!(refused(&[], &FixedSize { parts: 1, axis: 0 }));
    assert!(refused(&[3], &FixedSize { parts: 1, axis: 1 }));
    assert!(refused(&[3], &FixedSize { parts: 0, axis: 0 }));
    assert!(refused(&[3], &MinMax::new(0)));
    assert!(refused(
        &[3],
        &AxisSize {
            max_bytes: 0,
            axis: 0,
            max_parts: None
        }
    ));
    assert!(refused(
        &[3],
        &AxisSize {
            max_bytes: 1,
            axis: 0,
            max_parts: Some(0)
        }
    ));
    assert!(refused(&[usize::MAX, 2], &MinMax::new(2)));
    let tiny = AxisSize {
        max_bytes: 1,
        axis: 0,
        max_parts: None,
    };
    assert!(refused(&[1_000_000_000, 20], &tiny));
    struct Wrong;
    impl Partitioner for Wrong {
        fn partition(&self, _: &Shape, _: DType) -> Result<(usize, usize)> {
            Ok((0, 9))
        }
    }
    assert!(refused(&[3], &Wrong));
    let g = Graph::new();
    let b = PartitionedVariable::builder(&g, "t", [4, 4]);
    let columns = b.partitioner(FixedSize { parts: 2, axis: 1 }).build(Zeros).unwrap();
    let ids = g.constant(vec![1i64]).unwrap();
    assert_eq!(
        columns.embedding_lookup(&ids, None).unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[test]
fn the_parts_are_placed_in_turn_and_make_the_whole() {
    let g = Graph::new();
    for axis in [0, 1] {
        let b = PartitionedVariable::builder(&g, "t", [7, 3]).devices(&["/job:ps/task:0", "/job:ps/task:1"]);
        let v = b
            .partitioner(FixedSize { parts: 3, axis })
            .build(Whole(table()))
            .unwrap();
        let device = |i: usize| v.variables()[i].handle().op().node().device().to_owned();
        assert_eq!(
            [device(0), device(1), device(2)],
            ["/job:ps/task:0", "/job:ps/task:1", "/job:ps/task:0"]
        );
    }
    let g = Graph::new();
    let b = PartitionedVariable::builder(&g, "t", [7, 3]);
    let v = b
        .partitioner(FixedSize { parts: 2, axis: 1 })
        .build(Whole(table()))
        .unwrap();
    let twice = (v.as_tensor().unwrap() * 2.0).unwrap();
    let assign = v.assign(&twice).unwrap();
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    assert_eq!(value(&s, &v.as_tensor().unwrap()), table());
    s.execute(&[&assign]).unwrap();
    let doubled: Vec<f32> = table().to_vec::<f32>().unwrap().iter().map(|x| x * 2.0).collect();
    assert_eq!(value(&s, &v.as_tensor().unwrap()).to_vec::<f32>().unwrap(), doubled);
}

#[test]
fn device_functions_spread_parts_that_ask_for_nothing() {
    use crate::placement::{PsStrategy, parameter_devices};
    let servers = ["/job:ps/task:0".to_owned(), "/job:ps/task:1".to_owned()];
    let g = Graph::new();
    let spread = parameter_devices(&servers, "/job:worker/task:0", PsStrategy::GreedyLoadBalancing).unwrap();
    let _devices = g.device_function(spread);
    let table = divided(&g, 3);
    let of = |v: &Variable| v.handle().op().node().device().to_owned();
    let places: Vec<String> = table.variables().iter().map(of).collect();
    // The first has 9 numbers, the others 6 each.
    assert_eq!(places, [&servers[0][..], &servers[1], &servers[1]]);
}

#[test]
fn initialisers_see_the_whole_and_give_each_part_numbers_of_its_own() {
    let g = Graph::new();
    g.set_seed(1);
    let b = PartitionedVariable::builder(&g, "w", [400, 100]);
    let v = b
        .partitioner(FixedSize { parts: 4, axis: 0 })
        .build(VarianceScaling::lecun_normal(Some(3)))
        .unwrap();
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    let all: Vec<Tensor> = v.values().iter().map(|x| value(&s, x)).collect();
    assert!(all[1..].iter().all(|t| *t != all[0]));
    let all: Vec<f32> = all.iter().flat_map(|t| t.to_vec::<f32>().unwrap()).collect();
    let variance = all.iter().map(|x| f64::from(x * x)).sum::<f64>() / all.len() as f64;
    // One over the number of inputs of the whole: 400, not 100.
    assert!((variance * 400.0 - 1.0).abs() < 0.05, "{variance}");
}

/// Trains a table in so many parts; its value.
fn trained(parts: usize, strategy: PartitionStrategy) -> Vec<f32> {
    let g = Graph::new();
    let v = divided(&g, parts);
    let ids = g.constant(vec![0i64, 6, 3, 3, 5]).unwrap();
    let loss = v
        .lookup(&ids, strategy, None)
        .unwrap()
        .square()
        .unwrap()
        .sum(&[0, 1], false)
        .unwrap();
    let rule = Adagrad::new(0.5);
    let train = Optimizer::new(rule).minimize(&loss).unwrap();
    let s = Session::new(&g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    for _ in 0..5 {
        s.execute(&[&train]).unwrap();
    }
    value(&s, &v.as_tensor().unwrap()).to_vec().unwrap()
}

#[test]
fn training_in_parts_equals_training_the_whole() {
    let whole = trained(1, PartitionStrategy::Div);
    assert_ne!(whole, table().to_vec::<f32>().unwrap());
    assert_eq!(whole[3..9], table().to_vec::<f32>().unwrap()[3..9]);
    for parts in [2, 3, 7] {
        assert_eq!(trained(parts, PartitionStrategy::Div), whole, "{parts}");
    }
    // Other rows have those ids.
    assert_ne!(trained(3, PartitionStrategy::Mod), whole);
}

#[test]
fn a_checkpoint_in_parts_is_one_tensor_and_restored_in_other_parts() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = format!("{}/m", dir.path().to_str().unwrap());
    let build = |parts: usize| {
        let g = Graph::new();
        let v = divided(&g, parts);
        let ids = g.constant(vec![2i64, 4]).unwrap();
        let loss = v
            .embedding_lookup(&ids, None)
            .unwrap()
            .square()
            .unwrap()
            .sum(&[0, 1], false)
            .unwrap();
        let rule = Adagrad::new(0.5);
        let train = Optimizer::new(rule).minimize(&loss).unwrap();
        let saver = Saver::new(&g, SaverOptions::default()).unwrap();
        (g.clone(), v, train, saver, Session::new(&g).unwrap())
    };
    let (g, v, train, saver, s) = build(3);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    s.execute(&[&train]).unwrap();
    saver.save(&s, &prefix, None).unwrap();
    let names = list_variables(&prefix).unwrap();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!((&names[0].0[..], &names[0].2[..]), ("scope/table", &[7, 3][..]));
    assert!(
        names[1].0.starts_with("scope/table/") && names[1].2 == [7, 3],
        "{names:?}"
    );
    assert!(Reader::open(&prefix).is_ok());
    let wanted = value(&s, &v.as_tensor().unwrap());
    for parts in [1, 2, 5] {
        let (_, v, _, saver, s) = build(parts);
        saver.restore(&s, &prefix).unwrap();
        assert_eq!(value(&s, &v.as_tensor().unwrap()), wanted, "{parts}");
    }
}
