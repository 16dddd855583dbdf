//! `AddN`, `AccumulateNV2`.
#![forbid(unsafe_code)]

use actorflow_core::error::Result;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, register_ops};

use crate::elementwise::{self, Loop2, Loops};
use crate::ops::list::variants;
use crate::shapes;

struct Sum(Loop2);

impl Kernel for Sum {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        elementwise::fold(&self.0, cx)
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    if init.output_types.first() == Some(&DType::Variant) {
        return Ok(Box::new(variants::add_all));
    }
    match elementwise::loops("AddV2", init.output_types.first().copied().unwrap_or(DType::Bool)) {
        Some(Loops::Two(add)) => Ok(Box::new(Sum(add))),
        _ => Err(init.no_kernel()),
    }
}

fn sum(name: &'static str, types: &str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("inputs: N * T")
        .output("sum: T")
        .attr("N: int >= 1")
        .attr(types)
        .commutative()
        .shape(shapes::merged)
        .gradient(|cx, dys| Ok(vec![dys[0].clone(); cx.num_inputs()]))
        .cpu(kernel)
}

fn add_n() -> OpDef {
    sum("AddN", "T: {numbertype, variant}")
        .doc("The sum of tensors of one shape.")
        .sample(|s| {
            let xs = [s.normal([2, 3])?, s.normal([2, 3])?, s.normal([2, 3])?];
            s.op("AddN").input_list(&xs).finish()
        })
}

fn accumulate_n() -> OpDef {
    sum("AccumulateNV2", "T: numbertype")
        .doc("The sum of tensors of one shape.")
        .attr("shape: shape")
        .sample(|s| {
            let xs = [s.normal([4])?, s.normal([4])?];
            s.op("AccumulateNV2")
                .input_list(&xs)
                .attr("shape", actorflow_core::PartialShape::from([4]))
                .finish()
        })
}

register_ops!(add_n, accumulate_n);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval, fails};
    use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};

    #[test]
    fn many_tensors_add_up_in_order_wherever_the_result_lies() {
        let g = Graph::new();
        let n = 5000;
        let parts: Vec<Vec<f32>> = (0..5)
            .map(|k| (0..n).map(|i| ((i * 31 + k * 7) % 97) as f32 * 1.1).collect())
            .collect();
        let want: Vec<f32> = (0..n)
            .map(|i| parts.iter().map(|p| p[i]).reduce(|a, b| a + b).unwrap())
            .collect();
        let feeds: Vec<_> = (0..5)
            .map(|k| {
                g.placeholder(&format!("p{k}"), DType::F32, PartialShape::UNKNOWN)
                    .unwrap()
            })
            .collect();
        let sum = g.add_n(&feeds).unwrap();
        let held: Vec<Tensor> = parts.iter().map(|p| Tensor::vector(p)).collect();
        for free in 0..6 {
            // The interpreter keeps what it is fed, so copies stand for tensors nobody else needs.
            let fed = feeds.iter().cloned().zip(held.iter().enumerate().map(|(k, t)| {
                if k == free {
                    Tensor::vector(&parts[k])
                } else {
                    t.clone()
                }
            }));
            let fed: Vec<_> = fed.collect();
            let got = Interpreter::default()
                .run(std::slice::from_ref(&sum), &[], &fed)
                .unwrap();
            assert_eq!(got[0], Tensor::vector(&want));
        }
        let x = g.constant([1i64, 2]).unwrap();
        let one = g.op("AddN").input_list(std::slice::from_ref(&x)).output().unwrap();
        assert_eq!(eval(&one), Tensor::from([1i64, 2]));
    }

    #[test]
    fn shapes_must_agree() {
        let g = Graph::new();
        let p = g.placeholder("p", DType::F32, PartialShape::UNKNOWN).unwrap();
        let x = g.constant([1.0f32]).unwrap();
        let sum = g.add_n(&[x, p.clone()]).unwrap();
        let e = Interpreter::default()
            .run(&[sum], &[], &[(p, Tensor::from([1.0f32, 2.0]))])
            .unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument);
        assert!(e.message().contains("Input 0: [1] != input 1: [2]"));
        let s = g.constant(Tensor::strings([1], vec!["a"]).unwrap()).unwrap();
        assert!(g.add_n(&[s.clone(), s]).is_err());
        let _ = fails;
    }
}
