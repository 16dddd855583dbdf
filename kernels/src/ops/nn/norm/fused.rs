//! `FusedBatchNorm`, `FusedBatchNormGrad` and their second and third versions.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::gradient::{Grad, GradContext, GradientOptions, gradients_with};
use actorflow_core::graph::ShapeContext;
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Operation, Output, PartialShape, register_ops};

use super::super::window::Layout;
use super::batch_norm::kernel;

/// The versions differ in the types of statistics and in a further output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Version {
    One,
    Two,
    Three,
}

impl Version {
    fn name(self, gradient: bool) -> &'static str {
        match (self, gradient) {
            (Version::One, false) => "FusedBatchNorm",
            (Version::Two, false) => "FusedBatchNormV2",
            (Version::Three, false) => "FusedBatchNormV3",
            (Version::One, true) => "FusedBatchNormGrad",
            (Version::Two, true) => "FusedBatchNormGradV2",
            (Version::Three, true) => "FusedBatchNormGradV3",
        }
    }

    /// Adds what all versions share. Double is allowed beyond TensorFlow's types.
    fn attributes(self, def: OpDef) -> OpDef {
        let def = match self {
            Version::One => def.attr("T: {float, double}"),
            Version::Two => def
                .attr("T: {half, bfloat16, float, double}")
                .attr("U: {float, double}"),
            Version::Three => def
                .attr("T: {half, bfloat16, float, double}")
                .attr("U: {bfloat16, float, double}"),
        };
        let def = match self {
            Version::Three => def.attr("data_format: {'NHWC', 'NCHW', 'NDHWC', 'NCDHW'} = 'NHWC'"),
            _ => def.attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'"),
        };
        def.attr("epsilon: float = 0.0001").attr("is_training: bool = true")
    }

    /// The dtype of statistics in a specification.
    fn statistics(self) -> &'static str {
        if self == Version::One { "T" } else { "U" }
    }
}

/// The image `i` with its channels merged with those of the vectors `vectors`; and the channels.
fn shapes(cx: &ShapeContext<'_>, i: usize, vectors: &[usize]) -> Result<(PartialShape, PartialShape)> {
    let mut x = cx.input(i).with_rank_at_least(4)?;
    if i > 0 {
        x = x.merge(&cx.input(0))?;
    }
    let layout = Layout::of(cx.attrs())?;
    let axis = x.rank().map(|r| layout.channels(r));
    let mut channels = PartialShape::vector(axis.and_then(|a| x.dim(a)));
    for v in vectors {
        channels = channels.merge(&cx.input(*v).with_rank(1)?)?;
    }
    if let Some(a) = axis {
        x = x.with_dim(a, channels.dim(0));
    }
    Ok((x, channels))
}

fn forward(v: Version) -> OpDef {
    let u = v.statistics();
    let mut def = OpDef::new(v.name(false), Category::Nn)
        .doc(
            "Normalises each channel to mean 0 and variance 1, then scales and shifts it. In training with the batch's \
             own statistics, which are put out (the variance unbiased); else with those given.",
        )
        .input("x: T");
    for name in ["scale", "offset", "mean", "variance"] {
        def = def.input(&format!("{name}: {u}"));
    }
    def = def.output("y: T");
    for name in ["batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2"] {
        def = def.output(&format!("{name}: {u}"));
    }
    if v == Version::Three {
        def = def.output("reserve_space_3: U");
    }
    v.attributes(def)
        .attr("exponential_avg_factor: float = 1.0")
        .shape(|cx| {
            let inference = !cx.attrs().bool("is_training")?;
            let vectors: &[usize] = if inference { &[1, 2, 3, 4] } else { &[1, 2] };
            let (x, channels) = shapes(cx, 0, vectors)?;
            let mut all = vec![channels; cx.num_outputs()];
            all[0] = x;
            if let Some(third) = all.get_mut(5) {
                *third = PartialShape::vector(None);
            }
            Ok(all)
        })
        .cpu(|init| kernel(init, false))
}

/// The gradient's operation for the image `x` of layout `format`, with given statistics.
fn gradient_node(
    cx: &GradContext,
    v: Version,
    dy: &Output,
    x: &Output,
    stats: [&Output; 2],
    format: &str,
) -> Result<Vec<Output>> {
    let mut b = cx
        .graph()
        .op(v.name(true))
        .input(dy)
        .input(x)
        .input(&cx.input(1)?)
        .input(stats[0])
        .input(stats[1]);
    if v == Version::Three {
        b = b.input(&cx.output(5)?);
    }
    let op = b
        .attr("epsilon", cx.attrs().float("epsilon")?)
        .attr("is_training", cx.attrs().bool("is_training")?)
        .attr("data_format", format)
        .finish()?;
    Ok(op.outputs())
}

fn of_forward(cx: &GradContext, dys: &[Option<Grad>], v: Version) -> Result<Vec<Option<Grad>>> {
    let (x, dy) = (cx.input(0)?, cx.dense(dys, 0)?);
    let stats = match cx.attrs().bool("is_training")? {
        true => (cx.output(3)?, cx.output(4)?),
        false => (cx.input(3)?, cx.input(4)?),
    };
    let format = cx.attrs().str("data_format")?.to_owned();
    let all = gradient_node(cx, v, &dy, &x, [&stats.0, &stats.1], &format)?;
    let grad = |i: usize| all.get(i).cloned().map(Grad::from);
    Ok(vec![grad(0), grad(1), grad(2), None, None])
}

/// What the gradient operation computes, written with other operations so that it can be differentiated.
fn written_out(cx: &GradContext, [dy, x, scale]: [&Output; 3]) -> Result<[Output; 3]> {
    let dtype = x.dtype();
    let wide = if matches!(dtype, DType::F16 | DType::BF16) {
        DType::F32
    } else {
        dtype
    };
    let (dy, x, scale) = (dy.cast(wide)?, x.cast(wide)?, scale.cast(wide)?);
    let layout = Layout::of(cx.attrs())?;
    let rank: i64 = match cx.attrs().str("data_format")? {
        "NDHWC" | "NCDHW" => 5,
        _ => x.shape().rank().unwrap_or(4) as i64,
    };
    let channel = layout.channels(rank as usize) as i64;
    let axes: Vec<i64> = (0..rank).filter(|a| *a != channel).collect();
    let mut along = vec![1; rank as usize];
    along[channel as usize] = -1;
    let epsilon = x.scalar_like(f64::from(cx.attrs().float("epsilon")?))?;
    let statistics = cx.input(3)?.dtype();
    let sum = |t: &Output| t.sum(&axes, false)?.cast(statistics);
    let scale = scale.reshape(&along)?;
    let doffset = sum(&dy)?;
    if !cx.attrs().bool("is_training")? {
        let mean = cx.input(3)?.cast(wide)?.reshape(&along)?;
        let root = cx.input(4)?.cast(wide)?.reshape(&along)?.plus(&epsilon)?.rsqrt()?;
        let dscale = sum(&dy.times(&x.minus(&mean)?)?.times(&root)?)?;
        let dx = dy.times(&scale)?.times(&root)?.cast(dtype)?;
        return Ok([dx, dscale, doffset]);
    }
    let mean_x = x.mean(&axes, true)?;
    let spread = x
        .squared_difference(&mean_x.stop_gradient()?)?
        .mean(&axes, true)?
        .plus(&epsilon)?;
    let centred = x.minus(&mean_x)?;
    let products = dy.times(&centred)?;
    let slope = spread.reciprocal()?.times(&products.mean(&axes, true)?)?;
    let inner = dy.minus(&dy.mean(&axes, true)?)?.minus(&slope.times(&centred)?)?;
    let root = spread.rsqrt()?;
    let dx = scale.times(&root)?.times(&inner)?.cast(dtype)?;
    let dscale = sum(&products.times(&root)?)?;
    Ok([dx, dscale, doffset])
}

fn of_gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    // The inputs may depend on each other; behind these nodes they do not.
    let inputs = [0, 1, 2].map(|i| cx.input(i)?.stop_gradient());
    let [dy, x, scale] = inputs;
    let xs = [dy?, x?, scale?];
    let ys = written_out(cx, [&xs[0], &xs[1], &xs[2]])?;
    let given = (0..3)
        .map(|i| Ok(Some(cx.dense(dys, i)?)))
        .collect::<Result<Vec<_>>>()?;
    let options = GradientOptions {
        grad_ys: given,
        ..Default::default()
    };
    let mut all = gradients_with(&ys, &xs, &options)?;
    all.resize(cx.num_inputs(), None);
    Ok(all)
}

fn backward(v: Version) -> OpDef {
    let u = v.statistics();
    let mut def = OpDef::new(v.name(true), Category::Nn)
        .doc("The gradient of FusedBatchNorm with respect to input, scale and offset.")
        .input("y_backprop: T")
        .input("x: T");
    for name in ["scale", "reserve_space_1", "reserve_space_2"] {
        def = def.input(&format!("{name}: {u}"));
    }
    if v == Version::Three {
        def = def.input("reserve_space_3: U");
    }
    def = def
        .output("x_backprop: T")
        .output(&format!("scale_backprop: {u}"))
        .output(&format!("offset_backprop: {u}"));
    def = match v {
        Version::Three => def.output("reserve_space_4: U").output("reserve_space_5: U"),
        _ => def
            .output(&format!("reserve_space_3: {u}"))
            .output(&format!("reserve_space_4: {u}")),
    };
    v.attributes(def)
        .shape(|cx| {
            let (x, channels) = shapes(cx, 1, &[2, 3, 4])?;
            let none = PartialShape::scalar();
            Ok(vec![x, channels.clone(), channels, none.clone(), none])
        })
        .gradient(of_gradient)
        .cpu(|init| kernel(init, true))
}

fn normalized(s: &mut Sampler, v: Version, training: bool, format: &str) -> Result<Operation> {
    let x = match format {
        "NHWC" => s.normal([2, 2, 3, 2])?,
        "NCHW" => s.normal([2, 2, 2, 3])?,
        _ => s.normal([1, 2, 2, 3, 2])?,
    };
    let (scale, offset) = (s.normal([2])?, s.normal([2])?);
    let (mean, variance) = match training {
        true => (s.constant([0f64; 0])?, s.constant([0f64; 0])?),
        false => (s.constant([0.3f64, -0.2])?, s.constant([0.7f64, 1.3])?),
    };
    s.op(v.name(false))
        .input(&x)
        .input(&scale)
        .input(&offset)
        .input(&mean)
        .input(&variance)
        .attr("is_training", training)
        .attr("epsilon", 0.01f32)
        .attr("data_format", format)
        .finish()
}

/// Only `y` is differentiated.
fn sample(s: &mut Sampler, v: Version, training: bool, format: &str) -> Result<Operation> {
    let y = normalized(s, v, training, format)?.output(0)?;
    s.op("Identity").input(&y).finish()
}

/// The gradient, with statistics that belong to the input.
fn sample_gradient(s: &mut Sampler, v: Version, training: bool, format: &str) -> Result<Operation> {
    let op = normalized(s, v, training, format)?;
    let (x, scale) = (op.input(0)?, op.input(1)?);
    let dy = match format {
        "NHWC" => s.normal([2, 2, 3, 2])?,
        "NCHW" => s.normal([2, 2, 2, 3])?,
        _ => s.normal([1, 2, 2, 3, 2])?,
    };
    let mut b = s
        .op(v.name(true))
        .input(&dy)
        .input(&x)
        .input(&scale)
        .input(&op.output(3)?)
        .input(&op.output(4)?);
    if v == Version::Three {
        b = b.input(&op.output(5)?);
    }
    b.attr("is_training", training)
        .attr("epsilon", 0.01f32)
        .attr("data_format", format)
        .finish()
}

fn v1() -> OpDef {
    forward(Version::One)
        .gradient(|cx, dys| of_forward(cx, dys, Version::One))
        .sample(|s| sample(s, Version::One, true, "NHWC"))
        .sample(|s| sample(s, Version::One, false, "NCHW"))
}

fn v2() -> OpDef {
    forward(Version::Two)
        .gradient(|cx, dys| of_forward(cx, dys, Version::Two))
        .sample(|s| sample(s, Version::Two, true, "NCHW"))
        .sample(|s| sample(s, Version::Two, false, "NHWC"))
}

fn v3() -> OpDef {
    forward(Version::Three)
        .gradient(|cx, dys| of_forward(cx, dys, Version::Three))
        .sample(|s| sample(s, Version::Three, true, "NDHWC"))
        .sample(|s| sample(s, Version::Three, false, "NHWC"))
}

fn grad_v1() -> OpDef {
    backward(Version::One)
        .sample(|s| sample_gradient(s, Version::One, true, "NHWC"))
        .sample(|s| sample_gradient(s, Version::One, false, "NCHW"))
}

fn grad_v2() -> OpDef {
    backward(Version::Two)
        .sample(|s| sample_gradient(s, Version::Two, true, "NCHW"))
        .sample(|s| sample_gradient(s, Version::Two, false, "NHWC"))
}

fn grad_v3() -> OpDef {
    backward(Version::Three)
        .sample(|s| sample_gradient(s, Version::Three, true, "NDHWC"))
        .sample(|s| sample_gradient(s, Version::Three, false, "NHWC"))
}

register_ops!(v1, v2, v3, grad_v1, grad_v2, grad_v3);
