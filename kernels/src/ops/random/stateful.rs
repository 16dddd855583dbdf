//! Random numbers whose place in their stream is kept in a variable: `StatefulUniform`, `StatefulUniformInt`,
//! `StatefulUniformFullInt`, `StatefulStandardNormal`, `StatefulStandardNormalV2`, `StatefulTruncatedNormal`, `RngSkip`,
//! `RngReadAndSkip`; and `NonDeterministicInts`.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};

use actorflow_core::actor::Claims;
use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::Philox;
use actorflow_core::{DType, PartialShape, Shape, Tensor, register_ops};

use super::fill::{self, Float};
use super::stateless::{AUTO, PHILOX};
use super::stream::{RESERVED, shape_input};
use crate::ops::state::access;
use crate::shapes;

/// Counter and key, as 64-bit words, that a variable must hold.
const WORDS: usize = 3;

#[derive(Clone, Copy, PartialEq)]
enum Draw {
    Float(Float),
    Between,
    AnyInt,
    /// Moves on without drawing.
    Skip,
    /// As [`Skip`](Self::Skip), and outputs where the stream stood.
    ReadAndSkip,
}

struct Stateful {
    draw: Draw,
    /// The inputs of algorithm and shape; the first version of an operation has no algorithm.
    algorithm: Option<usize>,
    dtype: DType,
}

/// Fails unless the input is the number of one of these algorithms.
///
/// # Errors
/// `INVALID_ARGUMENT` naming its shape or the number.
pub(super) fn check_algorithm(t: &Tensor, known: &[i64]) -> Result<()> {
    if !t.shape().is_scalar() {
        return Err(Error::invalid(format!(
            "algorithm must be of shape [], not {}",
            t.shape()
        )));
    }
    match t.to_i64()? {
        n if known.contains(&n) => Ok(()),
        n => Err(Error::invalid(format!(
            "Unsupported algorithm id: {n}; {PHILOX} is Philox"
        ))),
    }
}

/// Moves the stream in the variable of input `i`, whose turn is held, past `outputs` outputs; where it stood, and the
/// words that said so.
///
/// # Errors
/// `INVALID_ARGUMENT` if the variable is no state of a stream, `NOT_FOUND` if it was never assigned.
pub(super) fn advance(cx: &OpContext<'_>, i: usize, outputs: u64) -> Result<(Philox, Vec<i64>)> {
    let var = cx.variable(i)?;
    let mut state = access::state(cx.held(), &var, DType::I64)?;
    let pool = cx.step().device.pool();
    let value = access::existing(&var, &state, false)?;
    if value.shape().rank() != 1 || value.len() < WORDS {
        return Err(Error::invalid(format!(
            "RNG state must have one dimension and at least {WORDS} elements for Philox, not shape {}",
            value.shape()
        )));
    }
    let before = value.to_vec::<i64>()?;
    let (low, high) = (before[0] as u64, before[1] as u64);
    let counter = u128::from(low) | u128::from(high) << 64;
    let after = counter.wrapping_add(u128::from(outputs.wrapping_mul(RESERVED)));
    let t = access::writable(&var, &mut state, pool)?;
    if let Some(words) = t.as_mut_slice::<i64>() {
        (words[0], words[1]) = (after as i64, (after >> 64) as i64);
    }
    let half = |x: i64| [x as u32, (x as u64 >> 32) as u32];
    let ([a, b], [c, d]) = (half(before[0]), half(before[1]));
    Ok((Philox::from_raw(half(before[2]), [a, b, c, d]), before))
}

impl Kernel for Stateful {
    fn claims(&self, cx: &OpContext<'_>, want: &mut Claims) -> Result<()> {
        access::want(cx, want, 0)
    }

    fn needs_claims(&self) -> bool {
        true
    }

    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        if let Some(i) = self.algorithm {
            check_algorithm(cx.input(i)?, &[PHILOX, AUTO])?;
        }
        let skips = matches!(self.draw, Draw::Skip | Draw::ReadAndSkip);
        let at = self.algorithm.map_or(1, |i| i + 1);
        let (shape, outputs) = match skips {
            true => {
                let delta = cx.input(at)?;
                let n = match delta.dtype() {
                    DType::U64 => delta.to_scalar::<u64>()?,
                    _ => delta.to_i64()? as u64,
                };
                (Shape::SCALAR, n)
            }
            false => {
                let s = shape_input(cx, at)?;
                let n = s.checked_count()? as u64;
                (s, n)
            }
        };
        let (from, before) = advance(cx, 0, outputs)?;
        let t = match self.draw {
            Draw::Skip => return Ok(()),
            Draw::ReadAndSkip => Tensor::vector(&before[..WORDS]),
            Draw::Float(dist) => fill::floats(cx, dist, self.dtype, shape, from)?,
            Draw::Between => fill::between(cx, cx.input(at + 1)?, cx.input(at + 2)?, shape, from)?,
            Draw::AnyInt => fill::any_ints(cx, self.dtype, shape, from)?,
        };
        cx.set_output(0, t);
        Ok(())
    }
}

fn make(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let draw = match init.op {
        "StatefulUniform" => Draw::Float(Float::Uniform),
        "StatefulTruncatedNormal" => Draw::Float(Float::Truncated),
        "StatefulUniformInt" => Draw::Between,
        "StatefulUniformFullInt" => Draw::AnyInt,
        "RngSkip" => Draw::Skip,
        "RngReadAndSkip" => Draw::ReadAndSkip,
        _ => Draw::Float(Float::Normal),
    };
    let dtype = init.output_types.first().copied().unwrap_or(DType::I64);
    let fits = match draw {
        Draw::Float(_) => dtype.is_float(),
        Draw::Between => matches!(dtype, DType::I32 | DType::I64),
        Draw::AnyInt => matches!(dtype, DType::I32 | DType::I64 | DType::U32 | DType::U64),
        _ => true,
    };
    if !fits {
        return Err(init.no_kernel());
    }
    Ok(Box::new(Stateful {
        draw,
        algorithm: (init.op != "StatefulStandardNormal").then_some(1),
        dtype,
    }))
}

fn drawing(name: &'static str) -> OpDef {
    let mut def = OpDef::new(name, Category::Random)
        .doc("Random numbers of a stream whose place a resource variable keeps.")
        .input("resource: resource");
    if name != "StatefulStandardNormal" {
        def = def.input("algorithm: int64");
    }
    def = def.input("shape: shape_dtype");
    if name == "StatefulUniformInt" {
        def = def.input("minval: dtype").input("maxval: dtype");
    }
    def.output("output: dtype")
        .attr(match name {
            "StatefulUniformInt" => "dtype: type = DT_INT64",
            "StatefulUniformFullInt" => "dtype: type = DT_UINT64",
            _ => "dtype: type = DT_FLOAT",
        })
        .attr("shape_dtype: type = DT_INT64")
        .stateful()
        .not_differentiable()
        // The first version has no algorithm.
        .shape(|cx| Ok(vec![cx.constant_shape(if cx.num_inputs() == 2 { 1 } else { 2 })?]))
        .cpu(make)
}

fn draws() -> Vec<OpDef> {
    [
        "StatefulUniform",
        "StatefulUniformInt",
        "StatefulUniformFullInt",
        "StatefulStandardNormal",
        "StatefulStandardNormalV2",
        "StatefulTruncatedNormal",
    ]
    .map(drawing)
    .into()
}

fn skip() -> OpDef {
    OpDef::new("RngSkip", Category::Random)
        .doc("Moves a stream on, as far as drawing `delta` numbers would.")
        .input("resource: resource")
        .input("algorithm: int64")
        .input("delta: int64")
        .stateful()
        .not_differentiable()
        .shape(shapes::none)
        .cpu(make)
}

fn read_and_skip() -> OpDef {
    OpDef::new("RngReadAndSkip", Category::Random)
        .doc("Counter and key of a stream, which then moves on, as far as drawing `delta` numbers would.")
        .input("resource: resource")
        .input("alg: int32")
        .input("delta: uint64")
        .output("value: int64")
        .stateful()
        .not_differentiable()
        .shape(|_| Ok(vec![PartialShape::from([WORDS])]))
        .cpu(make)
}

fn any_ints(cx: &mut OpContext<'_>, dtype: DType) -> Result<()> {
    let keys = RandomState::new();
    let from = Philox::new(keys.hash_one(0u8), keys.hash_one(1u8));
    let t = fill::any_ints(cx, dtype, shape_input(cx, 0)?, from)?;
    cx.set_output(0, t);
    Ok(())
}

fn non_deterministic() -> OpDef {
    OpDef::new("NonDeterministicInts", Category::Random)
        .doc("Integers of any value that nobody can foretell.")
        .input("shape: shape_dtype")
        .output("output: dtype")
        .attr("dtype: type = DT_INT64")
        .attr("shape_dtype: type = DT_INT64")
        .stateful()
        .not_differentiable()
        .shape(|cx| Ok(vec![cx.constant_shape(0)?]))
        .cpu(|init| {
            let dtype = init.output_types[0];
            match dtype {
                DType::I32 | DType::I64 | DType::U32 | DType::U64 => {
                    Ok(Box::new(move |cx: &mut OpContext<'_>| any_ints(cx, dtype)))
                }
                _ => Err(init.no_kernel()),
            }
        })
}

register_ops!(all draws);
register_ops!(skip, read_and_skip, non_deterministic);

#[cfg(test)]
mod tests {
    use crate::testing::Interpreter;
    use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};

    #[test]
    fn the_place_in_the_stream_is_kept_in_the_variable() {
        let g = Graph::new();
        let b = g
            .op("VarHandleOp")
            .attr("dtype", DType::I64)
            .attr("shape", PartialShape::from([3]));
        let var = b.attr("shared_name", "s").output().unwrap();
        let start = g.constant([5i64, 0, 11]).unwrap();
        let init = g.op("AssignVariableOp").input(&var).input(&start).finish().unwrap();
        let delta = g.constant(2u64).unwrap();
        let skip = |alg: i32| {
            let alg = g.constant(alg).unwrap();
            g.op("RngReadAndSkip")
                .input(&var)
                .input(&alg)
                .input(&delta)
                .output()
                .unwrap()
        };
        let (run, ok, bad) = (Interpreter::default(), skip(1), skip(7));
        assert!(run.run(std::slice::from_ref(&ok), &[], &[]).is_err(), "not initialised");
        run.run(&[], &[init], &[]).unwrap();
        for place in [5i64, 5 + 512] {
            let got = run.run(std::slice::from_ref(&ok), &[], &[]).unwrap();
            assert_eq!(got[0], Tensor::from([place, 0, 11]));
        }
        assert_eq!(run.run(&[bad], &[], &[]).unwrap_err().code(), Code::InvalidArgument);
    }
}
