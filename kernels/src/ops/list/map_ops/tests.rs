use super::{erased, insert_into, looked_up, start};
use crate::testing::{Interpreter, eval, fails};
use actorflow_core::gradient::gradients;
use actorflow_core::{Code, DType, Graph, Output, PartialShape, Tensor};

fn c(g: &Graph, t: impl Into<Tensor>) -> Output {
    g.constant(t.into()).unwrap()
}

/// {1: [1, 2]}
fn one(g: &Graph) -> Output {
    insert_into(&start(g).unwrap(), &c(g, 1i32), &c(g, [1f32, 2.])).unwrap()
}

fn pair(a: &'static str, b: &'static str) -> Tensor {
    Tensor::strings([2], vec![a, b]).unwrap()
}

fn size(m: &Output) -> Tensor {
    eval(&m.unary("TensorMapSize").unwrap())
}

fn keys(m: &Output, dtype: DType) -> Output {
    let op = m.graph().op("TensorMapStackKeys").input(m);
    op.attr("key_dtype", dtype).output().unwrap()
}

#[track_caller]
fn refuses(y: &Output, why: &str) {
    let e = fails(y);
    assert_eq!(e.code(), Code::InvalidArgument, "{e}");
    assert!(e.message().contains(why), "{e}");
}

#[test]
fn what_was_inserted_is_found_and_the_map_before_is_as_it_was() {
    let g = Graph::new();
    let m = one(&g);
    let more = insert_into(&m, &c(&g, "b"), &c(&g, true)).unwrap();
    let replaced = insert_into(&more, &c(&g, 1i32), &c(&g, 7i64)).unwrap();
    assert_eq!(
        (size(&m), size(&more), size(&replaced)),
        (1i32.into(), 2i32.into(), 2i32.into())
    );
    let get = |m: &Output, k: Tensor, dtype| eval(&looked_up(m, &c(&g, k), dtype).unwrap());
    assert_eq!(get(&more, 1i32.into(), DType::F32), Tensor::from([1f32, 2.]));
    assert_eq!(get(&more, "b".into(), DType::Bool), Tensor::from(true));
    assert_eq!(get(&replaced, 1i32.into(), DType::I64), Tensor::from(7i64));
    let has = |m: &Output, k: Tensor| eval(&g.op("TensorMapHasKey").input(m).input(&c(&g, k)).output().unwrap());
    assert_eq!(has(&m, 1i32.into()), Tensor::from(true));
    // Neither another dtype nor another shape is the same key.
    for other in [Tensor::from(1i64), Tensor::from([1i32]), Tensor::from("b")] {
        assert_eq!(has(&m, other), Tensor::from(false));
    }
    let rest = erased(&more, &c(&g, 1i32), DType::F32).unwrap();
    assert_eq!(has(&rest, 1i32.into()), Tensor::from(false));
    assert_eq!(size(&start(&g).unwrap()), Tensor::from(0i32));
    assert_eq!(m.shape(), PartialShape::scalar());
}

#[test]
fn keys_of_one_kind_are_stacked() {
    let g = Graph::new();
    let m = insert_into(&one(&g), &c(&g, 3i32), &c(&g, 0f32)).unwrap();
    assert_eq!(eval(&keys(&m, DType::I32)), Tensor::from([1i32, 3]));
    let words = insert_into(&start(&g).unwrap(), &c(&g, pair("b", "c")), &c(&g, 0f32)).unwrap();
    let words = insert_into(&words, &c(&g, pair("a", "d")), &c(&g, 0f32)).unwrap();
    assert_eq!(
        eval(&keys(&words, DType::Str)),
        Tensor::strings([2, 2], vec!["a", "d", "b", "c"]).unwrap()
    );
    let none = Tensor::zeros(DType::F32, [0]).unwrap();
    let hollow = insert_into(&start(&g).unwrap(), &c(&g, none), &c(&g, 0f32)).unwrap();
    assert_eq!(eval(&keys(&hollow, DType::F32)).shape().dims(), [1, 0]);
    refuses(&keys(&m, DType::I64), "requested dtype int64");
    refuses(&keys(&start(&g).unwrap(), DType::I64), "empty map");
    let mixed = insert_into(&m, &c(&g, [1i32, 3]), &c(&g, 1f32)).unwrap();
    refuses(&keys(&mixed, DType::I32), "same shape");
}

/// The answers and codes of TensorFlow 2.21.
#[test]
fn what_does_not_fit_is_refused() {
    let g = Graph::new();
    let m = one(&g);
    refuses(
        &looked_up(&m, &c(&g, 2i32), DType::F32).unwrap(),
        "could not find key int32[] 2",
    );
    refuses(&looked_up(&m, &c(&g, 1i64), DType::F32).unwrap(), "could not find key");
    refuses(
        &looked_up(&m, &c(&g, 1i32), DType::I32).unwrap(),
        "value_dtype is int32",
    );
    refuses(
        &erased(&m, &c(&g, 2i32), DType::F32).unwrap(),
        "erase non-existent item",
    );
    let size = |t: &Output| t.unary("TensorMapSize").unwrap();
    refuses(&size(&g.stack(&[m.clone(), m.clone()], 0).unwrap()), "must be a scalar");
    let list = g.op("EmptyTensorList").input(&c(&g, -1i32)).input(&c(&g, -1i32));
    let list = list.attr("element_dtype", DType::F32).output().unwrap();
    refuses(&size(&list), "not a map of tensors");
    refuses(&insert_into(&m, &m, &m).unwrap(), "cannot be the key");
}

#[test]
fn maps_are_added_by_keys_and_their_zero_is_empty() {
    let g = Graph::new();
    let m = one(&g);
    let other = insert_into(&one(&g), &c(&g, 3i32), &c(&g, [5f32])).unwrap();
    let sum = g.add_n(&[m.clone(), other]).unwrap();
    assert_eq!(size(&sum), Tensor::from(2i32));
    let get = |k: i32| eval(&looked_up(&sum, &c(&g, k), DType::F32).unwrap());
    assert_eq!((get(1), get(3)), (Tensor::from([2f32, 4.]), Tensor::from([5f32])));
    assert_eq!(size(&m.zeros_like().unwrap()), Tensor::from(0i32));
}

#[test]
fn maps_in_maps_and_lists_are_not_nested_without_end() {
    let g = Graph::new();
    let nest = |levels: usize| {
        let mut m = start(&g).unwrap();
        for i in 0..levels {
            m = match i % 2 {
                0 => insert_into(&start(&g).unwrap(), &c(&g, 0i32), &m).unwrap(),
                _ => {
                    let list = g.op("EmptyTensorList").input(&c(&g, -1i32)).input(&c(&g, -1i32));
                    let list = list.attr("element_dtype", DType::Variant).output().unwrap();
                    g.op("TensorListPushBack").input(&list).input(&m).output().unwrap()
                }
            };
        }
        m
    };
    assert!(Interpreter::default().run(&[nest(60)], &[], &[]).is_ok());
    refuses(&nest(70), "nested too deeply");
}

/// As TensorFlow, which decides with a `cond` whether the gradient has the key.
#[test]
fn a_value_that_is_never_looked_up_has_the_gradient_zero() {
    let g = Graph::new();
    let (x, y) = (c(&g, [1f32, 2.]), c(&g, [3f32, 4.]));
    let m = insert_into(&start(&g).unwrap(), &c(&g, "x"), &x).unwrap();
    let m = insert_into(&m, &c(&g, "y"), &y).unwrap();
    let loss = looked_up(&m, &c(&g, "x"), DType::F32).unwrap().square().unwrap();
    let grads = gradients(&[loss], &[x, y]).unwrap();
    let of = |i: usize| eval(&grads[i].clone().unwrap().to_dense().unwrap());
    assert_eq!((of(0), of(1)), (Tensor::from([2f32, 4.]), Tensor::from([0f32, 0.])));
}
