//! `Reshape`, `ExpandDims`, `Squeeze`: other shapes of the same elements; nothing is copied.

use actorflow_core::error::{Error, Result};
use actorflow_core::gradient::{Grad, GradContext};
use actorflow_core::graph::ShapeContext;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::shape::resolve_axis;
use actorflow_core::{DType, PartialShape, Shape, register_ops};
use smallvec::SmallVec;

use super::support::{Light, inserted, inserted_partial, int_scalar, int_vector, shape_of};

/// The gradient in the shape of the input.
fn back(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let shape = shape_of(&cx.input(0)?, DType::I32)?;
    let dx = cx.dense(dys, 0)?.reshape_to(&shape)?;
    let mut all = vec![None; cx.num_inputs()];
    all[0] = Some(dx.into());
    Ok(all)
}

/// The shape that `want` means for the elements of a tensor of shape `from`; one dimension may be -1.
fn resolve(want: &[i64], from: &[usize]) -> Result<Shape> {
    let count: usize = from.iter().product();
    let mut dims: SmallVec<[usize; 8]> = SmallVec::new();
    let mut open = None;
    let mut known: usize = 1;
    for (i, &d) in want.iter().enumerate() {
        match usize::try_from(d) {
            Ok(d) => {
                known = known.checked_mul(d).ok_or_else(|| {
                    Error::invalid(format!(
                        "the requested shape {want:?} has more elements than fit 64 bits"
                    ))
                })?;
                dims.push(d);
            }
            Err(_) if d == -1 && open.is_none() => {
                open = Some(i);
                dims.push(1);
            }
            Err(_) if d == -1 => {
                return Err(Error::invalid(format!(
                    "the requested shape {want:?} has more than one -1"
                )));
            }
            Err(_) => {
                return Err(Error::invalid(format!(
                    "dimension {i} of the requested shape is {d}; it must be at least -1"
                )));
            }
        }
    }
    let wrong = || {
        Error::invalid(format!(
            "input to reshape is a tensor with {count} values, but the requested shape {want:?} {}",
            if open.is_some() {
                format!("requires a multiple of {known}")
            } else {
                format!("has {known}")
            }
        ))
    };
    match open {
        // As TensorFlow: zeros are left out on both sides, and what does not come out even is rounded down.
        Some(i) if known == 0 && count == 0 => {
            let others = |dims: &mut dyn Iterator<Item = usize>| {
                let product = dims.filter(|d| *d != 0).try_fold(1usize, usize::checked_mul);
                product.ok_or_else(wrong)
            };
            let asked = others(&mut want.iter().filter_map(|d| usize::try_from(*d).ok()))?;
            dims[i] = others(&mut from.iter().copied())? / asked;
        }
        Some(_) if known == 0 => return Err(wrong()),
        Some(i) if count.is_multiple_of(known) => dims[i] = count / known,
        None if count == known => {}
        _ => return Err(wrong()),
    }
    let shape = Shape::new(&dims);
    if shape.rank() > actorflow_core::shape::MAX_RANK {
        return Err(Error::invalid(format!("rank {} is too high", shape.rank())));
    }
    shape.checked_count()?;
    Ok(shape)
}

pub(crate) fn reshape_shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    let (from, want) = (cx.input(0), cx.constant_shape(1)?);
    let count = from.count();
    let dims: Option<Vec<usize>> = from.dims().and_then(|dims| dims.iter().copied().collect());
    if let (Some(dims), Some(w)) = (dims, cx.constant_i64s(1)) {
        return Ok(vec![PartialShape::from(resolve(&w, &dims)?)]);
    }
    let Some(dims) = want.dims() else {
        return Ok(vec![PartialShape::UNKNOWN]);
    };
    // Whether the one open dimension is a -1 or not known yet, the element count decides it.
    let open: Vec<usize> = (0..dims.len()).filter(|i| dims[*i].is_none()).collect();
    let known: Option<usize> = dims.iter().flatten().try_fold(1usize, |n, d| n.checked_mul(*d));
    Ok(vec![match (count, known, &open[..]) {
        (Some(n), Some(k), [i]) if k != 0 && n.is_multiple_of(k) => want.with_dim(*i, Some(n / k)),
        (Some(n), Some(k), [_]) if k != 0 => {
            return Err(Error::invalid(format!("{n} elements cannot be reshaped to {want}")));
        }
        _ => want,
    }])
}

/// The shape that input 1 asks for, for the elements of input 0.
///
/// # Errors
/// `INVALID_ARGUMENT` if they do not fit each other.
pub(crate) fn requested(cx: &OpContext<'_>) -> Result<Shape> {
    let want = cx.input(1)?;
    if want.shape().rank() != 1 {
        return Err(Error::invalid(format!(
            "the shape must be a vector, got shape {}",
            want.shape()
        )));
    }
    resolve(&int_vector(want, "shape")?, cx.input(0)?.shape().dims())
}

fn reshape() -> OpDef {
    OpDef::new("Reshape", Category::Array)
        .doc("The same elements in another shape, of which one dimension may be -1: what is left. Copies nothing.")
        .input("tensor: T")
        .input("shape: Tshape")
        .output("output: T")
        .attr("T: type")
        .attr("Tshape: {int32, int64} = DT_INT32")
        .shape(reshape_shape)
        .gradient(back)
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let shape = requested(cx)?;
                let x = cx.take_input(0)?;
                cx.set_output(0, x.reshape(shape)?);
                Ok(())
            })))
        })
        .sample(|s| {
            let x = s.normal([2, 6])?;
            let shape = s.constant([3i32, -1])?;
            s.op("Reshape").input(&x).input(&shape).finish()
        })
}

fn expand_dims() -> OpDef {
    OpDef::new("ExpandDims", Category::Array)
        .doc("A new axis of length 1 before axis `dim`; -1 is after the last. Copies nothing.")
        .input("input: T")
        .input("dim: Tdim")
        .output("output: T")
        .attr("T: type")
        .attr("Tdim: {int32, int64} = DT_INT32")
        .shape(|cx| {
            let x = cx.input(0);
            Ok(vec![match (x.rank(), cx.constant_i64(1)) {
                (Some(r), Some(d)) => inserted_partial(&x, resolve_axis(d, r + 1)?, Some(1)),
                (Some(r), None) => PartialShape::of_rank(r + 1),
                _ => PartialShape::UNKNOWN,
            }])
        })
        .gradient(back)
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                let dim = int_scalar(cx.input(1)?, "dim")?;
                let x = cx.take_input(0)?;
                let at = resolve_axis(dim, x.shape().rank() + 1)?;
                let shape = inserted(x.shape(), at, 1);
                cx.set_output(0, x.reshape(shape)?);
                Ok(())
            })))
        })
        .sample(|s| {
            let x = s.normal([2, 3])?;
            let dim = s.constant(-2i32)?;
            s.op("ExpandDims").input(&x).input(&dim).finish()
        })
}

/// The dimensions that stay; all of length 1 go if `axes` is empty.
fn squeezed<D: Copy + PartialEq>(
    dims: &[D],
    axes: &[i64],
    one: impl Fn(D) -> bool,
    maybe: impl Fn(D) -> bool,
) -> Result<Vec<D>> {
    let mut gone = vec![false; dims.len()];
    for &a in axes {
        let a = resolve_axis(a, dims.len())?;
        if !maybe(dims[a]) {
            return Err(Error::invalid(format!(
                "cannot squeeze dimension {a}: it is not of length 1"
            )));
        }
        gone[a] = true;
    }
    let keep = |i: usize| if axes.is_empty() { !one(dims[i]) } else { !gone[i] };
    Ok((0..dims.len()).filter(|i| keep(*i)).map(|i| dims[i]).collect())
}

fn squeeze() -> OpDef {
    OpDef::new("Squeeze", Category::Array)
        .doc("Without the axes `squeeze_dims`, which must be of length 1; without all such axes if none is named.")
        .input("input: T")
        .output("output: T")
        .attr("T: type")
        .attr("squeeze_dims: list(int) >= 0 = []")
        .shape(|cx| {
            let axes = cx.attrs().ints("squeeze_dims")?;
            Ok(vec![match cx.input(0).dims() {
                // Which axes go is not known while a length is not.
                Some(d) if axes.is_empty() && d.iter().any(Option::is_none) => PartialShape::UNKNOWN,
                Some(d) => PartialShape::new(squeezed(d, &axes, |d| d == Some(1), |d| d.is_none_or(|d| d == 1))?),
                None => PartialShape::UNKNOWN,
            }])
        })
        .gradient(back)
        .cpu(|init| {
            let axes = init.attrs.ints("squeeze_dims")?;
            Ok(Box::new(Light(move |cx: &mut OpContext<'_>| {
                let x = cx.take_input(0)?;
                let dims = squeezed(x.shape().dims(), &axes, |d| d == 1, |d| d == 1)?;
                cx.set_output(0, x.reshape(dims)?);
                Ok(())
            })))
        })
        .sample(|s| {
            let x = s.normal([1, 3, 1])?;
            s.op("Squeeze").input(&x).attr("squeeze_dims", vec![-1i64]).finish()
        })
}

register_ops!(reshape, expand_dims, squeeze);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, DType, Graph, PartialShape, Tensor};

    #[test]
    fn an_open_dimension_is_inferred_when_the_graph_is_built() {
        let g = Graph::new();
        let x = g.placeholder("x", DType::F32, [4, 6]).unwrap();
        assert_eq!(x.reshape(&[-1, 8]).unwrap().shape(), PartialShape::from([3, 8]));
        assert!(x.reshape(&[-1, 7]).is_err() && x.reshape(&[-1, -1]).is_err() && x.reshape(&[-2]).is_err());
        let y = g.placeholder("y", DType::F32, [None, Some(6)]).unwrap();
        assert_eq!(
            y.reshape(&[-1, 2]).unwrap().shape(),
            PartialShape::from([None, Some(2)])
        );
    }

    #[test]
    fn zeros_are_left_out_where_the_open_dimension_of_nothing_is_inferred() {
        let g = Graph::new();
        for (from, want, shape) in [
            (&[0, 3][..], &[-1, 0][..], &[3, 0][..]),
            (&[0, 3], &[0, -1], &[0, 3]),
            (&[2, 0, 3], &[-1, 0], &[6, 0]),
            (&[2, 0, 3], &[0, -1, 2], &[0, 3, 2]),
            (&[2, 0, 3], &[0, -1, 4], &[0, 1, 4]),
            (&[0], &[-1, 0, 0], &[1, 0, 0]),
            (&[0, 3], &[-1, 7], &[0, 7]),
        ] {
            let x = g.constant(Tensor::zeros(DType::F32, from).unwrap()).unwrap();
            let y = x.reshape(want).unwrap();
            assert_eq!(y.shape(), PartialShape::from(shape), "{from:?} as {want:?}");
            assert_eq!(eval(&y).shape().dims(), shape);
        }
        let x = g.constant(Tensor::vector(&[1f32; 6])).unwrap();
        assert!(x.reshape(&[-1, 0]).is_err());
    }

    #[test]
    fn reshape_shares_the_buffer_and_names_both_sizes() {
        let g = Graph::new();
        let x = g.constant(Tensor::vector(&[1f32; 12])).unwrap();
        assert_eq!(eval(&x.reshape(&[3, -1]).unwrap()).shape().dims(), [3, 4]);
        let shape = g
            .op("Fill")
            .input(&g.constant([1i32]).unwrap())
            .input(&g.constant(7i32).unwrap());
        let late = g
            .op("PlaceholderWithDefault")
            .input(&shape.output().unwrap())
            .attr("shape", PartialShape::UNKNOWN);
        let e = fails(&x.reshape_to(&late.output().unwrap()).unwrap());
        assert_eq!(e.code(), Code::InvalidArgument);
        assert!(
            e.message().contains("12 values") && e.message().contains("has 7"),
            "{e}"
        );
    }

    #[test]
    fn axes_of_length_one_come_and_go() {
        let g = Graph::new();
        let x = g.constant([[1i32, 2, 3]]).unwrap();
        assert_eq!(x.expand_dims(-1).unwrap().shape(), PartialShape::from([1, 3, 1]));
        assert_eq!(x.squeeze(&[]).unwrap().shape(), PartialShape::from([3]));
        assert_eq!(eval(&x.squeeze(&[0]).unwrap()), Tensor::from([1i32, 2, 3]));
        assert!(x.squeeze(&[1]).is_err() && x.squeeze(&[2]).is_err() && x.expand_dims(4).is_err());
    }
}
