//! Pools of small images, written out.

use actorflow_core::error::Result;
use actorflow_core::{Code, DType, Graph, Output, PartialShape, Shape, Tensor};

use crate::testing::{Interpreter, eval, fails};

fn image(g: &Graph, shape: &[usize], x: &[f32]) -> Output {
    g.constant(Tensor::from_slice(Shape::new(shape), x).unwrap()).unwrap()
}

fn pool(x: &Output, op: &str, size: i64, stride: i64, padding: &str) -> Result<Output> {
    x.graph()
        .op(op)
        .input(x)
        .attr("ksize", [1, size, size, 1])
        .attr("strides", [1, stride, stride, 1])
        .attr("padding", padding)
        .output()
}

#[test]
fn windows_give_their_largest_and_their_mean() {
    let g = Graph::new();
    let x = image(&g, &[1, 3, 3, 1], &[1., 2., 3., 4., 5., 6., 7., 8., 9.]);
    let run = |op, padding| eval(&pool(&x, op, 2, 2, padding).unwrap()).to_vec::<f32>().unwrap();
    assert_eq!(run("MaxPool", "VALID"), [5.]);
    assert_eq!(run("MaxPool", "SAME"), [5., 6., 8., 9.]);
    assert_eq!(run("AvgPool", "VALID"), [3.]);
    assert_eq!(run("AvgPool", "SAME"), [3., 4.5, 7.5, 9.]);
}

#[test]
fn nans_are_passed_over_and_of_equals_the_first_gets_the_gradient() {
    let g = Graph::new();
    let nan = f32::NAN;
    let x = image(&g, &[1, 2, 4, 1], &[nan, 1., 5., 5., 3., 2., 5., 5.]);
    let y = pool(&x, "MaxPool", 2, 2, "VALID").unwrap();
    assert_eq!(eval(&y).to_vec::<f32>().unwrap(), [3., 5.]);
    let x = image(&g, &[1, 2, 2, 1], &[5., 5., 5., 5.]);
    let y = pool(&x, "MaxPool", 2, 2, "VALID").unwrap();
    let dx = actorflow_core::gradient::gradients(&[y], &[x]).unwrap()[0]
        .clone()
        .unwrap();
    assert_eq!(eval(&dx.to_dense().unwrap()).to_vec::<f32>().unwrap(), [1., 0., 0., 0.]);
}

#[test]
fn integers_are_pooled_exactly() {
    let g = Graph::new();
    for d in [DType::I8, DType::U8, DType::I16, DType::U16, DType::I32, DType::I64] {
        let x = image(&g, &[1, 2, 2, 1], &[1., 100., 3., 7.]).cast(d).unwrap();
        let y = eval(&pool(&x, "MaxPool", 2, 2, "VALID").unwrap());
        assert_eq!((y.dtype(), y.to_i64_vec().unwrap()), (d, vec![100]));
    }
}

#[test]
fn groups_of_channels_are_pooled() {
    let g = Graph::new();
    let x = image(&g, &[1, 1, 2, 4], &[1., 4., 2., 3., 8., 5., 6., 7.]);
    let over = |size: i64, stride: i64, high: i64| {
        let b = g.op("MaxPool").input(&x).attr("ksize", [1, high, 1, size]);
        b.attr("strides", [1, high, 1, stride])
            .attr("padding", "VALID")
            .output()
            .unwrap()
    };
    assert_eq!(eval(&over(2, 2, 1)).to_vec::<f32>().unwrap(), [4., 3., 8., 7.]);
    for y in [over(2, 1, 1), over(3, 3, 1), over(2, 2, 2)] {
        assert_eq!(fails(&y).code(), Code::Unimplemented);
    }
}

#[test]
fn places_are_indices_into_the_image_or_the_batch() {
    let g = Graph::new();
    let x = image(&g, &[2, 2, 2, 1], &[1., 2., 3., 4., 9., 8., 7., 6.]);
    let argmax = |batch: bool, t: DType| {
        let op = g
            .op("MaxPoolWithArgmax")
            .input(&x)
            .attr("ksize", [1i64, 2, 2, 1])
            .attr("strides", [1i64, 2, 2, 1])
            .attr("padding", "VALID")
            .attr("include_batch_in_index", batch)
            .attr("Targmax", t)
            .finish()
            .unwrap();
        let at = eval(&op.output(1).unwrap());
        assert_eq!(at.dtype(), t);
        assert_eq!(eval(&op.output(0).unwrap()).to_vec::<f32>().unwrap(), [4., 9.]);
        at.to_i64_vec().unwrap()
    };
    assert_eq!(argmax(false, DType::I64), [3, 0]);
    assert_eq!(argmax(true, DType::I32), [3, 4]);
    let at = |index: i64| {
        let dy = image(&g, &[2, 1, 1, 1], &[1., 1.]);
        let index = g
            .constant(Tensor::from_slice([2, 1, 1, 1], &[index, 1i64]).unwrap())
            .unwrap();
        let b = g.op("MaxPoolGradWithArgmax").input(&x).input(&dy).input(&index);
        let b = b.attr("ksize", [1i64, 2, 2, 1]).attr("strides", [1i64, 2, 2, 1]);
        b.attr("padding", "VALID").output().unwrap()
    };
    assert_eq!(eval(&at(2)).to_vec::<f32>().unwrap(), [0., 0., 1., 0., 0., 1., 0., 0.]);
    for wrong in [4, -1, i64::MIN] {
        assert_eq!(fails(&at(wrong)).code(), Code::InvalidArgument);
    }
}

#[test]
fn gradients_do_not_depend_on_how_the_input_is_cut() {
    // Large enough for several stripes, with windows that reach over their seams.
    let g = Graph::new();
    let (n, h, w, c) = (2usize, 70usize, 61usize, 40usize);
    let x: Vec<f32> = (0..n * h * w * c).map(|i| ((i * 7919) % 1009) as f32).collect();
    let x = image(&g, &[n, h, w, c], &x);
    let y = pool(&x, "MaxPool", 3, 2, "SAME").unwrap();
    let dx = actorflow_core::gradient::gradients(std::slice::from_ref(&y), std::slice::from_ref(&x)).unwrap();
    let dx = eval(&dx[0].clone().unwrap().to_dense().unwrap());
    let total: f32 = dx.as_slice::<f32>().unwrap().iter().sum();
    assert_eq!(total as usize, eval(&y).len());
}

#[test]
fn windows_that_do_not_fit_are_refused() {
    let g = Graph::new();
    let known = |shape: &[usize]| {
        let x = g.placeholder("x", DType::F32, Shape::new(shape)).unwrap();
        pool(&x, "MaxPool", 3, 1, "VALID")
    };
    assert_eq!(known(&[2, 3, 5, 4]).unwrap().shape(), PartialShape::from([2, 1, 3, 4]));
    assert!(known(&[2, 2, 5, 4]).is_err() && known(&[2, 5, 4]).is_err());
    let x = g.placeholder("y", DType::F32, PartialShape::UNKNOWN).unwrap();
    for op in ["MaxPool", "AvgPool"] {
        let y = pool(&x, op, 3, 1, "VALID").unwrap();
        let run = |s: &[usize]| {
            let t = Tensor::zeros(DType::F32, Shape::new(s)).unwrap();
            Interpreter::default().run(std::slice::from_ref(&y), &[], &[(x.clone(), t)])
        };
        assert_eq!(run(&[1, 2, 2, 1]).unwrap()[0].shape().dims(), [1, 0, 0, 1]);
        assert_eq!(run(&[0, 3, 3, 1]).unwrap()[0].shape().dims(), [0, 1, 1, 1]);
        assert_eq!(run(&[1, 1, 2, 1]).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(run(&[1, 3, 3]).unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(pool(&x, "MaxPool", 0, 1, "VALID").is_err());
    assert!(pool(&x, "MaxPool", 1, -1, "VALID").is_err());
    let x = image(&g, &[1, 4, 4, 1], &[0.; 16]);
    let dy = image(&g, &[1, 2, 2, 1], &[0.; 4]);
    let grad = |y: &Output, dy: &Output| {
        let b = g
            .op("MaxPoolGrad")
            .input(&x)
            .input(y)
            .input(dy)
            .attr("ksize", [1i64, 2, 2, 1]);
        b.attr("strides", [1i64, 2, 2, 1])
            .attr("padding", "VALID")
            .output()
            .unwrap()
    };
    assert_eq!(eval(&grad(&dy, &dy)).len(), 16);
    assert_eq!(fails(&grad(&x, &dy)).code(), Code::InvalidArgument);
    assert_eq!(fails(&grad(&dy, &x)).code(), Code::InvalidArgument);
}
