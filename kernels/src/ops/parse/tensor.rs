//! `ParseTensor`, `SerializeTensor`: tensors as strings.
#![forbid(unsafe_code)]

use actorflow_core::error::Error;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Tensor, register_ops};

use super::wire;
use crate::shapes;

fn parse() -> OpDef {
    OpDef::new("ParseTensor", Category::Io)
        .doc("The tensor that a string holds as a `TensorProto`.")
        .input("serialized: string")
        .output("output: out_type")
        .attr("out_type: type")
        .shape(shapes::unknown)
        .not_differentiable()
        .cpu(|init| {
            let dtype = init.output_types[0];
            Ok(Box::new(move |cx: &mut OpContext<'_>| {
                let t = cx.input(0)?;
                let [s] = t.as_strings()? else {
                    return Err(Error::invalid(format!(
                        "the serialized tensor must be a scalar, got shape {}",
                        t.shape()
                    )));
                };
                let out = wire::decode(s)?;
                if out.dtype() != dtype {
                    return Err(Error::invalid(format!(
                        "type mismatch between the parsed tensor ({}) and dtype ({dtype})",
                        out.dtype()
                    )));
                }
                cx.set_output(0, out);
                Ok(())
            }))
        })
}

fn serialize() -> OpDef {
    OpDef::new("SerializeTensor", Category::Io)
        .doc("A tensor as a string that holds a `TensorProto`.")
        .input("tensor: T")
        .output("serialized: string")
        .attr("T: type")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let x = cx.input(0)?;
                let s = match x.as_strings() {
                    Ok(strings) => wire::listed_strings(x, strings),
                    Err(_) => wire::encode(x)?,
                };
                cx.set_output(0, Tensor::string(s));
                Ok(())
            }))
        })
}

register_ops!(parse, serialize);
