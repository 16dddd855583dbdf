//! `UniformQuantizedAdd`, `UniformQuantizedClipByValue`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::OpDef;
use actorflow_core::{Shape, register_ops};

use super::convert::{fill, operation, with_attrs};
use super::{Bounds, Rescale, Scales, Slices, axis, read};
use crate::ops::array::broadcast::broadcast;
use crate::ops::quantized::range::stored;
use crate::shapes;

struct Add {
    lhs: Option<usize>,
    rhs: Option<usize>,
    output: Option<usize>,
    bounds: Bounds,
}

impl Add {
    fn of(init: &KernelInit<'_>) -> Result<Add> {
        Ok(Add {
            lhs: axis(init.attrs, "lhs_quantization_axis")?,
            rhs: axis(init.attrs, "rhs_quantization_axis")?,
            output: axis(init.attrs, "output_quantization_axis")?,
            bounds: Bounds::of(init.attrs, "output_")?,
        })
    }

    /// The scales of an operand, those of the output without zero points, and the slices by which both differ.
    fn operand(&self, what: &str, scales: &Scales, axis: Option<usize>, own: &Shape, out: &Shape) -> Result<Slices> {
        scales.positive(what)?;
        let missing = out.rank() - own.rank();
        let along = axis.map(|a| a + missing);
        match (along, self.output) {
            (Some(a), Some(b)) if a != b => Err(Error::invalid(format!(
                "if both {what} (shape {own}) and output (shape {out}) are quantized along an axis, it must be the \
                 same one, but these are axes {a} and {b} of the output"
            ))),
            _ => Ok(Slices::along(
                out,
                match scales.len() {
                    1 => self.output,
                    _ => along,
                },
            )),
        }
    }
}

impl Kernel for Add {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (a, b) = (stored(cx, 0)?, stored(cx, 1)?);
        let (sa, sb) = (a.shape(), b.shape());
        let own_a = Scales::read(cx, 2, sa, self.lhs)?;
        let own_b = Scales::read(cx, 4, sb, self.rhs)?;
        let out = Shape::broadcast(sa, sb)
            .map_err(|_| Error::invalid(format!("cannot add tensors of shapes {sa} and {sb}")))?;
        out.checked_count()?;
        let to = Scales::read(cx, 6, &out, self.output)?;
        to.positive("output")?;
        let slices_a = self.operand("lhs", &own_a, self.lhs, sa, &out)?;
        let slices_b = self.operand("rhs", &own_b, self.rhs, sb, &out)?;
        let (from_a, from_b) = (Rescale::new(&own_a, &to)?, Rescale::new(&own_b, &to)?);
        let slices = Slices::along(&out, self.output);
        let (x, y) = (broadcast(cx, &a, &out)?, broadcast(cx, &b, &out)?);
        let (x, y) = (x.as_slice::<i32>()?, y.as_slice::<i32>()?);
        fill::<i32>(cx, out.clone(), |i| {
            let left = read(from_a.bare(slices_a.at(i), read(x[i])));
            let right = read(from_b.bare(slices_b.at(i), read(y[i])));
            let (_, zero) = to.at(slices.at(i));
            self.bounds.clamp(left.wrapping_add(right).wrapping_add(zero))
        })
    }
}

fn clip(cx: &mut OpContext<'_>, along: Option<usize>) -> Result<()> {
    let x = stored(cx, 0)?;
    Scales::read(cx, 3, x.shape(), along)?;
    let of = cx.input(3)?.shape();
    for (i, name) in [(1, "min"), (2, "max")] {
        let got = cx.input(i)?.shape();
        if got != of {
            return Err(Error::invalid(format!(
                "{name} must have the shape of scales and zero_points, {of}, but has {got}"
            )));
        }
    }
    let (min, max) = (stored(cx, 1)?, stored(cx, 2)?);
    let (min, max, from) = (min.as_slice::<i32>()?, max.as_slice::<i32>()?, x.as_slice::<i32>()?);
    let slices = Slices::along(x.shape(), along);
    fill::<i32>(cx, x.shape().clone(), |i| {
        let k = slices.at(i);
        from[i].max(min[k]).min(max[k])
    })
}

fn add() -> OpDef {
    let mut def = operation("UniformQuantizedAdd")
        .doc("The sum of quantised integers of different scales, which broadcast, on the output's scale.")
        .input("lhs: T")
        .input("rhs: T");
    for name in ["lhs", "rhs", "output"] {
        def = def
            .input(&format!("{name}_scales: float"))
            .input(&format!("{name}_zero_points: int32"));
    }
    for prefix in ["lhs_", "rhs_", "output_"] {
        def = with_attrs(def, prefix);
    }
    def.output("output: T")
        .attr("T: {qint32}")
        .shape(shapes::broadcast)
        .cpu(|init| Ok(Box::new(Add::of(init)?)))
}

fn clip_by_value() -> OpDef {
    let def = operation("UniformQuantizedClipByValue")
        .doc("Quantised integers within bounds, which are on their scale.")
        .input("operand: T")
        .input("min: T")
        .input("max: T")
        .input("scales: float")
        .input("zero_points: int32")
        .output("output: T")
        .attr("T: {qint32}");
    with_attrs(def, "").shape(shapes::like_first).cpu(|init| {
        let along = axis(init.attrs, "quantization_axis")?;
        Ok(Box::new(move |cx: &mut OpContext<'_>| clip(cx, along)))
    })
}

register_ops!(add, clip_by_value);
