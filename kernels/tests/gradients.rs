//! Every registered operation with a gradient is compared with finite differences; it joins by being registered.
#![allow(clippy::unwrap_used)] // helpers of tests

use actorflow_core::op::{Gradient, registry};
use actorflow_kernels::testing::check_gradient;

#[test]
fn every_gradient_agrees_with_finite_differences() {
    actorflow_kernels::link();
    registry().check().unwrap();
    let mut failures = Vec::new();
    for def in registry().iter() {
        for (i, sample) in def.samples().iter().enumerate() {
            for seed in 0..3 {
                if let Err(e) = check_gradient(*sample, seed) {
                    failures.push(format!("{} sample {i} seed {seed}: {e}", def.name()));
                    break;
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Operations whose gradient only ever reports an error, or passes a rounding straight through by definition, or that
/// need the runtime and are checked in its tests, or compute in single precision and are compared in their file.
const ELSEWHERE: &[&str] = &[
    "ApproxTopK",
    "FakeQuantWithMinMaxArgs",
    "FakeQuantWithMinMaxVars",
    "FakeQuantWithMinMaxVarsPerChannel",
    "PreventGradient",
    "QuantizeAndDequantize",
    "QuantizeAndDequantizeV2",
    "QuantizeAndDequantizeV3",
    "QuantizeAndDequantizeV4",
    "RandomGamma",
    "ReadVariableOp",
    "RefIdentity",
    "ResourceGather",
    "ResourceGatherNd",
    "SparseMatMul",
    "StatelessRandomGammaV2",
    "StatelessRandomGammaV3",
    "TensorArrayConcatV3",
    "TensorArrayGatherV3",
    "TensorArrayReadV3",
    "TensorArrayScatterV3",
    "TensorArraySplitV3",
    "TensorArrayWriteV3",
];

#[test]
fn every_operation_with_a_gradient_has_a_sample() {
    actorflow_kernels::link();
    let missing: Vec<_> = registry()
        .iter()
        .filter(|d| matches!(d.gradient_of(), Gradient::Function(_)) && d.samples().is_empty())
        .map(|d| d.name())
        .filter(|n| !ELSEWHERE.contains(n))
        .collect();
    assert!(
        missing.is_empty(),
        "give these operations a sample in their file: {missing:?}"
    );
}
