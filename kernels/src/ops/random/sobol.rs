//! `SobolSample`.

#![forbid(unsafe_code)]

use std::sync::OnceLock;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, register_ops};

/// Binary digits of a coordinate.
const DIGITS: usize = 32;

/// For each dimension but the first, the coefficients of a primitive polynomial as bits and the first direction numbers, as
/// many as its degree: those of S. Joe and F. Y. Kuo, "Constructing Sobol sequences with better two-dimensional
/// projections", SIAM J. Sci. Comput. 30 (2008), in the order that TensorFlow numbers dimensions in.
const TABLE: &str = include_str!("sobol.txt");

/// The direction numbers of each dimension, as fractions of 2³².
type Directions = Vec<[u32; DIGITS]>;

/// The direction numbers that follow from the first ones by the polynomial's recurrence.
fn directions(coefficients: u32, first: &[u32]) -> [u32; DIGITS] {
    let degree = first.len();
    let mut odd = [0u32; DIGITS];
    odd[..degree].copy_from_slice(first);
    for k in degree..DIGITS {
        let mut next = odd[k - degree] ^ odd[k - degree] << degree;
        for i in 1..degree {
            if coefficients >> (degree - 1 - i) & 1 == 1 {
                next ^= odd[k - i] << i;
            }
        }
        odd[k] = next;
    }
    let mut all = [0; DIGITS];
    for (k, (to, from)) in all.iter_mut().zip(odd).enumerate() {
        *to = from << (DIGITS - 1 - k);
    }
    all
}

fn table() -> &'static Directions {
    static ALL: OnceLock<Directions> = OnceLock::new();
    ALL.get_or_init(|| {
        // The first dimension: the digits in reverse.
        let mut all = vec![std::array::from_fn(|k| 1 << (DIGITS - 1 - k))];
        for line in TABLE.lines() {
            let mut numbers = line.split(' ').map_while(|n| n.parse().ok());
            let coefficients = numbers.next().unwrap_or(0);
            all.push(directions(coefficients, &numbers.collect::<Vec<u32>>()));
        }
        all
    })
}

/// Points `skip + 1` and on of the sequence, as fractions of 2³², written to rows of as many elements as there are dimensions.
fn points<T>(table: &[[u32; DIGITS]], skip: u32, out: &mut [T], of: impl Fn(u32) -> T) {
    let digits = |gray: u32| (0..DIGITS).filter(move |k| (gray >> k) & 1 == 1);
    let first = (skip + 1) ^ ((skip + 1) >> 1);
    let mut point: Vec<u32> = table.iter().map(|d| digits(first).fold(0, |x, k| x ^ d[k])).collect();
    for (index, row) in (skip + 1..).zip(out.chunks_exact_mut(table.len())) {
        row.iter_mut().zip(&point).for_each(|(o, x)| *o = of(*x));
        // The next index's Gray code differs in one digit.
        let digit = (!index).trailing_zeros() as usize;
        point.iter_mut().zip(table).for_each(|(x, d)| *x ^= d[digit]);
    }
}

fn sample(cx: &mut OpContext<'_>, dtype: DType) -> Result<()> {
    let number = |i: usize, name: &str| -> Result<i64> {
        let t = cx.input(i)?;
        match t.shape().is_scalar() {
            true => t.to_i64(),
            false => Err(Error::invalid(format!(
                "{name} must be a scalar, got shape {}",
                t.shape()
            ))),
        }
    };
    let (dim, count, skip) = (number(0, "dim")?, number(1, "num_results")?, number(2, "skip")?);
    let table = table();
    let dims = usize::try_from(dim).ok().filter(|d| (1..=table.len()).contains(d));
    let dims =
        dims.ok_or_else(|| Error::invalid(format!("dim must be at least 1 and at most {}, got {dim}", table.len())))?;
    if count < 1 || skip < 0 {
        return Err(Error::invalid(format!(
            "num_results must be at least one and skip non-negative, got {count} and {skip}"
        )));
    }
    if count + skip >= i64::from(i32::MAX) {
        return Err(Error::invalid(format!(
            "num_results + skip must be less than {}, got {count} + {skip}",
            i32::MAX
        )));
    }
    let mut t = cx.alloc(dtype, [count as usize, dims])?;
    const UNIT: f64 = 1.0 / (1u64 << DIGITS) as f64;
    let failed = || Error::internal("a new tensor must be writable");
    match dtype {
        DType::F64 => {
            let out = t.as_mut_slice::<f64>().ok_or_else(failed)?;
            points(&table[..dims], skip as u32, out, |x| f64::from(x) * UNIT);
        }
        _ => {
            let out = t.as_mut_slice::<f32>().ok_or_else(failed)?;
            points(&table[..dims], skip as u32, out, |x| (f64::from(x) * UNIT) as f32);
        }
    }
    cx.set_output(0, t);
    Ok(())
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let dtype = init.attrs.dtype("dtype")?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| sample(cx, dtype)))
}

fn sobol_sample() -> OpDef {
    OpDef::new("SobolSample", Category::Random)
        .doc("Points of Sobol's sequence, which fills the unit cube evenly; up to 1111 dimensions.")
        .input("dim: int32")
        .input("num_results: int32")
        .input("skip: int32")
        .output("samples: dtype")
        .attr("dtype: {float, double} = DT_FLOAT")
        .shape(|cx| {
            (0..3).try_for_each(|i| cx.input(i).with_rank(0).map(drop))?;
            let size = |i: usize| cx.constant_i64(i).and_then(|n| usize::try_from(n).ok());
            Ok(vec![PartialShape::from([size(1), size(0)])])
        })
        .not_differentiable()
        .cpu(kernel)
}

register_ops!(sobol_sample);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{DType, Graph, Output, Tensor};

    fn node(g: &Graph, dim: i32, count: i32, skip: i32) -> Output {
        let [dim, count, skip] = [dim, count, skip].map(|n| g.constant(n).unwrap());
        let node = g.op("SobolSample").input(&dim).input(&count).input(&skip);
        node.attr("dtype", DType::F64).output().unwrap()
    }

    /// TensorFlow 2.21's own values.
    #[test]
    fn points_are_those_of_tensorflow() {
        let g = Graph::new();
        let want = [
            [0.5, 0.5, 0.5, 0.5, 0.5],
            [0.75, 0.25, 0.25, 0.25, 0.75],
            [0.25, 0.75, 0.75, 0.75, 0.25],
            [0.375, 0.375, 0.625, 0.875, 0.375],
            [0.875, 0.875, 0.125, 0.375, 0.875],
        ];
        assert_eq!(eval(&node(&g, 5, 5, 0)), Tensor::from(want));
        assert_eq!(eval(&node(&g, 5, 2, 3)).to_vec::<f64>().unwrap(), want[3..].concat());
        let last = eval(&node(&g, 1111, 2, 1)).to_vec::<f64>().unwrap();
        assert_eq!(last[1111 + 1108..], [0.25, 0.75, 0.25]);
    }

    #[test]
    fn every_digit_of_every_dimension_is_balanced() {
        // Of the first 2^k - 1 points and the origin, each 2^-k wide interval holds one.
        let g = Graph::new();
        let x = eval(&node(&g, 1111, 255, 0)).to_vec::<f64>().unwrap();
        for d in 0..1111 {
            let mut cells: Vec<u32> = (0..255).map(|i| (x[i * 1111 + d] * 256.0) as u32).collect();
            cells.sort_unstable();
            assert_eq!(cells, (1..256).collect::<Vec<_>>(), "{d}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let g = Graph::new();
        for (dim, count, skip) in [(0, 1, 0), (1112, 1, 0), (1, 0, 0), (1, 1, -1), (1, i32::MAX - 1, 1)] {
            let e = fails(&node(&g, dim, count, skip));
            assert_eq!(e.code(), actorflow_core::Code::InvalidArgument, "{dim} {count} {skip}");
        }
    }
}
