//! The constants are the answers of TensorFlow 2.21.

use super::Factor;
use crate::testing::{eval, fails};
use actorflow_core::{Code, DType, Graph, Output, Tensor};

/// A node with an input for each tensor; attributes of quantisation that are not given allow anything.
fn node(op: &str, prefixes: &[&str], inputs: Vec<Tensor>, attrs: &[(&str, i64)], types: &[(&str, DType)]) -> Output {
    let g = Graph::new();
    let mut b = inputs
        .into_iter()
        .fold(g.op(op), |b, t| b.input(&g.constant(t).unwrap()));
    for p in prefixes {
        for (name, bound) in [("min", i32::MIN), ("max", i32::MAX)] {
            b = b.attr(&format!("{p}quantization_{name}_val"), i64::from(bound));
        }
    }
    for (name, value) in attrs {
        b = b.attr(name, *value);
    }
    types.iter().fold(b, |b, (n, t)| b.attr(n, *t)).output().unwrap()
}

fn q8<const N: usize>(rows: [[i8; N]; 2]) -> Tensor {
    Tensor::from(rows).bitcast(DType::QI8).unwrap()
}

fn q32(t: impl Into<Tensor>) -> Tensor {
    t.into().bitcast(DType::QI32).unwrap()
}

/// Scales and zero points.
fn of(scales: impl Into<Tensor>, zeros: impl Into<Tensor>) -> Vec<Tensor> {
    vec![scales.into(), zeros.into()]
}

fn ints(y: &Output) -> Vec<i64> {
    let t = eval(y);
    let storage = t.dtype().storage();
    t.bitcast(storage).unwrap().to_i64_vec().unwrap()
}

#[track_caller]
fn refuses(y: &Output, why: &str) {
    let e = fails(y);
    assert_eq!(e.code(), Code::InvalidArgument, "{e}");
    assert!(e.message().contains(why), "{e}");
}

fn quantize(x: Tensor, scales: Vec<Tensor>, to: DType, attrs: &[(&str, i64)]) -> Output {
    let inputs = [vec![x], scales].concat();
    node("UniformQuantize", &[""], inputs, attrs, &[("Tout", to)])
}

const SEVEN: [(&str, i64); 2] = [("quantization_min_val", -127), ("quantization_max_val", 127)];

#[test]
fn real_numbers_become_integers() {
    let x = || Tensor::from([[-27f32, -20., 0.25, 2.5], [0., 1., 5., 1e9]]);
    let y = quantize(x(), of(2f32, -20i32), DType::QI8, &SEVEN);
    assert_eq!(ints(&y), [-33, -30, -20, -19, -20, -19, -17, 127]);
    let byte = [("quantization_min_val", 0), ("quantization_max_val", 255)];
    let y = quantize(x(), of(0.5f32, 30i32), DType::QU8, &byte);
    assert_eq!(ints(&y), [0, 0, 31, 35, 30, 32, 40, 255]);
    let y = quantize(x(), of(0.25f32, 3i32), DType::QI32, &[]);
    assert_eq!(ints(&y), [-105, -77, 4, 13, 3, 7, 23, -2_147_483_645]);
    let along = |axis: i64| [&SEVEN[..], &[("quantization_axis", axis)]].concat();
    let y = quantize(x(), of([2f32, 3.], [4i32, -20]), DType::QI8, &along(0));
    assert_eq!(ints(&y), [-9, -6, 4, 5, -20, -20, -18, 127]);
    let y = quantize(x(), of([2f32, 3., 4., 5.], [4i32, -20, 0, 1]), DType::QI8, &along(1));
    assert_eq!(ints(&y), [-9, -27, 0, 2, 4, -20, 1, 127]);
    // Numbers that are no integers, bounds beyond those of the type, and a scale of zero.
    let odd = Tensor::from([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e9, -3e9]);
    let y = quantize(odd, of(1f32, 4i32), DType::QI32, &[]);
    assert_eq!(ints(&y), [-2_147_483_644; 5]);
    let wider = [("quantization_min_val", -200), ("quantization_max_val", 200)];
    let y = quantize(x(), of(0.01f32, 4i32), DType::QI8, &wider);
    assert_eq!(ints(&y), [56, 56, 29, -56, 4, 104, -56, 56]);
    assert_eq!(ints(&quantize(x(), of(0f32, 4i32), DType::QI8, &SEVEN)), [-127; 8]);
    let none = Tensor::zeros(DType::F32, [0, 3]).unwrap();
    let empty = of(
        Tensor::zeros(DType::F32, [0]).unwrap(),
        Tensor::zeros(DType::I32, [0]).unwrap(),
    );
    assert!(ints(&quantize(none, empty, DType::QI8, &along(0))).is_empty());
}

#[test]
fn scales_have_to_fit_the_axis() {
    let x = || Tensor::from([[1f32, 2.], [3., 4.]]);
    let along = |axis: i64| [&SEVEN[..], &[("quantization_axis", axis)]].concat();
    let y = |scales, axis| quantize(x(), scales, DType::QI8, &along(axis));
    refuses(&y(of(1f32, 0i32), 2), "in the range [0, rank)");
    refuses(&y(of(1f32, 0i32), -2), "must be >= -1, given: -2");
    refuses(&y(of([1f32, 2.], [0i32, 1]), -1), "must be scalars");
    refuses(&y(of([1f32, 2., 3.], [0i32, 1, 2]), 0), "vectors of 2 elements");
    refuses(&y(of([1f32, 2.], 0i32), 0), "the same shape");
    let big = [("quantization_min_val", 1 << 40)];
    refuses(
        &quantize(x(), of(1f32, 0i32), DType::QI8, &big),
        "does not fit an int32",
    );
}

#[test]
fn integers_become_real_numbers() {
    let y = |x: Tensor, scales: Vec<Tensor>, axis: i64| {
        let inputs = [vec![x], scales].concat();
        let attrs = [("quantization_axis", axis)];
        let y = node("UniformDequantize", &[""], inputs, &attrs, &[("Tout", DType::F32)]);
        eval(&y).to_vec::<f32>().unwrap()
    };
    let x = || q8([[-128, -20, 0, 127], [3, 4, 5, 6]]);
    assert_eq!(y(x(), of(2f32, -20i32), -1), [-216., 0., 40., 294., 46., 48., 50., 52.]);
    assert_eq!(
        y(x(), of([2f32, 3.], [-20i32, 0]), 0),
        [-216., 0., 40., 294., 9., 12., 15., 18.]
    );
    assert_eq!(y(q32([i32::MIN, 5]), of(1f32, 1i32), -1), [2_147_483_648., 4.]);
    // Large integers are read as float32.
    assert_eq!(
        y(
            q32([16_777_217i32, 16_777_219, i32::MAX, i32::MIN]),
            of(1f32, 16_777_216i32),
            -1
        ),
        [0., 4., 2_130_706_432., 2_130_706_432.]
    );
}

#[test]
fn integers_move_to_another_scale() {
    let x = || q32([[-28i32, -21, -1, 0], [1, 5, 100, -2_147_483_000]]);
    let y = |x: Tensor, from: Vec<Tensor>, to: Vec<Tensor>, axes: [i64; 2], out: DType| {
        let attrs = [
            ("input_quantization_axis", axes[0]),
            ("output_quantization_axis", axes[1]),
            ("output_quantization_min_val", -127),
            ("output_quantization_max_val", 127),
        ];
        let inputs = [vec![x], from, to].concat();
        node(
            "UniformRequantize",
            &["input_", "output_"],
            inputs,
            &attrs,
            &[("Tout", out)],
        )
    };
    let run = |from, to, axes| ints(&y(x(), from, to, axes, DType::QI8));
    let (two, both) = (|| of([0.5f32, 0.25], [0i32, 3]), || of([1f32, 2.], [4i32, 5]));
    assert_eq!(
        run(of(0.5f32, 0i32), of(1f32, 0i32), [-1, -1]),
        [-14, -10, 0, 0, 1, 3, 50, -127]
    );
    assert_eq!(
        run(of(0.3f32, -20i32), of(0.7f32, 11i32), [-1, -1]),
        [8, 11, 19, 20, 20, 22, 62, -127]
    );
    assert_eq!(run(two(), of(1f32, 4i32), [0, -1]), [-10, -6, 4, 4, 4, 5, 28, -127]);
    assert_eq!(run(two(), both(), [0, 0]), [-10, -6, 4, 4, 5, 5, 17, -127]);
    assert_eq!(run(of(0.5f32, 3i32), both(), [-1, 0]), [-11, -8, 2, 3, 5, 6, 29, -127]);
    let bytes = q8([[-128, -20, 0, 127], [3, 4, 5, 6]]);
    let z = y(bytes, of(0.5f32, 3i32), of(2f32, 1i32), [-1, -1], DType::QI8);
    assert_eq!(ints(&z), [-32, -5, 0, 32, 1, 1, 2, 2]);
    let one = || of(0.5f32, 3i32);
    refuses(&y(x(), two(), both(), [0, 1], DType::QI8), "the same one");
    refuses(&y(x(), of(-0.5f32, 3i32), one(), [-1, -1], DType::QI8), "all positive");
    refuses(
        &y(x(), of(f32::INFINITY, 3i32), one(), [-1, -1], DType::QI8),
        "positive finite",
    );
    assert!(fails(&y(x(), one(), one(), [-1, -1], DType::QI32)).code() != Code::Internal);
}

const SIDES: [&str; 3] = ["lhs_", "rhs_", "output_"];

#[test]
fn integers_of_different_scales_are_added() {
    let lhs = || q32([[-6i32, -4], [1, 3]]);
    let rhs = || q32([-2i32, -1]);
    let y = |a: Tensor, b: Tensor, scales: [Vec<Tensor>; 3], axes: [i64; 3], bounds: Option<(i64, i64)>| {
        let mut attrs = vec![
            ("lhs_quantization_axis", axes[0]),
            ("rhs_quantization_axis", axes[1]),
            ("output_quantization_axis", axes[2]),
        ];
        if let Some((least, most)) = bounds {
            attrs.push(("output_quantization_min_val", least));
            attrs.push(("output_quantization_max_val", most));
        }
        let inputs = [vec![a, b], scales.concat()].concat();
        node("UniformQuantizedAdd", &SIDES, inputs, &attrs, &[])
    };
    let whole = || [of(2f32, -2i32), of(0.5f32, 7i32), of(0.25f32, -20i32)];
    let per = || of([2f32, 3.], [-2i32, 1]);
    let out = || of([0.25f32, 0.5], [-20i32, 3]);
    let each = || [per(), of([0.5f32, 0.75], [7i32, 0]), out()];
    let none = [-1; 3];
    assert_eq!(ints(&y(lhs(), rhs(), whole(), none, None)), [-70, -52, -14, 4]);
    assert_eq!(
        ints(&y(lhs(), rhs(), whole(), none, Some((-60, 10)))),
        [-60, -52, -14, 4]
    );
    assert_eq!(ints(&y(lhs(), rhs(), each(), [1, 0, 1], None)), [-70, -28, -14, 14]);
    let [_, b, c] = whole();
    assert_eq!(
        ints(&y(lhs(), rhs(), [per(), b, c], [1, -1, -1], None)),
        [-70, -96, -14, -12]
    );
    assert_eq!(ints(&y(lhs(), q32(5i32), whole(), none, None)), [-56, -40, 0, 16]);
    let [_, b, _] = whole();
    assert_eq!(
        ints(&y(q32([[1i32, 2]]), lhs(), [per(), b, out()], [1, -1, 1], None)),
        [-22, -2, -8, 5]
    );
    let ones = || [of(1f32, 0i32), of(1f32, 0i32), of(1f32, 0i32)];
    let large = y(q32([16_777_217i32, 16_777_219]), q32([1i32, 1]), ones(), none, None);
    assert_eq!(ints(&large), [16_777_217, 16_777_221]);
    let all = y(q32([i32::MAX, i32::MIN + 8]), q32([0i32, 0]), ones(), none, None);
    assert_eq!(ints(&all), [i64::from(i32::MIN); 2]);
    // TensorFlow aborts here; what the scales mean is clear nevertheless.
    let [a, b, _] = whole();
    assert_eq!(
        ints(&y(lhs(), rhs(), [a, b, out()], [-1, -1, 1], None)),
        [-70, -13, -14, 15]
    );
    refuses(&y(lhs(), rhs(), each(), [0, 0, 1], None), "the same one");
    let [_, b, c] = whole();
    refuses(&y(lhs(), rhs(), [of(-2f32, -2i32), b, c], none, None), "all positive");
}

#[test]
fn integers_are_clipped() {
    let x = || q32([[-6i32, -4], [1, 3]]);
    let y = |min: Tensor, max: Tensor, scales: Vec<Tensor>, axis: i64| {
        let inputs = [vec![x(), q32(min), q32(max)], scales].concat();
        node(
            "UniformQuantizedClipByValue",
            &[""],
            inputs,
            &[("quantization_axis", axis)],
            &[],
        )
    };
    let one = || of(2f32, 4i32);
    assert_eq!(ints(&y((-5i32).into(), 1i32.into(), one(), -1)), [-5, -4, 1, 1]);
    let two = of([2f32, 3.], [4i32, 4]);
    assert_eq!(ints(&y([-5i32, -1].into(), [1i32, 4].into(), two, 1)), [-5, -1, 1, 3]);
    assert_eq!(ints(&y(5i32.into(), 1i32.into(), one(), -1)), [1, 1, 1, 1]);
    refuses(&y([5i32].into(), 1i32.into(), one(), -1), "min must have the shape");
    let exact = y((-5i32).into(), i32::MAX.into(), one(), -1);
    assert_eq!(ints(&exact), [-5, -4, 1, 3]);
}

#[test]
fn matrices_of_integers_are_multiplied() {
    let lhs = || q8([[1, 2], [3, 4]]);
    let rhs = || q8([[7, 8, 9], [10, -11, 12]]);
    let y = |a: Tensor, b: Tensor, scales: [Vec<Tensor>; 3], attrs: &[(&str, i64)]| {
        let inputs = [vec![a, b], scales.concat()].concat();
        node("UniformQuantizedDot", &SIDES, inputs, attrs, &[("Tout", DType::QI32)])
    };
    let one = || [of(0.5f32, 1i32), of(0.25f32, 2i32), of(0.25f32, -20i32)];
    let columns = || of([0.25f32, 0.5, 2.], [2i32, 3, 4]);
    assert_eq!(ints(&y(lhs(), rhs(), one(), &[])), [-16, -26, -15, -3, -33, 2]);
    let [a, _, c] = one();
    let rhs_axis = ("rhs_quantization_axis", 1);
    assert_eq!(
        ints(&y(lhs(), rhs(), [a, columns(), c], &[rhs_axis])),
        [-16, -34, 12, -3, -52, 116]
    );
    let [a, ..] = one();
    let out = of([0.25f32, 0.5, 0.75], [-20i32, 1, 2]);
    let both = [rhs_axis, ("output_quantization_axis", 1)];
    assert_eq!(
        ints(&y(lhs(), rhs(), [a, columns(), out], &both)),
        [-16, -6, 13, -3, -15, 47]
    );
    let bounds = [
        ("output_quantization_min_val", -30),
        ("output_quantization_max_val", -10),
    ];
    assert_eq!(ints(&y(lhs(), rhs(), one(), &bounds)), [-16, -26, -15, -10, -30, -10]);
    let [a, b, _] = one();
    let out = of([0.25f32, 0.5], [-20i32, 1]);
    refuses(&y(lhs(), lhs(), [a, b, out], &[]), "output must have one too");
    refuses(
        &y(lhs(), rhs(), one(), &[("lhs_quantization_axis", 0)]),
        "lhs_quantization_axis must be -1",
    );
    let [_, b, c] = one();
    refuses(
        &y(lhs(), rhs(), [of(-0.5f32, 1i32), b, c], &[]),
        "lhs scales must be all positive",
    );
}

#[test]
fn rows_of_real_numbers_are_quantised_by_their_range() {
    let rhs = || q8([[7, 8, 9], [10, -11, 12]]);
    let y = |x: Tensor, scales: Vec<Tensor>, axis: i64| {
        let inputs = [vec![x, rhs()], scales].concat();
        let attrs = [("rhs_quantization_axis", axis)];
        let y = node(
            "UniformQuantizedDotHybrid",
            &["rhs_"],
            inputs,
            &attrs,
            &[("Tout", DType::F32)],
        );
        eval(&y).to_vec::<f32>().unwrap()
    };
    let x = || Tensor::from([[-32.2f32, -12.1], [10.7, 11.6]]);
    assert_eq!(
        y(x(), of(2f32, 0i32), -1),
        [-693.247_07, -248.508_24, -870.536_5, 381.662_75, -84.156_87, 470.823_54]
    );
    assert_eq!(
        y(x(), of([2f32, 4., 0.1], [0i32, 1, -3]), 1),
        [
            -693.247_07,
            -319.727_05,
            -56.823_53,
            381.662_75,
            -257.474_52,
            30.228_239
        ]
    );
    let wide = Tensor::from([[1f32, 2.], [-3., -4.], [0., 0.], [5e-3, 1e3]]);
    assert_eq!(
        y(wide, of(0.3f32, 5i32), -1),
        [
            3.602_353_3,
            -8.696_471,
            5.404_706_5,
            -7.797_648,
            16.503_53,
            -11.995_295_5,
            0.,
            0.,
            0.,
            1500.,
            -4800.,
            2100.
        ]
    );
    let odd = y(Tensor::from([[f32::NAN, 1.], [f32::INFINITY, 1.]]), of(2f32, 0i32), -1);
    assert_eq!(odd[..3], [34.000_004, -6.000_000_5, 42.000_004]);
    assert_eq!(odd[3..], [f32::NEG_INFINITY; 3]);
}

#[test]
fn factors_are_rounded_once() {
    let times = |x: f64, by: i32| Factor::of(x).unwrap().times(by);
    assert_eq!((times(0.5, 5), times(0.5, -5), times(1.0, i32::MIN)), (3, -2, i32::MIN));
    assert_eq!(
        (times(1e20, 1), times(1e20, 5), times(1e-20, i32::MAX)),
        (1 << 30, i32::MAX, 0)
    );
    assert_eq!(times(0.999_999_999_99, 1000), 1000);
    assert!(Factor::of(f64::NAN).is_err() && Factor::of(0.0).is_err());
}
