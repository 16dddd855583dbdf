//! `Bitcast`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, Shape, register_ops};

/// The shape after the change: a last dimension appears where elements are divided, and goes where they are joined.
fn shape_after(shape: &Shape, from: DType, to: DType) -> Result<Shape> {
    let (a, b) = (from.size(), to.size());
    let mut dims = shape.dims().to_vec();
    if a > b {
        dims.push(a / b);
    } else if a < b {
        let last = dims.pop();
        if last != Some(b / a) {
            return Err(Error::invalid(format!(
                "Cannot bitcast from {from} to {to}: the last dimension of shape {shape} must be {}",
                b / a
            )));
        }
    }
    Ok(Shape::from(dims))
}

struct Bitcast(DType);

impl Kernel for Bitcast {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let x = cx.take_input(0)?;
        let to = self.0;
        if x.dtype() == to {
            cx.set_output(0, x);
            return Ok(());
        }
        let shape = shape_after(x.shape(), x.dtype(), to)?;
        let y = if x.dtype().size() == to.size() {
            x.bitcast(to)?
        } else {
            let mut y = cx.alloc(to, shape)?;
            match (x.bytes(), y.bytes_mut()) {
                (Some(from), Some(to)) if from.len() == to.len() => to.copy_from_slice(from),
                _ => return Err(Error::internal("bitcast changed the size")),
            }
            y
        };
        cx.set_output(0, y);
        Ok(())
    }
}

const TYPES: &str = "{bfloat16, half, float, double, int64, int32, uint8, uint16, uint32, uint64, int8, int16, \
                     complex64, complex128, qint8, quint8, qint16, quint16, qint32}";

fn bitcast() -> OpDef {
    OpDef::new("Bitcast", Category::Array)
        .doc("The same bits as elements of another dtype.")
        .input("input: T")
        .output("output: type")
        .attr(&format!("T: {TYPES}"))
        .attr(&format!("type: {TYPES}"))
        .shape(|cx| {
            let (from, to) = (cx.attrs().dtype("T")?, cx.attrs().dtype("type")?);
            let x = cx.input(0);
            if let Some(s) = x.to_shape() {
                return Ok(vec![PartialShape::from(shape_after(&s, from, to)?)]);
            }
            let Some(rank) = x.rank() else {
                return Ok(vec![PartialShape::UNKNOWN]);
            };
            let (a, b) = (from.size(), to.size());
            Ok(vec![match () {
                () if a > b => x.concat(&PartialShape::vector(Some(a / b))),
                () if a < b => {
                    let last = x.with_rank_at_least(1)?.sub(rank.saturating_sub(1), rank);
                    last.merge(&PartialShape::vector(Some(b / a)))?;
                    x.sub(0, rank.saturating_sub(1))
                }
                () => x,
            }])
        })
        .cpu(|init: &KernelInit<'_>| -> Result<Box<dyn Kernel>> { Ok(Box::new(Bitcast(init.output_types[0]))) })
}

register_ops!(bitcast);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn dimensions_come_and_go_with_the_size_of_elements() {
        let g = Graph::new();
        let cast = |x: Tensor, d: DType| g.op("Bitcast").input(&g.constant(x).unwrap()).attr("type", d).output();
        assert_eq!(
            eval(&cast(1.0f32.into(), DType::I32).unwrap()),
            Tensor::from(0x3f80_0000i32)
        );
        let bytes = Tensor::from([[1u8, 0, 0, 0], [2, 0, 0, 1]]);
        let joined = Tensor::from([1i32, 0x0100_0002]);
        assert_eq!(eval(&cast(bytes.clone(), DType::I32).unwrap()), joined);
        assert_eq!(eval(&cast(joined.clone(), DType::U8).unwrap()), bytes);
        let quantised = eval(&cast(bytes.clone(), DType::QI32).unwrap());
        assert_eq!(quantised, joined.clone().bitcast(DType::QI32).unwrap());
        assert!(cast([1u8, 2, 3].into(), DType::I32).is_err() && cast(7u8.into(), DType::I32).is_err());
    }
}
