//! `MatrixDiag`, `MatrixDiagPart` and their second and third versions.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef, Sampler};
use actorflow_core::parallel::Parallel;
use actorflow_core::{Operation, Output, PartialShape, Shape, Tensor, register_ops};

use super::band::{Align, Band, diagonals};
use crate::moves::{self, Fill, Item, Shuffle};
use crate::spread;

/// Moves diagonals of one batch after the other: into matrices, or out of them.
pub(super) struct Diagonals {
    pub(super) band: Band,
    pub(super) into_matrices: bool,
}

impl Shuffle for Diagonals {
    fn run<E: Item>(&self, sources: &[&[E]], out: &mut [E], par: &dyn Parallel) -> Result<()> {
        let Some(from) = sources.first() else {
            return Err(Error::internal("diagonals need a source"));
        };
        let (packed, matrix) = (self.band.count() * self.band.longest(), self.band.rows * self.band.cols);
        let (a, b) = if self.into_matrices {
            (packed, matrix)
        } else {
            (matrix, packed)
        };
        if a == 0 || b == 0 {
            return Ok(());
        }
        let batches = spread::rows_of(packed);
        spread::chunks(par, out, batches * b, |i, out| {
            for (from, to) in from[i * batches * a..].chunks(a).zip(out.chunks_mut(b)) {
                match self.into_matrices {
                    true => self.band.each(|p, m| to[m] = from[p].clone()),
                    false => self.band.each(|p, m| to[p] = from[m].clone()),
                }
            }
        });
        Ok(())
    }
}

/// Extents that the caller asks for; -1 leaves one open.
fn extent(cx: &OpContext<'_>, i: usize, name: &str) -> Result<Option<usize>> {
    if cx.num_inputs() <= i {
        return Ok(None);
    }
    let t = cx.input(i)?;
    match t.to_i64()? {
        -1 => Ok(None),
        n => usize::try_from(n)
            .map(Some)
            .map_err(|_| Error::invalid(format!("{name} must be -1 or not negative, got {n}"))),
    }
}

/// The extents of matrices that hold diagonals of length `longest`.
fn extents(
    longest: usize,
    (lower, upper): (i64, i64),
    rows: Option<usize>,
    cols: Option<usize>,
) -> Result<(usize, usize)> {
    let least_rows = longest as i64 - upper.min(0);
    let least_cols = longest as i64 + lower.max(0);
    let (least_rows, least_cols) = (least_rows as usize, least_cols as usize);
    for (name, n, least) in [("num_rows", rows, least_rows), ("num_cols", cols, least_cols)] {
        if n.is_some_and(|n| n < least) {
            return Err(Error::invalid(format!(
                "{name} is too small: diagonals {lower} to {upper} of length {longest} need {least}, got {}",
                n.unwrap_or(0)
            )));
        }
    }
    let (rows, cols) = match (rows, cols) {
        (None, None) => (least_rows.max(least_cols), least_rows.max(least_cols)),
        (rows, cols) => (rows.unwrap_or(least_rows), cols.unwrap_or(least_cols)),
    };
    if rows != least_rows && cols != least_cols {
        return Err(Error::invalid(format!(
            "a matrix of {rows} rows and {cols} columns does not have diagonals {lower} to {upper} of length {longest}"
        )));
    }
    Ok((rows, cols))
}

/// What the kernels know when they are made.
struct Versioned {
    align: Align,
    /// Whether the diagonals are an input; else the main one is meant.
    has_k: bool,
}

impl Versioned {
    fn of(init: &KernelInit<'_>, plain: usize) -> Result<Versioned> {
        Ok(Versioned {
            align: Align::of(init.attrs)?,
            has_k: init.input_types.len() > plain,
        })
    }

    fn diagonals(&self, cx: &OpContext<'_>, i: usize) -> Result<(i64, i64)> {
        if self.has_k {
            diagonals(cx.input(i)?)
        } else {
            Ok((0, 0))
        }
    }
}

/// What is in the places that no diagonal covers: zeros, or the value of input `i`.
fn fill<'a>(cx: &'a OpContext<'_>, i: usize) -> Result<Fill<'a>> {
    if cx.num_inputs() <= i {
        return Ok(Fill::Zero);
    }
    let value = cx.input(i)?;
    if value.len() != 1 {
        return Err(Error::invalid(format!(
            "padding_value must be a scalar, got shape {}",
            value.shape()
        )));
    }
    Ok(Fill::Value(value))
}

struct Diag(Versioned);

impl Kernel for Diag {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let k = self.0.diagonals(cx, 1)?;
        let diagonal = cx.input(0)?;
        let shape = diagonal.shape();
        let several = usize::from(k.0 != k.1);
        if shape.rank() < 1 + several {
            return Err(Error::invalid(format!(
                "diagonal must be at least {}-dim, received shape {shape}",
                1 + several
            )));
        }
        let (batch, stored) = shape.split_at(shape.rank() - 1 - several);
        let number = k.1 - k.0 + 1;
        if several == 1 && stored[0] as i64 != number {
            return Err(Error::invalid(format!(
                "{} diagonals are given (shape {shape}), k = [{}, {}] means {number}",
                stored[0], k.0, k.1
            )));
        }
        let rows = extent(cx, 2, "num_rows")?;
        let cols = extent(cx, 3, "num_cols")?;
        let (rows, cols) = extents(stored[several], k, rows, cols)?;
        let out: Shape = batch.iter().copied().chain([rows, cols]).collect();
        out.checked_count()?;
        let band = Band::inside(rows, cols, k, self.0.align)?;
        let how = Diagonals {
            band,
            into_matrices: true,
        };
        let out = moves::build(cx, diagonal.dtype(), out, fill(cx, 4)?, &[diagonal], &how)?;
        cx.set_output(0, out);
        Ok(())
    }
}

struct DiagPart(Versioned);

impl Kernel for DiagPart {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let k = self.0.diagonals(cx, 1)?;
        let input = cx.input(0)?;
        let shape = input.shape();
        if shape.rank() < 2 {
            return Err(Error::invalid(format!(
                "input must be at least 2-dim, received shape {shape}"
            )));
        }
        let (batch, matrix) = shape.split_at(shape.rank() - 2);
        let band = Band::inside(matrix[0], matrix[1], k, self.0.align)?;
        let out: Shape = match k.0 == k.1 {
            true => batch.iter().copied().chain([band.longest()]).collect(),
            false => batch.iter().copied().chain([band.count(), band.longest()]).collect(),
        };
        let how = Diagonals {
            band,
            into_matrices: false,
        };
        let out = moves::build(cx, input.dtype(), out, fill(cx, 2)?, &[input], &how)?;
        cx.set_output(0, out);
        Ok(())
    }
}

/// The diagonals, if they are known when the graph is built; the main one of operations without that input.
fn known_diagonals(cx: &ShapeContext<'_>, has_k: bool, i: usize) -> Result<Option<(i64, i64)>> {
    match (has_k, cx.constant(i)) {
        (false, _) => Ok(Some((0, 0))),
        (true, Some(k)) => Ok(Some(diagonals(&k)?)),
        (true, None) => Ok(None),
    }
}

fn diag_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let diagonal = cx.input(0).with_rank_at_least(1)?;
    let has_k = cx.num_inputs() > 1;
    let (Some(k), Some(rank)) = (known_diagonals(cx, has_k, 1)?, diagonal.rank()) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let stored = 1 + usize::from(k.0 != k.1);
    let batch = diagonal.with_rank_at_least(stored)?.sub(0, rank - stored);
    let open = PartialShape::of_rank(2);
    let size = |i: usize| match (has_k, cx.constant_i64(i)) {
        (false, _) => Some(None),
        (true, Some(n)) => Some(usize::try_from(n).ok()),
        (true, None) => None,
    };
    let matrix = match (diagonal.dim(rank - 1), size(2), size(3)) {
        (Some(longest), Some(rows), Some(cols)) => {
            let (rows, cols) = extents(longest, k, rows, cols)?;
            PartialShape::from([rows, cols])
        }
        _ => open,
    };
    Ok(vec![batch.concat(&matrix)])
}

fn diag_part_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let input = cx.input(0).with_rank_at_least(2)?;
    let k = known_diagonals(cx, cx.num_inputs() > 1, 1)?;
    let (Some(k), Some(rank)) = (k, input.rank()) else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    let longest = match (input.dim(rank - 2), input.dim(rank - 1)) {
        (Some(rows), Some(cols)) => Some(Band::inside(rows, cols, k, Align::LEFT)?.longest()),
        _ => None,
    };
    let batch = input.sub(0, rank - 2);
    let number = usize::try_from(k.1 - k.0 + 1).ok();
    Ok(vec![match k.0 == k.1 {
        true => batch.concat(&PartialShape::vector(longest)),
        false => batch.concat(&PartialShape::from([number, longest])),
    }])
}

/// The operation of the version and alignment of the one that is differentiated: `MatrixSetDiag` to `MatrixSetDiagV3`.
pub(super) struct Same<'a> {
    cx: &'a GradContext,
    suffix: &'static str,
    k: Option<Output>,
}

impl<'a> Same<'a> {
    /// Of an operation whose input `i` is the diagonals, from the second version on.
    pub(super) fn of(cx: &'a GradContext, i: usize) -> Result<Self> {
        let name = cx.node().op_name();
        let suffix = ["V2", "V3"].into_iter().find(|v| name.ends_with(v)).unwrap_or("");
        let k = if suffix.is_empty() { None } else { Some(cx.input(i)?) };
        Ok(Same { cx, suffix, k })
    }

    fn node(&self, name: &str, inputs: &[&Output], more: &[Output]) -> Result<Output> {
        let mut node = self.cx.graph().op(&format!("{name}{}", self.suffix));
        for x in inputs {
            node = node.input(x);
        }
        if let Some(k) = &self.k {
            node = node.input(k);
            for x in more {
                node = node.input(x);
            }
        }
        if self.suffix == "V3" {
            node = node.attr("align", self.cx.attrs().str("align")?);
        }
        node.output()
    }

    /// The diagonals of matrices.
    pub(super) fn part(&self, matrices: &Output) -> Result<Output> {
        self.node("MatrixDiagPart", &[matrices], &[matrices.scalar_like(0.0)?])
    }

    /// The matrices with their diagonals replaced.
    pub(super) fn set(&self, matrices: &Output, diagonals: &Output) -> Result<Output> {
        self.node("MatrixSetDiag", &[matrices, diagonals], &[])
    }

    /// Matrices with these diagonals, as large as `like`; zero elsewhere.
    fn matrices(&self, diagonals: &Output, like: &Output) -> Result<Output> {
        let shape = like.shape();
        let rank = shape.rank().unwrap_or(0).max(2);
        match (shape.dim(rank - 2), shape.dim(rank - 1)) {
            (Some(rows), Some(cols)) if self.k.is_some() || rows == cols => {
                let g = self.cx.graph();
                let size = |n: usize| g.constant(Tensor::scalar(i32::try_from(n).unwrap_or(i32::MAX)));
                let more = [size(rows)?, size(cols)?, diagonals.scalar_like(0.0)?];
                self.node("MatrixDiag", &[diagonals], &more)
            }
            _ => self.set(&like.zeros_like()?, diagonals),
        }
    }
}

fn diag_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let mut out = cx.none()?;
    out[0] = Some(Same::of(cx, 1)?.part(&cx.dense(grads, 0)?)?.into());
    Ok(out)
}

fn diag_part_grad(cx: &GradContext, grads: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let mut out = cx.none()?;
    let dx = Same::of(cx, 1)?.matrices(&cx.dense(grads, 0)?, &cx.input(0)?)?;
    out[0] = Some(dx.into());
    Ok(out)
}

pub(super) const ALIGN: &str = "align: {'LEFT_RIGHT', 'RIGHT_LEFT', 'LEFT_LEFT', 'RIGHT_RIGHT'} = 'RIGHT_LEFT'";

fn diag(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Matrix)
        .input("diagonal: T")
        .output("output: T")
        .attr("T: type")
        .shape(diag_shape)
        .gradient(diag_grad)
        .cpu(|init| Ok(Box::new(Diag(Versioned::of(init, 1)?))))
}

fn with_extents(def: OpDef) -> OpDef {
    def.input("k: int32")
        .input("num_rows: int32")
        .input("num_cols: int32")
        .input("padding_value: T")
}

pub(super) fn matrix_diag() -> OpDef {
    diag("MatrixDiag")
        .doc("Square matrices with the given main diagonals, zero elsewhere.")
        .sample(|s| {
            let x = s.normal([2, 3])?;
            s.op("MatrixDiag").input(&x).finish()
        })
}

fn diag_sample(s: &mut Sampler, op: &str, align: Option<&str>) -> Result<Operation> {
    let x = s.normal([2, 3, 3])?;
    let (k, rows, cols) = (s.constant([-1i32, 1])?, s.constant(3i32)?, s.constant(-1i32)?);
    let padding = s.scalar(0.5)?;
    let node = s.op(op).input(&x).input(&k).input(&rows).input(&cols).input(&padding);
    match align {
        Some(a) => node.attr("align", a).finish(),
        None => node.finish(),
    }
}

fn matrix_diag_v2() -> OpDef {
    with_extents(diag("MatrixDiagV2"))
        .doc("Matrices with the given diagonals `k`, short ones stored on the left, a padding value elsewhere.")
        .sample(|s| diag_sample(s, "MatrixDiagV2", None))
}

fn matrix_diag_v3() -> OpDef {
    with_extents(diag("MatrixDiagV3"))
        .doc("Matrices with the given diagonals `k`, short ones stored as `align` says, a padding value elsewhere.")
        .attr(ALIGN)
        .sample(|s| diag_sample(s, "MatrixDiagV3", Some("RIGHT_LEFT")))
        .sample(|s| diag_sample(s, "MatrixDiagV3", Some("LEFT_RIGHT")))
}

fn part(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Matrix)
        .input("input: T")
        .output("diagonal: T")
        .attr("T: type")
        .shape(diag_part_shape)
        .gradient(diag_part_grad)
        .cpu(|init| Ok(Box::new(DiagPart(Versioned::of(init, 1)?))))
}

pub(super) fn matrix_diag_part() -> OpDef {
    part("MatrixDiagPart")
        .doc("The main diagonals of matrices.")
        .sample(|s| {
            let x = s.normal([2, 3, 3])?;
            s.op("MatrixDiagPart").input(&x).finish()
        })
        .sample(|s| {
            let x = s.normal([2, 4])?;
            s.op("MatrixDiagPart").input(&x).finish()
        })
}

fn part_sample(s: &mut Sampler, op: &str, k: &[i32]) -> Result<Operation> {
    let x = s.normal([2, 3, 4])?;
    let (k, padding) = (s.constant(Tensor::vector(k))?, s.scalar(0.5)?);
    s.op(op).input(&x).input(&k).input(&padding).finish()
}

fn matrix_diag_part_v2() -> OpDef {
    part("MatrixDiagPartV2")
        .doc("The diagonals `k` of matrices, short ones stored on the left and padded.")
        .input("k: int32")
        .input("padding_value: T")
        .sample(|s| part_sample(s, "MatrixDiagPartV2", &[-2, 1]))
}

fn matrix_diag_part_v3() -> OpDef {
    part("MatrixDiagPartV3")
        .doc("The diagonals `k` of matrices, short ones stored as `align` says and padded.")
        .input("k: int32")
        .input("padding_value: T")
        .attr(ALIGN)
        .sample(|s| part_sample(s, "MatrixDiagPartV3", &[-2, 3]))
        .sample(|s| part_sample(s, "MatrixDiagPartV3", &[1]))
}

register_ops!(
    matrix_diag,
    matrix_diag_v2,
    matrix_diag_v3,
    matrix_diag_part,
    matrix_diag_part_v2,
    matrix_diag_part_v3
);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::error::Result;
    use actorflow_core::{Graph, Output, PartialShape, Tensor};

    fn diag_v3(x: impl Into<Tensor>, k: impl Into<Tensor>, size: [i32; 2], align: &str) -> Result<Output> {
        let g = Graph::new();
        g.op("MatrixDiagV3")
            .input(&g.constant(x)?)
            .input(&g.constant(k)?)
            .input(&g.constant(size[0])?)
            .input(&g.constant(size[1])?)
            .input(&g.constant(9i32)?)
            .attr("align", align)
            .output()
    }

    /// The examples of TensorFlow's documentation.
    #[test]
    fn matrices_from_diagonals() {
        let g = Graph::new();
        let d = g.constant([1i32, 2]).unwrap().unary("MatrixDiag").unwrap();
        assert_eq!(d.shape(), PartialShape::from([2, 2]));
        assert_eq!(eval(&d), Tensor::from([[1i32, 0], [0, 2]]));
        let x = [[0i32, 8, 9], [1, 2, 3], [4, 5, 0]];
        let y = diag_v3(x, [-1i32, 1], [-1, -1], "RIGHT_LEFT").unwrap();
        assert_eq!(y.shape(), PartialShape::from([3, 3]));
        assert_eq!(eval(&y), Tensor::from([[1i32, 8, 9], [4, 2, 9], [9, 5, 3]]));
        let y = diag_v3([1i32, 2, 3], 1i32, [-1, -1], "RIGHT_LEFT").unwrap();
        assert_eq!(
            eval(&y),
            Tensor::from([[9i32, 1, 9, 9], [9, 9, 2, 9], [9, 9, 9, 3], [9, 9, 9, 9]])
        );
        let y = diag_v3([1i32, 2], -1i32, [3, 4], "RIGHT_LEFT").unwrap();
        assert_eq!(eval(&y), Tensor::from([[9i32, 9, 9, 9], [1, 9, 9, 9], [9, 2, 9, 9]]));
        let y = diag_v3([1i32, 2], -1i32, [3, -1], "RIGHT_LEFT").unwrap();
        assert_eq!(eval(&y), Tensor::from([[9i32, 9], [1, 9], [9, 2]]));
    }

    #[test]
    fn diagonals_of_matrices() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3, 4], [5, 6, 7, 8], [9, 8, 7, 6]]).unwrap();
        assert_eq!(eval(&x.unary("MatrixDiagPart").unwrap()), Tensor::from([1i32, 6, 7]));
        let part = |k: Tensor, align: &str| {
            let (k, p) = (g.constant(k).unwrap(), g.constant(0i32).unwrap());
            let node = g
                .op("MatrixDiagPartV3")
                .input(&x)
                .input(&k)
                .input(&p)
                .attr("align", align);
            eval(&node.output().unwrap())
        };
        assert_eq!(part(Tensor::from(1i32), "RIGHT_LEFT"), Tensor::from([2i32, 7, 6]));
        let want = |rows: [[i32; 3]; 3]| Tensor::from(rows);
        assert_eq!(
            part(Tensor::from([0i32, 2]), "LEFT_LEFT"),
            want([[3, 8, 0], [2, 7, 6], [1, 6, 7]])
        );
        assert_eq!(
            part(Tensor::from([0i32, 2]), "RIGHT_LEFT"),
            want([[0, 3, 8], [2, 7, 6], [1, 6, 7]])
        );
        let below = part(Tensor::from([-2i32, -1]), "RIGHT_RIGHT");
        assert_eq!(below, Tensor::from([[5i32, 8], [0, 9]]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(diag_v3([1i32, 2], 0i32, [1, -1], "LEFT_LEFT").is_err());
        assert!(diag_v3([1i32, 2], 0i32, [3, 3], "LEFT_LEFT").is_err());
        assert!(diag_v3([1i32, 2], [0i32, 1], [-1, -1], "LEFT_LEFT").is_err());
        let g = Graph::new();
        let x = g
            .placeholder("x", actorflow_core::DType::F32, PartialShape::UNKNOWN)
            .unwrap();
        let y = x.unary("MatrixDiagPart").unwrap();
        let run = crate::testing::Interpreter::default();
        assert!(run.run(&[y], &[], &[(x, Tensor::from([1f32]))]).is_err());
        let s = g
            .op("PlaceholderWithDefault")
            .input(&g.constant([["a"; 2]; 2].map(|_| 1f32)).unwrap());
        let s = s.attr("shape", PartialShape::UNKNOWN).output().unwrap();
        let k = g.constant(1i32).unwrap();
        let zero = g.constant(0f32).unwrap();
        let part = g
            .op("MatrixDiagPartV3")
            .input(&s)
            .input(&k)
            .input(&zero)
            .output()
            .unwrap();
        assert!(fails(&part).message().contains("2-dim"));
    }
}
