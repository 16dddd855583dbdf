//! `TridiagonalSolve`, `TridiagonalMatMul`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::{DType, Operation, Output, PartialShape, Shape, Tensor, dispatch, register_ops};

use super::solve::write;
use super::{Entry, adjoint, matrices, widened};
use crate::linalg::Num;

/// The diagonals of a tridiagonal matrix: `upper[i]` is right of `main[i]`, `lower[i]` left of it. The last element of
/// `upper` and the first of `lower` lie outside of the matrix and are not read.
#[derive(Clone, Copy)]
struct Diagonals<'a, W> {
    upper: &'a [W],
    main: &'a [W],
    lower: &'a [W],
}

impl<W: Num> Diagonals<'_, W> {
    /// `out = self * x`, both with rows of `k` elements.
    fn multiply(&self, x: &[W], k: usize, out: &mut [W]) {
        let n = self.main.len();
        for i in 0..n {
            let row = |i: usize| &x[i * k..][..k];
            for j in 0..k {
                let mut sum = self.main[i] * row(i)[j];
                if i > 0 {
                    sum = sum + self.lower[i] * row(i - 1)[j];
                }
                if i + 1 < n {
                    sum = sum + self.upper[i] * row(i + 1)[j];
                }
                out[i * k + j] = sum;
            }
        }
    }
}

/// How systems are solved.
#[derive(Clone, Copy)]
struct Method {
    /// Rows are exchanged for larger pivots.
    pivoting: bool,
    /// Pivots that are too small are enlarged.
    perturb: bool,
}

/// Solves one system as LAPACK's `lagtf` and `lagts`; `false` for a matrix that is singular. `epsilon` is that of the
/// numbers' type.
fn solve<W: Num>(d: Diagonals<'_, W>, method: Method, epsilon: f64, x: &mut [W], k: usize) -> bool {
    let n = d.main.len();
    let mut main = d.main.to_vec();
    let mut upper = d.upper.to_vec();
    // Two right of the main diagonal, where rows were exchanged.
    let mut far = vec![W::ZERO; n];
    let reach = |i: usize| {
        let left = if i > 0 { d.lower[i].abs() } else { 0.0 };
        let right = if i + 1 < n { d.upper[i].abs() } else { 0.0 };
        left + d.main[i].abs() + right
    };
    let mut scale = if n > 0 { reach(0) } else { 0.0 };
    for i in 0..n.saturating_sub(1) {
        let (below, next) = (d.lower[i + 1], reach(i + 1));
        let pivot = if scale == 0.0 { 0.0 } else { main[i].abs() / scale };
        let (row, rest) = x[i * k..].split_at_mut(k);
        let other = &mut rest[..k];
        if below == W::ZERO {
            scale = next;
        } else if !method.pivoting || below.abs() / next <= pivot {
            let by = below / main[i];
            main[i + 1] = main[i + 1] - by * upper[i];
            other.iter_mut().zip(row).for_each(|(o, r)| *o = *o - by * *r);
            scale = next;
        } else {
            let by = main[i] / below;
            main[i] = below;
            let beside = main[i + 1];
            main[i + 1] = upper[i] - by * beside;
            upper[i] = beside;
            if i + 2 < n {
                far[i] = upper[i + 1];
                upper[i + 1] = -(by * far[i]);
            }
            for (o, r) in other.iter_mut().zip(row) {
                (*r, *o) = (*o, *r - by * *o);
            }
        }
    }
    let largest = (0..n).map(|i| {
        let right = if i + 1 < n { upper[i].abs() } else { 0.0 };
        main[i].abs().max(right).max(far[i].abs())
    });
    let least = (epsilon * largest.fold(0.0, f64::max)).max(f64::MIN_POSITIVE);
    for i in (0..n).rev() {
        let mut pivot = main[i];
        if method.perturb && pivot.abs() <= least {
            pivot = W::real(least.copysign(pivot.re()));
        }
        if pivot == W::ZERO {
            return false;
        }
        for j in 0..k {
            let mut rest = x[i * k + j];
            if i + 1 < n {
                rest = rest - upper[i] * x[(i + 1) * k + j];
            }
            if i + 2 < n {
                rest = rest - far[i] * x[(i + 2) * k + j];
            }
            x[i * k + j] = rest / pivot;
        }
    }
    true
}

fn solve_all<T: Entry>(cx: &mut OpContext<'_>, method: Method, epsilon: f64) -> Result<()> {
    let device = &*cx.step().device;
    let (sa, sb) = (cx.input(0)?.shape(), cx.input(1)?.shape());
    let ((batch, rows, n), (other, m, k)) = (matrices(sa)?, matrices(sb)?);
    if rows != 3 {
        return Err(Error::invalid(format!(
            "expected diagonals to be provided as a matrix with 3 rows, got {rows} rows: shape {sa}"
        )));
    }
    if batch != other || n != m {
        return Err(Error::invalid(format!(
            "diagonals and right-hand sides are incompatible: they have shapes {sa} and {sb}"
        )));
    }
    let (a, b) = (widened::<T>(device, cx.input(0)?)?, widened::<T>(device, cx.input(1)?)?);
    let (a, b) = (a.as_slice::<T::Wide>()?, b.as_slice::<T::Wide>()?);
    let shape: Shape = sb.clone();
    write::<T>(cx, shape, n * k, 8 * n * (k + 1), |i, out| {
        let a = &a[i * 3 * n..][..3 * n];
        let d = Diagonals {
            upper: &a[..n],
            main: &a[n..2 * n],
            lower: &a[2 * n..],
        };
        out.copy_from_slice(&b[i * n * k..][..n * k]);
        if !solve(d, method, epsilon, out, k) {
            out.fill(T::Wide::real(f64::NAN));
        }
        Ok(())
    })
}

fn solve_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let method = Method {
        pivoting: init.attrs.bool("partial_pivoting")?,
        perturb: init.attrs.bool("perturb_singular")?,
    };
    if method.perturb && !method.pivoting {
        return Err(Error::invalid("perturb_singular needs partial_pivoting"));
    }
    let epsilon = match init.input_types[0] {
        DType::F32 | DType::C64 => f64::from(f32::EPSILON),
        _ => f64::EPSILON,
    };
    dispatch!(init.input_types[0], T in [F32, F64, C64, C128] => {
        Ok(Box::new(move |cx: &mut OpContext<'_>| solve_all::<T>(cx, method, epsilon)))
    }, else Err(init.no_kernel()))
}

fn multiply_all<T: Entry>(cx: &mut OpContext<'_>) -> Result<()> {
    let device = &*cx.step().device;
    let sb = cx.input(3)?.shape();
    let (batch, n, k) = matrices(sb)?;
    for (i, name) in ["superdiagonal", "main diagonal", "subdiagonal"].iter().enumerate() {
        let shape = cx.input(i)?.shape();
        if matrices(shape)? != (batch, 1, n) {
            return Err(Error::invalid(format!(
                "invalid {name} shape: {shape} does not go with the right-hand side's shape {sb}"
            )));
        }
    }
    let wide = |i: usize| widened::<T>(device, cx.input(i)?);
    let all: [Tensor; 4] = [wide(0)?, wide(1)?, wide(2)?, wide(3)?];
    let part = |t: usize| all[t].as_slice::<T::Wide>();
    let (upper, main, lower, x) = (part(0)?, part(1)?, part(2)?, part(3)?);
    let shape: Shape = sb.clone();
    write::<T>(cx, shape, n * k, 4 * n * k, |i, out| {
        let here = i * n..(i + 1) * n;
        let d = Diagonals {
            upper: &upper[here.clone()],
            main: &main[here.clone()],
            lower: &lower[here],
        };
        d.multiply(&x[i * n * k..][..n * k], k, out);
        Ok(())
    })
}

fn multiply_kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    dispatch!(init.input_types[0], T in [F32, F64, C64, C128] => {
        Ok(Box::new(|cx: &mut OpContext<'_>| multiply_all::<T>(cx)))
    }, else Err(init.no_kernel()))
}

/// `x` moved by one along dimension `axis` of `rank`, towards the front or the back, with a zero moved in.
fn moved(x: &Output, rank: usize, axis: usize, back: bool) -> Result<Output> {
    let g = x.graph();
    let mut margins = vec![0i32; 2 * rank];
    margins[2 * axis + usize::from(!back)] = 1;
    let mut begin = vec![0i32; rank];
    begin[axis] = i32::from(!back);
    let padded = g
        .op("Pad")
        .input(x)
        .input(&g.constant(Tensor::from_slice([rank, 2], &margins)?)?)
        .output()?;
    g.op("Slice")
        .input(&padded)
        .input(&g.constant(Tensor::from_slice([rank], &begin)?)?)
        .input(&x.shape_op()?)
        .output()
}

fn rank_of(cx: &GradContext, x: &Output) -> Result<usize> {
    let rank = x.shape().rank().filter(|r| *r >= 2);
    rank.ok_or_else(|| cx.unsupported("for matrices whose rank is not known when the graph is built"))
}

/// As TensorFlow's: without conjugates.
fn solve_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (g, a, x) = (cx.graph(), cx.input(0)?, cx.output(0)?);
    let rank = rank_of(cx, &a)?;
    let row = |i: i32| a.gather(&g.constant(i)?, rank as i64 - 2);
    // Of the transposed matrix.
    let upper = moved(&row(2)?, rank - 1, rank - 2, false)?;
    let lower = moved(&row(0)?, rank - 1, rank - 2, true)?;
    let turned = g.stack(&[upper, row(1)?, lower], rank as i64 - 2)?;
    let db = g
        .op("TridiagonalSolve")
        .input(&turned)
        .input(&cx.dense(grads, 0)?)
        .attr("partial_pivoting", cx.attrs().bool("partial_pivoting")?)
        .attr("perturb_singular", cx.attrs().bool("perturb_singular")?)
        .output()?;
    let parts = [
        moved(&x, rank, rank - 2, false)?,
        x.clone(),
        moved(&x, rank, rank - 2, true)?,
    ];
    let parts = parts
        .iter()
        .map(|x| db.times(x)?.sum(&[rank as i64 - 1], false))
        .collect::<Result<Vec<_>>>()?;
    let da = g.stack(&parts, rank as i64 - 2)?.negated()?;
    Ok(vec![Some(da.into()), Some(db.into())])
}

fn multiply_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let (x, dy) = (cx.input(3)?, cx.dense(grads, 0)?);
    let rank = rank_of(cx, &x)?;
    let x = if x.dtype().is_complex() { x.conj_op()? } else { x };
    let step = |x: &Output, back| moved(x, rank, rank - 2, back);
    let diagonal = |x: &Output| x.times(&dy)?.sum(&[rank as i64 - 1], false)?.expand_dims(-2);
    // Diagonals as columns, one element for each row.
    let [upper, main, lower] = [0, 1, 2].map(|i| cx.input(i).and_then(|d| adjoint(&d)));
    let dx = step(&upper?.times(&dy)?, true)?
        .plus(&main?.times(&dy)?)?
        .plus(&step(&lower?.times(&dy)?, false)?)?;
    Ok(vec![
        Some(diagonal(&step(&x, false)?)?.into()),
        Some(diagonal(&x)?.into()),
        Some(diagonal(&step(&x, true)?)?.into()),
        Some(dx.into()),
    ])
}

/// The right sides' shape, with what is known of the diagonals (`rows` by `n`) merged in.
fn merged(cx: &ShapeContext<'_>, diagonals: &[usize], rows: usize, right: usize) -> Result<Vec<PartialShape>> {
    let mut out = cx.input(right).with_rank_at_least(2)?;
    for i in diagonals {
        let d = cx.input(*i).with_rank_at_least(2)?;
        let (Some(rank), Some(other)) = (d.rank(), out.rank()) else {
            continue;
        };
        d.sub(rank - 2, rank - 1).merge(&PartialShape::from([rows]))?;
        let outer = d.sub(0, rank - 2).concat(&d.sub(rank - 1, rank));
        out = outer.merge(&out.sub(0, other - 1))?.concat(&out.sub(other - 1, other));
    }
    Ok(vec![out])
}

const TYPES: &str = "T: {double, float, complex64, complex128}";

fn solve_sample(s: &mut Sampler, batch: &[usize], pivoting: bool) -> Result<Operation> {
    let shape: Vec<usize> = batch.iter().copied().chain([3, 4]).collect();
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count)
        .map(|i| s.number(-1.0, 1.0) + if i / 4 % 3 == 1 { 3.0 } else { 0.0 })
        .collect();
    let a = s.input(Tensor::from_slice(&shape[..], &values)?)?;
    let b = s.normal(batch.iter().copied().chain([4, 2]).collect::<Shape>())?;
    s.op("TridiagonalSolve")
        .input(&a)
        .input(&b)
        .attr("partial_pivoting", pivoting)
        .finish()
}

fn tridiagonal_solve() -> OpDef {
    OpDef::new("TridiagonalSolve", Category::Matrix)
        .doc("The solutions of systems with tridiagonal matrices, given as rows: superdiagonal, diagonal, subdiagonal; NaN where singular.")
        .input("diagonals: T")
        .input("rhs: T")
        .output("output: T")
        .attr("partial_pivoting: bool = true")
        .attr("perturb_singular: bool = false")
        .attr(TYPES)
        .shape(|cx| merged(cx, &[0], 3, 1))
        .gradient(solve_grad)
        .cpu(solve_kernel)
        .sample(|s| solve_sample(s, &[], true))
        .sample(|s| solve_sample(s, &[2], false))
}

fn tridiagonal_matmul() -> OpDef {
    OpDef::new("TridiagonalMatMul", Category::Matrix)
        .doc("The products of tridiagonal matrices, given by their three diagonals as rows, with matrices.")
        .input("superdiag: T")
        .input("maindiag: T")
        .input("subdiag: T")
        .input("rhs: T")
        .output("output: T")
        .attr(TYPES)
        .shape(|cx| merged(cx, &[0, 1, 2], 1, 3))
        .gradient(multiply_grad)
        .cpu(multiply_kernel)
        .sample(|s| {
            let [a, b, c] = [s.normal([2, 1, 4])?, s.normal([2, 1, 4])?, s.normal([2, 1, 4])?];
            let x = s.normal([2, 4, 3])?;
            s.op("TridiagonalMatMul")
                .input(&a)
                .input(&b)
                .input(&c)
                .input(&x)
                .finish()
        })
}

register_ops!(tridiagonal_solve, tridiagonal_matmul);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Graph, Output, Tensor};

    fn solve(g: &Graph, a: impl Into<Tensor>, b: impl Into<Tensor>, pivoting: bool, perturb: bool) -> Output {
        g.op("TridiagonalSolve")
            .input(&g.constant(a).unwrap())
            .input(&g.constant(b).unwrap())
            .attr("partial_pivoting", pivoting)
            .attr("perturb_singular", perturb)
            .output()
            .unwrap()
    }

    #[test]
    fn solutions_undo_the_product() {
        let g = Graph::new();
        let a = [[1f64, 2., 9.], [0., 4., 5.], [9., 6., 7.]];
        let x = g.constant([[1f64, 2.], [3., 4.], [5., 6.]]).unwrap();
        let [upper, main, lower] = a.map(|row| g.constant([row]).unwrap());
        let node = g.op("TridiagonalMatMul").input(&upper).input(&main).input(&lower);
        let y = eval(&node.input(&x).output().unwrap());
        assert_eq!(y, Tensor::from([[3f64, 4.], [28., 40.], [46., 58.]]));
        let back = eval(&solve(&g, a, y, true, false)).to_vec::<f64>().unwrap();
        for (a, b) in back.iter().zip([1., 2., 3., 4., 5., 6.]) {
            assert!((a - b).abs() < 1e-14, "{back:?}");
        }
    }

    #[test]
    fn singular_matrices_give_nan_or_are_perturbed() {
        let g = Graph::new();
        let a = [[1f64, 0.], [1., 1.], [0., 1.]];
        let b = [[1f64], [2.]];
        for (a, pivoting) in [(a, true), (a, false), ([[1., 0.], [0., 2.], [0., 1.]], false)] {
            let x = eval(&solve(&g, a, b, pivoting, false)).to_vec::<f64>().unwrap();
            assert!(x.iter().all(|x| x.is_nan()), "{x:?}");
        }
        let x = eval(&solve(&g, a, b, true, true)).to_vec::<f64>().unwrap();
        assert_eq!(x, [1.0 - 1.0 / f64::EPSILON, 1.0 / f64::EPSILON]);
        assert!(
            fails(&solve(&g, a, b, false, true))
                .message()
                .contains("partial_pivoting")
        );
    }

    #[test]
    fn shapes_have_to_agree() {
        let g = Graph::new();
        let refused = |a: [usize; 2], b: [usize; 2]| {
            let zeros = |s| {
                g.constant(Tensor::zeros(actorflow_core::DType::F32, s).unwrap())
                    .unwrap()
            };
            let node = g.op("TridiagonalSolve").input(&zeros(a)).input(&zeros(b));
            node.output().is_err()
        };
        assert!(refused([2, 3], [3, 1]) && refused([3, 3], [2, 1]) && !refused([3, 0], [0, 2]));
    }
}
