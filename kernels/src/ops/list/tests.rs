use crate::testing::Interpreter;
use actorflow_core::error::Result;
use actorflow_core::gradient::gradients;
use actorflow_core::graph::OpBuilder;
use actorflow_core::{DType, Graph, Output, PartialShape, Tensor};

struct Lists(Graph);

impl Lists {
    fn new() -> Self {
        Lists(Graph::new())
    }

    /// An input that is not known when the graph is built.
    fn late(&self, t: impl Into<Tensor>) -> Output {
        let c = self.0.constant(t).unwrap();
        let op = self.0.op("PlaceholderWithDefault").input(&c);
        op.attr("shape", PartialShape::UNKNOWN).output().unwrap()
    }

    fn op(&self, name: &str, inputs: &[&Output]) -> OpBuilder {
        inputs.iter().fold(self.0.op(name), |b, x| b.input(x))
    }

    fn reserve(&self, shape: impl Into<Tensor>, n: i32) -> Output {
        let op = self.op("TensorListReserve", &[&self.late(shape), &self.late(n)]);
        op.attr("element_dtype", DType::F32).output().unwrap()
    }

    fn set(&self, l: &Output, i: i32, x: impl Into<Tensor>) -> Output {
        self.op("TensorListSetItem", &[l, &self.late(i), &self.late(x)])
            .output()
            .unwrap()
    }

    fn stack(&self, l: &Output, shape: impl Into<Tensor>) -> Output {
        let op = self.op("TensorListStack", &[l, &self.late(shape)]);
        op.attr("element_dtype", DType::F32).output().unwrap()
    }

    fn run(&self, y: &Output) -> Result<Tensor> {
        Ok(Interpreter::default().run(std::slice::from_ref(y), &[], &[])?.remove(0))
    }

    #[track_caller]
    fn refuses(&self, y: &Output, why: &str) {
        let e = self.run(y).unwrap_err();
        assert!(e.message().contains(why), "{e}");
    }
}

#[test]
fn what_was_never_set_is_zero_where_the_shape_is_known() {
    let g = Lists::new();
    let l = g.set(&g.reserve(-1i32, 3), 1, [1f32, 2.]);
    assert_eq!(
        g.run(&g.stack(&l, -1i32)).unwrap(),
        Tensor::from([[0f32, 0.], [1., 2.], [0., 0.]])
    );
    let get = |i: i32| {
        let op = g.op("TensorListGetItem", &[&l, &g.late(i), &g.late(-1i32)]);
        op.attr("element_dtype", DType::F32).output().unwrap()
    };
    assert_eq!(g.run(&get(0)).unwrap(), Tensor::from([0f32, 0.]));
    assert_eq!(g.run(&get(1)).unwrap(), Tensor::from([1f32, 2.]));
    g.refuses(&get(3), "element 3 in a list with 3 elements");
    g.refuses(&get(-1), "element -1");
    g.refuses(&g.stack(&g.reserve(-1i32, 3), -1i32), "never set");
    let none = g.run(&g.stack(&g.reserve([2i32], 0), -1i32)).unwrap();
    assert_eq!(none.shape().dims(), [0, 2]);
    g.refuses(&g.stack(&g.reserve(-1i32, 0), -1i32), "not fully defined");
    g.refuses(&g.stack(&l, [3i32]), "not compatible");
    let mixed = g.set(&l, 0, [1f32]);
    g.refuses(&g.stack(&mixed, -1i32), "not compatible");
}

#[test]
fn elements_must_be_of_the_lists_shape_and_dtype() {
    let g = Lists::new();
    let l = g.reserve([2i32, -1], 2);
    g.refuses(&g.set(&l, 0, [1f32, 2.]), "list of shape [2,?]");
    g.refuses(&g.set(&l, 2, [[1f32], [2.]]), "element 2 in a list with 2");
    g.refuses(&g.set(&l, 0, [[1i32], [2]]), "invalid data types");
    let push = |most: i32| {
        let op = g.op("EmptyTensorList", &[&g.late(-1i32), &g.late(most)]);
        let l = op.attr("element_dtype", DType::F32).output().unwrap();
        g.op("TensorListPushBack", &[&l, &g.late(1f32)]).output().unwrap()
    };
    g.refuses(&push(0), "full list");
    assert!(g.run(&push(-1)).is_ok());
    g.refuses(&g.reserve([2i32], -3), "-3");
    g.refuses(&g.reserve(3i32, 1), "-1");
    g.refuses(&g.reserve([-2i32], 1), ">= -1");
    let none = g.op("TensorListPopBack", &[&g.reserve([1i32], 0), &g.late(-1i32)]);
    g.refuses(&none.attr("element_dtype", DType::F32).output().unwrap(), "empty list");
}

#[test]
fn parts_are_joined_and_split() {
    let g = Lists::new();
    let x = g.late([[0f32, 1.], [2., 3.], [4., 5.]]);
    let split = |shape: [i32; 2], lengths: Vec<i64>| {
        let n = g.late(Tensor::vector(&lengths));
        g.op("TensorListSplit", &[&x, &g.late(shape), &n]).output().unwrap()
    };
    let concat = |l: &Output, shape: Tensor, leading: &[i64]| {
        let op = g.op(
            "TensorListConcatV2",
            &[l, &g.late(shape), &g.late(Tensor::vector(leading))],
        );
        op.attr("element_dtype", DType::F32).finish().unwrap()
    };
    let l = split([-1, 2], vec![1, 2]);
    let op = concat(&l, Tensor::from(-1i32), &[]);
    assert_eq!(
        g.run(&op.output(0).unwrap()).unwrap(),
        Tensor::from([[0f32, 1.], [2., 3.], [4., 5.]])
    );
    assert_eq!(g.run(&op.output(1).unwrap()).unwrap(), Tensor::from([1i64, 2]));
    g.refuses(&concat(&l, [2i32, 2].into(), &[]).output(0).unwrap(), "first dimension");
    g.refuses(&concat(&l, [-1i32, 3].into(), &[]).output(0).unwrap(), "not compatible");
    g.refuses(&split([-1, 2], vec![1, 3]), "attempting to slice");
    g.refuses(&split([-1, 2], vec![1, 1]), "unused values");
    g.refuses(&split([-1, 2], vec![4, -1]), "attempting to slice");
    g.refuses(&split([-1, 3], vec![1, 2]), "[3]");
    let unset = g.reserve(-1i32, 2);
    let op = concat(&unset, [-1i32, 2].into(), &[1, 0]);
    assert_eq!(g.run(&op.output(0).unwrap()).unwrap(), Tensor::from([[0f32, 0.]]));
    g.refuses(
        &concat(&unset, [-1i32, 2].into(), &[1]).output(0).unwrap(),
        "leading_dims",
    );
    g.refuses(
        &concat(&g.reserve(-1i32, 0), Tensor::from(-1i32), &[])
            .output(0)
            .unwrap(),
        "fully defined",
    );
}

#[test]
fn lists_are_added_and_zeroed_element_by_element() {
    let g = Lists::new();
    let a = g.set(&g.reserve([2i32], 2), 0, [1f32, 2.]);
    let sum = g.0.add_n(&[a.clone(), a.clone(), g.reserve([2i32], 2)]).unwrap();
    assert_eq!(
        g.run(&g.stack(&sum, -1i32)).unwrap(),
        Tensor::from([[2f32, 4.], [0., 0.]])
    );
    let zero = g.stack(&a.zeros_like().unwrap(), -1i32);
    assert_eq!(g.run(&zero).unwrap(), Tensor::from([[0f32, 0.], [0., 0.]]));
    let other = g.0.add_n(&[a, g.reserve([2i32], 3)]).unwrap();
    g.refuses(&other, "different lengths, 2 and 3");
}

#[test]
fn rows_are_scattered_and_gathered() {
    let g = Lists::new();
    let x = g.late([[1f32], [2.], [3.]]);
    let scatter = |at: Vec<i32>, n: i32| {
        let inputs = [&x, &g.late(Tensor::vector(&at)), &g.late([1i32]), &g.late(n)];
        g.op("TensorListScatterV2", &inputs).output().unwrap()
    };
    let gather = |l: &Output, at: Vec<i32>| {
        let op = g.op("TensorListGather", &[l, &g.late(Tensor::vector(&at)), &g.late([1i32])]);
        op.attr("element_dtype", DType::F32).output().unwrap()
    };
    let l = scatter(vec![2, 0, 4], -1);
    assert_eq!(
        g.run(&gather(&l, vec![4, 1, 2])).unwrap(),
        Tensor::from([[3f32], [0.], [1.]])
    );
    assert_eq!(g.run(&gather(&l, vec![])).unwrap().shape().dims(), [0, 1]);
    g.refuses(&gather(&l, vec![5]), "element 5");
    g.refuses(&scatter(vec![2, 0, 4], 4), "index 4 in a list with size 4");
    g.refuses(&scatter(vec![2, 0, 4], -2), "num_elements");
    g.refuses(&scatter(vec![2, -1, 4], -1), "negative");
    g.refuses(&scatter(vec![2, 1], -1), "number of rows");
    g.refuses(&scatter(vec![2, 1, i32::MAX], -1), "cannot hold");
}

#[test]
fn a_handle_that_is_no_list_is_refused() {
    let g = Lists::new();
    let l = g.reserve([1i32], 1);
    let two = g.0.stack(&[l.clone(), l], 0).unwrap();
    let n = g.op("TensorListLength", &[&two]).output().unwrap();
    g.refuses(&n, "scalar");
    let p = g.0.placeholder("p", DType::Variant, PartialShape::UNKNOWN).unwrap();
    let n = g.op("TensorListLength", &[&p]).output().unwrap();
    let other = Tensor::variants([], vec![std::sync::Arc::new(7u8) as _]).unwrap();
    assert!(Interpreter::default().run(&[n], &[], &[(p, other)]).is_err());
}

#[test]
fn batches_of_lists_get_a_row_each() {
    let g = Lists::new();
    let l = g.reserve([1i32], 0);
    let two = g.0.stack(&[l.clone(), l], 0).unwrap();
    let push = |x: &Output| g.op("TensorListPushBackBatch", &[&two, x]).output().unwrap();
    let pushed = push(&g.late([[1f32], [2.]]));
    let both = g.op("TensorListConcatLists", &[&pushed, &pushed]);
    let both = both.attr("element_dtype", DType::F32).output().unwrap();
    let second = both.gather(&g.late(1i32), 0).unwrap();
    assert_eq!(g.run(&g.stack(&second, -1i32)).unwrap(), Tensor::from([[2f32], [2.]]));
    g.refuses(&push(&g.late([[1f32]])), "1 and 2");
    g.refuses(&push(&g.late(1f32)), "scalar");
}

#[test]
fn a_popped_element_alone_has_a_gradient() {
    let g = Lists::new();
    let x = g.0.constant([[1f32, 2.], [3., 4.]]).unwrap();
    let l = g.op("TensorListFromTensor", &[&x, &g.late([2i32])]).output().unwrap();
    let op = g.op("TensorListPopBack", &[&l, &g.late([2i32])]);
    let last = op
        .attr("element_dtype", DType::F32)
        .finish()
        .unwrap()
        .output(1)
        .unwrap();
    let dx = gradients(&[last], &[x]).unwrap()[0]
        .clone()
        .unwrap()
        .to_dense()
        .unwrap();
    assert_eq!(g.run(&dx).unwrap(), Tensor::from([[0f32, 0.], [1., 1.]]));
}
