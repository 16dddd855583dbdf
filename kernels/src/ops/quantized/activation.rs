//! `QuantizedRelu`, `QuantizedRelu6`, `QuantizedReluX`: rectifiers, which clamp the integers.

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::range::{Quant, deliver, end, ends, map, nearest, quantized, scalars, stored, with_range};

/// Clamps to zero and to `high`, or to what input 1 holds where there are four inputs.
fn run<T: Quant>(cx: &mut OpContext<'_>, high: Option<f32>) -> Result<()> {
    let given = cx.num_inputs() == 4;
    let (min, max) = ends(cx, if given { 2 } else { 1 }, "features")?;
    let high = match given {
        true => Some(end(cx, 1, "max_value")?),
        false => high,
    };
    let low: T = nearest(0.0, min, max);
    let high: T = high.map_or(T::narrow(T::HIGHEST), |x| nearest(x, min, max));
    let y = map(cx, &stored(cx, 0)?, |x: T| x.max(low).min(high))?;
    deliver::<T>(cx, y, (min, max))
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    if init.input_types[0] != init.output_types[0] {
        return Err(init.no_kernel());
    }
    let high = (init.op == "QuantizedRelu6").then_some(6.0);
    quantized!(init.input_types[0], T => Ok(Box::new(move |cx: &mut OpContext<'_>| run::<T>(cx, high))),
        else Err(init.no_kernel()))
}

fn rectifier(name: &'static str, doc: &'static str, given: bool) -> OpDef {
    let def = OpDef::new(name, Category::Nn).doc(doc).input("features: Tinput");
    let def = match given {
        true => def.input("max_value: float"),
        false => def,
    };
    def.input("min_features: float")
        .input("max_features: float")
        .output("activations: out_type")
        .output("min_activations: float")
        .output("max_activations: float")
        .attr("Tinput: quantizedtype")
        .attr("out_type: quantizedtype = DT_QUINT8")
        .shape(|cx| {
            let all: Vec<usize> = (1..cx.num_inputs()).collect();
            scalars(cx, &all)?;
            Ok(with_range(cx.input(0)))
        })
        .not_differentiable()
        .cpu(kernel)
}

fn relu() -> OpDef {
    rectifier("QuantizedRelu", "max(x, 0) of quantised numbers.", false)
}

fn relu6() -> OpDef {
    rectifier("QuantizedRelu6", "min(max(x, 0), 6) of quantised numbers.", false)
}

fn relu_x() -> OpDef {
    rectifier(
        "QuantizedReluX",
        "min(max(x, 0), max_value) of quantised numbers.",
        true,
    )
}

register_ops!(relu, relu6, relu_x);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Output, Tensor};

    /// 0 is -2, 51 is 0, 204 is 6, 255 is 8.
    fn apply(op: &str, dtype: DType, top: Option<f32>) -> Output {
        let g = Graph::new();
        let c = |t: Tensor| g.constant(t).unwrap();
        let x = Tensor::from([0u8, 51, 60, 204, 255]).bitcast(DType::QU8).unwrap();
        let mut b = g.op(op).input(&c(x));
        if let Some(t) = top {
            b = b.input(&c(t.into()));
        }
        let b = b
            .input(&c((-2f32).into()))
            .input(&c(8f32.into()))
            .attr("out_type", dtype);
        b.finish().unwrap().output(0).unwrap()
    }

    #[test]
    fn integers_are_clamped_to_those_of_the_bounds() {
        let of = |op, top| {
            let y = eval(&apply(op, DType::QU8, top));
            y.bitcast(DType::U8).unwrap().to_vec::<u8>().unwrap()
        };
        assert_eq!(of("QuantizedRelu", None), [51, 51, 60, 204, 255]);
        assert_eq!(of("QuantizedRelu6", None), [51, 51, 60, 204, 204]);
        assert_eq!(of("QuantizedReluX", Some(0.0)), [51; 5]);
    }

    #[test]
    fn the_type_does_not_change() {
        let e = fails(&apply("QuantizedRelu", DType::QI32, None));
        assert!(e.message().contains("no CPU kernel"), "{e}");
    }
}
