//! What a node costs, from its operation and the shapes that are known: floating-point operations and bytes.

#![forbid(unsafe_code)]

use actorflow_core::graph::Node;
use actorflow_core::{DType, PartialShape};

/// Bytes of an element that is not of a fixed size.
const STRING_BYTES: u64 = 16;
const HANDLE_BYTES: u64 = 8;

/// The work of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Work {
    /// Arithmetic operations.
    pub(super) flops: u64,
    /// Bytes that are read and written.
    pub(super) bytes: u64,
}

/// The dimensions, with `unknown` for each that is not known; a shape of unknown rank is one such dimension.
fn dims(shape: &PartialShape, unknown: u64) -> Vec<u64> {
    match shape.dims() {
        Some(dims) => dims.iter().map(|d| d.map_or(unknown, |d| d as u64)).collect(),
        None => vec![unknown],
    }
}

fn product(dims: &[u64]) -> u64 {
    dims.iter().fold(1, |n, d| n.saturating_mul(*d))
}

/// The number of elements, by the same rule.
pub(super) fn count(shape: &PartialShape, unknown: u64) -> u64 {
    product(&dims(shape, unknown))
}

/// The bytes of a tensor.
pub(super) fn bytes(shape: &PartialShape, dtype: DType, unknown: u64) -> u64 {
    let element = match dtype {
        DType::Str => STRING_BYTES,
        DType::Resource | DType::Variant => HANDLE_BYTES,
        plain => plain.size() as u64,
    };
    count(shape, unknown).saturating_mul(element)
}

/// The work of a node whose inputs have these shapes.
pub(super) fn work(node: &Node, inputs: &[PartialShape], unknown: u64) -> Work {
    if is_free(node) {
        return Work::default();
    }
    let output = |i: usize| (i < node.num_outputs()).then(|| node.output_shape(i));
    let read = inputs
        .iter()
        .zip(node.input_types())
        .fold(0u64, |sum, (s, t)| sum.saturating_add(bytes(s, *t, unknown)));
    let written = (0..node.num_outputs()).fold(0u64, |sum, i| {
        sum.saturating_add(bytes(node.output_shape(i), node.output_type(i), unknown))
    });
    let n = |s: Option<&PartialShape>| s.map_or(0, |s| count(s, unknown));
    let d = |s: Option<&PartialShape>| s.map_or_else(Vec::new, |s| dims(s, unknown));
    let elements = inputs.iter().map(|s| count(s, unknown)).chain([n(output(0))]).max();
    let elements = elements.unwrap_or(0);
    let flops = match node.op_name() {
        "MatMul" | "_FusedMatMul" | "BatchMatMul" | "BatchMatMulV2" | "BatchMatMulV3" | "SparseMatMul" => {
            let transposed = ["transpose_a", "adj_x"]
                .iter()
                .any(|a| matches!(node.attrs().bool(a), Ok(true)));
            let a = d(inputs.first());
            let inner = match (a.as_slice(), transposed) {
                ([.., k, _], true) | ([.., k], false) => *k,
                _ => unknown,
            };
            product(&[2, n(output(0)), inner])
        }
        "SparseTensorDenseMatMul" => {
            let pairs = d(inputs.first()).first().copied().unwrap_or(unknown);
            product(&[2, pairs, d(inputs.get(3)).last().copied().unwrap_or(unknown)])
        }
        "Conv2D" | "_FusedConv2D" | "Conv3D" => convolution(n(output(0)), &d(inputs.get(1))),
        "FusedPadConv2D" => convolution(n(output(0)), &d(inputs.get(2))),
        "FusedResizeAndPadConv2D" => convolution(n(output(0)), &d(inputs.get(3))),
        op if op.starts_with("DepthwiseConv2d") => {
            let (filter, side) = convolved(op, inputs, output(0));
            product(&[2, n(side), product(d(filter).get(..2).unwrap_or(&[unknown]))])
        }
        op if op.starts_with("Conv") && op.contains("Backprop") => {
            let (filter, side) = convolved(op, inputs, output(0));
            convolution(n(side), &d(filter))
        }
        "Einsum" => {
            // For a product of matrices, the square root is the length of what is summed over.
            let all = inputs.iter().fold(1f64, |p, s| p * count(s, unknown) as f64);
            let out = n(output(0)).max(1) as f64;
            (2.0 * out * (all / out).sqrt()) as u64
        }
        op if is_transcendental(op) => elements.saturating_mul(20),
        _ => elements,
    };
    Work {
        flops,
        bytes: read.saturating_add(written),
    }
}

/// Each of `elements` is a sum over the filter's window and the channels that come in.
fn convolution(elements: u64, filter: &[u64]) -> u64 {
    let window = filter.split_last().map_or(1, |(_, window)| product(window));
    product(&[2, elements, window])
}

/// The shapes of the filter and of the side with the output's elements, of a convolution or one of its gradients.
fn convolved<'a>(
    op: &str,
    inputs: &'a [PartialShape],
    output: Option<&'a PartialShape>,
) -> (Option<&'a PartialShape>, Option<&'a PartialShape>) {
    if op.contains("BackpropInput") {
        (inputs.get(1), inputs.get(2))
    } else if op.contains("BackpropFilter") {
        (output, inputs.get(2))
    } else {
        (inputs.get(1), output)
    }
}

fn is_transcendental(op: &str) -> bool {
    matches!(
        op,
        "Exp"
            | "Expm1"
            | "Log"
            | "Log1p"
            | "Tanh"
            | "Sigmoid"
            | "Softmax"
            | "LogSoftmax"
            | "Erf"
            | "Erfc"
            | "Sin"
            | "Cos"
            | "Tan"
            | "Pow"
            | "Lgamma"
            | "Digamma"
            | "Softplus"
            | "Elu"
            | "Selu"
            | "SoftmaxCrossEntropyWithLogits"
            | "SparseSoftmaxCrossEntropyWithLogits"
            | "RandomStandardNormal"
            | "TruncatedNormal"
    )
}

/// Operations that neither compute nor copy.
fn is_free(node: &Node) -> bool {
    node.def().is_control_flow()
        || matches!(
            node.op_name(),
            "Const"
                | "Placeholder"
                | "PlaceholderWithDefault"
                | "Variable"
                | "VariableV2"
                | "VarHandleOp"
                | "ReadVariableOp"
                | "Identity"
                | "IdentityN"
                | "StopGradient"
                | "PreventGradient"
                | "Reshape"
                | "ExpandDims"
                | "Squeeze"
                | "Shape"
                | "ShapeN"
                | "Size"
                | "Rank"
                | "NoOp"
                | "VariableShape"
        )
}
