//! `Einsum`.
#![forbid(unsafe_code)]

mod equation;
mod gradient;

use actorflow_core::error::{Error, Result};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{Operation, PartialShape, Shape, Tensor, register_ops};

use super::product::{Batch, Finish, Multiply, Turn, multiply};
use crate::gemm::Offsets;
use crate::moves::{self, Axis, Copies, Fill, StridedCopy, view_copy};
use crate::ops::reduce::sums;
use crate::reduction::Plan;
use equation::{Equation, Label};

/// An operand whose dimensions have different names.
struct Operand {
    data: Tensor,
    labels: Vec<Label>,
}

impl Operand {
    fn size(&self, label: Label) -> Option<usize> {
        let at = self.labels.iter().position(|l| *l == label)?;
        Some(self.data.shape()[at])
    }

    /// The diagonal along repeated labels; broadcasting dimensions of length 1 are dropped.
    fn of(cx: &OpContext<'_>, data: &Tensor, labels: &[Label]) -> Result<Operand> {
        let shape = data.shape();
        let strides = shape.strides();
        let (mut names, mut dims, mut steps) = (Vec::new(), Vec::new(), Vec::new());
        for ((label, d), s) in labels.iter().zip(shape.iter()).zip(&strides) {
            if matches!(label, Label::Broadcast(_)) && *d == 1 {
                continue;
            }
            match names.iter().position(|l| l == label) {
                Some(at) if dims[at] == *d => steps[at] += *s as isize,
                Some(at) => {
                    return Err(Error::invalid(format!(
                        "repeated label {label:?} of einsum has dimensions {} and {d} in shape {shape}",
                        dims[at]
                    )));
                }
                None => {
                    names.push(*label);
                    dims.push(*d);
                    steps.push(*s as isize);
                }
            }
        }
        let data = if dims.iter().product::<usize>() == data.len() {
            data.clone().reshape(dims)?
        } else {
            let copy = view_copy(&dims, &steps, 0);
            moves::build(cx, data.dtype(), dims.into(), Fill::Any, &[data], &Copies(&[copy]))?
        };
        Ok(Operand { data, labels: names })
    }

    /// The same with its dimensions in another order.
    fn ordered(self, cx: &OpContext<'_>, order: &[Label]) -> Result<Operand> {
        if self.labels == order {
            return Ok(self);
        }
        let strides = self.data.shape().strides();
        let at = |l: &Label| self.labels.iter().position(|x| x == l).unwrap_or(0);
        let dims: Vec<usize> = order.iter().map(|l| self.data.shape()[at(l)]).collect();
        let steps: Vec<isize> = order.iter().map(|l| strides[at(l)] as isize).collect();
        let copy = view_copy(&dims, &steps, 0);
        let x = &self.data;
        let data = moves::build(cx, x.dtype(), dims.into(), Fill::Any, &[x], &Copies(&[copy]))?;
        Ok(Operand {
            data,
            labels: order.to_vec(),
        })
    }

    /// Sums over the labels for which `keep` is false.
    fn summed(self, cx: &OpContext<'_>, keep: impl Fn(&Label) -> bool) -> Result<Operand> {
        if self.labels.iter().all(&keep) {
            return Ok(self);
        }
        let plan = Plan::of(self.data.shape(), |i| !keep(&self.labels[i]), false);
        let data = sums::sum_of(self.data.dtype())(&*cx.step().device, &self.data, &plan)?;
        let labels = self.labels.iter().copied().filter(&keep).collect();
        Ok(Operand { data, labels })
    }
}

/// The labels of `a` that `wanted` is true of, in order.
fn those(labels: &[Label], wanted: impl Fn(&Label) -> bool) -> Vec<Label> {
    labels.iter().copied().filter(wanted).collect()
}

/// One side of a product: batches of matrices, transposed if that saves a copy.
fn side(cx: &OpContext<'_>, x: Operand, batch: &[Label], rows: &[Label], cols: &[Label]) -> Result<(Tensor, Turn)> {
    let turned = [batch, cols, rows].concat();
    let transpose = x.labels == turned && !rows.is_empty() && !cols.is_empty();
    let turn = Turn { transpose, conj: false };
    let order = if transpose {
        turned
    } else {
        [batch, rows, cols].concat()
    };
    Ok((x.ordered(cx, &order)?.data, turn))
}

struct Einsum {
    equation: Equation,
    multiply: Multiply,
}

impl Einsum {
    /// Multiplies two operands and sums over the labels that both have and the output has not.
    fn contract(&self, cx: &OpContext<'_>, a: Operand, b: Operand, output: &[Label]) -> Result<Operand> {
        for l in &a.labels {
            if let (Some(x), Some(y)) = (a.size(*l), b.size(*l))
                && x != y
            {
                return Err(Error::invalid(format!(
                    "label {l:?} of einsum has dimension {x} in one input and {y} in the other"
                )));
            }
        }
        let both = |l: &Label| a.labels.contains(l) && b.labels.contains(l);
        let batch = those(&a.labels, |l| both(l) && output.contains(l));
        let inner = those(&a.labels, |l| both(l) && !output.contains(l));
        let left = those(&a.labels, |l| !both(l));
        let right = those(&b.labels, |l| !both(l));
        let sizes =
            |labels: &[Label]| -> Vec<usize> { labels.iter().filter_map(|l| a.size(*l).or(b.size(*l))).collect() };
        let total = |labels: &[Label]| -> usize { sizes(labels).iter().product() };
        let (count, m, k, n) = (total(&batch), total(&left), total(&inner), total(&right));
        let labels = [&batch[..], &left[..], &right[..]].concat();
        let shape = Shape::from(sizes(&labels));
        shape.checked_count()?;
        let (a, turn_a) = side(cx, a, &batch, &left, &inner)?;
        let (b, turn_b) = side(cx, b, &batch, &inner, &right)?;
        let batch = Batch {
            m,
            k,
            n,
            count,
            a: Offsets::Every(m * k),
            b: Offsets::Every(k * n),
        };
        let device = &*cx.step().device;
        let data = (self.multiply)(device, (&a, turn_a), (&b, turn_b), &batch, Finish::default(), shape)?;
        Ok(Operand { data, labels })
    }
}

/// `x` with the dimensions named by `labels`, which may repeat (then `x` is on the diagonal of zeros); broadcasting
/// dimensions that `x` has not are of length 1.
fn arranged(cx: &OpContext<'_>, x: Operand, labels: &[Label]) -> Result<Tensor> {
    let dims: Vec<usize> = labels.iter().map(|l| x.size(*l).unwrap_or(1)).collect();
    let long = those(labels, |l| x.labels.contains(l));
    if long == x.labels {
        return x.data.reshape(dims);
    }
    let shape = Shape::from(dims);
    shape.checked_count()?;
    let (to, from) = (shape.strides(), x.data.shape().strides());
    let axes = x
        .labels
        .iter()
        .zip(x.data.shape().iter())
        .zip(&from)
        .map(|((l, n), src)| {
            let steps = labels.iter().zip(&to).filter(|(name, _)| *name == l);
            Axis {
                n: *n,
                src: *src as isize,
                dst: steps.map(|(_, s)| *s as isize).sum(),
            }
        });
    let copy = StridedCopy {
        source: 0,
        from: 0,
        to: 0,
        axes: axes.collect(),
    };
    let fill = if long.len() == x.labels.len() {
        Fill::Any
    } else {
        Fill::Zero
    };
    moves::build(cx, x.data.dtype(), shape, fill, &[&x.data], &Copies(&[copy]))
}

impl Kernel for Einsum {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let mut names = Vec::new();
        let mut broadcast = 0;
        for (i, s) in self.equation.inputs.iter().enumerate() {
            let rank = cx.input(i)?.shape().rank();
            names.push(s.labels(rank)?);
            broadcast = broadcast.max(rank - s.letters.len());
        }
        let output = self.equation.output.with_broadcast(broadcast);
        let mut operands = Vec::new();
        for (i, labels) in names.iter().enumerate() {
            let x = Operand::of(cx, cx.input(i)?, labels)?;
            operands.push(x);
        }
        let result = match (operands.pop(), operands.pop()) {
            (Some(x), None) => x.summed(cx, |l| output.contains(l))?,
            (Some(b), Some(a)) => {
                let (in_a, in_b) = (a.labels.clone(), b.labels.clone());
                let a = a.summed(cx, |l| output.contains(l) || in_b.contains(l))?;
                let b = b.summed(cx, |l| output.contains(l) || in_a.contains(l))?;
                self.contract(cx, a, b, &output)?
            }
            _ => return Err(Error::internal("einsum needs an input")),
        };
        let out = arranged(cx, result, &output)?;
        cx.set_output(0, out);
        Ok(())
    }
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let inputs = init.input_types.len();
    if inputs > 2 {
        return Err(Error::unimplemented(format!(
            "Einsum takes one or two inputs, got {inputs}; contract more in several steps"
        )));
    }
    Ok(Box::new(Einsum {
        equation: Equation::parse(init.attrs.str("equation")?, inputs)?,
        multiply: multiply(init.output_types[0], init)?,
    }))
}

fn einsum_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let equation = Equation::parse(cx.attrs().str("equation")?, cx.num_inputs())?;
    let mut known: Vec<(Label, Option<usize>)> = Vec::new();
    let mut broadcast = Some(0);
    for (i, s) in equation.inputs.iter().enumerate() {
        let shape = cx.input(i);
        let Some(dims) = shape.dims() else {
            if s.ellipsis.is_some() {
                broadcast = None;
            }
            continue;
        };
        broadcast = broadcast.map(|b: usize| b.max(dims.len().saturating_sub(s.letters.len())));
        for (label, d) in s.labels(dims.len())?.into_iter().zip(dims) {
            let Some((_, have)) = known.iter_mut().find(|(l, _)| *l == label) else {
                known.push((label, *d));
                continue;
            };
            let merged = match label {
                Label::Letter(_) => PartialShape::vector(*have).merge(&PartialShape::vector(*d))?,
                Label::Broadcast(_) => {
                    PartialShape::broadcast(&PartialShape::vector(*have), &PartialShape::vector(*d))?
                }
            };
            *have = merged.dim(0);
        }
    }
    let Some(broadcast) = broadcast.or(equation.output.ellipsis.is_none().then_some(0)) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let dims = equation.output.with_broadcast(broadcast).into_iter().map(|l| {
        let found = known.iter().find(|(k, _)| *k == l);
        found.and_then(|(_, d)| *d)
    });
    Ok(vec![PartialShape::new(dims.collect::<Vec<_>>())])
}

fn sample(s: &mut Sampler, equation: &str, shapes: &[&[usize]]) -> Result<Operation> {
    let inputs = shapes
        .iter()
        .map(|d| s.normal(Shape::new(d)))
        .collect::<Result<Vec<_>>>()?;
    s.op("Einsum").input_list(&inputs).attr("equation", equation).finish()
}

fn einsum() -> OpDef {
    OpDef::new("Einsum", Category::Matrix)
        .doc("Sums of products over named dimensions: `ij,jk->ik` is a matrix product, `...` broadcasts.")
        .input("inputs: N * T")
        .output("output: T")
        .attr("equation: string")
        .attr("N: int >= 1")
        .attr("T: type")
        .shape(einsum_shape)
        .gradient(gradient::einsum_grad)
        .cpu(kernel)
        .sample(|s| sample(s, "ij,jk->ik", &[&[2, 3], &[3, 4]]))
        .sample(|s| sample(s, "bij,kjb->bki", &[&[2, 3, 4], &[5, 4, 2]]))
        .sample(|s| sample(s, "...ij,...jk->i...k", &[&[2, 1, 2, 3], &[4, 3, 2]]))
        .sample(|s| sample(s, "ab...,...->b", &[&[2, 3, 2], &[4, 1]]))
        .sample(|s| sample(s, "iij,jk->ki", &[&[2, 2, 3], &[3, 2]]))
        .sample(|s| sample(s, "ij,k->", &[&[2, 3], &[2]]))
        .sample(|s| sample(s, "ijk->kj", &[&[2, 3, 4]]))
        .sample(|s| sample(s, "bii->bi", &[&[2, 3, 3]]))
        .sample(|s| sample(s, "...i->...", &[&[2, 3, 2]]))
        .sample(|s| sample(s, "ij->iji", &[&[2, 3]]))
}

register_ops!(einsum);

#[cfg(test)]
mod tests {
    use crate::testing::{Interpreter, eval};
    use actorflow_core::error::Result;
    use actorflow_core::{DType, Graph, PartialShape, Tensor};

    fn run(equation: &str, inputs: &[Tensor]) -> Result<Tensor> {
        let g = Graph::new();
        let (mut nodes, mut feeds) = (Vec::new(), Vec::new());
        for (i, t) in inputs.iter().enumerate() {
            let p = g.placeholder(&format!("p{i}"), t.dtype(), PartialShape::UNKNOWN)?;
            nodes.push(p.clone());
            feeds.push((p, t.clone()));
        }
        let y = g.op("Einsum").input_list(&nodes).attr("equation", equation).output()?;
        Ok(Interpreter::default().run(&[y], &[], &feeds)?.remove(0))
    }

    fn count(dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().product();
        Tensor::from_slice(dims, &(0..n).map(|i| i as f64 + 1.0).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn products_and_sums() {
        let (a, b) = (count(&[2, 3]), count(&[3, 2]));
        let product = Tensor::from([[22f64, 28.], [49., 64.]]);
        assert_eq!(run("ij,jk->ik", &[a.clone(), b.clone()]).unwrap(), product);
        assert_eq!(
            run(
                "ij,kj->ik",
                &[a.clone(), run("ij->ji", std::slice::from_ref(&b)).unwrap()]
            )
            .unwrap(),
            product
        );
        assert_eq!(run("ij,jk->", &[a.clone(), b.clone()]).unwrap(), Tensor::from(163f64));
        assert_eq!(run("ij->", std::slice::from_ref(&a)).unwrap(), Tensor::from(21f64));
        assert_eq!(
            run("ij->j", std::slice::from_ref(&a)).unwrap(),
            Tensor::from([5f64, 7., 9.])
        );
        let outer = run("i,j->ji", &[Tensor::from([1f64, 2.]), Tensor::from([3f64, 4.])]).unwrap();
        assert_eq!(outer, Tensor::from([[3f64, 6.], [4., 8.]]));
        assert_eq!(
            run("ij,ij->ij", &[a.clone(), a]).unwrap().to_vec::<f64>().unwrap()[5],
            36.0
        );
    }

    #[test]
    fn diagonals_are_taken_and_made() {
        let a = count(&[2, 2]);
        assert_eq!(
            run("ii->i", std::slice::from_ref(&a)).unwrap(),
            Tensor::from([1f64, 4.])
        );
        assert_eq!(run("ii->", &[a]).unwrap(), Tensor::from(5f64));
        let d = run("i->ii", &[Tensor::from([3i32, 4])]).unwrap();
        assert_eq!(d, Tensor::from([[3i32, 0], [0, 4]]));
        assert!(run("ii->i", &[count(&[2, 3])]).is_err());
    }

    #[test]
    fn an_ellipsis_broadcasts() {
        let (a, b) = (count(&[2, 1, 2]), count(&[3, 2]));
        let y = run("...i,...i->...", &[a, b]).unwrap();
        assert_eq!(y, Tensor::from([[5f64, 11., 17.], [11., 25., 39.]]));
        let y = run("...ij,jk->...ik", &[count(&[1, 1, 2, 2]), count(&[2, 1])]).unwrap();
        assert_eq!(y.shape().dims(), [1, 1, 2, 1]);
        let none = run(
            "ij,jk->ik",
            &[
                Tensor::zeros(DType::F32, [2, 0]).unwrap(),
                Tensor::zeros(DType::F32, [0, 3]).unwrap(),
            ],
        );
        assert_eq!(none.unwrap(), Tensor::full([2, 3], 0f32).unwrap());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(run("ij,jk->ik", &[count(&[2, 3]), count(&[2, 3])]).is_err());
        assert!(run("ij,jk->ik", &[count(&[2, 3]), count(&[3])]).is_err());
        let g = Graph::new();
        let x = g.constant(count(&[2, 3])).unwrap();
        let node = |e: &str, n: usize| {
            g.op("Einsum")
                .input_list(&vec![x.clone(); n])
                .attr("equation", e)
                .output()
        };
        assert!(node("ij,jk->ik", 2).is_err() && node("ijk->i", 1).is_err());
        let shape = node("ij,kj->ki", 2).unwrap().shape();
        assert_eq!(shape, PartialShape::from([2, 2]));
        assert_eq!(eval(&node("ij->ji", 1).unwrap()).shape().dims(), [3, 2]);
    }
}
