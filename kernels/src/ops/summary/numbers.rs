//! `ScalarSummary`, `HistogramSummary`, `TensorSummary`, `TensorSummaryV2`, `MergeSummary`.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, KernelFn, OpDef};
use actorflow_core::{DType, Tensor, dispatch, register_ops};

use super::histogram;
use super::wire::{fields, tensor};
use crate::protobuf::Message;
use crate::shapes;

/// The dtypes of numbers that summaries take.
pub(super) const REALS: &str = "T: realnumbertype";

/// A number that a summary shows as a double.
trait Shown {
    fn shown(&self) -> f64;
}

macro_rules! shown {
    ($($t:ty: |$x:ident| $e:expr;)*) => {
        $(impl Shown for $t {
            fn shown(&self) -> f64 {
                let $x = *self;
                $e
            }
        })*
    };
}

shown! {
    f32: |x| x.into();
    f64: |x| x;
    half::f16: |x| x.to_f64();
    half::bf16: |x| x.to_f64();
    i8: |x| x.into();
    i16: |x| x.into();
    i32: |x| x.into();
    i64: |x| x as f64;
    u8: |x| x.into();
    u16: |x| x.into();
    u32: |x| x.into();
    u64: |x| x as f64;
}

/// The elements as doubles.
pub(super) fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    dispatch!(t.dtype(), T in reals => Ok(t.as_slice::<T>()?.iter().map(Shown::shown).collect()),
        else Err(Error::invalid(format!("expected a tensor of real numbers, got {}", t.dtype()))))
}

fn scalar(cx: &mut OpContext<'_>) -> Result<()> {
    let (tags, values) = (cx.input(0)?, cx.input(1)?);
    if tags.shape() != values.shape() {
        let first = tags
            .as_strings()?
            .first()
            .map(|t| format!(" (tag '{}')", String::from_utf8_lossy(t)));
        return Err(Error::invalid(format!(
            "tags and values are not the same shape: {} != {}{}",
            tags.shape(),
            values.shape(),
            first.unwrap_or_default()
        )));
    }
    let all = tags.as_strings()?.iter().zip(numbers(values)?);
    let summary = all.fold(Message::default(), |m, (tag, x)| {
        m.part(1, &Message::default().bytes(1, tag).chosen_float(2, x as f32).done())
    });
    cx.set_output(0, Tensor::string(summary.done()));
    Ok(())
}

/// The tag of a summary, a scalar.
pub(super) fn tag<'c>(cx: &'c OpContext<'_>, i: usize) -> Result<&'c [u8]> {
    let t = cx.input(i)?;
    match t.as_strings()? {
        [s] if t.shape().is_scalar() => Ok(s),
        _ => Err(Error::invalid(format!("tag must be scalar, got shape {}", t.shape()))),
    }
}

fn count(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let name = init.name.to_owned();
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let values = numbers(cx.input(1)?)?;
        if let Some(x) = values.iter().find(|x| !x.is_finite()) {
            let what = if x.is_nan() { "Nan" } else { "Infinity" };
            return Err(Error::invalid(format!("{what} in summary histogram for: {name}")));
        }
        let value = Message::default()
            .bytes(1, tag(cx, 0)?)
            .part(5, &histogram::encoded(values.into_iter()));
        cx.set_output(0, Tensor::string(Message::default().part(1, &value.done()).done()));
        Ok(())
    }))
}

fn whole(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let name = init.name.to_owned();
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let value = Message::default()
            .bytes(7, name.as_bytes())
            .part(8, &tensor(cx.input(0)?)?);
        cx.set_output(0, Tensor::string(Message::default().part(1, &value.done()).done()));
        Ok(())
    }))
}

fn whole_v2(cx: &mut OpContext<'_>) -> Result<()> {
    let metadata = match cx.input(2)?.as_strings()? {
        [m] if fields(m).is_some() => m,
        _ => {
            return Err(Error::invalid(
                "serialized_summary_metadata must be one SummaryMetadata message",
            ));
        }
    };
    let value = Message::default()
        .bytes(1, tag(cx, 0)?)
        .part(8, &tensor(cx.input(1)?)?)
        .part(9, metadata);
    cx.set_output(0, Tensor::string(Message::default().part(1, &value.done()).done()));
    Ok(())
}

fn merge(cx: &mut OpContext<'_>) -> Result<()> {
    let malformed = || Error::invalid("Could not parse one of the summary inputs");
    let mut tags = HashSet::new();
    let mut all = Message::default();
    for i in 0..cx.num_inputs() {
        for summary in cx.input(i)?.as_strings()? {
            for (_, value) in fields(summary).ok_or_else(malformed)?.into_iter().filter(|f| f.0 == 1) {
                let parts = fields(value).ok_or_else(malformed)?;
                let tag = parts.iter().rev().find(|f| f.0 == 1).map_or(&[][..], |f| f.1);
                if !tag.is_empty() && !tags.insert(tag.to_vec()) {
                    return Err(Error::invalid(format!(
                        "Duplicate tag {} found in summary inputs",
                        String::from_utf8_lossy(tag)
                    )));
                }
                all = all.part(1, value);
            }
        }
    }
    cx.set_output(0, Tensor::string(all.done()));
    Ok(())
}

/// A definition of an operation that makes a summary.
pub(super) fn summary(name: &'static str, doc: &'static str, kernel: KernelFn) -> OpDef {
    OpDef::new(name, Category::Io)
        .doc(doc)
        .output("summary: string")
        .shape(shapes::scalar)
        .not_differentiable()
        .cpu(kernel)
}

fn summaries() -> Vec<OpDef> {
    vec![
        summary("ScalarSummary", "A summary of numbers and their tags.", |_| {
            Ok(Box::new(scalar))
        })
        .input("tags: string")
        .input("values: T")
        .attr(REALS),
        summary("HistogramSummary", "A summary of how often values occur.", count)
            .input("tag: string")
            .input("values: T")
            .attr("T: realnumbertype = DT_FLOAT"),
        summary(
            "TensorSummary",
            "A summary of a whole tensor, named as the node.",
            whole,
        )
        .input("tensor: T")
        .attr("T: type")
        .attr("description: string = ''")
        .attr("labels: list(string) = []")
        .attr("display_name: string = ''"),
        summary(
            "TensorSummaryV2",
            "A summary of a whole tensor with a tag and metadata.",
            |_| Ok(Box::new(whole_v2)),
        )
        .input("tag: string")
        .input("tensor: T")
        .input("serialized_summary_metadata: string")
        .attr("T: type"),
        summary(
            "MergeSummary",
            "Several summaries as one, in which each tag occurs once.",
            |_| Ok(Box::new(merge)),
        )
        .input("inputs: N * string")
        .attr("N: int >= 1"),
    ]
}

register_ops!(all summaries);

/// The dtype of an image or sound, for messages.
pub(super) fn expected(what: &str, t: &Tensor) -> Error {
    let dtype: DType = t.dtype();
    Error::invalid(format!("{what}, not {} of {dtype}", t.shape()))
}

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Tensor};

    #[test]
    fn summaries_are_merged_and_their_tags_are_unique() {
        let g = Graph::new();
        let one = |tag: &'static str| {
            let (t, x) = (g.constant(Tensor::string(tag)).unwrap(), g.constant(1f32).unwrap());
            g.op("ScalarSummary").input(&t).input(&x).output().unwrap()
        };
        let merged = |tags: [&'static str; 2]| g.op("MergeSummary").input_list(&tags.map(one)).output().unwrap();
        assert_eq!(
            eval(&merged(["a", "b"])),
            Tensor::string(&b"\n\x08\n\x01a\x15\x00\x00\x80?\n\x08\n\x01b\x15\x00\x00\x80?"[..])
        );
        assert_eq!(fails(&merged(["a", "a"])).code(), Code::InvalidArgument);
    }
}
