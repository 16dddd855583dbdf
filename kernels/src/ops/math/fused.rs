//! `_FusedElementwise`: several element-wise operations as one.
#![forbid(unsafe_code)]

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, registry};
use actorflow_core::{Attrs, DType, Tensor, register_ops};
use smallvec::SmallVec;

use crate::elementwise::{BlockFn, Meeting, Operand, Program, Step, block_fn};
use crate::shapes;

/// How an operation takes part in a fused one: its function, and how its operands meet. `None` if it cannot.
///
/// `AddN` takes part as sums of two.
pub fn part(op: &str, dtype: DType) -> Option<(BlockFn, Meeting)> {
    let meeting = match op {
        "BiasAdd" => Meeting::Bias,
        "AddN" => Meeting::Same,
        // A unit's gradient and what it is computed from have one shape.
        _ if op.ends_with("Grad") => Meeting::Same,
        _ => Meeting::Broadcast,
    };
    let function = block_fn(if matches!(op, "BiasAdd" | "AddN") { "AddV2" } else { op }, dtype)?;
    let meeting = if function.arity() == 2 {
        meeting
    } else {
        Meeting::Broadcast
    };
    Some((function, meeting))
}

/// One of the operations, for when they cannot be run together.
struct Alone {
    name: String,
    op: &'static str,
    kernel: Box<dyn Kernel>,
    operands: SmallVec<[Operand; 2]>,
}

struct Fused {
    program: Program,
    steps: Vec<Alone>,
}

impl Kernel for Fused {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        if self.program.run(cx)? {
            return Ok(());
        }
        self.one_by_one(cx)
    }
}

impl Fused {
    /// Runs each operation by its own kernel.
    #[cold]
    fn one_by_one(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let mut results: Vec<Option<Tensor>> = vec![None; self.steps.len()];
        let mut inputs = (0..cx.num_inputs())
            .map(|i| cx.take_input(i).map(Some))
            .collect::<Result<Vec<_>>>()?;
        for (i, step) in self.steps.iter().enumerate() {
            let used_later = |o: &Operand, k: usize| {
                step.operands[k + 1..].contains(o) || self.steps[i + 1..].iter().any(|s| s.operands.contains(o))
            };
            let mut operands: SmallVec<[Option<Tensor>; 2]> = SmallVec::new();
            for (k, o) in step.operands.iter().enumerate() {
                let slot = match *o {
                    Operand::Input(i) => &mut inputs[i],
                    Operand::Step(j) => &mut results[j],
                };
                operands.push(if used_later(o, k) { slot.clone() } else { slot.take() });
            }
            let mut out = [None];
            let held = Claims::none();
            let mut alone = OpContext::new(&mut operands, &mut out, cx.step(), &held, None);
            let done = step.kernel.compute(&mut alone);
            done.map_err(|e| e.at_node(&step.name, step.op))?;
            results[i] = out[0].take();
        }
        let y = results.pop().flatten();
        cx.set_output(
            0,
            y.ok_or_else(|| Error::internal("an operation left its output empty"))?,
        );
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let malformed = |what: &str| Error::invalid(format!("_FusedElementwise: {what}"));
    let dtype = init.attrs.dtype("T")?;
    let (ops, names, codes) = (
        init.attrs.strs("ops")?,
        init.attrs.strs("names")?,
        init.attrs.ints("operands")?,
    );
    if ops.len() != names.len() {
        return Err(malformed("every operation needs a name"));
    }
    let mut codes = codes.into_iter().map(|c| match usize::try_from(c) {
        Ok(i) => Operand::Input(i),
        Err(_) => Operand::Step(usize::try_from(-(c + 1)).unwrap_or(usize::MAX)),
    });
    let (mut program, mut steps) = (Vec::new(), Vec::new());
    for (op, name) in ops.into_iter().zip(names) {
        let (function, meeting) =
            part(op, dtype).ok_or_else(|| Error::unimplemented(format!("_FusedElementwise cannot contain {op}")))?;
        let operands: SmallVec<[Operand; 2]> = codes.by_ref().take(function.arity()).collect();
        let def = registry().get(op)?;
        let mut attrs = Attrs::new();
        attrs.set("T", dtype);
        if def.attr_def("N").is_some() {
            attrs.set("N", operands.len());
        }
        def.fill_defaults(&mut attrs);
        let types = [dtype; 2];
        let kernel = def.make_kernel(&KernelInit {
            name,
            op: def.name(),
            attrs: &attrs,
            input_types: &types[..function.arity()],
            input_refs: &[false; 2][..function.arity()],
            output_types: &types[..1],
            resources: init.resources,
        })?;
        steps.push(Alone {
            name: name.to_owned(),
            op: def.name(),
            kernel,
            operands: operands.clone(),
        });
        program.push(Step {
            function,
            operands,
            meeting,
        });
    }
    if codes.next().is_some() {
        return Err(malformed("there are more operands than operations take"));
    }
    Ok(Box::new(Fused {
        program: Program::new(dtype, init.input_types.len(), program)?,
        steps,
    }))
}

fn fused_elementwise() -> OpDef {
    OpDef::new("_FusedElementwise", Category::Internal)
        .doc(
            "Element-wise operations applied one after the other, `ops`, with the results and errors that they have \
             alone under `names`. `operands` has one number for each operand of each operation: i is input i, -1 - j \
             the result of operation j. The last result is the output.",
        )
        .input("inputs: N * T")
        .output("output: T")
        .attr("T: {float, double}")
        .attr("N: int >= 1")
        .attr("ops: list(string) >= 1")
        .attr("names: list(string) >= 1")
        .attr("operands: list(int) >= 1")
        .shape(shapes::unknown)
        .not_differentiable()
        .cpu(kernel)
}

register_ops!(fused_elementwise);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::spread::tests::Scattered;
    use actorflow_core::actor::local_mailboxes;
    use actorflow_core::kernel::{Device, run_alone};
    use actorflow_core::parallel::Parallel;
    use actorflow_core::resource::ResourceManager;
    use actorflow_core::tensor::Pool;

    struct FourThreads(Arc<Pool>);

    impl Device for FourThreads {
        fn name(&self) -> &str {
            "four threads"
        }
        fn parallel(&self) -> &dyn Parallel {
            &Scattered
        }
        fn pool(&self) -> &Arc<Pool> {
            &self.0
        }
    }

    fn run(op: &str, attrs: &[(&str, actorflow_core::AttrValue)], inputs: Vec<Tensor>) -> Result<Tensor> {
        let def = registry().get(op)?;
        let dtype = inputs[0].dtype();
        let mut all: Attrs = attrs.iter().cloned().collect();
        all.set("T", dtype);
        def.fill_defaults(&mut all);
        let types = vec![dtype; inputs.len()];
        let resources = ResourceManager::new(local_mailboxes());
        let kernel = def.make_kernel(&KernelInit {
            name: "node",
            op,
            attrs: &all,
            input_types: &types,
            input_refs: &vec![false; inputs.len()],
            output_types: &[dtype],
            resources: &resources,
        })?;
        let device = Arc::new(FourThreads(Pool::unbounded()));
        Ok(run_alone(&*kernel, inputs, 1, device, resources)?.remove(0))
    }

    type Steps = [(&'static str, Vec<i64>)];

    fn fused(steps: &Steps, inputs: Vec<Tensor>) -> Result<Tensor> {
        let names: Vec<String> = (0..steps.len()).map(|i| format!("step{i}")).collect();
        let ops: Vec<&str> = steps.iter().map(|s| s.0).collect();
        let operands: Vec<i64> = steps.iter().flat_map(|s| s.1.clone()).collect();
        let attrs = [
            ("N", inputs.len().into()),
            ("ops", ops.into()),
            ("names", names.into()),
            ("operands", operands.into()),
        ];
        run("_FusedElementwise", &attrs, inputs)
    }

    fn one_by_one(steps: &Steps, inputs: &[Tensor]) -> Result<Tensor> {
        let mut results: Vec<Tensor> = Vec::new();
        for (op, operands) in steps {
            let operands: Vec<Tensor> = operands
                .iter()
                .map(|c| match usize::try_from(*c) {
                    Ok(i) => inputs[i].clone(),
                    Err(_) => results[(-1 - c) as usize].clone(),
                })
                .collect();
            results.push(run(op, &[("N", operands.len().into())], operands)?);
        }
        Ok(results.remove(results.len() - 1))
    }

    fn numbers(shape: &[usize], seed: usize, dtype: DType) -> Tensor {
        let n: usize = shape.iter().product();
        let x = |i: usize| ((i * 37 + seed * 101) % 223) as f64 / 60.0 - 1.7;
        match dtype {
            DType::F32 => Tensor::from_slice(shape, &(0..n).map(|i| x(i) as f32).collect::<Vec<_>>()).unwrap(),
            _ => Tensor::from_slice(shape, &(0..n).map(x).collect::<Vec<_>>()).unwrap(),
        }
    }

    /// Both ways give the same bits, also if inputs may be overwritten, and the same errors.
    fn check(steps: &Steps, shapes: &[&[usize]]) {
        for dtype in [DType::F32, DType::F64] {
            let make = || -> Vec<Tensor> {
                let all = shapes.iter().enumerate();
                all.map(|(i, s)| numbers(s, i, dtype)).collect()
            };
            let inputs = make();
            let want = one_by_one(steps, &inputs);
            for got in [fused(steps, inputs.clone()), fused(steps, make())] {
                match (&want, &got) {
                    (Ok(want), Ok(got)) => {
                        assert_eq!(want.shape(), got.shape(), "{steps:?} {shapes:?}");
                        assert!(want.bytes() == got.bytes(), "{steps:?} of {dtype} {shapes:?}");
                    }
                    (Err(want), Err(got)) => assert_eq!(want.message(), got.message()),
                    _ => panic!("{steps:?} {shapes:?}: {want:?} and {got:?}"),
                }
            }
        }
    }

    const SIZES: [&[usize]; 6] = [&[], &[1], &[5], &[2048], &[3, 1000], &[300, 701]];

    #[test]
    fn chains_give_what_their_steps_give() {
        let chain: &Steps = &[
            ("Mul", vec![0, 1]),
            ("AddV2", vec![-1, 2]),
            ("Sigmoid", vec![-2]),
            ("Mul", vec![-3, 1]),
            ("Tanh", vec![1]),
            ("AddV2", vec![-4, -5]),
        ];
        for s in SIZES {
            check(chain, &[&[], s, &[]]);
            check(chain, &[s, s, s]);
        }
        let unary: &Steps = &[
            ("Square", vec![0]),
            ("Relu", vec![-1]),
            ("Elu", vec![-2]),
            ("Neg", vec![-3]),
        ];
        SIZES.iter().for_each(|s| check(unary, &[s]));
    }

    #[test]
    fn an_operand_may_be_used_many_times_and_the_result_may_lie_in_any_input() {
        let steps: &Steps = &[
            ("Sub", vec![1, 0]),
            ("Mul", vec![-1, -1]),
            ("Maximum", vec![0, -2]),
            ("Sub", vec![-3, -1]),
            ("RealDiv", vec![-4, 0]),
            ("Sub", vec![0, -5]),
        ];
        for s in SIZES {
            check(steps, &[s, s]);
            check(steps, &[s, &[]]);
            check(steps, &[&[], s]);
        }
        check(&[("Neg", vec![0]), ("Mul", vec![0, 0])], &[&[77]]);
    }

    #[test]
    fn broadcast_operands_are_written_out() {
        let steps: &Steps = &[
            ("Mul", vec![0, 1]),
            ("AddV2", vec![-1, 2]),
            ("Tanh", vec![-2]),
            ("Sub", vec![-3, 1]),
        ];
        for (x, scale, shift) in [
            (&[300, 701][..], &[701][..], &[701][..]),
            (&[300, 701], &[300, 1], &[1, 701]),
            (&[7, 5, 3], &[5, 1], &[3]),
            (&[7, 5, 3], &[7, 1, 1], &[1]),
            (&[4000, 3], &[3], &[4000, 1]),
            (&[40, 30, 20], &[40, 1, 20], &[30, 20]),
            (&[2, 3000], &[3000], &[2, 1]),
        ] {
            check(steps, &[x, scale, shift]);
        }
        // Both operands of a step broadcast, and together they are the result.
        check(&[("AddV2", vec![0, 1]), ("Tanh", vec![-1])], &[&[30, 1], &[1, 40]]);
    }

    #[test]
    fn shapes_that_do_not_suit_blocks_are_computed_step_by_step() {
        let steps: &Steps = &[("Exp", vec![0]), ("AddV2", vec![-1, 1]), ("Sqrt", vec![-2])];
        check(steps, &[&[4], &[3, 4]]);
        check(steps, &[&[3, 1], &[3, 4]]);
        check(steps, &[&[3, 4], &[2, 4]]);
        check(steps, &[&[0], &[1]]);
        check(steps, &[&[1, 1], &[1]]);
        check(steps, &[&[0, 4], &[4]]);
    }

    #[test]
    fn operands_that_must_be_alike_are() {
        let steps: &Steps = &[("AddN", vec![0, 1]), ("ReluGrad", vec![-1, 2]), ("Neg", vec![-2])];
        check(steps, &[&[70], &[70], &[70]]);
        check(steps, &[&[], &[], &[]]);
        check(steps, &[&[70], &[], &[70]]);
        check(steps, &[&[70], &[70], &[]]);
        check(steps, &[&[70], &[70], &[1, 70]]);
        let bias: &Steps = &[("Tanh", vec![0]), ("BiasAdd", vec![-1, 1]), ("Tanh", vec![-2])];
        check(bias, &[&[30, 70], &[70]]);
        check(bias, &[&[2, 30, 70], &[70]]);
        check(bias, &[&[30, 70], &[1]]);
        check(bias, &[&[30, 70], &[30]]);
        check(bias, &[&[70], &[70]]);
        check(bias, &[&[30, 1], &[1]]);
        check(bias, &[&[1, 1], &[1]]);
        check(bias, &[&[30, 70], &[]]);
    }

    #[test]
    fn the_step_that_fails_is_named() {
        let steps: &Steps = &[("Exp", vec![0]), ("AddV2", vec![-1, 1]), ("Sqrt", vec![-2])];
        let inputs = vec![numbers(&[2], 0, DType::F32), numbers(&[3], 0, DType::F32)];
        let e = fused(steps, inputs).unwrap_err();
        assert_eq!(e.node(), Some("step1"));
    }

    #[test]
    fn malformed_programs_are_refused() {
        let x = || vec![Tensor::from(1f32)];
        for steps in [
            &[("Exp", vec![1])][..],
            &[("Exp", vec![-1])],
            &[("Exp", vec![0]), ("Exp", vec![-3])],
            &[("Exp", vec![0, 0])],
            &[("AddV2", vec![0])],
            &[("MatMul", vec![0, 0])],
            &[("Exp", vec![i64::MIN])],
        ] {
            assert!(fused(steps, x()).is_err(), "{steps:?}");
        }
        assert_eq!(fused(&[("Exp", vec![0])], x()).unwrap(), Tensor::from(1f32.exp()));
    }
}
