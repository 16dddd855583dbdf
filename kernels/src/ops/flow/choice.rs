//! `Switch`, `RefSwitch`, `_SwitchN`, `Merge`, `RefMerge`: where control flow parts and joins.

use actorflow_core::PartialShape;
use actorflow_core::Tensor;
use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Cost, Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use crate::shapes;

/// Sends the data to one of two outputs.
struct Switch;

impl Kernel for Switch {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let side = usize::from(cx.scalar::<bool>(1)?);
        cx.forward(side, 0)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

/// Sends the data to one of many outputs, to the last one if the index is out of range.
struct SwitchN;

impl Kernel for SwitchN {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let last = cx.num_outputs().saturating_sub(1);
        let i = usize::try_from(cx.scalar::<i32>(1)?).map_or(last, |i| i.min(last));
        cx.forward(i, 0)
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

/// Passes on the one live input and says which it was.
struct Merge;

impl Kernel for Merge {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let live: Vec<usize> = (0..cx.num_inputs())
            .filter(|i| cx.input_if_live(*i).is_some())
            .collect();
        match live[..] {
            [i] => {
                cx.forward(0, i)?;
                cx.set_output(1, Tensor::scalar(i as i32));
                Ok(())
            }
            _ => Err(Error::invalid(format!(
                "a Merge needs exactly one live input, got {}",
                live.len()
            ))),
        }
    }

    fn cost(&self) -> Cost {
        Cost::Trivial
    }
}

fn switch_shapes(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    cx.input(1).with_rank(0)?;
    shapes::like_first(cx)
}

fn merge_shapes(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let mut inputs = cx.inputs().iter();
    let first = inputs.next().cloned().unwrap_or_default();
    let value = inputs.fold(first, |s, i| s.relax(i));
    Ok(vec![value, PartialShape::scalar()])
}

fn switch() -> OpDef {
    OpDef::new("Switch", Category::ControlFlow)
        .doc("The data on the output that the predicate selects; the other output is dead.")
        .input("data: T")
        .input("pred: bool")
        .output("output_false: T")
        .output("output_true: T")
        .attr("T: type")
        .control_flow()
        .shape(switch_shapes)
        .cpu(|_| Ok(Box::new(Switch)))
}

fn ref_switch() -> OpDef {
    OpDef::new("RefSwitch", Category::ControlFlow)
        .doc("Switch of a reference to a variable.")
        .input("data: Ref(T)")
        .input("pred: bool")
        .output("output_false: Ref(T)")
        .output("output_true: Ref(T)")
        .attr("T: type")
        .control_flow()
        .shape(switch_shapes)
        .cpu(|_| Ok(Box::new(Switch)))
}

fn switch_n() -> OpDef {
    OpDef::new("_SwitchN", Category::ControlFlow)
        .doc("The data on the output that the index selects (the last one if it is out of range); the others are dead.")
        .input("data: T")
        .input("output_index: int32")
        .output("outputs: num_outs * T")
        .attr("num_outs: int >= 1")
        .attr("T: type")
        .control_flow()
        .shape(switch_shapes)
        .cpu(|_| Ok(Box::new(SwitchN)))
}

fn merge() -> OpDef {
    OpDef::new("Merge", Category::ControlFlow)
        .doc("The live one of its inputs and its number; dead if all are.")
        .input("inputs: N * T")
        .output("output: T")
        .output("value_index: int32")
        .attr("T: type")
        .attr("N: int >= 1")
        .control_flow()
        .shape(merge_shapes)
        .cpu(|_| Ok(Box::new(Merge)))
}

fn ref_merge() -> OpDef {
    OpDef::new("RefMerge", Category::ControlFlow)
        .doc("Merge of references to variables.")
        .input("inputs: N * Ref(T)")
        .output("output: Ref(T)")
        .output("value_index: int32")
        .attr("T: type")
        .attr("N: int >= 1")
        .control_flow()
        .shape(merge_shapes)
        .cpu(|_| Ok(Box::new(Merge)))
}

register_ops!(switch, ref_switch, switch_n, merge, ref_merge);

#[cfg(test)]
mod tests {
    use actorflow_core::{DType, Graph, PartialShape};

    #[test]
    fn a_merge_knows_what_is_true_of_all_its_inputs() {
        let g = Graph::new();
        let a = g.placeholder("a", DType::F32, [2, 3]).unwrap();
        let b = g.placeholder("b", DType::F32, [4, 3]).unwrap();
        let c = g.placeholder("c", DType::F32, [3]).unwrap();
        let shape = |xs: &[_]| g.op("Merge").input_list(xs).output().unwrap().shape();
        assert_eq!(shape(&[a.clone(), b]), PartialShape::from([None, Some(3)]));
        assert_eq!(shape(&[a.clone(), a.clone()]), PartialShape::from([2, 3]));
        assert_eq!(shape(&[a, c]), PartialShape::UNKNOWN);
    }

    #[test]
    fn a_predicate_must_be_a_scalar() {
        let g = Graph::new();
        let x = g.constant(1.0f32).unwrap();
        let p = g.placeholder("p", DType::Bool, [2]).unwrap();
        assert!(g.op("Switch").input(&x).input(&p).finish().is_err());
    }
}
